"""How a fitted booster is read.

LightGBM keeps labels and weights in float32. The weights of a telescope are rounded the same way, and so are the labels
at which the derivatives of a non-quadratic loss are taken. Other labels are not rounded, which explains the last digits
of the gap between the telescope and the model.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn.boosting._ensemble import LeafEnsemble, RowSets, compact_leaves
from telescoping_sklearn.boosting.libraries.lightgbm._bagging import BagDraws, find_bags, stack_bags
from telescoping_sklearn.boosting.libraries.lightgbm._newton_leaves import newton_ensemble
from telescoping_sklearn.boosting.libraries.lightgbm._objectives import huber_width, non_quadratic_loss, quantile_loss
from telescoping_sklearn.boosting.libraries.lightgbm._quantile_leaves import quantile_ensemble
from telescoping_sklearn.boosting.libraries.lightgbm._replay import GrownTrees
from telescoping_sklearn.boosting.libraries.lightgbm._rows import Rows
from telescoping_sklearn.boosting.libraries.lightgbm._training import prediction_threads
from telescoping_sklearn.boosting.libraries.lightgbm._tree_text import (
    TreeText,
    bins_of_categories,
    node_ridges,
    parse_trees,
)


class LightGBMTrees:
    """A fitted booster: the first ``n_stages`` trees predict, and ``label_shift`` is added to predictions.

    Of a booster of several scores, one tree an iteration each, they are the trees of ``score``.
    """

    def __init__(
        self,
        booster: lightgbm.Booster,
        n_stages: int,
        n_jobs: int | None,
        label_shift: float = 0.0,
        *,
        score: int = 0,
        n_scores: int = 1,
    ):
        self.booster = booster
        self.n_stages = n_stages
        self.score, self.n_scores = score, n_scores
        self._options: dict[str, Any] = {"validate_features": False, "num_threads": prediction_threads(n_jobs)}
        self.label_shift = label_shift

    def predict(self, X: NDArray, *, raw: bool = False) -> NDArray:
        """Predict with all stages, means or raw scores, (n_query,)."""
        raw = raw or self.n_scores > 1  # a mean of several scores depends on all of them
        predicted = self.booster.predict(X, num_iteration=self.n_stages, raw_score=raw, **self._options)
        return self._of_score(predicted) + self.label_shift

    def of_score(self, score: int) -> "LightGBMTrees":
        """Return the trees of another score."""
        other = copy.copy(self)
        other.score = score
        return other

    def _of_score(self, predicted: Any) -> NDArray:
        predicted = np.asarray(predicted)
        return predicted if self.n_scores == 1 else predicted[:, self.score]

    def find_leaves(self, X: NDArray) -> NDArray:
        """Leaf of each row in each tree, (n_stages, n_query), in small integers."""
        size = items_per_block(16.0 * self.n_stages * self.n_scores, max(len(X), 1))  # LightGBM returns 8-byte numbers
        blocks = [self._leaves_of(X[first : first + size]) for first in range(0, len(X), size)]
        return np.concatenate(blocks, axis=1) if blocks else np.empty((self.n_stages, 0), np.uint8)

    def _leaves_of(self, X: NDArray) -> NDArray:
        leaves = self.booster.predict(X, pred_leaf=True, num_iteration=self.n_stages, **self._options)
        leaves = np.asarray(leaves).reshape(len(X), self.n_stages, self.n_scores)[:, :, self.score]
        return compact_leaves(np.ascontiguousarray(leaves.T), int(leaves.max(initial=0)) + 1)

    def tree_outputs(self, X: NDArray) -> Iterator[NDArray]:
        """Yield what each tree adds to the raw score; LightGBM adds the start to the first tree."""
        one: dict[str, Any] = {"num_iteration": 1, "raw_score": True}
        for stage in range(self.n_stages):
            output = self._of_score(self.booster.predict(X, start_iteration=stage, **one, **self._options))
            yield output if stage else output + self.label_shift

    def ensemble(
        self,
        train: Rows,
        given: NDArray,
        params: Mapping[str, Any],
        plans: Sequence[tuple[int, BagDraws]] = (),
    ) -> LeafEnsemble:
        """Read the trees on the training rows.

        Parameters
        ----------
        train : Rows
            All training rows, including those not given to LightGBM; labels as LightGBM was given them.
        given : ndarray of int
            Rows that LightGBM was given.
        params : mapping
            Parameters of the estimator.
        plans : sequence of (int, BagDraws), default=()
            For every fit that added trees, the number of trees before it and how it drew its bags; empty without
            bagging.

        Returns
        -------
        LeafEnsemble
            The ensemble.

        Raises
        ------
        ValueError
            If the bags of the trees cannot be found.
        """
        leaves = self.find_leaves(train.X)
        text = self.booster.model_to_string(num_iteration=self.n_stages)
        trees = list(parse_trees(text))
        row_weights, was_given = np.zeros(len(train.y)), np.zeros(len(train.y), dtype=bool)
        row_weights[given] = 1.0 if train.sample_weight is None else train.sample_weight[given].astype(np.float32)
        was_given[given] = True
        bags = _bags(trees, leaves, given, plans) if plans else None
        grown = GrownTrees(trees, leaves, train.y.astype(np.float32).astype(np.float64), row_weights, was_given, bags)
        if (quantile := quantile_loss(params)) is not None:
            return quantile_ensemble(grown, quantile, train.sample_weight, params["learning_rate"])
        many = bins_of_categories(text) > params["max_cat_to_onehot"]
        ridges = [node_ridges(tree, many, params["reg_lambda"], params["cat_l2"]) for tree in trees]
        return newton_ensemble(grown, ridges, non_quadratic_loss(params), huber_width(params), params)


def _bags(trees: list[TreeText], leaves: NDArray, given: NDArray, plans: Sequence[tuple[int, BagDraws]]) -> RowSets:
    """Bags of all trees over all training rows."""
    ends = [first for first, _ in plans[1:]] + [len(trees)]
    found = [
        find_bags(plan, leaves[first:end, given], [tree.leaf_count for tree in trees[first:end]])
        for (first, plan), end in zip(plans, ends, strict=True)
    ]
    return stack_bags(found, given, leaves.shape[1])
