"""Who learned nothing because of units is told so, with a line that mends it; others are left alone."""

import warnings

import numpy as np
import pytest
from conftest import make_net, random_rows
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler, scale
from torch import nn

from telescoping_sklearn import TelescopingMLPRegressor

X, Y = random_rows(60)
Y = scale(Y)
LABELS = {"prices": 2e5 + 1e5 * Y, "wide": 1e5 * Y, "narrow": 1e-4 * Y, "far": 30 + Y, "below": -5e3 + 10 * Y}


def make_module(n_features):
    return nn.Sequential(nn.Linear(n_features, 5), nn.SiLU(), nn.Linear(5, 1))


NETS = {
    "adam": {"optimizer": "adam"},
    "sgd": {"learning_rate_init": 1e-7},
    "searched": {"optimizer": "adam", "record": False},
    "stopped": {"optimizer": "adam", "early_stopping": True},
    "module": {"optimizer": "adam", "module": make_module},
}


def net(**settings):
    return make_net(**{"learning_rate_init": 1e-3, "max_iter": 5} | settings)


@pytest.mark.parametrize("settings", NETS.values(), ids=NETS)
@pytest.mark.parametrize("y", LABELS.values(), ids=LABELS)
def test_labels_in_raw_units_are_warned_of_and_scaled_ones_are_not(settings, y):
    with pytest.warns(ConvergenceWarning, match=r"R\^2 = -?[\d.e+-]+\): the labels have mean") as record:
        net(**settings).fit(X, y)
    (warned,) = [each for each in record if each.category is ConvergenceWarning]
    text = str(warned.message)
    assert f"mean {y.mean():.3g} and standard deviation {y.std():.3g}" in text or "early_stopping" in settings
    assert text.endswith("TransformedTargetRegressor(TelescopingMLPRegressor(...), transformer=StandardScaler())")
    assert warned.filename == __file__
    namespace = {"TelescopingMLPRegressor": lambda _: net(**settings)}
    code = text.splitlines()[-1].strip()
    mended = eval(code, globals() | namespace)  # the code that the user is shown
    mended.fit(X, y)
    assert isinstance(mended, TransformedTargetRegressor)


def test_the_number_is_the_weighted_one_of_the_rows_trained_on():
    w = np.linspace(0, 2, 60)
    model = net()
    with pytest.warns(ConvergenceWarning) as record:
        model.fit(X, 300 + Y, sample_weight=w)
    mean = np.average(300 + Y, weights=w)
    gap = np.average((300 + Y - model.predict(X)) ** 2, weights=w)
    r2 = 1 - gap / np.average((300 + Y - mean) ** 2, weights=w)
    assert f"(R^2 = {r2:.3g})" in str(record[0].message)


@pytest.mark.parametrize(("factor", "shift"), [(1e4, 0), (1, 500), (1e-4, 0)])
def test_columns_in_raw_units_are_warned_of(factor, shift):
    rows = X * factor + shift
    with pytest.warns(ConvergenceWarning, match="columns of X root mean squares from") as record:
        net(learning_rate_init=1e-6, max_iter=1).fit(rows, Y)
    assert str(record[0].message).endswith("    make_pipeline(StandardScaler(), TelescopingMLPRegressor(...))")
    make_pipeline(StandardScaler(), net(learning_rate_init=1e-6, max_iter=1)).fit(rows, Y)
    with pytest.warns(ConvergenceWarning, match=r"TransformedTargetRegressor\(make_pipeline"):
        net(learning_rate_init=1e-6, max_iter=1).fit(rows, 1e5 * Y)


def test_a_sigmoid_needs_labels_from_0_to_1():
    y = MinMaxScaler().fit_transform(Y[:, None])[:, 0]
    net(output_activation="sigmoid", max_iter=1).fit(X, y)
    with pytest.warns(ConvergenceWarning, match=r"labels from 0 to 1(?s:.)*transformer=MinMaxScaler\(\)"):
        net(output_activation="sigmoid").fit(X, 5 + Y)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e5, 0.1, 1e-300])
def test_constant_labels_have_nothing_to_explain(value):
    net().fit(X, np.full(60, value))


def test_raw_units_that_are_learned_all_the_same_are_left_alone():
    model = net(learning_rate_init=0.03, max_iter=200, optimizer="adam").fit(X, 8 + 5 * Y)
    assert model.score(X, 8 + 5 * Y) > 0.5


@pytest.mark.parametrize("max_iter", [1, 2, 20])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("settings", [{"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.9}], ids=str)
def test_scaled_data_are_left_alone_however_noisy_and_however_short_the_run(settings, seed, max_iter):
    rng = np.random.default_rng(seed)
    model = TelescopingMLPRegressor((20,), max_iter=max_iter, random_state=seed, record=False, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows, y = load_diabetes(return_X_y=True)
        model.fit(scale(rows), scale(y))
        model.fit(rng.normal(size=(100, 5)), rng.normal(size=100))
        model.fit(rng.random((100, 5)), rng.random(100) < 0.2)
