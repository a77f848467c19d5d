"""Boosters of LightGBM that were fitted elsewhere: against dense loops, and against our own estimator."""

import re

import lightgbm
import numpy as np
import pandas as pd
import pytest
from conftest import make_trees, random_rows, tree_tolerance
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from leaf_oracle import dense_telescope, newton_leaf, quantile_leaf
from scipy.special import expit, logit
from test_boosting import library_of
from test_fitted_scikit_learn import Softmax, shares_of_quantile
from test_threshold_leaves import FEW_SAMPLED, bundled_rows
from test_tree_settings import SPLITTING, random_frame

from telescoping_sklearn import telescope
from telescoping_sklearn.losses import Logistic

N, M = 80, 20
MANY = hypothesis_settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def rows_and_labels(seed):
    X, y = random_rows(N + M, seed=seed)
    X = np.round(X, 1)
    X[np.random.default_rng(seed).random(X.shape) < 0.1] = np.nan
    return X[:N], 8 + 3 * y[:N], X[N:]


def some_weights(kind, seed):
    return None if kind is None else np.random.default_rng(seed).choice([0.0, 0.5, 1.0, 2.5], N)


def leaves_of(model, X, score=0, n_scores=1):
    found = model.predict(X, pred_leaf=True).reshape(len(X), -1)
    return found[:, score::n_scores].T


def library_fit(X, y, weights=None, kind=lightgbm.LGBMRegressor, **settings):
    base = {"n_estimators": 6, "num_leaves": 6, "min_child_samples": 4, "n_jobs": 1, "verbosity": -1}
    return kind(**base | settings).fit(X, y, sample_weight=weights)


@given(
    seed=st.integers(0, 10**6),
    weighted=st.sampled_from([None, "weights"]),
    objective=st.sampled_from(["regression", "regression_l1", "quantile", "huge steps"]),
    ridge=st.sampled_from([0.0, 4.0]),
    penalty=st.sampled_from([0.0, 2.0]),
    leaves=st.sampled_from([2, 6, 40]),
    average=st.booleans(),
)
@MANY
def test_boosters_are_the_dense_loops(seed, weighted, objective, ridge, penalty, leaves, average):
    X, y, Q = rows_and_labels(seed)
    weights = None if objective in ("regression_l1", "quantile") else some_weights(weighted, seed)
    limit = 0.9 if objective == "huge steps" else 0.0
    settings = {"reg_lambda": ridge, "reg_alpha": penalty, "num_leaves": leaves, "boost_from_average": average}
    name = "regression" if limit else objective
    model = library_fit(X, y, weights, objective=name, alpha=0.3, max_delta_step=limit, learning_rate=0.3, **settings)
    level = {"regression_l1": 0.5, "quantile": float(np.float32(0.3))}.get(objective)
    w, kept = np.ones(N) if weights is None else weights, np.float32(y).astype(float)
    if level is not None:
        leaf, start = quantile_leaf(shares_of_quantile(level, False), 0.3), shares_of_quantile(level, False)(kept, w)
    else:
        leaf, start = newton_leaf(ridge, 0.3, penalty, limit), w / w.sum()
    in_leaves = leaves_of(model, X)
    learnt = average or len(np.unique(in_leaves[0])) == 1
    first = int(len(np.unique(in_leaves[0])) == 1)  # a tree of one leaf is the start alone
    dense = dense_telescope(
        kept, in_leaves[first:], leaves_of(model, Q)[first:], leaf, start=(start * learnt, 0.0), row_weights=w
    )
    explained = telescope(model, X, y, weights)
    tolerance = tree_tolerance(y) + 4 * np.abs(kept - y).max()
    np.testing.assert_allclose(dense.raw, model.predict(Q), atol=tolerance)
    np.testing.assert_allclose(explained.kernel_weights(Q), dense.weights, atol=1e-6)
    np.testing.assert_allclose(explained.offset(Q), dense.offset, atol=tolerance)
    np.testing.assert_array_equal(explained.predict(Q), model.predict(Q))


@given(
    seed=st.integers(0, 10**6),
    weighted=st.sampled_from([None, "weights"]),
    settings=st.fixed_dictionaries(
        {
            "objective": st.sampled_from(
                ["regression", "regression_l1", "quantile", "mape", "huber", "fair", "poisson", "gamma", "tweedie"]
            ),
            "subsample": st.sampled_from([1.0, 0.7]),
            "subsample_freq": st.sampled_from([0, 1, 2]),
            "colsample_bytree": st.sampled_from([1.0, 0.5]),
            "extra_trees": st.booleans(),
            "reg_lambda": st.sampled_from([0.0, 2.0]),
            "max_delta_step": st.sampled_from([0.0, 0.7]),
        }
    ),
)
@hypothesis_settings(MANY, max_examples=10)
def test_boosters_have_the_weights_of_our_own_trees(seed, weighted, settings):
    frame, y = random_frame(N + M, seed)
    X, y, Q = frame[:N], 5 + y[:N], frame[N:]
    if settings["objective"] == "mape":  # whose trees may differ from fit to fit with weights
        weighted = None
    weights = None if weighted is None else np.random.default_rng(seed).choice([0.5, 1.0, 2.5], N)
    ours = make_trees(min_child_samples=10, **settings, **SPLITTING).fit(X, y, sample_weight=weights)
    model = library_of(ours).fit(X, y, sample_weight=weights)
    loaded = lightgbm.Booster(model_str=model.booster_.model_to_string())
    for fitted in (model, model.booster_, loaded):
        explained = telescope(fitted, X, y, weights)
        np.testing.assert_allclose(explained.kernel_weights(Q), ours.kernel_weights(Q), atol=1e-9)
        np.testing.assert_allclose(explained.influence(Q), ours.influence(Q), atol=1e-9)
        np.testing.assert_allclose(explained.predict(Q), ours.predict(Q), rtol=1e-12)
        np.testing.assert_allclose(
            list(explained.staged_predict(Q)), list(ours.staged_predict(Q)), rtol=1e-9, atol=1e-12
        )


def test_bags_are_found_where_iterations_grew_no_tree():
    X, y, Q = rows_and_labels(20)
    params = {"bagging_fraction": 0.3, "bagging_freq": 1, "min_data_in_leaf": 12, "min_gain_to_split": 8.0}
    booster = lightgbm.train(params | {"verbosity": -1}, lightgbm.Dataset(X, y), 40)
    assert 3 < booster.num_trees() < 40
    explained = telescope(booster, X, y)
    np.testing.assert_allclose(explained.kernel_weights(Q) @ y, booster.predict(Q), rtol=1e-6)


def test_a_model_from_a_file_and_early_stopping(tmp_path):
    X, y, Q = rows_and_labels(3)
    valid, labels = X[60:], y[60:]
    stop = lightgbm.early_stopping(2, verbose=False)
    model = lightgbm.LGBMRegressor(n_estimators=200, min_child_samples=4, learning_rate=0.5, n_jobs=1, verbosity=-1)
    model.fit(X[:60], y[:60], eval_X=valid, eval_y=labels, callbacks=[stop])
    assert 0 < model.best_iteration_ < 200
    model.booster_.save_model(tmp_path / "model.txt")
    for fitted in (model, lightgbm.Booster(model_file=tmp_path / "model.txt")):
        explained = telescope(fitted, X[:60], y[:60])
        assert explained.n_stages_ == model.best_iteration_
        np.testing.assert_allclose(explained.kernel_weights(Q) @ y[:60], model.predict(Q), rtol=1e-6)


def test_categories_are_those_of_the_training_frame():
    frame, y = random_frame(N, 4)
    model = library_fit(frame, y, **SPLITTING)
    explained = telescope(model, frame, y)
    asked = frame[:20].assign(many=frame["many"][:20].cat.remove_unused_categories())
    np.testing.assert_allclose(explained.kernel_weights(asked), explained.kernel_weights(frame)[:20])
    with pytest.raises(ValueError, match="same columns in the same order"):
        explained.predict(frame[list(frame.columns[::-1])])
    with pytest.raises(ValueError, match=r"columns of categories, and the model was trained on 3"):
        telescope(model, frame.assign(few=frame["few"].cat.codes), y)
    with pytest.raises(ValueError, match=r"Columns \['few'\] are categories in one"):
        explained.predict(frame.assign(few=0.0))
    assert list(explained.feature_names_in_) == list(frame.columns)


@pytest.mark.parametrize("weighted", [None, "weights"])
@pytest.mark.parametrize("subsample", [1.0, 0.7])
def test_the_score_of_two_classes_is_the_dense_loops(weighted, subsample):
    X, y, Q = rows_and_labels(5)
    labels, weights = np.where(y > np.median(y), "yes", "no"), some_weights(weighted, 5)
    model = library_fit(X, labels, weights, lightgbm.LGBMClassifier, subsample=subsample, subsample_freq=2)
    explained = telescope(model, X, labels, weights)
    w, hits = np.ones(N) if weights is None else weights, (labels == "yes").astype(float)
    p = w @ hits / w.sum()
    bags = [explained.telescope_.ensemble.stage_weights(t) > 0 for t in range(1, 7)] if subsample < 1 else None
    dense = dense_telescope(
        hits,
        leaves_of(model, X),
        leaves_of(model, Q),
        newton_leaf(0.0, 0.1),
        start=(w / w.sum() / p / (1 - p), logit(p)),
        row_weights=w,
        bags=bags,
        loss=Logistic(),
    )
    np.testing.assert_allclose(dense.raw, model.predict(Q, raw_score=True), atol=1e-6)
    np.testing.assert_allclose(explained.kernel_weights(Q), dense.weights, atol=1e-6)
    np.testing.assert_allclose(explained.predict(Q), model.predict_proba(Q)[:, 1], atol=1e-12)
    codes = telescope(model.booster_, X, hits, weights)  # a Booster knows 0 and 1 only
    np.testing.assert_array_equal(codes.kernel_weights(Q), explained.kernel_weights(Q))
    with pytest.raises(ValueError, match="output='no' has no score of its own"):
        telescope(model, X, labels, weights, output="no")


@pytest.mark.parametrize("output", ["a", "b", "c"])
@pytest.mark.parametrize("average", [True, False])
def test_the_score_of_one_of_three_classes_is_the_dense_loops(output, average):
    X, y, Q = rows_and_labels(6)
    labels = np.array(list("abc"))[np.digitize(y, np.quantile(y, [0.4, 0.7]))]
    model = library_fit(X, labels, None, lightgbm.LGBMClassifier, boost_from_average=average)
    explained = telescope(model, X, labels, output=output)
    k, hits = "abc".index(output), (labels == output).astype(float)
    shares = np.array([np.mean(labels == name) for name in "abc"])
    starts = np.log(shares) if average else np.zeros(3)
    scores = [np.tile(starts[:, None], N)]
    scores += [model.predict(X, raw_score=True, num_iteration=t).T for t in range(1, 6)]
    dense = dense_telescope(
        hits,
        leaves_of(model, X, k, 3),
        leaves_of(model, Q, k, 3),
        newton_leaf(0.0, 0.1),
        start=(np.full(N, average / hits.sum()), starts[k]),
        loss=Softmax(np.delete(np.array(scores), k, axis=1), hessian=1.5),
    )
    np.testing.assert_allclose(dense.raw, model.predict(Q, raw_score=True)[:, k], atol=1e-6)
    np.testing.assert_allclose(explained.kernel_weights(Q), dense.weights, atol=1e-6)
    np.testing.assert_array_equal(explained.predict(Q), model.predict(Q, raw_score=True)[:, k])
    by_number = telescope(model.booster_, X, np.array(["abc".index(label) for label in labels]), output=k)
    np.testing.assert_array_equal(by_number.kernel_weights(Q), explained.kernel_weights(Q))


def test_weights_of_classes_are_weights_of_rows():
    X, y, Q = rows_and_labels(7)
    labels = (y > np.quantile(y, 0.8)).astype(int)
    model = library_fit(X, labels, None, lightgbm.LGBMClassifier, class_weight="balanced")
    weights = np.where(labels == 1, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    same = library_fit(X, labels, weights, lightgbm.LGBMClassifier)
    explained = telescope(model, X, labels)
    np.testing.assert_allclose(explained.kernel_weights(Q), telescope(same, X, labels, weights).kernel_weights(Q))
    np.testing.assert_allclose(explained.predict(Q), expit(model.predict(Q, raw_score=True)))


REFUSED = {
    "boosting=dart": {"boosting_type": "dart"},
    "boosting=rf": {"boosting_type": "rf", "subsample": 0.5, "subsample_freq": 1},
    "data_sample_strategy=goss": {"data_sample_strategy": "goss"},
    "monotone_constraints=1,0,0,0": {"monotone_constraints": [1, 0, 0, 0]},
    "linear_tree=1": {"linear_tree": True},
    "use_quantized_grad=1": {"use_quantized_grad": True},
    "reg_sqrt=1": {"reg_sqrt": True},
    "bagging_by_query=1": {"bagging_by_query": True, "subsample": 0.5, "subsample_freq": 1},
    "path_smooth=2.0": {"path_smooth": 2.0, "objective": "poisson"},
    "objective='custom'": {"objective": lambda y, f: (f - y, np.ones_like(y))},
}
CLASSES_REFUSED = {
    "is_unbalance=1": {"is_unbalance": True},
    "scale_pos_weight=3": {"scale_pos_weight": 3.0},
    "sigmoid=2": {"sigmoid": 2.0},
    "pos_bagging_fraction=0.5": {"pos_bagging_fraction": 0.5, "subsample": 0.9, "subsample_freq": 1},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("named", REFUSED)
def test_what_has_no_known_weights_is_refused_by_name(named):
    X, y, _ = rows_and_labels(8)
    if named.startswith("bagging_by_query"):
        data = lightgbm.Dataset(X, y, group=[40, 40])
        params = {"bagging_by_query": True, "bagging_fraction": 0.5, "bagging_freq": 1, "verbosity": -1}
        model = lightgbm.train(params, data, 3)
    else:
        model = library_fit(X, y, **REFUSED[named])
    with pytest.raises(ValueError, match=re.escape(named)):
        telescope(model, X, y)


@pytest.mark.parametrize("named", CLASSES_REFUSED)
def test_classifiers_without_known_weights_are_refused_by_name(named):
    X, y, _ = rows_and_labels(9)
    labels = (y > np.median(y)).astype(int)
    model = library_fit(X, labels, None, lightgbm.LGBMClassifier, **CLASSES_REFUSED[named])
    with pytest.raises(ValueError, match=re.escape(named)):
        telescope(model, X, labels)


def test_one_class_against_the_rest_is_refused():
    X, y, _ = rows_and_labels(10)
    labels = np.digitize(y, np.quantile(y, [0.4, 0.7]))
    model = library_fit(X, labels, None, lightgbm.LGBMClassifier, objective="multiclassova")
    with pytest.raises(ValueError, match="objective='multiclassova'"):
        telescope(model, X, labels, output=1)


def test_rankers_are_refused():
    X, y, _ = rows_and_labels(11)
    ranker = lightgbm.LGBMRanker(n_estimators=2, verbosity=-1).fit(X, np.digitize(y, [8]), group=[40, 40])
    with pytest.raises(ValueError, match="objective='lambdarank'"):
        telescope(ranker, X, np.digitize(y, [8]))


def test_a_learning_rate_that_changed_is_refused():
    X, y, _ = rows_and_labels(12)
    data = lightgbm.Dataset(X, y)
    schedule = lightgbm.reset_parameter(learning_rate=[0.5, 0.4, 0.3])
    booster = lightgbm.train({"verbosity": -1, "min_data_in_leaf": 4}, data, 3, callbacks=[schedule])
    with pytest.raises(ValueError, match=r"learning_rate=0\.3 of this LightGBM model changed"):
        telescope(booster, X, y)


def test_texts_of_other_versions():
    X, y, Q = rows_and_labels(21)
    text = library_fit(X, y).booster_.model_to_string()
    early = lightgbm.Booster(model_str=re.sub(r"\[(data_sample_strategy|use_quantized_grad): .*\]\n", "", text))
    np.testing.assert_allclose(telescope(early, X, y).kernel_weights(Q) @ y, early.predict(Q), rtol=1e-6)
    other = lightgbm.Booster(model_str=text.replace("[lambda_l2: ", "[lambda_two: "))
    with pytest.raises(ValueError, match="no parameter 'lambda_l2'"):
        telescope(other, X, y)


def test_scores_that_training_started_from_are_not_in_the_model():
    X, y, _ = rows_and_labels(13)
    booster = lightgbm.train(
        {"verbosity": -1, "min_data_in_leaf": 4}, lightgbm.Dataset(X, y, init_score=np.linspace(0, 5, N)), 3
    )
    with pytest.raises(ValueError, match="init_score"):
        telescope(booster, X, y)


def test_misplaced_rows_of_bundled_columns_raise():
    X, y = bundled_rows(20)
    model = lightgbm.LGBMRegressor(**FEW_SAMPLED, n_estimators=12, n_jobs=1, random_state=5, verbosity=-1).fit(X, y)
    with pytest.raises(ValueError, match="enable_bundle=False"):
        telescope(model, X, y)
    telescope(model.set_params(enable_bundle=False).fit(X, y), X, y)


def test_outputs_that_do_not_exist_are_refused():
    X, y, _ = rows_and_labels(14)
    labels = np.digitize(y, np.quantile(y, [0.4, 0.7]))
    model = library_fit(X, labels, None, lightgbm.LGBMClassifier)
    with pytest.raises(ValueError, match=r"choose one of \[0, 1, 2\]"):
        telescope(model, X, labels)
    with pytest.raises(ValueError, match="output=7 is not one of"):
        telescope(model, X, labels, output=7)
    with pytest.raises(ValueError, match="not one of the classes"):
        telescope(model, X, labels + 1, output=1)
    with pytest.raises(ValueError, match="has one output"):
        telescope(library_fit(X, y), X, y, output=1)


def test_labels_far_from_zero_are_allowed_what_float32_takes():
    X, y, Q = rows_and_labels(15)
    y = y + 1e5
    model = library_fit(X, y)
    explained = telescope(model, X, y)
    lost = np.abs(np.float32(y) - y).max()
    np.testing.assert_allclose(explained.kernel_weights(Q) @ y, model.predict(Q), atol=4 * lost)


def test_columns_may_be_a_frame_of_any_numbers():
    X, y, Q = rows_and_labels(16)
    frame = pd.DataFrame(X, columns=list("abcd")).assign(whole=np.arange(N), flag=np.arange(N) % 2 == 0)
    model = library_fit(frame, y)
    explained = telescope(model, frame, y)
    np.testing.assert_allclose(explained.kernel_weights_ @ y, model.predict(frame), rtol=1e-6)
    with pytest.raises(ValueError, match="4 features"):
        explained.predict(Q)
