"""Layers of a chain: what each computes, how it takes a gradient back, and what its own parameters add to a Jacobian.

A layer gets its part of theta, which holds its trained tensors only; tensors that are held fixed belong to the layer.
Outputs of the chain are taken together, those of a row one after the other: gradients have n_rows * n_outputs lines.

A layer that multiplies with a weight, linear or convolution, does so at one or more positions of a row. With a(q) its
input at position q, the patch that the kernel covers, and delta(q) the derivative of the output there, the Jacobian in
the weight is the sum over q of delta(q) a(q)^T. With one position products never form it (Novak et al. 2022). With
several it is formed in blocks of rows where that takes fewer multiplications.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn.neural._activations import Elementwise, elementwise_of
from telescoping_sklearn.neural._workspace import buffer

#: Bytes of temporaries beyond which products over positions get slower.
_FASTEST_BLOCK = 32 * 2**20


class Term(Protocol):
    """What the trained tensors of one layer add to the products of a Jacobian, with n rows and o outputs."""

    def add_jvp(self, product: Tensor, directions: Tensor) -> None:
        """Add J D^T, (n, o, k), for directions in the layer's parameters, (k, p_l)."""

    def write_vjp(self, product: Tensor, columns: Tensor) -> None:
        """Write C^T J, (k, p_l), for columns, (n * o, k)."""

    def write_kernel(self, product: Tensor, other: Any, input_products: Tensor | None) -> None:
        """Write J J'^T, (n * o, n' * o), given inner products of the layer's inputs where they are known."""

    def write_gradients(self, product: Tensor) -> None:
        """Write J, (n * o, p_l)."""


class Layer(Protocol):
    """One function of a chain.

    ``reused`` names a buffer for the result: whoever takes it does not keep it.
    """

    @property
    def n_params(self) -> int:
        """Number of trained parameters."""

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        """Output for rows, differentiable by autograd."""

    def run(self, theta: Tensor, x: Tensor, reused: str | None) -> tuple[Tensor, Any]:
        """Output for rows, and what the derivative needs of it."""

    def pull_back(self, theta: Tensor, kept: Any, gradient: Tensor, n_outputs: int, reused: str | None) -> Tensor:
        """Take the derivative in the output, (n * o, ...), back to the input, (n * o, ...)."""


class Weighted(Layer, Protocol):
    """A layer with a weight."""

    affine: "Affine"

    @property
    def n_positions(self) -> int:
        """Positions at which the weight is used."""

    def term(self, kept: Any, gradient: Tensor, n_outputs: int) -> Term:
        """Part of the trained parameters in the Jacobian, from the derivative in the output."""


class Constant:
    """A tensor that is held fixed, in any precision and on any device."""

    def __init__(self, value: Tensor):
        self.value = value.detach().clone()
        self._last = self.value

    def like(self, other: Tensor) -> Tensor:
        """Return it in the precision and on the device of another tensor."""
        last = self._last  # another thread may ask for another precision meanwhile
        if last.dtype != other.dtype or last.device != other.device:
            self._last = last = self.value.to(other)
        return last


@dataclass(frozen=True)
class Affine:
    """A weight, and a bias or none, each trained or held fixed.

    Attributes
    ----------
    shape : tuple of int
        Shape of the weight, outputs first.
    has_bias : bool
        Whether there is a bias.
    weight, bias : Constant or None
        Fixed values; None where it is trained, or there is none.
    """

    shape: tuple[int, ...]
    has_bias: bool = True
    weight: Constant | None = None
    bias: Constant | None = None

    @cached_property
    def fan_out(self) -> int:
        """Outputs at every position."""
        return self.shape[0]

    @cached_property
    def fan_in(self) -> int:
        """Inputs of every position."""
        return prod(self.shape[1:])

    @cached_property
    def trains_weight(self) -> bool:
        """Whether the weight is part of theta."""
        return self.weight is None

    @cached_property
    def trains_bias(self) -> bool:
        """Whether there is a bias that is part of theta."""
        return self.has_bias and self.bias is None

    @cached_property
    def n_params(self) -> int:
        """Number of trained parameters."""
        return self.trains_weight * prod(self.shape) + self.trains_bias * self.fan_out

    def trained(self, theta: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """View theta, (..., p_l), as weight, (..., fan_out, fan_in), and bias, (..., fan_out), where trained."""
        weight, bias = None, None
        if self.trains_weight:
            size = self.n_params - self.trains_bias * self.fan_out
            weight = theta[..., :size].view(*theta.shape[:-1], self.fan_out, self.fan_in)
            bias = theta[..., size:] if self.trains_bias else None
        elif self.trains_bias:
            bias = theta
        return weight, bias

    def tensors(self, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight, (fan_out, fan_in), and bias or None, whether trained or not."""
        weight, bias = self.trained(theta)
        if self.weight is not None:
            weight = self.weight.like(theta).view(self.fan_out, self.fan_in)
        if self.bias is not None:
            bias = self.bias.like(theta)
        assert weight is not None
        return weight, bias


@dataclass(frozen=True)
class Linear:
    """A linear layer over the last axis of its input, of which the axes before are positions."""

    affine: Affine
    n_positions: int = 1

    @property
    def n_params(self) -> int:
        """Number of trained parameters."""
        return self.affine.n_params

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        """Output for rows, differentiable by autograd."""
        return nn.functional.linear(x, *self.affine.tensors(theta))

    def run(self, theta: Tensor, x: Tensor, reused: str | None) -> tuple[Tensor, Any]:
        """Output for rows, and the input."""
        weight, bias = self.affine.tensors(theta)
        lines = x if x.dim() == 2 else x.reshape(-1, self.affine.fan_in)
        out = None if reused is None else buffer(reused, (len(lines), self.affine.fan_out), x)
        z = torch.mm(lines, weight.T, out=out) if bias is None else torch.addmm(bias, lines, weight.T, out=out)
        return z if x.dim() == 2 else z.view(*x.shape[:-1], self.affine.fan_out), x

    def pull_back(self, theta: Tensor, kept: Any, gradient: Tensor, n_outputs: int, reused: str | None) -> Tensor:
        """Take the derivative back to the input."""
        weight, _ = self.affine.tensors(theta)
        lines = gradient if gradient.dim() == 2 else gradient.reshape(-1, self.affine.fan_out)
        out = None if reused is None else buffer(reused, (len(lines), self.affine.fan_in), gradient)
        back = torch.mm(lines, weight, out=out)
        return back if gradient.dim() == 2 else back.view(*gradient.shape[:-1], self.affine.fan_in)

    def term(self, kept: Any, gradient: Tensor, n_outputs: int) -> Term:
        """Part of the layer's parameters in the Jacobian."""
        if self.n_positions == 1:
            return Dense(self.affine, kept.reshape(len(kept), -1), gradient.reshape(len(gradient), -1), n_outputs)
        n, shape = len(kept), (self.n_positions, self.affine.fan_out)
        delta = gradient.reshape(n, n_outputs, *shape).mT.contiguous()
        return Positions(self.affine, self, kept, delta)

    def patches(self, kept: Tensor) -> Tensor:
        """List inputs of every position, (n, fan_in, n_positions)."""
        return kept.reshape(len(kept), self.n_positions, -1).mT


class Window(NamedTuple):
    """How a convolution moves over its input, in one or two dimensions."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True)
class Convolution:
    """A convolution in one or two dimensions, without groups, padded with zeros on both sides alike."""

    affine: Affine
    window: Window
    size_in: tuple[int, ...]  # of the input, without channels
    size_out: tuple[int, ...]

    @property
    def n_params(self) -> int:
        """Number of trained parameters."""
        return self.affine.n_params

    @property
    def n_positions(self) -> int:
        """Places where the kernel is put."""
        return prod(self.size_out)

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        """Output for rows, differentiable by autograd."""
        weight, bias = self.affine.tensors(theta)
        still = [0] * len(self.size_in)
        return torch.convolution(x, weight.reshape(self.affine.shape), bias, *self.window, False, still, 1)

    def run(self, theta: Tensor, x: Tensor, reused: str | None) -> tuple[Tensor, Any]:
        """Output for rows, and the input."""
        return self.forward(theta, x), x

    def pull_back(self, theta: Tensor, kept: Any, gradient: Tensor, n_outputs: int, reused: str | None) -> Tensor:
        """Take the derivative back to the input, by the transposed convolution."""
        weight = self.affine.tensors(theta)[0].reshape(self.affine.shape)
        left = [
            size - ((out - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
            for size, out, kernel, stride, padding, dilation in zip(
                self.size_in, self.size_out, self.affine.shape[2:], *self.window, strict=True
            )
        ]
        return torch.convolution(gradient, weight, None, *self.window, True, left, 1)

    def term(self, kept: Any, gradient: Tensor, n_outputs: int) -> Term:
        """Part of the layer's parameters in the Jacobian."""
        if self.n_positions == 1:
            return Dense(self.affine, self.patches(kept)[..., 0], gradient.reshape(len(gradient), -1), n_outputs)
        shape = (len(kept), n_outputs, self.affine.fan_out, self.n_positions)
        return Positions(self.affine, self, kept, gradient.reshape(shape))

    def patches(self, kept: Tensor) -> Tensor:
        """List inputs under the kernel at every position, (n, fan_in, n_positions)."""
        kernel, (stride, padding, dilation) = self.affine.shape[2:], self.window
        if len(kernel) == 1:  # one line of pixels
            kept = kept[:, :, None]
            kernel, stride, padding, dilation = (1, *kernel), (1, *stride), (0, *padding), (1, *dilation)
        return nn.functional.unfold(kept, kernel, dilation=dilation, padding=padding, stride=stride)


@dataclass(frozen=True)
class Activation:
    """An elementwise module whose derivative is known."""

    part: nn.Module
    n_params = 0

    @property
    def elementwise(self) -> Elementwise:
        """The function and its derivative, looked up every time, since functions cannot always be pickled."""
        return elementwise_of(self.part)

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        """Output for rows, differentiable by autograd."""
        return self.elementwise.value(x)

    def run(self, theta: Tensor, x: Tensor, reused: str | None) -> tuple[Tensor, Any]:
        """Output for rows, in memory of its own, and the input."""
        value = self.elementwise.value(x)
        return value.clone() if value.data_ptr() == x.data_ptr() else value, x

    def pull_back(self, theta: Tensor, kept: Any, gradient: Tensor, n_outputs: int, reused: str | None) -> Tensor:
        """Take the derivative back to the input, in memory of its own."""
        if n_outputs == 1:
            result = self.elementwise.pull_back(gradient, kept)
        else:
            by_row = gradient.reshape(len(kept), n_outputs, *kept.shape[1:])
            result = self.elementwise.pull_back(by_row, kept[:, None]).reshape(gradient.shape)
        return result.clone() if result.data_ptr() == gradient.data_ptr() else result


@dataclass(frozen=True)
class Unparametrised:
    """A module without parameters that treats rows alike, such as pooling or reshaping; autograd differentiates it.

    It does not change its input in place.
    """

    part: nn.Module
    n_params = 0

    def forward(self, theta: Tensor, x: Tensor) -> Tensor:
        """Output for rows, differentiable by autograd."""
        return self.part(x)

    def run(self, theta: Tensor, x: Tensor, reused: str | None) -> tuple[Tensor, Any]:
        """Output for rows, and input and output in a graph of their own."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            output = self.part(x)
        return output.detach(), (x, output)

    def pull_back(self, theta: Tensor, kept: Any, gradient: Tensor, n_outputs: int, reused: str | None) -> Tensor:
        """Take the derivative back to the input, one output of the chain after the other."""
        x, output = kept
        by_output = gradient.reshape(len(x), n_outputs, *output.shape[1:]).unbind(1)
        found = [torch.autograd.grad(output, x, part, retain_graph=True)[0] for part in by_output]
        return found[0] if n_outputs == 1 else torch.stack(found, dim=1).flatten(0, 1)


@dataclass(frozen=True)
class Dense:
    """The term of a layer with one position: delta a^T, never formed."""

    affine: Affine
    a: Tensor  # (n, fan_in)
    delta: Tensor  # (n * o, fan_out)
    n_outputs: int

    @property
    def _scales_inputs(self) -> bool:
        """Whether products sum over the outputs first: over the wider side, which leaves the smaller intermediate."""
        return self.n_outputs == 1 and self.affine.fan_in < self.affine.fan_out

    def add_jvp(self, product: Tensor, directions: Tensor) -> None:
        """Add J D^T, (n, o, k)."""
        n, o, k = product.shape
        weight, bias = self.affine.trained(directions)
        fan_out = self.affine.fan_out
        delta = self.delta.view(n, o, fan_out)
        if fan_out == 1 and weight is not None:  # delta is a number: no intermediate of fan_out columns a direction
            moved = self.a @ weight[:, 0, :].T
            product += (moved if bias is None else moved.add_(bias[:, 0]))[:, None] * delta
            return
        if weight is not None and self._scales_inputs:
            fan_in = self.affine.fan_in
            by_unit = buffer("rows of weights", (fan_out, k, fan_in), weight).copy_(weight.transpose(0, 1))
            moved = torch.mm(self.delta, by_unit.view(fan_out, -1), out=buffer("moved", (n, k * fan_in), weight))
            product += torch.bmm(moved.view(n, k, fan_in), self.a.view(n, fan_in, 1)).mT
        elif weight is not None:
            rows = buffer("rows of weights", weight.shape, weight).copy_(weight).view(k * fan_out, -1)
            moved = torch.mm(self.a, rows.T, out=buffer("moved", (n, k * fan_out), weight)).view(n, k, fan_out)
            across = delta.mT if o > 1 else delta.view(n, fan_out, 1)  # a vector's strides: another BLAS routine
            product += torch.bmm(moved, across).mT
        if bias is not None:
            product += delta @ bias.T

    def write_vjp(self, product: Tensor, columns: Tensor) -> None:
        """Write C^T J, (k, p_l)."""
        (n, k), o, fan_out = (len(self.a), columns.shape[1]), self.n_outputs, self.affine.fan_out
        for_weight, for_bias = self.affine.trained(product)
        if for_weight is not None and self._scales_inputs:
            fan_in = self.affine.fan_in
            scaled = buffer("scaled", (n, k, fan_in), self.a)
            torch.mul(columns.view(n, k, 1), self.a.view(n, 1, fan_in), out=scaled)
            sums = buffer("sums", (fan_out, k * fan_in), self.a)
            torch.mm(self.delta.T, scaled.view(n, -1), out=sums)
            for_weight.copy_(sums.view(fan_out, k, fan_in).transpose(0, 1))
        elif for_weight is not None:
            by_row = columns.view(n, o, k).mT
            multiply = torch.mul if o == 1 else torch.bmm  # an outer product is faster by mul
            scaled = buffer("scaled", (n, k, fan_out), self.delta)
            multiply(by_row, self.delta.view(n, o, -1), out=scaled)
            sums = buffer("sums", (k * fan_out, self.a.shape[1]), self.a)
            for_weight.copy_(torch.mm(scaled.view(n, -1).T, self.a, out=sums).view(for_weight.shape))
        if for_bias is not None:
            for_bias.copy_(columns.T @ self.delta)

    def write_kernel(self, product: Tensor, other: "Dense", input_products: Tensor | None) -> None:
        """Write (delta . delta') (a . a' + 1), with only the one or the other of the sum where only that is trained."""
        torch.mm(self.delta, other.delta.T, out=product)
        if not self.affine.trains_weight:
            return
        n, n_others, o = len(self.a), len(other.a), self.n_outputs
        inner = buffer("products", (n, n_others), product)
        if input_products is None:
            torch.mm(self.a, other.a.T, out=inner)
            if self.affine.trains_bias:
                inner.add_(1)
        elif self.affine.trains_bias:
            torch.add(input_products, 1, out=inner)
        else:
            inner = input_products
        product.view(n, o, n_others, o).mul_(inner[:, None, :, None])

    def write_gradients(self, product: Tensor) -> None:
        """Write J, (n * o, p_l)."""
        for_weight, for_bias = self.affine.trained(product)
        if for_weight is not None:
            inputs = self.a.repeat_interleave(self.n_outputs, dim=0) if self.n_outputs > 1 else self.a
            torch.mul(self.delta[:, :, None], inputs[:, None, :], out=for_weight)
        if for_bias is not None:
            for_bias.copy_(self.delta)


@dataclass(frozen=True)
class Positions:
    """The term of a layer with several positions: the sum over them of delta(q) a(q)^T."""

    affine: Affine
    layer: "Linear | Convolution"
    kept: Tensor  # (n, ...), the layer's input
    delta: Tensor  # (n, o, fan_out, n_positions)

    @property
    def n_outputs(self) -> int:
        """Outputs of the chain."""
        return self.delta.shape[1]

    def add_jvp(self, product: Tensor, directions: Tensor) -> None:
        """Add J D^T, (n, o, k), through gradients of rows or through every position."""
        k = product.shape[2]
        weight, bias = self.affine.trained(directions)
        if self._forms_gradients(k):
            for rows in self._blocks(self.n_outputs * self.affine.n_params):
                product[rows] += self._gradients(rows) @ directions.T
            return
        if weight is not None:
            fan_out = self.affine.fan_out
            lines = weight.reshape(k * fan_out, -1)
            for rows in self._blocks(k * fan_out * self.delta.shape[3] + lines.shape[1] * self.delta.shape[3]):
                moved = (lines @ self._patches(rows)).view(-1, k, fan_out * self.delta.shape[3])
                product[rows] += torch.bmm(self.delta[rows].flatten(2), moved.mT)
        if bias is not None:
            product += self.delta.sum(3) @ bias.T

    def write_vjp(self, product: Tensor, columns: Tensor) -> None:
        """Write C^T J, (k, p_l), through gradients of rows or through every position."""
        k, o = columns.shape[1], self.n_outputs
        by_row = columns.view(-1, o, k)
        if self._forms_gradients(k):
            product.zero_()
            for rows in self._blocks(o * self.affine.n_params):
                product += by_row[rows].flatten(0, 1).T @ self._gradients(rows).flatten(0, 1)
            return
        for_weight, for_bias = self.affine.trained(product)
        if for_weight is not None:
            fan_out, n_positions = self.delta.shape[2:]
            for_weight.zero_()
            for rows in self._blocks((k * fan_out + self.affine.fan_in) * n_positions):
                scaled = torch.bmm(by_row[rows].mT, self.delta[rows].flatten(2)).view(-1, k * fan_out, n_positions)
                for_weight += torch.bmm(scaled, self._patches(rows).mT).sum(0).view(for_weight.shape)
        if for_bias is not None:
            for_bias.copy_(columns.T @ self.delta.sum(3).flatten(0, 1))

    def write_kernel(self, product: Tensor, other: "Positions", input_products: Tensor | None) -> None:
        """Write J J'^T, from gradients of rows or from products of positions, whichever multiplies less."""
        o = self.n_outputs
        through_positions = self.positions_cost(self.affine, self.delta.shape[3], o) < o**2 * self.affine.n_params
        write = self._from_positions if through_positions else self._from_gradients
        by_row = product.view(len(self.kept), o, len(other.kept), o)
        write(by_row, other)

    def write_gradients(self, product: Tensor) -> None:
        """Write J, (n * o, p_l)."""
        product.copy_(self._gradients(slice(None)).flatten(0, 1))

    @staticmethod
    def positions_cost(affine: Affine, n_positions: int, n_outputs: int) -> int:
        """Multiplications of the kernel of two rows through products of positions."""
        weight = affine.trains_weight * (affine.fan_in + n_outputs**2)
        return n_positions**2 * (n_outputs**2 * affine.fan_out + weight)

    def _from_gradients(self, product: Tensor, other: "Positions") -> None:
        held = self.n_outputs * self.affine.n_params
        for columns in other._blocks(held):
            there = other._gradients(columns).flatten(0, 1)
            for rows in self._blocks(held):
                part = product[rows, :, columns]
                part.copy_((self._gradients(rows).flatten(0, 1) @ there.T).view(part.shape))

    def _from_positions(self, product: Tensor, other: "Positions") -> None:
        o, fan_out, q = self.delta.shape[1:]
        for columns in other._blocks((o * fan_out + self.affine.fan_in) * q):
            delta_there = other.delta[columns].permute(2, 0, 1, 3).reshape(fan_out, -1)
            a_there = other._patches(columns).permute(1, 0, 2).reshape(self.affine.fan_in, -1)
            n_there = a_there.shape[1] // q
            for rows in self._blocks(2.0 * o**2 * q**2 * n_there):
                of_deltas = self.delta[rows].mT.reshape(-1, fan_out) @ delta_there
                pairs = of_deltas.view(-1, o, q, n_there, o, q)
                if self.affine.trains_weight:
                    inner = self._patches(rows).mT.reshape(-1, self.affine.fan_in) @ a_there
                    if self.affine.trains_bias:
                        inner += 1
                    pairs.mul_(inner.view(-1, 1, q, n_there, 1, q))
                elif not self.affine.trains_bias:
                    pairs.zero_()
                product[rows, :, columns] = pairs.sum((2, 5))

    def _forms_gradients(self, k: int) -> bool:
        """Whether gradients of rows multiply less than k columns at every position."""
        o, n_positions = self.n_outputs, self.delta.shape[3]
        return o * (n_positions + k) <= n_positions * k

    def _gradients(self, rows: slice) -> Tensor:
        """J of some rows, (n_rows, o, p_l)."""
        delta, parts = self.delta[rows], []
        if self.affine.trains_weight:
            by_row = torch.bmm(delta.flatten(1, 2), self._patches(rows).mT)
            parts.append(by_row.view(len(delta), self.n_outputs, -1))
        if self.affine.trains_bias:
            parts.append(delta.sum(3))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _patches(self, rows: slice) -> Tensor:
        return self.layer.patches(self.kept[rows])

    def _blocks(self, numbers: float) -> Iterator[slice]:
        """Cut the rows, of which each holds so many numbers for a while."""
        n = len(self.kept)
        size = items_per_block(self.delta.element_size() * (numbers + 1.0), max(n, 1), _FASTEST_BLOCK)
        return (slice(first, min(first + size, n)) for first in range(0, n, size))
