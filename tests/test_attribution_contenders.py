"""Scores of training rows agree with loops that follow their papers' formulas."""

import attribution_oracles as oracles
import numpy as np
import pytest
from conftest import make_net, make_trees, random_rows
from sklearn.datasets import make_regression
from test_outputs import Run, perceptron
from torch import nn

from telescoping_sklearn import TelescopingMLPRegressor
from telescoping_sklearn.attribution import (
    boostin,
    ekfac,
    gauss_newton,
    leaf_influence,
    leaf_influence_single_point,
    leaf_proximity,
    tracin,
    trak,
    weights_times_labels,
    weights_times_residuals,
)
from telescoping_sklearn.attribution._contenders import contenders
from telescoping_sklearn.attribution._models import FittedModel, ModelSpec

TREES = {
    "plain": {},
    "ridge": {"reg_lambda": 3.0},
    "bags": {"subsample": 0.7, "subsample_freq": 1, "reg_lambda": 1.0},
    "steps": {"learning_rate": 0.6, "n_estimators": 4},
    "zero weight": {},
}
MOVES = {
    boostin: lambda changed, row: False,
    leaf_influence: lambda changed, row: True,
    leaf_influence_single_point: lambda changed, row: row == changed,
}
SCORES = pytest.mark.parametrize("score", MOVES, ids=lambda score: score.__name__)


@pytest.fixture(scope="module", params=TREES, ids=TREES)
def trees(request):
    X, y = random_rows(30)
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(y))
    weights[-1] *= request.param != "zero weight"
    model = make_trees(**{"n_estimators": 6, "num_leaves": 4, "min_child_samples": 2} | TREES[request.param])
    model.fit(X, y, sample_weight=weights)
    return model, oracles.HeldTrees(model, random_rows(7, seed=2)[0]), random_rows(7, seed=2)[0]


@SCORES
def test_scores_of_trees_are_derivatives_in_a_weight(trees, score):
    model, held, X_query = trees
    expected = held.derivative(MOVES[score])
    found = score(model.telescope_, X_query)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 1e-3


def test_the_oracle_fits_the_trees_again(trees):
    model, held, X_query = trees
    np.testing.assert_allclose(held.fit(held.weights, lambda row: True)[0], model.predict(X_query), atol=1e-5)


@SCORES
def test_scores_of_training_rows_are_those_of_the_same_rows_as_queries(trees, score):
    model, _, _ = trees
    X = random_rows(30)[0]
    np.testing.assert_allclose(score(model.telescope_, None), score(model.telescope_, X), atol=1e-12)


def test_the_three_scores_of_trees_agree_for_one_tree_and_part_with_two():
    X, y = random_rows(30)
    for n_trees in (1, 2):
        telescope = make_trees(n_estimators=n_trees).fit(X, y).telescope_
        found = [score(telescope, X) for score in MOVES]
        same = [np.allclose(found[0], other) for other in found[1:]]
        assert same == [n_trees == 1] * 2


@pytest.mark.parametrize("settings", [{}, {"learning_rate": 0.6, "n_estimators": 4}], ids=str)
def test_leaf_influence_is_influence_but_for_the_start(settings):
    X, y = random_rows(30)
    model = make_trees(**settings).fit(X, y)
    fades = (1 - model.learning_rate) ** model.n_stages_  # every leaf takes this share of a change of all rows
    expected = model.influence(X[:5]) - fades * (y - y.mean()) / 30
    np.testing.assert_allclose(leaf_influence(model.telescope_, X[:5]), expected, atol=1e-6)


def test_a_row_of_weight_zero_has_no_proximity():
    X, y = random_rows(30)
    telescope = make_trees().fit(X, y, sample_weight=np.r_[np.ones(29), 0.0]).telescope_
    assert not leaf_proximity(telescope, X)[:, -1].any()


@pytest.mark.parametrize("settings", [{"reg_alpha": 0.5}, {"objective": "quantile"}, {"objective": "poisson"}], ids=str)
def test_trees_of_other_leaves_are_refused(settings):
    X, y = random_rows(30)
    telescope = make_trees(**settings).fit(X, np.abs(y)).telescope_
    for score in MOVES:
        with pytest.raises(ValueError, match="squared error"):
            score(telescope, X)


def test_leaf_proximity_counts_trees_in_which_rows_share_a_leaf():
    X, y = random_rows(30)
    model = make_trees().fit(X, y)
    leaves = model.telescope_.leaves(None)
    expected = np.zeros((30, 30))
    for tree in leaves:
        for query in range(30):
            for row in range(30):
                if tree[query] == tree[row]:
                    expected[query, row] += (y[row] - y.mean()) / (tree == tree[row]).sum() / len(leaves)
    np.testing.assert_allclose(leaf_proximity(model.telescope_, X), expected, atol=1e-12)


# -- nets --------------------------------------------------------------------------------------------------------------

NETS = {
    "sgd": {},
    "adam": {"optimizer": "adam", "learning_rate_init": 0.01, "momentum": 0.0, "activation": "gelu"},
    "relu": {"activation": "relu", "hidden_layer_sizes": (5,)},
}


@pytest.fixture(scope="module", params=NETS, ids=NETS)
def net(request):
    X, y = random_rows(24)
    weights = np.random.default_rng(1).uniform(0.5, 2.0, len(y))
    weights *= len(y) / weights.sum()
    settings = {"hidden_layer_sizes": (4, 3), "max_iter": 3, "batch_size": 10} | NETS[request.param]
    return make_net(**settings).fit(X, y, sample_weight=weights), X, y, random_rows(6, seed=2)[0], weights


def test_tracin_follows_the_run(net):
    model, X, y, X_query, _ = net
    np.testing.assert_allclose(tracin(model.telescope_, X_query), oracles.traced(model, X, y, X_query), atol=1e-10)


@pytest.mark.parametrize("damping", [1e-3, 1.0, None])
def test_gauss_newton_inverts_the_matrix_of_the_parameters(net, damping):
    model, X, y, X_query, weights = net
    matrix = oracles.gauss_newton_matrix(model, X, weights)
    added = np.trace(matrix) / len(matrix) / 10 if damping is None else damping
    expected = oracles.inverted(matrix, added, model, X, y, X_query, weights)
    np.testing.assert_allclose(gauss_newton(model.telescope_, X_query, damping=damping), expected, atol=1e-7)


@pytest.mark.parametrize("damping", [1e-2, 1.0, None])
def test_ekfac_inverts_the_corrected_kronecker_matrix(net, damping):
    model, X, y, X_query, weights = net
    matrix, means = oracles.kronecker_matrix(model, X, weights)
    added = means / 10 if damping is None else damping
    expected = oracles.inverted(matrix, added, model, X, y, X_query, weights)
    np.testing.assert_allclose(ekfac(model.telescope_, X_query, damping=damping), expected, atol=1e-7)


def test_trak_is_least_squares_on_projected_gradients(net):
    model, X, y, X_query, _ = net
    path = model.telescope_.path
    at_rows, at_query = (oracles.gradients(path.network, path.trajectory.end, rows) for rows in (X, X_query))
    projection = np.random.default_rng(3).normal(size=(at_rows.shape[1], 5))
    phi, phi_query = at_rows @ projection, at_query @ projection
    expected = phi_query @ np.linalg.inv(sum(np.outer(row, row) for row in phi)) @ phi.T * (y - model.predict(X))
    np.testing.assert_allclose(trak(model.telescope_, X_query, dimensions=5, seed=3), expected, atol=1e-8)


@pytest.mark.parametrize("damping", [0.0, -1.0, np.inf, np.nan])
@pytest.mark.parametrize("score", [gauss_newton, ekfac], ids=lambda score: score.__name__)
def test_damping_must_be_positive(net, score, damping):
    with pytest.raises(ValueError, match=f"damping={damping!r}"):
        score(net[0].telescope_, None, damping=damping)


@pytest.mark.parametrize("dimensions", [0, 24, 100])
def test_the_projection_has_fewer_dimensions_than_rows(net, dimensions):
    with pytest.raises(ValueError, match=f"dimensions={dimensions}"):
        trak(net[0].telescope_, None, dimensions=dimensions)


def test_ekfac_names_what_it_takes():
    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 1)

        def forward(self, X):
            return 2 * self.inner(X)

    X, y = make_regression(20, 2, random_state=0)
    model = TelescopingMLPRegressor(module=Doubled(), max_iter=1, random_state=0).fit(X, y / y.std())
    with pytest.raises(ValueError, match="multilayer perceptrons"):
        ekfac(model.telescope_, X)


@pytest.mark.parametrize("score", [tracin, gauss_newton, ekfac], ids=lambda score: score.__name__)
def test_nets_of_several_outputs_are_refused(score):
    with pytest.raises(ValueError, match="one output, and the net has 2"):
        score(Run(perceptron((4, 3, 2)), 2).telescope, None)


# -- both --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["trees", "net"])
def test_every_contender_scores_queries_and_training_rows(family):
    X, y = random_rows()
    model = {"trees": make_trees, "net": make_net}[family](random_state=0).fit(X, y)
    fitted = FittedModel(model.telescope_, model.predict(X), model.predict(X[:5]), 0)
    found = list(contenders(ModelSpec(family, "", {"optimizer": "adam"}, n_train=len(X))))
    assert len(found) == len({item[:2] for item in found}) >= 8
    for item in found:
        if item.name != "random":
            np.testing.assert_allclose(item.score(fitted, X[:5]), item.score(fitted, None)[:5], atol=1e-5)
        assert item.score(fitted, X[:5]).shape == (5, len(X))


@pytest.mark.parametrize("make", [make_trees, make_net], ids=["trees", "net"])
def test_weights_times_labels_sum_to_the_prediction(make):
    X, y = random_rows()
    model = make().fit(X, y)
    rebuilt = weights_times_labels(model.telescope_, X[:5]).sum(axis=1) + model.offset(X[:5])
    np.testing.assert_allclose(rebuilt, model.predict(X[:5]), atol=1e-2)
    expected = model.kernel_weights(X[:5]) * (y - model.predict(X))
    np.testing.assert_allclose(weights_times_residuals(model.telescope_, X[:5]), expected, atol=1e-6)
