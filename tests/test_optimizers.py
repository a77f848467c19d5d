"""Optimisers with a name: what their classes are given."""

import inspect

import pytest
import torch
from conftest import make_net, random_rows

from telescoping_sklearn import TelescopingMLPRegressor
from telescoping_sklearn.neural import _optimizers
from telescoping_sklearn.neural._optimizers import OPTIMIZERS, NamedOptimizer
from telescoping_sklearn.neural._update_rules import update_rule

CHANGED = {
    "momentum": 0.4,
    "dampening": 0.3,
    "nesterov": True,
    "betas": (0.8, 0.7),
    "eps": 1e-3,
    "amsgrad": True,
    "weight_decay": 0.2,
}


def group_of(**parameters):
    """The settings with which torch's optimiser starts."""
    model = TelescopingMLPRegressor(**parameters)
    optimizer = model._optimizer_class()([torch.ones(2, requires_grad=True)], **model._optimizer_settings())
    return optimizer.param_groups[0]


@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_reaches_every_optimiser_that_takes_it_and_no_other(name, changed):
    """A parameter of the estimator is a setting of every class that has one of this name."""
    needed = {"momentum": 0.4} if changed == "nesterov" else {}
    before, after = group_of(optimizer=name, **needed), group_of(optimizer=name, **needed | {changed: CHANGED[changed]})
    moved = {setting for setting in before if setting != "params" and before[setting] != after[setting]}
    takes = changed in inspect.signature(OPTIMIZERS[name].optimizer).parameters
    assert moved == ({changed} if takes else set())
    if takes:
        assert after[changed] == CHANGED[changed]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_name_is_a_class_with_a_rule(name):
    assert group_of(optimizer=name, learning_rate_init=0.3)["lr"] == 0.3
    update_rule(OPTIMIZERS[name].optimizer, group_of(optimizer=name))


def test_a_new_name_is_given_its_own_settings_alone(monkeypatch):
    """An optimiser that is no SGD need not be an Adam."""
    entry = NamedOptimizer(torch.optim.SGD, lambda model: {"momentum": model.eps})
    monkeypatch.setitem(_optimizers.OPTIMIZERS, "new", entry)
    model = make_net(optimizer="new", momentum=0.0, eps=0.25)
    assert model._optimizer_settings() == {"lr": model.learning_rate_init, "momentum": 0.25}
    constraints = model._parameter_constraints | {"optimizer": [str]}
    monkeypatch.setattr(type(model), "_parameter_constraints", constraints)
    X, y = random_rows(20)
    expected = make_net(optimizer="sgd", momentum=0.25).fit(X, y)
    assert (model.fit(X, y).predict(X) == expected.predict(X)).all()
