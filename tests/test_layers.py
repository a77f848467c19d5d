"""Chains of layers: structured derivatives against torch.func and one-sample autograd, and which modules are chains."""

import pickle

import numpy as np
import pytest
import torch
from conftest import make_net, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import config_context
from torch import nn

from telescoping_sklearn.neural import register_activation
from telescoping_sklearn.neural._activations import elementwise_of
from telescoping_sklearn.neural._functional import FunctionalNetwork
from telescoping_sklearn.neural._layers import Activation, Positions, Unparametrised
from telescoping_sklearn.neural._modules import read_module
from telescoping_sklearn.neural._network import Architecture, Chain
from telescoping_sklearn.neural._tangent import LayerwiseTangent, tangent

N_FEATURES = 16


class Quadratic(nn.Module):
    """The activation of the polynomial task."""

    def __init__(self, eps=0.2):
        super().__init__()
        self.eps = eps

    def forward(self, h):
        return h + self.eps / 2 * h**2


class Cubic(nn.Module):
    """Not registered: autograd gives its derivative."""

    def forward(self, h):
        return h + 0.1 * h**3


register_activation(Quadratic(), lambda part, h: 1 + part.eps * h)

KNOWN = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(0.2),
    nn.ELU(0.7),
    nn.SELU(),
    nn.SiLU(),
    nn.Softplus(2.0, 1.5),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.Hardtanh(-0.5, 0.8),
    nn.ReLU6(),
    Quadratic(0.3),
]
UNKNOWN = [nn.Mish(), nn.CELU(0.6), Cubic(), nn.Identity(), nn.Dropout(0.3).eval(), nn.Softmax(-1)]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def trained_jacobian(net, X, n_outputs):
    """J, (n * o, p), by autograd, one output of one row at a time."""
    trained = [part for part in net.parameters() if part.requires_grad]
    rows = []
    for x in X:
        for output in range(n_outputs):
            value = net(x[None]).reshape(-1)[output]
            parts = torch.autograd.grad(value, trained, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows)


# Random chains


def frozen(draw, part):
    """The part, its weight or bias or both possibly held fixed."""
    for parameter in part.parameters():
        parameter.requires_grad_(draw(st.booleans()) or draw(st.booleans()))
    return part


@st.composite
def chains(draw):
    """A chain for rows of 16 columns, with 1 to 3 outputs."""
    parts, pick = [], lambda items: draw(st.sampled_from(items))
    dims = pick([0, 0, 1, 2, "line"])
    if dims:
        channels, *size = (
            pick([(1, 16), (2, 8)]) if dims == 1 else pick([(1, 4, 4), (4, 2, 2)]) if dims == 2 else (4, 4)
        )
        parts.append(nn.Unflatten(1, (channels, *size)))
    if dims in (1, 2):
        convolution = (nn.Conv1d, nn.Conv2d)[dims - 1]
        pools = ((nn.AvgPool1d, nn.MaxPool1d), (nn.AvgPool2d, nn.MaxPool2d))[dims - 1]
        for _ in range(draw(st.integers(1, 2))):
            out = draw(st.integers(1, 3))
            how = pick([{"stride": 1}, {"stride": 2}, {"dilation": 2, "padding": "same"}])
            how = {"padding": 1} | how
            parts += [frozen(draw, convolution(channels, out, 3, bias=draw(st.booleans()), **how)), pick(KNOWN)]
            channels = out
        if draw(st.booleans()):
            parts.append(pick(pools)(2, ceil_mode=True))
        parts.append(nn.Flatten())
    elif dims:
        parts += [frozen(draw, nn.Linear(4, 3, bias=draw(st.booleans()))), pick(KNOWN + UNKNOWN), nn.Flatten()]
    width = nn.Sequential(*parts)(torch.zeros(2, N_FEATURES)).shape[1] if parts else N_FEATURES
    for _ in range(draw(st.integers(0, 2))):
        parts.append(frozen(draw, nn.Linear(width, 5, bias=draw(st.booleans()))))
        width = 5
        if draw(st.booleans()):
            parts.append(pick(KNOWN + UNKNOWN))
    n_outputs = draw(st.integers(1, 3))
    parts.append(frozen(draw, nn.Linear(width, n_outputs, bias=draw(st.booleans()))))
    if draw(st.booleans()):
        parts.append(nn.Sequential(pick(KNOWN)))
    net = nn.Sequential(*parts)
    if not any(part.requires_grad for part in net.parameters()):
        parts[-1 if isinstance(parts[-1], nn.Linear) else -2].weight.requires_grad_(True)
    return net.double(), n_outputs


@settings(max_examples=30, deadline=None)
@given(chains(), st.sampled_from([1, 3, 40]), st.sampled_from([1e-4, 1024]))
def test_every_product_is_that_of_torch_func_and_of_one_sample_autograd(made, k, working_memory):
    net, n_outputs = made
    for seed, part in enumerate(net.parameters()):
        part.data = 0.5 * normal(*part.shape, seed=seed)
    X, others = normal(5, N_FEATURES, seed=1), normal(4, N_FEATURES, seed=2)
    network, theta, _ = read_module(net, X[:3].numpy(), n_outputs=n_outputs)
    assert isinstance(network, Chain)
    functional = FunctionalNetwork(net, X[:3], n_outputs, explained=False)
    torch.testing.assert_close(network.forward(theta, X), functional.forward(theta, X))
    J = trained_jacobian(net, X, n_outputs)
    assert J.shape == (5 * n_outputs, network.n_params)
    directions, columns = normal(k, network.n_params, seed=3), normal(5 * n_outputs, k, seed=4)
    with config_context(working_memory=working_memory):
        at, by_func = tangent(network, theta, X), tangent(functional, theta, X)
        there, there_by_func = (tangent(route, 1.1 * theta, others) for route in (network, functional))
        assert isinstance(at, LayerwiseTangent)
        torch.testing.assert_close(at.gradients(), J)
        torch.testing.assert_close(by_func.gradients(), J)
        torch.testing.assert_close(at.jvp(directions), J @ directions.T)
        torch.testing.assert_close(at.vjp(columns), columns.T @ J)
        torch.testing.assert_close(at.kernel(at), J @ J.T)
        torch.testing.assert_close(at.kernel(there), by_func.kernel(there_by_func))
        if network.input_width:
            torch.testing.assert_close(at.kernel(there, X @ others.T), by_func.kernel(there_by_func))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_both_ways_to_a_convolutions_kernel_agree(n_outputs, bias):
    net = seeded(
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, bias=bias), nn.Tanh(), nn.Flatten(), nn.Linear(12, n_outputs)
        )
    )
    network, theta, _ = read_module(net, normal(3, N_FEATURES).numpy(), n_outputs=n_outputs)
    here, there = (tangent(network, theta, normal(n, N_FEATURES, seed=n)).terms[0] for n in (6, 5))
    assert isinstance(here, Positions)
    expected = torch.empty(6 * n_outputs, here.affine.n_params, dtype=torch.float64)
    other = torch.empty(5 * n_outputs, here.affine.n_params, dtype=torch.float64)
    here.write_gradients(expected)
    there.write_gradients(other)
    for write in (here._from_gradients, here._from_positions):
        product = torch.empty(6, n_outputs, 5, n_outputs, dtype=torch.float64)
        write(product, there)
        torch.testing.assert_close(product.view(6 * n_outputs, -1), expected @ other.T)


@pytest.mark.parametrize("part", KNOWN, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_are_those_of_autograd_everywhere(part, dtype):
    kinks = torch.tensor([0, 1, -1, 0.5, -0.5, 0.8, 6, 0.75, 30, -30], dtype=dtype)
    z = torch.cat([3 * normal(200, dtype=dtype), kinks]).requires_grad_()
    (expected,) = torch.autograd.grad(part(z.clone()).sum(), z)
    known = elementwise_of(part)
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    for found in (known.slope(z.detach()), known.pull_back(torch.ones_like(z), z.detach())):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


# Registration


class Settled(nn.Module):
    def __init__(self, power=2):
        super().__init__()
        self.power = power

    def forward(self, h):
        return h**self.power


class Mixing(nn.Module):
    def forward(self, h):
        return h - h.mean(-1, keepdim=True)


class Ordered(nn.Module):
    def forward(self, h):
        return h * torch.arange(h.shape[-1], dtype=h.dtype)


class Overwriting(nn.Module):
    def forward(self, h):
        return h.mul_(2)


REFUSED = {
    "slope of module=Settled gives .* where the derivative is": (Settled(), lambda part, h: 3 * h),
    "module=Mixing is not elementwise": (Mixing(), lambda part, h: torch.ones_like(h)),
    "module=Ordered is not elementwise": (Ordered(), lambda part, h: torch.ones_like(h)),
    "module=Overwriting.*in place": (Overwriting(), lambda part, h: 2 * torch.ones_like(h)),
    "module=PReLU has parameters": (nn.PReLU(), lambda part, h: torch.ones_like(h)),
    "shape and dtype of z": (Settled(), lambda part, h: 2.0),
    "does not take numbers of any shape": (nn.GLU(), lambda part, h: torch.ones_like(h)),
}


@pytest.mark.parametrize(("message", "given"), REFUSED.items(), ids=REFUSED)
def test_wrong_registrations_are_refused_with_the_reason(message, given):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        register_activation(*given)


def test_arguments_of_another_type_are_named():
    with pytest.raises(TypeError, match="module"):
        register_activation(Settled, lambda part, h: 2 * h)
    with pytest.raises(TypeError, match="slope"):
        register_activation(Settled(), 2.0)


def test_a_slope_is_checked_again_with_the_settings_of_a_net():
    register_activation(Settled(2), lambda part, h: 2 * h)
    make = lambda power: nn.Sequential(nn.Linear(N_FEATURES, 3), Settled(power), nn.Linear(3, 1))  # noqa: E731
    rows = normal(3, N_FEATURES).numpy()
    assert isinstance(read_module(make(2), rows)[0].parts[1], Activation)
    with pytest.raises(ValueError, match="slope of module=Settled"):
        read_module(make(3), rows)


# What is a chain


class Subclass(nn.Linear):
    def forward(self, X):
        return 2 * super().forward(X)


class SubclassedReLU(nn.ReLU):
    def forward(self, h):
        return torch.sin(h)


class Branching(nn.Module):
    def forward(self, h):
        return h * (2.0 if float(h[0, 0]) > 10 else 1.0)


class Wrapped(nn.Sequential):
    def forward(self, X):
        return -super().forward(X)


def tied(make):
    first, second = make(), make()
    second.weight = first.weight
    return nn.Sequential(first, nn.ELU(), second, nn.Flatten(), nn.LazyLinear(1))


def hooked():
    net = nn.Sequential(nn.Linear(N_FEATURES, 4), nn.ELU(), nn.Linear(4, 1))
    net[1].register_forward_hook(lambda part, inputs, output: 0.5 * output)
    return net


def own_forward():
    net = nn.Sequential(nn.Linear(N_FEATURES, 4), nn.ELU(), nn.Linear(4, 1))
    net[1].forward = torch.sin
    return net


def convolutional(**how):
    channels = how.pop("channels", 2)
    return nn.Sequential(
        nn.Unflatten(1, (channels, 16 // channels)),
        nn.Conv1d(channels, 2, **{"kernel_size": 3} | how),
        nn.Flatten(),
        nn.LazyLinear(1),
    )


OTHERS = {
    "parametrised": lambda: nn.utils.parametrize.register_parametrization(nn.Linear(N_FEATURES, 1), "weight", Cubic()),
    "tied": lambda: tied(lambda: nn.Linear(N_FEATURES, N_FEATURES)),
    "hooked": hooked,
    "a forward of its own": own_forward,
    "subclass": lambda: Subclass(N_FEATURES, 1),
    "subclass of Sequential": lambda: Wrapped(nn.Linear(N_FEATURES, 1)),
    "groups": lambda: convolutional(groups=2),
    "circular": lambda: convolutional(padding=1, padding_mode="circular"),
    "uneven padding": lambda: convolutional(kernel_size=2, padding="same"),
    "PReLU": lambda: nn.Sequential(nn.Linear(N_FEATURES, 3), nn.PReLU(), nn.Linear(3, 1)),
    "LayerNorm": lambda: nn.Sequential(nn.Linear(N_FEATURES, 3), nn.LayerNorm(3), nn.Linear(3, 1)),
    "in place": lambda: nn.Sequential(nn.Linear(N_FEATURES, 3), Overwriting(), nn.Linear(3, 1)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_run_as_it_is(make):
    net, X = seeded(make), normal(4, N_FEATURES)
    net.double()(X)  # lazy layers
    network, theta, _ = read_module(net, X[:3].numpy())
    assert isinstance(network, FunctionalNetwork)
    torch.testing.assert_close(network.forward(theta, X), net(X.clone())[:, 0])


@pytest.mark.parametrize("activation", [SubclassedReLU(), Cubic()])
def test_parts_of_ones_own_are_differentiated_as_they_are(activation):
    net = seeded(lambda: nn.Sequential(nn.Linear(N_FEATURES, 4), activation, nn.Linear(4, 1)).double())
    X = normal(6, N_FEATURES)
    network, theta, _ = read_module(net, X[:3].numpy())
    assert isinstance(network.parts[1], Unparametrised)
    torch.testing.assert_close(tangent(network, theta, X).gradients(), trained_jacobian(net, X, 1))


def test_parts_that_look_at_their_rows_are_refused():
    net = nn.Sequential(nn.Linear(N_FEATURES, 4), Branching(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"torch\.func"):
        read_module(net, normal(3, N_FEATURES).numpy())


def test_perceptrons_stay_perceptrons():
    rows = normal(3, N_FEATURES).numpy()
    plain = nn.Sequential(nn.Linear(N_FEATURES, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    assert read_module(plain, rows)[0] == Architecture((N_FEATURES, 4, 3, 1), "tanh", "identity")
    plain[0].bias.requires_grad_(False)
    network = read_module(plain, rows)[0]
    assert type(network) is Chain
    assert network.n_params == sum(part.numel() for part in plain.parameters()) - 4


# As an estimator


def mean_of_hidden_units():
    """The net of the polynomial task: f(x) = mean of phi(theta_j . x), its last layer held fixed."""
    last = nn.Linear(6, 1, bias=False)
    nn.init.constant_(last.weight, 1 / 6)
    return nn.Sequential(nn.Linear(N_FEATURES, 6, bias=False), Quadratic(), last.requires_grad_(False))


def small_convolutional():
    first = nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2)
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(12, 1))


def with_frozen_start():
    first = nn.Linear(N_FEATURES, 8).requires_grad_(False)
    return nn.Sequential(first, nn.ELU(), nn.Linear(8, 5), nn.Softplus(), nn.Linear(5, 1, bias=False))


class Opaque(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, X):
        return self.inner(X)


@pytest.mark.filterwarnings("ignore:The net explains")
@pytest.mark.parametrize(
    ("make", "run"),
    [
        (mean_of_hidden_units, {"momentum": 0.0, "batch_size": "full", "learning_rate_init": 0.3}),
        (small_convolutional, {"momentum": 0.0, "section": 3, "rule": "gauss2"}),
        (small_convolutional, {"momentum": 0.8}),
        (with_frozen_start, {"optimizer": "adam", "learning_rate_init": 1e-2}),
    ],
)
def test_weights_rebuild_the_net_by_either_route(make, run):
    X, y = random_rows(30, n_features=N_FEATURES)
    others = random_rows(6, seed=3, n_features=N_FEATURES)[0]
    chain, opaque = (
        make_net(module=module, max_iter=5, **run).fit(X, y) for module in (seeded(make), Opaque(seeded(make)))
    )
    assert type(chain.module_.network) is Chain
    assert isinstance(opaque.module_.network, FunctionalNetwork)
    weights, offset = chain.kernel_weights(others), chain.offset(others)
    np.testing.assert_allclose(weights @ y + offset, chain.predict(others), atol=5e-3 * y.std())
    np.testing.assert_allclose(weights, opaque.kernel_weights(others), rtol=1e-7, atol=1e-9)
    loaded = pickle.loads(pickle.dumps(chain))
    np.testing.assert_array_equal(loaded.kernel_weights(others), weights)
    adjoint = chain.telescope_.apply_adjoint(chain.telescope_.backward_plan(2), others[:2])
    np.testing.assert_allclose(adjoint, weights[:2], rtol=1e-6, atol=1e-9)
