"""Long work that is saved to a folder now and then, and goes on from there when it is done again.

Work is known by a digest of all that its result depends on, so that nobody's result is taken for another's. It keeps
items, which are only ever added (checkpoints of a fit, answers at stages), and a state, of which the last one counts. A
save adds one file of items and then replaces the file of the state, each in one step: a process that is killed at any
time leaves the last whole save.
"""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Value = TypeVar("Value")

#: Seconds between two saves.
SAVE_SECONDS = 60.0
_FORM = b"telescoping_sklearn saved work, form 1\n"


def digest(*parts: Any) -> str:
    """Digest of arrays, tensors and what its representation tells in full, as 64 hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu().numpy()
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype.str} {part.shape}\n".encode())
            found.update(np.ascontiguousarray(part).data)
        else:
            text = repr(part).encode()
            found.update(f"{len(text)}\n".encode() + text)
    return found.hexdigest()


class SavedWork:
    """One piece of work in a folder.

    Parameters
    ----------
    folder : str or PathLike
        The folder, made when work is saved.
    kind : str
        What the work is, for the names of its files.
    key : str
        Digest of all that the result depends on.

    Attributes
    ----------
    state : object or None
        What was saved last; None where nothing was.

    Raises
    ------
    ValueError
        If a file is damaged, or holds other work than its name says; also while items are read.
    """

    def __init__(self, folder: str | os.PathLike, kind: str, key: str):
        self._stem = Path(folder, f"{kind}-{key[:24]}")
        self._key = key
        self._added: list[Any] = []
        found: tuple[int, Any] = self._read("state") if self._path("state").exists() else (0, None)
        self._n_files, self.state = found
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._saved_at >= SAVE_SECONDS

    def items(self) -> Iterator[Any]:
        """Yield the items that were saved, in the order in which they were added."""
        for number in range(self._n_files):
            yield from self._read(f"{number:05}")

    def add(self, item: Any) -> None:
        """Add an item, which the next save writes."""
        self._added.append(item)

    def save(self, state: Any) -> None:
        """Save the items added since the last save, and the state."""
        if self._added:
            self._write(f"{self._n_files:05}", self._added)
            self._n_files, self._added = self._n_files + 1, []
        self._write("state", (self._n_files, state))
        self.state = state
        self._saved_at = time.monotonic()

    def _path(self, part: str) -> Path:
        return self._stem.with_name(f"{self._stem.name}.{part}")

    def _head(self, part: str, content: bytes) -> bytes:
        return _FORM + f"{self._key} {part} {hashlib.sha256(content).hexdigest()}\n".encode()

    def _write(self, part: str, value: Any) -> None:
        path, buffer = self._path(part), io.BytesIO()
        try:
            torch.save(value, buffer)
        except (AttributeError, TypeError, RuntimeError) as error:
            raise ValueError(f"What checkpoint_dir should save cannot be pickled: {error}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with open(unfinished, "wb") as file:
            file.write(self._head(part, buffer.getvalue()))
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)

    def _read(self, part: str) -> Any:
        path = self._path(part)
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise ValueError(f"{path} is missing. Delete {self._path('state')} to start again.") from error
        end = content.find(b"\n", len(_FORM)) + 1
        if not content.startswith(_FORM) or content[:end] != self._head(part, content[end:]):
            raise ValueError(
                f"{path} is damaged, or was not saved by this work. Delete the files {self._stem}.* to start again."
            )
        return torch.load(io.BytesIO(content[end:]), weights_only=False)  # the check above has passed


def remembered(
    folder: str | os.PathLike | None, kind: str, compute: Callable[[], Value], key: Callable[[], str]
) -> Value:
    """Compute a value, or read it if it was computed before; None stands for no folder."""
    if folder is None:
        return compute()
    work = SavedWork(folder, kind, key())
    if work.state is None:
        work.save(compute())
    return work.state
