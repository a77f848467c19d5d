"""Effective parameters of nets are right to the error stated, and answers end where the response stops being sound."""

import warnings

import numpy as np
import pytest
from conftest import random_rows
from sklearn.datasets import make_friedman1
from sklearn.preprocessing import scale

from telescoping_sklearn import TelescopingMLPRegressor
from telescoping_sklearn.neural._pilot import ResponseAccuracy, run_pilot

SGD = {"optimizer": "sgd", "learning_rate_init": 0.1}
#: Usual learning rates, both families of optimisers, small and large initial weights.
SETTINGS = {
    "sgd": SGD,
    "sgd, full batch": SGD | {"batch_size": "full", "max_iter": 80},
    "momentum": SGD | {"learning_rate_init": 0.02, "momentum": 0.9},
    "nesterov, gelu": SGD | {"learning_rate_init": 0.02, "momentum": 0.9, "nesterov": True, "activation": "gelu"},
    "momentum, decay": SGD | {"learning_rate_init": 0.02, "momentum": 0.9, "weight_decay": 0.01, "init_scale": 3.0},
    "adam": {"learning_rate_init": 1e-3},
    "adam, fast": {"learning_rate_init": 4e-3},
    "adam, full batch": {"learning_rate_init": 2e-3, "batch_size": "full", "max_iter": 80},
    "adam, tanh": {"learning_rate_init": 3e-3, "activation": "tanh"},
    "adamw": {"optimizer": "adamw", "learning_rate_init": 2e-3, "weight_decay": 0.1, "betas": (0.9, 0.99)},
    "adamw, large": {"optimizer": "adamw", "learning_rate_init": 1e-3, "weight_decay": 0.1, "init_scale": 3.0},
}


@pytest.fixture(scope="module")
def rows():
    X, y = make_friedman1(140, noise=1.0, random_state=0)
    X, y = scale(X), scale(y)
    return X[:110], y[:110], X[110:]


def fitted(X, y, **settings):
    given = {"hidden_layer_sizes": (16, 16), "batch_size": 22, "max_iter": 20, "n_iter_no_change": np.inf}
    return TelescopingMLPRegressor(random_state=0, **(given | settings)).fit(X, y)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_effective_params_are_right_to_the_error_stated(rows, settings):
    X, y, others = rows
    model = fitted(X, y, **settings)
    stages = [model.n_stages_ // 3, model.n_stages_]
    on_others, error = model.staged_effective_params(others, stages, n_probes=None, return_se=True)
    summary = model.staged_training_summary(stages, n_probes=None)
    assert model.last_sound_stage_ == model.n_stages_
    assert model.section_bias_ < 0.1
    model.set_params(section=1)
    assert np.all(np.abs(model.staged_effective_params(others, stages, n_probes=None) - on_others) <= error + 1e-9)
    single = model.staged_training_summary(stages, n_probes=None)
    for name in ("effective_params", "degrees_of_freedom"):
        assert np.all(np.abs(summary[name] - single[name]) <= summary[f"{name}_se"] + 1e-9)
        assert (single[f"{name}_se"] == 0).all()
    assert model.section_bias_ == 0


@pytest.mark.parametrize("settings", [SETTINGS["momentum"], SETTINGS["adam"]], ids=["momentum", "adam"])
def test_long_sections_that_are_given_state_their_error(rows, settings):
    X, y, others = rows
    model = fitted(X, y, section=40, **settings)
    p, error = model.effective_params(others, n_probes=None, return_se=True)
    model.set_params(section=1)
    truth, exact = model.effective_params(others, n_probes=None, return_se=True)
    assert exact == 0 < abs(p - truth) <= error


def test_the_error_of_sections_joins_that_of_probes(rows):
    X, y, others = rows
    model = fitted(X, y, section=40)
    estimate, error = model.effective_params(others, n_probes=8, return_se=True)
    by_sections = model.section_bias_ * estimate
    model.set_params(section=1)
    single, sampled = model.effective_params(others, n_probes=8, return_se=True)
    assert error == pytest.approx(np.hypot(by_sections, sampled * estimate / single), rel=0.2)
    assert error > max(by_sections, 0.8 * sampled)


# A net trained far past interpolation by Adam: with its denominators held, the response grows without bound.


@pytest.fixture(scope="module", params=[1, 100, "auto"], ids=lambda section: f"section={section}")
def unstable(request):
    X, y = make_friedman1(60, n_features=5, noise=1.0, random_state=0)
    X, y = scale(X), scale(y)
    settings = {"hidden_layer_sizes": (30, 30), "learning_rate_init": 3e-3, "batch_size": "full", "max_iter": 1400}
    return fitted(X, y, section=request.param, **settings), X, y


def test_answers_end_where_the_response_stops_being_sound(unstable):
    model, X, _ = unstable
    last = model.last_sound_stage_
    assert 600 <= last < model.n_stages_ == 1400
    for question in (model.kernel_weights, model.offset, model.effective_params, model.top_examples):
        with pytest.raises(ValueError, match=f"only up to stage {last} of 1400"):
            question(X[:2])
    for name in ("kernel_weights_", "effective_params_", "degrees_of_freedom_"):
        with pytest.raises(ValueError, match=f"only up to stage {last} of 1400"):
            getattr(model, name)
    with pytest.raises(ValueError, match="stage 1390"):
        model.staged_effective_params(X, [1390, 1400])
    with pytest.warns(UserWarning, match=f"nan at 2 of the stages asked for.*stage {last}"):
        p, error = model.staged_effective_params(X, [last, 1390, 1400], n_probes=4, return_se=True)
    assert np.isfinite([p[0], error[0]]).all()
    assert np.isnan([p[1:], error[1:]]).all()
    with pytest.warns(UserWarning, match="nan at 1 of"):
        assert np.isnan(model.staged_training_summary([300, 1400], n_probes=4).loc[1400]).all()


def test_an_interpolating_net_has_its_rows_number_of_parameters_while_sound(unstable):
    model, _, y = unstable
    summary = model.staged_training_summary([600], n_probes=None)
    np.testing.assert_allclose(summary[["effective_params", "degrees_of_freedom"]], len(y), rtol=0.02)


def test_what_the_response_does_not_touch_is_answered_to_the_end(unstable):
    model, X, _ = unstable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = model.approximation_error(X, [1400])
        assert model.breakdown(X[:2], 3).notna().all(axis=None)
        assert np.isfinite(model.kernel_norm_ratio(X[:5]))
    assert error.telescoping_mean < 0.1


def test_the_pilot_knows_the_labels_column(rows):
    X, y, _ = rows
    telescope = fitted(X, y, section=1, activation="gelu", dtype="float64").telescope_
    pilot = run_pilot(telescope, np.array([10, telescope.n_stages]))
    assert pilot.gaps.max() < 1e-3
    assert pilot.last_sound == telescope.n_stages
    telescope.y = telescope.y[::-1].copy()  # labels that the net never saw: the check must not pass
    assert run_pilot(telescope, np.array([10, telescope.n_stages])).last_sound < telescope.n_stages


def test_a_response_that_never_passes_is_refused_everywhere(rows, monkeypatch):
    X, y, others = rows
    model = fitted(X, y)
    nothing = ResponseAccuracy(np.array([model.n_stages_]), np.zeros(1), 0)
    monkeypatch.setattr(model.telescope_, "_accuracy", nothing)
    with pytest.raises(ValueError, match="only up to stage 0"):
        model.staged_effective_params(others)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_pilots_work_for_tiny_runs_and_constant_labels():
    X, y = random_rows(3, seed=0)
    for labels in (y, np.ones(3)):
        model = TelescopingMLPRegressor((3,), max_iter=2, random_state=0).fit(X, labels)
        assert model.last_sound_stage_ == model.n_stages_ == 2
        assert np.isfinite(model.effective_params_)
