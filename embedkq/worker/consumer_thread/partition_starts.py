"""Decides where reading a partition starts, and whether its log is still the one that was read
before. Consumer thread.

An offset identifies a record only within one life of a log. A new life begins when a topic is
deleted and created again, when a broker restarts empty, or when a log is truncated. The old offsets
say nothing about it, so it is read from its start. This module uses no Kafka client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from embedkq._formats import commit_metadata, offset_map
from embedkq._formats.commit_metadata import UNKNOWN_TOPIC, TopicMark
from embedkq._formats.partition_progress import Committed, Log, read_progress, why_of_another_log
from embedkq._partition import Partition


class Start(NamedTuple):
    """Where reading a partition starts.

    Attributes:
        offset: all records below it are done.
        metadata: the commit's metadata: the map of what is done above the offset, and notes.
        position: the first offset to fetch. It is above `offset` if retention has deleted the
            records in between.
        topic: identifies the topic of these offsets.
        life: number of new lives of the log since this worker started.
        warning: text to log, or None.
        end: the offset behind the last record at that time.
    """

    offset: int
    metadata: str
    position: int
    topic: TopicMark = UNKNOWN_TOPIC
    life: int = 0
    warning: str | None = None
    end: int = 0


@dataclass
class _Known:
    """A partition that was started here: the life of its log, its topic, and the offset up to which
    it was read."""

    life: int
    topic: TopicMark
    reached: int
    truncated: bool = False
    divergence: int | None = None


class PartitionStarts:
    """Remembers each partition that was started here, even after its release.

    Args:
        latest: whether a group without any commit skips existing records.
    """

    def __init__(self, latest: bool) -> None:
        self._latest = latest
        self._known: dict[Partition, _Known] = {}

    def find(
        self,
        partition: Partition,
        committed: Committed | None,
        log: Log,
        confirmed: int = 0,
        others: Iterable[TopicMark] = (),
    ) -> Start:
        """Find the start of a partition that was assigned or whose log has a new life.

        Args:
            committed: the group's present commit; None if there is none.
            log: the partition's present log.
            confirmed: the last offset that this worker committed itself.
            others: topics of the other partitions' commits, if `committed` is None.
        """
        known = self._known.get(partition)
        life = 0 if known is None else known.life
        read = _reading_is_of_another(known, log)
        other_log = "" if committed is None else why_of_another_log(committed, log)
        if (
            read
            and not other_log
            and committed is not None
            and known is not None
            and log.topic.is_another_than(known.topic)
            and 0 != log.topic.id == commit_metadata.read_topic(*committed).id
        ):
            # another host has already started the new topic
            return self._continued(partition, committed, log, life + 1)
        if read or other_log:
            return self._restarted(partition, known, log, read or other_log)
        if committed is None:
            skips = self._latest and known is None
            skips = skips and _has_never_committed(partition, log, others)
            begin = log.end if skips else log.first
            return Start(begin, "", begin, log.topic, life)
        if known is not None and committed.offset < confirmed:
            return self._set_back(partition, committed, log, life + 1, confirmed)
        return self._continued(partition, committed, log, life)

    def _set_back(
        self, partition: Partition, committed: Committed, log: Log, life: int, confirmed: int
    ) -> Start:
        offset, metadata = committed
        warning = (
            f"Partition {partition.number} of topic {partition.topic} goes back to offset"
            f" {offset}: its committed offset was set back from {confirmed}. Jobs from there on run"
            " again."
        )
        return Start(offset, metadata, max(offset, log.first), log.topic, life, warning)

    def _continued(self, partition: Partition, committed: Committed, log: Log, life: int) -> Start:
        offset, metadata = committed
        warning = None
        progress = read_progress(committed, log)
        done = () if progress is None else progress.done
        if offset < log.first and (lost := offset_map.lag(0, log.first, offset, done)):
            warning = _lost_to_retention(partition, lost, offset, log.first)
        return Start(offset, metadata, max(offset, log.first), log.topic, life, warning)

    def _restarted(
        self, partition: Partition, known: _Known | None, log: Log, reason: str
    ) -> Start:
        begin = log.first
        if (
            known is not None
            and known.divergence is not None
            and known.topic.id == log.topic.id != 0
        ):
            begin = max(begin, known.divergence)  # records before it are those that were read
        warning = (
            f"Partition {partition.number} of topic {partition.topic} restarts at offset {begin}:"
            f" {reason}. Its present records will run. Running jobs of the old log finish; its"
            " waiting jobs are dropped."
        )
        return Start(begin, "", begin, log.topic, 0 if known is None else known.life + 1, warning)

    # After the start.

    def started(self, partition: Partition, start: Start) -> None:
        """Record that the partition was started."""
        self._known[partition] = _Known(start.life, start.topic, start.position)

    def reached(self, partition: Partition, position: int) -> None:
        """Record that a started partition was read up to this offset."""
        known = self._known[partition]
        known.reached = max(position, known.reached)

    def read_up_to(self, partition: Partition) -> int:
        """The offset up to which a started partition was read."""
        return self._known[partition].reached

    def is_before(self, partition: Partition, offset: int) -> bool:
        """Whether a started partition was already read beyond this offset."""
        known = self._known.get(partition)
        return known is not None and offset < known.reached

    def of_another_topic(self, partitions: Iterable[Partition], topic: TopicMark) -> set[Partition]:
        """The partitions that were started in another topic than this one."""
        return {
            partition
            for partition in partitions
            if partition in self._known and topic.is_another_than(self._known[partition].topic)
        }

    def truncated(self, partition: Partition, divergence: int) -> None:
        """Record that Kafka has lost records that were already read, from `divergence` on."""
        known = self._known.get(partition)
        if known is not None:
            known.truncated, known.divergence = True, divergence

    def passed_by_retention(self, partition: Partition, log: Log) -> str | None:
        """A warning if Kafka has deleted records of a started partition before they were read, or
        None."""
        reached = self._known[partition].reached
        if reached >= log.first:
            return None
        self._known[partition].reached = log.first
        return _lost_to_retention(partition, log.first - reached, reached, log.first)


def _lost_to_retention(partition: Partition, count: int, offset: int, first: int) -> str:
    records, verb = ("1 record", "is") if count == 1 else (f"{count} records", "are")
    return (
        f"{records} of {partition} {verb} lost: retention has deleted everything before offset"
        f" {first}, and only records before {offset} were done or fetched. Continuing at {first}."
        " Raise the topic's retention.ms and retention.bytes, or start more workers, so that"
        " records are kept until they run."
    )


def _reading_is_of_another(known: _Known | None, log: Log) -> str:
    """Why the log is not the one that was read here; empty if it seems to be the same."""
    if known is None:
        return ""
    if log.topic.is_another_than(known.topic):
        return (
            "the topic was deleted and created again, and its old life was read up to offset"
            f" {known.reached}"
        )
    if known.truncated:
        return (
            f"Kafka has lost records before offset {known.reached}, up to which the partition was"
            " read"
        )
    if known.reached > log.end:
        return (
            f"its log ends at offset {log.end}, before offset {known.reached}, up to which the"
            " partition was read"
        )
    return ""


def _has_never_committed(partition: Partition, log: Log, others: Iterable[TopicMark]) -> bool:
    """Whether a group without a commit for this partition is new to it. That is so if all its other
    commits were written when the partition already existed."""
    return all(
        mark.partitions > partition.number and not log.topic.is_another_than(mark)
        for mark in others
    )


def topic_marks(found: Mapping[Partition, Committed]) -> list[TopicMark]:
    """The topics that commits were written for."""
    return [commit_metadata.read_topic(*committed) for committed in found.values()]
