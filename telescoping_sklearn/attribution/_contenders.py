"""The scores that a study compares, by name: those of telescopes, and those of `_tree_contenders`, `_net_contenders`.

A contender takes a fitted model and query rows and gives scores, (n_query, n_train). A score with a setting to tune,
such as a damping, has a variant for each of its values beside the untuned one.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.attribution._models import FittedModel, ModelSpec
from telescoping_sklearn.attribution._net_contenders import ekfac, gauss_newton, tracin, trak
from telescoping_sklearn.attribution._tree_contenders import (
    boostin,
    leaf_influence,
    leaf_influence_single_point,
    leaf_proximity,
)

#: Dampings of influence functions that are tried, for labels of unit variance.
DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
#: Dimensions of TRAK's projection that are tried.
DIMENSIONS = (16, 64, 256)


class Contender(NamedTuple):
    """A score in a study.

    Attributes
    ----------
    name : str
        Name in the results.
    variant : str
        The setting that is tuned and its value, such as "damping 0.1"; empty where nothing is tuned.
    score : callable
        Maps a fitted model and query rows (None for the training rows) to scores, (n_query, n_train).
    """

    name: str
    variant: str
    score: Callable[[FittedModel, NDArray | None], NDArray]


def weights_times_residuals(telescope: Any, X: NDArray | None) -> NDArray:
    """Kernel weights times the training residuals, s_i(x) (y_i - f(x_i)).

    Parameters
    ----------
    telescope : Telescope
        Telescope of a fitted model.
    X : ndarray of shape (n_query, n_features) or None
        Query rows; None for the training rows.

    Returns
    -------
    ndarray of shape (n_query, n_train)
        The scores.
    """
    return telescope.kernel_weights(X) * (telescope.y - _fitted(telescope))


def weights_times_labels(telescope: Any, X: NDArray | None) -> NDArray:
    """Kernel weights times the training labels, s_i(x) y_i: what each label contributes to the prediction.

    Parameters
    ----------
    telescope : Telescope
        Telescope of a fitted model.
    X : ndarray of shape (n_query, n_features) or None
        Query rows; None for the training rows.

    Returns
    -------
    ndarray of shape (n_query, n_train)
        The scores.
    """
    return telescope.kernel_weights(X) * telescope.y


#: A score that a user brings: maps a telescope and query rows (None for the training rows) to (n_query, n_train).
Score = Callable[[Any, NDArray | None], NDArray]


def contenders(spec: ModelSpec, more: Mapping[str, Score] | None = None) -> Iterator[Contender]:
    """Yield the scores that a model has.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    more : dict of str to callable or None, default=None
        Further scores by name.

    Yields
    ------
    Contender
        The scores.
    """
    yield _of_telescope("influence", lambda telescope, X: telescope.influence(X))
    yield _of_telescope("S r", weights_times_residuals)
    yield _of_telescope("S y", weights_times_labels)
    yield from _of_trees() if spec.family == "trees" else _of_nets(spec)
    for name, function in (more or {}).items():
        yield _of_telescope(name, function)
    yield Contender("random", "", _random)


def _of_trees() -> Iterator[Contender]:
    yield _of_telescope("BoostIn", boostin)
    yield _of_telescope("LeafInfluence", leaf_influence)
    yield _of_telescope("LeafInfluence, single point", leaf_influence_single_point)
    yield _of_telescope("leaf proximity", leaf_proximity)


def _of_nets(spec: ModelSpec) -> Iterator[Contender]:
    if spec.settings["optimizer"] != "sgd":
        yield _of_telescope(
            "influence, held denominators", lambda telescope, X: telescope.influence(X, denominators="held")
        )
    yield _of_telescope("TracIn", tracin)
    for name, function in {"Gauss-Newton": gauss_newton, "EK-FAC": ekfac}.items():
        yield _of_telescope(name, function)
        for damping in DAMPINGS:
            yield _of_telescope(name, partial(function, damping=damping), f"damping {damping:g}")
    for dimensions in (few for few in DIMENSIONS if few < spec.n_train):
        yield Contender("TRAK", f"dimensions {dimensions}", partial(_trak, dimensions))


def _of_telescope(name: str, function: Score, variant: str = "") -> Contender:
    return Contender(name, variant, lambda model, X: function(model.telescope, X))


def _trak(dimensions: int, model: FittedModel, X: NDArray | None) -> NDArray:
    return trak(model.telescope, X, dimensions=dimensions, seed=model.seed)


def _random(model: FittedModel, X: NDArray | None) -> NDArray:
    telescope = model.telescope
    return np.random.default_rng(model.seed).normal(size=(telescope.n_query(X), telescope.n_samples))


def _fitted(telescope: Any) -> NDArray:
    """Return the model's own predictions of the training rows, (n_train,)."""
    return next(telescope.staged_model(None, [telescope.n_stages]))
