"""The models of a study: their settings by name, how they are fitted, and how they are fitted again without rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import telescoping_sklearn


@dataclass(frozen=True)
class ModelSpec:
    """A model of a study.

    Attributes
    ----------
    family : {"trees", "net"}
        Which scores it has.
    library : {"lightgbm", "xgboost", "torch"}
        What fits it.
    settings : dict
        Settings of the estimator.
    n_train : int, default=600
        Training rows unless the study says otherwise.
    n_subsets : int, default=100
        Random subsets of each size unless the study says otherwise.
    large_share : float, default=0.95
        Share of the rows that the large subsets keep.
    """

    family: str
    library: str
    settings: dict[str, Any] = field(default_factory=dict)
    n_train: int = 600
    n_subsets: int = 100
    large_share: float = 0.95


_NET = {"hidden_layer_sizes": [32, 32], "batch_size": 50, "max_iter": 20, "section": 1}


def _net(**settings: Any) -> ModelSpec:
    return ModelSpec("net", "torch", _NET | settings, n_train=400, n_subsets=50, large_share=0.9)


#: The models that a study can name.
MODELS: Mapping[str, ModelSpec] = {
    "lightgbm": ModelSpec("trees", "lightgbm", {"n_estimators": 100, "learning_rate": 0.1}),
    "xgboost": ModelSpec("trees", "xgboost", {"n_estimators": 100, "learning_rate": 0.1, "max_depth": 5}),
    "net_sgd_0.02": _net(optimizer="sgd", learning_rate_init=0.02, momentum=0.9),
    "net_adam_0.003": _net(optimizer="adam", learning_rate_init=0.003),
    "net_adam_0.001": _net(optimizer="adam", learning_rate_init=0.001),
}


class FittedModel(NamedTuple):
    """A model fitted to all training rows.

    Attributes
    ----------
    telescope : Telescope
        Its telescope.
    fitted : ndarray of shape (n_train,)
        Its predictions of the training rows.
    predicted : ndarray of shape (n_query,)
        Its predictions of the query rows.
    seed : int
        Seed of scores that are random.
    """

    telescope: Any
    fitted: NDArray
    predicted: NDArray
    seed: int


def missing_library(spec: ModelSpec) -> str | None:
    """Return what a model needs and this installation lacks, as a sentence; None if there is nothing."""
    if spec.library == "xgboost" and find_spec("xgboost") is None:
        return "needs xgboost: pip install xgboost"
    return None


def library_versions(spec: ModelSpec) -> dict[str, str]:
    """Return the versions that a fit depends on."""
    return {name: import_module(name).__version__ for name in ("telescoping_sklearn", "numpy", spec.library)}


def fit_explained(spec: ModelSpec, X: NDArray, y: NDArray, X_query: NDArray, seed: int) -> FittedModel:
    """Fit a model to all training rows, with its telescope.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    X, y : ndarray
        Training rows and labels.
    X_query : ndarray of shape (n_query, n_features)
        Query rows.
    seed : int
        Seed of the model.

    Returns
    -------
    FittedModel
        The model.
    """
    model = _estimator(spec, seed, record=True).fit(X, y)
    telescope = telescoping_sklearn.telescope(model, X, y).telescope_ if spec.library == "xgboost" else model.telescope_
    return FittedModel(telescope, _predict(model, X), _predict(model, X_query), seed)


def fit_without(
    spec: ModelSpec,
    X: NDArray,
    y: NDArray,
    X_query: NDArray,
    kept: NDArray,
    seed: int,
    *,
    by_weight: bool,
    versions: dict[str, str],
) -> NDArray:
    """Fit a model again without some rows, and predict the query rows.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    X, y : ndarray
        Training rows and labels.
    X_query : ndarray of shape (n_query, n_features)
        Query rows.
    kept : ndarray of bool of shape (n_train,)
        Rows to train on.
    seed : int
        Seed of the model; initial weights of a net are those of all rows.
    by_weight : bool
        Whether the other rows get a weight of zero instead of being left out, so that a net's batches stay.
    versions : dict
        Versions of the libraries: predictions that are stored are those of the same versions.

    Returns
    -------
    ndarray of shape (n_query,)
        Predictions.
    """
    model = _estimator(spec, seed, record=False)
    if by_weight:
        model.fit(X, y, sample_weight=kept.astype(np.float64))
    else:
        model.fit(X[kept], y[kept])
    return _predict(model, X_query)


def _predict(model: Any, X: NDArray) -> NDArray:
    return np.asarray(model.predict(X), dtype=np.float64)


def _estimator(spec: ModelSpec, seed: int, *, record: bool) -> Any:
    if spec.library == "lightgbm":
        return telescoping_sklearn.TelescopingGBTRegressor(
            **spec.settings, n_jobs=1, random_state=seed, record=record, verbose=-1
        )
    if spec.library == "xgboost":
        return import_module("xgboost").XGBRegressor(**spec.settings, n_jobs=1, random_state=seed)
    settings = spec.settings | {"n_iter_no_change": np.inf}  # retraining must not stop at another epoch
    return telescoping_sklearn.TelescopingMLPRegressor(**settings, random_state=seed, record=record)
