"""Gaps and comparisons say what the numbers allow and no more."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from telescoping_sklearn.benchmark import SquaredErrors, compare_models, relative_gaps
from telescoping_sklearn.benchmark._table import _training_line

N = 400


def made_up(baseline=(0.4, 0.2), irregular=(0.9, 0.3), seeds=3, noise=0.05, jitter=0.0, shift=False):
    """Results and errors of two models, by hand: the second half of the pool is irregular."""
    rng = np.random.default_rng(0)
    kind = "shift" if shift else "mixture"
    sets = {(kind, 0.0): np.arange(N), (kind, 1.0): np.arange(N, 2 * N)}
    if not shift:
        sets |= {("mixture", 0.5): np.arange(N // 2, 3 * N // 2), ("decile", 10.0): np.arange(N, 2 * N)}
    errors, rows = {}, []
    for seed in range(seeds):
        common = noise * rng.normal(size=2 * N)
        for which, model in enumerate(("mine", "theirs")):
            move = jitter * rng.normal()
            values = np.repeat([baseline[which] + move, irregular[which] + move], N) + common
            errors["houses", model, seed, "x"] = SquaredErrors(values + 0.1 * noise * rng.normal(size=2 * N), sets)
            rows += [
                {"data": "houses", "model": model, "seed": seed, "score": "x", "set_kind": k, "set_value": v}
                for k, v in sets
            ]
    return pd.DataFrame(rows), errors


def at(gaps, kind, value):
    (row,) = gaps[(gaps["set_kind"] == kind) & (gaps["set_value"] == value)].itertuples()
    return row


def test_gaps_are_of_means_over_seeds():
    results, errors = made_up()
    gaps = relative_gaps(results, errors, "mine", "theirs")
    means = {
        name: np.mean([errors["houses", "mine", s, "x"].values[rows] - errors["houses", "theirs", s, "x"].values[rows]
                       for s in range(3)])
        for name, rows in errors["houses", "mine", 0, "x"].sets.items()
    }  # fmt: skip
    for (kind, value), mean in means.items():
        row = at(gaps, kind, value)
        assert row.gap == pytest.approx(mean)
        assert row.relative_gap == pytest.approx(mean / means["mixture", 0.0])
        assert row.low <= row.relative_gap <= row.high
        assert row.gap_low <= row.gap <= row.gap_high
        assert (row.n_seeds, row.reason) == (3, "")
    assert at(gaps, "mixture", 0.0).low == at(gaps, "mixture", 0.0).high == 1


def test_the_interval_is_that_of_the_delta_method_where_that_holds():
    """One seed, sets without a common row: the ratio of two independent means."""
    results, errors = made_up(seeds=1, noise=1.0)
    row = at(relative_gaps(results, errors, "mine", "theirs", n_bootstrap=4000), "decile", 10.0)
    first, second = (errors["houses", model, 0, "x"].values for model in ("mine", "theirs"))
    below, above = (first - second)[:N], (first - second)[N:]
    ratio = above.mean() / below.mean()
    variance = above.var() / N / below.mean() ** 2 + ratio**2 * below.var() / N / below.mean() ** 2
    assert row.high - row.low == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.1)


def test_the_interval_is_paired_and_widens_with_the_seeds():
    calm = at(relative_gaps(*made_up(noise=0.5), "mine", "theirs"), "mixture", 1.0)
    # The models share most of their noise: unpaired, the gap's interval would be ten times as wide.
    unpaired = 2 * 1.96 * np.sqrt(2 * 0.5**2 / N / 3)
    assert calm.gap_high - calm.gap_low < unpaired / 4
    wild = at(relative_gaps(*made_up(noise=0.5, jitter=0.05), "mine", "theirs"), "mixture", 1.0)
    assert wild.gap_high - wild.gap_low > 3 * (calm.gap_high - calm.gap_low)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"baseline": (0.3, 0.3)}, "within noise|near zero|changes sign between seeds"),
        ({"baseline": (0.301, 0.3), "noise": 0.0}, "near zero"),
        ({"irregular": (0.2, 0.9)}, "changes sign: lower error here mine, at q=0 theirs"),
        ({"baseline": (0.31, 0.3), "jitter": 0.3, "seeds": 4}, "changes sign between seeds"),
        ({"baseline": (0.32, 0.3), "noise": 5.0, "seeds": 1}, "within noise"),
    ],
)
def test_a_gap_that_means_nothing_has_a_reason_and_no_number(given, reason):
    row = at(relative_gaps(*made_up(**given), "mine", "theirs"), "mixture", 1.0)
    assert np.isnan([row.relative_gap, row.low, row.high]).all()
    assert pd.Series([row.reason]).str.contains(reason).all()
    assert np.isfinite([row.gap, row.gap_low, row.gap_high]).all()


def test_shifts_are_relative_to_the_set_that_has_not_shifted():
    gaps = relative_gaps(*made_up(shift=True), "mine", "theirs")
    assert at(gaps, "shift", 0.0).relative_gap == 1
    assert at(gaps, "shift", 1.0).relative_gap == pytest.approx(3, rel=0.05)


def test_gaps_are_the_same_again_and_only_of_two_models_that_are_there():
    results, errors = made_up()
    again = [relative_gaps(results, errors, "mine", "theirs", random_state=3) for _ in range(2)]
    pd.testing.assert_frame_equal(*again)
    for first, second in (("mine", "mine"), ("mine", "no one")):
        with pytest.raises(ValueError, match="must be two of mine, theirs"):
            relative_gaps(results, errors, first, second)
    with pytest.raises(ValueError, match="n_bootstrap"):
        relative_gaps(results, errors, "mine", "theirs", n_bootstrap=1)


def blocks(n_data=8, n_seeds=2, models=("a", "b", "c"), seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        [
            {
                "data": f"d{d}", "score": "x", "seed": s, "model": model, "set_kind": "mixture", "set_value": 0.0,
                "mse": 1 + 0.3 * place + rng.normal(),
            }
            for d in range(n_data) for s in range(n_seeds) for place, model in enumerate(models)
        ]
    )  # fmt: skip


def test_comparison_is_what_scipy_says_of_the_blocks():
    results = blocks()
    found = compare_models(results)
    errors = results.pivot(index=["data", "seed"], columns="model", values="mse")
    assert found.n_blocks == 16
    assert found.friedman_p == pytest.approx(stats.friedmanchisquare(*errors.to_numpy().T).pvalue)
    ranks = errors.apply(stats.rankdata, axis=1, result_type="broadcast").mean()
    assert found.ranks.set_index("model")["mean_rank"].to_dict() == pytest.approx(ranks.to_dict())
    assert found.ranks["mean_rank"].is_monotonic_increasing
    for pair in found.pairs.itertuples():
        difference = errors[pair.model_a] - errors[pair.model_b]
        assert pair.wilcoxon_p == pytest.approx(stats.wilcoxon(difference).pvalue)
        assert (pair.wins_a, pair.wins_b) == ((difference < 0).sum(), (difference > 0).sum())
        assert pair.median_difference == pytest.approx(difference.median())


def test_critical_difference_is_demsars():
    """Table 5 of Demsar (JMLR 2006): q_0.05 = 2.343 for three classifiers."""
    assert compare_models(blocks()).critical_difference == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 16)), rel=1e-3)


def test_holm_multiplies_the_smallest_by_the_number_of_pairs_and_stays_in_order():
    pairs = compare_models(blocks()).pairs.sort_values("wilcoxon_p")
    stepped = pairs["wilcoxon_p"].to_numpy() * [3, 2, 1]
    assert pairs["holm_p"].tolist() == pytest.approx(np.minimum(np.maximum.accumulate(stepped), 1).tolist())


def test_blocks_may_be_data_sets_and_must_be_shared():
    results = blocks()
    assert compare_models(results, over="data").n_blocks == 8
    assert compare_models(results.iloc[1:]).n_blocks == 15
    assert np.isnan(compare_models(blocks(models=("a", "b"))).friedman_p)
    equal = results.assign(mse=1.0)
    assert (compare_models(equal).pairs["wilcoxon_p"] == 1).all()
    assert (compare_models(equal).ranks["mean_rank"] == 2).all()
    assert compare_models(equal).friedman_p == 1
    for given in ({"over": "seed"}, {"level": 1.0}, {"set_value": 0.5}):
        with pytest.raises(ValueError, match=r"over|level|0\.5"):
            compare_models(results, **given)


def test_scores_of_one_data_set_and_seed_are_averaged_first():
    one = blocks(n_data=2, n_seeds=3)
    other = one.assign(score="y", mse=one["mse"] ** 2)
    lost = other.drop(other[(other["model"] == "a") & (other["seed"] == 0)].index)
    results = pd.concat([one, lost])
    found = compare_models(results)
    assert found.n_blocks == 6
    # Where a model lacks a score, that score is left out for all of them.
    both = pd.concat([one, other[other["seed"] != 0]])
    errors = both.groupby(["data", "seed", "model"])["mse"].mean().unstack()
    for pair in found.pairs.itertuples():
        assert pair.wilcoxon_p == pytest.approx(stats.wilcoxon(errors[pair.model_a] - errors[pair.model_b]).pvalue)
    assert compare_models(results, over="data").n_blocks == 2


def test_larger_is_better_for_r2():
    results = blocks().assign(r2=lambda table: -table["mse"])
    by_error, by_r2 = compare_models(results), compare_models(results, metric="r2")
    assert by_error.ranks["model"].tolist() == by_r2.ranks["model"].tolist()
    assert by_error.pairs["wins_a"].tolist() == by_r2.pairs["wins_a"].tolist()


def test_no_gap_is_relative_to_one_whose_interval_holds_zero():
    reasons = []
    for move in np.linspace(0.04, 0.2, 17):
        results, errors = made_up(seeds=2, noise=0.0)
        sets = errors["houses", "mine", 0, "x"].sets
        for seed, gap in enumerate((0.2, move)):
            noise = 1.2 * np.random.default_rng(seed).normal(size=2 * N)
            errors["houses", "theirs", seed, "x"] = SquaredErrors(np.full(2 * N, 0.3), sets)
            errors["houses", "mine", seed, "x"] = SquaredErrors(0.3 + gap + noise - noise[:N].mean(), sets)
        gaps = relative_gaps(results, errors, "mine", "theirs")
        baseline = at(gaps, "mixture", 0.0)
        assert baseline.reason or baseline.gap_low > 0
        reasons.append(baseline.reason)
    assert any("interval" in reason for reason in reasons)
    assert "" in reasons


@pytest.mark.parametrize("p_asked", [True, False])
def test_seeds_without_effective_parameters_are_named(p_asked):
    of_model = pd.DataFrame({"seed": [0, 1, 2], "fit_seconds": 1.0, "n_stages": 100, "explain_seconds": 1.0})
    of_model["effective_params_train"], of_model["effective_params_train_se"] = [10.0, np.nan, np.nan], 1.0
    line = _training_line("net", of_model, p_asked=p_asked)
    assert ("no p for seed 1, 2: the response is unstable there" in line) == p_asked
