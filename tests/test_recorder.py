"""The recorder in plain torch loops: several tensors, parameter groups, and parameters that stay as they are."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from conftest import random_rows
from oracles import NetLoops, adam_phi, adam_step, adamw_step, sgd_step
from torch import nn

from telescoping_sklearn.neural._functional import FunctionalNetwork
from telescoping_sklearn.neural._path import Path
from telescoping_sklearn.neural._recorder import FlatParameters, Recorder
from telescoping_sklearn.neural._sections import equal_sections
from telescoping_sklearn.neural._tangent_telescope import TangentTelescope

N, T, L = 12, 6, 2
RATES = [0.05 * 0.9**update for update in range(T)]
BATCHES = [np.arange(5 * update, 5 * update + 5) % N for update in range(T)]
OPTIMIZERS = {
    "momentum": (torch.optim.SGD, {"momentum": 0.8}, sgd_step),
    "nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}, sgd_step),
    "plain": (torch.optim.SGD, {"momentum": 0.0}, sgd_step),
    "adam": (torch.optim.Adam, {}, adam_step),
    "adamw": (torch.optim.AdamW, {"amsgrad": True}, adamw_step),
}


@pytest.fixture
def module():
    """Three layers: the one in the middle requires no gradient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    net[2].requires_grad_(False)
    return net


def groups(tensors):
    """Weights and a bias in groups of their own settings; the last bias is in none."""
    first, bias, last, _ = tensors
    return [
        {"params": [first, last], "lr": RATES[0], "weight_decay": 0.3},
        {"params": [bias], "lr": 0.02, "weight_decay": 0.0},
    ]


def trainable(module):
    return [tensor for tensor in module.parameters() if tensor.requires_grad]


def backward(module, X, y, batch):
    ((y[batch] - module(X[batch])[:, 0]) ** 2).mean().div(2).backward()


def recorded(module, optimizer, X, y, hooked=False):
    """Train in a plain loop; the run that was recorded."""
    X, y, recorder = torch.as_tensor(X), torch.as_tensor(y), Recorder(module.parameters(), optimizer)
    for rate, batch in zip(RATES, BATCHES, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        backward(module, X, y, batch)
        if hooked:
            with recorder:
                optimizer.step()
        else:
            recorder.before_step()
            optimizer.step()
            recorder.after_step()
    end = torch.cat([tensor.detach().flatten() for tensor in trainable(module)])
    optimizer.step()  # not recorded
    return recorder.finish(BATCHES, end=end)


def by_entry(*values):
    """A setting for every entry of theta, given those of its tensors: one step with it is that of all groups."""
    return torch.tensor(values, dtype=torch.float64).repeat_interleave(torch.tensor([20, 5, 5, 1]))[:, None]


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize(("optimizer", "settings", "step"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_plain_loop_with_groups_is_recorded_and_explained(module, optimizer, settings, step, hooked):
    (X, y), query = random_rows(N), random_rows(9, seed=1)[0]

    def make(tensors):
        return optimizer(groups(tensors), **settings)

    def phi(state, group):
        return adam_phi(state, group) if state else torch.ones(1)

    loops = NetLoops(
        module,
        make,
        step,
        None if step is sgd_step else phi,
        RATES,
        BATCHES,
        X,
        y,
        np.ones(N),
        range(L, T + 1, L),
        "left",
    )
    network = FunctionalNetwork(module, torch.as_tensor(X[:3]))
    run = recorded(module, make(trainable(module)), X, y, hooked)
    torch.testing.assert_close(run.parameters, torch.stack(loops.path), rtol=0, atol=0)
    np.testing.assert_array_equal(run.group_rates, [[rate, 0.02] for rate in RATES])
    assert [batch.tolist() for batch in run.batches] == [batch.tolist() for batch in BATCHES]
    if run.adaptive:
        torch.testing.assert_close(run.denominators, torch.stack(loops.phis), rtol=1e-13, atol=0)

    loops.settings["weight_decay"] = by_entry(0.3, 0, 0.3, 0)
    loops.rates = [by_entry(rate, 0.02, rate, 0) for rate in RATES]
    path = Path(network, run, X, np.ones(N), "left", torch.float64, torch.device("cpu"))
    telescope = TangentTelescope(
        path, equal_sections(T, L), run.make_update_rule, y=y, trained=np.ones(N, bool), seed=0
    )
    ((weights, reached),) = loops.response(np.eye(N), query, [T])
    np.testing.assert_allclose(telescope.kernel_weights(None), weights, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(telescope.kernel_weights(query[:1]), reached[:1], rtol=1e-9, atol=1e-13)
    offset = loops.response(np.zeros((N, 1)), query, [T], offset=True)[0][1][:, 0]
    np.testing.assert_allclose(telescope.offset(query), offset, rtol=1e-9, atol=1e-13)


FROZEN_GROUPS = {
    "first": lambda trained, frozen: [frozen, trained],
    "last": lambda trained, frozen: [trained, frozen],
    "on both sides": lambda trained, frozen: [frozen[:1], trained, frozen[1:]],
    "beside trained ones": lambda trained, frozen: [frozen[:1], [*trained, frozen[1]]],
    "with two trained groups": lambda trained, frozen: [frozen, trained[:2], trained[2:]],
}
FROZEN_RATES = {
    "a schedule": lambda update: 0.4 * 0.5**update,
    "equal at first": lambda update: RATES[update] if update < 3 else 5.0,
    "zero": lambda update: 0.0,
}


def run_of_groups(module, trained, groups, make, frozen_rate=None):
    """The run of a plain loop: the groups that hold trained tensors have RATES, the others another rate."""
    X, y = (torch.as_tensor(part) for part in random_rows(N))
    optimizer = make([{"params": group, "lr": RATES[0]} for group in groups])
    recorder = Recorder(module.parameters(), optimizer)
    for update, batch in enumerate(BATCHES):
        for group in optimizer.param_groups:
            moves = any(part is other for part in group["params"] for other in trained)
            group["lr"] = RATES[update] if moves else frozen_rate(update)
        gradients = torch.autograd.grad(((y[batch] - module(X[batch])[:, 0]) ** 2).mean() / 2, trained)
        for part, gradient in zip(trained, gradients, strict=True):
            part.grad = gradient
        with recorder:
            optimizer.step()
    return recorder.finish(BATCHES)


def weights_by_route(module, run, query):
    """Kernel weights by every route of the telescope."""
    X, y = random_rows(N)
    network = FunctionalNetwork(module, torch.as_tensor(X[:3]))
    path = Path(network, run, X, np.ones(N), "midpoint", torch.float64, torch.device("cpu"))
    telescope = TangentTelescope(
        path, equal_sections(T, L), run.make_update_rule, y=y, trained=np.ones(N, bool), seed=0
    )
    plans = [*telescope.plans("forward", len(query), N), *telescope.plans("backward", len(query), N)]
    return {plan.route: telescope._weights(plan, query)[0] for plan in plans}


@pytest.mark.parametrize("how", ["requires no gradient", "gets no gradient"])
@pytest.mark.parametrize("arranged", FROZEN_GROUPS.values(), ids=FROZEN_GROUPS)
@pytest.mark.parametrize("layer", [0, 2, 4])
@pytest.mark.parametrize("name", ["plain", "momentum", "adamw"])
def test_learning_rates_of_frozen_groups_play_no_part(module, name, layer, arranged, how):
    """Weights are those of an optimiser that holds the trained tensors only, in one group."""
    optimizer, settings, _ = OPTIMIZERS[name]
    query, make = random_rows(3, seed=1)[0], partial(optimizer, **settings)
    module.requires_grad_(True)
    module[layer].requires_grad_(False)
    alone = copy.deepcopy(module)
    expected = weights_by_route(alone, run_of_groups(alone, trainable(alone), [trainable(alone)], make), query)
    for frozen_rate in FROZEN_RATES.values():
        net = copy.deepcopy(module)
        trained, frozen = trainable(net), list(net[layer].parameters())
        net[layer].requires_grad_(how == "gets no gradient")
        run = run_of_groups(net, trained, arranged(trained, frozen), make, frozen_rate)
        for weights in weights_by_route(net, run, query).values():
            np.testing.assert_allclose(weights, expected["parameters"], rtol=1e-9, atol=1e-13)


def test_parameters_that_no_gradient_reaches_stay_as_they_are(module):
    module.register_parameter("unused", nn.Parameter(torch.ones(3, dtype=torch.float64)))  # comes first in theta
    X, y = (torch.as_tensor(part) for part in random_rows(N))
    optimizer = torch.optim.Adam(module.parameters(), weight_decay=0.5)
    with Recorder(module.parameters(), optimizer) as recorder:
        for batch in BATCHES:
            optimizer.zero_grad()
            backward(module, X, y, batch)
            optimizer.step()
    run = recorder.finish(BATCHES)
    assert torch.equal(run.parameters[:, :3], torch.ones((T + 1, 3), dtype=torch.float64))
    ones = torch.ones((2, len(run.start)), dtype=torch.float64)
    rule, phi = run.make_update_rule(), run.phi(1)
    for step in (rule.step(ones.clone(), ones, 1, 0.1, phi), *rule.transposed_step(ones.clone(), 1, 0.1, phi)):
        assert not step[:, :3].any()
        assert step[:, 3:].all()


def test_a_checkpoint_brings_tensors_and_groups_back(module):
    X, y = (torch.as_tensor(part) for part in random_rows(N))
    optimizer = torch.optim.Adam(groups(trainable(module)), amsgrad=True)
    flat = FlatParameters(module.parameters(), optimizer)

    def train(batches):
        for batch in batches:
            optimizer.zero_grad()
            backward(module, X, y, batch)
            optimizer.step()
            optimizer.param_groups[1]["lr"] *= 0.9
            yield flat.checkpoint()

    made = list(train(BATCHES))
    flat.restore(made[2])
    *_, again = train(BATCHES[3:])
    assert torch.equal(again.theta, made[-1].theta)
    assert again.groups == made[-1].groups
    assert len(again.states[2]) == 4
    assert not again.states[3]


def start(module, **settings):
    """A recorder after one update, and its optimiser."""
    X, y = (torch.as_tensor(part) for part in random_rows(N))
    optimizer = torch.optim.SGD(groups(trainable(module)), **{"momentum": 0.5} | settings)
    backward(module, X, y, BATCHES[0])
    recorder = Recorder(module.parameters(), optimizer)
    with recorder:
        optimizer.step()
    return recorder, optimizer


CHANGES = {
    "weight_decay of parameter group 1, 0.0 before and 0.5 now": lambda module, optimizer: optimizer.param_groups[
        1
    ].update(weight_decay=0.5),
    "the number of parameter groups, 2 before and 3 now": lambda module, optimizer: optimizer.add_param_group(
        {"params": [module[4].bias]}
    ),
    "cannot be recorded: requires_grad of a parameter": lambda module, optimizer: module[2].requires_grad_(True),
    "which parameters have a gradient": lambda module, optimizer: optimizer.zero_grad(),
}


@pytest.mark.parametrize("message", CHANGES)
def test_what_a_response_cannot_follow_is_refused(module, message):
    recorder, optimizer = start(module)
    CHANGES[message](module, optimizer)
    with recorder, pytest.raises(ValueError, match=f"pdate 2 (changes )?{message}"):
        optimizer.step()


@pytest.mark.parametrize("where", [lambda net: net[0].bias, lambda net: net[4].bias], ids=["moved", "unheld"])
def test_a_step_that_is_not_the_optimisers_is_refused(module, where):
    recorder, optimizer = start(module)
    recorder.before_step()
    optimizer.step()
    where(module).data += 1e-3
    with pytest.raises(ValueError, match=r"SGD.*does not give the step of update 2"):
        recorder.after_step()


def test_an_optimiser_that_has_made_steps_is_refused(module):
    optimizer = start(module)[1]
    with Recorder(module.parameters(), optimizer), pytest.raises(ValueError, match="step of update 1"):
        optimizer.step()


def test_parameters_and_optimiser_fit_together(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer moves tensors that are not among parameters"):
        Recorder(module[0].parameters(), optimizer)
    with pytest.raises(ValueError, match="parameters must hold tensors that require a gradient"):
        Recorder(module[2].parameters(), optimizer)
    with pytest.raises(ValueError, match="of one dtype"):
        Recorder([*module[0].parameters(), torch.ones(1, requires_grad=True)], optimizer)
    with pytest.raises(ValueError, match="optimizer=Rprop has no registered response"):
        Recorder(module.parameters(), torch.optim.Rprop(module.parameters()))
    recorder, _ = start(module)
    for batches in ([], BATCHES[:2]):
        with pytest.raises(ValueError, match=f"batches holds {len(batches)} updates, and 1 were recorded"):
            recorder.finish(batches)
