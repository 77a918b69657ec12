"""Dealt: which letters of a topic were retried or dropped, kept in a consumer group as committed
offsets and maps of what is done above.

Kafka has no commit that succeeds only if nobody else has committed meanwhile. So what is committed
is first read and merged, and at the end it is looked at twice more. Two that commit at the same
moment can only forget: a letter that was dealt with is open again, and never one that was not dealt
with is taken for done.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence

from embedkq._clients.reader import TopicReader
from embedkq._formats import offset_map
from embedkq._formats.offset_map import OffsetRanges
from embedkq._formats.partition_progress import Committed, Log, commit_of
from embedkq._safe_logging import SafeLogger
from embedkq.errors import EmbedkqError

logger = SafeLogger("embedkq.dlq")

AGAIN_SECONDS = 0.1
"""Between two looks at what is kept."""
_TRIES = 6


class ResolvedLetters:
    """What is dealt with in a topic. One thread at a time.

    Args:
        logs: what the topic's partitions hold. What was dealt with in another topic of the same
            name, since deleted, does not count.

    Raises:
        BrokerUnavailable, BrokerRefused, EmbedkqError: as `Client.progress`.
    """

    def __init__(self, client: TopicReader, topic: str, logs: Mapping[int, Log]) -> None:
        self._client = client
        self._topic = topic
        self._logs = logs
        self._known = self._read()
        self._added: dict[int, OffsetRanges] = {}

    def __contains__(self, place: tuple[int, int]) -> bool:
        partition, offset = place
        start, runs = self._known[partition]
        if offset < start:
            return True
        index = (
            bisect_left(runs, (offset + 1,)) - 1
        )  # of the last run that begins at the offset or before
        return index >= 0 and offset < runs[index][1]

    def starting_offset(self, partition: int) -> int:
        """Offset of the first letter that is still to be dealt with; what is below is dealt with,
        or not kept any more."""
        return self._known[partition][0]

    def open_count(self) -> int:
        """How many letters are still to be dealt with; as offsets tell, so that holes in them
        count."""
        count = 0
        for partition, log in self._logs.items():
            start, runs = self._known[partition]
            count += log.end - start - sum(above - below for below, above in runs)
        return count

    def room(self, partition: int, offsets: Sequence[int]) -> int:
        """How many of these rising offsets, from the first on, can be noted beside what is known:
        the map has so many characters."""
        start, runs = self._known[partition]
        fits, misses = 0, len(offsets) + 1
        count = len(offsets)
        while misses - fits > 1:
            _, has_room = self._commit_of(
                partition, *offset_map.merge(start, runs, 0, _runs_of(offsets[:count]))
            )
            if has_room:
                fits = count
            else:
                misses = count
            count = (fits + misses) // 2
        return fits

    def check(self) -> None:
        """Before anything is done: see that it can be noted, by committing what is known once more.

        Raises:
            BrokerUnavailable, BrokerRefused, EmbedkqError: as `Client.commit`.
        """
        self._commit(self._logs)

    def add(self, places: Iterable[tuple[int, int]]) -> None:
        """These partitions and offsets are dealt with now: commit that, merged with what others
        have committed.

        Raises:
            BrokerUnavailable, BrokerRefused, EmbedkqError: as `Client.commit`. Then they are still
                open.
        """
        offsets: dict[int, list[int]] = {}
        for partition, offset in places:
            offsets.setdefault(partition, []).append(offset)
        for partition, added in offsets.items():
            _, self._added[partition] = offset_map.merge(
                -1, self._added.get(partition, ()), -1, _runs_of(sorted(added))
            )
        self._commit(offsets)

    def confirm(self) -> None:
        """See that all that was added is kept, and add it again where somebody else has overwritten
        it.

        Raises:
            EmbedkqError: it is not kept; the message says why that may be.
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
            )  # whoever has read before the last commit has committed by then
        raise EmbedkqError(
            f"what was dealt with in topic {self._topic!r} cannot be kept in group"
            f" {self._client.group!r}: some of these letters will show as open again. The broker"
            " drops commit metadata (the development broker does), or another `kq dlq` works on"
            " the same topic"
        )

    def _has(self, partition: int, added: OffsetRanges) -> bool:
        start, runs = self._known[partition]
        return offset_map.merge(start, runs, 0, added) == (start, runs)

    def _commit(self, partitions: Collection[int]) -> None:
        self._known |= self._read(partitions)
        for partition in partitions:
            self._known[partition] = offset_map.merge(
                *self._known[partition], 0, self._added.get(partition, ())
            )
        self._client.commit(
            self._topic,
            {number: self._commit_of(number, *self._known[number])[0] for number in partitions},
        )

    def _commit_of(self, partition: int, start: int, runs: OffsetRanges) -> tuple[Committed, bool]:
        return commit_of(start, runs, self._logs[partition].topic)

    def _read(
        self, partitions: Collection[int] | None = None
    ) -> dict[int, tuple[int, OffsetRanges]]:
        wanted = {
            number: log
            for number, log in self._logs.items()
            if partitions is None or number in partitions
        }
        read: dict[int, tuple[int, OffsetRanges]] = {
            number: (log.first, ()) for number, log in wanted.items()
        }
        for number, progress in self._client.progress(
            self._topic, wanted
        ).items():  # what is not kept any more is dealt with
            read[number] = offset_map.merge(*read[number], progress.offset, progress.done)
            if progress.damage:
                logger.warning(
                    "What group %s has noted for partition %d of topic %s above offset %d cannot be"
                    " read, and those letters count as open: %s",
                    self._client.group,
                    number,
                    self._topic,
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
