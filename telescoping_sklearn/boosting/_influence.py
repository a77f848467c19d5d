"""The response of a tree ensemble to the weights of its training rows, with the trees' structure held fixed.

A leaf is v = R G + c with R = lr / (sum w H + ridge) and G = sum w p, where p is the negative gradient of a row. Its
derivative in the weight of one of its rows i is

    R (p_i - H_i v / lr) - R sum_j w_j (h_j + H'_j v / lr) dF_j / dw_i

with dF_j / dw_i what earlier trees had of it: the recursion of the response to labels, with another injection, and with
another feedback where hessians depend on the prediction. So the ensemble of influence is a `LeafEnsemble` whose labels
are weights of rows, and everything that carries labels carries it. Leaves at a threshold, or clipped, have R = 0 and do
not respond. Leaves that are quantiles do not depend on weights while the same rows define them.

This is the influence of Sharchilev et al. 2018, "Finding influential training samples for gradient boosted decision
trees", with fixed structure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn._telescope import UnknownInfluenceError, read_only
from telescoping_sklearn.boosting._derivatives import RawPath
from telescoping_sklearn.boosting._ensemble import InfluenceTerms, LeafEnsemble, StageRates


@dataclass(frozen=True)
class NegativeGradients:
    """Negative gradients p of the training rows before a stage, clipped for Huber's loss; called with the stage.

    Attributes
    ----------
    ensemble : LeafEnsemble
        The ensemble.
    path : RawPath
        Predictions of its training rows.
    labels : ndarray of shape (n_train,)
        Training labels.
    """

    ensemble: LeafEnsemble
    path: RawPath
    labels: NDArray

    def __call__(self, stage: int) -> NDArray:
        """Return p of every row before a stage (1-based), (n_train,)."""
        return _negative_gradients(self.ensemble, stage, self.labels, self.path.before(stage))


@dataclass(frozen=True, kw_only=True)
class InfluenceEnsemble(LeafEnsemble):
    """A tree ensemble in which columns are weights of rows instead of labels.

    Attributes
    ----------
    negative_gradients : callable
        p of all rows in a stage.
    unshrunk : sequence of ndarray of shape (n_leaves,)
        v / lr by stage.
    terms : InfluenceTerms
        What else derivatives in the weights need.
    """

    negative_gradients: StageRates
    unshrunk: Sequence[NDArray]
    terms: InfluenceTerms

    @property
    def fits_residuals(self) -> bool:
        """Weights of rows are not followed by the trees, as labels are."""
        return False

    def label_weights(self, stage: int) -> NDArray:
        """Return what the weight of a row adds to the sum over its leaf: counts times p - H v / lr, (n_train,)."""
        counts, hessian = self.terms.counts, self.terms.hessian
        value = self._values(stage)
        own = self.negative_gradients(stage) - (value if hessian is None else value * hessian(stage))
        return own * (counts(stage) if callable(counts) else counts)

    def feedback_weights(self, stage: int) -> NDArray:
        """Return what the response of a row takes from the sum over its leaf: w (h + H' v / lr), (n_train,)."""
        own, slope = super().feedback_weights(stage), self.terms.hessian_slope
        if slope is None:
            return own
        return own + self.response_weights(stage) * slope(stage) * self._values(stage)

    def _values(self, stage: int) -> NDArray:
        """Look up v / lr of the leaf of every row, (n_train,)."""
        return self.unshrunk[stage - 1][self.leaves[stage - 1]]


def influence_ensemble(ensemble: LeafEnsemble, y: NDArray) -> InfluenceEnsemble:
    """Make the ensemble of influence from the one that was read.

    Parameters
    ----------
    ensemble : LeafEnsemble
        The ensemble, with its `influence_terms`.
    y : ndarray of shape (n_train,)
        Training labels.

    Returns
    -------
    InfluenceEnsemble
        The same trees.

    Raises
    ------
    UnknownInfluenceError
        If derivatives in the weights are not known for these trees, or leaf values mix sums over several leaves.
    """
    terms = ensemble.influence_terms
    if terms is None:
        raise UnknownInfluenceError(
            "influence is not known for these trees: the response of their leaf values to weights of rows was not "
            "read. Use kernel_weights."
        )
    if any(rates.ndim == 2 for rates in ensemble.rates):
        raise UnknownInfluenceError(
            "influence does not exist with path_smooth above 0: it mixes leaf values by numbers of rows, which do not "
            "follow weights of rows. Use kernel_weights, or fit with path_smooth=0."
        )
    values = list(ensemble.staged_leaf_values(y, np.full(len(y), ensemble.start(y))))
    path = RawPath(ensemble.start(y), ensemble.leaves, values)
    own = {field.name: getattr(ensemble, field.name) for field in fields(LeafEnsemble)}
    return InfluenceEnsemble(
        **own
        | {"start_weights": terms.start, "start_offset": 0.0, "constants": None, "gradient": None}
        | {"trained": _counted(terms, ensemble)},
        negative_gradients=NegativeGradients(ensemble, path, read_only(y)),
        unshrunk=[value / terms.learning_rate for value in values],
        terms=terms,
    )


def _counted(terms: InfluenceTerms, ensemble: LeafEnsemble) -> NDArray:
    """Rows that have columns, (n_train,): those that count in some stage; where none does, those whose labels do."""
    counts = terms.counts
    if not callable(counts):
        return np.ones(len(ensemble.row_weights), dtype=bool) if counts else ensemble.trained
    return np.any([counts(stage) > 0 for stage in range(1, ensemble.n_stages + 1)], axis=0) | (terms.start != 0)


def _negative_gradients(ensemble: LeafEnsemble, stage: int, y: NDArray, raw: NDArray) -> NDArray:
    if ensemble.gradient is not None:
        return -ensemble.gradient(stage)
    injection, feedback = (
        rates(stage) if callable(rates) else rates for rates in (ensemble.injection, ensemble.feedback)
    )
    negative_gradients = injection * y - feedback * raw
    clip = np.inf if ensemble.influence_terms is None else ensemble.influence_terms.clip
    return negative_gradients if np.isinf(clip) else np.clip(negative_gradients, -clip, clip)
