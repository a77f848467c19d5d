"""Losses that a telescope can be made for: value, curvature and start, shared by both families.

The arithmetic is that of whatever is handed in, NumPy arrays or torch tensors.
"""

from typing import Any, TypeVar

import numpy as np
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

    def weighted_mean(self, gradient: Array, weighted_gradient: Array) -> Array:
        """Weighted mean of the loss, from derivatives that training has worked out already.

        Parameters
        ----------
        gradient : array of shape (n,)
            First derivatives, from `gradient`.
        weighted_gradient : array of shape (n,)
            The same, each times its row's share in the mean.

        Returns
        -------
        scalar
            The sum of shares times 1/2 (y - f)^2.
        """
        return 0.5 * (gradient @ weighted_gradient)

    def curvature(self, n_rows: int) -> NDArray:
        """Second derivative of the loss in the prediction, the same at every label and prediction.

        Parameters
        ----------
        n_rows : int
            Number of rows n.

        Returns
        -------
        ndarray of shape (n,)
            Ones.
        """
        return np.ones(n_rows)

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
