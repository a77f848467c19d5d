"""Networks as functions of one flat parameter vector, and the multilayer perceptron.

Training, recording and differentiation share theta, a vector of p numbers. It is laid out layer by layer as in
``torch.nn.Linear``, weight before bias; layers are views of it.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Elementwise(NamedTuple):
    """An elementwise function and its derivative, both of the pre-activation.

    ``fused`` multiplies a gradient with the derivative at the pre-activation in one operation, where that is cheaper.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    fused: Callable[[Tensor, Tensor], Tensor] | None = None

    def pull_back(self, gradient: Tensor, z: Tensor) -> Tensor:
        """Multiply the gradient in the function's value with its derivative."""
        return gradient * self.slope(z) if self.fused is None else self.fused(gradient, z)


def _sigmoid_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s)


def _relu_pull_back(gradient: Tensor, z: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, z, 0)  # a mask and a product take five times longer


def _gelu_slope(z: Tensor) -> Tensor:
    density = torch.exp(-0.5 * z**2) / (2 * torch.pi) ** 0.5
    return 0.5 * (1 + torch.erf(z / 2**0.5)) + z * density


#: Activations by name. relu has slope 0 at 0, as torch has it.
ACTIVATIONS = {
    "relu": Elementwise(torch.relu, lambda z: (z > 0).to(z.dtype), _relu_pull_back),
    "tanh": Elementwise(torch.tanh, lambda z: 1 - torch.tanh(z) ** 2),
    "gelu": Elementwise(nn.functional.gelu, _gelu_slope),
    "sigmoid": Elementwise(torch.sigmoid, _sigmoid_slope),
    "identity": Elementwise(lambda z: z, torch.ones_like, lambda gradient, z: gradient),
}


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


class Architecture(NamedTuple):
    """Shape of a multilayer perceptron."""

    widths: tuple[int, ...]  # inputs, hidden widths, and outputs
    activation: str  # names in `ACTIVATIONS`
    output_activation: str

    @property
    def n_params(self) -> int:
        """Number of parameters p."""
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in self.layer_shapes())

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return self.widths[-1]

    @property
    def row_numbers(self) -> int:
        """Numbers that a row's derivatives hold: layer inputs, pre-activations and the derivatives of every output."""
        return (2 + self.n_outputs) * sum(self.widths)

    @property
    def column_numbers(self) -> int:
        """Numbers that a row holds for each direction or column that its Jacobian is multiplied with."""
        wide = max(min(shape) if self.n_outputs == 1 else shape[1] for shape in self.layer_shapes())
        return wide + 2 * self.n_outputs

    @property
    def pair_operations(self) -> int:
        """Multiplications of one entry of a tangent kernel."""
        return 2 * sum(self.widths)

    @property
    def input_width(self) -> int:
        """Length of the inner products of inputs, which the first layer's part of every tangent kernel holds."""
        return self.widths[0]

    def layer_shapes(self) -> list[tuple[int, int]]:
        """List inputs and outputs of every layer."""
        return list(zip(self.widths[:-1], self.widths[1:], strict=True))

    def layer_activations(self) -> list[Elementwise]:
        """Elementwise function after every layer."""
        hidden = len(self.widths) - 2
        return [ACTIVATIONS[self.activation]] * hidden + [ACTIVATIONS[self.output_activation]]

    def layers(self, theta: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield weight, (..., fan_out, fan_in), and bias, (..., fan_out), of every layer: views of theta, (..., p)."""
        sizes = [size for fan_in, fan_out in self.layer_shapes() for size in (fan_in * fan_out, fan_out)]
        pieces = theta.split(sizes, dim=-1)
        for (fan_in, fan_out), weight, bias in zip(self.layer_shapes(), pieces[::2], pieces[1::2], strict=True):
            yield weight.unflatten(-1, (fan_out, fan_in)), bias

    def forward(self, theta: Tensor, X: Tensor) -> Tensor:
        """Predict, (n_rows,), or (n_rows, n_outputs) where there are several."""
        for (weight, bias), activation in zip(self.layers(theta), self.layer_activations(), strict=True):
            X = activation.value(nn.functional.linear(X, weight, bias))
        return X.squeeze(-1)

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


class FlatModule(nn.Module):
    """A network whose only parameter is theta, (p,), in the dtype and on the device of the initial parameters."""

    def __init__(self, network: Network, theta: Tensor):
        super().__init__()
        self.network = network
        self.theta = nn.Parameter(theta)

    def forward(self, X: Tensor) -> Tensor:
        """Predict as the network does."""
        return self.network.forward(self.theta, X)
