"""Whether estimates are as far from the truth as their standard errors say: ``python -m tests.performance.probes``.

Every case is a fitted model whose exact weights after a few stages are known. Effective parameters of the training
rows and of other rows, and the trace, are estimated with many seeds: by the telescope ("after"), and by random signs
with the usual standard error ("before").
"""

import argparse
from collections.abc import Iterator

import numpy as np

from telescoping_sklearn import TelescopingGBTRegressor, TelescopingMLPRegressor
from tests.performance._results import markdown_table

EARLY_AND_LATE = {"trees": [1, 5, 20, 100], "net": [1, 3, 6, 12, 40, 120]}
BEYOND = (2, 3, 4)


def rows(n_rows, seed, n_features=8):
    """Rows with labels that are a smooth function of two columns, and noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, n_features))
    return X, np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] ** 2 + 0.3 * rng.normal(size=n_rows)


def trees(n_rows, **settings):
    """Unfitted trees."""
    smallest = {"n_estimators": 100, "n_jobs": 1, "random_state": 0, "min_child_samples": min(20, n_rows // 15)}
    return TelescopingGBTRegressor(**(smallest | settings))


def net(**settings):
    """An unfitted net, whose response is carried update by update."""
    usual = {"max_iter": 20, "tol": 0.0, "n_iter_no_change": 1000, "section": 1, "random_state": 0, "batch_size": 50}
    return TelescopingMLPRegressor((40,), **(usual | settings))


def cases(quick) -> Iterator[tuple]:
    """Name, family, estimator, rows, and whether rows are weighted."""
    for n_rows, leaves, rate in ((30, 2, 0.1), (30, 31, 0.5), (300, 2, 0.1), (300, 31, 0.01), (300, 31, 0.5)):
        model = trees(n_rows, num_leaves=leaves, learning_rate=rate)
        yield f"{n_rows} rows, {leaves} leaves, lr {rate}", "trees", model, n_rows, False
    yield "300 rows, 31 leaves, lr 0.1, weighted", "trees", trees(300), 300, True
    yield "2000 rows, 31 leaves, lr 0.1", "trees", trees(2000), 200 if quick else 2000, False
    optimizers = {
        "SGD, lr 0.1": {"optimizer": "sgd", "learning_rate_init": 0.1},
        "SGD, lr 0.01, momentum 0.9": {"optimizer": "sgd", "learning_rate_init": 0.01, "momentum": 0.9},
        "Adam, lr 1e-3": {"optimizer": "adam", "learning_rate_init": 1e-3},
        "Adam, lr 1e-2": {"optimizer": "adam", "learning_rate_init": 1e-2},
    }
    for name, settings in optimizers.items():
        yield f"300 rows, {name}", "net", net(**settings), 300, False
    yield "300 rows, Adam, lr 1e-2, weighted", "net", net(**optimizers["Adam, lr 1e-2"]), 300, True
    yield "30 rows, SGD, lr 0.1", "net", net(batch_size=10, **optimizers["SGD, lr 0.1"]), 30, False


def known_weights(telescope, query, stages):
    """Make a telescope multiply by its exact weights instead of carrying columns, and give them by stage."""
    unit = np.eye(telescope.n_samples)
    of_train, of_query = (np.stack(list(telescope.staged_response(X, unit, stages=stages))) for X in (None, query))
    telescope.apply_response = lambda plan, X, V, offset, stages: iter((of_train if X is None else of_query) @ V)
    return of_train, of_query


def exact_values(of_train, of_query):
    """p of the training rows, trace and p of the other rows, (3, n_stages)."""
    n = of_train.shape[1]
    of_others = n / of_query.shape[1] * (of_query**2).sum(axis=(1, 2))
    return np.stack([(of_train**2).sum(axis=(1, 2)), np.trace(of_train, axis1=1, axis2=2), of_others])


def estimates(telescope, query, stages, n_probes):
    """What the telescope estimates: values and standard errors, each (3, n_stages)."""
    parts = [*telescope.staged_training_summary(stages=stages, n_probes=n_probes)]
    parts.append(telescope.staged_effective_params(query, stages=stages, n_probes=n_probes))
    telescope._probe_values.clear()
    return np.stack([part.value for part in parts]), np.stack([part.standard_error for part in parts])


def plain_estimates(of_train, of_query, n_probes, seed):
    """Mean over random signs, and the usual standard error."""
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(of_train.shape[1], n_probes))
    here, there = of_train @ signs, of_query @ signs
    of_others = len(signs) / of_query.shape[1] * (there**2).sum(axis=1)
    values = np.stack([(here**2).sum(axis=1), (signs * here).sum(axis=1), of_others])
    return values.mean(axis=-1), values.std(axis=-1, ddof=1) / np.sqrt(n_probes)


def study(family, model, n_rows, weighted, n_seeds, n_probes):
    """Errors and standard errors of both estimates, (n_seeds, 3, n_stages) each, and the exact values."""
    X, y = rows(n_rows, seed=1)
    query = rows(min(n_rows, 200), seed=2)[0]
    weights = np.random.default_rng(3).exponential(size=n_rows) if weighted else None
    telescope = model.fit(X, y, sample_weight=weights).telescope_
    stages = [stage for stage in EARLY_AND_LATE[family] if stage <= telescope.n_stages]
    weights_by_stage = known_weights(telescope, query, stages)
    exact = exact_values(*weights_by_stage)
    found = {"before": [], "after": []}
    for seed in range(n_seeds):
        telescope.seed = seed
        found["after"].append(estimates(telescope, query, stages, n_probes))
        found["before"].append(plain_estimates(*weights_by_stage, n_probes, seed))
    errors = {how: np.array([value - exact for value, _ in pairs]) for how, pairs in found.items()}
    return exact, errors, {how: np.array([error for _, error in pairs]) for how, pairs in found.items()}


def summary(exact, errors, standard_errors):
    """Cells of one estimate: spread, bias in its own standard errors, worst and mean share beyond 2, 3 and 4."""
    in_errors = np.abs(errors) / np.maximum(standard_errors, np.maximum(1e-9 * np.abs(exact), 1e-300))
    spread = errors.std(axis=0)
    bias = errors.mean(axis=0) / np.maximum(spread / np.sqrt(len(errors)), 1e-9 * np.abs(exact))
    shares = [100 * (in_errors > limit).mean(axis=0) for limit in BEYOND]
    cells = [f"{share.mean():.2f} ({share.max():.2f})" for share in shares]
    honest = spread / np.maximum(np.sqrt((standard_errors**2).mean(axis=0)), 1e-9 * np.abs(exact))
    return [f"{100 * (spread / np.abs(exact)).max():.2g}", f"{np.abs(bias).max():.1f}", f"{honest.min():.2f}", *cells]


def main():
    """Measure what is asked and print the table."""
    told = argparse.ArgumentParser(prog="python -m tests.performance.probes", description=__doc__.partition("\n")[0])
    told.add_argument("--seeds", type=int, default=2000)
    told.add_argument("--probes", type=int, default=32)
    told.add_argument("--family", choices=EARLY_AND_LATE, help="default both")
    told.add_argument("--quick", action="store_true", help="few seeds and rows: shows that it runs")
    asked = told.parse_args()
    lines = []
    for name, *case in cases(asked.quick):
        if asked.family not in (None, case[0]):
            continue
        n_seeds = 20 if asked.quick else max(200, asked.seeds * 300 // max(case[2], 300))
        exact, errors, standard_errors = study(*case, n_seeds, asked.probes)
        for how in ("before", "after"):
            lines.append((f"{case[0]}, {name}", how, *summary(exact, errors[how], standard_errors[how])))
        print(*lines[-2:], sep="\n", flush=True)
    header = (
        "case",
        "",
        "largest spread, %",
        "largest bias, SE of mean",
        "least spread / SE",
        "beyond 2 SE, % (worst)",
    )
    print(markdown_table((*header, "beyond 3 SE, %", "beyond 4 SE, %"), lines))


if __name__ == "__main__":
    main()
