"""Joblib's Dask backend, told when the cluster gives a task up. Imported only where a cluster is asked for."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from joblib._dask import DaskDistributedBackend
from joblib.externals.loky.process_executor import _ExceptionWithTraceback


class ClusterBackend(DaskDistributedBackend):
    """Hands on the error of a task that the cluster has given up, which joblib would wait for without end.

    Dask gives a task up after a few of its workers have died. Joblib 1.6 calls back for tasks that end, in an error of
    their own or not, and not for those that never did.
    """

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Count the cluster's threads.

        Parameters
        ----------
        n_jobs : int
            Ignored: the cluster decides.

        Returns
        -------
        int
            At least 2, since joblib would run the tasks of a single thread in this process and not on the cluster.
        """
        return max(2, super().effective_n_jobs(n_jobs))

    def submit(self, func: Any, callback: Callable[[Any], Any] | None = None) -> Future:
        """Send a task to the cluster.

        Parameters
        ----------
        func : callable
            The task.
        callback : callable or None, default=None
            What joblib does with its result.

        Returns
        -------
        concurrent.futures.Future
            The result to come.
        """
        future = super().submit(func, callback)

        def hand_on(ended: Future) -> None:
            error = ended.exception()
            if error is not None and callback is not None:
                callback(_ExceptionWithTraceback(error))

        future.add_done_callback(hand_on)
        return future
