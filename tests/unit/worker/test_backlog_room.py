"""How much the backlog holds, and which partitions wait until there is room again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from partitions import P0, P1, P2, P3, P7
from unitbacklog import PLENTY, backlog_of, busy_lane, poll, turns
from unitjobs import batch_of, run_at

from embedkq.worker.between_threads import backlog as module
from embedkq.worker.between_threads.backlog import MOST_BYTES, MOST_RECORDS, RUN_BYTES

# Room.


def test_the_backlog_is_full_at_two_thousand_records_and_not_before() -> None:
    backlog = backlog_of(P0)
    backlog.reserve(MOST_RECORDS - 1, 0)
    assert not backlog.full
    backlog.reserve(1, 0)
    assert backlog.full
    assert len(backlog) == MOST_RECORDS == 2_000


def test_the_backlog_is_full_at_64_mib_with_half_a_kib_for_each_record() -> None:
    backlog = backlog_of(P0)
    backlog.reserve(2, MOST_BYTES - 2 * RUN_BYTES - 1)
    assert not backlog.full
    backlog.reserve(0, 1)
    assert backlog.full
    assert backlog.held_bytes == MOST_BYTES == 64 * 1024 * 1024


def test_records_on_their_way_to_the_backlog_count_already() -> None:
    backlog = backlog_of(P0)
    backlog.reserve(3, 30)
    backlog.reserve(2, 10)
    assert len(backlog) == 5
    assert backlog.held_bytes == 40 + 5 * RUN_BYTES


def test_what_was_given_out_is_no_record_of_the_backlog_and_its_bytes_count_until_it_is_done() -> (
    None
):
    backlog = backlog_of(P0)
    runs = poll(backlog, P0, range(20), size=100)
    backlog.next_queued(PLENTY)
    assert len(backlog) == 4
    assert backlog.held_bytes == 20 * (100 + RUN_BYTES)
    backlog.next_queued(PLENTY)
    assert len(backlog) == 0
    for run in runs:
        backlog.leave(run)
    assert backlog.held_bytes == 0


def test_a_result_counts_among_the_bytes_until_its_job_is_done() -> None:
    backlog = backlog_of(P0)
    [run] = poll(backlog, P0, [0], size=100)
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
    assert backlog_of(P0).wait_for_room(5.0) is True
    assert not room.waits


def test_a_consumer_that_finds_no_room_waits_for_so_long(room: Room) -> None:
    backlog = backlog_of(P0)
    backlog.reserve(MOST_RECORDS, 0)
    assert backlog.wait_for_room(5.0) is False
    assert backlog.wait_for_room(7.0) is False
    assert room.waits == [5.0, 7.0]


@pytest.mark.parametrize("how", ["given out", "given out to the last", "dropped", "of another"])
def test_a_waiting_consumer_is_woken_as_soon_as_there_is_room_for_a_record(
    how: str, room: Room
) -> None:
    backlog = backlog_of(P0, P1)
    poll(backlog, P0, range(2))
    poll(backlog, P1, range(MOST_RECORDS - 3))
    stale = batch_of([run_at(0, P2)], P2)
    backlog.reserve(1, 0)
    room.meanwhile = {
        "given out": lambda: backlog.next_queued(1),
        "given out to the last": lambda: backlog.next_queued(2),
        "dropped": lambda: backlog.drop({P0}),
        "of another": lambda: backlog.add(stale),
    }[how]
    assert backlog.wait_for_room(5.0) is True
    assert room.times_set == 1


def test_a_waiting_consumer_is_woken_as_soon_as_there_is_room_for_bytes(room: Room) -> None:
    backlog = backlog_of(P0)
    runs = poll(backlog, P0, range(2), size=100)
    backlog.reserve(0, MOST_BYTES)
    backlog.next_queued(1)
    small = run_at(5, size=MOST_BYTES - RUN_BYTES)
    room.meanwhile = lambda: (backlog.leave(runs[0]), backlog.leave(small))
    assert backlog.wait_for_room(5.0) is True
    assert room.times_set == 1


def test_a_consumer_is_not_woken_while_the_backlog_is_still_full(room: Room) -> None:
    backlog = backlog_of(P0)
    runs = poll(backlog, P0, range(2), size=10)
    backlog.reserve(MOST_RECORDS, 2 * MOST_BYTES)
    room.meanwhile = lambda: (backlog.next_queued(1), backlog.leave(runs[0]))
    assert backlog.wait_for_room(5.0) is False
    assert room.times_set == 0


def test_room_that_was_made_once_wakes_once(room: Room) -> None:
    """Each waking costs a lock; where nobody waits there is nothing to wake."""
    backlog = backlog_of(P0)
    runs = poll(backlog, P0, range(10))
    turns(backlog, most=1)
    for run in runs:
        backlog.leave(run)
    assert room.times_set == 1


def test_room_that_is_made_just_before_the_waiting_begins_is_seen(room: Room) -> None:
    backlog = backlog_of(P0)
    poll(backlog, P0, range(MOST_RECORDS))
    cleared = room.clear
    room.clear = lambda: (cleared(), backlog.next_queued(1))  # type: ignore[method-assign]
    assert backlog.wait_for_room(5.0) is True
    assert not room.waits


# Partitions that wait.


def test_a_partition_on_hold_gives_out_nothing_and_the_others_go_on() -> None:
    backlog = backlog_of(P0, P1)
    poll(backlog, P0, [0])
    poll(backlog, P1, [0])
    backlog.hold({P0})
    assert turns(backlog) == [(P1, [0], 1)]
    poll(backlog, P1, [1])
    assert turns(backlog) == [(P1, [1], 2)]
    backlog.hold(set())
    assert turns(backlog) == [(P0, [0], 1)]


def test_of_several_partitions_on_hold_each_goes_on_when_it_is_no_longer_named() -> None:
    backlog = backlog_of(P0, P1, P2)
    for partition in (P0, P1, P2):
        poll(backlog, partition, [0])
    backlog.hold({P0, P1})
    assert turns(backlog) == [(P2, [0], 1)]
    backlog.hold({P1, P2})
    assert turns(backlog) == [(P0, [0], 1)]
    backlog.hold({P0, P1})
    assert turns(backlog) == []
    backlog.hold({P0})
    assert turns(backlog) == [(P1, [0], 1)]


def test_a_partition_on_hold_that_is_named_again_has_one_turn_afterwards() -> None:
    backlog = backlog_of(P0, P1)
    poll(backlog, P0, range(20))
    poll(backlog, P1, range(20))
    for _ in range(3):
        backlog.hold({P0})
        backlog.hold(set())
        backlog.hold({P0})
        backlog.next_queued(1)
    backlog.hold(set())
    assert [turn[0] for turn in turns(backlog)] == [P1, P0, P1, P0]


def test_a_partition_on_hold_that_is_dropped_stays_away_after_the_hold() -> None:
    backlog = backlog_of(P0)
    poll(backlog, P0, [0])
    backlog.hold({P0})
    assert turns(backlog) == []
    backlog.drop({P0})
    backlog.hold(set())
    assert turns(backlog) == []


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of records that wait for a key 3 of a partition are too many, or 100 bytes, or 150 of all."""
    monkeypatch.setattr(module, "READ_AHEAD", 3)
    monkeypatch.setattr(module, "READ_AHEAD_BYTES", 100)
    monkeypatch.setattr(module, "READ_AHEAD_BYTES_IN_ALL", 150)


@pytest.mark.parametrize(("enough", "size"), [(3, 1), (2, 50)])
@pytest.mark.usefixtures("few")
def test_a_partition_of_which_many_records_wait_for_a_key_is_paused(enough: int, size: int) -> None:
    backlog = backlog_of(P0, P1)
    holder = busy_lane(backlog)
    poll(backlog, P0, [50])
    poll(backlog, P1, [60])
    for offset in range(enough):
        assert backlog.partitions_to_pause() == frozenset()
        backlog.enter_lane(run_at(offset, key=b"k", size=size))
    assert backlog.partitions_to_pause() == {P0}
    assert turns(backlog) == [(P1, [60], 61)]
    poll(backlog, P1, [61])
    backlog.leave_lane(holder)
    assert backlog.partitions_to_pause() == frozenset()
    assert turns(backlog) == [(P1, [61], 62), (P0, [50], 51)]


@pytest.mark.usefixtures("few")
def test_where_too_many_bytes_of_all_partitions_wait_each_that_has_any_is_paused() -> None:
    backlog = backlog_of(P0, P1, P2)
    holder = busy_lane(backlog, partition=P3)
    for partition in (P0, P1, P2):
        poll(backlog, partition, [50])
    for partition, offset, size in ((P0, 0, 40), (P0, 1, 40), (P1, 0, 70)):
        backlog.enter_lane(run_at(offset, partition, key=b"k", size=size))
    assert backlog.partitions_to_pause() == {P0, P1}
    assert turns(backlog) == [(P2, [50], 51)]
    backlog.leave_lane(holder)
    assert backlog.partitions_to_pause() == frozenset()
    assert sorted(turns(backlog)) == [(P0, [50], 51), (P1, [50], 51)]


@pytest.mark.usefixtures("few")
def test_a_paused_partition_whose_waiting_jobs_are_dropped_is_paused_no_longer() -> None:
    backlog = backlog_of(P0, P1)
    busy_lane(backlog, partition=P3)
    poll(backlog, P1, [50])
    for partition, size in ((P0, 90), (P1, 70)):
        backlog.enter_lane(run_at(0, partition, key=b"k", size=size))
    assert backlog.partitions_to_pause() == {P0, P1}
    assert turns(backlog) == []
    backlog.drop({P0})
    assert backlog.partitions_to_pause() == frozenset()
    assert turns(backlog) == [(P1, [50], 51)]


@pytest.mark.usefixtures("few")
def test_a_partition_that_is_full_and_on_hold_goes_on_when_it_is_neither() -> None:
    backlog = backlog_of(P0)
    holder = busy_lane(backlog)
    poll(backlog, P0, [50])
    for offset in range(3):
        backlog.enter_lane(run_at(offset, key=b"k", size=1))
    backlog.hold({P0})
    assert turns(backlog) == []
    backlog.leave_lane(holder)
    assert turns(backlog) == []
    backlog.hold(set())
    assert turns(backlog) == [(P0, [50], 51)]


@pytest.mark.usefixtures("few")
def test_a_partition_that_is_no_longer_on_hold_but_full_waits_on() -> None:
    backlog = backlog_of(P0)
    holder = busy_lane(backlog)
    poll(backlog, P0, [50])
    for offset in range(3):
        backlog.enter_lane(run_at(offset, key=b"k", size=1))
    backlog.hold({P0})
    assert turns(backlog) == []
    backlog.hold(set())
    assert turns(backlog) == []
    backlog.leave_lane(holder)
    assert turns(backlog) == [(P0, [50], 51)]


def test_a_partition_on_hold_is_not_polled_either() -> None:
    backlog = backlog_of(P0)
    backlog.hold({P0})
    assert backlog.partitions_to_pause() == {P0}


def test_records_that_cannot_move_on_take_no_room_from_those_that_can() -> None:
    backlog = backlog_of(P0, P1)
    poll(backlog, P0, range(1_000))
    poll(backlog, P0, range(1_000, MOST_RECORDS))
    backlog.next_queued(1)
    poll(backlog, P1, [0])
    assert backlog.full
    backlog.hold({P0, P7})
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
