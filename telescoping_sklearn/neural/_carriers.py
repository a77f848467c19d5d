"""What a section holds of the label response until it is applied to rows, in two forms that give the same numbers.

With h the updates of a section so far, a label column moves the outputs of a row by J(theta*; x) sum_h D_h. The
parameters' form keeps sum_h D_h, a block of p numbers a column, and serves every optimiser. The kernel's form, for
plain stochastic gradient descent, keeps the batches' residuals instead, since D_h = -lr J(theta_{h-1}; B_h)^T R_h and
J J^T is a product of small matrices: no block of p numbers at all.

Responses and residuals have one line for every output of a row, n_pairs in all; see `_tangent`.

Each form has an adjoint, which runs from a query to the labels. Its columns are queries, and it carries derivatives of
their predictions in what the section holds.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from telescoping_sklearn._memory import working_memory_bytes
from telescoping_sklearn.neural._path import Path
from telescoping_sklearn.neural._tangent import Tangent
from telescoping_sklearn.neural._update_rules import UpdateRule

#: Columns of X from which looking up inner products of rows is cheaper than taking them again.
_WIDE_INPUTS = 128


class Carrier(Protocol):
    """The forward form of a section's part of the response."""

    def accumulate(self, stage: int, there: Tangent, residual: Tensor) -> None:
        """Add one update: the weighted residuals of its batch, (n_pairs, k)."""

    def apply(self, response: Tensor, rows: Tensor, first: int, last: int, *, lasting: bool = False) -> None:
        """Move the response at rows, (n_pairs, k), from one stage to another; lasting rows are asked about again."""

    def end_section(self) -> None:
        """Hold nothing, for the next section."""

    def state(self) -> Any:
        """Return what is held between two sections."""

    def restore(self, state: Any) -> None:
        """Hold what another carrier of the same kind held."""


class AdjointCarrier(Protocol):
    """The adjoint of a section's part of the response."""

    def start_section(self) -> None:
        """Hold nothing, for the section before."""

    def accumulate(self, rows: Tensor, first: int, last: int, adjoint: Tensor) -> None:
        """Add J^T times the adjoint of the outputs at rows, (n_pairs, m'), that the section had moved."""

    def apply(self, stage: int, there: Tangent) -> Tensor:
        """Adjoint of the weighted residuals of an update, (n_pairs, m')."""


class ParameterCarrier:
    """Carries (k, p): the response of the parameters, and what it moved by since the section's start.

    Parameters
    ----------
    path : Path
        The recorded run.
    update_rule : UpdateRule
        The optimiser's linear response, with fresh state.
    n_columns : int
        Number of label columns k.
    offset : bool, default=False
        Whether the last column is the offset's, which starts from the initial parameters.
    """

    def __init__(self, path: Path, update_rule: UpdateRule, n_columns: int, offset: bool = False):
        self.path = path
        self.update_rule = update_rule
        shape = (n_columns, path.network.n_params)
        self.parameters = torch.zeros(shape, dtype=path.dtype, device=path.device)
        self.moved = torch.zeros_like(self.parameters)
        if offset:
            self.parameters[-1] = path.theta(0)
            update_rule.start_offset(self.parameters)

    def accumulate(self, stage: int, there: Tangent, residual: Tensor) -> None:
        """Turn residuals into a gradient, and the gradient into the optimiser's step."""
        rate = self.path.trajectory.learning_rate(stage)
        step = self.update_rule.step(there.vjp(residual), self.parameters, stage, rate, self.path.phi(stage))
        self.parameters += step
        self.moved += step

    def apply(self, response: Tensor, rows: Tensor, first: int, last: int, *, lasting: bool = False) -> None:
        """Add J(theta*; x) applied to what the parameters moved by."""
        response += self.path.change(rows, first, last, self.moved)

    def end_section(self) -> None:
        """Hold nothing, for the next section."""
        self.moved.zero_()

    def state(self) -> Any:
        """Return the parameters' response and the memory of the update rule."""
        return self.parameters, self.update_rule.memory()

    def restore(self, state: Any) -> None:
        """Hold what another carrier of the same kind held."""
        parameters, memory = state
        self.parameters.copy_(parameters)
        self.update_rule.recall(memory)


class KernelCarrier:
    """Carries the residuals of the section's batches, for plain stochastic gradient descent only.

    Parameters
    ----------
    path : Path
        The recorded run.
    """

    def __init__(self, path: Path):
        self.path = path
        self._held: list[tuple[int, Tangent, Tensor, float]] = []
        self._products: dict[int, tuple[Tensor, Tensor | None]] = {}

    def accumulate(self, stage: int, there: Tangent, residual: Tensor) -> None:
        """Keep the weighted residuals, with the Jacobian that they belong to and what they are multiplied with."""
        self._held.append((stage, there, residual, -self.path.trajectory.learning_rate(stage)))

    def apply(self, response: Tensor, rows: Tensor, first: int, last: int, *, lasting: bool = False) -> None:
        """Add the sum over the section's batches of K(x, B) times their residuals."""
        o = self.path.network.n_outputs
        products = self._input_products(rows) if lasting else None
        for block, weight, here in self.path.outer_tangents(rows, first, last, n_others=len(self._held[0][2]) // o):
            of_rows = slice(block.start // o, block.stop // o)
            for stage, there, residual, rate in self._held:
                kept = None if products is None else products[self.path.batch(stage)][:, of_rows]
                response[block].addmm_(there.kernel(here, kept).T, residual, alpha=weight * rate)

    def end_section(self) -> None:
        """Hold nothing, for the next section."""
        self._held = []

    def state(self) -> Any:
        """Return None: nothing is held between two sections."""

    def restore(self, state: Any) -> None:
        """Hold nothing."""

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


class AdjointParameterCarrier:
    """Carries (m', p): derivatives of queries in what the parameters moved by, and in the parameters themselves.

    Parameters
    ----------
    path : Path
        The recorded run.
    update_rule : UpdateRule
        The optimiser's linear response, with fresh state; it has an adjoint.
    n_columns : int
        Number of queries m'.
    """

    def __init__(self, path: Path, update_rule: UpdateRule, n_columns: int):
        self.path = path
        self.update_rule = update_rule
        shape = (n_columns, path.network.n_params)
        self.on_parameters = torch.zeros(shape, dtype=path.dtype, device=path.device)
        self.on_moved = torch.zeros_like(self.on_parameters)

    def start_section(self) -> None:
        """Hold nothing, for the section before."""
        self.on_moved.zero_()

    def accumulate(self, rows: Tensor, first: int, last: int, adjoint: Tensor) -> None:
        """Add J^T times the adjoint of the outputs at rows, (n_pairs, m'), that the section had moved."""
        for block, weight, here in self.path.outer_tangents(rows, first, last, n_columns=adjoint.shape[1]):
            self.on_moved.add_(here.vjp(adjoint[block]), alpha=weight)

    def apply(self, stage: int, there: Tangent) -> Tensor:
        """Adjoint of the weighted residuals of an update, (n_pairs, m')."""
        rate = self.path.trajectory.learning_rate(stage)
        on_gradient, on_parameters = self.update_rule.transposed_step(
            self.on_moved + self.on_parameters, stage, rate, self.path.phi(stage)
        )
        if on_parameters is not None:
            self.on_parameters += on_parameters
        return there.jvp(on_gradient)


class AdjointKernelCarrier:
    """Carries derivatives of queries in the outputs at rows, for plain stochastic gradient descent only.

    Parameters
    ----------
    path : Path
        The recorded run.
    """

    def __init__(self, path: Path):
        self.path = path
        self._held: list[tuple[Tangent, Tensor]] = []

    def start_section(self) -> None:
        """Hold nothing, for the section before."""
        self._held = []

    def accumulate(self, rows: Tensor, first: int, last: int, adjoint: Tensor) -> None:
        """Keep the adjoint of the outputs at rows, (n_pairs, m'), that the section had moved."""
        for block, weight, here in self.path.outer_tangents(rows, first, last, n_others=adjoint.shape[1]):
            self._held.append((here, weight * adjoint[block]))

    def apply(self, stage: int, there: Tangent) -> Tensor:
        """Adjoint of the weighted residuals of an update, (n_pairs, m'): -lr K^T times the adjoints kept."""
        rate = self.path.trajectory.learning_rate(stage)
        shape = (there.n_pairs, self._held[0][1].shape[1])
        product = torch.zeros(shape, dtype=self.path.dtype, device=self.path.device)
        for here, adjoint in self._held:
            product.addmm_(here.kernel(there).T, adjoint, alpha=-rate)
        return product
