"""Settings of a report and code that reproduces its study, as plain values for the template."""

import json
import math
import pprint
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from typing import Any, NamedTuple

import pandas as pd
from sklearn.base import BaseEstimator

from telescoping_sklearn.benchmark._describe import describe
from telescoping_sklearn.benchmark._models import ModelSpec, read_models
from telescoping_sklearn.benchmark._report_tables import Cell, Column, Table
from telescoping_sklearn.benchmark._study import BenchmarkStudy
from telescoping_sklearn.benchmark._tuning import PAPER_SPACES, read_space

#: Longer values are collapsed.
_SHORT = 110


class Entry(NamedTuple):
    """A setting."""

    name: str
    value: str
    long: str = ""  # summary shown while the value is collapsed; empty for a short value


def settings(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List title and entries of each known part of a store's metadata: study, tables, versions and machine."""
    groups = []
    for key in ("study", "tables", "versions", "machine"):
        known = metadata.get(key)
        if key == "study" and isinstance(known, Mapping):
            known = _without_tuned(known)
        if isinstance(known, Mapping) and known:
            entries = [entry for name, value in known.items() for entry in _entries(str(name), value)]
            groups.append({"title": key.capitalize(), "entries": entries})
    return groups


def _without_tuned(study: Mapping[str, Any]) -> dict[str, Any]:
    """Replace parameter values of a study's models that are tuned by a note."""
    models = study.get("models")
    if not study.get("tuning") or not isinstance(models, Mapping):
        return dict(study)
    return {**study, "models": {name: _model_without_tuned(model) for name, model in models.items()}}


def _model_without_tuned(model: Any) -> Any:
    if not isinstance(model, Mapping) or not model.get("space") or not isinstance(model.get("estimator"), Mapping):
        return model
    estimator = model["estimator"]
    params = {name: value for name, value in estimator.get("params", {}).items() if name not in model["space"]}
    return {**model, "estimator": {**estimator, "params": params}, "tuned": list(model["space"])}


def _entries(name: str, value: Any) -> list[Entry]:
    """Format a setting; a mapping of mappings, such as the models, has an entry for each."""
    if isinstance(value, Mapping) and value and all(isinstance(part, Mapping) for part in value.values()):
        return [_entry(f"{name}: {part_name}", part) for part_name, part in value.items()]
    return [_entry(name, value)]


def _entry(name: str, value: Any) -> Entry:
    text = _as_text(value)
    if len(text) <= _SHORT:
        return Entry(name, text)
    indented = json.dumps(value, indent=2, ensure_ascii=False, default=str) if not isinstance(value, str) else value
    return Entry(name, indented, _hint(value))


def _as_text(value: Any) -> str:
    """Format a value: lists with commas, the rest as JSON."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and not any(isinstance(part, Mapping | list) for part in value):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False, default=str)


def _hint(value: Any) -> str:
    """Summarise a long setting."""
    if isinstance(value, Mapping):
        estimator = value.get("estimator")
        if isinstance(estimator, Mapping) and "estimator" in estimator:
            return str(estimator["estimator"]).rpartition(".")[2]
        if isinstance(value.get("n_rows"), int) and isinstance(value.get("columns"), Mapping):
            return f"{value['n_rows']:,} rows, {len(value['columns'])} columns"
        return _entries_counted(len(value))
    if isinstance(value, list):
        named = [str(part["name"]) for part in value if isinstance(part, Mapping) and "name" in part]
        return ", ".join(named) if len(named) == len(value) else _entries_counted(len(value))
    return "text"


def _entries_counted(count: int) -> str:
    return "1 entry" if count == 1 else f"{count} entries"


def chosen_settings(results: pd.DataFrame, models: Sequence[str]) -> Table:
    """Make the table of the settings given and chosen for each data set and model; one row where all seeds share them.

    Fits without settings are left out.
    """
    rows = []
    said = results[~results["settings"].isin(["", "{}"])] if "settings" in results else results.iloc[:0]
    groups: Any = said.groupby(["data", "model"], sort=False)
    for (data, model), part in groups:
        by_text: Any = part.groupby("settings", sort=False)["seed"].unique()
        for text, seeds in by_text.items():
            numbers = ", ".join(map(str, sorted(seeds)))
            cells = [Cell(data, data), Cell(model, model, style=models.index(model)), Cell(numbers, numbers)]
            rows.append([*cells, Cell(written := _assignments(text), written)])
    columns = [Column(label, numeric=False) for label in ("Data set", "Model", "Seeds", "Settings")]
    return Table("Settings of each fit", "Settings given by the study, and those that tuning chose.", columns, rows)


def _assignments(text: Any) -> str:
    """Format settings as ``name=value``; text that is no JSON object is returned unchanged."""
    try:
        known = json.loads(text)
    except (TypeError, ValueError):
        return str(text)
    if not isinstance(known, Mapping):
        return str(text)
    return ", ".join(f"{name}={_rounded(value)}" for name, value in known.items())


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


# -- running it again --------------------------------------------------------------------------------------------------


def again(metadata: Mapping[str, Any], file: str = "results.sqlite") -> list[dict[str, str]]:
    """Return words and code of each step that runs the study of a store's metadata again."""
    study = metadata.get("study")
    from_file = {"words": _FROM_FILE, "code": f"{_COMMAND} --output {shlex.quote(file)}"}
    if not isinstance(study, Mapping) or not {"data", "models"} <= set(study):
        return [from_file]
    parameters, unknown = study_parameters(study)
    words = _FROM_PYTHON
    if unknown:
        words += f" The parts marked ... must be filled in from the program that made the study: {', '.join(unknown)}."
    return [{"words": words, "code": _code(parameters, file)}, from_file]


def _code(parameters: Mapping[str, Any], file: str) -> str:
    page = file.removesuffix(".sqlite") + ".html"
    return _CODE.format(parameters=_as_call(parameters), file=repr(file), page=repr(page))


def _as_call(parameters: Mapping[str, Any]) -> str:
    """Format parameters as the lines of a call."""
    lines = []
    for name, value in parameters.items():
        written = pprint.pformat(value, sort_dicts=False, width=88).replace(repr(_UNKNOWN), "...")
        first, *others = f"{name}={written},".splitlines()
        # pprint's continuation lines stand below the value's first character.
        lines += [first, *(" " * len(f"{name}=") + other for other in others)]
    return "\n".join(f"    {line}" for line in lines)


def study_parameters(study: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Recover the parameters of `BenchmarkStudy` from its description.

    The second item lists the parts that a description does not contain: tables in memory and estimators made of others.
    """
    unknown: list[str] = []
    data = [_data_parameter(source, unknown) for source in study["data"]]
    models = {name: _model_parameter(name, model, study, unknown) for name, model in study["models"].items()}
    given = {item.name: study[item.name] for item in fields(BenchmarkStudy) if item.init and item.name in study}
    return given | {"data": data, "models": models}, unknown


def _data_parameter(source: Mapping[str, Any], unknown: list[str]) -> Any:
    if source.get("source") == source["name"] and set(source) == {"name", "source"}:
        return source["name"]
    if "path" in source or source.get("source", _IN_MEMORY) != _IN_MEMORY:
        return dict(source)
    unknown.append(f"table {source['name']}")
    return (source["name"], _UNKNOWN, _UNKNOWN)


def _model_parameter(name: str, model: Mapping[str, Any], study: Mapping[str, Any], unknown: list[str]) -> Any:
    by_name = _made_by_name(name, model, study)
    if by_name is not None and by_name.describe()["space"] == model["space"]:
        return {"settings": model["settings"], "preparation": model["preparation"]}
    path, params = _as_given(model["estimator"]["estimator"], model["estimator"]["params"])
    if any(isinstance(value, Mapping) for value in params.values()):
        unknown.append(f"estimator of {name}")
        return {"estimator": _UNKNOWN, "preparation": model["preparation"]}
    found: dict[str, Any] = (
        {"settings": model["settings"]} if by_name is not None else {"estimator": path, "settings": params}
    )
    found["preparation"] = model["preparation"]
    if study.get("tuning") is not None:
        found["space"] = {parameter: _choice(drawn) for parameter, drawn in model["space"].items()}
        unknown += [f"search space of {name}, {one}" for one, drawn in found["space"].items() if drawn == _UNKNOWN]
    return found


def _as_given(path: str, params: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Public path of an estimator and its non-default parameters; both unchanged if it cannot be imported."""
    module, _, name = path.rpartition(".")
    # A file of results must not choose what is imported; LightGBM is our own dependency.
    if module.partition(".")[0] not in {"lightgbm", *sys.modules}:
        return path, dict(params)
    try:
        klass = getattr(import_module(module), name)
        if not issubclass(klass, BaseEstimator):
            return path, dict(params)
        defaults = describe(klass().get_params(deep=False))
    except (ImportError, AttributeError, TypeError, ValueError):
        return path, dict(params)
    changed = {key: value for key, value in params.items() if key not in defaults or defaults[key] != value}
    parents = module.split(".")
    public = next((depth for depth, part in enumerate(parents) if part.startswith("_")), len(parents))
    for depth in range(public, 0, -1):
        above = ".".join(parents[:depth])
        if getattr(import_module(above), name, None) is klass:
            return f"{above}.{name}", changed
    return path, changed


def _made_by_name(name: str, model: Mapping[str, Any], study: Mapping[str, Any]) -> ModelSpec | None:
    """Rebuild one of our own models from its settings, if that gives the estimator that was run."""
    if name not in PAPER_SPACES:
        return None
    made = next(read_models({name: {"settings": model["settings"]}}, study["section"]))
    return made if isinstance(made, ModelSpec) and made.describe()["estimator"] == model["estimator"] else None


def _choice(described: Any) -> Any:
    """Convert a described distribution to the form of a study, if that reproduces it exactly."""
    written = described
    if isinstance(described, Mapping):
        numbers = [*described.get("args", ()), *described.get("kwds", {}).values()]
        ends = _ENDS.get(str(described.get("distribution")))
        if ends is None or len(numbers) != 2:
            return _UNKNOWN
        written = {ends.name: list(ends.of(*numbers))}
    return written if describe(read_space({"drawn": written}))["drawn"] == described else _UNKNOWN


class _Ends(NamedTuple):
    """Name of a distribution in a study, and its two numbers, from scipy's distribution."""

    name: str
    of: Callable[[Any, Any], tuple[Any, Any]]


_ENDS = {
    "loguniform": _Ends("loguniform", lambda low, high: (low, high)),
    "uniform": _Ends("uniform", lambda low, width: (low, low + width)),
    "randint": _Ends("randint", lambda low, beyond: (low, beyond - 1)),
    "lognorm": _Ends("lognormal", lambda sigma, scale: (math.log(scale), sigma)),
}
#: Source in the description of a table given in Python.
_IN_MEMORY = "memory"
_UNKNOWN = "\N{HORIZONTAL ELLIPSIS}"
_FROM_PYTHON = (
    "Finished tasks in the results file are not run again; without the file, all tasks run. With the versions listed "
    "above, in Python:"
)
_FROM_FILE = "From the command line, with the study as a TOML file:"
_CODE = """\
from telescoping_sklearn.benchmark import BenchmarkStudy, run_benchmark, write_report

study = BenchmarkStudy(
{parameters}
)
run_benchmark(study, {file})
write_report({file}, {page})"""
_COMMAND = "python -m telescoping_sklearn benchmark study.toml"
