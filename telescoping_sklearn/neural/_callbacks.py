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

    `score` gives the score of the parameters on held-out rows; None uses the training loss.
    """

    def __init__(self, tol: float, n_iter_no_change: int, score: Callable[[Tensor], float] | None):
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.score = score
        self.scores: list[float] = []
        self.best = -math.inf
        self.best_theta: Tensor | None = None
        self.best_stage = 0
        self._waited = 0

    def state(self) -> dict[str, Any]:
        """Return what was found so far."""
        return {name: getattr(self, name) for name in ("scores", "best", "best_theta", "best_stage", "_waited")}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what another one found."""
        for name, value in state.items():
            setattr(self, name, value)

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Compare the epoch with the best so far."""
        theta = net.module_.theta.detach()
        current = -net.history[-1, "train_loss"] if self.score is None else self.score(theta)
        self.scores.append(current)
        self._waited = self._waited + 1 if current < self.best + self.tol else 0
        if current > self.best:
            self.best = current
            if self.score is not None:
                self.best_theta, self.best_stage = theta.clone(), net.n_updates
        if self._waited > self.n_iter_no_change:
            raise Converged


class ShowProgress(Callback):
    """A progress bar over at most `max_iter` epochs."""

    def __init__(self, max_iter: int):
        self.bar = tqdm(total=max_iter, unit="epoch", desc="TelescopingMLPRegressor")

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Advance by one epoch."""
        self.bar.set_postfix(loss=f"{net.history[-1, 'train_loss']:.4g}")
        self.bar.update()
