"""What an estimator or a telescope hands out may be overwritten: later answers stay."""

import functools
import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
from answers import BUILD, NAMES, QUERY, answers, assert_same, plain, questions, reply
from conftest import N_TRAIN, make_net, make_trees, random_rows
from scipy import sparse

import telescoping_sklearn
from telescoping_sklearn.neural._path import Path as RecordedRun


def handed_out(value, depth=5):
    """Every array, table and list that can be reached through public names.

    Not what a net's recorded run is made of: torch has no read-only tensors.
    """
    if depth == 0 or isinstance(value, str | type | RecordedRun):
        return
    if isinstance(value, np.ndarray | pd.DataFrame | list | dict):
        yield value
    if sparse.issparse(value):
        value = [value.data, value.indices, value.indptr]
    if isinstance(value, list | tuple):
        parts = list(value)
    elif isinstance(value, dict):
        parts = list(value.values())
    elif type(value).__module__.startswith("telescoping_sklearn"):
        names = [name for name in object.__dir__(value) if not name.startswith("_") and name not in PARAMETERS]
        parts = [reply(functools.partial(getattr, value, name, None)) for name in names]
        parts = [part for part in parts if not callable(part)]
    else:
        parts = []
    for part in parts:
        yield from handed_out(part, depth - 1)


PARAMETERS = {*make_trees().get_params(), *make_net().get_params()}


def overwrite(value):
    if isinstance(value, list):
        value.append(77.0)
    elif isinstance(value, dict):
        value.clear()
    elif isinstance(value, pd.DataFrame):
        for column in range(value.shape[1]):
            value.isetitem(column, value.iloc[:, column].to_numpy(copy=True))
            overwrite(value.iloc[:, column].array._ndarray)
        value.index.name = value.columns.name = "spoilt"
    elif value.flags.writeable:
        value[...] = 77 if value.dtype != object else "spoilt"


MODELS = {
    "trees": lambda: make_trees(reg_lambda=1.0),
    "trees-bags": lambda: make_trees(subsample=0.6, subsample_freq=1, path_smooth=2.0),
    "trees-poisson": lambda: make_trees(objective="poisson"),
    "trees-median": lambda: make_trees(objective="regression_l1", subsample=0.6, subsample_freq=1),
    "trees-huber": lambda: make_trees(objective="huber", alpha=0.3, reg_alpha=0.5, subsample=0.6, subsample_freq=1),
    "net": lambda: BUILD["net"](early_stopping=True, rule="gauss2"),
    "net-sections": lambda: make_net(hidden_layer_sizes=(6,), max_iter=4, section=4, optimizer="adam"),
}


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("case", MODELS)
def test_whatever_is_handed_out_may_be_overwritten(case, loaded):
    X, y = random_rows()
    model = MODELS[case]().fit(pd.DataFrame(X, columns=NAMES, index=np.arange(N_TRAIN) + 100), np.abs(y))
    expected = answers(model)
    model = pickle.loads(pickle.dumps(model)) if loaded else model
    query, telescope = QUERY.copy(), model.telescope_
    asks = [functools.partial(getattr(model, name), query) for name in questions(model)]
    asks += [
        lambda: telescope.start(query.to_numpy()),
        lambda: telescope.start(None),
        lambda: telescope.breakdown(None),
        lambda: telescope.kernel_norms(None),
        lambda: telescope.kernel_weights(None),
        lambda: telescope.training_summary(4),
        lambda: telescope.training_summary(None),
        lambda: telescope.staged_effective_params(None, n_probes=4),
        lambda: telescope.staged_model(None),
        lambda: telescope.staged_telescoping(None),
    ]
    out = [reply(ask) for ask in asks]
    found = list(handed_out([model, telescope, [list(item) if inspect.isgenerator(item) else item for item in out]]))
    assert sum(isinstance(value, np.ndarray) for value in found) > 30
    assert any(value is telescope.y for value in found)
    for value in found:
        overwrite(value)
    assert query.columns.name is query.index.name is None
    assert_same(answers(model), expected)


def staged(model):
    """Questions about rows that are answered stage by stage."""
    telescope, V = model.telescope_, random_rows()[0]
    asks = {
        "model": model.staged_predict,
        "some": lambda X: model.staged_predict(X, [0, 1, 2]),
        "telescoping": lambda X: model.staged_predict(X, [0, 1, 2], approximation="telescoping"),
        "kernel": model.staged_kernel,
        "norms": telescope.staged_kernel_norms,
        "response": lambda X: telescope.staged_response(X, V, stages=[0, 1, 2]),
        "training response": lambda X: telescope.staged_response(None, V, offset=True, stages=[0, 1, 2]),
    }
    if isinstance(model, telescoping_sklearn.TelescopingMLPRegressor):
        asks["linearized"] = lambda X: model.staged_predict(X, approximation="linearized")
    return asks


@pytest.mark.parametrize("case", MODELS)
def test_a_stage_may_be_overwritten_before_the_next(case):
    X, y = random_rows()
    for name, ask in staged(MODELS[case]().fit(X, np.abs(y))).items():
        expected, found = plain(ask(QUERY.to_numpy())), []
        for item in ask(QUERY.to_numpy()):
            found.append(plain(item))
            for array in handed_out(item):
                overwrite(array)
        assert_same(found, expected, name)


@pytest.mark.parametrize("case", MODELS)
def test_two_questions_may_be_asked_in_turns(case):
    X, y = random_rows()
    for name, ask in staged(MODELS[case]().fit(X, np.abs(y))).items():
        rows = QUERY.to_numpy()
        expected = [plain(pair) for pair in zip(plain(ask(rows)), plain(ask(rows[:5])), strict=True)]
        assert_same([plain(pair) for pair in zip(ask(rows), ask(rows[:5]), strict=True)], expected, name)
