"""What identifies a partition, wherever embedkq speaks of one."""

from __future__ import annotations

from typing import NamedTuple


class Partition(NamedTuple):
    """A partition's identity. Its number alone is none: each topic has a partition 0.

    As a key it is as fast as a number while all use the same object: so one is made for an
    assignment, and passed on (`_clients.partitions`).

    Attributes:
        topic: name of its topic.
        number: its number in the topic.
    """

    topic: str
    number: int

    def __str__(self) -> str:
        return f"partition {self.number} of topic {self.topic}"
