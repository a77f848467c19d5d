"""Run a study: independent tasks, one model on one data set with one seed, each inside ordinary pipelines.

Every mixture of a task is drawn from one pool of test rows, so a model is asked about each row once, whatever the
number of mixtures. A task runs on one thread: results do not depend on how many tasks run side by side.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from telescoping_sklearn import (
    TabularPreparation,
    TelescopingGBTRegressor,
    TelescopingMLPRegressor,
    irregular_rows,
    mixture_test_sets,
)
from telescoping_sklearn.benchmark._study import SCORES, BenchmarkStudy, load
from telescoping_sklearn.metrics import find_telescoping_estimator


class Task(NamedTuple):
    """One independent piece of work."""

    data: str
    seed: int
    model: str


def make_net(study: BenchmarkStudy, seed: int) -> TransformedTargetRegressor:
    """Make the net's pipeline: log of skewed columns, standardised, one-hot; target standardised."""
    net = TelescopingMLPRegressor(**study.net_settings, random_state=seed)
    return TransformedTargetRegressor(make_pipeline(TabularPreparation(), net), transformer=StandardScaler())


def make_trees(study: BenchmarkStudy, seed: int) -> TransformedTargetRegressor:
    """Make the trees' pipeline: ordinal codes for categories; target standardised."""
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((codes, make_column_selector(dtype_exclude="number")), remainder="passthrough")
    trees = TelescopingGBTRegressor(**study.tree_settings, random_state=seed)
    return TransformedTargetRegressor(make_pipeline(columns, trees), transformer=StandardScaler())


MODELS: dict[str, Callable[[BenchmarkStudy, int], TransformedTargetRegressor]] = {"net": make_net, "trees": make_trees}


class TestRows(NamedTuple):
    """Rows of a task, by position in the data set.

    Attributes
    ----------
    train : ndarray of int
        Training rows, all regular.
    pool : ndarray of int
        Every row of any test set.
    members : list of ndarray of int
        Positions in the pool of each mixture's rows.
    """

    train: NDArray
    pool: NDArray
    members: list[NDArray]


def draw_rows(study: BenchmarkStudy, X: pd.DataFrame, seed: int) -> TestRows:
    """Draw training rows and mixtures of one seed."""
    irregular = irregular_rows(X, score=SCORES[study.score]())
    size = min(study.test_size, int(irregular.sum()))
    train, mixtures = mixture_test_sets(irregular, study.proportions, test_size=size, random_state=seed)
    if study.max_train is not None and study.max_train < len(train):
        train = np.sort(np.random.default_rng(seed).choice(train, study.max_train, replace=False))
    pool = np.unique(np.concatenate(list(mixtures.values())))
    members = [np.searchsorted(pool, np.sort(mixtures[proportion])) for proportion in study.proportions]
    return TestRows(train, pool, members)


def run_task(study: BenchmarkStudy, task: Task) -> tuple[pd.DataFrame, NDArray]:
    """Fit one model and ask it about every mixture.

    Parameters
    ----------
    study : BenchmarkStudy
        The study.
    task : Task
        The piece of work.

    Returns
    -------
    results : DataFrame
        One row a proportion.
    squared_errors : ndarray of shape (n_test,)
        Squared errors on the regular test set, row by row, for paired comparisons.
    """
    with threadpool_limits(limits=1):
        X, y = load(task.data)
        rows = draw_rows(study, X, task.seed)
        X_train, y_train, X_pool = X.iloc[rows.train], y.iloc[rows.train], X.iloc[rows.pool]
        clock = time.perf_counter()
        model = MODELS[task.model](study, task.seed).fit(X_train, y_train)
        fitted = time.perf_counter()
        squared = (model.predict(X_pool) - y.iloc[rows.pool].to_numpy()) ** 2 / np.var(y_train.to_numpy())
        estimator, seen = find_telescoping_estimator(model, pd.concat([X_train, X_pool]))
        n_train = len(rows.train)
        sets = [np.arange(n_train), *(n_train + members for members in rows.members)]
        p, p_se = estimator.effective_params(seen, n_probes=study.n_probes, return_se=True, subsets=sets)
        stages = study.kernel_stages if task.model == "net" else "auto"
        ratios = estimator.kernel_norm_ratio(seen[n_train:], stages, subsets=rows.members)
        explained = time.perf_counter()
    results = pd.DataFrame(
        {
            "data": task.data,
            "seed": task.seed,
            "model": task.model,
            "proportion": study.proportions,
            "n_train": n_train,
            "n_test": len(rows.members[0]),
            "mse": [squared[members].mean() for members in rows.members],
            "kernel_norm_ratio": ratios,
            "effective_params": p[1:],
            "effective_params_se": p_se[1:],
            "effective_params_train": p[0],
            "effective_params_train_se": p_se[0],
            "n_stages": estimator.n_stages_,
            "fit_seconds": fitted - clock,
            "explain_seconds": explained - fitted,
        }
    )
    return results, squared[rows.members[study.proportions.index(0.0)]]


def run_benchmark(study: BenchmarkStudy, *, n_jobs: int = 1, progress: bool = False) -> pd.DataFrame:
    """Run a study.

    Parameters
    ----------
    study : BenchmarkStudy
        The study.
    n_jobs : int, default=1
        Tasks that run side by side, in processes of one thread each; results do not depend on it.
    progress : bool, default=False
        Whether to show a progress bar.

    Returns
    -------
    DataFrame
        One row for every data set, seed, model and proportion. Squared errors are in units of the variance of the
        training labels. ``gap_se`` is the paired standard error over test rows of the gap between the models at
        proportion 0.
    """
    tasks = [Task(data, seed, model) for data in study.data for seed in range(study.n_seeds) for model in MODELS]
    outcomes = {}
    runs = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
        joblib.delayed(_named)(study, task) for task in tasks
    )
    with tqdm(total=len(tasks), desc="benchmark", unit="fit", disable=not progress) as bar:
        for task, outcome in runs:
            outcomes[task] = outcome
            bar.set_postfix_str(f"{task.data}, seed {task.seed}, {task.model} done")
            bar.update()
    return pd.concat([_with_gap_noise(outcomes, task) for task in tasks], ignore_index=True)


def _named(study: BenchmarkStudy, task: Task) -> tuple[Task, tuple[pd.DataFrame, NDArray]]:
    return task, run_task(study, task)


def _with_gap_noise(outcomes: dict[Task, Any], task: Task) -> pd.DataFrame:
    """Add the paired standard error of the gap at proportion 0 to a task's results."""
    net, trees = (outcomes[task._replace(model=model)][1] for model in MODELS)
    noise = np.std(net - trees, ddof=1) / np.sqrt(len(net))
    return outcomes[task][0].assign(gap_se=noise)
