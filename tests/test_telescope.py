"""What a telescope derives from its interface, on one that is small enough to work by hand; stages; memory."""

import re

import numpy as np
import pytest
from conftest import make_net, make_trees, random_rows
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn import config_context

from telescoping_sklearn import _memory
from telescoping_sklearn._answers import AnsweringTelescope
from telescoping_sklearn._estimates import AUTO_PROBES, _mean_and_error, choose_sum, probe_blocks
from telescoping_sklearn._telescope import Plan, Start, Telescope, resolve_stages

N = 6


class HandMade(AnsweringTelescope):
    """Stage t adds a fixed matrix to S; one constant is the offset; the last row is not trained on."""

    cost = 1.0

    def __init__(self):
        rng = np.random.default_rng(0)
        trained = np.arange(N) < N - 1
        self.parts = rng.normal(size=(3, N, N)) * trained
        super().__init__(y=rng.normal(size=N), trained=trained, seed=5)

    @property
    def n_stages(self):
        return 3

    def weights(self, stage):
        return self.parts[:stage].sum(axis=0)

    def rows(self, X):
        return np.arange(N) if X is None else X[:, 0].astype(int)

    def start(self, X):
        return Start(np.zeros(N), np.full(self.n_query(X), 0.5))

    def staged_kernel(self, X, stages=None):
        for stage in resolve_stages(stages, 3, with_start=False):
            yield sparse.csr_array(self.parts[stage - 1][self.rows(X)])

    def apply_response(self, plan, X, V, offset, stages):
        for stage in stages:
            response = self.weights(stage)[self.rows(X)] @ V
            yield np.column_stack([response, np.full(len(response), 0.5)]) if offset else response

    def staged_model(self, X, stages=None):
        for response in self.staged_response(X, self.y[:, None], True, stages):
            yield response.sum(axis=1) + 0.25

    def staged_telescoping(self, X, stages=None):
        for prediction in self.staged_model(X, stages):
            yield prediction - 2.0

    def forward_plan(self, n_query, n_columns):
        return Plan(direction="forward", operations=self.cost * n_columns, column_bytes=8.0 * N)


@pytest.fixture
def telescope():
    return HandMade()


QUERY = np.array([[2.0], [5.0], [0.0]])


def test_weights_offset_and_reconstruction_come_from_the_response(telescope):
    S = telescope.parts.sum(axis=0)
    np.testing.assert_allclose(telescope.kernel_weights(None), S)
    np.testing.assert_allclose(telescope.kernel_weights(QUERY), S[[2, 5, 0]])
    np.testing.assert_allclose(telescope.offset(QUERY), 0.5)
    np.testing.assert_allclose(telescope.reconstruct(QUERY), S[[2, 5, 0]] @ telescope.y + 0.5)


def test_effective_parameters_count_the_rows_trained_on(telescope):
    staged = telescope.staged_effective_params(QUERY, n_probes=None)
    expected = [5 / 3 * (telescope.weights(stage)[[2, 5, 0]] ** 2).sum() for stage in (1, 2, 3)]
    np.testing.assert_allclose(staged.value, expected)
    np.testing.assert_array_equal(staged.standard_error, 0)


def test_training_summary_averages_over_the_rows_trained_on(telescope):
    p, trace = telescope.training_summary(n_probes=None)
    S = telescope.parts.sum(axis=0)[:5]
    assert p.value == pytest.approx((S**2).sum())
    assert trace.value == pytest.approx(np.trace(S))


def leading_and_probes(telescope, n_probes, first=0):
    """Columns that an estimate carries, the leading directions apart."""
    columns = np.hstack(list(probe_blocks(telescope, None, first, n_probes)[1]))
    return np.split(columns, [columns.shape[1] - (n_probes - first)], axis=1)


def test_estimates_are_the_leading_directions_and_the_mean_of_probes(telescope):
    (p,), (se,) = telescope.staged_effective_params(QUERY, stages=[3], n_probes=8)
    leading, probes = leading_and_probes(telescope, 8)
    energy = [5 / 3 * ((telescope.weights(3)[[2, 5, 0]] @ part) ** 2).sum(axis=0) for part in (leading, probes)]
    assert p == pytest.approx(energy[0].sum() + energy[1].mean())
    plain = energy[1].std(ddof=1) / np.sqrt(8)
    assert plain <= se <= 4 * plain
    p, trace = telescope.training_summary(n_probes=8)
    S = telescope.weights(3)[:5]
    forms = [np.einsum("ij,ij->j", part[:5], S @ part) for part in (leading, probes)]
    assert trace.value == pytest.approx(forms[0].sum() + forms[1].mean())


@pytest.mark.parametrize("weights", [None, [1, 1, 2, 0.5, 3, 0], [0, 0, 0, 1, 0, 0]])
def test_probes_complete_the_leading_directions(telescope, weights, monkeypatch):
    if weights is not None:
        monkeypatch.setattr(HandMade, "row_weights", np.array(weights, dtype=float))
        telescope.trained = np.array(weights) > 0
    trained = telescope.trained
    leading, probes = leading_and_probes(telescope, 20000)
    assert not leading[~trained].any()
    assert not probes[~trained].any()
    r, n = leading.shape[1], trained.sum()
    np.testing.assert_allclose(leading.T @ leading, np.eye(r), atol=1e-12)
    np.testing.assert_allclose(leading @ (leading.T @ telescope.row_weights), telescope.row_weights, atol=1e-12)
    np.testing.assert_allclose(leading.T @ probes, 0, atol=1e-10)
    np.testing.assert_allclose((probes**2).sum(axis=0), n - r)  # so that the identity has its trace without error
    whole = leading @ leading.T + probes @ probes.T / 20000
    np.testing.assert_allclose(whole, np.diag(trained.astype(float)), atol=0.04)


def test_what_the_leading_directions_carry_is_known_without_error(telescope, monkeypatch):
    monkeypatch.setattr(HandMade, "row_weights", np.array([1, 1, 2, 0.5, 3, 0.0]))
    left = np.arange(1.0, N + 1)
    telescope.parts = 0.1 * np.outer(left, telescope.row_weights)[None].repeat(3, axis=0)
    for exact, found in zip(telescope.training_summary(n_probes=None), telescope.training_summary(2), strict=True):
        assert found.value == pytest.approx(exact.value, rel=1e-12)
        assert found.standard_error < 1e-12 * found.value


def test_one_row_has_no_random_directions(telescope):
    telescope.trained = np.arange(N) == 2
    telescope.parts = telescope.parts * telescope.trained
    exact, found = (telescope.training_summary(n_probes=count) for count in (None, 5))
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-12)


def errors_in_standard_errors(directions, count):
    """Errors of means of chi-squared variables, in their standard errors: what few directions come to."""
    values, errors = _mean_and_error(np.random.default_rng(0).chisquare(directions, size=(20000, count)))
    return (values - directions) / errors


@pytest.mark.parametrize("directions", [1, 2, 5, 100])
@pytest.mark.parametrize(("count", "most"), [(2, 0.14), (4, 0.03), (8, 0.005), (16, 0.002), (32, 0.0012), (64, 0.001)])
def test_estimates_are_four_standard_errors_off_as_rarely_as_is_said(directions, count, most):
    assert (np.abs(errors_in_standard_errors(directions, count)) > 4).mean() <= most


def test_standard_errors_of_many_directions_are_hardly_widened():
    assert 0.95 <= errors_in_standard_errors(200, 32).std() <= 1.05


def test_equal_probes_have_no_standard_error():
    np.testing.assert_array_equal(_mean_and_error(np.full((3, 8), 2.5)), [[2.5] * 3, [0.0] * 3])


def test_many_probes_find_the_exact_values(telescope):
    exact, estimated = (telescope.training_summary(n_probes=count) for count in (None, 20000))
    for true, estimate in zip(exact, estimated, strict=True):
        assert 0 < estimate.standard_error < 0.05 * abs(true.value) + 0.05
        assert abs(estimate.value - true.value) < 4 * estimate.standard_error


def test_probes_are_the_same_however_many_blocks_they_come_in(telescope):
    whole = np.hstack(list(probe_blocks(telescope, None, 0, 7)[1]))
    with config_context(working_memory=8.0 * N * 2 / 2**20):
        blocks = list(probe_blocks(telescope, None, 0, 7)[1])
    assert len(blocks) == 4
    np.testing.assert_array_equal(np.hstack(blocks), whole)


def test_kernel_norm_ratio_compares_stage_means_of_the_largest_norms(telescope):
    norms = np.sqrt((telescope.parts**2).sum(axis=2))
    np.testing.assert_allclose(telescope.kernel_norms(QUERY), norms[:, [2, 5, 0]])
    expected = norms[:, [2, 5, 0]].max(axis=1).mean() / norms[:, :5].max(axis=1).mean()
    assert telescope.kernel_norm_ratio(QUERY) == pytest.approx(expected)
    assert telescope.kernel_norm_ratio(QUERY, stages=[2]) == pytest.approx(
        norms[1, [2, 5, 0]].max() / norms[1, :5].max()
    )


def test_kernel_norm_ratio_above_1_allows_smaller_kernels_at_single_stages(telescope):
    telescope.parts = np.zeros((2, N, N))
    telescope.parts[0, :, 0], telescope.parts[1, :, 0] = [3, 0, 0, 0, 0, 2], [0.5, 0, 0, 0, 0, 2]
    telescope.parts = np.concatenate([telescope.parts, telescope.parts[:1]])
    assert telescope.kernel_norm_ratio(np.array([[5.0]]), stages=[1, 2]) == pytest.approx(4 / 3.5)


def test_approximation_error_reports_both_gaps_by_stage(telescope):
    error = telescope.approximation_error(QUERY)
    assert list(error.by_stage.index) == [1, 2, 3]
    np.testing.assert_allclose(error.by_stage, np.tile([2.0, 2.0, 0.25, 0.25], (3, 1)))
    assert (error.telescoping_mean, error.reconstruction_max) == pytest.approx((2.0, 0.25))


def test_automatic_answers_are_exact_only_where_that_is_cheap(telescope):
    assert isinstance(choose_sum(telescope, "auto", 3), Plan)
    telescope.cost = 1e13
    assert choose_sum(telescope, "auto", 3) == AUTO_PROBES
    telescope.cost = 1.0
    with config_context(working_memory=1e-5):
        assert choose_sum(telescope, "auto", 3) == AUTO_PROBES


# Stages


@given(asked=st.integers(1, 300), n_stages=st.integers(1, 200))
@hypothesis_settings(deadline=None)
def test_a_number_of_stages_is_evenly_spaced_and_ends_with_the_last(asked, n_stages):
    stages = resolve_stages(asked, n_stages)
    assert len(stages) == min(asked, n_stages)
    assert stages[-1] == n_stages
    gaps = np.diff(stages, prepend=0)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_stages_as_asked():
    assert resolve_stages(None, 3).tolist() == [1, 2, 3]
    assert resolve_stages([0, 2], 3).tolist() == [0, 2]
    assert resolve_stages(np.array([3], dtype=np.uint8), 3).tolist() == [3]


# Memory


def test_blocks_fit_the_working_memory():
    with config_context(working_memory=1):
        assert _memory.working_memory_bytes() == 2**20
        assert _memory.items_per_block(2**18, 100) == 4
        assert _memory.items_per_block(2**18, 3) == 3
        assert _memory.items_per_block(2**30, 3) == 1


# Plans


PLANNED = {
    "weights": (lambda model, X: model.kernel_weights(X), 1, 1),
    "examples": (lambda model, X: model.top_examples(X, k=2), 1, 1),
    "offset": (lambda model, X: model.offset(X), 1, 0),
    "approximation error": (lambda model, X: model.approximation_error(X, stages=3), 1, 0),
    "automatic effective parameters": (lambda model, X: model.effective_params(X), 1, 0),
    "exact effective parameters": (lambda model, X: model.effective_params(X, n_probes=None), 1, 0),
    "a group of probes": (lambda model, X: model.effective_params(X, n_probes=8), 1, 0),
    "two groups of probes": (lambda model, X: model.effective_params(X, n_probes=40), 2, 0),
    "training summary": (lambda model, X: model.staged_training_summary(), 1, 0),
}


@pytest.mark.parametrize("working_memory", [1024, 0.01], ids=["one block", "many blocks"])
@pytest.mark.parametrize("question", PLANNED)
@pytest.mark.parametrize("family", [make_trees, make_net], ids=["trees", "net"])
def test_a_question_is_planned_once(family, question, working_memory, monkeypatch):
    X, y = random_rows(60)
    model = family().fit(X, y)
    telescope = model.telescope_
    assert telescope.last_sound_stage == telescope.n_stages  # a pilot is a question of its own
    counts = dict.fromkeys(("forward_plan", "backward_plan"), 0)
    for name in counts:
        plan = getattr(telescope, name)

        def counting(*given, name=name, plan=plan):
            counts[name] += 1
            return plan(*given)

        monkeypatch.setattr(telescope, name, counting)
    ask, forward, backward = PLANNED[question]
    with config_context(working_memory=working_memory):
        ask(model, X[:20])
    # What "auto" may not answer exactly is planned again for its probes.
    estimated = working_memory < 1 and question.split()[0] in ("automatic", "training")
    assert counts == {"forward_plan": forward + estimated, "backward_plan": backward}


@pytest.mark.parametrize("family", [make_trees, make_net], ids=["trees", "net"])
def test_plans_say_what_they_are(family):
    telescope = family().fit(*random_rows(60)).telescope_
    plan = telescope.plan(np.zeros((1, 4)))
    assert re.fullmatch(rf"{type(plan).__name__}\(backward.*: \S+ operations, \S+ MiB a column\)", repr(plan))
    assert plan.route in repr(plan)


CAPABILITIES = {
    "has_adjoint": ("backward_plan", "apply_adjoint"),
    "has_linearized": ("staged_linearized",),
}


@pytest.mark.parametrize("make", [HandMade, lambda: small(make_net), lambda: small(make_trees)])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_what_a_telescope_declares_it_computes_and_the_interface_names(make, capability):
    telescope = make()
    for method in CAPABILITIES[capability]:
        of_interface = getattr(Telescope, method)
        has = getattr(type(telescope), method) is not of_interface
        assert has == getattr(telescope, capability)
        if not has:
            with pytest.raises(NotImplementedError):
                of_interface(telescope, *[None] * (of_interface.__code__.co_argcount - 1))


def small(make):
    return make().fit(*random_rows(20)).telescope_
