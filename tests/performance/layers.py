"""The rows about layers: the polynomial run, and a convolutional net beside torch.func."""

from functools import partial

import numpy as np
import torch
from torch import nn

from telescoping_sklearn.neural import register_activation
from telescoping_sklearn.neural._functional import FunctionalNetwork
from telescoping_sklearn.neural._modules import read_module
from telescoping_sklearn.neural._tangent import tangent
from tests.performance._measure import profile, ratio, readable_seconds, side_by_side, timed
from tests.performance._results import Result, Row, at_most
from tests.performance.neural import net, without_answers

#: Updates of a run of the polynomial task whose exact p at 16 stages is to take 8 minutes.
UPDATES, MINUTES = 18_205, 8


class Quadratic(nn.Module):
    """phi(h) = h + eps / 2 h^2."""

    def __init__(self, eps=0.2):
        super().__init__()
        self.eps = eps

    def forward(self, h):
        return h + self.eps / 2 * h**2


register_activation(Quadratic(), lambda part, h: 1 + part.eps * h)


def polynomial_net(width, n_features):
    """f(x) = mean over hidden units of phi(theta_j . x)."""
    first, last = nn.Linear(n_features, width, bias=False), nn.Linear(width, 1, bias=False)
    nn.init.normal_(first.weight)
    nn.init.constant_(last.weight, 1 / width)
    return nn.Sequential(first, Quadratic(), last.requires_grad_(False))


def polynomial(quick):
    """Exact effective parameters along full-batch gradient descent, beside the matrix products that it cannot avoid."""
    n, m, d, width, updates, n_stages = (60, 50, 10, 50, 6, 3) if quick else (550, 500, 100, 500, 300, 16)
    rng = np.random.default_rng(0)
    X, beta = rng.normal(size=(n + m, d)) / np.sqrt(d), rng.normal(size=d)
    y = (X @ beta) ** 2 / 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = polynomial_net(width, d)
    model = net(
        (), module=module, optimizer="sgd", learning_rate_init=float(width), batch_size="full", max_iter=updates
    )
    fitting = timed(lambda: model.fit(X[:n], y[:n]))

    def question():
        model._trajectory.segments.clear()  # a run of 18,205 updates does not fit the default budget
        without_answers(model).staged_effective_params(X[n:], n_stages, n_probes=None)

    floor = partial(_products, n, m, d, width)
    times = side_by_side({"question": question, "floor": lambda: [floor() for _ in range(updates)]}, 2 if quick else 3)
    an_update = times["question"].divided_by(updates)
    what = (
        f"polynomial task, {d}-{width}-1 with a fixed last layer, n = {n}, m = {m}, full batch: exact p of the "
        f"test rows at {n_stages} stages, replay and checks included, an update of {updates}"
    )
    limit = at_most(60e3 * MINUTES / UPDATES, 1e3 * an_update.median, " ms")
    peer = f"its matrix products in numpy {times['floor'].divided_by(updates)}"
    rows = [
        Row(what, peer, str(an_update), str(ratio(times["floor"], times["question"])), limit),
        Row("the fit of it, an update", "", readable_seconds(fitting / updates), ""),
    ]
    return Result("The polynomial task", rows, profiles={"exact p of the polynomial task": profile(question)})


def _products(n, m, d, width):
    """Products of an update: two kernels of derivatives, both times n columns, three times the rows run forward."""
    here, there, query = (np.ones((rows, width), dtype=np.float32) for rows in (n, n, m))
    weight, X = np.ones((d, width), dtype=np.float32), np.ones((n, d), dtype=np.float32)
    columns = np.ones((n, n), dtype=np.float32)
    for rows in (here, query):
        (rows @ there.T) @ columns
    for _ in range(3):
        X @ weight


def convolution(quick):
    """Products of a convolutional net's Jacobian, layer by layer and by torch.func."""
    (n, n_others, k), repeats = ((20, 10, 3), 2) if quick else ((500, 100, 16), 5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 1),
        )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    X, others = (torch.randn(rows, 64, generator=generator) for rows in (n, n_others))
    chain, theta, _ = read_module(module, X[:3].numpy())
    routes = {"ours": chain, "torch.func": FunctionalNetwork(module, X[:3].double())}
    theta = theta.float()
    directions = torch.randn(k, len(theta), generator=generator)
    columns = torch.randn(n, k, generator=generator)
    questions = {
        f"tangent kernel block {n} x {n_others}": lambda at, route: at.kernel(tangent(route, theta, others)),
        f"{n} rows times {k} directions": lambda at, route: at.jvp(directions),
        f"{k} columns times {n} rows": lambda at, route: at.vjp(columns),
    }
    rows = []
    for name, ask in questions.items():
        work = {route: partial(_asked, ask, routes[route], theta, X) for route in routes}
        torch.testing.assert_close(work["ours"](), work["torch.func"](), rtol=1e-3, atol=1e-3)
        times = side_by_side(work, repeats)
        what = f"{name}, two convolutions of 8 x 8 images, p = {len(theta):,}, float32"
        faster = ratio(times["torch.func"], times["ours"])
        rows.append(Row(what, f"torch.func {times['torch.func']}", str(times["ours"]), str(faster)))
    return Result("Convolutions", rows)


def _asked(ask, route, theta, X):
    return ask(tangent(route, theta, X), route)


BENCHMARKS = {"polynomial": polynomial, "convolution": convolution}
