"""Children of a recorded run: runs that go on from one of its stages, with other batches or with its own.

A child starts from the parameters and the optimiser's state after the stage, trained again from the checkpoint before
it. It counts updates on from there for bias corrections, schedules and warm-up, and its stopping rule has seen the
epochs before. In the middle of an epoch it first trains on the rows that the parent's epoch has left. So a child with
the parent's own order of the rows makes the parent's updates, bit for bit, and any other makes as many in an epoch.
"""

from dataclasses import replace
from typing import Any

from telescoping_sklearn.neural._training import Progress, SpawnPoint
from telescoping_sklearn.neural._training_settings import EpochOrders
from telescoping_sklearn.neural._trajectory import Trajectory

#: Parameters of the estimator that a child may have otherwise than its parent's fit had.
FREE = (
    "rule", "section", "section_tol", "random_state", "record", "record_budget", "checkpoint_dir", "verbose", "n_jobs"
)  # fmt: skip


def spawn_point(trajectory: Trajectory, progress: Progress, stage: int) -> SpawnPoint:
    """Return where a run goes on from one of the stages of another."""
    epoch, n_batches = trajectory.batches.place(stage)
    n_earlier = len(progress.scores) - -(-len(progress.losses) // trajectory.batches.per_epoch)
    end = trajectory.batches.skipped + stage
    return SpawnPoint(
        checkpoint=trajectory.checkpoint(stage),
        n_updates=trajectory.n_before + stage,
        losses=progress.losses[end - n_batches : end],
        scores=progress.scores[: n_earlier + epoch],
    )


def child_orders(orders: EpochOrders, trajectory: Trajectory, stage: int, seed: int | None) -> EpochOrders:
    """Return the orders of the rows in a child's epochs, drawn from a seed of its own; None keeps the parent's.

    ValueError is raised if the parent does not shuffle its rows, which a child with a seed would.
    """
    epoch, n_batches = trajectory.batches.place(stage)
    if seed is None:
        return replace(orders, n_passed=orders.n_passed + epoch)
    if not orders.shuffle:
        raise ValueError(
            "spawn changes the order of the rows, and this net was fitted with shuffle=False. Fit with shuffle=True, "
            "or spawn with random_state='parent'."
        )
    begun = (trajectory.batches.orders[epoch], n_batches * trajectory.batches.batch_size) if n_batches else None
    return EpochOrders(orders.n_rows, True, seed, begun)


def refuse_changes(given: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ValueError if parameters that training follows are others than those that a net was fitted with."""
    changed = [name for name, value in now.items() if name not in FREE and given.get(name) is not value]
    changed = [name for name in changed if repr(given.get(name)) != repr(now[name])]  # an equal value set again
    if changed:
        listed = ", ".join(f"{name}={now[name]!r}" for name in changed)
        raise ValueError(
            f"spawn trains on as fit did, and {listed} was changed since. Set the values of the fit again, or fit anew."
        )
