"""How XGBoost predicts with a fitted model."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._ensemble import compact_leaves
from telescoping_sklearn.boosting.libraries.xgboost._saved import SavedModel

#: Query rows looked up at once: their nodes stay in the caches.
_ROWS_AT_ONCE = 4096


class XGBoostTrees:
    """The trees of a model that predict; ``has_link`` says whether means differ from raw scores."""

    def __init__(self, booster: Any, saved: SavedModel, has_link: bool):
        self.booster = booster
        self.has_link = has_link
        self._start = saved.start
        self._trees = saved.trees
        self._options: dict[str, Any] = {"iteration_range": (0, saved.n_stages)}
        sizes = [len(tree.numbers) for tree in saved.trees]
        self._offsets = (np.cumsum(sizes) - sizes).astype(np.int32)
        numbers = np.concatenate([tree.numbers for tree in saved.trees])
        self._numbers = compact_leaves(numbers, int(numbers.max()) + 1)

    def predict(self, X: NDArray, *, raw: bool = False) -> NDArray:
        """Predict with all stages, means or raw scores, (n_query,)."""
        predicted = self.booster.predict(self._matrix(X), output_margin=raw or not self.has_link, **self._options)
        return predicted.astype(np.float64)

    def find_leaves(self, X: NDArray) -> NDArray:
        """Leaf of each row in each tree, (n_stages, n_query), in small integers."""
        leaves = np.empty((len(self._trees), len(X)), dtype=self._numbers.dtype)
        for first in range(0, len(X), _ROWS_AT_ONCE):
            block = X[first : first + _ROWS_AT_ONCE]
            nodes = self.booster.predict(self._matrix(block), pred_leaf=True, **self._options)
            positions = nodes.reshape(len(block), -1).astype(np.int32) + self._offsets
            leaves[:, first : first + len(block)] = self._numbers[positions].T
        return leaves

    def tree_outputs(self, X: NDArray) -> Iterator[NDArray]:
        """Yield what each tree adds to the raw score; the first includes the start."""
        for stage, (tree, leaves) in enumerate(zip(self._trees, self.find_leaves(X), strict=True)):
            yield tree.values[leaves] + (0.0 if stage else self._start)

    def _matrix(self, X: NDArray) -> Any:
        import xgboost  # an extra, which is there where a model of it is

        names, types = self.booster.feature_names, self.booster.feature_types
        return xgboost.DMatrix(X, feature_names=names, feature_types=types, enable_categorical=True)
