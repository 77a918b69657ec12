"""What a consumer group's commit says of one partition's log: the one place that decides it for
workers and for every `kq` command.

An offset names a record only within one life of a log. A commit of a topic that was deleted and
created again, or one behind the log's end (a broker that was restarted empty), says nothing of the
log that is there now. Pure; any thread.
"""

from __future__ import annotations

from typing import NamedTuple

from embedkq._formats import commit_metadata, offset_map
from embedkq._formats.commit_metadata import NOTHING, TopicMark
from embedkq._formats.offset_map import OffsetRanges


class Log(NamedTuple):
    """What Kafka tells of a partition.

    Attributes:
        first: offset of the oldest record kept.
        end: offset behind the last record, those of open transactions included. Asked for after the
            commits that are compared with it, or what was done in between looks like a commit of
            another log.
        topic: which topic it is of.
    """

    first: int
    end: int
    topic: TopicMark


class Committed(NamedTuple):
    """What the group has committed of a partition."""

    offset: int
    metadata: str


class PartitionProgress(NamedTuple):
    """How far a group is in a log.

    Attributes:
        offset: all records below it are done.
        done: what is done above it.
        damage: why `done` is not known; empty where it is.
    """

    offset: int
    done: OffsetRanges = ()
    damage: str = ""


def progress_of(committed: Committed | None, log: Log) -> PartitionProgress | None:
    """How far a group is in this log; None if it has committed nothing of it."""
    if committed is None or why_of_another_log(committed, log):
        return None
    try:
        return PartitionProgress(committed.offset, commit_metadata.decode(*committed)[0])
    except (
        ValueError
    ) as error:  # of another program, or damaged: workers go by the offset alone then, too
        return PartitionProgress(committed.offset, damage=str(error))


def why_of_another_log(committed: Committed, log: Log) -> str:
    """Why the commit is not of this log, as part of a sentence; empty if it is, as far as one can
    tell."""
    if log.topic.is_another_than(commit_metadata.topic_of(*committed)):
        return (
            f"the topic was deleted and created again, and offset {committed.offset}, which is"
            " committed, was of the old one"
        )
    if committed.offset > log.end:
        return (
            f"its log ends at offset {log.end}, before offset {committed.offset}, which is"
            " committed"
        )
    return ""


def lag_of(progress: PartitionProgress | None, log: Log) -> int:
    """How many offsets of a log a group has still to do: all of them where it has committed nothing
    of it."""
    return (
        log.end - log.first
        if progress is None
        else offset_map.lag(log.first, log.end, progress.offset, progress.done)
    )


def commit_of(offset: int, done: OffsetRanges, topic: TopicMark) -> tuple[Committed, bool]:
    """What to commit for this progress in a log of this topic; and whether all of `done` has room
    in it.

    Raises:
        ValueError: `offset` is no offset, or `done` is not as `OffsetRanges` says.
    """
    text = commit_metadata.encode(offset, done, NOTHING, topic=topic)
    return Committed(offset, text), commit_metadata.decode(offset, text)[0] == tuple(done)
