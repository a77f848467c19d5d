"""The results table: one row for every task and test set."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

#: Columns of the results, and their meanings.
COLUMNS = {
    "data": "data set",
    "model": "model",
    "seed": "seed of the rows drawn and of the fit",
    "score": "irregularity score, or shift:COLUMN",
    "set_kind": "mixture, decile or shift",
    "set_value": "share of irregular rows; decile, 10 the most irregular; share along the shift's column",
    "n_train": "training rows",
    "n_test": "rows of the test set",
    "mse": "mean squared error, in units of the variance of the training labels",
    "mae": "mean absolute error, in units of their standard deviation",
    "r2": "1 - squared error / variance of the test set's own labels",
    "kernel_norm_ratio": "largest kernel norm on the test set, averaged over stages, over that on the training rows",
    "effective_params": "effective parameters on the test set",
    "effective_params_se": "standard error of that estimate; 0 where it is exact",
    "effective_params_train": "effective parameters on the training rows",
    "effective_params_train_se": "standard error of that estimate",
    "n_stages": "trees, or updates of the net",
    "fit_seconds": "seconds of the fit, without tuning",
    "predict_seconds": "seconds of predicting every test row once",
    "explain_seconds": "seconds of kernel norms and effective parameters, for all test sets together",
    "tuned": "whether the settings were tuned",
    "settings": "given and tuned settings, as JSON",
    "mse_se": "standard error of mse over the rows of the test set",
}
_TEXT = ("data", "model", "score", "set_kind", "settings")
_WHOLE = ("seed", "n_train", "n_test")


def as_results(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Build the results table from rows, each a mapping from column names to values."""
    table = pd.DataFrame(list(rows), columns=list(COLUMNS))
    kinds: dict[str, Any] = {name: float for name in COLUMNS}
    kinds |= dict.fromkeys(_TEXT, "str") | dict.fromkeys(_WHOLE, "int64") | {"tuned": bool}
    return table.astype(kinds)
