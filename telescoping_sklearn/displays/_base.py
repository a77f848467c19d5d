"""Base classes of the Displays that draw on one axes."""

from abc import ABC, abstractmethod
from typing import Any, Self

from telescoping_sklearn.displays._style import axes_or_new, tidy


class AxesDisplay:
    """Display that draws on one axes, `ax_`, of the figure `figure_`."""

    def _set_axes(self, ax: Any, **figure: Any) -> None:
        """Set `ax_` to the given axes, or to new ones in a figure with these settings."""
        self.ax_ = axes_or_new(ax, **figure)
        self.figure_ = self.ax_.figure


class CurvesDisplay(AxesDisplay, ABC):
    """Display of curves; a subclass holds the numbers and draws them in `_draw`."""

    @abstractmethod
    def _draw(self, kwargs: dict[str, Any]) -> None:
        """Draw the curves on `ax_`; `kwargs` override the settings of the lines."""

    def plot(self, ax: Any = None, **kwargs: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None creates a figure.
        **kwargs : dict
            Settings of the lines, passed to `Axes.plot`.

        Returns
        -------
        object
            The Display itself.
        """
        self._set_axes(ax)
        self._draw(kwargs)
        tidy(self.ax_)
        return self
