"""The command line: ``python -m telescoping_sklearn benchmark``."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from telescoping_sklearn import __version__
from telescoping_sklearn.benchmark import BenchmarkStudy, run_benchmark, tabulate_results, write_results
from telescoping_sklearn.benchmark._study import DATA_NAMES, SCORES, load

_USAGE_ERROR = 2
_INTERRUPTED = 130
_DEFAULTS = BenchmarkStudy()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m telescoping_sklearn", description="Telescoping models.")
    parser.add_argument("--version", action="version", version=f"telescoping_sklearn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    benchmark = commands.add_parser(
        "benchmark",
        help="compare boosted trees with a net on ever more irregular test rows",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = benchmark.add_argument
    add("--data", nargs="+", default=list(_DEFAULTS.data), metavar="NAME", help=f"of {', '.join(DATA_NAMES)}")
    add("--seeds", type=int, default=_DEFAULTS.n_seeds, help="number of seeds")
    add(
        "--proportions",
        nargs="+",
        type=float,
        default=list(_DEFAULTS.proportions),
        metavar="Q",
        help="irregular shares",
    )
    add("--max-train", type=int, default=_DEFAULTS.max_train, help="most training rows; 0 for all")
    add("--test-size", type=int, default=_DEFAULTS.test_size, help="rows of a test set; at most those irregular")
    add("--score", default=_DEFAULTS.score, choices=list(SCORES), help="what irregular means")
    add("--probes", type=int, default=_DEFAULTS.n_probes, help="random columns that estimate effective parameters")
    add("--section", type=int, default=_DEFAULTS.section, help="updates of the net bridged by one evaluation")
    add(
        "--kernel-stages",
        type=int,
        default=_DEFAULTS.kernel_stages,
        help="updates at which the net's kernels are taken",
    )
    net, trees = _DEFAULTS.net_settings, _DEFAULTS.tree_settings
    add(
        "--net-hidden",
        nargs="+",
        type=int,
        default=list(net["hidden_layer_sizes"]),
        metavar="WIDTH",
        help="hidden widths",
    )
    add("--net-lr", type=float, default=1e-3, help="the net's learning rate (Adam)")
    add("--net-epochs", type=int, default=net["max_iter"], help="the net's epochs")
    add("--net-batch-size", type=int, default=net["batch_size"], help="the net's batch size")
    add("--trees", type=int, default=trees["n_estimators"], help="number of trees")
    add("--tree-lr", type=float, default=0.1, help="the trees' learning rate")
    add("--tree-leaves", type=int, default=31, help="most leaves of a tree")
    add("--output", type=Path, default=Path("benchmark_results"), help="folder for results.csv and results.png")
    add("--jobs", type=int, default=2, help="fits that run side by side, one thread each")
    return parser


def _study(options: argparse.Namespace) -> BenchmarkStudy:
    for name, least in {"jobs": 1, "net_epochs": 1, "net_batch_size": 1, "trees": 1, "tree_leaves": 2}.items():
        if getattr(options, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(options, name)}")
    for name in ("net_lr", "tree_lr"):
        if not getattr(options, name) > 0:
            raise ValueError(f"{name} must be above 0, got {getattr(options, name)}")
    if min(options.net_hidden) < 1:
        raise ValueError(f"net_hidden must be positive, got {options.net_hidden}")
    if find_spec("matplotlib") is None:
        raise ValueError("the figure needs matplotlib: pip install 'telescoping_sklearn[plot]'")
    return BenchmarkStudy(
        data=tuple(options.data),
        n_seeds=options.seeds,
        proportions=tuple(options.proportions),
        max_train=options.max_train or None,
        test_size=options.test_size,
        score=options.score,
        n_probes=options.probes,
        section=options.section,
        kernel_stages=options.kernel_stages,
        net={
            "hidden_layer_sizes": tuple(options.net_hidden),
            "learning_rate_init": options.net_lr,
            "max_iter": options.net_epochs,
            "batch_size": options.net_batch_size,
        },
        trees={
            "n_estimators": options.trees,
            "learning_rate": options.tree_lr,
            "num_leaves": options.tree_leaves,
        },
    )


def _prepare(options: argparse.Namespace) -> BenchmarkStudy:
    """Find every mistake before any work."""
    study = _study(options)
    for name in study.data:
        load(name)
    options.output.mkdir(parents=True, exist_ok=True)
    if not os.access(options.output, os.W_OK):
        raise OSError(f"output folder {options.output} cannot be written to")
    return study


def _benchmark(study: BenchmarkStudy, options: argparse.Namespace) -> None:
    clock = time.perf_counter()
    results = run_benchmark(study, n_jobs=options.jobs, progress=True)
    files = write_results(results, study, options.output)
    print(tabulate_results(results, study))
    print(f"\n{time.perf_counter() - clock:.0f} s in all. Written: {', '.join(map(str, files))}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None, default=None
        Arguments; None takes the process's own.

    Returns
    -------
    int
        Exit code: 0, 2 for options that make no sense, 130 when interrupted.
    """
    options = _parser().parse_args(argv)
    try:
        study = _prepare(options)
    except (ValueError, OSError) as error:
        return _end(f"error: {' '.join(str(error).split())}", _USAGE_ERROR)
    try:
        _benchmark(study, options)
    except KeyboardInterrupt:
        return _end("interrupted", _INTERRUPTED)
    return 0


def _end(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
