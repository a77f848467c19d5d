"""Boosted trees with a loss on a raw score: exact in the kernel form, a derivative in the labels."""

import numpy as np
import pytest
from conftest import make_trees, random_rows
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracles import RAW_LOSSES, frozen_raw_scores
from scipy.special import expit
from test_boosting import library_of

from telescoping_sklearn.base import held_out_rows
from telescoping_sklearn.losses import Fair, Gamma, Logistic, Poisson, Tweedie

OBJECTIVES = ["poisson", "gamma", "tweedie", "cross_entropy", "binary", "fair"]


def rows_for(objective, n_rows=80, seed=0):
    """Rows with labels that the loss takes."""
    X, f = random_rows(n_rows, seed)
    rng = np.random.default_rng(seed)
    labels = {
        "poisson": rng.poisson(np.exp(f)),
        "gamma": np.exp(f) * rng.gamma(2, size=n_rows),
        "tweedie": rng.poisson(np.exp(f)) * rng.gamma(2, size=n_rows),
        "cross_entropy": expit(f),
        "xentropy": expit(f),
        "binary": f > np.median(f),
        "fair": f,
    }
    return X, labels[objective].astype(float)


def raw_tolerance(raw):
    return 1e-5 * np.std(raw) + 1e-6 * max(1.0, np.abs(raw).max())


def derivative_in_label(model, X, y, query, row, sample_weight=None):
    """Central difference of the frozen run in one label, at the training rows and the query."""
    step = 1e-5
    ends = []
    for sign in (1, -1):
        labels = y.copy()
        labels[row] += sign * step
        ends.append(frozen_raw_scores(model, X, y, query, labels, sample_weight))
    return [(after - before) / (2 * step) for after, before in zip(*ends, strict=True)]


SETTINGS = {
    "plain": {},
    "ridge": {"reg_lambda": 2.0},
    "bags": {"subsample": 0.6, "subsample_freq": 2},
    "small safeguard and power": {"poisson_max_delta_step": 0.1, "tweedie_variance_power": 1.1},
}


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_kernel_form_and_the_derivative_equal_the_oracles(objective, settings, weighted):
    X, y = rows_for(objective)
    query = random_rows(15, seed=9)[0]
    sample_weight = np.random.default_rng(1).exponential(size=80) if weighted else None
    model = make_trees(objective=objective, **settings).fit(X, y, sample_weight=sample_weight)
    training, reached = frozen_raw_scores(model, X, y, query, y, sample_weight)
    raw = model.booster_.predict(X, raw_score=True)
    assert np.std(raw) > 0.1
    np.testing.assert_allclose(training, raw, rtol=0, atol=raw_tolerance(raw))
    np.testing.assert_allclose(model.telescope_.rebuilt(), raw, rtol=0, atol=raw_tolerance(raw))
    np.testing.assert_allclose(reached, model.booster_.predict(query, raw_score=True), rtol=0, atol=raw_tolerance(raw))
    weights, of_training = model.kernel_weights(query), model.kernel_weights_
    for row in (0, 17, 55):
        moved_training, moved = derivative_in_label(model, X, y, query, row, sample_weight)
        scale = np.abs(weights).max()
        np.testing.assert_allclose(weights[:, row], moved, rtol=0, atol=1e-5 * scale)
        np.testing.assert_allclose(of_training[:, row], moved_training, rtol=0, atol=1e-5 * scale)
        assert np.abs(moved).max() > 1e-2 * scale or weighted or "subsample" in settings


@pytest.mark.parametrize("objective", [*OBJECTIVES, "xentropy"])
def test_predictions_are_those_of_lightgbm_bit_for_bit(objective):
    X, y = rows_for(objective)
    model = make_trees(objective=objective).fit(X, y)
    library = library_of(model).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), library.predict(X))
    staged = list(model.staged_predict(X))
    np.testing.assert_allclose(staged[-1], library.predict(X))
    np.testing.assert_allclose(staged[2], library.predict(X, num_iteration=3))
    np.testing.assert_allclose(next(model.staged_predict(X, stages=[0])), y.mean())
    telescoping = list(model.staged_predict(X, approximation="telescoping"))
    np.testing.assert_array_equal(telescoping, staged)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_breakdown_adds_up_to_the_raw_score(objective):
    X, y = rows_for(objective)
    model = make_trees(objective=objective).fit(X, y)
    table = model.breakdown(X[:5])
    np.testing.assert_allclose(table.sum(), model.booster_.predict(X[:5], raw_score=True))
    np.testing.assert_allclose(table.loc[0], RAW_LOSSES[objective](model)[2](y.mean()))


def test_what_presumes_a_smoother_is_refused_with_what_to_use():
    X, y = rows_for("poisson")
    model = make_trees(objective="poisson").fit(X, y)
    questions = [
        lambda: model.approximation_error(X),
        lambda: model.telescope_.reconstruct(X),
        lambda: model.offset(X),
        lambda: model.effective_params(X),
        lambda: model.effective_params(X, n_probes=4),
        lambda: model.staged_effective_params(X),
        lambda: model.effective_params_,
        lambda: model.degrees_of_freedom_,
        lambda: model.staged_training_summary(),
    ]
    for ask in questions:
        with pytest.raises(ValueError, match=r"derivative of the raw score in the labels.*Use kernel_weights"):
            ask()
    assert np.abs(model.kernel_weights(X) @ y - model.booster_.predict(X, raw_score=True)).max() > 0.1
    assert model.top_examples(X[:3], k=2).shape[0] == 6
    assert model.kernel_norm_ratio(X) == pytest.approx(1)


@pytest.mark.parametrize(
    ("objective", "labels"),
    [
        ("poisson", [-1.0, 2.0]),
        ("poisson", [0.0, 0.0]),
        ("gamma", [0.0, 1.0]),
        ("tweedie", [-0.1, 1.0]),
        ("tweedie", [0.0, 0.0]),
        ("cross_entropy", [0.5, 1.1]),
        ("cross_entropy", [1.0, 1.0]),
        ("binary", [0.0, 0.5]),
        ("binary", [1.0, 1.0]),
    ],
)
def test_labels_that_the_loss_does_not_take_are_refused(objective, labels):
    X = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(ValueError, match=f"objective='{objective}' takes .*; y runs from"):
        make_trees(objective=objective).fit(X, np.repeat(labels, 20))


def test_labels_of_weight_zero_do_not_make_a_class():
    X = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(ValueError, match="labels 0 and 1, both of them"):
        make_trees(objective="binary").fit(X, np.arange(40) < 5, sample_weight=np.arange(40) >= 5)


@pytest.mark.parametrize("weighted", [False, True], ids=["all held out", "held out or of weight zero"])
def test_labels_of_the_rows_trained_on_allow_the_start(weighted):
    X = np.random.default_rng(0).normal(size=(40, 2))
    trained, held_out = held_out_rows(40, 0.1, 0)
    y, weights = np.zeros(40), np.ones(40)
    y[held_out] = 1.0
    if weighted:
        y[trained[:5]], weights[trained[:5]] = 1.0, 0.0
    for objective, takes in (("poisson", "not negative and not all zero"), ("binary", "0 and 1, both of them")):
        match = rf"objective='{objective}' takes .*{takes}; y runs from 0.0 to {1.0 * weighted} on the rows trained on"
        with pytest.raises(ValueError, match=match):
            make_trees(objective=objective, early_stopping_rounds=2).fit(X, y, sample_weight=weights)


@pytest.mark.parametrize(
    ("objective", "label"),
    [("poisson", -1.0), ("gamma", 0.0), ("gamma", 1e-50), ("tweedie", -0.1), ("cross_entropy", 1.1), ("binary", 0.5)],
)
def test_labels_to_watch_that_the_loss_does_not_take_are_refused(objective, label):
    X, y = rows_for(objective)
    y_val = y.copy()
    y_val[3] = label
    model = make_trees(objective=objective, early_stopping_rounds=3)
    with pytest.raises(ValueError, match=f"objective='{objective}' takes .*; y_val runs from"):
        model.fit(X, y, X_val=X, y_val=y_val)
    one_class = np.full(80, y.max())
    assert model.fit(X, y, X_val=X, y_val=one_class).n_stages_ >= 1


def test_path_smoothing_is_refused():
    with pytest.raises(ValueError, match=r"path_smooth=1.0 is not supported with objective='gamma'"):
        make_trees(objective="gamma", path_smooth=1.0).fit(*rows_for("gamma"))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_early_stopping_and_warm_starts_work(objective):
    X, y = rows_for(objective)
    stopped = make_trees(objective=objective, n_estimators=300, early_stopping_rounds=3).fit(X, y)
    assert stopped.n_stages_ < 300
    assert stopped.kernel_weights(X).shape == (80, 80)
    warm = make_trees(objective=objective, n_estimators=5, warm_start=True).fit(X, y)
    warm.set_params(n_estimators=12).fit(X, y)
    longer = make_trees(objective=objective).fit(X, y)
    np.testing.assert_allclose(warm.predict(X), longer.predict(X), rtol=1e-5)
    np.testing.assert_allclose(warm.kernel_weights(X), longer.kernel_weights(X), atol=1e-5)


@given(
    objective=st.sampled_from(OBJECTIVES),
    num_leaves=st.integers(2, 20),
    min_child_samples=st.integers(1, 20),
    learning_rate=st.floats(0.01, 0.5),
    reg_lambda=st.sampled_from([0.0, 0.5, 20.0]),
    subsample=st.floats(0.2, 1),
    subsample_freq=st.integers(0, 3),
    poisson_max_delta_step=st.floats(0.05, 2),
    tweedie_variance_power=st.floats(1, 1.9),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
@hypothesis_settings(deadline=None, max_examples=50)
def test_the_kernel_form_rebuilds_the_raw_score_whatever_the_settings(objective, weighted, seed, **settings):
    X, y = rows_for(objective, 60, seed)
    sample_weight = np.random.default_rng(seed).exponential(size=60) if weighted else None
    model = make_trees(objective=objective, random_state=seed, **settings).fit(X, y, sample_weight=sample_weight)
    raw = model.booster_.predict(X, raw_score=True)
    np.testing.assert_allclose(model.telescope_.rebuilt(), raw, rtol=0, atol=raw_tolerance(raw))


def test_the_start_is_lightgbms_own_where_the_raw_score_is_far_from_its_derivative_times_labels():
    X, y = random_rows(60)[0], np.full(60, 0.99987)
    telescope = make_trees(objective="cross_entropy").fit(X, y).telescope_
    start = np.log(np.float32(y[0]).astype(float) / (1 - np.float32(y[0]).astype(float)))
    np.testing.assert_allclose(next(telescope.staged_model(X, [0])), start, rtol=1e-12)
    np.testing.assert_allclose(telescope.rebuilt(), start, rtol=1e-9)


@pytest.mark.parametrize(
    "loss", [Poisson(0.7), Gamma(), Tweedie(1.3), Logistic(), Fair(0.7)], ids=lambda loss: type(loss).__name__
)
def test_derivatives_of_losses_are_those_of_finite_differences(loss):
    y, f = np.array([0.2, 0.5, 0.9]), np.array([-0.7, 0.1, 1.2])
    step = 1e-6
    in_f = (loss.gradient(y, f + step) - loss.gradient(y, f - step)) / (2 * step)
    in_y = (loss.gradient(y + step, f) - loss.gradient(y - step, f)) / (2 * step)
    np.testing.assert_allclose(loss.curvature(y, f), in_f, rtol=1e-7)
    np.testing.assert_allclose(loss.label_rate(y, f), -in_y, rtol=1e-7)
    np.testing.assert_allclose(loss.gradient(loss.mean(f), f), 0, atol=1e-12)
    raw, label_weights = loss.start(np.ones(3), y)
    assert loss.mean(raw) == pytest.approx(y.mean())
    moved = [loss.start(np.ones(3), y + step * unit)[0] for unit in np.eye(3)]
    np.testing.assert_allclose(label_weights, (np.array(moved) - raw) / step, rtol=1e-5)


def test_the_path_gives_the_same_derivatives_in_any_order_of_stages():
    X, y = rows_for("tweedie")
    ensemble = make_trees(objective="tweedie").fit(X, y).telescope_.ensemble
    of_stage = [ensemble.gradient, ensemble.injection, ensemble.feedback]
    forward = [[values(stage) for values in of_stage] for stage in range(1, 13)]
    for stage in (12, 5, 4, 11, 1, 7):
        np.testing.assert_allclose([values(stage) for values in of_stage], forward[stage - 1], rtol=1e-12)


@pytest.mark.parametrize("objective", ["poisson", "gamma"])
def test_an_interruption_anywhere_leaves_derivatives_as_they_were(objective):
    X, y = rows_for(objective)
    path = make_trees(objective=objective).fit(X, y).telescope_.ensemble.gradient.__self__
    expected = {stage: path.before(stage).curvature.copy() for stage in (1, 5, 9)}
    real = type(path.loss).curvature

    def interrupt(*_):
        raise KeyboardInterrupt

    for stage in (5, 1, 9, 5):
        path.before(9 if stage != 9 else 1)
        path.loss.curvature = interrupt
        with pytest.raises(KeyboardInterrupt):
            path.before(stage)
        del path.loss.curvature
        assert type(path.loss).curvature is real
        np.testing.assert_allclose(path.before(stage).curvature, expected[stage], rtol=1e-12)
