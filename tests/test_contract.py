"""What both families promise alike: the algebra, scikit-learn's habits, and what a wrong input gets."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FITTED, N_QUERY, N_TRAIN, make_net, make_trees, random_rows, tree_tolerance
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn import clone, config_context
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from telescoping_sklearn import TelescopingGBTRegressor, _memory
from telescoping_sklearn._estimates import choose_sum
from telescoping_sklearn.base import RecordDroppedError

COSTLY = {
    "telescope_",
    "kernel_weights_",
    "self_influence_",
    "effective_params_",
    "effective_params_se_",
    "degrees_of_freedom_",
    "degrees_of_freedom_se_",
}


def is_trees(model):
    return isinstance(model, TelescopingGBTRegressor)


def fresh(model):
    """The same fitted model with nothing asked yet."""
    return pickle.loads(pickle.dumps(model))


def rebuilding_tolerance(model, y):
    return tree_tolerance(y) if is_trees(model) else 1e-4 * np.std(y)


# The algebra


def test_weights_and_offset_rebuild_predictions(fitted, data, query):
    rebuilt = fitted.kernel_weights(query) @ data[1] + fitted.offset(query)
    np.testing.assert_allclose(rebuilt, fitted.predict(query), rtol=0, atol=rebuilding_tolerance(fitted, data[1]))
    rebuilt = fitted.kernel_weights_ @ data[1] + fitted.offset(data[0])
    np.testing.assert_allclose(rebuilt, fitted.predict(data[0]), rtol=0, atol=rebuilding_tolerance(fitted, data[1]))


def test_weights_of_the_training_rows_are_those_of_the_attribute(fitted, data):
    assert fitted.kernel_weights_.shape == (N_TRAIN, N_TRAIN)
    np.testing.assert_allclose(fitted.kernel_weights(data[0]), fitted.kernel_weights_, atol=1e-12)


def test_last_staged_prediction_is_the_prediction(fitted, query):
    staged = list(fitted.staged_predict(query))
    assert len(staged) == fitted.n_stages_
    np.testing.assert_allclose(staged[-1], fitted.predict(query), rtol=1e-12, atol=1e-14)
    assert np.abs(staged[0] - staged[-1]).max() > 1e-3


def test_telescoping_model_follows_the_model_stage_by_stage(fitted, data, query):
    telescoping = list(fitted.staged_predict(query, approximation="telescoping"))
    tolerance = rebuilding_tolerance(fitted, data[1])
    np.testing.assert_allclose(telescoping, list(fitted.staged_predict(query)), rtol=0, atol=tolerance)


def test_approximation_error_is_the_gap_of_weights_and_offset(fitted, data, query):
    error = fitted.approximation_error(query, stages=3)
    gap = np.abs(fitted.kernel_weights(query) @ data[1] + fitted.offset(query) - fitted.predict(query))
    assert (error.reconstruction_mean, error.reconstruction_max) == pytest.approx((gap.mean(), gap.max()), abs=1e-10)
    assert len(error.by_stage) == 3
    assert error.by_stage.index[-1] == fitted.n_stages_


def test_effective_parameters_are_the_squared_weights(fitted, data, query):
    for X in (query, data[0]):
        expected = N_TRAIN / len(X) * (fitted.kernel_weights(X) ** 2).sum()
        assert fitted.effective_params(X, n_probes=None) == pytest.approx(expected)
    assert fitted.effective_params_ == pytest.approx((fitted.kernel_weights_**2).sum())
    left = fitted.telescope_.response_error(None, np.array([fitted.n_stages_])).item()  # nothing is sampled
    assert fitted.effective_params_se_ == pytest.approx(left * fitted.effective_params_)
    assert fitted.degrees_of_freedom_se_ == pytest.approx(left * fitted.degrees_of_freedom_)


def test_degrees_of_freedom_are_the_trace(fitted):
    assert fitted.degrees_of_freedom_ == pytest.approx(np.trace(fitted.kernel_weights_))


def test_probes_estimate_effective_parameters_within_their_standard_error(fitted, query):
    exact = fitted.effective_params(query, n_probes=None)
    estimate, se = fitted.effective_params(query, n_probes=64, return_se=True)
    assert 0 < se < 0.5 * exact
    assert 0 < abs(estimate - exact) < 4 * se


def test_probes_estimate_the_training_summary_within_their_standard_error(fitted):
    for estimate, exact in zip(
        fitted.telescope_.training_summary(64), (fitted.effective_params_, fitted.degrees_of_freedom_), strict=True
    ):
        assert 0 < abs(estimate.value - exact) < 4 * estimate.standard_error


def test_last_staged_effective_parameters_are_the_plain_ones(fitted, query):
    for n_probes in (None, 4):
        staged, errors = fitted.staged_effective_params(query, n_probes=n_probes, return_se=True)
        assert len(staged) == fitted.n_stages_
        plain = fitted.effective_params(query, n_probes=n_probes, return_se=True)
        np.testing.assert_allclose((staged[-1], errors[-1]), plain, atol=1e-12)


def test_subsets_may_be_masks(fitted, query):
    masks = [np.arange(len(query)) < 5, np.isin(np.arange(len(query)), [7, 2, 11]).tolist()]
    rows = [np.arange(5), [2, 7, 11 - len(query)]]
    for ask in (lambda subsets: fitted.effective_params(query, n_probes=None, subsets=subsets),
                lambda subsets: fitted.effective_params(query, n_probes=4, subsets=subsets),
                lambda subsets: fitted.kernel_norm_ratio(query, stages=3, subsets=subsets)):  # fmt: skip
        np.testing.assert_allclose(ask(masks), ask(rows))


@pytest.mark.parametrize(
    ("subsets", "match"),
    [
        ([], "subsets must hold one set"),
        ([[0], []], r"subsets\[1\] is empty"),
        ([np.zeros(15, dtype=bool)], r"subsets\[0\] is empty"),
        ([np.ones(4, dtype=bool)], r"subsets\[0\] is a mask of 4 rows, and there are 15"),
        ([[0], [15]], r"subsets\[1\] names rows from 15 to 15"),
        ([[-16, 0]], r"subsets\[0\] names rows from -16 to 0"),
        ([[0.5]], r"subsets\[0\] must hold row numbers or be a mask, got float64"),
        ([0, 1], r"subsets\[0\] must be one-dimensional"),
    ],
)
@pytest.mark.parametrize("n_probes", [None, 4])
def test_subsets_that_are_no_sets_of_query_rows_are_refused(fitted, query, subsets, match, n_probes):
    with pytest.raises(ValueError, match=match):
        fitted.effective_params(query, n_probes=n_probes, subsets=subsets)
    with pytest.raises(ValueError, match=match):
        fitted.staged_effective_params(query, 2, n_probes=n_probes, subsets=subsets)
    with pytest.raises(ValueError, match=match):
        fitted.kernel_norm_ratio(query, stages=2, subsets=subsets)


def test_subsets_are_answered_as_separate_calls(fitted, query):
    subsets = [np.arange(5), np.array([7, 2, 11])]
    parts = [query[rows] for rows in subsets]
    np.testing.assert_allclose(
        fitted.effective_params(query, n_probes=None, subsets=subsets),
        [fitted.effective_params(part, n_probes=None) for part in parts],
    )
    values, errors = fitted.effective_params(query, n_probes=8, subsets=subsets, return_se=True)
    alone = [fitted.effective_params(part, n_probes=8, return_se=True) for part in parts]
    np.testing.assert_allclose(np.transpose([values, errors]), alone)
    np.testing.assert_allclose(
        fitted.kernel_norm_ratio(query, subsets=subsets), [fitted.kernel_norm_ratio(part) for part in parts]
    )


def test_kernel_norms_are_those_of_the_stage_kernels(fitted, query):
    stages = [1, 2, fitted.n_stages_]
    norms = [sparse.linalg.norm(kernel, axis=1) for kernel in fitted.staged_kernel(query, stages=stages)]
    np.testing.assert_allclose(fitted.kernel_norms(query, stages=stages), norms)


def test_kernel_norm_ratio_of_the_training_rows_is_one(fitted, data, query):
    assert fitted.kernel_norm_ratio(data[0]) == pytest.approx(1)
    peaks = [fitted.kernel_norms(X).max(axis=1).mean() for X in (query, data[0])]
    assert fitted.kernel_norm_ratio(query) == pytest.approx(peaks[0] / peaks[1])


@given(st.sampled_from(list(FITTED)), st.integers(0, 2**31), st.floats(-5, 5), st.floats(-5, 5), st.booleans())
@hypothesis_settings(deadline=None, max_examples=30)
def test_the_response_is_linear_in_the_labels(name, seed, a, b, training_rows):
    X, y = random_rows()
    model = FITTED[name] if hasattr(FITTED[name], "n_stages_") else FITTED[name].fit(X, y)
    rng = np.random.default_rng(seed)
    V, W = rng.normal(size=(2, N_TRAIN, 2))
    query = None if training_rows else rng.normal(size=(5, X.shape[1]))

    def response(labels):
        return next(model.telescope_.staged_response(query, labels, stages=[model.n_stages_]))

    np.testing.assert_allclose(response(a * V + b * W), a * response(V) + b * response(W), atol=1e-10)


def test_tree_weights_sum_to_one(data, query):
    for settings in ({}, {"reg_lambda": 5.0}, {"learning_rate": 1.0}):
        model = make_trees(**settings).fit(*data)
        np.testing.assert_allclose(model.kernel_weights(query).sum(axis=1), 1)
        np.testing.assert_allclose(model.offset(query), 0, atol=1e-14)


def test_tree_predictions_follow_shift_and_scale_of_labels_and_weights_stay(data, query):
    X, y = data[0], np.round(data[1] * 8) / 8
    model, other = (make_trees().fit(X, labels) for labels in (y, 4 * (y + 2)))
    np.testing.assert_allclose(other.predict(query), 4 * (model.predict(query) + 2), rtol=1e-6)
    np.testing.assert_allclose(other.kernel_weights(query), model.kernel_weights(query), atol=1e-10)


def test_net_weights_follow_their_rows_at_full_batch(data, query):
    order = np.random.default_rng(0).permutation(N_TRAIN)
    settings = {"batch_size": "full", "shuffle": False}
    model = make_net(**settings).fit(*data)
    permuted = make_net(**settings).fit(data[0][order], data[1][order])
    np.testing.assert_allclose(permuted.kernel_weights(query), model.kernel_weights(query)[:, order], atol=1e-10)
    np.testing.assert_allclose(permuted.predict(query), model.predict(query), atol=1e-10)


def answers(model, X):
    """Everything that is worked in blocks."""
    return {
        "predict": model.predict(X),
        "weights": model.kernel_weights(X),
        "training weights": model.kernel_weights_,
        "offset": model.offset(X),
        "exact": model.staged_effective_params(X, n_probes=None),
        "probes": model.staged_effective_params(X, n_probes=9, return_se=True),
        "summary": np.ravel(model.telescope_.training_summary(n_probes=None)),
        "norms": model.kernel_norms(X),
        "kernel": np.stack([kernel.toarray() for kernel in model.staged_kernel(X, stages=2)]),
        "telescoping": list(model.staged_predict(X, approximation="telescoping")),
        "ratio": model.kernel_norm_ratio(X),
    }


def test_small_working_memory_changes_no_answer(fitted, query):
    expected = answers(fitted, query)
    # With the smaller one a net's 40 rows make two blocks; the larger one splits its columns only, as the smaller does.
    for working_memory in [0.05, 0.025] if is_trees(fitted) else [0.025]:
        with config_context(working_memory=working_memory):
            in_blocks = answers(fresh(fitted), query)
            assert choose_sum(fresh(fitted).telescope_, "auto", N_QUERY) == 32
        for name, value in expected.items():
            np.testing.assert_allclose(in_blocks[name], value, atol=1e-10, err_msg=name)


# Weights of rows


def test_a_row_of_weight_zero_has_a_zero_column(make, data, query):
    sample_weight = np.linspace(0.5, 1.5, N_TRAIN)
    sample_weight[[3, 17]] = 0
    model = make().fit(*data, sample_weight=sample_weight)
    weightless = np.flatnonzero(~model.kernel_weights(query).any(axis=0))
    assert weightless.tolist() == np.flatnonzero(~model.kernel_weights_.any(axis=0)).tolist() == [3, 17]
    rebuilt = model.kernel_weights(query) @ data[1] + model.offset(query)
    np.testing.assert_allclose(rebuilt, model.predict(query), rtol=0, atol=rebuilding_tolerance(model, data[1]))


def test_labels_of_weightless_rows_change_nothing(make, data, query):
    sample_weight = np.arange(N_TRAIN) >= 4
    other = data[1] + 5.0 * (sample_weight == 0)
    first, second = (make().fit(data[0], y, sample_weight=sample_weight) for y in (data[1], other))
    np.testing.assert_allclose(first.predict(query), second.predict(query), rtol=1e-12)


@pytest.mark.parametrize(
    "model",
    [make_trees(n_estimators=100, early_stopping_rounds=3), make_net(early_stopping=True)],
    ids=["trees", "net"],
)
def test_held_out_rows_have_zero_columns_and_count_nowhere(model, data, query):
    model = clone(model).set_params(validation_fraction=0.2).fit(*data)
    trained = model.kernel_weights_.any(axis=0)
    assert (~trained).sum() == 8
    assert not model.kernel_weights(query)[:, ~trained].any()
    assert model.effective_params_ == pytest.approx((model.kernel_weights_[trained] ** 2).sum())
    assert model.degrees_of_freedom_ == pytest.approx(np.trace(model.kernel_weights_))
    assert model.effective_params(query, n_probes=None) == pytest.approx(
        32 / N_QUERY * (model.kernel_weights(query) ** 2).sum()
    )
    rebuilt = model.kernel_weights(query) @ data[1] + model.offset(query)
    np.testing.assert_allclose(rebuilt, model.predict(query), rtol=0, atol=rebuilding_tolerance(model, data[1]))


# Stages


def test_stages_of_predictions(fitted, query):
    every = [next(fitted.staged_predict(query, stages=[0])), *fitted.staged_predict(query)]
    n_stages = fitted.n_stages_
    for stages, expected in [
        (3, [n_stages // 3, 2 * n_stages // 3, n_stages]),
        ([0, 2, 5], [0, 2, 5]),
        (np.array([n_stages - 1]), [n_stages - 1]),
        (10**6, range(1, n_stages + 1)),
    ]:
        for approximation in (None, "telescoping"):
            asked = list(fitted.staged_predict(query, stages=stages, approximation=approximation))
            whole = [every[stage] for stage in expected]
            np.testing.assert_allclose(asked, whole, atol=1e-12 if approximation is None else 1e-4)


def test_the_start_is_the_mean_label_of_trees(data, query):
    model = make_trees().fit(*data, sample_weight=np.arange(1, N_TRAIN + 1))
    start = next(model.staged_predict(query, stages=[0]))
    np.testing.assert_allclose(start, np.average(data[1], weights=np.arange(1, N_TRAIN + 1)))


def test_stages_of_effective_parameters(fitted, query):
    every = fitted.staged_effective_params(query, n_probes=None)
    some = fitted.staged_effective_params(query, n_probes=None, stages=[1, 5])
    np.testing.assert_allclose(some, every[[0, 4]])


@pytest.mark.parametrize(
    ("stages", "error"),
    [*[(stages, ValueError) for stages in (0, -2, [99999], [-1], [3, 2], [1, 1])],
     *[(stages, TypeError) for stages in (True, 2.5, [1.5], "last", [], [[1]])]],
)  # fmt: skip
def test_wrong_stages_are_refused_by_the_call_itself(fitted, query, stages, error):
    for ask in (fitted.staged_predict, fitted.staged_effective_params, fitted.staged_kernel, fitted.kernel_norms):
        with pytest.raises(error, match="stages"):
            ask(query, stages=stages)


def test_the_start_has_no_kernel(fitted, query):
    for ask in (fitted.staged_kernel, fitted.kernel_norms, fitted.kernel_norm_ratio):
        with pytest.raises(ValueError, match=rf"stages must lie in 1\.\.{fitted.n_stages_}"):
            ask(query, stages=[0])


# Nothing is computed unasked


@pytest.fixture
def unasked(make, data, monkeypatch):
    """A fitted estimator that fails to make a telescope, and the list of attempts."""
    model, attempts = make().fit(*data), []

    def refuse(self):
        attempts.append(self)
        raise RuntimeError("a telescope was made")

    monkeypatch.setattr(type(model), "_make_telescope", refuse)
    return model, attempts


@pytest.mark.parametrize(
    "act",
    [
        dir,
        repr,
        str,
        lambda model: model._repr_html_(),
        lambda model: make_pipeline(StandardScaler(), model)._repr_html_(),
        lambda model: repr(make_pipeline(StandardScaler(), model)),
        lambda model: pickle.loads(pickle.dumps(model)),
        clone,
        lambda model: model.get_params(),
        lambda model: model.predict(np.zeros((2, 4))),
    ],
    ids=["dir", "repr", "str", "html", "html in pipeline", "repr in pipeline", "pickle", "clone", "params", "predict"],
)
def test_representations_and_copies_compute_nothing(unasked, act):
    model, attempts = unasked
    act(model)
    assert not attempts
    with pytest.raises(RuntimeError, match="a telescope was made"):
        _ = model.kernel_weights_
    assert attempts


def test_dir_lacks_the_costly_names_and_has_the_others(fitted):
    listed = set(dir(fitted))
    assert not listed & COSTLY
    assert {"kernel_weights", "effective_params", "n_stages_", "predict"} <= listed
    unknown = {"self_influence_"} if getattr(fitted, "path_smooth", 0) else set()
    assert {name for name in COSTLY if not hasattr(fitted, name)} == unknown


def test_nothing_costly_exists_before_fit(make, query):
    model = make()
    for name in COSTLY:
        with pytest.raises((NotFittedError, AttributeError)):
            getattr(model, name)
    for ask in (model.predict, model.kernel_weights, model.staged_predict, model.effective_params):
        with pytest.raises(NotFittedError):
            ask(query)


def test_costly_attributes_are_kept_and_dropped_by_the_next_fit(make, data):
    model = make().fit(*data)
    weights, telescope = model.kernel_weights_, model.telescope_
    assert model.kernel_weights_ is weights
    assert model.telescope_ is telescope
    p = model.effective_params_
    model.fit(data[0][:30], data[1][:30])
    assert model.telescope_ is not telescope
    assert model.kernel_weights_.shape == (30, 30)
    assert model.effective_params_ != p


# Copies and composition


def test_pickled_estimator_answers_the_same(fitted, query):
    before = answers(fitted, query)
    loaded = pickle.loads(pickle.dumps(fitted))
    assert "_telescope" not in vars(loaded)
    assert "_kernel_weights" not in vars(loaded)
    for name, value in answers(loaded, query).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_clones_keep_parameters_and_nothing_fitted(fitted, data, query):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "n_stages_")
    np.testing.assert_array_equal(copy.fit(*data).predict(query), fitted.predict(query))


def test_pipeline_gives_weights_of_the_transformed_query(make, data, query):
    pipe = make_pipeline(StandardScaler(), make()).fit(*data)
    transformed = pipe[:-1].transform(query)
    rebuilt = pipe[-1].kernel_weights(transformed) @ data[1] + pipe[-1].offset(transformed)
    tolerance = rebuilding_tolerance(pipe[-1], data[1])
    np.testing.assert_allclose(rebuilt, pipe.predict(query), rtol=0, atol=tolerance)


def test_transformed_target_has_weights_in_units_of_its_own_label(make, data, query):
    model = TransformedTargetRegressor(make(), transformer=StandardScaler()).fit(data[0], 100 + 10 * data[1])
    inner = model.regressor_
    scaled = (data[1] - data[1].mean()) / data[1].std()
    rebuilt = inner.kernel_weights(query) @ scaled + inner.offset(query)
    expected = (model.predict(query) - 100 - 10 * data[1].mean()) / (10 * data[1].std())
    np.testing.assert_allclose(rebuilt, expected, rtol=0, atol=2e-4)


def test_grid_search_and_cross_validation(make, data):
    search = GridSearchCV(make(record=False), {"random_state": [0, 1]}, cv=2, error_score="raise").fit(*data)
    scores = cross_validate(make(), *data, cv=2, error_score="raise", return_estimator=True)
    assert search.cv_results_["mean_test_score"][0] == pytest.approx(scores["test_score"].mean())
    assert all(model.effective_params_ > 0 for model in scores["estimator"])


def test_data_frames_give_names_and_the_same_answers(make, data, query):
    names = list("abcd")
    frame, query_frame = (pd.DataFrame(X, columns=names) for X in (data[0], query))
    model, plain = make().fit(frame, pd.Series(data[1])), make().fit(*data)
    assert model.feature_names_in_.tolist() == names
    assert model.n_features_in_ == 4
    np.testing.assert_array_equal(model.predict(query_frame), plain.predict(query))
    np.testing.assert_array_equal(model.kernel_weights(query_frame), plain.kernel_weights(query))
    for ask in (model.predict, model.kernel_weights, model.effective_params, model.staged_predict):
        with pytest.raises(ValueError, match="feature names"):
            ask(query_frame[list("abdc")])


def test_sample_weights_are_routed_through_a_pipeline(make, data, query):
    sample_weight = np.linspace(0, 2, N_TRAIN)
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(
            StandardScaler().set_fit_request(sample_weight=False), make().set_fit_request(sample_weight=True)
        )
        routed = pipe.fit(*data, sample_weight=sample_weight).predict(query)
    scaler = StandardScaler().fit(data[0])
    X, rows = scaler.transform(data[0]), scaler.transform(query)
    np.testing.assert_array_equal(routed, make().fit(X, data[1], sample_weight=sample_weight).predict(rows))
    assert np.abs(routed - make().fit(X, data[1]).predict(rows)).max() > 1e-3


def test_without_a_record_predictions_stay_and_explanations_say_why_not(make, data, query):
    model = make(record=False).fit(*data)
    for record in (False, True):  # switched on after the fit, it is not there
        model.set_params(record=record)
        np.testing.assert_array_equal(model.predict(query), make().fit(*data).predict(query))
        assert not any(hasattr(model, name) for name in COSTLY)
        questions = model.kernel_weights, model.offset, model.effective_params, model.kernel_norms, model.staged_predict
        for ask in questions:
            with pytest.raises(RecordDroppedError, match="Fit again with record=True"):
                ask(query)


def test_without_a_record_no_training_rows_are_kept(make, data):
    model = make(record=False).fit(*data)
    assert not any(np.shares_memory(value, data[0]) for value in vars(model).values() if isinstance(value, np.ndarray))
    assert len(pickle.dumps(model)) < len(pickle.dumps(make().fit(*data)))


def test_refitting_without_a_record_forgets_the_old_run(make, data, query):
    model = make().fit(*data)
    assert model.kernel_weights_.shape == (N_TRAIN, N_TRAIN)
    model.set_params(record=False).fit(*data)
    with pytest.raises(ValueError, match="record=True"):
        model.kernel_weights(query)
    assert not hasattr(model, "kernel_weights_")


# Randomness


def test_same_seed_same_model_other_seed_other_model(data, query):
    for build in (make_net, lambda **settings: make_trees(colsample_bytree=0.5, **settings)):
        first, second, third = (build(random_state=seed).fit(*data) for seed in (3, 3, 4))
        np.testing.assert_array_equal(first.kernel_weights(query), second.kernel_weights(query))
        assert np.abs(first.kernel_weights(query) - third.kernel_weights(query)).max() > 1e-3


@pytest.mark.parametrize(
    "model",
    [make_trees(random_state=None, early_stopping_rounds=3), make_net(random_state=None, early_stopping=True)],
    ids=["trees", "net"],
)
def test_no_seed_draws_one_and_keeps_it(model, data, query):
    first, second = (clone(model).fit(*data) for _ in range(2))
    assert first.seed_ != second.seed_
    again = clone(model).set_params(random_state=first.seed_).fit(*data)
    np.testing.assert_array_equal(again.kernel_weights(query), first.kernel_weights(query))


def test_asking_twice_gets_the_same_answer(fitted, query):
    first, second = (fitted.effective_params(query, n_probes=4, return_se=True) for _ in range(2))
    assert first == second
    assert fresh(fitted).effective_params(query, n_probes=4, return_se=True) == first


@pytest.mark.parametrize("random_state", [np.random.RandomState, np.random.default_rng])
def test_random_states_are_drawn_from(make, data, query, random_state):
    first, second = (make(random_state=random_state(5)).fit(*data) for _ in range(2))
    assert first.seed_ == second.seed_
    np.testing.assert_array_equal(first.predict(query), second.predict(query))


@pytest.mark.parametrize("random_state", [-1, "seed", 2**33])
def test_bad_random_states_are_named(make, data, random_state):
    with pytest.raises(ValueError, match="random_state"):
        make(random_state=random_state).fit(*data)


@pytest.mark.parametrize("random_state", [0, None])
def test_global_random_states_and_thread_counts_stay_untouched(make, data, query, random_state):
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch_state, threads = torch.get_rng_state(), torch.get_num_threads()
    model = make(random_state=random_state).fit(*data)
    answers(model, query)
    assert model.effective_params(query, n_probes=3) > 0
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert torch.get_num_threads() == threads


# Refusals


def test_oversize_weights_are_refused_with_size_and_alternative(fitted, query, monkeypatch):
    model = fresh(fitted)
    _ = model.telescope_
    monkeypatch.setattr(_memory, "available_memory", lambda: _memory.Memory(4000, "a test's"))
    with pytest.raises(MemoryError, match=r"(?s)GiB.*effective_params\(X, n_probes=32\)"):
        model.kernel_weights(query)
    with pytest.raises(MemoryError, match="GiB"):
        _ = model.kernel_weights_
    assert model.kernel_weights(query[:2]).shape == (2, N_TRAIN)
    assert model.effective_params(query, n_probes=2) > 0


def with_value(array, value):
    array = array.copy()
    array.flat[3] = value
    return array


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_labels_must_be_finite(make, data, value):
    with pytest.raises(ValueError, match="Input y contains"):
        make().fit(data[0], with_value(data[1], value))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_rows_must_not_be_infinite(make, data, query, value):
    with pytest.raises(ValueError, match="Input X contains infinity"):
        make().fit(with_value(data[0], value), data[1])
    with pytest.raises(ValueError, match="Input X contains infinity"):
        make().fit(*data).kernel_weights(with_value(query, value))


def test_missing_values_are_refused_by_nets_and_taken_by_trees(data, query):
    X, holed = with_value(data[0], np.nan), with_value(query, np.nan)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        make_net().fit(X, data[1])
    with pytest.raises(ValueError, match="Input X contains NaN"):
        make_net().fit(*data).kernel_weights(holed)
    model = make_trees().fit(X, data[1])
    rebuilt = model.kernel_weights(holed) @ data[1]
    np.testing.assert_allclose(rebuilt, model.predict(holed), atol=rebuilding_tolerance(model, data[1]))


@pytest.mark.parametrize(
    ("X", "y", "sample_weight", "message"),
    [
        (np.zeros((5, 2)), np.zeros(4), None, "inconsistent numbers of samples"),
        (np.zeros((5, 2)), np.zeros(5), np.ones(4), "sample_weight"),
        (np.zeros((5, 2)), np.zeros(5), -np.ones(5), "[Nn]egative"),
        (np.zeros((5, 2)), np.zeros(5), np.zeros(5), "[Ss]ample.weight"),
        (np.zeros((5, 2)), np.zeros((5, 2, 2)), None, "(dim|array)"),
        (np.zeros(5), np.zeros(5), None, "2D array"),
        (np.zeros((0, 2)), np.zeros(0), None, "0 sample"),
        (np.array([["a"], ["b"]]), np.zeros(2), None, "convert string"),
    ],
)
def test_wrong_training_data_get_a_value_error(make, X, y, sample_weight, message):
    with pytest.raises(ValueError, match=message):
        make().fit(X, y, sample_weight=sample_weight)


def test_sparse_rows_are_refused(make, data, query):
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        make().fit(sparse.csr_array(data[0]), data[1])
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        make().fit(*data).kernel_weights(sparse.csr_array(query))


def test_queries_with_other_columns_are_refused(fitted, query):
    questions = (
        fitted.predict,
        fitted.kernel_weights,
        fitted.offset,
        fitted.effective_params,
        fitted.staged_effective_params,
        fitted.staged_predict,
        fitted.staged_kernel,
        fitted.kernel_norms,
        fitted.kernel_norm_ratio,
        fitted.approximation_error,
    )
    for ask in questions:
        with pytest.raises(ValueError, match="features"):
            ask(query[:, :3])


@pytest.mark.parametrize(
    ("n_probes", "error"),
    [(0, ValueError), (1, ValueError), (-5, ValueError), (True, TypeError), ("x", TypeError), (2.5, TypeError)],
)
def test_bad_numbers_of_probes_are_named(fitted, query, n_probes, error):
    for ask in (fitted.effective_params, fitted.staged_effective_params):
        with pytest.raises(error, match="n_probes"):
            ask(query, n_probes=n_probes)


def test_unknown_approximations_are_refused(fitted, query):
    with pytest.raises(ValueError, match="approximation must be None"):
        fitted.staged_predict(query, approximation="quadratic")


def test_trees_have_no_linearised_model(data, query):
    with pytest.raises(ValueError, match="approximation='linearized' does not exist"):
        make_trees().fit(*data).staged_predict(query, approximation="linearized")
