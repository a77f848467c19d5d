"""Where tree libraries are read: one module or package a library.

A library gives two things. `LeafEnsemble` (in `boosting._ensemble`) holds the trees on the training rows: leaves, row
weights, denominators, the start, and what labels inject and responses feed back. `FittedTrees` predicts with the
library itself. Everything else in `boosting` works on these two and knows no library.

A library whose models can be given to `telescope` also has two functions, and an entry in `READERS`:

- ``recognises(model) -> bool``: whether the reader takes models of this type. It looks at the names of the type and its
  bases (`has_base`), and imports no library.
- ``read(model, X, y, sample_weight, output=None) -> ReadModel``: the model on its training rows. X is what the user
  passed, y and sample_weight are checked one-dimensional arrays of float64 (y as given for a classifier), and
  ``output`` is the class, or None. It raises ValueError, naming the setting and its value, where the algebra of a model
  is not known, and where the rows cannot be those of the model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from numpy.typing import NDArray

from telescoping_sklearn.boosting._ensemble import LeafEnsemble

#: The module of this package that reads the models of a library, by the first part of the library's name.
READERS = {"lightgbm": "lightgbm", "sklearn": "scikit_learn", "xgboost": "xgboost", "catboost": "catboost"}


class FittedTrees(Protocol):
    """A fitted model, as its library predicts with it."""

    def predict(self, X: NDArray, *, raw: bool = False) -> NDArray:
        """Predict with all stages, means or raw scores, (n_query,)."""

    def find_leaves(self, X: NDArray) -> NDArray:
        """Leaf of each row in each tree, (n_stages, n_query)."""

    def tree_outputs(self, X: NDArray) -> Iterator[NDArray]:
        """Yield what each tree adds to the raw score, (n_query,); the first includes the start."""


@dataclass(frozen=True, kw_only=True)
class ReadModel:
    """A fitted model on its training rows, as its reader found it.

    Attributes
    ----------
    ensemble : LeafEnsemble
        The trees on the training rows.
    trees : FittedTrees
        The model, as its library predicts with it. Its ``predict`` returns means where there is a ``link``, and raw
        scores otherwise.
    rows : ndarray of shape (n_train, n_features)
        Training rows, in the form that ``trees`` takes.
    y : ndarray of shape (n_train,)
        Labels as the ensemble uses them: for a classifier 0 and 1, else those given.
    prepare : callable
        Turns query rows, as the user has them, into the form of ``rows``, a two-dimensional array. It raises
        ValueError where the columns are not those of the model. It can be pickled, as everything here.
    start_at : callable, default=None
        Gives what the start adds at each row, (n_query,), where boosting starts from another model's predictions.
    raw : ndarray of shape (n_train,), default=None
        The model's own raw scores of the rows, where the reader has them already; None to let ``trees`` predict them.
    rounding : float, default=0.0
        Gap between the telescope and the model that the library's rounding explains, in units of the raw score, in
        addition to `spread_tolerance`.
    link : callable, default=None
        Maps raw scores to means; None where they are the same, or where a mean depends on several raw scores.
    clues : tuple of str, default=()
        Signs that the rows or their weights are not those of the model, such as other numbers of rows in its leaves.
        They are shown where the model is refused, the first first.
    clues_refuse : bool, default=False
        Whether clues are certain, and refuse the model also where predictions agree: rows given twice, or weights times
        a factor, can leave predictions as they are and change influence.
    squared_error : bool, default=False
        Whether each tree is fitted to the residuals of the trees before it under squared error, for which the
        criteria of a stopping curve are defined.
    """

    ensemble: LeafEnsemble
    trees: FittedTrees
    rows: NDArray
    y: NDArray
    prepare: Callable[[Any], NDArray]
    start_at: Callable[[NDArray], NDArray] | None = None
    raw: NDArray | None = None
    rounding: float = 0.0
    link: Callable[[NDArray], NDArray] | None = None
    clues: tuple[str, ...] = ()
    clues_refuse: bool = False
    squared_error: bool = False


class Reader(Protocol):
    """A module that reads the fitted models of one library; the docstring of this package has the details."""

    def recognises(self, model: Any) -> bool:
        """Whether the reader takes models of this type."""

    def read(self, model: Any, X: Any, y: NDArray, sample_weight: NDArray | None, output: Any = None) -> ReadModel:
        """Read a fitted model on its training rows."""


def refuse_row_count(n_model: int, n_given: int) -> None:
    """Raise ValueError unless as many rows are given as a model was trained on."""
    if n_model != n_given:
        raise ValueError(
            f"X has {n_given} rows, and the model was trained on {n_model}. Give the rows, labels and weights that fit "
            "was given, in the same order."
        )


def has_base(model: Any, library: str, names: set[str]) -> bool:
    """Whether the type of a model, or one of its bases, is a class of a library with one of the names."""
    bases = type(model).__mro__
    return any(base.__module__.split(".")[0] == library and base.__name__ in names for base in bases)


def find_reader(model: Any) -> Reader | None:
    """Find the reader of a model by the libraries of its type and bases; None where no reader takes it."""
    libraries = dict.fromkeys(base.__module__.split(".")[0] for base in type(model).__mro__)
    for library in libraries:
        if library in READERS:
            reader: Any = import_module(f"{__name__}.{READERS[library]}")
            if reader.recognises(model):
                return reader
    return None
