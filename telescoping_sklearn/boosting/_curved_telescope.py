"""The telescope of a boosted ensemble with a non-quadratic loss: exact in its kernels, a derivative in its labels.

On the raw score f the sum over stages is exact, f_T = f_0 - sum_t sum_i K_t(x, x_i) g_it. The response to labels is
the derivative of f_T in the labels, with the trees and the H in their denominators held fixed. It is not a smoother:
S y does not rebuild f, and questions that assume it are refused.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn._telescope import Estimate, NotASmootherError
from telescoping_sklearn.boosting._leaf_telescope import LeafTelescope


def _not_a_smoother(question: str) -> NotASmootherError:
    return NotASmootherError(
        f"{question} does not exist for this loss: kernel_weights are the derivative of the raw score in the labels, "
        "and their sum with the labels does not rebuild the prediction. Use kernel_weights, top_examples, breakdown or "
        "staged_kernel; or fit squared error."
    )


class CurvedLeafTelescope(LeafTelescope):
    """The telescope of a boosted ensemble on the raw score of a non-quadratic loss."""

    def kernel_form(self) -> NDArray:
        """f_0 - sum_t sum_i K_t g_it at the training rows, (n_train,): the raw score, rebuilt from gradients."""
        ensemble = self.ensemble
        assert ensemble.gradient is not None  # otherwise the ensemble is a smoother
        raw = np.full(self.n_samples, ensemble.start(self.y))
        for stage in range(1, self.n_stages + 1):
            pulls = -ensemble.stage_weights(stage) * ensemble.gradient(stage)
            values = ensemble.leaf_values(stage, ensemble.leaf_sums(stage, pulls))
            raw += values[ensemble.leaves[stage - 1]]
        return raw

    def offset(self, X: NDArray | None) -> NDArray:
        """Raise: without a smoother nothing is left over."""
        raise _not_a_smoother("offset")

    def staged_reconstruction(self, X: NDArray | None, stages: Any = None) -> Iterator[NDArray]:
        """Raise: labels times weights do not rebuild the raw score."""
        raise _not_a_smoother("A reconstruction (approximation_error)")

    def staged_effective_params(self, X: NDArray | None, **kwargs: Any) -> Estimate:
        """Raise: effective parameters are those of a smoother."""
        raise _not_a_smoother("effective_params")

    def staged_training_summary(self, **kwargs: Any) -> tuple[Estimate, Estimate]:
        """Raise: effective parameters and degrees of freedom are those of a smoother."""
        raise _not_a_smoother("A count of effective parameters or degrees of freedom")
