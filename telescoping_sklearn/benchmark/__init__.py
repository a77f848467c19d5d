"""Trees against nets on ever more irregular test rows: a study, its runner and its report."""

from telescoping_sklearn.benchmark._report import draw_results, tabulate_results, write_results
from telescoping_sklearn.benchmark._runner import run_benchmark
from telescoping_sklearn.benchmark._study import BenchmarkStudy

__all__ = ["BenchmarkStudy", "draw_results", "run_benchmark", "tabulate_results", "write_results"]
