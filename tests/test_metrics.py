"""Scorers find the telescoping estimator wherever it sits; the relative gap is a number only where it means one."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_friedman1
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from telescoping_sklearn import (
    BaseTelescopingEstimator,
    IrregularSplit,
    TelescopingGBTRegressor,
    TelescopingMLPRegressor,
)
from telescoping_sklearn.metrics import (
    effective_params_scorer,
    find_telescoping_estimator,
    kernel_norm_ratio_scorer,
    relative_gap,
)

TREES = TelescopingGBTRegressor(n_estimators=5, min_child_samples=5, n_jobs=1, random_state=0)
NET = TelescopingMLPRegressor((5,), max_iter=3, random_state=0)


@pytest.fixture(scope="module")
def rows():
    X, y = make_friedman1(80, random_state=0)
    return X, y / 10


def nested(estimator):
    """The estimator inside a pipeline, inside a target transformer, inside a pipeline, inside a search."""
    inner = TransformedTargetRegressor(make_pipeline(StandardScaler(), estimator), transformer=StandardScaler())
    return GridSearchCV(make_pipeline(StandardScaler(with_std=False), inner), {}, cv=2)


@pytest.mark.parametrize("estimator", [TREES, NET], ids=["trees", "net"])
def test_nested_estimator_is_found_and_sees_its_own_rows(estimator, rows):
    X, y = rows
    model = nested(estimator).fit(X, y)
    found, seen = find_telescoping_estimator(model, X)
    assert type(found) is type(estimator)
    np.testing.assert_allclose(seen, StandardScaler().fit_transform(X))
    restored = StandardScaler().fit(y[:, None]).inverse_transform(found.predict(seen)[:, None])[:, 0]
    np.testing.assert_allclose(restored, model.predict(X))


def test_finding_touches_no_costly_property(rows, monkeypatch):
    model = nested(TREES).fit(*rows)

    def refuse(self):
        raise AssertionError("the telescope was made")

    monkeypatch.setattr(TelescopingGBTRegressor, "_make_telescope", refuse)
    found, _ = find_telescoping_estimator(model, rows[0])
    assert isinstance(found, BaseTelescopingEstimator)


def test_pipeline_of_one_step_is_found(rows):
    found, seen = find_telescoping_estimator(make_pipeline(TREES).fit(*rows), rows[0])
    assert seen is rows[0]
    assert isinstance(found, TelescopingGBTRegressor)


def test_other_estimators_are_refused_by_name(rows):
    with pytest.raises(TypeError, match="Ridge"):
        effective_params_scorer(make_pipeline(StandardScaler(), Ridge()).fit(*rows), rows[0])


def test_unfitted_models_are_refused(rows):
    with pytest.raises(NotFittedError):
        kernel_norm_ratio_scorer(TelescopingGBTRegressor(), rows[0])
    with pytest.raises(NotFittedError):
        kernel_norm_ratio_scorer(make_pipeline(StandardScaler(), TelescopingGBTRegressor()), rows[0])


def test_scorers_are_the_estimators_own_numbers(rows):
    X, y = rows
    model = make_pipeline(StandardScaler(), TREES).fit(X, y)
    seen = model[:-1].transform(X[:20])
    assert effective_params_scorer(model, X[:20], y[:20]) == model[-1].effective_params(seen)
    assert kernel_norm_ratio_scorer(model, X[:20], y[:20]) == model[-1].kernel_norm_ratio(seen)


@pytest.mark.parametrize("estimator", [TREES, NET], ids=["trees", "net"])
def test_a_comparison_is_one_cross_validate_call(estimator, rows):
    X, y = rows[0], scale(rows[1])
    scoring = {"mse": "neg_mean_squared_error", "p": effective_params_scorer, "ratio": kernel_norm_ratio_scorer}
    cv = IrregularSplit(n_splits=2, proportion=0.5, irregular_fraction=0.2, random_state=0)
    scores = cross_validate(make_pipeline(StandardScaler(), estimator), X, y, cv=cv, scoring=scoring)
    for name in ("mse", "p", "ratio"):
        assert np.isfinite(scores[f"test_{name}"]).all()
    assert (scores["test_p"] > 0).all()


def test_scorers_work_in_a_grid_search(rows):
    search = GridSearchCV(
        TREES, {"num_leaves": [2, 8]}, scoring={"r2": "r2", "p": effective_params_scorer}, refit="r2", cv=2
    ).fit(*rows)
    small, large = search.cv_results_["mean_test_p"]
    assert small < large


BOTH = {"p": effective_params_scorer, "ratio": kernel_norm_ratio_scorer}
LOSSES = ("poisson", "gamma", "tweedie", "cross_entropy")
NO_SCORE = [(TREES, {"objective": loss}, {"p"}, "kernel_norm_ratio_scorer, which takes every loss") for loss in LOSSES]
NO_SCORE += [(model, {"record": False}, {"p", "ratio"}, "Set record=True") for model in (TREES, NET)]


def without_score(model, settings, wanted, rows):
    """The model in a pipeline, its rows, and the message that every scorer without a score has."""
    X, y = rows
    y = y / 3 if settings.get("objective") == "cross_entropy" else y
    messages = [f"{BOTH[name].__name__} has no score for this {type(model).__name__}: " for name in sorted(wanted)]
    return make_pipeline(StandardScaler(), clone(model).set_params(**settings)), X, y, messages


@pytest.mark.parametrize(("model", "settings", "missing", "way_out"), NO_SCORE)
def test_a_score_that_does_not_exist_says_so_in_every_search(model, settings, missing, way_out, rows):
    pipeline, X, y, messages = without_score(model, settings, missing, rows)
    scoring = BOTH | {"r2": "r2"}
    searches = {
        "cross_validate": lambda: cross_validate(pipeline, X, y, scoring=scoring, cv=2),
        "search": lambda: GridSearchCV(pipeline, {}, scoring=scoring, refit=False, cv=2).fit(X, y).cv_results_,
    }
    for name, run in searches.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scores = run()
        said = [str(warning.message) for warning in caught if "Scoring failed" in str(warning.message)]
        assert len(said) == 2 * len(missing)
        for message in messages:
            assert sum(message in text for text in said) == 2
        assert all(way_out in text and "from scoring=" in text for text in said)
        prefix = "test_" if name == "cross_validate" else "mean_test_"
        for score in scoring:
            assert np.isnan(scores[prefix + score]).all() == (score in missing)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # some of the nets are no good
@pytest.mark.parametrize(("model", "settings", "missing", "way_out"), NO_SCORE)
def test_a_score_that_does_not_exist_stops_searches_that_raise(model, settings, missing, way_out, rows):
    pipeline, X, y, messages = without_score(model, settings, missing, rows)
    for name, message in zip(sorted(missing), messages, strict=True):
        with pytest.raises(ValueError, match=f"^{message}.*{way_out}"):
            cross_validate(pipeline, X, y, scoring=BOTH[name], cv=2, error_score="raise")
        with pytest.raises(ValueError, match=f"^{message}.*{way_out}"):
            GridSearchCV(pipeline, {}, scoring=BOTH[name], cv=2, error_score="raise").fit(X, y)


@pytest.mark.parametrize("scorer", BOTH.values(), ids=BOTH)
def test_a_dropped_record_is_not_said_never_to_have_been(scorer, rows):
    net = clone(NET).fit(rows[0], scale(rows[1]))
    assert np.isfinite(scorer(net, rows[0]))
    with pytest.raises(ValueError, match=r"no score for this .* with record=False, or its record was dropped"):
        scorer(net.drop_record(), rows[0])


def test_other_errors_of_a_question_keep_their_own_words(rows):
    model = clone(TREES).fit(*rows)
    for scorer in BOTH.values():
        with pytest.raises(ValueError, match=r"^X has 3 features"):
            scorer(model, rows[0][:, :3])


def test_relative_gap_is_the_ratio_of_the_gaps():
    gap = relative_gap(0.9, 0.5, 0.3, 0.1, baseline_se=0.01)
    assert gap.value == pytest.approx(2.0)
    assert gap.reason == ""


@pytest.mark.parametrize(
    ("errors", "noise", "reason"),
    [
        ((0.9, 0.5, 0.31, 0.30), 0.01, "within noise"),
        ((0.9, 0.5, 0.3001, 0.3000), 0.0, "near zero"),
        ((0.9, 0.5, 0.3, 0.3), 0.0, "within noise"),
        ((0.4, 0.5, 0.3, 0.1), 0.0, "lower error here net, at q=0 trees"),
        ((0.5, 0.4, 0.1, 0.3), 0.0, "lower error here trees, at q=0 net"),
        ((np.inf, 0.4, 0.1, 0.3), 0.0, "not finite"),
    ],
)
def test_relative_gap_says_why_there_is_none(errors, noise, reason):
    gap = relative_gap(*errors, baseline_se=noise)
    assert np.isnan(gap.value)
    assert reason in gap.reason
