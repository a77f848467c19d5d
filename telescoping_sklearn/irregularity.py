"""How unlike the rest a row is, and how test sets are filled with such rows.

A model that predicts by weighting its training labels can be asked two questions: how it does on rows like
those it was trained on, and how it does on rows that are not. This module owns the second question. A score
says how irregular a row is, the most irregular rows are marked, training never sees them, and test sets are
composed of regular and irregular rows in a chosen proportion.

Lower scores are more irregular, as everywhere in scikit-learn.
"""

import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pandas.api import types
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, OutlierMixin, TransformerMixin, clone, is_outlier_detector
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.model_selection import BaseCrossValidator
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import check_scalar, get_tags
from sklearn.utils.validation import (
    _check_feature_names_in,
    check_array,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

__all__ = [
    "FirstComponentDeviation",
    "IrregularSplit",
    "PrincipalDistance",
    "SkewedLog1p",
    "TabularPreparation",
    "irregular_rows",
    "irregularity_scores",
    "mixture_test_sets",
]


class SkewedLog1p(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Take log(1 + x) of the columns whose training values are non-negative and skewed to the right.

    Other columns pass through unchanged. A value below 0 that reaches a logged column after training counts as 0,
    so that no row yields NaN or minus infinity.

    Parameters
    ----------
    skew_threshold : float, default=1.0
        A column is logged when its training skewness (adjusted Fisher-Pearson, missing values left out) exceeds this.

    Attributes
    ----------
    logged_ : ndarray of shape (n_features,), bool
        Which columns are logged.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns seen in `fit`, when `X` was a DataFrame.

    Examples
    --------
    >>> import numpy as np
    >>> from telescoping_sklearn.irregularity import SkewedLog1p
    >>> X = np.array([[0.0, 1.0], [1.0, 2.0], [0.0, 3.0], [99.0, 4.0]])
    >>> log = SkewedLog1p().fit(X)
    >>> log.logged_
    array([ True, False])
    >>> log.transform([[-5.0, -5.0]])
    array([[ 0., -5.]])
    """

    def __init__(self, *, skew_threshold: float = 1.0) -> None:
        self.skew_threshold = skew_threshold

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that missing values and both floating types are taken as they are."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _validated(self, X: Any, *, reset: bool) -> NDArray[np.floating]:
        return validate_data(
            self, X, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan", copy=not reset, reset=reset
        )

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Find the columns to log.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Numeric training rows; NaN allowed.
        y : object, default=None
            Ignored.

        Returns
        -------
        SkewedLog1p
            The fitted transformer.

        Raises
        ------
        TypeError
            If `skew_threshold` is not a number.
        ValueError
            If `X` is not a numeric table.
        """
        check_scalar(self.skew_threshold, "skew_threshold", Real)
        columns = pd.DataFrame(self._validated(X, reset=True))
        self.logged_ = ((columns.skew() > self.skew_threshold) & (columns.min() >= 0)).to_numpy()
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Log the columns found in `fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Numeric rows; NaN stays NaN.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            A copy of `X` with the skewed columns logged, their values below 0 taken as 0.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` was not called.
        ValueError
            If `X` is not a numeric table with the columns of `fit`.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        X[:, self.logged_] = np.log1p(np.maximum(X[:, self.logged_], 0))
        return X


def _validated_table(estimator: BaseEstimator, X: Any, *, reset: bool) -> Any:
    """Check `X` on behalf of `estimator`; a DataFrame keeps the types of its columns."""
    if isinstance(X, pd.DataFrame):
        validate_data(estimator, X, skip_check_array=True, reset=reset)
        return X
    return validate_data(estimator, X, dtype=None, ensure_all_finite="allow-nan", reset=reset)


class TabularPreparation(TransformerMixin, BaseEstimator):
    """Turn a raw table into finite numbers of comparable size.

    Numeric columns: missing values become the training median, right-skewed non-negative columns are logged
    (:class:`SkewedLog1p`), then each is standardised; a constant column becomes 0. All other columns (text,
    categories, booleans) are one-hot encoded, a missing value counting as a category of its own; two-valued columns
    yield one 0/1 column. A category not seen in training is encoded as zeros and never an error or a warning.
    The numeric columns come first in the output.

    Parameters
    ----------
    one_hot_max_categories : int, default=None
        Most one-hot columns for one input column: the rarest categories share the last of them. None sets no limit.
    missing_indicator : bool, default=False
        Whether every numeric column with missing training values gains a column that says where they were.

    Attributes
    ----------
    columns_ : sklearn.compose.ColumnTransformer
        The fitted transformers of the numeric and the categorical columns.
    categorical_ : list of int
        Positions of the columns that are one-hot encoded.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns seen in `fit`, when `X` was a DataFrame.

    Examples
    --------
    >>> import pandas as pd
    >>> from telescoping_sklearn.irregularity import TabularPreparation
    >>> X = pd.DataFrame({"rooms": [4.0, None, 8.0], "wall": ["wood", "brick", "stone"]})
    >>> preparation = TabularPreparation().fit(X)
    >>> preparation.get_feature_names_out()
    array(['rooms', 'wall_brick', 'wall_stone', 'wall_wood'], dtype=object)
    >>> preparation.transform(pd.DataFrame({"rooms": [6.0], "wall": ["straw"]}))
    array([[0., 0., 0., 0.]])
    """

    def __init__(self, *, one_hot_max_categories: int | None = None, missing_indicator: bool = False) -> None:
        self.one_hot_max_categories = one_hot_max_categories
        self.missing_indicator = missing_indicator

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that missing values and categories are taken as they are."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags

    def _table(self, X: Any, *, reset: bool) -> pd.DataFrame:
        """Return `X` as a DataFrame with columns 0, 1, ..., categories as plain objects and one missing value."""
        X = _validated_table(self, X, reset=reset)
        # An array of objects may hold columns of numbers, which pandas finds.
        frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(X).infer_objects()
        frame = frame.set_axis(range(frame.shape[1]), axis=1)
        if reset:
            self.categorical_ = _categorical_columns(frame)
        frame = frame.astype({column: object for column in self.categorical_})
        chosen = frame[self.categorical_]
        # The encoder knows NaN and None but not pandas' own NA.
        frame[self.categorical_] = chosen.where(chosen.notna(), np.nan)
        return frame

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn medians, logged columns, scales and categories.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Raw training rows.
        y : object, default=None
            Ignored.

        Returns
        -------
        TabularPreparation
            The fitted transformer.

        Raises
        ------
        TypeError
            If `one_hot_max_categories` is neither None nor an integer, `missing_indicator` is not a bool, or a column
            holds dates, durations or values of mixed kinds.
        ValueError
            If `one_hot_max_categories` is below 1 or `X` is not a table.
        """
        if self.one_hot_max_categories is not None:
            check_scalar(self.one_hot_max_categories, "one_hot_max_categories", Integral, min_val=1)
        check_scalar(self.missing_indicator, "missing_indicator", bool)
        frame = self._table(X, reset=True)
        numeric = [column for column in frame.columns if column not in self.categorical_]
        encoder = OneHotEncoder(
            handle_unknown="ignore",
            sparse_output=False,
            drop="if_binary",
            max_categories=self.one_hot_max_categories,
        )
        scaled = make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True, add_indicator=self.missing_indicator),
            SkewedLog1p(),
            StandardScaler(),
        )
        self.columns_ = ColumnTransformer(
            [("numeric", scaled, numeric), ("categorical", encoder, self.categorical_)],
            verbose_feature_names_out=False,
        ).set_output(transform="default")
        self.columns_.fit(frame)
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Prepare rows.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Raw rows with the columns of `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_prepared)
            Finite numbers; their names are those of `get_feature_names_out`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` was not called.
        ValueError
            If the columns are not those of `fit`.
        """
        check_is_fitted(self)
        frame = self._table(X, reset=False)
        with warnings.catch_warnings():
            # Zeros for an unknown category are what this class promises.
            warnings.filterwarnings("ignore", message="Found unknown categories", category=UserWarning)
            return self.columns_.transform(frame)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Name the prepared columns.

        Parameters
        ----------
        input_features : array-like of str of shape (n_features,), default=None
            Names of the raw columns. None means those seen in `fit`, or x0, x1, ... when there were none.

        Returns
        -------
        ndarray of str of shape (n_prepared,)
            The names.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` was not called.
        ValueError
            If `input_features` are not the names seen in `fit`.
        """
        check_is_fitted(self)
        return self.columns_.get_feature_names_out(_check_feature_names_in(self, input_features))


def _categorical_columns(frame: pd.DataFrame) -> list[int]:
    """Positions of the columns that hold no numbers; dates and durations are refused."""
    kinds = list(frame.dtypes)
    times = [column for column, kind in enumerate(kinds) if kind.kind in "mM" or isinstance(kind, pd.PeriodDtype)]
    if times:
        raise TypeError(f"X: the columns at {times} hold times; give them as numbers, such as days since a date.")
    return [
        column for column, kind in enumerate(kinds) if types.is_bool_dtype(kind) or not types.is_numeric_dtype(kind)
    ]


class _PrincipalDetector(OutlierMixin, BaseEstimator, metaclass=ABCMeta):
    """Outlier detector that scores prepared rows by their principal components.

    A subclass says how many components it keeps, what it remembers of the training components and how far from
    regular a row with given components is.
    """

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that the default preparation takes missing values and categories."""
        tags = super().__sklearn_tags__()
        # Whether another preparation fills missing values in or hands them on is not known.
        if isinstance(self.preparation, str):
            tags.input_tags = get_tags(TabularPreparation()).input_tags
        return tags

    @abstractmethod
    def _n_components(self) -> float | int | None:
        """Say what PCA keeps; raise when a parameter is wrong."""

    @abstractmethod
    def _remember(self, components: NDArray[np.float64]) -> None:
        """Keep what `_irregularity` needs of the training rows' components."""

    @abstractmethod
    def _irregularity(self, components: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far from regular rows with these components are; shape (n_samples,)."""

    def _prepared(self, X: Any) -> NDArray[np.float64]:
        """Check rows against `fit` and prepare them."""
        if self.preparation_ is None:
            return validate_data(self, X, dtype=np.float64, reset=False)
        return self.preparation_.transform(_validated_table(self, X, reset=False))

    def _fit_preparation(self, X: Any) -> NDArray[np.float64]:
        """Fit the preparation and return the prepared training rows."""
        if self.preparation is None:
            self.preparation_ = None
            return validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        preparation = TabularPreparation() if isinstance(self.preparation, str) else clone(self.preparation)
        X = _validated_table(self, X, reset=True)
        self.preparation_ = preparation.fit(X)
        return check_array(self.preparation_.transform(X), dtype=np.float64, ensure_min_samples=2)

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the preparation, the components and the score below which a row is an outlier.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Training rows.
        y : object, default=None
            Ignored.

        Returns
        -------
        object
            The fitted detector.

        Raises
        ------
        TypeError
            If a parameter is of the wrong type.
        ValueError
            If a parameter is out of range, or `X` is not a table of at least two rows.
        """
        check_scalar(self.contamination, "contamination", Real, min_val=0, max_val=0.5, include_boundaries="right")
        _check_preparation(self.preparation)
        n_components = self._n_components()
        prepared = self._fit_preparation(X)
        # Without any variance the share each component explains is 0 / 0; the distances are still 0.
        with np.errstate(invalid="ignore"):
            self.pca_ = PCA(n_components, svd_solver="full").fit(prepared)
        components = self.pca_.transform(prepared)
        self._remember(components)
        self.offset_ = np.quantile(-self._irregularity(components), self.contamination)
        return self

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Score rows; the lower, the more irregular.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            The scores, at most 0.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` was not called.
        ValueError
            If the columns are not those of `fit`.
        """
        check_is_fitted(self)
        return -self._irregularity(self.pca_.transform(self._prepared(X)))

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Score rows so that outliers are negative.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            ``score_samples(X) - offset_``.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` was not called.
        ValueError
            If the columns are not those of `fit`.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int_]:
        """Tell inliers from outliers.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,), int
            1 for inliers, -1 for outliers.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If `fit` was not called.
        ValueError
            If the columns are not those of `fit`.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)


def _check_preparation(preparation: Any) -> None:
    """Refuse what is neither "default", None nor a transformer."""
    if preparation is None or (isinstance(preparation, str) and preparation == "default"):
        return
    if isinstance(preparation, str):
        raise ValueError(f'preparation={preparation!r}: give "default", None or a transformer.')
    if isinstance(preparation, type) or not (hasattr(preparation, "fit") and hasattr(preparation, "transform")):
        raise TypeError(f'preparation={preparation!r}: give "default", None or an unfitted transformer instance.')


class PrincipalDistance(_PrincipalDetector):
    """Outlier detector: distance from the centroid along the leading principal components.

    The components are not whitened, so a direction counts by how much the data vary along it.

    Parameters
    ----------
    variance : float, default=0.95
        Share of the variance that the kept components explain, above 0 and at most 1.
    contamination : float, default=0.1
        Share of the training rows to call outliers, above 0 and at most 0.5.
    preparation : "default", None or transformer, default="default"
        What turns rows into numbers: a :class:`TabularPreparation`, nothing (`X` must be numeric and finite), or a
        transformer, of which a clone is fitted.

    Attributes
    ----------
    preparation_ : transformer or None
        The fitted preparation.
    pca_ : sklearn.decomposition.PCA
        The fitted components.
    offset_ : float
        Score below which a row is an outlier: the `contamination` quantile of the training scores.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns seen in `fit`, when `X` was a DataFrame.

    Examples
    --------
    >>> import numpy as np
    >>> from telescoping_sklearn.irregularity import PrincipalDistance
    >>> X = np.random.default_rng(0).normal(size=(50, 3))
    >>> detector = PrincipalDistance(preparation=None).fit(X)
    >>> detector.predict([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    array([ 1, -1])
    """

    def __init__(self, *, variance: float = 0.95, contamination: float = 0.1, preparation: Any = "default") -> None:
        self.variance = variance
        self.contamination = contamination
        self.preparation = preparation

    def _n_components(self) -> float | None:
        check_scalar(self.variance, "variance", Real, min_val=0, max_val=1, include_boundaries="right")
        # PCA reads the number 1 as one component.
        return None if self.variance == 1 else float(self.variance)

    def _remember(self, components: NDArray[np.float64]) -> None:
        """Nothing to keep: the components are centred on the centroid."""

    def _irregularity(self, components: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.linalg.norm(components, axis=1)


class FirstComponentDeviation(_PrincipalDetector):
    """Outlier detector: how far the first principal component is from its training median.

    Parameters
    ----------
    contamination : float, default=0.1
        Share of the training rows to call outliers, above 0 and at most 0.5.
    preparation : "default", None or transformer, default="default"
        What turns rows into numbers: a :class:`TabularPreparation`, nothing (`X` must be numeric and finite), or a
        transformer, of which a clone is fitted.

    Attributes
    ----------
    preparation_ : transformer or None
        The fitted preparation.
    pca_ : sklearn.decomposition.PCA
        The fitted component.
    median_ : float
        Median of the training rows' first component.
    offset_ : float
        Score below which a row is an outlier: the `contamination` quantile of the training scores.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns seen in `fit`, when `X` was a DataFrame.

    Examples
    --------
    >>> import numpy as np
    >>> from telescoping_sklearn.irregularity import FirstComponentDeviation
    >>> X = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [9.0, 9.0]])
    >>> FirstComponentDeviation(preparation=None).fit(X).score_samples(X) / np.sqrt(2)
    array([-1.5, -0.5, -0.5, -7.5])
    """

    def __init__(self, *, contamination: float = 0.1, preparation: Any = "default") -> None:
        self.contamination = contamination
        self.preparation = preparation

    def _n_components(self) -> int:
        return 1

    def _remember(self, components: NDArray[np.float64]) -> None:
        self.median_ = np.median(components[:, 0])

    def _irregularity(self, components: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.abs(components[:, 0] - self.median_)


def _detector(score: Any) -> Any:
    """Return an unfitted detector for the parameter `score`."""
    if score is None:
        return PrincipalDistance()
    estimator = hasattr(score, "fit") and hasattr(score, "get_params") and not isinstance(score, type)
    if estimator and (hasattr(score, "score_samples") or is_outlier_detector(score)):
        return clone(score)
    raise TypeError(_score_message(score))


def _score_message(score: Any) -> str:
    return (
        f"score={score!r} scores no rows: give None, an outlier detector with score_samples or "
        "negative_outlier_factor_ (an instance, not a class), or a Pipeline that ends in one."
    )


def irregularity_scores(X: Any, *, score: Any = None) -> NDArray[np.float64]:
    """Score the rows of a table; the lower, the more irregular.

    Parameters
    ----------
    X : DataFrame or array-like of shape (n_samples, n_features)
        Rows, in the form that `score` takes.
    score : outlier detector, Pipeline or None, default=None
        As in :func:`irregular_rows`.

    Returns
    -------
    ndarray of shape (n_samples,)
        Scores of the rows that a clone of `score` was fitted to.

    Raises
    ------
    TypeError
        If `score` scores no rows.

    Examples
    --------
    >>> from telescoping_sklearn.irregularity import irregularity_scores
    >>> irregularity_scores([[0.0], [1.0], [2.0], [3.0], [50.0]]).argmin()
    np.int64(4)
    """
    detector = _detector(score).fit(X)
    last = detector.steps[-1][1] if isinstance(detector, Pipeline) else detector
    # A local outlier factor scores training rows only this way: score_samples would count a row as its own neighbour.
    if hasattr(last, "negative_outlier_factor_"):
        return last.negative_outlier_factor_
    if hasattr(detector, "score_samples"):
        return detector.score_samples(X)
    raise TypeError(_score_message(score))


def irregular_rows(X: Any, *, score: Any = None, irregular_fraction: float = 0.1) -> NDArray[np.bool_]:
    """Mark the most irregular rows of a table.

    Parameters
    ----------
    X : DataFrame or array-like of shape (n_samples, n_features)
        Rows, in the form that `score` takes.
    score : outlier detector, Pipeline or None, default=None
        What scores the rows; lower is more irregular. A clone is fitted to `X`. None means
        :class:`PrincipalDistance`. A detector without `score_samples` must have `negative_outlier_factor_` once
        fitted, as `LocalOutlierFactor` has. A detector that draws at random needs its own seed to mark the same
        rows again.
    irregular_fraction : float, default=0.1
        Share of the rows to mark, above 0 and below 1.

    Returns
    -------
    ndarray of shape (n_samples,), bool
        True for the ``round(irregular_fraction * n_samples)`` rows of lowest score; of equal scores the earlier row
        is marked first.

    Raises
    ------
    TypeError
        If `score` scores no rows, or `irregular_fraction` is not a number.
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
    """Return what draws; an integer or None never touches numpy's global state."""
    if isinstance(random_state, np.random.Generator | np.random.RandomState):
        return random_state
    if random_state is None or (isinstance(random_state, int | np.integer) and random_state >= 0):
        return np.random.default_rng(None if random_state is None else int(random_state))
    raise ValueError(f"random_state={random_state!r}: give None, an integer from 0 on, a RandomState or a Generator.")


def _test_size(test_size: Any, n_irregular: int, n_regular: int) -> int:
    """Turn the parameter `test_size` into a number of rows that leaves some to train on."""
    if test_size is None:
        size = min(n_irregular, n_regular - 1)
    elif isinstance(test_size, Integral):
        size = int(check_scalar(test_size, "test_size", Integral, min_val=1))
    else:
        check_scalar(test_size, "test_size", Real, min_val=0, max_val=1, include_boundaries="neither")
        size = round(test_size * (n_irregular + n_regular))
    if size < 1:
        raise ValueError(
            f"test_size={test_size!r} makes empty test sets of {n_irregular} irregular and {n_regular} regular rows; "
            "give more rows, mark another share of them irregular, or give a larger test_size."
        )
    if size >= n_regular:
        raise ValueError(
            f"test_size={test_size!r} sets {size} regular rows aside and there are {n_regular}, so none is left to "
            "train on; lower test_size or mark fewer rows irregular."
        )
    return size


def _irregular_count(proportion: Any, size: int, n_irregular: int) -> int:
    """Irregular rows in a test set of `size` rows; raises when there are not as many."""
    check_scalar(proportion, "proportion", Real, min_val=0, max_val=1)
    count = round(proportion * size)
    if count > n_irregular:
        raise ValueError(
            f"proportion={proportion} of {size} test rows needs {count} irregular rows and there are {n_irregular}; "
            "lower the proportion or test_size, or mark more rows irregular."
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

    A pool of `test_size` regular rows is set aside at random, whatever the proportions, and the other regular rows
    are the training set: for one seed it does not depend on the proportions, so results differ by the test rows
    alone. The sets are nested: a larger proportion keeps the irregular rows of a smaller one and replaces some of
    its regular rows.

    Parameters
    ----------
    irregular : array-like of shape (n_samples,), bool
        Which rows are irregular, as :func:`irregular_rows` marks them.
    proportions : iterable of float
        Shares of irregular rows, each from 0 to 1.
    test_size : int or float, default=None
        Rows in each test set: a number, or a share of all rows. None takes as many as there are irregular rows, or
        all but one of the regular rows where these are fewer.
    random_state : int, RandomState, Generator or None, default=None
        Seed or source of the draws. None draws anew each time, without numpy's global state.

    Returns
    -------
    train : ndarray of shape (n_train,), int
        Sorted positions of the training rows, all regular.
    tests : dict of float to ndarray of shape (test_size,), int
        For each proportion q the sorted positions of its test rows, ``round(q * test_size)`` of them irregular.

    Raises
    ------
    TypeError
        If a parameter is of the wrong type.
    ValueError
        If a proportion or `test_size` is out of range, or there are too few irregular rows for a proportion or too
        few regular rows to train on.

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
    marked, regular = np.flatnonzero(mask), np.flatnonzero(~mask)
    size = _test_size(test_size, len(marked), len(regular))
    counts = {q: _irregular_count(q, size, len(marked)) for q in proportions}
    generator = _generator(random_state)
    marked, regular = generator.permutation(marked), generator.permutation(regular)
    tests = {q: np.sort(np.concatenate([marked[:count], regular[: size - count]])) for q, count in counts.items()}
    return np.sort(regular[size:]), tests


class IrregularSplit(BaseCrossValidator):
    """Cross-validation splitter whose test folds hold a chosen share of irregular rows and training folds none.

    The irregular rows are marked once for all splits; each split then draws its training and test rows anew, so test
    folds of different splits may share rows. For one integer seed the training folds do not depend on `proportion`.

    Parameters
    ----------
    n_splits : int, default=5
        Number of splits, at least 1.
    proportion : float, default=0.5
        Share of irregular rows in the test folds, from 0 to 1.
    score : outlier detector, Pipeline or None, default=None
        What scores the rows, as in :func:`irregular_rows`.
    irregular_fraction : float, default=0.1
        Share of all rows that count as irregular, above 0 and below 1.
    test_size : int or float, default=None
        Rows in each test fold, as in :func:`mixture_test_sets`.
    random_state : int, RandomState, Generator or None, default=None
        Seed or source of the draws. An integer gives the same folds each time; None draws anew, without numpy's
        global state.

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
        X : object, default=None
            Ignored.
        y : object, default=None
            Ignored.
        groups : object, default=None
            Ignored.

        Returns
        -------
        int
            `n_splits`.
        """
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Draw the folds.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Rows, in the form that `score` takes.
        y : object, default=None
            Ignored.
        groups : object, default=None
            Ignored.

        Returns
        -------
        iterator of tuple of two ndarray of int
            Positions of the training rows and of the test rows of each split. Some rows are in neither.

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
        # Drawn at once, so that an error comes from this call and not from the loop over the folds.
        draws = [
            mixture_test_sets(mask, [self.proportion], test_size=self.test_size, random_state=generator)
            for _ in range(self.n_splits)
        ]
        return iter([(train, tests[self.proportion]) for train, tests in draws])
