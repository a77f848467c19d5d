"""Networks as functions of one flat parameter vector: chains of layers, and the multilayer perceptron among them.

Training, recording and differentiation share theta, a vector of p numbers. It is laid out layer by layer as in
``torch.nn.Linear``, weight before bias; layers are views of it. What is held fixed is no part of it.
"""

import math
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from telescoping_sklearn.neural._activations import ACTIVATIONS, MODULES, Elementwise
from telescoping_sklearn.neural._layers import Activation, Affine, Convolution, Layer, Linear, Positions


class Network(Protocol):
    """Members of a network that training and telescopes need."""

    @property
    def n_params(self) -> int:
        """Number of parameters p."""

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""

    @property
    def row_numbers(self) -> int:
        """Numbers that a row's derivatives hold."""

    @property
    def column_numbers(self) -> int:
        """Numbers that a row holds for each direction or column that its Jacobian is multiplied with."""

    @property
    def pair_operations(self) -> int:
        """Multiplications of one entry of a tangent kernel."""

    @property
    def input_width(self) -> int:
        """Length of the inner products of inputs that every tangent kernel holds; 0 where it holds none."""

    def forward(self, theta: Tensor, X: Tensor) -> Tensor:
        """Predict, (n_rows,), or (n_rows, n_outputs) where there are several, in the precision of theta."""


def pairs_of(rows: slice, n_outputs: int) -> slice:
    """Give the outputs of a block of rows, where those of each row come one after the other."""
    return slice(rows.start * n_outputs, rows.stop * n_outputs)


class Chain:
    """Layers one after the other, each with structured derivatives or without parameters.

    Parameters
    ----------
    parts : sequence of Layer
        The layers, of which one at least has trained parameters.
    shapes : sequence of tuple of int
        Shape of a row before the first layer and after every one.
    """

    def __init__(self, parts: Sequence[Layer], shapes: Sequence[tuple[int, ...]]):
        self.parts = tuple(parts)
        self.shapes = tuple(shapes)
        self.sizes = [part.n_params for part in self.parts]
        self.n_params = sum(self.sizes)
        self.n_outputs = prod(self.shapes[-1])
        self._output_shape = () if self.n_outputs == 1 else (self.n_outputs,)
        #: First layer with trained parameters: no derivative goes further back.
        self.first_trained = next(level for level, size in enumerate(self.sizes) if size)
        activations = [isinstance(part, Activation) for part in self.parts]
        #: Buffers for outputs that an activation takes, and for gradients that go back to one: it makes its own memory.
        self.reused_outputs = [
            f"before {level}" if after else None for level, after in enumerate([*activations[1:], False])
        ]
        self.reused_gradients = ["back" if before else None for before in [False, *activations[:-1]]]
        weighted = [part for part in self.parts if isinstance(part, Linear | Convolution)]
        #: Last layer whose input a derivative needs: one that is held fixed does not.
        self.last_needed = max(level for level, part in enumerate(self.parts) if part.n_params or part not in weighted)
        trained = [part for part in weighted if part.n_params]
        kept = [prod(shape) for shape, part in zip(self.shapes[1:], self.parts, strict=True) if _holds(part)]
        #: Numbers that a row's derivatives hold: layer inputs, pre-activations and the derivatives of every output.
        self.row_numbers = (2 + self.n_outputs) * (prod(self.shapes[0]) + sum(kept))
        #: Numbers that a row holds for each direction or column that its Jacobian is multiplied with.
        self.column_numbers = max(_column_numbers(part, self.n_outputs) for part in trained) + 2 * self.n_outputs
        #: Multiplications of one entry of a tangent kernel.
        self.pair_operations = sum(_pair_operations(part, self.n_outputs) for part in trained)

    @property
    def input_width(self) -> int:
        """Length of the inner products of rows that every tangent kernel holds; 0 where it holds none."""
        part = self.parts[0]
        if isinstance(part, Linear) and part.n_positions == 1 and part.affine.trains_weight:
            return part.affine.fan_in
        return 0

    def pieces(self, theta: Tensor) -> tuple[Tensor, ...]:
        """View theta, (..., p), as one piece a layer, (..., p_l)."""
        return theta.split(self.sizes, dim=-1)

    def forward(self, theta: Tensor, X: Tensor) -> Tensor:
        """Predict, (n_rows,), or (n_rows, n_outputs) where there are several, in the precision of theta."""
        n_rows = len(X)
        for part, piece in zip(self.parts, self.pieces(theta), strict=True):
            X = part.forward(piece, X)
        return X.reshape(n_rows, *self._output_shape)


def _holds(part: Layer) -> bool:
    """Whether a layer's output counts as memory of its own; an activation's stands for its input."""
    return not isinstance(part, Activation)


def _column_numbers(part: "Linear | Convolution", n_outputs: int) -> int:
    """Numbers that a row holds for each direction or column in a layer's products."""
    if part.n_positions == 1 and n_outputs == 1:
        return min(part.affine.fan_in, part.affine.fan_out)
    return part.n_positions * part.affine.fan_out


def _pair_operations(part: "Linear | Convolution", n_outputs: int) -> int:
    """Multiplications of one entry of a tangent kernel, of a pair of outputs, that a layer makes."""
    affine = part.affine
    if part.n_positions == 1:
        return affine.trains_weight * affine.fan_in + affine.fan_out
    through_positions = Positions.positions_cost(affine, part.n_positions, n_outputs) // n_outputs**2
    return min(through_positions, affine.n_params)


class Architecture(Chain):
    """A multilayer perceptron: biased linear layers with one hidden activation.

    Parameters
    ----------
    widths : tuple of int
        Inputs, hidden widths, and outputs.
    activation, output_activation : str
        Names in `ACTIVATIONS`.
    """

    def __init__(self, widths: tuple[int, ...], activation: str, output_activation: str):
        self.widths = widths
        self.activation = activation
        self.output_activation = output_activation
        parts: list[Layer] = []
        for (fan_in, fan_out), name in zip(self.layer_shapes(), self._names(), strict=True):
            parts.append(Linear(Affine((fan_out, fan_in))))
            if name != "identity":
                parts.append(Activation(MODULES[name]()))
        after = [(part.affine.fan_out,) for part in parts if isinstance(part, Linear)]
        shapes, before = [(widths[0],)], iter(after)
        for part in parts:
            shapes.append(next(before) if isinstance(part, Linear) else shapes[-1])
        super().__init__(parts, shapes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Architecture) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash(self.__reduce__()[1])

    def __repr__(self) -> str:
        return f"Architecture{self.__reduce__()[1]!r}"

    def __reduce__(self) -> tuple[Any, tuple[tuple[int, ...], str, str]]:
        return Architecture, (self.widths, self.activation, self.output_activation)

    def layer_shapes(self) -> list[tuple[int, int]]:
        """List inputs and outputs of every linear layer."""
        return list(zip(self.widths[:-1], self.widths[1:], strict=True))

    def layer_activations(self) -> list[Elementwise]:
        """Elementwise function after every linear layer."""
        return [ACTIVATIONS[name] for name in self._names()]

    def layers(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield weight, (..., fan_out, fan_in), and bias, (..., fan_out), of every layer: views of theta, (..., p)."""
        for part, piece in zip(self.parts, self.pieces(theta), strict=True):
            if isinstance(part, Linear):
                yield part.affine.trained(piece)  # type: ignore[misc]  # both are trained

    def initial_parameters(self, seed: int) -> Tensor:
        """Draw torch's own initialisation of ``torch.nn.Linear`` layers, (p,), in float32.

        They are those of layers made in order after ``torch.manual_seed(seed)``.
        """
        theta = torch.empty(self.n_params, dtype=torch.float32)
        generator = torch.Generator().manual_seed(seed)
        for weight, bias in self.layers(theta):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(bias, -bound, bound, generator=generator)
        return theta

    def _names(self) -> list[str]:
        return [self.activation] * (len(self.widths) - 2) + [self.output_activation]


class FlatModule(nn.Module):
    """A network whose only parameter is theta, (p,), in the dtype and on the device of the initial parameters."""

    def __init__(self, network: Network, theta: Tensor):
        super().__init__()
        self.network = network
        self.theta = nn.Parameter(theta)

    def forward(self, X: Tensor) -> Tensor:
        """Predict as the network does."""
        return self.network.forward(self.theta, X)
