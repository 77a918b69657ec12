"""PartitionLedger: how far each partition is done, over assignments that come and go. Control
thread; any thread reads its snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Set
from types import MappingProxyType

from embedkq._formats import commit_metadata, offset_map
from embedkq._formats.commit_metadata import NOTHING, CommitMetadata
from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger
from embedkq.worker.between_threads.messages import Assigned, JobRun, Released
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.control_thread.offset_tracker import OffsetTracker

logger = SafeLogger("embedkq.worker")

_MAP_FULL = 0.75


class PartitionLedger:
    """The tracker of what is assigned now, and what is remembered of partitions that were given up.

    What was done here stays done, whether its commit arrived or not: should a partition come back
    to this worker, nothing of that runs again.
    """

    def __init__(self) -> None:
        self.tracker = OffsetTracker()
        self._left: dict[Partition, Progress] = {}
        """Of partitions that are not ours; all of it in their present life."""
        self._lives: dict[Partition, int] = {}
        self._notes: dict[Partition, CommitMetadata] = {}
        self._suspicious: set[Partition] = set()
        self._begun_at: dict[Partition, int] = {}
        self._noted: dict[Partition, tuple[Progress, Progress]] = {}
        self._plain: Mapping[Partition, Progress] = {}
        self._snapshot: Mapping[Partition, Progress] | None = None

    def assign(self, message: Assigned) -> None:
        """A partition is ours: begin where it was committed, knowing what was done above that."""
        partition, start = message.partition, message.start
        try:
            done, noted = commit_metadata.decode(start, message.metadata)
        except ValueError as error:
            logger.warning(
                "The commit metadata of partition %d of %s at offset %d is not usable (%s): jobs"
                " that were done above that offset may run again, and attempt counts restart.",
                partition.number,
                partition.topic,
                start,
                error,
            )
            done, noted = (), NOTHING
        left = self._left.pop(partition, None)
        if message.life != self.life(partition):
            left, self._lives[partition] = (
                None,
                message.life,
            )  # what was done of the old log says nothing of this one
        if left is not None:
            start, done = offset_map.merge(start, done, left.offset, left.done)
            noted = noted._replace(attempts={**noted.attempts, **left.notes.attempts})
        self.tracker.assign(partition, message.epoch, start, done, message.topic)
        self._begun_at[partition] = start
        self.note(partition, noted.of_open(start, done))

    def release(self, message: Released) -> None:
        """These partitions are no longer ours."""
        snapshot = self.snapshot()
        for partition in message.partitions & snapshot.keys():
            self._left[partition] = snapshot[partition]
            self.note(partition, NOTHING)
        self.tracker.unassign(message.partitions)

    def life(self, partition: Partition) -> int:
        """How often the partition's log has started again from nothing."""
        return self._lives.get(partition, 0)

    def is_of_former_life(self, run: JobRun) -> bool:
        """Whether the log that the run is of is gone: what has its offset now is another record."""
        return run.life != self._lives.get(run.partition, 0)

    def finish(self, run: JobRun) -> None:
        """The run's offset is done, whether its partition is still ours or not; of a log that is
        gone nothing is noted."""
        if self.is_of_former_life(run):
            return
        partition, offset = run.partition, run.offset
        # Both are mostly empty, and an empty dictionary is not worth a look-up for each job.
        left = self._left.get(partition) if self._left else None
        if left is not None:
            self._left[partition] = left.with_done(offset)
            return
        if not self.tracker.finish(partition, run.epoch, offset):
            # it came back, and its record was not polled again yet
            self.tracker.finish_unseen(partition, offset)
        noted = self._notes.get(partition) if self._notes else None
        if noted is not None:
            noted = noted.without(offset)
            if (
                not noted.serial_mode
                and self.tracker.watermark(partition) > self._begun_at[partition]
            ):
                # that is progress; the crash guard decides about those in serial mode
                noted = noted._replace(starts=0)
            self.note(partition, noted)

    def notes_of(self, partition: Partition) -> CommitMetadata:
        """What is known of a partition's records that are not done."""
        return self._notes.get(partition, NOTHING)

    def note(self, partition: Partition, noted: CommitMetadata) -> None:
        """Have this known of a partition, and committed."""
        self._snapshot = None
        self._noted.pop(partition, None)
        if noted.serial_mode or noted.crashes:
            self._suspicious.add(partition)
        else:
            self._suspicious.discard(partition)
        if noted == NOTHING:
            self._notes.pop(partition, None)
        else:
            self._notes[partition] = noted

    def failed(self, run: JobRun) -> None:
        """Note the attempts of a run that is not done, unless its partition is gone."""
        if self.tracker.is_assigned(run.partition):
            noted = self.notes_of(run.partition)
            self.note(
                run.partition, noted._replace(attempts={**noted.attempts, run.offset: run.attempts})
            )

    @property
    def suspicious(self) -> bool:
        """Whether any partition is in serial mode or has crashes."""
        return bool(self._suspicious)

    def snapshot(self) -> Mapping[Partition, Progress]:
        """What may be committed, by partition. Immutable; the same object as long as nothing
        changes."""
        plain = self.tracker.snapshot()
        if not self._notes:
            return plain
        if self._snapshot is None or self._plain is not plain:
            self._plain = plain
            noted = {p: self._with_notes(p, plain[p]) for p in self._notes if p in plain}
            self._snapshot = MappingProxyType({**plain, **noted})
        return self._snapshot

    def _with_notes(self, partition: Partition, plain: Progress) -> Progress:
        known = self._noted.get(partition)
        if known is None or known[0] is not plain:
            known = self._noted[partition] = plain, plain._replace(notes=self._notes[partition])
        return known[1]

    def crowded(self) -> Set[Partition]:
        """Partitions whose commit metadata is nearly full: nothing more of them should begin."""
        return self.tracker.crowded(_MAP_FULL)
