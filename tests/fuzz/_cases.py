"""How a case of random settings ends, and the run of many of them."""

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from telescoping_sklearn._telescope import UnstableResponseError


class Outcome(NamedTuple):
    """How a case ended: "exact", "refused" or "failed", and why."""

    kind: str
    reason: str


class Failed(AssertionError):
    """A number or an error that must not be."""


def need(condition: Any, what: str) -> None:
    """Raise Failed unless a condition holds."""
    if not condition:
        raise Failed(what)


def close(found, expected, what: str, rtol: float) -> None:
    """Raise Failed where arrays differ by more than rounding of their largest entry, or of a thousandth."""
    found, expected = np.asarray(found), np.asarray(expected)
    need(found.shape == expected.shape, f"{what}: shape {found.shape}, not {expected.shape}")
    gap, size = np.abs(found - expected).max(initial=0.0), np.abs(expected).max(initial=0.0)
    need(gap <= rtol * max(size, 1e-3), f"{what}: gap {gap:.3g}, size {size:.3g}")


def number_types(value: Any) -> list[Any]:
    """The same number in every type that a parameter may have; nothing for what is no number."""
    if isinstance(value, bool | np.bool_):
        return [bool(value), np.bool_(value)]
    if isinstance(value, int):
        kinds = (int, np.int64, np.uint16, np.int8)
        return [kind(value) for kind in kinds if kind is int or np.iinfo(kind).min <= value <= np.iinfo(kind).max]
    if not isinstance(value, float):
        return []
    same = [kind(value) for kind in (float, np.float64, np.float32, np.float16) if float(str(kind(value))) == value]
    return same + [kind(value) for kind in (int, np.int64) if value.is_integer()]


def retyped(seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the same numbers in other types, drawn apart from the case itself."""
    rng = np.random.default_rng((seed, 1))
    drawn = {}
    for name, value in settings.items():
        kinds = number_types(value)
        drawn[name] = kinds[rng.integers(len(kinds))] if kinds else value
    return drawn


def outcome_of(fit: Callable[[], Any], check: Callable[[], str]) -> Outcome:
    """Fit, and check the answers: exact, refused by a ValueError of the fit or an unstable response, or failed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)  # most runs of nets are too short to learn
        warnings.filterwarnings("ignore", ".torch.jit.script. is", DeprecationWarning)  # torch.func.jvp still uses it
        try:
            fit()
        except ValueError as error:
            return Outcome("refused", reason_of(error))
        except Exception as error:
            return Outcome("failed", f"fit: {type(error).__name__}: {str(error)[:160]}")
        try:
            return Outcome("exact", check())
        except UnstableResponseError:
            return Outcome("refused", "when asked: the response of the run is unstable")
        except Exception as error:
            return Outcome("failed", f"{type(error).__name__}: {str(error)[:200]}")


def reason_of(error: Exception) -> str:
    """A refusal without its numbers."""
    text = str(error).split("\n")[0]
    return re.sub(r"\(#[^)]*\)", "(rows)", re.sub(r"-?\d[\d.e+-]*", "#", text))[:110]


def table(outcomes: dict[int, Outcome]) -> str:
    """Counts by kind and reason, with the seeds of failures."""
    counts = Counter(outcomes.values())
    lines = [f"{len(outcomes)} cases"]
    for kind in ("exact", "refused", "failed"):
        lines.append(f"{sum(n for outcome, n in counts.items() if outcome.kind == kind):7d} {kind}")
        of_kind = sorted(((n, outcome) for outcome, n in counts.items() if outcome.kind == kind), reverse=True)
        for n, outcome in of_kind:
            seeds = [seed for seed, found in outcomes.items() if found == outcome]
            shown = f"   seeds {', '.join(map(str, seeds[:8]))}" if kind == "failed" else ""
            lines.append(f"{n:15d} {outcome.reason}{shown}")
    return "\n".join(lines)


def run(check_seed: Callable[[int], Outcome], description: str | None, argv: list[str] | None = None) -> int:
    """Work a range of seeds from the command line; the exit status says whether one failed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="number of seeds")
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    args = parser.parse_args(argv)
    outcomes = {}
    with suppress(KeyboardInterrupt), tqdm(range(args.seed, args.seed + args.n), desc="cases") as seeds:
        for seed in seeds:  # an interrupt ends the run; the table says how far it came
            outcomes[seed] = check_seed(seed)
            if outcomes[seed].kind == "failed":
                seeds.write(f"seed {seed}: {outcomes[seed].reason}", file=sys.stderr)
    print(table(outcomes))
    return int(any(outcome.kind == "failed" for outcome in outcomes.values()))
