"""Partitions as kafka-python has them, and as the rest of embedkq does. Any thread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from embedkq._formats.partition_progress import Committed
from embedkq._partition import Partition

_MOST_KNOWN = 10_000


@lru_cache(_MOST_KNOWN)
def partition_of(place: TopicPartition) -> Partition:
    """kafka-python's `TopicPartition` as a `Partition`: the same object each time, because
    dictionaries find that one faster than an equal one."""
    return Partition(place.topic, place.partition)


def partitions_of(places: Iterable[TopicPartition]) -> frozenset[Partition]:
    """The same for several."""
    return frozenset(map(partition_of, places))


def place_of(partition: Partition) -> TopicPartition:
    """A `Partition` as kafka-python's `TopicPartition`."""
    return TopicPartition(*partition)


def places_of(partitions: Iterable[Partition]) -> list[TopicPartition]:
    """The same for several, in order."""
    return [TopicPartition(*partition) for partition in partitions]


def offsets_of(
    commits: Mapping[Partition, Committed],
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Commits as kafka-python takes them."""
    return {
        place_of(partition): OffsetAndMetadata(committed.offset, committed.metadata, -1)
        for partition, committed in commits.items()
    }


def commits_of(found: Mapping[TopicPartition, OffsetAndMetadata]) -> dict[Partition, Committed]:
    """Commits as kafka-python returns them; those without an offset are left out."""
    return {
        partition_of(place): Committed(known.offset, known.metadata or "")
        for place, known in found.items()
        if known.offset >= 0
    }
