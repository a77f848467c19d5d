"""Responses of ensembles whose trees do not see each other's residuals, such as forests.

The response is then a sum over trees of sums over leaves. Trees are visited one by one and no system of leaves is
solved, so that trees may have as many leaves as rows.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

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
        The ensemble, an average.
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
        values = ensemble.rates[stage - 1][:, None] * sums
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
        The ensemble, an average.
    leaves : ndarray of int of shape (n_stages, n_query)
        Leaf of every query row in every tree, or in the first trees, after which the weights are then meant.
    """
    weights = np.tile(ensemble.start_weights, (leaves.shape[1], 1))
    for stage, of_tree in enumerate(leaves, start=1):
        asked, leaf_of = np.unique(of_tree, return_inverse=True)
        rows, starts = _rows_in(ensemble.leaves[stage - 1], asked, int(ensemble.n_leaves[stage - 1]))
        rates = np.repeat(ensemble.rates[stage - 1][asked], np.diff(starts))
        added = rates * ensemble.label_weights(stage)[rows]
        for query, leaf in enumerate(leaf_of):
            own = slice(starts[leaf], starts[leaf + 1])
            weights[query, rows[own]] += added[own]
    return weights


def average_own_weights(ensemble: LeafEnsemble) -> NDArray:
    """Weight of every training label in the prediction of its own row, (n_train,); zero for rows not trained on."""
    own = ensemble.start_weights.copy()
    for stage, (rates, leaves) in enumerate(zip(ensemble.rates, ensemble.leaves, strict=True), start=1):
        own += rates[leaves] * ensemble.label_weights(stage)
    return own


def _rows_in(leaves: NDArray, asked: NDArray, n_leaves: int) -> tuple[NDArray, NDArray]:
    """Rows in the leaves that are asked for, leaf by leaf, and where each leaf starts among them."""
    number = np.full(n_leaves, len(asked), dtype=np.min_scalar_type(len(asked)))
    number[asked] = np.arange(len(asked))
    place = number[leaves]
    rows = np.flatnonzero(place < len(asked))
    rows = rows[np.argsort(place[rows], kind="stable")]
    return rows, np.concatenate([[0], np.cumsum(np.bincount(place, minlength=len(asked) + 1)[: len(asked)])])
