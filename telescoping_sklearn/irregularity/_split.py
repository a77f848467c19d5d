"""Train/test splits: irregular rows are left out of training sets and make up a chosen share of test sets."""

from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_scalar
from sklearn.utils.validation import column_or_1d

from telescoping_sklearn.irregularity._scores import irregularity_scores


def irregular_rows(X: Any, *, score: Any = None, irregular_fraction: float = 0.1) -> NDArray[np.bool_]:
    """Mark the most irregular rows of a table.

    Parameters
    ----------
    X : DataFrame or array-like of shape (n_samples, n_features)
        Rows, as `score` accepts them.
    score : outlier detector, Pipeline or None, default=None
        Detector that scores the rows; lower scores are more irregular. A clone is fitted to `X`. None means
        :class:`PrincipalDistance`. A detector without `score_samples` must have `negative_outlier_factor_` after
        `fit`, as `LocalOutlierFactor` has. Set the seed of a randomised detector for reproducible results.
    irregular_fraction : float, default=0.1
        Share of the rows to mark, above 0 and below 1.

    Returns
    -------
    ndarray of shape (n_samples,), bool
        True for the ``round(irregular_fraction * n_samples)`` rows with the lowest scores. Ties are broken in favour
        of earlier rows.

    Raises
    ------
    TypeError
        If `score` cannot score rows, or `irregular_fraction` is not a number.
    ValueError
        If `irregular_fraction` is out of range.

    Examples
    --------
    >>> from telescoping_sklearn.irregularity import irregular_rows
    >>> irregular_rows([[0.0], [1.0], [2.0], [3.0], [50.0]], irregular_fraction=0.2)
    array([False, False, False, False,  True])
    """
    check_scalar(irregular_fraction, "irregular_fraction", Real, min_val=0, max_val=1, include_boundaries="neither")
    scores = np.asarray(irregularity_scores(X, score=score))
    mask = np.zeros(len(scores), dtype=bool)
    mask[np.argsort(scores, kind="stable")[: round(irregular_fraction * len(scores))]] = True
    return mask


def _generator(random_state: Any) -> np.random.Generator | np.random.RandomState:
    """Return a random generator; NumPy's global random state is never used."""
    if isinstance(random_state, np.random.Generator | np.random.RandomState):
        return random_state
    if random_state is None or (isinstance(random_state, int | np.integer) and random_state >= 0):
        return np.random.default_rng(None if random_state is None else int(random_state))
    raise ValueError(f"random_state={random_state!r}: give None, an integer from 0 on, a RandomState or a Generator.")


def _test_size(test_size: Any, n_irregular: int, n_regular: int) -> int:
    """Return the number of rows of a test set; raise if no row would be left for training."""
    if test_size is None:
        size = min(n_irregular, n_regular - 1)
    elif isinstance(test_size, Integral):
        size = int(check_scalar(test_size, "test_size", Integral, min_val=1))
    else:
        check_scalar(test_size, "test_size", Real, min_val=0, max_val=1, include_boundaries="neither")
        size = round(test_size * (n_irregular + n_regular))
    if size < 1:
        raise ValueError(
            f"test_size={test_size!r} gives empty test sets of {n_irregular} irregular and {n_regular} regular rows; "
            "give more rows, mark another share of them as irregular or use a larger test_size."
        )
    if size >= n_regular:
        raise ValueError(
            f"test_size={test_size!r} sets {size} regular rows aside and there are {n_regular}, so none is left for "
            "training; lower test_size or mark fewer rows as irregular."
        )
    return size


def _irregular_count(proportion: Any, size: int, n_irregular: int) -> int:
    """Return the number of irregular rows in a test set of `size` rows; raise if there are too few."""
    check_scalar(proportion, "proportion", Real, min_val=0, max_val=1)
    count = round(proportion * size)
    if count > n_irregular:
        raise ValueError(
            f"proportion={proportion} of {size} test rows needs {count} irregular rows and there are {n_irregular}; "
            "lower the proportion or test_size, or mark more rows as irregular."
        )
    return count


def mixture_test_sets(
    irregular: ArrayLike,
    proportions: Iterable[float],
    *,
    test_size: int | float | None = None,
    random_state: Any = None,
) -> tuple[NDArray[np.intp], dict[float, NDArray[np.intp]]]:
    """Draw one training set of regular rows and, for each proportion, a test set with that share of irregular rows.

    `test_size` regular rows are drawn at random for testing, and the other regular rows are the training set. For a
    given seed the training set does not depend on the proportions, so that results differ by the test sets only. The
    test sets are nested: a larger proportion keeps the irregular rows of a smaller one and replaces some of its
    regular rows.

    Parameters
    ----------
    irregular : array-like of shape (n_samples,), bool
        True for irregular rows, as returned by :func:`irregular_rows`.
    proportions : iterable of float
        Shares of irregular rows, each from 0 to 1.
    test_size : int or float, default=None
        Number of rows of each test set, or its share of all rows. None means the number of irregular rows, or all
        but one of the regular rows if these are fewer.
    random_state : int, RandomState, Generator or None, default=None
        Seed or random generator. None gives other rows at every call. NumPy's global state is not used.

    Returns
    -------
    train : ndarray of shape (n_train,), int
        Sorted positions of the training rows. All are regular.
    tests : dict of float to ndarray of shape (test_size,), int
        Sorted positions of the test rows for each proportion q; ``round(q * test_size)`` of them are irregular.

    Raises
    ------
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If a proportion or `test_size` is out of range, there are too few irregular rows for a proportion, or no
        regular row is left for training.

    Examples
    --------
    >>> import numpy as np
    >>> from telescoping_sklearn.irregularity import mixture_test_sets
    >>> irregular = np.arange(20) >= 16
    >>> train, tests = mixture_test_sets(irregular, [0.0, 0.5, 1.0], random_state=0)
    >>> len(train), {q: int(irregular[rows].sum()) for q, rows in tests.items()}
    (12, {0.0: 0, 0.5: 2, 1.0: 4})
    """
    mask = column_or_1d(irregular)
    if mask.dtype != bool:
        raise TypeError(f"irregular holds {mask.dtype} values; give a boolean mask, such as irregular_rows returns.")
    rare, regular = np.flatnonzero(mask), np.flatnonzero(~mask)
    size = _test_size(test_size, len(rare), len(regular))
    counts = {q: _irregular_count(q, size, len(rare)) for q in proportions}
    generator = _generator(random_state)
    rare, regular = generator.permutation(rare), generator.permutation(regular)
    tests = {q: np.sort(np.concatenate([rare[:count], regular[: size - count]])) for q, count in counts.items()}
    return np.sort(regular[size:]), tests


class IrregularSplit(BaseCrossValidator):
    """Cross-validator with a chosen share of irregular rows in its test sets and none in its training sets.

    The irregular rows are marked once. Each split draws its training and test rows independently, so test sets of
    different splits may overlap. For a given integer seed the training sets do not depend on `proportion`.

    Parameters
    ----------
    n_splits : int, default=5
        Number of splits, at least 1.
    proportion : float, default=0.5
        Share of irregular rows in the test sets, from 0 to 1.
    score : outlier detector, Pipeline or None, default=None
        Detector that scores the rows, as in :func:`irregular_rows`.
    irregular_fraction : float, default=0.1
        Share of all rows that are irregular, above 0 and below 1.
    test_size : int or float, default=None
        Number of rows of each test set, or its share of all rows, as in :func:`mixture_test_sets`.
    random_state : int, RandomState, Generator or None, default=None
        Seed or random generator. An integer gives the same splits at every call. NumPy's global state is not used.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import cross_val_score
    >>> from telescoping_sklearn.irregularity import IrregularSplit
    >>> X, y = load_diabetes(return_X_y=True)
    >>> cv = IrregularSplit(3, proportion=0.5, random_state=0)
    >>> [(len(train), len(test)) for train, test in cv.split(X)]
    [(354, 44), (354, 44), (354, 44)]
    >>> cross_val_score(Ridge(), X, y, cv=cv).shape
    (3,)
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        proportion: float = 0.5,
        score: Any = None,
        irregular_fraction: float = 0.1,
        test_size: int | float | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_splits = n_splits
        self.proportion = proportion
        self.score = score
        self.irregular_fraction = irregular_fraction
        self.test_size = test_size
        self.random_state = random_state

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits.

        Parameters
        ----------
        X, y, groups : object, default=None
            Ignored.

        Returns
        -------
        int
            `n_splits`.
        """
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Draw the training and test sets.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Rows, as `score` accepts them.
        y, groups : object, default=None
            Ignored.

        Returns
        -------
        iterator of tuple of two ndarray of int
            Positions of the training rows and of the test rows of each split. Some rows are in neither set.

        Raises
        ------
        TypeError
            If a parameter is of the wrong type.
        ValueError
            If a parameter is out of range, or there are too few irregular or regular rows.
        """
        check_scalar(self.n_splits, "n_splits", Integral, min_val=1)
        check_scalar(self.proportion, "proportion", Real, min_val=0, max_val=1)
        generator = _generator(self.random_state)
        mask = irregular_rows(X, score=self.score, irregular_fraction=self.irregular_fraction)
        # All splits are drawn here, so that errors are raised by this call and not while the result is iterated.
        draws = [
            mixture_test_sets(mask, [self.proportion], test_size=self.test_size, random_state=generator)
            for _ in range(self.n_splits)
        ]
        return iter([(train, tests[self.proportion]) for train, tests in draws])
