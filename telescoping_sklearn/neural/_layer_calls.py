"""Calls of layers inside any module, and the Jacobian of the outputs in their parameters from one pass back.

A module may do anything between its layers. Where a layer with parameters is called as a function of torch (linear,
convolution, embedding, normalisation), the derivative of an output in its weight is a sum over positions of products of
what went into the layer and of the derivative in what came out of it. `CallRecorder` watches these calls while the
module runs on a block of rows. One pass back for each output of the module gives the derivatives of all rows at once,
since rows do not depend on each other: no pass for each row, direction or column.

The Jacobian in one parameter is kept as it is cheapest: `Outer` for a layer that sees one position, as in multilayer
perceptrons, and `Block` for the others.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn.neural._workspace import buffer

#: Bytes of a Jacobian made at once of the factors of an outer product.
_FASTEST_BLOCK = 4 * 2**20


#: Columns, over the larger side of an outer product, from which on it is cheaper to make the Jacobian.
_MANY = 0.5


class LayerCall(NamedTuple):
    """A call of a layer.

    Attributes
    ----------
    weight, bias : Tensor or None
        Parameters that it was called with.
    kind : {"product", "lookup", "scale"}
        The Jacobian in the weight: sum_t delta_t a_t^T; sum_t a_t delta_t^T with unit vectors a_t; or
        sum_t delta_t * a_t.
    inputs : Tensor
        a, (n_rows, n_groups, n_positions, fan_in); the numbers of the unit vectors, (n_rows, n_positions), -1 for none;
        or of the shape of the output.
    channels_last : bool
        Whether the output's channels, along which the bias lies, come last, or follow the rows.
    output : Tensor
        What it gave; when it is recorded, the tensor whose derivatives are taken.
    """

    weight: Any
    bias: Any
    kind: Literal["product", "lookup", "scale"]
    inputs: Tensor
    channels_last: bool
    output: Any = None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> LayerCall | None:
    if x.dim() < 2:
        return None
    return LayerCall(weight, bias, "product", x.reshape(len(x), 1, -1, x.shape[-1]), True)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> LayerCall | None:
    """Lay out the patch that every position sees."""
    n, size = weight.dim() - 2, tuple(weight.shape[2:])
    if x.dim() != weight.dim():
        return None  # a single row without its axis
    stride, dilation = (_by_axis(of, n) for of in (stride, dilation))
    if isinstance(padding, str):
        around = [d * (length - 1) if padding == "same" else 0 for d, length in zip(dilation, size, strict=True)]
    else:
        around = [2 * side for side in _by_axis(padding, n)]
    if any(around):
        x = F.pad(x, [side for whole in reversed(around) for side in (whole // 2, whole - whole // 2)])
    steps = x.stride()[2:]
    spans = [1 + d * (length - 1) for d, length in zip(dilation, size, strict=True)]
    places = [1 + (whole - span) // step for whole, span, step in zip(x.shape[2:], spans, stride, strict=True)]
    within = [one * d for one, d in zip(steps, dilation, strict=True)]
    between = [one * step for one, step in zip(steps, stride, strict=True)]
    # A view, (n_rows, channels, places, patch), of which one copy is made; `unfold` takes several times longer.
    patches = x.as_strided((*x.shape[:2], *places, *size), (*x.stride()[:2], *between, *within))
    patches = patches.movedim(1, 1 + n).reshape(len(x), math.prod(places), groups, -1).swapaxes(1, 2)
    return LayerCall(weight, bias, "product", patches, False)


def _by_axis(value: Any, n_axes: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * n_axes if len(values) == 1 else values


def _embedding(
    codes: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> LayerCall | None:
    if max_norm is not None or scale_grad_by_freq:
        return None  # the weight changes, or its gradient depends on the other rows
    flat = codes.reshape(len(codes), -1)
    if padding_idx is not None:  # torch gives that code no gradient
        flat = torch.where(flat == padding_idx % len(weight), -1, flat)
    return LayerCall(weight, None, "lookup", flat, True)


def _layer_norm(
    x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> LayerCall:
    return LayerCall(weight, bias, "scale", F.layer_norm(x, shape, eps=eps), True)


def _group_norm(
    x: Tensor, n_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> LayerCall:
    return LayerCall(weight, bias, "scale", F.group_norm(x, n_groups, eps=eps), False)


def _batch_norm(
    x: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> LayerCall | None:
    if training:
        return None  # rows depend on each other
    return LayerCall(weight, bias, "scale", F.batch_norm(x, mean, variance, eps=eps), False)


#: Functions of torch with what reads a call of them; None where a call is of another kind than those known.
_READERS: dict[Any, Callable[..., LayerCall | None]] = {
    F.linear: _linear,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
}


class CallRecorder(TorchFunctionMode):
    """Records, while it is entered, the calls of layers that are given some parameters.

    Parameters
    ----------
    parameters : dict of str to Tensor
        The parameters, which must not require gradients, by name.

    Attributes
    ----------
    calls : list of LayerCall
        The calls in order; ``weight`` and ``bias`` are names. Their outputs require gradients.
    used_otherwise : set of str
        Names of parameters that other functions computed with.
    """

    def __init__(self, parameters: dict[str, Tensor]):
        super().__init__()
        self._names = {id(part): name for name, part in parameters.items()}
        self.calls: list[LayerCall] = []
        self.used_otherwise: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, and record it if it is a layer's."""
        kwargs = kwargs or {}
        names = {self._names[id(part)] for part in _tensors((args, kwargs)) if id(part) in self._names}
        with torch._C.DisableTorchFunction():  # modes of the caller, such as a default device, stay out
            output = func(*args, **kwargs)
        if not names:
            return output
        call = self._read(func, args, kwargs)
        if call is None:
            if next(_tensors(output), None) is not None:  # otherwise it has only been looked at
                self.used_otherwise |= names
            return output
        weight, bias = (self._names.get(id(part)) for part in (call.weight, call.bias))
        self.used_otherwise |= names - {weight, bias}
        leaf = output if output.requires_grad else output.detach().requires_grad_()
        self.calls.append(call._replace(weight=weight, bias=bias, inputs=call.inputs.detach(), output=leaf))
        return leaf.clone()  # the module may work on it in place

    def __enter__(self) -> "CallRecorder":
        """Watch calls, also where modes that do so are off."""
        self._watching = torch._C._EnableTorchFunction()
        self._watching.__enter__()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        """Watch no more."""
        super().__exit__(*raised)
        self._watching.__exit__(*raised)

    def _read(self, func: Any, args: Any, kwargs: Any) -> LayerCall | None:
        if func not in _READERS:
            return None
        rest = dict(kwargs)
        first = (rest.pop("input"),) if "input" in rest else ()
        with torch.no_grad(), torch._C.DisableTorchFunction():
            return _READERS[func](*first, *args, **rest)


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested arguments."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


class Block(NamedTuple):
    """The Jacobian of the outputs in some parameters, as an array."""

    values: Tensor  # (n_pairs, n_parameters)

    @property
    def pair_operations(self) -> int:
        """Multiplications of one entry of a kernel, which are also the numbers held for an output of a row."""
        return self.values.shape[1]

    @property
    def column_numbers(self) -> int:
        """Numbers held for an output of a row and a column."""
        return 0

    def jvp(self, directions: Tensor) -> Tensor:
        """J D^T, (n_pairs, k)."""
        return self.values @ directions.T

    def vjp(self, columns: Tensor) -> Tensor:
        """C^T J, (k, n_parameters)."""
        return columns.T @ self.values

    def dense(self) -> Tensor:
        """J itself."""
        return self.values


class Outer(NamedTuple):
    """The Jacobian of every output in a weight as an outer product: left right^T, row by row of the weight."""

    left: Tensor  # (n_pairs, l)
    right: Tensor  # (n_pairs, r)

    @property
    def pair_operations(self) -> int:
        """Multiplications of one entry of a kernel, which are also the numbers held for an output of a row."""
        return sum(self._sizes)

    @property
    def column_numbers(self) -> int:
        """Numbers held for an output of a row and a column."""
        return min(self._sizes)

    def jvp(self, directions: Tensor) -> Tensor:
        """J D^T, (n_pairs, k)."""
        n, k, (a, b) = len(self.left), len(directions), self._sizes
        if k >= _MANY * max(a, b):
            return torch.cat([block @ directions.T for _, block in self._dense_blocks()])
        if a <= b:
            rows = buffer("rows of weights", (k, a * b), directions).copy_(directions).view(k * a, b)
            within, across = torch.mm(self.right, rows.T, out=buffer("moved", (n, k * a), rows)), self.left
        else:
            rows = buffer("rows of weights", (a, k, b), directions).copy_(directions.view(k, a, b).swapaxes(0, 1))
            within = torch.mm(self.left, rows.view(a, k * b), out=buffer("moved", (n, k * b), rows))
            across = self.right
        return within.view(n, k, -1).mul_(across[:, None]).sum(-1)

    def vjp(self, columns: Tensor) -> Tensor:
        """C^T J, (k, l * r)."""
        n, k, (a, b) = len(self.left), columns.shape[1], self._sizes
        if k >= _MANY * max(a, b):
            total = columns.new_zeros((k, a * b))
            for rows, block in self._dense_blocks():
                total.addmm_(columns[rows].T, block)
            return total
        if a <= b:
            scaled = torch.mul(columns[:, :, None], self.left[:, None], out=buffer("scaled", (n, k, a), columns))
            return (scaled.view(n, k * a).T @ self.right).view(k, a * b)
        scaled = torch.mul(columns[:, :, None], self.right[:, None], out=buffer("scaled", (n, k, b), columns))
        return (self.left.T @ scaled.view(n, k * b)).view(a, k, b).swapaxes(0, 1).reshape(k, a * b)

    def dense(self) -> Tensor:
        """J itself."""
        return (self.left[:, :, None] * self.right[:, None]).flatten(1)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.left.shape[1], self.right.shape[1]

    def _dense_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield J in blocks of rows; the memory of a block is used again for the next."""
        n, (a, b) = len(self.left), self._sizes
        size = items_per_block(self.left.element_size() * a * b, n, _FASTEST_BLOCK)
        for first in range(0, n, size):
            rows = slice(first, min(first + size, n))
            block = buffer("outer", (rows.stop - first, a, b), self.left)
            yield rows, torch.mul(self.left[rows, :, None], self.right[rows, None], out=block).flatten(1)


Part = Block | Outer


def kernel(part: Part, other: Part) -> Tensor:
    """Multiply two Jacobians in the same parameters, J J'^T, (n_pairs, n_other_pairs)."""
    if isinstance(part, Outer) and isinstance(other, Outer):
        return (part.left @ other.left.T).mul_(part.right @ other.right.T)
    return part.dense() @ other.dense().T


def jacobian_parts(calls: list[LayerCall], outputs: Tensor, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Take the Jacobian of outputs in the parameters of recorded calls.

    Parameters
    ----------
    calls : list of LayerCall
        Calls that outputs were made with.
    outputs : Tensor of shape (n_rows,) or (n_rows, n_outputs)
        Outputs of the module.
    shapes : dict of str to tuple
        Shapes of the parameters whose Jacobian is asked for.

    Returns
    -------
    dict of str to Block or Outer
        By name of the parameter; those that took no part are missing.
    """
    if not outputs.requires_grad:
        return {}
    with torch.enable_grad():
        of_outputs = outputs.view(len(outputs), -1).sum(0).unbind()
    reached = [call.output for call in calls]
    taken = [
        torch.autograd.grad(of_output, reached, retain_graph=number < len(of_outputs) - 1, allow_unused=True)
        for number, of_output in enumerate(of_outputs)
    ]
    parts: dict[str, Any] = {}
    for call, *derivatives in zip(calls, *taken, strict=True):
        if all(delta is None for delta in derivatives):
            continue
        known = [torch.zeros_like(call.output) if d is None else d for d in derivatives]
        delta = torch.stack(known, dim=1) if len(known) > 1 else known[0][:, None]
        for name, part in _parts_of(call, delta, shapes):
            parts[name] = part if name not in parts else Block(parts[name].dense() + part.dense())
    return parts


def _parts_of(call: LayerCall, delta: Tensor, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, Any]]:
    """Yield the Jacobian in weight and bias of a call; delta is (n_rows, n_outputs, ...)."""
    if call.weight in shapes:
        yield call.weight, _READ_WEIGHTS[call.kind](call, delta, shapes[call.weight])
    if call.bias in shapes:
        yield call.bias, Block(_over_positions(delta, shapes[call.bias], call.channels_last))


def _over_positions(values: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """Sum (n_rows, n_outputs, ...) over positions, (n_pairs, n_channels)."""
    by_row = values.flatten(0, 1)
    n_channels = math.prod(shape)
    if n_channels * len(by_row) == by_row.numel():
        return by_row.reshape(-1, n_channels)
    if channels_last:
        return by_row.reshape(len(by_row), -1, n_channels).sum(1)
    return by_row.reshape(len(by_row), n_channels, -1).sum(2)


def _of_product(call: LayerCall, delta: Tensor, shape: tuple[int, ...]) -> Block | Outer:
    a = call.inputs  # (n_rows, n_groups, n_positions, fan_in)
    n, o, groups = len(a), delta.shape[1], a.shape[1]
    if call.channels_last:
        across = delta.reshape(n, o, 1, -1, shape[0]).mT
    else:
        across = delta.reshape(n, o, groups, shape[0] // groups, -1)
    if groups == a.shape[2] == 1 and min(shape[0], a.shape[3]) > 1:
        right = a.view(n, -1) if o == 1 else a.view(n, -1).repeat_interleave(o, dim=0)
        return Outer(across.reshape(n * o, -1), right)
    if a.shape[2] == 1:  # one position: products of numbers
        return Block((across * a[:, None]).reshape(n * o, -1))
    return Block(torch.matmul(across, a[:, None]).reshape(n * o, -1))


def _of_lookup(call: LayerCall, delta: Tensor, shape: tuple[int, ...]) -> Block | Outer:
    codes, (n, o) = call.inputs, delta.shape[:2]
    by_position = delta.reshape(n, o, codes.shape[1], shape[1])
    if codes.shape[1] == 1 and min(shape) > 1:
        unit = (codes == torch.arange(shape[0], device=codes.device)).to(delta.dtype)
        return Outer(unit.repeat_interleave(o, dim=0), by_position.reshape(n * o, -1))
    values = delta.new_zeros((n, o, shape[0] + 1, shape[1]))  # -1 is the last row, which nobody looks up
    places = torch.where(codes < 0, shape[0], codes)[:, None, :, None].expand_as(by_position)
    return Block(values.scatter_add_(2, places, by_position)[:, :, :-1].reshape(n * o, -1))


def _of_scale(call: LayerCall, delta: Tensor, shape: tuple[int, ...]) -> Block:
    return Block(_over_positions(delta * call.inputs[:, None], shape, call.channels_last))


_READ_WEIGHTS: dict[str, Callable[[LayerCall, Tensor, tuple[int, ...]], Any]] = {
    "product": _of_product,
    "lookup": _of_lookup,
    "scale": _of_scale,
}
