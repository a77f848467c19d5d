"""The loss and the link of each of CatBoost's objectives."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from telescoping_sklearn.losses import Logistic, NonQuadraticLoss, Poisson, Tweedie


class _OfResiduals(NonQuadraticLoss):
    """A loss of f - y, for any labels, whose raw score is in their units."""

    takes = "any labels"

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return h: the loss depends on f - y alone."""
        return self.curvature(y, raw)

    def covers(self, y: NDArray) -> bool:
        """Whether labels are in range: all are."""
        return True

    def mean(self, raw: NDArray) -> NDArray:
        """Return f."""
        return raw


class Huber(_OfResiduals):
    """Huber's loss: g = f - y, cut to ``delta`` in size.

    Examples
    --------
    >>> import numpy as np
    >>> Huber(1.0).gradient(np.array([0.5, 3.0]), np.zeros(2))
    array([-0.5, -1. ])
    """

    def __init__(self, delta: float):
        self.delta = delta

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return f - y, cut."""
        return np.clip(raw - y, -self.delta, self.delta)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return 1, and 0 where the gradient is cut."""
        return (np.abs(raw - y) <= self.delta).astype(np.float64)

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return 0."""
        return np.zeros_like(raw)


class Expectile(_OfResiduals):
    """Asymmetric squared error: g = 2 k (f - y), with k = alpha where y is above f, else 1 - alpha.

    Examples
    --------
    >>> import numpy as np
    >>> Expectile(0.75).gradient(np.array([1.0, -1.0]), np.zeros(2))
    array([-1.5,  0.5])
    """

    def __init__(self, alpha: float):
        self.alpha = alpha

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return 2 k (f - y)."""
        return self.curvature(y, raw) * (raw - y)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return 2 k."""
        return 2 * np.where(y > raw, self.alpha, 1 - self.alpha)

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return 0."""
        return np.zeros_like(raw)


class LogCosh(_OfResiduals):
    """log(cosh(f - y)): g = tanh(f - y).

    Examples
    --------
    >>> import numpy as np
    >>> LogCosh().curvature(np.zeros(1), np.zeros(1))
    array([1.])
    """

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return tanh(f - y)."""
        return np.tanh(raw - y)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return 1 - tanh(f - y)^2."""
        return 1 - np.tanh(raw - y) ** 2

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return -2 tanh(f - y) (1 - tanh(f - y)^2)."""
        return -2 * np.tanh(raw - y) * self.curvature(y, raw)


class Power(_OfResiduals):
    """|f - y|^q with q of 2 or more: g = q |x|^(q - 1) sign(x) with x = f - y.

    Examples
    --------
    >>> import numpy as np
    >>> Power(3.0).gradient(np.array([2.0]), np.zeros(1))
    array([-12.])
    """

    def __init__(self, q: float):
        self.q = q

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return q |x|^(q - 1) sign(x)."""
        return self.q * np.abs(raw - y) ** (self.q - 1) * np.sign(raw - y)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return q (q - 1) |x|^(q - 2)."""
        return self.q * (self.q - 1) * np.abs(raw - y) ** (self.q - 2)

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return q (q - 1) (q - 2) |x|^(q - 3) sign(x), and 0 at x = 0."""
        x = raw - y
        sizes = np.where(x == 0, 1.0, np.abs(x))
        return self.q * (self.q - 1) * (self.q - 2) * sizes ** (self.q - 3) * np.sign(x)


#: Losses whose leaves are steps, by CatBoost's name; None for squared error.
_STEPS: Mapping[str, Callable[[Mapping[str, float]], NonQuadraticLoss | None]] = {
    "RMSE": lambda _: None,
    "Logloss": lambda _: Logistic(binary=True),
    "CrossEntropy": lambda _: Logistic(),
    "Poisson": lambda _: Poisson(0.0),
    "Tweedie": lambda of: Tweedie(of["variance_power"]),
    "Huber": lambda of: Huber(of["delta"]),
    "Expectile": lambda of: Expectile(of.get("alpha", 0.5)),
    "LogCosh": lambda _: LogCosh(),
    "Lq": lambda of: Power(of["q"]),
}
#: Losses whose leaves are quantiles of residuals.
_QUANTILES = ("MAE", "Quantile")
_LINKS: Mapping[str, Callable[[NDArray], NDArray]] = {
    **dict.fromkeys(("Logloss", "CrossEntropy"), expit),
    **dict.fromkeys(("Poisson", "Tweedie"), np.exp),
}
#: What CatBoost moves a quantile by, in the units of the label.
_DELTA = 1e-6


class Objective:
    """An objective: its loss, or the level of its quantile; squared error has neither.

    Parameters
    ----------
    name : str
        CatBoost's name of the loss.
    params : mapping
        Parameters in ``loss_function``.
    method : str
        ``leaf_estimation_method``.

    Raises
    ------
    ValueError
        If leaf values are not known functions of the labels.
    """

    def __init__(self, name: str, params: Mapping[str, float], method: str):
        self.name = name
        self.binary = name == "Logloss"
        self.link = _LINKS.get(name)
        self.loss: NonQuadraticLoss | None = None
        self.quantile: float | None = None
        self.delta = params.get("delta", _DELTA)
        #: Whether the denominators of leaves are sums of hessians, rather than of weights.
        self.newton = method == "Newton" and name != "RMSE"
        if name in _QUANTILES and method == "Exact":
            self.quantile = params.get("alpha", 0.5)
        elif name in _STEPS and method in ("Newton", "Gradient"):
            self.loss = _STEPS[name](params)
        else:
            raise ValueError(
                f"loss_function={name!r} with leaf_estimation_method={method!r} is not supported. Fit with one of "
                f"{', '.join(map(repr, _STEPS))} and 'Newton' or 'Gradient', or with 'MAE' or 'Quantile' and 'Exact'."
            )
        if name == "Lq" and params["q"] < 2:
            raise ValueError(f"loss_function='Lq:q={params['q']:g}' is not supported: q must be 2 or more.")
