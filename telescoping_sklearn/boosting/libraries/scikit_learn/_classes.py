"""Classes of classifiers, each with a score: which is explained, where its boosting starts, and its ensemble."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from telescoping_sklearn.boosting._ensemble import LeafEnsemble
from telescoping_sklearn.boosting.libraries.scikit_learn._boosting import Boosting, Start, newton_ensemble
from telescoping_sklearn.losses import Logistic

#: The loss of every score: of two classes as it is, of several with the scores of the others held fixed.
LOSS = Logistic(binary=True)


class ChosenClass(NamedTuple):
    """The class that is explained.

    Attributes
    ----------
    position : int
        Its position among the classes of the model.
    n_classes : int
        Number of classes.
    positions : ndarray of int of shape (n_train,)
        Position of the class of every training row.
    """

    position: int
    n_classes: int
    positions: NDArray

    @property
    def labels(self) -> NDArray:
        """Labels 1 in the class, and 0 in the others, (n_train,)."""
        return (self.positions == self.position).astype(np.float64)

    @property
    def n_scores(self) -> int:
        """Number of raw scores: one for two classes, else one a class."""
        return 1 if self.n_classes == 2 else self.n_classes

    @property
    def score(self) -> int:
        """Position of the raw score of the class."""
        return 0 if self.n_classes == 2 else self.position

    @property
    def link(self) -> Logistic | None:
        """The loss whose link maps the raw score to a probability; None where that depends on several scores."""
        return LOSS if self.n_scores == 1 else None


def choose_class(model: Any, y: NDArray, output: Any) -> ChosenClass:
    """Choose the class ``output`` of a classifier, or the second of two.

    Raises
    ------
    ValueError
        If there is no such class, none was chosen among more than two, or a label is not a class.
    """
    classes = model.classes_.tolist()
    if output is None and len(classes) != 2:
        raise ValueError(
            f"{type(model).__name__} has {len(classes)} classes, each with a score of its own: choose one of {classes} "
            "with output=."
        )
    if output is not None and output not in classes:
        raise ValueError(f"output={output!r} is not a class of {type(model).__name__}, which has {classes}.")
    unknown = ~np.isin(y, model.classes_)
    if unknown.any():
        raise ValueError(
            f"y has the label {y[unknown].tolist()[0]!r}, which is not a class of {type(model).__name__}: {classes}."
        )
    position = 1 if output is None else classes.index(output)
    return ChosenClass(position, len(classes), np.searchsorted(model.classes_, y))


def choose_score(model: Any, y: NDArray, output: Any) -> ChosenClass:
    """Choose as `choose_class`; raise ValueError for the first of two classes, which has no raw score of its own."""
    chosen = choose_class(model, y, output)
    if chosen.n_classes == 2 and chosen.position == 0:
        first, second = model.classes_.tolist()
        raise ValueError(
            f"output={first!r} has no score of its own: {type(model).__name__} has one score for two classes, that of "
            f"{second!r}. The score of the other is its negative; leave output out."
        )
    return chosen


def class_start(boosting: Boosting, n_classes: int) -> Start:
    """Return the start of a class, with its derivative in the labels, from its share p of the weights.

    The start of two classes is logit(p). Of several classes it is log(p), less the mean of the logarithms.
    """
    weights = boosting.row_weights / boosting.row_weights.sum()
    p = float(weights @ boosting.labels)
    slope = 1 / (p * (1 - p)) if n_classes == 2 else (1 - 1 / n_classes) / p
    return Start(weights * slope, boosting.trees.start, is_mean=True)


def class_ensemble(boostings: Sequence[Boosting], chosen: ChosenClass, start: Start) -> LeafEnsemble:
    """Make the ensemble of the class that is explained, from the trees of all scores."""
    others = [
        (boosting.trees.start, boosting.leaves, [tree.values for tree in boosting.trees.trees])
        for score, boosting in enumerate(boostings)
        if score != chosen.score
    ]
    return newton_ensemble(boostings[chosen.score], start, LOSS, others)
