"""Largest values for a net: a row whose products overflow would turn the weights of other rows into NaN."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

#: Values named in a message.
_NAMED = 3
#: Largest inputs of a net. Kernels are squared in its dtype, and standard errors take their fourth power in float64;
#: the rest of the range is for its layers, which multiply inputs.
LARGEST = {torch.float32: 1e16, torch.float64: 1e75}


def refuse_overflow(X: NDArray, dtype: torch.dtype, names: Any = None) -> None:
    """Raise ValueError for rows that overflow `dtype`, in which the net is trained and explained, and name them.

    Positions stand for the columns if there are no names.
    """
    largest = LARGEST[dtype]
    if not X.size or max(X.max(), -X.min()) <= largest:
        return
    rows, columns = np.nonzero(np.abs(X) > largest)
    places = [
        f"row {row}, column {column if names is None else repr(names[column])} ({X[row, column]:.3g})"
        for row, column in zip(rows[:_NAMED], columns[:_NAMED], strict=True)
    ]
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    other = " or use dtype='float64'," if dtype == torch.float32 else ""
    raise ValueError(
        f"X has values beyond {largest:.0e}, where kernels in dtype='{str(dtype).removeprefix('torch.')}' overflow: "
        f"{'; '.join(places)}{more}. Scale the columns, for example with TabularPreparation,{other} or leave "
        "these rows out."
    )


def refuse_infinite_outputs(outputs: torch.Tensor, dtype: torch.dtype) -> None:
    """Raise ValueError for query rows at which a net overflows: layers may grow faster than their inputs."""
    rows = np.flatnonzero(~torch.isfinite(outputs).cpu().numpy())
    if not len(rows):
        return
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    raise ValueError(
        f"The net is not finite in dtype='{str(dtype).removeprefix('torch.')}' at rows "
        f"{', '.join(map(str, rows[:_NAMED]))}{more} of X, and would spoil the answers for the other rows. Leave these "
        "rows out, or fit with dtype='float64' or a module whose layers grow more slowly."
    )
