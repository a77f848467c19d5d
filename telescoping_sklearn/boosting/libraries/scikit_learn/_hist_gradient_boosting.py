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
from telescoping_sklearn.boosting.libraries.scikit_learn._columns import EncodedColumns
from telescoping_sklearn.boosting.libraries.scikit_learn._gradient_boosting import class_start, refuse_first_class
from telescoping_sklearn.boosting.libraries.scikit_learn._refusals import (
    class_positions,
    find_class,
    refuse,
    refuse_output,
)
from telescoping_sklearn.boosting.libraries.scikit_learn._trees import BinnedTree, Drawn, SummedTrees, other_counts
from telescoping_sklearn.losses import Gamma, Logistic, NonQuadraticLoss, Poisson

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
    return ReadModel(
        ensemble=_ensemble(model, boosting),
        trees=boosting.trees,
        rows=rows,
        y=y,
        prepare=prepare,
        rounding=_rounding(model, boosting),
        link=_SMOOTH[model.loss].mean if model.loss in _SMOOTH else None,
        clues=_clues(boosting),
        squared_error=model.loss == "squared_error",
    )


def _ensemble(model: Any, boosting: Boosting) -> LeafEnsemble:
    """Make the ensemble of a regressor."""
    if model.loss == "squared_error":
        return squared_error_ensemble(boosting, mean_start(boosting))
    if model.loss in _SMOOTH:
        loss = _SMOOTH[model.loss]
        _, weights = loss.start(boosting.row_weights, boosting.labels)
        return newton_ensemble(boosting, Start(weights, boosting.trees.start, is_mean=True), loss)
    alpha = 0.5 if model.loss == "absolute_error" else model.quantile
    weighted = boosting.sample_weight is not None
    return quantile_ensemble(boosting, quantile_start(boosting, alpha), alpha, weighted=weighted)


def _read_classifier(
    model: Any, prepare: EncodedColumns, rows: NDArray, y: NDArray, sample_weight: NDArray | None, output: Any
) -> ReadModel:
    chosen, n_classes = find_class(model, output), len(model.classes_)
    if n_classes == 2:
        refuse_first_class(model, chosen)
    positions = class_positions(model, y)
    if model.class_weight is not None:
        of_classes = compute_sample_weight(model.class_weight, y)
        sample_weight = of_classes if sample_weight is None else sample_weight * of_classes
    drawn, loss = _draw(model, positions), Logistic(binary=True)
    labels = (positions == chosen).astype(np.float64)
    link = loss if n_classes == 2 else None
    score = 0 if n_classes == 2 else chosen
    boostings = [
        _boosting(model, rows, labels, sample_weight, drawn, k, link) for k in range(model.n_trees_per_iteration_)
    ]
    boosting = boostings.pop(score)
    others = [
        (of_class.trees.start, of_class.leaves, [t.values for t in of_class.trees.trees]) for of_class in boostings
    ]
    start = class_start(boosting, n_classes, boosting.trees.start)
    return ReadModel(
        ensemble=newton_ensemble(boosting, start, loss, others),
        trees=boosting.trees,
        rows=rows,
        y=labels,
        prepare=prepare,
        rounding=_rounding(model, boosting),
        link=None if link is None else loss.mean,
        clues=_clues(boosting),
    )


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


def _rounding(model: Any, boosting: Boosting) -> float:
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
