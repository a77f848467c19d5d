"""Run a study: independent tasks on this machine's processes or on a Dask cluster, by way of joblib.

Work that is done is not done again; the store knows it by its key. This process draws the rows, hands out tasks with
the rows they need and is the only one that writes.
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
    """A task of a study, with what determines it."""

    task: Task
    key: str
    description: dict[str, Any]
    spec: ModelSpec
    division: Score | Shift


def plan_tasks(study: BenchmarkStudy, tables: dict[str, Table]) -> list[Planned]:
    """List a study's tasks in the order in which they are run."""
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
    """Run a study, or what of it is not done yet.

    Parameters
    ----------
    study : BenchmarkStudy
        The study.
    store : str, Path, ResultStore or None, default=None
        File that results are written to as they come, made where there is none. Tasks whose results it holds are not
        run again; those that failed are. None keeps nothing.
    n_jobs : int, default=1
        Tasks that run side by side, each on one thread; results do not depend on it. 1 runs them in this process.
        A cluster runs as many as it has threads.
    backend : {"loky", "dask"}, default="loky"
        Processes of this machine, or a Dask cluster.
    scheduler : str or None, default=None
        Address of the Dask cluster's scheduler. Its workers need this library, and one thread each.
    progress : bool, default=False
        Whether to say on the standard error stream how far the study is.

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
            What telescoping estimators say of themselves; NaN for other models.
        fit_seconds, predict_seconds, explain_seconds
            Seconds of the fit (without tuning), of predicting the test rows, and of the explanations.
        tuned, settings
            Whether the settings were tuned, and those given and chosen, as JSON.

    Raises
    ------
    StudyError
        If a data set cannot be loaded or divided.
    StoreError
        If the file is foreign or damaged.
    ValueError
        If another parameter makes no sense.

    Warns
    -----
    FailedTasksWarning
        If tasks failed; they do not stop the others.
    """
    _check_running(n_jobs, backend, scheduler)
    if store is None:
        with tempfile.TemporaryDirectory() as folder:
            return run_benchmark(
                study,
                Path(folder, "results.sqlite"),
                n_jobs=n_jobs,
                backend=backend,
                scheduler=scheduler,
                progress=progress,
            )
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
    """Run tasks; yields what comes of each. Rows are scored first, and drawn when a task's turn comes."""
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
        yield from _run_all(runnable, work, store, **where)


def _run_all(
    items: list[Planned], work: Any, store: ResultStore, *, n_jobs: int, backend: str, scheduler: str | None
) -> Iterator[Outcome]:
    """Run tasks side by side, and go on where a worker dies.

    The tasks in flight are then run again, one at a time; one that kills its worker even so has failed.
    """
    left = {item.key: item for item in items}
    with _workers(n_jobs, backend, scheduler) as deaths:
        while left:
            in_flight: list[str] = []
            try:
                for outcome in _run_some(list(left.values()), work, store, in_flight):
                    del left[outcome.key]
                    yield outcome
            except deaths:
                for key in [key for key in in_flight if key in left]:
                    item = left.pop(key)
                    try:
                        yield from _run_some([item], work, store, [])
                    except deaths:
                        yield Outcome(item.task, key, [], None, traceback.format_exc())


def _run_some(items: list[Planned], work: Any, store: ResultStore, in_flight: list[str]) -> Iterator[Outcome]:
    """Run tasks side by side; what another run has done by the time its turn comes is left out."""
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
    """Set up where tasks run; gives the errors that mean a worker has died."""
    if backend == "loky":
        # Arrays are sent, not mapped from a folder that a kill would leave behind.
        settings = {"n_jobs": n_jobs, "max_nbytes": None, "initializer": _stand_by, "inner_max_num_threads": 1}
        here = joblib.parallel_config("loky", **settings)
        with here, warnings.catch_warnings():
            # Loky replaces a worker whose memory has grown, and says so; the tasks are none the worse.
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


def _stand_by() -> None:
    """Prepare a worker: Ctrl-C is left to the process that runs the study, and a worker ends when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    # A process whose parent was killed gets another parent.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def describe_tables(tables: dict[str, Table]) -> dict[str, Any]:
    """Write down what the tables hold and what was done to their columns."""
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
