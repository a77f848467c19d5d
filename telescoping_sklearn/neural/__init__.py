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
from telescoping_sklearn.neural._recorded_telescope import RecordedTelescope
from telescoping_sklearn.neural._training_record import TrainingRecord, record_training
from telescoping_sklearn.neural._training_recorder import TrainingRecorder
from telescoping_sklearn.neural._update_rules import register_update_rule

__all__ = [
    "AveragingLosses",
    "ErrorBarrier",
    "RecordedTelescope",
    "TelescopingMLPRegressor",
    "TrainingRecord",
    "TrainingRecorder",
    "average_weights",
    "compare_averages",
    "error_barrier",
    "interpolate",
    "record_training",
    "register_activation",
    "register_update_rule",
]
