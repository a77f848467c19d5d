"""Gap against cost: where on the scale from the paper's model to the linearised one is it best to be?"""

import math
from functools import partial

import numpy as np

from tests.performance._data import houses, threes_and_fives
from tests.performance._results import Result, markdown_table, plain_log_ticks
from tests.performance.neural import RULES, net

TOLERANCES = (0.01, 0.03)
NODES = {"left": 1, "midpoint": 1, "gauss2": 2}


def sections(quick):
    """Mean gap on test rows against Jacobian evaluations, for three rules and sections of every length."""
    n, m, epochs = (200, 50, 4) if quick else (1000, 300, 300)
    settings = {
        "SGD, lr 0.1": {"optimizer": "sgd", "learning_rate_init": 0.1},
        "Adam, lr 1e-3": {"optimizer": "adam", "learning_rate_init": 1e-3},
    }
    images = threes_and_fives(n, m)
    cases = [(images, (200, 200), name, optimizer) for name, optimizer in settings.items()]
    cases += [(houses(n, m), (64, 64, 64), "Adam, lr 1e-3", settings["Adam, lr 1e-3"])]
    measured = {f"{data.name}\n{hidden}, {name}": study(data, hidden, epochs, how) for data, hidden, name, how in cases}
    text = [_table(title.replace("\n", ": "), *found) for title, found in measured.items()]
    return Result("Gap against cost", [], [_INTRODUCTION, *text], {"sections": partial(_draw, measured)})


_INTRODUCTION = (
    "Mean |net - telescoping model| on test rows after the last update. Sections of one update with `left` are the "
    "paper's model, one section for the whole run with `left` is the linearised model."
)


def study(data, hidden, epochs, optimizer):
    """Gaps by rule and section, and those of the automatic choice where the estimator has it."""
    model = net(hidden, batch_size=200, max_iter=epochs, **optimizer).fit(data.X, data.y)
    lengths = sorted({length for length in (1, 5, 10, 50, 150, 500) if length < model.n_stages_} | {model.n_stages_})
    fixed = {(rule, length): gap(model, data.query, rule=rule, section=length) for rule in RULES for length in lengths}
    return model.n_stages_, lengths, fixed, automatic(model, data.query)


def gap(model, query, **settings):
    """Mean gap after the last update."""
    model.set_params(**settings)
    (telescoping,) = model.staged_predict(query, stages=[model.n_stages_], approximation="telescoping")
    return float(np.abs(telescoping - model.predict(query)).mean())


def automatic(model, query):
    """What ``section="auto"`` comes to: by rule and tolerance, sections taken, gap it reports, gap on test rows."""
    if "section_tol" not in model.get_params():
        return {}
    found = {}
    for rule in RULES:
        for tolerance in TOLERANCES:
            reached = gap(model, query, rule=rule, section="auto", section_tol=tolerance)
            found[rule, tolerance] = (_sections_taken(model), model.section_gap_, reached)
    return found


def _sections_taken(model):
    """Number of sections, where the telescope tells."""
    chosen = getattr(model.telescope_, "sections", None)
    return math.nan if chosen is None else len(chosen.ends)


def evaluations(rule, length, n_stages):
    """Jacobian evaluations that a run takes."""
    return NODES[rule] * math.ceil(n_stages / length)


def _table(title, n_stages, lengths, fixed, chosen):
    rows = [(rule, *(f"{fixed[rule, length]:.1e}" for length in lengths)) for rule in RULES]
    parts = [f"**{title}**, {n_stages} updates, by section:", markdown_table(("rule", *lengths), rows)]
    if chosen:
        header = ("rule", "section_tol", "sections", "section_gap_ (spreads of y)", "gap on test rows")
        lines = [
            (rule, tolerance, taken, f"{known:.2g}", f"{reached:.1e}")
            for (rule, tolerance), (taken, known, reached) in chosen.items()
        ]
        parts += ['With `section="auto"`:', markdown_table(header, lines)]
    return "\n\n".join(parts)


def _draw(measured, figure):
    figure.set_size_inches(4.4 * len(measured), 5)
    axes = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    for panel, (title, found) in zip(axes, measured.items(), strict=True):
        _draw_case(panel, title, *found)
    axes[0].set_ylabel("mean |net - telescoping model| on test rows")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))


def _draw_case(axes, title, n_stages, lengths, fixed, chosen):
    for color, rule in zip(("C0", "C1", "C2"), RULES, strict=True):
        cost = [evaluations(rule, length, n_stages) for length in lengths]
        axes.loglog(cost, [fixed[rule, length] for length in lengths], "o-", color=color, label=rule, markersize=4)
        for marker, tolerance in zip("*P", TOLERANCES, strict=True):
            if (rule, tolerance) in chosen:
                taken, _, reached = chosen[rule, tolerance]
                label = f"{rule}, auto {tolerance}"
                axes.plot(NODES[rule] * taken, reached, marker, color=color, ms=11, mec="black", label=label, ls="")
    ends = ((n_stages, lengths[0], "s", "the paper's model"), (1, lengths[-1], "D", "linearised"))
    for cost, length, marker, name in ends:
        axes.plot(cost, fixed["left", length], marker, mfc="none", mec="black", ms=11, label=name, ls="")
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("Jacobian evaluations of the run")
    plain_log_ticks(axes.xaxis)
    axes.grid(alpha=0.3)


BENCHMARKS = {"sections": sections}
