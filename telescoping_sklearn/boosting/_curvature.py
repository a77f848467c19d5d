"""Derivatives of a curved loss along the training of a boosted ensemble.

With a loss that is not squared error they change with the prediction. They are not kept by row and tree: the raw
training predictions are walked from tree to tree, in either direction, and the derivatives taken where they stand.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.losses import CurvedLoss


class Derivatives(NamedTuple):
    """Derivatives of the loss at every row before a stage, each (n_train,).

    Attributes
    ----------
    gradient : ndarray
        g, the first derivative in the raw prediction f.
    label_rate : ndarray
        q = -dg/dy.
    curvature : ndarray
        h = dg/df.
    hessian : ndarray
        H, what the library puts in its leaf denominators for h.
    """

    gradient: NDArray
    label_rate: NDArray
    curvature: NDArray
    hessian: NDArray


class CurvaturePath:
    """Derivatives before every stage, at the raw predictions of the real training run.

    Parameters
    ----------
    loss : CurvedLoss
        The loss.
    labels : ndarray of shape (n_train,)
        Training labels.
    start : float
        Raw prediction f_0, the same at every row.
    leaves : ndarray of int of shape (n_stages, n_train)
        Leaf of every training row in every tree.
    leaf_values : list of ndarray of shape (n_leaves,)
        What every leaf adds to the raw prediction, by stage.
    """

    def __init__(self, loss: CurvedLoss, labels: NDArray, start: float, leaves: NDArray, leaf_values: list[NDArray]):
        self.loss = loss
        self.labels = labels
        self.start = start
        self._leaves = leaves
        self._leaf_values = leaf_values
        self._done, self._raw = 0, np.full(len(labels), start)
        self._derivatives: Derivatives | None = None

    def before(self, stage: int) -> Derivatives:
        """Give the derivatives at f_{t-1} of stage t, counted from 1."""
        if self._derivatives is None or self._done != stage - 1:
            self._walk_to(stage - 1)
            y, f = self.labels, self._raw
            self._derivatives = Derivatives(
                self.loss.gradient(y, f),
                self.loss.label_rate(y, f),
                self.loss.curvature(y, f),
                self.loss.hessian(y, f),
            )
        return self._derivatives

    def _walk_to(self, done: int) -> None:
        """Move the raw training predictions to where they stood after ``done`` trees."""
        if done == 0:
            self._raw = np.full(len(self.labels), self.start)
        while self._done < done:
            self._raw = self._raw + self._leaf_values[self._done][self._leaves[self._done]]
            self._done += 1
        while self._done > done > 0:
            self._done -= 1
            self._raw = self._raw - self._leaf_values[self._done][self._leaves[self._done]]
        self._done = done
