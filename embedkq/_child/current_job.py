"""`current_job()`: what a job can know of itself, in the child that runs it.

A child runs one job at a time, so this is a variable of the process, not of a thread or a context:
threads that the job starts see it too, and so does what runs in an event loop. A process that the
job forks keeps it. Jobs of an eager queue run in their caller's process, where several threads may
run one each: there it is a variable of the context.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

JOB_HEADER = struct.Struct("=BQQIiqdHHiI")
"""The head of a job on its way to a child: the flags, the job's number, the length of its payload;
then which attempt it is, partition, offset, the limit in seconds (or `NO_LIMIT`, `OWN_LIMIT`); then
the lengths of id, topic and key (or `NO_KEY`), and of these three together with the headers (as
JSON). They follow in this order. The payload comes last."""
NO_LIMIT, OWN_LIMIT = 0.0, -1.0
"""`OWN_LIMIT`: the one that a payload of KQ has."""
NO_KEY = -1
NO_RECORD = (0, 0, 0, NO_LIMIT, 0, 0, NO_KEY, 0)
"""The fields behind the payload's length, of a call that is in no record."""


class CurrentJob(NamedTuple):
    """The job that this process runs.

    Attributes:
        id: UUID as a string.
        attempt: 1 the first time that the job runs, 2 for its first retry. Attempts in other
            workers count.
        topic, partition, offset: the place of its record in Kafka. A job of an eager queue has no
            record: partition and offset are -1.
        key: the record's key in bytes, or None.
        deadline: when its limit ends this process, with a time zone (UTC); None if it has no limit,
            or its queue is eager.
        headers: those that it was enqueued with; empty if there are none.
    """

    id: str
    attempt: int
    topic: str
    partition: int
    offset: int
    key: bytes | None
    deadline: datetime | None
    headers: Mapping[str, str]


Call = tuple[tuple[Any, ...], memoryview, int, int, Any]
"""A call that runs. Nothing is read of it before somebody asks: the fields of `JOB_HEADER`; bytes
with id, topic, key and headers; where in them these begin; `time.monotonic_ns()` at which the call
began; and the job of KQ that the payload is, which has id and limit there, or None."""

running: Call | CurrentJob | None = None
"""Set by `Runner`."""
here: ContextVar[CurrentJob] = ContextVar("embedkq_current_job")
"""The job that an eager queue runs in this context."""


def current_job() -> CurrentJob:
    """The job that is running: its id, attempt, place, key, deadline and headers.

    Any thread of the child process, as long as the job runs. A thread that outlives its job sees
    the one that runs then: let the job pass on what it needs.

    Raises:
        RuntimeError: no job runs in this process.
    """
    global running
    seen = running
    if seen is None and (eager := here.get(None)) is not None:
        return eager
    if seen is None:
        raise RuntimeError(
            "current_job() works inside a job only, in the child process that runs it, and no job"
            " runs in this process. A callback has its argument `job`; a function that is called"
            " from elsewhere, too, can take what it needs as an argument"
        )
    if isinstance(seen, CurrentJob):
        return seen
    found = _read(seen)
    if running is seen:  # else the job has ended meanwhile
        running = found
    return found


def _read(call: Call) -> CurrentJob:
    head, jobs, place, started, of_kq = call
    attempt, partition, offset, limit, of_id, of_topic, of_key, of_all = head[3:]
    names = bytes(jobs[place : place + of_all])
    topic = of_id + of_topic
    key = topic + max(0, of_key)
    if limit == OWN_LIMIT:
        limit = of_kq.timeout
    return CurrentJob(
        of_kq.id if of_kq else names[:of_id].decode(),
        attempt,
        names[of_id:topic].decode(),
        partition,
        offset,
        None if of_key == NO_KEY else names[topic:key],
        _deadline(started, limit),
        _headers_in(names[key:]),
    )


def _headers_in(content: bytes) -> Mapping[str, str]:
    if not content:
        return {}
    import json  # here, because most jobs have no headers

    headers: Mapping[str, str] = json.loads(content)
    return headers


def _deadline(started: int, limit: float | None) -> datetime | None:
    if not limit:
        return None
    from embedkq.job import moment

    return moment(time.time() - time.monotonic() + started / 1e9 + limit)
