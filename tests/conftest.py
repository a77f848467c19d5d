"""Small fitted estimators of both families, made once, and the data that they were fitted on."""

import os

import numpy as np
import pytest

from telescoping_sklearn import TelescopingGBTRegressor, TelescopingMLPRegressor

#: What a test may need beyond Python packages that the test extra always brings.
OPTIONAL = {"browser", "dask"}
#: What of it must be there: TELESCOPING_REQUIRE=browser,dask makes a skip for want of either fail.
REQUIRED = set(filter(None, os.environ.get("TELESCOPING_REQUIRE", "").split(",")))

N_TRAIN, N_QUERY, N_FEATURES = 40, 15, 4


def pytest_configure(config):
    if not REQUIRED <= OPTIONAL:
        unknown = ", ".join(sorted(REQUIRED - OPTIONAL))
        raise pytest.UsageError(f"TELESCOPING_REQUIRE takes {', '.join(sorted(OPTIONAL))}, got {unknown}")


def skip_without(what, reason):
    """Skip a test for want of something optional, or fail where it is required."""
    assert what in OPTIONAL
    if what in REQUIRED:
        pytest.fail(f"{reason}, and TELESCOPING_REQUIRE asks for {what}")
    pytest.skip(reason)


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


FAMILIES = {"trees": make_trees, "net": make_net}
FITTED = {
    "trees": make_trees(),
    "trees-ridge": make_trees(reg_lambda=2.0, colsample_bytree=0.5, learning_rate=0.3),
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


@pytest.fixture(params=FAMILIES)
def make(request):
    """A function that makes an unfitted estimator of a family, settings allowed."""
    return FAMILIES[request.param]


@pytest.fixture(scope="session", params=FITTED)
def fitted(request, data):
    """A fitted estimator; tests leave it as it is."""
    return FITTED[request.param].fit(*data)
