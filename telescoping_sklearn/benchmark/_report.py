"""Say what a study found: a table, a file, and a figure in the paper's layout."""

import json
import textwrap
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from telescoping_sklearn.benchmark._study import BenchmarkStudy
from telescoping_sklearn.metrics import RelativeGap, relative_gap

#: Colour (Okabe and Ito's palette, safe for the colour-blind) and marker of each model.
_STYLE = {"net": ("#0072B2", "o"), "trees": ("#D55E00", "s")}
_LIBRARIES = ("telescoping_sklearn", "scikit-learn", "lightgbm", "torch", "skorch", "numpy")


def tabulate_results(results: pd.DataFrame, study: BenchmarkStudy) -> str:
    """Write a study's results as text.

    Parameters
    ----------
    results : DataFrame
        From `run_benchmark`.
    study : BenchmarkStudy
        The study.

    Returns
    -------
    str
        A table for each data set, means over seeds, and the settings and versions behind it.
    """
    tables = [_tabulate_data(name, part, study) for name, part in results.groupby("data", sort=False)]
    return "\n\n".join([*tables, _legend(study)])


def _tabulate_data(name: Any, part: pd.DataFrame, study: BenchmarkStudy) -> str:
    means = part.groupby(["model", "proportion"])[["mse", "kernel_norm_ratio", "effective_params"]].mean()
    net, trees = means.loc["net"], means.loc["trees"]
    gaps = {proportion: gap_at(part, proportion) for proportion in net.index}
    table = pd.DataFrame(
        {
            "irregular": [f"{proportion:.0%}" for proportion in net.index],
            "MSE net": net["mse"].map("{:.3f}".format),
            "MSE trees": trees["mse"].map("{:.3f}".format),
            "relative gap": [f"{gap.value:.2f}" if not gap.reason else "none (*)" for gap in gaps.values()],
            "kernel net": net["kernel_norm_ratio"].map("{:.2f}".format),
            "kernel trees": trees["kernel_norm_ratio"].map("{:.2f}".format),
            "p net": net["effective_params"].map("{:.0f}".format),
            "p trees": trees["effective_params"].map("{:.0f}".format),
        }
    )
    size = part.iloc[0]
    cut = "" if size["n_test"] == study.test_size else f" ({study.test_size} asked for; that many are irregular)"
    lines = [f"{name}: {size['n_train']} training rows, test sets of {size['n_test']}{cut}", ""]
    lines += [table.to_string(index=False), ""]
    for model, of_model in part[part["proportion"] == 0].groupby("model"):
        mean = of_model.mean(numeric_only=True)
        lines.append(
            f"{model:>6}: p on training rows {mean['effective_params_train']:.0f} "
            f"+- {mean['effective_params_train_se']:.0f}, {mean['n_stages']:.0f} stages, "
            f"fitted in {mean['fit_seconds']:.1f} s, explained in {mean['explain_seconds']:.1f} s"
        )
    where: dict[str, list[str]] = {}
    for proportion, gap in gaps.items():
        if gap.reason:
            where.setdefault(gap.reason, []).append(f"{proportion:.0%}")
    lines += [f"   (*) no relative gap at {', '.join(shares)}: {reason}" for reason, shares in where.items()]
    return "\n".join(lines)


def gap_at(part: pd.DataFrame, proportion: float) -> RelativeGap:
    """Relative gap of the means over seeds of one data set.

    The noise of the gap at proportion 0 is the larger of its standard error over test rows and over seeds.

    Parameters
    ----------
    part : DataFrame
        Results of one data set.
    proportion : float
        Share of irregular rows.

    Returns
    -------
    RelativeGap
        The gap, or why there is none.
    """
    errors = part.pivot(index="seed", columns=["model", "proportion"], values="mse")
    baseline = errors["net"][0.0] - errors["trees"][0.0]
    if baseline.min() < 0 < baseline.max():
        return RelativeGap(np.nan, "the gap at q=0 changes sign between seeds")
    over_rows = part["gap_se"].mean() / np.sqrt(len(baseline))
    over_seeds = baseline.std(ddof=1) / np.sqrt(len(baseline)) if len(baseline) > 1 else 0.0
    means = errors.mean()
    return relative_gap(
        means["net", proportion],
        means["trees", proportion],
        means["net", 0.0],
        means["trees", 0.0],
        baseline_se=max(over_rows, over_seeds),
    )


def _legend(study: BenchmarkStudy) -> str:
    seeds = f"seeds 0..{study.n_seeds - 1}" if study.n_seeds > 1 else "seed 0"
    sentences = [
        "MSE in units of the training labels' variance; relative gap = (MSE net - MSE trees) over the same at 0 %; "
        "kernel = stage mean of the largest kernel norm on the test rows over that on the training rows; "
        "p = effective parameters.",
        f"Means over {seeds}; irregular by {study.score}; {study.n_probes} probes; the net's updates in sections of "
        f"{study.section}, its kernels at {study.kernel_stages} stages.",
        f"Net: {_settings(study.net_settings)}.",
        f"Trees: {_settings(study.tree_settings)}.",
        "Versions: " + ", ".join(f"{name} {version(name)}" for name in _LIBRARIES) + ".",
    ]
    return "\n".join(textwrap.fill(sentence, width=100) for sentence in sentences)


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def write_results(results: pd.DataFrame, study: BenchmarkStudy, folder: Path) -> list[Path]:
    """Write results.csv, settings.json and results.png.

    Parameters
    ----------
    results : DataFrame
        From `run_benchmark`.
    study : BenchmarkStudy
        The study.
    folder : Path
        An existing folder.

    Returns
    -------
    list of Path
        The files written.
    """
    files = [folder / name for name in ("results.csv", "settings.json", "results.png")]
    results.to_csv(files[0], index=False)
    behind = {"study": asdict(study), "net": study.net_settings, "trees": study.tree_settings}
    versions = {name: version(name) for name in _LIBRARIES}
    files[1].write_text(json.dumps(behind | {"versions": versions}, indent=2, default=str) + "\n")
    draw_results(results).savefig(files[2], dpi=150)
    return files


def draw_results(results: pd.DataFrame) -> Any:
    """Draw errors above and kernels below, one column a data set, as the paper does.

    Parameters
    ----------
    results : DataFrame
        From `run_benchmark`.

    Returns
    -------
    matplotlib.figure.Figure
        Means over seeds, with bars of one standard error where there are several.
    """
    from matplotlib.figure import Figure

    names = list(results["data"].unique())
    figure = Figure(figsize=(max(4.6, 3.4 * len(names)), 5.6), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, sharex=True)
    panels = (
        ("mse", "MSE / variance of training labels"),
        ("kernel_norm_ratio", "kernel norm ratio\n(test / training)"),
    )
    for column, name in enumerate(names):
        for row, (quantity, label) in enumerate(panels):
            _draw_panel(axes[row, column], results[results["data"] == name], quantity)
            if column == 0:
                axes[row, column].set_ylabel(label)
        axes[0, column].set_title(name)
        axes[1, column].axhline(1, color="0.5", linewidth=1, linestyle=":", zorder=0)
        axes[1, column].set_xlabel("share of irregular test rows")
    axes[0, 0].legend(frameon=False)
    return figure


def _draw_panel(ax: Any, part: pd.DataFrame, quantity: str) -> None:
    for model, (color, marker) in _STYLE.items():
        by_proportion = part[part["model"] == model].groupby("proportion")[quantity]
        mean, error = by_proportion.mean(), by_proportion.sem().fillna(0)
        ax.errorbar(mean.index, mean, yerr=error, color=color, marker=marker, capsize=3, label=model)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9")
