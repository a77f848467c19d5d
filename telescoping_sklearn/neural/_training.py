"""Fitting through skorch: its loop and callbacks over slices of tensors, with a recorder at the optimiser."""

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from telescoping_sklearn.neural._backpropagation import propagation
from telescoping_sklearn.neural._callbacks import Converged, ShowProgress, StopWithoutProgress
from telescoping_sklearn.neural._isolation import threads
from telescoping_sklearn.neural._network import FlatModule
from telescoping_sklearn.neural._recorder import Recorder
from telescoping_sklearn.neural._saved_fit import SavedFit, fit_key
from telescoping_sklearn.neural._saved_work import SavedWork
from telescoping_sklearn.neural._training_settings import SegmentReplay, TrainingRows, TrainingSettings, epoch_batches
from telescoping_sklearn.neural._trajectory import ROUNDING, Batches, Trajectory


class TensorBatches:
    """Batches of one epoch at a time; the last, smaller one is kept.

    `drawn` collects the order of every epoch, in the smallest integers that number the rows; None drops them.
    """

    def __init__(
        self,
        dataset: TensorDataset,
        batch_size: int,
        shuffle: bool,
        generator: torch.Generator,
        drawn: list[NDArray] | None,
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generator = generator
        self.drawn = drawn

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Draw an epoch's order and yield X, y and weights of its batches."""
        return epoch_batches(list(self.dataset.tensors), self.draw(), self.batch_size)

    def draw(self) -> Tensor:
        """Draw an epoch's order of the rows."""
        n_rows = len(self.dataset)
        order = torch.randperm(n_rows, generator=self.generator) if self.shuffle else torch.arange(n_rows)
        if self.drawn is not None:
            compact = order.numpy().astype(np.min_scalar_type(n_rows - 1))
            same = bool(self.drawn) and np.array_equal(compact, self.drawn[-1])
            self.drawn.append(self.drawn[-1] if same else compact)
        return order


class LeanNet(NeuralNet):
    """skorch's net, whose epochs do only what training needs; `rates` gives the learning rate of each update."""

    def __init__(self, *args: Any, rates: Iterator[float], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rates = rates
        self.n_updates = 0

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
        self.n_updates += len(losses)

    def _mean_loss(self, losses: list[Tensor], sizes: list[int]) -> float:
        """Mean loss of an epoch, in one wait for the device; raise ValueError if training diverged."""
        found = torch.stack(losses).double().cpu()
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
    scores: list[float] = field(default_factory=list)  # on held-out rows by epoch


def train(
    settings: TrainingSettings,
    theta: Tensor,
    rows: TrainingRows,
    kept: NDArray,
    score: Callable[[Tensor], float] | None = None,
    checkpoint_dir: str | os.PathLike | None = None,
) -> TrainedNet:
    """Train from theta, (p,), on the rows `kept`, whose weights have mean 1.

    `score` gives the score of parameters on held-out rows, for early stopping. ValueError is raised if training
    diverges, with the stage at which the loss stopped being finite. With a folder of checkpoints, training goes on from
    where the same training was when it was interrupted.
    """
    orders: list[NDArray] = []
    stop = StopWithoutProgress(settings.tol, settings.n_iter_no_change, score)
    progress = ShowProgress(settings.max_iter) if settings.verbose else None
    net = _skorch_net(settings, theta, [*([progress] if progress else []), stop], orders if settings.record else None)
    record, recorder = None, None
    if settings.record:
        record = settings.record_layout(len(kept))
        recorder = Recorder(net.module_.parameters(), net.optimizer_, segment_length=record.segment_length)
    dataset = TensorDataset(*rows.subset(kept).tensors(settings.dtype, settings.device))
    saved = None
    if checkpoint_dir is not None:
        saved = SavedFit(SavedWork(checkpoint_dir, "fit", fit_key(settings, theta, rows, kept)), recorder, stop)
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
            Batches(orders, settings.batch_size, n_stages, kept),
            end=best,
            keeps_segments=record.keeps_segments(n_stages),
            # Rates are recorded, and a lambda among the settings could not be pickled.
            replay=SegmentReplay(replace(settings, lr_schedule=None), rows),
            tolerance=0.0 if torch.device(settings.device).type == "cpu" else ROUNDING,
        )
    return TrainedNet(
        best.clone(), n_stages, trajectory, net.history[:, "train_loss"], [] if score is None else stop.scores
    )


def _diverged(stage: int) -> str:
    return (
        f"Training diverged: the loss, or its square, is not finite at stage {stage}. Lower "
        "learning_rate_init, scale the inputs and the target, or lower init_scale."
    )


def _skorch_net(
    settings: TrainingSettings, theta: Tensor, callbacks: list[Callback], drawn: list[NDArray] | None
) -> LeanNet:
    """Make an initialised skorch net with none of skorch's own callbacks, which only report."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(settings.seed).generate_state(1)[0]))
    net = LeanNet(
        FlatModule,
        rates=settings.rates(),
        module__network=settings.network,
        module__theta=theta.clone(),
        criterion=nn.MSELoss,  # never called: `propagation` computes the loss and its gradient
        optimizer=settings.optimizer,
        **{f"optimizer__{name}": value for name, value in settings.optimizer_settings.items()},
        max_epochs=settings.max_iter,
        batch_size=settings.batch_size,
        iterator_train=TensorBatches,
        iterator_train__shuffle=settings.shuffle,
        iterator_train__generator=generator,
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
