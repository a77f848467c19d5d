"""Responses of ensembles whose trees do not see each other's residuals, such as forests.

Without feedback a response is a sum over trees of sums over leaves. Trees are visited one by one and no system of
leaves is solved, so that trees may have as many leaves as rows.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from telescoping_sklearn.boosting._ensemble import LeafEnsemble, membership

#: Steps of one entry of a tree's weights looked up and added, beside one multiplication.
LOOK_UP = 10.0


def staged_average(
    ensemble: LeafEnsemble, leaves: NDArray, labels: NDArray, response: NDArray, offset: bool, stages: NDArray
) -> Iterator[NDArray]:
    """Yield the response to label columns after each stage asked for, (n_query, k).

    Parameters
    ----------
    ensemble : LeafEnsemble
        The ensemble; it must not feed back.
    leaves : ndarray of int of shape (n_stages, n_query)
        Leaf of every query row in every tree.
    labels : ndarray of shape (n_train, k)
        Label columns.
    response : ndarray of shape (n_query, k)
        The start; overwritten.
    offset : bool
        Whether the last column is the offset's.
    stages : ndarray of int
        Stages, counted from 1; 0 is the start.
    """
    wanted = set(stages.tolist())
    if 0 in wanted:
        yield response.copy()
    for stage in range(1, int(stages[-1]) + 1):
        entries = ensemble.label_weights(stage)
        sums = membership(ensemble.leaves[stage - 1], int(ensemble.n_leaves[stage - 1]), entries) @ labels
        rates = ensemble.rates[stage - 1]
        values = rates @ sums if rates.ndim == 2 else rates[:, None] * sums
        if offset and ensemble.constants is not None:
            values[:, -1] += ensemble.constants[stage - 1]
        response += values[leaves[stage - 1]]
        if stage in wanted:
            yield response.copy()


def average_weights(ensemble: LeafEnsemble, leaves: NDArray) -> NDArray:
    """Weight of every training label at query rows, (n_query, n_train).

    Parameters
    ----------
    ensemble : LeafEnsemble
        The ensemble; it must not feed back.
    leaves : ndarray of int of shape (n_stages, n_query)
        Leaf of every query row in every tree, or in the first trees, after which the weights are then meant.
    """
    n_train, n_query = len(ensemble.row_weights), leaves.shape[1]
    weights = np.tile(ensemble.start_weights, (n_query, 1))
    for stage in range(1, len(leaves) + 1):
        reached = _weights_in_leaves(ensemble, stage, leaves[stage - 1])
        queries = np.repeat(np.arange(n_query), np.diff(reached.indptr))
        weights[queries, reached.indices] += reached.data  # a row is in one leaf: no entry occurs twice
    assert weights.shape == (n_query, n_train)
    return weights


def _weights_in_leaves(ensemble: LeafEnsemble, stage: int, leaves: NDArray) -> sparse.csr_array:
    """Weights of the training labels in given leaves of a tree, (len(leaves), n_train)."""
    in_leaves, n_leaves = ensemble.leaves[stage - 1], int(ensemble.n_leaves[stage - 1])
    rates = ensemble.rates[stage - 1]
    asked, position = np.unique(leaves, return_inverse=True)
    if rates.ndim == 2:
        every = membership(in_leaves, n_leaves, ensemble.label_weights(stage))
        return sparse.csr_array(rates[leaves] @ every)
    number = np.full(n_leaves, -1, dtype=np.int32)
    number[asked] = np.arange(len(asked))
    place = number[in_leaves]
    rows = np.flatnonzero(place >= 0)
    entries = ensemble.label_weights(stage)[rows]
    of_asked = sparse.csr_array((entries, (place[rows], rows)), shape=(len(asked), len(in_leaves)))
    return sparse.csr_array(sparse.diags_array(rates[asked]) @ of_asked)[position]
