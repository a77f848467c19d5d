"""Label columns carried forward through groups of trees, or queries carried back to the labels.

Both walk over one array of rows x columns in place, group by group and in blocks of rows that stay in the caches: the
values of one group are added to the rows and the sums of the next are taken while a block is at hand.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn._memory import working_memory_bytes
from telescoping_sklearn.boosting._ensemble import LeafEnsemble
from telescoping_sklearn.boosting._leaf_space import RowRates, TreeGroup, row_blocks, stacked

Progress = Callable[[Iterable[Any], str], Iterable[Any]]

#: Bytes of a block of rows that stays in the caches beside its leaf numbers.
_BLOCK_BYTES = 2**20
#: Rows of a block at least: fewer are not worth the calls.
_LEAST_ROWS = 1024
#: Most rows of a block.
_MOST_ROWS = 65536

# Costs of one step beside that of one multiplication and addition along a leaf number, measured on one core.
_PAIR = 6.0  # one row counted in a pair of leaves
_TOUCH = 6.0  # one entry of rows x columns brought to the caches and back
_DENSE = 0.1  # one multiplication and addition of a dense product


class Work(NamedTuple):
    """How columns are carried: so many trees to a group, and the steps that it takes."""

    group: int
    operations: float


def cheapest_group(ensemble: LeafEnsemble, n_columns: int) -> Work:
    """Choose the number of trees that are solved at once by counting steps.

    Larger groups touch the rows less often and count more pairs of leaves.

    Parameters
    ----------
    ensemble : LeafEnsemble
        The ensemble.
    n_columns : int
        Columns carried, forward or back.

    Returns
    -------
    Work
        The number of trees, and the steps in units of one multiplication.
    """
    n_stages, leaves = ensemble.n_stages, float(ensemble.n_leaves.max())
    most = working_memory_bytes() / 4
    sizes = [1, *(size for size in _sizes(n_stages) if 8.0 * size * leaves**2 * n_stages <= most)]
    return min((Work(size, _operations(ensemble, size, n_columns)) for size in sizes), key=lambda work: work.operations)


def _sizes(n_stages: int) -> list[int]:
    return [size for size in (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128) if size < n_stages] + [n_stages]


def _operations(ensemble: LeafEnsemble, size: int, n_columns: int) -> float:
    n, n_stages, leaves = len(ensemble.row_weights), ensemble.n_stages, float(ensemble.n_leaves.max())
    groups = -(-n_stages // size)
    pairs = n_stages * (size - 1) / 2
    along_leaves = 2.0 * n * n_stages * n_columns - (n * size * n_columns if groups > 1 else n * n_stages * n_columns)
    return (
        along_leaves
        + pairs * (_PAIR * n + leaves**2)
        + _TOUCH * n * groups * n_columns
        + _DENSE * pairs * leaves**2 * n_columns
        + 2.0 * _PAIR * n * n_stages
    )


def moment_steps(ensemble: LeafEnsemble, n_query: int) -> float:
    """Count the steps of exact sums over all weights: every pair of trees at every row, and products of all leaves.

    Parameters
    ----------
    ensemble : LeafEnsemble
        The ensemble.
    n_query : int
        Query rows.

    Returns
    -------
    float
        Steps, in the units of `cheapest_group`.
    """
    counts = 1.0 if RowRates(ensemble).ones else 3.0
    pairs = ensemble.n_stages * (ensemble.n_stages + 1) / 2
    rows = counts * len(ensemble.row_weights) + n_query
    return _PAIR * rows * pairs + 2.0 * _DENSE * float(ensemble.n_leaves.sum()) ** 3


class LeafCarrier:
    """An ensemble cut into groups of trees that are solved at once.

    Parameters
    ----------
    ensemble : LeafEnsemble
        The ensemble.
    size : int
        Trees of a group.
    progress : callable
        Shows progress through groups, given them and what is done; see `Telescope.progress`.
    """

    def __init__(self, ensemble: LeafEnsemble, size: int, progress: Progress = lambda work, what: work):
        self.ensemble = ensemble
        self._progress = progress
        self.rates = RowRates(ensemble)
        n_stages = ensemble.n_stages
        self.groups = [
            TreeGroup(ensemble, self.rates, slice(first, min(first + size, n_stages)))
            for first in progress(range(0, n_stages, size), "groups of trees solved")
        ]

    def apply(self, labels: NDArray, start: NDArray, last: int, offset: bool = False) -> tuple[NDArray, NDArray]:
        """Carry label columns through the trees.

        Parameters
        ----------
        labels : ndarray of shape (n_train, k)
            Label columns V.
        start : ndarray of shape (n_train, k)
            F_0 at the training rows; overwritten.
        last : int
            Stage, counted from 1, in whose group the carrying ends.
        offset : bool, default=False
            Whether the last column is the offset's.

        Returns
        -------
        values : ndarray of shape (n_leaves, k)
            What every leaf of every tree adds to the response.
        response : ndarray of shape (n_train, k)
            F at the training rows after the last group carried.
        """
        residuals = self.rates.residuals
        if not residuals and np.count_nonzero(labels) < labels.size / 8:  # such as unit columns
            labels = sparse.csr_array(labels)
        state = np.subtract(labels, start, out=start) if residuals else np.negative(start, out=start)
        pieces: list[NDArray] = []
        previous: TreeGroup | None = None
        for group in self._progress(self.groups, "labels through groups of trees"):
            if group.stages.start >= last:
                break
            sums = self._forward_sums(group, previous, state, labels, pieces[-1] if pieces else None)
            pieces.append(group.solve(sums, offset))
            previous = group
        if previous is not None:
            for block in self._blocks(state):
                state[block] -= stacked(self._leaves(previous, block), previous.offsets) @ pieces[-1]
        response = np.subtract(labels, state, out=state) if residuals else np.negative(state, out=state)
        return np.concatenate(pieces), response

    def apply_adjoint(self, reached: NDArray, last: int | None = None) -> NDArray:
        """Carry queries back to the labels.

        Parameters
        ----------
        reached : ndarray of shape (n_leaves, m)
            Whether each query lies in each leaf of each tree, up to the last tree.
        last : int, default=None
            Stage, counted from 1, from which queries are carried back; None for the last of all.

        Returns
        -------
        ndarray of shape (n_train, m)
            Kernel weights of the queries, the start's included.
        """
        n, m = len(self.ensemble.row_weights), reached.shape[1]
        state = np.zeros((n, m))
        weights = None if self.rates.residuals else np.zeros((n, m))
        on_sums: NDArray | None = None  # adjoint of the later group's sums over leaves
        later: TreeGroup | None = None
        groups = [group for group in self.groups if last is None or group.stages.start < last]
        first = sum(group.n_leaves for group in groups)
        for group in self._progress(groups[::-1], "queries back through groups of trees"):
            first -= group.n_leaves
            on_values = np.zeros((group.n_leaves, m))
            own = reached[first : first + group.n_leaves]
            on_values[: len(own)] = own
            if later is not None and on_sums is not None:
                on_values += self._adjoint_sums(group, later, state, weights, on_sums)
            on_sums, later = group.solve_adjoint(on_values), group
        if later is not None and on_sums is not None:
            self._adjoint_sums(None, later, state, weights, on_sums)
        to_start = 1.0 + state.sum(axis=0)
        found = np.negative(state, out=state) if weights is None else weights
        for block in self._blocks(found):
            found[block] += self.ensemble.start_weights[block, None] * to_start
        return found

    def _forward_sums(
        self,
        group: TreeGroup,
        previous: TreeGroup | None,
        state: NDArray,
        labels: NDArray | sparse.csr_array,
        values: NDArray | None,
    ) -> NDArray:
        """Apply the values of the group before, and accumulate what is left over the leaves of this one."""
        sums = np.zeros((group.n_leaves, state.shape[1]))
        if not self.rates.residuals:
            entries = self.rates.labels_of(group.stages)
            for block in row_blocks(len(state), _MOST_ROWS):
                added = stacked(self._leaves(group, block), group.offsets, _of(entries, block)).T @ labels[block]
                sums += added.toarray() if sparse.issparse(added) else added
        feedback = self.rates.feedback_of(group.stages)
        for block in self._blocks(state):
            rows, leaves = state[block], self._leaves(group, block)
            if previous is not None:
                rows -= stacked(self._leaves(previous, block), previous.offsets) @ values
            sums += stacked(leaves, group.offsets, _of(feedback, block)).T @ rows
        return sums

    def _adjoint_sums(
        self, group: TreeGroup | None, later: TreeGroup, state: NDArray, weights: NDArray | None, on_sums: NDArray
    ) -> NDArray:
        """Propagate the later group's adjoints to the rows and sum them over this group's leaves."""
        sums = np.zeros((0 if group is None else group.n_leaves, state.shape[1]))
        feedback = self.rates.feedback_of(later.stages)
        on_labels = None if weights is None else self.rates.labels_of(later.stages)
        for block in self._blocks(state):
            rows, leaves = state[block], self._leaves(later, block)
            rows -= stacked(leaves, later.offsets, _of(feedback, block)) @ on_sums
            if weights is not None:
                weights[block] += stacked(leaves, later.offsets, _of(on_labels, block)) @ on_sums
            if group is not None:
                sums += stacked(self._leaves(group, block), group.offsets).T @ rows
        return sums

    def _leaves(self, group: TreeGroup, block: slice) -> NDArray:
        return self.ensemble.leaves[group.stages, block]

    def _blocks(self, state: NDArray):
        size = max(_LEAST_ROWS, int(_BLOCK_BYTES // (8 * max(state.shape[1], 1))))
        return row_blocks(len(state), min(size, _MOST_ROWS))


def _of(entries: NDArray | None, block: slice) -> NDArray | None:
    return None if entries is None else entries[..., block]
