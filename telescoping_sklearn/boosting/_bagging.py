"""The bags of a LightGBM model, drawn again.

LightGBM does not tell which rows were in the bag of a tree, but how it draws them is known: rows come in blocks of
1024, the b-th block has a linear congruential generator of its own that starts from ``bagging_seed + b``, and a row is
in the bag where the next draw lies below the bagging fraction. A bag that lets no tree grow is passed over and another
one drawn. So the bags are drawn here in the same order, and every tree takes the first one that puts as many rows in
each of its leaves as LightGBM counted there; if none does, that is an error and not a guess.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._ensemble import Bags

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
    most : int
        Times that LightGBM was asked for a tree: the largest number of bags.
    """

    fraction: float
    freq: int
    seed: int
    most: int


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
    for _ in range(plan.most):
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
        If no bag fits a tree.
    """
    drawn, bags, of_stage = draw_bags(plan, leaves.shape[1]), list[NDArray](), list[int]()
    grown = 0
    for stage, counts in enumerate(leaf_counts, start=1):
        constant = len(counts) <= 1
        if constant:  # only the first tree can be: LightGBM does not count it as an iteration, and it needs no bag
            bags.append(np.ones(leaves.shape[1], dtype=bool))
        elif grown % plan.freq == 0:
            bags.append(_first_fitting(drawn, leaves[stage - 1], counts, stage))
        elif not _fits(bags[-1], leaves[stage - 1], counts):
            raise _no_bag(stage)
        grown += not constant
        of_stage.append(len(bags) - 1)
    return bags, of_stage


def _fits(bag: NDArray, leaves: NDArray, counts: NDArray) -> bool:
    return np.array_equal(np.bincount(leaves[bag], minlength=len(counts)), counts)


def _first_fitting(drawn: Iterator[NDArray], leaves: NDArray, counts: NDArray, stage: int) -> NDArray:
    for bag in drawn:
        if _fits(bag, leaves, counts):
            return bag
    raise _no_bag(stage)


def _no_bag(stage: int) -> ValueError:
    return ValueError(
        f"No bag drawn as LightGBM draws them fits tree {stage}. If the arrays given to fit were changed since, fit "
        "again; otherwise this version of LightGBM draws bags in another way: fit with subsample=1.0 and report it."
    )


def stack_bags(segments: Iterable[tuple[list[NDArray], list[int]]], rows: NDArray, n_rows: int) -> Bags:
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
    Bags
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
    return Bags(bags, np.array(of_stage))
