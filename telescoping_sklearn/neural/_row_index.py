"""Finds rows of a table by their content, exactly, in the precision in which a loop uses them.

Rows are compared by a 64-bit sum of their bits times random numbers, which is looked up among sorted ones, and then
bit by bit. Different rows of the table never share a sum: other random numbers are drawn until none do.
"""

from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 2**22  # numbers that are converted at once


class RowIndex:
    """An index of the rows of a table.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_columns)
        The table.
    dtype : dtype
        Precision in which rows are looked up.
    among : ndarray of int
        Rows that may be found, increasing.

    Attributes
    ----------
    dtype : dtype
        Precision in which rows are looked up.
    group_of : ndarray of int of shape (n_rows,)
        Number of every row's content; -1 for rows that may not be found.
    """

    def __init__(self, X: NDArray, dtype: np.dtype, among: NDArray):
        self._X, self.dtype = X, dtype
        words = X.shape[1] * max(dtype.itemsize // 4, 1)
        for seed in count():
            self._numbers = np.random.default_rng(seed).integers(2**64, size=words, dtype=np.uint64) | np.uint64(1)
            sums = self._sums_of(among)
            order = np.argsort(sums, kind="stable")
            self._sums, self._starts = np.unique(sums[order], return_index=True)
            self._order = among[order]
            groups = np.repeat(np.arange(len(self._starts)), self.counts)
            if self._same(self._order, self._order[self._starts[groups]]):
                break
        self.group_of = np.full(len(X), -1)
        self.group_of[self._order] = groups

    @property
    def counts(self) -> NDArray:
        """Number of rows of every content."""
        return np.diff(self._starts, append=len(self._order))

    def first(self, groups: NDArray) -> NDArray:
        """First row of every content asked for."""
        return self._order[self._starts[groups]]

    def members(self, group: Any) -> NDArray:
        """Rows of a content, increasing."""
        start = self._starts[group]
        return self._order[start : start + self.counts[group]]

    def find(self, rows: NDArray) -> NDArray:
        """Find the number of every row's content, (b,); -1 where the table has none such."""
        rows = np.ascontiguousarray(rows.reshape(len(rows), -1), self.dtype)
        if rows.shape[1] != self._X.shape[1]:
            return np.full(len(rows), -1)
        sums = self._sum(rows)
        groups = np.minimum(np.searchsorted(self._sums, sums), len(self._sums) - 1)
        expected = self._X[self.first(groups)].astype(self.dtype)
        return np.where((_words(expected) == _words(rows)).all(axis=1), groups, -1)

    def _sums_of(self, numbers: NDArray) -> NDArray:
        size = max(_BLOCK // self._X.shape[1], 1)
        blocks = [numbers[first : first + size] for first in range(0, len(numbers), size)]
        return np.concatenate([self._sum(self._X[block].astype(self.dtype)) for block in blocks])

    def _sum(self, rows: NDArray) -> NDArray:
        words = _words(rows)
        # Numbers with few digits differ in their high bits only; the shift brings these down.
        return (words ^ (words >> words.dtype.type(4 * words.itemsize))).astype(np.uint64) @ self._numbers

    def _same(self, some: NDArray, others: NDArray) -> bool:
        """Whether rows with equal sums are equal."""
        differ = some != others
        here, there = (self._X[numbers[differ]].astype(self.dtype) for numbers in (some, others))
        return bool((_words(here) == _words(there)).all())


def _words(rows: NDArray) -> NDArray:
    """View rows as whole numbers of their bits."""
    size = min(rows.itemsize, 4)
    return np.ascontiguousarray(rows).view(f"u{size}")
