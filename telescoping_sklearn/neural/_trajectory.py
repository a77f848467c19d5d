"""The recorded run: what training did at every update, and nothing that can be derived from it."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Trajectory:
    """A recorded run of T updates.

    Attributes
    ----------
    parameters : Tensor of shape (T + 1, p)
        theta_0 .. theta_T, in the dtype they were trained in.
    denominators : Tensor of shape (T, p) or None
        phi_t = sqrt(v_hat_t) + eps of an adaptive optimiser; None for others, where phi = 1.
    batches : list of ndarray of int
        Training rows of each update, among the rows given to `fit`.
    learning_rates : ndarray of shape (T,)
        Learning rate of each update.
    """

    parameters: Tensor
    denominators: Tensor | None
    batches: list[NDArray]
    learning_rates: NDArray

    @property
    def n_stages(self) -> int:
        """Number of updates T."""
        return len(self.batches)

    def theta(self, stage: int) -> Tensor:
        """theta_t in float64, (p,)."""
        return self.parameters[stage].double()

    def phi(self, stage: int) -> Tensor | None:
        """phi_t in float64, (p,), or None where it is 1."""
        return None if self.denominators is None else self.denominators[stage - 1].double()

    def renumbered(self, rows: NDArray) -> "Trajectory":
        """Return the run with batch members named by ``rows[member]``."""
        return replace(self, batches=[rows[batch] for batch in self.batches])

    def until(self, stage: int) -> "Trajectory":
        """Return the run up to and including a stage."""
        return Trajectory(
            parameters=self.parameters[: stage + 1].clone(),
            denominators=None if self.denominators is None else self.denominators[:stage].clone(),
            batches=self.batches[:stage],
            learning_rates=self.learning_rates[:stage],
        )


class TrajectoryWriter:
    """Collects a run into arrays of the size it may reach.

    Parameters
    ----------
    n_updates : int
        Most updates that training may take.
    theta : Tensor of shape (p,)
        theta_0.
    adaptive : bool
        Whether denominators are recorded.
    """

    def __init__(self, n_updates: int, theta: Tensor, adaptive: bool):
        # Pages of an empty tensor are taken only as they are written, so stopping early costs nothing.
        self._parameters = torch.empty((n_updates + 1, theta.numel()), dtype=theta.dtype, device="cpu")
        self._denominators = torch.empty((n_updates, theta.numel()), dtype=theta.dtype) if adaptive else None
        self._parameters[0] = theta.detach()
        self._batches: list[NDArray] = []
        self._learning_rates: list[float] = []

    def add(self, theta: Tensor, denominator: Tensor | None, batch: NDArray, learning_rate: float) -> None:
        """Record one update."""
        self._batches.append(batch)
        self._learning_rates.append(learning_rate)
        self._parameters[len(self._batches)] = theta.detach()
        if self._denominators is not None and denominator is not None:
            self._denominators[len(self._batches) - 1] = denominator

    def finish(self, n_stages: int) -> Trajectory:
        """Return the run up to a stage, in memory of its own size."""
        whole = Trajectory(self._parameters, self._denominators, self._batches, np.array(self._learning_rates))
        return whole if n_stages + 1 == len(self._parameters) else whole.until(n_stages)
