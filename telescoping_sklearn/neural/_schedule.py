"""Learning rate of each update: warm-up and schedules, torch's own or a function of the update's number."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from itertools import count, repeat
from numbers import Real
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

_HOW = (
    "lr_schedule must be None, a class in torch.optim.lr_scheduler or functools.partial of one, or a function of the "
    "update's number, from 1, that returns a factor of learning_rate_init"
)


def learning_rates(
    lr_schedule: Any, warmup_steps: int, optimizer: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> Iterator[float]:
    """Return the learning rates of updates 1, 2, and so on, without end.

    ``settings["lr"]`` is the rate that is scheduled. Over the first `warmup_steps` updates it also rises in proportion
    to the update's number, whatever the schedule.

    Raises
    ------
    ValueError
        If the schedule is not one; and when a rate is drawn, if it is not finite and non-negative, or if the schedule
        changes other settings too.
    """
    if lr_schedule is None:
        rates: Iterator[float] = repeat(settings["lr"])
    elif is_torch_schedule(lr_schedule):
        rates = _torch_rates(lr_schedule, optimizer, settings)
    elif callable(lr_schedule) and not inspect.isclass(lr_schedule):
        rates = (settings["lr"] * _factor(lr_schedule, update) for update in count(1))
    else:
        raise ValueError(f"{_HOW}, got {lr_schedule!r}.")
    if not warmup_steps:
        return rates
    return (rate * min(1.0, update / warmup_steps) for update, rate in enumerate(rates, start=1))


def is_torch_schedule(lr_schedule: Any) -> bool:
    """Whether a schedule is a torch scheduler, or a partial of one, and not a function of the update's number."""
    made_by = lr_schedule
    while isinstance(made_by, functools.partial):
        made_by = made_by.func
    if isinstance(made_by, LRScheduler):
        raise ValueError(f"{_HOW}. A scheduler made already belongs to another optimiser.")
    if not (inspect.isclass(made_by) and issubclass(made_by, LRScheduler)):
        return False
    if issubclass(made_by, ReduceLROnPlateau):
        raise ValueError("lr_schedule=ReduceLROnPlateau follows the loss of epochs; schedules here follow updates.")
    return True


def _factor(lr_schedule: Callable[[int], float], update: int) -> float:
    factor = lr_schedule(update)
    if not isinstance(factor, Real) or not math.isfinite(factor) or factor < 0:
        raise ValueError(f"{_HOW}, finite and not negative; it returned {factor!r} at update {update}.")
    return float(factor)


def _torch_rates(
    lr_schedule: Callable[..., LRScheduler], optimizer: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> Iterator[float]:
    # The scheduler steps an optimiser of one idle parameter: its rates depend on the number of updates only.
    stand_in = optimizer([torch.zeros(1, requires_grad=True)], **settings)
    (group,) = stand_in.param_groups
    fixed = {name: value for name, value in group.items() if name not in ("lr", "params")}
    try:
        scheduler = lr_schedule(stand_in)
    except (TypeError, ValueError) as error:
        raise ValueError(f"lr_schedule={lr_schedule!r} cannot be made: {error}") from error

    def rates() -> Iterator[float]:
        for update in count(1):
            moved = [name for name, value in fixed.items() if group[name] != value]
            if moved:
                raise ValueError(
                    f"lr_schedule={lr_schedule!r} changes {', '.join(moved)} too, and only learning rates may change. "
                    "torch's cyclic schedules take cycle_momentum=False."
                )
            yield float(group["lr"])
            stand_in.step()
            try:
                scheduler.step()
            except ValueError as error:
                raise ValueError(f"lr_schedule={lr_schedule!r} ends after update {update}: {error}") from error

    return rates()
