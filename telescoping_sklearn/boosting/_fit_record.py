"""What a fit is given and remembers, so that a later one can add trees to it, and what must not change in between."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._bagging import BaggingPlan
from telescoping_sklearn.boosting._rows import Rows

#: Parameters that a second fit may change: they do not touch the trees that there are.
_FREE = ("n_estimators", "n_jobs", "importance_type", "warm_start", "record", "verbose")


class FitRecord(NamedTuple):
    """What a fit was given, as checked and encoded, in arrays of its own where a record is kept.

    Attributes
    ----------
    params : mapping
        Parameters of the estimator.
    train : Rows
        All training rows.
    validation : Rows or None
        Validation rows given to `fit`.
    given, held_out : ndarray of int, or None
        Positions of the training rows that LightGBM is given, and of those that early stopping watches instead; None
        where nothing is held out.
    categorical : list of int
        Columns split by category.
    plans : tuple of (int, BaggingPlan)
        Number of trees before each stretch, and how its bags were drawn.
    label_shift : float
        What is taken off the labels that LightGBM is given; see `label_shift` in `_rows`.
    """

    params: Mapping[str, Any]
    train: Rows
    validation: Rows | None
    categorical: list[int]
    given: NDArray | None = None
    held_out: NDArray | None = None
    plans: tuple[tuple[int, BaggingPlan], ...] = ()
    label_shift: float = 0.0

    def trained(self) -> Rows:
        """Rows that LightGBM is given, as it is given them."""
        return (self.train if self.given is None else self.train.take(self.given)).shifted(self.label_shift)

    def watched(self) -> Rows | None:
        """Rows that early stopping watches, as LightGBM is given them."""
        rows = self.validation if self.held_out is None else self.train.take(self.held_out)
        return None if rows is None else rows.shifted(self.label_shift)


def _arrays(given: FitRecord) -> dict[str, NDArray | None]:
    """Name the arrays of all rows as `fit` does."""
    watched = {} if given.validation is None else given.validation._asdict()
    return given.train._asdict() | {f"{name}_val": array for name, array in watched.items()}


def _same(before: NDArray | None, after: NDArray | None) -> bool:
    if before is None or after is None:
        return before is after
    return np.array_equal(before, after, equal_nan=True)


def refuse_changes(old: FitRecord, new: FitRecord) -> None:
    """Raise ValueError naming what changed between a fit and the one that is to add trees to it.

    Parameters
    ----------
    old, new : FitRecord
        What the two fits were given.

    Raises
    ------
    ValueError
        If anything but the number of trees changed, or trees would have to go.
    """
    changed = [name for name, value in new.params.items() if name not in _FREE and value != old.params[name]]
    before, after = _arrays(old), _arrays(new)
    changed += [name for name in before | after if not _same(before.get(name), after.get(name))]
    if old.categorical != new.categorical:
        changed.append("categorical_feature")
    if changed:
        raise ValueError(
            f"warm_start=True adds trees to the model that is there, and {', '.join(changed)} changed since it was "
            "fitted. Give the same data and settings, or use warm_start=False."
        )
    if new.params["n_estimators"] < old.params["n_estimators"]:
        raise ValueError(
            f"n_estimators={new.params['n_estimators']} must be at least {old.params['n_estimators']}, the number of "
            "the fit before: warm_start=True only adds trees."
        )


def refuse_lone_validation(X_val: Any, y_val: Any, sample_weight_val: Any, early_stopping_rounds: int | None) -> None:
    """Raise ValueError where a validation set is incomplete, or nothing watches it.

    Parameters
    ----------
    X_val, y_val, sample_weight_val : array-like or None
        What `fit` was given.
    early_stopping_rounds : int or None
        Parameter of the estimator.

    Raises
    ------
    ValueError
        Naming what is missing.
    """
    if X_val is None and (y_val is not None or sample_weight_val is not None):
        raise ValueError("y_val and sample_weight_val belong to X_val, which was not given.")
    if X_val is not None and y_val is None:
        raise ValueError("X_val needs y_val, the labels of its rows.")
    if X_val is not None and early_stopping_rounds is None:
        raise ValueError("X_val is what early stopping watches: set early_stopping_rounds, for example to 20.")
