"""The benchmark runs from the command line, says what it found, and refuses what makes no sense."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from telescoping_sklearn import __main__ as command_line
from telescoping_sklearn.__main__ import main
from telescoping_sklearn.benchmark import BenchmarkStudy, run_benchmark, tabulate_results
from telescoping_sklearn.benchmark._report import gap_at

TINY = ["--seeds", "2", "--max-train", "150", "--test-size", "60", "--proportions", "0", "1", "--probes", "2"]
TINY += ["--kernel-stages", "2", "--net-hidden", "5", "--net-epochs", "2", "--trees", "5"]
STUDY = BenchmarkStudy(
    n_seeds=2,
    max_train=150,
    test_size=60,
    proportions=(0.0, 1.0),
    n_probes=2,
    kernel_stages=2,
    net={"hidden_layer_sizes": (5,), "max_iter": 2},
    trees={"n_estimators": 5},
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark") / "results"
    assert main(["benchmark", *TINY, "--jobs", "1", "--output", str(folder)]) == 0
    return folder


def test_results_hold_a_row_for_every_seed_model_and_proportion(finished):
    results = pd.read_csv(finished / "results.csv")
    assert len(results) == 2 * 2 * 2
    assert not results.duplicated(["data", "seed", "model", "proportion"]).any()
    assert results.notna().all(axis=None)
    assert (results["n_train"] == 150).all()
    assert (results["n_test"] == 60).all()
    assert (results[["mse", "kernel_norm_ratio", "effective_params", "effective_params_train"]] > 0).all(axis=None)
    assert (results["explain_seconds"] > 0).all()


def test_settings_and_versions_stand_beside_the_results(finished):
    settings = json.loads((finished / "settings.json").read_text())
    assert settings["study"]["max_train"] == 150
    assert settings["net"]["hidden_layer_sizes"] == [5]
    assert {"lightgbm", "torch", "scikit-learn"} <= set(settings["versions"])


def test_figure_is_a_png_of_sensible_size(finished):
    content = (finished / "results.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert len(content) > 20_000


def test_results_do_not_depend_on_the_number_of_jobs(finished):
    seconds = ["fit_seconds", "explain_seconds"]
    parallel = run_benchmark(STUDY, n_jobs=2).drop(columns=seconds)
    serial = pd.read_csv(finished / "results.csv").drop(columns=seconds)
    pd.testing.assert_frame_equal(parallel, serial, check_exact=False, rtol=1e-9)


def test_table_says_every_number_and_setting(finished):
    results = pd.read_csv(finished / "results.csv")
    table = tabulate_results(results, STUDY)
    words = " ".join(table.split())
    error = results[(results["model"] == "net") & (results["proportion"] == 1)]["mse"].mean()
    for part in (f"{error:.3f}", "2 probes", "sections of 50", "lightgbm", "seeds 0..1", "p on training rows"):
        assert part in words
    assert max(map(len, table.splitlines())) <= 120


def test_table_says_where_the_test_size_was_cut(finished):
    results = pd.read_csv(finished / "results.csv")
    assert "100 asked for" in tabulate_results(results, BenchmarkStudy(test_size=100, proportions=(0.0, 1.0)))


def errors_by_seed(net_regular, trees_regular, net_irregular=(0.9, 0.9), trees_irregular=(0.5, 0.5), noise=0.0):
    """Results of two seeds, by hand."""
    by_key = {
        ("net", 0.0): net_regular,
        ("trees", 0.0): trees_regular,
        ("net", 1.0): net_irregular,
        ("trees", 1.0): trees_irregular,
    }
    return pd.DataFrame(
        [
            {"seed": seed, "model": model, "proportion": q, "mse": mse, "gap_se": noise}
            for (model, q), values in by_key.items()
            for seed, mse in enumerate(values)
        ]
    )


def test_gap_of_means_over_seeds():
    gap = gap_at(errors_by_seed((0.3, 0.32), (0.1, 0.1)), 1.0)
    assert gap.value == pytest.approx(0.4 / 0.21)


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (errors_by_seed((0.3, 0.1), (0.2, 0.2)), "changes sign between seeds"),
        (errors_by_seed((0.3, 0.9), (0.2, 0.1)), "within noise"),
        (errors_by_seed((0.3, 0.3), (0.2, 0.2), noise=0.2), "within noise"),
    ],
)
def test_gap_that_means_nothing_has_a_reason(part, reason):
    gap = gap_at(part, 1.0)
    assert np.isnan(gap.value)
    assert reason in gap.reason


def test_table_lists_every_share_that_has_no_relative_gap(finished):
    results = pd.read_csv(finished / "results.csv")
    on_net = results["model"] == "net"
    results.loc[on_net, "mse"] = results.loc[~on_net, "mse"].to_numpy()
    assert "(*) no relative gap at 0%, 100%: gap at q=0 within noise" in tabulate_results(results, STUDY)


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
    ],
)
def test_options_that_make_no_sense_end_in_one_line_and_exit_code_2(options, named, capsys, tmp_path):
    assert main(["benchmark", *options, "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert named in said
    assert not list(tmp_path.iterdir())


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
    assert capsys.readouterr().err == "interrupted\n"


def test_matplotlib_state_is_left_alone(finished):
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
