"""Scorers for telescoping estimators, bare or nested, and the relative gap between two models.

The scorers have scikit-learn's signature ``scorer(estimator, X, y)`` and can be passed to ``scoring=`` of
`cross_validate` and of searches. They describe a model and do not judge it: larger is not better.

A scorer raises an error where its score does not exist for a model. `cross_validate` and searches then enter
``error_score``, NaN unless set, and show the error in a warning; with ``error_score="raise"`` they stop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import check_is_fitted

from telescoping_sklearn._telescope import NotASmootherError, UnstableResponseError
from telescoping_sklearn._unwrap import unwrap
from telescoping_sklearn.base import BaseTelescopingEstimator, RecordDroppedError

__all__ = [
    "RelativeGap",
    "effective_params_scorer",
    "find_telescoping_estimator",
    "kernel_norm_ratio_scorer",
    "relative_gap",
]


def find_telescoping_estimator(estimator: Any, X: Any) -> tuple[BaseTelescopingEstimator, Any]:
    """Find the telescoping estimator inside fitted pipelines, target transformers and searches.

    The search checks types only and reads no fitted attribute of the estimator itself.

    Parameters
    ----------
    estimator : estimator
        A fitted telescoping estimator, or a `Pipeline`, `TransformedTargetRegressor` or search that holds one, nested
        in any way.
    X : array-like of shape (n_query, n_features) or None
        Query rows as the outermost estimator takes them; None to find only the estimator.

    Returns
    -------
    estimator : BaseTelescopingEstimator
        The estimator found.
    X : array-like of shape (n_query, n_transformed) or None
        The rows as that estimator sees them.

    Raises
    ------
    TypeError
        If there is no telescoping estimator.
    sklearn.exceptions.NotFittedError
        If an estimator on the way is not fitted.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from telescoping_sklearn import TelescopingGBTRegressor
    >>> X, y = make_friedman1(100, random_state=0)
    >>> pipe = make_pipeline(StandardScaler(), TelescopingGBTRegressor(n_estimators=5)).fit(X, y)
    >>> trees, seen = find_telescoping_estimator(pipe, X)
    >>> trees.kernel_weights(seen).shape
    (100, 100)
    """
    found = unwrap(estimator)
    if isinstance(found.model, BaseTelescopingEstimator):
        check_is_fitted(found.model)
        return found.model, None if X is None else found.rows(X)
    raise TypeError(
        f"No telescoping estimator in {type(found.model).__name__}: pass a TelescopingMLPRegressor or "
        "TelescopingGBTRegressor, bare or inside a Pipeline, a TransformedTargetRegressor or a search; or what "
        "telescope(model, X, y) makes of another fitted model."
    )


def effective_params_scorer(estimator: Any, X: Any, y: Any = None) -> float:
    """Effective parameters of a fitted model on the rows given; larger is not better.

    Parameters
    ----------
    estimator : estimator
        As in `find_telescoping_estimator`.
    X : array-like of shape (n_query, n_features)
        Query rows.
    y : object, default=None
        Ignored: effective parameters need no labels of the query.

    Returns
    -------
    float
        p, exact where that is cheap and estimated elsewhere.

    Raises
    ------
    ValueError
        If the model has no effective parameters: its loss is not the squared error, its response is unstable, or it
        keeps no record of its fit.
    """
    return _score("effective_params_scorer", estimator, X, lambda found, seen: found.effective_params(seen))


def kernel_norm_ratio_scorer(estimator: Any, X: Any, y: Any = None) -> float:
    """Kernel norm ratio of a fitted model on the rows given; larger is not better.

    Parameters
    ----------
    estimator : estimator
        As in `find_telescoping_estimator`.
    X : array-like of shape (n_query, n_features)
        Query rows.
    y : object, default=None
        Ignored: kernels need no labels of the query.

    Returns
    -------
    float
        Above 1, the largest kernel norm, averaged over stages, is larger at these rows than at the rows trained on.
        For boosted trees it is at most 1 whatever the rows are.

    Raises
    ------
    ValueError
        If the model keeps no record of its fit.
    """
    return _score("kernel_norm_ratio_scorer", estimator, X, lambda found, seen: found.kernel_norm_ratio(seen))


def _score(name: str, estimator: Any, X: Any, ask: Callable[[Any, Any], float]) -> float:
    """Ask the telescoping estimator; where no answer exists, name the scorer, the model and what to do instead."""
    found, seen = find_telescoping_estimator(estimator, X)
    try:
        return ask(found, seen)
    except UnstableResponseError as error:
        raise ValueError(f"{name} has no score for this {type(found).__name__}: {error}") from error
    except (RecordDroppedError, NotASmootherError) as error:
        if isinstance(error, RecordDroppedError):
            reason = "it keeps only what predict needs: it was fitted with record=False, or its record was dropped"
            way_out = "Set record=True and keep the record"
        else:
            reason = "effective parameters exist for squared error only"
            way_out = "Fit squared error, score with kernel_norm_ratio_scorer, which takes every loss"
        model = f"this {type(found).__name__}"
        raise ValueError(
            f"{name} has no score for {model}: {reason}. {way_out}, or remove {name} from scoring=."
        ) from error


class RelativeGap(NamedTuple):
    """A relative gap, or why there is none.

    Attributes
    ----------
    value : float
        The gap; nan where it is not defined.
    reason : str
        Why it is not defined; empty where it is.
    """

    value: float
    reason: str


def relative_gap(
    net_error: float,
    tree_error: float,
    net_error_regular: float,
    tree_error_regular: float,
    *,
    baseline_se: float = 0.0,
    names: tuple[str, str] = ("net", "trees"),
) -> RelativeGap:
    """Gap between a net and trees on a test set, relative to their gap on regular rows.

    (MSE_net^q - MSE_trees^q) / (MSE_net^0 - MSE_trees^0). It means nothing where the gap on regular rows is near zero,
    or where the other model wins on the test set: there it is nan, with the reason.

    Parameters
    ----------
    net_error, tree_error : float
        Errors on the test set.
    net_error_regular, tree_error_regular : float
        Errors on regular rows, q = 0.
    baseline_se : float, default=0.0
        Standard error of the gap on regular rows; a gap within two of them is noise.
    names : tuple of (str, str), default=("net", "trees")
        What the reason calls the two models.

    Returns
    -------
    RelativeGap
        The gap, or nan and the reason.

    Examples
    --------
    >>> relative_gap(1.0, 0.5, 0.5, 0.25)
    RelativeGap(value=2.0, reason='')
    >>> relative_gap(0.9, 0.5, 0.301, 0.300, baseline_se=0.01).reason
    'gap at q=0 within noise: 0.001 +- 0.01'
    """
    gap, baseline = net_error - tree_error, net_error_regular - tree_error_regular
    near_zero = 1e-2 * min(abs(net_error_regular), abs(tree_error_regular))
    if not np.isfinite(gap) or not np.isfinite(baseline):
        return RelativeGap(np.nan, "an error is not finite")
    if abs(baseline) <= 2 * baseline_se:
        return RelativeGap(np.nan, f"gap at q=0 within noise: {baseline:.2g} +- {baseline_se:.2g}")
    if abs(baseline) <= near_zero:
        return RelativeGap(np.nan, f"gap at q=0 near zero: {baseline:.2g}")
    if gap * baseline < 0:
        here, there = names if gap < 0 else names[::-1]
        return RelativeGap(np.nan, f"the gap changes sign: lower error here {here}, at q=0 {there}")
    return RelativeGap(float(gap / baseline), "")
