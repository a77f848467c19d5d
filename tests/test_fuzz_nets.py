"""A hundred random settings of nets; ``python -m tests.fuzz.nets`` works as many as one likes."""

import pytest

from tests.fuzz._cases import Outcome, table
from tests.fuzz.nets import check_seed


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_random_settings_of_nets_are_exact_or_refused_in_fit(first):
    outcomes = {seed: check_seed(seed) for seed in range(first, first + 20)}
    assert not any(outcome.kind == "failed" for outcome in outcomes.values()), table(outcomes)
    assert sum(outcome.kind == "exact" for outcome in outcomes.values()) >= 8


def test_the_table_names_the_seeds_of_failures():
    outcomes = {0: Outcome("exact", "smoother"), 1: Outcome("failed", "a gap"), 2: Outcome("failed", "a gap")}
    assert table(outcomes).splitlines() == [
        "3 cases",
        "      1 exact",
        "              1 smoother",
        "      0 refused",
        "      2 failed",
        "              2 a gap   seeds 1, 2",
    ]


def test_training_beyond_what_can_be_squared_counts_as_diverged():
    outcome = check_seed(1555)  # a loss of 1e169
    assert outcome.kind == "refused"
    assert outcome.reason.startswith("Training diverged: the loss, or its square, is not finite")
