"""Which rows weigh most, what each stage added, and estimates that more probes refine."""

import pickle

import numpy as np
import pandas as pd
import pytest
from conftest import N_QUERY, N_TRAIN, make_net, make_trees, random_rows
from sklearn import config_context

from telescoping_sklearn import _memory
from telescoping_sklearn._estimates import KEPT_QUESTIONS, probe_blocks


def fresh(model):
    """The same fitted model with nothing asked yet."""
    return pickle.loads(pickle.dumps(model))


def frames(data, query):
    """Training rows and queries as DataFrames whose index labels are no positions."""
    names = list("abcd")
    train = pd.DataFrame(data[0], columns=names, index=[f"house {i}" for i in range(N_TRAIN)])
    return train, pd.DataFrame(query, columns=names, index=pd.date_range("2020-01-01", periods=N_QUERY))


@pytest.mark.parametrize("k", [1, 5, N_TRAIN])
def test_top_examples_are_the_largest_absolute_weights(fitted, data, query, k):
    weights = fitted.kernel_weights(query)
    table = fitted.top_examples(query, k)
    assert table.columns.tolist() == ["query", "row", "weight", "label"]
    assert table["query"].tolist() == np.repeat(np.arange(N_QUERY), k).tolist()
    found = table["row"].to_numpy().reshape(N_QUERY, k)
    np.testing.assert_allclose(table["weight"], np.take_along_axis(weights, found, axis=1).ravel(), atol=1e-12)
    expected = -np.sort(-np.abs(weights), axis=1)[:, :k]
    np.testing.assert_allclose(np.abs(table["weight"]).to_numpy().reshape(N_QUERY, k), expected, atol=1e-12)
    assert all(len(set(rows)) == k for rows in found)
    np.testing.assert_array_equal(table["label"], data[1][table["row"]])


def test_top_examples_in_blocks_are_the_same(fitted, query):
    whole = fitted.top_examples(query, 4)
    with config_context(working_memory=0.004):
        in_blocks = fitted.top_examples(query, 4)
    assert whole["row"].tolist() == in_blocks["row"].tolist()
    np.testing.assert_allclose(whole["weight"], in_blocks["weight"], atol=1e-12)


def test_top_examples_carry_the_labels_of_data_frames(make, data, query):
    X = pd.DataFrame(data[0], columns=list("abcd"), index=[f"row {i}" for i in range(N_TRAIN)])
    Q = pd.DataFrame(query, columns=list("abcd"), index=[f"query {i}" for i in range(N_QUERY)])
    table = make().fit(X, data[1]).top_examples(Q, 3)
    assert table["query"].tolist() == np.repeat(Q.index, 3).tolist()
    assert table["index"].tolist() == [f"row {row}" for row in table["row"]]


def test_equal_weights_come_in_the_order_of_the_rows(data):
    model = make_trees(n_estimators=1, num_leaves=2, min_child_samples=15).fit(*data)
    table = model.top_examples(data[0][:3], N_TRAIN)
    for _, tied in table.groupby(["query", "weight"]):
        assert tied["row"].is_monotonic_increasing


def test_top_examples_take_an_index_of_several_levels(data, query):
    train, asked = frames(data, query)
    train.index = pd.MultiIndex.from_product([["a", "b"], range(N_TRAIN // 2)])
    table = make_trees().fit(train, data[1]).top_examples(asked, 2)
    assert table["index"].tolist() == [train.index[row] for row in table["row"]]


def test_the_index_is_kept_in_copies_and_dropped_with_the_rows(make, data, query):
    train, asked = frames(data, query)
    model = make().fit(train, data[1])
    pd.testing.assert_frame_equal(fresh(model).top_examples(asked), model.top_examples(asked))
    assert "index" not in model.fit(*data).top_examples(query).columns
    model.set_params(record=False).fit(train, data[1])
    assert not any(isinstance(value, pd.Index) for value in vars(model).values())
    with pytest.raises(ValueError, match="record=True"):
        model.top_examples(asked)


def test_top_examples_never_name_rows_that_were_not_trained_on(make, data, query):
    sample_weight = np.ones(N_TRAIN)
    sample_weight[::2] = 0
    model = make().fit(*data, sample_weight=sample_weight)
    assert set(model.top_examples(query, N_TRAIN // 2)["row"]) == set(range(1, N_TRAIN, 2))
    with pytest.raises(ValueError, match=f"k={N_TRAIN // 2 + 1} must lie between 1 and {N_TRAIN // 2}"):
        model.top_examples(query, N_TRAIN // 2 + 1)


@pytest.mark.parametrize(("k", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_bad_k_is_named(fitted, query, k, error):
    with pytest.raises(error, match="k"):
        fitted.top_examples(query, k)


@pytest.mark.parametrize("stages", [None, 3, [2, 5], [0, 2], [0]])
def test_a_breakdown_adds_up_to_the_telescoping_model(fitted, query, stages):
    table = fitted.breakdown(query, stages)
    assert table.index[0] == 0
    *_, last = fitted.staged_predict(query, stages=stages, approximation="telescoping")
    np.testing.assert_allclose(table.sum(axis=0), last, atol=1e-12)
    np.testing.assert_allclose(table.loc[0], next(fitted.staged_predict(query, stages=[0])))


def test_a_breakdown_names_queries_by_their_index(make, data, query):
    train, asked = frames(data, query)
    model = make().fit(train, data[1])
    pd.testing.assert_index_equal(model.breakdown(asked, 2).columns, asked.index)


def test_breakdowns_that_cannot_be_held_are_refused(fitted, query, monkeypatch):
    telescope = fitted.telescope_
    monkeypatch.setattr(_memory, "available_memory", lambda: _memory.Memory(8 * 3 * N_QUERY, "a test's"))
    assert telescope.breakdown(query, 2)[1].shape == (3, N_QUERY)
    with pytest.raises(MemoryError, match="stages=20"):
        telescope.breakdown(query)
    with pytest.raises(MemoryError, match="smaller k"):
        telescope.top_examples(query, 5)


def test_questions_refuse_other_columns_and_stages_that_do_not_exist(fitted, query):
    for ask in (fitted.top_examples, fitted.breakdown):
        with pytest.raises(ValueError, match="features"):
            ask(query[:, :3])
    for stages, error in (([99999], ValueError), (0, ValueError), ("all", TypeError)):
        for ask in (lambda stages: fitted.breakdown(query, stages), fitted.staged_training_summary):
            with pytest.raises(error, match="stages"):
                ask(stages)


def test_a_breakdown_of_trees_is_the_output_of_every_tree(data, query):
    model = make_trees().fit(*data)
    outputs = [model.booster_.predict(query, start_iteration=stage, num_iteration=1) for stage in range(12)]
    np.testing.assert_allclose(model.breakdown(query).to_numpy()[2:], outputs[1:], atol=1e-12)
    np.testing.assert_allclose(model.breakdown(query).sum(axis=0), model.predict(query), rtol=1e-12)


def carried_columns(model, monkeypatch):
    """Count the label columns that are carried from now on."""
    telescope, counts = model.telescope_, []
    carry = telescope.apply_response

    def counting(plan, X, V, offset, stages):
        counts.append(V.shape[1])
        return carry(plan, X, V, offset, stages)

    monkeypatch.setattr(telescope, "apply_response", counting)
    return counts


@pytest.mark.parametrize(("before", "new"), [((), 65), ((32,), 32), ((32, 64), 0), ((40,), 32)])
def test_more_probes_carry_only_the_new_ones_and_give_the_same(make, data, query, monkeypatch, before, new):
    fresh, model = make().fit(*data), make().fit(*data)
    for n_probes in before:
        model.effective_params(query, n_probes=n_probes)
    counts = carried_columns(model, monkeypatch)
    asked = {"stages": [3, model.n_stages_], "n_probes": 64, "return_se": True}
    refined = model.effective_params(query, n_probes=64, return_se=True)
    assert sum(counts) == new
    assert refined == fresh.effective_params(query, n_probes=64, return_se=True)
    staged = model.staged_effective_params(query, **asked)
    np.testing.assert_allclose([part[-1] for part in staged], refined, rtol=1e-9)


@pytest.fixture
def counted(fitted, monkeypatch):
    """A telescope with nothing asked yet, and the numbers of columns that it carried."""
    model = fresh(fitted)
    return model.telescope_, carried_columns(model, monkeypatch)


def test_answers_do_not_depend_on_what_was_asked_before(counted, fitted, query):
    telescope, carried = counted
    for n_probes in (2, 50, 33, 9, 70):
        asked = telescope.staged_effective_params(query, n_probes=n_probes)
        alone = fresh(fitted).telescope_.staged_effective_params(query, n_probes=n_probes)
        np.testing.assert_array_equal(asked, alone)
    # Groups end at 32 and 64; parts of a group are not used for more. The first group has the leading direction too.
    assert sum(carried) == 3 + 51 + 1 + 10 + 38


def test_other_questions_are_not_mistaken_for_it(counted, fitted, query):
    telescope, carried = counted
    questions = [
        lambda telescope: telescope.staged_effective_params(query, stages=[2], n_probes=8),
        lambda telescope: telescope.staged_effective_params(query, stages=[3], n_probes=8),
        lambda telescope: telescope.staged_effective_params(query[:5], stages=[2], n_probes=8),
        lambda telescope: telescope.staged_effective_params(query, stages=[2], n_probes=8, subsets=[[1]]),
        lambda telescope: telescope.staged_effective_params(query, stages=[2], n_probes=8, subsets=[[7]]),
        lambda telescope: telescope.staged_effective_params(None, stages=[2], n_probes=8),
        lambda telescope: telescope.staged_training_summary(stages=[2], n_probes=8),
    ]
    for ask in questions:
        np.testing.assert_array_equal(np.ravel(ask(telescope)), np.ravel(ask(fresh(fitted).telescope_)))
    telescope.seed += 1
    assert questions[0](telescope) != questions[0](fresh(fitted).telescope_)
    assert sum(carried) == 8 * 9


def test_only_the_questions_asked_last_are_kept(counted, query):
    telescope, carried = counted
    for n_rows in range(1, KEPT_QUESTIONS + 3):
        telescope.staged_effective_params(query[:n_rows], stages=[1], n_probes=2)
    assert len(telescope._probe_values) == KEPT_QUESTIONS
    del carried[:]
    telescope.staged_effective_params(query[: KEPT_QUESTIONS + 2], stages=[1], n_probes=2)
    assert not carried
    telescope.staged_effective_params(query[:1], stages=[1], n_probes=2)
    assert carried == [3]


def test_kept_probes_are_not_pickled(fitted, query):
    model = fresh(fitted)
    size = len(pickle.dumps(model))
    model.effective_params(query, n_probes=16)
    assert model.telescope_._probe_values
    assert len(pickle.dumps(model)) <= size + 64
    assert not fresh(model).telescope_._probe_values


def test_probes_from_the_middle_are_those_of_the_whole(fitted):
    telescope = fitted.telescope_
    whole, later = (np.hstack(list(probe_blocks(telescope, None, first, 50)[1])) for first in (0, 17))
    np.testing.assert_array_equal(later, whole[:, 18:])


def test_staged_answers_on_subsets_are_those_of_the_subsets(fitted, query):
    subsets = [np.arange(4), np.array([9, 2])]
    together = fitted.staged_effective_params(query, 3, n_probes=None, subsets=subsets)
    alone = [fitted.staged_effective_params(query[rows], 3, n_probes=None) for rows in subsets]
    np.testing.assert_allclose(together, np.transpose(alone))


def test_staged_training_summary_ends_with_the_attributes(fitted):
    table = fitted.staged_training_summary(stages=3, n_probes=None)
    last = table.iloc[-1]
    assert last["effective_params"] == pytest.approx(fitted.effective_params_)
    assert last["degrees_of_freedom"] == pytest.approx(fitted.degrees_of_freedom_)
    stage = int(table.index[0])
    (S,) = fitted.telescope_.staged_response(None, np.eye(N_TRAIN), stages=[stage])
    assert table.iloc[0]["effective_params"] == pytest.approx((S**2).sum())
    assert table.iloc[0]["degrees_of_freedom"] == pytest.approx(np.trace(S))


# Standard errors


def ask(telescope, query, n_probes, stage):
    """p on the training rows, the trace, and p on the query: values and standard errors, each of shape (3,)."""
    parts = [*telescope.staged_training_summary(stages=[stage], n_probes=n_probes)]
    parts.append(telescope.staged_effective_params(query, stages=[stage], n_probes=n_probes))
    return np.array([part.value[0] for part in parts]), np.array([part.standard_error[0] for part in parts])


def respond_with_exact_weights(telescope, query, stage, monkeypatch):
    """Multiply by S, worked once, where the response would be carried anew for every seed."""
    unit = np.eye(telescope.n_samples)
    weights = {X is None: next(telescope.staged_response(X, unit, stages=[stage])) for X in (None, query)}

    def exact(plan, X, V, offset, stages):
        yield weights[X is None] @ V

    monkeypatch.setattr(telescope, "apply_response", exact)


SKEWED = {
    "trees of two leaves": (make_trees(n_estimators=2, num_leaves=2), 2),
    "weighted trees": (make_trees(n_estimators=3, num_leaves=31), 3),
    "trees": (make_trees(n_estimators=30, num_leaves=15), 30),
    "first epoch": (make_net(hidden_layer_sizes=(30,), batch_size=50, activation="relu"), 4),
    "net": (make_net(hidden_layer_sizes=(30,), learning_rate_init=0.1, batch_size=100), 36),
}


@pytest.mark.parametrize("case", SKEWED)
def test_errors_of_estimates_are_as_large_as_their_standard_errors_say(case, monkeypatch):
    X, y = random_rows(300, seed=11)
    query = random_rows(200, seed=12)[0]
    model, stage = SKEWED[case]
    weights = np.random.default_rng(13).exponential(size=300) if "weighted" in case else None
    telescope = model.fit(X, y, sample_weight=weights).telescope_
    exact, carried = ask(telescope, query, None, stage)[0], ask(telescope, query, 32, stage)
    respond_with_exact_weights(telescope, query, stage, monkeypatch)
    telescope._probe_values.clear()
    np.testing.assert_allclose(ask(telescope, query, 32, stage), carried, rtol=1e-6)
    errors, standard_errors = np.empty((2, 250, 3))
    for seed in range(250):
        telescope.seed = seed
        value, standard_errors[seed] = ask(telescope, query, 32, stage)
        errors[seed] = value - exact
    spread = errors.std(axis=0, ddof=1)
    assert (np.abs(errors.mean(axis=0)) <= 4 * spread / np.sqrt(250)).all()
    usual = np.sqrt((standard_errors**2).mean(axis=0))
    assert (spread <= 1.1 * usual).all()
    assert (spread >= 0.4 * usual).all()
    beyond = [(np.abs(errors) > limit * standard_errors).sum(axis=0).max() for limit in (3, 4)]
    assert beyond[0] <= 4  # plain random signs: 10 and 13 for trees of two leaves and in the first epoch
    assert beyond[1] <= 1
