"""A fitted model as XGBoost writes it: its trees, its objective, its start, and the settings that are refused."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from telescoping_sklearn.boosting.libraries.xgboost._objectives import Objective, raw_start

#: Largest difference, relative to the whole, of the weight of the rows and that which the root of a tree reports.
_WEIGHT_TOLERANCE = 1e-5
#: XGBoost's default of reg_lambda, which a loaded model reports whatever it was fitted with.
_DEFAULT_RIDGE = 1.0


class SavedTree(NamedTuple):
    """A tree of a model.

    Attributes
    ----------
    numbers : ndarray of int of shape (n_nodes,)
        Number of the leaf at each node; 0 at inner nodes.
    values : ndarray of shape (n_leaves,)
        What its leaves add.
    root_weight : float
        Sum of the hessians of the rows that it saw.
    steps : ndarray of shape (n_leaves,)
        Newton steps of its leaves when it was grown, with or without the learning rate.
    """

    numbers: NDArray
    values: NDArray
    root_weight: float
    steps: NDArray


class GrownTrees(NamedTuple):
    """Trees on their training rows.

    Attributes
    ----------
    leaves : ndarray of int of shape (n_stages, n_train)
        Leaf of every training row in every tree.
    values : list of ndarray of shape (n_leaves,)
        What each leaf adds to the raw score.
    labels, row_weights : ndarray of shape (n_train,)
        Labels and weights as XGBoost keeps them.
    start : float
        Raw score that training starts from.
    """

    leaves: NDArray
    values: list[NDArray]
    labels: NDArray
    row_weights: NDArray
    start: float

    @property
    def n_leaves(self) -> NDArray:
        """Leaves of every tree, (n_stages,)."""
        return np.array([len(values) for values in self.values])


def open_booster(model: Any) -> Any:
    """Copy the Booster of a fitted model, so that later changes of the model do not affect the telescope.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If an estimator is not fitted.
    """
    booster = model
    if hasattr(model, "get_booster"):
        check_is_fitted(model)
        booster = model.get_booster()
    copied = booster.copy()
    if booster is model:  # a Booster predicts with all trees, an estimator with those up to its best iteration
        copied.set_attr(best_iteration=None)
    return copied


class SavedModel:
    """What a Booster says about itself.

    Parameters
    ----------
    booster : xgboost.Booster
        The model. The attribute ``best_iteration`` limits the trees that predict.
    given : mapping
        Parameters of an estimator.

    Raises
    ------
    ValueError
        If the format is not the one that is known.
    """

    def __init__(self, booster: Any, given: Mapping[str, Any]):
        self._given = given
        try:
            self.settings: Mapping[str, Any] = json.loads(booster.save_config())["learner"]
            self._learner = json.loads(bytes(booster.save_raw("json")))["learner"]
            self.booster_name: str = self._learner["gradient_booster"]["name"]
            self.objective: Mapping[str, Any] = self._learner["objective"]
            params = self._learner["learner_model_param"]
            self.n_outputs = max(int(params["num_class"]), int(params.get("num_target", 1)), 1)
            self.n_features = int(params["num_feature"])
            self._base_scores = np.ravel(json.loads(params["base_score"])).astype(np.float64)
            self.start_from_labels = params.get("boost_from_average", "0") == "1"
            self.feature_names: list[str] | None = self._learner.get("feature_names") or None
            self.feature_types: list[str] | None = self._learner.get("feature_types") or None
            self.n_stages = booster.num_boosted_rounds()
            if (best := booster.attr("best_iteration")) is not None:
                self.n_stages = min(self.n_stages, int(best) + 1)
            self.drop_weights: list[float] = self._learner["gradient_booster"].get("weight_drop", [])
            self.n_parallel = 1
            self.trees: list[SavedTree] = []
            self.categories: Mapping[str, Any] = {}
            if self.booster_name != "gblinear":
                self._read_trees()
        except (KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
            raise ValueError(
                f"The format of this XGBoost model is not known ({type(error).__name__}: {error}). Tested are models "
                "written by XGBoost 3.2; please report this, with your version."
            ) from error

    def _read_trees(self) -> None:
        booster = self._learner["gradient_booster"]
        model = booster.get("gbtree", booster)["model"]
        self.n_parallel = int(model["gbtree_model_param"]["num_parallel_tree"])
        self.categories = model.get("cats", {})
        self.vector_leaves = any(int(tree["tree_param"]["size_leaf_vector"]) > 1 for tree in model["trees"])
        if not self.vector_leaves and self.n_outputs == self.n_parallel == 1:
            self.trees = [_read_tree(tree) for tree in model["trees"][: self.n_stages]]

    @property
    def start(self) -> float:
        """Raw score that training starts from."""
        start = raw_start(self.objective["name"], float(self._base_scores[0]))
        if not np.isfinite(start):
            raise ValueError(
                f"The model starts from a mean of {self._base_scores[0]:.6g}, whose raw score under objective="
                f"{self.objective['name']!r} is not finite. Fit it on labels that are not all equal to a bound."
            )
        return start

    @property
    def scale_pos_weight(self) -> float:
        """Factor of the weights of rows with label 1."""
        return float(self.objective.get("reg_loss_param", {}).get("scale_pos_weight", 1.0))

    def told(self, name: str) -> Any:
        """Return a setting of the trees; XGBoost gives the default where the model was loaded from a file."""
        trees = self.settings["gradient_booster"]
        trees = trees.get("gbtree", trees)
        return (trees["tree_train_param"] | trees["gbtree_train_param"])[name]

    def told_settings(self, names: Sequence[str]) -> list[dict[str, float]]:
        """Numbers that the model tells, in float32; then, for an estimator, its parameters in their place."""
        told = {name: float(np.float32(self.told(name))) for name in names}
        poisson = self.objective.get("poisson_regression_param", {})
        told |= {name: float(poisson[name]) for name in names if name in poisson}  # one parameter, which a file holds
        given = {name: self._given[name] for name in names if self._given.get(name) is not None}
        return [told, told | {name: float(np.float32(value)) for name, value in given.items()}]

    @property
    def ridges_held(self) -> list[float]:
        """Values of reg_lambda that the model is known to hold; none where the default may be that of a loaded file."""
        told = float(self.told("reg_lambda"))
        given = self._given.get("reg_lambda")
        return ([told] if told != _DEFAULT_RIDGE else []) + ([] if given is None else [float(given)])


def _read_tree(tree: Mapping[str, Any]) -> SavedTree:
    left, right = np.array(tree["left_children"]), np.array(tree["right_children"])
    nodes, parents = np.arange(len(left)), np.array(tree["parents"])
    parents = np.where(nodes == 0, 0, np.minimum(parents, len(left) - 1))
    kept = (nodes == 0) | (left[parents] == nodes) | (right[parents] == nodes)  # others were pruned
    leaf = (left == -1) & kept
    numbers = np.cumsum(leaf) - 1
    values, steps = (np.array(tree[name], dtype=np.float32)[leaf] for name in ("split_conditions", "base_weights"))
    return SavedTree(
        numbers=np.where(leaf, numbers, 0),
        values=values.astype(np.float64),
        steps=steps.astype(np.float64),
        root_weight=float(tree["sum_hessian"][0]),
    )


def refuse_unsupported(model: Any, saved: SavedModel) -> None:
    """Raise ValueError naming the first setting with which the weights of labels are not known."""
    if callable(getattr(model, "objective", None)):
        raise ValueError(
            f"objective={model.objective!r} is a function, whose derivatives in the labels are not known. "
            "Fit the model with an objective of XGBoost's."
        )
    if saved.booster_name == "gblinear":
        raise ValueError("booster='gblinear' is not supported: it has no trees. Fit with booster='gbtree'.")
    if any(weight != 1.0 for weight in saved.drop_weights):
        raise ValueError(
            f"booster='dart' dropped trees (factors down to {min(saved.drop_weights):.3g}): dropping rescales earlier "
            "trees, which is not implemented. Fit with booster='gbtree', or with rate_drop=0 and one_drop=False."
        )
    if saved.n_outputs > 1:
        raise ValueError(
            f"A model with {saved.n_outputs} outputs (objective={saved.objective['name']!r}) is not supported. Fit one "
            "model for each output, for example one binary classifier for each class."
        )
    if saved.n_parallel > 1:
        raise ValueError(
            f"num_parallel_tree={saved.n_parallel} is not supported: the trees of a round share their residuals. Fit "
            "with num_parallel_tree=1, or use scikit-learn's forests."
        )
    if not saved.trees:
        raise ValueError("The model has no trees. Fit with n_estimators=1 or more.")
    if float(saved.told("subsample")) < 1:
        raise _subsampled(f"subsample={float(saved.told('subsample')):.4g}")


def weight_clues(saved: SavedModel, grown: GrownTrees, objective: Objective) -> tuple[str, ...]:
    """Say where the root of the first tree reports another weight than that of the rows given.

    Only where the hessians of the rows do not depend on the labels.

    Raises
    ------
    ValueError
        If roots of trees differ, so that each saw a sample of the rows.
    """
    if not objective.hessian_tells_weight:
        return ()
    roots, expected = np.array([tree.root_weight for tree in saved.trees]), grown.row_weights
    if objective.loss is not None:  # hessians change with the raw score, which is the same at all rows at first only
        roots = roots[:1]
        expected = expected * objective.loss.hessian(grown.labels, np.full(len(expected), grown.start))
    if np.ptp(roots) > _WEIGHT_TOLERANCE * roots.max():
        raise _subsampled(f"subsample < 1 (trees saw rows of weight {roots.min():.6g} to {roots.max():.6g})")
    if abs(roots[0] - expected.sum()) <= _WEIGHT_TOLERANCE * roots[0]:
        return ()
    return (
        f"the first tree saw rows of total hessian {roots[0]:.6g}, and that of the rows given is "
        f"{expected.sum():.6g}: they are other rows, or have other weights, or the model was fitted with subsample < 1",
    )


def _subsampled(what: str) -> ValueError:
    return ValueError(
        f"{what} is not supported: XGBoost does not tell which rows each tree saw. Fit with subsample=1, or use "
        "TelescopingGBTRegressor with subsample and subsample_freq."
    )
