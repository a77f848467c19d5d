"""Fitting through skorch: its loop and callbacks, fed with slices of tensors and watched by a recorder.

The callbacks record and decide when to stop; none of them steers an update.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from tqdm.auto import tqdm

from telescoping_sklearn.losses import SquaredError
from telescoping_sklearn.neural._network import Architecture, MultilayerPerceptron
from telescoping_sklearn.neural._trajectory import Trajectory, TrajectoryWriter
from telescoping_sklearn.neural._update_rules import UpdateRule, adam_denominator, update_rule


class TensorBatches:
    """Batches as slices of tensors permuted once an epoch: far cheaper on small tables than collating rows.

    Parameters
    ----------
    dataset : TensorDataset
        X, y and weights.
    batch_size : int
        Rows of a batch; the last, smaller one is kept.
    shuffle : bool
        Whether every epoch draws a new order.
    generator : torch.Generator
        Draws the orders.
    """

    def __init__(self, dataset: TensorDataset, batch_size: int, shuffle: bool, generator: torch.Generator):
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generator = generator

    def __iter__(self) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor, Tensor]]]:
        """Yield X and (y, weights, row numbers) of each batch."""
        X, y, weights = self.dataset.tensors
        order = torch.arange(len(y))
        if self.shuffle:
            order = torch.randperm(len(y), generator=self.generator)
            there = order.to(X.device)
            X, y, weights = X[there], y[there], weights[there]
        pieces = (tensor.split(self.batch_size) for tensor in (X, y, weights, order))
        for X_batch, y_batch, weight_batch, rows in zip(*pieces, strict=True):
            yield X_batch, (y_batch, weight_batch, rows)


class WeightedLoss(nn.Module):
    """Weighted sum of the rows' losses over the number of rows of the batch."""

    def forward(self, prediction: Tensor, target: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Loss of a batch, a scalar."""
        y, weights, _ = target
        return (weights * SquaredError().loss(y, prediction)).mean()


class WatchRun(Callback):
    """Counts updates, adds up the loss of an epoch, raises on divergence, and records the run where asked to.

    Parameters
    ----------
    writer : TrajectoryWriter or None
        Where the run is recorded.
    """

    def __init__(self, writer: TrajectoryWriter | None):
        self.writer = writer
        self.n_updates = 0
        self.loss_curve: list[float] = []

    def on_epoch_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Start the epoch's sums."""
        self._loss_sum, self._rows = 0.0, 0

    def on_batch_end(self, net: NeuralNet, batch: Any, loss: Tensor, **kwargs: Any) -> None:
        """Take note of one update."""
        rows = batch[1][2]
        value = loss.item()
        self.n_updates += 1
        if not math.isfinite(value):
            raise ValueError(diverged(self.n_updates))
        self._loss_sum += value * len(rows)
        self._rows += len(rows)
        if self.writer is not None:
            optimizer, theta = net.optimizer_, net.module_.theta
            group = optimizer.param_groups[0]
            phi = adam_denominator(optimizer.state[theta], group) if "betas" in group else None
            self.writer.add(theta, phi, rows.numpy(), group["lr"])

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Close the epoch's sums."""
        self.loss_curve.append(self._loss_sum / self._rows)


def diverged(stage: int) -> str:
    """Message for training whose loss stopped being finite."""
    return (
        f"Training diverged: the loss is not finite at stage {stage}. Lower learning_rate_init, scale the inputs and "
        "the target, or lower init_scale."
    )


class _Converged(Exception):
    """Ends the loop; skorch's own way, KeyboardInterrupt, would swallow the user's."""


class StopWithoutProgress(Callback):
    """Stops as scikit-learn's multilayer perceptrons do, and keeps the best parameters under early stopping.

    Parameters
    ----------
    watch : WatchRun
        Gives the training loss.
    tol : float
        Least progress that counts.
    n_iter_no_change : int
        Epochs without progress that are allowed.
    score : callable or None
        Score of the parameters on held-out rows; None watches the training loss.
    """

    def __init__(self, watch: WatchRun, tol: float, n_iter_no_change: int, score: Callable[[Tensor], float] | None):
        self.watch = watch
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.score = score
        self.scores: list[float] = []
        self.best = -math.inf
        self.best_theta: Tensor | None = None
        self.best_stage = 0
        self._waited = 0

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Compare the epoch with the best so far."""
        theta = net.module_.theta.detach()
        current = -self.watch.loss_curve[-1] if self.score is None else self.score(theta)
        self.scores.append(current)
        self._waited = self._waited + 1 if current < self.best + self.tol else 0
        if current > self.best:
            self.best = current
            if self.score is not None:
                self.best_theta, self.best_stage = theta.clone(), self.watch.n_updates
        if self._waited > self.n_iter_no_change:
            raise _Converged


class ShowProgress(Callback):
    """A progress bar over epochs.

    Parameters
    ----------
    max_iter : int
        Most epochs.
    watch : WatchRun
        Gives the loss.
    """

    def __init__(self, max_iter: int, watch: WatchRun):
        self.bar = tqdm(total=max_iter, unit="epoch", desc="TelescopingMLPRegressor")
        self.watch = watch

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Advance by one epoch."""
        self.bar.set_postfix(loss=f"{self.watch.loss_curve[-1]:.4g}")
        self.bar.update()


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that training needs to know beside the rows.

    Attributes
    ----------
    architecture : Architecture
        The net.
    optimizer : type
        torch's optimiser.
    optimizer_settings : dict
        Its settings.
    batch_size, max_iter, n_iter_no_change : int
        Rows of a batch, most epochs, epochs without progress.
    tol : float
        Least progress that counts.
    shuffle, record, verbose : bool
        Whether to permute rows, record the run, and show progress.
    device : str
        Where to train.
    seed : int
        Seeds the order of the batches.
    """

    architecture: Architecture
    optimizer: type[torch.optim.Optimizer]
    optimizer_settings: dict[str, Any]
    batch_size: int
    max_iter: int
    n_iter_no_change: int
    tol: float
    shuffle: bool
    record: bool
    verbose: bool
    device: str
    seed: int

    @property
    def adaptive(self) -> bool:
        """Whether the optimiser has denominators."""
        return "betas" in self.optimizer_settings

    def n_updates(self, n_rows: int) -> int:
        """Most updates that training may take."""
        return self.max_iter * -(-n_rows // self.batch_size)


@dataclass
class TrainedNet:
    """What training leaves.

    Attributes
    ----------
    theta : Tensor of shape (p,)
        The parameters that are kept.
    n_stages : int
        Updates up to them.
    make_rule : callable
        Makes the optimiser's linear response.
    trajectory : Trajectory or None
        The recorded run.
    loss_curve, scores : list of float
        Training loss by epoch; scores on held-out rows by epoch.
    """

    theta: Tensor
    n_stages: int
    make_rule: Callable[[], UpdateRule]
    trajectory: Trajectory | None
    loss_curve: list[float]
    scores: list[float] = field(default_factory=list)


def train(
    plan: TrainingPlan,
    theta: Tensor,
    rows: tuple[NDArray, NDArray, NDArray],
    score: Callable[[Tensor], float] | None = None,
) -> TrainedNet:
    """Train from theta.

    Parameters
    ----------
    plan : TrainingPlan
        How to train.
    theta : Tensor of shape (p,)
        Initial parameters, in the dtype to train in.
    rows : tuple of X, y and sample weights
        Rows to train on, the weights of mean 1.
    score : callable or None
        Score of parameters on held-out rows, for early stopping.

    Returns
    -------
    TrainedNet
        The net that is kept, and its run.

    Raises
    ------
    ValueError
        If training diverges, with the stage at which the loss stopped being finite.
    """
    tensors = [torch.tensor(array, dtype=theta.dtype, device=plan.device) for array in rows]
    writer = TrajectoryWriter(plan.n_updates(len(rows[1])), theta, plan.adaptive) if plan.record else None
    watch = WatchRun(writer)
    stop = StopWithoutProgress(watch, plan.tol, plan.n_iter_no_change, score)
    progress = ShowProgress(plan.max_iter, watch) if plan.verbose else None
    net = _skorch_net(plan, theta, [watch, *([progress] if progress else []), stop])
    try:
        net.fit_loop(TensorDataset(*tensors), epochs=plan.max_iter)
    except _Converged:
        pass  # the loop has no other way to be told
    finally:
        if progress:
            progress.bar.close()
    kept = net.module_.theta.detach() if stop.best_theta is None else stop.best_theta
    if not bool(torch.isfinite(kept).all()):
        raise ValueError(diverged(watch.n_updates))
    n_stages = watch.n_updates if stop.best_theta is None else stop.best_stage
    return TrainedNet(
        theta=kept.clone(),
        n_stages=n_stages,
        make_rule=update_rule(net.optimizer_.param_groups[0]),
        trajectory=None if writer is None else writer.finish(n_stages),
        loss_curve=watch.loss_curve,
        scores=[] if score is None else stop.scores,
    )


def _skorch_net(plan: TrainingPlan, theta: Tensor, callbacks: list[Callback]) -> NeuralNet:
    """Compose an initialised skorch net with none of its own callbacks, which only report."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(plan.seed).generate_state(1)[0]))
    named = [(type(callback).__name__, callback) for callback in callbacks]
    net = NeuralNet(
        MultilayerPerceptron,
        module__architecture=plan.architecture,
        module__theta=theta.clone(),
        criterion=WeightedLoss,
        optimizer=plan.optimizer,
        **{f"optimizer__{name}": value for name, value in plan.optimizer_settings.items()},
        max_epochs=plan.max_iter,
        batch_size=plan.batch_size,
        iterator_train=TensorBatches,
        iterator_train__shuffle=plan.shuffle,
        iterator_train__generator=generator,
        train_split=None,
        callbacks=named,
        callbacks__epoch_timer=None,
        callbacks__train_loss=None,
        callbacks__valid_loss=None,
        callbacks__print_log=None,
        device=plan.device,
        verbose=0,
    )
    return net.initialize()
