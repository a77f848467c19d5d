"""The rows that LightGBM is given, and what they must be for a fit on them to have label weights.

LightGBM keeps labels, weights and gradients in float32, and adds 1e-15 to sums of hessians. What it would lose there,
it loses in silence. Labels far from zero are centred before LightGBM sees them, under losses that allow it; all else is
refused here, before any training.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._parameters import curved_loss, follows_shifts, quantile_loss
from telescoping_sklearn.boosting._replay import ZERO_START
from telescoping_sklearn.losses import CurvedLoss, Fair

_FLOAT32, _FLOAT64 = np.finfo(np.float32), np.finfo(np.float64)
#: Labels are centred where float32 would take more than this share of the tolerance of the telescope's check: gaps were
#: up to three times what float32 takes, at a learning rate of 1.9.
_CENTRED_ABOVE = 0.25
#: Share of the labels' standard deviation that float32 may take where they cannot be centred.
_MOST_LOST = 1e-3
#: What float32 may change in a raw score: rounding is relative to a label, and raw scores are logarithms of labels.
RAW_ROUNDING = 4 * float(_FLOAT32.eps)
#: LightGBM takes leaf values of 1e-35 for zero.
_SMALLEST_LABEL = 1e-30
#: Hessian of a row beside which the 1e-15 that LightGBM adds to sums of hessians is within the telescope's tolerance.
_SMALLEST_HESSIAN = 1e-9
#: Below this weight of a leaf rounding errors of sums of hessians pass for rows, and LightGBM aborts, unless leaves
#: must hold as many rows: it counts them exactly where hessians are equal, and guesses elsewhere.
_SAFE_CHILD_WEIGHT, _SAFE_CHILD_SAMPLES, SAFE_GUESSED_SAMPLES = 1e-12, 1, 10


class Rows(NamedTuple):
    """Rows given to LightGBM; weights of None take a faster path of its own than ones."""

    X: NDArray
    y: NDArray
    sample_weight: NDArray | None

    def take(self, rows: slice | NDArray) -> "Rows":
        """Take some of the rows."""
        weights = self.sample_weight
        return Rows(self.X[rows], self.y[rows], None if weights is None else weights[rows])

    def shifted(self, shift: float) -> "Rows":
        """Take a constant off the labels."""
        return self if shift == 0 else self._replace(y=self.y - shift)

    def weighted_labels(self) -> NDArray:
        """Labels of the rows that weigh something."""
        return self.y if self.sample_weight is None else self.y[self.sample_weight > 0]


def spread_tolerance(values: NDArray) -> float:
    """Give the gap that rounding explains between two models of labels: small beside the spread of the labels.

    Parameters
    ----------
    values : ndarray
        Labels, or raw scores, of the rows trained on.

    Returns
    -------
    float
        1e-5 standard deviations, 1e-6 of the largest deviation from the mean, and the last digits of float64.
    """
    largest_deviation = np.abs(values - values.mean()).max()
    return float(1e-5 * values.std() + 1e-6 * largest_deviation + 16 * _FLOAT64.eps * np.abs(values).max())


def label_shift(params: Mapping[str, Any], rows: Rows) -> float:
    """Choose the constant that is taken off the labels before LightGBM rounds them to float32.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.
    rows : Rows
        The rows to train on.

    Returns
    -------
    float
        Their weighted mean label where rounding would cost more than a quarter of `spread_tolerance`; 0 where it would
        not, and under losses whose trees do not follow a shift of the labels.
    """
    labels = rows.weighted_labels()
    if not (follows_shifts(params) and len(labels) and _in_range(np.abs(labels).max())):  # refused later, or as it is
        return 0.0
    if lost_in_float32(labels) <= _CENTRED_ABOVE * spread_tolerance(labels):
        return 0.0
    weights = rows.sample_weight
    mean = np.average(labels, weights=None if weights is None else weights[weights > 0])
    return float(np.clip(mean, labels.min(), labels.max()))  # the mean of equal labels is that label, to the last digit


def lost_in_float32(labels: NDArray) -> float:
    """Give the largest change of a label where it is rounded to float32."""
    return float(np.abs(labels - labels.astype(np.float32)).max())


def refuse_trained(params: Mapping[str, Any], rows: Rows, shift: float) -> None:
    """Raise ValueError for rows that cannot be trained on, or not with the settings given.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.
    rows : Rows
        The rows to train on, as LightGBM is given them.
    shift : float
        What was taken off their labels.

    Raises
    ------
    ValueError
        If there are too few, their labels are not what the loss takes and starts from, their labels or weights leave
        the range of float32, bags hold no row, or the rows that LightGBM smooths by or counts in leaves cannot be
        counted.
    """
    y, weights = rows.y, np.ones(len(rows.y)) if rows.sample_weight is None else rows.sample_weight
    if len(y) < 2:
        raise ValueError(
            f"validation_fraction={params['validation_fraction']} leaves {len(y)} row to train on; boosted trees need "
            "2 or more."
        )
    _refuse_empty_bags(params, len(y))
    _refuse_zero_weights(weights, f"leaves to train on with validation_fraction={params['validation_fraction']}")
    _refuse_lost_digits(y, weights, ("y", "sample_weight"), shift)
    if not follows_shifts(params):
        _refuse_lost_spread(params["objective"], rows.weighted_labels())
    loss = curved_loss(params)
    if loss is not None and not (_covers(loss, y) and loss.accepts(y[weights > 0])):
        raise ValueError(
            f"objective={params['objective']!r} takes {loss.takes}; y runs from {y.min()} to {y.max()} on the rows "
            "trained on."
        )
    quantile = quantile_loss(params)
    if not shift and (quantile is not None or loss is None or isinstance(loss, Fair)):  # what a shift leaves is small
        start_weights = weights / weights.sum() if quantile is None else quantile.start_weights(y, rows.sample_weight)
        _refuse_lost_start(y, weights, start_weights)
    other = None
    if loss is not None:
        other = f"objective={params['objective']!r}"
    elif np.ptp(weights) > 0:
        other = "unequal sample_weight"
    if params["path_smooth"] > 0 and other is not None and quantile is None:
        raise ValueError(
            f"path_smooth={params['path_smooth']} is not supported with {other}: LightGBM then smooths by row counts "
            "that it guesses from hessians. Use path_smooth=0, or squared error and no sample_weight."
        )
    _refuse_empty_leaves(params, other)
    if isinstance(loss, Fair):
        _refuse_small_hessians(loss, params, y[weights > 0], weights[weights > 0].min())


def _refuse_empty_bags(params: Mapping[str, Any], n_rows: int) -> None:
    """Raise ValueError where LightGBM sizes its bags for no row: it makes a data set of that size and fails."""
    subsample = params["subsample"]
    if subsample < 1 and params["subsample_freq"] > 0 and int(subsample * n_rows) == 0:
        raise ValueError(
            f"subsample={subsample} of {n_rows} rows to train on leaves no row in a bag. Use subsample of at least "
            f"{1 / n_rows:.3g}, or subsample_freq=0 for no bagging."
        )


def _refuse_small_hessians(loss: Fair, params: Mapping[str, Any], y: NDArray, lightest: float) -> None:
    """Raise ValueError where hessians of Fair's loss are so small that what LightGBM adds to their sums is not."""
    spread = float(np.ptp(y))
    smallest = lightest * (loss.c / (spread + loss.c)) ** 2
    if smallest < _SMALLEST_HESSIAN:
        raise ValueError(
            f"fair_c={params['fair_c']} is too small for labels that lie up to {spread:.3g} apart: hessians of a row "
            f"become as small as {smallest:.3g}, and LightGBM adds 1e-15 to each sum of them. Use a larger fair_c, or "
            "rescale y or sample_weight."
        )


def _refuse_empty_leaves(params: Mapping[str, Any], other: str | None) -> None:
    """Raise ValueError where LightGBM cannot tell leaves from empty ones; ``other`` makes hessians unequal."""
    needed = _SAFE_CHILD_SAMPLES if other is None else SAFE_GUESSED_SAMPLES
    if params["min_child_weight"] < _SAFE_CHILD_WEIGHT and params["min_child_samples"] < needed:
        raise ValueError(
            f"min_child_weight={params['min_child_weight']} with min_child_samples={params['min_child_samples']} is "
            f"not supported{'' if other is None else f' with {other}'}: LightGBM then takes rounding errors for rows "
            f"and aborts on empty leaves. Use min_child_weight={_SAFE_CHILD_WEIGHT} or more, or "
            f"min_child_samples={needed} or more."
        )


def refuse_watched(params: Mapping[str, Any], rows: Rows, suffix: str, shift: float) -> None:
    """Raise ValueError for rows that early stopping cannot watch.

    Parameters
    ----------
    params : mapping
        Parameters of the estimator.
    rows : Rows
        The rows, as LightGBM is given them.
    suffix : str
        What the names of their labels and weights in `fit` end in: "_val", or "" for a share of the training rows.
    shift : float
        What was taken off their labels.

    Raises
    ------
    ValueError
        If their labels are not what the loss takes, they have no weight, or they leave the range of float32.
    """
    y, weights = rows.y, np.ones(len(rows.y)) if rows.sample_weight is None else rows.sample_weight
    if not suffix:  # what is given to `fit` for this is validated there
        _refuse_zero_weights(weights, f"holds out with validation_fraction={params['validation_fraction']}")
    _refuse_lost_digits(y, weights, (f"y{suffix}", f"sample_weight{suffix}"), shift)
    loss = curved_loss(params)
    if loss is not None and not _covers(loss, y):
        raise ValueError(
            f"objective={params['objective']!r} takes {loss.takes}; y{suffix} runs from {y.min()} to {y.max()} on the "
            "rows that early stopping watches."
        )


def _covers(loss: CurvedLoss, y: NDArray) -> bool:
    """Whether the loss takes every label, also as LightGBM keeps it."""
    return loss.covers(y) and loss.covers(y.astype(np.float32))


def _refuse_zero_weights(weights: NDArray, share: str) -> None:
    """Raise ValueError where a share of the training rows has no weight."""
    if not weights.any():
        raise ValueError(
            f"sample_weight is zero on all {len(weights)} rows that early stopping {share}. Give X_val instead, "
            "another validation_fraction or another random_state."
        )


def _refuse_lost_spread(objective: str, y: NDArray) -> None:
    """Raise ValueError where float32 takes much of the spread of labels that cannot be centred."""
    lost, spread = lost_in_float32(y), y.std()
    if lost > _MOST_LOST * spread and spread > 16 * _FLOAT64.eps * np.abs(y).max():
        raise ValueError(
            f"objective={objective!r} needs y as it is, and LightGBM keeps y in float32: that changes labels by up to "
            f"{lost:.3g}, where their standard deviation is {spread:.3g}. Use objective='regression', which takes the "
            "mean off y first, or labels that spread more beside their size."
        )


def _in_range(largest: float) -> bool:
    """Whether float32 holds labels up to this size, and differences of them."""
    return bool(largest == 0 or _SMALLEST_LABEL <= largest <= _FLOAT32.max / 2)


def _refuse_lost_digits(y: NDArray, weights: NDArray, names: tuple[str, str], shift: float) -> None:
    """Raise ValueError where labels or weights leave the range of float32."""
    largest, heaviest = np.abs(y).max(), weights.max()
    if not _in_range(largest):
        raise _out_of_range(names[0], y, shift)
    if 2 * max(largest, 1.0) * heaviest > _FLOAT32.max or ((weights > 0) & (weights.astype(np.float32) == 0)).any():
        raise _out_of_range(names[1], weights)


def _refuse_lost_start(y: NDArray, weights: NDArray, start_weights: NDArray) -> None:
    """Raise ValueError where LightGBM would start from zero instead of a mean or quantile that is not."""
    if spread_tolerance(y[weights > 0]) < abs(start_weights @ y) <= ZERO_START:
        raise _out_of_range("y", y)


def _out_of_range(name: str, values: NDArray, shift: float = 0.0) -> ValueError:
    sizes = np.abs(values[values != 0])
    less = f" once {shift:.6g} is taken off" if shift else ""
    return ValueError(
        f"{name} has absolute values from {sizes.min():.3g} to {sizes.max():.3g}{less}. LightGBM keeps float32 and "
        f"would lose them: rescale {name}, for example to a mean size of 1."
    )
