"""The model inside fitted pipelines, target transformers and searches, and how rows and labels reach it."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted


class Unwrapped(NamedTuple):
    """A model, and the fitted transformers that were found around it, the outermost first.

    Attributes
    ----------
    model : object
        The first object that is no pipeline, target transformer or search.
    of_rows : tuple of transformer
        Transformers of X.
    of_labels : tuple of transformer
        Transformers of y; they take a column.
    """

    model: Any
    of_rows: tuple[Any, ...] = ()
    of_labels: tuple[Any, ...] = ()

    def rows(self, X: Any) -> Any:
        """Return X as the model sees it."""
        for transformer in self.of_rows:
            X = transformer.transform(X)
        return X

    def labels(self, y: NDArray) -> NDArray:
        """Return the labels, (n,), that the model was given."""
        for transformer in self.of_labels:
            y = np.asarray(transformer.transform(y.reshape(-1, 1))).ravel()
        return y


def unwrap(estimator: Any) -> Unwrapped:
    """Find the model inside fitted pipelines, target transformers and searches, nested in any way.

    Only types are checked, and no fitted attribute of the model itself is read.

    Parameters
    ----------
    estimator : object
        A model, or a fitted estimator that holds one.

    Returns
    -------
    Unwrapped
        The model, and the transformers around it.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If an estimator around the model is not fitted.
    ValueError
        If a search keeps no model.
    """
    if isinstance(estimator, Pipeline):
        check_is_fitted(estimator)
        inner = unwrap(estimator[-1])
        return inner._replace(of_rows=((estimator[:-1],) if len(estimator) > 1 else ()) + inner.of_rows)
    if isinstance(estimator, TransformedTargetRegressor):
        check_is_fitted(estimator)
        inner = unwrap(estimator.regressor_)
        return inner._replace(of_labels=(estimator.transformer_, *inner.of_labels))
    if isinstance(estimator, BaseSearchCV):
        check_is_fitted(estimator)
        if not hasattr(estimator, "best_estimator_"):
            raise ValueError(
                f"{type(estimator).__name__} was fitted with refit={estimator.refit!r} and keeps no model. Fit it with "
                "refit=True."
            )
        return unwrap(estimator.best_estimator_)
    return Unwrapped(estimator)
