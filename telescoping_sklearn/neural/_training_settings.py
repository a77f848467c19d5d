"""Rows and settings of training, and the replay of a segment of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from telescoping_sklearn.neural._backpropagation import propagation
from telescoping_sklearn.neural._isolation import threads
from telescoping_sklearn.neural._network import FlatModule, Network
from telescoping_sklearn.neural._record_layout import RecordLayout
from telescoping_sklearn.neural._recorder import FlatParameters
from telescoping_sklearn.neural._schedule import learning_rates
from telescoping_sklearn.neural._trajectory import Batches, Checkpoint, Segment
from telescoping_sklearn.neural._update_rules import denominator_of, group_settings, update_rule

_SINGLE_THREAD = 2**24  # multiplications of a forward pass below which a second thread costs more than it brings


@dataclass(frozen=True)
class TrainingRows:
    """Rows as given to `fit`, held once."""

    X: NDArray  # (n_train, n_features)
    y: NDArray  # (n_train,) or (n_train, n_outputs)
    weights: NDArray  # (n_train,), of mean 1 over the rows trained on; zero for rows held out

    def tensors(self, dtype: torch.dtype, device: str) -> list[Tensor]:
        """Return copies to train on: X, labels (n_train, n_outputs) and weights (n_train, 1)."""
        columns = self.X, self.y.reshape(len(self.y), -1), self.weights[:, None]
        return [torch.tensor(array, dtype=dtype, device=device) for array in columns]

    def subset(self, rows: NDArray) -> "TrainingRows":
        """Return some of the rows."""
        return TrainingRows(self.X[rows], self.y[rows], self.weights[rows])


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of training."""

    network: Network
    optimizer: type[torch.optim.Optimizer]
    optimizer_settings: dict[str, Any]
    lr_schedule: Any
    warmup_steps: int
    batch_size: int
    max_iter: int  # largest number of epochs
    n_iter_no_change: int
    tol: float
    shuffle: bool
    record: bool
    record_budget: int  # bytes
    verbose: bool
    dtype: torch.dtype
    device: str
    n_threads: int  # of one operation on the CPU; the last bits of sums depend on it
    seed: int  # of the order of the batches

    def rates(self) -> Iterator[float]:
        """Learning rates of successive updates."""
        return learning_rates(self.lr_schedule, self.warmup_steps, self.optimizer, self.optimizer_settings)

    def record_layout(self, n_rows: int) -> RecordLayout:
        """Lay out the record of a run on so many rows."""
        state, adaptive = trial_state(self.optimizer, self.optimizer_settings)
        vector = self.dtype.itemsize * self.network.n_params
        return RecordLayout(
            n_updates=self.max_iter * -(-n_rows // self.batch_size),
            batch_size=self.batch_size,
            n_rows=n_rows,
            stage_bytes=vector * (2 if adaptive else 1),
            checkpoint_bytes=vector * (1 + state),
            budget=self.record_budget,
        )


def threads_for(network: Network, batch_size: int, n_jobs: int | None) -> int:
    """Return the number of threads to train with: 1 for small batches of small nets, where more are slower."""
    return 1 if n_jobs is None or batch_size * network.n_params < _SINGLE_THREAD else n_jobs


def trial_state(optimizer: type[torch.optim.Optimizer], settings: dict[str, Any]) -> tuple[int, bool]:
    """Count the tensors that an optimiser keeps of every parameter, and tell whether it has denominators.

    ValueError is raised if the optimiser refuses the settings, is not registered, or its rule refuses them.
    """
    parameter = torch.ones(3, dtype=torch.float64, requires_grad=True)
    try:
        trial = optimizer([parameter], **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{optimizer.__name__} refuses optimizer_settings: {error}") from error
    update_rule(optimizer, group_settings(trial.param_groups[0]))
    parameter.grad = torch.ones_like(parameter)
    trial.step()
    state = trial.state[parameter]
    n_tensors = sum(isinstance(value, Tensor) and value.shape == (3,) for value in state.values())
    return n_tensors, denominator_of(optimizer) is not None


def epoch_batches(
    tensors: list[Tensor], order: Tensor, batch_size: int, batches: range | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the batches of an epoch, all or some, as slices of tables that are permuted once.

    This is far cheaper on small tables than collating rows. Training and its replay both take their batches here, so
    that the same numbers lie at the same places. The last, smaller batch is kept.
    """
    permuted = [tensor[order.to(tensor.device)] for tensor in tensors]
    for batch in range(-(-len(order) // batch_size)) if batches is None else batches:
        yield tuple(tensor[batch * batch_size : (batch + 1) * batch_size] for tensor in permuted)


@dataclass(frozen=True)
class SegmentReplay:
    """Repeats updates of a recorded run from a checkpoint: the same operations on the same numbers."""

    settings: TrainingSettings  # learning rates are those recorded
    rows: TrainingRows  # those that the batches name

    def __call__(self, checkpoint: Checkpoint, stages: range, batches: Batches, rates: NDArray) -> Segment:
        """Return the updates of some stages, the first of which follows the checkpoint."""
        settings = self.settings
        module = FlatModule(settings.network, torch.empty_like(checkpoint.theta, device=settings.device))
        optimizer = settings.optimizer(module.parameters(), **settings.optimizer_settings)
        run = FlatParameters(module.parameters(), optimizer)
        run.restore(checkpoint)
        segment = Segment.empty(len(stages), checkpoint.theta, denominator_of(settings.optimizer) is not None)
        propagate = propagation(module)
        with threads(settings.n_threads):
            for row, batch in enumerate(self._batches(stages, batches)):
                propagate(*batch)
                optimizer.param_groups[0]["lr"] = float(rates[row, 0])
                optimizer.step()
                segment.write(row, run.theta(), run.denominators())
        return segment

    def _batches(self, stages: range, batches: Batches) -> Iterator[tuple[Tensor, ...]]:
        tensors = self.rows.tensors(self.settings.dtype, self.settings.device)
        first, last = stages[0] - 1, stages[-1]
        for epoch in range(first // batches.per_epoch, -(-last // batches.per_epoch)):
            begin = epoch * batches.per_epoch
            within = range(max(first - begin, 0), min(last - begin, batches.per_epoch))
            yield from epoch_batches(tensors, torch.from_numpy(batches.order(epoch)), batches.batch_size, within)
