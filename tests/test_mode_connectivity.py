"""Runs that go on from a recorded stage, and what is asked of several of them."""

import copy
import functools
import pickle

import matplotlib as mpl
import numpy as np
import pytest
import torch
from conftest import make_net, make_trees, random_rows
from oracles import gradient_row, net_at
from sklearn.base import clone
from sklearn.ensemble import VotingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from torch import nn
from torch.optim import lr_scheduler

from telescoping_sklearn import TelescopingMLPRegressor
from telescoping_sklearn.base import RecordDroppedError
from telescoping_sklearn.displays import ErrorBarrierDisplay, GradientChangeDisplay
from telescoping_sklearn.neural import (
    _update_rules,
    average_weights,
    compare_averages,
    error_barrier,
    interpolate,
    register_update_rule,
)

mpl.use("Agg")


def branching(n_features):
    """A module that is no chain of layers."""
    return Branching(n_features)


class Branching(nn.Module):
    def __init__(self, n_features):
        super().__init__()
        self.inner = nn.Linear(n_features, 6)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.outer = nn.Linear(6, 1, bias=False)

    def forward(self, X):
        hidden = torch.tanh(self.inner(X))
        return self.outer(hidden * self.scale + hidden**2)


SETTINGS = {
    "sgd": {"momentum": 0.0},
    "nesterov": {"momentum": 0.9, "nesterov": True, "dtype": "float32"},
    "dampened": {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    "adam": {"optimizer": "adam", "learning_rate_init": 1e-2, "dtype": "float32"},
    "adamw": {"optimizer": "adamw", "learning_rate_init": 1e-2, "amsgrad": True, "weight_decay": 0.1},
    "scheduled": {
        "lr_schedule": functools.partial(lr_scheduler.ExponentialLR, gamma=0.95),
        "warmup_steps": 9,
        "momentum": 0.9,
    },
    "stopped": {"early_stopping": True, "learning_rate_init": 0.1, "tol": 0.01, "n_iter_no_change": 2},
    "converged": {"learning_rate_init": 0.1, "tol": 0.05, "n_iter_no_change": 1},
    "unshuffled": {"shuffle": False},
    "full": {"batch_size": "full", "optimizer": "adam"},
    "module": {"module": branching, "optimizer": "adam"},
}
MID = 7  #: In the middle of the third epoch of three updates.


@pytest.fixture(scope="module")
def rows():
    return random_rows(40, seed=7)


@pytest.fixture(scope="module")
def others():
    return random_rows(20, seed=8)


@pytest.fixture(scope="module")
def parent(rows):
    return make_net(optimizer="adam", learning_rate_init=1e-2).fit(*rows)


@pytest.fixture(scope="module")
def children(parent):
    return [parent.spawn(MID, random_state=seed) for seed in (1, 2)]


def end_of(net):
    return net.parameters_at(net.n_stages_)


# Recorded parameters


@pytest.mark.parametrize("settings", [{}, {"output_activation": "sigmoid", "dtype": "float32"}, {"module": branching}])
def test_parameters_and_modules_of_stages_are_those_of_training(rows, others, settings):
    y = 1 / (1 + np.exp(-rows[1])) if "output_activation" in settings else rows[1]
    net, X = make_net(max_iter=3, **settings).fit(rows[0], y), others[0]
    for stage, predicted in zip((0, 4, 9), net.staged_predict(X, [0, 4, 9]), strict=True):
        theta, module = net.parameters_at(stage), net.module_at(stage)
        assert str(theta.dtype) == net.dtype
        assert np.array_equal(torch.cat([part.flatten() for part in module.parameters()]).detach().numpy(), theta)
        asked = module(torch.tensor(X, dtype=getattr(torch, net.dtype))).detach().numpy()[:, 0]
        np.testing.assert_allclose(asked, predicted, atol=1e-6 if net.dtype == "float32" else 1e-12)
    assert type(module) is (Branching if net.module else nn.Sequential)
    theta[:] = 0
    module.zero_grad()
    next(module.parameters()).data.zero_()
    assert net.parameters_at(9).any()
    assert next(net.module_at(9).parameters()).any()


def test_a_module_is_that_of_the_fit_whatever_became_of_it(rows):
    given = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    net = make_net(module=given, max_iter=2).fit(*rows)
    given[2] = nn.Linear(3, 2)
    assert net.module_at(1)[2].out_features == 1
    assert np.array_equal(net.spawn(2, random_state="parent").parameters_at(1), net.parameters_at(3))


@pytest.mark.parametrize(
    ("stage", "error"), [(-1, ValueError), (37, ValueError), (1.0, TypeError), (np.nan, TypeError), (True, TypeError)]
)
@pytest.mark.parametrize("ask", ["parameters_at", "module_at", "spawn"])
def test_stages_that_do_not_exist_are_refused(parent, ask, stage, error):
    with pytest.raises(error, match="stage"):
        getattr(parent, ask)(stage)


def test_nets_without_a_record_are_refused(rows):
    net = make_net(max_iter=2)
    for ask in ("parameters_at", "module_at", "spawn"):
        with pytest.raises(NotFittedError):
            getattr(net, ask)(0)
    for without in (clone(net).set_params(record=False).fit(*rows), clone(net).fit(*rows).drop_record()):
        for ask in ("parameters_at", "module_at", "spawn"):
            with pytest.raises(RecordDroppedError):
                getattr(without, ask)(0)
        with pytest.raises(RecordDroppedError):
            without.gradient_change(rows[0])


# Children


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_child_with_the_parents_order_is_the_parent_bit_for_bit(rows, settings):
    net = make_net(**settings).fit(*rows)
    for stage in (0, 1, min(MID, net.n_stages_ - 1), net.n_stages_ - 1):
        child = net.spawn(stage, random_state="parent")
        assert child.n_stages_ == net.n_stages_ - stage
        assert child.loss_curve_ == net.loss_curve_[len(net.loss_curve_) - child.n_iter_ :]
        for at in {0, child.n_stages_ // 2, child.n_stages_}:
            assert np.array_equal(child.parameters_at(at), net.parameters_at(stage + at))


def test_the_record_may_be_small_and_loaded_from_a_file(rows):
    layout = {"optimizer": "adam", "momentum": 0.0}
    kept = make_net(**layout).fit(*rows)
    least = kept._trajectory.replay.settings.record_layout(40).least_bytes
    small = pickle.loads(pickle.dumps(make_net(**layout, record_budget=least).fit(*rows)))
    for stage in (MID, 35, 12):
        child = small.spawn(stage, random_state="parent")
        assert np.array_equal(end_of(child), end_of(kept))
        assert np.array_equal(child.parameters_at(1), kept.parameters_at(stage + 1))


@pytest.mark.parametrize("settings", [SETTINGS["dampened"], SETTINGS["adamw"], SETTINGS["scheduled"]])
def test_a_child_is_the_tail_of_a_plain_loop_over_its_batches(rows, settings):
    """One loop in torch: the parent's batches to the stage, then those that the child says it had."""
    X, y = (torch.from_numpy(part) for part in rows)
    net = make_net(**settings).fit(*rows)
    child = net.spawn(MID, random_state=3)
    module = net.module_at(0)
    optimizer = net._trajectory.optimizer(module.parameters(), **net._trajectory.replay.settings.optimizer_settings)
    batches = [*list(net._trajectory.batches)[:MID], *child._trajectory.batches]
    rates = [*net._trajectory.learning_rates[:MID], *child._trajectory.learning_rates]
    np.testing.assert_array_equal(rates, net._trajectory.learning_rates)
    for batch, rate in zip(batches, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (0.5 * (module(X[batch])[:, 0] - y[batch]) ** 2).mean().backward()
        optimizer.step()
    looped = torch.cat([part.detach().flatten() for part in module.parameters()])
    np.testing.assert_allclose(end_of(child), looped, rtol=1e-9, atol=1e-11)


def test_a_child_finishes_the_epoch_and_then_sees_every_row_once_an_epoch(parent, children):
    batches = list(parent._trajectory.batches)
    seen = np.concatenate(batches[6:MID])
    for child in children:
        own = list(child._trajectory.batches)
        assert [len(batch) for batch in own] == [len(batch) for batch in batches[MID:]]
        assert sorted(np.concatenate([seen, *own[:2]])) == list(range(40))
        assert sorted(np.concatenate(own[2:5])) == list(range(40))
    assert not np.array_equal(children[0]._trajectory.batches[0], children[1]._trajectory.batches[0])
    again = parent.spawn(MID, random_state=1)
    assert np.array_equal(end_of(again), end_of(children[0]))
    assert (again.random_state, again.seed_, again.max_iter) == (1, 1, 10)


@pytest.mark.parametrize("name", ["sgd", "dampened", "nesterov", "adam", "adamw", "module"])
def test_a_childs_telescope_rebuilds_it(rows, others, name):
    net = make_net(**SETTINGS[name] | {"dtype": "float64", "rule": "gauss2"}).fit(*rows)
    child, X = net.spawn(MID, random_state=3), others[0][:6]
    rebuilt = child.kernel_weights(X) @ rows[1] + child.offset(X)
    np.testing.assert_allclose(rebuilt, child.predict(X), atol=1e-4)
    response = child.telescope_.parameter_response(rows[1][:, None], offset=True).sum(axis=1)
    np.testing.assert_allclose(response, end_of(child), atol=1e-4)
    backward = child.telescope_.apply_adjoint(child.telescope_.backward_plan(6), X)
    np.testing.assert_allclose(backward, child.kernel_weights(X), atol=1e-8)
    np.testing.assert_array_equal(next(child.staged_predict(X, [0])), next(net.staged_predict(X, [MID])))


@pytest.mark.parametrize("name", ["dampened", "adamw"])
def test_a_childs_influence_is_the_derivative_of_its_own_updates(rows, name):
    """Weights that change from the child's first update on, in the optimiser that the parent left behind."""
    X, y = (torch.from_numpy(part) for part in rows)
    net = make_net(**SETTINGS[name] | {"rule": "gauss2", "max_iter": 4}).fit(*rows)
    child, query, row = net.spawn(MID, random_state=3), random_rows(3, seed=4)[0], 5

    def trained(change):
        module = net.module_at(MID)
        settings = net._trajectory.replay.settings.optimizer_settings
        optimizer = net._trajectory.optimizer(module.parameters(), **settings)
        state, first = net._trajectory.checkpoint(MID).states[0], 0
        for part in module.parameters():
            cut = slice(first, first + part.numel())
            first += part.numel()
            optimizer.state[part] = {
                key: value[cut].view_as(part).clone() if value.ndim else value.clone() for key, value in state.items()
            }
        for batch in child._trajectory.batches:
            weights = torch.ones(40, dtype=torch.float64)
            weights[row] += change
            optimizer.zero_grad()
            (0.5 * weights[batch] * (module(X[batch])[:, 0] - y[batch]) ** 2).mean().backward()
            optimizer.step()
        return module(torch.from_numpy(query)).detach().numpy()[:, 0]

    slope = (trained(1e-5) - trained(-1e-5)) / 2e-5
    found = child.influence(query)[:, row]
    np.testing.assert_allclose(found, slope, atol=0.05 * np.abs(slope).max() + 1e-6)


def test_children_of_children_go_on_too(parent, children):
    child = children[0]
    for stage in (1, 4, 8):  # the first within the epoch that the parent began
        grandchild = child.spawn(stage, random_state="parent")
        assert np.array_equal(end_of(grandchild), end_of(child))
        assert grandchild.loss_curve_ == child.loss_curve_[-grandchild.n_iter_ :]
    own = child.spawn(4, random_state=9)
    assert own._trajectory.n_before == MID + 4
    assert np.array_equal(own.spawn(3, random_state="parent").predict(np.eye(4)), own.predict(np.eye(4)))
    longer = child.spawn(4, random_state="parent", max_iter=20)
    assert np.array_equal(longer.parameters_at(child.n_stages_ - 4), end_of(child))
    assert longer.n_stages_ > child.n_stages_


def test_a_child_that_is_fitted_again_starts_anew(rows, parent):
    child = parent.spawn(30, random_state=4)
    again = clone(child).fit(*rows)
    assert np.array_equal(end_of(child.fit(*rows)), end_of(again))
    assert np.array_equal(child.parameters_at(0), again.parameters_at(0))
    assert child.n_stages_ == 6


def test_children_that_cannot_be_made_are_refused_by_name(rows, parent):
    with pytest.raises(ValueError, match="max_iter=12 of the parent has no epoch left after stage 36"):
        parent.spawn(36)
    assert parent.spawn(36, max_iter=2, random_state=0).n_stages_ == 6
    for settings in ({"max_iter": 0}, {"random_state": "other"}, {"random_state": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            parent.spawn(MID, **settings)
    changed = copy.deepcopy(parent).set_params(learning_rate_init=0.5, rule="left")
    with pytest.raises(ValueError, match=r"learning_rate_init=0\.5 was changed"):
        changed.spawn(MID)
    with pytest.raises(ValueError, match="shuffle=False"):
        make_net(shuffle=False, max_iter=2).fit(*rows).spawn(1)
    with pytest.raises(ValueError, match="diverged"):
        make_net(lr_schedule=rising, max_iter=3, momentum=0.0).fit(*rows).spawn(2, max_iter=60)


def rising(update):
    return 1.0 if update < 10 else 1e30


def test_a_registered_response_with_memory_must_take_it_over(rows, monkeypatch):
    monkeypatch.setattr(_update_rules, "_REGISTRY", dict(_update_rules._REGISTRY))

    class Momentum:
        def __init__(self, settings):
            self.velocity = 0

        def step(self, gradient, parameters, stage, rate, phi):
            self.velocity = 0.9 * self.velocity + gradient
            return -rate * self.velocity

    register_update_rule(torch.optim.SGD, Momentum)
    net = make_net(momentum=0.9).fit(*rows)
    with pytest.raises(ValueError, match="remember"):
        net.spawn(MID, random_state=0)

    def remember(self, state, parameters):
        self.velocity = torch.zeros_like(parameters)
        self.velocity[-1] = state["momentum_buffer"]

    Momentum.remember = remember
    child = net.spawn(MID, random_state=0)
    rebuilt = child.kernel_weights(rows[0]) @ rows[1] + child.offset(rows[0])
    np.testing.assert_allclose(rebuilt, child.predict(rows[0]), atol=1e-3)


def test_a_fit_can_start_from_the_parameters_of_another(rows, others):
    first = make_net(max_iter=3).fit(*rows)
    second = TelescopingMLPRegressor(module=first.module_at(9), dtype="float64", max_iter=2, random_state=5).fit(
        *others
    )
    assert np.array_equal(second.parameters_at(0), end_of(first))
    assert second.spawn(1, random_state=1).n_stages_ == 1


# Several nets


def test_interpolated_nets_are_those_of_interpolated_modules(children, others):
    X, (a, b) = others[0], children
    alphas = [0, 0.3, 1, 1.5]
    for alpha, net in zip(alphas, interpolate(a, b, alphas), strict=True):
        theta = alpha * end_of(a) + (1 - alpha) * end_of(b)
        module = net_at(torch.from_numpy(theta), (4, 10, 10, 1), "tanh")
        np.testing.assert_allclose(net.predict(X), module(torch.from_numpy(X)).detach().numpy().ravel(), atol=1e-12)
        assert not hasattr(net, "n_stages_")
        with pytest.raises(RecordDroppedError):
            net.kernel_weights(X)
    (given,) = interpolate(end_of(a), b, [0.3])
    np.testing.assert_array_equal(given.predict(X), next(iter(interpolate(a, b, [0.3]))).predict(X))
    a.kernel_weights(X[:1])  # its record is its own


def half(y, f):
    return 0.5 * float(((y - f) ** 2).mean())


@pytest.mark.parametrize("loss", ["squared_error", "error_rate", half])
def test_the_barrier_is_the_largest_excess_of_the_loss(parent, others, loss):
    X, y = others[0], (others[1] > 0).astype(float)
    a, b = (parent.spawn(0, random_state=seed, max_iter=30) for seed in (1, 2))
    measure = {"squared_error": lambda y, f: ((y - f) ** 2).mean(), "error_rate": lambda y, f: ((f > 0.5) != y).mean()}
    measure = measure.get(loss, loss)
    found = error_barrier(a, b, X, y, n_alphas=7, loss=loss)
    ends = [measure(y, net.predict(X)) for net in (a, b)]
    excess = []
    for alpha in np.linspace(0, 1, 7):
        module = net_at(torch.from_numpy(alpha * end_of(a) + (1 - alpha) * end_of(b)), (4, 10, 10, 1), "tanh")
        f = module(torch.from_numpy(X)).detach().numpy().ravel()
        excess.append(measure(y, f) - alpha * ends[0] - (1 - alpha) * ends[1])
    np.testing.assert_allclose(found.excess, excess, atol=1e-12)
    assert found.value == found.excess.max() >= 0
    assert error_barrier(a, a, X, y, loss=loss).value == pytest.approx(0, abs=1e-12)


def test_averages_are_those_of_voting_and_of_weights(children, others):
    X, y = others
    nets = [*children, children[0].parameters_at(3)]
    found = compare_averages(nets, X, y)
    averaged = average_weights(nets)
    np.testing.assert_allclose(
        averaged.module_.theta.detach(), np.mean([end_of(children[0]), end_of(children[1]), nets[2]], axis=0)
    )
    assert found.average_weights == pytest.approx(np.mean((y - averaged.predict(X)) ** 2))
    voting = VotingRegressor([(str(n), FrozenEstimator(net)) for n, net in enumerate(children)]).fit(X, y)
    pair = compare_averages(children, X, y)
    assert pair.ensemble == pytest.approx(np.mean((y - voting.predict(X)) ** 2))
    np.testing.assert_allclose(pair.members, [np.mean((y - net.predict(X)) ** 2) for net in children])
    gap = np.abs(voting.predict(X) - average_weights(children).predict(X)).mean()
    assert pair.prediction_gap == pytest.approx(gap)


def test_nets_and_labels_that_do_not_fit_are_refused(rows, parent, others):
    X, y = others
    wider = make_net(hidden_layer_sizes=(11, 10), max_iter=1).fit(*rows)
    relu = make_net(activation="relu", max_iter=1).fit(*rows)
    for other in (wider, relu):
        with pytest.raises(ValueError, match="same architecture"):
            error_barrier(parent, other, X, y)
    first, second = (make_net(module=branching, max_iter=1, random_state=seed).fit(*rows) for seed in (0, 1))
    assert error_barrier(first, second, X, y).losses.shape == (30,)
    with pytest.raises(ValueError, match="same architecture"):
        average_weights([parent, first])
    with pytest.raises(ValueError, match="fitted net"):
        interpolate(np.zeros(3), np.zeros(3), [0.5])
    with pytest.raises(ValueError, match="holds 3 parameters"):
        interpolate(parent, np.zeros(3), [0.5])
    with pytest.raises(ValueError, match="a and b must be finite"):
        interpolate(parent, np.full(parent.n_params_, np.nan), [0.5])
    with pytest.raises(ValueError, match="alphas must be finite"):
        interpolate(parent, parent, [np.nan])
    with pytest.raises(ValueError, match="TelescopingMLPRegressors"):
        average_weights([make_trees().fit(*rows)])
    with pytest.raises(NotFittedError):
        average_weights([parent, make_net()])
    for settings, message in (
        ({"n_alphas": 1}, "n_alphas"),
        ({"loss": "none"}, "loss"),
        ({"loss": "error_rate"}, "0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            error_barrier(parent, parent, X, y, **settings)
    with pytest.raises(ValueError, match="finite"):
        error_barrier(parent, parent, X, np.full(20, np.nan))
    with pytest.raises(ValueError, match="inconsistent"):
        error_barrier(parent, parent, X, y[:3])
    with pytest.raises(ValueError, match="n_children"):
        parent.error_barriers(X, y, [0], n_children=1)
    with pytest.raises(ValueError, match="n_updates"):
        parent.gradient_change(X, n_updates=37)
    with pytest.raises(ValueError, match=r"0\.\.33"):
        parent.gradient_change(X, [34])


@pytest.mark.parametrize("module", [None, branching])
def test_gradient_changes_are_those_of_single_examples(rows, others, module):
    net, X = make_net(max_iter=4, module=module).fit(*rows), torch.from_numpy(others[0])
    found = net.gradient_change(others[0], [0, 2], n_updates=5)
    for stage in (0, 2):
        nets = [net.module_at(at) for at in (stage, stage + 5)]
        rows_of = [torch.stack([gradient_row(each, x) for x in X]) for each in nets]
        square = ((rows_of[1] - rows_of[0]) ** 2).mean(dim=0).detach().numpy()
        first = {}
        for name, part in nets[0].named_parameters():
            first.setdefault(name.split(".")[0], []).append(square[: part.numel()])
            square = square[part.numel() :]
        expected = {name: np.concatenate(parts).mean() for name, parts in first.items()}
        assert list(expected) == list(found)
        np.testing.assert_allclose(found.loc[stage], list(expected.values()), rtol=1e-9)
    assert list(net.gradient_change(others[0], 3).index) == [3, 6, 9]  # an epoch before the end


# Displays


def test_displays_hold_what_the_net_says_and_draw_it(parent, others):
    display = ErrorBarrierDisplay.from_estimator(parent, *others, [0, 20], n_children=3, random_state=0, loss=half)
    np.testing.assert_array_equal(
        display.barriers, parent.error_barriers(*others, [0, 20], n_children=3, random_state=0, loss=half)
    )
    assert display.barriers.shape == (2, 3)
    assert (display.barriers.to_numpy() >= 0).all()
    np.testing.assert_array_equal(display.line_.get_ydata(), display.barriers.mean(axis=1))
    assert display.band_ is not None
    changes = GradientChangeDisplay.from_estimator(parent, others[0], stages=4)
    assert [line.get_label() for line in changes.lines_] == ["hidden1", "hidden2", "output"]
    for line, values in zip(changes.lines_, changes.changes.to_numpy().T, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), values)
    with pytest.raises(TypeError, match="TelescopingGBTRegressor"):
        GradientChangeDisplay.from_estimator(make_trees().fit(*others), others[0])
