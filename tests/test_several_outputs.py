"""The estimator on labels of several columns: one net, every question of all outputs or of one."""

import pickle

import numpy as np
import pytest
import torch
from conftest import make_net, make_trees, random_rows
from scipy import sparse
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_functional import seeded
from torch import nn

from telescoping_sklearn import displays
from telescoping_sklearn.metrics import effective_params_scorer, kernel_norm_ratio_scorer
from telescoping_sklearn.neural._network import Architecture

N, M, K = 24, 5, 3


@pytest.fixture(scope="module")
def rows():
    X, y = random_rows(N)
    return X, np.column_stack([y, np.cos(X[:, 1]), 0.5 * X[:, 2] - y])


@pytest.fixture(scope="module")
def query():
    return random_rows(M, seed=1)[0]


@pytest.fixture(scope="module", params=["sgd", "adamw"])
def net(request, rows):
    rate = {"sgd": 0.02, "adamw": 2e-3}[request.param]
    given = {"optimizer": request.param, "momentum": 0.0, "learning_rate_init": rate, "rule": "gauss2", "max_iter": 4}
    return make_net(hidden_layer_sizes=(6,), batch_size=8, **given).fit(*rows)


def close(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max()))


def test_weights_of_all_outputs_rebuild_predictions_and_those_of_one_are_part_of_them(net, rows, query):
    S, c = net.kernel_weights(query), net.offset(query)
    assert S.shape == (M, K, N, K)
    assert net.predict(query).shape == c.shape == (M, K)
    close(np.tensordot(S, rows[1], 2) + c, net.predict(query), 1e-4)
    for output in range(K):
        close(net.kernel_weights(query, output=output), S[:, output, :, output])
    assert np.abs(S[:, 0, :, 1]).max() > 1e-3  # hidden layers are shared
    close(net.kernel_weights(query, output="each"), np.einsum("mcnc->mcn", S))
    close(net.kernel_weights_, net.kernel_weights(rows[0]))


def test_every_question_takes_an_output(net, rows, query):
    X, y = rows
    S, D = net.kernel_weights(query), net.influence(query)
    assert D.shape == (M, K, N)
    close(net.influence(query, output=2), D[:, 2])
    close(net.staged_influence(query, [3, net.n_stages_], output=2)[-1], D[:, 2])
    close(net.self_influence_, np.einsum("ncn->nc", net.influence(X)))
    for by, of_output in (("weight", S[:, 1, :, 1]), ("influence", D[:, 1])):
        table = net.top_examples(query, 2, by=by, output=1)
        best = np.argsort(-np.abs(of_output), axis=1)[:, :2].ravel()
        np.testing.assert_array_equal(table["row"], best)
        close(table[by], np.take_along_axis(of_output, best.reshape(M, 2), axis=1).ravel())
        np.testing.assert_array_equal(table["label"], y[best, 1])
    energies = N / M * (S**2).sum(axis=(0, 2, 3))
    close(net.effective_params(query, n_probes=None), energies.sum())
    exact = {"n_probes": None, "output": 1}
    close(net.effective_params(query, **exact), energies[1])
    close(net.staged_effective_params(query, [net.n_stages_], **exact, subsets=[[0, 3]])[0, 0],
          N / 2 * (S[[0, 3], 1] ** 2).sum())  # fmt: skip
    summary = net.staged_training_summary([net.n_stages_], **exact)
    training = net.kernel_weights_
    close(summary["effective_params"], (training[:, 1] ** 2).sum())
    close(summary["degrees_of_freedom"], np.einsum("nn->", training[:, 1, :, 1]))
    close(net.degrees_of_freedom_, np.einsum("ncnc->", training))
    estimate, error = net.effective_params(query, n_probes=64, output=1, return_se=True)
    assert abs(estimate - energies[1]) < 4 * error
    table = net.breakdown(query, 2)
    close(table.sum().to_numpy().reshape(M, K), net.predict(query), 1e-4)
    close(table.xs(1, axis=1, level="output").sum(), net.predict(query)[:, 1], 1e-4)
    norms = net.kernel_norms(query, [1, 2])
    assert norms.shape == (2, M, K)
    kernels = list(net.staged_kernel(query, [1, 2]))
    close(norms, [np.sqrt(kernel.power(2).sum(axis=1)).reshape(M, K) for kernel in kernels])
    of_all, of_one = net.approximation_error(query), net.approximation_error(query, output=0)
    assert 0 < of_one.reconstruction_max <= of_all.reconstruction_max < 1e-3


def test_outputs_that_share_nothing_are_separate_nets(rows, query):
    X, y = rows
    settings = {"hidden_layer_sizes": (), "section": 3, "output_activation": "identity"}
    joint = make_net(**settings).fit(X, y)
    S = joint.kernel_weights(query)
    for output in range(K):
        alone = make_net(**settings).fit(X, y[:, output])
        close(S[:, output, :, output], alone.kernel_weights(query))
        close(np.delete(S[:, output], output, axis=2), 0)
        close(joint.effective_params(query, output=output), alone.effective_params(query))
        close(joint.self_influence_.shape, (N, K))
    with pytest.raises(AssertionError):
        close(joint.predict(query)[:, 0], alone.predict(query))


class Plain(nn.Module):
    """A chain that is not recognised as one."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, K)

    def forward(self, X):
        return self.last(torch.tanh(self.first(X)))


def test_gradients_by_hand_are_those_of_autograd_and_of_a_plain_loop(rows, query):
    module, (X, y) = seeded(Plain).double(), rows
    weights = np.linspace(0.5, 1.5, N)
    chain = nn.Sequential(module.first, nn.Tanh(), module.last)
    given = {"optimizer": "adam", "momentum": 0.0, "learning_rate_init": 5e-3, "shuffle": False, "max_iter": 6}
    by_hand, functional = (make_net(module=each, **given).fit(X, y, weights) for each in (chain, module))
    assert isinstance(by_hand.module_.network, Architecture)
    close(functional.predict(query), by_hand.predict(query), 1e-12)
    close(functional.loss_curve_, by_hand.loss_curve_, 1e-12)
    close(functional.kernel_weights(query), by_hand.kernel_weights(query), 1e-9)

    optimizer, (X, y, w) = torch.optim.Adam(module.parameters(), lr=5e-3), map(torch.as_tensor, (X, y, weights))
    for _ in range(6):
        for batch in torch.arange(N).split(16):
            optimizer.zero_grad()
            (w[batch, None] * (module(X[batch]) - y[batch]) ** 2).sum().div(2 * len(batch)).backward()
            optimizer.step()
    close(by_hand.predict(query), module(torch.as_tensor(query)).detach().numpy(), 1e-12)


def test_one_column_counts_as_one_output(rows, query):
    X, y = rows
    with pytest.warns(DataConversionWarning):
        column = make_net().fit(X, y[:, :1])
    alone = make_net().fit(X, y[:, 0])
    np.testing.assert_array_equal(column.predict(query), alone.predict(query))
    assert column.kernel_weights(query).shape == column.kernel_weights(query, output=0).shape == (M, N)
    assert column.effective_params_ == alone.effective_params_


def test_what_an_output_may_be(net, query):
    for ask in (net.kernel_weights, net.influence, net.effective_params, net.top_examples, net.approximation_error):
        with pytest.raises(ValueError, match="output=3 must lie between 0 and 2: this model has 3 outputs"):
            ask(query, output=3)
        with pytest.raises(TypeError, match="output must be an int from 0 to 2, got 'first'"):
            ask(query, output="first")
    for by in ("weight", "influence"):
        with pytest.raises(ValueError, match="is about one output, and this model has 3: give output, from 0 to 2"):
            net.top_examples(query, by=by)
    with pytest.raises(ValueError, match="output=1 must lie between 0 and 0"):
        make_trees().fit(*random_rows()).kernel_weights(query, output=1)


def test_scikit_learns_tools_take_several_outputs(rows):
    X, y = rows
    pipe = make_pipeline(StandardScaler(), make_net(max_iter=3))
    scaled = TransformedTargetRegressor(pipe, transformer=StandardScaler()).fit(X, y)
    assert scaled.predict(X).shape == y.shape
    assert effective_params_scorer(scaled, X) == pytest.approx(scaled.regressor_[-1].effective_params_)
    assert kernel_norm_ratio_scorer(scaled, X) == pytest.approx(1)
    search = GridSearchCV(pipe, {"telescopingmlpregressor__max_iter": [1, 3]}, cv=2).fit(X, y)
    assert search.predict(X).shape == y.shape
    assert np.isfinite(cross_val_score(pipe, X, y, cv=2)).all()
    assert np.isfinite(cross_val_score(pipe, X, y, cv=2, scoring=effective_params_scorer)).all()
    each = MultiOutputRegressor(make_net(max_iter=3)).fit(X, y)
    assert all(part.n_outputs_ == 1 for part in each.estimators_)
    trees = MultiOutputRegressor(make_trees()).fit(X, y)
    assert trees.estimators_[1].kernel_weights(X).shape == (N, N)


def test_stopping_pickles_and_automatic_sections(rows, query):
    X, y = rows
    settings = {"early_stopping": True, "validation_fraction": 0.25, "learning_rate_init": 1e-3}
    net = make_net(section="auto", section_tol=0.1, **settings).fit(X, y)
    assert len(net.validation_scores_) == net.n_iter_
    assert len(net.section_ends_) < net.n_stages_
    assert net.effective_params_se_ > 0
    loaded = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(loaded.kernel_weights(query), net.kernel_weights(query))
    held_out = net.telescope_.trained == 0
    assert held_out.sum() == 6
    assert not net.kernel_weights(query)[:, :, held_out].any()


def test_gaps_count_in_units_of_each_output(rows):
    X, y = rows[0], rows[1] * [1, 10, 1]
    net = make_net(section=5).fit(X, y)
    staged = (net.staged_predict(X, net.section_ends_, approximation=way) for way in (None, "telescoping"))
    gaps = [np.abs((model - telescoping) / y.std(axis=0)).mean() for model, telescoping in zip(*staged, strict=True)]
    assert net.section_gap_ == pytest.approx(max(gaps), rel=1e-6)


def test_a_net_that_learned_no_output_says_so(rows):
    X, y = rows
    with pytest.warns(ConvergenceWarning, match="mean .*, .*, .* and standard deviation"):
        make_net(max_iter=1).fit(X, 1e4 * y + 1e5)


def test_what_estimators_refuse(rows):
    X, y = rows
    with pytest.raises(ValueError, match=r"shape \(24, 3\).*TelescopingGBTRegressor takes one output.*MultiOutput"):
        make_trees().fit(X, y)
    with pytest.raises(TypeError, match="y is sparse"):
        make_net().fit(X, sparse.csr_array(y))
    with pytest.raises(ValueError, match="to 3 numbers each"):
        make_net(module=nn.Linear(4, 2)).fit(X, y)


def test_displays_draw_one_output(net, query):
    pytest.importorskip("matplotlib")
    weights = displays.KernelWeightsDisplay.from_estimator(net, query[:1], k=3, output=2)
    close(weights.weights, net.kernel_weights(query[:1], output=2)[0])
    close(weights.prediction, net.predict(query[:1])[0, 2], 1e-4)
    staged = displays.StagedPredictionsDisplay.from_estimator(net, query, stages=3, kind="gap", output=2)
    close(staged.model[-1], net.predict(query)[:, 2])
    expected = net.approximation_error(query, 3, output=2).by_stage
    close(staged.gaps()["telescoping"], expected["telescoping_mean"])
    norms = displays.KernelNormsDisplay.from_estimator(net, query, stages=[1, 2], output=2)
    close(norms.test, net.kernel_norms(query, [1, 2])[..., 2])
    p = displays.EffectiveParamsDisplay.from_estimator(net, query, stages=2, n_probes=4, output=2)
    close(p.test.value, net.staged_effective_params(query, 2, n_probes=4, output=2))
    for display in (displays.KernelNormsDisplay, displays.StagedPredictionsDisplay):
        with pytest.raises(ValueError, match=f"{display.__name__} is about one output"):
            display.from_estimator(net, query, stages=[1])
