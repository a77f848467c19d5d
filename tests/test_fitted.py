"""The front door for fitted models: what it takes, what it gives, and what wrong rows, labels or weights get."""

import json
import pickle
import re

import lightgbm
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from conftest import make_net, make_trees, random_rows
from scipy import sparse
from sklearn import clone
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor
from test_architecture import run_python

from telescoping_sklearn import TelescopingGBTRegressor, telescope
from telescoping_sklearn.displays import (
    EffectiveParamsDisplay,
    KernelNormsDisplay,
    KernelWeightsDisplay,
    StagedPredictionsDisplay,
    StoppingCurveDisplay,
)
from telescoping_sklearn.fitted import FittedTelescope
from telescoping_sklearn.metrics import effective_params_scorer, find_telescoping_estimator, kernel_norm_ratio_scorer

mpl.use("Agg")
from matplotlib import pyplot as plt

MODELS = {
    "LightGBM": lightgbm.LGBMRegressor(n_estimators=8, min_child_samples=5, n_jobs=1, verbosity=-1),
    "LightGBM with bags": lightgbm.LGBMRegressor(
        n_estimators=8, min_child_samples=5, n_jobs=1, verbosity=-1, subsample=0.7, subsample_freq=1
    ),
    "GradientBoosting": GradientBoostingRegressor(n_estimators=8, max_depth=2, random_state=0),
    "GradientBoosting with bags": GradientBoostingRegressor(n_estimators=8, subsample=0.6, random_state=0),
    "HistGradientBoosting": HistGradientBoostingRegressor(max_iter=8, min_samples_leaf=5),
    "RandomForest": RandomForestRegressor(8, min_samples_leaf=2, random_state=0),
    "ExtraTrees": ExtraTreesRegressor(8, min_samples_leaf=3, random_state=0),
    "DecisionTree": DecisionTreeRegressor(max_depth=4, random_state=0),
}
#: Models whose training drew rows by their position.
POSITIONAL = {"LightGBM with bags", "GradientBoosting with bags", "RandomForest"}
BOOSTED = {name for name in MODELS if "Boosting" in name or "LightGBM" in name}
N, M = 90, 15


@pytest.fixture(scope="module")
def rows():
    """Rows and labels that differ in shape and scale."""
    X, y = random_rows(N, seed=5)
    return X, 8 + y


@pytest.fixture(scope="module")
def queries():
    return random_rows(M, seed=6)[0]


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def model(name, rows):
    return clone(MODELS[name]).fit(*rows)


def rebuilt(explained, X, y):
    return explained.kernel_weights(X) @ y + explained.offset(X)


# -- what it gives -----------------------------------------------------------------------------------------------------


def test_weights_and_offset_rebuild_the_model_s_predictions(model, rows, queries):
    explained = telescope(model, *rows)
    np.testing.assert_allclose(rebuilt(explained, queries, rows[1]), model.predict(queries), rtol=1e-6)
    np.testing.assert_allclose(explained.predict(queries), model.predict(queries), rtol=1e-12)
    np.testing.assert_allclose(explained.kernel_weights(queries).sum(axis=1), 1, rtol=1e-6)
    assert explained.kernel_weights_.shape == (N, N)


def test_every_question_of_our_estimators_is_answered(model, rows, queries, name):
    explained = telescope(model, *rows)
    assert 1 < explained.effective_params_ <= N + 1e-6
    assert 1 < explained.degrees_of_freedom_ <= N + 1e-6
    assert explained.effective_params(queries) > 1
    stages = explained.n_stages_
    assert explained.staged_effective_params(queries).shape == (stages,)
    staged = list(explained.staged_predict(queries))
    np.testing.assert_allclose(staged[-1], model.predict(queries), rtol=1e-12)
    assert len(staged) == stages == explained.kernel_norms(queries).shape[0]
    assert 0 < explained.kernel_norm_ratio(queries) <= 1
    assert explained.approximation_error(queries).reconstruction_max < 1e-4
    assert explained.influence(queries).shape == (M, N)
    assert explained.self_influence_.shape == (N,)
    assert "influence" in explained.top_examples(queries[:2], k=3, by="influence")
    top = explained.top_examples(queries[:2], k=3)
    assert set(top["label"]) <= set(rows[1])
    np.testing.assert_allclose(explained.breakdown(queries).sum(), model.predict(queries), rtol=1e-10)


def test_scorers_and_displays_take_it(model, rows, queries):
    explained = telescope(model, *rows)
    assert effective_params_scorer(explained, queries) == explained.effective_params(queries)
    assert kernel_norm_ratio_scorer(explained, queries) == explained.kernel_norm_ratio(queries)
    assert find_telescoping_estimator(explained, queries) == (explained, queries)
    for shown in (
        KernelWeightsDisplay.from_estimator(explained, queries[:1]),
        EffectiveParamsDisplay.from_estimator(explained, queries),
        StagedPredictionsDisplay.from_estimator(explained, queries[:3]),
        KernelNormsDisplay.from_estimator(explained, queries),
    ):
        assert shown.ax_.has_data()
    plt.close("all")


def test_stopping_curves_exist_for_trees_boosted_under_squared_error(model, rows, name):
    explained = telescope(model, *rows)
    if name in BOOSTED:
        curve = explained.stopping_curve()
        assert len(curve.by_stage) == explained.n_stages_
        StoppingCurveDisplay.from_estimator(explained)
    else:
        with pytest.raises(ValueError, match=f"this {type(model).__name__} has none"):
            explained.stopping_curve()


def test_the_stopping_curve_is_that_of_our_own_trees(rows):
    ours = make_trees().fit(*rows)
    settings = {"n_estimators": 12, "num_leaves": 6, "min_child_samples": 3, "n_jobs": 1, "verbosity": -1}
    theirs = telescope(lightgbm.LGBMRegressor(**settings).fit(*rows), *rows)
    pd.testing.assert_frame_equal(theirs.stopping_curve().by_stage, ours.stopping_curve().by_stage, rtol=1e-6)


def test_our_own_estimators_are_their_telescopes(rows):
    trees = make_trees().fit(*rows)
    assert telescope(trees, *rows) is trees
    pipe = make_pipeline(StandardScaler(), make_trees()).fit(*rows)
    assert telescope(pipe, *rows) is pipe[-1]
    with pytest.raises(NotFittedError):
        telescope(make_net(), *rows)


def test_pickles_clones_and_later_fits(model, rows, queries):
    explained = telescope(model, *rows)
    weights = explained.kernel_weights(queries)
    loaded = pickle.loads(pickle.dumps(explained))
    np.testing.assert_array_equal(loaded.kernel_weights(queries), weights)
    np.testing.assert_array_equal(loaded.predict(queries), explained.predict(queries))
    assert explained.get_params(deep=False) == {"model": model, "output": None, "verbose": False}
    copied = clone(explained)
    with pytest.raises(NotFittedError):
        copied.predict(queries)
    np.testing.assert_allclose(copied.fit(*rows).kernel_weights(queries), weights, atol=1e-12)
    model.fit(rows[0], rows[1][::-1])
    np.testing.assert_array_equal(explained.kernel_weights(queries), weights)
    assert abs(explained.predict(queries) - model.predict(queries)).max() > 0.1


def test_it_can_be_cross_validated_and_searched(rows):
    model = FittedTelescope(HistGradientBoostingRegressor(min_samples_leaf=5))
    scores = cross_validate(model, *rows, scoring={"p": effective_params_scorer, "r2": "r2"}, cv=3)
    assert (scores["test_p"] > 1).all()
    search = GridSearchCV(model, {"model__max_iter": [3, 6]}, cv=2).fit(*rows)
    assert search.best_estimator_.n_stages_ == search.best_params_["model__max_iter"]


def test_a_later_fit_forgets_the_columns_of_an_earlier_one(rows):
    X, y = rows
    frame = pd.DataFrame(X, columns=list("abcd"))
    explained = telescope(DecisionTreeRegressor(max_depth=3).fit(frame, y), frame, y)
    explained.fit(X[:, :3], y)
    assert not hasattr(explained, "feature_names_in_")
    assert explained.n_features_in_ == 3
    assert explained.predict(X[:, :3]).shape == (N,)


def test_a_booster_is_not_fitted_again(rows):
    booster = clone(MODELS["LightGBM"]).fit(*rows).booster_
    with pytest.raises(TypeError, match=r"model=Booster has no fit.*telescope\(model, X, y\)"):
        FittedTelescope(booster).fit(*rows)


def test_representations_compute_nothing(model, rows):
    explained = telescope(model, *rows)
    assert "kernel_weights_" not in dir(explained)
    assert type(model).__name__ in repr(explained)
    explained._repr_html_()
    assert explained._kernel_weights is None


# -- what it takes -----------------------------------------------------------------------------------------------------


def test_pipelines_targets_and_searches_are_unwrapped(model, rows, queries):
    X, y = rows
    wrapped = GridSearchCV(
        TransformedTargetRegressor(
            make_pipeline(StandardScaler(), clone(model)), func=np.log, inverse_func=np.exp, check_inverse=False
        ),
        {"regressor__standardscaler__with_std": [True]},
        cv=2,
    ).fit(X, y)
    explained = telescope(wrapped, X, y)
    assert explained.n_features_in_ == X.shape[1]
    np.testing.assert_allclose(rebuilt(explained, queries, np.log(y)), np.log(wrapped.predict(queries)), rtol=1e-6)
    np.testing.assert_allclose(np.exp(explained.predict(queries)), wrapped.predict(queries), rtol=1e-10)
    np.testing.assert_array_equal(explained.telescope_.y, np.log(y))


def test_frames_keep_their_index_and_their_columns(rows, queries):
    names = list("abcd")
    X = pd.DataFrame(rows[0], columns=names, index=[f"house {i}" for i in range(N)])
    X["kind"] = np.random.default_rng(0).choice(["old", "new"], N)
    pipe = make_pipeline(
        make_column_transformer((OrdinalEncoder(), ["kind"]), remainder="passthrough"),
        RandomForestRegressor(5, random_state=0),
    ).fit(X, rows[1])
    explained = telescope(pipe, X, rows[1])
    assert list(explained.feature_names_in_) == [*names, "kind"]
    top = explained.top_examples(X[:2], k=2)
    assert set(top["index"]) <= set(X.index)
    np.testing.assert_allclose(rebuilt(explained, X, rows[1]), pipe.predict(X))
    with pytest.raises(ValueError, match=r"columns are missing: .*'a'"):
        explained.predict(X.drop(columns="a"))


@pytest.mark.parametrize("given", [np.asarray, pd.Series, list], ids=["array", "series", "list"])
def test_labels_and_weights_may_be_of_any_kind(rows, queries, given):
    X, y = rows
    weights = np.linspace(0.5, 2, N)
    model = HistGradientBoostingRegressor(max_iter=4, min_samples_leaf=5).fit(X, y, sample_weight=weights)
    explained = telescope(model, X, given(y), given(weights))
    np.testing.assert_allclose(rebuilt(explained, queries, y), model.predict(queries), rtol=1e-6)


@pytest.mark.parametrize(
    "other", [LinearRegression(), DummyRegressor(), make_pipeline(StandardScaler(), LinearRegression())]
)
def test_other_models_are_refused_with_what_is_taken(other, rows):
    with pytest.raises(TypeError, match=r"takes no (Linear|Dummy)Regress.*Booster.*HistGradientBoosting"):
        telescope(other.fit(*rows), *rows)
    with pytest.raises(TypeError, match="takes no dict"):
        telescope({}, *rows)


def test_models_that_are_not_fitted_say_so(rows):
    for unfitted in MODELS.values():
        with pytest.raises(NotFittedError):
            telescope(clone(unfitted), *rows)
    with pytest.raises(NotFittedError):
        telescope(make_pipeline(StandardScaler(), RandomForestRegressor()), *rows)


def test_importing_the_door_loads_no_library():
    run_python(
        "import sys\n"
        "from telescoping_sklearn import telescope\n"
        "assert not {'lightgbm', 'torch', 'xgboost', 'catboost'} & set(sys.modules)\n"
    )


# -- wrong rows, labels, order and weights -----------------------------------------------------------------------------


def gap_and_cause(model, X, y, sample_weight=None, **options):
    """Size of the gap in an error, in standard deviations, and the whole message."""
    with pytest.raises(ValueError, match=r"Give|give|leave|not|other") as caught:
        telescope(model, X, y, sample_weight, **options)
    message = str(caught.value)
    size = re.search(r"by up to ([\d.e+-]+) standard deviations", message)
    return None if size is None else float(size[1]), message


def test_shuffled_labels_raise(model, rows, name):
    X, y = rows
    size, message = gap_and_cause(model, X, np.random.default_rng(0).permutation(y))
    assert size is None or size > 0.1
    assert "in another order than in fit" in message or name not in BOOSTED - POSITIONAL


def test_shuffled_rows_raise(model, rows):
    X, y = rows
    size, message = gap_and_cause(model, np.random.default_rng(0).permutation(X), y)
    assert size is None or size > 0.1
    assert "order" in message


def test_rows_shuffled_with_their_labels_are_the_same_data_unless_rows_were_drawn(model, rows, queries, name):
    order = np.random.default_rng(0).permutation(N)
    X, y = rows[0][order], rows[1][order]
    if name in POSITIONAL:
        assert "order" in gap_and_cause(model, X, y)[1]
    else:
        shuffled, given = (
            telescope(model, X, y).kernel_weights(queries),
            telescope(model, *rows).kernel_weights(queries),
        )
        np.testing.assert_allclose(shuffled, given[:, order], atol=1e-7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda y: 1000 * y, "1000 times"),
        (lambda y: (y - y.mean()) / y.std(), "in the units of the model"),
        (lambda y: y + 1e3, "plus 1000"),
        (np.exp, "np.log(y)"),
        (np.expm1, "np.log1p(y)"),
        (lambda y: y**2, "np.sqrt(y)"),
    ],
    ids=["thousands", "standardised", "shifted", "exponentials", "exponentials minus 1", "squares"],
)
def test_labels_in_other_units_raise_and_the_units_are_found(model, rows, change, said):
    size, message = gap_and_cause(model, rows[0], change(rows[1]))
    assert size > 1e-3
    assert said in message


def test_labels_in_other_units_raise_also_where_predictions_are_those_of_the_rows(rows):
    """Labels a little larger fit the model's predictions nearly as well, and are not those it was trained on."""
    X, y = rows
    model = DecisionTreeRegressor(random_state=0).fit(X, y)
    assert np.abs(model.predict(X) - y).max() == 0
    assert gap_and_cause(model, X, 1.0001 * y)[0] > 0


def test_other_numbers_of_rows_raise(model, rows, name):
    X, y = rows
    message = gap_and_cause(model, X[:-1], y[:-1])[1]
    assert ("X has 89 rows, and the model was trained on 90" in message) or name in POSITIONAL
    message = gap_and_cause(model, np.vstack([X, X]), np.concatenate([y, y]))[1]
    assert ("X has 180 rows, and the model was trained on 90" in message) or name in POSITIONAL


def test_other_rows_raise(model, rows):
    X, y = random_rows(N, seed=99)
    size, _ = gap_and_cause(model, X, 8 + y)
    assert size is None or size > 0.01
    X = rows[0].copy()
    X[:5] += 10
    gap_and_cause(model, X, rows[1])


def test_equal_labels_have_no_spread_to_count_a_gap_in(rows):
    X, _ = rows
    for model in MODELS.values():
        fitted = clone(model).fit(X, np.full(N, 3.0))
        np.testing.assert_allclose(telescope(fitted, X, np.full(N, 3.0)).kernel_weights(X).sum(axis=1), 1)
        assert "by up to 1, and" in gap_and_cause(fitted, X, np.full(N, 4.0))[1]


def test_models_that_were_grown_in_parts(rows, queries):
    X, y = rows
    grown = {
        "n_estimators": [
            GradientBoostingRegressor(n_estimators=4, subsample=0.5, random_state=0, warm_start=True),
            RandomForestRegressor(4, warm_start=True),
        ],
        "max_iter": [HistGradientBoostingRegressor(max_iter=4, early_stopping=True, warm_start=True)],
    }
    for name, models in grown.items():
        for model in models:
            model.fit(X, y)
            explained = telescope(model.set_params(**{name: 7}).fit(X, y), X, y)
            assert explained.n_stages_ == 7
            np.testing.assert_allclose(rebuilt(explained, queries, y), model.predict(queries), rtol=1e-6)


def test_sparse_rows_are_refused(rows):
    X, y = sparse.csr_array(rows[0]), rows[1]
    for model in (RandomForestRegressor(2), GradientBoostingRegressor(n_estimators=2), clone(MODELS["LightGBM"])):
        with pytest.raises(TypeError, match="toarray"):
            telescope(model.fit(X, y), X, y)


def test_one_wrong_label_raises(model, rows, name):
    y = rows[1].copy()
    y[17] += 1
    size, message = gap_and_cause(model, rows[0], y)
    assert "in another order than in fit" not in message
    row = re.search(r"largest at row (\d+), y=([\d.e+-]+)", message)
    if size is not None:  # a row of the same leaves has the same gap
        assert float(row[2]) == pytest.approx(y[int(row[1])], rel=1e-5)
    if name in {"LightGBM", "HistGradientBoosting"}:
        assert row[1] == "17"


WEIGHTED = {
    name: model
    for name, model in MODELS.items()
    if name not in {"RandomForest"}  # its weights only draw the bootstrap, which the model keeps
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_forgotten_and_other_weights_raise(name, rows):
    X, y = rows
    weights = np.random.default_rng(1).uniform(0.2, 4, N)
    model = clone(MODELS[name]).fit(X, y, sample_weight=weights)
    telescope(model, X, y, weights)
    size, message = gap_and_cause(model, X, y)
    assert size is None or size > 1e-3
    assert "weight" in message
    gap_and_cause(model, X, y, weights[::-1])


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_that_training_did_not_have_raise(name, rows):
    X, y = rows
    model = clone(MODELS[name]).fit(X, y)
    size, message = gap_and_cause(model, X, y, np.random.default_rng(1).uniform(0.2, 4, N))
    assert size > 1e-3
    assert "trained without sample_weight: leave it out" in message


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_of_zero_that_only_one_side_has(name, rows):
    X, y = rows
    weights = np.random.default_rng(1).choice([0.0, 1.0, 2.0], N)
    model = clone(MODELS[name]).fit(X, y)
    assert "leave it out" in gap_and_cause(model, X, y, weights)[1]
    model.fit(X, y, sample_weight=weights)
    assert "weight" in gap_and_cause(model, X, y)[1]


def test_classifiers_compare_their_raw_scores(rows):
    X, y = rows
    labels = np.where(y > np.median(y), "dear", "cheap")
    model = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=5).fit(X, labels)
    telescope(model, X, labels)
    size, message = gap_and_cause(model, X, np.random.default_rng(0).permutation(labels))
    assert size > 0.1
    assert "raw scores" in message


def test_malformed_input_raises(model, rows):
    X, y = rows
    with pytest.raises(ValueError, match="X has 90 rows, and y 89 labels"):
        telescope(model, X, y[:-1])
    with pytest.raises(ValueError, match="NaN or infinity"):
        telescope(model, X, np.where(y > y.mean(), np.nan, y))
    with pytest.raises(ValueError, match="Negative values"):
        telescope(model, X, y, -np.ones(N))
    with pytest.raises(ValueError, match="Sample weights must contain at least one non-zero"):
        telescope(model, X, y, np.zeros(N))
    with pytest.raises(ValueError, match="3 features"):
        telescope(model, X[:, :3], y)
    with pytest.raises(ValueError, match="sample_weight"):
        telescope(model, X, y, np.ones(3))
    explained = telescope(model, X, y)
    with pytest.raises(ValueError, match="3 features"):
        explained.kernel_weights(X[:, :3])
    with pytest.raises(ValueError, match="approximation='linearized' does not exist"):
        explained.staged_predict(X, approximation="linearized")


def test_errors_of_losses_that_are_no_smoothers_are_those_of_our_estimators(rows, queries):
    X, y = rows
    model = lightgbm.LGBMRegressor(n_estimators=4, objective="poisson", min_child_samples=5, verbosity=-1).fit(X, y)
    explained = telescope(model, X, y)
    ours = TelescopingGBTRegressor(n_estimators=4, objective="poisson", min_child_samples=5).fit(X, y)
    np.testing.assert_allclose(explained.kernel_weights(queries), ours.kernel_weights(queries), atol=1e-12)
    np.testing.assert_allclose(list(explained.staged_predict(queries)), list(ours.staged_predict(queries)), rtol=1e-12)
    for asked in ("offset", "effective_params"):
        with pytest.raises(ValueError, match="squared error"):
            getattr(explained, asked)(queries)
    with pytest.raises(ValueError, match="effective_params_scorer has no score"):
        effective_params_scorer(explained, queries)


def test_answers_can_be_written_down(rows, queries):
    """Numbers are plain where they are single."""
    explained = telescope(clone(MODELS["RandomForest"]).fit(*rows), *rows)
    json.dumps([explained.effective_params_, explained.effective_params(queries), explained.n_stages_])


@pytest.mark.parametrize("mean", [1e6, -1e8])
def test_labels_that_float32_takes_apart_are_refused(mean):
    X, y = random_rows(N)
    model = clone(MODELS["LightGBM"]).fit(X, y + mean)
    with pytest.raises(ValueError, match=r"LightGBM keeps labels in float32.*centred"):
        telescope(model, X, y + mean)


def test_a_search_that_keeps_no_model_is_refused():
    X, y = random_rows(N)
    search = GridSearchCV(DecisionTreeRegressor(), {"max_depth": [2, 3]}, refit=False, cv=2).fit(X, y)
    with pytest.raises(ValueError, match="refit=False and keeps no model"):
        telescope(search, X, y)


@pytest.mark.parametrize("kind", [str, object])
def test_labels_of_a_regressor_that_are_text_are_refused(kind):
    X, y = random_rows(N)
    model = DecisionTreeRegressor(max_depth=2).fit(X, y)
    with pytest.raises(ValueError, match="y must hold numbers for DecisionTreeRegressor"):
        telescope(model, X, y.astype(str).astype(kind))
    assert telescope(model, X, y.astype(object)).n_stages_ == 1


@pytest.mark.parametrize(
    "model",
    [
        RandomForestRegressor(8, random_state=0),
        lightgbm.LGBMRegressor(objective="regression_l1", n_estimators=8, min_child_samples=5, n_jobs=1, verbosity=-1),
    ],
)
def test_no_influence_at_all_is_said(model):
    X, y = random_rows(N)
    explained = telescope(clone(model).fit(X, y), X, y)
    with pytest.warns(UserWarning, match="No row has influence on 4 of 4 predictions"):
        explained.top_examples(X[:4], k=2, by="influence")
