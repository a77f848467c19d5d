"""The self-check of telescopes: what they rebuild of fitted trees beside what the library itself predicts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._ensemble import LeafEnsemble
from telescoping_sklearn.boosting._leaf_telescope import LeafTelescope
from telescoping_sklearn.boosting.libraries import FittedTrees

#: Relative change of a raw score that float32 labels can cause: raw scores are logarithms of labels.
_RAW_ROUNDING = 4 * float(np.finfo(np.float32).eps)


def spread_tolerance(values: NDArray) -> float:
    """Largest gap between two models of the same labels, or raw scores, that counts as rounding.

    It is 1e-5 standard deviations, plus 1e-6 of the largest deviation from the mean, plus the rounding of float64.
    """
    largest_deviation = np.abs(values - values.mean()).max()
    rounding = 16 * np.finfo(np.float64).eps * np.abs(values).max()
    return float(1e-5 * values.std() + 1e-6 * largest_deviation + rounding)


class Gap(NamedTuple):
    """Raw scores of the training rows by the telescope and by the model, each (n_train,).

    ``tolerance`` is the largest difference that counts as rounding.
    """

    rebuilt: NDArray
    model: NDArray
    tolerance: float

    @property
    def size(self) -> float:
        """Largest difference."""
        return float(np.abs(self.rebuilt - self.model).max())

    @property
    def is_rounding(self) -> bool:
        """Whether the difference is within the tolerance; a difference of NaN is not."""
        return self.size <= self.tolerance


def telescope_of(
    ensemble: LeafEnsemble,
    trees: FittedTrees,
    X: NDArray,
    y: NDArray,
    *,
    seed: int,
    start_at: Callable[[NDArray], NDArray] | None = None,
) -> LeafTelescope:
    """Make the telescope of fitted trees, which has not been compared with anything."""
    options: dict[str, Any] = {"find_leaves": trees.find_leaves, "tree_outputs": trees.tree_outputs}
    options |= {"training_rows": X, "y": y, "trained": ensemble.trained, "seed": seed}
    options["start_at"] = start_at
    return LeafTelescope(ensemble, **options)


def gap_to_model(telescope: LeafTelescope, model: NDArray, rounding: float = 0.0) -> Gap:
    """Compare what a telescope rebuilds with the model's own raw scores of the training rows.

    ``rounding`` is the gap that the library's rounding explains, in addition to `spread_tolerance`.
    """
    of_labels = telescope.is_smoother
    scale = (telescope.y if of_labels else model)[telescope.trained]
    tolerance = spread_tolerance(scale) + rounding + (0.0 if of_labels else _RAW_ROUNDING)
    return Gap(telescope.rebuilt(), model, tolerance)


def checked_telescope(
    ensemble: LeafEnsemble, trees: FittedTrees, X: NDArray, y: NDArray, *, seed: int, rounding: float = 0.0
) -> LeafTelescope:
    """Make the telescope of fitted trees, and compare what it rebuilds with the model's own training predictions.

    Parameters
    ----------
    ensemble : LeafEnsemble
        The trees on the training rows.
    trees : FittedTrees
        The model, as its library predicts with it.
    X, y : ndarray
        Training rows and labels.
    seed : int
        Seed of the probes.
    rounding : float, default=0.0
        Gap that the library's rounding of labels explains, in addition to `spread_tolerance`.

    Returns
    -------
    LeafTelescope
        The telescope.

    Raises
    ------
    ValueError
        If the two differ by more than rounding.
    """
    telescope = telescope_of(ensemble, trees, X, y, seed=seed)
    gap = gap_to_model(telescope, trees.predict(X, raw=True), rounding if ensemble.smoother else 0.0)
    if not gap.is_rounding:
        raise ValueError(
            f"The telescope misses the model's own training predictions by {gap.size:.3g}, more than "
            f"{gap.tolerance:.3g}. Please report this, with the parameters."
        )
    return telescope
