"""Derivatives of a non-quadratic loss along the training of a boosted ensemble.

They change with the prediction. They are not stored by row and tree: the raw training predictions are moved from tree
to tree, forward or back, and the derivatives are computed where they are needed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from telescoping_sklearn._telescope import read_only
from telescoping_sklearn.losses import NonQuadraticLoss


class Derivatives(NamedTuple):
    """Derivatives of the loss at every row before a stage, each (n_train,).

    ``gradient`` is g, the first derivative in the raw prediction f. ``label_rate`` is q = -dg/dy, ``curvature`` is
    h = dg/df, and ``hessian`` is H, which the library uses for h in its leaf denominators.
    """

    gradient: NDArray
    label_rate: NDArray
    curvature: NDArray
    hessian: NDArray


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
        self.start = start
        self._leaves = leaves
        self._leaf_values = leaf_values
        self._at = 0, np.full(len(labels), start)
        self._derivatives: tuple[int, Derivatives] | None = None

    def before(self, stage: int) -> Derivatives:
        """Return the derivatives at f_{t-1}, for stage t counted from 1."""
        if self._derivatives is None or self._derivatives[0] != stage:
            y, f = self.labels, self._score_after(stage - 1)
            loss = self.loss
            of_rows = loss.gradient(y, f), loss.label_rate(y, f), loss.curvature(y, f), loss.hessian(y, f)
            found = Derivatives(*map(read_only, of_rows))
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

    def _score_after(self, done: int) -> NDArray:
        """Where the loss is differentiated after so many trees, (n_train,): the raw training predictions."""
        return self._raw_after(done)

    def _raw_after(self, wanted: int) -> NDArray:
        """Raw training predictions after so many trees, moved there from the last ones computed."""
        done, raw = (0, np.full(len(self.labels), self.start)) if wanted == 0 else self._at
        while done < wanted:
            raw = raw + self._leaf_values[done][self._leaves[done]]
            done += 1
        while done > wanted:
            done -= 1
            raw = raw - self._leaf_values[done][self._leaves[done]]
        self._at = done, raw
        return raw


class SoftmaxPath(LossPath):
    """Derivatives of the cross entropy of one class of several, with the raw scores of the others held as they were.

    With scores f_k of the classes, the probability of class k is the logistic function of
    f_k - log sum_{l != k} exp(f_l), so that its derivatives in f_k are those of `Logistic` there. ``others`` are the
    starts, leaves and leaf values of the other classes.
    """

    def __init__(self, *args: Any, others: Sequence[tuple[float, NDArray, list[NDArray]]]):
        super().__init__(*args)
        self._others = [LossPath(self.loss, self.labels, *of_class) for of_class in others]

    def _score_after(self, done: int) -> NDArray:
        others = np.stack([other._raw_after(done) for other in self._others])
        return self._raw_after(done) - logsumexp(others, axis=0)
