"""TelescopingGBTRegressor: LightGBM behind scikit-learn's interface, with its exact telescope."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted, validate_data

from telescoping_sklearn.base import BaseTelescopingEstimator, draw_seed, held_out_rows
from telescoping_sklearn.boosting._categories import ColumnCategories
from telescoping_sklearn.boosting._leaf_telescope import LeafTelescope
from telescoping_sklearn.boosting._lightgbm import LightGBMTrees, Rows, count_stages, fit_booster
from telescoping_sklearn.boosting._parameters import (
    OURS,
    LightGBMParameters,
    refuse_unequal_weights,
    refuse_unsupported,
)
from telescoping_sklearn.boosting._stopping import CRITERIA, StoppingCurve, stopping_curve


class TelescopingGBTRegressor(LightGBMParameters, BaseTelescopingEstimator):
    """Gradient-boosted trees whose predictions are exact weighted sums of the training labels.

    LightGBM underneath, with its scikit-learn parameters by name. For every query,
    ``kernel_weights(X) @ y + offset(X)`` is the prediction, up to LightGBM's float32 labels. Parameters whose leaf
    values are not linear in the labels, or follow an algebra that is not there, are refused in `fit`.

    Parameters
    ----------
    boosting_type : {"gbdt"}, default="gbdt"
        Only plain gradient boosting; "dart", "rf" and "goss" are refused.
    num_leaves : int, default=31
        Largest number of leaves of a tree.
    max_depth : int, default=-1
        Largest depth of a tree; not positive means no limit.
    learning_rate : float, default=0.1
        Shrinkage of every tree.
    n_estimators : int, default=100
        Number of trees asked for; LightGBM stops earlier where nothing can be split.
    subsample_for_bin : int, default=200000
        Rows that feature histograms are made from.
    objective : str or None, default=None
        Squared error under any of LightGBM's names for it; None means "regression".
    class_weight : None, default=None
        Refused unless None: a regressor has no classes.
    min_split_gain : float, default=0.0
        Smallest gain of a split.
    min_child_weight : float, default=0.001
        Smallest weight of a leaf.
    min_child_samples : int, default=20
        Smallest number of rows of a leaf.
    subsample : float, default=1.0
        Share of the rows in every bag. The bags are LightGBM's own, drawn again from its generator and held against
        the row counts of its leaves; rows off the bag have no weight in its trees.
    subsample_freq : int, default=0
        Trees between two bags; 0 means no bagging, whatever `subsample` says.
    colsample_bytree : float, default=1.0
        Share of the columns that each tree sees.
    reg_alpha : float, default=0.0
        Refused unless 0: not linear in the labels.
    reg_lambda : float, default=0.0
        Ridge term in the leaf denominators.
    random_state : None, int, RandomState or Generator, default=None
        Seeds LightGBM, the validation split and the probes. None leaves LightGBM its own fixed seeds and draws one for
        the rest.
    n_jobs : int or None, default=None
        Threads; None leaves the choice to LightGBM.
    importance_type : {"split", "gain"}, default="split"
        What `feature_importances_` counts.
    extra_trees : bool, default=False
        Whether to draw one random threshold a feature and split.
    path_smooth : float, default=0.0
        Rows of its parent that a leaf's value is smoothed with. Takes ``min_child_samples`` of at least 2; refused with
        unequal sample weights, where LightGBM smooths by row counts that it guesses from weights.
    max_delta_step : float, default=0.0
        Refused unless 0: clipped leaves are not linear in the labels.
    linear_tree : bool, default=False
        Refused unless False.
    monotone_constraints : None, default=None
        Refused unless None.
    cat_l2 : float, default=10.0
        Added to `reg_lambda` in leaves that a split over many categories made.
    cat_smooth : float, default=10.0
        Draws the statistics of rare categories together before they are ordered.
    max_cat_threshold : int, default=32
        Largest number of categories on the smaller side of a split.
    max_cat_to_onehot : int, default=4
        Columns with at most that many categories, a missing value counted as one, are split one against the rest.
    min_data_per_group : int, default=100
        Smallest number of rows of a group of categories.
    early_stopping_rounds : int or None, default=None
        Trees without progress on the validation share before training stops; None trains on all rows.
    validation_fraction : float, default=0.1
        Share of the rows held out for early stopping; their kernel weights are zero.
    record : bool, default=True
        Whether to keep what explanations need: references to X and y. ``False`` suits grid searches.

    Attributes
    ----------
    n_stages_ : int
        Number of trees that predict.
    booster_ : lightgbm.Booster
        The fitted booster.
    seed_ : int
        The seed drawn from `random_state`.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of str
        Names of the columns, where X had them.
    telescope_ : Telescope
        The telescope, made and checked when first asked for.
    kernel_weights_ : ndarray of shape (n_train, n_train)
        Weights of the training labels in the training predictions; rows sum to 1.
    effective_params_, effective_params_se_ : float
        Effective parameters on the rows trained on, and their standard error (0 where exact).
    degrees_of_freedom_, degrees_of_freedom_se_ : float
        Trace of `kernel_weights_`, and its standard error.

    References
    ----------
    A. Jeffares, A. Curth, M. van der Schaar. "Deep Learning Through A Telescoping Lens". NeurIPS 2024, Eq. 9.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import make_friedman1
    >>> from telescoping_sklearn import TelescopingGBTRegressor
    >>> X, y = make_friedman1(200, random_state=0)
    >>> trees = TelescopingGBTRegressor(n_estimators=20, random_state=0).fit(X, y)
    >>> weights = trees.kernel_weights(X[:3])
    >>> np.allclose(weights @ y, trees.predict(X[:3]))
    True
    >>> np.allclose(weights.sum(axis=1), 1)
    True
    """

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, categorical_feature: Any = "auto"
    ) -> "TelescopingGBTRegressor":
        """Fit the ensemble.

        Parameters
        ----------
        X : array-like of shape (n_train, n_features)
            Training rows; NaN is a value of its own. Category columns of a DataFrame are split by category, or by order
            where their categories are ordered; columns of strings are refused.
        y : array-like of shape (n_train,)
            Training labels.
        sample_weight : array-like of shape (n_train,), default=None
            Non-negative weights of the rows; a weight of zero gives a zero column of kernel weights.
        categorical_feature : "auto", or list of str or int, default="auto"
            Columns to split by category, by name or position, as in ``LGBMRegressor.fit``; their numbers are codes.
            "auto" stands for the unordered category columns of a DataFrame.

        Returns
        -------
        TelescopingGBTRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter has no algebra, naming it, or the data are not what scikit-learn's regressors take.
        TypeError
            If `categorical_feature` is not a list of names and positions.
        """
        params = self.get_params(deep=False)
        refuse_unsupported(params)
        self._forget()
        categories = ColumnCategories(X, categorical_feature)
        X, y, weights = self._training_data(categories.encode(X), y, sample_weight, ensure_all_finite="allow-nan")
        refuse_unequal_weights(params, weights)
        # Without weights LightGBM takes a faster path, so ones are not the same as none.
        given = None if sample_weight is None else weights
        self.seed_ = draw_seed(self.random_state)
        train, held_out = self._split(len(y))
        settings = {name: value for name, value in params.items() if name not in OURS}
        settings["random_state"] = None if self.random_state is None else self.seed_
        self.booster_ = fit_booster(
            settings,
            _rows(train, X, y, given),
            None if held_out is None else _rows(held_out, X, y, given),
            self.early_stopping_rounds,
            categories.positions,
        )
        self.n_stages_ = count_stages(self.booster_)
        self._categories, self._settings = categories, settings
        if self.record:
            if held_out is not None:
                weights[held_out] = 0.0
            self._X, self._y, self._row_weights, self._given = X, y, weights, train
        return self

    def predict(self, X: Any) -> NDArray:
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.

        Returns
        -------
        ndarray of shape (n_query,)
            Predictions, LightGBM's own.
        """
        return self._trees().predict(self._query(X))

    def stopping_curve(
        self, *, criteria: Sequence[str] = CRITERIA, n_probes: int | str | None = "auto"
    ) -> StoppingCurve:
        """Judge every number of trees from the training rows alone, without a validation set.

        After each tree the ensemble is a linear smoother with the matrix S of kernel weights. With the mean squared
        training error (weighted where rows are), df the trace of S and n rows trained on:

        - ``aicc``: log(mse) + 1 + 2 (df + 1) / (n - df - 2) (Hurvich, Simonoff and Tsai 1998);
        - ``gcv``: mse / (1 - df / n)^2 (Craven and Wahba 1978);
        - ``loo``: mean of ((y - f) / (1 - S_ii))^2, the squared error of every row left out, were the trees fixed.

        The trees were grown to fit these labels, and S does not say so: all three tend to choose too many trees.

        Parameters
        ----------
        criteria : sequence of {"aicc", "gcv", "loo"}, default=("aicc", "gcv", "loo")
            Criteria to work.
        n_probes : int, "auto" or None, default="auto"
            How the trace is worked, as in `effective_params`; ``loo`` is always exact.

        Returns
        -------
        StoppingCurve
            The table by stage, and the stage that each criterion chooses.

        Raises
        ------
        ValueError
            If a criterion does not exist or cannot be had for these trees.
        """
        return stopping_curve(self.telescope_, criteria, n_probes)

    @property
    def feature_importances_(self) -> NDArray:
        """Importance of every column, as LightGBM counts it."""
        check_is_fitted(self)
        return self.booster_.feature_importance(importance_type=self.importance_type, iteration=self.n_stages_)

    def _split(self, n_rows: int) -> tuple[slice | NDArray, NDArray | None]:
        """Rows to train on, and rows that early stopping watches."""
        if self.early_stopping_rounds is None:
            return slice(None), None
        return held_out_rows(n_rows, self.validation_fraction, self.seed_)

    def _trees(self) -> LightGBMTrees:
        check_is_fitted(self)
        return LightGBMTrees(self.booster_, self.n_stages_, self.n_jobs)

    def _query(self, X: Any) -> NDArray:
        check_is_fitted(self)
        X = self._categories.encode(X)
        return validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False)

    def _make_telescope(self) -> LeafTelescope:
        trees = self._trees()
        telescope = LeafTelescope(
            trees.ensemble(self._X, self._row_weights, np.arange(len(self._y))[self._given], self._settings),
            find_leaves=trees.find_leaves,
            tree_outputs=trees.tree_outputs,
            training_rows=self._X,
            y=self._y,
            trained=self._row_weights > 0,
            seed=self.seed_,
        )
        gap = np.abs(telescope.reconstruct(None) - trees.predict(self._X)).max()
        tolerance = 1e-5 * np.std(self._y) + 1e-6 * np.abs(self._y).max()
        if not gap <= tolerance:
            raise ValueError(
                f"The telescope misses the model's own training predictions by {gap:.3g}, more than {tolerance:.3g}. "
                "If the arrays given to fit were changed since, fit again; otherwise please report this."
            )
        return telescope

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _rows(rows: slice | NDArray, X: NDArray, y: NDArray, sample_weight: NDArray | None) -> Rows:
    return Rows(X[rows], y[rows], None if sample_weight is None else sample_weight[rows])
