"""A warning for nets that learned nothing because labels or columns are in units far from those that nets work in.

Nets start with outputs of about unit size, and usual learning rates suit labels and columns of that size. A net trained
on prices keeps predicting almost zero. Its answers (no effective parameters, a kernel norm ratio of 1) look like any
other.
"""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from telescoping_sklearn.neural._training_settings import TrainingRows

#: Share of the labels' variance below which a net has learned nothing. On ten data sets of 1,000 rows in unit scale
#: the least, one of pure noise included, was -.009 after one epoch of five updates and .000 after two (Adam .001 and
#: SGD .01 with momentum .9): so units decide whether that is a fault. In raw units it was -1e16 to -.5 where training
#: failed.
LEAST_R2 = 0.01
#: What counts as about unit scale: standard deviation and mean of the labels, and root mean squares of columns.
_STDS, _LARGEST_MEAN = (0.25, 4.0), 2.0
_SIZES = (0.1, 10.0)


def warn_if_nothing_was_learned(
    predict: Callable[[NDArray], NDArray], rows: TrainingRows, loss: float | None, *, sigmoid: bool
) -> None:
    """Warn if a net explains nothing of the labels that it was trained on, and units are the likely reason.

    With several outputs, all labels count together, each in units of its own spread.

    Parameters
    ----------
    predict : callable
        Gives the net's predictions of rows; called only if the loss leaves a doubt.
    rows : TrainingRows
        The rows trained on, with weights of mean 1.
    loss : float or None
        Mean loss of the last epoch, if the net that is kept is the last one.
    sigmoid : bool
        Whether outputs lie between 0 and 1.

    Warns
    -----
    ConvergenceWarning
        With R^2, mean and standard deviation of the labels, and a line of code that scales what needs it.
    """
    labels = rows.y.reshape(len(rows.y), -1)
    means = np.average(labels, axis=0, weights=rows.weights)
    variances = np.average((labels - means) ** 2, axis=0, weights=rows.weights)
    vary = variances > 1e-24 * means**2
    if not vary.any() or (len(means) == 1 and loss is not None and 1 - 2 * loss / variances[0] >= LEAST_R2):
        return  # no variance to explain, or enough explained: the loss is half the squared error, before each update
    scale_y = not (
        _within_reach(labels[rows.weights > 0])
        if sigmoid
        else all(map(_in_unit_scale, means[vary], variances[vary] ** 0.5))
    )
    sizes = np.sqrt(np.average(rows.X**2, axis=0, weights=rows.weights))
    scale_X = bool(sizes.max() > _SIZES[1] or sizes.max() < _SIZES[0])
    if not (scale_y or scale_X):
        return
    errors = np.average((labels - predict(rows.X).reshape(labels.shape)) ** 2, axis=0, weights=rows.weights)
    r2 = 1 - float(np.mean(errors[vary] / variances[vary]))
    if r2 >= LEAST_R2:
        return
    faults = f"the labels have mean {_listed(means)} and standard deviation {_listed(variances**0.5)}"
    if scale_X:
        faults += f", and columns of X root mean squares from {sizes.min():.3g} to {sizes.max():.3g}"
    warnings.warn(
        f"The net explains nothing of the labels that it was trained on (R^2 = {r2:.3g}): {faults}, and nets are made "
        f"for {'labels from 0 to 1' if sigmoid else 'about unit scale'}. Answers about it mean little. Scale with\n"
        f"    {_remedy(scale_y, scale_X, sigmoid)}",
        ConvergenceWarning,
        stacklevel=6,  # the caller of fit, beyond its decorators
    )


def _in_unit_scale(mean: float, std: float) -> bool:
    return _STDS[0] <= std <= _STDS[1] and abs(mean) <= _LARGEST_MEAN


def _listed(values: NDArray) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _within_reach(y: NDArray) -> bool:
    return bool(y.min() >= 0 and y.max() <= 1)


def _remedy(scale_y: bool, scale_X: bool, sigmoid: bool) -> str:
    """One line of code."""
    net = "TelescopingMLPRegressor(...)"
    if scale_X:
        net = f"make_pipeline(StandardScaler(), {net})"
    if not scale_y:
        return net
    return f"TransformedTargetRegressor({net}, transformer={'MinMaxScaler' if sigmoid else 'StandardScaler'}())"
