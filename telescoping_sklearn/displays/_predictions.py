"""Predictions of the model and of its approximations by stage, and the gaps between them."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from telescoping_sklearn._telescope import resolve_stages
from telescoping_sklearn.displays._base import AxesDisplay
from telescoping_sklearn.displays._style import GREY, PALETTE, legend, plain, tidy
from telescoping_sklearn.metrics import find_telescoping_estimator

_KINDS = ("values", "gap")
#: Largest number of rows that can have different colours.
_MOST_ROWS = len(PALETTE)


class StagedPredictionsDisplay(AxesDisplay):
    """Predictions of the model, the telescoping model and the model linearised at its start, against the stage.

    Parameters
    ----------
    stages : ndarray of shape (n_stages,)
        Stage numbers.
    model : ndarray of shape (n_stages, n_query)
        Predictions of the model.
    telescoping : ndarray of shape (n_stages, n_query)
        Predictions of the telescoping model, f_0 plus the sum of its stages.
    linearized : ndarray of shape (n_stages, n_query) or None, default=None
        Predictions of the model linearised at its start; None for trees, which cannot be linearised.
    reconstruction_gap : ndarray of shape (n_stages,) or None, default=None
        Mean over the rows of abs(S y + c - f).
    row_names : sequence of shape (n_query,) or None, default=None
        Names of the rows; None means their positions.

    Attributes
    ----------
    ax_, figure_ : matplotlib.axes.Axes, matplotlib.figure.Figure
        Axes and figure of the plot. These and the other attributes are set by `plot`.
    lines_ : dict of str to list of matplotlib.lines.Line2D
        The curves that are drawn, under "model", "telescoping", "linearized" and "reconstruction".

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from telescoping_sklearn import TelescopingMLPRegressor
    >>> X, y = make_friedman1(150, random_state=0)
    >>> net = TelescopingMLPRegressor((16,), learning_rate_init=0.01, max_iter=20, random_state=0)
    >>> net = net.fit(X[:100], (y[:100] - y.mean()) / y.std())
    >>> display = StagedPredictionsDisplay.from_estimator(net, X[100:], stages=5, kind="gap")
    >>> sorted(display.lines_)
    ['linearized', 'reconstruction', 'telescoping']
    >>> gaps = display.gaps()
    >>> bool(gaps["telescoping"][-1] < gaps["linearized"][-1])
    True
    """

    def __init__(
        self,
        *,
        stages: NDArray,
        model: NDArray,
        telescoping: NDArray,
        linearized: NDArray | None = None,
        reconstruction_gap: NDArray | None = None,
        row_names: Sequence[Any] | None = None,
    ):
        self.stages = stages
        self.model = model
        self.telescoping = telescoping
        self.linearized = linearized
        self.reconstruction_gap = reconstruction_gap
        self.row_names = row_names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        stages: Any = 20,
        kind: str = "values",
        output: int | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Compute the staged predictions of a fitted estimator, and draw them.

        Parameters
        ----------
        estimator : estimator
            A fitted telescoping estimator, bare or inside pipelines, target transformers and searches.
        X : array-like of shape (n_query, n_features)
            Query rows; the index of a DataFrame names them.
        stages : None, int or array-like of int, default=20
            As in `staged_predict`.
        kind : {"values", "gap"}, default="values"
            As in `plot`.
        output : int or None, default=None
            The output that is drawn, for models of several.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.
        **kwargs : dict
            Settings of the lines, passed to `Axes.plot`.

        Returns
        -------
        StagedPredictionsDisplay
            The Display, drawn.

        Raises
        ------
        ValueError
            If `kind` is unknown, or it is "values" and there are more rows than colours; or if the model has several
            outputs and none is given.
        """
        found, seen = find_telescoping_estimator(estimator, X)
        _check_kind(kind, len(seen))
        telescope = found.telescope_
        number = telescope.resolve_output(output, cls.__name__, needed=True)
        of_output = slice(None) if number is None else (slice(None), slice(None), number)
        routes: dict[str, Any] = {"model": None, "telescoping": "telescoping"}
        if telescope.has_linearized:
            routes["linearized"] = "linearized"
        predictions = {
            name: np.stack(list(found.staged_predict(seen, stages, approximation=route)))[of_output]
            for name, route in routes.items()
        }
        gap = None
        if kind == "gap":
            error = found.approximation_error(seen, stages, output=number)
            gap = error.by_stage["reconstruction_mean"].to_numpy()
        numbers = resolve_stages(stages, telescope.n_stages)
        names = list(X.index) if isinstance(X, pd.DataFrame) else None
        display = cls(stages=numbers, reconstruction_gap=gap, row_names=names, **predictions)
        return display.plot(ax=ax, kind=kind, **kwargs)

    def gaps(self) -> dict[str, NDArray]:
        """Return the mean absolute difference between the model and each approximation, by stage.

        Returns
        -------
        dict of str to ndarray of shape (n_stages,)
            "telescoping", which is 0 for trees, and "reconstruction" and "linearized" if they are known.
        """
        gaps = {"telescoping": np.abs(self.telescoping - self.model).mean(axis=1)}
        if self.reconstruction_gap is not None:
            gaps["reconstruction"] = self.reconstruction_gap
        if self.linearized is not None:
            gaps["linearized"] = np.abs(self.linearized - self.model).mean(axis=1)
        return gaps

    def plot(self, ax: Any = None, *, kind: str = "values", **kwargs: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.
        kind : {"values", "gap"}, default="values"
            "values" draws predictions, with a colour for each row; "gap" draws the mean absolute difference from the
            model, with a colour for each approximation.
        **kwargs : dict
            Settings of the lines, passed to `Axes.plot`.

        Returns
        -------
        StagedPredictionsDisplay
            The Display itself.

        Raises
        ------
        ValueError
            If `kind` is unknown, or it is "values" and there are more rows than colours.
        """
        _check_kind(kind, self.model.shape[1])
        self._set_axes(ax)
        self.lines_ = self._draw_values(kwargs) if kind == "values" else self._draw_gaps(kwargs)
        self.ax_.set_xlabel("stage")
        tidy(self.ax_)
        return self

    def _draw_values(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        from matplotlib.lines import Line2D

        looks: dict[str, tuple[str, dict[str, Any]]] = {
            "model": ("model", {"linewidth": 3.2, "alpha": 0.45, "linestyle": "-"}),
            "telescoping": ("telescoping model", {"linewidth": 1.4, "linestyle": "-"}),
            "linearized": ("linearised at the start", {"linewidth": 1.2, "linestyle": (0, (1, 1.5))}),
        }
        looks = {name: look for name, look in looks.items() if getattr(self, name) is not None}
        lines: dict[str, Any] = {name: [] for name in looks}
        for name, (_, look) in looks.items():
            for color, values in zip(PALETTE, getattr(self, name).T, strict=False):
                lines[name] += self.ax_.plot(self.stages, values, **{"color": color} | look | kwargs)
        self.ax_.set_ylabel("prediction")
        key = [Line2D([], [], color=GREY, label=label, **look) for label, look in looks.values()]
        rows = self.model.shape[1]
        if rows > 1:
            names = range(rows) if self.row_names is None else self.row_names
            key += [
                Line2D([], [], color=color, linewidth=3.2, label=f"row {plain(name)}")
                for color, name in zip(PALETTE, names, strict=False)
            ]
        legend(self.ax_, handles=key, loc="center left", bbox_to_anchor=(1.01, 0.5))
        return lines

    def _draw_gaps(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        looks: dict[str, dict[str, Any]] = {
            "linearized": {"label": "linearised at the start", "color": PALETTE[1], "linestyle": ":"},
            "reconstruction": {"label": "kernel weights, S y + c", "color": PALETTE[2], "linestyle": "--"},
            "telescoping": {"label": "telescoping model", "color": PALETTE[0], "linestyle": "-"},
        }
        gaps = self.gaps()
        lines = {}
        for name, look in looks.items():
            if name not in gaps:
                continue
            if not gaps[name].any():  # zero has no place on a logarithmic axis
                lines[name] = self.ax_.plot([], [], **look | {"label": f"{look['label']}: no gap"} | kwargs)
                continue
            lines[name] = self.ax_.plot(self.stages, gaps[name], **look | kwargs)
        self.ax_.set(yscale="log", ylabel="mean absolute gap to the model")
        positive = np.concatenate([gap[gap > 0] for gap in gaps.values()])
        if len(positive):  # whole decades
            self.ax_.set_ylim(10 ** np.floor(np.log10(positive.min())), 10 ** np.ceil(np.log10(positive.max())))
        legend(self.ax_)
        return lines


def _check_kind(kind: str, n_query: int) -> None:
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, _KINDS))}, got {kind!r}.")
    if kind == "values" and n_query > _MOST_ROWS:
        raise ValueError(
            f"kind='values' draws at most {_MOST_ROWS} rows, got {n_query}: pass fewer rows, or kind='gap' for means."
        )
