"""The telescope of a recorded run: each update to first order, at points of its segment chosen by a quadrature rule.

An update theta_s -> theta_e moves the outputs by about J(theta*; x) (theta_e - theta_s). The same Jacobians carry label
directions: batch gradients are taken at theta_{t-1}, where the optimiser took them, and only the outer Jacobian follows
the rule. A section covers several consecutive updates with one evaluation; inside it, the response at the rows of a
batch is brought up to date when the batch is next.

The response can be carried in four ways that give the same numbers: forward, from labels to queries, or backward, each
with the block of parameters or, for plain stochastic gradient descent, with kernels only; see `_carriers`. Over chosen
sections, full-batch gradient descent has a form more that holds the kernel of a section; see `_section_kernel`. A
question's plan is the cheapest.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from telescoping_sklearn._answers import AnsweringTelescope
from telescoping_sklearn._memory import items_per_block, working_memory_bytes
from telescoping_sklearn._telescope import Denominators, Plan, Start, read_only, refuse_other_columns, resolve_stages
from telescoping_sklearn.losses import Loss, SquaredError
from telescoping_sklearn.neural._carriers import (
    AdjointCarrier,
    AdjointKernelCarrier,
    AdjointParameterCarrier,
    Carrier,
    KernelCarrier,
    ParameterCarrier,
)
from telescoping_sklearn.neural._float_range import refuse_infinite_outputs
from telescoping_sklearn.neural._isolation import isolates, isolates_public_methods
from telescoping_sklearn.neural._network import pairs_of
from telescoping_sklearn.neural._path import Path, as_double
from telescoping_sklearn.neural._pilot import ResponseAccuracy, measured_accuracy
from telescoping_sklearn.neural._run_loss import BatchLoss, loss_parts, output_scale
from telescoping_sklearn.neural._saved_pass import NOT_SAVED, SavedPass
from telescoping_sklearn.neural._saved_work import SavedWork, digest
from telescoping_sklearn.neural._section_kernel import SectionKernel, full_batch, power_sum_operations
from telescoping_sklearn.neural._sections import Sections
from telescoping_sklearn.neural._tangent import row_blocks
from telescoping_sklearn.neural._update_rules import UpdateRule

#: Bytes of a block of columns carried with the parameters beyond which it gets slower: its pages come fresh.
_FASTEST_COLUMNS = 128 * 2**20
#: Square arrays over the batch that are held where the kernel of a section is.
_HELD_KERNELS = 6


@dataclass(frozen=True, kw_only=True, repr=False)
class TangentPlan(Plan):
    """A way to compute a response along a recorded run.

    Attributes
    ----------
    form : {"parameters", "kernel", "section kernel"}
        What is carried; see `_carriers` and `_section_kernel`.
    sections : Sections
        How the run is cut.
    """

    form: Literal["parameters", "kernel", "section kernel"]
    sections: Sections = field(compare=False)

    @property
    def route(self) -> str:
        """Name of the way, as shown to users."""
        return self.form if self.direction == "forward" else f"backward {self.form}"


@isolates_public_methods
class TangentTelescope(AnsweringTelescope):
    """The telescope of a recorded run of a network.

    Parameters
    ----------
    path : Path
        The recorded run.
    sections : Sections
        How it is cut.
    make_update_rule : callable
        Makes the optimiser's linear response, with fresh state.
    accuracy : ResponseAccuracy or None, default=None
        How far the response can be trusted over these sections; None measures it when a response is first asked for.
    loss : Loss or None, default=None
        The loss that the run took gradients of; None is squared error. With another loss the outputs are raw scores,
        and their response to labels is a derivative with h and q held at the run's own outputs: no smoother.
    **kwargs
        What `Telescope` takes.
    """

    has_linearized = True
    unsound_remedy = (
        "Where it fails, the recursion is unstable, or sections are too long: fit with max_iter or learning_rate_init "
        "lowered, or use section=1 or rule='gauss2' where they are not in use."
    )
    #: Blocks of p numbers that are held for one column.
    parameter_blocks: float = 7.0

    def __init__(
        self,
        path: Path,
        sections: Sections,
        make_update_rule: Callable[[], UpdateRule],
        accuracy: ResponseAccuracy | None = None,
        *,
        loss: Loss | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.loss = SquaredError() if loss is None else loss
        self.is_smoother = self.loss.is_quadratic
        if self.n_outputs != path.network.n_outputs:
            raise ValueError(f"y has {self.n_outputs} outputs, and the network {path.network.n_outputs}: give as many.")
        self.path = path
        self.sections = replace(sections, ends=read_only(sections.ends))
        self._make_update_rule = make_update_rule
        rule = make_update_rule()
        self._is_plain, self.has_adjoint = rule.is_plain, rule.has_adjoint
        self._accuracy = None if accuracy is None else replace(accuracy)  # pickles do not keep arrays read-only
        self._of_row_weights: dict[str, TangentTelescope] = {}
        if path.trajectory.adaptive:
            self.default_kernel_stages = 20  # such kernels do not factor by layer: thirty times the cost

    @property
    def n_stages(self) -> int:
        """Number of parameter updates."""
        return self.path.trajectory.n_stages

    @cached_property
    def output_scale(self) -> NDArray:
        """Spread of each output, (n_outputs,): the unit of gaps; see `_run_loss`."""
        return output_scale(self.path, self.loss, self.y, self.trained)

    @property
    def row_weights(self) -> NDArray:
        """Sample weights of the training rows, of mean 1 over those trained on; 0 where a row is not."""
        return read_only(self.path.row_weights.cpu().numpy())

    # -- the telescope's interface -----------------------------------------------------------------------------------

    def start(self, X: NDArray | None) -> Start:
        """Start from the initial weights, whatever the labels: A = 0, b = f_0(x)."""
        return Start(np.zeros(self.n_samples), self._by_row(self.path.outputs(self._rows(X), 0)))

    def staged_kernel(self, X: NDArray | None, stages: Any = None) -> Iterator[sparse.csr_array]:
        """k_t(x)_i = c_it J(x)^T diag(1/phi_t) J(x_i) for i in the batch, c_it = w_i / |B_t|, both at theta_{t-1}."""
        rows, outputs = self._rows(X), np.arange(self.n_outputs)
        for stage in resolve_stages(stages, self.n_stages, with_start=False):
            batch = np.add.outer(self.n_outputs * self.path.batch(stage).cpu().numpy(), outputs).ravel()
            kernel = np.empty((len(rows) * self.n_outputs, len(batch)))
            for queries, columns, block in self._kernel_blocks(rows, stage):
                kernel[queries, columns] = block.cpu().numpy()
            order = np.argsort(batch)
            indices = np.tile(batch[order], len(kernel))
            ends = np.arange(len(kernel) + 1) * len(batch)
            shape = (len(kernel), self.y.size)
            yield sparse.csr_array((kernel[:, order].ravel(), indices, ends), shape=shape)

    def staged_kernel_norms(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the norms block by block, with no kernel kept."""
        rows = self._rows(X)
        for stage in resolve_stages(stages, self.n_stages, with_start=False):
            squared = torch.zeros(len(rows) * self.n_outputs, dtype=torch.float64, device=self.path.device)
            for queries, _, block in self._kernel_blocks(rows, stage):
                squared[queries] += (block**2).sum(dim=1)
            yield self._by_row(squared.sqrt())

    def apply_response(
        self, plan: Plan, X: NDArray | None, V: NDArray, offset: bool, stages: NDArray
    ) -> Iterator[NDArray]:
        """Carry label columns through the recorded run; see the module's docstring."""
        for response in self._forward(cast(TangentPlan, plan), X, _with_offset(V, offset), offset, stages):
            yield self._by_row(response.double())

    def apply_response_with_train(self, plan: Plan, X: NDArray, V: NDArray, stages: NDArray) -> Iterator[NDArray]:
        """Carry label columns once, for queries and for the training rows after them."""
        for response in self._forward(cast(TangentPlan, plan), X, V, False, stages, with_train=True):
            yield self._by_row(response.double())

    def carry_columns(self, X: NDArray, labels: NDArray, stages: NDArray) -> Iterator[Tensor]:
        """Yield the response of queries to label columns, (n_pairs, k), of which the last starts from the net itself.

        With the training labels in the last column, its response is the reconstruction S y + c.
        """
        plans = self.plans("forward", len(X), labels.shape[-1])
        # A form that approximates more than the others is judged wherever a question may take it.
        held = [plan for plan in plans if plan.form == "section kernel"]
        plan = min(held or plans, key=lambda plan: plan.operations)
        yield from self._forward(plan, X, labels, True, stages)

    def apply_adjoint(self, plan: Plan, X: NDArray | None, stage: int | None = None) -> NDArray:
        """S_t(x), (n_query, n_train), from the queries back to the labels, of all outputs or that of the plan."""
        rows, last = self._rows(X), self.n_stages if stage is None else stage
        weights = np.zeros((len(rows), *self._axes_of_weights(plan.output)))
        for block in plan.blocks(len(rows)):
            found = self._backward(cast(TangentPlan, plan), rows[block], last)
            weights[block] = found.reshape(-1, *weights.shape[1:])
        return weights

    def staged_model(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the net's own prediction after each update, in float64."""
        rows = self._rows(X)
        for stage in resolve_stages(stages, self.n_stages):
            yield self._by_row(self.path.outputs(rows, stage))

    def staged_telescoping(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield f_0 + sum over sections of J(theta*) (theta_e - theta_s), along the steps that training took."""
        wanted = resolve_stages(stages, self.n_stages)
        rows = self._rows(X)
        prediction = self.path.outputs(rows, 0)
        if wanted[0] == 0:
            yield self._by_row(prediction).copy()
        asked = set(wanted.tolist())
        for stage in sorted(asked | set(self.sections.ends[self.sections.ends <= wanted[-1]].tolist()) - {0}):
            if stage == 0:
                continue
            first = self.sections.first_of(stage)
            reached = prediction + self.path.change(rows, first, stage, self.path.step(first, stage))[:, 0]
            if self.sections.is_end(stage):
                prediction = reached
            if stage in asked:
                yield self._by_row(reached).copy()  # the next section starts from it

    def staged_linearized(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield f_0 + J(theta_0) (theta_t - theta_0): the model linearised once, at its start."""
        wanted = resolve_stages(stages, self.n_stages)
        path, rows = self.path, self._rows(X)
        outputs = path.outputs(rows, 0)
        at_start = path.theta(0)
        size = items_per_block(8.0 * (2 * path.network.n_params + len(outputs)), len(wanted), _FASTEST_COLUMNS)
        for first in range(0, len(wanted), size):
            moved = torch.cat([path.step(0, stage) for stage in wanted[first : first + size]])
            changes = torch.empty((len(outputs), len(moved)), dtype=path.dtype, device=path.device)
            for block in row_blocks(path.network, len(rows), n_columns=len(moved), itemsize=path.dtype.itemsize):
                changes[pairs_of(block, self.n_outputs)] = path.tangent(at_start, rows[block]).jvp(moved)
            for change in changes.T:
                yield self._by_row(outputs + change)

    def influence_telescope(self, denominators: Denominators = "moving") -> "TangentTelescope":
        """Return the telescope of the same run whose columns are weights of rows; see `_influence`.

        Parameters
        ----------
        denominators : {"moving", "held"}, default="moving"
            Whether the denominators of an adaptive optimiser respond to the weights too.

        Returns
        -------
        TangentTelescope
            The telescope; its kernel weights are influence.

        Raises
        ------
        ValueError
            If `denominators` is neither, or they should move and the optimiser's response does not say how.
        """
        from telescoping_sklearn.neural._influence import InfluenceTelescope  # a subclass of this one

        if denominators not in self._of_row_weights:
            self._of_row_weights[denominators] = InfluenceTelescope(self, denominators)
        return self._of_row_weights[denominators]

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
        rows: dict[str, Any] = {"y": self.y, "trained": self.trained, "seed": self.seed}
        return TangentTelescope(self.path, sections, self._make_update_rule, loss=self.loss, **rows)

    # -- what it costs -----------------------------------------------------------------------------------------------

    def forward_plan(self, n_query: int, n_columns: int) -> TangentPlan:
        """Choose the cheapest way to carry label columns to queries."""
        return min(self.plans("forward", n_query, n_columns), key=lambda plan: plan.operations)

    def backward_plan(self, n_query: int) -> TangentPlan:
        """Choose the cheapest way to carry queries back to the labels."""
        columns = n_query * self.n_outputs
        plan = min(self.plans("backward", n_query, columns), key=lambda plan: plan.operations)
        return replace(plan, column_bytes=self.n_outputs * plan.column_bytes)  # a query is a column an output

    def plans(self, direction: Literal["forward", "backward"], n_query: int, n_columns: int) -> list[TangentPlan]:
        """List the ways of one direction for so many columns, with what they cost."""
        p, pair, o = self.path.network.n_params, self.path.network.pair_operations, self.n_outputs
        itemsize, nodes = self.path.dtype.itemsize, len(self.path.nodes)
        lengths = self.sections.lengths
        batch = min(len(self.path.trajectory.batches[0]), self.n_samples)
        rows = self.n_samples + n_query
        at_ends = nodes * len(lengths) * rows
        inside = nodes * batch * float((lengths - 1).sum())
        tangents = (2.0 + o) * p * (at_ends + inside + batch * self.n_stages)
        plans = [
            TangentPlan(
                direction=direction,
                form="parameters",
                sections=self.sections,
                operations=tangents + float(p) * n_columns * (at_ends + inside + (batch + 10) * self.n_stages),
                column_bytes=itemsize * (self.parameter_blocks * p + 3 * rows * o),
                fastest_block_bytes=_FASTEST_COLUMNS,
            )
        ]
        if self._is_plain:
            sections = self._kernel_sections()
            lengths = sections.lengths
            pairs = nodes * batch * (rows * float(lengths.sum()) + batch * float((lengths * (lengths - 1) / 2).sum()))
            plans.append(
                TangentPlan(
                    direction=direction,
                    form="kernel",
                    sections=sections,
                    operations=tangents + o**2 * pairs * (pair + n_columns),
                    column_bytes=itemsize * o * (rows * 3 + batch * float(lengths.max())),
                )
            )
        if self.holds_kernels:
            evaluated, size = float(nodes * len(self.sections.ends)), batch * o
            moved = o**2 * batch * rows * (evaluated * pair + len(self.sections.ends) * float(n_columns))
            plans.append(
                TangentPlan(
                    direction=direction,
                    form="section kernel",
                    sections=self.sections,
                    operations=(2.0 + o) * p * evaluated * (rows + batch)
                    + moved
                    + power_sum_operations(size, self.sections.lengths, n_columns),
                    column_bytes=itemsize * o * (rows * 3 + batch * 3),
                )
            )
        return plans

    @property
    def holds_kernels(self) -> bool:
        """Whether responses may hold the kernel of a section: see `_section_kernel`.

        It must fit the working memory. Given sections are those of the method, over which only the outer Jacobian is
        held.
        """
        return self.sections.chosen and self._full_batch is not None and self._kernels_fit(len(self._full_batch))

    @cached_property
    def _full_batch(self) -> Tensor | None:
        """Rows of every update of plain gradient descent on squared error; None for anything else."""
        rows = full_batch(self.path.trajectory.batches) if self._is_plain and self.loss.is_quadratic else None
        return None if rows is None else torch.from_numpy(rows.astype(np.int64)).to(self.path.device)

    def _kernels_fit(self, batch: int) -> bool:
        numbers = float(batch * self.n_outputs) * (self.n_samples + (_HELD_KERNELS - 1) * batch) * self.n_outputs
        return self.path.dtype.itemsize * numbers <= working_memory_bytes()

    def _kernel_sections(self) -> Sections:
        """Sections for kernels, which cost the square of a length: chosen ones are cut at an epoch."""
        return self.sections.at_most(self.path.trajectory.batches.per_epoch) if self.sections.chosen else self.sections

    # -- the response of parameters ----------------------------------------------------------------------------------

    def parameter_response(self, V: NDArray, offset: bool = False) -> NDArray:
        """Theta_T, (n_params, k): response of the trained parameters to label columns.

        With ``V = y[:, None]`` and the offset's column, the sum of the columns is the trained parameters, to the
        accuracy of the telescope.

        Parameters
        ----------
        V : ndarray of shape (n_train, k) or (n_train, n_outputs, k)
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
        labels = _with_offset(V, offset)
        carrier = ParameterCarrier(self.path, self._make_update_rule(), labels.shape[-1], offset)
        no_rows = np.empty((0, self.path.rows.shape[1]))
        for _ in self._carry(carrier, self.sections, no_rows, labels, offset, np.array([self.n_stages])):
            pass
        return carrier.parameters.T.double().cpu().numpy()

    # -- how they are computed ---------------------------------------------------------------------------------------

    def _forward(
        self,
        plan: TangentPlan,
        X: NDArray | None,
        labels: NDArray,
        offset: bool,
        stages: NDArray,
        *,
        with_train: bool = False,
    ) -> Iterator[Tensor]:
        """Carry label columns by a plan; with ``offset`` the last one starts from the net."""
        carrier: Carrier
        if plan.form == "section kernel":
            return self._carry_by_section(plan, X, labels, offset, stages, with_train=with_train)
        if plan.form == "kernel":
            carrier = KernelCarrier(self.path)
        else:
            carrier = ParameterCarrier(self.path, self._make_update_rule(), labels.shape[-1], offset)
        saved = NOT_SAVED
        if self.path.checkpoint_dir is not None:
            # The form of the carrier and the response of the optimiser are told by these names.
            makes = self, carrier, self._make_update_rule()
            ways = (plan.form, *(type(part).__qualname__ for part in makes))
            asked = plan.sections.ends, self.y, X, labels, offset, stages, with_train
            key = digest(self.path.key, loss_parts(self.loss), *ways, *asked)
            saved = SavedPass(SavedWork(self.path.checkpoint_dir, "pass", key), int(stages[-1]))
        return self._carry(carrier, plan.sections, X, labels, offset, stages, with_train=with_train, saved=saved)

    def _carry(
        self,
        carrier: Carrier,
        sections: Sections,
        X: NDArray | None,
        labels: NDArray,
        offset: bool,
        stages: NDArray,
        *,
        with_train: bool = False,
        saved: SavedPass = NOT_SAVED,
    ) -> Iterator[Tensor]:
        """Yield the response of queries, (n_pairs, k), at the stages asked for; ``with_train`` adds training rows.

        A pass that was saved goes on from there.
        """
        path, rows, k = self.path, self._rows(X), labels.shape[-1]
        V = as_double(labels, path.device).to(path.dtype).view(self.n_samples, -1)
        training = self._start_response(path.rows, k, offset)
        query = training if X is None else self._start_response(rows, k, offset)
        by_row = training.view(self.n_samples, -1)  # outputs and columns of a row in one line
        asked = set(stages.tolist())

        def reached() -> Tensor:
            return torch.cat([query, training]) if with_train else query.clone()

        yield from saved.answers()
        responses = [training] if X is None else [training, query]
        begun = saved.restore(carrier, responses)
        if 0 in asked and saved.is_new:
            yield saved.answer(reached(), 0)
        for stage in self.progress(range(begun + 1, int(stages[-1]) + 1), "labels through the updates"):
            first, update = sections.first_of(stage), self._update(stage)
            batch = update.batch
            response = by_row[batch]
            if stage - 1 > first:
                carrier.apply(response.view(-1, k), path.rows[batch], first, stage - 1)
            residual = update.of_outputs(response).sub_(self._injected(V[batch], update))
            if offset and not self.loss.is_quadratic:
                residual.view(*update.outputs.shape, k)[..., -1] += update.remainder()
            carrier.accumulate(stage, path.batch_tangent(stage), residual.view(-1, k))
            if sections.is_end(stage):
                if stage < stages[-1] or X is None or with_train:
                    carrier.apply(training, path.rows, first, stage, lasting=True)
                if X is not None:
                    carrier.apply(query, rows, first, stage, lasting=True)
                carrier.end_section()
                if stage in asked:
                    yield saved.answer(reached(), stage)
                saved.end_section(stage, carrier, responses)
            elif stage in asked:
                inside = reached()
                carrier.apply(inside[: len(query)], rows, first, stage, lasting=True)
                if with_train:
                    carrier.apply(inside[len(query) :], path.rows, first, stage, lasting=True)
                yield saved.answer(inside, stage)

    def _carry_by_section(
        self,
        plan: TangentPlan,
        X: NDArray | None,
        labels: NDArray,
        offset: bool,
        stages: NDArray,
        *,
        with_train: bool,
    ) -> Iterator[Tensor]:
        """Yield what `_carry` does, with the kernel of a section held; stages inside one hold a kernel of their own."""
        path, rows, k, asked = self.path, self._rows(X), labels.shape[-1], set(stages.tolist())
        V = as_double(labels, path.device).to(path.dtype).view(-1, k)
        training = self._start_response(path.rows, k, offset)
        query = training if X is None else self._start_response(rows, k, offset)
        first, last = 0, int(stages[-1])
        ends = plan.sections.ends
        targets = np.union1d(stages[stages > 0], ends[ends < last])
        if 0 in asked:
            yield torch.cat([query, training]) if with_train else query.clone()
        for stage in self.progress(targets.tolist(), "labels through the sections"):
            held = SectionKernel(path, cast(Tensor, self._full_batch), first, stage)
            summed = held.summed_residuals(V, training)
            on_training = held.move(training, path.rows, summed)
            on_query = on_training if X is None else held.move(query, rows, summed)
            if stage in asked:
                yield torch.cat([on_query, on_training]) if with_train else on_query.clone()
            if plan.sections.is_end(stage):
                first, training, query = stage, on_training, on_query

    def _backward_by_section(self, plan: TangentPlan, rows: Tensor, last: int, own: Tensor) -> Tensor:
        """Adjoint of `_carry_by_section`, (n_labels, m')."""
        path, ends = self.path, plan.sections.ends
        on_training = torch.zeros((self.y.size, own.shape[1]), dtype=path.dtype, device=path.device)
        weights = torch.zeros_like(on_training)
        for stage in self.progress([last, *ends[ends < last][::-1].tolist()], "queries back through the sections"):
            held = SectionKernel(path, cast(Tensor, self._full_batch), plan.sections.first_of(stage), stage)
            on_summed = held.pull_back(rows, own)
            if stage < last:
                on_summed += held.pull_back(path.rows, on_training)
            on_residuals = held.on_residuals(on_summed)
            held.add_to_batch(weights, on_residuals, 1)
            held.add_to_batch(on_training, on_residuals, -1)
        return weights

    def _backward(self, plan: TangentPlan, rows: Tensor, last: int) -> NDArray:
        """Kernel weights of the outputs of a block of queries, by label: the adjoint of the recursion in `_carry`."""
        path, of = self.path, plan.output
        own = torch.eye(len(rows) * self.n_outputs, dtype=path.dtype, device=path.device)
        own = own if of is None else own[:, of :: self.n_outputs].contiguous()
        n_query = own.shape[1]
        if plan.form == "section kernel":
            found = self._backward_by_section(plan, rows, last, own)
            return (found if of is None else found[of :: self.n_outputs]).T.double().cpu().numpy()
        carrier: AdjointCarrier
        if plan.form == "kernel":
            carrier = AdjointKernelCarrier(path)
        else:
            carrier = AdjointParameterCarrier(path, self._make_update_rule(), n_query)
        on_training = torch.zeros((self.y.size, n_query), dtype=path.dtype, device=path.device)
        weights = on_training.new_zeros((math.prod(self.column_shape), n_query))
        on_rows, weights_of_rows = (part.view(self.n_samples, -1) for part in (on_training, weights))
        for stage in self.progress(range(last, 0, -1), "queries back through the updates"):
            first, update = plan.sections.first_of(stage), self._update(stage)
            batch = update.batch
            if stage == last or plan.sections.is_end(stage):
                carrier.start_section()
                carrier.accumulate(rows, first, stage, own)
                if stage < last:
                    carrier.accumulate(path.rows, first, stage, on_training)
            on_residual = carrier.apply(stage, path.batch_tangent(stage)).reshape(len(batch), -1)
            weights_of_rows[batch] -= self._collected(on_residual.clone(), update)
            on_residual = update.of_outputs(on_residual)
            on_rows[batch] += on_residual
            if stage - 1 > first:
                carrier.accumulate(path.rows[batch], first, stage - 1, on_residual.view(-1, n_query))
        if of is not None:
            of_row = math.prod(self.column_shape[1:])
            weights = weights[of % of_row :: of_row]
        return weights.T.double().cpu().numpy()

    @cached_property
    def _labels(self) -> Tensor:
        """Training labels in the working precision, (n_train, n_outputs)."""
        return as_double(self.y, self.path.device).to(self.path.dtype).view(self.n_samples, -1)

    def _update(self, stage: int) -> BatchLoss:
        """Return the loss at the rows of an update."""
        return BatchLoss(self.path, self.loss, self._labels, stage)

    def _injected(self, columns: Tensor, update: BatchLoss) -> Tensor:
        """Return what columns at the rows of an update take from its weighted residuals; may work in place."""
        return update.of_labels(columns)

    def _collected(self, on_residual: Tensor, update: BatchLoss) -> Tensor:
        """Return the adjoint of `_injected`, from the derivative in the residuals; may work in place."""
        return update.of_labels(on_residual)

    def _kernel_blocks(self, rows: Tensor, stage: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield blocks of a stage's kernel: outputs of some queries and of some of the batch, and the kernel there."""
        path, batch = self.path, self.path.batch(stage)
        theta, phi = path.theta(stage - 1), path.phi(stage)
        held = path.network.row_numbers if phi is None else path.network.n_params * self.n_outputs
        factors = path.factors(stage, batch)
        size = items_per_block(16.0 * held, len(batch))
        for start in range(0, len(batch), size):
            columns = slice(start, min(start + size, len(batch)))
            members = batch[columns]
            weights = factors[columns].repeat_interleave(self.n_outputs)
            there = path.tangent(theta, path.rows[members])
            directions = None if phi is None else there.gradients() / phi
            products = {"n_others": len(members)} if phi is None else {"n_columns": there.n_pairs}
            for queries in row_blocks(path.network, len(rows), itemsize=path.dtype.itemsize, **products):
                here = path.tangent(theta, rows[queries])
                block = here.kernel(there) if directions is None else here.jvp(directions)
                yield pairs_of(queries, self.n_outputs), pairs_of(columns, self.n_outputs), block * weights

    def _by_row(self, values: Tensor) -> NDArray:
        """Turn numbers of all pairs, (n_pairs, ...), into an array of rows, then of outputs if there are several."""
        return values.cpu().numpy().reshape(-1, *self.output_shape, *values.shape[1:])

    def _start_response(self, rows: Tensor, n_columns: int, offset: bool) -> Tensor:
        shape = (len(rows) * self.n_outputs, n_columns)
        response = torch.zeros(shape, dtype=self.path.dtype, device=self.path.device)
        if offset:
            response[:, -1] = self.path.outputs(rows, 0)
        return response

    def _rows(self, X: NDArray | None) -> Tensor:
        if X is None:
            return self.path.rows
        refuse_other_columns(X, self.path.rows.shape[1])
        rows = as_double(X, self.path.device)
        outputs = self.path.outputs(rows, self.n_stages, self.path.dtype).view(-1, self.n_outputs)
        refuse_infinite_outputs(outputs.abs().amax(dim=1), self.path.dtype)
        return rows


def _with_offset(V: NDArray, offset: bool) -> NDArray:
    """Append a column of zeros where the offset is carried."""
    return np.concatenate([V, np.zeros((*V.shape[:-1], 1))], axis=-1) if offset else np.asarray(V)
