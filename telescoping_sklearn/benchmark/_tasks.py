"""One task: tune and fit a model on a data set with a seed, and evaluate it on every test set.

A task is sent to its process with all the data it needs and returns plain numbers. It runs on one thread, so that
results do not depend on the number of tasks run in parallel.
"""

import hashlib
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from threadpoolctl import threadpool_limits

from telescoping_sklearn.benchmark._describe import describe, hash_of, to_json
from telescoping_sklearn.benchmark._models import ModelSpec
from telescoping_sklearn.benchmark._test_sets import SetName, TestSets
from telescoping_sklearn.benchmark._tuning import Tuning, best_settings
from telescoping_sklearn.metrics import find_telescoping_estimator

#: Libraries whose versions affect the results of a task.
LIBRARIES = ("telescoping_sklearn", "scikit-learn", "lightgbm", "torch", "skorch", "numpy", "scipy", "pandas")
#: Parameters of a study that affect the results of a task, besides its model, rows and tuning.
_SETTINGS = ("max_train", "test_size", "irregular_fraction", "proportions", "metrics", "n_probes", "kernel_stages")


#: Modules whose code affects the results of a task: those of the models, and those of this folder that a task runs.
_CODE = ("_memory", "_refit", "_telescope", "base", "losses", "irregularity", "metrics", "boosting", "neural")
_CODE_HERE = ("_columns", "_models", "_tasks", "_test_sets", "_tuning")


@cache
def code_hash() -> str:
    """Hash of the code that tasks run, so that results of other code are not reused."""
    here = Path(__file__).parent
    places = [here.parent / name for name in _CODE] + [here / name for name in _CODE_HERE]
    files = [file for place in places for file in sorted(place.rglob("*.py")) or [place.with_suffix(".py")]]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class Task(NamedTuple):
    """Names that identify a task in the results."""

    data: str
    model: str
    seed: int
    score: str


class SquaredErrors(NamedTuple):
    """Squared errors of a task, row by row.

    Attributes
    ----------
    values : ndarray of shape (n_pool,)
        One for every row of any test set, in units of the variance of the training labels. The pool's rows and their
        order are those of every other model's task with the same data, seed and score.
    sets : dict of (str, float) to ndarray of int
        Positions in `values` of each test set, by `set_kind` and `set_value`.
    """

    values: NDArray
    sets: dict[SetName, NDArray]


class Work(NamedTuple):
    """A task with its data and settings."""

    task: Task
    key: str
    spec: ModelSpec
    tuner: Tuning | None
    X_train: pd.DataFrame
    y_train: pd.Series
    X_pool: pd.DataFrame
    y_pool: pd.Series
    sets: dict[SetName, NDArray]
    metrics: tuple[str, ...]
    n_probes: int
    kernel_stages: int


class Outcome(NamedTuple):
    """Result of a task: rows and squared errors, or a traceback."""

    task: Task
    key: str
    rows: list[dict[str, Any]]
    errors: SquaredErrors | None
    failure: str


def task_description(study: Any, task: Task, spec: ModelSpec, fingerprint: str, division: Any) -> dict[str, Any]:
    """Describe everything that determines the results of a task, as JSON types."""
    return {
        "task": task._asdict(),
        "fingerprint": fingerprint,
        "model": spec.describe(),
        "division": division.describe(),
        "tuning": study.tuner._asdict() if study.tuner and spec.space else None,
        "settings": {name: describe(getattr(study, name)) for name in _SETTINGS},
        "versions": {name: version(name) for name in LIBRARIES},
        "code": code_hash(),
    }


def task_key(description: dict[str, Any]) -> str:
    """Hash of a task's description: its key in the store."""
    return hash_of(description)


def make_work(study: Any, task: Task, key: str, spec: ModelSpec, table: Any, rows: TestSets) -> Work:
    """Select the rows of a task from its table."""
    return Work(
        task,
        key,
        spec,
        study.tuner if spec.space else None,
        table.X.iloc[rows.train],
        table.y.iloc[rows.train],
        table.X.iloc[rows.pool],
        table.y.iloc[rows.pool],
        rows.sets,
        study.metrics,
        study.n_probes,
        study.kernel_stages,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS, OpenMP (LightGBM) and torch to one thread, and restore the limits afterwards."""
    torch = sys.modules.get("torch")  # a model that needs it has loaded it
    threads = torch.get_num_threads() if torch else None
    try:
        if torch:
            torch.set_num_threads(1)
        with threadpool_limits(limits=1):
            yield
    finally:
        if torch:
            torch.set_num_threads(threads)


def attempt(work: Work) -> Outcome:
    """Run a task and catch its error, if any, in the outcome."""
    try:
        with one_thread():
            rows, errors = run_task(work)
    except Exception:
        return Outcome(work.task, work.key, [], None, traceback.format_exc())
    return Outcome(work.task, work.key, rows, errors, "")


def run_task(work: Work) -> tuple[list[dict[str, Any]], SquaredErrors]:
    """Tune and fit one model; return its results on every test set, and its squared errors row by row."""
    model, settings = _tuned(work)
    clock = time.perf_counter()
    model.fit(work.X_train, work.y_train)
    fitted = time.perf_counter()
    predicted = np.asarray(model.predict(work.X_pool), dtype=float).ravel()
    asked = time.perf_counter()
    residuals = predicted - work.y_pool.to_numpy()
    if not np.isfinite(residuals).all():
        raise ValueError("the model predicts values that are not finite")
    shared = {
        **work.task._asdict(),
        "n_train": len(work.y_train),
        "fit_seconds": fitted - clock,
        "predict_seconds": asked - fitted,
        **_explained(work, model),
        "tuned": work.tuner is not None,
        "settings": to_json(describe(settings)),
    }
    variance = float(np.var(work.y_train.to_numpy()))
    explained = shared.pop("by_set")
    rows = []
    for position, ((kind, value), members) in enumerate(work.sets.items()):
        judged = _judge(residuals[members], work.y_pool.to_numpy()[members], variance, work.metrics)
        by_set = {name: values[position] for name, values in explained.items()}
        rows.append({**shared, "set_kind": kind, "set_value": value, "n_test": len(members), **judged, **by_set})
    return rows, SquaredErrors(residuals**2 / variance, work.sets)


def _tuned(work: Work) -> tuple[Any, dict[str, Any]]:
    """Build the model, with the best settings of the search if it is tuned."""
    model, prefix = work.spec.make(work.task.seed), work.spec.prefix()
    if work.tuner is None:
        return model, dict(work.spec.settings)
    candidate = clone(model)
    if f"{prefix}record" in candidate.get_params():
        # Candidates need no record: nothing is explained of them.
        candidate.set_params(**{f"{prefix}record": False})
    best = best_settings(candidate, prefix, work.spec.space, work.tuner, work.X_train, work.y_train, work.task.seed)
    return model.set_params(**{prefix + name: value for name, value in best.items()}), work.spec.settings | best


def _judge(residuals: NDArray, labels: NDArray, variance: float, metrics: tuple[str, ...]) -> dict[str, float]:
    """Errors on one test set, in units of the variance or standard deviation of the training labels."""
    squared = residuals**2 / variance
    spread = float(np.var(labels))
    judged = {
        "mse": float(squared.mean()),
        "mse_se": float(squared.std(ddof=1) / np.sqrt(len(squared))) if len(squared) > 1 else np.nan,
        "mae": float(np.abs(residuals).mean() / np.sqrt(variance)) if "mae" in metrics else np.nan,
        "r2": float(1 - (residuals**2).mean() / spread) if "r2" in metrics and spread > 0 else np.nan,
    }
    return judged


def _explained(work: Work, model: Any) -> dict[str, Any]:
    """Kernel norm ratios and effective parameters; NaN without a telescope or where its response is unstable."""
    missing = np.full(len(work.sets), np.nan)
    by_set = {"kernel_norm_ratio": missing, "effective_params": missing, "effective_params_se": missing}
    explained = {
        "effective_params_train": np.nan,
        "effective_params_train_se": np.nan,
        "n_stages": np.nan,
        "explain_seconds": np.nan,
        "by_set": by_set,
    }
    clock = time.perf_counter()
    try:
        estimator, seen = find_telescoping_estimator(model, pd.concat([work.X_train, work.X_pool]))
    except TypeError:
        return explained
    explained["n_stages"] = estimator.n_stages_
    n_train, members = len(work.X_train), list(work.sets.values())
    if "effective_params" in work.metrics and estimator.telescope_.last_sound_stage == estimator.n_stages_:
        (p, p_se), (of_train, of_train_se) = estimator.effective_params(
            seen[n_train:], n_probes=work.n_probes, return_se=True, subsets=members, with_train=True
        )
        explained |= {"effective_params_train": of_train, "effective_params_train_se": of_train_se}
        by_set |= {"effective_params": p, "effective_params_se": p_se}
    if "kernel_norm_ratio" in work.metrics:
        # Kernels of a net, which has sections, cost a Jacobian each; the class itself would load torch for trees too.
        stages = work.kernel_stages if hasattr(estimator, "section") else "auto"
        by_set["kernel_norm_ratio"] = estimator.kernel_norm_ratio(seen[n_train:], stages, subsets=members)
    if {"effective_params", "kernel_norm_ratio"} & set(work.metrics):
        explained["explain_seconds"] = time.perf_counter() - clock
    return explained
