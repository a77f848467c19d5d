"""Transformers that turn a raw table into finite numbers of comparable scale."""

import warnings
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pandas.api import types
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import check_scalar
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data


class SkewedLog1p(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Replace x by log(1 + x) in columns whose training values are non-negative and skewed to the right.

    Other columns are left unchanged. In `transform`, a value below 0 in a logged column is clipped to 0, so that the
    logarithm is always defined.

    Parameters
    ----------
    skew_threshold : float, default=1.0
        A column is logged if the skewness of its training values (adjusted Fisher-Pearson, missing values left out)
        is larger than this.

    Attributes
    ----------
    logged_ : ndarray of shape (n_features,), bool
        True for the columns that are logged.
    n_features_in_, feature_names_in_ : int, ndarray of shape (n_features,)
        Number of columns seen in `fit`, and their names if `X` was a DataFrame.

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
        """Declare that NaN is allowed and that float32 and float64 are preserved."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _validated(self, X: Any, *, reset: bool) -> NDArray[np.floating]:
        return validate_data(
            self, X, dtype=[np.float64, np.float32], ensure_all_finite="allow-nan", copy=not reset, reset=reset
        )

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Choose the columns to log.

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
        """Log the columns chosen in `fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Numeric rows; NaN stays NaN.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            A copy of `X` with the chosen columns logged.

        Raises
        ------
        ValueError
            If `X` is not a numeric table with the columns of `fit`.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        X[:, self.logged_] = np.log1p(np.maximum(X[:, self.logged_], 0))
        return X


def validated_table(estimator: BaseEstimator, X: Any, *, reset: bool) -> Any:
    """Validate `X` for `estimator`; a DataFrame is returned as it is, anything else as an array."""
    if isinstance(X, pd.DataFrame):
        validate_data(estimator, X, skip_check_array=True, reset=reset)
        return X
    return validate_data(estimator, X, dtype=None, ensure_all_finite="allow-nan", reset=reset)


class TabularPreparation(TransformerMixin, BaseEstimator):
    """Impute, log, standardise and one-hot encode the columns of a raw table.

    Numeric columns: missing values are replaced by the training median, right-skewed non-negative columns are logged
    (:class:`SkewedLog1p`), then every column is standardised; a constant column becomes 0. All other columns (text,
    categories, booleans) are one-hot encoded. A missing value is a category of its own, and a column of two values
    gives one 0/1 column. A category that was not seen in `fit` is encoded as zeros, without an error or a warning.
    The numeric columns come first in the output.

    Parameters
    ----------
    one_hot_max_categories : int, default=None
        Largest number of one-hot columns for an input column; the rarest categories share the last of them. None
        sets no limit.
    missing_indicator : bool, default=False
        Whether to add, for every numeric column with missing values in `fit`, a 0/1 column that marks them.

    Attributes
    ----------
    columns_ : sklearn.compose.ColumnTransformer
        The fitted transformers of the numeric and the categorical columns.
    categorical_ : list of int
        Positions of the columns that are one-hot encoded.
    n_features_in_, feature_names_in_ : int, ndarray of shape (n_features,)
        Number of columns seen in `fit`, and their names if `X` was a DataFrame.

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
        """Declare that NaN and categories are allowed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags

    def _table(self, X: Any, *, reset: bool) -> pd.DataFrame:
        """Return `X` as a DataFrame with columns 0, 1, ..., categories as objects and NaN for every missing one."""
        X = validated_table(self, X, reset=reset)
        # Columns of numbers in an object array get a numeric type.
        frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(X).infer_objects()
        frame = frame.set_axis(range(frame.shape[1]), axis=1)
        if reset:
            self.categorical_ = _categorical_columns(frame)
        frame = frame.astype({column: object for column in self.categorical_})
        categories = frame[self.categorical_]
        # OneHotEncoder accepts NaN and None but not pandas.NA.
        frame[self.categorical_] = categories.where(categories.notna(), np.nan)
        return frame

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the medians, the columns to log, the scales and the categories.

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
            handle_unknown="ignore", sparse_output=False, drop="if_binary", max_categories=self.one_hot_max_categories
        )
        scaled = make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True, add_indicator=self.missing_indicator),
            SkewedLog1p(),
            StandardScaler(),
        )
        self.columns_ = ColumnTransformer(
            [("numeric", scaled, numeric), ("categorical", encoder, self.categorical_)], verbose_feature_names_out=False
        ).set_output(transform="default")
        self.columns_.fit(frame)
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Transform rows to numbers.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Raw rows with the columns of `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_prepared)
            Finite numbers; `get_feature_names_out` names the columns.

        Raises
        ------
        ValueError
            If the columns are not those of `fit`.
        """
        check_is_fitted(self)
        frame = self._table(X, reset=False)
        with warnings.catch_warnings():
            # This class documents that unknown categories are encoded as zeros.
            warnings.filterwarnings("ignore", message="Found unknown categories", category=UserWarning)
            return self.columns_.transform(frame)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Return the names of the output columns.

        Parameters
        ----------
        input_features : array-like of str of shape (n_features,), default=None
            Names of the input columns. None means those seen in `fit`, or x0, x1, ... if there were none.

        Returns
        -------
        ndarray of str of shape (n_prepared,)
            The names.

        Raises
        ------
        ValueError
            If `input_features` are not the names seen in `fit`.
        """
        check_is_fitted(self)
        return self.columns_.get_feature_names_out(_check_feature_names_in(self, input_features))


def _categorical_columns(frame: pd.DataFrame) -> list[int]:
    """Return the positions of the columns that are not numeric; raise TypeError for dates and durations."""
    dtypes = list(enumerate(frame.dtypes))
    times = [column for column, dtype in dtypes if dtype.kind in "mM" or isinstance(dtype, pd.PeriodDtype)]
    if times:
        raise TypeError(f"X: the columns at {times} hold times; give them as numbers, such as days since a date.")
    return [column for column, dtype in dtypes if types.is_bool_dtype(dtype) or not types.is_numeric_dtype(dtype)]
