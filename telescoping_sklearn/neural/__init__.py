"""Neural nets: first-order telescopes, one stage a parameter update."""

from telescoping_sklearn.neural._activations import register_activation
from telescoping_sklearn.neural._estimators import TelescopingMLPRegressor
from telescoping_sklearn.neural._mode_connectivity import (
    AveragingLosses,
    ErrorBarrier,
    average_weights,
    compare_averages,
    error_barrier,
    interpolate,
)
from telescoping_sklearn.neural._update_rules import register_update_rule

__all__ = [
    "AveragingLosses",
    "ErrorBarrier",
    "TelescopingMLPRegressor",
    "average_weights",
    "compare_averages",
    "error_barrier",
    "interpolate",
    "register_activation",
    "register_update_rule",
]
