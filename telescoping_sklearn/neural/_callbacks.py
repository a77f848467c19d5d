"""Callbacks of training: they decide when to stop, and show progress. None changes an update."""

import math
from collections.abc import Callable
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor
from tqdm.auto import tqdm


class Converged(Exception):
    """Ends the loop; skorch's own way, KeyboardInterrupt, would swallow the user's."""


class StopWithoutProgress(Callback):
    """Stops as scikit-learn's multilayer perceptrons do, and keeps the best parameters under early stopping.

    `score` gives the score of the parameters on held-out rows; None uses minus the training loss. `earlier` are the
    scores of the epochs of a run that this one goes on from: they count for when to stop, and not for what is kept.
    """

    def __init__(
        self,
        tol: float,
        n_iter_no_change: int,
        score: Callable[[Tensor], float] | None,
        earlier: tuple[float, ...] = (),
    ):
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.score = score
        self.scores: list[float] = []
        self.best_theta: Tensor | None = None
        self.best_stage = 0
        self._best_kept = self._best = -math.inf
        self._waited = 0
        for current in earlier:
            self._count(current)

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Compare the epoch with the best so far."""
        theta = net.module_.theta.detach()
        current = -net.history[-1, "train_loss"] if self.score is None else self.score(theta)
        self.scores.append(current)
        self._count(current)
        if self.score is not None and current > self._best_kept:
            self._best_kept = current
            self.best_theta, self.best_stage = theta.clone(), net.n_updates
        if self._waited > self.n_iter_no_change:
            raise Converged

    def _count(self, current: float) -> None:
        """Count the epochs since the last progress."""
        self._waited = self._waited + 1 if current < self._best + self.tol else 0
        self._best = max(self._best, current)


class ShowProgress(Callback):
    """A progress bar over at most `max_iter` epochs."""

    def __init__(self, max_iter: int):
        self.bar = tqdm(total=max_iter, unit="epoch", desc="TelescopingMLPRegressor")

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Advance by one epoch."""
        self.bar.set_postfix(loss=f"{net.history[-1, 'train_loss']:.4g}")
        self.bar.update()
