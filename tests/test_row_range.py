"""Huge finite values of X: every row is answered as if it had been asked about alone, or refused by its place."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_net, make_trees, random_rows
from torch import nn

ODD = 5  # the row with huge values
QUESTIONS = {
    "predict": lambda model, X: model.predict(X),
    "kernel_weights": lambda model, X: model.kernel_weights(X),
    "offset": lambda model, X: model.offset(X),
    "kernel_norms": lambda model, X: model.kernel_norms(X, stages=3).T,
    "effective_params": lambda model, X: model.effective_params(X, subsets=[[row] for row in range(len(X))]),
    "estimated": lambda model, X: model.effective_params(X, subsets=[[row] for row in range(len(X))], n_probes=4),
    "kernel_norm_ratio": lambda model, X: model.kernel_norm_ratio(
        X, stages=3, subsets=[[row] for row in range(len(X))]
    ),
    "staged_predict": lambda model, X: np.stack(list(model.staged_predict(X, stages=2))).T,
    "breakdown": lambda model, X: model.breakdown(X, stages=3).to_numpy().T,
    "top_examples": lambda model, X: model.top_examples(X, k=2)["weight"].to_numpy().reshape(len(X), 2),
}
MODELS = {
    "trees": make_trees(),
    "float32": make_net(dtype="float32", max_iter=3),
    "float32, relu": make_net(dtype="float32", max_iter=3, activation="relu", section="auto"),
    "float32, adam": make_net(dtype="float32", max_iter=3, optimizer="adam", learning_rate_init=1e-3),
    "float64, identity": make_net(max_iter=3, activation="identity"),
}
TAKEN = {"trees": [1e39, 1e300, 1.7e308], "float64, identity": [1e39, 1e75]}


def rows_with(value):
    X = random_rows(12, seed=1)[0]
    X[ODD, 2] = value
    return X


@pytest.fixture(scope="module", params=MODELS)
def model(request, data):
    return request.param, MODELS[request.param].fit(*data)


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
@pytest.mark.parametrize("sign", [1, -1])
def test_values_that_are_taken_leave_the_answers_for_other_rows_alone(model, ask, sign):
    name, fitted = model
    for value in [1e3, *TAKEN.get(name, [1e16])]:
        X = rows_with(sign * value)
        answer, others = ask(fitted, X), np.delete(np.arange(12), ODD)
        assert np.isfinite(answer).all()
        alone = ask(fitted, rows_with(0.0))
        np.testing.assert_allclose(answer[others], alone[others], rtol=1e-5, atol=1e-6 * np.abs(alone).max())


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
def test_values_that_overflow_are_refused_with_their_place(model, ask):
    name, fitted = model
    if name == "trees":
        return  # LightGBM compares float64, and takes all of it
    beyond = [1e76, 1e300] if "64" in name else [1e17, 1e38, 1e39, 1e300]
    for value in (*beyond, -beyond[0]):
        place = re.escape(f"row {ODD}, column 2 ({value:.3g})")
        with pytest.raises(ValueError, match=rf"X has values beyond .* overflow: {place}\. "):
            ask(fitted, rows_with(value))


def test_training_rows_that_overflow_are_refused_by_name(data):
    frame = pd.DataFrame(data[0], columns=list("abcd"))
    frame.loc[[3, 8, 9, 20], "c"] = 1e39
    with pytest.raises(
        ValueError, match=r"row 3, column 'c' \(1e\+39\); row 8.*; row 9.* and 1 more\. .*dtype='float64'"
    ):
        make_net(dtype="float32").fit(frame, data[1])
    trees = make_trees(min_child_samples=1).fit(frame, data[1])
    np.testing.assert_allclose(trees.kernel_weights_ @ data[1], trees.predict(frame), atol=1e-5)


def test_the_range_is_that_of_the_dtype_fitted_with(data):
    net = make_net(dtype="float64", max_iter=2).fit(*data).set_params(dtype="float32")
    assert np.isfinite(net.kernel_weights(rows_with(1e50))).all()


class Exponential(nn.Module):
    """A layer that grows faster than its input: finite in float64 where it is not in float32."""

    def forward(self, x):
        return torch.exp(x)


@pytest.mark.parametrize("ask", [QUESTIONS[name] for name in QUESTIONS if name != "predict"])
def test_rows_at_which_a_module_overflows_are_refused(data, ask):
    module = nn.Sequential(nn.Linear(4, 6), Exponential(), nn.Linear(6, 1))
    module[0].weight.data = torch.linspace(-0.5, 0.5, 24).reshape(6, 4)  # of either sign in every column
    net = make_net(module=module, dtype="float32", learning_rate_init=1e-3, max_iter=2).fit(*data)
    assert np.isfinite(ask(net, rows_with(10.0))).all()
    X = rows_with(1000.0)
    X[8] = -1000.0
    with pytest.raises(ValueError, match=rf"not finite in dtype='float32' at rows {ODD}, 8 of X"):
        ask(net, X)
