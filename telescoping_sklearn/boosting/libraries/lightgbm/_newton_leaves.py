"""Leaves that are Newton steps, with LightGBM's ridge, penalty, clipping, path smoothing and Huber's loss.

Let G be the sum of negative gradients in a node, and H the sum of hessians. The value of the node is

    v = sign(G) max(|G| - reg_alpha, 0) / (H + lambda),   cut to max_delta_step in size.

With the sign held fixed, and which nodes are zero or cut, v is an affine function of G. A node at zero has no value and
no response. A node that is cut has no response, and its value joins the offset. The penalty takes a constant off all
other nodes. Path smoothing mixes the value of a node with that of its parent, which is linear in the nodes' values.
Huber's loss clips the gradients of rows; the clipped part of G is a constant.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn._memory import refuse_if_too_large
from telescoping_sklearn.boosting._derivatives import LossPath
from telescoping_sklearn.boosting._ensemble import InfluenceTerms, LeafEnsemble, RowSets, mean_start_terms
from telescoping_sklearn.boosting.libraries.lightgbm._replay import GrownTrees
from telescoping_sklearn.boosting.libraries.lightgbm._tree_text import path_smoothing
from telescoping_sklearn.losses import NonQuadraticLoss, SquaredError


class _Pulls(NamedTuple):
    """What the rows contribute to the leaves of a stage, each (n_train,) or None.

    ``pull`` is the negative gradient, or None where no leaf has a threshold. ``hessian`` is None for ones. ``free``
    marks the rows whose gradient is not clipped, and is None for all.
    """

    pull: NDArray | None = None
    hessian: NDArray | None = None
    free: NDArray | None = None


def newton_steps(
    sums: NDArray, denominators: NDArray, reg_alpha: float, max_delta_step: float
) -> tuple[NDArray, NDArray]:
    """Value of a node as an affine map of its sum of negative gradients: ``rates * sums + constants``.

    ``denominators`` are sums of hessians plus ridge; 0 means no penalty and no limit.

    Examples
    --------
    >>> rates, constants = newton_steps(np.array([8.0, -0.5, -9.0]), np.full(3, 2.0), 1.0, 3.8)
    >>> rates, constants
    (array([0.5, 0. , 0. ]), array([-0.5,  0. , -3.8]))
    """
    rates = np.divide(1.0, denominators, out=np.zeros_like(denominators), where=denominators > 0)
    free = (np.abs(sums) > reg_alpha) | (reg_alpha == 0)
    values = np.where(free, rates * (sums - np.sign(sums) * reg_alpha), 0.0)
    cut = (np.abs(values) > max_delta_step) & (max_delta_step > 0)
    constants = np.where(cut, np.sign(values) * max_delta_step, np.where(free, -rates * np.sign(sums) * reg_alpha, 0.0))
    return np.where(free & ~cut, rates, 0.0), constants


def newton_ensemble(
    grown: GrownTrees,
    ridges: Sequence[tuple[NDArray, NDArray]],
    loss: NonQuadraticLoss | None,
    huber: float | None,
    params: Mapping[str, Any],
) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are Newton steps.

    ``ridges`` are those of the inner nodes and the leaves, by stage, from `node_ridges`; ``loss`` is None unless it is
    non-quadratic; ``huber`` is the largest unclipped residual, or None.
    """
    if params["path_smooth"] > 0:
        refuse_if_too_large(
            8.0 * float((grown.n_leaves.astype(float) ** 2).sum()),
            f"path_smooth={params['path_smooth']} mixes every two leaves of a tree; that of {len(grown.trees)} trees",
            "Use fewer trees, a smaller num_leaves, or path_smooth=0.",
        )
    weigh = grown.bagged_weights
    of_hessian: dict[str, Any] = {}
    if loss is None:
        start = SquaredError().start(grown.row_weights)
        of_loss: dict[str, Any] = {"start_weights": start}
        pulls = _pulls(grown, start, huber, params)
    else:
        raw, start = loss.start(grown.row_weights, grown.labels)
        values = [tree.leaf_value - (0.0 if stage else raw) for stage, tree in enumerate(grown.trees)]
        path = LossPath(loss, grown.labels, raw, grown.leaves, values)
        of_loss = {"start_weights": start, "start_offset": raw}
        of_loss |= {"injection": path.label_rate, "feedback": path.curvature, "gradient": path.gradient}
        of_hessian = {"hessian": path.hessian, "hessian_slope": path.hessian_slope}
        pulls = _non_quadratic_pulls(path, len(grown.trees))
    rates, constants, responding = [], [], list[NDArray]()
    for stage, at in enumerate(pulls, start=1):
        weights = grown.row_weights if weigh is None else weigh(stage)
        rate, constant = _affine_leaves(grown, stage, weights, at, ridges[stage - 1], params)
        rates.append(rate)
        constants.append(constant)
        if at.free is not None:
            responding.append(at.free)
    terms = InfluenceTerms(
        learning_rate=params["learning_rate"],
        start=mean_start_terms(start, grown.row_weights, grown.labels, grown.given),
        counts=grown.counts,
        clip=np.inf if huber is None else huber,
        **of_hessian,
    )
    return LeafEnsemble(
        leaves=grown.leaves,
        n_leaves=grown.n_leaves,
        row_weights=grown.row_weights,
        trained=grown.row_weights > 0,
        influence_terms=terms,
        rates=rates,
        constants=constants if any(constant.any() for constant in constants) else None,
        weights_by_stage=weigh,
        responding=RowSets(responding, np.arange(len(responding))) if responding else None,
        **of_loss,
    )


def _non_quadratic_pulls(path: LossPath, n_stages: int) -> Iterator[_Pulls]:
    for stage in range(1, n_stages + 1):
        at = path.before(stage)
        yield _Pulls(-at.gradient, at.hessian)


def _pulls(grown: GrownTrees, start: NDArray, huber: float | None, params: Mapping[str, Any]) -> Iterator[_Pulls]:
    """Yield the rows' contributions by stage. Training is replayed only where a leaf can have a threshold."""
    if huber is None and params["reg_alpha"] == params["max_delta_step"] == 0:
        yield from [_Pulls()] * len(grown.trees)
        return
    for residuals in grown.staged_residuals(start @ grown.labels):
        if huber is None:
            yield _Pulls(residuals)
        else:
            yield _Pulls(np.clip(residuals, -huber, huber), free=np.abs(residuals) <= huber)


def _affine_leaves(
    grown: GrownTrees,
    stage: int,
    weights: NDArray,
    at: _Pulls,
    ridges: tuple[NDArray, NDArray],
    params: Mapping[str, Any],
) -> tuple[NDArray, NDArray]:
    """R_t and c_t of a stage."""
    tree, leaves = grown.trees[stage - 1], grown.leaves[stage - 1]
    if tree.n_leaves == 1:  # the start alone
        return np.zeros(1), np.zeros(1)

    def sums(values: NDArray | None) -> NDArray:
        return np.bincount(leaves, weights if values is None else weights * values, tree.n_leaves)

    in_leaves, pulls = sums(at.hessian), np.zeros(tree.n_leaves) if at.pull is None else sums(at.pull)
    clipped = np.zeros(tree.n_leaves) if at.free is None or at.pull is None else sums(np.where(at.free, 0.0, at.pull))
    thresholds, learning_rate = (params["reg_alpha"], params["max_delta_step"]), params["learning_rate"]
    if params["path_smooth"] == 0:
        rates, constants = newton_steps(pulls, in_leaves + ridges[1], *thresholds)
        return learning_rate * rates, learning_rate * (rates * clipped + constants)
    below, mixing = path_smoothing(tree, params["path_smooth"])
    ridge = np.concatenate([ridges[0], ridges[1][::-1]])
    rates, constants = newton_steps(below @ pulls, below @ in_leaves + ridge, *thresholds)
    mixed = learning_rate * mixing @ (rates[:, None] * below)
    return mixed, mixed @ clipped + learning_rate * mixing @ constants
