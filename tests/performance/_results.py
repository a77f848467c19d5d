"""What a measurement leaves, and the page that it is printed on."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

NOTES = Path(__file__).parent / "notes.md"
LIBRARIES = ("torch", "numpy", "scikit-learn", "skorch", "lightgbm", "telescoping_sklearn")


class Goal(NamedTuple):
    """A bound that a measured number is held against."""

    text: str
    reached: bool


def at_least(bound, value):
    """A goal that larger numbers reach."""
    return Goal(f"at least {bound:g} times", value >= bound)


def at_most(bound, value, unit=""):
    """A goal that smaller numbers reach."""
    return Goal(f"at most {bound:g}{unit}", value <= bound)


@dataclass(frozen=True)
class Row:
    """One line of the table: texts, and the goal if there is one."""

    what: str
    peer: str
    ours: str
    ratio: str = ""
    goal: Goal | None = None

    def cells(self):
        stated = ("", "") if self.goal is None else (self.goal.text, "yes" if self.goal.reached else "**no**")
        return (self.what, self.peer, self.ours, self.ratio, *stated)


@dataclass
class Result:
    """What one benchmark found.

    ``figures`` are functions of a matplotlib figure; a figure's name is that of its file.
    """

    title: str
    rows: list[Row] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    figures: dict[str, Callable] = field(default_factory=dict)
    profiles: dict[str, str] = field(default_factory=dict)


def markdown_table(header, rows):
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


def processor_name():
    """Name of the processor, as the system gives it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        names = [line.split(":")[1].strip() for line in listing.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def machine():
    """One paragraph: machine and versions."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"Measured on {date.today()}: {processor_name()}, {os.cpu_count()} cores, {platform.system()}; "
        f"Python {platform.python_version()}, {libraries}."
    )


def table(results):
    """All rows of all results; nothing where there are none."""
    header = ("what", "peer", "ours", "peer / ours: median (range)", "goal", "reached")
    rows = [row.cells() for result in results for row in result.rows]
    return markdown_table(header, rows) if rows else ""


def section(result):
    """The part of a page that tells one result: text, figures, profiles."""
    parts = [f"## {result.title}", *result.text]
    parts += [f"![{result.title}](_static/performance/{name}.png)" for name in result.figures]
    for name, excerpt in result.profiles.items():
        parts += [f"Profile of {name}, top functions by cumulative time:", f"```text\n{excerpt}\n```"]
    return "\n\n".join(parts)


def page(results, command):
    """The whole page."""
    told = [section(result) for result in results if result.text or result.figures or result.profiles]
    introduction = f"`{command}` writes this page; everything on it was measured in one run, contenders taking turns."
    parts = ["# Performance", introduction, machine(), table(results), NOTES.read_text().strip(), *told]
    return "\n\n".join(parts) + "\n"


def write(results, command, folder):
    """Write the page and its figures; return the page's path."""
    images = folder / "_static" / "performance"
    images.mkdir(parents=True, exist_ok=True)
    for result in results:
        for name, draw in result.figures.items():
            save(draw, images / f"{name}.png")
    path = folder / "performance.md"
    path.write_text(page(results, command))
    return path


def save(draw, path):
    """Draw a figure without a display and save it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    figure.savefig(path, dpi=110)


def plain_log_ticks(axis):
    """Label 1, 2 and 5 of every power of ten as plain numbers, fewer where there are many powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def slope(x, y):
    """Exponent of a power law through points, by least squares on logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
