"""Model selection criteria for the number of trees."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd

from telescoping_sklearn.displays._base import CurvesDisplay
from telescoping_sklearn.displays._style import legend, style_of
from telescoping_sklearn.metrics import find_telescoping_estimator

_LABELS = {"aicc": "corrected AIC", "gcv": "generalised cross-validation", "loo": "leave-one-out shortcut"}


class StoppingCurveDisplay(CurvesDisplay):
    """Criteria for the number of trees against the stage, with the stage that each criterion chooses.

    The criteria have different units, so each curve is scaled to the range from 0 to 1. Stages at which a criterion
    is infinite are left out.

    Parameters
    ----------
    by_stage : pandas.DataFrame
        Table of `TelescopingGBTRegressor.stopping_curve`.
    chosen : mapping of str to int
        Stage at which each criterion is smallest.

    Attributes
    ----------
    ax_, figure_ : matplotlib.axes.Axes, matplotlib.figure.Figure
        Axes and figure of the plot. These and the other attributes are set by `plot`.
    lines_ : list of matplotlib.lines.Line2D
        One curve for each criterion.

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
        """Compute the criteria of a fitted ensemble of trees, and draw them.

        Parameters
        ----------
        estimator : estimator
            A fitted `TelescopingGBTRegressor`, bare or inside pipelines, target transformers and searches.
        criteria : sequence of {"aicc", "gcv", "loo"}, default=("aicc", "gcv", "loo")
            Criteria to draw.
        n_probes : int, "auto" or None, default="auto"
            As in `stopping_curve`.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.
        **kwargs : dict
            Settings of the lines, passed to `Axes.plot`.

        Returns
        -------
        StoppingCurveDisplay
            The Display, drawn.

        Raises
        ------
        ValueError
            If the estimator is not an ensemble of trees.
        """
        found, _ = find_telescoping_estimator(estimator, None)
        if not hasattr(found, "stopping_curve"):
            raise ValueError(f"{type(found).__name__} has no stopping curve; only boosted trees have one.")
        curve = found.stopping_curve(criteria=criteria, n_probes=n_probes)
        return cls(by_stage=curve.by_stage, chosen=curve.chosen).plot(ax=ax, **kwargs)

    def _draw(self, kwargs: dict[str, Any]) -> None:
        self.lines_ = []
        for position, (name, stage) in enumerate(self.chosen.items()):
            finite = self.by_stage[name][np.isfinite(self.by_stage[name])]
            share = (finite - finite.min()) / ((finite.max() - finite.min()) or 1.0)
            settings = style_of(position) | {"marker": "", "label": f"{_LABELS[name]}: {stage} trees"} | kwargs
            self.lines_ += self.ax_.plot(finite.index, share, **settings)
            self.ax_.axvline(stage, color=self.lines_[-1].get_color(), linewidth=1, linestyle=":")
        self.ax_.set(xlabel="trees", ylabel="criterion, scaled to [0, 1]")
        legend(self.ax_)
