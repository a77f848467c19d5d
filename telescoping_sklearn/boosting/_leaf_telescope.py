"""The telescope of a boosted ensemble: exact, since every leaf value is a weighted mean of what the labels left over.

With P_t the leaf-membership matrix of tree t and B_t the same with the rows' weights as entries, a stage adds

    F_t(x) = F_{t-1}(x) + [R_t B_t (V - F_{t-1})]_{leaf of x},    R_t = lr / (B_t 1 + lambda)

to every column of labels: a sum over the rows of each leaf, then one look-up a row. No n x n array is made.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn._telescope import ColumnCost, Start, Telescope, resolve_stages
from telescoping_sklearn.boosting._ensemble import LeafEnsemble, membership

#: Sums and look-ups are bound by memory: larger blocks of columns leave the caches.
_FASTEST_BLOCK = 16 * 2**20


class LeafTelescope(Telescope):
    """The telescope of a boosted ensemble.

    Parameters
    ----------
    ensemble : LeafEnsemble
        The trees on the training rows.
    find_leaves : callable
        Maps query rows to the leaf of each in each tree, (n_stages, n_query).
    tree_outputs : callable
        Yields the library's own contribution of every tree at query rows, the start included in the first.
    training_rows : ndarray of shape (n_train, n_features)
        Training X.
    **kwargs
        What `Telescope` takes.
    """

    def __init__(
        self,
        ensemble: LeafEnsemble,
        find_leaves: Callable[[NDArray], NDArray],
        tree_outputs: Callable[[NDArray], Iterator[NDArray]],
        training_rows: NDArray,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.ensemble = ensemble
        self._find_leaves = find_leaves
        self._tree_outputs = tree_outputs
        self._training_rows = training_rows

    @property
    def n_stages(self) -> int:
        """Number of trees."""
        return self.ensemble.n_stages

    def start(self, X: NDArray | None) -> Start:
        """Boosting starts from the mean label: A = w / sum(w), b = 0."""
        return Start(self.ensemble.start_weights, np.zeros(self.n_query(X)))

    def staged_kernel(self, X: NDArray | None, stages: Any = None) -> Iterator[sparse.csr_array]:
        """k_t(x)_i = w_i 1{same leaf} / (weight in leaf); rows sum to 1."""
        leaves = self._leaves(X)
        for stage in resolve_stages(stages, self.n_stages, with_start=False):
            of_leaf = sparse.diags_array(1.0 / self._leaf_weights(stage)) @ self.ensemble.weighted_membership(stage)
            reached = membership(leaves[stage - 1], self.ensemble.n_leaves[stage - 1])
            yield sparse.csr_array(reached.T @ of_leaf)

    def staged_kernel_norms(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the norms by leaf, sqrt(sum w^2) / sum w, with no kernel made."""
        leaves = self._leaves(X)
        for stage in resolve_stages(stages, self.n_stages, with_start=False):
            of_leaf = np.sqrt(self.ensemble.leaf_sums(stage, self.ensemble.stage_weights(stage) ** 2))
            of_leaf /= self._leaf_weights(stage)
            yield of_leaf[leaves[stage - 1]]

    def staged_response(
        self, X: NDArray | None, V: NDArray, offset: bool = False, stages: Any = None
    ) -> Iterator[NDArray]:
        """Carry label columns through the trees; see the module's docstring."""
        wanted = resolve_stages(stages, self.n_stages)
        labels = np.column_stack([V, np.zeros(self.n_samples)]) if offset else V
        training = self._start_response(None, labels, offset)
        query = training if X is None else self._start_response(X, labels, offset)
        leaves = None if X is None else self._leaves(X)
        if wanted[0] == 0:
            yield query.copy()
        for stage in range(1, wanted[-1] + 1):
            residuals = self.ensemble.residuals(stage, labels, training)
            of_leaf = self.ensemble.spread(stage, self.ensemble.weighted_membership(stage) @ residuals)
            training += of_leaf[self.ensemble.leaves[stage - 1]]
            if leaves is not None:
                query += of_leaf[leaves[stage - 1]]
            if stage in wanted:
                yield query.copy()

    def staged_model(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the library's own prediction after each tree."""
        wanted = resolve_stages(stages, self.n_stages)
        if wanted[0] == 0:
            yield np.full(self.n_query(X), self.ensemble.start_weights @ self.y)
        prediction = np.zeros(self.n_query(X))
        for stage, output in enumerate(self._tree_outputs(self._training_rows if X is None else X), start=1):
            prediction += output
            if stage in wanted:
                yield prediction.copy()
            if stage == wanted[-1]:
                return

    def staged_telescoping(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the model itself: for trees the telescoping sum is no approximation."""
        yield from self.staged_model(X, stages)

    def column_cost(self, n_query: int, n_columns: int) -> ColumnCost:
        """One sum and one look-up a row and tree; the column, its residual and what a tree adds to it are held."""
        return ColumnCost(
            operations=2.0 * self.n_stages * (self.n_samples + n_query),
            bytes=8.0 * (4 * self.n_samples + 3 * n_query),
            fastest_block_bytes=_FASTEST_BLOCK,
        )

    def _leaves(self, X: NDArray | None) -> NDArray:
        return self.ensemble.leaves if X is None else self._find_leaves(X)

    def _leaf_weights(self, stage: int) -> NDArray:
        """Weight in each leaf; infinite where nothing is in it, so that its kernel is zero."""
        weights = self.ensemble.leaf_sums(stage, self.ensemble.stage_weights(stage))
        return np.where(weights > 0, weights, np.inf)

    def _start_response(self, X: NDArray | None, labels: NDArray, offset: bool) -> NDArray:
        start = self.start(X)
        response = np.tile(start.label_weights @ labels, (len(start.offset), 1))
        if offset:
            response[:, -1] += start.offset
        return response
