"""A few hundred random settings of boosted trees; ``python -m tests.fuzz.trees`` works as many as one likes."""

import pytest

from tests.fuzz._cases import table
from tests.fuzz.trees import check_seed


@pytest.mark.parametrize("first", [0, 50, 100, 150, 200, 250])
def test_random_settings_are_exact_or_refused_in_fit(first):
    outcomes = {seed: check_seed(seed) for seed in range(first, first + 50)}
    kinds = [outcome.kind for outcome in outcomes.values()]
    assert kinds.count("failed") == 0, table(outcomes)
    assert kinds.count("exact") > 20
