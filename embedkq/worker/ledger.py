"""Ledger: how far each partition is done, over assignments that come and go. Worker's thread; anyone reads its snapshots."""
from __future__ import annotations

import logging
from collections.abc import Mapping

from embedkq.worker import donemap, notes
from embedkq.worker.messages import Assigned, Released, Run
from embedkq.worker.notes import NOTHING, Notes
from embedkq.worker.offsets import OffsetTracker
from embedkq.worker.progress import Progress

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
        self._notes: dict[int, Notes] = {}
        self._noted: Mapping[int, Progress] | None = None
        self._base: Mapping[int, Progress] = {}

    def assign(self, message: Assigned) -> None:
        """A partition is ours: begin where it was committed, knowing what was done above that."""
        partition, start = message.partition, message.start
        try:
            done, noted = notes.decode(start, message.metadata)
        except ValueError as error:
            logger.warning(
                "The commit metadata of partition %d of %s at offset %d is not usable (%s): "
                "jobs that were done above that offset may run again, and attempts are counted anew.", partition, self._topic, start, error,
            )
            done, noted = (), NOTHING
        left = self._left.pop(partition, None)
        if left is not None:
            start, done = donemap.merge(start, done, left.offset, left.done)
            noted = noted._replace(attempts={**noted.attempts, **left.notes.attempts})
        self.tracker.assign(partition, message.epoch, start, done)
        self._note(partition, noted)

    def release(self, message: Released) -> None:
        """These partitions are no longer ours."""
        snapshot = self.snapshot()
        for partition in message.partitions & snapshot.keys():
            self._left[partition] = snapshot[partition]
            self._note(partition, NOTHING)
        self.tracker.unassign(message.partitions)

    def finish(self, run: Run) -> None:
        """The run's offset is done, whether its partition is still ours or not."""
        if self.tracker.finish(run.partition, run.epoch, run.offset):
            if run.partition in self._notes:
                self._note(run.partition, self._notes[run.partition].without(run.offset))
        else:
            left = self._left.get(run.partition)
            if left is not None:
                self._left[run.partition] = left.with_done(run.offset)

    def attempts(self, run: Run) -> int:
        """How often the run's job has failed before, in other hosts too."""
        return self._notes[run.partition].attempts.get(run.offset, 0) if run.partition in self._notes else 0

    def failed(self, run: Run) -> None:
        """Note the attempts of a run that is not done, whether its partition is about to go or not."""
        if run.partition in self.tracker.snapshot():
            noted = self._notes.get(run.partition, NOTHING)
            self._note(run.partition, noted._replace(attempts={**noted.attempts, run.offset: run.attempts}))

    def snapshot(self) -> Mapping[int, Progress]:
        """What may be committed, by partition. Immutable; the same object as long as nothing changes."""
        base = self.tracker.snapshot()
        if not self._notes:
            return base
        if self._noted is None or self._base is not base:
            self._base = base
            self._noted = {p: progress._replace(notes=self._notes.get(p, NOTHING)) for p, progress in base.items()}
        return self._noted

    def _note(self, partition: int, noted: Notes) -> None:
        self._noted = None
        if noted == NOTHING:
            self._notes.pop(partition, None)
        else:
            self._notes[partition] = noted

    def crowded(self) -> set[int]:
        """Partitions whose commit metadata is nearly full: nothing more of them should begin."""
        return {partition for partition in self.tracker.snapshot() if self.tracker.fullness(partition) > _MAP_FULL}
