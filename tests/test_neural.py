"""Nets, against one-sample autograd, torch.func, and a plain torch training loop."""

import math
import pickle
import re

import numpy as np
import pytest
import torch
from conftest import make_net, random_rows
from oracles import (
    flat_parameters,
    fresh_net,
    func_jacobian,
    func_jvp,
    func_vjp,
    jacobian,
    jacobian_recursion,
    net_at,
    stage_kernel,
)
from sklearn.metrics import r2_score

from telescoping_sklearn import _memory
from telescoping_sklearn.neural import _training
from telescoping_sklearn.neural._activations import ACTIVATIONS
from telescoping_sklearn.neural._network import Architecture
from telescoping_sklearn.neural._tangent import tangent

#: A few updates, or a sigmoid and labels beyond its reach: such a net learns nothing and says so.
UNLEARNT = pytest.mark.filterwarnings("ignore:The net explains nothing")
SGD, ADAM = {"optimizer": "sgd", "momentum": 0.0}, {"optimizer": "adam", "learning_rate_init": 1e-3}
OPTIMIZERS = {
    "sgd": SGD,
    "sgd with decay": SGD | {"weight_decay": 0.1},
    "momentum": SGD | {"momentum": 0.9},
    "dampening": SGD | {"momentum": 0.9, "dampening": 0.4},
    "nesterov": SGD | {"momentum": 0.9, "nesterov": True},
    "nesterov with decay": SGD | {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    "adam": ADAM,
    "adam with decay": ADAM | {"weight_decay": 0.1},
    "adam with other betas": ADAM | {"betas": (0.7, 0.9), "eps": 1e-4},
    "amsgrad": ADAM | {"amsgrad": True},
    "adamw": ADAM | {"optimizer": "adamw", "weight_decay": 0.1},
    "adamw amsgrad": ADAM | {"optimizer": "adamw", "weight_decay": 0.1, "amsgrad": True},
}
optimizers = pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
rules = pytest.mark.parametrize("rule", ["left", "midpoint", "gauss2"])


def with_rule(model, **settings):
    """The same run asked with other settings."""
    return pickle.loads(pickle.dumps(model)).set_params(**settings)


def small_net(**settings):
    return make_net(
        **{"hidden_layer_sizes": (5,), "learning_rate_init": 0.05, "batch_size": 5, "max_iter": 3} | settings
    )


@pytest.fixture(scope="module")
def few():
    """Twelve training rows with labels, and weights of which one is zero."""
    return *random_rows(12, seed=5, n_features=3), np.r_[0.0, np.linspace(0.2, 3, 11)]


@pytest.fixture(scope="module")
def few_others():
    return random_rows(4, seed=6, n_features=3)[0]


@pytest.fixture(scope="module")
def rows():
    return random_rows(40, seed=7)


@pytest.fixture(scope="module")
def others():
    return random_rows(20, seed=8)[0]


# Tangents

SHAPES = {
    f"{len(widths) - 2} hidden, {activation}, {output}": (widths, activation, output)
    for widths in ((3, 1), (3, 5, 1), (3, 5, 4, 1))
    for activation in ACTIVATIONS
    for output in ("identity", "sigmoid")
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    return normal


@shapes
def test_jacobians_and_their_products_are_those_of_autograd_and_of_torch_func(shape, points):
    architecture = Architecture(*shape)
    theta, X = 0.8 * points(architecture.n_params), points(7, 3)
    directions, columns = points(3, architecture.n_params), points(7, 2)
    at = tangent(architecture, theta, X)
    J = jacobian(net_at(theta, *shape), X)
    torch.testing.assert_close(func_jacobian(theta, X, *shape), J)
    torch.testing.assert_close(at.gradients(), J)
    torch.testing.assert_close(architecture.forward(theta, X), net_at(theta, *shape)(X)[:, 0].detach())
    for product, by_hand, by_func in [
        (at.jvp(directions), J @ directions.T, func_jvp(theta, X, directions, *shape)),
        (at.vjp(columns), columns.T @ J, func_vjp(theta, X, columns, *shape)),
    ]:
        torch.testing.assert_close(product, by_hand)
        torch.testing.assert_close(product, by_func)


@shapes
def test_tangent_kernels_are_products_of_jacobians_at_two_points(shape, points):
    architecture = Architecture(*shape)
    theta, other = points(2, architecture.n_params)
    X, Z = points(7, 3), points(4, 3)
    kernel = tangent(architecture, theta, X).kernel(tangent(architecture, other, Z))
    torch.testing.assert_close(kernel, jacobian(net_at(theta, *shape), X) @ jacobian(net_at(other, *shape), Z).T)
    torch.testing.assert_close(kernel, func_jacobian(theta, X, *shape) @ func_jacobian(other, Z, *shape).T)


# The label response, against dense Jacobians one sample at a time


@rules
@optimizers
def test_weights_offset_and_parameters_equal_the_one_sample_recursion(few, few_others, settings, rule):
    X, y, _ = few
    model = small_net(**settings, rule=rule).fit(X, y)
    training, reached, parameters = jacobian_recursion(model, X, np.eye(12), few_others)
    close = {"rtol": 1e-8, "atol": 1e-12}
    np.testing.assert_allclose(model.kernel_weights_, training, **close)
    np.testing.assert_allclose(model.kernel_weights(few_others), reached, **close)
    np.testing.assert_allclose(model.telescope_.parameter_response(np.eye(12)), parameters, **close)
    training, reached, _ = jacobian_recursion(model, X, np.zeros((12, 1)), few_others, offset=True)
    np.testing.assert_allclose(model.offset(X), training[:, 0], **close)
    np.testing.assert_allclose(model.offset(few_others), reached[:, 0], **close)


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "relu"},
        {"activation": "gelu", "hidden_layer_sizes": (4, 3)},
        {"output_activation": "sigmoid"},
        {"hidden_layer_sizes": ()},
        ADAM | {"activation": "sigmoid", "rule": "gauss2"},
    ],
    ids=str,
)
@UNLEARNT
def test_weighted_rows_equal_the_one_sample_recursion(few, few_others, settings):
    X, y, w = few
    model = small_net(**settings).fit(X, y, sample_weight=w)
    training, reached, _ = jacobian_recursion(model, X, np.eye(12), few_others, sample_weight=w)
    np.testing.assert_allclose(model.kernel_weights_, training, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(model.kernel_weights(few_others), reached, rtol=1e-8, atol=1e-12)


# How close the telescope is


@optimizers
def test_label_response_rebuilds_parameters_and_predictions(rows, others, settings):
    model = make_net(**{"learning_rate_init": 0.01} | settings, max_iter=30).fit(*rows)
    assert model.n_stages_ == 90
    response = model.telescope_.parameter_response(rows[1][:, None], offset=True).sum(axis=1)
    trained = model.module_.theta.detach().numpy()
    assert np.abs(response - trained).max() <= 1e-4
    midpoint = model.approximation_error(others, stages=1)
    left = with_rule(model, rule="left").approximation_error(others, stages=1)
    assert midpoint.reconstruction_mean <= 1e-4
    assert midpoint.reconstruction_mean < left.reconstruction_mean <= 1e-2


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_midpoint_is_closer_than_left_and_left_than_linearised(rows, others, activation):
    model = make_net(activation=activation, learning_rate_init=0.05, max_iter=30, rule="midpoint").fit(*rows)
    linearised = list(model.staged_predict(others, approximation="linearized"))[-1]
    gap = np.abs(linearised - model.predict(others)).mean()
    midpoint, left = (
        with_rule(model, rule=rule).approximation_error(others, stages=1).telescoping_mean
        for rule in ("midpoint", "left")
    )
    assert midpoint < left / 3
    assert left < gap


def test_two_gauss_nodes_are_best_for_gelu(rows, others):
    model = make_net(activation="gelu", learning_rate_init=0.05, max_iter=30).fit(*rows)
    left, midpoint, gauss2 = (
        with_rule(model, rule=rule).approximation_error(others, stages=1).telescoping_mean
        for rule in ("left", "midpoint", "gauss2")
    )
    assert gauss2 < 1e-3 * midpoint
    assert midpoint < 0.1 * left


def test_linearised_model_is_the_first_jacobian_along_the_path(rows, others):
    model = make_net().fit(*rows)
    run = model._trajectory.parameters
    net = net_at(run[0], (4, 10, 10, 1), "tanh")
    expected = net(torch.as_tensor(others))[:, 0].detach() + (run[[0, 3, 36]] - run[0]) @ jacobian(net, others).T
    staged = list(model.staged_predict(others, approximation="linearized", stages=[0, 3, 36]))
    np.testing.assert_allclose(staged, expected)


# Sections


@pytest.mark.parametrize("settings", [SGD | {"momentum": 0.9}, ADAM], ids=["momentum", "adam"])
def test_sections_of_three_are_close_to_single_updates_and_rebuild(rows, others, settings):
    model = make_net(activation="gelu", rule="gauss2", section=3, **settings).fit(*rows)
    single = with_rule(model, section=1).kernel_weights(others)
    in_sections = model.kernel_weights(others)
    assert 0 < np.abs(in_sections - single).max() < 0.02 * np.abs(single).max()
    assert model.approximation_error(others, stages=1).reconstruction_max < 1e-4


@pytest.mark.parametrize("settings", [SGD, ADAM], ids=["sgd", "adam"])
@rules
def test_one_section_for_the_run_is_one_bridge_of_the_rule(rows, others, settings, rule):
    model = make_net(**settings, rule=rule, section=1000).fit(*rows)
    (telescoping,) = model.staged_predict(others, approximation="telescoping", stages=1)
    first, last = model._trajectory.parameters[[0, -1]]
    nodes = {"left": [0], "midpoint": [0.5], "gauss2": [0.5 - 3**0.5 / 6, 0.5 + 3**0.5 / 6]}[rule]
    nets = [net_at(first + node * (last - first), (4, 10, 10, 1), "tanh") for node in nodes]
    change = sum(jacobian(net, others) for net in nets) @ (last - first) / len(nodes)
    start = next(model.staged_predict(others, stages=[0]))
    np.testing.assert_allclose(telescoping, start + change.numpy(), rtol=1e-9)


@pytest.mark.parametrize("settings", [SGD | {"momentum": 0.9}, ADAM], ids=["momentum", "adam"])
@rules
def test_a_stage_inside_a_section_answers_as_a_run_that_ended_there(rows, others, settings, rule):
    common = settings | {"rule": rule, "section": 5, "batch_size": "full"}
    model, shorter = (make_net(**common, max_iter=epochs).fit(*rows) for epochs in (11, 8))
    for X in (others, None):
        inside = next(model.telescope_.staged_response(X, np.eye(40), offset=True, stages=[8]))
        ended = next(shorter.telescope_.staged_response(X, np.eye(40), offset=True, stages=[8]))
        np.testing.assert_allclose(inside, ended, atol=1e-12)
    staged = [next(net.staged_predict(others, approximation="telescoping", stages=[8])) for net in (model, shorter)]
    np.testing.assert_allclose(*staged, atol=1e-12)


def test_asking_for_stages_inside_sections_leaves_the_end_alone(rows, others):
    model = make_net(section=5).fit(*rows)
    every = list(model.telescope_.staged_response(others, np.eye(40)))
    np.testing.assert_allclose(every[-1], model.kernel_weights(others), atol=1e-12)


@pytest.mark.parametrize("change", [{"rule": "left"}, {"section": 6}], ids=str)
def test_rule_and_section_may_be_set_after_fitting_and_asking(rows, others, change):
    model = make_net(learning_rate_init=0.1).fit(*rows)
    before = model.kernel_weights(others)
    p = model.effective_params_
    model.set_params(**change)
    expected = with_rule(model)
    np.testing.assert_array_equal(model.kernel_weights(others), expected.kernel_weights(others))
    assert model.effective_params_ == expected.effective_params_ != p
    assert np.abs(model.kernel_weights(others) - before).max() > 1e-8


# Kernels


@UNLEARNT
@pytest.mark.parametrize("settings", [SGD | {"momentum": 0.9, "nesterov": True}, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("output_activation", ["identity", "sigmoid"])
@pytest.mark.parametrize("weighted", [False, True])
def test_stage_kernels_and_norms_are_those_of_autograd(few, few_others, settings, output_activation, weighted):
    X, y, w = few
    w = w if weighted else None
    model = small_net(**settings, output_activation=output_activation).fit(X, y, sample_weight=w)
    stages = [1, 4, model.n_stages_]
    for rows in (few_others, X):
        expected = np.stack([stage_kernel(model, X, rows, stage, w) for stage in stages])
        kernels = [kernel.toarray() for kernel in model.staged_kernel(rows, stages=stages)]
        np.testing.assert_allclose(kernels, expected, rtol=1e-6, atol=1e-12)
        norms = np.sqrt((expected**2).sum(axis=2))
        np.testing.assert_allclose(model.kernel_norms(rows, stages=stages), norms, rtol=1e-6)


def test_kernels_depend_on_neither_rule_nor_section_nor_learning_rate(rows, others):
    model = make_net(**SGD).fit(*rows)
    norms = model.kernel_norms(others)
    np.testing.assert_array_equal(with_rule(model, rule="left", section=4).kernel_norms(others), norms)
    other = make_net(**SGD | {"learning_rate_init": 1e-4}).fit(*rows)
    np.testing.assert_array_equal(other.kernel_norms(others, stages=[1]), norms[:1])


def test_adaptive_optimisers_take_kernels_at_twenty_stages_unless_told(rows, others):
    model = make_net(**ADAM).fit(*rows)
    assert model.n_stages_ == 36
    assert model.kernel_norms(others).shape == (20, 20)
    np.testing.assert_array_equal(model.kernel_norms(others), model.kernel_norms(others, stages=20))
    assert model.kernel_norms(others, stages=None).shape == (36, 20)
    assert make_net(**SGD).fit(*rows).kernel_norms(others).shape == (36, 20)


def test_the_kernel_form_gives_a_step_of_plain_sgd(rows, others):
    model = make_net(**SGD | {"rule": "left"}, batch_size="full").fit(*rows)
    telescoping = [
        next(model.staged_predict(others, stages=[0])),
        *model.staged_predict(others, approximation="telescoping"),
    ]
    residuals = [rows[1] - prediction for prediction in model.staged_predict(rows[0], stages=range(model.n_stages_))]
    steps = [0.02 * kernel @ residual for kernel, residual in zip(model.staged_kernel(others), residuals, strict=True)]
    np.testing.assert_allclose(np.diff(telescoping, axis=0), steps, rtol=1e-7, atol=1e-12)


# Training


def plain_training(model, X, y, n_updates, w=None):
    """Full-batch training of ``nn.Linear`` layers from the same start: parameters, losses, second moments."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed_)
        net = fresh_net((X.shape[1], *model.hidden_layer_sizes, 1), model.activation, model.output_activation).double()
    names = {"sgd": ("momentum", "dampening", "nesterov")}.get(model.optimizer, ("betas", "eps", "amsgrad"))
    options = {name: getattr(model, name) for name in ("weight_decay", *names)}
    makers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = makers[model.optimizer](net.parameters(), lr=model.learning_rate_init, **options)
    X, y = torch.as_tensor(X), torch.as_tensor(y)
    w = torch.ones_like(y) if w is None else torch.as_tensor(w * len(w) / w.sum())
    path, losses, gradients = [flat_parameters(net)], [], []
    for _ in range(n_updates):
        optimizer.zero_grad()
        loss = (w * (y - net(X)[:, 0]) ** 2).mean() / 2
        loss.backward()
        gradients.append(torch.cat([parameter.grad.flatten().clone() for parameter in net.parameters()]))
        optimizer.step()
        path.append(flat_parameters(net))
        losses.append(loss.item())
    return torch.stack(path), losses, gradients


@optimizers
def test_training_is_a_plain_torch_loop(rows, settings):
    model = make_net(**settings, batch_size="full", shuffle=False, max_iter=15).fit(*rows)
    path, losses, _ = plain_training(model, *rows, 15)
    np.testing.assert_allclose(model._trajectory.parameters, path, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(model.module_.theta.detach(), path[-1], rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(model.loss_curve_, losses, rtol=1e-10)
    assert model.loss_ == model.loss_curve_[-1]


@UNLEARNT
def test_weighted_training_rescales_weights_to_mean_one(rows):
    w = np.linspace(0, 5, 40)
    model = make_net(batch_size="full", shuffle=False, max_iter=15, output_activation="sigmoid")
    model.fit(*rows, sample_weight=w)
    path, losses, _ = plain_training(model, *rows, 15, w)
    np.testing.assert_allclose(model._trajectory.parameters, path, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(model.loss_curve_, losses, rtol=1e-10)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_recorded_denominators_follow_the_second_moments(rows, amsgrad):
    settings = ADAM | {"amsgrad": amsgrad, "betas": (0.9, 0.5), "eps": 1e-3, "learning_rate_init": 0.05}
    model = make_net(**settings, batch_size="full", shuffle=False, max_iter=15).fit(*rows)
    gradients = plain_training(model, *rows, 15)[2]
    v = largest = torch.zeros(model.n_params_, dtype=torch.float64)
    for t, (gradient, phi) in enumerate(zip(gradients, model._trajectory.denominators, strict=True), start=1):
        v = 0.5 * v + 0.5 * gradient**2
        largest = torch.maximum(largest, v)
        v_hat = (largest if amsgrad else v) / (1 - 0.5**t)
        np.testing.assert_allclose(phi, v_hat.sqrt() + 1e-3, rtol=1e-7)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_init_scale_multiplies_the_initial_parameters(rows, scale):
    one, scaled = (make_net(init_scale=value).fit(*rows)._trajectory.parameters[0] for value in (1.0, scale))
    torch.testing.assert_close(scaled, scale * one)
    assert one.abs().min() > 0


@pytest.mark.parametrize(
    ("batch_size", "sizes"),
    [("auto", [40]), ("full", [40]), (10**6, [40]), (16, [16, 16, 8]), (20, [20, 20]), (1, [1] * 40)],
)
def test_batches_cover_every_row_once_an_epoch(rows, batch_size, sizes):
    model = small_net(batch_size=batch_size, max_iter=2).fit(*rows)
    batches = model._trajectory.batches
    assert [len(batch) for batch in batches] == 2 * sizes
    assert model.n_stages_ == 2 * len(sizes)
    epochs = np.split(np.concatenate(batches), 2)
    assert [sorted(epoch) for epoch in epochs] == [list(range(40))] * 2
    assert epochs[0].tolist() != epochs[1].tolist()


def test_automatic_batches_are_of_two_hundred_rows():
    model = small_net(batch_size="auto", max_iter=1).fit(*random_rows(450))
    assert [len(batch) for batch in model._trajectory.batches] == [200, 200, 50]


def test_unshuffled_batches_follow_the_rows(rows):
    model = small_net(batch_size=16, shuffle=False, max_iter=2).fit(*rows)
    np.testing.assert_array_equal(np.concatenate(model._trajectory.batches), np.tile(np.arange(40), 2))


# Stopping


def epochs_of_sklearn(losses, tol, n_iter_no_change):
    """Epochs until MLPRegressor's rule stops: too many in a row that miss the best so far by less than tol."""
    best, waited = math.inf, 0
    for epoch, loss in enumerate(losses, start=1):
        waited = waited + 1 if loss > best - tol else 0
        best = min(best, loss)
        if waited > n_iter_no_change:
            return epoch
    return len(losses)


@pytest.mark.parametrize(("tol", "n_iter_no_change"), [(1e-2, 1), (1e-2, 5), (3e-3, 3), (1e3, 4), (0.0, 10**6)])
def test_training_stops_where_that_of_scikit_learn_does(rows, tol, n_iter_no_change):
    long = make_net(max_iter=60).fit(*rows)
    model = make_net(max_iter=60, tol=tol, n_iter_no_change=n_iter_no_change).fit(*rows)
    expected = epochs_of_sklearn(long.loss_curve_, tol, n_iter_no_change)
    assert model.n_iter_ == expected
    assert model.n_stages_ == 3 * expected
    assert model.loss_curve_ == long.loss_curve_[:expected]
    assert (expected < 60) == (tol > 0)


@pytest.mark.parametrize(("tol", "n_iter_no_change"), [(1e-2, 2), (0.0, 10**6)])
def test_early_stopping_restores_the_best_parameters(rows, tol, n_iter_no_change):
    settings = {"early_stopping": True, "validation_fraction": 0.25, "learning_rate_init": 0.15, "max_iter": 40}
    long = make_net(**settings, momentum=0.9).fit(*rows)
    model = make_net(**settings, momentum=0.9, tol=tol, n_iter_no_change=n_iter_no_change).fit(*rows)
    scores = model.validation_scores_
    assert model.n_iter_ == len(scores) == epochs_of_sklearn(-np.array(long.validation_scores_), tol, n_iter_no_change)
    assert model.n_stages_ == 2 * (np.argmax(scores) + 1) < 2 * len(scores)
    held_out = ~model.kernel_weights_.any(axis=0)
    assert held_out.sum() == 10
    assert model.best_validation_score_ == max(scores)
    assert r2_score(rows[1][held_out], model.predict(rows[0][held_out])) == pytest.approx(max(scores))
    assert not set(np.concatenate(model._trajectory.batches)) & set(np.flatnonzero(held_out))
    np.testing.assert_array_equal(model._trajectory.parameters[-1], model.module_.theta.detach())


# Errors


@pytest.mark.parametrize("settings", [SGD | {"learning_rate_init": 1e8}, SGD | {"learning_rate_init": 1e300}], ids=str)
@pytest.mark.parametrize("record", [True, False])
def test_diverging_training_names_the_stage(rows, settings, record):
    with pytest.raises(ValueError, match=r"diverged.*not finite at stage \d+\. Lower learning_rate_init"):
        make_net(**settings, activation="relu", record=record, max_iter=100).fit(*rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nesterov": True, "momentum": 0.0}, "nesterov=True takes momentum above 0"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov=True.*dampening=0"),
        (ADAM | {"betas": (0.9, 1.0)}, "betas"),
        (ADAM | {"betas": (-0.1, 0.9)}, "betas"),
        (ADAM | {"betas": (0.9,)}, "betas"),
        (ADAM | {"betas": 0.9}, "betas"),
        ({"hidden_layer_sizes": (5, 0)}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": 0}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": (2.5,)}, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": "wide"}, "hidden_layer_sizes"),
        ({"activation": "swish"}, "activation"),
        ({"output_activation": "tanh"}, "output_activation"),
        ({"optimizer": "lbfgs"}, "optimizer"),
        ({"learning_rate_init": 0.0}, "learning_rate_init"),
        ({"momentum": -0.5}, "momentum"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "half"}, "batch_size"),
        ({"max_iter": 0}, "max_iter"),
        ({"rule": "right"}, "rule"),
        ({"section": 0}, "section"),
        ({"dtype": "float16"}, "dtype"),
        ({"validation_fraction": 0.0}, "validation_fraction"),
        ({"init_scale": -1.0}, "init_scale"),
    ],
    ids=str,
)
def test_senseless_parameters_are_named(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        make_net(**settings).fit(*rows)


def test_a_record_that_may_outgrow_memory_is_refused_before_training(rows, monkeypatch):
    monkeypatch.setattr(_memory, "available_memory", lambda: _memory.Memory(1000, "a test's"))
    with pytest.raises(MemoryError, match=r"(?s)GiB.*record=False"):
        make_net().fit(*rows)
    assert make_net(record=False).fit(*rows).n_stages_ == 36


def test_a_keyboard_interrupt_ends_the_fit(rows, monkeypatch):
    def interrupt(self, net, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(_training.StopWithoutProgress, "on_epoch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_net().fit(*rows)


# Precision and progress


def test_single_precision_trains_and_answers_in_double(rows, others):
    single, double = (make_net(dtype=dtype).fit(*rows) for dtype in ("float32", "float64"))
    assert single._trajectory.parameters.dtype == single.module_.theta.dtype == torch.float32
    assert single.predict(others).dtype == single.kernel_weights(others).dtype == np.float64
    np.testing.assert_allclose(single.predict(others), double.predict(others), atol=1e-5)
    np.testing.assert_allclose(single.kernel_weights(others), double.kernel_weights(others), atol=1e-5)
    assert single.approximation_error(others, stages=1).reconstruction_max < 1e-3
    assert np.abs(single.predict(others) - double.predict(others)).max() > 0


def test_predictions_of_a_row_do_not_depend_on_its_neighbours(rows, others):
    model = make_net(dtype="float32").fit(*rows)
    alone = np.concatenate([model.predict(row[None]) for row in others])
    np.testing.assert_allclose(model.predict(others), alone, rtol=1e-12)


def test_progress_is_shown_on_request_only(rows, capfd):
    make_net().fit(*rows)
    assert tuple(capfd.readouterr()) == ("", "")
    make_net(verbose=True).fit(*rows)
    out, err = capfd.readouterr()
    assert not out
    assert "TelescopingMLPRegressor" in err
    assert "12/12" in err
    assert "loss=" in err


def test_no_hidden_layer_is_a_linear_model(rows, others):
    model = make_net(hidden_layer_sizes=(), learning_rate_init=0.05).fit(*rows)
    assert model.n_params_ == 5
    left, midpoint = (with_rule(model, rule=rule).kernel_weights(others) for rule in ("left", "midpoint"))
    np.testing.assert_allclose(left, midpoint, atol=1e-12)
    np.testing.assert_allclose(left @ rows[1] + model.offset(others), model.predict(others), atol=1e-10)


def test_one_hidden_layer_may_be_given_as_a_number(rows, others):
    one, other = (make_net(hidden_layer_sizes=sizes).fit(*rows) for sizes in (7, (7,)))
    np.testing.assert_array_equal(one.predict(others), other.predict(others))


def test_long_answers_show_progress_where_asked_for(capsys):
    X, y = random_rows()
    for verbose in (False, -1, 0, True, 2):
        make_net(verbose=verbose, max_iter=2).fit(X, y).effective_params(X, n_probes=2)
        assert ("labels through the updates" in capsys.readouterr().err) == (verbose > 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("rule", value) for value in ("foo", None, 1)],
        *[("section", value) for value in (0, -1, 2.5, "long", None)],
        *[("section_tol", value) for value in (0, -1, "small", None)],
    ],
)
def test_parameters_set_after_fitting_are_validated_as_in_fit(name, value):
    X, y = random_rows()
    with pytest.raises(ValueError, match=f"'{name}' parameter") as in_fit:
        make_net(max_iter=2, **{name: value}).fit(X, y)
    net = make_net(max_iter=2).fit(X, y)
    good, expected = net.get_params()[name], net.kernel_weights_
    net.set_params(**{name: value})
    for ask in (lambda: net.kernel_weights(X), lambda: net.effective_params_, lambda: net.section_ends_):
        with pytest.raises(ValueError, match=re.escape(str(in_fit.value))):
            ask()
    np.testing.assert_array_equal(net.set_params(**{name: good}).kernel_weights_, expected)
