"""Reads a table from a file of somebody else's making: what is certain is repaired and said, the rest is refused.

A file of text is decoded, cut into fields and checked line by line before a value is converted, since a misplaced mark
shifts columns without any error otherwise.
"""

import bz2
import csv
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pandas as pd

from telescoping_sklearn.datasets._column_text import DATE_ORDERS, DECIMALS, is_number, read_columns

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_TEXT = (".csv", ".tsv", ".txt")
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BOMS = {  # longest first, since that of UTF-32 begins with that of UTF-16
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
#: Lines that a separator is tried on.
_TRIED_LINES = 500
#: Texts that stand for a missing value, as in :func:`pandas.read_csv`.
_MISSING = frozenset(
    "|#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split("|")
)

Found = TypeVar("Found")


class TableFile(NamedTuple):
    """A table read from a file."""

    frame: pd.DataFrame
    notes: list[str]  # what was found out and repaired


class FileOptions(NamedTuple):
    """How a file of text is to be read; what is None is found out, or asked for by an error.

    Attributes
    ----------
    sep : str or None
        Mark between fields.
    decimal : {".", ","} or None
        Decimal mark.
    encoding : str or None
        Encoding.
    dates : {"day-first", "month-first", "text"} or None
        Order of days and months in dates that are not ISO; "text" leaves those as text.
    missing : sequence of str
        Texts that stand for a missing value, beside the usual ones.
    """

    sep: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    dates: str | None = None
    missing: Sequence[str] = ()


#: Everything is found out.
FOUND_OUT = FileOptions()


def checked_options(
    sep: str | None, decimal: str | None, encoding: str | None, dates: str | None, missing: Sequence[str]
) -> FileOptions:
    """Check options.

    Parameters
    ----------
    sep, decimal, encoding, dates, missing
        As for `FileOptions`.

    Returns
    -------
    FileOptions
        The options.

    Raises
    ------
    ValueError
        If one is not valid; all are named at once.
    """
    mistakes = []
    if sep is not None and (not isinstance(sep, str) or len(sep) != 1):
        mistakes.append(f"sep must be one character, such as ';' or a tab, got {sep!r}")
    if decimal not in (None, *DECIMALS):
        mistakes.append(f"decimal must be '.' or ',', got {decimal!r}")
    if sep is not None and sep == decimal:
        mistakes.append(f"sep and decimal must differ, got {sep!r} for both")
    if dates not in (None, *DATE_ORDERS):
        mistakes.append(f"dates must be one of {', '.join(map(repr, DATE_ORDERS))}, got {dates!r}")
    if encoding is not None:
        try:
            "".encode(encoding)
        except (LookupError, TypeError):
            mistakes.append(f"encoding must be one that Python knows, such as 'cp1252', got {encoding!r}")
    if not isinstance(missing, list | tuple) or not all(isinstance(text, str) for text in missing):
        mistakes.append(f"missing must be a list of texts, got {missing!r}")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return FileOptions(sep, decimal, encoding, dates, missing)


def read_table_file(path: Path, options: FileOptions = FOUND_OUT) -> TableFile:
    """Read a CSV, TSV or Parquet file.

    Parameters
    ----------
    path : Path
        A file that ends in .csv, .tsv or .txt (also compressed: .gz, .zip, .bz2, .xz) or .parquet.
    options : FileOptions, default=FOUND_OUT
        How to read text.

    Returns
    -------
    TableFile
        The table, and notes on what was found out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file cannot be read without doubt. The message names the file, the line or column, and the remedy.
    """
    if _kind(path) == ".parquet":
        return TableFile(_parquet(path, header_only=False), [])
    return _in_file(path, lambda: _read_text(path, options))


def read_header(path: Path, options: FileOptions = FOUND_OUT) -> list[str]:
    """Read the column names of a file.

    Parameters
    ----------
    path : Path
        The file.
    options : FileOptions, default=FOUND_OUT
        How to read text.

    Returns
    -------
    list of str
        The names.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file cannot be read, or columns share a name.
    """
    if _kind(path) == ".parquet":
        return [str(name) for name in _parquet(path, header_only=True).columns]
    return _in_file(path, lambda: _Lines(path, options).names)


def refuse_lost_columns(path: str | Path, columns: Iterable[object], wanted: Iterable[str]) -> None:
    """Raise ValueError if a file lacks columns; list those that it has, those of like names first.

    Parameters
    ----------
    path : str or Path
        The file.
    columns : iterable
        Its columns.
    wanted : iterable of str
        The columns that it should have.

    Raises
    ------
    ValueError
        If one is not there.
    """
    there = [str(name) for name in columns]
    lost = [name for name in wanted if name not in there]
    if not lost:
        return
    folded = {name.casefold(): name for name in there}
    close = [folded[key] for name in lost for key in get_close_matches(name.casefold(), folded, n=2)]
    hint = f". Did you mean {' or '.join(map(repr, dict.fromkeys(close)))}?" if close else "."
    known = ", ".join(there[:20]) + (", ..." if len(there) > 20 else "")
    raise ValueError(f"{path} has no column {', '.join(map(repr, lost))}{hint} It has {known}")


def _in_file(path: Path, read: Callable[[], Found]) -> Found:
    """Name the file in errors."""
    try:
        return read()
    except (ValueError, csv.Error, OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: {error}") from error


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = next((suffix for suffix in suffixes if suffix in (*_TEXT, ".parquet")), "")
    if not kind:
        raise ValueError(f"{path} ends in none of {', '.join(_TEXT)} and .parquet")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no file"
        raise FileNotFoundError(f"{path} {what}" if path.exists() else f"there is no file {path}")
    return kind


def _parquet(path: Path, *, header_only: bool) -> pd.DataFrame:
    try:
        if header_only:
            return import_module("pyarrow.parquet").read_schema(path).empty_table().to_pandas()
        return pd.read_parquet(path)
    except ImportError as error:
        raise ValueError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from error
    except (ValueError, OSError) as error:  # Arrow's errors are of these kinds
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error


def _content(path: Path) -> bytes:
    suffix = path.suffix.lower()
    if suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise ValueError(f"the archive holds {len(names)} files; give one with a single file")
            return archive.read(names[0])
    with _OPENERS[suffix](path) if suffix in _OPENERS else path.open("rb") as file:
        return file.read()


class _Lines:
    """A file of text, cut into fields; names of columns, and notes on what was found out."""

    def __init__(self, path: Path, options: FileOptions):
        self.notes: list[str] = []
        self.text = self._decoded(_content(path), options.encoding)
        if not self.text.strip():
            raise ValueError("the file is empty")
        self.sep = options.sep or self._separator(path)
        self.names = self._checked_names(next(self._fields()))

    def rows(self) -> list[list[str]]:
        """Return the fields of every line behind the header, all with as many as there are names."""
        reader = self._reader()
        next(row for row in reader if _holds(row))
        rows, lines, last = [], [], reader.line_num
        try:
            for row in reader:
                if _holds(row):
                    rows.append(row)
                    lines.append(last + 1)
                last = reader.line_num
        except csv.Error as error:
            raise ValueError(
                f"the quotes that begin on line {last + 1} are not right ({error}). Correct them"
            ) from error
        if not rows:
            raise ValueError("there is a header, and no row below it")
        self._refuse_ragged(rows, lines)
        return self._without_units(rows, lines)

    def _decoded(self, content: bytes, encoding: str | None) -> str:
        marked = next((name for bom, name in _BOMS.items() if content.startswith(bom)), None)
        if encoding is None and marked not in (None, "utf-8-sig"):
            self.notes.append(f"encoding {marked}")
        try:
            text = content.decode(encoding or marked or "utf-8")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            likely, name = ("utf-16-le", "UTF-16") if b"\0" in content else ("cp1252", "Western European")
            piece = content[content.rfind(b"\n", 0, error.start) + 1 : error.start + 10]
            raise ValueError(
                f"line {line} is not {encoding or marked or 'UTF-8'}: byte {content[error.start]:#04x}. Name the "
                f"encoding. With encoding={likely!r} ({name}) the line begins {_decoded_piece(piece, likely)!r}"
            ) from error
        if "\0" in text:
            raise ValueError(
                "it holds zero bytes: it is no text, or text in an encoding to be named: encoding='utf-16'"
            )
        return text.removeprefix("\ufeff")

    def _separator(self, path: Path) -> str:
        if ".tsv" in [suffix.lower() for suffix in path.suffixes]:
            return "\t"
        counts = {sep: self._widths(sep) for sep in SEPARATORS}
        even = [sep for sep, widths in counts.items() if len(widths) == 1 and widths != {1}]
        if not even:  # a few lines may be ragged, which is told with their numbers
            in_header = {sep: self.text.lstrip().partition("\n")[0].count(sep) for sep in SEPARATORS}
            even = [max(in_header, key=lambda sep: in_header[sep])]
            if not in_header[even[0]]:
                marks = ", ".join(map(repr, SEPARATORS))
                raise ValueError(f"its first line is a single column: it holds none of {marks}. Name the mark with sep")
        if len(even) > 1:
            raise ValueError(
                f"{' and '.join(SEPARATORS[sep] for sep in even)} both cut every line into as many fields. Say which "
                f"mark separates columns: {' or '.join(f'sep={sep!r}' for sep in even)}"
            )
        if even[0] != ",":
            self.notes.append(f"fields separated by {SEPARATORS[even[0]]}")
        return even[0]

    def _widths(self, sep: str) -> set[int]:
        """Numbers of fields of the first lines; a mark at the end of every line but the header is no field."""
        try:
            rows = [row for row, _ in zip(self._fields(sep), range(_TRIED_LINES), strict=False)]
        except csv.Error:
            return set()
        if len(rows) > 1 and all(len(row) == len(rows[0]) + 1 and row[-1] == "" for row in rows[1:]):
            rows = rows[:1]
        return {len(row) for row in rows}

    def _reader(self, sep: str | None = None) -> Any:
        return csv.reader(io.StringIO(self.text, newline=""), delimiter=sep or self.sep, strict=True)

    def _fields(self, sep: str | None = None) -> Iterator[list[str]]:
        return (row for row in self._reader(sep) if _holds(row))

    def _checked_names(self, header: list[str]) -> list[str]:
        names = [" ".join(name.split()) for name in header]
        while len(names) > 1 and not names[-1]:
            names.pop()
        names = [name or f"column {number}" for number, name in enumerate(names, start=1)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"columns share a name: {', '.join(map(repr, repeated))}. Rename or remove one of each in the file"
            )
        numbers = [name for name in names if is_number(name)]
        if len(numbers) > len(names) / 2:
            raise ValueError(
                f"the first line holds values ({', '.join(map(repr, numbers[:3]))}), not names. Write a line of column "
                "names above it"
            )
        if [name for name in header if name != name.strip()]:
            self.notes.append("blanks around column names left out")
        return names

    def _refuse_ragged(self, rows: list[list[str]], lines: list[int]) -> None:
        """Refuse lines with more or fewer fields than the header; drop empty ones at the end of every line."""
        width = len(self.names)
        if all(len(row) > width and not any(cell.strip() for cell in row[width:]) for row in rows):
            self.notes.append(f"a mark {self.sep!r} at the end of every line left out")
            for row in rows:
                del row[width:]
        wrong = [number for number, row in enumerate(rows) if len(row) != width]
        if not wrong:
            return
        first = rows[wrong[0]]
        if len(wrong) == len(rows) and {len(row) for row in rows} == {width + 1}:
            raise ValueError(
                f"every line has one field more than the header's {width}. If the first are names of rows, write a "
                f"column name for them in front of {self.names[0]!r}; if not, correct the lines"
            )
        shown = self.sep.join(first)
        also = f", and {len(wrong) - 1} more lines do not have {width} either" if len(wrong) > 1 else ""
        raise ValueError(
            f"line {lines[wrong[0]]} has {len(first)} fields and the header {width}{also}: {_shortened(shown)!r}. "
            f"Correct it: a value that holds {self.sep!r} must stand in double quotes"
        )

    def _without_units(self, rows: list[list[str]], lines: list[int]) -> list[list[str]]:
        """Leave out a first row without a number above columns of numbers: units."""
        if len(rows) < 3 or any(is_number(cell) for cell in rows[0]):
            return rows
        below = rows[1:_TRIED_LINES]
        numeric = [
            number
            for number, cell in enumerate(rows[0])
            if cell.strip() and all(is_number(row[number]) for row in below)
        ]
        if not numeric:
            return rows
        shown = ", ".join(repr(rows[0][number]) for number in numeric[:3])
        self.notes.append(f"line {lines[0]} holds units, such as {shown}, and is left out")
        return rows[1:]


def _read_text(path: Path, options: FileOptions) -> TableFile:
    lines = _Lines(path, options)
    rows = lines.rows()
    missing = {*_MISSING, *(text.strip() for text in options.missing)}
    columns = {}
    for name, cells in zip(lines.names, zip(*rows, strict=True), strict=True):
        column = pd.Series([cell.strip() for cell in cells], dtype=object)
        columns[name] = column.mask(column.isin(missing)).astype("str")
    european = lines.sep == ";"
    read = read_columns(columns, decimal=options.decimal, dates=options.dates, european=european)
    notes = lines.notes + [f"column {name!r} {_said(column.note)}" for name, column in read.items() if column.note]
    return TableFile(pd.DataFrame({name: column.values for name, column in read.items()}), notes)


def _said(note: str) -> str:
    return note if note.startswith("is ") else f"holds {note}"


def _holds(row: list[str]) -> bool:
    """Whether a line is not blank."""
    return any(cell.strip() for cell in row)


def _decoded_piece(piece: bytes, encoding: str) -> str:
    return piece.removeprefix(b"\0").decode(encoding, errors="replace").strip()


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
