"""Fitted trees of scikit-learn: the leaves of rows, and sums over trees."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

from telescoping_sklearn.boosting._ensemble import compact_leaves
from telescoping_sklearn.losses import NonQuadraticLoss


class NumberedTree(Protocol):
    """One tree, its leaves numbered from 0.

    Attributes
    ----------
    values : ndarray of shape (n_leaves,)
        What every leaf adds to the raw score.
    counts : ndarray of int of shape (n_leaves,)
        Rows that training put into every leaf.
    """

    values: NDArray
    counts: NDArray

    def __call__(self, X: NDArray) -> NDArray:
        """Leaf of every row, (n_rows,)."""


class GrownTree:
    """A tree of `sklearn.tree`, whose values are multiplied by ``share``."""

    def __init__(self, tree: Any, share: float, output: int = 0):
        is_leaf = tree.children_left == -1
        self._tree, self._number = tree, np.cumsum(is_leaf) - 1
        self.values = share * tree.value[is_leaf, 0, output]
        #: Rows with a positive weight, and the sum of their weights.
        self.counts, self.weights = tree.n_node_samples[is_leaf], tree.weighted_n_node_samples[is_leaf]

    def __call__(self, X: NDArray) -> NDArray:
        """Leaf of every row, (n_rows,)."""
        return self._number[self._tree.apply(X)]


class BinnedTree:
    """A tree of histogram-based gradient boosting; ``categories`` are what its predictor is told of categories."""

    def __init__(self, predictor: TreePredictor, categories: dict[str, NDArray]):
        nodes = predictor.nodes.copy()
        is_leaf = nodes["is_leaf"].astype(bool)
        self.values, self.counts = nodes["value"][is_leaf].copy(), nodes["count"][is_leaf].astype(np.intp)
        nodes["value"][is_leaf] = np.arange(len(self.values))  # the predictor then predicts the leaf
        self._leaf = TreePredictor(nodes, predictor.binned_left_cat_bitsets, predictor.raw_left_cat_bitsets)
        self._categories = categories

    def __call__(self, X: NDArray) -> NDArray:
        """Leaf of every row, (n_rows,)."""
        return self._leaf.predict(X, n_threads=_openmp_effective_n_threads(), **self._categories).astype(np.intp)


class SummedTrees:
    """A sum over trees as `FittedTrees`.

    ``loss`` has the link between raw scores and means, None where they agree. The start is a number, and in addition
    what ``start_at`` gives for each row.
    """

    def __init__(
        self,
        trees: Sequence[NumberedTree],
        start: float = 0.0,
        loss: NonQuadraticLoss | None = None,
        start_at: Callable[[NDArray], NDArray] | None = None,
    ):
        self.trees = tuple(trees)
        self.start = start
        self.start_at = start_at
        self._loss = loss

    @property
    def n_leaves(self) -> NDArray:
        """Leaves of every tree, (n_stages,)."""
        return np.array([len(tree.values) for tree in self.trees])

    def predict(self, X: NDArray, *, raw: bool = False) -> NDArray:
        """Predict with all stages, means or raw scores, (n_query,)."""
        predicted = self.starts(X)
        for tree in self.trees:
            predicted += tree.values[tree(X)]
        return predicted if raw or self._loss is None else self._loss.mean(predicted)

    def starts(self, X: NDArray) -> NDArray:
        """Return where each row starts, (n_query,)."""
        return np.full(len(X), self.start) + (0.0 if self.start_at is None else self.start_at(X))

    def sum_over(self, leaves: NDArray, X: NDArray) -> NDArray:
        """Return raw scores, (n_query,), of rows whose leaves, (n_stages, n_query), were found."""
        raw = self.starts(X)
        for tree, of_tree in zip(self.trees, leaves, strict=True):
            raw += tree.values[of_tree]
        return raw

    def find_leaves(self, X: NDArray) -> NDArray:
        """Leaf of each row in each tree, (n_stages, n_query), in small integers."""
        most = int(self.n_leaves.max())
        found = np.empty((len(self.trees), len(X)), compact_leaves(np.empty(0, np.intp), most).dtype)
        for leaves, tree in zip(found, self.trees, strict=True):
            leaves[:] = tree(X)
        return found

    def tree_outputs(self, X: NDArray) -> Iterator[NDArray]:
        """Yield what each tree adds to the raw score, (n_query,); the first includes the start."""
        for stage, tree in enumerate(self.trees):
            yield tree.values[tree(X)] + (0.0 if stage else self.starts(X))


class Drawn(NamedTuple):
    """Rows of the trees: who was given to training, and which of them every tree saw.

    Attributes
    ----------
    given : ndarray of bool of shape (n_train,)
        Rows that were not held out.
    bags : sequence of ndarray of bool of shape (n_train,), or None
        Rows in the bag of every tree; None for all that were given.
    """

    given: NDArray
    bags: Sequence[NDArray] | None = None

    def rows_of(self, stage: int) -> NDArray:
        """Rows that the tree of a stage (1-based) saw, (n_train,) bool."""
        return self.given if self.bags is None else self.bags[stage - 1]


def other_counts(trees: Sequence[NumberedTree], leaves: NDArray, counted: Any) -> tuple[str, ...]:
    """Say where the rows given do not fill leaves as training did; ``counted`` gives the rows counted in a stage."""
    for stage, (tree, in_leaves) in enumerate(zip(trees, leaves, strict=True), start=1):
        found = np.bincount(in_leaves[counted(stage)], minlength=len(tree.counts))
        different = np.flatnonzero(found != tree.counts)
        if len(different):
            first = different[0]
            return (
                f"training put {tree.counts[first]} rows into leaf {first} of tree {stage}, and the rows given put "
                f"{found[first]} there: they are other rows, or bags were drawn from rows in another order",
            )
    return ()
