"""Client: the only KafkaConsumer, with what it leaves to be wished for made up for. Consumer's
thread, but for `close_after_fork`."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from uuid import UUID

from kafka import TopicPartition
from kafka import errors as kafka_errors

from embedkq._clients import broker_errors
from embedkq._clients.consumer_options import SESSION_MILLISECONDS
from embedkq._clients.fork_safe_selector import ForkSafeSockets
from embedkq._clients.private import Consumer, CooperativeStickyAssignor
from embedkq._clients.probe import LATE_SECONDS
from embedkq._formats.commit_metadata import TopicMark
from embedkq._formats.partition_progress import Committed, Log
from embedkq._formats.record_reader import Held
from embedkq._safe_logging import SafeLogger
from embedkq.errors import WorkerFailed

logger = SafeLogger("embedkq.worker")

CONNECT_SECONDS = 10.0
_CONNECT_MARGIN_SECONDS = 0.5
TIMEOUT_SECONDS, TIMEOUT_MILLISECONDS = 5.0, 5_000
"""Limit of one request."""
_FLOWING_MILLISECONDS, _BEHIND_MILLISECONDS = 100, 10
"""For so long a broker waits for records of partitions that have none: while records come, and
while one of the others has more."""
CLOSE_SECONDS = 2.0
_FETCH_BYTES = 16 * 1024 * 1024


class ConsumerClient:
    """One member of a consumer group. Made, it has connected and subscribed; raises as `connect`
    does."""

    def __init__(
        self, hosts: str, topic: str, make_listener: Any, options: Mapping[str, Any]
    ) -> None:
        self.hosts = hosts
        self.topic = topic
        self._all_flow = False
        self._longest_wait = int(
            options.get("fetch_max_wait_ms", Consumer.DEFAULT_CONFIG["fetch_max_wait_ms"])
        )
        self._sockets = ForkSafeSockets()
        self.kafka: Any = connect(hosts, options, self._sockets)
        # In this order, and the topic known before the first poll: joining before gives an empty
        # assignment until the next refresh of the metadata, and asking before subscribing sets off
        # a second rejoin.
        self.kafka.subscribe([topic], listener=make_listener(self.kafka))

    @property
    def member_id(self) -> str:
        """What the group knows it by; empty before it has joined."""
        return str(self.kafka.group_metadata().member_id)

    def topic_is_known(self) -> bool:
        """Whether the topic is there, which has to be so before a poll; looks again if it is not,
        and never waits."""
        return bool(self.kafka.partitions_if_known(self.topic))

    def look_for_topic_again(self) -> None:
        """What is known of the topic may be out of date: have `topic_is_known` learn better
        soon."""
        self.kafka.look_for_topics()

    def poll(self, milliseconds: int) -> dict[int, list[Any]]:
        """Records by partition, as soon as there are any, or none after so long. Raises as
        KafkaConsumer's does."""
        polled = {tp.partition: records for tp, records in self.kafka.poll(milliseconds).items()}
        self._bound_fetches(polled)
        return polled

    def _bound_fetches(self, polled: Iterable[int]) -> None:
        # A broker has one fetch of ours at a time, for those partitions of which kafka-python holds
        # no records. Where it has none of them either, it waits for some, and a partition whose
        # records are used up meanwhile waits with it: of four, one of which had a backlog, that one
        # stood still for half of the time and more (KAFKA-17182 is the same in Apache's own
        # client).
        wait = (
            _BEHIND_MILLISECONDS
            if any(map(self._is_behind, polled))
            else _FLOWING_MILLISECONDS
            if polled
            else self._longest_wait
        )
        self.kafka.bound_fetches(min(wait, self._longest_wait))

    def _is_behind(self, partition: int) -> bool:
        position, end = self.position(partition), self.last_known_end(partition)
        return position is not None and end is not None and position < end

    def set_paused(self, unwanted: Collection[int] | None) -> None:
        """Have the next polls fetch all partitions but these (None: nothing at all). A pause does
        not survive a rebalance."""
        if self._all_flow and unwanted is not None and not unwanted:
            return
        assigned, paused = self.kafka.assignment(), self.kafka.paused()
        wanted = (
            set(assigned)
            if unwanted is None
            else {tp for tp in assigned if tp.partition in unwanted}
        )
        self._all_flow = False
        try:
            self.kafka.pause(*(wanted - paused))
            self.kafka.resume(*((paused - wanted) & assigned))
            self._all_flow = not wanted
        except (kafka_errors.IllegalStateError, KeyError):
            pass  # the assignment changed meanwhile; the next call sees it

    def find_topic(self) -> TopicMark | None:
        """The topic as it is now; None if there is none. Raises KafkaError."""
        return _mark_of(self.kafka.wait_for(self.look_for_topic(), TIMEOUT_MILLISECONDS))

    def look_for_topic(self) -> Any:
        """The same without waiting: a future for `found_topic`, once it `is_done`."""
        return self.kafka.find_topic(self.topic)

    def found_topic(self, future: Any) -> TopicMark | None:
        """The topic that was looked for; None if there was none, or no answer."""
        return None if future.failed() else _mark_of(future.value)

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed]:
        """What the group has committed, by partition; those without are missing. Raises
        KafkaError."""
        wanted = [TopicPartition(self.topic, number) for number in partitions]
        found = self.kafka.committed_of(wanted, TIMEOUT_MILLISECONDS) if wanted else {}
        return {
            place.partition: Committed(known.offset, known.metadata or "")
            for place, known in found.items()
            if known.offset >= 0
        }

    def logs(self, partitions: Iterable[int], topic: TopicMark) -> dict[int, Log]:
        """What Kafka tells of partitions of this topic; those without a leader are missing. Raises
        KafkaError."""
        wanted = self.kafka.with_leader(
            [TopicPartition(self.topic, number) for number in partitions]
        )
        if not wanted:
            return {}
        firsts = self.kafka.beginning_offsets(wanted, timeout_ms=TIMEOUT_MILLISECONDS)
        ends = self.kafka.high_watermarks(wanted, TIMEOUT_MILLISECONDS)
        return {
            place.partition: Log(firsts[place], ends[place], topic)
            for place in wanted
            if place in firsts and place in ends
        }

    def seek_anew(self, partition: int, position: int) -> None:
        """Fetch from there, and forget what was fetched of the partition; nothing, if it is no
        longer ours."""
        try:
            self.kafka.seek_anew(TopicPartition(self.topic, partition), position)
        except kafka_errors.IllegalStateError:
            pass

    def was_out_of_range(self, partition: int) -> bool:
        """Whether Kafka did not have the offset that was fetched next, so that the client went on
        where the log begins."""
        return bool(self.kafka.was_out_of_range(TopicPartition(self.topic, partition)))

    def range_is_known(self, partition: int) -> None:
        """Where the log begins was looked at: forget that an offset was out of range."""
        self.kafka.range_is_known(TopicPartition(self.topic, partition))

    def position(self, partition: int) -> int | None:
        """Offset that the next poll fetches first; None if it is not known, or the partition not
        ours."""
        position: int | None = self.kafka.progress_of(TopicPartition(self.topic, partition))[0]
        return position

    def last_known_end(self, partition: int) -> int | None:
        """Offset behind the partition's last record, as the last fetch told it; None if there was
        none."""
        end: int | None = self.kafka.progress_of(TopicPartition(self.topic, partition))[1]
        return end

    def held(self) -> Mapping[int, Held]:
        """Partitions of which nothing can be read for the moment, and why."""
        held: Mapping[int, Held] = self.kafka.held()
        return held

    def rewind_to(self, partition: int, records: list[Any] | None) -> None:
        """These records were polled too early or too late: they are polled again, by whoever owns
        the partition."""
        if records:
            try:
                self.kafka.seek(TopicPartition(self.topic, partition), records[0].offset)
            except kafka_errors.IllegalStateError:
                pass  # no longer ours
            records.clear()

    @property
    def paused(self) -> list[int]:
        """Partitions that are ours and not fetched at present."""
        return [tp.partition for tp in self.kafka.paused()]

    def end_offsets(
        self, partitions: Iterable[int], milliseconds: int = TIMEOUT_MILLISECONDS
    ) -> dict[int, int]:
        """Offsets behind the last record, by partition; those without a leader are missing. Raises
        KafkaError."""
        wanted = self.kafka.with_leader(
            [TopicPartition(self.topic, partition) for partition in partitions]
        )
        ends = self.kafka.end_offsets(wanted, timeout_ms=milliseconds) if wanted else {}
        return {tp.partition: end for tp, end in ends.items()}

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Leave the group; the broker gets so many seconds to answer. Raises nothing."""
        try:
            self.kafka.close(autocommit=False, timeout_ms=max(1, int(seconds * 1000)))
        except Exception as error:  # noqa: BLE001  (it is being thrown away)
            logger.debug("Closing the consumer: %r", error)

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the sockets; nobody there could use
        or close the client."""
        self._sockets.close_after_fork(self.kafka.descriptors_beside_selector())


def _mark_of(found: tuple[UUID, int] | None) -> TopicMark | None:
    return None if found is None else TopicMark.of(*found)


def connect(hosts: str, options: Mapping[str, Any], sockets: ForkSafeSockets) -> Any:
    """A consumer of kafka-python that has found the cluster. Any thread; the consumer then belongs
    to one.

    Args:
        options: all of them, see `options_of`.

    Raises:
        BrokerUnavailable: no broker answered within 10 s.
        BrokerRefused: certificates or passwords are not accepted.
        WorkerFailed: a TLS file does not hold what it should, or kafka-python does not take an
            option.
    """
    deadline = time.monotonic() + CONNECT_SECONDS - _CONNECT_MARGIN_SECONDS - LATE_SECONDS

    def make() -> Any:
        limit = {"bootstrap_timeout_ms": int((deadline - time.monotonic()) * 1000)}
        return Consumer(**{**options, **limit}, selector=lambda: sockets)

    try:
        return broker_errors.connect(make, hosts, options, CONNECT_SECONDS)
    except ValueError as error:
        raise WorkerFailed(str(error)) from error


def options_of(
    *, hosts: str, group: str | None, job_size: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """All options of the KafkaConsumer; `options` are the user's own."""
    return {
        "max_partition_fetch_bytes": max(1024 * 1024, job_size + 64 * 1024),
        # kafka-python's 50 MiB wait here, and come at once, beside what the worker holds.
        "fetch_max_bytes": max(_FETCH_BYTES, job_size + 64 * 1024),
        "partition_assignment_strategy": [CooperativeStickyAssignor],
        "metrics_enabled": False,
        # Without it kafka-python also returns the jobs of transactions that their producer has
        # aborted.
        "isolation_level": "read_committed",
        "session_timeout_ms": SESSION_MILLISECONDS,
        # kafka-python's 30 s would leave a broker that is back unnoticed for as long. Of several
        # hosts it picks one at random and waits until that may be tried again, so that with longer
        # pauses it can miss the one that is well until its time to connect is up.
        "reconnect_backoff_max_ms": 1_000,
        **options,
        "bootstrap_servers": hosts.split(","),
        "group_id": group,
        # Where there is no offset to begin with, or it is out of range, kafka-python would skip
        # jobs with any other: where a partition really begins, and anew, `LogWatch` decides.
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
    }
