"""Random settings of nets and random data, against torch's own training and a loop over rows with autograd.

Every seed draws one case and ends in one of three ways: exact, refused in `fit` with a reason, or a failure. From the
root of the project::

    python -m tests.fuzz.nets --n 2000 --seed 0

works the seeds 0 to 1999, shows how far it is, and prints a table; ``--n 1 --seed 471`` works one of them again.
"""

import copy
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler

from telescoping_sklearn import TelescopingMLPRegressor
from telescoping_sklearn.neural import register_update_rule
from tests.fuzz._cases import Outcome, close, need, outcome_of, retyped, run
from tests.oracles import (
    STEPS,
    NetLoops,
    adagrad_phi,
    adagrad_step,
    adam_phi,
    fresh_net,
    rmsprop_phi,
    rmsprop_step,
    shape_of,
)

#: Relative gaps allowed. Single precision rounds every product once, and responses feed on themselves.
TIGHT, SINGLE = 1e-10, 5e-5


class RMSprop(torch.optim.RMSprop):
    """A class of its own, so that nothing else uses what is registered here."""


class Adagrad(torch.optim.Adagrad):
    """A class of its own, so that nothing else uses what is registered here."""


class RMSpropResponse:
    """M = m M + G / phi; D = -lr M."""

    def __init__(self, settings):
        if settings["centered"] or settings["weight_decay"]:
            raise ValueError("only plain RMSprop and its momentum are known")
        self.momentum, self.velocity = settings["momentum"], 0.0

    def step(self, gradient, parameters, stage, rate, phi):
        """Return the step's response."""
        self.velocity = self.momentum * self.velocity + gradient / phi
        return -rate * self.velocity


class AdagradResponse:
    """D = -lr / (1 + (t - 1) l) (G + decay Theta) / phi, which can also be run backward."""

    def __init__(self, settings):
        self.decay, self.lr_decay = settings["weight_decay"], settings["lr_decay"]

    def step(self, gradient, parameters, stage, rate, phi):
        """Return the step's response."""
        return -rate / (1 + (stage - 1) * self.lr_decay) * (gradient + self.decay * parameters) / phi

    def transposed_step(self, on_step, stage, rate, phi):
        """Return the dependence on the gradient and on the parameters."""
        on_gradient = -rate / (1 + (stage - 1) * self.lr_decay) * on_step / phi
        return on_gradient, self.decay * on_gradient if self.decay else None


register_update_rule(RMSprop, RMSpropResponse, rmsprop_phi)
register_update_rule(Adagrad, AdagradResponse, adagrad_phi)
CLASSES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
ORACLES = {name: (STEPS[name], None if name == "sgd" else adam_phi) for name in CLASSES}
ORACLES |= {RMSprop: (rmsprop_step, rmsprop_phi), Adagrad: (adagrad_step, adagrad_phi)}


# -- modules -----------------------------------------------------------------------------------------------------------


class Bent(nn.Module):
    """A layer used twice, a frozen parameter and a buffer."""

    def __init__(self, n_features):
        super().__init__()
        self.inner, self.norm, self.last = nn.Linear(n_features, 4), nn.LayerNorm(4), nn.Linear(4, 1)
        self.scale = nn.Parameter(torch.tensor(0.7), requires_grad=False)
        self.register_buffer("shift", torch.linspace(-1, 1, 4))

    def forward(self, X):
        h = self.inner(X)
        return self.last(torch.sin(self.norm(h) + self.shift)) + self.scale * h.mean(dim=1, keepdim=True)


class Product(nn.Module):
    """A product of two layers, one output without a second axis, and a parameter that is not used."""

    def __init__(self, n_features):
        super().__init__()
        self.one, self.other = nn.Linear(n_features, 3), nn.Linear(n_features, 3, bias=False)
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, X):
        return (torch.tanh(self.one(X)) * self.other(X)).sum(dim=1)


def chain(n_features):
    """A perceptron, worked layer by layer."""
    return nn.Sequential(
        nn.Linear(n_features, 4), nn.Tanh(), nn.Sequential(nn.Linear(4, 3), nn.Tanh()), nn.Linear(3, 1)
    )


def mixed(n_features):
    """Two activations, one of them in place."""
    return nn.Sequential(nn.Linear(n_features, 4), nn.ReLU(inplace=True), nn.Linear(4, 3), nn.ELU(), nn.Linear(3, 1))


def dropping(n_features):
    """What is refused."""
    return nn.Sequential(nn.Linear(n_features, 4), nn.Dropout(0.5), nn.Linear(4, 1))


MODULES = [Bent, Product, chain, mixed, dropping]


def with_seed(seed, make):
    """Call with torch's generator seeded, and leave it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


# -- what a seed draws -------------------------------------------------------------------------------------------------

#: Schedules, and the factor that each has at an update.
SCHEDULES: list[tuple[Any, Callable[[int], float]]] = [
    (lambda t: 1 / t, lambda t: 1 / t),
    (lambda t: float(t % 2), lambda t: float(t % 2)),
    (partial(lr_scheduler.StepLR, step_size=2, gamma=0.5), lambda t: 0.5 ** ((t - 1) // 2)),
    (partial(lr_scheduler.ExponentialLR, gamma=0.9), lambda t: 0.9 ** (t - 1)),
    (partial(lr_scheduler.CosineAnnealingLR, T_max=30), lambda t: (1 + math.cos(math.pi * (t - 1) / 30)) / 2),
]


class Case(NamedTuple):
    """What one seed draws."""

    settings: dict[str, Any]
    factor: Callable[[int], float]
    X: np.ndarray
    y: np.ndarray
    query: np.ndarray
    weights: np.ndarray | None


def draw_optimizer(rng):
    """An optimiser and its settings; some of them are refused."""
    name = ["sgd", "sgd", "adam", "adamw", RMSprop, Adagrad][rng.integers(6)]
    rate = float(rng.choice([0.3, 0.05, 0.01] if name == "sgd" else [0.05, 0.01, 1e-3]))
    drawn: dict[str, Any] = {"optimizer": name, "learning_rate_init": rate}
    decay, momentum = float(rng.choice([0.0, 0.0, 0.1, 1e-3])), float(rng.choice([0.0, 0.0, 0.5, 0.9]))
    if name is RMSprop:
        settings = {"alpha": float(rng.choice([0.99, 0.5])), "eps": float(rng.choice([1e-8, 1e-2]))}
        return drawn | {"optimizer_settings": settings | {"momentum": momentum, "centered": bool(rng.random() < 0.1)}}
    if name is Adagrad:
        settings = {"lr_decay": float(rng.choice([0.0, 0.1])), "initial_accumulator_value": float(rng.choice([0.0, 1]))}
        return drawn | {"optimizer_settings": settings | {"weight_decay": decay}}
    drawn["weight_decay"] = decay
    if name == "sgd":
        dampening = float(rng.choice([0.0, 0.0, 0.3]))
        return drawn | {"momentum": momentum, "dampening": dampening, "nesterov": bool(rng.random() < 0.3)}
    betas = float(rng.choice([0.9, 0.5, 0.0])), float(rng.choice([0.999, 0.9, 0.0]))
    return drawn | {"betas": betas, "eps": float(rng.choice([1e-8, 1e-3, 1.0])), "amsgrad": bool(rng.random() < 0.3)}


def draw_net(rng, n_features):
    """Layers and activations, or a module or what makes one."""
    if rng.random() < 0.3:
        make = MODULES[rng.integers(len(MODULES))]
        return {"module": make if rng.random() < 0.5 else with_seed(int(rng.integers(99)), lambda: make(n_features))}
    hidden = [(), (1,), (5,), (3, 2), (2, 2, 2), 4][rng.integers(6)]
    return {
        "hidden_layer_sizes": hidden,
        "activation": str(rng.choice(["relu", "tanh", "gelu", "sigmoid", "identity"])),
        "output_activation": str(rng.choice(["identity", "identity", "sigmoid"])),
    }


def draw_training(rng, n):
    """Batches, epochs, stopping and precision."""
    return {
        "batch_size": ["auto", "full", 1, 2, 3, max(1, n - 1), n + 5][rng.integers(7)],
        "max_iter": int(rng.integers(1, 5)),
        "shuffle": bool(rng.random() < 0.8),
        "tol": float(rng.choice([0.0, 1e-4, 0.3])),
        "n_iter_no_change": int(rng.choice([1, 2, 10])),
        "early_stopping": bool(rng.random() < 0.25),
        "validation_fraction": float(rng.choice([0.1, 0.3])),
        "init_scale": float(rng.choice([1.0, 1.0, 0.3, 2.0, 0.0])),
        "warmup_steps": int(rng.choice([0, 0, 3])),
        "rule": str(rng.choice(["left", "midpoint", "midpoint", "gauss2"])),
        "section": ["auto", 1, 1, 2, 5][rng.integers(5)],
        "dtype": str(rng.choice(["float64", "float64", "float32"])),
        "record_budget": ["1GiB", "1GiB", "100KB"][rng.integers(3)],
        "random_state": int(rng.integers(2**31)),
    }


def draw_data(rng, n, n_features):
    """Rows, labels, rows to ask about, and weights."""
    both = rng.normal(size=(n + 3, n_features)) * rng.choice([1.0, 1.0, 3.0])
    if rng.random() < 0.2:
        both[:, 0] = 1.0
    if rng.random() < 0.2:
        both[rng.integers(n)] = both[0]  # a row twice
    y = np.sin(both[:n, 0]) + both[:n, -1] + 0.3 * rng.normal(size=n)
    if rng.random() < 0.1:
        y = np.full(n, rng.choice([0.0, 1.0]))
    weights = None if rng.random() < 0.5 else rng.exponential(size=n)
    if weights is not None and rng.random() < 0.5:
        weights[rng.random(n) < 0.4] = 0.0
    return both[:n], y, both[n:], weights if weights is not None and weights.any() else None


def draw_case(seed: int) -> Case:
    """The case of a seed."""
    rng = np.random.default_rng(seed)
    n, n_features = int(rng.choice([1, 2, 3, 6, 9, 12])), int(rng.integers(1, 5))
    settings = draw_net(rng, n_features) | draw_optimizer(rng) | draw_training(rng, n)
    schedule, factor = (None, lambda t: 1.0) if rng.random() < 0.5 else SCHEDULES[rng.integers(len(SCHEDULES))]
    return Case(settings | {"lr_schedule": schedule}, factor, *draw_data(rng, n, n_features))


# -- checks ------------------------------------------------------------------------------------------------------------


def check_seed(seed: int) -> Outcome:
    """Draw the case of a seed and say how it ends."""
    case = draw_case(seed)
    model = TelescopingMLPRegressor(**retyped(seed, case.settings))

    def fit():
        model.fit(case.X, case.y, sample_weight=case.weights)
        model.set_params(**case.settings)  # for what the answers are held against

    return outcome_of(fit, partial(check_answers, model, case))


def initial_module(model) -> nn.Module:
    """The module where training starts, in the dtype that it is trained in."""
    dtype = getattr(torch, model.dtype)
    if isinstance(model.module, nn.Module):
        net = copy.deepcopy(model.module).double()
    elif model.module is not None:
        net = with_seed(model.seed_, lambda: model.module(model.n_features_in_)).double()
    else:
        net = with_seed(model.seed_, lambda: fresh_net(*shape_of(model)))
    with torch.no_grad():
        for part in net.parameters():
            if part.requires_grad:
                part.mul_(model.init_scale)
    return net.to(dtype)


def make_optimizer(model) -> Callable[[Any], torch.optim.Optimizer]:
    """What makes torch's optimiser as the parameters of the estimator name it."""
    if not isinstance(model.optimizer, str):
        return partial(model.optimizer, lr=model.learning_rate_init, **model.optimizer_settings)
    names = ("momentum", "dampening", "nesterov") if model.optimizer == "sgd" else ("betas", "eps", "amsgrad")
    settings = {name: getattr(model, name) for name in ("weight_decay", *names)}
    return partial(CLASSES[model.optimizer], lr=model.learning_rate_init, **settings)


def batches_of(model, n: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows of every update as recorded, and the rows trained on; every epoch has each once."""
    batches = list(model._trajectory.batches)
    n_kept = n - math.ceil(n * model.validation_fraction) if model.early_stopping else n
    size = min({"auto": 200, "full": n_kept}.get(model.batch_size, model.batch_size), n_kept)
    per_epoch = -(-n_kept // size)
    kept = np.sort(np.concatenate(batches[:per_epoch]))
    need(len(np.unique(kept)) == n_kept, "the first epoch does not have every row once")
    for first in range(0, len(batches), per_epoch):
        rows = np.concatenate(batches[first : first + per_epoch])
        need(np.array_equal(np.sort(rows), kept), "an epoch does not have every row once")
        need(model.shuffle or np.array_equal(rows, kept), "unshuffled rows are not in order")
    return batches, kept


def loops_of(model, case: Case) -> NetLoops:
    """The oracle of a fitted model, whose run it has checked."""
    n = len(case.y)
    batches, kept = batches_of(model, n)
    given = np.ones(n) if case.weights is None else case.weights
    weights = np.zeros(n)
    weights[kept] = given[kept] * len(kept) / given[kept].sum()
    warm = [min(1.0, t / model.warmup_steps) if model.warmup_steps else 1.0 for t in range(1, len(batches) + 1)]
    rates = [model.learning_rate_init * case.factor(t) * share for t, share in enumerate(warm, start=1)]
    close(model._trajectory.learning_rates, rates, "learning rates", 1e-12)
    step, phi = ORACLES[model.optimizer]
    start, ends = initial_module(model), model.section_ends_.tolist()
    loops = NetLoops(start, make_optimizer(model), step, phi, rates, batches, case.X, case.y, weights, ends, model.rule)
    recorded, single = model._trajectory.parameters, model.dtype == "float32"
    need(torch.equal(recorded[0], loops.path[0]), "training starts elsewhere")
    steady = phi is None or model.get_params().get("eps", 0) >= 1e-3  # a gradient of rounding alone is divided by eps
    if not single or steady:
        close(recorded, torch.stack(loops.path), "parameters of the run", SINGLE if single else TIGHT)
    if single:
        loops.follow(list(recorded), [None] * len(batches) if phi is None else list(model._trajectory.denominators))
    return loops


def check_answers(model, case: Case) -> str:
    """Hold the answers of a fitted model against the oracle; say what sort of case it is."""
    loops, telescope, n = loops_of(model, case), model.telescope_, len(case.y)
    rtol, T, query = SINGLE if model.dtype == "float32" else TIGHT, model.n_stages_, case.query
    close(model.predict(query), loops.outputs(loops.path[-1], query), "predictions", rtol)
    stages = sorted({0, 1, T // 2 + 1, T})
    expected = loops.response(np.eye(n), query, stages)
    offsets = loops.response(np.zeros((n, 1)), query, stages, offset=True)
    for rows, which in ((case.X, 0), (query, 1)):
        S, c = expected[-1][which], offsets[-1][which][:, 0]
        staged = telescope.staged_response(None if which == 0 else query, np.eye(n), offset=True, stages=stages)
        for stage, found, (*columns,), (*rest,) in zip(stages, staged, expected, offsets, strict=True):
            close(found, np.hstack([columns[which], rest[which]]), f"response at stage {stage}", rtol)
        close(model.kernel_weights(rows), S, "weights", rtol)
        close(model.offset(rows), c, "offset", rtol)
        close(model.telescope_.reconstruct(rows), S @ case.y + c, "S y + c", n * rtol)
        p = int(telescope.trained.sum()) * (S**2).sum() / len(rows)
        close(model.effective_params(rows, n_probes=None), p, "effective parameters", 10 * n * rtol)
    if telescope.has_adjoint:
        backward = telescope.apply_adjoint(telescope.backward_plan(len(query)), query)
        close(backward, expected[-1][1], "weights, backward", rtol)
    for stage in stages[1:]:
        kernel = loops.kernel(query, stage)
        close(next(model.staged_kernel(query, stages=[stage])).toarray(), kernel, "kernel", rtol)
        close(model.kernel_norms(query, stages=[stage])[0], np.linalg.norm(kernel, axis=1), "kernel norms", rtol)
    return f"{model.dtype}, {'layers' if model.module is None else 'module'}"


if __name__ == "__main__":
    sys.exit(run(check_seed, __doc__))
