"""Training and query rows of a study: a random sample of a table, prepared as numbers of comparable scale."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import make_friedman1

from telescoping_sklearn import TabularPreparation
from telescoping_sklearn.benchmark._data import DATA_NAMES, Table, read_sources
from telescoping_sklearn.datasets import fetch_openml_table, load_table, read_column_names, tabular_folder

#: Rows that are drawn of Friedman's function.
_FRIEDMAN_ROWS = 5000
#: OpenML's name of Concrete, the file that is looked for in TELESCOPING_DATA, and the number of its features.
_CONCRETE, _CONCRETE_FILE, _CONCRETE_FEATURES = "concrete_compressive_strength", "concrete.csv", 8

ATTRIBUTION_DATA = (*DATA_NAMES, "friedman", "concrete")
"""Names of data sets that a study of attribution takes, beside those of OpenML (``openml:NAME``)."""


class Sample(NamedTuple):
    """Rows of a study for one seed.

    Attributes
    ----------
    X, y : ndarray
        Training rows and labels; the labels have mean 0 and variance 1.
    X_query, y_query : ndarray
        Query rows and labels, in the same units.
    """

    X: NDArray
    y: NDArray
    X_query: NDArray
    y_query: NDArray


def load_concrete(path: str | Path) -> tuple[pd.DataFrame, pd.Series]:
    """Load Concrete (compressive strength of concrete, 1030 rows of 8 features) from a file.

    Parameters
    ----------
    path : str or Path
        A CSV or Parquet file of nine columns of numbers, the last of them the strength. The file of the UCI repository,
        saved as CSV, is of this form.

    Returns
    -------
    features : DataFrame of shape (n_samples, 8)
        Seven ingredients, and age.
    target : Series of shape (n_samples,)
        Strength.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it does not have nine columns of numbers.

    References
    ----------
    I.-C. Yeh. "Modeling of Strength of High-Performance Concrete Using Artificial Neural Networks". Cement and Concrete
    Research 28 (1998), 1797-1808.
    """
    columns = read_column_names(path)
    features, target = load_table(path, target=columns[-1])
    numbers = features.select_dtypes("number").shape[1] + pd.api.types.is_numeric_dtype(target)
    if len(columns) != _CONCRETE_FEATURES + 1 or numbers != len(columns):
        raise ValueError(
            f"{path} is not Concrete: it must have {_CONCRETE_FEATURES + 1} columns of numbers, the last of them the "
            f"strength, and has {len(columns)} columns, {numbers} of them numbers."
        )
    return features, target


def fetch_concrete() -> tuple[pd.DataFrame, pd.Series]:
    """Load Concrete from the folder named by TELESCOPING_DATA, or else from OpenML.

    Returns
    -------
    features : DataFrame of shape (1030, 8)
        Seven ingredients, and age.
    target : Series of shape (1030,)
        Strength.

    Raises
    ------
    OSError
        If it is neither there nor cached, and OpenML cannot be reached; the message says what to do.
    """
    file = Path(tabular_folder(), _CONCRETE_FILE)
    if tabular_folder() and file.is_file():
        return load_concrete(file)
    return fetch_openml_table(_CONCRETE)


def read_table(item: Any) -> Table:
    """Load a data set of a study.

    Parameters
    ----------
    item : str or tuple
        One of `ATTRIBUTION_DATA`, ``openml:NAME``, or (name, X, y), as `check_data` demands.

    Returns
    -------
    Table
        The table.

    Raises
    ------
    ValueError or OSError
        If it cannot be loaded.
    """
    if item == "friedman":
        item = (item, *make_friedman1(_FRIEDMAN_ROWS, noise=1.0, random_state=0))
    elif item == "concrete":
        item = (item, *fetch_concrete())
    (source,) = read_sources([item])
    if isinstance(source, str):
        raise ValueError(source)
    return source.load()


def check_data(item: Any) -> None:
    """Check that an item is a data set that a study takes, without loading it.

    Parameters
    ----------
    item : object
        The item.

    Raises
    ------
    ValueError
        If it is neither one of `ATTRIBUTION_DATA`, nor ``openml:NAME``, nor (name, X, y).
    """
    if isinstance(item, str):
        known = item in ATTRIBUTION_DATA or (item.startswith("openml:") and item != "openml:")
    else:
        known = isinstance(item, tuple) and len(item) == 3 and isinstance(item[0], str)
    if not known:
        raise ValueError(
            f"data: there is no data set {item!r}. Give one of {', '.join(ATTRIBUTION_DATA)}, openml:NAME, or, in "
            "Python, a tuple (name, X, y)."
        )


def draw_sample(table: Table, n_train: int, n_query: int, seed: int) -> Sample:
    """Draw training and query rows, and prepare them as the training rows tell.

    Categories become 0/1 columns, skewed columns are logged, and columns and labels standardised.

    Parameters
    ----------
    table : Table
        The table.
    n_train, n_query : int
        Rows to draw.
    seed : int
        Seed of the draw.

    Returns
    -------
    Sample
        The rows.

    Raises
    ------
    ValueError
        If the table has too few rows.
    """
    if n_train + n_query > len(table.X):
        raise ValueError(
            f"n_train={n_train} and n_query={n_query} make more rows than the table has, {len(table.X)}. Lower them."
        )
    order = np.random.default_rng(seed).permutation(len(table.X))
    train, query = order[:n_train], order[n_train : n_train + n_query]
    columns = TabularPreparation(missing_indicator=True).fit(table.X.iloc[train])
    y = table.y.to_numpy(dtype=np.float64)
    y = (y - y[train].mean()) / y[train].std()
    X, X_query = (np.asarray(columns.transform(table.X.iloc[rows]), dtype=np.float64) for rows in (train, query))
    return Sample(X, y[train], X_query, y[query])
