"""TelescopingMLPRegressor: a multilayer perceptron with a recorded training run."""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import _fit_context, clone
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from telescoping_sklearn import _memory
from telescoping_sklearn._fit_tasks import CallbackSupportMixin, FitTasks, has_callbacks, with_callbacks
from telescoping_sklearn._numbers import plain_number
from telescoping_sklearn._refit import all_at_once
from telescoping_sklearn._telescope import resolve_stage
from telescoping_sklearn.base import draw_seed, held_out_rows
from telescoping_sklearn.neural._activations import ACTIVATIONS
from telescoping_sklearn.neural._children import child_orders, refuse_changes, spawn_point
from telescoping_sklearn.neural._convergence import warn_if_nothing_was_learned
from telescoping_sklearn.neural._float_range import refuse_overflow
from telescoping_sklearn.neural._isolation import isolated, isolates
from telescoping_sklearn.neural._mode_connectivity import gradient_change, layers_of, spawned_barriers
from telescoping_sklearn.neural._module_settings import (
    PREFIX,
    make_module,
    misleading_default,
    takes_module_settings,
)
from telescoping_sklearn.neural._modules import perceptron, read_module, set_parameters
from telescoping_sklearn.neural._network import Architecture, FlatModule, Network
from telescoping_sklearn.neural._optimizers import OPTIMIZERS
from telescoping_sklearn.neural._path import Path, as_double
from telescoping_sklearn.neural._record_layout import parse_budget
from telescoping_sklearn.neural._recorded_run import RecordedRunEstimator
from telescoping_sklearn.neural._saved_fit import fit_key
from telescoping_sklearn.neural._saved_work import SavedWork
from telescoping_sklearn.neural._tangent import row_blocks
from telescoping_sklearn.neural._training import SpawnPoint, TrainedNet, train
from telescoping_sklearn.neural._training_settings import (
    EpochOrders,
    SegmentReplay,
    TrainingRows,
    TrainingSettings,
    threads_for,
    trial_state,
)

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class TelescopingMLPRegressor(CallbackSupportMixin, RecordedRunEstimator):
    """Multilayer perceptron, trained through skorch, whose predictions are explained by its training labels.

    The loss is half the squared error, 1/2 (y - f)^2, summed over outputs and averaged over a batch; sample weights are
    rescaled to mean 1 over the rows trained on. Predictions are evaluated in float64, whatever `dtype` trained; label
    responses and kernels in the precision of training. ``set_callbacks`` takes scikit-learn's callbacks, which are
    called after every epoch.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Widths of the hidden layers; empty for a linear model.
    activation : {"relu", "tanh", "gelu", "sigmoid", "identity"}, default="relu"
        Function after every hidden layer.
    output_activation : {"identity", "sigmoid"}, default="identity"
        Function after the output; the model is then sigma(g(x)), still with squared error.
    module : None, torch.nn.Module, subclass of torch.nn.Module or callable, default=None
        A network in place of the three parameters above, which maps rows (n_rows, n_features) to one number for each
        output. A class, or a function that makes a module, is called with torch's generators seeded from
        `random_state`. Its parameters are given as skorch has them, ``module__width=32``, and can be set, cloned and
        searched over like those below. A required one called ``n_features_in``, ``in_features`` or ``n_features`` is
        given the number of columns of X. An instance is copied, and keeps its initial parameters. Sequences of linear
        layers, convolutions and parts without parameters are differentiated layer by layer, other modules through
        ``torch.func``, which is slower. Dropout and batch normalisation are refused.
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
        Least progress of the loss (or of the validation score), beyond the best before, that counts. With 0 every epoch
        counts that is not worse.
    n_iter_no_change : int, default=10
        Epochs without progress before training stops.
    early_stopping : bool, default=False
        Whether to hold out a share, score it by R^2 after each epoch, and keep the best parameters. With several
        outputs it is the mean R^2.
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
        Folder for long runs. `fit`, `spawn`, the choice of sections and answers that carry labels forward are saved
        there once a minute, and go on from there when the same is done again: after a process was killed, run the same
        program again. What is complete is read. A run is known by its data, settings and seed, so that `random_state`
        must be given; ``set_callbacks`` is refused beside it. May be set after fitting; the files may be deleted at any
        time. They are read as pickles: name only folders that you trust.
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
    n_outputs_ : int
        Number of outputs: columns of y.
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
        labels' standard deviation, that of each output.
    section_bias_ : float
        Relative error of effective parameters due to sections, measured by pilot columns; 0 with sections of one
        update. It is part of every standard error.
    last_sound_stage_ : int
        Last stage at which the label response passes its checks; `n_stages_` where all do. Answers end there.
    telescope_ : Telescope
        The telescope, made when first asked for.
    kernel_weights_ : ndarray of shape (n_train, n_train) or (n_train, n_outputs, n_train, n_outputs)
        Weights of the training labels in the training predictions.
    self_influence_ : ndarray of shape (n_train,) or (n_train, n_outputs)
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

    _after_fitting = RecordedRunEstimator._after_fitting | {"checkpoint_dir": [str, os.PathLike, None]}
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
        **_after_fitting,
        "dtype": [StrOptions(set(_DTYPES))],
        "device": [str],
        "n_jobs": [Interval(Integral, 1, None, closed="left"), None],
        "random_state": ["random_state", np.random.Generator],
        "record": ["boolean"],
        "record_budget": [str, Interval(Integral, 1, None, closed="left")],
        "verbose": ["boolean", Integral],
    }

    @takes_module_settings
    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        *,
        activation: str = "relu",
        output_activation: str = "identity",
        module: nn.Module | Callable[..., nn.Module] | None = None,
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

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Get the parameters, with those of `module`.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include those of estimators among the parameters.

        Returns
        -------
        dict of str to object
            Values by name.
        """
        settings = {name: value for name, value in vars(self).items() if name.startswith(PREFIX)}
        return super().get_params(deep) | settings

    def set_params(self, **params: Any) -> "TelescopingMLPRegressor":
        """Set parameters, also those of `module` that are not set yet.

        Parameters
        ----------
        **params : object
            Values by name.

        Returns
        -------
        TelescopingMLPRegressor
            The estimator.

        Raises
        ------
        ValueError
            If there is no parameter of a name. Names that start with ``module__`` are checked by `fit`.
        """
        settings = {name: params.pop(name) for name in list(params) if name.startswith(PREFIX)}
        super().set_params(**params)
        self.__dict__.update(settings)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there is a net; a parameter such as ``module__scale_`` would be taken for a fitted attribute."""
        return hasattr(self, "module_")

    @_fit_context(prefer_skip_nested_validation=True)
    @all_at_once
    @with_callbacks
    @isolates
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "TelescopingMLPRegressor":
        """Train the net and keep its run.

        Parameters
        ----------
        X : array-like of shape (n_train, n_features)
            Training rows, finite; scale them first.
        y : array-like of shape (n_train,) or (n_train, n_outputs)
            Training labels, finite; with several outputs one net predicts them all. One column counts as (n_train,).
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
        self._refuse_unsaved(self.random_state)
        X_given = X
        X, y, weights = self._training_data(X, y, sample_weight)
        refuse_overflow(X, _DTYPES[self.dtype], getattr(self, "feature_names_in_", None))
        self.seed_ = draw_seed(self.random_state)
        kept, scored = np.arange(len(y)), None
        if self.early_stopping:
            kept, held_out = held_out_rows(len(y), plain_number(self.validation_fraction), self.seed_)
            self._refuse_unscored(weights, kept, held_out)
            scored = held_out, weights[held_out]
        row_weights = np.zeros(len(y))
        row_weights[kept] = weights[kept] * (len(kept) / weights[kept].sum())

        self.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
        network, theta = self._network(X[kept[:3]])
        settings = self._training_settings(len(kept), network)
        rows = TrainingRows(X, y, row_weights)
        self._refuse_large_record(settings, len(kept))
        theta = (plain_number(self.init_scale) * theta).to(_DTYPES[self.dtype])
        given_weights = None if sample_weight is None else weights
        tasks = FitTasks(self, settings.max_iter, X_given, y, given_weights, None if scored is None else kept)
        trained = self._train(settings, theta.to(self.device), rows, kept, tasks, scored)
        warn_if_nothing_was_learned(
            partial(_predict, settings.network, trained.theta),
            rows.subset(kept),
            self.loss_ if scored is None else None,
            sigmoid=self.module is None and self.output_activation == "sigmoid",
        )
        tasks.close()
        return self

    def _train(
        self,
        settings: TrainingSettings,
        theta: Tensor,
        rows: TrainingRows,
        kept: NDArray,
        tasks: FitTasks,
        scored: tuple[NDArray, NDArray] | None,
        point: SpawnPoint | None = None,
    ) -> TrainedNet:
        """Train on the rows `kept`, and keep what was learnt.

        `scored` are rows held out for early stopping, and their weights; `point` is where the run goes on from.
        """
        score = None if scored is None else self._scorer(settings, rows.X[scored[0]], rows.y[scored[0]], scored[1])
        work = None
        if self.checkpoint_dir is not None:
            key = fit_key(settings, theta, rows, kept, scored, () if point is None else tuple(point.parts()))
            work = SavedWork(self.checkpoint_dir, "fit", key)
        trained = train(settings, theta, rows, kept, tasks, score, point, work)
        self.module_ = FlatModule(settings.network, trained.theta)
        self.n_params_ = settings.network.n_params
        self.n_stages_ = trained.n_stages
        self.n_iter_ = len(trained.loss_curve)
        self.loss_curve_ = tuple(trained.loss_curve)
        self.loss_ = trained.loss_curve[-1]
        if scored is not None:
            self.validation_scores_ = tuple(trained.scores)
            self.best_validation_score_ = max(trained.scores)
        if trained.trajectory is not None:
            self._trajectory = trained.trajectory
            self._rows = rows
            self._chosen_sections = {}
            self._scored, self._progress, self._given = scored, trained.progress, self.get_params(deep=False)
        return trained

    def parameters_at(self, stage: int) -> NDArray:
        """Return the parameters after a stage of training.

        Parameters
        ----------
        stage : int
            A stage from 0, the start, to `n_stages_`.

        Returns
        -------
        ndarray of shape (p,)
            A copy, in the precision of training, laid out as the ``named_parameters`` of `module_at`.

        Raises
        ------
        ValueError
            If the stage does not exist, or there is no record.
        TypeError
            If it is not an integer.

        Examples
        --------
        >>> import numpy as np
        >>> from telescoping_sklearn import TelescopingMLPRegressor
        >>> X = np.arange(8.0).reshape(4, 2) / 8
        >>> net = TelescopingMLPRegressor((3,), max_iter=5, random_state=0).fit(X, X[:, 0])
        >>> net.parameters_at(0).shape == net.parameters_at(net.n_stages_).shape == (net.n_params_,)
        True
        >>> [name for name, _ in net.module_at(0).named_parameters()]
        ['hidden1.weight', 'hidden1.bias', 'output.weight', 'output.bias']
        """
        return self._recorded_theta(stage).numpy()

    @isolates
    def module_at(self, stage: int) -> nn.Module:
        """Return the net after a stage of training, as a module that is ready to be called, saved or trained on.

        Parameters
        ----------
        stage : int
            A stage from 0, the start, to `n_stages_`.

        Returns
        -------
        torch.nn.Module
            A copy of `module` with the parameters of the stage; without `module`, a ``torch.nn.Sequential`` of
            ``torch.nn.Linear`` layers and activations. It is in the precision of training, and on its device.

        Raises
        ------
        ValueError
            If the stage does not exist, or there is no record.
        TypeError
            If it is not an integer.

        Examples
        --------
        A net can start from the parameters of another one, trained on other data:

        >>> import numpy as np
        >>> from telescoping_sklearn import TelescopingMLPRegressor
        >>> X = np.arange(8.0).reshape(4, 2) / 8
        >>> first = TelescopingMLPRegressor((3,), max_iter=5, random_state=0).fit(X, X[:, 0])
        >>> second = TelescopingMLPRegressor(module=first.module_at(first.n_stages_), max_iter=5).fit(X, X[:, 1])
        >>> np.array_equal(second.parameters_at(0), first.parameters_at(first.n_stages_))
        True
        """
        theta = self._recorded_theta(stage)
        network = self.module_.network
        module = perceptron(cast(Architecture, network)) if self._template is None else copy.deepcopy(self._template)
        return set_parameters(module, theta.to(self.module_.theta.device))

    def _recorded_theta(self, stage: int) -> Tensor:
        """Copy the parameters after a stage."""
        check_is_fitted(self)
        if not hasattr(self, "_trajectory"):
            raise self._record_dropped()
        stage = resolve_stage(stage, self.n_stages_)
        with isolated():
            return self._trajectory.theta(stage, self._trajectory.end.dtype).clone()

    @isolates
    def spawn(self, stage: int, *, random_state: Any = None, max_iter: int | None = None) -> "TelescopingMLPRegressor":
        """Train on from a stage with another order of the rows, as experiments on mode connectivity do.

        The child starts from the parameters and the state of the optimiser after the stage, momentum and moments
        included. Learning rates go on from there too. In the middle of an epoch, the child first trains on the rows
        that the epoch has left. Batches differ from then on, and nothing else.

        A child is a fitted estimator with a record of its own, from its first update on: `n_stages_`, `n_iter_` and
        `loss_curve_` count from there, and stage 0 is the parent's net at the stage. Kernel weights are those of labels
        in the child's own updates; what the parent learnt before is in the offset. Children can have children.

        `tol`, `n_iter_no_change` and `early_stopping` act as in one run: epochs before the stage count for when to
        stop. With `early_stopping` the child is scored on the parent's rows and keeps the best of its own epochs.

        Parameters
        ----------
        stage : int
            A stage from 0, the start, to `n_stages_`.
        random_state : None, int, RandomState, Generator or "parent", default=None
            Seeds the order of the rows in the child's epochs, and the child's probes. None draws a seed. "parent" keeps
            the parent's order: the child then repeats the parent's updates, bit for bit.
        max_iter : int or None, default=None
            Largest number of epochs, of which a stage in the middle of an epoch finishes the first. None trains as many
            as the parent's `max_iter` has left.

        Returns
        -------
        TelescopingMLPRegressor
            The child, fitted. Its parameters are the estimator's, but for `max_iter` and `random_state`.

        Raises
        ------
        ValueError
            If the stage does not exist, there is no record, the parent's `max_iter` has no epoch left and `max_iter` is
            None, parameters that training follows were changed since `fit`, rows were not shuffled, `checkpoint_dir` is
            set and `random_state` None, or training diverges.
        TypeError
            If the stage is not an integer.

        References
        ----------
        J. Frankle, G. K. Dziugaite, D. M. Roy, M. Carbin. "Linear Mode Connectivity and the Lottery Ticket Hypothesis".
        ICML 2020.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import make_friedman1
        >>> from sklearn.preprocessing import scale
        >>> from telescoping_sklearn import TelescopingMLPRegressor
        >>> X, y = make_friedman1(100, random_state=0)
        >>> net = TelescopingMLPRegressor((20,), batch_size=20, max_iter=6, random_state=0).fit(X, scale(y))
        >>> child, other = (net.spawn(10, random_state=seed) for seed in (1, 2))
        >>> child.n_stages_, bool(np.allclose(child.predict(X), other.predict(X)))
        (20, False)
        >>> again = net.spawn(10, random_state="parent")
        >>> np.array_equal(again.predict(X), net.predict(X))
        True
        """
        check_is_fitted(self)
        if not hasattr(self, "_trajectory"):
            raise self._record_dropped()
        stage = resolve_stage(stage, self.n_stages_)
        refuse_changes(self._given, self.get_params(deep=False))
        self._refuse_unsaved(random_state)
        epochs_left = plain_number(self.max_iter) - self._trajectory.batches.place(stage)[0]
        if max_iter is None and epochs_left < 1:
            raise ValueError(
                f"max_iter={self.max_iter} of the parent has no epoch left after stage {stage}: give max_iter."
            )
        child = clone(self).set_params(max_iter=epochs_left if max_iter is None else max_iter)
        own_order = isinstance(random_state, str) and random_state == "parent"
        if not own_order:
            child.set_params(random_state=random_state)
        seed = None if own_order else draw_seed(random_state)
        child._validate_params()
        return child._go_on(self, stage, seed)

    def error_barriers(
        self,
        X: Any,
        y: Any,
        stages: Any = 8,
        *,
        n_children: int = 2,
        random_state: Any = None,
        max_iter: int | None = None,
        n_alphas: int = 30,
        loss: str | Callable[[NDArray, NDArray], float] = "squared_error",
    ) -> pd.DataFrame:
        """Measure the error barriers between children spawned at some stages.

        Parameters
        ----------
        X, y : array-like
            Rows, and their labels, to measure the loss on.
        stages : None, int or array-like of int, default=8
            As in `staged_predict`, where children are spawned; 0 is the start. Without `max_iter` the last is left out.
        n_children : int, default=2
            Children of a stage, at least 2. The same seeds serve every stage.
        random_state : None, int, RandomState or Generator, default=None
            Seeds the orders of their rows.
        max_iter : int or None, default=None
            As in `spawn`.
        n_alphas : int, default=30
            As in `telescoping_sklearn.neural.error_barrier`.
        loss : str or callable, default="squared_error"
            As in `telescoping_sklearn.neural.error_barrier`.

        Returns
        -------
        DataFrame of shape (n_stages, n_pairs)
            Barriers by stage, one column for every pair of children.

        Raises
        ------
        ValueError
            As by `spawn` and `telescoping_sklearn.neural.error_barrier`.
        """
        check_is_fitted(self)
        self._refuse_unsaved(random_state)
        settings = {"n_alphas": n_alphas, "loss": loss}
        return spawned_barriers(self, X, y, stages, n_children, random_state, max_iter, **settings)

    @isolates
    def gradient_change(self, X: Any, stages: Any = 20, *, n_updates: int | None = None) -> pd.DataFrame:
        """Measure by layer how much the gradients of the outputs change from a stage to a later one.

        It is the mean, over rows, outputs and the layer's parameters, of (grad f_later(x) - grad f_stage(x))^2: grad f
        is the derivative of the net's output in its parameters, with the function after the output included. Gradients
        that stay make the net linear in its parameters.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Rows; the paper takes 256.
        stages : None, int or array-like of int, default=20
            As in `staged_predict`, among the stages that are followed by as many updates; 0 is the start.
        n_updates : int or None, default=None
            Updates from each stage to the later one; None is an epoch.

        Returns
        -------
        DataFrame of shape (n_stages, n_layers)
            Mean squared changes by stage and layer. Layers are the parts of `module_at` that hold parameters.

        Raises
        ------
        ValueError
            If a stage is not followed by as many updates, or there is no record.

        Examples
        --------
        >>> import numpy as np
        >>> from telescoping_sklearn import TelescopingMLPRegressor
        >>> X = np.arange(16.0).reshape(8, 2) / 16
        >>> net = TelescopingMLPRegressor((3,), batch_size=2, max_iter=5, random_state=0).fit(X, X[:, 0])
        >>> net.gradient_change(X, [0, 8]).shape
        (2, 2)
        """
        rows = as_double(self._query(X), self.module_.theta.device)
        module = self.module_at(0)  # refuses where there is no record
        return gradient_change(self.module_.network, self._trajectory, layers_of(module), rows, stages, n_updates)

    @all_at_once
    @with_callbacks
    def _go_on(self, parent: "TelescopingMLPRegressor", stage: int, seed: int | None) -> "TelescopingMLPRegressor":
        """Train on from a stage of a parent; `seed` is that of the rows' order, None keeps the parent's."""
        trajectory, replay = parent._trajectory, cast(SegmentReplay, parent._trajectory.replay)
        for name in parent._learnt & vars(parent).keys():
            setattr(self, name, getattr(parent, name))
        self.seed_ = parent.seed_ if seed is None else seed
        settings = replace(
            replay.settings,
            lr_schedule=parent.lr_schedule,
            orders=child_orders(replay.settings.orders, trajectory, stage, seed),
            max_iter=plain_number(self.max_iter),
            record=self.record,
            record_budget=self._record_bytes(),
            verbose=self.verbose > 0,
        )
        kept = cast(NDArray, trajectory.batches.names)
        self._refuse_large_record(settings, len(kept))
        point = spawn_point(trajectory, parent._progress, stage)
        if not self.record:
            self.drop_record()
        theta = point.checkpoint.theta.to(settings.device)
        rows, scored = parent._rows, parent._scored
        names = getattr(self, "feature_names_in_", None)
        X = rows.X if names is None else pd.DataFrame(rows.X, columns=names)
        tasks = FitTasks(self, settings.max_iter, X, rows.y, rows.weights, None if scored is None else kept)
        self._train(settings, theta, rows, kept, tasks, scored, point)
        tasks.close()
        return self

    @property
    def record_nbytes_(self) -> int:
        """Bytes that the record holds."""
        return super().record_nbytes_ + self._progress.losses.nbytes

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
        for name in (
            "_trajectory",
            "_rows",
            "_chosen_sections",
            "_training_index",
            "_scored",
            "_progress",
            "_given",
            "_template",
        ):
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
        ndarray of shape (n_query,) or (n_query, n_outputs)
            Predictions, evaluated in float64.
        """
        X = self._query(X)
        return _predict(self.module_.network, self.module_.theta.detach(), X)

    def _network(self, some_rows: NDArray) -> tuple[Network, Tensor]:
        """Make the network, and the parameters that it starts from."""
        settings = {n.removeprefix(PREFIX): v for n, v in vars(self).items() if n.startswith(PREFIX)}
        self._template: nn.Module | None = None
        if self.module is not None:
            module = make_module(self.module, settings, self.n_features_in_, self.seed_)
            try:
                network, theta, template = read_module(
                    module, some_rows, n_outputs=self.n_outputs_, explained=self.record
                )
            except ValueError as error:
                if remedy := misleading_default(self.module, settings, self.n_features_in_):
                    raise ValueError(f"{error}{remedy}") from error
                raise
            self._template = template if self.record else None
            return network, theta
        if settings:
            raise ValueError(f"{PREFIX}{next(iter(settings))} has no effect without a module. Give a class as module=.")
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if any(not isinstance(size, int) or size < 1 for size in sizes):
            raise ValueError(f"hidden_layer_sizes={self.hidden_layer_sizes!r} must hold positive ints.")
        network = Architecture((self.n_features_in_, *sizes, self.n_outputs_), self.activation, self.output_activation)
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
            orders=EpochOrders(n_rows, self.shuffle, self.seed_),
            record=self.record,
            record_budget=self._record_bytes(),
            verbose=self.verbose > 0,
            dtype=_DTYPES[self.dtype],
            device=self.device,
            n_threads=threads_for(network, batch_size, self.n_jobs),
        )
        trial_state(settings.optimizer, settings.optimizer_settings)
        next(settings.rates())  # refuses schedules before training
        return settings

    def _record_bytes(self) -> int:
        return int(min(parse_budget(self.record_budget), _memory.available_memory().n_bytes))

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

    def _refuse_unsaved(self, random_state: Any) -> None:
        """Raise ValueError where training that is saved could not go on as it would have without an interruption."""
        if self.checkpoint_dir is None:
            return
        if random_state is None:
            raise ValueError("checkpoint_dir needs a random_state: without one every run is another.")
        if has_callbacks(self):
            raise ValueError(
                f"checkpoint_dir={str(self.checkpoint_dir)!r} does not go with set_callbacks: callbacks would not be "
                "told of epochs before an interruption. Remove them by set_callbacks(), or set checkpoint_dir=None."
            )

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

    def _make_path(self) -> Path:
        theta, rows = self.module_.theta, self._rows
        path = Path(self.module_.network, self._trajectory, rows.X, rows.weights, self.rule, theta.dtype, theta.device)
        path.checkpoint_dir = self.checkpoint_dir
        return path


def _predict(network: Network, theta: Tensor, X: NDArray) -> NDArray:
    """Predict in float64, in blocks of rows, (n_query,) or (n_query, n_outputs)."""
    rows, theta = as_double(X, theta.device), theta.double()
    blocks = row_blocks(network, len(rows), n_columns=1)
    return torch.cat([network.forward(theta, rows[block]) for block in blocks]).cpu().numpy()
