"""Interprets a consumer group's commit for the log of one partition, for workers and for all `kq`
commands.

An offset identifies a record only within one life of a log. If the topic was deleted and created
again, or if the commit is behind the log's end (after a broker restarted empty), the commit says
nothing about the present log. Pure; any thread.
"""

from __future__ import annotations

from typing import NamedTuple

from embedkq._formats import commit_metadata, offset_map
from embedkq._formats.commit_metadata import NOTHING, TopicMark
from embedkq._formats.offset_map import OffsetRanges


class Log(NamedTuple):
    """A partition's log, as Kafka reports it.

    Attributes:
        first: offset of the oldest record that Kafka keeps.
        end: offset behind the last record, including records of open transactions. Read it after
            the commits that you compare with it. Otherwise records done in between look like a
            commit of another log.
        topic: identifies the topic.
    """

    first: int
    end: int
    topic: TopicMark


class Committed(NamedTuple):
    """A group's commit for a partition."""

    offset: int
    metadata: str


class PartitionProgress(NamedTuple):
    """A group's progress in a log.

    Attributes:
        offset: all records below it are done.
        done: what is done above it.
        damage: why `done` is unknown; empty if it is known.
    """

    offset: int
    done: OffsetRanges = ()
    damage: str = ""


def read_progress(committed: Committed | None, log: Log) -> PartitionProgress | None:
    """A group's progress in this log; None if it has no commit for it."""
    if committed is None or why_of_another_log(committed, log):
        return None
    try:
        return PartitionProgress(committed.offset, commit_metadata.decode(*committed)[0])
    except (
        ValueError
    ) as error:  # written by another program, or damaged: use only the offset, as workers do
        return PartitionProgress(committed.offset, damage=str(error))


def why_of_another_log(committed: Committed, log: Log) -> str:
    """Why the commit belongs to another log, as part of a sentence; empty if it seems to belong to
    this one."""
    if log.topic.is_another_than(commit_metadata.read_topic(*committed)):
        return (
            f"the topic was deleted and created again, and the committed offset {committed.offset}"
            " belongs to the old one"
        )
    if committed.offset > log.end:
        return f"its log ends at offset {log.end}, before the committed offset {committed.offset}"
    return ""


def count_lag(progress: PartitionProgress | None, log: Log) -> int:
    """The number of offsets in a log that a group has not done; all of them if it has no commit for
    it."""
    return (
        log.end - log.first
        if progress is None
        else offset_map.lag(log.first, log.end, progress.offset, progress.done)
    )


def make_commit(offset: int, done: OffsetRanges, topic: TopicMark) -> tuple[Committed, bool]:
    """The commit for this progress in a log of this topic, and whether all of `done` fits into it.

    Raises:
        ValueError: `offset` is not an offset, or `done` is not a valid `OffsetRanges`.
    """
    text = commit_metadata.encode(offset, done, NOTHING, topic=topic)
    return Committed(offset, text), commit_metadata.decode(offset, text)[0] == tuple(done)
