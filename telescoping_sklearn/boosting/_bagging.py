"""The bags of a LightGBM model, drawn again.

LightGBM does not tell which rows were in the bag of a tree, but how it draws them is known: rows come in blocks of
1024, the b-th block has a linear congruential generator of its own that starts from ``bagging_seed + b``, and a row is
in the bag where the next draw lies below the bagging fraction. A bag is drawn when the number of trees grown so far is
a multiple of ``bagging_freq``; where no tree can be grown on it, the next attempt draws another; and a bag of all rows
is the last. The fit notes which attempts grew a tree, the bags are drawn here in the same order, and every tree's bag
must put as many rows in each of its leaves as LightGBM counted there: if one does not, that is an error.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._ensemble import RowSets

_BLOCK = 1024
_MULTIPLIER, _INCREMENT = 214013, 2531011


class BaggingPlan(NamedTuple):
    """How bags were drawn.

    Attributes
    ----------
    fraction : float
        Share of the rows in a bag.
    freq : int
        Trees between two bags.
    seed : int
        LightGBM's ``bagging_seed``.
    grown : tuple of bool
        Whether each attempt to grow a tree gave one.
    """

    fraction: float
    freq: int
    seed: int
    grown: tuple[bool, ...]


def _jumps() -> tuple[NDArray, NDArray]:
    """Factor and increment that take the generator 1, 2, ..., 1024 steps ahead."""
    factors, increments = np.empty(_BLOCK, dtype=np.uint32), np.empty(_BLOCK, dtype=np.uint32)
    factor, increment = 1, 0
    for step in range(_BLOCK):
        factor = factor * _MULTIPLIER % 2**32
        increment = (increment * _MULTIPLIER + _INCREMENT) % 2**32
        factors[step], increments[step] = factor, increment
    return factors, increments


def draw_bags(plan: BaggingPlan, n_rows: int) -> Iterator[NDArray]:
    """Yield bags in LightGBM's order.

    Parameters
    ----------
    plan : BaggingPlan
        How they were drawn.
    n_rows : int
        Rows given to LightGBM.

    Yields
    ------
    ndarray of bool of shape (n_rows,)
        Whether each row is in the bag.
    """
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


def find_bags(plan: BaggingPlan, leaves: NDArray, leaf_counts: Sequence[NDArray]) -> tuple[list[NDArray], list[int]]:
    """Find the bag of every tree.

    Parameters
    ----------
    plan : BaggingPlan
        How bags were drawn.
    leaves : ndarray of int of shape (n_stages, n_rows)
        Leaf of every row given to LightGBM, in every tree.
    leaf_counts : sequence of ndarray of int of shape (n_leaves,)
        Rows of its bag in every leaf, as LightGBM counted them.

    Returns
    -------
    bags : list of ndarray of bool of shape (n_rows,)
        The bags in use.
    of_stage : list of int
        Position of every tree's bag.

    Raises
    ------
    ValueError
        If a bag does not fit its tree.
    """
    every_row = np.ones(leaves.shape[1], dtype=bool)
    drawn, bags, of_stage = draw_bags(plan, leaves.shape[1]), [every_row], list[int]()
    iteration = 0
    for grown in plan.grown[: _attempts(plan.grown, len(leaf_counts))]:
        if iteration % plan.freq == 0 and (len(bags) == 1 or not bags[-1].all()):
            bags.append(next(drawn))
        if not grown:
            continue
        stage = len(of_stage)
        constant = len(leaf_counts[stage]) <= 1  # the first tree only: the start, and no iteration of LightGBM's
        of_stage.append(0 if constant else len(bags) - 1)
        iteration += not constant
        if not constant and not _fits(bags[-1], leaves[stage], leaf_counts[stage]):
            raise _no_bag(stage + 1)
    return bags, of_stage


def _attempts(grown: tuple[bool, ...], n_trees: int) -> int:
    """Count the attempts up to the last of so many trees."""
    return int(np.flatnonzero(grown)[n_trees - 1]) + 1 if n_trees else 0


def _fits(bag: NDArray, leaves: NDArray, counts: NDArray) -> bool:
    return np.array_equal(np.bincount(leaves[bag], minlength=len(counts)), counts)


def _no_bag(stage: int) -> ValueError:
    return ValueError(
        f"The bag drawn again for tree {stage} does not fit the leaves of that tree: this version of LightGBM draws "
        "bags in another way. Fit with subsample=1.0 and report it."
    )


def stack_bags(segments: Iterable[tuple[list[NDArray], list[int]]], rows: NDArray, n_rows: int) -> RowSets:
    """Join the bags of consecutive stretches of trees, over all rows that `fit` was given.

    Parameters
    ----------
    segments : iterable of (bags, of_stage)
        What `find_bags` gave for every stretch.
    rows : ndarray of int
        Rows that LightGBM was given.
    n_rows : int
        Rows that `fit` was given.

    Returns
    -------
    RowSets
        The bags of all trees.
    """
    bags: list[NDArray] = []
    of_stage: list[int] = []
    for found, positions in segments:
        of_stage += [len(bags) + position for position in positions]
        for bag in found:
            whole = np.zeros(n_rows, dtype=bool)
            whole[rows] = bag
            bags.append(whole)
    return RowSets(bags, np.array(of_stage))
