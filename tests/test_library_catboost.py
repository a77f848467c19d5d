"""Fitted models of CatBoost: weights against dense loops, files, settings one by one, and what is refused."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import import_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from leaf_oracle import NumericLoss, dense_telescope, newton_leaf, quantile_leaf
from scipy.special import expit, logit

from telescoping_sklearn import telescope
from telescoping_sklearn.boosting.libraries.catboost import read, recognises
from telescoping_sklearn.boosting.libraries.catboost._saved import SavedModel

catboost = import_or_skip("catboost")

N, M = 90, 30
PLAIN = {
    **{"iterations": 12, "depth": 3, "learning_rate": 0.2, "leaf_estimation_iterations": 1, "random_seed": 0},
    **{"thread_count": 1, "verbose": 0, "allow_writing_files": False},
}
ONE_HOT = {"cat_features": ["kind"], "one_hot_max_size": 20}


def rows_of(n=N, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    y = 10 + 5 * np.sin(2 * X[:, 0]) + 2 * X[:, 1] + rng.normal(size=n)
    X[rng.random(X.shape) < 0.1] = np.nan
    return X, y


def frame_of(n=N, seed=0):
    X, y = rows_of(n, seed)
    codes = np.random.default_rng(seed).integers(0, 6, n)
    frame = pd.DataFrame(X, columns=list("abcd"))
    frame["kind"] = pd.Categorical.from_codes(codes, categories=list("uvwxyz"))
    return frame, y + 3 * (codes % 3)


X, Y = rows_of()
QUERY = rows_of(M, seed=1)[0]
WEIGHTS = np.random.default_rng(2).uniform(0.2, 3, N)
WITH_ZEROS = WEIGHTS * (np.arange(N) % 4 > 0)
FRAME, OF_FRAME = frame_of()


def labels_for(loss, y):
    """Labels that a loss takes."""
    scaled = (y - y.min()) / np.ptp(y)
    return {
        "Logloss": (y > np.median(y)).astype(float),
        "CrossEntropy": scaled,
        "Poisson": np.floor(5 * scaled),
        "Tweedie": np.maximum(scaled - 0.2, 0),
        **dict.fromkeys(("Huber", "Expectile", "LogCosh", "Lq"), 4 * scaled - 1),
    }.get(loss.split(":")[0], y)


def loss_of(loss, method):
    """The loss by its gradient and CatBoost's hessian; what else is needed is differentiated numerically."""
    number = float(loss.split("=")[1]) if "=" in loss else None
    made = {
        "Logloss": NumericLoss(lambda y, f: expit(f) - y),
        "CrossEntropy": NumericLoss(lambda y, f: expit(f) - y),
        "Poisson": NumericLoss(lambda y, f: np.exp(f) - y),
        "Tweedie": NumericLoss(lambda y, f: np.exp((2 - number) * f) - y * np.exp((1 - number) * f)),
        "Huber": NumericLoss(lambda y, f: np.clip(f - y, -number, number)),
        "Expectile": NumericLoss(lambda y, f: 2 * np.where(y > f, number, 1 - number) * (f - y)),
        "LogCosh": NumericLoss(lambda y, f: np.tanh(f - y)),
        "Lq": NumericLoss(lambda y, f: number * np.abs(f - y) ** (number - 1) * np.sign(f - y)),
    }[loss.split(":")[0]]
    if method == "Gradient":
        made.hessian = lambda y, f: np.ones_like(f)
    return made


def sorted_quantile(values, weights, level):
    """Weights of values in their quantile: all on the first value at which the sum of weights reaches the level."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    taken, total = np.zeros(len(values)), 0.0
    for i in order:
        total += weights[i]
        if total >= level * weights.sum() - 1e-9:
            taken[i] = 1.0
            return taken
    raise AssertionError


def oracle(params, found, y, w, queries, fitted_with=None):
    """The dense telescope, from the settings that the model was fitted with; only leaves and start are the reader's.

    With ``fitted_with`` the model was fitted with these weights, which set the ridge, and has others.
    """
    loss, method = params.get("loss_function", "RMSE"), params.get("leaf_estimation_method", "Newton")
    kept = np.ones(len(y)) if w is None else w
    if fitted_with is None:
        kept = kept.astype(np.float32).astype(float)  # ties of sums of weights depend on it
    ones = kept * np.where(y == 1, params.get("scale_pos_weight", 1.0), 1.0)
    start = found.ensemble.start(y)
    rate = params["learning_rate"]
    mean_weight = (ones if fitted_with is None else fitted_with).mean()
    leaf, of_loss = newton_leaf(params.get("l2_leaf_reg", 3.0) * mean_weight, rate), None
    if loss.startswith(("MAE", "Quantile")):
        level = float(loss.split("=")[1]) if "=" in loss else 0.5
        leaf = quantile_leaf(lambda values, _: sorted_quantile(values, np.ones(len(values)), level), rate)
        A = sorted_quantile(y, ones, level)
    elif loss == "RMSE":
        A = ones / ones.sum()
        start = A @ y if params.get("boost_from_average", True) else start
    else:
        of_loss, A = loss_of(loss, method), np.zeros(len(y))
        if params.get("boost_from_average"):
            start = float(logit(ones @ y / ones.sum()))
            at = np.full(len(y), start)
            A = ones * of_loss.label_rate(y, at) / (ones @ of_loss.curvature(y, at))
    if not params.get("boost_from_average", of_loss is None):
        A = np.zeros(len(y))
    return dense_telescope(
        y.astype(np.float32).astype(float),
        found.ensemble.leaves,
        found.trees.find_leaves(found.prepare(queries)),
        leaf,
        start=(A, start if of_loss is not None else start - A @ y),
        row_weights=ones,
        loss=of_loss,
    )


def fitted(params, X=X, y=Y, w=None, **fit):
    return catboost.CatBoost(PLAIN | {"loss_function": "RMSE"} | params).fit(X, y, sample_weight=w, **fit)


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


def assert_exact(model, params, X=X, y=Y, w=None, queries=QUERY, kinks=True):
    """The telescope rebuilds the model's raw scores, and its weights are those of the dense loops.

    Without ``kinks`` influence is not differentiated under losses whose second derivative jumps.
    """
    explained, found = telescope(model, X, y, w), read(model, X, y, w)
    dense = oracle(PLAIN | params, found, y, w, queries)
    raw = found.trees.predict(found.prepare(queries), raw=True)
    weights = explained.kernel_weights(queries)
    np.testing.assert_allclose(weights, dense.weights, atol=3e-5 * np.abs(dense.weights).max())
    np.testing.assert_allclose(dense.raw, raw, atol=2e-5 * np.std(raw) + 2e-6 * (1 + np.abs(raw).max()))
    if kinks or not params.get("loss_function", "RMSE").startswith(("Huber", "Expectile", "Lq")):
        assert_influence(explained, found, dense, (PLAIN | params, y, w, queries))
    if explained.telescope_.is_smoother:
        rebuilt = weights @ y + explained.offset(queries)
        np.testing.assert_allclose(rebuilt, raw, atol=2e-5 * np.std(y) + 2e-6 * np.abs(y).max())
    return explained


def reloaded(model, folder, kind=None):
    model.save_model(str(folder / "model.cbm"))
    return (kind or catboost.CatBoost)().load_model(str(folder / "model.cbm"))


# -- weights of labels -------------------------------------------------------------------------------------------------

SMOOTHERS = ("RMSE", "MAE", "Quantile:alpha=0.3")
OTHERS = (
    *("Logloss", "CrossEntropy", "Poisson", "Tweedie:variance_power=1.3"),
    *("Huber:delta=0.7", "Expectile:alpha=0.3", "LogCosh", "Lq:q=3"),
)
METHODS = [*((loss, None) for loss in SMOOTHERS), *((loss, how) for loss in OTHERS for how in ("Newton", "Gradient"))]


@pytest.mark.parametrize("w", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize(("loss", "method"), METHODS)
def test_every_loss_against_dense_loops(loss, method, w):
    params = {"loss_function": loss} | ({} if method is None else {"leaf_estimation_method": method})
    y = labels_for(loss, Y)
    explained = assert_exact(fitted(params, y=y, w=w), params, y=y, w=w)
    assert explained.telescope_.is_smoother == (loss in SMOOTHERS)


@st.composite
def fits(draw):
    loss = draw(st.sampled_from(("RMSE",) * 4 + SMOOTHERS + OTHERS))
    params = {
        "loss_function": loss,
        "iterations": draw(st.sampled_from([1, 4, 10])),
        "depth": draw(st.sampled_from([1, 2, 5])),
        "learning_rate": draw(st.sampled_from([0.05, 0.3, 1.0])),
        "l2_leaf_reg": draw(st.sampled_from([0.1, 3.0, 20.0])),
        "bootstrap_type": draw(st.sampled_from(["No", "Bernoulli", "Bayesian", "MVS"])),
        "random_seed": draw(st.integers(0, 99)),
    }
    if loss.startswith("Lq"):  # gradient steps of one run away
        params["learning_rate"] = 0.05
    if loss not in SMOOTHERS:
        params["leaf_estimation_method"] = draw(st.sampled_from(["Newton", "Gradient"]))
    growth = [{}, {"boosting_type": "Ordered"}, {"grow_policy": "Depthwise"}, {"grow_policy": "Lossguide"}]
    params |= draw(st.sampled_from(growth))
    if loss in ("RMSE", "MAE", "Logloss"):
        params["boost_from_average"] = draw(st.booleans())
    return params, draw(st.integers(12, 70)), draw(st.integers(0, 10**6)), draw(st.booleans()), draw(st.booleans())


@settings(max_examples=50, deadline=None)
@given(fits())
def test_random_settings_against_dense_loops(fit):
    params, n, seed, weighted, categories = fit
    X, y = frame_of(n, seed) if categories else rows_of(n, seed)
    y, rng = labels_for(params["loss_function"], y), np.random.default_rng(seed)
    w = rng.integers(1, 4, n) * rng.uniform(0.5, 2) if weighted else None
    params |= ONE_HOT if categories else {}
    queries = frame_of(M, seed + 1)[0] if categories else QUERY
    assert_exact(fitted(params, X, y, w), params, X, y, w, queries, kinks=False)


# -- files, classes, rows as the user has them -------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["RMSE", "MAE", "Logloss", "Poisson"])
def test_a_loaded_model_has_the_weights_of_the_fitted(tmp_path, loss):
    params, y = {"loss_function": loss, "l2_leaf_reg": 1.5}, labels_for(loss, Y)
    model = fitted(params, y=y, w=WEIGHTS)
    expected = telescope(model, X, y, WEIGHTS).kernel_weights(QUERY)
    found = telescope(reloaded(model, tmp_path), X, y, WEIGHTS).kernel_weights(QUERY)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


def test_a_classifier_explains_the_score_of_its_second_class(tmp_path):
    y = np.where(Y > np.median(Y), "high", "also low")
    model = catboost.CatBoostClassifier(**PLAIN).fit(X, y)
    for of_model in (model, reloaded(model, tmp_path, catboost.CatBoostClassifier)):
        explained = telescope(of_model, X, y, output="high")
        np.testing.assert_allclose(explained.predict(QUERY), model.predict_proba(QUERY)[:, 1], rtol=1e-10)
        with pytest.raises(ValueError, match="output='also low'"):
            telescope(of_model, X, y, output="also low")
    with pytest.raises(ValueError, match="which is not one of the classes"):
        telescope(model, X, np.where(y == "high", "other", y))


def test_columns_of_other_frames_are_refused_by_name():
    explained = telescope(fitted(ONE_HOT, FRAME, OF_FRAME), FRAME, OF_FRAME)
    with pytest.raises(ValueError, match=r"X has the columns \['b', 'a'"):
        explained.kernel_weights(FRAME[["b", "a", "c", "d", "kind"]])
    with pytest.raises(ValueError, match="expecting"):
        telescope(fitted({}), X[:, :3], Y)


def test_a_model_that_is_changed_afterwards_keeps_its_telescope():
    model = fitted({})
    explained = telescope(model, X, Y)
    before = explained.predict(QUERY)
    model.shrink(5)
    np.testing.assert_array_equal(explained.predict(QUERY), before)


def test_models_are_recognised_by_their_type():
    assert recognises(catboost.CatBoostRegressor())
    assert recognises(fitted({}))
    assert not recognises(pd.DataFrame())


def test_an_unknown_format_is_an_error_that_names_the_version():
    class Changed:
        def copy(self):
            return self

        def get_all_params(self):
            return {"loss_function": "RMSE"}

    with pytest.raises(ValueError, match=r"not known.*learning_rate.*CatBoost 1\.2\.10"):
        SavedModel(Changed())


def test_a_model_that_is_not_fitted():
    with pytest.raises(Exception, match="not fitted"):
        telescope(catboost.CatBoostRegressor(), X, Y)


# -- rows and labels of another fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["RMSE", "Logloss", "Poisson"])
@pytest.mark.parametrize("loaded", [False, True])
def test_other_rows_labels_orders_and_weights_raise(tmp_path, loss, loaded):
    y, order = labels_for(loss, Y), np.random.default_rng(0).permutation(N)
    model = fitted({"loss_function": loss}, y=y, w=WEIGHTS)
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
        with pytest.raises(ValueError, match=r"misses the model's own predictions|holds none of the rows given"):
            telescope(model, *case)


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("loss", ["RMSE", "Logloss", "Poisson"])
def test_weights_times_a_factor_and_rows_given_twice_raise(tmp_path, loss, loaded):
    y, twice = labels_for(loss, Y), np.full(N, 2.0)
    given, weighted = (fitted({"loss_function": loss}, y=y, w=w) for w in (None, twice))
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


# -- the table of the documentation ------------------------------------------------------------------------------------


def exactly(*every, **rows):
    """All settings are exact."""

    def check():
        for params in every:
            X_of, w = rows.get("X", X), rows.get("w")
            y = labels_for(params.get("loss_function", "RMSE"), rows.get("y", Y))
            assert_exact(fitted(params, X_of, y, w), params, X_of, y, w, rows.get("queries", QUERY))

    return check


def refused(message, *every, X=X, y=Y):
    """All settings are refused with a message that names one."""

    def check():
        for params in every:
            model = params() if callable(params) else fitted(params, X, y)
            with pytest.raises(ValueError, match=message):
                telescope(model, X, y)

    return check


def check_class_weights():
    y, low = labels_for("Logloss", Y), np.arange(N) < N // 3
    exactly({"loss_function": "Logloss", "scale_pos_weight": 3.0})()
    y[low] = 0.0
    for weights in ({"class_weights": [1.0, 4.0]}, {"auto_class_weights": "Balanced"}):
        model = fitted({"loss_function": "Logloss"} | weights, y=y)
        ratio = model.get_all_params()["class_weights"][1]
        assert ratio > 1.05
        assert_exact(model, {"scale_pos_weight": ratio} | {"loss_function": "Logloss"}, y=y)


def check_early_stopping():
    held_out = rows_of(M, seed=1)
    model = fitted({"iterations": 80, "learning_rate": 0.5}, eval_set=held_out, early_stopping_rounds=3)
    assert model.tree_count_ == model.best_iteration_ + 1 < 80
    assert_exact(model, {"learning_rate": 0.5})


def check_baseline():
    pool = catboost.Pool(X, Y, baseline=Y / 2)
    refused("misses the model's own", lambda: catboost.CatBoost(PLAIN | {"loss_function": "RMSE"}).fit(pool))()


def texts():
    words = ["one two", "two three", "three one", "four"]
    return pd.DataFrame({"a": np.nan_to_num(X[:, 0]), "text": [words[place % 4] for place in range(N)]})


TABLE = {
    "``l2_leaf_reg``": exactly({"l2_leaf_reg": 0.0}, {"l2_leaf_reg": 30.0}, w=WEIGHTS),
    "``learning_rate``": exactly({"learning_rate": 1.0}, {"learning_rate": 0.01}),
    "``boost_from_average``": exactly(
        {"boost_from_average": False},
        {"boost_from_average": True, "loss_function": "Logloss"},
        {"boost_from_average": False, "loss_function": "MAE"},
    ),
    "``sample_weight``": exactly({}, {"loss_function": "MAE"}, w=WITH_ZEROS),
    "``class_weights``, ``auto_class_weights``, ``scale_pos_weight``": check_class_weights,
    "``boosting_type``, ``bootstrap_type``, ``subsample``, ``random_strength``, ``rsm``": exactly(
        {"boosting_type": "Ordered"},
        {"bootstrap_type": "Bernoulli", "subsample": 0.4},
        {"bootstrap_type": "Bayesian", "random_strength": 10.0},
        {"bootstrap_type": "MVS", "rsm": 0.5},
    ),
    "``grow_policy``, ``depth``, ``min_data_in_leaf``, ``max_leaves``": exactly(
        {"depth": 9}, {"grow_policy": "Depthwise", "min_data_in_leaf": 7}, {"grow_policy": "Lossguide", "max_leaves": 5}
    ),
    "``nan_mode``": exactly({"nan_mode": "Max"}, {"nan_mode": "Min"}),
    "``eval_set`` with ``early_stopping_rounds``": check_early_stopping,
    "``cat_features`` with ``one_hot_max_size`` of at least their categories": exactly(
        ONE_HOT, X=FRAME, y=OF_FRAME, queries=frame_of(M, seed=4)[0]
    ),
    '``cat_features`` with ``simple_ctr="Counter"``, ``combinations_ctr="Counter"``': exactly(
        {"cat_features": ["kind"], "simple_ctr": "Counter", "combinations_ctr": "Counter"},
        X=FRAME,
        y=OF_FRAME,
        queries=frame_of(M, seed=4)[0],
    ),
    "``cat_features`` encoded by statistics of labels": refused(
        "one_hot_max_size",
        {"cat_features": ["kind"]},
        X=FRAME,
        y=OF_FRAME + 9 * FRAME["kind"].isin(["u", "w"]).to_numpy(),
    ),
    "``text_features``, ``embedding_features``": refused("text_features", {"text_features": ["text"]}, X=texts()),
    "``leaf_estimation_iterations`` above 1": refused(
        "leaf_estimation_iterations=5", {"leaf_estimation_iterations": 5}
    ),
    "``model_shrink_rate``": refused("model_shrink_rate=0.1", {"model_shrink_rate": 0.1}),
    "``langevin``": refused("langevin=True", {"langevin": True}),
    "``posterior_sampling``": refused("langevin=True|posterior_sampling=True", {"posterior_sampling": True}),
    "``monotone_constraints``": refused("monotone_constraints=", {"monotone_constraints": [1, -1, 0, 0]}),
    "``eval_fraction``": refused("eval_fraction=", {"eval_fraction": 0.3}),
    "``baseline``": check_baseline,
    '``loss_function="RMSE"``': exactly({}),
    '``loss_function="MAE"``, ``"Quantile"`` with ``leaf_estimation_method="Exact"``': exactly(
        {"loss_function": "MAE"}, {"loss_function": "Quantile:alpha=0.8"}, w=WEIGHTS
    ),
    **{
        row: exactly(
            *(
                {"loss_function": loss, "leaf_estimation_method": how}
                for loss in losses
                for how in ("Newton", "Gradient")
            )
        )
        for row, losses in {
            '``loss_function="Logloss"``, ``"CrossEntropy"``': OTHERS[:2],
            '``loss_function="Poisson"``, ``"Tweedie"``': OTHERS[2:4],
            '``loss_function="Huber"``, ``"Expectile"``, ``"LogCosh"``, ``"Lq"`` with q of 2 or more': OTHERS[4:],
        }.items()
    },
    '``loss_function="MultiClass"``, ``"MultiRMSE"``, ``"MAPE"`` and all others': refused(
        "loss_function=",
        {"loss_function": "MAPE"},
        {"loss_function": "LogCosh", "leaf_estimation_method": "Exact"},
        {"loss_function": "MAE", "leaf_estimation_method": "Gradient"},
        lambda: fitted({"loss_function": "MultiClass"}, y=np.digitize(Y, [8.0, 11.0])),
        lambda: fitted({"loss_function": "MultiRMSE"}, y=np.column_stack([Y, Y])),
    ),
}


def documented():
    """First column of the table in the documentation, and the verdict in the second."""
    text = (Path(__file__).parent.parent / "docs" / "_fitted_catboost.rst").read_text()
    return dict(re.findall(r"^   \* - (.+)\n     - (exact|refused)", text, re.MULTILINE))


def test_the_table_lists_what_is_tested():
    assert set(documented()) == set(TABLE)


@pytest.mark.parametrize("setting", TABLE)
def test_every_row_of_the_table_is_true(setting):
    TABLE[setting]()
