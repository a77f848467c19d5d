"""The bags of a LightGBM model, drawn again.

LightGBM does not say which rows were in the bag of a tree, but its generator is known. Rows come in blocks of 1024.
Block b has its own linear congruential generator, seeded with ``bagging_seed + b``. A row is in the bag if its draw is
below the bagging fraction. A new bag is drawn when the number of trees so far is a multiple of ``bagging_freq``. An
iteration that grows no tree is followed by another draw. After a bag of all rows no further bag is drawn. The fit
records which iterations grew a tree, and the bags are drawn here in the same order. Each bag must put as many rows in
each leaf of its tree as LightGBM counted there; otherwise an error is raised.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._ensemble import RowSets

_BLOCK = 1024
#: Iterations without a tree that are allowed where it is not known which they were.
_MOST_IDLE = 200
_MULTIPLIER, _INCREMENT = 214013, 2531011


class BagDraws(NamedTuple):
    """How bags were drawn: share of the rows in a bag, trees between two bags, LightGBM's ``bagging_seed``.

    ``grown`` says of each iteration whether it grew a tree. None where that is not known: bags are then drawn until
    one fits the tree.
    """

    fraction: float
    freq: int
    seed: int
    grown: tuple[bool, ...] | None


def _jumps() -> tuple[NDArray, NDArray]:
    """Factors and increments that advance the generator by 1, 2, ..., 1024 steps."""
    factors, increments = np.empty(_BLOCK, dtype=np.uint32), np.empty(_BLOCK, dtype=np.uint32)
    factor, increment = 1, 0
    for step in range(_BLOCK):
        factor = factor * _MULTIPLIER % 2**32
        increment = (increment * _MULTIPLIER + _INCREMENT) % 2**32
        factors[step], increments[step] = factor, increment
    return factors, increments


def draw_bags(plan: BagDraws, n_rows: int) -> Iterator[NDArray]:
    """Yield bags of ``n_rows`` rows in LightGBM's order, each (n_rows,) bool."""
    factors, increments = _jumps()
    n_blocks = -(-n_rows // _BLOCK)
    states = ((np.arange(n_blocks) + plan.seed) % 2**32).astype(np.uint32)
    in_last = n_rows - _BLOCK * (n_blocks - 1)
    while True:
        drawn = factors * states[:, None] + increments
        states = drawn[:, -1].copy()
        states[-1] = drawn[-1, in_last - 1]
        uniform = ((drawn >> np.uint32(16)) & np.uint32(0x7FFF)) / 32768.0
        yield (uniform < plan.fraction).ravel()[:n_rows]


def find_bags(plan: BagDraws, leaves: NDArray, leaf_counts: Sequence[NDArray]) -> tuple[list[NDArray], list[int]]:
    """Find the bags in use, each (n_rows,) bool, and the position among them of the bag of every tree.

    ``leaves``, (n_stages, n_rows), are those of the rows given to LightGBM. Bags are checked against ``leaf_counts``,
    LightGBM's row counts of every leaf.
    """
    every_row = np.ones(leaves.shape[1], dtype=bool)
    drawn, bags, of_stage = draw_bags(plan, leaves.shape[1]), [every_row], list[int]()
    grown = None if plan.grown is None else plan.grown[: _iterations(plan.grown, len(leaf_counts))]
    iteration, idle = 0, 0
    for grew in repeat(True) if grown is None else grown:
        stage = len(of_stage)
        if stage == len(leaf_counts):
            break
        if iteration % plan.freq == 0 and (len(bags) == 1 or not bags[-1].all()):
            bags.append(next(drawn))
        if not grew:
            continue
        constant = len(leaf_counts[stage]) <= 1  # the first tree, holding the start alone; LightGBM does not count it
        if not constant and not _fits(bags[-1], leaves[stage], leaf_counts[stage]):
            idle += 1
            if grown is not None or iteration % plan.freq or idle > _MOST_IDLE:
                raise _no_bag(stage + 1)
            continue
        of_stage.append(0 if constant else len(bags) - 1)
        iteration += not constant
    return bags, of_stage


def _iterations(grown: tuple[bool, ...], n_trees: int) -> int:
    """Count the iterations up to the last of so many trees."""
    return int(np.flatnonzero(grown)[n_trees - 1]) + 1 if n_trees else 0


def _fits(bag: NDArray, leaves: NDArray, counts: NDArray) -> bool:
    return np.array_equal(np.bincount(leaves[bag], minlength=len(counts)), counts)


def _no_bag(stage: int) -> ValueError:
    return ValueError(
        f"The bag drawn again for tree {stage} does not match the row counts of its leaves: this version of LightGBM "
        "draws bags in another way. Fit with subsample=1.0, and please report this."
    )


def stack_bags(segments: Iterable[tuple[list[NDArray], list[int]]], rows: NDArray, n_rows: int) -> RowSets:
    """Join results of `find_bags` for consecutive fits, over all ``n_rows`` rows, of which LightGBM got ``rows``."""
    bags: list[NDArray] = []
    of_stage: list[int] = []
    for found, positions in segments:
        of_stage += [len(bags) + position for position in positions]
        for bag in found:
            whole = np.zeros(n_rows, dtype=bool)
            whole[rows] = bag
            bags.append(whole)
    return RowSets(bags, np.array(of_stage))
