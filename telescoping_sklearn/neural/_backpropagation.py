"""Loss and gradient of a batch, by hand for multilayer perceptrons and through autograd for other modules.

The loss is the weighted sum of the rows' losses over the number of rows of the batch; that of a row is the sum over its
outputs. Labels and weights come as (b, n_outputs) and (b, 1).
"""

from typing import Protocol, cast

import torch
from torch import Tensor

from telescoping_sklearn.losses import SquaredError
from telescoping_sklearn.neural._network import Architecture, FlatModule


class Propagation(Protocol):
    """Computes loss and gradient of batches."""

    gradient: Tensor

    def __call__(self, X: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Loss of a batch, a scalar; its gradient is left in ``theta.grad`` and `gradient`."""


def propagation(module: FlatModule) -> Propagation:
    """Choose how to compute loss and gradient of a module: by hand for a multilayer perceptron, else through autograd.

    The module's parameters must stay where they are in memory.
    """
    if isinstance(module.network, Architecture):
        return LayerwisePropagation(module)
    return AutogradPropagation(module)


class LayerwisePropagation:
    """Loss and gradient of a multilayer perceptron by hand, since autograd costs more than that for small nets."""

    def __init__(self, module: FlatModule):
        architecture = cast(Architecture, module.network)
        self._theta = module.theta
        self.gradient = torch.zeros_like(module.theta, requires_grad=False)
        layers = list(architecture.layers(module.theta.detach()))
        self._layers = [(weight, weight.T, bias) for weight, bias in layers]
        self._slots = list(architecture.layers(self.gradient))
        self._activations = architecture.layer_activations()
        self._loss = SquaredError()

    @torch.no_grad()
    def __call__(self, X: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Loss of a batch, a scalar; its gradient is left in ``theta.grad``."""
        inputs, before = [X], []
        for (_, transposed, bias), activation in zip(self._layers, self._activations, strict=True):
            before.append(torch.addmm(bias, inputs[-1], transposed))
            inputs.append(activation.value(before[-1]))
        residual = self._loss.gradient(y, inputs.pop())
        share = weights * residual
        share /= len(y)
        back = share
        for level in range(len(before) - 1, -1, -1):
            back = self._activations[level].pull_back(back, before[level])
            for_weight, for_bias = self._slots[level]
            torch.mm(back.T, inputs[level], out=for_weight)
            torch.sum(back, 0, out=for_bias)
            if level:
                back = back @ self._layers[level][0]
        self._theta.grad = self.gradient
        return self._loss.weighted_mean(residual.view(-1), share.view(-1))


class AutogradPropagation:
    """Loss and gradient of batches through autograd, for any module."""

    def __init__(self, module: FlatModule):
        self._module = module
        self.gradient = torch.zeros_like(module.theta, requires_grad=False)
        self._loss = SquaredError()

    def __call__(self, X: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Loss of a batch, a scalar; its gradient is left in ``theta.grad``."""
        theta = self._module.theta
        prediction = self._module(X).reshape(y.shape)
        residual = self._loss.gradient(y, prediction.detach())
        share = weights * residual / len(y)
        (gradient,) = torch.autograd.grad(prediction, theta, share)
        self.gradient.copy_(gradient)
        theta.grad = self.gradient
        return self._loss.weighted_mean(residual.view(-1), share.view(-1))
