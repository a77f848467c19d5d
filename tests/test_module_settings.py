"""`module=` by skorch's conventions: what is called with which arguments, and how settings are set and searched."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted
from torch import nn

from telescoping_sklearn import TelescopingMLPRegressor
from telescoping_sklearn.neural._module_settings import make_module

N_FEATURES = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, N_FEATURES))
Y = X[:, 0] - X[:, 1] ** 2


class Net(nn.Module):
    """One hidden layer; it remembers what it was called with."""

    def __init__(self, n_features, width=16, *, depth=1):
        super().__init__()
        self.arguments = {"n_features": n_features, "width": width, "depth": depth}
        self.body = nn.Sequential(nn.Linear(n_features, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, rows):
        return self.body(rows)


class WidthFirst(nn.Module):
    def __init__(self, w=16):
        super().__init__()
        self.arguments = {"w": w}
        self.body = nn.Sequential(nn.Linear(N_FEATURES, w), nn.Tanh(), nn.Linear(w, 1))

    def forward(self, rows):
        return self.body(rows)


class AnyKeyword(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.arguments = settings


class KeywordOnly(nn.Module):
    def __init__(self, *, in_features, width):
        super().__init__()
        self.arguments = {"in_features": in_features, "width": width}


class Wrapping(nn.Module):
    """A module inside a module, with a parameter whose name ends as fitted attributes do."""

    def __init__(self, body, scale_=1.0):
        super().__init__()
        self.body, self.scale = body, scale_

    def forward(self, rows):
        return self.scale * self.body(rows)


def function(n_features, width=5):
    return Net(n_features, width)


def by_place(columns, width=5):
    return Net(columns, width)


def only_by_place(n_features, /):
    return Net(n_features)


def make_net(**settings):
    return TelescopingMLPRegressor(**{"max_iter": 2, "random_state": 0, "record": False} | settings)


MADE = {
    "class": (Net, {}, {"n_features": 4, "width": 16, "depth": 1}),
    "class with settings": (Net, {"width": 3, "depth": 2}, {"n_features": 4, "width": 3, "depth": 2}),
    "columns set": (Net, {"n_features": 7}, {"n_features": 7, "width": 16, "depth": 1}),
    "width first": (WidthFirst, {}, {"w": 16}),
    "width first, set": (WidthFirst, {"w": 8}, {"w": 8}),
    "any keyword": (AnyKeyword, {"encoder__width": 3}, {"encoder__width": 3}),
    "keyword only": (KeywordOnly, {"width": 2}, {"in_features": 4, "width": 2}),
    "function": (function, {}, {"n_features": 4, "width": 5, "depth": 1}),
    "function by place": (only_by_place, {}, {"n_features": 4, "width": 16, "depth": 1}),
    "no argument": (lambda: WidthFirst(9), {}, {"w": 9}),
    "lambda": (
        lambda n_features, width: Net(n_features, width),
        {"width": 6},
        {"n_features": 4, "width": 6, "depth": 1},
    ),
    "partial": (partial(Net, width=9), {}, {"n_features": 4, "width": 9, "depth": 1}),
    "partial, set": (partial(Net, width=9), {"width": 2}, {"n_features": 4, "width": 2, "depth": 1}),
    "partial by place": (partial(Net, 5), {}, {"n_features": 5, "width": 16, "depth": 1}),
}


@pytest.mark.parametrize(("make", "settings", "expected"), MADE.values(), ids=MADE)
def test_what_makes_a_module_is_called_with_its_settings_and_told_the_columns_by_name(make, settings, expected):
    assert make_module(make, settings, N_FEATURES, seed=0).arguments == expected


@pytest.mark.parametrize("make", [by_place, lambda d: Net(d), partial(by_place, width=5)])
def test_functions_that_take_the_columns_by_place_still_do_and_are_told_to_name_them(make):
    with pytest.warns(FutureWarning, match="rename it") as caught:
        net = make_net(module=make).fit(X, Y)
    assert caught[0].filename == __file__
    assert np.isfinite(net.predict(X)).all()


def test_a_function_whose_columns_are_set_by_name_is_not_told_them():
    assert make_module(by_place, {"columns": 3}, N_FEATURES, seed=0).arguments["n_features"] == 3


REFUSED = {
    "did you mean module__width? It takes module__n_features, module__width, module__depth": (Net, {"widht": 3}),
    "has parameters without default: set module__w": (lambda n_features, w: Net(n_features, w), {}),
    "set module__body. A required parameter called n_features_in": (Wrapping, {}),
    "module__w cannot be set: module is an instance of WidthFirst": (WidthFirst(), {"w": 3}),
    "Net(n_features=4, width='wide') raised TypeError": (Net, {"width": "wide"}),
    "It takes none": (lambda: WidthFirst(), {"w": 3}),
    "returned dict": (dict, {"a": 1}),
    "returned int": (lambda n_features: n_features, {}),
    "module__encoder__width is no parameter": (Net, {"encoder__width": 3}),
    "module__width has no effect without a module": (None, {"width": 3}),
}


@pytest.mark.parametrize(("message", "given"), REFUSED.items(), ids=REFUSED)
def test_settings_that_nothing_takes_are_refused_by_name(message, given):
    module, settings = given
    net = make_net(module=module, **{f"module__{name}": value for name, value in settings.items()})
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared as text below
        net.fit(X, Y)
    assert message in str(caught.value)


def test_a_module_made_for_other_columns_is_told_how_many_there_are():
    class Fixed(Net):
        def __init__(self, n_features=9, width=4):
            super().__init__(n_features, width)

    with pytest.raises(ValueError, match=r"rows of 4 features.*default n_features=9.*module__n_features=4"):
        make_net(module=Fixed).fit(X, Y)
    with pytest.raises(ValueError, match=r"rows of 4 features"):
        make_net(module=Net(9)).fit(X, Y)
    assert np.isfinite(make_net(module=Fixed, module__n_features=4).fit(X, Y).predict(X)).all()


def test_an_unknown_keyword_of_the_estimator_is_a_type_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'module_width'"):
        make_net(module=Net, module_width=3)
    with pytest.raises(ValueError, match="Invalid parameter 'module_width'"):
        make_net(module=Net).set_params(module_width=3)


def test_settings_are_parameters_that_are_set_cloned_pickled_and_shown():
    net = make_net(module=Net).set_params(module__width=3, max_iter=1)
    assert net.get_params(deep=False)["module__width"] == 3 == net.module__width
    for other in (clone(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.get_params() == net.get_params()
        other.set_params(module__width=5)
        assert net.module__width == 3
    assert "module__width=3" in repr(net)
    assert "module__width" in net._repr_html_inner()
    assert "module__width" not in make_net(module=Net).get_params()
    n_params = net.fit(X, Y).n_params_
    assert n_params == 3 * (N_FEATURES + 1) + 4
    net.set_params(module__width=5)  # after fitting: the fit stays as it is until the next
    assert net.n_params_ == n_params
    assert net.fit(X, Y).n_params_ == 5 * (N_FEATURES + 1) + 6


def test_settings_are_searched_over_in_pipelines():
    pipe = Pipeline([("scale", StandardScaler()), ("net", make_net(module=Net))])
    search = GridSearchCV(pipe, {"net__module__width": [2, 7]}, cv=2).fit(X, Y)
    best = search.best_params_["net__module__width"]
    assert search.best_estimator_[-1].n_params_ == best * (N_FEATURES + 1) + best + 1
    plain = GridSearchCV(make_net(module=Net), {"module__width": [2, 7], "module__depth": [1]}, cv=2).fit(X, Y)
    assert set(plain.cv_results_["param_module__width"]) == {2, 7}


def test_class_and_instance_made_under_the_same_seed_are_the_same_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        instance = Net(N_FEATURES, 3)
    before = copy.deepcopy(instance.state_dict())
    of_instance, of_class = make_net(module=instance).fit(X, Y), make_net(module=Net, module__width=3).fit(X, Y)
    np.testing.assert_array_equal(of_instance.predict(X), of_class.predict(X))
    assert all(torch.equal(before[name], value) for name, value in instance.state_dict().items())


def test_a_module_may_be_a_setting_and_is_not_trained_itself():
    body = nn.Linear(N_FEATURES, 1)
    before = body.weight.detach().clone()
    net = make_net(module=Wrapping, module__body=body, module__scale_=2.0)
    with pytest.raises(NotFittedError):
        check_is_fitted(net)  # module__scale_ is no fitted attribute
    predicted = net.fit(X, Y).predict(X)
    assert torch.equal(body.weight, before)
    np.testing.assert_array_equal(clone(net).fit(X, Y).predict(X), predicted)


class Patches(nn.Module):
    """Rows as images: convolution, pooling, layer norm, a residual connection."""

    def __init__(self, channels=2, side=4):
        super().__init__()
        self.side = side
        self.convolution = nn.Conv2d(1, channels, 3, padding=1)
        self.pool = nn.AvgPool2d(2)
        self.norm = nn.LayerNorm(channels * (side // 2) ** 2)
        self.inner = nn.Linear(channels * (side // 2) ** 2, channels * (side // 2) ** 2)
        self.last = nn.Linear(channels * (side // 2) ** 2, 1)

    def forward(self, rows):
        hidden = self.pool(torch.tanh(self.convolution(rows.view(-1, 1, self.side, self.side)))).flatten(1)
        return self.last(hidden + torch.tanh(self.inner(self.norm(hidden))))


class Codes(nn.Module):
    """An embedding of the first column's codes beside the other columns."""

    def __init__(self, n_features, n_codes, width=3):
        super().__init__()
        self.codes = nn.Embedding(n_codes, width)
        self.last = nn.Linear(n_features - 1 + width, 1)

    def forward(self, rows):
        return self.last(torch.cat([self.codes(rows[:, 0].long()), rows[:, 1:]], dim=1))


@pytest.mark.parametrize("kind", ["image", "codes"])
def test_telescopes_of_modules_made_from_settings_add_up(kind):
    rng = np.random.default_rng(1)
    if kind == "image":
        rows, settings = rng.normal(size=(12, 16)), {"module": Patches, "module__channels": 3}
    else:
        rows = np.column_stack([rng.integers(5, size=12), rng.normal(size=(12, 3))])
        settings = {"module": Codes, "module__n_codes": 5}
    y = rows[:, 1] - rows[:, -1]
    net = make_net(record=True, dtype="float64", section=1, max_iter=4, batch_size=6, **settings).fit(rows, y)
    rebuilt = net.kernel_weights(rows) @ y + net.offset(rows)
    np.testing.assert_allclose(rebuilt, net.predict(rows), atol=1e-5)
    assert np.abs(net.predict(rows) - next(net.staged_predict(rows, [0]))).max() > 1e-4
