"""Sections: consecutive updates covered by one evaluation, of a given length or chosen by the gap that they leave.

A section from stage s to stage e leaves the gap f_e - f_s - J(theta*) (theta_e - theta_s), which takes two forward
passes and a product. Each section starts twice as long as the last. It is halved until its own gap is within its share
of the tolerance, and the sum of the gaps so far within all of it, both averaged over some training rows. The shortest
section is a single update.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from telescoping_sklearn.neural._path import Path

#: Training rows on which gaps are measured.
GAP_ROWS = 256
#: Most epochs that a section may span where no kernel is held. Inside a section the response at every batch is then
#: computed anew, so that longer ones save nothing.
LONGEST_EPOCHS = 16


@dataclass(frozen=True)
class Sections:
    """How a run is cut."""

    ends: NDArray[np.intp]  # last stage of every section, (n_sections,), increasing; the last is the run's
    chosen: bool = False  # whether the ends were chosen by the gaps that they leave; otherwise they were given

    def first_of(self, stage: int) -> int:
        """Stage that the section of a stage starts from."""
        position = int(np.searchsorted(self.ends, stage))
        return int(self.ends[position - 1]) if position else 0

    def is_end(self, stage: int) -> bool:
        """Whether a section ends with the stage."""
        return bool(self.ends[np.searchsorted(self.ends, stage)] == stage)

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Updates of every section."""
        return np.diff(self.ends, prepend=0)

    @property
    def single_until(self) -> int:
        """Stage up to which no section is longer than one update."""
        longer = np.flatnonzero(self.lengths > 1)
        return int(self.ends[longer[0]] - self.lengths[longer[0]]) if len(longer) else int(self.ends[-1])

    def halved(self, which: NDArray | None = None) -> "Sections | None":
        """Cut sections in two, all or some; None where none of them is longer than one update."""
        cut = (self.lengths > 1) if which is None else (self.lengths > 1) & which
        if not cut.any():
            return None
        middles = (self.ends - self.lengths // 2)[cut]
        return replace(self, ends=np.union1d(middles, self.ends))

    def at_most(self, longest: int, after: int = 0) -> "Sections":
        """Cut sections that are longer than `longest` into pieces of that length, those that end after a stage."""
        cut = (self.lengths > longest) & (self.ends > after)
        if not cut.any():
            return self
        bounds = zip((self.ends - self.lengths)[cut], self.ends[cut], strict=True)
        pieces = [np.arange(first + longest, end, longest) for first, end in bounds]
        return replace(self, ends=np.union1d(np.concatenate(pieces), self.ends))


def equal_sections(n_stages: int, length: int) -> Sections:
    """Cut a run into sections of one length; the last may be shorter."""
    ends = np.append(np.arange(length, n_stages, length), n_stages)
    return Sections(ends.astype(np.intp))


def gap_rows(path: Path, trained: NDArray, seed: int) -> torch.Tensor:
    """Draw the training rows on which gaps are measured."""
    candidates = np.flatnonzero(trained)
    chosen = np.random.default_rng(seed).permutation(candidates)[:GAP_ROWS]
    return path.rows[torch.from_numpy(np.sort(chosen)).to(path.device)]


def chosen_sections(
    path: Path, rows: torch.Tensor, tolerance: float, scale: NDArray, longest: int, read: NDArray
) -> Sections:
    """Choose sections of at most `longest` updates, in one pass over the run, so that their summed gaps stay small.

    `tolerance` is the mean absolute gap on `rows` allowed at any section's end, in units of `scale`, (n_outputs,), the
    spread of each output. If single updates exceed it, so does the gap that is left; see `largest_gap`. Stages that
    are read later, `read`, and where sections may be halved, are asked of the record while it holds them.
    """
    n_stages = path.trajectory.n_stages
    allowed = tolerance * scale.mean()
    ends: list[int] = []
    first, length = 0, 1
    outputs = path.outputs(rows, 0)
    so_far = torch.zeros_like(outputs)
    while first < n_stages:
        tried = taken = min(length, path.trajectory.nearest_kept(first) - first)
        while True:
            gap, reached = _gap(path, rows, outputs, first, first + taken, scale)
            # Gaps of sections have no common sign, so that their squares add up: a share is the root of a length.
            within = _mean(gap) <= allowed * (taken / n_stages) ** 0.5
            if taken == 1 or (within and _mean(so_far + gap) <= max(allowed, _mean(so_far))):
                break
            taken //= 2
        inside = read[(read > first) & (read < first + taken)].tolist()
        path.trajectory.hold([*inside, *(first + quarter * taken // 4 for quarter in (1, 2, 3))])
        first, outputs, so_far = first + taken, reached, so_far + gap
        ends.append(first)
        # One that was cut short by the record alone says nothing against longer ones.
        length = length if taken == tried < length else min(2 * taken, longest)
    return Sections(np.array(ends, dtype=np.intp), chosen=True)


def largest_gap(path: Path, rows: torch.Tensor, sections: Sections, scale: NDArray) -> float:
    """Largest mean absolute gap between net and telescope at any section's end, on the rows given, in units of scale.

    The scale, (n_outputs,), is the spread of each output.
    """
    outputs = path.outputs(rows, 0)
    first, so_far, largest = 0, torch.zeros_like(outputs), 0.0
    for last in sections.ends.tolist():
        gap, outputs = _gap(path, rows, outputs, first, last, scale)
        first, so_far = last, so_far + gap
        largest = max(largest, _mean(so_far))
    return largest / scale.mean()


def _mean(gap: torch.Tensor) -> float:
    return float(gap.abs().mean())


def _gap(
    path: Path, rows: torch.Tensor, outputs: torch.Tensor, first: int, last: int, scale: NDArray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gap of one section at every row, in units of the mean scale, and the net's outputs at its end."""
    reached = path.outputs(rows, last)
    change = path.change(rows, first, last, path.step(first, last))[:, 0]
    relative = torch.from_numpy(scale / scale.mean()).to(reached)
    gap = (reached - outputs - change).view(-1, len(relative)) / relative
    return gap.flatten(), reached
