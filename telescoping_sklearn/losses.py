"""Losses of the estimators and of recorded runs: their derivatives and the constant that training starts from.

Derivatives are taken in the outputs f of a row: raw scores, before any link. They take NumPy arrays, and torch tensors
where nets are trained; trees use one output, (n_rows,), nets one or several, (n_rows, n_outputs).

A recorded run has one loss, a `Loss`. Its gradient g says what the run took; q = -dg/dy and h = dg/df say how that
gradient responds to labels and to outputs, so that the response F to labels V carries h F - q V. With squared error
this is F - V at every output, and only then do weights times labels rebuild the prediction.
"""

import sys
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, softmax

Array: TypeAlias = Any  #: A NumPy array, or a torch tensor.


def _namespace(array: Any) -> Any:
    """Return the module of an array's functions: NumPy, or torch, which is loaded where there are tensors."""
    return sys.modules["torch"] if type(array).__module__.partition(".")[0] == "torch" else np


def _exp(raw: Array) -> Array:
    return _namespace(raw).exp(raw)


def _ones_like(raw: Array) -> Array:
    return _namespace(raw).ones_like(raw)


def _expit(raw: Array) -> Array:
    return expit(raw) if _namespace(raw) is np else raw.sigmoid()


class Loss(ABC):
    """A loss of the outputs of a row: what a recorded run needs to know of it.

    The loss of a row of several outputs is the sum over them, except for `CrossEntropy`, which joins them.
    """

    #: Whether the loss is half the squared error: then g = f - y, and h and q are 1.
    is_quadratic: ClassVar[bool] = False
    #: Whether outputs are in the units of labels; otherwise they are logits or logarithms.
    in_label_units: ClassVar[bool] = False
    #: Labels that the loss accepts, in words.
    takes: ClassVar[str]

    @abstractmethod
    def gradient(self, y: Array, raw: Array) -> Array:
        """Return g, the first derivative of the loss in each output."""

    @abstractmethod
    def label_rate(self, y: Array, raw: Array) -> Array:
        """Return q = -dg/dy of each output in its own label; it depends on no other label."""

    @abstractmethod
    def curvature_product(self, y: Array, raw: Array, columns: Array) -> Array:
        """Return h times columns of the outputs, (n_rows, n_outputs, k), with h the matrix dg/df of each row.

        h is symmetric, so that this is its own adjoint.
        """

    @abstractmethod
    def covers(self, y: NDArray) -> bool:
        """Whether the loss accepts every label."""

    def labels(self, y: ArrayLike, n_outputs: int) -> NDArray:
        """Return labels as a run of so many outputs has them.

        Parameters
        ----------
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Labels as the loss was given them.
        n_outputs : int
            Number of outputs.

        Returns
        -------
        ndarray of shape (n_rows,) or (n_rows, n_outputs)
            Labels in float64, one for each output; one axis where there is one output.

        Raises
        ------
        ValueError
            If y has another shape, holds NaN or infinity, or labels that the loss does not accept.
        """
        given = np.asarray(y)
        labels = self._by_output(given, n_outputs)
        if labels.size != len(given) * n_outputs:
            raise ValueError(
                f"y has shape {given.shape}, and the net {n_outputs} outputs: give {self._shapes(n_outputs)}."
            )
        if not np.isfinite(labels).all():
            raise ValueError("y contains NaN or infinity. Give a finite label for every output.")
        if not self.covers(labels):
            raise ValueError(f"{type(self).__name__} takes {self.takes}, and y holds others.")
        return labels.reshape(len(given), *([] if n_outputs == 1 else [n_outputs]))

    def _by_output(self, y: NDArray, n_outputs: int) -> NDArray:
        """Return labels of each output."""
        return y.astype(np.float64)

    def _shapes(self, n_outputs: int) -> str:
        """Shapes of labels that a run of so many outputs takes, in words."""
        return "one label for each row" if n_outputs == 1 else f"labels of shape (n_rows, {n_outputs})"


class SquaredError(Loss):
    """Half the squared error, 1/2 (y - f)^2, the convention of this library.

    ``torch.nn.MSELoss`` is twice as large: gradients, and so the steps at a given learning rate, are twice as long.

    Examples
    --------
    >>> import numpy as np
    >>> SquaredError().gradient(np.array([1.0, 2.0]), np.array([0.0, 0.0]))
    array([-1., -2.])
    """

    is_quadratic = True
    in_label_units = True
    takes = "any labels"

    def gradient(self, y: Array, raw: Array) -> Array:
        """Return f - y, the first derivative of the loss in the prediction, of every row."""
        return raw - y

    def label_rate(self, y: Array, raw: Array) -> Array:
        """Return 1."""
        return _ones_like(raw)

    def curvature_product(self, y: Array, raw: Array, columns: Array) -> Array:
        """Return the columns: h is 1."""
        return columns

    def covers(self, y: NDArray) -> bool:
        """Whether labels are in range: all are."""
        return True

    def weighted_mean(self, gradient: Array, weighted_gradient: Array) -> Array:
        """Return the weighted mean of the loss, from its derivatives and the same times normalised row weights."""
        return 0.5 * (gradient @ weighted_gradient)

    def start(self, row_weights: NDArray) -> NDArray:
        """Return A = w / sum(w): the loss is least at the constant A y, the weighted mean of the labels."""
        return row_weights / row_weights.sum()


class CrossEntropy(Loss):
    """Cross-entropy of the softmax of several outputs, log sum_l e^(f_l) - sum_l y_l f_l: g = p - y.

    Labels are shares of the classes that sum to 1; whole numbers stand for one class each. This is
    ``torch.nn.CrossEntropyLoss`` on logits. As a function of labels that need not sum to 1 its gradient is still p - y,
    so that q = 1; h = diag(p) - p p^T. To move a row from class a to class b changes the labels of both: the response
    to it is that of label b less that of label a.

    Examples
    --------
    >>> import numpy as np
    >>> loss = CrossEntropy()
    >>> loss.labels([1, 0], 2)
    array([[0., 1.],
           [1., 0.]])
    >>> loss.gradient(loss.labels([1, 0], 2), np.zeros((2, 2)))
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    """

    takes = "numbers of classes, or shares of the classes, not negative, that sum to 1 in every row"

    def gradient(self, y: Array, raw: Array) -> Array:
        """Return p - y, with p the softmax of the outputs."""
        return self.probabilities(raw) - y

    def label_rate(self, y: Array, raw: Array) -> Array:
        """Return 1."""
        return _ones_like(raw)

    def curvature_product(self, y: Array, raw: Array, columns: Array) -> Array:
        """Return p F - p (p . F) of columns F."""
        p = self.probabilities(raw)[..., None]
        of_columns = p * columns
        return of_columns - p * of_columns.sum(1)[:, None]

    def probabilities(self, raw: Array) -> Array:
        """Return the softmax of the outputs, (n_rows, n_outputs)."""
        return softmax(raw, axis=-1) if _namespace(raw) is np else raw.softmax(-1)

    def covers(self, y: NDArray) -> bool:
        """Whether labels are shares of the classes."""
        return bool(y.min() >= 0 and np.abs(y.sum(axis=-1) - 1).max() <= 1e-6)

    def _by_output(self, y: NDArray, n_outputs: int) -> NDArray:
        """Turn numbers of classes into shares of 0 and 1."""
        if n_outputs < 2:
            raise ValueError("CrossEntropy takes a net of two outputs or more; for one logit use Logistic.")
        if y.ndim != 1:
            return y.astype(np.float64)
        if y.dtype.kind not in "iub" or y.min() < 0 or y.max() >= n_outputs:
            raise ValueError(
                f"y of one axis must hold numbers of classes, ints from 0 to {n_outputs - 1}, got {y.dtype} from "
                f"{y.min()} to {y.max()}."
            )
        return np.eye(n_outputs)[y.astype(np.intp)]

    def _shapes(self, n_outputs: int) -> str:
        return f"numbers of classes, (n_rows,), or shares of the classes, (n_rows, {n_outputs})"


class NonQuadraticLoss(Loss):
    """A non-quadratic loss of one raw prediction f, or of each of several on its own.

    Subclasses define its derivatives and the link between f and the mean label; all are elementwise. Definitions follow
    LightGBM, whose hessian H may differ from h; nets use g, q and h only.
    """

    @abstractmethod
    def curvature(self, y: Array, raw: Array) -> Array:
        """Return h = dg/df."""

    def curvature_product(self, y: Array, raw: Array, columns: Array) -> Array:
        """Return h times columns of the outputs, (n_rows, n_outputs, k)."""
        return self.curvature(y, raw)[..., None] * columns

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

    def gradient(self, y: Array, raw: Array) -> Array:
        """Return e^f - y."""
        return _exp(raw) - y

    def label_rate(self, y: Array, raw: Array) -> Array:
        """Return 1."""
        return _ones_like(raw)

    def curvature(self, y: Array, raw: Array) -> Array:
        """Return e^f."""
        return _exp(raw)

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

    def gradient(self, y: Array, raw: Array) -> Array:
        """Return 1 - y e^-f."""
        return 1 - y * _exp(-raw)

    def label_rate(self, y: Array, raw: Array) -> Array:
        """Return e^-f."""
        return _exp(-raw)

    def curvature(self, y: Array, raw: Array) -> Array:
        """Return y e^-f."""
        return y * _exp(-raw)

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

    def gradient(self, y: Array, raw: Array) -> Array:
        """Return e^((2 - rho) f) - y e^((1 - rho) f)."""
        return _exp((2 - self.power) * raw) - y * _exp((1 - self.power) * raw)

    def label_rate(self, y: Array, raw: Array) -> Array:
        """Return e^((1 - rho) f)."""
        return _exp((1 - self.power) * raw)

    def curvature(self, y: Array, raw: Array) -> Array:
        """Return (2 - rho) e^((2 - rho) f) - (1 - rho) y e^((1 - rho) f)."""
        far, near = 2 - self.power, 1 - self.power
        return far * _exp(far * raw) - near * y * _exp(near * raw)

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

    def gradient(self, y: Array, raw: Array) -> Array:
        """Return sigma(f) - y."""
        return _expit(raw) - y

    def label_rate(self, y: Array, raw: Array) -> Array:
        """Return 1."""
        return _ones_like(raw)

    def curvature(self, y: Array, raw: Array) -> Array:
        """Return sigma(f) (1 - sigma(f))."""
        return _expit(raw) * _expit(-raw)

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

    in_label_units = True
    takes = "any labels"

    def __init__(self, c: float = 1.0):
        self.c = c

    def gradient(self, y: Array, raw: Array) -> Array:
        """Return c (f - y) / (|f - y| + c)."""
        return self.c * (raw - y) / (abs(raw - y) + self.c)

    def label_rate(self, y: Array, raw: Array) -> Array:
        """Return h: the loss depends on f - y alone."""
        return self.curvature(y, raw)

    def curvature(self, y: Array, raw: Array) -> Array:
        """Return (c / (|f - y| + c))^2."""
        return (self.c / (abs(raw - y) + self.c)) ** 2

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
