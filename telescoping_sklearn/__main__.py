"""The command line: ``python -m telescoping_sklearn benchmark`` and what is done with its results."""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from telescoping_sklearn import __version__, benchmark
from telescoping_sklearn.benchmark import (
    BenchmarkStudy,
    FailedTasksWarning,
    ResultStore,
    StudyError,
    describe_plan,
    list_versions,
    run_benchmark,
    set_side_by_side,
    tabulate_results,
    write_results,
)

_SOME_FAILED = 1
_NOTHING_SHARED = 1
_NOBODY_READS = 141
_USAGE_ERROR = 2
_INTERRUPTED = 130
_DEFAULTS = BenchmarkStudy  # a field's default is an attribute of the class; making a study would load torch
_FOLDER = Path("benchmark_results")
#: Options that make a study of their own, with the parameter each sets. A study file says all of that itself.
_STUDY_OPTIONS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "data": (["lucas_county"], {"nargs": "+", "metavar": "NAME"}, "data sets by name"),
    "seeds": (_DEFAULTS.n_seeds, {"type": int}, "number of seeds"),
    "proportions": (
        list(_DEFAULTS.proportions),
        {"nargs": "+", "type": float, "metavar": "Q"},
        "shares of irregular rows",
    ),
    "max_train": (_DEFAULTS.max_train, {"type": int}, "most training rows; 0 for all"),
    "test_size": (_DEFAULTS.test_size, {"type": int}, "rows of a test set; at most those irregular"),
    "score": (_DEFAULTS.score, {}, "what irregular means"),
    "probes": (_DEFAULTS.n_probes, {"type": int}, "random columns that estimate effective parameters"),
    "section": (_DEFAULTS.section, {"type": int}, "updates of the net bridged by one evaluation"),
    "kernel_stages": (_DEFAULTS.kernel_stages, {"type": int}, "updates at which the net's kernels are taken"),
    "net_hidden": ([64, 64, 64], {"nargs": "+", "type": int, "metavar": "WIDTH"}, "hidden widths"),
    "net_lr": (1e-3, {"type": float}, "the net's learning rate (Adam)"),
    "net_epochs": (20, {"type": int}, "the net's epochs"),
    "net_batch_size": (128, {"type": int}, "the net's batch size"),
    "trees": (300, {"type": int}, "number of trees"),
    "tree_lr": (0.1, {"type": float}, "the trees' learning rate"),
    "tree_leaves": (31, {"type": int}, "most leaves of a tree"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m telescoping_sklearn", description="Telescoping models.")
    parser.add_argument("--version", action="version", version=f"telescoping_sklearn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_benchmark(commands.add_parser("benchmark", help="compare regressors on ever more irregular test rows"))
    results = commands.add_parser("results", help="write a file's results as a table")
    results.add_argument("file", type=Path, help="results of a benchmark")
    results.add_argument("--to", choices=["csv", "parquet"], default="csv", help="kind of table (default: csv)")
    results.add_argument("--output", type=Path, help="where to; CSV goes to the standard output without it")
    results.set_defaults(run=_results)
    compare = commands.add_parser("compare", help="put two files of results side by side")
    compare.add_argument("first", type=Path, help="results of a benchmark")
    compare.add_argument("second", type=Path, help="results of another")
    compare.add_argument("--metric", default="mse", help="column to compare (default: mse)")
    compare.set_defaults(run=_compare)
    report = commands.add_parser("report", help="write a file's results as a page to look at")
    report.add_argument("file", type=Path, help="results of a benchmark")
    report.add_argument("--output", type=Path, help="the page (default: the file's name with .html)")
    report.set_defaults(run=_report)
    return parser


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("study", nargs="?", type=Path, metavar="STUDY.toml", help="a study; without it, the options below make one")
    add(
        "--output",
        type=Path,
        help="file for the results if it ends in .sqlite, else a folder that also gets results.csv, settings.json and "
        f"results.png (default: {_FOLDER}, or the study's name with .sqlite); what is in it is not done again",
    )
    add("--jobs", type=int, default=2, help="tasks that run side by side, one thread each (default: 2)")
    add("--backend", choices=["loky", "dask"], default="loky", help="processes here, or a Dask cluster (default: loky)")
    add("--scheduler", metavar="ADDRESS", help="address of the Dask cluster's scheduler")
    add("--dry-run", action="store_true", help="check everything, print the plan and its size, and end")
    group = parser.add_argument_group("a study of nets and trees", "not together with STUDY.toml")
    for name, (default, settings, about) in _STUDY_OPTIONS.items():
        said = " ".join(map(str, default)) if isinstance(default, list) else default
        group.add_argument(
            f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=f"{about} (default: {said})", **settings
        )
    parser.set_defaults(run=_benchmark)


def _study(options: argparse.Namespace) -> BenchmarkStudy:
    """Make the study, from its file or from options."""
    given = {name: value for name, value in vars(options).items() if name in _STUDY_OPTIONS}
    if options.study is not None:
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise StudyError([f"a study file says all of a study: leave out {names}"])
        return BenchmarkStudy.from_toml(options.study)
    chosen = argparse.Namespace(**{name: item[0] for name, item in _STUDY_OPTIONS.items()} | given)
    mistakes = {}
    for name, least in {"net_epochs": 1, "net_batch_size": 1, "trees": 1, "tree_leaves": 2}.items():
        if getattr(chosen, name) < least:
            mistakes[name] = f"{name} must be at least {least}, got {getattr(chosen, name)}"
    for name in ("net_lr", "tree_lr"):
        if not getattr(chosen, name) > 0:
            mistakes[name] = f"{name} must be above 0, got {getattr(chosen, name)}"
    if min(chosen.net_hidden) < 1:
        mistakes["net_hidden"] = f"net_hidden must be positive, got {chosen.net_hidden}"
    for name in mistakes:  # the study need not say them again
        setattr(chosen, name, _STUDY_OPTIONS[name][0])
    said = list(mistakes.values())
    try:
        study = _study_of_options(chosen)
    except StudyError as error:
        raise StudyError(said + error.mistakes) from error
    if said:
        raise StudyError(said)
    return study


def _study_of_options(chosen: argparse.Namespace) -> BenchmarkStudy:
    net = {
        "hidden_layer_sizes": tuple(chosen.net_hidden),
        "learning_rate_init": chosen.net_lr,
        "max_iter": chosen.net_epochs,
        "batch_size": chosen.net_batch_size,
    }
    trees = {"n_estimators": chosen.trees, "learning_rate": chosen.tree_lr, "num_leaves": chosen.tree_leaves}
    return BenchmarkStudy(
        data=tuple(chosen.data),
        models={"net": {"settings": net}, "trees": {"settings": trees}},
        n_seeds=chosen.seeds,
        proportions=tuple(chosen.proportions),
        max_train=chosen.max_train or None,
        test_size=chosen.test_size,
        score=chosen.score,
        n_probes=chosen.probes,
        section=chosen.section,
        kernel_stages=chosen.kernel_stages,
    )


def _places(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """Where the results go: the file, and the folder for what is drawn of them."""
    output = options.output
    if output is None:
        output = _FOLDER if options.study is None else Path(f"{options.study.stem}.sqlite")
    return (output, None) if output.suffix == ".sqlite" else (output / "results.sqlite", output)


def _check_places(file: Path, folder: Path | None) -> None:
    if folder is not None and find_spec("matplotlib") is None:
        raise ValueError("the figure needs matplotlib: pip install 'telescoping_sklearn[plot]'")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK):
        raise OSError(f"output folder {file.parent} cannot be written to")


def _benchmark(options: argparse.Namespace) -> int:
    """Run a study; every mistake is found before any work."""
    if options.jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {options.jobs}")
    study = _study(options)
    file, folder = _places(options)
    if options.dry_run:
        print(describe_plan(study, study.load_tables(), file))
        return 0
    study.load_tables()
    _check_places(file, folder)
    store = ResultStore.create(file)
    clock = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FailedTasksWarning)  # told below, in full
            results = run_benchmark(
                study,
                store,
                n_jobs=options.jobs,
                backend=options.backend,
                scheduler=options.scheduler,
                progress=True,
            )
    except KeyboardInterrupt:
        return _end("interrupted; what is done is kept, and the same command does the rest", _INTERRUPTED)
    written = [file, *(write_results(store, folder) if folder is not None and len(results) else [])]
    if len(results):
        print(tabulate_results(results, study, store))
    print(f"\n{time.perf_counter() - clock:.0f} s in all. Written: {', '.join(map(str, written))}")
    return _say_failures(store, study)


def _say_failures(store: ResultStore, study: BenchmarkStudy) -> int:
    failures = store.failures()
    for failure in failures.itertuples():
        last = str(failure.traceback).strip().splitlines()[-1]
        print(f"failed: {failure.data}, {failure.model}, seed {failure.seed}, {failure.score}: {last}", file=sys.stderr)
    if len(failures):
        told = "tracebacks are in the file, and running again tries them again"
        return _end(f"{len(failures)} of {study.n_tasks} tasks failed; {told}", _SOME_FAILED)
    return 0


def _results(options: argparse.Namespace) -> int:
    table = ResultStore(options.file).results()
    if options.to == "parquet":
        if find_spec("pyarrow") is None:
            raise ValueError("writing Parquet needs pyarrow: pip install pyarrow")
        table.to_parquet(options.output or options.file.with_suffix(".parquet"), index=False)
    else:
        table.to_csv(options.output or sys.stdout, index=False)
    return 0


def _compare(options: argparse.Namespace) -> int:
    first, second = ResultStore(options.first), ResultStore(options.second)
    print(set_side_by_side(first.results(), second.results(), options.metric))
    print(list_versions(first.metadata(), second.metadata()))
    names = ["data", "model", "score", "seed", "set_kind", "set_value"]
    sets = [set(store.results()[names].itertuples(index=False, name=None)) for store in (first, second)]
    return 0 if sets[0] & sets[1] else _NOTHING_SHARED


def _report(options: argparse.Namespace) -> int:
    output = options.output or options.file.with_suffix(".html")
    benchmark.write_report(options.file, output)
    print(f"Written: {output}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None, default=None
        Arguments; None takes the process's own.

    Returns
    -------
    int
        Exit code: 0; 1 when tasks failed, or files to compare have none in common; 2 for what makes no sense; 130 when
        interrupted; 141 when whoever read the output, such as ``head``, has stopped.
    """
    options = _parser().parse_args(argv)
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Python would try again when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS
    except StudyError as error:
        return _end("\n".join(f"error: {line}" for line in error.mistakes), _USAGE_ERROR)
    except (ValueError, OSError) as error:
        return _end(f"error: {' '.join(str(error).split())}", _USAGE_ERROR)
    except KeyboardInterrupt:
        return _end("interrupted", _INTERRUPTED)


def _end(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
