"""What a fitted CatBoost model holds, and the settings that are refused."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

#: Settings of which one value alone is supported (or that are absent): that value, and what is wrong with others. The
#: first two shrink the model too, so that they come before that.
_ONE_VALUE: Mapping[str, tuple[Any, str]] = {
    "monotone_constraints": ({}, "values of constrained leaves depend on other leaves. Fit without it"),
    "langevin": (False, "noise is added to leaf values. Fit with langevin=False"),
    "posterior_sampling": (False, "noise is added to leaf values. Fit with posterior_sampling=False"),
    "model_shrink_rate": (0, "earlier trees are shrunk. Fit with model_shrink_rate=0"),
    "leaf_estimation_iterations": (
        1,
        "every tree takes several steps in its leaves. Fit with leaf_estimation_iterations=1",
    ),
    "eval_fraction": (0, "it is not known which rows were held out. Fit with eval_set instead"),
    "target_border": (None, "labels are made of y. Fit on (y > border) instead"),
}

#: Encodings of categories that do not depend on labels.
_WITHOUT_LABELS = ("Counter", "FeatureFreq")


class SavedModel:
    """A fitted model and the settings that it holds.

    Parameters
    ----------
    model : catboost.CatBoost
        The model.

    Raises
    ------
    ValueError
        If the format is not the one that is known, or CatBoost cannot copy the model.
    """

    def __init__(self, model: Any):
        import catboost  # an extra, which is there where a model of it is

        try:
            self.model = model.copy()  # later changes of the model do not affect the telescope
        except catboost.CatBoostError as error:
            raise ValueError(
                f"CatBoost cannot copy this model ({error}); its leaves add up to "
                f"{np.abs(model.get_leaf_values()).max():.3g}. Fit with a larger l2_leaf_reg."
            ) from error
        try:
            self.params: Mapping[str, Any] = model.get_all_params()
            self.loss_name, self.loss_params = _parse_loss(self.params["loss_function"])
            for name in ("learning_rate", "l2_leaf_reg", "leaf_estimation_method"):
                _ = self.params[name]
            self.scale, self.start = model.get_scale_and_bias()
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The settings of this CatBoost model are not known ({type(error).__name__}: {error}). Sums of models "
                "hold none. Tested are models written by CatBoost 1.2.10; please report this, with your version."
            ) from error

    @property
    def classes(self) -> list[Any]:
        """Classes of a model of two classes; empty for others."""
        return list(self.model.classes_) if self.loss_name == "Logloss" and len(self.model.classes_) == 2 else []

    @property
    def categorical(self) -> list[int]:
        """Positions of the columns of categories."""
        return list(self.model.get_cat_feature_indices())

    def label_encodings(self) -> list[str]:
        """Kinds of encodings of categories by statistics of labels that the trees use."""
        if not self.categorical:
            return []
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.json"
            self.model.save_model(str(path), format="json")
            encodings = json.loads(path.read_text())["features_info"].get("ctrs") or []
        return sorted({encoding["ctr_type"] for encoding in encodings} - set(_WITHOUT_LABELS))


def _parse_loss(loss: str) -> tuple[str, dict[str, float]]:
    """Split ``"Quantile:alpha=0.3;delta=0.1"`` into its name and parameters."""
    name, _, listed = loss.partition(":")
    pairs = (pair.split("=") for pair in listed.split(";") if pair)
    return name, {key: float(value) for key, value in pairs}


def refuse_unsupported(saved: SavedModel) -> None:
    """Raise ValueError naming the first setting with which the weights of labels are not known."""
    for name, (supported, reason) in _ONE_VALUE.items():
        value = saved.params.get(name)
        if value is not None and value != supported:
            raise ValueError(f"{name}={value!r} is not supported: {reason}.")
    if saved.scale != 1:
        raise ValueError(f"set_scale_and_bias scaled the model by {saved.scale:.6g}. Undo it.")
    if saved.model.get_text_feature_indices() or saved.model.get_embedding_feature_indices():
        raise ValueError("text_features and embedding_features are not supported: their encodings depend on labels.")
    if not saved.model.tree_count_:
        raise ValueError("The model has no trees. Fit with iterations=1 or more.")
    if encodings := saved.label_encodings():
        raise ValueError(
            f"The trees use encodings of categories by statistics of the labels ({', '.join(encodings)}). In training "
            "a row has another encoding than in predictions, and so is in other leaves, which CatBoost does not tell. "
            "Fit with one_hot_max_size of at least the number of categories, or with simple_ctr='Counter' and "
            "combinations_ctr='Counter'."
        )
