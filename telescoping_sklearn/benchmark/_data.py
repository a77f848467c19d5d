"""Where a study's tables come from, and what a table is once it is loaded."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api import types

from telescoping_sklearn import fetch_tabular, load_lucas_county
from telescoping_sklearn.benchmark._columns import ColumnProfile, handle_columns
from telescoping_sklearn.benchmark._describe import fingerprint
from telescoping_sklearn.datasets import TABULAR_NAMES, fetch_openml_suite, fetch_openml_table, load_table

DATA_NAMES = ("lucas_county", *TABULAR_NAMES)
_FILE_KEYS = {"path", "target", "drop", "log_target", "name"}
_SOURCE_KEYS = {"source", "drop", "log_target", "name"}


class Table(NamedTuple):
    """A data set, ready for any model's preparation.

    Attributes
    ----------
    X : DataFrame of shape (n_samples, n_features)
        Numbers and categories.
    y : Series of shape (n_samples,)
        The target, finite floats.
    profile : ColumnProfile
        What became of the columns.
    notes : list of str
        What was done to the rows and to the target.
    fingerprint : str
        Hash of X and y.
    """

    X: pd.DataFrame
    y: pd.Series
    profile: ColumnProfile
    notes: list[str]
    fingerprint: str


@dataclass(frozen=True)
class DataSource:
    """A data set of a study, before it is loaded.

    Attributes
    ----------
    name : str
        What it is called in the results.
    read : callable
        Returns features and target as they come.
    origin : dict
        What the study says of it, as JSON types.
    drop : tuple of str
        Columns to leave out.
    log_target : bool
        Whether the logarithm of the target is what is predicted.
    """

    name: str
    read: Callable[[], tuple[Any, Any]] = field(repr=False, compare=False)
    origin: dict[str, Any]
    drop: tuple[str, ...] = ()
    log_target: bool = False

    def load(self) -> Table:
        """Load the table and handle its columns and its target.

        Raises
        ------
        ValueError or OSError
            If that cannot be done, in words that do not name the data set.
        """
        X, y = self.read()
        X = X if isinstance(X, pd.DataFrame) else _as_frame(X)
        given = y.set_axis(X.index) if isinstance(y, pd.Series) else pd.Series(np.asarray(y).ravel(), X.index)
        lost = [name for name in self.drop if name not in X]
        if lost:
            raise ValueError(f"drop: there is no column {', '.join(map(repr, lost))}")
        target, notes = _target(given, log=self.log_target)
        there = target.notna().to_numpy()
        X, profile = handle_columns(X.drop(columns=list(self.drop)).loc[there].reset_index(drop=True))
        target = target[there].reset_index(drop=True)
        return Table(X, target, profile, notes, fingerprint(pd.concat([X, target.rename("(target)")], axis=1)))


def _as_frame(X: Any) -> pd.DataFrame:
    array = np.asarray(X)
    if array.ndim != 2:
        raise ValueError(f"X has {array.ndim} dimensions; give a table")
    return pd.DataFrame(array, columns=[f"x{column}" for column in range(array.shape[1])]).infer_objects()


def _target(y: pd.Series, *, log: bool) -> tuple[pd.Series, list[str]]:
    """Return the target as floats, missing where it cannot be used, and what was done to it."""
    if not types.is_numeric_dtype(y.dtype):
        raise ValueError(f"the target {str(y.name)!r} holds {y.dtype}, not numbers")
    values = y.astype(float).replace([np.inf, -np.inf], np.nan)
    notes = []
    if values.isna().any():
        notes.append(f"{int(values.isna().sum())} rows without a finite target left out")
    if log and values.min() < 0:
        raise ValueError(f"log_target: the target {str(y.name)!r} has values below 0")
    if log:
        shifted = values.min() == 0
        notes.append("target is log(1 + y)" if shifted else "target is log(y)")
        values = values.transform(np.log1p if shifted else np.log)
    if values.nunique() < 2:
        raise ValueError(f"the target {str(y.name)!r} does not vary")
    return values, notes


def read_sources(data: Any) -> Iterator[DataSource | str]:
    """Read a study's `data`: yields data sets, and a line for every mistake."""
    if isinstance(data, str | Mapping):
        data = (data,)
    try:
        items = list(data)
    except TypeError:
        yield f"data must be names, tables or (name, X, y), got {data!r}"
        return
    if not items:
        yield "data must name at least one data set"
    for item in items:
        try:
            yield from _read_source(item)
        except (ValueError, OSError) as error:
            yield f"data: {' '.join(str(error).split())}"


def _read_source(item: Any) -> list[DataSource]:
    if isinstance(item, str):
        return _named(item)
    if isinstance(item, tuple) and len(item) == 3 and isinstance(item[0], str):
        return [_in_memory(*item)]
    if not isinstance(item, Mapping):
        raise ValueError(f"{item!r} is no data set; give a name, a table with `path` or `source`, or (name, X, y)")
    if "path" in item:
        return [_file(item)]
    if "source" in item:
        return _renamed(item)
    raise ValueError(f"{dict(item)} has neither `path` (one's own file) nor `source` (a name)")


def _named(name: str) -> list[DataSource]:
    origin = {"source": name}
    if name == "lucas_county":
        return [DataSource(name, lambda: load_lucas_county(return_X_y=True), origin)]
    if name in TABULAR_NAMES:
        return [DataSource(name, lambda: fetch_tabular(name, return_X_y=True), origin)]
    kind, _, which = name.partition(":")
    if kind == "openml" and which:
        found: int | str = int(which) if which.isdigit() else which
        return [DataSource(name, lambda: fetch_openml_table(found), origin)]
    if kind == "suite" and which.isdigit():
        return [source for number in fetch_openml_suite(int(which)) for source in _named(f"openml:{number}")]
    raise ValueError(
        f"no data set {name!r}; there are {', '.join(DATA_NAMES)}, openml:ID, openml:NAME, suite:ID, and files "
        "given as {path = ..., target = ...}"
    )


def _in_memory(name: str, X: Any, y: Any) -> DataSource:
    if len(X) != len(y):
        raise ValueError(f"{name!r}: X has {len(X)} rows and y has {len(y)}")
    return DataSource(name, lambda: (X, y), {"source": "memory"})


def _options(item: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    """Check a table of options; returns those that sources share."""
    where = item.get("name") or item.get("path") or item.get("source")
    unknown = sorted(set(item) - known)
    if unknown:
        raise ValueError(f"{where!r}: no option {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    drop = item.get("drop", [])
    if isinstance(drop, str) or not all(isinstance(name, str) for name in drop):
        raise ValueError(f"{where!r}: drop must be a list of column names, got {drop!r}")
    if not isinstance(item.get("log_target", False), bool):
        raise ValueError(f"{where!r}: log_target must be true or false, got {item['log_target']!r}")
    if not isinstance(item.get("name", "x"), str) or not item.get("name", "x"):
        raise ValueError(f"{where!r}: name must be text, got {item['name']!r}")
    return {"drop": tuple(drop), "log_target": item.get("log_target", False)}


def _file(item: Mapping[str, Any]) -> DataSource:
    options = _options(item, _FILE_KEYS)
    path, target = Path(item["path"]).expanduser(), item.get("target")
    if not isinstance(target, str):
        raise ValueError(f"{str(path)!r}: target must name the column to predict, got {target!r}")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    name = item.get("name") or path.name.split(".")[0]
    origin = {"path": str(item["path"]), "target": target, **options, "drop": list(options["drop"])}
    return DataSource(name, lambda: load_table(path, target=target), origin, **options)


def _renamed(item: Mapping[str, Any]) -> list[DataSource]:
    options = _options(item, _SOURCE_KEYS)
    sources = _named(str(item["source"]))
    if "name" in item and len(sources) > 1:
        raise ValueError(f"{item['source']!r} is many data sets: no name can be given")
    return [
        DataSource(
            item.get("name", source.name),
            source.read,
            {**source.origin, **options, "drop": list(options["drop"])},
            **options,
        )
        for source in sources
    ]
