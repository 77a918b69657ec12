"""Progress: how far one partition is done. Immutable; any thread."""

from __future__ import annotations

from typing import NamedTuple

from embedkq._formats import offset_map
from embedkq._formats.commit_metadata import NOTHING, UNKNOWN_TOPIC, CommitMetadata, TopicMark
from embedkq._formats.offset_map import OffsetRanges


class Progress(NamedTuple):
    """How far one partition is done.

    Attributes:
        offset: the first that is not done: what may be committed.
        done: the runs that are done above it.
        epoch: of the assignment.
        notes: what is known of those that are not done.
        topic: which topic the offsets are of.
    """

    offset: int
    done: OffsetRanges
    epoch: int
    notes: CommitMetadata = NOTHING
    topic: TopicMark = UNKNOWN_TOPIC

    def with_done(self, offset: int) -> Progress:
        """The same with one more offset done."""
        start, done = offset_map.merge(self.offset, self.done, 0, ((offset, offset + 1),))
        return Progress(start, done, self.epoch, self.notes.without(offset), self.topic)

    def given_up(self) -> Progress:
        """The same as of an assignment that ends in order."""
        return self._replace(notes=self.notes.given_up()) if self.notes != NOTHING else self
