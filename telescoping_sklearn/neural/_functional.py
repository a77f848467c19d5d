"""Any ``torch.nn.Module`` as a function of one flat parameter vector, and its tangents through ``torch.func``.

Any module costs more than a chain of linear layers with its structured derivatives: products with k directions are k
forward passes under forward differentiation, products with k columns k backward passes, and kernels need the gradients
of their rows. Everything is computed in blocks.
"""

import copy
import threading
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn.neural._isolation import seeded
from telescoping_sklearn.neural._network import pairs_of

#: Bytes of activations and their derivatives beyond which more columns at once bring nothing.
_FASTEST_BLOCK = 64 * 2**20
_FORWARD_LEVEL = threading.RLock()  # torch numbers levels of forward differentiation for the whole process
_LIVE = 3  # copies of the activations that differentiation holds at once: values, derivatives, what is made next


class FunctionalNetwork:
    """A module whose trainable parameters are one vector theta, laid out in the order of ``named_parameters``.

    Parameters
    ----------
    module : torch.nn.Module
        Maps rows (n_rows, n_features) to predictions (n_rows,) or (n_rows, n_outputs). It is copied.
    rows : Tensor of shape (n_rows, n_features)
        A few rows of the kind that it is made for, to try it on.
    n_outputs : int, default=1
        Number of outputs.
    explained : bool, default=True
        Whether derivatives will be asked for, and are tried too.

    Raises
    ------
    ValueError
        If the module holds dropout or batch normalisation, draws random numbers, changes its buffers, lets rows depend
        on each other, does not take the rows or give one number each, or cannot be differentiated by ``torch.func``.
    """

    def __init__(self, module: nn.Module, rows: Tensor, n_outputs: int = 1, *, explained: bool = True):
        self.n_outputs = n_outputs
        self._output_shape = () if n_outputs == 1 else (n_outputs,)
        for part in module.modules():
            _refuse_part(part)
        try:
            self.template = copy.deepcopy(module).to("cpu")
            trained = {name: part for name, part in self.template.named_parameters() if part.requires_grad}
            self.shapes = {name: tuple(part.shape) for name, part in trained.items()}
        except Exception as error:  # whatever a user's module raises
            raise ValueError(f"module cannot be copied with its parameters made: {error}") from error
        if not trained:
            raise ValueError("module has no trainable parameters.")
        held = dict(self.template.named_parameters()) | dict(self.template.named_buffers())
        self._fixed = {name: part.detach().clone() for name, part in held.items() if name not in trained}
        self._check(rows)
        self.n_activations = rows.shape[1] + self._count_activations(rows[:1])
        if explained:
            self._check_derivatives(rows)

    @property
    def n_params(self) -> int:
        """Number of trainable parameters p."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def row_numbers(self) -> int:
        """Numbers that a row's derivatives hold."""
        return _LIVE * self.n_activations

    @property
    def column_numbers(self) -> int:
        """Numbers that a row holds for each direction or column: the product, since columns come in blocks."""
        return 2

    @property
    def pair_operations(self) -> int:
        """Multiplications of one entry of a tangent kernel."""
        return self.n_params

    @property
    def input_width(self) -> int:
        """No inner products of inputs are made: 0."""
        return 0

    def initial_parameters(self) -> Tensor:
        """Parameters that the module came with, (p,), in float64."""
        parts = dict(self.template.named_parameters())
        return torch.cat([parts[name].detach().double().flatten() for name in self.shapes])

    def forward(self, theta: Tensor, X: Tensor) -> Tensor:
        """Predict, (n_rows,), or (n_rows, n_outputs) where there are several, in the precision of theta."""
        return self._run(self._parts(theta), X)

    def _parts(self, theta: Tensor) -> dict[str, Tensor]:
        """Name the parameters and buffers of the module, in the precision and on the device of theta."""
        pieces = theta.split([prod(shape) for shape in self.shapes.values()])
        parts = {name: piece.view(shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)}
        for name, part in self._fixed.items():
            parts[name] = part.to(theta.device, theta.dtype if part.is_floating_point() else part.dtype)
        return parts

    def _run(self, parts: dict[str, Tensor], X: Tensor) -> Tensor:
        # The module may work in place, and the rows are others' memory.
        return functional_call(self.template, parts, (X.clone(),)).reshape(len(X), *self._output_shape)

    def _check(self, rows: Tensor) -> None:
        """Run a few rows together, again, and one by one."""
        parts = {name: part.clone() for name, part in self._parts(self.initial_parameters()).items()}
        before = {name: parts[name].clone() for name in self._fixed}
        try:
            with seeded(0), torch.no_grad():
                together, again = self._run(parts, rows), self._run(parts, rows)
                alone = torch.cat([self._run(parts, row[None]) for row in rows])
        except Exception as error:  # whatever a user's module raises
            raise ValueError(
                f"module must map rows of {rows.shape[1]} features, (n_rows, {rows.shape[1]}), to "
                f"{'one number' if self.n_outputs == 1 else f'{self.n_outputs} numbers'} each: "
                f"{error}"
            ) from error
        if any(not torch.equal(part, parts[name]) for name, part in before.items()):
            raise ValueError("module changes its buffers while it runs: every gradient would be taken on another net.")
        if not torch.allclose(together, again, rtol=0, atol=0, equal_nan=True):
            raise ValueError("module draws random numbers: every gradient would be taken on another net.")
        if not torch.allclose(together, alone, rtol=1e-8, atol=1e-10, equal_nan=True):
            raise ValueError("module lets the output of a row depend on the other rows of its batch.")

    def _check_derivatives(self, rows: Tensor) -> None:
        """Take every kind of product once."""
        at = FunctionalTangent(self, self.initial_parameters(), rows)
        try:
            at.jvp(at.gradients())
            at.vjp(torch.ones((at.n_pairs, 1), dtype=rows.dtype))
        except Exception as error:  # whatever torch cannot differentiate
            raise ValueError(
                f"module cannot be differentiated by torch.func, which explanations need: {error}. Write it with other "
                "operations, or set record=False and give up explanations."
            ) from error

    def _count_activations(self, row: Tensor) -> int:
        """Count the numbers that the module's parts put out for one row."""
        counts: list[int] = []

        def count(part: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                counts.append(output.numel())

        hooks = [part.register_forward_hook(count) for part in self.template.modules()]
        try:
            with torch.no_grad():
                self.forward(self.initial_parameters(), row)
        finally:
            for hook in hooks:
                hook.remove()
        return sum(counts)


def _refuse_part(part: nn.Module) -> None:
    """Raise ValueError for a part with no fixed kernel, unless it is switched off."""
    if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
        reason = "dropout takes every gradient on another net, so that no fixed kernel adds up"
    elif isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None):
        reason = "with batch normalisation the output of a row depends on the rest of its batch"
    else:
        return
    raise ValueError(f"module holds {type(part).__name__}: {reason}. Leave it out, or switch it off with eval().")


class FunctionalTangent:
    """The Jacobian of the outputs of a block of rows at one theta, never made but for few rows.

    Parameters
    ----------
    network : FunctionalNetwork
        The module.
    theta : Tensor of shape (p,)
        Where the Jacobian is taken.
    X : Tensor of shape (n_rows, n_features)
        The rows.
    """

    def __init__(self, network: FunctionalNetwork, theta: Tensor, X: Tensor):
        self.network = network
        self.theta = theta.detach()
        self.X = X

    @property
    def n_pairs(self) -> int:
        """Outputs of all rows of the block."""
        return len(self.X) * self.network.n_outputs

    def jvp(self, directions: Tensor) -> Tensor:
        """J D^T, (n_pairs, k), for k directions in the parameters, (k, p)."""

        def along(direction: Tensor) -> Tensor:
            return jvp(self._predict, (self.theta,), (direction,))[1]

        with _FORWARD_LEVEL:
            return self._by_columns(along, directions).T

    def vjp(self, columns: Tensor) -> Tensor:
        """C^T J, (k, p), for k columns over the outputs, (n_pairs, k)."""
        pull_back = vjp(self._predict, self.theta)[1]
        return self._by_columns(lambda column: pull_back(column)[0], columns.T)

    def kernel(self, other: "FunctionalTangent", input_products: Tensor | None = None) -> Tensor:
        """J J'^T, (n_pairs, n_other_pairs), from blocks of gradients; products of inputs are of no use here."""
        product, o = self.theta.new_empty((self.n_pairs, other.n_pairs)), self.network.n_outputs
        for columns in other._gradient_blocks():
            there = other.gradients(columns)
            for rows in self._gradient_blocks():
                product[pairs_of(rows, o), pairs_of(columns, o)] = self.gradients(rows) @ there.T
        return product

    def gradients(self, rows: slice = slice(None)) -> Tensor:
        """J itself, (n_pairs, p), or that of some rows: for few only."""

        def single(theta: Tensor, x: Tensor) -> Tensor:
            return self.network.forward(theta, x[None])[0]

        X, o = self.X[rows], self.network.n_outputs
        size = items_per_block(o * self._bytes_of(1), max(len(X), 1), _FASTEST_BLOCK)
        derivative = grad(single) if o == 1 else jacrev(single)
        return vmap(derivative, in_dims=(None, 0), chunk_size=size)(self.theta, X).view(-1, len(self.theta))

    def _predict(self, theta: Tensor) -> Tensor:
        return self.network.forward(theta, self.X).flatten()

    def _by_columns(self, function: Callable[[Tensor], Tensor], columns: Tensor) -> Tensor:
        size = items_per_block(self._bytes_of(len(self.X)), max(len(columns), 1), _FASTEST_BLOCK)
        return vmap(function, chunk_size=size)(columns)

    def _bytes_of(self, n_rows: int) -> float:
        return float(self.theta.element_size()) * n_rows * self.network.row_numbers

    def _gradient_blocks(self) -> list[slice]:
        held = self.theta.element_size() * 2.0 * self.network.n_params * self.network.n_outputs
        size = items_per_block(held, max(len(self.X), 1))
        return [slice(first, min(first + size, len(self.X))) for first in range(0, len(self.X), size)]
