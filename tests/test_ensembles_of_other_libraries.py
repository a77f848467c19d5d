"""Ensembles written down by hand from scikit-learn's forests and boosting: every route against dense loops."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from test_leaf_telescope import backward_weights, forward_weights

from telescoping_sklearn.boosting._checked import checked_telescope
from telescoping_sklearn.boosting._ensemble import LeafEnsemble, SparseWeights, compact_leaves
from telescoping_sklearn.boosting._leaf_carriers import LeafCarrier
from telescoping_sklearn.boosting._leaf_moments import LeafMoments

N, T = 60, 8


class Trees:
    """Fitted trees of scikit-learn as `FittedTrees`; `shares` multiplies their values, `start` joins the first."""

    def __init__(self, model, shares, start=0.0):
        self.model, self.start, self.shares = model, start, shares
        self.trees = np.ravel(model.estimators_)
        self.numbers = [np.cumsum(tree.tree_.children_left == -1) - 1 for tree in self.trees]

    def predict(self, X, *, raw=False):
        return self.model.predict(X)

    def find_leaves(self, X):
        leaves = [numbers[tree.apply(X)] for tree, numbers in zip(self.trees, self.numbers, strict=True)]
        return compact_leaves(np.array(leaves), max(map(max, self.numbers)) + 1)

    def tree_outputs(self, X):
        for t, tree in enumerate(self.trees):
            yield self.shares * tree.predict(X) + (0.0 if t else self.start)


def ensemble_of(trees, X, row_weights, start_weights=None, **of_loss):
    """Read the trees on the training rows, whose weights by tree are (n_trees, n_train)."""
    leaves = trees.find_leaves(X)
    n_leaves = np.array([numbers[-1] + 1 for numbers in trees.numbers])
    in_leaves = [np.bincount(*pair, size) for *pair, size in zip(leaves, row_weights, n_leaves, strict=True)]
    return LeafEnsemble(
        leaves=leaves,
        n_leaves=n_leaves,
        row_weights=np.ones(len(X)),
        trained=row_weights.any(axis=0),
        start_weights=np.zeros(len(X)) if start_weights is None else start_weights,
        rates=[trees.shares / weight for weight in in_leaves],
        weights_by_stage=None if (row_weights == 1).all() else SparseWeights(csr_array(row_weights)),
        **of_loss,
    )


def forest(X, y, bootstrap):
    """Return a forest: no start, T stages of 1 / T each, and no residual fed back."""
    model = RandomForestRegressor(T, max_leaf_nodes=9, bootstrap=bootstrap, random_state=0).fit(X, y)
    drawn = np.array([np.bincount(rows, minlength=N) for rows in model.estimators_samples_], dtype=float)
    assert (drawn == 1).all() != bootstrap
    trees = Trees(model, 1 / T)
    return trees, ensemble_of(trees, X, drawn, feedback=0.0)


def boosted(X, y, start):
    """Return boosted trees that start from a number that is not learnt from the labels."""
    init = DummyRegressor(strategy="constant", constant=start)
    model = GradientBoostingRegressor(n_estimators=T, learning_rate=0.4, init=init, random_state=0).fit(X, y)
    trees = Trees(model, 0.4, start)
    return trees, ensemble_of(trees, X, np.ones((T, N)), start_offset=start)


MAKE = {
    "forest": lambda X, y: forest(X, y, bootstrap=True),
    "forest without bootstrap": lambda X, y: forest(X, y, bootstrap=False),
    "boosting from a number": lambda X, y: boosted(X, y, 3.5),
}


def dense_loop(ensemble, leaves, V, offset):
    """F_t at queries after every stage, by definition, with all rates as dense arrays; the start first."""
    n = len(ensemble.row_weights)
    training = np.tile(ensemble.start_weights @ V + offset * ensemble.start_offset, (n, 1))
    query = np.tile(training[:1], (leaves.shape[1], 1))
    yield query.copy()
    for t in range(ensemble.n_stages):
        inside = np.arange(ensemble.n_leaves[t])[:, None] == ensemble.leaves[t]
        weights = ensemble.stage_weights(t + 1)
        injected, fed_back = (
            rates if isinstance(rates, float) else rates(t + 1)[:, None]
            for rates in (ensemble.injection, ensemble.feedback)
        )
        sums = (inside * weights) @ (injected * V - fed_back * training)
        values = ensemble.rates[t][:, None] * sums
        training = training + values[ensemble.leaves[t]]
        query = query + values[leaves[t]]
        yield query.copy()


def varied(ensemble):
    """Give the same trees a start of both kinds, and other rates of injection and feedback for each row and stage."""
    rng = np.random.default_rng(1)
    injection, feedback = rng.uniform(0.5, 2, (2, T, N))
    values = vars(ensemble) | {"start_weights": rng.uniform(0, 1 / N, N), "start_offset": -1.2}
    rates = {"injection": lambda stage: injection[stage - 1], "feedback": lambda stage: feedback[stage - 1]}
    return LeafEnsemble(**values | rates)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_weights_and_offset_rebuild_the_library_s_predictions(rows, others, make):
    X, y = rows
    trees, ensemble = make(X, y)
    telescope = checked_telescope(ensemble, trees, X, y, seed=0)
    weights, offset = telescope.kernel_weights(others), telescope.offset(others)
    np.testing.assert_allclose(weights @ y + offset, trees.predict(others), atol=1e-12)
    assert np.abs(weights.sum(axis=1) - 1).max() < 1e-12 or ensemble.start_offset
    *_, last = telescope.staged_model(others)
    np.testing.assert_allclose(last, trees.predict(others), atol=1e-12)
    np.testing.assert_array_equal(next(telescope.staged_model(others, stages=[0, 1])), ensemble.start_offset)


@pytest.mark.parametrize("vary", [False, True])
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_every_route_is_the_dense_loop(rows, others, make, vary):
    X, y = rows
    trees, ensemble = make(X, y)
    telescope = checked_telescope(ensemble, trees, X, y, seed=0)
    if vary:
        ensemble = telescope.ensemble = varied(ensemble)
    unit = np.eye(N) * ensemble.trained
    stages = list(dense_loop(ensemble, telescope.leaves(others), unit, 0.0))
    *_, training = dense_loop(ensemble, ensemble.leaves, unit, 0.0)
    *_, constant = dense_loop(ensemble, telescope.leaves(others), np.zeros((N, 1)), 1.0)
    for size in (1, 3, T):
        np.testing.assert_allclose(forward_weights(telescope, others, size), stages[-1], atol=1e-12)
        np.testing.assert_allclose(backward_weights(telescope, others, size), stages[-1], atol=1e-12)
    asked = [found.copy() for found in telescope.staged_response(others, unit, stages=[0, 2, T])]
    np.testing.assert_allclose(asked, [stages[0], stages[2], stages[T]], atol=1e-12)
    np.testing.assert_allclose(telescope.offset(others), constant[:, 0], atol=1e-12)
    moments = LeafMoments(LeafCarrier(ensemble, T))
    squared = [(weights**2).sum() for weights in stages[1:]]
    np.testing.assert_allclose(moments.squared_weights(telescope.leaves(others)), squared, rtol=1e-10)
    *_, own = moments.staged_own_weights()
    np.testing.assert_allclose(own, training.diagonal(), atol=1e-12)
    np.testing.assert_allclose(moments.traces()[-1], np.trace(training), rtol=1e-10)
    *_, own = telescope._own_weights_by_columns(telescope.forward_plan(0, N))
    np.testing.assert_allclose(own, training.diagonal(), atol=1e-12)


def test_a_wrong_feedback_misses_the_predictions(rows):
    trees, ensemble = MAKE["forest"](*rows)
    wrong = LeafEnsemble(**vars(ensemble) | {"feedback": 1.0})
    with pytest.raises(ValueError, match="misses the model's own training predictions"):
        checked_telescope(wrong, trees, *rows, seed=0)
