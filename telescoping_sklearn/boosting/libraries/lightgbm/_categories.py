"""Category columns of a DataFrame as LightGBM takes them: codes, and which columns are split by category.

The estimator sees float64 arrays only. Later frames get the codes of the fit; missing values and categories that are
new to the fit become NaN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def _category_columns(X: pd.DataFrame) -> dict[Any, pd.CategoricalDtype]:
    return {name: dtype for name, dtype in X.dtypes.items() if isinstance(dtype, pd.CategoricalDtype)}


def _refuse_other_columns(X: pd.DataFrame) -> None:
    """Raise ValueError naming the columns that share a name, or are neither numbers nor categories."""
    if not X.columns.is_unique:
        raise ValueError(
            f"X has several columns named {list(X.columns[X.columns.duplicated()].unique())}. Give every "
            "column a different name."
        )
    strange = {
        name: str(dtype)
        for name, dtype in X.dtypes.items()
        if not (isinstance(dtype, pd.CategoricalDtype) or pd.api.types.is_numeric_dtype(dtype))
    }
    if strange:
        raise ValueError(
            f"X has columns {list(strange)} of other types than numbers and categories "
            f"({', '.join(strange.values())}). Convert them, for example with "
            "X.astype({'column': 'category'})."
        )


def _positions(categorical_feature: Sequence, names: Sequence | None, n_features: int) -> list[int]:
    """Turn names and positions of columns into positions."""
    positions = []
    for column in categorical_feature:
        if isinstance(column, str):
            if names is None or column not in list(names):
                raise ValueError(f"categorical_feature names {column!r}, which is not a column of X.")
            positions.append(list(names).index(column))
        elif isinstance(column, int | np.integer) and not isinstance(column, bool):
            if not 0 <= column < n_features:
                raise ValueError(f"categorical_feature={column} is not a column of X, which has {n_features}.")
            positions.append(int(column))
        else:
            raise TypeError(f"categorical_feature takes names and positions of columns, got {column!r}.")
    return sorted(set(positions))


class ColumnCategories:
    """The categories of the columns in a fit.

    Parameters
    ----------
    X : array-like of shape (n_train, n_features)
        Training rows.
    categorical_feature : "auto", or sequence of str or int
        Columns to split by category, by name or position; "auto" selects the unordered category columns of a
        DataFrame. Ordered category columns are split by the order of their categories.

    Raises
    ------
    ValueError
        If a column is neither numeric nor categorical, or does not exist.
    TypeError
        If `categorical_feature` is none of the above.
    """

    def __init__(self, X: Any, categorical_feature: Any = "auto"):
        self.dtypes: dict[Any, pd.CategoricalDtype] = {}
        names = None
        if isinstance(X, pd.DataFrame):
            _refuse_other_columns(X)
            self.dtypes, names = _category_columns(X), list(X.columns)
        self.names = names
        if isinstance(categorical_feature, str):
            if categorical_feature != "auto":
                raise TypeError(
                    "categorical_feature must be 'auto' or a list of names and positions of columns, got "
                    f"{categorical_feature!r}."
                )
            categorical_feature = [names.index(c) for c, dtype in self.dtypes.items() if not dtype.ordered and names]
        elif not isinstance(categorical_feature, Sequence | np.ndarray):
            raise TypeError(
                "categorical_feature must be 'auto' or a list of names and positions of columns, got "
                f"{categorical_feature!r}."
            )
        asked = list(categorical_feature)
        self.positions = _positions(asked, names, np.shape(X)[1]) if asked else []

    def concern(self, X: Any) -> bool:
        """Whether X is a frame with columns that are not numbers, or the fit had such columns."""
        if not isinstance(X, pd.DataFrame):
            return False
        return bool(self.dtypes) or not all(map(pd.api.types.is_numeric_dtype, X.dtypes))

    def encode(self, X: Any) -> Any:
        """Replace the category columns of a DataFrame by codes; return anything else unchanged.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Rows.

        Returns
        -------
        array-like of shape (n_query, n_features)
            The rows, all columns numeric.

        Raises
        ------
        ValueError
            If a column is neither numeric nor categorical, or categorical in only one of this frame and that of the
            fit; or if there are categories and the columns differ in names or order.
        """
        if not isinstance(X, pd.DataFrame):
            return X
        _refuse_other_columns(X)
        given = _category_columns(X)
        changed = [name for name in X.columns if (name in given) != (name in self.dtypes)]
        if changed:
            raise ValueError(
                f"Columns {changed} are categories in one of the two frames given to fit and here, and numbers in the "
                "other. Give both the same dtypes."
            )
        if not given:
            return X
        if list(X.columns) != self.names:  # scikit-learn checks only names that are strings
            raise ValueError(
                f"X has the columns {list(X.columns)}, and the frame given to fit had {self.names}. Give the same "
                "columns in the same order."
            )
        coded = X.copy(deep=False)
        for name, dtype in self.dtypes.items():
            if name in given:
                coded[name] = _codes(X[name], dtype)
        return coded


def _codes(column: pd.Series, dtype: pd.CategoricalDtype) -> NDArray:
    """Positions of the values of a column among the categories of a fit, NaN for all others."""
    codes = column.cat.set_categories(dtype.categories).cat.codes.to_numpy(dtype=np.float64)
    codes[codes < 0] = np.nan
    return codes
