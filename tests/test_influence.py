"""Influence of trees: every route against finite differences in the weights, with the trees' structure held fixed."""

import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
from conftest import make_trees, random_rows
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from influence_oracle import TreesAgain, weight_differences
from sklearn import config_context
from test_ensembles_of_other_libraries import MAKE
from test_tree_losses import OBJECTIVES, rows_for
from test_tree_settings import SPLITTING, coded, random_frame

from telescoping_sklearn._telescope import UnstableResponseError
from telescoping_sklearn.boosting._checked import checked_telescope
from telescoping_sklearn.boosting._ensemble import InfluenceTerms, LeafEnsemble
from telescoping_sklearn.boosting._influence import influence_ensemble
from telescoping_sklearn.boosting._leaf_carriers import LeafCarrier
from telescoping_sklearn.boosting._leaf_space import stacked
from telescoping_sklearn.boosting._leaf_telescope import LeafTelescope
from telescoping_sklearn.losses import Fair, Gamma, Logistic, Poisson, Tweedie

N, M = 40, 9
SETTINGS = {
    "plain": {},
    "ridge": {"reg_lambda": 2.0},
    "bags": {"subsample": 0.6, "subsample_freq": 2},
    "penalty": {"reg_alpha": 1.0},
    "clipped": {"max_delta_step": 0.3, "learning_rate": 0.3},
    "penalty, clipped, ridge, bags": {
        **{"reg_alpha": 0.5, "max_delta_step": 0.4, "reg_lambda": 1.0, "subsample": 0.7, "subsample_freq": 1}
    },
    "huber": {"objective": "huber", "alpha": 0.4, "learning_rate": 0.3},
    "one tree": {"n_estimators": 1, "learning_rate": 1.0},
    "constant tree": {"min_child_samples": 100},
}
WEIGHTS = {
    "equal": np.ones(N),
    "unequal": np.random.default_rng(0).gamma(2.0, size=N).astype(np.float32),
    "zeros": np.random.default_rng(0).gamma(2.0, size=N).astype(np.float32) * (np.arange(N) % 5 > 0),
}


@pytest.fixture(scope="module")
def query():
    return random_rows(M, seed=4)[0]


def assert_is_derivative(model, X, y, query, weights, given=None):
    expected = weight_differences(TreesAgain(model, X, y, query, given), weights.astype(float))
    found = model.influence(query)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * max(np.abs(expected).max(), 1e-2))
    return expected


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_influence_is_the_derivative_in_the_weights(settings, weights, query):
    X, y = random_rows(N)
    sample_weight = None if (weights == 1).all() else weights
    model = make_trees(**settings).fit(X, y, sample_weight=sample_weight)
    expected = assert_is_derivative(model, X, y, query, weights)
    assert np.abs(expected).max() > 1e-3
    if (weights == 0).any():  # what a little weight would do
        assert np.abs(expected[:, weights == 0]).max() > 1e-3


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize(
    "settings", [{}, {"reg_lambda": 1.0, "subsample": 0.7, "subsample_freq": 1}, {"reg_alpha": 0.97}]
)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_hessians_move_with_the_weights_too(objective, settings, weights, query):
    X, y = rows_for(objective, n_rows=N)
    sample_weight = None if (weights == 1).all() else weights
    model = make_trees(objective=objective, learning_rate=0.3, **settings).fit(X, y, sample_weight=sample_weight)
    assert_is_derivative(model, X, y, query, weights)


def test_held_out_rows_have_no_influence(query):
    X, y = random_rows(60, seed=2)
    model = make_trees(early_stopping_rounds=3, validation_fraction=0.3, subsample=0.8, subsample_freq=1).fit(X, y)
    given, held_out = model._fit_record.given, model._fit_record.held_out
    expected = assert_is_derivative(model, X, y, query, np.ones(60), given)
    assert not expected[:, held_out].any()
    assert not model.influence(query)[:, held_out].any()
    assert not model.self_influence_[held_out].any()
    assert not np.isin(model.top_examples(query, 20, by="influence").row, held_out).any()


def test_categories_add_to_the_ridge():
    frame, y = random_frame(120, seed=1)
    model = make_trees(**SPLITTING).fit(frame, y)
    X, query = coded(frame), coded(random_frame(8, seed=2)[0])
    expected = weight_differences(TreesAgain(model, X, y, query), np.ones(120))
    found = model.telescope_.influence(query)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@given(
    num_leaves=st.integers(2, 12),
    n_estimators=st.integers(1, 10),
    learning_rate=st.sampled_from([0.1, 0.4]),
    reg_lambda=st.sampled_from([0.0, 1.5]),
    reg_alpha=st.sampled_from([0.0, 0.3173]),
    subsample=st.sampled_from([0.6, 1.0]),
    objective=st.sampled_from(["regression", "huber", *OBJECTIVES]),
    zero_weights=st.integers(0, 8),
    size=st.integers(1, 10),
    working_memory=st.sampled_from([0.001, 64.0]),
    block_bytes=st.sampled_from([1, 2**20]),
    seed=st.integers(0, 2**31 - 1),
)
@hypothesis_settings(deadline=None, max_examples=15)
def test_every_route_gives_the_derivative(zero_weights, size, working_memory, block_bytes, seed, **settings):
    objective, n = settings["objective"], 24
    X, y = rows_for(objective, n, seed) if objective in OBJECTIVES else random_rows(n, seed)
    query = random_rows(5, seed=seed + 1)[0]
    weights = np.random.default_rng(seed).uniform(0.5, 2, n).astype(np.float32).astype(float)
    weights[np.random.default_rng(seed).permutation(n)[:zero_weights]] = 0
    if objective in ("poisson", "tweedie", "binary") and len(np.unique(y[weights > 0])) < 2:
        return  # a constant label has no finite start
    model = make_trees(**settings, min_child_samples=2, subsample_freq=1, alpha=0.5).fit(X, y, sample_weight=weights)
    expected = weight_differences(TreesAgain(model, X, y, query), weights)
    near = {"rtol": 0, "atol": 2e-5 * max(np.abs(expected).max(), 1e-2)}
    with pytest.MonkeyPatch.context() as patched, config_context(working_memory=working_memory):
        patched.setattr("telescoping_sklearn.boosting._leaf_carriers._BLOCK_BYTES", block_bytes)
        patched.setattr("telescoping_sklearn.boosting._leaf_carriers._MOST_ROWS", 7 if block_bytes == 1 else 10**6)
        telescope = model.telescope_
        np.testing.assert_allclose(telescope.influence(query), expected, **near)
        of_weights = telescope.influence_telescope()
        carrier = LeafCarrier(of_weights.ensemble, size)
        reached = stacked(of_weights.leaves(query), of_weights._offsets).T.toarray()
        backward = carrier.apply_adjoint(reached).T
        np.testing.assert_allclose(backward, expected, **near)
        patched.setattr(of_weights, "has_adjoint", False)
        np.testing.assert_allclose(telescope.influence(query), backward, atol=1e-12)
        dense = next(of_weights.staged_response(query, np.eye(n)[:, ::-1] + 1.0, stages=[model.n_stages_]))
        np.testing.assert_allclose(dense, backward[:, ::-1] + backward.sum(axis=1, keepdims=True), atol=1e-12)


@pytest.mark.parametrize("bags", [{}, {"subsample": 0.6, "subsample_freq": 2}])
@pytest.mark.parametrize("objective", ["regression", "poisson"])
def test_stages_diagonal_and_ranking_are_those_of_the_whole(objective, bags, query):
    X, y = rows_for("poisson", N)
    model = make_trees(objective=objective, **bags).fit(X, y)
    whole, telescope = model.influence(query), model.telescope_
    asked = [0, 3, 7, 12]
    staged = model.staged_influence(query, asked)
    assert staged.shape == (4, M, N)
    np.testing.assert_allclose(staged[-1], whole, atol=1e-13)
    short = make_trees(objective=objective, n_estimators=7, **bags).fit(X, y)
    np.testing.assert_allclose(staged[2], short.influence(query), atol=1e-13)
    start = weight_differences(TreesAgain(model, X, y, query, n_stages=0), np.ones(N))
    np.testing.assert_allclose(staged[0], start, atol=1e-7)
    of_weights = telescope.influence_telescope()
    for own in (model.self_influence_, super(type(of_weights), of_weights).own_weights()):
        np.testing.assert_allclose(own, telescope.influence(None).diagonal(), atol=1e-13)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(of_weights, "has_adjoint", False)
        np.testing.assert_allclose(model.staged_influence(query, asked), staged, atol=1e-13)
    top = model.top_examples(query, 4, by="influence")
    rows = top.row.to_numpy().reshape(M, 4)
    np.testing.assert_allclose(top.influence.to_numpy().reshape(M, 4), np.take_along_axis(whole, rows, axis=1))
    np.testing.assert_allclose(np.abs(top.influence.to_numpy().reshape(M, 4)), -np.sort(-np.abs(whole))[:, :4])
    assert list(model.top_examples(query, 4).columns) == ["query", "row", "weight", "label"]


def test_influence_is_leaf_influence_of_sharchilev_et_al():
    """Equation for one leaf after another, with the residuals that the trees before it left."""
    X, y = random_rows(N, seed=5)
    model = make_trees(learning_rate=0.3).fit(X, y)
    leaves = model.booster_.predict(X, pred_leaf=True)
    f, J = np.full(N, y.mean()), np.tile((y - y.mean()) / N, (N, 1))  # J[j, i]: derivative of f_j in w_i
    for of_rows in leaves.T:
        residual, before, added = y - f, J.copy(), np.zeros(N)
        for leaf in np.unique(of_rows):
            inside = of_rows == leaf
            value = residual[inside].mean()
            of_leaf = (inside * (residual - value) - before[inside].sum(axis=0)) / inside.sum()
            J[inside] += 0.3 * of_leaf
            added[inside] = 0.3 * value
        f = f + added
    np.testing.assert_allclose(model.telescope_.influence(None), J, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"subsample": 0.7, "subsample_freq": 1}, {"objective": "gamma"}])
def test_weights_that_all_grow_change_nothing_without_a_penalty(settings, query):
    X, y = rows_for("gamma", N)
    weights = np.random.default_rng(0).uniform(0.5, 2, N).astype(np.float32)
    model = make_trees(**settings).fit(X, y, sample_weight=weights)
    found = model.influence(query)
    assert np.abs(found).max() > 1e-2
    np.testing.assert_allclose(found @ weights, 0, atol=1e-6)


@pytest.mark.parametrize("objective", ["regression_l1", "quantile", "mape"])
def test_quantiles_do_not_depend_on_weights(objective, query):
    X, y = random_rows(N)
    model = make_trees(objective=objective).fit(X, y)
    assert not model.influence(query).any()
    assert not model.self_influence_.any()
    with pytest.warns(UserWarning, match="No row has influence"):
        assert not model.top_examples(query, 3, by="influence").influence.any()


def test_labels_of_a_large_mean_have_the_influence_of_centred_ones(query):
    X, y = random_rows(N)
    shifted = make_trees().fit(X, y + 1e8)
    assert shifted.label_shift_ > 0
    np.testing.assert_allclose(shifted.influence(query), make_trees().fit(X, y).influence(query), atol=1e-5)


def test_removing_a_row_is_predicted_by_its_influence(query):
    """The prediction of the same trees without a row is w D away, to first order: a small weight shows it."""
    X, y = random_rows(N)
    weights = np.full(N, 1.0)
    weights[7] = 2.0**-6
    model = make_trees().fit(X, y, sample_weight=weights)
    without = weights.copy()
    without[7] = 0
    left = TreesAgain(model, X, y, query)(without)
    predicted = model.predict(query) - weights[7] * model.influence(query)[:, 7]
    moved = np.abs(left - model.predict(query)).max()
    np.testing.assert_allclose(predicted, left, atol=0.05 * moved)


def test_frames_name_their_rows(query):
    X, y = random_rows(N)
    frame = pd.DataFrame(X, columns=list("abcd"), index=[f"row {i}" for i in range(N)])
    model = make_trees().fit(frame, y)
    top = model.top_examples(frame[:3], 2, by="influence")
    assert list(top.columns) == ["query", "row", "index", "influence", "label"]
    assert (top["index"] == [f"row {i}" for i in top.row]).all()


def test_refusals_of_trees_give_no_advice_for_nets(query, monkeypatch):
    telescope = make_trees().fit(*random_rows(N)).telescope_
    monkeypatch.setattr(LeafTelescope, "is_sound", lambda self, stages: np.zeros(len(stages), dtype=bool))
    asked = [
        lambda: telescope.kernel_weights(query),
        lambda: telescope.offset(query),
        lambda: telescope.influence(query),
        lambda: telescope.self_influence(),
        lambda: telescope.top_examples(query, 2),
        lambda: telescope.top_examples(query, 2, by="influence"),
        lambda: list(telescope.staged_effective_params(query)),
    ]
    for ask in asked:
        with pytest.raises(UnstableResponseError, match="Ask for earlier stages") as caught:
            ask()
        assert not re.search("max_iter|learning_rate_init|section|gauss2| $", str(caught.value))


@pytest.mark.parametrize("in_leaves", [True, False])
def test_own_weights_are_planned_once(in_leaves, monkeypatch):
    telescope, plans = make_trees().fit(*random_rows(N)).telescope_, []
    expected, plan = telescope.kernel_weights(None).diagonal(), LeafTelescope.forward_plan
    monkeypatch.setattr(LeafTelescope, "forward_plan", lambda *given: plans.append(given) or plan(*given))
    if not in_leaves:
        monkeypatch.setattr(LeafTelescope, "exact_sums", lambda self, n_query: None)
    np.testing.assert_allclose(telescope.own_weights(), expected, atol=1e-12)
    assert len(plans) == 1


@pytest.mark.parametrize("by", ["weights", None, "Influence"])
def test_an_unknown_ranking_is_refused(by, query):
    model = make_trees().fit(*random_rows(N))
    with pytest.raises(ValueError, match=f"by must be 'weight' or 'influence', got {by!r}"):
        model.top_examples(query, by=by)


def test_what_has_no_influence_is_refused(query):
    X, y = random_rows(N)
    model = make_trees(path_smooth=2.0).fit(X, y)
    with pytest.raises(ValueError, match=r"path_smooth above 0.*path_smooth=0"):
        model.influence(query)
    telescope = make_trees().fit(X, y).telescope_
    with pytest.raises(ValueError, match="denominators='held' does not exist for trees"):
        telescope.influence(query, denominators="held")
    unknown = type(telescope.ensemble)(**vars(telescope.ensemble) | {"influence_terms": None})
    with pytest.raises(ValueError, match="influence is not known for these trees"):
        influence_ensemble(unknown, y)


LOSSES = {"poisson": Poisson(0.3), "gamma": Gamma(), "tweedie": Tweedie(1.3), "logistic": Logistic(), "fair": Fair(0.7)}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_slope_of_a_hessian_is_its_derivative(loss):
    raw, y = np.linspace(-2, 2, 9), np.full(9, 0.9)
    step = 1e-6
    slope = (loss.hessian(y, raw + step) - loss.hessian(y, raw - step)) / (2 * step)
    np.testing.assert_allclose(loss.hessian_slope(y, raw), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_ensembles_of_other_libraries_have_influence(make):
    X, y = random_rows(60, seed=3)
    query = random_rows(11, seed=4)[0]
    trees, ensemble = make(X, y)
    drawn = np.array([ensemble.stage_weights(stage) for stage in range(1, ensemble.n_stages + 1)])
    rate = trees.shares
    terms = InfluenceTerms(learning_rate=rate, start=np.zeros(60), counts=partial(_counts, drawn))
    ensemble = LeafEnsemble(**vars(ensemble) | {"influence_terms": terms})
    telescope = checked_telescope(ensemble, trees, X, y, seed=0)
    leaves = np.hstack([ensemble.leaves, telescope.leaves(query)])

    def predict(weights):
        f = np.full(71, ensemble.start_offset)
        for of_tree, counts in zip(leaves, drawn, strict=True):
            before, w = f.copy(), weights * counts
            for leaf in np.unique(of_tree):
                inside = of_tree[:60] == leaf
                f[of_tree == leaf] += rate * w[inside] @ (y - ensemble.feedback * before[:60])[inside] / w[inside].sum()
        return f[60:]

    expected = weight_differences(predict, np.ones(60))
    np.testing.assert_allclose(telescope.influence(query), expected, atol=1e-8)
    of_weights = telescope.influence_telescope()
    np.testing.assert_allclose(of_weights._weights(of_weights.forward_plan(11, 60), query)[0], expected, atol=1e-8)
    np.testing.assert_allclose(telescope.self_influence(), telescope.influence(None).diagonal(), atol=1e-12)


def _counts(drawn, stage):
    return drawn[stage - 1]
