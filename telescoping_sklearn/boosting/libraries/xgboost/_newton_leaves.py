"""Leaves that are Newton steps, with XGBoost's ridge, penalty and limit.

With G the sum of negative gradients in a leaf and H the sum of hessians, its value is

    learning rate * cut(sign(G) max(|G| - reg_alpha, 0) / (H + reg_lambda), max_delta_step).

Training is replayed on the rows given. A model in memory tells its settings. A loaded one does not: XGBoost then reports
its defaults. Where the leaves do not have the values that the settings told give, settings are sought that do.
"""

from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._derivatives import LossPath
from telescoping_sklearn.boosting._ensemble import LeafEnsemble
from telescoping_sklearn.boosting.libraries._newton_steps import newton_steps
from telescoping_sklearn.boosting.libraries.xgboost._saved import GrownTrees, SavedModel
from telescoping_sklearn.losses import NonQuadraticLoss

#: Trees in which settings are sought.
_TREES_SEARCHED = 30
#: Rounding errors of a leaf value that count as the same, as multiples of float32's precision.
_ROUNDING = 16 * float(np.finfo(np.float32).eps)
#: Digits of settings that are tried before those found are taken as they are.
_DIGITS = range(1, 7)


class LeafSums(NamedTuple):
    """Sums over the rows of each leaf of a tree, and the values of the leaves, each (n_leaves,).

    ``pulls`` are the negative gradients, ``sizes`` the numbers whose rounding enters them.
    """

    pulls: NDArray
    hessians: NDArray
    sizes: NDArray
    values: NDArray


class LeafSettings(NamedTuple):
    """Settings that leaf values depend on; ``limit`` is that of a step, and 0 stands for none."""

    learning_rate: float
    ridge: float
    penalty: float
    limit: float

    def steps(self, at: LeafSums) -> tuple[NDArray, NDArray]:
        """Steps of the leaves as affine maps of the pulls: rates and constants, learning rate left aside."""
        return newton_steps(at.pulls, at.hessians + self.ridge, self.penalty, self.limit)

    def fit(self, at: LeafSums, learning_rate: float | None = None) -> bool:
        """Whether all leaves have the values that the settings give, up to rounding."""
        rate = self.learning_rate if learning_rate is None else learning_rate
        rates, constants = self.steps(at)
        # Where a leaf is at zero or cut, its pull may still be misjudged by as much.
        slopes = np.divide(1.0, at.hessians + self.ridge, out=np.zeros_like(rates), where=at.hessians + self.ridge > 0)
        allowed = _ROUNDING * (abs(rate) * slopes * at.sizes + np.abs(at.values))
        return bool((np.abs(rate * (rates * at.pulls + constants) - at.values) <= allowed).all())


def newton_ensemble(
    grown: GrownTrees, saved: SavedModel, loss: NonQuadraticLoss | None, start: NDArray
) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are Newton steps; ``start`` holds the weights of labels in f_0.

    Raises
    ------
    ValueError
        If monotone constraints set the value of a leaf.
    """
    settings = _settings(list(islice(_replay(grown, loss), _TREES_SEARCHED)), grown, saved)
    constrained = any(map(int, saved.told("monotone_constraints").strip("()").replace(",", " ").split()))
    rates, constants = [], []
    for stage, at in enumerate(_replay(grown, loss), start=1):
        fits = settings.fit(at)
        if constrained and not fits:
            raise ValueError(
                f"monotone_constraints={saved.told('monotone_constraints')!r} is not supported where it sets leaf "
                f"values, as in tree {stage}: they depend on other leaves. Fit the model without it."
            )
        rate, constant = settings.steps(at)
        learning_rate = settings.learning_rate if fits else _own_learning_rate(settings, at)
        if not fits and len(at.values) == 1 and at.values[0] == 0.0:  # the whole weight is below min_child_weight
            learning_rate = 0.0
        rates.append(learning_rate * rate)
        constants.append(learning_rate * constant)
    return LeafEnsemble(
        leaves=grown.leaves,
        n_leaves=grown.n_leaves,
        row_weights=grown.row_weights,
        trained=grown.row_weights > 0,
        rates=rates,
        constants=constants if any(constant.any() for constant in constants) else None,
        start_weights=start,
        **_of_loss(grown, loss, start),
    )


def _of_loss(grown: GrownTrees, loss: NonQuadraticLoss | None, start: NDArray) -> dict:
    if loss is None:
        return {"start_offset": 0.0 if start.any() else grown.start}
    path = LossPath(loss, grown.labels, grown.start, grown.leaves, grown.values)
    rates = {"injection": path.label_rate, "feedback": path.curvature, "gradient": path.gradient}
    return {"start_offset": grown.start, **rates}


def _replay(grown: GrownTrees, loss: NonQuadraticLoss | None) -> Iterator[LeafSums]:
    """Yield the sums of every tree at the raw scores before it."""
    raw, y, w = np.full(len(grown.labels), grown.start), grown.labels, grown.row_weights
    largest = np.abs(y).max() + abs(grown.start)
    for leaves, values in zip(grown.leaves, grown.values, strict=True):

        def sums(of_rows: NDArray, leaves: NDArray = leaves, values: NDArray = values) -> NDArray:
            return np.bincount(leaves, w * of_rows, len(values))

        if loss is None:
            hessians = np.bincount(leaves, w, len(values))
            yield LeafSums(sums(y - raw), hessians, largest * hessians, values)
        else:
            gradient, hessian = loss.gradient(y, raw), loss.hessian(y, raw)
            sizes = np.abs(gradient) + np.abs(loss.label_rate(y, raw) * y) + hessian * (1 + np.abs(raw))
            yield LeafSums(sums(-gradient), sums(hessian), sums(sizes), values)
        raw = raw + values[leaves]


def _own_learning_rate(settings: LeafSettings, at: LeafSums) -> float:
    """Return the learning rate of one tree, which a schedule may have set; that of the settings where none fits."""
    rates, constants = settings.steps(at)
    steps = rates * at.pulls + constants
    own = float(steps @ at.values / (steps @ steps)) if steps.any() else settings.learning_rate
    return own if len(steps) > 1 and settings.fit(at, own) else settings.learning_rate


# -- settings ---------------------------------------------------------------------------------------------------------


def _settings(stages: Sequence[LeafSums], grown: GrownTrees, saved: SavedModel) -> LeafSettings:
    """Settings that the model tells, or those that its first trees show where these do not fit."""
    limit = float(saved.told("max_delta_step"))
    if "poisson_regression_param" in saved.objective:  # the same parameter, which a file holds
        limit = float(saved.objective["poisson_regression_param"]["max_delta_step"])
    names = ("learning_rate", "reg_lambda", "reg_alpha")
    told = LeafSettings(*(float(np.float32(saved.told(name))) for name in names), limit)
    if all(map(told.fit, stages)):
        return told
    largest = max(float(np.abs(values).max()) for values in grown.values)
    for at_most, penalised in product((np.inf, largest), (False, True)):
        found = _found(stages, at_most, penalised)
        if found is not None:
            return found
    return told


def _found(stages: Sequence[LeafSums], at_most: float, penalised: bool) -> LeafSettings | None:
    """Settings that give all leaves below a size their values, and cut others; None if there are none.

    For these leaves G = H v / learning_rate + v reg_lambda / learning_rate + sign(v) reg_alpha.
    """
    pulls, hessians, sizes, values = (np.concatenate(parts) for parts in zip(*stages, strict=True))
    used = (np.abs(values) < at_most) & (values != 0) & (sizes > 0)
    columns = [hessians * values, values] + [np.sign(values)] * penalised
    weights = 1 / np.where(sizes > 0, sizes, 1.0)
    system = np.column_stack(columns)[used] * weights[used, None]
    if len(system) < len(columns) or not system.any(axis=0).all():
        return None
    norms = np.sqrt((system**2).sum(axis=0))
    solution = np.linalg.lstsq(system / norms, (pulls * weights)[used], rcond=1e-12)[0] / norms
    if solution[0] <= 0:
        return None
    numbers = [1 / solution[0], solution[1] / solution[0], solution[2] if penalised else 0.0]
    for digits in (*_DIGITS, None):
        rate, ridge, penalty = (_rounded(number, digits) for number in numbers)
        if not rate:
            continue
        settings = LeafSettings(rate, max(ridge, 0.0), max(penalty, 0.0), 0.0 if np.isinf(at_most) else at_most / rate)
        if all(map(settings.fit, stages)):
            return settings
    return None


def _rounded(number: float, digits: int | None) -> float:
    """Round to significant digits, and numbers that differ from zero by rounding only to zero."""
    if digits is None:
        return number
    return 0.0 if abs(number) < 1e-6 else float(f"{number:.{digits}g}")
