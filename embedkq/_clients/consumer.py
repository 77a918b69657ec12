"""The only user of KafkaConsumer, with fixes for its shortcomings. Consumer thread, except
`close_after_fork`."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Protocol
from uuid import UUID

from kafka import TopicPartition
from kafka import errors as kafka_errors

from embedkq._clients import broker_errors
from embedkq._clients.consumer_options import SESSION_MILLISECONDS
from embedkq._clients.fork_safe_selector import ForkSafeSockets
from embedkq._clients.partitions import (
    commits_of,
    partition_of,
    partitions_of,
    place_of,
    places_of,
)
from embedkq._clients.private import (
    AsyncConsumerRebalanceListener,
    Consumer,
    CooperativeStickyAssignor,
)
from embedkq._clients.probe import LATE_SECONDS
from embedkq._formats.commit_metadata import TopicMark
from embedkq._formats.partition_progress import Committed, Log
from embedkq._formats.record_reader import Held
from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger
from embedkq.errors import WorkerFailed

logger = SafeLogger("embedkq.worker")

CONNECT_SECONDS = 10.0
_CONNECT_MARGIN_SECONDS = 0.5
TIMEOUT_SECONDS, TIMEOUT_MILLISECONDS = 5.0, 5_000
"""Time limit of one request."""
_FLOWING_MILLISECONDS, _BEHIND_MILLISECONDS = 100, 10
"""How long a broker waits for records of empty partitions: while records arrive, and while another
partition has more."""
CLOSE_SECONDS = 2.0
_FETCH_BYTES = 16 * 1024 * 1024


class Rebalanced(Protocol):
    """What a group's rebalance changes. Its methods are called on the client's I/O thread."""

    def add(self, partitions: frozenset[Partition]) -> None:
        """These were assigned."""

    async def give_up(self, kafka: Any, partitions: frozenset[Partition], lost: bool) -> None:
        """These are going away; if they are `lost`, another member has them already."""


class ConsumerClient:
    """A member of a consumer group. Connects and subscribes in the constructor; raises as
    `connect`.

    Args:
        assignment: learns of rebalances.
    """

    def __init__(
        self, hosts: str, topic: str, assignment: Rebalanced, options: Mapping[str, Any]
    ) -> None:
        self.hosts = hosts
        self.topic = topic
        self._all_flow = False
        self._longest_wait = int(
            options.get("fetch_max_wait_ms", Consumer.DEFAULT_CONFIG["fetch_max_wait_ms"])
        )
        self._sockets = ForkSafeSockets()
        self.kafka: Any = connect(hosts, options, self._sockets)
        # Subscribe first, and poll only once the topic is known. Joining earlier gives an empty
        # assignment until the next metadata refresh. Requesting the topic before the subscription
        # triggers a second rejoin.
        self.kafka.subscribe([topic], listener=_Listener(assignment, self.kafka))

    @property
    def member_id(self) -> str:
        """The member id in the group; empty before it has joined."""
        return str(self.kafka.group_metadata().member_id)

    def topic_is_known(self) -> bool:
        """Whether the topic is known, which is required before a poll. If not, requests metadata.
        Never blocks."""
        return bool(self.kafka.partitions_if_known(self.topic))

    def look_for_topic_again(self) -> None:
        """Refresh the topic's metadata, which may be out of date."""
        self.kafka.look_for_topics()

    def partitions_in(self, topic: TopicMark) -> list[Partition]:
        """All partitions of the topic, as found."""
        return [Partition(self.topic, number) for number in range(topic.partitions)]

    def poll(self, milliseconds: int) -> dict[Partition, list[Any]]:
        """Return records by partition as soon as there are any, or none after the timeout. Raises
        as KafkaConsumer.poll."""
        polled = {
            partition_of(place): records for place, records in self.kafka.poll(milliseconds).items()
        }
        self._bound_fetches(polled)
        return polled

    def _bound_fetches(self, polled: Iterable[Partition]) -> None:
        # A broker handles one fetch at a time, for the partitions of which kafka-python holds no
        # records. If the broker has none either, it waits, and a partition whose records are used
        # up meanwhile waits too. With four partitions, one of which had a backlog, that one was
        # idle for more than half of the time (KAFKA-17182 is the same fault in Apache's client).
        wait = (
            _BEHIND_MILLISECONDS
            if any(map(self._is_behind, polled))
            else _FLOWING_MILLISECONDS
            if polled
            else self._longest_wait
        )
        self.kafka.bound_fetches(min(wait, self._longest_wait))

    def _is_behind(self, partition: Partition) -> bool:
        position, end = self.position(partition), self.last_known_end(partition)
        return position is not None and end is not None and position < end

    def set_paused(self, unwanted: Collection[Partition] | None) -> None:
        """Pause these partitions (None: all) for the next polls, and resume the others. A rebalance
        ends a pause."""
        if self._all_flow and unwanted is not None and not unwanted:
            return
        assigned, paused = self.kafka.assignment(), self.kafka.paused()
        wanted = set(assigned) if unwanted is None else assigned & set(places_of(unwanted))
        self._all_flow = False
        try:
            self.kafka.pause(*(wanted - paused))
            self.kafka.resume(*((paused - wanted) & assigned))
            self._all_flow = not wanted
        except (kafka_errors.IllegalStateError, KeyError):
            pass  # the assignment changed meanwhile; the next call handles that

    def find_topic(self) -> TopicMark | None:
        """The present topic; None if it does not exist. Raises KafkaError."""
        return _mark_of(self.kafka.wait_for(self.look_for_topic(), TIMEOUT_MILLISECONDS))

    def look_for_topic(self) -> Any:
        """Like `find_topic`, without waiting. Returns a future; pass it to `found_topic` once it
        `is_done`."""
        return self.kafka.find_topic(self.topic)

    def found_topic(self, future: Any) -> TopicMark | None:
        """The result of `look_for_topic`; None if the topic does not exist, or without an
        answer."""
        return None if future.failed() else _mark_of(future.value)

    def committed(self, partitions: Iterable[Partition]) -> dict[Partition, Committed]:
        """The group's commits by partition. Partitions without a commit are missing. Raises
        KafkaError."""
        wanted = places_of(partitions)
        found = self.kafka.fetch_commits(wanted, TIMEOUT_MILLISECONDS) if wanted else {}
        return commits_of(found)

    def logs(self, partitions: Iterable[Partition], topic: TopicMark) -> dict[Partition, Log]:
        """The logs of partitions. Partitions without a leader are missing. Raises KafkaError."""
        wanted = self.kafka.with_leader(places_of(partitions))
        if not wanted:
            return {}
        firsts = self.kafka.beginning_offsets(wanted, timeout_ms=TIMEOUT_MILLISECONDS)
        ends = self.kafka.high_watermarks(wanted, TIMEOUT_MILLISECONDS)
        return {
            partition_of(place): Log(firsts[place], ends[place], topic)
            for place in wanted
            if place in firsts and place in ends
        }

    def seek_and_discard(self, partition: Partition, position: int) -> None:
        """Seek, and discard fetched records of the partition. Does nothing if it is no longer
        assigned."""
        try:
            self.kafka.seek_and_discard(place_of(partition), position)
        except kafka_errors.IllegalStateError:
            pass

    def was_out_of_range(self, partition: Partition) -> bool:
        """Whether the next offset was out of range, so that the client continued at the log's
        start."""
        return bool(self.kafka.was_out_of_range(place_of(partition)))

    def range_is_known(self, partition: Partition) -> None:
        """Clear the out-of-range flag, after the log's start was checked."""
        self.kafka.range_is_known(place_of(partition))

    def position(self, partition: Partition) -> int | None:
        """The next offset to fetch; None if it is unknown, or if the partition is not assigned."""
        position: int | None = self.kafka.position_and_end(place_of(partition))[0]
        return position

    def last_known_end(self, partition: Partition) -> int | None:
        """The offset behind the partition's last record at the last fetch; None before the first
        fetch."""
        end: int | None = self.kafka.position_and_end(place_of(partition))[1]
        return end

    def held(self) -> Mapping[Partition, Held]:
        """The held partitions and the reasons."""
        held: Mapping[Partition, Held] = self.kafka.held()
        return held

    def rewind_to(self, partition: Partition, records: list[Any] | None) -> None:
        """Seek back to the first of these records, which were polled too early or too late. The
        partition's owner polls them again."""
        if records:
            try:
                self.kafka.seek(place_of(partition), records[0].offset)
            except kafka_errors.IllegalStateError:
                pass  # no longer assigned
            records.clear()

    @property
    def paused(self) -> list[Partition]:
        """The paused partitions."""
        return [partition_of(place) for place in self.kafka.paused()]

    def end_offsets(
        self, partitions: Iterable[Partition], milliseconds: int = TIMEOUT_MILLISECONDS
    ) -> dict[Partition, int]:
        """The offsets behind the last records, by partition. Partitions without a leader are
        missing. Raises KafkaError."""
        wanted = self.kafka.with_leader(places_of(partitions))
        ends = self.kafka.end_offsets(wanted, timeout_ms=milliseconds) if wanted else {}
        return {partition_of(place): end for place, end in ends.items()}

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Leave the group, and wait up to `seconds` for the broker's answer. Never raises."""
        try:
            self.kafka.close(autocommit=False, timeout_ms=max(1, int(seconds * 1000)))
        except Exception as error:  # noqa: BLE001  (the client is being discarded)
            logger.debug("Closing the consumer: %r", error)

    def close_after_fork(self) -> None:
        """In a forked copy of the process, close the copies of the sockets. The client cannot be
        used there."""
        self._sockets.close_after_fork(self.kafka.descriptors_beside_selector())


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, assignment: Rebalanced, kafka: Any) -> None:
        self._assignment = assignment
        self._kafka = kafka

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._assignment.add(partitions_of(assigned))

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._assignment.give_up(self._kafka, partitions_of(revoked), lost=False)

    async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        await self._assignment.give_up(self._kafka, partitions_of(lost), lost=True)


def _mark_of(found: tuple[UUID, int] | None) -> TopicMark | None:
    return None if found is None else TopicMark.of(*found)


def connect(hosts: str, options: Mapping[str, Any], sockets: ForkSafeSockets) -> Any:
    """Create a connected consumer of kafka-python. Any thread; only one thread may use the consumer
    then.

    Args:
        options: all options; see `all_options`.

    Raises:
        BrokerUnavailable: no broker answered within 10 s.
        BrokerRefused: certificates or passwords are not accepted.
        WorkerFailed: a TLS file or an option of kafka-python is invalid.
    """
    deadline = time.monotonic() + CONNECT_SECONDS - _CONNECT_MARGIN_SECONDS - LATE_SECONDS

    def make() -> Any:
        limit = {"bootstrap_timeout_ms": int((deadline - time.monotonic()) * 1000)}
        return Consumer(**{**options, **limit}, selector=lambda: sockets)

    try:
        return broker_errors.connect(make, hosts, options, CONNECT_SECONDS)
    except ValueError as error:
        raise WorkerFailed(str(error)) from error


def all_options(
    *, hosts: str, group: str | None, job_size: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """All options for the KafkaConsumer. `options` are the user's."""
    return {
        "max_partition_fetch_bytes": max(1024 * 1024, job_size + 64 * 1024),
        # kafka-python's default of 50 MiB would arrive at once and be held in addition to the
        # worker's own limit.
        "fetch_max_bytes": max(_FETCH_BYTES, job_size + 64 * 1024),
        "partition_assignment_strategy": [CooperativeStickyAssignor],
        "metrics_enabled": False,
        # Otherwise kafka-python also returns jobs of aborted transactions.
        "isolation_level": "read_committed",
        "session_timeout_ms": SESSION_MILLISECONDS,
        # With kafka-python's default of 30 s, a returning broker would go unnoticed for that long.
        # kafka-python picks one of several hosts at random and waits until it may retry that host.
        # With long pauses it can miss the only working host until its time to connect is over.
        "reconnect_backoff_max_ms": 1_000,
        **options,
        "bootstrap_servers": hosts.split(","),
        "group_id": group,
        # If there is no committed offset, or it is out of range, any other value would skip jobs.
        # `LogWatch` decides where a partition really starts and restarts.
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
    }
