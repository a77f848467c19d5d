"""How LightGBM is called, and how a fitted booster is read.

LightGBM keeps labels and weights in float32. The weights that a telescope uses are rounded the same way, and so are the
labels at which it takes the derivatives of a curved loss; elsewhere labels are not rounded, which is where the last
digits of a reconstruction go.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from telescoping_sklearn._memory import items_per_block, refuse_if_too_large
from telescoping_sklearn.boosting._bagging import BaggingPlan, find_bags, stack_bags
from telescoping_sklearn.boosting._curvature import CurvaturePath
from telescoping_sklearn.boosting._ensemble import Bags, LeafEnsemble, compact_leaves
from telescoping_sklearn.boosting._parameters import curved_loss
from telescoping_sklearn.boosting._rows import Rows
from telescoping_sklearn.boosting._tree_text import (
    TreeText,
    bins_of_categories,
    node_ridges,
    parse_trees,
    path_mixing,
    text_parameter,
)
from telescoping_sklearn.losses import SquaredError


def fit_booster(
    params: Mapping[str, Any],
    train: Rows,
    validation: Rows | None = None,
    early_stopping_rounds: int | None = None,
    categorical: Sequence[int] = (),
    earlier: lightgbm.Booster | None = None,
    *,
    verbose: bool = False,
) -> tuple[lightgbm.Booster, BaggingPlan | None]:
    """Fit ``LGBMRegressor``, whose own messages are silenced.

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
    earlier : lightgbm.Booster, default=None
        Booster whose trees the new ones follow.
    verbose : bool, default=False
        Whether to show progress.

    Returns
    -------
    booster : lightgbm.Booster
        The booster; with early stopping its ``best_iteration`` is the number of trees at the best attempt.
    plan : BaggingPlan or None
        How its bags were drawn; None without bagging.
    """
    bagging = params["subsample"] < 1 and params["subsample_freq"] > 0
    trees_after = [0 if earlier is None else earlier.num_trees()]
    options: dict[str, Any] = {"init_model": earlier, "callbacks": [_note_trees(trees_after)]}
    if categorical:
        options["categorical_feature"] = list(categorical)
    if validation is not None and early_stopping_rounds is not None:
        weights = validation.sample_weight
        options |= {
            "eval_X": validation.X,
            "eval_y": validation.y,
            "eval_sample_weight": None if weights is None else [weights],
        }
        options["callbacks"].append(lightgbm.early_stopping(early_stopping_rounds, verbose=False))
    model = lightgbm.LGBMRegressor(**params, verbosity=-1)
    with tqdm(total=params["n_estimators"], desc="trees grown", leave=False, disable=not verbose) as bar:
        if verbose:
            options["callbacks"].append(_advance(bar))
        booster = model.fit(train.X, train.y, sample_weight=train.sample_weight, **options).booster_
    if booster.best_iteration > 0:  # LightGBM counts attempts to grow a tree, and not every attempt gives one
        booster.best_iteration = trees_after[booster.best_iteration - trees_after[0]]
    if not bagging:
        return booster, None
    seed = int(text_parameter(booster.model_to_string(num_iteration=1), "bagging_seed"))
    grown = tuple((np.diff(trees_after) > 0).tolist())
    return booster, BaggingPlan(params["subsample"], params["subsample_freq"], seed, grown)


def _note_trees(trees_after: list[int]) -> Callable[[Any], None]:
    """Make a callback that notes the number of trees after every attempt to grow one."""

    def note(env: Any) -> None:
        trees_after.append(env.model.num_trees())

    note.order = 0  # type: ignore[attr-defined]  # before early stopping ends the training
    return note


def _advance(bar: tqdm) -> Callable[[Any], None]:
    """Make a callback that moves a progress bar."""

    def advance(env: Any) -> None:
        bar.update()

    advance.order = 0  # type: ignore[attr-defined]  # before early stopping ends the training
    return advance


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
    label_shift : float, default=0.0
        What was taken off the labels that the booster was trained on; predictions get it back.
    """

    def __init__(self, booster: lightgbm.Booster, n_stages: int, n_jobs: int | None, label_shift: float = 0.0):
        self.booster = booster
        self.n_stages = n_stages
        self.label_shift = label_shift
        self._options: dict[str, Any] = {"validate_features": False}
        if n_jobs is not None and n_jobs > 0:
            self._options["num_threads"] = n_jobs

    def predict(self, X: NDArray, *, raw: bool = False) -> NDArray:
        """Predict with all stages, means or raw scores, (n_query,)."""
        predicted = self.booster.predict(X, num_iteration=self.n_stages, raw_score=raw, **self._options)
        return np.asarray(predicted) + self.label_shift

    def find_leaves(self, X: NDArray) -> NDArray:
        """Leaf of each row in each tree, (n_stages, n_query), compactly."""
        size = items_per_block(16.0 * self.n_stages, max(len(X), 1))  # LightGBM gives wide numbers
        blocks = [self._leaves_of(X[first : first + size]) for first in range(0, len(X), size)]
        return np.concatenate(blocks, axis=1) if blocks else np.empty((self.n_stages, 0), np.uint8)

    def _leaves_of(self, X: NDArray) -> NDArray:
        leaves = self.booster.predict(X, pred_leaf=True, num_iteration=self.n_stages, **self._options)
        leaves = np.asarray(leaves).reshape(len(X), self.n_stages)
        return compact_leaves(np.ascontiguousarray(leaves.T), int(leaves.max(initial=0)) + 1)

    def tree_outputs(self, X: NDArray) -> Iterator[NDArray]:
        """Yield what each tree adds to the raw score; LightGBM puts the start into the first."""
        one: dict[str, Any] = {"num_iteration": 1, "raw_score": True}
        for stage in range(self.n_stages):
            output = np.asarray(self.booster.predict(X, start_iteration=stage, **one, **self._options))
            yield output if stage else output + self.label_shift

    def ensemble(
        self,
        X: NDArray,
        y: NDArray,
        row_weights: NDArray,
        given: NDArray,
        params: Mapping[str, Any],
        plans: Sequence[tuple[int, BaggingPlan]] = (),
    ) -> LeafEnsemble:
        """Read the ensemble off the booster.

        Parameters
        ----------
        X : ndarray of shape (n_train, n_features)
            Training rows.
        y : ndarray of shape (n_train,)
            Their labels, as LightGBM was given them.
        row_weights : ndarray of shape (n_train,)
            Their weights, zero for rows not trained on.
        given : ndarray of int
            Rows that LightGBM was given.
        params : mapping
            Parameters that it was given.
        plans : sequence of (int, BaggingPlan), default=()
            Number of trees before each stretch of training, and how its bags were drawn; nothing without bagging.

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
        start, path = SquaredError().start(weights), None
        if (loss := curved_loss(params)) is not None:
            y = y.astype(np.float32).astype(np.float64)
            raw, start = loss.start(weights, y)
            values = [tree.leaf_value for tree in trees]
            values[0] = values[0] - raw
            path = CurvaturePath(loss, y, raw, leaves, values)
        ensemble = LeafEnsemble(
            leaves=leaves,
            n_leaves=np.array([tree.n_leaves for tree in trees]),
            row_weights=weights,
            start_weights=start,
            learning_rates=np.full(self.n_stages, params["learning_rate"]),
            ridge=[of_leaves for _, of_leaves in ridges] if params["reg_lambda"] > 0 or many.any() else None,
            bags=_bags(trees, leaves, given, plans) if plans else None,
            curvature=path,
        )
        return _smoothed(ensemble, trees, ridges, params) if params["path_smooth"] > 0 else ensemble


def later_seeds(booster: lightgbm.Booster, n_stages: int) -> dict[str, int]:
    """Choose seeds for trees that follow others, so that they do not draw again what those drew.

    Parameters
    ----------
    booster : lightgbm.Booster
        The booster so far.
    n_stages : int
        Its trees.

    Returns
    -------
    dict
        Seeds by the names of LightGBM's parameters.
    """
    text = booster.model_to_string(num_iteration=1)
    names = ("bagging_seed", "feature_fraction_seed", "extra_seed")
    return {name: (int(text_parameter(text, name)) + 1_000_003 * n_stages) % (2**31 - 1) for name in names}


def first_trees(booster: lightgbm.Booster, n_stages: int) -> lightgbm.Booster:
    """Cut a booster to its first trees: a copy, where there are more."""
    if booster.num_trees() == n_stages:
        return booster
    return lightgbm.Booster(model_str=booster.model_to_string(num_iteration=n_stages))


def _bags(trees: list[TreeText], leaves: NDArray, given: NDArray, plans: Sequence[tuple[int, BaggingPlan]]) -> Bags:
    """Bags of all trees over all training rows; see `_bagging`."""
    ends = [first for first, _ in plans[1:]] + [len(trees)]
    found = [
        find_bags(plan, leaves[first:end, given], [tree.leaf_count for tree in trees[first:end]])
        for (first, plan), end in zip(plans, ends, strict=True)
    ]
    return stack_bags(found, given, leaves.shape[1])


def _smoothed(
    ensemble: LeafEnsemble,
    trees: list[TreeText],
    ridges: list[tuple[NDArray, NDArray]],
    params: Mapping[str, Any],
) -> LeafEnsemble:
    """Give an ensemble the mixing of its leaf values under path smoothing."""
    refuse_if_too_large(
        16.0 * float((ensemble.n_leaves.astype(float) ** 2).sum()),  # held here and by the groups that are solved
        f"path_smooth={params['path_smooth']} mixes every two leaves of a tree; that of {ensemble.n_stages} trees",
        "Use fewer trees, a smaller num_leaves, or path_smooth=0.",
    )
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
