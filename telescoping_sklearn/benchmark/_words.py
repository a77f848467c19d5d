"""Describe results in sentences.

A gap is stated only if its interval excludes zero, and a trend only if its interval excludes "no change". If a
relative gap is undefined, the sentence gives the reason.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from telescoping_sklearn.benchmark._chart import number
from telescoping_sklearn.benchmark._summary import ModelComparison

#: A kernel norm ratio must exceed 1 by more than this to be described as above 1.
_ABOVE_ONE = 0.05
#: Largest number of data sets that a sentence names; more are only counted.
_MOST_NAMED = 6
#: Significance level of the corrected p-values.
_LEVEL = 0.05
#: Name of a block of a comparison, singular and plural.
_BLOCKS = {
    "data": ("data set", "data sets"),
    "data and seed": ("pair of data set and seed", "pairs of data set and seed"),
}


class _Places(NamedTuple):
    """Phrases for the first and the last test set of a kind."""

    near: str
    far: str

    @classmethod
    def of(cls, kind: str, farthest: float) -> "_Places":
        if kind == "shift":
            return cls("on rows that have not shifted", "at the far end of the shift")
        return cls("on regular rows", f"at {100 * farthest:.0f}\N{NO-BREAK SPACE}% irregular rows")


def _interval(low: float, high: float) -> str:
    return f"95\N{NO-BREAK SPACE}% interval {number(low)} to {number(high)}"


def counted(count: int, one: str, several: str = "") -> str:
    """Format a count with its noun; the plural adds an s unless given."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def say_blocks(comparison: ModelComparison) -> str:
    """Describe the number and kind of the blocks of a comparison."""
    return counted(comparison.n_blocks, *_BLOCKS[comparison.over])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def say_gap(gaps: pd.DataFrame, model: str, reference: str) -> str:
    """Describe how the gap between two models changes from the first to the last test set, in one or two sentences.

    `gaps`, errors of `model` less those of `reference`, are rows of `relative_gaps` of one data set and score.
    """
    gaps = gaps.sort_values("set_value")
    near, far = gaps.iloc[0], gaps.iloc[-1]
    places = _Places.of(near["set_kind"], far["set_value"])
    if near["reason"]:
        opening = (
            f"{_capital(places.near)} {model} and {reference} do not differ beyond noise, so the relative gap is not "
            f"defined ({near['reason']})."
        )
        return f"{opening} {_say_difference(far, model, reference, places)}" if len(gaps) > 1 else opening
    ahead, behind = (reference, model) if near["gap"] > 0 else (model, reference)
    opening = f"{_capital(places.near)} {_say_lead(near, ahead, behind)}"
    return f"{opening}; {_say_change(far, ahead, behind, places)}." if len(gaps) > 1 else f"{opening}."


def _say_lead(row: pd.Series, ahead: str, behind: str) -> str:
    sizes = sorted(abs(row[name]) for name in ("gap_low", "gap_high"))
    return f"{ahead} beats {behind} by {number(abs(row['gap']))} ({_interval(*sizes)})"


def _say_change(far: pd.Series, ahead: str, behind: str, places: _Places) -> str:
    """Describe how a lead changes."""
    if far["reason"]:
        if _within_noise(far):
            return f"{places.far} they do not differ beyond noise, and the relative gap is not defined"
        return f"{places.far} {_say_lead(far, behind, ahead)}, and the relative gap is not defined"
    size = f"{number(far['relative_gap'])} times that ({_interval(far['low'], far['high'])})"
    if far["low"] > 1:
        return f"{places.far} its lead grows to {size}"
    if far["high"] < 1:
        return f"{places.far} its lead shrinks to {size}"
    return f"{places.far} its lead is {size}, no change beyond noise"


def _within_noise(row: pd.Series) -> bool:
    """Whether the interval of a gap contains zero."""
    return bool(row["gap_low"] <= 0 <= row["gap_high"])


def _say_difference(far: pd.Series, model: str, reference: str, places: _Places) -> str:
    """Describe which model has the lower error on the last test set, if either."""
    if _within_noise(far):
        return f"They do not differ beyond noise {places.far} either."
    ahead, behind = (reference, model) if far["gap"] > 0 else (model, reference)
    return f"But {places.far} {_say_lead(far, ahead, behind)}."


def trend(gaps: pd.DataFrame) -> str:
    """Classify the gap of one data set: "grows", "shrinks", "stays", "reverses", "vanishes" or "undefined"."""
    gaps = gaps.sort_values("set_value")
    regular, irregular = gaps.iloc[0], gaps.iloc[-1]
    if regular["reason"] or len(gaps) == 1:
        return "undefined"
    if irregular["reason"]:
        return "vanishes" if _within_noise(irregular) else "reverses"
    return "grows" if irregular["low"] > 1 else "shrinks" if irregular["high"] < 1 else "stays"


def say_trends(
    trends: Mapping[str, str], model: str, reference: str, *, kind: str = "mixture", several: str = "data sets"
) -> str:
    """Describe in a sentence the trend of the gap between two models on each data set, from first to last test set.

    `trends` has the result of `trend` for each data set. `several` is the noun for its names, to count many of them.
    """
    near = _Places.of(kind, 1.0).near
    course = "Along the shift" if kind == "shift" else "From regular to irregular rows"
    meanings = {
        "grows": "grows on {}",
        "shrinks": "shrinks on {}",
        "stays": "does not change beyond noise on {}",
        "reverses": "changes sides on {}",
        "vanishes": "is no longer beyond noise on {}",
        "undefined": "is within noise " + near + " and has no trend on {}",
    }
    groups = {name: [data for data, found in trends.items() if found == name] for name in meanings}
    parts = [meaning.format(_named(groups[name], several)) for name, meaning in meanings.items() if groups[name]]
    return f"{course}, the gap between {model} and {reference} {_joined(parts)}."


def _named(data: Sequence[str], several: str) -> str:
    return _joined(data) if len(data) <= _MOST_NAMED else f"{len(data)} {several}"


def say_kernels(summary: pd.DataFrame, kind: str) -> str:
    """Describe the kernel norm ratios of one data set, in a sentence for each model; empty if no model has any."""
    sentences = []
    for model, part in summary.groupby("model", sort=False):
        part = part.sort_values("set_value")
        values = part["mean"].to_numpy()
        places = _Places.of(kind, part["set_value"].iloc[-1])
        largest = number(values.max())
        if values.max() <= 1 + _ABOVE_ONE:
            what = f"stays near 1 or below (largest {largest})"
        elif values[-1] > max(values[0] + _noise(part), 1 + _ABOVE_ONE):
            what = (
                f"rises from {number(values[0])} to {number(values[-1])}: {places.far} its largest kernel norm, "
                "averaged over stages, is larger than on the rows trained on"
            )
        else:
            what = f"exceeds 1 (largest {largest}), with no rise beyond noise from the first test set to the last"
        sentences.append(f"The kernel norm ratio of {model} {what}.")
    return " ".join(sentences)


def _noise(part: pd.DataFrame) -> float:
    """Two standard errors of the difference between the first and the last mean; 0 if unknown."""
    errors = part["standard_error"].iloc[[0, -1]].to_numpy(dtype=float)
    return 2 * float(np.sqrt(np.nansum(errors**2)))


def say_comparison(comparison: ModelComparison) -> str:
    """Describe which models the model of the best mean rank beats significantly, on rows like the training rows.

    If there are too few blocks for the test, the sentence says so.
    """
    where = f"{_capital(_Places.of(comparison.set_kind, 1.0).near)}, over {say_blocks(comparison)}"
    n_pairs = len(comparison.pairs)
    corrected = ", corrected for all pairs (Holm)" if n_pairs > 1 else ""
    if comparison.least_p >= _LEVEL:
        needed = int(np.floor(1 - np.log2(_LEVEL / n_pairs))) + 1
        return (
            f"{where}: too few to say which model has the lower error. Wilcoxon's signed-rank test{corrected} can fall "
            f"below p = {_LEVEL:g} from {counted(needed, *_BLOCKS[comparison.over])} on."
        )
    best = comparison.ranks["model"].iloc[0]
    pairs: Any = comparison.pairs.itertuples()
    parts = [_say_pair(pair, comparison.n_blocks) for pair in pairs if best in (pair.model_a, pair.model_b)]
    caution = "" if comparison.over == "data" else "; seeds of one data set share rows, so these p-values are too small"
    return f"{where}: {'; '.join(parts)} (Wilcoxon's signed-rank test{corrected}{caution})."


def _say_pair(pair: Any, n_blocks: int) -> str:
    """Describe which of two models has the lower error, if the test is significant."""
    ahead, behind = (pair.model_a, pair.model_b) if pair.wins_a >= pair.wins_b else (pair.model_b, pair.model_a)
    wins = max(pair.wins_a, pair.wins_b)
    if pair.holm_p < _LEVEL:
        return f"{ahead} has a lower error than {behind} in {wins} of {n_blocks}, p = {pair.holm_p:.2g}"
    return f"{ahead} and {behind} do not differ beyond noise, p = {pair.holm_p:.2g}"
