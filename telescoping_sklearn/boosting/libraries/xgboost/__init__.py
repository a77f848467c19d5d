"""XGBoost: fitted models, in memory or loaded from ``.json`` and ``.ubj`` files, on their training rows.

- `_saved`: the model as XGBoost writes it, and the settings that are refused.
- `_columns`: rows as the user has them, as arrays of numbers.
- `_objectives`: the loss and the start of each objective.
- `_trees`: how XGBoost predicts with the model.
- `_newton_leaves`, `_quantile_leaves`: leaf values as affine functions of the labels.

A file holds the trees, the objective and the start, and no other setting. The ridge, the learning rate, the penalty and
the limit of leaf values are then found from the values of the leaves. A ridge that the model holds is kept.
Tested with XGBoost 3.2.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._ensemble import LeafEnsemble
from telescoping_sklearn.boosting.libraries import ReadModel, has_base
from telescoping_sklearn.boosting.libraries.xgboost._columns import Columns
from telescoping_sklearn.boosting.libraries.xgboost._newton_leaves import newton_ensemble
from telescoping_sklearn.boosting.libraries.xgboost._objectives import Objective, find_objective
from telescoping_sklearn.boosting.libraries.xgboost._quantile_leaves import quantile_ensemble
from telescoping_sklearn.boosting.libraries.xgboost._saved import (
    GrownTrees,
    SavedModel,
    open_booster,
    refuse_unsupported,
    weight_clues,
)
from telescoping_sklearn.boosting.libraries.xgboost._trees import XGBoostTrees

#: Gap that rounding explains, as a multiple of float32's precision times the largest number.
_ROUNDING = 8.0
#: Share of the spread of the labels that their rounding to float32 may reach.
_MOST_LOST = 1e-2


def recognises(model: Any) -> bool:
    """Whether a model is an estimator or a Booster of XGBoost."""
    return has_base(model, "xgboost", {"XGBModel", "Booster"})


def read(model: Any, X: Any, y: NDArray, sample_weight: NDArray | None, output: Any = None) -> ReadModel:
    """Read a fitted model of XGBoost on its training rows.

    Parameters
    ----------
    model : xgboost.XGBModel or xgboost.Booster
        The fitted model. An estimator predicts with the trees up to its best iteration, a Booster with all of them.
    X : array-like of shape (n_train, n_features)
        Training rows: an array, or a DataFrame of numbers and categories.
    y : ndarray of shape (n_train,)
        Labels, in the units of the model.
    sample_weight : ndarray of shape (n_train,) or None
        Weights that the model was fitted with.
    output : object, default=None
        For a classifier 1, its only raw score, or None.

    Returns
    -------
    ReadModel
        The model on its training rows.

    Raises
    ------
    ValueError
        If the weights of the labels are not known with a setting of the model, or the rows, labels or weights cannot
        be those that it was fitted on.
    """
    booster = open_booster(model)
    saved = SavedModel(booster, model.get_params() if hasattr(model, "get_params") else {})
    refuse_unsupported(model, saved)
    objective = find_objective(saved.objective)
    _refuse_output(output, objective)
    columns = Columns(saved, getattr(model, "missing", np.nan), X)
    rows = columns.encode(X)
    trees = XGBoostTrees(booster, saved, has_link=objective.link is not None)
    labels = _as_kept(y, objective)
    weights = np.ones(len(y)) if sample_weight is None else sample_weight.astype(np.float32).astype(np.float64)
    grown = GrownTrees(
        leaves=trees.find_leaves(rows),
        values=[tree.values for tree in saved.trees],
        labels=labels,
        row_weights=weights * np.where(labels == 1, saved.scale_pos_weight, 1.0),
        start=saved.start,
    )
    clues = weight_clues(saved, grown, objective)
    if objective.quantile is None:
        ensemble = newton_ensemble(grown, saved, objective)
    else:
        ensemble = quantile_ensemble(grown, objective.quantile, sample_weight is not None, saved)
    return ReadModel(
        ensemble=ensemble,
        trees=trees,
        rows=rows,
        y=y if objective.loss is None else labels,
        prepare=columns.encode,
        rounding=_rounding(y, grown, objective, ensemble),
        link=objective.link,
        clues=clues,
        clues_refuse=True,
        squared_error=objective.name == "reg:squarederror",
    )


def _refuse_output(output: Any, objective: Objective) -> None:
    if output is not None and not (objective.binary and output == 1):
        only = "1 or None: the raw score of class 0 is its negative" if objective.binary else "None: there is only one"
        raise ValueError(f"output={output!r} is no output of a model with objective={objective.name!r}. Use {only}.")


def _as_kept(y: NDArray, objective: Objective) -> NDArray:
    """Labels as XGBoost keeps them, in float32; raise where the objective cannot have been fitted on them."""
    labels = y.astype(np.float32).astype(np.float64)
    if not np.isfinite(labels).all():
        raise ValueError(f"y has absolute values up to {np.abs(y).max():.3g}, which float32 does not hold.")
    covers: Callable[[NDArray], bool] | None = None if objective.loss is None else objective.loss.covers
    if objective.loss is not None and covers is not None and not covers(labels):
        raise ValueError(
            f"The model was fitted with objective={objective.name!r}, which takes {objective.loss.takes}; y runs from "
            f"{y.min()} to {y.max()}. Give the labels that it was fitted on, in its units."
        )
    return labels


def _rounding(y: NDArray, grown: GrownTrees, objective: Objective, ensemble: LeafEnsemble) -> float:
    """Gap that float32 explains: XGBoost keeps labels and raw scores in it."""
    eps, of_trees = float(np.finfo(np.float32).eps), 1 + float(np.sqrt(len(grown.values)))
    if objective.loss is not None:
        largest = 1 + abs(grown.start) + sum(float(np.abs(values).max()) for values in grown.values)
        return _ROUNDING * eps * largest * of_trees
    uncertain = _ROUNDING * eps * max(float(np.abs(y).max()), abs(grown.start))
    if uncertain > _MOST_LOST * y.std() and y.std() > 0:
        raise ValueError(
            f"y has absolute values up to {np.abs(y).max():.3g} and a standard deviation of {y.std():.3g}: XGBoost "
            f"keeps labels and predictions in float32, which leaves an uncertainty of {uncertain:.3g}. Fit the model "
            "on labels that are centred, for example y - y.mean()."
        )
    corrected = ensemble.same_rows and ensemble.constants is None  # later trees take up what earlier ones lost
    return uncertain if corrected else uncertain * of_trees
