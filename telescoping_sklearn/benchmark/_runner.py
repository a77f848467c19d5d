"""Run a study: independent tasks in local processes or on a Dask cluster, through joblib.

Finished tasks are found in the store by their keys and are not run again. The main process draws the rows, sends each
task with the rows it needs, and is the only one that writes to the store.
"""

import os
import platform
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import closing, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import pandas as pd
from numpy.typing import NDArray

from telescoping_sklearn.benchmark._data import Table
from telescoping_sklearn.benchmark._models import ModelSpec
from telescoping_sklearn.benchmark._progress import Progress
from telescoping_sklearn.benchmark._store import ResultStore
from telescoping_sklearn.benchmark._study import BenchmarkStudy
from telescoping_sklearn.benchmark._tasks import (
    LIBRARIES,
    Outcome,
    Task,
    Work,
    attempt,
    code_hash,
    make_work,
    task_description,
    task_key,
)
from telescoping_sklearn.benchmark._test_sets import Score, Shift

BACKENDS = ("loky", "dask")


class FailedTasksWarning(UserWarning):
    """Some tasks of a study failed; the store has their tracebacks."""


class Planned(NamedTuple):
    """A task of a study with its settings."""

    task: Task
    key: str
    description: dict[str, Any]
    spec: ModelSpec
    division: Score | Shift


def plan_tasks(study: BenchmarkStudy, tables: dict[str, Table]) -> list[Planned]:
    """List a study's tasks in the order of running."""
    planned = []
    for name, table in tables.items():
        for division in study.divisions:
            for seed in range(study.n_seeds):
                for spec in study.specs:
                    task = Task(name, spec.name, seed, division.name)
                    description = task_description(study, task, spec, table.fingerprint, division)
                    planned.append(Planned(task, task_key(description), description, spec, division))
    return planned


def run_benchmark(
    study: BenchmarkStudy,
    store: str | Path | ResultStore | None = None,
    *,
    n_jobs: int = 1,
    backend: str = "loky",
    scheduler: str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Run the tasks of a study that are not finished yet.

    Parameters
    ----------
    study : BenchmarkStudy
        The study.
    store : str, Path, ResultStore or None, default=None
        File that results are written to as tasks finish; created if it does not exist. Finished tasks in it are not
        run again, failed ones are. None keeps no file.
    n_jobs : int, default=1
        Number of tasks run in parallel, each on one thread; results do not depend on it. 1 runs them in this process.
        A cluster runs as many as it has threads.
    backend : {"loky", "dask"}, default="loky"
        Local processes or a Dask cluster.
    scheduler : str or None, default=None
        Address of the Dask cluster's scheduler. Its workers need this library, and one thread each.
    progress : bool, default=False
        Whether to report progress on the standard error stream.

    Returns
    -------
    DataFrame
        One row for every finished task and test set:

        data, model, seed, score
            The task.
        set_kind, set_value
            "mixture" and its share of irregular rows; "decile" and its number, 10 the most irregular; "shift" and the
            share along the column where the set ends, 0 for the set that has not shifted.
        n_train, n_test
            Rows.
        mse, mse_se, mae, r2
            Errors: squared in units of the variance of the training labels, with the standard error over test rows;
            absolute in units of their standard deviation; 1 - squared error / variance of the set's own labels.
        kernel_norm_ratio, effective_params, effective_params_se, effective_params_train, effective_params_train_se, \
n_stages
            Diagnostics of telescoping estimators; NaN for other models. Effective parameters are NaN too where
            a net's response is unstable before its last stage.
        fit_seconds, predict_seconds, explain_seconds
            Seconds of the fit (without tuning), of predicting the test rows, and of the explanations.
        tuned, settings
            Whether the settings were tuned, and those given and chosen, as JSON.

    Raises
    ------
    StudyError
        If a data set cannot be loaded or divided.
    StoreError
        If the file is not a results file or is damaged.
    ValueError
        If another parameter is invalid.

    Warns
    -----
    FailedTasksWarning
        If tasks failed; the other tasks are run all the same.
    """
    _check_running(n_jobs, backend, scheduler)
    if store is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "results.sqlite")
            return run_benchmark(study, path, n_jobs=n_jobs, backend=backend, scheduler=scheduler, progress=progress)
    tables = study.load_tables()
    store = store if isinstance(store, ResultStore) else ResultStore.create(store)
    planned = plan_tasks(study, tables)
    store.begin(study.describe(), describe_tables(tables), _versions(), _machine(), [item.key for item in planned])
    done = store.done()
    to_do = [item for item in planned if item.key not in done]
    bar = Progress(len(planned), len(planned) - len(to_do), show=progress)
    descriptions = {item.key: item.description for item in planned}
    try:
        for outcome in _outcomes(to_do, study, tables, store, n_jobs=n_jobs, backend=backend, scheduler=scheduler):
            if outcome.rows or outcome.failure:
                store.save(outcome, descriptions[outcome.key])
            bar.update(outcome.task, failed=bool(outcome.failure))
    finally:
        bar.close()
    failures = store.failures()
    if len(failures):
        last_lines = "; ".join(text.strip().splitlines()[-1] for text in failures["traceback"].head(3))
        warnings.warn(
            f"{len(failures)} of {len(planned)} tasks failed ({last_lines})", FailedTasksWarning, stacklevel=2
        )
    return store.results()


def _check_running(n_jobs: Any, backend: Any, scheduler: Any) -> None:
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or n_jobs < 1:
        raise ValueError(f"n_jobs must be at least 1, got {n_jobs!r}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if (backend == "dask") != isinstance(scheduler, str):
        raise ValueError(
            f"scheduler must be the address of a Dask scheduler, such as tcp://10.0.0.1:8786, and goes with the "
            f"backend dask only; got backend={backend!r}, scheduler={scheduler!r}"
        )
    if backend == "dask" and find_spec("distributed") is None:
        raise ValueError("the backend dask needs distributed: pip install 'telescoping_sklearn[dask]'")


def _outcomes(
    to_do: Sequence[Planned], study: BenchmarkStudy, tables: dict[str, Table], store: ResultStore, **where: Any
) -> Iterator[Outcome]:
    """Run tasks and yield their outcomes. Rows are scored first and drawn just before a task is sent."""
    scores: dict[tuple[str, str], NDArray] = {}
    runnable = []
    for item in to_do:
        place = (item.task.data, item.task.score)
        try:
            if place not in scores:
                scores[place] = item.division.measure(tables[item.task.data].X)
        except Exception:
            yield Outcome(item.task, item.key, [], None, traceback.format_exc())
            continue
        runnable.append(item)

    def work(item: Planned) -> Work:
        rows = item.division.divide(scores[item.task.data, item.task.score], study, item.task.seed)
        return make_work(study, item.task, item.key, item.spec, tables[item.task.data], rows)

    if runnable:
        yield from _run_with_recovery(runnable, work, store, **where)


def _run_with_recovery(
    items: list[Planned], work: Any, store: ResultStore, *, n_jobs: int, backend: str, scheduler: str | None
) -> Iterator[Outcome]:
    """Run tasks in parallel and continue after a worker dies.

    The tasks in flight are then run again one at a time; a task that kills its worker again counts as failed.
    """
    left = {item.key: item for item in items}
    with _workers(n_jobs, backend, scheduler) as deaths:
        while left:
            in_flight: list[str] = []
            try:
                for outcome in _run_parallel(list(left.values()), work, store, in_flight):
                    del left[outcome.key]
                    yield outcome
            except deaths:
                for key in [key for key in in_flight if key in left]:
                    item = left.pop(key)
                    try:
                        yield from _run_parallel([item], work, store, [])
                    except deaths:
                        yield Outcome(item.task, key, [], None, traceback.format_exc())


def _run_parallel(items: list[Planned], work: Any, store: ResultStore, in_flight: list[str]) -> Iterator[Outcome]:
    """Run tasks in parallel; skip those that another run has finished in the meantime."""
    elsewhere: list[Outcome] = []

    def calls() -> Iterator[Any]:
        for item in items:
            if store.is_done(item.key):
                elsewhere.append(Outcome(item.task, item.key, [], None, ""))
                continue
            in_flight.append(item.key)
            yield joblib.delayed(attempt)(work(item))

    runs = joblib.Parallel(return_as="generator_unordered", batch_size=1)(calls())
    with closing(runs):
        for outcome in runs:
            in_flight.remove(outcome.key)
            yield outcome
    yield from elsewhere


@contextmanager
def _workers(n_jobs: int, backend: str, scheduler: str | None) -> Iterator[tuple[type[BaseException], ...]]:
    """Set up the workers; yields the exceptions raised when a worker dies."""
    if backend == "loky":
        # Arrays are sent, not memory-mapped: a killed run would leave the folder of the maps behind.
        settings = {"n_jobs": n_jobs, "max_nbytes": None, "initializer": _init_worker, "inner_max_num_threads": 1}
        here = joblib.parallel_config("loky", **settings)
        with here, warnings.catch_warnings():
            # Loky warns when it replaces a worker whose memory has grown; no task is lost.
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs", category=UserWarning)
            yield (BrokenExecutor,)
        return
    from distributed import Client, KilledWorker

    from telescoping_sklearn.benchmark._cluster import ClusterBackend

    try:
        client = Client(scheduler, set_as_default=False, timeout=10)
    except OSError as error:
        raise ValueError(f"scheduler: no Dask scheduler answers at {scheduler}: {error}") from error
    with client, joblib.parallel_config(ClusterBackend(client=client)):
        yield (KilledWorker,)


def _init_worker() -> None:
    """Initialise a worker: ignore Ctrl-C, which the main process handles, and exit when the main process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()


def _exit_with_parent(parent: int) -> None:
    # The operating system gives an orphaned process another parent.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def describe_tables(tables: dict[str, Table]) -> dict[str, Any]:
    """Describe the tables as JSON types: rows, columns and how they were prepared."""
    return {
        name: {
            "n_rows": len(table.X),
            "columns": table.profile.kinds,
            "dropped": table.profile.dropped,
            "missing": table.profile.missing,
            "remarks": table.profile.remarks,
            "notes": table.notes,
            "fingerprint": table.fingerprint,
        }
        for name, table in tables.items()
    }


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in (*LIBRARIES, "joblib")}
    return {"python": platform.python_version(), **libraries, "code": code_hash()}


def _machine() -> dict[str, Any]:
    return {"system": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()}
