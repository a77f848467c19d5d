"""Run as a process of its own: fit trees on many rows, ask about all of them, and tell times and peak memory."""

import json
import sys

import lightgbm

from tests.performance._data import random_rows
from tests.performance._measure import resident_memory, timed
from tests.performance.trees import trees


def main(n):
    """Measure with n training rows."""
    data = random_rows(n, n // 10, 20)
    told, found = {}, {}
    model = trees()

    def step(name, ask):
        told[name] = timed(lambda: found.update({name: ask()}))

    step("fit", lambda: lightgbm.LGBMRegressor(n_jobs=2, random_state=0, verbosity=-1).fit(data.X, data.y))
    found.clear()
    model.fit(data.X, data.y)
    step("telescope", lambda: model.telescope_)
    step("train", lambda: model.telescope_.training_summary(32))
    step("test", lambda: model.effective_params(data.query, n_probes=32, return_se=True))
    step("queries", lambda: model.kernel_weights(data.query[:100]).shape)
    telescope = model.telescope_
    exact = telescope.training_summary, lambda n_probes: model.effective_params(data.query, n_probes=n_probes)
    step("exact_seconds", lambda: [ask(n_probes=None) for ask in exact])
    (p, trace), on_test = found["exact_seconds"]
    estimates = [(estimate.value.item(), estimate.standard_error.item()) for estimate in found["train"]]
    told["probes"] = dict(zip(("p train", "trace", "p test"), [*estimates, found["test"]], strict=True))
    told["exact"] = [p.value.item(), trace.value.item(), on_test]
    told["peak"] = resident_memory(peak=True)
    print(json.dumps(told))


if __name__ == "__main__":
    main(int(sys.argv[1]))
