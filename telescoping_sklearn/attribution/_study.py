"""What a study of attribution compares: data sets, models, measures, and how many rows, subsets and seeds."""

from dataclasses import dataclass
from numbers import Integral
from typing import Any

from telescoping_sklearn.attribution._data import check_data
from telescoping_sklearn.attribution._models import MODELS, ModelSpec, missing_library

#: Measures by name, and what each of them says.
MEASURES = {
    "half": "linear datamodeling score, half of the rows kept",
    "most": "linear datamodeling score, 95 % (trees) or 90 % (nets) of the rows kept",
    "loo": "leave-one-out correlation",
    "mislabel": "area under the ROC curve of finding 10 % mislabelled rows",
    "removal": "drop of a prediction without the rows that raise it most",
}


@dataclass(frozen=True)
class AttributionStudy:
    """A comparison of attribution scores by retraining.

    Parameters
    ----------
    data : tuple of str or (str, X, y), default=("lucas_county",)
        Data sets: "lucas_county", those of :func:`telescoping_sklearn.fetch_tabular`, "friedman", "concrete",
        "openml:NAME", or tables in memory.
    models : tuple of str, default=("lightgbm",)
        "lightgbm", "xgboost", "net_sgd_0.02", "net_adam_0.003" or "net_adam_0.001".
    measures : tuple of str, default=("half", "most", "loo", "mislabel", "removal")
        What is measured.
    n_seeds : int, default=2
        Samples of each data set, each with a seed of its own for the model.
    n_train : int or None, default=None
        Training rows; None for 600 with trees and 400 with nets.
    n_query : int, default=100
        Query rows.
    n_subsets : int or None, default=None
        Random subsets of each size; None for 100 with trees and 50 with nets.
    n_left_out : int, default=100
        Rows that are left out one at a time; at most the number of training rows.
    n_removal : int, default=10
        Query rows whose rows are removed; at most `n_query`.
    removal_shares : tuple of float, default=(0.01, 0.05, 0.1)
        Shares of the training rows that are removed.
    mislabelled : float, default=0.1
        Share of the training rows whose labels are replaced.
    model_settings : dict or None, default=None
        Settings that replace those of all models, by the estimator's names, such as ``{"max_iter": 5}``.

    Raises
    ------
    ValueError
        If a setting makes no sense.

    Examples
    --------
    >>> AttributionStudy(models=("lightgbm", "net_sgd_0.02"), n_seeds=3).spec("net_sgd_0.02").n_train
    400
    """

    data: tuple[Any, ...] = ("lucas_county",)
    models: tuple[str, ...] = ("lightgbm",)
    measures: tuple[str, ...] = ("half", "most", "loo", "mislabel", "removal")
    n_seeds: int = 2
    n_train: int | None = None
    n_query: int = 100
    n_subsets: int | None = None
    n_left_out: int = 100
    n_removal: int = 10
    removal_shares: tuple[float, ...] = (0.01, 0.05, 0.1)
    mislabelled: float = 0.1
    model_settings: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check every setting that needs no data."""
        _refuse_unknown("models", self.models, MODELS)
        _refuse_unknown("measures", self.measures, MEASURES)
        if not self.data:
            raise ValueError("data must name at least one data set.")
        for item in self.data:
            check_data(item)
        least = {"n_seeds": 1, "n_train": 10, "n_query": 2, "n_subsets": 3, "n_left_out": 3, "n_removal": 1}
        for name, fewest in least.items():
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or isinstance(value, bool) or value < fewest):
                raise ValueError(f"{name}={value!r} must be an int of at least {fewest}.")
        for name, shares in {"removal_shares": self.removal_shares, "mislabelled": (self.mislabelled,)}.items():
            if not shares or not all(0 < share < 1 for share in shares):
                raise ValueError(f"{name}={getattr(self, name)!r} must lie between 0 and 1.")
        for name in self.models:
            missing = missing_library(MODELS[name])
            if missing:
                raise ValueError(f"models: {name!r} {missing}")
        self._refuse_more_than_there_are()

    def _refuse_more_than_there_are(self) -> None:
        """Refuse to leave out more rows than a model trains on, and to remove for more query rows than there are."""
        if "loo" in self.measures:
            for name in self.models:
                n_train = self.spec(name).n_train
                if self.n_left_out > n_train:
                    raise ValueError(
                        f"n_left_out={self.n_left_out} must be at most n_train, {n_train} for {name}. Lower it, or "
                        "leave the measure 'loo' out."
                    )
        if "removal" in self.measures and self.n_removal > self.n_query:
            raise ValueError(
                f"n_removal={self.n_removal} must be at most n_query={self.n_query}. Lower it, or leave the measure "
                "'removal' out."
            )

    def spec(self, model: str) -> ModelSpec:
        """Return a model with the study's own settings and sizes.

        Parameters
        ----------
        model : str
            Name of the model.

        Returns
        -------
        ModelSpec
            The model.
        """
        spec = MODELS[model]
        return ModelSpec(
            spec.family,
            spec.library,
            spec.settings | (self.model_settings or {}),
            self.n_train or spec.n_train,
            self.n_subsets or spec.n_subsets,
            spec.large_share,
        )

    def data_names(self) -> tuple[str, ...]:
        """Return the names of the data sets."""
        return tuple(item if isinstance(item, str) else item[0] for item in self.data)


def _refuse_unknown(parameter: str, names: tuple[str, ...], known: Any) -> None:
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"{parameter}={tuple(names)!r} must be of {', '.join(known)}.")
