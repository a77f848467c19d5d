"""Converts a column of text to numbers, truth values or dates, where only one reading is possible.

A column of which some cells cannot be read stays text, and those cells are quoted. A column that can be read in two
ways, such as ``1,234`` (a thousand or one) or ``03/04/2020`` (March or April), raises an error that names the option
that decides.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

DECIMALS = (".", ",")
DATE_ORDERS = ("day-first", "month-first", "text")

#: Share of numbers from which a column of text is taken to be numbers with a few other cells.
_NEARLY_NUMBERS = 0.8
_CODES = "AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|HKD|HUF|IDR|ILS|INR|JPY|KRW|MXN|NOK|NZD|PLN|RON|SEK|SGD|THB|TRY|USD|ZAR"
_UNIT = rf"(?:[A-Z]{{0,2}}\$|[€£¥₹%]|{_CODES})"
_NUMBER_WITH_UNIT = re.compile(rf"\s*({_UNIT})?\s*([-+]?\s*\d[\d.,'’ \u00a0\u202f]*)\s*({_UNIT})?\s*")
_SPACES = re.compile(r"['’ \u00a0\u202f]")
#: Patterns of bodies of numbers that tell the decimal mark; both match nothing that has two readings.
_TELLS = {
    ".": re.compile(r"[-+]?(\d{1,3}(,\d{3})+\.\d+|\d*\.(\d{1,2}|\d{4,})|\d{1,3}(,\d{3}){2,}|0\.\d+|\d{4,}\.\d{3})"),
    ",": re.compile(r"[-+]?(\d{1,3}(\.\d{3})+,\d+|\d*,(\d{1,2}|\d{4,})|\d{1,3}(\.\d{3}){2,}|0,\d+|\d{4,},\d{3})"),
}
#: Patterns of all numbers with a decimal mark, groups of thousands included.
_FITS = {
    ".": re.compile(r"[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d*)?|[-+]?\.\d+"),
    ",": re.compile(r"[-+]?(\d+|\d{1,3}(\.\d{3})+)(,\d*)?|[-+]?,\d+"),
}
_SCIENTIFIC = re.compile(r"[-+]?\d+([.,]\d*)?[eE][-+]?\d+")
_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([ T].*)?")
_DATE = re.compile(r"(\d{1,4})([./ -])(\d{1,2})\2(\d{1,4})(?:[ T](\d{1,2}:\d{2}(?::\d{2})?))?")
_NAMED_DATE = re.compile(r"(\d{1,2})([./ -])([A-Za-z]{3,9})\2(\d{4})")


class ColumnTextError(ValueError):
    """A column that has two readings, or a cell that is no date."""


class ReadColumn(NamedTuple):
    """A column as it was read."""

    values: pd.Series
    note: str  # what was done to it, or which cells kept it from being numeric; empty if nothing


def read_columns(
    columns: Mapping[str, pd.Series], *, decimal: str | None = None, dates: str | None = None, european: bool = False
) -> dict[str, ReadColumn]:
    """Convert columns of text.

    Parameters
    ----------
    columns : mapping of str to Series of str
        Cells, with NaN where one is missing.
    decimal : {".", ","} or None, default=None
        Decimal mark. None finds it from the cells: a mark is used only if some cell cannot be read with the other.
    dates : {"day-first", "month-first", "text"} or None, default=None
        Order of days and months. None finds it, column by column. "text" leaves dates that are not ISO as text.
    european : bool, default=False
        Whether ``1.234`` may be a thousand where no other cell tells, as in files separated by semicolons.

    Returns
    -------
    dict of str to ReadColumn
        The columns.

    Raises
    ------
    ColumnTextError
        If a column has two readings.
    """
    bodies = {name: _bodies(cells) for name, cells in columns.items()}
    told = {mark for body, _ in bodies.values() for mark in _marks_told(body)} if decimal is None else {decimal}
    found = {}
    for name, cells in columns.items():
        body, unit = bodies[name]
        found[name] = (
            _truth_values(cells)
            or _numbers(name, cells, body, unit, told, european)
            or _dates(name, cells, dates)
            or ReadColumn(cells, _kept_from_numbers(cells, body))
        )
    return found


def _bodies(cells: pd.Series) -> tuple[pd.Series, str]:
    """Strip units from the cells that look like numbers: NaN elsewhere; and the unit that all of them share."""
    present = cells.dropna()
    plain = pd.to_numeric(present, errors="coerce")
    if plain.notna().all():  # the usual case, without a regular expression
        return present.str.strip(), ""
    parts = present.str.extract(rf"^{_NUMBER_WITH_UNIT.pattern}$").set_axis(["before", "body", "after"], axis=1)
    units = set(parts["before"].dropna()) | set(parts["after"].dropna())
    body = parts["body"].str.replace(_SPACES, "", regex=True)
    number = present.str.strip().where(plain.notna())
    if len(units) > 1:
        return number, ""
    return number.where(plain.notna(), body), next(iter(units), "")


def _marks_told(body: pd.Series) -> list[str]:
    """Decimal marks that a column of numbers shows beyond doubt."""
    if body.isna().any() or body.empty:
        return []
    marked = body[body.str.contains("[.,]", regex=True)]
    return [mark for mark in DECIMALS if len(marked) and marked.str.fullmatch(_TELLS[mark]).any()]


def _truth_values(cells: pd.Series) -> ReadColumn | None:
    present = cells.dropna().str.strip().str.lower()
    if present.empty or not present.isin(["true", "false"]).all():
        return None
    values = (present == "true").reindex(cells.index)
    return ReadColumn(values.astype("boolean" if cells.isna().any() else bool), "")


def _numbers(
    name: str, cells: pd.Series, body: pd.Series, unit: str, told: set[str], european: bool
) -> ReadColumn | None:
    if body.empty:
        return ReadColumn(cells.astype(float), "")
    if body.isna().any():
        return None
    own = _marks_told(body)
    if len(own) == 2 or (own and own[0] not in told):
        shown = " and ".join(repr(body[body.str.fullmatch(_TELLS[mark])].iloc[0]) for mark in own)
        raise ColumnTextError(
            f"column {name!r} holds {shown}: not one decimal mark"
            + (f", {next(iter(told))!r}" if len(told) == 1 else "")
            + ". Correct it, or drop the column"
        )
    marked = body[body.str.contains("[.,]", regex=True)]
    fitting = [mark for mark in DECIMALS if body.str.fullmatch(_FITS[mark]).all()]
    plain = pd.to_numeric(body, errors="coerce").notna().all()
    if own:
        mark = own[0]
    elif marked.empty or len(told) == 1:
        mark = next(iter(told)) if len(told) == 1 else "."
    elif plain and not european and not told:
        mark = "."
    elif fitting:
        raise ColumnTextError(
            f"column {name!r} has two readings: {marked.iloc[0]!r} may be a whole number with a mark between thousands "
            "or a number with decimals. Say which mark is the decimal one: decimal='.' or decimal=','"
        )
    else:
        return None
    if plain and mark == ".":
        text, note = body, ""
    elif body.str.fullmatch(_FITS[mark]).all():
        grouping = "," if mark == "." else "."
        text = body.str.replace(grouping, "", regex=False).str.replace(mark, ".", regex=False)
        note = f"numbers with decimal mark {mark!r}" if len(marked) else ""
        if body.str.contains(grouping, regex=False).any():
            note += f"{', ' if note else ''}{grouping!r} between thousands"
    else:
        return None
    if unit:
        note = f"{note or 'numbers'} in {unit!r}"
    note = f"{note}, such as {cells.dropna().iloc[0]!r}" if note else ""
    return ReadColumn(pd.to_numeric(text).reindex(cells.index), note)


def _kept_from_numbers(cells: pd.Series, body: pd.Series) -> str:
    """Quote the cells that keep a column from being numeric, if nearly all others are numbers."""
    other = cells.dropna()[body.isna()]
    if len(other) == 0 or len(other) > (1 - _NEARLY_NUMBERS) * len(body):
        return ""
    quoted = list(dict.fromkeys(other))
    shown = ", ".join(map(repr, quoted[:5])) + (", ..." if len(quoted) > 5 else "")
    return (
        f"is text: all but {len(other)} of its {len(body)} cells are numbers, but not {shown}. If they stand for "
        "missing values, list them in the option missing"
    )


def _dates(name: str, cells: pd.Series, order: str | None) -> ReadColumn | None:
    present = cells.dropna().str.strip()
    if order == "text" or present.str.fullmatch(_ISO_DATE).all():
        return None  # ISO dates are left to whoever prepares the columns
    if present.str.fullmatch(_NAMED_DATE).all():
        parts = present.str.extract(_NAMED_DATE)
        text, how = parts[0] + " " + parts[2].str[:3] + " " + parts[3], "%d %b %Y"
        return _parsed(name, cells, text, how, "dates with names of months")
    if not present.str.fullmatch(_DATE).all():
        return None
    parts = present.str.extract(_DATE).set_axis(["first", "mark", "second", "third", "time"], axis=1)
    lengths = {place: set(parts[place].str.len()) for place in ("first", "third")}
    if lengths["first"] == {4} and max(lengths["third"]) <= 2:
        text, how = parts["first"] + "-" + parts["second"] + "-" + parts["third"], "%Y-%m-%d"
        words = "dates, year first"
    elif lengths["third"] in ({4}, {2}) and max(lengths["first"]) <= 2:
        if lengths["third"] == {2} and (parts["first"].str.len() == 2).all() and order is None:
            raise ColumnTextError(
                f"column {name!r} may hold dates with years of two digits, such as {present.iloc[0]!r}. Say how to "
                "read them: dates='day-first', dates='month-first' or dates='text'"
            )
        day_first = _is_day_first(name, present, parts, order)
        day, month = ("first", "second") if day_first else ("second", "first")
        text = parts[day] + "-" + parts[month] + "-" + parts["third"]
        how = "%d-%m-%Y" if lengths["third"] == {4} else "%d-%m-%y"
        words = f"dates, {'day' if day_first else 'month'} first"
    else:
        return None
    clock = parts["time"].dropna()
    if len(clock):
        long = parts["time"].str.count(":").eq(2)
        text = text + " " + parts["time"].where(long, parts["time"] + ":00").fillna("00:00:00")
        how += " %H:%M:%S"
    return _parsed(name, cells, text, how, words)


def _is_day_first(name: str, present: pd.Series, parts: pd.DataFrame, order: str | None) -> bool:
    if order is not None:
        return order == "day-first"
    beyond = {place: (parts[place].astype(int) > 12).any() for place in ("first", "second")}
    if beyond["first"] == beyond["second"]:
        why = "both are at times above 12" if beyond["first"] else "no number is above 12"
        raise ColumnTextError(
            f"column {name!r} holds dates such as {present.iloc[0]!r}, whose day and month have two readings ({why}). "
            "Say which comes first: dates='day-first' or dates='month-first', or dates='text' for neither"
        )
    return bool(beyond["first"])


def _parsed(name: str, cells: pd.Series, text: pd.Series, how: str, words: str) -> ReadColumn:
    values = pd.to_datetime(text, format=how, errors="coerce")
    if values.isna().any():
        wrong = cells[values.index[values.isna()][0]]
        raise ColumnTextError(
            f"column {name!r} holds {words}, but {wrong!r} is none. Correct it, or leave them as text with dates='text'"
        )
    return ReadColumn(values.reindex(cells.index), f"{words}, such as {cells.dropna().iloc[0]!r}")


def is_number(cell: str) -> bool:
    """Whether a cell is a number, whatever its decimal mark.

    Parameters
    ----------
    cell : str
        The cell.

    Returns
    -------
    bool
        Whether it is one.
    """
    found = _NUMBER_WITH_UNIT.fullmatch(cell)
    body = _SPACES.sub("", found[2]) if found else cell.strip()
    return any(pattern.fullmatch(body) for pattern in _FITS.values()) or bool(_SCIENTIFIC.fullmatch(body))
