"""Every way to carry a label response gives the same numbers, and sections leave the gap that they say."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import make_net, random_rows
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracles import jacobian, jacobian_recursion, net_at
from sklearn import config_context
from test_neural import OPTIMIZERS, SGD, with_rule

from telescoping_sklearn.neural import _carriers
from telescoping_sklearn.neural._carriers import KernelCarrier, ParameterCarrier
from telescoping_sklearn.neural._sections import Sections, equal_sections
from telescoping_sklearn.neural._update_rules import AdamResponse, SGDResponse

N = 40


@pytest.fixture(scope="module")
def rows():
    return random_rows(N, seed=7)


@pytest.fixture(scope="module")
def others():
    return random_rows(9, seed=8)[0]


def forward(telescope, X, carrier, stages):
    return [r.numpy() for r in telescope._carry(carrier, telescope.sections, X, np.eye(N), False, np.array(stages))]


def by_parameters(telescope):
    return ParameterCarrier(telescope.path, telescope._make_update_rule(), N)


def weights_by_route(telescope, X):
    """S of a query by every plan that the optimiser allows, all over the same sections."""
    found = {}
    for direction in ("forward", "backward"):
        for plan in telescope.plans(direction, len(X), N):
            plan = replace(plan, sections=telescope.sections)
            if direction == "forward":
                last = np.array([telescope.n_stages])
                found[plan.route] = next(telescope.apply_response(plan, X, np.eye(N), False, last))
            else:
                found[plan.route] = telescope.apply_adjoint(plan, X)
    return found


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("section", [1, 4, "auto"])
@pytest.mark.parametrize("rule", ["left", "gauss2"])
def test_every_route_gives_the_same_weights(rows, others, settings, section, rule):
    model = make_net(**settings, section=section, rule=rule, max_iter=7).fit(*rows)
    weights = weights_by_route(model.telescope_, others)
    assert len(weights) == (4 if settings == SGD else 2)
    for route, found in weights.items():
        np.testing.assert_allclose(found, weights["parameters"], rtol=1e-8, atol=1e-13, err_msg=route)
    if section != "auto" or settings != SGD:  # kernels may cut chosen sections into shorter ones
        np.testing.assert_allclose(model.kernel_weights(others), weights["parameters"], rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize(
    "settings", [SGD, OPTIMIZERS["momentum"], OPTIMIZERS["adamw"]], ids=["sgd", "momentum", "adamw"]
)
def test_every_route_gives_the_weights_of_the_one_sample_recursion(others, settings):
    X, y = random_rows(N, seed=7)
    weight = np.linspace(0, 2, N)
    model = make_net(**settings, hidden_layer_sizes=(4,), max_iter=2).fit(X, y, sample_weight=weight)
    expected = jacobian_recursion(model, X, np.eye(N), others, sample_weight=weight)[1]
    for route, found in weights_by_route(model.telescope_, others).items():
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-13, err_msg=route)


def test_kernel_and_parameters_agree_at_stages_inside_sections(rows, others):
    telescope = make_net(**SGD, section=5).fit(*rows).telescope_
    stages = [3, 5, 7, 12, 36]
    by_kernel = forward(telescope, others, KernelCarrier(telescope.path), stages)
    expected = forward(telescope, others, by_parameters(telescope), stages)
    np.testing.assert_allclose(by_kernel, expected, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("working_memory", [1024, 0.002], ids=["kept", "too large to keep"])
def test_kept_inner_products_of_wide_inputs_change_nothing(working_memory):
    X, y = random_rows(N, seed=3, n_features=_carriers._WIDE_INPUTS)
    telescope = make_net(**SGD, section=3, max_iter=2, learning_rate_init=1e-3).fit(0.1 * X, y).telescope_
    with config_context(working_memory=working_memory):
        carrier = KernelCarrier(telescope.path)
        found = forward(telescope, X[:7], carrier, [4, telescope.n_stages])
    expected = forward(telescope, X[:7], by_parameters(telescope), [4, telescope.n_stages])
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-13)
    assert len(carrier._products) == 2  # training rows and queries
    assert all((products is None) == (working_memory < 1) for _, products in carrier._products.values())


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    optimizer=st.sampled_from(["sgd", "nesterov with decay", "adam with decay", "adamw"]),
    working_memory=st.sampled_from([0.002, 1.0]),
)
@hypothesis_settings(deadline=None, max_examples=15)
def test_routes_agree_for_any_sections_and_block_sizes(lengths, optimizer, working_memory):
    X, y = random_rows(N, seed=3)
    model = make_net(**OPTIMIZERS[optimizer], hidden_layer_sizes=(4,), max_iter=3).fit(X, y)
    telescope = model.telescope_
    ends = np.minimum(np.cumsum(lengths), telescope.n_stages)
    telescope.sections = Sections(np.unique(np.append(ends, telescope.n_stages)))
    expected = weights_by_route(telescope, X[:3])
    with config_context(working_memory=working_memory):
        for route, found in weights_by_route(telescope, X[:3]).items():
            np.testing.assert_allclose(found, expected["parameters"], rtol=1e-8, atol=1e-13, err_msg=route)
        np.testing.assert_allclose(model.kernel_weights(X[:3]), expected["parameters"], rtol=1e-8, atol=1e-13)


# The plan


def test_the_plan_goes_back_for_few_queries_and_forward_for_many(rows):
    nets = (make_net(**OPTIMIZERS[name], hidden_layer_sizes=(60, 60), max_iter=1) for name in ("sgd", "adam"))
    sgd, adam = (net.fit(*rows).telescope_ for net in nets)
    one, many = np.zeros((1, 4)), np.zeros((5000, 4))
    assert sgd.plan(one).route == "backward kernel"
    assert sgd.plan(many).route == "kernel"
    assert adam.plan(one).route == "backward parameters"
    assert adam.plan(many).route == "parameters"
    assert adam.plan(one, n_columns=32).route == "parameters"
    assert adam.plan(one).operations < adam.plan(many).operations


def test_carrying_probes_of_a_large_batch_takes_the_block_of_parameters():
    X, y = random_rows(400, seed=0)
    telescope = make_net(**SGD, hidden_layer_sizes=(3,), batch_size=400, max_iter=2).fit(X, y).telescope_
    assert telescope.plan(None, n_columns=2).route == "parameters"


# Sections


def test_equal_sections_end_with_the_run():
    assert equal_sections(10, 4).ends.tolist() == [4, 8, 10]
    assert equal_sections(8, 4).ends.tolist() == [4, 8]
    assert equal_sections(3, 100).ends.tolist() == [3]
    sections = equal_sections(10, 4)
    assert [sections.first_of(stage) for stage in (1, 4, 5, 8, 9, 10)] == [0, 0, 4, 4, 8, 8]
    assert [sections.is_end(stage) for stage in (3, 4, 9, 10)] == [False, True, False, True]


def largest_gap(model, X):
    """Largest mean gap between the net and its telescope at any section's end, by dense Jacobians."""
    path = model._trajectory.parameters.double()
    widths = (X.shape[1], *model.hidden_layer_sizes, 1)
    summed, largest, first = 0.0, 0.0, 0
    for last in model.section_ends_:
        start, end = path[first], path[last]
        middle = jacobian(net_at((start + end) / 2, widths, model.activation), X)
        outputs = [net_at(theta, widths, model.activation)(torch.as_tensor(X))[:, 0].detach() for theta in (start, end)]
        summed = summed + outputs[1] - outputs[0] - middle @ (end - start)
        largest = max(largest, summed.abs().mean().item())
        first = last
    return largest


@pytest.mark.parametrize("section_tol", [0.001, 0.01, 0.1])
def test_chosen_sections_leave_at_most_the_gap_allowed_and_say_which(rows, section_tol):
    model = make_net(section="auto", section_tol=section_tol, activation="gelu", max_iter=40, learning_rate_init=0.05)
    model.fit(*rows)
    assert model.section_gap_ == pytest.approx(largest_gap(model, rows[0]) / rows[1].std(), rel=1e-6)
    assert 0 < model.section_gap_ <= section_tol
    assert model.section_ends_[-1] == model.n_stages_ == 120
    (telescoping,) = model.staged_predict(rows[0], approximation="telescoping", stages=1)
    assert np.abs(telescoping - model.predict(rows[0])).mean() <= section_tol * rows[1].std()


def test_kernels_cut_chosen_sections_at_an_epoch(rows):
    telescope = make_net(**SGD, section="auto", section_tol=10.0).fit(*rows).telescope_
    per_epoch = telescope.path.trajectory.batches.per_epoch
    assert telescope.sections.lengths.max() > per_epoch
    for direction in ("forward", "backward"):
        parameters, kernel = telescope.plans(direction, 9, 9)
        assert parameters.sections is telescope.sections
        assert kernel.sections.lengths.max() == per_epoch
        assert set(telescope.sections.ends) <= set(kernel.sections.ends)


def test_full_batches_are_bridged_too(rows):
    model = make_net(**SGD, section="auto", batch_size="full", max_iter=64, learning_rate_init=0.02).fit(*rows)
    assert len(model.section_ends_) < model.n_stages_ / 2


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20), longest=st.integers(1, 12))
def test_cut_sections_keep_their_ends(lengths, longest):
    sections = Sections(np.cumsum(lengths))
    halves, pieces = sections.halved(), sections.at_most(longest)
    assert pieces.lengths.max() == min(longest, max(lengths))
    assert set(sections.ends) <= set(pieces.ends)
    assert (halves is None) == (max(lengths) == 1)
    if halves is not None:
        assert set(sections.ends) <= set(halves.ends)
        assert halves.lengths.max() == (max(lengths) + 1) // 2
        assert len(halves.ends) == sum(1 if length == 1 else 2 for length in lengths)


def test_listing_attributes_chooses_no_sections(rows, monkeypatch):
    model = make_net(section="auto").fit(*rows)
    monkeypatch.setattr("telescoping_sklearn.neural._recorded_run.chosen_sections", None)
    assert not {"section_ends_", "section_gap_"} & set(dir(model))
    with pytest.raises(TypeError):
        _ = model.section_ends_


def test_a_larger_tolerance_takes_fewer_sections(rows):
    model = make_net(section="auto", activation="gelu", max_iter=40, learning_rate_init=0.05).fit(*rows)
    counts = [len(with_rule(model, section_tol=tol).section_ends_) for tol in (1e-6, 1e-4, 1e-3, 1e-1)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[-1]


def test_single_updates_that_leave_more_than_is_allowed_are_reported(rows):
    model = make_net(section="auto", section_tol=1e-12, activation="relu", learning_rate_init=0.1).fit(*rows)
    assert model.section_gap_ > 1e-12
    assert len(model.section_ends_) > model.n_stages_ / 2


def test_chosen_sections_are_kept_with_the_record(rows, monkeypatch):
    model = make_net(section="auto").fit(*rows)
    ends = model.section_ends_
    loaded = with_rule(model)
    monkeypatch.setattr("telescoping_sklearn.neural._recorded_run.chosen_sections", None)
    np.testing.assert_array_equal(loaded.section_ends_, ends)
    assert 0 < with_rule(model, section=3).section_gap_ < with_rule(model, section=9).section_gap_


# Precision


@pytest.mark.parametrize("make_rule", [AdamResponse, partial(SGDResponse, momentum=0.9)], ids=["adam", "momentum"])
@pytest.mark.parametrize("backward", [False, True])
def test_momentum_that_fades_never_turns_subnormal(make_rule, backward):
    rule, ones = make_rule(), torch.ones((1, 3))
    steps = []
    for stage in range(1200, 0, -1) if backward else range(1, 1201):
        fed = torch.zeros((1, 3)) if steps else ones
        step = rule.transposed_step(fed, stage, 0.1, ones)[0] if backward else rule.step(fed, ones, stage, 0.1, ones)
        steps.append(float(step[0, 0].abs()))
    shrinking = np.array(steps[2:])
    assert shrinking[-1] == 0
    assert shrinking[shrinking > 0].min() > np.finfo(np.float32).tiny
    assert shrinking[100] == pytest.approx(shrinking[99] * 0.9, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_single_precision_costs_rounding_only(rows, others, optimizer):
    settings = OPTIMIZERS[optimizer] | {"max_iter": 60, "section": 3}
    single, double = (make_net(**settings, dtype=dtype).fit(*rows) for dtype in ("float32", "float64"))
    expected = double.kernel_weights(others)
    assert np.abs(single.kernel_weights(others) - expected).max() <= 1e-4 * np.abs(expected).max()
