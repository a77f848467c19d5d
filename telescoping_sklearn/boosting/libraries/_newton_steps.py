"""Newton steps with a penalty and a limit, as affine maps with the sign and what is cut held fixed."""

import numpy as np
from numpy.typing import NDArray


def newton_steps(
    sums: NDArray, denominators: NDArray, reg_alpha: float, max_delta_step: float
) -> tuple[NDArray, NDArray]:
    """Value of a node as an affine map of its sum of negative gradients: ``rates * sums + constants``.

    ``denominators`` are sums of hessians plus ridge; 0 means no penalty and no limit.

    Examples
    --------
    >>> rates, constants = newton_steps(np.array([8.0, -0.5, -9.0]), np.full(3, 2.0), 1.0, 3.8)
    >>> rates, constants
    (array([0.5, 0. , 0. ]), array([-0.5,  0. , -3.8]))
    """
    rates = np.divide(1.0, denominators, out=np.zeros_like(denominators), where=denominators > 0)
    free = (np.abs(sums) > reg_alpha) | (reg_alpha == 0)
    values = np.where(free, rates * (sums - np.sign(sums) * reg_alpha), 0.0)
    cut = (np.abs(values) > max_delta_step) & (max_delta_step > 0)
    constants = np.where(cut, np.sign(values) * max_delta_step, np.where(free, -rates * np.sign(sums) * reg_alpha, 0.0))
    return np.where(free & ~cut, rates, 0.0), constants
