"""Each optimiser as a linear map from the response of its gradient to the response of its step.

Adam's denominators are held as recorded, so that every rule here is linear in its gradients: blocks with one row for
each label column. Semantics are torch's; updates are counted from 1.

The adjoint of a rule runs from the last update to the first: ``transposed_step`` takes the derivatives of queries in a
step and returns those in its gradient. Its state is the derivative in the momentum.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

_SWEEP = 16  # updates between two sweeps: what a sweep leaves stays normal until the next for any usual decay


def _swept(state: Tensor, stage: int) -> Tensor:
    """Set tiny numbers to zero every few updates.

    The momentum of a unit that no row reaches any more decays geometrically. It becomes a subnormal number long before
    it is zero, and processors are many times slower with those.
    """
    if stage % _SWEEP:
        return state
    return torch.nn.functional.hardshrink(state, 1e8 * torch.finfo(state.dtype).tiny)


class RecordedUpdate(NamedTuple):
    """An update that training made, of p parameters.

    Attributes
    ----------
    gradient : Tensor of shape (p,)
        Gradient of the batch's mean loss, at the parameters before.
    parameters : Tensor of shape (p,)
        Parameters before.
    step : Tensor of shape (p,)
        What the update added to them.
    phi_before : Tensor of shape (p,) or None
        Denominators of the update before; None for the first.
    """

    gradient: Tensor
    parameters: Tensor
    step: Tensor
    phi_before: Tensor | None

    def part(self, where: slice) -> "RecordedUpdate":
        """Cut out some of the parameters."""
        return RecordedUpdate(*(None if value is None else value[where] for value in self))  # type: ignore[arg-type]


class UpdateRule:
    """The linear response of an optimiser, with the state of one run.

    Attributes
    ----------
    is_plain : bool
        Whether a step is -lr times its own gradient and nothing else, so that kernels can stand for parameters.
    has_adjoint : bool
        Whether it can also be run backward, from the last stage to the first: `transposed_step`.
    has_moving_step : bool
        Whether its denominators can respond too: `moving_step`.
    has_moving_adjoint : bool
        Whether it can be run backward while they do: `transposed_moving_step`.
    """

    is_plain: bool = False
    has_adjoint: bool = False
    has_moving_step: bool = False
    has_moving_adjoint: bool = False

    def step(self, gradient: Tensor, parameters: Tensor, stage: int, rate: float, phi: Tensor | None) -> Tensor:
        """Return the step's response, (k, p), for the gradient's, which may be overwritten; stages count from 1."""
        raise NotImplementedError

    def remember(self, state: dict[str, Any], parameters: Tensor) -> None:
        """Take over an optimiser's state as the memory of the last of k columns, (k, p); the others have none."""

    def start_offset(self, parameters: Tensor) -> None:
        """Let the last column, of k parameters (k, p), start with what the optimiser remembers from before the run."""

    def transposed_step(
        self, on_step: Tensor, stage: int, rate: float, phi: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step, given those in the step."""
        raise NotImplementedError

    def moving_step(
        self, gradient: Tensor, parameters: Tensor, stage: int, rate: float, phi: Tensor | None, run: RecordedUpdate
    ) -> Tensor:
        """Return the step's response, (k, p), where denominators respond too, given the update that training made."""
        raise NotImplementedError

    def memory(self) -> Any:
        """Return what was carried from the updates so far, for a rule with fresh state to `recall`."""
        return vars(self)

    def recall(self, memory: Any) -> None:
        """Go on from the memory of another rule of the same run."""
        vars(self).update(memory)

    def transposed_moving_step(
        self, on_step: Tensor, stage: int, rate: float, phi: Tensor | None, run: RecordedUpdate
    ) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step, given those in the step."""
        raise NotImplementedError


class UserRule(UpdateRule):
    """A rule that a user registered: an object of any class, whose capabilities are the methods that it has.

    Parameters
    ----------
    rule : object
        What the user's function returned; see `register_update_rule`.
    """

    def __init__(self, rule: Any):
        self._rule = rule
        self.is_plain = getattr(rule, "is_plain", False)
        self.has_adjoint = hasattr(rule, "transposed_step")
        self.has_moving_step = hasattr(rule, "moving_step")
        self.has_moving_adjoint = hasattr(rule, "transposed_moving_step")

    def step(self, *arguments: Any) -> Tensor:
        """Return the step's response, (k, p)."""
        return self._rule.step(*arguments)

    def remember(self, state: dict[str, Any], parameters: Tensor) -> None:
        """Take over an optimiser's state, where the rule can; the recorder checks that one that cannot has no need."""
        if hasattr(self._rule, "remember"):
            self._rule.remember(state, parameters)

    def memory(self) -> Any:
        """Return the attributes of the user's object."""
        return vars(self._rule)

    def recall(self, memory: Any) -> None:
        """Go on from the memory of another rule of the same run."""
        vars(self._rule).update(memory)

    def transposed_step(self, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step."""
        return self._rule.transposed_step(*arguments)

    def moving_step(self, *arguments: Any) -> Tensor:
        """Return the step's response, (k, p), where denominators respond too."""
        return self._rule.moving_step(*arguments)

    def transposed_moving_step(self, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step."""
        return self._rule.transposed_moving_step(*arguments)


class ContinuedRule(UpdateRule):
    """The rule of an optimiser that made updates before the run.

    Its updates are counted from the optimiser's first. What it remembers of those before the run does not depend on
    labels: it belongs to the offset.

    Parameters
    ----------
    rule : UpdateRule
        The optimiser's response with fresh state.
    n_before : int
        Number of updates before the run.
    state : dict
        The optimiser's state of the parameters before the run, as vectors of p numbers.
    """

    def __init__(self, rule: UpdateRule, n_before: int, state: dict[str, Any]):
        self._rule, self._n_before, self._state = rule, n_before, state
        self.is_plain, self.has_adjoint = rule.is_plain, rule.has_adjoint
        self.has_moving_step, self.has_moving_adjoint = rule.has_moving_step, rule.has_moving_adjoint

    def start_offset(self, parameters: Tensor) -> None:
        """Let the last column, of k parameters (k, p), start with what the optimiser remembers from before the run."""
        self._rule.remember(self._state, parameters)

    def memory(self) -> Any:
        """Return what the optimiser's response carries."""
        return self._rule.memory()

    def recall(self, memory: Any) -> None:
        """Go on from the memory of another rule of the same run."""
        self._rule.recall(memory)

    def step(self, gradient: Tensor, parameters: Tensor, stage: int, *rest: Any) -> Tensor:
        """Return the step's response, (k, p)."""
        return self._rule.step(gradient, parameters, stage + self._n_before, *rest)

    def transposed_step(self, on_step: Tensor, stage: int, *rest: Any) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step."""
        return self._rule.transposed_step(on_step, stage + self._n_before, *rest)

    def moving_step(self, gradient: Tensor, parameters: Tensor, stage: int, *rest: Any) -> Tensor:
        """Return the step's response, (k, p), where denominators respond too."""
        return self._rule.moving_step(gradient, parameters, stage + self._n_before, *rest)

    def transposed_moving_step(self, on_step: Tensor, stage: int, *rest: Any) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step."""
        return self._rule.transposed_moving_step(on_step, stage + self._n_before, *rest)


def continued_rule(rule: UpdateRule, n_before: int, states: list[dict[str, Any]]) -> ContinuedRule:
    """Make the rule of a run that goes on after so many updates, given the state of its only tensor, theta."""
    if len(states) != 1:
        raise ValueError(f"Only a run of one tensor of parameters can go on from another, got {len(states)}.")
    return ContinuedRule(rule, n_before, states[0])


def _remembered(state: dict[str, Any], name: str, parameters: Tensor) -> Tensor | None:
    """Memory of k columns, (k, p), of which the last has what the optimiser keeps under a name; None if it has none."""
    if state.get(name) is None:
        return None
    memory = torch.zeros_like(parameters)
    memory[-1] = state[name]
    return memory


@dataclass
class SGDResponse(UpdateRule):
    """Stochastic gradient descent: g = G + l Theta; M = m M + (1 - q) g; D = -lr (g + m M) or -lr M.

    Attributes
    ----------
    momentum, dampening, weight_decay : float
        m, q and l of torch.
    nesterov : bool
        Whether the step looks ahead.
    """

    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    _velocity: Tensor | None = field(default=None, repr=False)

    has_adjoint = True

    def __post_init__(self) -> None:
        """Tell plain gradient descent."""
        self.is_plain = not (self.momentum or self.weight_decay)

    def step(self, gradient: Tensor, parameters: Tensor, stage: int, rate: float, phi: Tensor | None) -> Tensor:
        """Return the step's response, (k, p), for the gradient's, whose memory it takes; phi plays no part."""
        if self.weight_decay:
            gradient += self.weight_decay * parameters
        if not self.momentum:
            return gradient.mul_(-rate)
        if self._velocity is None:
            self._velocity = gradient.clone()
            if stage > 1:  # torch starts the buffer undampened; in a run that goes on it exists
                self._velocity *= 1 - self.dampening
        else:
            self._velocity.mul_(self.momentum).add_(gradient, alpha=1 - self.dampening)
            self._velocity = _swept(self._velocity, stage)
        if self.nesterov:
            return gradient.add_(self._velocity, alpha=self.momentum).mul_(-rate)
        return torch.mul(self._velocity, -rate, out=gradient)

    def remember(self, state: dict[str, Any], parameters: Tensor) -> None:
        """Take over the momentum of torch's state as that of the last of k columns, (k, p)."""
        self._velocity = _remembered(state, "momentum_buffer", parameters)

    def transposed_step(
        self, on_step: Tensor, stage: int, rate: float, phi: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step, each (m', p)."""
        on_step = -rate * on_step
        if self.momentum:
            ahead = self.momentum * on_step if self.nesterov else on_step
            on_velocity = ahead if self._velocity is None else self._velocity.add_(ahead)
            on_gradient = on_velocity * (1.0 if stage == 1 else 1 - self.dampening)
            if self.nesterov:
                on_gradient += on_step
            self._velocity = _swept(on_velocity.mul_(self.momentum), stage)
        else:
            on_gradient = on_step
        return on_gradient, self.weight_decay * on_gradient if self.weight_decay else None


@dataclass
class AdamResponse(UpdateRule):
    """Adam and AdamW: M = b1 M + (1 - b1) g; D = -lr M / (1 - b1^t) / phi_t, and -lr l Theta if decay is decoupled.

    Attributes
    ----------
    beta1, beta2, weight_decay, eps : float
        b1, b2, l and eps of torch.
    decoupled : bool
        Whether weight decay acts on the parameters beside the gradient (AdamW) rather than through it.
    amsgrad : bool
        Whether denominators hold the largest second moment so far.

    Notes
    -----
    Where denominators respond too, with g the recorded gradient and G its response, both with coupled decay,

        dV = b2 dV + (1 - b2) 2 g G,    dphi = dV / (1 - b2^t) / (2 (phi - eps)),

    and the step's response gains lr M / (1 - b1^t) / phi^2 dphi with M of the run: minus its adaptive step over phi,
    times dphi. Under amsgrad dV is that of the update at which the largest second moment was attained.
    """

    beta1: float = 0.9
    weight_decay: float = 0.0
    decoupled: bool = False
    beta2: float = 0.999
    eps: float = 1e-8
    amsgrad: bool = False
    _mean: Tensor | None = field(default=None, repr=False)
    _second: Tensor | None = field(default=None, repr=False)
    _largest: Tensor | None = field(default=None, repr=False)

    has_adjoint = has_moving_step = has_moving_adjoint = True

    def step(self, gradient: Tensor, parameters: Tensor, stage: int, rate: float, phi: Tensor | None) -> Tensor:
        """Return the step's response, (k, p), for the gradient's, whose memory it takes, with the denominators phi."""
        if phi is None:
            raise ValueError("Adam's denominators were not recorded.")
        if self.weight_decay and not self.decoupled:
            gradient += self.weight_decay * parameters
        if self._mean is None:
            self._mean = torch.zeros_like(gradient)
        self._mean = _swept(self._mean.mul_(self.beta1).add_(gradient, alpha=1 - self.beta1), stage)
        step = torch.div(self._mean, phi, out=gradient)
        step *= -rate / (1 - self.beta1**stage)
        if self.weight_decay and self.decoupled:
            step.add_(parameters, alpha=-rate * self.weight_decay)
        return step

    def remember(self, state: dict[str, Any], parameters: Tensor) -> None:
        """Take over the first moment of torch's state as that of the last of k columns, (k, p)."""
        self._mean = _remembered(state, "exp_avg", parameters)

    def transposed_step(
        self, on_step: Tensor, stage: int, rate: float, phi: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step, each (m', p)."""
        if phi is None:
            raise ValueError("Adam's denominators were not recorded.")
        on_mean = on_step / phi
        on_mean *= -rate / (1 - self.beta1**stage)
        if self._mean is not None:
            on_mean += self._mean
        on_gradient = (1 - self.beta1) * on_mean
        self._mean = _swept(on_mean.mul_(self.beta1), stage)
        if not self.weight_decay:
            return on_gradient, None
        return on_gradient, -rate * self.weight_decay * on_step if self.decoupled else self.weight_decay * on_gradient

    def moving_step(
        self, gradient: Tensor, parameters: Tensor, stage: int, rate: float, phi: Tensor | None, run: RecordedUpdate
    ) -> Tensor:
        """Return the step's response, (k, p), where the denominators phi of the recorded update respond too."""
        if phi is None:
            raise ValueError("Adam's denominators were not recorded.")
        coupled = gradient if self._uncoupled else gradient + self.weight_decay * parameters
        own = (2 * (1 - self.beta2)) * self._recorded_gradient(run)
        if self._second is None:
            self._second = torch.zeros_like(gradient)
        self._second = _swept(self._second.mul_(self.beta2).addcmul_(coupled, own), stage)
        second = self._second
        if self.amsgrad:
            attained = self._attained(stage, phi, run.phi_before)
            if self._largest is None:  # what earlier runs attained does not respond
                self._largest = second.clone() if stage == 1 else torch.zeros_like(second)
            second = self._largest
            second[:, attained] = self._second[:, attained]
        step = self.step(gradient, parameters, stage, rate, phi)
        return step.addcmul_(second, self._step_slope(stage, rate, phi, run))

    def transposed_moving_step(
        self, on_step: Tensor, stage: int, rate: float, phi: Tensor | None, run: RecordedUpdate
    ) -> tuple[Tensor, Tensor | None]:
        """Return the derivatives in the gradient and in the parameters before the step, each (m', p)."""
        if phi is None:
            raise ValueError("Adam's denominators were not recorded.")
        on_second = on_step * self._step_slope(stage, rate, phi, run)
        if self.amsgrad:
            if self._largest is not None:
                on_second += self._largest
            attained = self._attained(stage, phi, run.phi_before)
            self._largest = on_second * ~attained
            on_second *= attained
        if self._second is not None:
            on_second += self._second
        through_second = on_second * ((2 * (1 - self.beta2)) * self._recorded_gradient(run))
        self._second = _swept(on_second.mul_(self.beta2), stage)
        on_gradient, on_parameters = self.transposed_step(on_step, stage, rate, phi)
        on_gradient += through_second
        if on_parameters is not None and not self.decoupled:
            on_parameters += self.weight_decay * through_second
        return on_gradient, on_parameters

    @property
    def _uncoupled(self) -> bool:
        return self.decoupled or not self.weight_decay

    def _recorded_gradient(self, run: RecordedUpdate) -> Tensor:
        """Return the gradient that went into the moments, (p,)."""
        return run.gradient if self._uncoupled else run.gradient + self.weight_decay * run.parameters

    def _step_slope(self, stage: int, rate: float, phi: Tensor, run: RecordedUpdate) -> Tensor:
        """Return the derivative of the recorded step in the second moment, (p,); 0 where that has always been 0."""
        root = phi - self.eps
        adaptive = run.step + rate * self.weight_decay * run.parameters if self.decoupled else run.step
        slope = -adaptive / (2 * phi * root * (1 - self.beta2**stage))
        return slope.where(root > torch.finfo(phi.dtype).eps * phi, 0.0)

    def _attained(self, stage: int, phi: Tensor, before: Tensor | None) -> Tensor:
        """Whether the largest second moment so far is that of this update, (p,) bool."""
        if before is None:
            return torch.ones_like(phi, dtype=torch.bool)
        largest, largest_before = (
            (root - self.eps).square() * (1 - self.beta2**at) for root, at in ((phi, stage), (before, stage - 1))
        )
        return largest > largest_before * (1 + 16 * torch.finfo(phi.dtype).eps)


Settings = dict[str, Any]
Denominator = Callable[[dict[str, Any], Settings], Tensor]


class _Registered(NamedTuple):
    make_response: Callable[[Settings], Any]
    denominator: Denominator | None


_REGISTRY: dict[type[torch.optim.Optimizer], _Registered] = {}


def register_update_rule(
    optimizer_class: type[torch.optim.Optimizer],
    make_response: Callable[[Settings], Any],
    denominator: Denominator | None = None,
) -> None:
    """Register the linear response of an optimiser: the step that it makes for a gradient.

    An update must be linear in the gradients of the run so far while its denominators are held fixed. While a net is
    trained, the response is compared with the optimiser's first steps, and a rule that does not give them is refused.
    The optimiser must keep its memory in its state of the parameters or in its parameter group: segments of the run are
    trained again from copies of these. A class that is registered already gets the new rule; subclasses are registered
    one by one.

    Parameters
    ----------
    optimizer_class : type
        A subclass of `torch.optim.Optimizer`.
    make_response : callable
        Takes the settings of a parameter group and returns an object with fresh state. Its method
        ``step(gradient, parameters, stage, rate, phi)`` gives the step, (k, p), for blocks of gradients and
        parameters of the group, (k, p); stages count from 1, `rate` is the learning rate of the stage and `phi` its
        denominators, (p,), or None. It raises ValueError for settings that it cannot follow. With a method
        ``transposed_step``, such as the built-in responses have, few queries are explained far faster.

        Influence lets denominators respond too. For an optimiser with denominators it needs a method
        ``moving_step(gradient, parameters, stage, rate, phi, run)``, which gives the derivative of the step where phi
        responds to the gradients that it is made of; ``run`` holds the update that training made: its ``gradient``,
        ``parameters`` before, ``step``, (p,) each, and ``phi_before``, the denominators of the update before or None.
        ``transposed_moving_step(on_step, stage, rate, phi, run)`` is its adjoint. Without `moving_step` influence is
        refused unless it is asked with the denominators held.

        A run that goes on from another, as after `TelescopingMLPRegressor.spawn`, starts from the optimiser's state. A
        response with memory, such as momentum, then needs a method ``remember(state, parameters)``: it takes the
        optimiser's state of the parameters, as vectors of p numbers, as the memory of the last of the k columns,
        (k, p); the other columns start without any.
    denominator : callable, default=None
        Takes the optimiser's state of a parameter tensor after an update and the settings, and returns the
        denominators phi, of the tensor's shape, that the update divided by; None where there are none.

    Raises
    ------
    TypeError
        If an argument has the wrong type.

    Examples
    --------
    >>> import torch
    >>> from telescoping_sklearn.neural import register_update_rule
    >>> class PlainRMSprop:
    ...     def __init__(self, settings):
    ...         if settings["momentum"] or settings["centered"] or settings["weight_decay"]:
    ...             raise ValueError("only plain RMSprop is known")
    ...
    ...     def step(self, gradient, parameters, stage, rate, phi):
    ...         return -rate * gradient / phi
    >>> register_update_rule(
    ...     torch.optim.RMSprop, PlainRMSprop, lambda state, settings: state["square_avg"].sqrt() + settings["eps"]
    ... )
    """
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
        raise TypeError(f"optimizer_class must be a subclass of torch.optim.Optimizer, got {optimizer_class!r}.")
    if not callable(make_response):
        raise TypeError(f"make_response must be callable, got {make_response!r}.")
    if denominator is not None and not callable(denominator):
        raise TypeError(f"denominator must be callable or None, got {denominator!r}.")
    _REGISTRY[optimizer_class] = _Registered(make_response, denominator)


def group_settings(group: dict[str, Any]) -> Settings:
    """Return the settings of a parameter group."""
    return {name: value for name, value in group.items() if name != "params"}


def update_rule(optimizer_class: type[torch.optim.Optimizer], settings: Settings) -> UpdateRule:
    """Make the rule of an optimiser with given settings, with fresh state.

    Parameters
    ----------
    optimizer_class : type
        A registered optimiser.
    settings : dict
        The settings of a parameter group.

    Returns
    -------
    UpdateRule
        Its response.

    Raises
    ------
    ValueError
        If the optimiser is not registered, or its rule refuses the settings.
    """
    made = _registered(optimizer_class).make_response(settings)
    return made if isinstance(made, UpdateRule) else UserRule(made)


def denominator_of(optimizer_class: type[torch.optim.Optimizer]) -> Denominator | None:
    """Return the function that reads the denominators of a registered optimiser; None where it has none."""
    return _registered(optimizer_class).denominator


def _registered(optimizer_class: type[torch.optim.Optimizer]) -> _Registered:
    try:
        return _REGISTRY[optimizer_class]
    except KeyError:
        name = getattr(optimizer_class, "__name__", repr(optimizer_class))
        raise ValueError(
            f"optimizer={name} has no registered response. Registered are "
            f"{', '.join(sorted(known.__name__ for known in _REGISTRY))}. Register others with "
            f"telescoping_sklearn.neural.register_update_rule({name}, make_response, denominator), where "
            "make_response(settings) returns an object with step(gradient, parameters, stage, rate, phi) that gives "
            "the step for a gradient."
        ) from None


def sgd_response(settings: Settings) -> SGDResponse:
    """Make the response of `torch.optim.SGD` from its settings."""
    return SGDResponse(**{name: settings[name] for name in ("momentum", "dampening", "weight_decay", "nesterov")})


def adam_response(settings: Settings) -> AdamResponse:
    """Make the response of `torch.optim.Adam` or `torch.optim.AdamW` from its settings.

    ``decoupled_weight_decay`` tells which of the two it is: in torch 2.13 AdamW is a subclass of Adam.
    """
    return AdamResponse(
        **dict(zip(("beta1", "beta2"), settings["betas"], strict=True)),
        **{name: settings[name] for name in ("weight_decay", "eps", "amsgrad")},
        decoupled=settings["decoupled_weight_decay"],
    )


def adam_denominator(state: dict[str, Any], settings: Settings) -> Tensor:
    """phi_t = sqrt(v_hat_t) + eps from the state of `torch.optim.Adam` after its update t."""
    second_moment = state["max_exp_avg_sq"] if settings["amsgrad"] else state["exp_avg_sq"]
    correction = 1 - settings["betas"][1] ** float(state["step"])
    return (second_moment / correction).sqrt_().add_(settings["eps"])


register_update_rule(torch.optim.SGD, sgd_response)
register_update_rule(torch.optim.Adam, adam_response, adam_denominator)
register_update_rule(torch.optim.AdamW, adam_response, adam_denominator)
