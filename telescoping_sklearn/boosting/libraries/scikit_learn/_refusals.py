"""Settings of scikit-learn's models whose label weights are not known, and outputs that do not exist."""

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


def refuse_several_targets(model: Any) -> None:
    """Raise ValueError for models of several targets."""
    if model.n_outputs_ != 1:
        raise ValueError(
            f"{type(model).__name__} was fitted on {model.n_outputs_} targets. Fit one model for every target."
        )


def find_class(model: Any, output: Any) -> int:
    """Position of a class among those of a classifier; the positive class of two where ``output`` is None.

    Raises
    ------
    ValueError
        If there is no such class, or none was chosen among more than two.
    """
    classes = model.classes_.tolist()
    if output is None:
        if len(classes) == 2:
            return 1
        raise ValueError(
            f"{type(model).__name__} has {len(classes)} classes, each with a score of its own: choose one of {classes} "
            "with output=."
        )
    if output not in classes:
        raise ValueError(f"output={output!r} is not a class of {type(model).__name__}, which has {classes}.")
    return classes.index(output)


def refuse_output(model: Any, output: Any) -> None:
    """Raise ValueError where an output is chosen and there is only one."""
    if output is not None:
        raise ValueError(f"output={output!r} chooses a class of a classifier; {type(model).__name__} has one output.")


def class_positions(model: Any, y: NDArray) -> NDArray[np.intp]:
    """Position of every label among the classes of a model.

    Raises
    ------
    ValueError
        If a label is not a class of the model.
    """
    classes = np.asarray(model.classes_)
    unknown = ~np.isin(y, classes)
    if unknown.any():
        raise ValueError(
            f"y has the label {y[unknown].tolist()[0]!r}, which is not a class of {type(model).__name__}: "
            f"{classes.tolist()}."
        )
    return np.searchsorted(classes, y)
