"""Fitting through skorch: its loop and callbacks, fed with slices of tensors and watched by a recorder.

The callbacks record and decide when to stop; none of them steers an update.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from tqdm.auto import tqdm

from telescoping_sklearn.neural._backpropagation import propagation
from telescoping_sklearn.neural._network import FlatModule, Network
from telescoping_sklearn.neural._schedule import learning_rates
from telescoping_sklearn.neural._trajectory import (
    Batches,
    Checkpoint,
    RecordPlan,
    Stretch,
    Trajectory,
    TrajectoryWriter,
    epoch_batches,
)
from telescoping_sklearn.neural._update_rules import UpdateRule, denominator_of, update_rule

_CHECKED = 3  # first updates in which an optimiser's response must give the steps it took
_SINGLE_THREAD = 2**24  # multiplications of a forward pass below which a second thread costs more than it brings


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


class WatchRun(Callback):
    """Counts updates, adds up the loss of an epoch, raises on divergence, and records the run where asked to.

    Parameters
    ----------
    writer : TrajectoryWriter or None
        Where the run is recorded.
    """

    def __init__(self, writer: TrajectoryWriter | None):
        self.writer = writer
        self.n_updates = 0
        self.loss_curve: list[float] = []

    def start_epoch(self, order: Tensor) -> None:
        """Start the epoch's sums."""
        self._losses: list[Tensor] = []
        self._rows: list[int] = []
        if self.writer is not None:
            self.writer.start_epoch(order)

    def add(self, theta: Tensor, optimizer: torch.optim.Optimizer, loss: Tensor, n_rows: int) -> None:
        """Take note of one update."""
        self.n_updates += 1
        self._losses.append(loss)
        self._rows.append(n_rows)
        if self.writer is not None:
            self.writer.add(theta, optimizer)

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Close the epoch's sums, in one wait for the device."""
        losses = torch.stack(self._losses).double().cpu()
        finite = torch.isfinite(losses)
        if not bool(finite.all()):
            raise ValueError(diverged(self.n_updates - len(losses) + int(finite.long().argmin()) + 1))
        rows = torch.tensor(self._rows, dtype=torch.float64)
        self.loss_curve.append(float(losses @ rows / rows.sum()))


def diverged(stage: int) -> str:
    """Message for training whose loss stopped being finite."""
    return (
        f"Training diverged: the loss is not finite at stage {stage}. Lower learning_rate_init, scale the inputs and "
        "the target, or lower init_scale."
    )


class _Converged(Exception):
    """Ends the loop; skorch's own way, KeyboardInterrupt, would swallow the user's."""


class StopWithoutProgress(Callback):
    """Stops as scikit-learn's multilayer perceptrons do, and keeps the best parameters under early stopping.

    Parameters
    ----------
    watch : WatchRun
        Gives the training loss.
    tol : float
        Least progress that counts.
    n_iter_no_change : int
        Epochs without progress that are allowed.
    score : callable or None
        Score of the parameters on held-out rows; None watches the training loss.
    """

    def __init__(self, watch: WatchRun, tol: float, n_iter_no_change: int, score: Callable[[Tensor], float] | None):
        self.watch = watch
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.score = score
        self.scores: list[float] = []
        self.best = -math.inf
        self.best_theta: Tensor | None = None
        self.best_stage = 0
        self._waited = 0

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Compare the epoch with the best so far."""
        theta = net.module_.theta.detach()
        current = -self.watch.loss_curve[-1] if self.score is None else self.score(theta)
        self.scores.append(current)
        self._waited = self._waited + 1 if current < self.best + self.tol else 0
        if current > self.best:
            self.best = current
            if self.score is not None:
                self.best_theta, self.best_stage = theta.clone(), self.watch.n_updates
        if self._waited > self.n_iter_no_change:
            raise _Converged


class ShowProgress(Callback):
    """A progress bar over epochs.

    Parameters
    ----------
    max_iter : int
        Most epochs.
    watch : WatchRun
        Gives the loss.
    """

    def __init__(self, max_iter: int, watch: WatchRun):
        self.bar = tqdm(total=max_iter, unit="epoch", desc="TelescopingMLPRegressor")
        self.watch = watch

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Advance by one epoch."""
        self.bar.set_postfix(loss=f"{self.watch.loss_curve[-1]:.4g}")
        self.bar.update()


@dataclass(frozen=True)
class TrainingRows:
    """Rows as `fit` was given them, held once and shared by whatever asks for them.

    Attributes
    ----------
    X : ndarray of shape (n_train, n_features)
        Training rows.
    y : ndarray of shape (n_train,)
        Training labels.
    weights : ndarray of shape (n_train,)
        Sample weights, of mean 1 over the rows trained on; zero for rows held out.
    """

    X: NDArray
    y: NDArray
    weights: NDArray

    def tensors(self, dtype: torch.dtype, device: str) -> list[Tensor]:
        """Return copies to train on."""
        return [torch.tensor(array, dtype=dtype, device=device) for array in (self.X, self.y, self.weights)]

    def subset(self, rows: NDArray) -> "TrainingRows":
        """Return some of the rows."""
        return TrainingRows(self.X[rows], self.y[rows], self.weights[rows])


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that training needs to know beside the rows.

    Attributes
    ----------
    network : Network
        The network.
    optimizer : type
        torch's optimiser.
    optimizer_settings : dict
        Its settings.
    lr_schedule, warmup_steps
        What moves the learning rate.
    batch_size, max_iter, n_iter_no_change : int
        Rows of a batch, most epochs, epochs without progress.
    tol : float
        Least progress that counts.
    shuffle, record, verbose : bool
        Whether to permute rows, record the run, and show progress.
    record_budget : int
        Bytes that the record may take.
    dtype : torch.dtype
        Precision.
    device : str
        Where to train.
    n_threads : int
        Threads of one operation on the CPU: sums depend on it in their last bits.
    seed : int
        Seeds the order of the batches.
    """

    network: Network
    optimizer: type[torch.optim.Optimizer]
    optimizer_settings: dict[str, Any]
    lr_schedule: Any
    warmup_steps: int
    batch_size: int
    max_iter: int
    n_iter_no_change: int
    tol: float
    shuffle: bool
    record: bool
    record_budget: int
    verbose: bool
    dtype: torch.dtype
    device: str
    n_threads: int
    seed: int

    def rates(self) -> Iterator[float]:
        """Learning rates of successive updates."""
        return learning_rates(self.lr_schedule, self.warmup_steps, self.optimizer, self.optimizer_settings)

    def record_plan(self, n_rows: int) -> RecordPlan:
        """How the run of so many rows is kept."""
        state, adaptive = trial_state(self.optimizer, self.optimizer_settings)
        vector = self.dtype.itemsize * self.network.n_params
        return RecordPlan(
            n_updates=self.max_iter * -(-n_rows // self.batch_size),
            batch_size=self.batch_size,
            n_rows=n_rows,
            stage_bytes=vector * (2 if adaptive else 1),
            checkpoint_bytes=vector * (1 + state),
            budget=self.record_budget,
        )

    def replay(self, rows: TrainingRows) -> "TrainAgain":
        """Return what trains again from a checkpoint, given the rows that its batches speak of."""
        return TrainAgain(
            self.network,
            self.optimizer,
            self.optimizer_settings,
            self.batch_size,
            self.dtype,
            self.device,
            self.n_threads,
            rows,
        )


def threads_for(network: Network, batch_size: int) -> int:
    """Threads to train with: one for small batches of small nets, where more only wait for each other."""
    return 1 if batch_size * network.n_params < _SINGLE_THREAD else torch.get_num_threads()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let one operation use that many threads, and put torch's own number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def trial_state(optimizer: type[torch.optim.Optimizer], settings: dict[str, Any]) -> tuple[int, bool]:
    """Count the tensors that an optimiser keeps of every parameter, and tell whether it has denominators.

    Raises
    ------
    ValueError
        If the optimiser refuses the settings, is not registered, or its rule refuses them.
    """
    parameter = torch.ones(3, dtype=torch.float64, requires_grad=True)
    try:
        trial = optimizer([parameter], **settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{optimizer.__name__} refuses optimizer_settings: {error}") from error
    update_rule(optimizer, own_settings(trial))
    parameter.grad = torch.ones_like(parameter)
    trial.step()
    state = trial.state[parameter]
    n_tensors = sum(isinstance(value, Tensor) and value.shape == (3,) for value in state.values())
    return n_tensors, denominator_of(optimizer) is not None


def own_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the settings of an optimiser's only group."""
    (group,) = optimizer.param_groups
    return {name: value for name, value in group.items() if name != "params"}


@dataclass(frozen=True)
class TrainAgain:
    """Repeats updates of a recorded run from a checkpoint: the same operations on the same numbers.

    Attributes
    ----------
    network : Network
        The network.
    optimizer : type
        torch's optimiser.
    optimizer_settings : dict
        Its settings; learning rates are those recorded.
    batch_size : int
        Rows of a batch.
    dtype : torch.dtype
        Precision.
    device : str
        Where to train.
    n_threads : int
        Threads of one operation in the run.
    rows : TrainingRows
        Rows that the batches speak of.
    """

    network: Network
    optimizer: type[torch.optim.Optimizer]
    optimizer_settings: dict[str, Any]
    batch_size: int
    dtype: torch.dtype
    device: str
    n_threads: int
    rows: TrainingRows

    def __call__(self, checkpoint: Checkpoint, stages: range, batches: Batches, rates: NDArray) -> Stretch:
        """Return the updates of some stages, of which the first follows the checkpoint."""
        theta = checkpoint.theta.to(self.device, copy=True)
        module = FlatModule(self.network, theta)
        optimizer = self.optimizer(module.parameters(), **self.optimizer_settings)
        (group,) = optimizer.param_groups
        if checkpoint.state:
            optimizer.state[module.theta] = self._restored(checkpoint)
        denominator = denominator_of(self.optimizer)
        stretch = Stretch.empty(len(stages), checkpoint.theta, denominator is not None)
        propagate = propagation(module)
        with threads(self.n_threads):
            for row, batch in enumerate(self._batches(stages, batches)):
                propagate(*batch)
                group["lr"] = float(rates[row])
                optimizer.step()
                stretch.parameters[row].copy_(theta)
                if stretch.denominators is not None and denominator is not None:
                    stretch.denominators[row].copy_(denominator(optimizer.state[module.theta], group))
        return stretch

    def _restored(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Copy the optimiser's state: vectors where the parameters are, counts where torch keeps them."""
        state = {}
        for name, value in checkpoint.state.items():
            if isinstance(value, Tensor):
                value = value.to(self.device if value.shape == checkpoint.theta.shape else "cpu", copy=True)
            state[name] = value
        return state

    def _batches(self, stages: range, batches: Batches) -> Iterator[tuple[Tensor, ...]]:
        tensors = self.rows.tensors(self.dtype, self.device)
        first, last = stages[0] - 1, stages[-1]
        for epoch in range(first // batches.per_epoch, -(-last // batches.per_epoch)):
            begin = epoch * batches.per_epoch
            within = range(max(first - begin, 0), min(last - begin, batches.per_epoch))
            yield from epoch_batches(tensors, torch.from_numpy(batches.order(epoch)), self.batch_size, within)


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
    except _Converged:
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
