"""What was polled is given out in order and in fair turns, one job of a key at a time."""

from __future__ import annotations

from partitions import P0, P1, P2, P9, numbered
from unitbacklog import PLENTY, backlog_of, busy_lane, poll, turns
from unitjobs import batch_of, places, run_at

from embedkq.worker.between_threads.backlog import RUN_BYTES, Backlog

# Order and turns.


def test_nothing_is_given_out_of_an_empty_backlog() -> None:
    assert backlog_of(P0).next_queued(PLENTY) is None
    assert len(backlog_of(P0)) == 0


def test_records_come_in_the_order_of_their_partition_with_the_position_behind_them() -> None:
    backlog = backlog_of(P0)
    runs = poll(backlog, P0, [3, 4, 7])
    queued = backlog.next_queued(PLENTY)
    assert queued == (P0, 1, runs, 8)
    assert backlog.next_queued(PLENTY) is None


def test_a_poll_without_records_still_brings_its_position() -> None:
    """What was passed over, compacted records for one, is known from the position only."""
    backlog = backlog_of(P0)
    poll(backlog, P0, [])
    assert turns(backlog) == [(P0, [], 0)]


def test_no_more_records_are_given_out_than_are_asked_for() -> None:
    backlog = backlog_of(P0)
    poll(backlog, P0, range(5))
    assert backlog.next_queued(0) == (P0, 1, [], None)
    assert turns(backlog, most=2) == [(P0, [0, 1], None), (P0, [2, 3], None), (P0, [4], 5)]


def test_a_partition_gives_out_sixteen_records_and_then_another_one_has_its_turn() -> None:
    backlog = backlog_of(P0, P1, P2)
    poll(backlog, P0, range(40))
    poll(backlog, P1, range(17))
    poll(backlog, P2, range(1))
    assert turns(backlog) == [
        (P0, list(range(16)), None),
        (P1, list(range(16)), None),
        (P2, [0], 1),
        (P0, list(range(16, 32)), None),
        (P1, [16], 17),
        (P0, list(range(32, 40)), 40),
    ]


def test_a_second_poll_of_a_partition_does_not_jump_the_queue() -> None:
    backlog = backlog_of(P0, P1)
    poll(backlog, P0, [0])
    poll(backlog, P0, [1])
    poll(backlog, P1, [0])
    assert turns(backlog) == [(P0, [0], 1), (P1, [0], 1), (P0, [1], 2)]


def test_a_partition_that_was_empty_is_given_out_once_it_has_records_again() -> None:
    backlog = backlog_of(P0)
    poll(backlog, P0, [0])
    turns(backlog)
    poll(backlog, P0, [1])
    assert turns(backlog) == [(P0, [1], 2)]


def test_one_partition_with_a_long_backlog_does_not_delay_another_by_more_than_a_turn() -> None:
    backlog = backlog_of(P0, P1)
    poll(backlog, P0, range(1000))
    for _ in range(5):
        poll(backlog, P1, [0])
        two = [backlog.next_queued(PLENTY), backlog.next_queued(PLENTY)]
        assert sorted(queued.partition for queued in two if queued) == [P0, P1]


# Assignments.


def test_records_of_another_assignment_are_dropped_and_make_room() -> None:
    backlog = Backlog()
    backlog.open(P0, 2)
    poll(backlog, P0, [0, 1], size=100)
    assert backlog.next_queued(PLENTY) is None
    assert len(backlog) == 0
    assert backlog.held_bytes == 0


def test_records_of_a_partition_that_is_not_open_are_dropped() -> None:
    backlog = backlog_of(P0)
    poll(backlog, P1, [0])
    assert turns(backlog) == []
    assert len(backlog) == 0


def test_a_partition_is_open_from_its_assignment_until_it_is_dropped() -> None:
    backlog = backlog_of(P0)
    assert backlog.is_open(P0)
    assert not backlog.is_open(P1)
    backlog.drop({P0})
    assert not backlog.is_open(P0)


def test_a_new_assignment_drops_what_was_polled_in_the_former_one() -> None:
    backlog = backlog_of(P0, P1)
    poll(backlog, P0, range(20), size=100)
    poll(backlog, P1, [5])
    backlog.next_queued(3)
    backlog.open(P0, 2)
    assert len(backlog) == 1
    assert turns(backlog) == [(P1, [5], 6)]
    batch = batch_of([run_at(7, epoch=2)], epoch=2)
    backlog.reserve(1, 0)
    backlog.add(batch)
    assert backlog.next_queued(PLENTY) == (P0, 2, batch.runs, 8)


def test_a_dropped_partition_gives_out_nothing_and_frees_what_it_held() -> None:
    backlog = backlog_of(P0, P1)
    given = poll(backlog, P0, range(10), size=100)[:4]
    poll(backlog, P0, range(10, 13), size=100)
    poll(backlog, P1, [0], size=10)
    backlog.next_queued(4)
    assert backlog.drop({P0, P9}) == []
    assert turns(backlog) == [(P1, [0], 1)]
    assert len(backlog) == 0
    assert backlog.held_bytes == sum(run.size + RUN_BYTES for run in given) + 10 + RUN_BYTES


# Keys.


def test_a_job_without_a_key_never_waits() -> None:
    backlog = backlog_of(P0)
    assert [backlog.enter_lane(run_at(offset)) for offset in range(3)] == [True] * 3
    backlog.leave_lane(run_at(0))
    assert backlog.take_ready(PLENTY) == []


def test_one_job_of_a_key_runs_at_a_time_and_the_others_follow_in_order() -> None:
    backlog = backlog_of(P0)
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
    backlog = backlog_of(P0)
    busy_lane(backlog, b"k")
    assert backlog.enter_lane(run_at(1, key=b"other"))
    assert not backlog.enter_lane(run_at(2, key=b"other"))


def test_an_empty_key_is_a_key() -> None:
    backlog = backlog_of(P0)
    first, second = run_at(0, key=b""), run_at(1, key=b"")
    assert backlog.enter_lane(first)
    assert not backlog.enter_lane(second)
    backlog.leave_lane(first)
    assert backlog.take_ready(PLENTY) == [second]


def test_no_more_freed_jobs_are_taken_than_are_asked_for_oldest_first() -> None:
    backlog = backlog_of(P0)
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
    backlog = backlog_of(P0)
    backlog.leave_lane(run_at(0, key=b"k"))
    assert backlog.enter_lane(run_at(1, key=b"k"))


def test_a_revoked_partition_hands_back_the_jobs_that_wait_for_their_key_and_no_others() -> None:
    backlog = backlog_of(P0, P1)
    holder = busy_lane(backlog)
    waiting = [run_at(offset, numbered(offset % 2), key=b"k") for offset in range(4)]
    for run in waiting:
        backlog.enter_lane(run)
    assert backlog.drop({P0}) == [waiting[0], waiting[2]]
    backlog.leave_lane(holder)
    assert backlog.take_ready(PLENTY) == [waiting[1]]
    backlog.leave_lane(waiting[1])
    assert backlog.take_ready(PLENTY) == [waiting[3]]


def test_a_revoked_partition_hands_back_freed_jobs_and_their_keys_go_to_the_next() -> None:
    backlog = backlog_of(P0, P1)
    holder = busy_lane(backlog)
    freed, following = run_at(0, P0, key=b"k"), run_at(0, P1, key=b"k")
    backlog.enter_lane(freed)
    backlog.enter_lane(following)
    backlog.leave_lane(holder)
    assert backlog.drop({P0}) == [freed]
    assert backlog.take_ready(PLENTY) == [following]
    backlog.leave_lane(following)
    assert backlog.enter_lane(run_at(9, P1, key=b"k"))


def test_freed_jobs_of_other_partitions_stay_ready_when_one_is_revoked() -> None:
    backlog = backlog_of(P0, P1)
    holder = busy_lane(backlog)
    freed = run_at(0, P1, key=b"k")
    backlog.enter_lane(freed)
    backlog.leave_lane(holder)
    assert backlog.drop({P0}) == []
    assert backlog.take_ready(PLENTY) == [freed]


def test_a_job_that_runs_keeps_its_key_when_its_partition_is_revoked() -> None:
    backlog = backlog_of(P0, P1)
    holder = busy_lane(backlog)
    backlog.enter_lane(run_at(1, P0, key=b"k"))
    backlog.drop({P0})
    following = run_at(0, P1, key=b"k")
    assert not backlog.enter_lane(following)
    backlog.leave_lane(holder)
    assert backlog.take_ready(PLENTY) == [following]
