"""Detect the kinds of a table's columns and convert them to numbers and categories.

Only the features are used, never the target, so that no label of a test row reaches a model.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api import types

#: Pattern of an ISO date; other text that pandas might parse as a date stays text.
_ISO_DATE = r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?"
#: Pattern of other dates, such as 31/12/2020, 31.12.20 or 2020/12/31, which are ambiguous and not parsed.
_OTHER_DATE = r"\d{1,4}([./ -])\d{1,2}\1\d{1,4}([ T]\d{1,2}:\d{2}(:\d{2})?)?"
#: Share of distinct values from which integers may be identifiers.
_NEARLY_ALL = 0.95
#: Categories with more levels than this get a remark.
_MANY_LEVELS = 50
#: Fewest rows from which a column of distinct values counts as an identifier.
_FEWEST_IDENTIFIED = 20


class ColumnProfile(NamedTuple):
    """Kinds of a table's columns, and remarks on them."""

    kinds: dict[str, str]  # "number", "date" (converted to days since the earliest) or "category", of the columns kept
    dropped: dict[str, str]  # why a column was dropped: "constant" or "identifier"
    missing: dict[str, float]  # share of missing values, of the columns kept that have any
    remarks: dict[str, str]  # columns to check: text that may be dates, numbers that may be identifiers, many levels


def handle_columns(X: pd.DataFrame) -> tuple[pd.DataFrame, ColumnProfile]:
    """Convert a raw table to numbers and categories with text as names, and drop uninformative columns.

    Dropped are constant columns (a single value, or nothing but missing ones) and identifiers: text whose values are
    all different, and whole numbers that are all different and leave no gap between the smallest and the largest, as
    a row counter does. Dates, and text of which every value is an ISO date, become days since the earliest; booleans
    become 0 and 1; other text becomes categories. Repeated names, and a table without informative columns, raise
    ValueError.

    Examples
    --------
    >>> X = pd.DataFrame({"when": ["2020-01-01", "2020-01-03"] * 10, "same": 1, "row": range(20)})
    >>> columns, profile = handle_columns(X)
    >>> columns["when"].tolist()[:2], profile.dropped
    ([0.0, 2.0], {'same': 'constant', 'row': 'identifier'})
    """
    names = [str(name) for name in X.columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"columns named more than once: {', '.join(repeated)}")
    kept, kinds, dropped, missing, remarks = {}, {}, {}, {}, {}
    for name, column in zip(names, (X.iloc[:, position] for position in range(X.shape[1])), strict=True):
        values, kind = _as_handled(column)
        useless, remark = _why_useless(values, kind), _remark(values, kind)
        if remark and (not useless or kind == "category"):
            remarks[name] = remark
        if useless:
            dropped[name] = useless
            continue
        kept[name], kinds[name] = values, kind
        if values.isna().any():
            missing[name] = float(values.isna().mean())
    if not kept:
        raise ValueError("no column is left: every one is constant or an identifier")
    return pd.DataFrame(kept, index=X.index), ColumnProfile(kinds, dropped, missing, remarks)


def _as_handled(column: pd.Series) -> tuple[pd.Series, str]:
    """Return a column as numbers or categories, and its kind."""
    if types.is_bool_dtype(column.dtype) and not isinstance(column.dtype, pd.CategoricalDtype):
        return column.astype("Float64").astype(float) if column.isna().any() else column.astype(np.int64), "number"
    if types.is_numeric_dtype(column.dtype):
        # Nullable and Arrow numbers become numpy's, whose NaN every model understands.
        plain = column if isinstance(column.dtype, np.dtype) else column.astype(float)
        return plain.replace([np.inf, -np.inf], np.nan) if plain.dtype.kind == "f" else plain, "number"
    if types.is_datetime64_any_dtype(column.dtype) or isinstance(column.dtype, pd.PeriodDtype):
        return _days(column.dt.to_timestamp() if isinstance(column.dtype, pd.PeriodDtype) else column), "date"
    if types.is_timedelta64_dtype(column.dtype):
        return column.dt.total_seconds() / 86_400, "number"
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.remove_unused_categories(), "category"
    text = column.astype(object).where(column.notna(), None)
    present = text.dropna().map(str)
    if len(present) and present.str.fullmatch(_ISO_DATE).all():
        dates = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
        if dates.notna().sum() == len(present):
            return _days(dates), "date"
    # Sorted, so that codes do not depend on the order of the rows.
    return pd.Series(pd.Categorical(present.reindex(text.index), categories=sorted(set(present))), text.index), (
        "category"
    )


def _days(dates: pd.Series) -> pd.Series:
    """Days since the earliest of `dates`, as floats."""
    elapsed: Any = dates - dates.min()
    return elapsed.dt.total_seconds() / 86_400


def _remark(values: pd.Series, kind: str) -> str:
    """Return a remark on a column; empty if there is none."""
    present = values.dropna()
    if len(present) < _FEWEST_IDENTIFIED:
        return ""
    n_distinct = present.nunique()
    if kind == "category":
        if pd.Series(present.cat.categories).astype(str).str.fullmatch(_OTHER_DATE).all():
            return "looks like dates and is taken as text: dates must be ISO, YYYY-MM-DD"
        return f"has {n_distinct} levels in {len(present)} rows" if _MANY_LEVELS < n_distinct < len(values) else ""
    whole = kind == "number" and bool((present == present.round()).all())
    return (
        "may be an identifier: nearly all its whole numbers differ"
        if whole and (n_distinct >= _NEARLY_ALL * len(present))
        else ""
    )


def _why_useless(values: pd.Series, kind: str) -> str:
    """Return why a column is uninformative; empty if it is not."""
    present = values.dropna()
    n_distinct = present.nunique()
    # Whether a value is missing may itself be informative.
    if n_distinct == 0 or (n_distinct == 1 and len(present) == len(values)):
        return "constant"
    if len(values) < _FEWEST_IDENTIFIED or n_distinct < len(values):
        return ""
    if kind == "category":
        return "identifier"
    whole = present.dtype.kind in "iu" or bool((present == present.round()).all())
    return "identifier" if kind == "number" and whole and present.max() - present.min() == len(values) - 1 else ""
