"""Rows as the user has them, as the arrays that CatBoost takes."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from telescoping_sklearn.boosting.libraries.catboost._saved import SavedModel


class Columns:
    """The columns of a fitted model: numbers, or objects where some hold categories."""

    def __init__(self, saved: SavedModel):
        names = list(map(str, saved.model.feature_names_))
        self.n_features = len(names)
        self.names = None if names == [str(place) for place in range(len(names))] else names
        self.categorical = saved.categorical

    def encode(self, X: Any) -> NDArray:
        """Return rows as a two-dimensional array, (n_rows, n_features).

        Raises
        ------
        ValueError
            If the columns are not those of the model.
        TypeError
            If X is sparse.
        """
        if hasattr(X, "toarray"):
            raise TypeError(f"X is sparse ({type(X).__name__}). Pass a dense array: X.toarray().")
        if isinstance(X, pd.DataFrame):
            given = list(map(str, X.columns))
            if self.names is not None and given != self.names:
                raise ValueError(f"X has the columns {given}, and the model was fitted on {self.names}.")
            if self.categorical:
                X = X.astype(object).where(X.notna(), np.nan)
            else:
                X = X.to_numpy(dtype=np.float64, na_value=np.nan)
        rows = np.asarray(X, dtype=object if self.categorical else np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.n_features:
            raise ValueError(
                f"X has shape {rows.shape}, but the model is expecting rows of {self.n_features} features."
            )
        return rows
