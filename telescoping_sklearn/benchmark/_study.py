"""The definition of a benchmark study: data sets, models, test sets and metrics.

Creating a study checks all of it, including the values of settings and the headers of files, and reports all errors at
once, one a line. Checks that need the data (enough rows, columns of a set that is not a file) run in `load_tables`,
before any task.
"""

import tomllib
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from telescoping_sklearn.benchmark._data import DataSource, Table, needs_folder, read_sources, unset_folder
from telescoping_sklearn.benchmark._describe import describe
from telescoping_sklearn.benchmark._models import ModelSpec, read_models
from telescoping_sklearn.benchmark._test_sets import Score, Shift, read_divisions
from telescoping_sklearn.benchmark._tuning import Tuning, read_tuning

METRICS = ("mse", "mae", "r2", "kernel_norm_ratio", "effective_params")
_LEAST = {"n_seeds": 1, "test_size": 2, "n_probes": 2, "kernel_stages": 1, "max_train": 10}


class StudyError(ValueError):
    """Raised for an invalid study; its message has a line for every mistake.

    Parameters
    ----------
    mistakes : list of str
        The lines, kept as an attribute of this name.
    """

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True)
class BenchmarkStudy:
    """A benchmark study: data sets, models, test sets, seeds, metrics and tuning.

    Parameters
    ----------
    data : sequence of str, dict or tuple, default=("lucas_county",)
        Data sets, each one of: a name ("lucas_county", which comes with the package, or any that `fetch_tabular`
        takes); "openml:ID", "openml:NAME" or "suite:ID" for OpenML; a file as ``{"path": ...,
        "target": ...}``, CSV or Parquet; ``{"source": NAME}``; or ``(name, X, y)``. The two forms of dict also take
        `drop`, `log_target` and `name`.
    models : sequence of str or dict, default=("net", "trees")
        "net" and "trees" are this library's. A dict gives, by name, an estimator, an import path such as
        "sklearn.linear_model.Ridge", or a dict of `estimator` (one of these, by default the model's own name),
        `settings`, `preparation` ("standard", "ordinal" or "none") and `space` (the search space of the tuning).
    n_seeds : int, default=2
        Number of seeds, 0 .. n_seeds - 1; each draws its own rows and fits its own models.
    proportions : sequence of float, default=(0.0, 0.25, 0.5, 0.75, 1.0)
        Shares of irregular rows in the test sets; 0 must be among them, since gaps are relative to it.
    max_train : int or None, default=10000
        Largest number of training rows; None uses all.
    test_size : int, default=4000
        Rows of a test set; at most the number of irregular rows, so that proportion 1 exists.
    irregular_fraction : float, default=0.1
        Share of the rows that count as irregular.
    score : str or sequence of str, default="principal_distance"
        Irregularity score: "principal_distance", "first_component", or an outlier detector as "sklearn:NAME" or
        "pyod:NAME". May be empty if there is a `shift`.
    shift : dict, sequence of dict or None, default=None
        Train on one end of a column and test along the rest: ``{"column": ..., "train_share": 0.5, "steps": 5,
        "descending": False}``.
    metrics : sequence of str, default=("mse", "mae", "r2", "kernel_norm_ratio", "effective_params")
        Metrics to compute; the others are NaN in the results. "mse" is always computed.
    tuning : dict or None, default=None
        Random search before every fit: ``{"draws": 25, "validation": 0.2}``; validation is a share or a number of
        training rows. None fits the settings as they are.
    n_probes : int, default=16
        Random label columns that effective parameters are estimated with.
    section : int or "auto", default=10
        Updates of the net per Jacobian evaluation when its effective parameters are estimated. Long sections are cheap
        and give estimates that are too low; the standard errors include that. "auto" chooses them so that the
        estimates change by at most 2 % when sections are halved, and takes several times as long.
    kernel_stages : int, default=12
        Evenly spaced updates at which a net's kernel norms are taken.

    Attributes
    ----------
    sources : tuple of DataSource
        The data sets, with suites expanded.
    specs : tuple of ModelSpec
        The models.
    divisions : tuple of Score or Shift
        The ways to draw test sets.

    Raises
    ------
    StudyError
        If a parameter is invalid: a ValueError with a line for every mistake.

    Examples
    --------
    >>> BenchmarkStudy(n_seeds=1, n_probes=8).n_tasks
    2
    >>> models = {"trees": {}, "ridge": "sklearn.linear_model.Ridge"}
    >>> BenchmarkStudy(models=models, score="sklearn:IsolationForest").n_tasks
    4
    """

    data: Any = ("lucas_county",)
    models: Any = ("net", "trees")
    n_seeds: int = 2
    proportions: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    max_train: int | None = 10000
    test_size: int = 4000
    irregular_fraction: float = 0.1
    score: Any = "principal_distance"
    shift: Any = None
    metrics: tuple[str, ...] = METRICS
    tuning: Any = None
    n_probes: int = 16
    section: int | str = 10
    kernel_stages: int = 12
    sources: tuple[DataSource, ...] = field(init=False, repr=False)
    specs: tuple[ModelSpec, ...] = field(init=False, repr=False)
    divisions: tuple[Score | Shift, ...] = field(init=False, repr=False)
    tuner: Tuning | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Parse and check every parameter."""
        mistakes = [*self._number_mistakes(), *self._section_mistakes(), *self._list_mistakes()]
        # An invalid section is reported once, as a parameter of the study.
        section = "auto" if self._section_mistakes() else self.section
        for name, parts in {
            "sources": read_sources(self.data),
            "specs": read_models(self.models, section),
            "divisions": read_divisions(self.score, self.shift),
        }.items():
            read = list(parts)
            mistakes += [line for line in read if isinstance(line, str)]
            object.__setattr__(self, name, tuple(part for part in read if not isinstance(part, str)))
        tunings = list(read_tuning(self.tuning))
        mistakes += [line for line in tunings if isinstance(line, str)]
        object.__setattr__(self, "tuner", tunings[0] if tunings else None)
        for what, named in {"data": self.sources, "score and shift": self.divisions}.items():
            names = [part.name for part in named]
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                mistakes.append(f"{what} must name each only once: {', '.join(repeated)}")
        if mistakes:
            raise StudyError(mistakes)
        object.__setattr__(self, "proportions", tuple(map(float, self.proportions)))
        object.__setattr__(self, "metrics", tuple(self.metrics))

    def _section_mistakes(self) -> list[str]:
        whole = isinstance(self.section, Integral) and not isinstance(self.section, bool) and self.section >= 1
        valid = whole or self.section == "auto"
        return [] if valid else [f'section must be "auto" or a whole number of at least 1, got {self.section!r}']

    def _number_mistakes(self) -> list[str]:
        mistakes = []
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name == "max_train":
                continue
            if isinstance(value, bool) or not isinstance(value, Integral):
                mistakes.append(f"{name} must be a whole number, got {value!r}")
            elif value < least:
                mistakes.append(f"{name} must be at least {least}, got {value}")
        share = self.irregular_fraction
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share <= 0.5:
            mistakes.append(f"irregular_fraction must be above 0 and at most 0.5, got {share!r}")
        return mistakes

    def _list_mistakes(self) -> list[str]:
        mistakes = []
        proportions, metrics = self.proportions, self.metrics
        numbers = isinstance(proportions, list | tuple) and all(
            isinstance(q, Real) and not isinstance(q, bool) and 0 <= q <= 1 for q in proportions
        )
        if not numbers:
            mistakes.append(f"proportions must be numbers between 0 and 1, got {proportions!r}")
        elif 0.0 not in proportions or len(set(proportions)) < len(proportions):
            mistakes.append(f"proportions must be distinct and hold 0, which gaps are relative to; got {proportions!r}")
        if not isinstance(metrics, list | tuple) or not set(map(str, metrics)) <= set(METRICS):
            mistakes.append(f"metrics must be of {', '.join(METRICS)}, got {metrics!r}")
        return mistakes

    @classmethod
    def from_toml(cls, path: str | Path) -> "BenchmarkStudy":
        """Read a study from a TOML file, whose keys are the parameters. Paths are relative to the file's folder.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        BenchmarkStudy
            The study.

        Raises
        ------
        OSError
            If the file cannot be read.
        StudyError
            If it is no TOML or an invalid study, with a line for every mistake.
        """
        try:
            given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise StudyError([f"{path} is no TOML file: {error}"]) from error
        except OSError as error:
            raise type(error)(f"the study {path} cannot be read: {error.strerror}") from error
        items = given.get("data", [])
        for item in items if isinstance(items, list) else [items]:
            if isinstance(item, dict) and isinstance(item.get("path"), str):
                item["path"] = str(Path(path).parent / Path(item["path"]).expanduser())
        known = [name for name, item in cls.__dataclass_fields__.items() if item.init]
        mistakes = [
            f"there is no parameter {name!r}; there are {', '.join(known)}" for name in given if name not in known
        ]
        try:
            study = cls(**{name: value for name, value in given.items() if name in known})
        except StudyError as error:
            raise StudyError(mistakes + error.mistakes) from error
        if mistakes:
            raise StudyError(mistakes)
        return study

    @property
    def n_tasks(self) -> int:
        """Number of independent tasks: data sets x test divisions x seeds x models."""
        return len(self.sources) * len(self.divisions) * self.n_seeds * len(self.specs)

    def load_tables(self) -> dict[str, Table]:
        """Load every data set and run the checks that need the data.

        Returns
        -------
        dict of str to Table
            Tables by name.

        Raises
        ------
        StudyError
            With a line for every data set that cannot be loaded or divided.
        """
        tables, mistakes = {}, list(unset_folder(self.sources))
        along = [division.column for division in self.divisions if isinstance(division, Shift)]
        for source in self.sources:
            if needs_folder(source):
                continue
            try:
                tables[source.name] = table = source.load(along)
            except (ValueError, OSError, TypeError) as error:
                mistakes.append(f"data {source.name!r}: {' '.join(str(error).split())}")
                continue
            reasons = [(division.name, division.check(table, self)) for division in self.divisions]
            mistakes += [f"data {source.name!r}, {name}: {reason}" for name, reason in reasons if reason]
        if mistakes:
            raise StudyError(mistakes)
        return tables

    def describe(self) -> dict[str, Any]:
        """Describe the study as JSON types.

        Returns
        -------
        dict
            Every parameter; the models with all parameters of their estimators.
        """
        return {
            "data": [{"name": source.name, **source.origin} for source in self.sources],
            "models": {spec.name: {**spec.describe(), "settings": describe(spec.settings)} for spec in self.specs},
            "divisions": [division.describe() for division in self.divisions],
            "tuning": None if self.tuner is None else self.tuner._asdict(),
            **{
                name: describe(getattr(self, name))
                for name in (*_LEAST, "section", "irregular_fraction", "proportions", "metrics", "score", "shift")
            },
        }
