"""Models of scikit-learn that were fitted elsewhere: weights and offsets against dense loops over trees and leaves."""

import pickle
import re

import numpy as np
import pandas as pd
import pytest
from conftest import tree_tolerance
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from influence_oracle import weight_differences
from leaf_oracle import dense_telescope, newton_leaf, quantile_leaf
from scipy.special import expit, logit
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.ensemble._forest import _generate_sample_indices
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

from telescoping_sklearn import telescope
from telescoping_sklearn.losses import Gamma, Logistic, Poisson

N, M = 70, 20
MANY = hypothesis_settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])


def rows_and_labels(seed, n=N, *, missing=False, ties=False):
    """Rows with repeated values, and labels far from zero; equal labels where there are ties."""
    rng = np.random.default_rng(seed)
    X = np.round(rng.normal(size=(n + M, 4)), 1)
    y = 8 + 3 * np.sin(2 * X[:n, 0]) + X[:n, 1] ** 2 + 0.5 * rng.normal(size=n)
    if missing:
        X[rng.random(X.shape) < 0.1] = np.nan
    return X[:n], np.round(y) if ties else y, X[n:]


def some_weights(seed, n=N):
    """Weights of very different size, some of them zero."""
    rng = np.random.default_rng(seed)
    return rng.choice([0.0, 0.25, 1.0, 1.5, 4.0], n, p=[0.1, 0.2, 0.3, 0.2, 0.2])


WEIGHTS = st.sampled_from([None, "weights"])


def weights_of(kind, seed):
    return None if kind is None else some_weights(seed)


def assert_is_the_oracle(explained, dense, y, Q):
    """Compare weights and offset with the dense loops, and both with the model's own predictions."""
    np.testing.assert_allclose(explained.kernel_weights(Q), dense.weights, atol=1e-7)
    np.testing.assert_allclose(explained.offset(Q), dense.offset, atol=1e-7 * np.abs(y).max())
    rebuilt = explained.kernel_weights(Q) @ explained.telescope_.y + explained.offset(Q)
    np.testing.assert_allclose(rebuilt, explained.predict(Q), atol=tree_tolerance(y))
    np.testing.assert_allclose(explained.effective_params(Q), len(y_trained(explained)) * (dense.weights**2).sum() / M)


def y_trained(explained):
    return explained.telescope_.y[explained.telescope_.trained]


# -- forests and trees -------------------------------------------------------------------------------------------------


def average_of_leaf_kernels(model, X, Q, drawn):
    """S of a forest by definition: the mean over trees of weights shared out in the leaf of the query."""
    trees = getattr(model, "estimators_", [model])
    weights = np.zeros((len(Q), len(X)))
    for tree, weigh in zip(trees, drawn, strict=True):
        of_rows, of_queries = tree.apply(X), tree.apply(Q)
        for j, leaf in enumerate(of_queries):
            inside = weigh * (of_rows == leaf)
            weights[j] += inside / inside.sum() / len(trees)
    return weights


def bootstrap_of(forest, sample_weight, n=N):
    """How often every row was drawn by every tree, from the seeds of the trees."""
    size = forest._n_samples_bootstrap
    return [
        np.bincount(_generate_sample_indices(tree.random_state, n, size, sample_weight), minlength=n)
        for tree in forest.estimators_
    ]


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from([RandomForestRegressor, ExtraTreesRegressor]),
    weighted=WEIGHTS,
    bootstrap=st.booleans(),
    max_samples=st.sampled_from([None, 0.5, 30]),
    leaf=st.sampled_from([1, 2, 7]),
    criterion=st.sampled_from(["squared_error", "friedman_mse", "poisson"]),
    missing=st.booleans(),
)
@MANY
@pytest.mark.filterwarnings("ignore:.*friedman_mse.*:FutureWarning")
def test_forests_are_averages_of_their_leaves(seed, kind, weighted, bootstrap, max_samples, leaf, criterion, missing):
    X, y, Q = rows_and_labels(seed, missing=missing)
    weights = weights_of(weighted, seed)
    settings = {"max_samples": max_samples} if bootstrap else {}
    forest = kind(
        6, bootstrap=bootstrap, min_samples_leaf=leaf, criterion=criterion, random_state=seed % 1000, **settings
    ).fit(X, y, sample_weight=weights)
    drawn = bootstrap_of(forest, weights) if bootstrap else [np.ones(N) if weights is None else weights] * 6
    expected = average_of_leaf_kernels(forest, X, Q, drawn)
    explained = telescope(forest, X, y, weights)
    np.testing.assert_allclose(explained.kernel_weights(Q), expected, atol=1e-12)
    np.testing.assert_allclose(expected @ y, forest.predict(Q), rtol=1e-10)
    np.testing.assert_array_equal(explained.offset(Q), 0)
    np.testing.assert_allclose(explained.predict(Q), forest.predict(Q), rtol=1e-12)
    np.testing.assert_allclose(explained.kernel_weights(X), explained.kernel_weights_, atol=1e-12)
    p = explained.effective_params(Q)
    np.testing.assert_allclose(p, explained.telescope_.n_trained * (expected**2).sum() / M)


@pytest.mark.parametrize("weighted", [None, "weights"])
@pytest.mark.parametrize("make", [DecisionTreeRegressor, ExtraTreeRegressor])
@pytest.mark.parametrize("settings", [{}, {"max_depth": 3}, {"ccp_alpha": 0.1}, {"max_leaf_nodes": 2}])
def test_a_tree_is_a_forest_of_one(make, settings, weighted):
    X, y, Q = rows_and_labels(1, missing=True)
    weights = weights_of(weighted, 1)
    tree = make(random_state=0, **settings).fit(X, y, sample_weight=weights)
    explained = telescope(tree, X, y, weights)
    drawn = [np.ones(N) if weights is None else weights]
    np.testing.assert_allclose(explained.kernel_weights(Q), average_of_leaf_kernels(tree, X, Q, drawn), atol=1e-12)
    assert explained.n_stages_ == 1


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from([RandomForestRegressor, ExtraTreesRegressor]),
    weighted=WEIGHTS,
    bootstrap=st.booleans(),
    ties=st.booleans(),
    leaf=st.sampled_from([1, 4, 9]),
)
@MANY
def test_forests_of_medians_are_averages_of_the_rows_in_the_middle(seed, kind, weighted, bootstrap, ties, leaf):
    X, y, Q = rows_and_labels(seed, ties=ties)
    weights = weights_of(weighted, seed)
    forest = kind(
        4, criterion="absolute_error", bootstrap=bootstrap, min_samples_leaf=leaf, random_state=seed % 1000
    ).fit(X, y, sample_weight=weights)
    drawn = bootstrap_of(forest, weights) if bootstrap else [np.ones(N) if weights is None else weights] * 4
    expected = np.zeros((M, N))
    for tree, w in zip(forest.estimators_, drawn, strict=True):
        of_rows, of_queries = tree.apply(X), tree.apply(Q)
        for j, asked in enumerate(of_queries):
            rows = np.flatnonzero((of_rows == asked) & (w > 0))
            rows = rows[np.argsort(y[rows], kind="stable")]
            sums = np.cumsum(w[rows])
            place = np.flatnonzero(sums >= sums[-1] / 2)[0]
            both = [place, place + 1] if sums[place] == sums[-1] / 2 else [place]
            expected[j, rows[both]] += 1 / len(both) / 4
    explained = telescope(forest, X, y, weights)
    np.testing.assert_allclose(expected @ y, forest.predict(Q), rtol=1e-12)
    np.testing.assert_allclose(explained.kernel_weights(Q) @ y, forest.predict(Q), rtol=1e-12)
    np.testing.assert_allclose(explained.kernel_weights(Q), expected, atol=1e-12)
    np.testing.assert_array_equal(explained.influence(Q), 0)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 1.0, 1: 3.0, 2: 0.5}])
@pytest.mark.parametrize(
    "make", [RandomForestClassifier, ExtraTreesClassifier, DecisionTreeClassifier, ExtraTreeClassifier]
)
def test_forests_of_classifiers_average_the_labels_of_a_class(make, class_weight):
    X, y, Q = rows_and_labels(2)
    classes = np.digitize(y, np.quantile(y, [0.4, 0.7]))
    model = make(random_state=0, class_weight=class_weight).fit(X, classes)
    for output in range(3):
        explained = telescope(model, X, classes, output=output)
        shares = explained.kernel_weights(Q) @ (classes == output)
        np.testing.assert_allclose(shares, model.predict_proba(Q)[:, output], atol=1e-12)
        np.testing.assert_allclose(explained.predict(Q), shares, atol=1e-12)


def test_a_forest_of_deep_trees_needs_no_matrix_of_leaves(monkeypatch):
    X, y, Q = rows_and_labels(3)
    explained = telescope(RandomForestRegressor(5, random_state=0).fit(X, y), X, y)
    monkeypatch.setattr("telescoping_sklearn.boosting._leaf_telescope.LeafCarrier", None)
    explained.kernel_weights(Q)
    explained.effective_params(Q, n_probes=4)
    list(explained.staged_predict(Q))
    np.testing.assert_allclose(explained.self_influence_, np.diagonal(explained.influence(X)), atol=1e-12)
    np.testing.assert_allclose(explained.telescope_.own_weights(), np.diagonal(explained.kernel_weights_), atol=1e-12)


# -- gradient boosting -------------------------------------------------------------------------------------------------


def shares_of_quantile(alpha, weighted):
    """Weights of the rows that define a quantile of their residuals; rows of weight zero are not there."""

    def weigh(residuals, weights):
        rows = np.flatnonzero(weights > 0)
        order = rows[np.argsort(residuals[rows], kind="stable")]
        found = np.zeros(len(residuals))
        if weighted:
            sums = np.cumsum(weights[order])
            found[order[np.flatnonzero(sums >= 100 * alpha / 100 * sums[-1])[0]]] = 1
        else:
            place = (len(order) - 1) * alpha
            below = int(np.floor(place))
            found[order[below]] += 1 - (place - below)
            found[order[min(below + 1, len(order) - 1)]] += place - below
        return found

    return weigh


def fit_and_watch(model, X, y, weights):
    """Fit, and return which rows every tree saw."""
    masks = []

    def monitor(i, fitted, local):
        masks.append(local["sample_mask"].copy())
        return False

    model.fit(X, y, sample_weight=weights, monitor=monitor)
    return np.array(masks)


LEARNT = {"squared_error": None, "absolute_error": 0.5, "quantile": 0.3}


@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from(list(LEARNT)),
    weighted=WEIGHTS,
    subsample=st.sampled_from([1.0, 0.5, 0.9]),
    stopping=st.booleans(),
    depth=st.sampled_from([1, 3, 8]),
    rate=st.sampled_from([0.1, 0.7]),
    ties=st.booleans(),
    init=st.sampled_from([None, "zero", "constant", "median"]),
)
@MANY
def test_gradient_boosting_is_the_dense_loops(seed, loss, weighted, subsample, stopping, depth, rate, ties, init):
    X, y, Q = rows_and_labels(seed, ties=ties)
    weights = weights_of(weighted, seed)
    inits = {"constant": DummyRegressor(strategy="constant", constant=3.0), "median": DummyRegressor(strategy="median")}
    model = GradientBoostingRegressor(
        n_estimators=7,
        loss=loss,
        alpha=0.3,
        subsample=subsample,
        max_depth=depth,
        learning_rate=rate,
        n_iter_no_change=2 if stopping else None,
        init=inits.get(init, init),
        max_features=2,
        random_state=seed % 1000,
    )
    masks, kept = fit_and_watch(model, X, y, weights), np.ones(N, bool)
    if stopping:
        train, _ = train_test_split(np.arange(N), random_state=seed % 1000, test_size=0.1)
        kept = np.isin(np.arange(N), train)
        whole = np.zeros((len(masks), N), bool)
        whole[:, train] = masks
        masks = whole
    w = np.ones(N) if weights is None else weights
    level = LEARNT[loss]
    leaf = newton_leaf(learning_rate=rate) if level is None else quantile_leaf(shares_of_quantile(level, True), rate)
    middle = 0.5 if init == "median" else level
    if init in ("zero", "constant"):
        start = np.zeros(N), 3.0 if init == "constant" else 0.0
    elif middle is None:
        start = w * kept / (w @ kept), 0.0
    else:
        start = shares_of_quantile(middle, weights is not None)(y, w * kept), 0.0
    leaves, query = model.apply(X).T, model.apply(Q).T
    dense = dense_telescope(y, leaves, query, leaf, start=start, row_weights=w, bags=masks)
    explained = telescope(model, X, y, weights)
    np.testing.assert_allclose(dense.raw, model.predict(Q), atol=1e-9)
    np.testing.assert_allclose(explained.predict(Q), model.predict(Q), atol=1e-12)
    np.testing.assert_allclose(explained.kernel_weights(Q) @ y + explained.offset(Q), model.predict(Q), atol=1e-9)
    if not ties or level is None:  # among equal residuals any row may define a quantile
        assert_is_the_oracle(explained, dense, y, Q)


@pytest.mark.parametrize("loss", list(LEARNT))
def test_another_estimator_s_predictions_are_an_offset(loss):
    """The weights are those of boosting what it left over, from zero."""
    X, y, Q = rows_and_labels(13)
    settings = {"n_estimators": 6, "loss": loss, "alpha": 0.3, "random_state": 0, "subsample": 0.7}
    model = GradientBoostingRegressor(init=LinearRegression(), **settings).fit(X, y)
    explained = telescope(model, X, y)
    left_over = y - model.init_.predict(X.astype(np.float32))
    from_zero = GradientBoostingRegressor(init="zero", **settings).fit(X, left_over)
    weights = telescope(from_zero, X, left_over).kernel_weights(Q)
    np.testing.assert_allclose(explained.kernel_weights(Q), weights, atol=1e-12)
    np.testing.assert_allclose(explained.kernel_weights(Q) @ y + explained.offset(Q), model.predict(Q), atol=1e-9)
    np.testing.assert_allclose(explained.predict(Q), model.predict(Q), atol=1e-12)
    staged = list(explained.staged_predict(Q, [0, 3, 6]))
    np.testing.assert_allclose(staged[0], model.init_.predict(Q.astype(np.float32)), atol=1e-12)
    np.testing.assert_allclose(staged[1:], np.array(list(model.staged_predict(Q)))[[2, 5]], atol=1e-12)
    np.testing.assert_allclose(explained.breakdown(Q).sum(), model.predict(Q), atol=1e-9)
    copied = pickle.loads(pickle.dumps(explained))
    np.testing.assert_array_equal(copied.offset(Q), explained.offset(Q))
    with pytest.raises(ValueError, match="influence is not known"):
        explained.influence(Q)


def huber_leaf(width, rate):
    """Value of a leaf: its median, plus the mean of residuals less the median, cut at a width that is held."""

    def leaf(residuals, weights, hessians):
        middle = shares_of_quantile(0.5, True)(residuals, weights)
        from_median, total = residuals - middle @ residuals, weights.sum()
        free = np.abs(from_median) <= width
        constant = (weights * np.sign(from_median) * width)[~free].sum() / total
        shares = weights * free / total
        return rate * (shares + (1 - shares.sum()) * middle), rate * constant

    return leaf


@given(
    seed=st.integers(0, 10**6),
    weighted=WEIGHTS,
    subsample=st.sampled_from([1.0, 0.6]),
    depth=st.sampled_from([1, 3, 6]),
    alpha=st.sampled_from([0.5, 0.9]),
)
@MANY
def test_huber_s_loss_is_the_dense_loops(seed, weighted, subsample, depth, alpha):
    X, y, Q = rows_and_labels(seed)
    weights = weights_of(weighted, seed)
    settings = {"n_estimators": 5, "loss": "huber", "alpha": alpha, "subsample": subsample, "max_depth": depth}
    model = GradientBoostingRegressor(learning_rate=0.4, random_state=seed % 1000, **settings)
    masks, w = fit_and_watch(model, X, y, weights), np.ones(N) if weights is None else weights
    start = shares_of_quantile(0.5, weights is not None)(y, w)
    staged = [np.full(N, start @ y), *model.staged_predict(X)]
    sizes = [np.abs(y - raw) for raw in staged]
    widths = [shares_of_quantile(alpha, True)(size, w) @ size for size in sizes]
    leaf = [huber_leaf(width, 0.4) for width in widths[:-1]]
    dense = dense_telescope(y, model.apply(X).T, model.apply(Q).T, leaf, start=(start, 0.0), row_weights=w, bags=masks)
    explained = telescope(model, X, y, weights)
    np.testing.assert_allclose(dense.raw, model.predict(Q), atol=1e-9)
    np.testing.assert_allclose(explained.kernel_weights(Q), dense.weights, atol=1e-9)
    np.testing.assert_allclose(explained.offset(Q), dense.offset, atol=1e-9)


# -- histogram-based gradient boosting ---------------------------------------------------------------------------------


def leaves_of(predictor, X, categorical=()):
    """Leaf of every row by walking from the root, one row at a time."""
    nodes, bitsets = predictor.nodes, predictor.raw_left_cat_bitsets
    found = np.empty(len(X), int)
    for i, x in enumerate(X):
        at = 0
        while not nodes[at]["is_leaf"]:
            node = nodes[at]
            value = x[node["feature_idx"]]
            if np.isnan(value):
                left = node["missing_go_to_left"]
            elif node["is_categorical"]:
                code, bitset = int(value), bitsets[node["bitset_idx"]]
                left = bool(bitset[code // 32] >> np.uint32(code % 32) & 1)
            else:
                left = value <= node["num_threshold"]
            at = node["left"] if left else node["right"]
        found[i] = at
    return found


def walked(model, X, score=0):
    return np.array([leaves_of(of_iteration[score], X) for of_iteration in model._predictors])


HIST_LOSSES = {"poisson": Poisson(max_delta_step=0.0), "gamma": Gamma()}


@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from(["squared_error", "absolute_error", "quantile", "poisson", "gamma"]),
    weighted=WEIGHTS,
    ridge=st.sampled_from([0.0, 3.0]),
    stopping=st.booleans(),
    leaves=st.sampled_from([2, 8, None]),
    features=st.sampled_from([1.0, 0.5]),
    missing=st.booleans(),
)
@MANY
def test_histogram_boosting_is_the_dense_loops(seed, loss, weighted, ridge, stopping, leaves, features, missing):
    X, y, Q = rows_and_labels(seed, missing=missing)
    y = np.abs(y) + 0.1
    weights = weights_of(weighted, seed)
    model = HistGradientBoostingRegressor(
        loss=loss,
        quantile=0.3 if loss == "quantile" else None,
        max_iter=6,
        min_samples_leaf=4,
        max_leaf_nodes=leaves,
        l2_regularization=ridge,
        early_stopping=stopping,
        max_features=features,
        random_state=seed % 1000,
    ).fit(X, y, sample_weight=weights)
    kept = np.ones(N, bool)
    if stopping:
        train, _ = train_test_split(np.arange(N), random_state=model._random_seed, test_size=0.1)
        kept = np.isin(np.arange(N), train)
    w = kept * (1.0 if weights is None else weights)
    smooth, level = HIST_LOSSES.get(loss), {"absolute_error": 0.5, "quantile": 0.3}.get(loss)
    if level is not None:
        weigh = shares_of_quantile(level, weights is not None)
        leaf, start = quantile_leaf(weigh, 0.1), (weigh(y, w), 0.0)
    else:
        leaf, mean = newton_leaf(ridge, 0.1), w @ y / w.sum()
        start = (w / w.sum(), 0.0) if smooth is None else (w / w.sum() / mean, np.log(mean))
    dense = dense_telescope(y, walked(model, X), walked(model, Q), leaf, start=start, row_weights=w, loss=smooth)
    explained = telescope(model, X, y, weights)
    np.testing.assert_allclose(explained.predict(Q), model.predict(Q), rtol=1e-12)
    if smooth is None:
        np.testing.assert_allclose(dense.raw, model.predict(Q), atol=tree_tolerance(y))
        assert_is_the_oracle(explained, dense, y, Q)
    else:
        np.testing.assert_allclose(np.exp(dense.raw), model.predict(Q), rtol=1e-5)
        np.testing.assert_allclose(explained.kernel_weights(Q), dense.weights, atol=1e-6)
        np.testing.assert_allclose(explained.telescope_.rebuilt(), dense.training, atol=1e-5)


def frame_with_categories(seed, n=N):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 6, n + M)
    frame = pd.DataFrame({"number": rng.normal(size=n + M), "other": rng.normal(size=n + M)})
    frame["kind"] = pd.Categorical([f"k{code}" for code in codes])
    frame["size"] = pd.Categorical(rng.integers(0, 3, n + M))
    y = 5 + np.sin(2.1 * codes) + frame["number"].to_numpy() + 0.2 * rng.normal(size=n + M)
    frame.loc[rng.random(n + M) < 0.1, ["number", "kind"]] = np.nan
    return frame[:n], y[:n], frame[n:]


@pytest.mark.parametrize("seed", range(5))
def test_categories_of_a_frame_keep_their_codes(seed):
    X, y, Q = frame_with_categories(seed)
    model = HistGradientBoostingRegressor(max_iter=10, min_samples_leaf=4, categorical_features="from_dtype").fit(X, y)
    assert model.is_categorical_.sum() == 2
    explained = telescope(model, X, y)
    seen, asked = (model._preprocessor.transform(rows) for rows in (X, Q))
    dense = dense_telescope(
        y, walked(model, seen), walked(model, asked), newton_leaf(0, 0.1), start=(np.full(N, 1 / N), 0.0)
    )
    np.testing.assert_allclose(explained.kernel_weights(Q), dense.weights, atol=1e-7)
    np.testing.assert_allclose(explained.predict(Q), model.predict(Q))
    assert list(explained.feature_names_in_) == list(X.columns)
    with pytest.raises(ValueError, match=r"columns|feature names"):
        explained.predict(Q.drop(columns="other"))


def test_validation_rows_that_fit_was_given_leave_all_rows_to_training():
    X, y, Q = rows_and_labels(4)
    model = HistGradientBoostingRegressor(max_iter=20, early_stopping=True, min_samples_leaf=4)
    model.fit(X, y, X_val=Q, y_val=np.full(M, y.mean()))
    assert telescope(model, X, y).telescope_.trained.all()


# -- influence ---------------------------------------------------------------------------------------------------------


def grown_again(leaves, query, y, counts, rate, ridge, start, derivatives):
    """Predictions of the query as a function of row weights, the trees' splits as they were; loops over leaves."""

    def predict(weights):
        f, f_query = np.full(len(y), start(weights)), np.full(query.shape[1], start(weights))
        for t in range(len(leaves)):
            gradient, hessian = derivatives(y, f)
            for leaf in np.unique(leaves[t]):
                inside = leaves[t] == leaf
                w = (weights * counts[t])[inside]
                value = rate * (w @ -gradient[inside]) / (w @ hessian[inside] + ridge)
                f_query[query[t] == leaf] += value
                f[inside] += value
        return f_query

    return predict


def squared(y, f):
    return f - y, np.ones_like(f)


def logistic(y, f):
    return expit(f) - y, expit(f) * expit(-f)


def poisson(y, f):
    return np.exp(f) - y, np.exp(f)


@pytest.mark.parametrize("name", ["squared_error", "bags", "histogram", "poisson", "log_loss"])
def test_influence_is_the_derivative_in_the_weights(name):
    X, y, Q = rows_and_labels(30)
    y, rng = np.abs(y), np.random.default_rng(0)
    weights = rng.uniform(0.5, 2, N)
    counts, rate, ridge, derivatives = np.ones((5, N)), 0.3, 0.0, squared
    if name in ("squared_error", "bags"):
        share = 0.6 if name == "bags" else 1.0
        model = GradientBoostingRegressor(n_estimators=5, learning_rate=0.3, subsample=share, random_state=0)
        counts = fit_and_watch(model, X, y, weights).astype(float)
    elif name == "log_loss":
        y, derivatives = (y > np.median(y)).astype(float), logistic
        model = GradientBoostingClassifier(n_estimators=5, learning_rate=0.3).fit(X, y, sample_weight=weights)
    else:
        loss, ridge = ("poisson", 2.0) if name == "poisson" else ("squared_error", 2.0)
        derivatives = poisson if name == "poisson" else squared
        settings = {"max_iter": 5, "learning_rate": 0.3, "min_samples_leaf": 4, "l2_regularization": ridge}
        model = HistGradientBoostingRegressor(loss=loss, **settings).fit(X, y, sample_weight=weights)
    if name in ("histogram", "poisson"):
        leaves, query = walked(model, X), walked(model, Q)
    else:
        leaves, query = model.apply(X).reshape(N, -1).T, model.apply(Q).reshape(M, -1).T
    link = {logistic: logit, poisson: np.log}.get(derivatives, lambda mean: mean)
    again = grown_again(leaves, query, y, counts, rate, ridge, lambda w: link(w @ y / w.sum()), derivatives)
    explained = telescope(model, X, y, weights)
    raw = explained._read.trees.predict(explained._query(Q), raw=True)
    np.testing.assert_allclose(again(weights), raw, atol=1e-6)
    np.testing.assert_allclose(explained.influence(Q), weight_differences(again, weights), atol=1e-6)


@pytest.mark.parametrize("bootstrap", [True, False])
def test_influence_on_a_forest_is_the_derivative_in_the_weights(bootstrap):
    X, y, Q = rows_and_labels(31)
    forest = RandomForestRegressor(5, bootstrap=bootstrap, min_samples_leaf=3, random_state=0).fit(X, y)
    counts = bootstrap_of(forest, None) if bootstrap else np.ones((5, N))

    def average(weights):
        return average_of_leaf_kernels(forest, X, Q, [weights * drawn for drawn in counts]) @ y

    explained = telescope(forest, X, y)
    np.testing.assert_allclose(explained.influence(Q), weight_differences(average, np.ones(N)), atol=1e-7)
    np.testing.assert_allclose(explained.self_influence_, np.diagonal(explained.influence(X)), atol=1e-12)


# -- classes -----------------------------------------------------------------------------------------------------------


class Softmax:
    """Derivatives of the cross entropy of a class in its own score, the scores of the others given by stage."""

    def __init__(self, others, hessian=1.0):
        self.others, self.factor, self.stage = others, hessian, 0

    def probability(self, f):
        return expit(f - np.log(np.exp(self.others[self.stage]).sum(axis=0)))

    def gradient(self, y, f):
        return self.probability(f) - y

    def label_rate(self, y, f):
        return np.ones_like(f)

    def curvature(self, y, f):
        p = self.probability(f)
        return p * (1 - p)

    def hessian(self, y, f):
        found = self.factor * self.curvature(y, f)
        self.stage += 1  # asked last in every tree
        return found


def staged_scores(model, X):
    """Scores of all classes before every tree, (T, K, n)."""
    staged = [np.array(scores).T for scores in model.staged_decision_function(X)]
    start = (
        model._raw_predict_init(X).T
        if hasattr(model, "_raw_predict_init")
        else np.tile(model._baseline_prediction.T, N)
    )
    return np.array([start, *staged[:-1]])


def class_models(**settings):
    return [
        GradientBoostingClassifier(n_estimators=6, max_depth=2, random_state=0, **settings),
        HistGradientBoostingClassifier(max_iter=6, min_samples_leaf=5, l2_regularization=0.5, random_state=0),
    ]


def leaves_by_tree(model, X, score):
    if isinstance(model, HistGradientBoostingClassifier):
        return walked(model, X, score)
    return np.array([tree.apply(X.astype(np.float32)) for tree in model.estimators_[:, score]])


@pytest.mark.parametrize("weighted", [None, "weights"])
@pytest.mark.parametrize("which", [0, 1])
def test_the_score_of_two_classes_is_the_dense_loops(which, weighted):
    X, y, Q = rows_and_labels(5)
    labels, weights = np.where(y > np.median(y), "yes", "no"), weights_of(weighted, 5)
    model = class_models()[which].fit(X, labels, sample_weight=weights)
    w, hits = np.ones(N) if weights is None else weights, (labels == "yes").astype(float)
    p = w @ hits / w.sum()
    leaf = newton_leaf(0.5 if which else 0.0, 0.1)
    dense = dense_telescope(
        hits,
        leaves_by_tree(model, X, 0),
        leaves_by_tree(model, Q, 0),
        leaf,
        start=(w / w.sum() / p / (1 - p), logit(p)),
        row_weights=w,
        loss=Logistic(),
    )
    explained = telescope(model, X, labels, weights)
    np.testing.assert_allclose(dense.raw, model.decision_function(Q), atol=1e-6)
    np.testing.assert_allclose(explained.kernel_weights(Q), dense.weights, atol=1e-6)
    np.testing.assert_allclose(explained.predict(Q), model.predict_proba(Q)[:, 1], atol=1e-12)
    *_, last = explained.staged_predict(Q)
    np.testing.assert_allclose(last, explained.predict(Q), atol=1e-12)
    with pytest.raises(ValueError, match="output='no' has no score of its own"):
        telescope(model, X, labels, weights, output="no")


@pytest.mark.parametrize("output", ["a", "b", "c"])
@pytest.mark.parametrize("which", [0, 1])
def test_the_score_of_one_of_three_classes_is_the_dense_loops(which, output):
    X, y, Q = rows_and_labels(6)
    labels = np.array(list("abc"))[np.digitize(y, np.quantile(y, [0.4, 0.7]))]
    model = class_models()[which].fit(X, labels)
    k = "abc".index(output)
    scores, hits = staged_scores(model, X), (labels == output).astype(float)
    others = np.delete(scores, k, axis=1)
    rate = 0.1 if which else 0.1 * 2 / 3
    dense = dense_telescope(
        hits,
        leaves_by_tree(model, X, k),
        leaves_by_tree(model, Q, k),
        newton_leaf(0.5 if which else 0.0, rate),
        start=(np.full(N, 2 / 3 / hits.sum()), scores[0, k, 0]),
        loss=Softmax(others),
    )
    explained = telescope(model, X, labels, output=output)
    np.testing.assert_allclose(dense.raw, model.decision_function(Q)[:, k], atol=1e-6)
    np.testing.assert_allclose(explained.kernel_weights(Q), dense.weights, atol=1e-6)
    np.testing.assert_allclose(explained.predict(Q), model.decision_function(Q)[:, k], atol=1e-12)


def test_the_response_of_a_class_is_the_derivative_in_its_labels():
    """Move one label a little, with leaves, denominators and the other scores held: the score moves by the weight."""
    X, y, Q = rows_and_labels(7)
    labels = (y > np.median(y)).astype(int)
    model = GradientBoostingClassifier(n_estimators=4, max_depth=2, random_state=0).fit(X, labels)
    leaves, query = leaves_by_tree(model, X, 0), leaves_by_tree(model, Q, 0)
    scores = [model._raw_predict_init(X)[:, 0], *(staged[:, 0] for staged in model._staged_raw_predict(X))]
    explained = telescope(model, X, labels)

    def score(hits):
        f, f_query = np.full(N, logit(hits.mean())), np.full(M, logit(hits.mean()))
        for t in range(4):
            held = expit(scores[t])
            for leaf in np.unique(leaves[t]):
                inside = leaves[t] == leaf
                value = 0.1 * (hits - expit(f))[inside].sum() / (held * (1 - held))[inside].sum()
                f[inside] += value
                f_query[query[t] == leaf] += value
        return f_query

    step = 1e-5
    for row in (0, 11, 40):
        moved = labels + step * (np.arange(N) == row)
        back = labels - step * (np.arange(N) == row)
        slope = (score(moved) - score(back)) / (2 * step)
        np.testing.assert_allclose(explained.kernel_weights(Q)[:, row], slope, atol=1e-7)


# -- refusals ----------------------------------------------------------------------------------------------------------

REFUSED = [
    (GradientBoostingRegressor(subsample=0.5), "subsample=0.5"),
    (GradientBoostingRegressor(subsample=0.5, random_state=np.random.RandomState(0)), "subsample=0.5"),
    (GradientBoostingRegressor(n_iter_no_change=3), "n_iter_no_change=3"),
    (HistGradientBoostingRegressor(monotonic_cst=[1, 0, 0, 0]), "monotonic_cst=[1, 0, 0, 0]"),
    (RandomForestRegressor(3, monotonic_cst=[1, 0, 0, 0]), "monotonic_cst=[1, 0, 0, 0]"),
]


@pytest.mark.parametrize(("model", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_what_has_no_known_weights_is_refused_by_name(model, named):
    X, y, _ = rows_and_labels(8)
    with pytest.raises(ValueError, match=re.escape(named)):
        telescope(model.fit(X, y), X, y)


CLASSES_REFUSED = [
    (GradientBoostingClassifier(loss="exponential"), "loss='exponential'"),
    (GradientBoostingClassifier(init=LogisticRegression()), "init=LogisticRegression()"),
    (GradientBoostingClassifier(init=DummyClassifier(strategy="uniform")), "init=DummyClassifier(strategy='uniform')"),
    (RandomForestClassifier(3, class_weight="balanced_subsample"), "class_weight='balanced_subsample'"),
]


@pytest.mark.parametrize(("model", "named"), CLASSES_REFUSED, ids=[named for _, named in CLASSES_REFUSED])
def test_classifiers_without_known_weights_are_refused_by_name(model, named):
    X, y, _ = rows_and_labels(9)
    labels = (y > y.mean()).astype(int)
    with pytest.raises(ValueError, match=re.escape(named)):
        telescope(model.fit(X, labels), X, labels)


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        (HistGradientBoostingRegressor(max_iter=2), "_predictors"),
        (RandomForestRegressor(2), "_n_samples"),
        (GradientBoostingRegressor(n_estimators=2), "init_"),
    ],
    ids=["histogram", "forest", "boosting"],
)
def test_models_that_are_kept_in_another_form_are_refused(model, kept):
    X, y, _ = rows_and_labels(12)
    model.fit(X, y)
    delattr(model, kept)
    with pytest.raises(ValueError, match=rf"not kept as scikit-learn 1\.9 keeps it.*{kept}"):
        telescope(model, X, y)


def test_several_targets_are_refused():
    X, y, _ = rows_and_labels(10)
    model = RandomForestRegressor(3).fit(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match="fitted on 2 targets"):
        telescope(model, X, y)


def test_outputs_that_do_not_exist_are_refused():
    X, y, _ = rows_and_labels(11)
    labels = np.digitize(y, np.quantile(y, [0.4, 0.7]))
    for model in (HistGradientBoostingClassifier(max_iter=2), RandomForestClassifier(2)):
        model.fit(X, labels)
        with pytest.raises(ValueError, match=r"choose one of \["):
            telescope(model, X, labels)
        with pytest.raises(ValueError, match="output=7 is not a class"):
            telescope(model, X, labels, output=7)
        with pytest.raises(ValueError, match="not a class of"):
            telescope(model, X, labels + 1, output=1)
    with pytest.raises(ValueError, match="has one output"):
        telescope(DecisionTreeRegressor().fit(X, y), X, y, output=1)
