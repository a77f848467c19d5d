"""Fitting all at once: what `fit` learns replaces what an earlier `fit` learnt in one step, or not at all."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

Estimator = TypeVar("Estimator", bound=Any)
Given = ParamSpec("Given")


def all_at_once(
    fit: Callable[Concatenate[Estimator, Given], Estimator],
) -> Callable[Concatenate[Estimator, Given], Estimator]:
    """Run a `fit` on a copy of the estimator, whose attributes replace the estimator's own when it returns.

    A fit that raises or is interrupted leaves every attribute as it was. The copy starts without anything that an
    earlier fit learnt, unless the estimator's `_adds_to_fit` says that this one goes on from there; the earlier fit's
    attributes must not be changed in place then.

    Parameters
    ----------
    fit : callable
        Method of an estimator with `_learnt`, `_adds_to_fit` and `_caches`.

    Returns
    -------
    callable
        The method.
    """

    @wraps(fit)
    def fit_or_leave(self: Estimator, *args: Given.args, **kwargs: Given.kwargs) -> Estimator:
        held = {name: value for name, value in vars(self).items() if name not in self._caches}
        given = {name: value for name, value in held.items() if name not in self._learnt}
        new = object.__new__(type(self))
        vars(new).update(held if self._adds_to_fit() else given)
        fit(new, *args, **kwargs)
        new._learnt = frozenset(vars(new)) - frozenset(given)
        freeze_arrays(new)
        self.__dict__ = vars(new)  # a single operation: not even an interrupt comes between two attributes
        return self

    return fit_or_leave


def freeze_arrays(estimator: Any) -> None:
    """Make the arrays among an estimator's fitted attributes read-only; those of its record are not handed out."""
    for name, value in vars(estimator).items():
        if name in estimator._learnt and isinstance(value, np.ndarray):
            value.flags.writeable = False
