"""A recorded run: batches, learning rates and parameters of its updates; parameters are stored or trained again.

A run is cut into segments of L updates. Copying the parameters after every update would cost small nets a third of
their training time, and most runs are never asked about. So training may record checkpoints only: what it needs to
start again at the beginning of each segment. A segment is trained again when an update inside it is asked for, and must
arrive at the next checkpoint. It is then kept if the budget allows; otherwise one segment at a time is held.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from telescoping_sklearn.neural._grouped_update_rule import GroupSlice, run_update_rule, shared_rate
from telescoping_sklearn.neural._update_rules import UpdateRule, continued_rule, denominator_of

#: Relative gap allowed between a replay and the next checkpoint for a record that was pickled or copied, and on
#: accelerators: another processor may round sums in another order. On the CPU that made the record the two are equal.
ROUNDING = 1e-5
#: Parameters kept beside a replayed segment, at least: a section that spans two segments asks for its start again.
RECENT = 4


class Batches:
    """Training rows of each of T updates, kept as one order of the rows for each epoch.

    Orders of epochs beyond the last update are dropped. The last batch of an epoch may be smaller than `batch_size`.
    `names`, if given, are the numbers of the rows that `orders` counts from 0. The first `skipped` batches of the first
    epoch belong to a run before this one.
    """

    def __init__(
        self, orders: list[NDArray], batch_size: int, n_updates: int, names: NDArray | None = None, skipped: int = 0
    ):
        self.batch_size = batch_size
        self.n_updates = n_updates
        self.skipped = skipped
        self.per_epoch = -(-len(orders[0]) // batch_size)  # updates of an epoch
        self.orders = orders[: -(-(skipped + n_updates) // self.per_epoch)]
        self.names = names

    def __len__(self) -> int:
        return self.n_updates

    def __getitem__(self, index: int) -> NDArray:
        """Rows of one update, counted from 0."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"update {index} of {len(self)}")
        epoch, batch = self.place(index % len(self))
        return self._named(self.orders[epoch][batch * self.batch_size : (batch + 1) * self.batch_size])

    def place(self, n_updates: int) -> tuple[int, int]:
        """Epoch and batch, counted from 0, that follow so many updates of the run."""
        return divmod(self.skipped + n_updates, self.per_epoch)

    def factors(self, index: int) -> NDArray | None:
        """Factors of the rows of one update in its gradient; None where they are w_i / |B|."""
        return None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = {id(order): order.nbytes for order in self.orders}
        return sum(held.values()) + (0 if self.names is None else self.names.nbytes)

    def order(self, epoch: int) -> NDArray:
        """Rows of an epoch, counted from 0, in the order of training."""
        return self._named(self.orders[epoch])

    def _named(self, rows: NDArray) -> NDArray:
        return rows.astype(np.int64) if self.names is None else self.names[rows]


class RecordedBatches(Batches):
    """Training rows of each of T updates of any loop, and their factors in its gradient.

    Parameters
    ----------
    rows : list of ndarray of int
        Distinct rows of every update.
    factors : list of ndarray of float
        c_i of these rows: the gradient of the update was sum_i c_i J_i^T (f_i - y_i).
    per_epoch : int
        Updates in which a loop uses about as many rows as there are.
    """

    def __init__(self, rows: list[NDArray], factors: list[NDArray], per_epoch: int):
        super().__init__(rows, max(map(len, rows)), len(rows))
        self._factors = factors
        self.per_epoch = per_epoch

    def __getitem__(self, index: int) -> NDArray:
        """Rows of one update, counted from 0."""
        return self.orders[index].astype(np.int64)

    def factors(self, index: int) -> NDArray | None:
        """Factors of the rows of one update in its gradient."""
        return self._factors[index]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return super().nbytes + sum(factors.nbytes for factors in self._factors)


@dataclass(frozen=True)
class Checkpoint:
    """What training needs to go on from a stage, on the CPU."""

    theta: Tensor  # (p,)
    states: list[dict[str, Any]]  # the optimiser's state of each tensor: momentum, moments, number of updates
    groups: list[dict[str, Any]]  # settings of each parameter group; some optimisers count in them

    def parts(self) -> list[Any]:
        """List what it holds, with names: what tells it from others."""
        states = [part for state in self.states for pair in sorted(state.items()) for part in pair]
        return [self.theta, *states, self.groups]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = (value for state in self.states for value in state.values() if isinstance(value, Tensor))
        return self.theta.nbytes + sum(value.nbytes for value in held)


@dataclass(frozen=True)
class Segment:
    """m consecutive updates."""

    parameters: Tensor  # (m, p), after each update, in the dtype of training
    denominators: Tensor | None  # (m, p), phi_t of each update, where the optimiser has them

    @classmethod
    def empty(cls, n_updates: int, theta: Tensor, adaptive: bool) -> "Segment":
        """Allocate memory for some updates on the CPU."""
        shape = (n_updates, theta.numel())
        return cls(torch.empty(shape, dtype=theta.dtype), torch.empty(shape, dtype=theta.dtype) if adaptive else None)

    def write(self, row: int, theta: Tensor, phi: Tensor | None) -> None:
        """Copy the parameters and denominators of one update."""
        self.parameters[row].copy_(theta)
        if self.denominators is not None and phi is not None:
            self.denominators[row].copy_(phi)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.parameters.nbytes + (0 if self.denominators is None else self.denominators.nbytes)


class Replay(Protocol):
    """Trains a segment again, with rows, net and optimiser of its own."""

    def __call__(self, checkpoint: Checkpoint, stages: range, batches: Batches, rates: NDArray) -> Segment:
        """Return the updates of some stages, the first of which follows the checkpoint."""
        ...

    def state_after(self, checkpoint: Checkpoint, stages: range, batches: Batches, rates: NDArray) -> Checkpoint:
        """Return what training needs to go on from the last of these stages."""
        ...


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A recorded run of T updates of p parameters by an optimiser with G parameter groups."""

    start: Tensor  # theta_0, (p,)
    end: Tensor  # theta_T, (p,)
    batches: Batches  # among the rows given to `fit`
    group_rates: NDArray  # (T, G), learning rate of each update in each parameter group
    optimizer: type[torch.optim.Optimizer]
    slices: list[GroupSlice]  # consecutive parameters that one group moves; those in none stay as they are
    segment_length: int  # updates L of a segment; the last may be shorter
    checkpoints: list[Checkpoint]  # at the start of every segment; empty where all updates are given
    segments: dict[int, Segment] = field(default_factory=dict)  # those held, by number
    keeps_segments: bool = True  # whether segments trained again are kept, or held one at a time
    replay: Replay | None = None  # trains segments again that are not held
    tolerance: float = 0.0  # relative gap allowed between a segment trained again and the next checkpoint
    n_before: int = 0  # updates that the optimiser made before the run
    most_recent: int = RECENT  # parameters kept beside the segment that is held where segments are not kept
    _recent: OrderedDict[int, Tensor] = field(default_factory=OrderedDict)

    @property
    def n_stages(self) -> int:
        """Number of updates T."""
        return len(self.batches)

    @property
    def learning_rates(self) -> NDArray:
        """Learning rate of each update, (T,); NaN where several parameter groups move parameters, or none does."""
        return np.array([self.learning_rate(stage) for stage in range(1, self.n_stages + 1)])

    @property
    def adaptive(self) -> bool:
        """Whether the optimiser divides by denominators phi_t, as Adam does; elsewhere phi = 1."""
        return denominator_of(self.optimizer) is not None

    @property
    def nbytes(self) -> int:
        """Bytes that the record holds, the segments held included."""
        held = sum(segment.nbytes for segment in self.segments.values())
        held += sum(checkpoint.nbytes for checkpoint in self.checkpoints)
        held += sum(theta.nbytes for theta in (self.start, self.end, *self._recent.values()))
        return held + self.batches.nbytes + self.group_rates.nbytes

    @property
    def parameters(self) -> Tensor:
        """theta_0 .. theta_T, (T + 1, p), in the dtype of training: the whole run in memory at once."""
        return torch.cat([self.start[None], *(segment.parameters for segment in self._all_segments())])

    @property
    def denominators(self) -> Tensor | None:
        """phi_1 .. phi_T, (T, p), in the dtype of training, or None where they are 1: all in memory at once."""
        found = [segment.denominators for segment in self._all_segments() if segment.denominators is not None]
        return torch.cat(found) if found else None

    def make_update_rule(self) -> UpdateRule:
        """Make the linear response of the run's updates, with fresh state."""
        rule = run_update_rule(self.optimizer, self.slices, self.group_rates, len(self.start))
        return continued_rule(rule, self.n_before, self.checkpoints[0].states) if self.n_before else rule

    def learning_rate(self, stage: int) -> float:
        """Learning rate of the only group that moves parameters; NaN where several do, or none."""
        return shared_rate(self.slices, self.group_rates[stage - 1])

    def theta(self, stage: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """theta_t, (p,): not to be written to, since it may be the record's own memory."""
        return self._theta(stage).to(dtype)

    def nearest_kept(self, stage: int) -> int:
        """Next stage after one up to which no other segment is trained again: the run's last where all are kept."""
        if self.keeps_segments:
            return self.n_stages
        return min((stage // self.segment_length + 1) * self.segment_length, self.n_stages)

    def hold(self, stages: Iterable[int]) -> None:
        """Keep parameters that later passes ask for, as far as memory allows, while their segment is held."""
        for stage in () if self.keeps_segments else stages:
            self._theta(stage)

    def phi(self, stage: int) -> Tensor | None:
        """phi_t in the dtype of training, (p,), or None where it is 1, or there is no update: not to be written to."""
        if stage == 0:
            return self._phi_before()
        number, row = divmod(stage - 1, self.segment_length)
        denominators = self._segment(number).denominators if self.adaptive else None
        return None if denominators is None else denominators[row]

    def checkpoint(self, stage: int) -> Checkpoint:
        """Return what training needs to go on from a stage, trained again from the checkpoint before it.

        ValueError is raised if training again does not arrive at the recorded parameters.
        """
        number = min(stage // self.segment_length, len(self.checkpoints) - 1)
        first = number * self.segment_length
        if stage == first:
            return self.checkpoints[number]
        expected = self._theta(stage)  # the record's own, or trained again up to the next checkpoint
        if self.replay is None:
            raise ValueError("This run has no replay to train its segments again.")
        stages = range(first + 1, stage + 1)
        found = self.replay.state_after(self.checkpoints[number], stages, self.batches, self.group_rates[first:stage])
        self._check_arrival(found.theta, expected, stages)
        return found

    def complete(self) -> None:
        """Train every segment again that is not held."""
        for _ in self._all_segments():
            pass

    def _theta(self, stage: int) -> Tensor:
        number, row = divmod(stage - 1, self.segment_length)
        if stage == 0:
            return self.start
        if self.keeps_segments and number in self.segments:
            return self.segments[number].parameters[row]
        if stage == self.n_stages:
            return self.end
        if row == self.segment_length - 1:
            return self.checkpoints[number + 1].theta
        if self.keeps_segments:
            return self._segment(number).parameters[row]
        if stage not in self._recent:
            self._recent[stage] = self._segment(number).parameters[row].clone()
        self._recent.move_to_end(stage)
        if len(self._recent) > self.most_recent:
            self._recent.popitem(last=False)
        return self._recent[stage]

    def _all_segments(self) -> Iterator[Segment]:
        return (self._segment(number) for number in range(-(-self.n_stages // self.segment_length)))

    def _segment(self, number: int) -> Segment:
        """Return a segment, trained again if it is not held."""
        if number not in self.segments:
            if not self.keeps_segments:
                self.segments.clear()  # before the next one is made, so that one is held
            self.segments[number] = self._trained_again(number)
        return self.segments[number]

    def _trained_again(self, number: int) -> Segment:
        if self.replay is None:
            raise ValueError("This run has no replay to train its segments again.")
        first = number * self.segment_length
        last = min(first + self.segment_length, self.n_stages)
        stages = range(first + 1, last + 1)
        segment = self.replay(self.checkpoints[number], stages, self.batches, self.group_rates[first:last])
        expected = self.end if last == self.n_stages else self.checkpoints[number + 1].theta
        self._check_arrival(segment.parameters[-1], expected, stages)
        return segment

    def _phi_before(self) -> Tensor | None:
        """Denominators of the update before the run, (p,), or None."""
        denominator = denominator_of(self.optimizer)
        if denominator is None or not self.n_before:
            return None
        return denominator(self.checkpoints[0].states[0], self.slices[0].settings)

    def _check_arrival(self, arrived: Tensor, expected: Tensor, stages: range) -> None:
        """Raise ValueError if stages that were trained again ended elsewhere than the record."""
        gap = float(torch.linalg.vector_norm(arrived.double() - expected.double()))
        size = float(torch.linalg.vector_norm(expected.double()))
        if not gap <= self.tolerance * size:
            raise ValueError(
                f"Replaying updates {stages[0]} to {stages[-1]} did not arrive at the recorded parameters: the "
                f"relative gap is {gap / max(size, 1e-300):.1e}, and at most {self.tolerance:g} is allowed. Either the "
                "record was changed since fit, or the optimiser keeps state outside of its parameter group, or this "
                "machine rounds otherwise than the one that trained. Fit again here, or call complete_record() there "
                "before the estimator is taken elsewhere."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the segments held where they are kept; train none again."""
        return vars(self) | {"_recent": OrderedDict()} | ({} if self.keeps_segments else {"segments": {}})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle, with tolerance for a machine that rounds otherwise."""
        vars(self).update(state, tolerance=ROUNDING)
