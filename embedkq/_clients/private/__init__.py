"""Everything of kafka-python that its documentation does not promise, gathered here and checked
before a client is made.

No file outside this folder touches a name of kafka-python that begins with an underscore, or
imports from a module of it that is not documented (tests/test_architecture.py). Before the bound in
setup.cfg is raised, this folder is what has to be read again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

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
    """A member of a group that can put off the next rebalance, which its group waits for as long as
    `max_poll_interval_ms`."""

    postponed = 0
    """How many there are that it has to wait for."""

    def need_rejoin(self) -> bool:
        # An expelled member has nothing left to wait for.
        return bool(super().need_rejoin()) and (not self.postponed or self._generation.is_lost())


class _Subscriptions(SubscriptionState):  # type: ignore[misc]
    """What is assigned, remembering where kafka-python has begun anew: there, and nowhere else,
    records may be gone that nobody read."""

    out_of_range: set[Any]

    def request_offset_reset(self, partition: Any, *args: Any) -> None:
        super().request_offset_reset(partition, *args)
        self.out_of_range.add(partition)


class Consumer(Checked, KafkaConsumer):  # type: ignore[misc]
    """A KafkaConsumer that embedkq can steer. Its `poll` returns `FetchedRecord`s.

    Raises:
        EmbedkqError: this version of kafka-python is not one that embedkq can work with.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Second ones would register the same metrics again, and listen to the cluster beside the
        # first.
        self._fetcher.__class__ = MendedFetcher
        self._fetcher.mend()
        self._coordinator.__class__ = _Coordinator
        self._subscription.__class__ = _Subscriptions
        self._subscription.out_of_range = set()

    def poll(self, *args: Any, **options: Any) -> Any:
        """As of a KafkaConsumer, also while the group waits for another member: then records of the
        partitions that stay are fetched."""
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
        """Run a coroutine function on the I/O thread, and take part in no further rebalance until
        it has ended. I/O thread.

        A listener that awaits it instead would have `poll` return nothing meanwhile.
        """
        coordinator = self._coordinator
        coordinator.postponed += 1

        def ended(_: Any) -> None:
            coordinator.postponed -= 1

        self._manager.call_soon(function, *args).add_both(ended)

    def bound_fetches(self, milliseconds: int) -> None:
        """From the next fetch on a broker that has no record waits so long for one before it
        answers. The thread that polls."""
        self._fetcher.config["fetch_max_wait_ms"] = milliseconds

    def partitions_if_known(self, topic: str) -> set[int]:
        """Partitions of a topic that is subscribed to; none as long as the cluster has not told,
        which is asked again. Never blocks.

        `partitions_for_topic` asks for all topics of the cluster instead, which may be thousands.
        """
        known: set[int] | None = self._cluster.partitions_for_topic(topic)
        if not known:
            self.look_for_topics()
        return known or set()

    def look_for_topics(self) -> None:
        """Ask the cluster soon which topics there are; nothing waits for it. Any thread."""
        self._cluster.request_update()

    def with_leader(self, partitions: list[Any]) -> list[Any]:
        """Those of the partitions whose leader is known; the cluster is asked for the others. Any
        thread; never blocks.

        kafka-python asks nobody for the ends of a partition without a leader, waits where all that
        it is asked for are of that kind, and where only some are raises a KeyError (seen after a
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

    def progress_of(self, topic_partition: Any) -> tuple[int | None, int | None]:
        """Offset that is fetched next, and the end that the last fetch told; None for what is not
        known, or not assigned. Any thread.

        `position` of a KafkaConsumer goes through all its partitions at each call, whatever the one
        that it is asked for.
        """
        state = self._subscription.assignment.get(topic_partition)
        position = None if state is None else state.position
        return (
            None if position is None else position.offset,
            None if state is None else state.highwater,
        )

    def held(self) -> dict[int, Held]:
        """Partitions of which nothing can be read for the moment, and why. The thread that
        polls."""
        fetcher = self._fetcher
        return (
            {place.partition: held for place, held in fetcher.holds.at(fetcher.positions()).items()}
            if fetcher.holds
            else {}
        )

    def find_topic(self, topic: str) -> Any:
        """Ask for a topic by its name, without creating it; the future of a pair. Any thread.

        The pair: the topic's id (a UUID, of nothing but zeros if there is none) and how many
        partitions the topic has; None if there is no such topic. kafka-python keeps the ids of its
        own look-ups too, but makes those only every five minutes.
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

    def committed_of(self, partitions: list[Any], milliseconds: int) -> Any:
        """What the group has committed, by partition, in one request: `committed` asks for one. The
        thread that polls."""
        return self._coordinator.fetch_committed_offsets(partitions, timeout_ms=milliseconds)

    def wait_for(self, future: Any, milliseconds: int) -> Any:
        """The result of a future of this client's. Raises as it does, and KafkaTimeoutError."""
        return self._net.run(self._manager.wait_for, future, milliseconds)

    def high_watermarks(self, partitions: list[Any], milliseconds: int) -> Any:
        """Offsets behind the last records, those of open transactions included, which `end_offsets`
        leaves out. The thread that polls."""
        level = self._fetcher._isolation_level
        self._fetcher._isolation_level = IsolationLevel.READ_UNCOMMITTED
        try:
            return self.end_offsets(partitions, timeout_ms=milliseconds)
        finally:
            self._fetcher._isolation_level = level

    def was_out_of_range(self, partition: Any) -> bool:
        """Whether Kafka did not have the offset that was fetched next, so that the client went on
        where the log begins. Any thread."""
        return partition in self._subscription.out_of_range

    def range_is_known(self, partition: Any) -> None:
        """Where the log begins was looked at: forget that an offset was out of range. Any
        thread."""
        self._subscription.out_of_range.discard(partition)

    def seek_anew(self, partition: Any, offset: int) -> None:
        """Seek, and take nothing that was fetched before, which may be of a log that is gone. The
        thread that polls."""
        self._fetcher.discard(partition)
        self.range_is_known(partition)
        self.seek(partition, offset)

    async def within(self, future: Any, seconds: float) -> Any:
        """The result of a future of this client's, on its I/O thread. Raises as it does, and
        KafkaTimeoutError after so many seconds."""
        return await self._manager.wait_for(future, max(1, int(seconds * 1000)))

    async def sleep(self, seconds: float) -> None:
        """Sleep on the client's I/O thread, where heartbeats go on meanwhile."""
        await self._net.sleep(seconds)

    def descriptors_beside_selector(self) -> list[Any]:
        """Sockets of the client that its selector was never given. Any thread."""
        return _wakeup_sockets(self)


class Producer(Checked, KafkaProducer):  # type: ignore[misc]
    """A KafkaProducer that can be ended, and says when it is of no use any more.

    Raises:
        EmbedkqError: this version of kafka-python is not one that embedkq can work with.
    """

    def is_spent(self) -> bool:
        """Whether the client gives up all that it is handed from now on. Any thread."""
        return self._transaction_manager is not None and bool(
            self._transaction_manager.has_fatal_error()
        )

    def abandon(self) -> None:
        """End the client's thread after a `close` that came to the end of its time, which leaves it
        running. Any thread."""
        self._sender.force_close()
        self._closed = True  # else it would try to close once more when it is collected

    def descriptors_beside_selector(self) -> list[Any]:
        """Sockets of the client that its selector was never given. Any thread."""
        return _wakeup_sockets(self._sender._client)


class Admin(Checked, KafkaAdminClient):  # type: ignore[misc]
    """A KafkaAdminClient that leaves nothing behind where nobody answers.

    Raises:
        EmbedkqError: this version of kafka-python is not one that embedkq can work with.
    """

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except BaseException:
            # kafka-python leaves its I/O thread running when nobody answers.
            if hasattr(self, "_net"):
                self._closed = False
                self.close()
            raise

    def _process_acl_operations(self, obj: dict[str, Any]) -> dict[str, Any]:
        # Nobody asks for them here, and Tansu sends numbers that kafka-python does not know and
        # raises for.
        return obj


def _wakeup_sockets(client: Any) -> list[Any]:
    """The writing end with which a client's selector is woken: the one end that no selector
    sees."""
    wakeup = getattr(getattr(client, "_net", None), "_wakeup_w", None)
    return [] if wakeup is None else [wakeup]
