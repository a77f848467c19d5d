"""Boosted trees, against explicit loops over leaves and against LightGBM itself."""

import re

import lightgbm
import numpy as np
import pandas as pd
import pytest
from conftest import make_trees, random_rows
from conftest import tree_tolerance as tolerance
from oracles import leaf_loop_weights
from sklearn.metrics import mean_squared_error

from telescoping_sklearn.base import held_out_rows

OURS = {"early_stopping_rounds", "validation_fraction", "record", "warm_start"}
SETTINGS = {
    "defaults of the class": {"num_leaves": 31, "min_child_samples": 20, "n_estimators": 100},
    "ridge": {"reg_lambda": 3.0},
    "column samples": {"colsample_bytree": 0.5},
    "random thresholds": {"extra_trees": True},
    "leaves of one row": {"num_leaves": 64, "min_child_samples": 1, "min_child_weight": 0.0},
    "large learning rate": {"learning_rate": 1.0},
    "small learning rate": {"learning_rate": 0.01},
    "stumps": {"num_leaves": 2, "max_depth": 1},
    "constant tree": {"min_child_samples": 100},
    "bagging that LightGBM ignores": {"subsample": 0.5, "subsample_freq": 0},
    "mean_squared_error by another name": {"objective": "mse"},
    "a bag for every tree": {"subsample": 0.6, "subsample_freq": 1},
    "a bag for three trees": {"subsample": 0.8, "subsample_freq": 3, "reg_lambda": 1.0},
    "path smoothing": {"path_smooth": 4.0},
    "smoothing, bags and a ridge": {"path_smooth": 2.0, "subsample": 0.7, "subsample_freq": 2, "reg_lambda": 1.0},
}


def library_of(model):
    """LightGBM's own regressor with the same parameters."""
    params = {name: value for name, value in model.get_params().items() if name not in OURS}
    seeds = [name for name in params if name.endswith("_seed") or name == "interaction_constraints"]
    params = {name: value for name, value in params.items() if not (name in seeds and value is None)}
    return lightgbm.LGBMRegressor(**params, verbosity=-1)


def assert_matches_leaf_loops(model, X, y, query, sample_weight=None, given=None, arrays=None):
    """S equals the oracle's, and the oracle's S rebuilds LightGBM's predictions.

    ``arrays`` are X and the query as arrays, where they are frames.
    """
    training, reached = leaf_loop_weights(model, *((X, query) if arrays is None else arrays), sample_weight, given)
    np.testing.assert_allclose(model.kernel_weights_, training, atol=1e-12)
    np.testing.assert_allclose(model.kernel_weights(query), reached, atol=1e-12)
    np.testing.assert_allclose(training @ y, model.predict(X), rtol=0, atol=tolerance(y))
    np.testing.assert_allclose(reached @ y, model.predict(query), rtol=0, atol=tolerance(y))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_weights_equal_the_leaf_loops(rows, others, settings):
    assert_matches_leaf_loops(make_trees(**settings).fit(*rows), *rows, others)


def test_weights_equal_the_leaf_loops_with_sample_weights(rows, others):
    sample_weight = np.random.default_rng(0).gamma(0.5, size=60)
    sample_weight[::7] = 0
    model = make_trees(reg_lambda=0.5).fit(*rows, sample_weight=sample_weight)
    assert_matches_leaf_loops(model, *rows, others, sample_weight)


def test_weights_equal_the_leaf_loops_with_missing_values(rows, others):
    X, holes = rows[0].copy(), np.random.default_rng(1)
    X[holes.random(X.shape) < 0.3] = np.nan
    query = others.copy()
    query[holes.random(query.shape) < 0.3] = np.nan
    model = make_trees().fit(X, rows[1])
    assert_matches_leaf_loops(model, X, rows[1], query)


@pytest.mark.parametrize("sample_weight", [None, np.linspace(0.2, 3, 60)], ids=["unweighted", "weighted"])
def test_weights_equal_the_leaf_loops_under_early_stopping(rows, others, sample_weight):
    model = make_trees(n_estimators=300, early_stopping_rounds=3, validation_fraction=0.25)
    model.fit(*rows, sample_weight=sample_weight)
    assert model.n_stages_ < 300
    weights = np.ones(60) if sample_weight is None else sample_weight.copy()
    held_out = ~model.kernel_weights_.any(axis=0)
    assert held_out.sum() == 15
    weights[held_out] = 0
    assert_matches_leaf_loops(model, *rows, others, weights)


def test_early_stopping_keeps_the_trees_that_predict_the_held_out_rows_best(rows):
    X, y = rows
    model = make_trees(n_estimators=300, early_stopping_rounds=5, validation_fraction=0.25).fit(X, y)
    held_out = ~model.kernel_weights_.any(axis=0)
    longer = make_trees(n_estimators=model.n_stages_ + 5).fit(X[~held_out], y[~held_out])
    errors = [mean_squared_error(y[held_out], prediction) for prediction in longer.staged_predict(X[held_out])]
    assert model.n_stages_ == np.argmin(errors) + 1


def test_constant_labels_give_constant_predictions_and_mean_weights(rows, others):
    model = make_trees().fit(rows[0], np.full(60, 3.0))
    np.testing.assert_allclose(model.predict(others), 3.0)
    assert_matches_leaf_loops(model, rows[0], np.full(60, 3.0), others)


def test_a_constant_tree_weighs_every_label_alike(rows, others):
    model = make_trees(min_child_samples=100).fit(*rows)
    assert model.n_stages_ == 1
    np.testing.assert_allclose(model.kernel_weights(others), 1 / 60)
    assert model.effective_params_ == pytest.approx(1)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("random_state", [0, None])
def test_predictions_are_those_of_lightgbm_bit_for_bit(rows, others, settings, random_state):
    model = make_trees(**settings, random_state=random_state).fit(*rows)
    library = library_of(model).fit(*rows)
    np.testing.assert_array_equal(model.predict(others), library.predict(others))
    np.testing.assert_array_equal(model.feature_importances_, library.feature_importances_)


def test_parameters_and_defaults_are_those_of_lightgbm():
    library = lightgbm.LGBMRegressor().get_params()
    ours = type(make_trees())().get_params()
    others = {name for name in library if name not in ours}
    assert others == {"boosting_type", "class_weight"}
    assert {name: ours[name] for name in library if name in ours} == {
        name: value for name, value in library.items() if name not in others
    }
    assert "linear_tree" not in ours
    with pytest.warns(FutureWarning, match="no longer a parameter") as warned:
        copied = type(make_trees())(**library)
    assert sum("no longer" in str(warning.message) and warning.filename == __file__ for warning in warned) == 2
    assert copied.get_params() == ours


# Refusals


@pytest.mark.parametrize("objective", ["lambdarank", lambda y, prediction: (prediction - y, np.ones_like(y))])
def test_objectives_without_algebra_are_refused_by_name_in_fit(rows, objective):
    model = make_trees(objective=objective)
    with pytest.raises(ValueError, match=r"objective.*not supported"):
        model.fit(*rows)


@pytest.mark.parametrize(
    ("settings", "supported"),
    [
        ({"boosting_type": "dart"}, "gbdt"),
        ({"boosting_type": "rf"}, "gbdt"),
        ({"boosting_type": "goss"}, "gbdt"),
        ({"class_weight": "balanced"}, None),
        ({"class_weight": {0: 1.0}}, None),
        ({"linear_tree": True}, False),
        ({"monotone_constraints": [1, 0, 0, 0]}, None),
        ({"monotone_constraints": np.ones(4)}, None),
    ],
    ids=str,
)
def test_parameters_of_one_supported_value_are_refused_by_name_and_value(settings, supported):
    ((name, value),) = settings.items()
    said = re.escape(f"{name}={value!r} is not supported by TelescopingGBTRegressor: ") + ".*Leave it out"
    with pytest.raises(TypeError, match=said):
        make_trees(**settings)
    with pytest.raises(ValueError, match=said):
        make_trees().set_params(**settings)
    assert name not in make_trees().get_params()
    for make in (make_trees, make_trees().set_params):
        with pytest.warns(FutureWarning, match=f"{name} is no longer a parameter"):
            assert name not in make(**{name: supported}).get_params()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_leaves", 1),
        ("learning_rate", 0.0),
        ("n_estimators", 0),
        ("colsample_bytree", 1.5),
        ("reg_lambda", -1.0),
        ("early_stopping_rounds", 0),
        ("validation_fraction", 1.0),
        ("extra_trees", "yes"),
        ("importance_type", "foo"),
    ],
)
def test_parameters_out_of_range_are_named(rows, name, value):
    with pytest.raises(ValueError, match=name):
        make_trees(**{name: value}).fit(*rows)


def test_columns_of_strings_are_refused_by_name(rows):
    frame = pd.DataFrame(rows[0], columns=list("abcd"))
    model = make_trees().fit(frame, rows[1])
    frame["c"] = frame["c"].astype(str)
    for ask in (lambda: make_trees().fit(frame, rows[1]), lambda: model.predict(frame)):
        with pytest.raises(ValueError, match=r"columns \['c'\] of other types"):
            ask()


def test_columns_that_share_a_name_are_refused(rows):
    frame = pd.DataFrame(rows[0], columns=list("abca"))
    model = make_trees().fit(pd.DataFrame(rows[0], columns=list("abcd")), rows[1])
    for ask in (lambda: make_trees().fit(frame, rows[1]), lambda: model.predict(frame)):
        with pytest.raises(ValueError, match=r"several columns named \['a'\]"):
            ask()


@pytest.mark.parametrize(
    ("categorical_feature", "error", "match"),
    [
        (["z"], ValueError, "'z', which is not a column"),
        ([4], ValueError, "categorical_feature=4"),
        ([0.5], TypeError, "names and positions"),
        ("c", TypeError, "'auto' or a list"),
        (3, TypeError, "'auto' or a list"),
    ],
)
def test_categorical_feature_takes_columns_that_are_there(rows, categorical_feature, error, match):
    with pytest.raises(error, match=match):
        make_trees().fit(*rows, categorical_feature=categorical_feature)


@pytest.mark.parametrize(
    "settings",
    [{}, {"min_child_samples": 100}, {"early_stopping_rounds": 2, "n_estimators": 50}],
    ids=["plain", "nothing to split", "early stopping"],
)
def test_nothing_is_printed(rows, others, capfd, settings):
    model = make_trees(**settings).fit(*rows)
    model.predict(others)
    assert model.effective_params_ > 0
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.parametrize("n_rows", [1, 2])
def test_too_few_rows_to_train_on_are_refused_by_our_name(rows, n_rows):
    model = make_trees(early_stopping_rounds=None if n_rows == 1 else 2)
    match = "required by TelescopingGBTRegressor" if n_rows == 1 else "validation_fraction=0.1 leaves 1 row to train on"
    with pytest.raises(ValueError, match=match):
        model.fit(rows[0][:n_rows], rows[1][:n_rows])


@pytest.mark.parametrize("share", [0, 1], ids=["trained", "held out"])
def test_shares_without_weight_are_refused(share):
    X, y = random_rows(400, 3)
    sample_weight = np.ones(400)
    sample_weight[held_out_rows(400, 0.1, 0)[share]] = 0
    model = make_trees(early_stopping_rounds=5, n_estimators=50)
    with pytest.raises(ValueError, match=r"sample_weight is zero on all (360|40) rows .* validation_fraction=0.1"):
        model.fit(X, y, sample_weight=sample_weight)
    assert not hasattr(model, "booster_")
    X_val, y_val = random_rows(40, 4)
    assert model.fit(X, y, sample_weight=sample_weight, X_val=X_val, y_val=y_val).n_stages_ > 1


@pytest.mark.parametrize("scale", [1e39, 3e38, 1e-31, 1e-42, 1e-50, 1e-16])
def test_labels_that_float32_loses_are_refused(rows, scale):
    X, y = rows
    with pytest.raises(ValueError, match=r"y has absolute values .* float32 .* Rescale y"):
        make_trees().fit(X, y * scale)
    stopped = make_trees(early_stopping_rounds=2)
    if scale != 1e-16:  # a start of zero is lost on the rows trained on only
        with pytest.raises(ValueError, match="Rescale y_val"):
            stopped.fit(X, y, X_val=X, y_val=y * scale)


@pytest.mark.parametrize("scale", [1e39, 1e38, 1e-50])
def test_weights_that_float32_loses_are_refused(rows, scale):
    X, y = rows
    sample_weight = np.linspace(0.5, 3.5, 60) * scale
    with pytest.raises(ValueError, match=r"sample_weight has absolute values .* float32 .* Rescale sample_weight,"):
        make_trees().fit(X, y, sample_weight=sample_weight)
    with pytest.raises(ValueError, match="Rescale sample_weight_val"):
        make_trees(early_stopping_rounds=2).fit(X, y, X_val=X, y_val=y, sample_weight_val=sample_weight)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e36])
def test_labels_and_weights_of_any_size_that_float32_holds_are_fine(rows, scale):
    X, y = rows
    for labels, weights in ((scale * y, None), (y, scale * np.linspace(0.5, 2, 60)), (scale * (y - y.mean()), None)):
        model = make_trees(min_child_samples=10).fit(X, labels, sample_weight=weights)
        np.testing.assert_allclose(model.kernel_weights_ @ labels, model.predict(X), rtol=0, atol=tolerance(labels))


@pytest.mark.parametrize("settings", [{"min_child_weight": 0.0}, {"min_child_weight": 1e-14}], ids=str)
@pytest.mark.parametrize("min_child_samples", [0, 1])
def test_leaves_that_lightgbm_cannot_tell_from_empty_ones_are_refused(rows, settings, min_child_samples):
    X, y = rows
    sample_weight = np.random.default_rng(0).exponential(size=60)
    model = make_trees(min_child_samples=min_child_samples, num_leaves=64, **settings)
    with pytest.raises(ValueError, match=r"min_child_weight=.* with min_child_samples=.* not supported with unequal"):
        model.fit(X, y, sample_weight=sample_weight)
    if min_child_samples == 0:
        with pytest.raises(ValueError, match=r"not supported: .* or min_child_samples=1 or more"):
            model.fit(X, y)
    else:
        assert model.fit(X, y).n_stages_ == 12
    assert model.set_params(min_child_weight=1e-3).fit(X, y, sample_weight=sample_weight).n_stages_ == 12
    non_quadratic = make_trees(objective="poisson", min_child_samples=min_child_samples, **settings)
    with pytest.raises(ValueError, match=r"min_child_weight=.* not supported with objective='poisson'"):
        non_quadratic.fit(X, np.exp(y))


# Kernels


def test_stage_kernels_are_the_row_weights_within_the_leaf_of_the_query(rows, others):
    sample_weight = np.linspace(0.1, 2, 60)
    model = make_trees().fit(*rows, sample_weight=sample_weight)
    of_rows, of_others = (model.booster_.predict(X, pred_leaf=True) for X in (rows[0], others))
    for stage, kernel in enumerate(model.staged_kernel(others)):
        shared = np.equal.outer(of_others[:, stage], of_rows[:, stage]) * sample_weight
        np.testing.assert_allclose(kernel.toarray(), shared / shared.sum(axis=1, keepdims=True), rtol=1e-6)


def test_the_kernel_form_rebuilds_the_model_from_residuals(rows, others):
    model = make_trees(learning_rate=0.3).fit(*rows)
    rebuilt = np.full(20, rows[1].mean())
    before = [np.full(60, rows[1].mean()), *model.staged_predict(rows[0])]
    for kernel, prediction in zip(model.staged_kernel(others), before, strict=False):
        rebuilt += 0.3 * (kernel @ (rows[1] - prediction))
    np.testing.assert_allclose(rebuilt, model.predict(others), rtol=0, atol=tolerance(rows[1]))


def test_staged_predictions_are_those_of_lightgbm_cut_short(rows, others):
    model = make_trees().fit(*rows)
    for stage, prediction in enumerate(model.staged_predict(others), start=1):
        np.testing.assert_allclose(prediction, model.booster_.predict(others, num_iteration=stage), rtol=1e-12)


def test_progress_is_shown_where_asked_for_and_nowhere_else(capsys):
    X, y = random_rows()
    for verbose in (False, -1, 0, True, 2):
        model = make_trees(verbose=verbose).fit(X, y)
        model.kernel_weights(X[:2])
        model.effective_params(X, n_probes=4)
        shown = capsys.readouterr().err
        assert ("trees grown" in shown) == ("labels through groups of trees" in shown) == (verbose > 0)
    model.set_params(verbose=False).offset(X)
    assert not capsys.readouterr().err
