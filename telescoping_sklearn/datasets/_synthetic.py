"""Tasks that are drawn and need no file: MNIST-1D, and regression on a polynomial."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from sklearn.utils import Bunch, check_random_state

from telescoping_sklearn.datasets._labels import class_numbers, flip_labels, refuse_count, refuse_share

#: Twelve heights of the pen along each of the ten digits, as published.
_TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
_DIGITS = tuple(map(str, range(10)))
#: Fewest and most zeros that a template is padded with, and the largest shift.
_PADDING, _SHIFTS = (36, 60), 48
#: Range of the factor of a template less one, of the slope that is subtracted; scales of smoothed and of plain noise.
_SCALE, _SHEAR, _SMOOTHED_NOISE, _NOISE = 0.4, 0.75, 0.25, 0.02
#: Standard deviation, in positions, of the Gaussian that smooths the noise.
_SMOOTHING = 2.0


def make_mnist1d(
    n_train: int = 4000,
    n_test: int = 1000,
    *,
    classes: Sequence[int | str] | None = None,
    length: int = 40,
    label_noise: float = 0.0,
    random_state: Any = None,
) -> Bunch:
    """Draw MNIST-1D: ten digits as curves of one dimension, padded, stretched, shifted, sheared and noisy.

    The published procedure, with its defaults:

    1. From a template of 12 heights its mean is subtracted; it is divided by its standard deviation, moved to begin at
       0, and divided by 6.
    2. It is padded with 36 to 60 zeros, and interpolated linearly at 72 positions.
    3. It is multiplied by a factor of 0.8 to 1.2, and shifted by 0 to 47 positions; what leaves at the end comes in at
       the start.
    4. Padding is replaced by normal noise of scale 0.25, smoothed by a Gaussian of 2 positions. Normal noise of scale
       0.02 is added everywhere.
    5. A line that falls or rises by at most 0.375 is subtracted, and the curve interpolated at `length` positions.

    Classes are of equal size, up to one row. All rows together are then scaled to mean 0 and variance 1.

    Parameters
    ----------
    n_train : int, default=4000
        Training rows.
    n_test : int, default=1000
        Test rows.
    classes : sequence of int or None, default=None
        Digits to draw. Labels are positions in this sequence. None draws all ten.
    length : int, default=40
        Numbers in a row.
    label_noise : float, default=0.0
        Share of the training labels that are given another class, as `flip_labels` does. Test labels stay.
    random_state : None, int or RandomState, default=None
        Seeds the draws.

    Returns
    -------
    sklearn.utils.Bunch
        With the entries

        X_train, X_test : ndarray of shape (n_train, length) and (n_test, length)
            The curves.
        y_train, y_test : ndarray of int of shape (n_train,) and (n_test,)
            Labels.
        target_names : list of str
            The digits, in the order of the labels.
        DESCR : str
            What was drawn.

    Raises
    ------
    ValueError
        If a parameter makes no sense.

    Notes
    -----
    The file that was published with the procedure holds one draw of it from another generator of random numbers. So
    rows differ from it, and their distribution does not.

    References
    ----------
    S. Greydanus. "Scaling down Deep Learning". arXiv 2011.14439, 2020.

    Examples
    --------
    >>> from telescoping_sklearn.datasets import make_mnist1d
    >>> curves = make_mnist1d(200, 100, classes=(0, 1), label_noise=0.15, random_state=0)
    >>> curves.X_train.shape, curves.target_names
    ((200, 40), ['0', '1'])
    """
    refuse_count("n_train", n_train)
    refuse_count("n_test", n_test)
    refuse_count("length", length, 2)
    refuse_share("label_noise", label_noise)
    digits = class_numbers(classes, _DIGITS)
    rng = check_random_state(random_state)
    n_rows = n_train + n_test
    labels = rng.permutation(np.arange(n_rows) % len(digits))
    X = _curves(np.array(digits)[labels], length, rng)
    X = (X - X.mean()) / X.std()
    noise = f" {label_noise:.0%} of the training labels are wrong." if label_noise else ""
    named = [_DIGITS[digit] for digit in digits]
    return Bunch(
        X_train=X[:n_train],
        y_train=flip_labels(labels[:n_train], label_noise, random_state=rng),
        X_test=X[n_train:],
        y_test=labels[n_train:],
        target_names=named,
        DESCR=f"MNIST-1D (Greydanus 2020), drawn anew: digits {', '.join(named)}.{noise}",
    )


def _curves(digits: NDArray, length: int, rng: np.random.RandomState) -> NDArray:
    """Draw a curve of every digit, (n_rows, length)."""
    n_rows, n_template = len(digits), len(_TEMPLATES[0])
    n_positions = n_template + _PADDING[1]
    padding = rng.randint(_PADDING[0], _PADDING[1] + 1, size=n_rows)
    factors = 1 + _SCALE * (rng.random_sample(n_rows) - 0.5)
    shifts = rng.randint(_SHIFTS, size=n_rows)
    smoothed = gaussian_filter1d(_SMOOTHED_NOISE * rng.standard_normal((n_rows, n_positions)), _SMOOTHING, axis=1)
    noise = _NOISE * rng.standard_normal((n_rows, n_positions))
    slopes = _SHEAR * (rng.random_sample(n_rows) - 0.5)

    # Positions in the padded template, of which heights beyond the last are zeros.
    positions = np.linspace(0, 1, n_positions) * (n_template + padding - 1)[:, None]
    curves = np.empty((n_rows, n_positions))
    for digit in np.unique(digits):
        rows = digits == digit
        curves[rows] = np.interp(positions[rows], np.arange(n_template + 1), np.append(_template(digit), 0.0))
    curves *= factors[:, None]
    drawn = positions < n_template  # the rest is padding

    origin = (np.arange(n_positions) - shifts[:, None]) % n_positions
    curves, drawn = np.take_along_axis(curves, origin, axis=1), np.take_along_axis(drawn, origin, axis=1)
    curves = np.where(drawn, curves, smoothed) + noise - slopes[:, None] * np.linspace(-0.5, 0.5, n_positions)
    return _resampled(curves, length)


def _template(digit: int) -> NDArray:
    """Return the curve of a digit, which starts and ends at 0."""
    heights = np.array(_TEMPLATES[digit], dtype=np.float64)
    heights = (heights - heights.mean()) / heights.std()
    return (heights - heights[0]) / 6


def _resampled(curves: NDArray, length: int) -> NDArray:
    """Interpolate curves linearly at so many positions, the first and the last among them."""
    at = np.linspace(0, curves.shape[1] - 1, length)
    left = np.minimum(at.astype(int), curves.shape[1] - 2)
    right_share = at - left
    return curves[:, left] * (1 - right_share) + curves[:, left + 1] * right_share


def make_polynomial(
    n_train: int = 550, n_test: int = 500, *, d: int = 100, noise: float = 0.0, random_state: Any = None
) -> Bunch:
    """Draw regression on a polynomial: x ~ N(0, I / d) and y = 1/2 (beta . x)^2.

    The task of the grokking study. beta is drawn uniformly from the sphere of radius sqrt(d), so that beta . x is
    standard normal, and y has mean 1/2 and variance 1/2.

    Parameters
    ----------
    n_train : int, default=550
        Training rows.
    n_test : int, default=500
        Test rows.
    d : int, default=100
        Number of features.
    noise : float, default=0.0
        Standard deviation of normal noise in the training labels.
    random_state : None, int or RandomState, default=None
        Seeds the draws.

    Returns
    -------
    sklearn.utils.Bunch
        With the entries

        X_train, X_test : ndarray of shape (n_train, d) and (n_test, d)
            Rows.
        y_train, y_test : ndarray of shape (n_train,) and (n_test,)
            Labels.
        beta : ndarray of shape (d,)
            The direction that the labels depend on.
        DESCR : str
            What was drawn.

    Raises
    ------
    ValueError
        If a parameter makes no sense.

    References
    ----------
    T. Kumar, B. Bordelon, S. J. Gershman, C. Pehlevan. "Grokking as the Transition from Lazy to Rich Training
    Dynamics". ICLR 2024, arXiv 2310.06110.

    Examples
    --------
    >>> import numpy as np
    >>> from telescoping_sklearn.datasets import make_polynomial
    >>> task = make_polynomial(random_state=0)
    >>> np.allclose(task.y_train, 0.5 * (task.X_train @ task.beta) ** 2)
    True
    """
    refuse_count("n_train", n_train)
    refuse_count("n_test", n_test)
    refuse_count("d", d)
    if not noise >= 0:
        raise ValueError(f"noise={noise!r} must be a standard deviation, 0 or larger.")
    rng = check_random_state(random_state)
    beta = rng.standard_normal(d)
    beta *= np.sqrt(d) / np.linalg.norm(beta)
    X = rng.standard_normal((n_train + n_test, d)) / np.sqrt(d)
    y = 0.5 * (X @ beta) ** 2
    y[:n_train] += noise * rng.standard_normal(n_train)
    return Bunch(
        X_train=X[:n_train],
        y_train=y[:n_train],
        X_test=X[n_train:],
        y_test=y[n_train:],
        beta=beta,
        DESCR=f"y = 1/2 (beta . x)^2 with x ~ N(0, I / {d}) and beta of length sqrt({d}).",
    )
