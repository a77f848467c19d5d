"""Measures of attribution scores: how well scores of training rows predict what training without them would give.

Scores are arrays of shape (n_query, n_train). Entry (q, i) estimates how much higher the prediction at query row q is
because training row i was there. Every measure can give its value for each query row (or mislabelled row), which the
bootstrap draws from.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata


class Interval(NamedTuple):
    """A mean and its bootstrap interval.

    Attributes
    ----------
    mean : float
        Mean over all values.
    low, high : float
        Ends of the interval.
    """

    mean: float
    low: float
    high: float


def draw_subsets(n_train: int, share: float, n_subsets: int, seed: int) -> NDArray[np.bool_]:
    """Draw random subsets of the training rows, all of the same size.

    Parameters
    ----------
    n_train : int
        Number of training rows.
    share : float
        Share of the rows that a subset keeps, between 0 and 1.
    n_subsets : int
        Number of subsets.
    seed : int
        Seed of the draws.

    Returns
    -------
    ndarray of bool of shape (n_subsets, n_train)
        Rows that each subset keeps.

    Raises
    ------
    ValueError
        If the subsets would keep no row or all rows.

    Examples
    --------
    >>> draw_subsets(10, 0.5, 3, seed=0).sum(axis=1)
    array([5, 5, 5])
    """
    if not (isinstance(share, Real) and 0 < share < 1 and 0 < round(share * n_train) < n_train):
        raise ValueError(
            f"share={share!r} of {n_train} rows must keep at least one row and leave at least one out. Give a share "
            "between 0 and 1."
        )
    if not isinstance(n_subsets, Integral) or n_subsets < 1:
        raise ValueError(f"n_subsets={n_subsets!r} must be an int of at least 1.")
    order = np.random.default_rng(seed).random((n_subsets, n_train)).argsort(axis=1)
    return order < round(share * n_train)


def linear_datamodeling_score(
    predictions: ArrayLike, scores: ArrayLike, subsets: ArrayLike, *, average: bool = True
) -> Any:
    """Correlate what scores of subsets predict with the predictions of models trained on these subsets.

    For each query row, the Spearman correlation over the subsets between the sum of scores of the rows kept and the
    prediction of the model trained on them alone.

    Parameters
    ----------
    predictions : array-like of shape (n_subsets, n_query)
        Predictions of the models trained on each subset.
    scores : array-like of shape (n_query, n_train)
        Scores of the training rows.
    subsets : array-like of bool of shape (n_subsets, n_train)
        Rows that each subset keeps.
    average : bool, default=True
        Whether to return the mean over query rows instead of a value for each.

    Returns
    -------
    float or ndarray of shape (n_query,)
        The correlation: 0 where all sums of scores are equal, NaN for a query row whose predictions are all equal. The
        mean leaves these rows out.

    Raises
    ------
    ValueError
        If shapes do not agree or a number is not finite.

    References
    ----------
    S. M. Park, K. Georgiev, A. Ilyas, G. Leclerc, A. Madry. "TRAK: Attributing Model Behavior at Scale". ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> subsets = draw_subsets(20, 0.5, 30, seed=0)
    >>> scores = np.random.default_rng(0).normal(size=(4, 20))
    >>> float(linear_datamodeling_score(subsets @ scores.T, scores, subsets))
    1.0
    """
    kept = np.asarray(subsets)
    if kept.dtype != bool:
        raise ValueError(f"subsets must be an array of bool, a row for each subset, got {kept.dtype}.")
    scores = _finite("scores", scores)
    if kept.ndim != 2 or kept.shape[1] != scores.shape[1]:
        raise ValueError(f"subsets has shape {kept.shape}; it needs a column for each of {scores.shape[1]} rows.")
    # the last bits of a product differ between equal rows: equal subsets are summed once, so that they tie
    distinct, position = np.unique(kept, axis=0, return_inverse=True)
    sums = (distinct @ scores.T)[position.reshape(-1)]
    return _rank_correlations(_of_models(predictions, sums), sums, average)


def leave_one_out_correlation(
    predictions: ArrayLike, scores: ArrayLike, left_out: ArrayLike, *, average: bool = True
) -> Any:
    """Correlate scores with the predictions of models that were each trained without one row.

    For each query row, the Spearman correlation over the rows left out between their scores and how much lower the
    prediction is without them.

    Parameters
    ----------
    predictions : array-like of shape (n_left_out, n_query)
        Predictions of the models trained without each of the rows.
    scores : array-like of shape (n_query, n_train)
        Scores of the training rows.
    left_out : array-like of int of shape (n_left_out,)
        The row that each model was trained without.
    average : bool, default=True
        Whether to return the mean over query rows instead of a value for each.

    Returns
    -------
    float or ndarray of shape (n_query,)
        The correlation; see `linear_datamodeling_score` for values that do not vary.

    Raises
    ------
    ValueError
        If shapes do not agree or a number is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.array([[3.0, -1.0, 2.0]])
    >>> without = np.array([[7.0], [11.0], [8.0]])  # the prediction with all rows is 10
    >>> float(leave_one_out_correlation(without, scores, [0, 1, 2]))
    1.0
    """
    scores = _finite("scores", scores)
    rows = np.asarray(left_out)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not ((rows >= 0) & (rows < scores.shape[1])).all():
        raise ValueError(f"left_out must hold row numbers between 0 and {scores.shape[1] - 1}, got {left_out!r}.")
    expected = -scores[:, rows].T
    return _rank_correlations(_of_models(predictions, expected), expected, average)


def mislabel_auc(self_influence: ArrayLike, mislabelled: ArrayLike, *, average: bool = True) -> Any:
    """Area under the ROC curve of finding mislabelled rows by a score of suspicion, such as self-influence.

    Parameters
    ----------
    self_influence : array-like of shape (n_train,)
        Suspicion of each training row; the most suspicious are inspected first.
    mislabelled : array-like of bool of shape (n_train,)
        Rows whose label was replaced.
    average : bool, default=True
        Whether to return the area instead of the share of correct rows that each mislabelled row is above; ties count
        one half, and the area is their mean.

    Returns
    -------
    float or ndarray of shape (n_mislabelled,)
        The area: 1 if all mislabelled rows come first, about 0.5 for a random order.

    Raises
    ------
    ValueError
        If shapes do not agree, a number is not finite, or all rows or none are mislabelled.

    Examples
    --------
    >>> float(mislabel_auc([0.1, 0.9, 0.3, 0.2], [False, True, False, True]))
    0.75
    """
    suspicion, wrong = np.asarray(self_influence, dtype=np.float64), np.asarray(mislabelled)
    if suspicion.ndim != 1 or not np.isfinite(suspicion).all():
        raise ValueError("self_influence must be a one-dimensional array of finite numbers, one for each training row.")
    if wrong.dtype != bool or wrong.shape != suspicion.shape:
        raise ValueError(
            f"mislabelled must be an array of bool for {len(suspicion)} rows, got {wrong.dtype} of shape {wrong.shape}."
        )
    if wrong.all() or not wrong.any():
        marked = "all" if wrong.any() else "none"
        raise ValueError(f"mislabelled must mark some rows and leave some, and it marks {marked}.")
    correct = np.sort(suspicion[~wrong])
    below = np.searchsorted(correct, suspicion[wrong], side="left")
    up_to = np.searchsorted(correct, suspicion[wrong], side="right")
    shares = (below + up_to) / (2 * len(correct))
    return float(shares.mean()) if average else shares


def removed_rows(scores: ArrayLike, shares: Sequence[float]) -> NDArray[np.bool_]:
    """Rows to remove for a removal curve: those that raise a prediction the most, by its scores.

    Parameters
    ----------
    scores : array-like of shape (n_train,)
        Scores of the training rows for one query row.
    shares : sequence of float
        Shares of the training rows to remove; at least one row is removed.

    Returns
    -------
    ndarray of bool of shape (n_shares, n_train)
        Rows to remove for each share, those with the largest scores.

    Raises
    ------
    ValueError
        If a share is not between 0 and 1.

    Examples
    --------
    >>> removed_rows([0.2, 3.0, -1.0, 1.0], [0.25, 0.5]).astype(int)
    array([[0, 1, 0, 0],
           [0, 1, 0, 1]])
    """
    if not all(isinstance(share, Real) and 0 < share < 1 for share in shares):
        raise ValueError(f"shares={list(shares)!r} must lie between 0 and 1: they are shares of the training rows.")
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = np.arange(len(order))
    return np.stack([rank < max(1, round(share * len(order))) for share in shares])


def bootstrap_interval(
    values: Sequence[ArrayLike], *, level: float = 0.95, n_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean and percentile interval of values by seed; seeds are drawn again, and the rows within each of them.

    Parameters
    ----------
    values : sequence of array-like of shape (n_rows,)
        Values of the rows of each seed; NaN is left out. For a difference of two scores, give the differences by row.
    level : float, default=0.95
        Coverage of the interval.
    n_resamples : int, default=2000
        Number of bootstrap samples.
    seed : int, default=0
        Seed of the draws.

    Returns
    -------
    Interval
        The mean of the seeds' means, and its interval.

    Raises
    ------
    ValueError
        If a seed has no value, or `level` is not between 0 and 1.

    Notes
    -----
    With few seeds the interval covers too little of what differs between them. It does not cover what would change with
    other subsets of the training rows.

    Examples
    --------
    >>> bootstrap_interval([[0.5, 0.5], [0.5, 0.5]])
    Interval(mean=0.5, low=0.5, high=0.5)
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level!r} must lie between 0 and 1.")
    by_seed = [np.asarray(rows, dtype=np.float64) for rows in values]
    by_seed = [rows[~np.isnan(rows)] for rows in by_seed]
    if not by_seed or not all(len(rows) for rows in by_seed):
        raise ValueError("values must hold at least one number for each seed, got a seed without any.")
    rng = np.random.default_rng(seed)
    shape = (len(by_seed), n_resamples)
    means = np.stack([rng.choice(rows, size=(*shape, len(rows))).mean(axis=-1) for rows in by_seed])
    drawn = np.take_along_axis(means, rng.integers(len(by_seed), size=(1, *shape)), axis=0)[0]
    ends = np.quantile(drawn.mean(axis=0), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean([rows.mean() for rows in by_seed])), float(ends[0]), float(ends[1]))


def _finite(name: str, array: ArrayLike) -> NDArray:
    found = np.asarray(array, dtype=np.float64)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise ValueError(f"{name} must be a two-dimensional array of finite numbers, got shape {found.shape}.")
    return found


def _of_models(predictions: ArrayLike, expected: NDArray) -> NDArray:
    found = _finite("predictions", predictions)
    if found.shape != expected.shape:
        raise ValueError(
            f"predictions has shape {found.shape}; {len(expected)} models and {expected.shape[1]} query rows are "
            f"expected, a row for each model: {expected.shape}."
        )
    return found


def _rank_correlations(observed: NDArray, expected: NDArray, average: bool) -> Any:
    """Spearman correlations over the rows of two arrays, one for each column."""
    a, b = (rankdata(array, axis=0) - (len(array) + 1) / 2 for array in (observed, expected))
    norms = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))
    found = np.where(norms > 0, (a * b).sum(axis=0) / np.where(norms > 0, norms, 1.0), 0.0)
    found[~a.any(axis=0)] = np.nan
    if not average:
        return found
    return math.nan if np.isnan(found).all() else float(np.nanmean(found))
