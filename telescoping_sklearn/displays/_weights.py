"""Kernel weights of the training rows in one prediction."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from telescoping_sklearn.displays._base import AxesDisplay
from telescoping_sklearn.displays._style import GREY, PALETTE, plain, tidy
from telescoping_sklearn.metrics import find_telescoping_estimator

_POSITIVE, _NEGATIVE = PALETTE[0], PALETTE[1]


class KernelWeightsDisplay(AxesDisplay):
    """Training rows with the largest absolute weights in one prediction, with their labels.

    Parameters
    ----------
    weights : ndarray of shape (n_train,)
        Weight of every training label.
    labels : ndarray of shape (n_train,)
        Training labels passed to the estimator's `fit`.
    offset : float
        Part of the prediction that does not depend on the labels.
    row_names : sequence of shape (n_train,) or None, default=None
        Names of the training rows; None means their positions.

    Attributes
    ----------
    ax_, figure_ : matplotlib.axes.Axes, matplotlib.figure.Figure
        Axes and figure of the plot. These and the other attributes are set by `plot`.
    bars_ : matplotlib.container.BarContainer
        One bar for each row, with the largest absolute weight at the top.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from telescoping_sklearn import TelescopingGBTRegressor
    >>> X, y = make_friedman1(150, random_state=0)
    >>> trees = TelescopingGBTRegressor(n_estimators=20, random_state=0).fit(X[:100], y[:100])
    >>> display = KernelWeightsDisplay.from_estimator(trees, X[[120]], k=3)
    >>> [bar.get_width() for bar in display.bars_] == list(display.weights[display.top(3)])
    True
    >>> bool(abs(display.prediction - trees.predict(X[[120]])[0]) < 1e-5)
    True
    """

    def __init__(self, *, weights: NDArray, labels: NDArray, offset: float, row_names: ArrayLike | None = None):
        self.weights = weights
        self.labels = labels
        self.offset = offset
        self.row_names = row_names

    @property
    def prediction(self) -> float:
        """Weighted sum of the labels plus the offset, S y + c: the prediction up to the reconstruction gap."""
        return float(self.weights @ self.labels + self.offset)

    def top(self, k: int) -> NDArray[np.intp]:
        """Return the rows with the largest absolute weights.

        Parameters
        ----------
        k : int
            Number of rows.

        Returns
        -------
        ndarray of int of shape (k,)
            Positions of training rows in descending order of absolute weight; rows of weight 0 are left out.

        Raises
        ------
        ValueError
            If `k` is less than 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        order = np.argsort(-np.abs(self.weights), kind="stable")[:k]
        return order[self.weights[order] != 0]

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        x: Any,
        *,
        k: int = 10,
        row_names: ArrayLike | None = None,
        output: int | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Compute the kernel weights of one prediction, and draw the largest.

        Of a model of several outputs, the labels of one are drawn. What the labels of the others add to its prediction
        is part of the offset.

        Parameters
        ----------
        estimator : estimator
            A fitted telescoping estimator, bare or inside pipelines, target transformers and searches.
        x : array-like of shape (1, n_features)
            Query row.
        k : int, default=10
            Number of training rows to draw.
        row_names : sequence of shape (n_train,) or None, default=None
            Names of the rows passed to `fit`, such as the index of a DataFrame; None means their positions.
        output : int or None, default=None
            The output that is drawn, for models of several.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.
        **kwargs : dict
            Settings of the bars, passed to `Axes.barh`.

        Returns
        -------
        KernelWeightsDisplay
            The Display, drawn.

        Raises
        ------
        ValueError
            If `x` is not one row, `k` is less than 1, or `row_names` does not have one name for each training row; or
            if the model has several outputs and none is given.
        """
        if np.ndim(x) != 2 or len(x) != 1:
            raise ValueError(f"x must be one row of shape (1, n_features), got shape {np.shape(x)}.")
        found, seen = find_telescoping_estimator(estimator, x)
        telescope = found.telescope_
        labels, number = telescope.y, telescope.resolve_output(output, cls.__name__, needed=True)
        if row_names is not None and len(np.asarray(row_names)) != len(labels):
            raise ValueError(f"row_names must name all {len(labels)} training rows, got {len(np.asarray(row_names))}.")
        weights, offset = found.kernel_weights(seen)[0], found.offset(seen)[0]
        if number is not None:
            of_output = weights[number]
            weights, offset = of_output[:, number], offset[number] + (of_output * labels).sum()
            labels = labels[:, number]
            offset -= weights @ labels
        display = cls(weights=weights, labels=labels, offset=float(offset), row_names=row_names)
        return display.plot(ax=ax, k=k, **kwargs)

    def plot(self, ax: Any = None, *, k: int = 10, **kwargs: Any) -> Self:
        """Draw the rows with the largest absolute weights.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.
        k : int, default=10
            Number of training rows to draw.
        **kwargs : dict
            Settings of the bars, passed to `Axes.barh`.

        Returns
        -------
        KernelWeightsDisplay
            The Display itself.

        Raises
        ------
        ValueError
            If `k` is less than 1.
        """
        rows = self.top(k)
        self._set_axes(ax, figsize=(5.6, 1.4 + 0.3 * len(rows)))
        places, weights = np.arange(len(rows)), self.weights[rows]
        colors = np.where(weights > 0, _POSITIVE, _NEGATIVE)
        self.bars_ = self.ax_.barh(places, weights, **{"color": colors, "height": 0.72} | kwargs)
        names = rows if self.row_names is None else np.asarray(self.row_names)[rows]
        self.ax_.set_yticks(places, [plain(name) for name in names])
        self.ax_.invert_yaxis()
        self._write_labels(rows)
        self.ax_.axvline(0, color=GREY, linewidth=0.8)
        self.ax_.margins(x=0.02)
        self.ax_.set(xlabel="weight of the training label in this prediction", ylabel="training row")
        self.ax_.set_title(self._title(rows), fontsize="medium", loc="left")
        tidy(self.ax_, grid="x")
        self.ax_.tick_params(axis="y", length=0)
        return self

    def _write_labels(self, rows: NDArray) -> None:
        """Write the labels in a column to the right of the axes."""
        right = self.ax_.get_yaxis_transform()
        for place, label in enumerate(self.labels[rows]):
            self.ax_.text(1.02, place, f"{label:.4g}", transform=right, va="center", fontsize="small")
        self.ax_.text(1.02, -0.75, "label", transform=right, va="bottom", fontsize="small", color=GREY)

    def _title(self, rows: NDArray) -> str:
        total = np.abs(self.weights).sum()
        share = np.abs(self.weights[rows]).sum() / total if total > 0 else 0.0
        noun = "row holds" if len(rows) == 1 else "rows hold"
        return f"prediction {self.prediction:.4g}; {len(rows)} {noun} {share:.0%} of all weight"
