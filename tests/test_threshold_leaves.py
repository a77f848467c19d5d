"""Trees whose leaves have thresholds or are quantiles: exact weights and offsets, against loops over leaves."""

import re
from unittest.mock import Mock

import lightgbm
import numpy as np
import pytest
from conftest import make_trees, random_rows
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracles import AffineLeafLoops, quantile_shares
from test_boosting import library_of, tolerance
from test_leaf_telescope import backward_weights, forward_weights
from test_tree_settings import SPLITTING, coded, random_frame

from telescoping_sklearn.boosting._quantiles import quantile_weights
from telescoping_sklearn.boosting.libraries._newton_steps import newton_steps
from telescoping_sklearn.boosting.libraries.lightgbm._placement import _has_frequent_value, _repeats, may_bundle
from telescoping_sklearn.boosting.libraries.lightgbm._quantile_leaves import weighted_rank

N = 60
LOSSES = {
    "penalty": {"reg_alpha": 2.0},
    "clipped": {"max_delta_step": 0.3},
    "penalty, clipped, ridge": {"reg_alpha": 1.0, "max_delta_step": 0.3, "reg_lambda": 1.0},
    "median": {"objective": "regression_l1"},
    "median by another name": {"objective": "mae"},
    "quantile": {"objective": "quantile", "alpha": 0.8},
    "low quantile": {"objective": "quantile", "alpha": 0.05},
    "mape": {"objective": "mape"},
    "huber": {"objective": "huber", "alpha": 0.4},
    "huber, penalty, clipped": {"objective": "huber", "alpha": 0.41, "reg_alpha": 0.97, "max_delta_step": 0.23},
}
SETTINGS = {
    "plain": {},
    "large learning rate": {"learning_rate": 1.0},
    "bags": {"subsample": 0.6, "subsample_freq": 2},
    "early stopping": {"early_stopping_rounds": 3, "validation_fraction": 0.2, "n_estimators": 60},
    "smoothing": {"path_smooth": 2.0},
    "constant tree": {"min_child_samples": 100},
}


def weights_of(kind, n=N):
    rng = np.random.default_rng(0)
    return {
        "no weights": None,
        "ones": np.ones(n),
        "weights": rng.gamma(1.0, size=n),
        "zeros": np.where(rng.random(n) < 0.3, 0.0, 2 * rng.gamma(1.0, size=n)),
    }[kind]


def assert_exact(model, X, y, query, sample_weight=None, arrays=None):
    """S and c are the oracle's, S y + c is LightGBM's prediction, and all routes agree."""
    of_rows, of_query = (X, query) if arrays is None else arrays
    loops = AffineLeafLoops(model, of_rows, y, of_query, sample_weight, model._fit_record.given)
    assert not loops.close
    size = np.abs(y).max()
    np.testing.assert_allclose(model.kernel_weights_, loops.training, atol=1e-12)
    np.testing.assert_allclose(model.kernel_weights(query), loops.reached, atol=1e-12)
    np.testing.assert_allclose(model.offset(query), loops.reached_offset, atol=1e-12 * size)
    rebuilt = loops.reached @ y + loops.reached_offset
    np.testing.assert_allclose(rebuilt, model.predict(query), rtol=0, atol=tolerance(y))
    telescope = model.telescope_
    for group in {1, 3, telescope.n_stages}:
        np.testing.assert_allclose(forward_weights(telescope, of_query, group), loops.reached, atol=1e-12)
        np.testing.assert_allclose(backward_weights(telescope, of_query, group), loops.reached, atol=1e-12)
    staged = telescope.staged_reconstruction(of_query, None)
    for reconstruction, prediction in zip(staged, model.staged_predict(query), strict=True):
        np.testing.assert_allclose(reconstruction, prediction, rtol=0, atol=tolerance(y))
    summary = telescope.staged_training_summary(n_probes=None)
    energy = (loops.training[telescope.trained] ** 2).sum()
    np.testing.assert_allclose([part.value[-1] for part in summary], [energy, loops.training.trace()], rtol=1e-9)
    return loops


@pytest.mark.parametrize("kind", ["no weights", "ones", "weights", "zeros"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_weights_and_offset_equal_the_leaf_loops(rows, others, loss, settings, kind):
    X, y = rows
    sample_weight = weights_of(kind)
    quantile = loss.get("objective") in ("regression_l1", "mae", "quantile", "mape")
    model = make_trees(**loss | settings)
    if "path_smooth" in settings and kind in ("weights", "zeros") and not quantile:
        with pytest.raises(ValueError, match=r"path_smooth=2.0 is not supported with unequal sample_weight"):
            model.fit(X, y, sample_weight=sample_weight)
        return
    assert_exact(model.fit(X, y, sample_weight=sample_weight), X, y, others, sample_weight)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_thresholds_are_met_and_quantiles_take_few_rows(rows, loss):
    model = make_trees(**loss, learning_rate=0.3).fit(*rows)
    ensemble, quantile = model.telescope_.ensemble, "objective" in loss and loss["objective"] != "huber"
    assert (ensemble.constants is None) == quantile
    if "reg_alpha" in loss or "max_delta_step" in loss:
        assert any((rates == 0).any() for rates in ensemble.rates)
        assert any((rates > 0).any() for rates in ensemble.rates)
    if loss.get("objective") == "huber":
        clipped = [1 - ensemble.responding(stage).mean() for stage in range(1, 13)]
        assert 0.05 < np.mean(clipped) < 0.9
    if quantile:
        for kernel in model.staged_kernel(rows[0]):
            assert 1 <= np.diff(kernel.indptr).max() <= 2
            np.testing.assert_allclose(kernel.sum(axis=1), 1)
        np.testing.assert_array_equal(model.offset(rows[0]), 0)
    else:
        assert np.abs(model.offset(rows[0])).max() > 1e-3


@pytest.mark.parametrize("kind", ["no weights", "weights"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_missing_values_and_categories(loss, kind):
    X, y = random_frame(90, seed=0)
    query = random_frame(25, seed=1)[0]
    sample_weight = weights_of(kind, 90)
    model = make_trees(**SPLITTING | loss).fit(X, y, sample_weight=sample_weight)
    assert model.booster_.feature_importance()[2:4].sum() > 0
    assert_exact(model, X, y, query, sample_weight, arrays=(coded(X), coded(query)))


@pytest.mark.parametrize(
    "settings", [{}, {"subsample": 0.5, "subsample_freq": 1}, {"early_stopping_rounds": 2}], ids=str
)
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_warm_starts(rows, others, loss, settings):
    X, y = rows
    model = make_trees(**loss, **settings, warm_start=True, n_estimators=4).fit(X, y)
    model.set_params(n_estimators=9).fit(X, y)
    assert_exact(model, X, y, others)


@pytest.mark.parametrize("kind", ["no weights", "weights"])
@pytest.mark.parametrize("loss", [*LOSSES.values(), {"objective": "fair", "fair_c": 0.5}], ids=[*LOSSES, "fair"])
def test_predictions_are_those_of_lightgbm_bit_for_bit(rows, others, loss, kind):
    sample_weight = weights_of(kind)
    model = make_trees(**loss).fit(*rows, sample_weight=sample_weight)
    library = library_of(model).fit(*rows, sample_weight=sample_weight)
    if kind == "no weights" or loss.get("objective") != "mape":  # its trees with weights differ from fit to fit
        np.testing.assert_array_equal(model.predict(others), library.predict(others))


@pytest.mark.parametrize("objective", ["poisson", "gamma", "tweedie", "cross_entropy", "binary", "fair"])
def test_thresholds_on_a_raw_score(objective, others):
    X, f = random_rows(N, seed=3)
    y = {"cross_entropy": 1 / (1 + np.exp(-f)), "binary": (f > 0.5).astype(float), "fair": f}.get(objective, np.exp(f))
    model = make_trees(objective=objective, reg_alpha=0.5, max_delta_step=0.2, reg_lambda=0.5, fair_c=0.7).fit(X, y)
    loops = AffineLeafLoops(model, X, y, others)
    raw = model.booster_.predict(X, raw_score=True)
    np.testing.assert_allclose(model.telescope_.rebuilt(), raw, rtol=0, atol=1e-5)
    np.testing.assert_allclose(loops.training_values, raw, rtol=0, atol=1e-5)
    assert any((rates == 0).any() for rates in model.telescope_.ensemble.rates)
    np.testing.assert_allclose(model.kernel_weights_, loops.training, atol=1e-6)
    np.testing.assert_allclose(model.kernel_weights(others), loops.reached, atol=1e-6)


@pytest.mark.parametrize("mean", [1e7, -3e9])
@pytest.mark.parametrize(
    "loss",
    [loss for loss in LOSSES.values() if loss.get("objective") != "mape"],
    ids=[n for n in LOSSES if n != "mape"],
)
def test_labels_far_from_zero_are_centred(rows, others, loss, mean):
    X, y = rows[0], rows[1] + mean
    sample_weight = weights_of("zeros")
    model = make_trees(**loss).fit(X, y, sample_weight=sample_weight)
    assert y.min() < model.label_shift_ < y.max()
    centred = make_trees(**loss).fit(X, y - model.label_shift_, sample_weight=sample_weight)
    np.testing.assert_array_equal(model.predict(others), centred.predict(others) + model.label_shift_)
    np.testing.assert_allclose(model.kernel_weights(others), centred.kernel_weights(others), atol=1e-13)
    np.testing.assert_allclose(model.offset(others), centred.offset(others), atol=1e-13)
    rebuilt = model.kernel_weights(others) @ y + model.offset(others)
    np.testing.assert_allclose(rebuilt, model.predict(others), rtol=0, atol=1e-5 * np.std(y) + 1e-14 * abs(mean))


def test_mape_far_from_zero_is_exact_to_what_float32_keeps(rows, others):
    X, y = rows[0], 5 * rows[1] + 1e4
    model = make_trees(objective="mape").fit(X, y)
    assert model.label_shift_ == 0
    rounding = np.abs(y - y.astype(np.float32)).max()
    np.testing.assert_allclose(model.kernel_weights(others) @ y, model.predict(others), rtol=0, atol=4 * rounding)
    with pytest.raises(ValueError, match=r"objective='mape' allows no shift of y"):
        make_trees(objective="mape").fit(X, y + 1e9)


def test_values_carried_with_an_offset_do_not_serve_columns_without_one(rows, others):
    telescope = make_trees(reg_alpha=1.0).fit(*rows).telescope_
    offset = telescope.offset(others)
    zeros = next(telescope.staged_response(others, np.zeros((N, 1)), stages=[telescope.n_stages]))
    np.testing.assert_array_equal(zeros, 0)
    np.testing.assert_array_equal(telescope.offset(others), offset)
    assert np.abs(offset).max() > 1e-3


def test_a_label_of_no_weight_may_be_that_of_a_quantile():
    X = np.repeat([0.0, 1.0], 4)[:, None]
    y = np.array([1.0, 2.0, 3.0, 4.0, 11.0, 12.0, 13.0, 14.0])
    sample_weight = np.array([0.4, 0.0, 0.5, 0.5, 0.4, 0.0, 0.5, 0.5])
    model = make_trees(objective="regression_l1", min_child_samples=1, learning_rate=1.0, n_estimators=1)
    model.fit(X, y, sample_weight=sample_weight)
    weights = model.kernel_weights_
    np.testing.assert_allclose(weights @ y + model.offset(X), model.predict(X), rtol=1e-6)
    np.testing.assert_array_equal(
        np.flatnonzero(weights.any(axis=0)), np.flatnonzero(model.telescope_.trained & weights.any(axis=0))
    )
    np.testing.assert_allclose(model.predict(X), [2, 2, 2, 2, 12, 12, 12, 12])
    np.testing.assert_allclose(weights[:, [1, 5]], np.repeat(np.eye(2), 4, axis=0))


# The pieces


@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=12),
    weights=st.one_of(st.none(), st.lists(st.sampled_from([0.0, 0.3, 0.99, 1.0, 2.5]), min_size=12, max_size=12)),
    alpha=st.sampled_from([0.5, 0.1, 0.9, 1e-3, 0.999, 0.37]),
    seed=st.integers(0, 1000),
)
@hypothesis_settings(deadline=None, max_examples=200)
def test_quantile_weights_are_those_of_the_formulas(values, weights, alpha, seed):
    values = np.array(values, dtype=float)
    weights = None if weights is None else np.array(weights[: len(values)])
    groups = np.random.default_rng(seed).integers(0, 3, len(values))
    found = quantile_weights(values, groups, weights, alpha, weighted_rank)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        shares = quantile_shares(values[rows], None if weights is None else weights[rows], alpha)
        expected = np.zeros(len(rows))
        expected[list(shares)] = list(shares.values())
        np.testing.assert_allclose(found[rows], expected, atol=1e-12)


@given(
    labels=st.lists(st.integers(-20, 20), min_size=2, max_size=9),
    weights=st.one_of(st.none(), st.lists(st.sampled_from([0.1, 0.3, 0.99, 1.0, 2.5]), min_size=9, max_size=9)),
    alpha=st.sampled_from([0.5, 0.1, 0.9, 0.37]),
)
@hypothesis_settings(deadline=None, max_examples=100)
def test_the_formulas_are_those_of_lightgbm(labels, weights, alpha):
    y = np.array(labels) / 4
    weights = None if weights is None else np.array(weights[: len(y)])
    data = lightgbm.Dataset(np.zeros((len(y), 1)), y, weight=weights, params={"verbosity": -1})
    params = {"objective": "quantile", "alpha": alpha, "verbosity": -1, "num_threads": 1}
    start = lightgbm.train(params, data, 1).predict([[0.0]])[0]
    weighted = weights is not None and (weights != 1).any()
    shares = quantile_shares(y, np.float32(weights).astype(float) if weighted else None, float(np.float32(alpha)))
    assert sum(share * y[place] for place, share in shares.items()) == pytest.approx(start, rel=1e-6, abs=1e-6)


def test_newton_steps_are_continuous_affine_pieces():
    sums = np.linspace(-6, 6, 2401)
    rates, constants = newton_steps(sums, np.full(len(sums), 2.0), 1.0, 1.5)
    values = rates * sums + constants
    expected = np.clip(np.sign(sums) * np.maximum(np.abs(sums) - 1, 0) / 2, -1.5, 1.5)
    np.testing.assert_allclose(values, expected, atol=1e-15)
    assert set(rates) == {0.0, 0.5}


# What is refused


@pytest.mark.parametrize("objective", ["quantile", "mae", "huber", "fair", "poisson"])
def test_criteria_of_squared_error_are_refused_for_other_losses(rows, objective):
    X, y = rows
    model = make_trees(objective=objective).fit(X, np.exp(y))
    with pytest.raises(ValueError, match=f"objective of squared error, .* objective is '{objective}'"):
        model.stopping_curve()


def test_thresholds_leave_squared_error_its_criteria(rows):
    curve = make_trees(reg_alpha=1.0, max_delta_step=0.3).fit(*rows).stopping_curve()
    assert np.isfinite(curve.by_stage.to_numpy()).all()


@pytest.mark.parametrize("alpha", [1.0, 2.0, 1 - 1e-9])
def test_a_level_that_is_no_quantile_is_refused(rows, alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha} must lie between 0 and 1 with objective='quantile'"):
        make_trees(objective="quantile", alpha=alpha).fit(*rows)
    assert make_trees(objective="huber", alpha=alpha).fit(*rows).n_stages_ == 12


@pytest.mark.parametrize("name", ["alpha", "fair_c", "reg_alpha", "max_delta_step"])
def test_thresholds_are_not_negative(rows, name):
    with pytest.raises(ValueError, match=name):
        make_trees(**{name: -1.0}).fit(*rows)


def abort(monkeypatch, text):
    """Make every training of LightGBM end with this error."""
    monkeypatch.setattr(lightgbm.LGBMRegressor, "fit", Mock(side_effect=lightgbm.basic.LightGBMError(text)))


def test_an_abort_of_lightgbm_is_explained_where_its_cause_is_known(rows, monkeypatch):
    abort(monkeypatch, "Check failed: (best_split_info.left_count) > (0)")
    with pytest.raises(
        ValueError, match=r"objective='mape' with unequal sample_weight .* Use objective='regression_l1'"
    ):
        make_trees(objective="mape").fit(*rows, sample_weight=weights_of("weights"))
    for settings, kind in (({"objective": "mape"}, "ones"), ({"objective": "mae"}, "weights"), ({}, "weights")):
        with pytest.raises(lightgbm.basic.LightGBMError, match="left_count"):
            make_trees(**settings, min_child_samples=10).fit(*rows, sample_weight=weights_of(kind))


@pytest.mark.parametrize(("settings", "kind"), [({"objective": "gamma"}, "ones"), ({}, "weights")], ids=str)
def test_an_abort_on_an_empty_leaf_names_what_keeps_leaves_from_being_empty(rows, monkeypatch, settings, kind):
    abort(monkeypatch, "Check failed: (best_split_info.left_count) > (0)")
    X, y = rows[0], np.exp(rows[1])
    with pytest.raises(ValueError, match=r"min_child_samples=3 with min_child_weight=0.001 made LightGBM abort"):
        make_trees(**settings).fit(X, y, sample_weight=weights_of(kind))
    with pytest.raises(lightgbm.basic.LightGBMError, match="left_count"):
        make_trees(**settings, min_child_samples=10).fit(X, y, sample_weight=weights_of(kind))


@pytest.mark.parametrize(
    "text", ["Check failed: (num_leaves) <= (131072)", "Forced splits file not found", "left_count"]
)
@pytest.mark.parametrize("settings", [{"objective": "mape"}, {"objective": "gamma"}, {}], ids=str)
def test_other_errors_of_lightgbm_keep_their_own_words(rows, monkeypatch, settings, text):
    abort(monkeypatch, text)
    with pytest.raises(lightgbm.basic.LightGBMError, match=re.escape(text)):
        make_trees(**settings).fit(rows[0], np.exp(rows[1]), sample_weight=weights_of("weights"))


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e3, 1e6])
def test_hessians_of_fairs_loss_that_are_too_small_are_refused(rows, others, scale):
    X, y = rows
    for c in (1e-6 * scale, 1e-5 * scale):
        with pytest.raises(ValueError, match=r"fair_c=.* is too small for labels that differ by up to"):
            make_trees(objective="fair", fair_c=c).fit(X, scale * y)
    model = make_trees(objective="fair", fair_c=1e-3 * scale).fit(X, scale * y)
    assert np.abs(model.telescope_.rebuilt() - model.predict(X)).max() < 1e-5 * scale


def test_the_way_out_of_weighted_mape_has_the_same_quantiles():
    X, y = random_rows(N, seed=3)
    y, sample_weight = 10 * y, weights_of("weights")
    model = make_trees(objective="mape", n_estimators=1, max_depth=1, colsample_bytree=1.0).fit(
        X, y, sample_weight=sample_weight
    )
    other = make_trees(objective="regression_l1", n_estimators=1).fit(
        X, y, sample_weight=sample_weight / np.maximum(1, np.abs(y))
    )
    starts = [found.telescope_.ensemble.start_weights for found in (model, other)]
    np.testing.assert_allclose(*starts, atol=1e-6)


@pytest.mark.parametrize("objective", [None, "regression_l1", "huber", "poisson"])
@pytest.mark.parametrize(("n_rows", "subsample"), [(5, 0.1), (9, 0.1), (2, 0.4), (19, 0.05)])
def test_bags_of_no_row_are_refused(n_rows, subsample, objective):
    X, y = random_rows(n_rows)
    for freq in (1, 3):
        model = make_trees(objective=objective, subsample=subsample, subsample_freq=freq)
        with pytest.raises(
            ValueError, match=rf"subsample={subsample} of {n_rows} rows .* no row in a bag. Use subsample"
        ):
            model.fit(X, np.exp(y))
    large = make_trees(subsample=1 / n_rows + 1e-9, subsample_freq=1, objective=objective).fit(X, np.exp(y))
    assert np.isfinite(large.predict(X)).all()
    with pytest.raises(ValueError, match="no row in a bag"):
        make_trees(subsample=0.1, subsample_freq=1, early_stopping_rounds=2, validation_fraction=0.6).fit(
            *random_rows(20)
        )


def bundled_rows(conflicts):
    """Three columns that are exclusive but in the first rows, which a sample of few rows does not show."""
    rng = np.random.default_rng(0)
    X = np.zeros((400, 3))
    X[np.arange(400), rng.integers(0, 3, 400)] = rng.integers(1, 4, 400)
    X[rng.random(400) > 0.45] = 0
    X[:conflicts] = rng.integers(1, 4, (conflicts, 3))
    return X, 2 * X[:, 0] - X[:, 1] + X[:, 2] ** 2 + 0.1 * rng.normal(size=400)


FEW_SAMPLED = {"subsample_for_bin": 20, "min_data_in_bin": 1, "min_child_samples": 1, "num_leaves": 16}


@pytest.mark.parametrize("settings", [{}, {"early_stopping_rounds": 3}, {"objective": "regression_l1"}], ids=str)
@pytest.mark.parametrize("conflicts", [1, 20])
def test_rows_that_training_puts_elsewhere_are_refused_in_fit(settings, conflicts):
    X, y = bundled_rows(conflicts)
    settings = FEW_SAMPLED | {"random_state": 5} | settings
    n_trained = 360 if "early_stopping_rounds" in settings else 400
    with pytest.raises(ValueError, match="into other leaves than its predictions do") as refused:
        make_trees(**settings).fit(X, y)
    found = re.match(r"LightGBM put (\d+) of (\d+) training rows \(([\d, ]+)(, ...)?\)", str(refused.value))
    assert 1 <= int(found[1]) <= conflicts
    assert int(found[2]) == n_trained
    assert max(map(int, found[3].split(", "))) < conflicts
    assert "Use enable_bundle=False, or a larger subsample_for_bin" in str(refused.value)
    assert make_trees(**settings, record=False).fit(X, y).predict(X).shape == (400,)
    for other in ({"enable_bundle": False}, {"subsample_for_bin": 400}):
        model = make_trees(**settings | other).fit(X, y)
        rebuilt = model.kernel_weights_ @ y + model.offset(X)
        np.testing.assert_allclose(rebuilt, model.predict(X), rtol=0, atol=tolerance(y))


@pytest.mark.parametrize(
    ("columns", "settings", "expected"),
    [
        (lambda rng: rng.normal(size=(200, 3)), {}, False),
        (lambda rng: rng.normal(size=(200, 3)), {"max_bin": 4}, True),
        (lambda rng: rng.normal(size=(200, 3)), {"min_data_in_bin": 50}, True),
        (lambda rng: rng.normal(size=(200, 3)), {"subsample_for_bin": 100}, True),
        (lambda rng: rng.normal(size=(200, 3)) * (rng.random((200, 3)) < 0.5), {}, True),
        (lambda rng: np.where(rng.random((200, 3)) < 0.5, np.nan, rng.normal(size=(200, 3))), {}, True),
        (lambda rng: rng.integers(0, 9, (200, 3)).astype(float), {}, False),
        (lambda rng: rng.integers(0, 2, (200, 3)).astype(float), {"enable_bundle": False}, False),
        (lambda rng: rng.integers(0, 2, (200, 1)).astype(float), {}, False),
    ],
)
def test_training_is_compared_only_where_columns_may_be_bundled(columns, settings, expected):
    X = columns(np.random.default_rng(0))
    assert may_bundle(X, make_trees(**settings).get_params()) == expected


@given(
    n_rows=st.integers(1, 90),
    n_frequent=st.floats(0, 1),
    values=st.sampled_from([1e-32, 1e-9, 1.0, 1e9, 1e300, np.nan]),
    seed=st.integers(0, 2**31 - 1),
    ordered=st.booleans(),
)
@hypothesis_settings(deadline=None, max_examples=300)
def test_no_column_with_a_frequent_value_is_passed_over(n_rows, n_frequent, values, seed, ordered):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 3)) * (1.0 if np.isnan(values) else values)
    frequent = np.arange(n_rows) if ordered else rng.permutation(n_rows)
    X[frequent[: int(n_frequent * n_rows)], 1] = values * (1 + 1e-10 * rng.random())
    found = _repeats(X)
    assert all(found[column] for column in range(3) if _has_frequent_value(X[:, column]))


def test_columns_of_distinct_values_are_passed_over_without_sorting():
    X = np.random.default_rng(0).normal(size=(5000, 30))
    X[:, 4], X[::3, 7] = np.nan, 0.0
    assert list(np.flatnonzero(_repeats(X))) == [4, 7]
