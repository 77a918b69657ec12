"""Waiters: other threads that wait until so much is done. Worker's thread."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

from embedkq.worker.messages import Revoked, Run, Targets
from embedkq.worker.progress import Progress


class Waiters:
    """The rebalance listener, which waits for partitions to settle, and the owner, which waits for offsets to be reached."""

    def __init__(self) -> None:
        self._revocations: list[Revoked] = []
        self._targets: list[Targets] = []

    def add_revocation(self, revoked: Revoked) -> None:
        """Tell `revoked` once nothing of its partitions runs any more."""
        self._revocations.append(revoked)

    def add_targets(self, targets: Targets) -> None:
        """Tell `targets` once all before its offsets is done, of the partitions that are still ours then."""
        self._targets.append(targets)

    def tell(self, snapshot: Mapping[int, Progress], runs: Iterable[Run]) -> None:
        """Tell those whose time has come."""
        if self._revocations:
            busy = {run.partition for run in runs}
            for revoked in [revoked for revoked in self._revocations if not revoked.partitions & busy]:
                # What is open in the tracker would not do: what was taken back, or left not done by a callback, stays open there.
                revoked.snapshot = {p: snapshot[p] for p in revoked.partitions & snapshot.keys()}
                revoked.settled = True
                self._revocations.remove(revoked)
        for target in self._targets[:]:
            if all(snapshot[p].offset >= end for p, end in target.ends.items() if p in snapshot):
                self._targets.remove(target)
                target.request.set()
