"""HeldPartitions: partitions with a record that this host cannot read now. The consumer thread."""

from __future__ import annotations

from collections.abc import Mapping

from embedkq._formats.record_reader import Held
from embedkq._safe_logging import SafeLogger

logger = SafeLogger("embedkq.worker")


class HeldPartitions:
    """Logs once of each partition that it is held, and once that it is read again."""

    def __init__(self, topic: str) -> None:
        self.reasons: Mapping[int, str] = {}
        """By partition. Replaced, never changed, so any thread may read it."""
        self._topic = topic

    def now(self, held: Mapping[int, Held]) -> None:
        """These are held now, and no others."""
        if not held and not self.reasons:
            return
        reasons = {
            partition: f"the records from offset {each.offset} on {each.reason}"
            for partition, each in held.items()
        }
        for partition in reasons.keys() | self.reasons.keys():
            reason = reasons.get(partition)
            if reason is None:
                logger.info("Partition %d of topic %s is read again.", partition, self._topic)
            elif reason != self.reasons.get(partition):
                logger.warning(
                    "Partition %d of topic %s is held: %s. It is tried again every few seconds; the"
                    " other partitions go on.",
                    partition,
                    self._topic,
                    reason,
                )
        self.reasons = reasons
