"""What a boosted ensemble is, whichever library grew it.

A tree with Newton leaves is known by the leaf of every training row and the denominator of every leaf; the ensemble by
its trees, its learning rate, its row weights and its start.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


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
    curvature : ndarray of shape (n_train,)
        Second derivative h of the loss at every row.
    start_weights : ndarray of shape (n_train,)
        A in f_0 = A y.
    learning_rate : float
        Shrinkage of every stage.
    reg_lambda : float
        The ridge term lambda in the leaf denominators.
    """

    leaves: NDArray
    n_leaves: NDArray
    row_weights: NDArray
    curvature: NDArray
    start_weights: NDArray
    learning_rate: float
    reg_lambda: float

    @property
    def n_stages(self) -> int:
        """Number of trees."""
        return len(self.n_leaves)

    def leaf_sums(self, stage: int, values: NDArray) -> NDArray:
        """Sum of values over the rows of each leaf of a stage (1-based), (n_leaves,)."""
        return np.bincount(self.leaves[stage - 1], weights=values, minlength=self.n_leaves[stage - 1])

    def leaf_rates(self, stage: int) -> NDArray:
        """Learning rate over the denominator sum(w h) + lambda of each leaf; 0 where a leaf weighs nothing."""
        denominators = self.leaf_sums(stage, self.row_weights * self.curvature) + self.reg_lambda
        return np.divide(self.learning_rate, denominators, out=np.zeros_like(denominators), where=denominators > 0)

    def weighted_membership(self, stage: int) -> sparse.csc_array:
        """B_t, the membership matrix with the rows' weights as entries, (n_leaves, n_train)."""
        return membership(self.leaves[stage - 1], self.n_leaves[stage - 1], self.row_weights)
