"""The space of leaves, where a group of consecutive trees is solved at once.

Stack the leaves of a group of trees. With P the membership of rows in leaves, and B^h and B^q the same with the rows'
weights times h and q as entries, the values v of the leaves in response to labels V, and to the response F of the trees
before the group, are the solution of a system that is lower triangular by tree,

    v_t = R_t (B^q_t V - B^h_t F - sum_{s < t in the group} C_ts v_s),    C_ts = B^h_t P_s^T,

and, where the offset is carried, plus c_t in its column.

C_ts is the weight of the rows that a leaf of tree t shares with a leaf of tree s. So a group touches the rows twice,
whatever the number of its trees: once for the sums, once to add the values. The transposed system carries queries back
to the labels. Nothing here is larger than leaves x leaves or leaves x columns.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn.boosting._ensemble import LeafEnsemble

#: Pairs of leaves that are numbered at once: their numbers stay in the caches.
_PAIRS_AT_ONCE = 65536
#: Trees whose leaves are counted at once against those of a later one: the counts stay in the caches.
_TREES_AT_ONCE = 16

#: Gives the weights of all rows in a stage, (n_rows,), or None for ones.
StageRates = Callable[[int], NDArray | None]


class RowRates:
    """What the rows of an ensemble weigh in its leaves.

    Parameters
    ----------
    ensemble : LeafEnsemble
        The ensemble.
    """

    def __init__(self, ensemble: LeafEnsemble):
        self._ensemble = ensemble
        #: Whether leaves sum residuals V - F: labels and response enter with the same weights, as with squared error.
        self.residuals = ensemble.fits_residuals
        #: Whether the response enters every stage with the same weights, and whether labels do too, as residuals.
        self.shared_feedback, self.shared = ensemble.same_feedback, ensemble.same_rows
        self._equal = bool(self.shared_feedback and np.all(ensemble.row_weights == 1))
        self.ones = self._equal and self.residuals

    def labels(self, stage: int) -> NDArray | None:
        """Entries of B^q in a stage, counted from 1; None stands for ones."""
        return None if self.ones else self._ensemble.label_weights(stage)

    def feedback(self, stage: int) -> NDArray | None:
        """Entries of B^h in a stage, counted from 1; None stands for ones."""
        return None if self._equal else self._ensemble.feedback_weights(stage)

    def labels_of(self, stages: slice) -> NDArray | None:
        """Entries of B^q in stages, given by their positions: (n_rows,) if they share them, else (n_stages, n_rows)."""
        return self._of(stages, self.labels, self.shared)

    def feedback_of(self, stages: slice) -> NDArray | None:
        """Entries of B^h in stages, given by their positions: (n_rows,) if they share them, else (n_stages, n_rows)."""
        return self._of(stages, self.feedback, self.shared_feedback)

    @staticmethod
    def _of(stages: slice, entries: StageRates, shared: bool) -> NDArray | None:
        if shared:
            return entries(stages.start + 1)
        found = (entries(stage + 1) for stage in range(stages.start, stages.stop))
        return np.stack([weights for weights in found if weights is not None])


def row_blocks(n_rows: int, size: int) -> Iterator[slice]:
    """Slices of consecutive rows, ``size`` of them in all but the last."""
    return (slice(first, min(first + size, n_rows)) for first in range(0, n_rows, size))


def offsets_of(n_leaves: NDArray) -> NDArray[np.intp]:
    """Where the leaves of each tree start among those of all, and their number, (n_trees + 1,)."""
    return np.concatenate([[0], np.cumsum(n_leaves)]).astype(np.intp)


def stacked(leaves: NDArray, offsets: NDArray, entries: NDArray | None = None) -> sparse.csr_array:
    """Membership of rows in the leaves of several trees.

    Parameters
    ----------
    leaves : ndarray of int of shape (n_trees, n_rows)
        Leaf of every row in every tree.
    offsets : ndarray of int of shape (n_trees + 1,)
        What `offsets_of` gives.
    entries : ndarray of shape (n_rows,) or (n_trees, n_rows), default=None
        The entries; ones if not given.

    Returns
    -------
    scipy.sparse.csr_array of shape (n_rows, n_leaves)
        P^T, one entry a row and tree.
    """
    n_trees, n_rows = leaves.shape
    indices = np.empty((n_rows, n_trees), dtype=np.int32)
    np.add(leaves.T, offsets[:-1].astype(np.int32), out=indices)
    if entries is None:
        data = np.ones(n_rows * n_trees)
    else:
        data = np.repeat(entries, n_trees) if entries.ndim == 1 else np.ascontiguousarray(entries.T).ravel()
    starts = np.arange(n_rows + 1, dtype=np.int32) * n_trees
    return sparse.csr_array((data, indices.ravel(), starts), shape=(n_rows, int(offsets[-1])))


def shared_weight(
    leaves: NDArray, n_leaves: NDArray, left: StageRates, right: StageRates | None = None, *, stages: slice
) -> NDArray:
    """Weight that leaves of different trees share, below the diagonal and, with ``right``, on it.

    Parameters
    ----------
    leaves : ndarray of int of shape (n_stages, n_rows)
        Leaf of every row in every tree of the ensemble.
    n_leaves : ndarray of int of shape (n_stages,)
        Leaves of every tree.
    left : callable
        Weights of rows in the later tree.
    right : callable, default=None
        Weights of rows in the earlier tree, which multiply those of the later; ones if not given.
    stages : slice
        Positions of the trees taken.

    Returns
    -------
    ndarray of shape (n_leaves_of_stages, n_leaves_of_stages)
        Block (t, s) is the sum of left_t right_s over rows in both leaves; zero above the diagonal blocks.
    """
    leaves, offsets = leaves[stages], offsets_of(n_leaves[stages])
    shared = np.zeros((offsets[-1], offsets[-1]))
    at_once = items_per_block(16.0 * leaves.shape[1], _TREES_AT_ONCE)
    for t, later in enumerate(leaves):
        own, weights = slice(offsets[t], offsets[t + 1]), left(stages.start + t + 1)
        for some in row_blocks(t if right is None else t + 1, at_once):
            starts, stop = offsets[some] - offsets[some.start], offsets[some.stop]
            both = weights
            if right is not None:
                both = _products(weights, [right(stages.start + s + 1) for s in range(some.start, some.stop)])
            shape = int(n_leaves[stages][t]), int(stop - offsets[some.start])
            shared[own, offsets[some.start] : stop] = _pair_sums(later, leaves[some], starts, shape, both)
    return shared


def _products(weights: NDArray | None, others: list[NDArray | None]) -> NDArray | None:
    """Multiply weights of rows by those in several trees, (n_trees, n_rows); None stands for ones."""
    if all(other is None for other in others):
        return weights
    products = np.stack([other for other in others if other is not None])
    return products if weights is None else np.multiply(products, weights, out=products)


def _pair_sums(
    rows: NDArray, columns: NDArray, starts: NDArray, shape: tuple[int, int], weights: NDArray | None
) -> NDArray:
    """Weight that leaves of one tree, (n_rows,), share with those of several, (n_trees, n_rows), stacked."""
    sums = np.zeros(shape[0] * shape[1])
    for block in row_blocks(len(rows), max(1, _PAIRS_AT_ONCE // len(columns))):
        pairs = columns[:, block] + starts[:, None]
        pairs += rows[block] * np.intp(shape[1])
        of_pairs = None if weights is None else np.broadcast_to(weights[..., block], pairs.shape).ravel()
        sums += np.bincount(pairs.ravel(), weights=of_pairs, minlength=len(sums))
    return sums.reshape(shape)


class TreeGroup:
    """Consecutive trees of an ensemble, and how their leaves feed each other.

    Parameters
    ----------
    ensemble : LeafEnsemble
        The ensemble.
    rates : RowRates
        What its rows weigh.
    stages : slice
        Positions of the trees, counted from 0.
    """

    def __init__(self, ensemble: LeafEnsemble, rates: RowRates, stages: slice):
        self.stages = stages
        self.offsets = offsets_of(ensemble.n_leaves[stages])
        trees = range(stages.start, stages.stop)
        self._shared = (
            shared_weight(ensemble.leaves, ensemble.n_leaves, rates.feedback, stages=stages) if len(trees) > 1 else None
        )
        #: R_t of every tree: its diagonal, or all of it where leaf values depend on sums over other leaves.
        self.rates = ensemble.rates[stages]
        self.constants = None if ensemble.constants is None else ensemble.constants[stages]

    @property
    def n_leaves(self) -> int:
        """Leaves of all trees of the group."""
        return int(self.offsets[-1])

    @property
    def coupling(self) -> NDArray:
        """C of all trees of the group, (n_leaves, n_leaves), zero on and above the diagonal blocks.

        Made when asked for where there is one tree, which may have many leaves and feeds nothing back.
        """
        return np.zeros((self.n_leaves, self.n_leaves)) if self._shared is None else self._shared

    def solve(self, sums: NDArray, offset: bool = False) -> NDArray:
        """Values of all leaves, (n_leaves, k), from the sums B^q V - B^h F over each; works in place.

        With ``offset`` the last column is the offset's, which takes the constants of the leaves.
        """
        for t, rate in enumerate(self.rates):
            own = slice(self.offsets[t], self.offsets[t + 1])
            if t:
                sums[own] -= self.coupling[own, : own.start] @ sums[: own.start]
            sums[own] = rate @ sums[own] if rate.ndim == 2 else rate[:, None] * sums[own]
            if offset and self.constants is not None:
                sums[own, -1] += self.constants[t]
        return sums

    def solve_adjoint(self, on_values: NDArray) -> NDArray:
        """Adjoints of the sums over all leaves, (n_leaves, m), from those of their values; works in place."""
        for t in reversed(range(len(self.rates))):
            own, rate = slice(self.offsets[t], self.offsets[t + 1]), self.rates[t]
            if own.stop < self.n_leaves:
                on_values[own] -= self.coupling[own.stop :, own].T @ on_values[own.stop :]
            on_values[own] = rate.T @ on_values[own] if rate.ndim == 2 else rate[:, None] * on_values[own]
        return on_values
