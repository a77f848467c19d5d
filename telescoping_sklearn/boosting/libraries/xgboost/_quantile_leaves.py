"""Leaves that are quantiles of residuals, under ``reg:absoluteerror`` and ``reg:quantileerror``.

XGBoost grows a tree on gradients, and then sets the value of each leaf to the learning rate times a quantile of the
residuals in it, one residual or a mean of two. Predictions and residuals are replayed in XGBoost's float32, since
comparisons decide which rows define the quantile. The ridge, the penalty and the limit do not affect these values.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn.boosting._ensemble import LeafEnsemble, SparseWeights
from telescoping_sklearn.boosting.libraries.xgboost._saved import GrownTrees, SavedModel


def quantile_weights(values: NDArray, groups: NDArray, weights: NDArray | None, alpha: float) -> NDArray:
    """Weights of the values in the quantile of their group, (n_values,): one or two of each group are not zero.

    They sum to 1 in every group that has values. Among equal values, the first counts as the smallest.

    Parameters
    ----------
    values, groups : ndarray of shape (n_values,)
        Values, and the group of each.
    weights : ndarray of shape (n_values,) or None
        Weights; None for XGBoost's unweighted formula.
    alpha : float
        Level of the quantile.

    Examples
    --------
    >>> quantile_weights(np.array([3.0, 1.0, 2.0, 4.0]), np.zeros(4, int), None, 0.5)
    array([0.5, 0. , 0.5, 0. ])
    """
    order = np.lexsort((values, groups))
    counts = np.bincount(groups)
    counts = counts[counts > 0]
    firsts = np.cumsum(counts) - counts
    if weights is None:
        lower, share = _ranks(counts, alpha)
    else:
        lower, share = _weighted_ranks(weights[order], firsts, counts, alpha), np.zeros(len(counts))
    found = np.zeros(len(values))
    found[order[firsts + lower]] = 1 - share
    two = share > 0
    found[order[(firsts + lower)[two] + 1]] = share[two]
    return found


def _ranks(counts: NDArray, alpha: float) -> tuple[NDArray, NDArray]:
    """Rank of the smaller of the two values in a group of c, counted from 0, and the weight of the larger.

    The quantile is interpolated at rank alpha (c + 1), counted from 1, and is the least or largest value beyond them.
    """
    place = np.clip(alpha * (counts + 1.0) - 1, 0, counts - 1)
    lower = np.floor(place).astype(np.intp)
    return lower, place - lower


def _weighted_ranks(weights: NDArray, firsts: NDArray, counts: NDArray, alpha: float) -> NDArray:
    """Rank of the first value at which the sum of weights reaches alpha of the whole, in float32 as in XGBoost."""
    found = np.empty(len(counts), dtype=np.intp)
    for group, (first, count) in enumerate(zip(firsts, counts, strict=True)):
        sums = np.cumsum(weights[first : first + count].astype(np.float32), dtype=np.float32)
        threshold = np.float32(sums[-1] * alpha)
        found[group] = min(int(np.searchsorted(sums, threshold)), count - 1)
    return found


def quantile_ensemble(
    grown: GrownTrees, alpha: float, weighted: bool, start: NDArray | None, saved: SavedModel
) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are quantiles.

    Parameters
    ----------
    grown : GrownTrees
        The trees on the training rows.
    alpha : float
        Level of the quantile.
    weighted : bool
        Whether sample weights are given.
    start : ndarray of shape (n_train,) or None
        Weights of the labels in the start; None for the quantile of all labels.
    saved : SavedModel
        The model.
    """
    labels, n_rows = grown.labels.astype(np.float32), len(grown.labels)
    given = start is not None
    weights = _weights_of_formula(grown, labels, alpha, weighted)
    if start is None:
        start = quantile_weights(labels, np.zeros(n_rows, dtype=np.intp), weights, alpha)
    prediction = np.full(n_rows, grown.start, dtype=np.float32)
    told = float(saved.told("learning_rate"))
    rates, of_stages = [], []
    for leaves, values in zip(grown.leaves, grown.values, strict=True):
        residuals = labels - prediction
        taken = quantile_weights(residuals, leaves, weights, alpha)
        own = _learning_rate(np.bincount(leaves, taken * residuals, len(values)), values)
        rates.append(np.full(len(values), told if own is None else own))
        of_stages.append(sparse.csr_array(taken[None]))
        prediction = prediction + values.astype(np.float32)[leaves]
    stacked = sparse.vstack(of_stages, format="csr")
    return LeafEnsemble(
        leaves=grown.leaves,
        n_leaves=grown.n_leaves,
        row_weights=grown.row_weights,
        trained=(grown.row_weights > 0) | (start != 0) | (stacked.count_nonzero(axis=0) > 0),
        start_weights=start,
        start_offset=grown.start if given else 0.0,
        rates=rates,
        weights_by_stage=SparseWeights(stacked),
    )


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


def _learning_rate(quantiles: NDArray, values: NDArray) -> float | None:
    """Learning rate of a tree, with which quantiles give its leaf values; None where none does."""
    if len(values) == 1 or not quantiles.any():
        return None
    own = float(quantiles @ values / (quantiles @ quantiles))
    return own if np.abs(own * quantiles - values).max() <= 1e-5 * np.abs(values).max() else None
