"""The look that every Display shares, and nothing else."""

from typing import Any

#: Okabe and Ito's palette, told apart by the colour-blind; the order keeps neighbours far from each other.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
GREY = "0.45"


def style_of(position: int) -> dict[str, Any]:
    """Colour, marker and line of the model at a position; dashes tell those apart that share a colour."""
    turn, place = divmod(position, len(PALETTE))
    return {"color": PALETTE[place], "marker": MARKERS[place], "linestyle": DASHES[turn % len(DASHES)]}


def axes_or_new(ax: Any, **figure: Any) -> Any:
    """Give the axes to draw on: those of the caller, or new ones."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(**{"figsize": (5.6, 3.8), "layout": "constrained"} | figure)[1]


def tidy(ax: Any, *, grid: str = "y") -> None:
    """Leave what helps reading: no box, a faint grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color="0.91", linewidth=0.8)
    ax.set_axisbelow(True)


def legend(ax: Any, **placing: Any) -> Any:
    """Draw a legend without a frame."""
    return ax.legend(**{"frameon": False, "fontsize": "small"} | placing)


def plain(name: Any) -> str:
    """Write a user's name so that matplotlib neither reads it as mathematics nor hides it from legends."""
    escaped = str(name).replace("$", r"\$")
    return f"\u200b{escaped}" if escaped.startswith("_") else escaped
