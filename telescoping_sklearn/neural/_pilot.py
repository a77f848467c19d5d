"""Pilot columns: a few label columns that show how far the response can be trusted, and how long sections may be.

The response of labels is another recursion than the prediction: every column feeds itself back into the gradients,
through Jacobians that sections bridge. It can be biased, or grow without bound, while the telescoping model is close to
the net. A pilot carries a few columns along the run, before any question is answered. The column V = y, started from
the net, has a known answer: the net itself. Random columns stand for all others. Their residual V - F falls from V as
the net learns; where it grows instead, the recursion is unstable. Carried over the sections and over their halves, the
pilot measures what the sections cost in effective parameters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from telescoping_sklearn._telescope import read_only
from telescoping_sklearn.neural._path import Path
from telescoping_sklearn.neural._sections import Sections

#: Random label columns of a pilot.
RANDOM_COLUMNS = 4
#: Rows watched: so many training rows, and as many mixtures of two, which stand for rows that training never saw.
WATCHED_ROWS = 128
#: Stages at which a pilot is read, at most.
MOST_STAGES_READ = 128
#: Mean gap between the reconstruction S y + c and the net beyond which an answer is refused, in units of the labels'
#: spread. Sound runs stay below a tenth of it.
LARGEST_GAP = 0.25
#: How far the residual of random columns may rise above the least that it was, in units of the columns. It is counted
#: from the first stage read, since Adam's first denominators are small. Over ten sound runs of usual learning rates it
#: rose by 0.1; unstable ones pass any bound within a few hundred updates.
LARGEST_RISE = 1.0
#: What a change is multiplied with to give an error. A method of first order errs by twice what halving changes; half
#: as much again is for rows asked about that differ from the rows watched.
_ERROR_OF_CHANGE = 3.0


class CarriesColumns(Protocol):
    """What a pilot asks of a telescope."""

    path: Path
    y: NDArray
    trained: NDArray
    seed: int

    def carry_columns(self, X: NDArray, labels: NDArray, stages: NDArray) -> Iterator[Tensor]:
        """Yield the response of queries to label columns, of which the last starts from the net."""


@dataclass(frozen=True)
class Pilot:
    """Pilot columns along a run.

    Attributes
    ----------
    stages : ndarray of int of shape (n_read,)
        Stages read.
    labels : ndarray of shape (n_rows, RANDOM_COLUMNS)
        Random labels of the training rows watched.
    random : ndarray of shape (n_read, 2 * n_rows, RANDOM_COLUMNS)
        Response to the random columns, of the training rows and then of the mixtures.
    gaps : ndarray of shape (n_read, 2 * n_rows)
        Absolute gaps between S y + c and the net, in units of the labels' spread.
    """

    stages: NDArray[np.intp]
    labels: NDArray
    random: NDArray
    gaps: NDArray

    @cached_property
    def energies(self) -> NDArray:
        """Mean squared response of training rows and of mixtures, (n_read, 2): effective parameters over n."""
        halves = np.stack(np.split(self.random, 2, axis=1), axis=1)
        return (halves**2).mean(axis=(2, 3))

    @cached_property
    def residuals(self) -> NDArray:
        """Root mean square of V - F over the random columns, (n_read,)."""
        left = self.labels - self.random[:, : len(self.labels)]
        with np.errstate(over="ignore"):
            return np.sqrt((left**2).mean(axis=(1, 2)))

    @property
    def last_sound(self) -> int:
        """Last stage at which the response passes both checks; 0 if it never does."""
        least = np.fmin.accumulate(self.residuals)
        with np.errstate(invalid="ignore"):
            sound = (self.residuals <= least + LARGEST_RISE) & (self.gaps.mean(axis=1) <= LARGEST_GAP)
        return int(self.stages[sound].max(initial=0))


@dataclass(frozen=True)
class ResponseAccuracy:
    """How far a response can be trusted.

    Attributes
    ----------
    stages : ndarray of int of shape (n_read,)
        Stages at which it was measured.
    errors : ndarray of shape (n_read,)
        Relative error of effective parameters that sections leave: three times their change when sections are halved;
        zero where no section is longer than one update.
    last_sound : int
        Stage up to which the response passes its checks.
    """

    stages: NDArray[np.intp]
    errors: NDArray
    last_sound: int

    def __post_init__(self) -> None:
        """Hand out read-only arrays: every later standard error depends on them."""
        object.__setattr__(self, "stages", read_only(self.stages))
        object.__setattr__(self, "errors", read_only(self.errors))

    @property
    def typical(self) -> float:
        """Root mean square of the changes while the response is sound; 0 where it never is."""
        sound = self.errors[self.stages <= self.last_sound]
        return float(np.sqrt((sound**2).mean())) if len(sound) else 0.0

    def relative_error(self, stages: NDArray) -> NDArray:
        """Relative error of effective parameters at stages, (n_stages,): the change there, at least the typical one."""
        return np.maximum(self.typical, np.interp(stages, self.stages, self.errors))


def run_pilot(telescope: CarriesColumns, stages: NDArray[np.intp]) -> Pilot:
    """Carry pilot columns through training.

    Parameters
    ----------
    telescope : TangentTelescope
        What carries columns.
    stages : ndarray of int
        Stages to read, increasing.

    Returns
    -------
    Pilot
        The columns along the run.
    """
    path, rng = telescope.path, np.random.default_rng(telescope.seed)
    trained = np.flatnonzero(telescope.trained)
    chosen = np.sort(rng.permutation(trained)[:WATCHED_ROWS])
    partners = rng.permutation(trained)[: len(chosen)]
    rows = path.rows.cpu().numpy()
    watched = np.concatenate([rows[chosen], (rows[chosen] + rows[partners]) / 2])
    labels = np.where(rng.random((len(rows), RANDOM_COLUMNS)) < 0.5, -1.0, 1.0)
    there = torch.from_numpy(watched).to(path.device)
    spread = float(np.std(telescope.y[trained])) or 1.0  # of constant labels, absolute gaps
    random, gaps = [], []
    carried = telescope.carry_columns(watched, np.column_stack([labels, telescope.y]), stages)
    for stage, response in zip(stages, carried, strict=True):
        at = response.double()
        random.append(at[:, :-1].cpu().numpy())
        gaps.append((at[:, -1] - path.outputs(there, int(stage))).abs().cpu().numpy() / spread)
    return Pilot(stages, labels[chosen], np.stack(random), np.stack(gaps))


def measured_accuracy(make: Callable[[Sections], CarriesColumns], sections: Sections) -> ResponseAccuracy:
    """Measure how far the response can be trusted over sections of given ends.

    Parameters
    ----------
    make : callable
        Makes a telescope with sections.
    sections : Sections
        The sections.

    Returns
    -------
    ResponseAccuracy
        The changes are those from the sections to their halves.
    """
    stages = _stages_read(sections)
    pilot = run_pilot(make(sections), stages)
    halves = sections.halved()
    if halves is None:
        return ResponseAccuracy(stages, np.zeros(len(stages)), pilot.last_sound)
    return ResponseAccuracy(
        stages, _ERROR_OF_CHANGE * _change(pilot, run_pilot(make(halves), stages)), pilot.last_sound
    )


def refined_sections(
    make: Callable[[Sections], CarriesColumns], sections: Sections, tolerance: float
) -> tuple[Sections, ResponseAccuracy]:
    """Halve sections until that changes effective parameters by no more than a tolerance.

    Parameters
    ----------
    make : callable
        Makes a telescope with sections.
    sections : Sections
        Sections to begin with.
    tolerance : float
        Largest root mean square, over the stages read, of the relative change of effective parameters.

    Returns
    -------
    Sections
        The first that are within the tolerance of those before them, and sound to the end; single updates if none are.
    ResponseAccuracy
        The changes are those from the sections before to these.
    """
    stages = _stages_read(sections)
    pilot = run_pilot(make(sections), stages)
    while (finer := _finer(sections, pilot)) is not None:
        refined = run_pilot(make(finer), stages)
        accuracy = ResponseAccuracy(stages, _ERROR_OF_CHANGE * _change(pilot, refined), refined.last_sound)
        gained = refined.last_sound > pilot.last_sound
        sections, pilot = finer, refined
        if accuracy.typical <= _ERROR_OF_CHANGE * tolerance and not gained and sections.halved() is not None:
            return sections, accuracy
    return sections, ResponseAccuracy(stages, np.zeros(len(stages)), pilot.last_sound)


def _finer(sections: Sections, pilot: Pilot) -> Sections | None:
    """Halve sections, twice where the response fails before the end; None where none can be halved."""
    halves = sections.halved()
    if halves is None or pilot.last_sound == pilot.stages[-1]:
        return halves
    return halves.halved() or halves


def _stages_read(sections: Sections) -> NDArray[np.intp]:
    """Section ends at which pilots are read: evenly spaced ones, with the last."""
    positions = np.linspace(0, len(sections.ends), min(MOST_STAGES_READ, len(sections.ends)) + 1)[1:]
    return sections.ends[np.round(positions).astype(np.intp) - 1]


def _change(coarse: Pilot, fine: Pilot) -> NDArray:
    """Relative change of effective parameters, the larger of training rows and mixtures, (n_read,)."""
    least = 1.0 / len(fine.labels)  # early in training effective parameters are next to nothing
    with np.errstate(over="ignore", invalid="ignore"):
        change = np.abs(coarse.energies - fine.energies) / (fine.energies + least)
    return np.where(np.isfinite(change), change, np.inf).max(axis=1)
