"""How a run is recorded within a memory budget."""

import math
import re
from dataclasses import dataclass

import numpy as np

from telescoping_sklearn.neural._trajectory import RECENT

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_budget(budget: str | int) -> int:
    """Read a size in bytes: a number, or text such as "1GiB", "500MiB" or "2 GB"; ValueError for anything else."""
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([KMGT]?i?B)\s*", budget, flags=re.IGNORECASE)
        size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    else:
        size = int(budget)
    if size < 1:
        raise ValueError(f"record_budget={budget!r} must be a positive size such as '1GiB' or '500MiB', or bytes.")
    return size


@dataclass(frozen=True)
class RecordLayout:
    """How a run of at most T updates is kept within a budget."""

    n_updates: int  # T
    batch_size: int
    n_rows: int  # rows of an epoch
    stage_bytes: int  # size of one kept update
    checkpoint_bytes: int
    budget: int  # bytes that the record may take, the segment that is held while it is replayed included

    @property
    def segment_length(self) -> int:
        """Updates of a segment: the length at which the checkpoints and one segment take least together."""
        best = math.sqrt(self.n_updates * self.checkpoint_bytes / self.stage_bytes)
        return max(1, min(self.n_updates, round(best)))

    @property
    def least_bytes(self) -> int:
        """The least that the record and one replayed segment can take."""
        return self._bytes_of(self.n_updates) + self.segment_length * self.stage_bytes

    def keeps_segments(self, n_updates: int) -> bool:
        """Whether all segments of so many updates fit beside the record."""
        return self._bytes_of(n_updates) + n_updates * self.stage_bytes <= self.budget

    def most_recent(self, n_updates: int) -> int:
        """Parameters that fit beside the record of so many updates and one segment; at least `RECENT`."""
        spare = self.budget - self._bytes_of(n_updates) - self.segment_length * self.stage_bytes
        return RECENT + max(0, spare // self.stage_bytes)

    def _bytes_of(self, n_updates: int) -> int:
        """Bytes of the record of so many updates, before any segment is trained again."""
        epochs = -(-self.n_updates // -(-self.n_rows // self.batch_size))
        orders = epochs * self.n_rows * np.min_scalar_type(self.n_rows - 1).itemsize
        names_rates_losses = 8 * (self.n_rows + 2 * self.n_updates)
        checkpoints = -(-n_updates // self.segment_length) * self.checkpoint_bytes
        return orders + names_rates_losses + checkpoints + (2 + RECENT) * self.stage_bytes  # start, end and recent
