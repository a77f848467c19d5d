"""Progress reporting: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any, TextIO

from tqdm.auto import tqdm

from telescoping_sklearn.benchmark._tasks import Task


class Progress:
    """Report the numbers of finished, failed and remaining tasks, and the time left.

    Of `total` tasks of the study, `done` were finished before. `file` is by default the standard error stream.
    """

    def __init__(self, total: int, done: int, *, show: bool, file: TextIO | None = None) -> None:
        self.total, self.done, self.failed, self.began_with = total, done, 0, done
        self.file = sys.stderr if file is None else file
        self.show, self.clock = show, time.monotonic()
        on_terminal = show and self.file.isatty()
        self.bar: Any = (
            tqdm(total=total, initial=done, desc="benchmark", unit="task", file=self.file) if on_terminal else None
        )
        if show and done:
            self._line(f"{done} of {total} tasks are done already")

    def update(self, task: Task, *, failed: bool) -> None:
        """Count a finished or failed task and report it."""
        self.done += not failed
        self.failed += failed
        what = f"{task.data}, {task.model}, seed {task.seed}, {task.score}"
        if self.bar is not None:
            self.bar.set_postfix_str(f"{self.failed} failed; last {what}", refresh=False)
            self.bar.update()
        elif self.show:
            left = self.total - self.done - self.failed
            self._line(
                f"{self.done} of {self.total} done, {self.failed} failed, {left} to go{self._time_left(left)}: "
                f"{what}{' FAILED' if failed else ''}"
            )

    def _time_left(self, left: int) -> str:
        finished = self.done - self.began_with + self.failed
        if not left or not finished:
            return ""
        seconds = (time.monotonic() - self.clock) / finished * left
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"

    def _line(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text, file=self.file)
        else:
            print(text, file=self.file, flush=True)

    def close(self) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
