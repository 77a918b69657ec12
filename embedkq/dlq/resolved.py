"""Records which letters of a topic are resolved, as committed offsets of a consumer group and as
maps of the resolved letters above them.

Kafka has no conditional commit (one that fails if somebody else has committed meanwhile). So each
commit first reads and merges what is committed, and at the end everything is read twice more. If
two commands commit at the same moment, a resolved letter may show as open again. An open letter
never shows as resolved.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence

from embedkq._clients.reader import TopicReader
from embedkq._formats import offset_map
from embedkq._formats.offset_map import OffsetRanges
from embedkq._formats.partition_progress import Committed, Log, make_commit
from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger
from embedkq.errors import EmbedkqError

logger = SafeLogger("embedkq.dlq")

AGAIN_SECONDS = 0.1
"""Seconds between two reads of what is committed."""
_TRIES = 6


class ResolvedLetters:
    """The resolved letters of a topic. One thread at a time.

    Args:
        logs: the logs of the topic's partitions. Commits for a deleted topic of the same name do
            not count.

    Raises:
        BrokerUnavailable, BrokerRefused, EmbedkqError: as `TopicReader.progress`.
    """

    def __init__(self, client: TopicReader, logs: Mapping[Partition, Log]) -> None:
        self._client = client
        self._logs = logs
        self._known = self._read()
        self._added: dict[Partition, OffsetRanges] = {}

    def __contains__(self, place: tuple[Partition, int]) -> bool:
        partition, offset = place
        start, runs = self._known[partition]
        if offset < start:
            return True
        index = (
            bisect_left(runs, (offset + 1,)) - 1
        )  # of the last run that begins at or before the offset
        return index >= 0 and offset < runs[index][1]

    def starting_offset(self, partition: Partition) -> int:
        """Offset of the first open letter. All letters below are resolved, or Kafka no longer keeps
        them."""
        return self._known[partition][0]

    def open_count(self) -> int:
        """The number of open letters, computed from offsets. Gaps in the log count as letters."""
        count = 0
        for partition, log in self._logs.items():
            start, runs = self._known[partition]
            count += log.end - start - sum(above - below for below, above in runs)
        return count

    def room(self, partition: Partition, offsets: Sequence[int]) -> int:
        """How many of these rising offsets, counted from the first, fit into the map, whose length
        is limited."""
        start, runs = self._known[partition]
        fits, misses = 0, len(offsets) + 1
        count = len(offsets)
        while misses - fits > 1:
            _, has_room = self._make_commit(
                partition, *offset_map.merge(start, runs, 0, _runs_of(offsets[:count]))
            )
            if has_room:
                fits = count
            else:
                misses = count
            count = (fits + misses) // 2
        return fits

    def check(self) -> None:
        """Check that letters can be recorded, by committing the known ones again. Call this before
        any action.

        Raises:
            BrokerUnavailable, BrokerRefused, EmbedkqError: as `TopicReader.commit`.
        """
        self._commit(self._logs)

    def add(self, places: Iterable[tuple[Partition, int]]) -> None:
        """Record that the letters at these partitions and offsets are resolved, merged with what
        others have committed.

        Raises:
            BrokerUnavailable, BrokerRefused, EmbedkqError: as `TopicReader.commit`. The letters are
                then still open.
        """
        offsets: dict[Partition, list[int]] = {}
        for partition, offset in places:
            offsets.setdefault(partition, []).append(offset)
        for partition, added in offsets.items():
            _, self._added[partition] = offset_map.merge(
                -1, self._added.get(partition, ()), -1, _runs_of(sorted(added))
            )
        self._commit(offsets)

    def confirm(self) -> None:
        """Check that everything added is still committed, and add it again if somebody else has
        overwritten it.

        Raises:
            EmbedkqError: it is not; the message names possible reasons.
        """
        seen = False
        for _ in range(_TRIES):
            self._known = self._read()
            missing = [
                partition
                for partition, runs in self._added.items()
                if not self._has(partition, runs)
            ]
            if missing:
                self._commit(missing)
            elif seen:
                return
            seen = not missing
            time.sleep(
                AGAIN_SECONDS
            )  # a command that read before the last commit has committed by then
        topic = next(iter(self._logs)).topic
        raise EmbedkqError(
            f"group {self._client.group!r} did not keep the record of the resolved letters of"
            f" topic {topic!r}: some of them will show as open again. Either the broker"
            " drops commit metadata (the development broker does), or another `kq dlq` is working"
            " on the same topic"
        )

    def _has(self, partition: Partition, added: OffsetRanges) -> bool:
        start, runs = self._known[partition]
        return offset_map.merge(start, runs, 0, added) == (start, runs)

    def _commit(self, partitions: Collection[Partition]) -> None:
        self._known |= self._read(partitions)
        for partition in partitions:
            self._known[partition] = offset_map.merge(
                *self._known[partition], 0, self._added.get(partition, ())
            )
        self._client.commit(
            {
                partition: self._make_commit(partition, *self._known[partition])[0]
                for partition in partitions
            }
        )

    def _make_commit(
        self, partition: Partition, start: int, runs: OffsetRanges
    ) -> tuple[Committed, bool]:
        return make_commit(start, runs, self._logs[partition].topic)

    def _read(
        self, partitions: Collection[Partition] | None = None
    ) -> dict[Partition, tuple[int, OffsetRanges]]:
        wanted = {
            partition: log
            for partition, log in self._logs.items()
            if partitions is None or partition in partitions
        }
        read: dict[Partition, tuple[int, OffsetRanges]] = {
            partition: (log.first, ()) for partition, log in wanted.items()
        }
        for partition, progress in self._client.progress(wanted).items():
            # letters that Kafka no longer keeps count as resolved
            read[partition] = offset_map.merge(*read[partition], progress.offset, progress.done)
            if progress.damage:
                logger.warning(
                    "The commit metadata of group %s for %s cannot be read."
                    " Resolved letters above offset %d show as open: %s",
                    self._client.group,
                    partition,
                    progress.offset,
                    progress.damage,
                )
        return read


def _runs_of(offsets: Sequence[int]) -> OffsetRanges:
    """Rising offsets as runs."""
    runs: list[tuple[int, int]] = []
    for offset in offsets:
        if runs and offset == runs[-1][1]:
            runs[-1] = (runs[-1][0], offset + 1)
        elif not runs or offset > runs[-1][1]:
            runs.append((offset, offset + 1))
    return tuple(runs)
