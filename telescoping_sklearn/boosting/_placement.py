"""Whether training rows lie in the leaves that predictions put them into.

LightGBM trains on bins of the columns, and bundles columns that, in a sample of the rows, are never away from their
most frequent bins at the same row. Where two such columns meet in a row after all, that row keeps one of the two bins:
training then puts it into a leaf, and predictions, which see the values, into another. No weights of labels can be told
for such trees. So where columns may be bundled, the two are compared.
"""

from collections.abc import Callable, Mapping
from typing import Any

import lightgbm
import numpy as np
from lightgbm.callback import EarlyStopException
from numpy.typing import NDArray

#: Share of the largest prediction beyond which two predictions of a row differ by more than rounding.
_ROUNDING = 1e-12
#: Rows that an error names.
_ROWS_NAMED = 5
#: Share of the rows in one bin that a column of a bundle may have at least: of two columns that never leave their most
#: frequent bins together, one has half of the rows in it; less is asked since bins hold several values.
_FREQUENT = 1 / 3
#: With fewer bins than that, or so few rows to a bin, bins hold large shares of the rows whatever the values are.
_MANY_BINS = 16


def may_bundle(X: NDArray, params: Mapping[str, Any]) -> bool:
    """Whether LightGBM may bundle columns: one has a frequent value, or its bins or sample do not follow the values.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        Rows to train on.
    params : mapping
        Parameters of the estimator.

    Returns
    -------
    bool
        False only where no bundle can be.
    """
    if not params["enable_bundle"] or X.shape[1] < 2:
        return False
    coarse = params["max_bin"] < _MANY_BINS or params["min_data_in_bin"] * _MANY_BINS > len(X)
    return coarse or params["subsample_for_bin"] < len(X) or any(map(_has_frequent_value, X.T))


def _has_frequent_value(column: NDArray) -> bool:
    """Whether one value, or NaN, is that of a third of the rows: then it is at one of the thirds in their order."""
    places = [len(column) // 3, 2 * len(column) // 3]
    at_thirds = np.partition(column, places)[places]
    return any(
        np.isclose(column, value, rtol=1e-9, atol=1e-30, equal_nan=True).mean() >= _FREQUENT for value in at_thirds
    )


class Placement:
    """Compares the predictions that training itself has of its rows with those from their values, after the last tree.

    A callback; where training stops early, what stops it must be `wrapped`.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        Rows to train on.
    n_threads : int
        Threads; 0 leaves the choice to LightGBM.
    """

    order = 29  # before early stopping, which ends the training

    def __init__(self, X: NDArray, n_threads: int):
        self._X, self._n_threads = X, n_threads
        #: Rows that training put into other leaves than predictions do.
        self.misplaced = np.empty(0, dtype=np.intp)

    def __call__(self, env: Any) -> None:
        """Compare where no tree is to follow."""
        if env.iteration == env.end_iteration - 1:
            self._compare(env.model)

    def wrapped(self, stop: Callable[[Any], None]) -> Callable[[Any], None]:
        """Make a callback that does what ``stop`` does, and compares where that ends the training."""

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
    """Raise ValueError naming rows that training put into other leaves than predictions do.

    Parameters
    ----------
    misplaced : ndarray of int
        The rows, among those trained on.
    n_rows : int
        Number of rows trained on.
    rows : ndarray of int of shape (n_rows,) or None
        Their positions in what `fit` was given; None where it was given these rows only.
    params : mapping
        Parameters of the estimator.

    Raises
    ------
    ValueError
        If there are such rows.
    """
    if not len(misplaced):
        return
    named = misplaced if rows is None else rows[misplaced]
    listed = ", ".join(map(str, named[:_ROWS_NAMED])) + (", ..." if len(named) > _ROWS_NAMED else "")
    larger = ", or a larger subsample_for_bin" if params["subsample_for_bin"] < n_rows else ""
    raise ValueError(
        f"LightGBM put {len(named)} of {n_rows} training rows ({listed}) into other leaves than its predictions do, "
        "since it bundled columns that are not exclusive; their labels have no known weight. Use enable_bundle=False"
        f"{larger}."
    )
