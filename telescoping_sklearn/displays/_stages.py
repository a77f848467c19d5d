"""Effective parameters and kernel norms along training."""

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.displays._style import PALETTE, axes_or_new, legend, tidy
from telescoping_sklearn.metrics import find_telescoping_estimator

_TRAIN, _TEST = PALETTE[0], PALETTE[1]
#: Norms that span more than this factor are drawn on a logarithmic axis.
_LOG_ABOVE = 8.0


class Band(NamedTuple):
    """A line with what lies around it.

    Attributes
    ----------
    value : ndarray of shape (n_stages,)
        The line.
    standard_error : ndarray of shape (n_stages,)
        Half the width of the band; 0 where the value is exact.
    """

    value: NDArray
    standard_error: NDArray


class EffectiveParamsDisplay:
    """Effective parameters along training, on the training rows and on others.

    Where the curve of other rows falls below that of the training rows, the model overfits benignly (section 4.1 of the
    paper).

    Parameters
    ----------
    stages : ndarray of shape (n_stages,)
        Stage numbers.
    train : Band
        Effective parameters on the rows trained on, with standard errors.
    test : Band
        The same on other rows.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes drawn on; like the rest, there after `plot`.
    figure_ : matplotlib.figure.Figure
        Figure that holds them.
    lines_ : list of matplotlib.lines.Line2D
        Curves.
    bands_ : list of matplotlib.collections.PolyCollection
        Bands of one standard error; none where values are exact.

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
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Ask a fitted estimator for its effective parameters along training, and draw them.

        Parameters
        ----------
        estimator : estimator
            A fitted telescoping estimator, bare or inside pipelines, target transformers and searches.
        X : array-like of shape (n_query, n_features)
            Other rows than those trained on.
        stages : None, int or array-like of int, default=20
            As in `staged_effective_params`.
        n_probes : int, "auto" or None, default="auto"
            As in `effective_params`.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes new ones.
        **kwargs : dict
            Settings of the curves, for `Axes.plot`.

        Returns
        -------
        EffectiveParamsDisplay
            With the numbers and what was drawn.
        """
        found, seen = find_telescoping_estimator(estimator, X)
        summary = found.staged_training_summary(stages, n_probes=n_probes)
        train = Band(summary["effective_params"].to_numpy(), summary["effective_params_se"].to_numpy())
        test = Band(*found.staged_effective_params(seen, stages, n_probes=n_probes, return_se=True))
        return cls(stages=summary.index.to_numpy(), train=train, test=test).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes new ones.
        **kwargs : dict
            Settings of the curves, for `Axes.plot`.

        Returns
        -------
        EffectiveParamsDisplay
            Itself.
        """
        self.ax_ = axes_or_new(ax)
        self.figure_ = self.ax_.figure
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
        tidy(self.ax_)
        legend(self.ax_)
        return self


class KernelNormsDisplay:
    """Norms of the kernel of each stage: the largest and the median, on the rows trained on and on others.

    The kernel norm ratio compares the means over stages of the largest.

    Parameters
    ----------
    stages : ndarray of shape (n_stages,)
        Stage numbers.
    train : ndarray of shape (n_stages, n_trained)
        Norms at the rows trained on.
    test : ndarray of shape (n_stages, n_query)
        Norms at other rows.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes drawn on; like the rest, there after `plot`.
    figure_ : matplotlib.figure.Figure
        Figure that holds them.
    lines_ : list of matplotlib.lines.Line2D
        The largest and the median of each set.

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
        """Kernel norm ratio over these stages."""
        return float(self.test.max(axis=1).mean() / self.train.max(axis=1).mean())

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, *, stages: Any = "auto", ax: Any = None, **kwargs: Any) -> Self:
        """Ask a fitted estimator for its kernel norms along training, and draw them.

        Parameters
        ----------
        estimator : estimator
            A fitted telescoping estimator, bare or inside pipelines, target transformers and searches.
        X : array-like of shape (n_query, n_features)
            Other rows than those trained on.
        stages : "auto", None, int or array-like of int, default="auto"
            As in `kernel_norms`.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes new ones.
        **kwargs : dict
            Settings of the curves, for `Axes.plot`.

        Returns
        -------
        KernelNormsDisplay
            With the numbers and what was drawn.
        """
        found, seen = find_telescoping_estimator(estimator, X)
        telescope = found.telescope_
        numbers = telescope.kernel_stages(stages)
        train = telescope.kernel_norms(None, numbers)[:, telescope.trained]
        return cls(stages=numbers, train=train, test=found.kernel_norms(seen, numbers)).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes new ones.
        **kwargs : dict
            Settings of the curves, for `Axes.plot`.

        Returns
        -------
        KernelNormsDisplay
            Itself.
        """
        self.ax_ = axes_or_new(ax)
        self.figure_ = self.ax_.figure
        self.lines_ = []
        # The training rows' lines are wide and pale: where both sets agree, as trees' do, both can be seen.
        sets = [
            ("training rows", self.train, {"color": _TRAIN, "linewidth": 3.6, "alpha": 0.5}),
            ("other rows", self.test, {"color": _TEST, "linewidth": 1.3}),
        ]
        for label, norms, look in sets:
            for what, values, linestyle in (
                ("largest", norms.max(axis=1), "-"),
                ("median", np.median(norms, axis=1), "--"),
            ):
                settings = {"linestyle": linestyle, "label": f"{label}, {what}"} | look | kwargs
                self.lines_ += self.ax_.plot(self.stages, values, **settings)
        self.ax_.set(xlabel="stage", ylabel="kernel norm")
        everything = np.concatenate([line.get_ydata() for line in self.lines_])
        if everything.min() > 0 and everything.max() > _LOG_ABOVE * everything.min():
            self.ax_.set_yscale("log")
        else:
            self.ax_.set_ylim(0, 1.15 * everything.max())
        self.ax_.set_title(f"kernel norm ratio {self.ratio:.2f}", fontsize="medium", loc="left")
        tidy(self.ax_)
        legend(self.ax_, ncols=2)
        return self
