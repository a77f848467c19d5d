"""What a fit is given and remembers, so that a later one can add trees to it, and what must not change in between."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import joblib
import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._bagging import BaggingPlan
from telescoping_sklearn.boosting._rows import Rows

#: Parameters that a second fit may change: they do not touch the trees that there are.
_FREE = ("n_estimators", "n_jobs", "importance_type", "warm_start", "record", "verbose")


class FitRecord(NamedTuple):
    """What a fit was given, as checked and encoded.

    Attributes
    ----------
    params : mapping
        Parameters of the estimator.
    train : Rows
        All training rows.
    validation : Rows or None
        Validation rows given to `fit`.
    fingerprints : mapping of str to str
        Hashes of the arrays of all rows, by their names in `fit`: arrays are kept by reference, and may be changed.
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
    fingerprints: Mapping[str, str]
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


def fingerprint(train: Rows, validation: Rows | None) -> dict[str, str]:
    """Hash what a fit was given, whatever the memory order of its arrays.

    Parameters
    ----------
    train : Rows
        All training rows.
    validation : Rows or None
        Validation rows given to `fit`.

    Returns
    -------
    dict of str to str
        Hashes by the names of the arrays in `fit`; arrays not given are left out.
    """
    arrays = train._asdict()
    if validation is not None:
        arrays |= {f"{name}_val": array for name, array in validation._asdict().items()}
    return {name: joblib.hash(np.ascontiguousarray(array)) for name, array in arrays.items() if array is not None}


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
    # Without a warm start in sight none are made, as they would cost every fit: then what is there now is compared.
    before, after = (given.fingerprints or fingerprint(given.train, given.validation) for given in (old, new))
    changed += [name for name in dict(before) | dict(after) if before.get(name) != after.get(name)]
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
