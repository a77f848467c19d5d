"""CatBoost: fitted models, in memory or loaded from ``.cbm`` files, on their training rows.

- `_saved`: the settings that a model holds, and those that are refused.
- `_columns`: rows as the user has them, as arrays that CatBoost takes.
- `_objectives`: the loss of each objective.
- `_trees`: how CatBoost predicts with the model.
- `_leaves`: leaf values as affine functions of the labels.

A leaf is learning rate * G / (H + l2_leaf_reg * sum(w) / n), with the sums G and H of negative gradients and hessians
of all its rows: bags, noise and orders of rows affect the structure only. Tested with CatBoost 1.2.10.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError

from telescoping_sklearn.boosting.libraries import ReadModel, has_base
from telescoping_sklearn.boosting.libraries.catboost._columns import Columns
from telescoping_sklearn.boosting.libraries.catboost._leaves import (
    GrownTrees,
    newton_ensemble,
    quantile_ensemble,
    weight_clues,
)
from telescoping_sklearn.boosting.libraries.catboost._objectives import Objective
from telescoping_sklearn.boosting.libraries.catboost._saved import SavedModel, refuse_unsupported
from telescoping_sklearn.boosting.libraries.catboost._trees import CatBoostTrees

#: Gap that rounding explains, as a multiple of float32's precision times the largest label: labels are kept in it.
_ROUNDING = 4.0
#: Share of the spread of the labels that this may reach.
_MOST_LOST = 1e-2


def recognises(model: Any) -> bool:
    """Whether a model is an estimator or another model of CatBoost."""
    return has_base(model, "catboost", {"CatBoost"})


def read(model: Any, X: Any, y: NDArray, sample_weight: NDArray | None, output: Any = None) -> ReadModel:
    """Read a fitted model of CatBoost on its training rows.

    Parameters
    ----------
    model : catboost.CatBoost
        The fitted model.
    X : array-like of shape (n_train, n_features)
        Training rows: an array, or a DataFrame.
    y : ndarray of shape (n_train,)
        Labels, in the units of the model; of a classifier, its classes.
    sample_weight : ndarray of shape (n_train,) or None
        Weights that the model was fitted with, without those of classes.
    output : object, default=None
        For a classifier the second class, whose raw score it is, or None.

    Returns
    -------
    ReadModel
        The model on its training rows.

    Raises
    ------
    ValueError
        If the weights of the labels are not known with a setting of the model, or the rows or labels cannot be those
        that it was fitted on.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.
    """
    if not model.is_fitted():
        raise NotFittedError(f"This {type(model).__name__} is not fitted. Fit it first, or load a fitted one.")
    saved = SavedModel(model)
    refuse_unsupported(saved)
    objective = Objective(saved.loss_name, saved.loss_params, saved.params["leaf_estimation_method"])
    labels = _labels(saved, objective, y, output)
    columns = Columns(saved)
    rows = columns.encode(X)
    weights = np.ones(len(labels)) if sample_weight is None else sample_weight.astype(np.float32).astype(np.float64)
    of_classes = _class_weights(saved, objective, labels)
    weights = weights * of_classes
    trees = CatBoostTrees(saved, rows, objective.link)
    grown = GrownTrees(
        leaves=trees.training_leaves,
        values=trees.values,
        labels=labels,
        row_weights=weights,
        start=saved.start,
        learning_rate=float(saved.params["learning_rate"]),
        ridge=float(saved.params["l2_leaf_reg"]) * float(weights.mean()),
        classes_weighted=bool((of_classes != 1).any()),
    )
    from_labels = bool(saved.params["boost_from_average"])
    if objective.quantile is None:
        ensemble = newton_ensemble(grown, objective, from_labels)
    else:
        ensemble = quantile_ensemble(grown, objective.quantile, objective.delta, from_labels)
    return ReadModel(
        ensemble=ensemble,
        trees=trees,
        rows=rows,
        y=labels if objective.binary else y,
        prepare=columns.encode,
        rounding=_rounding(y, objective, len(grown.values)),
        link=objective.link,
        clues=() if objective.quantile is not None else weight_clues(grown, trees.leaf_weights),
        clues_refuse=True,
        squared_error=objective.name == "RMSE",
    )


def _labels(saved: SavedModel, objective: Objective, y: NDArray, output: Any) -> NDArray:
    """Labels as CatBoost keeps them, 0 and 1 for two classes; raise where the model cannot have been fitted on them."""
    classes = saved.classes
    if classes:
        if output is not None and output != classes[1]:
            raise ValueError(
                f"output={output!r} has no score of its own: the model has one score, that of class {classes[1]!r}. "
                f"Use output={classes[1]!r} or None."
            )
        unknown = ~np.isin(y, classes)
        if unknown.any():
            raise ValueError(f"y has the label {y[unknown][0]!r}, which is not one of the classes {classes}.")
        return (y == classes[1]).astype(np.float64)
    if output is not None:
        raise ValueError(f"output={output!r} chooses a class, and this model has one output. Use None.")
    labels = y.astype(np.float32).astype(np.float64)
    if not np.isfinite(labels).all():
        raise ValueError(f"y has absolute values up to {np.abs(y).max():.3g}, which float32 does not hold.")
    if objective.loss is not None and not objective.loss.covers(labels):
        raise ValueError(
            f"The model was fitted with loss_function={objective.name!r}, which takes {objective.loss.takes}; y runs "
            f"from {y.min()} to {y.max()}. Give the labels that it was fitted on, in its units."
        )
    return labels


def _class_weights(saved: SavedModel, objective: Objective, labels: NDArray) -> NDArray:
    """Weights of the rows' classes."""
    of_classes = saved.params.get("class_weights") or []
    if not len(of_classes) or not objective.binary:
        return np.ones(len(labels))
    return np.asarray(of_classes, dtype=np.float64)[labels.astype(np.intp)]


def _rounding(y: NDArray, objective: Objective, n_trees: int) -> float:
    """Gap that float32 labels explain; trees of quantiles do not correct it."""
    if objective.binary or (objective.loss is not None and objective.link is not None):
        return 0.0
    uncertain = _ROUNDING * float(np.finfo(np.float32).eps * np.abs(y).max())
    if uncertain > _MOST_LOST * y.std() and y.std() > 0:
        raise ValueError(
            f"y has absolute values up to {np.abs(y).max():.3g} and a standard deviation of {y.std():.3g}: CatBoost "
            f"keeps labels in float32, which leaves an uncertainty of {uncertain:.3g}. Fit the model on labels that "
            "are centred, for example y - y.mean()."
        )
    return uncertain if objective.quantile is None else uncertain * (1 + float(np.sqrt(n_trees)))
