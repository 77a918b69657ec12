"""The record that a handler receives."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """A record of a Kafka topic, as whoever wrote it has sent it.

    Attributes:
        value: its value, or None (on a compacted topic: its key was deleted).
        key: its key, or None. Records with the same key are handled one after another.
        headers: names and values, in order; a name may occur several times.
        topic, partition, offset: its place.
        timestamp: Unix milliseconds, from its sender or from the broker, as the topic is set up.
    """

    value: bytes | None
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    topic: str
    partition: int
    offset: int
    timestamp: int
