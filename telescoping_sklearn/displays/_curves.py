"""Errors and kernel norm ratios against the irregularity of the test rows, from the results of a benchmark."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd

from telescoping_sklearn.displays._style import axes_or_new, legend, plain, style_of, tidy

#: Axis labels of result columns and of kinds of test sets.
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
#: Largest number of models in a legend inside a panel.
_MOST_INSIDE = 4
_KEYS = ["data", "model", "seed", "set_kind", "set_value"]


def label_results(results: pd.DataFrame) -> pd.DataFrame:
    """Make the names of data sets and models unique for every curve.

    Parameters
    ----------
    results : DataFrame
        Results of a benchmark.

    Returns
    -------
    DataFrame
        A copy with other names. If a data set was split by several scores, its name is followed by the score. If a
        model ran with and without tuning, the tuned one is named so.
    """
    labelled = results.assign(data=results["data"].astype(str), model=results["model"].astype(str))
    if "score" in results:
        several = labelled.groupby("data")["score"].transform("nunique") > 1
        labelled.loc[several, "data"] += ", " + labelled.loc[several, "score"].astype(str)
    if "tuned" in results:
        several = labelled.groupby(["data", "model"])["tuned"].transform("nunique") > 1
        labelled.loc[several & labelled["tuned"].astype(bool), "model"] += ", tuned"
    return labelled


def summarize_curves(results: pd.DataFrame, quantity: str, *, set_kind: str = "mixture") -> pd.DataFrame:
    """Average a quantity over seeds, for every data set, model and test set.

    Parameters
    ----------
    results : DataFrame
        Results of a benchmark: one row for every task and test set.
    quantity : str
        A numeric column of the results.
    set_kind : {"mixture", "decile", "shift"}, default="mixture"
        Kind of the test sets.

    Returns
    -------
    DataFrame
        Columns ``data``, ``model``, ``set_value``, ``mean``, ``standard_error`` and ``n_seeds``, in the order of the
        results. The standard error is that of the mean over seeds. For a single seed it is taken from the column
        ``<quantity>_se`` of the results, and NaN if there is no such column. Test sets without a value are left out.

    Raises
    ------
    ValueError
        If a column is missing or there are no test sets of this kind.

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
    """Errors and kernel norm ratios against the share of irregular test rows, as in the paper's figures.

    There is one row of panels for each quantity and one column for each data set.

    Parameters
    ----------
    curves : dict of str to DataFrame
        Table from `summarize_curves` for each quantity.
    set_kind : {"mixture", "decile", "shift"}, default="mixture"
        Kind of the test sets, shown on the horizontal axis.

    Attributes
    ----------
    axes_ : ndarray of shape (n_quantities, n_data)
        Axes of the panels. This and the other attributes are set by `plot`.
    ax_ : matplotlib.axes.Axes
        The axes passed to `plot`, which the panels replace, or the axes of the first panel.
    figure_ : matplotlib.figure.Figure
        Figure of the axes.
    lines_ : list of matplotlib.container.ErrorbarContainer
        The curves, with error bars of one standard error.

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
        """Average the results of a benchmark over seeds, and draw them.

        Parameters
        ----------
        results : DataFrame
            Results of a benchmark: one row for every task and test set.
        quantities : sequence of str, default=("mse", "kernel_norm_ratio")
            Columns to draw, each in a row of panels.
        set_kind : {"mixture", "decile", "shift"}, default="mixture"
            Kind of the test sets to draw.
        ax : matplotlib.axes.Axes, array of them or None, default=None
            As in `plot`.
        **kwargs : dict
            Settings of the curves, passed to `Axes.errorbar`.

        Returns
        -------
        IrregularityCurveDisplay
            The Display, drawn.

        Raises
        ------
        ValueError
            If a column is missing or there are no test sets of this kind.
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
            An array has one axes for each quantity and data set. A single axes is used for a single panel and split
            into several panels otherwise. None creates a figure.
        **kwargs : dict
            Settings of the curves, passed to `Axes.errorbar`.

        Returns
        -------
        IrregularityCurveDisplay
            The Display itself.

        Raises
        ------
        ValueError
            If the shape of the array is not that of the panels, or the single axes cannot be split.
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
        """List every model once: inside the first panel, or beside the last panel if there are many."""
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
    """Return the axes of the panels, an array of shape (n_quantities, n_data)."""
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
