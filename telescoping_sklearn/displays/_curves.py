"""Errors and kernels on ever more irregular rows, from a study's results."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd

from telescoping_sklearn.displays._style import axes_or_new, legend, plain, style_of, tidy

#: What the columns of results say, as an axis says it.
QUANTITIES = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "r2": "R²",
    "kernel_norm_ratio": "kernel norm ratio\n(test / training)",
    "effective_params": "effective parameters",
}
SETS = {
    "mixture": "share of irregular test rows",
    "decile": "decile of irregularity",
    "shift": "test set along the shift",
}
#: Models that a legend inside a panel has room for.
_MOST_INSIDE = 4
_KEYS = ["data", "model", "seed", "set_kind", "set_value"]


def label_results(results: pd.DataFrame) -> pd.DataFrame:
    """Name data sets and models so that the names alone tell every curve apart.

    Parameters
    ----------
    results : DataFrame
        Results of a study.

    Returns
    -------
    DataFrame
        The same, where the score is part of the data set's name if a data set was split by several, and "tuned" part
        of the model's name if a model ran both ways.
    """
    labelled = results.assign(data=results["data"].astype(str), model=results["model"].astype(str))
    if "score" in results:
        several = labelled.groupby("data")["score"].transform("nunique") > 1
        labelled.loc[several, "data"] += ", " + labelled.loc[several, "score"].astype(str)
    if "tuned" in results:
        several = (labelled.groupby(["data", "model"])["tuned"].transform("nunique") > 1) & labelled["tuned"].astype(
            bool
        )
        labelled.loc[several, "model"] += ", tuned"
    return labelled


def summarize_curves(results: pd.DataFrame, quantity: str, *, set_kind: str = "mixture") -> pd.DataFrame:
    """Average a quantity over seeds, for every data set, model and test set.

    Parameters
    ----------
    results : DataFrame
        Results of a study, one row a task and test set.
    quantity : str
        A numeric column of the results.
    set_kind : {"mixture", "decile", "shift"}, default="mixture"
        Test sets to take.

    Returns
    -------
    DataFrame
        Columns ``data``, ``model``, ``set_value``, ``mean``, ``standard_error`` and ``n_seeds``, in the order of the
        results. The standard error is that over seeds; of one seed it is the one that stands in the results (column
        ``<quantity>_se``), nan where there is none. Test sets without a value are left out.

    Raises
    ------
    ValueError
        If a column is missing or there are no such test sets.

    Examples
    --------
    >>> rows = {"data": "houses", "model": "net", "seed": [0, 1], "set_kind": "mixture", "set_value": 0.5}
    >>> summarize_curves(pd.DataFrame(rows | {"mse": [0.2, 0.4]}), "mse")[["mean", "standard_error", "n_seeds"]]
       mean  standard_error  n_seeds
    0   0.3             0.1        2
    """
    missing = [name for name in (*_KEYS, quantity) if name not in results]
    if missing:
        raise ValueError(f"results must have the columns {', '.join(missing)}, as the results of a study do.")
    chosen = label_results(results[results["set_kind"] == set_kind]).dropna(subset=[quantity, "set_value"])
    if results.empty or not (results["set_kind"] == set_kind).any():
        kinds = ", ".join(map(repr, results["set_kind"].unique())) or "none"
        raise ValueError(f"set_kind={set_kind!r} is not among the test sets of the results, which are {kinds}.")
    within = f"{quantity}_se" if f"{quantity}_se" in chosen else None
    grouped = chosen.groupby(["data", "model", "set_value"], sort=False)
    summary = grouped[quantity].agg(["mean", "sem", "count"]).reset_index()
    if within is not None:
        summary["sem"] = summary["sem"].where(summary["count"] > 1, grouped[within].mean().to_numpy())
    return summary.rename(columns={"sem": "standard_error", "count": "n_seeds"})


class IrregularityCurveDisplay:
    """Errors and kernel norm ratios against the share of irregular test rows: one column a data set, as in the paper.

    Parameters
    ----------
    curves : dict of str to DataFrame
        For each quantity, what `summarize_curves` gives; one row of panels a quantity.
    set_kind : {"mixture", "decile", "shift"}, default="mixture"
        What the horizontal axis is.

    Attributes
    ----------
    axes_ : ndarray of shape (n_quantities, n_data)
        Axes drawn on; like the rest, there after `plot`.
    ax_ : matplotlib.axes.Axes
        The first of them, or the axes given, which bound the panels.
    figure_ : matplotlib.figure.Figure
        Figure that holds them.
    lines_ : list of matplotlib.container.ErrorbarContainer
        One a curve, with bars of one standard error.

    Examples
    --------
    >>> rows = {"data": "houses", "seed": 0, "set_kind": "mixture", "set_value": [0.0, 1.0]}
    >>> errors = {"net": [0.2, 0.6], "trees": [0.1, 0.3]}
    >>> results = pd.concat([pd.DataFrame(rows | {"model": name, "mse": mse}) for name, mse in errors.items()])
    >>> display = IrregularityCurveDisplay.from_results(results, quantities=["mse"])
    >>> display.axes_.shape, len(display.lines_)
    ((1, 1), 2)
    """

    def __init__(self, *, curves: dict[str, pd.DataFrame], set_kind: str = "mixture"):
        self.curves = curves
        self.set_kind = set_kind

    @classmethod
    def from_results(
        cls,
        results: pd.DataFrame,
        *,
        quantities: Sequence[str] = ("mse", "kernel_norm_ratio"),
        set_kind: str = "mixture",
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Average a study's results over seeds, and draw them.

        Parameters
        ----------
        results : DataFrame
            Results of a study: one row for every task and test set.
        quantities : sequence of str, default=("mse", "kernel_norm_ratio")
            Columns to draw, one row of panels each.
        set_kind : {"mixture", "decile", "shift"}, default="mixture"
            Test sets to draw.
        ax : matplotlib.axes.Axes, array of them or None, default=None
            As in `plot`.
        **kwargs : dict
            Settings of the curves, for `Axes.errorbar`.

        Returns
        -------
        IrregularityCurveDisplay
            With the numbers and what was drawn.

        Raises
        ------
        ValueError
            If a column is missing or there are no such test sets.
        """
        if isinstance(quantities, str) or not len(quantities):
            raise ValueError(f"quantities must be a sequence of column names, got {quantities!r}.")
        curves = {quantity: summarize_curves(results, quantity, set_kind=set_kind) for quantity in quantities}
        return cls(curves=curves, set_kind=set_kind).plot(ax=ax, **kwargs)

    @property
    def data(self) -> list[str]:
        """Names of the data sets, in the order of the results."""
        return list(dict.fromkeys(name for curve in self.curves.values() for name in curve["data"]))

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order of the results."""
        return list(dict.fromkeys(name for curve in self.curves.values() for name in curve["model"]))

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, array of them or None, default=None
            One axes is drawn on where there is one panel, and bounds the panels where there are several; an array
            holds an axes for each quantity and data set; None makes new ones.
        **kwargs : dict
            Settings of the curves, for `Axes.errorbar`.

        Returns
        -------
        IrregularityCurveDisplay
            Itself.

        Raises
        ------
        ValueError
            If there are not as many axes as panels.
        """
        shape = (len(self.curves), len(self.data))
        self.axes_ = _panels(ax, shape)
        self.ax_ = ax if ax is not None and not np.ndim(ax) else self.axes_[0, 0]
        self.figure_ = self.axes_[0, 0].figure
        self.lines_: list[Any] = []
        for row, (quantity, curve) in zip(self.axes_, self.curves.items(), strict=True):
            for panel, name in zip(row, self.data, strict=True):
                self._draw(panel, curve[curve["data"] == name], kwargs)
                if quantity == "kernel_norm_ratio":
                    panel.axhline(1, color="0.5", linewidth=1, linestyle=":", zorder=0)
            row[0].set_ylabel(QUANTITIES.get(quantity, quantity.replace("_", " ")))
        for panel, name in zip(self.axes_[0], self.data, strict=True):
            panel.set_title(plain(name), fontsize="medium")
        for panel in self.axes_[-1]:
            panel.set_xlabel(SETS.get(self.set_kind, self.set_kind))
        self._draw_legend()
        return self

    def _draw_legend(self) -> None:
        """Name every model once: inside the first panel, or beside the last one where there are many."""
        found: dict[str, Any] = {}
        for panel in self.axes_.ravel():
            found |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        if len(found) <= _MOST_INSIDE:
            legend(self.axes_[0, 0], handles=found.values())
        else:
            legend(self.axes_[0, -1], handles=found.values(), loc="upper left", bbox_to_anchor=(1.02, 1.02))

    def _draw(self, ax: Any, curve: pd.DataFrame, kwargs: dict[str, Any]) -> None:
        for model, part in curve.groupby("model", sort=False):
            part = part.sort_values("set_value")
            look = style_of(self.models.index(str(model))) | {"markersize": 5, "capsize": 3, "label": plain(model)}
            error = part["standard_error"].fillna(0)
            self.lines_.append(ax.errorbar(part["set_value"], part["mean"], yerr=error, **look | kwargs))
        if self.set_kind == "mixture":
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        tidy(ax)


def _panels(ax: Any, shape: tuple[int, int]) -> Any:
    """Give the axes of every panel, (n_quantities, n_data)."""
    n_rows, n_columns = shape
    if ax is None:
        size = max(4.6, 3.3 * n_columns), 0.6 + 2.5 * n_rows
        ax = axes_or_new(None, figsize=size)
    if np.ndim(ax):
        if np.shape(ax) != shape:
            raise ValueError(f"ax must be one axes or an array of them of shape {shape}, got shape {np.shape(ax)}.")
        return np.asarray(ax)
    if shape == (1, 1):
        return np.array([[ax]])
    bounds = ax.get_subplotspec()
    if bounds is None:
        raise ValueError(f"ax must be made by subplots to be split into {n_rows} x {n_columns} panels.")
    ax.set_axis_off()
    return bounds.subgridspec(n_rows, n_columns).subplots(sharex=True, squeeze=False)
