"""Derivatives of a non-quadratic loss along the training of a boosted ensemble.

They change with the prediction. They are not stored by row and tree: the raw training predictions are moved from tree
to tree, forward or back, and the derivatives are computed where they are needed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn._telescope import read_only
from telescoping_sklearn.losses import NonQuadraticLoss


class RawPath:
    """Raw predictions of the training rows before every stage, moved from stage to stage, forward or back.

    They start from ``start`` at every row; ``leaf_values`` of a stage, (n_leaves,), are what its leaves add, and
    ``leaves``, (n_stages, n_train), are those of the rows.
    """

    def __init__(self, start: float, leaves: NDArray, leaf_values: Sequence[NDArray]):
        self._leaves = leaves
        self._leaf_values = leaf_values
        self._start = start
        self._at = 0, self._at_start()

    def before(self, stage: int) -> NDArray:
        """Return f_{t-1} of every row, for stage t counted from 1, (n_train,)."""
        wanted = stage - 1
        done, raw = (0, self._at_start()) if wanted == 0 else self._at
        while done < wanted:
            raw = raw + self._leaf_values[done][self._leaves[done]]
            done += 1
        while done > wanted:
            done -= 1
            raw = raw - self._leaf_values[done][self._leaves[done]]
        self._at = done, raw  # one assignment: an interruption leaves the old or the new pair
        return raw

    def _at_start(self) -> NDArray:
        return np.full(self._leaves.shape[1], self._start)


class Derivatives(NamedTuple):
    """Derivatives of the loss at every row before a stage, each (n_train,).

    ``gradient`` is g, the first derivative in the raw prediction f. ``label_rate`` is q = -dg/dy, ``curvature`` is
    h = dg/df, ``hessian`` is H, which the library uses for h in its leaf denominators, and ``hessian_slope`` is dH/df.
    """

    gradient: NDArray
    label_rate: NDArray
    curvature: NDArray
    hessian: NDArray
    hessian_slope: NDArray


class LossPath:
    """Derivatives of the loss before every stage, at the raw predictions of the training run.

    Training starts from the raw prediction ``start`` at every row. ``leaf_values`` of a stage, (n_leaves,), are what
    its leaves add, and ``leaves``, (n_stages, n_train), are those of the training rows.
    """

    def __init__(
        self, loss: NonQuadraticLoss, labels: NDArray, start: float, leaves: NDArray, leaf_values: list[NDArray]
    ):
        self.loss = loss
        self.labels = read_only(labels)
        self._raw = RawPath(start, leaves, leaf_values)
        self._derivatives: tuple[int, Derivatives] | None = None

    def before(self, stage: int) -> Derivatives:
        """Return the derivatives at f_{t-1}, for stage t counted from 1."""
        if self._derivatives is None or self._derivatives[0] != stage:
            y, f = self.labels, self._raw.before(stage)
            found = Derivatives(*(read_only(getattr(self.loss, name)(y, f)) for name in Derivatives._fields))
            self._derivatives = stage, found  # one assignment: an interruption leaves the old or the new pair
        return self._derivatives[1]

    def gradient(self, stage: int) -> NDArray:
        """Return g at every row before stage t, (n_train,)."""
        return self.before(stage).gradient

    def label_rate(self, stage: int) -> NDArray:
        """Return q = -dg/dy at every row before stage t, (n_train,): what a label injects."""
        return self.before(stage).label_rate

    def curvature(self, stage: int) -> NDArray:
        """Return h = dg/df at every row before stage t, (n_train,): what the response feeds back."""
        return self.before(stage).curvature

    def hessian(self, stage: int) -> NDArray:
        """Return H at every row before stage t, (n_train,): its share of the denominator of its leaf."""
        return self.before(stage).hessian

    def hessian_slope(self, stage: int) -> NDArray:
        """Return dH/df at every row before stage t, (n_train,)."""
        return self.before(stage).hessian_slope
