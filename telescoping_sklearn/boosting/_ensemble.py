"""What a boosted ensemble is, whichever library grew it.

A tree with Newton leaves is known by the leaf and the bag of every training row and by R_t, which turns sums over its
leaves into leaf values; the ensemble by its trees, its row weights, its start and its loss. With P_t the
leaf-membership matrix of a tree, and B_t the same with the weights of the rows in its bag as entries, a tree adds

    P_t^T R_t B_t (q_t V - h_t F_{t-1})

to the response F to labels V; q = h = 1 for squared error.
"""

from collections.abc import Sequence
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
    """Leaf-membership matrix of one tree, (n_leaves, n_rows), with one entry a row.

    Parameters
    ----------
    leaves : ndarray of int of shape (n_rows,)
        Leaf of every row.
    n_leaves : int
        Number of leaves.
    values : ndarray of shape (n_rows,), default=None
        The entries; ones if not given.

    Returns
    -------
    scipy.sparse.csc_array of shape (n_leaves, n_rows)
        The matrix.
    """
    n_rows = len(leaves)
    entries = np.ones(n_rows) if values is None else values
    return sparse.csc_array((entries, leaves.astype(np.int32), np.arange(n_rows + 1)), shape=(n_leaves, n_rows))


class Bags:
    """Rows in the bag of every tree, eight to a byte; trees between two bags share one.

    Parameters
    ----------
    bags : sequence of ndarray of bool of shape (n_train,)
        The bags.
    of_stage : ndarray of int of shape (n_stages,)
        Position of the bag of every tree.
    """

    def __init__(self, bags: Sequence[NDArray], of_stage: NDArray):
        self.n_rows = len(bags[0])
        self.packed = read_only(np.stack([np.packbits(bag) for bag in bags]))
        self.of_stage = read_only(of_stage)

    def __call__(self, stage: int) -> NDArray:
        """Whether each row is in the bag of a stage (1-based), (n_train,) bool."""
        return np.unpackbits(self.packed[self.of_stage[stage - 1]], count=self.n_rows).view(bool)


@dataclass(frozen=True)
class LeafEnsemble:
    """A boosted ensemble of Newton trees as its telescope needs it.

    Attributes
    ----------
    leaves : ndarray of int of shape (n_stages, n_train)
        Leaf of every training row in every tree.
    n_leaves : ndarray of int of shape (n_stages,)
        Leaves of every tree.
    row_weights : ndarray of shape (n_train,)
        Weights w of the rows, zero for rows not trained on.
    start_weights : ndarray of shape (n_train,)
        A in f_0 = A y.
    learning_rates : ndarray of shape (n_stages,)
        Shrinkage of every stage.
    ridge : sequence of ndarray of shape (n_leaves,), default=None
        The term lambda in the denominator of every leaf, by stage; None for no such term.
    mixing : sequence of ndarray of shape (n_leaves, n_leaves), default=None
        R_t by stage, learning rate and denominators included, where leaf values depend on sums over other leaves; None
        where they do not.
    bags : Bags, default=None
        Rows in the bag of every tree; None where every tree saw all rows.
    curvature : CurvaturePath, default=None
        Derivatives of the loss along training; None for squared error, where they are constant.
    """

    leaves: NDArray
    n_leaves: NDArray
    row_weights: NDArray
    start_weights: NDArray
    learning_rates: NDArray
    ridge: Sequence[NDArray] | None = None
    mixing: Sequence[NDArray] | None = None
    bags: Bags | None = None
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

    def stage_weights(self, stage: int) -> NDArray:
        """Weights w of the rows in a stage (1-based), zero off its bag, (n_train,)."""
        return self.row_weights if self.bags is None else self.row_weights * self.bags(stage)

    def leaf_sums(self, stage: int, values: NDArray) -> NDArray:
        """Sum of values over the rows of each leaf of a stage, (n_leaves,)."""
        return np.bincount(self.leaves[stage - 1], weights=values, minlength=self.n_leaves[stage - 1])

    def leaf_rates(self, stage: int) -> NDArray:
        """Diagonal of R_t: learning rate over sum(w H) + lambda of each leaf; 0 where a leaf weighs nothing."""
        weights = self.stage_weights(stage)
        denominators = self.leaf_sums(
            stage, weights if self.curvature is None else weights * self.curvature.before(stage).hessian
        )
        if self.ridge is not None:
            denominators = denominators + self.ridge[stage - 1]
        rates = np.zeros_like(denominators)
        return np.divide(self.learning_rates[stage - 1], denominators, out=rates, where=denominators > 0)

    def spread(self, stage: int, sums: NDArray) -> NDArray:
        """Leaf values R_t @ sums of sums over leaves, (n_leaves,) or (n_leaves, n_columns)."""
        if self.mixing is not None:
            return self.mixing[stage - 1] @ sums
        rates = self.leaf_rates(stage)
        return (rates if sums.ndim == 1 else rates[:, None]) * sums

    def spread_back(self, stage: int, rows: NDArray) -> NDArray:
        """Give rows @ R_t, the transposed route, (n_rows, n_leaves)."""
        return rows @ self.mixing[stage - 1] if self.mixing is not None else rows * self.leaf_rates(stage)

    def weighted_membership(self, stage: int) -> sparse.csc_array:
        """B_t, the membership matrix with the rows' weights in the stage as entries, (n_leaves, n_train)."""
        return membership(self.leaves[stage - 1], self.n_leaves[stage - 1], self.stage_weights(stage))

    def label_rates(self, stage: int) -> NDArray | None:
        """Give q_t = -dg/dy of every row before a stage, (n_train,); None stands for ones."""
        return None if self.curvature is None else self.curvature.before(stage).label_rate

    def curvatures(self, stage: int) -> NDArray | None:
        """Give h_t = dg/df of every row before a stage, (n_train,); None stands for ones."""
        return None if self.curvature is None else self.curvature.before(stage).curvature

    def residuals(self, stage: int, labels: NDArray, response: NDArray) -> NDArray:
        """Give q_t V - h_t F_{t-1}, what a stage is fitted to, for labels V and their response F, (n_train, k)."""
        if self.curvature is None:
            return labels - response
        at = self.curvature.before(stage)
        return at.label_rate[:, None] * labels - at.curvature[:, None] * response
