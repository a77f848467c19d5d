"""Whether training rows are in the leaves that predictions put them into.

LightGBM trains on bins of the columns. It bundles columns that, in a sample of the rows, are never both outside their
most frequent bins. If some other row is outside in both columns, it keeps one of the two bins: training puts it into
one leaf, and predictions, which use the values, into another. Label weights are not known for such trees. So the two
are compared where columns may be bundled.
"""

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import lightgbm
import numpy as np
from lightgbm.callback import EarlyStopException
from numpy.typing import NDArray

from telescoping_sklearn.boosting._leaf_space import row_blocks

#: Largest difference of two predictions of a row that counts as rounding, relative to the largest prediction.
_ROUNDING = 1e-12
#: Largest number of rows named in an error.
_ROWS_NAMED = 5
#: Least share of rows in the most frequent bin of a bundled column. Of two columns that are never both outside their
#: most frequent bins, one has half of the rows in it. The share is smaller here since a bin holds several values.
_FREQUENT = 1 / 3
#: With fewer bins, or fewer bins' worth of rows, bins can hold large shares of the rows whatever the values are.
_MANY_BINS = 16
#: Values of a block that are compared at once and stay in the caches.
_COMPARED = 16384


def may_bundle(X: NDArray, params: Mapping[str, Any]) -> bool:
    """Whether LightGBM may bundle columns of the rows to train on; False only where no bundle is possible.

    It may where a column has a frequent value, bins are coarse, or a sample of the rows determines the bundles.
    """
    if not params["enable_bundle"] or X.shape[1] < 2:
        return False
    coarse = params["max_bin"] < _MANY_BINS or params["min_data_in_bin"] * _MANY_BINS > len(X)
    if coarse or params["subsample_for_bin"] < len(X):
        return True
    return any(_has_frequent_value(X[:, column]) for column in np.flatnonzero(_repeats(X)))


def _repeats(X: NDArray) -> NDArray:
    """Find the columns in which some value, or NaN, may be that of a third of the rows, (n_features,) bool.

    Cut the rows into m groups of four. A value in n / 3 rows is then found twice or more in (n / 3 - m) / 3 groups or
    more, since those have up to four of it and the others up to one. Comparing the rows of each group is far cheaper
    than sorting.
    """
    n_groups, repeated = len(X) // 4, np.zeros(X.shape[1], dtype=np.intp)
    for block in row_blocks(n_groups, max(1, _COMPARED // X.shape[1])):
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity count as equal to anything
            group = [X[k * n_groups : (k + 1) * n_groups][block].astype(np.float32) for k in range(4)]
            near = [1e-6 * np.abs(rows) + np.float32(1e-29) for rows in group[:3]]
            differ = [np.abs(group[i] - group[j]) > near[i] for i, j in combinations(range(4), 2)]
        repeated += len(differ[0]) - np.logical_and.reduce(differ).sum(axis=0)
    return 3 * repeated >= len(X) * _FREQUENT - 3 - n_groups  # up to three rows are in no group


def _has_frequent_value(column: NDArray) -> bool:
    """Whether one value, or NaN, is that of a third of the rows; it is then at a third or two thirds in their order."""
    places = [len(column) // 3, 2 * len(column) // 3]
    at_thirds = np.partition(column, places)[places]
    return any(
        np.isclose(column, value, rtol=1e-9, atol=1e-30, equal_nan=True).mean() >= _FREQUENT for value in at_thirds
    )


class Placement:
    """Callback that compares, after the last tree, training's own predictions of its rows with those from their values.

    An early-stopping callback must be `wrapped`, so that rows are also compared where it ends the training.
    """

    order = 29  # before early stopping, which ends the training

    def __init__(self, X: NDArray, n_threads: int):
        self._X, self._n_threads = X, n_threads
        #: Rows that training put into other leaves than predictions do.
        self.misplaced = np.empty(0, dtype=np.intp)

    def __call__(self, env: Any) -> None:
        """Compare after the last tree."""
        if env.iteration == env.end_iteration - 1:
            self._compare(env.model)

    def wrapped(self, stop: Callable[[Any], None]) -> Callable[[Any], None]:
        """Make a callback that runs ``stop``, and compares where it ends the training."""

        def callback(env: Any) -> None:
            try:
                stop(env)
            except EarlyStopException:
                self._compare(env.model)
                raise

        callback.order = 30  # type: ignore[attr-defined]
        return callback

    def _compare(self, model: lightgbm.Booster) -> None:
        predicted = model.predict(self._X, num_iteration=model.num_trees(), num_threads=self._n_threads)
        tolerance = _ROUNDING * np.abs(predicted).max()

        def metric(trained: NDArray, data: lightgbm.Dataset) -> tuple[str, float, bool]:
            self.misplaced = np.flatnonzero(~(np.abs(trained - predicted) <= tolerance))
            return "misplaced", float(len(self.misplaced)), False

        model.eval_train(feval=metric)


def refuse_misplaced(misplaced: NDArray, n_rows: int, rows: NDArray | None, params: Mapping[str, Any]) -> None:
    """Raise ValueError naming rows, among those trained on, that training put into other leaves than predictions do.

    ``rows`` are the positions of those trained on in the rows given to `fit`; None where all were.
    """
    if not len(misplaced):
        return
    named = misplaced if rows is None else rows[misplaced]
    listed = ", ".join(map(str, named[:_ROWS_NAMED])) + (", ..." if len(named) > _ROWS_NAMED else "")
    larger = ", or a larger subsample_for_bin" if params["subsample_for_bin"] < n_rows else ""
    raise ValueError(
        f"LightGBM put {len(named)} of {n_rows} training rows ({listed}) into other leaves than its predictions do, "
        "since it bundled columns that are not exclusive; the weights of their labels are not known. Use "
        f"enable_bundle=False{larger}."
    )
