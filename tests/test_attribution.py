"""Measures of scores of training rows, the study that compares scores by retraining, and its command."""

import os
import re
import sys
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from conftest import random_rows
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import telescoping_sklearn
from telescoping_sklearn import TelescopingGBTRegressor, TelescopingMLPRegressor
from telescoping_sklearn.__main__ import main
from telescoping_sklearn.attribution import (
    ATTRIBUTION_DATA,
    AttributionStudy,
    _data,
    _models,
    _runner,
    bootstrap_interval,
    draw_subsets,
    fetch_concrete,
    leave_one_out_correlation,
    linear_datamodeling_score,
    load_concrete,
    mislabel_auc,
    removed_rows,
    run_attribution,
    summarise_attribution,
    tabulate_attribution,
    weights_times_labels,
)
from telescoping_sklearn.attribution._data import draw_sample, read_table
from telescoping_sklearn.attribution._models import MODELS, fit_without

SEEDS = st.integers(0, 2**32 - 1)

# -- measures ----------------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(3, 12), st.integers(1, 4), st.booleans())
@example(13154, 7, 1, False)  # two subsets are equal
def test_the_datamodeling_score_is_spearmans_correlation_of_sums(seed, n_subsets, n_query, ties):
    rng = np.random.default_rng(seed)
    scores, predictions = rng.normal(size=(n_query, 9)), rng.normal(size=(n_subsets, n_query))
    if ties:
        scores, predictions = scores.round(), predictions.round()
    subsets = draw_subsets(9, 0.5, n_subsets, seed)
    found = linear_datamodeling_score(predictions, scores, subsets, average=False)
    for query in range(n_query):
        sums = [sum(scores[query, row] for row in range(9) if kept[row]) for kept in subsets]
        if np.ptp(predictions[:, query]) == 0:
            assert np.isnan(found[query])
        elif np.ptp(sums) == 0:
            assert found[query] == 0
        elif np.ptp(np.round(sums, 9)) > 0:
            assert found[query] == pytest.approx(spearmanr(predictions[:, query], sums).statistic, abs=1e-9)
    if not np.isnan(found).all():
        expected = np.nanmean(found)
        assert linear_datamodeling_score(predictions, scores, subsets) == pytest.approx(expected)


@given(SEEDS)
def test_an_additive_model_has_score_one_whatever_its_scale(seed):
    rng = np.random.default_rng(seed)
    scores, subsets = rng.normal(size=(3, 12)), draw_subsets(12, 0.5, 8, seed)
    predictions = 5 + np.exp(subsets @ scores.T)
    assert linear_datamodeling_score(predictions, scores, subsets) == pytest.approx(1)
    assert linear_datamodeling_score(-predictions, scores, subsets) == pytest.approx(-1)
    assert leave_one_out_correlation(-scores.T, scores, np.arange(12)) == pytest.approx(1)


def test_predictions_that_never_vary_have_no_score():
    subsets = draw_subsets(6, 0.5, 4, seed=0)
    assert np.isnan(linear_datamodeling_score(np.zeros((4, 2)), np.ones((2, 6)), subsets))


def test_leave_one_out_follows_the_rows_named():
    rng = np.random.default_rng(0)
    scores, left_out, predictions = rng.normal(size=(3, 20)), rng.permutation(20)[:7], rng.normal(size=(7, 3))
    found = leave_one_out_correlation(predictions, scores, left_out, average=False)
    expected = [spearmanr(-predictions[:, query], scores[query, left_out]).statistic for query in range(3)]
    np.testing.assert_allclose(found, expected)


@given(SEEDS, st.integers(2, 30), st.booleans())
def test_the_area_is_scikit_learns(seed, n_rows, ties):
    rng = np.random.default_rng(seed)
    suspicion, wrong = rng.normal(size=n_rows), np.zeros(n_rows, dtype=bool)
    wrong[rng.permutation(n_rows)[: rng.integers(1, n_rows)]] = True
    suspicion = suspicion.round() if ties else suspicion
    assert mislabel_auc(suspicion, wrong) == pytest.approx(roc_auc_score(wrong, suspicion))
    assert mislabel_auc(suspicion, wrong, average=False).mean() == pytest.approx(roc_auc_score(wrong, suspicion))


@given(SEEDS, st.integers(2, 40), st.floats(0.02, 0.98))
def test_removed_rows_have_the_largest_scores(seed, n_rows, share):
    scores = np.random.default_rng(seed).normal(size=n_rows).round(1)
    (removed,) = removed_rows(scores, [share])
    assert removed.sum() == max(1, round(share * n_rows))
    assert removed.all() or scores[removed].min() >= scores[~removed].max()


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_subsets_are_random_and_of_one_size(share):
    subsets = draw_subsets(40, share, 300, seed=1)
    assert (subsets.sum(axis=1) == round(40 * share)).all()
    np.testing.assert_allclose(subsets.mean(axis=0), share, atol=0.12)
    assert len({row.tobytes() for row in subsets}) == 300
    np.testing.assert_array_equal(subsets, draw_subsets(40, share, 300, seed=1))


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    seeds = rng.normal(size=(150, 12, 1)) + rng.normal(size=(150, 12, 10))
    found = [bootstrap_interval(list(values), level=0.9, n_resamples=300) for values in seeds]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in found])
    assert 0.8 < covered <= 0.97
    assert all(interval.low <= interval.mean <= interval.high for interval in found)


def test_the_interval_of_one_seed_is_that_of_its_rows():
    values = np.random.default_rng(0).normal(size=400)
    interval = bootstrap_interval([np.r_[values, np.nan]])
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose(interval, [values.mean(), values.mean() - half, values.mean() + half], atol=0.02)


SUBSETS = draw_subsets(4, 0.5, 3, seed=0)
WRONG_INPUTS = {
    "share 0": (lambda: draw_subsets(10, 0.0, 3, 0), "share=0.0"),
    "share of all": (lambda: draw_subsets(10, 0.99, 3, 0), "share=0.99"),
    "no subset": (lambda: draw_subsets(10, 0.5, 0, 0), "n_subsets=0"),
    "subsets of ints": (lambda: linear_datamodeling_score(np.ones((3, 1)), np.ones((1, 4)), SUBSETS * 1), "bool"),
    "other rows": (lambda: linear_datamodeling_score(np.ones((3, 1)), np.ones((1, 5)), SUBSETS), "5 rows"),
    "other queries": (lambda: linear_datamodeling_score(np.ones((3, 2)), np.ones((1, 4)), SUBSETS), r"\(3, 1\)"),
    "nan": (lambda: linear_datamodeling_score(np.full((3, 1), np.nan), np.ones((1, 4)), SUBSETS), "predictions"),
    "inf": (lambda: linear_datamodeling_score(np.ones((3, 1)), np.full((1, 4), np.inf), SUBSETS), "scores"),
    "no such row": (lambda: leave_one_out_correlation(np.ones((1, 1)), np.ones((1, 4)), [4]), "left_out"),
    "negative row": (lambda: leave_one_out_correlation(np.ones((1, 1)), np.ones((1, 4)), [-1]), "left_out"),
    "none wrong": (lambda: mislabel_auc([1.0, 2.0], [False, False]), "none"),
    "all wrong": (lambda: mislabel_auc([1.0, 2.0], [True, True]), "all"),
    "ints": (lambda: mislabel_auc([1.0, 2.0], [1, 0]), "bool"),
    "suspicion nan": (lambda: mislabel_auc([1.0, np.nan], [True, False]), "self_influence"),
    "remove all": (lambda: removed_rows([1.0, 2.0], [1.0]), "shares"),
    "level": (lambda: bootstrap_interval([[1.0]], level=1.0), "level=1.0"),
    "empty seed": (lambda: bootstrap_interval([[1.0], [np.nan]]), "seed"),
}


@pytest.mark.parametrize(("call", "message"), WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_wrong_inputs_of_measures_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- data --------------------------------------------------------------------------------------------------------------


def concrete_file(folder, n_rows=30, n_columns=9):
    rng = np.random.default_rng(0)
    columns = {f"column {number}": rng.uniform(0, 100, n_rows) for number in range(n_columns)}
    file = folder / "concrete.csv"
    pd.DataFrame(columns).to_csv(file, index=False)
    return file


def test_concrete_is_read_from_a_file_with_the_strength_last(tmp_path, monkeypatch):
    file = concrete_file(tmp_path)
    X, y = load_concrete(file)
    raw = pd.read_csv(file)
    pd.testing.assert_frame_equal(X, raw.iloc[:, :8])
    pd.testing.assert_series_equal(y, raw.iloc[:, 8])
    monkeypatch.setenv("TELESCOPING_DATA", str(tmp_path))
    pd.testing.assert_frame_equal(fetch_concrete()[0], X)
    assert read_table("concrete").X.shape == (30, 8)


@pytest.mark.parametrize("folder", [None, "empty"])
def test_concrete_comes_from_openml_where_there_is_no_file(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("TELESCOPING_DATA", raising=False)
    if folder:
        monkeypatch.setenv("TELESCOPING_DATA", str(tmp_path))
    monkeypatch.setattr(_data, "fetch_openml_table", lambda name: ("fetched", name))
    assert fetch_concrete() == ("fetched", "concrete_compressive_strength")


def test_a_file_that_is_not_concrete_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"is not Concrete.*has 8 columns"):
        load_concrete(concrete_file(tmp_path, n_columns=8))
    file = concrete_file(tmp_path)
    file.write_text(file.read_text().replace("column 0", "0").replace("\n", "\nx", 1))
    with pytest.raises(ValueError, match=r"is not Concrete.*8 of them numbers"):
        load_concrete(file)


def test_samples_are_prepared_from_their_training_rows_alone():
    table = read_table("lucas_county")
    sample = draw_sample(table, 200, 50, seed=3)
    assert sample.X.shape[1] == sample.X_query.shape[1]
    np.testing.assert_allclose([sample.y.mean(), sample.y.std()], [0, 1], atol=1e-12)
    assert np.abs(sample.y_query.mean()) > 1e-6
    assert sample.X.dtype == sample.X_query.dtype == np.float64
    again, other = draw_sample(table, 200, 50, seed=3), draw_sample(table, 200, 50, seed=4)
    np.testing.assert_array_equal(sample.X, again.X)
    assert not np.array_equal(sample.y, other.y)


def test_a_table_of_too_few_rows_is_refused():
    X, y = random_rows(30)
    with pytest.raises(ValueError, match="n_train=25 and n_query=10"):
        draw_sample(read_table(("mine", X, y)), 25, 10, seed=0)


UNKNOWN_DATA = ["moon", "openml:", "suite:353", "Friedman", {"path": "mine.csv", "target": "y"}, ("mine", [[1.0]])]


@pytest.mark.parametrize("item", UNKNOWN_DATA, ids=str)
def test_unknown_data_are_refused_with_the_names_that_a_study_takes(item):
    with pytest.raises(ValueError, match="no data set") as raised:
        AttributionStudy(data=("friedman", item))
    message = str(raised.value)
    assert repr(item) in message
    said = message.replace(repr(item), "")
    assert all(name in said for name in (*ATTRIBUTION_DATA, "openml:NAME", "(name, X, y)"))
    assert not re.search("suite|path|openml:ID", said)


# -- studies -----------------------------------------------------------------------------------------------------------

SIZES = {"n_train": 40, "n_query": 6, "n_subsets": 4, "n_left_out": 3, "n_removal": 2, "removal_shares": (0.05, 0.2)}
SETTINGS = {
    "lightgbm": {"n_estimators": 4, "min_child_samples": 4},
    "xgboost": {"n_estimators": 4, "max_depth": 3, "learning_rate": 0.3},
    "net_sgd_0.02": {"hidden_layer_sizes": [4], "max_iter": 2, "batch_size": 16, "dtype": "float64"},
}


def tiny(model, **settings):
    X, y = random_rows(60)
    options = {"data": (("mine", X, y),), "models": (model,), "n_seeds": 1, "model_settings": SETTINGS[model]}
    return AttributionStudy(**options | SIZES | settings)


without_xgboost = pytest.mark.skipif(find_spec("xgboost") is None, reason="xgboost is not installed")
STUDIED = [pytest.param(name, marks=without_xgboost if name == "xgboost" else ()) for name in SETTINGS]


@pytest.fixture(scope="module", params=STUDIED)
def finished(request, tmp_path_factory):
    study, folder = tiny(request.param, n_seeds=2), tmp_path_factory.mktemp("attribution")
    return study, folder, run_attribution(study, folder)


def fitted_again(study, sample, rows, seed, weights=None):
    """Predictions of the query rows by a model of some rows, or of all rows with other weights, made by hand."""
    (name,) = study.models
    if name == "xgboost":
        from xgboost import XGBRegressor

        model = XGBRegressor(**SETTINGS[name], n_jobs=1, random_state=seed).fit(sample.X[rows], sample.y[rows])
        return telescoping_sklearn.telescope(model, sample.X[rows], sample.y[rows])
    if name == "lightgbm":
        model = TelescopingGBTRegressor(**SETTINGS[name], n_jobs=1, random_state=seed)
    else:
        more = {"optimizer": "sgd", "learning_rate_init": 0.02, "momentum": 0.9, "n_iter_no_change": np.inf}
        model = TelescopingMLPRegressor(**SETTINGS[name], **more, section=1, random_state=seed)
    return model.fit(sample.X[rows], sample.y[rows], sample_weight=weights)


def of(results, measure, contender, seed):
    chosen = results.query("measure == @measure and contender == @contender and seed == @seed")
    return chosen.sort_values("row")["value"].to_numpy()


def test_results_are_those_of_models_fitted_by_hand(finished):
    study, _, results = finished
    (name,) = study.models
    sample = draw_sample(read_table(study.data[0]), 40, 6, seed=1)
    scores = weights_times_labels(fitted_again(study, sample, slice(None), 1).telescope_, sample.X_query)
    for measure, share in {"half": 0.5, "most": 0.9 if name.startswith("net") else 0.95}.items():
        subsets = draw_subsets(40, share, 4, seed=1)
        predictions = np.stack([fitted_again(study, sample, kept, 1).predict(sample.X_query) for kept in subsets])
        expected = linear_datamodeling_score(predictions, scores, subsets, average=False)
        np.testing.assert_allclose(of(results, measure, "S y", 1), expected)


def test_removal_is_the_drop_without_the_rows_of_the_largest_scores(finished):
    study, _, results = finished
    sample = draw_sample(read_table(study.data[0]), 40, 6, seed=0)
    model = fitted_again(study, sample, slice(None), 0)
    scores, full = weights_times_labels(model.telescope_, sample.X_query), model.predict(sample.X_query)
    for row in range(2):
        for share in (0.05, 0.2):
            kept = ~removed_rows(scores[row], [share])[0]
            if not study.models[0].startswith("net"):
                without = fitted_again(study, sample, kept, 0)
            else:  # by weights of zero, so that the batches stay
                without = fitted_again(study, sample, slice(None), 0, weights=kept.astype(float))
            expected = full[row] - without.predict(sample.X_query)[row]
            assert of(results, f"removal {100 * share:g} %", "S y", 0)[row] == pytest.approx(expected, abs=1e-9)


def test_every_measure_has_values_of_every_contender(finished):
    _, _, results = finished
    assert results["value"].notna().all()
    assert set(results["seed"]) == {0, 1}
    counts = results.groupby(["measure", "contender", "variant", "seed"]).size().unstack().min(axis=1)
    for measure, n_rows in {"half": 6, "most": 6, "loo": 6, "mislabel": 4, "removal 5 %": 2, "removal 20 %": 2}.items():
        assert (counts[measure] == n_rows).all()
        assert {"influence", "S r", "S y", "random"} <= set(counts[measure].reset_index()["contender"])
    assert ("mislabel", "squared residual", "") in counts.index


def test_stored_models_are_not_trained_again(finished, monkeypatch):
    study, folder, results = finished

    make = _models._estimator

    def explained_only(spec, seed, *, record):
        assert record, "a stored model was trained again"
        return make(spec, seed, record=record)

    monkeypatch.setattr(_models, "_estimator", explained_only)
    pd.testing.assert_frame_equal(run_attribution(study, folder), results)
    with pytest.raises(AssertionError, match="trained again"):
        run_attribution(tiny(*study.models, n_subsets=5), folder)


def test_results_do_not_depend_on_processes_or_on_what_is_stored():
    study = tiny("lightgbm", measures=("half",))
    pd.testing.assert_frame_equal(run_attribution(study, n_jobs=2), run_attribution(study))


def test_scores_of_users_are_compared_too():
    def mine(telescope, X):
        return telescope.kernel_weights(X) * telescope.y

    study = tiny("lightgbm", measures=("half", "mislabel", "removal"))
    results = run_attribution(study, more_scores={"mine": mine}).set_index("contender")
    values = ["measure", "row", "value"]
    assert len(results.loc["mine"]) == len(results.loc["S y"]) == 6 + 4 + 4
    np.testing.assert_array_equal(results.loc["mine", values].to_numpy(), results.loc["S y", values].to_numpy())


def test_mislabelled_rows_get_the_labels_of_other_rows():
    y = np.arange(50.0)
    replaced, wrong = _runner.mislabelled_labels(y, 0.1, seed=0)
    assert wrong.sum() == 5
    assert ((replaced != y) == wrong).all()
    assert set(replaced) <= set(y)


@pytest.mark.parametrize("contender", ["influence", "BoostIn", "LeafInfluence", "squared residual"])
def test_mislabelled_rows_are_found(contender):
    X, _ = random_rows(200)
    study = AttributionStudy(
        data=(("mine", X, 5 * X[:, 0]),), measures=("mislabel",), n_train=150, n_query=5, n_seeds=1
    )
    results = run_attribution(study)
    assert results.query("contender == @contender")["value"].mean() > 0.75


def test_a_net_that_is_fitted_again_by_weight_keeps_its_batches():
    X, y = random_rows(40)
    spec = tiny("net_sgd_0.02").spec("net_sgd_0.02")
    options = {"seed": 0, "versions": {}}
    everything = fit_without(spec, X, y, X, np.ones(40, dtype=bool), by_weight=False, **options)
    np.testing.assert_allclose(
        fit_without(spec, X, y, X, np.ones(40, dtype=bool), by_weight=True, **options), everything, atol=1e-12
    )
    one_less = np.arange(40) != 3
    near = np.abs(fit_without(spec, X, y, X, one_less, by_weight=True, **options) - everything).max()
    other = np.abs(fit_without(spec, X, y, X, one_less, by_weight=False, **options) - everything).max()
    assert 0 < near < other


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ("forest",)}, "models=.*'forest'.*must be of lightgbm"),
        ({"measures": ()}, "measures="),
        ({"data": ()}, "data must name"),
        ({"n_seeds": 0}, "n_seeds=0"),
        ({"n_train": 2.5}, "n_train=2.5"),
        ({"n_query": True}, "n_query=True"),
        ({"removal_shares": (0.1, 1.0)}, "removal_shares="),
        ({"mislabelled": 0.0}, "mislabelled=0.0"),
        ({"n_left_out": 601}, "n_left_out=601 must be at most n_train, 600 for lightgbm"),
        ({"n_left_out": 500, "models": ("lightgbm", "net_sgd_0.02")}, "n_left_out=500 .* 400 for net_sgd_0.02"),
        ({"n_train": 60}, "n_left_out=100 must be at most n_train, 60 for lightgbm"),
        ({"n_removal": 21, "n_query": 20}, "n_removal=21 must be at most n_query=20"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_studies_are_refused_when_they_are_made(settings, message):
    with pytest.raises(ValueError, match=message):
        AttributionStudy(**settings)


def test_sizes_of_measures_that_are_not_taken_are_not_checked():
    assert AttributionStudy(n_train=60, n_query=5, measures=("half",)).n_left_out == 100
    everything = AttributionStudy(n_train=100, n_query=10)
    assert (everything.n_left_out, everything.n_removal) == (100, 10)


def test_a_model_without_its_library_is_refused(monkeypatch):
    monkeypatch.setattr("telescoping_sklearn.attribution._models.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="'xgboost' needs xgboost: pip install xgboost"):
        AttributionStudy(models=("xgboost",))


def test_progress_is_written_as_plain_lines_where_there_is_no_terminal(capsys, monkeypatch):
    study = tiny("lightgbm", measures=("half", "loo"))
    run_attribution(study, progress=True)
    said = "mine, lightgbm, seed 0: half, 4 of 4 models\nmine, lightgbm, seed 0: leave one out, 3 of 3 models\n"
    assert capsys.readouterr().err == said
    monkeypatch.setattr(_runner, "_SECONDS_BETWEEN_LINES", 0)
    run_attribution(study, progress=True)
    assert [line.split(", ")[-1] for line in capsys.readouterr().err.splitlines()] == [
        *(f"{number} of 4 models" for number in range(1, 5)),
        *(f"{number} of 3 models" for number in range(1, 4)),
    ]
    run_attribution(study)
    assert capsys.readouterr().err == ""


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run_attribution(tiny("lightgbm", measures=("half",)), progress=True)
    said = capsys.readouterr().err
    assert "\r" in said
    assert "half:" in said
    assert "models\n" not in said


def test_jobs_must_be_a_number_of_processes():
    with pytest.raises(ValueError, match="n_jobs=0"):
        run_attribution(tiny("lightgbm"), n_jobs=0)


# -- tables ------------------------------------------------------------------------------------------------------------


def results_of(values):
    """Results of one measure, from values by contender and variant over two seeds of three rows."""
    lines = [
        ("d", "m", number // 3, "half", contender, variant, number % 3, value)
        for (contender, variant), column in values.items()
        for number, value in enumerate(column)
    ]
    return pd.DataFrame(lines, columns=list(_runner.RESULT_COLUMNS))


def test_the_summary_compares_every_score_with_influence_on_the_same_rows():
    base = np.array([0.1, 0.9, 0.4, 0.2, 0.8, 0.5])
    summary = summarise_attribution(
        results_of(
            {
                ("influence", ""): base,
                ("lower", ""): base - 0.05,
                ("tuned", "damping 1"): base + 0.1,
                ("tuned", "damping 2"): base - 0.1,
            }
        )
    ).set_index(["contender", "variant"])
    np.testing.assert_allclose(summary["mean"] + summary["lead"], base.mean())
    np.testing.assert_allclose(summary.loc[("lower", ""), ["lead_low", "lead_high"]].astype(float), 0.05)
    assert summary.loc[("influence", ""), "low"] < summary.loc[("influence", ""), "high"]
    assert summary["best"].tolist() == [True, True, True, False]


def test_the_table_shows_the_best_variant_and_the_settings(finished):
    study, _, results = finished
    text = tabulate_attribution(results, study)
    (name,) = study.models
    assert f"mine, {name}" in text
    for key in SETTINGS[name]:
        assert f"{key}={SETTINGS[name][key]}" in text
    assert "40 training rows, 6 query rows, 4 subsets; seeds 0 to 1" in text
    assert len(re.findall(r"^influence +\S", text, flags=re.M)) == 1
    assert ("Gauss-Newton, best damping" in text) == name.startswith("net")


MARK = re.compile(r"\) [+-](?: |$)", flags=re.M)
TOO_SMALL = "sizes too small to compare"


@pytest.mark.parametrize(("n_seeds", "marks"), [(2, True), (2, False), (1, True), (1, False)])
def test_scores_are_marked_where_there_are_seeds_to_compare(n_seeds, marks):
    base = np.array([0.1, 0.9, 0.4, 0.2, 0.8, 0.5])
    results = results_of({("influence", ""): base, ("lower", ""): base - 0.1, ("higher", ""): base + 0.1})
    study = AttributionStudy(n_seeds=n_seeds, measures=("half",))
    text = tabulate_attribution(results[results["seed"] < n_seeds], study, marks=marks)
    if n_seeds == 2 and marks:
        assert len(MARK.findall(text)) == 2
        assert "+ or -" in text
        assert TOO_SMALL not in text
    else:
        assert not MARK.search(text)
        assert "+ or -" not in text
        assert text.count(TOO_SMALL) == 1


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_writes_values_summary_and_table(tmp_path, capsys):
    folder = tmp_path / "results"
    command = ["attribution", "--quick", "--data", "friedman", "--train", "60", "--measures", "half", "mislabel"]
    assert main([*command, "--folder", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert (folder / "table.txt").read_text().strip() in printed
    values = pd.read_csv(folder / "values.csv", keep_default_na=False)
    assert list(values) == list(_runner.RESULT_COLUMNS)
    assert set(values["measure"]) == {"half", "mislabel"}
    assert set(pd.read_csv(folder / "summary.csv")["contender"]) == set(values["contender"])
    assert "60 training rows, 20 query rows, 10 subsets; seeds 0 to 0" in printed
    assert os.listdir(folder / "retrained")


QUICK = ["attribution", "--quick", "--data", "friedman", "--train", "60", "--query", "5", "--measures", "mislabel"]


def test_quick_studies_and_single_seeds_have_no_marks(tmp_path, capsys):
    full = [name for name in QUICK if name != "--quick"]
    for command in (QUICK, [*QUICK, "--seeds", "2"], [*full, "--seeds", "1"]):
        assert main([*command, "--folder", str(tmp_path / "small")]) == 0
        printed = capsys.readouterr().out
        assert printed.count(TOO_SMALL) == 1
        assert not MARK.search(printed)
    assert main([*full, "--seeds", "2", "--folder", str(tmp_path / "full")]) == 0
    printed = capsys.readouterr().out
    assert MARK.search(printed)
    assert TOO_SMALL not in printed


def written(folder):
    return {name: (folder / name).read_text() for name in ("values.csv", "summary.csv", "table.txt")}


def test_quick_and_full_studies_have_folders_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([name for name in QUICK if name != "--quick"]) == 0
    full = written(tmp_path / "attribution_results")
    assert main(QUICK) == 0
    assert set(os.listdir(tmp_path)) == {"attribution_results", "attribution_quick"}
    assert written(tmp_path / "attribution_results") == full
    assert written(tmp_path / "attribution_quick") != full
    assert "Written: attribution_quick" in capsys.readouterr().out


def test_other_results_are_kept(tmp_path, capsys):
    quick = [*QUICK, "--folder", str(tmp_path)]
    others = [[*quick, "--seeds", "2"], [*quick, "--train", "70"]]
    found = []
    for command in (quick, *others):
        assert main(command) == 0
        found.append(written(tmp_path))
    printed = capsys.readouterr().out
    for number, earlier in enumerate(found[:2], start=1):
        place = tmp_path / f"earlier_{number}"
        assert written(place) == earlier
        assert f"Other results that were in {tmp_path} are kept in {place}." in printed
    assert main(others[-1]) == 0
    assert written(tmp_path) == found[-1]
    assert not (tmp_path / "earlier_3").exists()
    assert "are kept" not in capsys.readouterr().out


def test_values_without_a_table_are_kept_too(tmp_path):
    (tmp_path / "values.csv").write_bytes(b"mine\xff")
    assert main([*QUICK, "--folder", str(tmp_path)]) == 0
    assert (tmp_path / "earlier_1" / "values.csv").read_bytes() == b"mine\xff"
    assert os.listdir(tmp_path / "earlier_1") == ["values.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "forest"], "'forest'"),
        (["--data", "moon"], "no data set 'moon'"),
        (["--seeds", "0"], "n_seeds=0"),
        (["--quick", "--left-out", "500"], "n_left_out=500 must be at most n_train, 120"),
        (["--n-jobs", "0"], "n_jobs=0"),
    ],
    ids=str,
)
def test_wrong_options_end_in_a_line_and_no_traceback(arguments, message, tmp_path, capsys):
    assert main(["attribution", "--folder", str(tmp_path), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said


def test_an_interrupted_command_says_that_models_are_kept(tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("telescoping_sklearn.attribution._command.run_attribution", interrupted)
    assert main(["attribution", "--quick", "--folder", str(tmp_path)]) == 130
    assert "retrained models are kept" in capsys.readouterr().err


def test_models_are_listed_where_they_are_documented():
    for name in MODELS:
        assert f'"{name}"' in AttributionStudy.__doc__
