"""Labels far from zero, which LightGBM's float32 alone would round away, and the check of the telescope beside them."""

import pickle

import numpy as np
import pandas as pd
import pytest
from conftest import make_trees, random_rows, tree_tolerance
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.base import clone
from test_boosting import library_of

from telescoping_sklearn.base import RecordDroppedError

MEANS = [-1e4, 1e7, 1e8, -1e10, 1e13]
SETTINGS = {
    "plain": {},
    "ridge": {"reg_lambda": 3.0},
    "bags": {"subsample": 0.6, "subsample_freq": 2},
    "path smoothing": {"path_smooth": 2.0},
    "constant tree": {"min_child_samples": 100},
    "large learning rate": {"learning_rate": 1.5},
    "early stopping": {"early_stopping_rounds": 3, "n_estimators": 200, "validation_fraction": 0.25},
}
WEIGHTS = np.random.default_rng(0).gamma(0.5, size=60)
WEIGHTS[::7] = 0


@pytest.fixture(scope="module")
def rows():
    X, y = random_rows(60, seed=3)
    return X, 5 * y


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("sample_weight", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_trees_learn_labels_far_from_zero_and_explain_them_in_their_own_units(
    rows, others, mean, settings, sample_weight
):
    X, y = rows[0], rows[1] + mean
    if "path_smooth" in settings:
        sample_weight = None  # unequal ones are refused
    model = make_trees(**settings).fit(X, y, sample_weight=sample_weight)
    assert y.min() < model.label_shift_ < y.max()
    centred = make_trees(**settings).fit(X, y - model.label_shift_, sample_weight=sample_weight)
    assert (centred.label_shift_, centred.n_stages_) == (0, model.n_stages_)
    np.testing.assert_array_equal(model.predict(others), centred.predict(others) + model.label_shift_)
    raw = model.booster_.predict(others, num_iteration=model.n_stages_)
    np.testing.assert_array_equal(model.predict(others), raw + model.label_shift_)
    np.testing.assert_allclose(model.kernel_weights(others), centred.kernel_weights(others), atol=1e-13)
    np.testing.assert_allclose(model.kernel_weights(others).sum(axis=1), 1)
    np.testing.assert_array_equal(model.offset(others), 0)
    np.testing.assert_allclose(model.kernel_weights(others) @ y, model.predict(others), rtol=0, atol=tree_tolerance(y))
    assert model.approximation_error(others).reconstruction_max <= tree_tolerance(y)
    for staged, of_centred in zip(model.staged_predict(others), centred.staged_predict(others), strict=True):
        np.testing.assert_allclose(staged, of_centred + model.label_shift_, rtol=1e-15, atol=1e-5)
    breakdown = model.breakdown(others)
    np.testing.assert_allclose(breakdown.sum(), model.predict(others), rtol=1e-14)
    weights = model.telescope_.ensemble.row_weights
    np.testing.assert_allclose(breakdown.loc[0], weights @ y / weights.sum(), rtol=1e-14)
    top = model.top_examples(others, k=3)
    np.testing.assert_array_equal(top["label"], y[top["row"]])


@pytest.mark.parametrize("mean", MEANS)
def test_criteria_and_scores_do_not_depend_on_where_labels_lie(rows, mean):
    X, y = rows
    near, far = make_trees().fit(X, y), make_trees().fit(X, y + mean)
    digits = 1e-6 + 1e-15 * abs(mean)  # what float64 leaves of labels there
    assert far.score(X, y + mean) == pytest.approx(near.score(X, y), abs=digits)
    near, far = near.stopping_curve(), far.stopping_curve()
    pd.testing.assert_frame_equal(far.by_stage, near.by_stage, rtol=100 * digits)
    assert far.chosen == near.chosen


@pytest.mark.parametrize("mean", MEANS)
def test_rows_that_early_stopping_watches_are_shifted_alike(rows, mean):
    X, y = rows
    X_val, y_val = random_rows(40, seed=5)
    settings = {"early_stopping_rounds": 3, "n_estimators": 200}
    near = make_trees(**settings).fit(X, y, X_val=X_val, y_val=5 * y_val)
    far = make_trees(**settings).fit(X, y + mean, X_val=X_val, y_val=5 * y_val + mean)
    assert far.n_stages_ == near.n_stages_ < 200
    np.testing.assert_allclose(far.predict(X) - mean, near.predict(X), atol=1e-4 + 1e-15 * abs(mean))


@pytest.mark.parametrize("mean", MEANS)
def test_warm_starts_pickles_and_fits_without_a_record_keep_the_shift(rows, others, mean):
    X, y = rows[0], rows[1] + mean
    whole = make_trees(n_estimators=9).fit(X, y)
    grown = make_trees(n_estimators=4, warm_start=True).fit(X, y)
    grown.set_params(n_estimators=9).fit(X, y)
    np.testing.assert_allclose(grown.predict(others), whole.predict(others), rtol=0, atol=tree_tolerance(y))
    assert grown.approximation_error(others).reconstruction_max <= tree_tolerance(y)
    lean = make_trees(n_estimators=9, record=False).fit(X, y)
    for model in (pickle.loads(pickle.dumps(whole)), lean, clone(whole).fit(X, y)):
        np.testing.assert_array_equal(model.predict(others), whole.predict(others))
        assert model.label_shift_ == whole.label_shift_
    with pytest.raises(RecordDroppedError):
        lean.kernel_weights(others)
    refitted = whole.fit(*rows)
    assert refitted.label_shift_ == 0
    np.testing.assert_array_equal(refitted.predict(others), make_trees(n_estimators=9).fit(*rows).predict(others))


ORDINARY = {
    "around zero": lambda y: y,
    "log prices": lambda y: 12 + 0.1 * y,
    "kelvin": lambda y: 290 + y,
    "years, whole numbers": lambda y: np.round(1990 + y),
    "whole numbers below 2**24": lambda y: np.round(1.6e7 + y),
    "halves": lambda y: np.round(1e6 + y),
    "an outlier": lambda y: np.where(np.arange(len(y)) == 7, 1e9, y),
    "counts": lambda y: np.exp(y),
}


@pytest.mark.parametrize("labels", ORDINARY.values(), ids=ORDINARY)
def test_labels_that_float32_holds_reach_lightgbm_as_they_are(rows, others, labels):
    X, y = rows[0], labels(rows[1])
    model = make_trees().fit(X, y)
    assert model.label_shift_ == 0
    np.testing.assert_array_equal(model.predict(others), library_of(model).fit(X, y).predict(others))
    np.testing.assert_array_equal(model.predict(others), model.booster_.predict(others))
    np.testing.assert_allclose(model.kernel_weights(others) @ y, model.predict(others), rtol=0, atol=tree_tolerance(y))


@pytest.mark.parametrize("label", [0.0, 0.1, 3.1, 1e8 + 0.5, -1e-20, 1e30])
@pytest.mark.parametrize("noise", [0.0, 1e-15])
@pytest.mark.parametrize("sample_weight", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_labels_that_are_one_number_are_predicted_to_the_last_digits(rows, others, label, noise, sample_weight):
    y = np.full(60, label) * (1 + noise * rows[1])
    if noise and abs(label) < 1e-10:
        return  # differences of 1e-35 are refused, as labels of that size are
    model = make_trees().fit(rows[0], y, sample_weight=sample_weight)
    np.testing.assert_allclose(model.predict(others), label, rtol=1e-14 + 20 * noise)
    np.testing.assert_allclose(model.kernel_weights(others) @ y, label, rtol=1e-14 + 20 * noise)


@given(
    mean=st.floats(-1e12, 1e12),
    size=st.floats(-6, 6).map(lambda digits: 10**digits),
    weighted=st.booleans(),
    early=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
@hypothesis_settings(deadline=None, max_examples=40)
def test_weights_rebuild_predictions_wherever_labels_lie(mean, size, weighted, early, seed):
    X, y = random_rows(50, seed=seed)
    y = size * y + mean
    sample_weight = np.random.default_rng(seed).exponential(size=50) if weighted else None
    model = make_trees(early_stopping_rounds=3 if early else None, random_state=seed)
    model.fit(X, y, sample_weight=sample_weight)
    query = random_rows(10, seed=seed + 1)[0]
    gap = model.kernel_weights(query) @ y - model.predict(query)
    # A sum of 50 products in float64 has rounding errors of its own.
    assert np.abs(gap).max() <= tree_tolerance(y) + 50 * 2.0**-52 * np.abs(y).max()


# The check of the telescope


@pytest.mark.parametrize("mean", [0.0, *MEANS])
@pytest.mark.parametrize("objective", [None, "poisson"])
def test_the_check_fails_on_labels_that_are_not_those_of_the_fit(rows, mean, objective):
    if objective is not None and mean != 0:
        mean = abs(mean) ** 0.5
    y = rows[1] + mean if objective is None else np.exp(0.2 * rows[1]) * max(mean, 1)
    model = make_trees(objective=objective).fit(rows[0], y)
    record = model._fit_record
    changed = y.copy()
    changed[5] += 0.5 * y.std()
    model._fit_record = record._replace(train=record.train._replace(y=changed))
    with pytest.raises(ValueError, match="misses the model's own training predictions by"):
        _ = model.telescope_
    model._fit_record = record
    assert model.telescope_.n_stages == model.n_stages_


@pytest.mark.parametrize("row", ["no weight", "held out"])
def test_labels_of_rows_that_are_not_trained_on_do_not_blunt_the_check(rows, row):
    X, y = rows[0], rows[1].copy()
    settings, weights = {}, np.ones(60)
    if row == "held out":
        settings = {"early_stopping_rounds": 50, "n_estimators": 12, "validation_fraction": 0.25}
        away = np.flatnonzero(~make_trees(**settings).fit(X, y).telescope_.trained)[0]
    else:
        away, weights[9] = 9, 0
    y[away] = 1e12
    model = make_trees(**settings).fit(X, y, sample_weight=weights)
    assert model.label_shift_ == 0
    trained = np.flatnonzero(model.telescope_.trained)
    changed = y.copy()
    changed[trained[3]] += 0.05 * y[trained].std()
    model._telescope = None
    model._fit_record = model._fit_record._replace(train=model._fit_record.train._replace(y=changed))
    with pytest.raises(ValueError, match="misses the model's own training predictions by"):
        _ = model.telescope_


# Losses that take no shift


@pytest.mark.parametrize("objective", ["poisson", "gamma", "tweedie"])
@pytest.mark.parametrize("mean", [1e5, 1e7, 1e9])
def test_losses_on_a_raw_score_refuse_labels_whose_spread_float32_loses(rows, objective, mean):
    y = mean * (1 + 1e-6 * rows[1])
    with pytest.raises(ValueError, match=rf"objective='{objective}' allows no shift of y, .*float32.* Use objective="):
        make_trees(objective=objective).fit(rows[0], y)
    wide = make_trees(objective=objective).fit(rows[0], mean * np.exp(0.1 * rows[1]))
    assert wide.label_shift_ == 0
    assert wide.telescope_.n_stages == 12
    counts = make_trees(objective=objective).fit(rows[0], np.round(1e6 + rows[1]))  # whole numbers are held
    assert counts.telescope_.n_stages == 12


def test_cross_entropy_refuses_labels_whose_spread_float32_loses(rows):
    with pytest.raises(ValueError, match=r"objective='cross_entropy' allows no shift of y"):
        make_trees(objective="cross_entropy").fit(rows[0], 0.3 + 1e-7 * rows[1])
