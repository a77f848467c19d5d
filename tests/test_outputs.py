"""Nets of several outputs, whole runs: every answer against one-sample autograd.

The oracle knows one output only. Each output of a row is a row of its own to it, numbered in a last column: a net that
looks its output up by that number is trained on them, in batches that hold all outputs of a row.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_rows
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from oracles import NetLoops, adam_phi, adam_step, adamw_step, fresh_net, sgd_step
from sklearn import config_context
from test_functional import Residual, seeded
from torch import nn

from telescoping_sklearn._estimates import probe_blocks
from telescoping_sklearn.neural._functional import FunctionalNetwork
from telescoping_sklearn.neural._modules import read_module
from telescoping_sklearn.neural._path import Path
from telescoping_sklearn.neural._recorder import Recorder
from telescoping_sklearn.neural._sections import Sections, equal_sections
from telescoping_sklearn.neural._tangent import tangent
from telescoping_sklearn.neural._tangent_telescope import TangentTelescope

N, M, T = 9, 4, 6
BATCHES = [np.arange(4 * update, 4 * update + 4) % N for update in range(T)]
RATES = [0.05 * 0.9**update for update in range(T)]
WEIGHTS = np.array([0.0, 1.5, 1, 1, 0.5, 2, 1, 1, 1])
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {}, sgd_step),
    "momentum": (torch.optim.SGD, {"momentum": 0.8, "dampening": 0.1, "weight_decay": 0.2}, sgd_step),
    "nesterov": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True}, sgd_step),
    "adam": (torch.optim.Adam, {"weight_decay": 0.1}, adam_step),
    "adamw": (torch.optim.AdamW, {"amsgrad": True, "weight_decay": 0.3}, adamw_step),
}


class Wide(Residual):
    """A residual block with three outputs."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(6, 3)


class Picked(nn.Module):
    """One output of a net, by its number in the last column."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, Z):
        return self.inner(Z[:, :-1]).reshape(len(Z), -1).gather(1, Z[:, -1:].long())


def pairs(rows, n_outputs):
    """Every output of every row as a row."""
    return np.column_stack([np.repeat(rows, n_outputs, axis=0), np.tile(np.arange(float(n_outputs)), len(rows))])


def labels(X, n_outputs):
    return np.stack([np.sin(X[:, output]) + output for output in range(n_outputs)], axis=1)


def perceptron(widths, activation="tanh", output_activation="identity"):
    return seeded(lambda: fresh_net(widths, activation, output_activation)).double()


def phi_of(optimizer):
    return None if optimizer is torch.optim.SGD else adam_phi


class Run:
    """A run of a net of several outputs: its telescope by either route, and the oracle."""

    def __init__(self, module, n_outputs, optimizer="sgd", ends=range(1, T + 1), rule="midpoint", functional=False):
        cls, settings, step = OPTIMIZERS[optimizer]
        self.o, (self.X, _), self.query = n_outputs, random_rows(N), random_rows(M, seed=1)[0]
        self.y = labels(self.X, n_outputs)
        self.loops = NetLoops(
            Picked(module),
            lambda parts: cls(parts, lr=1.0, **settings),
            step,
            phi_of(cls),
            RATES,
            [(n_outputs * batch[:, None] + np.arange(n_outputs)).ravel() for batch in BATCHES],
            pairs(self.X, n_outputs),
            self.y.ravel(),
            np.repeat(WEIGHTS, n_outputs) * n_outputs,  # the mean over a batch is one over its rows
            ends,
            rule,
        )
        some = self.X[:3]
        network = (
            FunctionalNetwork(module, torch.as_tensor(some), n_outputs)
            if functional
            else read_module(module, some, n_outputs=n_outputs)[0]
        )
        self.recorded = self.train(module, cls, settings)
        np.testing.assert_allclose(self.recorded.parameters, torch.stack(self.loops.path), atol=1e-6)
        phis = self.recorded.denominators
        self.loops.follow(list(self.recorded.parameters), [None] * T if phis is None else list(phis))
        path = Path(network, self.recorded, self.X, WEIGHTS, rule, torch.float64, torch.device("cpu"))
        self.telescope = TangentTelescope(
            path,
            Sections(np.array(list(ends))),
            self.recorded.make_update_rule,
            y=self.y,
            trained=WEIGHTS > 0,
            seed=0,
        )

    def train(self, module, cls, settings):
        """Train in a plain loop: squared errors are summed over outputs, and averaged over rows."""
        net = copy.deepcopy(module)
        optimizer = cls([part for part in net.parameters() if part.requires_grad], lr=1.0, **settings)
        X, y, w = (torch.as_tensor(part) for part in (self.X, self.y, WEIGHTS))
        with Recorder(net.parameters(), optimizer) as recorder:
            for rate, batch in zip(RATES, BATCHES, strict=True):
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
                errors = ((y[batch] - net(X[batch]).reshape(len(batch), -1)) ** 2).sum(dim=1)
                (w[batch] * errors).mean().div(2).backward()
                optimizer.step()
        return recorder.finish(BATCHES)

    def response(self, V, stages, offset=False):
        """The oracle's response of queries, (m, o, k), at stages."""
        found = self.loops.response(V, pairs(self.query, self.o), stages, offset)
        return [reached.reshape(M, self.o, -1) for _, reached in found]

    @property
    def unit(self):
        return np.eye(N * self.o)

    def weights(self, stage=T):
        return self.response(self.unit, [stage])[0].reshape(M, self.o, N, self.o)

    def weights_by_route(self):
        """S of the queries by every plan, over the sections of the telescope."""
        telescope, found, V = self.telescope, {}, self.unit.reshape(N, self.o, -1)
        for plan in telescope.plans("forward", M, N * self.o):
            plan = replace(plan, sections=telescope.sections)
            response = next(telescope.apply_response(plan, self.query, V, False, np.array([T])))
            found[plan.route] = response.reshape(M, self.o, N, self.o)
        for plan in telescope.plans("backward", M, M * self.o):
            plan = replace(plan, sections=telescope.sections)
            found[plan.route] = telescope.apply_adjoint(plan, self.query)
        return found


def close(found, expected, **more):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12 * max(1, np.abs(expected).max()), **more)


@given(
    n_outputs=st.integers(1, 3),
    hidden=st.lists(st.integers(1, 4), max_size=2),
    activation=st.sampled_from(["tanh", "relu", "gelu", "sigmoid", "identity"]),
    output_activation=st.sampled_from(["identity", "sigmoid"]),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    rule=st.sampled_from(["left", "midpoint", "gauss2"]),
    cuts=st.sets(st.integers(1, T - 1)),
    functional=st.booleans(),
    working_memory=st.sampled_from([1e-3, 1024]),
)
@hypothesis_settings(deadline=None, max_examples=8)
def test_weights_of_every_output_are_those_of_one_sample_autograd(
    n_outputs, hidden, activation, output_activation, optimizer, rule, cuts, functional, working_memory
):
    module = perceptron((4, *hidden, n_outputs), activation, output_activation)
    run = Run(module, n_outputs, optimizer, sorted({*cuts, T}), rule, functional)
    with config_context(working_memory=working_memory):
        found = run.weights_by_route()
    assert len(found) == (4 if optimizer == "sgd" else 2)
    expected = run.weights()
    for route, weights in found.items():
        close(weights, expected, err_msg=route)


MODULES = {
    "layerwise": (lambda: perceptron((4, 5, 3, 2)), 2, False),
    "functional": (lambda: perceptron((4, 5, 3, 2)), 2, True),
    "residual": (lambda: seeded(Wide).double(), 3, False),
}


@pytest.fixture(params=MODULES)
def module(request):
    make, n_outputs, functional = MODULES[request.param]
    return {"module": make(), "n_outputs": n_outputs, "functional": functional}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_answer_of_several_outputs(module, optimizer):
    run = Run(**module, optimizer=optimizer, ends=[2, 5, T])
    telescope, o, query = run.telescope, run.o, run.query
    S, stages = run.weights(), [0, 1, 4, T]
    close(telescope.kernel_weights(query), S)
    close(telescope.kernel_weights(run.X[:1]), telescope.kernel_weights(None)[:1])
    offsets = run.response(np.zeros((N * o, 1)), stages, offset=True)
    close(telescope.offset(query), offsets[-1][..., 0])
    for found, part in zip(telescope.staged_response(query, run.y[..., None], True, stages), offsets, strict=True):
        close(found[..., 1:], part)
    rebuilt = np.einsum("mcnd,nd->mc", S, run.y) + offsets[-1][..., 0]
    close(telescope.reconstruct(query), rebuilt)

    model = [run.loops.outputs(theta, pairs(query, o)).numpy().reshape(M, o) for theta in run.loops.path]
    close(list(telescope.staged_model(query, stages)), [model[stage] for stage in stages])
    assert np.abs(rebuilt - model[-1]).max() < 0.02
    error = telescope.approximation_error(query)
    assert error.reconstruction_max == pytest.approx(np.abs(rebuilt - model[-1]).max(), rel=1e-6)

    exact = telescope.staged_effective_params(query, stages=[T], n_probes=None).value
    close(exact, [(WEIGHTS > 0).sum() / M * (S**2).sum()])
    sets = telescope.staged_effective_params(query, stages=[T], n_probes=None, subsets=[[1], [0, 2]]).value[0]
    close(sets, [(WEIGHTS > 0).sum() / size * (S[rows] ** 2).sum() for rows, size in (([1], 1), ([0, 2], 2))])
    close(telescope.own_weights(), np.einsum("ncnc->nc", telescope.kernel_weights(None)))
    training = telescope.kernel_weights(None)[WEIGHTS > 0]
    p, trace = telescope.training_summary(n_probes=None)
    close(p.value, (training**2).sum())
    close(trace.value, np.einsum("ncnc->", training[:, :, WEIGHTS > 0]))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_kernels_and_first_order_models_of_several_outputs(module, optimizer):
    run = Run(**module, optimizer=optimizer)
    telescope, o, loops = run.telescope, run.o, run.loops
    kernels = [loops.kernel(pairs(run.query, o), stage) for stage in (1, 4)]
    for found, kernel in zip(telescope.staged_kernel(run.query, [1, 4]), kernels, strict=True):
        close(found.toarray(), kernel)
    norms = [np.linalg.norm(kernel, axis=1).reshape(M, o) for kernel in kernels]
    close(telescope.kernel_norms(run.query, [1, 4]), norms)
    by_parts = super(TangentTelescope, telescope).staged_kernel_norms(run.query, [1, 4])
    close(list(by_parts), norms)
    of_training = [np.linalg.norm(loops.kernel(loops.X, stage), axis=1).reshape(N, o) for stage in (1, 4)]
    peaks = [np.mean([norm.max() for norm in each]) for each in (norms, [rows[WEIGHTS > 0] for rows in of_training])]
    assert telescope.kernel_norm_ratio(run.query, [1, 4]) == pytest.approx(peaks[0] / peaks[1])

    path, rows = loops.path, pairs(run.query, o)
    start = loops.outputs(path[0], rows)
    close(telescope.start(run.query).offset, start.reshape(M, o))
    linearized = start + loops.jacobian(path[0], rows) @ (path[T] - path[0])
    close(list(telescope.staged_linearized(run.query, [T])), [linearized.reshape(M, o)])
    parts = [start, *(loops.outer(t - 1, t, rows) @ (path[t] - path[t - 1]) for t in range(1, T + 1))]
    stages, contributions = telescope.breakdown(run.query)
    assert stages.tolist() == list(range(T + 1))
    close(contributions, np.stack(parts).reshape(-1, M, o))
    close(list(telescope.staged_telescoping(run.query, [T])), [sum(parts).reshape(M, o)])
    with pytest.raises(ValueError, match=f"^top_examples is about one output, and this model has {o}: give output"):
        telescope.top_examples(run.query, 1)


def test_parameters_respond_to_labels_of_every_output(module):
    run = Run(**module, optimizer="momentum")
    response = run.telescope.parameter_response(run.y[..., None], offset=True)
    end = run.recorded.parameters[-1].numpy()
    np.testing.assert_allclose(response.sum(axis=1), end, atol=1e-3)


def test_probes_complete_the_leading_directions_of_every_output(module):
    telescope, o = Run(**module).telescope, module["n_outputs"]
    n_labels, n_directions, n_probes = N * o, 2 * o, 4000
    V = np.concatenate(list(probe_blocks(telescope, None, 0, n_probes)[1]), axis=-1).reshape(n_labels, -1)
    leading, probes = np.split(V, [n_directions], axis=1)
    np.testing.assert_allclose(leading.T @ leading, np.eye(n_directions), atol=1e-12)
    np.testing.assert_allclose(leading.T @ probes, 0, atol=1e-10)
    each = np.kron(WEIGHTS, np.eye(o)[0])  # the weights of the rows, as labels of the first output
    np.testing.assert_allclose(leading @ (leading.T @ each), each, atol=1e-12)
    whole = leading @ leading.T + probes @ probes.T / n_probes
    np.testing.assert_allclose(whole, np.diag(np.repeat(WEIGHTS > 0, o).astype(float)), atol=0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_estimates_of_several_outputs_agree_with_exact_values(module, optimizer):
    telescope, query = (run := Run(**module, optimizer=optimizer)).telescope, run.query
    for n_probes in (None, 600):
        p, trace = telescope.training_summary(n_probes)
        found = [p, trace, telescope.staged_effective_params(query, stages=[T], n_probes=n_probes)]
        if n_probes is None:
            exact = found
    for estimate, expected in zip(found, exact, strict=True):
        assert np.all(estimate.standard_error < 0.1 * expected.value)
        assert np.all(np.abs(estimate.value - expected.value) <= 4 * estimate.standard_error)


def test_tangents_of_several_outputs_by_both_routes():
    X, Z = (torch.as_tensor(random_rows(n, seed=n)[0]) for n in (5, 3))
    module = perceptron((4, 5, 1, 3), "gelu", "sigmoid")
    networks = read_module(module, X.numpy(), n_outputs=3)[0], FunctionalNetwork(module, X, 3)
    theta = networks[1].initial_parameters()
    J, other = (
        torch.func.jacrev(lambda at, rows=rows: networks[0].forward(at, rows).flatten())(theta) for rows in (X, Z)
    )
    rng = np.random.default_rng(0)
    directions, columns = (torch.as_tensor(rng.normal(size=shape)) for shape in ((6, len(theta)), (15, 2)))
    for network in networks:
        here, there = (tangent(network, theta, rows) for rows in (X, Z))
        assert here.n_pairs == 15
        for found, expected in [
            (here.gradients(), J),
            (here.jvp(directions), J @ directions.T),
            (here.vjp(columns), columns.T @ J),
            (here.kernel(there), J @ other.T),
            (here.kernel(there, X @ Z.T), J @ other.T),
        ]:
            torch.testing.assert_close(found, expected)


def test_the_pilot_judges_several_outputs(module):
    run = Run(**module, ends=[3, T])
    telescope = run.telescope
    assert telescope.last_sound_stage == T
    assert telescope.accuracy.relative_error(np.array([T])) > 0
    single = replace(telescope.sections, ends=equal_sections(T, 1).ends)
    assert telescope._with_sections(single).accuracy.relative_error(np.array([T])) == 0


def test_labels_and_network_have_as_many_outputs(module):
    telescope = Run(**module).telescope
    with pytest.raises(ValueError, match=f"y has 1 outputs, and the network {module['n_outputs']}"):
        TangentTelescope(
            telescope.path, telescope.sections, None, y=telescope.y[:, 0], trained=telescope.trained, seed=0
        )
