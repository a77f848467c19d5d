"""Loops that users write, in plain torch and with skorch, are recorded, explained, or refused by name."""

import copy
import doctest
import pickle
import warnings
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import random_rows
from oracles import adam_phi, adam_step, adamw_step, sgd_step
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetRegressor
from skorch.callbacks import EarlyStopping, GradientNormClipping, LRScheduler
from skorch.dataset import Dataset as SkorchDataset
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from telescoping_sklearn import TelescopingMLPRegressor, telescope
from telescoping_sklearn.neural import RecordedTelescope, TrainingRecorder, record_training
from telescoping_sklearn.neural._row_index import RowIndex

N = 30


@pytest.fixture
def data():
    X, y = random_rows(N)
    return torch.as_tensor(X), torch.as_tensor(y)[:, None]


def make_module(n_outputs=1, seed=0, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, n_outputs)).to(dtype)


def loader(*tensors, seed=0, batch_size=8):
    return DataLoader(
        TensorDataset(*tensors), batch_size=batch_size, shuffle=True, generator=torch.Generator().manual_seed(seed)
    )


def plain_loop(module, optimizer, batches, loss_fn, before_step=lambda: None, after_step=lambda: None):
    """The loop of torch's tutorials."""
    for rows, *rest in batches:
        optimizer.zero_grad()
        loss = loss_fn(module(rows), *rest)
        loss.backward()
        before_step()
        optimizer.step()
        after_step()


def epochs(n, *tensors, **settings):
    batches = loader(*tensors, **settings)
    return (batch for _ in range(n) for batch in batches)


# -- what is recorded, against a slow oracle ---------------------------------------------------------------------------


def jacobian(module, theta, rows):
    """J of every output of every row, (b, o, p), one output at a time."""
    net = copy.deepcopy(module)
    trained = [part for part in net.parameters() if part.requires_grad]
    nn.utils.vector_to_parameters(theta, trained)
    lines = [
        torch.cat([part.flatten() for part in torch.autograd.grad(output, trained, retain_graph=True)])
        for row in rows
        for output in net(row[None]).flatten()
    ]
    return torch.stack(lines).view(len(rows), -1, len(theta))


class SlowRun:
    """A loop that notes everything itself, and the response of its run, densely, with the rule "left"."""

    def __init__(self, module, optimizer, X, y):
        self.module, self.optimizer, self.X, self.y = module, optimizer, X, y
        self.trained = [part for part in module.parameters() if part.requires_grad]
        self.thetas, self.phis, self.rates, self.updates = [self.theta()], [], [], []

    def theta(self):
        return torch.cat([part.detach().flatten() for part in self.trained])

    def note(self, factors):
        """Note an update that was just made, with the factor c_i of every row, (n,)."""
        self.thetas.append(self.theta())
        self.updates.append(torch.as_tensor(factors))
        group = self.optimizer.param_groups[0]
        self.rates.append(self.last_rate)
        if "betas" in group:
            states = [self.optimizer.state[part] for part in self.trained]
            self.phis.append(torch.cat([adam_phi(state, group).flatten() for state in states])[:, None])

    def response(self, step, query, V, offset=False):
        """F_T(query; V), (m, o, k)."""
        group = dict(self.optimizer.param_groups[0])
        n_outputs, k = self.y.shape[1], V.shape[-1]
        rows, theta = torch.cat([self.X, query]), torch.zeros((len(self.thetas[0]), k), dtype=torch.float64)
        F, state = torch.zeros((len(rows), n_outputs, k), dtype=torch.float64), {}
        if offset:
            theta[:, 0] = self.thetas[0]
            net = copy.deepcopy(self.module)
            nn.utils.vector_to_parameters(self.thetas[0], [p for p in net.parameters() if p.requires_grad])
            F[..., 0] = net(rows).detach().view(len(rows), n_outputs)
        for t, (factors, rate) in enumerate(zip(self.updates, self.rates, strict=True), start=1):
            J = jacobian(self.module, self.thetas[t - 1], rows)
            G = torch.einsum("iop,iok->pk", J[:N] * factors[:, None, None], F[:N] - V)
            settings = SimpleNamespace(**group | {"learning_rate_init": rate})
            D = step(settings, G, theta, state, t, self.phis[t - 1] if self.phis else None)
            theta = theta + D
            F = F + torch.einsum("iop,pk->iok", J, D)
        return F[N:]


def mean_loss(f, y, *_):
    return nn.MSELoss()(f, y)


def weighted_loss(f, y, w):
    return (w * (f - y) ** 2).sum() / w.sum()


OPTIMIZERS = {
    "sgd": (partial(torch.optim.SGD, lr=0.05), sgd_step),
    "momentum": (partial(torch.optim.SGD, lr=0.03, momentum=0.8, nesterov=True, weight_decay=0.1), sgd_step),
    "adam": (partial(torch.optim.Adam, lr=0.02, weight_decay=0.05), adam_step),
    "adamw": (partial(torch.optim.AdamW, lr=0.02, weight_decay=0.5, amsgrad=True), adamw_step),
}


class Loop:
    """One way to train: makes the updates, and says what the factor of every row was in each."""

    loss = staticmethod(mean_loss)
    n_outputs = 1
    weights = None

    def run(self, module, optimizer, X, y, note, slow):
        w = torch.ones(N, 1, dtype=torch.float64) if self.weights is None else self.weights
        numbers = torch.arange(N)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
        for rows, labels, weights, which in epochs(2, X, y, w, numbers):
            optimizer.zero_grad()
            factors = self.backward(module, rows, labels, weights, which)
            factors = factors * self.change(module)
            slow.last_rate = optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()
            note(factors)

    def backward(self, module, rows, labels, weights, which):
        self.loss(module(rows), labels, weights).backward()
        return self.by_row(which, self.factors(labels, weights))

    def factors(self, labels, weights):
        return torch.full((len(labels),), 2 / labels.numel(), dtype=torch.float64)

    def change(self, module):
        return 1.0

    @staticmethod
    def by_row(which, factors):
        return torch.zeros(N, dtype=torch.float64).index_add(0, which, factors)


class SumLoop(Loop):
    loss = staticmethod(lambda f, y, w: 0.05 * nn.MSELoss(reduction="sum")(f, y))

    def factors(self, labels, weights):
        return torch.full((len(labels),), 0.1, dtype=torch.float64)


class WeightedLoop(Loop):
    loss = staticmethod(weighted_loss)
    weights = torch.linspace(0.0, 2, N, dtype=torch.float64)[:, None]

    def factors(self, labels, weights):
        return 2 * weights[:, 0] / weights.sum()


class ClippedLoop(Loop):
    def change(self, module):
        norm = nn.utils.clip_grad_norm_(module.parameters(), 0.4)
        return min(1.0, 0.4 / (norm.item() + 1e-6))


class AccumulatingLoop(Loop):
    """Micro-batches of 5 and 3 rows whose losses are halved; the first row comes in both."""

    def backward(self, module, rows, labels, weights, which):
        total = torch.zeros(N, dtype=torch.float64)
        for part in (slice(0, 5), [0, *range(5, len(rows))]):
            (nn.MSELoss()(module(rows[part]), labels[part]) / 2).backward()
            total += self.by_row(which[part], torch.full((len(rows[part]),), 1 / len(rows[part]), dtype=torch.float64))
        return total


class SeveralOutputsLoop(Loop):
    n_outputs = 2


LOOPS = {
    "mean": Loop(),
    "sum": SumLoop(),
    "weighted": WeightedLoop(),
    "clipped": ClippedLoop(),
    "accumulating": AccumulatingLoop(),
    "two outputs": SeveralOutputsLoop(),
}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("adamw", how) for how in LOOPS),
        ("sgd", "clipped"),
        ("sgd", "accumulating"),
        ("sgd", "two outputs"),
        ("momentum", "weighted"),
        ("adam", "sum"),
    ],
)
def test_factors_enter_every_answer_as_the_loop_had_them(data, name, how):
    loop, (optimizer, step) = LOOPS[how], OPTIMIZERS[name]
    X, y = data
    y = torch.cat([y, -y.sin()], dim=1)[:, : loop.n_outputs]
    module = make_module(loop.n_outputs)
    opt = optimizer(module.parameters())
    slow = SlowRun(module, opt, X, y)
    w = None if loop.weights is None else loop.weights[:, 0]
    with record_training(module, opt, X, y, w) as run:
        loop.run(module, opt, X, y, slow.note, slow)
    for recorded, rows, factors in zip(run._factors, run._rows, slow.updates, strict=True):
        np.testing.assert_allclose(recorded, factors[rows.astype(int)], rtol=1e-9)
    explained = telescope(module, X, y, record=run, rule="left", section=1, random_state=0)
    query = torch.as_tensor(random_rows(3, seed=1)[0])
    unit = torch.eye(y.numel(), dtype=torch.float64).view(N, -1, y.numel())
    expected = slow.response(step, query, unit).reshape(3 * loop.n_outputs, -1).numpy()
    inner = explained.telescope_
    for plan in (*inner.plans("forward", 3, y.numel()), *inner.plans("backward", 3, 3 * loop.n_outputs)):
        weights = inner._weights(plan, query.numpy())[0].reshape(expected.shape)
        np.testing.assert_allclose(weights, expected, rtol=1e-8, atol=1e-12)
    zero = torch.zeros((N, y.shape[1], 1), dtype=torch.float64)
    offset = slow.response(step, query, zero, offset=True)[..., 0]
    np.testing.assert_allclose(explained.offset(query).reshape(3, -1), offset, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(("name", "how"), list(zip(("sgd", "momentum", "adam") * 2, LOOPS, strict=True)))
def test_weights_times_labels_rebuild_the_module(data, name, how):
    loop = LOOPS[how]
    X, y = data
    y = torch.cat([y, -y.sin()], dim=1)[:, : loop.n_outputs]
    module = make_module(loop.n_outputs)
    optimizer = OPTIMIZERS[name][0](module.parameters())
    with record_training(module, optimizer, X, y, None if loop.weights is None else loop.weights[:, 0]) as run:
        loop.run(module, optimizer, X, y, lambda factors: None, SimpleNamespace())
    explained = telescope(module, X, y, record=run, rule="gauss2", section=1)
    query = random_rows(5, seed=1)[0]
    f = module(torch.as_tensor(query)).detach().numpy().reshape(explained.predict(query).shape)
    np.testing.assert_allclose(explained.predict(query), f, rtol=1e-12)
    labels = y.numpy().reshape(-1)
    weights = explained.kernel_weights(query).reshape(-1, len(labels))
    np.testing.assert_allclose(weights @ labels + explained.offset(query).ravel(), f.ravel(), atol=2e-6)


def test_influence_is_the_derivative_in_a_weight_of_the_loss(data):
    """Linear in its parameters, so that the Jacobians do not move and the derivative is exact."""
    X, y = data

    def trained(w):
        module = nn.Linear(4, 1).double()
        nn.init.constant_(module.weight, 0.1)
        nn.init.zeros_(module.bias)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.5)
        with record_training(module, optimizer, X, y, w) as run:
            for rows, labels, which in epochs(2, X, y, torch.arange(N)):
                optimizer.zero_grad()
                (w[which, None] * (module(rows) - labels) ** 2).mean().backward()
                optimizer.step()
        return module, run

    w = torch.ones(N, dtype=torch.float64)
    module, run = trained(w)
    query = torch.as_tensor(random_rows(4, seed=1)[0])
    influence = telescope(module, X, y, record=run).influence(query)
    for row in (0, 7):
        up, down = w.clone(), w.clone()
        up[row] += 1e-4
        down[row] -= 1e-4
        change = (trained(up)[0](query) - trained(down)[0](query)).detach().numpy()[:, 0] / 2e-4
        np.testing.assert_allclose(influence[:, row], change, rtol=1e-6)


def test_stage_kernels_hold_the_factors(data):
    X, y = data
    module = make_module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with record_training(module, optimizer, X, y) as run:
        plain_loop(module, optimizer, epochs(1, X, y), mean_loss)
    explained = telescope(module, X, y, record=run)
    query = torch.as_tensor(random_rows(3, seed=1)[0])
    (kernel,) = explained.staged_kernel(query, [2])
    theta = torch.cat([explained.telescope_.path.theta(1)])
    J = jacobian(module, theta, torch.cat([query, X]))[:, 0]
    expected = np.zeros((3, N))
    batch = run._rows[1].astype(int)
    expected[:, batch] = (J[:3] @ J[3:].T)[:, batch] * 2 / len(batch)
    np.testing.assert_allclose(kernel.toarray(), expected, rtol=1e-10)
    np.testing.assert_allclose(explained.kernel_norms(query, [2])[0], np.linalg.norm(expected, axis=1), rtol=1e-10)


LOSSES = {
    "cross_entropy": (nn.CrossEntropyLoss, lambda y: (y[:, 0] > 0).long() + (y[:, 0] > 1).long(), 3),
    "binary_cross_entropy": (nn.BCEWithLogitsLoss, lambda y: (y > 0).double(), 1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_on_logits(data, name):
    """Kernel weights are the derivative in labels: one step is linear in them."""
    make_loss, labels, n_outputs = LOSSES[name]
    X, y = data[0], labels(data[1])
    module = make_module(n_outputs)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with record_training(module, optimizer, X, y, loss=name) as run:
        plain_loop(module, optimizer, epochs(3, X, y), make_loss())
        n_updates = run.n_updates
    explained = telescope(module, X, y, record=run, section=1, rule="gauss2")
    np.testing.assert_allclose(run._factors[0], 1 / 8)
    outputs = module(X).detach().numpy().reshape(explained.predict(X).shape)
    np.testing.assert_allclose(explained.predict(X), outputs)
    (rebuilt,) = explained.staged_predict(X, [n_updates], approximation="telescoping")
    np.testing.assert_allclose(rebuilt, outputs, atol=1e-7)
    with pytest.raises(ValueError, match="effective parameters"):
        explained.effective_params_  # noqa: B018

    def start(shares):
        """One step on soft labels, (n, o)."""
        net = make_module(n_outputs)
        first = torch.optim.SGD(net.parameters(), lr=0.1)
        with record_training(net, first, X, shares, loss=name) as one:
            plain_loop(net, first, [(X, shares)], make_loss())
        return net, one

    shares = torch.nn.functional.one_hot(y, 3).double() if n_outputs > 1 else y
    shares = 0.8 * shares + 0.2 / max(n_outputs, 2)
    net, one = start(shares)
    weights = telescope(net, X, shares, record=one, rule="left").kernel_weights(X[:2]).reshape(2 * n_outputs, -1)
    moved = shares.clone()
    moved[4, 0], moved[4, -1] = (0.5, 0.4) if n_outputs > 1 else (0.5, 0.5)
    if n_outputs > 1:
        moved[4, 1] = 0.1
    change = (start(moved)[0](X[:2]) - net(X[:2])).detach().numpy().ravel()
    np.testing.assert_allclose(weights @ (moved - shares).numpy().ravel(), change, rtol=0.05, atol=1e-4)
    with pytest.raises(ValueError, match=f"but of loss='{name}'. Record with it"):
        plain_recording_of_squared_error(X, shares, make_loss())


def plain_recording_of_squared_error(X, y, loss_fn):
    module = make_module(y.shape[1])
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    with record_training(module, optimizer, X, y):
        plain_loop(module, optimizer, [(X, y)], loss_fn)


# -- the same run by every door ----------------------------------------------------------------------------------------


class HalfSquare(nn.Module):
    """The estimator's own loss."""

    def forward(self, f, y):
        return ((f - y) ** 2).mean() / 2


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_plain_torch_skorch_and_the_estimator_agree(data, name):
    X, y = data
    settings = {"weight_decay": 0.1} | ({"momentum": 0.9} if name == "sgd" else {})
    module = make_module()
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    fit = {"max_iter": 3, "batch_size": 8, "shuffle": False, "rule": "midpoint", "section": 1, "dtype": "float64"}
    net = TelescopingMLPRegressor(
        module=copy.deepcopy(module), optimizer=name, learning_rate_init=0.02, **fit, **settings, random_state=0
    ).fit(X.numpy(), y.numpy()[:, 0])

    plain = copy.deepcopy(module)
    optimizer = kind(plain.parameters(), lr=0.02, **settings)
    batches = DataLoader(TensorDataset(X, y), batch_size=8)
    with record_training(plain, optimizer, X, y) as run:
        for _ in range(3):
            plain_loop(plain, optimizer, batches, HalfSquare())
    by_loop = telescope(plain, X, y, record=run, section=1)

    skorch_net = NeuralNetRegressor(
        copy.deepcopy(module),
        criterion=HalfSquare,
        optimizer=kind,
        lr=0.02,
        **{f"optimizer__{key}": value for key, value in settings.items()},
        max_epochs=3,
        batch_size=8,
        train_split=None,
        verbose=0,
        callbacks=[TrainingRecorder()],
    ).fit(X.numpy(), y.numpy())
    by_skorch = telescope(skorch_net, X.numpy(), y.numpy(), section=1)
    query = random_rows(6, seed=1)[0]
    for other in (by_loop, by_skorch):
        np.testing.assert_allclose(other.predict(query), net.predict(query), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(other.kernel_weights(query), net.kernel_weights(query), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(other.offset(query), net.offset(query), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(other.influence(query), net.influence(query), rtol=1e-7, atol=1e-11)
        np.testing.assert_allclose(other.effective_params_, net.effective_params_, rtol=1e-9)
        np.testing.assert_allclose(
            list(other.staged_predict(query, [0, 5])), list(net.staged_predict(query, [0, 5])), rtol=1e-10, atol=1e-12
        )


def test_recording_changes_no_bit_of_training():
    X, y = (torch.as_tensor(part, dtype=torch.float32) for part in random_rows(N))
    ends = []
    for recording in (False, True):
        module = make_module(dtype=torch.float32)
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        record = record_training(module, optimizer, X, y[:, None]) if recording else nullcontext()
        with record:
            plain_loop(module, optimizer, epochs(3, X, y[:, None]), mean_loss)
        ends.append(nn.utils.parameters_to_vector(module.parameters()))
    assert torch.equal(*ends)
    assert not module._forward_hooks


# -- loops as people write them ----------------------------------------------------------------------------------------


class Quickstart(nn.Module):
    """The module of torch's quickstart, for regression: images in, flattened inside."""

    def __init__(self):
        super().__init__()
        self.flatten = nn.Flatten()
        self.stack = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x):
        return self.stack(self.flatten(x))


class Rows(Dataset):
    """A data set of one's own, which converts every row when it is asked for."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, index):
        return torch.tensor(self.X[index], dtype=torch.float32), torch.tensor(self.y[index], dtype=torch.float32)


def rebuilt(explained, query, y):
    return explained.kernel_weights(query) @ np.asarray(y).ravel() + explained.offset(query)


def test_the_loop_of_the_quickstart_with_a_data_set_of_ones_own():
    X, y = random_rows(N)  # double precision; the data set rounds
    images = X.reshape(N, 1, 2, 2)
    torch.manual_seed(0)
    model = Quickstart()
    loss_fn, optimizer = nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=1e-2)

    def train(dataloader):
        model.train()
        for batch, labels in dataloader:
            pred = model(batch).squeeze()
            loss = loss_fn(pred, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def test():
        model.eval()
        rows = torch.randn(5, 1, 2, 2)
        model(rows)  # without no_grad: not among the rows, but not trained on either
        with torch.no_grad():
            return model(rows)

    with record_training(model, optimizer, images, y) as run:
        for _ in range(4):
            train(DataLoader(Rows(images, y), batch_size=10, shuffle=True))
            test()
    assert repr(run) == "TrainingRecord(12 updates of 121 parameters, 30 of 30 rows)"
    explained = telescope(model, images, y, record=run, section=1)
    query = random_rows(4, seed=1)[0].reshape(-1, 1, 2, 2)
    expected = model(torch.as_tensor(query, dtype=torch.float32)).detach().numpy()[:, 0]
    np.testing.assert_allclose(explained.predict(query), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rebuilt(explained, query, y), expected, atol=5e-3)
    np.testing.assert_allclose(explained.kernel_weights(torch.as_tensor(query)), explained.kernel_weights(query))


def test_outputs_without_an_axis_two_inputs_of_one_loss_and_a_going_on(data):
    X, y = data

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_module()

        def forward(self, x):
            return self.net(x).squeeze(-1)

    module = Flat()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    run = record_training(module, optimizer, X, y[:, 0])
    with run:
        for rows, labels in loader(X, y[:, 0]):
            optimizer.zero_grad(set_to_none=False)
            half = len(rows) // 2
            first, second = module(rows[:half]), module(rows[half:])  # one backward pass of two forward passes
            (((first - labels[:half]) ** 2).sum() + ((second - labels[half:]) ** 2).sum()).backward()
            optimizer.step()
    plain_stage = run.n_updates
    with run:
        plain_loop(module, optimizer, loader(X, y[:, 0], seed=1), mean_loss)
    explained = telescope(module, X, y[:, 0], record=run, section=1, rule="gauss2")
    assert explained.n_stages_ == 2 * plain_stage
    query = random_rows(4, seed=1)[0]
    expected = module(torch.as_tensor(query)).detach().numpy()
    np.testing.assert_allclose(rebuilt(explained, query, y), expected, atol=1e-5)


def test_groups_frozen_parameters_and_rows_drawn_with_replacement(data):
    X, y = data
    module = make_module()
    module[0].bias.requires_grad_(False)
    groups = [{"params": [module[0].weight], "weight_decay": 0.1}, {"params": module[2].parameters(), "lr": 0.01}]
    optimizer = torch.optim.Adam(groups, lr=0.03)
    sampler = WeightedRandomSampler(torch.ones(N), 40, generator=torch.Generator().manual_seed(0))
    with record_training(module, optimizer, X, y) as run:
        for _ in range(3):
            plain_loop(module, optimizer, DataLoader(TensorDataset(X, y), batch_size=10, sampler=sampler), mean_loss)
    assert any(len(rows) < 10 for rows in run._rows)  # a row drawn twice counts twice
    explained = telescope(module, X, y, record=run, section=1, rule="gauss2")
    query = random_rows(4, seed=1)[0]
    expected = module(torch.as_tensor(query)).detach().numpy()[:, 0]
    np.testing.assert_allclose(rebuilt(explained, query, y), expected, atol=1e-5)


def test_a_scaler_that_scales_back_is_no_part_of_the_record(data):
    X, y = data
    weights = []
    for scaled in (False, True):
        module = make_module()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled, init_scale=1024.0)
        with record_training(module, optimizer, X, y) as run:
            for rows, labels in epochs(2, X, y):
                optimizer.zero_grad()
                scaler.scale(mean_loss(module(rows), labels)).backward()
                scaler.step(optimizer)
                scaler.update()
        weights.append(telescope(module, X, y, record=run, section=1).kernel_weights(X[:3]))
    np.testing.assert_allclose(*weights, rtol=1e-10)


def test_a_skipped_step_that_is_zeroed_is_no_part_of_the_record(data):
    X, y = data
    module = make_module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    with record_training(module, optimizer, X, y) as run:
        for number, (rows, labels) in enumerate(epochs(2, X, y)):
            optimizer.zero_grad()
            mean_loss(module(rows), labels).backward()
            if number % 3:
                optimizer.step()
    explained = telescope(module, X, y, record=run, section=1, rule="gauss2")
    assert explained.n_stages_ == 5
    np.testing.assert_allclose(rebuilt(explained, X, y), module(X).detach().numpy()[:, 0], atol=1e-5)


def test_best_parameters_that_are_loaded_again_end_the_run(data):
    X, y = data
    module = make_module()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    states = []
    with record_training(module, optimizer, X, y) as run:
        for _ in range(12):
            plain_loop(module, optimizer, [(X[:8], y[:8])], mean_loss)
            states.append(copy.deepcopy(module.state_dict()))
    module.load_state_dict(states[6])
    explained = telescope(module, X, y, record=run, section=1)
    assert explained.n_stages_ == 7
    np.testing.assert_allclose(explained.predict(X), module(X).detach().numpy()[:, 0])
    with torch.no_grad():
        module[0].weight += 1
    with pytest.raises(ValueError, match="not those of the record after any update"):
        telescope(module, X, y, record=run)
    for part in module.parameters():
        part.requires_grad_(False)
    module.load_state_dict(states[-1])
    assert telescope(module, X, y, record=run, section=1).n_stages_ == 12  # frozen after training


def test_copies_of_the_module_and_pickles_of_the_answers_stand_alone(data):
    X, y = data
    module = make_module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    with record_training(module, optimizer, X, y) as run:
        average = torch.optim.swa_utils.AveragedModel(module)
        pickle.loads(pickle.dumps(module))(X).sum().backward()
        plain_loop(module, optimizer, epochs(2, X, y), mean_loss, after_step=lambda: average.update_parameters(module))
        average(X)
    explained = telescope(copy.deepcopy(module), X, y, record=run)
    loaded = pickle.loads(pickle.dumps(explained))
    assert isinstance(loaded, RecordedTelescope)
    np.testing.assert_array_equal(loaded.kernel_weights(X), explained.kernel_weights(X))
    loaded.rule = "left"
    assert not np.allclose(loaded.kernel_weights(X), explained.kernel_weights(X))
    with pytest.raises(TypeError, match="cannot be run again"):
        loaded.fit(X, y)


def test_the_guide_runs_as_it_is_printed():
    page = Path(__file__).parents[1] / "docs" / "own_networks.rst"
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert tried > 15
    assert not failed


# -- rows --------------------------------------------------------------------------------------------------------------


def test_rows_are_found_bit_by_bit():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, size=(3000, 12)).astype(float) * 2 - 1  # signs: few bits differ
    for dtype in (np.float32, np.float64, np.int64, np.int8):
        index = RowIndex(X, np.dtype(dtype), np.arange(len(X)))
        rows = rng.integers(len(X), size=200)
        groups = index.find(X[rows].astype(dtype))
        assert (groups >= 0).all()
        for row, group in zip(rows, groups, strict=True):
            np.testing.assert_array_equal(index.members(group), np.flatnonzero((X == X[row]).all(axis=1)))
    index = RowIndex(X, np.dtype(np.float64), np.arange(1, len(X), 2))
    assert (index.find(np.nextafter(X, 2)) == -1).all()
    assert index.group_of[0] == -1
    assert (index.find(X[:, :3]) == -1).all()


def test_equal_rows_are_told_apart_by_their_labels(data):
    X, y = data[0].clone(), data[1]
    X[1] = X[0]
    X[7] = X[6] = X[5]
    module = make_module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    used = []
    with record_training(module, optimizer, X, y) as run:
        for rows, labels, which in epochs(4, X, y, torch.arange(N)):
            optimizer.zero_grad()
            mean_loss(module(rows), labels).backward()
            optimizer.step()
            used.append(sorted(which.tolist()))
    assert [sorted(rows.tolist()) for rows in run._rows] == used


def test_copies_of_a_row_are_taken_in_turn_or_named(data):
    X, y = data[0].clone(), data[1].clone()
    X[1], y[1] = X[0], y[0]
    module, named = make_module(), make_module()
    optimizer, other = (torch.optim.SGD(net.parameters(), lr=0.05) for net in (module, named))
    with record_training(module, optimizer, X, y) as run, pytest.warns(UserWarning, match="taken in turn"):
        plain_loop(module, optimizer, epochs(4, X, y), mean_loss)
    used = []
    with record_training(named, other, X, y) as by_name:
        for rows, labels, which in epochs(4, X, y, torch.arange(N)):
            other.zero_grad()
            by_name.rows(which)
            mean_loss(named(rows), labels).backward()
            other.step()
            used.append(which.tolist())
    assert [rows.tolist() for rows in by_name._rows] == used
    weights = telescope(module, X, y, record=run, section=1).kernel_weights(X[5:])
    expected = telescope(named, X, y, record=by_name, section=1).kernel_weights(X[5:])
    np.testing.assert_allclose(weights[:, :2].sum(axis=1), expected[:, :2].sum(axis=1), rtol=1e-8)
    np.testing.assert_allclose(weights[:, 2:], expected[:, 2:], rtol=1e-8, atol=1e-14)
    by_name.rows(range(2, 6))
    with by_name, pytest.raises(ValueError, match=r"rows\(indices\) names other rows"):
        plain_loop(named, other, [(X[:4], y[:4])], mean_loss)


# -- what is refused ---------------------------------------------------------------------------------------------------


def clip_by_value(module, optimizer):
    nn.utils.clip_grad_value_(module.parameters(), 1e-3)


def add_noise(module, optimizer):
    for part in module.parameters():
        part.grad += 0.01 * torch.randn_like(part)


def clip_one_tensor(module, optimizer):
    module[0].weight.grad *= 0.5


def squares(module):
    return sum((part**2).sum() for part in module.parameters())


def absolutes(module):
    return sum(part.abs().sum() for part in module.parameters())


def edit(module, optimizer):
    with torch.no_grad():
        module[2].bias += 0.1


def edit_data(module, optimizer):
    module[0].weight.data.clamp_(-0.1, 0.1)


def reset_momentum(module, optimizer):
    optimizer.state.clear()


#: Message by what the loop does: a loss, and what it does before or after a step.
WRONG_STEPS = {
    "clipped by value": {"before": clip_by_value},
    "noise": {"before": add_noise},
    "clipping by value or of single tensors": {"before": clip_one_tensor},
    "weight_decay: twice": {"loss": lambda f, y, net: mean_loss(f, y) + 0.01 * squares(net)},
    "an L1 penalty in the loss": {"loss": lambda f, y, net: mean_loss(f, y) + 0.01 * absolutes(net)},
    "auxiliary loss": {"loss": lambda f, y, net: mean_loss(f, y) + net[0].weight[0].prod()},
    "still holds that of an earlier step": {"zero": False},
    "parameters changed between updates 1 and 2": {"after": edit},
    "weights that are clipped": {"after": edit_data},
    "does not give the step of update 2": {"after": reset_momentum},
    "the loss is the absolute error": {"loss": lambda f, y, net: nn.L1Loss()(f, y)},
    "not a multiple of f - y, for": {"loss": lambda f, y, net: nn.HuberLoss(delta=0.3)(f, y)},
    "give y as the loss is given it": {"loss": lambda f, y, net: mean_loss(f, 2 * y)},
    "last activation as part of the module": {"loss": lambda f, y, net: mean_loss(f.sigmoid(), y)},
    "weights that the loss uses": {
        "loss": lambda f, y, net: weighted_loss(f, y, torch.arange(1.0, 1 + len(f))[:, None])
    },
    r"broadcast against each other, \(b, 1\)": {"loss": lambda f, y, net: ((f - y[:, 0]) ** 2).mean()},
    "ran under autocast": {"cast": True},
    "not among the rows of X": {"rows": lambda x: x + 0.01 * torch.randn_like(x)},
    "Training diverged": {"loss": lambda f, y, net: mean_loss(f, y) * torch.inf},
}


def wrong_loop(case, module, optimizer, X, y):
    loss_fn = case.get("loss", lambda f, y, net: mean_loss(f, y))
    rows_of, before, after = (case.get(name, lambda *given: given[0]) for name in ("rows", "before", "after"))
    for rows, labels in epochs(2, X, y):
        if case.get("zero", True):
            optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if case.get("cast") else nullcontext():
            outputs = module(rows_of(rows))
        loss_fn(outputs, labels, module).backward()
        before(module, optimizer)
        optimizer.step()
        after(module, optimizer)


@pytest.mark.parametrize("message", WRONG_STEPS)
def test_a_step_that_is_not_what_the_record_says_is_refused(data, message):
    case = WRONG_STEPS[message]
    X, y = data
    module = make_module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    record = record_training(module, optimizer, X, y)
    with record, pytest.raises(ValueError, match=message):
        wrong_loop(case, module, optimizer, X, y)


def test_penalties_that_begin_late_are_refused(data):
    X, y = data
    module = make_module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    seen = []

    def late(f, y, net):
        seen.append(f)
        return mean_loss(f, y) + (len(seen) > 6) * 1e-4 * squares(net)

    run = record_training(module, optimizer, X, y)
    with run, pytest.raises(ValueError, match="gradient of update 7"):
        wrong_loop({"loss": late}, module, optimizer, X, y)
    assert run.n_updates == 6


@pytest.mark.parametrize(("updates", "message"), [((20, 40), "gradient of update 33 "), ((20, 30), "update 21 is not")])
def test_penalties_between_checked_updates_are_refused_later(data, updates, message):
    X, y = data
    module = make_module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    seen = []

    def sometimes(f, y):
        seen.append(f)
        return mean_loss(f, y) + (updates[0] < len(seen) <= updates[1]) * squares(module)

    def train_and_explain():
        with record_training(module, optimizer, X, y) as run:
            plain_loop(module, optimizer, epochs(10, X, y), sometimes)
        telescope(module, X, y, record=run)

    with pytest.raises(ValueError, match=message):
        train_and_explain()


def test_single_rows_must_keep_their_factor(data):
    X, y = data
    for loss_fn, context in (
        (mean_loss, nullcontext()),
        (nn.L1Loss(), pytest.raises(ValueError, match="many a loss of one row looks like this one")),
    ):
        module = make_module()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        with record_training(module, optimizer, X, y), context:
            plain_loop(module, optimizer, epochs(1, X, y, batch_size=1), loss_fn)


def test_single_rows_of_several_outputs_must_keep_their_factor(data):
    X, Y = data[0], torch.cat([data[1], -data[1] / 2], dim=1) if data[1].ndim == 2 else torch.stack([data[1]] * 2, 1)
    module = nn.Sequential(nn.Linear(X.shape[1], 6), nn.Tanh(), nn.Linear(6, 2)).to(X.dtype)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    refused = pytest.raises(ValueError, match="many a loss of one row looks like this one")
    with record_training(module, optimizer, X, Y), refused:
        plain_loop(module, optimizer, epochs(1, X, Y, batch_size=1), lambda f, y: (f - y).norm(dim=1).mean())


def test_a_factor_that_changes_is_measured_again_however_large_the_labels(data):
    X, y = data[0].float(), data[1].float() + 2000
    module = make_module().float()
    with torch.no_grad():
        module[-1].bias += 2000
    optimizer, scales = torch.optim.SGD(module.parameters(), lr=1e-3), iter(1.01 ** np.arange(100))
    with record_training(module, optimizer, X, y) as run:
        plain_loop(module, optimizer, epochs(3, X, y), lambda f, labels: next(scales) * mean_loss(f, labels))
    sums = [factors.sum() for factors in run._factors]
    np.testing.assert_allclose(np.array(sums[1:]) / sums[:-1], 1.01, rtol=2e-3)


def test_gradients_beside_the_loss_are_not_taken_for_used_rows(data):
    X, y = data
    module, watched = make_module(), X[:3].clone().requires_grad_()
    optimizer = torch.optim.SGD(module[-1].parameters(), lr=0.01)  # gradients of the others pile up, and move nothing
    with record_training(module, optimizer, X, y) as run:
        for batch, labels in epochs(2, X, y):
            optimizer.zero_grad()
            mean_loss(module(batch), labels).backward()
            torch.autograd.grad(module(watched).sum(), watched)
            optimizer.step()
    net = telescope(module, X, y, record=run, section=1, rule="gauss2")
    rebuilt = net.kernel_weights(X[:4].numpy()) @ y.numpy().ravel() + net.offset(X[:4].numpy())
    np.testing.assert_allclose(rebuilt, module(X[:4]).detach().numpy().ravel(), atol=1e-4)


def test_a_second_optimiser_and_sharpness_aware_steps_are_refused(data):
    X, y = data
    module = make_module()
    first, second = (torch.optim.SGD(part.parameters(), lr=0.01) for part in (module[0], module[2]))
    with record_training(module, first, X, y), pytest.raises(ValueError, match="a second optimiser"):
        plain_loop(module, first, epochs(1, X, y), mean_loss, after_step=second.step)

    module = make_module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)

    def ascend():
        before = copy.deepcopy(module.state_dict())
        with torch.no_grad():
            for part in module.parameters():
                part += 0.1 * part.grad
        optimizer.zero_grad()
        mean_loss(module(X[:8]), y[:8]).backward()
        module.load_state_dict(before)

    with record_training(module, optimizer, X, y), pytest.raises(ValueError, match="changed between updates 0 and 1"):
        plain_loop(module, optimizer, epochs(1, X, y), mean_loss, before_step=ascend)


def test_what_the_record_does_not_see_is_refused(data):
    X, y = data
    module = make_module()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    other = copy.deepcopy(module)
    with record_training(module, optimizer, X, y):
        for own, part in zip(module.parameters(), other.parameters(), strict=True):
            own.grad = torch.ones_like(part)
        with pytest.raises(ValueError, match="follows no backward pass through the recorded module"):
            optimizer.step()
        optimizer.zero_grad()
        handle = module[0].weight.register_hook(lambda gradient: gradient / 2)
        mean_loss(module(X), y).backward()
        with pytest.raises(ValueError, match="A parameter has a hook on its gradient"):
            optimizer.step()
        handle.remove()


def test_other_closures_than_those_of_one_gradient_are_refused(data):
    X, y = data
    module = make_module()
    with pytest.raises(ValueError, match="optimizer=LBFGS evaluates several gradients"):
        record_training(module, torch.optim.LBFGS(module.parameters()), X, y)

    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            closure()
            return super().step(closure)

    from telescoping_sklearn.neural import register_update_rule
    from telescoping_sklearn.neural._update_rules import sgd_response

    register_update_rule(Twice, sgd_response)
    optimizer = Twice(module.parameters(), lr=0.01)

    def closure():
        optimizer.zero_grad()
        loss = mean_loss(module(X), y)
        loss.backward()
        return loss

    with (
        record_training(module, optimizer, X, y),
        pytest.raises(ValueError, match="closure more than once in update 1"),
    ):
        optimizer.step(closure)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    with record_training(module, optimizer, X, y) as run:
        assert optimizer.step(closure) > 0
        optimizer.step(closure=closure)
    assert run.n_updates == 2


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = make_module()

    def forward(self, x, again=None):
        return (self.net(x), x) if again is None else self.net(x)


def test_modules_that_cannot_be_recorded_are_named(data):
    X, y = data
    for module, message in (
        (
            nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 1)).double(),
            "Dropout: dropout takes every gradient",
        ),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double(), "BatchNorm1d: with batch norm"),
        (nn.DataParallel(make_module()), "DataParallel spreads rows"),
        (make_module().half(), "parameters of the module are torch.float16"),
    ):
        with pytest.raises(ValueError, match=message):
            record_training(module, torch.optim.SGD(module.parameters(), lr=0.1), X, y)
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got int"):
        record_training(1, torch.optim.SGD(module.parameters(), lr=0.1), X, y)
    module = make_module()
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer, got ReduceLROnPlateau"):
        record_training(
            module,
            torch.optim.lr_scheduler.ReduceLROnPlateau(torch.optim.SGD(module.parameters(), lr=0.1)),
            X,
            y,
        )
    off = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 1)).double().eval()
    optimizer = torch.optim.SGD(off.parameters(), lr=0.01)
    with record_training(off, optimizer, X, y):
        mean_loss(off(X), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        with pytest.raises(ValueError, match="was off when the record began and is on now"):
            mean_loss(off.train()(X), y).backward()
    pair = Pair()
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.01)
    with pytest.raises(ValueError, match="one number"):
        record_training(pair, optimizer, X, y)


def test_a_compiled_module_is_recorded_if_it_is_the_one_that_is_called(data):
    X, y = data
    for records_compiled in (True, False):
        module = make_module()
        compiled = torch.compile(module, backend="eager")
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        refused = pytest.raises(ValueError, match=r"not a copy, a part, or what torch\.compile made of it")
        run = record_training(compiled if records_compiled else module, optimizer, X, y)
        with run, nullcontext() if records_compiled else refused:
            plain_loop(compiled, optimizer, epochs(1, X, y), mean_loss)
        if records_compiled:
            assert telescope(compiled, X, y, record=run, section=1).n_stages_ == 4


def test_a_module_of_two_arguments_is_refused(data):
    X, y = data

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_module()

        def forward(self, x, shift=None):
            return self.net(x if shift is None else x + shift)

    module = Shifted()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    with record_training(module, optimizer, X, y), pytest.raises(ValueError, match="the module was given 2 arguments"):
        mean_loss(module(X, torch.ones(4)), y).backward()


def test_modules_that_train_and_predict_otherwise_are_refused(data):
    """A mode that is not seen: the module halves its gradients through a buffer that the loop changes."""
    X, y = data

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = make_module()
            self.register_buffer("gate", torch.ones(1, dtype=torch.float64))

        def forward(self, x):
            return self.net(x) * self.gate

    module = Gated()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    with record_training(module, optimizer, X, y) as run:
        plain_loop(module, optimizer, epochs(1, X, y), mean_loss)
        module.gate *= 2
        plain_loop(module, optimizer, epochs(1, X, y), mean_loss)
    with pytest.raises(ValueError, match="Buffers or frozen parameters of the module have changed"):
        telescope(module, X, y, record=run)
    module.gate /= 2
    with pytest.raises(ValueError, match="gradient of update 5 is not the one that the record gives"):
        telescope(module, X, y, record=run)


def test_rows_and_labels_that_do_not_fit_are_named(data):
    X, y = data
    module = make_module()
    make = partial(record_training, module, torch.optim.SGD(module.parameters(), lr=0.1))
    for arguments, message in (
        ((X[:, 0], y), "X must hold training rows"),
        ((X, y[:5]), r"y has shape \(5, 1\), and X 30 rows"),
        ((X * np.nan, y), "X contains NaN"),
        ((X, y / 0), "y contains NaN or infinity"),
        ((np.array([["a"]] * N), y), "X must hold numbers"),
        ((X, y, -np.ones(N)), "sample_weight must hold 30 finite weights"),
    ):
        with pytest.raises(ValueError, match=message):
            make(*arguments)
    with pytest.raises(ValueError, match="record_budget='much'"):
        make(X, y, record_budget="much")
    with make(X, y, record_budget=100), pytest.raises(MemoryError, match=r"record_budget=100 allows"):
        plain_loop(module, make.args[1], epochs(1, X, y), mean_loss)


def test_telescope_asks_for_the_right_record(data):
    X, y = data
    module, other = make_module(), nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    with pytest.raises(TypeError, match=r"record_training\(module, optimizer, X, y\) as run"):
        telescope(module, X, y)
    with pytest.raises(TypeError, match=r"callbacks=\[TrainingRecorder\(\)\]"):
        telescope(NeuralNetRegressor(module, verbose=0, max_epochs=1).fit(X.numpy(), y.numpy()), X, y)
    run = record_training(module, optimizer, X, y)
    with pytest.raises(ValueError, match="record holds no update"):
        telescope(module, X, y, record=run)
    with run:
        plain_loop(module, optimizer, epochs(1, X, y), mean_loss)
        with pytest.raises(ValueError, match="being made already"), run:
            pass
    for arguments, message in (
        ((module, X.flip(0), y), "X is not the X that was recorded"),
        ((module, X, 2 * y), "y is not the y that was recorded"),
        ((other, X, y), "record is that of another module"),
    ):
        with pytest.raises(ValueError, match=message):
            telescope(*arguments, record=run)
    with pytest.raises(ValueError, match="sample_weight must be None for nets"):
        telescope(module, X, y, np.ones(N), record=run)
    with pytest.raises(TypeError, match="settings for recorded nets only"):
        telescope(TelescopingMLPRegressor(), X, y, rule="left")
    explained = telescope(module, X, y, record=run)
    with pytest.raises(ValueError, match="expecting 4 features"):
        explained.predict(X[:, :3])
    explained.section = 0
    with pytest.raises(ValueError, match="section"):
        explained.kernel_weights(X)


# -- skorch ------------------------------------------------------------------------------------------------------------


def skorch_net(module, *callbacks, **settings):
    defaults = {"max_epochs": 3, "batch_size": 8, "lr": 0.02, "verbose": 0, "iterator_train__shuffle": True}
    return NeuralNetRegressor(module, callbacks=[*callbacks, TrainingRecorder()], **defaults | settings)


def test_skorchs_callbacks_and_held_out_rows(data):
    X, y = (part.numpy().astype(np.float32) for part in data)
    X[1], y[1] = X[0], y[0]  # a copy that may be held out
    clip = GradientNormClipping(0.2)
    schedule = LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    net = skorch_net(make_module(dtype=torch.float32), clip, schedule, optimizer=torch.optim.Adam)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        net.fit(X, y)
    explained = telescope(net, X, y, section=1)
    held_out = net.get_split_datasets(X, y)[1].indices
    trained = explained.telescope_.trained
    assert trained.sum() == N - len(held_out)
    assert not trained[held_out].any()
    assert not explained.kernel_weights(X)[:, held_out].any()
    assert len(set(explained.telescope_.path.trajectory.learning_rates.round(6))) == 3
    query = random_rows(4, seed=1)[0].astype(np.float32)
    np.testing.assert_allclose(explained.predict(query), net.predict(query)[:, 0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rebuilt(explained, query, y), net.predict(query)[:, 0], atol=1e-3)


def test_skorchs_second_fit_partial_fit_best_parameters_and_data_sets(data):
    X, y = (part.numpy().astype(np.float32) for part in data)
    net = skorch_net(make_module(dtype=torch.float32), train_split=None).fit(X, y)
    first = dict(net.callbacks_)["TrainingRecorder"].record_
    net.partial_fit(X, y)
    assert dict(net.callbacks_)["TrainingRecorder"].record_ is first
    assert telescope(net, X, y).n_stages_ == 24
    net.fit(SkorchDataset(X, y), y=None)
    assert dict(net.callbacks_)["TrainingRecorder"].record_ is not first
    assert telescope(net, X, y).n_stages_ == 12

    stopping = EarlyStopping(patience=2, load_best=True)
    net = skorch_net(make_module(dtype=torch.float32), stopping, lr=0.5, max_epochs=20).fit(X, y)
    explained = telescope(net, X, y, section=1)
    assert explained.n_stages_ == 3 * stopping.best_epoch_
    np.testing.assert_allclose(explained.predict(X), net.predict(X)[:, 0], rtol=1e-4, atol=1e-5)


def test_a_skorch_net_in_a_pipeline(data):
    X, y = (part.numpy().astype(np.float32) for part in data)
    X = X * 3 + 1
    pipeline = make_pipeline(StandardScaler(), skorch_net(make_module(dtype=torch.float32), train_split=None)).fit(X, y)
    explained = telescope(pipeline, X, y, section=1)
    np.testing.assert_allclose(explained.predict(X), pipeline.predict(X)[:, 0], rtol=1e-4, atol=1e-5)
    assert explained.kernel_weights(X[:2]).shape == (2, N)


def test_a_skorch_net_with_a_penalty_is_refused(data):
    X, y = (part.numpy() for part in data)

    class Penalised(NeuralNetRegressor):
        def get_loss(self, y_pred, y_true, X=None, training=False):
            return super().get_loss(y_pred, y_true, X, training) + 0.01 * squares(self.module_)

    net = Penalised(make_module(), max_epochs=1, verbose=0, callbacks=[TrainingRecorder()])
    with pytest.raises(ValueError, match="weight_decay: twice"):
        net.fit(X, y)
