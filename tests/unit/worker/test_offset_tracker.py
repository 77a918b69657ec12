"""What may be committed of a partition: never past a record that is not done, and nothing done is
forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from partitions import P0, P1, P2, P3, P4, P7
from unitjobs import repeatable
from unittracker import admit, done_of, finish, tracker_at

from embedkq._formats.commit_metadata import NOTHING, UNKNOWN_TOPIC, TopicMark
from embedkq._formats.offset_map import OffsetRanges
from embedkq._partition import Partition
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.control_thread import offset_tracker as module
from embedkq.worker.control_thread.offset_tracker import OffsetTracker

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
        assert tracker.admit(P0, offset) is (offset not in model.done)
        if offset not in model.done:
            model.open.add(offset)
        model.seen = offset + 1
    elif name == "finish" and model.open:
        offset = sorted(model.open)[number % len(model.open)]
        assert tracker.finish(P0, 1, offset) is True
        assert tracker.finish(P0, 1, offset) is False
        model.open.remove(offset)
        model.done.add(offset)
    elif name == "advance":
        model.pass_over(cursor + number)
        tracker.advance(P0, 1, cursor + number)
    elif name == "unseen":
        tracker.finish_unseen(P0, cursor + number)
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
            assert tracker.watermark(P0) == offset
            assert tracker.width(P0) == len(runs)
            assert tracker.outstanding(P0) == len(model.open)
            assert tracker.oldest(P0) == min(model.open, default=None)
            unread.append((tracker.snapshot()[P0], (offset, tuple(runs))))
            if name == "read":
                assert done_of(tracker) == (offset, runs)
                assert len(tracker.snapshot()[P0].done) == len(runs)
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
        tracker.admit(P0, 10)
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
    tracker.advance(P0, 1, 25)
    assert done_of(tracker) == (25, [])


def test_a_hole_is_seen_in_the_next_snapshot() -> None:
    tracker = tracker_at()
    assert done_of(tracker) == (10, [])
    admit(tracker, 12)
    assert done_of(tracker) == (12, [])
    tracker.advance(P0, 1, 15)
    assert done_of(tracker) == (12, [(13, 15)])


def test_a_hole_that_reaches_what_was_done_before_joins_it() -> None:
    tracker = tracker_at(10, ((12, 14), (15, 16)))
    assert admit(tracker, 10, 13) == [True, False]
    assert done_of(tracker) == (10, [(11, 14), (15, 16)])
    assert admit(tracker, 14) == [True]
    assert done_of(tracker) == (10, [(11, 14), (15, 16)])


# Ends.


@pytest.mark.parametrize(
    ("partition", "epoch", "offset"),
    [(P1, 1, 10), (P0, 0, 10), (P0, 2, 10), (P0, 1, 11), (P0, 1, 9)],
)
def test_an_end_that_is_not_awaited_changes_nothing(
    partition: Partition, epoch: int, offset: int
) -> None:
    tracker = tracker_at()
    admit(tracker, 10)
    before = tracker.snapshot()
    assert tracker.finish(partition, epoch, offset) is False
    assert tracker.snapshot() is before


def test_ends_of_an_earlier_assignment_change_nothing() -> None:
    tracker = tracker_at()
    admit(tracker, 10)
    tracker.assign(P0, 2, 10)
    tracker.admit(P0, 10)
    before = tracker.snapshot()
    assert tracker.finish(P0, 1, 10) is False
    tracker.advance(P0, 1, 99)
    assert tracker.snapshot() is before
    assert tracker.finish(P0, 2, 10) is True
    assert tracker.snapshot()[P0] == Progress(11, (), 2)


def test_a_position_below_what_was_read_changes_nothing() -> None:
    tracker = tracker_at()
    admit(tracker, 10)
    before = tracker.snapshot()
    for position in (0, 10, 11):
        tracker.advance(P0, 1, position)
    tracker.advance(P7, 1, 50)
    assert tracker.snapshot() is before


def test_the_end_of_a_job_begun_earlier_counts_when_its_record_comes() -> None:
    tracker = tracker_at()
    tracker.finish_unseen(P0, 12)
    assert done_of(tracker) == (10, [(12, 13)])
    assert admit(tracker, 10, 11, 12, 13) == [True, True, False, True]


def test_such_an_end_is_no_news_below_what_was_read_or_of_another_partition() -> None:
    tracker = tracker_at()
    admit(tracker, 10, 11)
    before = tracker.snapshot()
    tracker.finish_unseen(P0, 11)
    tracker.finish_unseen(P1, 50)
    assert tracker.snapshot() is before
    tracker.finish_unseen(P0, 12)
    assert done_of(tracker) == (10, [(12, 13)])


# Assignments.


def test_each_assignment_needs_a_higher_epoch_than_any_before() -> None:
    tracker = OffsetTracker()
    tracker.assign(P0, 5, 10)
    tracker.assign(P1, 0, 10)
    tracker.unassign([P0])
    for epoch in (5, 4):
        with pytest.raises(ValueError) as caught:
            tracker.assign(P0, epoch, 10)
        assert str(caught.value) == (
            f"epoch={epoch} of partition 0: each assignment needs a higher one than 5"
        )
    tracker.assign(P0, 6, 10)


def test_a_start_or_ranges_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="above start=10"):
        OffsetTracker().assign(P0, 1, 10, ((9, 12),))
    with pytest.raises(ValueError, match="start=-1"):
        OffsetTracker().assign(P0, 1, -1)


def test_an_assignment_that_is_refused_leaves_its_epoch_free() -> None:
    tracker = OffsetTracker()
    with pytest.raises(ValueError):
        tracker.assign(P0, 1, -1)
    tracker.assign(P0, 1, 10)


def test_a_partition_is_in_the_snapshot_while_it_is_assigned() -> None:
    tracker = OffsetTracker()
    assert tracker.snapshot() == {}
    topic = TopicMark(5, 3)
    tracker.assign(P0, 1, 10, ((12, 13),), topic)
    tracker.assign(P4, 7, 20)
    assert tracker.snapshot() == {
        P0: Progress(10, ((12, 13),), 1, NOTHING, topic),
        P4: Progress(20, (), 7, NOTHING, UNKNOWN_TOPIC),
    }
    assert tracker.is_assigned(P0) and not tracker.is_assigned(P1)
    tracker.unassign([P1, P0, P2])
    assert not tracker.is_assigned(P0)
    assert tracker.snapshot() == {P4: Progress(20, (), 7)}
    before = tracker.snapshot()
    tracker.unassign([P0])
    assert tracker.snapshot() is before


def test_ranges_may_be_given_as_a_list() -> None:
    listed = [(12, 13)]
    tracker = tracker_at(10, listed)
    listed.append((20, 21))
    assert done_of(tracker) == (10, [(12, 13)])


ASK: dict[str, Callable[[OffsetTracker], object]] = {
    "watermark": lambda tracker: tracker.watermark(P4),
    "outstanding": lambda tracker: tracker.outstanding(P4),
    "oldest": lambda tracker: tracker.oldest(P4),
    "width": lambda tracker: tracker.width(P4),
    "fullness": lambda tracker: tracker.fullness(P4),
    "admit": lambda tracker: tracker.admit(P4, 1),
}


@pytest.mark.parametrize("ask", ASK)
def test_a_question_about_a_partition_that_is_not_assigned_says_which_ones_are(ask: str) -> None:
    tracker = OffsetTracker()
    tracker.assign(P3, 1, 0)
    tracker.assign(P0, 1, 0)
    with pytest.raises(KeyError) as caught:
        ASK[ask](tracker)
    assert caught.value.args == ("partition 4 is not assigned: assigned are [0, 3]",)
