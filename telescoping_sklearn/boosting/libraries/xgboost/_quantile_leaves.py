"""Leaves that are quantiles of residuals, under ``reg:absoluteerror`` and ``reg:quantileerror``.

XGBoost grows a tree on gradients, and then sets the value of each leaf to the learning rate times a quantile of the
residuals in it, one residual or a mean of two. Predictions and residuals are replayed in XGBoost's float32, since
comparisons decide which rows define the quantile. The ridge, the penalty and the limit do not affect these values.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn.boosting import _quantiles
from telescoping_sklearn.boosting._ensemble import InfluenceTerms, LeafEnsemble, SparseWeights
from telescoping_sklearn.boosting.libraries.xgboost._saved import GrownTrees, SavedModel

#: Smallest learning rate that is taken for one, rather than for rounding.
_LEAST_RATE = 1e-5


def _ranks(counts: NDArray, alpha: float) -> tuple[NDArray, NDArray]:
    """Rank of the larger of the two values in a group of c, counted from 0, and its weight.

    XGBoost interpolates at rank alpha (c + 1), counted from 1, and takes the least or the largest value beyond them.
    """
    place = np.clip(alpha * (counts + 1.0) - 1, 0, counts - 1)
    upper = np.ceil(place)
    return upper, np.where(upper > place, place - (upper - 1), 1.0)


def _weighted_rank(weights: NDArray, alpha: float) -> tuple[int, float]:
    """Rank of the first value at which the sum of weights reaches alpha of the whole, in XGBoost's float32; and 1."""
    sums = np.cumsum(weights.astype(np.float32), dtype=np.float32)
    return min(int(np.searchsorted(sums, np.float32(sums[-1] * alpha))), len(sums) - 1), 1.0


def quantile_weights(values: NDArray, groups: NDArray, weights: NDArray | None, alpha: float) -> NDArray:
    """Weights of the values in XGBoost's quantile of their group, (n_values,); see `_quantiles`.

    Examples
    --------
    >>> quantile_weights(np.array([3.0, 1.0, 2.0, 4.0]), np.zeros(4, int), None, 0.5)
    array([0.5, 0. , 0.5, 0. ])
    """
    return _quantiles.quantile_weights(values, groups, weights, alpha, _weighted_rank, _ranks)


def quantile_ensemble(grown: GrownTrees, alpha: float, weighted: bool, saved: SavedModel) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are quantiles.

    Parameters
    ----------
    grown : GrownTrees
        The trees on the training rows.
    alpha : float
        Level of the quantile.
    weighted : bool
        Whether sample weights are given.
    saved : SavedModel
        The model.

    Raises
    ------
    ValueError
        If leaves were not set to quantiles.
    """
    labels, n_rows = grown.labels.astype(np.float32), len(grown.labels)
    weights = _weights_of_formula(grown, labels, alpha, weighted)
    start = np.zeros(n_rows)
    if saved.start_from_labels:
        start = quantile_weights(labels, np.zeros(n_rows, dtype=np.intp), weights, alpha)
    prediction = np.full(n_rows, grown.start, dtype=np.float32)
    quantiles, of_stages = [], []
    for leaves, values in zip(grown.leaves, grown.values, strict=True):
        residuals = labels - prediction
        taken = quantile_weights(residuals, leaves, weights, alpha)
        quantiles.append(np.bincount(leaves, taken * residuals, len(values)))
        of_stages.append(sparse.csr_array(taken[None]))
        prediction = prediction + values.astype(np.float32)[leaves]
    stacked = sparse.vstack(of_stages, format="csr")
    explained = _learning_rate(np.concatenate(quantiles), np.concatenate(grown.values))
    if saved.told("tree_method") == "exact" or (explained is None and _are_steps(saved)):
        raise ValueError(
            f"tree_method='exact' is not supported with objective={saved.objective['name']!r}: XGBoost does not set "
            "its leaves to quantiles, and their values are steps of a size that labels do not change. Fit with "
            "tree_method='hist'."
        )
    learning_rates = _learning_rates(quantiles, grown.values, saved)
    return LeafEnsemble(
        leaves=grown.leaves,
        n_leaves=grown.n_leaves,
        row_weights=grown.row_weights,
        trained=(grown.row_weights > 0) | (start != 0) | (stacked.count_nonzero(axis=0) > 0),
        start_weights=start,
        start_offset=0.0 if saved.start_from_labels else grown.start,
        rates=[np.full(len(values), rate) for rate, values in zip(learning_rates, grown.values, strict=True)],
        influence_terms=InfluenceTerms(learning_rate=learning_rates[0], start=np.zeros(n_rows), counts=0.0),
        weights_by_stage=SparseWeights(stacked),
    )


def _are_steps(saved: SavedModel) -> bool:
    """Whether leaf values are proportional to the Newton steps of their growth, and so were not set afterwards."""
    values, steps = (np.concatenate([getattr(tree, name) for tree in saved.trees]) for name in ("values", "steps"))
    if len(values) < 2 or not steps.any():
        return False
    rate = steps @ values / (steps @ steps)
    return bool(rate > _LEAST_RATE and np.abs(rate * steps - values).max() <= 1e-5 * np.abs(values).max())


def _weights_of_formula(grown: GrownTrees, labels: NDArray, alpha: float, weighted: bool) -> NDArray | None:
    """Row weights, or None for XGBoost's unweighted formula.

    XGBoost uses its weighted formula wherever a fit was given weights, also equal ones. Equal weights may be left out
    or given here; the first tree then shows which formula it was.
    """
    weights, leaves, values = grown.row_weights, grown.leaves[0], grown.values[0]
    if np.ptp(weights) > 0:
        return weights
    residuals = labels - np.float32(grown.start)

    def explains(formula: NDArray | None) -> bool:
        taken = quantile_weights(residuals, leaves, formula, alpha)
        return _learning_rate(np.bincount(leaves, taken * residuals, len(values)), values) is not None

    asked, other = (weights, None) if weighted else (None, weights)
    return asked if explains(asked) or not explains(other) else other


def _learning_rates(quantiles: list[NDArray], values: list[NDArray], saved: SavedModel) -> list[float]:
    """Learning rates of all trees: one for all, or that of each where a schedule changed it; else that told."""
    told = float(saved.told("learning_rate"))
    whole = _learning_rate(np.concatenate(quantiles), np.concatenate(values))
    if whole is not None:
        return [whole] * len(values)
    own = [_learning_rate(*of_tree) for of_tree in zip(quantiles, values, strict=True)]
    return [told if rate is None else rate for rate in own]


def _learning_rate(quantiles: NDArray, values: NDArray) -> float | None:
    """Learning rate with which quantiles give leaf values, which a file does not hold; None where none does."""
    if len(values) == 1 or not quantiles.any():
        return None
    own = float(quantiles @ values / (quantiles @ quantiles))
    return own if np.abs(own * quantiles - values).max() <= 1e-5 * np.abs(values).max() else None
