"""The parameters of boosted trees by name: defaults, ranges, and which settings have no label weights."""

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

#: Parameters that are not LightGBM's.
OURS = ("early_stopping_rounds", "validation_fraction", "record")
SQUARED_ERROR_NAMES = (None, "regression", "regression_l2", "l2", "mean_squared_error", "mse")


class Refusal(NamedTuple):
    """A setting whose leaves are not weighted means of the labels that we can rebuild."""

    parameter: str
    accepts: Callable[[Any], bool]
    reason: str


_REFUSALS = (
    Refusal("boosting_type", lambda value: value == "gbdt", "only 'gbdt' adds one fixed stage after the other"),
    Refusal(
        "objective",
        lambda value: isinstance(value, str | None) and value in SQUARED_ERROR_NAMES,
        "only squared error ('regression') makes the prediction linear in the labels",
    ),
    Refusal("class_weight", lambda value: value is None, "a regressor has no classes; pass sample_weight to fit"),
    Refusal("reg_alpha", lambda value: value == 0, "an L1 penalty on leaf values is not linear in the labels"),
    Refusal("max_delta_step", lambda value: value == 0, "clipped leaf values are not linear in the labels"),
    Refusal("linear_tree", lambda value: not value, "linear leaves follow another algebra"),
    Refusal("monotone_constraints", lambda value: value is None, "constrained leaf values are clipped"),
)


def refuse_unsupported(params: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the parameter, for settings whose label weights are not known.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.

    Raises
    ------
    ValueError
        If a setting is not supported.
    """
    for refusal in _REFUSALS:
        value = params[refusal.parameter]
        if not refusal.accepts(value):
            raise ValueError(
                f"{refusal.parameter}={value!r} is not supported: {refusal.reason}. Leave {refusal.parameter} at its "
                "default, or use lightgbm.LGBMRegressor where no label weights are needed."
            )


def refuse_unequal_weights(params: Mapping[str, Any], weights: NDArray) -> None:
    """Raise ValueError for path smoothing with unequal weights.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.
    weights : ndarray of shape (n_train,)
        Weights of the rows.

    Raises
    ------
    ValueError
        If the rows that LightGBM smooths by cannot be counted.
    """
    if params["path_smooth"] > 0 and np.ptp(weights) > 0:
        raise ValueError(
            f"path_smooth={params['path_smooth']} is not supported with unequal sample_weight: LightGBM then smooths "
            "by row counts that it guesses from weights. Use path_smooth=0 or no sample_weight."
        )


class LightGBMParameters:
    """Constructor of an estimator over LightGBM: every parameter by name, nothing passed on unseen."""

    _parameter_constraints: ClassVar[dict] = {
        "num_leaves": [Interval(Integral, 2, None, closed="left")],
        "max_depth": [Integral],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "subsample_for_bin": [Interval(Integral, 1, None, closed="left")],
        "min_split_gain": [Interval(Real, 0, None, closed="left")],
        "min_child_weight": [Interval(Real, 0, None, closed="left")],
        "min_child_samples": [Interval(Integral, 0, None, closed="left")],
        "subsample": [Interval(Real, 0, 1, closed="right")],
        "subsample_freq": [Integral],
        "colsample_bytree": [Interval(Real, 0, 1, closed="right")],
        "reg_lambda": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state", np.random.Generator],
        "n_jobs": [Integral, None],
        "extra_trees": ["boolean"],
        "path_smooth": [Interval(Real, 0, None, closed="left")],
        "cat_l2": [Interval(Real, 0, None, closed="left")],
        "cat_smooth": [Interval(Real, 0, None, closed="left")],
        "max_cat_threshold": [Interval(Integral, 1, None, closed="left")],
        "max_cat_to_onehot": [Interval(Integral, 1, None, closed="left")],
        "min_data_per_group": [Interval(Integral, 1, None, closed="left")],
        "early_stopping_rounds": [Interval(Integral, 1, None, closed="left"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "record": ["boolean"],
    }

    def __init__(
        self,
        *,
        boosting_type: str = "gbdt",
        num_leaves: int = 31,
        max_depth: int = -1,
        learning_rate: float = 0.1,
        n_estimators: int = 100,
        subsample_for_bin: int = 200000,
        objective: str | None = None,
        class_weight: None = None,
        min_split_gain: float = 0.0,
        min_child_weight: float = 1e-3,
        min_child_samples: int = 20,
        subsample: float = 1.0,
        subsample_freq: int = 0,
        colsample_bytree: float = 1.0,
        reg_alpha: float = 0.0,
        reg_lambda: float = 0.0,
        random_state: Any = None,
        n_jobs: int | None = None,
        importance_type: str = "split",
        extra_trees: bool = False,
        path_smooth: float = 0.0,
        max_delta_step: float = 0.0,
        linear_tree: bool = False,
        monotone_constraints: None = None,
        cat_l2: float = 10.0,
        cat_smooth: float = 10.0,
        max_cat_threshold: int = 32,
        max_cat_to_onehot: int = 4,
        min_data_per_group: int = 100,
        early_stopping_rounds: int | None = None,
        validation_fraction: float = 0.1,
        record: bool = True,
    ):
        self.boosting_type = boosting_type
        self.num_leaves = num_leaves
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.n_estimators = n_estimators
        self.subsample_for_bin = subsample_for_bin
        self.objective = objective
        self.class_weight = class_weight
        self.min_split_gain = min_split_gain
        self.min_child_weight = min_child_weight
        self.min_child_samples = min_child_samples
        self.subsample = subsample
        self.subsample_freq = subsample_freq
        self.colsample_bytree = colsample_bytree
        self.reg_alpha = reg_alpha
        self.reg_lambda = reg_lambda
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.importance_type = importance_type
        self.extra_trees = extra_trees
        self.path_smooth = path_smooth
        self.max_delta_step = max_delta_step
        self.linear_tree = linear_tree
        self.monotone_constraints = monotone_constraints
        self.cat_l2 = cat_l2
        self.cat_smooth = cat_smooth
        self.max_cat_threshold = max_cat_threshold
        self.max_cat_to_onehot = max_cat_to_onehot
        self.min_data_per_group = min_data_per_group
        self.early_stopping_rounds = early_stopping_rounds
        self.validation_fraction = validation_fraction
        self.record = record
