"""PartitionQuota: how much of each partition is held, and which partitions are full.
Control thread."""

from __future__ import annotations

from embedkq._partition import Partition

_ENOUGH_LESS = 0.75
"""Once all partitions together have held too much, they are full until it is so much less: else
they would be so in turns."""


class PartitionQuota:
    """Records and their bytes, by partition.

    Args:
        most_records, most_bytes: a partition is full from here on.
        most_bytes_in_all: from here on each partition of which anything is held is full.
    """

    def __init__(self, most_records: int, most_bytes: int, most_bytes_in_all: int) -> None:
        self.full: set[Partition] = set()
        """Partitions that should be paused."""
        self.over = False
        """Whether it is too much of all partitions together."""
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._most_bytes_in_all = most_bytes_in_all
        self._bytes = 0
        self._held: dict[Partition, tuple[int, int]] = {}

    def add(self, partition: Partition, size: int) -> None:
        """Count one more record, of this size in bytes."""
        self._change(partition, 1, size)

    def remove(self, partition: Partition, size: int) -> None:
        """One record less."""
        self._change(partition, -1, -size)

    def forget(self, partition: Partition) -> None:
        """Nothing of the partition is held: forget it."""
        records, size = self._held.get(partition, (0, 0))
        if records:
            self._change(partition, -records, -size)

    def _change(self, partition: Partition, records: int, size: int) -> None:
        held, held_bytes = self._held.get(partition, (0, 0))
        held, held_bytes = held + records, held_bytes + size
        self._bytes += size
        if held:
            self._held[partition] = held, held_bytes
        else:
            self._held.pop(partition, None)
        if self._is_full(held, held_bytes):
            self.full.add(partition)
        else:
            self.full.discard(partition)
        over = self._bytes >= self._most_bytes_in_all * (_ENOUGH_LESS if self.over else 1)
        if over != self.over:
            self.over = over
            self.full = {each for each, known in self._held.items() if self._is_full(*known)}

    def _is_full(self, records: int, size: int) -> bool:
        return (
            records >= self._most_records or size >= self._most_bytes or (self.over and records > 0)
        )
