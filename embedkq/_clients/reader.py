"""Reads topics by offset, and reads and commits a group's offsets without joining the group. One
thread at a time.

It requests a topic by name only after it has seen the topic in the list of all topics, because some
brokers create requested topics.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kafka import errors as kafka_errors

from embedkq._clients.admin import is_hidden
from embedkq._clients.broker_errors import Asked, explaining, hidden
from embedkq._clients.consumer import TIMEOUT_MILLISECONDS, all_options, connect
from embedkq._clients.fork_safe_selector import ForkSafeSockets
from embedkq._clients.partitions import (
    commits_of,
    offsets_of,
    partition_of,
    place_of,
    places_of,
)
from embedkq._formats.commit_metadata import UNKNOWN_TOPIC, TopicMark
from embedkq._formats.partition_progress import Committed, Log, PartitionProgress, read_progress
from embedkq._partition import Partition
from embedkq.errors import BrokerUnavailable, EmbedkqError

STALLED_SECONDS = 10.0
"""How long a read waits for a record before the broker counts as unavailable."""
_POLL_MILLISECONDS = 500
_MOST_POLLED = 500
_MOST_IN_A_COMMIT = 64
"""Maximum number of partitions in a commit. With 4 KB of metadata each, they must fit into
message.max.bytes (1 MB by default)."""
_LARGEST_USUAL = 1_000_000


class TopicReader:
    """A connection. Connects in the constructor.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        group: the group whose offsets are read and committed; None for a client that only reads
            records.
        options: further options of kafka-python's KafkaConsumer.

    Raises:
        BrokerUnavailable: no broker answered within 10 s.
        BrokerRefused: the broker does not accept the certificates or passwords.
        EmbedkqError: a TLS file is invalid, or the broker refuses.
    """

    def __init__(self, hosts: str, group: str | None, options: Mapping[str, Any]) -> None:
        self.hosts = hosts
        self.group = group
        self._options = options
        # The development broker answers a waiting fetch only at the end of its wait time.
        made = all_options(
            hosts=hosts,
            group=group,
            job_size=_LARGEST_USUAL,
            options={"fetch_max_wait_ms": 50, **options},
        )
        self._kafka = connect(hosts, made, ForkSafeSockets())

    def __enter__(self) -> TopicReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._kafka.close(autocommit=False)

    def logs(self, topic: str) -> dict[Partition, Log]:
        """The log of each partition of a topic; empty if the topic does not exist.

        Raises:
            BrokerRefused: the user may not see the topic.
            BrokerUnavailable, EmbedkqError: the broker does not answer, or refuses.
        """
        asked = Asked(self.hosts, "DESCRIBE", topic)
        with explaining(asked):
            if topic not in self._kafka.topics():
                if is_hidden(self.hosts, topic, self._options):
                    raise hidden(asked)
                return {}
            numbers = sorted(self._kafka.partitions_for_topic(topic) or ())
            places = places_of(Partition(topic, number) for number in numbers)
            firsts = self._kafka.beginning_offsets(places, timeout_ms=TIMEOUT_MILLISECONDS)
            lasts = self._kafka.end_offsets(places, timeout_ms=TIMEOUT_MILLISECONDS)
            found = self._kafka.wait_for(self._kafka.find_topic(topic), TIMEOUT_MILLISECONDS)
        mark = UNKNOWN_TOPIC if found is None else TopicMark.of(*found)
        return {partition_of(place): Log(firsts[place], lasts[place], mark) for place in places}

    def read(self, partition: Partition, first: int, last: int) -> Iterator[Any]:
        """Yield the records from offset `first` to before `last` that Kafka still keeps, oldest
        first.

        Records are yielded as they arrive; about 500 are in memory at most. Do not use this client
        for anything else before the end.

        Raises:
            BrokerUnavailable: no record arrived for 10 s.
            BrokerRefused, EmbedkqError: the broker refuses.
        """
        topic, place, position = partition.topic, place_of(partition), first
        with explaining(Asked(self.hosts, "READ", topic)):
            self._kafka.assign([place])
            self._kafka.seek(place, first)
            deadline = time.monotonic() + STALLED_SECONDS
            while position < last:
                records = self._kafka.poll(_POLL_MILLISECONDS, max_records=_MOST_POLLED).get(
                    place, ()
                )
                for record in records:
                    if first <= record.offset < last:
                        yield record
                # The position also moves over gaps and deleted records.
                moved = self._kafka.position(place, timeout_ms=TIMEOUT_MILLISECONDS)
                if records or moved > position:
                    deadline = time.monotonic() + STALLED_SECONDS
                elif held := self._kafka.held().get(partition):
                    raise EmbedkqError(
                        f"the records of partition {partition.number} of {topic!r} from offset"
                        f" {held.offset} on {held.reason}"
                    )
                elif time.monotonic() > deadline:
                    raise BrokerUnavailable(
                        self.hosts, f"no record of topic {topic!r} for {STALLED_SECONDS:g} s"
                    )
                position = moved

    def progress(self, logs: Mapping[Partition, Log]) -> dict[Partition, PartitionProgress]:
        """The group's progress in these logs, by partition. Partitions without a commit are
        missing. Raises as `commit`."""
        with explaining(Asked(self.hosts, "DESCRIBE", _topic_of(logs), self.group)):
            found = self._kafka.fetch_commits(places_of(logs), TIMEOUT_MILLISECONDS)
            committed = commits_of(found)
            beyond = places_of(
                partition
                for partition, known in committed.items()
                if known.offset > logs[partition].end
            )
            # Records that arrived after the logs were read may be done too.
            ends = self._kafka.high_watermarks(beyond, TIMEOUT_MILLISECONDS) if beyond else {}
        now = {
            partition: Log(log.first, ends.get(place_of(partition), log.end), log.topic)
            for partition, log in logs.items()
        }
        all_progress = {
            partition: read_progress(known, now[partition])
            for partition, known in committed.items()
        }
        return {
            partition: progress
            for partition, progress in all_progress.items()
            if progress is not None
        }

    def offsets_at(self, partitions: Collection[Partition], time: int) -> dict[Partition, int]:
        """The offset of the first record at this time (Unix milliseconds) or later, by partition.
        Partitions without such a record are missing."""
        wanted = dict.fromkeys(places_of(partitions), time)
        with explaining(Asked(self.hosts, "DESCRIBE", _topic_of(partitions))):
            found = self._kafka.offsets_for_times(wanted, timeout_ms=TIMEOUT_MILLISECONDS)
        return {
            partition_of(place): at.offset
            for place, at in found.items()
            if at is not None and at.offset >= 0
        }

    def commit(self, commits: Mapping[Partition, Committed]) -> None:
        """Commit offsets and metadata by partition, regardless of the present commits.

        Raises:
            EmbedkqError: the group has members, or the broker does not accept metadata of this
                size.
            BrokerRefused: the user lacks a right.
            BrokerUnavailable: the broker does not answer.
        """
        offsets = list(offsets_of(commits).items())
        with explaining(Asked(self.hosts, "READ", _topic_of(commits), self.group)):
            try:
                for first in range(0, len(offsets), _MOST_IN_A_COMMIT):
                    self._kafka.commit(
                        dict(offsets[first : first + _MOST_IN_A_COMMIT]),
                        timeout_ms=TIMEOUT_MILLISECONDS,
                    )
            except (kafka_errors.CommitFailedError, kafka_errors.RebalanceInProgressError) as error:
                raise EmbedkqError(
                    f"group {self.group!r} has members, and its offsets can only be changed while"
                    " it has none: stop the workers that use this group (`kq info"
                    f" --group={self.group}` shows them)"
                ) from error
            except (
                kafka_errors.OffsetMetadataTooLargeError,
                kafka_errors.InvalidCommitOffsetSizeError,
            ) as error:
                raise EmbedkqError(
                    f"the broker at {self.hosts} accepts less than 4096 bytes of commit metadata:"
                    " raise its offset.metadata.max.bytes, or resolve the oldest letters first"
                ) from error


def _topic_of(partitions: Collection[Partition]) -> str | None:
    """The topic that a refusal of these partitions is about: they are of one."""
    return next((partition.topic for partition in partitions), None)
