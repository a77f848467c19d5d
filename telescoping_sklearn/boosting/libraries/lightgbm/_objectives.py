"""The loss of each of LightGBM's objectives, made from the parameters of the estimator."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting.libraries.lightgbm._quantile_leaves import QuantileLoss
from telescoping_sklearn.losses import Fair, Gamma, Logistic, NonQuadraticLoss, Poisson, Tweedie


class SoftmaxOfClass(Logistic):
    """Cross entropy of one of several classes, a logistic loss in the distance from the other scores.

    LightGBM starts at log(p), p the share of the class, and multiplies hessians by K / (K - 1) for K classes.
    """

    def __init__(self, n_classes: int):
        super().__init__(binary=True)
        self._factor = n_classes / (n_classes - 1)

    def hessian(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return K / (K - 1) times h."""
        return self._factor * self.curvature(y, raw)

    def hessian_slope(self, y: NDArray, raw: NDArray) -> NDArray:
        """Return K / (K - 1) times dh/df."""
        return self._factor * super().hessian_slope(y, raw)

    def start(self, row_weights: NDArray, y: NDArray) -> tuple[float, NDArray]:
        """Return log(p), and its derivative in the labels."""
        weights = row_weights / row_weights.sum()
        return float(np.log(weights @ y)), weights / (weights @ y)


SQUARED_ERROR_NAMES = (
    *(None, "regression", "regression_l2", "l2", "mean_squared_error", "mse"),
    *("l2_root", "root_mean_squared_error", "rmse"),
)

_NON_QUADRATIC_LOSSES: dict[str, Callable[[Mapping[str, Any]], NonQuadraticLoss]] = {
    "poisson": lambda params: Poisson(params["poisson_max_delta_step"]),
    "gamma": lambda params: Gamma(),
    "tweedie": lambda params: Tweedie(params["tweedie_variance_power"]),
    "cross_entropy": lambda params: Logistic(),
    "xentropy": lambda params: Logistic(),
    "binary": lambda params: Logistic(binary=True),
    "fair": lambda params: Fair(params["fair_c"]),
}

#: Losses whose leaves are quantiles of residuals. LightGBM keeps alpha in float32.
_QUANTILE_LOSSES: dict[str, Callable[[Mapping[str, Any]], QuantileLoss]] = {
    **dict.fromkeys(("regression_l1", "l1", "mean_absolute_error", "mae"), lambda params: QuantileLoss(0.5)),
    **dict.fromkeys(("mape", "mean_absolute_percentage_error"), lambda params: QuantileLoss(0.5, relative=True)),
    "quantile": lambda params: QuantileLoss(float(np.float32(params["alpha"]))),
}

OBJECTIVES = (*SQUARED_ERROR_NAMES, "huber", *_QUANTILE_LOSSES, *_NON_QUADRATIC_LOSSES)


def non_quadratic_loss(params: Mapping[str, Any]) -> NonQuadraticLoss | None:
    """Make the loss where its derivatives change along training; None for other objectives."""
    objective = params["objective"]
    return _NON_QUADRATIC_LOSSES[objective](params) if objective in _NON_QUADRATIC_LOSSES else None


def quantile_loss(params: Mapping[str, Any]) -> QuantileLoss | None:
    """Make the loss where leaves are quantiles of residuals; None for other objectives."""
    objective = params["objective"]
    return _QUANTILE_LOSSES[objective](params) if objective in _QUANTILE_LOSSES else None


def huber_width(params: Mapping[str, Any]) -> float | None:
    """Return the size of a residual beyond which Huber's loss clips it; None for other objectives."""
    return params["alpha"] if params["objective"] == "huber" else None


def follows_shifts(params: Mapping[str, Any]) -> bool:
    """Whether adding a constant to all labels adds it to the predictions and leaves the trees as they are."""
    quantile = quantile_loss(params)
    return params["objective"] in (*SQUARED_ERROR_NAMES, "huber") or (quantile is not None and not quantile.relative)
