"""Each optimiser as a linear map from the response of its gradient to the response of its step.

Adam's denominators are taken as recorded, so that every rule here is linear in what it is fed: blocks of columns, one
row a column of labels. Semantics are torch's; an update's number t counts from 1.

Being linear, each rule can also be run backward over a run: from how a query depends on the steps to how it depends on
the gradients. That is ``transposed_step``, whose state is that of the momentum's dependence and flows from later
updates to earlier ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor


@dataclass
class SGDResponse:
    """Stochastic gradient descent: g = G + l Theta; M = m M + (1 - q) g; D = -lr (g + m M) or -lr M.

    Attributes
    ----------
    momentum, dampening, weight_decay : float
        m, q and l of torch.
    nesterov : bool
        Whether the step looks ahead.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    _velocity: Tensor | None = field(default=None, repr=False)

    def step(self, gradient: Tensor, parameters: Tensor, stage: int, rate: float, phi: Tensor | None) -> Tensor:
        """Return the step's response, (k, p), for the gradient's; phi plays no part."""
        if self.weight_decay:
            gradient = gradient + self.weight_decay * parameters
        if not self.momentum:
            return -rate * gradient
        if self._velocity is None:
            self._velocity = gradient.clone()  # torch starts the buffer undampened
        else:
            self._velocity.mul_(self.momentum).add_(gradient, alpha=1 - self.dampening)
        if self.nesterov:
            return -rate * torch.add(gradient, self._velocity, alpha=self.momentum)
        return -rate * self._velocity

    @property
    def is_plain(self) -> bool:
        """Whether a step is -lr times its own gradient and nothing else."""
        return not (self.momentum or self.weight_decay)

    def transposed_step(
        self, on_step: Tensor, stage: int, rate: float, phi: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the dependence on the gradient and on the parameters before the step, each (m', p)."""
        on_step = -rate * on_step
        if self.momentum:
            ahead = self.momentum * on_step if self.nesterov else on_step
            on_velocity = ahead if self._velocity is None else self._velocity.add_(ahead)
            on_gradient = on_velocity * (1.0 if stage == 1 else 1 - self.dampening)
            if self.nesterov:
                on_gradient += on_step
            self._velocity = on_velocity * self.momentum
        else:
            on_gradient = on_step
        return on_gradient, self.weight_decay * on_gradient if self.weight_decay else None


@dataclass
class AdamResponse:
    """Adam and AdamW: M = b1 M + (1 - b1) g; D = -lr M / (1 - b1^t) / phi_t, and -lr l Theta if decay is decoupled.

    Attributes
    ----------
    beta1, weight_decay : float
        b1 and l of torch.
    decoupled : bool
        Whether weight decay acts on the parameters beside the gradient (AdamW) rather than through it.
    """

    beta1: float = 0.9
    weight_decay: float = 0.0
    decoupled: bool = False
    _mean: Tensor | None = field(default=None, repr=False)

    def step(self, gradient: Tensor, parameters: Tensor, stage: int, rate: float, phi: Tensor | None) -> Tensor:
        """Return the step's response, (k, p), for the gradient's, with the recorded denominator phi."""
        if phi is None:
            raise ValueError("Adam's denominators were not recorded.")
        if self.weight_decay and not self.decoupled:
            gradient = gradient + self.weight_decay * parameters
        if self._mean is None:
            self._mean = torch.zeros_like(gradient)
        self._mean.mul_(self.beta1).add_(gradient, alpha=1 - self.beta1)
        step = self._mean / phi
        step *= -rate / (1 - self.beta1**stage)
        if self.weight_decay and self.decoupled:
            step.add_(parameters, alpha=-rate * self.weight_decay)
        return step

    @property
    def is_plain(self) -> bool:
        """Whether a step is -lr times its own gradient and nothing else."""
        return False

    def transposed_step(
        self, on_step: Tensor, stage: int, rate: float, phi: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the dependence on the gradient and on the parameters before the step, each (m', p)."""
        if phi is None:
            raise ValueError("Adam's denominators were not recorded.")
        on_mean = on_step / phi
        on_mean *= -rate / (1 - self.beta1**stage)
        if self._mean is not None:
            on_mean += self._mean
        self._mean = self.beta1 * on_mean
        on_gradient = (1 - self.beta1) * on_mean
        if not self.weight_decay:
            return on_gradient, None
        return on_gradient, -rate * self.weight_decay * on_step if self.decoupled else self.weight_decay * on_gradient


UpdateRule = SGDResponse | AdamResponse


def update_rule(group: dict[str, Any]) -> Callable[[], UpdateRule]:
    """Read the update rule off a torch optimiser's parameter group.

    Adam and AdamW are told apart by ``decoupled_weight_decay``: in torch 2.13 AdamW is a subclass of Adam.

    Parameters
    ----------
    group : dict
        A parameter group of `torch.optim.SGD`, `torch.optim.Adam` or `torch.optim.AdamW`.

    Returns
    -------
    callable
        Makes a rule with fresh state.
    """
    if "betas" in group:
        beta1, decay, decoupled = group["betas"][0], group["weight_decay"], group["decoupled_weight_decay"]
        return partial(AdamResponse, beta1=beta1, weight_decay=decay, decoupled=decoupled)
    settings = {name: group[name] for name in ("momentum", "dampening", "weight_decay", "nesterov")}
    return partial(SGDResponse, **settings)


def adam_denominator(state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """phi_t = sqrt(v_hat_t) + eps from the state of `torch.optim.Adam` after its update t."""
    second_moment = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    correction = 1 - group["betas"][1] ** float(state["step"])
    return (second_moment / correction).sqrt_().add_(group["eps"])
