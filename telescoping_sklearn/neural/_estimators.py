"""TelescopingMLPRegressor: a multilayer perceptron with a recorded training run."""

import copy
import os
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import _fit_context
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import Interval, Options, StrOptions, validate_parameter_constraints
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from telescoping_sklearn import _memory
from telescoping_sklearn._numbers import plain_number
from telescoping_sklearn._refit import all_at_once
from telescoping_sklearn.base import BaseTelescopingEstimator, draw_seed, held_out_rows
from telescoping_sklearn.neural._convergence import warn_if_nothing_was_learned
from telescoping_sklearn.neural._float_range import refuse_overflow
from telescoping_sklearn.neural._isolation import isolated, isolates
from telescoping_sklearn.neural._modules import read_module
from telescoping_sklearn.neural._network import ACTIVATIONS, Architecture, FlatModule, Network
from telescoping_sklearn.neural._optimizers import OPTIMIZERS
from telescoping_sklearn.neural._path import RULES, Path, as_double
from telescoping_sklearn.neural._pilot import ResponseAccuracy, refined_sections
from telescoping_sklearn.neural._record_layout import parse_budget
from telescoping_sklearn.neural._saved_work import digest, remembered
from telescoping_sklearn.neural._sections import (
    LONGEST_EPOCHS,
    Sections,
    chosen_sections,
    equal_sections,
    gap_rows,
    largest_gap,
)
from telescoping_sklearn.neural._tangent import row_blocks
from telescoping_sklearn.neural._tangent_telescope import TangentTelescope
from telescoping_sklearn.neural._training import train
from telescoping_sklearn.neural._training_settings import TrainingRows, TrainingSettings, threads_for, trial_state

_DTYPES = {"float32": torch.float32, "float64": torch.float64}
#: Parameters that may be set after fitting.
_AFTER_FITTING = ("rule", "section", "section_tol", "checkpoint_dir")


class TelescopingMLPRegressor(BaseTelescopingEstimator):
    """Multilayer perceptron, trained through skorch, whose predictions are explained by its training labels.

    The loss is half the squared error, 1/2 (y - f)^2, averaged over a batch; sample weights are rescaled to mean 1 over
    the rows trained on. Predictions are evaluated in float64, whatever `dtype` trained; label responses and kernels in
    the precision of training.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Widths of the hidden layers; empty for a linear model.
    activation : {"relu", "tanh", "gelu", "sigmoid", "identity"}, default="relu"
        Function after every hidden layer.
    output_activation : {"identity", "sigmoid"}, default="identity"
        Function after the output; the model is then sigma(g(x)), still with squared error.
    module : None, torch.nn.Module or callable, default=None
        A network in place of the three parameters above: a module that maps rows (n_rows, n_features) to one number
        each, with its initial parameters; or a function of the number of features that makes such a module, called with
        torch's generator seeded from `random_state`. Chains of linear layers are differentiated layer by layer, other
        modules through ``torch.func``, which is slower. Dropout and batch normalisation are refused.
    optimizer : {"sgd", "adam", "adamw"} or subclass of torch.optim.Optimizer, default="adam"
        torch's optimiser. A class takes its settings from `optimizer_settings` alone, and must be registered with
        `telescoping_sklearn.neural.register_update_rule`.
    optimizer_settings : dict, default=None
        Further settings by torch's names, such as ``{"alpha": 0.9}`` for the class `torch.optim.RMSprop`; none may be a
        parameter here.
    learning_rate_init : float, default=0.001
        Learning rate.
    lr_schedule : None, torch.optim.lr_scheduler class, functools.partial of one, or callable, default=None
        Schedule of the learning rate. A scheduler class, with its settings as in
        ``functools.partial(torch.optim.lr_scheduler.StepLR, step_size=100)``, is stepped once an update, not once an
        epoch. Any other callable takes the update's number, from 1, and returns a factor of `learning_rate_init`.
    warmup_steps : int, default=0
        Updates over which the learning rate rises linearly; update t has t / warmup_steps of the scheduled rate.
    momentum : float, default=0.0
        Momentum of "sgd".
    dampening : float, default=0.0
        Dampening of momentum.
    nesterov : bool, default=False
        Whether "sgd" uses Nesterov momentum, which takes `momentum` and no `dampening`.
    betas : tuple of two floats, default=(0.9, 0.999)
        Decay rates of the moments of "adam" and "adamw".
    eps : float, default=1e-8
        Added to the denominators of "adam" and "adamw".
    amsgrad : bool, default=False
        Whether "adam" and "adamw" use the running maximum of the second moment.
    weight_decay : float, default=0.0
        Weight decay, coupled for "sgd" and "adam", decoupled for "adamw".
    batch_size : int, "auto" or "full", default="auto"
        Rows of a batch; "auto" is min(200, n), an int beyond n is clipped.
    max_iter : int, default=200
        Largest number of epochs.
    shuffle : bool, default=True
        Whether every epoch draws a new order of the rows.
    tol : float, default=1e-4
        Least progress of the loss (or of the validation score) that counts.
    n_iter_no_change : int, default=10
        Epochs without progress before training stops.
    early_stopping : bool, default=False
        Whether to hold out a share, score it by R^2 after each epoch, and keep the best parameters.
    validation_fraction : float, default=0.1
        Share held out with `early_stopping`; its kernel weights are zero.
    init_scale : float, default=1.0
        Factor of all initial parameters: torch's own, or those of `module`.
    rule : {"midpoint", "left", "gauss2"}, default="midpoint"
        Where between two updates the Jacobian is evaluated: "left" is the paper's Eq. 5, "midpoint" costs the same and
        is far closer, "gauss2" costs two evaluations and is closer still. May be set after fitting.
    section : "auto" or int, default="auto"
        Updates covered by one evaluation. "auto" chooses section ends so that the telescope stays within `section_tol`
        of the net on 256 training rows, and effective parameters change by at most twice that when sections are halved
        once more. May be set after fitting.
    section_tol : float, default=0.01
        Mean gap that "auto" allows at any section's end, in units of the labels' standard deviation; `section_gap_`
        and `section_bias_` give what was reached. May be set after fitting.
    dtype : {"float32", "float64"}, default="float32"
        Precision of training, responses and kernels. Values of X beyond 1e16 (float64: 1e75) are refused: powers of
        kernels would overflow.
    device : str, default="cpu"
        torch device to train and answer on.
    n_jobs : None or int, default=None
        Threads of one operation of training on the CPU; None is 1, as are small batches of small nets. The last bits of
        a net depend on it, and not on torch's own number of threads. Answers use torch's number
        (``torch.set_num_threads``).
    random_state : None, int, RandomState or Generator, default=None
        Seeds initial weights, batches, validation split and probes. None draws a seed and keeps it as `seed_`.
    record : bool, default=True
        Whether to keep the run, with copies of X and y. ``False`` suits grid searches; explanations then raise.
    record_budget : str or int, default="1GiB"
        Memory that the record may take: a size such as "500MiB", or bytes. Training records checkpoints; explanations
        train again between them, and check the numbers at each. If every update fits, this is done once, for about the
        time of one or two more fits; otherwise once a question.
    checkpoint_dir : str, PathLike or None, default=None
        Folder for long runs. `fit`, the choice of sections and answers that carry labels forward are saved there once a
        minute, and go on from there when the same is done again: after a process was killed, run the same program
        again. What is complete is read. A run is known by its data, settings and seed, so that `random_state` must be
        given. May be set after fitting; the files may be deleted at any time. They are read as pickles: name only
        folders that you trust.
    verbose : int, default=False
        Above 0 (True counts as 1) to show progress.

    Attributes
    ----------
    n_stages_ : int
        Number of parameter updates up to the model that is kept.
    n_iter_ : int
        Number of epochs run.
    loss_curve_ : tuple of float
        Mean training loss of every epoch.
    loss_ : float
        The last of them.
    validation_scores_, best_validation_score_ : tuple of float, float
        R^2 on the held-out rows by epoch, and the best of them; only with `early_stopping`.
    module_ : torch.nn.Module
        The trained net; its only parameter, ``theta``, is laid out as ``torch.nn.Linear`` layers, weight before bias,
        or as the ``named_parameters`` of `module`.
    n_params_ : int
        Number of parameters p.
    record_nbytes_ : int
        Bytes that the record holds: checkpoints, and the updates that explanations have trained again.
    seed_ : int
        The seed drawn from `random_state`.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Number of columns of X, and their names if X had them.
    section_ends_ : ndarray of int of shape (n_sections,)
        Last stage of every section.
    section_gap_ : float
        Largest mean gap between the net and its telescope at any section's end on 256 training rows, in units of the
        labels' standard deviation.
    section_bias_ : float
        Relative error of effective parameters due to sections, measured by pilot columns; 0 with sections of one
        update. It is part of every standard error.
    last_sound_stage_ : int
        Last stage at which the label response passes its checks; `n_stages_` where all do. Answers end there.
    telescope_ : Telescope
        The telescope, made when first asked for.
    kernel_weights_ : ndarray of shape (n_train, n_train)
        Weights of the training labels in the training predictions.
    self_influence_ : ndarray of shape (n_train,)
        Influence of every training row on its own prediction, for finding rows that are mislabelled.
    effective_params_, effective_params_se_ : float
        Effective parameters on the rows trained on, and their standard error.
    degrees_of_freedom_, degrees_of_freedom_se_ : float
        Trace of `kernel_weights_`, and its standard error.

    References
    ----------
    A. Jeffares, A. Curth, M. van der Schaar. "Deep Learning Through A Telescoping Lens". NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.preprocessing import scale
    >>> from telescoping_sklearn import TelescopingMLPRegressor
    >>> X, y = make_friedman1(100, random_state=0)
    >>> net = TelescopingMLPRegressor((20,), activation="gelu", max_iter=20, dtype="float64", random_state=0)
    >>> net = net.fit(X, scale(y))
    >>> rebuilt = net.kernel_weights(X[:3]) @ scale(y) + net.offset(X[:3])
    >>> np.allclose(rebuilt, net.predict(X[:3]), atol=1e-4)
    True
    """

    _costly = (*BaseTelescopingEstimator._costly, "section_ends_", "section_gap_", "section_bias_", "last_sound_stage_")
    _parameter_constraints: ClassVar[dict] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "output_activation": [StrOptions({"identity", "sigmoid"})],
        "module": [callable, None],
        "optimizer": [StrOptions(set(OPTIMIZERS)), callable],
        "optimizer_settings": [dict, None],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "lr_schedule": [callable, None],
        "warmup_steps": [Interval(Integral, 0, None, closed="left")],
        "momentum": [Interval(Real, 0, None, closed="left")],
        "dampening": [Real],
        "nesterov": ["boolean"],
        "betas": [tuple, list],
        "eps": [Interval(Real, 0, None, closed="left")],
        "amsgrad": ["boolean"],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto", "full"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "init_scale": [Interval(Real, 0, None, closed="left")],
        "rule": [StrOptions(set(RULES))],
        "section": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "section_tol": [Interval(Real, 0, None, closed="neither")],
        "dtype": [StrOptions(set(_DTYPES))],
        "device": [str],
        "n_jobs": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state", np.random.Generator],
        "record": ["boolean"],
        "checkpoint_dir": [str, os.PathLike, None],
        "record_budget": [str, Interval(Integral, 1, None, closed="left")],
        "verbose": ["boolean", Integral],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        *,
        activation: str = "relu",
        output_activation: str = "identity",
        module: nn.Module | Callable[[int], nn.Module] | None = None,
        optimizer: str | type[torch.optim.Optimizer] = "adam",
        optimizer_settings: dict[str, Any] | None = None,
        learning_rate_init: float = 1e-3,
        lr_schedule: Any = None,
        warmup_steps: int = 0,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        amsgrad: bool = False,
        weight_decay: float = 0.0,
        batch_size: int | str = "auto",
        max_iter: int = 200,
        shuffle: bool = True,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        init_scale: float = 1.0,
        rule: str = "midpoint",
        section: int | str = "auto",
        section_tol: float = 0.01,
        dtype: str = "float32",
        device: str = "cpu",
        n_jobs: int | None = None,
        random_state: Any = None,
        record: bool = True,
        record_budget: str | int = "1GiB",
        checkpoint_dir: str | os.PathLike | None = None,
        verbose: int = False,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.output_activation = output_activation
        self.module = module
        self.optimizer = optimizer
        self.optimizer_settings = optimizer_settings
        self.learning_rate_init = learning_rate_init
        self.lr_schedule = lr_schedule
        self.warmup_steps = warmup_steps
        self.momentum = momentum
        self.dampening = dampening
        self.nesterov = nesterov
        self.betas = betas
        self.eps = eps
        self.amsgrad = amsgrad
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.init_scale = init_scale
        self.rule = rule
        self.section = section
        self.section_tol = section_tol
        self.dtype = dtype
        self.device = device
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.record = record
        self.record_budget = record_budget
        self.checkpoint_dir = checkpoint_dir
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    @all_at_once
    @isolates
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "TelescopingMLPRegressor":
        """Train the net and keep its run.

        Parameters
        ----------
        X : array-like of shape (n_train, n_features)
            Training rows, finite; scale them first.
        y : array-like of shape (n_train,)
            Training labels, finite.
        sample_weight : array-like of shape (n_train,), default=None
            Non-negative weights of the rows; a weight of zero gives a zero column of kernel weights.

        Returns
        -------
        TelescopingMLPRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter makes no sense, naming it; if the data are not what scikit-learn's regressors take; or if
            training diverges, with the stage at which the loss stopped being finite.
        MemoryError
            If not even the checkpoints of the run would fit `record_budget`.

        Warns
        -----
        ConvergenceWarning
            If the net explains less than 1 % of the variance of the labels that it was trained on, and labels or
            columns are far from unit scale.
        """
        X, y, weights = self._training_data(X, y, sample_weight)
        refuse_overflow(X, _DTYPES[self.dtype], getattr(self, "feature_names_in_", None))
        if self.checkpoint_dir is not None and self.random_state is None:
            raise ValueError("checkpoint_dir needs a random_state: without one every fit is another run.")
        self.seed_ = draw_seed(self.random_state)
        kept, held_out = np.arange(len(y)), None
        if self.early_stopping:
            kept, held_out = held_out_rows(len(y), plain_number(self.validation_fraction), self.seed_)
            self._refuse_unscored(weights, kept, held_out)
        row_weights = np.zeros(len(y))
        row_weights[kept] = weights[kept] * (len(kept) / weights[kept].sum())

        network, theta = self._network(X[kept[:3]])
        settings = self._training_settings(len(kept), network)
        rows = TrainingRows(X, y, row_weights)
        self._refuse_large_record(settings, len(kept))
        theta = (plain_number(self.init_scale) * theta).to(_DTYPES[self.dtype])
        score = None if held_out is None else self._scorer(settings, X[held_out], y[held_out], weights[held_out])
        trained = train(settings, theta.to(self.device), rows, kept, score, self.checkpoint_dir)

        self.module_ = FlatModule(settings.network, trained.theta)
        self.n_params_ = settings.network.n_params
        self.n_stages_ = trained.n_stages
        self.n_iter_ = len(trained.loss_curve)
        self.loss_curve_ = tuple(trained.loss_curve)
        self.loss_ = trained.loss_curve[-1]
        if held_out is not None:
            self.validation_scores_ = tuple(trained.scores)
            self.best_validation_score_ = max(trained.scores)
        if trained.trajectory is not None:
            self._trajectory = trained.trajectory
            self._rows = rows
            self._chosen_sections: dict[tuple[str, float], tuple[Sections, ResponseAccuracy]] = {}
        warn_if_nothing_was_learned(
            partial(_predict, settings.network, trained.theta),
            rows.subset(kept),
            self.loss_ if held_out is None else None,
            sigmoid=self.module is None and self.output_activation == "sigmoid",
        )
        return self

    @property
    def record_nbytes_(self) -> int:
        """Bytes that the record holds."""
        if not hasattr(self, "_trajectory"):
            raise AttributeError(f"This {type(self).__name__} keeps no record.")
        return self._trajectory.nbytes

    @isolates
    def complete_record(self) -> "TelescopingMLPRegressor":
        """Train every update again now, so that questions and loaded pickles do not have to.

        Call it before a fitted estimator is moved to another machine, which may round otherwise and then cannot repeat
        the run.

        Returns
        -------
        TelescopingMLPRegressor
            The estimator.

        Raises
        ------
        ValueError
            If not all updates fit `record_budget`, or there is no record.
        """
        check_is_fitted(self)
        if not hasattr(self, "_trajectory"):
            raise self._record_dropped()
        if not self._trajectory.keeps_segments:
            raise ValueError(
                f"record_budget={self.record_budget!r} does not hold all {self.n_stages_} updates. Fit again with more."
            )
        self._trajectory.complete()
        return self

    def drop_record(self) -> "TelescopingMLPRegressor":
        """Free the recorded run and what was computed from it; predictions stay, explanations raise.

        Returns
        -------
        TelescopingMLPRegressor
            The estimator.
        """
        check_is_fitted(self)
        self._forget()
        for name in ("_trajectory", "_rows", "_chosen_sections", "_training_index"):
            self.__dict__.pop(name, None)
        return self

    @isolates
    def predict(self, X: Any) -> NDArray:
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.

        Returns
        -------
        ndarray of shape (n_query,)
            Predictions, evaluated in float64.
        """
        X = self._query(X)
        return _predict(self.module_.network, self.module_.theta.detach(), X)

    def _network(self, some_rows: NDArray) -> tuple[Network, Tensor]:
        """Make the network, and the parameters that it starts from."""
        if self.module is not None:
            return read_module(self.module, some_rows, self.seed_, explained=self.record)
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError(f"hidden_layer_sizes={self.hidden_layer_sizes!r} must hold positive ints.")
        network = Architecture((self.n_features_in_, *sizes, 1), self.activation, self.output_activation)
        return network, network.initial_parameters(self.seed_)

    def _training_settings(self, n_rows: int, network: Network) -> TrainingSettings:
        """Translate the parameters; refuse combinations that torch does not define."""
        named: dict[Any, Any] = {"auto": 200, "full": n_rows}
        batch_size = min(plain_number(named.get(self.batch_size, self.batch_size)), n_rows)
        settings = TrainingSettings(
            network=network,
            optimizer=self._optimizer_class(),
            optimizer_settings=self._optimizer_settings(),
            lr_schedule=self.lr_schedule,
            warmup_steps=plain_number(self.warmup_steps),
            batch_size=batch_size,
            max_iter=plain_number(self.max_iter),
            n_iter_no_change=plain_number(self.n_iter_no_change),
            tol=self.tol,
            shuffle=self.shuffle,
            record=self.record,
            record_budget=int(min(parse_budget(self.record_budget), _memory.available_memory().n_bytes)),
            verbose=self.verbose > 0,
            dtype=_DTYPES[self.dtype],
            device=self.device,
            n_threads=threads_for(network, batch_size, self.n_jobs),
            seed=self.seed_,
        )
        trial_state(settings.optimizer, settings.optimizer_settings)
        next(settings.rates())  # refuses schedules before training
        return settings

    def _optimizer_class(self) -> type[torch.optim.Optimizer]:
        if isinstance(self.optimizer, str):
            return OPTIMIZERS[self.optimizer].optimizer
        if not (isinstance(self.optimizer, type) and issubclass(self.optimizer, torch.optim.Optimizer)):
            raise ValueError(f"optimizer={self.optimizer!r} must be a name or a subclass of torch.optim.Optimizer.")
        return self.optimizer

    def _optimizer_settings(self) -> dict[str, Any]:
        own, further = self._own_optimizer_settings(), self.optimizer_settings or {}
        if clashing := sorted(own.keys() & further.keys()):
            raise ValueError(
                f"optimizer_settings may not hold {', '.join(clashing)}, which this optimizer takes from parameters of "
                "the estimator (lr is learning_rate_init)."
            )
        return {name: plain_number(value) for name, value in (own | further).items()}  # torch does not take all others

    def _own_optimizer_settings(self) -> dict[str, Any]:
        rate = {"lr": self.learning_rate_init}
        if isinstance(self.optimizer, str):
            return rate | OPTIMIZERS[self.optimizer].settings(self)
        if self.momentum or self.weight_decay:
            raise ValueError("momentum and weight_decay of an optimizer given as a class belong in optimizer_settings.")
        return rate

    def _refuse_large_record(self, settings: TrainingSettings, n_rows: int) -> None:
        if not self.record:
            return
        record, memory = settings.record_layout(n_rows), _memory.available_memory()
        if record.least_bytes > record.budget:
            raise MemoryError(
                f"The record of {record.n_updates} updates of {settings.network.n_params} parameters would take "
                f"{record.least_bytes / 2**30:.3g} GiB even as checkpoints, and record_budget={self.record_budget!r} "
                f"with {memory.n_bytes / 2**30:.3g} GiB of memory ({memory.reason}) allows "
                f"{record.budget / 2**30:.3g} GiB. Raise record_budget, lower max_iter, raise batch_size, or set "
                "record=False and give up explanations."
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle, in tensors that can be differentiated even if it is loaded in inference mode."""
        if torch.is_inference_mode_enabled():
            with isolated():
                state = copy.deepcopy(state)
        super().__setstate__(state)

    def _refuse_unscored(self, weights: NDArray, kept: NDArray, held_out: NDArray) -> None:
        """Raise unless there is a row of positive weight to train on, and two to score."""
        n_kept, n_scored = (int((weights[rows] > 0).sum()) for rows in (kept, held_out))
        if n_kept < 1 or n_scored < 2:
            raise ValueError(
                f"early_stopping=True with validation_fraction={self.validation_fraction} trains on {n_kept} and holds "
                f"out {n_scored} of the {int((weights > 0).sum())} rows of positive weight; it takes 1 and 2 or more, "
                "since R^2 needs two. Change validation_fraction, give more rows, or set early_stopping=False."
            )

    def _scorer(
        self, settings: TrainingSettings, X: NDArray, y: NDArray, weights: NDArray
    ) -> Callable[[Tensor], float]:
        def score(theta: Tensor) -> float:
            prediction = _predict(settings.network, theta, X)
            return r2_score(y, prediction, sample_weight=weights) if np.isfinite(prediction).all() else -np.inf

        return score

    def _query(self, X: Any) -> NDArray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        refuse_overflow(X, self.module_.theta.dtype, getattr(self, "feature_names_in_", None))
        return X

    def _answer_settings(self) -> tuple:
        return tuple(getattr(self, name) for name in _AFTER_FITTING)

    @property
    def section_ends_(self) -> NDArray:
        """Last stage of every section, chosen when first asked for and kept with the record."""
        return cast(TangentTelescope, self.telescope_).sections.ends

    @property
    @isolates
    def section_gap_(self) -> float:
        """Largest mean gap between net and telescope at any section's end, in standard deviations of the labels."""
        telescope = cast(TangentTelescope, self.telescope_)
        sample = gap_rows(telescope.path, telescope.trained, self.seed_)
        return largest_gap(telescope.path, sample, telescope.sections) / self._label_std

    @property
    def section_bias_(self) -> float:
        """Relative error of effective parameters at the last sound stage that is due to sections."""
        telescope = cast(TangentTelescope, self.telescope_)
        return telescope.accuracy.relative_error(np.array([telescope.last_sound_stage])).item()

    @property
    def last_sound_stage_(self) -> int:
        """Last stage at which the label response passes its checks."""
        return self.telescope_.last_sound_stage

    @isolates
    def _make_telescope(self) -> TangentTelescope:
        if not hasattr(self, "_trajectory"):
            raise self._record_dropped()
        settings = dict(zip(_AFTER_FITTING, self._answer_settings(), strict=True))
        constraints = {name: self._parameter_constraints[name] for name in settings}
        validate_parameter_constraints(constraints, settings, type(self).__name__)  # `fit` has not seen them
        rows = self._rows
        path = Path(
            self.module_.network,
            self._trajectory,
            rows.X,
            rows.weights,
            rule=self.rule,
            dtype=self.module_.theta.dtype,
            device=self.module_.theta.device,
        )
        path.checkpoint_dir = self.checkpoint_dir

        def make(sections: Sections, accuracy: ResponseAccuracy | None = None) -> TangentTelescope:
            return TangentTelescope(
                path,
                sections,
                self._trajectory.make_update_rule,
                accuracy,
                y=rows.y,
                trained=rows.weights > 0,
                seed=self.seed_,
            )

        if self.section != "auto":
            return make(equal_sections(self.n_stages_, int(self.section)))
        return make(*self._chosen(path, make))

    def _chosen(self, path: Path, make: Callable[..., TangentTelescope]) -> tuple[Sections, ResponseAccuracy]:
        """Choose sections; they are kept with the record, so that every later question shares them."""
        key = self.rule, self.section_tol
        if key not in self._chosen_sections:
            sample = gap_rows(path, self._rows.weights > 0, self.seed_)
            longest = LONGEST_EPOCHS * self._trajectory.batches.per_epoch

            def choose() -> tuple[Sections, ResponseAccuracy]:
                first = chosen_sections(path, sample, self.section_tol, self._label_std, longest)
                return refined_sections(make, first, 2 * self.section_tol)

            self._chosen_sections[key] = remembered(
                self.checkpoint_dir, "sections", choose, lambda: digest(path.key, self._rows.y, *key)
            )
        return self._chosen_sections[key]

    @property
    def _label_std(self) -> float:
        return float(np.std(self._rows.y[self._rows.weights > 0])) or 1.0


def _predict(network: Network, theta: Tensor, X: NDArray) -> NDArray:
    """Predict in float64, in blocks of rows, (n_query,)."""
    rows, theta = as_double(X, theta.device), theta.double()
    blocks = row_blocks(network, len(rows), n_columns=1)
    return torch.cat([network.forward(theta, rows[block]) for block in blocks]).cpu().numpy()
