"""The command line, ``python -m telescoping_sklearn``: benchmark, results, compare, report and attribution."""

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
from telescoping_sklearn.attribution import _command as attribution
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

EXIT_FAILED_TASKS = 1
EXIT_NOTHING_SHARED = 1
EXIT_USAGE = 2
EXIT_SIGINT = 130
EXIT_SIGPIPE = 141
_DEFAULTS = BenchmarkStudy  # defaults are attributes of the class; making a study would load torch


def _section(text: str) -> int | str:
    """Read a section length, or "auto"."""
    return text if text == "auto" else int(text)


_FOLDER = Path("benchmark_results")
#: Options that define a study without a study file: default, settings of the argument, and help text.
_STUDY_OPTIONS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "data": (["lucas_county"], {"nargs": "+", "metavar": "NAME"}, "data sets by name"),
    "seeds": (_DEFAULTS.n_seeds, {"type": int}, "number of seeds"),
    "proportions": (
        list(_DEFAULTS.proportions),
        {"nargs": "+", "type": float, "metavar": "Q"},
        "shares of irregular rows",
    ),
    "max_train": (_DEFAULTS.max_train, {"type": int}, "largest number of training rows; 0 for all"),
    "test_size": (_DEFAULTS.test_size, {"type": int}, "rows of a test set; at most the number of irregular rows"),
    "score": (_DEFAULTS.score, {}, "irregularity score"),
    "probes": (_DEFAULTS.n_probes, {"type": int}, "random columns that estimate effective parameters"),
    "section": (_DEFAULTS.section, {"type": _section}, "updates of the net per Jacobian evaluation, or auto"),
    "kernel_stages": (
        _DEFAULTS.kernel_stages,
        {"type": int},
        "number of updates at which the net's kernel norms are computed",
    ),
    "net_hidden": ([64, 64, 64], {"nargs": "+", "type": int, "metavar": "WIDTH"}, "hidden widths"),
    "net_lr": (1e-3, {"type": float}, "the net's learning rate (Adam)"),
    "net_epochs": (20, {"type": int}, "the net's epochs"),
    "net_batch_size": (128, {"type": int}, "the net's batch size"),
    "trees": (300, {"type": int}, "number of trees"),
    "tree_lr": (0.1, {"type": float}, "the trees' learning rate"),
    "tree_leaves": (31, {"type": int}, "largest number of leaves of a tree"),
}
#: Options of a table of one's own: settings of the argument, and help text.
_TABLE_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "target": ({"metavar": "COLUMN"}, "column to predict"),
    "drop": ({"nargs": "+", "metavar": "COLUMN"}, "columns to leave out"),
    "log_target": ({"action": "store_true"}, "predict the logarithm of the target"),
    "sep": ({"metavar": "MARK"}, "mark between fields"),
    "decimal": ({"choices": [".", ","]}, "decimal mark"),
    "encoding": ({}, "encoding of the file"),
    "dates": ({"choices": ["day-first", "month-first", "text"]}, "order of dates that are not ISO"),
    "missing": ({"nargs": "+", "metavar": "TEXT"}, "texts that stand for a missing value"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m telescoping_sklearn", description="Telescoping models.")
    parser.add_argument("--version", action="version", version=f"telescoping_sklearn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_benchmark(commands.add_parser("benchmark", help="benchmark regressors under increasing covariate shift"))
    results = commands.add_parser("results", help="export a results file as CSV or Parquet")
    results.add_argument("file", type=Path, help="results file of a benchmark")
    results.add_argument("--to", choices=["csv", "parquet"], default="csv", help="kind of table (default: csv)")
    results.add_argument("--output", type=Path, help="output file; CSV goes to the standard output by default")
    results.set_defaults(run=_results)
    compare = commands.add_parser("compare", help="compare two results files")
    compare.add_argument("first", type=Path, help="results file of a benchmark")
    compare.add_argument("second", type=Path, help="results file of another benchmark")
    compare.add_argument("--metric", default="mse", help="column to compare (default: mse)")
    compare.set_defaults(run=_compare)
    report = commands.add_parser("report", help="generate an HTML report from a results file")
    report.add_argument("file", type=Path, help="results file of a benchmark")
    report.add_argument("--output", type=Path, help="HTML file (default: the results file's name with .html)")
    report.set_defaults(run=_report)
    scores = commands.add_parser("attribution", help="compare scores of training rows by retraining without rows")
    attribution.add_options(scores)
    scores.set_defaults(run=attribution.run)
    return parser


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "study",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="a study (.toml), or a table of one's own (.csv, .tsv, .parquet) with --target; without it, the options "
        "below define the study",
    )
    add(
        "--output",
        type=Path,
        help="file for the results if it ends in .sqlite, else a folder that also gets results.csv, settings.json and "
        f"results.png (default: {_FOLDER}, NAME_benchmark for a table, or the name of the study with .sqlite); "
        "finished tasks in it are not run again",
    )
    add("--jobs", type=int, default=2, help="number of tasks run in parallel, one thread each (default: 2)")
    add("--backend", choices=["loky", "dask"], default="loky", help="local processes or a Dask cluster (default: loky)")
    add("--scheduler", metavar="ADDRESS", help="address of the Dask cluster's scheduler")
    add("--dry-run", action="store_true", help="check the study, print the plan and exit")
    group = parser.add_argument_group("study options", "not allowed together with a study file")
    for name, (default, settings, about) in _STUDY_OPTIONS.items():
        said = " ".join(map(str, default)) if isinstance(default, list) else default
        group.add_argument(
            f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=f"{about} (default: {said})", **settings
        )
    own = parser.add_argument_group("a table of one's own", "what is not given is found out where there is no doubt")
    for name, (settings, about) in _TABLE_OPTIONS.items():
        own.add_argument(f"--{name.replace('_', '-')}", default=argparse.SUPPRESS, help=about, **settings)
    parser.set_defaults(run=_benchmark)


def _study(options: argparse.Namespace) -> BenchmarkStudy:
    """Build the study from its file or from the options."""
    given = {name: value for name, value in vars(options).items() if name in _STUDY_OPTIONS}
    table = {name: value for name, value in vars(options).items() if name in _TABLE_OPTIONS}
    own = options.study is not None and options.study.suffix != ".toml"
    if table and not own:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in table)
        raise StudyError([f"{names}: options of a table of one's own; name its file, such as houses.csv"])
    if own:
        if "data" in given:
            raise StudyError([f"--data and {options.study} both name data: leave out one"])
        given["data"] = [{"path": str(options.study), **table}]
    elif options.study is not None:
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise StudyError([f"options are not allowed together with a study file: leave out {names}"])
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
    for name in mistakes:  # so that the study does not report them again
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


def _output_paths(options: argparse.Namespace) -> tuple[Path, Path | None]:
    """Paths of the results file and of the folder for table, settings and figure, if any."""
    output = options.output
    if output is None and (options.study is None or options.study.suffix == ".toml"):
        output = _FOLDER if options.study is None else Path(f"{options.study.stem}.sqlite")
    elif output is None:
        output = Path(f"{options.study.name.split('.')[0]}_benchmark")
    return (output, None) if output.suffix == ".sqlite" else (output / "results.sqlite", output)


def _check_output_paths(file: Path, folder: Path | None) -> None:
    if folder is not None and find_spec("matplotlib") is None:
        raise ValueError("the figure needs matplotlib: pip install 'telescoping_sklearn[plot]'")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK):
        raise OSError(f"output folder {file.parent} cannot be written to")


def _benchmark(options: argparse.Namespace) -> int:
    """Run a study; all settings are checked before any task runs."""
    if options.jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {options.jobs}")
    study = _study(options)
    file, folder = _output_paths(options)
    if options.dry_run:
        print(describe_plan(study, study.load_tables(), file))
        return 0
    study.load_tables()
    _check_output_paths(file, folder)
    store = ResultStore.create(file)
    clock = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FailedTasksWarning)  # reported below with details
            results = run_benchmark(
                study,
                store,
                n_jobs=options.jobs,
                backend=options.backend,
                scheduler=options.scheduler,
                progress=True,
            )
    except KeyboardInterrupt:
        return _end("interrupted; finished tasks are kept, and the same command runs the rest", EXIT_SIGINT)
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
        hint = "tracebacks are in the results file, and the same command runs them again"
        return _end(f"{len(failures)} of {study.n_tasks} tasks failed; {hint}", EXIT_FAILED_TASKS)
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
    return 0 if sets[0] & sets[1] else EXIT_NOTHING_SHARED


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
        Exit code: 0 on success; 1 if tasks failed or the compared files share no task; 2 for a usage error; 130 after
        an interrupt; 141 if the reader of the output, such as ``head``, closed the pipe.
    """
    options = _parser().parse_args(argv)
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Python flushes the standard output again at exit, and would report the broken pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_SIGPIPE
    except StudyError as error:
        return _end("\n".join(f"error: {line}" for line in error.mistakes), EXIT_USAGE)
    except (ValueError, OSError) as error:
        return _end(f"error: {' '.join(str(error).split())}", EXIT_USAGE)
    except KeyboardInterrupt:
        return _end("interrupted", EXIT_SIGINT)


def _end(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
