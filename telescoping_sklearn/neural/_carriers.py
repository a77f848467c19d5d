"""What a section holds of the label response until it is brought to rows, in two forms that give the same numbers.

With h the updates of a section so far, a label column moves the outputs of a row by J(theta*; x) sum_h D_h. The
parameters' form keeps sum_h D_h, a block of p numbers a column, and serves every optimiser. The kernel's form, for
plain stochastic gradient descent, keeps the batches' residuals instead, since D_h = -lr J(theta_{h-1}; B_h)^T R_h and
J J^T is a product of small matrices: no block of p numbers at all.

Both can be run backward, from a query to the labels: then the columns are queries, and what is carried is how much the
query's prediction depends on what a section holds.
"""

from typing import Protocol

import torch
from torch import Tensor

from telescoping_sklearn._memory import working_memory_bytes
from telescoping_sklearn.neural._path import Path
from telescoping_sklearn.neural._tangent import Tangent
from telescoping_sklearn.neural._update_rules import ReversibleRule, UpdateRule

#: Columns of X from which looking up inner products of rows is cheaper than taking them again.
_WIDE_INPUTS = 128


class Carrier(Protocol):
    """The forward form of a section's part of the response."""

    def take(self, stage: int, there: Tangent, residual: Tensor) -> None:
        """Take in one update: the weighted residuals of its batch, (b, k)."""

    def bridge(self, response: Tensor, rows: Tensor, first: int, last: int, *, lasting: bool = False) -> None:
        """Bring the response at rows, (n_rows, k), from one stage to another; lasting rows are asked about again."""

    def close(self) -> None:
        """End the section."""


class ParameterCarrier:
    """Carries (k, p): the response of the parameters, and what it moved by since the section's start.

    Parameters
    ----------
    path : Path
        The recorded run.
    rule : UpdateRule
        The optimiser's linear response, with fresh state.
    n_columns : int
        Number of label columns k.
    """

    def __init__(self, path: Path, rule: UpdateRule, n_columns: int):
        self.path = path
        self.rule = rule
        shape = (n_columns, path.network.n_params)
        self.parameters = torch.zeros(shape, dtype=path.dtype, device=path.device)
        self.moved = torch.zeros_like(self.parameters)

    def take(self, stage: int, there: Tangent, residual: Tensor) -> None:
        """Turn residuals into a gradient, and the gradient into the optimiser's step."""
        rate = float(self.path.trajectory.learning_rates[stage - 1])
        step = self.rule.step(there.vjp(residual), self.parameters, stage, rate, self.path.phi(stage))
        self.parameters += step
        self.moved += step

    def bridge(self, response: Tensor, rows: Tensor, first: int, last: int, *, lasting: bool = False) -> None:
        """Add J(theta*; x) applied to what the parameters moved by."""
        response += self.path.change(rows, first, last, self.moved)

    def close(self) -> None:
        """Start again from here."""
        self.moved.zero_()


class KernelCarrier:
    """Carries the residuals of the section's batches, for plain stochastic gradient descent only.

    Parameters
    ----------
    path : Path
        The recorded run.
    """

    def __init__(self, path: Path):
        self.path = path
        self.taken: list[tuple[int, Tangent, Tensor]] = []
        self._products: dict[int, tuple[Tensor, Tensor | None]] = {}

    def take(self, stage: int, there: Tangent, residual: Tensor) -> None:
        """Keep -lr times the weighted residuals, with the Jacobian that they belong to."""
        self.taken.append((stage, there, -float(self.path.trajectory.learning_rates[stage - 1]) * residual))

    def bridge(self, response: Tensor, rows: Tensor, first: int, last: int, *, lasting: bool = False) -> None:
        """Add the sum over the section's batches of K(x, B) times what they hold."""
        n_others = len(self.taken[0][2])
        products = self._input_products(rows) if lasting else None
        for block, weight, here in self.path.outer_tangents(rows, first, last, n_others=n_others):
            for stage, there, held in self.taken:
                kept = None if products is None else products[self.path.batch(stage)][:, block]
                response[block].addmm_(there.kernel(here, kept).T, held, alpha=weight)

    def close(self) -> None:
        """Start again from here."""
        self.taken = []

    def _input_products(self, rows: Tensor) -> Tensor | None:
        """Inner products of all training rows with rows, (n_train, n_rows), which never change along the run.

        They are kept where that pays and fits.
        """
        if self.path.network.input_width < _WIDE_INPUTS:
            return None
        if id(rows) not in self._products:
            fits = self.path.dtype.itemsize * len(self.path.rows) * len(rows) <= working_memory_bytes() / 4
            made = self.path.rows.to(self.path.dtype) @ rows.to(self.path.dtype).T if fits else None
            self._products[id(rows)] = rows, made  # the rows are held, so that their id stays theirs
        return self._products[id(rows)][1]


class BackwardParameterCarrier:
    """Carries (m', p): how queries depend on what the parameters moved by, and on the parameters themselves.

    Parameters
    ----------
    path : Path
        The recorded run.
    rule : ReversibleRule
        The optimiser's linear response, with fresh state.
    n_columns : int
        Number of queries m'.
    """

    def __init__(self, path: Path, rule: ReversibleRule, n_columns: int):
        self.path = path
        self.rule = rule
        shape = (n_columns, path.network.n_params)
        self.on_parameters = torch.zeros(shape, dtype=path.dtype, device=path.device)
        self.on_moved = torch.zeros_like(self.on_parameters)

    def open(self) -> None:
        """Begin with a section's end."""
        self.on_moved.zero_()

    def bridge(self, rows: Tensor, first: int, last: int, dependence: Tensor) -> None:
        """Take in how queries depend on rows, (n_rows, m'), that a bridge had moved."""
        n_columns = dependence.shape[1]
        for block, weight, here in self.path.outer_tangents(rows, first, last, n_columns=n_columns):
            self.on_moved.add_(here.vjp(dependence[block]), alpha=weight)

    def give(self, stage: int, there: Tangent) -> Tensor:
        """How queries depend on the weighted residuals of an update, (b, m')."""
        rate = float(self.path.trajectory.learning_rates[stage - 1])
        on_gradient, on_parameters = self.rule.transposed_step(
            self.on_moved + self.on_parameters, stage, rate, self.path.phi(stage)
        )
        if on_parameters is not None:
            self.on_parameters += on_parameters
        return there.jvp(on_gradient)


class BackwardKernelCarrier:
    """Carries how queries depend on rows, for plain stochastic gradient descent only.

    Parameters
    ----------
    path : Path
        The recorded run.
    """

    def __init__(self, path: Path):
        self.path = path
        self.bridges: list[tuple[Tangent, Tensor]] = []

    def open(self) -> None:
        """Begin with a section's end."""
        self.bridges = []

    def bridge(self, rows: Tensor, first: int, last: int, dependence: Tensor) -> None:
        """Keep how queries depend on rows, (n_rows, m'), that a bridge had moved."""
        n_others = dependence.shape[1]
        for block, weight, here in self.path.outer_tangents(rows, first, last, n_others=n_others):
            self.bridges.append((here, weight * dependence[block]))

    def give(self, stage: int, there: Tangent) -> Tensor:
        """How queries depend on the weighted residuals of an update, (b, m'): -lr K^T times what is kept."""
        rate = float(self.path.trajectory.learning_rates[stage - 1])
        shape = (there.n_rows, self.bridges[0][1].shape[1])
        product = torch.zeros(shape, dtype=self.path.dtype, device=self.path.device)
        for here, dependence in self.bridges:
            product.addmm_(here.kernel(there).T, dependence, alpha=-rate)
        return product
