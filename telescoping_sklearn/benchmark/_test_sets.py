"""Training rows and test sets: mixtures of regular and irregular rows, or steps along a column.

All test sets of a task are drawn from one pool of rows. A model predicts each row of the pool once, whatever the number
of sets, and all models are compared on the same rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import is_outlier_detector
from sklearn.pipeline import make_pipeline

from telescoping_sklearn import (
    FirstComponentDeviation,
    PrincipalDistance,
    TabularPreparation,
    irregularity_scores,
    mixture_test_sets,
)
from telescoping_sklearn.benchmark._data import Table

SCORES = {"principal_distance": PrincipalDistance, "first_component": FirstComponentDeviation}
_SKLEARN_MODULES = ("ensemble", "neighbors", "svm", "covariance", "linear_model")
_N_DECILES = 10
#: Why a column that was dropped cannot be used for a shift.
_WHY_DROPPED = {
    "constant": "it is constant",
    "identifier": "it is an identifier, all its values being different and telling nothing of each other",
}
#: Name of a test set: its kind and its value.
SetName = tuple[str, float]


class TestSets(NamedTuple):
    """Rows of a task, by position in the data set."""

    train: NDArray
    pool: NDArray  # all rows of the test sets; none is a training row
    sets: dict[SetName, NDArray]  # positions in the pool of each test set's rows


@dataclass(frozen=True)
class Score:
    """Test sets by irregularity score: mixtures of regular and irregular rows, and one set for every decile."""

    name: str  # one of the paper's two, ``sklearn:NAME`` or ``pyod:NAME``

    def measure(self, X: pd.DataFrame) -> NDArray:
        """Score rows; lower is more irregular."""
        if self.name in SCORES:
            return irregularity_scores(X, score=SCORES[self.name]())
        detector = _find_detector(self.name)()
        if "random_state" in detector.get_params():
            detector.set_params(random_state=0)
        if self.name.startswith("pyod:"):
            # PyOD's scores grow with irregularity; those of the training rows are in this attribute.
            return -detector.fit(TabularPreparation().fit_transform(X)).decision_scores_
        return irregularity_scores(X, score=make_pipeline(TabularPreparation(), detector))

    def divide(self, scores: NDArray, study: Any, seed: int) -> TestSets:
        """Draw training rows, mixtures and deciles of one seed.

        Deciles are computed over all rows; a decile's set holds its rows that are in the pool.
        """
        n = len(scores)
        rank = np.empty(n, dtype=int)
        rank[np.argsort(scores, kind="stable")] = np.arange(n)
        irregular = rank < round(study.irregular_fraction * n)
        size = min(study.test_size, int(irregular.sum()))
        train, mixtures = mixture_test_sets(irregular, study.proportions, test_size=size, random_state=seed)
        pool = np.unique(np.concatenate(list(mixtures.values())))
        sets = {("mixture", q): np.searchsorted(pool, np.sort(mixtures[q])) for q in study.proportions}
        decile = _N_DECILES - _N_DECILES * rank[pool] // n
        sets |= {("decile", float(d)): np.flatnonzero(decile == d) for d in np.unique(decile)}
        return TestSets(_at_most(train, study.max_train, seed), pool, sets)

    def check(self, table: Table, study: Any) -> str:
        """Return why a table cannot be divided; empty if it can."""
        X = table.X
        n_irregular = round(study.irregular_fraction * len(X))
        size = min(study.test_size, n_irregular)
        n_train = len(X) - n_irregular - size
        if size < 2 or n_train < 10:
            parts = f"{n_irregular} irregular, test sets of {size}, {max(n_train, 0)} to train on"
            return f"{len(X)} rows are too few: {parts}"
        return ""

    def describe(self) -> dict[str, Any]:
        """Describe the score as JSON types."""
        library = {"version": version("pyod")} if self.name.startswith("pyod:") else {}
        return {"score": self.name, **library}


@dataclass(frozen=True)
class Shift:
    """Test sets along a column: train on one end of it, test at increasing distance from there."""

    column: str  # of numbers or dates
    train_share: float = 0.5  # share of the rows, in the column's order, for training and the first test set
    steps: int = 5  # test sets along the rest, equally large as far as ties in the column allow
    descending: bool = False  # whether to train on the high end

    @property
    def name(self) -> str:
        """Name in the results."""
        return f"shift:{self.column}"

    def measure(self, X: pd.DataFrame) -> NDArray:
        """Share of rows up to each row along the column; rows of equal value have equal shares."""
        return X[self.column].rank(method="max", pct=True, ascending=not self.descending).to_numpy()

    def divide(self, scores: NDArray, study: Any, seed: int) -> TestSets:
        """Draw training rows and test sets of one seed; the set of value 0 has not shifted."""
        generator = np.random.default_rng(seed)
        near = generator.permutation(np.flatnonzero(scores <= self.train_share))
        edges = np.linspace(self.train_share, 1, self.steps + 1)
        # As large as a step, so that all sets are equally large; at most half of the rows.
        size = min(study.test_size, round(len(scores) * (1 - self.train_share) / self.steps), len(near) // 2)
        drawn = {("shift", 0.0): near[:size]}
        for low, high in pairwise(edges):
            there = np.flatnonzero((scores > low + 1e-12) & (scores <= high + 1e-12))
            if len(there):
                drawn["shift", round(float(high), 6)] = generator.permutation(there)[: study.test_size]
        pool = np.unique(np.concatenate(list(drawn.values())))
        sets = {name: np.searchsorted(pool, np.sort(rows)) for name, rows in drawn.items()}
        return TestSets(_at_most(np.sort(near[size:]), study.max_train, seed), pool, sets)

    def check(self, table: Table, study: Any) -> str:
        """Return why a table cannot be divided; empty if it can."""
        X, profile = table.X, table.profile
        remark = profile.remarks.get(self.column, "")
        if self.column in profile.dropped:
            why = _WHY_DROPPED[profile.dropped[self.column]]
            return f"column {self.column!r} was left out: {why}" + (f"; it {remark}" if remark else "")
        if self.column not in X:
            return f"there is no column {self.column!r}; there are {', '.join(X.columns)}"
        if X[self.column].dtype.kind not in "iuf":
            return f"column {self.column!r} holds categories, which have no order; give numbers or dates (YYYY-MM-DD)"
        if X[self.column].isna().any():
            return f"column {self.column!r} has missing values"
        shares = self.measure(X)
        if (shares <= self.train_share).sum() < 20 or (shares > self.train_share + 1e-12).sum() < 2:
            return f"column {self.column!r} has too few rows, or too few values, on one side of {self.train_share:g}"
        return ""

    def describe(self) -> dict[str, Any]:
        """Describe the shift as JSON types."""
        return {
            "shift": self.column,
            "train_share": self.train_share,
            "steps": self.steps,
            "descending": self.descending,
        }


def _at_most(train: NDArray, most: int | None, seed: int) -> NDArray:
    if most is None or most >= len(train):
        return train
    return np.sort(np.random.default_rng(seed).choice(train, most, replace=False))


def read_divisions(score: Any, shift: Any) -> Iterator[Score | Shift | str]:
    """Parse a study's `score` and `shift`: yields divisions, and an error line for every mistake."""
    names = (score,) if isinstance(score, str) else score
    shifts = (shift,) if isinstance(shift, Mapping) else (shift or ())
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        yield f"score must be a name or a list of names, got {score!r}"
        names = ()
    elif not names and not shifts:
        yield "score must name at least one score where there is no shift"
    for name in names:
        try:
            if name not in SCORES:
                _find_detector(name)
            yield Score(name)
        except ValueError as error:
            yield f"score {error}"
    if not isinstance(shifts, list | tuple):
        yield f"shift must be a table such as {{column = 'year'}}, got {shift!r}"
        return
    for item in shifts:
        try:
            yield _read_shift(item)
        except ValueError as error:
            yield f"shift: {error}"


def _find_detector(name: str) -> type:
    """Find the class of an outlier detector by its name in a study."""
    library, _, wanted = name.partition(":")
    if library == "sklearn" and wanted:
        for module in _SKLEARN_MODULES:
            klass = getattr(import_module(f"sklearn.{module}"), wanted, None)
            if isinstance(klass, type) and hasattr(klass, "get_params") and is_outlier_detector(klass()):
                return klass
        raise ValueError(f"{name!r}: scikit-learn has no outlier detector {wanted!r}")
    if library == "pyod" and wanted:
        return _find_pyod(name, wanted)
    raise ValueError(f"must be one of {', '.join(SCORES)}, sklearn:NAME or pyod:NAME, got {name!r}")


def _find_pyod(name: str, wanted: str) -> type:
    try:
        import_module("pyod")
    except ImportError as error:
        raise ValueError(f"{name!r} needs PyOD: pip install 'telescoping_sklearn[pyod]'") from error
    try:
        return getattr(import_module(f"pyod.models.{wanted.lower()}"), wanted)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r}: PyOD has no detector {wanted!r}") from error


def _read_shift(item: Any) -> Shift:
    if not isinstance(item, Mapping) or not isinstance(item.get("column"), str):
        raise ValueError(f"give a table that names a column, such as {{column = 'year'}}, got {item!r}")
    unknown = sorted(set(item) - set(Shift.__dataclass_fields__))
    if unknown:
        raise ValueError(f"no option {', '.join(unknown)}; there are {', '.join(Shift.__dataclass_fields__)}")
    shift = Shift(**item)
    if isinstance(shift.train_share, bool) or not isinstance(shift.train_share, float) or not 0 < shift.train_share < 1:
        raise ValueError(f"train_share must be above 0 and below 1, got {shift.train_share!r}")
    if isinstance(shift.steps, bool) or not isinstance(shift.steps, int) or shift.steps < 1:
        raise ValueError(f"steps must be a whole number from 1 on, got {shift.steps!r}")
    if not isinstance(shift.descending, bool):
        raise ValueError(f"descending must be true or false, got {shift.descending!r}")
    return shift
