"""Random search as in the paper: draws from a search space, evaluated on a validation split of the training rows."""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd
from scipy import stats
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import RandomizedSearchCV, ShuffleSplit

#: The paper's spaces. Depth is drawn with odds .1 .1 .6 .1 .1; -1 means no limit in LightGBM.
PAPER_SPACES: dict[str, dict[str, Any]] = {
    "net": {"learning_rate_init": {"loguniform": [1e-5, 1e-2]}},
    "trees": {
        "learning_rate": {"lognormal": [math.log(0.01), math.log(10)]},
        "n_estimators": {"randint": [10, 1000]},
        "max_depth": [-1, 2, 3, 3, 3, 3, 3, 3, 4, 5],
    },
}
_DISTRIBUTIONS = {
    "loguniform": lambda low, high: stats.loguniform(low, high),
    "uniform": lambda low, high: stats.uniform(low, high - low),
    "randint": lambda low, high: stats.randint(int(low), int(high) + 1),
    "lognormal": lambda mean, sigma: stats.lognorm(s=sigma, scale=math.exp(mean)),
}


class Tuning(NamedTuple):
    """Settings of the random search."""

    draws: int = 25
    validation: float | int = 0.2  # share or number of the training rows held out


def read_tuning(given: Any) -> Iterator[Tuning | str]:
    """Parse a study's `tuning`: yields it, unless it is None, or an error line for every mistake."""
    if given is None:
        return
    if not isinstance(given, Mapping):
        yield f"tuning must be a table such as {{draws = 25, validation = 0.2}}, got {given!r}"
        return
    mistakes = []
    unknown = sorted(set(given) - set(Tuning._fields))
    if unknown:
        mistakes.append(f"tuning: no option {', '.join(unknown)}; there are {', '.join(Tuning._fields)}")
    tuning = Tuning(**{name: value for name, value in given.items() if name in Tuning._fields})
    if isinstance(tuning.draws, bool) or not isinstance(tuning.draws, int) or tuning.draws < 1:
        mistakes.append(f"tuning: draws must be a whole number from 1 on, got {tuning.draws!r}")
    rows, share = isinstance(tuning.validation, int), isinstance(tuning.validation, float)
    if isinstance(tuning.validation, bool) or not (
        (rows and tuning.validation >= 2) or (share and 0 < tuning.validation < 1)
    ):
        mistakes.append(
            f"tuning: validation must be a share between 0 and 1 or at least 2 rows, got {tuning.validation!r}"
        )
    if mistakes:
        yield from mistakes
    else:
        yield tuning


def read_space(given: Any) -> dict[str, Any]:
    """Convert a search space given in TOML to lists and scipy distributions."""
    if not isinstance(given, Mapping):
        raise TypeError(f"space must be a table of parameters, got {given!r}")
    return {name: _read_choice(name, choice) for name, choice in given.items()}


def _read_choice(name: str, choice: Any) -> Any:
    if isinstance(choice, list | tuple) and choice:
        return [tuple(value) if isinstance(value, list) else value for value in choice]
    if hasattr(choice, "rvs"):
        return choice
    if isinstance(choice, Mapping) and len(choice) == 1:
        kind, numbers = next(iter(choice.items()))
        if kind in _DISTRIBUTIONS and isinstance(numbers, list | tuple) and len(numbers) == 2:
            first, second = (_number(name, number) for number in numbers)
            ordered = second > 0 if kind == "lognormal" else first < second
            if ordered and (kind != "loguniform" or first > 0):
                return _DISTRIBUTIONS[kind](first, second)
    forms = ", ".join(f"{{{kind} = [a, b]}}" for kind in _DISTRIBUTIONS)
    raise ValueError(f"space: {name} must be a list of values or one of {forms} that makes sense, got {choice!r}")


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"space: {name} must be between two numbers, got {value!r}")
    return value


def best_settings(
    model: Any, prefix: str, space: Mapping[str, Any], tuning: Tuning, X: pd.DataFrame, y: pd.Series, seed: int
) -> dict[str, Any]:
    """Draw settings of a search space and return those with the lowest mean squared error on held-out training rows.

    `prefix` precedes the names of the space in the parameters of `model`. ValueError is raised if no draw is fitted.
    """
    search = RandomizedSearchCV(
        model,
        {prefix + name: choice for name, choice in space.items()},
        n_iter=tuning.draws,
        scoring="neg_mean_squared_error",
        cv=ShuffleSplit(1, test_size=tuning.validation, random_state=seed),
        refit=False,
        random_state=seed,
        error_score=float("nan"),
    )
    with warnings.catch_warnings():
        # A draw that diverges is discarded. If all diverge, scikit-learn raises.
        warnings.filterwarnings("ignore", category=FitFailedWarning)
        warnings.filterwarnings("ignore", message="One or more of the test scores are non-finite")
        # A finite space with fewer settings than draws is searched exhaustively.
        warnings.filterwarnings("ignore", message="The total space of parameters")
        search.fit(X, y)
    return {name.removeprefix(prefix): value for name, value in search.best_params_.items()}
