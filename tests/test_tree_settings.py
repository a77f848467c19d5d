"""Boosted trees: categories, bags and path smoothing, against leaf loops, LightGBM itself and each other."""

import pickle

import lightgbm
import numpy as np
import pandas as pd
import pytest
from conftest import make_trees, random_rows
from conftest import tree_tolerance as tolerance
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracles import leaf_loop_response
from sklearn import clone, config_context
from sklearn.model_selection import GridSearchCV
from test_boosting import assert_matches_leaf_loops, library_of

from telescoping_sklearn.base import held_out_rows

#: Splits over few rows, so that small frames are split by category.
SPLITTING = {"min_data_per_group": 3, "cat_smooth": 1.0}


def random_frame(n_rows, seed, n_categories=12, missing=True):
    """Rows of numbers, of categories many and few, and of ordered ones; labels follow all of them."""
    rng = np.random.default_rng(seed)
    many = rng.integers(0, n_categories, n_rows)
    frame = pd.DataFrame({"number": rng.normal(size=n_rows), "count": rng.integers(0, 9, n_rows)})
    frame["many"] = pd.Categorical([f"m{code}" for code in many], categories=[f"m{i}" for i in range(n_categories)])
    frame["few"] = pd.Categorical(rng.integers(0, 3, n_rows), categories=[0, 1, 2])
    frame["size"] = pd.Categorical(rng.choice(list("SML"), n_rows), categories=list("SML"), ordered=True)
    y = np.sin(1.7 * many) + 0.5 * (frame["few"].cat.codes == 1) + 0.3 * frame["size"].cat.codes + 0.3 * frame["number"]
    if missing:
        frame.loc[rng.random(n_rows) < 0.15, ["number", "many"]] = np.nan
    return frame, (y + 0.2 * rng.normal(size=n_rows)).to_numpy()


def coded(frame):
    """The frame's numbers and codes, NaN where a category is missing."""
    columns = [frame[name].cat.codes if frame[name].dtype == "category" else frame[name] for name in frame]
    table = np.column_stack([np.asarray(column, dtype=float) for column in columns])
    table[:, 2:][table[:, 2:] < 0] = np.nan
    return table


def library_fit(model, X, y, **fit_params):
    return library_of(model).fit(X, y, **fit_params)


@pytest.fixture(scope="module")
def frame():
    return random_frame(90, seed=0)


@pytest.fixture(scope="module")
def other_frame():
    return random_frame(25, seed=1)[0]


CATEGORY_SETTINGS = {
    "defaults": {},
    "heavy ridge of categories": {"cat_l2": 50.0},
    "no ridge of categories": {"cat_l2": 0.0},
    "one against the rest": {"max_cat_to_onehot": 20},
    "many of two": {"max_cat_to_onehot": 1},
    "at the border": {"max_cat_to_onehot": 4, "cat_l2": 30.0},
    "below the border": {"max_cat_to_onehot": 3, "cat_l2": 30.0},
    "ridge, bags and smoothing": {"reg_lambda": 1.0, "subsample": 0.7, "subsample_freq": 1, "path_smooth": 2.0},
    "small groups": {"max_cat_threshold": 2, "cat_smooth": 20.0, "min_data_per_group": 8},
}


@pytest.mark.parametrize("settings", CATEGORY_SETTINGS.values(), ids=CATEGORY_SETTINGS)
def test_weights_with_categories_equal_the_leaf_loops(frame, other_frame, settings):
    X, y = frame
    model = make_trees(**SPLITTING | settings).fit(X, y)
    assert_matches_leaf_loops(model, X, y, other_frame, arrays=(coded(X), coded(other_frame)))


@pytest.mark.parametrize("settings", CATEGORY_SETTINGS.values(), ids=CATEGORY_SETTINGS)
def test_predictions_with_categories_are_those_of_lightgbm_bit_for_bit(frame, other_frame, settings):
    model = make_trees(**SPLITTING | settings).fit(*frame)
    np.testing.assert_array_equal(model.predict(other_frame), library_fit(model, *frame).predict(other_frame))
    assert model.booster_.feature_importance()[2:4].sum() > 0


def test_the_ridge_of_categories_is_needed(frame):
    X, y = frame
    model = make_trees(**SPLITTING).fit(X, y)
    training, _ = leaf_loop_response(model, coded(X), y, coded(X)[:2])
    np.testing.assert_allclose(training, model.predict(X), rtol=0, atol=tolerance(y))
    plain = make_trees(**SPLITTING, cat_l2=0.0).fit(X, y)
    plain.booster_, plain.n_stages_ = model.booster_, model.n_stages_
    with pytest.raises(ValueError, match="misses the model's own training predictions"):
        _ = plain.telescope_


@pytest.mark.parametrize("columns", [["many", "count"], [2, 1], ["many", 1]], ids=str)
def test_columns_named_or_numbered_are_split_by_category(frame, other_frame, columns):
    X, y = frame
    model = make_trees(**SPLITTING).fit(X, y, categorical_feature=columns)
    library = library_fit(model, X, y, categorical_feature=columns)
    np.testing.assert_array_equal(model.predict(other_frame), library.predict(other_frame))
    assert_matches_leaf_loops(model, X, y, other_frame, arrays=(coded(X), coded(other_frame)))


def test_codes_in_an_array_are_split_by_category(frame, other_frame):
    X, query = coded(frame[0]), coded(other_frame)
    model = make_trees(**SPLITTING).fit(X, frame[1], categorical_feature=[2, 3])
    assert_matches_leaf_loops(model, X, frame[1], query)
    by_frame = make_trees(**SPLITTING).fit(*frame)
    np.testing.assert_array_equal(model.predict(query), by_frame.predict(other_frame))


def test_other_category_lists_missing_and_unknown_categories_are_understood(frame, other_frame):
    model = make_trees(**SPLITTING).fit(*frame)
    query = other_frame.copy()
    query["many"] = query["many"].cat.set_categories(["new", *reversed(query["many"].cat.categories)])
    np.testing.assert_array_equal(model.predict(query), model.predict(other_frame))
    missing, unknown = query.copy(), query.copy()
    missing["many"] = pd.Categorical([None] * 25, categories=["m0"])
    unknown["many"] = pd.Categorical(["new"] * 25)
    np.testing.assert_array_equal(model.predict(missing), model.predict(unknown))
    weights = model.kernel_weights(unknown)
    np.testing.assert_allclose(weights @ frame[1], model.predict(unknown), rtol=0, atol=tolerance(frame[1]))
    library = library_fit(model, *frame)
    np.testing.assert_array_equal(model.predict(unknown), library.predict(unknown))


def test_a_column_that_turns_into_numbers_or_categories_is_refused_by_name(frame, other_frame):
    model = make_trees().fit(*frame)
    for name, column in (("few", other_frame["few"].cat.codes), ("count", other_frame["count"].astype("category"))):
        with pytest.raises(ValueError, match=rf"Columns \['{name}'\] are categories in one"):
            model.predict(other_frame.assign(**{name: column}))


def test_every_question_takes_the_frame(frame, other_frame):
    model = make_trees(**SPLITTING).fit(*frame)
    assert model.effective_params(other_frame) > 0
    assert model.top_examples(other_frame, k=2).shape[0] == 50
    assert model.kernel_norms(other_frame).shape == (model.n_stages_, 25)
    assert model.approximation_error(other_frame).reconstruction_max < tolerance(frame[1])
    np.testing.assert_allclose(model.breakdown(other_frame).sum(), model.predict(other_frame))


# Bags


def test_bags_of_many_rows_are_drawn_as_lightgbm_draws_them():
    X = np.random.default_rng(0).normal(size=(3000, 3))
    y = X[:, 0] + np.sin(3 * X[:, 1])
    model = make_trees(subsample=0.3, subsample_freq=2, n_estimators=6, num_leaves=20).fit(X, y)
    assert_bags_weigh_their_rows_only(model, X, y)


def assert_bags_weigh_their_rows_only(model, X, y):
    training, _ = leaf_loop_response(model, X, y, X[:2])
    np.testing.assert_allclose(training, model.predict(X), rtol=0, atol=tolerance(y))
    np.testing.assert_allclose(model.telescope_.reconstruct(None), training, atol=1e-12)
    for kernel in model.staged_kernel(X[:5], stages=[1, 2, model.n_stages_]):
        share = np.mean(np.asarray(kernel.sum(axis=0)).ravel() > 0)
        assert share < model.subsample
        np.testing.assert_allclose(kernel.sum(axis=1), 1)


def test_rows_off_every_bag_weigh_by_the_start_only(frame):
    X, y = coded(frame[0]), frame[1]
    model = make_trees(subsample=0.3, subsample_freq=100, n_estimators=1).fit(X, y)
    kernel = next(model.staged_kernel(X))
    off = np.asarray(kernel.sum(axis=0)).ravel() == 0
    assert 0.5 < off.mean() < 0.9
    start = 1 / len(y)
    through_others = model.kernel_weights_[:, off]
    np.testing.assert_allclose(through_others - through_others[:, :1], 0, atol=1e-15)
    assert (through_others < start).all()


def test_leaves_hold_enough_rows_of_their_bag(frame):
    X, y = coded(frame[0]), frame[1]
    model = make_trees(subsample=0.4, subsample_freq=1, min_child_samples=6, num_leaves=30).fit(X, y)
    for stage in range(1, model.n_stages_ + 1):
        ensemble = model.telescope_.ensemble
        in_leaves = ensemble.leaf_sums(stage, (ensemble.stage_weights(stage) > 0).astype(float))
        assert in_leaves.min() >= 6


def test_the_same_random_state_draws_the_same_bags(frame):
    settings = {"subsample": 0.5, "subsample_freq": 1}
    models = [make_trees(**settings, random_state=seed).fit(*frame) for seed in (3, 3, 4)]
    weights = [model.kernel_weights_ for model in models]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 1e-3


@pytest.mark.parametrize("weighted", [False, True])
def test_bags_with_early_stopping_equal_the_leaf_loops(frame, other_frame, weighted):
    X, y = coded(frame[0]), frame[1]
    w = np.linspace(0.2, 2, 90) if weighted else np.ones(90)
    w[3] = 0
    model = make_trees(
        subsample=0.6, subsample_freq=2, n_estimators=300, early_stopping_rounds=4, validation_fraction=0.3
    ).fit(X, y, sample_weight=w)
    assert model.n_stages_ < 300
    given = np.flatnonzero(model.kernel_weights_.any(axis=0) | (np.arange(90) == 3))
    if len(given) == 64:  # row 3 was held out itself
        given = given[given != 3]
    w[np.setdiff1d(np.arange(90), given)] = 0
    assert_matches_leaf_loops(model, X, y, coded(other_frame), w, given)


def test_bags_that_do_not_fit_the_leaves_are_an_error(frame):
    X = coded(frame[0])
    model = make_trees(subsample=0.5, subsample_freq=1).fit(X, frame[1])
    kept = model._fit_record.train.X
    kept[:] = kept[::-1].copy()
    with pytest.raises(ValueError, match="bag drawn again for tree 1 does not match"):
        _ = model.telescope_


# Whatever the settings


@given(
    num_leaves=st.integers(2, 30),
    min_child_samples=st.integers(0, 20),
    learning_rate=st.floats(0.01, 1.2),
    reg_lambda=st.sampled_from([0.0, 0.5, 20.0]),
    subsample=st.floats(0.1, 1),
    subsample_freq=st.integers(0, 4),
    path_smooth=st.sampled_from([0.0, 0.3, 10.0]),
    extra_trees=st.booleans(),
    colsample_bytree=st.floats(0.3, 1),
    cat_l2=st.sampled_from([0.0, 3.0, 100.0]),
    max_cat_to_onehot=st.integers(1, 15),
    min_data_per_group=st.integers(1, 10),
    cat_smooth=st.floats(0, 5),
    n_categories=st.integers(1, 20),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
@hypothesis_settings(deadline=None, max_examples=60)
def test_weights_rebuild_predictions_or_the_setting_is_refused_by_name(n_categories, weighted, seed, **settings):
    X, y = random_frame(60, seed, n_categories)
    sample_weight = np.random.default_rng(seed).exponential(size=60) if weighted else None
    model = make_trees(random_state=seed, **settings)
    if weighted and settings["path_smooth"] > 0:
        with pytest.raises(ValueError, match="path_smooth"):
            model.fit(X, y, sample_weight=sample_weight)
        return
    model.fit(X, y, sample_weight=sample_weight)
    query = random_frame(15, seed + 1, n_categories)[0]
    np.testing.assert_allclose(model.kernel_weights(query) @ y, model.predict(query), rtol=0, atol=tolerance(y))
    np.testing.assert_array_equal(
        model.predict(query), library_fit(model, X, y, sample_weight=sample_weight).predict(query)
    )


@pytest.mark.parametrize(
    "settings",
    [{"reg_lambda": 1.0}, {"subsample": 0.6, "subsample_freq": 1}, {"path_smooth": 3.0}, {"cat_l2": 5.0}],
    ids=str,
)
def test_a_perturbed_label_moves_the_frozen_ensemble_by_its_weight(frame, other_frame, settings):
    X, y, query = coded(frame[0]), frame[1], coded(other_frame)
    model = make_trees(**SPLITTING | settings).fit(*frame)
    perturbed = y.copy()
    perturbed[5] += 0.7
    before, after = (leaf_loop_response(model, X, labels, query)[1] for labels in (y, perturbed))
    np.testing.assert_allclose((after - before) / 0.7, model.kernel_weights(other_frame)[:, 5], atol=1e-12)
    assert np.abs(after - before).max() > 1e-3


# A validation set given to fit


@pytest.mark.parametrize("weighted", [False, True])
def test_a_given_validation_set_is_watched_as_lightgbm_watches_it(frame, weighted):
    X, y = frame
    X_val, y_val = random_frame(40, seed=2)
    w = np.linspace(0.1, 3, 40) if weighted else None
    model = make_trees(**SPLITTING, n_estimators=300, early_stopping_rounds=4)
    model.fit(X, y, X_val=X_val, y_val=y_val, sample_weight_val=w)
    stop = lightgbm.early_stopping(4, verbose=False)
    options = {"eval_X": X_val, "eval_y": y_val, "eval_sample_weight": None if w is None else [w], "callbacks": [stop]}
    library = library_of(model).fit(X, y, **options)
    assert model.n_stages_ == library.best_iteration_ < 300
    np.testing.assert_array_equal(model.predict(X_val), library.predict(X_val))
    assert model.kernel_weights_.any(axis=0).all()
    np.testing.assert_allclose(model.kernel_weights_ @ y, model.predict(X), rtol=0, atol=tolerance(y))


@pytest.mark.parametrize(
    ("settings", "options", "match"),
    [
        ({"early_stopping_rounds": 3}, {"y_val": [1.0]}, "need X_val"),
        ({"early_stopping_rounds": 3}, {"X_val": np.zeros((2, 4))}, "X_val needs y_val"),
        ({}, {"X_val": np.zeros((2, 4)), "y_val": [0.0, 1.0]}, "set early_stopping_rounds"),
        ({"early_stopping_rounds": 3}, {"X_val": np.zeros((2, 3)), "y_val": [0.0, 1.0]}, "3 features"),
        ({"early_stopping_rounds": 3}, {"X_val": np.zeros((2, 4)), "y_val": [0.0, np.nan]}, "NaN"),
    ],
)
def test_an_incomplete_validation_set_is_refused(settings, options, match):
    X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30.0)
    with pytest.raises(ValueError, match=match):
        make_trees(**settings).fit(X, y, **options)


def test_a_validation_set_can_be_routed(frame):
    X_val, y_val = random_frame(40, seed=2)
    model = make_trees(n_estimators=100, early_stopping_rounds=3)
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(model.set_fit_request(X_val=True, y_val=True), {"num_leaves": [3, 5]}, cv=2)
        search.fit(*frame, X_val=X_val, y_val=y_val)
    direct = clone(model).set_params(**search.best_params_).fit(*frame, X_val=X_val, y_val=y_val)
    np.testing.assert_array_equal(search.predict(X_val), direct.predict(X_val))


def test_early_stopping_counts_trees_where_an_attempt_grows_none():
    X, y = random_rows(30, 24)
    settings = {"subsample": 0.4, "subsample_freq": 1, "min_child_samples": 4, "random_state": 24}
    model = make_trees(**settings, n_estimators=100, early_stopping_rounds=8).fit(X, y)
    trained, held_out = held_out_rows(30, 0.1, model.seed_)
    trees_after, errors = [], []

    def note(env):
        trees_after.append(env.model.num_trees())
        errors.append(env.evaluation_result_list[0][2])

    note.order = 0  # before early stopping ends the training
    callbacks = [note, lightgbm.early_stopping(8, verbose=False)]
    library = library_fit(model, X[trained], y[trained], eval_X=X[held_out], eval_y=y[held_out], callbacks=callbacks)
    best = int(np.argmin(errors))
    assert trees_after[best] < best + 1
    assert model.n_stages_ == model.booster_.best_iteration == trees_after[best]
    np.testing.assert_array_equal(model.predict(X), library.booster_.predict(X, num_iteration=trees_after[best]))
    np.testing.assert_allclose(model.kernel_weights_ @ y, model.predict(X), rtol=0, atol=tolerance(y))


# Warm starts


@pytest.mark.parametrize(
    "settings", [{"subsample": 0.5, "subsample_freq": 1}, {"early_stopping_rounds": 2}, {}], ids=str
)
def test_a_warm_start_may_grow_no_tree(settings):
    X, y = random_rows(60, 3)[0], np.ones(60)
    model = make_trees(warm_start=True, n_estimators=3, **settings).fit(X, y)
    for n_estimators in (6, 9):
        model.set_params(n_estimators=n_estimators).fit(X, y)
        assert model.n_stages_ == 1
        np.testing.assert_allclose(model.kernel_weights(X[:2]) @ y, model.predict(X[:2]))


def test_a_warm_start_adds_the_trees_of_a_longer_fit(frame, other_frame):
    X, y = frame
    model = make_trees(**SPLITTING, warm_start=True, n_estimators=5, reg_lambda=1.0).fit(X, y)
    first = list(model.staged_predict(other_frame))
    model.set_params(n_estimators=12).fit(X, y)
    assert model.n_stages_ == 12
    np.testing.assert_allclose(list(model.staged_predict(other_frame, stages=[1, 2, 3, 4, 5])), first, rtol=1e-12)
    longer = make_trees(**SPLITTING, n_estimators=12, reg_lambda=1.0).fit(X, y)
    np.testing.assert_allclose(model.predict(other_frame), longer.predict(other_frame), rtol=1e-6)
    assert_matches_leaf_loops(model, X, y, other_frame, arrays=(coded(X), coded(other_frame)))


@given(
    subsample=st.sampled_from([0.4, 0.8, 1.0]),
    subsample_freq=st.integers(0, 3),
    colsample_bytree=st.floats(0.3, 1),
    path_smooth=st.sampled_from([0.0, 2.0]),
    early_stopping_rounds=st.sampled_from([None, 2]),
    numbers=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    seed=st.sampled_from([None, 0, 7]),
)
@hypothesis_settings(deadline=None, max_examples=25)
def test_weights_rebuild_predictions_after_warm_starts(numbers, seed, **settings):
    X, y = random_frame(60, seed=5)
    model = make_trees(**SPLITTING, **settings, warm_start=True, random_state=seed)
    for n_estimators in np.cumsum(numbers).tolist():
        model.set_params(n_estimators=n_estimators).fit(X, y)
        assert model.n_stages_ <= n_estimators
        np.testing.assert_allclose(model.kernel_weights_ @ y, model.predict(X), rtol=0, atol=tolerance(y))


def test_trees_added_later_see_other_bags(frame):
    model = make_trees(subsample=0.5, subsample_freq=1, n_estimators=3, warm_start=True).fit(*frame)
    model.set_params(n_estimators=6).fit(*frame)
    bags = [model.telescope_.ensemble.stage_weights(stage) > 0 for stage in range(1, 7)]
    for stage in range(3):
        assert np.mean(bags[stage] != bags[stage + 3]) > 0.2


def test_a_warm_start_refuses_what_changed_by_name(frame):
    X, y = frame
    model = make_trees(warm_start=True, n_estimators=5).fit(X, y)
    before = model.predict(X)
    changes = [
        ({"reg_lambda": 2.0}, X, y, {}, "reg_lambda changed"),
        ({}, X, y + 1, {}, "y changed"),
        ({}, X.assign(number=0.0), y, {}, "X changed"),
        ({}, X, y, {"sample_weight": np.ones(90)}, "sample_weight changed"),
        ({}, X, y, {"categorical_feature": ["few"]}, "categorical_feature changed"),
    ]
    for settings, rows, labels, options, match in changes:
        other = pickle.loads(pickle.dumps(model)).set_params(n_estimators=9, **settings)
        with pytest.raises(ValueError, match=match):
            other.fit(rows, labels, **options)
        np.testing.assert_array_equal(other.predict(X), before)
    with pytest.raises(ValueError, match="n_estimators=3 must be at least 5"):
        model.set_params(n_estimators=3).fit(X, y)
    with pytest.raises(ValueError, match="warm_start=True needs record=True"):
        make_trees(warm_start=True, record=False).fit(X, y)
    with pytest.raises(ValueError, match="needs an earlier fit with record=True"):
        make_trees(record=False).fit(X, y).set_params(warm_start=True, record=True).fit(X, y)


def test_a_refused_warm_start_leaves_the_model_as_it_was(frame):
    X, y = frame
    model = make_trees(warm_start=True, n_estimators=3).fit(X, y)
    before, examples = model.predict(X), model.top_examples(X[:2])
    model.set_params(n_estimators=6)
    for rows, labels in ((X.iloc[:, :2], y), (X.set_axis(list("abcde"), axis=1), y), (X[::-1], y), (X[:50], y[:50])):
        with pytest.raises(ValueError, match=r"feature|changed|Columns"):
            model.fit(rows, labels)
        np.testing.assert_array_equal(model.predict(X), before)
        pd.testing.assert_frame_equal(model.top_examples(X[:2]), examples)
    assert model.fit(X, y).n_stages_ == 6


@pytest.mark.parametrize("name", ["X", "y", "X_val", "y_val"])
def test_a_warm_start_refuses_arrays_changed_in_place(name):
    X, y = random_rows(60, 3)
    X_val, y_val = random_rows(20, 4)
    given = {"X": X, "y": y, "X_val": X_val, "y_val": y_val}
    model = make_trees(n_estimators=3, early_stopping_rounds=3, warm_start=True).fit(**given)
    before = model.predict(X)
    model.set_params(n_estimators=6)
    given[name][0] += 1.0
    with pytest.raises(ValueError, match=f"{name} changed"):
        model.fit(**given)
    given[name][0] -= 1.0
    np.testing.assert_array_equal(model.predict(X), before)


def test_a_warm_start_takes_the_same_data_in_any_memory_order():
    X, y = random_rows(60, 3)
    views = [np.repeat(X, 2, axis=1)[:, ::2], np.asfortranarray(X), X]
    model = make_trees(warm_start=True)
    for n_estimators, view in zip((3, 6, 9), views, strict=True):
        model = pickle.loads(pickle.dumps(model.set_params(n_estimators=n_estimators).fit(view, y)))
    assert model.n_stages_ == 9


def test_a_warm_start_without_more_trees_warns_and_leaves_the_model(frame):
    model = make_trees(warm_start=True).fit(*frame)
    before = model.booster_
    with pytest.warns(UserWarning, match="without increasing n_estimators"):
        model.fit(*frame)
    assert model.booster_ is before


# Parameters


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("feature_fraction", "colsample_bytree"),
        ("bagging_fraction", "subsample"),
        ("min_data_in_leaf", "min_child_samples"),
        ("lambda_l2", "reg_lambda"),
        ("eta", "learning_rate"),
        ("seed", "random_state"),
        ("categorical_feature", "pass it to fit"),
        ("use_quantized_grad", "not linear in the labels"),
    ],
)
def test_other_names_of_lightgbm_are_refused_with_what_to_use(name, advice):
    with pytest.raises(ValueError, match=f"'{name}' is not a parameter of TelescopingGBTRegressor: .*{advice}"):
        make_trees().set_params(**{name: 1})
    with pytest.raises(TypeError, match=f"'{name}' is not a parameter of TelescopingGBTRegressor: .*{advice}"):
        make_trees(**{name: 1})


def test_unknown_parameters_are_refused():
    with pytest.raises(ValueError, match="Invalid parameter 'no_such_thing'"):
        make_trees().set_params(no_such_thing=1)
    with pytest.raises(TypeError, match="TelescopingGBTRegressor got an unexpected keyword argument 'no_such_thing'"):
        make_trees(no_such_thing=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"colsample_bynode": 0.5},
        {"max_bin": 5},
        {"min_data_in_bin": 20},
        {"interaction_constraints": [[0, 1], [2, 3, 4]]},
        {"subsample": 0.5, "subsample_freq": 1, "bagging_seed": 5},
        {"colsample_bytree": 0.4, "feature_fraction_seed": 5},
        {"extra_trees": True, "extra_seed": 77},
    ],
    ids=str,
)
def test_parameters_without_algebra_reach_lightgbm(frame, other_frame, settings):
    X, y = frame
    model = make_trees(**SPLITTING, **settings).fit(X, y)
    np.testing.assert_array_equal(model.predict(other_frame), library_fit(model, X, y).predict(other_frame))
    np.testing.assert_allclose(model.kernel_weights_ @ y, model.predict(X), rtol=0, atol=tolerance(y))
    seedless = {name: value for name, value in settings.items() if not name.endswith("_seed")}
    plain = make_trees(**SPLITTING, **(seedless if seedless != settings else {})).fit(X, y)
    assert np.abs(plain.predict(other_frame) - model.predict(other_frame)).max() > 1e-6


@pytest.mark.parametrize(
    "constraints",
    [
        "[[0,99]]",
        "abc",
        {0, 1},
        3,
        [0, 1],
        [[0, 4]],
        [[0], [-1]],
        [[]],
        [[0, 1], []],
        [["a"]],
        [[0.5]],
        [[True]],
        ["01"],
    ],
    ids=str,
)
def test_constraints_that_name_no_columns_are_refused(constraints):
    with pytest.raises(ValueError, match="interaction_constraints"):
        make_trees(interaction_constraints=constraints).fit(*random_rows())


def test_groups_of_columns_may_be_of_any_sequence_and_int():
    X, y = random_rows()
    groups = [[[0, 1], [2, 3]], ((0, 1), (2, 3)), [np.array([0, 1]).tolist(), (np.int64(2), np.int64(3))]]
    found = [make_trees(interaction_constraints=given).fit(X, y).predict(X) for given in groups]
    assert not np.array_equal(found[0], make_trees().fit(X, y).predict(X))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


INTS = [name for name, value in make_trees().get_params().items() if type(value) is int and name != "random_state"]


@pytest.mark.parametrize("name", INTS)
def test_ints_beyond_lightgbms_are_refused_by_name(name):
    with pytest.raises(ValueError, match=f"'{name}' parameter"):
        make_trees(**{name: 2**31 if name != "n_jobs" else "many"}).fit(*random_rows())


def test_numbers_of_leaves_end_where_lightgbms_do():
    assert make_trees(num_leaves=131072).fit(*random_rows()).n_stages_ == 12
    with pytest.raises(ValueError, match=r"'num_leaves' parameter .* 131072"):
        make_trees(num_leaves=131073).fit(*random_rows())
