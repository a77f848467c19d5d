"""The response of an optimiser with several parameter groups, whose settings hold for slices of theta."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from telescoping_sklearn.neural._update_rules import RecordedUpdate, Settings, UpdateRule, update_rule

Rates = NDArray | Sequence[Sequence[float]]  # by update and group


class GroupSlice(NamedTuple):
    """Consecutive parameters that one parameter group moves.

    Attributes
    ----------
    where : slice
        Their positions in theta.
    group : int
        Number of the group.
    settings : dict
        Settings of the group.
    """

    where: slice
    group: int
    settings: Settings


class GroupedUpdateRule(UpdateRule):
    """Applies the rule of each group to its slices of theta; parameters in no slice stay as they are.

    Parameters
    ----------
    optimizer : type
        Class of the optimiser.
    slices : list of GroupSlice
        Parameters of the groups.
    group_rates : sequence of sequence of float
        Learning rate of each update in each group, which takes the place of the one rate that rules are given.
    """

    def __init__(self, optimizer: type[torch.optim.Optimizer], slices: list[GroupSlice], group_rates: Rates):
        self._rules = [(part.where, part.group, update_rule(optimizer, part.settings)) for part in slices]
        self._group_rates = group_rates
        rules = [rule for _, _, rule in self._rules]  # none is plain here: kernels would need a rate a parameter
        self.has_adjoint = all(rule.has_adjoint for rule in rules)
        self.has_moving_step = all(rule.has_moving_step for rule in rules)
        self.has_moving_adjoint = all(rule.has_moving_adjoint for rule in rules)

    def step(self, gradient: Tensor, parameters: Tensor, stage: int, rate: float, phi: Tensor | None) -> Tensor:
        """Return the step's response, (k, p), for the gradient's, (k, p)."""
        step = torch.zeros_like(gradient)
        for where, rule, *rest in self._parts(stage, phi):
            step[:, where] = rule.step(gradient[:, where], parameters[:, where], stage, *rest)
        return step

    def transposed_step(
        self, on_step: Tensor, stage: int, rate: float, phi: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step, each (m', p)."""
        on_gradient, on_parameters = torch.zeros_like(on_step), torch.zeros_like(on_step)
        for where, rule, *rest in self._parts(stage, phi):
            on_gradient[:, where], on_part = rule.transposed_step(on_step[:, where], stage, *rest)
            if on_part is not None:
                on_parameters[:, where] = on_part
        return on_gradient, on_parameters

    def moving_step(
        self, gradient: Tensor, parameters: Tensor, stage: int, rate: float, phi: Tensor | None, run: RecordedUpdate
    ) -> Tensor:
        """Return the step's response, (k, p), where denominators respond too."""
        step = torch.zeros_like(gradient)
        for where, rule, *rest in self._parts(stage, phi):
            step[:, where] = rule.moving_step(gradient[:, where], parameters[:, where], stage, *rest, run.part(where))
        return step

    def transposed_moving_step(
        self, on_step: Tensor, stage: int, rate: float, phi: Tensor | None, run: RecordedUpdate
    ) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step, each (m', p)."""
        on_gradient, on_parameters = torch.zeros_like(on_step), torch.zeros_like(on_step)
        for where, rule, *rest in self._parts(stage, phi):
            found = rule.transposed_moving_step(on_step[:, where], stage, *rest, run.part(where))
            on_gradient[:, where] = found[0]
            if found[1] is not None:
                on_parameters[:, where] = found[1]
        return on_gradient, on_parameters

    def memory(self) -> Any:
        """Return what the rules of the slices carry."""
        return [rule.memory() for _, _, rule in self._rules]

    def recall(self, memory: Any) -> None:
        """Go on from the memory of another rule of the same run."""
        for (_, _, rule), part in zip(self._rules, memory, strict=True):
            rule.recall(part)

    def _parts(self, stage: int, phi: Tensor | None) -> list[Any]:
        """List slice, rule, learning rate and denominators of every part at a stage."""
        rates = self._group_rates[stage - 1]
        return [
            (where, rule, float(rates[group]), None if phi is None else phi[where])
            for where, group, rule in self._rules
        ]


def shared_rate(slices: list[GroupSlice], rates: NDArray | Sequence[float]) -> float:
    """Return the learning rate that one update's rule is given, that of the only group that moves parameters.

    It is NaN where several groups do, or none: `GroupedUpdateRule` takes the rates of its groups itself.
    """
    moving = {part.group for part in slices}
    return float(rates[moving.pop()]) if len(moving) == 1 else math.nan


def run_update_rule(
    optimizer: type[torch.optim.Optimizer],
    slices: list[GroupSlice],
    group_rates: Rates,
    n_params: int,
) -> UpdateRule:
    """Make the rule of a run of p parameters, with fresh state: the optimiser's own where one group moves them all."""
    if len(slices) == 1 and slices[0].where == slice(0, n_params):
        return update_rule(optimizer, slices[0].settings)
    return GroupedUpdateRule(optimizer, slices, group_rates)
