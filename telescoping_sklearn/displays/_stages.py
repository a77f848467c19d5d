"""Effective parameters and kernel norms along training."""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.displays._base import CurvesDisplay
from telescoping_sklearn.displays._style import PALETTE, legend
from telescoping_sklearn.metrics import find_telescoping_estimator

_TRAIN, _TEST = PALETTE[0], PALETTE[1]
#: Norms are drawn on a logarithmic axis if the largest exceeds the smallest by more than this factor.
_LOG_ABOVE = 8.0


class Band(NamedTuple):
    """Values and their standard errors, each of shape (n_stages,); an error of 0 marks an exact value."""

    value: NDArray
    standard_error: NDArray


class EffectiveParamsDisplay(CurvesDisplay):
    """Effective parameters against the stage, on the training rows and on other rows.

    Effective parameters that are lower on other rows than on the training rows are a sign of benign overfitting
    (section 4.1 of the paper).

    Parameters
    ----------
    stages : ndarray of shape (n_stages,)
        Stage numbers.
    train : Band
        Effective parameters on the training rows, with standard errors.
    test : Band
        Effective parameters on other rows, with standard errors.

    Attributes
    ----------
    ax_, figure_ : matplotlib.axes.Axes, matplotlib.figure.Figure
        Axes and figure of the plot. These and the other attributes are set by `plot`.
    lines_ : list of matplotlib.lines.Line2D
        The two curves.
    bands_ : list of matplotlib.collections.PolyCollection
        Bands of one standard error on either side; exact values have none.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from telescoping_sklearn import TelescopingGBTRegressor
    >>> X, y = make_friedman1(150, random_state=0)
    >>> trees = TelescopingGBTRegressor(n_estimators=20).fit(X[:100], y[:100])
    >>> display = EffectiveParamsDisplay.from_estimator(trees, X[100:], stages=4)
    >>> display.stages
    array([ 5, 10, 15, 20])
    >>> bool((np.diff(display.train.value) > 0).all())
    True
    """

    def __init__(self, *, stages: NDArray, train: Band, test: Band):
        self.stages = stages
        self.train = train
        self.test = test

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        stages: Any = 20,
        n_probes: int | str | None = "auto",
        output: int | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Compute the effective parameters of a fitted estimator by stage, and draw them.

        Parameters
        ----------
        estimator : estimator
            A fitted telescoping estimator, bare or inside pipelines, target transformers and searches.
        X : array-like of shape (n_query, n_features)
            Rows other than the training rows.
        stages : None, int or array-like of int, default=20
            As in `staged_effective_params`.
        n_probes : int, "auto" or None, default="auto"
            As in `effective_params`.
        output : int or None, default=None
            As in `effective_params`.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.
        **kwargs : dict
            Settings of the lines, passed to `Axes.plot`.

        Returns
        -------
        EffectiveParamsDisplay
            The Display, drawn.
        """
        found, seen = find_telescoping_estimator(estimator, X)
        summary = found.staged_training_summary(stages, n_probes=n_probes, output=output)
        train = Band(summary["effective_params"].to_numpy(), summary["effective_params_se"].to_numpy())
        test = Band(*found.staged_effective_params(seen, stages, n_probes=n_probes, return_se=True, output=output))
        return cls(stages=summary.index.to_numpy(), train=train, test=test).plot(ax=ax, **kwargs)

    def _draw(self, kwargs: dict[str, Any]) -> None:
        self.lines_, self.bands_ = [], []
        sets = [("training rows", self.train, _TRAIN, "-"), ("other rows", self.test, _TEST, "--")]
        for label, band, color, linestyle in sets:
            settings = {"color": color, "linestyle": linestyle, "label": label} | kwargs
            self.lines_ += self.ax_.plot(self.stages, band.value, **settings)
            if np.any(band.standard_error > 0):
                edges = band.value - band.standard_error, band.value + band.standard_error
                color = self.lines_[-1].get_color()
                self.bands_.append(self.ax_.fill_between(self.stages, *edges, color=color, alpha=0.2, linewidth=0))
        self.ax_.set(xlabel="stage", ylabel="effective parameters")
        self.ax_.set_ylim(bottom=0)
        legend(self.ax_)


class KernelNormsDisplay(CurvesDisplay):
    """Largest and median kernel norm against the stage, on the training rows and on other rows.

    The kernel norm ratio in the title is the stage mean of the largest norm on other rows, divided by that on the
    training rows.

    Parameters
    ----------
    stages : ndarray of shape (n_stages,)
        Stage numbers.
    train : ndarray of shape (n_stages, n_trained)
        Kernel norms of the training rows.
    test : ndarray of shape (n_stages, n_query)
        Kernel norms of other rows.

    Attributes
    ----------
    ax_, figure_ : matplotlib.axes.Axes, matplotlib.figure.Figure
        Axes and figure of the plot. These and the other attributes are set by `plot`.
    lines_ : list of matplotlib.lines.Line2D
        The largest and the median norm of the training rows, then of the other rows.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from telescoping_sklearn import TelescopingGBTRegressor
    >>> X, y = make_friedman1(150, random_state=0)
    >>> trees = TelescopingGBTRegressor(n_estimators=20).fit(X[:100], y[:100])
    >>> display = KernelNormsDisplay.from_estimator(trees, X[100:])
    >>> display.test.shape
    (20, 50)
    >>> bool(display.ratio == trees.kernel_norm_ratio(X[100:]))
    True
    """

    def __init__(self, *, stages: NDArray, train: NDArray, test: NDArray):
        self.stages = stages
        self.train = train
        self.test = test

    @property
    def ratio(self) -> float:
        """Kernel norm ratio of the other rows over these stages."""
        return float(self.test.max(axis=1).mean() / self.train.max(axis=1).mean())

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        stages: Any = "auto",
        output: int | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Compute the kernel norms of a fitted estimator by stage, and draw them.

        Parameters
        ----------
        estimator : estimator
            A fitted telescoping estimator, bare or inside pipelines, target transformers and searches.
        X : array-like of shape (n_query, n_features)
            Rows other than the training rows.
        stages : "auto", None, int or array-like of int, default="auto"
            As in `kernel_norms`.
        output : int or None, default=None
            The output that is drawn, for models of several.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.
        **kwargs : dict
            Settings of the lines, passed to `Axes.plot`.

        Returns
        -------
        KernelNormsDisplay
            The Display, drawn.

        Raises
        ------
        ValueError
            If the model has several outputs and none is given.
        """
        found, seen = find_telescoping_estimator(estimator, X)
        telescope = found.telescope_
        number = telescope.resolve_output(output, cls.__name__, needed=True)
        of_output = slice(None) if number is None else (slice(None), slice(None), number)
        numbers = telescope.kernel_stages(stages)
        train, test = telescope.kernel_norms(None, numbers)[:, telescope.trained], found.kernel_norms(seen, numbers)
        return cls(stages=numbers, train=train[of_output], test=test[of_output]).plot(ax=ax, **kwargs)

    def _draw(self, kwargs: dict[str, Any]) -> None:
        self.lines_ = []
        # Wide and pale lines of the training rows stay visible where both sets agree, as those of trees do.
        sets = [
            ("training rows", self.train, {"color": _TRAIN, "linewidth": 3.6, "alpha": 0.5}),
            ("other rows", self.test, {"color": _TEST, "linewidth": 1.3}),
        ]
        for label, norms, look in sets:
            largest = {"linestyle": "-", "label": f"{label}, largest"} | look | kwargs
            median = {"linestyle": "--", "label": f"{label}, median"} | look | kwargs
            self.lines_ += self.ax_.plot(self.stages, norms.max(axis=1), **largest)
            self.lines_ += self.ax_.plot(self.stages, np.median(norms, axis=1), **median)
        self.ax_.set(xlabel="stage", ylabel="kernel norm")
        everything = np.concatenate([line.get_ydata() for line in self.lines_])
        if everything.min() > 0 and everything.max() > _LOG_ABOVE * everything.min():
            self.ax_.set_yscale("log")
        else:
            self.ax_.set_ylim(0, 1.15 * everything.max())
        self.ax_.set_title(f"kernel norm ratio {self.ratio:.2f}", fontsize="medium", loc="left")
        legend(self.ax_, ncols=2)
