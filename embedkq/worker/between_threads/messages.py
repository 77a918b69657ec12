"""The messages between the worker's threads. Immutable, unless a line says which thread writes
what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from embedkq._child.current_job import JOB_HEADER, NO_KEY, NO_LIMIT, OWN_LIMIT
from embedkq._child.runner import JOB
from embedkq._formats.commit_metadata import UNKNOWN_TOPIC, TopicMark
from embedkq._formats.outcome import Outcome
from embedkq._partition import Partition
from embedkq.worker.between_threads.job_state import JobState
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.between_threads.task import Task

_MOST_ATTEMPTS = 2**32 - 2
"""Counts come from commits, which anybody may have written."""


class Record(Protocol):
    """What the worker uses of a Kafka client's record, which is a `FetchedRecord`."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    timestamp: int
    flaw: str | None


class JobRun(Task):
    """A record that was polled, until it is done.

    Made on the consumer thread, where the record is still at hand; from the batch on that carries
    it, the control thread's.

    Attributes:
        retries, backoff: how often it may run again, and seconds before the first time, if its
            record says so.
        headers: those that the job was enqueued with; None if there are none.
        attempts: how often it has failed, timed out or crashed, in other hosts too.
        life: of the partition's log; an offset is the same record only within one.
        death: why it goes to the dead-letter topic, once its callback has returned; None if it does
            not.
        record: as it was polled.
        refusal: why the record may not run; None if it may.
        state: where it is; moved by `control_thread/jobs.py` only.
        unloadable: a child of this worker could not unpickle it.
        unread: it took hosts down, or no child could unpickle it: nothing of it may be unpickled
            here.
        timeout: the job's own limit; `limit` is the one that counts.
    """

    __slots__ = (
        "attempts",
        "backoff",
        "death",
        "epoch",
        "headers",
        "key",
        "life",
        "offset",
        "partition",
        "record",
        "refusal",
        "retries",
        "size",
        "state",
        "timeout",
        "timestamp",
        "unloadable",
        "unread",
    )

    has_own_limit = False
    """The limit that counts is in the payload."""

    def __init__(self, partition: Partition, epoch: int, record: Record) -> None:
        super().__init__("", record.value or b"")
        self.headers: Mapping[str, str] | None = None
        self.partition = partition
        self.offset = record.offset
        self.epoch = epoch
        self.life = 0
        self.key = record.key
        self.size = len(self.payload) + len(self.key or b"")
        self.timestamp = 0
        self.timeout: float | None = None
        self.record = record
        self.attempts = 0
        self.retries: int | None = None
        self.backoff: float | None = None
        self.refusal: Exception | None = None
        self.unloadable = False
        self.unread = False
        self.death: Death | None = None
        self.state = JobState.QUEUED

    @property
    def place(self) -> tuple[Partition, int, int]:
        """What no other record has: partition, life of its log, offset."""
        return self.partition, self.life, self.offset

    def parts(self) -> tuple[bytes, bytes]:
        """What goes down the child's channel: also what the job can know of itself."""
        return self._with_head(self.payload)

    def _with_head(self, payload: bytes) -> tuple[bytes, bytes]:
        key = self.key
        job_id, attempts = self.job_id.encode(), self.attempts
        topic = self.partition.topic.encode()
        names = job_id + topic if key is None else job_id + topic + key
        if self.headers:
            names += json.dumps(self.headers).encode()
        limit = OWN_LIMIT if self.has_own_limit else self.limit or NO_LIMIT
        head = JOB_HEADER.pack(
            JOB | self.announce | self.form,
            self.number,
            len(payload),
            1 + (attempts if attempts < _MOST_ATTEMPTS else _MOST_ATTEMPTS),
            self.partition.number,
            self.offset,
            limit,
            len(job_id),
            len(topic),
            NO_KEY if key is None else len(key),
            len(names),
        )
        return head + names, payload

    def forget_payload(self) -> None:
        """Keep nothing but the record's place: it will not run here, nor be written elsewhere."""
        self.key, self.payload, self.size, self.record = None, b"", 0, _Forgotten(self.offset)


@dataclass
class _Forgotten:
    """What is left of a record whose content is no longer needed."""

    offset: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp: int = 0
    flaw: str | None = None


class Death(NamedTuple):
    """What a record died of.

    Attributes:
        reason: one of `deadletters.REASONS`.
        exception: "type: message"; empty for none.
        traceback: formatted; empty for none.
        retries, backoff: how often it may run again, and seconds before the first time, if its
            record says so.
        attempts: how often the job was begun.
    """

    reason: str
    exception: str
    traceback: str
    attempts: int


class Finished(NamedTuple):
    """Control thread to owner: a job's end, whose callback is due."""

    run: JobRun
    outcome: Outcome


class Batch(NamedTuple):
    """Consumer thread to control thread: records of one partition, in order, their bytes, and the
    consumer's position after them."""

    partition: Partition
    epoch: int
    runs: Sequence[JobRun]
    size: int
    position: int


class Assigned(NamedTuple):
    """Consumer thread to control thread: a partition is ours from `start` on; `metadata` came with
    the committed offset.

    `life` counts how often its log has restarted since this worker began; `topic` is which topic
    of that name these are offsets of.
    """

    partition: Partition
    epoch: int
    start: int
    metadata: str
    topic: TopicMark = UNKNOWN_TOPIC
    life: int = 0


@dataclass(eq=False)
class Revoked:
    """Client's I/O thread to control thread: these partitions are going away.

    Attributes:
        partitions: which.
        lost: they are another's already, or their log restarts: nothing of them may be
            committed. What is waited for as `DrainTarget` is requested again.
        settled: set by the control thread once all that runs of them is done.
        snapshot: set before that, what to commit.
    """

    partitions: frozenset[Partition]
    lost: bool
    settled: bool = False
    snapshot: Mapping[Partition, Progress] = field(default_factory=dict)


class Released(NamedTuple):
    """Client's I/O thread to control thread: the partitions of a `Revoked` are gone, whether all
    of them was done or not."""

    partitions: frozenset[Partition]


class CallbacksDone(NamedTuple):
    """Owner to control thread: these jobs' callbacks have returned."""

    runs: list[JobRun]


class DeadLettersWritten(NamedTuple):
    """Writer of dead letters to control thread: all replicas of the dead-letter topic have these
    records."""

    runs: list[JobRun]


class DrainTarget(NamedTuple):
    """Consumer thread to control thread: what `drain` or `burst` waits for, as end offsets by
    partition."""

    request: Any
    ends: Mapping[Partition, int]


class ConsumerFailed(NamedTuple):
    """Consumer thread to control thread: it cannot continue."""

    error: BaseException


Message = (
    Batch
    | Assigned
    | Revoked
    | Released
    | CallbacksDone
    | DeadLettersWritten
    | DrainTarget
    | ConsumerFailed
)
