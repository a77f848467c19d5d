"""Scikit-learn: forests, single trees and both kinds of gradient boosting, already fitted.

- `_forests`: RandomForestRegressor, ExtraTreesRegressor, DecisionTreeRegressor, ExtraTreeRegressor, and the classifiers
  of the same names.
- `_gradient_boosting`, `_hist_gradient_boosting`: regressors and classifiers. `_boosting` makes their ensembles.
- `_classes`: the class that is explained, and its score.
- `_trees`: leaves of rows, and sums over trees. `_columns`: query rows. `_refusals`: what is not supported.
"""

from typing import Any

import sklearn
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from telescoping_sklearn.boosting.libraries import ReadModel, has_base
from telescoping_sklearn.boosting.libraries.scikit_learn._forests import read_forest
from telescoping_sklearn.boosting.libraries.scikit_learn._gradient_boosting import read_gradient_boosting
from telescoping_sklearn.boosting.libraries.scikit_learn._hist_gradient_boosting import read_hist_gradient_boosting

#: Version that the readers are tested with.
_TESTED = "1.9"
_KINDS = ("Regressor", "Classifier")
_READERS = {
    **{f"GradientBoosting{kind}": read_gradient_boosting for kind in _KINDS},
    **{f"HistGradientBoosting{kind}": read_hist_gradient_boosting for kind in _KINDS},
    **{f"{tree}{kind}": read_forest for tree in ("RandomForest", "ExtraTrees") for kind in _KINDS},
    **{f"{tree}{kind}": read_forest for tree in ("DecisionTree", "ExtraTree") for kind in _KINDS},
}
#: Models that are taken, as shown in errors.
NAMES = tuple(_READERS)


def recognises(model: Any) -> bool:
    """Whether a model is one of scikit-learn's that can be read."""
    return has_base(model, "sklearn", set(_READERS))


def read(model: Any, X: Any, y: NDArray, sample_weight: NDArray | None, output: Any = None) -> ReadModel:
    """Read a fitted model on its training rows; see `telescoping_sklearn.boosting.libraries`.

    Raises
    ------
    ValueError
        If a setting is not supported, or the rows cannot be those of the model.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.
    """
    check_is_fitted(model)
    name = next(base.__name__ for base in type(model).__mro__ if base.__name__ in _READERS)
    try:
        return _READERS[name](model, X, y, sample_weight, output)
    except AttributeError as error:
        raise ValueError(
            f"This {type(model).__name__} is not kept as scikit-learn {_TESTED} keeps it, which is read here; this is "
            f"version {sklearn.__version__} ({error}). Fit the model again with a version that is supported."
        ) from error
