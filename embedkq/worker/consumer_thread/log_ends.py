"""Tracks the end offsets of partitions, for the lag. Consumer thread; `lag` on any thread."""

from __future__ import annotations

import time
from collections.abc import Mapping

from embedkq._clients.consumer import ConsumerClient
from embedkq._clients.names import kafka_errors
from embedkq._formats import offset_map
from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger
from embedkq.worker.between_threads.progress import Progress

logger = SafeLogger("embedkq.worker")

_SECONDS, _MILLISECONDS = 2.0, 1_000


class LogEnds:
    """The highest end offset that Kafka reported for each partition in the last few seconds."""

    def __init__(self) -> None:
        self._ends: dict[Partition, int] = {}
        self._refresh_at = 0.0

    def begin(self, partition: Partition, end: int) -> None:
        """Set the end of a partition's log, which may be a new log."""
        self._ends[partition] = end

    def note(self, partition: Partition, end: int | None) -> None:
        """Raise the end of a partition's log. None is ignored."""
        if end is not None:
            self._ends[partition] = max(end, self._ends.get(partition, 0))

    def refresh_paused(self, client: ConsumerClient) -> None:
        """Ask for the ends of paused partitions every two seconds, because no fetch reports
        them."""
        if time.monotonic() < self._refresh_at:
            return
        try:
            for partition, end in client.end_offsets(client.paused, _MILLISECONDS).items():
                self.note(partition, end)
        except kafka_errors.KafkaError as error:
            # keep the older end, on which only the lag depends
            logger.debug("Could not get the end offsets of paused partitions: %r", error)
        self._refresh_at = time.monotonic() + _SECONDS

    def lag(self, snapshot: Mapping[Partition, Progress]) -> dict[Partition, int]:
        """The number of records that are not done, by partition."""
        return {
            partition: offset_map.lag(0, max(end, progress.offset), progress.offset, progress.done)
            for partition, progress in snapshot.items()
            if (end := self._ends.get(partition)) is not None
        }
