"""Numbers as they are given and as they are worked with: parameters may be NumPy scalars, and floats may be ints."""

from numbers import Integral, Real
from typing import Any

import numpy as np


def plain_number(value: Any) -> Any:
    """Turn a number into Python's own; anything else stays as it is.

    A NumPy float becomes the number that it is written as, which is the one that LightGBM reads: ``np.float32(0.1)`` is
    0.1 here.

    Parameters
    ----------
    value : object
        The value of a parameter.

    Returns
    -------
    object
        A bool, an int or a float for a number.

    Examples
    --------
    >>> import numpy as np
    >>> plain_number(np.float32(0.1)), plain_number(np.int64(3)), plain_number("auto")
    (0.1, 3, 'auto')
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, np.floating):
        return float(str(value))
    return float(value) if isinstance(value, Real) else value
