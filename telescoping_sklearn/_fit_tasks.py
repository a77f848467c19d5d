"""scikit-learn's callbacks (1.9 and later, SLEP023): the only place that knows whether they exist.

A fit is a task, and each of its iterations one within it: an epoch of a net, a boosting iteration of trees. Callbacks
are called at the beginning and the end of every task. Without callbacks nothing is called, and no task is made: a task
would be held until the end of the fit.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import sklearn
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Refuses callbacks, which need a later scikit-learn."""

        def set_callbacks(self, *callbacks: Any) -> Any:
            """Raise ImportError."""
            raise ImportError(f"set_callbacks needs scikit-learn 1.9 or later, and {sklearn.__version__} is installed.")

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method: there are no callbacks to tear down."""
        return method


__all__ = ["CallbackSupportMixin", "FitTasks", "has_callbacks", "with_callbacks"]


def has_callbacks(estimator: Any) -> bool:
    """Whether an estimator has callbacks of scikit-learn."""
    return hasattr(estimator, "_skl_callbacks")


class FitTasks:
    """The tasks of one fit, of which an estimator's callbacks are told.

    Parameters
    ----------
    estimator : estimator
        The estimator that is fitted.
    n_iterations : int
        Largest number of iterations.
    X : array-like of shape (n_train, n_features)
        Rows as given to `fit`, so that a fitted estimator takes them.
    y : ndarray of shape (n_train,)
        Their labels.
    sample_weight : ndarray of shape (n_train,) or None
        Their weights; None where `fit` was given none.
    kept : ndarray of int or None, default=None
        Positions of the rows that are trained on, which callbacks see; None for all.
    """

    def __init__(
        self,
        estimator: Any,
        n_iterations: int,
        X: Any,
        y: NDArray,
        sample_weight: NDArray | None,
        kept: NDArray | None = None,
    ):
        self._fit = self._iteration = None
        if not has_callbacks(estimator):
            return

        @cache  # taken when a callback first asks
        def trained_on(rows: str) -> Any:
            given = {"X": X, "y": y, "sample_weight": sample_weight}[rows]
            return given if kept is None else _safe_indexing(given, kept)

        self._given = {
            "estimator": estimator,
            "X": lambda: trained_on("X"),
            "y": lambda: trained_on("y"),
            "metadata": None if sample_weight is None else lambda: {"sample_weight": trained_on("sample_weight")},
        }
        self._fit = estimator._init_callback_context(max_subtasks=n_iterations)
        self._fit.call_on_fit_task_begin(**self._given)

    def begin(self, name: str) -> None:
        """Begin an iteration."""
        if self._fit is not None:
            self._iteration = self._fit.subcontext(task_name=name).call_on_fit_task_begin(**self._given)

    def end(self, attributes: Callable[[], dict[str, Any]]) -> bool:
        """End an iteration, and tell whether a callback asks to stop.

        `attributes` makes what the estimator would have learnt if it stopped now; it is called where a callback asks
        for the fitted estimator.
        """
        if self._iteration is None:
            return False
        return self._iteration.call_on_fit_task_end(**self._given, reconstruction_attributes=attributes)

    def close(self) -> None:
        """End the fit, when the estimator has all its attributes."""
        if self._fit is not None:
            self._fit.call_on_fit_task_end(**self._given, reconstruction_attributes={})
