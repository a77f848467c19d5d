"""A pass of label columns through a recorded run that is saved at ends of sections, and goes on from there."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from telescoping_sklearn.neural._carriers import Carrier
from telescoping_sklearn.neural._saved_work import SavedWork


class SavedPass:
    """What a pass saves and restores; without a folder, nothing.

    Parameters
    ----------
    work : SavedWork or None
        Where it is saved.
    last : int
        Last stage asked about, at which the pass is complete.
    """

    def __init__(self, work: SavedWork | None, last: int):
        self._work = work
        self._last = last

    @property
    def is_new(self) -> bool:
        """Whether nothing was saved."""
        return self._work is None or self._work.state is None

    def answers(self) -> Iterator[Tensor]:
        """Yield the answers that were saved."""
        if self._work is not None:
            yield from self._work.items()

    def restore(self, carrier: Carrier, responses: list[Tensor]) -> int:
        """Put what was saved into the carrier and the responses of rows; return the stage that was reached."""
        state: Any = None if self._work is None else self._work.state
        if state is None:
            return 0
        if state["stage"] < self._last:
            carrier.restore(state["carrier"])
            for response, saved in zip(responses, state["responses"], strict=True):
                response.copy_(saved)
        return state["stage"]

    def answer(self, response: Tensor, stage: int) -> Tensor:
        """Keep an answer and return it; with the last one the pass is complete."""
        if self._work is not None:
            self._work.add(response.clone())
            if stage == self._last:
                self._work.save({"stage": stage})
        return response

    def end_section(self, stage: int, carrier: Carrier, responses: list[Tensor]) -> None:
        """Save at the end of a section if the last save is long enough ago; answers up to it were kept before."""
        if self._work is not None and stage < self._last and self._work.is_due:
            self._work.save({"stage": stage, "carrier": carrier.state(), "responses": responses})


NOT_SAVED = SavedPass(None, 0)
