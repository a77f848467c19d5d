"""Weights of a few queries for models that were fitted elsewhere, one row a library."""

from importlib.util import find_spec

import numpy as np
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)

from telescoping_sklearn import telescope
from tests.performance._data import random_rows
from tests.performance._measure import readable_seconds, timed
from tests.performance._results import Result, Row, at_most

#: Columns of the rows. The time of weights does not depend on them, that of fitting does.
N_FEATURES = 10


def models(n_trees):
    """Unfitted models by name, those of libraries that are installed; the others as None."""
    made = {
        "LightGBM": ("lightgbm", "LGBMRegressor", {"n_estimators": n_trees, "n_jobs": 2, "verbosity": -1}),
        "XGBoost": ("xgboost", "XGBRegressor", {"n_estimators": n_trees, "n_jobs": 2}),
        "CatBoost": (
            "catboost",
            "CatBoostRegressor",
            {"iterations": n_trees, "thread_count": 2, "verbose": 0, "allow_writing_files": False},
        ),
    }
    found = {
        name: getattr(__import__(library), kind)(**settings) if find_spec(library) else None
        for name, (library, kind, settings) in made.items()
    }
    few = {"n_estimators": n_trees, "max_features": 1, "n_jobs": 2, "random_state": 0}
    return found | {
        "GradientBoosting": GradientBoostingRegressor(n_estimators=n_trees, max_features=1, random_state=0),
        "HistGradientBoosting": HistGradientBoostingRegressor(max_iter=n_trees, early_stopping=False),
        "RandomForest, a fifth of the rows a tree": RandomForestRegressor(min_samples_leaf=5, max_samples=0.2, **few),
        "ExtraTrees": ExtraTreesRegressor(min_samples_leaf=5, **few),
    }


def fitted_weights(quick):
    """Weights of 10 queries, telescope made before; and how long that took, self-check included."""
    n, n_trees = (500, 10) if quick else (100_000, 500)
    data = random_rows(n, 10, N_FEATURES)
    rows = []
    for name, model in models(n_trees).items():
        what = f"weights of 10 queries of a fitted model, n = {n:,}, {n_trees} trees: {name}"
        if model is None:
            rows.append(Row(what, "", "not installed"))
            continue
        fit = timed(lambda model=model: model.fit(data.X, data.y))
        made = {}
        making = timed(lambda model=model, made=made: made.update(telescope=telescope(model, data.X, data.y)))
        explained = made["telescope"]
        weights = {}
        seconds = timed(lambda w=weights, e=explained: w.update(found=e.kernel_weights(data.query)))
        rebuilt = weights["found"] @ data.y + explained.offset(data.query)
        gap = np.abs(rebuilt - explained.predict(data.query)).max() / data.y.std()
        told = f"fit {readable_seconds(fit)}, telescope made in {readable_seconds(making)}"
        ours = f"{readable_seconds(seconds)}; gap {gap:.1g} spreads"
        rows.append(Row(what, told, ours, "", at_most(5, seconds, " s")))
    return Result("Models that were fitted elsewhere", rows)


BENCHMARKS = {"fitted_weights": fitted_weights}
