"""The parameters of boosted trees by name: defaults, ranges, and which settings have no label weights."""

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

from telescoping_sklearn.boosting._quantile_leaves import QuantileLoss
from telescoping_sklearn.losses import CurvedLoss, Fair, Gamma, Logistic, Poisson, Tweedie

#: Parameters that are not LightGBM's.
OURS = ("early_stopping_rounds", "validation_fraction", "record", "verbose", "warm_start")
#: Parameters that are given to LightGBM only where they are not None.
_OPTIONAL = ("interaction_constraints", "bagging_seed", "feature_fraction_seed", "extra_seed")

#: Largest number of leaves, and largest int, that LightGBM takes.
_MOST_LEAVES, _LARGEST_INT = 131072, 2**31 - 1

_RANDOM = "random_state seeds everything; bagging_seed, feature_fraction_seed and extra_seed seed their part alone"
_ELSEWHERE = {
    name: f"it is called {ours} here"
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
        "boosting_type": ("boosting", "boost"),
        "n_jobs": ("num_threads", "num_thread", "nthread", "nthreads"),
        "early_stopping_rounds": ("early_stopping_round", "early_stopping", "n_iter_no_change"),
        "monotone_constraints": ("mc", "monotone_constraint", "monotonic_cst"),
    }.items()
    for name in names
} | {
    "seed": _RANDOM,
    "random_seed": _RANDOM,
    "data_random_seed": _RANDOM,
    "categorical_feature": "give it to fit",
    "init_score": "it would add to the prediction what no label set; subtract it from y",
    "boost_from_average": "boosting starts from the mean label, or the quantile",
    "verbosity": "LightGBM prints nothing; verbose=True shows progress",
    "metric": "early stopping watches the loss",
    "use_quantized_grad": "rounded gradients are not linear in the labels",
    "data_sample_strategy": "goss picks rows by their gradients, which is not linear in the labels",
    "refit_decay_rate": "models are not refitted",
    "linear_lambda": "linear leaves follow another algebra",
}
SQUARED_ERROR_NAMES = (
    *(None, "regression", "regression_l2", "l2", "mean_squared_error", "mse"),
    *("l2_root", "root_mean_squared_error", "rmse"),
)

#: Losses on a raw score, made from the estimator's parameters.
CURVED_LOSSES: dict[str, Callable[[Mapping[str, Any]], CurvedLoss]] = {
    "poisson": lambda params: Poisson(params["poisson_max_delta_step"]),
    "gamma": lambda params: Gamma(),
    "tweedie": lambda params: Tweedie(params["tweedie_variance_power"]),
    "cross_entropy": lambda params: Logistic(),
    "xentropy": lambda params: Logistic(),
    "binary": lambda params: Logistic(binary=True),
    "fair": lambda params: Fair(params["fair_c"]),
}

#: Losses whose leaves are quantiles of residuals, made from the estimator's parameters; alpha as LightGBM keeps it.
QUANTILE_LOSSES: dict[str, Callable[[Mapping[str, Any]], QuantileLoss]] = {
    **dict.fromkeys(("regression_l1", "l1", "mean_absolute_error", "mae"), lambda params: QuantileLoss(0.5)),
    **dict.fromkeys(("mape", "mean_absolute_percentage_error"), lambda params: QuantileLoss(0.5, relative=True)),
    "quantile": lambda params: QuantileLoss(float(np.float32(params["alpha"]))),
}


def curved_loss(params: Mapping[str, Any]) -> CurvedLoss | None:
    """Make the loss of an estimator; None for squared error.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.

    Returns
    -------
    CurvedLoss or None
        The loss.
    """
    objective = params["objective"]
    return CURVED_LOSSES[objective](params) if objective in CURVED_LOSSES else None


def quantile_loss(params: Mapping[str, Any]) -> QuantileLoss | None:
    """Make the loss of an estimator whose leaves are quantiles of residuals; None for other losses.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.

    Returns
    -------
    QuantileLoss or None
        The loss.
    """
    objective = params["objective"]
    return QUANTILE_LOSSES[objective](params) if objective in QUANTILE_LOSSES else None


def huber_width(params: Mapping[str, Any]) -> float | None:
    """Give the size of a residual beyond which Huber's loss clips it; None for other losses.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.

    Returns
    -------
    float or None
        The size.
    """
    return params["alpha"] if params["objective"] == "huber" else None


def follows_shifts(params: Mapping[str, Any]) -> bool:
    """Whether the trees of an objective stay as they are, and predictions move along, where all labels are shifted.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.

    Returns
    -------
    bool
        True for losses of y - f whose telescope is a smoother.
    """
    quantile = quantile_loss(params)
    return params["objective"] in (*SQUARED_ERROR_NAMES, "huber") or (quantile is not None and not quantile.relative)


class Refusal(NamedTuple):
    """A setting whose leaves are not weighted means of the labels that we can rebuild."""

    parameter: str
    accepts: Callable[[Any], bool]
    reason: str


_OBJECTIVES = (*SQUARED_ERROR_NAMES, "huber", *QUANTILE_LOSSES, *CURVED_LOSSES)
_REFUSALS = (
    Refusal("boosting_type", lambda value: value == "gbdt", "only 'gbdt' adds one fixed stage after the other"),
    Refusal(
        "objective",
        lambda value: isinstance(value, str | None) and value in _OBJECTIVES,
        "leaves must be Newton steps or quantiles: "
        + ", ".join(
            f"{name!r}"
            for name in (
                *("regression", "regression_l1", "quantile", "mape", "huber", "fair"),
                *("poisson", "gamma", "tweedie", "cross_entropy", "binary"),
            )
        )
        + " and LightGBM's other names for them; of a function we know no derivatives",
    ),
    Refusal("class_weight", lambda value: value is None, "a regressor has no classes; pass sample_weight to fit"),
    Refusal("linear_tree", lambda value: not value, "linear leaves follow another algebra"),
    Refusal("monotone_constraints", lambda value: value is None, "constrained leaf values depend on other leaves"),
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
    return {
        name: f"{name}={params[name]!r} is not supported: {reason}. Leave {name} at its default, or use "
        "lightgbm.LGBMRegressor where no label weights are needed."
        for name, accepts, reason in _REFUSALS
        if not accepts(params[name])
    }


def library_settings(params: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Choose what LightGBM is given.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.
    seed : int
        The fit's seed.

    Returns
    -------
    dict
        Parameters of ``LGBMRegressor``; with ``random_state=None`` its own fixed seeds stay.
    """
    given = {
        name: value for name, value in params.items() if name not in OURS and not (name in _OPTIONAL and value is None)
    }
    if given.get("interaction_constraints") is not None:  # LightGBM writes lists of lists only as it reads them
        given["interaction_constraints"] = [list(group) for group in given["interaction_constraints"]]
    return given | {"random_state": None if params["random_state"] is None else seed}


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
        "verbose": ["verbose"],
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
        verbose: bool = False,
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
            What `fit` says of each, by its name; empty where it refuses none.

        Examples
        --------
        >>> from telescoping_sklearn import TelescopingGBTRegressor
        >>> list(TelescopingGBTRegressor(objective="lambdarank", linear_tree=True).unsupported_params())
        ['objective', 'linear_tree']
        """
        return _unsupported(self.get_params(deep=False))

    def set_params(self, **params: Any) -> "LightGBMParameters":
        """Set parameters; names of LightGBM's that are not taken here are refused with what to use.

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
            If a parameter is not one of the constructor's.
        """
        for name in params:
            if name in _ELSEWHERE:
                raise ValueError(f"{name!r} is not a parameter of {type(self).__name__}: {_ELSEWHERE[name]}.")
        return super().set_params(**params)


# An argument that does not exist is told as the estimator's, whose constructor this is.
LightGBMParameters.__init__.__qualname__ = "TelescopingGBTRegressor.__init__"
