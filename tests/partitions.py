"""Partitions by short names, for tests without Kafka."""

from __future__ import annotations

from embedkq._partition import Partition

TOPIC = "topic"


def numbered(number: int, topic: str = TOPIC) -> Partition:
    return Partition(topic, number)


P0, P1, P2, P3, P4, P5, P6, P7, P8, P9 = map(numbered, range(10))
