"""Reads a user's ``torch.nn.Module`` as a network: layer by layer where it is a multilayer perceptron."""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from telescoping_sklearn.neural._functional import FunctionalNetwork
from telescoping_sklearn.neural._isolation import seeded
from telescoping_sklearn.neural._network import Architecture, Network

_NAMES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.GELU: "gelu",
    nn.Sigmoid: "sigmoid",
    nn.Identity: "identity",
}


def read_module(
    module: nn.Module | Callable[[int], nn.Module],
    rows: NDArray,
    seed: int,
    *,
    n_outputs: int = 1,
    explained: bool = True,
) -> tuple[Network, Tensor]:
    """Make a network of a module, and return the parameters that it starts from, (p,), in float64.

    The network is an `Architecture` if the module is a chain of biased linear layers with one elementwise activation
    that has structured derivatives, and a `FunctionalNetwork` otherwise. The module is not changed. A function that
    makes a module is called with the number of features, with torch seeded. A module without a fixed kernel raises
    ValueError.

    Parameters
    ----------
    module : torch.nn.Module or callable
        The module, or a function that makes one.
    rows : ndarray of shape (n_rows, n_features)
        A few training rows, to try it on.
    seed : int
        Seeds torch's global generators, which are restored afterwards, while a function makes the module.
    n_outputs : int, default=1
        Number of outputs that the module must have.
    explained : bool, default=True
        Whether derivatives will be asked for.
    """
    if not isinstance(module, nn.Module):
        module = _made(module, rows.shape[1], seed)
    X = torch.tensor(rows, dtype=torch.float64)
    architecture = _as_perceptron(module)
    functional = FunctionalNetwork(module, X, n_outputs, explained=explained and architecture is None)
    theta = functional.initial_parameters()
    if architecture is None:
        return functional, theta
    with torch.no_grad():
        if torch.allclose(architecture.forward(theta, X), functional.forward(theta, X)):
            return architecture, theta
    # It has a forward of its own, hidden in an instance.
    return FunctionalNetwork(module, X, n_outputs, explained=explained), theta


def _made(make: Callable[[int], nn.Module], n_features: int, seed: int) -> nn.Module:
    try:
        with seeded(seed):
            module = make(n_features)
    except TypeError as error:
        raise ValueError(f"module is called with the number of features, and failed: {error}") from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"module must be or return a torch.nn.Module, but returned {type(module).__name__}.")
    return module


def _as_perceptron(module: nn.Module) -> Architecture | None:
    """Read a chain of linear layers and activations; None for anything else."""
    parts = list(_flattened(module))
    linears, names = parts[::2], [_name_of(part) for part in parts[1::2]]
    if len(names) < len(linears):
        names.append("identity")
    if not all(type(part) is nn.Linear and _is_plain(part) for part in linears) or None in names:
        return None
    if any(_is_hooked(part) for part in module.modules()) or len(set(names[:-1])) > 1:
        return None
    if len({id(held) for part in linears for held in part.parameters()}) < 2 * len(linears):
        return None  # tied
    widths = (linears[0].in_features, *(part.out_features for part in linears))
    return Architecture(widths, names[0] if len(names) > 1 else "identity", names[-1])  # type: ignore[arg-type]


def _is_plain(part: nn.Module) -> bool:
    """Whether a linear layer has exactly a weight and a bias, both trained and neither computed from another tensor."""
    held = dict(part.named_parameters())
    return list(held) == ["weight", "bias"] and all(value.requires_grad for value in held.values())


def _is_hooked(part: nn.Module) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def _flattened(module: nn.Module) -> Any:
    """Yield the parts of nested ``nn.Sequential`` in order."""
    if type(module) is nn.Sequential:
        for part in module:
            yield from _flattened(part)
    else:
        yield module


def _name_of(part: nn.Module) -> str | None:
    """Name of an activation that has structured derivatives."""
    if isinstance(part, nn.GELU) and part.approximate != "none":
        return None
    return _NAMES.get(type(part))
