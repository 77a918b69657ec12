"""Moves a consumer group's committed offsets: back, to run jobs again, or forward, to skip jobs.
One thread at a time.

Moves are planned first, so that they can be shown before they are committed. Nothing is deleted: a
rewind undoes a purge as long as Kafka keeps the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from embedkq._clients import admin
from embedkq._clients.broker_errors import Asked, no_topic
from embedkq._clients.reader import TopicReader
from embedkq._formats import offset_map
from embedkq._formats.offset_map import OffsetRanges
from embedkq._formats.partition_progress import Committed, Log, make_commit
from embedkq._partition import Partition
from embedkq.errors import EmbedkqError

_MOST_NAMED = 5


class Move(NamedTuple):
    """A change of one partition's committed offset.

    Attributes:
        partition: which.
        committed: the present offset; None if the group has not committed one.
        target: the new offset.
        records: number of records that run again (rewind) or are skipped (purge). Gaps left by
            compaction count too.
    """

    partition: Partition
    committed: int | None
    target: int
    records: int


class GroupOffsets:
    """The committed offsets of a group in a topic, read at construction.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        topic: the topic.
        group: the consumer group.
        numbers: of the partitions to move; empty for all.
        options: further options of kafka-python's KafkaConsumer.

    Raises:
        BrokerUnavailable: no broker answered in time; any method may raise it later.
        BrokerRefused: the user lacks a right; any method may raise it later.
        EmbedkqError: the topic or a partition does not exist, or the group has members.
    """

    def __init__(
        self,
        hosts: str,
        topic: str,
        group: str,
        numbers: Sequence[int],
        options: Mapping[str, Any],
    ) -> None:
        self.topic = topic
        self.group = group
        self._client = TopicReader(hosts, group, options)
        try:
            self._logs = self._choose(self._client.logs(topic), hosts, numbers)
            self._progress = self._client.progress(self._logs)
            self._refuse_members(hosts, options)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> GroupOffsets:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def rewind(self, *, offset: int | None = None, time: int | None = None) -> list[Move]:
        """Plan moves back to an offset, or to the first record at a time (Unix milliseconds) or
        later, or without either to the oldest record that Kafka keeps.

        Partitions that are already at or before the target are left out: a rewind never skips a
        job. Partitions without a commit are left out too. A commit for a deleted topic of the same
        name does not count.
        """
        targets = self._targets(offset, time)
        to_start = offset is None and time is None
        moves = []
        for partition, (first, last, _) in self._logs.items():
            target = min(max(first, first if to_start else targets.get(partition, last)), last)
            committed, done = self._progress_in(partition)
            if committed is not None and target < committed:
                # Records done above the committed offset are known only from the commit's metadata,
                # which the move discards.
                moves.append(Move(partition, committed, target, committed - target + _count(done)))
        return moves

    def purge(self, *, before: int | None = None) -> list[Move]:
        """Plan moves past all records, or past the records older than a time (Unix milliseconds).

        Partitions without waiting records are left out.
        """
        targets = self._targets(None, before) if before is not None else {}
        moves = []
        for partition, (first, last, _) in self._logs.items():
            target = min(targets.get(partition, last), last)
            committed, done = self._progress_in(partition)
            start = max(first, committed or 0)
            waiting = target - start - _count(done, target)
            if target > start and waiting > 0:
                moves.append(
                    Move(
                        partition, committed, offset_map.merge(start, done, target, ())[0], waiting
                    )
                )
        return moves

    def commit(self, moves: Iterable[Move]) -> None:
        """Commit the moves.

        Raises:
            EmbedkqError: the group has members now.
        """
        self._client.commit({move.partition: self._commit_after(move) for move in moves})

    def _commit_after(self, move: Move) -> Committed:
        """The commit for a move. A purge keeps the map of records done above the new offset; a
        rewind drops it."""
        committed, done = self._progress_in(move.partition)
        is_purge = committed is not None and move.target >= committed
        start, above = (
            offset_map.merge(committed or 0, done, move.target, ())
            if is_purge
            else (move.target, ())
        )
        return make_commit(start, above, self._logs[move.partition].topic)[0]

    def _progress_in(self, partition: Partition) -> tuple[int | None, OffsetRanges]:
        progress = self._progress.get(partition)
        return (None, ()) if progress is None else (progress.offset, progress.done)

    def _targets(self, offset: int | None, time: int | None) -> Mapping[Partition, int]:
        if offset is not None:
            return dict.fromkeys(self._logs, offset)
        if time is not None:
            return self._client.offsets_at(self._logs, time)
        return {}

    def _choose(
        self, logs: Mapping[Partition, Log], hosts: str, numbers: Sequence[int]
    ) -> dict[Partition, Log]:
        if not logs:
            raise no_topic(Asked(hosts, "DESCRIBE", self.topic))
        chosen = [Partition(self.topic, number) for number in numbers]
        for partition in chosen:
            if partition not in logs:
                raise EmbedkqError(
                    f"topic {self.topic!r} has no partition {partition.number}: its partitions are"
                    f" 0 to {max(logs).number}"
                )
        return {
            partition: found
            for partition, found in logs.items()
            if partition in chosen or not chosen
        }

    def _refuse_members(self, hosts: str, options: Mapping[str, Any]) -> None:
        members = sorted(admin.member_ids(hosts, self.group, options))
        if members:
            named = ", ".join(members[:_MOST_NAMED]) + (
                " and others" if len(members) > _MOST_NAMED else ""
            )
            raise EmbedkqError(
                f"group {self.group!r} has {len(members)} members ({named}), which would overwrite"
                f" the offsets: stop these workers first (`kq info --group={self.group}` shows"
                " them)"
            )


def _count(runs: OffsetRanges, below: int | None = None) -> int:
    """Number of offsets in the ranges, or the number of those below an offset."""
    return sum(
        max(0, (last if below is None else min(last, below)) - first) for first, last in runs
    )
