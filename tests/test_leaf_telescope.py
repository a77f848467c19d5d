"""The tree engine: every route, group size, block and setting against each other and against the leaf loops."""

import numpy as np
import pytest
from conftest import make_trees, random_rows
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracles import leaf_loop_weights
from sklearn import config_context

from telescoping_sklearn._estimates import choose_sum
from telescoping_sklearn.boosting._leaf_carriers import LeafCarrier, cheapest_group, moment_steps
from telescoping_sklearn.boosting._leaf_space import TreeGroup, stacked
from telescoping_sklearn.boosting._leaf_telescope import LeafSums, LeafTelescope

N, M = 60, 20
SETTINGS = {
    "plain": {},
    "ridge": {"reg_lambda": 2.0},
    "bags": {"subsample": 0.6, "subsample_freq": 2},
    "path smoothing": {"path_smooth": 2.0},
    "early stopping": {"early_stopping_rounds": 3, "validation_fraction": 0.2, "n_estimators": 60},
    "one tree": {"n_estimators": 1},
    "constant tree": {"min_child_samples": 100},
}


def forward_weights(telescope, X, size, stage=None):
    """S_t by carrying unit labels forward in groups of ``size`` trees."""
    stage = telescope.n_stages if stage is None else stage
    telescope._kept_carrier = None
    unit = np.eye(telescope.n_samples) * telescope.trained
    start = telescope._start_response(None, unit, False)
    values, _ = LeafCarrier(telescope.ensemble, size).apply(unit, start, stage)
    query = telescope._start_response(X, unit, False)
    return next(telescope._look_up(telescope.leaves(X), values, query, np.array([stage])))


def backward_weights(telescope, X, size):
    """S by carrying queries back in groups of ``size`` trees."""
    reached = stacked(telescope.leaves(X), telescope._offsets).T.toarray()
    return LeafCarrier(telescope.ensemble, size).apply_adjoint(reached).T


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_kernel_norms_lie_within_what_the_training_rows_have(rows, settings):
    model = make_trees(**settings).fit(*rows)
    telescope = model.telescope_
    largest = model.kernel_norms(rows[0])[:, telescope.trained].max(axis=1)
    far = 10.0 ** np.arange(8)[:, None] * np.random.default_rng(5).normal(size=(8, rows[0].shape[1]))
    norms = model.kernel_norms(far)
    assert (norms <= largest[:, None] + 1e-12).all()
    assert (norms >= 1 / np.sqrt(telescope.n_trained) - 1e-12).all()
    assert model.kernel_norm_ratio(far) <= 1 + 1e-12


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("weighted", [False, True])
def test_both_routes_give_the_same_weights_whatever_the_group(rows, others, settings, weighted):
    if weighted and settings.get("path_smooth"):
        pytest.skip("path smoothing takes no unequal weights")
    sample_weight = np.r_[0.0, 0.0, np.random.default_rng(0).gamma(1.0, size=N - 2)] if weighted else None
    model = make_trees(**settings).fit(*rows, sample_weight=sample_weight)
    telescope = model.telescope_
    expected = forward_weights(telescope, others, 1)
    for size in {1, 2, 5, telescope.n_stages}:
        np.testing.assert_allclose(forward_weights(telescope, others, size), expected, atol=1e-13)
        np.testing.assert_allclose(backward_weights(telescope, others, size), expected, atol=1e-13)
    np.testing.assert_allclose(model.kernel_weights(others), expected, atol=1e-13)
    np.testing.assert_allclose(expected @ rows[1], model.predict(others), rtol=0, atol=1e-5)


@given(
    num_leaves=st.integers(2, 20),
    n_estimators=st.integers(1, 15),
    reg_lambda=st.sampled_from([0.0, 1.5]),
    zero_weights=st.integers(0, 20),
    size=st.integers(1, 15),
    working_memory=st.sampled_from([0.001, 0.05, 64.0]),
    block_bytes=st.sampled_from([1, 4096, 2**20]),
    seed=st.integers(0, 2**31 - 1),
)
@hypothesis_settings(deadline=None, max_examples=25)
def test_routes_blocks_and_memory_give_the_weights_of_the_leaf_loops(
    zero_weights, size, working_memory, block_bytes, seed, **settings
):
    X, y = random_rows(40, seed=seed)
    query = random_rows(7, seed=seed + 1)[0]
    sample_weight = np.random.default_rng(seed).exponential(size=40)
    sample_weight[:zero_weights] = 0
    model = make_trees(**settings, min_child_samples=2).fit(X, y, sample_weight=sample_weight)
    training, reached = leaf_loop_weights(model, X, query, sample_weight)
    telescope = model.telescope_
    with pytest.MonkeyPatch.context() as patched, config_context(working_memory=working_memory):
        patched.setattr("telescoping_sklearn.boosting._leaf_carriers._BLOCK_BYTES", block_bytes)
        patched.setattr("telescoping_sklearn.boosting._leaf_space._PAIRS_AT_ONCE", 7)
        np.testing.assert_allclose(forward_weights(telescope, query, size), reached, atol=1e-12)
        np.testing.assert_allclose(backward_weights(telescope, query, size), reached, atol=1e-12)
        np.testing.assert_allclose(telescope.kernel_weights(query), reached, atol=1e-12)
        np.testing.assert_allclose(telescope.apply_adjoint(telescope.backward_plan(40), None), training, atol=1e-12)
        patched.setattr(telescope, "has_adjoint", False)
        np.testing.assert_allclose(telescope.kernel_weights(None), training, atol=1e-12)


def test_more_rows_than_a_block_are_carried_as_one(rows):
    X, y = random_rows(2000, seed=5)
    model = make_trees(n_estimators=6).fit(X, y)
    columns = np.random.default_rng(0).normal(size=(2000, 3))
    whole = next(model.telescope_.staged_response(None, columns, stages=[6]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("telescoping_sklearn.boosting._leaf_carriers._BLOCK_BYTES", 1)
        patched.setattr("telescoping_sklearn.boosting._leaf_telescope._ROWS_AT_ONCE", 300)
        blocks = next(model.telescope_.staged_response(None, columns, stages=[6]))
        looked_up = list(model.telescope_.staged_response(X, columns, stages=[2, 6]))[-1]
    np.testing.assert_allclose(blocks, whole, atol=1e-12)
    np.testing.assert_allclose(looked_up, whole, atol=1e-12)


def test_a_stage_inside_a_group_is_the_ensemble_cut_short(rows, others):
    telescope = make_trees().fit(*rows).telescope_
    short = make_trees(n_estimators=5).fit(*rows)
    np.testing.assert_allclose(
        forward_weights(telescope, others, 12, stage=5), short.kernel_weights(others), atol=1e-13
    )


def test_stages_inside_a_group_are_answered_for_training_rows_too(rows, others):
    telescope = make_trees().fit(*rows).telescope_
    short = make_trees(n_estimators=5).fit(*rows)
    for X, expected in ((None, short.kernel_weights_), (others, short.kernel_weights(others))):
        (single,) = telescope.staged_response(X, np.eye(N), stages=[5])
        _, among = telescope.staged_response(X, np.eye(N), stages=[2, 5])
        np.testing.assert_allclose(single, expected, atol=1e-13)
        np.testing.assert_allclose(among, expected, atol=1e-13)


def test_groups_solve_the_triangular_system_and_its_transpose(rows):
    telescope = make_trees(path_smooth=1.0).fit(*rows).telescope_
    ensemble, carrier = telescope.ensemble, LeafCarrier(telescope.ensemble, telescope.n_stages)
    (group,) = carrier.groups
    rates = np.zeros((group.n_leaves, group.n_leaves))
    for t in range(ensemble.n_stages):
        own = slice(group.offsets[t], group.offsets[t + 1])
        rates[own, own] = ensemble.rates[t]
    dense = np.linalg.solve(np.eye(group.n_leaves) + rates @ group.coupling, rates)
    sums = np.random.default_rng(0).normal(size=(group.n_leaves, 3))
    np.testing.assert_allclose(group.solve(sums.copy()), dense @ sums, atol=1e-12)
    np.testing.assert_allclose(group.solve_adjoint(sums.copy()), dense.T @ sums, atol=1e-12)


def test_coupling_is_the_weight_of_shared_rows(rows):
    sample_weight = np.linspace(0, 2, N)
    ensemble = make_trees(n_estimators=4).fit(*rows, sample_weight=sample_weight).telescope_.ensemble
    carrier = LeafCarrier(ensemble, 4)
    group: TreeGroup = carrier.groups[0]
    for t in range(4):
        for s in range(4):
            block = group.coupling[group.offsets[t] : group.offsets[t + 1], group.offsets[s] : group.offsets[s + 1]]
            shared = [
                [
                    ensemble.row_weights[(ensemble.leaves[t] == later) & (ensemble.leaves[s] == earlier)].sum()
                    for earlier in range(ensemble.n_leaves[s])
                ]
                for later in range(ensemble.n_leaves[t])
            ]
            np.testing.assert_allclose(block, shared if s < t else np.zeros_like(block), atol=1e-12)


# Exact sums in the space of leaves


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_are_those_of_the_staged_weights(rows, others, settings, weighted):
    if weighted and settings.get("path_smooth"):
        pytest.skip("path smoothing takes no unequal weights")
    sample_weight = np.r_[0.0, 0.0, np.random.default_rng(1).gamma(1.0, size=N - 2)] if weighted else None
    model = make_trees(**settings).fit(*rows, sample_weight=sample_weight)
    telescope = model.telescope_
    unit = np.eye(N) * telescope.trained
    moments = telescope.moments
    reached = np.stack(list(telescope.staged_response(others, unit)))
    squares = (reached**2).sum(axis=(1, 2))
    np.testing.assert_allclose(moments.squared_weights(telescope.leaves(others)), squares, rtol=1e-10)
    training = np.stack(list(telescope.staged_response(None, unit)))
    diagonals = training.diagonal(axis1=1, axis2=2)
    np.testing.assert_allclose(np.stack(list(moments.staged_own_weights())), diagonals, atol=1e-12)
    np.testing.assert_allclose(moments.traces(), diagonals.sum(axis=1), rtol=1e-10)


@pytest.mark.parametrize("settings", [SETTINGS["plain"], SETTINGS["early stopping"]], ids=["plain", "held out"])
def test_exact_answers_are_the_same_from_unit_columns(rows, others, settings, monkeypatch):
    telescope = make_trees(**settings).fit(*rows).telescope_
    subsets = [np.arange(5), np.arange(3, M)]
    asked = {"stages": [0, 2, telescope.n_stages], "n_probes": None}
    answers = []
    for sums in (LeafSums(telescope, 0.0), None):
        monkeypatch.setattr(telescope, "exact_sums", lambda n_query, sums=sums: sums)
        p = telescope.staged_effective_params(others, subsets=subsets, **asked)
        answers.append(
            [p, telescope.staged_effective_params(others, **asked), *telescope.staged_training_summary(**asked)]
        )
    for moments, columns in zip(*answers, strict=True):
        np.testing.assert_allclose(moments.value, columns.value, rtol=1e-10)
        np.testing.assert_array_equal(moments.standard_error, columns.standard_error)


# The plan


def test_the_plan_goes_back_for_few_queries_and_forward_for_many(rows):
    telescope = make_trees(n_estimators=40).fit(*rows).telescope_
    assert telescope.plan(np.zeros((1, 4))).direction == "backward"
    assert telescope.plan(np.zeros((10**5, 4))).direction == "forward"
    assert telescope.plan(np.zeros((1, 4)), n_columns=2).direction == "forward"
    few, many = telescope.plan(np.zeros((1, 4))), telescope.plan(np.zeros((50, 4)))
    assert few.operations < many.operations


def test_more_columns_are_worth_larger_groups_and_little_memory_is_not(rows):
    X, y = random_rows(3000, seed=6)
    ensemble = make_trees(n_estimators=60, num_leaves=31).fit(X, y).telescope_.ensemble
    sizes = [cheapest_group(ensemble, k).group for k in (1, 32, 1000)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    with config_context(working_memory=0.001):
        assert cheapest_group(ensemble, 1000).group == 1


def test_exact_sums_are_automatic_only_where_leaves_by_leaves_fits(rows):
    X, y = random_rows(3000, seed=6)
    telescope = make_trees(n_estimators=60, num_leaves=31).fit(X, y).telescope_
    assert isinstance(choose_sum(telescope, "auto", 3000), LeafSums)
    assert choose_sum(telescope, 7, 3000) == 7
    assert moment_steps(telescope.ensemble, 3000) > moment_steps(telescope.ensemble, 0)
    with config_context(working_memory=1):
        assert telescope.exact_sums(3000) is None
        assert choose_sum(telescope, "auto", 3000) == 32


# Interruption


def test_what_is_interrupted_leaves_the_answers_as_they_were(rows, others, monkeypatch):
    model = make_trees().fit(*rows)
    expected = [model.kernel_weights(others), model.effective_params(others, n_probes=None), model.degrees_of_freedom_]
    telescope, solve = model.telescope_, TreeGroup.solve
    telescope._kept_carrier = None
    del telescope.moments
    model._training_summary = None

    def interrupted(group, sums, offset=False):
        solve(group, sums)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TreeGroup, "solve", interrupted)
        patched.setattr(TreeGroup, "solve_adjoint", interrupted)
        for ask in (model.kernel_weights, model.effective_params):
            with pytest.raises(KeyboardInterrupt):
                ask(others)
    found = [model.kernel_weights(others), model.effective_params(others, n_probes=None), model.degrees_of_freedom_]
    for before, after in zip(expected, found, strict=True):
        np.testing.assert_array_equal(after, before)


def test_leaves_are_looked_up_in_blocks_of_rows(rows):
    X, y = rows[:2]
    model = make_trees().fit(X, y)
    expected = model.booster_.predict(X, pred_leaf=True).T
    with config_context(working_memory=1e-3):
        np.testing.assert_array_equal(model.telescope_._find_leaves(X), expected)
    assert model.telescope_._find_leaves(X[:0]).shape == (model.n_stages_, 0)


def test_columns_carried_for_some_rows_serve_others(rows, monkeypatch):
    X, y = rows[:2]
    telescope, fresh = (make_trees().fit(X, y).telescope_ for _ in range(2))
    carried, apply = [], LeafCarrier.apply
    monkeypatch.setattr(LeafCarrier, "apply", lambda self, *given: carried.append(given[2]) or apply(self, *given))
    probes, other = np.random.default_rng(0).choice([-1.0, 1.0], size=(2, len(y), 5))
    last = [telescope.n_stages]
    training = next(telescope.staged_response(None, probes, stages=last))
    found = next(telescope.staged_response(X[:7], probes, stages=last))
    early = list(telescope.staged_response(X[:7], probes, stages=[0, 3]))
    assert len(carried) == 1
    np.testing.assert_allclose(found, training[:7], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(early, list(fresh.staged_response(X[:7], probes, stages=[0, 3])))
    assert len(carried) == 2
    for changed in (other, probes[:, :4], 2 * probes):
        expected = next(fresh.staged_response(X[:7], changed.copy(), stages=last))
        np.testing.assert_array_equal(next(telescope.staged_response(X[:7], changed, stages=last)), expected)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_self_check_rebuilds_is_the_reconstruction(name):
    X, y = random_rows(N)
    telescope = make_trees(**SETTINGS[name]).fit(X, y).telescope_
    np.testing.assert_allclose(telescope.rebuilt(), telescope.reconstruct(None), atol=1e-12)


@pytest.mark.parametrize("n_outputs", [2, 3])
def test_trees_have_one_output(n_outputs):
    X, y = random_rows(N)
    telescope = make_trees().fit(X, y).telescope_
    several = {"y": np.column_stack([y] * n_outputs), "trained": telescope.trained, "seed": 0}
    with pytest.raises(ValueError, match=f"y has {n_outputs} outputs.*a telescope for each"):
        LeafTelescope(telescope.ensemble, telescope._find_leaves, telescope._tree_outputs, X, **several)
