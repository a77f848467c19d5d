"""RecordedTelescope: the answers of a module whose training loop was recorded."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from telescoping_sklearn._unwrap import unwrap
from telescoping_sklearn.base import draw_seed
from telescoping_sklearn.neural._float_range import refuse_overflow
from telescoping_sklearn.neural._isolation import isolates
from telescoping_sklearn.neural._path import Path
from telescoping_sklearn.neural._recorded_run import RecordedRunEstimator
from telescoping_sklearn.neural._training_record import TrainingRecord, as_array
from telescoping_sklearn.neural._training_recorder import record_of


class RecordedTelescope(RecordedRunEstimator):
    r"""A module that was trained in one's own loop, and its telescope.

    `telescope` makes one of a module and the record of its training.

    Parameters
    ----------
    rule : {"midpoint", "left", "gauss2"}, default="midpoint"
        Where between two updates the Jacobian is evaluated, as for `TelescopingMLPRegressor`. May be set later.
    section : "auto" or int, default="auto"
        Updates covered by one evaluation. May be set later.
    section_tol : float, default=0.01
        Mean gap that "auto" allows at any section's end, in standard deviations of the labels. May be set later.
    random_state : None, int, RandomState or Generator, default=None
        Seeds probes and the rows on which sections are chosen.
    verbose : bool, default=False
        Whether long work shows its progress.

    Attributes
    ----------
    n_stages_ : int
        Number of parameter updates up to the parameters that the module has.
    n_params_ : int
        Number of trained parameters.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Numbers of a row, and the names of the columns if X had them.
    seed_ : int
        The seed drawn from `random_state`.
    section_ends_, section_gap_, section_bias_, last_sound_stage_, record_nbytes_
        As of `TelescopingMLPRegressor`.

    See Also
    --------
    record_training : Records a loop of plain torch.
    TrainingRecorder : Records a skorch net.

    Notes
    -----
    The gradient of update t in the parameters is :math:`\sum_i c_{it} J_i^T (f_i - y_i)`, with the factors
    :math:`c_{it}` as they were recorded: 2 / b for ``torch.nn.MSELoss``, times the factor of clipping. A row that is
    never used has zero columns. `influence` is the derivative in a factor of the row's loss that is 1 as trained.
    """

    def __init__(
        self,
        *,
        rule: str = "midpoint",
        section: int | str = "auto",
        section_tol: float = 0.01,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.rule = rule
        self.section = section
        self.section_tol = section_tol
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> "RecordedTelescope":
        """Raise TypeError: a loop that is not ours cannot be run again.

        Parameters
        ----------
        X, y : array-like
            Not used.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError("A recorded loop cannot be run again by fit. Train and record again, and call telescope.")

    def predict(self, X: Any) -> NDArray:
        """Predict as the module does.

        Parameters
        ----------
        X : array-like of shape (n_query, ...)
            Query rows, as the module is given them.

        Returns
        -------
        ndarray of shape (n_query,) or (n_query, n_outputs)
            Outputs, evaluated in float64.
        """
        return next(self.staged_predict(X, [self.n_stages_]))

    @isolates
    def _attach(self, model: Any, X: Any, y: Any, record: Any) -> "RecordedTelescope":
        """Take over a record, after checking that it is that of the model and explains every gradient."""
        self._around = unwrap(model)
        record, module = record_of(self._around.model, record)
        if not record.n_updates:
            raise ValueError("record holds no update: no step was made inside its with statement.")
        X = self._around.rows(X)
        labels = as_array(y, "y")
        record.refuse_other_rows(as_array(X, "X"), self._around.labels(labels) if self._around.of_labels else labels)
        stage = record.kept_stage(module)
        if not stage:
            raise ValueError(
                "The parameters of the module are not those of the record after any update. Give the module as it was "
                "trained, or record again: something changed it after the with statement."
            )
        self._row_shape = record.row_shape
        validate_data(self, self._flat_rows(X), dtype=np.float64)
        self._trajectory = record.trajectory(stage)
        self._rows, self._loss = record.training_rows(stage), record.loss
        self._network, self._dtype, self._device = record.network, record.dtype, record.device
        self._chosen_sections = {}
        self._around = self._around._replace(model=None)
        self._training_index = X.index.copy(deep=True) if hasattr(X, "iloc") else None
        self.n_stages_, self.n_params_ = stage, record.network.n_params
        self.seed_ = draw_seed(self.random_state)
        record.check(self._make_path(), self._rows.y)
        return self

    def _make_path(self) -> Path:
        rows = self._rows
        return Path(self._network, self._trajectory, rows.X, rows.weights, self.rule, self._dtype, self._device)

    def _query(self, X: Any) -> NDArray:
        check_is_fitted(self)
        rows = self._flat_rows(self._around.rows(X))
        rows = validate_data(self, rows, dtype=np.float64, reset=False)
        refuse_overflow(rows, self._dtype, getattr(self, "feature_names_in_", None))
        return rows

    def _flat_rows(self, X: Any) -> Any:
        """Return rows with one axis each; frames stay as they are."""
        if isinstance(X, Tensor):
            X = as_array(X, "X")
        if np.ndim(X) > 2 and np.shape(X)[1:] != self._row_shape:
            raise ValueError(f"X has rows of shape {np.shape(X)[1:]}, and the module takes {self._row_shape}.")
        return np.reshape(X, (len(X), -1)) if np.ndim(X) > 2 else X


def recorded_telescope(model: Any, X: Any, y: Any, record: TrainingRecord | None, **settings: Any) -> RecordedTelescope:
    """Make the telescope of a module whose training was recorded; see `telescoping_sklearn.telescope`."""
    return RecordedTelescope(**settings)._attach(model, X, y, record)
