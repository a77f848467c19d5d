"""Callbacks of training: they decide when to stop, and show progress. None changes an update."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor
from tqdm.auto import tqdm

from telescoping_sklearn._fit_tasks import FitTasks
from telescoping_sklearn.neural._network import FlatModule


class Converged(Exception):
    """Ends the loop; skorch's own way, KeyboardInterrupt, would swallow the user's."""


class StopWithoutProgress(Callback):
    """Stops as scikit-learn's multilayer perceptrons do, and keeps the best parameters under early stopping.

    `score` gives the score of the parameters on held-out rows; None uses minus the training loss. `earlier` are the
    scores of the epochs of a run that this one goes on from: they count for when to stop, and not for what is kept.
    """

    _FOUND = ("scores", "best_theta", "best_stage", "_best_kept", "_best", "_waited")

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

    def state(self) -> dict[str, Any]:
        """Return what was found so far."""
        return {name: getattr(self, name) for name in self._FOUND}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what another one found."""
        for name, value in state.items():
            setattr(self, name, value)

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Compare the epoch with the best so far."""
        theta = net.module_.theta.detach()
        current = -net.history[-1, "train_loss"] if self.score is None else self.score(theta)
        self.scores.append(current)
        self._count(current)
        if self.score is not None and current > self._best_kept:
            self._best_kept = current
            self.best_theta, self.best_stage = theta.clone(), net.n_updates

    def _count(self, current: float) -> None:
        """Count the epochs since the last progress."""
        self._waited = self._waited + 1 if current < self._best + self.tol else 0
        self._best = max(self._best, current)

    @property
    def is_due(self) -> bool:
        """Whether there was no progress for longer than allowed."""
        return self._waited > self.n_iter_no_change


class EndEpochs(Callback):
    """Tells the estimator's own callbacks of every epoch, and ends the loop where they or `stop` say so.

    It comes after `stop`, whose best parameters are those of the fitted estimator that callbacks see.
    """

    def __init__(self, tasks: FitTasks, stop: StopWithoutProgress):
        self.tasks = tasks
        self.stop = stop

    def on_epoch_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Begin a task."""
        self.tasks.begin("epoch")

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """End the task, and the training where it is due."""
        if self.tasks.end(partial(self._learnt, net)) or self.stop.is_due:
            raise Converged

    def _learnt(self, net: NeuralNet) -> dict[str, Any]:
        """Attributes of the estimator if it stopped now, without a record; copies, which later epochs leave alone."""
        network, theta, stage = net.module_.network, net.module_.theta.detach(), net.n_updates
        if self.stop.best_theta is not None:
            theta, stage = self.stop.best_theta, self.stop.best_stage
        learnt = {
            "module_": FlatModule(network, theta.clone()),
            "n_params_": network.n_params,
            "n_stages_": stage,
            "n_iter_": len(net.history),
            "loss_": net.history[-1, "train_loss"],
        }
        return learnt if self.stop.score is None else learnt | {"best_validation_score_": max(self.stop.scores)}


class ShowProgress(Callback):
    """A progress bar over at most `max_iter` epochs."""

    def __init__(self, max_iter: int):
        self.bar = tqdm(total=max_iter, unit="epoch", desc="TelescopingMLPRegressor")

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Advance by one epoch."""
        self.bar.set_postfix(loss=f"{net.history[-1, 'train_loss']:.4g}")
        self.bar.update()
