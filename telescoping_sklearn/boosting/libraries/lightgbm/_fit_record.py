"""The record of a fit: its settings and data. A warm start compares them with its own."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting.libraries.lightgbm._bagging import BagDraws
from telescoping_sklearn.boosting.libraries.lightgbm._rows import Rows

#: Parameters that a warm start may change: they do not affect the existing trees.
_FREE = ("n_estimators", "n_jobs", "importance_type", "warm_start", "record", "verbose")


class FitRecord(NamedTuple):
    """Settings and data of a fit, checked and encoded; the arrays are copies where a record is kept.

    Attributes
    ----------
    params : mapping
        Parameters of the estimator.
    train : Rows
        All training rows.
    validation : Rows or None
        Validation rows given to `fit`.
    given, held_out : ndarray of int, or None
        Positions of the training rows given to LightGBM, and of those held out for early stopping; None where nothing
        is held out.
    categorical : list of int
        Columns split by category.
    plans : tuple of (int, BagDraws)
        For every fit that added trees: the number of trees before it, and how it drew its bags.
    label_shift : float
        Constant subtracted from the labels that LightGBM is given; see `label_shift` in `_rows`.
    """

    params: Mapping[str, Any]
    train: Rows
    validation: Rows | None
    categorical: list[int]
    given: NDArray | None = None
    held_out: NDArray | None = None
    plans: tuple[tuple[int, BagDraws], ...] = ()
    label_shift: float = 0.0

    def trained(self) -> Rows:
        """Rows that LightGBM trains on, with shifted labels."""
        return (self.train if self.given is None else self.train.take(self.given)).shifted(self.label_shift)

    def validation_rows(self) -> Rows | None:
        """Rows for early stopping, with shifted labels."""
        rows = self.validation if self.held_out is None else self.train.take(self.held_out)
        return None if rows is None else rows.shifted(self.label_shift)


def _arrays(given: FitRecord) -> dict[str, NDArray | None]:
    """Arrays of the record by the names that `fit` uses."""
    validation_rows = {} if given.validation is None else given.validation._asdict()
    return given.train._asdict() | {f"{name}_val": array for name, array in validation_rows.items()}


def _same(before: NDArray | None, after: NDArray | None) -> bool:
    if before is None or after is None:
        return before is after
    return np.array_equal(before, after, equal_nan=True)


def refuse_changes(old: FitRecord, new: FitRecord) -> None:
    """Raise ValueError naming what changed between an earlier fit and a warm start, or if trees would be removed."""
    changed = [name for name, value in new.params.items() if name not in _FREE and value != old.params[name]]
    before, after = _arrays(old), _arrays(new)
    changed += [name for name in before | after if not _same(before.get(name), after.get(name))]
    if old.categorical != new.categorical:
        changed.append("categorical_feature")
    if changed:
        raise ValueError(
            f"warm_start=True adds trees to the existing model, and {', '.join(changed)} changed since it was "
            "fitted. Give the same data and settings, or use warm_start=False."
        )
    if new.params["n_estimators"] < old.params["n_estimators"]:
        raise ValueError(
            f"n_estimators={new.params['n_estimators']} must be at least {old.params['n_estimators']}, the number of "
            "the fit before: warm_start=True only adds trees."
        )


def refuse_lone_validation(X_val: Any, y_val: Any, sample_weight_val: Any, early_stopping_rounds: int | None) -> None:
    """Raise ValueError where a validation set is incomplete, or given without early stopping."""
    if X_val is None and (y_val is not None or sample_weight_val is not None):
        raise ValueError("y_val and sample_weight_val need X_val, which was not given.")
    if X_val is not None and y_val is None:
        raise ValueError("X_val needs y_val, the labels of its rows.")
    if X_val is not None and early_stopping_rounds is None:
        raise ValueError("X_val is used for early stopping: set early_stopping_rounds, for example to 20.")
