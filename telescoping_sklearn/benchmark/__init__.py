"""Benchmark regressors under increasing covariate shift: studies, runner, results and reports."""

from telescoping_sklearn.benchmark._report import write_results
from telescoping_sklearn.benchmark._report_html import write_report
from telescoping_sklearn.benchmark._runner import FailedTasksWarning, run_benchmark
from telescoping_sklearn.benchmark._store import ResultStore, StoreError
from telescoping_sklearn.benchmark._study import BenchmarkStudy, StudyError
from telescoping_sklearn.benchmark._summary import ModelComparison, compare_models, relative_gaps
from telescoping_sklearn.benchmark._table import describe_plan, list_versions, set_side_by_side, tabulate_results
from telescoping_sklearn.benchmark._tasks import SquaredErrors

__all__ = [
    "BenchmarkStudy",
    "FailedTasksWarning",
    "ModelComparison",
    "ResultStore",
    "SquaredErrors",
    "StoreError",
    "StudyError",
    "compare_models",
    "describe_plan",
    "list_versions",
    "relative_gaps",
    "run_benchmark",
    "set_side_by_side",
    "tabulate_results",
    "write_report",
    "write_results",
]
