"""Influence of nets: every route against finite differences of an optimiser run along the recorded Jacobians."""

import functools
import pickle

import numpy as np
import pytest
import torch
from conftest import make_net, random_rows
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from influence_oracle import NetAgain, net_again, weight_differences
from oracles import adagrad_phi, rescaled, rmsprop_phi
from sklearn import config_context
from test_outputs import WEIGHTS as WEIGHTS_OF_RUN
from test_outputs import Run, pairs, perceptron
from torch.optim import lr_scheduler

from telescoping_sklearn._telescope import UnstableResponseError
from telescoping_sklearn.neural import _pilot, _update_rules, register_update_rule
from telescoping_sklearn.neural._grouped_update_rule import GroupedUpdateRule, GroupSlice
from telescoping_sklearn.neural._influence import InfluenceTelescope
from telescoping_sklearn.neural._update_rules import RecordedUpdate, adam_response

N, M = 24, 5
ADAM = {"optimizer": "adam", "learning_rate_init": 5e-3}
#: Second moments that fall again, so that the largest is often that of an earlier update.
FORGETFUL = {"amsgrad": True, "betas": (0.8, 0.5)}
OPTIMIZERS = {
    "sgd": {"momentum": 0.0},
    "sgd with decay": {"momentum": 0.0, "weight_decay": 0.1},
    "momentum": {"momentum": 0.9},
    "dampened with decay": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "adam": ADAM,
    "adam with decay": {**ADAM, "weight_decay": 0.3},
    "adamw": {**ADAM, "optimizer": "adamw", "weight_decay": 0.3},
    "amsgrad": {**ADAM, **FORGETFUL},
    "amsgrad with decay": {**ADAM, **FORGETFUL, "weight_decay": 0.3},
    "amsgrad, decoupled": {**ADAM, **FORGETFUL, "optimizer": "adamw", "weight_decay": 0.3},
    "large eps": {**ADAM, "eps": 0.1},
    "schedule": {
        **ADAM,
        "lr_schedule": functools.partial(lr_scheduler.ExponentialLR, gamma=0.95),
        "warmup_steps": 5,
    },
}
DENOMINATORS = ["moving", "held"]


@pytest.fixture(scope="module")
def rows():
    return random_rows(N, seed=7)


@pytest.fixture(scope="module")
def query():
    return random_rows(M, seed=8)[0]


def small_net(**settings):
    return make_net(**{"hidden_layer_sizes": (4,), "batch_size": 8, "max_iter": 5} | settings)


def by_route(telescope, X, stage):
    """Influence by every plan."""
    asked = np.array([stage])
    plans = [*telescope.plans("forward", len(X), N), *telescope.plans("backward", len(X), len(X))]
    return {repr(plan): telescope._weights(plan, X, asked)[0] for plan in plans}


@pytest.mark.parametrize("denominators", DENOMINATORS)
@pytest.mark.parametrize("cut", [{}, {"section": 4, "rule": "gauss2"}], ids=["single updates", "sections"])
@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_influence_is_the_derivative_in_the_weights(rows, query, settings, cut, denominators):
    X, y = rows
    sample_weight = np.random.default_rng(0).uniform(0.5, 2, N)
    model = small_net(**settings, **cut).fit(X, y, sample_weight=sample_weight)
    again = net_again(model, X, y, query, held=denominators == "held")
    expected = weight_differences(again, rescaled(sample_weight, N))
    near = {"rtol": 0, "atol": 1e-7 * np.abs(expected).max()}
    telescope = model.telescope_
    np.testing.assert_allclose(telescope.influence(query, denominators=denominators), expected, **near)
    routes = by_route(telescope.influence_telescope(denominators), query, model.n_stages_)
    assert len(routes) == (4 if settings == OPTIMIZERS["sgd"] else 2)
    for route, found in routes.items():
        np.testing.assert_allclose(found, expected, **near, err_msg=route)
    if denominators == "moving":
        np.testing.assert_array_equal(model.influence(query), telescope.influence(query))


def test_the_oracle_takes_the_recorded_run_for_its_own_weights(rows, query):
    X, y = rows
    for name in ("nesterov", "adam with decay", "amsgrad, decoupled", "schedule"):
        model = small_net(**OPTIMIZERS[name]).fit(X, y)
        np.testing.assert_allclose(net_again(model, X, y, query)(np.ones(N)), model.predict(query), atol=1e-9)


def test_denominators_that_are_held_give_another_answer(rows, query):
    telescope = small_net(**ADAM).fit(*rows).telescope_
    moving, held = (telescope.influence(query, denominators=name) for name in DENOMINATORS)
    assert np.abs(moving - held).max() > 0.1 * np.abs(held).max()
    telescope = small_net().fit(*rows).telescope_  # without denominators there is one answer
    moving, held = (telescope.influence(query, denominators=name) for name in DENOMINATORS)
    np.testing.assert_array_equal(moving, held)


def test_a_gradient_that_is_scaled_changes_no_step_of_adam(rows, query):
    X, y = rows
    telescope = small_net(**ADAM).fit(X, y).telescope_
    moving, held = (telescope.influence(query, denominators=name).sum(axis=1) for name in DENOMINATORS)
    assert np.abs(moving).max() < 1e-3 * np.abs(held).max()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    rule=st.sampled_from(["left", "midpoint", "gauss2"]),
    activation=st.sampled_from(["tanh", "gelu", "sigmoid"]),
    output_activation=st.sampled_from(["identity", "sigmoid"]),
    batch_size=st.integers(3, 12),
    zero_weights=st.integers(0, 4),
    denominators=st.sampled_from(DENOMINATORS),
    working_memory=st.sampled_from([0.002, 64.0]),
    seed=st.integers(0, 2**31 - 1),
)
@hypothesis_settings(deadline=None, max_examples=8)
def test_every_route_and_stage_gives_the_derivative(
    lengths, optimizer, zero_weights, denominators, working_memory, seed, **settings
):
    X, y = random_rows(12, seed)
    query = random_rows(3, seed=seed + 1)[0]
    weights = np.random.default_rng(seed).uniform(0.5, 2, 12)
    weights[:zero_weights] = 0
    smooth = {"eps": 1e-3}  # or Adam's first step is the sign of a gradient, whose differences jump
    settings |= OPTIMIZERS[optimizer] | ({} if "optimizer" not in OPTIMIZERS[optimizer] else smooth)
    model = make_net(**settings, hidden_layer_sizes=(3,), max_iter=2, random_state=seed)
    model.fit(X, (y - y.min()) / np.ptp(y), sample_weight=weights)
    telescope, y = model.telescope_, model.telescope_.y
    ends = np.minimum(np.cumsum(lengths), model.n_stages_)
    telescope.sections = type(telescope.sections)(np.unique(np.append(ends, model.n_stages_)))
    last = model.n_stages_
    stages = np.unique([max(1, last // 2), last])
    with config_context(working_memory=working_memory):
        staged = telescope.influence_telescope(denominators)
        found = [by_route_of(staged, query, 12, stage) for stage in stages]
    for stage, routes in zip(stages, found, strict=True):
        held = denominators == "held"
        again = net_again(model, X, y, query, int(stage), held, ends=telescope.sections.ends)
        expected = weight_differences(again, rescaled(weights, 12))
        for route, given_by in routes.items():
            near = {"rtol": 0, "atol": 1e-6 * np.abs(expected).max() + 1e-11, "err_msg": route}
            np.testing.assert_allclose(given_by, expected, **near)


def by_route_of(telescope, X, n_columns, stage):
    """Influence by every plan, all over the same sections."""
    plans = [*telescope.plans("forward", len(X), n_columns), *telescope.plans("backward", len(X), len(X))]
    plans = [type(plan)(**vars(plan) | {"sections": telescope.sections}) for plan in plans]
    return {repr(plan): telescope._weights(plan, X, np.array([stage]))[0] for plan in plans}


@pytest.mark.parametrize(
    ("optimizer", "section"), [("sgd", 1), ("sgd", 4), ("adamw", 4), ("adamw", "auto")]
)  # kernels of sgd may cut chosen sections into shorter ones
def test_stages_diagonal_and_ranking_are_those_of_the_whole(rows, query, optimizer, section):
    X, y = rows
    model = small_net(**OPTIMIZERS[optimizer], section=section).fit(X, y)
    whole, telescope = model.influence(query), model.telescope_
    near = {"rtol": 1e-8, "atol": 1e-12}
    asked = [0, 3, 7, 15]
    staged = model.staged_influence(query, asked)
    assert staged.shape == (4, M, N)
    assert not staged[0].any()
    np.testing.assert_allclose(staged[-1], whole, **near)
    of_weights = telescope.influence_telescope()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(of_weights, "has_adjoint", not of_weights.has_adjoint)
        np.testing.assert_allclose(model.staged_influence(query, asked), staged, **near)
    np.testing.assert_allclose(model.self_influence_, telescope.influence(None).diagonal(), **near)
    top = model.top_examples(query, 4, by="influence")
    found = top.influence.to_numpy().reshape(M, 4)
    np.testing.assert_allclose(np.abs(found), -np.sort(-np.abs(whole))[:, :4], **near)
    np.testing.assert_allclose(found, np.take_along_axis(whole, top.row.to_numpy().reshape(M, 4), axis=1), **near)


def test_rows_that_training_never_saw_have_no_influence(query):
    X, y = random_rows(40, seed=2)
    model = small_net(early_stopping=True, validation_fraction=0.3, n_iter_no_change=3).fit(X, y)
    held_out = np.flatnonzero(~model.telescope_.trained)
    assert len(held_out) == 12
    assert not model.influence(query)[:, held_out].any()
    assert not model.self_influence_[held_out].any()
    assert np.abs(model.influence(query)).max() > 1e-3


def test_a_row_of_weight_zero_has_the_influence_of_a_little_weight(rows, query):
    X, y = rows
    weights = np.where(np.arange(N) < 3, 0.0, 1.0)
    model = small_net().fit(X, y, sample_weight=weights)
    expected = weight_differences(net_again(model, X, y, query), rescaled(weights, N))
    found = model.influence(query)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert (np.abs(found[:, :3]).max(axis=0) > 1e-4).all()
    assert not model.kernel_weights(query)[:, :3].any()


def test_single_precision_follows_double(rows, query):
    for settings in (OPTIMIZERS["momentum"], OPTIMIZERS["adamw"], OPTIMIZERS["amsgrad"]):
        exact = small_net(**settings).fit(*rows).influence(query)
        single = small_net(**settings, dtype="float32").fit(*rows).influence(query)
        np.testing.assert_allclose(single, exact, rtol=0, atol=2e-3 * np.abs(exact).max())


# -- several outputs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("denominators", DENOMINATORS)
@pytest.mark.parametrize("functional", [False, True], ids=["layerwise", "functional"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_a_row_of_several_outputs_has_one_weight(optimizer, functional, denominators):
    run = Run(perceptron((4, 3, 2)), 2, optimizer, ends=(2, 3, 6), rule="gauss2", functional=functional)
    telescope, loops = run.telescope, run.loops

    def at(function):
        return lambda theta, rows: function(torch.as_tensor(theta), torch.as_tensor(rows)).numpy()

    again = NetAgain(
        run.recorded,
        pairs(run.X, 2),
        run.y.ravel(),
        pairs(run.query, 2),
        at(loops.jacobian),
        at(loops.outputs),
        {2, 3, 6},
        "gauss2",
        batches=loops.batches,
        held=denominators == "held",
    )
    expected = weight_differences(lambda w: again(np.repeat(w, 2) * 2), WEIGHTS_OF_RUN)
    expected = expected.reshape(len(run.query), 2, len(run.X))
    near = {"rtol": 0, "atol": 1e-6 * np.abs(expected).max()}
    found = telescope.influence(run.query, denominators=denominators)
    np.testing.assert_allclose(found, expected, **near)
    of_weights = telescope.influence_telescope(denominators)
    for route, given_by in by_route_of(of_weights, run.query, len(run.X), 6).items():
        np.testing.assert_allclose(given_by, expected, **near, err_msg=route)
    own = telescope.self_influence(denominators=denominators)
    diagonal = np.einsum("iji->ij", telescope.influence(run.X, denominators=denominators))
    np.testing.assert_allclose(own, diagonal, **near)
    assert of_weights.accuracy.sound.all()
    with pytest.raises(ValueError, match=r"^top_examples\(by='influence'\) is about one output"):
        telescope.top_examples(run.query, 2, by="influence")


# -- optimisers that users register ------------------------------------------------------------------------------------


class Adaptive:
    """g / phi, with a sum of squares that keeps a share of itself."""

    def __init__(self, keeps, adds, eps):
        self.keeps, self.adds, self.eps, self.second = keeps, adds, eps, 0.0

    def step(self, gradient, parameters, stage, rate, phi):
        return -rate * gradient / phi


class MovingAdaptive(Adaptive):
    """The same, whose sum of squares responds; with its adjoint."""

    def slope(self, phi, run):
        return -run.step / phi / (2 * (phi - self.eps))

    def moving_step(self, gradient, parameters, stage, rate, phi, run):
        self.second = self.keeps * self.second + 2 * self.adds * run.gradient * gradient
        return self.step(gradient, parameters, stage, rate, phi) + self.slope(phi, run) * self.second

    def transposed_step(self, on_step, stage, rate, phi):
        return -rate * on_step / phi, None

    def transposed_moving_step(self, on_step, stage, rate, phi, run):
        on_second = self.second + self.slope(phi, run) * on_step
        self.second = self.keeps * on_second
        return -rate * on_step / phi + 2 * self.adds * run.gradient * on_second, None


class ForwardOnly(Adaptive):
    """One without an adjoint."""

    slope, moving_step = MovingAdaptive.slope, MovingAdaptive.moving_step


REGISTERED = {
    "rmsprop": (torch.optim.RMSprop, rmsprop_phi, lambda s: (s["alpha"], 1 - s["alpha"], s["eps"])),
    "adagrad": (torch.optim.Adagrad, adagrad_phi, lambda s: (1.0, 1.0, s["eps"])),
}


@pytest.fixture(params=REGISTERED)
def registered(request, monkeypatch):
    optimizer, phi, settings_of = REGISTERED[request.param]
    monkeypatch.setattr(_update_rules, "_REGISTRY", dict(_update_rules._REGISTRY))

    def register(rule):
        register_update_rule(optimizer, lambda settings: rule(*settings_of(settings)), phi)
        return optimizer

    return register


@pytest.mark.parametrize("rule", [MovingAdaptive, ForwardOnly])
def test_rules_that_users_register_say_how_their_denominators_respond(rows, query, registered, rule):
    X, y = rows
    model = small_net(optimizer=registered(rule), momentum=0.0, learning_rate_init=5e-3).fit(X, y)
    expected = weight_differences(net_again(model, X, y, query), np.ones(N))
    np.testing.assert_allclose(model.influence(query), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    of_weights = model.telescope_.influence_telescope()
    assert of_weights.has_adjoint == (rule is MovingAdaptive)
    forward = of_weights._weights(of_weights.forward_plan(M, N), query)[0]
    np.testing.assert_allclose(forward, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_rules_that_do_not_say_are_refused_by_name_and_can_be_held(rows, query, registered):
    X, y = rows
    optimizer = registered(Adaptive)
    model = small_net(optimizer=optimizer, momentum=0.0, learning_rate_init=5e-3).fit(X, y)
    asked = [
        lambda: model.influence(query),
        lambda: model.staged_influence(query, [3]),
        lambda: model.self_influence_,
        lambda: model.top_examples(query, by="influence"),
    ]
    for ask in asked:
        with pytest.raises(ValueError, match=rf"optimizer={optimizer.__name__}.*denominators='held'.*moving_step"):
            ask()
    expected = weight_differences(net_again(model, X, y, query, held=True), np.ones(N))
    found = model.telescope_.influence(query, denominators="held")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_groups_move_their_own_denominators():
    torch.manual_seed(0)
    p, k, stages = 7, 3, range(1, 6)
    of_group = [
        {"betas": betas, "weight_decay": decay, "eps": 1e-8, "amsgrad": amsgrad, "decoupled_weight_decay": decoupled}
        for betas, decay, amsgrad, decoupled in [((0.9, 0.9), 0.1, False, False), ((0.8, 0.5), 0.2, True, True)]
    ]
    slices = [GroupSlice(slice(0, 3), 0, of_group[0]), GroupSlice(slice(3, 6), 1, of_group[1])]
    rates = [[0.1, 0.2]] * len(stages)
    data = [torch.rand(5, p, dtype=torch.float64) for _ in stages]
    runs = [RecordedUpdate(g, theta, step, before) for g, theta, step, before, _ in data]
    columns = [torch.randn(k, p, dtype=torch.float64) for _ in stages]
    theta = torch.randn(k, p, dtype=torch.float64)

    def walk(rule, where, rate):
        moved = [
            rule.moving_step(G[:, where].clone(), theta[:, where], t, rate, at[4][where] + 0.5, run.part(where))
            for t, G, at, run in zip(stages, columns, data, runs, strict=True)
        ]
        back = [
            rule.transposed_moving_step(G[:, where].clone(), t, rate, at[4][where] + 0.5, run.part(where))
            for t, G, at, run in zip(stages, columns, data, runs, strict=True)
        ]
        return moved, back

    grouped = walk(GroupedUpdateRule(torch.optim.Adam, slices, rates), slice(0, p), 0.0)
    for part, rate in zip(slices, (0.1, 0.2), strict=True):
        moved, back = walk(adam_response(part.settings), part.where, rate)
        for ours, theirs in zip(grouped[0], moved, strict=True):
            torch.testing.assert_close(ours[:, part.where], theirs)
        for ours, theirs in zip(grouped[1], back, strict=True):
            torch.testing.assert_close(ours[0][:, part.where], theirs[0])
            torch.testing.assert_close(ours[1][:, part.where], theirs[1])
    assert not grouped[0][0][:, 6].any()


# -- refusals and plumbing ---------------------------------------------------------------------------------------------


def test_an_influence_that_has_blown_up_is_refused(rows, query, monkeypatch):
    model = small_net(**ADAM).fit(*rows)
    sizes = _pilot.influence_accuracy(model.telescope_.influence_telescope())
    assert sizes.sound.all()
    monkeypatch.setattr(_pilot, "LARGEST_INFLUENCE_RISE", 1e-3)
    model = pickle.loads(pickle.dumps(model))
    of_weights = model.telescope_.influence_telescope()
    last = of_weights.last_sound_stage
    assert 0 <= last < model.n_stages_
    message = rf"influence of this run fails its checks there, and passes them last at stage {last}.*staged_influence\("
    for ask in (
        lambda: model.influence(query),
        lambda: model.self_influence_,
        lambda: model.top_examples(query, by="influence"),
        lambda: model.staged_influence(query, [last, model.n_stages_]),
    ):
        with pytest.raises(UnstableResponseError, match=message + r".*learning_rate_init.*section=1"):
            ask()
    with pytest.raises(UnstableResponseError, match=r"^top_examples\(by='influence'\) does not exist"):
        model.top_examples(query, by="influence")
    assert not hasattr(model, "self_influence_")
    model.kernel_weights(query)  # labels have checks of their own
    if last:
        assert np.isfinite(model.staged_influence(query, [last])).all()


@pytest.mark.parametrize("denominators", ["fixed", None, "Moving"])
def test_unknown_denominators_are_refused(rows, query, denominators):
    telescope = small_net(**ADAM).fit(*rows).telescope_
    with pytest.raises(ValueError, match=f"denominators must be 'moving' or 'held', got {denominators!r}"):
        telescope.influence(query, denominators=denominators)


def test_a_telescope_of_weights_can_be_pickled(rows, query):
    telescope = small_net(**ADAM).fit(*rows).telescope_
    expected = telescope.influence(query)
    copied = pickle.loads(pickle.dumps(telescope))
    assert isinstance(copied.influence_telescope(), InfluenceTelescope)
    np.testing.assert_array_equal(copied.influence(query), expected)
