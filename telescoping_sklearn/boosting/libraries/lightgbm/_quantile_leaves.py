"""Leaves that are quantiles of residuals, and the rows that define them.

Under ``regression_l1``, ``quantile`` and ``mape`` LightGBM grows a tree on gradients, and then sets the value of each
leaf to the learning rate times a quantile of the residuals in it: a mean of one or two residuals, with weights a and
1 - a. Ridge, penalty, clipping and smoothing affect the structure of the tree only. With these weights as entries of
B_t, and the learning rate as R_t, such leaves follow the algebra of all others, and so does the start.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn.boosting._ensemble import InfluenceTerms, LeafEnsemble, SparseWeights
from telescoping_sklearn.boosting.libraries.lightgbm._replay import GrownTrees


class QuantileLoss(NamedTuple):
    """A loss minimised by the quantile of level ``alpha``; ``relative`` divides row weights by max(1, |y|)."""

    alpha: float
    relative: bool = False

    def row_weights(self, labels: NDArray, sample_weight: NDArray | None) -> NDArray | None:
        """Weights in the quantile, (n_rows,), in LightGBM's float32; None for the unweighted quantile.

        LightGBM uses the unweighted formula where all weights are 1.
        """
        weights: NDArray | None = None
        if sample_weight is not None and np.any(sample_weight != 1):
            weights = sample_weight.astype(np.float32)
        if self.relative:
            sizes = np.maximum(np.float32(1), np.abs(labels.astype(np.float32)))
            weights = np.float32(1) / sizes * (np.float32(1) if weights is None else weights)
        return None if weights is None else weights.astype(np.float64)

    def start_weights(self, labels: NDArray, sample_weight: NDArray | None) -> NDArray:
        """Return A in f_0 = A y, the quantile of all labels, (n_rows,), for labels in LightGBM's float32."""
        groups = np.zeros(len(labels), dtype=np.intp)
        return quantile_weights(labels, groups, self.row_weights(labels, sample_weight), self.alpha)


def quantile_weights(values: NDArray, groups: NDArray, weights: NDArray | None, alpha: float) -> NDArray:
    """Weights of the values in the quantile of their group, (n_values,): one or two of each group are not zero.

    They sum to 1 in every group. Among equal values, the first counts as the smallest. LightGBM's unweighted formula is
    used where ``weights`` is None.
    """
    order = np.lexsort((values, groups))
    counts = np.bincount(groups)
    counts = counts[counts > 0]
    firsts = np.cumsum(counts) - counts
    if weights is None:
        upper, share = _ranks(counts, alpha)
    else:
        of_groups = np.split(weights[order], firsts[1:])
        upper, share = np.array([_weighted_rank(of_group, alpha) for of_group in of_groups]).T
    found = np.zeros(len(values))
    found[order[firsts + upper.astype(np.intp)]] = share
    two = share != 1
    found[order[(firsts + upper.astype(np.intp))[two] - 1]] = 1 - share[two]
    return found


def _ranks(counts: NDArray, alpha: float) -> tuple[NDArray, NDArray]:
    """Rank of the larger of the two values in their group, in increasing order, and its weight.

    LightGBM counts from the largest of the c values: it interpolates at rank (c - 1) (1 - alpha).
    """
    below_largest = (counts - 1) * (1.0 - alpha)
    whole = np.floor(below_largest)
    upper, share = counts - 1 - whole, 1.0 - (below_largest - whole)
    return np.maximum(upper, 0), np.where(upper >= 1, share, 1.0)


def _weighted_rank(weights: NDArray, alpha: float) -> tuple[int, float]:
    """Rank of the larger of the two values and its weight, from the weights of a group in increasing order of values.

    Take the first rank at which the cumulative weight exceeds alpha times the total. LightGBM interpolates with the
    value before it if the weight at that rank is at least 1, and takes the value before it otherwise.
    """
    last = len(weights) - 1
    if last == 0:
        return 0, 1.0
    sums = np.cumsum(weights)
    threshold = sums[-1] * alpha
    place = min(int(np.searchsorted(sums, threshold, side="right")), last)
    if place in (0, last):
        return place, 1.0
    step = sums[place] - sums[place - 1]
    return (place, float((threshold - sums[place - 1]) / step)) if step >= 1.0 else (place - 1, 1.0)


def quantile_ensemble(
    grown: GrownTrees, loss: QuantileLoss, sample_weight: NDArray | None, learning_rate: float
) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are quantiles; ``sample_weight`` is that of all training rows."""
    labels, weights_given = grown.labels[grown.given], None if sample_weight is None else sample_weight[grown.given]
    start, weights = np.zeros(len(grown.labels)), None
    start[grown.given] = loss.start_weights(labels, weights_given)
    if (in_quantile := loss.row_weights(labels, weights_given)) is not None:
        weights = np.zeros(len(start))
        weights[grown.given] = in_quantile
    of_stages = []
    for stage, residuals in enumerate(grown.staged_residuals(start @ grown.labels), start=1):
        rows = grown.rows_of(stage)
        found = np.zeros((1, len(start)))
        found[0, rows] = quantile_weights(
            residuals[rows], grown.leaves[stage - 1, rows], None if weights is None else weights[rows], loss.alpha
        )
        of_stages.append(sparse.csr_array(found))
    taken = sparse.vstack(of_stages, format="csr")
    return LeafEnsemble(
        leaves=grown.leaves,
        n_leaves=grown.n_leaves,
        row_weights=grown.row_weights,
        trained=(grown.row_weights > 0) | (start != 0) | (taken.count_nonzero(axis=0) > 0),
        start_weights=start,
        # A tree of one leaf is the start alone.
        rates=[np.full(n_leaves, learning_rate * (n_leaves > 1)) for n_leaves in grown.n_leaves],
        weights_by_stage=SparseWeights(taken),
        influence_terms=InfluenceTerms(learning_rate=learning_rate, start=np.zeros(len(start)), counts=0.0),
    )
