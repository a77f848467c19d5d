"""The Display of a stopping curve: numbers are held, drawing is apart."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

_LABELS = {"aicc": "corrected AIC", "gcv": "generalised cross-validation", "loo": "leave-one-out shortcut"}


class StoppingCurveDisplay:
    """Criteria for the number of trees against the stage, each with the stage that it chooses.

    Criteria have units of their own, so each is drawn less its least value, as a share of its range.

    Parameters
    ----------
    by_stage : pandas.DataFrame
        Table of `TelescopingGBTRegressor.stopping_curve`.
    chosen : mapping of str to int
        Stage that each criterion chooses.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        The figure, after `plot`.
    ax_ : matplotlib.axes.Axes
        The axes, after `plot`.
    """

    def __init__(self, by_stage: pd.DataFrame, chosen: Mapping[str, int]):
        self.by_stage = by_stage
        self.chosen = chosen

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, criteria: Any = ("aicc", "gcv", "loo"), n_probes: Any = "auto", ax: Any = None
    ) -> "StoppingCurveDisplay":
        """Work the criteria of a fitted ensemble and draw them.

        Parameters
        ----------
        estimator : TelescopingGBTRegressor
            A fitted ensemble.
        criteria : sequence of {"aicc", "gcv", "loo"}, default=("aicc", "gcv", "loo")
            Criteria to draw.
        n_probes : int, "auto" or None, default="auto"
            As in `effective_params`.
        ax : matplotlib.axes.Axes, default=None
            Axes to draw on; new ones if not given.

        Returns
        -------
        StoppingCurveDisplay
            The display, drawn.
        """
        curve = estimator.stopping_curve(criteria=criteria, n_probes=n_probes)
        return cls(curve.by_stage, curve.chosen).plot(ax=ax)

    def plot(self, ax: Any = None) -> "StoppingCurveDisplay":
        """Draw the criteria.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, default=None
            Axes to draw on; new ones if not given.

        Returns
        -------
        StoppingCurveDisplay
            The display.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        for name, stage in self.chosen.items():
            values = self.by_stage[name]
            finite = values[values < float("inf")]
            spread = finite.max() - finite.min()
            (line,) = ax.plot(
                finite.index, (finite - finite.min()) / (spread or 1.0), label=f"{_LABELS[name]}: {stage} trees"
            )
            ax.axvline(stage, color=line.get_color(), linewidth=1, linestyle=":")
        ax.set(xlabel="trees", ylabel="criterion less its least, share of its range")
        ax.legend(frameon=False)
        self.ax_, self.figure_ = ax, ax.figure
        return self
