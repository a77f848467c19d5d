"""Callbacks of training: they record and decide when to stop; none of them steers an update."""

import math
from collections.abc import Callable
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor
from tqdm.auto import tqdm

from telescoping_sklearn.neural._trajectory import TrajectoryWriter


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

    def start_epoch(self, order: Tensor) -> None:
        """Start the epoch's sums."""
        self._losses: list[Tensor] = []
        self._rows: list[int] = []
        if self.writer is not None:
            self.writer.start_epoch(order)

    def add(self, theta: Tensor, optimizer: torch.optim.Optimizer, loss: Tensor, n_rows: int) -> None:
        """Take note of one update."""
        self.n_updates += 1
        self._losses.append(loss)
        self._rows.append(n_rows)
        if self.writer is not None:
            self.writer.add(theta, optimizer)

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Close the epoch's sums, in one wait for the device."""
        losses = torch.stack(self._losses).double().cpu()
        finite = torch.isfinite(losses**2)  # estimates square the squares of predictions
        if not bool(finite.all()):
            raise ValueError(diverged(self.n_updates - len(losses) + int(finite.long().argmin()) + 1))
        rows = torch.tensor(self._rows, dtype=torch.float64)
        self.loss_curve.append(float(losses @ rows / rows.sum()))


def diverged(stage: int) -> str:
    """Message for training whose loss stopped being finite."""
    return (
        f"Training diverged: the loss, or its square, is not finite at stage {stage}. Lower "
        "learning_rate_init, scale the inputs and the target, or lower init_scale."
    )


class Converged(Exception):
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
            raise Converged


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
