"""Error barriers and changes of gradients along the training of a net."""

from typing import Any, Self

import numpy as np
import pandas as pd

from telescoping_sklearn.displays._base import CurvesDisplay
from telescoping_sklearn.displays._style import PALETTE, legend, plain, style_of
from telescoping_sklearn.metrics import find_telescoping_estimator

#: Positive values are drawn on a logarithmic axis if the largest exceeds the smallest by more than this factor.
_LOG_ABOVE = 8.0


class ErrorBarrierDisplay(CurvesDisplay):
    """Error barrier between children of a net against the stage at which they were spawned.

    Where it is 0, weights of children can be averaged without loss.

    Parameters
    ----------
    barriers : DataFrame of shape (n_stages, n_pairs)
        Barriers by stage, one column for every pair of children, as `error_barriers` returns them.

    Attributes
    ----------
    ax_, figure_ : matplotlib.axes.Axes, matplotlib.figure.Figure
        Axes and figure of the plot. These and the other attributes are set by `plot`.
    line_ : matplotlib.lines.Line2D
        Mean over pairs.
    band_ : matplotlib.collections.PolyCollection or None
        From the lowest to the highest pair; None where there is one pair.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.preprocessing import scale
    >>> from telescoping_sklearn import TelescopingMLPRegressor
    >>> X, y = make_friedman1(150, random_state=0)
    >>> net = TelescopingMLPRegressor((16,), batch_size=50, learning_rate_init=0.01, max_iter=4, random_state=0)
    >>> net = net.fit(X, (y - y.mean()) / y.std())
    >>> display = ErrorBarrierDisplay.from_estimator(net, X, (y - y.mean()) / y.std(), [0, 6], random_state=0)
    >>> display.barriers.shape
    (2, 1)
    """

    def __init__(self, *, barriers: pd.DataFrame):
        self.barriers = barriers

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        stages: Any = 8,
        *,
        n_children: int = 2,
        random_state: Any = None,
        max_iter: int | None = None,
        loss: Any = "squared_error",
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Spawn children of a fitted net, and draw their error barriers.

        Parameters
        ----------
        estimator : estimator
            A fitted net, bare or inside pipelines, target transformers and searches.
        X : array-like of shape (n_query, n_features)
            Rows to measure the loss on.
        y : array-like of shape (n_query,) or (n_query, n_outputs)
            Their labels, as the net was given labels: transformed where a target transformer holds it.
        stages, n_children, random_state, max_iter, loss
            As in `TelescopingMLPRegressor.error_barriers`.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.
        **kwargs : dict
            Settings of the lines, passed to `Axes.plot`.

        Returns
        -------
        ErrorBarrierDisplay
            The Display, drawn.
        """
        found, seen = find_telescoping_estimator(estimator, X)
        settings = {"n_children": n_children, "random_state": random_state, "max_iter": max_iter, "loss": loss}
        return cls(barriers=_asked(found, "error_barriers")(seen, y, stages, **settings)).plot(ax=ax, **kwargs)

    def _draw(self, kwargs: dict[str, Any]) -> None:
        stages, pairs = self.barriers.index.to_numpy(), self.barriers.to_numpy()
        look = {"color": PALETTE[0], "marker": "o"} | kwargs
        (self.line_,) = self.ax_.plot(stages, pairs.mean(axis=1), **look)
        self.band_ = None
        if pairs.shape[1] > 1:
            edges = pairs.min(axis=1), pairs.max(axis=1)
            color = self.line_.get_color()
            self.band_ = self.ax_.fill_between(stages, *edges, color=color, alpha=0.2, linewidth=0)
        self.ax_.set(xlabel="stage at which children were spawned", ylabel="error barrier")
        self.ax_.set_ylim(bottom=0)


class GradientChangeDisplay(CurvesDisplay):
    """Mean squared change of the gradients of a net's outputs against the stage, by layer.

    Parameters
    ----------
    changes : DataFrame of shape (n_stages, n_layers)
        Changes by stage and layer, as `gradient_change` returns them.

    Attributes
    ----------
    ax_, figure_ : matplotlib.axes.Axes, matplotlib.figure.Figure
        Axes and figure of the plot. These and the other attributes are set by `plot`.
    lines_ : list of matplotlib.lines.Line2D
        A curve for each layer.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.preprocessing import scale
    >>> from telescoping_sklearn import TelescopingMLPRegressor
    >>> X, y = make_friedman1(150, random_state=0)
    >>> net = TelescopingMLPRegressor((16,), batch_size=50, max_iter=4, random_state=0).fit(X, scale(y))
    >>> display = GradientChangeDisplay.from_estimator(net, X[:20], stages=3)
    >>> list(display.changes)
    ['hidden1', 'output']
    """

    def __init__(self, *, changes: pd.DataFrame):
        self.changes = changes

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, stages: Any = 20, *, n_updates: int | None = None, ax: Any = None, **kwargs: Any
    ) -> Self:
        """Compute the changes of the gradients of a fitted net, and draw them.

        Parameters
        ----------
        estimator : estimator
            A fitted net, bare or inside pipelines, target transformers and searches.
        X : array-like of shape (n_query, n_features)
            Rows.
        stages, n_updates
            As in `TelescopingMLPRegressor.gradient_change`.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.
        **kwargs : dict
            Settings of the lines, passed to `Axes.plot`.

        Returns
        -------
        GradientChangeDisplay
            The Display, drawn.
        """
        found, seen = find_telescoping_estimator(estimator, X)
        return cls(changes=_asked(found, "gradient_change")(seen, stages, n_updates=n_updates)).plot(ax=ax, **kwargs)

    def _draw(self, kwargs: dict[str, Any]) -> None:
        stages, self.lines_ = self.changes.index.to_numpy(), []
        for position, (layer, values) in enumerate(self.changes.items()):
            self.lines_ += self.ax_.plot(stages, values, **style_of(position) | {"label": plain(layer)} | kwargs)
        self.ax_.set(xlabel="stage", ylabel="mean squared change of gradients")
        everything = self.changes.to_numpy()
        if everything.min() > 0 and everything.max() > _LOG_ABOVE * everything.min():
            self.ax_.set_yscale("log")
        else:
            self.ax_.set_ylim(0, 1.15 * np.max(everything, initial=0.0) or 1.0)
        legend(self.ax_, title="layer")


def _asked(estimator: Any, question: str) -> Any:
    """Return a method that nets have; raise TypeError for other estimators."""
    if not hasattr(estimator, question):
        raise TypeError(f"{question} is a question about nets, and {type(estimator).__name__} is none.")
    return getattr(estimator, question)
