"""Moving a consumer group's committed offsets: back, to run jobs once more, or past jobs that are
not to run. One thread at a time.

What is to change is planned first, so that it can be shown. Nothing is deleted: a purge is undone
by a rewind, as long as Kafka keeps the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from embedkq._clients import admin
from embedkq._clients.broker_errors import Asked, no_topic
from embedkq._clients.reader import TopicReader
from embedkq._formats import offset_map
from embedkq._formats.offset_map import OffsetRanges
from embedkq._formats.partition_progress import Committed, Log, commit_of
from embedkq.errors import EmbedkqError

_MOST_NAMED = 5


class Move(NamedTuple):
    """How one partition's committed offset changes.

    Attributes:
        partition: its number.
        committed: the offset now; None if the group has committed none.
        target: the offset afterwards.
        records: how many records run once more (rewind), or are not run (purge). Holes that
            compaction has left count too.
    """

    partition: int
    committed: int | None
    target: int
    records: int


class GroupOffsets:
    """The committed offsets of one group in one topic, as they are when this is made.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        topic: the topic.
        group: the consumer group.
        partitions: numbers of those that are meant; empty for all.
        options: further options of kafka-python's KafkaConsumer.

    Raises:
        BrokerUnavailable: no broker answered in time; any method may raise it later.
        BrokerRefused: this user may not; any method may raise it later.
        EmbedkqError: there is no such topic or partition, or the group has members.
    """

    def __init__(
        self,
        hosts: str,
        topic: str,
        group: str,
        partitions: Sequence[int],
        options: Mapping[str, Any],
    ) -> None:
        self.topic = topic
        self.group = group
        self._client = TopicReader(hosts, group, options)
        try:
            self._logs = self._choose(self._client.logs(topic), hosts, partitions)
            self._progress = self._client.progress(topic, self._logs)
            self._refuse_members(hosts, options)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> GroupOffsets:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def rewind(self, *, offset: int | None = None, time: int | None = None) -> list[Move]:
        """Moves back to an offset, to the first record of a time (Unix milliseconds) or later, or
        else to the oldest record kept.

        Partitions that are there already, or before, are left out: a rewind never skips a job. So
        are those of which the group has committed nothing, which includes what it has committed of
        a topic of the same name that was deleted since.
        """
        targets = self._targets(offset, time)
        to_start = offset is None and time is None
        moves = []
        for number, (first, last, _) in self._logs.items():
            target = min(max(first, first if to_start else targets.get(number, last)), last)
            committed, done = self._progress_in(number)
            if committed is not None and target < committed:
                # What is done above the committed offset is known from its metadata alone, and is
                # forgotten with it.
                moves.append(Move(number, committed, target, committed - target + _count(done)))
        return moves

    def purge(self, *, before: int | None = None) -> list[Move]:
        """Moves past all that the partitions hold now, or past what is older than a time (Unix
        milliseconds).

        Partitions in which nothing waits are left out.
        """
        targets = self._targets(None, before) if before is not None else {}
        moves = []
        for number, (first, last, _) in self._logs.items():
            target = min(targets.get(number, last), last)
            committed, done = self._progress_in(number)
            start = max(first, committed or 0)
            waiting = target - start - _count(done, target)
            if target > start and waiting > 0:
                moves.append(
                    Move(number, committed, offset_map.merge(start, done, target, ())[0], waiting)
                )
        return moves

    def commit(self, moves: Iterable[Move]) -> None:
        """Have these committed.

        Raises:
            EmbedkqError: the group has got members meanwhile.
        """
        self._client.commit(
            self.topic, {move.partition: self._commit_after(move) for move in moves}
        )

    def _commit_after(self, move: Move) -> Committed:
        """With what is known to be done above the new offset; after a rewind nothing is."""
        committed, done = self._progress_in(move.partition)
        is_purge = committed is not None and move.target >= committed
        start, above = (
            offset_map.merge(committed or 0, done, move.target, ())
            if is_purge
            else (move.target, ())
        )
        return commit_of(start, above, self._logs[move.partition].topic)[0]

    def _progress_in(self, partition: int) -> tuple[int | None, OffsetRanges]:
        progress = self._progress.get(partition)
        return (None, ()) if progress is None else (progress.offset, progress.done)

    def _targets(self, offset: int | None, time: int | None) -> Mapping[int, int]:
        if offset is not None:
            return dict.fromkeys(self._logs, offset)
        if time is not None:
            return self._client.offsets_at(self.topic, self._logs, time)
        return {}

    def _choose(
        self, logs: Mapping[int, Log], hosts: str, partitions: Sequence[int]
    ) -> dict[int, Log]:
        if not logs:
            raise no_topic(Asked(hosts, "DESCRIBE", self.topic))
        for number in partitions:
            if number not in logs:
                raise EmbedkqError(
                    f"topic {self.topic!r} has no partition {number}: it has 0 to {max(logs)}"
                )
        return {
            number: found
            for number, found in logs.items()
            if number in partitions or not partitions
        }

    def _refuse_members(self, hosts: str, options: Mapping[str, Any]) -> None:
        members = sorted(admin.member_ids(hosts, self.group, options))
        if members:
            named = ", ".join(members[:_MOST_NAMED]) + (
                " and others" if len(members) > _MOST_NAMED else ""
            )
            raise EmbedkqError(
                f"group {self.group!r} has {len(members)} members ({named}), which would commit"
                f" their own offsets: stop these workers first (`kq info --group={self.group}`"
                " shows them)"
            )


def _count(runs: OffsetRanges, below: int | None = None) -> int:
    """How many offsets the runs hold, or how many of these lie below another one."""
    return sum(
        max(0, (last if below is None else min(last, below)) - first) for first, last in runs
    )
