"""The backlog: what was polled is given out in order, in fair turns, one job of a key at a time,
and only so much of it is held."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unitjobs import batch_of, places, repeatable, run_at

from embedkq.worker.between_threads import backlog as module
from embedkq.worker.between_threads.backlog import MOST_BYTES, MOST_RECORDS, RUN_BYTES, Backlog
from embedkq.worker.between_threads.messages import JobRun

PLENTY = 10_000


def backlog_of(*partitions: int) -> Backlog:
    made = Backlog()
    for partition in partitions:
        made.open(partition, 1)
    return made


def poll(backlog: Backlog, partition: int, offsets: Iterable[int], size: int = 0) -> list[JobRun]:
    """As the consumer's thread does: announce the records, then leave them for the other thread."""
    batch = batch_of([run_at(offset, partition, size=size) for offset in offsets], partition)
    backlog.reserve(len(batch.runs), batch.size)
    backlog.add(batch)
    return list(batch.runs)


def turns(backlog: Backlog, most: int = PLENTY) -> list[tuple[int, list[int], int | None]]:
    """All that is given out: whose turn, which offsets, which position."""
    found = []
    while (queued := backlog.next_queued(most)) is not None:
        found.append((queued.partition, [run.offset for run in queued.runs], queued.position))
    return found


def busy_lane(backlog: Backlog, key: bytes = b"k", partition: int = 0) -> JobRun:
    """A job that has the key."""
    run = run_at(900, partition, key=key)
    assert backlog.enter_lane(run)
    return run


# Order and turns.


def test_nothing_is_given_out_of_an_empty_backlog() -> None:
    assert backlog_of(0).next_queued(PLENTY) is None
    assert len(backlog_of(0)) == 0


def test_records_come_in_the_order_of_their_partition_with_the_position_behind_them() -> None:
    backlog = backlog_of(0)
    runs = poll(backlog, 0, [3, 4, 7])
    queued = backlog.next_queued(PLENTY)
    assert queued == (0, 1, runs, 8)
    assert backlog.next_queued(PLENTY) is None


def test_a_poll_without_records_still_brings_its_position() -> None:
    """What was passed over, compacted records for one, is known from the position only."""
    backlog = backlog_of(0)
    poll(backlog, 0, [])
    assert turns(backlog) == [(0, [], 0)]


def test_no_more_records_are_given_out_than_are_asked_for() -> None:
    backlog = backlog_of(0)
    poll(backlog, 0, range(5))
    assert backlog.next_queued(0) == (0, 1, [], None)
    assert turns(backlog, most=2) == [(0, [0, 1], None), (0, [2, 3], None), (0, [4], 5)]


def test_a_partition_gives_out_sixteen_records_and_then_another_one_has_its_turn() -> None:
    backlog = backlog_of(0, 1, 2)
    poll(backlog, 0, range(40))
    poll(backlog, 1, range(17))
    poll(backlog, 2, range(1))
    assert turns(backlog) == [
        (0, list(range(16)), None),
        (1, list(range(16)), None),
        (2, [0], 1),
        (0, list(range(16, 32)), None),
        (1, [16], 17),
        (0, list(range(32, 40)), 40),
    ]


def test_a_second_poll_of_a_partition_does_not_jump_the_queue() -> None:
    backlog = backlog_of(0, 1)
    poll(backlog, 0, [0])
    poll(backlog, 0, [1])
    poll(backlog, 1, [0])
    assert turns(backlog) == [(0, [0], 1), (1, [0], 1), (0, [1], 2)]


def test_a_partition_that_was_empty_is_given_out_once_it_has_records_again() -> None:
    backlog = backlog_of(0)
    poll(backlog, 0, [0])
    turns(backlog)
    poll(backlog, 0, [1])
    assert turns(backlog) == [(0, [1], 2)]


def test_one_partition_with_a_long_backlog_does_not_delay_another_by_more_than_a_turn() -> None:
    backlog = backlog_of(0, 1)
    poll(backlog, 0, range(1000))
    for _ in range(5):
        poll(backlog, 1, [0])
        two = [backlog.next_queued(PLENTY), backlog.next_queued(PLENTY)]
        assert sorted(queued.partition for queued in two if queued) == [0, 1]


# Assignments.


def test_records_of_another_assignment_are_dropped_and_make_room() -> None:
    backlog = Backlog()
    backlog.open(0, 2)
    poll(backlog, 0, [0, 1], size=100)
    assert backlog.next_queued(PLENTY) is None
    assert len(backlog) == 0
    assert backlog.held_bytes == 0


def test_records_of_a_partition_that_is_not_open_are_dropped() -> None:
    backlog = backlog_of(0)
    poll(backlog, 1, [0])
    assert turns(backlog) == []
    assert len(backlog) == 0


def test_a_partition_is_open_from_its_assignment_until_it_is_dropped() -> None:
    backlog = backlog_of(0)
    assert backlog.is_open(0)
    assert not backlog.is_open(1)
    backlog.drop({0})
    assert not backlog.is_open(0)


def test_a_new_assignment_drops_what_was_polled_in_the_former_one() -> None:
    backlog = backlog_of(0, 1)
    poll(backlog, 0, range(20), size=100)
    poll(backlog, 1, [5])
    backlog.next_queued(3)
    backlog.open(0, 2)
    assert len(backlog) == 1
    assert turns(backlog) == [(1, [5], 6)]
    batch = batch_of([run_at(7, epoch=2)], epoch=2)
    backlog.reserve(1, 0)
    backlog.add(batch)
    assert backlog.next_queued(PLENTY) == (0, 2, batch.runs, 8)


def test_a_dropped_partition_gives_out_nothing_and_frees_what_it_held() -> None:
    backlog = backlog_of(0, 1)
    given = poll(backlog, 0, range(10), size=100)[:4]
    poll(backlog, 0, range(10, 13), size=100)
    poll(backlog, 1, [0], size=10)
    backlog.next_queued(4)
    assert backlog.drop({0, 9}) == []
    assert turns(backlog) == [(1, [0], 1)]
    assert len(backlog) == 0
    assert backlog.held_bytes == sum(run.size + RUN_BYTES for run in given) + 10 + RUN_BYTES


# Keys.


def test_a_job_without_a_key_never_waits() -> None:
    backlog = backlog_of(0)
    assert [backlog.enter_lane(run_at(offset)) for offset in range(3)] == [True] * 3
    backlog.leave_lane(run_at(0))
    assert backlog.take_ready(PLENTY) == []


def test_one_job_of_a_key_runs_at_a_time_and_the_others_follow_in_order() -> None:
    backlog = backlog_of(0)
    first, second, third = (run_at(offset, key=b"k") for offset in range(3))
    assert [backlog.enter_lane(run) for run in (first, second, third)] == [True, False, False]
    assert backlog.take_ready(PLENTY) == []
    backlog.leave_lane(first)
    assert backlog.take_ready(PLENTY) == [second]
    backlog.leave_lane(second)
    assert backlog.take_ready(PLENTY) == [third]
    backlog.leave_lane(third)
    assert backlog.take_ready(PLENTY) == []
    assert backlog.enter_lane(run_at(4, key=b"k")), "nobody has the key any more"


def test_a_key_that_is_busy_delays_no_other_key() -> None:
    backlog = backlog_of(0)
    busy_lane(backlog, b"k")
    assert backlog.enter_lane(run_at(1, key=b"other"))
    assert not backlog.enter_lane(run_at(2, key=b"other"))


def test_an_empty_key_is_a_key() -> None:
    backlog = backlog_of(0)
    first, second = run_at(0, key=b""), run_at(1, key=b"")
    assert backlog.enter_lane(first)
    assert not backlog.enter_lane(second)
    backlog.leave_lane(first)
    assert backlog.take_ready(PLENTY) == [second]


def test_no_more_freed_jobs_are_taken_than_are_asked_for_oldest_first() -> None:
    backlog = backlog_of(0)
    keys = [b"a", b"b", b"c"]
    holders = [busy_lane(backlog, key) for key in keys]
    for offset, key in enumerate(keys):
        backlog.enter_lane(run_at(offset, key=key))
    for holder in holders:
        backlog.leave_lane(holder)
    assert places(backlog.take_ready(0)) == []
    assert places(backlog.take_ready(2)) == [(0, 0), (0, 1)]
    assert places(backlog.take_ready(2)) == [(0, 2)]


def test_a_key_left_by_a_job_that_never_had_it_is_no_trouble() -> None:
    backlog = backlog_of(0)
    backlog.leave_lane(run_at(0, key=b"k"))
    assert backlog.enter_lane(run_at(1, key=b"k"))


def test_a_revoked_partition_hands_back_the_jobs_that_wait_for_their_key_and_no_others() -> None:
    backlog = backlog_of(0, 1)
    holder = busy_lane(backlog)
    waiting = [run_at(offset, offset % 2, key=b"k") for offset in range(4)]
    for run in waiting:
        backlog.enter_lane(run)
    assert backlog.drop({0}) == [waiting[0], waiting[2]]
    backlog.leave_lane(holder)
    assert backlog.take_ready(PLENTY) == [waiting[1]]
    backlog.leave_lane(waiting[1])
    assert backlog.take_ready(PLENTY) == [waiting[3]]


def test_a_revoked_partition_hands_back_freed_jobs_and_their_keys_go_to_the_next() -> None:
    backlog = backlog_of(0, 1)
    holder = busy_lane(backlog)
    freed, following = run_at(0, 0, key=b"k"), run_at(0, 1, key=b"k")
    backlog.enter_lane(freed)
    backlog.enter_lane(following)
    backlog.leave_lane(holder)
    assert backlog.drop({0}) == [freed]
    assert backlog.take_ready(PLENTY) == [following]
    backlog.leave_lane(following)
    assert backlog.enter_lane(run_at(9, 1, key=b"k"))


def test_freed_jobs_of_other_partitions_stay_ready_when_one_is_revoked() -> None:
    backlog = backlog_of(0, 1)
    holder = busy_lane(backlog)
    freed = run_at(0, 1, key=b"k")
    backlog.enter_lane(freed)
    backlog.leave_lane(holder)
    assert backlog.drop({0}) == []
    assert backlog.take_ready(PLENTY) == [freed]


def test_a_job_that_runs_keeps_its_key_when_its_partition_is_revoked() -> None:
    backlog = backlog_of(0, 1)
    holder = busy_lane(backlog)
    backlog.enter_lane(run_at(1, 0, key=b"k"))
    backlog.drop({0})
    following = run_at(0, 1, key=b"k")
    assert not backlog.enter_lane(following)
    backlog.leave_lane(holder)
    assert backlog.take_ready(PLENTY) == [following]


# Room.


def test_the_backlog_is_full_at_two_thousand_records_and_not_before() -> None:
    backlog = backlog_of(0)
    backlog.reserve(MOST_RECORDS - 1, 0)
    assert not backlog.full
    backlog.reserve(1, 0)
    assert backlog.full
    assert len(backlog) == MOST_RECORDS == 2_000


def test_the_backlog_is_full_at_64_mib_with_half_a_kib_for_each_record() -> None:
    backlog = backlog_of(0)
    backlog.reserve(2, MOST_BYTES - 2 * RUN_BYTES - 1)
    assert not backlog.full
    backlog.reserve(0, 1)
    assert backlog.full
    assert backlog.held_bytes == MOST_BYTES == 64 * 1024 * 1024


def test_records_on_their_way_to_the_backlog_count_already() -> None:
    backlog = backlog_of(0)
    backlog.reserve(3, 30)
    backlog.reserve(2, 10)
    assert len(backlog) == 5
    assert backlog.held_bytes == 40 + 5 * RUN_BYTES


def test_what_was_given_out_is_no_record_of_the_backlog_and_its_bytes_count_until_it_is_done() -> (
    None
):
    backlog = backlog_of(0)
    runs = poll(backlog, 0, range(20), size=100)
    backlog.next_queued(PLENTY)
    assert len(backlog) == 4
    assert backlog.held_bytes == 20 * (100 + RUN_BYTES)
    backlog.next_queued(PLENTY)
    assert len(backlog) == 0
    for run in runs:
        backlog.leave(run)
    assert backlog.held_bytes == 0


def test_a_result_counts_among_the_bytes_until_its_job_is_done() -> None:
    backlog = backlog_of(0)
    [run] = poll(backlog, 0, [0], size=100)
    run.size += 50
    backlog.grow(50)
    backlog.grow(0)
    assert backlog.held_bytes == 150 + RUN_BYTES
    backlog.leave(run)
    assert backlog.held_bytes == 0


class Room(threading.Event):
    """What the consumer's thread waits for; something else happens while it does."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.meanwhile = meanwhile
        self.waits: list[float | None] = []
        self.times_set = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout)
        self.meanwhile()
        return self.is_set()

    def set(self) -> None:
        self.times_set += 1
        super().set()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    made = Room()
    monkeypatch.setattr(module, "threading", SimpleNamespace(Event=lambda: made))
    return made


def test_a_consumer_does_not_wait_while_there_is_room(room: Room) -> None:
    assert backlog_of(0).wait_for_room(5.0) is True
    assert not room.waits


def test_a_consumer_that_finds_no_room_waits_for_so_long(room: Room) -> None:
    backlog = backlog_of(0)
    backlog.reserve(MOST_RECORDS, 0)
    assert backlog.wait_for_room(5.0) is False
    assert backlog.wait_for_room(7.0) is False
    assert room.waits == [5.0, 7.0]


@pytest.mark.parametrize("how", ["given out", "given out to the last", "dropped", "of another"])
def test_a_waiting_consumer_is_woken_as_soon_as_there_is_room_for_a_record(
    how: str, room: Room
) -> None:
    backlog = backlog_of(0, 1)
    poll(backlog, 0, range(2))
    poll(backlog, 1, range(MOST_RECORDS - 3))
    stale = batch_of([run_at(0, 2)], 2)
    backlog.reserve(1, 0)
    room.meanwhile = {
        "given out": lambda: backlog.next_queued(1),
        "given out to the last": lambda: backlog.next_queued(2),
        "dropped": lambda: backlog.drop({0}),
        "of another": lambda: backlog.add(stale),
    }[how]
    assert backlog.wait_for_room(5.0) is True
    assert room.times_set == 1


def test_a_waiting_consumer_is_woken_as_soon_as_there_is_room_for_bytes(room: Room) -> None:
    backlog = backlog_of(0)
    runs = poll(backlog, 0, range(2), size=100)
    backlog.reserve(0, MOST_BYTES)
    backlog.next_queued(1)
    small = run_at(5, size=MOST_BYTES - RUN_BYTES)
    room.meanwhile = lambda: (backlog.leave(runs[0]), backlog.leave(small))
    assert backlog.wait_for_room(5.0) is True
    assert room.times_set == 1


def test_a_consumer_is_not_woken_while_the_backlog_is_still_full(room: Room) -> None:
    backlog = backlog_of(0)
    runs = poll(backlog, 0, range(2), size=10)
    backlog.reserve(MOST_RECORDS, 2 * MOST_BYTES)
    room.meanwhile = lambda: (backlog.next_queued(1), backlog.leave(runs[0]))
    assert backlog.wait_for_room(5.0) is False
    assert room.times_set == 0


def test_room_that_was_made_once_wakes_once(room: Room) -> None:
    """Each waking costs a lock; where nobody waits there is nothing to wake."""
    backlog = backlog_of(0)
    runs = poll(backlog, 0, range(10))
    turns(backlog, most=1)
    for run in runs:
        backlog.leave(run)
    assert room.times_set == 1


def test_room_that_is_made_just_before_the_waiting_begins_is_seen(room: Room) -> None:
    backlog = backlog_of(0)
    poll(backlog, 0, range(MOST_RECORDS))
    cleared = room.clear
    room.clear = lambda: (cleared(), backlog.next_queued(1))  # type: ignore[method-assign]
    assert backlog.wait_for_room(5.0) is True
    assert not room.waits


# Partitions that wait.


def test_a_partition_on_hold_gives_out_nothing_and_the_others_go_on() -> None:
    backlog = backlog_of(0, 1)
    poll(backlog, 0, [0])
    poll(backlog, 1, [0])
    backlog.hold({0})
    assert turns(backlog) == [(1, [0], 1)]
    poll(backlog, 1, [1])
    assert turns(backlog) == [(1, [1], 2)]
    backlog.hold(set())
    assert turns(backlog) == [(0, [0], 1)]


def test_of_several_partitions_on_hold_each_goes_on_when_it_is_no_longer_named() -> None:
    backlog = backlog_of(0, 1, 2)
    for partition in range(3):
        poll(backlog, partition, [0])
    backlog.hold({0, 1})
    assert turns(backlog) == [(2, [0], 1)]
    backlog.hold({1, 2})
    assert turns(backlog) == [(0, [0], 1)]
    backlog.hold({0, 1})
    assert turns(backlog) == []
    backlog.hold({0})
    assert turns(backlog) == [(1, [0], 1)]


def test_a_partition_on_hold_that_is_named_again_has_one_turn_afterwards() -> None:
    backlog = backlog_of(0, 1)
    poll(backlog, 0, range(20))
    poll(backlog, 1, range(20))
    for _ in range(3):
        backlog.hold({0})
        backlog.hold(set())
        backlog.hold({0})
        backlog.next_queued(1)
    backlog.hold(set())
    assert [turn[0] for turn in turns(backlog)] == [1, 0, 1, 0]


def test_a_partition_on_hold_that_is_dropped_stays_away_after_the_hold() -> None:
    backlog = backlog_of(0)
    poll(backlog, 0, [0])
    backlog.hold({0})
    assert turns(backlog) == []
    backlog.drop({0})
    backlog.hold(set())
    assert turns(backlog) == []


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three records that wait for a key are too many of a partition, or 100 bytes, or 150 of all."""
    monkeypatch.setattr(module, "READ_AHEAD", 3)
    monkeypatch.setattr(module, "READ_AHEAD_BYTES", 100)
    monkeypatch.setattr(module, "READ_AHEAD_BYTES_IN_ALL", 150)


@pytest.mark.parametrize(("enough", "size"), [(3, 1), (2, 50)])
@pytest.mark.usefixtures("few")
def test_a_partition_of_which_many_records_wait_for_a_key_is_paused(enough: int, size: int) -> None:
    backlog = backlog_of(0, 1)
    holder = busy_lane(backlog)
    poll(backlog, 0, [50])
    poll(backlog, 1, [60])
    for offset in range(enough):
        assert backlog.partitions_to_pause() == frozenset()
        backlog.enter_lane(run_at(offset, key=b"k", size=size))
    assert backlog.partitions_to_pause() == {0}
    assert turns(backlog) == [(1, [60], 61)]
    poll(backlog, 1, [61])
    backlog.leave_lane(holder)
    assert backlog.partitions_to_pause() == frozenset()
    assert turns(backlog) == [(1, [61], 62), (0, [50], 51)]


@pytest.mark.usefixtures("few")
def test_where_too_many_bytes_of_all_partitions_wait_each_that_has_any_is_paused() -> None:
    backlog = backlog_of(0, 1, 2)
    holder = busy_lane(backlog, partition=3)
    for partition in range(3):
        poll(backlog, partition, [50])
    for partition, offset, size in ((0, 0, 40), (0, 1, 40), (1, 0, 70)):
        backlog.enter_lane(run_at(offset, partition, key=b"k", size=size))
    assert backlog.partitions_to_pause() == {0, 1}
    assert turns(backlog) == [(2, [50], 51)]
    backlog.leave_lane(holder)
    assert backlog.partitions_to_pause() == frozenset()
    assert sorted(turns(backlog)) == [(0, [50], 51), (1, [50], 51)]


@pytest.mark.usefixtures("few")
def test_a_paused_partition_whose_waiting_jobs_are_dropped_is_paused_no_longer() -> None:
    backlog = backlog_of(0, 1)
    busy_lane(backlog, partition=3)
    poll(backlog, 1, [50])
    for partition, size in ((0, 90), (1, 70)):
        backlog.enter_lane(run_at(0, partition, key=b"k", size=size))
    assert backlog.partitions_to_pause() == {0, 1}
    assert turns(backlog) == []
    backlog.drop({0})
    assert backlog.partitions_to_pause() == frozenset()
    assert turns(backlog) == [(1, [50], 51)]


@pytest.mark.usefixtures("few")
def test_a_partition_that_is_full_and_on_hold_goes_on_when_it_is_neither() -> None:
    backlog = backlog_of(0)
    holder = busy_lane(backlog)
    poll(backlog, 0, [50])
    for offset in range(3):
        backlog.enter_lane(run_at(offset, key=b"k", size=1))
    backlog.hold({0})
    assert turns(backlog) == []
    backlog.leave_lane(holder)
    assert turns(backlog) == []
    backlog.hold(set())
    assert turns(backlog) == [(0, [50], 51)]


@pytest.mark.usefixtures("few")
def test_a_partition_that_is_no_longer_on_hold_but_full_waits_on() -> None:
    backlog = backlog_of(0)
    holder = busy_lane(backlog)
    poll(backlog, 0, [50])
    for offset in range(3):
        backlog.enter_lane(run_at(offset, key=b"k", size=1))
    backlog.hold({0})
    assert turns(backlog) == []
    backlog.hold(set())
    assert turns(backlog) == []
    backlog.leave_lane(holder)
    assert turns(backlog) == [(0, [50], 51)]


def test_a_partition_on_hold_is_not_polled_either() -> None:
    backlog = backlog_of(0)
    backlog.hold({0})
    assert backlog.partitions_to_pause() == {0}


def test_records_that_cannot_move_on_take_no_room_from_those_that_can() -> None:
    backlog = backlog_of(0, 1)
    poll(backlog, 0, range(1_000))
    poll(backlog, 0, range(1_000, MOST_RECORDS))
    backlog.next_queued(1)
    poll(backlog, 1, [0])
    assert backlog.full
    backlog.hold({0, 7})
    backlog.partitions_to_pause()
    assert not backlog.full
    assert len(backlog) == MOST_RECORDS
    backlog.reserve(MOST_RECORDS - 2, 0)
    assert not backlog.full
    backlog.reserve(1, 0)
    assert backlog.full
    backlog.hold(set())
    backlog.partitions_to_pause()
    assert backlog.full


# Any order of all of it.


class Worker:
    """What the control thread does with a backlog, and what came of each record."""

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.epochs = Counter[int]()
        self.ends = Counter[int]()
        self.running: deque[JobRun] = deque()
        self.waiting: set[JobRun] = set()
        self.polled: list[JobRun] = []
        self.begun: list[JobRun] = []
        self.done: list[JobRun] = []
        self.handed_back: list[JobRun] = []
        self.passed_by = Counter[int]()

    def open(self, partition: int) -> None:
        if not self.backlog.is_open(partition):
            self.epochs[partition] += 1
            self.backlog.open(partition, self.epochs[partition])

    def poll(self, partition: int, count: int, key: bytes | None, epochs_ago: int) -> None:
        epoch = self.epochs[partition] - epochs_ago
        first = self.ends[partition]
        self.ends[partition] += count
        runs = [run_at(first + n, partition, epoch, key, 10) for n in range(count)]
        batch = batch_of(runs, partition, epoch)
        self.backlog.reserve(count, batch.size)
        if self.backlog.is_open(partition) and not epochs_ago:
            self.polled += runs
        self.backlog.add(batch)

    def take(self, most: int) -> None:
        ready = self.backlog.take_ready(most)
        assert self.waiting.issuperset(ready)
        self.waiting.difference_update(ready)
        self.begin(ready)
        queued = self.backlog.next_queued(most)
        if queued is None:
            return
        assert len(queued.runs) <= min(most, 16)
        assert queued.epoch == self.epochs[queued.partition]
        for run in queued.runs:
            if self.backlog.enter_lane(run):
                self.begin([run])
            else:
                self.waiting.add(run)

    def begin(self, runs: list[JobRun]) -> None:
        for run in runs:
            keys = {other.key for other in self.running} - {None}
            assert run.key not in keys, "two jobs of one key at a time"
            self.begun.append(run)
            self.running.append(run)

    def end(self) -> None:
        if self.running:
            run = self.running.popleft()
            self.backlog.leave_lane(run)
            self.backlog.leave(run)
            self.done.append(run)

    def drop(self, partition: int) -> None:
        handed_back = self.backlog.drop({partition})
        waited = {run for run in self.waiting if run.partition == partition}
        assert len(handed_back) == len(waited) and set(handed_back) == waited
        self.waiting -= waited
        for run in handed_back:
            self.backlog.leave(run)
        self.handed_back += handed_back
        self.polled = [
            run for run in self.polled if run.partition != partition or run in set(self.begun)
        ]


PARTITION = st.integers(0, 2)
POLL = st.tuples(
    st.just("poll"), PARTITION, st.integers(0, 40), st.sampled_from([None, b"a", b"b"]), st.just(0)
)
LATE_POLL = st.tuples(st.just("poll"), PARTITION, st.just(3), st.just(b"a"), st.just(1))
TAKE = st.tuples(st.just("take"), st.integers(1, 20))
END = st.just(("end",))
OPEN = st.tuples(st.just("open"), PARTITION)
DROP = st.tuples(st.just("drop"), PARTITION)
STEPS = st.lists(
    st.one_of(POLL, POLL, TAKE, TAKE, TAKE, END, END, OPEN, DROP, LATE_POLL),
    min_size=10,
    max_size=60,
)


@repeatable
@given(STEPS)
def test_each_record_is_begun_once_in_order_of_its_key_or_handed_back(steps: list[tuple]) -> None:
    worker = Worker()
    for partition in range(3):
        worker.open(partition)
    for name, *arguments in steps:
        getattr(worker, name)(*arguments)
    for _ in range(3_000):
        worker.take(50)
        worker.end()
    assert not (len(worker.backlog) or worker.running or worker.waiting), "some never begin"
    assert sorted(places(worker.begun)) == sorted(places(worker.polled))
    for partition in range(3):
        for key in (None, b"a", b"b"):
            offsets = [
                run.offset for run in worker.begun if (run.partition, run.key) == (partition, key)
            ]
            assert offsets == sorted(set(offsets))
    assert worker.backlog.held_bytes == 0
    assert not worker.backlog.full
