"""The rows about trees: fitting, exact weights, a million rows, and cost against n, T and leaves."""

from functools import partial

import lightgbm
import numpy as np

from telescoping_sklearn import TelescopingGBTRegressor
from tests.performance._data import random_rows
from tests.performance._measure import Seconds, in_child, profile, ratio, readable_seconds, side_by_side, timed
from tests.performance._results import Goal, Result, Row, at_least, at_most, markdown_table, plain_log_ticks, slope
from tests.performance.neural import without_answers


def trees(**settings):
    """An unfitted ensemble of a fixed number of trees on two threads."""
    return TelescopingGBTRegressor(**{"n_jobs": 2, "random_state": 0} | settings)


# -- fitting -----------------------------------------------------------------------------------------------------------


def trees_fit(quick):
    """Fit and keep what weights need, beside LightGBM alone."""
    n, repeats = (1_000, 2) if quick else (100_000, 5)
    data = random_rows(n, 0, 20)
    settings = {"n_jobs": 2, "random_state": 0, "verbosity": -1}
    times = side_by_side(
        {
            "ours": lambda: trees().fit(data.X, data.y),
            "LightGBM": lambda: lightgbm.LGBMRegressor(**settings).fit(data.X, data.y),
        },
        repeats,
    )
    share = ratio(times["ours"], times["LightGBM"])
    cost = 100 * (share.median - 1)
    what = f"fit boosting and keep what weights need, {n:,} x 20, 100 trees of 31 leaves"
    row = Row(what, f"LGBMRegressor {times['LightGBM']}", str(times["ours"]), f"ours / peer: {share}")
    row = Row(row.what, row.peer, f"{row.ours}, {cost:+.1f} %", row.ratio, at_most(5, cost, " % more"))
    return Result("Fitting trees", [row])


# -- exact weights -----------------------------------------------------------------------------------------------------


def dense_recursion(of_rows, of_queries, learning_rate, dtype):
    """S of training rows and queries by the recursion on dense arrays, n x n and m x n, as public code has it."""
    n = of_rows.shape[1]
    training = np.full((n, n), 1 / n, dtype)
    query = np.full((of_queries.shape[1], n), 1 / n, dtype)
    for rows, queries in zip(of_rows, of_queries, strict=True):
        n_leaves = max(rows.max(), queries.max()) + 1
        residual = -training
        residual[np.arange(n), np.arange(n)] += 1
        inside = (rows == np.arange(n_leaves)[:, None]).astype(dtype)
        values = learning_rate * (inside @ residual) / np.maximum(inside.sum(axis=1, keepdims=True), 1)
        training += values[rows]
        query += values[queries]
    return query


def dense_kernels(of_rows, of_queries, learning_rate):
    """S of queries with a dense n x n kernel a tree, multiplied out: the way of AXIL's first version, written anew."""
    n = of_rows.shape[1]
    training, query = np.full((n, n), 1 / n), np.full((of_queries.shape[1], n), 1 / n)
    for rows, queries in zip(of_rows, of_queries, strict=True):
        together = (rows[:, None] == rows).astype(float)
        kernel = learning_rate * together / together.sum(axis=1, keepdims=True)
        reached = (queries[:, None] == rows).astype(float)
        reached *= learning_rate / reached.sum(axis=1, keepdims=True)
        residual = np.eye(n) - training
        query += reached @ residual
        training += kernel @ residual
    return query


def trees_exact(quick):
    """Exact weights beside the dense recursion, and beside a dense kernel a tree."""
    rows = [_exact_row(*((300, 50, 10) if quick else (10_000, 2_000, 100)), dense_recursion, "dense recursion", 4)]
    for n, goal in ((1_000, 30), (2_000, 150)):
        size = (n // 10, 50, 10) if quick else (n, 500, 100)
        rows.append(_exact_row(*size, dense_kernels, "a dense n x n kernel a tree", goal))
    return Result("Exact weights of trees", rows)


def _exact_row(n, m, n_trees, dense, name, goal):
    data = random_rows(n, m, 20)
    model = trees(n_estimators=n_trees).fit(data.X, data.y)
    leaves = [model.booster_.predict(X, pred_leaf=True).T.astype(int) for X in (data.X, data.query)]
    settings = (0.1, np.float32) if dense is dense_recursion else (0.1,)
    found = {}

    def ours():
        found["ours"] = without_answers(model).kernel_weights(data.query)

    ours()  # not counted: the first of everything is slow
    before = [timed(ours) for _ in range(2)]
    peer = Seconds((timed(lambda: found.update(dense=dense(*leaves, *settings))),))
    mine = Seconds((*before, *(timed(ours) for _ in range(2))))
    np.testing.assert_allclose(found["ours"], found["dense"], atol=1e-5)
    faster = ratio(peer, mine)
    what = f"exact weights of {m:,} queries, n = {n:,}, {n_trees} trees of 31 leaves, telescope made anew"
    return Row(what, f"{name} {peer}", str(mine), str(faster), at_least(goal, faster.median))


# -- a million rows ----------------------------------------------------------------------------------------------------


def trees_million(quick):
    """Effective parameters, trace and exact weights where an n x n array would take terabytes."""
    n = 5_000 if quick else 1_000_000
    told = in_child("tests.performance._trees_child", str(n))
    fit, probes = told["fit"], told["telescope"] + told["train"] + told["test"]
    what = (
        f"n = {n:,}, 20 features, 100 trees: effective parameters and trace of training rows, and of {n // 10:,} others"
    )
    values = " ".join(f"{name} {value:.2f} ± {error:.2f};" for name, (value, error) in told["probes"].items())
    peak = told["peak"] / 2**30
    times = (f"LightGBM's fit {readable_seconds(fit)}", readable_seconds(probes), f"{fit / probes:.2f}")
    rows = [
        Row(what + ", 32 probes", *times, at_most(3, probes / fit, " fits")),
        Row("the same: values", "exact " + ", ".join(f"{v:.2f}" for v in told["exact"]), values),
        Row("the same, exact", "", readable_seconds(told["exact_seconds"])),
        Row("exact weights of 100 queries on the same model", "", readable_seconds(told["queries"])),
        Row("peak memory of all that", "", f"{peak:.2f} GiB", "", Goal("under 4 GB", told["peak"] < 4e9)),
    ]
    return Result("A million rows", rows)


# -- cost --------------------------------------------------------------------------------------------------------------

ORDINARY = {"n": 20_000, "T": 50, "leaves": 31}
VARIED = {"n": (10_000, 20_000, 40_000, 80_000), "T": (12, 25, 50, 100), "leaves": (7, 15, 31, 63)}


def trees_scaling(quick):
    """Cost against n, T and leaves: 32 probes, 100 queries, and exact sums in the space of leaves."""
    steps = 2 if quick else 4
    _cost(**ORDINARY)  # not counted: the first of everything is slow
    curves = {name: [_cost(**ORDINARY | {name: value}) for value in VARIED[name][:steps]] for name in ORDINARY}
    header = ("against", "range", *(f"{what}, s" for what in _MEASURED), *(f"{what}, exponent" for what in _MEASURED))
    lines = [
        (
            name,
            f"{points[0][name]:,} to {points[-1][name]:,}",
            *(f"{points[0][what]:.2g} to {points[-1][what]:.2g}" for what in _MEASURED),
            *(f"{_exponent(name, points, what):.2f}" for what in _MEASURED),
        )
        for name, points in curves.items()
    ]
    held = ", ".join(f"{name} = {value:,}" for name, value in ORDINARY.items())
    text = [f"Others held at {held}; the model's telescope is made before.", markdown_table(header, lines)]
    data = random_rows(20_000, 100, 20)
    model = trees(n_estimators=50).fit(data.X, data.y)
    profiled = profile(lambda: without_answers(model).kernel_weights(data.query))
    figures = {"trees_scaling": partial(_draw, curves)}
    return Result("Cost of trees", [], text, figures, {"exact weights of 100 queries": profiled})


_MEASURED = ("32 probes", "100 queries", "exact sums")


def _cost(n, T, leaves):
    data = random_rows(n, 100, 20)
    model = trees(n_estimators=T, num_leaves=leaves).fit(data.X, data.y)

    def best(ask):
        return min(timed(partial(_fresh, model, ask)) for _ in range(2))

    return {
        "n": n,
        "T": T,
        "leaves": leaves,
        "32 probes": best(lambda telescope: telescope.training_summary(32)),
        "100 queries": best(lambda telescope: telescope.kernel_weights(data.query)),
        "exact sums": best(lambda telescope: telescope.training_summary(None)),
    }


def _fresh(model, ask):
    """Ask a telescope that has kept nothing."""
    telescope = model.telescope_
    telescope._kept_carrier = telescope._kept_values = None
    vars(telescope).pop("moments", None)
    telescope._probe_values.clear()
    ask(telescope)


def _exponent(name, points, what):
    return slope([point[name] for point in points], [point[what] for point in points])


def _draw(curves, figure):
    figure.set_size_inches(10, 3.6)
    for axes, (name, points) in zip(figure.subplots(1, 3, sharey=True), curves.items(), strict=True):
        x = [point[name] for point in points]
        for what in _MEASURED:
            axes.loglog(
                x, [point[what] for point in points], "o-", label=f"{what}: {_exponent(name, points, what):.2f}"
            )
        axes.set(xlabel={"n": "training rows n", "T": "trees T", "leaves": "leaves of a tree"}[name])
        axes.set_xticks(x, [f"{value:,}" for value in x])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("seconds")
    plain_log_ticks(figure.axes[0].yaxis)


BENCHMARKS = {
    "trees_fit": trees_fit,
    "trees_exact": trees_exact,
    "trees_million": trees_million,
    "trees_scaling": trees_scaling,
}
