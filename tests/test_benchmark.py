"""The benchmark runs from the command line, says what it found, and refuses what makes no sense."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from telescoping_sklearn import __main__ as command_line
from telescoping_sklearn.__main__ import main
from telescoping_sklearn.benchmark import BenchmarkStudy, ResultStore, run_benchmark, tabulate_results
from telescoping_sklearn.benchmark._results import COLUMNS
from telescoping_sklearn.benchmark._table import _legend

TINY = ["--seeds", "2", "--max-train", "150", "--test-size", "60", "--proportions", "0", "1", "--probes", "2"]
TINY += ["--kernel-stages", "2", "--net-hidden", "5", "--net-epochs", "2", "--trees", "5"]
STUDY = BenchmarkStudy(
    n_seeds=2,
    max_train=150,
    test_size=60,
    proportions=(0.0, 1.0),
    n_probes=2,
    kernel_stages=2,
    models={
        "net": {"settings": {"hidden_layer_sizes": (5,), "max_iter": 2}},
        "trees": {"settings": {"n_estimators": 5}},
    },
)
SECONDS = ["fit_seconds", "predict_seconds", "explain_seconds"]
STUDIES = sorted((Path(__file__).parents[1] / "examples" / "studies").glob("*.toml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "results"
    assert main(["benchmark", *TINY, "--jobs", "1", "--output", str(folder)]) == 0
    return folder


def mixtures(folder):
    results = pd.read_csv(folder / "results.csv")
    return results[results["set_kind"] == "mixture"]


def test_results_hold_a_row_for_every_seed_model_and_proportion(finished):
    results = pd.read_csv(finished / "results.csv")
    assert list(results) == list(COLUMNS)
    assert not results.duplicated(["data", "seed", "model", "set_kind", "set_value"]).any()
    assert set(results["set_kind"]) == {"mixture", "decile"}
    of_mixtures = mixtures(finished)
    assert len(of_mixtures) == 2 * 2 * 2
    assert of_mixtures.notna().all(axis=None)
    assert (of_mixtures["n_train"] == 150).all()
    assert (of_mixtures["n_test"] == 60).all()
    positive = ["mse", "mae", "kernel_norm_ratio", "effective_params", "effective_params_train", "explain_seconds"]
    assert (of_mixtures[positive] > 0).all(axis=None)


def test_settings_and_versions_stand_beside_the_results(finished):
    settings = json.loads((finished / "settings.json").read_text())
    assert settings["study"]["max_train"] == 150
    assert settings["study"]["models"]["net"]["estimator"]["params"]["hidden_layer_sizes"] == [5]
    assert {"lightgbm", "torch", "scikit-learn"} <= set(settings["versions"])


def test_figure_is_a_png_of_sensible_size(finished):
    content = (finished / "results.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert len(content) > 20_000


def test_options_and_studies_say_the_same(finished):
    other = run_benchmark(STUDY)
    in_file = ResultStore(finished / "results.sqlite").results()
    pd.testing.assert_frame_equal(
        other.drop(columns=[*SECONDS, "settings"]), in_file.drop(columns=[*SECONDS, "settings"])
    )


def test_running_again_says_the_same_at_once(finished, capsys):
    assert main(["benchmark", *TINY, "--output", str(finished)]) == 0
    said = capsys.readouterr()
    assert said.err == "4 of 4 tasks are done already\n"
    assert "lucas_county, principal_distance" in said.out


def test_table_says_every_number_and_setting(finished):
    store = ResultStore(finished / "results.sqlite")
    table = tabulate_results(store.results(), STUDY, store)
    words = " ".join(table.split())
    of_mixtures = mixtures(finished)
    error = of_mixtures[(of_mixtures["model"] == "net") & (of_mixtures["set_value"] == 1)]["mse"].mean()
    for part in (f"{error:.3f}", "2 probes", "section: 10", "lightgbm", "seeds 0..1", "p on training rows"):
        assert part in words
    assert "| gap net - trees, relative |" in words
    for part in ("hidden_layer_sizes=(5,)", "n_estimators=5", "untuned", "1.00 (1.00 to 1.00)"):
        assert part in words
    assert max(map(len, table.splitlines())) <= 120


def test_table_says_where_the_test_size_was_cut(finished):
    store = ResultStore(finished / "results.sqlite")
    study = BenchmarkStudy(test_size=100, proportions=(0.0, 1.0))
    assert "100 asked for" in tabulate_results(store.results(), study, store)


def test_table_lists_every_share_that_has_no_relative_gap(finished):
    store = ResultStore(finished / "results.sqlite")
    errors = {}
    for row in store.results().itertuples():
        task = (row.data, row.model, row.seed, row.score)
        errors[task] = store.squared_errors((row.data, "trees", row.seed, row.score))
    table = tabulate_results(store.results(), STUDY, errors)
    assert "(*) no relative gap at 0%, 100%: gap at q=0 within noise" in table


def test_table_of_one_model_that_is_no_telescope():
    study = BenchmarkStudy(
        models={"ridge": "sklearn.linear_model.Ridge"}, n_seeds=1, shift={"column": "sdate"}, max_train=100
    )
    table = tabulate_results(run_benchmark(study), study, {})
    assert "up to | MSE ridge\n" in table
    assert "nan" not in table
    assert "gap" not in table


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--probes", "1"], "n_probes"),
        (["--proportions", "0", "1.5"], "proportions"),
        (["--proportions", "0.5"], "proportions"),
        (["--data", "nowhere"], "nowhere"),
        (["--data", "lucas_county", "lucas_county"], "data"),
        (["--seeds", "0"], "n_seeds"),
        (["--max-train", "3"], "max_train"),
        (["--section", "0"], "section"),
        (["--net-lr", "-1"], "net_lr"),
        (["--net-hidden", "0"], "net_hidden"),
        (["--trees", "0"], "trees"),
        (["--jobs", "0"], "jobs"),
        (["--scheduler", "tcp://nowhere:1"], "scheduler"),
    ],
)
def test_options_that_make_no_sense_end_in_one_line_and_exit_code_2(options, named, capsys, tmp_path):
    assert main(["benchmark", *options, "--output", str(tmp_path / "results.sqlite")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert named in said


def test_every_mistake_has_a_line(capsys, tmp_path):
    assert main(["benchmark", "--seeds", "0", "--trees", "0", "--data", "nowhere", "--output", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)
    assert not list(tmp_path.iterdir())


def test_a_study_file_and_options_of_a_study_do_not_mix(capsys, tmp_path):
    (tmp_path / "study.toml").write_text("n_seeds = 1")
    assert main(["benchmark", str(tmp_path / "study.toml"), "--seeds", "2"]) == 2
    assert "leave out --seeds" in capsys.readouterr().err


def test_unknown_options_exit_with_code_2():
    with pytest.raises(SystemExit) as ended:
        main(["benchmark", "--frobnicate"])
    assert ended.value.code == 2


def test_missing_data_set_says_where_to_put_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TELESCOPING_DATA", str(tmp_path))
    assert main(["benchmark", "--data", "houses"]) == 2
    assert "TELESCOPING_DATA" in capsys.readouterr().err


def test_missing_matplotlib_is_named_before_any_work(capsys, monkeypatch):
    monkeypatch.setattr(command_line, "find_spec", lambda name: None)
    assert main(["benchmark"]) == 2
    assert "plot" in capsys.readouterr().err


def test_interruption_ends_in_one_line(capsys, monkeypatch, tmp_path):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "run_benchmark", interrupt)
    assert main(["benchmark", "--output", str(tmp_path)]) == 130
    said = capsys.readouterr().err
    assert said.startswith("interrupted")
    assert said.count("\n") == 1


def test_failed_tasks_are_said_and_end_in_exit_code_1(capsys, tmp_path):
    study = tmp_path / "study.toml"
    study.write_text(
        'n_seeds = 1\nproportions = [0]\nmodels.ridge.estimator = "sklearn.linear_model.Ridge"\n'
        'models.bad = {estimator = "sklearn.linear_model.Ridge", settings = {solver = "lbfgs"}}'
    )
    assert main(["benchmark", str(study), "--jobs", "1", "--output", str(tmp_path / "out.sqlite")]) == 1
    said = capsys.readouterr()
    assert "failed: lucas_county, bad, seed 0, principal_distance: " in said.err
    assert "1 of 2 tasks failed" in said.err
    assert "MSE ridge" in said.out


def test_dry_run_prints_the_plan_and_touches_nothing(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", "--dry-run", "--seeds", "3"]) == 0
    assert "6 tasks" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_results_become_csv_and_parquet(finished, capsys, tmp_path):
    file = str(finished / "results.sqlite")
    assert main(["results", file]) == 0
    assert capsys.readouterr().out == (finished / "results.csv").read_text()
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    assert main(["results", file, "--to", "parquet", "--output", str(tmp_path / "r.parquet")]) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "r.parquet"), ResultStore(file).results())


def test_compare_puts_two_files_side_by_side(finished, capsys, tmp_path):
    other = tmp_path / "other.sqlite"
    options = [*TINY, "--trees", "9"]
    assert main(["benchmark", *options, "--seeds", "1", "--jobs", "1", "--output", str(other)]) == 0
    capsys.readouterr()
    assert main(["compare", str(finished / "results.sqlite"), str(other)]) == 0
    said = capsys.readouterr().out
    first, second = ResultStore(finished / "results.sqlite").results(), ResultStore(other).results()
    assert "n_seeds: 2 | 1" in said
    assert "model trees: n_estimators 5 | 9" in said
    assert "learning_rate" not in said
    lines = [line.split() for line in said.splitlines()]
    (row,) = [line for line in lines if line[1:5] == ["trees", "principal_distance", "mixture", "1"]]
    chosen = "model == 'trees' and seed == 0 and set_kind == 'mixture' and set_value == 1"
    expected = [table.query(chosen)["mse"].item() for table in (first, second)]
    assert np.array(row[5:7], float) == pytest.approx(expected, rel=1e-3)
    assert "2 tasks are in the first file only" in said
    assert main(["compare", str(other), str(other), "--metric", "speed"]) == 2


def test_files_that_share_nothing_are_told_apart_by_name(finished, capsys, tmp_path):
    X, y = np.random.default_rng(0).normal(size=(200, 3)), np.arange(200.0)
    models = {"ridge": "sklearn.linear_model.Ridge", "trees": {"settings": {"n_estimators": 5}}}
    run_benchmark(BenchmarkStudy(data=[("mine", X, y)], models=models, n_seeds=1), tmp_path / "other.sqlite")
    assert main(["compare", str(finished / "results.sqlite"), str(tmp_path / "other.sqlite")]) == 1
    said = capsys.readouterr().out
    for line in (
        "data set lucas_county is in the first file only",
        "data set mine is in the second file only",
        "model net is in the first file only",
        "model ridge is in the second file only",
    ):
        assert line in said  # fmt: skip
    assert "nothing in common" in said
    assert "4 tasks are in the first file only" in said
    assert "2 tasks are in the second file only" in said
    assert max(map(len, said.splitlines())) < 200


def test_models_of_other_estimators_differ_by_name_only(capsys, tmp_path):
    data = [("mine", np.random.default_rng(0).normal(size=(200, 3)), np.arange(200.0))]
    for name in ("Ridge", "Lasso"):
        models = {"m": f"sklearn.linear_model.{name}"}
        run_benchmark(BenchmarkStudy(data=data, models=models, n_seeds=1), tmp_path / f"{name}.sqlite")
    assert main(["compare", str(tmp_path / "Ridge.sqlite"), str(tmp_path / "Lasso.sqlite")]) == 0
    said = capsys.readouterr().out
    assert "model m: estimator Ridge | Lasso" in said
    assert "alpha" not in said
    assert main(["compare", str(tmp_path / "Ridge.sqlite"), str(tmp_path / "Ridge.sqlite")]) == 0
    assert "versions and settings are the same" in capsys.readouterr().out


def test_a_reader_that_stops_hears_no_complaint(finished):
    command = [sys.executable, "-m", "telescoping_sklearn", "results", str(finished / "results.sqlite")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=STUDIES[0].parents[2])
    running.stdout.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    assert running.wait() == 141


def test_a_study_that_is_not_there_is_said_in_words(capsys):
    assert main(["benchmark", "nonexist.toml"]) == 2
    assert capsys.readouterr().err == "error: the study nonexist.toml cannot be read: No such file or directory\n"


def test_what_is_tuned_is_not_told_as_if_it_were_fixed():
    study = BenchmarkStudy(tuning={"draws": 2})
    legend = " ".join(_legend(study).split())
    assert "n_estimators=300" not in legend
    assert "trees: TelescopingGBTRegressor with n_jobs=1; tuned: learning_rate, n_estimators, max_depth." in legend
    assert "n_estimators=300" in _legend(BenchmarkStudy())


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_example_studies_are_valid(path, monkeypatch):
    monkeypatch.chdir(path.parents[2])
    study = BenchmarkStudy.from_toml(path)
    assert study.n_tasks > 0
    assert set(tomllib.loads(path.read_text())) <= set(BenchmarkStudy.__dataclass_fields__)


def test_there_are_example_studies():
    assert {"embedded", "all_sets", "own_csv", "other_models"} <= {path.stem for path in STUDIES}


def test_matplotlib_state_is_left_alone(finished):
    others = plt.get_fignums()  # other tests of the same process may have left some
    assert main(["benchmark", *TINY, "--jobs", "1", "--output", str(finished)]) == 0  # draws again
    assert plt.get_fignums() == others
