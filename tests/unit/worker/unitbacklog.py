"""A backlog and its two threads, for tests of it."""

from __future__ import annotations

from collections.abc import Iterable

from partitions import P0
from unitjobs import batch_of, run_at

from embedkq._partition import Partition
from embedkq.worker.between_threads.backlog import Backlog
from embedkq.worker.between_threads.messages import JobRun

PLENTY = 10_000


def backlog_of(*partitions: Partition) -> Backlog:
    made = Backlog()
    for partition in partitions:
        made.open(partition, 1)
    return made


def poll(
    backlog: Backlog, partition: Partition, offsets: Iterable[int], size: int = 0
) -> list[JobRun]:
    """As the consumer's thread does: announce the records, then leave them for the other thread."""
    batch = batch_of([run_at(offset, partition, size=size) for offset in offsets], partition)
    backlog.reserve(len(batch.runs), batch.size)
    backlog.add(batch)
    return list(batch.runs)


def turns(backlog: Backlog, most: int = PLENTY) -> list[tuple[Partition, list[int], int | None]]:
    """All that is given out: whose turn, which offsets, which position."""
    found = []
    while (queued := backlog.next_queued(most)) is not None:
        found.append((queued.partition, [run.offset for run in queued.runs], queued.position))
    return found


def busy_lane(backlog: Backlog, key: bytes = b"k", partition: Partition = P0) -> JobRun:
    """A job that has the key."""
    run = run_at(900, partition, key=key)
    assert backlog.enter_lane(run)
    return run
