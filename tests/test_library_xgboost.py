"""Fitted models of XGBoost: weights against dense loops, files, settings one by one, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import import_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from leaf_oracle import NumericLoss, by_hand_quantile, dense_telescope, newton_leaf, quantile_leaf
from scipy.special import expit, logit

from telescoping_sklearn import telescope
from telescoping_sklearn.boosting.libraries.xgboost import read, recognises
from telescoping_sklearn.boosting.libraries.xgboost._saved import SavedModel

xgboost = import_or_skip("xgboost")

N, M = 90, 30
PLAIN = {"n_estimators": 12, "max_depth": 3, "learning_rate": 0.2, "n_jobs": 1, "random_state": 0}
SQUARED, MEDIAN, QUANTILE = "reg:squarederror", "reg:absoluteerror", "reg:quantileerror"


def rows_of(n=N, seed=0, missing=0.1):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    y = 10 + 5 * np.sin(2 * X[:, 0]) + 2 * X[:, 1] + rng.normal(size=n)
    X[rng.random(X.shape) < missing] = np.nan
    return X, y


def frame_of(n=N, seed=0):
    X, y = rows_of(n, seed)
    codes = np.random.default_rng(seed).integers(0, 6, n)
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["kind"] = pd.Categorical.from_codes(np.where(codes == 5, -1, codes), categories=list("vwxyz"))
    return frame, y + 3 * (codes % 3)


X, Y = rows_of()
QUERY = rows_of(M, seed=1)[0]
WEIGHTS = np.random.default_rng(2).uniform(0.2, 3, N)


def labels_for(objective, y):
    """Labels that an objective takes."""
    scaled = (y - y.min()) / np.ptp(y)
    return {
        "binary": (y > np.median(y)).astype(float),
        "reg:logistic": scaled,
        "count:poisson": np.floor(5 * scaled),
        "reg:gamma": scaled + 0.1,
        "reg:tweedie": np.maximum(scaled - 0.2, 0),
        "reg:squaredlogerror": 3 * scaled,
        "reg:pseudohubererror": 4 * scaled - 1,
    }.get("binary" if objective.startswith("binary") else objective, y)


def loss_of(objective, params):
    """The loss by its gradient and XGBoost's hessian; what else is needed is differentiated numerically."""
    rho, slope = params.get("tweedie_variance_power", 1.5), params.get("huber_slope", 1.0)
    step = params.get("max_delta_step", 0.7)
    if "logi" in objective:
        return NumericLoss(lambda y, f: expit(f) - y)
    if objective == "reg:squaredlogerror":
        return NumericLoss(lambda y, f: (np.log1p(f) - np.log1p(y)) / (1 + f))
    if objective == "reg:pseudohubererror":
        return NumericLoss(lambda y, f: (f - y) / np.sqrt(1 + ((f - y) / slope) ** 2))
    return {
        "count:poisson": NumericLoss(lambda y, f: np.exp(f) - y, lambda y, f: np.exp(f + step)),
        "reg:gamma": NumericLoss(lambda y, f: 1 - y * np.exp(-f)),
        "reg:tweedie": NumericLoss(lambda y, f: np.exp((2 - rho) * f) - y * np.exp((1 - rho) * f)),
    }[objective]


def start_of(objective, y, w, base_score, level, scaled=False):
    """(A, b) of the start: a function of the mean label, or one step from zero where weights are scaled by label."""
    links = {"reg:logistic": logit, "binary:logistic": logit}
    links |= dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie"), np.log)
    link = links.get(objective, lambda mean: mean)
    if base_score is not None:
        return np.zeros(len(y)), float(link(base_score))
    mean = w @ y / w.sum()
    if objective == SQUARED:
        return w / w.sum(), 0.0
    if objective in (MEDIAN, QUANTILE):
        return by_hand_quantile(y, None if (w == 1).all() else w, level), 0.0
    if scaled or objective in ("reg:squaredlogerror", "reg:pseudohubererror"):  # a step from zero
        loss, zero = loss_of(objective, {}), np.zeros(len(y))
        whole = w @ loss.hessian(y, zero)
        return w * loss.label_rate(y, zero) / whole, float(-(w @ loss.gradient(y, zero)) / whole)
    slope = (link(mean + 1e-6) - link(mean - 1e-6)) / 2e-6
    return slope * w / w.sum(), float(link(mean))


def oracle(params, found, y, w, queries, fitted_with=None):
    """The dense telescope, from the settings that the model was fitted with; only leaves are the reader's."""
    objective = params.get("objective", SQUARED)
    level = 0.5 if objective == MEDIAN else params.get("quantile_alpha", 0.5)
    ones = np.ones(len(y)) if w is None else w
    limit = params.get("max_delta_step", 0.7 if objective == "count:poisson" else 0.0)
    leaf = newton_leaf(params.get("reg_lambda", 1.0), params["learning_rate"], params.get("reg_alpha", 0.0), limit)
    loss, float_type = None, float
    if objective in (MEDIAN, QUANTILE):
        weigh = lambda values, weights: by_hand_quantile(values, None if w is None else weights, level)  # noqa: E731
        leaf, float_type = quantile_leaf(weigh, params["learning_rate"]), np.float32
    elif objective != SQUARED:
        loss = loss_of(objective, params)
    scale = params.get("scale_pos_weight", 1.0)
    row_weights = ones * np.where(y == 1, scale, 1.0)
    return dense_telescope(
        y.astype(np.float32).astype(float),
        found.ensemble.leaves,
        found.trees.find_leaves(found.prepare(queries)),
        leaf,
        start=start_of(objective, y, row_weights, params.get("base_score"), level, scale != 1),
        row_weights=row_weights,
        loss=loss,
        float_type=float_type,
    )


def fitted(params, X=X, y=Y, w=None, **fit):
    return xgboost.XGBRegressor(**PLAIN | params).fit(X, y, sample_weight=w, **fit)


def assert_influence(explained, found, dense, fit, rows=3):
    """Influence is the derivative of the dense raw scores in the weights of some rows, leaves and ridges held."""
    params, y, w, queries = fit
    if found.ensemble.influence_terms is None:
        with pytest.raises(ValueError, match="influence is not known"):
            explained.influence(queries)
        return
    found_at = explained.influence(queries)
    if params.get("loss_function", params.get("objective", "")).startswith(("MAE", "Quantile", "reg:quant", "reg:abs")):
        assert not found_at.any()
        return
    ones = np.ones(len(y)) if w is None else w
    for row in range(0, len(y), max(len(y) // rows, 1)):
        step = 1e-4
        up, down = (ones + sign * step * (np.arange(len(y)) == row) for sign in (1, -1))
        raws = [oracle(params, found, y, moved, queries, ones).raw for moved in (up, down)]
        slope = (raws[0] - raws[1]) / (2 * step)
        np.testing.assert_allclose(
            found_at[:, row], slope, atol=2e-4 * max(np.abs(slope).max(), 0.01 * np.std(dense.raw))
        )


def assert_exact(model, params, X=X, y=Y, w=None, queries=QUERY):
    """The telescope rebuilds the model's raw scores, and its weights are those of the dense loops."""
    explained = telescope(model, X, y, w)
    found = read(model, X, y, w)
    dense = oracle(PLAIN | params, found, y, w, queries)
    raw = found.trees.predict(found.prepare(queries), raw=True)
    weights = explained.kernel_weights(queries)
    np.testing.assert_allclose(weights, dense.weights, atol=3e-5 * np.abs(dense.weights).max())
    np.testing.assert_allclose(dense.raw, raw, atol=2e-5 * np.std(raw) + 2e-6 * (1 + np.abs(raw).max()))
    assert_influence(explained, found, dense, (PLAIN | params, y, w, queries))
    if explained.telescope_.is_smoother:
        offset = explained.offset(queries)
        np.testing.assert_allclose(weights @ y + offset, raw, atol=2e-5 * np.std(y) + 2e-6 * np.abs(y).max())
        np.testing.assert_allclose(offset, dense.offset, atol=3e-5 * np.abs(y).max())
    return explained


def reloaded(model, folder, kind="ubj", estimator=False):
    path = folder / f"model.{kind}"
    model.save_model(path)
    if not estimator:
        return xgboost.Booster(model_file=path)
    loaded = xgboost.XGBRegressor()
    loaded.load_model(path)
    return loaded


# -- weights of labels -------------------------------------------------------------------------------------------------

OBJECTIVES = (
    *(SQUARED, MEDIAN, QUANTILE, "binary:logistic", "binary:logitraw", "reg:logistic", "count:poisson", "reg:gamma"),
    *("reg:tweedie", "reg:squaredlogerror", "reg:pseudohubererror"),
)


@pytest.mark.parametrize("w", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_against_dense_loops(objective, w):
    params = {"objective": objective} | ({"quantile_alpha": 0.8} if objective == QUANTILE else {})
    y = labels_for(objective, Y)
    explained = assert_exact(fitted(params, y=y, w=w), params, y=y, w=w)
    assert explained.telescope_.is_smoother == (objective in (SQUARED, MEDIAN, QUANTILE))


@st.composite
def fits(draw):
    objective = draw(st.sampled_from([SQUARED] * 3 + list(OBJECTIVES)))
    methods = ["hist", "approx"] + ["exact"] * (objective not in (MEDIAN, QUANTILE))
    params = {
        "objective": objective,
        "n_estimators": draw(st.sampled_from([1, 4, 10])),
        "max_depth": draw(st.sampled_from([1, 2, 5])),
        "learning_rate": draw(st.sampled_from([0.05, 0.3, 1.0])),
        "reg_lambda": draw(st.sampled_from([0.5, 1.0, 6.0])),
        "tree_method": draw(st.sampled_from(methods)),
        "min_child_weight": draw(st.sampled_from([0.01, 1.0])),
    }
    optional = {"reg_alpha": [0.3, 2.0], "max_delta_step": [0.3, 1.0], "gamma": [0.5], "colsample_bytree": [0.5]}
    optional |= {"base_score": [0.3, 0.7]}
    for name, values in optional.items():
        if draw(st.integers(0, 3)) == 0:
            params[name] = draw(st.sampled_from(values))
    if objective == QUANTILE:
        params["quantile_alpha"] = draw(st.sampled_from([0.1, 0.5, 0.75]))
    return params, draw(st.integers(12, 70)), draw(st.integers(0, 10**6)), draw(st.booleans()), draw(st.booleans())


@settings(max_examples=60, deadline=None)
@given(fits())
def test_random_settings_against_dense_loops(fit):
    params, n, seed, weighted, categories = fit
    categories &= params["tree_method"] != "exact"
    X, y = frame_of(n, seed) if categories else rows_of(n, seed)
    y, rng = labels_for(params["objective"], y), np.random.default_rng(seed)
    w = rng.integers(1, 4, n) * rng.uniform(0.5, 2) if weighted else None
    params |= {"enable_categorical": categories}
    queries = frame_of(M, seed + 1)[0] if categories else QUERY
    assert_exact(fitted(params, X, y, w), params, X, y, w, queries)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [SQUARED, MEDIAN, "binary:logistic", "count:poisson", "reg:gamma"])
@pytest.mark.parametrize(("kind", "estimator"), [("ubj", False), ("json", False), ("ubj", True)])
def test_a_loaded_model_has_the_weights_of_the_fitted(tmp_path, objective, kind, estimator):
    params = {"objective": objective, "reg_lambda": 2.5, "learning_rate": 0.17, "n_estimators": 30}
    y = labels_for(objective, Y)
    model = fitted(params, y=y, w=WEIGHTS)
    expected = telescope(model, X, y, WEIGHTS).kernel_weights(QUERY)
    found = telescope(reloaded(model, tmp_path, kind, estimator), X, y, WEIGHTS).kernel_weights(QUERY)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "thresholds", [{"reg_alpha": 4.0}, {"max_delta_step": 1.5}, {"reg_alpha": 2.0, "max_delta_step": 2.0}]
)
def test_thresholds_are_found_from_the_leaves_of_a_loaded_model(tmp_path, thresholds):
    params = {"n_estimators": 40, "reg_lambda": 0.5} | thresholds
    X, y = rows_of(300)
    loaded = reloaded(fitted(params, X, y), tmp_path)
    assert_exact(loaded, params, X, y)


@pytest.mark.parametrize("ridge", [1.0, 2.5])
@pytest.mark.parametrize("objective", [SQUARED, "reg:gamma"])  # the hessians of gamma do not tell the weights
def test_a_ridge_that_the_model_holds_is_not_sought(objective, ridge):
    y = labels_for(objective, Y)
    model = fitted({"objective": objective, "reg_lambda": ridge}, y=y)
    telescope(model, X, y)
    for rows in ((np.vstack([X, X]), np.concatenate([y, y])), (X, y, np.full(N, 3.0))):
        with pytest.raises(ValueError, match=r"misses the model's own predictions"):
            telescope(model, *rows)
        if ridge != 1.0:  # a Booster tells its own, and a loaded one the default
            with pytest.raises(ValueError, match=r"misses the model's own predictions"):
                telescope(model.get_booster(), *rows)


def test_leaves_that_are_too_few_are_refused_until_the_settings_are_told(tmp_path):
    params = {"n_estimators": 1, "max_depth": 1, "reg_lambda": 2.5, "reg_alpha": 3.0}
    model = fitted(params)
    loaded = reloaded(model, tmp_path)
    with pytest.raises(ValueError, match=r"too few to find others.*reg_lambda"):
        telescope(loaded, X, Y)
    loaded.set_param({"reg_lambda": 2.5, "reg_alpha": 3.0, "learning_rate": 0.2})
    assert_exact(loaded, params)
    told = xgboost.XGBRegressor(reg_lambda=2.5, reg_alpha=3.0, learning_rate=0.2)
    told.load_model(tmp_path / "model.ubj")
    assert_exact(told, params)


def test_an_unknown_format_is_an_error_that_names_the_versions():
    class Changed:
        def save_config(self):
            return json.dumps({"learner": {}})

        def save_raw(self, kind):
            return b'{"learner": {"gradient_booster": {}}}'

    with pytest.raises(ValueError, match=r"format of this XGBoost model is not known.*XGBoost 3\.2"):
        SavedModel(Changed(), {})


# -- rows as the user has them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("onehot", [1, 10])
def test_categories_in_another_order_are_the_same(tmp_path, onehot):
    frame, y = frame_of(200)
    model = fitted({"enable_categorical": True, "max_cat_to_onehot": onehot}, frame, y)
    other = frame.assign(kind=frame["kind"].cat.reorder_categories(list("zxvyw")))
    expected = telescope(model, frame, y).kernel_weights(frame)
    for trained, asked in ((frame, other), (other, frame), (other, other)):
        for of_model in (model, reloaded(model, tmp_path)):
            weights = telescope(of_model, trained, y).kernel_weights(asked)
            np.testing.assert_allclose(weights, expected, atol=1e-6)
    np.testing.assert_allclose(expected @ y, model.predict(other), atol=1e-4)


def test_categories_that_xgboost_cuts_are_refused():
    frame, y = frame_of()
    frame["kind"] = frame["kind"].cat.rename_categories(["ä", "é", "ø", "ü", "z"])
    with pytest.raises(ValueError, match="Column 4 has categories with letters other than ASCII"):
        telescope(fitted({"enable_categorical": True}, frame, y), frame, y)


def test_columns_and_categories_of_other_frames_are_refused_by_name():
    frame, y = frame_of()
    explained = telescope(fitted({"enable_categorical": True}, frame, y), frame, y)
    with pytest.raises(ValueError, match=r"Column 'kind' has the categories \['new'\]"):
        explained.kernel_weights(frame.assign(kind=pd.Categorical(["new"] * N)))
    with pytest.raises(ValueError, match=r"X has the columns \['b', 'a'"):
        explained.kernel_weights(frame[["b", "a", "c", "d", "kind"]])
    with pytest.raises(ValueError, match=r"Column 'kind' has dtype float64"):
        explained.kernel_weights(frame.assign(kind=1.0))
    with pytest.raises(ValueError, match="expecting"):
        telescope(fitted({}), X[:, :3], Y)


def test_a_value_that_stands_for_missing():
    coded = np.where(np.isnan(X), -999.0, X)
    model = fitted({"missing": -999.0}, coded)
    assert_exact(model, {}, coded, queries=np.where(np.isnan(QUERY), -999.0, QUERY))
    assert_exact(fitted({}), {})  # nan


def test_models_are_recognised_by_their_type():
    assert recognises(fitted({}))
    assert recognises(fitted({}).get_booster())
    assert not recognises(pd.DataFrame())


def test_a_model_that_is_trained_on_afterwards_keeps_its_telescope():
    data = xgboost.DMatrix(X, Y)
    booster = xgboost.train({"max_depth": 3}, data, 5)
    explained = telescope(booster, X, Y)
    before = explained.predict(QUERY)
    booster.update(data, 5)
    np.testing.assert_array_equal(explained.predict(QUERY), before)
    np.testing.assert_allclose(explained.kernel_weights(QUERY) @ Y, before, atol=1e-4)


# -- rows and labels of another fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", [SQUARED, MEDIAN, "binary:logistic", "reg:gamma"])
@pytest.mark.parametrize("loaded", [False, True])
def test_other_rows_labels_orders_and_weights_raise(tmp_path, objective, loaded):
    y, order = labels_for(objective, Y), np.random.default_rng(0).permutation(N)
    model = fitted({"objective": objective}, y=y, w=WEIGHTS)
    model = reloaded(model, tmp_path) if loaded else model
    telescope(model, X, y, WEIGHTS)
    wrong = {
        "shuffled labels": (X, y[order], WEIGHTS),
        "shuffled rows": (X[order], y, WEIGHTS),
        "forgotten weights": (X, y, None),
        "other weights": (X, y, WEIGHTS[order]),
        "other rows": (rows_of(seed=5)[0], y, WEIGHTS),
        "fewer rows": (X[:-9], y[:-9], WEIGHTS[:-9]),
    }
    for case in wrong.values():
        with pytest.raises(ValueError, match=r"misses the model's own predictions|leaves do not have the values"):
            telescope(model, *case)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("objective", [SQUARED, "binary:logistic"])
def test_weights_times_a_factor_and_rows_given_twice_raise(tmp_path, objective, loaded):
    y, twice = labels_for(objective, Y), np.full(N, 2.0)
    given, weighted = (fitted({"objective": objective}, y=y, w=w) for w in (None, twice))
    if loaded:
        given, weighted = reloaded(given, tmp_path), reloaded(weighted, tmp_path)
    telescope(given, X, y)
    telescope(given, X, y, np.ones(N))
    telescope(weighted, X, y, twice)
    for model, *rows in (
        (given, X, y, np.full(N, 3.0)),
        (given, np.vstack([X, X]), np.concatenate([y, y])),
        (weighted, X, y),
    ):
        with pytest.raises(ValueError, match=r"have other weights|leave it out"):
            telescope(model, *rows)


def test_labels_that_float32_cannot_tell_apart_are_refused():
    y = Y + 1e7
    with pytest.raises(ValueError, match=r"float32.*centred"):
        telescope(fitted({}, y=y), X, y)


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:gamma", "reg:squaredlogerror"])
def test_labels_that_the_objective_does_not_take_are_refused(objective):
    model = fitted({"objective": objective}, y=labels_for(objective, Y))
    with pytest.raises(ValueError, match="which takes"):
        telescope(model, X, Y - 20)


def test_a_classifier_explains_the_score_of_its_second_class():
    y = labels_for("binary", Y)
    model = xgboost.XGBClassifier(**PLAIN).fit(X, y.astype(int))
    explained = telescope(model, X, y, output=1)
    np.testing.assert_allclose(explained.predict(QUERY), model.predict_proba(QUERY)[:, 1], rtol=1e-6)
    with pytest.raises(ValueError, match="output=0"):
        telescope(model, X, y, output=0)


# -- the table of the documentation ------------------------------------------------------------------------------------


def schedule():
    return [xgboost.callback.LearningRateScheduler(lambda stage: 0.3 * 0.9**stage)]


def classes():
    y = np.digitize(Y, [8.0, 11.0])
    return xgboost.XGBClassifier(**PLAIN).fit(X, y), y


def stopped():
    model = xgboost.XGBRegressor(**PLAIN | {"n_estimators": 60, "early_stopping_rounds": 3})
    return model.fit(X, Y, eval_set=[(QUERY, rows_of(M, seed=1)[1])], verbose=False)


def updated():
    settings = {"process_type": "update", "updater": "refresh", "refresh_leaf": True, "verbosity": 0}
    return xgboost.train(settings, xgboost.DMatrix(X, 2 * Y), 12, xgb_model=fitted({}).get_booster())


def exactly(*every, objective=SQUARED, **rows):
    """All settings are exact."""

    def check():
        for params in every:
            params = {"objective": objective} | params
            y = labels_for(params["objective"], rows.get("y", Y))
            w = rows.get("w")
            assert_exact(
                fitted(params, rows.get("X", X), y, w), params, rows.get("X", X), y, w, rows.get("queries", QUERY)
            )

    return check


def refused(message, *every):
    """All models are refused with a message that names the setting."""

    def check():
        for make in every:
            made = make()
            model, y = made if isinstance(made, tuple) else (made, Y)
            with pytest.raises(ValueError, match=message):
                telescope(model, X, y)

    return check


def check_schedule():
    explained = telescope(fitted({"callbacks": schedule()}), X, Y)
    np.testing.assert_allclose(explained.kernel_weights(QUERY) @ Y, explained.predict(QUERY), atol=1e-4)
    exactly({"learning_rate": 1.0}, {"learning_rate": 0.01})()


def check_early_stopping():
    model = stopped()
    assert model.best_iteration + 1 < model.get_booster().num_boosted_rounds()
    assert telescope(model, X, Y).n_stages_ == model.best_iteration + 1
    assert telescope(model.get_booster(), X, Y).n_stages_ == model.get_booster().num_boosted_rounds()
    np.testing.assert_array_equal(telescope(model, X, Y).predict(QUERY), model.predict(QUERY))


def check_monotone():
    refused("monotone_constraints='", lambda: fitted({"monotone_constraints": (1, -1, 1, -1)}))()
    X, y = np.arange(40.0)[:, None], np.repeat([1.0, 2.0, 4.0, 8.0], 10)
    params = {"monotone_constraints": (1,), "n_estimators": 3, "max_depth": 2}
    assert_exact(fitted(params, X, y), params, X, y, queries=X[:5])


FRAME, OF_FRAME = frame_of()
WITH_ZEROS = WEIGHTS * (np.arange(N) % 4 > 0)
EARLY_STEP = {"n_estimators": 3}
TABLE = {
    "``reg_lambda``": exactly({"reg_lambda": 0.0}, {"reg_lambda": 20.0}),
    "``learning_rate``": check_schedule,
    "``base_score``": exactly({"base_score": 3.0}, {"base_score": 0.0}),
    "``reg_alpha``": exactly({"reg_alpha": 3.0}, {"reg_alpha": 40.0}),
    "``max_delta_step``": exactly({"max_delta_step": 0.7}, {"max_delta_step": 0.7, "reg_alpha": 3.0}),
    "``scale_pos_weight``": exactly(
        *(
            {"scale_pos_weight": 3.0, "objective": objective}
            for objective in ("binary:logistic", "binary:logitraw", SQUARED)
        ),
        y=labels_for("binary", Y),
    ),
    "``sample_weight``": exactly({}, w=WITH_ZEROS),
    "``max_depth``, ``max_leaves``, ``grow_policy``, ``gamma``, ``min_child_weight``": exactly(
        {"max_depth": 9},
        {"max_leaves": 5, "grow_policy": "lossguide", "max_depth": 0},
        {"gamma": 5.0},
        {"min_child_weight": 12},
    ),
    "``interaction_constraints``": exactly({"interaction_constraints": "[[0, 1], [2, 3]]"}),
    "``tree_method``": exactly(*({"tree_method": method} for method in ("exact", "hist", "approx"))),
    "``colsample_bytree``, ``colsample_bylevel``, ``colsample_bynode``": exactly(
        {"colsample_bytree": 0.5}, {"colsample_bylevel": 0.5}, {"colsample_bynode": 0.5}
    ),
    "``enable_categorical``": exactly(
        {"enable_categorical": True}, X=FRAME, y=OF_FRAME, queries=frame_of(M, seed=4)[0]
    ),
    "``missing``": test_a_value_that_stands_for_missing,
    "``early_stopping_rounds``": check_early_stopping,
    '``booster="dart"`` without drops': exactly({"booster": "dart"}),
    '``booster="dart"`` with drops': refused("booster='dart'", lambda: fitted({"booster": "dart", "rate_drop": 0.5})),
    '``booster="gblinear"``': refused(
        "booster='gblinear'",
        lambda: xgboost.XGBRegressor(booster="gblinear", n_estimators=3, n_jobs=1).fit(QUERY_FULL, Y),
    ),
    "``subsample`` below 1": refused("subsample", lambda: fitted({"subsample": 0.5})),
    "``num_parallel_tree`` above 1": refused("num_parallel_tree=3", lambda: fitted({"num_parallel_tree": 3})),
    '``process_type="update"``': refused("misses the model's own", updated),
    "``monotone_constraints``": check_monotone,
    "``base_margin``": refused("misses the model's own", lambda: fitted({}, base_margin=Y / 2)),
    '``objective="reg:squarederror"``': exactly({}),
    '``objective="reg:absoluteerror"``, ``"reg:quantileerror"`` with one level': exactly(
        {"objective": MEDIAN}, {"objective": QUANTILE, "quantile_alpha": 0.3}
    ),
    'the same with ``tree_method="exact"``': refused(
        "tree_method='exact'", lambda: fitted({"objective": MEDIAN, "tree_method": "exact"})
    ),
    '``objective="binary:logistic"``, ``"binary:logitraw"``, ``"reg:logistic"``': exactly(
        *({"objective": objective} for objective in ("binary:logistic", "binary:logitraw", "reg:logistic"))
    ),
    '``objective="count:poisson"``, ``"reg:gamma"``, ``"reg:tweedie"``': exactly(
        *({"objective": objective} for objective in ("count:poisson", "reg:gamma", "reg:tweedie")),
        {"objective": "count:poisson", "max_delta_step": 0.3},
        {"objective": "reg:tweedie", "tweedie_variance_power": 1.2},
    ),
    '``objective="reg:squaredlogerror"``, ``"reg:pseudohubererror"``': exactly(
        {"objective": "reg:squaredlogerror"}, {"objective": "reg:pseudohubererror"}
    ),
    '``objective="multi:softprob"``, several outputs, several levels': refused(
        "2 outputs|3 outputs", classes, lambda: fitted({"objective": QUANTILE, "quantile_alpha": [0.2, 0.8]})
    ),
    "other objectives, functions": refused(
        "objective=",
        lambda: fitted({"objective": "reg:squarederror"}).set_params(objective=lambda y, f: (f - y, np.ones_like(f))),
        lambda: (fitted({"objective": "binary:hinge"}, y=labels_for("binary", Y)), labels_for("binary", Y)),
    ),
}
QUERY_FULL = np.nan_to_num(X)


def documented():
    """First and second column of the table in the documentation."""
    text = (Path(__file__).parent.parent / "docs" / "_fitted_xgboost.rst").read_text()
    return dict(re.findall(r"^   \* - (.+)\n     - (exact|refused)", text, re.MULTILINE))


def test_the_table_lists_what_is_tested():
    assert set(documented()) == set(TABLE)


@pytest.mark.parametrize("setting", TABLE)
def test_every_row_of_the_table_is_true(setting):
    TABLE[setting]()


def test_a_model_that_is_not_fitted_and_one_without_trees():
    with pytest.raises(Exception, match="not fitted"):
        telescope(xgboost.XGBRegressor(), X, Y)
    with pytest.raises(ValueError, match="no trees"):
        telescope(xgboost.train({}, xgboost.DMatrix(X, Y), 0), X, Y)


@pytest.mark.parametrize("loaded", [False, True])
def test_row_samples_are_refused_by_name_in_memory_and_from_a_file(tmp_path, loaded):
    model = fitted({"subsample": 0.6})
    with pytest.raises(ValueError, match=r"subsample.*does not tell which rows"):
        telescope(reloaded(model, tmp_path) if loaded else model, X, Y)


@pytest.mark.parametrize("objective", [SQUARED, "binary:logistic"])
def test_trees_that_add_nothing_have_no_response(objective):
    params, y = {"objective": objective, "min_child_weight": 1000.0, "base_score": 0.3}, labels_for(objective, Y)
    explained = telescope(fitted(params, y=y), X, y)
    assert explained.n_stages_ == PLAIN["n_estimators"]
    assert not explained.kernel_weights(QUERY).any()
