"""Derivatives of a curved loss along the training of a boosted ensemble.

With a loss that is not squared error they change with the prediction. They are not kept by row and tree: the raw
training predictions are walked from tree to tree, in either direction, and the derivatives taken where they stand.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn._telescope import read_only
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
        self.labels = read_only(labels)
        self.start = start
        self._leaves = leaves
        self._leaf_values = leaf_values
        self._at = 0, np.full(len(labels), start)
        self._derivatives: tuple[int, Derivatives] | None = None

    def before(self, stage: int) -> Derivatives:
        """Give the derivatives at f_{t-1} of stage t, counted from 1."""
        if self._derivatives is None or self._derivatives[0] != stage:
            y, f = self.labels, self._raw_after(stage - 1)
            loss = self.loss
            of_rows = loss.gradient(y, f), loss.label_rate(y, f), loss.curvature(y, f), loss.hessian(y, f)
            found = Derivatives(*map(read_only, of_rows))
            self._derivatives = stage, found  # in one step, so that an interruption leaves nothing half made
        return self._derivatives[1]

    def _raw_after(self, wanted: int) -> NDArray:
        """Walk the raw training predictions to where they stood after so many trees."""
        done, raw = (0, np.full(len(self.labels), self.start)) if wanted == 0 else self._at
        while done < wanted:
            raw = raw + self._leaf_values[done][self._leaves[done]]
            done += 1
        while done > wanted:
            done -= 1
            raw = raw - self._leaf_values[done][self._leaves[done]]
        self._at = done, raw
        return raw
