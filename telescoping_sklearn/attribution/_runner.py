"""Run a study of attribution: fit, score, retrain without rows, and measure.

Retraining takes nearly all of the time. Each retrained model's predictions are stored in the study's folder by joblib,
under a hash of the model's settings, rows and versions, and are read from there when the study is run again.
"""

import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from telescoping_sklearn.attribution._contenders import Contender, Score, contenders
from telescoping_sklearn.attribution._data import Sample, draw_sample, read_table
from telescoping_sklearn.attribution._measures import (
    draw_subsets,
    leave_one_out_correlation,
    linear_datamodeling_score,
    mislabel_auc,
    removed_rows,
)
from telescoping_sklearn.attribution._models import (
    FittedModel,
    ModelSpec,
    fit_explained,
    fit_without,
    library_versions,
)
from telescoping_sklearn.attribution._study import AttributionStudy

#: One value of a measure for a query row (or mislabelled row): measure, contender, variant and number of the row.
Value = tuple[str, str, str, int, float]
#: Seconds between two lines of progress where the standard error stream is no terminal.
_SECONDS_BETWEEN_LINES = 30
RESULT_COLUMNS = ("data", "model", "seed", "measure", "contender", "variant", "row", "value")


def run_attribution(
    study: AttributionStudy,
    folder: str | Path | None = None,
    *,
    more_scores: Mapping[str, Score] | None = None,
    n_jobs: int = 1,
    progress: bool = False,
) -> pd.DataFrame:
    """Run a study; retrained models that are stored in the folder are not trained again.

    Parameters
    ----------
    study : AttributionStudy
        The study.
    folder : str, Path or None, default=None
        Folder that predictions of retrained models are stored in; created if it does not exist. None stores nothing.
    more_scores : dict of str to callable or None, default=None
        Scores to compare beside those of the study, by name. Each maps a telescope and query rows, or None for the
        training rows, to an array of shape (n_query, n_train).
    n_jobs : int, default=1
        Processes that retrain, each on one thread; results do not depend on it.
    progress : bool, default=False
        Whether to show progress on the standard error stream: a bar on a terminal, lines elsewhere.

    Returns
    -------
    DataFrame
        One row for each data set, model, seed, measure, contender, variant and query row (mislabelled row):

        data, model, seed
            What was fitted.
        measure
            A name in the study's measures; "removal 5 %" and so on for removal.
        contender, variant
            The score, and the value of the setting that is tuned; empty where nothing is.
        row, value
            Number of the row, and its value.

    Raises
    ------
    ValueError or OSError
        If a data set cannot be loaded, or a parameter makes no sense.
    """
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or n_jobs < 1:
        raise ValueError(f"n_jobs={n_jobs!r} must be an int of at least 1.")
    memory = joblib.Memory(folder, verbose=0)
    tables = {name: read_table(item) for name, item in zip(study.data_names(), study.data, strict=True)}
    found = []
    with joblib.Parallel(n_jobs=n_jobs, return_as="generator") as parallel:
        for name, table in tables.items():
            for model in study.models:
                for seed in range(study.n_seeds):
                    spec = study.spec(model)
                    sample = draw_sample(table, spec.n_train, study.n_query, seed)
                    label = f"{name}, {model}, seed {seed}" if progress else ""
                    scores = list(contenders(spec, more_scores))
                    case = _Case(study, spec, scores, sample, seed, _Retraining(memory, parallel, label))
                    found += [(name, model, seed, *value) for value in case.values()]
    return pd.DataFrame(found, columns=list(RESULT_COLUMNS))


@dataclass(frozen=True)
class _Retraining:
    """How models are trained again: where their predictions are stored, by which workers, and what progress says."""

    memory: joblib.Memory
    parallel: joblib.Parallel
    label: str

    def __call__(
        self, spec: ModelSpec, sample: Sample, kept: NDArray, seed: int, what: str, *, by_weight: bool = False
    ) -> NDArray:
        """Predictions of the query rows by models trained on each row of ``kept``, (n_models, n_query)."""
        stored, versions = self.memory.cache(fit_without), library_versions(spec)
        calls = (
            joblib.delayed(stored)(
                spec, sample.X, sample.y, sample.X_query, rows, seed, by_weight=by_weight, versions=versions
            )
            for rows in kept
        )
        with warnings.catch_warnings():
            # joblib warns where storing is slow, as on a busy machine
            warnings.filterwarnings("ignore", message="Persisting input arguments", category=UserWarning)
            return np.stack(list(self._shown(self.parallel(calls), len(kept), f"{self.label}: {what}")))

    def _shown(self, predictions: Iterable[NDArray], n_models: int, what: str) -> Iterable[NDArray]:
        """Show progress through predictions: a bar on a terminal, lines elsewhere, nothing without a label."""
        if not self.label:
            return predictions
        if sys.stderr.isatty():
            return tqdm(predictions, total=n_models, desc=what, leave=False)
        return _with_lines(predictions, n_models, what)


def _with_lines(predictions: Iterable[NDArray], n_models: int, what: str) -> Iterator[NDArray]:
    """Yield predictions, and print a line now and then and after the last of them."""
    said = time.monotonic()
    for number, prediction in enumerate(predictions, start=1):
        yield prediction
        if number == n_models or time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
            print(f"{what}, {number} of {n_models} models", file=sys.stderr, flush=True)
            said = time.monotonic()


@dataclass(frozen=True)
class _Case:
    """One data set, model and seed."""

    study: AttributionStudy
    spec: ModelSpec
    contenders: list[Contender]
    sample: Sample
    seed: int
    retrained: _Retraining

    def values(self) -> Iterator[Value]:
        """Yield the values of all measures."""
        measures = {
            "half": lambda: self._datamodeling("half", 0.5),
            "most": lambda: self._datamodeling("most", self.spec.large_share),
            "loo": self._leave_one_out,
            "mislabel": self._mislabel,
            "removal": self._removal,
        }
        for measure in self.study.measures:
            yield from measures[measure]()

    @cached_property
    def model(self) -> FittedModel:
        """The model of all training rows."""
        return fit_explained(self.spec, self.sample.X, self.sample.y, self.sample.X_query, self.seed)

    @cached_property
    def scores(self) -> dict[tuple[str, str], NDArray]:
        """Scores of all contenders at the query rows, by name and variant."""
        return {(item.name, item.variant): item.score(self.model, self.sample.X_query) for item in self.contenders}

    def _datamodeling(self, measure: str, share: float) -> Iterator[Value]:
        subsets = draw_subsets(self.spec.n_train, share, self.spec.n_subsets, self.seed)
        predictions = self.retrained(self.spec, self.sample, subsets, self.seed, measure)
        for name, scores in self.scores.items():
            yield from _rows(measure, name, linear_datamodeling_score(predictions, scores, subsets, average=False))

    def _leave_one_out(self) -> Iterator[Value]:
        left_out = np.random.default_rng(self.seed).permutation(self.spec.n_train)[: self.study.n_left_out]
        kept = left_out[:, None] != np.arange(self.spec.n_train)
        predictions = self._without(kept, "leave one out")
        for name, scores in self.scores.items():
            yield from _rows("loo", name, leave_one_out_correlation(predictions, scores, left_out, average=False))

    def _mislabel(self) -> Iterator[Value]:
        """Replace labels, fit, and rank the rows by their influence on their own loss, r_i score_ii."""
        y, wrong = mislabelled_labels(self.sample.y, self.study.mislabelled, self.seed)
        model = fit_explained(self.spec, self.sample.X, y, self.sample.X_query, self.seed)
        residuals = y - model.fitted
        for item in self.contenders:
            own = residuals * np.diag(item.score(model, None))
            yield from _rows("mislabel", (item.name, item.variant), mislabel_auc(own, wrong, average=False))
        yield from _rows("mislabel", ("squared residual", ""), mislabel_auc(residuals**2, wrong, average=False))

    def _removal(self) -> Iterator[Value]:
        """Remove, for each of some query rows, the training rows that raise its prediction most by each score."""
        n_rows, shares = self.study.n_removal, self.study.removal_shares
        untuned = [name for name in self.scores if not name[1]]
        removed = [removed_rows(self.scores[name][row], shares) for name in untuned for row in range(n_rows)]
        predictions = self._without(~np.concatenate(removed), "removal")
        predictions = predictions.reshape(len(untuned), n_rows, len(shares), -1)
        own = predictions[:, np.arange(n_rows), :, np.arange(n_rows)]  # (n_rows, n_contenders, n_shares)
        drops = self.model.predicted[:n_rows, None, None] - own
        for position, name in enumerate(untuned):
            for share, of_rows in zip(shares, drops[:, position].T, strict=True):
                yield from _rows(f"removal {100 * share:g} %", name, of_rows)

    def _without(self, kept: NDArray, what: str) -> NDArray:
        """Retrain without few rows: a net by weights of zero, so that the batches of the other rows stay."""
        by_weight = self.spec.family == "net"
        return self.retrained(self.spec, self.sample, kept, self.seed, what, by_weight=by_weight)


def mislabelled_labels(y: NDArray, share: float, seed: int) -> tuple[NDArray, NDArray[np.bool_]]:
    """Replace the labels of a share of the rows by those of other rows, drawn at random.

    Parameters
    ----------
    y : ndarray of shape (n_train,)
        Labels.
    share : float
        Share of the rows that are mislabelled; at least one row is.
    seed : int
        Seed of the draw.

    Returns
    -------
    y : ndarray of shape (n_train,)
        Labels, some of them replaced.
    mislabelled : ndarray of bool of shape (n_train,)
        Rows whose labels were replaced.
    """
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(y))[: max(1, round(share * len(y)))]
    others = (wrong + rng.integers(1, len(y), size=len(wrong))) % len(y)
    replaced, mislabelled = y.copy(), np.zeros(len(y), dtype=bool)
    replaced[wrong], mislabelled[wrong] = y[others], True
    return replaced, mislabelled


def _rows(measure: str, name: tuple[str, str], values: NDArray) -> Iterator[Value]:
    return ((measure, *name, row, float(value)) for row, value in enumerate(values))
