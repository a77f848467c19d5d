"""Untidy files: each is read as its writer meant it, or refused with the line or column and the remedy."""

import gzip
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telescoping_sklearn.datasets._files import (
    FileOptions,
    checked_options,
    read_header,
    read_table_file,
    refuse_lost_columns,
)

#: Contents, the columns that are read, and a piece of the note that says what was found out (None: no note).
READ = {
    "plain": ("a,b\n1,2.5\n3,4\n", {"a": [1, 3], "b": [2.5, 4.0]}, None),
    "blank lines": ("\na,b\n\n1,2.5\n\n3,4\n\n", {"a": [1, 3], "b": [2.5, 4.0]}, None),
    "windows lines": ("a,b\r\n1,2\r\n3,4\r\n", {"a": [1, 3], "b": [2, 4]}, None),
    "semicolons": ("a;b\n1,5;x\n3,0;y\n", {"a": [1.5, 3.0], "b": ["x", "y"]}, "semicolons"),
    "decimal commas": ("a;b\n1,5;x\n3,0;y\n", {"a": [1.5, 3.0], "b": ["x", "y"]}, "decimal mark ','"),
    "tabs": ("a\tb\n1\t2\n", {"a": [1], "b": [2]}, "tabs"),
    "bars": ("a|b\n1|2\n", {"a": [1], "b": [2]}, "bars"),
    "mark at ends": ("a,b\n1,2,\n3,4,\n", {"a": [1, 3], "b": [2, 4]}, "at the end of every line"),
    "mark at all ends": ("a,b,\n1,2,\n3,4,\n", {"a": [1, 3], "b": [2, 4]}, "at the end of every line"),
    "padded": (" a , b\n1, 2\n3, 4\n", {"a": [1, 3], "b": [2, 4]}, "blanks around column names"),
    "units": ("a,b,c\nkg,m2,\n1,2,x\n3,4,y\n5,6,z\n", {"a": [1, 3, 5], "b": [2, 4, 6], "c": list("xyz")}, "line 2"),
    "currency": ('a,b\n"$1,234.50",1\n"$2,000.00",2\n', {"a": [1234.5, 2000.0], "b": [1, 2]}, "in '$'"),
    "percent": ("a;b\n12,5 %;1\n3 %;2\n", {"a": [12.5, 3.0], "b": [1, 2]}, "in '%'"),
    "euro": ("a;b\n1.234,50 €;1\n2 €;2\n", {"a": [1234.5, 2.0], "b": [1, 2]}, "'.' between thousands"),
    "spaces": ("a;b\n1 234,5;1\n2 000,0;2\n", {"a": [1234.5, 2000.0], "b": [1, 2]}, "decimal mark ','"),
    "commas in all": ('a,b\n"1,234,567",1\n"12,000",2\n', {"a": [1234567, 12000], "b": [1, 2]}, "between thousands"),
    "told elsewhere": ('a,b\n"1,234",1.5\n"2,000",2.5\n', {"a": [1234, 2000], "b": [1.5, 2.5]}, "between thousands"),
    "points as groups": ("a;b\n1.234;1,5\n2.500;2,5\n", {"a": [1234, 2500], "b": [1.5, 2.5]}, "between thousands"),
    "quoted line breaks": ('a,b\n"x\ny",1\n"z",2\n', {"a": ["x\ny", "z"], "b": [1, 2]}, None),
    "quoted marks": ('a,b\n"x,y",1\n"say ""z""",2\n', {"a": ["x,y", 'say "z"'], "b": [1, 2]}, None),
    "missing": ("a,b\n1,x\nNA,\n3,z\n", {"a": [1.0, np.nan, 3.0], "b": ["x", None, "z"]}, None),
    "truth": ("a,b\nTrue,1\nFALSE,2\n", {"a": [True, False], "b": [1, 2]}, None),
    "codes": ("a,b\nQ1,1\nQ2,2\n", {"a": ["Q1", "Q2"], "b": [1, 2]}, None),
    "exponents": ("a,b\n1e3,1\n2.5E-1,2\n", {"a": [1000.0, 0.25], "b": [1, 2]}, None),
    "nearly numbers": (
        "a,b\n" + "".join(f"{row},1\n" for row in range(9)) + "?,2\n",
        {"a": [*map(str, range(9)), "?"], "b": [1] * 9 + [2]},
        "all but 1 of its 10 cells are numbers, but not '?'",
    ),
    "no name": (",b\n0,2\n1,4\n", {"column 1": [0, 1], "b": [2, 4]}, None),
    "mixed codes": ("a,b\n1,1\n1.0,2\nx,3\n", {"a": ["1", "1.0", "x"], "b": [1, 2, 3]}, None),
}
#: Contents, and pieces of the error.
REFUSED = {
    "one line longer": ("a,b\n1,2\n3,4,5\n6,7\n", ["line 3", "3 fields and the header 2", "'3,4,5'", "double quotes"]),
    "one line shorter": ("a,b,c\n1,2,3\n4,5\n", ["line 3", "2 fields and the header 3"]),
    "longer after a quoted break": ('a,b\n"x\ny",2\n3,4,5\n', ["line 4", "3 fields"]),
    "names of rows": ("a,b\nr1,1,2\nr2,3,4\n", ["one field more", "names of rows", "in front of 'a'"]),
    "repeated name": ("rent,b,rent\n1,2,3\n", ["share a name", "'rent'"]),
    "repeated name, padded": ("rent,b,rent \n1,2,3\n", ["share a name", "'rent'"]),
    "two readings": ('a,b\n"1,234",1\n"2,000",2\n', ["column 'a'", "'1,234'", "decimal=','"]),
    "a thousand or one": ("a;b\n1.234;x\n2.500;y\n", ["column 'a'", "'1.234'", "decimal=','"]),
    "both marks": ("a;b\n1,5;1\n2.5;2\n", ["column 'a'", "'1,5'", "'2.5'", "not one decimal mark"]),
    "days and months": ("d,y\n03/04/2020,1\n01/02/2021,2\n", ["column 'd'", "'03/04/2020'", "dates='day-first'"]),
    "no such day": ("d,y\n31/02/2020,1\n01/02/2021,2\n", ["'31/02/2020'", "dates='text'"]),
    "orders mixed": ("d,y\n31/01/2020,1\n01/31/2021,2\n", ["both are at times above 12"]),
    "header only": ("a,b\n", ["no row below"]),
    "empty": ("", ["empty"]),
    "blank": ("\n \n", ["empty"]),
    "values first": ("1.5,2\n3,4\n", ["first line holds values", "'1.5'", "column names"]),
    "single column": ("a\n1\n", ["single column", "sep"]),
    "two separators": ("a,b;c\n1,2;3\n", ["sep=','", "sep=';'"]),
    "open quotes": ('a,b\n1,2\n"x,1\nz,2\n', ["line 3", "quotes"]),
    "zero bytes": ("a,b\n1,2\0\n", ["zero bytes", "encoding"]),
}
DATES = {
    "31/12/2020": "2020-12-31",
    "12/31/2020": "2020-12-31",
    "31.12.2020": "2020-12-31",
    "2020/12/31": "2020-12-31",
    "31.12.2020 14:30": "2020-12-31 14:30",
    "3-Jan-2020": "2020-01-03",
}


def written(folder, content, name="flats.csv"):
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize("kind", READ)
def test_what_is_certain_is_read_and_said(tmp_path, kind):
    content, columns, note = READ[kind]
    frame, notes = read_table_file(written(tmp_path, content))
    pd.testing.assert_frame_equal(frame, pd.DataFrame(columns), check_dtype=False)
    assert [str(values.dtype)[:3] for _, values in frame.items()] == [
        str(pd.Series(values).dtype)[:3] for values in columns.values()
    ]
    assert note in "; ".join(notes) if note else not notes


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_certain_is_refused(tmp_path, kind):
    content, pieces = REFUSED[kind]
    file = written(tmp_path, content)
    with pytest.raises(ValueError, match=r"flats\.csv") as caught:
        read_table_file(file)
    assert all(piece in str(caught.value) for piece in pieces), str(caught.value)


@pytest.mark.parametrize("date", DATES)
def test_dates_of_one_reading_are_dates(tmp_path, date):
    frame, notes = read_table_file(written(tmp_path, f"d,y\n{date},1\n,2\n"))
    assert frame["d"][0] == pd.Timestamp(DATES[date])
    assert frame["d"].isna().tolist() == [False, True]
    assert repr(date) in notes[0]


@pytest.mark.parametrize(("order", "month"), [("day-first", 4), ("month-first", 3)])
def test_the_order_of_dates_can_be_named(tmp_path, order, month):
    file = written(tmp_path, "d,y\n03/04/2020,1\n01/02/21,2\n".replace("/21", "/2021"))
    assert read_table_file(file, FileOptions(dates=order)).frame["d"][0].month == month
    assert read_table_file(file, FileOptions(dates="text")).frame["d"].tolist() == ["03/04/2020", "01/02/2021"]


@pytest.mark.parametrize(("decimal", "values"), [(".", [1234, 2000]), (",", [1.234, 2.0])])
def test_the_decimal_mark_can_be_named(tmp_path, decimal, values):
    file = written(tmp_path, 'a,b\n"1,234",1\n"2,000",2\n')
    assert read_table_file(file, FileOptions(decimal=decimal)).frame["a"].tolist() == values


def test_texts_for_missing_values_can_be_named(tmp_path):
    file = written(tmp_path, "a,b\n1,1\n?,2\n3,3\n")
    frame, notes = read_table_file(file, FileOptions(missing=["?"]))
    assert frame["a"].isna().tolist() == [False, True, False]
    assert not notes


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_say_so_are_found(tmp_path, encoding):
    frame, _ = read_table_file(written(tmp_path, "town,b\nZürich,1\nBern,2\n".encode(encoding)))
    assert frame["town"].tolist() == ["Zürich", "Bern"]
    assert list(frame) == ["town", "b"]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le"])
def test_other_encodings_are_asked_for(tmp_path, encoding):
    file = written(tmp_path, "town,b\nBern,2\nZürich,1\n".encode(encoding))
    with pytest.raises(ValueError, match=f"line 3 is not UTF-8.*encoding='{encoding}'.*'Zürich"):
        read_table_file(file)
    assert read_table_file(file, FileOptions(encoding=encoding)).frame["town"].tolist() == ["Bern", "Zürich"]


def test_compressed_files(tmp_path):
    content = b"a,b\n1,2\n"
    with gzip.open(tmp_path / "flats.csv.gz", "wb") as file:
        file.write(content)
    with zipfile.ZipFile(tmp_path / "flats.csv.zip", "w") as archive:
        archive.writestr("flats.csv", content)
    for name in ("flats.csv.gz", "flats.csv.zip"):
        assert read_table_file(tmp_path / name).frame.to_dict("list") == {"a": [1], "b": [2]}


@pytest.mark.parametrize("name", ["flats.csv.gz", "flats.csv.zip", "flats.csv.bz2", "flats.csv.xz", "flats.parquet"])
def test_a_damaged_file_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=name):
        read_table_file(written(tmp_path, b"no archive", name))


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    frame.to_parquet(tmp_path / "flats.parquet")
    pd.testing.assert_frame_equal(read_table_file(tmp_path / "flats.parquet").frame, frame)
    assert read_header(tmp_path / "flats.parquet") == ["a", "b"]


def test_the_header_alone(tmp_path):
    assert read_header(written(tmp_path, "a; b \n1,5;2\n")) == ["a", "b"]


def test_missing_files_and_other_kinds(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_table_file(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_table_file(tmp_path / "folder.csv")
    with pytest.raises(ValueError, match=r"ends in none of \.csv"):
        read_table_file(tmp_path / "flats.xlsx")


def test_lost_columns_are_guessed():
    with pytest.raises(ValueError, match=r"no column 'Prise'. Did you mean 'price'\? It has price, rooms"):
        refuse_lost_columns("flats.csv", ["price", "rooms"], ["Prise"])


def test_mistakes_in_options_are_listed_together():
    with pytest.raises(
        ValueError, match=r"sep must be.*decimal must be.*dates must be.*encoding must be.*missing must be"
    ):
        checked_options(";;", "'", "latin-99", "iso", "?")
    with pytest.raises(ValueError, match="sep and decimal must differ, got ',' for both"):
        checked_options(",", ",", None, None, ())
    assert checked_options("\t", ",", "cp1252", "text", ["?"]).sep == "\t"


@settings(max_examples=25)
@given(
    st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 2)), min_size=2, max_size=20),
    st.sampled_from([(".", ",", "|"), (",", ".", ";"), (",", " ", "\t"), (".", "'", ";")]),
)
def test_written_numbers_come_back_or_are_refused(tmp_path_factory, values, marks):
    decimal, grouping, sep = marks
    cells = [f"{value:,.2f}".replace(",", "G").replace(".", decimal).replace("G", grouping) for value in values]
    content = f"a{sep}b\n" + "".join(f"{cell}{sep}x\n" for cell in cells)
    frame, _ = read_table_file(written(tmp_path_factory.mktemp("numbers"), content))
    np.testing.assert_allclose(frame["a"], values)
