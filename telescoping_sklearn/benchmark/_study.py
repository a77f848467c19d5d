"""A study is data: what is compared, on what, and how it is judged."""

from dataclasses import dataclass, field
from typing import Any

from telescoping_sklearn import (
    FirstComponentDeviation,
    PrincipalDistance,
    fetch_tabular,
    load_lucas_county,
)
from telescoping_sklearn.datasets import TABULAR_NAMES

DATA_NAMES = ("lucas_county", *TABULAR_NAMES)
SCORES = {"principal_distance": PrincipalDistance, "first_component": FirstComponentDeviation}


@dataclass(frozen=True)
class BenchmarkStudy:
    """What is compared: data sets, seeds, mixtures, and the settings of both models.

    Parameters
    ----------
    data : tuple of str, default=("lucas_county",)
        Names of data sets: "lucas_county", or any that `fetch_tabular` takes.
    n_seeds : int, default=2
        Seeds 0 .. n_seeds - 1; each draws its own test rows and fits anew.
    proportions : tuple of float, default=(0.0, 0.25, 0.5, 0.75, 1.0)
        Shares of irregular rows in the test sets; 0 must be among them, since gaps are relative to it.
    max_train : int or None, default=10000
        Most training rows; None takes all.
    test_size : int, default=4000
        Rows of a test set; cut to the number of irregular rows, so that proportion 1 exists.
    score : {"principal_distance", "first_component"}, default="principal_distance"
        What irregular means.
    n_probes : int, default=16
        Random label columns that effective parameters are estimated with.
    section : int, default=50
        Updates of the net bridged by one evaluation when its effective parameters are estimated.
    kernel_stages : int, default=12
        Evenly spaced updates at which the net's kernel norms are taken.
    net : dict, default={}
        Parameters of `TelescopingMLPRegressor` beside the study's own.
    trees : dict, default={}
        Parameters of `TelescopingGBTRegressor` beside the study's own.

    Raises
    ------
    ValueError
        If a setting makes no sense, in one line that names it.

    Examples
    --------
    >>> BenchmarkStudy(n_seeds=1, n_probes=8).n_tasks
    2
    """

    data: tuple[str, ...] = ("lucas_county",)
    n_seeds: int = 2
    proportions: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    max_train: int | None = 10000
    test_size: int = 4000
    score: str = "principal_distance"
    n_probes: int = 16
    section: int = 50
    kernel_stages: int = 12
    net: dict[str, Any] = field(default_factory=dict)
    trees: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in self.data:
            if name not in DATA_NAMES:
                raise ValueError(f"data: no data set {name!r}; there are {', '.join(DATA_NAMES)}")
        if not self.data or len(set(self.data)) < len(self.data):
            raise ValueError("data must name at least one data set, each once")
        for name, least in {
            "n_seeds": 1,
            "test_size": 1,
            "n_probes": 2,
            "section": 1,
            "kernel_stages": 1,
            "max_train": 10,
        }.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if any(not 0 <= proportion <= 1 for proportion in self.proportions):
            raise ValueError(f"proportions must lie between 0 and 1, got {self.proportions}")
        if 0.0 not in self.proportions or len(set(self.proportions)) < len(self.proportions):
            raise ValueError(
                f"proportions must be distinct and hold 0, which gaps are relative to; got {self.proportions}"
            )
        if self.score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, got {self.score!r}")

    @property
    def n_tasks(self) -> int:
        """Number of independent tasks: data sets x seeds x models."""
        return 2 * len(self.data) * self.n_seeds

    @property
    def net_settings(self) -> dict[str, Any]:
        """Parameters of the net, the study's own and those given."""
        own = {"hidden_layer_sizes": (64, 64, 64), "batch_size": 128, "max_iter": 20, "tol": 0.0}
        settings = own | {"section": self.section} | self.net
        return {"n_iter_no_change": settings["max_iter"]} | settings  # every epoch is run

    @property
    def tree_settings(self) -> dict[str, Any]:
        """Parameters of the trees, the study's own and those given."""
        return {"n_estimators": 300, "n_jobs": 1} | self.trees


def load(name: str) -> tuple[Any, Any]:
    """Load a data set of a study as a DataFrame and a target."""
    if name == "lucas_county":
        return load_lucas_county(return_X_y=True)
    return fetch_tabular(name, return_X_y=True)
