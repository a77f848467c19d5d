"""Fitting through skorch: its loop and callbacks over slices of tensors, with a recorder at the optimiser."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from telescoping_sklearn._fit_tasks import FitTasks
from telescoping_sklearn.neural._backpropagation import propagation
from telescoping_sklearn.neural._callbacks import Converged, EndEpochs, ShowProgress, StopWithoutProgress
from telescoping_sklearn.neural._isolation import threads
from telescoping_sklearn.neural._network import FlatModule
from telescoping_sklearn.neural._recorder import FlatParameters, Recorder
from telescoping_sklearn.neural._saved_fit import SavedFit
from telescoping_sklearn.neural._saved_work import SavedWork
from telescoping_sklearn.neural._training_settings import SegmentReplay, TrainingRows, TrainingSettings, epoch_batches
from telescoping_sklearn.neural._trajectory import ROUNDING, Batches, Checkpoint, Trajectory


@dataclass(frozen=True)
class SpawnPoint:
    """Where a run goes on from: another run after one of its updates."""

    checkpoint: Checkpoint  # parameters, and the optimiser's state
    n_updates: int  # all updates before, by the optimiser and its schedule
    losses: NDArray  # (n_batches,), of the batches of the epoch that were trained on before
    scores: tuple[float, ...]  # of earlier epochs, for the stopping rule

    def parts(self) -> list[Any]:
        """List what tells it from others."""
        return [*self.checkpoint.parts(), self.n_updates, self.losses, self.scores]


class TensorBatches:
    """Batches of one epoch at a time; the last, smaller one is kept.

    The first `skipped` batches of the first epoch are left out. `drawn` collects the order of every epoch, in the
    smallest integers that number the rows; None drops them.
    """

    def __init__(
        self,
        dataset: TensorDataset,
        batch_size: int,
        orders: Iterator[Tensor],
        skipped: int,
        drawn: list[NDArray] | None,
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.orders = orders
        self.skipped = skipped
        self.drawn = drawn

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Draw an epoch's order and yield X, y and weights of its batches."""
        order = self.draw()
        batches = range(self.skipped, -(-len(order) // self.batch_size))
        self.skipped = 0
        return epoch_batches(list(self.dataset.tensors), order, self.batch_size, batches)

    def draw(self) -> Tensor:
        """Draw an epoch's order of the rows."""
        order = next(self.orders)
        if self.drawn is not None:
            compact = order.numpy().astype(np.min_scalar_type(len(order) - 1))
            same = bool(self.drawn) and np.array_equal(compact, self.drawn[-1])
            self.drawn.append(self.drawn[-1] if same else compact)
        return order


class LeanNet(NeuralNet):
    """skorch's net, whose epochs do only what training needs.

    `rates` gives the learning rate of each update, `begun` the losses of those that an earlier run made in the first
    epoch.
    """

    def __init__(self, *args: Any, rates: Iterator[float], begun: NDArray, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rates = rates
        self.begun = begun
        self.n_updates = -len(begun)  # those that `begun` counts are not of this run
        self.losses: list[NDArray] = []

    def run_single_epoch(self, iterator: Any, training: bool, prefix: str, step_fn: Any, **fit_params: Any) -> None:
        """Train for an epoch and note its mean loss; a callback scores held-out rows, so there is no validation."""
        if iterator is None:
            return
        propagate, optimizer = propagation(self.module_), self.optimizer_
        (group,) = optimizer.param_groups
        losses, sizes = [], []
        for X, y, weights in iterator:
            losses.append(propagate(X, y, weights))
            sizes.append(len(y))
            group["lr"] = next(self.rates)
            optimizer.step()
        self.history.record("train_loss", self._mean_loss(losses, sizes))
        self.n_updates += len(self.losses[-1])

    def _mean_loss(self, losses: list[Tensor], sizes: list[int]) -> float:
        """Mean loss of an epoch, in one wait for the device; raise ValueError if training diverged."""
        found = torch.stack(losses).double().cpu()
        if len(self.begun):
            found = torch.cat([torch.from_numpy(self.begun), found])
            sizes = [self.batch_size] * len(self.begun) + sizes
            self.begun = self.begun[:0]
        self.losses.append(found.numpy())
        finite = torch.isfinite(found**2)  # estimates square the squares of predictions
        if not bool(finite.all()):
            raise ValueError(_diverged(self.n_updates + int(finite.long().argmin()) + 1))
        rows = torch.tensor(sizes, dtype=torch.float64)
        return float(found @ rows / rows.sum())


@dataclass
class TrainedNet:
    """Result of training."""

    theta: Tensor  # (p,), the parameters that are kept
    n_stages: int  # updates up to them
    trajectory: Trajectory | None
    loss_curve: list[float]  # training loss by epoch
    scores: list[float]  # by epoch, what the stopping rule compares: on held-out rows, or minus the loss
    progress: "Progress"


@dataclass(frozen=True)
class Progress:
    """How a run went, for runs that go on from it."""

    losses: NDArray  # of every update, from the beginning of the first epoch
    scores: tuple[float, ...]  # that the stopping rule has seen: those of earlier runs, and of every epoch of this one


def train(
    settings: TrainingSettings,
    theta: Tensor,
    rows: TrainingRows,
    kept: NDArray,
    tasks: FitTasks,
    score: Callable[[Tensor], float] | None = None,
    point: SpawnPoint | None = None,
    work: SavedWork | None = None,
) -> TrainedNet:
    """Train from theta, (p,), on the rows `kept`, whose weights have mean 1.

    `tasks` are told of every epoch, and may end the training. `score` gives the score of parameters on held-out rows,
    for early stopping. `point` is where the run goes on from another one, at theta. `work` is where it is saved, and
    goes on from; `tasks` are not told of the epochs before. ValueError is raised if training diverges, with the stage
    at which the loss stopped being finite.
    """
    orders: list[NDArray] = []
    earlier = () if point is None else point.scores
    stop = StopWithoutProgress(settings.tol, settings.n_iter_no_change, score, earlier)
    progress = ShowProgress(settings.max_iter) if settings.verbose else None
    callbacks: list[Callback] = [*([progress] if progress else []), stop, EndEpochs(tasks, stop)]
    net = _skorch_net(settings, theta, callbacks, orders if settings.record else None, point)
    if point is not None:
        FlatParameters(net.module_.parameters(), net.optimizer_).restore(point.checkpoint)
    record, recorder = None, None
    if settings.record:
        record = settings.record_layout(len(kept))
        recorder = Recorder(
            net.module_.parameters(),
            net.optimizer_,
            segment_length=record.segment_length,
            n_before=0 if point is None else point.n_updates,
        )
    dataset = TensorDataset(*rows.subset(kept).tensors(settings.dtype, settings.device))
    saved = None
    if work is not None:
        saved = SavedFit(work, recorder, stop)
        net.callbacks_.append(("SavedFit", saved))
        saved.restore(net, net.get_iterator(dataset, training=True), progress)
    try:
        with recorder or nullcontext(), threads(settings.n_threads):
            if saved is None or not saved.is_complete:
                net.fit_loop(dataset, epochs=settings.max_iter - len(net.history))
    except Converged:
        pass  # skorch's loop has no other way to be stopped
    finally:
        if progress:
            progress.bar.close()
    best = net.module_.theta.detach() if stop.best_theta is None else stop.best_theta
    if not bool(torch.isfinite(best).all()):
        raise ValueError(_diverged(net.n_updates))
    if saved is not None:
        saved.save(net, is_complete=True)
    n_stages = net.n_updates if stop.best_theta is None else stop.best_stage
    trajectory = None
    if recorder is not None and record is not None:
        trajectory = recorder.finish(
            Batches(orders, settings.batch_size, n_stages, kept, 0 if point is None else len(point.losses)),
            end=best,
            keeps_segments=record.keeps_segments(n_stages),
            most_recent=record.most_recent(n_stages),
            # Rates are recorded, and a lambda among the settings could not be pickled.
            replay=SegmentReplay(replace(settings, lr_schedule=None), rows),
            tolerance=0.0 if torch.device(settings.device).type == "cpu" else ROUNDING,
        )
    return TrainedNet(
        best.clone(),
        n_stages,
        trajectory,
        net.history[:, "train_loss"],
        stop.scores,
        Progress(np.concatenate(net.losses), (*earlier, *stop.scores)),
    )


def _diverged(stage: int) -> str:
    return (
        f"Training diverged: the loss, or its square, is not finite at stage {stage}. Lower "
        "learning_rate_init, scale the inputs and the target, or lower init_scale."
    )


def _skorch_net(
    settings: TrainingSettings,
    theta: Tensor,
    callbacks: list[Callback],
    drawn: list[NDArray] | None,
    point: SpawnPoint | None,
) -> LeanNet:
    """Make an initialised skorch net with none of skorch's own callbacks, which only report."""
    n_before, begun = (0, np.empty(0)) if point is None else (point.n_updates, point.losses)
    net = LeanNet(
        FlatModule,
        rates=islice(settings.rates(), n_before, None),
        begun=begun,
        module__network=settings.network,
        module__theta=theta.clone(),
        criterion=nn.MSELoss,  # never called: `propagation` computes the loss and its gradient
        optimizer=settings.optimizer,
        **{f"optimizer__{name}": value for name, value in settings.optimizer_settings.items()},
        max_epochs=settings.max_iter,
        batch_size=settings.batch_size,
        iterator_train=TensorBatches,
        iterator_train__orders=iter(settings.orders),
        iterator_train__skipped=len(begun),
        iterator_train__drawn=drawn,
        train_split=None,
        callbacks=[(type(callback).__name__, callback) for callback in callbacks],
        callbacks__epoch_timer=None,
        callbacks__train_loss=None,
        callbacks__valid_loss=None,
        callbacks__print_log=None,
        device=settings.device,
        verbose=0,
    )
    return net.initialize()
