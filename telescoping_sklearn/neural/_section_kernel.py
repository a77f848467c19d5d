"""The response of full-batch gradient descent with the tangent kernel held over a section.

Where every update is plain gradient descent on the same rows with the same factors, and the loss is squared error, one
kernel K held over the section turns its updates into a linear recursion with constant coefficients: the residuals of
label columns at the rows of the batch follow R_t = (I - lr_t K W) R_{t-1}, and any rows move by K(x) sum_t lr_t W
R_{t-1}. Sums over many updates of one learning rate are polynomials in K W and are built by doubling.

K is the rule's sum over its evaluations, J(theta*; x) J(theta'; B)^T. Other forms take gradients at every theta_{t-1};
here theta' stands for them. It lies a factor of (L - 1) / L as far into a section of L updates as theta*, since
gradients are taken before their updates. So the form is the kernel's own over single updates, for every rule. Over
longer ones it holds the Jacobians of gradients as well, which is a further approximation.
"""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from telescoping_sklearn.neural._network import pairs_of
from telescoping_sklearn.neural._path import Path
from telescoping_sklearn.neural._tangent import row_blocks
from telescoping_sklearn.neural._trajectory import Batches, RecordedBatches

#: Columns up to which a product with a square matrix takes the time that reading the matrix takes.
_COLUMNS_A_READ = 32


def full_batch(batches: Batches) -> NDArray | None:
    """Find the rows that every update was made on, with the same factors; None where updates differ.

    Parameters
    ----------
    batches : Batches
        Batches of the run.

    Returns
    -------
    ndarray of int of shape (b,) or None
        The rows, in the order of the first update.
    """
    first, factors = batches[0], batches.factors(0)
    if not isinstance(batches, RecordedBatches):
        return first if batches.per_epoch == 1 else None
    order = np.argsort(first)
    for update in range(1, len(batches)):
        rows, others = batches[update], batches.factors(update)
        if len(rows) != len(first):
            return None
        place = np.argsort(rows)
        same = np.array_equal(rows[place], first[order])
        if not same or factors is None or others is None or not np.array_equal(others[place], factors[order]):
            return None
    return first


class SectionKernel:
    """The tangent kernel between some rows and the batch, held from one stage to another.

    Parameters
    ----------
    path : Path
        The recorded run.
    batch : Tensor of shape (b,)
        Rows of every update.
    first, last : int
        The stages.
    """

    def __init__(self, path: Path, batch: Tensor, first: int, last: int):
        self.path, self._first, self._last = path, first, last
        start, end, rows = path.theta(first), path.theta(last), path.rows[batch]
        share = 1 - 1 / (last - first)
        self._there = [path.tangent(torch.lerp(start, end, share * place), rows) for _, place in path.nodes]
        # The factors of update 1 are those of all: see `full_batch`.
        weights = path.batch_weights(1, batch)
        self._weights = weights.repeat_interleave(path.network.n_outputs)[:, None]
        self._rates = [path.trajectory.learning_rate(stage) for stage in range(first + 1, last + 1)]
        pairs = (batch[:, None] * path.network.n_outputs + torch.arange(path.network.n_outputs)).flatten()
        self._pairs = pairs.to(batch)
        self._of_training = torch.cat([block for _, block in self.blocks(path.rows)])
        self._of_batch = self._of_training[self._pairs]

    def blocks(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of rows as slices of their outputs, with the kernel between them and the batch."""
        path, o = self.path, self.path.network.n_outputs
        n_others = len(self._pairs) // o
        outer = path.outer(self._first, self._last)
        for block in row_blocks(path.network, len(rows), n_others=n_others, itemsize=path.dtype.itemsize):
            total: Tensor | None = None
            for (weight, theta), there in zip(outer, self._there, strict=True):
                part = path.tangent(theta, rows[block]).kernel(there)
                part = part if weight == 1.0 else part * weight
                total = part if total is None else total + part
            assert total is not None
            yield pairs_of(block, o), total

    def summed_residuals(self, labels: Tensor, training: Tensor) -> Tensor:
        """Sum_t lr_t W R_{t-1} over the section, (b pairs, k), for labels and response at the section's start.

        Both have a line for every pair of the training rows.
        """
        residual = labels[self._pairs] - training[self._pairs]
        total = torch.zeros_like(residual)
        runs = self._runs()
        for position, (rate, length) in enumerate(runs):
            step = self._step(rate)
            found = power_sum(step, length, residual)
            total.add_(found, alpha=rate)
            if position < len(runs) - 1:
                residual = torch.addmm(residual, step, found, alpha=-1)
        return total.mul_(self._weights)

    def move(self, response: Tensor, rows: Tensor, summed: Tensor) -> Tensor:
        """Response at rows, (n_pairs, k), at the section's end."""
        if rows is self.path.rows:
            return torch.addmm(response, self._of_training, summed)
        moved = torch.empty_like(response)
        for block, kernel in self.blocks(rows):
            torch.addmm(response[block], kernel, summed, out=moved[block])
        return moved

    def pull_back(self, rows: Tensor, adjoint: Tensor) -> Tensor:
        """Adjoint of the summed residuals, (b pairs, m'), from that of the response at rows at the section's end."""
        if rows is self.path.rows:
            return self._of_training.T @ adjoint
        parts = (kernel.T @ adjoint[block] for block, kernel in self.blocks(rows))
        return torch.stack(list(parts)).sum(dim=0)

    def on_residuals(self, on_summed: Tensor) -> Tensor:
        """Adjoint of the residuals at the section's start, (b pairs, m'), which is that of the batch's labels."""
        weighted = on_summed * self._weights
        found = torch.zeros_like(weighted)
        for rate, length in reversed(self._runs()):
            step = self._step(rate).T
            found += power_sum(step, length, torch.addmm(rate * weighted, step, found, alpha=-1))
        return found

    def add_to_batch(self, values: Tensor, of_batch: Tensor, sign: float) -> None:
        """Add what belongs to the rows of the batch to an array of all training rows, in place."""
        values.index_add_(0, self._pairs, of_batch, alpha=sign)

    def _step(self, rate: float) -> Tensor:
        return self._of_batch * (rate * self._weights.T)

    def _runs(self) -> list[tuple[float, int]]:
        """Learning rates and the number of consecutive updates with each."""
        return [(rate, len(list(updates))) for rate, updates in groupby(self._rates)]


def power_sum(step: Tensor, n_terms: int, columns: Tensor) -> Tensor:
    """Sum over j < n_terms of (I - step)^j applied to columns, by the cheaper of single products and doubling.

    Parameters
    ----------
    step : Tensor of shape (b, b)
        What an update takes off.
    n_terms : int
        Number of terms.
    columns : Tensor of shape (b, k)
        What the powers are applied to.

    Returns
    -------
    Tensor of shape (b, k)
        The sum.
    """
    if not doubles(len(step), n_terms, columns.shape[1]):
        total = columns.clone()
        for _ in range(n_terms - 1):
            columns = torch.addmm(columns, step, columns, alpha=-1)
            total += columns
        return total
    power = step.neg()
    power.diagonal().add_(1)
    series: Tensor | None = None  # the identity
    total = torch.zeros_like(columns)
    while True:
        if n_terms & 1:
            total += columns if series is None else series @ columns
            if n_terms > 1:
                columns = power @ columns
        n_terms >>= 1
        if not n_terms:
            return total
        if series is None:
            series = power.clone()
            series.diagonal().add_(1)
        else:
            series = torch.addmm(series, power, series)
        if n_terms > 1:
            power = power @ power


def doubles(size: int, n_terms: int, n_columns: int) -> bool:
    """Whether doubling takes fewer multiplications than single products."""
    n_columns = max(n_columns, _COLUMNS_A_READ)
    return _doubling(size, n_terms, n_columns) < (n_terms - 1) * n_columns


def power_sum_operations(size: int, n_terms: NDArray, n_columns: int) -> float:
    """Multiplications of sums of powers of a matrix of some size, over all numbers of terms, of one rate each."""
    numbers, counts = np.unique(n_terms, return_counts=True)
    cheapest = [min(_doubling(size, terms, n_columns), (terms - 1) * n_columns) for terms in numbers.tolist()]
    return float(size) ** 2 * float(counts @ np.array(cheapest, dtype=np.float64))


def _doubling(size: int, n_terms: int, n_columns: int) -> int:
    """Columns that the matrix is multiplied with when sums are doubled."""
    bits = n_terms.bit_length()
    return 2 * max(bits - 2, 0) * size + (2 * n_terms.bit_count() - 1) * n_columns
