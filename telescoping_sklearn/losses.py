"""Losses of the estimators: their derivatives and the constant that training starts from.

Squared error is used by trees and nets and takes NumPy arrays or torch tensors. The non-quadratic losses take raw
predictions as NumPy arrays.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Array = TypeVar("Array", bound=Any)


class SquaredError:
    """Half the squared error, 1/2 (y - f)^2, the convention of this library.

    ``torch.nn.MSELoss`` is twice as large: gradients, and so the steps at a given learning rate, are twice as long.

    Examples
    --------
    >>> import numpy as np
    >>> SquaredError().gradient(np.array([1.0, 2.0]), np.array([0.0, 0.0]))
    array([-1., -2.])
    """

    def gradient(self, y: Array, prediction: Array) -> Array:
        """Return f - y, the first derivative of the loss in the prediction, of every row."""
        return prediction - y

    def weighted_mean(self, gradient: Array, weighted_gradient: Array) -> Array:
        """Return the weighted mean of the loss, from its derivatives and the same times normalised row weights."""
        return 0.5 * (gradient @ weighted_gradient)

    def start(self, row_weights: NDArray) -> NDArray:
        """Return A = w / sum(w): the loss is least at the constant A y, the weighted mean of the labels."""
        return row_weights / row_weights.sum()


class NonQuadraticLoss(ABC):
    """A non-quadratic loss of the raw prediction f.

    Subclasses define its derivatives and the link between f and the mean label; all take and return arrays of shape
    (n,). Definitions follow LightGBM, whose hessian H may differ from h.
    """

    #: Labels that the loss accepts, in words.
    takes: ClassVar[str]

    @abstractmethod
    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return g, the first derivative in f."""

    @abstractmethod
    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return q = -dg/dy."""

    @abstractmethod
    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return h = dg/df."""

    def hessian(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return H of the leaf denominators: h, unless a subclass overrides it."""
        return self.curvature(y, raw)

    @abstractmethod
    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return dH/df."""

    def mean(self, raw: NDArray) -> NDArray:
        """Convert raw predictions to mean labels."""
        return np.exp(raw)

    def raw(self, mean: float) -> float:
        """Convert a mean label to a raw prediction."""
        return float(np.log(mean))

    @abstractmethod
    def covers(self, y: NDArray) -> bool:
        """Whether the loss accepts every label."""

    def accepts(self, y: NDArray) -> bool:
        """Whether the loss accepts the labels and has a finite start at their mean."""
        with np.errstate(divide="ignore"):  # the logarithm of a mean of zero
            return self.covers(y) and bool(np.isfinite(self.raw(y.mean())))

    def start(self, row_weights: NDArray, y: NDArray) -> tuple[float, NDArray]:
        """Return the constant f_0 that minimises the loss, and A = w q_0 / sum(w h_0), its derivative in the labels.

        f_0 is the raw prediction of the weighted mean label. Row weights w are not negative and not all zero.
        """
        raw = self.raw(row_weights @ y / row_weights.sum())
        at = np.full(len(y), raw)
        return raw, row_weights * self.label_rate(y, at) / (row_weights @ self.curvature(y, at))


class Poisson(NonQuadraticLoss):
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
        """Return e^f - y."""
        return np.exp(raw) - y

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return 1."""
        return np.ones_like(raw)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return e^f."""
        return np.exp(raw)

    def hessian(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return e^(f + max_delta_step)."""
        return np.exp(raw + self.max_delta_step)

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return H."""
        return self.hessian(y, raw)

    def covers(self, y: NDArray) -> bool:
        """Whether no label is negative."""
        return bool(y.min() >= 0)


class Gamma(NonQuadraticLoss):
    """Gamma deviance with log link: g = 1 - y e^-f.

    Examples
    --------
    >>> import numpy as np
    >>> Gamma().gradient(np.array([1.0, 3.0]), np.zeros(2))
    array([ 0., -2.])
    """

    takes = "positive labels"

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return 1 - y e^-f."""
        return 1 - y * np.exp(-raw)

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return e^-f."""
        return np.exp(-raw)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return y e^-f."""
        return y * np.exp(-raw)

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return -y e^-f."""
        return -y * np.exp(-raw)

    def covers(self, y: NDArray) -> bool:
        """Whether all labels are positive."""
        return bool(y.min() > 0)


class Tweedie(NonQuadraticLoss):
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
        """Return e^((2 - rho) f) - y e^((1 - rho) f)."""
        return np.exp((2 - self.power) * raw) - y * np.exp((1 - self.power) * raw)

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return e^((1 - rho) f)."""
        return np.exp((1 - self.power) * raw)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return (2 - rho) e^((2 - rho) f) - (1 - rho) y e^((1 - rho) f)."""
        far, near = 2 - self.power, 1 - self.power
        return far * np.exp(far * raw) - near * y * np.exp(near * raw)

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return (2 - rho)^2 e^((2 - rho) f) - (1 - rho)^2 y e^((1 - rho) f)."""
        far, near = 2 - self.power, 1 - self.power
        return far**2 * np.exp(far * raw) - near**2 * y * np.exp(near * raw)

    def covers(self, y: NDArray) -> bool:
        """Whether no label is negative."""
        return bool(y.min() >= 0)


class Logistic(NonQuadraticLoss):
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
        """Labels that the loss accepts, in words."""
        return "labels 0 and 1, both of them" if self.binary else "labels in [0, 1] that are not all 0 or all 1"

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return sigma(f) - y."""
        return expit(raw) - y

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return 1."""
        return np.ones_like(raw)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return sigma(f) (1 - sigma(f))."""
        return expit(raw) * expit(-raw)

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return sigma(f) (1 - sigma(f)) (1 - 2 sigma(f))."""
        return expit(raw) * expit(-raw) * (expit(-raw) - expit(raw))

    def mean(self, raw: NDArray) -> NDArray:
        """Return sigma(f)."""
        return expit(raw)

    def raw(self, mean: float) -> float:
        """Return the logit of a mean."""
        return float(logit(mean))

    def covers(self, y: NDArray) -> bool:
        """Whether all labels are in range."""
        return bool(np.isin(y, (0, 1)).all() if self.binary else y.min() >= 0 and y.max() <= 1)


class Fair(NonQuadraticLoss):
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
        """Return c (f - y) / (|f - y| + c)."""
        return self.c * (raw - y) / (np.abs(raw - y) + self.c)

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return h: the loss depends on f - y alone."""
        return self.curvature(y, raw)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return (c / (|f - y| + c))^2."""
        return (self.c / (np.abs(raw - y) + self.c)) ** 2

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Give -2 c^2 sign(f - y) / (|f - y| + c)^3."""
        return -2 * self.c**2 * np.sign(raw - y) / (np.abs(raw - y) + self.c) ** 3

    def mean(self, raw: NDArray) -> NDArray:
        """Return f."""
        return raw

    def raw(self, mean: float) -> float:
        """Return the mean."""
        return float(mean)

    def covers(self, y: NDArray) -> bool:
        """Whether labels are in range: all are."""
        return True

    def start(self, row_weights: NDArray, y: NDArray) -> tuple[float, NDArray]:
        """Return the weighted mean label and its weights: LightGBM starts there, though the loss is not least."""
        label_weights = SquaredError().start(row_weights)
        return float(label_weights @ y), label_weights
