"""OffsetTracker: what was admitted of each partition, what of it is done, and how far may be committed.

No Kafka client, no thread, no clock. Only the worker's thread calls the tracker; any thread reads its snapshots.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, NamedTuple, overload

from embedkq.worker import donemap
from embedkq.worker.donemap import Runs

_SLACK = 1024
"""Offsets that a partition's lists may keep although they are done, beside two for each that is not: each tidying up costs what is
open, so it must come rarely enough to be nothing per record, and often enough that a job stuck for hours gathers nothing."""
_STALE = 16
"""The exact size of a map is taken anew once its number of runs or its span has changed by a sixteenth."""


class Progress(NamedTuple):
    """How far one partition is done. Immutable, for any thread.

    Attributes:
        offset: the first that is not done: what may be committed.
        done: the runs that are done above it.
        epoch: of the assignment.
    """

    offset: int
    done: Runs
    epoch: int

    def with_done(self, offset: int) -> Progress:
        """The same with one more offset done; itself if that is known as done."""
        start, done = donemap.merge(self.offset, self.done, 0, ((offset, offset + 1),))
        return self if start == self.offset and self.done == done else Progress(start, done, self.epoch)


class OffsetTracker:
    """Offsets of the partitions of one topic. Worker's thread.

    Between two offsets that Kafka delivers may be holes (compaction, markers of transactions): what is passed over counts as done.
    So every record polled must be offered to `admit`, in order.
    """

    def __init__(self, limit: int = donemap.LIMIT) -> None:
        """`limit`: characters that commit metadata may have, for `fullness`."""
        self._limit = limit
        self._partitions: dict[int, _Partition] = {}
        self._epochs: dict[int, int] = {}
        self._changed: set[int] = set()
        self._snapshot: Mapping[int, Progress] = MappingProxyType({})

    def assign(self, partition: int, epoch: int, start: int, done: Runs = ()) -> None:
        """Begin with a partition, anew if it is assigned already: what was under way of it counts as late.

        Args:
            partition: number of the partition.
            epoch: higher than any before for this partition; tells this assignment's records from those of others.
            start: offset that was committed, or the position where none was.
            done: what is done above it, from the commit's metadata.

        Raises:
            ValueError: the epoch is not new, `start` is no offset, or `done` is not as `Runs` says.
        """
        last = self._epochs.get(partition)
        if last is not None and epoch <= last:
            raise ValueError(f"epoch={epoch} of partition {partition}: give each assignment a higher one than the last, {last}")
        donemap.check(start, done)
        self._epochs[partition] = epoch
        self._partitions[partition] = _Partition(epoch, start, tuple(done))
        self._changed.add(partition)

    def unassign(self, partitions: Iterable[int]) -> None:
        """Forget partitions that were revoked or lost; their late ends will not count. Unknown ones are passed over."""
        for partition in partitions:
            if self._partitions.pop(partition, None) is not None:
                self._changed.add(partition)

    def admit(self, partition: int, offset: int) -> bool:
        """Whether the record is to be run; False if it is done already. What was passed over since the last one is a hole.

        Raises:
            KeyError: the partition is not assigned.
            ValueError: the record was admitted before and is not done.
        """
        state = self._assigned(partition)
        if offset == state.frontier and state.passed == len(state.restored):
            state.open.add(offset)
            state.order.append(offset)
            state.frontier = offset + 1
            return True
        if offset < state.frontier:
            if offset in state.open:
                raise ValueError(f"offset {offset} of partition {partition} is admitted and not done: offer each record once")
            return False
        self._changed.add(partition)
        return state.admit(offset)

    def finish(self, partition: int, epoch: int, offset: int) -> bool:
        """The record is done. Returns whether that counts: False if it is of another assignment, not admitted, or done already."""
        state = self._partitions.get(partition)
        if state is None or state.epoch != epoch or offset not in state.open:
            return False
        state.finish(offset)
        self._changed.add(partition)
        return True

    def advance(self, partition: int, epoch: int, position: int) -> None:
        """The consumer has come to `position`: what lies below and was not offered to `admit` is a hole.

        Does nothing for another assignment, or for a position that was passed.
        """
        state = self._partitions.get(partition)
        if state is not None and state.epoch == epoch and position > state.frontier:
            state.pass_over(position)
            self._changed.add(partition)

    def watermark(self, partition: int) -> int:
        """The first offset that is not done. Raises KeyError where not assigned, as all questions below."""
        return self._assigned(partition).watermark

    def outstanding(self, partition: int) -> int:
        """How many are admitted and not done."""
        return len(self._assigned(partition).open)

    def oldest(self, partition: int) -> int | None:
        """The lowest that is admitted and not done; None if there is none."""
        state = self._assigned(partition)
        return state.watermark if state.open else None

    def width(self, partition: int) -> int:
        """How many runs are done above the watermark."""
        return self._assigned(partition).width

    def fullness(self, partition: int) -> float:
        """Which share of the room in commit metadata the runs take: 0 for none, above 1 if not all of them fit.

        Cheap and rather too high than too low; below a half it is a bound, from there on measured, by a sixteenth out of date at most.
        """
        state = self._assigned(partition)
        most = donemap.bound(state.width, state.span)
        return (most if 2 * most <= self._limit else min(most, state.measure())) / self._limit

    def snapshot(self) -> Mapping[int, Progress]:
        """How far each assigned partition is; immutable, for any thread. The same object as long as nothing changes.

        Costs little beside one `Progress` for each partition that changed; its runs are worked out when somebody reads them.
        """
        if self._changed:
            progress = dict(self._snapshot)
            for partition in self._changed:
                state = self._partitions.get(partition)
                if state is None:
                    progress.pop(partition, None)
                else:
                    progress[partition] = state.progress()
            self._changed.clear()
            self._snapshot = MappingProxyType(progress)
        return self._snapshot

    def _assigned(self, partition: int) -> _Partition:
        try:
            return self._partitions[partition]
        except KeyError:
            raise KeyError(f"partition {partition} is not assigned: assigned are {sorted(self._partitions)}") from None


class _Partition:
    """One assignment of a partition.

    All below `frontier` was looked at: what of it is not in `open` is done. Above it only `restored` is known as done, and none of
    that touches the frontier. So runs need not be kept: they are the gaps between the offsets that are open.

    `order` and `gone` only grow, until a tidying up puts new lists in their place; snapshots share them and read them up to the length
    that they had. So a snapshot costs no copy, and whatever is appended later does not show in it.
    """

    __slots__ = ("_measured", "_slack", "epoch", "frontier", "gone", "head", "open", "order", "passed", "restored", "runs")

    def __init__(self, epoch: int, start: int, restored: tuple[tuple[int, int], ...]) -> None:
        self.epoch = epoch
        self.frontier = start
        self.restored = restored
        self.passed = 0
        """How many of `restored` lie below the frontier."""
        self.open: set[int] = set()
        self.order: list[int] = []
        """As admitted, so rising; from `head` on all that is open, among others that are in `gone`."""
        self.head = 0
        self.gone: list[int] = []
        self.runs = 0
        """Runs between the lowest open offset and the frontier."""
        self._slack = _SLACK
        self._measured = (0, 0, 0)

    @property
    def watermark(self) -> int:
        return self.order[self.head] if self.open else self.frontier

    @property
    def width(self) -> int:
        return self.runs + len(self.restored) - self.passed

    @property
    def span(self) -> int:
        """Offsets from the watermark to the end of the highest run, or somewhat more."""
        end = self.restored[-1][1] if self.passed < len(self.restored) else self.frontier
        return end - self.watermark

    def admit(self, offset: int) -> bool:
        """As the tracker's, for an offset not below the frontier."""
        if offset > self.frontier:
            self.pass_over(offset)
        if offset < self.frontier:
            return False
        self.open.add(offset)
        self.order.append(offset)
        self.frontier += 1
        self._absorb()
        return True

    def pass_over(self, position: int) -> None:
        """All from the frontier up to `position` is done."""
        self._extend(position)
        self._absorb()

    def finish(self, offset: int) -> None:
        """As the tracker's, for an offset that is open."""
        open_ = self.open
        open_.remove(offset)
        above = offset + 1
        joins_above = above < self.frontier and above not in open_
        order, head = self.order, self.head
        if offset == order[head]:
            head += 1
            while head < len(order) and order[head] not in open_:
                head += 1
            self.head = head
            self.runs -= joins_above
        else:
            self.gone.append(offset)
            self.runs += 1 - joins_above - (offset - 1 not in open_)
        if head + len(self.gone) > self._slack:
            self._tidy_up()

    def progress(self) -> Progress:
        return Progress(self.watermark, _RunsOf(self) if self.width else (), self.epoch)

    def measure(self) -> int:
        """Characters of the map, worked out or, if little has changed since, remembered."""
        width, span = self.width, self.span
        last_width, last_span, characters = self._measured
        if abs(width - last_width) * _STALE > last_width or abs(span - last_span) * _STALE > last_span:
            characters = donemap.measure(*self.progress()[:2])
            self._measured = (width, span, characters)
        return characters

    def _absorb(self) -> None:
        """Restored runs that the frontier has reached are below it from now on."""
        restored = self.restored
        while self.passed < len(restored) and restored[self.passed][0] <= self.frontier:
            last = restored[self.passed][1]
            self.passed += 1
            if last > self.frontier:
                self._extend(last)

    def _extend(self, frontier: int) -> None:
        """All from the frontier up to the new one is done."""
        if self.frontier - 1 in self.open:  # nothing is done yet right below the frontier: a new run
            self.runs += 1
        self.frontier = frontier

    def _tidy_up(self) -> None:
        self.order = [offset for offset in islice(self.order, self.head, None) if offset in self.open]
        self.gone = []
        self.head = 0
        self._slack = _SLACK + 2 * len(self.order)


class _RunsOf(Sequence[tuple[int, int]]):
    """The runs of a partition as they are at its making, worked out at the first look. Immutable, for any thread."""

    __slots__ = ("_runs", "_source")

    def __init__(self, state: _Partition) -> None:
        self._runs: tuple[tuple[int, int], ...] = ()
        self._source: tuple[Any, ...] | None = (
            state.order, state.head, len(state.order), state.gone, len(state.gone), state.frontier, state.restored, state.passed,
        )

    def _all(self) -> tuple[tuple[int, int], ...]:
        # Two threads may work this out at once, to the same end: the source goes only after the runs are there.
        source = self._source
        if source is not None:
            self._runs = _gaps(*source)
            self._source = None
        return self._runs

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, int], ...]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | tuple[tuple[int, int], ...]:
        return self._all()[index]

    def __len__(self) -> int:
        return len(self._all())

    def __eq__(self, other: object) -> bool:
        return self._all() == (other._all() if isinstance(other, _RunsOf) else other)

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


def _gaps(
    order: list[int], head: int, admitted: int, gone: list[int], finished: int, frontier: int, restored: Runs, passed: int
) -> tuple[tuple[int, int], ...]:
    """The runs between the open offsets, up to the frontier, and the restored ones above it."""
    done = set(islice(gone, finished))
    runs = []
    last = None
    for offset in islice(order, head, admitted):
        if offset not in done:
            if last is not None and offset > last + 1:
                runs.append((last + 1, offset))
            last = offset
    if last is not None and frontier > last + 1:
        runs.append((last + 1, frontier))
    return (*runs, *restored[passed:])
