"""Leaf values as affine functions of the labels: steps, or quantiles of residuals."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn.boosting._derivatives import LossPath
from telescoping_sklearn.boosting._ensemble import InfluenceTerms, LeafEnsemble, SparseWeights, mean_start_terms
from telescoping_sklearn.boosting._quantiles import quantile_weights
from telescoping_sklearn.boosting.libraries.catboost._objectives import Objective
from telescoping_sklearn.losses import NonQuadraticLoss, SquaredError

_FLOAT32_EPS = float(np.finfo(np.float32).eps)
#: Largest difference, relative to its own, of the weight in a leaf and that which training put there.
_WEIGHT_TOLERANCE = 1e-5


class GrownTrees(NamedTuple):
    """Trees on their training rows.

    Attributes
    ----------
    leaves : ndarray of int of shape (n_stages, n_train)
        Leaf of every training row in every tree.
    values : list of ndarray of shape (n_leaves,)
        What each leaf adds to the raw score.
    labels, row_weights : ndarray of shape (n_train,)
        Labels and weights as CatBoost keeps them.
    start : float
        Raw score that training starts from.
    learning_rate, ridge : float
        Factor of the steps, and what is added to their denominators.
    classes_weighted : bool
        Whether weights of classes multiply those of rows.
    """

    leaves: NDArray
    values: list[NDArray]
    labels: NDArray
    row_weights: NDArray
    start: float
    learning_rate: float
    ridge: float
    classes_weighted: bool

    def common(self) -> dict[str, Any]:
        """Return what both kinds of ensembles share."""
        return {
            "leaves": self.leaves,
            "n_leaves": np.array([len(values) for values in self.values]),
            "row_weights": self.row_weights,
        }


def weight_clues(grown: GrownTrees, leaf_weights: list[NDArray]) -> tuple[str, ...]:
    """Say where leaves hold another weight than that which training put there."""
    for stage, (leaves, expected) in enumerate(zip(grown.leaves, leaf_weights, strict=True), start=1):
        found = np.bincount(leaves, grown.row_weights, len(expected))
        wrong = np.flatnonzero(np.abs(found - expected) > _WEIGHT_TOLERANCE * np.maximum(found, expected))
        if len(wrong):
            return (
                f"training put rows of weight {expected[wrong[0]]:.6g} into a leaf of tree {stage}, and the rows given "
                f"put {found[wrong[0]]:.6g} there: they are other rows, or have other weights",
            )
    return ()


def newton_ensemble(grown: GrownTrees, objective: Objective, from_labels: bool) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are steps; ``from_labels`` says whether labels set the start.

    Influence holds the ridge, which is a multiple of the mean weight. With weights of classes it is not known.
    """
    loss = objective.loss
    path = None if loss is None else LossPath(loss, grown.labels, grown.start, grown.leaves, grown.values)
    rates = []
    for stage, (leaves, values) in enumerate(zip(grown.leaves, grown.values, strict=True), start=1):
        hessians = grown.row_weights
        if path is not None and objective.newton:
            hessians = hessians * path.before(stage).hessian
        denominators = np.bincount(leaves, hessians, len(values)) + grown.ridge
        rates.append(np.divide(grown.learning_rate, denominators, out=np.zeros(len(values)), where=denominators > 0))
    start = _start_weights(grown, loss) if from_labels else np.zeros(len(grown.labels))
    terms = None
    if not grown.classes_weighted:
        of_hessian: dict[str, Any] = {}
        if path is not None and objective.newton:
            of_hessian = {"hessian": path.hessian, "hessian_slope": path.hessian_slope}
        of_start = mean_start_terms(start, grown.row_weights, grown.labels)
        terms = InfluenceTerms(learning_rate=grown.learning_rate, start=of_start, **of_hessian)
    of_loss: dict[str, Any] = {"start_offset": 0.0 if from_labels else grown.start}
    if path is not None:
        of_loss = {"start_offset": grown.start, "injection": path.label_rate, "feedback": path.curvature}
        of_loss["gradient"] = path.gradient
    of_loss |= {"trained": grown.row_weights > 0, "influence_terms": terms}
    return LeafEnsemble(**grown.common(), rates=rates, start_weights=start, **of_loss)


def _start_weights(grown: GrownTrees, loss: NonQuadraticLoss | None) -> NDArray:
    """Weights of the labels in the mean, or derivatives of its raw score in them."""
    w = grown.row_weights
    if loss is None:
        return SquaredError().start(w)
    at = np.full(len(w), grown.start)
    return w * loss.label_rate(grown.labels, at) / (w @ loss.curvature(grown.labels, at))


def _weighted_rank(weights: NDArray, alpha: float) -> tuple[int, float]:
    """Rank of the first value at which the sum of weights reaches alpha of the whole; and 1."""
    sums = np.cumsum(weights)
    return min(int(np.searchsorted(sums, alpha * sums[-1] - 1e-12 * sums[-1])), len(sums) - 1), 1.0


def quantile_ensemble(grown: GrownTrees, alpha: float, delta: float, from_labels: bool) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are quantiles of residuals, moved up or down by ``delta``.

    The move is a constant, which joins the offset. CatBoost weighs the labels in the start, and not the residuals in
    leaves.
    """
    labels, weights, n_rows = grown.labels, grown.row_weights, len(grown.labels)
    equal = np.ones(n_rows)
    allowed = 1.01 * delta + 8 * _FLOAT32_EPS * float(np.abs(labels).max())
    start, offset = np.zeros(n_rows), grown.start
    if from_labels:
        start = quantile_weights(labels, np.zeros(n_rows, dtype=np.intp), weights, alpha, _weighted_rank)
        offset = _within(grown.start - start @ labels, allowed)
    raw = np.full(n_rows, grown.start)
    constants, of_stages = [], []
    for leaves, values in zip(grown.leaves, grown.values, strict=True):
        taken = quantile_weights(labels - raw, leaves, equal, alpha, _weighted_rank)
        quantiles = np.bincount(leaves, taken * (labels - raw), len(values))
        moved = values - grown.learning_rate * quantiles
        constants.append(_within(moved, grown.learning_rate * allowed))
        of_stages.append(sparse.csr_array(taken[None]))
        raw = raw + values[leaves]
    taken_at_all = sparse.vstack(of_stages, format="csr")
    return LeafEnsemble(
        **grown.common(),
        trained=(weights > 0) | (start != 0) | (taken_at_all.count_nonzero(axis=0) > 0),
        start_weights=start,
        start_offset=float(offset),
        rates=[np.full(len(values), grown.learning_rate) for values in grown.values],
        constants=constants,
        weights_by_stage=SparseWeights(taken_at_all),
        influence_terms=InfluenceTerms(learning_rate=grown.learning_rate, start=np.zeros(n_rows), counts=0.0),
    )


def _within(moved: Any, allowed: float) -> Any:
    """Return moves of quantiles; larger ones are none: rows or labels are then others, which predictions show."""
    return np.where(np.abs(moved) <= allowed, moved, 0.0)
