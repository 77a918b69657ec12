"""Tracks partitions that are held because this host cannot read their next records. Consumer
thread."""

from __future__ import annotations

from collections.abc import Mapping

from embedkq._formats.record_reader import Held
from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger

logger = SafeLogger("embedkq.worker")


class HeldPartitions:
    """Logs once for each partition when it is held, and once when it continues."""

    def __init__(self) -> None:
        self.reasons: Mapping[Partition, str] = {}
        """The reasons by partition. The mapping is replaced and never modified, so any thread may
        read it."""

    def now(self, held: Mapping[Partition, Held]) -> None:
        """Update the held partitions."""
        if not held and not self.reasons:
            return
        reasons = {
            partition: f"the records from offset {each.offset} on {each.reason}"
            for partition, each in held.items()
        }
        for partition in reasons.keys() | self.reasons.keys():
            reason = reasons.get(partition)
            if reason is None:
                logger.info(
                    "Partition %d of topic %s continues.", partition.number, partition.topic
                )
            elif reason != self.reasons.get(partition):
                logger.warning(
                    "Partition %d of topic %s is held: %s. Retrying every few seconds; other"
                    " partitions continue.",
                    partition.number,
                    partition.topic,
                    reason,
                )
        self.reasons = reasons
