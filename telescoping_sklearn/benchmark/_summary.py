"""Statistics of results: relative gaps between two models, and tests of models over data sets and seeds."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from telescoping_sklearn.benchmark._tasks import SquaredErrors, Task
from telescoping_sklearn.metrics import relative_gap

#: Baseline test set of the relative gaps, by kind of set.
_BASELINE = {"mixture": ("mixture", 0.0), "decile": ("mixture", 0.0), "shift": ("shift", 0.0)}


class _Means(NamedTuple):
    """Mean squared errors of the model and the reference on every set of a seed, original and resampled."""

    plain: dict[tuple[str, float], NDArray]  # (2,)
    resampled: dict[tuple[str, float], NDArray]  # (n_bootstrap, 2), on the same rows drawn with replacement for both


def relative_gaps(
    results: pd.DataFrame,
    errors: Any,
    model: str,
    reference: str,
    *,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    random_state: int = 0,
) -> pd.DataFrame:
    """Gap between two models on every test set, relative to their gap on rows like the training rows.

    (MSE_model - MSE_reference) on the set over the same on mixture 0 (for shifts: on the set that has not shifted), of
    means over seeds; it is undefined if the baseline gap is within noise. The interval is a percentile
    bootstrap of seeds and, within each, of test rows, paired: both models and all sets see the same draw.

    Parameters
    ----------
    results : DataFrame
        From `run_benchmark` or `ResultStore.results`.
    errors : ResultStore or mapping of (data, model, seed, score) to SquaredErrors
        Squared errors by row.
    model, reference : str
        The two models.
    n_bootstrap : int, default=1000
        Draws of the bootstrap.
    level : float, default=0.95
        Coverage of the interval.
    random_state : int, default=0
        Seed of the draws.

    Returns
    -------
    DataFrame
        One row for every data set, score and test set: `data`, `score`, `set_kind`, `set_value`, `gap` (the difference
        of the errors), `gap_low` and `gap_high`, `relative_gap`, `low` and `high`, `n_seeds`, and `reason`, which says
        why the relative gap is undefined; if it is not empty, the gap and its interval are NaN.

    Raises
    ------
    ValueError
        If there are no results of one of the models, or a parameter is out of range.

    Examples
    --------
    >>> errors = {
    ...     ("houses", name, 0, "mine"): SquaredErrors(
    ...         np.repeat(values, 50) + np.tile([-0.01, 0.01], 50),
    ...         {("mixture", 0.0): np.arange(50), ("mixture", 1.0): np.arange(50, 100)},
    ...     )
    ...     for name, values in {"net": (0.3, 0.9), "trees": (0.2, 0.5)}.items()
    ... }
    >>> results = pd.DataFrame(
    ...     {"data": "houses", "model": ["net", "trees"], "seed": 0, "score": "mine", "set_kind": "mixture"}
    ... )
    >>> relative_gaps(results, errors, "net", "trees")["relative_gap"].round(6).tolist()
    [1.0, 4.0]
    """
    if n_bootstrap < 2 or not 0 < level < 1:
        raise ValueError(f"n_bootstrap must be at least 2 and level between 0 and 1, got {n_bootstrap} and {level}")
    known = set(results["model"])
    if not {model, reference} <= known or model == reference:
        raise ValueError(f"model and reference must be two of {', '.join(sorted(known))}, got {model!r}, {reference!r}")
    look_up = errors.__getitem__ if isinstance(errors, Mapping) else errors.squared_errors
    rows: list[dict[str, Any]] = []
    for (data, score), part in results.groupby(["data", "score"], sort=False):
        of_both = [set(part.loc[part["model"] == name, "seed"]) for name in (model, reference)]
        generator = np.random.default_rng(random_state)
        means = []
        for seed in sorted(set.intersection(*of_both)):
            first, second = (look_up(Task(str(data), name, seed, str(score))) for name in (model, reference))
            means.append(_resample(first, second, n_bootstrap, generator))
        if means:
            seeds = generator.integers(len(means), size=(n_bootstrap, len(means)))
            rows += [
                {"data": data, "score": score, **row} for row in _gap_rows(means, seeds, level, (model, reference))
            ]
    return pd.DataFrame(rows)


def _resample(first: SquaredErrors, second: SquaredErrors, n_bootstrap: int, generator: np.random.Generator) -> _Means:
    values = np.column_stack([first.values, second.values])
    counts = generator.multinomial(len(values), np.full(len(values), 1 / len(values)), size=n_bootstrap)
    plain, resampled = {}, {}
    for name, members in first.sets.items():
        plain[name] = values[members].mean(axis=0)
        drawn = counts[:, members]
        # A small set may get no row in a draw: its original mean is used then.
        total = drawn.sum(axis=1, keepdims=True)
        resampled[name] = np.where(total > 0, drawn @ values[members] / np.maximum(total, 1), plain[name])
    return _Means(plain, resampled)


def _gap_rows(means: list[_Means], seeds: NDArray, level: float, names: tuple[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a row for every test set of one data set and score."""
    tails = [(1 - level) / 2, (1 + level) / 2]
    draws = np.arange(len(seeds))[:, None]
    for name in means[0].plain:
        sets = (name, _BASELINE[name[0]])
        if any(one not in mean.plain for one in sets for mean in means):
            continue
        plain = np.mean([[mean.plain[one] for one in sets] for mean in means], axis=0)
        (here, baseline) = (
            np.stack([mean.resampled[one] for mean in means])[seeds, draws].mean(axis=1) @ [1, -1] for one in sets
        )
        by_seed = [mean.plain[sets[1]] @ [1, -1] for mean in means]
        found = relative_gap(*plain[0], *plain[1], baseline_se=float(np.std(baseline)), names=names)
        reason = found.reason
        ends = np.quantile(baseline, tails)
        if min(by_seed) < 0 < max(by_seed):
            reason = "the gap at q=0 changes sign between seeds"
        elif not reason and ends[0] <= 0 <= ends[1]:
            reason = f"gap at q=0 within noise: {level:.0%} interval {ends[0]:.2g} to {ends[1]:.2g}"
        low, high = np.quantile(here / baseline, tails) if not reason else (np.nan, np.nan)
        gap_low, gap_high = np.quantile(here, tails)
        yield {
            "set_kind": name[0],
            "set_value": name[1],
            "gap": float(plain[0] @ [1, -1]),
            "gap_low": float(gap_low),
            "gap_high": float(gap_high),
            "relative_gap": np.nan if reason else found.value,
            "low": float(low),
            "high": float(high),
            "n_seeds": len(means),
            "reason": reason,
        }


class ModelComparison(NamedTuple):
    """Ranks of models and tests of their differences.

    Attributes
    ----------
    ranks : DataFrame
        `model`, `mean_rank` (1 is best) and `mean_error`, best first.
    critical_difference : float
        Mean ranks that differ by more differ at the level asked for (Nemenyi's test; Demsar, JMLR 2006).
    friedman_p : float
        P-value of the hypothesis that no models differ (Friedman's test); NaN for fewer than three models.
    pairs : DataFrame
        For every pair `model_a`, `model_b`: `wins_a`, `wins_b`, `ties`, `median_difference` (of the errors, a - b),
        `wilcoxon_p` and `holm_p`, the same corrected for all pairs.
    n_blocks : int
        Number of blocks that ranks are averaged over.
    over : {"data and seed", "data"}
        Definition of a block.
    set_kind : str
        Kind of the test sets.
    """

    ranks: pd.DataFrame
    critical_difference: float
    friedman_p: float
    pairs: pd.DataFrame
    n_blocks: int
    over: str = "data and seed"
    set_kind: str = "mixture"

    @property
    def least_p(self) -> float:
        """Smallest corrected p-value possible with so many blocks, reached if one model of each pair always wins."""
        return min(1.0, 2.0 ** (1 - self.n_blocks) * max(1, len(self.pairs)))


def compare_models(
    results: pd.DataFrame,
    *,
    metric: str = "mse",
    set_kind: str = "mixture",
    set_value: float = 0.0,
    over: str = "data and seed",
    level: float = 0.95,
) -> ModelComparison:
    """Compare models over data sets and seeds, on one kind of test set.

    Every data set and seed is a block in which the models are ranked and paired. Ways to divide one data set ask about
    the same rows over again, so that a model's error in a block is its mean over the scores that all models share.
    Seeds of one data set share its rows too, so that p-values over "data and seed" are too small where data sets are
    few; "data" takes means over seeds as well, as the tests assume.

    Parameters
    ----------
    results : DataFrame
        From `run_benchmark` or `ResultStore.results`.
    metric : str, default="mse"
        Column that is compared; smaller is better, except for "r2".
    set_kind : str, default="mixture"
        Kind of the test set.
    set_value : float, default=0.0
        Its value.
    over : {"data and seed", "data"}, default="data and seed"
        Definition of a block.
    level : float, default=0.95
        Level of the critical difference.

    Returns
    -------
    ModelComparison
        Ranks, tests over all models, and tests of pairs. Blocks that a model has no result in are left out.

    Raises
    ------
    ValueError
        If a parameter is out of range, or there are fewer than two models or no block that all of them share.

    Examples
    --------
    >>> table = pd.DataFrame([
    ...     {"data": d, "score": "mine", "seed": 0, "model": m, "set_kind": "mixture", "set_value": 0.0, "mse": mse}
    ...     for d in range(6) for m, mse in {"a": 0.1 + d, "b": 0.2 + 1.1 * d}.items()
    ... ])
    >>> comparison = compare_models(table)
    >>> comparison.ranks["mean_rank"].tolist(), comparison.pairs["wilcoxon_p"].tolist()
    ([1.0, 2.0], [0.03125])
    """
    if over not in ("data and seed", "data") or not 0 < level < 1:
        raise ValueError(f"over must be 'data and seed' or 'data', level between 0 and 1; got {over!r}, {level}")
    chosen = results[(results["set_kind"] == set_kind) & np.isclose(results["set_value"].astype(float), set_value)]
    parts, block = ["data", "seed", "score"], ["data"] + (["seed"] if over == "data and seed" else [])
    shared = chosen.pivot_table(index=parts, columns="model", values=metric, aggfunc="mean", sort=False).dropna()
    errors = shared.groupby(level=block, sort=False).mean()
    n_blocks, n_models = errors.shape
    if n_models < 2 or n_blocks < 1:
        raise ValueError(
            f"{set_kind} {set_value:g}: there are not two models with a {metric} in a block that they share"
        )
    ranks = (-errors if metric == "r2" else errors).rank(axis=1)
    summary = pd.DataFrame({"mean_rank": ranks.mean(), "mean_error": errors.mean()})
    summary = summary.sort_values("mean_rank", kind="stable").rename_axis("model").reset_index()
    quantile = stats.studentized_range.ppf(level, n_models, np.inf) / np.sqrt(2)
    friedman = np.nan
    if n_models > 2 and n_blocks > 1:
        # If all models tie in every block, the statistic is 0 / 0 and they do not differ.
        tied = (errors.nunique(axis=1) == 1).all()
        friedman = 1.0 if tied else stats.friedmanchisquare(*errors.to_numpy().T).pvalue
    return ModelComparison(
        summary,
        float(quantile * np.sqrt(n_models * (n_models + 1) / (6 * n_blocks))),
        float(friedman),
        _pairs(errors, larger_is_better=metric == "r2"),
        n_blocks,
        over,
        set_kind,
    )


def _pairs(errors: pd.DataFrame, *, larger_is_better: bool) -> pd.DataFrame:
    """Test every pair of columns."""
    rows = []
    for first, second in combinations(errors.columns, 2):
        difference = (errors[first] - errors[second]).to_numpy()
        below, above = int((difference < 0).sum()), int((difference > 0).sum())
        rows.append(
            {
                "model_a": first,
                "model_b": second,
                "wins_a": above if larger_is_better else below,
                "wins_b": below if larger_is_better else above,
                "ties": len(difference) - below - above,
                "median_difference": float(np.median(difference)),
                "wilcoxon_p": float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0,
            }
        )
    pairs = pd.DataFrame(rows)
    return pairs.assign(holm_p=_holm(pairs["wilcoxon_p"].to_numpy()))


def _holm(p: NDArray) -> NDArray:
    """Correct p-values for their number (Holm's step-down)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected
