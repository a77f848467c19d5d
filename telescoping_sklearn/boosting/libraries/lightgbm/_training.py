"""Calling LightGBM: one fit, or one that adds trees to an earlier fit, and what is noted while it runs."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from lightgbm.callback import EarlyStopException
from tqdm.auto import tqdm

from telescoping_sklearn._fit_tasks import FitTasks
from telescoping_sklearn.boosting.libraries.lightgbm._bagging import BagDraws
from telescoping_sklearn.boosting.libraries.lightgbm._fit_record import FitRecord
from telescoping_sklearn.boosting.libraries.lightgbm._objectives import non_quadratic_loss, quantile_loss
from telescoping_sklearn.boosting.libraries.lightgbm._parameters import library_settings
from telescoping_sklearn.boosting.libraries.lightgbm._placement import Placement, may_bundle, refuse_misplaced
from telescoping_sklearn.boosting.libraries.lightgbm._rows import SAFE_ESTIMATED_SAMPLES, Rows
from telescoping_sklearn.boosting.libraries.lightgbm._tree_text import text_parameter

#: Parameters that seed the draws of a booster.
_SEEDS = ("bagging_seed", "feature_fraction_seed", "extra_seed")


def fit_booster(
    new: FitRecord,
    trained: Rows,
    validation_rows: Rows | None,
    seed: int,
    watch: "Watch",
    earlier: lightgbm.Booster | None = None,
) -> tuple[lightgbm.Booster, BagDraws | None]:
    """Fit ``LGBMRegressor``, with its own messages silenced, or add trees to an ``earlier`` booster.

    Parameters
    ----------
    new : FitRecord
        What the fit is given.
    trained, validation_rows : Rows
        Its rows to train on, and those for early stopping (None for none).
    seed : int
        Seed of the fit.
    watch : Watch
        What the estimator's callbacks are told, and how they end the fit.
    earlier : lightgbm.Booster, default=None
        Booster to which trees are added.

    Returns
    -------
    booster : lightgbm.Booster
        The booster. With early stopping, its ``best_iteration`` is the number of trees at the best iteration. Where a
        callback ended the fit, it is that of the iterations so far, of all of them without early stopping.
    plan : BagDraws or None
        How its bags were drawn; None without bagging.
    """
    params = new.params
    settings = library_settings(params, seed)
    if earlier is not None:
        settings |= _later_seeds(earlier) | {"n_estimators": params["n_estimators"] - earlier.num_trees()}
    compared = params["record"] and may_bundle(trained.X, params)
    placement = Placement(trained.X, prediction_threads(params["n_jobs"]))
    trees_after = [0 if earlier is None else earlier.num_trees()]
    options: dict[str, Any] = {"init_model": earlier, "callbacks": [_note_trees(trees_after), _begin(watch)]}
    if new.categorical:
        options["categorical_feature"] = list(new.categorical)
    if validation_rows is not None and params["early_stopping_rounds"] is not None:
        weights = None if validation_rows.sample_weight is None else [validation_rows.sample_weight]
        options |= {"eval_X": validation_rows.X, "eval_y": validation_rows.y, "eval_sample_weight": weights}
        end = _end(watch, trees_after, lightgbm.early_stopping(params["early_stopping_rounds"], verbose=False))
    else:
        end = _end(watch, trees_after)
        if compared:
            options["callbacks"].append(placement)
    options["callbacks"].append(placement.wrapped(end) if compared else end)
    model = lightgbm.LGBMRegressor(**settings, verbosity=-1)
    verbose = params["verbose"] > 0
    with tqdm(total=settings["n_estimators"], desc="trees grown", leave=False, disable=not verbose) as bar:
        if verbose:
            options["callbacks"].append(_advance(bar))
        try:
            booster = model.fit(trained.X, trained.y, sample_weight=trained.sample_weight, **options).booster_
        except lightgbm.basic.LightGBMError as error:
            _explain_abort(params, trained, error)
            raise
    refuse_misplaced(placement.misplaced, len(trained.y), new.given, params)
    if booster.best_iteration > 0:  # LightGBM counts iterations, and an iteration may grow no tree
        booster.best_iteration = trees_after[booster.best_iteration - trees_after[0]]
    if not (params["subsample"] < 1 and params["subsample_freq"] > 0):
        return booster, None
    bagging_seed = int(text_parameter(booster.model_to_string(num_iteration=1), "bagging_seed"))
    grown = tuple((np.diff(trees_after) > 0).tolist())
    return booster, BagDraws(params["subsample"], params["subsample_freq"], bagging_seed, grown)


def _explain_abort(params: Mapping[str, Any], train: Rows, error: Exception) -> None:
    """Raise ValueError with a remedy where LightGBM aborts on a leaf without rows and the cause is known."""
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
    if (unequal or non_quadratic_loss(params) is not None) and params["min_child_samples"] < SAFE_ESTIMATED_SAMPLES:
        raise ValueError(
            f"min_child_samples={params['min_child_samples']} with min_child_weight={params['min_child_weight']} made "
            "LightGBM abort: it took rounding errors of large hessians for the rows of a leaf. Use a larger "
            f"min_child_weight, or min_child_samples={SAFE_ESTIMATED_SAMPLES} or more."
        ) from error


def prediction_threads(n_jobs: int | None) -> int:
    """Threads of LightGBM's predictions; 0 leaves the choice to LightGBM."""
    return n_jobs if n_jobs is not None and n_jobs > 0 else 0


def _note_trees(trees_after: list[int]) -> Callable[[Any], None]:
    """Make a callback that records the number of trees after every iteration."""

    def note(env: Any) -> None:
        trees_after.append(env.model.num_trees())

    note.order = 0  # type: ignore[attr-defined]  # before early stopping ends the training
    return note


@dataclass(frozen=True)
class Watch:
    """The tasks of a fit, and what the estimator would have learnt after so many trees of a booster."""

    tasks: FitTasks
    learnt: Callable[[lightgbm.Booster, int], dict[str, Any]]


def _begin(watch: Watch) -> Callable[[Any], None]:
    """Make a callback that begins the task of an iteration."""

    def begin(env: Any) -> None:
        watch.tasks.begin("boosting iteration")

    begin.before_iteration = True  # type: ignore[attr-defined]
    return begin


def _end(
    watch: Watch, trees_after: list[int], early_stopping: Callable[[Any], None] | None = None
) -> Callable[[Any], None]:
    """Make a callback that ends the task of an iteration, and the training where it or early stopping asks for it."""
    best: list[tuple[float, int]] = []  # score, signed so that less is better, and number, of the best iteration

    def end(env: Any) -> None:
        stopped = None
        try:
            if early_stopping is not None:
                early_stopping(env)
        except EarlyStopException as exception:
            stopped = exception
        kept = env.iteration
        if early_stopping is not None:  # the best, as LightGBM finds it
            result = env.evaluation_result_list[0]
            score = -result.metric_value if result.maximize else result.metric_value
            if not best or score < best[0][0]:
                best[:] = [(score, env.iteration)]
            kept = best[0][1]
        n_trees = trees_after[kept - trees_after[0] + 1]
        if watch.tasks.end(lambda: watch.learnt(env.model, n_trees)) and stopped is None:
            stopped = EarlyStopException(kept, env.evaluation_result_list or [])
        if stopped is not None:
            raise stopped

    end.order = 30  # type: ignore[attr-defined]  # after trees are noted
    return end


def _advance(bar: tqdm) -> Callable[[Any], None]:
    """Make a callback that moves a progress bar."""

    def advance(env: Any) -> None:
        bar.update()

    advance.order = 0  # type: ignore[attr-defined]  # before early stopping ends the training
    return advance


def count_stages(booster: lightgbm.Booster) -> int:
    """Trees that predict: all of them, or those of the best iteration under early stopping."""
    return booster.best_iteration if booster.best_iteration > 0 else booster.num_trees()


def first_trees(booster: lightgbm.Booster, n_stages: int) -> lightgbm.Booster:
    """Return the booster of the first trees: a copy where there are more."""
    if booster.num_trees() == n_stages:
        return booster
    return lightgbm.Booster(model_str=booster.model_to_string(num_iteration=n_stages))


def _later_seeds(booster: lightgbm.Booster) -> dict[str, int]:
    """Choose seeds for trees added to a booster, so that they do not repeat the draws of its own trees."""
    text, jump = booster.model_to_string(num_iteration=1), 1_000_003 * booster.num_trees()
    return {name: (int(text_parameter(text, name)) + jump) % (2**31 - 1) for name in _SEEDS}
