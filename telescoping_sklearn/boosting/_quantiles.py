"""Quantiles of groups of values, as weights of the one or two values that define each of them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: Rank of the larger of the two values and its weight, from the weights of a group in increasing order of values.
WeightedRank = Callable[[NDArray, float], tuple[int, float]]


def quantile_weights(
    values: NDArray, groups: NDArray, weights: NDArray | None, alpha: float, weighted_rank: WeightedRank
) -> NDArray:
    """Weights of the values in the quantile of their group, (n_values,): one or two of each group are not zero.

    They sum to 1 in every group. Among equal values, the first counts as the smallest. Without weights the c values of
    a group are interpolated linearly at rank (c - 1) alpha; libraries differ in the quantile of weighted values,
    ``weighted_rank``.
    """
    order = np.lexsort((values, groups))
    counts = np.bincount(groups)
    counts = counts[counts > 0]
    firsts = np.cumsum(counts) - counts
    if weights is None:
        upper, share = _ranks(counts, alpha)
    else:
        of_groups = np.split(weights[order], firsts[1:])
        upper, share = np.array([weighted_rank(of_group, alpha) for of_group in of_groups]).T
    found = np.zeros(len(values))
    found[order[firsts + upper.astype(np.intp)]] = share
    two = share != 1
    found[order[(firsts + upper.astype(np.intp))[two] - 1]] = 1 - share[two]
    return found


def _ranks(counts: NDArray, alpha: float) -> tuple[NDArray, NDArray]:
    """Rank of the larger of the two values in their group, in increasing order, and its weight.

    It is counted from the largest of the c values, at rank (c - 1) (1 - alpha), as LightGBM does.
    """
    below_largest = (counts - 1) * (1.0 - alpha)
    whole = np.floor(below_largest)
    upper, share = counts - 1 - whole, 1.0 - (below_largest - whole)
    return np.maximum(upper, 0), np.where(upper >= 1, share, 1.0)
