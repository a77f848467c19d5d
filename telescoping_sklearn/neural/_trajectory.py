"""The recorded run: what training did at every update, and nothing that can be derived from it.

The run is cut into stretches of L updates, and what training needs to start again is recorded at the beginning of each,
a checkpoint. Copying every update instead would cost small nets as much as a third of their training, which searches
over settings would pay for nothing. A stretch is trained again when somebody asks about it, and must arrive at the
next checkpoint. Where the budget allows, it is then kept; elsewhere one at a time is held.
"""

import copy
import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
#: Relative gap allowed between a replay and the checkpoint after it, once a record was pickled or copied: another
#: processor may round sums in another order, and accelerators may do so from one call to the next. Where it was made,
#: on the CPU, the two must be equal.
ELSEWHERE = 1e-5
_RECENT = 4  # parameters kept at hand beside a replayed stretch: a section that spans two asks for its start again


def parse_budget(budget: str | int) -> int:
    """Read a size in bytes.

    Parameters
    ----------
    budget : str or int
        Such as "1GiB", "500MiB" or "2 GB", or a number of bytes.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    ValueError
        If the size cannot be read or is not positive.
    """
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]?i?B)\s*", budget, flags=re.IGNORECASE)
        size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    else:
        size = int(budget)
    if size < 1:
        raise ValueError(f"record_budget={budget!r} must be a positive size such as '1GiB' or '500MiB', or bytes.")
    return size


class Batches(Sequence[NDArray]):
    """Training rows of each update, kept as one order of the rows an epoch, in the smallest integers that hold it.

    Parameters
    ----------
    orders : list of ndarray of int
        Order of the rows of each epoch.
    batch_size : int
        Rows of a batch; the last of an epoch may be smaller.
    n_updates : int
        Number of updates T.
    rows : ndarray of int or None
        What the rows are called outside, by row; None calls them as they are.
    """

    def __init__(self, orders: list[NDArray], batch_size: int, n_updates: int, rows: NDArray | None = None):
        self.orders = orders
        self.batch_size = batch_size
        self.n_updates = n_updates
        self.rows = rows

    def __len__(self) -> int:
        return self.n_updates

    @overload
    def __getitem__(self, index: int) -> NDArray: ...

    @overload
    def __getitem__(self, index: slice) -> list[NDArray]: ...

    def __getitem__(self, index: int | slice) -> NDArray | list[NDArray]:
        """Rows of one update, counted from 0, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"update {index} of {len(self)}")
        epoch, batch = divmod(index % len(self), self.per_epoch)
        members = self.orders[epoch][batch * self.batch_size : (batch + 1) * self.batch_size]
        return members.astype(np.int64) if self.rows is None else self.rows[members]

    @property
    def per_epoch(self) -> int:
        """Updates of an epoch."""
        return -(-len(self.orders[0]) // self.batch_size)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = {id(order): order.nbytes for order in self.orders}
        return sum(held.values()) + (0 if self.rows is None else self.rows.nbytes)

    def order(self, epoch: int) -> NDArray:
        """Rows of an epoch, counted from 0, in the order that training took them."""
        order = self.orders[epoch]
        return order.astype(np.int64) if self.rows is None else self.rows[order]

    def renumbered(self, rows: NDArray) -> "Batches":
        """Return the batches with members named by ``rows[member]``."""
        return Batches(self.orders, self.batch_size, self.n_updates, rows)

    def until(self, stage: int) -> "Batches":
        """Return the batches up to and including a stage."""
        return Batches(self.orders[: -(-stage // self.per_epoch)], self.batch_size, stage, self.rows)


@dataclass(frozen=True)
class Checkpoint:
    """What training needs to go on from a stage.

    Attributes
    ----------
    theta : Tensor of shape (p,)
        Parameters.
    state : dict
        The optimiser's state of them: momentum, moments, number of updates.
    group : dict
        The settings of the optimiser's parameter group, in which some optimisers count.
    """

    theta: Tensor
    state: dict[str, Any]
    group: dict[str, Any]

    @classmethod
    def of(cls, theta: Tensor, optimizer: torch.optim.Optimizer) -> "Checkpoint":
        """Copy parameters, state and settings to the CPU."""
        (group,) = optimizer.param_groups
        settings = {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
        state = optimizer.state.get(theta, {})
        copies = {
            name: _copy(value) if isinstance(value, Tensor) else copy.deepcopy(value) for name, value in state.items()
        }
        return cls(_copy(theta), copies, settings)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.theta.nbytes + sum(value.nbytes for value in self.state.values() if isinstance(value, Tensor))


@dataclass(frozen=True)
class Stretch:
    """Consecutive updates.

    Attributes
    ----------
    parameters : Tensor of shape (m, p)
        Parameters after each, in the dtype they were trained in.
    denominators : Tensor of shape (m, p) or None
        phi_t of each, where the optimiser has them.
    """

    parameters: Tensor
    denominators: Tensor | None

    @classmethod
    def empty(cls, n_updates: int, theta: Tensor, adaptive: bool) -> "Stretch":
        """Return room for that many updates on the CPU."""
        shape = (n_updates, theta.numel())
        return cls(torch.empty(shape, dtype=theta.dtype), torch.empty(shape, dtype=theta.dtype) if adaptive else None)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.parameters.nbytes + (0 if self.denominators is None else self.denominators.nbytes)


class Replay(Protocol):
    """Trains again from a checkpoint; the rows, the net and the optimiser are its own."""

    def __call__(self, checkpoint: Checkpoint, stages: range, batches: Batches, rates: NDArray) -> Stretch:
        """Return the updates of some stages, of which the first follows the checkpoint."""
        ...


class Trajectory:
    """A recorded run of T updates.

    Parameters
    ----------
    start, end : Tensor of shape (p,)
        theta_0 and theta_T.
    batches : Batches
        Training rows of each update, among the rows given to `fit`.
    learning_rates : ndarray of shape (T,)
        Learning rate of each update.
    adaptive : bool
        Whether the optimiser divides by denominators phi_t, as Adam does; elsewhere phi = 1.
    stretch_length : int
        Updates L of a stretch; the last may be shorter.
    checkpoints : list of Checkpoint
        State at the start of every stretch.
    keeps_stretches : bool
        Whether stretches are kept once they were trained again, or held one at a time.
    """

    def __init__(
        self,
        start: Tensor,
        end: Tensor,
        batches: Batches,
        learning_rates: NDArray,
        adaptive: bool,
        stretch_length: int,
        checkpoints: list[Checkpoint],
        keeps_stretches: bool,
    ):
        self.start = start
        self.end = end
        self.batches = batches
        self.learning_rates = learning_rates
        self.adaptive = adaptive
        self.stretch_length = stretch_length
        self.checkpoints = checkpoints
        self.keeps_stretches = keeps_stretches
        self.replay: Replay | None = None
        self.tolerance = 0.0
        self._held: dict[int, Stretch] = {}
        self._recent: OrderedDict[int, Tensor] = OrderedDict()

    @property
    def n_stages(self) -> int:
        """Number of updates T."""
        return len(self.batches)

    @property
    def nbytes(self) -> int:
        """Bytes that the record holds, the stretches that were trained again included."""
        held = sum(stretch.nbytes for stretch in self._held.values())
        held += sum(checkpoint.nbytes for checkpoint in self.checkpoints)
        held += sum(theta.nbytes for theta in self._recent.values())
        return held + self.start.nbytes + self.end.nbytes + self.batches.nbytes + self.learning_rates.nbytes

    @property
    def parameters(self) -> Tensor:
        """theta_0 .. theta_T, (T + 1, p), in the dtype they were trained in: the whole run in memory at once."""
        return torch.cat([self.start[None], *(stretch.parameters for stretch in self._all_stretches())])

    @property
    def denominators(self) -> "Denominators | None":
        """phi_1 .. phi_T one by one, or None where they are 1."""
        return Denominators(self) if self.adaptive else None

    def theta(self, stage: int) -> Tensor:
        """theta_t in float64, (p,)."""
        return self._theta(stage).double()

    def phi(self, stage: int) -> Tensor | None:
        """phi_t in float64, (p,), or None where it is 1."""
        return self.denominator(stage).double() if self.adaptive else None

    def denominator(self, stage: int) -> Tensor:
        """phi_t in the dtype of training, (p,)."""
        stretch, row = divmod(stage - 1, self.stretch_length)
        denominators = self._stretch(stretch).denominators
        if denominators is None:
            raise ValueError("This optimiser has no denominators.")
        return denominators[row]

    def renumbered(self, rows: NDArray) -> "Trajectory":
        """Name batch members by ``rows[member]``; returns itself."""
        self.batches = self.batches.renumbered(rows)
        return self

    def _theta(self, stage: int) -> Tensor:
        stretch, row = divmod(stage - 1, self.stretch_length)
        if stage == 0:
            return self.start
        if self.keeps_stretches and stretch in self._held:
            return self._held[stretch].parameters[row]
        if stage == self.n_stages:
            return self.end
        if row == self.stretch_length - 1:
            return self.checkpoints[stretch + 1].theta
        if self.keeps_stretches:
            return self._stretch(stretch).parameters[row]
        if stage not in self._recent:
            self._recent[stage] = self._stretch(stretch).parameters[row].clone()
        self._recent.move_to_end(stage)
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        return self._recent[stage]

    def _all_stretches(self) -> Iterator[Stretch]:
        return (self._stretch(number) for number in range(-(-self.n_stages // self.stretch_length)))

    def _stretch(self, number: int) -> Stretch:
        """Give a stretch, trained again if it is not held."""
        if number not in self._held:
            if not self.keeps_stretches:
                self._held.clear()  # before the next one is made, so that one is held
            self._held[number] = self._train_again(number)
        return self._held[number]

    def _train_again(self, number: int) -> Stretch:
        if self.replay is None:
            raise ValueError("Nothing was given to train stretches of this run again with.")
        first = number * self.stretch_length
        last = min(first + self.stretch_length, self.n_stages)
        stretch = self.replay(
            self.checkpoints[number], range(first + 1, last + 1), self.batches, self.learning_rates[first:last]
        )
        expected = self.end if last == self.n_stages else self.checkpoints[number + 1].theta
        gap = float(torch.linalg.vector_norm(stretch.parameters[-1].double() - expected.double()))
        size = float(torch.linalg.vector_norm(expected.double()))
        if not gap <= self.tolerance * size:
            raise ValueError(
                f"Replaying updates {first + 1} to {last} did not arrive at the recorded parameters: the relative gap "
                f"is {gap / max(size, 1e-300):.1e}, and at most {self.tolerance:g} is allowed. Either the record was "
                "changed since fit, or the optimiser keeps state outside of its parameter group, or this machine "
                "rounds otherwise than the one that trained. Fit again here, or call complete_record() there "
                "before the estimator is taken elsewhere."
            )
        return stretch

    def complete(self) -> None:
        """Train every stretch again that is not held."""
        for _ in self._all_stretches():
            pass

    def __getstate__(self) -> dict[str, Any]:
        """Take along what was trained again where it is kept; compute nothing."""
        left_out = ("_recent",) if self.keeps_stretches else ("_held", "_recent")
        return {name: value for name, value in vars(self).items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Allow for a machine that rounds otherwise."""
        vars(self).update({"_held": {}} | state)
        self.tolerance = ELSEWHERE
        self._recent = OrderedDict()


class Denominators(Sequence[Tensor]):
    """phi_t of every update, counted from 0, in the dtype of training; looked up one by one.

    Parameters
    ----------
    trajectory : Trajectory
        The run.
    """

    def __init__(self, trajectory: Trajectory):
        self._trajectory = trajectory

    def __len__(self) -> int:
        return self._trajectory.n_stages

    @overload
    def __getitem__(self, index: int) -> Tensor: ...

    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...

    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        """Phi of one update, (p,), or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"update {index} of {len(self)}")
        return self._trajectory.denominator(index % len(self) + 1)


@dataclass(frozen=True)
class RecordPlan:
    """How a run of at most T updates will be kept within a budget.

    Attributes
    ----------
    n_updates : int
        T.
    batch_size, n_rows : int
        Rows of a batch and of an epoch.
    stage_bytes, checkpoint_bytes : int
        Size of one kept update, and of one checkpoint.
    budget : int
        Bytes that the record may take, together with the one stretch that is held while it is replayed.
    """

    n_updates: int
    batch_size: int
    n_rows: int
    stage_bytes: int
    checkpoint_bytes: int
    budget: int

    @property
    def order_dtype(self) -> np.dtype:
        """Smallest integers that number the rows."""
        return np.min_scalar_type(self.n_rows - 1)

    @property
    def bookkeeping_bytes(self) -> int:
        """Size of batches and learning rates, and of the parameters at hand beside checkpoints and stretches."""
        epochs = -(-self.n_updates // -(-self.n_rows // self.batch_size))
        batches = epochs * self.n_rows * self.order_dtype.itemsize + 8 * self.n_rows  # orders, and what rows are called
        return batches + 8 * self.n_updates + (2 + _RECENT) * self.stage_bytes

    @property
    def stretch_length(self) -> int:
        """Updates of a stretch: the length at which the checkpoints and one stretch take least together."""
        best = math.sqrt(self.n_updates * self.checkpoint_bytes / self.stage_bytes)
        return max(1, min(self.n_updates, round(best)))

    @property
    def least_bytes(self) -> int:
        """The least that the record and one replayed stretch can take."""
        return self.bytes_of(self.n_updates) + self.stretch_length * self.stage_bytes

    def bytes_of(self, n_updates: int) -> int:
        """Bytes of the record of so many updates, before any stretch is trained again."""
        return self.bookkeeping_bytes + -(-n_updates // self.stretch_length) * self.checkpoint_bytes

    def keeps_stretches(self, n_updates: int) -> bool:
        """Whether all stretches of so many updates fit beside the record."""
        return self.bytes_of(n_updates) + n_updates * self.stage_bytes <= self.budget


class TrajectoryWriter:
    """Collects a run: a checkpoint before every stretch, and what the updates between them are told apart by.

    Parameters
    ----------
    plan : RecordPlan
        How the run is kept.
    theta : Tensor of shape (p,)
        theta_0.
    adaptive : bool
        Whether the optimiser has denominators.
    """

    def __init__(self, plan: RecordPlan, theta: Tensor, adaptive: bool):
        self._plan = plan
        self._length = plan.stretch_length
        self._start = _copy(theta)
        self._adaptive = adaptive
        self._checkpoints = [Checkpoint(self._start, {}, {})]
        self._orders: list[NDArray] = []
        self._rates: list[float] = []

    def start_epoch(self, order: Tensor) -> None:
        """Record the order of an epoch's rows."""
        compact = order.numpy().astype(self._plan.order_dtype)
        same = bool(self._orders) and np.array_equal(compact, self._orders[-1])
        self._orders.append(self._orders[-1] if same else compact)

    def add(self, theta: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Record the update that an optimiser has just made."""
        self._rates.append(optimizer.param_groups[0]["lr"])
        if len(self._rates) % self._length == 0:
            self._checkpoints.append(Checkpoint.of(theta, optimizer))

    def finish(self, n_stages: int, end: Tensor) -> Trajectory:
        """Return the run up to a stage, whose parameters are given."""
        return Trajectory(
            self._start,
            _copy(end),
            Batches(self._orders, self._plan.batch_size, len(self._rates)).until(n_stages),
            np.array(self._rates[:n_stages]),
            self._adaptive,
            self._length,
            self._checkpoints[: -(-n_stages // self._length)],
            self._plan.keeps_stretches(n_stages),
        )


def epoch_batches(
    tensors: Iterable[Tensor], order: Tensor, batch_size: int, batches: range | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """Yield slices of tensors permuted once: far cheaper on small tables than collating rows.

    Training and its replay both take their batches here, so that the same numbers lie at the same places.

    Parameters
    ----------
    tensors : iterable of Tensor
        Tables with as many rows as `order` speaks of.
    order : Tensor of int
        Rows of the epoch.
    batch_size : int
        Rows of a batch; the last, smaller one is kept.
    batches : range, default=None
        Which batches of the epoch; None for all.

    Yields
    ------
    tuple of Tensor
        One slice a table.
    """
    permuted = [tensor[order.to(tensor.device)] for tensor in tensors]
    for batch in range(-(-len(order) // batch_size)) if batches is None else batches:
        yield tuple(tensor[batch * batch_size : (batch + 1) * batch_size] for tensor in permuted)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
