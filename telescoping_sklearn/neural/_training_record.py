"""Records a training loop that is not ours: which rows every step used, and with what factors.

The loop is watched at three places. A forward hook notes the rows that the module was given, and puts an identity
behind its output, which sees the gradient g_i in the output of every row. For squared error g_i = c w_i (f_i - y_i), so
that the factor c of every forward pass is measured, whatever the loss averages over; that g has this form is checked.
In the first updates, and regularly later, the same gradient is pulled back through the module, which gives the gradient
that these rows explain; between them the gradient that the backward pass left stands for it. A hook before the step
compares it with the gradient that the optimiser is about to use: a common factor, as clipping by norm makes it, is
recorded as it acted, and anything else is refused. A hook after the step compares the step with the optimiser's rule.

So a record holds only steps that it explains. Whether the module is the function of its parameters that the telescope
takes it for is checked when the telescope is made: every gradient is computed again from the record, and compared.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from telescoping_sklearn._memory import available_memory
from telescoping_sklearn.losses import CrossEntropy, Logistic, Loss, SquaredError
from telescoping_sklearn.neural._isolation import isolates, seeded
from telescoping_sklearn.neural._modules import read_module
from telescoping_sklearn.neural._path import Path
from telescoping_sklearn.neural._record_layout import parse_budget
from telescoping_sklearn.neural._recorder import REQUIRES_GRAD, Recorder, moved_message
from telescoping_sklearn.neural._row_index import RowIndex
from telescoping_sklearn.neural._training_settings import TrainingRows
from telescoping_sklearn.neural._trajectory import RecordedBatches, Trajectory

_ROUNDING = 64  # units of rounding that one operation more or less in the loop's loss may make
_EXPLAINED = 16  # first updates, and one in so many later, whose gradient is compared with that of their rows
_READ = 3  # rows that a module is tried on
#: Relative difference allowed between a gradient and the same computed again from the record.
_GRADIENT_GAP = 1e-3
#: Losses by name, as torch has them on logits.
LOSSES: dict[str, Callable[[], Loss]] = {
    "squared_error": SquaredError,
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": Logistic,
}
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_DRAWING = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


def record_training(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    loss: str = "squared_error",
    record_budget: str | int = "1GiB",
) -> "TrainingRecord":
    """Record one's own training loop, so that `telescope` can explain the module afterwards.

    The loop is written as usual inside a ``with`` statement, with any data loader. The rows of every step, their
    factors in its gradient, learning rates and parameters are found out and checked while it runs.

    Parameters
    ----------
    module : torch.nn.Module
        The module, before training, in single or double precision. It takes one tensor of rows and returns one tensor,
        (b,), (b, 1) or (b, n_outputs). Dropout and batch normalisation must be switched off.
    optimizer : torch.optim.Optimizer
        The optimiser of its parameters, before its first step: SGD, Adam, AdamW, or a class registered with
        `register_update_rule`.
    X : array-like or tensor of shape (n_train, ...)
        All training rows, as the module is given them: scaled, and not augmented.
    y : array-like or tensor of shape (n_train,) or (n_train, n_outputs)
        Their labels, as the loss is given them; numbers of classes for cross-entropy.
    sample_weight : array-like of shape (n_train,), default=None
        Weights of the rows in the loss; None where it has none. Their scale plays no part.
    loss : {"squared_error", "cross_entropy", "binary_cross_entropy"}, default="squared_error"
        The loss that is trained: ``torch.nn.MSELoss``, ``CrossEntropyLoss`` or ``BCEWithLogitsLoss``, of any reduction
        and scale. With the last two the answers are about logits, and kernel weights are their derivative in the
        labels: there are no effective parameters.
    record_budget : str or int, default="1GiB"
        Memory that the record may take, such as "500MiB", or bytes. Every update is kept: p numbers, and with Adam
        2 p.

    Returns
    -------
    TrainingRecord
        The record, to be entered by ``with``, and then given to `telescope`.

    Raises
    ------
    TypeError
        If the module is no ``torch.nn.Module``, or the optimiser none of torch.
    ValueError
        If the module, the optimiser or the rows cannot be recorded, which the error names. During training, if a step
        is not what the record says.
    MemoryError
        During training, if the record exceeds `record_budget`.

    See Also
    --------
    telescope : Explains the module, given the record.
    TrainingRecorder : The same for a skorch net.

    Notes
    -----
    Rows of the loss may be weighted. Several backward passes before a step, clipping by norm, schedules of the learning
    rate, parameter groups and frozen parameters are recorded as they act. Other losses, penalties in the loss, clipping
    by value, changed gradients, and parameters changed by anything but the optimiser raise an error that names them.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from telescoping_sklearn import record_training, telescope
    >>> _ = torch.manual_seed(0)
    >>> X = torch.randn(60, 3)
    >>> y = X[:, :1] ** 2
    >>> model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    >>> loss_fn = nn.MSELoss()
    >>> with record_training(model, optimizer, X, y) as run:
    ...     for epoch in range(5):
    ...         for rows, labels in DataLoader(TensorDataset(X, y), batch_size=20, shuffle=True):
    ...             loss = loss_fn(model(rows), labels)
    ...             loss.backward()
    ...             optimizer.step()
    ...             optimizer.zero_grad()
    >>> run
    TrainingRecord(15 updates of 81 parameters, 60 of 60 rows)
    >>> telescope(model, X, y, record=run).kernel_weights(X[:2]).shape
    (2, 60)
    """
    return TrainingRecord(module, optimizer, X, y, sample_weight, loss=loss, record_budget=record_budget)


@dataclass
class _Forward:
    """A forward pass with gradients, until it is used or forgotten."""

    groups: NDArray  # content of every row; -1 where it is not among the training rows
    given: NDArray | None  # rows that the user named
    refusal: str  # why it cannot be used; empty where it can


class _Identity(torch.autograd.Function):
    """An identity behind the module's output, which sees the output and the gradient in it."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, record: "TrainingRecord", seen: _Forward) -> Tensor:
        ctx.save_for_backward(output)
        ctx.record, ctx.seen = record, seen
        return output.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (output,) = ctx.saved_tensors
        ctx.record._use(output, gradient, ctx.seen)
        return gradient, None, None


class _Hook:
    """A forward hook that acts on one module only: its copies, by `copy` or `pickle`, keep an inert one."""

    def __init__(self, record: "TrainingRecord | None" = None):
        self._record = record

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        record = self._record
        if record is None or not torch.is_grad_enabled():
            return None
        return record._see(args, kwargs, output)

    def __reduce__(self) -> tuple:
        return _Hook, ()


class TrainingRecord:
    """The record of one's own training loop; `record_training` makes one.

    Parameters
    ----------
    module, optimizer, X, y, sample_weight, loss, record_budget
        As in `record_training`.
    among : ndarray of int, default=None
        Rows of X that training may use; None for all.

    Attributes
    ----------
    n_updates : int
        Number of updates recorded.

    See Also
    --------
    record_training : Makes a record.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        loss: str = "squared_error",
        record_budget: str | int = "1GiB",
        among: NDArray | None = None,
    ):
        self._called = module  # what the loop calls: the module, or what torch.compile made of it
        self.module = _plain(module)
        _refuse_optimizer(optimizer)
        self.optimizer = optimizer
        self._budget = record_budget
        self._budget_bytes = int(min(parse_budget(record_budget), available_memory().n_bytes))
        rows = as_array(X, "X")
        if rows.ndim < 2 or not len(rows):
            raise ValueError(f"X must hold training rows, (n_train, n_features) or more axes, got shape {rows.shape}.")
        self.row_shape = rows.shape[1:]
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r} must be one of {', '.join(map(repr, LOSSES))}.")
        self.loss_name, self.loss = loss, LOSSES[loss]()
        self._X = rows.reshape(len(rows), -1).astype(np.float64)
        if not np.isfinite(self._X).all():
            raise ValueError("X contains NaN or infinity.")
        self._given_y = as_array(y, "y").copy()
        if len(self._given_y) != len(rows) or self._given_y.ndim not in (1, 2):
            raise ValueError(f"y has shape {self._given_y.shape}, and X {len(rows)} rows. Give labels for every row.")
        self.n_outputs = self._count_outputs()
        self._y = self.loss.labels(self._given_y, self.n_outputs).reshape(len(rows), -1)
        self._weights = _row_weights(sample_weight, len(rows))
        self._among = np.arange(len(rows)) if among is None else np.sort(among)

        self._recorder = Recorder(self.module.parameters(), optimizer)
        self._flat = self._recorder._flat
        theta = self._flat.theta()
        if theta.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"The parameters of the module are {theta.dtype}. Record in torch.float32 or torch.float64: gradients "
                "are rounded too much in half precision."
            )
        self.dtype, self.device = theta.dtype, theta.device
        self.network = self._read()
        self.constants = _constants(self.module)
        self._switched_off = [
            part for part in self.module.modules() if isinstance(part, _DRAWING) and not part.training
        ]

        self._index: RowIndex | None = None
        self._varied = np.zeros(0, dtype=bool)  # whether rows of one content have different labels or weights
        self._given: NDArray | None = None
        self._uses = np.zeros(len(rows), dtype=np.int64)
        self._warned = False
        self._constant_of: dict[int, float] = {}  # factor c by the number of rows of a forward pass
        self._pass = -1  # number of the backward pass
        self._leftover = False  # whether the gradient of an update began with something in it
        self._only_seen = False  # whether torch.autograd.grad was called since the last step
        self._used: list[tuple[NDArray, NDArray]] = []  # rows and factors of the update's forward passes
        self._explained: tuple[Tensor | None, ...] | None = None  # their gradient in every tensor
        self._place = np.zeros(len(rows), dtype=np.int64)  # of a row among those of an update, the last one
        self._step: tuple[NDArray, NDArray] | None = None
        self._rows: list[NDArray] = []
        self._factors: list[NDArray] = []
        is_moved = [number is not None for number in self._flat.groups]
        self._moved = [part for part, moves in zip(self._flat.tensors, is_moved, strict=True) if moves]
        self._probe = torch.randn(theta.numel(), generator=torch.Generator().manual_seed(0)).to(theta)
        for place, moves in zip(self._flat.places, is_moved, strict=True):
            self._probe[place] *= moves  # gradients that move nothing may hold anything
        self._sketches: list[tuple[float, float]] = []  # of every gradient: product with the probe, and norm
        self._handles: list[Any] = []

    # -- what users see ----------------------------------------------------------------------------------------------

    @property
    def n_updates(self) -> int:
        """Number of updates recorded."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes that the record of updates takes."""
        blocks = 2 if self._recorder.is_adaptive else 1
        held = sum(rows.nbytes + factors.nbytes for rows, factors in zip(self._rows, self._factors, strict=True))
        return held + self.n_updates * blocks * self._probe.nbytes

    def rows(self, indices: ArrayLike) -> None:
        """Name the rows of the next forward pass; needed where rows of X are equal and their labels cannot tell them.

        Parameters
        ----------
        indices : array-like of int
            Positions in X of the rows that the module is given next.
        """
        self._given = np.asarray(indices, dtype=np.int64).reshape(-1)

    def __repr__(self) -> str:
        """Say how much was recorded."""
        rows = f"{int(self.used_rows(self.n_updates).sum())} of {len(self._X)} rows"
        return f"TrainingRecord({self.n_updates} updates of {self._probe.numel()} parameters, {rows})"

    def __enter__(self) -> Self:
        """Begin to record, or go on."""
        if self._handles:
            raise ValueError("This record is being made already. Leave its with statement before entering another.")
        if not self._recorder.is_unchanged():
            raise ValueError(moved_message(self.n_updates + 1))
        self._handles = [
            self._called.register_forward_hook(_Hook(self), with_kwargs=True),
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        """Leave module and optimiser alone again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    # -- hooks -------------------------------------------------------------------------------------------------------

    def _see(self, args: tuple, kwargs: dict, output: Any) -> Tensor | None:
        """Note a forward pass whose output has a gradient; whether it can be used is asked when it is."""
        given, self._given = self._given, None
        if not isinstance(output, Tensor):
            raise ValueError(
                f"The module returns {type(output).__name__}. Record a module that returns one tensor of outputs."
            )
        if not output.requires_grad:
            return None
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        groups, refusal = np.empty(0, dtype=np.int64), ""
        if not self._recorder.is_unchanged():  # also between two forward passes of one update
            return _Identity.apply(output, self, _Forward(groups, given, moved_message(self.n_updates + 1)))
        if len(tensors) != 1 or len(args) + len(kwargs) != 1:
            refusal = f"the module was given {len(args) + len(kwargs)} arguments; it must take its rows as one tensor"
        elif torch.is_autocast_enabled(output.device.type) or output.dtype != self.dtype:
            refusal = (
                f"the module ran under autocast or returned {output.dtype}, and its parameters are {self.dtype}: it is "
                "then another function. Train without autocast"
            )
        elif not self._recorder.requires_same_gradients():
            refusal = REQUIRES_GRAD
        elif any(part.training for part in self._switched_off):
            refusal = "dropout or batch normalisation was off when the record began and is on now. Keep it in eval()"
        else:
            groups = self._find(tensors[0])
        seen = _Forward(groups, given, refusal and f"Update {self.n_updates + 1} cannot be recorded: {refusal}.")
        return _Identity.apply(output, self, seen)

    @torch.no_grad()
    def _use(self, output: Tensor, gradient: Tensor, seen: _Forward) -> None:
        """Take the gradient in the output of a forward pass: measure factors, and what they explain."""
        if not self._handles:
            return
        if not self._fills_gradients():
            self._only_seen = True
            return
        if seen.refusal:
            raise ValueError(seen.refusal)
        is_new = self._begin_pass()
        self._used.append(self._rows_and_factors(output, gradient, seen))
        if not self._explains_next():
            if is_new:
                torch.autograd.Variable._execution_engine.queue_callback(self._keep_gradient)
            return
        with torch.enable_grad():
            parts = torch.autograd.grad(output, self._moved, gradient, retain_graph=True, allow_unused=True)
        if self._explained is not None:
            self._explained = tuple(_sum(first, part) for first, part in zip(self._explained, parts, strict=True))
        else:
            self._explained = parts

    def _fills_gradients(self) -> bool:
        """Whether the backward pass adds to .grad of what the optimiser moves; `torch.autograd.grad` does not."""
        with torch.enable_grad():
            nodes = [torch.autograd.graph.get_gradient_edge(part).node for part in self._moved if part.requires_grad]
        try:
            return any(torch._C._will_engine_execute_node(node) for node in nodes)
        except RuntimeError:  # torch says so where the gradient in a parameter is what is asked for
            return False

    def _explains_next(self) -> bool:
        """Whether the gradient of the next update is compared with that of its rows; else what backward left is it."""
        return self.n_updates < _EXPLAINED or self.n_updates % _EXPLAINED == 0

    def _keep_gradient(self) -> None:
        """Copy the gradient at the end of a backward pass."""
        self._explained = tuple(None if part.grad is None else part.grad.clone() for part in self._moved)

    def _begin_pass(self) -> bool:
        """Look at the gradient where a backward pass begins: what was zeroed does not count any more."""
        number = torch._C._current_graph_task_id()
        if number == self._pass:
            return False
        self._pass = number
        if all(part.grad is None or not part.grad.any() for part in self._moved):
            self._forget_passes()
        elif not self._used:
            self._leftover = True
        return True

    def _forget_passes(self) -> None:
        self._used, self._explained, self._leftover, self._only_seen = [], None, False, False

    def _before(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Check the gradient before a step: now, or when the closure that the step is given has made it."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._before_step()
            return None
        calls = 0

        def checked() -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                raise ValueError(
                    f"{type(optimizer).__name__} evaluates its closure more than once in update {self.n_updates + 1}. "
                    "Record an optimiser that takes one gradient a step."
                )
            loss = closure()
            self._before_step()
            return loss

        return (args, kwargs | {"closure": checked}) if "closure" in kwargs else ((args[0], checked), kwargs)

    @torch.no_grad()
    def _before_step(self) -> None:
        """Compare the gradient with what the rows explain, and note the rows."""
        gradient = self._flat.gradient() * (self._probe != 0)
        norm = torch.linalg.vector_norm(gradient)
        if not torch.isfinite(norm):
            raise ValueError(f"Training diverged: the gradient is not finite at update {self.n_updates + 1}.")
        scale = self._scale()
        rows: NDArray = np.concatenate([rows for rows, _ in self._used])
        factors: NDArray = scale * np.concatenate([factors for _, factors in self._used])
        places = np.arange(len(rows))
        self._place[rows] = places
        if (self._place[rows] != places).any():  # the same row several times: its factors add up
            rows, places = np.unique(rows, return_inverse=True)
            factors = np.bincount(places, factors)
        self._sketches.append((float(gradient @ self._probe), float(norm)))
        self._recorder.before_step(gradient)
        self._step = rows.astype(np.min_scalar_type(len(self._X) - 1)), factors

    def _after(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Check and keep the step."""
        if self._step is None:
            return
        self._recorder.after_step()
        rows, factors = self._step
        self._rows.append(rows)
        self._factors.append(factors)
        self._step = None
        self._forget_passes()
        if self.n_updates % 16 == 1 and self.nbytes > self._budget_bytes:
            raise MemoryError(
                f"The record of {self.n_updates} updates of {self._probe.numel()} parameters takes "
                f"{self.nbytes / 2**20:.3g} MiB, and record_budget={self._budget!r} allows "
                f"{self._budget_bytes / 2**20:.3g} MiB. Raise record_budget, train for fewer updates (larger batches, "
                "fewer epochs), or record a smaller module."
            )

    # -- rows --------------------------------------------------------------------------------------------------------

    def _find(self, inputs: Tensor) -> NDArray:
        """Find rows by their content."""
        rows = inputs.detach().cpu().numpy()
        if self._index is None or self._index.dtype != rows.dtype:
            self._index = RowIndex(self._X, rows.dtype, self._among)
            several = np.flatnonzero(self._index.counts > 1)
            known = np.column_stack([self._y, self._weights])
            self._varied = np.zeros(len(self._index.counts), dtype=bool)
            for group in several:
                members = self._index.members(group)
                self._varied[group] = (known[members] != known[members[0]]).any()
        return self._index.find(rows)

    def _rows_and_factors(self, output: Tensor, gradient: Tensor, seen: _Forward) -> tuple[NDArray, NDArray]:
        """Measure the rows of a forward pass and their factors c w_i."""
        update = self.n_updates + 1
        f, g = (values.cpu().numpy() for values in (output, gradient))
        if output.shape not in ((len(f),), (len(f), self.n_outputs)) or f.size != len(f) * self.n_outputs:
            raise ValueError(
                f"The module returns outputs of shape {f.shape} for y of shape {self._y.shape}: give y one label for "
                "every output."
            )
        if not (np.isfinite(f).all() and np.isfinite(g).all()):
            raise ValueError(f"Training diverged: outputs or their gradients are not finite at update {update}.")
        f, g = (values.reshape(len(values), -1) for values in (f, g))
        rows = self._resolved(f, g, seen)
        factor, fits = self._factor(f, g, rows)
        if not fits.all():
            raise ValueError(self._other_loss(f, g, rows, fits))
        self._constant_of[len(f)] = factor
        return rows, factor * self._weights[rows]

    def _resolved(self, f: NDArray, g: NDArray, seen: _Forward) -> NDArray:
        """Tell which training rows a forward pass was given."""
        update, index, groups = self.n_updates + 1, self._index, seen.groups
        assert index is not None
        if len(groups) != len(f) or (groups < 0).any():
            n_missing = int((groups < 0).sum()) if len(groups) == len(f) else len(f)
            raise ValueError(
                f"{n_missing} of the {len(f)} rows of update {update} are not among the rows of X. Give X as the "
                "module is given it: every row that is trained on, scaled in the same way, in the same precision or "
                "a higher one. Rows that are augmented or changed at random are new ones every time, and cannot be "
                "recorded."
            )
        if seen.given is not None:
            if len(seen.given) != len(groups) or (index.group_of[seen.given] != groups).any():
                raise ValueError(f"rows(indices) names other rows than the module was given in update {update}.")
            return seen.given
        rows = index.first(groups)
        several = index.counts[groups] > 1
        if not several.any():
            return rows
        factor = None
        if self._varied[groups].any():
            factor = self._constant_of.get(len(f))
            sure = ~self._varied[groups]
            if factor is None and sure.any():
                factor = self._factor(f[sure], g[sure], rows[sure])[0]
            if factor is None or not np.isfinite(factor):
                raise ValueError(
                    f"Rows of update {update} have the same X and other labels, which the loss cannot tell apart "
                    "there. Call rows(indices) on the record before every forward pass, with the positions of its "
                    "rows in X."
                )
        for place in np.flatnonzero(several):
            members = index.members(groups[place])
            if self._varied[groups[place]]:
                taken = factor * self._weights[members, None] * self._residuals(f[[place]], members)
                misfit = np.abs(taken - g[place]).max(axis=1)
                best = members[np.argmin(misfit)]
                alike = (self._y[members] == self._y[best]).all(axis=1) & (
                    self._weights[members] == self._weights[best]
                )
                members = members[alike]
            if len(members) > 1:
                self._warn_of_copies()
            rows[place] = members[np.argmin(self._uses[members])]
            self._uses[rows[place]] += 1
        return rows

    def _warn_of_copies(self) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                "Some rows of X are the same, labels too. Which of them a step used cannot be seen, so they are "
                "taken in turn: their kernel weights are right in sum, and not each. Call rows(indices) on the "
                "record before every forward pass to tell them apart.",
                UserWarning,
                stacklevel=2,
            )

    def _residuals(self, f: NDArray, rows: NDArray) -> NDArray:
        """Gradient of the loss in the outputs of rows, in the precision of the outputs, (b, n_outputs)."""
        return self.loss.gradient(self._y[rows].astype(f.dtype), f).astype(np.float64)

    def _factor(self, f: NDArray, g: NDArray, rows: NDArray) -> tuple[float, NDArray]:
        """Measure the factor c in g_i = c w_i (f_i - y_i), and say which rows have it.

        An earlier factor of as many rows is kept where the new one differs from it by no more than its own error, and
        where one row only has a residual that is seen: then it is not known whether the loss is the one that is named.
        """
        weights = self._weights[rows, None]
        unit = weights * self._residuals(f, rows)
        eps = _ROUNDING * float(np.finfo(f.dtype).eps)
        rounding = eps * weights * self._size(np.abs(f), np.abs(self._y[rows]))
        g = g.astype(np.float64)

        def fits(factor: float) -> NDArray:
            return (np.abs(g - factor * unit) <= abs(factor) * rounding + eps * np.abs(g)).all(axis=1)

        known = self._constant_of.get(len(f))
        kept = known if known is not None and fits(known).all() else None
        n_seen = int((np.abs(unit) > rounding).any(axis=1).sum())
        if n_seen > 1:
            factor = float((g * unit).sum() / (unit**2).sum())
            misfit = float(np.abs(g - factor * unit).max())
            error = (np.abs(unit) * (misfit + abs(factor) * rounding / _ROUNDING)).sum() / (unit**2).sum()
            if kept is None or (abs(factor - kept) > error and fits(factor).all()):
                return factor, fits(factor)
        if kept is not None:
            return kept, fits(kept)
        if n_seen == 1 and known is None:
            factor = float((g * unit).sum() / (unit**2).sum())
            return factor, fits(factor)
        return np.nan, np.zeros(len(f), dtype=bool)  # the gradient of one row often has a factor, whatever the loss

    def _size(self, f: Any, y: Any) -> Any:
        """Size of what a derivative of the loss is computed from, given absolute outputs and labels."""
        return f + y if self.loss.is_quadratic else 1 + f

    def _other_loss(self, f: NDArray, g: NDArray, rows: NDArray, fits: NDArray) -> str:
        """Say what the loss may be, whose gradient in the outputs is not a multiple of f - y."""
        update, y, residuals = self.n_updates + 1, self._y[rows], self._residuals(f, rows)
        unit = "f - y" if self.loss.is_quadratic else f"that of loss={self.loss_name!r}"
        what = f"In update {update} the gradient of the loss in the outputs is not a multiple of {unit}"
        n_seen = int(((self._weights[rows, None] * residuals) != 0).any(axis=1).sum())
        if n_seen < 2 and (len(f) > 1 or g.size == 1 or _is_multiple(g, residuals)):
            return (
                f"{what} with the factor of earlier updates, or all residuals are too small to measure one. A batch of "
                "one row must have the same factor every time: many a loss of one row looks like this one with some "
                "factor. Use batches of two rows or more, and give weights of rows or classes as sample_weight."
            )
        if not self.loss.is_quadratic:
            return f"{what}. Give y and sample_weight as the loss has them, and outputs that are logits."
        over_batch = f - y.mean(axis=0)
        if len(f) > 1 and _is_multiple(g, over_batch):
            return (
                f"{what}, but one of f - mean(y): outputs and labels were broadcast against each other, (b, 1) against "
                "(b,). Give the loss outputs and labels of the same shape, such as model(X).squeeze(-1)."
            )
        if _is_multiple(np.abs(g), np.ones_like(g)):
            return f"{what}, but constant in size: the loss is the absolute error. Record squared error."
        for name, make in LOSSES.items():
            other = make()
            if not other.is_quadratic and (name != "cross_entropy" or f.shape[1] > 1) and other.covers(y):
                if _is_multiple(g, self._weights[rows, None] * other.gradient(y, f.astype(np.float64))):
                    return f"{what}, but of loss={name!r}. Record with it."
        return (
            f"{what}, for {int((~fits).sum())} of {len(f)} rows. The loss must be the squared error of y with the "
            "weights in sample_weight: give y as the loss is given it (scaled labels), weights that the loss uses, "
            "and any last activation as part of the module. Other losses cannot be recorded."
        )

    def _scale(self) -> float:
        """Measure the factor between the gradient of a step and what its rows explain."""
        update, parts = self.n_updates + 1, self._explained
        if any(part._backward_hooks or part._post_accumulate_grad_hooks for part in self._moved):
            raise ValueError(
                "A parameter has a hook on its gradient, which may change it unseen. Remove it while training is "
                "recorded."
            )
        if getattr(self.optimizer, "grad_scale", None) is not None:
            raise ValueError(
                "The GradScaler leaves it to the fused optimiser to undo its scale inside of the step. Call "
                "scaler.unscale_(optimizer) before scaler.step, or make the optimiser with fused=False."
            )
        if parts is None and self._only_seen:
            raise ValueError(
                f"The gradient of update {update} was made by torch.autograd.grad and not by a backward pass. Call "
                "loss.backward(), which fills .grad, instead of setting .grad by hand."
            )
        if parts is None:
            raise ValueError(
                f"Update {update} follows no backward pass through the recorded module. The loop must call the module "
                "that is recorded, inside the with statement: not a copy, a part, or what torch.compile made of it."
            )
        if self._leftover:
            raise ValueError(
                f"The gradient of update {update} still holds that of an earlier step. Call optimizer.zero_grad() in "
                "every step."
            )
        if all(_is_same(part.grad, own) for part, own in zip(self._moved, parts, strict=True)):
            return 1.0
        explained = _flat_of(parts, self._moved)
        gradient = _flat_of([part.grad for part in self._moved], self._moved)
        largest = gradient.abs().max()
        rounding = _ROUNDING * torch.finfo(gradient.dtype).eps * largest
        if bool((gradient - explained).abs().max() <= rounding):
            return 1.0
        size = explained.double().square().sum()
        scale = float(gradient.double() @ explained.double() / size) if size > 0 else 0.0
        if not bool((gradient - scale * explained).abs().max() <= rounding):
            raise ValueError(self._other_gradient(gradient, explained))
        return scale

    def _other_gradient(self, gradient: Tensor, explained: Tensor) -> str:
        """Say what else may be in a gradient."""
        what = f"The gradient of update {self.n_updates + 1} is not a multiple of the one that its rows explain"
        moved = _flat_of([part.detach() for part in self._moved], self._moved)
        rest = gradient - explained
        if _is_multiple(rest.cpu().numpy(), moved.cpu().numpy(), 1e-2):
            return (
                f"{what}: the rest is a multiple of the parameters, a penalty of their squares in the loss. Take it "
                "out and give the optimiser weight_decay: twice the penalty's factor for the sum of the squares."
            )
        if _is_multiple(rest.abs().cpu().numpy(), (moved != 0).cpu().numpy(), 1e-2):
            return f"{what}: the rest is constant in size, an L1 penalty in the loss. Leave it out: it has no response."
        largest = gradient.abs().max()
        if torch.equal(gradient, explained.clamp(-largest, largest)):
            return f"{what}: it was clipped by value. Clip by norm, with torch.nn.utils.clip_grad_norm_."
        return (
            f"{what}. Something else acted on it: another term of the loss (a penalty of weights: use weight_decay; an "
            "auxiliary loss), noise, clipping by value or of single tensors, or gradients from elsewhere. Only a "
            "common factor of the whole gradient, as clipping by norm has it, can be recorded."
        )

    # -- the run -----------------------------------------------------------------------------------------------------

    def used_rows(self, n_stages: int) -> NDArray:
        """Whether every row was used in the first updates, (n_train,) bool."""
        used = np.zeros(len(self._X), dtype=bool)
        for rows in self._rows[:n_stages]:
            used[rows] = True
        return used & (self._weights > 0)

    def kept_stage(self, module: nn.Module) -> int:
        """Last stage at which the run had the parameters that a module has now; 0 if none.

        Raises
        ------
        ValueError
            If the module is not the one that was recorded.
        """
        module = _plain(module)
        held = dict(module.named_parameters())
        if list(held) != [name for name, _ in self.module.named_parameters()]:
            raise ValueError("record is that of another module: the names of its parameters are not those of this one.")
        names = [
            name for name, part in self.module.named_parameters() if any(part is own for own in self._flat.tensors)
        ]
        theta = torch.cat([held[name].detach().flatten() for name in names])
        constants = _constants(module, set(names))
        if constants.keys() != self.constants.keys() or any(
            not torch.equal(value, constants[name]) for name, value in self.constants.items()
        ):
            raise ValueError("Buffers or frozen parameters of the module have changed since the record began.")
        for stage in range(self.n_updates, 0, -1):
            if torch.equal(self._recorder.theta(stage), theta.cpu()):
                return stage
        return 0

    def training_rows(self, n_stages: int) -> TrainingRows:
        """Rows, labels and weights of the run: 1 for the rows used."""
        labels = self._y[:, 0] if self.n_outputs == 1 else self._y
        return TrainingRows(self._X, labels, self.used_rows(n_stages).astype(np.float64))

    def refuse_other_rows(self, X: NDArray, y: NDArray) -> None:
        """Raise ValueError unless X and y are those that were recorded."""
        rows = X.reshape(len(X), -1)
        if rows.shape != self._X.shape or not np.array_equal(rows.astype(np.float64), self._X):
            raise ValueError("X is not the X that was recorded. Give telescope the same rows in the same order.")
        if y.size != self._given_y.size or not np.array_equal(y.reshape(self._given_y.shape), self._given_y):
            raise ValueError("y is not the y that was recorded. Give telescope the same labels in the same order.")

    def trajectory(self, n_stages: int) -> Trajectory:
        """Return the run up to a stage."""
        rows, factors = self._rows[:n_stages], self._factors[:n_stages]
        n_used, mean_size = self.used_rows(n_stages).sum(), np.mean([len(batch) for batch in rows])
        per_epoch = max(1, round(float(n_used / mean_size)))
        return self._recorder.finish(RecordedBatches(rows, factors, per_epoch), end=self._recorder.theta(n_stages))

    @isolates
    def check(self, path: Path, y: NDArray) -> None:
        """Compute every gradient again from the record; raise ValueError unless it is that which was seen.

        Random signs on residuals of the size of rounding say what rounding may change.
        """
        labels = torch.tensor(y, device=path.device).view(len(y), -1)
        signs = torch.Generator().manual_seed(1)
        eps = _ROUNDING * torch.finfo(path.dtype).eps
        probe = self._probe.to(path.device)
        for stage in range(1, path.trajectory.n_stages + 1):
            batch = path.batch(stage)
            f = path.outputs(path.rows[batch], stage - 1, path.dtype).view(len(batch), -1)
            weights = path.batch_weights(stage, batch)[:, None]
            size = eps * weights * self._size(f.abs(), labels[batch].abs().to(f))
            noise = size * (2 * torch.randint(0, 2, size.shape, generator=signs) - 1).to(size)
            residual = weights * self.loss.gradient(labels[batch].to(f), f)
            gradient, rounding = path.batch_tangent(stage).vjp(torch.stack([residual.flatten(), noise.flatten()], 1))
            product, norm = self._sketches[stage - 1]
            allowed = _GRADIENT_GAP * norm + 4 * float(torch.linalg.vector_norm(rounding))
            gap = abs(float(gradient @ probe) - product)
            if not gap <= 4 * allowed:
                raise ValueError(
                    f"The gradient of update {stage} is not the one that the record gives (relative gap "
                    f"{gap / max(norm, 1e-300):.1e}). Something changed the module for its training only: a mode of "
                    "train() and eval(), buffers, hooks, or parameters that were exchanged between two steps."
                )

    def _count_outputs(self) -> int:
        """Count outputs: columns of y, or what a copy of the module returns where y holds numbers of classes."""
        if self.loss.is_quadratic or self._given_y.ndim == 2:
            return self._given_y[0].size
        copied = copy.deepcopy(self.module).double().cpu()
        with seeded(0), torch.no_grad():
            return torch.as_tensor(copied(torch.from_numpy(self._X[:2].reshape(-1, *self.row_shape))))[0].numel()

    def _read(self) -> Any:
        """Read the module as a function of its parameters and of flat rows."""
        rows = self._X[:_READ]
        module = (
            self.module if len(self.row_shape) == 1 else nn.Sequential(nn.Unflatten(1, self.row_shape), self.module)
        )
        return read_module(module, rows, n_outputs=self.n_outputs)[0]


def as_array(values: Any, name: str) -> NDArray:
    """Return an array of numbers of what may be a tensor, a frame or an array."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, got {array.dtype}. Give it as the module or its loss is given it.")
    return array


def _plain(module: Any) -> nn.Module:
    """Return the module inside of what torch.compile made; refuse what cannot be recorded."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}.")
    module = getattr(module, "_orig_mod", module)
    if isinstance(module, _PARALLEL):
        raise ValueError(
            f"{type(module).__name__} spreads rows over devices, where they are not seen. Record and train the module "
            "inside of it."
        )
    return module


def _refuse_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}.")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "optimizer=LBFGS evaluates several gradients a step and is not linear in them. Record SGD, Adam or AdamW."
        )


def _constants(module: nn.Module, trained: set[str] | None = None) -> dict[str, Tensor]:
    """Copy buffers and frozen parameters."""
    held = dict(module.named_parameters()) | dict(module.named_buffers())
    trained = {name for name, part in held.items() if part.requires_grad} if trained is None else trained
    return {name: part.detach().clone() for name, part in held.items() if name not in trained}


def _row_weights(sample_weight: Any, n_rows: int) -> NDArray:
    if sample_weight is None:
        return np.ones(n_rows)
    weights = as_array(sample_weight, "sample_weight").astype(np.float64).reshape(-1)
    if len(weights) != n_rows or not np.isfinite(weights).all() or weights.min() < 0 or not weights.any():
        raise ValueError(f"sample_weight must hold {n_rows} finite weights, none negative and not all zero.")
    return weights


def _flat_of(parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    filled = [torch.zeros_like(own) if part is None else part for part, own in zip(parts, like, strict=True)]
    return torch.cat([part.flatten() for part in filled])


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return second if first is None else first if second is None else first + second


def _is_same(gradient: Tensor | None, explained: Tensor | None) -> bool:
    """Whether a gradient is exactly what its rows explain."""
    if gradient is None or explained is None:
        return gradient is explained
    return torch.equal(gradient, explained)


def _is_multiple(values: NDArray, of: NDArray, tolerance: float = 1e-4) -> bool:
    """Whether an array is a multiple of another, other than zero."""
    values, of = values.astype(np.float64), of.astype(np.float64)
    size = (of**2).sum()
    factor = (values * of).sum() / size if size else 0.0
    return bool(factor and np.abs(values - factor * of).max() <= tolerance * np.abs(values).max())
