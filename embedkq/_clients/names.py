"""What the rest of embedkq uses of kafka-python beside its clients: its errors, and the tuples that
name a partition and an offset."""

from __future__ import annotations

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

__all__ = ["OffsetAndMetadata", "TopicPartition", "kafka_errors"]
