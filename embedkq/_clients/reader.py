"""Client: reads topics by offset and keeps a group's offsets, as a member of no group. One thread
at a time.

It never asks for a topic by name before it has seen it in the list of all: some brokers create what
they are asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from embedkq._clients.admin import is_hidden
from embedkq._clients.broker_errors import Asked, explaining, hidden
from embedkq._clients.consumer import TIMEOUT_MILLISECONDS, connect, options_of
from embedkq._clients.fork_safe_selector import ForkSafeSockets
from embedkq._formats.commit_metadata import UNKNOWN_TOPIC, TopicMark
from embedkq._formats.partition_progress import Committed, Log, PartitionProgress, progress_of
from embedkq.errors import BrokerUnavailable, EmbedkqError

STALLED_SECONDS = 10.0
"""How long a read may go on without a record before the broker counts as away."""
_POLL_MILLISECONDS = 500
_MOST_POLLED = 500
_MOST_IN_A_COMMIT = 64
"""Partitions with 4 KB of metadata each, which message.max.bytes (1 MB by default) bounds
together."""
_LARGEST_USUAL = 1_000_000


class TopicReader:
    """One connection. Connects when it is made.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        group: whose offsets are kept; None for a client that only reads.
        options: further options of kafka-python's KafkaConsumer.

    Raises:
        BrokerUnavailable: no broker answered within 10 s.
        BrokerRefused: certificates or passwords are not accepted.
        EmbedkqError: a TLS file does not hold what it should, or the broker refuses.
    """

    def __init__(self, hosts: str, group: str | None, options: Mapping[str, Any]) -> None:
        self.hosts = hosts
        self.group = group
        self._options = options
        # The development broker answers a waiting fetch only when its time is up.
        made = options_of(
            hosts=hosts,
            group=group,
            job_size=_LARGEST_USUAL,
            options={"fetch_max_wait_ms": 50, **options},
        )
        self._kafka = connect(hosts, made, ForkSafeSockets())

    def __enter__(self) -> TopicReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._kafka.close(autocommit=False)

    def logs(self, topic: str) -> dict[int, Log]:
        """What each partition of a topic holds now; empty where there is no such topic.

        Raises:
            BrokerRefused: this user may not see it.
            BrokerUnavailable, EmbedkqError: the broker does not answer, or refuses.
        """
        asked = Asked(self.hosts, "DESCRIBE", topic)
        with explaining(asked):
            if topic not in self._kafka.topics():
                if is_hidden(self.hosts, topic, self._options):
                    raise hidden(asked)
                return {}
            partitions = [
                TopicPartition(topic, number)
                for number in sorted(self._kafka.partitions_for_topic(topic) or ())
            ]
            firsts = self._kafka.beginning_offsets(partitions, timeout_ms=TIMEOUT_MILLISECONDS)
            lasts = self._kafka.end_offsets(partitions, timeout_ms=TIMEOUT_MILLISECONDS)
            found = self._kafka.wait_for(self._kafka.find_topic(topic), TIMEOUT_MILLISECONDS)
        mark = UNKNOWN_TOPIC if found is None else TopicMark.of(*found)
        return {place.partition: Log(firsts[place], lasts[place], mark) for place in partitions}

    def read(self, topic: str, partition: int, first: int, last: int) -> Iterator[Any]:
        """The records from one offset to before another that are still kept, oldest first.

        They come as they arrive: no more than some 500 are held. Read nothing else with this client
        before the end.

        Raises:
            BrokerUnavailable: nothing came for 10 s.
            BrokerRefused, EmbedkqError: the broker refuses.
        """
        place = TopicPartition(topic, partition)
        position = first
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
                # It passes holes and what retention has deleted, where no record comes.
                moved = self._kafka.position(place, timeout_ms=TIMEOUT_MILLISECONDS)
                if records or moved > position:
                    deadline = time.monotonic() + STALLED_SECONDS
                elif held := self._kafka.held().get(partition):
                    raise EmbedkqError(
                        f"the records of partition {partition} of {topic!r} from offset"
                        f" {held.offset} on {held.reason}"
                    )
                elif time.monotonic() > deadline:
                    raise BrokerUnavailable(
                        self.hosts, f"no record of topic {topic!r} for {STALLED_SECONDS:g} s"
                    )
                position = moved

    def progress(self, topic: str, logs: Mapping[int, Log]) -> dict[int, PartitionProgress]:
        """How far the group is in these logs, by partition; those of which it has committed nothing
        are missing. Raises as `commit`."""
        with explaining(Asked(self.hosts, "DESCRIBE", topic, self.group)):
            found = self._kafka.committed_of(
                [TopicPartition(topic, number) for number in logs], TIMEOUT_MILLISECONDS
            )
            committed = {
                tp.partition: Committed(known.offset, known.metadata or "")
                for tp, known in found.items()
                if known.offset >= 0
            }
            beyond = [
                TopicPartition(topic, number)
                for number, known in committed.items()
                if known.offset > logs[number].end
            ]
            # What came after the logs were looked at may be done, too.
            ends = self._kafka.high_watermarks(beyond, TIMEOUT_MILLISECONDS) if beyond else {}
        now = {
            number: Log(log.first, ends.get(TopicPartition(topic, number), log.end), log.topic)
            for number, log in logs.items()
        }
        told = {number: progress_of(known, now[number]) for number, known in committed.items()}
        return {number: progress for number, progress in told.items() if progress is not None}

    def offsets_at(self, topic: str, partitions: Iterable[int], time: int) -> dict[int, int]:
        """Offset of the first record of this time (Unix milliseconds) or later, by partition; left
        out where there is none."""
        wanted = {TopicPartition(topic, number): time for number in partitions}
        with explaining(Asked(self.hosts, "DESCRIBE", topic)):
            found = self._kafka.offsets_for_times(wanted, timeout_ms=TIMEOUT_MILLISECONDS)
        return {
            place.partition: at.offset
            for place, at in found.items()
            if at is not None and at.offset >= 0
        }

    def commit(self, topic: str, offsets: Mapping[int, Committed]) -> None:
        """Commit offset and metadata by partition, whatever is committed there now.

        Raises:
            EmbedkqError: the group has members, or metadata of that size is not taken.
            BrokerRefused: this user may not.
            BrokerUnavailable: the broker does not answer.
        """
        told = [
            (TopicPartition(topic, number), OffsetAndMetadata(*offset, -1))
            for number, offset in offsets.items()
        ]
        with explaining(Asked(self.hosts, "READ", topic, self.group)):
            try:
                for first in range(0, len(told), _MOST_IN_A_COMMIT):
                    self._kafka.commit(
                        dict(told[first : first + _MOST_IN_A_COMMIT]),
                        timeout_ms=TIMEOUT_MILLISECONDS,
                    )
            except (kafka_errors.CommitFailedError, kafka_errors.RebalanceInProgressError) as error:
                raise EmbedkqError(
                    f"group {self.group!r} has members, and its offsets are changed from outside"
                    " only without any: stop the workers that use this group (`kq info"
                    f" --group={self.group}` shows them)"
                ) from error
            except (
                kafka_errors.OffsetMetadataTooLargeError,
                kafka_errors.InvalidCommitOffsetSizeError,
            ) as error:
                raise EmbedkqError(
                    f"the broker at {self.hosts} takes less commit metadata than 4096 bytes: raise"
                    " its offset.metadata.max.bytes, or deal with the oldest letters first"
                ) from error
