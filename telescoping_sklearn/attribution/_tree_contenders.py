"""Attribution scores for boosted trees, written from their papers' formulas.

All take the telescope of trees that were fitted to squared error, and give scores on the prediction, (n_query,
n_train): how much higher the prediction at a query row is because a training row was there. The papers state scores on
the loss of a query row; these are the same without the derivative of that loss.

In tree t, r_i = y_i - f_{t-1}(x_i) is the residual of row i, w_i its weight, H the weight in its leaf, lambda the
ridge, lr the learning rate, and theta = sum w_i r_i / (H + lambda) the leaf's value before shrinkage.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


class _Tree(NamedTuple):
    """A tree: leaves, rates lr / (H + lambda) of leaves, weights w_i and deviations r_i - theta of training rows."""

    query: NDArray
    train: NDArray
    rates: NDArray
    weights: NDArray
    deviations: NDArray


def boostin(telescope: Any, X: NDArray | None) -> NDArray:
    """BoostIn: the row's own effect on the values of the leaves that it shares with the query, later residuals held.

    sum_t lr 1{same leaf} (r_i - theta) / (H + lambda): TracIn for boosted trees, with leaf values as parameters.

    Parameters
    ----------
    telescope : LeafTelescope
        Telescope of the trees.
    X : ndarray of shape (n_query, n_features) or None
        Query rows; None for the training rows.

    Returns
    -------
    ndarray of shape (n_query, n_train)
        The scores.

    References
    ----------
    J. Brophy, Z. Hammoudeh, D. Lowd. "Adapting and Evaluating Influence-Estimation Methods for Gradient-Boosted
    Decision Trees". JMLR 24 (2023), 154.
    """
    scores = np.zeros((telescope.n_query(X), telescope.n_samples))
    for tree in _trees(telescope, X):
        scores += _same_leaf(tree) * (tree.rates[tree.train] * tree.deviations)
    return scores


def leaf_influence(telescope: Any, X: NDArray | None) -> NDArray:
    """LeafInfluence: the derivative of the prediction in a row's weight, with structure and start held fixed.

    With J_t = d f_t / d w_i, the value of a leaf has derivative
    lr (1{i in leaf} (r_i - theta) - sum_{j in leaf} w_j J_{t-1}(x_j)) / (H + lambda), and J_0 = 0.

    It is computed as the paper states it, with a dense matrix of all training rows by all training rows: O(n_train^2)
    for each tree.

    Parameters
    ----------
    telescope : LeafTelescope
        Telescope of the trees.
    X : ndarray of shape (n_query, n_features) or None
        Query rows; None for the training rows.

    Returns
    -------
    ndarray of shape (n_query, n_train)
        The scores.

    References
    ----------
    B. Sharchilev, Y. Ustinovsky, P. Serdyukov, M. de Rijke. "Finding Influential Training Samples for Gradient Boosted
    Decision Trees". ICML 2018.
    """
    n_train = telescope.n_samples
    at_query, at_train = np.zeros((telescope.n_query(X), n_train)), np.zeros((n_train, n_train))
    rows = np.arange(n_train)
    for tree in _trees(telescope, X):
        members = sparse.csr_array((tree.weights, (tree.train, rows)), shape=(len(tree.rates), n_train))
        sums = -(members @ at_train)
        sums[tree.train, rows] += tree.deviations
        values = tree.rates[:, None] * sums
        at_query += values[tree.query]
        at_train += values[tree.train]
    return at_query


def leaf_influence_single_point(telescope: Any, X: NDArray | None) -> NDArray:
    """LeafInfluence, SinglePoint: as `leaf_influence`, but a row's influence on other rows' residuals is left out.

    lr 1{same leaf} (r_i - theta - w_i J_{t-1}(x_i)) / (H + lambda) is added in each tree: the approximation that the
    paper proposes for speed.

    Parameters
    ----------
    telescope : LeafTelescope
        Telescope of the trees.
    X : ndarray of shape (n_query, n_features) or None
        Query rows; None for the training rows.

    Returns
    -------
    ndarray of shape (n_query, n_train)
        The scores.

    References
    ----------
    B. Sharchilev, Y. Ustinovsky, P. Serdyukov, M. de Rijke. "Finding Influential Training Samples for Gradient Boosted
    Decision Trees". ICML 2018.
    """
    scores, own = np.zeros((telescope.n_query(X), telescope.n_samples)), np.zeros(telescope.n_samples)
    for tree in _trees(telescope, X):
        added = tree.rates[tree.train] * (tree.deviations - tree.weights * own)
        scores += _same_leaf(tree) * added
        own += added
    return scores


def leaf_proximity(telescope: Any, X: NDArray | None) -> NDArray:
    """Leaf proximity times the centred label: mean over trees of w_i 1{same leaf} / H, times y_i minus the mean.

    Weights of this form, over the trees whose bag leaves the query out, are those of RF-GAP; boosting without bags uses
    all trees.

    Parameters
    ----------
    telescope : LeafTelescope
        Telescope of the trees.
    X : ndarray of shape (n_query, n_features) or None
        Query rows; None for the training rows.

    Returns
    -------
    ndarray of shape (n_query, n_train)
        The scores.

    References
    ----------
    J. S. Rhodes, A. Cutler, K. R. Moon. "Geometry- and Accuracy-Preserving Random Forest Proximities". IEEE TPAMI 45
    (2023), 10947-10959.
    """
    proximity = np.zeros((telescope.n_query(X), telescope.n_samples))
    for kernel in telescope.staged_kernel(X):
        proximity += kernel.toarray() / telescope.n_stages
    return proximity * (telescope.y - np.average(telescope.y, weights=telescope.row_weights))


def _trees(telescope: Any, X: NDArray | None) -> Iterator[_Tree]:
    """Yield the trees in the order of training."""
    ensemble = telescope.ensemble
    terms = _terms(ensemble)
    leaves, before = telescope.leaves(X), telescope.staged_model(None, np.arange(ensemble.n_stages))
    for stage, fitted in enumerate(before, start=1):
        weights, rates, train = ensemble.stage_weights(stage), ensemble.rates[stage - 1], ensemble.leaves[stage - 1]
        residuals = telescope.y - fitted
        theta = rates * ensemble.leaf_sums(stage, weights * residuals) / terms.learning_rate
        counts = terms.counts(stage) if callable(terms.counts) else terms.counts
        deviations = counts * (residuals - theta[train])
        yield _Tree(leaves[stage - 1].astype(np.intp), train.astype(np.intp), rates, weights, deviations)


def _terms(ensemble: Any) -> Any:
    """Return what the ensemble knows of weights; refuse leaves that are not shrunken means of residuals."""
    terms = ensemble.influence_terms
    means = (
        ensemble.constants is None and ensemble.responding is None and all(rate.ndim == 1 for rate in ensemble.rates)
    )
    if not (ensemble.smoother and ensemble.fits_residuals and means and terms is not None and terms.counts != 0.0):
        raise ValueError(
            "telescope: this score is written for trees whose leaves are shrunken means of residuals (squared error, "
            "no reg_alpha, max_delta_step or path_smooth). Use `influence`, which knows the others, or fit with these."
        )
    return terms


def _same_leaf(tree: _Tree) -> NDArray[np.bool_]:
    """Whether query row and training row share the leaf, (n_query, n_train)."""
    return tree.query[:, None] == tree.train
