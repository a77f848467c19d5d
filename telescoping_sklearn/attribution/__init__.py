"""Attribution of predictions to training rows: scores, measures by retraining, and studies that compare scores."""

from telescoping_sklearn.attribution._contenders import weights_times_labels, weights_times_residuals
from telescoping_sklearn.attribution._data import ATTRIBUTION_DATA, fetch_concrete, load_concrete
from telescoping_sklearn.attribution._measures import (
    Interval,
    bootstrap_interval,
    draw_subsets,
    leave_one_out_correlation,
    linear_datamodeling_score,
    mislabel_auc,
    removed_rows,
)
from telescoping_sklearn.attribution._net_contenders import ekfac, gauss_newton, tracin, trak
from telescoping_sklearn.attribution._report import summarise_attribution, tabulate_attribution
from telescoping_sklearn.attribution._runner import run_attribution
from telescoping_sklearn.attribution._study import AttributionStudy
from telescoping_sklearn.attribution._tree_contenders import (
    boostin,
    leaf_influence,
    leaf_influence_single_point,
    leaf_proximity,
)

__all__ = [
    "ATTRIBUTION_DATA",
    "AttributionStudy",
    "Interval",
    "boostin",
    "bootstrap_interval",
    "draw_subsets",
    "ekfac",
    "fetch_concrete",
    "gauss_newton",
    "leaf_influence",
    "leaf_influence_single_point",
    "leaf_proximity",
    "leave_one_out_correlation",
    "linear_datamodeling_score",
    "load_concrete",
    "mislabel_auc",
    "removed_rows",
    "run_attribution",
    "summarise_attribution",
    "tabulate_attribution",
    "tracin",
    "trak",
    "weights_times_labels",
    "weights_times_residuals",
]
