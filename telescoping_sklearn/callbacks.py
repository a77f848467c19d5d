"""Stopping rules as scikit-learn callbacks, for ``set_callbacks`` of nets and boosted trees (scikit-learn 1.9).

They are asked after every epoch of a net, or every boosting iteration of trees, and see the rows that are trained on.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

__all__ = ["StopAtScore", "StopWithoutImprovement"]


class _StoppingRule(ABC):
    """A callback that looks at one number after every iteration of a fit."""

    def __init__(self) -> None:
        self._fits: dict[Any, Any] = {}  # state by the task of the fit: one rule may stop several fits at once

    @abstractmethod
    def _start(self) -> Any:
        """Make the state of a rule for one fit."""

    @abstractmethod
    def _stops(self, state: Any, fitted_estimator: Any, X: Any, y: Any) -> bool:
        """Whether to stop after an iteration; the state may be changed."""

    def setup(self, estimator: Any, context: Any) -> None:
        """Begin with a fit.

        Parameters
        ----------
        estimator : estimator
            The estimator that is fitted.
        context : sklearn.callback.CallbackContext
            The task of the fit.
        """
        self._fits[context] = self._start()

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:  # noqa: B027 - nothing to do for any rule
        """Do nothing: a rule looks at the end of iterations.

        Parameters
        ----------
        estimator : estimator
            The estimator that is fitted.
        context : sklearn.callback.CallbackContext
            The task.
        """

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any = None, y: Any = None, fitted_estimator: Any = None
    ) -> bool:
        """Look at an iteration.

        Parameters
        ----------
        estimator : estimator
            The estimator that is fitted.
        context : sklearn.callback.CallbackContext
            The task.
        X : array-like of shape (n_train, n_features), default=None
            Rows trained on.
        y : array-like of shape (n_train,), default=None
            Their labels.
        fitted_estimator : estimator, default=None
            The estimator as if the fit ended here.

        Returns
        -------
        bool
            Whether to stop.
        """
        is_iteration = context.parent in self._fits and fitted_estimator is not None
        return is_iteration and self._stops(self._fits[context.parent], fitted_estimator, X, y)

    def teardown(self, estimator: Any, context: Any) -> None:
        """Forget a fit that has ended.

        Parameters
        ----------
        estimator : estimator
            The estimator that was fitted.
        context : sklearn.callback.CallbackContext
            The task of the fit.
        """
        self._fits.pop(context, None)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the rule without the fits it is watching."""
        return {**vars(self), "_fits": {}}


class StopAtScore(_StoppingRule):
    """Stops training when a score of the rows trained on reaches a threshold, such as an accuracy of 1.

    Parameters
    ----------
    scoring : str or callable
        A name of scikit-learn's, such as "r2", or a function of the fitted estimator, X and y. Larger is better.
    threshold : float
        Score at which training stops.

    Examples
    --------
    Labels of two classes, -1 and 1, fitted under squared error until the signs are right:

    >>> import numpy as np
    >>> from sklearn.datasets import make_moons
    >>> from telescoping_sklearn import TelescopingMLPRegressor
    >>> from telescoping_sklearn.callbacks import StopAtScore
    >>> def accuracy(model, X, y):
    ...     return np.mean((model.predict(X) > 0) == (y > 0))
    >>> X, y = make_moons(60, noise=0.1, random_state=0)
    >>> net = TelescopingMLPRegressor((30,), max_iter=2000, learning_rate_init=0.02, random_state=0)
    >>> net = net.set_callbacks(StopAtScore(accuracy, 1.0)).fit(X, 2.0 * y - 1)
    >>> bool(accuracy(net, X, 2 * y - 1) == 1.0 and net.n_iter_ < 2000)
    True
    """

    @validate_params(
        {"scoring": [StrOptions(set(get_scorer_names())), callable], "threshold": [Real]},
        prefer_skip_nested_validation=True,
    )
    def __init__(self, scoring: str | Callable[[Any, Any, Any], float], threshold: float):
        super().__init__()
        self.scoring = scoring
        self.threshold = threshold

    def _start(self) -> Callable[[Any, Any, Any], float]:
        return get_scorer(self.scoring)

    def _stops(self, state: Any, fitted_estimator: Any, X: Any, y: Any) -> bool:
        return bool(state(fitted_estimator, X, y) >= self.threshold)


class StopWithoutImprovement(_StoppingRule):
    """Stops training when the best score has not improved by `tol` within so many iterations.

    An improvement is measured from the last score that counted as one. Many small steps that add up to `tol` within
    `n_iter_no_change` iterations so keep the training going; the rule of scikit-learn's perceptrons, that of
    `TelescopingMLPRegressor` too, counts each of them as none.

    Parameters
    ----------
    tol : float, default=1e-4
        Least improvement that counts.
    n_iter_no_change : int, default=500
        Epochs or trees without one after which training stops.
    scoring : None, str or callable, default=None
        A name of scikit-learn's, or a function of the fitted estimator, X and y. Larger is better. None takes minus the
        mean training loss of the epoch, which nets have and trees do not.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from telescoping_sklearn import TelescopingGBTRegressor
    >>> from telescoping_sklearn.callbacks import StopWithoutImprovement
    >>> X, y = make_friedman1(100, random_state=0)
    >>> rule = StopWithoutImprovement(tol=0.01, n_iter_no_change=5, scoring="r2")
    >>> trees = TelescopingGBTRegressor(n_estimators=500, random_state=0).set_callbacks(rule).fit(X, y)
    >>> trees.n_stages_ < 500
    True
    """

    @validate_params(
        {
            "tol": [Interval(Real, 0, None, closed="left")],
            "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
            "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        },
        prefer_skip_nested_validation=True,
    )
    def __init__(
        self,
        tol: float = 1e-4,
        n_iter_no_change: int = 500,
        scoring: str | Callable[[Any, Any, Any], float] | None = None,
    ):
        super().__init__()
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.scoring = scoring

    def _start(self) -> dict[str, Any]:
        scorer = _minus_loss if self.scoring is None else get_scorer(self.scoring)
        return {"scorer": scorer, "reference": -np.inf, "waited": 0}

    def _stops(self, state: Any, fitted_estimator: Any, X: Any, y: Any) -> bool:
        score = state["scorer"](fitted_estimator, X, y)
        if score >= state["reference"] + self.tol and score > state["reference"]:
            state |= {"reference": score, "waited": 0}
        else:
            state["waited"] += 1
        return state["waited"] >= self.n_iter_no_change


def _minus_loss(fitted_estimator: Any, X: Any, y: Any) -> float:
    if not hasattr(fitted_estimator, "loss_"):
        raise ValueError(
            f"scoring=None takes the training loss of an epoch, which {type(fitted_estimator).__name__} does not keep. "
            "Give a scoring, such as 'neg_mean_squared_error'."
        )
    return -fitted_estimator.loss_
