"""A telescope: a fitted model seen as the sum of its stages.

A telescope knows three things, its hooks: where the model starts (`Telescope.start`), what the kernel of one stage
looks like at any query (`Telescope.staged_kernel`), and how columns of labels travel through training with all learned
structure held fixed (`Telescope.staged_response`). Everything a user asks for is derived from them here, once, for
trees and nets alike:

- with V = I the response is the matrix S of kernel weights, the weight of each training label in each prediction;
- with V = 0 and the offset carried it is c, what is left when all labels are zero, so that S y + c rebuilds the model;
- with a few columns it estimates norms and traces of S without forming S, see `Telescope._column_statistic`.

Arrays are ``(n_query, n_train)`` and staged results put the stage first. A query of ``None`` means the training rows.
"""

import math
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple, TypeVar

import joblib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special
from tqdm.auto import tqdm

from telescoping_sklearn._memory import items_per_block, refuse_if_too_large, working_memory_bytes

#: Above this many multiplications an exact answer is no longer the automatic choice.
AUTO_EXACT_OPERATIONS = 1e11
#: Probes that the automatic choice takes when it estimates.
AUTO_PROBES = 32
#: Questions whose probes are kept, so that asking again with more of them carries only the new ones.
KEPT_QUESTIONS = 8
#: Directions from which on the mean over probes counts as normal.
_MOST_DIRECTIONS = 1e6
#: Most by which a standard error is widened: for four probes or two no number would do.
_WIDEST = 4.0

Subsets = Sequence[ArrayLike] | None
Item = TypeVar("Item")


class NotASmootherError(ValueError):
    """Raised where a question presumes that weights times labels rebuild the prediction, and they do not."""


class UnstableResponseError(ValueError, AttributeError):
    """Raised where a question needs the label response at a stage beyond which it is not sound."""


class Start(NamedTuple):
    """Where a model starts, f_0 = A y + b.

    Attributes
    ----------
    label_weights : ndarray of shape (n_train,)
        A: the weight of every training label, the same at every query.
    offset : ndarray of shape (n_query,)
        b: what labels do not set.
    """

    label_weights: NDArray
    offset: NDArray


class ColumnCost(NamedTuple):
    """What carrying one label direction through all stages costs.

    Attributes
    ----------
    operations : float
        Multiplications.
    bytes : float
        Memory held while the column is carried.
    fastest_block_bytes : float
        Bytes of a block of columns beyond which it only gets slower.
    """

    operations: float
    bytes: float
    fastest_block_bytes: float = math.inf


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


@dataclass(frozen=True)
class ApproximationError:
    """Gaps between a model and its telescope on a query set, in units of the label.

    Attributes
    ----------
    telescoping_mean, telescoping_max : float
        Mean and largest gap between the model and the telescoping model at the last stage.
    reconstruction_mean, reconstruction_max : float
        Mean and largest gap between the model and ``kernel_weights(X) @ y + offset(X)`` at the last stage.
    by_stage : pandas.DataFrame
        The same four columns for every stage asked for; the index is the stage.
    """

    telescoping_mean: float
    telescoping_max: float
    reconstruction_mean: float
    reconstruction_max: float
    by_stage: pd.DataFrame


def read_only(array: NDArray) -> NDArray:
    """View an array that later answers depend on, so that whoever is handed it cannot change them."""
    view = array.view()
    view.flags.writeable = False
    return view


def refuse_other_columns(X: NDArray, n_features: int) -> None:
    """Raise unless a telescope's query is an array of rows with as many columns as the model was fitted on."""
    if not isinstance(X, np.ndarray) or X.ndim != 2:
        raise TypeError(
            f"A telescope takes query rows as a two-dimensional array, got {type(X).__name__}. Ask the estimator: it "
            "takes data frames and checks their columns."
        )
    if X.shape[1] != n_features:
        raise ValueError(f"X has {X.shape[1]} features, but this telescope is expecting {n_features} features.")


def resolve_stages(stages: Any, n_stages: int, *, with_start: bool = True) -> NDArray[np.intp]:
    """Turn a request for stages into increasing stage numbers.

    Parameters
    ----------
    stages : None, int or array-like of int
        All stages 1..n_stages; that many evenly spaced ones with the last; or exactly those.
    n_stages : int
        Number of stages of the model.
    with_start : bool, default=True
        Whether 0, the start, may be asked for.

    Returns
    -------
    ndarray of int
        Stage numbers, strictly increasing.

    Raises
    ------
    ValueError
        If a stage does not exist or the order is not increasing.
    TypeError
        If the request holds anything but integers.

    Examples
    --------
    >>> resolve_stages(4, 100)
    array([ 25,  50,  75, 100])
    """
    if stages is None:
        return np.arange(1, n_stages + 1)
    if isinstance(stages, Integral) and not isinstance(stages, bool):
        if stages < 1:
            raise ValueError(f"stages={stages} must be at least 1: it is the number of evenly spaced stages.")
        spaced = np.linspace(0, n_stages, min(int(stages), n_stages) + 1)[1:]
        return np.round(spaced).astype(np.intp)
    asked = np.asarray(stages)
    if asked.ndim != 1 or asked.size == 0 or asked.dtype.kind not in "iu":
        raise TypeError(f"stages must be None, an int or a one-dimensional array of ints, got {stages!r}.")
    first = 0 if with_start else 1
    if asked.min() < first or asked.max() > n_stages:
        raise ValueError(f"stages must lie in {first}..{n_stages}, got values from {asked.min()} to {asked.max()}.")
    if np.any(np.diff(asked) <= 0):
        raise ValueError("stages must be strictly increasing: staged results come in the order of training.")
    return asked.astype(np.intp)


def resolve_subsets(subsets: Subsets, n_query: int) -> list[NDArray[np.intp]] | None:
    """Turn the sets of rows that a user may ask for into row numbers.

    Parameters
    ----------
    subsets : sequence of array-like of int or bool, or None
        Rows of the query that make up each set, by position (negative ones count from the end) or as a mask.
    n_query : int
        Number of query rows.

    Returns
    -------
    list of ndarray of int, or None
        Positions of the rows of every set; None for no sets.

    Raises
    ------
    ValueError
        If there is no set, or one is empty, no mask of all rows, or names a row that does not exist.
    """
    if subsets is None:
        return None
    sets = [_resolve_subset(position, np.asarray(rows), n_query) for position, rows in enumerate(subsets)]
    if not sets:
        raise ValueError("subsets must hold one set of rows or more, got none. Leave it out to ask about all rows.")
    return sets


def _resolve_subset(position: int, rows: NDArray, n_query: int) -> NDArray[np.intp]:
    name = f"subsets[{position}]"
    if rows.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, row numbers or a mask, got {rows.ndim} dimensions.")
    if rows.dtype == bool:
        if len(rows) != n_query:
            raise ValueError(f"{name} is a mask of {len(rows)} rows, and there are {n_query} query rows.")
        rows = np.flatnonzero(rows)
    if rows.size == 0:
        raise ValueError(f"{name} is empty: every set in subsets needs a row.")
    if not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"{name} must hold row numbers or be a mask, got {rows.dtype}.")
    if rows.min() < -n_query or rows.max() >= n_query:
        raise ValueError(f"{name} names rows from {rows.min()} to {rows.max()}, and there are {n_query} query rows.")
    return rows.astype(np.intp)


def _largest(magnitudes: NDArray, k: int) -> NDArray[np.intp]:
    """Columns of the ``k`` largest entries of every row, the largest first."""
    chosen = np.sort(np.argpartition(magnitudes, -k, axis=1)[:, -k:], axis=1)
    order = np.argsort(-np.take_along_axis(magnitudes, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)


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


class Telescope(ABC):
    """A fitted model as the sum of its stages; see the module's docstring.

    Subclasses give the three hooks, the model's own staged prediction, and what a column costs.

    Parameters
    ----------
    y : ndarray of shape (n_train,)
        Training labels.
    trained : ndarray of bool of shape (n_train,)
        Rows that were trained on; the others (held out, or of weight zero) have zero columns.
    seed : int
        Seeds the probes, so that the same question gets the same answer.
    """

    #: Whether long work shows how far it is.
    verbose: bool = False
    #: Stages at which kernel norms are taken unless told otherwise: None for all, or a number of evenly spaced ones.
    default_kernel_stages: int | None = None

    def __init__(self, *, y: NDArray, trained: NDArray, seed: int):
        self.y = read_only(np.asarray(y, dtype=np.float64))
        self.trained = read_only(trained)
        self.seed = seed
        self._training_peaks: dict[bytes, float] = {}
        self._probe_values: OrderedDict[Hashable, dict[tuple[int, int], NDArray]] = OrderedDict()

    @property
    def n_samples(self) -> int:
        """Number of training rows, held-out ones included: the length of a row of kernel weights."""
        return len(self.y)

    @property
    def n_trained(self) -> int:
        """Number of rows trained on: the n in the effective parameters."""
        return int(self.trained.sum())

    @property
    def row_weights(self) -> NDArray:
        """Weight of every training row; 0 where it is not trained on."""
        return self.trained.astype(np.float64)

    # -- the hooks ---------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def n_stages(self) -> int:
        """Number of stages T."""

    @abstractmethod
    def start(self, X: NDArray | None) -> Start:
        """First hook: the start f_0 = A y + b, as its parts."""

    @abstractmethod
    def staged_kernel(self, X: NDArray | None, stages: Any = None) -> Iterator[sparse.csr_array]:
        """Second hook: k_t, the kernel of each stage, (n_query, n_train)."""

    @abstractmethod
    def staged_response(
        self, X: NDArray | None, V: NDArray, offset: bool = False, stages: Any = None
    ) -> Iterator[NDArray]:
        """Third hook: F_t(X; V), (n_query, k) for each stage; ``offset=True`` appends the offset's column.

        It is raw, and goes on after the `last_sound_stage`.
        """

    @abstractmethod
    def staged_model(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the model's own prediction after each stage, (n_query,)."""

    @abstractmethod
    def staged_telescoping(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the telescoping model f_0 + sum of stages after each stage, (n_query,)."""

    @abstractmethod
    def column_cost(self, n_query: int, n_columns: int) -> ColumnCost:
        """Cost of carrying one of ``n_columns`` label directions to the last stage for ``n_query`` query rows."""

    # -- how far the response can be trusted; an exact one to the end ------------------------------------------------

    @property
    def last_sound_stage(self) -> int:
        """Last stage at which the label response passes the model's own checks; answers end there."""
        return self.n_stages

    def is_sound(self, stages: NDArray) -> NDArray:
        """Whether the label response passes the model's own checks at stages, (n_stages,)."""
        return np.ones(len(stages), dtype=bool)

    def response_error(self, X: NDArray | None, stages: NDArray) -> NDArray:
        """Relative error of effective parameters that an approximate response leaves at stages, (n_stages,)."""
        return np.zeros(len(stages))

    # -- derived -----------------------------------------------------------------------------------------------------

    def n_query(self, X: NDArray | None) -> int:
        """Count the rows of a query; None stands for the training rows."""
        return self.n_samples if X is None else len(X)

    def staged_kernel_norms(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield ||k_t(x)||_2 of every query row; a family may have a cheaper route."""
        for kernel in self.staged_kernel(X, stages):
            yield np.sqrt(np.asarray(kernel.multiply(kernel).sum(axis=1)).ravel())

    def kernel_weights(self, X: NDArray | None) -> NDArray:
        """S(x) = F_T(x; I), (n_query, n_train): the weight of every training label in every prediction."""
        shape = (self.n_query(X), self.n_samples)
        refuse_if_too_large(
            8.0 * shape[0] * shape[1],
            f"kernel_weights of {shape[0]} queries by {shape[1]} training rows",
            "Ask for fewer query rows at a time; effective_params(X, n_probes=32) needs no such matrix.",
        )
        self._refuse_unsound("kernel_weights")
        if self.prefers_backward(X):
            return self.backward_weights(X)
        weights = np.zeros(shape)
        columns = np.flatnonzero(self.trained)
        for block in self._column_blocks(len(columns), shape[0]):
            weights[:, columns[block]] = self._response(X, self._unit_columns(columns[block]))
        return weights

    def prefers_backward(self, X: NDArray | None) -> bool:
        """Whether `backward_weights` exists for the model and costs less than carrying every label forward."""
        return False

    def backward_weights(self, X: NDArray | None) -> NDArray:
        """S(x), (n_query, n_train), worked from the queries back to the labels; for few queries.

        It is raw: `kernel_weights` raises where the last stage is not sound.
        """
        raise NotImplementedError(f"{type(self).__name__} carries labels forward only.")

    def offset(self, X: NDArray | None) -> NDArray:
        """c(x), (n_query,): what is left of the prediction when all labels are zero."""
        self._refuse_unsound("offset")
        return self._response(X, np.empty((self.n_samples, 0)), offset=True)[:, 0]

    def top_examples(self, X: NDArray, k: int) -> tuple[NDArray[np.intp], NDArray]:
        """Find the ``k`` rows trained on that weigh most in every prediction; no matrix of all weights is made.

        Parameters
        ----------
        X : ndarray of shape (n_query, n_features)
            Query rows.
        k : int
            Rows to find, at most as many as were trained on.

        Returns
        -------
        rows : ndarray of int of shape (n_query, k)
            Training rows, the largest absolute weight first. Which of several equal ones are among them is not fixed.
        weights : ndarray of shape (n_query, k)
            Their kernel weights.

        Raises
        ------
        ValueError
            If there are not ``k`` rows that were trained on.
        TypeError
            If ``k`` is not an int.
        """
        self._check_k(k)
        n_query, columns = len(X), np.flatnonzero(self.trained)
        refuse_if_too_large(
            48.0 * n_query * k,  # rows and weights, and the five columns of the table made of them
            f"top_examples of {n_query} queries by {k} rows",
            "Ask for fewer query rows at a time, or for a smaller k.",
        )
        rows, weights = np.empty((n_query, k), dtype=np.intp), np.empty((n_query, k))
        size = items_per_block(8.0 * 4 * self.n_samples, n_query)  # weights, a copy of them, magnitudes and their order
        for first in range(0, n_query, size):
            block = slice(first, first + size)
            found = self.kernel_weights(X[block])[:, columns]
            largest = _largest(np.abs(found), k)
            rows[block], weights[block] = columns[largest], np.take_along_axis(found, largest, axis=1)
        return rows, weights

    def breakdown(self, X: NDArray | None, stages: Any = None) -> tuple[NDArray[np.intp], NDArray]:
        """Split the telescoping model into its start and what every stage, or stretch of stages, added to it.

        Parameters
        ----------
        X : ndarray of shape (n_query, n_features) or None
            Query rows.
        stages : None, int or array-like of int, default=None
            Last stages of the stretches; see `resolve_stages`.

        Returns
        -------
        stages : ndarray of int of shape (n_stretches + 1,)
            0, the start, and the stages asked for.
        contributions : ndarray of shape (n_stretches + 1, n_query)
            Their sum is the telescoping model after the last stage asked for.
        """
        asked = np.union1d([0], resolve_stages(stages, self.n_stages))
        n_query = self.n_query(X)
        refuse_if_too_large(
            8.0 * len(asked) * n_query,
            f"breakdown of {n_query} queries over {len(asked)} stages",
            "Ask for fewer stages, for example stages=20.",
        )
        contributions, reached = np.empty((len(asked), n_query)), np.zeros(n_query)
        for position, prediction in enumerate(self.staged_telescoping(X, asked)):
            contributions[position] = prediction - reached
            reached = prediction
        return asked, contributions

    def staged_reconstruction(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield S_t y + c after each stage, (n_query,): one column, no matrix; raw, as `staged_response` is."""
        labels = np.where(self.trained, self.y, 0.0)  # others weigh nothing, and would only take digits
        for response in self.staged_response(X, labels[:, None], offset=True, stages=stages):
            yield response.sum(axis=1)

    def reconstruct(self, X: NDArray | None) -> NDArray:
        """S(x) y + c(x), (n_query,), raw: its gap to the model shows where it is not sound."""
        return next(self.staged_reconstruction(X, [self.n_stages]))

    def staged_effective_params(
        self, X: NDArray | None, *, stages: Any = None, n_probes: Any = "auto", subsets: Subsets = None
    ) -> Estimate:
        """P = n/m sum_j ||s_t(x_j)||^2 after each stage.

        Parameters
        ----------
        X : ndarray of shape (n_query, n_features) or None
            Query rows.
        stages : None, int or array-like of int, default=None
            See `resolve_stages`.
        n_probes : int, "auto" or None, default="auto"
            Random columns of an estimate, or None for the exact value.
        subsets : sequence of array-like of int or bool, default=None
            Rows of X that make up each set; see `resolve_subsets`. All sets are answered in one pass.

        Returns
        -------
        Estimate
            Arrays of shape (n_stages,), or (n_stages, n_subsets) with subsets.
        """
        asked = resolve_stages(stages, self.n_stages)
        sets = resolve_subsets(subsets, self.n_query(X)) or [np.arange(self.n_query(X))]

        def energies(V: NDArray, response: NDArray) -> NDArray:
            squared = response**2
            return self.n_trained * np.stack([squared[rows].mean(axis=0) for rows in sets])

        question = ("energies", joblib.hash(sets))
        estimate = self._while_sound(
            X, asked, lambda sound: self._column_statistic(X, energies, sound, n_probes, question), "effective_params"
        )
        return estimate if subsets is not None else Estimate(estimate.value[:, 0], estimate.standard_error[:, 0])

    def training_summary(self, n_probes: Any = "auto") -> tuple[Estimate, Estimate]:
        """Effective parameters on the rows trained on, and the trace of S there, in one pass."""
        summaries = self.staged_training_summary(stages=[self.n_stages], n_probes=n_probes)
        p, trace = (Estimate(staged.value[-1], staged.standard_error[-1]) for staged in summaries)
        return p, trace

    def staged_training_summary(self, *, stages: Any = None, n_probes: Any = "auto") -> tuple[Estimate, Estimate]:
        """Effective parameters on the rows trained on, and the trace of S there, after each stage, in one pass."""

        def energy_and_trace(V: NDArray, response: NDArray) -> NDArray:
            return np.stack([(response[self.trained] ** 2).sum(axis=0), (V * response)[self.trained].sum(axis=0)])

        asked = resolve_stages(stages, self.n_stages)
        values, errors = self._while_sound(
            None,
            asked,
            lambda sound: self._column_statistic(None, energy_and_trace, sound, n_probes, ("summary",)),
            "effective_params",
        )
        return Estimate(values[:, 0], errors[:, 0]), Estimate(values[:, 1], errors[:, 1])

    def kernel_norms(self, X: NDArray | None, stages: Any = "auto") -> NDArray:
        """||k_t(x)||_2, (n_stages, n_query)."""
        asked = self.kernel_stages(stages)
        refuse_if_too_large(
            8.0 * len(asked) * self.n_query(X),
            f"kernel_norms of {self.n_query(X)} queries at {len(asked)} stages",
            "Ask for fewer stages, for example stages=20; kernel_norm_ratio needs no such array.",
        )
        return np.stack(list(self.staged_kernel_norms(X, asked)))

    def kernel_norm_ratio(self, X: NDArray | None, stages: Any = "auto", subsets: Subsets = None) -> NDArray:
        """Stage mean of the largest kernel norm of the query over that of the rows trained on.

        Parameters
        ----------
        X : ndarray of shape (n_query, n_features) or None
            Query rows.
        stages : "auto", None, int or array-like of int, default="auto"
            Stages the means are taken over.
        subsets : sequence of array-like of int or bool, default=None
            Rows of X that make up each set; see `resolve_subsets`. All sets are answered in one pass.

        Returns
        -------
        ndarray
            A 0-d array, or one value a subset.
        """
        asked = self.kernel_stages(stages)
        sets = resolve_subsets(subsets, self.n_query(X)) or [np.arange(self.n_query(X))]
        peaks = np.mean([[norms[rows].max() for rows in sets] for norms in self.staged_kernel_norms(X, asked)], axis=0)
        ratios = peaks / self._training_peak(asked)
        return ratios if subsets is not None else ratios[0]

    def approximation_error(self, X: NDArray | None, stages: Any = None) -> ApproximationError:
        """Gaps between the model, the telescoping model and the reconstruction; see `ApproximationError`."""
        asked = resolve_stages(stages, self.n_stages)
        rows = []
        routes = (self.staged_model(X, asked), self.staged_telescoping(X, asked), self.staged_reconstruction(X, asked))
        for model, telescoping, reconstruction in zip(*routes, strict=True):
            gaps = np.abs(telescoping - model), np.abs(reconstruction - model)
            rows.append([summary for gap in gaps for summary in (gap.mean(), gap.max())])
        names = ["telescoping_mean", "telescoping_max", "reconstruction_mean", "reconstruction_max"]
        by_stage = pd.DataFrame(rows, columns=names, index=pd.Index(asked, name="stage"))
        last = dict(zip(names, map(float, rows[-1]), strict=True))
        return ApproximationError(**last, by_stage=by_stage)

    def kernel_stages(self, stages: Any) -> NDArray[np.intp]:
        """Stages at which kernels are taken: the family's default for "auto"; the start has no kernel."""
        chosen = self.default_kernel_stages if isinstance(stages, str) and stages == "auto" else stages
        return resolve_stages(chosen, self.n_stages, with_start=False)

    # -- how the derived quantities are worked -----------------------------------------------------------------------

    def _watched(self, work: Iterable[Item], what: str) -> Iterable[Item]:
        """Show progress through ``work`` where `verbose` says so."""
        return tqdm(work, desc=what, leave=False) if self.verbose else work

    def _check_k(self, k: Any) -> None:
        """Raise unless ``k`` is a number of rows that were trained on."""
        if not isinstance(k, Integral) or isinstance(k, bool):
            raise TypeError(f"k must be an int, got {k!r}.")
        if not 1 <= int(k) <= self.n_trained:
            raise ValueError(f"k={k} must lie between 1 and {self.n_trained}, the number of rows trained on.")

    def resolve_n_probes(self, n_probes: Any, n_query: int) -> int | None:
        """Choose the number of probes, None for an exact answer; "auto" is exact only where that is cheap."""
        _check_n_probes(n_probes)
        if n_probes != "auto":
            return n_probes
        cost = self.column_cost(n_query, self.n_trained)
        fits = self.n_trained * cost.bytes <= working_memory_bytes()
        return None if fits and self.n_trained * cost.operations <= AUTO_EXACT_OPERATIONS else AUTO_PROBES

    def _refuse_unsound(self, question: str) -> None:
        """Raise `UnstableResponseError` where the response fails its checks before the last stage."""
        if not self.is_sound(np.array([self.n_stages])).all():
            raise UnstableResponseError(f"{question} does not exist after stage {self.n_stages}: {self._unsound()}")

    def _unsound(self) -> str:
        """Say where the response is not sound, and what to do."""
        last = self.last_sound_stage
        return (
            f"the label response of this run fails its checks there, and passes them last at stage {last} of "
            f"{self.n_stages}. Where it fails, the recursion is unstable, or sections are too long. Ask for earlier "
            f"stages, as in staged_effective_params(X, stages=[{last}]), fit with max_iter or learning_rate_init "
            "lowered, or use section=1 or rule='gauss2' where they are not in use."
        )

    def _while_sound(
        self, X: NDArray | None, stages: NDArray, answer: Callable[[NDArray], Estimate], question: str
    ) -> Estimate:
        """Answer for the stages at which the response is sound; the others are nan, and a warning says so.

        What an approximate response leaves joins the standard error.

        Raises
        ------
        UnstableResponseError
            If the response is sound at none of the stages.
        """
        passes = self.is_sound(stages)
        sound = stages[passes]
        if not len(sound):
            raise UnstableResponseError(f"{question} does not exist at stage {stages[-1]}: {self._unsound()}")
        value, error = answer(sound)
        left = self.response_error(X, sound).reshape(-1, *[1] * (value.ndim - 1)) * np.abs(value)
        error = np.hypot(error, left)
        if len(sound) < len(stages):
            message = f"{question} is nan at {len(stages) - len(sound)} of the stages asked for: "
            warnings.warn(message + self._unsound(), UserWarning, stacklevel=4)
            whole = np.full((2, len(stages), *value.shape[1:]), np.nan)
            whole[:, passes] = value, error
            value, error = whole
        return Estimate(value, error)

    def _column_statistic(
        self,
        X: NDArray | None,
        statistic: Callable[[NDArray, NDArray], NDArray],
        stages: NDArray,
        n_probes: Any,
        question: tuple[Hashable, ...],
    ) -> Estimate:
        """Combine a per-column statistic of the response, a quadratic form, over all directions of the labels.

        An exact answer is the sum over unit columns. An estimate adds the sum over the leading directions, which are
        carried as they are, and the mean over probes, random columns v orthogonal to them with E[v v^T] the projection
        on the rest. ``question`` names the statistic, so that its values can be kept.
        """
        count = self.resolve_n_probes(n_probes, self.n_query(X))
        if count is None:
            parts = (values.sum(axis=-1) for values in self._column_values(X, statistic, stages, self._unit_blocks(X)))
            total = sum(parts, start=np.zeros(()))
            return Estimate(total, np.zeros_like(total))
        kept = self._probe_values_of((*question, joblib.hash(X), stages.tobytes(), self.seed))
        groups = list(_probe_groups(count))
        for first, last in groups:
            if (first, last) not in kept:
                blocks = self._probe_blocks(X, last, first)
                kept[first, last] = np.concatenate(list(self._column_values(X, statistic, stages, blocks)), axis=-1)
        columns = np.concatenate([kept[group] for group in groups], axis=-1)
        leading, probes = np.split(columns, [columns.shape[-1] - count], axis=-1)
        mean, standard_error = _mean_and_error(probes)
        return Estimate(leading.sum(axis=-1) + mean, standard_error)

    def _column_values(
        self,
        X: NDArray | None,
        statistic: Callable[[NDArray, NDArray], NDArray],
        stages: NDArray,
        blocks: Iterator[NDArray],
    ) -> Iterator[NDArray]:
        """Yield a per-column statistic of the staged response, stages first and columns last, block by block."""
        for V in blocks:
            yield np.stack([statistic(V, response) for response in self.staged_response(X, V, stages=stages)])

    def _probe_values_of(self, question: Hashable) -> dict[tuple[int, int], NDArray]:
        """Give the values of the groups of probes that a question has had; those asked last are kept."""
        kept = self._probe_values.setdefault(question, {})
        self._probe_values.move_to_end(question)
        while len(self._probe_values) > KEPT_QUESTIONS:
            self._probe_values.popitem(last=False)
        return kept

    def _response(self, X: NDArray | None, V: NDArray, offset: bool = False) -> NDArray:
        """F_T(X; V): the last item of the staged response."""
        return next(self.staged_response(X, V, offset=offset, stages=[self.n_stages]))

    def _column_blocks(self, n_columns: int, n_query: int) -> Iterator[slice]:
        """Slices of columns whose temporaries fit the working memory."""
        cost = self.column_cost(n_query, n_columns)
        size = items_per_block(cost.bytes, max(n_columns, 1), cost.fastest_block_bytes)
        return (slice(first, min(first + size, n_columns)) for first in range(0, n_columns, size))

    def _unit_columns(self, columns: NDArray) -> NDArray:
        """Columns of the identity."""
        V = np.zeros((self.n_samples, len(columns)))
        V[columns, np.arange(len(columns))] = 1.0
        return V

    def _unit_blocks(self, X: NDArray | None) -> Iterator[NDArray]:
        """Identity columns of the rows trained on (the others respond with zero), block by block."""
        columns = np.flatnonzero(self.trained)
        for block in self._column_blocks(len(columns), self.n_query(X)):
            yield self._unit_columns(columns[block])

    def leading_directions(self) -> NDArray:
        """Orthonormal directions that dominate S early in training: equal labels, and the rows' weights.

        Returns
        -------
        ndarray of shape (n_train, 1) or (n_train, 2)
            Two columns where weights differ; rows that are not trained on are zero.
        """
        equal = self.trained / np.sqrt(self.n_trained)
        rest = self.row_weights - equal * (equal @ self.row_weights)
        differ = np.linalg.norm(rest) > 1e-6 * np.linalg.norm(self.row_weights)
        return np.column_stack([equal, rest / np.linalg.norm(rest)] if differ else [equal])

    def _probe_blocks(self, X: NDArray | None, n_probes: int, first: int = 0) -> Iterator[NDArray]:
        """Probes from ``first`` on, block by block; the leading directions come before the first one."""
        leading = self.leading_directions()
        columns = [*leading.T] if first == 0 else []
        ahead = len(columns)
        for block in self._column_blocks(ahead + n_probes - first, self.n_query(X)):
            probes = (
                self._probe(first + place - ahead, leading) for place in range(max(block.start, ahead), block.stop)
            )
            yield np.column_stack([*columns[block], *probes])

    def _probe(self, number: int, leading: NDArray) -> NDArray:
        """One probe, the same however many are asked for: uniform on a sphere orthogonal to the leading directions.

        Its length is fixed, so that it tells the trace of the identity without error, as random signs do.
        """
        probe = np.zeros(self.n_samples)
        probe[self.trained] = np.random.default_rng((self.seed, number)).standard_normal(self.n_trained)
        probe -= leading @ (leading.T @ probe)
        left = self.n_trained - leading.shape[1]
        return probe * np.sqrt(left) / np.linalg.norm(probe) if left > 0 else np.zeros_like(probe)

    def _training_peak(self, stages: NDArray) -> float:
        """Stage mean of the largest kernel norm among the rows trained on, kept for later questions."""
        key = stages.tobytes()
        if key not in self._training_peaks:
            peaks = [norms[self.trained].max() for norms in self.staged_kernel_norms(None, stages)]
            self._training_peaks[key] = float(np.mean(peaks))
        return self._training_peaks[key]
