"""Effective parameters of nets are right to the error stated, and answers end where the response stops being sound."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from conftest import random_rows
from sklearn.datasets import make_friedman1
from sklearn.preprocessing import scale

from telescoping_sklearn import TelescopingMLPRegressor
from telescoping_sklearn._telescope import UnstableResponseError
from telescoping_sklearn.neural import _pilot
from telescoping_sklearn.neural._pilot import Pilot, ResponseAccuracy, run_pilot
from telescoping_sklearn.neural._sections import equal_sections

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
        with pytest.raises(ValueError, match=f"passes them last at stage {last} of 1400"):
            question(X[:2])
    for name in ("kernel_weights_", "effective_params_", "degrees_of_freedom_"):
        with pytest.raises(ValueError, match=f"passes them last at stage {last} of 1400"):
            getattr(model, name)
    with pytest.raises(ValueError, match="at stage 1400"):
        model.staged_effective_params(X, [1390, 1400])
    with pytest.warns(UserWarning, match=f"nan at 2 of the stages asked for.*stage {last}"):
        p, error = model.staged_effective_params(X, [last, 1390, 1400], n_probes=4, return_se=True)
    assert np.isfinite([p[0], error[0]]).all()
    assert np.isnan([p[1:], error[1:]]).all()
    with pytest.warns(UserWarning, match="nan at 1 of"):
        assert np.isnan(model.staged_training_summary([300, 1400], n_probes=4).loc[1400]).all()


def test_every_number_that_the_response_makes_is_guarded(unstable):
    model, X, y = unstable
    telescope, V = model.telescope_, np.eye(len(y))[:, :2]
    for ask in (telescope.kernel_weights, telescope.offset):
        with pytest.raises(UnstableResponseError, match="passes them last at stage"):
            ask(X[:2])
    for offset in (False, True):
        with pytest.raises(UnstableResponseError, match="parameter_response does not exist after stage 1400"):
            telescope.parameter_response(V, offset=offset)


def test_attributes_that_do_not_exist_are_missing_to_hasattr(unstable):
    model, _, _ = unstable
    names = [name for name in model._costly if name in ("kernel_weights_", "effective_params_", "degrees_of_freedom_")]
    assert len(names) == 3
    assert not any(hasattr(model, name) for name in [*names, "effective_params_se_", "degrees_of_freedom_se_"])
    assert all(hasattr(model, name) for name in ("telescope_", "last_sound_stage_", "section_bias_", "section_gap_"))


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
    assert pilot.sound.all()
    telescope.y = telescope.y[::-1].copy()  # labels that the net never saw: the check must not pass
    assert not run_pilot(telescope, np.array([10, telescope.n_stages])).sound[-1]


def pilot_of(residuals, gaps=0.0):
    """A pilot of two training rows with given residuals of its random columns."""
    n = len(residuals)
    left = np.tile(np.asarray(residuals, dtype=float)[:, None, None], (1, 2, 4))
    return Pilot(np.arange(1, n + 1), left, np.ones((n, 4, 4)) - left[:, :1], np.full((n, 4), gaps))


@pytest.mark.parametrize(
    ("residuals", "sound"),
    [
        ([1.0, 0.9, 0.95, 0.7], [True] * 4),
        ([1.0, 0.2, 0.0, 0.5, 0.1, 0.0], [True, True, True, False, True, True]),  # an interpolating net that spikes
        ([9.0, 4.0, 1.2, 1.0], [True] * 4),  # the first steps of an adaptive optimiser
        ([1.0, 0.5, 3.0, np.inf, np.nan], [True, True, False, False, False]),
    ],
)
def test_residuals_may_not_rise(residuals, sound):
    pilot = pilot_of(residuals)
    assert pilot.sound.tolist() == sound
    accuracy = ResponseAccuracy(pilot.stages, np.zeros((len(sound), 2)), pilot.sound)
    assert accuracy.last_sound == np.flatnonzero(sound)[-1] + 1
    assert accuracy.is_sound(pilot.stages).tolist() == sound


def test_a_huge_change_leaves_no_rounding_error_in_later_ones():
    coarse, fine = pilot_of([0.5] * 40), pilot_of([0.5] * 40)
    coarse.random[5] = 1e8
    change = _pilot._change(coarse, fine)
    assert np.isfinite(change).all()
    assert (change[3:8] > 1e4).all()
    np.testing.assert_array_equal(change[8:], 0)


def test_the_reconstruction_of_the_labels_must_stay_with_the_net():
    assert pilot_of([1.0, 0.9], gaps=0.2).sound.all()
    assert not pilot_of([1.0, 0.9], gaps=0.3).sound.any()


def test_a_stage_is_as_sound_as_its_neighbours():
    errors = np.array([[0.0, 0.0], [0.1, 0.3], [0.2, 0.4]])
    accuracy = ResponseAccuracy(np.array([1, 10, 20]), errors, np.array([True, True, False]))
    assert accuracy.is_sound(np.array([1, 5, 10, 15, 20])).tolist() == [True, True, True, False, False]
    np.testing.assert_allclose(accuracy.relative_error(np.array([10, 15])), [0.3, 0.35])
    np.testing.assert_allclose(accuracy.relative_error(np.array([10, 15]), training=True), [0.1, 0.15])


def test_sections_are_cut_to_single_updates_where_a_response_fails_before_they_are_given_up():
    tried = []

    def sound_over_single_updates(sections, stages):
        tried.append(sections)
        longer = sections.lengths[np.searchsorted(sections.ends, stages)] > 1
        pilot = pilot_of(np.where(longer & (stages > 8), 3.0, 0.5))
        return replace(pilot, stages=stages)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pilot, "run_pilot", sound_over_single_updates)
        sections, accuracy = _pilot.refined_sections(lambda sections: sections, equal_sections(256, 64), 0.02)
    assert sections.lengths.max() == 1
    assert accuracy.last_sound == 256
    assert accuracy.sound.all()
    assert len(tried) <= 4


def test_a_response_that_never_passes_is_refused_everywhere(rows, monkeypatch):
    X, y, others = rows
    model = fitted(X, y)
    nothing = ResponseAccuracy(np.array([model.n_stages_]), np.zeros(1), np.zeros(1, dtype=bool))
    monkeypatch.setattr(model.telescope_, "_accuracy", nothing)
    with pytest.raises(ValueError, match="passes them last at stage 0"):
        model.staged_effective_params(others)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_pilots_work_for_tiny_runs_and_constant_labels():
    X, y = random_rows(3, seed=0)
    for labels in (y, np.ones(3)):
        model = TelescopingMLPRegressor((3,), max_iter=2, random_state=0).fit(X, labels)
        assert model.last_sound_stage_ == model.n_stages_ == 2
        assert np.isfinite(model.effective_params_)
