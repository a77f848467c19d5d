"""The loss of a recorded run: its gradient at the rows of an update, and how that responds to labels and to outputs.

The optimiser's gradient of an update is sum_i c_i J_i^T g_i over the rows of its batch, with g_i the derivative of the
loss in the outputs of row i, and c_i = w_i / |B|, or as a loop that is not ours was recorded. Its response to labels V,
where the outputs respond by F, is sum_i c_i J_i^T (h_i F_i - q_i V_i), with h_i = dg/df and q_i = -dg/dy at the outputs
before the update. For squared error h and q are 1 and nothing is computed.
"""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from telescoping_sklearn.losses import Loss
from telescoping_sklearn.neural._path import Path


class BatchLoss:
    """The loss at the rows of one update.

    Parameters
    ----------
    path : Path
        The recorded run.
    loss : Loss
        Its loss.
    labels : Tensor of shape (n_train, n_outputs)
        Training labels, in the working precision.
    stage : int
        The update.
    """

    def __init__(self, path: Path, loss: Loss, labels: Tensor, stage: int):
        self._path, self._loss, self._stage = path, loss, stage
        self.batch = path.batch(stage)
        self.weights = path.batch_weights(stage, self.batch)
        self._labels = labels

    @cached_property
    def labels(self) -> Tensor:
        """Labels of the rows, (b, n_outputs)."""
        return self._labels[self.batch]

    @cached_property
    def outputs(self) -> Tensor:
        """Outputs of the net before the update, (b, n_outputs)."""
        path = self._path
        return path.outputs(path.rows[self.batch], self._stage - 1).to(path.dtype).view(len(self.batch), -1)

    @cached_property
    def gradient(self) -> Tensor:
        """g, the derivative of each row's loss in its outputs before the update, (b, n_outputs)."""
        return self._loss.gradient(self.labels, self.outputs)

    @property
    def unit_gradient(self) -> Tensor:
        """What a unit of each row's weight adds to the weighted gradient, (b, n_outputs): g / |B|, or as recorded."""
        return self.gradient * self._path.unit_factors(self._stage, self.batch)

    def of_outputs(self, columns: Tensor) -> Tensor:
        """Return c h times columns of the outputs, (b, n_outputs * k), its own adjoint; may work in place."""
        columns = columns.mul_(self.weights[:, None])
        if self._loss.is_quadratic:
            return columns
        by_output = columns.view(*self.outputs.shape, -1)
        return self._loss.curvature_product(self.labels, self.outputs, by_output).view_as(columns)

    def of_labels(self, columns: Tensor) -> Tensor:
        """Return c q times columns of the labels, (b, n_outputs * k), its own adjoint; may work in place."""
        columns = columns.mul_(self.weights[:, None])
        if self._loss.is_quadratic:
            return columns
        rate = self._loss.label_rate(self.labels, self.outputs)
        return (columns.view(*rate.shape, -1) * rate[..., None]).view_as(columns)

    def remainder(self) -> Tensor:
        """Return c (g - h f + q y), (b, n_outputs): what labels and outputs leave of the weighted gradient.

        It joins the offset, so that labels carried with the offset give the run's own outputs; 0 for squared error.
        """
        of_outputs, of_labels = self.of_outputs(self.outputs.clone()), self.of_labels(self.labels.clone())
        return self.gradient * self.weights[:, None] - of_outputs + of_labels


def loss_parts(loss: Loss) -> tuple[Any, ...]:
    """List what tells a loss from others."""
    return type(loss).__module__, type(loss).__qualname__, vars(loss)


def output_scale(path: Path, loss: Loss, y: NDArray, trained: NDArray) -> NDArray:
    """Spread of each output, in which gaps are stated, (n_outputs,).

    It is the standard deviation of the labels of the rows trained on, 1 where they are constant. Where outputs are
    logits or logarithms, it is the standard deviation of the net's own outputs at those rows, and at least 1.
    """
    if loss.in_label_units:
        spread = np.std(y[trained].reshape(int(trained.sum()), -1), axis=0)
        return np.where(spread > 0, spread, 1.0)
    outputs = path.outputs(path.rows, path.trajectory.n_stages).view(len(y), -1).cpu().numpy()
    return np.maximum(np.std(outputs[trained], axis=0), 1.0)
