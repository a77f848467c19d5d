"""Layout of the report's charts: from a curve's numbers to positions in an SVG.

The template writes the SVG; here are numbers and words only, so that escaping has one home.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

WIDTH, HEIGHT = 380, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 40
#: Approximate width of a character of a tick label.
_CHARACTER = 8.0
#: Positive values that span more than this factor are drawn on a logarithmic axis.
_LOG_ABOVE = 40.0
#: A standard error below this share of its value is rounding.
_ROUNDING = 1e-9
#: Outlines of the markers, around the origin; markers and dashes distinguish curves without colour.
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.8L4.6 3.4h-9.2z",
    "M0-5L5 0L0 5L-5 0z",
    "M0 4.8L4.6-3.4h-9.2z",
    "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M-4.5-3l1.5-1.5l3 3l3-3l1.5 1.5l-3 3l3 3l-1.5 1.5l-3-3l-3 3l-1.5-1.5l3-3z",
)


def number(value: float) -> str:
    """Format a number with three significant digits and thousands separators.

    Examples
    --------
    >>> [number(value) for value in (0.12345, 12345.6, 0.0, 1.0, 0.00001234, float("nan"))]
    ['0.123', '12,346', '0', '1.00', '1.23e-05', '–']
    """
    if not np.isfinite(value):
        return "–" if np.isnan(value) else "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace("-", "−")
    text = f"{value:#.3g}" if abs(value) >= 1e-3 else f"{value:.2e}"
    return text.rstrip(".").replace("-", "−", 1) if value < 0 else text.rstrip(".")


def with_error(value: float, error: float) -> str:
    """Format a number with its standard error, if it has one."""
    known = np.isfinite(error) and error > _ROUNDING * abs(value)
    return f"{number(value)} ± {_two_digits(error)}" if known else number(value)


def _two_digits(error: float) -> str:
    return f"{error:,.0f}" if error >= 10 else f"{error:#.2g}" if error >= 1e-3 else f"{error:.1e}"


def mean_and_error(part: pd.DataFrame, quantity: str) -> tuple[float, float]:
    """Mean over seeds with its standard error; for one seed, the standard error in the results, if any.

    Effective parameters have an error that seeds share, since sections make them too low: it joins that of the mean.
    """
    values = part[quantity].dropna().to_numpy(dtype=float) if quantity in part else np.empty(0)
    if len(values) == 0:
        return np.nan, np.nan
    if len(values) > 1:
        shared = float(part[f"{quantity}_se"].mean()) if quantity.startswith("effective_params") else 0.0
        return float(values.mean()), float(np.hypot(values.std(ddof=1) / np.sqrt(len(values)), shared))
    within = f"{quantity}_se"
    return float(values[0]), float(part[within].to_numpy(dtype=float)[0]) if within in part else np.nan


@dataclass
class Axis:
    """One axis: its range, and the positions of its values."""

    low: float  # ends, in data
    high: float
    start: float  # ends, in the SVG
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Position of a value in the SVG."""
        low, high, at = (math.log10(part) if self.log else part for part in (self.low, self.high, value))
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 2)

    def clip(self, value: float) -> float:
        """Clip a value to the axis."""
        return min(max(value, self.low), self.high)


@dataclass
class Curve:
    """One model's curve."""

    label: str
    style: int  # place among the report's models, which sets colour and marker
    line: str  # path
    band: str  # path; empty without standard errors
    points: list[tuple[float, float]]  # positions of the markers


@dataclass
class Stop:
    """A position along the horizontal axis that can be hovered or focused, and its tooltip."""

    x: float
    left: float  # start and width of the stretch that belongs to it
    width: float
    head: str  # the test set
    lines: list[tuple[int, str, str]] = field(default_factory=list)  # style, model and value of each curve

    @property
    def spoken(self) -> str:
        """The tooltip as one sentence."""
        return f"{self.head}: " + "; ".join(f"{model} {value}" for _, model, value in self.lines)


@dataclass
class Chart:
    """A chart, ready for the template."""

    title: str  # label of the vertical axis
    x_label: str
    description: str  # for readers who cannot see the chart
    x_ticks: list[tuple[float, str]]  # positions and labels
    y_ticks: list[tuple[float, str]]
    curves: list[Curve]
    stops: list[Stop]
    reference: float | None  # position of a line at 1
    log: bool  # whether the vertical axis is logarithmic
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def set_name(kind: str, value: float) -> str:
    """Readable name of a test set."""
    if kind == "mixture":
        return f"{value:.0%} irregular".replace("%", " %")
    if kind == "decile":
        return f"decile {value:.0f}"
    return f"shift {value:.0%}".replace("%", " %")


def short_set_name(kind: str, value: float) -> str:
    """Tick label of a test set."""
    return f"{value:.0f}" if kind == "decile" else f"{value:.0%}"


def make_chart(
    summary: pd.DataFrame, models: Sequence[str], *, title: str, x_label: str, kind: str, reference: float | None = None
) -> Chart:
    """Lay out the curves of one data set, from its part of `summarize_curves`.

    `models` are all models of the report, so that a model has the same colour in every chart. `reference` is a value at
    which a line is drawn across.
    """
    finite = summary[np.isfinite(summary["mean"])]
    error = finite["standard_error"].where(np.isfinite(finite["standard_error"]), 0.0)
    finite = finite.assign(error=error, low=finite["mean"] - error, high=finite["mean"] + error)
    x = _x_axis(finite["set_value"])
    y = _y_axis(finite, reference)
    parts = [(str(model), finite[finite["model"] == model].sort_values("set_value")) for model in models]
    curves = [_curve(model, models.index(model), part, x, y) for model, part in parts if len(part)]
    places = sorted(finite["set_value"].unique())
    return Chart(
        title=title,
        x_label=x_label,
        description=_describe(title, kind, [(model, part) for model, part in parts if len(part)]),
        x_ticks=_apart([(x.place(value), short_set_name(kind, value)) for value in places]),
        y_ticks=[(y.place(value), label) for value, label in _ticks(y)],
        curves=curves,
        stops=_stops(places, finite, models, x, kind),
        reference=None if reference is None else y.place(reference),
        log=y.log,
    )


def _x_axis(values: pd.Series) -> Axis:
    low, high = float(values.min()), float(values.max())
    half = 0.5 if low == high else 0.04 * (high - low)
    return Axis(low - half, high + half, LEFT, WIDTH - RIGHT)


def _y_axis(finite: pd.DataFrame, reference: float | None) -> Axis:
    means = [*finite["mean"], *([] if reference is None else [reference])]
    low, high = min(*means, *finite["low"]), max(*means, *finite["high"])
    start, end = HEIGHT - BOTTOM, TOP
    if min(means) > 0 and max(means) > _LOG_ABOVE * min(means):
        # A band that reaches below zero ends at the axis.
        return Axis(0.8 * min(low if low > 0 else math.inf, *means), 1.25 * high, start, end, log=True)
    if min(means) >= 0:
        low = 0.0
    span = high - low or 1.0
    return Axis(low - (0.06 * span if low < 0 else 0), high + 0.06 * span, start, end)


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    """Round values along an axis: 1, 2 or 5 times a power of ten."""
    if axis.log:
        decades = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            values = [step * 10.0**decade for decade in decades for step in steps]
            inside = [value for value in values if axis.low <= value <= axis.high]
            if len(inside) <= 6:
                break
        return [(value, f"{value:,g}" if value < 1e6 else f"{value:g}") for value in inside]
    rough = (axis.high - axis.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    digits = max(0, -math.floor(math.log10(step)))
    count = range(math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9) + 1)
    return [(place * step, f"{place * step:,.{digits}f}".replace("-", "−")) for place in count]


def _apart(ticks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Drop labels that would overlap; the first and the last are kept."""
    kept = ticks[:1]
    for place, label in ticks[1:-1]:
        room = _CHARACTER * (len(label) + 1)
        if place - kept[-1][0] >= room and ticks[-1][0] - place >= room:
            kept.append((place, label))
    return kept + ticks[1:][-1:]


def _curve(model: str, style: int, part: pd.DataFrame, x: Axis, y: Axis) -> Curve:
    across = [x.place(value) for value in part["set_value"]]
    points = list(zip(across, (y.place(value) for value in part["mean"]), strict=True))
    band = ""
    if (part["error"] > 0).any() and len(part) > 1:
        upper = [(at, y.place(y.clip(value))) for at, value in zip(across, part["high"], strict=True)]
        lower = [(at, y.place(y.clip(value))) for at, value in zip(across, part["low"], strict=True)]
        band = _path([*upper, *reversed(lower)]) + "z"
    return Curve(model, style, _path(points), band, points)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _stops(places: Sequence[float], finite: pd.DataFrame, models: Sequence[str], x: Axis, kind: str) -> list[Stop]:
    at = [x.place(value) for value in places]
    edges = [x.start, *((one + other) / 2 for one, other in pairwise(at)), x.end]
    stops = []
    for position, value in enumerate(places):
        left, right = edges[position], edges[position + 1]
        stop = Stop(at[position], round(left, 2), round(right - left, 2), set_name(kind, value))
        here = finite[finite["set_value"] == value]
        rows: Any = here.sort_values("mean", ascending=False).itertuples()
        for row in rows:
            stop.lines.append((models.index(row.model), row.model, with_error(row.mean, row.error)))
        stops.append(stop)
    return stops


def _describe(title: str, kind: str, parts: Sequence[tuple[str, pd.DataFrame]]) -> str:
    sentences = []
    for model, part in parts:
        first, last = part.iloc[0], part.iloc[-1]
        sentences.append(
            f"{model}: {number(first['mean'])} at {set_name(kind, first['set_value'])}, "
            f"{number(last['mean'])} at {set_name(kind, last['set_value'])}."
        )
    return f"{title}. " + " ".join(sentences)


def legend(models: Sequence[str]) -> list[dict[str, Any]]:
    """Models of the report with their styles."""
    return [{"label": model, "style": style} for style, model in enumerate(models)]
