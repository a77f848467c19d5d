"""Measuring: contenders take turns, so that a slow minute of the machine is shared; memory is a child process's own."""

import cProfile
import io
import json
import pstats
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Seconds:
    """Wall-clock times of one contender, one a repeat."""

    values: tuple[float, ...]

    @property
    def median(self):
        return float(np.median(self.values))

    def divided_by(self, count):
        """The same, for one of ``count`` equal parts."""
        return Seconds(tuple(value / count for value in self.values))

    def __str__(self):
        return readable_seconds(self.median)


@dataclass(frozen=True)
class Ratio:
    """A contender's time over ours: median and range over the repeats."""

    values: tuple[float, ...]

    @property
    def median(self):
        return float(np.median(self.values))

    def __str__(self):
        if len(self.values) == 1:
            return f"{self.median:.3g} (one run)"
        return f"{self.median:.3g} ({min(self.values):.3g} to {max(self.values):.3g})"


def timed(work):
    """Seconds that a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def side_by_side(contenders: dict[str, Callable], repeats: int, *, warm_up: bool = True) -> dict[str, Seconds]:
    """Time every contender ``repeats`` times, taking turns; one round before, not counted, unless told otherwise."""
    if warm_up:
        for work in contenders.values():
            work()
    rounds = [{name: timed(work) for name, work in contenders.items()} for _ in range(repeats)]
    return {name: Seconds(tuple(times[name] for times in rounds)) for name in contenders}


def ratio(peer: Seconds, ours: Seconds) -> Ratio:
    """Peer over ours, repeat by repeat where both ran as often; otherwise of every time to the other's median."""
    if len(peer.values) == len(ours.values):
        return Ratio(tuple(theirs / mine for theirs, mine in zip(peer.values, ours.values, strict=True)))
    if len(peer.values) > len(ours.values):
        return Ratio(tuple(theirs / ours.median for theirs in peer.values))
    return Ratio(tuple(peer.median / mine for mine in ours.values))


def readable_seconds(seconds: float) -> str:
    """Seconds to three digits, in milliseconds below a second."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


# -- profiles ----------------------------------------------------------------------------------------------------------


def profile(work: Callable, top: int = 14) -> str:
    """Functions by cumulative time of one call, as ``pstats`` prints them, with file names cut short."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    printed = io.StringIO()
    pstats.Stats(profiler, stream=printed).strip_dirs().sort_stats("cumulative").print_stats(top)
    lines = [line.rstrip() for line in printed.getvalue().splitlines() if line.strip()]
    return "\n".join(line for line in lines if not re.match(r" +(Ordered by|List reduced)", line))


# -- memory ------------------------------------------------------------------------------------------------------------


def in_child(module: str, *arguments: str) -> dict:
    """Run a module in a fresh process and return the JSON object that it prints last."""
    finished = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise RuntimeError(f"{module} failed:\n{finished.stderr}")
    return json.loads(finished.stdout.splitlines()[-1])


def resident_memory(*, peak: bool) -> int:
    """Bytes of this process's resident set, now or at its largest.

    Linux's own count of the process image: ``getrusage`` also counts what the parent held when it forked. Elsewhere
    the largest stands for both.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+)", status.read_text())[1])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
