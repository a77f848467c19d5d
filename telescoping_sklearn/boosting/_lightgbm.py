"""How LightGBM is called, and how a fitted booster is read.

LightGBM keeps labels and weights in float32. The weights that a telescope uses are rounded the same way, and so are the
labels at which it takes the derivatives of a curved loss; elsewhere labels are not rounded, which is where the last
digits of a reconstruction go.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from telescoping_sklearn._memory import items_per_block
from telescoping_sklearn.boosting._bagging import BaggingPlan, find_bags, stack_bags
from telescoping_sklearn.boosting._ensemble import LeafEnsemble, RowSets, compact_leaves
from telescoping_sklearn.boosting._newton_leaves import newton_ensemble
from telescoping_sklearn.boosting._parameters import curved_loss, huber_width, quantile_loss
from telescoping_sklearn.boosting._placement import Placement, may_bundle, refuse_misplaced
from telescoping_sklearn.boosting._quantile_leaves import quantile_ensemble
from telescoping_sklearn.boosting._replay import GrownTrees
from telescoping_sklearn.boosting._rows import SAFE_GUESSED_SAMPLES, Rows
from telescoping_sklearn.boosting._tree_text import (
    TreeText,
    bins_of_categories,
    node_ridges,
    parse_trees,
    text_parameter,
)


def fit_booster(
    params: Mapping[str, Any],
    train: Rows,
    validation: Rows | None = None,
    early_stopping_rounds: int | None = None,
    categorical: Sequence[int] = (),
    earlier: lightgbm.Booster | None = None,
    *,
    rows: NDArray | None = None,
    record: bool = True,
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
    rows : ndarray of int of shape (n_rows,), default=None
        Positions of the rows in what the user gave, for messages; None where they are all.
    record : bool, default=True
        Whether labels will be asked for their weights.
    verbose : bool, default=False
        Whether to show progress.

    Returns
    -------
    booster : lightgbm.Booster
        The booster; with early stopping its ``best_iteration`` is the number of trees at the best attempt.
    plan : BaggingPlan or None
        How its bags were drawn; None without bagging.

    Raises
    ------
    ValueError
        If training put rows into other leaves than predictions do, and ``record`` is True; or if LightGBM aborts for a
        reason that is known.
    """
    compared = record and may_bundle(train.X, params)
    placement = Placement(train.X, _threads(params["n_jobs"]))
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
        stop = lightgbm.early_stopping(early_stopping_rounds, verbose=False)
        options["callbacks"].append(placement.wrapped(stop) if compared else stop)
    elif compared:
        options["callbacks"].append(placement)
    model = lightgbm.LGBMRegressor(**params, verbosity=-1)
    with tqdm(total=params["n_estimators"], desc="trees grown", leave=False, disable=not verbose) as bar:
        if verbose:
            options["callbacks"].append(_advance(bar))
        try:
            booster = model.fit(train.X, train.y, sample_weight=train.sample_weight, **options).booster_
        except lightgbm.basic.LightGBMError as error:
            _explain_abort(params, train, error)
            raise
    refuse_misplaced(placement.misplaced, len(train.y), rows, params)
    if booster.best_iteration > 0:  # LightGBM counts attempts to grow a tree, and not every attempt gives one
        booster.best_iteration = trees_after[booster.best_iteration - trees_after[0]]
    if not bagging:
        return booster, None
    seed = int(text_parameter(booster.model_to_string(num_iteration=1), "bagging_seed"))
    grown = tuple((np.diff(trees_after) > 0).tolist())
    return booster, BaggingPlan(params["subsample"], params["subsample_freq"], seed, grown)


def _explain_abort(params: Mapping[str, Any], train: Rows, error: Exception) -> None:
    """Raise ValueError that says what to do where LightGBM aborts on a leaf without rows and the cause is known."""
    if not re.search(r"best_split_info\.(left|right)_count", str(error)):
        return
    loss, unequal = quantile_loss(params), train.sample_weight is not None and np.ptp(train.sample_weight) > 0
    if loss is not None and loss.relative and unequal:
        raise ValueError(
            f"objective={params['objective']!r} with unequal sample_weight made LightGBM abort: it takes the "
            "hessians of rows for equal, and finds splits that leave no row on one side. Use "
            "objective='regression_l1' with sample_weight / np.maximum(1, np.abs(y)): its leaves are the same "
            "quantiles."
        ) from error
    if (unequal or curved_loss(params) is not None) and params["min_child_samples"] < SAFE_GUESSED_SAMPLES:
        raise ValueError(
            f"min_child_samples={params['min_child_samples']} with min_child_weight={params['min_child_weight']} made "
            "LightGBM abort: it took rounding errors of large hessians for the rows of a leaf. Use a larger "
            f"min_child_weight, or min_child_samples={SAFE_GUESSED_SAMPLES} or more."
        ) from error


def _threads(n_jobs: int | None) -> int:
    """Threads as LightGBM's predictions take them; 0 leaves the choice to LightGBM."""
    return n_jobs if n_jobs is not None and n_jobs > 0 else 0


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
        self._options: dict[str, Any] = {"validate_features": False, "num_threads": _threads(n_jobs)}
        self.label_shift = label_shift

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
        train: Rows,
        given: NDArray,
        params: Mapping[str, Any],
        plans: Sequence[tuple[int, BaggingPlan]] = (),
    ) -> LeafEnsemble:
        """Read the ensemble off the booster.

        Parameters
        ----------
        train : Rows
            Training rows, those that LightGBM was not given included, their labels as it was
            given them.
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
        leaves = self.find_leaves(train.X)
        text = self.booster.model_to_string(num_iteration=self.n_stages)
        trees = list(parse_trees(text))
        row_weights, was_given = np.zeros(len(train.y)), np.zeros(len(train.y), dtype=bool)
        row_weights[given] = 1.0 if train.sample_weight is None else train.sample_weight[given].astype(np.float32)
        was_given[given] = True
        bags = _bags(trees, leaves, given, plans) if plans else None
        grown = GrownTrees(trees, leaves, train.y.astype(np.float32).astype(np.float64), row_weights, was_given, bags)
        if (quantile := quantile_loss(params)) is not None:
            return quantile_ensemble(grown, quantile, train.sample_weight, params["learning_rate"])
        many = bins_of_categories(text) > params["max_cat_to_onehot"]
        ridges = [node_ridges(tree, many, params["reg_lambda"], params["cat_l2"]) for tree in trees]
        return newton_ensemble(grown, ridges, curved_loss(params), huber_width(params), params)


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


def _bags(trees: list[TreeText], leaves: NDArray, given: NDArray, plans: Sequence[tuple[int, BaggingPlan]]) -> RowSets:
    """Bags of all trees over all training rows; see `_bagging`."""
    ends = [first for first, _ in plans[1:]] + [len(trees)]
    found = [
        find_bags(plan, leaves[first:end, given], [tree.leaf_count for tree in trees[first:end]])
        for (first, plan), end in zip(plans, ends, strict=True)
    ]
    return stack_bags(found, given, leaves.shape[1])
