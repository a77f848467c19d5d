"""Training that is saved at ends of epochs, and goes on from there."""

from dataclasses import fields
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback
from torch import Tensor

from telescoping_sklearn.neural._callbacks import ShowProgress, StopWithoutProgress
from telescoping_sklearn.neural._recorder import CHECKED, FlatParameters, Recorder
from telescoping_sklearn.neural._saved_work import SavedWork, digest
from telescoping_sklearn.neural._training_settings import TrainingRows, TrainingSettings

#: Settings that do not change a run, or are told in other ways: the schedule by the rates that it gives.
_NOT_IN_KEY = ("network", "optimizer", "lr_schedule", "orders", "record_budget", "verbose")
_ROWS_OF_KEY = 16  # rows whose outputs tell a module from another one of as many parameters


def fit_key(
    settings: TrainingSettings,
    theta: Tensor,
    rows: TrainingRows,
    kept: NDArray,
    scored: tuple[NDArray, NDArray] | None,
    before: tuple[Any, ...],
) -> str:
    """Digest of all that training depends on: also rows scored with their weights, and what an earlier run left."""
    network, orders = settings.network, settings.orders
    some = torch.tensor(rows.X[:_ROWS_OF_KEY], dtype=theta.dtype, device=theta.device)
    names = (part.name for part in fields(settings) if part.name not in _NOT_IN_KEY)
    named = {name: getattr(settings, name) for name in names}
    optimizer = f"{settings.optimizer.__module__}.{settings.optimizer.__qualname__}"
    elsewhere = theta + torch.randn(theta.shape, generator=torch.Generator().manual_seed(0)).to(theta)
    outputs = (network.forward(point, some) for point in (theta, elsewhere))  # those at the start may all be zero
    order = orders.n_rows, orders.shuffle, orders.seed, orders.n_passed, *(orders.begun or ())
    of_rows = rows.X, rows.y, rows.weights, kept, *(scored or ())
    name = type(network).__qualname__
    return digest(torch.__version__, named, optimizer, name, *outputs, theta, *order, *of_rows, "before", *before)


class SavedFit(Callback):
    """Saves training when an epoch ends and the last save is long enough ago.

    Parameters
    ----------
    work : SavedWork
        Where it is saved.
    recorder : Recorder or None
        The recorder of the run, if there is one.
    stop : StopWithoutProgress
        What decides when to stop.
    """

    def __init__(self, work: SavedWork, recorder: Recorder | None, stop: StopWithoutProgress):
        self._work = work
        self._recorder = recorder
        self._stop = stop
        self._n_checkpoints = 0  # saved so far

    @property
    def is_complete(self) -> bool:
        """Whether training had ended."""
        return self._work.state is not None and self._work.state["is_complete"]

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Save if it is time."""
        if self._work.is_due and net.n_updates >= CHECKED:
            self.save(net, is_complete=False)

    def save(self, net: Any, *, is_complete: bool) -> None:
        """Save all that training takes to go on from the end of an epoch."""
        if self.is_complete:
            return
        if self._recorder is not None:
            for checkpoint in self._recorder.checkpoints[self._n_checkpoints :]:
                self._work.add(checkpoint)
            self._n_checkpoints = len(self._recorder.checkpoints)
        self._work.save(
            {
                "is_complete": is_complete,
                "reached": FlatParameters(net.module_.parameters(), net.optimizer_).checkpoint(),
                "recorder": None if self._recorder is None else self._recorder.state(),
                "n_updates": net.n_updates,
                "losses": net.history[:, "train_loss"],
                "losses_of_updates": np.concatenate(net.losses),
                "stop": self._stop.state(),
            }
        )

    def restore(self, net: Any, batches: Any, progress: ShowProgress | None) -> None:
        """Put back what was saved; `batches` draws the orders of past epochs again.

        Raises
        ------
        ValueError
            If the schedule gives other learning rates than those of the run so far.
        """
        state = self._work.state
        if state is None:
            return
        FlatParameters(net.module_.parameters(), net.optimizer_).restore(state["reached"])
        net.n_updates = state["n_updates"]
        net.losses = [state["losses_of_updates"]]
        net.begun, net.iterator_train__skipped = net.begun[:0], 0  # the first epoch is over
        rates = list(islice(net.rates, net.n_updates))
        if self._recorder is not None:
            checkpoints = list(self._work.items())
            self._recorder.restore(state["recorder"], checkpoints)
            self._n_checkpoints = len(checkpoints)
            expected = state["recorder"][0][:, 0]
        else:
            expected, rates = [group["lr"] for group in state["reached"].groups], rates[-1:]
        if not np.array_equal(rates, expected):
            raise ValueError(
                "lr_schedule gives other learning rates than those that this run had before it was interrupted. Give "
                "the same schedule, or another checkpoint_dir to train anew."
            )
        for loss in state["losses"]:
            batches.draw()
            net.history.new_epoch()
            net.history.record("train_loss", loss)
        self._stop.restore(state["stop"])
        if progress is not None:
            progress.bar.update(len(state["losses"]))
