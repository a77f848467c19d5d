"""The training predictions of a LightGBM model before each tree, bit for bit.

Comparisons decide which rows define a quantile, which residuals are clipped and which leaves a penalty sets to zero.
Rounding errors can reverse a comparison, so training is replayed with LightGBM's own float32 labels and exact leaf
values, added in its order.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._ensemble import BaggedWeights, RowSets
from telescoping_sklearn.boosting.libraries.lightgbm._tree_text import TreeText

#: LightGBM treats a start of this size or smaller as zero.
ZERO_START = 1e-15


class GrownTrees(NamedTuple):
    """The trees of a fitted booster, with the rows that they were grown on.

    Attributes
    ----------
    trees : list of TreeText
        The trees.
    leaves : ndarray of int of shape (n_stages, n_train)
        Leaf of every training row in every tree.
    labels : ndarray of shape (n_train,)
        Labels as LightGBM keeps them.
    row_weights : ndarray of shape (n_train,)
        Weights as LightGBM keeps them, ones without weights; zero for rows that it was not given.
    given : ndarray of bool of shape (n_train,)
        Rows that LightGBM was given.
    bags : RowSets or None
        Rows in the bag of every tree; None where every tree saw all rows given.
    """

    trees: list[TreeText]
    leaves: NDArray
    labels: NDArray
    row_weights: NDArray
    given: NDArray
    bags: RowSets | None

    @property
    def n_leaves(self) -> NDArray:
        """Leaves of every tree, (n_stages,)."""
        return np.array([tree.n_leaves for tree in self.trees])

    @property
    def bagged_weights(self) -> BaggedWeights | None:
        """Weights of the rows by stage, zero outside the bag; None without bagging."""
        return None if self.bags is None else BaggedWeights(self.row_weights, self.bags)

    @property
    def counts(self) -> float | RowSets:
        """Rows that count in a stage: 1.0 for all rows, or those given to LightGBM and in the bag."""
        if self.bags is not None:
            return self.bags
        return 1.0 if self.given.all() else RowSets([self.given], np.zeros(len(self.trees), dtype=np.intp))

    def rows_of(self, stage: int) -> NDArray[np.intp]:
        """Rows that the tree of a stage (1-based) saw."""
        return np.flatnonzero(self.given if self.bags is None else self.bags(stage))

    def staged_residuals(self, start: float) -> Iterator[NDArray]:
        """Yield labels minus predictions before every tree, (n_train,), as LightGBM has them, bit for bit."""
        prediction = np.full(len(self.labels), start if abs(start) > ZERO_START else 0.0)
        for tree, leaves in zip(self.trees, self.leaves, strict=True):
            yield self.labels - prediction
            # The leaves of the first tree hold the start.
            prediction = tree.leaf_value[leaves] + (0.0 if tree is self.trees[0] else prediction)
