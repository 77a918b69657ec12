"""What a snapshot of the offset tracker costs and holds, and how full the commit's metadata is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from partitions import P0, P1
from unittracker import admit, done_of, finish, tracker_at

from embedkq._formats import offset_map
from embedkq._formats.offset_map import LIMIT, OffsetRanges
from embedkq.worker.control_thread import offset_tracker as module
from embedkq.worker.control_thread.offset_tracker import OffsetTracker

# Snapshots.


def test_a_snapshot_is_made_anew_only_where_something_changed() -> None:
    tracker = tracker_at()
    tracker.assign(P1, 1, 0)
    first = tracker.snapshot()
    admit(tracker, 10)
    assert tracker.snapshot() is first, "a record that follows the last changes nothing"
    finish(tracker, 10)
    second = tracker.snapshot()
    assert second[P1] is first[P1]
    assert (first[P0].offset, second[P0].offset) == (10, 11)


def test_a_snapshot_cannot_be_changed() -> None:
    snapshot: Any = tracker_at(10, ((12, 13),)).snapshot()
    with pytest.raises(TypeError):
        snapshot[P0] = None
    with pytest.raises(TypeError):
        snapshot[P0].done[0] = (1, 2)


def test_ranges_of_a_snapshot_compare_hash_and_read_like_a_tuple() -> None:
    tracker = tracker_at(10, ((12, 13), (20, 22)))
    done = tracker.snapshot()[P0].done
    as_tuple = ((12, 13), (20, 22))
    assert done == as_tuple and as_tuple == done
    assert done != ((12, 13),)
    other = tracker_at(11, ((12, 13), (20, 22))).snapshot()[P0].done
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
        state = tracker._partitions[P0]
        assert len(state.order) <= 1_030 and len(state.gone) <= 1_030
    assert done_of(tracker) == (0, [(1, 5_000)])


def test_tidying_up_is_due_after_twice_as_many_ends_as_are_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It costs what is open, so that this is next to nothing for each end."""
    monkeypatch.setattr(module, "_SLACK", 4)
    tracker = tracker_at(0)
    admit(tracker, *range(10))
    state = tracker._partitions[P0]
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
        tracker._partitions[P0].open = Open()
        admit(tracker, *range(count))
        looked.append(0)
        finish(tracker, *range(count))
    assert looked[1] < 10 * looked[0]


def test_a_snapshot_of_what_is_done_in_order_keeps_no_lists() -> None:
    tracker = tracker_at(0)
    admit(tracker, 0, 1)
    finish(tracker, 0)
    assert type(tracker.snapshot()[P0].done) is tuple


# How full the commit's metadata is.


def scattered(tracker: OffsetTracker, count: int, seed: int = 5) -> list[int]:
    """Admit so many records; half of them, in any order, none of them the first."""
    for offset in range(count):
        tracker.admit(P0, offset)
    return random.Random(seed).sample(range(1, count), count // 2)


def test_metadata_is_empty_where_nothing_is_done_above_the_offset_to_commit() -> None:
    tracker = tracker_at(0)
    admit(tracker, *range(100))
    finish(tracker, *range(50))
    assert tracker.fullness(P0) == 0


def test_below_a_half_fullness_is_a_bound_that_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offset_map, "measure", None)
    tracker = tracker_at(0, ((5, 6), (90, 95)), limit=1000)
    admit(tracker, 0)
    assert tracker.fullness(P0) == offset_map.bound(2, 95) / 1000
    limit = 2 * offset_map.bound(2, 95)
    assert tracker_at(0, ((5, 6), (90, 95)), limit).fullness(P0) == 0.5


def test_from_a_half_on_fullness_is_measured() -> None:
    done = ((5, 6), (90, 95))
    limit = 2 * offset_map.bound(2, 95) - 1
    tracker = tracker_at(0, done, limit)
    assert tracker.fullness(P0) == offset_map.measure(0, done) / limit


def test_a_measured_size_is_never_told_above_the_bound() -> None:
    tracker = tracker_at(0, ((5, 6), (90, 95)), 5)
    assert tracker.fullness(P0) <= offset_map.bound(2, 95) / 5


def test_fullness_follows_the_size_of_the_map_within_a_sixteenth() -> None:
    tracker = tracker_at(0)
    for count, offset in enumerate(scattered(tracker, 16_000)):
        finish(tracker, offset)
        if count % 200 == 0:
            true = offset_map.measure(0, tracker.snapshot()[P0].done) / LIMIT
            told = tracker.fullness(P0)
            is_bound = true <= told <= 0.5
            assert is_bound or told == pytest.approx(true, rel=0.07)
    assert tracker.fullness(P0) > 0.6
    finish(tracker, *range(15_000))
    assert tracker.fullness(P0) < 0.1


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
    assert tracker.fullness(P0) == 1.0
    assert measured == [(160, 320)]
    finish(tracker, *range(321, 341, 2))
    assert tracker.fullness(P0) == 1.0 and len(measured) == 1, "170 runs: a sixteenth more"
    finish(tracker, 341)
    tracker.fullness(P0)
    assert [width for width, _ in measured] == [160, 171]
    admit(tracker, *range(1600, 1700))
    tracker.fullness(P0)
    assert len(measured) == 2, "1,700 offsets: a sixteenth more"
    admit(tracker, 1700)
    tracker.fullness(P0)
    assert len(measured) == 3
    finish(tracker, 0, *range(2, 24, 2))
    tracker.fullness(P0)
    assert [width for width, _ in measured] == [160, 171, 171, 159], "fewer runs count as well"


def test_a_partition_is_crowded_while_its_map_takes_more_than_a_share() -> None:
    done = ((5, 6), (90, 95))
    size = offset_map.measure(0, done)
    tracker = OffsetTracker(size)
    tracker.assign(P0, 1, 0, done)
    tracker.assign(P1, 1, 0)
    assert tracker.crowded(1.0) == set(), "exactly the share is not above it"
    tracker = OffsetTracker(size)
    tracker.assign(P0, 1, 0, done)
    tracker.assign(P1, 1, 0)
    assert tracker.crowded(0.99) == {P0}
    for offset in range(90):
        if tracker.admit(P0, offset):
            tracker.finish(P0, 1, offset)
    assert tracker.crowded(0.99) == set()


def test_a_partition_is_crowded_whether_a_snapshot_was_taken_in_between_or_not() -> None:
    for take_snapshot in (False, True):
        tracker = tracker_at(0, (), limit=12)
        admit(tracker, *range(40))
        assert tracker.crowded(0.5) == set()
        finish(tracker, *range(1, 40, 3))
        if take_snapshot:
            tracker.snapshot()
        assert tracker.crowded(0.5) == {P0}
        if take_snapshot:
            tracker.snapshot()
        finish(tracker, *[offset for offset in range(40) if offset % 3 != 1])
        if take_snapshot:
            tracker.snapshot()
        assert tracker.crowded(0.5) == set()


def test_a_crowded_partition_that_is_revoked_is_crowded_no_longer() -> None:
    tracker = tracker_at(0, ((5, 6), (90, 95)), limit=5)
    assert tracker.crowded(0.5) == {P0}
    tracker.unassign([P0])
    assert tracker.crowded(0.5) == set()
    tracker.snapshot()
    assert tracker.crowded(0.5) == set()


def test_what_has_not_changed_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = tracker_at(0, ((5, 6), (90, 95)), limit=5)
    tracker.snapshot()
    assert tracker.crowded(0.5) == {P0}
    monkeypatch.setattr(tracker, "fullness", None)
    assert tracker.crowded(0.5) == {P0}
