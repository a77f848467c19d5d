"""What results say, in sentences that follow from the numbers and go no further.

A gap is said only where its interval leaves zero out, a trend only where its interval leaves "no change" out, and
where a relative gap is not defined the sentence says so and why.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from telescoping_sklearn.benchmark._chart import number
from telescoping_sklearn.benchmark._summary import ModelComparison

#: A kernel norm ratio this far above 1 is said to exceed it.
_ABOVE_ONE = 0.05
#: Data sets that a sentence names; more are counted.
_MOST_NAMED = 6
#: Models are said to differ where the corrected p-value is below.
_LEVEL = 0.05
#: What a comparison is over: one, and several.
_BLOCKS = {
    "data": ("data set", "data sets"),
    "data and seed": ("pair of data set and seed", "pairs of data set and seed"),
}


class _Places(NamedTuple):
    """How the ends of a row of test sets are called."""

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
    """Write a count with its noun, whose plural takes an s unless given."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def say_blocks(comparison: ModelComparison) -> str:
    """Say how many comparisons there are, and of what."""
    return counted(comparison.n_blocks, *_BLOCKS[comparison.over])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def say_gap(gaps: pd.DataFrame, model: str, reference: str) -> str:
    """Say how the gap between two models changes from the first test set of a kind to the last, on one data set.

    Parameters
    ----------
    gaps : DataFrame
        Mixtures, or sets along a shift, of one data set and score, as `relative_gaps` gives them.
    model, reference : str
        The two models; gaps are errors of the first less those of the second.

    Returns
    -------
    str
        One or two sentences.
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
    """Say what becomes of a lead."""
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
    """Whether the interval of a gap holds zero."""
    return bool(row["gap_low"] <= 0 <= row["gap_high"])


def _say_difference(far: pd.Series, model: str, reference: str, places: _Places) -> str:
    """Say which model has the lower error on the last test set, if either."""
    if _within_noise(far):
        return f"They do not differ beyond noise {places.far} either."
    ahead, behind = (reference, model) if far["gap"] > 0 else (model, reference)
    return f"But {places.far} {_say_lead(far, ahead, behind)}."


def trend(gaps: pd.DataFrame) -> str:
    """Name what the gap of one data set does: "grows", "shrinks", "stays", "reverses", "vanishes" or "undefined"."""
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
    """Say on which data sets the gap between two models does what, from the first test set of a kind to the last.

    Parameters
    ----------
    trends : mapping of str to str
        What `trend` says of each data set.
    model, reference : str
        The two models.
    kind : {"mixture", "shift"}, default="mixture"
        What the test sets are.
    several : str, default="data sets"
        What the names of `trends` are; many are counted as these.

    Returns
    -------
    str
        One sentence.
    """
    near = _Places.of(kind, 1.0).near
    course = "Along the shift" if kind == "shift" else "From regular to irregular rows"
    meanings = {
        "grows": "grows on {}",
        "shrinks": "shrinks on {}",
        "stays": "does not change beyond noise on {}",
        "reverses": "changes sides on {}",
        "vanishes": "is no longer beyond noise on {}",
        "undefined": "cannot be followed, for want of a gap beyond noise " + near + ", on {}",
    }
    groups = {name: [data for data, found in trends.items() if found == name] for name in meanings}
    parts = [meaning.format(_named(groups[name], several)) for name, meaning in meanings.items() if groups[name]]
    return f"{course}, the gap between {model} and {reference} {_joined(parts)}."


def _named(data: Sequence[str], several: str) -> str:
    return _joined(data) if len(data) <= _MOST_NAMED else f"{len(data)} {several}"


def say_kernels(summary: pd.DataFrame, kind: str) -> str:
    """Say what the kernel norm ratios of one data set do; nothing where no model has any.

    Parameters
    ----------
    summary : DataFrame
        What `summarize_curves` gives for "kernel_norm_ratio", of one data set.
    kind : {"mixture", "shift"}
        What the test sets are.

    Returns
    -------
    str
        One sentence a model.
    """
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
    """Two standard errors of the difference between the first and the last mean; 0 where none are known."""
    errors = part["standard_error"].iloc[[0, -1]].to_numpy(dtype=float)
    return 2 * float(np.sqrt(np.nansum(errors**2)))


def say_comparison(comparison: ModelComparison) -> str:
    """Say which models the model of the best mean rank beats, on rows like those trained on, as far as the test says.

    Parameters
    ----------
    comparison : ModelComparison
        From `compare_models`.

    Returns
    -------
    str
        One or two sentences; where so few comparisons cannot tell models apart, that they cannot.
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
    """Say which of two models has the lower error, where the test says that one has."""
    ahead, behind = (pair.model_a, pair.model_b) if pair.wins_a >= pair.wins_b else (pair.model_b, pair.model_a)
    wins = max(pair.wins_a, pair.wins_b)
    if pair.holm_p < _LEVEL:
        return f"{ahead} has a lower error than {behind} in {wins} of {n_blocks}, p = {pair.holm_p:.2g}"
    return f"{ahead} and {behind} do not differ beyond noise, p = {pair.holm_p:.2g}"
