"""LightGBM: the parameters it takes, the rows it can be given, how it is called, and how a fitted booster is read.

- `_parameters`, `_objectives`: parameters of the estimator, and the loss of each objective.
- `_rows`, `_categories`, `_fit_record`: what a fit is given, checked and kept.
- `_training`, `_placement`: calling LightGBM, and checking that it put rows where its predictions put them.
- `_reading`: the fitted booster as a `LeafEnsemble`. It uses `_tree_text` (the model's text), `_bagging` (which rows a
  tree saw), `_replay` (training predictions, bit for bit), and `_newton_leaves` or `_quantile_leaves` (leaf values).
- `_fitted`: boosters that were fitted elsewhere.
"""

from lightgbm import Booster

from telescoping_sklearn.boosting.libraries.lightgbm._categories import ColumnCategories
from telescoping_sklearn.boosting.libraries.lightgbm._fit_record import (
    FitRecord,
    refuse_changes,
    refuse_lone_validation,
)
from telescoping_sklearn.boosting.libraries.lightgbm._fitted import read, recognises
from telescoping_sklearn.boosting.libraries.lightgbm._objectives import SQUARED_ERROR_NAMES, non_quadratic_loss
from telescoping_sklearn.boosting.libraries.lightgbm._parameters import (
    LightGBMParameters,
    refuse_unknown_columns,
    refuse_unsupported,
)
from telescoping_sklearn.boosting.libraries.lightgbm._reading import LightGBMTrees
from telescoping_sklearn.boosting.libraries.lightgbm._rows import (
    Rows,
    label_shift,
    lost_in_float32,
    refuse_trained,
    refuse_validation,
)
from telescoping_sklearn.boosting.libraries.lightgbm._training import Watch, count_stages, first_trees, fit_booster

__all__ = [
    "SQUARED_ERROR_NAMES",
    "Booster",
    "ColumnCategories",
    "FitRecord",
    "LightGBMParameters",
    "LightGBMTrees",
    "Rows",
    "Watch",
    "count_stages",
    "first_trees",
    "fit_booster",
    "label_shift",
    "lost_in_float32",
    "non_quadratic_loss",
    "read",
    "recognises",
    "refuse_changes",
    "refuse_lone_validation",
    "refuse_trained",
    "refuse_unknown_columns",
    "refuse_unsupported",
    "refuse_validation",
]
