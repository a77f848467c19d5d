"""Tangents: the Jacobian of a block of rows, as what it is multiplied with.

Those of a multilayer perceptron come from structured derivatives, with no Jacobian made; any other module's go through
``torch.func``, see `_functional`.

For one output, the derivative in layer l's weight is an outer product: J_l(x) = delta_l(x) a_{l-1}(x)^T, with
a_{l-1} the layer's input and delta_l the derivative of the output in the layer's pre-activation (Novak et al. 2022).
Once both are known for a block of rows, products of J with k directions, of J^T with k columns, and J J'^T itself are
small matrix products.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn.neural._functional import FunctionalNetwork, FunctionalTangent
from telescoping_sklearn.neural._network import Architecture, Network

#: Bytes of temporaries beyond which a block of rows gets slower: it leaves the caches and pages come fresh.
_FASTEST_BLOCK = 16 * 2**20


class Tangent(Protocol):
    """The Jacobian of the outputs of a block of rows at one theta."""

    @property
    def n_rows(self) -> int:
        """Rows of the block."""

    @property
    def outputs(self) -> Tensor:
        """The network's predictions, (n_rows,)."""

    def jvp(self, directions: Tensor) -> Tensor:
        """J D^T, (n_rows, k), for k directions in the parameters, (k, p)."""

    def vjp(self, columns: Tensor) -> Tensor:
        """C^T J, (k, p), for k columns over the rows, (n_rows, k)."""

    def kernel(self, other: Any, input_products: Tensor | None = None) -> Tensor:
        """J J'^T, (n_rows, n_other), with a tangent of the same network at the same or another theta.

        Inner products of the rows themselves, (n_rows, n_other), may be given where they were kept.
        """

    def gradients(self) -> Tensor:
        """J itself, (n_rows, p): for few rows only."""


@dataclass(frozen=True)
class LayerwiseTangent:
    """The Jacobian of a multilayer perceptron as structured derivatives.

    Attributes
    ----------
    architecture : Architecture
        The net.
    inputs : list of Tensor of shape (n_rows, fan_in)
        a_{l-1} of every layer.
    deltas : list of Tensor of shape (n_rows, fan_out)
        delta_l of every layer.
    outputs : Tensor of shape (n_rows,)
        The net's predictions.
    """

    architecture: Architecture
    inputs: list[Tensor]
    deltas: list[Tensor]
    outputs: Tensor

    @property
    def n_rows(self) -> int:
        """Rows of the block."""
        return len(self.outputs)

    def jvp(self, directions: Tensor) -> Tensor:
        """J D^T, (n_rows, k), for k directions in the parameters, (k, p)."""
        n_rows, k = len(self.outputs), len(directions)
        product = torch.zeros((n_rows, k), dtype=directions.dtype, device=directions.device)
        for (weight, bias), a, delta in zip(
            self.architecture.layers(directions), self.inputs, self.deltas, strict=True
        ):
            fan_out = delta.shape[1]
            if fan_out == 1:  # delta is a number a row: no intermediate of fan_out columns a direction
                product += (a @ weight[:, 0, :].T + bias[:, 0]) * delta
                continue
            moved = (a @ weight.reshape(k * fan_out, -1).T).view(n_rows, k, fan_out)
            product += torch.bmm(moved, delta[:, :, None]).squeeze(-1)
            product += delta @ bias.T
        return product

    def vjp(self, columns: Tensor) -> Tensor:
        """C^T J, (k, p), for k columns over the rows, (n_rows, k)."""
        n_rows, k = columns.shape
        pieces = []
        for a, delta in zip(self.inputs, self.deltas, strict=True):
            spread = (columns[:, :, None] * delta[:, None, :]).reshape(n_rows, -1)
            pieces.append((spread.T @ a).view(k, -1))
            pieces.append(columns.T @ delta)
        return torch.cat(pieces, dim=1)

    def kernel(self, other: "LayerwiseTangent", input_products: Tensor | None = None) -> Tensor:
        """J J'^T, (n_rows, n_other): sum over layers of (delta . delta') (a . a' + 1)."""
        total, first = torch.empty(0), True
        for a, delta, a_other, delta_other in zip(self.inputs, self.deltas, other.inputs, other.deltas, strict=True):
            kept = input_products if first else None  # only the first layer's inputs are the rows
            term = (a @ a_other.T).add_(1) if kept is None else kept + 1
            term.mul_(delta @ delta_other.T)
            total, first = (term if first else total.add_(term)), False
        return total

    def gradients(self) -> Tensor:
        """J itself, (n_rows, p): for few rows only."""
        return self.vjp(torch.eye(len(self.outputs), dtype=self.outputs.dtype, device=self.outputs.device))


def tangent(network: Network, theta: Tensor, X: Tensor) -> Tangent:
    """Take the Jacobian of a block of rows by the route that the network has.

    Parameters
    ----------
    network : Network
        The network.
    theta : Tensor of shape (p,)
        Where the Jacobian is taken.
    X : Tensor of shape (n_rows, n_features)
        The rows.

    Returns
    -------
    Tangent
        The Jacobian.
    """
    if isinstance(network, Architecture):
        return _layerwise(network, theta, X)
    return FunctionalTangent(cast(FunctionalNetwork, network), theta, X)


def _layerwise(architecture: Architecture, theta: Tensor, X: Tensor) -> LayerwiseTangent:
    """Run the rows forward and back once."""
    layers, activations = list(architecture.layers(theta)), architecture.layer_activations()
    inputs, before, a = [], [], X
    for (weight, bias), activation in zip(layers, activations, strict=True):
        inputs.append(a)
        before.append(torch.addmm(bias, a, weight.T))
        a = activation.value(before[-1])
    deltas = [activations[-1].pull_back(torch.ones_like(before[-1]), before[-1])]
    for level in range(len(layers) - 2, -1, -1):
        deltas.append(activations[level].pull_back(deltas[-1] @ layers[level + 1][0], before[level]))
    return LayerwiseTangent(architecture, inputs, deltas[::-1], a.squeeze(-1))


def row_blocks(
    network: Network, n_rows: int, *, n_columns: int = 0, n_others: int = 0, itemsize: int = 8
) -> Iterator[slice]:
    """Cut rows into blocks whose derivatives and products stay within the working memory and the caches.

    Parameters
    ----------
    network : Network
        The network.
    n_rows : int
        Number of rows.
    n_columns : int, default=0
        Directions or columns that the Jacobian is multiplied with.
    n_others : int, default=0
        Rows that kernels are taken with.
    itemsize : int, default=8
        Bytes of a number.

    Returns
    -------
    iterator of slice
        Consecutive blocks.
    """
    held = itemsize * (network.row_numbers + n_columns * network.column_numbers + 3 * n_others)
    size = items_per_block(held, max(n_rows, 1), most_bytes=_FASTEST_BLOCK)
    return (slice(first, min(first + size, n_rows)) for first in range(0, n_rows, size))
