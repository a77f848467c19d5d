"""A telescope: a fitted model seen as the sum of its stages.

`Telescope` is what a model must know: where it starts, its own prediction after each stage, the kernel of each stage,
and how columns of labels travel through training with all learned structure held fixed (the response), with what that
costs. What only some models can do is declared beside these, by class attributes and methods with a default.

Everything a user asks for is derived from it, once for trees and nets alike: see `_answers` and, for sums over all
label directions, `_estimates`.

- With V = I the response is the matrix S of kernel weights, the weight of each training label in each prediction.
- With V = 0 and the offset carried it is c, what is left when all labels are zero, so that S y + c rebuilds the model.

Arrays are ``(n_query, n_train)`` and staged results put the stage first. A query of ``None`` means the training rows.
A model of several outputs has an axis of outputs after every axis of rows, queries and training rows alike: labels and
predictions are ``(n_rows, n_outputs)``, kernel weights ``(n_query, n_outputs, n_train, n_outputs)``. A label is then
one output of a row, and the loss of a row the sum over its outputs. With one output there is no such axis.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from tqdm.auto import tqdm

from telescoping_sklearn._memory import items_per_block

Subsets = Sequence[ArrayLike] | None
Denominators = Literal["moving", "held"]
Item = TypeVar("Item")


class NotASmootherError(ValueError):
    """Raised where a question presumes that weights times labels rebuild the prediction, and they do not."""


class UnknownInfluenceError(ValueError, AttributeError):
    """Raised where influence is asked of a model for whose settings it is not known."""


class UnstableResponseError(ValueError, AttributeError):
    """Raised where a question needs the label response at a stage beyond which it is not sound."""


class Start(NamedTuple):
    """Where a model starts, f_0 = A y + b.

    Attributes
    ----------
    label_weights : ndarray of shape (n_train,)
        A: the weight of every training label, the same at every query.
    offset : ndarray of shape (n_query,) or (n_query, n_outputs)
        b: what labels do not set.
    """

    label_weights: NDArray
    offset: NDArray


@dataclass(frozen=True, kw_only=True, repr=False)
class Plan:
    """One way to compute a label response, and its cost. It is chosen once a question, and then executed.

    Attributes
    ----------
    direction : {"forward", "backward"}
        From labels to queries, or from queries to labels (the adjoint).
    operations : float
        Multiplications.
    column_bytes : float
        Memory held for one column: a label direction forward, a query backward.
    fastest_block_bytes : float, default=math.inf
        Bytes of a block of columns beyond which it only gets slower.
    output : int or None, default=None
        Output whose kernel weights are asked for, of several; None stands for all.
    """

    direction: Literal["forward", "backward"]
    operations: float
    column_bytes: float
    fastest_block_bytes: float = math.inf
    output: int | None = None

    @property
    def route(self) -> str:
        """Name of the way, as shown to users."""
        return self.direction

    def __repr__(self) -> str:
        """Show the route and what it costs."""
        size = f"{self.column_bytes / 2**20:.3g} MiB a column"
        return f"{type(self).__name__}({self.route}: {self.operations:.3g} operations, {size})"

    def blocks(self, n_columns: int) -> Iterator[slice]:
        """Slices of columns whose temporaries fit the working memory."""
        size = items_per_block(self.column_bytes, max(n_columns, 1), self.fastest_block_bytes)
        return (slice(first, min(first + size, n_columns)) for first in range(0, n_columns, size))


class ExactSums(Protocol):
    """Exact sums over all kernel weights that need no label columns."""

    @property
    def operations(self) -> float:
        """Multiplications for the given number of query rows."""

    def squared_weights(self, X: NDArray | None, sets: list[NDArray] | None, stages: NDArray) -> NDArray:
        """Sum of ||s_t(x)||^2 over each set of query rows, or over all, (n_stages, n_sets) with one set for all."""

    def traces(self, stages: NDArray) -> NDArray:
        """Sum of the weights of training rows in their own predictions, (n_stages,)."""


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


class Telescope(ABC):
    """What a model must know to be seen as the sum of its stages; see the module's docstring.

    Parameters
    ----------
    y : ndarray of shape (n_train,) or (n_train, n_outputs)
        Training labels.
    trained : ndarray of bool of shape (n_train,)
        Rows that were trained on; the others (held out, or of weight zero) have zero columns.
    seed : int
        Seeds the probes, so that the same question gets the same answer.
    """

    #: Whether long work shows its progress.
    verbose: bool = False
    #: Stages at which kernel norms are taken unless told otherwise: None for all, or a number of evenly spaced ones.
    default_kernel_stages: int | None = None
    #: Whether weights times labels, with the offset, rebuild the prediction: only then are there effective parameters.
    is_smoother: bool = True
    #: Whether there is a model linearised at its start: `staged_linearized`.
    has_linearized: ClassVar[bool] = False
    #: Whether the response can be computed from queries back to labels: `backward_plan` and `apply_adjoint`.
    has_adjoint: bool = False

    def __init__(self, *, y: NDArray, trained: NDArray, seed: int):
        self.y = read_only(np.asarray(y, dtype=np.float64))
        self.trained = read_only(trained)
        self.seed = seed

    # -- what every model knows --------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def n_stages(self) -> int:
        """Number of stages T."""

    @abstractmethod
    def start(self, X: NDArray | None) -> Start:
        """Start f_0 = A y + b, as its parts."""

    @abstractmethod
    def staged_kernel(self, X: NDArray | None, stages: Any = None) -> Iterator[sparse.csr_array]:
        """k_t, the kernel of each stage, (n_query, n_train); of several outputs, one line or column an output."""

    @abstractmethod
    def staged_model(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the model's own prediction after each stage, (n_query,)."""

    @abstractmethod
    def forward_plan(self, n_query: int, n_columns: int) -> Plan:
        """Choose the cheapest way to carry label columns to queries."""

    @abstractmethod
    def apply_response(
        self, plan: Plan, X: NDArray | None, V: NDArray, offset: bool, stages: NDArray
    ) -> Iterator[NDArray]:
        """F_t(X; V), (n_query, k) for each stage, by a forward plan, V being (n_train, k).

        With several outputs they are (n_query, n_outputs, k) and (n_train, n_outputs, k). ``offset`` appends the
        offset's column.
        """

    # -- what some models know ---------------------------------------------------------------------------------------

    def backward_plan(self, n_query: int) -> Plan:
        """Choose the cheapest way to carry queries back to the labels; needs `has_adjoint`."""
        raise NotImplementedError

    def apply_adjoint(self, plan: Plan, X: NDArray | None, stage: int | None = None) -> NDArray:
        """S_t(x), (n_query, n_train), at a stage or the last, by a backward plan; needs `has_adjoint`.

        With several outputs it is (n_query, n_outputs, n_train, n_outputs); where the plan names one, (n_query,
        n_train) for that output of the query and of the labels.
        """
        raise NotImplementedError

    def staged_linearized(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield the prediction of the model linearised at its start, (n_query,), by stage; needs `has_linearized`."""
        raise NotImplementedError

    def influence_telescope(self, denominators: Denominators = "moving") -> "Telescope":
        """Return a telescope of the same stages whose columns are weights of rows: its kernel weights are influence.

        Where the stages divide by moments of the gradients, as Adam's do, ``denominators`` says whether these respond
        to the weights too.
        """
        raise NotImplementedError

    def exact_sums(self, n_query: int) -> ExactSums | None:
        """Exact sums over all weights without columns; None where there are none, or they do not fit in memory."""
        return None

    def staged_telescoping(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield f_0 + sum of stages after each stage, (n_query,): the model itself where stages are exact."""
        return self.staged_model(X, stages)

    def staged_kernel_norms(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Yield ||k_t(x)||_2 of every query row, (n_query,)."""
        for kernel in self.staged_kernel(X, stages):
            yield np.sqrt(np.asarray(kernel.multiply(kernel).sum(axis=1))).reshape(-1, *self.output_shape)

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

    # -- rows and outputs --------------------------------------------------------------------------------------------

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Axis of outputs, which follows that of rows: () for one output, (n_outputs,) for several."""
        return self.y.shape[1:]

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return math.prod(self.output_shape)

    def resolve_output(self, output: Any, question: str, *, needed: bool = False) -> int | None:
        """Turn the output that a user asks for into its number; None stands for all, or the only one.

        ``question`` is for messages; ``needed`` says whether it can be answered for one output only.
        """
        if output is None and not (needed and self.output_shape):
            return None
        last = self.n_outputs - 1
        if output is None:
            raise ValueError(
                f"{question} is about one output, and this model has {self.n_outputs}: give output, from 0 to {last}."
            )
        if not isinstance(output, int | np.integer) or isinstance(output, bool):
            raise TypeError(f"output must be an int from 0 to {last}, got {output!r}.")
        if not 0 <= output <= last:
            raise ValueError(f"output={output} must lie between 0 and {last}: this model has {self.n_outputs} outputs.")
        return int(output) if self.output_shape else None

    @property
    def column_shape(self) -> tuple[int, ...]:
        """Shape of a column that is carried: that of the labels."""
        return self.y.shape

    @property
    def n_columns(self) -> int:
        """Number of unit columns of the rows trained on."""
        return self.n_trained * math.prod(self.column_shape[1:])

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

    def n_query(self, X: NDArray | None) -> int:
        """Count the rows of a query; None stands for the training rows."""
        return self.n_samples if X is None else len(X)

    def progress(self, work: Iterable[Item], what: str) -> Iterable[Item]:
        """Show progress through ``work`` where `verbose` says so."""
        return tqdm(work, desc=what, leave=False) if self.verbose else work
