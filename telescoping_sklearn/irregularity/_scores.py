"""Irregularity scores: two detectors based on principal components, and the scores of any outlier detector.

Lower scores are more irregular, as in scikit-learn.
"""

from abc import ABCMeta, abstractmethod
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone, is_outlier_detector
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline
from sklearn.utils import check_scalar, get_tags
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from telescoping_sklearn.irregularity._preparation import TabularPreparation, validated_table


class _PrincipalDetector(OutlierMixin, BaseEstimator, metaclass=ABCMeta):
    """Outlier detector that scores rows by their principal components.

    A subclass chooses the number of components and turns the components of a row into its score.
    """

    def __init__(self, *, contamination: float = 0.1, preparation: Any = "default") -> None:
        self.contamination = contamination
        self.preparation = preparation

    def __sklearn_tags__(self) -> Any:
        """Declare that NaN and categories are allowed if the default preparation is used."""
        tags = super().__sklearn_tags__()
        # Whether another preparation imputes missing values is not known.
        if isinstance(self.preparation, str):
            tags.input_tags = get_tags(TabularPreparation()).input_tags
        return tags

    @abstractmethod
    def _n_components(self) -> float | int | None:
        """Return `n_components` of the PCA, after validation of the subclass's own parameters."""

    @abstractmethod
    def _score(self, components: NDArray[np.float64]) -> NDArray[np.float64]:
        """Score rows by their components of shape (n_samples, n_components)."""

    def _fit_score(self, components: NDArray[np.float64]) -> None:
        """Learn the statistics of the training rows' components that `_score` needs."""

    def _prepare(self, X: Any) -> NDArray[np.float64]:
        """Validate and transform rows with the fitted preparation."""
        if self.preparation_ is None:
            return validate_data(self, X, dtype=np.float64, reset=False)
        return self.preparation_.transform(validated_table(self, X, reset=False))

    def _fit_preparation(self, X: Any) -> NDArray[np.float64]:
        """Fit the preparation and return the transformed training rows."""
        if self.preparation is None:
            self.preparation_ = None
            return validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        preparation = TabularPreparation() if isinstance(self.preparation, str) else clone(self.preparation)
        X = validated_table(self, X, reset=True)
        self.preparation_ = preparation.fit(X)
        return check_array(self.preparation_.transform(X), dtype=np.float64, ensure_min_samples=2)

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the preparation, the components and the score below which a row is an outlier.

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
        # If all rows are equal the explained variance ratio is 0 / 0; the scores are 0 all the same.
        with np.errstate(invalid="ignore"):
            self.pca_ = PCA(n_components, svd_solver="full").fit(prepared)
        components = self.pca_.transform(prepared)
        self._fit_score(components)
        self.offset_ = np.quantile(self._score(components), self.contamination)
        return self

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Score rows; lower scores are more irregular.

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
        ValueError
            If the columns are not those of `fit`.
        """
        check_is_fitted(self)
        return self._score(self.pca_.transform(self._prepare(X)))

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the scores shifted so that outliers are negative.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Rows, as for `score_samples`.

        Returns
        -------
        ndarray of shape (n_samples,)
            ``score_samples(X) - offset_``.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int_]:
        """Classify rows as inliers or outliers.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_samples, n_features)
            Rows, as for `score_samples`.

        Returns
        -------
        ndarray of shape (n_samples,), int
            1 for inliers, -1 for outliers.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)


def _check_preparation(preparation: Any) -> None:
    """Raise unless `preparation` is "default", None or a transformer instance."""
    if preparation is None or (isinstance(preparation, str) and preparation == "default"):
        return
    if isinstance(preparation, str):
        raise ValueError(f'preparation={preparation!r}: give "default", None or a transformer.')
    if isinstance(preparation, type) or not (hasattr(preparation, "fit") and hasattr(preparation, "transform")):
        raise TypeError(f'preparation={preparation!r}: give "default", None or an unfitted transformer instance.')


class PrincipalDistance(_PrincipalDetector):
    """Outlier detector: Euclidean distance from the mean in the space of the leading principal components.

    The components are not whitened: directions of larger variance contribute more to the distance.

    Parameters
    ----------
    variance : float, default=0.95
        Share of the variance that the components explain, above 0 and at most 1.
    contamination : float, default=0.1
        Share of the training rows that `predict` calls outliers, above 0 and at most 0.5.
    preparation : "default", None or transformer, default="default"
        Transformer applied to the rows first: "default" is a :class:`TabularPreparation`; None is no transformer
        (`X` must be numeric and finite); a given transformer is cloned.

    Attributes
    ----------
    preparation_ : transformer or None
        The fitted transformer.
    pca_ : sklearn.decomposition.PCA
        The fitted components.
    offset_ : float
        Score below which a row is an outlier: the `contamination` quantile of the training scores.
    n_features_in_, feature_names_in_ : int, ndarray of shape (n_features,)
        Number of columns seen in `fit`, and their names if `X` was a DataFrame.

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
        super().__init__(contamination=contamination, preparation=preparation)
        self.variance = variance

    def _n_components(self) -> float | None:
        check_scalar(self.variance, "variance", Real, min_val=0, max_val=1, include_boundaries="right")
        # PCA takes the number 1 for one component.
        return None if self.variance == 1 else float(self.variance)

    def _score(self, components: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.linalg.norm(components, axis=1)


class FirstComponentDeviation(_PrincipalDetector):
    """Outlier detector: absolute deviation of the first principal component from its training median.

    Parameters
    ----------
    contamination : float, default=0.1
        Share of the training rows that `predict` calls outliers, above 0 and at most 0.5.
    preparation : "default", None or transformer, default="default"
        Transformer applied to the rows first: "default" is a :class:`TabularPreparation`; None is no transformer
        (`X` must be numeric and finite); a given transformer is cloned.

    Attributes
    ----------
    preparation_ : transformer or None
        The fitted transformer.
    pca_ : sklearn.decomposition.PCA
        The fitted component.
    median_ : float
        Median of the training rows' first component.
    offset_ : float
        Score below which a row is an outlier: the `contamination` quantile of the training scores.
    n_features_in_, feature_names_in_ : int, ndarray of shape (n_features,)
        Number of columns seen in `fit`, and their names if `X` was a DataFrame.

    Examples
    --------
    >>> import numpy as np
    >>> from telescoping_sklearn.irregularity import FirstComponentDeviation
    >>> X = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [9.0, 9.0]])
    >>> FirstComponentDeviation(preparation=None).fit(X).score_samples(X) / np.sqrt(2)
    array([-1.5, -0.5, -0.5, -7.5])
    """

    def _n_components(self) -> int:
        return 1

    def _fit_score(self, components: NDArray[np.float64]) -> None:
        self.median_ = np.median(components[:, 0])

    def _score(self, components: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.abs(components[:, 0] - self.median_)


def _detector(score: Any) -> Any:
    """Make an unfitted detector of the parameter `score`; raise TypeError if it cannot score rows."""
    if score is None:
        return PrincipalDistance()
    estimator = hasattr(score, "fit") and hasattr(score, "get_params") and not isinstance(score, type)
    if estimator and (hasattr(score, "score_samples") or is_outlier_detector(score)):
        return clone(score)
    raise TypeError(_score_message(score))


def _score_message(score: Any) -> str:
    return (
        f"score={score!r} cannot score rows: give None, an outlier detector with score_samples or "
        "negative_outlier_factor_ (an instance, not a class), or a Pipeline that ends in one."
    )


def irregularity_scores(X: Any, *, score: Any = None) -> NDArray[np.float64]:
    """Score the rows of a table; lower scores are more irregular.

    Parameters
    ----------
    X : DataFrame or array-like of shape (n_samples, n_features)
        Rows, as `score` accepts them.
    score : outlier detector, Pipeline or None, default=None
        As in :func:`irregular_rows`.

    Returns
    -------
    ndarray of shape (n_samples,)
        Scores of the rows from a clone of `score` that is fitted to them.

    Raises
    ------
    TypeError
        If `score` cannot score rows.

    Examples
    --------
    >>> from telescoping_sklearn.irregularity import irregularity_scores
    >>> irregularity_scores([[0.0], [1.0], [2.0], [3.0], [50.0]]).argmin()
    np.int64(4)
    """
    detector = _detector(score).fit(X)
    last = detector.steps[-1][1] if isinstance(detector, Pipeline) else detector
    # LocalOutlierFactor: its score_samples would count each training row as its own neighbour.
    if hasattr(last, "negative_outlier_factor_"):
        return last.negative_outlier_factor_
    if hasattr(detector, "score_samples"):
        return detector.score_samples(X)
    raise TypeError(_score_message(score))
