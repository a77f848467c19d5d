"""What rules of optimisers declare beside their step: built-in ones, those of users, and those of groups."""

from itertools import product

import pytest
import torch

from telescoping_sklearn.neural import _update_rules, register_update_rule
from telescoping_sklearn.neural._grouped_update_rule import GroupSlice, run_update_rule
from telescoping_sklearn.neural._influence import MovingDenominators
from telescoping_sklearn.neural._update_rules import UpdateRule, group_settings, update_rule

CAPABILITIES = {
    "transposed_step": "has_adjoint",
    "moving_step": "has_moving_step",
    "transposed_moving_step": "has_moving_adjoint",
}
BUILT_IN = {
    "plain": (torch.optim.SGD, {}, "is_plain has_adjoint"),
    "momentum": (torch.optim.SGD, {"momentum": 0.5}, "has_adjoint"),
    "decay": (torch.optim.SGD, {"weight_decay": 0.5}, "has_adjoint"),
    "adam": (torch.optim.Adam, {}, "has_adjoint has_moving_step has_moving_adjoint"),
    "adamw": (torch.optim.AdamW, {"amsgrad": True}, "has_adjoint has_moving_step has_moving_adjoint"),
}


def declared(rule):
    assert isinstance(rule, UpdateRule)
    return {name for name in ("is_plain", *CAPABILITIES.values()) if getattr(rule, name)}


def one_group(settings):
    return [GroupSlice(slice(0, 4), 1, settings)]


def two_groups(settings):
    return [GroupSlice(slice(0, 2), 0, settings), GroupSlice(slice(2, 4), 1, settings)]


@pytest.mark.parametrize(("optimizer", "settings", "expected"), BUILT_IN.values(), ids=BUILT_IN)
def test_built_in_rules_declare_what_they_can(optimizer, settings, expected):
    (group,) = optimizer([torch.ones(4, requires_grad=True)], **settings).param_groups
    own, rates = group_settings(group), [[0.1, 0.2]]
    assert declared(run_update_rule(optimizer, one_group(own), rates, 4)) == set(expected.split())
    assert declared(run_update_rule(optimizer, two_groups(own), rates, 4)) == set(expected.split()) - {"is_plain"}


@pytest.mark.parametrize("of_base", [False, True])
@pytest.mark.parametrize("is_plain", [None, False, True])
@pytest.mark.parametrize("methods", [*product([False, True], repeat=3)])
def test_methods_of_a_users_rule_are_its_capabilities(monkeypatch, methods, is_plain, of_base):
    """A user's class has the methods alone; one that derives from the base class declares them."""
    monkeypatch.setattr(_update_rules, "_REGISTRY", dict(_update_rules._REGISTRY))
    given = {method: flag for (method, flag), has in zip(CAPABILITIES.items(), methods, strict=True) if has}
    body = {method: lambda self, *arguments, method=method: (method, len(arguments)) for method in ("step", *given)}
    body |= {} if is_plain is None else {"is_plain": is_plain}
    body |= dict.fromkeys(given.values(), True) if of_base else {}
    rule_class = type("Rule", (UpdateRule,) if of_base else (), body)
    register_update_rule(torch.optim.Rprop, lambda settings: rule_class())
    rule = update_rule(torch.optim.Rprop, {})
    assert declared(rule) == {*given.values(), *(["is_plain"] if is_plain else [])}
    assert rule.step(1, 2, 3, 4, 5) == ("step", 5)
    for method in given:
        assert getattr(rule, method)(1, 2, 3, 4) == (method, 4)
    groups = run_update_rule(torch.optim.Rprop, two_groups({}), [[0.1, 0.2]], 4)
    assert declared(groups) == set(given.values())
    for each in (rule, groups):
        moving = MovingDenominators(each, None, None)
        assert declared(moving) == ({"has_adjoint"} if "transposed_moving_step" in given else set())


def test_a_group_whose_rule_lacks_a_method_takes_it_from_all(monkeypatch):
    monkeypatch.setattr(_update_rules, "_REGISTRY", dict(_update_rules._REGISTRY))

    class Reversible(UpdateRule):
        has_adjoint = True

    register_update_rule(torch.optim.Rprop, lambda settings: Reversible() if settings["reversible"] else UpdateRule())
    slices = [GroupSlice(slice(number, number + 1), number, {"reversible": number > 0}) for number in range(2)]
    assert not run_update_rule(torch.optim.Rprop, slices, [[0.1, 0.1]], 2).has_adjoint
    assert run_update_rule(torch.optim.Rprop, slices[1:], [[0.1, 0.1]], 2).has_adjoint


@pytest.mark.parametrize("method", ["step", *CAPABILITIES])
def test_what_a_rule_does_not_declare_is_not_computed(method):
    arguments = (None,) * {"step": 5, "transposed_step": 4, "moving_step": 6, "transposed_moving_step": 5}[method]
    with pytest.raises(NotImplementedError):
        getattr(UpdateRule(), method)(*arguments)
