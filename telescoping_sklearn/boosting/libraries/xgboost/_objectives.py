"""The loss, the link and the start of each of XGBoost's objectives."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from telescoping_sklearn.boosting._ensemble import mean_start_terms
from telescoping_sklearn.losses import Gamma, Logistic, NonQuadraticLoss, Poisson, SquaredError, Tweedie

#: XGBoost's smallest hessians.
_LEAST_LOGISTIC, _LEAST_LOG_ERROR = 1e-16, 1e-6

_LOGIT = ("binary:logistic", "reg:logistic")
_LOG = ("count:poisson", "reg:gamma", "reg:tweedie")
_QUANTILES = ("reg:absoluteerror", "reg:quantileerror")
#: Objectives whose start, where not given, is one Newton step from zero, as that of all is with ``scale_pos_weight``.
_STARTS_WITH_STEP = ("reg:squaredlogerror", "reg:pseudohubererror")
#: Objectives of one loss each; the mapping makes it from the objective's parameters.
_LOSSES: Mapping[str, Callable[[Mapping[str, Any]], NonQuadraticLoss | None]] = {
    "reg:squarederror": lambda _: None,
    "binary:logistic": lambda _: Float32Logistic(binary=True),
    "binary:logitraw": lambda _: Float32Logistic(binary=True),
    "reg:logistic": lambda _: Float32Logistic(),
    "count:poisson": lambda of: Poisson(float(of["poisson_regression_param"]["max_delta_step"])),
    "reg:gamma": lambda _: Gamma(),
    "reg:tweedie": lambda of: Tweedie(float(of["tweedie_regression_param"]["tweedie_variance_power"])),
    "reg:squaredlogerror": lambda _: SquaredLogError(),
    "reg:pseudohubererror": lambda of: PseudoHuber(float(of["pseudo_huber_param"]["huber_slope"])),
    **dict.fromkeys(_QUANTILES, lambda _: None),
}


class Float32Logistic(Logistic):
    """Cross entropy, with g and H in XGBoost's float32.

    Where the probability is within 1e-4 of 0 or 1, the digits that float32 loses change leaf values.
    """

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return sigma(f) - y."""
        return (_sigmoid32(raw) - y.astype(np.float32)).astype(np.float64)

    def hessian(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return sigma(f) (1 - sigma(f))."""
        p = _sigmoid32(raw)
        return np.maximum(p * (np.float32(1) - p), np.float32(_LEAST_LOGISTIC)).astype(np.float64)


def _sigmoid32(raw: NDArray) -> NDArray:
    """Sigmoid in float32, as XGBoost computes it."""
    capped = np.minimum(-raw.astype(np.float32), np.float32(88.7))
    return np.float32(1) / (np.exp(capped) + np.float32(1) + np.float32(1e-16))


class PseudoHuber(NonQuadraticLoss):
    """Pseudo-Huber loss, s^2 (sqrt(1 + (x / s)^2) - 1) with x = f - y: g = x / sqrt(1 + (x / s)^2).

    Parameters
    ----------
    slope : float, default=1.0
        s, the size of an error beyond which the loss becomes linear.

    Examples
    --------
    >>> import numpy as np
    >>> PseudoHuber(slope=2.0).gradient(np.array([1.5]), np.zeros(1))
    array([-1.2])
    """

    takes = "any labels"

    def __init__(self, slope: float = 1.0):
        self.slope = slope

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return x / sqrt(1 + (x / s)^2)."""
        return (raw - y) / np.sqrt(1 + ((raw - y) / self.slope) ** 2)

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return h: the loss depends on f - y alone."""
        return self.curvature(y, raw)

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return (1 + (x / s)^2)^(-3/2)."""
        return (1 + ((raw - y) / self.slope) ** 2) ** -1.5

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return -3 x / s^2 (1 + (x / s)^2)^(-5/2)."""
        return -3 * (raw - y) / self.slope**2 * (1 + ((raw - y) / self.slope) ** 2) ** -2.5

    def covers(self, y: NDArray) -> bool:
        """Whether labels are in range: all are."""
        return True


class SquaredLogError(NonQuadraticLoss):
    """Squared logarithmic error, 1/2 (log(1 + f) - log(1 + y))^2; f is kept above -1.

    Examples
    --------
    >>> import numpy as np
    >>> SquaredLogError().curvature(np.zeros(1), np.zeros(1))
    array([1.])
    """

    takes = "labels above -1"
    _LEAST = -1 + 1e-6

    def gradient(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return (log(1 + f) - log(1 + y)) / (1 + f)."""
        f = np.maximum(raw, self._LEAST)
        return (np.log1p(f) - np.log1p(y)) / (1 + f)

    def label_rate(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return 1 / ((1 + f) (1 + y))."""
        return 1 / ((1 + np.maximum(raw, self._LEAST)) * (1 + y))

    def curvature(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return (1 - log(1 + f) + log(1 + y)) / (1 + f)^2, and 0 where f is kept above -1."""
        f = np.maximum(raw, self._LEAST)
        return np.where(raw >= self._LEAST, (1 - np.log1p(f) + np.log1p(y)) / (1 + f) ** 2, 0.0)

    def hessian(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return h, or 1e-6 where that is larger."""
        f = np.maximum(raw, self._LEAST)
        return np.maximum((1 - np.log1p(f) + np.log1p(y)) / (1 + f) ** 2, _LEAST_LOG_ERROR)

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return (2 log(1 + f) - 2 log(1 + y) - 3) / (1 + f)^3, and 0 where H is held at 1e-6 or f above -1."""
        f = np.maximum(raw, self._LEAST)
        free = (raw >= self._LEAST) & (self.curvature(y, raw) > _LEAST_LOG_ERROR)
        return np.where(free, (2 * np.log1p(f) - 2 * np.log1p(y) - 3) / (1 + f) ** 3, 0.0)

    def covers(self, y: NDArray) -> bool:
        """Whether all labels are above -1."""
        return bool(y.min() > -1)


@dataclass(frozen=True)
class Objective:
    """An objective: its loss, or the level of its quantile; squared error has neither.

    Attributes
    ----------
    name : str
        XGBoost's name.
    loss : NonQuadraticLoss or None
        The loss where it is not quadratic.
    quantile : float or None
        Level of the quantile that leaves are set to.
    link : callable or None
        Maps raw scores to means, where they differ.
    """

    name: str
    loss: NonQuadraticLoss | None
    quantile: float | None
    link: Callable[[NDArray], NDArray] | None

    @property
    def binary(self) -> bool:
        """Whether labels are 0 and 1."""
        return self.name.startswith("binary:")

    @property
    def hessian_tells_weight(self) -> bool:
        """Whether the hessians at the start do not depend on the labels."""
        return self.loss is None or self.name in (*_LOGIT, "binary:logitraw", "count:poisson")

    def start_weights(self, labels: NDArray, row_weights: NDArray, saved: Any) -> NDArray:
        """Return A of the start f_0, (n_train,): weights of the labels, or derivatives in them.

        They are zero where the start was given as ``base_score``. Quantiles have a start of their own.
        """
        if not saved.start_from_labels:
            return np.zeros(len(labels))
        from_step = self.name in _STARTS_WITH_STEP or saved.scale_pos_weight != 1
        if self.loss is None or (
            self.name == "binary:logitraw" and not from_step
        ):  # it starts from a mean, not its logit
            return SquaredError().start(row_weights)
        at = np.full(len(labels), 0.0 if from_step else saved.start)
        return row_weights * self.loss.label_rate(labels, at) / (row_weights @ self.loss.curvature(labels, at))

    def start_terms(self, start: NDArray, labels: NDArray, row_weights: NDArray, saved: Any) -> NDArray:
        """Return derivatives of the start in the weights of rows, (n_train,); ``start`` has those in the labels."""
        if self.loss is None or self.name not in _STARTS_WITH_STEP or not saved.start_from_labels:
            return mean_start_terms(start, row_weights, labels)
        zero = np.zeros(len(labels))
        hessian = self.loss.curvature(labels, zero)
        return -(self.loss.gradient(labels, zero) + hessian * saved.start) / (row_weights @ hessian)


def raw_start(name: str, base_score: float) -> float:
    """Convert ``base_score`` to a raw score, in float32 as XGBoost does."""
    link = {**dict.fromkeys(_LOGIT, logit), **dict.fromkeys(_LOG, np.log)}.get(name)
    with np.errstate(divide="ignore", invalid="ignore"):
        return base_score if link is None else float(np.float32(link(np.float64(base_score))))


def find_objective(saved: Mapping[str, Any]) -> Objective:
    """Make the objective that a model was fitted with.

    Raises
    ------
    ValueError
        If leaf values are not known functions of the labels under it.
    """
    name = saved["name"]
    if name not in _LOSSES:
        raise ValueError(f"objective={name!r} is not supported. Fit with one of {', '.join(map(repr, _LOSSES))}.")
    link = expit if name in _LOGIT else np.exp if name in _LOG else None
    return Objective(name, _LOSSES[name](saved), _quantile(saved), link)


def _quantile(saved: Mapping[str, Any]) -> float | None:
    """Level of the quantile, in float32 as XGBoost keeps it."""
    if saved["name"] not in _QUANTILES:
        return None
    if saved["name"] == "reg:absoluteerror":
        return 0.5
    levels = np.ravel(json.loads(saved["quantile_loss_param"]["quantile_alpha"]))
    return float(np.float32(levels[0]))
