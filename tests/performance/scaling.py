"""Cost against n, p, k and T: fitting, and effective parameters along training with probes."""

from functools import partial

from tests.performance._data import random_rows
from tests.performance._measure import timed
from tests.performance._results import Result, markdown_table, plain_log_ticks, slope
from tests.performance.neural import net, without_answers

BATCH = 128
ORDINARY = {"n": 1024, "width": 64, "k": 16, "T": 64}


def best(work, repeats=3):
    """The least of a few times: an exponent should not follow what else the machine does."""
    return min(timed(work) for _ in range(repeats))


def cost(n, width, k, T):
    """Number of parameters, and seconds of fitting and of the answer, for one setting."""
    data = random_rows(n, n, 8)
    model = net((width, width), batch_size=BATCH, max_iter=max(1, T * BATCH // n), section=8)
    fitting = best(lambda: model.fit(data.X, data.y))
    answer = best(lambda: without_answers(model).staged_effective_params(data.query, stages=4, n_probes=k))
    return {"n": n, "p": model.n_params_, "k": k, "T": model.n_stages_, "fit": fitting, "probes": answer}


def curve(name, values):
    """Costs with all but one setting ordinary."""
    return [cost(**ORDINARY | {name: value}) for value in values]


def scaling(quick):
    """Four curves, each over one quantity with the others held."""
    largest = 2 if quick else 5
    cost(**ORDINARY)  # not counted: the first of everything is slow
    curves = {
        "n": curve("n", [512 * 2**i for i in range(largest)]),
        "p": curve("width", [32 * 2**i for i in range(min(largest, 4))]),
        "k": curve("k", [8 * 2**i for i in range(largest)]),
        "T": curve("T", [32 * 2**i for i in range(largest)]),
    }
    told = f"Others held at {_settings()}; batch {BATCH}, 8 features, two hidden layers, Adam, sections of 8."
    return Result("Cost against n, p, k and T", [], [told, _table(curves)], {"scaling": partial(_draw, curves)})


def _settings():
    held = ORDINARY | {"p": (8 + 1) * 64 + 65 * 64 + 65}
    held.pop("width")
    return ", ".join(f"{name} = {value}" for name, value in held.items()) + " (m = n)"


def _table(curves):
    rows = [
        (name, f"{points[0][name]:,} to {points[-1][name]:,}", *_range(points, "fit"), *_range(points, "probes"))
        for name, points in curves.items()
    ]
    header = ("against", "range", "fit, s", "exponent", "probes, s", "exponent")
    return markdown_table(header, [_without_idle_exponent(row) for row in rows])


def _without_idle_exponent(row):
    """Fitting knows nothing of k."""
    return (*row[:2], "", "", *row[4:]) if row[0] == "k" else row


def _range(points, what):
    name = _varied(points)
    exponent = slope([point[name] for point in points], [point[what] for point in points])
    return f"{points[0][what]:.2g} to {points[-1][what]:.2g}", f"{exponent:.2f}"


def _varied(points):
    return next(name for name in ("n", "p", "k", "T") if points[0][name] != points[-1][name])


def _draw(curves, figure):
    figure.set_size_inches(8, 6.4)
    labels = {"n": "training rows n (m = n)", "p": "parameters p", "k": "probes k", "T": "updates T"}
    for axes, (name, points) in zip(figure.subplots(2, 2).flat, curves.items(), strict=True):
        x = [point[name] for point in points]
        for what in ("fit", "probes") if name != "k" else ("probes",):
            seconds = [point[what] for point in points]
            color = {"fit": "C0", "probes": "C1"}[what]
            axes.loglog(x, seconds, "o-", color=color, label=f"{what}: slope {slope(x, seconds):.2f}")
        axes.set(xlabel=labels[name], ylabel="seconds")
        axes.set_xticks(x, [f"{value:,}" for value in x])
        axes.minorticks_off()
        plain_log_ticks(axes.yaxis)
        axes.grid(alpha=0.3)
        axes.legend()


BENCHMARKS = {"scaling": scaling}
