"""Fitting through skorch: its loop and callbacks, fed with slices of tensors and watched by a recorder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from telescoping_sklearn.neural._backpropagation import propagation
from telescoping_sklearn.neural._callbacks import Converged, ShowProgress, StopWithoutProgress, WatchRun, diverged
from telescoping_sklearn.neural._isolation import threads
from telescoping_sklearn.neural._network import FlatModule
from telescoping_sklearn.neural._plan import TrainingPlan, TrainingRows, own_settings
from telescoping_sklearn.neural._trajectory import Trajectory, TrajectoryWriter, epoch_batches
from telescoping_sklearn.neural._update_rules import UpdateRule, denominator_of, update_rule

_CHECKED = 3  # first updates in which an optimiser's response must give the steps it took


class TensorBatches:
    """Orders of the rows, one an epoch.

    Parameters
    ----------
    dataset : TensorDataset
        X, y and weights.
    batch_size : int
        Rows of a batch; the last, smaller one is kept.
    shuffle : bool
        Whether every epoch draws a new order.
    generator : torch.Generator
        Draws the orders.
    """

    def __init__(self, dataset: TensorDataset, batch_size: int, shuffle: bool, generator: torch.Generator):
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.generator = generator

    def draw_order(self) -> Tensor:
        """Draw the order of an epoch's rows."""
        n_rows = len(self.dataset)
        return torch.randperm(n_rows, generator=self.generator) if self.shuffle else torch.arange(n_rows)

    def batches(self, order: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield X, y and weights of each batch."""
        return epoch_batches(self.dataset.tensors, order, self.batch_size)


class LeanNet(NeuralNet):
    """skorch's net whose epoch does nothing between two updates but what training and its record need."""

    watch: "WatchRun"
    rates: Iterator[float]
    check: "ResponseCheck | None"

    def run_single_epoch(self, iterator: Any, training: bool, prefix: str, step_fn: Any, **fit_params: Any) -> None:
        """Train for an epoch; there is no epoch of validation, which is a callback's."""
        if iterator is None:
            return
        theta, optimizer = self.module_.theta, self.optimizer_
        propagate = propagation(self.module_)
        (group,) = optimizer.param_groups
        order = iterator.draw_order()
        self.watch.start_epoch(order)
        for batch in iterator.batches(order):
            loss = propagate(*batch)
            group["lr"] = next(self.rates)
            if self.check is not None and self.watch.n_updates < _CHECKED:
                self.check.step(theta, propagate.gradient, optimizer)
            else:
                optimizer.step()
            self.watch.add(theta, optimizer, loss, len(batch[1]))


class ResponseCheck:
    """Takes an optimiser's first steps, and holds its response against them.

    Parameters
    ----------
    optimizer_class : type
        The optimiser.
    settings : dict
        The settings of its parameter group.
    """

    def __init__(self, optimizer_class: type[torch.optim.Optimizer], settings: dict[str, Any]):
        self._name = optimizer_class.__name__
        self._rule = update_rule(optimizer_class, settings)
        self._denominator = denominator_of(optimizer_class)
        self._stage = 0

    def step(self, theta: Tensor, gradient: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Update theta; raise ValueError if the response to its gradient is another step."""
        self._stage += 1
        before, gradient = theta.detach().clone(), gradient.clone()
        optimizer.step()
        group = optimizer.param_groups[0]
        phi = None if self._denominator is None else self._denominator(optimizer.state[theta], group)
        taken = theta.detach() - before
        given = self._rule.step(gradient[None], before[None], self._stage, group["lr"], phi)[0]
        gap = (taken - given).abs().max()
        rounding = 4 * torch.finfo(theta.dtype).eps * before.abs().max()
        if torch.isfinite(taken).all() and not gap <= 1e-3 * taken.abs().max() + rounding:
            raise ValueError(
                f"optimizer={self._name}: the response registered for it does not give the step of update "
                f"{self._stage} (largest gap {float(gap):.1e}, largest step {float(taken.abs().max()):.1e}). "
                "Either a setting in optimizer_settings is not covered by it, or it is wrong."
            )


@dataclass
class TrainedNet:
    """What training leaves.

    Attributes
    ----------
    theta : Tensor of shape (p,)
        The parameters that are kept.
    n_stages : int
        Updates up to them.
    make_rule : callable
        Makes the optimiser's linear response.
    trajectory : Trajectory or None
        The recorded run.
    loss_curve, scores : list of float
        Training loss by epoch; scores on held-out rows by epoch.
    """

    theta: Tensor
    n_stages: int
    make_rule: Callable[[], UpdateRule]
    trajectory: Trajectory | None
    loss_curve: list[float]
    scores: list[float] = field(default_factory=list)


def train(
    plan: TrainingPlan,
    theta: Tensor,
    rows: TrainingRows,
    score: Callable[[Tensor], float] | None = None,
) -> TrainedNet:
    """Train from theta.

    Parameters
    ----------
    plan : TrainingPlan
        How to train.
    theta : Tensor of shape (p,)
        Initial parameters, in the dtype to train in.
    rows : TrainingRows
        Rows to train on, the weights of mean 1.
    score : callable or None
        Score of parameters on held-out rows, for early stopping.

    Returns
    -------
    TrainedNet
        The net that is kept, and its run.

    Raises
    ------
    ValueError
        If training diverges, with the stage at which the loss stopped being finite.
    """
    writer = None
    if plan.record:
        adaptive = denominator_of(plan.optimizer) is not None
        writer = TrajectoryWriter(plan.record_plan(len(rows.y)), theta, adaptive)
    watch = WatchRun(writer)
    stop = StopWithoutProgress(watch, plan.tol, plan.n_iter_no_change, score)
    progress = ShowProgress(plan.max_iter, watch) if plan.verbose else None
    net = _skorch_net(plan, theta, [watch, *([progress] if progress else []), stop])
    settings = own_settings(net.optimizer_)
    net.watch, net.rates = watch, plan.rates()
    net.check = ResponseCheck(plan.optimizer, settings) if plan.record else None
    try:
        with threads(plan.n_threads):
            net.fit_loop(TensorDataset(*rows.tensors(plan.dtype, plan.device)), epochs=plan.max_iter)
    except Converged:
        pass  # the loop has no other way to be told
    finally:
        if progress:
            progress.bar.close()
    kept = net.module_.theta.detach() if stop.best_theta is None else stop.best_theta
    if not bool(torch.isfinite(kept).all()):
        raise ValueError(diverged(watch.n_updates))
    n_stages = watch.n_updates if stop.best_theta is None else stop.best_stage
    return TrainedNet(
        theta=kept.clone(),
        n_stages=n_stages,
        make_rule=partial(update_rule, plan.optimizer, settings),
        trajectory=None if writer is None else writer.finish(n_stages, kept),
        loss_curve=watch.loss_curve,
        scores=[] if score is None else stop.scores,
    )


def _skorch_net(plan: TrainingPlan, theta: Tensor, callbacks: list[Callback]) -> LeanNet:
    """Compose an initialised skorch net with none of its own callbacks, which only report."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(plan.seed).generate_state(1)[0]))
    named = [(type(callback).__name__, callback) for callback in callbacks]
    net = LeanNet(
        FlatModule,
        module__network=plan.network,
        module__theta=theta.clone(),
        criterion=nn.MSELoss,  # never called: the loss and its gradient are worked by hand
        optimizer=plan.optimizer,
        **{f"optimizer__{name}": value for name, value in plan.optimizer_settings.items()},
        max_epochs=plan.max_iter,
        batch_size=plan.batch_size,
        iterator_train=TensorBatches,
        iterator_train__shuffle=plan.shuffle,
        iterator_train__generator=generator,
        train_split=None,
        callbacks=named,
        callbacks__epoch_timer=None,
        callbacks__train_loss=None,
        callbacks__valid_loss=None,
        callbacks__print_log=None,
        device=plan.device,
        verbose=0,
    )
    return net.initialize()
