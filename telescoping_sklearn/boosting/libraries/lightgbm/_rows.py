"""The rows that LightGBM is given, and the checks that they must pass for label weights to exist.

LightGBM keeps labels, weights and gradients in float32, and adds 1e-15 to sums of hessians. It loses digits without
warning. Labels far from zero are therefore centred before LightGBM gets them, under losses that allow it. Everything
else that it would lose is refused here, before training.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._checked import spread_tolerance
from telescoping_sklearn.boosting.libraries.lightgbm._objectives import (
    follows_shifts,
    non_quadratic_loss,
    quantile_loss,
)
from telescoping_sklearn.boosting.libraries.lightgbm._replay import ZERO_START
from telescoping_sklearn.losses import Fair, NonQuadraticLoss

_FLOAT32, _FLOAT64 = np.finfo(np.float32), np.finfo(np.float64)
#: Labels are centred where float32 would change one by more than this share of the tolerance of the telescope's check.
#: Gaps of up to three times that change were measured, at a learning rate of 1.9.
_CENTRED_ABOVE = 0.25
#: Largest change of a label by float32, in standard deviations of the labels, where they cannot be centred.
_MOST_LOST = 1e-3
#: LightGBM treats leaf values of 1e-35 as zero.
_SMALLEST_LABEL = 1e-30
#: Smallest hessian of a row for which the 1e-15 that LightGBM adds to sums of hessians is within the tolerance.
_SMALLEST_HESSIAN = 1e-9
#: With a smaller min_child_weight, LightGBM mistakes rounding errors of sums of hessians for rows, and aborts, unless
#: min_child_samples is at least the second number (equal hessians, rows counted) or the third (rows estimated).
_SAFE_CHILD_WEIGHT, _SAFE_CHILD_SAMPLES, SAFE_ESTIMATED_SAMPLES = 1e-12, 1, 10


class Rows(NamedTuple):
    """Rows given to LightGBM, which is faster with weights of None than with ones."""

    X: NDArray
    y: NDArray
    sample_weight: NDArray | None

    def take(self, rows: slice | NDArray) -> "Rows":
        """Select rows."""
        weights = self.sample_weight
        return Rows(self.X[rows], self.y[rows], None if weights is None else weights[rows])

    def shifted(self, shift: float) -> "Rows":
        """Subtract a constant from the labels."""
        return self if shift == 0 else self._replace(y=self.y - shift)

    def weighted_labels(self) -> NDArray:
        """Labels of the rows with positive weight."""
        return self.y if self.sample_weight is None else self.y[self.sample_weight > 0]


def label_shift(params: Mapping[str, Any], rows: Rows) -> float:
    """Choose the constant that is subtracted from the labels before LightGBM rounds them to float32.

    It is the weighted mean label where rounding would change a label by more than a quarter of `spread_tolerance`. It
    is 0 otherwise, and for losses whose trees depend on a shift of the labels.
    """
    labels = rows.weighted_labels()
    if not (follows_shifts(params) and len(labels) and _in_range(np.abs(labels).max())):
        return 0.0
    if lost_in_float32(labels) <= _CENTRED_ABOVE * spread_tolerance(labels):
        return 0.0
    weights = rows.sample_weight
    mean = np.average(labels, weights=None if weights is None else weights[weights > 0])
    return float(np.clip(mean, labels.min(), labels.max()))  # the mean of equal labels must be that label exactly


def lost_in_float32(labels: NDArray) -> float:
    """Return the largest change of a label by rounding to float32."""
    return float(np.abs(labels - labels.astype(np.float32)).max())


def refuse_trained(params: Mapping[str, Any], rows: Rows, shift: float) -> None:
    """Raise ValueError for rows that cannot be trained on with the settings given.

    This is so where there are too few rows, the loss does not accept the labels (from which ``shift`` was subtracted),
    labels or weights are out of the range of float32, bags would be empty, or LightGBM cannot count the rows that
    smoothing or leaves need.
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
    loss = non_quadratic_loss(params)
    if loss is not None and not (_covers(loss, y) and loss.accepts(y[weights > 0])):
        raise ValueError(
            f"objective={params['objective']!r} takes {loss.takes}; y runs from {y.min()} to {y.max()} on the rows "
            "trained on."
        )
    quantile = quantile_loss(params)
    if not shift and (quantile is not None or loss is None or isinstance(loss, Fair)):  # a shift leaves a mean near 0
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
            "that it estimates from hessians. Use path_smooth=0, or squared error and no sample_weight."
        )
    _refuse_empty_leaves(params, other)
    if isinstance(loss, Fair):
        _refuse_small_hessians(loss, params, y[weights > 0], weights[weights > 0].min())


def _refuse_empty_bags(params: Mapping[str, Any], n_rows: int) -> None:
    """Raise ValueError where bags would be empty: LightGBM fails on them."""
    subsample = params["subsample"]
    if subsample < 1 and params["subsample_freq"] > 0 and int(subsample * n_rows) == 0:
        raise ValueError(
            f"subsample={subsample} of {n_rows} rows to train on leaves no row in a bag. Use subsample of at least "
            f"{1 / n_rows:.3g}, or subsample_freq=0 for no bagging."
        )


def _refuse_small_hessians(loss: Fair, params: Mapping[str, Any], y: NDArray, lightest: float) -> None:
    """Raise ValueError where hessians of Fair's loss are not large beside what LightGBM adds to their sums."""
    label_range = float(np.ptp(y))
    smallest = lightest * (loss.c / (label_range + loss.c)) ** 2
    if smallest < _SMALLEST_HESSIAN:
        raise ValueError(
            f"fair_c={params['fair_c']} is too small for labels that differ by up to {label_range:.3g}: hessians of a "
            f"row become as small as {smallest:.3g}, and LightGBM adds 1e-15 to each sum of them. Use a larger fair_c, "
            "or rescale y or sample_weight."
        )


def _refuse_empty_leaves(params: Mapping[str, Any], other: str | None) -> None:
    """Raise ValueError where LightGBM may make empty leaves; ``other`` says what makes hessians unequal."""
    needed = _SAFE_CHILD_SAMPLES if other is None else SAFE_ESTIMATED_SAMPLES
    if params["min_child_weight"] < _SAFE_CHILD_WEIGHT and params["min_child_samples"] < needed:
        raise ValueError(
            f"min_child_weight={params['min_child_weight']} with min_child_samples={params['min_child_samples']} is "
            f"not supported{'' if other is None else f' with {other}'}: LightGBM then mistakes rounding errors for "
            f"rows and aborts on empty leaves. Use min_child_weight={_SAFE_CHILD_WEIGHT} or more, or "
            f"min_child_samples={needed} or more."
        )


def refuse_validation(params: Mapping[str, Any], rows: Rows, suffix: str, shift: float) -> None:
    """Raise ValueError for validation rows whose labels, weights or range LightGBM or the loss does not accept.

    ``suffix`` ends the names of their labels and weights in `fit`: "_val", or "" for a share of the training rows.
    """
    y, weights = rows.y, np.ones(len(rows.y)) if rows.sample_weight is None else rows.sample_weight
    if not suffix:  # weights given for validation rows are checked by `fit`
        _refuse_zero_weights(weights, f"holds out with validation_fraction={params['validation_fraction']}")
    _refuse_lost_digits(y, weights, (f"y{suffix}", f"sample_weight{suffix}"), shift)
    loss = non_quadratic_loss(params)
    if loss is not None and not _covers(loss, y):
        raise ValueError(
            f"objective={params['objective']!r} takes {loss.takes}; y{suffix} runs from {y.min()} to {y.max()} on the "
            "validation rows."
        )


def _covers(loss: NonQuadraticLoss, y: NDArray) -> bool:
    """Whether the loss accepts every label, also in float32."""
    return loss.covers(y) and loss.covers(y.astype(np.float32))


def _refuse_zero_weights(weights: NDArray, share: str) -> None:
    """Raise ValueError where all rows of a share of the training rows have weight zero."""
    if not weights.any():
        raise ValueError(
            f"sample_weight is zero on all {len(weights)} rows that early stopping {share}. Give X_val instead, "
            "another validation_fraction or another random_state."
        )


def _refuse_lost_spread(objective: str, y: NDArray) -> None:
    """Raise ValueError where float32 would lose much of the spread of labels that cannot be centred."""
    lost, std = lost_in_float32(y), y.std()
    if lost > _MOST_LOST * std and std > 16 * _FLOAT64.eps * np.abs(y).max():
        raise ValueError(
            f"objective={objective!r} allows no shift of y, and LightGBM keeps y in float32: that changes labels by up "
            f"to {lost:.3g}, and their standard deviation is {std:.3g}. Use objective='regression', which "
            "subtracts the mean of y first, or labels with a larger spread relative to their size."
        )


def _in_range(largest: float) -> bool:
    """Whether float32 can represent labels up to this size, and their differences."""
    return bool(largest == 0 or _SMALLEST_LABEL <= largest <= _FLOAT32.max / 2)


def _refuse_lost_digits(y: NDArray, weights: NDArray, names: tuple[str, str], shift: float) -> None:
    """Raise ValueError where labels or weights are out of the range of float32."""
    largest, heaviest = np.abs(y).max(), weights.max()
    if not _in_range(largest):
        raise _out_of_range(names[0], y, shift)
    if 2 * max(largest, 1.0) * heaviest > _FLOAT32.max or ((weights > 0) & (weights.astype(np.float32) == 0)).any():
        raise _out_of_range(names[1], weights)


def _refuse_lost_start(y: NDArray, weights: NDArray, start_weights: NDArray) -> None:
    """Raise ValueError where LightGBM would start from zero although the mean or quantile is not zero."""
    if spread_tolerance(y[weights > 0]) < abs(start_weights @ y) <= ZERO_START:
        raise _out_of_range("y", y)


def _out_of_range(name: str, values: NDArray, shift: float = 0.0) -> ValueError:
    sizes = np.abs(values[values != 0])
    less = f" after subtracting {shift:.6g}" if shift else ""
    return ValueError(
        f"{name} has absolute values from {sizes.min():.3g} to {sizes.max():.3g}{less}, and LightGBM's float32 would "
        f"lose some of them. Rescale {name}, for example to a mean size of 1."
    )
