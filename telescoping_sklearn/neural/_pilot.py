"""Pilot columns: a few label columns that show how far the response can be trusted, and how long sections may be.

The response of labels is another recursion than the prediction: every column enters the gradients again, through
Jacobians that cover whole sections. It can be biased, or grow without bound, while the telescoping model is close to
the net. A pilot carries a few columns along the run, before any question is answered. The column V = y, started from
the net, has a known answer: the net itself. Random columns stand for all others. Their residual V - F falls from V as
the net learns; where it grows instead, the recursion is unstable. For a loss that is not quadratic it is q V - h F: the
response of the gradient in the outputs. Carried over the sections and over their halves, the
pilot measures what the sections cost in effective parameters.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import convolve1d
from torch import Tensor

from telescoping_sklearn._telescope import read_only
from telescoping_sklearn.losses import Loss
from telescoping_sklearn.neural._path import Path
from telescoping_sklearn.neural._sections import Sections

#: Random label columns of a pilot.
RANDOM_COLUMNS = 4
#: Training rows on which a pilot is read, and as many mixtures of two, which stand for rows outside of training.
PILOT_ROWS = 128
#: Stages at which a pilot is read, at most.
MOST_STAGES_READ = 128
#: Mean gap between the reconstruction S y + c and the net beyond which an answer is refused, in units of the labels'
#: standard deviation. Sound runs stay below a tenth of it.
LARGEST_GAP = 0.25
#: How far the residual of random columns may rise above the least that it was, in units of the columns. A net that
#: interpolates has n effective parameters on its n training rows; a residual of r adds about r^2 n to them. Over
#: single updates at usual learning rates it was seen to rise by up to 0.2, between one batch and the next.
LARGEST_RISE = 0.3
#: How far the root mean square of the response to random columns of weights may rise above the least that it was, in
#: units of the labels' standard deviation. Sound runs rise by 0.1 to 0.4.
LARGEST_INFLUENCE_RISE = 1.0
#: What a change is multiplied with to give an error. A method of first order errs by twice what halving changes; half
#: as much again is for rows asked about that differ from the rows read.
_ERROR_OF_CHANGE = 3.0
#: Relative changes beyond this mean no more than it does: the response is unstable there.
_LARGEST_CHANGE = 1e6
#: Mean length of sections below which single updates cost little more.
_HARDLY_LONGER = 2.0


class CarriesColumns(Protocol):
    """Members of a telescope that a pilot needs."""

    path: Path
    loss: Loss
    y: NDArray
    trained: NDArray
    seed: int

    @property
    def output_scale(self) -> NDArray:
        """Spread of each output, (n_outputs,)."""

    def carry_columns(self, X: NDArray, labels: NDArray, stages: NDArray) -> Iterator[Tensor]:
        """Yield the response of queries to label columns, (n_pairs, k), of which the last starts from the net."""


class CarriesWeights(CarriesColumns, Protocol):
    """Members of a telescope of row weights that a pilot needs."""

    @property
    def n_stages(self) -> int:
        """Number of updates T."""

    def staged_response(
        self, X: NDArray | None, V: NDArray, offset: bool = False, stages: Any = None
    ) -> Iterator[NDArray]:
        """Yield the response of queries to columns, (n_query, k), at stages."""


@dataclass(frozen=True)
class Pilot:
    """Pilot columns along a run.

    Attributes
    ----------
    stages : ndarray of int of shape (n_read,)
        Stages read.
    left : ndarray of shape (n_read, n_rows, RANDOM_COLUMNS)
        What is left of the random labels of the training rows read, V - F, or q V - h F for a loss that is not
        quadratic; with several outputs, one line an output of a row, here and below.
    random : ndarray of shape (n_read, 2 * n_rows, RANDOM_COLUMNS)
        Response to the random columns, of the training rows and then of the mixtures.
    gaps : ndarray of shape (n_read, 2 * n_rows)
        Absolute gaps between S y + c and the net, in units of the spread of each output: the labels' standard
        deviation for squared error.
    """

    stages: NDArray[np.intp]
    left: NDArray
    random: NDArray
    gaps: NDArray

    @cached_property
    def energies(self) -> NDArray:
        """Mean squared response of training rows and of mixtures, (n_read, 2): effective parameters over n."""
        halves = np.stack(np.split(self.random, 2, axis=1), axis=1)
        return (halves**2).mean(axis=(2, 3))

    @cached_property
    def residuals(self) -> NDArray:
        """Root mean square of what is left of the random columns, (n_read,)."""
        with np.errstate(over="ignore"):
            return np.sqrt((self.left**2).mean(axis=(1, 2)))

    @property
    def sound(self) -> NDArray:
        """Whether the response passes both checks at every stage read, (n_read,).

        A residual counts from the first stage: adaptive optimisers begin with small denominators, and what decays from
        there is no instability.
        """
        least = np.fmin.accumulate(self.residuals)
        with np.errstate(invalid="ignore"):
            return (self.residuals <= least + LARGEST_RISE) & (self.gaps.mean(axis=1) <= LARGEST_GAP)


@dataclass(frozen=True)
class ResponseAccuracy:
    """How far a response can be trusted.

    Attributes
    ----------
    stages : ndarray of int of shape (n_read,)
        Stages at which it was measured, the last one of the run among them.
    errors : ndarray of shape (n_read, 2)
        Relative error of effective parameters that sections leave, on training rows and on any: three times their
        change when sections are halved; zero where no section is longer than one update.
    sound : ndarray of bool of shape (n_read,)
        Whether the response passes its checks.
    """

    stages: NDArray[np.intp]
    errors: NDArray
    sound: NDArray

    def __post_init__(self) -> None:
        """Hand out read-only arrays: every later standard error depends on them."""
        object.__setattr__(self, "sound", read_only(self.sound))
        object.__setattr__(self, "stages", read_only(self.stages))
        object.__setattr__(self, "errors", read_only(self.errors))

    @property
    def last_sound(self) -> int:
        """Last stage that is sound; 0 if none is."""
        return int(self.stages[self.sound].max(initial=0))

    def is_sound(self, stages: NDArray) -> NDArray:
        """Whether the response is sound at stages, (n_stages,): at the last one measured before and the next."""
        after = np.minimum(np.searchsorted(self.stages, stages), len(self.stages) - 1)
        before = np.maximum(np.searchsorted(self.stages, stages, side="right") - 1, 0)
        return self.sound[after] & self.sound[before]

    def relative_error(self, stages: NDArray, *, training: bool = False) -> NDArray:
        """Relative error of effective parameters at stages, (n_stages,), on training rows or on any."""
        return np.interp(stages, self.stages, self.errors[:, 0 if training else 1])


def run_pilot(telescope: CarriesColumns, stages: NDArray[np.intp]) -> Pilot:
    """Carry pilot columns through training.

    Parameters
    ----------
    telescope : TangentTelescope
        The telescope.
    stages : ndarray of int
        Stages to read, increasing.

    Returns
    -------
    Pilot
        The columns along the run.
    """
    path = telescope.path
    chosen, queries, rng = _rows_read(telescope)
    labels = _random_columns(rng, telescope.y.shape)
    on_device = torch.from_numpy(queries).to(path.device)
    scale = np.tile(telescope.output_scale, len(queries))
    of_rows, y = labels[chosen].reshape(len(chosen), -1, RANDOM_COLUMNS), telescope.y[chosen].reshape(len(chosen), -1)
    left, random, gaps = [], [], []
    carried = telescope.carry_columns(queries, np.concatenate([labels, telescope.y[..., None]], axis=-1), stages)
    for stage, response in zip(stages, carried, strict=True):
        at = response.double()
        outputs = path.outputs(on_device, int(stage))
        random.append(at[:, :-1].cpu().numpy())
        gaps.append((at[:, -1] - outputs).abs().cpu().numpy() / scale)
        raw, at_rows = outputs.cpu().numpy()[: y.size].reshape(y.shape), random[-1][: y.size].reshape(of_rows.shape)
        remaining = telescope.loss.label_rate(y, raw)[..., None] * of_rows
        remaining -= telescope.loss.curvature_product(y, raw, at_rows)
        left.append(remaining.reshape(-1, RANDOM_COLUMNS))
    return Pilot(stages, np.stack(left), np.stack(random), np.stack(gaps))


def _rows_read(telescope: CarriesColumns) -> tuple[NDArray, NDArray, np.random.Generator]:
    """Draw training rows, by number, and the queries made of them and their mixtures; the generator draws on."""
    rng = np.random.default_rng(telescope.seed)
    trained = np.flatnonzero(telescope.trained)
    chosen = np.sort(rng.permutation(trained)[:PILOT_ROWS])
    partners = rng.permutation(trained)[: len(chosen)]
    rows = telescope.path.rows.cpu().numpy()
    return chosen, np.concatenate([rows[chosen], (rows[chosen] + rows[partners]) / 2]), rng


def _random_columns(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    """Draw columns of signs."""
    return np.where(rng.random((*shape, RANDOM_COLUMNS)) < 0.5, -1.0, 1.0)


def influence_accuracy(telescope: CarriesWeights) -> ResponseAccuracy:
    """Measure how far the response to weights of rows can be trusted.

    A random column of signs asks what a random half of the rows, weighed double and without the others, would do. Such
    changes stay below the spread of the labels; where the answer rises by more, it has blown up. It counts from the
    first stage: with denominators that are held, adaptive optimisers begin with large responses.

    Parameters
    ----------
    telescope : InfluenceTelescope
        The telescope whose columns are weights.

    Returns
    -------
    ResponseAccuracy
        Without errors: they are those of effective parameters.
    """
    stages = stages_read(telescope.n_stages)
    _, queries, rng = _rows_read(telescope)
    columns, scale = _random_columns(rng, (len(telescope.y),)), telescope.output_scale
    scale = scale.reshape(*telescope.y.shape[1:], 1)
    sizes = []
    with np.errstate(over="ignore", invalid="ignore"):
        for response in telescope.staged_response(queries, columns, stages=stages):
            sizes.append(np.sqrt(((response / scale) ** 2).mean()))
    with np.errstate(invalid="ignore"):
        sound = np.array(sizes) <= np.fmin.accumulate(sizes) + LARGEST_INFLUENCE_RISE
    return ResponseAccuracy(stages, np.zeros((len(stages), 2)), sound)


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
        The errors come from the change of effective parameters when every section is halved.
    """
    stages = stages_read(int(sections.ends[-1]))
    pilot = run_pilot(make(sections), stages)
    halves = sections.halved()
    change = np.zeros((len(stages), 2)) if halves is None else _change(pilot, run_pilot(make(halves), stages))
    return ResponseAccuracy(stages, _ERROR_OF_CHANGE * change, pilot.sound)


def refined_sections(
    make: Callable[[Sections], CarriesColumns], sections: Sections, tolerance: float
) -> tuple[Sections, ResponseAccuracy]:
    """Halve sections, where that changes effective parameters by more than a tolerance, until it does so nowhere.

    Parameters
    ----------
    make : callable
        Makes a telescope with sections.
    sections : Sections
        Sections to begin with.
    tolerance : float
        Largest relative change of effective parameters.

    Returns
    -------
    Sections
        The sections. Where the response fails its checks, single updates were tried.
    ResponseAccuracy
        The errors come from the changes that halving made, and are at least the tolerance.
    """
    stages = stages_read(int(sections.ends[-1]))
    pilot = run_pilot(make(sections), stages)
    change, wanting = np.zeros((len(stages), 2)), np.ones(len(stages), dtype=bool)
    while (finer := _finer(sections, pilot, wanting)) is not None:
        refined = run_pilot(make(finer), stages)
        # Where sections stayed as they were, what earlier sections changed adds to what their own halving had.
        change = np.where(wanting[:, None], 0.0, change) + _change(pilot, refined)
        sections, pilot = finer, refined
        wanting = (change[:, 1] > tolerance) | ~refined.sound
    # What was accepted may be as large as what was allowed: the rows measured are not those asked about.
    errors = np.maximum(_ERROR_OF_CHANGE * change, tolerance)
    errors[stages <= sections.single_until] = 0.0
    return sections, ResponseAccuracy(stages, errors, pilot.sound)


def _finer(sections: Sections, pilot: Pilot, wanting: NDArray) -> Sections | None:
    """Halve sections near the stages that want it; None where none of them can be halved.

    Single updates take their place where the response fails its checks, and everywhere once sections are hardly longer.
    """
    nearest = np.minimum(np.searchsorted(pilot.stages, sections.ends), len(pilot.stages) - 1)
    halves = sections.halved(wanting[nearest])
    if halves is None:
        return None
    if halves.lengths.mean() < _HARDLY_LONGER:
        return sections.at_most(1)
    return halves if pilot.sound.all() else halves.at_most(1, after=int(pilot.stages[np.argmin(pilot.sound) - 1]))


def stages_read(n_stages: int) -> NDArray[np.intp]:
    """Stages at which pilots are read: evenly spaced ones with the last, and the powers of two, where most happens."""
    evenly = np.round(np.linspace(0, n_stages, min(MOST_STAGES_READ, n_stages) + 1)[1:]).astype(np.intp)
    return np.union1d(evenly, 2 ** np.arange(n_stages.bit_length()))


def _change(coarse: Pilot, fine: Pilot) -> NDArray:
    """Relative change of effective parameters, (n_read, 2): of training rows, and the larger of these and mixtures.

    Four columns are few, so that a change may come out small by chance: it is the root mean square over neighbouring
    stages, or the change at the stage itself where that is larger.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        changes = np.abs(coarse.energies - fine.energies) / fine.energies
    changes[coarse.energies == fine.energies] = 0.0
    changes = np.minimum(np.where(np.isfinite(changes), changes, np.inf), _LARGEST_CHANGE)
    near = min(1 + 2 * max(2, len(changes) // 16), len(changes))
    # A direct sum: a running one would leave rounding errors of huge changes in what follows them.
    squares = convolve1d(changes**2, np.full(near, 1 / near), axis=0, mode="nearest")
    changes = np.maximum(changes, np.sqrt(squares))
    return np.maximum.accumulate(changes, axis=1)
