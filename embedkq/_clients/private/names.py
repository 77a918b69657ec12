"""Lists and checks the undocumented names of kafka-python that embedkq uses. Any thread."""

from __future__ import annotations

import inspect
from typing import Any

from embedkq.errors import EmbedkqError

TESTED_WITH = "3.0.12"
"""The version that this file was written for. setup.cfg also accepts later patch releases."""


def _sentence(missing: str, version: str) -> str:
    return (
        f"kafka-python {version} lacks something that embedkq needs ({missing}): install a version"
        f" that embedkq was tested with, pip install 'kafka-python[crc32c]>={TESTED_WITH},<3.1'"
    )


try:
    from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, codec
    from kafka import __version__ as kafka_version
    from kafka import errors as kafka_errors
    from kafka.cluster import ClusterMetadata
    from kafka.consumer.fetcher import Fetcher
    from kafka.consumer.subscription_state import (
        AsyncConsumerRebalanceListener,
        SubscriptionState,
        TopicPartitionState,
    )
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
    "NEEDED",
    "TESTED_WITH",
    "ApiVersionsRequest",
    "AsyncConsumerRebalanceListener",
    "Checked",
    "ConsumerCoordinator",
    "CooperativeStickyAssignor",
    "DefaultRecordBatch",
    "Fetcher",
    "IsolationLevel",
    "KafkaAdminClient",
    "KafkaConnectionManager",
    "KafkaConsumer",
    "KafkaProducer",
    "KafkaProtocol",
    "MetadataRequest",
    "SaslAuthenticateRequest",
    "SaslHandshakeRequest",
    "SubscriptionState",
    "UnknownTopicOrPartitionError",
    "check",
    "codec",
    "get_sasl_mechanism",
    "kafka_errors",
    "kafka_version",
    "legacy_records",
]

NEEDED: dict[type, tuple[str, ...]] = {
    ClusterMetadata: ("leader_for_partition", "partitions_for_topic", "request_update"),
    KafkaConsumer: ("_cluster", "_coordinator", "_fetcher", "_manager", "_net", "_subscription"),
    BaseCoordinator: ("_generation", "rebalance_in_progress"),
    ConsumerCoordinator: ("fetch_committed_offsets", "need_rejoin"),
    Fetcher: (
        "PartitionRecords",
        "_completed_fetches",
        "_isolation_level",
        "_paused_completed_fetches",
        "_paused_partition_records",
        "_fetchable_partitions",
        "_next_partition_records",
        "_parse_fetched_data",
        "_subscriptions",
        "beginning_or_end_offset",
        "config",
        "fetch_records",
        "fetched_records",
    ),
    Fetcher.PartitionRecords: (
        "_consume_aborted_transactions_up_to",
        "_contains_abort_marker",
        "_is_batch_aborted",
        "_unpack_records",
        "aborted_producer_ids",
        "check_crcs",
        "drain",
        "isolation_level",
        "leader_epoch",
        "next_fetch_offset",
        "take",
        "topic_partition",
    ),
    DefaultRecordBatch: ("HEADER_STRUCT", "_buffer"),
    SubscriptionState: ("assigned_partitions", "assignment", "request_offset_reset"),
    TopicPartitionState: ("highwater", "position"),
    NetworkSelector: ("_wakeup_w", "sleep"),
    KafkaProducer: ("_closed", "_sender", "_transaction_manager"),
    Sender: ("_client", "force_close"),
    TransactionManager: ("has_fatal_error",),
    KafkaAdminClient: ("_closed", "_net", "_process_acl_operations"),
    TaggedFields: ("decode_empty",),
}
"""The names that this folder uses, by class. Its subclasses rely on them too."""


def check() -> None:
    """Check that all names exist. Takes about 10 us; called before each client is created. Any
    thread.

    Raises:
        EmbedkqError: a name is missing. The message has the name, the installed version, and what
            to install.
    """
    for owner, names in NEEDED.items():
        for name in names:
            if not hasattr(owner, name) and name not in _set_by_constructor(owner):
                raise EmbedkqError(
                    _sentence(
                        f"{owner.__module__}.{owner.__qualname__}.{name} is missing", kafka_version
                    )
                )


def _set_by_constructor(owner: type) -> tuple[str, ...]:
    """Names that occur in the constructor of a class. They include instance attributes, which the
    class itself does not have."""
    code = getattr(inspect.unwrap(owner.__init__), "__code__", None)  # type: ignore[misc]
    return () if code is None else code.co_names


class Checked:
    """Checks the names before a client is created, because a half-constructed client of
    kafka-python fails again when it is garbage-collected."""

    def __new__(cls, **options: Any) -> Any:
        check()
        return super().__new__(cls)


def _read_no_tagged_fields(cls: type, data: Any) -> None:
    if UnsignedVarInt32.decode(data) != 0:
        raise ValueError("a response of Kafka has tagged fields, which its version does not allow")


if not __debug__:
    # kafka-python 3.0.12 reads this byte inside an `assert`, which `python -O` removes. Then every
    # answer of a broker would be read shifted by one byte, and nothing could connect. It is the
    # only assert of kafka-python with a side effect.
    TaggedFields.decode_empty = classmethod(_read_no_tagged_fields)
