"""Waiters: other threads that wait until so much is done. Control thread.

Only this thread sees jobs end. So it looks once a turn, in place of a lock on the jobs' states for
the threads that wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from embedkq._partition import Partition
from embedkq.worker.between_threads.messages import DrainTarget, JobRun, Revoked
from embedkq.worker.between_threads.progress import Progress


class Waiters:
    """The rebalance listener, which waits for partitions to settle, and the owner, which waits for
    offsets to be reached."""

    def __init__(self) -> None:
        self._revocations: list[tuple[Revoked, list[JobRun]]] = []
        self._targets: list[tuple[DrainTarget, dict[Partition, int]]] = []

    def add_revocation(self, revoked: Revoked, runs: Iterable[JobRun]) -> None:
        """Settle `revoked` once all of these runs, the last ones of its partitions, have ended."""
        self._revocations.append((revoked, list(runs)))

    def add_targets(self, targets: DrainTarget) -> None:
        """Set the request of `targets` once all before its offsets is done, of the partitions that
        are still ours then."""
        self._targets.append((targets, dict(targets.ends)))

    def drop_targets(self) -> None:
        """The offsets that were waited for may be of a log that is gone: whoever waits will ask
        for others."""
        self._targets.clear()

    def notify(self, snapshot: Mapping[Partition, Progress]) -> None:
        """Wake those who have waited long enough."""
        for waiting in self._revocations[:]:
            revoked, runs = waiting
            # What is open in the tracker would not do: what was taken back, or left not done by a
            # callback, stays open there.
            runs[:] = [run for run in runs if not run.state.ended]
            if not runs:
                revoked.snapshot = {p: snapshot[p] for p in revoked.partitions & snapshot.keys()}
                revoked.settled = True
                self._revocations.remove(waiting)
        for target in self._targets[:]:
            if _are_reached(target[1], snapshot):
                self._targets.remove(target)
                target[0].request.set()


def _are_reached(ends: dict[Partition, int], snapshot: Mapping[Partition, Progress]) -> bool:
    """Whether all before these offsets is done, of the partitions that are ours; takes out what has
    been reached."""
    for partition in list(ends):
        if partition in snapshot:
            if snapshot[partition].offset < ends[partition]:
                return False
            del ends[partition]
    return True
