"""Records a skorch net while it is fitted: a callback around the record of its module and optimiser."""

from collections.abc import Sized
from typing import Any, cast

import numpy as np
from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.utils import data_from_dataset
from torch import nn
from torch.utils.data import Dataset, Subset

from telescoping_sklearn.neural._training_record import TrainingRecord


class TrainingRecorder(Callback):
    """A skorch callback that records training, so that `telescope` can explain the net afterwards.

    Parameters
    ----------
    sample_weight : array-like of shape (n_train,), default=None
        Weights of the rows in the net's loss; None where it has none.
    loss : {"squared_error", "cross_entropy", "binary_cross_entropy"}, default="squared_error"
        The loss that the net trains; see `record_training`.
    record_budget : str or int, default="1GiB"
        Memory that the record may take; see `record_training`.

    Attributes
    ----------
    record_ : TrainingRecord
        The record of the last fit. ``partial_fit`` goes on with it.

    See Also
    --------
    record_training : The same for a loop of plain torch, and what is recorded and refused.

    Notes
    -----
    Rows that ``train_split`` holds out are not trained on. Where a callback loads the best parameters at the end, the
    telescope ends at the update that left them.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skorch import NeuralNetRegressor
    >>> from telescoping_sklearn import TrainingRecorder, telescope
    >>> X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    >>> y = X[:, :1] ** 2
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    >>> net = NeuralNetRegressor(model, max_epochs=5, batch_size=20, verbose=0, callbacks=[TrainingRecorder()])
    >>> explained = telescope(net.fit(X, y), X, y)
    >>> explained.n_stages_, int(explained.telescope_.n_trained)
    (15, 48)
    """

    def __init__(self, sample_weight: Any = None, loss: str = "squared_error", record_budget: str | int = "1GiB"):
        self.sample_weight = sample_weight
        self.loss = loss
        self.record_budget = record_budget

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Note the rows; the rows that are held out are not known yet.

        Parameters
        ----------
        net : NeuralNet
            The net.
        X, y : object, default=None
            What `fit` was given.
        **kwargs : object
            Not used.
        """
        self._rows = X, y
        self._running = False

    def on_epoch_begin(self, net: NeuralNet, dataset_train: Any = None, **kwargs: Any) -> None:
        """Begin to record in the first epoch.

        Parameters
        ----------
        net : NeuralNet
            The net.
        dataset_train : object, default=None
            The rows that are trained on.
        **kwargs : object
            Not used.
        """
        if self._running:
            return
        X, y = data_from_dataset(self._rows[0]) if isinstance(self._rows[0], Dataset) else self._rows
        record = getattr(self, "record_", None)
        if record is None or record.module is not net.module_ or record.optimizer is not net.optimizer_:
            held_out = isinstance(dataset_train, Subset) and len(cast(Sized, dataset_train.dataset)) == len(X)
            record = TrainingRecord(
                net.module_,
                net.optimizer_,
                X,
                y,
                self.sample_weight,
                loss=self.loss,
                record_budget=self.record_budget,
                among=np.unique(np.asarray(dataset_train.indices)) if held_out else None,
            )
        self.record_ = record.__enter__()
        self._running = True

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """End the record.

        Parameters
        ----------
        net : NeuralNet
            The net.
        X, y : object, default=None
            What `fit` was given.
        **kwargs : object
            Not used.
        """
        if self._running:
            self.record_.__exit__()
        self._running = False
        del self._rows


def record_of(model: Any, record: Any) -> tuple[TrainingRecord, nn.Module]:
    """Find the record and the module of a model: a module, or a skorch net whose callback recorded it.

    Raises
    ------
    TypeError
        If the model is neither, or was not recorded.
    """
    if isinstance(model, NeuralNet):
        callbacks = [callback for _, callback in getattr(model, "callbacks_", [])]
        recorders = [callback for callback in callbacks if isinstance(callback, TrainingRecorder)]
        if record is None and recorders:
            record = recorders[-1]
        model = getattr(model, "module_", None)
    if isinstance(record, TrainingRecorder):
        record = getattr(record, "record_", None)
    if not isinstance(model, nn.Module):
        raise TypeError(f"record belongs to a torch.nn.Module or a fitted skorch net, got {type(model).__name__}.")
    if not isinstance(record, TrainingRecord):
        raise TypeError(
            "A net is explained by the record of its training, which cannot be made afterwards. Train it inside "
            "`with record_training(module, optimizer, X, y) as run:` and give record=run; give a skorch net "
            "callbacks=[TrainingRecorder()]. Both are in telescoping_sklearn."
        )
    return record, model
