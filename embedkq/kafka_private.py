"""Everything of kafka-python that its documentation does not promise, gathered here and checked before a client is made.

No other file of embedkq touches a name of kafka-python that begins with an underscore, or imports from a module of it that is not
documented (tests/test_architecture.py). Before the bound in setup.cfg is raised, this file is what has to be read again.
"""
from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from uuid import UUID

from embedkq.errors import EmbedkqError
from embedkq.record_batch import FetchedRecord
from embedkq.record_reader import CannotRead, Held, Holds, read_batches

TESTED_WITH = "3.0.12"
"""The version whose source this file was written after. setup.cfg takes the patch releases that follow it."""


def _sentence(missing: str, version: str) -> str:
    return (
        f"kafka-python {version} does not have everything that embedkq needs ({missing}): install a version that embedkq was tested with, "
        f"pip install 'kafka-python[crc32c]>={TESTED_WITH},<3.1'"
    )


try:
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, codec
    from kafka import __version__ as kafka_version
    from kafka import errors as kafka_errors
    from kafka.cluster import ClusterMetadata
    from kafka.consumer.fetcher import Fetcher
    from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener, SubscriptionState, TopicPartitionState
    from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
    from kafka.coordinator.base import BaseCoordinator
    from kafka.coordinator.consumer import ConsumerCoordinator
    from kafka.errors import UnknownTopicOrPartitionError
    from kafka.net.manager import KafkaConnectionManager
    from kafka.net.sasl import get_sasl_mechanism
    from kafka.net.selector import NetworkSelector
    from kafka.producer.sender import Sender
    from kafka.producer.transaction_manager import TransactionManager
    from kafka.protocol.consumer import IsolationLevel
    from kafka.protocol.metadata import ApiVersionsRequest, MetadataRequest
    from kafka.protocol.parser import KafkaProtocol
    from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest
    from kafka.protocol.schemas.fields.codecs.tagged_fields import TaggedFields, UnsignedVarInt32
    from kafka.record import legacy_records
    from kafka.record.default_records import DefaultRecordBatch
except ImportError as error:
    from importlib.metadata import version as _installed

    raise ImportError(_sentence(str(error), _installed("kafka-python"))) from error

__all__ = [
    "TESTED_WITH", "Admin", "ApiVersionsRequest", "AsyncConsumerRebalanceListener", "Consumer", "CooperativeStickyAssignor",
    "KafkaConnectionManager", "KafkaProtocol", "MetadataRequest", "Producer", "SaslAuthenticateRequest", "SaslHandshakeRequest", "check",
    "get_sasl_mechanism",
]

NEEDED: dict[type, tuple[str, ...]] = {
    ClusterMetadata: ("partitions_for_topic", "request_update"),
    KafkaConsumer: ("_cluster", "_coordinator", "_fetcher", "_manager", "_net", "_subscription"),
    BaseCoordinator: ("_generation", "rebalance_in_progress"),
    ConsumerCoordinator: ("fetch_committed_offsets", "need_rejoin"),
    Fetcher: (
        "PartitionRecords", "_completed_fetches", "_isolation_level", "_paused_completed_fetches", "_paused_partition_records",
        "_fetchable_partitions", "_next_partition_records", "_parse_fetched_data", "_subscriptions", "config",
        "fetch_records", "fetched_records",
    ),
    Fetcher.PartitionRecords: (
        "_consume_aborted_transactions_up_to", "_contains_abort_marker", "_is_batch_aborted", "_unpack_records", "aborted_producer_ids",
        "check_crcs", "drain", "isolation_level", "leader_epoch", "next_fetch_offset", "take", "topic_partition",
    ),
    DefaultRecordBatch: ("HEADER_STRUCT", "_buffer"),
    SubscriptionState: ("assigned_partitions", "assignment"),
    TopicPartitionState: ("highwater", "position"),
    NetworkSelector: ("_wakeup_w", "sleep"),
    KafkaProducer: ("_closed", "_sender", "_transaction_manager"),
    Sender: ("_client", "force_close"),
    TransactionManager: ("has_fatal_error",),
    KafkaAdminClient: ("_closed", "_net", "_process_acl_operations"),
    TaggedFields: ("decode_empty",),
}
"""The names that are used here, by the class that has them. Subclasses here rely on them too."""


_FETCH_WHILE_JOINING_MILLISECONDS = 100
_CODECS = {
    1: ("gzip", "gzip", "gzip"), 2: ("snappy", "snappy", "python-snappy"), 3: ("lz4", "lz4.frame", "lz4"),
    4: ("zstd", "zstandard", "zstandard"),
}
"""By its number in a batch: the codec's name, the module that kafka-python wants for it, and the package that has it."""
_OF_ALL = (kafka_errors.AuthorizationError, kafka_errors.OffsetOutOfRangeError, kafka_errors.UnsupportedVersionError)
"""Errors of one partition that the consumer as a whole has to know of."""


def check() -> None:
    """See that all names are there that this file uses. Takes some 10 us; called before each client is made. Any thread.

    Raises:
        EmbedkqError: one is gone; the message names it, the version that is installed and what to install.
    """
    for owner, names in NEEDED.items():
        for name in names:
            if not hasattr(owner, name) and name not in _set_by_constructor(owner):
                raise EmbedkqError(_sentence(f"{owner.__module__}.{owner.__qualname__}.{name} is gone", kafka_version))


def _set_by_constructor(owner: type) -> tuple[str, ...]:
    """Names that the constructor of a class mentions: attributes of instances are among them, of which the class itself knows nothing."""
    code = getattr(inspect.unwrap(owner.__init__), "__code__", None)  # type: ignore[misc]
    return () if code is None else code.co_names


class _Checked:
    """A client that is not even made where a name is gone: a half-made one of kafka-python fails once more when it is collected."""

    def __new__(cls, **options: Any) -> Any:
        check()
        return super().__new__(cls)


class _Fetcher(Fetcher):  # type: ignore[misc]
    """What a consumer fetches with, mended: what is wrong with one partition, or one record, concerns nothing else.

    kafka-python 3.0.12 raises it from `poll`, for all partitions, and goes round without an end where the same poll brings more.
    """

    _next_partition_records: Any

    def mend(self) -> None:
        """Begin, as if it had been made as one of these."""
        self.holds = Holds()
        self.PartitionRecords = functools.partial(_PartitionRecords, self)

    def positions(self) -> dict[Any, int | None]:
        """Offset that is fetched next, by partition that is assigned; None if it is not known."""
        states = dict(self._subscriptions.assignment)
        return {partition: None if state.position is None else state.position.offset for partition, state in states.items()}

    def _fetchable_partitions(self) -> list[Any]:
        fetchable: list[Any] = super()._fetchable_partitions()
        if not self.holds:
            return fetchable
        now = time.monotonic()
        return [partition for partition in fetchable if self.holds.allows(partition, now)]

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        try:
            return super()._parse_fetched_data(completed_fetch)
        except _OF_ALL:
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, it is about this partition)
            told = error
            if isinstance(error, kafka_errors.BrokerResponseError):
                told = CannotRead(f"are not given out by the broker: {type(error).__name__}")
            self.holds.hold(completed_fetch.topic_partition, completed_fetch.fetched_offset, told)
            return None

    def discard(self, partition: Any) -> None:
        """Throw away what was fetched of a partition and not returned yet."""
        for completed in list(self._completed_fetches):
            if completed.topic_partition == partition:
                self._completed_fetches.remove(completed)
        if self._next_partition_records and self._next_partition_records.topic_partition == partition:
            self._next_partition_records = None
        self._paused_completed_fetches.pop(partition, None)
        self._paused_partition_records.pop(partition, None)

    def fetched_records(self, *args: Any, **kwargs: Any) -> Any:
        # kafka-python 3.0.12 lays the rest of what it had fetched of a paused partition aside, and takes it up again only while it has
        # no records of another in hand. It does not see that those which it has are used up: then the partition, though resumed, is
        # never polled again (seen).
        if not self._next_partition_records:
            self._next_partition_records = None
        return super().fetched_records(*args, **kwargs)


class _PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What one fetch brought of a partition; see `record_reader`. The thread that polls."""

    next_fetch_offset: int
    leader_epoch: int
    check_crcs: bool

    def __init__(self, fetcher: _Fetcher, *args: Any, **options: Any) -> None:
        self._fetcher = fetcher
        super().__init__(*args, **options)
        self.number: int = self.topic_partition.partition

    def take(self, n: int | None = None) -> list[FetchedRecord]:
        try:
            records: list[FetchedRecord] = super().take(n)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is about this partition)
            self._fetcher.holds.hold(self.topic_partition, self.next_fetch_offset, error)
            self.drain()
            return []
        if records and self._fetcher.holds:
            self._fetcher.holds.release(self.topic_partition)
        return records

    def _unpack_records(self, _: Any, records: Any, *__: Any) -> Iterator[FetchedRecord]:
        yield from read_batches(self, records)
        self.drain()

    def is_passed_over(self, batch: Any) -> bool:
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)

    def content_of(self, batch: Any) -> bytes:
        return bytes(memoryview(batch._buffer)[DefaultRecordBatch.HEADER_STRUCT.size :])

    def decompressor(self, batch: Any) -> tuple[str, Any]:
        name = _require_codec(batch.compression_type)
        return name, getattr(codec, f"{name}_decode")

    def end(self) -> int | None:
        state = self._fetcher._subscriptions.assignment.get(self.topic_partition)
        return None if state is None else state.highwater

    def times_held(self) -> int:
        return self._fetcher.holds.times(self.topic_partition, self.next_fetch_offset)


def _require_codec(kind: int) -> str:
    """Name of a codec whose library is here. One that was installed since the process began is loaded; raises CannotRead."""
    if kind not in _CODECS:
        raise CannotRead(f"are compressed with codec {kind}, which kafka-python {kafka_version} does not know")
    name, module, package = _CODECS[kind]
    has = f"has_{name}"
    try:
        if not getattr(codec, has)():
            importlib.invalidate_caches()
            if importlib.util.find_spec(module.partition(".")[0]) is not None:
                importlib.reload(codec)
                legacy_records.snappy_decode, legacy_records.lz4_decode = codec.snappy_decode, codec.lz4_decode
    except Exception as error:
        raise CannotRead(f"are compressed with {name}, whose library does not load: {error!r}") from error
    if not getattr(codec, has)():
        raise CannotRead(f"are compressed with {name}, for which a package is missing here: pip install {package}")
    return name


class _Coordinator(ConsumerCoordinator):  # type: ignore[misc]
    """A member of a group that can put off the next rebalance, which its group waits for as long as `max_poll_interval_ms`."""

    postponed = 0
    """How many there are that it has to wait for."""

    def need_rejoin(self) -> bool:
        # An expelled member has nothing left to wait for.
        return bool(super().need_rejoin()) and (not self.postponed or self._generation.is_lost())


class Consumer(_Checked, KafkaConsumer):  # type: ignore[misc]
    """A KafkaConsumer that embedkq can steer. Its `poll` returns `FetchedRecord`s.

    Raises:
        EmbedkqError: this version of kafka-python is not one that embedkq can work with.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Second ones would register the same metrics again, and listen to the cluster beside the first.
        self._fetcher.__class__ = _Fetcher
        self._fetcher.mend()
        self._coordinator.__class__ = _Coordinator

    def poll(self, *args: Any, **options: Any) -> Any:
        """As of a KafkaConsumer, also while the group waits for another member: then records of the partitions that stay are fetched."""
        records = super().poll(*args, **options)
        if not records and self._coordinator.rebalance_in_progress() and self._subscription.assigned_partitions():
            records, _ = self._fetcher.fetch_records(self.config["max_poll_records"], timeout_ms=_FETCH_WHILE_JOINING_MILLISECONDS)
        return records

    def rejoin_after(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Run a coroutine function on the I/O thread, and take part in no further rebalance until it has ended. I/O thread.

        A listener that awaits it instead would have `poll` return nothing meanwhile.
        """
        coordinator = self._coordinator
        coordinator.postponed += 1

        def ended(_: Any) -> None:
            coordinator.postponed -= 1

        self._manager.call_soon(function, *args).add_both(ended)

    def bound_fetches(self, milliseconds: int) -> None:
        """From the next fetch on a broker that has no record waits so long for one before it answers. The thread that polls."""
        self._fetcher.config["fetch_max_wait_ms"] = milliseconds

    def partitions_if_known(self, topic: str) -> set[int]:
        """Partitions of a topic that is subscribed to; none as long as the cluster has not told, which is asked again. Never blocks.

        `partitions_for_topic` asks for all topics of the cluster instead, which may be thousands.
        """
        known: set[int] | None = self._cluster.partitions_for_topic(topic)
        if not known:
            self._cluster.request_update()
        return known or set()

    def progress_of(self, topic_partition: Any) -> tuple[int | None, int | None]:
        """Offset that is fetched next, and the end that the last fetch told; None for what is not known, or not assigned. Any thread.

        `position` of a KafkaConsumer goes through all its partitions at each call, whatever the one that it is asked for.
        """
        state = self._subscription.assignment.get(topic_partition)
        position = None if state is None else state.position
        return None if position is None else position.offset, None if state is None else state.highwater

    def held(self) -> dict[int, Held]:
        """Partitions of which nothing can be read for the moment, and why. The thread that polls."""
        fetcher = self._fetcher
        return {place.partition: held for place, held in fetcher.holds.at(fetcher.positions()).items()} if fetcher.holds else {}

    def find_topic(self, topic: str) -> Any:
        """Ask for a topic by its name, without creating it; the future of a pair. Any thread.

        The pair: the topic's id (a UUID, of nothing but zeros if there is none) and how many partitions the topic has; None if there is
        no such topic. kafka-python keeps the ids of its own look-ups too, but makes those only every five minutes.
        """
        return self._manager.call_soon(self._find_topic, topic)

    async def _find_topic(self, topic: str) -> tuple[UUID, int] | None:
        wanted = [MetadataRequest.MetadataRequestTopic(name=topic)]
        response = await self._manager.send(MetadataRequest(topics=wanted, allow_auto_topic_creation=False))
        for found in response.topics:
            if found.name == topic and found.error_code != UnknownTopicOrPartitionError.errno:
                return found.topic_id or UUID(int=0), len(found.partitions)
        return None

    def committed_of(self, partitions: list[Any], milliseconds: int) -> Any:
        """What the group has committed, by partition, in one request: `committed` asks for one. The thread that polls."""
        return self._coordinator.fetch_committed_offsets(partitions, timeout_ms=milliseconds)

    def wait_for(self, future: Any, milliseconds: int) -> Any:
        """The result of a future of this client's. Raises as it does, and KafkaTimeoutError."""
        return self._net.run(self._manager.wait_for, future, milliseconds)

    def high_watermarks(self, partitions: list[Any], milliseconds: int) -> Any:
        """Offsets behind the last records, those of open transactions included, which `end_offsets` leaves out. The thread that polls."""
        level = self._fetcher._isolation_level
        self._fetcher._isolation_level = IsolationLevel.READ_UNCOMMITTED
        try:
            return self.end_offsets(partitions, timeout_ms=milliseconds)
        finally:
            self._fetcher._isolation_level = level

    def seek_anew(self, partition: Any, offset: int) -> None:
        """Seek, and take nothing that was fetched before, which may be of a log that is gone. The thread that polls."""
        self._fetcher.discard(partition)
        self.seek(partition, offset)

    async def sleep(self, seconds: float) -> None:
        """Sleep on the client's I/O thread, where heartbeats go on meanwhile."""
        await self._net.sleep(seconds)

    def descriptors_beside_selector(self) -> list[Any]:
        """Sockets of the client that its selector was never given. Any thread."""
        return _wakeup_sockets(self)


class Producer(_Checked, KafkaProducer):  # type: ignore[misc]
    """A KafkaProducer that can be ended, and says when it is of no use any more.

    Raises:
        EmbedkqError: this version of kafka-python is not one that embedkq can work with.
    """

    def is_spent(self) -> bool:
        """Whether the client gives up all that it is handed from now on. Any thread."""
        return self._transaction_manager is not None and bool(self._transaction_manager.has_fatal_error())

    def abandon(self) -> None:
        """End the client's thread after a `close` that came to the end of its time, which leaves it running. Any thread."""
        self._sender.force_close()
        self._closed = True  # else it would try to close once more when it is collected

    def descriptors_beside_selector(self) -> list[Any]:
        """Sockets of the client that its selector was never given. Any thread."""
        return _wakeup_sockets(self._sender._client)


class Admin(_Checked, KafkaAdminClient):  # type: ignore[misc]
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
        # Nobody asks for them here, and Tansu sends numbers that kafka-python does not know and raises for.
        return obj


def _wakeup_sockets(client: Any) -> list[Any]:
    """The writing end with which a client's selector is woken: the one end that no selector sees."""
    wakeup = getattr(getattr(client, "_net", None), "_wakeup_w", None)
    return [] if wakeup is None else [wakeup]


def _read_no_tagged_fields(cls: type, data: Any) -> None:
    if UnsignedVarInt32.decode(data) != 0:
        raise ValueError("a response of Kafka has tagged fields where its version knows of none")


if not __debug__:
    # kafka-python 3.0.12 reads this byte inside an `assert`, which `python -O` leaves out: every answer of a broker would be read
    # shifted by one byte, and nothing connects. It is the only one of its asserts that does something.
    TaggedFields.decode_empty = classmethod(_read_no_tagged_fields)
