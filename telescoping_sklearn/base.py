"""The scikit-learn face shared by every telescoping estimator.

An estimator fits a model and knows how to make its telescope; everything that can be asked about the fitted model is
asked of the telescope, here, once. The costly answers are properties, computed when first asked for and kept: they are
left out of ``dir()`` so that representations, pickling and cloning compute nothing.
"""

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import get_tags
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from telescoping_sklearn._answers import AnsweringTelescope, ApproximationError
from telescoping_sklearn._estimates import Estimate
from telescoping_sklearn._refit import freeze_arrays
from telescoping_sklearn._telescope import Subsets, read_only, resolve_stages

_COSTLY = (
    "telescope_",
    "kernel_weights_",
    "self_influence_",
    "effective_params_",
    "effective_params_se_",
    "degrees_of_freedom_",
    "degrees_of_freedom_se_",
)
_CACHES = ("_telescope", "_kernel_weights", "_self_influence", "_training_summary", "_answered_under")


class RecordDroppedError(ValueError, AttributeError):
    """Raised where an explanation is asked of an estimator that keeps no record of its fit."""


def draw_seed(random_state: Any) -> int:
    """Draw the seed that a fit keeps, without touching NumPy's global random state.

    Parameters
    ----------
    random_state : None, int, RandomState or Generator
        None draws from the operating system's entropy; an int is kept as it is.

    Returns
    -------
    int
        A seed below 2**31.
    """
    if random_state is None:
        random_state = np.random.default_rng()
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(np.iinfo(np.int32).max))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(np.iinfo(np.int32).max))
    if isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool):
        if 0 <= random_state < 2**32:
            return int(random_state)
        raise ValueError(f"random_state={random_state} must lie between 0 and 2**32 - 1.")
    raise ValueError(f"random_state must be None, an int, a RandomState or a Generator, got {random_state!r}.")


def _query_labels(X: Any, n_query: int) -> pd.Index:
    """Labels of query rows: those of a DataFrame, or positions."""
    return X.index.copy() if isinstance(X, pd.DataFrame) else pd.RangeIndex(n_query, name="query")


def _may_be_shared(X: Any) -> bool:
    """Whether an array made of X can share its memory; where not, asking NumPy would only convert X once more."""
    if isinstance(X, pd.DataFrame):
        return X.dtypes.nunique() == 1 and isinstance(X.dtypes.iloc[0], np.dtype)
    return not isinstance(X, list | tuple)


def held_out_rows(n_rows: int, fraction: float, seed: int) -> tuple[NDArray, NDArray]:
    """Split row numbers for early stopping.

    Parameters
    ----------
    n_rows : int
        Number of rows given to `fit`.
    fraction : float
        Share to hold out.
    seed : int
        The fit's seed.

    Returns
    -------
    train, held_out : ndarray of int
        Row numbers, increasing.
    """
    train, held_out = train_test_split(np.arange(n_rows), test_size=fraction, random_state=seed)
    return np.sort(train), np.sort(held_out)


class BaseTelescopingEstimator(RegressorMixin, BaseEstimator, metaclass=ABCMeta):
    """Base of every telescoping estimator: a fitted model that can be asked for its telescope.

    A subclass fits, predicts, and implements `_make_telescope` and `_query`.
    """

    _costly: ClassVar[tuple[str, ...]] = _COSTLY
    _caches: ClassVar[tuple[str, ...]] = _CACHES
    #: Parameters that not every estimator has.
    record: bool = True
    verbose: Any = False
    _telescope: AnsweringTelescope | None = None
    _kernel_weights: NDArray | None = None
    _self_influence: NDArray | None = None
    _training_summary: tuple[Estimate, Estimate] | None = None
    _answered_under: tuple | None = None
    #: Names of the attributes that the last fit set.
    _learnt: frozenset[str] = frozenset()

    @abstractmethod
    def _make_telescope(self) -> AnsweringTelescope:
        """Make the telescope of the fitted model, and check it."""

    @abstractmethod
    def _query(self, X: Any) -> NDArray:
        """Validate query rows against what was fitted; return them in float64."""

    def _answer_settings(self) -> tuple:
        """Parameters that may be set after fitting: what was computed under others is dropped."""
        return ()

    def _adds_to_fit(self) -> bool:
        """Whether `fit` goes on from an earlier fit, as a warm start does."""
        return False

    def _training_data(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        reset: bool = True,
        ensure_all_finite: bool | str = True,
        ensure_min_samples: int = 1,
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Validate rows that `fit` is given: X and y in float64, and non-negative weights, ones if there are none.

        Labels of one column are (n_train,), those of several (n_train, n_outputs); these are refused where the
        estimator's tags have no ``multi_output``.

        What a record keeps is the fit's own: arrays that share memory with what was given are copied. Columns and the
        index of X are learnt from it, unless `reset` is false: then they are those of an earlier fit, which X must
        have.
        """
        record, multi_output = self.record, get_tags(self).target_tags.multi_output
        shape = np.asarray(y).shape
        if not multi_output and len(shape) == 2 and shape[1] > 1:
            name = type(self).__name__
            raise ValueError(
                f"y should be a 1d array, got an array of shape {shape} instead: {name} takes one output. "
                f"sklearn.multioutput.MultiOutputRegressor({name}(...)) fits one for each output."
            )
        # Kept for `top_examples` to name rows by; without a record nothing of the training rows is.
        if reset:
            self._training_index = X.index.copy(deep=True) if isinstance(X, pd.DataFrame) and record else None
        X, y = validate_data(
            self,
            X,
            y,
            reset=reset,
            dtype=np.float64,
            copy=record and _may_be_shared(X),
            y_numeric=True,
            multi_output=multi_output,
            ensure_all_finite=ensure_all_finite,
            ensure_min_samples=ensure_min_samples,
        )
        if multi_output:
            if sparse.issparse(y):
                raise TypeError("y is sparse, and nets are trained on dense labels. Give y.toarray().")
            y = column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y
        weights = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True, allow_all_zero_weights=False, copy=True
        )
        return X, y.astype(np.float64, copy=record), weights

    def _record_dropped(self) -> RecordDroppedError:
        return RecordDroppedError(
            f"This {type(self).__name__} keeps no record of its fit, only what predict needs: it was fitted with "
            "record=False, or its record was dropped. Fit again with record=True to ask for explanations."
        )

    # -- costly attributes -------------------------------------------------------------------------------------------

    @property
    def telescope_(self) -> AnsweringTelescope:
        """The telescope of the fitted model, made and checked when first asked for."""
        check_is_fitted(self)
        settings = self._answer_settings()
        if self._answered_under != settings:
            self._forget()
            self._answered_under = settings
        if self._telescope is None:
            self._telescope = self._make_telescope()
        self._telescope.verbose = self.verbose > 0
        return self._telescope

    @property
    def kernel_weights_(self) -> NDArray:
        """Weights of the training labels in the training predictions, (n_train, n_train); see `kernel_weights`."""
        telescope = self.telescope_
        if self._kernel_weights is None:
            self._kernel_weights = read_only(telescope.kernel_weights(None))
        return self._kernel_weights

    @property
    def self_influence_(self) -> NDArray:
        """Influence of every training row on its own prediction, (n_train,) or (n_train, n_outputs)."""
        telescope = self.telescope_
        if self._self_influence is None:
            self._self_influence = read_only(telescope.self_influence())
        return self._self_influence

    @property
    def effective_params_(self) -> float:
        """Effective parameters on the rows trained on, the sum over outputs."""
        return self._summary()[0].value.item()

    @property
    def effective_params_se_(self) -> float:
        """Standard error of `effective_params_`; 0 where it is exact. See `effective_params` for what it promises."""
        return self._summary()[0].standard_error.item()

    @property
    def degrees_of_freedom_(self) -> float:
        """Trace of `kernel_weights_`, taken over the rows trained on and summed over outputs."""
        return self._summary()[1].value.item()

    @property
    def degrees_of_freedom_se_(self) -> float:
        """Standard error of `degrees_of_freedom_`; 0 where it is exact."""
        return self._summary()[1].standard_error.item()

    def _summary(self) -> tuple[Estimate, Estimate]:
        telescope = self.telescope_
        if self._training_summary is None:
            self._training_summary = telescope.training_summary()
        return self._training_summary

    # -- questions about any query -----------------------------------------------------------------------------------

    def staged_predict(self, X: Any, stages: Any = None, *, approximation: str | None = None) -> Iterator[NDArray]:
        """Predict after each stage.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        stages : None, int or array-like of int, default=None
            All stages 1..n_stages_; that many evenly spaced ones with the last; or exactly those (0 is the start).
        approximation : {None, "telescoping", "linearized"}, default=None
            The model itself; the telescoping model f_0 + sum of first-order stages; or the model linearised at its
            start. A boosted ensemble is its own telescoping model and has no linearised one.

        Returns
        -------
        generator of ndarray of shape (n_query,) or (n_query, n_outputs)
            One prediction a stage.

        Raises
        ------
        ValueError
            If the approximation or a stage does not exist.
        """
        if approximation not in (None, "telescoping", "linearized"):
            raise ValueError(f"approximation must be None, 'telescoping' or 'linearized', got {approximation!r}.")
        telescope = self.telescope_
        if approximation == "linearized" and not telescope.has_linearized:
            raise ValueError(
                f"approximation={approximation!r} does not exist for {type(self).__name__}: its stages are not steps "
                "in parameters. Use approximation='telescoping', which is the model itself."
            )
        rows = self._query(X).copy()  # the caller may change X between two stages
        asked = resolve_stages(stages, telescope.n_stages)
        if approximation == "linearized":
            return telescope.staged_linearized(rows, asked)
        if approximation == "telescoping":
            return telescope.staged_telescoping(rows, asked)
        return telescope.staged_model(rows, asked)

    def kernel_weights(self, X: Any, *, output: Any = None) -> NDArray:
        """Weight of every training label in every prediction.

        ``kernel_weights(X) @ y + offset(X)`` rebuilds the prediction: exactly for trees, to the accuracy that
        `approximation_error` reports for nets. Units are those of the label that the estimator saw.

        Outputs of one net share its hidden layers, so that a prediction depends on the labels of all outputs:
        ``numpy.tensordot(kernel_weights(X), y, 2) + offset(X)`` rebuilds it, (n_query, n_outputs).

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        output : int, "each" or None, default=None
            For models of several outputs: the weights of one output's labels in its own predictions; these for each
            output; or all weights.

        Returns
        -------
        ndarray of shape (n_query, n_train)
            S; columns follow the rows given to `fit`, rows not trained on have zero columns. With several outputs it is
            (n_query, n_outputs, n_train, n_outputs), entry [x, c, i, d] the weight of label d of row i in output c;
            with ``output="each"`` it is (n_query, n_outputs, n_train).

        Raises
        ------
        MemoryError
            If the result would not fit in the machine's memory.
        ValueError
            If there is no such output.
        """
        return self.telescope_.kernel_weights(self._query(X), output)

    def influence(self, X: Any, *, output: int | None = None) -> NDArray:
        """Influence of every training row on every prediction: the derivative of the prediction in the row's weight.

        What was learned besides is held fixed: the structure of trees; the batches of a net, its learning rates and the
        Jacobians along its run. To first order, a prediction without row i is ``predict(X) - w * influence(X)[:, i]``,
        with w the weight of the row. Units are those of the label, or of the raw score for a loss with a link.

        For trees this is LeafInfluence with fixed structure [1]_. It costs one to three times what `kernel_weights`
        cost. A row that is not in the bag of a tree does not count there. Where leaves or the start are quantiles, as
        for medians, they do not depend on weights while the same rows define them: their influence is zero. It is not
        known with `path_smooth`.

        For nets the weights are those of mean 1 over the rows trained on. Where the optimiser divides by moments of its
        gradients, as Adam does, these moments respond too; kernel weights hold them fixed.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        output : int or None, default=None
            For models of several outputs: the output whose predictions are asked about; None stands for all.

        Returns
        -------
        ndarray of shape (n_query, n_train)
            D, for all of several outputs (n_query, n_outputs, n_train); columns follow the rows given to `fit`. A row
            of weight zero that training was given has the influence that a little weight would have; rows held out for
            early stopping have zero columns.

        Raises
        ------
        MemoryError
            If the result would not fit in the machine's memory.
        ValueError
            If the influence is not known for the settings of the model, or the response of a net is unstable.

        References
        ----------
        .. [1] B. Sharchilev, Y. Ustinovskiy, P. Serdyukov, M. de Rijke. "Finding Influential Training Samples for
           Gradient Boosted Decision Trees". ICML 2018.

        Examples
        --------
        >>> import numpy as np
        >>> from telescoping_sklearn import TelescopingGBTRegressor
        >>> X, y = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([2.0, 4.0, 8.0, 8.0])
        >>> stump = TelescopingGBTRegressor(n_estimators=1, learning_rate=1.0, min_child_samples=1).fit(X, y)
        >>> stump.predict(X[:1])  # the mean of the first two labels, whatever the others weigh
        array([3.])
        >>> stump.influence(X[:1]).round(6) + 0.0
        array([[-0.5,  0.5,  0. ,  0. ]])
        """
        return self.telescope_.influence(self._query(X), output=output)

    def staged_influence(self, X: Any, stages: Any = None, *, output: int | None = None) -> NDArray:
        """Influence of every training row on every prediction, along training.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        stages : None, int or array-like of int, default=None
            As in `staged_predict`.
        output : int or None, default=None
            As in `influence`.

        Returns
        -------
        ndarray of shape (n_stages, n_query, n_train)
            `influence` after each stage.

        Raises
        ------
        MemoryError, ValueError
            As in `influence`.
        """
        return self.telescope_.staged_influence(self._query(X), stages, output=output)

    def top_examples(self, X: Any, k: int = 5, *, by: str = "weight", output: int | None = None) -> pd.DataFrame:
        """Find the training rows that weigh most in every prediction, or that influence it most.

        Queries are taken in blocks that fit scikit-learn's ``working_memory``, so that the matrix of all weights is
        never held.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        k : int, default=5
            Training rows to find for each query, at most as many as were trained on.
        by : {"weight", "influence"}, default="weight"
            Whether rows are ranked by their kernel weight, or by their `influence`.
        output : int or None, default=None
            The output that is asked about, for models of several; its labels are ranked and shown.

        Returns
        -------
        pandas.DataFrame
            ``k`` lines a query, the largest absolute value first. Columns: ``query``, the position of the query, or
            its label in the index where X is a DataFrame; ``row``, the position of the training row in what `fit` was
            given; ``index``, its label in the index, only where `fit` was given a DataFrame; ``weight`` or
            ``influence``, its kernel weight or influence; ``label``, its training label. Rows that were not trained on
            never appear.

        Raises
        ------
        ValueError
            If ``k`` is less than 1 or more than the number of rows trained on, or ``by`` is neither of the two; or if
            the model has several outputs and none is given.
        """
        telescope = self.telescope_
        rows, found = telescope.top_examples(self._query(X), k, by=by, output=output)
        labels = telescope.y[:, output] if telescope.output_shape else telescope.y
        table = pd.DataFrame({"row": rows.ravel(), by: found.ravel(), "label": labels[rows.ravel()]})
        table.insert(0, "query", _query_labels(X, len(rows)).to_flat_index().repeat(k))
        if self._training_index is not None:
            table.insert(2, "index", self._training_index.to_flat_index()[rows.ravel()])
        return table

    def breakdown(self, X: Any, stages: Any = None) -> pd.DataFrame:
        """Split predictions into what the start and every stage of training contributed.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        stages : None, int or array-like of int, default=None
            As in `staged_predict`. Between two stages asked for, contributions are added up and stand at the later
            one.

        Returns
        -------
        pandas.DataFrame
            One line for the start, stage 0, and one for each stage asked for; one column a query, named by its
            position, or by its label in the index where X is a DataFrame; with several outputs one column a query and
            output. Columns add up to the telescoping model after the last stage asked for: for trees the prediction,
            for nets close to it, as `approximation_error` reports.

        Raises
        ------
        ValueError
            If a stage does not exist.
        """
        telescope = self.telescope_
        stages, contributions = telescope.breakdown(self._query(X), stages)
        columns = _query_labels(X, contributions.shape[1])
        if telescope.output_shape:
            queries = columns.to_flat_index()
            columns = pd.MultiIndex.from_product([queries, range(telescope.n_outputs)], names=["query", "output"])
        return pd.DataFrame(
            contributions.reshape(len(stages), -1), index=pd.Index(stages, name="stage"), columns=columns
        )

    def offset(self, X: Any) -> NDArray:
        """Predict what is left when all labels are zero.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.

        Returns
        -------
        ndarray of shape (n_query,) or (n_query, n_outputs)
            c(x); zero for trees boosted from the mean.
        """
        return self.telescope_.offset(self._query(X))

    def effective_params(
        self,
        X: Any,
        *,
        n_probes: int | str | None = "auto",
        return_se: bool = False,
        subsets: Subsets = None,
        output: int | None = None,
        with_train: bool = False,
    ) -> Any:
        """Effective parameters p = n/m sum_j ||s(x_j)||^2 on any rows.

        With several outputs each has p_c = n/m sum_j ||s_c(x_j)||^2, s_c(x) being its weights of the labels of all
        outputs, and p is their sum: label noise of variance v in every output gives output c a mean variance of
        v p_c / n. Nets that share nothing would have the sum of their effective parameters.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        n_probes : int, "auto" or None, default="auto"
            Random label columns to estimate with, at least 2 and better 16 or more. None is exact. "auto" is exact
            where that fits scikit-learn's ``working_memory`` and costs at most 1e11 operations (trees: where it takes
            some seconds), and takes 32 probes elsewhere.
        return_se : bool, default=False
            Whether to return the standard error too. It is 0 where the value is exact. For nets it holds what sections
            of more than one update leave, `section_bias_`.
        subsets : sequence of array-like of int or bool, default=None
            Rows of X that make up each set, by position or as a mask, at least one. All sets are answered
            in one pass.
        output : int or None, default=None
            For models of several outputs: the output whose p_c is asked for; None stands for the sum.
        with_train : bool, default=False
            Whether to answer for the rows trained on too, in the same pass: then a pair is returned, of what is
            returned otherwise and of p of the rows trained on (with its standard error where asked for). For nets this
            costs little more than one of the two, since the training rows are carried anyway.

        Returns
        -------
        float or ndarray of shape (n_subsets,)
            p, on the set or on each subset.
        float or ndarray of shape (n_subsets,)
            Its standard error, only with ``return_se=True``. With 16 probes or more the true value lies beyond four of
            them in about one case of a thousand or fewer. Where few directions of the labels carry the value, as in
            the first stages of a net, estimates are skewed: large errors fall below the true value. There the standard
            error is wider than the spread of the estimates, at 32 probes up to twice as wide.

        Raises
        ------
        ValueError
            If the response of a net is unstable before its last stage; see `last_sound_stage_`.
        """
        stages = [self.telescope_.n_stages]
        answers = self._effective_params(X, stages, n_probes, subsets, output, with_train)
        last = [tuple(part[0] if part.ndim > 1 else part.item() for part in estimate) for estimate in answers]
        shown = [answer if return_se else answer[0] for answer in last]
        return tuple(shown) if with_train else shown[0]

    def staged_effective_params(
        self,
        X: Any,
        stages: Any = None,
        *,
        n_probes: int | str | None = "auto",
        return_se: bool = False,
        subsets: Subsets = None,
        output: int | None = None,
        with_train: bool = False,
    ) -> Any:
        """Effective parameters on any rows along training.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        stages : None, int or array-like of int, default=None
            As in `staged_predict`.
        n_probes : int, "auto" or None, default="auto"
            As in `effective_params`.
        return_se : bool, default=False
            Whether to return the standard errors too.
        subsets : sequence of array-like of int or bool, default=None
            Rows of X that make up each set, by position or as a mask, at least one. All sets and stages are
            answered in one pass.
        output : int or None, default=None
            As in `effective_params`.
        with_train : bool, default=False
            As in `effective_params`: whether to answer for the rows trained on too, of shape (n_stages,).

        Returns
        -------
        ndarray of shape (n_stages,) or (n_stages, n_subsets)
            p after each stage, on the set or on each subset; nan, with a warning, after the `last_sound_stage_` of a
            net.
        ndarray of shape (n_stages,) or (n_stages, n_subsets)
            Standard errors, as in `effective_params`; only with ``return_se=True``.
        """
        answers = self._effective_params(X, stages, n_probes, subsets, output, with_train)
        shown = [tuple(estimate) if return_se else estimate.value for estimate in answers]
        return tuple(shown) if with_train else shown[0]

    def _effective_params(
        self, X: Any, stages: Any, n_probes: int | str | None, subsets: Subsets, output: int | None, with_train: bool
    ) -> tuple[Estimate, ...]:
        """Estimates on the rows and, where asked for, on the rows trained on."""
        telescope, rows = self.telescope_, self._query(X)
        asked = {"stages": stages, "n_probes": n_probes, "subsets": subsets, "output": output}
        if with_train:
            return telescope.staged_effective_params_with_train(rows, **asked)
        return (telescope.staged_effective_params(rows, **asked),)

    def staged_training_summary(
        self, stages: Any = None, *, n_probes: int | str | None = "auto", output: int | None = None
    ) -> pd.DataFrame:
        """Effective parameters and degrees of freedom on the rows trained on, along training, in one pass.

        Parameters
        ----------
        stages : None, int or array-like of int, default=None
            As in `staged_predict`.
        n_probes : int, "auto" or None, default="auto"
            As in `effective_params`.
        output : int or None, default=None
            As in `effective_params`; degrees of freedom of an output are those of its own labels.

        Returns
        -------
        pandas.DataFrame
            One line a stage; columns ``effective_params``, ``effective_params_se``, ``degrees_of_freedom`` and
            ``degrees_of_freedom_se``. The last stage has the values of the attributes of those names.
        """
        telescope = self.telescope_
        p, trace = telescope.staged_training_summary(stages=stages, n_probes=n_probes, output=output)
        columns = {
            "effective_params": p.value,
            "effective_params_se": p.standard_error,
            "degrees_of_freedom": trace.value,
            "degrees_of_freedom_se": trace.standard_error,
        }
        index = pd.Index(resolve_stages(stages, telescope.n_stages), name="stage")
        return pd.DataFrame(columns, index=index)

    def staged_kernel(self, X: Any, stages: Any = None) -> Iterator[sparse.csr_array]:
        """Give the kernel of each stage.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        stages : None, int or array-like of int, default=None
            As in `staged_predict`, without the start.

        Returns
        -------
        generator of scipy.sparse.csr_array of shape (n_query, n_train)
            k_t, without learning rate or regularisation. With several outputs it has a line for every output of a query
            and a column for every output of a training row, those of a row one after the other.
        """
        telescope = self.telescope_
        asked = resolve_stages(stages, telescope.n_stages, with_start=False)
        return telescope.staged_kernel(self._query(X).copy(), asked)

    def kernel_norms(self, X: Any, stages: Any = "auto") -> NDArray:
        """Norm of the kernel of each stage at each query.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        stages : "auto", None, int or array-like of int, default="auto"
            As in `staged_predict`, without the start. "auto" is all stages, except for nets trained with an adaptive
            optimiser, whose kernels cost far more: there it is 20 evenly spaced ones.

        Returns
        -------
        ndarray of shape (n_stages, n_query) or (n_stages, n_query, n_outputs)
            ||k_t(x)||_2.
        """
        return self.telescope_.kernel_norms(self._query(X), stages)

    def kernel_norm_ratio(self, X: Any, stages: Any = "auto", *, subsets: Subsets = None) -> Any:
        """Compare the largest kernel norms at query rows with those at the rows trained on.

        The stage mean of the largest kernel norm among the query rows, over the same for the rows trained on; with
        several outputs the largest of them all. Above 1,
        the largest kernel norm, averaged over stages, is larger at the query rows than at the rows trained on. At
        single stages it may be smaller.

        A boosted ensemble cannot warn of rows far from the training data by it: a query has the kernel of the training
        rows in its leaf, so that the ratio is at most 1 whatever the rows are. With equal weights all norms lie between
        1 / sqrt(n_train) and 1.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        stages : "auto", None, int or array-like of int, default="auto"
            As in `kernel_norms`.
        subsets : sequence of array-like of int or bool, default=None
            Rows of X that make up each set, by position or as a mask, at least one. All sets are answered
            in one pass.

        Returns
        -------
        float or ndarray of shape (n_subsets,)
            The ratio, for the set or for each subset.
        """
        ratio = self.telescope_.kernel_norm_ratio(self._query(X), stages, subsets)
        return ratio if subsets is not None else ratio.item()

    def approximation_error(self, X: Any, stages: Any = None, *, output: int | None = None) -> ApproximationError:
        """Report how far the telescope is from the model.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features)
            Query rows.
        stages : None, int or array-like of int, default=None
            Stages to report, as in `staged_predict`; the headline numbers are those of the last one.
        output : int or None, default=None
            For models of several outputs: the output whose gaps are asked for; None takes them all together.

        Returns
        -------
        ApproximationError
            Mean and largest gap of the telescoping model and of the reconstruction, at the end and by stage.
        """
        return self.telescope_.approximation_error(self._query(X), stages, output)

    # -- representations compute nothing -----------------------------------------------------------------------------

    def __dir__(self):
        """List attributes without the costly ones."""
        # scikit-learn's own __dir__ and HTML representation evaluate every attribute they are shown.
        return [name for name in object.__dir__(self) if name not in self._costly]

    def __getstate__(self):
        """Pickle what was learnt, not what was computed from it."""
        return {name: value for name, value in super().__getstate__().items() if name not in self._caches}

    def __setstate__(self, state):
        """Load what was learnt; pickles do not say that an array is read-only."""
        super().__setstate__(state)
        freeze_arrays(self)

    def _forget(self) -> None:
        """Drop what was computed under other settings."""
        for name in self._caches:
            self.__dict__.pop(name, None)
