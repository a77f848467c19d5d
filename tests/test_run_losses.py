"""Recorded runs of losses that are not quadratic, against finite differences of the run with its structure held.

The oracle runs the optimiser again along the recorded Jacobians with other labels or other weights of the rows: its
outputs are those recorded, plus what the Jacobians make of the difference of the steps. Gradients are autograd's, of
torch's own losses.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_rows
from influence_oracle import AGAIN
from oracles import NODES, fresh_net
from test_functional import seeded
from test_outputs import Wide
from torch.nn import functional

from telescoping_sklearn._telescope import NotASmootherError
from telescoping_sklearn.losses import CrossEntropy, Gamma, Logistic, Loss, Poisson, SquaredError, Tweedie
from telescoping_sklearn.neural._functional import FunctionalNetwork
from telescoping_sklearn.neural._modules import read_module
from telescoping_sklearn.neural._path import Path
from telescoping_sklearn.neural._pilot import run_pilot
from telescoping_sklearn.neural._recorder import Recorder
from telescoping_sklearn.neural._sections import Sections
from telescoping_sklearn.neural._tangent_telescope import TangentTelescope

N, M, T = 8, 3, 6
BATCHES = [np.arange(4 * update, 4 * update + 4) % N for update in range(T)]
WEIGHTS = np.array([0.0, 1.5, 1, 1, 0.5, 2, 1, 1])
ENDS = [2, 5, T]


def over_outputs(loss):
    """A loss of rows from torch's loss of single numbers."""
    return lambda f, y: loss(f, y, reduction="none").sum(dim=1)


def poisson(f, y, reduction):
    return functional.poisson_nll_loss(f, y, log_input=True, reduction=reduction)


def tweedie(f, y, reduction):
    return 2 * torch.exp(f / 2) + 2 * y * torch.exp(-f / 2)


#: Ours, torch's loss of rows, and the number of outputs.
LOSSES = {
    "cross-entropy": (CrossEntropy(), lambda f, y: functional.cross_entropy(f, y, reduction="none"), 3),
    "logistic": (Logistic(), over_outputs(functional.binary_cross_entropy_with_logits), 1),
    "logistic, two labels": (Logistic(), over_outputs(functional.binary_cross_entropy_with_logits), 2),
    "poisson": (Poisson(), over_outputs(poisson), 2),
    "gamma": (Gamma(), over_outputs(lambda f, y, reduction: f + y * torch.exp(-f)), 1),
    "tweedie": (Tweedie(), over_outputs(tweedie), 2),
}
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.3}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.03, "weight_decay": 0.3}),
}


def labels_of(loss, n_outputs):
    """Labels within what the loss takes, shares of classes among them."""
    drawn = np.random.default_rng(1).uniform(0.1, 0.9, size=(N, n_outputs))
    return drawn / drawn.sum(axis=1, keepdims=True) if isinstance(loss, CrossEntropy) else drawn


class LossRun:
    """A run in a plain torch loop, its telescope, and its oracle."""

    def __init__(self, name, optimizer="sgd", rule="midpoint", module=None, ends=ENDS):
        loss, self.of_rows, self.o = LOSSES[name]
        self.X, self.query = random_rows(N)[0], random_rows(M, seed=1)[0]
        self.y, (cls, settings) = labels_of(loss, self.o), OPTIMIZERS[optimizer]
        net = seeded(lambda: fresh_net((4, 5, self.o), "tanh", "identity")).double() if module is None else module()
        network, _, _ = read_module(net, self.X[:3], n_outputs=self.o)
        self.recorded = self.train(copy.deepcopy(net), cls, settings)
        self.path = Path(network, self.recorded, self.X, WEIGHTS, rule, torch.float64, torch.device("cpu"))
        y = loss.labels(self.y, self.o)
        rows = {"y": y, "trained": WEIGHTS > 0, "seed": 0, "loss": loss}
        sections = Sections(np.array(ends))
        self.telescope = TangentTelescope(self.path, sections, self.recorded.make_update_rule, **rows)
        self.prepare(ends)

    def train(self, net, cls, settings):
        optimizer = cls(net.parameters(), **settings)
        X, y, w = (torch.as_tensor(part) for part in (self.X, self.y, WEIGHTS))
        with Recorder(net.parameters(), optimizer) as recorder:
            for batch in BATCHES:
                optimizer.zero_grad()
                (w[batch] * self.of_rows(net(X[batch]).reshape(len(batch), -1), y[batch])).mean().backward()
                optimizer.step()
        return recorder.finish(BATCHES)

    # -- the oracle --------------------------------------------------------------------------------------------------

    def outputs(self, theta, rows):
        return self.path.network.forward(theta, torch.as_tensor(rows)).reshape(len(rows), self.o)

    def jacobian(self, theta, rows):
        """J of every output of every row, (n, o, p), by autograd."""
        return torch.func.jacrev(lambda at: self.outputs(at, rows))(theta)

    def outer(self, first, last, rows):
        start, end = self.recorded.theta(first), self.recorded.theta(last)
        nodes = NODES[self.path.rule]
        return sum(self.jacobian(torch.lerp(start, end, node), torch.as_tensor(rows)) for node in nodes) / len(nodes)

    def prepare(self, ends):
        """Take the Jacobians and outputs of the run once."""
        self.ends, self.inside, self.at_ends, first = ends, [], {}, 0
        for t, batch in enumerate(BATCHES, start=1):
            before, rows = self.recorded.theta(t - 1), torch.as_tensor(self.X[batch])
            self.inside.append(
                (first, self.outputs(before, rows), self.jacobian(before, rows), self.outer(first, t - 1, rows))
            )
            if t in ends:
                self.at_ends[t] = self.outer(first, t, self.X), self.outer(first, t, self.query)
                first = t

    def gradient(self, t, f, y, weights, of_rows):
        """Gradient of an update in the outputs of its rows, (b, o), by autograd."""
        batch, f = BATCHES[t - 1], f.clone().requires_grad_()
        (torch.as_tensor(weights)[batch] * of_rows(f, torch.as_tensor(y)[batch])).mean().backward()
        return f.grad

    def again(self, y, weights=WEIGHTS, held=True, of_rows=None):
        """Change of the outputs of the query, (m, o), had labels or weights been others."""
        settings, name = self.recorded.slices[0].settings, self.recorded.optimizer.__name__
        moved = np.zeros((T + 1, len(self.recorded.start)))
        training, reached, state = torch.zeros(N, self.o).double(), torch.zeros(M, self.o).double(), {}
        for t, batch in enumerate(BATCHES, start=1):
            first, f, there, inside = self.inside[t - 1]
            ahead = torch.as_tensor(moved[t - 1] - moved[first])
            g = self.gradient(t, f + training[batch] + inside @ ahead, y, weights, of_rows or self.of_rows)
            G = torch.einsum("bo,bop->p", g, there).numpy()
            phi = self.recorded.phi(t).numpy() if held and self.recorded.adaptive else None
            before, after = self.recorded.theta(t - 1).numpy(), self.recorded.theta(t).numpy()
            step = AGAIN[name](settings, G, before + moved[t - 1], state, t, self.recorded.learning_rate(t), phi)
            moved[t] = moved[t - 1] + step - (after - before)
            if t in self.ends:
                ahead = torch.as_tensor(moved[t] - moved[first])
                training, reached = (
                    part + J @ ahead for part, J in zip((training, reached), self.at_ends[t], strict=True)
                )
        return reached.numpy()

    def by_labels(self, V, of_rows=None, step=1e-5):
        """Derivative of the query along label columns (n, o, k), (m, o, k), by central differences."""
        columns = np.moveaxis(V, -1, 0)
        ends = [[self.again(self.y + sign * step * v, of_rows=of_rows) for v in columns] for sign in (1, -1)]
        return np.moveaxis(np.array(ends[0]) - np.array(ends[1]), 0, -1) / (2 * step)

    def by_weights(self, held, step=1e-5):
        """Derivative of the query in every row's weight, (m, o, n)."""
        ends = [[self.again(self.y, WEIGHTS + sign * step * e, held) for e in np.eye(N)] for sign in (1, -1)]
        return np.moveaxis(np.array(ends[0]) - np.array(ends[1]), 0, -1) / (2 * step)

    # -- routes ------------------------------------------------------------------------------------------------------

    def routes(self, telescope, output=None):
        plans = [*telescope.plans("forward", M, N), *telescope.plans("backward", M, M)]
        plans = [replace(plan, sections=telescope.sections, output=output) for plan in plans]
        return {plan.route: telescope._weights(plan, self.query)[0] for plan in plans}


def close(found, expected, tolerance=1e-7, **more):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max(), **more)


def log_partition(f, y):
    """Cross-entropy as a function of labels that need not sum to 1."""
    return torch.logsumexp(f, 1) - (y * f).sum(dim=1)


def unit(run):
    return np.eye(N * run.o).reshape(N, run.o, -1)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*((name, "sgd") for name in LOSSES), ("cross-entropy", "momentum"), ("cross-entropy", "adamw")],
)
def test_kernel_weights_are_the_derivative_in_the_labels_by_every_route(name, optimizer):
    run = LossRun(name, optimizer, "gauss2" if optimizer == "adamw" else "midpoint")
    of_rows = log_partition if name == "cross-entropy" else None
    expected = run.by_labels(unit(run), of_rows).reshape(M, run.o, N, run.o)
    np.testing.assert_allclose(run.again(run.y, of_rows=of_rows), 0, atol=1e-12)  # the oracle takes the run for its own
    found = run.routes(run.telescope)
    assert len(found) == (4 if optimizer == "sgd" else 2)
    for route, weights in found.items():
        close(weights.reshape(expected.shape), expected, err_msg=route)
    if run.o > 1:
        for route, weights in run.routes(run.telescope, output=1).items():
            close(weights, expected[:, 1, :, 1], err_msg=route)


def test_shares_moved_between_classes_respond_as_torchs_cross_entropy_does():
    run = LossRun("cross-entropy")
    V = np.random.default_rng(0).normal(size=(N, 3, 4))
    V -= V.mean(axis=1, keepdims=True)
    S = run.telescope.kernel_weights(run.query)
    close(np.tensordot(S, V, 2), run.by_labels(V))


@pytest.mark.parametrize(
    ("name", "optimizer", "denominators"),
    [
        ("cross-entropy", "sgd", "moving"),
        ("cross-entropy", "momentum", "moving"),
        ("cross-entropy", "adamw", "held"),
        ("cross-entropy", "adamw", "moving"),
        ("gamma", "sgd", "held"),
    ],
)
def test_influence_is_the_derivative_in_the_weights_by_every_route(name, optimizer, denominators):
    run = LossRun(name, optimizer)
    expected = run.by_weights(denominators == "held")
    of_weights = run.telescope.influence_telescope(denominators)
    for route, influence in run.routes(of_weights).items():
        close(influence.reshape(expected.shape), expected, err_msg=route)
    last = run.o - 1
    close(run.telescope.influence(run.query, output=last, denominators=denominators), expected[:, last])
    own = run.telescope.self_influence(denominators=denominators).reshape(N, run.o)
    close(own, np.einsum("non->no", run.telescope.influence(None, denominators=denominators).reshape(N, run.o, N)))


def test_a_module_differentiated_through_torch_func_gives_the_same():
    run = LossRun("cross-entropy", module=lambda: seeded(Wide).double())
    assert isinstance(run.path.network, FunctionalNetwork)
    expected = run.by_labels(unit(run), log_partition).reshape(M, 3, N, 3)
    for route, weights in run.routes(run.telescope).items():
        close(weights, expected, err_msg=route)


@pytest.mark.parametrize("name", ["cross-entropy", "poisson"])
def test_the_kernel_form_is_the_telescoping_model_which_the_rule_brings_to_the_net(name):
    gaps = {}
    for rule in ("left", "midpoint", "gauss2"):
        run = LossRun(name, rule=rule, ends=list(range(1, T + 1)))
        f = run.outputs(run.recorded.theta(0), run.query).numpy()
        for t in range(1, T + 1):
            _, before, there, _ = run.inside[t - 1]
            g = run.gradient(t, before, run.y, WEIGHTS, run.of_rows)  # weights and the size of the batch included
            kernel = run.recorded.learning_rate(t) * torch.einsum("mcp,bop->mcbo", run.at_ends[t][1], there)
            f = f - torch.einsum("mcbo,bo->mc", kernel, g).numpy()
        (telescoping,) = run.telescope.staged_telescoping(run.query, [T])
        np.testing.assert_allclose(telescoping.reshape(f.shape), f, rtol=0, atol=1e-12)
        gaps[rule] = np.abs(f - run.outputs(run.recorded.theta(T), run.query).numpy()).max()
    assert gaps["gauss2"] < 0.1 * gaps["midpoint"] < 0.01 * gaps["left"]


@pytest.mark.parametrize("name", ["cross-entropy", "logistic, two labels", "gamma"])
def test_labels_carried_with_the_offset_give_the_net_and_the_pilot_knows_it(name):
    run = LossRun(name, rule="gauss2", ends=list(range(1, T + 1)))
    telescope, stages = run.telescope, np.arange(1, T + 1)
    pilot = run_pilot(telescope, stages)
    assert pilot.gaps.max() < 1e-4
    assert telescope.last_sound_stage == T
    V = np.random.default_rng(0).choice([-1.0, 1.0], size=(*telescope.y.shape, 2))
    response = next(telescope.staged_response(None, V, stages=[T])).reshape(N, run.o, 2)
    raw, y = run.outputs(run.recorded.theta(T), run.X), torch.as_tensor(run.y)
    h = [torch.func.hessian(lambda f, y=y: run.of_rows(f[None], y[None])[0])(f) for f, y in zip(raw, y, strict=True)]
    left = telescope.loss.label_rate(run.y, raw.numpy())[..., None] * V.reshape(N, run.o, 2) - np.stack(h) @ response
    assert np.sqrt((left[telescope.trained] ** 2).mean()) == pytest.approx(pilot.residuals[-1], rel=0.2)
    telescope.y = telescope.y[::-1].copy()  # labels that the net never saw
    telescope.__dict__.pop("_labels", None)
    assert run_pilot(telescope, stages).gaps.max() > 0.01


def test_questions_about_smoothers_are_refused_and_others_answered():
    run = LossRun("cross-entropy")
    telescope, query = run.telescope, run.query
    for ask in (
        lambda: telescope.offset(query),
        lambda: telescope.staged_effective_params(query),
        lambda: telescope.training_summary(),
        lambda: telescope.approximation_error(query),
        lambda: telescope.influence_telescope().offset(query),
    ):
        with pytest.raises(NotASmootherError, match="does not exist for this loss"):
            ask()
    S = telescope.kernel_weights(query)
    close(telescope.kernel_weights(query, "each"), np.einsum("mcnc->mcn", S), 1e-12)
    rows, weights = telescope.top_examples(query, 2, output=2)
    np.testing.assert_allclose(weights, np.take_along_axis(S[:, 2, :, 2], rows, axis=1))
    assert telescope.kernel_norms(query, [T]).shape == (1, M, 3)
    assert telescope.breakdown(query, 3)[1].shape == (4, M, 3)


@pytest.mark.parametrize("loss", [Logistic(), Poisson(), Gamma(), Tweedie(), CrossEntropy(), SquaredError()])
def test_derivatives_are_those_of_one_another_on_arrays_and_tensors(loss):
    assert isinstance(loss, Loss)
    rng, step = np.random.default_rng(0), 1e-6
    y, f, V = labels_of(loss, 3), rng.normal(size=(N, 3)), rng.normal(size=(N, 3, 2))
    for column in range(2):
        ahead, behind = (loss.gradient(y, f + sign * step * V[..., column]) for sign in (1, -1))
        close(loss.curvature_product(y, f, V)[..., column], (ahead - behind) / (2 * step), 1e-6)
    ahead, behind = (loss.gradient(y + sign * step, f) for sign in (1, -1))
    close(loss.label_rate(y, f), (behind - ahead) / (2 * step), 1e-6)
    tensors = [torch.as_tensor(part) for part in (y, f, V)]
    for method, given in [("gradient", 2), ("label_rate", 2), ("curvature_product", 3)]:
        found = getattr(loss, method)(*tensors[:given])
        assert isinstance(found, torch.Tensor)
        np.testing.assert_allclose(found, getattr(loss, method)(*(y, f, V)[:given]), atol=1e-12)


def test_labels_that_a_loss_does_not_take_are_refused():
    loss = CrossEntropy()
    np.testing.assert_array_equal(loss.labels(np.array([2, 0]), 3), [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(loss.labels([[0.5, 0.5]], 2), [[0.5, 0.5]])
    for y, n_outputs, message in [
        ([0, 3], 3, "ints from 0 to 2, got int64 from 0 to 3"),
        ([0.0, 1.0], 3, "ints from 0 to 2, got float64"),
        ([[0.5, 0.6]], 2, "sum to 1 in every row"),
        ([[-0.5, 1.5]], 2, "sum to 1 in every row"),
        ([[0.5, 0.5]], 3, r"y has shape \(1, 2\), and the net 3 outputs: give numbers of classes"),
        ([0, 0], 1, "for one logit use Logistic"),
    ]:
        with pytest.raises(ValueError, match=message):
            loss.labels(y, n_outputs)
    with pytest.raises(ValueError, match=r"Logistic takes labels in \[0, 1\]"):
        Logistic().labels([0, 2], 1)
    with pytest.raises(ValueError, match="NaN or infinity"):
        SquaredError().labels([np.nan], 1)
    with pytest.raises(ValueError, match=r"labels of shape \(n_rows, 2\)"):
        SquaredError().labels([1.0, 2.0], 2)
    assert Logistic().labels([[0], [1]], 1).shape == (2,)
