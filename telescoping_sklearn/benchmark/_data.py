"""Data sources of a study, and loaded tables."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from telescoping_sklearn import fetch_tabular, load_lucas_county
from telescoping_sklearn.benchmark._columns import ColumnProfile, handle_columns
from telescoping_sklearn.benchmark._describe import fingerprint
from telescoping_sklearn.datasets import (
    TABULAR_NAMES,
    fetch_openml_suite,
    fetch_openml_table,
    load_table,
    read_column_names,
    refuse_lost_columns,
    tabular_folder,
)

DATA_NAMES = ("lucas_county", *TABULAR_NAMES)
_SHARED_KEYS = {"drop", "log_target", "name"}
#: How a file is read; see `load_table`.
READING_KEYS = ("sep", "decimal", "encoding", "dates", "missing")
_FILE_KEYS = {"path", "target", *READING_KEYS, *_SHARED_KEYS}
_SOURCE_KEYS = {"source", *_SHARED_KEYS}

#: Fewest distinct targets from which a column that has the target's order tells it.
_FEWEST_LEVELS = 10


class Table(NamedTuple):
    """A loaded data set."""

    X: pd.DataFrame  # numbers and categories
    y: pd.Series  # finite floats
    profile: ColumnProfile
    notes: list[str]  # how rows and target were prepared
    fingerprint: str  # hash of X and y


@dataclass(frozen=True)
class DataSource:
    """A data set of a study, before it is loaded."""

    name: str
    read: Callable[[], tuple[Any, Any]] = field(repr=False, compare=False)  # returns raw features and target
    origin: dict[str, Any]  # settings of the source, as JSON types
    drop: tuple[str, ...] = ()
    log_target: bool = False

    def load(self, along: Iterable[str] = ()) -> Table:
        """Load the table and prepare its columns and target. Rows with a missing value in columns `along` are dropped.

        If that fails, ValueError or OSError is raised, with a message that does not name the data set.
        """
        X, y = self.read()
        X = X if isinstance(X, pd.DataFrame) else _as_frame(X)
        given = y.set_axis(X.index) if isinstance(y, pd.Series) else pd.Series(np.asarray(y).ravel(), X.index)
        lost = [name for name in self.drop if name not in X]
        if lost:
            raise ValueError(f"drop: there is no column {', '.join(map(repr, lost))}")
        found_out = [note for note in X.attrs.get("notes", []) if not _speaks_of(note, self.drop)]
        target, notes = _target(given, log=self.log_target)
        there = target.notna().to_numpy()
        X = X.drop(columns=list(self.drop))
        for name in along:
            there = there & _there(X, name, there, notes)
        X, profile = handle_columns(X.loc[there].reset_index(drop=True))
        for note in found_out:
            lost = [name for name in profile.dropped if _speaks_of(note, [name]) and "is text:" in note]
            if lost:
                raise ValueError(f"{note}. Its other cells are all different, so that it would be an identifier")
        notes = [*found_out, *notes, *(f"column {name!r} {remark}" for name, remark in profile.remarks.items())]
        target = target[there].reset_index(drop=True)
        leaks = list(_leaks(X, target))
        if leaks and "path" in self.origin:
            raise ValueError(f"{leaks[0]}. Leave it out with drop")
        notes += [*leaks, *_repeated_rows(X, target)]
        return Table(X, target, profile, notes, fingerprint(pd.concat([X, target.rename("(target)")], axis=1)))


def _there(X: pd.DataFrame, name: str, kept: NDArray, notes: list[str]) -> NDArray:
    """Rows with a value in a column, with a note on the others; all rows if there is no such column."""
    columns = [column for column in X.columns if str(column) == name]
    if len(columns) != 1:
        return np.ones(len(X), dtype=bool)
    there = X[columns[0]].replace([np.inf, -np.inf], np.nan).notna().to_numpy()
    n_lost = int((kept & ~there).sum())
    if not there.any() or not n_lost:
        return np.ones(len(X), dtype=bool)
    notes.append(
        f"{n_lost} {'row' if n_lost == 1 else 'rows'} without a value in {name!r}, the shift's column, left out"
    )
    return there


def _as_frame(X: Any) -> pd.DataFrame:
    array = np.asarray(X)
    if array.ndim != 2:
        raise ValueError(f"X has {array.ndim} dimensions; give a table")
    return pd.DataFrame(array, columns=[f"x{column}" for column in range(array.shape[1])]).infer_objects()


def _target(y: pd.Series, *, log: bool) -> tuple[pd.Series, list[str]]:
    """Return the target as floats, NaN where it is not finite, and notes on its preparation."""
    if not types.is_numeric_dtype(y.dtype):
        cells = y.dropna().astype(str)
        other = list(dict.fromkeys(cells[pd.to_numeric(cells, errors="coerce").isna()]))[:5]
        if not other:
            raise ValueError(f"the target {str(y.name)!r} holds {y.dtype}, not numbers")
        raise ValueError(
            f"the target {str(y.name)!r} is not numeric: it holds {', '.join(map(repr, other))}. If these stand for "
            "missing values, list them in the option missing; if they are classes, there is nothing to regress on"
        )
    values = y.astype(float).replace([np.inf, -np.inf], np.nan)
    notes = []
    if values.isna().any():
        n_lost = int(values.isna().sum())
        notes.append(f"{n_lost} {'row' if n_lost == 1 else 'rows'} without a finite target left out")
    if log and values.min() < 0:
        raise ValueError(f"log_target: the target {str(y.name)!r} has values below 0")
    if log:
        shifted = values.min() == 0
        notes.append("target is log(1 + y)" if shifted else "target is log(y)")
        values = values.transform(np.log1p if shifted else np.log)
    if values.nunique() < 2:
        raise ValueError(f"the target {str(y.name)!r} does not vary")
    return values, notes


def _speaks_of(note: str, columns: Iterable[str]) -> bool:
    return any(note.startswith(f"column {name!r} ") for name in columns)


def _leaks(X: pd.DataFrame, y: pd.Series) -> Iterator[str]:
    """Yield a note on every column that tells the target: it is the target or a monotone map of it, perhaps rounded."""
    if y.nunique() < _FEWEST_LEVELS:
        return
    for name, column in X.select_dtypes("number").items():
        levels = y.groupby(column).agg(["min", "max"])  # in the order of the column's values
        if column.isna().any() or len(levels) < _FEWEST_LEVELS:
            continue
        low, high = levels["min"].to_numpy(), levels["max"].to_numpy()
        if (high[:-1] <= low[1:]).all() or (low[:-1] >= high[1:]).all():
            what = "is the target" if np.array_equal(column, y) else "orders the rows as the target does, or in reverse"
            yield f"column {name!r} {what}: it tells the target"


def _repeated_rows(X: pd.DataFrame, y: pd.Series) -> list[str]:
    """Note rows that are there more than once: training and test rows may be the same."""
    n_repeated = int(X.assign(**{"(target)": y}).duplicated().sum())
    if not n_repeated:
        return []
    which = "row is a copy of another" if n_repeated == 1 else "rows are copies of others"
    return [f"{n_repeated} {which}: some test rows may be training rows too"]


def needs_folder(source: DataSource) -> bool:
    """Whether the source needs TELESCOPING_DATA and it is unset."""
    return source.origin.get("source") in TABULAR_NAMES and not tabular_folder()


def unset_folder(sources: Iterable[DataSource]) -> Iterator[str]:
    """List the data sets that need TELESCOPING_DATA while it is unset, in one line."""
    names = [source.name for source in sources if needs_folder(source)]
    if names:
        yield (
            f"data {', '.join(map(repr, names))}: set the environment variable TELESCOPING_DATA to the folder of these "
            "sets, or give those of OpenML as openml:NAME, which are fetched where there is a network"
        )


def read_sources(data: Any) -> Iterator[DataSource | str]:
    """Parse a study's `data`: yields data sources, and an error line for every mistake."""
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
            yield _as_line(error)


def _as_line(error: Exception) -> str:
    return f"data: {' '.join(str(error).split())}"


def _read_source(item: Any) -> Iterable[DataSource | str]:
    if isinstance(item, str):
        return _named(item)
    if isinstance(item, tuple) and len(item) == 3 and isinstance(item[0], str):
        return [_in_memory(*item)]
    if not isinstance(item, Mapping):
        raise ValueError(f"{item!r} is no data set; give a name, a table with `path` or `source`, or (name, X, y)")
    if "path" in item:
        return _file(item)
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
    close = get_close_matches(name, DATA_NAMES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"no data set {name!r}.{hint} There are {', '.join(DATA_NAMES)}, openml:ID, openml:NAME, suite:ID, and files "
        "given as {path = ..., target = ...}"
    )


def _in_memory(name: str, X: Any, y: Any) -> DataSource:
    if len(X) != len(y):
        raise ValueError(f"{name!r}: X has {len(X)} rows and y has {len(y)}")
    return DataSource(name, lambda: (X, y), {"source": "memory"})


def _option_mistakes(item: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    """Yield an error line for every invalid option that all sources share."""
    where = f"data: {item.get('name') or item.get('path') or item.get('source')!r}:"
    unknown = sorted(set(item) - known)
    if unknown:
        close = [match for name in unknown for match in get_close_matches(name, known, n=1)]
        hint = f" Did you mean {' and '.join(close)}?" if close else ""
        yield f"{where} no option {', '.join(unknown)}.{hint} There are {', '.join(sorted(known))}"
    drop = item.get("drop", [])
    if not _is_names(drop):
        yield f"{where} drop must be a list of column names, got {drop!r}"
    if not isinstance(item.get("log_target", False), bool):
        yield f"{where} log_target must be true or false, got {item['log_target']!r}"
    if not isinstance(item.get("name", "x"), str) or not item.get("name", "x"):
        yield f"{where} name must be text, got {item['name']!r}"


def _is_names(drop: Any) -> bool:
    return isinstance(drop, list | tuple) and all(isinstance(name, str) for name in drop)


def _file(item: Mapping[str, Any]) -> Iterator[DataSource | str]:
    """Check a file's options and header: yields the source, or an error line for every mistake."""
    mistakes = list(_option_mistakes(item, _FILE_KEYS))
    target, drop = item.get("target"), item.get("drop", [])
    if not isinstance(item["path"], str | Path):
        yield from [*mistakes, f"data: path must be that of a file, got {item['path']!r}"]
        return
    path, reading = Path(item["path"]).expanduser(), {key: item[key] for key in READING_KEYS if key in item}
    if not isinstance(target, str):
        mistakes.append(f"data: {str(path)!r}: target must name the column to predict, got {target!r}")
    try:
        wanted = [*([target] if isinstance(target, str) else []), *(drop if _is_names(drop) else [])]
        refuse_lost_columns(path, read_column_names(path, **reading), wanted)
    except (ValueError, OSError) as error:
        mistakes.append(_as_line(error))
    if mistakes:
        yield from mistakes
        return
    options: dict[str, Any] = {"drop": tuple(drop), "log_target": item.get("log_target", False)}
    name = item.get("name") or path.name.split(".")[0]
    origin = {"path": str(item["path"]), "target": target, **reading, **options, "drop": list(drop)}
    yield DataSource(name, lambda: load_table(path, target=str(target), **reading), origin, **options)


def _renamed(item: Mapping[str, Any]) -> Iterator[DataSource | str]:
    """Check the options of a named source: yields the sources, or an error line for every mistake."""
    mistakes = list(_option_mistakes(item, _SOURCE_KEYS))
    try:
        sources = _named(str(item["source"]))
        if "name" in item and len(sources) > 1:
            raise ValueError(f"{item['source']!r} is many data sets: no name can be given")
    except (ValueError, OSError) as error:
        mistakes.append(_as_line(error))
    if mistakes:
        yield from mistakes
        return
    options: dict[str, Any] = {"drop": tuple(item.get("drop", [])), "log_target": item.get("log_target", False)}
    for source in sources:
        origin = {**source.origin, **options, "drop": list(options["drop"])}
        yield DataSource(item.get("name", source.name), source.read, origin, **options)
