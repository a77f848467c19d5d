"""The recorder: records the steps of an optimiser and returns the run.

It needs the parameters and the optimiser, not the loop that trains. Steps are checked against the optimiser's
registered update rule: if the rule were wrong, so would be every answer. The first steps are enough for the trainer,
whose loop is known. In a loop that is not, where every update is kept, every step is checked.
"""

import copy
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby, pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from telescoping_sklearn.neural._grouped_update_rule import GroupSlice, run_update_rule, shared_rate
from telescoping_sklearn.neural._trajectory import RECENT, Batches, Checkpoint, Replay, Segment, Trajectory
from telescoping_sklearn.neural._update_rules import continued_rule, denominator_of, group_settings

#: What to do where requires_grad of a parameter changes during training.
REQUIRES_GRAD = (
    "requires_grad of a parameter changed after the record began. Leave requires_grad as it is, put parameters that "
    "are to stand still for a while into a parameter group of their own, and set its learning rate to 0 for that time"
)
CHECKED = 3  # first updates of a run whose steps are checked, and of a segment whose settings are; else all are


class FlatParameters:
    """Tensors that an optimiser updates, as one vector theta, with the optimiser's state of them.

    theta concatenates the tensors that require a gradient, in the order given; others are constants of the model.
    Parameters that the optimiser does not hold stay as they are.

    Raises
    ------
    ValueError
        If no parameter requires a gradient, if they differ in dtype or device, or if the optimiser moves others.
    """

    def __init__(self, parameters: Iterable[Tensor], optimizer: torch.optim.Optimizer):
        held = list(parameters)
        self.optimizer = optimizer
        self.tensors = [tensor for tensor in held if tensor.requires_grad]
        self.constants = [tensor for tensor in held if not tensor.requires_grad]
        if len({(tensor.dtype, tensor.device) for tensor in self.tensors}) != 1:
            raise ValueError("parameters must hold tensors that require a gradient, of one dtype and on one device.")
        groups = enumerate(optimizer.param_groups)
        numbers = {tensor: number for number, group in groups for tensor in group["params"] if tensor.requires_grad}
        self.groups = [numbers.get(tensor) for tensor in self.tensors]
        if not set(numbers) <= set(self.tensors):
            raise ValueError("optimizer moves tensors that are not among parameters. Pass all that it moves.")
        ends = accumulate((tensor.numel() for tensor in self.tensors), initial=0)
        self.places = [slice(first, last) for first, last in pairwise(ends)]
        self.n_params = self.places[-1].stop
        self._denominator = denominator_of(type(optimizer))

    def theta(self) -> Tensor:
        """Parameters, (p,); their own memory where there is one tensor."""
        return _flat([tensor.detach() for tensor in self.tensors])

    def equals(self, theta: Tensor) -> bool:
        """Whether the parameters are theta, (p,)."""
        pairs = zip(self.tensors, self._split(theta), strict=True)
        return all(torch.equal(tensor.detach().reshape(-1), part) for tensor, part in pairs)

    def largest(self, values: Tensor) -> Tensor:
        """Largest absolute value in every tensor, given numbers of all parameters, (p,)."""
        return torch.stack(torch._foreach_norm(self._split(values), torch.inf))

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        return values.split([place.stop - place.start for place in self.places])

    def gradient(self) -> Tensor:
        """Gradient, (p,), zero where there is none."""
        return _flat([torch.zeros_like(part) if part.grad is None else part.grad for part in self.tensors])

    def denominators(self) -> Tensor | None:
        """Denominators of the last update, (p,), 1 where it moved nothing; None if the optimiser has none."""
        denominator, state = self._denominator, self.optimizer.state
        if denominator is None:
            return None
        return _flat(
            [
                denominator(state[tensor], self.optimizer.param_groups[number])
                if number is not None and state.get(tensor)
                else torch.ones_like(tensor)
                for tensor, number in zip(self.tensors, self.groups, strict=True)
            ]
        )

    def slices(self, settings: list[dict[str, Any]]) -> list[GroupSlice]:
        """Cut theta into consecutive parameters that one group moves, given the settings of the groups."""
        numbers = [
            number if tensor.grad is not None else None
            for tensor, number in zip(self.tensors, self.groups, strict=True)
        ]
        found = []
        for number, run in groupby(zip(numbers, self.places, strict=True), key=lambda pair: pair[0]):
            places = [place for _, place in run]
            if number is not None:
                found.append(GroupSlice(slice(places[0].start, places[-1].stop), number, settings[number]))
        return found

    def settings(self) -> list[dict[str, Any]]:
        """Copy the settings of every group."""
        return [_copied_values(group_settings(group)) for group in self.optimizer.param_groups]

    def checkpoint(self) -> Checkpoint:
        """Copy parameters, state and settings to the CPU."""
        states = [_copied_values(self.optimizer.state.get(tensor, {})) for tensor in self.tensors]
        return Checkpoint(_copied(self.theta()), states, self.settings())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put parameters, state and settings back: vectors where the parameters are, counts where torch keeps them."""
        for place, tensor, state in zip(self.places, self.tensors, checkpoint.states, strict=True):
            tensor.detach().copy_(checkpoint.theta[place].view_as(tensor))
            if state:
                self.optimizer.state[tensor] = {
                    name: value.to(tensor.device if value.shape == tensor.shape else "cpu", copy=True)
                    if isinstance(value, Tensor)
                    else copy.deepcopy(value)
                    for name, value in state.items()
                }
        for group, settings in zip(self.optimizer.param_groups, checkpoint.groups, strict=True):
            group.update(copy.deepcopy(settings))

    def rates(self) -> list[float]:
        """Learning rate of every group."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]


class Recorder:
    """Records the updates that an optimiser makes.

    Call `before_step` and `after_step` around each step of the optimiser, or train inside ``with recorder:``, where
    the optimiser calls both itself. The gradient must be that of the mean loss of the batch, unless the factors of the
    rows are given to `finish`.

    Parameters
    ----------
    parameters : iterable of Tensor
        Parameters of the model, such as ``module.parameters()``. The run is that of theta, the concatenation of those
        that require a gradient.
    optimizer : torch.optim.Optimizer
        The optimiser, of a registered class, before its first step. Parameter groups may differ in their settings.
    segment_length : int or None, default=None
        Updates between two checkpoints, where a replay can train again in between; None keeps every update, and checks
        every step.
    n_before : int, default=0
        Updates that the optimiser made before, whose state it has.

    Raises
    ------
    ValueError
        If parameters or optimiser do not fit together, or the optimiser or its settings have no response. While
        recording, if a step is not the one that the registered rule gives, or if anything but the learning rates
        changes: other settings, groups, or which parameters have a gradient. Where every update is kept, also if
        parameters change between two steps.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from telescoping_sklearn.neural._recorder import Recorder
    >>> module = torch.nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    >>> with Recorder(module.parameters(), optimizer) as recorder:
    ...     for _ in range(4):
    ...         optimizer.zero_grad()
    ...         module(torch.ones(5, 2)).square().mean().backward()
    ...         _ = optimizer.step()
    >>> recorder.finish([np.arange(5)] * 4).parameters.shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        segment_length: int | None = None,
        n_before: int = 0,
    ):
        self._flat = FlatParameters(parameters, optimizer)
        self._length = segment_length
        self._n_before = n_before
        self._settings = self._flat.settings()
        self._checkpoints = [self._flat.checkpoint()]
        self._segments: dict[int, Segment] = {}
        self._rates: list[list[float]] = []
        self._slices: list[GroupSlice] = []
        self._before: tuple[Tensor, Tensor] | None = None
        self._theta = self._flat.theta().clone() if segment_length is None else None  # after the last step

    @property
    def n_updates(self) -> int:
        """Number of updates recorded."""
        return len(self._rates)

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Checkpoints recorded."""
        return self._checkpoints

    def state(self) -> tuple[Any, ...]:
        """Return what a recorder of the same run takes to go on from here, beside the checkpoints."""
        return np.array(self._rates), self._slices, self._moved

    def restore(self, state: tuple[Any, ...], checkpoints: list[Checkpoint]) -> None:
        """Go on from the state of another recorder, made at the same start, with checkpoints and beyond `CHECKED`."""
        rates, self._slices, self._moved = state
        self._rates, self._checkpoints = rates.tolist(), checkpoints

    @property
    def is_adaptive(self) -> bool:
        """Whether the optimiser has denominators."""
        return denominator_of(type(self._flat.optimizer)) is not None

    def theta(self, stage: int) -> Tensor:
        """Parameters after an update, (p,), where every update is kept."""
        return self._segments[stage - 1].parameters[0] if stage else self._checkpoints[0].theta

    def is_unchanged(self) -> bool:
        """Whether parameters are those that the last step left, where every update is kept."""
        return self._theta is None or self._flat.equals(self._theta)

    def before_step(self, gradient: Tensor | None = None) -> None:
        """Note learning rates, and parameters and gradient of an update that is checked.

        Parameters
        ----------
        gradient : Tensor of shape (p,), default=None
            The gradient, whose memory is taken; None looks it up.
        """
        if not self.is_unchanged():
            raise ValueError(moved_message(len(self._rates) + 1))
        number = len(self._rates)
        self._rates.append(self._flat.rates())
        if number == 0:
            self._slices = self._flat.slices(self._settings)
            self._rule = run_update_rule(type(self._flat.optimizer), self._slices, self._rates, self._flat.n_params)
            if self._n_before:
                self._rule = continued_rule(self._rule, self._n_before, self._checkpoints[0].states)
                self._rule.start_offset(self._flat.theta()[None])
            self._moved = self._with_gradient()
        if self._length is None or number % self._length < CHECKED:  # it would slow small nets by several percent
            self._refuse_changes()
        if self._length is None or number < CHECKED:
            before = self._flat.theta().clone() if self._theta is None else self._theta
            self._before = before, self._flat.gradient().clone() if gradient is None else gradient

    def after_step(self) -> None:
        """Record the update that the optimiser has just made."""
        number, phi = len(self._rates), None
        if self._before is not None:
            phi = self._flat.denominators()
            self._check_step(*self._before, phi)
            self._before = None
        if self._length is None:
            self._theta = self._flat.theta().clone()
            kept = self._theta.to("cpu", copy=False)
            self._segments[number - 1] = Segment(kept[None], None if phi is None else phi.to("cpu")[None])
        elif number % self._length == 0:
            self._checkpoints.append(self._flat.checkpoint())

    def __enter__(self) -> Self:
        """Let the optimiser call `before_step` and `after_step`."""
        optimizer = self._flat.optimizer
        self._hooks = [
            optimizer.register_step_pre_hook(lambda *_: self.before_step()),
            optimizer.register_step_post_hook(lambda *_: self.after_step()),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the optimiser alone again."""
        for hook in self._hooks:
            hook.remove()

    def finish(
        self,
        batches: Sequence[NDArray] | Batches,
        *,
        end: Tensor | None = None,
        keeps_segments: bool = True,
        replay: Replay | None = None,
        tolerance: float = 0.0,
        most_recent: int = RECENT,
    ) -> Trajectory:
        """Return the run.

        Parameters
        ----------
        batches : sequence of ndarray of int
            Training rows of each update. Where training went on beyond the run that counts, the updates of the run
            only.
        end : Tensor of shape (p,) or None, default=None
            Parameters after the last update; None stands for those that the model has now.
        keeps_segments, replay, tolerance, most_recent
            As for `Trajectory`.

        Returns
        -------
        Trajectory
            The run.

        Raises
        ------
        ValueError
            If there are no batches, or more than updates.
        """
        n_stages, length = len(batches), self._length or 1
        if not 1 <= n_stages <= len(self._rates):
            raise ValueError(f"batches holds {n_stages} updates, and {len(self._rates)} were recorded.")
        if not isinstance(batches, Batches):
            orders = [np.asarray(rows) for rows in batches]
            batches = Batches(orders, max(map(len, orders)), n_stages)
        return Trajectory(
            start=self._checkpoints[0].theta,
            end=_copied(self._flat.theta() if end is None else end),
            batches=batches,
            group_rates=np.array(self._rates[:n_stages]),
            optimizer=type(self._flat.optimizer),
            slices=self._slices,
            segment_length=length,
            checkpoints=self._checkpoints[: -(-n_stages // length)],
            segments={number: self._segments[number] for number in range(n_stages)} if self._segments else {},
            keeps_segments=keeps_segments,
            replay=replay,
            tolerance=tolerance,
            n_before=self._n_before,
            most_recent=most_recent,
        )

    def _with_gradient(self) -> list[bool]:
        pairs = zip(self._flat.tensors, self._flat.groups, strict=True)
        return [number is not None and tensor.grad is not None for tensor, number in pairs]

    def requires_same_gradients(self) -> bool:
        """Whether the parameters that require a gradient are those that did when the record began."""
        flat = self._flat
        return all(part.requires_grad for part in flat.tensors) and not any(p.requires_grad for p in flat.constants)

    def _refuse_changes(self) -> None:
        """Raise ValueError where a response that was read off the first update would not hold."""
        changed = ""
        groups = self._flat.optimizer.param_groups
        if len(groups) != len(self._settings):
            changed = f"the number of parameter groups, {len(self._settings)} before and {len(groups)} now"
        for number, (settings, group) in enumerate(zip(self._settings, groups, strict=False)):
            for name, value in settings.items():
                if name != "lr" and group[name] != value:
                    changed = f"{name} of parameter group {number}, {value!r} before and {group[name]!r} now"
        if not self.requires_same_gradients():
            raise ValueError(f"Update {len(self._rates)} cannot be recorded: {REQUIRES_GRAD}.")
        if self._with_gradient() != self._moved:
            changed = "which parameters have a gradient. Call zero_grad(set_to_none=False) and train the same ones"
        if changed:
            update = len(self._rates)
            raise ValueError(
                f"Only learning rates may change while a run is recorded; update {update} changes {changed}."
            )

    def _check_step(self, before: Tensor, gradient: Tensor, phi: Tensor | None) -> None:
        """Raise ValueError if the rule's response to the gradient is another step than the one taken."""
        stage = len(self._rates)
        taken = self._flat.theta() - before
        rate = shared_rate(self._slices, self._rates[-1])
        given = self._rule.step(gradient[None], before[None], stage, rate, phi)[0]
        gaps, steps, sizes = (self._flat.largest(values) for values in (given.sub_(taken), taken, before))
        allowed = 1e-3 * steps + 4 * torch.finfo(before.dtype).eps * sizes
        if bool((gaps <= allowed).all()) or not bool(torch.isfinite(steps).all()):
            return
        worst = int((gaps - allowed).nan_to_num(nan=torch.inf).argmax())
        raise ValueError(
            f"optimizer={type(self._flat.optimizer).__name__}: the response registered for it does not give "
            f"the step of update {stage} (largest gap {float(gaps[worst]):.1e}, largest step "
            f"{float(steps[worst]):.1e}). Either it does not cover a setting in optimizer_settings, or it is wrong, "
            "or the optimiser made steps before it was recorded, or something else moves the parameters."
            + (
                " Where a run goes on from another, a response with memory takes it over in `remember`; see "
                "register_update_rule."
                if self._n_before
                else ""
            )
        )


def moved_message(update: int) -> str:
    """Say that parameters changed between two updates."""
    return (
        f"The parameters changed between updates {update - 1} and {update}, and not by the optimiser that is "
        "recorded: by a second optimiser, weights that are clipped, averaged or loaded, or by hand. Record a loop in "
        "which this optimiser alone moves them."
    )


def _flat(parts: list[Tensor]) -> Tensor:
    return parts[0].flatten() if len(parts) == 1 else torch.cat([part.flatten() for part in parts])


def _copied_values(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _copied(value) for name, value in values.items()}


def _copied(value: Any) -> Any:
    """Copy a value, to the CPU if it is a tensor."""
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
