"""Exact sums over all kernel weights, and their diagonal, in the space of leaves: no n x n array, no probes.

The values of the leaves in response to unit labels are W = M X with M = (I + R C)^{-1} R, X = B^q - b A, b = B^h 1 and
A the start's label weights (`_leaf_space`). With G = W W^T, a = W A^T and K the number of query rows that leaves share,
tree t adds to the sum of all squared weights

    2 c_t . a_t + 2 sum_{s < t} <K_ts, G_ts> + c_t . diag(G_tt),        c_t = diag(K_tt),

and sum_{s <= t} M[leaf_t(i), leaf_s(i)] b^q_is - (M b)[leaf_t(i)] A_i to the weight of row i in its own prediction.
Every matrix is leaves x leaves, so a million rows cost one count of every pair of trees.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._leaf_carriers import LeafCarrier
from telescoping_sklearn.boosting._leaf_space import StageRates, TreeGroup, offsets_of, row_blocks, shared_weight

#: Matrices of leaves x leaves that are held at once.
MATRICES_HELD = 6
#: Rows whose own weights are looked up at once.
_ROWS_AT_ONCE = 4096


class LeafMoments:
    """Moments of the kernel weights of an ensemble, after each tree.

    Parameters
    ----------
    carrier : LeafCarrier
        The ensemble with all trees in one group.
    """

    def __init__(self, carrier: LeafCarrier):
        (self._group,) = carrier.groups
        self._ensemble, self._rates = carrier.ensemble, carrier.rates
        self._offsets = offsets_of(self._ensemble.n_leaves)

    def squared_weights(self, leaves: NDArray) -> NDArray:
        """Sum of ||s_t(x)||^2 over query rows after every tree.

        Parameters
        ----------
        leaves : ndarray of int of shape (n_stages, n_query)
            Leaf of every query row in every tree.

        Returns
        -------
        ndarray of shape (n_stages,)
            The sums.
        """
        group, ensemble = self._group, self._ensemble
        shared = self._rows_shared(leaves)
        gram, on_start, of_start = self._grams
        added = 2.0 * _by_tree(group, (shared * gram).sum(axis=1))
        for t in range(ensemble.n_stages):
            own = slice(self._offsets[t], self._offsets[t + 1])
            counts = np.bincount(leaves[t], minlength=ensemble.n_leaves[t])
            added[t] += counts @ (2.0 * on_start[own] + gram.diagonal()[own])
        return leaves.shape[1] * of_start + np.cumsum(added)

    def traces(self) -> NDArray:
        """Sum of the weights of the rows trained on in their own predictions after every tree, (n_stages,)."""
        ensemble, group, rates = self._ensemble, self._group, self._rates
        shared = self._coupling_with_diagonal() if rates.shared else self._count(_ones, rates.labels)
        unit, on_start = self._inverse
        added = (shared * unit).sum(axis=1) - on_start * self._sums(_ones, ensemble.start_weights)
        return ensemble.start_weights.sum() + np.cumsum(_by_tree(group, added))

    def staged_own_weights(self) -> Iterator[NDArray]:
        """Yield the diagonal of S over the training rows, (n_train,), after every tree; zero off the rows trained."""
        ensemble, (unit, on_start) = self._ensemble, self._inverse
        own_weights = ensemble.start_weights.copy()
        entries = [self._rates.labels(stage) for stage in range(1, ensemble.n_stages + 1)]
        for t in range(ensemble.n_stages):
            own, width = slice(self._offsets[t], self._offsets[t + 1]), int(self._offsets[t + 1])
            of_tree = np.ascontiguousarray(unit[own, :width])
            for block in row_blocks(len(own_weights), _ROWS_AT_ONCE):
                own_leaves = ensemble.leaves[t, block].astype(np.intp)
                found = np.zeros(len(own_leaves))
                for s in range(t + 1):
                    weight = of_tree.ravel().take(own_leaves * width + self._offsets[s] + ensemble.leaves[s, block])
                    entry = entries[s]
                    found += weight if entry is None else weight * entry[block]
                own_weights[block] += found - on_start[own][own_leaves] * ensemble.start_weights[block]
            yield own_weights.copy()

    @cached_property
    def _inverse(self) -> tuple[NDArray, NDArray]:
        """M, and M b."""
        unit = self._group.solve(np.eye(self._group.n_leaves))
        return unit, unit @ self._sums(self._rates.feedback)

    @cached_property
    def _grams(self) -> tuple[NDArray, NDArray, float]:
        """G = W W^T, W A^T and A A^T."""
        ensemble, rates, group = self._ensemble, self._rates, self._group
        lower = self._coupling_with_diagonal() if rates.ones else self._count(rates.labels, rates.labels)
        label_gram = lower + np.tril(lower, -1).T
        del lower
        start, total = ensemble.start_weights, self._sums(rates.feedback)
        label_start, of_start = self._sums(rates.labels, start), float(start @ start)
        label_gram -= np.outer(label_start, total)
        label_gram -= np.outer(total, label_start - of_start * total)
        half = group.solve(label_gram)
        on_start = group.solve((label_start - of_start * total)[:, None])[:, 0]
        return group.solve(np.ascontiguousarray(half.T)), on_start, of_start

    def _rows_shared(self, leaves: NDArray) -> NDArray:
        """Rows that leaves of different trees share, below the diagonal."""
        if self._rates.ones and leaves is self._ensemble.leaves:
            return self._group.coupling
        stages = slice(0, self._ensemble.n_stages)
        return shared_weight(leaves, self._ensemble.n_leaves, _ones, stages=stages)

    def _count(self, left: StageRates, right: StageRates) -> NDArray:
        stages = slice(0, self._ensemble.n_stages)
        return shared_weight(self._ensemble.leaves, self._ensemble.n_leaves, left, right, stages=stages)

    def _coupling_with_diagonal(self) -> NDArray:
        """C, which is counted already, and what it has on its diagonal: rows share a leaf of a tree with themselves."""
        return np.diag(self._sums(self._rates.feedback)) + self._group.coupling

    def _sums(self, entries: StageRates, values: NDArray | None = None) -> NDArray:
        """Sum entries, times values where given, over every leaf, (n_leaves,)."""
        sums = []
        for stage in range(1, self._ensemble.n_stages + 1):
            weights = entries(stage)
            weights = np.ones(len(self._ensemble.row_weights)) if weights is None else weights
            sums.append(self._ensemble.leaf_sums(stage, weights if values is None else weights * values))
        return np.concatenate(sums)


def _ones(stage: int) -> None:
    """Rows of weight one."""


def _by_tree(group: TreeGroup, of_leaf: NDArray) -> NDArray:
    """Sum a quantity of the leaves over every tree."""
    return np.add.reduceat(of_leaf, group.offsets[:-1])
