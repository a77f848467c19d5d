"""Say what a study found in files: a table, its settings, and a figure in the paper's layout."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from telescoping_sklearn.benchmark._store import ResultStore

#: Colours (Okabe and Ito's palette, safe for the colour-blind) and markers, one a model.
_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))


def write_results(store: ResultStore, folder: Path) -> list[Path]:
    """Write results.csv, settings.json and results.png.

    Parameters
    ----------
    store : ResultStore
        Results of a study.
    folder : Path
        An existing folder.

    Returns
    -------
    list of Path
        The files written.
    """
    files = [folder / name for name in ("results.csv", "settings.json", "results.png")]
    results = store.results()
    results.to_csv(files[0], index=False)
    files[1].write_text(json.dumps(store.metadata(), indent=2) + "\n")
    draw_results(results).savefig(files[2], dpi=150)
    return files


def draw_results(results: pd.DataFrame) -> Any:
    """Draw errors above and kernels below, one column a data set and score, as the paper does.

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

    parts = list(results[results["set_kind"] != "decile"].groupby(["data", "score"], sort=False))
    styles = {model: _STYLES[i % len(_STYLES)] for i, model in enumerate(results["model"].unique())}
    figure = Figure(figsize=(max(4.6, 3.4 * len(parts)), 5.6), layout="constrained")
    axes = figure.subplots(2, len(parts), squeeze=False, sharex="col")
    panels = (
        ("mse", "MSE / variance of training labels"),
        ("kernel_norm_ratio", "kernel norm ratio\n(test / training)"),
    )
    several = results["score"].nunique() > 1
    for column, ((data, score), part) in enumerate(parts):
        for row, (quantity, label) in enumerate(panels):
            _draw_panel(axes[row, column], part, quantity, styles)
            if column == 0:
                axes[row, column].set_ylabel(label)
        axes[0, column].set_title(f"{data}, {score}" if several else data)
        axes[1, column].axhline(1, color="0.5", linewidth=1, linestyle=":", zorder=0)
        along = str(score).removeprefix("shift:")
        axes[1, column].set_xlabel("share of irregular test rows" if along == score else f"share along {along}")
    axes[0, 0].legend(frameon=False)
    return figure


def _draw_panel(ax: Any, part: pd.DataFrame, quantity: str, styles: dict[str, tuple[str, str]]) -> None:
    for model, (color, marker) in styles.items():
        by_value = part[part["model"] == model].groupby("set_value")[quantity]
        mean, error = by_value.mean(), by_value.sem().fillna(0)
        if mean.notna().any():
            ax.errorbar(mean.index, mean, yerr=error, color=color, marker=marker, capsize=3, label=model)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="0.9")
