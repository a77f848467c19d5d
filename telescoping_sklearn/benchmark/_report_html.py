"""The report: one HTML file that needs no network, made of a study's results.

Words, charts, tables and settings are plain values, made in `_words`, `_chart`, `_report_tables` and
`_report_settings`. The template alone writes markup, and escapes everything it is given.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from telescoping_sklearn.benchmark import _words
from telescoping_sklearn.benchmark._chart import MARKERS, Chart, legend, make_chart
from telescoping_sklearn.benchmark._report_settings import again, chosen_settings, settings
from telescoping_sklearn.benchmark._report_tables import Table, rank_table, set_tables, task_table
from telescoping_sklearn.benchmark._store import ResultStore
from telescoping_sklearn.benchmark._summary import ModelComparison, compare_models, relative_gaps
from telescoping_sklearn.displays import label_results, summarize_curves

_PANELS = {
    "mse": "Mean squared error",
    "kernel_norm_ratio": "Kernel norm ratio",
    "effective_params": "Effective parameters",
}
#: Title of the panels and label of the axis, by kind of test set.
_GROUPS = {
    "mixture": ("Mixtures of regular and irregular rows", "irregular rows"),
    "decile": ("By decile of irregularity", "decile, 10 the most irregular"),
    "shift": ("Along the shift", "share of the way along the column"),
}
#: From this many tables on, models are compared over means of seeds, as the tests assume.
_ENOUGH_DATA_SETS = 6
_HOW_TO_READ = (
    "Errors are in units of the training labels' variance: 1 is what predicting their mean would score. The relative "
    "gap is the difference between two models' errors on a test set, over the same difference on regular rows. The "
    "kernel norm ratio is the largest kernel norm on a test set, averaged over training stages, over the same on the "
    "training rows: above 1 it is larger on the test set. For boosted trees the ratio is at most 1 whatever the rows "
    "are. Effective parameters are those of a linear smoother with the same weights."
)


@dataclass
class Report:
    """Contents of a report."""

    results: pd.DataFrame  # labelled: names alone identify data sets, with the ways to divide them, and models
    tables: list[str]  # names of the data sets
    metadata: dict[str, Any]  # study, tables, versions and machine, as far as known
    gaps: dict[str, pd.DataFrame]  # `relative_gaps` of every model but the reference; empty without squared errors
    comparison: ModelComparison | None  # ranks on regular rows; None without two models to compare
    failures: pd.DataFrame  # tasks that failed
    file: str = ""  # name of the file of results, if there is one

    @property
    def reference(self) -> str:
        """The reference model of the gaps: that of the lowest mean rank on regular rows; empty without ranks."""
        return "" if self.comparison is None else str(self.comparison.ranks["model"].iloc[0])

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order of the results."""
        return list(dict.fromkeys(self.results["model"]))

    @property
    def data(self) -> list[str]:
        """Names of the data sets, each once for every way to divide it, in the order of the results."""
        return list(dict.fromkeys(self.results["data"]))

    def gaps_of(self, name: str, model: str, kind: str) -> pd.DataFrame:
        """Gaps of a model on the test sets of a kind of one data set."""
        gaps = self.gaps[model]
        return gaps[(gaps["data"] == name) & (gaps["set_kind"] == kind)]


def write_report(
    results: pd.DataFrame | ResultStore | str | Path,
    output: str | Path,
    *,
    metadata: Mapping[str, Any] | None = None,
    title: str = "Models on irregular rows",
) -> Path:
    """Write a study's results as a self-contained HTML file.

    It contains a summary in words, curves with error bands for every data set, sortable tables, settings and versions,
    and code to run the study again. It is readable without scripts, on a phone, in dark mode and by a screen
    reader. All names are escaped.

    Parameters
    ----------
    results : DataFrame, ResultStore, str or Path
        Results as `run_benchmark` returns them, or a file that it wrote. Relative gaps need the file, which has squared
        errors row by row.
    output : str or Path
        File to write; an existing file is overwritten.
    metadata : mapping or None, default=None
        The study, versions and machine, if ``results`` is a DataFrame; a results file has its own.
    title : str, default="Models on irregular rows"
        Heading of the page.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        If there are no results yet, or columns are missing.
    StoreError
        If the file is not a results file or is damaged.

    Examples
    --------
    >>> import tempfile
    >>> from telescoping_sklearn.benchmark import BenchmarkStudy, run_benchmark
    >>> study = BenchmarkStudy(
    ...     models={"ridge": "sklearn.linear_model.Ridge"}, n_seeds=1, max_train=200, test_size=50, proportions=(0, 1)
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = run_benchmark(study, Path(folder, "results.sqlite"))
    ...     page = write_report(Path(folder, "results.sqlite"), Path(folder, "report.html")).read_text()
    >>> page.startswith("<!doctype html>")
    True
    """
    report = _gather(results, metadata)
    page = render(report, title)
    output = Path(output)
    output.write_text(page, encoding="utf-8")
    return output


def _gather(source: Any, metadata: Mapping[str, Any] | None) -> Report:
    store = ResultStore(source) if isinstance(source, str | Path) else source
    table = store.results() if isinstance(store, ResultStore) else store
    missing = [name for name in ("data", "model", "seed", "score", "set_kind", "set_value", "mse") if name not in table]
    if missing:
        raise ValueError(f"results must have the columns {', '.join(missing)}, as run_benchmark gives them.")
    if table.empty:
        raise ValueError("results hold no finished task yet: there is nothing to report.")
    known = dict(metadata) if metadata is not None else store.metadata() if isinstance(store, ResultStore) else {}
    failures = store.failures() if isinstance(store, ResultStore) else pd.DataFrame()
    labelled = label_results(table)
    tables = list(dict.fromkeys(table["data"].astype(str)))
    comparison = _compare(labelled.assign(data=table["data"]))
    file = store.path.name if isinstance(store, ResultStore) else ""
    report = Report(labelled, tables, known, {}, comparison, failures, file)
    if isinstance(store, ResultStore) and report.reference:
        report.gaps = _gaps(table, labelled, store, report.reference)
    return report


def _compare(results: pd.DataFrame) -> ModelComparison | None:
    """Compare all models on regular or unshifted rows; None if no two models share any."""
    over = "data" if results["data"].nunique() >= _ENOUGH_DATA_SETS else "data and seed"
    for kind in ("mixture", "shift"):
        try:
            return compare_models(results, over=over, set_kind=kind)
        except ValueError:
            continue
    return None


def _gaps(table: pd.DataFrame, labelled: pd.DataFrame, store: ResultStore, reference: str) -> dict[str, pd.DataFrame]:
    """Compute the gaps of every other model, with the data sets' labels of the report."""
    labels = dict(zip(zip(table["data"], table["score"], strict=True), labelled["data"], strict=True))
    gaps = {}
    for model in dict.fromkeys(table["model"]):
        if model == reference:
            continue
        found = relative_gaps(table, store, model, reference)
        if len(found):
            found["data"] = [labels[key] for key in zip(found["data"], found["score"], strict=True)]
            gaps[model] = found
    return gaps


def render(report: Report, title: str) -> str:
    """Render a report as HTML."""
    loader = PackageLoader("telescoping_sklearn.benchmark")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    assets = {name: _text(environment, f"report.{name}") for name in ("css", "js")}
    n_seeds = report.results["seed"].nunique()
    page = environment.get_template("report.html").render(
        title=title,
        lede=_lede(report),
        style=Markup(assets["css"]),
        script=Markup(assets["js"]),
        style_hash=_hash(assets["css"]),
        script_hash=_hash(assets["js"]),
        markers=MARKERS,
        legend=legend(report.models),
        sections=[(name.lower().split()[0], name) for name in ("Summary", "Curves", "Numbers", "Settings")]
        + [("again", "Run it again")],
        summary=_summary(report),
        how_to_read=_HOW_TO_READ,
        about_bands=_about_bands(n_seeds),
        about_numbers=_about_numbers(n_seeds, bool(report.gaps), report.reference),
        data_sets=[_data_set(report, name) for name in report.data],
        tables=_tables(report),
        settings=settings(report.metadata),
        chosen=chosen_settings(report.results, report.models),
        again=again(report.metadata, *([report.file] if report.file else [])),
        failures=_failures(report.failures),
        unfinished=_unfinished(report),
        results=_as_json(report.results),
        version=version("telescoping_sklearn"),
    )
    return page


def _tables(report: Report) -> list[Table]:
    ranks = [] if report.comparison is None else [rank_table(report.comparison, report.models)]
    sets = set_tables(report.results, report.gaps, report.models)
    return [*sets, *ranks, task_table(report.results, report.models)]


def _text(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _hash(text: str) -> str:
    """Hash of a script or style for the page's content security policy, which allows nothing else."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _lede(report: Report) -> str:
    results = report.results
    counts = [(len(report.models), "model"), (len(report.tables), "data set"), (results["seed"].nunique(), "seed")]
    models, data, seeds = (_words.counted(count, noun) for count, noun in counts)
    n_ways = results["score"].nunique()
    ways = f", irregular in {n_ways} ways" if n_ways > 1 else ""
    begun = report.metadata.get("begun")
    when = f", run on {datetime.fromtimestamp(begun, UTC):%d %B %Y}" if isinstance(begun, int | float) else ""
    tuned = results["tuned"].astype(bool) if "tuned" in results else pd.Series([False])
    how = "tuned settings" if tuned.all() else "settings as given" if not tuned.any() else "tuned and given settings"
    return f"{models} on {data}{ways}, {seeds}, {how}{when}."


def _about_bands(n_seeds: int) -> str:
    if n_seeds > 1:
        return f"Means over {n_seeds} seeds; bands are one standard error over seeds on either side."
    return "One seed; bands are one standard error over test rows or probes on either side, where one is known."


def _about_numbers(n_seeds: int, with_gaps: bool, reference: str) -> str:
    said = f"Means over {_words.counted(n_seeds, 'seed')}, ± one standard error."
    if with_gaps:
        return (
            f"{said} Relative gaps are to {reference}, in brackets the 95% interval of a bootstrap of seeds and test "
            "rows; an undefined gap has the reason in its cell."
        )
    return f"{said} Relative gaps need squared errors by row, of two models or more, and are missing without them."


def _summary(report: Report) -> list[str]:
    sentences = []
    if report.comparison is not None:
        sentences.append(_words.say_comparison(report.comparison))
    several = "data sets" if len(report.data) == len(report.tables) else "pairs of data set and score"
    for model, kind in product(report.gaps, ("mixture", "shift")):
        parts = {name: part for name in report.data if len(part := report.gaps_of(name, model, kind))}
        if parts:
            trends = {name: _words.trend(part) for name, part in parts.items()}
            sentences.append(_words.say_trends(trends, model, report.reference, kind=kind, several=several))
    if not sentences:
        sentences.append("There are no two models with results on the same regular rows, so none are compared.")
    return sentences


def _data_set(report: Report, name: str) -> dict[str, Any]:
    results = report.results[report.results["data"] == name]
    groups = [
        {
            "title": _group_title(title, kind, results),
            "words": _say_of_sets(report, name, results, kind) if kind != "decile" else [],
            "charts": _charts(results, report.models, kind, x_label),
        }
        for kind, (title, x_label) in _GROUPS.items()
        if (results["set_kind"] == kind).any()
    ]
    return {"name": name, "facts": _facts(results), "groups": groups}


def _say_of_sets(report: Report, name: str, results: pd.DataFrame, kind: str) -> list[str]:
    """Describe gaps and kernel norm ratios along the test sets of a kind."""
    found = {model: report.gaps_of(name, model, kind) for model in report.gaps}
    words = [_words.say_gap(part, model, report.reference) for model, part in found.items() if len(part)]
    if "kernel_norm_ratio" in results:
        words.append(_words.say_kernels(summarize_curves(results, "kernel_norm_ratio", set_kind=kind), kind))
    return [said for said in words if said]


def _group_title(title: str, kind: str, results: pd.DataFrame) -> str:
    if kind != "shift":
        return title
    names = results.loc[results["set_kind"] == kind, "score"].unique()
    return f"{title} in {', '.join(str(name).removeprefix('shift:') for name in names)}"


def _charts(results: pd.DataFrame, models: list[str], kind: str, x_label: str) -> list[Chart]:
    charts = []
    for quantity, title in _PANELS.items():
        if quantity not in results:
            continue
        summary = summarize_curves(results, quantity, set_kind=kind)
        if len(summary) and np.isfinite(summary["mean"]).any():
            reference = 1.0 if quantity == "kernel_norm_ratio" else None
            charts.append(make_chart(summary, models, title=title, x_label=x_label, kind=kind, reference=reference))
    return charts


def _span(results: pd.DataFrame, column: str) -> str:
    low, high = int(results[column].min()), int(results[column].max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _facts(results: pd.DataFrame) -> str:
    facts = [_words.counted(results["seed"].nunique(), "seed")]
    if {"n_train", "n_test"} <= set(results):
        facts = [f"{_span(results, 'n_train')} training rows", *_sizes(results), *facts]
    scores = [str(score) for score in results["score"].unique() if not str(score).startswith("shift:")]
    facts += [f"irregular by {', '.join(scores)}"] if scores else []
    return "; ".join(facts) + "."


def _sizes(results: pd.DataFrame) -> list[str]:
    """Describe the sizes of the test sets of each kind."""
    names = {"mixture": "mixtures", "decile": "deciles", "shift": "sets along the shift"}
    groups: Any = results.groupby("set_kind", sort=False)
    return [f"{names[kind]} of {_span(part, 'n_test')}" for kind, part in groups if kind in names]


def _unfinished(report: Report) -> str:
    """Describe how many tasks are missing; empty if none are."""
    n_tasks, n_failed = report.metadata.get("n_tasks"), len(report.failures)
    n_open = n_tasks - n_failed - report.metadata["n_done"] if isinstance(n_tasks, int) else 0
    parts = [f"{n_open} are not run yet"] if n_open else []
    parts += [f"{n_failed} failed, and are listed under Settings"] if n_failed else []
    return f"Of {n_tasks} tasks {' and '.join(parts)}; they are missing here." if parts else ""


def _failures(failures: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {"what": f"{row.data}, {row.model}, seed {row.seed}, {row.score}", "traceback": str(row.traceback)}
        for row in failures.itertuples()
    ]


def _as_json(results: pd.DataFrame) -> dict[str, Any]:
    """Columns and rows as JSON types; missing and infinite values are null."""
    plain = results.astype(object).where(results.notna() & ~results.isin([np.inf, -np.inf]), None)
    return {"columns": list(results.columns), "rows": [[_plain(cell) for cell in row] for row in plain.to_numpy()]}


def _plain(cell: Any) -> Any:
    return cell.item() if isinstance(cell, np.generic) else cell
