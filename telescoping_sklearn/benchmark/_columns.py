"""What the columns of a table are, and the form that every model's preparation takes: numbers and categories.

Only the features are looked at, never the target, so that nothing of the test rows' labels reaches a model.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.api import types

#: How an ISO date looks; anything else that pandas might guess to be a date stays text.
_ISO_DATE = r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?"
#: How other dates look, such as 31/12/2020, 31.12.20 or 2020/12/31; what they mean is not guessed.
_OTHER_DATE = r"\d{1,4}([./ -])\d{1,2}\1\d{1,4}([ T]\d{1,2}:\d{2}(:\d{2})?)?"
#: Share of different values from which whole numbers may name the rows.
_NEARLY_ALL = 0.95
#: Categories with more levels are remarked upon.
_MANY_LEVELS = 50
#: Below this many rows a column of distinct values says nothing about what it is.
_FEWEST_IDENTIFIED = 20


class ColumnProfile(NamedTuple):
    """What was found in a table's columns.

    Attributes
    ----------
    kinds : dict of str to {"number", "date", "category"}
        Every column that is kept. A date has become days since the earliest.
    dropped : dict of str to {"constant", "identifier"}
        Every column that is not, and why.
    missing : dict of str to float
        Share of missing values of the columns kept that have any.
    remarks : dict of str to str
        What a reader should look at: text that may be meant as dates, numbers that may name the rows, and categories
        of very many levels.
    """

    kinds: dict[str, str]
    dropped: dict[str, str]
    missing: dict[str, float]
    remarks: dict[str, str]


def handle_columns(X: pd.DataFrame) -> tuple[pd.DataFrame, ColumnProfile]:
    """Write a raw table as numbers and categories, without the columns that can teach nothing.

    Dropped are constant columns (a single value, or nothing but missing ones) and identifiers: text whose values are
    all different, and whole numbers that are all different and leave no gap between the smallest and the largest, as
    a row counter does. Dates, and text of which every value is an ISO date, become days since the earliest; booleans
    become 0 and 1; other text becomes categories.

    Parameters
    ----------
    X : DataFrame of shape (n_samples, n_features)
        Raw rows.

    Returns
    -------
    X : DataFrame of shape (n_samples, n_kept)
        Columns of floats, integers and categories; names are strings.
    profile : ColumnProfile
        What became of every column.

    Raises
    ------
    ValueError
        If two columns have the same name, or no column is left.

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
    """Return a column as numbers or categories, and what it is."""
    if types.is_bool_dtype(column.dtype) and not isinstance(column.dtype, pd.CategoricalDtype):
        return column.astype("Float64").astype(float) if column.isna().any() else column.astype(np.int64), "number"
    if types.is_numeric_dtype(column.dtype):
        # Nullable and Arrow numbers become numpy's, whose missing value every model knows.
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
    # Text in one fixed order, so that codes do not depend on the order of the rows.
    return pd.Series(pd.Categorical(present.reindex(text.index), categories=sorted(set(present))), text.index), (
        "category"
    )


def _days(dates: pd.Series) -> pd.Series:
    """Days since the earliest of `dates`, as floats."""
    elapsed: Any = dates - dates.min()
    return elapsed.dt.total_seconds() / 86_400


def _remark(values: pd.Series, kind: str) -> str:
    """Say what about a column a reader should look at; empty where nothing is remarkable."""
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
    """Say why a column can teach nothing; empty where it may."""
    present = values.dropna()
    n_distinct = present.nunique()
    # A value that is there or not is something to learn from.
    if n_distinct == 0 or (n_distinct == 1 and len(present) == len(values)):
        return "constant"
    if len(values) < _FEWEST_IDENTIFIED or n_distinct < len(values):
        return ""
    if kind == "category":
        return "identifier"
    whole = present.dtype.kind in "iu" or bool((present == present.round()).all())
    return "identifier" if kind == "number" and whole and present.max() - present.min() == len(values) - 1 else ""
