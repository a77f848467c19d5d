"""How LightGBM is called, and how a fitted booster is read.

LightGBM keeps labels and weights in float32; the weights that a telescope uses are rounded the same way, the labels are
not, which is where the last digits of a reconstruction go.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import lightgbm
import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._bagging import BaggingPlan, find_bags, stack_bags
from telescoping_sklearn.boosting._ensemble import Bags, LeafEnsemble, compact_leaves
from telescoping_sklearn.boosting._tree_text import (
    TreeText,
    bins_of_categories,
    node_ridges,
    parse_trees,
    path_mixing,
    text_parameter,
)
from telescoping_sklearn.losses import SquaredError


class Rows(NamedTuple):
    """Rows given to LightGBM; weights of None take a faster path of its own than ones."""

    X: NDArray
    y: NDArray
    sample_weight: NDArray | None


def fit_booster(
    params: Mapping[str, Any],
    train: Rows,
    validation: Rows | None = None,
    early_stopping_rounds: int | None = None,
    categorical: Sequence[int] = (),
) -> lightgbm.Booster:
    """Fit ``LGBMRegressor`` silently and return its booster.

    Parameters
    ----------
    params : mapping
        Parameters of ``LGBMRegressor``.
    train : Rows
        Rows to train on.
    validation : Rows, default=None
        Rows that early stopping watches.
    early_stopping_rounds : int, default=None
        Rounds without progress on the validation rows before training stops.
    categorical : sequence of int, default=()
        Positions of the columns that hold codes of categories.

    Returns
    -------
    lightgbm.Booster
        The booster; with early stopping its ``best_iteration`` is set.
    """
    options: dict[str, Any] = {"categorical_feature": list(categorical)} if len(categorical) else {}
    if validation is not None and early_stopping_rounds is not None:
        weights = validation.sample_weight
        options |= {
            "eval_X": validation.X,
            "eval_y": validation.y,
            "eval_sample_weight": None if weights is None else [weights],
            "callbacks": [lightgbm.early_stopping(early_stopping_rounds, verbose=False)],
        }
    model = lightgbm.LGBMRegressor(**params, verbosity=-1)
    return model.fit(train.X, train.y, sample_weight=train.sample_weight, **options).booster_


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

    def ensemble(self, X: NDArray, row_weights: NDArray, given: NDArray, params: Mapping[str, Any]) -> LeafEnsemble:
        """Read the ensemble off the booster.

        Parameters
        ----------
        X : ndarray of shape (n_train, n_features)
            Training rows.
        row_weights : ndarray of shape (n_train,)
            Their weights, zero for rows not trained on.
        given : ndarray of int
            Rows that LightGBM was given.
        params : mapping
            Parameters that it was given.

        Returns
        -------
        LeafEnsemble
            The ensemble, library left out.

        Raises
        ------
        ValueError
            If the bags that the trees saw cannot be found.
        """
        leaves = self.find_leaves(X)
        weights = row_weights.astype(np.float32).astype(np.float64)
        text = self.booster.model_to_string(num_iteration=self.n_stages)
        trees = list(parse_trees(text))
        many = bins_of_categories(text) > params["max_cat_to_onehot"]
        ridges = [node_ridges(tree, many, params["reg_lambda"], params["cat_l2"]) for tree in trees]
        ensemble = LeafEnsemble(
            leaves=leaves,
            n_leaves=np.array([tree.n_leaves for tree in trees]),
            row_weights=weights,
            start_weights=SquaredError().start(weights),
            learning_rates=np.full(self.n_stages, params["learning_rate"]),
            ridge=[of_leaves for _, of_leaves in ridges] if params["reg_lambda"] > 0 or many.any() else None,
            bags=self._bags(text, trees, leaves, given, params) if bags_rows(params) else None,
        )
        return _smoothed(ensemble, trees, ridges, params) if params["path_smooth"] > 0 else ensemble

    def _bags(
        self, text: str, trees: list[TreeText], leaves: NDArray, given: NDArray, params: Mapping[str, Any]
    ) -> Bags:
        """Bags of all trees over all training rows; see `_bagging`."""
        plan = BaggingPlan(
            fraction=params["subsample"],
            freq=params["subsample_freq"],
            seed=int(text_parameter(text, "bagging_seed")),
            most=params["n_estimators"],
        )
        found = find_bags(plan, leaves[:, given], [tree.leaf_count for tree in trees])
        return stack_bags([found], given, leaves.shape[1])


def bags_rows(params: Mapping[str, Any]) -> bool:
    """Whether every tree sees a bag of the rows only."""
    return params["subsample"] < 1 and params["subsample_freq"] > 0


def _smoothed(
    ensemble: LeafEnsemble,
    trees: list[TreeText],
    ridges: list[tuple[NDArray, NDArray]],
    params: Mapping[str, Any],
) -> LeafEnsemble:
    """Give an ensemble the mixing of its leaf values under path smoothing."""
    mixing = [
        path_mixing(
            tree,
            ensemble.leaf_sums(stage, ensemble.stage_weights(stage)),
            ridges[stage - 1],
            params["path_smooth"],
            params["learning_rate"],
        )
        for stage, tree in enumerate(trees, start=1)
    ]
    return replace(ensemble, mixing=mixing)
