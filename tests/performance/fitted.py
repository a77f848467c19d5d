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
from tests.performance._measure import ratio, readable_seconds, side_by_side, timed
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


def axil(quick):
    """Weights beside scikit-gbm's AXIL, which multiplies dense n x n kernels, on models that it takes."""
    n, m, n_trees = (100, 10, 5) if quick else (1_000, 100, 100)
    data = random_rows(n, m, N_FEATURES)
    rows = []
    for name in ("LightGBM", "GradientBoosting"):
        model = models(n_trees)[name].fit(data.X, data.y)
        what = f"weights of {m} queries of a fitted model, n = {n:,}, {n_trees} trees, telescope made anew: {name}"
        if find_spec("skgbm") is None:
            rows.append(Row(what, "scikit-gbm is not installed", ""))
            continue
        found = {}

        def ours(model=model, found=found):
            found["ours"] = telescope(model, data.X, data.y).kernel_weights(data.query)

        ours()  # not counted: the first of everything is slow
        times = side_by_side({"ours": ours, "AXIL": lambda m=model, f=found: f.update(AXIL=_axil(m, data))}, 2)
        np.testing.assert_allclose(found["ours"], found["AXIL"], atol=1e-5)
        rows.append(Row(what, f"AXIL {times['AXIL']}", str(times["ours"]), str(ratio(times["AXIL"], times["ours"]))))
    return Result("Beside scikit-gbm", rows)


def _axil(model, data):
    from skgbm.xai import AXIL

    return AXIL(model).fit(data.X).transform(data.query).T


BENCHMARKS = {"fitted_weights": fitted_weights, "axil": axil}
