"""A recorded run with its rows, and the points on it where Jacobians are taken.

Tangents are computed in the precision of training: single precision is several times faster on ordinary processors.
Outputs of the net itself are in double precision. Outputs of rows come as pairs, see `_tangent`: n_pairs numbers.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from telescoping_sklearn.neural._network import Network, pairs_of
from telescoping_sklearn.neural._saved_work import digest
from telescoping_sklearn.neural._tangent import Tangent, row_blocks, tangent
from telescoping_sklearn.neural._trajectory import Trajectory

_GAUSS = 3**0.5 / 6
_ROWS_OF_KEY = 16  # rows whose outputs tell a network from another one of as many parameters
#: Points between two stages where the outer Jacobian is taken: (weight, position) of every evaluation.
RULES: dict[str, tuple[tuple[float, float], ...]] = {
    "left": ((1.0, 0.0),),
    "midpoint": ((1.0, 0.5),),
    "gauss2": ((0.5, 0.5 - _GAUSS), (0.5, 0.5 + _GAUSS)),
}


def as_double(X: NDArray, device: torch.device) -> Tensor:
    """Return an array as a float64 tensor, copying only what torch must not share."""
    X = np.ascontiguousarray(X, dtype=np.float64)
    return torch.from_numpy(X if X.flags.writeable else X.copy()).to(device)


class Path:
    """A recorded run, the rows it was trained on, and the points where Jacobians are taken.

    Parameters
    ----------
    network : Network
        The network.
    trajectory : Trajectory
        The recorded run.
    training_rows : ndarray of shape (n_train, n_features)
        Training X.
    row_weights : ndarray of shape (n_train,)
        Sample weights, of mean 1 over the rows trained on.
    rule : {"left", "midpoint", "gauss2"}
        Quadrature rule of the outer Jacobian.
    dtype : torch.dtype
        Working precision of tangents: that of training.
    device : torch.device
        Device of the work.
    """

    def __init__(
        self,
        network: Network,
        trajectory: Trajectory,
        training_rows: NDArray,
        row_weights: NDArray,
        rule: str,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.network = network
        self.trajectory = trajectory
        self.rule = rule
        self.device = device
        self.dtype = dtype
        self.rows = as_double(training_rows, device)
        self.row_weights = as_double(row_weights, device)
        self.checkpoint_dir: str | os.PathLike | None = None  # where long work along the run is saved
        self._outer: tuple[tuple, list[tuple[float, Tensor]]] = (), []  # the last that were asked for

    @cached_property
    def key(self) -> str:
        """Digest of the run, its rows and the rule: what every answer depends on."""
        run = self.trajectory
        checkpoints = [checkpoint.theta for checkpoint in run.checkpoints]
        orders = [run.batches.order(epoch) for epoch in range(len(run.batches.orders))]
        some = self.outputs(self.rows[:_ROWS_OF_KEY], run.n_stages)
        batches = run.batches
        layout = run.optimizer.__qualname__, run.slices, batches.batch_size, len(batches), batches.skipped, run.n_before
        work = str(self.device), self.dtype, self.rule
        return digest(
            torch.__version__, layout, work, run.start, run.end, *checkpoints, *orders, run.group_rates,
            *run.checkpoints[0].parts(), self.rows, self.row_weights, type(self.network).__qualname__, some,
        )  # fmt: skip

    @property
    def nodes(self) -> Sequence[tuple[float, float]]:
        """Weight and position of every evaluation."""
        return RULES[self.rule]

    def theta(self, stage: int) -> Tensor:
        """theta_t in float64, (p,)."""
        return self.trajectory.theta(stage).to(self.device)

    def phi(self, stage: int) -> Tensor | None:
        """phi_t in the working precision, (p,); None where it is 1."""
        phi = self.trajectory.phi(stage)
        return None if phi is None else phi.to(self.device, self.dtype)

    def batch(self, stage: int) -> Tensor:
        """Row numbers of an update's batch."""
        return torch.from_numpy(self.trajectory.batches[stage - 1].astype(np.int64, copy=False)).to(self.device)

    def factors(self, stage: int, batch: Tensor) -> Tensor:
        """Factors c_i of an update's rows in its gradient, sum_i c_i J_i^T (f_i - y_i), in float64, (b,).

        They are w_i / |B|, unless the run recorded others.
        """
        recorded = self._recorded_factors(stage)
        return self.row_weights[batch] / len(batch) if recorded is None else self.row_weights[batch] * recorded

    def batch_weights(self, stage: int, batch: Tensor) -> Tensor:
        """Factors of an update's rows in the working precision, (b,)."""
        return self.factors(stage, batch).to(self.dtype)

    def unit_factors(self, stage: int, batch: Tensor) -> Tensor | float:
        """Factors of an update's rows for each unit of their weights, in the working precision, (b, 1) or a number."""
        recorded = self._recorded_factors(stage)
        return 1 / len(batch) if recorded is None else recorded[:, None].to(self.dtype)

    def _recorded_factors(self, stage: int) -> Tensor | None:
        recorded = self.trajectory.batches.factors(stage - 1)
        return None if recorded is None else torch.from_numpy(recorded).to(self.device)

    def batch_tangent(self, stage: int) -> Tangent:
        """J(theta_{t-1}; B_t), of which the optimiser's gradient was made."""
        theta = self.trajectory.theta(stage - 1, self.dtype).to(self.device)
        return self.tangent(theta, self.rows[self.batch(stage)])

    def tangent(self, theta: Tensor, rows: Tensor) -> Tangent:
        """Jacobian of a block of rows, in the working precision."""
        return tangent(self.network, theta.to(self.dtype), rows.to(self.dtype))

    def outer(self, first: int, last: int) -> list[tuple[float, Tensor]]:
        """Weight and parameters of every outer Jacobian between two stages."""
        key, nodes = self._outer
        if key != (first, last, self.rule):
            key, (start, end) = (first, last, self.rule), (self.theta(first), self.theta(last))
            nodes = [(weight, torch.lerp(start, end, position).to(self.dtype)) for weight, position in self.nodes]
            self._outer = key, nodes
        return nodes

    def outer_tangents(
        self, rows: Tensor, first: int, last: int, *, n_columns: int = 0, n_others: int = 0
    ) -> Iterator[tuple[slice, float, Tangent]]:
        """Yield blocks of rows as slices of their outputs, with weight and Jacobian of every evaluation.

        Blocks are sized for products with ``n_columns`` directions, or for kernels with ``n_others`` rows.
        """
        outer = self.outer(first, last)
        for block in row_blocks(
            self.network, len(rows), n_columns=n_columns, n_others=n_others, itemsize=self.dtype.itemsize
        ):
            for weight, theta in outer:
                yield pairs_of(block, self.network.n_outputs), weight, self.tangent(theta, rows[block])

    def outputs(self, rows: Tensor, stage: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Predictions of the net itself after a stage, (n_pairs,)."""
        theta, n_outputs = self.theta(stage).to(dtype), self.network.n_outputs
        outputs = torch.empty(len(rows) * n_outputs, dtype=dtype, device=self.device)
        for block in row_blocks(self.network, len(rows), n_columns=1):
            outputs[pairs_of(block, n_outputs)] = self.network.forward(theta, rows[block].to(dtype)).flatten()
        return outputs

    def change(self, rows: Tensor, first: int, last: int, directions: Tensor) -> Tensor:
        """J(theta*; x) D^T by the rule between two stages, (n_pairs, k)."""
        shape = (len(rows) * self.network.n_outputs, len(directions))
        product = torch.zeros(shape, dtype=self.dtype, device=self.device)
        for block, weight, there in self.outer_tangents(rows, first, last, n_columns=len(directions)):
            product[block].add_(there.jvp(directions), alpha=weight)
        return product

    def step(self, first: int, last: int) -> Tensor:
        """theta_last - theta_first in the working precision, (1, p)."""
        return (self.theta(last) - self.theta(first)).to(self.dtype)[None]
