"""Effective parameters on any rows and on the training rows, asked together, are those asked alone."""

import numpy as np
import pytest
from conftest import make_net, random_rows
from sklearn.ensemble import RandomForestRegressor
from test_functional import Residual, seeded

from telescoping_sklearn import TelescopingGBTRegressor, telescope
from telescoping_sklearn.neural._tangent_telescope import TangentTelescope

NETS = {
    "kernel": {"momentum": 0.0},
    "kernel, sections": {"momentum": 0.0, "section": 5, "rule": "gauss2"},
    "parameters": {"optimizer": "adam", "learning_rate_init": 1e-2},
    "parameters, sections": {"optimizer": "adamw", "learning_rate_init": 1e-2, "section": 5},
    "any module": {"momentum": 0.5, "module": lambda n_features: seeded(lambda: Residual(n_features))},
    "early stopping": {"early_stopping": True},
}


def forest(X, y, weights):
    return telescope(RandomForestRegressor(8, random_state=0).fit(X, y, sample_weight=weights), X, y, weights)


MODELS = {
    name: lambda X, y, w, given=given: make_net(**given, max_iter=4).fit(X, y, sample_weight=w)
    for name, given in NETS.items()
} | {
    "trees": lambda X, y, w: TelescopingGBTRegressor(n_estimators=9, min_child_samples=2).fit(X, y, sample_weight=w),
    "forest": forest,
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    X, y = random_rows()
    weights = np.ones(len(y))
    weights[:3] = 0 if request.param != "forest" else 1
    return MODELS[request.param](X, y, weights)


@pytest.mark.parametrize("n_probes", [None, 5])
@pytest.mark.parametrize("subsets", [None, [[0, 2], [1, 3, 4]]])
def test_together_is_as_alone(model, n_probes, subsets):
    others, stages = random_rows(6, seed=3)[0], [1, 3, model.n_stages_]
    asked = {"n_probes": n_probes, "return_se": True}
    on_rows, on_training = model.staged_effective_params(others, stages, **asked, subsets=subsets, with_train=True)
    same = {"rtol": 1e-6, "atol": 1e-10}
    np.testing.assert_allclose(on_rows, model.staged_effective_params(others, stages, **asked, subsets=subsets), **same)
    summary = model.staged_training_summary(stages, n_probes=n_probes)
    np.testing.assert_allclose(on_training, summary[["effective_params", "effective_params_se"]].T, **same)
    last, last_on_training = model.effective_params(others, **asked, subsets=subsets, with_train=True)
    np.testing.assert_allclose(last, [part[-1] for part in on_rows], **same)
    np.testing.assert_allclose(last_on_training, [part[-1] for part in on_training], **same)
    plain = model.effective_params(others, n_probes=n_probes, subsets=subsets, with_train=True)
    np.testing.assert_array_equal(plain[0], last[0])
    assert plain[1] == last_on_training[0]


def test_labels_of_nets_are_carried_once(monkeypatch):
    X, y = random_rows()
    model = make_net(momentum=0.5, max_iter=2).fit(X, y)
    assert model.last_sound_stage_ == model.n_stages_
    passes, carry = [], TangentTelescope._carry

    def counting(self, *args, **kwargs):
        passes.append(args)
        return carry(self, *args, **kwargs)

    monkeypatch.setattr(TangentTelescope, "_carry", counting)
    model.effective_params(X[:5], n_probes=4, with_train=True)
    assert len(passes) == 1
