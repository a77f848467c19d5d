"""Criteria for the number of trees from the training rows alone: the training error, penalised by degrees of freedom.

They treat the ensemble after t trees as a linear smoother f = S_t y. Its trees were chosen by looking at the same
labels, which no criterion here knows: S_t is taken as if it had been fixed, so the trace counts too few degrees of
freedom, and the criteria tend to ask for more trees than are best.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from telescoping_sklearn._estimates import Estimate
from telescoping_sklearn.boosting._leaf_telescope import LeafTelescope

CRITERIA = ("aicc", "gcv", "loo")
#: Smallest denominator, of 1, by which an error is divided: below it, rounding errors dominate.
_NOTHING_LEFT = 1e-9
#: When a criterion is infinite.
_INFINITE = {
    "aicc": "the trace of S comes within 2 of the number of rows",
    "gcv": "the trace of S reaches the number of rows",
    "loo": "a row weighs 1 or more in its own prediction (S_ii >= 1), and the shortcut says nothing",
}


@dataclass(frozen=True)
class StoppingCurve:
    """Criteria for the number of trees, by stage.

    Attributes
    ----------
    by_stage : pandas.DataFrame
        One line a stage, the start left out. Columns: ``training_mse``; ``degrees_of_freedom``, the trace of S, and
        ``degrees_of_freedom_se``, its standard error (0 where it is exact); and a column for every criterion, infinite
        where the criterion is not defined.
    chosen : dict of str to int
        The stage at which each criterion is least, among those where it is finite.
    """

    by_stage: pd.DataFrame
    chosen: dict[str, int]


def stopping_curve(telescope: LeafTelescope, criteria: Sequence[str], n_probes: Any) -> StoppingCurve:
    """Compute the criteria after every tree, boosted under squared error; see `TelescopingGBTRegressor`."""
    if isinstance(criteria, str) or not criteria or not set(criteria) <= set(CRITERIA):
        raise ValueError(f"criteria must be a sequence of one or more of {CRITERIA}, got {criteria!r}.")
    y, trained = telescope.y[telescope.trained], telescope.trained
    weights = telescope.ensemble.row_weights[trained] / telescope.ensemble.row_weights[trained].sum()
    residuals = (y - fitted[trained] for fitted in telescope.staged_reconstruction(None))
    errors, left_out, traces = [], [], []
    for residual, own in zip(residuals, _own_weights(telescope, "loo" in criteria), strict=False):
        errors.append(weights @ residual**2)
        if own is not None:
            left_out.append(weights @ _left_out(residual, own[trained]) ** 2)
            traces.append(own.sum())
    if traces and (n_probes is None or n_probes == "auto"):
        trace = Estimate(np.array(traces), np.zeros(len(traces)))
    else:
        _, trace = telescope.staged_training_summary(n_probes=n_probes)
    table = pd.DataFrame(
        {
            "training_mse": errors,
            "degrees_of_freedom": trace.value,
            "degrees_of_freedom_se": trace.standard_error,
        },
        index=pd.RangeIndex(1, telescope.n_stages + 1, name="stage"),
    )
    formulas = {"aicc": corrected_aic, "gcv": generalised_cross_validation}
    for name in criteria:
        table[name] = left_out if name == "loo" else formulas[name](np.array(errors), trace.value, len(y))
    chosen = dict(zip(criteria, map(_least, criteria, [table[name].to_numpy() for name in criteria]), strict=True))
    return StoppingCurve(table, chosen)


def _least(name: str, values: NDArray) -> int:
    """Stage at which a criterion is least, the first of equals to rounding."""
    finite = np.isfinite(values)
    remedy = "Use smaller trees or a lower learning_rate, or leave the criterion out."
    if not finite.any():
        raise ValueError(f"The criterion {name!r} is infinite after every tree: {_INFINITE[name]}. {remedy}")
    if not finite.all():
        warnings.warn(
            f"The criterion {name!r} is infinite after {np.sum(~finite)} of {len(values)} trees, first after tree "
            f"{np.argmin(finite) + 1}: {_INFINITE[name]}. Its choice is among the other trees only. {remedy}",
            stacklevel=4,  # where the user asked
        )
    values = np.where(finite, values, np.inf)
    least = values.min()
    return int(np.argmax(values <= least + 1e-9 * max(abs(least), 1e-300))) + 1


def corrected_aic(mse: NDArray, degrees_of_freedom: NDArray, n: int) -> NDArray:
    """log(mse) + 1 + 2 (df + 1) / (n - df - 2), infinite where df leaves nothing over.

    Hurvich, Simonoff and Tsai, "Smoothing parameter selection in nonparametric regression using an improved Akaike
    information criterion", JRSS B 60 (1998).
    """
    left = n - degrees_of_freedom - 2.0
    penalty = np.divide(
        2 * (degrees_of_freedom + 1), left, out=np.full_like(left, np.inf), where=left > n * _NOTHING_LEFT
    )
    with np.errstate(divide="ignore"):  # a perfect fit
        return np.where(np.isfinite(penalty), np.log(mse) + 1.0, 0.0) + penalty


def generalised_cross_validation(mse: NDArray, degrees_of_freedom: NDArray, n: int) -> NDArray:
    """Mean squared error over (1 - df / n)^2, infinite where df reaches n; Craven and Wahba (1978)."""
    share = 1.0 - degrees_of_freedom / n
    return np.divide(mse, share**2, out=np.full_like(mse, np.inf), where=share > _NOTHING_LEFT)


def _left_out(residual: NDArray, own: NDArray) -> NDArray:
    """(y - f) / (1 - S_ii), infinite where S_ii >= 1.

    It is the residual without the row for a smoother whose other weights only grow in proportion when a row goes, such
    as one leaf. In boosting the residuals and counts of later trees change too, so it is not the error of the same
    trees without the row.
    """
    return np.divide(residual, 1.0 - own, out=np.full_like(residual, np.inf), where=own < 1 - _NOTHING_LEFT)


def _own_weights(telescope: LeafTelescope, asked: bool) -> Iterator[NDArray | None]:
    if asked:
        yield from telescope.staged_own_weights()
    else:
        yield from [None] * telescope.n_stages
