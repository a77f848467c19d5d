"""Joblib's Dask backend, extended to report tasks that the cluster abandons. Imported only for a Dask cluster."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from joblib._dask import DaskDistributedBackend
from joblib.externals.loky.process_executor import _ExceptionWithTraceback


class ClusterBackend(DaskDistributedBackend):
    """Pass on the error of a task that the cluster has abandoned.

    Dask abandons a task after several of its workers have died. Joblib 1.6 receives no callback for such a task and
    would wait for it forever.
    """

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Count the cluster's threads; at least 2, since joblib would run tasks of a single thread in this process."""
        return max(2, super().effective_n_jobs(n_jobs))

    def submit(self, func: Any, callback: Callable[[Any], Any] | None = None) -> Future:
        """Send a task to the cluster."""
        future = super().submit(func, callback)

        def pass_on(ended: Future) -> None:
            error = ended.exception()
            if error is not None and callback is not None:
                callback(_ExceptionWithTraceback(error))

        future.add_done_callback(pass_on)
        return future
