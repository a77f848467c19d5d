"""Losses that a telescope can be made for: derivatives and start.

Squared error is shared by both families; its arithmetic is that of whatever is handed in, NumPy arrays or torch
tensors. A curved loss works on raw predictions, in NumPy.
"""

from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

Array = TypeVar("Array", bound=Any)


class SquaredError:
    """Half the squared error, 1/2 (y - f)^2, as everywhere in this library.

    ``torch.nn.MSELoss`` is twice that: with it every learning rate means something else.

    Examples
    --------
    >>> import numpy as np
    >>> SquaredError().loss(np.array([1.0, 2.0]), np.array([0.0, 0.0]))
    array([0.5, 2. ])
    """

    def loss(self, y: Array, prediction: Array) -> Array:
        """Loss of every row.

        Parameters
        ----------
        y : array of shape (n,)
            Labels.
        prediction : array of shape (n,)
            Predictions f.

        Returns
        -------
        array of shape (n,)
            1/2 (y - f)^2.
        """
        return 0.5 * (y - prediction) ** 2

    def gradient(self, y: Array, prediction: Array) -> Array:
        """First derivative of the loss in the prediction, f - y.

        Parameters
        ----------
        y : array of shape (n,)
            Labels.
        prediction : array of shape (n,)
            Predictions f.

        Returns
        -------
        array of shape (n,)
            The derivative of every row.
        """
        return prediction - y

    def start(self, row_weights: NDArray) -> NDArray:
        """Weights of the labels in the constant that minimises the loss: their weighted mean.

        Parameters
        ----------
        row_weights : ndarray of shape (n,)
            Non-negative weights of the rows, not all zero.

        Returns
        -------
        ndarray of shape (n,)
            A, which sums to 1.
        """
        return row_weights / row_weights.sum()


class CurvedLoss(Protocol):
    """A loss whose derivatives change with the raw prediction f; each takes and gives arrays of shape (n,)."""

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give g, the first derivative in f."""

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give q = -dg/dy."""

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give h = dg/df."""

    def hessian(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give H, which the boosting library puts in its leaf denominators; it need not be h."""
