"""Any torch module: tangents against structured derivatives and one-sample autograd, and whole runs."""

import pickle

import numpy as np
import pytest
import torch
from conftest import make_net, random_rows
from oracles import MODULES, fresh_net, jacobian
from sklearn import config_context
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from telescoping_sklearn.neural._functional import FunctionalNetwork, FunctionalTangent
from telescoping_sklearn.neural._modules import read_module
from telescoping_sklearn.neural._network import Architecture, Chain
from telescoping_sklearn.neural._tangent import tangent

N_FEATURES = 4
SOME = torch.as_tensor(random_rows(3)[0])


class Opaque(nn.Module):
    """Hides what a module is made of."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, X):
        return self.inner(X)


class Residual(nn.Module):
    """A residual block with layer normalisation, a buffer, a frozen parameter and one layer used twice."""

    def __init__(self, n_features=N_FEATURES):
        super().__init__()
        self.first = nn.Linear(n_features, 6)
        self.norm = nn.LayerNorm(6)
        self.inner = nn.Linear(6, 6, bias=False)
        self.last = nn.Linear(6, 1)
        self.scale = nn.Parameter(torch.tensor(0.7), requires_grad=False)
        self.register_buffer("shift", torch.linspace(-1, 1, 6))

    def forward(self, X):
        hidden = torch.tanh(self.first(X)) + self.shift
        for _ in range(2):
            hidden = hidden + self.scale * torch.tanh(self.inner(self.norm(hidden)))
        return self.last(hidden)


class Convolutional(nn.Module):
    """Convolution along the columns; one output without a second axis."""

    def __init__(self, n_features=N_FEATURES):
        super().__init__()
        self.convolution = nn.Conv1d(1, 3, 2)
        self.last = nn.Linear(3 * (n_features - 1), 1)

    def forward(self, X):
        return self.last(torch.nn.functional.silu(self.convolution(X[:, None])).flatten(1))[:, 0]


def perceptron(n_features=N_FEATURES, activation="tanh", hidden=(7, 5)):
    return fresh_net((n_features, *hidden, 1), activation)


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


# Tangents


@pytest.mark.parametrize("working_memory", [1024, 1e-4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", MODULES)
def test_functional_and_structured_derivatives_agree(activation, dtype, working_memory):
    net = seeded(lambda: perceptron(activation=activation))
    functional, (layerwise, theta, _) = FunctionalNetwork(net, SOME), read_module(net, SOME.numpy())
    assert isinstance(layerwise, Architecture)
    assert functional.n_params == layerwise.n_params
    here, there = (torch.as_tensor(random_rows(n, seed=n)[0], dtype=dtype) for n in (9, 5))
    theta = theta.to(dtype)
    directions, columns = (
        torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
        for shape in ((6, functional.n_params), (9, 3))
    )
    with config_context(working_memory=working_memory):
        ours, theirs = (tangent(network, theta, here) for network in (functional, layerwise))
        others = [tangent(network, 1.1 * theta, there) for network in (functional, layerwise)]
        found = [
            (route.jvp(directions), route.vjp(columns), route.gradients(), route.kernel(other))
            for route, other in zip((ours, theirs), others, strict=True)
        ]
    assert isinstance(ours, FunctionalTangent)
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("make", [Residual, Convolutional, perceptron])
def test_functional_tangents_are_those_of_one_sample_autograd(make):
    net = seeded(make).double()
    trained = [part for part in net.parameters() if part.requires_grad]
    network = FunctionalNetwork(net, SOME)
    X = torch.as_tensor(random_rows(8)[0])
    expected = torch.stack(
        [torch.cat([part.flatten() for part in torch.autograd.grad(net(x[None]).squeeze(), trained)]) for x in X]
    )
    if make is perceptron:
        torch.testing.assert_close(expected, jacobian(net, X))
    found = tangent(network, network.initial_parameters(), X)
    directions = torch.randn((3, network.n_params), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.gradients(), expected)
    torch.testing.assert_close(found.jvp(directions), expected @ directions.T)
    torch.testing.assert_close(found.vjp(expected[:, :2]), expected[:, :2].T @ expected)
    torch.testing.assert_close(found.kernel(found), expected @ expected.T)


# Layers of every kind, on 12 columns of which the first two are codes from 0 to 4


class Parts(nn.Module):
    """Runs a function of its parts and the rows."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, X):
        return self.run(self, X)


def images(X):
    return X.view(-1, 1, 3, 4)


def strided():
    first = nn.Conv2d(1, 4, (2, 3), stride=(1, 2), padding=1, dilation=(2, 1))
    grouped = nn.Conv2d(4, 6, 2, groups=2, padding="same", padding_mode="circular")
    parts = first, nn.ReLU(inplace=True), grouped, nn.GroupNorm(3, 6), nn.AvgPool2d(2), nn.Flatten()
    return nn.Sequential(nn.Unflatten(1, (1, 3, 4)), *parts, nn.LazyLinear(1))


def tokens(part, X):
    codes = part.code(X[:, :2].long())  # two positions a row
    mixed = torch.tanh(part.mix(codes) @ codes.mT)
    return part.last(mixed.flatten(1)) + part.tied(part.one(X[:, 0].long())) + part.norm(codes).sum((1, 2))[:, None]


def token_parts():
    parts = {"code": nn.Embedding(5, 3, padding_idx=1), "one": nn.Embedding(5, 3), "mix": nn.Linear(3, 3)}
    tied = nn.Linear(3, 1, bias=False)
    return Parts(tokens, **parts, last=nn.Linear(4, 1), tied=tied, norm=nn.LayerNorm((2, 3)))


def with_attention(part, X):
    steps = X.view(-1, 3, 4)
    return part.last(part.attend(steps, steps, steps)[0].flatten(1) * part.scale)


def attention():
    attend = nn.MultiheadAttention(4, 2, batch_first=True)
    return Parts(with_attention, attend=attend, scale=nn.Parameter(torch.zeros(12)), last=nn.Linear(12, 1))


def transposed():
    """Rows do not come first in the inner layer, and its weight is used by another function too."""
    inner = nn.Linear(4, 4)
    run = lambda part, X: part.last((part.inner(X.view(-1, 3, 4).swapaxes(0, 1)).swapaxes(0, 1)).flatten(1))  # noqa: E731
    return Parts(run, inner=inner, last=nn.Linear(12, 1))


def reused():
    run = lambda part, X: part.last(torch.tanh(part.inner(torch.tanh(part.inner(X))))) + part.inner.weight.sum()  # noqa: E731
    return Parts(run, inner=nn.Linear(12, 12), last=nn.Linear(12, 1))


def outputs():
    parts = nn.Conv1d(2, 3, 3, padding=1), nn.Flatten(), nn.LayerNorm(18), nn.Linear(18, 4), nn.GELU(), nn.Linear(4, 3)
    return nn.Sequential(nn.Unflatten(1, (2, 6)), *parts)


def normalised():
    norm = nn.BatchNorm1d(5)
    norm.running_mean.uniform_()
    return nn.Sequential(nn.Linear(12, 5), norm, nn.Softplus(), nn.Linear(5, 1)).eval()


def volumes():
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2, 3)), nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 1))


#: With the parameters that go through torch.func, since something other than a layer computes with them.
LAYERS = {
    "strided and grouped convolutions": (strided, 1, ()),
    "volumes": (volumes, 1, ()),
    "embeddings and positions": (token_parts, 1, ()),
    "several outputs": (outputs, 3, ()),
    "batch normalisation": (normalised, 1, ()),
    "attention": (attention, 1, ("scale", "attend.in_proj_weight", "attend.in_proj_bias", "attend.out_proj.weight",
                                 "attend.out_proj.bias")),
    "rows on another axis": (transposed, 1, ("inner.weight", "inner.bias")),
    "used again and otherwise": (reused, 1, ("inner.weight",)),
}  # fmt: skip


@pytest.mark.parametrize("working_memory", [1024, 1e-3])
@pytest.mark.parametrize(("make", "n_outputs", "others"), LAYERS.values(), ids=LAYERS)
def test_layers_of_every_kind_are_differentiated_as_by_one_sample_autograd(make, n_outputs, others, working_memory):
    X = torch.randn((7, 12), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    X[:, :2] = torch.arange(14).view(7, 2) % 5
    net = seeded(make).double()
    net(X)  # lazy layers learn their widths
    network = FunctionalNetwork(net, X[:3], n_outputs)
    assert set(network.others) == set(others)

    def by_row(rows):
        trained = list(net.parameters())
        singles = (net(x[None]).flatten()[j] for x in rows for j in range(n_outputs))
        found = [torch.autograd.grad(single, trained, allow_unused=True) for single in singles]
        flat = [[torch.zeros_like(p) if g is None else g for p, g in zip(trained, of, strict=True)] for of in found]
        return torch.stack([torch.cat([part.flatten() for part in of]) for of in flat])

    expected, theta = by_row(X), network.initial_parameters()
    few = by_row(X[:4])
    with config_context(working_memory=working_memory):
        found, other = tangent(network, theta, X), tangent(network, theta, X[:4])
        torch.testing.assert_close(found.kernel(other), expected @ few.T)
        for k in (1, 3, 20):
            fresh = tangent(network, theta, X)
            directions, columns = (
                torch.randn((k, n), dtype=torch.float64, generator=torch.Generator().manual_seed(k))
                for n in (network.n_params, len(expected))
            )
            torch.testing.assert_close(fresh.jvp(directions), expected @ directions.T)
            torch.testing.assert_close(tangent(network, theta, X).vjp(columns.T), columns @ expected)
        torch.testing.assert_close(found.gradients(), expected)


def test_layers_that_are_called_another_number_of_times_than_tried_are_refused():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(N_FEATURES, 1), 0

        def forward(self, X):
            return self.linear(X) + (self.linear(X) if self.calls else 0)

    network = FunctionalNetwork(Counting(), SOME)
    network.template.calls = 1
    with pytest.raises(ValueError, match="called layers 1 times when it was tried, and 2 times now"):
        tangent(network, network.initial_parameters(), SOME).jvp(torch.ones((1, 5), dtype=torch.float64))


def test_calls_are_watched_inside_of_questions_and_other_modes_stay_out():
    (X, y), (others, _) = random_rows(), random_rows(6, seed=3)
    model = make_net(module=seeded(Residual)).fit(X, y)
    assert model.module_.network.others == ()  # found although questions switch such modes off
    expected = model.kernel_weights(others)
    with torch.device("meta"):
        np.testing.assert_array_equal(model.kernel_weights(others), expected)


# Whole runs

RUNS = {
    "sgd": {"momentum": 0.0},
    "sections": {"momentum": 0.0, "section": 5, "rule": "gauss2"},
    "momentum": {"momentum": 0.8, "weight_decay": 0.05, "rule": "left"},
    "adam": {"optimizer": "adam", "learning_rate_init": 1e-2},
    "adamw": {"optimizer": "adamw", "learning_rate_init": 1e-2, "weight_decay": 0.2, "section": 3},
    "single": {"dtype": "float32", "optimizer": "adam"},
    "early": {"early_stopping": True},
}


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_a_perceptron_given_as_a_module_is_the_same_model_by_either_route(settings):
    (X, y), (others, _) = random_rows(), random_rows(6, seed=3)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(y))
    net = seeded(perceptron)
    models = [make_net(module=module, **settings).fit(X, y, sample_weight=weights) for module in (net, Opaque(net))]
    kinds = [type(model.module_.network) for model in models]
    assert kinds == [Architecture, FunctionalNetwork]
    layerwise, functional = models
    tolerance = 1e-3 if settings.get("dtype") == "float32" else 1e-8

    def same(ask):
        mine, theirs = np.asarray(ask(functional)), np.asarray(ask(layerwise))
        np.testing.assert_allclose(mine, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())

    same(lambda model: model.module_.theta.detach())
    same(lambda model: model.predict(others))
    same(lambda model: model.kernel_weights(others))
    same(lambda model: model.telescope_.apply_adjoint(model.telescope_.backward_plan(2), others[:2]))
    same(lambda model: model.offset(others))
    same(lambda model: model.kernel_norms(others, stages=4))
    same(lambda model: model.effective_params(others, n_probes=3))
    same(lambda model: list(model.staged_predict(others, 5, approximation="telescoping")))
    same(lambda model: list(model.staged_predict(others, 5, approximation="linearized")))


@pytest.mark.parametrize("make", [Residual, Convolutional])
@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_weights_of_any_module_rebuild_it(make, settings):
    (X, y), (others, _) = random_rows(), random_rows(6, seed=3)
    model = make_net(module=seeded(make), **settings).fit(X, y)
    rebuilt = model.kernel_weights(others) @ y + model.offset(others)
    tolerance = (0.05 if model.rule == "left" or model.section > 1 else 2e-3) * y.std()
    np.testing.assert_allclose(rebuilt, model.predict(others), atol=tolerance)
    assert model.approximation_error(others, stages=2).telescoping_max < tolerance
    assert model.n_params_ == FunctionalNetwork(seeded(make), SOME).n_params


def test_training_a_module_is_training_it_with_torch():
    X, y = random_rows()
    model = make_net(module=seeded(Residual), batch_size="full", momentum=0.5, max_iter=15).fit(X, y)
    net = seeded(Residual).double()
    optimizer = torch.optim.SGD([part for part in net.parameters() if part.requires_grad], lr=0.02, momentum=0.5)
    for _ in range(15):
        optimizer.zero_grad()
        (((net(torch.as_tensor(X))[:, 0] - torch.as_tensor(y)) ** 2).mean() / 2).backward()
        optimizer.step()
    expected = net(torch.as_tensor(X)).detach()[:, 0].numpy()
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-6, atol=1e-8)


# As an estimator


def test_makers_get_their_settings_and_the_seed():
    X, y = random_rows(n_features=6)
    before = torch.get_rng_state()
    models = [make_net(module=Residual, module__n_features=6, random_state=seed).fit(X, y) for seed in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    first, again, other = (model.predict(X) for model in models)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_a_module_is_left_as_it_was_and_is_cloned_pickled_and_used_in_pipelines():
    X, y = random_rows()
    net = seeded(Residual)
    before = {name: part.clone() for name, part in net.state_dict().items()}
    pipe = make_pipeline(StandardScaler(), make_net(module=net)).fit(X, y)
    for name, part in net.state_dict().items():
        assert torch.equal(part, before[name])
    again = clone(pipe).fit(X, y)
    loaded = pickle.loads(pickle.dumps(again))
    for other in (again, loaded):
        np.testing.assert_array_equal(other.predict(X), pipe.predict(X))
        np.testing.assert_array_equal(
            other[-1].kernel_weights(pipe[:-1].transform(X[:3])), pipe[-1].kernel_weights(pipe[:-1].transform(X[:3]))
        )


CHAINS = {
    "linear": (lambda: nn.Linear(N_FEATURES, 1), ((N_FEATURES, 1), "identity", "identity")),
    "nested": (
        lambda: nn.Sequential(nn.Sequential(nn.Linear(N_FEATURES, 3), nn.GELU()), nn.Linear(3, 1), nn.Sigmoid()),
        ((N_FEATURES, 3, 1), "gelu", "sigmoid"),
    ),
    "perceptron": (perceptron, ((N_FEATURES, 7, 5, 1), "tanh", "identity")),
    "two activations": (
        lambda: nn.Sequential(nn.Linear(N_FEATURES, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)),
        Chain,
    ),
    "no bias": (lambda: nn.Linear(N_FEATURES, 1, bias=False), Chain),
    "approximate": (lambda: nn.Sequential(nn.Linear(N_FEATURES, 3), nn.GELU("tanh"), nn.Linear(3, 1)), Chain),
    "other activation": (lambda: nn.Sequential(nn.Linear(N_FEATURES, 3), nn.ELU(), nn.Linear(3, 1)), Chain),
    "layers in a row": (
        lambda: nn.Sequential(nn.Linear(N_FEATURES, 3), nn.Linear(3, 1)),
        ((N_FEATURES, 3, 1), "identity", "identity"),
    ),
    "residual": (Residual, FunctionalNetwork),
}


@pytest.mark.parametrize(("make", "expected"), CHAINS.values(), ids=CHAINS)
def test_the_route_is_chosen_by_what_the_module_is(make, expected):
    net = seeded(make)
    network, theta, _ = read_module(net, SOME.numpy())
    X = torch.as_tensor(random_rows(5)[0])
    torch.testing.assert_close(network.forward(theta, X), net.double()(X).detach().reshape(-1))
    if isinstance(expected, type):
        assert type(network) is expected
    else:
        assert network == Architecture(*expected)


def hooked():
    net = perceptron()
    net[0].register_forward_hook(lambda part, inputs, output: 0.5 * output)
    return net


def tied():
    first, second = nn.Linear(N_FEATURES, N_FEATURES), nn.Linear(N_FEATURES, N_FEATURES)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(N_FEATURES, 1))


def own_forward():
    net = perceptron()
    net[1].forward = torch.sin
    return net


@pytest.mark.parametrize("make", [hooked, tied, own_forward])
def test_chains_that_do_more_than_they_show_are_run_as_they_are(make):
    (X, y), net = random_rows(), seeded(make)
    network, theta, _ = read_module(net, SOME.numpy())
    assert isinstance(network, FunctionalNetwork)
    torch.testing.assert_close(network.forward(theta, SOME), net.double()(SOME)[:, 0].detach())
    model = make_net(module=seeded(make)).fit(X, y)
    np.testing.assert_allclose(model.kernel_weights(X) @ y + model.offset(X), model.predict(X), atol=2e-3)


class Embedded(nn.Module):
    """Takes codes in its first column."""

    def __init__(self):
        super().__init__()
        self.codes = nn.Embedding(3, 2)
        self.last = nn.Linear(N_FEATURES + 1, 1)

    def forward(self, X):
        return self.last(torch.cat([self.codes(X[:, 0].long()), X[:, 1:]], dim=1))


def test_modules_are_tried_on_rows_that_they_are_made_for():
    X, y = random_rows()
    X[:, 0] = np.arange(len(X)) % 3
    model = make_net(module=seeded(Embedded)).fit(X, y)
    np.testing.assert_allclose(model.kernel_weights(X) @ y + model.offset(X), model.predict(X), atol=2e-3)


def test_modules_that_work_in_place_leave_rows_alone():
    X, y = random_rows()
    before = X.copy()
    model = make_net(module=seeded(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(N_FEATURES, 1)))).fit(X, y)
    model.predict(X)
    model.kernel_weights(X[:2])
    np.testing.assert_array_equal(X, before)


def test_what_is_switched_off_is_taken():
    parts = nn.Linear(N_FEATURES, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Tanh(), nn.Linear(3, 1)
    X, y = random_rows()
    model = make_net(module=seeded(lambda: nn.Sequential(*parts).eval())).fit(X, y)
    np.testing.assert_allclose(model.kernel_weights(X) @ y + model.offset(X), model.predict(X), atol=2e-3)
    make_net(module=nn.Sequential(nn.Linear(N_FEATURES, 3), nn.Dropout(0.0), nn.Linear(3, 1))).fit(X, y)


def test_gradients_that_somebody_switched_off_are_taken_all_the_same():
    X, y = random_rows()
    expected = make_net(module=seeded(Residual)).fit(X, y).kernel_weights(X[:2])
    with torch.no_grad():
        model = make_net(module=seeded(Residual)).fit(X, y)
        np.testing.assert_array_equal(model.kernel_weights(X[:2]), expected)


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(N_FEATURES, 1)

    def forward(self, X):
        return self.linear(nn.functional.dropout(X, 0.5))


class Centred(Random):
    def forward(self, X):
        return self.linear(X - X.mean(0))


class Moving(Random):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(N_FEATURES))

    def forward(self, X):
        with torch.no_grad():
            self.mean.lerp_(X.mean(0), 0.1)
        return self.linear(X)


class Branching(Random):
    def forward(self, X):
        return self.linear(X) * (2.0 if float(X[0, 0]) > 10 else 1.0)


class Untrained(Random):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)

    def forward(self, X):
        return self.linear(X)


REFUSED = {
    "Dropout.*fixed kernel": lambda: nn.Sequential(nn.Linear(N_FEATURES, 3), nn.Dropout(), nn.Linear(3, 1)),
    "BatchNorm1d.*rest of its batch": lambda: nn.Sequential(
        nn.Linear(N_FEATURES, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)
    ),
    "random numbers": Random,
    "depend on the other rows": Centred,
    "changes its buffers": Moving,
    "cannot be differentiated by torch.func.*record=False": Branching,
    "parameters made": lambda: nn.LazyLinear(1),
    "module__out_features": lambda: nn.Linear,
    "no trainable parameters": Untrained,
    "rows of 4 features": lambda: nn.Linear(N_FEATURES + 1, 1),
    "one number each": lambda: nn.Linear(N_FEATURES, 2),
    "returned int": lambda: lambda n_features: n_features,
}


@pytest.mark.parametrize(("message", "make"), REFUSED.items(), ids=REFUSED)
def test_modules_without_a_fixed_kernel_are_refused_with_the_reason(message, make):
    with pytest.raises(ValueError, match=f"(?s)module.*{message}"):
        make_net(module=make()).fit(*random_rows())


def test_a_module_that_is_none_is_named():
    with pytest.raises(ValueError, match="'module' parameter"):
        make_net(module="net").fit(*random_rows())
