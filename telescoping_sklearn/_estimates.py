"""Sums over all label directions of a quadratic form of the response: exact, or estimated from random columns.

Effective parameters and the trace of S are such sums. `choose_sum` decides, once a question, how one is computed: by
a model's own exact sums, by a unit column for every label, or by probes. `sum_over_columns` computes the last two.

An estimate adds the sum over the leading directions, which are carried as they are, and the mean over probes: random
columns v orthogonal to them with E[v v^T] the projection on the rest.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from numbers import Integral
from typing import Any, NamedTuple

import joblib
import numpy as np
from numpy.typing import NDArray
from scipy import special

from telescoping_sklearn._memory import working_memory_bytes
from telescoping_sklearn._telescope import ExactSums, Plan, Telescope

#: Above this many multiplications an exact answer from unit columns is no longer the automatic choice.
AUTO_EXACT_OPERATIONS = 1e11
#: The same for a model's own exact sums, whose steps are slower: some seconds.
AUTO_SUM_OPERATIONS = 1e10
#: Probes that the automatic choice takes when it estimates.
AUTO_PROBES = 32
#: Questions whose probes are kept, so that asking again with more of them carries only the new ones.
KEPT_QUESTIONS = 8
#: Directions from which on the mean over probes counts as normal.
_MOST_DIRECTIONS = 1e6
#: Most by which a standard error is widened: for four probes or two no number would do.
_WIDEST = 4.0

#: Of label columns (n_train, k) and their response (n_query, k), each with its outputs: one value a column, (..., k).
Statistic = Callable[[NDArray, NDArray], NDArray]


class Estimate(NamedTuple):
    """A number, or an array of them, with its standard error.

    Attributes
    ----------
    value : ndarray
        The number; without bias where it is estimated.
    standard_error : ndarray
        0 where the number is exact. Where few directions of the labels carry an estimate, as in the first stages of a
        net or with trees of two leaves, estimates are skewed: most errors are small, and large ones fall below the
        true value. There the standard error is wider than the spread of the estimates, at 32 probes up to twice as
        wide. The true value then lies beyond four standard errors in about one case of a thousand or fewer with 16
        probes and more; with few directions and 8 probes in 0.4 % of cases, with 4 in 2.5 %, with 2 in 13 %. Where
        the model repeats almost every training label, estimates on the training rows are skewed the other way, by
        parts in 100,000, and 0.5 % of them are that far off.
    """

    value: NDArray
    standard_error: NDArray


class KeptValues:
    """Values of groups of probes by question; those of the questions asked last are kept."""

    def __init__(self) -> None:
        self._of_question: OrderedDict[Hashable, dict[tuple[int, int], NDArray]] = OrderedDict()

    def __len__(self) -> int:
        """Count the questions kept."""
        return len(self._of_question)

    def clear(self) -> None:
        """Keep nothing."""
        self._of_question.clear()

    def of(self, question: Hashable) -> dict[tuple[int, int], NDArray]:
        """Values of a question by first and last probe of a group; the caller adds to them."""
        kept = self._of_question.setdefault(question, {})
        self._of_question.move_to_end(question)
        while len(self._of_question) > KEPT_QUESTIONS:
            self._of_question.popitem(last=False)
        return kept


def choose_sum(telescope: Telescope, n_probes: Any, n_query: int) -> ExactSums | Plan | int:
    """Choose how a sum over all label directions is computed: None is exact, "auto" too where that is cheap.

    Returns the model's own exact sums, the plan for a unit column for every label, or a number of probes.
    """
    _check_n_probes(n_probes)
    if isinstance(n_probes, Integral):
        return int(n_probes)
    n_labels = telescope.n_columns
    columns, sums = telescope.forward_plan(n_query, n_labels), telescope.exact_sums(n_query)
    if sums is not None and sums.operations > columns.operations:
        sums = None
    fits = n_labels * columns.column_bytes <= working_memory_bytes()
    cheap = fits and columns.operations <= AUTO_EXACT_OPERATIONS
    if n_probes is None or cheap:
        return columns if sums is None else sums
    return sums if sums is not None and sums.operations <= AUTO_SUM_OPERATIONS else AUTO_PROBES


def sum_over_columns(
    telescope: Telescope,
    X: NDArray | None,
    statistic: Statistic,
    stages: NDArray,
    way: Plan | int,
    kept: KeptValues,
    question: tuple[Hashable, ...],
) -> Estimate:
    """Sum a statistic of the response, a quadratic form of its column, over all directions of the labels.

    ``way`` is the plan for unit columns, or a number of probes, whose values are kept by ``question``, the statistic's
    name. Stages come first in the answer, then what the statistic has before its columns.
    """
    if isinstance(way, Plan):
        blocks = (unit_columns(telescope, columns) for columns in trained_blocks(telescope, way))
        parts = (of.sum(axis=-1) for of in _values(telescope, way, X, statistic, stages, blocks))
        total = sum(parts, start=np.zeros(()))
        return Estimate(total, np.zeros_like(total))
    of_groups = kept.of((*question, joblib.hash(X), stages.tobytes(), telescope.seed))
    groups = list(_probe_groups(way))
    for group in groups:
        if group not in of_groups:
            plan, probes = probe_blocks(telescope, X, *group)
            of_groups[group] = np.concatenate(list(_values(telescope, plan, X, statistic, stages, probes)), axis=-1)
    columns = np.concatenate([of_groups[group] for group in groups], axis=-1)
    leading, of_probes = np.split(columns, [columns.shape[-1] - way], axis=-1)
    mean, standard_error = _mean_and_error(of_probes)
    return Estimate(leading.sum(axis=-1) + mean, standard_error)


def _values(
    telescope: Telescope,
    plan: Plan,
    X: NDArray | None,
    statistic: Statistic,
    stages: NDArray,
    blocks: Iterator[NDArray],
) -> Iterator[NDArray]:
    """Yield a statistic of the staged response, stages first and columns last, block by block."""
    for V in blocks:
        yield np.stack([statistic(V, response) for response in telescope.apply_response(plan, X, V, False, stages)])


def trained_blocks(telescope: Telescope, plan: Plan) -> Iterator[NDArray]:
    """Blocks of the labels trained on, or of what columns stand for, numbered row by row; others have no response.

    Where the plan names an output, they are its labels.
    """
    of_row = math.prod(telescope.column_shape[1:])
    labels = np.flatnonzero(np.repeat(telescope.trained, of_row))
    if plan.output is not None:
        labels = labels[plan.output % of_row :: of_row]
    return (labels[block] for block in plan.blocks(len(labels)))


def unit_columns(telescope: Telescope, columns: NDArray) -> NDArray:
    """Columns of the identity over all labels, (n_train, k) or (n_train, n_outputs, k)."""
    V = np.zeros((math.prod(telescope.column_shape), len(columns)))
    V[columns, np.arange(len(columns))] = 1.0
    return V.reshape(*telescope.column_shape, -1)


def leading_directions(telescope: Telescope) -> NDArray:
    """Orthonormal directions that dominate S early in training: equal labels and, where they differ, the rows' weights.

    Returns (n_labels, 1) or (n_labels, 2), with several outputs as many for each, over the labels row by row; rows that
    are not trained on are zero.
    """
    weights = telescope.row_weights
    equal = telescope.trained / np.sqrt(telescope.n_trained)
    rest = weights - equal * (equal @ weights)
    differ = np.linalg.norm(rest) > 1e-6 * np.linalg.norm(weights)
    directions = np.column_stack([equal, rest / np.linalg.norm(rest)] if differ else [equal])
    return np.kron(directions, np.eye(telescope.n_outputs))


def probe_blocks(telescope: Telescope, X: NDArray | None, first: int, last: int) -> tuple[Plan, Iterator[NDArray]]:
    """Plan a group of probes and return them block by block; the leading directions come before the first probe."""
    leading = leading_directions(telescope)
    columns = [*leading.T] if first == 0 else []
    ahead = len(columns)
    n_columns = ahead + last - first
    plan = telescope.forward_plan(telescope.n_query(X), n_columns)

    def stack(block: slice) -> NDArray:
        numbers = range(first + max(block.start - ahead, 0), first + max(block.stop - ahead, 0))
        drawn = np.stack([*columns[block], *(_probe(telescope, number, leading) for number in numbers)])
        return np.ascontiguousarray(drawn.T).reshape(*telescope.y.shape, -1)

    return plan, map(stack, plan.blocks(n_columns))


def _probe(telescope: Telescope, number: int, leading: NDArray) -> NDArray:
    """One probe, the same however many are asked for: uniform on a sphere orthogonal to the leading directions.

    Its length is fixed, so that it gives the trace of the identity without error, as random signs do.
    """
    drawn, values = (telescope.n_trained, *telescope.output_shape), np.zeros(telescope.y.shape)
    values[telescope.trained] = np.random.default_rng((telescope.seed, number)).standard_normal(drawn)
    probe = values.ravel()
    probe -= leading @ (leading.T @ probe)
    left = math.prod(drawn) - leading.shape[1]
    return probe * np.sqrt(left) / np.linalg.norm(probe) if left > 0 else np.zeros_like(probe)


def _probe_groups(n_probes: int) -> Iterator[tuple[int, int]]:
    """First and last of the probes that are carried together: groups end at 32, 64, 128, ... and at the last probe.

    Kept groups are used again only whole. A column's last bits depend on the columns that it is carried with, so this
    is what makes an answer the same whatever was asked before; and doubling the probes carries only the new ones.
    """
    first, end = 0, AUTO_PROBES
    while first < n_probes:
        yield first, min(end, n_probes)
        first, end = end, 2 * end


def _mean_and_error(columns: NDArray) -> Estimate:
    """Mean over the last axis, and a standard error that holds for skewed values too.

    Values are taken for sums over d equal directions: then the mean over k of them is a chi-squared variable with k d
    degrees of freedom over that number, and d follows from their spread. A low mean comes with a low standard error,
    which is widened such that the mean falls four of them short of the truth as rarely as a normal variable does. For
    few columns, whose own spread is uncertain, Student's t joins in.
    """
    count, mean = columns.shape[-1], columns.mean(axis=-1)
    variance = columns.var(axis=-1, ddof=1)
    directions = 2 * mean**2 / np.where(variance > 0, variance, 1.0)
    freedom = count * np.clip(directions, 1.0, _MOST_DIRECTIONS)
    lowest = 2 * special.gammaincinv(freedom / 2, special.ndtr(-4.0)) / freedom  # a quantile of chi-squared
    skewed = (1 / lowest - 1) / (4 * np.sqrt(2 / freedom))
    few = max(1.0, -special.stdtrit(count - 1, 0.0005) / 4)  # a quantile of Student's t
    return Estimate(mean, np.clip(skewed * few, 1.0, _WIDEST) * np.sqrt(variance / count))


def _check_n_probes(n_probes: Any) -> None:
    """Raise unless ``n_probes`` is None, "auto" or an int of at least 2."""
    if n_probes is None or (isinstance(n_probes, str) and n_probes == "auto"):
        return
    if not isinstance(n_probes, Integral) or isinstance(n_probes, bool):
        raise TypeError(f"n_probes must be None (exact), 'auto' or an int of at least 2, got {n_probes!r}.")
    if n_probes < 2:
        raise ValueError(f"n_probes={n_probes} must be at least 2, or there is no standard error.")
