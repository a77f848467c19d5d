"""The response of a recorded run to the weights of its training rows.

A unit of a row's weight adds the row's own gradient to that of its batch: a column of weights U enters the gradient by
1/|B| sum_i U_i J_i^T g_i with g_i the derivative of the loss in the outputs at f_{t-1}(x_i), f - y for squared error,
where a column of labels enters by -1/|B| sum_i w_i J_i^T q_i V_i.
The rest is the recursion of the response to labels, over the same sections, with the Jacobians held as recorded.
Weights are those of mean 1 over the rows trained on; what scales them to that mean is held fixed.

The response to labels holds the denominators of adaptive optimisers fixed, or weights times labels would not rebuild
the net. Influence is a derivative and need not: by default the moments respond to the gradients that they are made of.
Adam's step does not change when all gradients are scaled, which held denominators deny.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from telescoping_sklearn._telescope import Denominators, UnknownInfluenceError
from telescoping_sklearn.neural._isolation import isolates, isolates_public_methods
from telescoping_sklearn.neural._path import Path
from telescoping_sklearn.neural._pilot import ResponseAccuracy, influence_accuracy
from telescoping_sklearn.neural._run_loss import BatchLoss
from telescoping_sklearn.neural._tangent_telescope import TangentTelescope
from telescoping_sklearn.neural._update_rules import RecordedUpdate, UpdateRule


class MovingDenominators(UpdateRule):
    """A response whose denominators respond too, at the updates that training made.

    Parameters
    ----------
    rule : UpdateRule
        The optimiser's response with fresh state.
    path : Path
        The recorded run.
    update : callable
        Gives the loss at the rows of an update.
    """

    def __init__(self, rule: UpdateRule, path: Path, update: Callable[[int], BatchLoss]):
        self._rule, self._path, self._update = rule, path, update
        self.has_adjoint = rule.has_moving_adjoint

    def start_offset(self, parameters: Tensor) -> None:
        """Let the last column, of k parameters (k, p), start with what the optimiser remembers from before the run."""
        self._rule.start_offset(parameters)

    def step(self, gradient: Tensor, parameters: Tensor, stage: int, rate: float, phi: Tensor | None) -> Tensor:
        """Return the step's response, (k, p), for the gradient's, whose memory it takes."""
        return self._rule.moving_step(gradient, parameters, stage, rate, phi, self._recorded(stage))

    def transposed_step(
        self, on_step: Tensor, stage: int, rate: float, phi: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step, each (m', p)."""
        return self._rule.transposed_moving_step(on_step, stage, rate, phi, self._recorded(stage))

    def memory(self) -> Any:
        """Return what the optimiser's response carries."""
        return self._rule.memory()

    def recall(self, memory: Any) -> None:
        """Go on from the memory of another rule of the same run."""
        self._rule.recall(memory)

    def _recorded(self, stage: int) -> RecordedUpdate:
        """Look up an update; its gradient is taken again."""
        path, update = self._path, self._update(stage)
        residual = update.gradient * update.weights[:, None]
        return RecordedUpdate(
            gradient=path.batch_tangent(stage).vjp(residual.view(-1, 1))[0],
            parameters=path.theta(stage - 1).to(path.dtype),
            step=path.step(stage - 1, stage)[0],
            phi_before=path.phi(stage - 1),
        )


def _moving(
    make_update_rule: Callable[[], UpdateRule], path: Path, update: Callable[[int], BatchLoss]
) -> MovingDenominators:
    return MovingDenominators(make_update_rule(), path, update)


@isolates_public_methods
class InfluenceTelescope(TangentTelescope):
    """The telescope of a recorded run whose columns are weights of rows instead of labels.

    Parameters
    ----------
    of_labels : TangentTelescope
        The telescope whose columns are labels.
    denominators : {"moving", "held"}
        Whether the denominators of an adaptive optimiser respond.

    Raises
    ------
    ValueError
        If `denominators` is neither.
    UnknownInfluenceError
        If they should move and the optimiser's response does not say how.
    """

    response_name = "influence"
    staged_question = "staged_influence"

    def __init__(self, of_labels: TangentTelescope, denominators: Denominators):
        path, make_update_rule = of_labels.path, of_labels._make_update_rule
        if denominators not in ("moving", "held"):
            raise ValueError(f"denominators must be 'moving' or 'held', got {denominators!r}.")
        if denominators == "moving" and path.trajectory.adaptive:
            if not make_update_rule().has_moving_step:
                name = path.trajectory.optimizer.__name__
                raise UnknownInfluenceError(
                    f"optimizer={name}: the response registered for it does not say how its denominators respond to "
                    "gradients. Ask with them held, telescope_.influence(X, denominators='held'), or register a "
                    "response with a method moving_step; see register_update_rule."
                )
            make_update_rule = partial(_moving, make_update_rule, path, of_labels._update)
            self.parameter_blocks = of_labels.parameter_blocks + 3
        trained = np.zeros(of_labels.n_samples, dtype=bool)
        for stage in range(1, of_labels.n_stages + 1):
            trained[path.batch(stage).cpu().numpy()] = True
        rows: dict[str, Any] = {"y": of_labels.y, "trained": trained}
        super().__init__(path, of_labels.sections, make_update_rule, loss=of_labels.loss, seed=of_labels.seed, **rows)

    @property
    @isolates
    def accuracy(self) -> ResponseAccuracy:
        """How far influence can be trusted, measured by random columns when first asked for."""
        if self._accuracy is None:
            self._accuracy = influence_accuracy(self)
        return self._accuracy

    @property
    def holds_kernels(self) -> bool:
        """Never: columns of weights are multiplied with the run's residuals, which change at every update."""
        return False

    @property
    def column_shape(self) -> tuple[int, ...]:
        """Shape of a column that is carried: one weight a row."""
        return (self.n_samples,)

    def _injected(self, columns: Tensor, update: BatchLoss) -> Tensor:
        """Return what columns at the rows of an update take from its weighted residuals."""
        rates = update.unit_gradient.neg()
        return (columns[:, None, :] * rates[:, :, None]).view(len(columns), -1)

    def _collected(self, on_residual: Tensor, update: BatchLoss) -> Tensor:
        """Return the adjoint of `_injected`, from the derivative in the residuals."""
        rates = update.unit_gradient.neg()
        return torch.einsum("bom,bo->bm", on_residual.view(*rates.shape, -1), rates)
