"""The network of `module` and its settings, by skorch's conventions.

A class or function is called with the settings ``module__<name>`` as keywords. skorch never tells it the number of
columns of X. Here a required parameter called ``n_features_in``, ``in_features`` or ``n_features`` is given it, by
name: under any other name it could be a width.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial, wraps
from inspect import Parameter
from typing import Any

from torch import nn

from telescoping_sklearn.neural._isolation import seeded

#: What the names of settings start with.
PREFIX = "module__"
#: Names of a required parameter that is given the number of columns, the first that is there.
N_FEATURES = ("n_features_in", "in_features", "n_features")
_GIVEN = "A required parameter called n_features_in, in_features or n_features is given the number of columns of X."
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def takes_module_settings(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor take settings of `module`, which become attributes; its signature does not show them.

    scikit-learn reads the parameters of an estimator from its signature.
    """

    @wraps(init)
    def init_with_settings(self: Any, *args: Any, **params: Any) -> None:
        settings = {name: params.pop(name) for name in list(params) if name.startswith(PREFIX)}
        init(self, *args, **params)
        vars(self).update(settings)

    return init_with_settings


def make_module(
    module: nn.Module | Callable[..., nn.Module], settings: Mapping[str, Any], n_features: int, seed: int
) -> nn.Module:
    """Return a module that was given, or make one of a class or function.

    Parameters
    ----------
    module : torch.nn.Module, subclass of it or callable
        The module, or what makes it.
    settings : mapping
        Arguments of the class or function, without `PREFIX`.
    n_features : int
        Number of columns of X.
    seed : int
        Seeds torch's global generators, which are restored afterwards, while the module is made.

    Returns
    -------
    torch.nn.Module
        The module itself where one was given.

    Raises
    ------
    ValueError
        If a setting is not a parameter of the class or function, a parameter without default has no setting, an
        instance is given settings, or what is made is no module.

    Warns
    -----
    FutureWarning
        If a function takes the number of columns by place, under a name that does not say so.
    """
    if isinstance(module, nn.Module):
        if settings:
            raise ValueError(
                f"{_listed(settings)} cannot be set: module is an instance of {type(module).__name__}, whose "
                f"parameters are made already. Give the class, module={type(module).__name__}, or set them there."
            )
        return module
    placed, named = _arguments(module, settings, n_features)
    call = (
        f"{_name(module)}({', '.join([*map(repr, placed), *(f'{name}={value!r}' for name, value in named.items())])})"
    )
    try:
        with seeded(seed):
            made = module(*placed, **named)
    except Exception as error:  # whatever a user's module raises
        raise ValueError(f"module cannot be made: {call} raised {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"module must be or return a torch.nn.Module, but {call} returned {type(made).__name__}.")
    return made


def misleading_default(make: Any, settings: Mapping[str, Any], n_features: int) -> str:
    """Say that a module was made for another number of columns, where a default of its class says so."""
    try:
        parameters = {} if isinstance(make, nn.Module) else inspect.signature(make).parameters
    except (TypeError, ValueError):
        return ""
    defaults = {name: parameters[name].default for name in N_FEATURES if name in parameters and name not in settings}
    for name, default in defaults.items():
        if default is not Parameter.empty and default != n_features:
            return (
                f" {_name(make)} was made with its default {name}={default!r}, and X has {n_features} columns: set "
                f"{PREFIX}{name}={n_features}, or leave the default out, so that it is given their number."
            )
    return ""


def _arguments(make: Callable, settings: Mapping[str, Any], n_features: int) -> tuple[tuple, dict[str, Any]]:
    """Arguments of a class or function, by place and by name."""
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):  # compiled functions may have none
        return (), dict(settings)
    _refuse_unknown(make, settings, parameters)
    required = [
        parameter
        for name, parameter in parameters.items()
        if parameter.default is Parameter.empty and parameter.kind in _BY_NAME + _BY_PLACE and name not in settings
    ]
    tells = next((name for name in N_FEATURES if name in [parameter.name for parameter in required]), None)
    missing = [parameter for parameter in required if parameter.name != tells]
    if tells is None and _takes_columns_by_place(make, missing, parameters):
        (parameter,) = missing
        tells, missing = parameter.name, []
        warnings.warn(
            f"module={_name(make)} is given the number of columns of X as its argument {tells!r}. A later version "
            "will do so only under the name 'n_features': rename it.",
            FutureWarning,
            stacklevel=9,  # where the user calls `fit`
        )
    if missing:
        names = [parameter.name for parameter in missing]
        raise ValueError(f"module={_name(make)} has parameters without default: set {_listed(names)}. {_GIVEN}")
    if tells is None:
        return (), dict(settings)
    if parameters[tells].kind is Parameter.POSITIONAL_ONLY:
        return (n_features,), dict(settings)
    return (), {tells: n_features, **settings}


def _takes_columns_by_place(make: Callable, missing: list[Parameter], parameters: Mapping[str, Parameter]) -> bool:
    """Whether a function has one argument without a value, its first, which earlier versions gave it by place."""
    made_by = make.func if isinstance(make, partial) else make
    first = next(iter(parameters.values()), None)
    return not isinstance(made_by, type) and missing == [first] and missing[0].kind in _BY_PLACE


def _refuse_unknown(make: Callable, settings: Mapping[str, Any], parameters: Mapping[str, Parameter]) -> None:
    """Raise ValueError for a setting that is no parameter of a class or function."""
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    accepted = [name for name, parameter in parameters.items() if parameter.kind in _BY_NAME]
    for unknown in settings:
        if unknown not in accepted:
            near = get_close_matches(unknown, accepted, 1)
            raise ValueError(
                f"{PREFIX}{unknown} is no parameter of module={_name(make)}"
                + (f"; did you mean {PREFIX}{near[0]}? " if near else ". ")
                + (f"It takes {_listed(accepted)}." if accepted else "It takes none.")
            )


def _listed(names: Any) -> str:
    return ", ".join(f"{PREFIX}{name}" for name in names)


def _name(make: Callable) -> str:
    """Name of a class or function, that of what a partial calls."""
    return _name(make.func) if isinstance(make, partial) else getattr(make, "__qualname__", type(make).__name__)
