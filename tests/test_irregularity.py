import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.datasets import load_diabetes
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.utils.estimator_checks import parametrize_with_checks

from telescoping_sklearn.irregularity import (
    FirstComponentDeviation,
    IrregularSplit,
    PrincipalDistance,
    SkewedLog1p,
    TabularPreparation,
    irregular_rows,
    mixture_test_sets,
)

DETECTORS = [PrincipalDistance, FirstComponentDeviation]


@parametrize_with_checks(
    [
        SkewedLog1p(),
        TabularPreparation(),
        PrincipalDistance(),
        PrincipalDistance(preparation=None),
        PrincipalDistance(variance=1, preparation=StandardScaler()),
        FirstComponentDeviation(),
        FirstComponentDeviation(preparation=None),
    ]
)
def test_estimator_contract(estimator, check):
    check(estimator)


@pytest.fixture
def raw():
    """Rows with a skewed column, missing values, a constant, text, a category, a flag and a nullable integer."""
    generator = np.random.default_rng(0)
    n = 60
    frame = pd.DataFrame(
        {
            "lot": generator.lognormal(3, 1.5, n),
            "shift": generator.normal(size=n),
            "constant": np.full(n, 7.0),
            "empty": np.full(n, np.nan),
            "rooms": pd.array(generator.integers(1, 9, n), dtype="Int64"),
            "wall": generator.choice(["wood", "brick", "stone"], n),
            "garage": pd.Categorical(generator.choice(["yes", "no"], n)),
            "new": generator.random(n) < 0.3,
        }
    )
    frame.loc[3, ["lot", "rooms"]] = pd.NA
    frame.loc[4, "wall"] = None
    return frame


# SkewedLog1p


def test_log_takes_skewed_non_negative_columns_only():
    x = np.array([0.0, 0.0, 1.0, 1.0, 2.0, 50.0])
    X = np.column_stack([x, x - 1, -x, np.arange(6.0), np.full(6, 3.0), np.full(6, np.nan)])
    X[2, 0] = np.nan
    log = SkewedLog1p().fit(X)
    assert log.logged_.tolist() == [True, False, False, False, False, False]
    out = log.transform(X)
    np.testing.assert_allclose(out[:, 0], np.log1p(X[:, 0]))
    np.testing.assert_array_equal(out[:, 1:], X[:, 1:])


def test_log_clips_below_zero_and_leaves_its_input():
    X = np.array([[0.0], [0.0], [0.0], [9.0]])
    log = SkewedLog1p().fit(X)
    before = np.array([[-2.0], [9.0], [np.nan]])
    kept = before.copy()
    np.testing.assert_allclose(log.transform(before), [[0.0], [np.log(10)], [np.nan]])
    np.testing.assert_array_equal(before, kept)


def test_log_threshold_is_that_of_the_skewness():
    X = pd.DataFrame({"a": [0.0, 1.0, 2.0, 9.0]})
    skew = X["a"].skew()
    assert SkewedLog1p(skew_threshold=skew - 1e-9).fit(X).logged_.all()
    assert not SkewedLog1p(skew_threshold=skew).fit(X).logged_.any()
    with pytest.raises(TypeError, match="skew_threshold"):
        SkewedLog1p(skew_threshold="1").fit(X)


def test_log_names_columns_and_gives_frames():
    X = pd.DataFrame({"a": [0.0, 1.0, 2.0, 90.0], "b": [1.0, 2.0, 3.0, 4.0]})
    out = SkewedLog1p().set_output(transform="pandas").fit_transform(X)
    assert list(out) == ["a", "b"]
    np.testing.assert_allclose(out["a"], np.log1p(X["a"]))


# TabularPreparation


def test_preparation_of_a_mixed_table(raw):
    preparation = TabularPreparation().fit(raw)
    out = preparation.transform(raw)
    names = list(preparation.get_feature_names_out())
    numeric = ["lot", "shift", "constant", "empty", "rooms"]
    one_hot = ["wall_brick", "wall_stone", "wall_wood", "wall_nan", "garage_yes", "new_True"]
    assert names == numeric + one_hot
    assert out.shape == (60, 11)
    assert np.isfinite(out).all()
    lot = np.log1p(raw["lot"].fillna(raw["lot"].median()))
    np.testing.assert_allclose(out[:, 0], (lot - lot.mean()) / lot.std(ddof=0))
    np.testing.assert_array_equal(out[:, 2:4], 0)
    np.testing.assert_array_equal(out[:, names.index("wall_stone")], (raw["wall"] == "stone").fillna(False))
    assert out[4, names.index("wall_nan")] == 1
    np.testing.assert_array_equal(out[:, names.index("garage_yes")], raw["garage"] == "yes")
    np.testing.assert_array_equal(out[:, names.index("new_True")], raw["new"])


def test_unknown_categories_are_zeros_without_a_warning(raw):
    preparation = TabularPreparation().fit(raw)
    rows = raw.head(2).assign(wall=["straw", None], garage=["maybe", "yes"], constant=[8.0, np.nan])
    out = pd.DataFrame(preparation.transform(rows), columns=preparation.get_feature_names_out())
    assert np.isfinite(out.to_numpy()).all()
    assert out.filter(like="wall_").loc[0].eq(0).all()
    assert out.loc[0, "garage_yes"] == 0
    assert out.loc[1, "wall_nan"] == 1


@pytest.mark.parametrize("text", [object, "str", "string", "category"])
def test_every_kind_of_text_column_is_encoded_alike(text):
    X = pd.DataFrame({"a": pd.Series(["x", "y", None, "z", "x"], dtype=text)})
    expected = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(TabularPreparation().fit_transform(X), expected)


def test_arrays_of_objects_are_prepared_like_the_frame(raw):
    X = raw.drop(columns=["rooms", "new"])
    np.testing.assert_allclose(
        TabularPreparation().fit_transform(X.to_numpy(dtype=object)), TabularPreparation().fit_transform(X)
    )


def test_preparation_limits_one_hot_columns():
    X = pd.DataFrame({"a": list("aaabbbcde")})
    preparation = TabularPreparation(one_hot_max_categories=3).fit(X)
    assert list(preparation.get_feature_names_out()) == ["a_a", "a_b", "a_infrequent_sklearn"]
    with pytest.raises(ValueError, match="one_hot_max_categories"):
        TabularPreparation(one_hot_max_categories=0).fit(X)
    with pytest.raises(TypeError, match="one_hot_max_categories"):
        TabularPreparation(one_hot_max_categories="3").fit(X)


def test_preparation_gives_frames(raw):
    out = TabularPreparation().set_output(transform="pandas").fit_transform(raw)
    assert isinstance(out, pd.DataFrame)
    assert out.columns[0] == "lot"


def test_preparation_refuses_times_and_unfitted_use(raw):
    with pytest.raises(TypeError, match="days since"):
        TabularPreparation().fit(pd.DataFrame({"a": [1, 2], "sold": pd.to_datetime(["2020-01-01", "2020-01-02"])}))
    with pytest.raises(NotFittedError):
        TabularPreparation().transform(raw)


# Detectors


def eigen_components(X, variance=None):
    """Scores along eigenvectors of the covariance, largest eigenvalue first, enough for the share of variance."""
    centred = X - X.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(X) - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    k = 1
    while variance is not None and k < len(values) and values[:k].sum() <= variance * values.sum():
        k += 1
    return centred @ vectors[:, :k]


@pytest.fixture
def cloud():
    generator = np.random.default_rng(1)
    return generator.normal(size=(80, 5)) @ generator.normal(size=(5, 5))


@pytest.mark.parametrize("variance", [0.3, 0.8, 0.95, 1])
def test_principal_distance_is_the_length_along_the_components(cloud, variance):
    components = eigen_components(cloud, variance)
    detector = PrincipalDistance(variance=variance, preparation=None).fit(cloud)
    assert detector.pca_.n_components_ == components.shape[1]
    expected = [-(sum(c**2 for c in row) ** 0.5) for row in components]
    np.testing.assert_allclose(detector.score_samples(cloud), expected)


def test_first_component_deviation_is_the_distance_from_the_median(cloud):
    first = eigen_components(cloud)[:, 0]
    detector = FirstComponentDeviation(preparation=None).fit(cloud)
    np.testing.assert_allclose(detector.score_samples(cloud), -np.abs(first - np.median(first)), atol=1e-12)


@pytest.mark.parametrize("Detector", DETECTORS)
def test_default_preparation_is_the_tabular_one(raw, Detector):
    prepared = TabularPreparation().fit_transform(raw)
    expected = Detector(preparation=None).fit(prepared).score_samples(prepared)
    np.testing.assert_allclose(Detector().fit(raw).score_samples(raw), expected)


@pytest.mark.parametrize("Detector", DETECTORS)
def test_given_preparation_is_cloned(cloud, Detector):
    scaler = StandardScaler()
    detector = Detector(preparation=scaler).fit(cloud)
    assert not hasattr(scaler, "scale_")
    scaled = scaler.fit_transform(cloud)
    expected = Detector(preparation=None).fit(scaled)
    np.testing.assert_allclose(detector.score_samples(cloud), expected.score_samples(scaled))


@pytest.mark.parametrize("Detector", DETECTORS)
def test_contamination_is_the_share_of_training_outliers(cloud, Detector):
    detector = Detector(contamination=0.25, preparation=None).fit(cloud)
    scores = detector.score_samples(cloud)
    np.testing.assert_allclose(detector.decision_function(cloud), scores - detector.offset_)
    np.testing.assert_array_equal(detector.predict(cloud), detector.fit_predict(cloud))
    np.testing.assert_array_equal(np.flatnonzero(detector.predict(cloud) == -1), np.sort(np.argsort(scores)[:20]))


@pytest.mark.parametrize("Detector", DETECTORS)
def test_rows_that_are_all_alike_score_zero(Detector):
    X = np.ones((6, 3))
    for preparation in ["default", None]:
        assert (Detector(preparation=preparation).fit(X).score_samples(X) == 0).all()


@pytest.mark.parametrize("Detector", DETECTORS)
def test_detector_parameter_errors_name_the_parameter(cloud, Detector):
    for contamination in [0, 0.6]:
        with pytest.raises(ValueError, match="contamination"):
            Detector(contamination=contamination).fit(cloud)
    with pytest.raises(TypeError, match="contamination"):
        Detector(contamination="auto").fit(cloud)
    with pytest.raises(ValueError, match=r'preparation=.*give "default"'):
        Detector(preparation="scale").fit(cloud)
    for preparation in [StandardScaler, Ridge(), 3]:
        with pytest.raises(TypeError, match="preparation="):
            Detector(preparation=preparation).fit(cloud)
    with pytest.raises(ValueError, match="minimum of 2"):
        Detector().fit(cloud[:1])


def test_variance_errors_name_the_parameter(cloud):
    for variance in [0, 1.1]:
        with pytest.raises(ValueError, match="variance"):
            PrincipalDistance(variance=variance).fit(cloud)
    with pytest.raises(TypeError, match="variance"):
        PrincipalDistance(variance=None).fit(cloud)


# irregular_rows


def lowest(scores, k):
    """The k lowest scores, earlier rows first among equals."""
    order = sorted(range(len(scores)), key=lambda row: (scores[row], row))
    return np.isin(np.arange(len(scores)), order[:k])


@pytest.mark.parametrize(
    "score",
    [
        None,
        FirstComponentDeviation(),
        IsolationForest(n_estimators=10, random_state=0),
        EllipticEnvelope(random_state=0),
        OneClassSVM(),
        KernelDensity(),
        make_pipeline(StandardScaler(), PCA(2), IsolationForest(n_estimators=10, random_state=0)),
    ],
    ids=lambda score: type(score).__name__,
)
def test_detectors_mark_their_lowest_scores(cloud, score):
    fitted = (PrincipalDistance() if score is None else score).fit(cloud)
    for fraction in [0.1, 0.31]:
        mask = irregular_rows(cloud, score=score, irregular_fraction=fraction)
        np.testing.assert_array_equal(mask, lowest(fitted.score_samples(cloud), round(fraction * 80)))


@pytest.mark.parametrize("novelty", [False, True])
def test_local_outlier_factor_marks_by_its_training_factors(cloud, novelty):
    lof = LocalOutlierFactor(novelty=novelty)
    factors = LocalOutlierFactor().fit(cloud).negative_outlier_factor_
    np.testing.assert_array_equal(irregular_rows(cloud, score=lof), lowest(factors, 8))
    assert not hasattr(lof, "negative_outlier_factor_")
    scaled = StandardScaler().fit_transform(cloud)
    factors = LocalOutlierFactor().fit(scaled).negative_outlier_factor_
    mask = irregular_rows(cloud, score=make_pipeline(StandardScaler(), lof))
    np.testing.assert_array_equal(mask, lowest(factors, 8))


def test_ties_mark_the_earlier_rows():
    X = np.repeat([[0.0], [1.0]], 5, axis=0)
    np.testing.assert_array_equal(irregular_rows(X, irregular_fraction=0.3), [True] * 3 + [False] * 7)


def test_raw_tables_are_scored(raw):
    raw.loc[17, "shift"] = 1e3
    mask = irregular_rows(raw, irregular_fraction=0.02)
    assert np.flatnonzero(mask).tolist() == [17]


class SilentDetector(IsolationForest):
    score_samples = property()


class NoDetector(BaseEstimator):
    _estimator_type = "outlier_detector"

    def fit(self, X, y=None):
        return self


@pytest.mark.parametrize("score", ["lof", 3, IsolationForest, KMeans(), Ridge(), make_pipeline(Ridge()), NoDetector()])
def test_what_scores_no_rows_is_refused(cloud, score):
    with pytest.raises(TypeError, match=r"(?s)score=.*negative_outlier_factor_"):
        irregular_rows(cloud, score=score)


def test_an_outlier_detector_without_scores_is_refused_after_its_fit(cloud):
    with pytest.raises(TypeError, match=r"(?s)score=.*score_samples"):
        irregular_rows(cloud, score=SilentDetector(n_estimators=2))


def test_irregular_fraction_errors_name_the_parameter(cloud):
    for fraction in [0, 1, -0.1]:
        with pytest.raises(ValueError, match="irregular_fraction"):
            irregular_rows(cloud, irregular_fraction=fraction)
    with pytest.raises(TypeError, match="irregular_fraction"):
        irregular_rows(cloud, irregular_fraction="half")


# mixture_test_sets


@st.composite
def mixtures(draw):
    """A mask with enough rows of both kinds, a test size and proportions."""
    n_irregular = draw(st.integers(1, 12))
    n_regular = draw(st.integers(n_irregular + 1, 30))
    mask = np.array(draw(st.permutations([True] * n_irregular + [False] * n_regular)))
    test_size = draw(st.one_of(st.none(), st.integers(1, n_irregular)))
    proportions = draw(st.lists(st.floats(0, 1), min_size=1, max_size=5, unique=True))
    return mask, test_size, sorted(proportions)


@given(mixtures(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_mixtures_hold_what_they_promise(mixture, seed):
    mask, test_size, proportions = mixture
    size = mask.sum() if test_size is None else test_size
    train, tests = mixture_test_sets(mask, proportions, test_size=test_size, random_state=seed)
    assert list(tests) == proportions
    assert not mask[train].any()
    assert len(train) == len(set(train)) == (~mask).sum() - size
    before = set()
    for proportion, rows in tests.items():
        assert len(rows) == len(set(rows)) == size
        assert not set(rows) & set(train)
        assert mask[rows].sum() == round(proportion * size)
        marked = set(rows[mask[rows]])
        assert before <= marked
        before = marked


@given(mixtures(), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_mixture_draws_depend_on_the_seed_and_not_on_the_proportions(mixture, seed):
    mask, test_size, proportions = mixture
    train, tests = mixture_test_sets(mask, proportions, test_size=test_size, random_state=seed)
    for proportion in proportions:
        alone_train, alone = mixture_test_sets(mask, [proportion], test_size=test_size, random_state=seed)
        np.testing.assert_array_equal(alone_train, train)
        np.testing.assert_array_equal(alone[proportion], tests[proportion])


def test_default_test_size_leaves_a_row_to_train_on():
    mask = np.array([True] * 7 + [False] * 4)
    train, tests = mixture_test_sets(mask, [0.0, 1.0])
    assert len(train) == 1
    assert [len(rows) for rows in tests.values()] == [3, 3]


def test_a_share_of_rows_as_test_size():
    mask = np.arange(40) < 4
    train, tests = mixture_test_sets(mask, [0.25], test_size=0.2, random_state=0)
    assert len(train) == 28
    assert len(tests[0.25]) == 8


def test_sources_of_draws():
    mask = np.arange(60) < 6
    for source in [np.random.RandomState, np.random.default_rng]:
        first = mixture_test_sets(mask, [0.5], random_state=source(3))[0]
        np.testing.assert_array_equal(first, mixture_test_sets(mask, [0.5], random_state=source(3))[0])
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    draws = [mixture_test_sets(mask, [0.5], random_state=None)[0].tolist() for _ in range(5)]
    assert len({tuple(draw) for draw in draws}) > 1
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"proportions": [1.2]}, "proportion == 1.2"),
        ({"proportions": [-0.1]}, "proportion == -0.1"),
        ({"proportions": [1.0], "test_size": 9}, "needs 9 irregular rows and there are 4; lower the proportion"),
        ({"test_size": 16}, "16 regular rows aside and there are 16, so none is left.*lower test_size"),
        ({"test_size": 0.9}, "18 regular rows aside and there are 16"),
        ({"test_size": 0}, "test_size == 0"),
        ({"test_size": 1.5}, "test_size == 1.5"),
        ({"test_size": 0.01}, "empty test sets.*larger test_size"),
        ({"irregular": np.zeros(5, dtype=bool)}, "empty test sets of 0 irregular"),
        ({"random_state": -1}, "random_state=-1"),
        ({"random_state": "seed"}, "random_state='seed'"),
    ],
)
def test_mixture_value_errors(options, message):
    options = {"irregular": np.arange(20) < 4, "proportions": [0.5]} | options
    with pytest.raises(ValueError, match=message):
        mixture_test_sets(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"irregular": [0, 1, 1]}, "irregular holds int64.*boolean mask"),
        ({"proportions": ["all"]}, "proportion must be"),
        ({"test_size": "half"}, "test_size must be"),
    ],
)
def test_mixture_type_errors(options, message):
    options = {"irregular": np.arange(20) < 4, "proportions": [0.5]} | options
    with pytest.raises(TypeError, match=message):
        mixture_test_sets(**options)


# IrregularSplit


@given(
    n_splits=st.integers(1, 4), proportion=st.floats(0, 1), fraction=st.floats(0.05, 0.45), seed=st.integers(0, 1000)
)
@settings(deadline=None, max_examples=40)
def test_folds_hold_what_they_promise(n_splits, proportion, fraction, seed):
    X = np.random.default_rng(seed).normal(size=(50, 3))
    score = PrincipalDistance(preparation=None)
    mask = irregular_rows(X, score=score, irregular_fraction=fraction)
    options = {"score": score, "irregular_fraction": fraction, "random_state": seed}
    cv = IrregularSplit(n_splits, proportion=proportion, **options)
    folds = list(cv.split(X))
    assert len(folds) == cv.get_n_splits() == n_splits
    regular = list(IrregularSplit(n_splits, proportion=0.0, **options).split(X))
    for (train, test), again, (regular_train, _) in zip(folds, cv.split(X), regular, strict=True):
        assert not mask[train].any()
        assert not set(train) & set(test)
        assert len(test) == mask.sum()
        assert mask[test].sum() == round(proportion * len(test))
        np.testing.assert_array_equal(train, again[0])
        np.testing.assert_array_equal(test, again[1])
        np.testing.assert_array_equal(train, regular_train)


def test_splits_and_seeds_differ():
    X = np.random.default_rng(0).normal(size=(60, 3))
    first, second = (train for train, _ in IrregularSplit(2, random_state=0).split(X))
    assert first.tolist() != second.tolist()
    other = next(IrregularSplit(2, random_state=1).split(X))[0]
    assert first.tolist() != other.tolist()


def test_cross_validation_and_grid_search():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    cv = IrregularSplit(3, proportion=1.0, score=LocalOutlierFactor(), random_state=0)
    result = cross_validate(Ridge(), X, y, cv=cv, return_indices=True)
    assert result["test_score"].shape == (3,)
    mask = irregular_rows(X, score=LocalOutlierFactor())
    assert all(mask[rows].all() for rows in result["indices"]["test"])
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=cv).fit(X, y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"][1], result["test_score"].mean())


def test_folds_of_a_raw_table(raw):
    for train, test in IrregularSplit(2, random_state=0).split(raw):
        assert (len(train), len(test)) == (48, 6)


def test_representation_shows_the_parameters():
    assert repr(IrregularSplit(3, proportion=0.25)) == (
        "IrregularSplit(irregular_fraction=0.1, n_splits=3, proportion=0.25,\n"
        "        random_state=None, score=None, test_size=None)"
    )


@pytest.mark.parametrize(
    ("options", "error", "name"),
    [
        ({"n_splits": 0}, ValueError, "n_splits"),
        ({"n_splits": 2.5}, TypeError, "n_splits"),
        ({"proportion": 1.5}, ValueError, "proportion"),
        ({"proportion": "all"}, TypeError, "proportion"),
        ({"score": Ridge()}, TypeError, "score"),
        ({"irregular_fraction": 2.0}, ValueError, "irregular_fraction"),
        ({"irregular_fraction": 0.001}, ValueError, "empty test sets"),
        ({"irregular_fraction": 0.9, "test_size": 30}, ValueError, "none is left"),
        ({"test_size": 0}, ValueError, "test_size"),
        ({"random_state": -3}, ValueError, "random_state"),
    ],
)
def test_split_errors_come_with_the_call_and_name_the_parameter(options, error, name):
    X = np.random.default_rng(0).normal(size=(60, 3))
    cv = IrregularSplit(**options)
    with pytest.raises(error, match=name):
        cv.split(X)
