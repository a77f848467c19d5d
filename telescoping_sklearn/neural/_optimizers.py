"""Optimisers that the estimator knows by name: torch's class, and the settings that parameters give it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class NamedOptimizer(NamedTuple):
    """An optimiser with a name.

    Attributes
    ----------
    optimizer : type
        torch's class, which has a registered update rule.
    settings : callable
        Takes the estimator and returns the settings of the class that its parameters give, the learning rate aside. It
        raises ValueError for parameters that torch does not define.
    """

    optimizer: type[torch.optim.Optimizer]
    settings: Callable[[Any], dict[str, Any]]


def _sgd_settings(model: Any) -> dict[str, Any]:
    if model.nesterov and (model.momentum <= 0 or model.dampening != 0):
        raise ValueError("nesterov=True takes momentum above 0 and dampening=0.")
    own = {name: getattr(model, name) for name in ("weight_decay", "momentum", "dampening", "nesterov")}
    return own | {"foreach": False}


def _adam_settings(model: Any) -> dict[str, Any]:
    if len(model.betas) != 2 or not all(0 <= beta < 1 for beta in model.betas):
        raise ValueError(f"betas={model.betas!r} must be two numbers in [0, 1).")
    own = {name: getattr(model, name) for name in ("weight_decay", "eps", "amsgrad")}
    # On the CPU torch's fused kernel takes half the time of its dozen separate operations.
    kernel = {"fused": True} if torch.device(model.device).type == "cpu" else {"foreach": False}
    return own | {"betas": tuple(map(float, model.betas))} | kernel


OPTIMIZERS = {
    "sgd": NamedOptimizer(torch.optim.SGD, _sgd_settings),
    "adam": NamedOptimizer(torch.optim.Adam, _adam_settings),
    "adamw": NamedOptimizer(torch.optim.AdamW, _adam_settings),
}
