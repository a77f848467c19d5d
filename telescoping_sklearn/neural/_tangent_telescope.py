"""The telescope of a recorded run: each update to first order, at a point of the update's segment that a rule chooses.

An update theta_s -> theta_e moves the outputs by about J(theta*; x) (theta_e - theta_s). The same bridge carries label
directions: batch gradients are taken at theta_{t-1}, where the optimiser took them, and only the outer Jacobian follows
the rule. A section bridges several consecutive updates with one evaluation; inside it, rows of a batch are brought
forward for themselves when their turn comes.

The response can be carried in four ways that give the same numbers, and the cheapest is taken: forward or backward,
from labels to queries or from queries to labels, each with the block of parameters or, for plain stochastic gradient
descent, with kernels only. See `_carriers`; `TangentTelescope.plan` says which.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn._telescope import ColumnCost, Start, Telescope, read_only, refuse_other_columns, resolve_stages
from telescoping_sklearn.neural._carriers import (
    BackwardKernelCarrier,
    BackwardParameterCarrier,
    Carrier,
    KernelCarrier,
    ParameterCarrier,
)
from telescoping_sklearn.neural._float_range import refuse_infinite_outputs
from telescoping_sklearn.neural._isolation import isolates, isolates_public_methods
from telescoping_sklearn.neural._path import Path, as_double
from telescoping_sklearn.neural._pilot import ResponseAccuracy, measured_accuracy
from telescoping_sklearn.neural._sections import Sections
from telescoping_sklearn.neural._tangent import row_blocks
from telescoping_sklearn.neural._update_rules import ReversibleRule, UpdateRule

#: Bytes of a block of columns carried with the parameters beyond which it gets slower: its pages come fresh.
_FASTEST_COLUMNS = 128 * 2**20


class Plan(NamedTuple):
    """How a response is worked, and what that costs.

    Attributes
    ----------
    route : {"parameters", "kernel", "backward parameters", "backward kernel"}
        What is carried, and in which direction.
    operations : float
        Multiplications.
    column_bytes : float
        Memory held for one column (a label direction, or backward a query).
    """

    route: str
    operations: float
    column_bytes: float


@isolates_public_methods
class TangentTelescope(Telescope):
    """The telescope of a recorded run of a network.

    Parameters
    ----------
    path : Path
        The recorded run.
    sections : Sections
        How it is cut.
    make_rule : callable
        Makes the optimiser's linear response, with fresh state.
    accuracy : ResponseAccuracy or None, default=None
        How far the response can be trusted over these sections; None measures it when a response is first asked for.
    **kwargs
        What `Telescope` takes.
    """

    def __init__(
        self,
        path: Path,
        sections: Sections,
        make_rule: Callable[[], UpdateRule],
        accuracy: ResponseAccuracy | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.path = path
        self.sections = replace(sections, ends=read_only(sections.ends))
        self._make_rule = make_rule
        self._accuracy = None if accuracy is None else replace(accuracy)  # pickles do not keep arrays read-only
        if path.trajectory.adaptive:
            self.default_kernel_stages = 20  # such kernels do not factor by layer and are thirty times dearer

    @property
    def n_stages(self) -> int:
        """Number of parameter updates."""
        return self.path.trajectory.n_stages

    @property
    def row_weights(self) -> NDArray:
        """Sample weights of the training rows, of mean 1 over those trained on; 0 where a row is not."""
        return read_only(self.path.row_weights.cpu().numpy())

    # -- the hooks ---------------------------------------------------------------------------------------------------

    def start(self, X: NDArray | None) -> Start:
        """Start from the initial weights, whatever the labels: A = 0, b = f_0(x)."""
        return Start(np.zeros(self.n_samples), self.path.outputs(self._rows(X), 0).cpu().numpy())

    def staged_kernel(self, X: NDArray | None, stages: Any = None) -> Iterator[sparse.csr_array]:
        """k_t(x)_i = w_i / |B_t| J(x)^T diag(1/phi_t) J(x_i) for i in the batch, both at theta_{t-1}."""
        rows = self._rows(X)
        for stage in resolve_stages(stages, self.n_stages, with_start=False):
            batch = self.path.batch(stage).cpu().numpy()
            kernel = np.empty((len(rows), len(batch)))
            for queries, columns, block in self._kernel_blocks(rows, stage):
                kernel[queries, columns] = block.cpu().numpy()
            order = np.argsort(batch)
            indices = np.tile(batch[order], len(rows))
            ends = np.arange(len(rows) + 1) * len(batch)
            shape = (len(rows), self.n_samples)
            yield sparse.csr_array((kernel[:, order].ravel(), indices, ends), shape=shape)

    def staged_kernel_norms(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the norms block by block, with no kernel kept."""
        rows = self._rows(X)
        for stage in resolve_stages(stages, self.n_stages, with_start=False):
            squared = torch.zeros(len(rows), dtype=torch.float64, device=self.path.device)
            for queries, _, block in self._kernel_blocks(rows, stage):
                squared[queries] += (block**2).sum(dim=1)
            yield squared.sqrt().cpu().numpy()

    def staged_response(
        self, X: NDArray | None, V: NDArray, offset: bool = False, stages: Any = None
    ) -> Iterator[NDArray]:
        """Carry label columns through the recorded run, beyond the last sound stage too."""
        wanted = resolve_stages(stages, self.n_stages)
        labels = np.column_stack([V, np.zeros(self.n_samples)]) if offset else np.asarray(V)
        for response in self._carry(X, labels, offset, wanted):
            yield response.double().cpu().numpy()

    def carry_columns(self, X: NDArray, labels: NDArray, stages: NDArray) -> Iterator[Tensor]:
        """Yield the response of queries to label columns, (n_query, k), of which the last starts from the net itself.

        With the training labels in the last column, its response is the reconstruction S y + c.
        """
        yield from self._carry(X, labels, True, stages)

    def backward_weights(self, X: NDArray | None) -> NDArray:
        """S(x), (n_query, n_train), worked from the queries back to the labels; also where it is not sound."""
        rows = self._rows(X)
        weights = np.zeros((len(rows), self.n_samples))
        plan = self._plans(len(rows), len(rows), backward=True)
        size = items_per_block(plan.column_bytes, len(rows), self._most_bytes(plan))
        for first in range(0, len(rows), size):
            weights[first : first + size] = self._carry_back(
                rows[first : first + size], plan.route, self._sections_of(plan.route)
            )
        return weights

    def prefers_backward(self, X: NDArray | None) -> bool:
        """Whether working back from the queries costs less than carrying every training label forward."""
        return self.plan(X).route.startswith("backward")

    def staged_model(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the net's own prediction after each update, in float64."""
        rows = self._rows(X)
        for stage in resolve_stages(stages, self.n_stages):
            yield self.path.outputs(rows, stage).cpu().numpy()

    def staged_telescoping(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield f_0 + sum over sections of J(theta*) (theta_e - theta_s), along the steps that training took."""
        wanted = resolve_stages(stages, self.n_stages)
        rows = self._rows(X)
        prediction = self.path.outputs(rows, 0)
        if wanted[0] == 0:
            yield prediction.cpu().numpy().copy()
        asked = set(wanted.tolist())
        for stage in sorted(asked | set(self.sections.ends[self.sections.ends <= wanted[-1]].tolist()) - {0}):
            if stage == 0:
                continue
            first = self.sections.first_of(stage)
            reached = prediction + self.path.change(rows, first, stage, self.path.step(first, stage))[:, 0]
            if self.sections.is_end(stage):
                prediction = reached
            if stage in asked:
                yield reached.cpu().numpy().copy()  # the next section starts from it

    def staged_linearized(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield f_0 + J(theta_0) (theta_t - theta_0): the model linearised once, at its start."""
        wanted = resolve_stages(stages, self.n_stages)
        path, rows = self.path, self._rows(X)
        outputs = path.outputs(rows, 0)
        at_start = path.theta(0)
        size = items_per_block(8.0 * (2 * path.network.n_params + len(rows)), len(wanted), _FASTEST_COLUMNS)
        for first in range(0, len(wanted), size):
            moved = torch.cat([path.step(0, stage) for stage in wanted[first : first + size]])
            changes = torch.empty((len(rows), len(moved)), dtype=path.dtype, device=path.device)
            for block in row_blocks(path.network, len(rows), n_columns=len(moved), itemsize=path.dtype.itemsize):
                changes[block] = path.tangent(at_start, rows[block]).jvp(moved)
            for change in changes.T:
                yield (outputs + change).cpu().numpy()

    # -- how far it can be trusted -----------------------------------------------------------------------------------

    @property
    @isolates
    def accuracy(self) -> ResponseAccuracy:
        """How far the response can be trusted, measured by pilot columns when first asked for."""
        if self._accuracy is None:
            self._accuracy = measured_accuracy(self._with_sections, self.sections)
        return self._accuracy

    @property
    def last_sound_stage(self) -> int:
        """Last stage at which the response passes its checks."""
        return self.accuracy.last_sound

    def is_sound(self, stages: NDArray) -> NDArray:
        """Whether the response passes its checks at stages, (n_stages,)."""
        return self.accuracy.is_sound(stages)

    def response_error(self, X: NDArray | None, stages: NDArray) -> NDArray:
        """Relative error of effective parameters that sections leave at stages, (n_stages,)."""
        return self.accuracy.relative_error(stages, training=X is None)

    def _with_sections(self, sections: Sections) -> "TangentTelescope":
        """Cut the same run in another way."""
        return TangentTelescope(
            self.path, sections, self._make_rule, None, y=self.y, trained=self.trained, seed=self.seed
        )

    # -- what it costs -----------------------------------------------------------------------------------------------

    def plan(self, X: NDArray | None, *, n_columns: int | None = None) -> Plan:
        """Say how a response is worked: the cheapest route, its multiplications, and its memory a column.

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
        forward = self._plans(n_query, self.n_trained if n_columns is None else n_columns)
        if n_columns is not None or not self._can_go_back:
            return forward
        return min(forward, self._plans(n_query, n_query, backward=True), key=lambda plan: plan.operations)

    def column_cost(self, n_query: int, n_columns: int) -> ColumnCost:
        """Share of one column in the cheapest way forward."""
        plan = self._plans(n_query, n_columns)
        return ColumnCost(plan.operations / max(n_columns, 1), plan.column_bytes, self._most_bytes(plan))

    @property
    def _can_go_back(self) -> bool:
        return hasattr(self._make_rule(), "transposed_step")

    def _most_bytes(self, plan: Plan) -> float:
        return np.inf if "kernel" in plan.route else _FASTEST_COLUMNS

    def _plans(self, n_query: int, n_columns: int, backward: bool = False) -> Plan:
        """Choose the cheapest plan of one direction for so many columns."""
        direction = "backward " if backward else ""
        p, pair = self.path.network.n_params, self.path.network.pair_operations
        itemsize, nodes = self.path.dtype.itemsize, len(self.path.nodes)
        lengths = self.sections.lengths
        batch = min(len(self.path.trajectory.batches[0]), self.n_samples)
        rows = self.n_samples + n_query
        at_ends = nodes * len(lengths) * rows
        inside = nodes * batch * float((lengths - 1).sum())
        tangents = 3.0 * p * (at_ends + inside + batch * self.n_stages)
        dense = tangents + float(p) * n_columns * (at_ends + inside + (batch + 10) * self.n_stages)
        plans = [Plan(direction + "parameters", dense, itemsize * (7.0 * p + 3 * rows))]
        if getattr(self._make_rule(), "is_plain", False):
            lengths = self._sections_of("kernel").lengths
            pairs = nodes * batch * (rows * float(lengths.sum()) + batch * float((lengths * (lengths - 1) / 2).sum()))
            held = rows * 3 + batch * float(lengths.max())
            plans.append(Plan(direction + "kernel", tangents + pairs * (pair + n_columns), itemsize * held))
        return min(plans, key=lambda plan: plan.operations)

    # -- beyond the hooks --------------------------------------------------------------------------------------------

    def parameter_response(self, V: NDArray, offset: bool = False) -> NDArray:
        """Theta_T, (n_params, k): response of the trained parameters to label columns.

        With ``V = y[:, None]`` and the offset's column, the sum of the columns is the trained parameters, to the
        accuracy of the telescope.

        Parameters
        ----------
        V : ndarray of shape (n_train, k)
            Label columns.
        offset : bool, default=False
            Whether to append the offset's column, which starts from the initial parameters.

        Returns
        -------
        ndarray of shape (n_params, k) or (n_params, k + 1)
            One column a label direction.

        Raises
        ------
        UnstableResponseError
            If the label response is not sound at the last stage.
        """
        self._refuse_unsound("parameter_response")
        labels = np.column_stack([V, np.zeros(self.n_samples)]) if offset else np.asarray(V)
        carrier = self._parameter_carrier(labels.shape[1], offset)
        nothing = np.empty((0, self.path.rows.shape[1]))
        for _ in self._carry_by(carrier, self.sections, nothing, labels, offset, np.array([self.n_stages])):
            pass
        return carrier.parameters.T.double().cpu().numpy()

    # -- how they are worked -----------------------------------------------------------------------------------------

    def _sections_of(self, route: str) -> Sections:
        """Sections of a route: kernels cut chosen ones at an epoch, since they cost the square of a length."""
        if "kernel" not in route or not self.sections.chosen:
            return self.sections
        return self.sections.at_most(self.path.trajectory.batches.per_epoch)

    def _carry(self, X: NDArray | None, labels: NDArray, offset: bool, wanted: NDArray) -> Iterator[Tensor]:
        """Carry label columns by the cheapest route; with ``offset`` the last one starts from the net."""
        route = self._plans(self.n_query(X), labels.shape[1]).route
        carrier = KernelCarrier(self.path) if route == "kernel" else self._parameter_carrier(labels.shape[1], offset)
        return self._carry_by(carrier, self._sections_of(route), X, labels, offset, wanted)

    def _parameter_carrier(self, n_columns: int, offset: bool) -> ParameterCarrier:
        carrier = ParameterCarrier(self.path, self._make_rule(), n_columns)
        if offset:
            carrier.parameters[-1] = self.path.theta(0)
        return carrier

    def _carry_by(
        self,
        carrier: Carrier,
        sections: Sections,
        X: NDArray | None,
        labels: NDArray,
        offset: bool,
        wanted: NDArray,
    ) -> Iterator[Tensor]:
        """Yield the response of queries, (n_query, k), at the stages wanted."""
        path, rows = self.path, self._rows(X)
        V = as_double(labels, path.device).to(path.dtype)
        training = self._start_response(path.rows, V.shape[1], offset)
        query = training if X is None else self._start_response(rows, V.shape[1], offset)
        asked = set(wanted.tolist())
        if 0 in asked:
            yield query.clone()
        for stage in self._watched(range(1, int(wanted[-1]) + 1), "labels through the updates"):
            first, batch = sections.first_of(stage), path.batch(stage)
            response = training[batch]
            if stage - 1 > first:
                carrier.bridge(response, path.rows[batch], first, stage - 1)
            residual = response.sub_(V[batch]).mul_(path.batch_weights(batch)[:, None])
            carrier.take(stage, path.batch_tangent(stage), residual)
            if sections.is_end(stage):
                if stage < wanted[-1] or X is None:
                    carrier.bridge(training, path.rows, first, stage, lasting=True)
                if X is not None:
                    carrier.bridge(query, rows, first, stage, lasting=True)
                carrier.close()
                if stage in asked:
                    yield query.clone()
            elif stage in asked:
                inside = query.clone()
                carrier.bridge(inside, rows, first, stage, lasting=True)
                yield inside

    def _carry_back(self, rows: Tensor, route: str, sections: Sections) -> NDArray:
        """Kernel weights of a block of queries, (n_query, n_train): the recursion of `_carry`, transposed."""
        path, n_query = self.path, len(rows)
        carrier: BackwardKernelCarrier | BackwardParameterCarrier
        if "kernel" in route:
            carrier = BackwardKernelCarrier(path)
        else:
            carrier = BackwardParameterCarrier(path, cast(ReversibleRule, self._make_rule()), n_query)
        own = torch.eye(n_query, dtype=path.dtype, device=path.device)
        on_training = torch.zeros((self.n_samples, n_query), dtype=path.dtype, device=path.device)
        weights = torch.zeros_like(on_training)
        for stage in self._watched(range(self.n_stages, 0, -1), "queries back through the updates"):
            first, batch = sections.first_of(stage), path.batch(stage)
            if sections.is_end(stage):
                carrier.open()
                carrier.bridge(rows, first, stage, own)
                if stage < self.n_stages:
                    carrier.bridge(path.rows, first, stage, on_training)
            on_residual = carrier.give(stage, path.batch_tangent(stage)) * path.batch_weights(batch)[:, None]
            weights[batch] -= on_residual
            on_training[batch] += on_residual
            if stage - 1 > first:
                carrier.bridge(path.rows[batch], first, stage - 1, on_residual)
        return weights.T.double().cpu().numpy()

    def _kernel_blocks(self, rows: Tensor, stage: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield blocks of a stage's kernel: slices of the queries and of the batch, and the kernel there."""
        path, batch = self.path, self.path.batch(stage)
        theta, phi = path.theta(stage - 1), path.phi(stage)
        held = path.network.n_params if phi is not None else path.network.row_numbers
        size = items_per_block(16.0 * held, len(batch))
        for start in range(0, len(batch), size):
            columns = slice(start, min(start + size, len(batch)))
            members = batch[columns]
            weights = path.row_weights[members] / len(batch)
            there = path.tangent(theta, path.rows[members])
            directions = None if phi is None else there.gradients() / phi
            products = {"n_columns" if phi is not None else "n_others": len(members)}
            for queries in row_blocks(path.network, len(rows), itemsize=path.dtype.itemsize, **products):
                here = path.tangent(theta, rows[queries])
                block = here.kernel(there) if directions is None else here.jvp(directions)
                yield queries, columns, block * weights

    def _start_response(self, rows: Tensor, n_columns: int, offset: bool) -> Tensor:
        response = torch.zeros((len(rows), n_columns), dtype=self.path.dtype, device=self.path.device)
        if offset:
            response[:, -1] = self.path.outputs(rows, 0)
        return response

    def _rows(self, X: NDArray | None) -> Tensor:
        if X is None:
            return self.path.rows
        refuse_other_columns(X, self.path.rows.shape[1])
        rows = as_double(X, self.path.device)
        refuse_infinite_outputs(self.path.outputs(rows, self.n_stages, self.path.dtype), self.path.dtype)
        return rows
