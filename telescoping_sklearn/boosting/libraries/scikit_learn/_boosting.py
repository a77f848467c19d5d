"""Boosted trees of scikit-learn as a `LeafEnsemble`: leaves that are means, Newton steps or quantiles.

Both families of scikit-learn set a leaf to one of

- rate (sum of w r) / (sum of w + ridge), r the residuals: squared error;
- rate (sum of -w g) / (sum of w H + ridge), g and H the derivatives of the loss: all other smooth losses;
- rate times a quantile of the residuals: absolute error and the pinball loss;
- rate times (median of the residuals + mean of the residuals less the median, cut at a width): Huber's loss.

Rows, and the bags, are those that the tree saw.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn._memory import refuse_if_too_large
from telescoping_sklearn.boosting._derivatives import LossPath, SoftmaxPath
from telescoping_sklearn.boosting._ensemble import (
    BaggedWeights,
    InfluenceTerms,
    LeafEnsemble,
    RowSets,
    SparseWeights,
    mean_start_terms,
)
from telescoping_sklearn.boosting._quantiles import quantile_weights
from telescoping_sklearn.boosting.libraries import ReadModel
from telescoping_sklearn.boosting.libraries.scikit_learn._trees import Drawn, SummedTrees
from telescoping_sklearn.losses import NonQuadraticLoss


class Start(NamedTuple):
    """Where boosting starts: weights of the labels, (n_train,), and what labels do not set.

    For a non-quadratic loss ``label_weights`` are the derivative of the start and ``offset`` is the start itself.
    ``is_mean`` is whether it is a function of the weighted mean label.
    """

    label_weights: NDArray
    offset: float = 0.0
    is_mean: bool = False


class Boosting(NamedTuple):
    """What was boosted, on which rows.

    Attributes
    ----------
    trees : SummedTrees
        The trees of the output.
    leaves : ndarray of int of shape (n_stages, n_train)
        Leaf of every training row in every tree.
    labels : ndarray of shape (n_train,)
        Labels as training used them.
    sample_weight : ndarray of shape (n_train,) or None
        Weights as they were given.
    drawn : Drawn
        Rows that every tree saw.
    rate : float
        What leaf values are multiplied by.
    ridge : float
        What is added to the denominators of leaves.
    """

    trees: SummedTrees
    leaves: NDArray
    labels: NDArray
    sample_weight: NDArray | None
    drawn: Drawn
    rate: float
    ridge: float = 0.0

    def read(self, ensemble: LeafEnsemble, rows: NDArray, prepare: Callable[[Any], NDArray], **more: Any) -> ReadModel:
        """Collect what was read; ``more`` are other fields of `ReadModel`."""
        raw, start_at = self.trees.sum_over(self.leaves, rows), self.trees.start_at
        of_trees: dict[str, Any] = {"trees": self.trees, "y": self.labels, "raw": raw, "start_at": start_at}
        return ReadModel(ensemble=ensemble, rows=rows, prepare=prepare, **of_trees, **more)

    @property
    def row_weights(self) -> NDArray:
        """Weights of the rows, zero for those held out, (n_train,)."""
        return self.drawn.given * (1.0 if self.sample_weight is None else self.sample_weight)

    def weights_by_stage(self) -> BaggedWeights | None:
        """Weights of the rows by stage; None where every tree saw the same."""
        bags = self.drawn.bags
        return None if bags is None else BaggedWeights(self.row_weights, RowSets(bags, np.arange(len(bags))))

    def influence_terms(self, start: Start, **of_loss: Any) -> InfluenceTerms | None:
        """Return what derivatives in the weights of rows need; ``of_loss`` are fields of `InfluenceTerms`.

        They are not known where another model gives the start, which depends on the weights.
        """
        if self.trees.start_at is not None:
            return None
        bags, given = self.drawn.bags, self.drawn.given
        counts: float | RowSets = 1.0
        if bags is not None:
            counts = RowSets(bags, np.arange(len(bags)))
        elif not given.all():
            counts = RowSets([given], np.zeros(len(self.leaves), dtype=np.intp))
        of_start = np.zeros(len(given))
        if start.is_mean:
            of_start = mean_start_terms(start.label_weights, self.row_weights, self.labels, given)
        terms: dict[str, Any] = {"counts": counts} | of_loss
        return InfluenceTerms(learning_rate=self.rate, start=of_start, **terms)

    def common(self) -> dict[str, Any]:
        """Fields of `LeafEnsemble` that do not depend on the loss."""
        return {"leaves": self.leaves, "n_leaves": self.trees.n_leaves, "row_weights": self.row_weights}


def mean_start(boosting: Boosting) -> Start:
    """Start from the weighted mean label."""
    return Start(boosting.row_weights / boosting.row_weights.sum(), is_mean=True)


def squared_error_ensemble(boosting: Boosting, start: Start) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are shrunken means of residuals."""
    return LeafEnsemble(
        **boosting.common(),
        trained=boosting.row_weights > 0,
        rates=list(_rates(boosting, lambda stage: 1.0)),
        start_weights=start.label_weights,
        start_offset=start.offset,
        weights_by_stage=boosting.weights_by_stage(),
        influence_terms=boosting.influence_terms(start),
    )


def newton_ensemble(
    boosting: Boosting,
    start: Start,
    loss: NonQuadraticLoss,
    others: Sequence[tuple[float, NDArray, list[NDArray]]] = (),
) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are Newton steps.

    ``others`` are the starts, leaves and leaf values of the other classes where there are several scores.
    """
    values = [tree.values for tree in boosting.trees.trees]
    of_output = (loss, boosting.labels, start.offset, boosting.leaves, values)
    path = SoftmaxPath(*of_output, others=others) if others else LossPath(*of_output)
    return LeafEnsemble(
        **boosting.common(),
        trained=boosting.row_weights > 0,
        rates=list(_rates(boosting, lambda stage: path.before(stage).hessian)),
        start_weights=start.label_weights,
        start_offset=start.offset,
        weights_by_stage=boosting.weights_by_stage(),
        injection=path.label_rate,
        feedback=path.curvature,
        gradient=path.gradient,
        influence_terms=boosting.influence_terms(start, hessian=path.hessian, hessian_slope=path.hessian_slope),
    )


def _rates(boosting: Boosting, hessian: Any) -> Iterator[NDArray]:
    """Yield rate / (sum of w H + ridge) by leaf; zero for a leaf of no curvature, whose value is zero."""
    weigh = boosting.weights_by_stage()
    for stage, (leaves, n_leaves) in enumerate(zip(boosting.leaves, boosting.trees.n_leaves, strict=True), start=1):
        weights = boosting.row_weights if weigh is None else weigh(stage)
        sums = np.bincount(leaves, weights * hessian(stage), n_leaves)
        known = sums > 1e-150  # below, scikit-learn takes the value 0
        yield np.divide(boosting.rate, sums + boosting.ridge, out=np.zeros(n_leaves), where=known)


# -- quantiles ---------------------------------------------------------------------------------------------------------


def weighted_rank(weights: NDArray, alpha: float) -> tuple[int, float]:
    """Rank of the weighted quantile: the first at which the cumulative weight reaches alpha times the total.

    ``weights`` are those of a group in increasing order of values. The second number is the weight of that value, 1:
    scikit-learn does not interpolate between weighted values.
    """
    sums = np.cumsum(weights)
    threshold = 100 * alpha / 100 * sums[-1]  # in the order of scikit-learn's roundings
    if threshold == 0:
        threshold = np.nextafter(0.0, 1.0)
    return min(int(np.searchsorted(sums, threshold)), len(weights) - 1), 1.0


def quantile_start(boosting: Boosting, alpha: float) -> Start:
    """Start from a quantile of the labels, weighted where weights were given."""
    rows, weights = np.flatnonzero(boosting.drawn.given), np.zeros(len(boosting.labels))
    of_rows = None if boosting.sample_weight is None else boosting.sample_weight[rows]
    groups = np.zeros(len(rows), dtype=np.intp)
    weights[rows] = quantile_weights(boosting.labels[rows], groups, of_rows, alpha, weighted_rank)
    return Start(weights)


def quantile_ensemble(
    boosting: Boosting, start: Start, alpha: float, rows_given: NDArray, *, weighted: bool
) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are quantiles of residuals.

    Training is replayed bit for bit, since comparisons of residuals decide which rows define a quantile. ``weighted``
    says whether the quantile of weighted values is taken; it differs from the other one also where all weights are 1.
    """
    n = len(boosting.labels)
    raw = boosting.trees.starts(rows_given)
    weights, of_stages = boosting.row_weights, []
    for stage, (tree, leaves) in enumerate(zip(boosting.trees.trees, boosting.leaves, strict=True), start=1):
        rows = np.flatnonzero(boosting.drawn.rows_of(stage))
        of_rows = weights[rows] if weighted else None
        found = np.zeros((1, n))
        residuals = boosting.labels[rows] - raw[rows]
        found[0, rows] = quantile_weights(residuals, leaves[rows], of_rows, alpha, weighted_rank)
        of_stages.append(sparse.csr_array(found))
        raw += tree.values[leaves]
    taken = sparse.vstack(of_stages, format="csr")
    return LeafEnsemble(
        **boosting.common(),
        trained=(weights > 0) | (start.label_weights != 0) | (taken.count_nonzero(axis=0) > 0),
        rates=[np.full(n_leaves, boosting.rate) for n_leaves in boosting.trees.n_leaves],
        start_weights=start.label_weights,
        start_offset=start.offset,
        weights_by_stage=SparseWeights(taken),
        influence_terms=boosting.influence_terms(start, counts=0.0),
    )


def huber_ensemble(boosting: Boosting, start: Start, alpha: float, rows_given: NDArray) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are medians plus means of what is cut at a width.

    The width of a stage is the quantile ``alpha`` of all absolute residuals. It is held fixed, and so are the row that
    is the median and the rows that are cut: what they add is a constant.
    """
    n, weights, given = len(boosting.labels), boosting.row_weights, np.flatnonzero(boosting.drawn.given)
    refuse_if_too_large(
        12.0 * n * len(boosting.leaves),
        f"loss='huber' gives every row a weight of its own in each tree; those of {len(boosting.leaves)} trees",
        "Use fewer trees or rows, or another loss.",
    )
    raw, of_stages, constants = boosting.trees.starts(rows_given), [], []
    for stage, (tree, leaves) in enumerate(zip(boosting.trees.trees, boosting.leaves, strict=True), start=1):
        residuals, rows = boosting.labels - raw, np.flatnonzero(boosting.drawn.rows_of(stage))
        sizes = np.abs(residuals[given])
        width = sizes @ quantile_weights(sizes, np.zeros(len(given), np.intp), weights[given], alpha, weighted_rank)
        found, constant = _huber_leaves(residuals[rows], leaves[rows], weights[rows], len(tree.values), width)
        of_rows = np.zeros((1, n))
        of_rows[0, rows] = found
        of_stages.append(sparse.csr_array(of_rows))
        constants.append(boosting.rate * constant)
        raw += tree.values[leaves]
    return LeafEnsemble(
        **boosting.common(),
        trained=weights > 0,
        rates=[np.full(n_leaves, boosting.rate) for n_leaves in boosting.trees.n_leaves],
        constants=constants,
        start_weights=start.label_weights,
        start_offset=start.offset,
        weights_by_stage=SparseWeights(sparse.vstack(of_stages, format="csr")),
    )


def _huber_leaves(
    residuals: NDArray, leaves: NDArray, weights: NDArray, n_leaves: int, width: float
) -> tuple[NDArray, NDArray]:
    """Weights of the rows in the values of their leaves, and the constants of the leaves, (n_leaves,)."""
    middle = quantile_weights(residuals, leaves, weights, 0.5, weighted_rank)
    from_median = residuals - np.bincount(leaves, middle * residuals, n_leaves)[leaves]
    share = weights / np.bincount(leaves, weights, n_leaves)[leaves]
    cut = np.abs(from_median) > width
    constants = np.bincount(leaves, np.where(cut, np.sign(from_median) * width * share, 0.0), n_leaves)
    share[cut] = 0.0
    return share + middle * (1 - np.bincount(leaves, share, n_leaves))[leaves], constants
