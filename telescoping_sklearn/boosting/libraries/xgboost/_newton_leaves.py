"""Leaves that are Newton steps, with XGBoost's ridge, penalty and limit.

With G the sum of negative gradients in a leaf and H the sum of hessians, its value is

    learning rate * cut(sign(G) max(|G| - reg_alpha, 0) / (H + reg_lambda), max_delta_step).

Training is replayed on the rows given, which shows the sign of each gradient and the leaves that are cut.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._derivatives import LossPath
from telescoping_sklearn.boosting._ensemble import InfluenceTerms, LeafEnsemble
from telescoping_sklearn.boosting.libraries.xgboost._leaf_settings import LeafSettings, LeafSums, find_settings
from telescoping_sklearn.boosting.libraries.xgboost._objectives import Objective
from telescoping_sklearn.boosting.libraries.xgboost._saved import GrownTrees, SavedModel
from telescoping_sklearn.losses import NonQuadraticLoss

#: Trees in which settings are sought.
_TREES_SEARCHED = 30
#: Leaves from which a tree shows its learning rate: other errors are not proportional to all of them.
_LEAVES_THAT_TELL = 4


def newton_ensemble(grown: GrownTrees, saved: SavedModel, objective: Objective) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are Newton steps.

    Raises
    ------
    ValueError
        If monotone constraints set the value of a leaf.
    """
    loss = objective.loss
    largest = max(float(np.abs(values).max()) for values in grown.values)
    settings = find_settings(list(islice(_replay(grown, loss), _TREES_SEARCHED)), largest, saved)
    constrained = any(map(int, saved.told("monotone_constraints").strip("()").replace(",", " ").split()))
    rates, constants, learning_rates = [], [], set()
    for stage, at in enumerate(_replay(grown, loss), start=1):
        fits = settings.fit(at)
        if constrained and not (fits or at.is_zero):
            raise ValueError(
                f"monotone_constraints={saved.told('monotone_constraints')!r} is not supported where it sets leaf "
                f"values, which then depend on other leaves: those of tree {stage} are not what the rows in them give. "
                "Fit the model without it; or give X, y and sample_weight as fit was given them, if they are others."
            )
        rate, constant = settings.steps(at)
        learning_rate = settings.learning_rate if fits else _own_learning_rate(settings, at)
        if at.is_zero and not fits:
            rate, constant = 0 * rate, 0 * constant
        learning_rates.add(learning_rate)
        rates.append(learning_rate * rate)
        constants.append(learning_rate * constant)
    start = objective.start_weights(grown.labels, grown.row_weights, saved)
    of_loss = _of_loss(grown, loss, start)
    terms = None
    if len(learning_rates) == 1 and saved.scale_pos_weight == 1:
        of_start = objective.start_terms(start, grown.labels, grown.row_weights, saved)
        terms = InfluenceTerms(learning_rate=learning_rates.pop(), start=of_start, **of_loss.pop("hessians"))
    of_loss.pop("hessians", None)
    return LeafEnsemble(
        influence_terms=terms,
        leaves=grown.leaves,
        n_leaves=grown.n_leaves,
        row_weights=grown.row_weights,
        trained=grown.row_weights > 0,
        rates=rates,
        constants=constants if any(constant.any() for constant in constants) else None,
        start_weights=start,
        **of_loss,
    )


def _of_loss(grown: GrownTrees, loss: NonQuadraticLoss | None, start: NDArray) -> dict[str, Any]:
    """Fields of the ensemble, and those of `InfluenceTerms` as ``hessians``."""
    if loss is None:
        return {"start_offset": 0.0 if start.any() else grown.start, "hessians": {}}
    path = LossPath(loss, grown.labels, grown.start, grown.leaves, grown.values)
    rates = {"injection": path.label_rate, "feedback": path.curvature, "gradient": path.gradient}
    hessians = {"hessian": path.hessian, "hessian_slope": path.hessian_slope}
    return {"start_offset": grown.start, "hessians": hessians, **rates}


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
    steps = rates * at.negative_gradients + constants
    own = float(steps @ at.values / (steps @ steps)) if steps.any() else settings.learning_rate
    return own if len(steps) >= _LEAVES_THAT_TELL and settings.fit(at, own) else settings.learning_rate
