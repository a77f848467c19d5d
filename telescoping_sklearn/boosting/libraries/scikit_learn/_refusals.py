"""Settings of scikit-learn's models whose label weights are not known."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def refuse(model: Any, name: str, reason: str) -> ValueError:
    """Make the error that names a parameter of a model and its value."""
    return ValueError(f"{name}={getattr(model, name)!r} of {type(model).__name__} is not supported: {reason}.")


def refuse_drawn(model: Any, name: str) -> None:
    """Raise ValueError unless what a parameter draws can be drawn again from the seed of the model."""
    seed = model.random_state
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ValueError(
            f"{name}={getattr(model, name)!r} of {type(model).__name__} drew rows with random_state={seed!r}, which "
            "cannot be drawn again. Fit the model with an int as random_state."
        )


def refuse_seen(n_model: int, weights: NDArray) -> None:
    """Raise ValueError unless a model was trained on as many rows as are given; rows of weight zero do not count.

    ``weights`` are those of the rows given. Rows of weight zero that the model counted are let through: it was then
    trained with other weights, which its predictions show.
    """
    positive = int(np.count_nonzero(weights))
    if n_model not in (positive, len(weights)):
        of_weight = " of positive weight" if positive < len(weights) else ""
        raise ValueError(
            f"X has {positive} rows{of_weight}, and the model was trained on {n_model}. Give the rows, labels and "
            "weights that fit was given, in the same order; rows of weight zero do not count."
        )


def refuse_several_targets(model: Any) -> None:
    """Raise ValueError for models of several targets."""
    if model.n_outputs_ != 1:
        raise ValueError(
            f"{type(model).__name__} was fitted on {model.n_outputs_} targets. Fit one model for every target."
        )


def refuse_output(model: Any, output: Any) -> None:
    """Raise ValueError where an output is chosen and there is only one."""
    if output is not None:
        raise ValueError(f"output={output!r} chooses a class of a classifier; {type(model).__name__} has one output.")
