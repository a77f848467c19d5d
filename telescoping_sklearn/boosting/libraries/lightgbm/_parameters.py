"""The parameters of boosted trees by name: defaults, ranges, and settings without known label weights."""

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

from telescoping_sklearn.boosting.libraries.lightgbm._objectives import OBJECTIVES

#: Parameters that LightGBM does not have.
_OURS = ("early_stopping_rounds", "validation_fraction", "record", "verbose", "warm_start")
#: Parameters that LightGBM is given only where they are not None.
_OPTIONAL = ("interaction_constraints", "bagging_seed", "feature_fraction_seed", "extra_seed")

#: Largest number of leaves, and largest int, that LightGBM takes.
_MOST_LEAVES, _LARGEST_INT = 131072, 2**31 - 1

_RANDOM = "use random_state, which seeds everything, or bagging_seed, feature_fraction_seed and extra_seed"
#: Other names of LightGBM's parameters, and parameters that are not supported, with what to do instead.
_NOT_PARAMETERS = {
    name: f"use {ours}"
    for ours, names in {
        "num_leaves": ("num_leaf", "max_leaves", "max_leaf", "max_leaf_nodes"),
        "learning_rate": ("shrinkage_rate", "eta"),
        "n_estimators": (
            "num_iterations",
            "num_iteration",
            "n_iter",
            "num_round",
            "num_rounds",
            "num_boost_round",
            "nrounds",
        ),
        "subsample": ("bagging_fraction", "bagging", "sub_row"),
        "subsample_freq": ("bagging_freq",),
        "colsample_bytree": ("feature_fraction", "sub_feature"),
        "colsample_bynode": ("feature_fraction_bynode", "sub_feature_bynode"),
        "min_child_samples": ("min_data_in_leaf", "min_data_per_leaf", "min_data", "min_samples_leaf"),
        "min_child_weight": ("min_sum_hessian_in_leaf", "min_sum_hessian_per_leaf", "min_sum_hessian", "min_hessian"),
        "min_split_gain": ("min_gain_to_split",),
        "reg_lambda": ("lambda_l2", "l2_regularization", "lambda"),
        "reg_alpha": ("lambda_l1", "l1_regularization"),
        "max_delta_step": ("max_tree_output", "max_leaf_output"),
        "subsample_for_bin": ("bin_construct_sample_cnt",),
        "enable_bundle": ("is_enable_bundle", "bundle"),
        "max_bin": ("max_bins",),
        "extra_trees": ("extra_tree",),
        "n_jobs": ("num_threads", "num_thread", "nthread", "nthreads"),
        "early_stopping_rounds": ("early_stopping_round", "early_stopping", "n_iter_no_change"),
        "objective": ("loss", "application", "app", "objective_type"),
    }.items()
    for name in names
} | {
    "seed": _RANDOM,
    "random_seed": _RANDOM,
    "data_random_seed": _RANDOM,
    "categorical_feature": "pass it to fit",
    "init_score": "subtract it from y",
    "boost_from_average": "boosting always starts from the mean label, or the quantile",
    "verbosity": "use verbose; LightGBM's own messages are never shown",
    "metric": "early stopping uses the loss of the objective",
    "use_quantized_grad": "rounded gradients are not linear in the labels",
    "data_sample_strategy": "goss selects rows by their gradients, which is not linear in the labels",
    "refit_decay_rate": "leaves are not refitted",
    "linear_lambda": "linear leaves are not supported",
    **dict.fromkeys(("boosting", "boost"), "only boosting_type='gbdt' is supported, and it is not given"),
    **dict.fromkeys(("mc", "monotone_constraint", "monotonic_cst"), "monotone constraints are not supported"),
}

#: Parameters of ``LGBMRegressor`` of which one value alone is supported: that value, and what is wrong with others.
_ONE_VALUE: dict[str, tuple[Any, str]] = {
    "boosting_type": ("gbdt", "dart changes earlier trees, rf averages trees and goss selects rows by their gradients"),
    "class_weight": (None, "a regressor has no classes; pass sample_weight to fit"),
    "linear_tree": (False, "the weights of linear leaves are not implemented"),
    "monotone_constraints": (None, "the values of constrained leaves depend on other leaves"),
}


def refuse_unsupported(params: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the parameter, for settings whose label weights are not known."""
    for reason in _unsupported(params).values():
        raise ValueError(reason)
    if params["objective"] == "quantile" and not 0 < np.float32(params["alpha"]) < 1:
        raise ValueError(
            f"alpha={params['alpha']} must lie between 0 and 1 with objective='quantile': it is the level of the "
            "quantile, in float32."
        )


def refuse_unknown_columns(constraints: Any, n_features: int) -> None:
    """Raise ValueError unless interaction constraints are groups of columns that exist; LightGBM does not check.

    Parameters
    ----------
    constraints : list or tuple, or None
        The parameter ``interaction_constraints``.
    n_features : int
        Number of columns of X.

    Raises
    ------
    ValueError
        If they are not.
    """

    def is_column(column: Any) -> bool:
        return isinstance(column, Integral) and not isinstance(column, bool) and int(column) in range(n_features)

    groups = () if constraints is None else constraints
    if not all(isinstance(group, list | tuple) and len(group) and all(map(is_column, group)) for group in groups):
        raise ValueError(
            f"interaction_constraints={constraints!r} must be a list of lists of column numbers from 0 to "
            f"{n_features - 1}, none of them empty, such as [[0, 1], [2]]. Leave it at None for no constraints."
        )


def _unsupported(params: Mapping[str, Any]) -> dict[str, str]:
    """Find the parameters whose settings are not supported, and why."""
    objective = params["objective"]
    if isinstance(objective, str | None) and objective in OBJECTIVES:
        return {}
    return {
        "objective": f"objective={objective!r} is not supported. Leaf values must be Newton steps or quantiles of a "
        "known loss: use 'regression', 'regression_l1', 'quantile', 'mape', 'huber', 'fair', 'poisson', 'gamma', "
        "'tweedie', 'cross_entropy', 'binary' or another of LightGBM's names for these; or use lightgbm.LGBMRegressor "
        "where no label weights are needed."
    }


def library_settings(params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Choose the parameters of ``LGBMRegressor``; with ``random_state=None`` LightGBM keeps its own fixed seeds."""
    given = {
        name: value for name, value in params.items() if name not in _OURS and not (name in _OPTIONAL and value is None)
    }
    if given.get("interaction_constraints") is not None:  # LightGBM writes lists of lists only as it reads them
        given["interaction_constraints"] = [list(group) for group in given["interaction_constraints"]]
    return given | {"random_state": None if params["random_state"] is None else seed}


def _without_removed(params: Mapping[str, Any], estimator: str, error: type[Exception]) -> dict[str, Any]:
    """Drop what is no parameter but has its one supported value; raise for names that LightGBM has and we do not."""
    kept = dict(params)
    for name, value in params.items():
        if name in _NOT_PARAMETERS:
            raise error(f"{name!r} is not a parameter of {estimator}: {_NOT_PARAMETERS[name]}.")
        if name in _ONE_VALUE:
            supported, reason = _ONE_VALUE[name]
            if value is not supported and not (isinstance(value, type(supported)) and value == supported):
                raise error(
                    f"{name}={value!r} is not supported by {estimator}: {reason}. Leave it out, or use "
                    "lightgbm.LGBMRegressor where no label weights are needed."
                )
            del kept[name]
            warnings.warn(
                f"{name} is no longer a parameter of {estimator}: {value!r} is the only value supported. Leave it out; "
                "the next release raises an error.",
                FutureWarning,
                stacklevel=3,
            )
    return kept


def _explain_others(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor say what to use for names of LightGBM's that are not its own."""
    names = signature(init).parameters

    @wraps(init)
    def init_or_explain(self: Any, **params: Any) -> None:
        estimator = type(self).__name__
        kept = _without_removed(params, estimator, TypeError)
        for name in kept.keys() - names.keys():
            raise TypeError(f"{estimator} got an unexpected keyword argument {name!r}.")
        init(self, **kept)

    return init_or_explain


class LightGBMParameters(BaseEstimator):
    """Constructor of an estimator over LightGBM: every parameter by name, nothing passed on unseen."""

    _parameter_constraints: ClassVar[dict] = {
        "num_leaves": [Interval(Integral, 2, _MOST_LEAVES, closed="both")],
        "max_depth": [Interval(Integral, -_LARGEST_INT, _LARGEST_INT, closed="both")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "n_estimators": [Interval(Integral, 1, _LARGEST_INT, closed="both")],
        "enable_bundle": ["boolean"],
        "subsample_for_bin": [Interval(Integral, 1, _LARGEST_INT, closed="both")],
        "min_split_gain": [Interval(Real, 0, None, closed="left")],
        "min_child_weight": [Interval(Real, 0, None, closed="left")],
        "min_child_samples": [Interval(Integral, 0, _LARGEST_INT, closed="both")],
        "subsample": [Interval(Real, 0, 1, closed="right")],
        "subsample_freq": [Interval(Integral, -_LARGEST_INT, _LARGEST_INT, closed="both")],
        "colsample_bytree": [Interval(Real, 0, 1, closed="right")],
        "reg_alpha": [Interval(Real, 0, None, closed="left")],
        "reg_lambda": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state", np.random.Generator],
        "n_jobs": [Integral, None],
        "importance_type": [StrOptions({"split", "gain"})],
        "extra_trees": ["boolean"],
        "path_smooth": [Interval(Real, 0, None, closed="left")],
        "max_delta_step": [Interval(Real, 0, None, closed="left")],
        "cat_l2": [Interval(Real, 0, None, closed="left")],
        "cat_smooth": [Interval(Real, 0, None, closed="left")],
        "max_cat_threshold": [Interval(Integral, 1, _LARGEST_INT, closed="both")],
        "max_cat_to_onehot": [Interval(Integral, 1, _LARGEST_INT, closed="both")],
        "colsample_bynode": [Interval(Real, 0, 1, closed="right")],
        "max_bin": [Interval(Integral, 2, _LARGEST_INT, closed="both")],
        "min_data_in_bin": [Interval(Integral, 1, _LARGEST_INT, closed="both")],
        "bagging_seed": [Interval(Integral, 0, 2**31 - 1, closed="left"), None],
        "feature_fraction_seed": [Interval(Integral, 0, 2**31 - 1, closed="left"), None],
        "extra_seed": [Interval(Integral, 0, 2**31 - 1, closed="left"), None],
        "interaction_constraints": [list, tuple, None],
        "alpha": [Interval(Real, 0, None, closed="neither")],
        "fair_c": [Interval(Real, 0, None, closed="neither")],
        "poisson_max_delta_step": [Interval(Real, 0, None, closed="neither")],
        "tweedie_variance_power": [Interval(Real, 1, 2, closed="left")],
        "warm_start": ["boolean"],
        "min_data_per_group": [Interval(Integral, 1, _LARGEST_INT, closed="both")],
        "early_stopping_rounds": [Interval(Integral, 1, _LARGEST_INT, closed="both"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "record": ["boolean"],
        "verbose": ["boolean", Integral],
    }

    @_explain_others
    def __init__(
        self,
        *,
        num_leaves: int = 31,
        max_depth: int = -1,
        learning_rate: float = 0.1,
        n_estimators: int = 100,
        subsample_for_bin: int = 200000,
        objective: str | None = None,
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
        cat_l2: float = 10.0,
        cat_smooth: float = 10.0,
        max_cat_threshold: int = 32,
        max_cat_to_onehot: int = 4,
        min_data_per_group: int = 100,
        alpha: float = 0.9,
        fair_c: float = 1.0,
        poisson_max_delta_step: float = 0.7,
        tweedie_variance_power: float = 1.5,
        colsample_bynode: float = 1.0,
        max_bin: int = 255,
        min_data_in_bin: int = 3,
        enable_bundle: bool = True,
        interaction_constraints: list | None = None,
        bagging_seed: int | None = None,
        feature_fraction_seed: int | None = None,
        extra_seed: int | None = None,
        early_stopping_rounds: int | None = None,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        record: bool = True,
        verbose: int = False,
    ):
        self.num_leaves = num_leaves
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.n_estimators = n_estimators
        self.subsample_for_bin = subsample_for_bin
        self.objective = objective
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
        self.cat_l2 = cat_l2
        self.cat_smooth = cat_smooth
        self.max_cat_threshold = max_cat_threshold
        self.max_cat_to_onehot = max_cat_to_onehot
        self.min_data_per_group = min_data_per_group
        self.alpha = alpha
        self.fair_c = fair_c
        self.poisson_max_delta_step = poisson_max_delta_step
        self.tweedie_variance_power = tweedie_variance_power
        self.colsample_bynode = colsample_bynode
        self.max_bin = max_bin
        self.min_data_in_bin = min_data_in_bin
        self.enable_bundle = enable_bundle
        self.interaction_constraints = interaction_constraints
        self.bagging_seed = bagging_seed
        self.feature_fraction_seed = feature_fraction_seed
        self.extra_seed = extra_seed
        self.early_stopping_rounds = early_stopping_rounds
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.record = record
        self.verbose = verbose

    def unsupported_params(self) -> dict[str, str]:
        """Find the parameters that `fit` refuses because no label weights are known for their settings.

        Returns
        -------
        dict of str to str
            The error of `fit` by the name of the parameter; empty where there is none.

        Examples
        --------
        >>> from telescoping_sklearn import TelescopingGBTRegressor
        >>> list(TelescopingGBTRegressor(objective="lambdarank").unsupported_params())
        ['objective']
        """
        return _unsupported(self.get_params(deep=False))

    def set_params(self, **params: Any) -> "LightGBMParameters":
        """Set parameters.

        Parameters
        ----------
        **params : dict
            Parameters by name.

        Returns
        -------
        estimator
            The estimator itself.

        Raises
        ------
        ValueError
            If a parameter is not one of the constructor's, saying what to use for LightGBM's other names.
        """
        return super().set_params(**_without_removed(params, type(self).__name__, ValueError))
