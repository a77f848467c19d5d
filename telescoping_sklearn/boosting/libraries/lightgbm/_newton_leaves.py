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
from telescoping_sklearn.boosting._derivatives import LossPath, SoftmaxPath
from telescoping_sklearn.boosting._ensemble import InfluenceTerms, LeafEnsemble, RowSets, mean_start_terms
from telescoping_sklearn.boosting.libraries._newton_steps import newton_steps
from telescoping_sklearn.boosting.libraries.lightgbm._replay import GrownTrees
from telescoping_sklearn.boosting.libraries.lightgbm._tree_text import path_smoothing
from telescoping_sklearn.losses import NonQuadraticLoss, SquaredError


class _Derivatives(NamedTuple):
    """What the rows contribute to the leaves of a stage, each (n_train,) or None.

    ``negative_gradient`` is None where no leaf has a threshold. ``hessian`` is None for ones. ``free`` marks the rows
    whose gradient is not clipped, and is None for all.
    """

    negative_gradient: NDArray | None = None
    hessian: NDArray | None = None
    free: NDArray | None = None


def newton_ensemble(
    grown: GrownTrees,
    ridges: Sequence[tuple[NDArray, NDArray]],
    loss: NonQuadraticLoss | None,
    huber: float | None,
    params: Mapping[str, Any],
    others: Sequence[tuple[float, NDArray, list[NDArray]]] = (),
) -> LeafEnsemble:
    """Make the ensemble of trees whose leaves are Newton steps.

    ``ridges`` are those of the inner nodes and the leaves, by stage, from `node_ridges`; ``loss`` is None unless it is
    non-quadratic; ``huber`` is the largest unclipped residual, or None. ``others`` are the starts, leaves and leaf
    values of the other classes where there are several scores.
    """
    learnt = params.get("boost_from_average", True)
    if params["path_smooth"] > 0:
        refuse_if_too_large(
            8.0 * float((grown.n_leaves.astype(float) ** 2).sum()),
            f"path_smooth={params['path_smooth']} mixes every two leaves of a tree; that of {len(grown.trees)} trees",
            "Use fewer trees, a smaller num_leaves, or path_smooth=0.",
        )
    weigh = grown.bagged_weights
    of_hessian: dict[str, Any] = {}
    if loss is None:
        start = SquaredError().start(grown.row_weights) * learnt
        of_loss: dict[str, Any] = {"start_weights": start}
        derivatives = _quadratic_derivatives(grown, start, huber, params)
    else:
        raw, start = loss.start(grown.row_weights, grown.labels) if learnt else (0.0, np.zeros(len(grown.labels)))
        values = [tree.leaf_value - (0.0 if stage else raw) for stage, tree in enumerate(grown.trees)]
        of_output = (loss, grown.labels, raw, grown.leaves, values)
        path = SoftmaxPath(*of_output, others=others) if others else LossPath(*of_output)
        of_loss = {"start_weights": start, "start_offset": raw}
        of_loss |= {"injection": path.label_rate, "feedback": path.curvature, "gradient": path.gradient}
        of_hessian = {"hessian": path.hessian, "hessian_slope": path.hessian_slope}
        derivatives = _non_quadratic_derivatives(path, len(grown.trees))
    rates, constants, responding = [], [], list[NDArray]()
    for stage, at in enumerate(derivatives, start=1):
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


def _non_quadratic_derivatives(path: LossPath, n_stages: int) -> Iterator[_Derivatives]:
    for stage in range(1, n_stages + 1):
        at = path.before(stage)
        yield _Derivatives(-at.gradient, at.hessian)


def _quadratic_derivatives(
    grown: GrownTrees, start: NDArray, huber: float | None, params: Mapping[str, Any]
) -> Iterator[_Derivatives]:
    """Yield the rows' contributions by stage. Training is replayed only where a leaf can have a threshold."""
    if huber is None and params["reg_alpha"] == params["max_delta_step"] == 0:
        yield from [_Derivatives()] * len(grown.trees)
        return
    for residuals in grown.staged_residuals(start @ grown.labels):
        if huber is None:
            yield _Derivatives(residuals)
        else:
            yield _Derivatives(np.clip(residuals, -huber, huber), free=np.abs(residuals) <= huber)


def _affine_leaves(
    grown: GrownTrees,
    stage: int,
    weights: NDArray,
    at: _Derivatives,
    ridges: tuple[NDArray, NDArray],
    params: Mapping[str, Any],
) -> tuple[NDArray, NDArray]:
    """R_t and c_t of a stage."""
    tree, leaves = grown.trees[stage - 1], grown.leaves[stage - 1]
    if tree.n_leaves == 1:  # the start alone
        return np.zeros(1), np.zeros(1)

    def sums(values: NDArray | None) -> NDArray:
        return np.bincount(leaves, weights if values is None else weights * values, tree.n_leaves)

    nothing, gradient = np.zeros(tree.n_leaves), at.negative_gradient
    in_leaves, gradients = sums(at.hessian), nothing if gradient is None else sums(gradient)
    clipped = nothing if at.free is None or gradient is None else sums(np.where(at.free, 0.0, gradient))
    thresholds, learning_rate = (params["reg_alpha"], params["max_delta_step"]), params["learning_rate"]
    if params["path_smooth"] == 0:
        rates, constants = newton_steps(gradients, in_leaves + ridges[1], *thresholds)
        return learning_rate * rates, learning_rate * (rates * clipped + constants)
    below, mixing = path_smoothing(tree, params["path_smooth"])
    ridge = np.concatenate([ridges[0], ridges[1][::-1]])
    rates, constants = newton_steps(below @ gradients, below @ in_leaves + ridge, *thresholds)
    mixed = learning_rate * mixing @ (rates[:, None] * below)
    return mixed, mixed @ clipped + learning_rate * mixing @ constants
