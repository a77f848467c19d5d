"""Where tree libraries are read: one module or package a library.

A library gives two things. `LeafEnsemble` (in `boosting._ensemble`) holds the trees on the training rows: leaves, row
weights, denominators, the start, and what labels inject and responses feed back. `FittedTrees` predicts with the
library itself. Everything else in `boosting` works on these two and knows no library.
"""

from collections.abc import Iterator
from typing import Protocol

from numpy.typing import NDArray


class FittedTrees(Protocol):
    """A fitted model, as its library predicts with it."""

    def predict(self, X: NDArray, *, raw: bool = False) -> NDArray:
        """Predict with all stages, means or raw scores, (n_query,)."""

    def find_leaves(self, X: NDArray) -> NDArray:
        """Leaf of each row in each tree, (n_stages, n_query)."""

    def tree_outputs(self, X: NDArray) -> Iterator[NDArray]:
        """Yield what each tree adds to the raw score, (n_query,); the first includes the start."""
