"""All undocumented parts of kafka-python that embedkq uses. They are checked before a client is
created.

No file outside this folder uses a private name of kafka-python, or imports an undocumented module
of it (tests/test_architecture.py). Review this folder before you raise the upper bound in
setup.cfg.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

from embedkq._clients.partitions import partition_of
from embedkq._clients.private.fetcher import MendedFetcher
from embedkq._clients.private.names import (
    NEEDED,
    TESTED_WITH,
    ApiVersionsRequest,
    AsyncConsumerRebalanceListener,
    Checked,
    ConsumerCoordinator,
    CooperativeStickyAssignor,
    IsolationLevel,
    KafkaAdminClient,
    KafkaConnectionManager,
    KafkaConsumer,
    KafkaProducer,
    KafkaProtocol,
    MetadataRequest,
    SaslAuthenticateRequest,
    SaslHandshakeRequest,
    SubscriptionState,
    UnknownTopicOrPartitionError,
    check,
    get_sasl_mechanism,
)
from embedkq._formats.record_reader import Held
from embedkq._partition import Partition

__all__ = [
    "NEEDED",
    "TESTED_WITH",
    "Admin",
    "ApiVersionsRequest",
    "AsyncConsumerRebalanceListener",
    "Consumer",
    "CooperativeStickyAssignor",
    "KafkaConnectionManager",
    "KafkaProtocol",
    "MetadataRequest",
    "Producer",
    "SaslAuthenticateRequest",
    "SaslHandshakeRequest",
    "check",
    "get_sasl_mechanism",
]

_FETCH_WHILE_JOINING_MILLISECONDS = 100


class _Coordinator(ConsumerCoordinator):  # type: ignore[misc]
    """A group member that can postpone the next rebalance. Its group waits for it for up to
    `max_poll_interval_ms`."""

    postponed = 0
    """The number of coroutines that the rebalance waits for."""

    def need_rejoin(self) -> bool:
        # An expelled member need not wait.
        return bool(super().need_rejoin()) and (not self.postponed or self._generation.is_lost())


class _Subscriptions(SubscriptionState):  # type: ignore[misc]
    """The assigned partitions. Remembers those whose offset kafka-python has reset: only they can
    have lost unread records."""

    out_of_range: set[Any]

    def request_offset_reset(self, partition: Any, *args: Any) -> None:
        super().request_offset_reset(partition, *args)
        self.out_of_range.add(partition)


class Consumer(Checked, KafkaConsumer):  # type: ignore[misc]
    """A KafkaConsumer with the control that embedkq needs. Its `poll` returns `FetchedRecord`s.

    Raises:
        EmbedkqError: embedkq does not support this version of kafka-python.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Change the classes of the existing objects: new objects would register the same metrics
        # again, and would listen to the cluster beside the first ones.
        self._fetcher.__class__ = MendedFetcher
        self._fetcher.mend()
        self._coordinator.__class__ = _Coordinator
        self._subscription.__class__ = _Subscriptions
        self._subscription.out_of_range = set()

    def poll(self, *args: Any, **options: Any) -> Any:
        """Like KafkaConsumer.poll, but also fetches records of the remaining partitions while the
        group waits for another member."""
        records = super().poll(*args, **options)
        if (
            not records
            and self._coordinator.rebalance_in_progress()
            and self._subscription.assigned_partitions()
        ):
            records, _ = self._fetcher.fetch_records(
                self.config["max_poll_records"], timeout_ms=_FETCH_WHILE_JOINING_MILLISECONDS
            )
        return records

    def rejoin_after(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run a coroutine function on the I/O thread, and join no further rebalance until it has
        ended. I/O thread.

        If a listener awaited the coroutine instead, `poll` would return nothing meanwhile.
        """
        coordinator = self._coordinator
        coordinator.postponed += 1

        def ended(_: Any) -> None:
            coordinator.postponed -= 1

        self._manager.call_soon(function, *args).add_both(ended)

    def bound_fetches(self, milliseconds: int) -> None:
        """Set how long a broker without records waits before it answers a fetch, from the next
        fetch on. The polling thread."""
        self._fetcher.config["fetch_max_wait_ms"] = milliseconds

    def partitions_if_known(self, topic: str) -> set[int]:
        """The partitions of a subscribed topic. Empty while they are unknown; then requests new
        metadata. Never blocks.

        `partitions_for_topic` would request all topics of the cluster, possibly thousands.
        """
        known: set[int] | None = self._cluster.partitions_for_topic(topic)
        if not known:
            self.look_for_topics()
        return known or set()

    def look_for_topics(self) -> None:
        """Request new metadata, without waiting for it. Any thread."""
        self._cluster.request_update()

    def with_leader(self, partitions: list[Any]) -> list[Any]:
        """The partitions with a known leader. Requests new metadata if there are others. Any
        thread; never blocks.

        kafka-python cannot request the end of a partition without a leader. If all requested
        partitions have none, it waits; if only some have none, it raises a KeyError (seen after a
        topic was created again with fewer partitions).
        """
        led = [
            partition
            for partition in partitions
            if self._cluster.leader_for_partition(partition) not in (None, -1)
        ]
        if len(led) < len(partitions):
            self._cluster.request_update()
        return led

    def position_and_end(self, topic_partition: Any) -> tuple[int | None, int | None]:
        """The next offset to fetch, and the end offset that the last fetch reported; None if
        unknown or not assigned. Any thread.

        KafkaConsumer.position iterates over all partitions at each call.
        """
        state = self._subscription.assignment.get(topic_partition)
        position = None if state is None else state.position
        return (
            None if position is None else position.offset,
            None if state is None else state.highwater,
        )

    def held(self) -> dict[Partition, Held]:
        """The held partitions and the reasons. The polling thread."""
        fetcher = self._fetcher
        return (
            {
                partition_of(place): held
                for place, held in fetcher.holds.at(fetcher.positions()).items()
            }
            if fetcher.holds
            else {}
        )

    def find_topic(self, topic: str) -> Any:
        """Request a topic by name, without creating it. Returns a future. Any thread.

        Its result is the topic's id (a UUID; all zeros if the broker has no ids) and its number of
        partitions, or None if the topic does not exist. kafka-python has topic ids too, but
        refreshes them only every five minutes.
        """
        return self._manager.call_soon(self._find_topic, topic)

    async def _find_topic(self, topic: str) -> tuple[UUID, int] | None:
        wanted = [MetadataRequest.MetadataRequestTopic(name=topic)]
        response = await self._manager.send(
            MetadataRequest(topics=wanted, allow_auto_topic_creation=False)
        )
        for found in response.topics:
            if found.name == topic and found.error_code != UnknownTopicOrPartitionError.errno:
                return found.topic_id or UUID(int=0), len(found.partitions)
        return None

    def fetch_commits(self, partitions: list[Any], milliseconds: int) -> Any:
        """The group's commits, by partition, in a single request. `committed` handles only one
        partition. The polling thread."""
        return self._coordinator.fetch_committed_offsets(partitions, timeout_ms=milliseconds)

    def wait_for(self, future: Any, milliseconds: int) -> Any:
        """Wait for a future of this client and return its result. Raises its exception, or
        KafkaTimeoutError."""
        return self._net.run(self._manager.wait_for, future, milliseconds)

    def high_watermarks(self, partitions: list[Any], milliseconds: int) -> Any:
        """The offsets behind the last records, including those of open transactions, which
        `end_offsets` excludes. The polling thread."""
        level = self._fetcher._isolation_level
        self._fetcher._isolation_level = IsolationLevel.READ_UNCOMMITTED
        try:
            return self.end_offsets(partitions, timeout_ms=milliseconds)
        finally:
            self._fetcher._isolation_level = level

    def was_out_of_range(self, partition: Any) -> bool:
        """Whether the next offset was out of range, so that the client continued at the log's
        start. Any thread."""
        return partition in self._subscription.out_of_range

    def range_is_known(self, partition: Any) -> None:
        """Clear the out-of-range flag, after the log's start was checked. Any thread."""
        self._subscription.out_of_range.discard(partition)

    def seek_and_discard(self, partition: Any, offset: int) -> None:
        """Seek, and discard records that were fetched before, which may come from a deleted log.
        The polling thread."""
        self._fetcher.discard(partition)
        self.range_is_known(partition)
        self.seek(partition, offset)

    async def within(self, future: Any, seconds: float) -> Any:
        """Await a future of this client for up to `seconds`. Raises its exception, or
        KafkaTimeoutError. I/O thread."""
        return await self._manager.wait_for(future, max(1, int(seconds * 1000)))

    async def sleep(self, seconds: float) -> None:
        """Sleep on the client's I/O thread. Heartbeats continue."""
        await self._net.sleep(seconds)

    def descriptors_beside_selector(self) -> list[Any]:
        """The client's sockets that are not registered with its selector. Any thread."""
        return _wakeup_sockets(self)


class Producer(Checked, KafkaProducer):  # type: ignore[misc]
    """A KafkaProducer that can be abandoned, and reports when it is unusable.

    Raises:
        EmbedkqError: embedkq does not support this version of kafka-python.
    """

    def is_spent(self) -> bool:
        """Whether the client will fail all further messages. Any thread."""
        return self._transaction_manager is not None and bool(
            self._transaction_manager.has_fatal_error()
        )

    def abandon(self) -> None:
        """Stop the client's thread after a `close` that timed out, which leaves the thread running.
        Any thread."""
        self._sender.force_close()
        self._closed = True  # otherwise it tries to close again when it is garbage-collected

    def descriptors_beside_selector(self) -> list[Any]:
        """The client's sockets that are not registered with its selector. Any thread."""
        return _wakeup_sockets(self._sender._client)


class Admin(Checked, KafkaAdminClient):  # type: ignore[misc]
    """A KafkaAdminClient that cleans up if no broker answers.

    Raises:
        EmbedkqError: embedkq does not support this version of kafka-python.
    """

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except BaseException:
            # kafka-python leaves its I/O thread running if no broker answers.
            if hasattr(self, "_net"):
                self._closed = False
                self.close()
            raise

    def _process_acl_operations(self, obj: dict[str, Any]) -> dict[str, Any]:
        # embedkq does not use them, and Tansu sends numbers for which kafka-python raises.
        return obj


def _wakeup_sockets(client: Any) -> list[Any]:
    """The writing end of the socket pair that wakes a client's selector. It is not registered with
    the selector."""
    wakeup = getattr(getattr(client, "_net", None), "_wakeup_w", None)
    return [] if wakeup is None else [wakeup]
