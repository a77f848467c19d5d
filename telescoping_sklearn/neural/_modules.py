"""Reads a user's ``torch.nn.Module`` as a network: layer by layer where it is a chain of known layers."""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from math import prod
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from telescoping_sklearn.neural._activations import MODULES, is_bare, is_known, out_of_place
from telescoping_sklearn.neural._functional import FunctionalNetwork
from telescoping_sklearn.neural._isolation import seeded
from telescoping_sklearn.neural._layers import (
    Activation,
    Affine,
    Constant,
    Convolution,
    Layer,
    Linear,
    Unparametrised,
    Window,
)
from telescoping_sklearn.neural._network import Architecture, Chain, Network

_NAMES = {kind: name for name, kind in MODULES.items()}


def read_module(
    module: nn.Module, rows: NDArray, *, n_outputs: int = 1, explained: bool = True
) -> tuple[Network, Tensor, nn.Module]:
    """Make a network of a module, with the parameters that it starts from, (p,), in float64, and a copy of the module.

    The network is a `Chain` if the module is ``nn.Sequential``, nested or not, of linear layers, convolutions in one or
    two dimensions and parts without parameters; an `Architecture` if those are biased linear layers with one named
    activation; and a `FunctionalNetwork` otherwise. The module is not changed. A module without a fixed kernel raises
    ValueError.

    Parameters
    ----------
    module : torch.nn.Module
        The module.
    rows : ndarray of shape (n_rows, n_features)
        A few training rows, to try it on.
    n_outputs : int, default=1
        Number of outputs that the module must have.
    explained : bool, default=True
        Whether derivatives will be asked for.
    """
    X = torch.tensor(rows, dtype=torch.float64)
    # A part of the user's own may look at its rows: torch.func refuses that, as for any module.
    tried = explained and not _is_torchs_own(module)
    functional = FunctionalNetwork(module, X, n_outputs, explained=tried)
    theta = functional.initial_parameters()
    with seeded(0), torch.no_grad():
        chain = _as_chain(functional.template, X)
        if chain is not None and torch.allclose(chain.forward(theta, X), functional.forward(theta, X)):
            return chain, theta, functional.template
    if tried != explained:
        functional = FunctionalNetwork(module, X, n_outputs, explained=explained)
    return functional, theta, functional.template


def perceptron(architecture: Architecture) -> nn.Sequential:
    """Make a multilayer perceptron as a chain of torch's modules, whose parameters are to be set."""
    made = {name: part for part, name in _NAMES.items()}
    shapes, parts = architecture.layer_shapes(), {}
    for number, (fan_in, fan_out) in enumerate(shapes, start=1):
        last = number == len(shapes)
        name = "output" if last else f"hidden{number}"
        parts[name] = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        parts[f"{name}_activation"] = made[architecture.output_activation if last else architecture.activation]()
    return nn.Sequential(OrderedDict(parts))


def set_parameters(module: nn.Module, theta: Tensor) -> nn.Module:
    """Write theta, (p,), to the trainable parameters of a module, which takes its dtype and device, and return it."""
    module = module.to(theta.device, theta.dtype)
    trained = [part for part in module.parameters() if part.requires_grad]
    with torch.no_grad():
        for part, values in zip(trained, theta.split([part.numel() for part in trained]), strict=True):
            part.copy_(values.view_as(part))
    return module


def _is_torchs_own(module: nn.Module) -> bool:
    """Whether torch wrote every part."""
    return all(type(part).__module__.startswith("torch.nn.") for part in module.modules())


def _as_chain(module: nn.Module, rows: Tensor) -> Chain | None:
    """Read nested ``nn.Sequential`` of layers with structured derivatives; None for anything else.

    The module has been run on the rows.
    """
    parts = [part for part in _flattened(copy.deepcopy(module).double()) if type(part) is not nn.Identity]
    trained = [id(held) for part in parts for held in part.parameters() if held.requires_grad]
    if any(_is_altered(part) for part in module.modules()) or len(set(trained)) < len(trained):
        return None
    layers: list[Layer] = []
    shapes = [tuple(rows.shape[1:])]
    for part in parts:
        layer = _layer(part, shapes[-1])
        if layer is None or (isinstance(layer, Unparametrised) and not _is_differentiated(layer, rows)):
            return None
        rows = part(rows.clone())  # it may work in place
        layers.append(layer)
        shapes.append(tuple(rows.shape[1:]))
    return _as_perceptron(parts) or Chain(layers, shapes)


def _as_perceptron(parts: list[nn.Module]) -> Architecture | None:
    """Name a chain of trained biased linear layers with one hidden activation; None for anything else."""
    layers, names = [], []
    for part in parts:
        if type(part) is nn.Linear:
            layers.append(part)
            names.append("identity")
        elif len(names) == 0 or names[-1] != "identity" or (name := _NAMES.get(type(part))) is None:
            return None
        elif isinstance(part, nn.GELU) and part.approximate != "none":
            return None
        else:
            names[-1] = name
    trained = [held is not None and held.requires_grad for part in layers for held in (part.weight, part.bias)]
    if not all(trained) or len(set(names[:-1])) > 1:
        return None
    widths = (layers[0].in_features, *(part.out_features for part in layers))
    return Architecture(widths, names[0] if len(names) > 1 else "identity", names[-1])


def _layer(part: nn.Module, shape: tuple[int, ...]) -> Layer | None:
    """Read a part for rows of a shape; None where it has no structured derivatives."""
    if type(part) is nn.Linear and shape and _is_plain(part):
        return Linear(_affine(part), prod(shape[:-1]))
    if type(part) in (nn.Conv1d, nn.Conv2d) and _is_plain(part):
        return _convolution(part, shape)  # type: ignore[arg-type]
    if is_bare(part):
        part = out_of_place(part)
        return Activation(part) if is_known(part) else Unparametrised(part)
    return None


def _convolution(part: nn.Conv1d | nn.Conv2d, shape: tuple[int, ...]) -> Convolution | None:
    """Read a convolution; None with groups, or padding that is not zeros on both sides alike."""
    kernel, stride, dilation, padding = part.kernel_size, part.stride, part.dilation, cast(Any, part.padding)
    if padding == "valid":
        padding = (0,) * len(kernel)
    elif padding == "same":
        around = [reach * (size - 1) for reach, size in zip(dilation, kernel, strict=True)]
        if any(total % 2 for total in around):
            return None
        padding = tuple(total // 2 for total in around)
    if part.groups > 1 or part.padding_mode != "zeros" or len(shape) != 1 + len(kernel):
        return None
    size_out = tuple(
        (size + 2 * pad - reach * (width - 1) - 1) // step + 1
        for size, pad, reach, width, step in zip(shape[1:], padding, dilation, kernel, stride, strict=True)
    )
    return Convolution(_affine(part), Window(stride, padding, dilation), shape[1:], size_out)


def _affine(part: nn.Linear | nn.Conv1d | nn.Conv2d) -> Affine:
    weight, bias = (None if held is None or held.requires_grad else Constant(held) for held in (part.weight, part.bias))
    return Affine(tuple(part.weight.shape), part.bias is not None, weight, bias)


def _is_plain(part: nn.Module) -> bool:
    """Whether a layer has exactly a weight, and a bias if any, none computed from another tensor."""
    names = ["weight"] if part.bias is None else ["weight", "bias"]
    return list(dict(part.named_parameters())) == names and not any(True for _ in part.buffers())


def _is_altered(part: nn.Module) -> bool:
    """Whether a module does more than its class says: it has hooks, or a forward of its own."""
    hooks = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    return bool(hooks) or "forward" in vars(part)


def _is_differentiated(layer: Unparametrised, rows: Tensor) -> bool:
    """Whether autograd follows a part, which leaves its input as it was."""
    try:
        _, (_, output) = layer.run(rows, rows, None)
    except RuntimeError:  # torch refuses to overwrite what gradients are taken in
        return False
    return output.requires_grad


def _flattened(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of nested ``nn.Sequential`` in order."""
    if type(module) is nn.Sequential:
        for part in module:
            yield from _flattened(part)
    else:
        yield module
