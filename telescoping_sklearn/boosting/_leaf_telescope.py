"""The telescope of a tree ensemble: exact, since every leaf value is an affine function of what labels left over.

With P_t the leaf-membership matrix of tree t and B_t the same with the rows' weights as entries, a stage adds

    F_t(x) = F_{t-1}(x) + [R_t B_t (V - F_{t-1})]_{leaf of x}

to every column of labels, and to that of the offset c_t too (`_ensemble` says what R_t and c_t are): a sum over the
rows of each leaf, then one look-up a row. Consecutive trees are solved together in the space of their leaves
(`_leaf_space`), and columns are carried forward or back, whichever counts fewer steps (`_leaf_carriers`);
`LeafTelescope.plan` says which. No n x n array is made.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn._memory import items_per_block, working_memory_bytes
from telescoping_sklearn._telescope import (
    AUTO_EXACT_OPERATIONS,
    ColumnCost,
    Estimate,
    Start,
    Subsets,
    Telescope,
    refuse_other_columns,
    resolve_stages,
    resolve_subsets,
)
from telescoping_sklearn.boosting._ensemble import LeafEnsemble, membership
from telescoping_sklearn.boosting._leaf_carriers import LeafCarrier, cheapest_group, moment_steps
from telescoping_sklearn.boosting._leaf_moments import MATRICES_HELD, LeafMoments
from telescoping_sklearn.boosting._leaf_space import offsets_of, row_blocks, stacked

#: Bytes of a block of columns beyond which it only gets slower: values of the leaves should stay in the caches.
_FASTEST_BLOCK = 2**30
#: Steps beyond which an exact sum over all weights is no longer the automatic choice: some seconds.
_MOST_STEPS = 1e10
#: Columns, such as probes, up to which the values of leaves are kept for the next set of rows asked about.
_KEPT_COLUMNS = 64
#: Query rows looked up at once.
_ROWS_AT_ONCE = 8192


class Plan(NamedTuple):
    """How a response is worked, and what that costs.

    Attributes
    ----------
    route : {"forward", "backward"}
        From labels to queries, or from queries to labels.
    group : int
        Trees that are solved at once in the space of their leaves.
    operations : float
        Steps, in units of one multiplication and addition along a leaf number.
    column_bytes : float
        Memory held for one column (a label direction, or backward a query).
    """

    route: str
    group: int
    operations: float
    column_bytes: float


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
        self._offsets = offsets_of(ensemble.n_leaves)
        self._kept_carrier: tuple[int, LeafCarrier] | None = None
        self._kept_moments: LeafMoments | None = None
        self._kept_values: tuple[bytes, int, NDArray] | None = None

    @property
    def n_stages(self) -> int:
        """Number of trees."""
        return self.ensemble.n_stages

    @property
    def row_weights(self) -> NDArray:
        """Sample weights of the training rows, bags left aside; 0 where a row is not trained on."""
        return self.ensemble.row_weights

    def start(self, X: NDArray | None) -> Start:
        """Start f_0 = A y + b of the ensemble: often a mean or a quantile of the labels, with b = 0."""
        return Start(self.ensemble.start_weights, np.full(len(self._rows(X)), self.ensemble.start_offset))

    def staged_kernel(self, X: NDArray | None, stages: Any = None) -> Iterator[sparse.csr_array]:
        """k_t(x)_i = w_i 1{same leaf} / (weight in leaf), w the weights of rows in the stage; rows sum to 1."""
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
        start = self._start_response(None, labels, offset)
        if wanted[-1] == 0:
            yield start if X is None else self._start_response(X, labels, offset)
            return
        if X is None and wanted[0] == self.n_stages:
            yield self._carried(labels, start, wanted[-1], offset)[1]
            return
        values = self._values(labels, start, wanted[-1], offset)
        yield from self._look_up(self._leaves(X), values, self._start_response(X, labels, offset), wanted)

    def backward_weights(self, X: NDArray | None) -> NDArray:
        """S(x), (n_query, n_train), worked from the queries back to the labels."""
        leaves = self._leaves(X)
        n_query = leaves.shape[1]
        weights = np.empty((n_query, self.n_samples))
        size = items_per_block(self._query_bytes(), n_query, _FASTEST_BLOCK)
        carrier = self._carrier(min(size, n_query))
        for block in row_blocks(n_query, size):
            reached = stacked(leaves[:, block], self._offsets).T.toarray()
            weights[block] = carrier.backward(reached).T
        return weights

    def prefers_backward(self, X: NDArray | None) -> bool:
        """Whether working back from the queries costs less than carrying every training label forward."""
        return self.plan(X).route.startswith("backward")

    def staged_model(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the library's own prediction after each tree."""
        wanted = resolve_stages(stages, self.n_stages)
        if wanted[0] == 0:
            yield np.full(self.n_query(X), self.ensemble.start(self.y))
        prediction = np.zeros(self.n_query(X))
        for stage, output in enumerate(self._tree_outputs(self._rows(X)), start=1):
            prediction += output
            if stage in wanted:
                yield prediction.copy()
            if stage == wanted[-1]:
                return

    def staged_telescoping(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the model itself: for trees the telescoping sum is no approximation."""
        yield from self.staged_model(X, stages)

    # -- exact answers without columns -------------------------------------------------------------------------------

    def staged_effective_params(
        self, X: NDArray | None, *, stages: Any = None, n_probes: Any = "auto", subsets: Subsets = None
    ) -> Estimate:
        """P after each stage; exact values come from the space of leaves where that is cheaper than unit columns."""
        n_query = self.n_query(X)
        if self.resolve_n_probes(n_probes, n_query) is not None or not self.has_moments(n_query):
            return super().staged_effective_params(X, stages=stages, n_probes=n_probes, subsets=subsets)
        asked, leaves = resolve_stages(stages, self.n_stages), self._leaves(X)
        rows_of_sets = resolve_subsets(subsets, n_query)
        sets = [leaves] if rows_of_sets is None else [leaves[:, rows] for rows in rows_of_sets]
        means = [self._squared_weights(of_set, asked) / of_set.shape[1] for of_set in sets]
        p = self.n_trained * (means[0] if subsets is None else np.stack(means, axis=1))
        return Estimate(p, np.zeros_like(p))

    def staged_training_summary(self, *, stages: Any = None, n_probes: Any = "auto") -> tuple[Estimate, Estimate]:
        """Effective parameters and trace on the rows trained on, exact where the space of leaves makes that cheap."""
        if self.resolve_n_probes(n_probes, self.n_samples) is not None or not self.has_moments(self.n_samples):
            return super().staged_training_summary(stages=stages, n_probes=n_probes)
        asked, leaves = resolve_stages(stages, self.n_stages), self.ensemble.leaves
        p = self._squared_weights(leaves if self.trained.all() else leaves[:, self.trained], asked)
        start = self.ensemble.start_weights.sum()
        trace = np.concatenate([[start], self.moments().traces()])[asked]
        return Estimate(p, np.zeros_like(p)), Estimate(trace, np.zeros_like(trace))

    def staged_own_weights(self) -> Iterator[NDArray]:
        """Yield the diagonal of S over the training rows, (n_train,), after every tree; exact.

        Raises
        ------
        MemoryError
            If neither matrices of leaves by leaves nor all stages of the diagonal fit the working memory, or carrying a
            column a row would take too long.
        """
        columns = self._forward_plan(0, self.n_trained).operations
        held = 8.0 * self.n_stages * self.n_samples <= working_memory_bytes() and columns <= AUTO_EXACT_OPERATIONS
        if self.holds_leaves_squared() and (moment_steps(self.ensemble, 0) <= columns or not held):
            yield from self.moments().staged_own_weights()
        elif held:
            yield from self._own_weights_by_columns()
        else:
            raise MemoryError(
                f"Own weights of {self.n_trained} rows in {self.n_stages} trees need matrices of leaves by leaves "
                "that scikit-learn's working_memory does not hold, or too many columns; probes are too noisy for "
                "single rows. Raise working_memory with sklearn.set_config, or leave out what needs them ('loo')."
            )

    def _own_weights_by_columns(self) -> Iterator[NDArray]:
        """Carry a unit column for every row, and look up each in its own leaves only."""
        added = np.zeros((self.n_stages, self.n_samples))
        positions = self._offsets[:-1, None] + self.ensemble.leaves
        columns = np.flatnonzero(self.trained)
        for block in self._column_blocks(len(columns), 0):
            own, unit = columns[block], self._unit_columns(columns[block])
            start = self._start_response(None, unit, False)
            values, _ = self._carrier(len(own)).forward(unit, start, self.n_stages)
            added[:, own] = np.take_along_axis(values, positions[:, own], axis=0)
        yield from self.ensemble.start_weights + np.cumsum(added, axis=0)

    def moments(self) -> LeafMoments:
        """Give sums over all weights in the space of leaves, made when first asked for and kept."""
        if self._kept_moments is None:
            self._kept_moments = LeafMoments(LeafCarrier(self.ensemble, self.n_stages, self._watched))
        return self._kept_moments

    def has_moments(self, n_query: int) -> bool:
        """Whether exact sums over all weights fit the working memory and take fewer steps than unit columns."""
        cheap = moment_steps(self.ensemble, n_query) <= self._forward_plan(n_query, self.n_trained).operations
        return cheap and self.holds_leaves_squared()

    def holds_leaves_squared(self) -> bool:
        """Whether the matrices of leaves by leaves that exact sums need fit the working memory."""
        return bool(8.0 * MATRICES_HELD * self._offsets[-1] ** 2 <= working_memory_bytes())

    def resolve_n_probes(self, n_probes: Any, n_query: int) -> int | None:
        """Choose the number of probes; "auto" is exact too where the space of leaves makes that cheap."""
        count = super().resolve_n_probes(n_probes, n_query)
        cheap = n_probes == "auto" and self.has_moments(n_query) and moment_steps(self.ensemble, n_query) <= _MOST_STEPS
        return None if cheap else count

    def _squared_weights(self, leaves: NDArray, stages: NDArray) -> NDArray:
        """Sum of all squared weights of a set of queries after each stage asked for, 0 being the start."""
        at_start = leaves.shape[1] * float(self.ensemble.start_weights @ self.ensemble.start_weights)
        return np.concatenate([[at_start], self.moments().squared_weights(leaves)])[stages]

    # -- what it costs -----------------------------------------------------------------------------------------------

    def plan(self, X: NDArray | None, *, n_columns: int | None = None) -> Plan:
        """Say how a response is worked: the cheapest route, its steps, and its memory a column.

        Parameters
        ----------
        X : ndarray of shape (n_query, n_features) or None
            Query rows; None stands for the training rows.
        n_columns : int or None, default=None
            Label directions that are carried, such as probes; None stands for kernel weights, which may also be worked
            backward.

        Returns
        -------
        Plan
            The route and what it costs.
        """
        n_query = self.n_query(X)
        forward = self._forward_plan(n_query, self.n_trained if n_columns is None else n_columns)
        if n_columns is not None:
            return forward
        return min(forward, self._backward_plan(n_query), key=lambda plan: plan.operations)

    def column_cost(self, n_query: int, n_columns: int) -> ColumnCost:
        """Share of one column in the cheapest way forward."""
        plan = self._forward_plan(n_query, n_columns)
        return ColumnCost(plan.operations / max(n_columns, 1), plan.column_bytes, _FASTEST_BLOCK)

    def _forward_plan(self, n_query: int, n_columns: int) -> Plan:
        """Label, residual and what is asked of them are held for every training row, the response for every query."""
        work = cheapest_group(self.ensemble, n_columns)
        column_bytes = 8.0 * (2 * self.n_samples + 2 * n_query + 2 * int(self._offsets[-1]))
        operations = work.operations + float(n_query) * self.n_stages * n_columns
        return Plan("forward", work.group, operations, column_bytes)

    def _backward_plan(self, n_query: int) -> Plan:
        work = cheapest_group(self.ensemble, n_query)
        return Plan("backward", work.group, work.operations, self._query_bytes())

    def _query_bytes(self) -> float:
        held = 2 if self.ensemble.fits_residuals else 3
        return 8.0 * (held * self.n_samples + 3 * int(self._offsets[-1]))

    # -- how they are worked -----------------------------------------------------------------------------------------

    def _carried(self, labels: NDArray, start: NDArray, last: int, offset: bool) -> tuple[NDArray, NDArray]:
        """Values of all leaves and responses of the training rows; values of few columns are kept for other rows."""
        values, response = self._carrier(labels.shape[1]).forward(labels, start, last, offset)
        if labels.shape[1] <= _KEPT_COLUMNS:
            self._kept_values = _digest(labels, offset), last, values
        return values, response

    def _values(self, labels: NDArray, start: NDArray, last: int, offset: bool) -> NDArray:
        """Values of all leaves, carried again only where the labels are not those that were carried last."""
        kept = self._kept_values
        if kept is not None and labels.shape[1] == kept[2].shape[1] and last <= kept[1]:
            if _digest(labels, offset) == kept[0]:
                return kept[2]
        return self._carried(labels, start, last, offset)[0]

    def _carrier(self, n_columns: int) -> LeafCarrier:
        """Trees in groups of the cheapest size for so many columns; the last one used is kept."""
        size = cheapest_group(self.ensemble, n_columns).group
        if self._kept_carrier is None or self._kept_carrier[0] != size:
            self._kept_carrier = size, LeafCarrier(self.ensemble, size, self._watched)
        return self._kept_carrier[1]

    def _look_up(self, leaves: NDArray, values: NDArray, response: NDArray, stages: NDArray) -> Iterator[NDArray]:
        """Yield the start plus the values of the leaves that rows lie in, after each stage asked for."""
        done = 0
        for stage in stages:
            if stage > done:
                first, last = self._offsets[done], self._offsets[stage]
                offsets = self._offsets[done : stage + 1] - first
                for block in row_blocks(len(response), _ROWS_AT_ONCE):
                    response[block] += stacked(leaves[done:stage, block], offsets) @ values[first:last]
                done = stage
            yield response if stage == stages[-1] else response.copy()

    def _rows(self, X: NDArray | None) -> NDArray:
        if X is None:
            return self._training_rows
        refuse_other_columns(X, self._training_rows.shape[1])
        return X

    def _leaves(self, X: NDArray | None) -> NDArray:
        return self.ensemble.leaves if X is None else self._find_leaves(self._rows(X))

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


def _digest(labels: NDArray, offset: bool) -> bytes:
    """Tell columns of labels apart, far faster than carrying them; with ``offset`` the last one is the offset's."""
    person = b"offset" if offset else b""
    return hashlib.blake2b(np.ascontiguousarray(labels, dtype=np.float64).data, digest_size=16, person=person).digest()
