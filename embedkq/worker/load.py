"""Load: how much of each partition is held somewhere, and of which partitions that is enough. Worker's thread."""
from __future__ import annotations


class Load:
    """Records and their bytes, by partition.

    Args:
        most_records, most_bytes: from so many on a partition is full.
    """

    def __init__(self, most_records: int, most_bytes: int) -> None:
        self.full: set[int] = set()
        """Partitions of which no more should come."""
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._held: dict[int, tuple[int, int]] = {}

    def add(self, partition: int, size: int) -> None:
        """One record more, of so many bytes."""
        self._change(partition, 1, size)

    def remove(self, partition: int, size: int) -> None:
        """One record less."""
        self._change(partition, -1, -size)

    def forget(self, partition: int) -> None:
        """Nothing of the partition is held any more."""
        self._held.pop(partition, None)
        self.full.discard(partition)

    def _change(self, partition: int, records: int, size: int) -> None:
        held, held_bytes = self._held.get(partition, (0, 0))
        self._held[partition] = held + records, held_bytes + size
        if held + records >= self._most_records or held_bytes + size >= self._most_bytes:
            self.full.add(partition)
        else:
            self.full.discard(partition)
