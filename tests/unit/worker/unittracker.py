"""An offset tracker with one partition, for tests of it."""

from __future__ import annotations

from partitions import P0

from embedkq._formats.offset_map import LIMIT, OffsetRanges
from embedkq.worker.control_thread.offset_tracker import OffsetTracker


def tracker_at(start: int = 10, done: OffsetRanges = (), limit: int = LIMIT) -> OffsetTracker:
    """One that has partition 0."""
    tracker = OffsetTracker(limit)
    tracker.assign(P0, 1, start, done)
    return tracker


def admit(tracker: OffsetTracker, *offsets: int) -> list[bool]:
    return [tracker.admit(P0, offset) for offset in offsets]


def finish(tracker: OffsetTracker, *offsets: int) -> list[bool]:
    return [tracker.finish(P0, 1, offset) for offset in offsets]


def done_of(tracker: OffsetTracker) -> tuple[int, list[tuple[int, int]]]:
    """The offset to commit, and what is done above it."""
    progress = tracker.snapshot()[P0]
    return progress.offset, list(progress.done)
