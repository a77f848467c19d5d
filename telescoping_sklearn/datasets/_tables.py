"""Load tabular data sets: one embedded set, five sets from a local folder, OpenML sets, and CSV or Parquet files.

The embedded data set needs no network and no setting, and is used by the examples, the tests and the default
benchmark. The five others cannot be redistributed with the package and are read from the folder named by
TELESCOPING_DATA. The loaders of these six return raw columns, text as categories, dates as days, and a target on a
logarithmic scale.
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.datasets import fetch_openml, get_data_home
from sklearn.datasets._openml import _get_json_content_from_openml_api
from sklearn.utils import Bunch

__all__ = [
    "TABULAR_NAMES",
    "fetch_openml_suite",
    "fetch_openml_table",
    "fetch_tabular",
    "load_lucas_county",
    "load_table",
    "read_column_names",
]

FOLDER_VARIABLE = "TELESCOPING_DATA"
_LUCAS_COUNTY_FILE = "lucas_county_house.csv.gz"
# The assessor's value nearly equals the price; the dummies repeat the year of sale.
_LUCAS_COUNTY_DROPPED = ["price", "avalue", *(f"s{year}" for year in range(1993, 1999))]


def _days_since(start: str, dates: pd.Series, date_format: str) -> pd.Series:
    """Whole days from `start` to each of `dates`."""
    days = pd.to_datetime(dates.astype(str), format=date_format) - pd.Timestamp(start)
    return days.dt.days.astype(np.int64)


def _as_categories(features: pd.DataFrame) -> pd.DataFrame:
    """Convert text columns to pandas categories and booleans to 0 and 1."""
    text = features.select_dtypes(exclude=["number", "bool"]).columns
    flags = features.select_dtypes("bool").columns
    return features.astype({**dict.fromkeys(text, "category"), **dict.fromkeys(flags, np.int64)})


def _bunch(
    features: pd.DataFrame, target: pd.Series, description: str, filename: str, *, return_X_y: bool, as_frame: bool
) -> Any:
    """Return features and target in the form of scikit-learn's loaders."""
    kind = object if "category" in features.dtypes.values else np.float64
    data: Any = features if as_frame else features.to_numpy(dtype=kind)
    values: Any = target if as_frame else target.to_numpy()
    if return_X_y:
        return data, values
    return Bunch(
        data=data,
        target=values,
        frame=pd.concat([features, target], axis=1) if as_frame else None,
        feature_names=list(features.columns),
        target_names=[target.name],
        DESCR=description,
        filename=filename,
    )


def load_lucas_county(*, return_X_y: bool = False, as_frame: bool = True) -> Any:
    """Load the embedded data set of houses sold in Lucas County, Ohio, 1993-98.

    25,357 rows, 18 features, the logarithm of the price as target. Three features are categorical; `sdate` is the
    date of sale as days since 1993-01-01. The assessor's value and the 0/1 columns of the year are left out. The
    data are CC0-1.0; `DESCR` has the details.

    Parameters
    ----------
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=True
        Return pandas objects. Otherwise `data` is an array of objects, the categories as text, `target` an array of
        floats and `frame` None.

    Returns
    -------
    sklearn.utils.Bunch or tuple
        With the entries

        data : DataFrame of shape (25357, 18)
            The features.
        target : Series of shape (25357,)
            The logarithm of the price, named ``log_price``.
        frame : DataFrame of shape (25357, 19)
            Features and target.
        feature_names, target_names : list of str
            Names of the columns.
        DESCR : str
            Columns, provenance and licence.
        filename : str
            Name of the file in the package's folder ``data``.

        or ``(data, target)`` when `return_X_y` is true.

    Examples
    --------
    >>> from telescoping_sklearn.datasets import load_lucas_county
    >>> houses = load_lucas_county()
    >>> houses.data.shape
    (25357, 18)
    >>> list(houses.data.select_dtypes("category"))
    ['stories', 'wall', 'garage']
    """
    folder = files("telescoping_sklearn").joinpath("data")
    with folder.joinpath(_LUCAS_COUNTY_FILE).open("rb") as file:
        raw = pd.read_csv(file, compression="gzip")
    raw["sdate"] = _days_since("1993-01-01", raw["sdate"], "%y%m%d")
    return _bunch(
        _as_categories(raw.drop(columns=_LUCAS_COUNTY_DROPPED)),
        np.log(raw["price"]).rename("log_price"),
        folder.joinpath("lucas_county.rst").read_text(encoding="utf-8"),
        _LUCAS_COUNTY_FILE,
        return_X_y=return_X_y,
        as_frame=as_frame,
    )


def _unchanged(raw: pd.DataFrame) -> pd.DataFrame:
    return raw


def _per_household(raw: pd.DataFrame) -> pd.DataFrame:
    """Compute the features of scikit-learn's California housing from the totals of the StatLib file."""
    return pd.DataFrame(
        {
            "MedInc": raw["median_income"],
            "HouseAge": raw["housing_median_age"],
            "AveRooms": raw["total_rooms"] / raw["households"],
            "AveBedrms": raw["total_bedrooms"] / raw["households"],
            "Population": raw["population"],
            "AveOccup": raw["population"] / raw["households"],
            "Latitude": raw["latitude"],
            "Longitude": raw["longitude"],
        }
    )


def _house_sales(raw: pd.DataFrame) -> pd.DataFrame:
    """Drop the identifier and convert the date of sale to days."""
    return raw.drop(columns="id").assign(date=_days_since("2014-01-01", raw["date"], "%Y%m%dT%H%M%S"))


def _bike_sharing(raw: pd.DataFrame) -> pd.DataFrame:
    """Convert the date to days since 2011-01-01."""
    return raw.assign(date=_days_since("2011-01-01", raw["date"], "%Y-%m-%d"))


class _Tabular(NamedTuple):
    """File, target and preparation of a data set."""

    file: str
    openml: str  # its name there
    about: str
    target: str
    target_name: str
    scale: Callable[[pd.Series], pd.Series]  # of the target
    features: Callable[[pd.DataFrame], pd.DataFrame]


_CALIFORNIA = "california_statlib.csv.gz"
_TABULAR = {
    "houses": _Tabular(
        _CALIFORNIA,
        "houses",
        "California housing blocks of the 1990 census, totals per block as in StatLib.",
        "median_house_value",
        "log_median_house_value",
        np.log,
        _unchanged,
    ),
    "california": _Tabular(
        _CALIFORNIA,
        "california",
        "California housing blocks of the 1990 census, averages per household as scikit-learn has them.",
        "median_house_value",
        "log_median_house_value",
        np.log,
        _per_household,
    ),
    "house_sales": _Tabular(
        "king_county.csv.gz",
        "house_sales",
        "Houses sold in King County, Washington, 2014-15; date is days since 2014-01-01, id is dropped.",
        "price",
        "log_price",
        np.log,
        _house_sales,
    ),
    "house_16h": _Tabular(
        "house_16h.csv.gz",
        "house_16H",
        "Median house values of the 1990 census, 16 features by region.",
        "y",
        "log1p_y",
        np.log1p,
        _unchanged,
    ),
    "bike_sharing": _Tabular(
        "bike_sharing.csv.gz",
        "Bike_Sharing_Demand",
        "Capital Bikeshare rentals by the hour, 2011-12; date is days since 2011-01-01.",
        "count",
        "log_count",
        np.log,
        _bike_sharing,
    ),
}

TABULAR_NAMES = tuple(_TABULAR)
"""Names that :func:`fetch_tabular` takes."""


def tabular_folder() -> str:
    """Return the folder of the sets of :func:`fetch_tabular`; empty if TELESCOPING_DATA is not set."""
    return os.environ.get(FOLDER_VARIABLE, "")


def _tabular_path(name: str, tabular: _Tabular) -> Path:
    """Return the path of a data set's file; raise FileNotFoundError, with what to do, if it does not exist."""
    folder = tabular_folder()
    path = Path(folder, tabular.file)
    if folder and path.is_file():
        return path
    where = f"is not in {folder}" if folder else f"cannot be looked for, since {FOLDER_VARIABLE} is not set"
    raise FileNotFoundError(
        f"{tabular.file}, the file of the data set {name!r}, {where}. Set the environment variable "
        f"{FOLDER_VARIABLE} to a folder that holds it. OpenML has the data set as {tabular.openml!r}, which "
        "sklearn.datasets.fetch_openml loads where there is a network."
    )


def fetch_tabular(name: str, *, return_X_y: bool = False, as_frame: bool = True) -> Any:
    """Read a data set that is not part of the package from the folder named by TELESCOPING_DATA.

    =============== ============================= ========================= =====================
    name            file                          target                    OpenML
    =============== ============================= ========================= =====================
    houses          california_statlib.csv.gz     log(median_house_value)   houses
    california      california_statlib.csv.gz     log(median_house_value)   california
    house_sales     king_county.csv.gz            log(price)                house_sales
    house_16h       house_16h.csv.gz              log(1 + y)                house_16H
    bike_sharing    bike_sharing.csv.gz           log(count)                Bike_Sharing_Demand
    =============== ============================= ========================= =====================

    Text columns become categories, dates whole days since the start of the first year, booleans 0 and 1.

    Parameters
    ----------
    name : str
        One of :data:`TABULAR_NAMES`.
    return_X_y : bool, default=False
        Return ``(data, target)`` instead of a Bunch.
    as_frame : bool, default=True
        Return pandas objects. Otherwise `data` is an array, of objects when there are categories and of floats when
        there are none, `target` an array of floats and `frame` None.

    Returns
    -------
    sklearn.utils.Bunch or tuple
        With the entries `data`, `target`, `frame`, `feature_names`, `target_names`, `DESCR` and `filename` (the full
        path of the file), as :func:`load_lucas_county` has them; ``(data, target)`` when `return_X_y` is true.

    Raises
    ------
    ValueError
        If there is no data set of this name.
    FileNotFoundError
        If TELESCOPING_DATA is not set or its folder does not contain the file.

    Examples
    --------
    >>> from telescoping_sklearn.datasets import TABULAR_NAMES, fetch_tabular
    >>> TABULAR_NAMES
    ('houses', 'california', 'house_sales', 'house_16h', 'bike_sharing')
    >>> fetch_tabular("houses").data.shape  # doctest: +SKIP
    (20640, 8)
    """
    if name not in _TABULAR:
        raise ValueError(f"name={name!r} is no data set; give one of {', '.join(TABULAR_NAMES)}.")
    tabular = _TABULAR[name]
    path = _tabular_path(name, tabular)
    raw = pd.read_csv(path)
    return _bunch(
        _as_categories(tabular.features(raw.drop(columns=tabular.target))),
        tabular.scale(raw[tabular.target]).rename(tabular.target_name),
        tabular.about,
        str(path),
        return_X_y=return_X_y,
        as_frame=as_frame,
    )


def load_table(path: str | Path, *, target: str, drop: Iterable[str] = ()) -> tuple[pd.DataFrame, pd.Series]:
    r"""Read a table from a CSV or Parquet file.

    Parameters
    ----------
    path : str or Path
        A file that ends in .csv (also compressed: .csv.gz, .csv.zip, .csv.bz2, .csv.xz) or .parquet, which needs
        pyarrow.
    target : str
        Name of the column to predict.
    drop : iterable of str, default=()
        Names of columns to leave out.

    Returns
    -------
    features : DataFrame of shape (n_samples, n_features)
        The other columns as they stand in the file.
    target : Series of shape (n_samples,)
        The column to predict.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is neither CSV nor Parquet, cannot be parsed, or lacks a column.

    Examples
    --------
    >>> import tempfile
    >>> from telescoping_sklearn.datasets import load_table
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "flats.csv")
    ...     _ = file.write_text("rooms,note,rent\n2,old,700\n3,new,900\n")
    ...     X, y = load_table(file, target="rent", drop=["note"])
    >>> list(X), y.tolist()
    (['rooms'], [700, 900])
    """
    path, drop = Path(path), list(drop)
    raw = _read_table(path)
    refuse_lost_columns(path, raw.columns, [target, *drop])
    return raw.drop(columns=[target, *drop]), raw[target]


def read_column_names(path: str | Path) -> list[str]:
    r"""Read the column names of a file that `load_table` accepts, without its rows.

    Parameters
    ----------
    path : str or Path
        A CSV or Parquet file.

    Returns
    -------
    list of str
        The names, in the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is neither CSV nor Parquet or cannot be parsed.

    Examples
    --------
    >>> import tempfile
    >>> from telescoping_sklearn.datasets import read_column_names
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "flats.csv")
    ...     _ = file.write_text("rooms,note,rent\n2,old,700\n")
    ...     names = read_column_names(file)
    >>> names
    ['rooms', 'note', 'rent']
    """
    return [str(name) for name in _read_table(Path(path), header_only=True).columns]


def refuse_lost_columns(path: str | Path, columns: Iterable[Any], wanted: Iterable[str]) -> None:
    """Raise ValueError if a file lacks columns; list those it has, and guess the separator if it is not a comma."""
    there = list(columns)
    lost = [name for name in wanted if name not in there]
    if not lost:
        return
    known = ", ".join(map(str, there[:20])) + (", ..." if len(there) > 20 else "")
    hint = ""
    if len(there) == 1:
        marks = {";": "semicolons", "\t": "tabs", "|": "bars"}
        likely = next((word for mark, word in marks.items() if mark in str(there[0])), "")
        hint = f". It seems to be separated by {likely}: save it with commas" if likely else ""
    raise ValueError(f"{path} has no column {', '.join(map(repr, lost))}; it has {known}{hint}")


def _read_table(path: Path, *, header_only: bool = False) -> pd.DataFrame:
    kind = next((suffix for suffix in path.suffixes if suffix.lower() in (".csv", ".parquet")), "").lower()
    if not kind:
        raise ValueError(f"{path} ends in neither .csv nor .parquet")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if kind == ".csv":
            return pd.read_csv(path, nrows=0 if header_only else None)
        return _parquet_header(path) if header_only else pd.read_parquet(path)
    except ImportError as error:
        raise ValueError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from error
    except (ValueError, OSError) as error:  # pandas' parser errors, and Arrow's, are of these kinds
        raise ValueError(f"{path} cannot be read as {kind[1:]}: {error}") from error


def _parquet_header(path: Path) -> pd.DataFrame:
    return import_module("pyarrow.parquet").read_schema(path).empty_table().to_pandas()


def fetch_openml_table(which: int | str) -> tuple[pd.DataFrame, pd.Series]:
    """Fetch a data set of OpenML with its default target, through :func:`sklearn.datasets.fetch_openml`.

    Fetched data are cached in scikit-learn's data folder and then need no network.

    Parameters
    ----------
    which : int or str
        OpenML ID of the data set, or its name; a name gives the oldest active version.

    Returns
    -------
    features : DataFrame of shape (n_samples, n_features)
        The features.
    target : Series of shape (n_samples,)
        The target.

    Raises
    ------
    ValueError
        If OpenML has no such data set, or it does not have exactly one target.
    OSError
        If it is not cached and OpenML cannot be reached; the message says what to do.

    Examples
    --------
    >>> from telescoping_sklearn.datasets import fetch_openml_table
    >>> X, y = fetch_openml_table("house_sales")  # doctest: +SKIP
    """
    named = {"data_id": which} if isinstance(which, int) else {"name": which}
    call = ", ".join(f"{key}={value!r}" for key, value in named.items())
    with _asking_openml(f"data set {which}", f"sklearn.datasets.fetch_openml({call})"):
        fetched = fetch_openml(**named, as_frame=True, parser="auto", n_retries=1, delay=0.1)
    if not isinstance(fetched.target, pd.Series):
        raise ValueError(f"OpenML data set {which} does not have exactly one target")
    return fetched.data, fetched.target


def fetch_openml_suite(number: int) -> list[int]:
    """List the data sets of a benchmarking suite of OpenML.

    Parameters
    ----------
    number : int
        ID of the suite (a "study" on OpenML).

    Returns
    -------
    list of int
        OpenML IDs of its data sets, in the order of the suite.

    Raises
    ------
    ValueError
        If OpenML has no such suite.
    OSError
        If it is not cached and OpenML cannot be reached; the message says what to do.

    Examples
    --------
    >>> from telescoping_sklearn.datasets import fetch_openml_suite
    >>> fetch_openml_suite(336)  # doctest: +SKIP
    """
    url = f"https://www.openml.org/api/v1/json/study/{number}"
    call = f"telescoping_sklearn.datasets.fetch_openml_suite({number})"
    with _asking_openml(f"suite {number}", call):
        content = _get_json_content_from_openml_api(
            url, f"there is no suite {number} on OpenML", str(Path(get_data_home(), "openml")), n_retries=1, delay=0.1
        )
    try:
        return [int(item) for item in content["study"]["data"]["data_id"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"OpenML's study {number} lists no data sets") from error


@contextmanager
def _asking_openml(what: str, call: str) -> Iterator[None]:
    """Explain what to do if OpenML cannot be reached; suppress scikit-learn's warning on every retry."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A network error occurred", category=UserWarning)
            yield
    except OSError as error:
        raise OSError(
            f"OpenML {what} is not on this machine and cannot be fetched ({error}). Where there is a network, run "
            f"{call} once and bring the folder {get_data_home()} here, or name it in SCIKIT_LEARN_DATA."
        ) from error
