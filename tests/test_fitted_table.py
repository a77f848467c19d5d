"""The tables of docs/fitted_models.rst: every row is fitted, and its answer compared."""

import re
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest
import sklearn.ensemble
import sklearn.tree
from conftest import random_rows, tree_tolerance
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression

from telescoping_sklearn import telescope

PAGE = (Path(__file__).parents[1] / "docs" / "fitted_models.rst").read_text()
ROW = re.compile(r"^   \* - (\w+)\n     - (.+)\n     - (exact|derivative|refused)\b", re.MULTILINE)
ROWS = ROW.findall(PAGE)
#: Small and fast, by the name of a parameter that a model has.
SMALL = {
    "n_estimators": 6,
    "max_iter": 6,
    "min_samples_leaf": 3,
    "min_child_samples": 5,
    "min_data_per_group": 3,
    "verbosity": -1,
}
WORDS = {"defaults", "sample weights", "missing values", "categories"}
N = 100


def model_class(name):
    return next(getattr(module, name) for module in (sklearn.ensemble, sklearn.tree, lightgbm) if hasattr(module, name))


def make(name, setting):
    """The model of a row."""
    kind = model_class(name)
    takes = kind().get_params()
    small = {key: value for key, value in SMALL.items() if key in takes}
    if name.startswith("LGBM"):
        small |= {"verbosity": -1, "n_jobs": 1}
    told = {"DummyRegressor": DummyRegressor, "LinearRegression": LinearRegression}
    told["LogisticRegression"] = LogisticRegression
    settings = {} if setting in WORDS else eval(f"dict({setting.strip('`')})", told)
    if setting == "categories" and name.startswith("Hist"):
        settings = {"categorical_features": "from_dtype"}
    return kind(**small | settings)


def data(name, setting):
    """Rows, labels and weights of a row."""
    X, y = random_rows(N, seed=3)
    y, weights = 6 + y, np.random.default_rng(0).choice([0.5, 1.0, 3.0], N) if setting == "sample weights" else None
    if setting == "missing values":
        X[::7, 1] = np.nan
    if setting == "categories":
        X = pd.DataFrame(X, columns=list("abcd")).assign(kind=pd.Categorical(np.where(y > 6, "dear", "cheap")))
    return X, np.where(y > np.median(y), "high", "low") if name.endswith("Classifier") else y, weights


def test_the_tables_were_read():
    names = {name for name, _, _ in ROWS}
    assert len(ROWS) == PAGE.count("\n   * - ") - PAGE.count("   * - Model") >= 70
    assert {"RandomForestRegressor", "GradientBoostingRegressor", "HistGradientBoostingRegressor"} <= names
    assert {"LGBMRegressor", "LGBMClassifier", "ExtraTreeRegressor"} <= names


@pytest.mark.filterwarnings("ignore::UserWarning")  # of LightGBM, about settings that are refused
@pytest.mark.parametrize(("name", "setting", "answer"), ROWS, ids=[f"{name} {setting}" for name, setting, _ in ROWS])
def test_every_row_is_what_it_says(name, setting, answer):
    X, y, weights = data(name, setting)
    if setting == "``objective='multiclassova'``":
        y = np.digitize(np.arange(N), [30, 60])
    model = make(name, setting).fit(X, y, sample_weight=weights)
    if answer == "refused":
        named = setting.strip("`").split("=")[0]
        with pytest.raises(ValueError, match=rf"{LIBRARY_NAMES.get(named, named)}\w*="):
            telescope(model, X, y, weights)
        return
    explained = telescope(model, X, y, weights)
    assert explained.telescope_.is_smoother == (answer == "exact")
    predicted = model.predict_proba(X)[:, 1] if name.endswith("Classifier") else model.predict(X)
    np.testing.assert_allclose(explained.predict(X), predicted, rtol=1e-10)
    labels = explained.telescope_.y
    if answer == "exact":
        rebuilt = explained.kernel_weights(X) @ labels + explained.offset(X)
        np.testing.assert_allclose(rebuilt, predicted, atol=tree_tolerance(labels))
    else:
        assert np.abs(explained.kernel_weights(X)).max() > 1e-3
        with pytest.raises(ValueError, match="squared error"):
            explained.effective_params(X)


#: Parameters whose name in LightGBM's text differs from that of the estimator.
LIBRARY_NAMES = {"boosting_type": "boosting"}
