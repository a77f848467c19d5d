"""Reads a user's ``torch.nn.Module`` as a network: layer by layer where it is a multilayer perceptron."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from telescoping_sklearn.neural._functional import FunctionalNetwork
from telescoping_sklearn.neural._network import Architecture, Network

_NAMES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.GELU: "gelu",
    nn.Sigmoid: "sigmoid",
    nn.Identity: "identity",
}


def read_module(module: nn.Module | Callable[[int], nn.Module], n_features: int, seed: int) -> tuple[Network, Tensor]:
    """Make a network of a module, and give the parameters that it starts from.

    Parameters
    ----------
    module : torch.nn.Module or callable
        The module, which is left as it is; or what makes one, given the number of features.
    n_features : int
        Columns of the rows.
    seed : int
        Seeds torch while a callable makes the module; torch's global generator is left as it was.

    Returns
    -------
    network : Network
        An `Architecture` where the module is a chain of biased linear layers with one elementwise activation that has
        structured derivatives, a `FunctionalNetwork` elsewhere.
    theta : Tensor of shape (p,)
        The module's parameters, float64.

    Raises
    ------
    ValueError
        If there is no module, or it has no fixed kernel; see `FunctionalNetwork`.
    """
    if not isinstance(module, nn.Module):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = module(n_features)
        if not isinstance(module, nn.Module):
            raise ValueError(f"module must be or return a torch.nn.Module, but returned {type(module).__name__}.")
    functional = FunctionalNetwork(module, n_features)
    architecture = _as_perceptron(functional.template)
    return (functional if architecture is None else architecture), functional.initial_parameters()


def _as_perceptron(module: nn.Module) -> Architecture | None:
    """Read a chain of linear layers and activations; None for anything else."""
    parts = list(_flattened(module))
    linears, names = parts[::2], [_name_of(part) for part in parts[1::2]]
    if len(names) < len(linears):
        names.append("identity")
    if not all(type(part) is nn.Linear and part.bias is not None for part in linears) or None in names:
        return None
    if any(not parameter.requires_grad for parameter in module.parameters()):
        return None
    if len({id(part) for part in linears}) < len(linears) or len(set(names[:-1])) > 1:
        return None
    widths = (linears[0].in_features, *(part.out_features for part in linears))
    return Architecture(widths, names[0] if len(names) > 1 else "identity", names[-1])  # type: ignore[arg-type]


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
