"""What the topic holds at one moment, and how much of that the group has committed as done: read
before the topic ends, and at the end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from kafka import KafkaAdminClient
from support import committed, end_offsets, with_admin

from embedkq._clients.reader import TopicReader
from embedkq._formats import commit_metadata
from embedkq._formats.commit_metadata import UNKNOWN_TOPIC, TopicMark
from embedkq._formats.headers import read_headers
from embedkq.errors import DecodeError


class Record(NamedTuple):
    """Where a job lies, and whether the group had committed it as done when the topic was read."""

    partition: int
    offset: int
    done: bool


class Life(NamedTuple):
    """One life of the topic, from its creation until it was deleted or the broker was wiped.

    Attributes:
        records: all records of each job, by the job's number.
        end: `time.monotonic()` at which the topic's end began; infinity for the last life.
    """

    records: Mapping[int, list[Record]]
    end: float = math.inf


def read_life(hosts: str, group: str, topic: str, number_of: Callable[[str], int | None]) -> Life:
    """Read the whole topic.

    Args:
        number_of: finds a job's number by its id.
    """
    mark = topic_mark(hosts, topic)
    records: dict[int, list[Record]] = {}
    known = {
        number: commit
        for number, commit in committed(hosts, group, topic).items()
        if is_of(mark, *commit)
    }
    with TopicReader(hosts, None, {}) as client:
        for partition, log in client.logs(topic).items():
            is_done = _done_test(*known.get(partition.number, (0, "")))
            for record in client.read(partition, log.first, log.end):
                number = _number(record, number_of)
                if number is not None:
                    records.setdefault(number, []).append(
                        Record(partition.number, record.offset, is_done(record.offset))
                    )
    return Life(records)


def is_all_done(hosts: str, group: str, topic: str) -> bool:
    """Whether the group has committed the end of each partition, as an offset of this topic and not
    of one deleted before."""
    mark = topic_mark(hosts, topic)
    known = {
        number: offset
        for number, (offset, text) in committed(hosts, group, topic).items()
        if is_of(mark, offset, text)
    }
    return all(
        known.get(partition, 0) == end for partition, end in end_offsets(hosts, topic).items()
    )


def is_of(mark: TopicMark, offset: int, metadata: str) -> bool:
    """Whether a commit may have been made for this topic."""
    return not mark.is_another_than(commit_metadata.read_topic(offset, metadata))


def topic_mark(hosts: str, topic: str) -> TopicMark:
    """The topic as it is now; the unknown one where there is none."""
    return with_admin(hosts, lambda admin: mark_of(admin, topic))  # type: ignore[no-any-return]


def mark_of(admin: KafkaAdminClient, topic: str) -> TopicMark:
    """The same, asked by an admin client that is there."""
    found = admin.describe_topics([topic])[0]
    if found["error_code"] or not found["partitions"]:
        return UNKNOWN_TOPIC
    return TopicMark.of(UUID(found["topic_id"]), len(found["partitions"]))


def _done_test(offset: int, metadata: str) -> Callable[[int], bool]:
    runs: Any = ()
    with contextlib.suppress(ValueError):
        runs = commit_metadata.decode(offset, metadata)[0]
    return lambda wanted: wanted < offset or any(first <= wanted < last for first, last in runs)


def _number(record: Any, number_of: Callable[[str], int | None]) -> int | None:
    """The number of the job in a record; None for a record of a stranger."""
    try:
        return number_of(read_headers(record.headers).id)
    except DecodeError:
        return None


def records_of(lives: list[Life], number: int) -> Iterator[tuple[Life, Record]]:
    """Each record of a job, with the life in which it lay."""
    for life in lives:
        for record in life.records.get(number, ()):
            yield life, record
