"""Tables of the report, as plain values for the template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from telescoping_sklearn.benchmark._chart import mean_and_error, number, set_name, with_error
from telescoping_sklearn.benchmark._summary import ModelComparison
from telescoping_sklearn.benchmark._words import say_blocks


@dataclass
class Cell:
    """A cell of a table."""

    text: str
    value: Any  # what rows are sorted by; empty where there is nothing, which is sorted last
    numeric: bool = False  # numbers are aligned to the right
    style: int | None = None  # place of a model whose marker is drawn
    why: str = ""  # why there is no value


@dataclass
class Column:
    """Head of a column."""

    label: str
    numeric: bool = True
    help: str = ""


@dataclass
class Table:
    """A table that can be sorted."""

    title: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]  # the first cell of a row is its head


def measured(value: float, error: float = np.nan) -> Cell:
    """Make a cell of a number and its standard error."""
    missing = value is None or np.isnan(value)
    return Cell("–" if missing else with_error(value, error), "" if missing else repr(float(value)), numeric=True)


def _without_empty(table: Table) -> Table:
    """Drop columns that are empty in every row."""
    kept = [place for place in range(len(table.columns)) if any(row[place].value != "" for row in table.rows)]
    kept = kept if table.rows else list(range(len(table.columns)))
    table.columns = [table.columns[place] for place in kept]
    table.rows = [[row[place] for place in kept] for row in table.rows]
    return table


def set_tables(results: pd.DataFrame, gaps: Mapping[str, pd.DataFrame], models: Sequence[str]) -> list[Table]:
    """Make the tables of means over seeds for every data set, model and test set: mixtures first, then other kinds."""
    titles = {
        "mixture": ("Mixtures", "Every data set, model and mixture."),
        "shift": ("Shifts", "Every data set and model, along the shift."),
        "decile": ("Deciles", "Every data set, model and decile of irregularity."),
    }
    kinds = [kind for kind in titles if (results["set_kind"] == kind).any()]
    return [_set_table(results[results["set_kind"] == kind], gaps, models, *titles[kind]) for kind in kinds]


def _set_table(
    results: pd.DataFrame, gaps: Mapping[str, pd.DataFrame], models: Sequence[str], title: str, caption: str
) -> Table:
    found = {
        (row.data, model, row.set_kind, row.set_value): row
        for model, table in gaps.items()
        for row in table.itertuples()
    }
    rows = []
    groups: Any = results.groupby(["data", "model", "set_kind", "set_value"], sort=False)
    for (data, model, kind, value), part in groups:
        rows.append(
            [
                Cell(data, data),
                Cell(model, model, style=models.index(model)),
                Cell(set_name(kind, value), repr(float(value))),
                measured(*mean_and_error(part, "mse")),
                measured(mean_and_error(part, "mae")[0]),
                measured(mean_and_error(part, "r2")[0]),
                _gap_cell(found.get((data, model, kind, value))),
                measured(*mean_and_error(part, "kernel_norm_ratio")),
                measured(*mean_and_error(part, "effective_params")),
            ]
        )
    columns = [
        Column("Data set", numeric=False),
        Column("Model", numeric=False),
        Column("Test set", numeric=False),
        Column("MSE", help="squared error over the variance of the training labels"),
        Column("MAE", help="absolute error over the standard deviation of the training labels"),
        Column("R²", help="1 - squared error over the variance of the test set's own labels"),
        Column("Relative gap", help="gap to the reference model, over the same on regular rows"),
        Column("Kernel ratio", help="largest kernel norm, averaged over stages, test over training"),
        Column("Eff. params", help="effective parameters on the test set"),
    ]
    return _without_empty(Table(title, caption, columns, rows))


def _gap_cell(row: Any) -> Cell:
    if row is None:
        return Cell("", "", numeric=True)
    if row.reason:
        return Cell("not defined", "", numeric=True, why=row.reason)
    exact = row.low == row.high  # the baseline itself
    text = number(row.relative_gap) + ("" if exact else f" [{number(row.low)}, {number(row.high)}]")
    return Cell(text, repr(float(row.relative_gap)), numeric=True)


def rank_table(comparison: ModelComparison, models: Sequence[str]) -> Table:
    """Make the table of mean ranks on regular rows: one row a model, the best first."""
    ranks: Any = comparison.ranks.itertuples()
    rows = [
        [Cell(row.model, row.model, style=models.index(row.model)), measured(row.mean_rank), measured(row.mean_error)]
        for row in ranks
    ]
    where = "Rows that have not shifted" if comparison.set_kind == "shift" else "Regular rows"
    caption = (
        f"{where}, 1 is best, over {say_blocks(comparison)}. Mean ranks that differ by more than "
        f"{number(comparison.critical_difference)} differ at the 95\N{NO-BREAK SPACE}% level (Nemenyi's test)"
    )
    if np.isfinite(comparison.friedman_p):
        caption += f"; that no models differ has p = {comparison.friedman_p:.2g} (Friedman's test)"
    columns = [Column("Model", numeric=False), Column("Mean rank"), Column("Mean MSE")]
    return Table("Ranks", f"{caption}.", columns, rows)


def task_table(results: pd.DataFrame, models: Sequence[str]) -> Table:
    """Make the table of fitting and explanation times, means over seeds, for every data set and model."""
    keys = [name for name in ("data", "model", "seed", "score") if name in results]
    tasks = results.drop_duplicates(keys)
    rows = []
    groups: Any = tasks.groupby(["data", "model"], sort=False)
    for (data, model), part in groups:
        quantities = ("n_train", "n_stages", "effective_params_train")
        seconds = ("fit_seconds", "predict_seconds", "explain_seconds")
        rows.append(
            [
                Cell(data, data),
                Cell(model, model, style=models.index(model)),
                *(measured(mean_and_error(part, name)[0]) for name in quantities[:2]),
                measured(*mean_and_error(part, quantities[2])),
                *(measured(mean_and_error(part, name)[0]) for name in seconds),
            ]
        )
    columns = [
        Column("Data set", numeric=False),
        Column("Model", numeric=False),
        Column("Training rows"),
        Column("Stages", help="trees, or updates of a net"),
        Column("Eff. params, training", help="effective parameters on the training rows"),
        Column("Fit, s"),
        Column("Predict, s"),
        Column("Explain, s", help="effective parameters and kernel norms, all test sets"),
    ]
    return _without_empty(Table("Fits", "What each fit was and took.", columns, rows))
