"""The settings that leaf values depend on: those the model tells, or those that its leaves show.

A model in memory tells its settings. A loaded one does not: XGBoost then reports its defaults. Where the leaves of the
first trees do not have the values that the settings told give, settings are sought that do. With the learning rate r, a
leaf that is neither at zero nor cut has G = H v / r + v reg_lambda / r + sign(v) reg_alpha, which is linear in what is
sought.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting.libraries._newton_steps import newton_steps
from telescoping_sklearn.boosting.libraries.xgboost._saved import SavedModel

_FLOAT32_EPS = float(np.finfo(np.float32).eps)
#: Rounding errors of a leaf value that count as the same.
_ROUNDING = 16 * _FLOAT32_EPS
#: Digits of settings that are tried before those found are taken as they are.
_DIGITS = (1, 2, 3, 4, 5, 6, None)
#: Equations beyond the number of settings sought, and largest uncertainty of a weight, with which they count as found.
_SPARE_EQUATIONS, _MOST_UNCERTAIN = 2, 1e-4
_LEAST_SINGULAR_VALUE = 1e-9

_NAMES = ("learning_rate", "reg_lambda", "reg_alpha", "max_delta_step")


class LeafSums(NamedTuple):
    """Sums over the rows of each leaf of a tree, and the values of the leaves, each (n_leaves,).

    ``negative_gradients`` are the negative gradients, ``sizes`` the numbers whose rounding enters them.
    """

    negative_gradients: NDArray
    hessians: NDArray
    sizes: NDArray
    values: NDArray

    @property
    def is_zero(self) -> bool:
        """Whether the tree is one leaf at zero, as where the rows together are below min_child_weight."""
        return len(self.values) == 1 and self.values[0] == 0.0


class LeafSettings(NamedTuple):
    """Settings that leaf values depend on; ``limit`` is that of a step, and 0 stands for none."""

    learning_rate: float
    ridge: float
    penalty: float
    limit: float

    def steps(self, at: LeafSums) -> tuple[NDArray, NDArray]:
        """Return steps of leaves as affine maps of negative gradients: rates and constants, no learning rate."""
        return newton_steps(at.negative_gradients, at.hessians + self.ridge, self.penalty, self.limit)

    def fit(self, at: LeafSums, learning_rate: float | None = None) -> bool:
        """Whether all leaves have the values that the settings give, up to rounding."""
        rate = self.learning_rate if learning_rate is None else learning_rate
        rates, constants = self.steps(at)
        # Where a leaf is at zero or cut, its gradient may still be misjudged by as much.
        slopes = np.divide(1.0, at.hessians + self.ridge, out=np.zeros_like(rates), where=at.hessians + self.ridge > 0)
        allowed = _ROUNDING * (abs(rate) * slopes * at.sizes + np.abs(at.values))
        return bool((np.abs(rate * (rates * at.negative_gradients + constants) - at.values) <= allowed).all())


def find_settings(stages: Sequence[LeafSums], largest: float, saved: SavedModel) -> LeafSettings:
    """Find the settings that give the first trees their leaf values: those told, else those that the leaves show.

    The settings told are returned where none fit: the rows or labels are then others than those of the fit.

    Parameters
    ----------
    stages : sequence of LeafSums
        The first trees.
    largest : float
        Largest size of the leaf values of all trees.
    saved : SavedModel
        The model.

    Raises
    ------
    ValueError
        If several settings fit.
    """
    stages = [at for at in stages if not at.is_zero]
    told = [LeafSettings(*(told_of[name] for name in _NAMES)) for told_of in saved.told_settings(_NAMES)]
    for settings in told:
        if all(map(settings.fit, stages)):
            return settings
    values = np.concatenate([np.abs(at.values) for at in stages])
    known = not np.isin(values, (0.0, largest)).all()
    for at_most, penalised in product((np.inf, largest), (False, True)):
        found, certain = _found(stages, at_most, penalised)
        if found is not None and certain:
            return found
        known &= certain
    if not known:
        listed = ", ".join(f"{name}={value:.6g}" for name, value in zip(_NAMES, told[0], strict=True))
        raise ValueError(
            f"The leaves do not have the values that {listed} give on these rows, and are too few to find others. X, y "
            "and sample_weight must be those of the fit. If the model was loaded, its file does not hold these "
            "settings: set them as it was fitted, with model.set_param({'reg_lambda': ...}) for a Booster, or "
            "XGBRegressor(reg_lambda=...) before load_model for an estimator."
        )
    return told[0]


def _found(stages: Sequence[LeafSums], at_most: float, penalised: bool) -> tuple[LeafSettings | None, bool]:
    """Find settings that give leaves below a size their values, and cut others; and whether leaves are enough.

    Settings are None where none fit.
    """
    negative_gradients, hessians, sizes, values = (np.concatenate(parts) for parts in zip(*stages, strict=True))
    used = (np.abs(values) < at_most) & (values != 0) & (sizes > 0)
    columns = [hessians * values, values] + [np.sign(values)] * penalised
    system = (np.column_stack(columns) / np.where(sizes > 0, sizes, 1.0)[:, None])[used]
    if len(system) < len(columns) + _SPARE_EQUATIONS:
        return None, False
    norms = np.sqrt((system**2).sum(axis=0))
    if np.linalg.matrix_rank(system / norms, tol=_LEAST_SINGULAR_VALUE) < len(columns):
        return None, False
    inverse = np.linalg.pinv(system / norms) / norms[:, None]
    solution = inverse @ (negative_gradients[used] / sizes[used])
    found = _rounded_to_fit(solution, at_most, stages) if solution[0] > 0 else None
    if found is None:
        return None, True
    spread, H = inverse @ inverse.T, hessians[used]
    errors = np.sqrt(np.maximum(H**2 * spread[0, 0] + 2 * H * spread[0, 1] + spread[1, 1], 0.0))
    uncertain = 2 * _FLOAT32_EPS * errors / np.abs(H * solution[0] + solution[1])
    return found, bool(uncertain.max() <= _MOST_UNCERTAIN)


def _rounded_to_fit(solution: NDArray, at_most: float, stages: Sequence[LeafSums]) -> LeafSettings | None:
    """Find settings with the fewest digits that give all leaves their values; None where none do."""
    penalty = solution[2] if len(solution) > 2 else 0.0
    for rate, ridge, alpha in _roundings((1 / solution[0], solution[1] / solution[0], penalty)):
        if rate <= 0:
            continue
        limit = 0.0 if np.isinf(at_most) else at_most / rate
        settings = LeafSettings(rate, max(ridge, 0.0), max(alpha, 0.0), limit)
        if all(map(settings.fit, stages)):
            return settings
    return None


def _roundings(numbers: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
    """Yield numbers rounded to more and more digits; what differs from zero by rounding only becomes zero."""
    for digits in _DIGITS:
        if digits is None:
            yield numbers
        else:
            yield tuple(0.0 if abs(number) < 1e-6 else float(f"{number:.{digits}g}") for number in numbers)
