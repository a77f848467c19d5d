"""Tangents: the Jacobian of a block of rows, as what it is multiplied with.

Those of a multilayer perceptron come from structured derivatives, with no Jacobian made; any other module's go through
``torch.func``, see `_functional`.

The derivative of an output in layer l's weight is an outer product: J_l(x) = delta_l(x) a_{l-1}(x)^T, with a_{l-1} the
layer's input and delta_l the derivative of the output in the layer's pre-activation (Novak et al. 2022). Once both are
known for a block of rows, products of J with k directions, of J^T with k columns, and J J'^T itself are small matrix
products.

With several outputs a row of J is one output of a row of X, the outputs of each row one after the other: n_pairs rows.
Only this module, and whoever goes from rows to pairs, needs to know how many outputs there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn.neural._functional import FunctionalNetwork, FunctionalTangent
from telescoping_sklearn.neural._network import Architecture, Network
from telescoping_sklearn.neural._workspace import buffer

#: Bytes of temporaries beyond which a block of rows gets slower: it leaves the caches and pages come fresh.
_FASTEST_BLOCK = 16 * 2**20


class Tangent(Protocol):
    """The Jacobian of the outputs of a block of rows at one theta."""

    @property
    def n_pairs(self) -> int:
        """Outputs of all rows of the block."""

    def jvp(self, directions: Tensor) -> Tensor:
        """J D^T, (n_pairs, k), for k directions in the parameters, (k, p)."""

    def vjp(self, columns: Tensor) -> Tensor:
        """C^T J, (k, p), for k columns over the outputs, (n_pairs, k)."""

    def kernel(self, other: Any, input_products: Tensor | None = None) -> Tensor:
        """J J'^T, (n_pairs, n_other_pairs), with a tangent of the same network at the same or another theta.

        Inner products of the rows themselves, (n_rows, n_other_rows), may be given where they were kept.
        """

    def gradients(self) -> Tensor:
        """J itself, (n_pairs, p): for few rows only."""


@dataclass(frozen=True)
class LayerwiseTangent:
    """The Jacobian of a multilayer perceptron as structured derivatives.

    Attributes
    ----------
    architecture : Architecture
        The net.
    inputs : list of Tensor of shape (n_rows, fan_in)
        a_{l-1} of every layer.
    deltas : list of Tensor of shape (n_pairs, fan_out)
        delta_l of every layer.
    """

    architecture: Architecture
    inputs: list[Tensor]
    deltas: list[Tensor]

    @property
    def n_pairs(self) -> int:
        """Outputs of all rows of the block."""
        return len(self.inputs[0]) * self.architecture.n_outputs

    def jvp(self, directions: Tensor) -> Tensor:
        """J D^T, (n_pairs, k), for k directions in the parameters, (k, p)."""
        n_rows, k, o = len(self.inputs[0]), len(directions), self.architecture.n_outputs
        product = directions.new_zeros((n_rows, o, k))
        for (weight, bias), a, delta in zip(
            self.architecture.layers(directions), self.inputs, self.deltas, strict=True
        ):
            fan_out, fan_in = weight.shape[1:]
            delta = delta.view(n_rows, o, fan_out)
            if fan_out == 1:  # delta is a number an output: no intermediate of fan_out columns a direction
                product += (a @ weight[:, 0, :].T).add_(bias[:, 0])[:, None] * delta
                continue
            if o == 1 and fan_in < fan_out:  # the contraction over the wider side leaves the smaller intermediate
                by_unit = buffer("rows of weights", (fan_out, k, fan_in), weight).copy_(weight.transpose(0, 1))
                moved = buffer("moved", (n_rows, k * fan_in), weight)
                torch.mm(delta.view(n_rows, fan_out), by_unit.view(fan_out, -1), out=moved)
                product += torch.bmm(moved.view(n_rows, k, fan_in), a.view(n_rows, fan_in, 1)).mT
                product += delta @ bias.T
                continue
            rows = buffer("rows of weights", weight.shape, weight).copy_(weight).view(k * fan_out, fan_in)
            moved = torch.mm(a, rows.T, out=buffer("moved", (n_rows, k * fan_out), weight)).view(n_rows, k, fan_out)
            across = delta.mT if o > 1 else delta.view(n_rows, fan_out, 1)  # a vector's strides: another BLAS routine
            product += torch.bmm(moved, across).mT
            product += delta @ bias.T
        return product.flatten(0, 1)

    def vjp(self, columns: Tensor) -> Tensor:
        """C^T J, (k, p), for k columns over the outputs, (n_pairs, k)."""
        n_rows, k, o = len(self.inputs[0]), columns.shape[1], self.architecture.n_outputs
        by_row = columns.view(n_rows, o, k).mT
        multiply = torch.mul if o == 1 else torch.bmm  # an outer product is faster by mul
        product = columns.new_empty((k, self.architecture.n_params))
        for (for_weight, for_bias), a, delta in zip(
            self.architecture.layers(product), self.inputs, self.deltas, strict=True
        ):
            for_bias.copy_(columns.T @ delta)
            fan_out, fan_in = delta.shape[1], a.shape[1]
            if o == 1 and fan_in < fan_out:  # the narrower side is the one to be scaled
                scaled = torch.mul(by_row, a.view(n_rows, 1, -1), out=buffer("scaled", (n_rows, k, fan_in), delta))
                sums = buffer("sums", (fan_out, k * fan_in), a)
                torch.mm(delta.T, scaled.view(n_rows, -1), out=sums)
                for_weight.copy_(sums.view(fan_out, k, fan_in).transpose(0, 1))
                continue
            scaled = buffer("scaled", (n_rows, k, fan_out), delta)
            multiply(by_row, delta.view(n_rows, o, -1), out=scaled)
            sums = buffer("sums", (k * fan_out, fan_in), a)
            for_weight.copy_(torch.mm(scaled.view(n_rows, -1).T, a, out=sums).view(for_weight.shape))
        return product

    def kernel(self, other: "LayerwiseTangent", input_products: Tensor | None = None) -> Tensor:
        """J J'^T, (n_pairs, n_other_pairs): sum over layers of (delta . delta') (a . a' + 1)."""
        n_rows, n_others, o = len(self.inputs[0]), len(other.inputs[0]), self.architecture.n_outputs
        shape = (n_rows * o, n_others * o)
        total = self.inputs[0].new_empty(shape)
        term, products = total, buffer("products", (n_rows, n_others), total)
        of_pairs = products.view(n_rows, 1, n_others, 1)
        for a, delta, a_other, delta_other in zip(self.inputs, self.deltas, other.inputs, other.deltas, strict=True):
            if term is total and input_products is not None:  # only the first layer's inputs are the rows
                torch.add(input_products, 1, out=products)
            else:
                torch.mm(a, a_other.T, out=products).add_(1)
            torch.mm(delta, delta_other.T, out=term).view(n_rows, o, n_others, o).mul_(of_pairs)
            if term is not total:
                total.add_(term)
            term = buffer("term", shape, total)
        return total

    def gradients(self) -> Tensor:
        """J itself, (n_pairs, p): for few rows only."""
        return self.vjp(torch.eye(self.n_pairs, dtype=self.inputs[0].dtype, device=self.inputs[0].device))


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
    inputs, before = [X], []
    for level, ((weight, bias), activation) in enumerate(zip(layers, activations, strict=True)):
        z = buffer(f"before {level}", (len(X), len(bias)), X)
        before.append(torch.addmm(bias, inputs[-1], weight.T, out=z))
        if level < len(layers) - 1:
            inputs.append(_outside(z, activation.value(z)))
    n_rows, o = len(X), architecture.n_outputs
    deltas = [torch.diag_embed(activations[-1].pull_back(torch.ones_like(before[-1]), before[-1])).view(-1, o)]
    for level in range(len(layers) - 2, -1, -1):
        weight, z = layers[level + 1][0], before[level]
        back = torch.mm(deltas[-1], weight, out=buffer("back", (n_rows * o, z.shape[1]), X)).view(n_rows, o, -1)
        deltas.append(_outside(back, activations[level].pull_back(back, z[:, None])).view(n_rows * o, -1))
    return LayerwiseTangent(architecture, inputs, deltas[::-1])


def _outside(reused: Tensor, result: Tensor) -> Tensor:
    """Return a result that is not the buffer that it was made from, as the identity's is."""
    return result.clone() if result is reused else result


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
    kernels = 3 * n_others * network.n_outputs**2
    held = itemsize * (network.row_numbers + n_columns * network.column_numbers + kernels)
    size = items_per_block(held, max(n_rows, 1), most_bytes=_FASTEST_BLOCK)
    return (slice(first, min(first + size, n_rows)) for first in range(0, n_rows, size))
