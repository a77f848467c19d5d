"""Rows as the user has them, as the arrays of numbers that XGBoost takes."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from telescoping_sklearn.boosting.libraries.xgboost._saved import SavedModel


class Columns:
    """The columns of a fitted model.

    Since version 3.1 XGBoost keeps the categories that it was trained on, and a frame may list them in another order.
    Models without them number the categories in the order of their training frame.

    Parameters
    ----------
    saved : SavedModel
        The model.
    missing : float
        Value that stands for missing, as the estimator's parameter ``missing``; nan always does.
    X : array-like of shape (n_train, n_features)
        Training rows.
    """

    def __init__(self, saved: SavedModel, missing: float, X: Any):
        self.n_features = saved.n_features
        self.names = saved.feature_names
        self.missing = missing
        self.categories: Mapping[int, pd.Index] = {}
        if isinstance(X, pd.DataFrame):
            self._refuse_other_columns(X)
            kept = _kept_categories(saved.categories)
            self.categories = {
                place: kept.get(place, dtype.categories)
                for place, dtype in enumerate(X.dtypes)
                if isinstance(dtype, pd.CategoricalDtype)
            }

    def encode(self, X: Any) -> NDArray:
        """Return rows as numbers, (n_rows, n_features): codes of categories, nan for missing values.

        Raises
        ------
        ValueError
            If the columns or categories are not those of the model.
        TypeError
            If X is sparse, or has columns that are neither numbers nor categories.
        """
        if isinstance(X, pd.DataFrame):
            return self._encode_frame(X)
        if hasattr(X, "toarray"):
            raise TypeError(
                f"X is sparse ({type(X).__name__}), and XGBoost takes entries that are not stored as missing. Pass an "
                "array with nan in their place."
            )
        rows = np.asarray(X, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.n_features:
            raise ValueError(
                f"X has shape {rows.shape}, but the model is expecting rows of {self.n_features} features."
            )
        return self._without_missing(rows)

    def _encode_frame(self, X: pd.DataFrame) -> NDArray:
        self._refuse_other_columns(X)
        rows = np.empty(X.shape)
        for place, (name, dtype) in enumerate(X.dtypes.items()):
            column = X.iloc[:, place]
            if isinstance(dtype, pd.CategoricalDtype) != (place in self.categories):
                raise ValueError(
                    f"Column {name!r} has dtype {dtype}: it is a category in only one of X and the training rows. Give "
                    "both the same dtypes."
                )
            if place in self.categories:
                rows[:, place] = _codes(column, self.categories[place])
            elif pd.api.types.is_numeric_dtype(dtype):
                values = column.to_numpy(dtype=np.float64, na_value=np.nan)
                rows[:, place] = self._without_missing(values)
            else:
                raise TypeError(f"Column {name!r} of X has dtype {dtype}. XGBoost takes numbers and categories.")
        return rows

    def _without_missing(self, values: NDArray) -> NDArray:
        return values if np.isnan(self.missing) else np.where(values == self.missing, np.nan, values)

    def _refuse_other_columns(self, X: pd.DataFrame) -> None:
        names = list(map(str, X.columns))
        if len(names) != self.n_features or (self.names is not None and names != self.names):
            expected = self.names or f"{self.n_features} columns"
            raise ValueError(f"X has the columns {names}, and the model was fitted on {expected}.")


def _codes(column: pd.Series, categories: pd.Index) -> NDArray:
    """Positions of the values of a column among categories, nan for missing ones."""
    codes = categories.get_indexer(pd.Index(column.cat.categories))[column.cat.codes].astype(np.float64)
    codes[column.isna().to_numpy()] = np.nan
    if (codes < 0).any():
        unknown = sorted(set(map(str, column[codes < 0])))
        raise ValueError(
            f"Column {column.name!r} has the categories {unknown[:5]}, which the model was not fitted on. Give "
            "categories of the training rows, or missing values."
        )
    return codes


def _kept_categories(saved: Mapping[str, Any]) -> dict[int, pd.Index]:
    """Categories that a model keeps, by column."""
    kept: dict[int, pd.Index] = {}
    for place, column in enumerate(saved.get("enc", [])):
        values = column["values"]
        if "offsets" not in column:
            kept[place] = pd.Index(values)
        elif any(value < 0 for value in values):
            raise ValueError(
                f"Column {place} has categories with letters other than ASCII's. XGBoost 3.2 cuts them, and its "
                "predictions mix them up. Fit the model on categories renamed to ASCII letters or numbers."
            )
        elif values:
            text, ends = bytes(values).decode("ascii"), column["offsets"]
            kept[place] = pd.Index([text[first:end] for first, end in pairwise(ends)])
    return kept
