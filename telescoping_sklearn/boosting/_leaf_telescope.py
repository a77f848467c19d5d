"""The telescope of a tree ensemble: exact, since every leaf value is an affine function of what labels left over.

With P_t the leaf-membership matrix of tree t and B_t the same with the rows' weights as entries, a stage adds

    F_t(x) = F_{t-1}(x) + [R_t B_t (V - F_{t-1})]_{leaf of x}

to every column of labels, and to that of the offset c_t too (`_ensemble` says what R_t and c_t are): a sum over the
rows of each leaf, then one look-up a row. Consecutive trees are solved together in the space of their leaves
(`_leaf_space`), and columns are carried forward or back, whichever counts fewer steps (`_leaf_carriers`): that is the
plan of a question. No n x n array is made.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn._answers import AnsweringTelescope
from telescoping_sklearn._estimates import AUTO_EXACT_OPERATIONS, trained_blocks, unit_columns
from telescoping_sklearn._memory import working_memory_bytes
from telescoping_sklearn._telescope import Denominators, Plan, Start, refuse_other_columns, resolve_stages
from telescoping_sklearn.boosting._ensemble import LeafEnsemble, membership
from telescoping_sklearn.boosting._influence import influence_ensemble
from telescoping_sklearn.boosting._leaf_average import LOOK_UP, average_own_weights, average_weights, staged_average
from telescoping_sklearn.boosting._leaf_carriers import LeafCarrier, cheapest_group, moment_steps
from telescoping_sklearn.boosting._leaf_moments import MATRICES_HELD, LeafMoments
from telescoping_sklearn.boosting._leaf_space import offsets_of, row_blocks, stacked

#: Bytes of a block of columns beyond which it only gets slower: values of the leaves should stay in the caches.
_FASTEST_BLOCK = 2**30
#: Columns, such as probes, up to which the values of leaves are kept for the next set of rows asked about.
_KEPT_COLUMNS = 64
#: Query rows looked up at once.
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True, repr=False)
class LeafPlan(Plan):
    """A way to compute a response; operations count one multiplication and addition along a leaf number.

    Attributes
    ----------
    group : int
        Trees that are solved at once in the space of their leaves.
    """

    group: int

    @property
    def route(self) -> str:
        """Name of the way, as shown to users."""
        return f"{self.direction}, {self.group} trees at once"


@dataclass(frozen=True)
class LeafSums:
    """Exact sums over all weights in the space of leaves; see `ExactSums`.

    Attributes
    ----------
    telescope : LeafTelescope
        The telescope.
    operations : float
        Steps for the given number of query rows.
    """

    telescope: "LeafTelescope"
    operations: float

    def squared_weights(self, X: NDArray | None, sets: list[NDArray] | None, stages: NDArray) -> NDArray:
        """Sum of ||s_t(x)||^2 over each set of query rows, or over all, (n_stages, n_sets)."""
        leaves, start = self.telescope.leaves(X), self.telescope.ensemble.start_weights
        of_sets = [leaves] if sets is None else [leaves[:, rows] for rows in sets]
        at_start, moments = float(start @ start), self.telescope.moments
        sums = [[at_start * of_set.shape[1], *moments.squared_weights(of_set)] for of_set in of_sets]
        return np.array(sums).T[stages]

    def traces(self, stages: NDArray) -> NDArray:
        """Sum of the weights of training rows in their own predictions, (n_stages,)."""
        start = self.telescope.ensemble.start_weights.sum()
        return np.array([start, *self.telescope.moments.traces()])[stages]


class LeafTelescope(AnsweringTelescope):
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
    start_at : callable, default=None
        Gives what is added to the start of each query row, (n_query,), where that is not the same everywhere; labels
        do not set it.
    **kwargs
        What `Telescope` takes.
    """

    has_adjoint = True

    def __init__(
        self,
        ensemble: LeafEnsemble,
        find_leaves: Callable[[NDArray], NDArray],
        tree_outputs: Callable[[NDArray], Iterator[NDArray]],
        training_rows: NDArray,
        start_at: Callable[[NDArray], NDArray] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if self.n_outputs > 1:
            raise ValueError(f"y has {self.n_outputs} outputs, and trees have one: make a telescope for each output.")
        self.ensemble = ensemble
        self.is_smoother = ensemble.smoother
        self._find_leaves = find_leaves
        self._tree_outputs = tree_outputs
        self._training_rows = training_rows
        self._start_at = start_at
        self._offsets = offsets_of(ensemble.n_leaves)
        self._kept_carrier: tuple[int, LeafCarrier] | None = None
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
        rows, offset = self._rows(X), self.ensemble.start_offset
        added = np.zeros(len(rows)) if self._start_at is None else self._start_at(rows)
        return Start(self.ensemble.start_weights, offset + added)

    def staged_kernel(self, X: NDArray | None, stages: Any = None) -> Iterator[sparse.csr_array]:
        """k_t(x)_i = w_i 1{same leaf} / (weight in leaf), w the weights of rows in the stage; rows sum to 1."""
        leaves = self.leaves(X)
        for stage in resolve_stages(stages, self.n_stages, with_start=False):
            of_leaf = sparse.diags_array(1.0 / self._leaf_weights(stage)) @ self.ensemble.weighted_membership(stage)
            reached = membership(leaves[stage - 1], self.ensemble.n_leaves[stage - 1])
            yield sparse.csr_array(reached.T @ of_leaf)

    def staged_kernel_norms(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the norms by leaf, sqrt(sum w^2) / sum w, with no kernel made."""
        leaves = self.leaves(X)
        for stage in resolve_stages(stages, self.n_stages, with_start=False):
            of_leaf = np.sqrt(self.ensemble.leaf_sums(stage, self.ensemble.stage_weights(stage) ** 2))
            of_leaf /= self._leaf_weights(stage)
            yield of_leaf[leaves[stage - 1]]

    def apply_response(
        self, plan: Plan, X: NDArray | None, V: NDArray, offset: bool, stages: NDArray
    ) -> Iterator[NDArray]:
        """Carry label columns through the trees; see the module's docstring."""
        labels = np.column_stack([V, np.zeros(self.n_samples)]) if offset else V
        if self.ensemble.is_average:
            response = self._start_response(X, labels, offset)
            yield from staged_average(self.ensemble, self.leaves(X), labels, response, offset, stages)
            return
        start = self._start_response(None, labels, offset)
        if stages[-1] == 0:
            yield start if X is None else self._start_response(X, labels, offset)
            return
        if X is None and stages[0] == self.n_stages:
            yield self._carried(plan, labels, start, stages[-1], offset)[1]
            return
        values = self._values(plan, labels, start, stages[-1], offset)
        yield from self._look_up(self.leaves(X), values, self._start_response(X, labels, offset), stages)

    def apply_adjoint(self, plan: Plan, X: NDArray | None, stage: int | None = None) -> NDArray:
        """S_t(x), (n_query, n_train), from the queries back to the labels."""
        last = self.n_stages if stage is None else stage
        leaves, offsets = self.leaves(X)[:last], self._offsets[: last + 1]
        if self.ensemble.is_average:
            return average_weights(self.ensemble, leaves)
        n_query = leaves.shape[1]
        weights = np.empty((n_query, self.n_samples))
        carrier = self._carrier(plan)
        for block in plan.blocks(n_query):
            reached = stacked(leaves[:, block], offsets).T.toarray()
            weights[block] = carrier.apply_adjoint(reached, last).T
        return weights

    def staged_model(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the library's own prediction after each tree."""
        wanted = resolve_stages(stages, self.n_stages)
        if wanted[0] == 0:
            start = self.start(X)
            set_by_labels = self.ensemble.start(self.y) - self.ensemble.start_offset
            yield set_by_labels + start.offset
        prediction = np.zeros(self.n_query(X))
        for stage, output in enumerate(self._tree_outputs(self._rows(X)), start=1):
            prediction += output
            if stage in wanted:
                yield prediction.copy()
            if stage == wanted[-1]:
                return

    def rebuilt(self) -> NDArray:
        """Raw scores of the training rows from labels, leaves and denominators, (n_train,), for the self-check.

        For a smoother it is S y + c, as `reconstruct` gives it, tree by tree. For a non-quadratic loss it is the kernel
        form f_0 - sum_t sum_i K_t g_it: there S is the derivative of the raw score, and S y does not rebuild it.
        """
        start = self.start(None)
        raw = start.offset + (start.label_weights @ self.y if self.is_smoother else 0.0)
        for _ in self.ensemble.staged_leaf_values(self.y, raw):
            pass
        return raw

    # -- exact answers without columns -------------------------------------------------------------------------------

    @cached_property
    def moments(self) -> LeafMoments:
        """Sums over all weights in the space of leaves, made when first asked for and kept."""
        return LeafMoments(LeafCarrier(self.ensemble, self.n_stages, self.progress))

    def exact_sums(self, n_query: int) -> LeafSums | None:
        """Exact sums over all weights; None where matrices of leaves by leaves do not fit the working memory."""
        return LeafSums(self, moment_steps(self.ensemble, n_query)) if self._holds_leaves_squared() else None

    def _holds_leaves_squared(self) -> bool:
        return bool(8.0 * MATRICES_HELD * self._offsets[-1] ** 2 <= working_memory_bytes())

    def staged_own_weights(self) -> Iterator[NDArray]:
        """Yield the diagonal of S over the training rows, (n_train,), after every tree; exact.

        Raises
        ------
        MemoryError
            If neither matrices of leaves by leaves nor all stages of the diagonal fit the working memory, or carrying a
            column a row would take too long.
        """
        plan, sums = self.forward_plan(0, self.n_trained), self.exact_sums(0)
        fits = 8.0 * self.n_stages * self.n_samples <= working_memory_bytes()
        held = fits and plan.operations <= AUTO_EXACT_OPERATIONS
        if sums is not None and (sums.operations <= plan.operations or not held):
            yield from self.moments.staged_own_weights()
        elif held:
            yield from self._own_weights_by_columns(plan)
        else:
            raise MemoryError(
                f"Own weights of {self.n_trained} rows in {self.n_stages} trees need matrices of leaves by leaves "
                "that scikit-learn's working_memory does not hold, or too many columns; probes are too noisy for "
                "single rows. Raise working_memory with sklearn.set_config, or leave out what needs them ('loo')."
            )

    def _own_weights_by_columns(self, plan: Plan) -> Iterator[NDArray]:
        """Carry a unit column for every row, and look up each in its own leaves only."""
        added = np.zeros((self.n_stages, self.n_samples))
        positions, carrier = self._offsets[:-1, None] + self.ensemble.leaves, self._carrier(plan)
        for own in trained_blocks(self, plan):
            unit = unit_columns(self, own)
            values, _ = carrier.apply(unit, self._start_response(None, unit, False), self.n_stages)
            added[:, own] = np.take_along_axis(values, positions[:, own], axis=0)
        yield from self.ensemble.start_weights + np.cumsum(added, axis=0)

    # -- what it costs -----------------------------------------------------------------------------------------------

    @cached_property
    def _of_row_weights(self) -> "LeafTelescope":
        """The telescope whose columns are weights of rows."""
        ensemble = influence_ensemble(self.ensemble, self.y)
        rows: dict[str, Any] = {"training_rows": self._training_rows, "y": self.y, "trained": ensemble.trained}
        return LeafTelescope(ensemble, self._find_leaves, self._tree_outputs, seed=self.seed, **rows)

    def influence_telescope(self, denominators: Denominators = "moving") -> "LeafTelescope":
        """Return a telescope of the same trees whose columns are weights of rows; see `_influence`."""
        if denominators != "moving":
            raise ValueError(
                f"denominators={denominators!r} does not exist for trees: the denominators of leaves are sums of the "
                "rows' weights, and move with them. Use denominators='moving'."
            )
        return self._of_row_weights

    def own_weights(self) -> NDArray:
        """Diagonal of S over the training rows, (n_train,): from sums over pairs of leaves where that is cheaper."""
        if self.ensemble.is_average:
            return average_own_weights(self.ensemble)
        plan, sums = self.forward_plan(0, self.n_columns), self.exact_sums(0)
        if sums is not None and sums.operations <= plan.operations:
            *_, own = self.moments.staged_own_weights()
            return own
        return self._own_weights(plan)

    def forward_plan(self, n_query: int, n_columns: int) -> LeafPlan:
        """Plan label columns: labels and residuals are held at every training row, responses at every query."""
        look_up = float(n_query) * self.n_stages * n_columns
        if self.ensemble.is_average:
            leaves = float(self.ensemble.n_leaves.max())
            return self._single_trees("forward", n_columns, 2 * self.n_samples + 2 * n_query + 2 * leaves, look_up)
        return self._plan("forward", n_columns, 2 * self.n_samples + 2 * n_query + 2 * self._offsets[-1], look_up)

    def backward_plan(self, n_query: int) -> LeafPlan:
        """Plan queries carried back to the labels."""
        if self.ensemble.is_average:
            per_tree = self.n_samples * n_query / float(self.ensemble.n_leaves.mean())
            return self._single_trees("backward", 1, self.n_samples, LOOK_UP * self.n_stages * per_tree)
        of_rows = 2 if self.ensemble.fits_residuals else 3
        return self._plan("backward", n_query, of_rows * self.n_samples + 3 * self._offsets[-1], 0.0)

    def _plan(
        self, direction: Literal["forward", "backward"], n_columns: int, numbers_held: float, more: float
    ) -> LeafPlan:
        work = cheapest_group(self.ensemble, n_columns)
        return LeafPlan(
            direction=direction,
            group=work.group,
            operations=work.operations + more,
            column_bytes=8.0 * float(numbers_held),
            fastest_block_bytes=_FASTEST_BLOCK,
        )

    def _single_trees(
        self, direction: Literal["forward", "backward"], n_columns: int, numbers_held: float, more: float
    ) -> LeafPlan:
        """Plan trees visited one by one."""
        operations = LOOK_UP * float(self.n_samples) * self.n_stages + self.n_samples * float(self.n_stages) * n_columns
        return LeafPlan(direction=direction, group=1, operations=operations + more, column_bytes=8.0 * numbers_held)

    # -- how they are computed ---------------------------------------------------------------------------------------

    def _carried(self, plan: Plan, labels: NDArray, start: NDArray, last: int, offset: bool) -> tuple[NDArray, NDArray]:
        """Values of all leaves and responses of the training rows; values of few columns are kept for other rows."""
        values, response = self._carrier(plan).apply(labels, start, last, offset)
        if labels.shape[1] <= _KEPT_COLUMNS:
            self._kept_values = _digest(labels, offset), last, values
        return values, response

    def _values(self, plan: Plan, labels: NDArray, start: NDArray, last: int, offset: bool) -> NDArray:
        """Values of all leaves, carried again only where the labels are not those that were carried last."""
        kept = self._kept_values
        if kept is not None and labels.shape[1] == kept[2].shape[1] and last <= kept[1]:
            if _digest(labels, offset) == kept[0]:
                return kept[2]
        return self._carried(plan, labels, start, last, offset)[0]

    def _carrier(self, plan: Plan) -> LeafCarrier:
        """Trees in the groups of a plan; the last ones used are kept."""
        size = cast(LeafPlan, plan).group
        if self._kept_carrier is None or self._kept_carrier[0] != size:
            self._kept_carrier = size, LeafCarrier(self.ensemble, size, self.progress)
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

    def leaves(self, X: NDArray | None) -> NDArray:
        """Leaf of every query row in every tree, (n_stages, n_query)."""
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
    kind = b"offset" if offset else b""
    return kind + hashlib.sha256(np.ascontiguousarray(labels, dtype=np.float64).data, usedforsecurity=False).digest()
