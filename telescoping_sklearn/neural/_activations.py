"""Elementwise functions of a net with their derivatives: named ones, torch's modules, and those that users register.

A module without parameters has its derivative from autograd wherever none is written here, so that an entry makes a net
faster and changes no number.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_aten = torch.ops.aten


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
    return _aten.threshold_backward(gradient, z, 0)  # a mask and a product take five times longer


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

#: torch's module of each named activation, with its default settings.
MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}

_PullBack = Callable[[Any, Tensor, Tensor], Tensor]
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
#: Product of a gradient with the slope, by type of module: torch's own operations for it. ELU's takes scales of the
#: output, of the input where it is positive, and of the exponent.
_PULL_BACKS: dict[type[nn.Module], _PullBack] = {
    nn.LeakyReLU: lambda part, g, z: _aten.leaky_relu_backward(g, z, part.negative_slope, False),
    nn.ELU: lambda part, g, z: _aten.elu_backward(g, part.alpha, 1.0, 1.0, False, z),
    nn.SELU: lambda part, g, z: _aten.elu_backward(g, _SELU_ALPHA, _SELU_SCALE, 1.0, False, z),
    nn.SiLU: lambda part, g, z: _aten.silu_backward(g, z),
    nn.Softplus: lambda part, g, z: _aten.softplus_backward(g, z, part.beta, part.threshold),
    nn.Hardtanh: lambda part, g, z: _aten.hardtanh_backward(g, z, part.min_val, part.max_val),
    nn.ReLU6: lambda part, g, z: _aten.hardtanh_backward(g, z, 0.0, 6.0),
    nn.GELU: lambda part, g, z: _aten.gelu_backward(g, z, approximate=part.approximate),
}
_Slope = Callable[[nn.Module, Tensor], Tensor]
_REGISTERED: dict[type[nn.Module], _Slope] = {}


def register_activation(module: nn.Module, slope: _Slope) -> None:
    """Register the derivative of an elementwise module, so that nets with it are explained faster.

    Any module without parameters works unregistered: its derivative then comes from autograd. A class that is
    registered already gets the new derivative; subclasses are registered one by one.

    Parameters
    ----------
    module : torch.nn.Module
        An instance, on which the derivative is checked. It has no parameters, buffers or parts. Its class is
        registered, for all settings; those of a net are checked again when the net is read.
    slope : callable
        ``slope(module, z)`` gives the derivative of ``module(z)`` in z, of the shape, dtype and device of z.

    Raises
    ------
    TypeError
        If `module` is not a module, or `slope` not callable.
    ValueError
        If `module` has parameters, buffers or parts, changes its input in place, is not elementwise, or has another
        derivative than `slope` gives.

    Examples
    --------
    >>> from torch import nn
    >>> from telescoping_sklearn.neural import register_activation
    >>> class Quadratic(nn.Module):
    ...     def __init__(self, eps):
    ...         super().__init__()
    ...         self.eps = eps
    ...
    ...     def forward(self, h):
    ...         return h + self.eps / 2 * h**2
    >>> register_activation(Quadratic(0.2), lambda part, h: 1 + part.eps * h)
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {module!r}.")
    if not callable(slope):
        raise TypeError(f"slope must be callable, got {slope!r}.")
    _check_slope(module, slope)
    _REGISTERED[type(module)] = slope


def is_bare(part: nn.Module) -> bool:
    """Whether a module has no parameters, buffers or parts."""
    return not any(True for held in (part.parameters(), part.buffers(), part.children()) for _ in held)


def is_known(part: nn.Module) -> bool:
    """Whether a derivative of an elementwise module is written here or registered.

    ValueError is raised if the registered one is not the derivative with the settings of this module.
    """
    if type(part) in _REGISTERED:
        _check_slope(part, _REGISTERED[type(part)])
        return True
    return type(part) in _BY_TYPE or type(part) in _PULL_BACKS


def elementwise_of(part: nn.Module) -> Elementwise:
    """Return the function of an elementwise module that does not work in place, with the derivative known for it.

    Autograd gives the derivative where none is known.
    """
    kind = type(part)
    if kind in _REGISTERED:
        return Elementwise(part, partial(_REGISTERED[kind], part))
    if kind in _BY_TYPE and (kind is not nn.GELU or part.approximate == "none"):
        return _BY_TYPE[kind]
    if kind in _PULL_BACKS:
        fused = partial(_PULL_BACKS[kind], part)
        return Elementwise(part, lambda z: fused(torch.ones_like(z), z), fused)
    return Elementwise(part, partial(_autograd_slope, part))


_BY_TYPE = {kind: ACTIVATIONS[name] for name, kind in MODULES.items()}


def out_of_place(part: nn.Module) -> nn.Module:
    """Copy a module, and switch off that it overwrites its input where it has torch's switch for that."""
    part = copy.deepcopy(part)
    if getattr(part, "inplace", False):
        part.inplace = False  # type: ignore[assignment]
    return part


def _autograd_slope(part: nn.Module, z: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(part(z).sum(), z)
    return slope


def _check_slope(part: nn.Module, slope: _Slope) -> None:
    """Raise ValueError unless a module is elementwise and has this derivative."""
    kind = type(part).__name__
    if not is_bare(part):
        raise ValueError(f"module={kind} has parameters, buffers or parts: only elementwise modules are registered.")
    part = out_of_place(part)
    z = 3 * torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z[0, :4] = torch.tensor([0.0, 20.0, -20.0, 1.0], dtype=torch.float64)  # where slopes jump or vanish
    before = z.clone()
    try:
        with torch.no_grad():
            value, given = part(z), slope(part, z)
            overwritten = not torch.equal(z, before)
            alone = torch.stack([part(number[None])[0] for number in z.flatten()]).view_as(z)
        derivative = z if overwritten else _autograd_slope(part, z)
    except Exception as error:  # whatever a user's functions raise
        raise ValueError(f"module={kind} or its slope does not take numbers of any shape: {error}") from error
    if overwritten:
        raise ValueError(f"module={kind} or its slope changes its input in place: write it without.")
    if value.shape != z.shape or not torch.allclose(value, alone, rtol=1e-12, atol=1e-12, equal_nan=True):
        raise ValueError(f"module={kind} is not elementwise: a value depends on more than the number at its place.")
    if not isinstance(given, Tensor) or given.shape != z.shape or given.dtype != z.dtype:
        raise ValueError(f"slope must give a tensor of the shape and dtype of z for module={kind}, got {given!r}.")
    wrong = ~torch.isclose(given, derivative, rtol=1e-6, atol=1e-9, equal_nan=True)
    if wrong.any():
        at, found, right = (float(numbers[wrong][0]) for numbers in (z, given, derivative))
        raise ValueError(f"slope of module={kind} gives {found:.6g} at {at:.6g}, where the derivative is {right:.6g}.")
