"""From a model that was fitted elsewhere to a telescope that agrees with it, or to an error that says why not.

A reader finds the trees on the rows given; nothing tells it that they are the rows of the fit. So the telescope must
rebuild the model's own predictions of them. Where it does not, likely causes are tried.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._checked import Gap, gap_to_model, telescope_of
from telescoping_sklearn.boosting._leaf_telescope import LeafTelescope
from telescoping_sklearn.boosting.libraries import Reader, ReadModel, find_reader

__all__ = ["LeafTelescope", "ReadModel", "adopt", "find_reader"]

#: Transformations of the labels that are tried, by their name.
_TRANSFORMATIONS: dict[str, Callable[[NDArray], NDArray]] = {
    "np.log(y)": np.log,
    "np.log1p(y)": np.log1p,
    "np.sqrt(y)": np.sqrt,
    "np.exp(y)": np.exp,
    "np.expm1(y)": np.expm1,
}
#: Part of the spread of predictions within which two of them are taken for equal when causes are looked for.
_ALIKE = 1e-4
#: Part of the gap that remains at most where another order of the labels counts as a help.
_HELPS = 0.7


def adopt(
    reader: Reader, model: Any, X: Any, y: NDArray, sample_weight: NDArray | None, output: Any, seed: int
) -> tuple[ReadModel, LeafTelescope]:
    """Read a fitted model on its training rows, make its telescope, and compare the two.

    Parameters
    ----------
    reader : Reader
        The reader of the model's library.
    model : object
        The fitted model.
    X : array-like of shape (n_train, n_features)
        Training rows, as the model was given them.
    y : ndarray of shape (n_train,)
        Training labels.
    sample_weight : ndarray of shape (n_train,) or None
        Training weights.
    output : object
        Class of a classifier, or None.
    seed : int
        Seed of the probes.

    Returns
    -------
    read : ReadModel
        The model on its training rows.
    telescope : LeafTelescope
        Its telescope.

    Raises
    ------
    ValueError
        If a setting is not supported, the telescope does not rebuild the model's predictions, or weights that the model
        recorded are not those of the rows.
    """
    read = reader.read(model, X, y, sample_weight, output)
    telescope, gap = _compared(read, seed)
    if _agrees(read, gap):
        return read, telescope
    unneeded = _unneeded_weights(reader, (model, X, y, sample_weight, output), seed)
    causes = chain(unneeded, read.clues, _causes(telescope, gap))
    found = (
        "agrees with the model's own predictions, but the rows or weights given are not those of its training"
        if gap.is_rounding
        else f"misses the model's own predictions of the rows given by up to {_size(telescope, gap)}"
    )
    raise ValueError(
        f"The telescope of this {type(model).__name__} {found}. "
        f"Likely cause: {next(causes)}. Give X, y and sample_weight exactly as fit was given "
        "them, in the same order."
    )


def _agrees(read: ReadModel, gap: Gap) -> bool:
    """Whether a telescope rebuilds the model, and no record of the model contradicts the rows."""
    return gap.is_rounding and not (read.clues_refuse and read.clues)


def _size(telescope: LeafTelescope, gap: Gap) -> str:
    """Size of a gap in words: in standard deviations of the labels, or of raw scores, and as it is."""
    values, what = (telescope.y, "labels") if telescope.is_smoother else (gap.model, "raw scores")
    spread, numbers = float(np.std(values)), f"{gap.size:.3g}, and {gap.tolerance:.3g} is rounding"
    return f"{gap.size / spread:.3g} standard deviations of the {what} ({numbers})" if spread > 0 else numbers


def _compared(read: ReadModel, seed: int) -> tuple[LeafTelescope, Gap]:
    telescope = telescope_of(read.ensemble, read.trees, read.rows, read.y, seed=seed, start_at=read.start_at)
    model = read.trees.predict(read.rows, raw=True) if read.raw is None else read.raw
    return telescope, gap_to_model(telescope, model, read.rounding)


# -- causes ------------------------------------------------------------------------------------------------------------


def _unneeded_weights(reader: Reader, given: tuple[Any, ...], seed: int) -> Iterator[str]:
    """Yield that weights were given which training did not have."""
    model, X, y, sample_weight, output = given
    if sample_weight is None:
        return
    try:
        read = reader.read(model, X, y, None, output)
        gap = _compared(read, seed)[1]
    except ValueError:
        return
    if _agrees(read, gap):
        yield "the model was trained without sample_weight: leave it out"


def _causes(telescope: LeafTelescope, gap: Gap) -> Iterator[str]:
    """Yield what may explain a gap, the likeliest first."""
    if telescope.is_smoother:
        yield from _changed_labels(telescope, gap)
        yield from _other_order(telescope, gap)
    yield _differing_rows(telescope, gap)


def _changed_labels(telescope: LeafTelescope, gap: Gap) -> Iterator[str]:
    """Yield the transformation of the labels under which they are those of the model."""
    spread = float(np.std(gap.model))
    if spread == 0 or not np.isfinite(gap.rebuilt).all():
        return
    slope, intercept = np.polyfit(gap.model, gap.rebuilt, 1)
    if np.abs(slope * gap.model + intercept - gap.rebuilt).max() <= _ALIKE * abs(slope) * spread:
        yield (
            f"the labels are {slope:.6g} times those that the model was trained on, plus {intercept:.6g}: give y in "
            "the units of the model"
        )
        return
    gaps = {name: _gap_under(telescope, transformation, gap) for name, transformation in _TRANSFORMATIONS.items()}
    name = min(gaps, key=lambda name: gaps[name])
    if gaps[name] <= _ALIKE * spread:
        yield f"the model was trained on {name}: give those labels"


def _gap_under(telescope: LeafTelescope, transformation: Callable[[NDArray], NDArray], gap: Gap) -> float:
    """Largest gap to the model with the labels transformed; infinite where they have no transformed value."""
    with np.errstate(all="ignore"):
        labels = np.where(telescope.trained, transformation(telescope.y), 0.0)
    if not np.isfinite(labels).all():
        return np.inf
    rebuilt = next(telescope.staged_response(None, labels[:, None], offset=True, stages=[telescope.n_stages]))
    return float(np.abs(rebuilt.sum(axis=1) - gap.model).max())


def _other_order(telescope: LeafTelescope, gap: Gap) -> Iterator[str]:
    """Yield that rows or labels are in another order where labels sorted as the model's predictions rebuild it better.

    Only boosting is asked: it starts from the mean, and keeps the mean of predictions there.
    """
    trained = telescope.trained
    model, labels, weights = gap.model[trained], telescope.y[trained], telescope.row_weights[trained]
    if telescope.ensemble.is_average or abs(weights @ (model - labels)) > 1e-3 * weights.sum() * labels.std():
        return
    ordered = telescope.y.copy()
    ordered[np.flatnonzero(trained)[np.argsort(model, kind="stable")]] = np.sort(labels)
    if _gap_under(telescope, lambda _: ordered, gap) < _HELPS * gap.size:
        yield "X, y or sample_weight are in another order than in fit"


def _differing_rows(telescope: LeafTelescope, gap: Gap) -> str:
    """Say that rows differ, and at which one the gap is largest; a gap of NaN counts as that."""
    gaps = np.where(telescope.trained, np.abs(gap.rebuilt - gap.model), 0.0)
    row = int(np.argmax(gaps))
    return (
        f"some labels or rows differ from those that the model was trained on (the gap is largest at row {row}, "
        f"y={telescope.y[row]:.6g}), or sample_weight was left out or is not that of the fit, or a start was given to "
        "fit, such as init_score"
    )
