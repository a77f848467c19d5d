"""Results of a study as plain text."""

import textwrap
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd

from telescoping_sklearn.benchmark._models import ModelSpec
from telescoping_sklearn.benchmark._runner import plan_tasks
from telescoping_sklearn.benchmark._store import ResultStore
from telescoping_sklearn.benchmark._study import BenchmarkStudy
from telescoping_sklearn.benchmark._summary import relative_gaps
from telescoping_sklearn.benchmark._tasks import LIBRARIES
from telescoping_sklearn.benchmark._words import counted


def tabulate_results(results: pd.DataFrame, study: BenchmarkStudy, errors: Any) -> str:
    """Format a study's results as text.

    Parameters
    ----------
    results : DataFrame
        From `run_benchmark`.
    study : BenchmarkStudy
        The study.
    errors : ResultStore or mapping of (data, model, seed, score) to SquaredErrors
        Squared errors by row, as `relative_gaps` takes them.

    Returns
    -------
    str
        A table for each data set and score, means over seeds, and the settings and versions behind it. The relative gap
        is that of the first model to the second.
    """
    parts = results[results["set_kind"] != "decile"].groupby(["data", "score"], sort=False)
    tables = [_tabulate_part(str(data), str(score), part, study, errors) for (data, score), part in parts]
    return "\n\n".join([*tables, _legend(study)])


_P = ["effective_params", "effective_params_se"]


def _tabulate_part(data: str, score: str, part: pd.DataFrame, study: BenchmarkStudy, errors: Any) -> str:
    models = list(part["model"].unique())
    means = part.groupby(["model", "set_value"])[["mse", "kernel_norm_ratio", *_P]].mean()
    values = sorted(part["set_value"].unique())
    shifted = part["set_kind"].iloc[0] == "shift"
    shares = [f"{value:.0%}" if value or not shifted else "near" for value in values]
    columns = {"up to" if shifted else "irregular": shares}
    columns |= {f"MSE {model}": _column(means.loc[model, "mse"], values, ".3f") for model in models}
    reasons: dict[str, list[str]] = {}
    if len(models) > 1:
        gaps = relative_gaps(part, errors, *models[:2]).set_index(["set_kind", "set_value"])
        gaps = gaps.loc[part["set_kind"].iloc[0]].reindex(values)
        columns[f"gap {models[0]} - {models[1]}, relative"] = [
            "none (*)" if gap.reason else _interval(gap) for gap in gaps.itertuples()
        ]
        for value, reason in gaps["reason"].items():
            if reason:
                reasons.setdefault(reason, []).append(f"{value:.0%}")
    told = {model: means.loc[model] for model in models}
    for model in (model for model in models if told[model]["kernel_norm_ratio"].notna().any()):
        columns[f"kernel {model}"] = _column(told[model]["kernel_norm_ratio"], values, ".2f")
    for model in (model for model in models if told[model]["effective_params"].notna().any()):
        columns[f"p {model}"] = [_with_error(*told[model].reindex(values).loc[value, _P]) for value in values]
    lines = [_heading(data, score, part, study), "", _with_bars(columns), ""]
    of_models = [(model, part[(part["model"] == model) & (part["set_value"] == 0)]) for model in models]
    lines += [_training_line(*of_model, p_asked="effective_params" in study.metrics) for of_model in of_models]
    lines += [f"   (*) no relative gap at {', '.join(where)}: {reason}" for reason, where in reasons.items()]
    return "\n".join(lines)


def _with_bars(columns: dict[str, list[str]]) -> str:
    """Join columns of text with bars between them, since names of models may contain spaces."""
    widths = [max(map(len, [heading, *cells])) for heading, cells in columns.items()]
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    return "\n".join(" | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _column(means: pd.Series, values: list[float], how: str) -> list[str]:
    return [format(means.get(value, np.nan), how) for value in values]


def _with_error(p: float, error: float) -> str:
    return f"{p:.0f} +- {error:.0f}" if error > 0 else f"{p:.0f}"


def _interval(gap: Any) -> str:
    return f"{gap.relative_gap:.2f} ({gap.low:.2f} to {gap.high:.2f})"


def _heading(data: str, score: str, part: pd.DataFrame, study: BenchmarkStudy) -> str:
    n_train, n_test = part["n_train"].iloc[0], part["n_test"].max()
    cut = "" if n_test == study.test_size else f" ({study.test_size} asked for; that many are there)"
    return f"{data}, {score}: {n_train} training rows, test sets of {n_test}{cut}"


def _training_line(model: str, of_model: pd.DataFrame, *, p_asked: bool) -> str:
    mean = of_model.mean(numeric_only=True)
    said = [f"fitted in {mean['fit_seconds']:.1f} s"]
    if pd.notna(mean["n_stages"]):
        said.insert(0, f"{mean['n_stages']:.0f} stages")
    if pd.notna(mean["effective_params_train"]):
        said.insert(
            0, f"p on training rows {mean['effective_params_train']:.0f} +- {mean['effective_params_train_se']:.0f}"
        )
    unstable = of_model["n_stages"].notna() & of_model["effective_params_train"].isna()
    if p_asked and unstable.any():
        seeds = ", ".join(map(str, of_model.loc[unstable, "seed"]))
        said.append(f"no p for seed {seeds}: the response is unstable there (last_sound_stage_)")
    if pd.notna(mean["explain_seconds"]):
        said.append(f"explained in {mean['explain_seconds']:.1f} s")
    return f"{model:>6}: {', '.join(said)}"


def _legend(study: BenchmarkStudy) -> str:
    seeds = f"seeds 0..{study.n_seeds - 1}" if study.n_seeds > 1 else "seed 0"
    names = [spec.name for spec in study.specs]
    gap = ""
    if len(names) > 1:
        gap = (
            f"relative gap = (MSE {names[0]} - MSE {names[1]}) over the same at 0 %, with the 95 % interval of a "
            "bootstrap of seeds and test rows; "
        )
    tuned = "untuned" if study.tuner is None else f"tuned by {study.tuner.draws} draws"
    sentences = [
        f"MSE in units of the training labels' variance; {gap}"
        "kernel = largest kernel norm on the test rows, averaged over stages, over the same on the training rows; "
        "p = effective parameters, with their standard error.",
        f"Means over {seeds}; {tuned}; {study.n_probes} probes; a net's section: {study.section}, its "
        f"kernels at {study.kernel_stages} stages.",
        *(_settings(spec, tuned=study.tuner is not None) for spec in study.specs),
        "Versions: " + ", ".join(f"{name} {version(name)}" for name in LIBRARIES) + ".",
    ]
    return "\n".join(textwrap.fill(sentence, width=100) for sentence in sentences)


def _settings(spec: ModelSpec, *, tuned: bool) -> str:
    """List the parameters of an estimator that differ from their defaults, and those that are tuned."""
    defaults = type(spec.estimator)().get_params() if not hasattr(spec.estimator, "steps") else {}
    params = spec.estimator.get_params(deep=False)
    told = ", ".join(
        f"{name}={value}"
        for name, value in params.items()
        if not (tuned and name in spec.space)
        and (name not in defaults or (defaults[name] is not value and defaults[name] != value))
    )
    chosen = f"; tuned: {', '.join(spec.space)}" if tuned and spec.space else ""
    return f"{spec.name}: {type(spec.estimator).__name__} with {told or 'its defaults'}{chosen}."


def describe_plan(study: BenchmarkStudy, tables: dict[str, Any], file: Any = None) -> str:
    """Describe the plan of a study and its size.

    Parameters
    ----------
    study : BenchmarkStudy
        The study.
    tables : dict of str to Table
        Its data sets, from `BenchmarkStudy.load_tables`.
    file : Path or None, default=None
        Results file of the study.

    Returns
    -------
    str
        Data sets and their columns, models, test sets, and the numbers of tasks and fits.
    """
    lines = ["data:"]
    for name, table in tables.items():
        lines.append(f"  {name}: {counted(len(table.X), 'row')}, {counted(len(table.profile.kinds), 'column')}")
        lines += [f"    {what}" for what in _name_kinds(table.profile.kinds)]
        lines += [f"    column {column!r} left out: {why}" for column, why in table.profile.dropped.items()]
        lines += [f"    column {column!r}: {share:.1%} missing" for column, share in table.profile.missing.items()]
        lines += [f"    {note}" for note in table.notes]
    lines.append("models:")
    for spec in study.specs:
        tuned = study.tuner is not None and spec.space
        how = f"tuned over {', '.join(spec.space)}" if tuned else "not tuned"
        lines.append(f"  {spec.name}: {type(spec.estimator).__name__}, {spec.preparation} columns, {how}")
    lines.append("test sets:")
    shares = ", ".join(f"{share:.0%}" for share in study.proportions)
    for division in study.divisions:
        shifted = division.name.startswith("shift:")
        lines.append(f"  {division.name}" + ("" if shifted else f": {shares} irregular, and deciles"))
    planned = plan_tasks(study, tables)
    draws = study.tuner.draws if study.tuner is not None else 0
    fits = sum(1 + draws * bool(item.spec.space) for item in planned)
    lines.append(
        f"{counted(len(planned), 'task')} ({counted(len(tables), 'data set')} x "
        f"{counted(len(study.divisions), 'way')} to draw test sets x {counted(study.n_seeds, 'seed')} x "
        f"{counted(len(study.specs), 'model')}), {counted(fits, 'fit')}"
    )
    if file is not None and file.exists():
        done = ResultStore(file).done()
        lines.append(f"{sum(item.key in done for item in planned)} of them are done already in {file}")
    return "\n".join(lines)


def _name_kinds(kinds: dict[str, str]) -> Iterator[str]:
    """Yield a line for every kind of column, with the column names."""
    words = {"number": "numeric", "date": "dates", "category": "categorical"}
    for kind, word in words.items():
        names = [name for name, found in kinds.items() if found == kind]
        if names:
            yield textwrap.fill(f"{word} ({len(names)}): {', '.join(names)}", width=100, subsequent_indent=" " * 6)


def set_side_by_side(first: pd.DataFrame, second: pd.DataFrame, metric: str = "mse") -> str:
    """Compare two results tables: means over the seeds that both have.

    Parameters
    ----------
    first, second : DataFrame
        From `ResultStore.results`.
    metric : str, default="mse"
        Column to compare.

    Returns
    -------
    str
        A table with a row for every data set, model, score and test set in both, and counts of tasks in one only.

    Raises
    ------
    ValueError
        If there is no such column of numbers.
    """
    numbers = [str(name) for name in first.select_dtypes("number") if name not in ("seed", "set_value")]
    if metric not in numbers:
        raise ValueError(f"metric must be one of {', '.join(numbers)}, got {metric!r}")
    block = ["data", "model", "score", "set_kind", "set_value"]
    both = first.merge(second, on=[*block, "seed"], how="outer", suffixes=("_first", "_second"), indicator=True)
    shared = both[both["_merge"] == "both"]
    means = shared.groupby(block, sort=False)[[f"{metric}_first", f"{metric}_second"]].mean()
    means.columns = [f"{metric} first", f"{metric} second"]
    means["difference"] = means.iloc[:, 1] - means.iloc[:, 0]
    means["seeds"] = shared.groupby(block, sort=False)["seed"].nunique()
    told = means.reset_index().to_string(index=False, float_format="{:.4g}".format)
    lines = [told if len(means) else "nothing in common: no data set, model, score, seed and test set is in both files"]
    for side, name in (("left_only", "first"), ("right_only", "second")):
        alone = len(both[both["_merge"] == side][["data", "model", "score", "seed"]].drop_duplicates())
        if alone:
            lines.append(f"{counted(alone, 'task')} {'is' if alone == 1 else 'are'} in the {name} file only")
    return "\n".join(lines)


def list_versions(first: dict[str, Any], second: dict[str, Any]) -> str:
    """List the versions and settings in which two studies differ.

    Parameters
    ----------
    first, second : dict
        From `ResultStore.metadata`.

    Returns
    -------
    str
        A line for every difference; of data sets and models that only one has, the names.
    """
    lines = [f"version of {name}: {one} | {other}" for name, one, other in _differing(first, second, "versions")]
    for name, one, other in _differing(first, second, "study"):
        if name == "models":
            lines += _model_differences(one or {}, other or {})
        elif name == "data":
            lines += _named_differences(
                "data set", *({item["name"]: item for item in data or []} for data in (one, other))
            )
        else:
            lines.append(f"{name}: {_brief(one)} | {_brief(other)}")
    return "\n".join(lines) or "versions and settings are the same"


def _differing(first: dict[str, Any], second: dict[str, Any], part: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the entries that differ between a part of two descriptions, with both values."""
    of_first, of_second = first.get(part) or {}, second.get(part) or {}
    for name in sorted(set(of_first) | set(of_second)):
        one, other = of_first.get(name), of_second.get(name)
        if one != other:
            yield name, one, other


def _named_differences(what: str, first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """Yield the names that only one side has, and the differences of those that both have."""
    for name in [*first, *(name for name in second if name not in first)]:
        if name not in first or name not in second:
            yield f"{what} {name} is in the {'first' if name in first else 'second'} file only"
            continue
        for key in [*first[name], *(key for key in second[name] if key not in first[name])]:
            one, other = first[name].get(key), second[name].get(key)
            if one != other:
                yield f"{what} {name}: {key} {_brief(one)} | {_brief(other)}"


def _model_differences(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """Yield the differences between the models of two studies: parameters one by one, estimators by name."""
    flat = [
        {
            name: {"estimator": model["estimator"]["estimator"].rpartition(".")[2], **model["estimator"]["params"]}
            | {key: value for key, value in model.items() if key not in ("estimator", "settings")}
            for name, model in models.items()
        }
        for models in (first, second)
    ]
    for name in set(first) & set(second):
        if flat[0][name]["estimator"] != flat[1][name]["estimator"]:  # their parameters are no two of a kind
            for side in flat:
                side[name] = {"estimator": side[name]["estimator"]}
    yield from _named_differences("model", *flat)


def _brief(value: Any) -> str:
    return "none" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
