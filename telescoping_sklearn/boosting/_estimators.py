"""TelescopingGBTRegressor: LightGBM behind scikit-learn's interface, with its exact telescope."""

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from lightgbm import Booster
from numpy.typing import NDArray
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted, validate_data

from telescoping_sklearn._numbers import plain_number
from telescoping_sklearn._refit import all_at_once
from telescoping_sklearn.base import BaseTelescopingEstimator, draw_seed, held_out_rows
from telescoping_sklearn.boosting._categories import ColumnCategories
from telescoping_sklearn.boosting._curved_telescope import CurvedLeafTelescope
from telescoping_sklearn.boosting._fit_record import FitRecord, refuse_changes, refuse_lone_validation
from telescoping_sklearn.boosting._leaf_telescope import LeafTelescope
from telescoping_sklearn.boosting._lightgbm import (
    LightGBMTrees,
    count_stages,
    first_trees,
    fit_booster,
    later_seeds,
)
from telescoping_sklearn.boosting._parameters import (
    LightGBMParameters,
    curved_loss,
    library_settings,
    refuse_unknown_columns,
    refuse_unsupported,
)
from telescoping_sklearn.boosting._rows import (
    RAW_ROUNDING,
    Rows,
    label_shift,
    lost_in_float32,
    refuse_trained,
    refuse_watched,
    spread_tolerance,
)
from telescoping_sklearn.boosting._stopping import CRITERIA, StoppingCurve, stopping_curve
from telescoping_sklearn.losses import CurvedLoss


class TelescopingGBTRegressor(LightGBMParameters, BaseTelescopingEstimator):
    """Gradient-boosted trees whose predictions are exact weighted sums of the training labels.

    LightGBM underneath, with its scikit-learn parameters by name. For every query,
    ``kernel_weights(X) @ y + offset(X)`` is the prediction, up to LightGBM's float32 labels, also for medians and
    quantiles. Settings whose leaf values are no piecewise affine functions of the labels, or follow an algebra that is
    not there, are refused in `fit`.

    Parameters
    ----------
    boosting_type : {"gbdt"}, default="gbdt"
        Only plain gradient boosting; "dart", "rf" and "goss" are refused.
    num_leaves : int, default=31
        Largest number of leaves of a tree, at most 131072.
    max_depth : int, default=-1
        Largest depth of a tree; not positive means no limit.
    learning_rate : float, default=0.1
        Shrinkage of every tree.
    n_estimators : int, default=100
        Number of trees asked for; LightGBM stops earlier where nothing can be split.
    subsample_for_bin : int, default=200000
        Rows that feature histograms are made from.
    objective : str or None, default=None
        Squared error under any of LightGBM's names for it; None means "regression". A loss whose leaves are quantiles:
        "regression_l1" (the median), "quantile" (level `alpha`) or "mape". "huber", squared error with residuals
        clipped at `alpha`. Or a loss whose weights are derivatives: "poisson", "gamma", "tweedie", "cross_entropy"
        (labels in [0, 1]), "binary" (0 and 1) or "fair"; see the notes.
    class_weight : None, default=None
        Refused unless None: a regressor has no classes.
    min_split_gain : float, default=0.0
        Smallest gain of a split.
    min_child_weight : float, default=0.001
        Smallest weight of a leaf. Below 1e-12 LightGBM takes rounding errors for rows: refused unless
        `min_child_samples` is at least 1, or 10 with unequal sample weights or a loss on a raw score.
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
        What is taken off the size of a leaf's sum of gradients. A leaf whose sum is smaller is zero and has no
        response; from the others it takes a constant, which joins the offset.
    reg_lambda : float, default=0.0
        Ridge term in the leaf denominators.
    random_state : None, int, RandomState or Generator, default=None
        Seeds LightGBM, the validation split and the probes. None leaves LightGBM its own fixed seeds and draws one for
        the rest.
    n_jobs : int or None, default=None
        Threads; None leaves the choice to LightGBM. A process that is forked after more than one was used hangs in
        LightGBM: start processes by "spawn", "forkserver" or "loky", or use 1.
    importance_type : {"split", "gain"}, default="split"
        What `feature_importances_` counts.
    extra_trees : bool, default=False
        Whether to draw one random threshold a feature and split.
    path_smooth : float, default=0.0
        Rows of its parent that a leaf's value is smoothed with. Takes ``min_child_samples`` of at least 2; refused with
        unequal sample weights, where LightGBM smooths by row counts that it guesses from weights.
    max_delta_step : float, default=0.0
        Largest size of a leaf before shrinkage; 0 means no limit. A leaf that is clipped has no response, and its value
        joins the offset.
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
    alpha : float, default=0.9
        Level of the quantile for ``objective="quantile"``; size of a residual beyond which it is clipped for "huber".
    fair_c : float, default=1.0
        Size of an error at which the gradient of ``objective="fair"`` is half of what it can reach.
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
        Whether LightGBM bundles columns that are seldom away from their most frequent values together. Where that puts
        training rows into other leaves than predictions do, `fit` refuses it, naming rows, unless ``record=False``.
    interaction_constraints : list of list of int, default=None
        Groups of columns, by position, that may meet on one path.
    bagging_seed, feature_fraction_seed, extra_seed : int or None, default=None
        Seeds of bags, column samples and random thresholds; None derives them from `random_state`.
    early_stopping_rounds : int or None, default=None
        Trees without progress on the validation share before training stops; None trains on all rows.
    validation_fraction : float, default=0.1
        Share of the rows held out for early stopping; their kernel weights are zero. Not used where `fit` is given
        `X_val`.
    warm_start : bool, default=False
        Whether a further `fit` with a larger `n_estimators` adds trees to those that there are. Takes the same data and
        settings, and ``record=True``; what draws at random goes on drawing.
    record : bool, default=True
        Whether to keep what explanations need, copies of X and y. ``False`` suits grid searches.
    verbose : bool, default=False
        Whether to show progress, of fitting and of long answers.

    Attributes
    ----------
    n_stages_ : int
        Number of trees that predict.
    booster_ : lightgbm.Booster
        The fitted booster; ``booster_.predict(X) + label_shift_`` is ``predict(X)``.
    label_shift_ : float
        What was taken off the labels before LightGBM saw them; see the notes. 0 for ordinary labels.
    seed_ : int
        The seed drawn from `random_state`.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of str
        Names of the columns, where X had them.
    telescope_ : Telescope
        The telescope, made and checked when first asked for.
    kernel_weights_ : ndarray of shape (n_train, n_train)
        Weights of the training labels in the training predictions; rows sum to 1, but for losses whose weights are
        derivatives.
    effective_params_, effective_params_se_ : float
        Effective parameters on the rows trained on, and their standard error (0 where exact).
    degrees_of_freedom_, degrees_of_freedom_se_ : float
        Trace of `kernel_weights_`, and its standard error.

    Notes
    -----
    LightGBM keeps labels in float32, which near 1e8 knows only every eighth number. Where the rounding would change a
    label by more than a quarter of the tolerance below, the trees are grown on y less its weighted mean over the rows
    trained on, `label_shift_`. Predictions, weights and all else speak of y: rows of the weights sum to 1, so
    ``kernel_weights(X) @ y`` carries the shift. Other labels reach LightGBM as they are, and predictions are its own,
    bit for bit. Losses on a raw score and "mape" take no shift: `fit` refuses labels of which float32 would take more
    than a thousandth of their standard deviation.

    When a telescope is made, what it rebuilds must equal the model's predictions of the training rows to 1e-5 standard
    deviations of the labels trained on and 1e-6 of their largest deviation from their mean, or it raises. For "mape"
    four times what float32 takes from a label is allowed on top, which grows with the mean of the labels.

    Leaves with a threshold, and leaves that are quantiles of residuals, are piecewise affine in the labels. Weights and
    offset hold the piece: which leaves are zero or clipped, which residuals are, and which one or two rows a quantile
    is taken from. Of equal residuals the first row in the order of `fit` is taken for the smaller.

    Under a loss on a raw score f, `predict` gives means, exp(f) or the logistic function of f, or f itself for "fair",
    as LightGBM does, and all that explains speaks of f. The kernel form, f_T = f_0 - sum_t sum_i K_t(x, x_i) g_it, is
    exact and is checked; `breakdown` adds up to f. But `kernel_weights` are then the derivative of f in the labels,
    with the trees and their denominators held as they are, and no smoother: ``kernel_weights(X) @ y`` rebuilds nothing.
    `offset`, `approximation_error`, effective parameters and degrees of freedom do not exist and raise.

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
            Training rows; NaN is a value of its own. Category columns of a DataFrame are split by category, or by order
            where their categories are ordered; columns of strings are refused.
        y : array-like of shape (n_train,)
            Training labels.
        sample_weight : array-like of shape (n_train,), default=None
            Non-negative weights of the rows; a weight of zero gives a zero column of kernel weights.
        X_val : array-like of shape (n_val, n_features), default=None
            Rows that early stopping watches instead of a share of X. All of X is then trained on.
        y_val : array-like of shape (n_val,), default=None
            Their labels.
        sample_weight_val : array-like of shape (n_val,), default=None
            Their weights.
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
            If a parameter has no algebra, naming it, or the data are not what scikit-learn's regressors take, or not
            what the objective or LightGBM's float32 take; if bags hold no row, or early stopping would train on or
            watch rows that weigh nothing; if LightGBM put training rows into other leaves than its predictions do, or
            aborts; or if a warm start is given other data or settings.
        TypeError
            If `categorical_feature` is not a list of names and positions.
        """
        given = copy.deepcopy(self.get_params(deep=False), {id(self.random_state): self.random_state})
        params = {name: plain_number(value) for name, value in given.items()}
        refuse_unsupported(params)
        refuse_lone_validation(X_val, y_val, sample_weight_val, self.early_stopping_rounds)
        categories = ColumnCategories(X, categorical_feature)
        earlier = self._earlier_fit()
        if earlier is not None:  # codes stand for the categories of the trees that there are
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
        # Without weights LightGBM takes a faster path, so ones are not the same as none.
        train = Rows(X, y, None if sample_weight is None else weights)
        validation = None if X_val is None else self._validation(categories, X_val, y_val, sample_weight_val)
        new = FitRecord(params, train, validation, categories.positions)
        if earlier is not None and not self._can_add_trees(earlier, new):
            return self
        seed = draw_seed(self.random_state) if earlier is None else self.seed_
        if self.early_stopping_rounds is not None and validation is None:
            given, held_out = held_out_rows(len(y), params["validation_fraction"], seed)
            new = new._replace(given=given, held_out=held_out)
        shift = label_shift(params, new.trained())
        new = new._replace(label_shift=shift)
        trained, watched = new.trained(), new.watched()
        refuse_trained(params, trained, shift)
        if watched is not None:
            refuse_watched(params, watched, "" if validation is None else "_val", shift)
        self.seed_, self._categories = seed, categories
        self._learn(new, trained, watched, earlier)
        return self

    def _learn(self, new: FitRecord, trained: Rows, watched: Rows | None, earlier: FitRecord | None) -> None:
        """Fit the booster, or add trees to it, and keep what explanations need."""
        done = 0 if earlier is None else self.n_stages_
        before = None if earlier is None else first_trees(self.booster_, done)
        settings = library_settings(new.params, self.seed_)
        if before is not None:
            settings |= later_seeds(before, done) | {"n_estimators": new.params["n_estimators"] - done}
        self.booster_, plan = fit_booster(
            settings,
            trained,
            watched,
            new.params["early_stopping_rounds"],
            new.categorical,
            before,
            rows=new.given,
            record=self.record,
            verbose=bool(self.verbose),
        )
        self.n_stages_, self.label_shift_ = count_stages(self.booster_), new.label_shift
        if not self.record:
            self._fit_record = None
            return
        plans = (*(() if earlier is None else earlier.plans), *(() if plan is None else ((done, plan),)))
        self._fit_record = new._replace(plans=plans)

    def predict(self, X: Any) -> NDArray:
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.

        Returns
        -------
        ndarray of shape (n_query,)
            Predictions, LightGBM's own, and `label_shift_`.
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
        - ``loo``: mean of ((y - f) / (1 - S_ii))^2, the leave-one-out shortcut of linear smoothers.

        The trees were grown to fit these labels, and S does not say so: all three tend to choose too many trees. The
        shortcut is not the leave-one-out error of the same trees either: without a row, the residuals that later trees
        are fitted to change too. On 120 rows it was 20 % too high after 20 trees at a learning rate of 0.1, and
        67 % too low at 0.3; see the user guide.

        A criterion is infinite where it is not defined: ``loo`` where a row weighs 1 or more in its own prediction,
        ``gcv`` and ``aicc`` where df reaches n or n - 2.

        Parameters
        ----------
        criteria : sequence of {"aicc", "gcv", "loo"}, default=("aicc", "gcv", "loo")
            Criteria to work.
        n_probes : int, "auto" or None, default="auto"
            How the trace is worked, as in `effective_params`. ``loo`` always takes the exact diagonal of S, and "auto"
            then takes the exact trace from it.

        Returns
        -------
        StoppingCurve
            The table by stage, and the stage that each criterion chooses.

        Warns
        -----
        UserWarning
            If a criterion is infinite after some trees: then it chooses among the others.

        Raises
        ------
        ValueError
            If a criterion does not exist or is infinite after every tree, or the objective is not squared error.
        MemoryError
            If ``loo`` is asked of so many trees and rows that neither way to the diagonal of S fits.
        """
        objective = self._record().params["objective"]
        return stopping_curve(cast(LeafTelescope, self.telescope_), criteria, n_probes, objective)

    def staged_predict(self, X: Any, stages: Any = None, *, approximation: str | None = None) -> Iterator[NDArray]:
        """Predict after each stage.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        stages : None, int or array-like of int, default=None
            All stages 1..n_stages_; that many evenly spaced ones with the last; or exactly those (0 is the start).
        approximation : {None, "telescoping"}, default=None
            The model itself, or its telescoping model, which for trees is the model itself.

        Returns
        -------
        generator of ndarray of shape (n_query,)
            One prediction a stage, in the units of `predict`.

        Raises
        ------
        ValueError
            If the approximation or a stage does not exist.
        """
        staged = super().staged_predict(X, stages, approximation=approximation)
        loss = self._curved_loss()
        return staged if loss is None else (loss.mean(raw) for raw in staged)

    @property
    def feature_importances_(self) -> NDArray:
        """Importance of every column, as LightGBM counts it."""
        check_is_fitted(self)
        return self.booster_.feature_importance(importance_type=self.importance_type, iteration=self.n_stages_)

    def _validation(self, categories: ColumnCategories, X: Any, y: Any, sample_weight: Any) -> Rows:
        """Validate the rows that early stopping watches."""
        try:
            X, y, weights = self._training_data(
                self._encoded(X, categories), y, sample_weight, ensure_all_finite="allow-nan", reset=False
            )
        except ValueError as error:
            raise ValueError(f"X_val, y_val or sample_weight_val: {error}") from error
        return Rows(X, y, None if sample_weight is None else weights)

    def _encoded(self, X: Any, categories: ColumnCategories) -> Any:
        """Encode the categories of a frame, once scikit-learn has found its columns to be those of the fit."""
        if categories.concern(X):
            validate_data(self, X, reset=False, skip_check_array=True)
        return categories.encode(X)

    def _adds_to_fit(self) -> bool:
        return self.warm_start

    def _earlier_fit(self) -> FitRecord | None:
        """Record of the fit that a warm start adds trees to."""
        if not self.warm_start:
            return None
        if not self.record:
            raise ValueError("warm_start=True needs record=True: the data of the two fits are compared.")
        if not hasattr(self, "booster_"):
            return None
        if self._fit_record is None:
            raise ValueError("warm_start=True needs a fit with record=True to add trees to: fit afresh.")
        return self._fit_record

    def _can_add_trees(self, earlier: FitRecord, new: FitRecord) -> bool:
        """Whether a warm start has trees to add; raise where it must not."""
        refuse_changes(earlier, new)
        if new.params["n_estimators"] > earlier.params["n_estimators"]:
            return True
        warnings.warn("Warm-start fitting without increasing n_estimators does not fit new trees.", stacklevel=5)
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

    def _curved_loss(self) -> CurvedLoss | None:
        return curved_loss(self._record().params)

    def _make_telescope(self) -> LeafTelescope:
        record = self._record()
        trees, (X, y, _) = self._trees(), record.train
        given = np.arange(len(y)) if record.given is None else record.given
        ensemble = trees.ensemble(record.train.shifted(record.label_shift), given, record.params, record.plans)
        telescope = (LeafTelescope if ensemble.curvature is None else CurvedLeafTelescope)(
            ensemble,
            find_leaves=trees.find_leaves,
            tree_outputs=trees.tree_outputs,
            training_rows=X,
            y=y,
            trained=ensemble.trained,
            seed=self.seed_,
        )
        model = trees.predict(X, raw=True)
        if isinstance(telescope, CurvedLeafTelescope):  # on a scale of logarithms
            _check_gap(telescope.kernel_form(), model, spread_tolerance(model[telescope.trained]) + RAW_ROUNDING)
        else:
            labels = y[telescope.trained]
            rounding = 4 * lost_in_float32(
                labels - record.label_shift
            )  # which "mape", that takes no shift, cannot help
            _check_gap(telescope.reconstruct(None), model, spread_tolerance(labels) + rounding)
        return telescope

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _check_gap(rebuilt: NDArray, model: NDArray, tolerance: float) -> None:
    """Raise ValueError where what the telescope rebuilds is not what the model gives at the training rows."""
    gap = np.abs(rebuilt - model).max()
    if not gap <= tolerance:
        raise ValueError(
            f"The telescope misses the model's own training predictions by {gap:.3g}, more than {tolerance:.3g}. "
            "Please report this, with the parameters."
        )
