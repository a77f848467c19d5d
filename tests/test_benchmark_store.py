"""Results survive whatever happens to the process that writes them, and no other file is harmed."""

import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from awkward_models import Sometimes
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from threadpoolctl import threadpool_info

import telescoping_sklearn
from telescoping_sklearn.__main__ import main
from telescoping_sklearn.benchmark import (
    BenchmarkStudy,
    FailedTasksWarning,
    ResultStore,
    SquaredErrors,
    StoreError,
    run_benchmark,
)
from telescoping_sklearn.benchmark import _runner as runner
from telescoping_sklearn.benchmark._progress import Progress
from telescoping_sklearn.benchmark._store import _pack, _unpack
from telescoping_sklearn.benchmark._tasks import Task, attempt, one_thread

ROOT = Path(telescoping_sklearn.__file__).parents[1]
SECONDS = ["fit_seconds", "predict_seconds", "explain_seconds"]


def table(n=300, seed=0):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    return X, pd.Series(X["a"] + X["b"] ** 2 + 0.1 * rng.normal(size=n), name="y")


def small_study(**settings):
    given = {"models": {"ridge": "sklearn.linear_model.Ridge", "trees": {"settings": {"n_estimators": 5}}}}
    return BenchmarkStudy(
        **{"data": (("mine", *table()),), "n_seeds": 2, "proportions": (0.0, 1.0), "n_probes": 2, **given, **settings}
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "results.sqlite"
    return path, run_benchmark(small_study(), path)


def same(first, second):
    pd.testing.assert_frame_equal(first.drop(columns=SECONDS), second.drop(columns=SECONDS))


# -- what is stored ----------------------------------------------------------------------------------------------------


def test_results_metadata_and_errors_are_read_back(finished):
    path, results = finished
    store = ResultStore(path)
    pd.testing.assert_frame_equal(store.results(), results)
    about = store.metadata()
    assert (about["n_tasks"], about["n_done"], about["n_failed"]) == (4, 4, 0)
    assert about["study"]["n_seeds"] == 2
    assert about["tables"]["mine"]["columns"] == dict.fromkeys("abcd", "number")
    assert {"python", "scikit-learn", "torch"} <= set(about["versions"])
    for row in results.itertuples():
        errors = store.squared_errors((row.data, row.model, row.seed, row.score))
        members = errors.values[errors.sets[row.set_kind, row.set_value]]
        assert len(members) == row.n_test
        assert members.mean() == pytest.approx(row.mse, rel=1e-12)
        if row.n_test == 1:
            assert np.isnan(row.mse_se)
            continue
        assert members.std(ddof=1) / np.sqrt(len(members)) == pytest.approx(row.mse_se, rel=1e-9)
    pools = [store.squared_errors(("mine", model, 0, "principal_distance")).sets for model in ("ridge", "trees")]
    assert all(np.array_equal(pools[0][name], pools[1][name]) for name in pools[0])
    with pytest.raises(KeyError):
        store.squared_errors(("mine", "ridge", 7, "principal_distance"))


def test_a_row_a_task_without_pickles_and_in_a_write_ahead_log(finished):
    with closing(sqlite3.connect(finished[0])) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT COUNT(*), COUNT(DISTINCT key) FROM tasks").fetchone() == (4, 4)
        for description, results, errors in connection.execute("SELECT description, results, errors FROM tasks"):
            assert description.startswith("{")
            assert results.startswith("[")
            assert errors.startswith(b"PK")  # an archive of arrays
    assert not list(finished[0].parent.glob("*-wal"))


def test_errors_are_in_units_of_the_training_labels(finished):
    """The same numbers by hand."""
    study = small_study()
    (division,), (spec, _), loaded = study.divisions, study.specs, study.load_tables()["mine"]
    rows = division.divide(division.measure(loaded.X), study, 1)
    model = spec.make(1).fit(loaded.X.iloc[rows.train], loaded.y.iloc[rows.train])
    part = finished[1].query("model == 'ridge' and seed == 1").set_index(["set_kind", "set_value"])
    y_train = loaded.y.iloc[rows.train]
    for name, members in rows.sets.items():
        y = loaded.y.iloc[rows.pool[members]]
        error = y - model.predict(loaded.X.iloc[rows.pool[members]])
        assert part.loc[name, "mse"] == pytest.approx((error**2).mean() / y_train.var(ddof=0))
        assert part.loc[name, "mae"] == pytest.approx(error.abs().mean() / y_train.std(ddof=0))
        r2 = 1 - (error**2).mean() / y.var(ddof=0) if len(y) > 1 else np.nan
        assert part.loc[name, "r2"] == pytest.approx(r2, nan_ok=True)
    assert part[["kernel_norm_ratio", "effective_params", "n_stages", "explain_seconds"]].isna().all(axis=None)


def test_metrics_not_asked_for_are_missing():
    results = run_benchmark(small_study(metrics=("mse", "effective_params")))
    trees = results[results["model"] == "trees"]
    assert trees[["mae", "r2", "kernel_norm_ratio"]].isna().all(axis=None)
    assert trees[["mse", "effective_params", "explain_seconds"]].notna().all(axis=None)


def test_results_do_not_depend_on_processes(finished):
    same(run_benchmark(small_study(), n_jobs=2), finished[1])


# -- what is done again ------------------------------------------------------------------------------------------------


def keys_of(study):
    return [item.key for item in runner.plan_tasks(study, study.load_tables())]


def test_nothing_is_done_twice(tmp_path, finished, monkeypatch):
    path = tmp_path / "results.sqlite"
    ran = []
    monkeypatch.setattr(runner, "attempt", lambda work: ran.append(work.task) or attempt(work))
    run_benchmark(small_study(n_seeds=1), path)
    assert len(ran) == 2
    same(run_benchmark(small_study(), path), finished[1])
    assert len(ran) == 4
    assert {task.seed for task in ran[2:]} == {1}
    run_benchmark(small_study(), path)
    assert len(ran) == 4


@pytest.mark.parametrize(
    "change",
    [
        {"data": (("mine", *table(seed=1)),)},
        {"proportions": (0.0, 0.5)},
        {"score": "first_component"},
        {"n_probes": 3},
        {"test_size": 20},
        {"max_train": 100},
        {"irregular_fraction": 0.2},
        {"metrics": ("mse",)},
        {"models": {"ridge": {"estimator": "sklearn.linear_model.Ridge", "settings": {"alpha": 2}}}},
        {"models": {"ridge": {"estimator": "sklearn.linear_model.Ridge", "preparation": "ordinal"}}},
    ],
)
def test_whatever_determines_a_result_changes_its_key(change):
    assert not set(keys_of(small_study())) & set(keys_of(small_study(**change)))


def test_what_does_not_determine_a_result_leaves_its_key(monkeypatch):
    assert keys_of(small_study(n_seeds=1)) == keys_of(small_study())[:2]
    assert keys_of(small_study(tuning={"draws": 3}))[0] == keys_of(small_study())[0], "ridge has no space"
    assert keys_of(small_study(tuning={"draws": 3}))[1] != keys_of(small_study())[1]
    before = keys_of(small_study())
    monkeypatch.setattr("telescoping_sklearn.benchmark._tasks.version", lambda name: "0")
    assert not set(before) & set(keys_of(small_study()))


def test_a_failed_task_stops_no_other_and_is_tried_again(tmp_path):
    path, cure = tmp_path / "results.sqlite", tmp_path / "cure"
    study = small_study(models={"ridge": "sklearn.linear_model.Ridge", "luck": Sometimes(unless=str(cure))})
    with pytest.warns(FailedTasksWarning, match="1 of 4 tasks failed.*no such luck"):
        results = run_benchmark(study, path)
    assert len(results.groupby(["model", "seed"])) == 3
    failures = ResultStore(path).failures()
    assert failures[["model", "seed"]].to_numpy().tolist() == [["luck", 1]]
    assert "in fit\n" in failures["traceback"][0]
    cure.touch()
    assert len(run_benchmark(study, path).groupby(["model", "seed"])) == 4
    assert ResultStore(path).failures().empty


def test_a_task_that_kills_its_worker_fails_alone(tmp_path):
    study = small_study(models={"ridge": "sklearn.linear_model.Ridge", "deadly": Sometimes("die")}, n_seeds=3)
    with pytest.warns(FailedTasksWarning, match="1 of 6 tasks failed"):
        results = run_benchmark(study, tmp_path / "results.sqlite", n_jobs=2)
    assert len(results.groupby(["model", "seed"])) == 5


def test_a_score_that_cannot_be_computed_fails_its_tasks_only(monkeypatch):
    def fail(self, X):
        raise ArithmeticError("no score")

    monkeypatch.setattr("telescoping_sklearn.benchmark._test_sets.Shift.measure", fail)
    monkeypatch.setattr("telescoping_sklearn.benchmark._test_sets.Shift.check", lambda *args: "")
    with pytest.warns(FailedTasksWarning, match="4 of 8 tasks failed.*no score"):
        results = run_benchmark(small_study(shift={"column": "a"}))
    assert set(results["score"]) == {"principal_distance"}


# -- files -------------------------------------------------------------------------------------------------------------


def foreign(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE mine (x)")


def newer(path):
    ResultStore.create(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def cut(path):
    run_benchmark(small_study(n_seeds=1), path)
    path.write_bytes(path.read_bytes()[:9000])


def scribbled(path):
    run_benchmark(small_study(n_seeds=1), path)
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_text("data,model\n"), "no SQLite file"),
        (lambda path: path.write_bytes(b""), "no SQLite file"),
        (foreign, "another program's"),
        (newer, "format 99"),
        (cut, "damaged|cannot be used"),
        (scribbled, "damaged|cannot be used"),
    ],
)
def test_foreign_and_damaged_files_are_refused_and_left(spoil, said, tmp_path, capsys):
    path = tmp_path / "results.sqlite"
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=said):
        run_benchmark(small_study(), path)
    assert main(["results", str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert path.read_bytes() == before


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(StoreError, match="there is no file"):
        ResultStore(tmp_path / "none.sqlite")
    with pytest.raises(StoreError, match="cannot be made"):
        ResultStore.create(tmp_path / "nowhere" / "none.sqlite")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_jobs": 0}, "n_jobs"),
        ({"backend": "threads"}, "backend"),
        ({"backend": "dask"}, "scheduler"),
        ({"scheduler": "tcp://x:1"}, "scheduler"),
    ],
)
def test_ways_to_run_that_make_no_sense_are_refused_before_any_work(given, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        run_benchmark(small_study(), tmp_path / "results.sqlite", **given)
    assert not list(tmp_path.iterdir())


# -- threads and progress ----------------------------------------------------------------------------------------------


def test_a_task_has_one_thread_and_gives_back_what_there_was():
    before = torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()]
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
            assert {pool["num_threads"] for pool in threadpool_info()} == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before[0])
    assert [pool["num_threads"] for pool in threadpool_info()] == before[1]


def test_progress_says_plain_lines_without_a_terminal(capsys):
    bar = Progress(5, 2, show=True)
    bar.update(Task("mine", "ridge", 0, "x"), failed=False)
    bar.update(Task("mine", "ridge", 1, "x"), failed=True)
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2 of 5 tasks are done already"
    assert lines[1].startswith("3 of 5 done, 0 failed, 2 to go, about ")
    assert lines[2].startswith("3 of 5 done, 1 failed, 1 to go")
    assert lines[2].endswith("mine, ridge, seed 1, x FAILED")


# -- processes that are killed -----------------------------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path):
    """A study file whose 8 tasks take a good part of a second each in the processes that `start` starts."""
    X, y = table()
    X.assign(y=y).to_csv(tmp_path / "mine.csv", index=False)
    study = tmp_path / "study.toml"
    study.write_text(
        """
data = [{path = "mine.csv", target = "y"}]
n_seeds = 8
proportions = [0, 1]
[models.forest]
estimator = "awkward_models.SlowForest"
settings = {n_estimators = 5}
"""
    )
    return study


def start(study, output, *options):
    """Start the command line as a group of processes of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "telescoping_sklearn", "benchmark", str(study), "--output", str(output), *options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "FIT_SECONDS": "0.5"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish_times(path):
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT key, finished FROM tasks"))


def wait_for(condition, what, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(0.05)


def group_is_gone(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_what_a_kill_leaves_is_kept_and_only_the_rest_is_done(slow, tmp_path):
    path = tmp_path / "results.sqlite"
    running = start(slow, path)
    try:
        wait_for(lambda: path.exists() and len(finish_times(path)) >= 2, "two tasks were done")
    finally:
        os.kill(running.pid, signal.SIGKILL)
        running.communicate()
    before = finish_times(path)
    assert 2 <= len(before) < 8
    wait_for(lambda: group_is_gone(running.pid), "the workers had ended")
    study = BenchmarkStudy.from_toml(slow)
    results = run_benchmark(study, path)
    after = finish_times(path)
    assert len(after) == 8
    assert {key: after[key] for key in before} == before
    same(results, run_benchmark(study))


def test_ctrl_c_ends_cleanly(slow, tmp_path):
    path = tmp_path / "results.sqlite"
    running = start(slow, path)
    try:
        wait_for(lambda: path.exists() and len(finish_times(path)) >= 1, "a task was done")
        os.killpg(running.pid, signal.SIGINT)
        said = running.communicate(timeout=60)[1]
    finally:
        running.kill()
    assert running.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in said
    wait_for(lambda: group_is_gone(running.pid), "the workers had ended")
    assert 1 <= ResultStore(path).metadata()["n_done"] < 8


def test_two_runs_at_once_share_a_file(slow, tmp_path):
    path = tmp_path / "results.sqlite"
    both = [start(slow, path, "--jobs", jobs) for jobs in "12"]
    try:
        said = [running.communicate(timeout=240)[1] for running in both]
    finally:
        for running in both:
            running.kill()
    assert [running.returncode for running in both] == [0, 0], said
    assert ResultStore(path).metadata()["n_done"] == 8
    same(ResultStore(path).results(), run_benchmark(BenchmarkStudy.from_toml(slow), path))


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    values=arrays(float, 30, elements=st.floats(0, 1e300, allow_nan=False)),
)
def test_squared_errors_are_stored_bit_by_bit(sizes, values):
    sets = {("mixture", place / 10): np.arange(30)[:size] for place, size in enumerate(sizes)}
    read = _unpack(_pack(SquaredErrors(values, sets)))
    assert read.values.tobytes() == values.tobytes()
    assert list(read.sets) == list(sets)
    assert all(np.array_equal(read.sets[name], sets[name]) for name in sets)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal():
    screen = Terminal()
    bar = Progress(4, 1, show=True, file=screen)
    bar.update(Task("mine", "ridge", 0, "x"), failed=True)
    bar.close()
    assert "1 of 4 tasks are done already" in screen.getvalue()
    last = screen.getvalue().split("\r")[-1]
    assert "2/4" in last
    assert "1 failed; last mine, ridge, seed 0, x" in last


def test_progress_says_nothing_unless_asked(capsys):
    bar = Progress(2, 1, show=False)
    bar.update(Task("mine", "ridge", 0, "x"), failed=False)
    bar.close()
    assert capsys.readouterr() == ("", "")
