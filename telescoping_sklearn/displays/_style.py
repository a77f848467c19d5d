"""Colours, axes and legends shared by all Displays."""

from typing import Any

#: Okabe and Ito's palette for colour-blind readers, ordered so that neighbours differ most.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
GREY = "0.45"


def style_of(position: int) -> dict[str, Any]:
    """Return the colour, marker and line style of a model; models with the same colour differ in line style."""
    cycle, color = divmod(position, len(PALETTE))
    return {"color": PALETTE[color], "marker": MARKERS[color], "linestyle": DASHES[cycle % len(DASHES)]}


def axes_or_new(ax: Any, **figure: Any) -> Any:
    """Return the given axes, or new ones in a figure with these settings."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(**{"figsize": (5.6, 3.8), "layout": "constrained"} | figure)[1]


def tidy(ax: Any, *, grid: str = "y") -> None:
    """Remove the top and right spines and draw a faint grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color="0.91", linewidth=0.8)
    ax.set_axisbelow(True)


def legend(ax: Any, **placing: Any) -> Any:
    """Draw a legend without a frame."""
    return ax.legend(**{"frameon": False, "fontsize": "small"} | placing)


def plain(name: Any) -> str:
    """Escape a name: matplotlib would read "$" as mathematics and hide a leading "_" from legends."""
    escaped = str(name).replace("$", r"\$")
    return f"\u200b{escaped}" if escaped.startswith("_") else escaped
