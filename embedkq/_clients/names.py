"""The parts of kafka-python that the rest of embedkq uses beside the clients: its errors, and the
tuples for a partition and an offset."""

from __future__ import annotations

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

__all__ = ["OffsetAndMetadata", "TopicPartition", "kafka_errors"]
