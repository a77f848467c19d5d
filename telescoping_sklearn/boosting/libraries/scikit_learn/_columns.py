"""Query rows as scikit-learn's models take them."""

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data


class Columns:
    """Turns rows into arrays as a fitted model does, after checking their columns against those of its `fit`.

    Parameters
    ----------
    model : estimator
        The fitted model. A shallow copy without its trees is kept, which a later fit of the model does not change.
    allow_nan : bool
        Whether missing values are allowed.
    """

    def __init__(self, model: Any, *, allow_nan: bool):
        self._model = copy.copy(model)
        for name in ("estimators_", "tree_", "_sample_weight"):
            vars(self._model).pop(name, None)
        self._finite: bool | str = "allow-nan" if allow_nan else True

    def __call__(self, X: Any) -> NDArray:
        """Return rows in float32, which these trees split on."""
        return validate_data(self._model, X, reset=False, dtype=np.float32, ensure_all_finite=self._finite)


class EncodedColumns:
    """Turns rows into arrays as histogram-based gradient boosting does: categories become codes and come first."""

    def __init__(self, model: Any):
        self._model = copy.copy(model)
        for name in ("_predictors", "_bin_mapper"):
            vars(self._model).pop(name, None)

    def __call__(self, X: Any) -> NDArray:
        """Return rows in float64, codes of categories first."""
        return np.asarray(self._model._preprocess_X(X, reset=False))
