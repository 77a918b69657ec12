"""OffsetTracker: what was admitted of each partition, what of it is done, and how far may be
committed.

No Kafka client, no thread, no clock. Only the control thread calls the tracker; any thread reads
its snapshots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from itertools import islice, pairwise
from types import MappingProxyType
from typing import Any

from embedkq._formats import offset_map
from embedkq._formats.commit_metadata import NOTHING, UNKNOWN_TOPIC, TopicMark
from embedkq._formats.offset_map import OffsetRanges
from embedkq._partition import Partition
from embedkq.worker.between_threads.progress import Progress

_SLACK = 1024
"""Done offsets that a partition may keep in its lists, beside two for each that is open. Tidying up
costs what is open: rare enough to be next to nothing a record, frequent enough that a job stuck for
hours gathers nothing above it."""
_STALE = 16
"""A map is measured again once its number of runs or its span has changed by a sixteenth."""


class OffsetTracker:
    """Offsets of partitions. Control thread.

    Between two records may be holes (compaction, markers of transactions), so what is passed over
    counts as done: every record polled must be offered to `admit`, in order.
    """

    def __init__(self, limit: int = offset_map.LIMIT) -> None:
        """`limit`: characters that commit metadata may have; `fullness` is a share of it."""
        self._limit = limit
        self._partitions: dict[Partition, _PartitionState] = {}
        self._epochs: dict[Partition, int] = {}
        self._changed: set[Partition] = set()
        """Partitions whose progress in the snapshot is out of date."""
        self._unmeasured: set[Partition] = set()
        """Partitions that have changed since `crowded`, beside those in `_changed`."""
        self._crowded: set[Partition] = set()
        self._snapshot: MappingProxyType[Partition, Progress] = MappingProxyType({})

    def assign(
        self,
        partition: Partition,
        epoch: int,
        start: int,
        done: OffsetRanges = (),
        topic: TopicMark = UNKNOWN_TOPIC,
    ) -> None:
        """Begin with a partition; if it is assigned already, anew: what is under way of it counts
        as late.

        Args:
            epoch: higher than any before for this partition; tells this assignment's records from
                those of others.
            start: offset that was committed, or the position where none was.
            done: what is done above it, from the commit's metadata.
            topic: which topic these are offsets of.

        Raises:
            ValueError: the epoch is not new, `start` is no offset, or `done` is not as
                `OffsetRanges` says.
        """
        last = self._epochs.get(partition, epoch - 1)
        if epoch <= last:
            raise ValueError(
                f"epoch={epoch} of partition {partition.number}: each assignment needs a higher one"
                f" than {last}"
            )
        offset_map.check(start, done)
        self._epochs[partition] = epoch
        self._partitions[partition] = _PartitionState(epoch, start, tuple(done), topic)
        self._changed.add(partition)

    def unassign(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions that were revoked or lost; their late ends will not count. Unknown ones
        are passed over."""
        for partition in partitions:
            if self._partitions.pop(partition, None) is not None:
                self._changed.add(partition)

    def admit(self, partition: Partition, offset: int) -> bool:
        """Whether the record is to be run; False if it is done. What lies between it and the last
        one is a hole.

        Raises:
            KeyError: the partition is not assigned.
            ValueError: the record was admitted before and is not done.
        """
        state = self._assigned(partition)
        if offset == state.frontier:
            state.admit(offset)
            return True
        if offset > state.frontier:
            state.pass_over(offset)
            self._changed.add(partition)
            if offset == state.frontier:
                state.admit(offset)
                return True
        if offset in state.open:
            raise ValueError(
                f"offset={offset} of partition {partition.number} is admitted and not done: offer"
                " records once"
            )
        return False

    def finish(self, partition: Partition, epoch: int, offset: int) -> bool:
        """The record is done. False, and nothing else, if it is another assignment's, not admitted,
        or done already."""
        state = self._partitions.get(partition)
        if state is None or state.epoch != epoch or offset not in state.open:
            return False
        state.finish(offset)
        self._changed.add(partition)
        return True

    def finish_unseen(self, partition: Partition, offset: int) -> None:
        """A job that an earlier assignment began is done: its record, if it was not offered yet, is
        to be done when it is.

        Does nothing if the partition is not assigned.
        """
        state = self._partitions.get(partition)
        if state is not None and offset >= state.frontier:
            state.finish_unseen(offset)
            self._changed.add(partition)

    def advance(self, partition: Partition, epoch: int, position: int) -> None:
        """The consumer has come to `position`: what lies below it and was not offered to `admit` is
        a hole.

        Does nothing for another assignment or a position that was passed.
        """
        state = self._partitions.get(partition)
        if state is not None and state.epoch == epoch and position > state.frontier:
            state.pass_over(position)
            self._changed.add(partition)

    def watermark(self, partition: Partition) -> int:
        """The first offset that is not done. Raises KeyError where not assigned, like each question
        below."""
        return self._assigned(partition).watermark

    def outstanding(self, partition: Partition) -> int:
        """How many are admitted and not done."""
        return len(self._assigned(partition).open)

    def oldest(self, partition: Partition) -> int | None:
        """The lowest that is admitted and not done; None if there is none."""
        return self.watermark(partition) if self.outstanding(partition) else None

    def width(self, partition: Partition) -> int:
        """How many runs are done above the watermark."""
        return self._assigned(partition).width

    def fullness(self, partition: Partition) -> float:
        """Which share of the room in commit metadata the runs take: 0 for none, above 1 if not all
        of them fit.

        Below a half an upper bound that costs next to nothing; from there on measured, up to a
        sixteenth ago.
        """
        state = self._assigned(partition)
        most = offset_map.bound(state.width, state.span)
        return (most if 2 * most <= self._limit else min(most, state.measure())) / self._limit

    def crowded(self, share: float) -> Set[Partition]:
        """Partitions of which `fullness` is above this share. Costs what has changed since the last
        call; `share` has to be the same."""
        for partition in self._changed | self._unmeasured:
            if partition in self._partitions and self.fullness(partition) > share:
                self._crowded.add(partition)
            else:
                self._crowded.discard(partition)
        self._unmeasured.clear()
        return self._crowded

    def is_assigned(self, partition: Partition) -> bool:
        """Whether the partition is assigned."""
        return partition in self._partitions

    def snapshot(self) -> Mapping[Partition, Progress]:
        """How far each assigned partition is. Immutable, for any thread; the same object as long as
        nothing changes.

        It costs one `Progress` for each partition that changed; the runs are worked out when
        somebody reads them.
        """
        if self._changed:
            progress = self._snapshot.copy()
            for partition in self._changed:
                progress.pop(partition, None)
                if partition in self._partitions:
                    progress[partition] = self._partitions[partition].progress()
            self._unmeasured |= self._changed
            self._changed.clear()
            self._snapshot = MappingProxyType(progress)
        return self._snapshot

    def _assigned(self, partition: Partition) -> _PartitionState:
        try:
            return self._partitions[partition]
        except KeyError:
            raise KeyError(
                f"partition {partition.number} is not assigned: assigned are"
                f" {sorted(each.number for each in self._partitions)}"
            ) from None


class _PartitionState:
    """One assignment of a partition.

    All below `frontier` was looked at: what of it is not in `open` is done. Above, only `restored`
    is known to be, and none of that touches the frontier. So runs need not be kept: they are the
    gaps between what is open.

    `order` and `gone` only grow, until tidying up puts new lists in their place. Snapshots share
    them, and read them up to the length that they had: so a snapshot costs no copy, and nothing
    appended later shows in it.
    """

    def __init__(self, epoch: int, start: int, restored: OffsetRanges, topic: TopicMark) -> None:
        self.epoch = epoch
        self.topic = topic
        self.frontier = start
        self.restored = restored
        self.passed = 0
        """How many of `restored` lie below the frontier."""
        self.open: set[int] = set()
        self.order: list[int] = []
        """As admitted, so rising. At `head` is the first that is open, then the others among what
        is in `gone`."""
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
        """Offsets from the watermark to the end of the highest run, or a few more."""
        return (
            self.restored[-1][1] if self.passed < len(self.restored) else self.frontier
        ) - self.watermark

    def admit(self, offset: int) -> None:
        """Open the offset at the frontier."""
        self.open.add(offset)
        self.order.append(offset)
        self.frontier = offset + 1
        if self.passed < len(self.restored):
            self._absorb()

    def pass_over(self, position: int) -> None:
        """All from the frontier up to a higher position is done; the frontier may come to lie above
        it."""
        self._extend(position)
        self._absorb()

    def finish(self, offset: int) -> None:
        """Close an open offset."""
        open_, order, head = self.open, self.order, self.head
        open_.remove(offset)
        run_above = offset + 1 < self.frontier and offset + 1 not in open_
        if offset == order[head]:
            head += 1
            while head < len(order) and order[head] not in open_:
                head += 1
            self.head = head
            self.runs -= run_above
        else:
            self.gone.append(offset)
            self.runs += 1 - run_above - (offset - 1 not in open_)
        if head + len(self.gone) > self._slack:
            self._tidy_up()

    def finish_unseen(self, offset: int) -> None:
        """Know of an offset at or above the frontier that it is done."""
        start, done = offset_map.merge(
            self.frontier, self.restored[self.passed :], 0, ((offset, offset + 1),)
        )
        self.restored, self.passed = done, 0
        if start > self.frontier:
            self._extend(start)

    def progress(self) -> Progress:
        return Progress(
            self.watermark, _RunsOf(self) if self.width else (), self.epoch, NOTHING, self.topic
        )

    def measure(self) -> int:
        """Characters of the map, as they are or as they were when it was little different."""
        width, span, _ = self._measured
        if abs(self.width - width) * _STALE > width or abs(self.span - span) * _STALE > span:
            self._measured = (
                self.width,
                self.span,
                offset_map.measure(self.watermark, _RunsOf(self)),
            )
        return self._measured[-1]

    def _absorb(self) -> None:
        """Count restored runs that the frontier has reached among those below it."""
        while self.passed < len(self.restored) and self.restored[self.passed][0] <= self.frontier:
            last = self.restored[self.passed][1]
            self.passed += 1
            if last > self.frontier:
                self._extend(last)

    def _extend(self, frontier: int) -> None:
        if (
            self.frontier - 1 in self.open
        ):  # else the run right below the frontier grows, if any is open at all
            self.runs += 1
        self.frontier = frontier

    def _tidy_up(self) -> None:
        self.order = [
            offset for offset in islice(self.order, self.head, None) if offset in self.open
        ]
        self.gone = []
        self.head = 0
        self._slack = _SLACK + 2 * len(self.order)


class _RunsOf(Sequence[tuple[int, int]]):
    """The runs of a partition as of now, worked out at the first look. Immutable, for any
    thread."""

    def __init__(self, state: _PartitionState) -> None:
        self._open = (state.order, state.head, len(state.order), state.gone, len(state.gone))
        self._frontier = state.frontier
        self._restored = (state.restored, state.passed)

    @cached_property
    def _runs(self) -> tuple[tuple[int, int], ...]:
        order, head, admitted, gone, finished = self._open
        done = set(islice(gone, finished))
        open_ = [offset for offset in islice(order, head, admitted) if offset not in done]
        edges = pairwise([*open_, self._frontier])
        runs = [(below + 1, above) for below, above in edges if above > below + 1]
        restored, passed = self._restored
        return (*runs, *restored[passed:])

    def __getitem__(self, index: Any) -> Any:
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __eq__(self, other: object) -> bool:
        return self._runs == (other._runs if isinstance(other, _RunsOf) else other)

    def __hash__(self) -> int:
        return hash(self._runs)

    def __repr__(self) -> str:
        return repr(self._runs)
