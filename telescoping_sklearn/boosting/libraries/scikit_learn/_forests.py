"""Forests and single trees of scikit-learn: averages over trees, with no residual fed back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.class_weight import compute_sample_weight

from telescoping_sklearn.boosting._ensemble import CountedWeights, InfluenceTerms, LeafEnsemble, SparseWeights
from telescoping_sklearn.boosting._quantiles import quantile_weights
from telescoping_sklearn.boosting.libraries import ReadModel, refuse_row_count
from telescoping_sklearn.boosting.libraries.scikit_learn._classes import choose_class
from telescoping_sklearn.boosting.libraries.scikit_learn._columns import Columns
from telescoping_sklearn.boosting.libraries.scikit_learn._refusals import (
    refuse,
    refuse_output,
    refuse_seen,
    refuse_several_targets,
)
from telescoping_sklearn.boosting.libraries.scikit_learn._trees import GrownTree, SummedTrees, other_counts

#: Criteria whose leaves are means of labels, or shares of classes.
_MEANS = ("squared_error", "friedman_mse", "poisson", "gini", "entropy", "log_loss")


def read_forest(model: Any, X: Any, y: NDArray, sample_weight: NDArray | None, output: Any) -> ReadModel:
    """Read a forest, or a single tree, which is a forest of one; see `telescoping_sklearn.boosting.libraries`."""
    _refuse_settings(model)
    if hasattr(model, "classes_"):
        of_class = choose_class(model, y, output)
        chosen, labels = of_class.position, of_class.labels
    else:
        refuse_output(model, output)
        chosen, labels = 0, y
    prepare = Columns(model, allow_nan=True)
    rows = prepare(X)
    grown = tuple(getattr(model, "estimators_", (model,)))
    trees = SummedTrees([GrownTree(tree.tree_, 1 / len(grown), chosen) for tree in grown])
    weights = _row_weights(model, y, sample_weight)
    drawn = _drawn(model, len(rows), weights)
    if not isinstance(drawn, CountedWeights):
        refuse_seen(int(grown[0].tree_.n_node_samples[0]), weights)
    leaves = trees.find_leaves(rows)
    make = _median_leaves if model.criterion == "absolute_error" else _mean_leaves
    trained = np.any([drawn(stage) > 0 for stage in range(1, len(grown) + 1)], axis=0)
    ensemble = LeafEnsemble(
        leaves=leaves,
        n_leaves=trees.n_leaves,
        row_weights=np.where(trained, weights, 0.0),
        trained=trained,
        start_weights=np.zeros(len(rows)),
        feedback=0.0,
        **make(leaves, trees.n_leaves, labels, drawn),
    )
    clues = other_counts(trees.trees, leaves, lambda stage: drawn(stage) > 0) + _other_weights(trees, weights, drawn)
    raw = trees.sum_over(leaves, rows)
    return ReadModel(ensemble=ensemble, trees=trees, rows=rows, y=labels, prepare=prepare, raw=raw, clues=clues)


def _mean_leaves(
    leaves: NDArray, n_leaves: NDArray, labels: NDArray, drawn: "CountedWeights | _Same"
) -> dict[str, Any]:
    """Fields of `LeafEnsemble` for leaves that are means of their labels."""
    share, rates = 1 / len(leaves), []
    for stage, (of_tree, n_of_tree) in enumerate(zip(leaves, n_leaves, strict=True), start=1):
        total = np.bincount(of_tree, drawn(stage), n_of_tree)
        rates.append(np.divide(share, total, out=np.zeros(n_of_tree), where=total > 0))
    counts = 1.0 if isinstance(drawn, _Same) else CountedWeights(drawn.counts, np.ones(len(labels)))
    terms = InfluenceTerms(learning_rate=share, start=np.zeros(len(labels)), counts=counts)
    by_stage = None if isinstance(drawn, _Same) else drawn
    return {"rates": rates, "weights_by_stage": by_stage, "influence_terms": terms}


def _median_leaves(
    leaves: NDArray, n_leaves: NDArray, labels: NDArray, drawn: "CountedWeights | _Same"
) -> dict[str, Any]:
    """Fields of `LeafEnsemble` for leaves that are medians of their labels: one or two rows define each."""
    of_stages = []
    for stage, of_tree in enumerate(leaves, start=1):
        weights = drawn(stage)
        rows, found = np.flatnonzero(weights > 0), np.zeros((1, len(labels)))
        found[0, rows] = quantile_weights(labels[rows], of_tree[rows], weights[rows], 0.5, middle_rank)
        of_stages.append(sparse.csr_array(found))
    share = 1 / len(leaves)
    return {
        "rates": [np.full(n_of_tree, share) for n_of_tree in n_leaves],
        "weights_by_stage": SparseWeights(sparse.vstack(of_stages, format="csr")),
        "influence_terms": InfluenceTerms(learning_rate=share, start=np.zeros(len(labels)), counts=0.0),
    }


def middle_rank(weights: NDArray, alpha: float) -> tuple[int, float]:
    """Rank of the quantile of weighted values, and its weight: the mean of two where a cumulative weight is alpha.

    ``weights`` are those of a group in increasing order of values.
    """
    sums = np.cumsum(weights)
    place = min(int(np.searchsorted(sums, alpha * sums[-1])), len(sums) - 1)
    return (place + 1, 0.5) if sums[place] == alpha * sums[-1] and place + 1 < len(sums) else (place, 1.0)


class _Same:
    """Weights that every tree of a forest shares."""

    def __init__(self, weights: NDArray):
        self._weights = weights

    def __call__(self, stage: int) -> NDArray:
        return self._weights


def _row_weights(model: Any, y: NDArray, sample_weight: NDArray | None) -> NDArray:
    """Weights of the rows, those of their classes included."""
    weights = np.ones(len(y)) if sample_weight is None else sample_weight
    class_weight = getattr(model, "class_weight", None)
    return weights if class_weight is None else weights * compute_sample_weight(class_weight, y)


def _drawn(model: Any, n_rows: int, weights: NDArray) -> CountedWeights | _Same:
    """Weights of the rows by tree: how often the bootstrap of the tree drew each, or their own weights without one."""
    if not getattr(model, "bootstrap", False):
        return _Same(weights)
    refuse_row_count(int(model._n_samples), n_rows)
    drawn = [np.bincount(rows, minlength=n_rows) for rows in model.estimators_samples_]
    most = max(int(counts.max()) for counts in drawn)
    counts = np.stack([counts.astype(np.min_scalar_type(most)) for counts in drawn])
    return CountedWeights(counts, (weights > 0).astype(np.float64))


def _other_weights(trees: SummedTrees, weights: NDArray, drawn: CountedWeights | _Same) -> tuple[str, ...]:
    """Say where the weights given are not those of training, up to a factor."""
    first = trees.trees[0]
    assert isinstance(first, GrownTree)
    of_model, unequal = first.weights.sum(), np.ptp(first.weights / first.counts) > 1e-9 * first.weights.max()
    if isinstance(drawn, _Same) and unequal and np.ptp(weights[weights > 0]) == 0:
        return (f"the model was trained with unequal weights, which add up to {of_model:.6g}: give sample_weight",)
    return ()


def _refuse_settings(model: Any) -> None:
    refuse_several_targets(model)
    if model.criterion not in (*_MEANS, "absolute_error"):
        raise refuse(
            model, "criterion", f"leaves must be medians ('absolute_error') or means, as under one of {_MEANS}"
        )
    if model.monotonic_cst is not None:
        raise refuse(model, "monotonic_cst", "values of constrained leaves depend on other leaves")
    if getattr(model, "class_weight", None) == "balanced_subsample":
        raise refuse(model, "class_weight", "weights of classes differ from tree to tree; use 'balanced'")
