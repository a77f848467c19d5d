"""Effective parameters over chosen sections, held against those of single updates."""

import warnings

import numpy as np

from tests.performance._data import houses, threes_and_fives
from tests.performance._measure import readable_seconds, timed
from tests.performance._results import Result, markdown_table
from tests.performance.neural import net

_SGD = {"optimizer": "sgd", "learning_rate_init": 0.1}
_ADAMW = {"optimizer": "adamw", "weight_decay": 0.1, "betas": (0.9, 0.99)}
#: Optimiser's settings and epochs by name; labels are standardised houses' prices, or 0 and 1 of digits.
HOUSES = {
    "SGD 0.1": (_SGD, 400),
    "SGD 0.1, full batch": (_SGD | {"batch_size": "full"}, 2000),
    "SGD 0.02, momentum 0.9": (_SGD | {"learning_rate_init": 0.02, "momentum": 0.9}, 400),
    "Adam 0.001": ({"learning_rate_init": 1e-3}, 400),
    "Adam 0.004": ({"learning_rate_init": 4e-3}, 200),
    "AdamW 0.001, decay 0.1": (_ADAMW | {"learning_rate_init": 1e-3}, 400),
    "Adam 0.001, initial weights times 3": ({"learning_rate_init": 1e-3, "init_scale": 3.0}, 400),
}
DIGITS = {
    "SGD 0.1": (_SGD, 400),
    "AdamW 0.001, decay 0.1": (_ADAMW | {"learning_rate_init": 1e-3}, 200),
    "AdamW 0.0001, decay 0.1, initial weights times 6": (
        _ADAMW | {"learning_rate_init": 1e-4, "init_scale": 6.0},
        8000,
    ),
}
STAGES, PROBES = 4, 8


def response(quick):
    """Effective parameters on other rows, with chosen sections and with single updates, from the same probes."""
    n, m, share = (60, 20, 0.01) if quick else (500, 250, 1.0)
    cases = [(houses(n, m), (64, 64), name, *how) for name, how in HOUSES.items()]
    cases += [(threes_and_fives(n, m), (100, 100), name, *how) for name, how in DIGITS.items()]
    lines = [_line(*case, share) for case in cases]
    header = (
        "data, net, optimiser", "updates", "sections", "p at quarters of the run, sections / single updates",
        "largest relative gap", "error stated", "sound until, sections / single updates", "time, sections / single",
    )  # fmt: skip
    return Result("Effective parameters over sections", [], [_INTRODUCTION, markdown_table(header, lines)])


_INTRODUCTION = (
    f"Effective parameters of 250 other rows from the same {PROBES} probes (500 training rows, batches of 200): with "
    '`section="auto"`, and with single updates. `nan` stands where the response is not sound, and "error stated" is '
    "`section_bias_`. Times are those of the whole question, the choice of sections included."
)


def _line(data, hidden, name, settings, epochs, share):
    given = {"batch_size": 200, "max_iter": max(2, round(share * epochs))} | settings
    model = net(hidden, **given).fit(data.X, data.y)
    chosen, single = (_answer(model, data.query, section) for section in ("auto", 1))
    with np.errstate(invalid="ignore"):
        gap = np.abs(chosen["p"] / single["p"] - 1)
    return (
        f"{data.name}, {hidden}, {name}",
        model.n_stages_,
        chosen["sections"],
        ", ".join(f"{ours:.4g} / {theirs:.4g}" for ours, theirs in zip(chosen["p"], single["p"], strict=True)),
        f"{np.nanmax(gap):.1%}" if np.isfinite(gap).any() else "",
        f"{chosen['bias']:.1%}",
        f"{chosen['sound']} / {single['sound']}",
        f"{readable_seconds(chosen['seconds'])} / {readable_seconds(single['seconds'])}",
    )


def _answer(model, query, section):
    model.set_params(section=section)
    found = {}

    def ask():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # nan says the same in the table
            found["p"] = model.staged_effective_params(query, STAGES, n_probes=PROBES)

    seconds = timed(ask)
    return found | {
        "seconds": seconds,
        "sections": len(model.section_ends_),
        "bias": model.section_bias_,
        "sound": model.last_sound_stage_,
    }


BENCHMARKS = {"response": response}
