"""Label noise, and the choice of rows of some classes."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state


def flip_labels(y: ArrayLike, share: float, *, random_state: Any = None) -> NDArray:
    """Give a share of the labels another class, drawn uniformly from the other classes.

    With two classes a label that is drawn is flipped. The number of wrong labels is exact: ``share * len(y)``, rounded.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels of two or more classes.
    share : float
        Share of the labels that are changed, in [0, 1].
    random_state : None, int or RandomState, default=None
        Seeds the draw.

    Returns
    -------
    ndarray of shape (n_samples,)
        A copy of the labels, with noise.

    Raises
    ------
    ValueError
        If `share` lies outside [0, 1], or `y` is not one-dimensional, or labels should change and all are equal.

    Examples
    --------
    >>> import numpy as np
    >>> from telescoping_sklearn.datasets import flip_labels
    >>> y = np.repeat([0, 1], 50)
    >>> int(np.sum(flip_labels(y, 0.2, random_state=0) != y))
    20
    """
    refuse_share("share", share)
    labels = np.array(y)
    if labels.ndim != 1:
        raise ValueError(f"y must be one-dimensional, got shape {labels.shape}.")
    n_wrong = round(share * len(labels))
    if n_wrong == 0:
        return labels
    classes, numbers = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y holds one class only, {classes[0]!r}, so that share={share!r} of it cannot change.")
    rng = check_random_state(random_state)
    rows = rng.permutation(len(labels))[:n_wrong]
    labels[rows] = classes[(numbers[rows] + rng.randint(1, len(classes), size=n_wrong)) % len(classes)]
    return labels


def refuse_share(name: str, share: Any) -> None:
    """Raise ValueError unless a parameter is a number in [0, 1]."""
    if not (isinstance(share, Real) and 0 <= float(share) <= 1):
        raise ValueError(f"{name}={share!r} must be a number between 0 and 1.")


def refuse_count(name: str, count: Any, least: int = 1) -> None:
    """Raise ValueError unless a parameter is an int that is large enough."""
    if not (isinstance(count, Integral) and not isinstance(count, bool) and int(count) >= least):
        raise ValueError(f"{name}={count!r} must be an int of at least {least}.")


def class_numbers(classes: Sequence[Any] | None, names: Sequence[str]) -> list[int]:
    """Turn classes that a user names, by number or by name, into numbers; None stands for all.

    Raises
    ------
    ValueError
        If there are fewer than two, one is named twice, or there is no such class.
    """
    if classes is None:
        return list(range(len(names)))
    known = {name: number for number, name in enumerate(names)}
    numbers = [known.get(item, -1) if isinstance(item, str) else item for item in classes]
    listed = ", ".join(f"{number} {name}" if name != str(number) else name for number, name in enumerate(names))
    for item, number in zip(classes, numbers, strict=True):
        if not (isinstance(number, Integral) and 0 <= int(number) < len(names)):
            raise ValueError(f"classes={classes!r} names {item!r}, which is none of {listed}.")
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise ValueError(f"classes={classes!r} must name two or more classes, each once, of {listed}.")
    return [int(number) for number in numbers]
