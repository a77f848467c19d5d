"""Crash-safe results: an SQLite file with one row per task.

The key of a task is the hash of everything that determines its results, so that running a study again runs only
unfinished tasks. Only the main process writes. Every write is one transaction in a write-ahead log: killing the process
at any moment loses the tasks in flight and nothing else. Nothing is pickled: settings and results are JSON, arrays are
in numpy's format.
"""

import io
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from telescoping_sklearn.benchmark._describe import describe, hash_of, to_json
from telescoping_sklearn.benchmark._results import as_results
from telescoping_sklearn.benchmark._tasks import Outcome, SquaredErrors, Task

_APPLICATION_ID = 0x54534B42
_FORMAT = 1
_BUSY_SECONDS = 60
_MAGIC = b"SQLite format 3\0"
_SCHEMA = """
CREATE TABLE tasks (
    key TEXT PRIMARY KEY,
    data TEXT NOT NULL, model TEXT NOT NULL, seed INTEGER NOT NULL, score TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'failed')),
    description TEXT NOT NULL,
    results TEXT, errors BLOB, traceback TEXT,
    finished REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE studies (
    key TEXT PRIMARY KEY,
    study TEXT NOT NULL, tables TEXT NOT NULL, versions TEXT NOT NULL, machine TEXT NOT NULL, tasks TEXT NOT NULL,
    begun REAL NOT NULL
) WITHOUT ROWID;
"""
_SAVE = """
INSERT INTO tasks (key, data, model, seed, score, status, description, results, errors, traceback, finished)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    status = excluded.status, results = excluded.results, errors = excluded.errors, traceback = excluded.traceback,
    finished = excluded.finished
WHERE tasks.status = 'failed'
"""


class StoreError(ValueError):
    """Raised for a file that is not a results file, is damaged, or cannot be used."""


class ResultStore:
    """Results of studies in an SQLite file.

    Several studies may share a file; methods return the results of the study run last.

    Parameters
    ----------
    path : str or Path
        An existing file, such as `run_benchmark` writes.

    Raises
    ------
    StoreError
        If the file does not exist, is not a results file, or is damaged. It is not changed.

    Examples
    --------
    >>> import tempfile
    >>> from telescoping_sklearn.benchmark import BenchmarkStudy, run_benchmark
    >>> study = BenchmarkStudy(
    ...     models={"ridge": "sklearn.linear_model.Ridge"}, n_seeds=1, max_train=200, test_size=50, proportions=(0, 1)
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     results = run_benchmark(study, Path(folder, "results.sqlite"))
    ...     store = ResultStore(Path(folder, "results.sqlite"))
    ...     len(store.results()) == len(results), store.metadata()["n_done"]
    (True, 1)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._check()

    @classmethod
    def create(cls, path: str | Path) -> "ResultStore":
        """Open a store, and create an empty one if the file does not exist.

        Parameters
        ----------
        path : str or Path
            The file; its folder must exist.

        Returns
        -------
        ResultStore
            The store.

        Raises
        ------
        StoreError
            If the file is not a results file, is damaged, or cannot be created.
        """
        path = Path(path)
        if not path.exists():
            _make_empty(path)
        return cls(path)

    def _check(self) -> None:
        """Raise StoreError for a file that is not a results file or is damaged, before writing to it."""
        if not self.path.is_file():
            raise StoreError(f"there is no file {self.path}")
        with self.path.open("rb") as file:
            head = file.read(100)
        if len(head) < 100 or not head.startswith(_MAGIC):
            raise StoreError(f"{self.path} is no file of benchmark results (no SQLite file); it was left as it is")
        # Both numbers are in the file's header: bytes 60 and 68, big-endian.
        file_format, application = int.from_bytes(head[60:64], "big"), int.from_bytes(head[68:72], "big")
        if application != _APPLICATION_ID:
            raise StoreError(f"{self.path} is another program's SQLite file; it was left as it is")
        if file_format != _FORMAT:
            raise StoreError(
                f"{self.path} has format {file_format}, and this version reads format {_FORMAT}; it was left as it is"
            )
        with self._connect("ro") as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if found != "ok":
            raise StoreError(f"{self.path} is damaged ({' '.join(found.split())}); it was left as it is")

    @contextmanager
    def _connect(self, mode: str = "rw") -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction. Short connections are safe across threads and forks."""
        uri = f"{self.path.resolve().as_uri()}?mode={mode}"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)) as connection, connection:
                yield connection
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self.path} cannot be used: {error}") from error

    def begin(self, study: Any, tables: Any, versions: Any, machine: Any, keys: Iterable[str]) -> None:
        """Register the study that is run, as JSON types, with the keys of all of its tasks.

        Later calls return its results.

        Parameters
        ----------
        study, tables, versions, machine : object
            JSON types: the study, its tables, library versions, and the machine.
        keys : iterable of str
            Keys of all of the study's tasks.
        """
        texts = [to_json(part) for part in (study, tables, versions, machine, list(keys))]
        with self._connect() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO studies (key, study, tables, versions, machine, tasks, begun) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (hash_of(texts), *texts, time.time()),
            )

    def done(self) -> set[str]:
        """Return the keys of all finished tasks, without failed ones."""
        with self._connect() as connection:
            return {key for (key,) in connection.execute("SELECT key FROM tasks WHERE status = 'done'")}

    def is_done(self, key: str) -> bool:
        """Whether a task is finished.

        Parameters
        ----------
        key : str
            Its key.

        Returns
        -------
        bool
            True if its results are stored.
        """
        with self._connect() as connection:
            found = connection.execute("SELECT 1 FROM tasks WHERE key = ? AND status = 'done'", (key,))
            return found.fetchone() is not None

    def save(self, outcome: Outcome, description: dict[str, Any]) -> None:
        """Save the outcome of a task; a finished task is kept, a failed one is overwritten.

        Parameters
        ----------
        outcome : Outcome
            Rows and errors, or a traceback.
        description : dict
            Everything that determines the task's results, as JSON types.
        """
        done = outcome.errors is not None
        values = (
            outcome.key,
            *outcome.task,
            "done" if done else "failed",
            to_json(description),
            to_json(describe(outcome.rows)) if done else None,
            _pack(outcome.errors) if outcome.errors is not None else None,
            outcome.failure or None,
            time.time(),
        )
        with self._connect() as connection:
            connection.execute(_SAVE, values)

    def _last_study(self) -> dict[str, Any]:
        with self._connect() as connection:
            connection.row_factory = sqlite3.Row
            row = connection.execute("SELECT * FROM studies ORDER BY begun DESC LIMIT 1").fetchone()
        if row is None:
            raise StoreError(f"{self.path} holds no study yet")
        parts = {name: json.loads(row[name]) for name in ("study", "tables", "versions", "machine", "tasks")}
        return {**parts, "begun": row["begun"]}

    def _tasks(self, columns: str) -> list[tuple[Any, ...]]:
        """Return columns of the tasks of the last study that were run, in the order of the study."""
        keys = self._last_study()["tasks"]
        with self._connect() as connection:
            found = {row[0]: row[1:] for row in connection.execute(f"SELECT key, {columns} FROM tasks")}
        return [found[key] for key in keys if key in found]

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the study run last.

        Returns
        -------
        dict
            With `study` (every parameter), `tables` (rows, columns and their preparation, by data set),
            `versions`, `machine`, `begun` (seconds since 1970), `n_tasks`, `n_done` and `n_failed`.
        """
        last = self._last_study()
        states = [status for (status,) in self._tasks("status")]
        counts = {"n_tasks": len(last.pop("tasks")), "n_done": states.count("done"), "n_failed": states.count("failed")}
        return {**last, **counts}

    def results(self) -> pd.DataFrame:
        """Return the results of the finished tasks of the study run last.

        Returns
        -------
        DataFrame
            One row for every finished task and test set, with the columns that `run_benchmark` lists.
        """
        finished = [json.loads(text) for status, text in self._tasks("status, results") if status == "done"]
        return as_results(row for rows in finished for row in rows)

    def squared_errors(self, task: Any) -> SquaredErrors:
        """Return a finished task's squared errors, row by row.

        Parameters
        ----------
        task : tuple of (str, str, int, str)
            Its data set, model, seed and score, as the results name them.

        Returns
        -------
        SquaredErrors
            `values` in units of the variance of the training labels, and `sets`, the positions of each test set's
            rows. Rows and their order are the same for every model.

        Raises
        ------
        KeyError
            If the study run last has no such task, or it is not finished.
        """
        wanted = Task(*task)
        for data, model, seed, score, blob in self._tasks("data, model, seed, score, errors"):
            if Task(data, model, seed, score) == wanted and blob is not None:
                return _unpack(blob)
        raise KeyError(f"{self.path} has no finished task {tuple(wanted)}")

    def failures(self) -> pd.DataFrame:
        """Return the failed tasks of the study run last.

        Returns
        -------
        DataFrame
            With the columns data, model, seed, score and traceback.
        """
        names = ["data", "model", "seed", "score", "traceback"]
        failed = [row[1:] for row in self._tasks(f"status, {', '.join(names)}") if row[0] == "failed"]
        return pd.DataFrame(failed, columns=names)


def _make_empty(path: Path) -> None:
    """Create an empty store under a temporary name and link it into place, unless another process did so first."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    except OSError as error:
        raise StoreError(f"{path} cannot be made: {error}") from error
    os.close(handle)
    try:
        with closing(sqlite3.connect(name)) as connection:
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
            connection.executescript(_SCHEMA)
            connection.execute("PRAGMA journal_mode = WAL")
        with suppress(FileExistsError):  # another process made the store meanwhile, as empty as this one
            os.link(name, path)
    finally:
        os.unlink(name)


def _pack(errors: SquaredErrors) -> bytes:
    """Serialise squared errors as a compressed archive of numpy arrays."""
    kinds, values = zip(*errors.sets, strict=True)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        values=errors.values,
        kinds=np.array(kinds),
        set_values=np.array(values),
        sizes=np.array([len(rows) for rows in errors.sets.values()]),
        rows=np.concatenate(list(errors.sets.values())).astype(np.int32),
    )
    return buffer.getvalue()


def _unpack(blob: bytes) -> SquaredErrors:
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        members = np.split(arrays["rows"], np.cumsum(arrays["sizes"])[:-1])
        names = zip(arrays["kinds"].tolist(), arrays["set_values"].tolist(), strict=True)
        return SquaredErrors(arrays["values"], dict(zip(names, members, strict=True)))
