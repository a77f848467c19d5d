"""Random settings of boosted trees and random data, against loops over leaves and against LightGBM itself.

Every seed draws one case and ends in one of three ways: exact, refused in `fit` with a reason, or a failure. From the
root of the project::

    python -m tests.fuzz.trees --n 10000 --seed 0

works the seeds 0 to 9999, shows how far it is, and prints a table; ``--n 1 --seed 4711`` works one of them again.
"""

import sys
from functools import partial
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import pandas as pd
from scipy.special import expit

from telescoping_sklearn import TelescopingGBTRegressor
from tests.fuzz._cases import Outcome, close, need, outcome_of, retyped, run
from tests.oracles import RAW_LOSSES, AffineLeafLoops, float32

OURS = {"early_stopping_rounds", "validation_fraction", "record", "warm_start", "verbose"}
OPTIONAL = ("bagging_seed", "feature_fraction_seed", "extra_seed", "interaction_constraints")
OBJECTIVES = [
    *[None, "regression", "rmse"],
    *["regression_l1", "mae", "quantile", "quantile", "mape", "huber", "huber", "fair"],
    *["poisson", "gamma", "tweedie", "cross_entropy", "binary"],
]


class Case(NamedTuple):
    """What one seed draws."""

    settings: dict[str, Any]
    X: Any
    y: np.ndarray
    query: Any
    options: dict[str, Any]
    later: int | None


def draw_column(rng, n):
    """A column of one of many kinds."""
    kind = rng.integers(12)
    if kind == 0:
        return rng.integers(0, 3, n).astype(float)
    if kind == 1:
        return np.full(n, rng.normal())
    if kind == 2:
        return np.where(rng.random(n) < 0.8, 0.0, rng.normal(size=n))
    if kind == 3:
        return rng.normal(size=n) * 10.0 ** rng.uniform(-40, 40)
    if kind == 4:
        return 10.0 ** rng.uniform(-300, 305, size=n) * rng.choice([-1, 1], n)
    if kind == 5:
        return 1.0 + rng.integers(0, 5, n) * np.finfo(float).eps
    if kind == 6:
        return rng.choice([0.0, -0.0, 1e-36, -1e-36, 1e-35, 5e-324, 1.0], n)
    if kind == 7:
        return rng.integers(-3, 4, n) * 2.0**60
    return rng.normal(size=n)


def draw_X(rng, n, n_columns):
    """Columns, with holes."""
    X = np.column_stack([draw_column(rng, n) for _ in range(n_columns)])
    if rng.random() < 0.4:
        X[rng.random(X.shape) < rng.choice([0.05, 0.3, 0.9])] = np.nan
    return X


def draw_y(rng, objective, n, signal):
    """Labels that the objective takes, sometimes with ties, of any size."""
    f = signal + rng.choice([0.1, 1.0]) * rng.normal(size=n)
    if objective == "poisson":
        return rng.poisson(np.exp(np.clip(f, -3, 3))).astype(float)
    if objective in ("gamma", "tweedie"):
        y = np.exp(np.clip(f, -3, 3)) * rng.gamma(2.0, size=n) + 1e-3
        return np.where(rng.random(n) < 0.3, 0.0, y) if objective == "tweedie" else y
    if objective in ("cross_entropy", "binary"):
        return (f > 0).astype(float) if objective == "binary" else expit(f)
    if rng.random() < 0.3:
        f = np.round(f)
    return f * 10.0 ** rng.choice([0, 0, 0, -8, -3, 2, 6]) + rng.choice([0, 0, 1.0, -50.0, 1e8])


def draw_weights(rng, n):
    """None, ones, or weights that may be zero."""
    kind = rng.integers(8)
    if kind < 3:
        return None
    if kind == 3:
        return np.ones(n)
    weights = rng.exponential(size=n) if kind < 6 else 10.0 ** rng.uniform(-3, 3, n)
    if rng.random() < 0.5:
        weights[rng.random(n) < rng.choice([0.1, 0.6])] = 0.0
    return weights if weights.any() else None


def draw_settings(rng):
    """Parameters of the estimator."""

    def maybe(chance, value, other):
        return value if rng.random() < chance else other

    return {
        "objective": OBJECTIVES[rng.integers(len(OBJECTIVES))],
        "alpha": float(rng.choice([0.9, 0.5, 0.1, 0.99, 1e-3, rng.uniform(0.02, 0.98)])),
        "fair_c": float(rng.choice([1.0, 0.1, 5.0])),
        "n_estimators": int(rng.integers(1, 12)),
        "num_leaves": int(rng.choice([2, 3, 5, 8, 31])),
        "max_depth": int(maybe(0.2, 2, -1)),
        "learning_rate": float(rng.choice([0.1, 0.3, 1.0, 1.7, 0.01])),
        "min_child_samples": int(rng.choice([0, 1, 2, 5, 10])),
        "min_child_weight": float(rng.choice([*[1e-3] * 8, 1e-9, 0.0, 1.0, 1.0])),
        "min_split_gain": float(maybe(0.1, 0.01, 0.0)),
        "reg_lambda": float(maybe(0.3, rng.choice([0.1, 5.0]), 0.0)),
        "reg_alpha": float(maybe(0.3, rng.choice([0.01, 0.5, 3.0]), 0.0)),
        "max_delta_step": float(maybe(0.3, rng.choice([0.01, 0.3, 2.0]), 0.0)),
        "path_smooth": float(maybe(0.12, rng.choice([0.3, 5.0]), 0.0)),
        "subsample": float(maybe(0.4, rng.choice([0.9, 0.5, 0.1]), 1.0)),
        "subsample_freq": int(rng.integers(0, 4)),
        "colsample_bytree": float(maybe(0.3, 0.5, 1.0)),
        "colsample_bynode": float(maybe(0.2, 0.5, 1.0)),
        "extra_trees": bool(rng.random() < 0.2),
        "max_bin": int(maybe(0.3, rng.choice([2, 3, 10]), 255)),
        "min_data_in_bin": int(rng.choice([1, 3, 3, 10])),
        "subsample_for_bin": int(maybe(0.2, rng.choice([1, 5, 20]), 200000)),
        "cat_l2": float(rng.choice([10.0, 0.0, 1.0])),
        "cat_smooth": float(rng.choice([10.0, 0.0, 1.0])),
        "max_cat_to_onehot": int(rng.choice([1, 4, 10])),
        "max_cat_threshold": int(rng.choice([1, 32])),
        "min_data_per_group": int(rng.choice([1, 3, 100])),
        "poisson_max_delta_step": float(rng.choice([0.7, 0.1])),
        "tweedie_variance_power": float(rng.choice([1.5, 1.1, 1.9])),
        "early_stopping_rounds": maybe(0.2, int(rng.integers(1, 4)), None),
        "validation_fraction": float(rng.choice([0.1, 0.3])),
        "enable_bundle": bool(rng.random() < 0.7),
        "random_state": int(rng.integers(2**31)),
        "n_jobs": 1,
    }


def draw_case(seed: int) -> Case:
    """The case of a seed."""
    rng = np.random.default_rng(seed)
    settings = draw_settings(rng)
    n, m, n_columns = int(rng.choice([2, 3, 5, 12, 40, 40, 60])), 8, int(rng.integers(1, 5))
    both = draw_X(rng, n + m, n_columns)
    shown = np.nan_to_num(both)
    signal = np.sign(shown[:, 0]) + np.tanh(shown[:, -1])
    if rng.random() < 0.2:  # rows that are there several times
        both = both[rng.integers(0, rng.integers(1, n + 1), n + m)]
    X, query, options = both[:n], both[n:], {}
    if rng.random() < 0.3:
        codes = rng.integers(0, int(rng.choice([2, 5, 20])), n + m).astype(float)
        signal = signal + np.sin(3 * codes)
        codes[rng.random(n + m) < rng.choice([0.0, 0.3])] = np.nan
        if rng.random() < 0.5:
            X, query = np.column_stack([X, codes[:n]]), np.column_stack([query, codes[n:]])
            options["categorical_feature"] = [n_columns]
        else:
            frame = pd.DataFrame(both, columns=[f"c{j}" for j in range(n_columns)])
            frame["many"] = pd.Categorical(codes)
            X, query = frame.iloc[:n], frame.iloc[n:]
    y = draw_y(rng, settings["objective"], n, signal[:n])
    options["sample_weight"] = draw_weights(rng, n)
    if settings["early_stopping_rounds"] is not None and rng.random() < 0.5:
        checked = rng.integers(0, n, max(2, n // 3))
        options |= {
            "X_val": X.iloc[checked] if isinstance(X, pd.DataFrame) else X[checked],
            "y_val": y[checked],
        }
    later = None
    if rng.random() < 0.15:
        settings["warm_start"], later = True, settings["n_estimators"] + int(rng.integers(1, 6))
    return Case(settings, X, y, query, options, later)


def as_array(model, X):
    """Rows as the estimator gives them to LightGBM."""
    return np.asarray(model._categories.encode(X), dtype=np.float64)


def check_seed(seed: int) -> Outcome:
    """Draw the case of a seed and say how it ends."""
    case = draw_case(seed)
    model = TelescopingGBTRegressor(**retyped(seed, case.settings))

    def fit():
        model.fit(case.X, case.y, **case.options)
        if case.later is not None:
            model.set_params(n_estimators=case.later).fit(case.X, case.y, **case.options)
        model.set_params(**case.settings)  # for what the answers are held against

    return outcome_of(fit, partial(check_answers, model, case))


def check_answers(model, case: Case) -> str:
    """Hold the answers of a fitted model against LightGBM and the oracle; say what sort of case it is."""
    y, weights = case.y, case.options["sample_weight"]
    X, query = as_array(model, case.X), as_array(model, case.query)
    check_predictions(model, case)
    given = model._fit_record.given
    loops = AffineLeafLoops(model, X, y - model.label_shift_, query, weights, given)
    raw, raw_query = (
        model.booster_.predict(rows, num_iteration=model.n_stages_, raw_score=True) for rows in (X, query)
    )
    non_quadratic = model.objective in RAW_LOSSES
    scale = 1e-5 * np.std(raw) + 1e-6 * max(1.0, np.abs(raw).max()) if non_quadratic else tolerance(model, y)
    need(np.abs(loops.training_values - raw).max() <= scale, "the leaf loops miss the predictions")
    need(np.abs(loops.reached_values - raw_query).max() <= scale, "the leaf loops miss the predictions of queries")
    S, S_query = model.kernel_weights_, model.kernel_weights(case.query)
    if not loops.close:
        rtol = 1e-5 if non_quadratic else 1e-9
        close(S, loops.training, "weights of the training rows", rtol)
        close(S_query, loops.reached, "weights of the queries", rtol)
    check_routes(model, case, S_query)
    norms = [np.sqrt((kernel.toarray() ** 2).sum(axis=1)) for kernel in model.staged_kernel(case.query)]
    close(model.kernel_norms(case.query), norms, "kernel norms", 1e-9)
    if non_quadratic:
        return "raw score"
    c, c_query = model.offset(case.X), model.offset(case.query)
    if not loops.close:
        for found, expected in ((c, loops.training_offset), (c_query, loops.reached_offset)):
            need(np.abs(found - expected).max() <= 1e-9 * max(1.0, np.abs(y).max()), "offset")
    for at, rebuilt in ((case.X, S @ y + c), (case.query, S_query @ y + c_query)):
        need(np.abs(rebuilt - model.predict(at)).max() <= tolerance(model, y), "S y + c misses the predictions")
    check_sums(model, S)
    return "close call" if loops.close else "smoother"


def tolerance(model, y):
    """What float32 labels may take, and float64 ones far from zero; labels are centred where that takes too much."""
    spread = 1e-5 * np.std(y) + 1e-6 * np.abs(y - y.mean()).max() + 1e-13 * np.abs(y).max()
    return spread + (4 * np.abs(y - float32(y)).max() if model.label_shift_ == 0 else 0.0)


def check_predictions(model, case: Case) -> None:
    """Predictions are LightGBM's own, bit for bit, where it can be called the same way."""
    if model.label_shift_ or case.later is not None or case.settings["early_stopping_rounds"] is not None:
        return
    if model.objective == "mape" and case.options["sample_weight"] is not None:
        return  # LightGBM takes unequal hessians for equal ones, in one of two ways, which it chooses by their speed
    params = {name: value for name, value in model.get_params().items() if name not in OURS}
    params = {name: value for name, value in params.items() if not (name in OPTIONAL and value is None)}
    if model.objective is None:
        del params["objective"]
    library = lightgbm.LGBMRegressor(**params, verbosity=-1).fit(case.X, case.y, **case.options)
    need(np.array_equal(library.predict(case.query), model.predict(case.query)), "predictions are not LightGBM's")


def check_routes(model, case: Case, S_query) -> None:
    """Forward and backward, in one group of trees or several, give the same weights."""
    telescope, query = model.telescope_, as_array(model, case.query)
    unit = np.eye(len(case.y)) * telescope.trained
    stages = sorted({0, (telescope.n_stages + 1) // 2, telescope.n_stages})
    *_, forward = telescope.staged_response(query, unit, stages=stages)
    close(forward, S_query, "forward weights", 1e-9)
    close(telescope.apply_adjoint(telescope.backward_plan(len(query)), query), S_query, "backward weights", 1e-9)


def check_sums(model, S) -> None:
    """Effective parameters and trace are those of S, and its rows sum to 1."""
    trained = model.telescope_.trained
    p, trace = model.telescope_.staged_training_summary(n_probes=None)
    close(p.value[-1], (S[trained] ** 2).sum(), "effective parameters", 1e-8 * max(1.0, np.abs(S).max() ** 2))
    close(trace.value[-1], S.trace(), "degrees of freedom", 1e-8 * max(1.0, np.abs(S).max()))
    close(S.sum(axis=1), np.ones(len(S)), "row sums", 1e-8 * max(1.0, np.abs(S).max()))


if __name__ == "__main__":
    sys.exit(run(check_seed, __doc__))
