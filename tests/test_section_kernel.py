"""Full-batch gradient descent with the kernel of a section held, against the recursion written out densely."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import make_net, random_rows
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn import config_context

from telescoping_sklearn.neural._path import RULES
from telescoping_sklearn.neural._section_kernel import doubles, full_batch, power_sum, power_sum_operations
from telescoping_sklearn.neural._sections import Sections
from telescoping_sklearn.neural._trajectory import Batches, RecordedBatches

N = 30
FULL = {"momentum": 0.0, "batch_size": "full", "max_iter": 24, "section": 1}
ENDS = np.array([1, 2, 5, 12, 20, 24])
STAGES = np.array([0, 1, 4, 5, 16, 24])


@pytest.fixture(scope="module")
def rows():
    X, y = random_rows(N, seed=5)
    return X, np.column_stack([y, X[:, 0] * y])


@pytest.fixture(scope="module")
def others():
    return random_rows(7, seed=6)[0]


def telescope_of(rows, *, ends=ENDS, n_outputs=1, weight=None, **settings):
    X, y = rows
    model = make_net(**FULL | settings).fit(X, y[:, 0] if n_outputs == 1 else y, sample_weight=weight)
    return model.telescope_._with_sections(Sections(ends, chosen=True))


def plan_of(telescope, direction, n_query, n_columns=N):
    (plan,) = (plan for plan in telescope.plans(direction, n_query, n_columns) if plan.form == "section kernel")
    return plan


def jacobian_at(path, theta, X):
    return path.tangent(theta, torch.from_numpy(X)).gradients().numpy()


def dense_recursion(telescope, X, V, stages, start):
    """F_t of queries, then of training rows, from one dense kernel a section and a loop over its updates."""
    path, o = telescope.path, telescope.n_outputs
    rows = np.concatenate([X, path.rows.numpy()])
    factors = np.repeat(path.row_weights.numpy() / N, o)  # rows of weight zero count in the batch
    found, response, first = {0: start}, start, 0
    for last in np.union1d(ENDS, stages[stages > 0]).tolist():
        theta, end, length = path.theta(first), path.theta(last), last - first
        kernel = 0.0
        for weight, place in RULES[path.rule]:
            outer = jacobian_at(path, theta + place * (end - theta), rows)
            inner = jacobian_at(path, theta + place * (1 - 1 / length) * (end - theta), path.rows.numpy())
            kernel = kernel + weight * outer @ inner.T
        inside = response.copy()
        for stage in range(first + 1, last + 1):
            rate = path.trajectory.learning_rate(stage)
            inside = inside + rate * kernel @ (factors[:, None] * (V - inside[len(X) * o :]))
        found[last] = inside
        if last in ENDS:
            response, first = inside, last
    return np.stack([found[stage] for stage in stages.tolist()])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("schedule", [None, partial(torch.optim.lr_scheduler.StepLR, step_size=7)], ids=["", "steps"])
def test_it_is_the_recursion_with_one_kernel_a_section(rows, others, rule, n_outputs, schedule):
    weight = np.linspace(0, 2, N)  # the first row has no weight
    telescope = telescope_of(rows, n_outputs=n_outputs, weight=weight, rule=rule, lr_schedule=schedule)
    V = np.eye(N * n_outputs)
    expected = dense_recursion(telescope, others, V, STAGES, np.zeros((len(V) + len(others) * n_outputs, len(V))))
    columns = V.reshape(N, *telescope.output_shape, -1)
    plan = plan_of(telescope, "forward", len(others))
    same = {"rtol": 1e-9, "atol": 1e-13}
    both = np.stack(list(telescope.apply_response_with_train(plan, others, columns, STAGES)))
    np.testing.assert_allclose(both.reshape(expected.shape), expected, **same)
    alone = np.stack(list(telescope.apply_response(plan, others, columns, False, STAGES)))
    np.testing.assert_allclose(alone, both[:, : len(others)], **same)
    training = np.stack(list(telescope.apply_response(plan, None, columns, False, STAGES)))
    np.testing.assert_allclose(training, both[:, len(others) :], **same)
    few = next(telescope.apply_response(plan, others, columns[..., :2], False, STAGES[-1:]))
    np.testing.assert_allclose(few, both[-1, : len(others), ..., :2], **same)
    back = plan_of(telescope, "backward", len(others))
    for place in (1, 4, 5):
        weights = telescope.apply_adjoint(back, others, int(STAGES[place]))
        np.testing.assert_allclose(weights.reshape(-1, len(V)), expected[place, : -len(V)], **same)


def test_the_offset_starts_from_the_net(rows, others):
    telescope = telescope_of(rows)
    y = rows[1][:, :1]
    start = np.concatenate([telescope.start(X).offset for X in (others, None)])[:, None]
    expected = dense_recursion(telescope, others, y, STAGES, start)[:, : len(others), 0]
    found = telescope.carry_columns(others, y[..., None][:, 0], STAGES)
    np.testing.assert_allclose(np.stack(list(found))[..., 0], expected, rtol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_over_single_updates_it_is_the_form_of_kernels(rows, others, rule):
    telescope = telescope_of(rows, ends=np.arange(1, 25), rule=rule)
    found = {}
    for plan in telescope.plans("forward", len(others), N):
        found[plan.form] = next(telescope.apply_response(plan, others, np.eye(N), False, STAGES[-1:]))
    assert len(found) == 3
    for form in ("kernel", "parameters"):
        np.testing.assert_allclose(found["section kernel"], found[form], rtol=1e-8, atol=1e-13)


def test_shorter_sections_come_closer_by_the_square(rows, others):
    exact = make_net(**FULL | {"max_iter": 32}).fit(rows[0], rows[1][:, 0]).telescope_
    expected, errors = exact.kernel_weights(others), []
    for length in (2, 4, 8, 16):
        telescope = exact._with_sections(Sections(np.arange(length, 33, length), chosen=True))
        plan = plan_of(telescope, "forward", len(others))
        weights = next(telescope.apply_response(plan, others, np.eye(N), False, np.array([32])))
        errors.append(np.abs(weights - expected).max() / np.abs(expected).max())
    assert errors[-1] < 0.05
    assert errors[0] < errors[1] / 2 < errors[2] / 5 < errors[3] / 12


@given(n_terms=st.integers(1, 70), n_columns=st.integers(1, 40), size=st.integers(1, 12), seed=st.integers(0, 99))
@hypothesis_settings(deadline=None, max_examples=40)
def test_sums_of_powers(n_terms, n_columns, size, seed):
    generator = torch.Generator().manual_seed(seed)
    step = torch.randn((size, size), generator=generator, dtype=torch.float64) / (2 * size**0.5)
    columns = torch.randn((size, n_columns), generator=generator, dtype=torch.float64)
    kept = step.clone(), columns.clone()
    powers = (torch.linalg.matrix_power(torch.eye(size).double() - step, j) for j in range(n_terms))
    expected = sum(power @ columns for power in powers)
    scale = float(expected.abs().max())
    torch.testing.assert_close(power_sum(step, n_terms, columns), expected, rtol=1e-9, atol=1e-11 * scale)
    torch.testing.assert_close((step, columns), kept, rtol=0, atol=0)
    single = (n_terms - 1) * n_columns * size**2
    assert power_sum_operations(size, np.array([n_terms]), n_columns) <= single


def test_doubling_is_taken_where_it_is_cheaper():
    assert doubles(550, 64, 550)
    assert not doubles(550, 4, 550)
    assert not doubles(550, 64, 5)


# Where it is allowed


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"batch_size": N - 1},
        {"optimizer": "adam", "learning_rate_init": 1e-3},
    ],
    ids=["momentum", "decay", "batches", "adam"],
)
def test_any_other_run_takes_other_forms(rows, settings):
    model = make_net(**FULL | settings).fit(rows[0], rows[1][:, 0])
    whole = model.telescope_._with_sections(Sections(np.array([model.n_stages_]), chosen=True))
    assert not whole.holds_kernels
    assert "section kernel" not in {plan.form for plan in whole.plans("forward", 5, 5)}


def test_given_sections_weights_of_rows_and_little_memory_take_other_forms(rows):
    telescope = telescope_of(rows)
    assert telescope.holds_kernels
    assert not telescope._with_sections(Sections(ENDS)).holds_kernels
    assert not telescope.influence_telescope().holds_kernels
    with config_context(working_memory=0.01):
        assert not telescope.holds_kernels


def test_every_update_must_be_on_the_same_rows_with_the_same_factors():
    order = [np.array([2, 0, 1]), np.array([1, 2, 0])]
    same = [np.array([0.3, 0.1, 0.2]), np.array([0.2, 0.3, 0.1])]
    np.testing.assert_array_equal(full_batch(RecordedBatches(order, same, 1)), order[0])
    assert full_batch(RecordedBatches(order, [same[0], same[0]], 1)) is None  # other factors
    assert full_batch(RecordedBatches([order[0], order[1][:2]], [same[0], same[1][:2]], 1)) is None
    assert full_batch(RecordedBatches([order[0], np.array([1, 2, 3])], same, 1)) is None
    np.testing.assert_array_equal(full_batch(Batches(order, 3, 2)), order[0])
    assert full_batch(Batches(order, 2, 4)) is None


# Chosen sections


@pytest.mark.parametrize("budget", ["1GiB", 120 * 1024], ids=["kept", "one segment at a time"])
def test_chosen_sections_hold_kernels_within_the_error_stated(rows, others, budget, monkeypatch):
    settings = FULL | {"max_iter": 200, "learning_rate_init": 0.02, "section": "auto", "record_budget": budget}
    model = make_net(**settings).fit(rows[0], rows[1][:, 0])
    trajectory = model._trajectory
    trained, again = [], type(trajectory)._trained_again
    monkeypatch.setattr(
        type(trajectory), "_trained_again", lambda self, number: trained.append(number) or again(self, number)
    )
    assert model.telescope_.plan(others, n_columns=N).route == "section kernel"
    assert len(model.section_ends_) < 60
    stages = [100, 150, 200]
    found = model.staged_effective_params(others, stages, n_probes=None, with_train=True)
    if not trajectory.keeps_segments:
        # A pass to choose sections, one or two that halve them, and the stages asked for here.
        assert len(trained) < 4 * len(trajectory.checkpoints)
        assert model.record_nbytes_ <= budget
    model.set_params(section=1)
    exact = model.staged_effective_params(others, stages, n_probes=None, with_train=True)
    np.testing.assert_allclose(found, exact, rtol=0.02)
    assert not np.array_equal(found, exact)


def test_probes_and_backward_weights_agree_with_exact_values_of_the_form(rows, others):
    model = make_net(**FULL | {"max_iter": 100, "section": "auto"}).fit(rows[0], rows[1][:, 0])
    telescope = model.telescope_
    forward = next(
        telescope.apply_response(plan_of(telescope, "forward", 7), others, np.eye(N), False, np.array([100]))
    )
    backward = telescope.apply_adjoint(plan_of(telescope, "backward", 7), others)
    np.testing.assert_allclose(backward, forward, rtol=1e-8, atol=1e-12)
    value, error = model.effective_params(others, n_probes=16, return_se=True)
    assert abs(value - N * (forward**2).sum() / len(others)) < 4 * error
