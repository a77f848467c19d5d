"""A parameter may be an int where it could be a float, and any of NumPy's numbers: the fit is the same."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_net, make_trees, random_rows

from tests.fuzz._cases import number_types

#: Numbers where the default is None, a name or zero.
TREES = dict.fromkeys(("bagging_seed", "feature_fraction_seed", "extra_seed", "subsample_freq"), 1)
TREES |= {"early_stopping_rounds": 2}
NETS = {"init_scale": 0.3, "validation_fraction": 0.3, "batch_size": 8, "section": 2, "record_budget": 10**8}
NETS |= {"n_jobs": 1, "n_iter_no_change": 3, "warmup_steps": 2}


def numbers(model, more):
    """Every parameter that may be a number, with one that is not zero."""
    found = {name: value for name, value in model.get_params().items() if number_types(value)} | more
    return {name: value if value or isinstance(value, bool) else type(value)(1) for name, value in found.items()}


def answers(model, X, y):
    model.fit(X, y)
    return [model.predict(X), model.kernel_weights(X), model.kernel_weights_]


def assert_same_in_every_type(make, name, value, X, y):
    expected = answers(make(**{name: value}), X, y)
    kinds = number_types(value)
    assert len(kinds) > 1
    for given in kinds:
        for found, answer in zip(answers(make(**{name: given}), X, y), expected, strict=True):
            np.testing.assert_array_equal(found, answer, err_msg=repr(given))


@pytest.mark.parametrize(("name", "value"), numbers(make_trees(), TREES).items())
def test_trees_are_the_same_for_every_type_of_a_number(name, value):
    X, y = random_rows()
    many = pd.Categorical(np.arange(40) % 6)
    losses = {
        "alpha": "huber",
        "fair_c": "fair",
        "poisson_max_delta_step": "poisson",
        "tweedie_variance_power": "tweedie",
    }
    settings = {"objective": losses.get(name), "min_data_per_group": 1, "subsample": 0.7, "subsample_freq": 1}
    if name in ("validation_fraction", "early_stopping_rounds"):
        settings["early_stopping_rounds"] = 2

    def make(**given):
        return make_trees(**settings | given)

    assert_same_in_every_type(make, name, value, pd.DataFrame(X).assign(many=many).rename(columns=str), np.exp(y))


@pytest.mark.parametrize(("name", "value"), numbers(make_net(), NETS).items())
def test_nets_are_the_same_for_every_type_of_a_number(name, value):
    adam = name in ("eps", "amsgrad", "section_tol")

    def make(**given):
        settings = {"optimizer": "adam" if adam else "sgd", "section": "auto" if adam else 1, "max_iter": 3}
        return make_net(**settings | {"early_stopping": name == "validation_fraction"} | given)

    assert_same_in_every_type(make, name, value, *random_rows())


@pytest.mark.parametrize("betas", [(0, 0.9), (np.float32(0), np.float64(0.9)), [np.int64(0), 0.9]], ids=str)
def test_decay_rates_may_be_ints(betas):
    X, y = random_rows()
    expected = answers(make_net(optimizer="adam", betas=(0.0, 0.9)), X, y)
    for found, answer in zip(answers(make_net(optimizer="adam", betas=betas), X, y), expected, strict=True):
        np.testing.assert_array_equal(found, answer)
