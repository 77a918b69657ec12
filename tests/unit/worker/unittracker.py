"""An offset tracker with one partition, for tests of it."""

from __future__ import annotations

from embedkq._formats.offset_map import LIMIT, OffsetRanges
from embedkq.worker.control_thread.offset_tracker import OffsetTracker


def tracker_at(start: int = 10, done: OffsetRanges = (), limit: int = LIMIT) -> OffsetTracker:
    """One that has partition 0."""
    tracker = OffsetTracker(limit)
    tracker.assign(0, 1, start, done)
    return tracker


def admit(tracker: OffsetTracker, *offsets: int) -> list[bool]:
    return [tracker.admit(0, offset) for offset in offsets]


def finish(tracker: OffsetTracker, *offsets: int) -> list[bool]:
    return [tracker.finish(0, 1, offset) for offset in offsets]


def done_of(tracker: OffsetTracker) -> tuple[int, list[tuple[int, int]]]:
    """The offset to commit, and what is done above it."""
    progress = tracker.snapshot()[0]
    return progress.offset, list(progress.done)
