"""Everything that a fitted model answers, to be compared before and after something was done to it."""

import copy
import functools
import inspect

import numpy as np
import pandas as pd
from conftest import N_TRAIN, make_net, make_trees, random_rows
from scipy import sparse

NAMES = list("abcd")
QUERY = pd.DataFrame(random_rows(15, seed=1)[0], columns=NAMES)


BUILD = {
    "trees": lambda **settings: make_trees(early_stopping_rounds=4, **settings),
    "net": lambda **settings: make_net(hidden_layer_sizes=(6,), max_iter=4, section="auto", **settings),
}


def given_to_fit(family):
    X, y = random_rows()
    given = {"X": X, "y": y, "sample_weight": np.linspace(0.5, 1.5, N_TRAIN)}
    if family == "trees":
        X_val, y_val = random_rows(20, seed=2)
        given |= {"X_val": X_val, "y_val": y_val, "sample_weight_val": np.ones(20)}
    return given


def questions(model):
    """Names of the public methods that take query rows and need nothing else."""
    methods = inspect.getmembers(type(model), inspect.isfunction)
    parameters = {name: inspect.signature(method).parameters for name, method in methods if name[0] != "_"}
    asked = {name for name, taken in parameters.items() if "X" in taken and "y" not in taken}
    assert {"predict", "kernel_weights", "top_examples", "breakdown", "approximation_error"} <= asked
    return sorted(asked)


def plain(answer):
    """Numbers and tables of an answer, copied."""
    if isinstance(answer, pd.DataFrame | pd.Series | np.ndarray | int | float | np.number):
        return copy.deepcopy(answer)
    if sparse.issparse(answer):
        return answer.toarray()
    if isinstance(answer, str | type(None)):
        return answer
    if isinstance(answer, dict):
        return {key: plain(value) for key, value in answer.items()}
    if hasattr(answer, "by_stage"):
        return plain(vars(answer))
    return [plain(item) for item in answer]


ATTRIBUTES = (
    "kernel_weights_",
    "self_influence_",
    "effective_params_",
    "degrees_of_freedom_",
    "section_ends_",
    "loss_curve_",
    "feature_names_in_",
    "n_features_in_",
)


def answers(model, query=QUERY):
    """Every answer that a fitted model gives, or why it gives none."""
    asked = {name: functools.partial(getattr(model, name), query) for name in questions(model)}
    asked |= {name: functools.partial(getattr, model, name, None) for name in ATTRIBUTES}
    asked["subsets"] = lambda: model.effective_params(query, n_probes=4, subsets=[[0, 1], [2]], return_se=True)
    asked["summary"] = lambda: model.staged_training_summary(3)
    asked["probes"] = lambda: model.staged_training_summary(3, n_probes=4)
    if hasattr(model, "stopping_curve"):
        asked["stopping"] = model.stopping_curve
    return {name: plain(reply(ask)) for name, ask in asked.items()}


def reply(ask):
    """An answer; in words where it does not exist for the loss, or influence not with smoothing."""
    try:
        return ask()
    except ValueError as error:
        if "squared error" not in str(error) and "path_smooth above 0" not in str(error):
            raise
        return str(error)


def assert_same(given, expected, where=""):
    if isinstance(expected, dict):
        assert given.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(given[key], value, f"{where} {key}")
    elif isinstance(expected, list):
        assert len(given) == len(expected), where
        for position, value in enumerate(expected):
            assert_same(given[position], value, f"{where} {position}")
    elif isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(given, expected, rtol=1e-12, atol=1e-13, obj=where)
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        assert given.tolist() == expected.tolist(), where
    elif expected is None or isinstance(expected, str):
        assert given == expected, where
    else:
        np.testing.assert_allclose(given, expected, rtol=1e-12, atol=1e-13, err_msg=where)
