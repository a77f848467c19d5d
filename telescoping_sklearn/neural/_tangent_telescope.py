"""The telescope of a recorded run: each update to first order, at a point of the update's segment that a rule chooses.

An update theta_s -> theta_e moves the outputs by about J(theta*; x) (theta_e - theta_s). The same bridge carries label
directions, with the response Theta of the parameters in place of theta: batch gradients are taken at theta_{t-1},
where the optimiser took them, and only the outer Jacobian follows the rule. A section bridges several consecutive
updates with one evaluation; inside it, rows of a batch are brought forward for themselves when their turn comes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn._telescope import ColumnCost, Start, Telescope, resolve_stages
from telescoping_sklearn.neural._network import Architecture
from telescoping_sklearn.neural._tangent import Tangent, row_blocks, tangent
from telescoping_sklearn.neural._trajectory import Trajectory
from telescoping_sklearn.neural._update_rules import UpdateRule

_GAUSS = 3**0.5 / 6
#: Where on the segment of an update the outer Jacobian is taken: (weight, position) of every evaluation.
RULES = {
    "left": ((1.0, 0.0),),
    "midpoint": ((1.0, 0.5),),
    "gauss2": ((0.5, 0.5 - _GAUSS), (0.5, 0.5 + _GAUSS)),
}


def as_double(X: NDArray, device: torch.device) -> Tensor:
    """Return rows as a float64 tensor, copying only what torch must not share."""
    X = np.ascontiguousarray(X, dtype=np.float64)
    return torch.from_numpy(X if X.flags.writeable else X.copy()).to(device)


class TangentTelescope(Telescope):
    """The telescope of a recorded run of a multilayer perceptron.

    Parameters
    ----------
    architecture : Architecture
        The net.
    trajectory : Trajectory
        The recorded run.
    make_rule : callable
        Makes the optimiser's linear response, with fresh state.
    training_rows : ndarray of shape (n_train, n_features)
        Training X.
    row_weights : ndarray of shape (n_train,)
        Sample weights, of mean 1 over the rows trained on.
    rule : {"left", "midpoint", "gauss2"}
        Where the outer Jacobian is taken.
    section : int
        Updates bridged by one evaluation.
    **kwargs
        What `Telescope` takes.
    """

    def __init__(
        self,
        architecture: Architecture,
        trajectory: Trajectory,
        make_rule: Callable[[], UpdateRule],
        training_rows: NDArray,
        row_weights: NDArray,
        rule: str,
        section: int,
        device: torch.device,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.architecture = architecture
        self.trajectory = trajectory
        self.rule = rule
        self.section = section
        self._make_rule = make_rule
        self._device = device
        self._training_rows = as_double(training_rows, device)
        self._row_weights = torch.from_numpy(np.ascontiguousarray(row_weights, dtype=np.float64)).to(device)
        if trajectory.denominators is not None:
            self.default_kernel_stages = 20  # such kernels do not factor by layer and are thirty times dearer

    @property
    def n_stages(self) -> int:
        """Number of parameter updates."""
        return self.trajectory.n_stages

    # -- the hooks ---------------------------------------------------------------------------------------------------

    def start(self, X: NDArray | None) -> Start:
        """Start from the initial weights, whatever the labels: A = 0, b = f_0(x)."""
        return Start(np.zeros(self.n_samples), self._outputs(self._rows(X), 0).cpu().numpy())

    def staged_kernel(self, X: NDArray | None, stages: Any = None) -> Iterator[sparse.csr_array]:
        """k_t(x)_i = w_i / |B_t| J(x)^T diag(1/phi_t) J(x_i) for i in the batch, both at theta_{t-1}."""
        rows = self._rows(X)
        for stage in resolve_stages(stages, self.n_stages, with_start=False):
            batch = self.trajectory.batches[stage - 1]
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
            squared = torch.zeros(len(rows), dtype=torch.float64, device=self._device)
            for queries, _, block in self._kernel_blocks(rows, stage):
                squared[queries] += (block**2).sum(dim=1)
            yield squared.sqrt().cpu().numpy()

    def staged_response(
        self, X: NDArray | None, V: NDArray, offset: bool = False, stages: Any = None
    ) -> Iterator[NDArray]:
        """Carry label columns through the recorded run; see the module's docstring."""
        for response, _ in self._carry(X, V, offset, resolve_stages(stages, self.n_stages)):
            yield response.cpu().numpy()

    def staged_model(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the net's own prediction after each update, in float64."""
        rows = self._rows(X)
        for stage in resolve_stages(stages, self.n_stages):
            yield self._outputs(rows, stage).cpu().numpy()

    def staged_telescoping(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield f_0 + sum over sections of J(theta*) (theta_e - theta_s), along the steps that training took."""
        wanted = resolve_stages(stages, self.n_stages)
        rows = self._rows(X)
        prediction = self._outputs(rows, 0)[:, None]
        if wanted[0] == 0:
            yield prediction[:, 0].cpu().numpy()
        for stage in range(1, wanted[-1] + 1):
            first, at_end = self._section_of(stage)
            if not at_end and stage not in wanted:
                continue
            step = (self._theta(stage) - self._theta(first))[None]
            reached = prediction + self._bridge(rows, first, stage, step)
            if at_end:
                prediction = reached
            if stage in wanted:
                yield reached[:, 0].cpu().numpy()

    def staged_linearized(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield f_0 + J(theta_0) (theta_t - theta_0): the model linearised once, at its start."""
        wanted = resolve_stages(stages, self.n_stages)
        rows, theta_0 = self._rows(X), self._theta(0)
        outputs = self._outputs(rows, 0)
        size = items_per_block(8.0 * (2 * self.architecture.n_params + len(rows)), len(wanted))
        for first in range(0, len(wanted), size):
            moved = torch.stack([self._theta(stage) for stage in wanted[first : first + size]]) - theta_0
            for change in self._jvp(rows, theta_0, moved).T:
                yield (outputs + change).cpu().numpy()

    def column_cost(self, n_query: int) -> ColumnCost:
        """One multiplication a parameter for every row that is brought forward or differentiated."""
        p, nodes = self.architecture.n_params, len(RULES[self.rule])
        in_batches = sum(map(len, self.trajectory.batches)) * (1 + (nodes if self.section > 1 else 0))
        at_ends = (self.n_samples + n_query) * nodes * -(-self.n_stages // self.section)
        return ColumnCost(
            operations=float(p) * (in_batches + at_ends), bytes=8.0 * (7 * p + 3 * self.n_samples + 3 * n_query)
        )

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
        """
        nothing = np.empty((0, self._training_rows.shape[1]))
        ((_, parameters),) = self._carry(nothing, V, offset, np.array([self.n_stages]))
        return parameters.T.cpu().numpy()

    # -- how they are worked -----------------------------------------------------------------------------------------

    def _carry(self, X: NDArray | None, V: NDArray, offset: bool, wanted: NDArray) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the response of queries, (n_query, k), and of the parameters, (k, p), at the stages wanted."""
        labels = torch.from_numpy(np.column_stack([V, np.zeros(self.n_samples)]) if offset else np.asarray(V))
        labels = labels.to(self._device)
        rows, update = self._rows(X), self._make_rule()
        training = self._start_response(self._training_rows, labels.shape[1], offset)
        query = training if X is None else self._start_response(rows, labels.shape[1], offset)
        parameters = torch.zeros(
            (labels.shape[1], self.architecture.n_params), dtype=torch.float64, device=self._device
        )
        if offset:
            parameters[-1] = self._theta(0)
        moved = torch.zeros_like(parameters)  # since the section's start
        if wanted[0] == 0:
            yield query.clone(), parameters.clone()
        for stage in range(1, wanted[-1] + 1):
            first, at_end = self._section_of(stage)
            batch = torch.from_numpy(self.trajectory.batches[stage - 1]).to(self._device)
            response = training[batch]
            if stage - 1 > first:
                response = response + self._bridge(self._training_rows[batch], first, stage - 1, moved)
            gradient = self._gradient_response(batch, response - labels[batch], stage)
            step = update.step(gradient, parameters, stage, self.trajectory.learning_rates[stage - 1], self._phi(stage))
            parameters += step
            moved += step
            if at_end and stage < wanted[-1]:
                training += self._bridge(self._training_rows, first, stage, moved)
                if X is not None:
                    query += self._bridge(rows, first, stage, moved)
                moved.zero_()
                if stage in wanted:
                    yield query.clone(), parameters.clone()
            elif stage in wanted:
                yield query + self._bridge(rows, first, stage, moved), parameters.clone()

    def _gradient_response(self, batch: Tensor, residual: Tensor, stage: int) -> Tensor:
        """G_t = 1/|B| sum_i w_i J(theta_{t-1}; x_i)^T (F - V)_i, (k, p)."""
        columns = residual * (self._row_weights[batch] / len(batch))[:, None]
        rows, theta = self._training_rows[batch], self._theta(stage - 1)
        gradient = torch.zeros((columns.shape[1], len(theta)), dtype=torch.float64, device=self._device)
        for block in row_blocks(self.architecture, len(rows), columns.shape[1]):
            gradient += self._tangent(theta, rows[block]).vjp(columns[block])
        return gradient

    def _bridge(self, rows: Tensor, first: int, last: int, directions: Tensor) -> Tensor:
        """J(theta*; x) D^T by the rule between two stages, (n_rows, k)."""
        start, end = self._theta(first), self._theta(last)
        nodes = RULES[self.rule]
        change = torch.zeros((len(rows), len(directions)), dtype=torch.float64, device=self._device)
        for weight, position in nodes:
            change.add_(self._jvp(rows, torch.lerp(start, end, position), directions), alpha=weight)
        return change

    def _jvp(self, rows: Tensor, theta: Tensor, directions: Tensor) -> Tensor:
        product = torch.empty((len(rows), len(directions)), dtype=torch.float64, device=self._device)
        for block in row_blocks(self.architecture, len(rows), len(directions)):
            product[block] = self._tangent(theta, rows[block]).jvp(directions)
        return product

    def _kernel_blocks(self, rows: Tensor, stage: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield blocks of a stage's kernel: slices of the queries and of the batch, and the kernel there."""
        batch = self.trajectory.batches[stage - 1]
        theta, phi = self._theta(stage - 1), self._phi(stage)
        held = self.architecture.n_params if phi is not None else sum(self.architecture.widths)
        size = items_per_block(16.0 * held, len(batch))
        for start in range(0, len(batch), size):
            columns = slice(start, min(start + size, len(batch)))
            members = torch.from_numpy(batch[columns]).to(self._device)
            weights = self._row_weights[members] / len(batch)
            there = self._tangent(theta, self._training_rows[members])
            directions = None if phi is None else there.gradients() / phi
            for queries in row_blocks(self.architecture, len(rows), len(members)):
                here = self._tangent(theta, rows[queries])
                block = here.kernel(there) if directions is None else here.jvp(directions)
                yield queries, columns, block * weights

    def _section_of(self, stage: int) -> tuple[int, bool]:
        """Stage that the section of a stage starts from, and whether the section ends with it."""
        return (stage - 1) // self.section * self.section, stage % self.section == 0

    def _start_response(self, rows: Tensor, n_columns: int, offset: bool) -> Tensor:
        response = torch.zeros((len(rows), n_columns), dtype=torch.float64, device=self._device)
        if offset:
            response[:, -1] = self._outputs(rows, 0)
        return response

    def _outputs(self, rows: Tensor, stage: int) -> Tensor:
        theta = self._theta(stage)
        outputs = torch.empty(len(rows), dtype=torch.float64, device=self._device)
        for block in row_blocks(self.architecture, len(rows), 1):
            outputs[block] = self.architecture.forward(theta, rows[block])
        return outputs

    def _tangent(self, theta: Tensor, rows: Tensor) -> Tangent:
        return tangent(self.architecture, theta, rows)

    def _theta(self, stage: int) -> Tensor:
        return self.trajectory.theta(stage).to(self._device)

    def _phi(self, stage: int) -> Tensor | None:
        phi = self.trajectory.phi(stage)
        return None if phi is None else phi.to(self._device)

    def _rows(self, X: NDArray | None) -> Tensor:
        return self._training_rows if X is None else as_double(X, self._device)
