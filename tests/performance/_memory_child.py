"""Run as a process of its own: fit, ask with 32 probes, and tell the resident set before and its peak."""

import json
import sys

from tests.performance._data import random_rows
from tests.performance._measure import resident_memory, timed
from tests.performance.neural import net


def main(n):
    """Measure with n training rows."""
    data = random_rows(n, 0, 8)
    model = net((64, 64), batch_size=200, max_iter=2, section=10).fit(data.X, data.y)
    before = resident_memory(peak=False)
    seconds = timed(lambda: model.effective_params(data.X, n_probes=32))
    peak = resident_memory(peak=True)
    print(json.dumps({"before": before, "peak": peak, "seconds": seconds, "n_stages": model.n_stages_}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
