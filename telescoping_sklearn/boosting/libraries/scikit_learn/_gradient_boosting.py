"""GradientBoostingRegressor and GradientBoostingClassifier.

Bags, and the rows held out for early stopping, are drawn again from the seed of the model. Every draw of a bag is
followed by one draw for each tree of the iteration, which seeds its splits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble._gradient_boosting import _random_sample_mask
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state

from telescoping_sklearn.boosting.libraries import ReadModel
from telescoping_sklearn.boosting.libraries.scikit_learn._boosting import (
    Boosting,
    Start,
    huber_ensemble,
    mean_start,
    quantile_ensemble,
    quantile_start,
    squared_error_ensemble,
)
from telescoping_sklearn.boosting.libraries.scikit_learn._classes import choose_score, class_ensemble, class_start
from telescoping_sklearn.boosting.libraries.scikit_learn._columns import Columns
from telescoping_sklearn.boosting.libraries.scikit_learn._refusals import (
    refuse,
    refuse_drawn,
    refuse_output,
    refuse_seen,
)
from telescoping_sklearn.boosting.libraries.scikit_learn._trees import Drawn, GrownTree, SummedTrees, other_counts
from telescoping_sklearn.losses import Logistic

_SEED_LIMIT = np.iinfo(np.int32).max


def read_gradient_boosting(
    model: Any, X: Any, y: NDArray, sample_weight: NDArray | None, output: Any = None
) -> ReadModel:
    """Read a fitted model; see `telescoping_sklearn.boosting.libraries`."""
    if hasattr(model, "classes_"):
        return _read_classifier(model, X, y, sample_weight, output)
    refuse_output(model, output)
    if model.loss not in ("squared_error", "absolute_error", "quantile", "huber"):
        raise refuse(model, "loss", "leaf values are not known for it")
    prepare, rows, drawn = _rows(model, X, y, sample_weight)
    boosting = _boosting(model, rows, y, sample_weight, drawn, 0, _start_value(model), 1.0)
    start = _start(model, boosting)
    if model.loss == "squared_error":
        ensemble = squared_error_ensemble(boosting, start)
    elif model.loss == "huber":
        ensemble = huber_ensemble(boosting, start, model.alpha, rows)
    else:
        alpha = model.alpha if model.loss == "quantile" else 0.5
        ensemble = quantile_ensemble(boosting, start, alpha, rows, weighted=True)
    return boosting.read(ensemble, rows, prepare, clues=_clues(boosting), squared_error=model.loss == "squared_error")


def _read_classifier(model: Any, X: Any, y: NDArray, sample_weight: NDArray | None, output: Any) -> ReadModel:
    """Read the score of a class."""
    chosen = choose_score(model, y, output)
    if model.loss != "log_loss":
        raise refuse(model, "loss", "the classes must be boosted under 'log_loss'")
    prepare, rows, drawn = _rows(model, X, chosen.positions, sample_weight)
    factor = 1.0 if chosen.n_classes == 2 else (chosen.n_classes - 1) / chosen.n_classes
    boostings = [
        _boosting(model, rows, chosen.labels, sample_weight, drawn, score, start, factor, chosen.link)
        for score, start in enumerate(_class_starts(model, chosen.n_classes))
    ]
    boosting = boostings[chosen.score]
    start = class_start(boosting, chosen.n_classes)
    if not _is_learnt(model):
        start = Start(np.zeros(len(y)), boosting.trees.start)
    link = None if chosen.link is None else chosen.link.mean
    return boosting.read(class_ensemble(boostings, chosen, start), rows, prepare, link=link, clues=_clues(boosting))


def _rows(model: Any, X: Any, y: NDArray, sample_weight: NDArray | None) -> tuple[Columns, NDArray, Drawn]:
    """Prepare rows, and draw again which of them every tree saw."""
    prepare = Columns(model, allow_nan=False)
    rows = prepare(X)
    drawn = _draw(model, y)
    first = model.estimators_[0, 0].tree_
    if drawn.bags is None:
        weights = np.ones(len(y)) if sample_weight is None else sample_weight
        refuse_seen(int(first.n_node_samples[0]), weights[drawn.given])
    return prepare, rows, drawn


def _draw(model: Any, y: NDArray) -> Drawn:
    """Draw again the rows held out, and the bags; y are labels, or positions of classes."""
    given = np.ones(len(y), dtype=bool)
    if model.n_iter_no_change is not None:
        refuse_drawn(model, "n_iter_no_change")
        stratify = y if hasattr(model, "classes_") else None
        train, _ = train_test_split(
            np.arange(len(y)), random_state=model.random_state, test_size=model.validation_fraction, stratify=stratify
        )
        given[:] = False
        given[train] = True
    else:
        train = np.arange(len(y))
    if model.subsample == 1:
        return Drawn(given)
    refuse_drawn(model, "subsample")
    return Drawn(given, _bags(model, train, len(y)))


def _bags(model: Any, train: NDArray, n_rows: int) -> list[NDArray]:
    random_state, bags = check_random_state(model.random_state), []
    for _ in range(len(model.estimators_)):
        bag = np.zeros(n_rows, dtype=bool)
        in_bag = max(1, int(model.subsample * len(train)))
        bag[train] = _random_sample_mask(len(train), in_bag, random_state)
        bags.append(bag)
        random_state.randint(_SEED_LIMIT, size=model.n_trees_per_iteration_)
    return bags


def _boosting(
    model: Any,
    rows: NDArray,
    labels: NDArray,
    sample_weight: NDArray | None,
    drawn: Drawn,
    score: int,
    start: float,
    factor: float,
    loss: Logistic | None = None,
) -> Boosting:
    """Collect the trees of one score, and what they were grown on."""
    grown: Sequence[Any] = model.estimators_[:, score]
    trees = SummedTrees([GrownTree(tree.tree_, model.learning_rate) for tree in grown], start, loss, _start_at(model))
    rate = model.learning_rate * factor
    return Boosting(trees, trees.find_leaves(rows), labels, sample_weight, drawn, rate)


def _clues(boosting: Boosting) -> tuple[str, ...]:
    weights = boosting.row_weights
    clues = other_counts(
        boosting.trees.trees, boosting.leaves, lambda stage: boosting.drawn.rows_of(stage) & (weights > 0)
    )
    first = boosting.trees.trees[0]
    assert isinstance(first, GrownTree)
    unequal = np.ptp(first.weights / first.counts) > 1e-9 * first.weights.max()
    if boosting.sample_weight is None and unequal:
        clues += ("the model was trained with unequal weights: give sample_weight",)
    return clues


# -- where boosting starts ---------------------------------------------------------------------------------------------


class PredictedStart:
    """Start from the predictions of another estimator, which are held fixed."""

    def __init__(self, estimator: Any):
        self._estimator = estimator

    def __call__(self, X: NDArray) -> NDArray:
        """Return the start of each row, (n_query,)."""
        return np.asarray(self._estimator.predict(X), dtype=np.float64).ravel()


def _start_at(model: Any) -> PredictedStart | None:
    """Return the start by row where an estimator of the user's gives it; that of a classifier is refused."""
    init = model.init_
    if isinstance(init, str) or type(init) in (DummyRegressor, DummyClassifier):
        return None
    if hasattr(model, "classes_"):
        raise refuse(model, "init", "the start must be 'zero' or the shares of the classes")
    return PredictedStart(init)


def _is_learnt(model: Any) -> bool:
    """Whether the start depends on the labels in a way that is known."""
    init = model.init_
    if type(init) is DummyClassifier and init.strategy not in ("prior", "constant"):
        raise refuse(model, "init", "the start must be 'zero' or the shares of the classes")
    return type(init) in (DummyRegressor, DummyClassifier) and init.strategy != "constant"


def _start_value(model: Any) -> float:
    """Return the raw score that boosting starts from at every row."""
    return float(model.init_.constant_.ravel()[0]) if type(model.init_) is DummyRegressor else 0.0


def _start(model: Any, boosting: Boosting) -> Start:
    """Return the start of a regressor, by the strategy of its initial estimator."""
    if not _is_learnt(model):
        return Start(np.zeros(len(boosting.labels)), _start_value(model))
    if model.init_.strategy == "mean":
        return mean_start(boosting)
    return quantile_start(boosting, 0.5 if model.init_.strategy == "median" else model.init_.quantile)


def _class_starts(model: Any, n_classes: int) -> list[float]:
    """Return the raw scores that boosting starts from, one of two classes, or one a class."""
    _start_at(model)  # refuses what is not known
    _is_learnt(model)
    if isinstance(model.init_, str):
        return [0.0] * (1 if n_classes == 2 else n_classes)
    eps = np.finfo(np.float64).eps
    shares = np.clip(model.init_.predict_proba(np.zeros((1, 1)))[0], eps, 1 - eps)
    if n_classes == 2:
        return [float(logit(shares[1]))]
    return list(np.log(shares) - np.log(shares).mean())
