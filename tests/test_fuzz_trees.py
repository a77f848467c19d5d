"""A few hundred random settings of boosted trees; ``python -m tests.fuzz.trees`` works as many as one likes."""

import pytest

from tests.fuzz.trees import Outcome, check_seed, table


@pytest.mark.parametrize("first", [0, 50, 100, 150, 200, 250])
def test_random_settings_are_exact_or_refused_in_fit(first):
    outcomes = {seed: check_seed(seed) for seed in range(first, first + 50)}
    kinds = [outcome.kind for outcome in outcomes.values()]
    assert kinds.count("failed") == 0, table(outcomes)
    assert kinds.count("exact") > 20


def test_the_table_says_which_seeds_failed():
    text = table({3: Outcome("exact", "smoother"), 4: Outcome("failed", "why"), 9: Outcome("failed", "why")})
    assert "2 failed" in text
    assert "2 why   seeds 4, 9" in text
