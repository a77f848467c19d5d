"""Neural nets: first-order telescopes, one stage a parameter update."""

from telescoping_sklearn.neural._estimators import TelescopingMLPRegressor
from telescoping_sklearn.neural._recorded_telescope import RecordedTelescope
from telescoping_sklearn.neural._training_record import TrainingRecord, record_training
from telescoping_sklearn.neural._training_recorder import TrainingRecorder
from telescoping_sklearn.neural._update_rules import register_update_rule

__all__ = [
    "RecordedTelescope",
    "TelescopingMLPRegressor",
    "TrainingRecord",
    "TrainingRecorder",
    "record_training",
    "register_update_rule",
]
