"""What was polled and has not been given to the pool: fair between partitions, in order within a
key, bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence, Set
from typing import NamedTuple

from embedkq._partition import Partition
from embedkq.worker.between_threads.messages import Batch, JobRun
from embedkq.worker.between_threads.partition_quota import PartitionQuota

MOST_RECORDS = 2_000
MOST_BYTES = 64 * 1024 * 1024
"""How many bytes of records, and of results that wait for their callback, a worker holds before it
fetches no more: here, in children, before another attempt, and until their dead letters are
written."""
RUN_BYTES = 512
"""What a record takes beside its key and value, its headers included or nearly so."""
READ_AHEAD = 10_000
"""How many records of one partition may wait for an earlier one with their key before the partition
is left alone ..."""
READ_AHEAD_BYTES = 16 * 1024 * 1024
"""... and how many bytes they may have together ..."""
READ_AHEAD_BYTES_IN_ALL = 24 * 1024 * 1024
"""... and those of all partitions."""
_AT_ONCE = 16
"""How many records of one partition are given out before another one has its turn."""


class Queued(NamedTuple):
    """Some records of one partition whose turn it is.

    Attributes:
        partition, epoch: whose they are.
        runs: in order; none where only the position is new.
        position: the consumer's after the last one; None if more of the same poll is queued.
    """

    partition: Partition
    epoch: int
    runs: Sequence[JobRun]
    position: int | None


class _Polled:
    """What one poll brought of a partition, and how much of it was given out."""

    __slots__ = ("position", "runs", "taken")

    def __init__(self, batch: Batch) -> None:
        self.runs = batch.runs
        self.position = batch.position
        self.taken = 0


class Backlog:
    """Records by partition, and the lanes of the keys that are busy.

    Control thread; `wait_for_room` and `full` are for the consumer thread.
    """

    def __init__(self) -> None:
        self._queues: dict[Partition, deque[_Polled]] = {}
        self._epochs: dict[Partition, int] = {}
        # Partitions with records: those whose turn comes, and those that next_queued found full or
        # on hold, until they are so no more.
        self._turns: deque[Partition] = deque()
        self._set_aside: set[Partition] = set()
        self._lanes: dict[bytes, deque[JobRun]] = {}
        self._ready: deque[JobRun] = deque()
        self._waiting = PartitionQuota(READ_AHEAD, READ_AHEAD_BYTES, READ_AHEAD_BYTES_IN_ALL)
        self._on_hold: frozenset[Partition] = frozenset()
        # Each of these has one writer, so their difference needs no lock: the consumer's thread
        # counts what comes ...
        self._came_records = self._came_bytes = 0
        # ... and the worker's what is no longer here, and what the worker does not hold any more.
        self._gone_records = self._left_bytes = 0
        self._stuck_records = 0
        self._room = threading.Event()

    # On the consumer's thread.

    def reserve(self, records: int, size: int) -> None:
        """Make room for records, of this size in bytes, that are on their way. Consumer thread."""
        self._came_records += records
        self._came_bytes += size + records * RUN_BYTES

    @property
    def full(self) -> bool:
        """Whether polling should pause. Any thread."""
        return (
            self._came_records - self._gone_records - self._stuck_records >= MOST_RECORDS
            or self.held_bytes >= MOST_BYTES
        )

    @property
    def held_bytes(self) -> int:
        """Bytes of all records that the worker holds, wherever they are. Any thread."""
        return self._came_bytes - self._left_bytes

    def wait_for_room(self, seconds: float) -> bool:
        """Until it is no longer full; whether it is not. Consumer's thread."""
        if not self.full:
            return True
        self._room.clear()
        # Looked at again after the clearing: room that was made just before would otherwise go
        # unnoticed.
        return not self.full or self._room.wait(seconds)

    # On the control thread.

    def __len__(self) -> int:
        return self._came_records - self._gone_records

    def partitions_to_pause(self) -> frozenset[Partition]:
        """Partitions to pause, because too many of their records wait for a busy key."""
        hot = self._on_hold.union(self._waiting.full)
        # They cannot move on, so they must not take the room of those that can.
        self._stuck_records = sum(
            len(polled.runs) - polled.taken
            for partition in hot
            for polled in self._queues.get(partition, ())
        )
        return hot

    def open(self, partition: Partition, epoch: int) -> None:
        """Take records of this assignment of the partition, and of no other."""
        if partition in self._queues:
            self.drop({partition})
        self._queues[partition] = deque()
        self._epochs[partition] = epoch

    def is_open(self, partition: Partition) -> bool:
        """Whether records of the partition are taken: it is ours, and not about to go."""
        return partition in self._queues

    def hold(self, partitions: Set[Partition]) -> None:
        """Give out nothing more of these partitions until they are no longer named here."""
        if partitions != self._on_hold:
            self._on_hold = frozenset(partitions)
            self._turn_again(self._set_aside - partitions)

    def add(self, batch: Batch) -> None:
        """Queue what was polled; what belongs to another assignment is dropped."""
        if self._epochs.get(batch.partition) != batch.epoch:
            self._gone(len(batch.runs))
            self._forget(batch.runs)
            return
        queue = self._queues[batch.partition]
        if not queue:
            self._turns.append(batch.partition)
        queue.append(_Polled(batch))

    def drop(self, partitions: Set[Partition]) -> list[JobRun]:
        """Forget partitions; returns what of them waited in a key's lane."""
        for partition in partitions:
            queue = self._queues.pop(partition, None)
            if queue is not None:
                del self._epochs[partition]
                for polled in queue:
                    self._gone(len(polled.runs) - polled.taken)
                    self._forget(polled.runs[polled.taken :])
            self._waiting.forget(partition)
        self._turns = deque(partition for partition in self._turns if partition not in partitions)
        self._set_aside.difference_update(partitions)
        waiting = [
            run for lane in self._lanes.values() for run in lane if run.partition in partitions
        ]
        if waiting:
            for key, lane in self._lanes.items():
                self._lanes[key] = deque(run for run in lane if run.partition not in partitions)
        ready = [run for run in self._ready if run.partition in partitions]
        self._ready = deque(run for run in self._ready if run.partition not in partitions)
        for run in ready:  # each of them had its key
            self.leave_lane(run)
        self._turn_again(set(self._set_aside))  # what was dropped may have filled up the others
        return waiting + ready

    def next_queued(self, most: int) -> Queued | None:
        """At most so many records of the partition whose turn it is; None if nothing may be
        taken."""
        while self._turns:
            partition = self._turns.popleft()
            if partition in self._waiting.full or partition in self._on_hold:
                self._set_aside.add(partition)
                continue
            queue = self._queues[partition]
            polled = queue[0]
            runs = polled.runs[polled.taken : polled.taken + min(most, _AT_ONCE)]
            polled.taken += len(runs)
            if polled.taken < len(polled.runs):
                self._gone(len(runs))
                self._turns.append(partition)
                return Queued(partition, self._epochs[partition], runs, None)
            queue.popleft()
            if queue:
                self._turns.append(partition)
            self._gone(len(runs))
            return Queued(partition, self._epochs[partition], runs, polled.position)
        return None

    def take_ready(self, most: int) -> list[JobRun]:
        """Up to this many runs whose key has become free, oldest first."""
        return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    def enter_lane(self, run: JobRun) -> bool:
        """True if the run's key is free, and now its own; else the run waits here until
        `leave_lane` makes it ready."""
        if run.key is None:
            return True
        lane = self._lanes.get(run.key)
        if lane is None:
            self._lanes[run.key] = deque()
            return True
        lane.append(run)
        self._waiting.add(run.partition, run.size)
        return False

    def leave_lane(self, run: JobRun) -> None:
        """The run is done, or will not run: the next one with its key is ready."""
        if run.key is None:
            return
        lane = self._lanes.get(run.key)
        if not lane:
            self._lanes.pop(run.key, None)
            return
        following = lane.popleft()
        were_over = self._waiting.over
        self._waiting.remove(following.partition, following.size)
        if were_over and not self._waiting.over:
            self._turn_again(set(self._set_aside))
        elif following.partition in self._set_aside:
            self._turn_again({following.partition})
        self._ready.append(following)

    def _turn_again(self, partitions: Set[Partition]) -> None:
        """These were set aside: those that may give out records again have their turn, after the
        others."""
        free = [
            partition
            for partition in partitions
            if partition not in self._waiting.full and partition not in self._on_hold
        ]
        self._set_aside.difference_update(free)
        self._turns.extend(free)

    def grow(self, size: int) -> None:
        """What the worker holds has grown by this many bytes: a job has a result."""
        self._left_bytes -= size

    def leave(self, run: JobRun) -> None:
        """The worker no longer holds this run."""
        self._left_bytes += run.size + RUN_BYTES
        if not self._room.is_set() and not self.full:
            self._room.set()

    def _forget(self, runs: Sequence[JobRun]) -> None:
        for run in runs:
            self.leave(run)

    def _gone(self, records: int) -> None:
        self._gone_records += records
        if not self._room.is_set() and not self.full:
            self._room.set()
