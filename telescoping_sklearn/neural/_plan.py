"""What a run is made of: its rows, its settings, and how a stretch of it is trained again."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from telescoping_sklearn.neural._backpropagation import propagation
from telescoping_sklearn.neural._isolation import threads
from telescoping_sklearn.neural._network import FlatModule, Network
from telescoping_sklearn.neural._schedule import learning_rates
from telescoping_sklearn.neural._trajectory import Batches, Checkpoint, RecordPlan, Stretch, epoch_batches
from telescoping_sklearn.neural._update_rules import denominator_of, update_rule

_SINGLE_THREAD = 2**24  # multiplications of a forward pass below which a second thread costs more than it brings


@dataclass(frozen=True)
class TrainingRows:
    """Rows as `fit` was given them, held once and shared by whatever asks for them.

    Attributes
    ----------
    X : ndarray of shape (n_train, n_features)
        Training rows.
    y : ndarray of shape (n_train,)
        Training labels.
    weights : ndarray of shape (n_train,)
        Sample weights, of mean 1 over the rows trained on; zero for rows held out.
    """

    X: NDArray
    y: NDArray
    weights: NDArray

    def tensors(self, dtype: torch.dtype, device: str) -> list[Tensor]:
        """Return copies to train on."""
        return [torch.tensor(array, dtype=dtype, device=device) for array in (self.X, self.y, self.weights)]

    def subset(self, rows: NDArray) -> "TrainingRows":
        """Return some of the rows."""
        return TrainingRows(self.X[rows], self.y[rows], self.weights[rows])


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that training needs to know beside the rows.

    Attributes
    ----------
    network : Network
        The network.
    optimizer : type
        torch's optimiser.
    optimizer_settings : dict
        Its settings.
    lr_schedule, warmup_steps
        What moves the learning rate.
    batch_size, max_iter, n_iter_no_change : int
        Rows of a batch, most epochs, epochs without progress.
    tol : float
        Least progress that counts.
    shuffle, record, verbose : bool
        Whether to permute rows, record the run, and show progress.
    record_budget : int
        Bytes that the record may take.
    dtype : torch.dtype
        Precision.
    device : str
        Where to train.
    n_threads : int
        Threads of one operation on the CPU: sums depend on it in their last bits.
    seed : int
        Seeds the order of the batches.
    """

    network: Network
    optimizer: type[torch.optim.Optimizer]
    optimizer_settings: dict[str, Any]
    lr_schedule: Any
    warmup_steps: int
    batch_size: int
    max_iter: int
    n_iter_no_change: int
    tol: float
    shuffle: bool
    record: bool
    record_budget: int
    verbose: bool
    dtype: torch.dtype
    device: str
    n_threads: int
    seed: int

    def rates(self) -> Iterator[float]:
        """Learning rates of successive updates."""
        return learning_rates(self.lr_schedule, self.warmup_steps, self.optimizer, self.optimizer_settings)

    def record_plan(self, n_rows: int) -> RecordPlan:
        """How the run of so many rows is kept."""
        state, adaptive = trial_state(self.optimizer, self.optimizer_settings)
        vector = self.dtype.itemsize * self.network.n_params
        return RecordPlan(
            n_updates=self.max_iter * -(-n_rows // self.batch_size),
            batch_size=self.batch_size,
            n_rows=n_rows,
            stage_bytes=vector * (2 if adaptive else 1),
            checkpoint_bytes=vector * (1 + state),
            budget=self.record_budget,
        )

    def replay(self, rows: TrainingRows) -> "TrainAgain":
        """Return what trains again from a checkpoint, given the rows that its batches speak of."""
        return TrainAgain(
            self.network,
            self.optimizer,
            self.optimizer_settings,
            self.batch_size,
            self.dtype,
            self.device,
            self.n_threads,
            rows,
        )


def threads_for(network: Network, batch_size: int, n_jobs: int | None) -> int:
    """Threads to train with: those asked for, and one for small batches of small nets, where more only wait."""
    return 1 if n_jobs is None or batch_size * network.n_params < _SINGLE_THREAD else n_jobs


def trial_state(optimizer: type[torch.optim.Optimizer], settings: dict[str, Any]) -> tuple[int, bool]:
    """Count the tensors that an optimiser keeps of every parameter, and tell whether it has denominators.

    Raises
    ------
    ValueError
        If the optimiser refuses the settings, is not registered, or its rule refuses them.
    """
    parameter = torch.ones(3, dtype=torch.float64, requires_grad=True)
    try:
        trial = optimizer([parameter], **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{optimizer.__name__} refuses optimizer_settings: {error}") from error
    update_rule(optimizer, own_settings(trial))
    parameter.grad = torch.ones_like(parameter)
    trial.step()
    state = trial.state[parameter]
    n_tensors = sum(isinstance(value, Tensor) and value.shape == (3,) for value in state.values())
    return n_tensors, denominator_of(optimizer) is not None


def own_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the settings of an optimiser's only group."""
    (group,) = optimizer.param_groups
    return {name: value for name, value in group.items() if name != "params"}


@dataclass(frozen=True)
class TrainAgain:
    """Repeats updates of a recorded run from a checkpoint: the same operations on the same numbers.

    Attributes
    ----------
    network : Network
        The network.
    optimizer : type
        torch's optimiser.
    optimizer_settings : dict
        Its settings; learning rates are those recorded.
    batch_size : int
        Rows of a batch.
    dtype : torch.dtype
        Precision.
    device : str
        Where to train.
    n_threads : int
        Threads of one operation in the run.
    rows : TrainingRows
        Rows that the batches speak of.
    """

    network: Network
    optimizer: type[torch.optim.Optimizer]
    optimizer_settings: dict[str, Any]
    batch_size: int
    dtype: torch.dtype
    device: str
    n_threads: int
    rows: TrainingRows

    def __call__(self, checkpoint: Checkpoint, stages: range, batches: Batches, rates: NDArray) -> Stretch:
        """Return the updates of some stages, of which the first follows the checkpoint."""
        theta = checkpoint.theta.to(self.device, copy=True)
        module = FlatModule(self.network, theta)
        optimizer = self.optimizer(module.parameters(), **self.optimizer_settings)
        (group,) = optimizer.param_groups
        group.update(copy.deepcopy(checkpoint.group))
        if checkpoint.state:
            optimizer.state[module.theta] = self._restored(checkpoint)
        denominator = denominator_of(self.optimizer)
        stretch = Stretch.empty(len(stages), checkpoint.theta, denominator is not None)
        propagate = propagation(module)
        with threads(self.n_threads):
            for row, batch in enumerate(self._batches(stages, batches)):
                propagate(*batch)
                group["lr"] = float(rates[row])
                optimizer.step()
                stretch.parameters[row].copy_(theta)
                if stretch.denominators is not None and denominator is not None:
                    stretch.denominators[row].copy_(denominator(optimizer.state[module.theta], group))
        return stretch

    def _restored(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Copy the optimiser's state: vectors where the parameters are, counts where torch keeps them."""
        state = {}
        for name, value in checkpoint.state.items():
            if isinstance(value, Tensor):
                value = value.to(self.device if value.shape == checkpoint.theta.shape else "cpu", copy=True)
            state[name] = value
        return state

    def _batches(self, stages: range, batches: Batches) -> Iterator[tuple[Tensor, ...]]:
        tensors = self.rows.tensors(self.dtype, self.device)
        first, last = stages[0] - 1, stages[-1]
        for epoch in range(first // batches.per_epoch, -(-last // batches.per_epoch)):
            begin = epoch * batches.per_epoch
            within = range(max(first - begin, 0), min(last - begin, batches.per_epoch))
            yield from epoch_batches(tensors, torch.from_numpy(batches.order(epoch)), self.batch_size, within)
