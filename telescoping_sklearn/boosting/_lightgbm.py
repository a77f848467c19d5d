"""The only file that knows LightGBM: its parameters, its quirks, and how to read a fitted booster.

LightGBM keeps labels and weights in float32; the weights that a telescope uses are rounded the same way, the labels are
not, which is where the last digits of a reconstruction go.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import lightgbm
import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._ensemble import LeafEnsemble, compact_leaves
from telescoping_sklearn.losses import SquaredError

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
    Refusal("path_smooth", lambda value: value == 0, "smoothed leaf values follow another algebra"),
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
    if params["subsample"] < 1 and params["subsample_freq"] > 0:
        raise ValueError(
            f"subsample={params['subsample']} with subsample_freq={params['subsample_freq']} is not supported: "
            "LightGBM does not tell which rows were in the bag. Use subsample=1.0; colsample_bytree and extra_trees "
            "randomise too."
        )


def fit_booster(
    params: Mapping[str, Any],
    train: tuple[NDArray, NDArray, NDArray | None],
    validation: tuple[NDArray, NDArray, NDArray | None] | None,
    early_stopping_rounds: int | None,
) -> lightgbm.Booster:
    """Fit ``LGBMRegressor`` silently and return its booster.

    Parameters
    ----------
    params : mapping
        Parameters of ``LGBMRegressor``.
    train : tuple of X, y, sample_weight
        Rows to train on.
    validation : tuple of X, y, sample_weight, or None
        Rows that early stopping watches.
    early_stopping_rounds : int or None
        Rounds without progress on the validation rows before training stops.

    Returns
    -------
    lightgbm.Booster
        The booster; with early stopping its ``best_iteration`` is set.
    """
    X, y, sample_weight = train
    watched: dict[str, Any] = {}
    if validation is not None and early_stopping_rounds is not None:
        X_val, y_val, weight_val = validation
        watched = {
            "eval_X": X_val,
            "eval_y": y_val,
            "eval_sample_weight": None if weight_val is None else [weight_val],
            "callbacks": [lightgbm.early_stopping(early_stopping_rounds, verbose=False)],
        }
    model = lightgbm.LGBMRegressor(**params, verbosity=-1)
    return model.fit(X, y, sample_weight=sample_weight, **watched).booster_


def count_stages(booster: lightgbm.Booster) -> int:
    """Trees that predict: those built, or the best ones under early stopping."""
    return booster.best_iteration if booster.best_iteration > 0 else booster.num_trees()


class LightGBMTrees:
    """A fitted booster, read through LightGBM's own predictions only.

    Parameters
    ----------
    booster : lightgbm.Booster
        The fitted booster.
    n_stages : int
        Trees that predict.
    n_jobs : int or None
        Threads; None leaves the choice to LightGBM.
    """

    def __init__(self, booster: lightgbm.Booster, n_stages: int, n_jobs: int | None):
        self.booster = booster
        self.n_stages = n_stages
        self._options: dict[str, Any] = {"validate_features": False}
        if n_jobs is not None and n_jobs > 0:
            self._options["num_threads"] = n_jobs

    def predict(self, X: NDArray) -> NDArray:
        """Predict with all stages, (n_query,)."""
        return np.asarray(self.booster.predict(X, num_iteration=self.n_stages, **self._options))

    def find_leaves(self, X: NDArray) -> NDArray:
        """Leaf of each row in each tree, (n_stages, n_query), compactly."""
        leaves = self.booster.predict(X, pred_leaf=True, num_iteration=self.n_stages, **self._options)
        leaves = np.asarray(leaves).reshape(len(X), self.n_stages)
        return compact_leaves(np.ascontiguousarray(leaves.T), int(leaves.max(initial=0)) + 1)

    def tree_outputs(self, X: NDArray) -> Iterator[NDArray]:
        """Yield the contribution of each tree; LightGBM puts the mean label into the first."""
        for stage in range(self.n_stages):
            yield np.asarray(self.booster.predict(X, start_iteration=stage, num_iteration=1, **self._options))

    def ensemble(self, X: NDArray, row_weights: NDArray, learning_rate: float, reg_lambda: float) -> LeafEnsemble:
        """Read the ensemble off the booster.

        Parameters
        ----------
        X : ndarray of shape (n_train, n_features)
            Training rows.
        row_weights : ndarray of shape (n_train,)
            Their weights, zero for rows not trained on.
        learning_rate : float
            Shrinkage.
        reg_lambda : float
            Ridge term of the leaves.

        Returns
        -------
        LeafEnsemble
            The ensemble, library left out.
        """
        leaves = self.find_leaves(X)
        n_leaves = leaves.max(axis=1).astype(np.intp) + 1
        weights = row_weights.astype(np.float32).astype(np.float64)
        return LeafEnsemble(
            leaves=leaves,
            n_leaves=n_leaves,
            row_weights=weights,
            start_weights=SquaredError().start(weights),
            learning_rates=np.full(self.n_stages, learning_rate),
            ridge=None if reg_lambda == 0 else [np.full(count, float(reg_lambda)) for count in n_leaves],
        )
