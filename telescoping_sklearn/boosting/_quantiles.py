"""Quantiles of groups of values, as weights of the one or two values that define each of them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: Rank of the larger of the two values and its weight, from the weights of a group in increasing order of values.
WeightedRank = Callable[[NDArray, float], tuple[int, float]]
#: The same without weights, from the numbers of values of all groups.
Ranks = Callable[[NDArray, float], tuple[NDArray, NDArray]]


def linear_ranks(counts: NDArray, alpha: float) -> tuple[NDArray, NDArray]:
    """Rank of the larger of the two values in their group, in increasing order, and its weight.

    It is counted from the largest of the c values, at rank (c - 1) (1 - alpha), as LightGBM does.
    """
    below_largest = (counts - 1) * (1.0 - alpha)
    whole = np.floor(below_largest)
    upper, share = counts - 1 - whole, 1.0 - (below_largest - whole)
    return np.maximum(upper, 0), np.where(upper >= 1, share, 1.0)


def quantile_weights(
    values: NDArray,
    groups: NDArray,
    weights: NDArray | None,
    alpha: float,
    weighted_rank: WeightedRank,
    ranks: Ranks = linear_ranks,
) -> NDArray:
    """Weights of the values in the quantile of their group, (n_values,): one or two of each group are not zero.

    They sum to 1 in every group. Among equal values, the first counts as the smallest. Libraries differ in the quantile
    of weighted values, ``weighted_rank``, and in that of others, ``ranks``: linear interpolation if not given.
    """
    order = np.lexsort((values, groups))
    counts = np.bincount(groups)
    counts = counts[counts > 0]
    firsts = np.cumsum(counts) - counts
    if weights is None:
        upper, share = ranks(counts, alpha)
    else:
        of_groups = np.split(weights[order], firsts[1:])
        upper, share = np.array([weighted_rank(of_group, alpha) for of_group in of_groups]).T
    found = np.zeros(len(values))
    found[order[firsts + upper.astype(np.intp)]] = share
    two = share != 1
    found[order[(firsts + upper.astype(np.intp))[two] - 1]] = 1 - share[two]
    return found
