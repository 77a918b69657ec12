"""OffsetTracker: never a commit past a record that is not done, nothing committed run again, late
ends move nothing."""

from __future__ import annotations

import random
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from partitions import P0, P1, P3, P4, P7, numbered

from embedkq._formats import offset_map
from embedkq._formats.offset_map import LIMIT, OffsetRanges
from embedkq._partition import Partition
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.control_thread import offset_tracker
from embedkq.worker.control_thread.offset_tracker import OffsetTracker

PARTITIONS = (P0, numbered(0, "other"))


class Model:
    """One assignment, the naive way: every offset by itself."""

    def __init__(self, epoch: int, start: int, done: OffsetRanges) -> None:
        self.epoch = epoch
        self.start = start
        self.restored = {offset for first, last in done for offset in range(first, last)}
        self.admitted: set[int] = set()
        self.finished: set[int] = set()
        self.seen = start

    def is_done(self, offset: int) -> bool:
        hole = offset < self.seen and offset not in self.admitted
        return offset < self.start or offset in self.restored or offset in self.finished or hole

    def progress(self) -> Progress:
        end = max(self.seen, *self.restored, *self.admitted, self.start) + 1
        first = next(offset for offset in range(self.start, end + 1) if not self.is_done(offset))
        runs: list[tuple[int, int]] = []
        for offset in range(first, end + 1):
            if self.is_done(offset):
                begun = runs.pop()[0] if runs and runs[-1][1] == offset else offset
                runs.append((begun, offset + 1))
        return Progress(first, tuple(runs), self.epoch)

    @property
    def open(self) -> set[int]:
        return self.admitted - self.finished


class InFlight(NamedTuple):
    partition: Partition
    epoch: int
    offset: int


class Log:
    """A partition as the broker has it."""

    def __init__(self) -> None:
        self.records: list[int] = []
        self.end = 0
        self.committed = (0, "")

    def append(self, holes: Iterable[int]) -> None:
        for hole in holes:
            self.records.append(self.end + hole)
            self.end += hole + 1


class TrackerMachine(RuleBasedStateMachine):
    """Any order of records, ends, positions, commits, revocations, assignments and restarts.

    Each step is done to two trackers: one is read after every step, the snapshots of the other one
    only at the end.
    """

    @initialize(slack=st.sampled_from([0, 3, 1024]))
    def begin(self, slack: int) -> None:
        self.slack, offset_tracker._SLACK = offset_tracker._SLACK, slack
        self.logs = {partition: Log() for partition in PARTITIONS}
        self.truly_done: dict[Partition, set[int]] = {partition: set() for partition in PARTITIONS}
        self.committed_done: dict[Partition, set[int]] = {
            partition: set() for partition in PARTITIONS
        }
        self.not_again: dict[Partition, set[int]] = {}
        self.epoch = 0
        self.unread: list[tuple[Mapping[Partition, Progress], dict[Partition, Progress]]] = []
        self.start_worker()

    def start_worker(self) -> None:
        self.tracker, self.twin = OffsetTracker(), OffsetTracker()
        self.models: dict[Partition, Model] = {}
        self.cursors: dict[Partition, int] = {}
        self.in_flight: list[InFlight] = []

    def both(self, name: str, *args: Any) -> Any:
        answer = getattr(self.tracker, name)(*args)
        assert getattr(self.twin, name)(*args) == answer
        return answer

    def teardown(self) -> None:
        if hasattr(self, "slack"):
            offset_tracker._SLACK = self.slack
            for snapshot, expected in self.unread:
                assert snapshot == expected

    # What the broker does.

    @rule(
        partition=st.sampled_from(PARTITIONS),
        holes=st.lists(st.sampled_from([0, 0, 0, 1, 4]), max_size=12),
    )
    def append(self, partition: Partition, holes: list[int]) -> None:
        self.logs[partition].append(holes)

    @rule(partition=st.sampled_from(PARTITIONS), length=st.integers(1, 3))
    def append_markers(self, partition: Partition, length: int) -> None:
        self.logs[partition].end += length

    @rule(partition=st.sampled_from(PARTITIONS), place=st.integers(0, 100))
    def compact(self, partition: Partition, place: int) -> None:
        records = self.logs[partition].records
        if records:
            records.pop(place % len(records))

    # What the consumer does.

    @rule(partition=st.sampled_from(PARTITIONS))
    def assign(self, partition: Partition) -> None:
        """Also of a partition that is assigned already."""
        start, text = self.logs[partition].committed
        done = offset_map.decode(start, text)
        self.epoch += 1
        self.both("assign", partition, self.epoch, start, done)
        self.models[partition] = Model(self.epoch, start, done)
        self.cursors[partition] = start
        self.not_again[partition] = set(self.committed_done[partition])

    @precondition(lambda self: self.models)
    @rule(data=st.data(), count=st.integers(1, 15))
    def poll(self, data: st.DataObject, count: int) -> None:
        partition = data.draw(st.sampled_from(sorted(self.models)))
        model = self.models[partition]
        for offset in [
            offset for offset in self.logs[partition].records if offset >= self.cursors[partition]
        ][:count]:
            known = model.is_done(offset)
            admitted = self.both("admit", partition, offset)
            assert admitted != known
            if admitted:
                assert offset not in self.not_again[partition], (
                    "done and committed, yet to be run again"
                )
                model.admitted.add(offset)
                self.in_flight.append(InFlight(partition, model.epoch, offset))
            else:
                assert offset in self.truly_done[partition], (
                    "lost: skipped without ever having been done"
                )
            model.seen = self.cursors[partition] = max(model.seen, offset + 1)

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def advance(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.models)))
        log, model = self.logs[partition], self.models[partition]
        position = next(
            (offset for offset in log.records if offset >= self.cursors[partition]), log.end
        )
        self.both("advance", partition, model.epoch - 1, position + 100)
        self.both("advance", partition, model.epoch, position)
        model.seen = max(model.seen, position)

    @rule(data=st.data())
    def unassign(self, data: st.DataObject) -> None:
        partitions = data.draw(st.sets(st.sampled_from((*PARTITIONS, P7))))
        self.both("unassign", partitions)
        for partition in partitions:
            self.models.pop(partition, None)

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        partition = data.draw(st.sampled_from(sorted(self.models)))
        progress = self.tracker.snapshot()[partition]
        text, cut = offset_map.encode(progress.offset, progress.done)
        assert not cut
        done = offset_map.decode(progress.offset, text)
        records = self.logs[partition].records
        committed = {
            offset
            for offset in records
            if offset < progress.offset or any(a <= offset < b for a, b in done)
        }
        assert committed <= self.truly_done[partition], (
            "lost: committed without ever having been done"
        )
        assert {
            offset for offset in records if offset in self.models[partition].finished
        } <= committed
        self.logs[partition].committed = (progress.offset, text)
        self.committed_done[partition] = committed

    # What the worker does.

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """In any order, also of an assignment that has ended, and now and then twice."""
        run = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        model = self.models.get(run.partition)
        counts = model is not None and model.epoch == run.epoch
        assert self.both("finish", *run) == counts
        assert not self.both("finish", *run)
        if counts:
            model.finished.add(run.offset)
            self.truly_done[run.partition].add(run.offset)

    @precondition(lambda self: self.in_flight)
    @rule()
    def finish_all_but_the_first(self) -> None:
        for run in self.in_flight[1:]:
            model = self.models.get(run.partition)
            if self.both("finish", *run):
                model.finished.add(run.offset)
                self.truly_done[run.partition].add(run.offset)
            else:
                assert model is None or model.epoch != run.epoch
        del self.in_flight[1:]

    @precondition(lambda self: self.models)
    @rule(data=st.data(), offset=st.integers(0, 200))
    def finish_what_was_not_admitted(self, data: st.DataObject, offset: int) -> None:
        partition = data.draw(st.sampled_from(sorted(self.models)))
        if offset not in self.models[partition].open:
            assert not self.both("finish", partition, self.models[partition].epoch, offset)

    @precondition(lambda self: any(model.open for model in self.models.values()))
    @rule()
    def admit_twice(self) -> None:
        for partition, model in self.models.items():
            for offset in model.open:
                for tracker in (self.tracker, self.twin):
                    with pytest.raises(
                        ValueError, match=f"offset={offset} of partition {partition.number}"
                    ):
                        tracker.admit(partition, offset)

    @rule()
    def restart(self) -> None:
        """The host dies, and what was not committed is forgotten."""
        self.start_worker()

    # What holds at any time.

    @invariant()
    def agrees_with_the_model(self) -> None:
        snapshot = self.tracker.snapshot()
        expected = {partition: model.progress() for partition, model in self.models.items()}
        assert snapshot == expected
        assert self.tracker.snapshot() is snapshot
        self.unread.append((self.twin.snapshot(), expected))
        for partition, model in self.models.items():
            progress = expected[partition]
            assert self.tracker.watermark(partition) == progress.offset
            assert self.tracker.outstanding(partition) == len(model.open)
            assert self.tracker.oldest(partition) == min(model.open, default=None)
            assert self.tracker.watermark(partition) <= min(model.open, default=progress.offset)
            assert self.tracker.width(partition) == len(progress.done)
            assert self.tracker.fullness(partition) * LIMIT >= offset_map.measure(
                progress.offset, progress.done
            )
            offset_map.check(progress.offset, snapshot[partition].done)


TestTracker = TrackerMachine.TestCase
TestTracker.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


@pytest.fixture
def tracker() -> OffsetTracker:
    tracker = OffsetTracker()
    tracker.assign(P0, 1, 10)
    return tracker


class TestPromises:
    def test_commit_stays_below_the_slowest_and_knows_what_is_done_above(
        self, tracker: OffsetTracker
    ) -> None:
        for offset in range(10, 16):
            assert tracker.admit(P0, offset)
        for offset in (15, 11, 12):
            assert tracker.finish(P0, 1, offset)
        assert tracker.snapshot() == {P0: Progress(10, ((11, 13), (15, 16)), 1)}

        tracker.finish(P0, 1, 10)

        assert tracker.snapshot() == {P0: Progress(13, ((15, 16),), 1)}

    def test_holes_count_as_done_once_they_are_passed(self, tracker: OffsetTracker) -> None:
        tracker.admit(P0, 12)
        assert tracker.watermark(P0) == 12
        tracker.admit(P0, 20)
        tracker.finish(P0, 1, 12)
        assert tracker.watermark(P0) == 20
        tracker.finish(P0, 1, 20)
        tracker.advance(P0, 1, 25)
        assert tracker.watermark(P0) == 25

    def test_position_does_not_pass_what_is_under_way(self, tracker: OffsetTracker) -> None:
        tracker.admit(P0, 10)
        tracker.advance(P0, 1, 25)
        assert tracker.snapshot()[P0] == Progress(10, ((11, 25),), 1)

    def test_late_ends_of_an_earlier_assignment_move_nothing(self, tracker: OffsetTracker) -> None:
        tracker.admit(P0, 10)
        tracker.unassign([P0])
        assert not tracker.finish(P0, 1, 10)
        tracker.assign(P0, 2, 10)
        tracker.admit(P0, 10)
        before = tracker.snapshot()

        assert not tracker.finish(P0, 1, 10)
        tracker.advance(P0, 1, 99)

        assert tracker.snapshot() is before
        assert tracker.finish(P0, 2, 10)

    def test_restored_runs_are_not_run_again_and_the_watermark_goes_over_them(self) -> None:
        tracker = OffsetTracker()
        tracker.assign(P3, 1, 5, ((7, 9), (12, 14)))
        assert [offset for offset in range(5, 16) if tracker.admit(P3, offset)] == [
            5,
            6,
            9,
            10,
            11,
            14,
            15,
        ]
        for offset in (5, 6):
            tracker.finish(P3, 1, offset)
        assert tracker.snapshot()[P3] == Progress(9, ((12, 14),), 1)

    def test_what_lies_below_the_start_is_not_run(self, tracker: OffsetTracker) -> None:
        assert not tracker.admit(P0, 9)

    def test_an_epoch_that_is_not_new_is_refused(self, tracker: OffsetTracker) -> None:
        """Else a late end of the first assignment would count for the second."""
        for epoch in (1, 0):
            tracker.unassign([P0])
            with pytest.raises(ValueError, match=f"epoch={epoch} of partition 0"):
                tracker.assign(P0, epoch, 10)

    def test_runs_that_are_none_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"done=\(\(9, 12\),\) above start=10"):
            OffsetTracker().assign(P0, 1, 10, ((9, 12),))

    @pytest.mark.parametrize("ask", ["watermark", "outstanding", "oldest", "width", "fullness"])
    def test_questions_about_partitions_of_others_say_so(
        self, tracker: OffsetTracker, ask: str
    ) -> None:
        with pytest.raises(KeyError, match=r"partition 4 is not assigned: assigned are \[0\]"):
            getattr(tracker, ask)(P4)
        with pytest.raises(KeyError, match=r"partition 4 is not assigned"):
            tracker.admit(P4, 1)

    def test_a_progress_takes_one_more_done(self) -> None:
        progress = Progress(10, ((12, 14), (15, 16)), 3)
        assert progress.with_done(9) == progress.with_done(12) == progress
        assert progress.with_done(14) == Progress(10, ((12, 16),), 3)
        assert progress.with_done(17) == Progress(10, ((12, 14), (15, 16), (17, 18)), 3)
        assert progress.with_done(10) == Progress(11, ((12, 14), (15, 16)), 3)
        assert progress.with_done(10).with_done(11) == Progress(14, ((15, 16),), 3)


class TestFullness:
    def test_follows_the_size_of_the_map(self) -> None:
        """A bound while there is room in plenty, within a sixteenth of the truth from there on."""
        source = random.Random(5)
        tracker = OffsetTracker()
        tracker.assign(P0, 1, 0)
        for offset in range(30_000):
            tracker.admit(P0, offset)
        above = source.sample(range(1, 30_000), 15_000)
        for count, offset in enumerate(above):
            tracker.finish(P0, 1, offset)
            if count % 250 == 0:
                fullness = tracker.fullness(P0)
                true = offset_map.measure(0, tracker.snapshot()[P0].done) / LIMIT
                assert (
                    fullness >= true
                    if fullness <= 0.5
                    else fullness == pytest.approx(true, rel=0.07, abs=0.01)
                )
        assert fullness > 1

        for offset in range(29_000):
            tracker.finish(P0, 1, offset)

        assert tracker.fullness(P0) < 0.1

    def test_is_a_share_of_the_limit_given(self) -> None:
        shares = []
        for limit in (LIMIT, 100):
            tracker = OffsetTracker(limit)
            tracker.assign(P0, 1, 0, ((1, 2), (5000, 8000)))
            shares.append(tracker.fullness(P0) * limit)
        assert shares[0] == shares[1] > 0


class TestSnapshots:
    def test_cannot_be_changed(self, tracker: OffsetTracker) -> None:
        tracker.admit(P0, 10)
        tracker.advance(P0, 1, 12)
        snapshot: Any = tracker.snapshot()
        for change in (
            lambda: snapshot.update({}),
            lambda: snapshot.__setitem__(P0, None),
            lambda: setattr(snapshot[P0], "offset", 11),
            lambda: snapshot[P0].done.append((1, 2)),
            lambda: snapshot[P0].done.__setitem__(0, (1, 2)),
        ):
            with pytest.raises(AttributeError):
                change()
        assert hash(snapshot[P0]) == hash(Progress(10, ((11, 12),), 1))
        assert repr(snapshot[P0]).startswith(
            "Progress(offset=10, done=((11, 12),), epoch=1, notes=CommitMetadata("
        )

    def test_only_what_changed_is_made_anew(self, tracker: OffsetTracker) -> None:
        tracker.assign(P1, 1, 0)
        tracker.admit(P1, 0)
        first = tracker.snapshot()
        tracker.admit(P0, 10)
        assert tracker.snapshot() is first, (
            "a record that follows the last one changes nothing that could be committed"
        )
        tracker.finish(P0, 1, 10)

        second = tracker.snapshot()

        assert second is not first
        assert second[P1] is first[P1]
        assert first[P0].offset == 10
        assert second[P0].offset == 11

    def test_another_thread_reads_them_while_the_tracker_goes_on(self) -> None:
        tracker = OffsetTracker()
        tracker.assign(P0, 1, 0)
        published = [tracker.snapshot()]
        stop = threading.Event()
        troubles: list[BaseException] = []
        reads = []

        def read() -> None:
            last: tuple[int, OffsetRanges] = (0, ())
            try:
                while not stop.is_set() or not reads:
                    offset, done, *_ = published[0][P0]
                    offset_map.check(offset, done)
                    assert offset_map.merge(offset, done, *last) == (offset, done), (
                        "what was done is no longer"
                    )
                    last = offset, done
                    reads.append(offset)
            except BaseException as error:
                troubles.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            source = random.Random(1)
            window: list[int] = []
            for offset in range(60_000):
                tracker.admit(P0, offset)
                window.append(offset)
                if len(window) > 300:
                    tracker.finish(P0, 1, window.pop(source.randrange(len(window))))
                published[0] = tracker.snapshot()
        finally:
            stop.set()
            thread.join()
        assert not troubles


def lines_executed(function: Callable[[], object]) -> int:
    """Lines that offsets.py executes for it, each turn of a loop or comprehension counted."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        if frame.f_code.co_filename != offset_tracker.__file__:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def peak_memory(function: Callable[[], object]) -> int:
    """Bytes allocated on top at the highest point."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def work_through(count: int, window: int, order: str) -> OffsetTracker:
    """Admit and finish so many records, with a window of them under way, and a snapshot every
    fifty."""
    source = random.Random(1)
    tracker = OffsetTracker()
    tracker.assign(P0, 1, 0)
    under_way: list[int] = []
    for offset in range(count):
        tracker.admit(P0, offset)
        if offset or order != "above a stuck one":
            under_way.append(offset)
        if len(under_way) >= window:
            if order == "backwards":
                under_way.reverse()
            elif order == "at random":
                source.shuffle(under_way)
            for finished in under_way:
                tracker.finish(P0, 1, finished)
            under_way.clear()
        if offset % 50 == 0:
            tracker.snapshot()
    return tracker


class TestCost:
    """Counted in lines executed and bytes allocated, not on the clock."""

    @pytest.mark.parametrize("order", ["forwards", "backwards", "at random", "above a stuck one"])
    @pytest.mark.parametrize("window", [1, 3000])
    def test_a_record_costs_the_same_however_many_there_are(self, order: str, window: int) -> None:
        few = lines_executed(lambda: work_through(6_001, window, order)) / 6_001
        many = lines_executed(lambda: work_through(30_001, window, order)) / 30_001

        assert many < few * 1.2
        assert many < 35

    def test_a_job_stuck_for_hours_gathers_nothing_above_it(self) -> None:
        kept = []

        peak = peak_memory(lambda: kept.append(work_through(100_000, 10, "above a stuck one")))

        assert kept[0].snapshot()[P0] == Progress(0, ((1, 99_991),), 1)
        assert peak < 1_000_000

    def test_a_snapshot_costs_the_same_however_much_is_done_above(self) -> None:
        costs, peaks = [], []
        for count in (20, 20_000):
            tracker = OffsetTracker()
            tracker.assign(P0, 1, 0)
            for offset in range(count):
                tracker.admit(P0, offset)
            for offset in range(1, count, 2):
                tracker.finish(P0, 1, offset)
            tracker.snapshot()
            tracker.finish(P0, 1, 2)
            costs.append(lines_executed(tracker.snapshot))
            tracker.finish(P0, 1, 4)
            peaks.append(peak_memory(tracker.snapshot))
        assert costs[0] == costs[1]
        assert max(peaks) < 4_000
        assert len(tracker.snapshot()[P0].done) == 9_998

    def test_an_unchanged_snapshot_costs_nothing(self) -> None:
        tracker = work_through(1_000, 10, "at random")
        for number in range(1, 500):
            tracker.assign(numbered(number), 1, 0)
        tracker.snapshot()

        assert lines_executed(tracker.snapshot) < 5
