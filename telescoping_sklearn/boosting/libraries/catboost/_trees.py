"""How CatBoost predicts with a fitted model."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._ensemble import compact_leaves
from telescoping_sklearn.boosting.libraries.catboost._saved import SavedModel

#: Query rows looked up at once: their leaves stay in the caches.
_ROWS_AT_ONCE = 4096


class CatBoostTrees:
    """The trees of a model, with their leaves renumbered.

    Symmetric trees have 2^depth leaves, of which many hold no training row. Those share one number, the last.

    Parameters
    ----------
    saved : SavedModel
        The model.
    rows : ndarray of shape (n_train, n_features)
        Training rows.
    link : callable or None
        Maps raw scores to means, where they differ.

    Attributes
    ----------
    training_leaves : ndarray of int of shape (n_stages, n_train)
        Leaf of each training row in each tree.
    values, leaf_weights : list of ndarray of shape (n_leaves,)
        What the leaves of each tree add, and the weights of the rows that training put there.

    Raises
    ------
    ValueError
        If a leaf without training rows adds something.
    """

    def __init__(self, saved: SavedModel, rows: NDArray, link: Callable[[NDArray], NDArray] | None):
        self.model, self.link = saved.model, link
        self._start = saved.start
        self._categorical = saved.categorical
        sizes = np.asarray(self.model.get_tree_leaf_counts(), dtype=np.intp)
        self._offsets = (np.cumsum(sizes) - sizes).astype(np.int32)
        used = np.zeros(sizes.sum(), dtype=bool)
        for _, positions in self._positions(rows):
            used[positions] = True
        of_trees = np.split(used, self._offsets[1:])
        self._numbers = compact_leaves(
            np.concatenate([np.where(filled, np.cumsum(filled) - 1, filled.sum()) for filled in of_trees]),
            int(max(filled.sum() for filled in of_trees)) + 1,
        )
        self.training_leaves = self.find_leaves(rows)
        values, weights = np.asarray(self.model.get_leaf_values()), np.asarray(self.model.get_leaf_weights())
        if values[~used].any():
            raise ValueError(
                f"A leaf that adds {values[~used][np.abs(values[~used]).argmax()]:.3g} holds none of the rows given: X "
                "must be the rows that the model was fitted on."
            )
        self.values, self.leaf_weights = (
            [
                np.append(of_all[first:][: len(filled)][filled], 0.0)
                for first, filled in zip(self._offsets, of_trees, strict=True)
            ]
            for of_all in (values, weights)
        )

    def predict(self, X: NDArray, *, raw: bool = False) -> NDArray:
        """Predict with all stages, means or raw scores, (n_query,)."""
        scores = np.asarray(self.model.predict(self._pool(X), prediction_type="RawFormulaVal"), dtype=np.float64)
        return scores if raw or self.link is None else self.link(scores)

    def find_leaves(self, X: NDArray) -> NDArray:
        """Leaf of each row in each tree, (n_stages, n_query), in small integers."""
        leaves = np.empty((len(self._offsets), len(X)), dtype=self._numbers.dtype)
        for block, positions in self._positions(X):
            leaves[:, block] = self._numbers[positions].T
        return leaves

    def tree_outputs(self, X: NDArray) -> Iterator[NDArray]:
        """Yield what each tree adds to the raw score; the first includes the start."""
        for stage, (values, leaves) in enumerate(zip(self.values, self.find_leaves(X), strict=True)):
            yield values[leaves] + (0.0 if stage else self._start)

    def _positions(self, X: NDArray) -> Iterator[tuple[slice, NDArray]]:
        """Yield blocks of rows, and the position of each row's leaf in each tree among all, (n_rows, n_stages)."""
        for first in range(0, len(X), _ROWS_AT_ONCE):
            block = slice(first, min(first + _ROWS_AT_ONCE, len(X)))
            leaves = np.asarray(self.model.calc_leaf_indexes(self._pool(X[block])))
            yield block, leaves.astype(np.int32) + self._offsets

    def _pool(self, X: NDArray) -> Any:
        import catboost  # an extra, which is there where a model of it is

        return catboost.Pool(X, cat_features=self._categorical, feature_names=list(self.model.feature_names_))
