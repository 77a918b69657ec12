"""Ledger: how far each partition is done, over assignments that come and go. Worker's thread; anyone reads its snapshots."""
from __future__ import annotations

import logging
from collections.abc import Mapping

from embedkq.worker import donemap
from embedkq.worker.messages import Assigned, Released, Run
from embedkq.worker.offsets import OffsetTracker, Progress

logger = logging.getLogger("embedkq.worker")

_MAP_FULL = 0.75


class Ledger:
    """The tracker of what is assigned now, and what is remembered of partitions that were given up.

    What was done here stays done, whether its commit arrived or not: should a partition come back to this worker, nothing of that
    runs again.
    """

    def __init__(self, topic: str) -> None:
        self.tracker = OffsetTracker()
        self._topic = topic
        self._left: dict[int, Progress] = {}

    def assign(self, message: Assigned) -> None:
        """A partition is ours: begin where it was committed, knowing what was done above that."""
        partition, start = message.partition, message.start
        try:
            done = donemap.decode(start, message.metadata)
        except ValueError as error:
            logger.warning(
                "The commit metadata of partition %d of %s at offset %d is not usable (%s): "
                "jobs that were done above that offset may run again.", partition, self._topic, start, error,
            )
            done = ()
        left = self._left.pop(partition, None)
        if left is not None:
            start, done = donemap.merge(start, done, left.offset, left.done)
        self.tracker.assign(partition, message.epoch, start, done)

    def release(self, message: Released) -> None:
        """These partitions are no longer ours."""
        snapshot = self.tracker.snapshot()
        for partition in message.partitions & snapshot.keys():
            self._left[partition] = snapshot[partition]
        self.tracker.unassign(message.partitions)

    def finish(self, run: Run) -> None:
        """The run's offset is done, whether its partition is still ours or not."""
        if not self.tracker.finish(run.partition, run.epoch, run.offset):
            left = self._left.get(run.partition)
            if left is not None:
                self._left[run.partition] = left.with_done(run.offset)

    def snapshot(self) -> Mapping[int, Progress]:
        """What may be committed, by partition. Immutable."""
        return self.tracker.snapshot()

    def crowded(self) -> set[int]:
        """Partitions whose commit metadata is nearly full: nothing more of them should begin."""
        return {partition for partition in self.snapshot() if self.tracker.fullness(partition) > _MAP_FULL}
