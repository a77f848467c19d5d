"""A tree ensemble as its telescope needs it, whichever library grew it.

With P_t the leaf-membership matrix of tree t, and B_t the same matrix with the weights of the rows as entries, tree t
adds

    P_t^T (R_t B_t (q_t V - h_t F_{t-1}) + c_t)

to the response F to labels V. The constants c_t enter the offset only. `LeafEnsemble` holds these quantities:

- q_t is what a label injects, h_t what the response feeds back. Squared error: 1 and 1. A forest, whose trees do not
  see each other's residuals: 1 and 0. Other losses: the derivatives of the gradient, by row and stage.
- R_t is diagonal for Newton leaves: learning rate over (sum of weights + ridge).
- A leaf that a penalty sets to zero, or that is clipped, has a zero row in R_t. What the penalty takes off the other
  leaves, and the values of clipped leaves, are the constants c_t.
- In leaves that are quantiles of residuals, only the one or two rows that define the quantile have weight.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn._telescope import read_only

#: Gives a value for every training row in a stage (counted from 1), (n_train,).
StageRates = Callable[[int], NDArray]


def compact_leaves(leaves: NDArray, n_leaves: int) -> NDArray:
    """Store leaf numbers in the smallest unsigned integers that hold them."""
    return leaves.astype(np.min_scalar_type(max(n_leaves - 1, 0)))


def membership(leaves: NDArray, n_leaves: int, values: NDArray | None = None) -> sparse.csc_array:
    """Leaf-membership matrix of one tree, (n_leaves, n_rows); its entries are ``values``, without zeros, or ones."""
    n_rows = len(leaves)
    entries = np.ones(n_rows) if values is None else values.copy()  # eliminate_zeros works in place
    found = sparse.csc_array((entries, leaves.astype(np.int32), np.arange(n_rows + 1)), shape=(n_leaves, n_rows))
    if values is not None:
        found.eliminate_zeros()
    return found


class RowSets:
    """A set of rows, (n_train,) bool, for every stage, stored as bits; ``of_stage`` are positions in ``sets``."""

    def __init__(self, sets: Sequence[NDArray], of_stage: NDArray):
        self.n_rows = len(sets[0])
        self.packed = read_only(np.stack([np.packbits(rows) for rows in sets]))
        self.of_stage = read_only(of_stage)

    def __call__(self, stage: int) -> NDArray:
        """Whether each row is in the set of a stage (1-based), (n_train,) bool."""
        return np.unpackbits(self.packed[self.of_stage[stage - 1]], count=self.n_rows).view(bool)


class BaggedWeights:
    """Weights of rows by stage: ``row_weights``, and zero outside the bag of the stage."""

    def __init__(self, row_weights: NDArray, bags: RowSets):
        self.row_weights = read_only(row_weights)
        self.bags = bags

    def __call__(self, stage: int) -> NDArray:
        """Weights of all rows in a stage (1-based), (n_train,)."""
        return self.row_weights * self.bags(stage)


class CountedWeights:
    """Weights of rows by stage: how often each row was drawn, times ``row_weights``; counts are (n_stages, n_train)."""

    def __init__(self, counts: NDArray, row_weights: NDArray):
        self.counts, self.row_weights = read_only(counts), read_only(row_weights)

    def __call__(self, stage: int) -> NDArray:
        """Weights of all rows in a stage (1-based), (n_train,)."""
        return self.counts[stage - 1] * self.row_weights


class SparseWeights:
    """Weights of the few rows that define the leaf values of a stage: a matrix of shape (n_stages, n_train)."""

    def __init__(self, weights: sparse.csr_array):
        self.weights = weights
        for name in ("data", "indices", "indptr"):
            setattr(weights, name, read_only(getattr(weights, name)))

    def __call__(self, stage: int) -> NDArray:
        """Weights of all rows in a stage (1-based), (n_train,)."""
        return self.weights[[stage - 1]].toarray()[0]


@dataclass(frozen=True, kw_only=True)
class InfluenceTerms:
    """What derivatives in the weights of rows need beside the ensemble; see `_influence`.

    Attributes
    ----------
    learning_rate : float
        Factor of R_t: where a leaf has one, R_t is `learning_rate` over the sum of w H plus ridge. A forest of T trees
        has 1 / T.
    start : ndarray of shape (n_train,)
        Derivative of f_0 in the weight of every row; zeros where the start is given, or is a quantile.
    counts : float or callable, default=1.0
        How often a row counts in a stage, one number or the values of all rows: 0 outside the bag, and for rows that
        training was not given; the number of draws in a bootstrap. 0.0 for leaves that are quantiles of residuals:
        while the same rows define them, they do not depend on weights.
    clip : float, default=infinity
        Size to which residuals are clipped, for Huber's loss.
    hessian, hessian_slope : callable, default=None
        H of all rows in a stage, and its derivative in the prediction; None for 1 and 0, as with squared error.
    """

    learning_rate: float
    start: NDArray
    counts: float | StageRates = 1.0
    clip: float = np.inf
    hessian: StageRates | None = None
    hessian_slope: StageRates | None = None

    def __post_init__(self) -> None:
        """Make the array read-only: answers that are kept depend on it."""
        object.__setattr__(self, "start", read_only(self.start))


def mean_start_terms(start_weights: NDArray, row_weights: NDArray, y: NDArray, given: NDArray | None = None) -> NDArray:
    """Differentiate a start that is a function of the weighted mean label in the weight of every row, (n_train,).

    ``start_weights`` are its derivatives in the labels. ``given`` are the rows that training was given, all if None.
    """
    slope, total = start_weights.sum(), row_weights.sum()
    derivative = slope * (y - row_weights @ y / total) / total
    return derivative if given is None else np.where(given, derivative, 0.0)


@dataclass(frozen=True)
class LeafEnsemble:
    """A tree ensemble on its training rows; the module's docstring has the notation.

    Attributes
    ----------
    leaves : ndarray of int of shape (n_stages, n_train)
        Leaf of every training row in every tree.
    n_leaves : ndarray of int of shape (n_stages,)
        Number of leaves of every tree.
    row_weights : ndarray of shape (n_train,)
        Weights w of the rows, zero for rows not trained on.
    trained : ndarray of bool of shape (n_train,)
        Rows whose labels can have weight in a prediction.
    rates : sequence of ndarray of shape (n_leaves,) or (n_leaves, n_leaves)
        R_t by stage, learning rate and denominators included: the diagonal, or the full matrix where a leaf value
        depends on sums over other leaves.
    start_weights : ndarray of shape (n_train,)
        A in the start f_0 = A y + b of a smoother; else the derivative of f_0 in the labels.
    start_offset : float, default=0.0
        b in the start f_0 = A y + b of a smoother; else f_0.
    constants : sequence of ndarray of shape (n_leaves,), default=None
        c_t by stage; None for zero.
    weights_by_stage : callable, default=None
        Gives the weights of all rows in a stage, counted from 1, where they differ from `row_weights`.
    responding : RowSets, default=None
        Rows whose residual moves their leaf, by stage; None for all rows. The other rows are clipped: they count in the
        weight of the leaf, but have no response.
    injection : float or callable, default=1.0
        q_t, one number, or the values of all rows in a stage.
    feedback : float or callable, default=1.0
        h_t, one number, or the values of all rows in a stage.
    gradient : callable, default=None
        Gives the first derivatives g_t of the loss before a stage, where the response to labels is a derivative of the
        prediction. None for a smoother, whose prediction is S y + c.
    influence_terms : InfluenceTerms, default=None
        What derivatives in the weights of rows need besides; None where they are not known, and refused.
    """

    leaves: NDArray
    n_leaves: NDArray
    row_weights: NDArray
    trained: NDArray
    rates: Sequence[NDArray]
    start_weights: NDArray
    start_offset: float = 0.0
    constants: Sequence[NDArray] | None = None
    weights_by_stage: StageRates | None = None
    responding: RowSets | None = None
    injection: float | StageRates = 1.0
    feedback: float | StageRates = 1.0
    gradient: StageRates | None = None
    influence_terms: InfluenceTerms | None = None

    def __post_init__(self) -> None:
        """Make all arrays read-only: answers that are kept depend on them."""
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                object.__setattr__(self, name, read_only(value))
            elif isinstance(value, Sequence):
                object.__setattr__(self, name, tuple(map(read_only, value)))

    @property
    def n_stages(self) -> int:
        """Number of trees."""
        return len(self.n_leaves)

    @property
    def smoother(self) -> bool:
        """Whether the prediction is S y + c."""
        return self.gradient is None

    def start(self, y: NDArray) -> float:
        """Return f_0, given the labels."""
        return (float(self.start_weights @ y) if self.smoother else 0.0) + self.start_offset

    @property
    def fits_residuals(self) -> bool:
        """Whether every tree is fitted to V - F: labels inject 1 and the response feeds back 1."""
        return self.injection == 1.0 and self.feedback == 1.0

    @property
    def is_average(self) -> bool:
        """Whether no tree is fitted to what others left over, as in a forest, and each leaf has a value of its own."""
        return self.feedback == 0.0 and all(rates.ndim == 1 for rates in self.rates)

    @property
    def same_feedback(self) -> bool:
        """Whether the response enters every tree with the same weights, those of the rows."""
        return self.weights_by_stage is None and self.responding is None and self.feedback == 1.0

    @property
    def same_rows(self) -> bool:
        """Whether every tree is fitted to V - F with the same row weights."""
        return self.same_feedback and self.fits_residuals

    def stage_weights(self, stage: int) -> NDArray:
        """Weights of the rows in the leaves of a stage (1-based), (n_train,)."""
        return self.row_weights if self.weights_by_stage is None else self.weights_by_stage(stage)

    def response_weights(self, stage: int) -> NDArray:
        """Entries of B_t: weights of the rows in a stage, zero for rows that are clipped in it, (n_train,)."""
        weights = self.stage_weights(stage)
        return weights if self.responding is None else weights * self.responding(stage)

    def label_weights(self, stage: int) -> NDArray:
        """Entries of B_t q_t: the weights with which labels enter a stage, (n_train,)."""
        return _scaled(self.response_weights(stage), self.injection, stage)

    def feedback_weights(self, stage: int) -> NDArray:
        """Entries of B_t h_t: the weights with which the response enters a stage, (n_train,)."""
        return _scaled(self.response_weights(stage), self.feedback, stage)

    def leaf_sums(self, stage: int, values: NDArray) -> NDArray:
        """Sum of values over the rows of each leaf of a stage, (n_leaves,)."""
        return np.bincount(self.leaves[stage - 1], weights=values, minlength=self.n_leaves[stage - 1])

    def leaf_values(self, stage: int, sums: NDArray) -> NDArray:
        """R_t @ sums + c_t, (n_leaves,), for sums over the leaves of a stage."""
        rates = self.rates[stage - 1]
        values = rates @ sums if rates.ndim == 2 else rates * sums
        return values if self.constants is None else values + self.constants[stage - 1]

    def staged_leaf_values(self, y: NDArray, raw: NDArray) -> Iterator[NDArray]:
        """Yield the leaf values of every stage, (n_leaves,), from the labels.

        ``raw`` is f_0 at the training rows, (n_train,); every stage adds what it gives them.
        """
        for stage in range(1, self.n_stages + 1):
            if self.gradient is None:
                negative_gradients = self.label_weights(stage) * y - self.feedback_weights(stage) * raw
            else:
                negative_gradients = -self.response_weights(stage) * self.gradient(stage)
            values = self.leaf_values(stage, self.leaf_sums(stage, negative_gradients))
            raw += values[self.leaves[stage - 1]]
            yield values

    def weighted_membership(self, stage: int) -> sparse.csc_array:
        """Membership matrix with the rows' weights in the stage as entries, (n_leaves, n_train)."""
        return membership(self.leaves[stage - 1], self.n_leaves[stage - 1], self.stage_weights(stage))


def _scaled(weights: NDArray, rates: float | StageRates, stage: int) -> NDArray:
    if callable(rates):
        return weights * rates(stage)
    return weights if rates == 1.0 else weights * rates
