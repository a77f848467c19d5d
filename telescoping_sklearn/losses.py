"""Losses that a telescope can be made for: derivatives and start.

Squared error is shared by both families; its arithmetic is that of whatever is handed in, NumPy arrays or torch
tensors. A curved loss works on raw predictions, in NumPy.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Array = TypeVar("Array", bound=Any)


class SquaredError:
    """Half the squared error, 1/2 (y - f)^2, as everywhere in this library.

    ``torch.nn.MSELoss`` is twice that: with it every learning rate means something else.

    Examples
    --------
    >>> import numpy as np
    >>> SquaredError().gradient(np.array([1.0, 2.0]), np.array([0.0, 0.0]))
    array([-1., -2.])
    """

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


class CurvedLoss(ABC):
    """A loss on the raw prediction f whose derivatives change with it.

    Subclasses give the derivatives and the two directions of the link between f and the mean label; all take and give
    arrays of shape (n,). As LightGBM has them (its hessian H need not be h).
    """

    #: Labels that the loss takes, in words.
    takes: ClassVar[str]

    @abstractmethod
    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give g, the first derivative in f."""

    @abstractmethod
    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give q = -dg/dy."""

    @abstractmethod
    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give h = dg/df."""

    def hessian(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give H, which stands in the leaf denominators: h, unless a loss says otherwise."""
        return self.curvature(y, raw)

    def mean(self, raw: NDArray) -> NDArray:
        """Turn raw predictions into means of the label."""
        return np.exp(raw)

    def raw(self, mean: float) -> float:
        """Turn a mean of the label into a raw prediction."""
        return float(np.log(mean))

    @abstractmethod
    def covers(self, y: NDArray) -> bool:
        """Whether every label is one that the loss takes."""

    def accepts(self, y: NDArray) -> bool:
        """Whether the loss takes the labels, and their mean is one that it can start from."""
        with np.errstate(divide="ignore"):  # the logarithm of a mean of zero
            return self.covers(y) and bool(np.isfinite(self.raw(y.mean())))

    def start(self, row_weights: NDArray, y: NDArray) -> tuple[float, NDArray]:
        """Give the constant f_0 that minimises the loss, and A = w q_0 / sum(w h_0), its derivative in the labels.

        Parameters
        ----------
        row_weights : ndarray of shape (n,)
            Non-negative weights of the rows, not all zero.
        y : ndarray of shape (n,)
            Labels.

        Returns
        -------
        raw : float
            f_0, that of the weighted mean label.
        label_weights : ndarray of shape (n,)
            A.
        """
        raw = self.raw(row_weights @ y / row_weights.sum())
        at = np.full(len(y), raw)
        return raw, row_weights * self.label_rate(y, at) / (row_weights @ self.curvature(y, at))


class Poisson(CurvedLoss):
    """Poisson deviance with log link: g = e^f - y.

    Parameters
    ----------
    max_delta_step : float, default=0.7
        LightGBM's safeguard: H = e^(f + max_delta_step) instead of h = e^f.

    Examples
    --------
    >>> import numpy as np
    >>> Poisson().gradient(np.array([1.0, 3.0]), np.zeros(2))
    array([ 0., -2.])
    """

    takes = "labels that are not negative and not all zero"

    def __init__(self, max_delta_step: float = 0.7):
        self.max_delta_step = max_delta_step

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give e^f - y."""
        return np.exp(raw) - y

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give 1."""
        return np.ones_like(raw)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give e^f."""
        return np.exp(raw)

    def hessian(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give e^(f + max_delta_step)."""
        return np.exp(raw + self.max_delta_step)

    def covers(self, y: NDArray) -> bool:
        """Whether no label is negative."""
        return bool(y.min() >= 0)


class Gamma(CurvedLoss):
    """Gamma deviance with log link: g = 1 - y e^-f.

    Examples
    --------
    >>> import numpy as np
    >>> Gamma().gradient(np.array([1.0, 3.0]), np.zeros(2))
    array([ 0., -2.])
    """

    takes = "positive labels"

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give 1 - y e^-f."""
        return 1 - y * np.exp(-raw)

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give e^-f."""
        return np.exp(-raw)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give y e^-f."""
        return y * np.exp(-raw)

    def covers(self, y: NDArray) -> bool:
        """Whether all labels are positive."""
        return bool(y.min() > 0)


class Tweedie(CurvedLoss):
    """Tweedie deviance with log link: g = e^((2 - rho) f) - y e^((1 - rho) f).

    Parameters
    ----------
    power : float, default=1.5
        rho, from 1 (Poisson, with H = h) to below 2 (towards gamma).

    Examples
    --------
    >>> import numpy as np
    >>> Tweedie().gradient(np.array([1.0, 3.0]), np.zeros(2))
    array([ 0., -2.])
    """

    takes = "labels that are not negative and not all zero"

    def __init__(self, power: float = 1.5):
        self.power = power

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give e^((2 - rho) f) - y e^((1 - rho) f)."""
        return np.exp((2 - self.power) * raw) - y * np.exp((1 - self.power) * raw)

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give e^((1 - rho) f)."""
        return np.exp((1 - self.power) * raw)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give (2 - rho) e^((2 - rho) f) - (1 - rho) y e^((1 - rho) f)."""
        far, near = 2 - self.power, 1 - self.power
        return far * np.exp(far * raw) - near * y * np.exp(near * raw)

    def covers(self, y: NDArray) -> bool:
        """Whether no label is negative."""
        return bool(y.min() >= 0)


class Logistic(CurvedLoss):
    """Cross entropy with logit link, for labels in [0, 1]: g = sigma(f) - y.

    Parameters
    ----------
    binary : bool, default=False
        Whether labels are 0 and 1 only.

    Examples
    --------
    >>> import numpy as np
    >>> Logistic().gradient(np.array([0.5, 1.0]), np.zeros(2))
    array([ 0. , -0.5])
    """

    def __init__(self, binary: bool = False):
        self.binary = binary

    @property
    def takes(self) -> str:  # type: ignore[override]
        """Labels that the loss takes, in words."""
        return "labels 0 and 1, both of them" if self.binary else "labels in [0, 1] that are not all 0 or all 1"

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give sigma(f) - y."""
        return expit(raw) - y

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give 1."""
        return np.ones_like(raw)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give sigma(f) (1 - sigma(f))."""
        return expit(raw) * expit(-raw)

    def mean(self, raw: NDArray) -> NDArray:
        """Give sigma(f)."""
        return expit(raw)

    def raw(self, mean: float) -> float:
        """Give the logit of a mean."""
        return float(logit(mean))

    def covers(self, y: NDArray) -> bool:
        """Whether labels are in range."""
        return bool(np.isin(y, (0, 1)).all() if self.binary else y.min() >= 0 and y.max() <= 1)


class Fair(CurvedLoss):
    """Fair's loss, c^2 (|x| / c - log(1 + |x| / c)) with x = f - y: g = c x / (|x| + c).

    Between squared error near zero and the absolute error far from it; the prediction is in the units of the label.

    Parameters
    ----------
    c : float, default=1.0
        Size of an error at which g is half of what it can reach.

    Examples
    --------
    >>> import numpy as np
    >>> Fair(c=2.0).gradient(np.array([2.0, -2.0]), np.zeros(2))
    array([-1.,  1.])
    """

    takes = "any labels"

    def __init__(self, c: float = 1.0):
        self.c = c

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give c (f - y) / (|f - y| + c)."""
        return self.c * (raw - y) / (np.abs(raw - y) + self.c)

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give h: the loss depends on f - y alone."""
        return self.curvature(y, raw)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give (c / (|f - y| + c))^2."""
        return (self.c / (np.abs(raw - y) + self.c)) ** 2

    def mean(self, raw: NDArray) -> NDArray:
        """Give f."""
        return raw

    def raw(self, mean: float) -> float:
        """Give the mean."""
        return float(mean)

    def covers(self, y: NDArray) -> bool:
        """Whether labels are in range: all are."""
        return True

    def start(self, row_weights: NDArray, y: NDArray) -> tuple[float, NDArray]:
        """Give the weighted mean label, where LightGBM starts though it does not minimise the loss, and its weights."""
        label_weights = SquaredError().start(row_weights)
        return float(label_weights @ y), label_weights
