"""TelescopingGBTRegressor: LightGBM with scikit-learn's interface, and its exact telescope."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted, validate_data

from telescoping_sklearn._fit_tasks import CallbackSupportMixin, FitTasks, with_callbacks
from telescoping_sklearn._numbers import plain_number
from telescoping_sklearn._refit import all_at_once
from telescoping_sklearn.base import BaseTelescopingEstimator, draw_seed, held_out_rows
from telescoping_sklearn.boosting._checked import checked_telescope
from telescoping_sklearn.boosting._leaf_telescope import LeafTelescope
from telescoping_sklearn.boosting._stopping import CRITERIA, StoppingCurve, stopping_curve
from telescoping_sklearn.boosting.libraries.lightgbm import (
    SQUARED_ERROR_NAMES,
    Booster,
    ColumnCategories,
    FitRecord,
    LightGBMParameters,
    LightGBMTrees,
    Rows,
    Watch,
    count_stages,
    first_trees,
    fit_booster,
    label_shift,
    lost_in_float32,
    non_quadratic_loss,
    refuse_changes,
    refuse_lone_validation,
    refuse_trained,
    refuse_unknown_columns,
    refuse_unsupported,
    refuse_validation,
)


class TelescopingGBTRegressor(CallbackSupportMixin, LightGBMParameters, BaseTelescopingEstimator):
    """Gradient-boosted trees whose predictions are exact weighted sums of the training labels.

    The model is LightGBM's; parameters have the names of ``LGBMRegressor``. Other names are refused, with what to use
    instead. For every query, ``kernel_weights(X) @ y + offset(X)`` is the prediction up to LightGBM's rounding of
    labels to float32, also for medians and quantiles. `fit` refuses settings whose leaf values are not piecewise affine
    in the labels. ``set_callbacks`` takes scikit-learn's callbacks, which are called after every boosting iteration.

    Parameters
    ----------
    num_leaves : int, default=31
        Largest number of leaves of a tree, at most 131072.
    max_depth : int, default=-1
        Largest depth of a tree; not positive means no limit.
    learning_rate : float, default=0.1
        Shrinkage of every tree.
    n_estimators : int, default=100
        Largest number of trees; LightGBM grows fewer where nothing can be split.
    subsample_for_bin : int, default=200000
        Number of rows from which the bins of the columns are computed.
    objective : str or None, default=None
        Squared error by any of LightGBM's names; None means "regression". Losses whose leaves are quantiles:
        "regression_l1" (the median), "quantile" (level `alpha`) and "mape". "huber", squared error with residuals
        clipped at `alpha`. Non-quadratic losses, whose weights are derivatives: "poisson", "gamma", "tweedie",
        "cross_entropy" (labels in [0, 1]), "binary" (0 and 1) and "fair"; see the notes.
    min_split_gain : float, default=0.0
        Smallest gain of a split.
    min_child_weight : float, default=0.001
        Smallest sum of hessians of a leaf. Below 1e-12 LightGBM mistakes rounding errors for rows: refused unless
        `min_child_samples` is at least 1, or 10 with unequal sample weights or a non-quadratic loss.
    min_child_samples : int, default=20
        Smallest number of rows of a leaf.
    subsample : float, default=1.0
        Share of the rows in every bag. Rows outside the bag of a tree have no weight in it. LightGBM's bags are drawn
        again from its generator, and compared with the row counts of its leaves.
    subsample_freq : int, default=0
        Trees between two bags; 0 means no bagging, whatever `subsample` says.
    colsample_bytree : float, default=1.0
        Share of the columns that each tree sees.
    reg_alpha : float, default=0.0
        L1 penalty on leaf values. A leaf whose sum of gradients is at most `reg_alpha` in size is zero and has no
        response. For other leaves the penalty is a constant, which joins the offset.
    reg_lambda : float, default=0.0
        L2 penalty, added to the denominators of leaf values.
    random_state : None, int, RandomState or Generator, default=None
        Seeds LightGBM, the validation split and the probes. With None LightGBM uses its own fixed seeds, and a seed is
        drawn for the rest.
    n_jobs : int or None, default=None
        Threads; None leaves the choice to LightGBM. After LightGBM has used several threads, it hangs in forked
        processes: start processes with "spawn", "forkserver" or "loky", or use 1.
    importance_type : {"split", "gain"}, default="split"
        What `feature_importances_` counts.
    extra_trees : bool, default=False
        Whether to draw one random threshold a feature and split.
    path_smooth : float, default=0.0
        Strength of smoothing a leaf's value towards its parent's, in rows. Needs ``min_child_samples`` of at least 2.
        Refused with unequal sample weights, where LightGBM estimates row counts from weights.
    max_delta_step : float, default=0.0
        Largest size of a leaf value before shrinkage; 0 means no limit. A clipped leaf has no response, and its value
        joins the offset.
    cat_l2 : float, default=10.0
        Added to `reg_lambda` in the children of splits over many categories.
    cat_smooth : float, default=10.0
        Smooths the statistics by which categories are ordered.
    max_cat_threshold : int, default=32
        Largest number of categories on the smaller side of a split.
    max_cat_to_onehot : int, default=4
        Columns with at most so many categories (missing values count as one) are split one category against the rest.
    min_data_per_group : int, default=100
        Smallest number of rows of a group of categories.
    alpha : float, default=0.9
        Level of the quantile for ``objective="quantile"``; largest unclipped residual for "huber".
    fair_c : float, default=1.0
        Error at which the gradient of ``objective="fair"`` is half its largest value.
    poisson_max_delta_step : float, default=0.7
        LightGBM's safeguard for ``objective="poisson"``: its leaf denominators hold exp(f + poisson_max_delta_step).
    tweedie_variance_power : float, default=1.5
        Power rho of the variance for ``objective="tweedie"``, from 1 to below 2.
    colsample_bynode : float, default=1.0
        Share of the columns that each split sees.
    max_bin : int, default=255
        Largest number of bins of a column.
    min_data_in_bin : int, default=3
        Smallest number of rows of a bin.
    enable_bundle : bool, default=True
        Whether LightGBM bundles columns that are rarely both different from their most frequent values. Where bundling
        puts training rows into other leaves than predictions do, `fit` raises, unless ``record=False``.
    interaction_constraints : list of list of int, default=None
        Groups of columns, by position, that may occur together on a path.
    bagging_seed, feature_fraction_seed, extra_seed : int or None, default=None
        Seeds of bags, column samples and random thresholds; None derives them from `random_state`.
    early_stopping_rounds : int or None, default=None
        Number of trees without improvement on the validation rows after which training stops. None: no early stopping,
        and all rows are trained on.
    validation_fraction : float, default=0.1
        Share of the rows held out for early stopping; their kernel weights are zero. Ignored where `fit` is given
        `X_val`.
    warm_start : bool, default=False
        Whether another `fit` with a larger `n_estimators` adds trees to the existing ones. Needs the same data and
        settings, and ``record=True``. Random draws continue; they are not repeated.
    record : bool, default=True
        Whether to keep what explanations need, including copies of X and y. ``False`` suits grid searches.
    verbose : int, default=False
        Above 0 (True counts as 1) to show the progress of fitting and of long computations.

    Attributes
    ----------
    n_stages_ : int
        Number of trees that predict.
    booster_ : lightgbm.Booster
        The fitted booster; ``booster_.predict(X) + label_shift_`` is ``predict(X)``.
    label_shift_ : float
        Constant subtracted from the labels given to LightGBM; see the notes. 0 for ordinary labels.
    seed_ : int
        The seed drawn from `random_state`.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of str
        Names of the columns, where X had them.
    telescope_ : Telescope
        The telescope, made and checked when first asked for.
    kernel_weights_ : ndarray of shape (n_train, n_train)
        Weights of the training labels in the training predictions. Rows sum to 1, except for non-quadratic losses.
    self_influence_ : ndarray of shape (n_train,)
        Influence of every training row on its own prediction, for finding rows that are mislabelled.
    effective_params_, effective_params_se_ : float
        Effective parameters on the rows trained on, and their standard error (0 where exact).
    degrees_of_freedom_, degrees_of_freedom_se_ : float
        Trace of `kernel_weights_`, and its standard error.

    Notes
    -----
    LightGBM keeps labels in float32, which near 1e8 represents only multiples of 8. Where rounding would change a label
    by more than a quarter of the tolerance below, the trees are grown on y minus `label_shift_`, the weighted mean of y
    over the rows trained on. Predictions, weights and everything else refer to y: rows of the weights sum to 1, so
    ``kernel_weights(X) @ y`` includes the shift. Other labels are given to LightGBM unchanged, and predictions are
    LightGBM's, bit for bit. Non-quadratic losses and "mape" allow no shift: `fit` refuses labels that float32 would
    change by more than a thousandth of their standard deviation.

    When a telescope is made, it must rebuild the model's predictions of the training rows to 1e-5 standard deviations
    of the labels trained on plus 1e-6 of their largest deviation from their mean; otherwise it raises. For "mape"
    four times what float32 takes from a label is allowed in addition, which grows with the mean of the labels.

    Leaves with a threshold, and leaves that are quantiles of residuals, are piecewise affine in the labels. Weights and
    offset hold the piece fixed: which leaves are zero or clipped, which residuals are clipped, and which one or two
    rows define a quantile. Among equal residuals the first row in the order of `fit` counts as the smallest.

    For a non-quadratic loss with raw score f, `predict` returns means as LightGBM does: exp(f), the logistic function
    of f, or f itself for "fair". Explanations refer to f. The kernel form, f_T = f_0 - sum_t sum_i K_t(x, x_i) g_it, is
    exact and is checked; `breakdown` adds up to f. `kernel_weights` are then the derivative of f in the labels, with
    the trees and their denominators held fixed. This is not a smoother: ``kernel_weights(X) @ y`` is not f, and
    `offset`, `approximation_error`, effective parameters and degrees of freedom raise.

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

    booster_: Booster
    label_shift_: float
    n_stages_: int
    seed_: int
    _categories: ColumnCategories
    _fit_record: FitRecord | None

    @_fit_context(prefer_skip_nested_validation=True)
    @all_at_once
    @with_callbacks
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
        categorical_feature: Any = "auto",
    ) -> "TelescopingGBTRegressor":
        """Fit the ensemble.

        Parameters
        ----------
        X : array-like of shape (n_train, n_features)
            Training rows; NaN means missing. Category columns of a DataFrame are split by category, or by order where
            their categories are ordered. Columns of strings are refused.
        y : array-like of shape (n_train,)
            Training labels.
        sample_weight : array-like of shape (n_train,), default=None
            Non-negative weights of the rows; a weight of zero gives a zero column of kernel weights.
        X_val : array-like of shape (n_val, n_features), default=None
            Validation rows for early stopping. All of X is then trained on.
        y_val : array-like of shape (n_val,), default=None
            Their labels.
        sample_weight_val : array-like of shape (n_val,), default=None
            Their weights.
        categorical_feature : "auto", or list of str or int, default="auto"
            Columns to split by category, by name or position, as in ``LGBMRegressor.fit``; their numbers are codes.
            "auto" selects the unordered category columns of a DataFrame.

        Returns
        -------
        TelescopingGBTRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If a setting is not supported; if the data are invalid for scikit-learn's regressors, the objective or
            float32; if bags would be empty; if all rows to train on or to validate on have weight zero; if LightGBM
            puts training rows into other leaves than its predictions do, or aborts; or if a warm start is given other
            data or settings.
        TypeError
            If `categorical_feature` is not a list of names and positions.
        """
        given = copy.deepcopy(self.get_params(deep=False), {id(self.random_state): self.random_state})
        params = {name: plain_number(value) for name, value in given.items()}
        refuse_unsupported(params)
        refuse_lone_validation(X_val, y_val, sample_weight_val, self.early_stopping_rounds)
        categories = ColumnCategories(X, categorical_feature)
        earlier, X_given = self._earlier_fit(), X
        if earlier is not None:  # categories keep the codes of the earlier trees
            categories.dtypes, categories.names = self._categories.dtypes, self._categories.names
        X, y, weights = self._training_data(
            categories.encode(X) if earlier is None else self._encoded(X, categories),
            y,
            sample_weight,
            ensure_all_finite="allow-nan",
            ensure_min_samples=2,
            reset=earlier is None,
        )
        refuse_unknown_columns(params["interaction_constraints"], X.shape[1])
        # None is passed on as None: LightGBM is faster without weights than with ones.
        train = Rows(X, y, None if sample_weight is None else weights)
        validation = None if X_val is None else self._validation(categories, X_val, y_val, sample_weight_val)
        new = FitRecord(params, train, validation, categories.positions)
        if earlier is not None and not self._can_add_trees(earlier, new):
            FitTasks(self, 0, X_given, y, train.sample_weight, earlier.given).close()
            return self
        seed = draw_seed(self.random_state) if earlier is None else self.seed_
        if self.early_stopping_rounds is not None and validation is None:
            given, held_out = held_out_rows(len(y), params["validation_fraction"], seed)
            new = new._replace(given=given, held_out=held_out)
        shift = label_shift(params, new.trained())
        new = new._replace(label_shift=shift)
        trained, validation_rows = new.trained(), new.validation_rows()
        refuse_trained(params, trained, shift)
        if validation_rows is not None:
            refuse_validation(params, validation_rows, "" if validation is None else "_val", shift)
        self.seed_, self._categories = seed, categories
        n_earlier = 0 if earlier is None else self.n_stages_
        tasks = FitTasks(self, params["n_estimators"] - n_earlier, X_given, y, train.sample_weight, new.given)
        self._learn(new, trained, validation_rows, earlier, tasks)
        tasks.close()
        return self

    def _learn(
        self,
        new: FitRecord,
        trained: Rows,
        validation_rows: Rows | None,
        earlier: FitRecord | None,
        tasks: FitTasks,
    ) -> None:
        """Fit the booster, or add trees to it, and keep what explanations need."""

        def learnt(booster: Booster, n_trees: int) -> dict[str, Any]:
            # The booster goes on growing; its first trees stay as they are.
            attributes = {"booster_": booster, "n_stages_": n_trees, "label_shift_": new.label_shift}
            return attributes | {"_fit_record": None}

        before = None if earlier is None else first_trees(self.booster_, self.n_stages_)
        watch = Watch(tasks, learnt)
        self.booster_, plan = fit_booster(new, trained, validation_rows, self.seed_, watch, before)
        self.n_stages_, self.label_shift_ = count_stages(self.booster_), new.label_shift
        plans = () if earlier is None else earlier.plans
        if plan is not None:
            plans = (*plans, (0 if before is None else before.num_trees(), plan))
        self._fit_record = new._replace(plans=plans) if self.record else None

    def predict(self, X: Any) -> NDArray:
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.

        Returns
        -------
        ndarray of shape (n_query,)
            LightGBM's predictions plus `label_shift_`.
        """
        return self._trees().predict(self._query(X))

    def stopping_curve(
        self, *, criteria: Sequence[str] = CRITERIA, n_probes: int | str | None = "auto"
    ) -> StoppingCurve:
        """Compute criteria for the number of trees from the training rows, without a validation set.

        After each tree the ensemble is a linear smoother with the matrix S of kernel weights. Let mse be the mean
        squared training error (weighted if rows are), df the trace of S and n the number of rows trained on:

        - ``aicc``: log(mse) + 1 + 2 (df + 1) / (n - df - 2) (Hurvich, Simonoff and Tsai 1998);
        - ``gcv``: mse / (1 - df / n)^2 (Craven and Wahba 1978);
        - ``loo``: mean of ((y - f) / (1 - S_ii))^2, the leave-one-out shortcut of linear smoothers.

        S ignores that the trees were grown on the same labels, so all three criteria tend to choose too many trees.
        ``loo`` is an approximation, even with the trees held fixed: without a row, the residuals that later trees are
        fitted to change too. On 120 rows it was 20 % too high after 20 trees at a learning rate of 0.1, and 67 % too
        low at 0.3; see the user guide.

        A criterion is infinite where it is not defined: ``loo`` where a row has weight 1 or more in its own prediction,
        ``gcv`` where df reaches n, and ``aicc`` where it reaches n - 2.

        Parameters
        ----------
        criteria : sequence of {"aicc", "gcv", "loo"}, default=("aicc", "gcv", "loo")
            Criteria to compute.
        n_probes : int, "auto" or None, default="auto"
            How the trace is computed, as in `effective_params`. ``loo`` always uses the exact diagonal of S; "auto"
            then uses the exact trace too.

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
            If a criterion is unknown or infinite after every tree, or the objective is not squared error.
        MemoryError
            If ``loo`` needs more memory or time than allowed for so many trees and rows.
        """
        objective = self._record().params["objective"]
        if objective not in SQUARED_ERROR_NAMES:
            raise ValueError(
                f"A stopping curve needs an objective of squared error, which its criteria are of, and objective is "
                f"{objective!r}. Use early_stopping_rounds instead."
            )
        return stopping_curve(cast(LeafTelescope, self.telescope_), criteria, n_probes)

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
            One prediction per stage, in the units of `predict`.

        Raises
        ------
        ValueError
            If the approximation or a stage does not exist.
        """
        staged = super().staged_predict(X, stages, approximation=approximation)
        loss = non_quadratic_loss(self._record().params)
        return staged if loss is None else (loss.mean(raw) for raw in staged)

    @property
    def feature_importances_(self) -> NDArray:
        """Importance of every column, as LightGBM computes it."""
        check_is_fitted(self)
        return self.booster_.feature_importance(importance_type=self.importance_type, iteration=self.n_stages_)

    def _validation(self, categories: ColumnCategories, X: Any, y: Any, sample_weight: Any) -> Rows:
        """Validate the rows given for early stopping."""
        try:
            X, y, weights = self._training_data(
                self._encoded(X, categories), y, sample_weight, ensure_all_finite="allow-nan", reset=False
            )
        except ValueError as error:
            raise ValueError(f"X_val, y_val or sample_weight_val: {error}") from error
        return Rows(X, y, None if sample_weight is None else weights)

    def _encoded(self, X: Any, categories: ColumnCategories) -> Any:
        """Encode the categories of a frame, after checking that it has the columns of the fit."""
        if categories.concern(X):
            validate_data(self, X, reset=False, skip_check_array=True)
        return categories.encode(X)

    def _adds_to_fit(self) -> bool:
        return self.warm_start

    def _earlier_fit(self) -> FitRecord | None:
        """Return the record of the fit to which a warm start adds trees; None for a new fit."""
        if not self.warm_start:
            return None
        if not self.record:
            raise ValueError("warm_start=True needs record=True, to compare the data with those of the earlier fit.")
        if not hasattr(self, "booster_"):
            return None
        if self._fit_record is None:
            raise ValueError("warm_start=True needs an earlier fit with record=True. Use warm_start=False.")
        return self._fit_record

    def _can_add_trees(self, earlier: FitRecord, new: FitRecord) -> bool:
        """Whether a warm start has trees to add; raise where data or settings changed."""
        refuse_changes(earlier, new)
        if new.params["n_estimators"] > earlier.params["n_estimators"]:
            return True
        warnings.warn("Warm-start fitting without increasing n_estimators does not fit new trees.", stacklevel=6)
        return False

    def _trees(self) -> LightGBMTrees:
        check_is_fitted(self)
        return LightGBMTrees(self.booster_, self.n_stages_, self.n_jobs, self.label_shift_)

    def _query(self, X: Any) -> NDArray:
        check_is_fitted(self)
        X = self._encoded(X, self._categories)
        return validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False)

    def _record(self) -> FitRecord:
        if self._fit_record is None:
            raise self._record_dropped()
        return self._fit_record

    def _make_telescope(self) -> LeafTelescope:
        record, trees = self._record(), self._trees()
        (X, y, _), shifted = record.train, record.train.shifted(record.label_shift)
        given = np.arange(len(y)) if record.given is None else record.given
        ensemble = trees.ensemble(shifted, given, record.params, record.plans)
        rounding = 4 * lost_in_float32(shifted.y[ensemble.trained])  # large under "mape", whose labels are not shifted
        return checked_telescope(ensemble, trees, X, y, seed=self.seed_, rounding=rounding)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
