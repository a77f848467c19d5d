"""A telescope for a model that is already fitted.

`telescope` takes a fitted model of a library that has a reader (`boosting.libraries`), alone or inside pipelines,
target transformers and searches, with the rows that it was trained on. What it returns, a `FittedTelescope`, can be
asked everything that the estimators of this package can be asked. A net comes with the record of its training, and
becomes a `RecordedTelescope`.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.validation import _check_sample_weight, _num_samples, check_is_fitted, column_or_1d

from telescoping_sklearn._refit import all_at_once
from telescoping_sklearn._unwrap import Unwrapped, unwrap
from telescoping_sklearn.base import BaseTelescopingEstimator

if TYPE_CHECKING:
    from telescoping_sklearn.boosting._adopt import LeafTelescope, ReadModel
    from telescoping_sklearn.boosting._stopping import StoppingCurve

__all__ = ["FittedTelescope", "telescope"]

_TAKEN = (
    "LightGBM's LGBMRegressor, LGBMClassifier or Booster; XGBoost's XGBRegressor, XGBClassifier or Booster; CatBoost's "
    "CatBoostRegressor or CatBoostClassifier; scikit-learn's GradientBoosting, HistGradientBoosting, RandomForest, "
    "ExtraTrees, DecisionTree and ExtraTree models; each also inside a Pipeline, a TransformedTargetRegressor or a "
    "search"
)


def telescope(
    model: Any, X: Any, y: Any, sample_weight: Any = None, *, output: Any = None, record: Any = None, **settings: Any
) -> "FittedTelescope | BaseTelescopingEstimator":
    """Make the telescope of a fitted model.

    Parameters
    ----------
    model : object
        A fitted model: LightGBM (estimator or Booster), XGBoost, CatBoost, or scikit-learn's forests, trees and both
        kinds of gradient boosting. Pipelines, `TransformedTargetRegressor` and searches are unwrapped. An estimator of
        this package is returned as it is: it has its telescope.
    X : array-like of shape (n_train, n_features)
        The rows that `model` was fitted on, as its `fit` was given them: frames with categories and missing values
        where it takes them.
    y : array-like of shape (n_train,)
        The labels that `model` was fitted on. Under a `TransformedTargetRegressor` they are transformed as its `fit`
        did: predictions, weights and everything else are then in the units of the transformed label.
    sample_weight : array-like of shape (n_train,), default=None
        The weights that `model` was fitted with.
    output : object, default=None
        Class whose score is explained, for classifiers. None for regressors, and for the second of two classes.
    record : TrainingRecord, default=None
        The record of training, for a ``torch.nn.Module``: what ``with record_training(...) as run`` gave. A skorch net
        has it where its callbacks hold a `TrainingRecorder`.
    **settings : object
        For nets, parameters of `RecordedTelescope`: ``rule``, ``section``, ``section_tol``, ``random_state`` and
        ``verbose``.

    Returns
    -------
    FittedTelescope or RecordedTelescope
        An estimator that predicts as `model` does, and explains its predictions; a `RecordedTelescope` for nets.

    Raises
    ------
    TypeError
        If no reader takes the model, or a net comes without a record.
    ValueError
        If the record is not that of the net or of the rows, or does not explain its training. If a setting of the model
        has no known algebra, which the error names; or if the rows, labels, weights or their
        order are not those of the fit. The telescope then misses the model's own predictions, and the error says by
        how much, and what the cause may be.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.

    Notes
    -----
    `sample_weight` may be left out where weights only drew a bootstrap: a forest keeps its draws.

    The order of the rows matters where training drew some of them by their position: bags, bootstraps, and rows held
    out for early stopping. Otherwise rows may be given in another order, labels and weights with them.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.ensemble import RandomForestRegressor
    >>> from telescoping_sklearn import telescope
    >>> X, y = make_friedman1(200, random_state=0)
    >>> forest = RandomForestRegressor(20, random_state=0).fit(X, y)
    >>> explained = telescope(forest, X, y)
    >>> weights = explained.kernel_weights(X[:3])
    >>> np.allclose(weights @ y, forest.predict(X[:3]))
    True
    """
    found = unwrap(model)
    if record is not None or _is_net(found.model):
        from telescoping_sklearn.neural._recorded_telescope import recorded_telescope

        for name, value in (("sample_weight", sample_weight), ("output", output)):
            if value is not None:
                raise ValueError(f"{name} must be None for nets: weights belong to the record of the training.")
        return recorded_telescope(model, X, y, record, **settings)
    if settings:
        raise TypeError(f"telescope() got {', '.join(sorted(settings))}, which are settings for recorded nets only.")
    if isinstance(found.model, BaseTelescopingEstimator):
        check_is_fitted(found.model)
        return found.model
    return FittedTelescope(model, output=output)._attach(model, X, y, sample_weight)


class FittedTelescope(BaseTelescopingEstimator):
    """A model that was fitted elsewhere, and its telescope.

    `telescope` makes one of a fitted model. As an estimator it can also be fitted: `fit` fits a clone of `model`, so
    that it works in `cross_validate` and searches.

    Parameters
    ----------
    model : object
        The model; see `telescope`.
    output : object, default=None
        Class whose score is explained, for classifiers.
    verbose : bool, default=False
        Whether long work shows its progress.

    Attributes
    ----------
    n_stages_ : int
        Number of trees.
    n_features_in_ : int
        Number of columns of X, where the model knows it.
    feature_names_in_ : ndarray of str
        Their names, where the model was fitted on a frame.

    See Also
    --------
    telescope : Makes one of a fitted model.

    Notes
    -----
    `predict` returns what the model predicts for regressors, and probabilities for classifiers of two classes and for
    forests of classifiers. A boosted classifier of more classes has several raw scores; it returns that of ``output``.

    For losses other than squared error, absolute error, quantiles and Huber's loss the telescope explains the raw score
    f, as for `TelescopingGBTRegressor`: `kernel_weights` are the derivative of f in the labels (0 and 1 for classes),
    with trees and denominators held fixed, and effective parameters do not exist. With more than two classes the scores
    of the other classes are held fixed too.

    The model may be fitted again or changed afterwards: what was read of it is kept here.

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.ensemble import HistGradientBoostingRegressor
    >>> from telescoping_sklearn import telescope
    >>> X, y = make_friedman1(200, random_state=0)
    >>> trees = telescope(HistGradientBoostingRegressor(max_iter=20).fit(X, y), X, y)
    >>> trees.n_stages_, trees.kernel_weights_.shape
    (20, (200, 200))
    """

    n_stages_: int
    _read: "ReadModel"
    _around: Unwrapped

    def __init__(self, model: Any, *, output: Any = None, verbose: bool = False):
        self.model = model
        self.output = output
        self.verbose = verbose

    @all_at_once
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "FittedTelescope":
        """Fit a clone of the model, and make its telescope.

        Parameters
        ----------
        X : array-like of shape (n_train, n_features)
            Training rows, as the model takes them.
        y : array-like of shape (n_train,)
            Training labels.
        sample_weight : array-like of shape (n_train,), default=None
            Weights of the rows; the model must be an estimator whose `fit` takes them.

        Returns
        -------
        FittedTelescope
            The fitted estimator.

        Raises
        ------
        TypeError
            If the model is not an estimator, and cannot be fitted again.
        ValueError
            As `telescope`.
        """
        if not hasattr(self.model, "fit"):
            raise TypeError(
                f"model={type(self.model).__name__} has no fit, so that a FittedTelescope of it cannot be fitted. Call "
                "telescope(model, X, y) with the rows that it was trained on."
            )
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        return self._attach(clone(self.model).fit(X, y, **weights), X, y, sample_weight)

    def _attach(self, model: Any, X: Any, y: Any, sample_weight: Any) -> "FittedTelescope":
        """Read a fitted model on the rows that it was trained on, and compare its telescope with it."""
        from telescoping_sklearn.boosting._adopt import adopt, find_reader

        found = unwrap(model)
        reader = find_reader(found.model)
        if reader is None:
            raise TypeError(f"telescope takes no {type(found.model).__name__}. It takes {_TAKEN}.")
        labels = _labels(X, y, found.model)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(
                sample_weight,
                np.empty((len(labels), 1)),
                dtype=np.float64,
                ensure_non_negative=True,
                allow_all_zero_weights=False,
                copy=True,
            )
        labels = found.labels(labels)
        self._read, _ = adopt(reader, found.model, found.rows(X), labels, weights, self.output, seed=0)
        self._around = found._replace(model=None, of_rows=copy.deepcopy(found.of_rows))
        self._training_index = X.index.copy(deep=True) if isinstance(X, pd.DataFrame) else None
        self.n_stages_ = self._read.ensemble.n_stages
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
            if hasattr(model, name):
                setattr(self, name, copy.copy(getattr(model, name)))
        return self

    def predict(self, X: Any) -> NDArray:
        """Predict as the model does, in the units of the labels that it was trained on.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.

        Returns
        -------
        ndarray of shape (n_query,)
            Predictions; see the notes of the class for classifiers.
        """
        rows = self._query(X)
        return self._read.trees.predict(rows)

    def staged_predict(self, X: Any, stages: Any = None, *, approximation: str | None = None) -> Iterator[NDArray]:
        """Predict after each stage.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        stages : None, int or array-like of int, default=None
            All stages 1..n_stages_; that many evenly spaced ones with the last; or exactly those (0 is the start).
        approximation : {None, "telescoping"}, default=None
            The model, or its telescoping model; for trees they are the same.

        Returns
        -------
        generator of ndarray of shape (n_query,)
            One prediction a stage, in the units of `predict`. Those of a forest are partial sums of its average.

        Raises
        ------
        ValueError
            If the approximation or a stage does not exist.
        """
        staged = super().staged_predict(X, stages, approximation=approximation)
        link = self._read.link
        return staged if link is None else (link(raw) for raw in staged)

    def stopping_curve(
        self, *, criteria: Sequence[str] = ("aicc", "gcv", "loo"), n_probes: int | str | None = "auto"
    ) -> "StoppingCurve":
        """Compute criteria for the number of trees from the training rows, without a validation set.

        Parameters
        ----------
        criteria : sequence of {"aicc", "gcv", "loo"}, default=("aicc", "gcv", "loo")
            Criteria to compute; see `TelescopingGBTRegressor.stopping_curve`.
        n_probes : int, "auto" or None, default="auto"
            How the trace is computed, as in `effective_params`.

        Returns
        -------
        StoppingCurve
            The criteria by stage, and the stage that each criterion chooses.

        Warns
        -----
        UserWarning
            If a criterion is infinite after some trees; it then chooses among the others.

        Raises
        ------
        ValueError
            If a criterion is unknown or infinite after every tree, or the model was not boosted under squared error.
        MemoryError
            If ``loo`` needs more memory or time than allowed for so many trees and rows.
        """
        from telescoping_sklearn.boosting._stopping import stopping_curve

        explained = cast("LeafTelescope", self.telescope_)
        if not self._read.squared_error:
            raise ValueError(
                f"A stopping curve needs trees boosted under squared error, which its criteria are of; this "
                f"{type(unwrap(self.model).model).__name__} has none."
            )
        return stopping_curve(explained, criteria, n_probes)

    def _query(self, X: Any) -> NDArray:
        check_is_fitted(self)
        return self._read.prepare(self._around.rows(X))

    def _make_telescope(self) -> "LeafTelescope":
        from telescoping_sklearn.boosting._checked import telescope_of

        read = self._read
        return telescope_of(read.ensemble, read.trees, read.rows, read.y, seed=0, start_at=read.start_at)

    def __sklearn_tags__(self):
        """Return the tags of a regressor that takes the rows that the model takes."""
        tags = super().__sklearn_tags__()
        if isinstance(self.model, BaseEstimator):
            tags.input_tags = replace(get_tags(self.model).input_tags, sparse=False)
        return tags


def _is_net(model: Any) -> bool:
    """Whether a model is a module of torch or a net of skorch, which need not be loaded."""
    return bool({"torch", "skorch"} & {base.__module__.partition(".")[0] for base in type(model).__mro__})


def _labels(X: Any, y: Any, model: Any) -> NDArray:
    """Return labels as one column, checked against the rows and the kind of the model."""
    labels = column_or_1d(np.asarray(y))
    if _num_samples(X) != len(labels):
        raise ValueError(f"X has {_num_samples(X)} rows, and y {len(labels)} labels. Give a label for every row.")
    if labels.dtype == object and not any(isinstance(label, str) for label in labels):
        labels = labels.astype(np.float64)
    if labels.dtype.kind in "fiub":  # classes may have names
        labels = labels.astype(np.float64)
        if not np.isfinite(labels).all():
            raise ValueError("y contains NaN or infinity. Give the labels that the model was trained on.")
    elif isinstance(model, RegressorMixin):
        raise ValueError(
            f"y must hold numbers for {type(model).__name__}, got {labels.dtype}, for example {labels[0]!r}."
        )
    return labels
