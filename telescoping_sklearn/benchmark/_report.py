"""Write the results of a study to files: a table, its settings, and a figure in the paper's layout."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from telescoping_sklearn.benchmark._store import ResultStore
from telescoping_sklearn.displays import IrregularityCurveDisplay, summarize_curves


def write_results(store: ResultStore, folder: Path) -> list[Path]:
    """Write results.csv, settings.json, results.png and, of a study with shifts beside mixtures, results_shift.png.

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
    files = [folder / name for name in ("results.csv", "settings.json")]
    results = store.results()
    results.to_csv(files[0], index=False)
    files[1].write_text(json.dumps(store.metadata(), indent=2) + "\n")
    kinds = [kind for kind in ("mixture", "shift") if (results["set_kind"] == kind).any()]
    for position, kind in enumerate(kinds):
        files.append(folder / (f"results_{kind}.png" if position else "results.png"))
        _draw(results, kind).savefig(files[-1], dpi=150)
    return files


def _draw(results: pd.DataFrame, kind: str) -> Any:
    """Draw errors above and kernel norm ratios below, on a figure outside pyplot."""
    from matplotlib.figure import Figure

    summaries = {name: summarize_curves(results, name, set_kind=kind) for name in ("mse", "kernel_norm_ratio")}
    display = IrregularityCurveDisplay(
        curves={name: summary for name, summary in summaries.items() if len(summary)}, set_kind=kind
    )
    n_rows, n_columns = len(display.curves), len(display.data)
    figure = Figure(figsize=(max(4.6, 3.4 * n_columns), 2.8 * n_rows), layout="constrained")
    return display.plot(ax=figure.subplots(n_rows, n_columns, squeeze=False, sharex="col")).figure_
