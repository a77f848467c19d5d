"""Criteria for the number of trees."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd

from telescoping_sklearn.displays._style import axes_or_new, legend, style_of, tidy
from telescoping_sklearn.metrics import find_telescoping_estimator

_LABELS = {"aicc": "corrected AIC", "gcv": "generalised cross-validation", "loo": "leave-one-out shortcut"}


class StoppingCurveDisplay:
    """Criteria for the number of trees against the stage, each with the stage that it chooses.

    Criteria have units of their own, so each is drawn less its least value, as a share of its range. Stages where a
    criterion is infinite are left out.

    Parameters
    ----------
    by_stage : pandas.DataFrame
        Table of `TelescopingGBTRegressor.stopping_curve`.
    chosen : mapping of str to int
        Stage that each criterion chooses.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes drawn on; like the rest, there after `plot`.
    figure_ : matplotlib.figure.Figure
        Figure that holds them.
    lines_ : list of matplotlib.lines.Line2D
        One curve a criterion.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from telescoping_sklearn import TelescopingGBTRegressor
    >>> X, y = make_friedman1(150, random_state=0)
    >>> trees = TelescopingGBTRegressor(n_estimators=20).fit(X, y)
    >>> display = StoppingCurveDisplay.from_estimator(trees, criteria=("gcv",))
    >>> display.chosen
    {'gcv': 20}
    """

    def __init__(self, *, by_stage: pd.DataFrame, chosen: Mapping[str, int]):
        self.by_stage = by_stage
        self.chosen = chosen

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        criteria: Any = ("aicc", "gcv", "loo"),
        n_probes: int | str | None = "auto",
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Work the criteria of a fitted ensemble and draw them.

        Parameters
        ----------
        estimator : estimator
            A fitted `TelescopingGBTRegressor`, bare or inside pipelines, target transformers and searches.
        criteria : sequence of {"aicc", "gcv", "loo"}, default=("aicc", "gcv", "loo")
            Criteria to draw.
        n_probes : int, "auto" or None, default="auto"
            As in `stopping_curve`.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes new ones.
        **kwargs : dict
            Settings of the curves, for `Axes.plot`.

        Returns
        -------
        StoppingCurveDisplay
            With the numbers and what was drawn.

        Raises
        ------
        ValueError
            If the estimator is no ensemble of trees.
        """
        found, _ = find_telescoping_estimator(estimator, None)
        if not hasattr(found, "stopping_curve"):
            raise ValueError(f"{type(found).__name__} has no stopping curve; only boosted trees have one.")
        curve = found.stopping_curve(criteria=criteria, n_probes=n_probes)
        return cls(by_stage=curve.by_stage, chosen=curve.chosen).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the criteria.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes new ones.
        **kwargs : dict
            Settings of the curves, for `Axes.plot`.

        Returns
        -------
        StoppingCurveDisplay
            Itself.
        """
        self.ax_ = axes_or_new(ax)
        self.figure_ = self.ax_.figure
        self.lines_ = []
        for position, (name, stage) in enumerate(self.chosen.items()):
            finite = self.by_stage[name][np.isfinite(self.by_stage[name])]
            share = (finite - finite.min()) / ((finite.max() - finite.min()) or 1.0)
            settings = style_of(position) | {"marker": "", "label": f"{_LABELS[name]}: {stage} trees"} | kwargs
            self.lines_ += self.ax_.plot(finite.index, share, **settings)
            self.ax_.axvline(stage, color=self.lines_[-1].get_color(), linewidth=1, linestyle=":")
        self.ax_.set(xlabel="trees", ylabel="criterion less its least, share of its range")
        tidy(self.ax_)
        legend(self.ax_)
        return self
