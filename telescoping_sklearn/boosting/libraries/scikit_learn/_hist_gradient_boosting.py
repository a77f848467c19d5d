"""HistGradientBoostingRegressor and HistGradientBoostingClassifier.

The rows held out for early stopping are drawn again from the seed that the model keeps.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils.class_weight import compute_sample_weight

from telescoping_sklearn.boosting._ensemble import LeafEnsemble
from telescoping_sklearn.boosting.libraries import ReadModel, refuse_row_count
from telescoping_sklearn.boosting.libraries.scikit_learn._boosting import (
    Boosting,
    Start,
    mean_start,
    newton_ensemble,
    quantile_ensemble,
    quantile_start,
    squared_error_ensemble,
)
from telescoping_sklearn.boosting.libraries.scikit_learn._classes import choose_score, class_ensemble, class_start
from telescoping_sklearn.boosting.libraries.scikit_learn._columns import EncodedColumns
from telescoping_sklearn.boosting.libraries.scikit_learn._refusals import refuse, refuse_output
from telescoping_sklearn.boosting.libraries.scikit_learn._trees import BinnedTree, Drawn, SummedTrees, other_counts
from telescoping_sklearn.losses import Gamma, NonQuadraticLoss, Poisson

_SMOOTH: dict[str, NonQuadraticLoss] = {"poisson": Poisson(max_delta_step=0.0), "gamma": Gamma()}
_LOSSES = ("squared_error", "absolute_error", "quantile", *_SMOOTH)


def read_hist_gradient_boosting(
    model: Any, X: Any, y: NDArray, sample_weight: NDArray | None, output: Any = None
) -> ReadModel:
    """Read a fitted model; see `telescoping_sklearn.boosting.libraries`."""
    _refuse_settings(model)
    prepare = EncodedColumns(model)
    rows = prepare(X)
    if hasattr(model, "classes_"):
        return _read_classifier(model, prepare, rows, y, sample_weight, output)
    refuse_output(model, output)
    boosting = _boosting(model, rows, y, sample_weight, _draw(model, y), 0, _SMOOTH.get(model.loss))
    loss = _SMOOTH.get(model.loss)
    return boosting.read(
        _ensemble(model, boosting, rows),
        rows,
        prepare,
        rounding=_rounding(boosting),
        link=None if loss is None else loss.mean,
        clues=_clues(boosting),
        squared_error=model.loss == "squared_error",
    )


def _ensemble(model: Any, boosting: Boosting, rows: NDArray) -> LeafEnsemble:
    """Make the ensemble of a regressor."""
    if model.loss == "squared_error":
        return squared_error_ensemble(boosting, mean_start(boosting))
    if model.loss in _SMOOTH:
        loss = _SMOOTH[model.loss]
        _, weights = loss.start(boosting.row_weights, boosting.labels)
        return newton_ensemble(boosting, Start(weights, boosting.trees.start, is_mean=True), loss)
    alpha = 0.5 if model.loss == "absolute_error" else model.quantile
    weighted = boosting.sample_weight is not None
    return quantile_ensemble(boosting, quantile_start(boosting, alpha), alpha, rows, weighted=weighted)


def _read_classifier(
    model: Any, prepare: EncodedColumns, rows: NDArray, y: NDArray, sample_weight: NDArray | None, output: Any
) -> ReadModel:
    """Read the score of a class."""
    chosen = choose_score(model, y, output)
    if model.class_weight is not None:
        of_classes = compute_sample_weight(model.class_weight, y)
        sample_weight = of_classes if sample_weight is None else sample_weight * of_classes
    drawn = _draw(model, chosen.positions)
    boostings = [
        _boosting(model, rows, chosen.labels, sample_weight, drawn, score, chosen.link)
        for score in range(chosen.n_scores)
    ]
    boosting = boostings[chosen.score]
    ensemble = class_ensemble(boostings, chosen, class_start(boosting, chosen.n_classes))
    link = None if chosen.link is None else chosen.link.mean
    return boosting.read(ensemble, rows, prepare, rounding=_rounding(boosting), link=link, clues=_clues(boosting))


def _draw(model: Any, y: NDArray) -> Drawn:
    """Draw again the rows held out for early stopping; y are labels, or positions of classes."""
    given = np.ones(len(y), dtype=bool)
    if model.do_early_stopping_ and model.validation_fraction is not None:
        train, _ = train_test_split(
            np.arange(len(y)),
            test_size=model.validation_fraction,
            stratify=y if hasattr(model, "classes_") else None,
            random_state=model._random_seed,
        )
        trained = int(model._predictors[0][0].nodes["count"][0])
        if trained != len(y):  # else validation rows were given to fit
            given[:] = False
            given[train] = True
    return Drawn(given)


def _boosting(
    model: Any,
    rows: NDArray,
    labels: NDArray,
    sample_weight: NDArray | None,
    drawn: Drawn,
    score: int,
    loss: NonQuadraticLoss | None,
) -> Boosting:
    """Collect the trees of one score, and what they were grown on."""
    known, positions = model._bin_mapper.make_known_categories_bitsets()
    categories = {"known_cat_bitsets": known, "f_idx_map": positions}
    trees = [BinnedTree(of_iteration[score], categories) for of_iteration in model._predictors]
    refuse_row_count(int(trees[0].counts.sum()), int(drawn.given.sum()))
    summed = SummedTrees(trees, float(model._baseline_prediction[0, score]), loss)
    leaves, ridge = summed.find_leaves(rows), model.l2_regularization
    return Boosting(summed, leaves, labels, sample_weight, drawn, model.learning_rate, ridge)


def _clues(boosting: Boosting) -> tuple[str, ...]:
    return other_counts(boosting.trees.trees, boosting.leaves, boosting.drawn.rows_of)


def _rounding(boosting: Boosting) -> float:
    """Gap that gradients in float32 explain: they are of the size of the residuals, and so of the values summed."""
    eps = float(np.finfo(np.float32).eps)
    labels = boosting.labels[boosting.drawn.given]
    spread = np.abs(labels - labels.mean()).max()
    return 4 * eps * float(spread)


def _refuse_settings(model: Any) -> None:
    constraints = model.monotonic_cst
    if constraints is not None and np.any([value != 0 for value in _values(constraints)]):
        raise refuse(model, "monotonic_cst", "values of constrained leaves depend on other leaves")
    if not isinstance(model.loss, str) or model.loss not in (*_LOSSES, "log_loss"):
        raise refuse(model, "loss", f"leaf values are known for {', '.join(map(repr, _LOSSES))} and 'log_loss'")


def _values(constraints: Any) -> Any:
    return constraints.values() if isinstance(constraints, dict) else constraints
