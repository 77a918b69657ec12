"""PartitionStarts: where the reading of a partition begins, and whether its log is still the one
that was read before. Consumer's thread.

An offset names a record only within one life of a log. A topic that was deleted and created again,
a broker that was restarted empty, a log that was truncated: they begin a new life, in which the old
offsets say nothing, and which is read from its start. No Kafka client here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from embedkq._formats import commit_metadata, offset_map
from embedkq._formats.commit_metadata import UNKNOWN_TOPIC, TopicMark
from embedkq._formats.partition_progress import Committed, Log, progress_of, why_of_another_log


class Start(NamedTuple):
    """Where a partition begins.

    Attributes:
        offset: all below it is done.
        metadata: what came with it: what is done above it, and what is noted of the rest.
        position: what is fetched first; above `offset` where retention has deleted what is between.
        topic: which topic these are offsets of.
        life: how often the log has started anew since this worker began.
        warning: what to tell of it; None for nothing.
        end: offset behind the last record, as Kafka told it then.
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
    """A partition that began here: the life of its log, of which topic, and up to where it was
    read."""

    life: int
    topic: TopicMark
    reached: int
    truncated: bool = False
    divergence: int | None = None


class PartitionStarts:
    """Remembers each partition that began here, also after it was given up.

    Args:
        topic: its name.
        latest: whether a group that has never committed skips what is there already.
    """

    def __init__(self, topic: str, latest: bool) -> None:
        self._topic = topic
        self._latest = latest
        self._known: dict[int, _Known] = {}

    def find(
        self,
        partition: int,
        committed: Committed | None,
        log: Log,
        confirmed: int = 0,
        others: Iterable[TopicMark] = (),
    ) -> Start:
        """Where a partition that was assigned, or whose log starts anew, begins.

        Args:
            committed: what the group has committed of it now; None for nothing.
            log: what Kafka tells of it now.
            confirmed: what this worker has seen committed of it itself.
            others: what other partitions' commits were written for, where `committed` is None.
        """
        known = self._known.get(partition)
        life = 0 if known is None else known.life
        read = _reading_is_of_another(known, log)
        told = "" if committed is None else why_of_another_log(committed, log)
        if (
            read
            and not told
            and committed is not None
            and known is not None
            and log.topic.is_another_than(known.topic)
            and 0 != log.topic.id == commit_metadata.topic_of(*committed).id
        ):
            # another host has begun the new topic already
            return self._continued(partition, committed, log, life + 1)
        if read or told:
            return self._anew(partition, known, log, read or told)
        if committed is None:
            skips = self._latest and known is None
            skips = skips and _has_never_committed(partition, log, others)
            begin = log.end if skips else log.first
            return Start(begin, "", begin, log.topic, life)
        if known is not None and committed.offset < confirmed:
            return self._set_back(partition, committed, log, life + 1, confirmed)
        return self._continued(partition, committed, log, life)

    def _set_back(
        self, partition: int, committed: Committed, log: Log, life: int, confirmed: int
    ) -> Start:
        offset, metadata = committed
        warning = (
            f"Partition {partition} of topic {self._topic} begins again at offset {offset}:"
            f" somebody has set its committed offset back from {confirmed}. What was done from"
            " there on runs once more."
        )
        return Start(offset, metadata, max(offset, log.first), log.topic, life, warning)

    def _continued(self, partition: int, committed: Committed, log: Log, life: int) -> Start:
        offset, metadata = committed
        warning = None
        progress = progress_of(committed, log)
        done = () if progress is None else progress.done
        if offset < log.first and (lost := offset_map.lag(0, log.first, offset, done)):
            warning = self._lost_to_retention(partition, lost, offset, log.first)
        return Start(offset, metadata, max(offset, log.first), log.topic, life, warning)

    def _anew(self, partition: int, known: _Known | None, log: Log, reason: str) -> Start:
        begin = log.first
        if (
            known is not None
            and known.divergence is not None
            and known.topic.id == log.topic.id != 0
        ):
            begin = max(begin, known.divergence)  # what is before it is what was read
        warning = (
            f"Partition {partition} of topic {self._topic} starts anew at offset {begin}: {reason}."
            " What is in it now is run. What was known of the old log is forgotten: what runs of"
            " it ends, and what of it had not begun is not run."
        )
        return Start(begin, "", begin, log.topic, 0 if known is None else known.life + 1, warning)

    # Once it has begun.

    def begun(self, partition: int, start: Start) -> None:
        """The partition begins there."""
        self._known[partition] = _Known(start.life, start.topic, start.position)

    def reached(self, partition: int, position: int) -> None:
        """A partition that has begun was read up to there."""
        known = self._known[partition]
        known.reached = max(position, known.reached)

    def reached_of(self, partition: int) -> int:
        """Up to where a partition that has begun was read."""
        return self._known[partition].reached

    def is_before(self, partition: int, offset: int) -> bool:
        """Whether a partition that has begun was read up to a higher offset."""
        known = self._known.get(partition)
        return known is not None and offset < known.reached

    def of_another_topic(self, partitions: Iterable[int], topic: TopicMark) -> set[int]:
        """Those of the partitions that have begun in a topic which is not this one."""
        return {
            number
            for number in partitions
            if number in self._known and topic.is_another_than(self._known[number].topic)
        }

    def truncated(self, partition: int, divergence: int) -> None:
        """Kafka has lost records that were read, from `divergence` on."""
        known = self._known.get(partition)
        if known is not None:
            known.truncated, known.divergence = True, divergence

    def passed_by_retention(self, partition: int, log: Log) -> str | None:
        """What to tell of a partition that has begun: Kafka has deleted records before they were
        read. None if it has not."""
        reached = self._known[partition].reached
        if reached >= log.first:
            return None
        self._known[partition].reached = log.first
        return self._lost_to_retention(partition, log.first - reached, reached, log.first)

    def _lost_to_retention(self, partition: int, count: int, offset: int, first: int) -> str:
        records, verb = ("1 record", "is") if count == 1 else (f"{count} records", "are")
        return (
            f"{records} of partition {partition} of topic {self._topic} {verb} lost: Kafka has"
            f" deleted what is before offset {first} (retention), and only what is before {offset}"
            f" was done or taken. It goes on at {first}; jobs have to be kept longer than they"
            " wait: raise the topic's retention.ms and retention.bytes, or start more workers."
        )


def _reading_is_of_another(known: _Known | None, log: Log) -> str:
    """Why the log is not the one that was read here; empty if it is, as far as one can tell."""
    if known is None:
        return ""
    if log.topic.is_another_than(known.topic):
        return (
            f"the topic was deleted and created again, and offset {known.reached}, up to which it"
            " was read, was of the old one"
        )
    if known.truncated:
        return f"Kafka has lost records before offset {known.reached}, up to which it was read"
    if known.reached > log.end:
        return (
            f"its log ends at offset {log.end}, before offset {known.reached}, up to which it was"
            " read"
        )
    return ""


def _has_never_committed(partition: int, log: Log, others: Iterable[TopicMark]) -> bool:
    """Whether a group without a commit for this partition has only just begun: then its other
    commits know of the partition."""
    return all(
        mark.partitions > partition and not log.topic.is_another_than(mark) for mark in others
    )


def marks_of(found: Mapping[int, Committed]) -> list[TopicMark]:
    """What commits were written for."""
    return [commit_metadata.topic_of(*committed) for committed in found.values()]
