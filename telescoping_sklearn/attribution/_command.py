"""The command ``python -m telescoping_sklearn attribution``: its options, and what it writes."""

import argparse
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

from telescoping_sklearn.attribution._data import ATTRIBUTION_DATA
from telescoping_sklearn.attribution._models import MODELS
from telescoping_sklearn.attribution._report import summarise_attribution, tabulate_attribution
from telescoping_sklearn.attribution._runner import run_attribution
from telescoping_sklearn.attribution._study import MEASURES, AttributionStudy

#: Default folders, without and with ``--quick``.
_FOLDER, _QUICK_FOLDER = Path("attribution_results"), Path("attribution_quick")
_VALUES, _SUMMARY, _TABLE = "values.csv", "summary.csv", "table.txt"
#: Sizes of a study with ``--quick``.
_QUICK: dict[str, Any] = {
    "n_seeds": 1,
    "n_train": 120,
    "n_query": 20,
    "n_subsets": 10,
    "n_left_out": 10,
    "n_removal": 2,
}
#: Options that are sizes of a study: parameter of `AttributionStudy` and help text.
_SIZES = {
    "seeds": ("n_seeds", f"samples of each data set (default: {AttributionStudy.n_seeds})"),
    "train": ("n_train", "training rows (default: 600 for trees, 400 for nets)"),
    "query": ("n_query", f"query rows (default: {AttributionStudy.n_query})"),
    "subsets": ("n_subsets", "random subsets of each size (default: 100 for trees, 50 for nets)"),
    "left-out": ("n_left_out", f"rows left out one at a time (default: {AttributionStudy.n_left_out})"),
    "removal": ("n_removal", f"query rows whose rows are removed (default: {AttributionStudy.n_removal})"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    add = parser.add_argument
    add(
        "--data",
        nargs="+",
        metavar="NAME",
        default=["lucas_county"],
        help=f"data sets: {', '.join(ATTRIBUTION_DATA)}, or openml:NAME (default: lucas_county)",
    )
    add(
        "--models",
        nargs="+",
        metavar="MODEL",
        default=["lightgbm"],
        help=f"models: {', '.join(MODELS)} (default: lightgbm)",
    )
    add(
        "--measures",
        nargs="+",
        metavar="MEASURE",
        default=list(MEASURES),
        help="measures: " + "; ".join(f"{name}, the {about}" for name, about in MEASURES.items()).replace("%", "%%"),
    )
    for option, (name, about) in _SIZES.items():
        add(f"--{option}", dest=name, type=int, default=argparse.SUPPRESS, metavar="N", help=about)
    add(
        "--quick",
        action="store_true",
        help="a small study that shows how it works, too small to compare scores; sizes given beside it count",
    )
    add("--n-jobs", type=int, default=1, metavar="N", help="processes that retrain models (default: 1)")
    add(
        "--folder",
        type=Path,
        help=f"folder for {_VALUES}, {_SUMMARY}, {_TABLE} and the predictions of retrained models, which are not "
        "trained again; other results that are there move to a folder earlier_1 and so on in it "
        f"(default: {_FOLDER}, or {_QUICK_FOLDER} with --quick)",
    )


def run(options: argparse.Namespace) -> int:
    """Run a study, write its results and print the table.

    Parameters
    ----------
    options : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        0; errors are raised.
    """
    sizes = (_QUICK if options.quick else {}) | {
        name: value for name, value in vars(options).items() if name in {size for size, _ in _SIZES.values()}
    }
    study = AttributionStudy(
        data=tuple(options.data), models=tuple(options.models), measures=tuple(options.measures), **sizes
    )
    folder = options.folder or (_QUICK_FOLDER if options.quick else _FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    clock = time.perf_counter()
    try:
        results = run_attribution(study, folder / "retrained", n_jobs=options.n_jobs, progress=True)
    except KeyboardInterrupt:
        print("interrupted; retrained models are kept, and the same command runs the rest", file=sys.stderr)
        raise
    table = tabulate_attribution(results, study, marks=not options.quick)
    files = {
        _VALUES: results.to_csv(index=False).encode(),
        _SUMMARY: summarise_attribution(results).to_csv(index=False).encode(),
        _TABLE: f"{table}\n".encode(),
    }
    kept = _keep_other_results(folder, files)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    print(table)
    print(f"\n{time.perf_counter() - clock:.0f} s in all. Written: {folder}")
    if kept:
        print(f"Other results that were in {folder} are kept in {kept}.")
    return 0


def _keep_other_results(folder: Path, files: dict[str, bytes]) -> Path | None:
    """Move the results in the folder to a folder of their own, unless they are the same; return where they are."""
    there = {name: (folder / name).read_bytes() for name in files if (folder / name).exists()}
    if there.items() <= files.items():
        return None
    kept = next(place for number in count(1) if not (place := folder / f"earlier_{number}").exists())
    kept.mkdir()
    for name in there:
        (folder / name).rename(kept / name)
    return kept
