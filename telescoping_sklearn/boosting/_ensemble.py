"""What a boosted ensemble is, whichever library grew it.

A tree is known by the leaf of every training row, by the weights that the rows have in their leaves, and by an affine
map from sums over the leaves to leaf values. With P_t the leaf-membership matrix of a tree, B_t the same with the
weights as entries, R_t the matrix of the map and c_t its constants, a tree adds

    P_t^T (R_t B_t (q_t V - h_t F_{t-1}) + c_t)

to the response F to labels V; q = h = 1 for squared error, and c_t enters the offset only.

- Newton leaves: all rows of the bag weigh, and R_t is the learning rate over the sum of weights plus ridge.
- Newton leaves with a threshold: a leaf that is shrunk to zero or clipped has no response, a row of R_t that is zero;
  what the penalty takes off a leaf, and where it is clipped, are constants.
- Leaves that are quantiles of residuals: only the one or two rows weigh that the quantile is taken from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn._telescope import read_only
from telescoping_sklearn.boosting._curvature import CurvaturePath


def compact_leaves(leaves: NDArray, n_leaves: int) -> NDArray:
    """Store leaf numbers in the smallest unsigned integers that hold them."""
    return leaves.astype(np.min_scalar_type(max(n_leaves - 1, 0)))


def membership(leaves: NDArray, n_leaves: int, values: NDArray | None = None) -> sparse.csc_array:
    """Leaf-membership matrix of one tree, (n_leaves, n_rows), with at most one entry a row.

    Parameters
    ----------
    leaves : ndarray of int of shape (n_rows,)
        Leaf of every row.
    n_leaves : int
        Number of leaves.
    values : ndarray of shape (n_rows,), default=None
        The entries, of which zeros are left out; ones if not given.

    Returns
    -------
    scipy.sparse.csc_array of shape (n_leaves, n_rows)
        The matrix.
    """
    n_rows = len(leaves)
    entries = np.ones(n_rows) if values is None else values.copy()  # in which zeros are left out
    found = sparse.csc_array((entries, leaves.astype(np.int32), np.arange(n_rows + 1)), shape=(n_leaves, n_rows))
    if values is not None:
        found.eliminate_zeros()
    return found


class RowSets:
    """A set of rows for every stage, eight rows to a byte; stages may share one.

    Parameters
    ----------
    sets : sequence of ndarray of bool of shape (n_train,)
        The sets.
    of_stage : ndarray of int of shape (n_stages,)
        Position of the set of every stage.
    """

    def __init__(self, sets: Sequence[NDArray], of_stage: NDArray):
        self.n_rows = len(sets[0])
        self.packed = read_only(np.stack([np.packbits(rows) for rows in sets]))
        self.of_stage = read_only(of_stage)

    def __call__(self, stage: int) -> NDArray:
        """Whether each row is in the set of a stage (1-based), (n_train,) bool."""
        return np.unpackbits(self.packed[self.of_stage[stage - 1]], count=self.n_rows).view(bool)


class BaggedWeights:
    """Weights of rows that are zero off the bag of a stage.

    Parameters
    ----------
    row_weights : ndarray of shape (n_train,)
        Weights in the bag.
    bags : RowSets
        The bag of every stage.
    """

    def __init__(self, row_weights: NDArray, bags: RowSets):
        self.row_weights = read_only(row_weights)
        self.bags = bags

    def __call__(self, stage: int) -> NDArray:
        """Weights of all rows in a stage (1-based), (n_train,)."""
        return self.row_weights * self.bags(stage)


class SparseWeights:
    """Weights of the few rows that a stage takes its leaf values from.

    Parameters
    ----------
    weights : scipy.sparse.csr_array of shape (n_stages, n_train)
        The weights; those of the rows of a leaf sum to 1.
    """

    def __init__(self, weights: sparse.csr_array):
        self.weights = weights
        for name in ("data", "indices", "indptr"):
            setattr(weights, name, read_only(getattr(weights, name)))

    def __call__(self, stage: int) -> NDArray:
        """Weights of all rows in a stage (1-based), (n_train,)."""
        return self.weights[[stage - 1]].toarray()[0]


@dataclass(frozen=True)
class LeafEnsemble:
    """A boosted ensemble as its telescope needs it.

    Attributes
    ----------
    leaves : ndarray of int of shape (n_stages, n_train)
        Leaf of every training row in every tree.
    n_leaves : ndarray of int of shape (n_stages,)
        Leaves of every tree.
    row_weights : ndarray of shape (n_train,)
        Weights w of the rows, zero for rows not trained on.
    trained : ndarray of bool of shape (n_train,)
        Rows whose labels can have weight in a prediction.
    start_weights : ndarray of shape (n_train,)
        A in f_0 = A y.
    rates : sequence of ndarray of shape (n_leaves,) or (n_leaves, n_leaves)
        R_t by stage, learning rate and denominators included: its diagonal, or all of it where leaf values depend on
        sums over other leaves.
    constants : sequence of ndarray of shape (n_leaves,), default=None
        c_t by stage, what leaves add whatever the labels are; None for nothing.
    weights_by_stage : callable, default=None
        Gives the weights of all rows in a stage, counted from 1, where they are not `row_weights`.
    responding : RowSets, default=None
        Rows whose residual moves their leaf; None for all. The others are clipped: they have weight in the leaf, but no
        response.
    curvature : CurvaturePath, default=None
        Derivatives of the loss along training; None where they are constant.
    """

    leaves: NDArray
    n_leaves: NDArray
    row_weights: NDArray
    trained: NDArray
    start_weights: NDArray
    rates: Sequence[NDArray]
    constants: Sequence[NDArray] | None = None
    weights_by_stage: Callable[[int], NDArray] | None = None
    responding: RowSets | None = None
    curvature: CurvaturePath | None = None

    def __post_init__(self) -> None:
        """Let nobody who is handed an array change it: answers depend on all of them."""
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
    def same_rows(self) -> bool:
        """Whether rows weigh the same in every stage."""
        return self.weights_by_stage is None and self.responding is None and self.curvature is None

    def stage_weights(self, stage: int) -> NDArray:
        """Weights of the rows in the leaves of a stage (1-based), (n_train,)."""
        return self.row_weights if self.weights_by_stage is None else self.weights_by_stage(stage)

    def response_weights(self, stage: int) -> NDArray:
        """Weights of the rows in a stage, zero for rows that are clipped in it: the entries of B_t, (n_train,)."""
        weights = self.stage_weights(stage)
        return weights if self.responding is None else weights * self.responding(stage)

    def leaf_sums(self, stage: int, values: NDArray) -> NDArray:
        """Sum of values over the rows of each leaf of a stage, (n_leaves,)."""
        return np.bincount(self.leaves[stage - 1], weights=values, minlength=self.n_leaves[stage - 1])

    def leaf_values(self, stage: int, sums: NDArray) -> NDArray:
        """R_t @ sums + c_t, (n_leaves,), for sums over the leaves of a stage."""
        rates = self.rates[stage - 1]
        values = rates @ sums if rates.ndim == 2 else rates * sums
        return values if self.constants is None else values + self.constants[stage - 1]

    def weighted_membership(self, stage: int) -> sparse.csc_array:
        """Membership matrix with the rows' weights in the stage as entries, (n_leaves, n_train)."""
        return membership(self.leaves[stage - 1], self.n_leaves[stage - 1], self.stage_weights(stage))

    def label_rates(self, stage: int) -> NDArray | None:
        """Give q_t = -dg/dy of every row before a stage, (n_train,); None stands for ones."""
        return None if self.curvature is None else self.curvature.before(stage).label_rate

    def curvatures(self, stage: int) -> NDArray | None:
        """Give h_t = dg/df of every row before a stage, (n_train,); None stands for ones."""
        return None if self.curvature is None else self.curvature.before(stage).curvature
