"""A study on a cluster of processes finds what it finds in one process, whatever happens to the workers."""

import os
import signal
import threading
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from awkward_models import Sometimes
from test_benchmark_store import small_study

from telescoping_sklearn.__main__ import main
from telescoping_sklearn.benchmark import BenchmarkStudy, FailedTasksWarning, ResultStore, run_benchmark

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its imports warn of is not ours
    if "dask" in os.environ.get("TELESCOPING_REQUIRE", "").split(","):
        import distributed  # missing, it fails
    else:
        distributed = pytest.importorskip("distributed", reason="a cluster needs dask.distributed")
    import dask

# Its own threads and sockets end when they end.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Sending large graph"),
]
SECONDS = ["fit_seconds", "predict_seconds", "explain_seconds"]


def study(folder, n_seeds=5):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300, 4)), columns=list("abcd"))
    X.assign(y=X["a"] + X["b"] ** 2).to_csv(folder / "mine.csv", index=False)
    path = folder / "study.toml"
    path.write_text(
        f"""
data = [{{path = "mine.csv", target = "y"}}]
n_seeds = {n_seeds}
proportions = [0, 1]
n_probes = 2
models.trees.settings.n_estimators = 5
models.forest = {{estimator = "awkward_models.SlowForest", settings = {{n_estimators = 5}}}}
"""
    )
    return path


@pytest.fixture(scope="module")
def cluster():
    """Two workers, replaced when they die, in which fits are slow; a task is given up when it has killed two."""
    settings = {"threads_per_worker": 1, "processes": True, "dashboard_address": None, "silence_logs": 50}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(n_workers=2, env={"FIT_SECONDS": "0.5"}, **settings) as running,
    ):
        yield running


def kill_a_busy_worker(cluster, store, killed):
    """Wait until some tasks are done and end a worker that works on another."""
    with distributed.Client(cluster, set_as_default=False) as client:
        pids = client.run(os.getpid)
        while not killed:
            time.sleep(0.02)
            if not store.exists() or not ResultStore(store).done():
                continue
            for address, tasks in client.processing().items():
                if tasks and not killed:
                    os.kill(pids[address], signal.SIGKILL)
                    killed.append(address)


def test_a_study_outlives_a_worker_and_equals_the_serial_result(cluster, tmp_path):
    path, store, killed = study(tmp_path), tmp_path / "results.sqlite", []
    killer = threading.Thread(target=kill_a_busy_worker, args=(cluster, store, killed), daemon=True)
    killer.start()
    results = run_benchmark(BenchmarkStudy.from_toml(path), store, backend="dask", scheduler=cluster.scheduler_address)
    killer.join(timeout=60)
    assert len(killed) == 1
    assert ResultStore(store).metadata()["n_done"] == 10
    serial = run_benchmark(BenchmarkStudy.from_toml(path))
    pd.testing.assert_frame_equal(results.drop(columns=SECONDS), serial.drop(columns=SECONDS))


def test_the_command_line_reaches_a_cluster_and_says_when_there_is_none(cluster, tmp_path, capsys):
    path, output = study(tmp_path, n_seeds=1), tmp_path / "results.sqlite"
    given = ["benchmark", str(path), "--backend", "dask", "--output", str(output)]
    assert main(given) == 2
    assert "scheduler" in capsys.readouterr().err
    assert main([*given, "--scheduler", cluster.scheduler_address]) == 0
    assert ResultStore(output).metadata()["n_done"] == 2


def test_a_task_that_kills_every_worker_fails_alone(cluster, tmp_path):
    study = small_study(models={"ridge": "sklearn.linear_model.Ridge", "deadly": Sometimes("die")})
    store = tmp_path / "results.sqlite"
    with pytest.warns(FailedTasksWarning, match="1 of 4 tasks failed.*KilledWorker"):
        results = run_benchmark(study, store, backend="dask", scheduler=cluster.scheduler_address)
    assert len(results.groupby(["model", "seed"])) == 3
    assert ResultStore(store).failures()[["model", "seed"]].to_numpy().tolist() == [["deadly", 1]]
