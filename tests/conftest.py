"""Small fitted estimators of both families, made once, and the data that they were fitted on."""

import os
from importlib import import_module

# OpenMP reads these when LightGBM and torch are loaded. By default its idle threads spin, which makes small fits a
# hundred times slower where processes share the cores; and every worker of a parallel run would take all cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pytest

from telescoping_sklearn import TelescopingGBTRegressor, TelescopingMLPRegressor
from telescoping_sklearn.benchmark import BenchmarkStudy, FailedTasksWarning, run_benchmark

#: What a test may need beyond Python packages that the test extra always brings.
OPTIONAL = {"browser", "dask", "xgboost", "catboost"}
#: What of it must be there: TELESCOPING_REQUIRE=browser,dask makes a skip for want of one fail.
REQUIRED = set(filter(None, os.environ.get("TELESCOPING_REQUIRE", "").split(",")))

N_TRAIN, N_QUERY, N_FEATURES = 40, 15, 4


def pytest_configure(config):
    if not REQUIRED <= OPTIONAL:
        unknown = ", ".join(sorted(REQUIRED - OPTIONAL))
        raise pytest.UsageError(f"TELESCOPING_REQUIRE takes {', '.join(sorted(OPTIONAL))}, got {unknown}")


def skip_without(what, reason):
    """Skip a test, or the module being collected, for want of something optional; fail where it is required."""
    assert what in OPTIONAL
    if what in REQUIRED:
        pytest.fail(f"{reason}, and TELESCOPING_REQUIRE asks for {what}")
    pytest.skip(reason, allow_module_level=True)


def import_or_skip(library):
    """Import a library that has an extra of its own; skip, or fail where it is required, without it."""
    try:
        return import_module(library)
    except ImportError:
        skip_without(library, f"pip install telescoping_sklearn[{library}]")


def random_rows(n_rows=N_TRAIN, seed=0, n_features=N_FEATURES):
    """Rows with labels of unit scale that are a smooth function of the columns, and noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, n_features))
    return X, np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] ** 2 + 0.3 * rng.normal(size=n_rows)


def make_trees(**settings):
    """Unfitted trees that split on few rows."""
    return TelescopingGBTRegressor(
        **{"n_estimators": 12, "num_leaves": 6, "min_child_samples": 3, "n_jobs": 1, "random_state": 0} | settings
    )


def make_net(**settings):
    """An unfitted net, trained in double precision for a fixed number of updates that are small."""
    return TelescopingMLPRegressor(
        **{
            "hidden_layer_sizes": (10, 10),
            "activation": "tanh",
            "optimizer": "sgd",
            "learning_rate_init": 0.02,
            "momentum": 0.5,
            "batch_size": 16,
            "max_iter": 12,
            "tol": 0.0,
            "n_iter_no_change": 10**6,
            "section": 1,
            "dtype": "float64",
            "random_state": 0,
        }
        | settings
    )


def tree_tolerance(y):
    """The largest gap between trees and what their weights rebuild; only float64's own digits grow with the mean."""
    return 1e-5 * np.std(y) + 1e-6 * np.abs(y - np.mean(y)).max() + 16 * 2.0**-52 * np.abs(y).max()


FAMILIES = {"trees": make_trees, "net": make_net}
FITTED = {
    "trees": make_trees(),
    "trees-ridge": make_trees(reg_lambda=2.0, colsample_bytree=0.5, learning_rate=0.3),
    "trees-bags": make_trees(subsample=0.6, subsample_freq=2, path_smooth=2.0),
    "trees-thresholds": make_trees(reg_alpha=0.5, max_delta_step=0.6, learning_rate=0.3),
    "trees-huber": make_trees(objective="huber", alpha=0.5, learning_rate=0.3),
    "trees-median": make_trees(objective="regression_l1", learning_rate=0.3),
    "net-tanh": make_net(),
    "net-gelu-adamw": make_net(activation="gelu", optimizer="adamw", learning_rate_init=1e-3, weight_decay=0.1),
    "net-sections": make_net(rule="gauss2", section=4),
}


@pytest.fixture(scope="session")
def data():
    """Training rows and their labels."""
    return random_rows()


@pytest.fixture(scope="session")
def query():
    """Rows that were not trained on."""
    return random_rows(N_QUERY, seed=1)[0]


@pytest.fixture(scope="module")
def rows():
    """Sixty training rows of tree tests, and their labels."""
    return random_rows(60, seed=3)


@pytest.fixture(scope="module")
def others():
    """Twenty rows beside `rows`."""
    return random_rows(20, seed=4)[0]


@pytest.fixture(params=FAMILIES)
def make(request):
    """A function that makes an unfitted estimator of a family, settings allowed."""
    return FAMILIES[request.param]


@pytest.fixture(scope="session", params=FITTED)
def fitted(request, data):
    """A fitted estimator; tests leave it as it is."""
    return FITTED[request.param].fit(*data)


# -- results of small studies ------------------------------------------------------------------------------------------

#: What a page must show and never run.
HOSTILE = '</script><img src=x onerror="hacked=1">\'{{7*7}}&amp;$x$'
SMALL = {
    "n_seeds": 2,
    "max_train": 200,
    "test_size": 60,
    "proportions": (0.0, 0.5, 1.0),
    "n_probes": 2,
    "kernel_stages": 2,
}
SMALL_NET = {"settings": {"hidden_layer_sizes": (6,), "max_iter": 2}}
SMALL_TREES = {"settings": {"n_estimators": 5}}


@pytest.fixture(scope="session")
def small_results(tmp_path_factory):
    """A file of results: our models, one that is no telescope and one that fails; mixtures, deciles and a shift."""
    path = tmp_path_factory.mktemp("small") / "results.sqlite"
    models = {"net": SMALL_NET, "trees": SMALL_TREES, "ridge": "sklearn.linear_model.Ridge"}
    models["broken"] = {"estimator": "sklearn.linear_model.Ridge", "settings": {"solver": "lbfgs"}}
    with pytest.warns(FailedTasksWarning):
        run_benchmark(BenchmarkStudy(models=models, shift={"column": "yrbuilt"}, **SMALL), path)
    return path


@pytest.fixture(scope="session")
def hostile_results(tmp_path_factory):
    """A file of results in which the data set, its columns, the models and a file have names that attack a page."""
    folder = tmp_path_factory.mktemp("hostile")
    X, y = random_rows(400)
    table = pd.DataFrame(X, columns=[f"{HOSTILE}{number}" for number in range(X.shape[1])])
    file = folder / "<img src=x onerror='hacked=1'>.csv"
    table.assign(y=y).to_csv(file, index=False)
    models = {HOSTILE: {"estimator": "trees", **SMALL_TREES}, f"{HOSTILE} 2": "sklearn.linear_model.Ridge"}
    models[f"{HOSTILE} 3"] = {"estimator": "lightgbm.LGBMRegressor", "settings": {"objective": HOSTILE}}
    data = [(HOSTILE, table, y), {"path": str(file), "target": "y"}]
    study = BenchmarkStudy(data=data, models=models, **SMALL | {"n_seeds": 1, "test_size": 20})
    with pytest.warns(FailedTasksWarning):
        run_benchmark(study, folder / "results.sqlite")
    return folder / "results.sqlite"
