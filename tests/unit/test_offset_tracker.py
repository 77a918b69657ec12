"""What may be committed of a partition: never past a record that is not done, and nothing done is
forgotten."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unitjobs import repeatable

from embedkq._formats import offset_map
from embedkq._formats.commit_metadata import NOTHING, UNKNOWN_TOPIC, TopicMark
from embedkq._formats.offset_map import LIMIT, OffsetRanges
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.control_thread import offset_tracker as module
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


# Any order, against a model that looks at every offset by itself.


class Model:
    def __init__(self, start: int, done: OffsetRanges) -> None:
        self.done = {*range(start)} | {offset for run in done for offset in range(*run)}
        self.open: set[int] = set()
        self.seen = start

    def expected(self) -> tuple[int, list[tuple[int, int]]]:
        end = max(self.seen, *self.done, *self.open, 0) + 2
        first = min(set(range(end)) - self.done)
        runs: list[tuple[int, int]] = []
        for offset in range(first, end):
            if offset in self.done:
                begun = runs.pop()[0] if runs and runs[-1][1] == offset else offset
                runs.append((begun, offset + 1))
        return first, runs

    def pass_over(self, position: int) -> None:
        self.done |= set(range(self.seen, position)) - self.open
        self.seen = max(self.seen, position)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.sampled_from([0, 0, 0, 0, 1, 3])),
        st.tuples(st.just("admit"), st.sampled_from([0, 0, 0, 0, 1, 3])),
        st.tuples(st.just("finish"), st.integers(0, 50)),
        st.tuples(st.just("finish"), st.integers(0, 50)),
        st.tuples(st.just("advance"), st.integers(-2, 4)),
        st.tuples(st.just("unseen"), st.integers(-2, 6)),
        st.tuples(st.just("read"), st.just(0)),
    ),
    min_size=5,
    max_size=60,
)
RESTORED = st.sampled_from([(), ((3, 5),), ((2, 3), (6, 9), (11, 12))])


def take_step(tracker: OffsetTracker, model: Model, name: str, number: int) -> None:
    cursor = model.seen
    if name == "admit":
        offset = cursor + number
        model.pass_over(offset)
        assert tracker.admit(0, offset) is (offset not in model.done)
        if offset not in model.done:
            model.open.add(offset)
        model.seen = offset + 1
    elif name == "finish" and model.open:
        offset = sorted(model.open)[number % len(model.open)]
        assert tracker.finish(0, 1, offset) is True
        assert tracker.finish(0, 1, offset) is False
        model.open.remove(offset)
        model.done.add(offset)
    elif name == "advance":
        model.pass_over(cursor + number)
        tracker.advance(0, 1, cursor + number)
    elif name == "unseen":
        tracker.finish_unseen(0, cursor + number)
        if number >= 0:
            model.done.add(cursor + number)


@pytest.mark.parametrize("slack", [0, 3, 1024])
@repeatable
@given(restored=RESTORED, steps=STEPS)
@example(restored=(), steps=[("admit", 0)] * 9 + [("finish", 3), ("read", 0)] * 6)
@example(restored=((2, 3),), steps=[("unseen", 0), ("unseen", 1), ("admit", 0), ("admit", 0)])
def test_in_any_order_it_agrees_with_a_model_that_looks_at_each_offset(
    slack: int, restored: OffsetRanges, steps: list[tuple[str, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SLACK", slack)
        tracker, model = tracker_at(1, restored), Model(1, restored)
        unread: list[tuple[Progress, Any]] = []
        for name, number in steps:
            take_step(tracker, model, name, number)
            offset, runs = model.expected()
            assert tracker.watermark(0) == offset
            assert tracker.width(0) == len(runs)
            assert tracker.outstanding(0) == len(model.open)
            assert tracker.oldest(0) == min(model.open, default=None)
            unread.append((tracker.snapshot()[0], (offset, tuple(runs))))
            if name == "read":
                assert done_of(tracker) == (offset, runs)
                assert len(tracker.snapshot()[0].done) == len(runs)
        for progress, expected in unread:
            assert (progress.offset, tuple(progress.done)) == expected


# Admission.


def test_a_record_runs_unless_it_is_done_or_lies_below_the_start() -> None:
    tracker = tracker_at(10, ((12, 14),))
    assert admit(tracker, 9, 10, 11, 12, 13, 14) == [False, True, True, False, False, True]


def test_a_record_that_is_offered_twice_is_an_error() -> None:
    tracker = tracker_at()
    admit(tracker, 10, 11)
    with pytest.raises(ValueError) as caught:
        tracker.admit(0, 10)
    assert str(caught.value) == (
        "offset=10 of partition 0 is admitted and not done: offer records once"
    )


def test_a_record_that_is_done_may_be_offered_again() -> None:
    tracker = tracker_at()
    admit(tracker, 10)
    finish(tracker, 10)
    assert admit(tracker, 10) == [False]


def test_holes_count_as_done_once_they_are_passed() -> None:
    tracker = tracker_at()
    admit(tracker, 12, 20)
    assert done_of(tracker) == (12, [(13, 20)])
    finish(tracker, 12)
    assert done_of(tracker) == (20, [])
    finish(tracker, 20)
    tracker.advance(0, 1, 25)
    assert done_of(tracker) == (25, [])


def test_a_hole_is_seen_in_the_next_snapshot() -> None:
    tracker = tracker_at()
    assert done_of(tracker) == (10, [])
    admit(tracker, 12)
    assert done_of(tracker) == (12, [])
    tracker.advance(0, 1, 15)
    assert done_of(tracker) == (12, [(13, 15)])


def test_a_hole_that_reaches_what_was_done_before_joins_it() -> None:
    tracker = tracker_at(10, ((12, 14), (15, 16)))
    assert admit(tracker, 10, 13) == [True, False]
    assert done_of(tracker) == (10, [(11, 14), (15, 16)])
    assert admit(tracker, 14) == [True]
    assert done_of(tracker) == (10, [(11, 14), (15, 16)])


# Ends.


@pytest.mark.parametrize(
    ("partition", "epoch", "offset"), [(1, 1, 10), (0, 0, 10), (0, 2, 10), (0, 1, 11), (0, 1, 9)]
)
def test_an_end_that_is_not_awaited_changes_nothing(
    partition: int, epoch: int, offset: int
) -> None:
    tracker = tracker_at()
    admit(tracker, 10)
    before = tracker.snapshot()
    assert tracker.finish(partition, epoch, offset) is False
    assert tracker.snapshot() is before


def test_ends_of_an_earlier_assignment_change_nothing() -> None:
    tracker = tracker_at()
    admit(tracker, 10)
    tracker.assign(0, 2, 10)
    tracker.admit(0, 10)
    before = tracker.snapshot()
    assert tracker.finish(0, 1, 10) is False
    tracker.advance(0, 1, 99)
    assert tracker.snapshot() is before
    assert tracker.finish(0, 2, 10) is True
    assert tracker.snapshot()[0] == Progress(11, (), 2)


def test_a_position_below_what_was_read_changes_nothing() -> None:
    tracker = tracker_at()
    admit(tracker, 10)
    before = tracker.snapshot()
    for position in (0, 10, 11):
        tracker.advance(0, 1, position)
    tracker.advance(7, 1, 50)
    assert tracker.snapshot() is before


def test_the_end_of_a_job_begun_earlier_counts_when_its_record_comes() -> None:
    tracker = tracker_at()
    tracker.finish_unseen(0, 12)
    assert done_of(tracker) == (10, [(12, 13)])
    assert admit(tracker, 10, 11, 12, 13) == [True, True, False, True]


def test_such_an_end_is_no_news_below_what_was_read_or_of_another_partition() -> None:
    tracker = tracker_at()
    admit(tracker, 10, 11)
    before = tracker.snapshot()
    tracker.finish_unseen(0, 11)
    tracker.finish_unseen(1, 50)
    assert tracker.snapshot() is before
    tracker.finish_unseen(0, 12)
    assert done_of(tracker) == (10, [(12, 13)])


# Assignments.


def test_each_assignment_needs_a_higher_epoch_than_any_before() -> None:
    tracker = OffsetTracker()
    tracker.assign(0, 5, 10)
    tracker.assign(1, 0, 10)
    tracker.unassign([0])
    for epoch in (5, 4):
        with pytest.raises(ValueError) as caught:
            tracker.assign(0, epoch, 10)
        assert str(caught.value) == (
            f"epoch={epoch} of partition 0: each assignment needs a higher one than 5"
        )
    tracker.assign(0, 6, 10)


def test_a_start_or_ranges_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="above start=10"):
        OffsetTracker().assign(0, 1, 10, ((9, 12),))
    with pytest.raises(ValueError, match="start=-1"):
        OffsetTracker().assign(0, 1, -1)


def test_an_assignment_that_is_refused_leaves_its_epoch_free() -> None:
    tracker = OffsetTracker()
    with pytest.raises(ValueError):
        tracker.assign(0, 1, -1)
    tracker.assign(0, 1, 10)


def test_a_partition_is_in_the_snapshot_while_it_is_assigned() -> None:
    tracker = OffsetTracker()
    assert tracker.snapshot() == {}
    topic = TopicMark(5, 3)
    tracker.assign(0, 1, 10, ((12, 13),), topic)
    tracker.assign(4, 7, 20)
    assert tracker.snapshot() == {
        0: Progress(10, ((12, 13),), 1, NOTHING, topic),
        4: Progress(20, (), 7, NOTHING, UNKNOWN_TOPIC),
    }
    assert tracker.is_assigned(0) and not tracker.is_assigned(1)
    tracker.unassign([1, 0, 2])
    assert not tracker.is_assigned(0)
    assert tracker.snapshot() == {4: Progress(20, (), 7)}
    before = tracker.snapshot()
    tracker.unassign([0])
    assert tracker.snapshot() is before


def test_ranges_may_be_given_as_a_list() -> None:
    listed = [(12, 13)]
    tracker = tracker_at(10, listed)
    listed.append((20, 21))
    assert done_of(tracker) == (10, [(12, 13)])


ASK: dict[str, Callable[[OffsetTracker], object]] = {
    "watermark": lambda tracker: tracker.watermark(4),
    "outstanding": lambda tracker: tracker.outstanding(4),
    "oldest": lambda tracker: tracker.oldest(4),
    "width": lambda tracker: tracker.width(4),
    "fullness": lambda tracker: tracker.fullness(4),
    "admit": lambda tracker: tracker.admit(4, 1),
}


@pytest.mark.parametrize("ask", ASK)
def test_a_question_about_a_partition_that_is_not_assigned_says_which_ones_are(ask: str) -> None:
    tracker = OffsetTracker()
    tracker.assign(3, 1, 0)
    tracker.assign(0, 1, 0)
    with pytest.raises(KeyError) as caught:
        ASK[ask](tracker)
    assert caught.value.args == ("partition 4 is not assigned: assigned are [0, 3]",)


# Snapshots.


def test_a_snapshot_is_made_anew_only_where_something_changed() -> None:
    tracker = tracker_at()
    tracker.assign(1, 1, 0)
    first = tracker.snapshot()
    admit(tracker, 10)
    assert tracker.snapshot() is first, "a record that follows the last changes nothing"
    finish(tracker, 10)
    second = tracker.snapshot()
    assert second[1] is first[1]
    assert (first[0].offset, second[0].offset) == (10, 11)


def test_a_snapshot_cannot_be_changed() -> None:
    snapshot: Any = tracker_at(10, ((12, 13),)).snapshot()
    with pytest.raises(TypeError):
        snapshot[0] = None
    with pytest.raises(TypeError):
        snapshot[0].done[0] = (1, 2)


def test_ranges_of_a_snapshot_compare_hash_and_read_like_a_tuple() -> None:
    tracker = tracker_at(10, ((12, 13), (20, 22)))
    done = tracker.snapshot()[0].done
    as_tuple = ((12, 13), (20, 22))
    assert done == as_tuple and as_tuple == done
    assert done != ((12, 13),)
    other = tracker_at(11, ((12, 13), (20, 22))).snapshot()[0].done
    assert done == other
    assert hash(done) == hash(as_tuple)
    assert repr(done) == repr(as_tuple)
    assert len(done) == 2 and done[1] == (20, 22) and list(done[:1]) == [(12, 13)]


def test_a_job_stuck_for_long_gathers_nothing_above_it() -> None:
    """`order` and `gone` are tidied up: what they hold is bounded by what is open."""
    tracker = tracker_at(0)
    admit(tracker, 0)
    for offset in range(1, 5_000):
        admit(tracker, offset)
        finish(tracker, offset)
        state = tracker._partitions[0]
        assert len(state.order) <= 1_030 and len(state.gone) <= 1_030
    assert done_of(tracker) == (0, [(1, 5_000)])


def test_tidying_up_is_due_after_twice_as_many_ends_as_are_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It costs what is open, so that this is next to nothing for each end."""
    monkeypatch.setattr(module, "_SLACK", 4)
    tracker = tracker_at(0)
    admit(tracker, *range(10))
    state = tracker._partitions[0]
    order, ends = state.order, [0]
    for offset in range(10, 100):
        admit(tracker, offset)
        finish(tracker, offset)
        ends[-1] += 1
        if state.order is not order:
            order = state.order
            assert order == list(range(10))
            ends.append(0)
    assert ends[:4] == [5, 25, 25, 25]


def test_an_end_costs_the_same_however_many_came_before() -> None:
    looked: list[int] = []

    class Open(set[int]):
        def __contains__(self, offset: object) -> bool:
            looked[-1] += 1
            return super().__contains__(offset)

    for count in (100, 900):
        tracker = tracker_at(0)
        tracker._partitions[0].open = Open()
        admit(tracker, *range(count))
        looked.append(0)
        finish(tracker, *range(count))
    assert looked[1] < 10 * looked[0]


def test_a_snapshot_of_what_is_done_in_order_keeps_no_lists() -> None:
    tracker = tracker_at(0)
    admit(tracker, 0, 1)
    finish(tracker, 0)
    assert type(tracker.snapshot()[0].done) is tuple


# How full the commit's metadata is.


def scattered(tracker: OffsetTracker, count: int, seed: int = 5) -> list[int]:
    """Admit so many records; half of them, in any order, none of them the first."""
    for offset in range(count):
        tracker.admit(0, offset)
    return random.Random(seed).sample(range(1, count), count // 2)


def test_metadata_is_empty_where_nothing_is_done_above_the_offset_to_commit() -> None:
    tracker = tracker_at(0)
    admit(tracker, *range(100))
    finish(tracker, *range(50))
    assert tracker.fullness(0) == 0


def test_below_a_half_fullness_is_a_bound_that_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offset_map, "measure", None)
    tracker = tracker_at(0, ((5, 6), (90, 95)), limit=1000)
    admit(tracker, 0)
    assert tracker.fullness(0) == offset_map.bound(2, 95) / 1000
    limit = 2 * offset_map.bound(2, 95)
    assert tracker_at(0, ((5, 6), (90, 95)), limit).fullness(0) == 0.5


def test_from_a_half_on_fullness_is_measured() -> None:
    done = ((5, 6), (90, 95))
    limit = 2 * offset_map.bound(2, 95) - 1
    tracker = tracker_at(0, done, limit)
    assert tracker.fullness(0) == offset_map.measure(0, done) / limit


def test_a_measured_size_is_never_told_above_the_bound() -> None:
    tracker = tracker_at(0, ((5, 6), (90, 95)), 5)
    assert tracker.fullness(0) <= offset_map.bound(2, 95) / 5


def test_fullness_follows_the_size_of_the_map_within_a_sixteenth() -> None:
    tracker = tracker_at(0)
    for count, offset in enumerate(scattered(tracker, 16_000)):
        finish(tracker, offset)
        if count % 200 == 0:
            true = offset_map.measure(0, tracker.snapshot()[0].done) / LIMIT
            told = tracker.fullness(0)
            is_bound = true <= told <= 0.5
            assert is_bound or told == pytest.approx(true, rel=0.07)
    assert tracker.fullness(0) > 0.6
    finish(tracker, *range(15_000))
    assert tracker.fullness(0) < 0.1


def test_a_map_is_measured_anew_once_it_has_changed_by_a_sixteenth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[tuple[int, int]] = []

    def measure(start: int, done: OffsetRanges) -> int:
        measured.append((len(done), done[-1][1] - start))
        return 100

    monkeypatch.setattr(offset_map, "measure", measure)
    tracker = tracker_at(0, (), limit=100)
    admit(tracker, *range(1600))
    finish(tracker, *range(1, 321, 2))
    assert tracker.fullness(0) == 1.0
    assert measured == [(160, 320)]
    finish(tracker, *range(321, 341, 2))
    assert tracker.fullness(0) == 1.0 and len(measured) == 1, "170 runs: a sixteenth more"
    finish(tracker, 341)
    tracker.fullness(0)
    assert [width for width, _ in measured] == [160, 171]
    admit(tracker, *range(1600, 1700))
    tracker.fullness(0)
    assert len(measured) == 2, "1,700 offsets: a sixteenth more"
    admit(tracker, 1700)
    tracker.fullness(0)
    assert len(measured) == 3
    finish(tracker, 0, *range(2, 24, 2))
    tracker.fullness(0)
    assert [width for width, _ in measured] == [160, 171, 171, 159], "fewer runs count as well"


def test_a_partition_is_crowded_while_its_map_takes_more_than_a_share() -> None:
    done = ((5, 6), (90, 95))
    size = offset_map.measure(0, done)
    tracker = OffsetTracker(size)
    tracker.assign(0, 1, 0, done)
    tracker.assign(1, 1, 0)
    assert tracker.crowded(1.0) == set(), "exactly the share is not above it"
    tracker = OffsetTracker(size)
    tracker.assign(0, 1, 0, done)
    tracker.assign(1, 1, 0)
    assert tracker.crowded(0.99) == {0}
    for offset in range(90):
        if tracker.admit(0, offset):
            tracker.finish(0, 1, offset)
    assert tracker.crowded(0.99) == set()


def test_a_partition_is_crowded_whether_a_snapshot_was_taken_in_between_or_not() -> None:
    for take_snapshot in (False, True):
        tracker = tracker_at(0, (), limit=12)
        admit(tracker, *range(40))
        assert tracker.crowded(0.5) == set()
        finish(tracker, *range(1, 40, 3))
        if take_snapshot:
            tracker.snapshot()
        assert tracker.crowded(0.5) == {0}
        if take_snapshot:
            tracker.snapshot()
        finish(tracker, *[offset for offset in range(40) if offset % 3 != 1])
        if take_snapshot:
            tracker.snapshot()
        assert tracker.crowded(0.5) == set()


def test_a_crowded_partition_that_is_revoked_is_crowded_no_longer() -> None:
    tracker = tracker_at(0, ((5, 6), (90, 95)), limit=5)
    assert tracker.crowded(0.5) == {0}
    tracker.unassign([0])
    assert tracker.crowded(0.5) == set()
    tracker.snapshot()
    assert tracker.crowded(0.5) == set()


def test_what_has_not_changed_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = tracker_at(0, ((5, 6), (90, 95)), limit=5)
    tracker.snapshot()
    assert tracker.crowded(0.5) == {0}
    monkeypatch.setattr(tracker, "fullness", None)
    assert tracker.crowded(0.5) == {0}
