"""Results of a study as a table: a line for each score, a column for each measure, with bootstrap intervals."""

import platform
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from telescoping_sklearn.attribution._measures import bootstrap_interval
from telescoping_sklearn.attribution._models import library_versions
from telescoping_sklearn.attribution._study import MEASURES, AttributionStudy

REFERENCE = "influence"
#: Seeds that a study needs for scores to be compared.
_FEWEST_SEEDS = 2
_MARKS = "+ or -: influence is above or below this score on the same rows; the interval of the difference has no 0."
_KEYS = ["data", "model", "measure"]


def summarise_attribution(results: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Average the results of a study over rows and seeds, with intervals, and compare every score with influence.

    Parameters
    ----------
    results : DataFrame
        What `run_attribution` returns.
    level : float, default=0.95
        Coverage of the intervals.

    Returns
    -------
    DataFrame
        One row for each data set, model, measure, contender and variant:

        mean, low, high
            Mean over rows and seeds, and its bootstrap interval.
        lead, lead_low, lead_high
            Mean difference of influence and this score on the same rows, and its interval; NaN where a measure has no
            value of influence for the same rows.
        best
            Whether no other variant of this contender has a larger mean: the setting is chosen by the measure itself,
            which favours the contender. True for a contender without variants and for the untuned variant.

    Examples
    --------
    >>> import pandas as pd
    >>> results = pd.DataFrame({"data": "d", "model": "m", "seed": 0, "measure": "half", "variant": "",
    ...     "contender": ["influence", "other"], "row": 0, "value": [0.5, 0.25]})
    >>> summarise_attribution(results)[["contender", "mean", "lead"]]
       contender  mean  lead
    0  influence  0.50  0.00
    1      other  0.25  0.25
    """
    lines: list[tuple] = []
    groups: Any = results.groupby(_KEYS, sort=False)
    for keys, of_measure in groups:
        values = of_measure.pivot(index=["seed", "row"], columns=["contender", "variant"], values="value")
        names = of_measure[["contender", "variant"]].drop_duplicates()
        values = values.reindex(columns=pd.MultiIndex.from_frame(names))
        reference = values[(REFERENCE, "")]
        for name in values:
            mean = bootstrap_interval(_by_seed(values[name]), level=level)
            lead = bootstrap_interval(_by_seed(reference - values[name]), level=level)
            lines.append((*keys, *name, *mean, *lead))
    columns = [*_KEYS, "contender", "variant", "mean", "low", "high", "lead", "lead_low", "lead_high"]
    summary = pd.DataFrame(lines, columns=columns)
    tuned = summary["mean"].where(summary["variant"] != "")
    largest = tuned.groupby([summary[key] for key in [*_KEYS, "contender"]]).transform("max")
    return summary.assign(best=(summary["variant"] == "") | (tuned == largest))


def _by_seed(values: pd.Series) -> list[np.ndarray]:
    return [of_seed.to_numpy() for _, of_seed in values.groupby("seed")]


def tabulate_attribution(results: pd.DataFrame, study: AttributionStudy, *, marks: bool = True) -> str:
    """Write the results of a study as text.

    Parameters
    ----------
    results : DataFrame
        What `run_attribution` returns.
    study : AttributionStudy
        The study.
    marks : bool, default=True
        Whether to mark the scores that influence is above or below. A study of one seed gets no marks: its interval
        says nothing about other samples and fits.

    Returns
    -------
    str
        A table for each model and data set, with the settings and versions that they were made with.
    """
    marks = marks and study.n_seeds >= _FEWEST_SEEDS
    summary = summarise_attribution(results)
    summary = summary[summary["best"]]
    lines = [*_legend(study, summary, marks=marks)]
    groups: Any = summary.groupby(["model", "data"], sort=False)
    for (model, data), of_model in groups:
        lines += ["", f"{data}, {model}", *_table(of_model, marks=marks)]
    return "\n".join(lines)


def _legend(study: AttributionStudy, summary: pd.DataFrame, *, marks: bool) -> Iterator[str]:
    yield "Mean and 95 % bootstrap interval over query rows and seeds. Larger is better."
    yield _MARKS if marks else "No marks: sizes too small to compare."
    for name in study.measures:
        yield f"{name}: {MEASURES[name]}"
    if (summary["variant"] != "").any():
        yield "best damping, best dimensions: tuned for each data set, model and measure by the measure itself"
    for name in study.models:
        spec = study.spec(name)
        settings = ", ".join(f"{key}={value}" for key, value in spec.settings.items())
        sizes = f"{spec.n_train} training rows, {study.n_query} query rows, {spec.n_subsets} subsets"
        yield f"{name}: {settings}; {sizes}; seeds 0 to {study.n_seeds - 1}"
    versions = {key: value for name in study.models for key, value in library_versions(study.spec(name)).items()}
    yield ", ".join(f"{name} {value}" for name, value in ({"python": platform.python_version()} | versions).items())


def _table(of_model: pd.DataFrame, *, marks: bool) -> Iterator[str]:
    """Yield the lines of a table: contenders down, measures across."""
    records: list[Any] = list(of_model.itertuples())
    measures = list(dict.fromkeys(record.measure for record in records))
    cells = {(_label(record), record.measure): _cell(record, marks=marks) for record in records}
    names = list(dict.fromkeys(name for name, _ in cells))
    width = max(map(len, names)) + 2
    yield " " * width + "".join(f"{measure:<18}" for measure in measures).rstrip()
    for name in names:
        yield f"{name:<{width}}" + "".join(f"{cells.get((name, measure), ''):<18}" for measure in measures).rstrip()


def _label(record: Any) -> str:
    return f"{record.contender}, best {record.variant.split()[0]}" if record.variant else record.contender


def _cell(record: Any, *, marks: bool) -> str:
    sign = "-" if record.lead_high < 0 else "+" if record.lead_low > 0 else " "
    mean, low, high = map(_short, (record.mean, record.low, record.high))
    return f"{mean} ({low} {high}) {sign if marks else ' '}"


def _short(value: float) -> str:
    """Write a number with two decimals, without the zero before the point and without a minus before zero."""
    return f"{round(value, 2) + 0.0:.2f}".replace("0.", ".", 1)
