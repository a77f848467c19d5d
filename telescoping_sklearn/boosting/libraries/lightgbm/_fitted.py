"""Boosters that were fitted elsewhere, by LightGBM's estimators or `lightgbm.train`, or loaded from a file.

Settings are read from the model's own text, so that a booster from a file is read as one that was just fitted.
"""

import re
from collections.abc import Mapping
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_array, check_is_fitted

from telescoping_sklearn.boosting._ensemble import LeafEnsemble, RowSets
from telescoping_sklearn.boosting.libraries import ReadModel, has_base, refuse_row_count
from telescoping_sklearn.boosting.libraries.lightgbm._bagging import BagDraws, find_bags, stack_bags
from telescoping_sklearn.boosting.libraries.lightgbm._categories import ColumnCategories
from telescoping_sklearn.boosting.libraries.lightgbm._newton_leaves import newton_ensemble
from telescoping_sklearn.boosting.libraries.lightgbm._objectives import (
    OBJECTIVES,
    SQUARED_ERROR_NAMES,
    SoftmaxOfClass,
    huber_width,
    non_quadratic_loss,
    quantile_loss,
)
from telescoping_sklearn.boosting.libraries.lightgbm._quantile_leaves import quantile_ensemble
from telescoping_sklearn.boosting.libraries.lightgbm._reading import LightGBMTrees
from telescoping_sklearn.boosting.libraries.lightgbm._replay import GrownTrees
from telescoping_sklearn.boosting.libraries.lightgbm._rows import lost_in_float32
from telescoping_sklearn.boosting.libraries.lightgbm._tree_text import (
    TreeText,
    bins_of_categories,
    node_ridges,
    parse_trees,
    text_parameter,
)
from telescoping_sklearn.losses import NonQuadraticLoss

#: Share of the spread of the labels that their rounding to float32 may reach.
_MOST_LOST = 1e-2
#: Parameters that leaf values depend on: our names by LightGBM's.
_NUMBERS = {
    "learning_rate": "learning_rate",
    "lambda_l2": "reg_lambda",
    "lambda_l1": "reg_alpha",
    **{
        name: name
        for name in (
            *("max_delta_step", "path_smooth", "cat_l2", "max_cat_to_onehot", "alpha", "fair_c"),
            *("poisson_max_delta_step", "tweedie_variance_power"),
        )
    },
}
#: Parameters of which one value alone is supported, that value in the text, and what is wrong with others.
_ONE_VALUE = {
    "boosting": ("gbdt", "dart changes earlier trees, and rf and goss select or average rows in other ways"),
    "data_sample_strategy": ("bagging", "goss selects rows by their gradients, which is not linear in the labels"),
    "monotone_constraints": ("", "values of constrained leaves depend on other leaves"),
    "linear_tree": ("0", "the weights of linear leaves are not known"),
    "use_quantized_grad": ("0", "rounded gradients are not linear in the labels"),
    "reg_sqrt": ("0", "the loss is that of the square roots; train on them instead"),
    "is_unbalance": ("0", "rows are weighted by class inside; give sample_weight to fit instead"),
    "scale_pos_weight": ("1", "rows are weighted by class inside; give sample_weight to fit instead"),
    "sigmoid": ("1", "the logistic function is scaled"),
}
#: The same, for models with bags.
_ONE_VALUE_WITH_BAGS = {
    "pos_bagging_fraction": ("1", "bags drawn by class cannot be drawn again"),
    "neg_bagging_fraction": ("1", "bags drawn by class cannot be drawn again"),
    "bagging_by_query": ("0", "bags of queries cannot be drawn again"),
}


def recognises(model: Any) -> bool:
    """Whether a model is a Booster or an estimator of LightGBM."""
    return has_base(model, "lightgbm", {"Booster", "LGBMModel"})


def read(model: Any, X: Any, y: NDArray, sample_weight: NDArray | None, output: Any = None) -> ReadModel:
    """Read a fitted model on its training rows; see `telescoping_sklearn.boosting.libraries`.

    Raises
    ------
    ValueError
        If a setting is not supported, or the rows cannot be those of the model.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.
    """
    booster = _booster(model)
    n_stages = booster.current_iteration()
    if booster.best_iteration > 0:
        n_stages = min(n_stages, booster.best_iteration)
    text = booster.model_to_string(num_iteration=n_stages)
    params, n_scores = _parameters(text), booster.num_model_per_iteration()
    score, labels = _labels(model, y, output, _classes(model, n_scores, params))
    sample_weight = _with_class_weights(model, y, sample_weight)
    _refuse_smoothing(params, sample_weight)
    prepare = BoosterColumns(booster, X)
    rows = prepare(X)
    trees, texts = LightGBMTrees(booster, n_stages, None, score=score, n_scores=n_scores), list(parse_trees(text))
    grown, clues = _grown(texts[score::n_scores], trees.find_leaves(rows), labels[score], sample_weight, text)
    loss = non_quadratic_loss(params) if n_scores == 1 else SoftmaxOfClass(n_scores)
    others = _other_scores(trees, texts, rows, grown, labels, loss, params) if loss is not None else []
    params["boost_from_average"] = _is_start_learnt(params, grown.trees)
    return ReadModel(
        ensemble=_ensemble(grown, loss, others, params, text),
        trees=trees,
        rows=rows,
        y=labels[score],
        prepare=prepare,
        rounding=_rounding(labels[score]),
        link=loss.mean if loss is not None and n_scores == 1 else None,
        clues=clues,
        squared_error=params["objective"] in SQUARED_ERROR_NAMES,
    )


def _rounding(labels: NDArray) -> float:
    """Return the gap that rounding of the labels to float32 explains; refuse labels that it takes apart."""
    uncertain = 4 * lost_in_float32(labels)
    if uncertain > _MOST_LOST * labels.std() and labels.std() > 0:
        raise ValueError(
            f"y has absolute values up to {np.abs(labels).max():.3g} and a standard deviation of {labels.std():.3g}: "
            f"LightGBM keeps labels in float32, which leaves an uncertainty of {uncertain:.3g}. Fit the model on "
            "labels that are centred, for example y - y.mean()."
        )
    return uncertain


def _booster(model: Any) -> lightgbm.Booster:
    if isinstance(model, lightgbm.Booster):
        return model
    check_is_fitted(model)
    return model.booster_


# -- settings ----------------------------------------------------------------------------------------------------------


def _parameters(text: str) -> dict[str, Any]:
    """Read the parameters in the text of a model; raise ValueError, naming it, for one that is not supported."""
    objective = text_parameter(text, "objective")
    if objective not in (*OBJECTIVES, "multiclass", "softmax"):
        raise ValueError(
            f"objective={objective!r} is not supported: leaf values must be Newton steps or quantiles of a known loss. "
            f"Supported are {', '.join(repr(name) for name in OBJECTIVES if name)} and 'multiclass'."
        )
    params: dict[str, Any] = {"objective": objective}
    for name, ours in _NUMBERS.items():
        params[ours] = float(text_parameter(text, name))
    params["bagged"] = float(text_parameter(text, "bagging_fraction")) < 1 and int(text_parameter(text, "bagging_freq"))
    for name, (supported, reason) in (_ONE_VALUE | (_ONE_VALUE_WITH_BAGS if params["bagged"] else {})).items():
        if f"[{name}: " not in text:
            continue  # earlier versions did not have it
        if (value := text_parameter(text, name)) != supported:
            raise ValueError(f"{name}={value} of this LightGBM model is not supported: {reason}.")
    params["boost_from_average"] = text_parameter(text, "boost_from_average") == "1"
    _refuse_changed_rate(text, params["learning_rate"])
    return params


def _refuse_changed_rate(text: str, learning_rate: float) -> None:
    """Raise ValueError where the learning rate changed in training; that of the first tree is not in the text."""
    rates = np.array([float(rate) for rate in re.findall(r"^shrinkage=(.*)$", text, re.MULTILINE)])
    if not np.isin(np.float32(rates), (np.float32(1), np.float32(learning_rate))).all():
        raise ValueError(
            f"learning_rate={learning_rate} of this LightGBM model changed during training, from "
            f"{rates.min():.6g} to {rates.max():.6g}. Train with one learning rate."
        )


def _refuse_smoothing(params: Mapping[str, Any], sample_weight: NDArray | None) -> None:
    unequal = sample_weight is not None and np.ptp(sample_weight) > 0
    smooth = params["path_smooth"] > 0 and quantile_loss(params) is None
    if smooth and (unequal or params["objective"] not in (*SQUARED_ERROR_NAMES, "huber")):
        raise ValueError(
            f"path_smooth={params['path_smooth']} is not supported with objective={params['objective']!r} and unequal "
            "sample_weight: LightGBM then smooths by row counts that it estimates from hessians."
        )


# -- rows, labels and classes ------------------------------------------------------------------------------------------


class BoosterColumns:
    """Turns rows into arrays as a booster does, categories of a frame with the codes of the training data.

    Parameters
    ----------
    booster : lightgbm.Booster
        The booster.
    X : array-like of shape (n_train, n_features)
        Training rows.
    """

    def __init__(self, booster: lightgbm.Booster, X: Any):
        self._n_features, known = booster.num_feature(), booster.pandas_categorical or []
        self._categories = ColumnCategories(X)
        dtypes = self._categories.dtypes
        if len(dtypes) != len(known):
            raise ValueError(
                f"X has {len(dtypes)} columns of categories, and the model was trained on {len(known)}. Give the frame "
                "that fit was given, with the same dtypes."
            )
        for (name, dtype), values in zip(list(dtypes.items()), known, strict=True):
            dtypes[name] = pd.CategoricalDtype(values, ordered=dtype.ordered)

    def __call__(self, X: Any) -> NDArray:
        """Return rows in float64, categories as codes."""
        names = self._categories.names
        if isinstance(X, pd.DataFrame) and names is not None and list(X.columns) != names:
            raise ValueError(
                f"X has the columns {list(X.columns)}, and the training rows have {names}. Give the same columns in "
                "the same order."
            )
        rows = check_array(self._categories.encode(X), dtype=np.float64, ensure_all_finite=False, input_name="X")
        if rows.shape[1] != self._n_features:
            raise ValueError(f"X has {rows.shape[1]} features, but the model is expecting {self._n_features} features.")
        return rows


def _classes(model: Any, n_scores: int, params: Mapping[str, Any]) -> list[Any] | None:
    """Classes of a classifier, in the order of its scores; None for other models."""
    if hasattr(model, "classes_"):
        return model.classes_.tolist()
    if n_scores > 1:
        return list(range(n_scores))
    return [0, 1] if params["objective"] == "binary" else None


def _with_class_weights(model: Any, y: NDArray, sample_weight: NDArray | None) -> NDArray | None:
    """Return the weights of the rows, those of their classes included."""
    class_weight = getattr(model, "class_weight", None)
    if class_weight is None:
        return sample_weight
    of_classes = compute_sample_weight(class_weight, y)
    return of_classes if sample_weight is None else sample_weight * of_classes


def _labels(model: Any, y: NDArray, output: Any, classes: list[Any] | None) -> tuple[int, list[NDArray]]:
    """Return the score that is explained, and the labels of every score, 0 and 1 for those of classes."""
    if classes is None:
        if output is not None:
            raise ValueError(
                f"output={output!r} chooses a class of a classifier; this {type(model).__name__} has one output."
            )
        return 0, [y]
    unknown = ~np.isin(y, classes)
    if unknown.any():
        raise ValueError(f"y has the label {y[unknown].tolist()[0]!r}, which is not one of the classes {classes}.")
    if output is not None and output not in classes:
        raise ValueError(f"output={output!r} is not one of the classes {classes}.")
    if len(classes) == 2:
        if output == classes[0]:
            raise ValueError(
                f"output={output!r} has no score of its own: a model of two classes has one score, that of "
                f"{classes[1]!r}. The score of the other is its negative; leave output out."
            )
        return 0, [(y == classes[1]).astype(np.float64)]
    if output is None:
        raise ValueError(f"The model has {len(classes)} classes: choose one of {classes} with output=.")
    return classes.index(output), [(y == of_class).astype(np.float64) for of_class in classes]


# -- trees -------------------------------------------------------------------------------------------------------------


def _grown(
    trees: list[TreeText], leaves: NDArray, labels: NDArray, sample_weight: NDArray | None, text: str
) -> tuple[GrownTrees, tuple[str, ...]]:
    """Collect the trees and what they were grown on; bags are drawn again where there were any."""
    n = len(labels)
    fraction, freq = float(text_parameter(text, "bagging_fraction")), int(text_parameter(text, "bagging_freq"))
    counts = [tree.leaf_count for tree in trees]
    bags: RowSets | None = None
    clues: tuple[str, ...] = ()
    if fraction < 1 and freq > 0:
        plan = BagDraws(fraction, freq, int(text_parameter(text, "bagging_seed")), grown=None)
        try:
            bags = stack_bags([find_bags(plan, leaves, counts)], np.arange(n), n)
        except ValueError as error:
            raise ValueError(
                f"bagging_fraction={fraction:g} of this LightGBM model: the bags drawn again do not fill the leaves as "
                "training did. Rows are others than those of the fit or in another order, or the model was trained in "
                "several parts. Give X, y and sample_weight exactly as fit was given them, or train with "
                "bagging_fraction=1."
            ) from error
    else:
        split = next((of_tree for of_tree in counts if len(of_tree) > 1), None)
        if split is not None:
            refuse_row_count(int(split.sum()), n)
        clues = _other_leaves(leaves, counts)
    row_weights = np.ones(n) if sample_weight is None else sample_weight.astype(np.float32).astype(np.float64)
    kept = labels.astype(np.float32).astype(np.float64)
    return GrownTrees(trees, leaves, kept, row_weights, np.ones(n, dtype=bool), bags), clues


def _other_leaves(leaves: NDArray, counts: list[NDArray]) -> tuple[str, ...]:
    """Say where the rows given do not fill leaves as training did."""
    for stage, (in_leaves, expected) in enumerate(zip(leaves, counts, strict=True), start=1):
        found = np.bincount(in_leaves, minlength=len(expected))
        if len(expected) > 1 and (found != expected).any():
            first = np.flatnonzero(found != expected)[0]
            return (
                f"training put {expected[first]} rows into leaf {first} of tree {stage}, and the rows given put "
                f"{found[first]} there: they are other rows, or LightGBM bundled columns that are not exclusive (train "
                "with enable_bundle=False)",
            )
    return ()


def _ensemble(
    grown: GrownTrees, loss: NonQuadraticLoss | None, others: list[Any], params: Mapping[str, Any], text: str
) -> LeafEnsemble:
    if (quantile := quantile_loss(params)) is not None:
        weights = None if (grown.row_weights == 1).all() else grown.row_weights
        return quantile_ensemble(grown, quantile, weights, params["learning_rate"], params["boost_from_average"])
    many = bins_of_categories(text) > params["max_cat_to_onehot"]
    ridges = [node_ridges(tree, many, params["reg_lambda"], params["cat_l2"]) for tree in grown.trees]
    return newton_ensemble(grown, ridges, loss, huber_width(params), params, others)


def _is_start_learnt(params: Mapping[str, Any], trees: list[TreeText]) -> bool:
    """Whether labels set the start: LightGBM also learns it where the first tree has no split."""
    return params["boost_from_average"] or trees[0].n_leaves == 1


def _other_scores(
    trees: LightGBMTrees,
    texts: list[TreeText],
    rows: NDArray,
    grown: GrownTrees,
    labels: list[NDArray],
    loss: NonQuadraticLoss,
    params: Mapping[str, Any],
) -> list[tuple[float, NDArray, list[NDArray]]]:
    """Return the starts, leaves and leaf values of the other classes; those of first trees without the start."""
    found = []
    for score in set(range(trees.n_scores)) - {trees.score}:
        own = texts[score :: trees.n_scores]
        raw = loss.start(grown.row_weights, labels[score])[0] if _is_start_learnt(params, own) else 0.0
        values = [tree.leaf_value - (0.0 if stage else raw) for stage, tree in enumerate(own)]
        found.append((raw, trees.of_score(score).find_leaves(rows), values))
    return found
