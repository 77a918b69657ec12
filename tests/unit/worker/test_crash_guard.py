"""Jobs of a partition whose hosts went down run one at a time, each after a commit naming it."""

from __future__ import annotations

import pytest
from partitions import P0, P1, P5
from unitguard import Clock, Host, clock_of, host_with_begun
from unitjobs import places

from embedkq._formats.commit_metadata import NOTHING, CommitMetadata
from embedkq.worker.between_threads.messages import Released


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return clock_of(monkeypatch)


# Before the first job.


def test_the_first_jobs_of_a_partition_wait_until_it_is_committed_that_they_begin() -> None:
    host = Host()
    first, second, third = host.polled(0, 1, 2)
    assert host.begin(first) == []
    assert host.begin(second) == []
    assert host.commit() == CommitMetadata(starts=1)
    assert host.begin() == [first, second]
    assert host.shared.begun == {P0}
    assert host.begin(third) == [third]
    assert host.commit() == CommitMetadata(starts=1)


def test_a_commit_is_asked_for_while_jobs_wait_for_one_and_not_after() -> None:
    host = Host()
    assert not host.shared.serial_mode
    host.begin(*host.polled(0))
    assert host.shared.serial_mode
    host.commit()
    host.shared.asked.clear()
    host.begin()
    assert not host.shared.serial_mode
    assert host.shared.asked.is_set(), "the consumer's thread need not wait for a question"
    host.shared.asked.clear()
    host.begin(*host.polled(1))
    assert not host.shared.asked.is_set()


def test_a_commit_is_asked_for_once_however_often_what_waits_is_looked_at() -> None:
    host = Host()
    host.begin(*host.polled(0))
    host.shared.asked.clear()
    host.begin()
    assert not host.shared.asked.is_set()


def test_no_commit_is_asked_for_where_only_other_records_are_under_suspicion() -> None:
    host = host_with_begun(CommitMetadata(crashes={5: 1}))
    runs = host.polled(0, 1)
    assert host.begin(*runs) == runs
    assert not host.shared.asked.is_set() and not host.shared.serial_mode


def test_where_nothing_is_suspected_runs_are_passed_on_as_they_came() -> None:
    """That costs nothing: no list is made, and no note is looked at."""
    host = host_with_begun()
    runs = host.polled(0, 1)
    released = host.guard.release(runs)
    assert released.begin is runs and released.quarantined is None


def test_nothing_is_noted_of_a_host_that_begins_nothing() -> None:
    for notes in (NOTHING, CommitMetadata(starts=2), CommitMetadata(crashes={3: 1})):
        host = Host(notes)
        assert host.begin() == []
        assert host.commit() == notes and not host.shared.serial_mode


def test_a_commit_of_a_former_assignment_says_nothing_of_this_one() -> None:
    host = Host()
    host.begin(*host.polled(0))
    host.commit()
    assert host.guard.drop({P0})
    host.ledger.release(Released(frozenset((P0,))))
    host.assign(CommitMetadata(starts=1), epoch=2)
    runs = host.polled(0, epoch=2)
    assert host.begin(*runs) == []
    assert host.ledger.notes_of(P0).starts == 2
    assert host.commit() == CommitMetadata(starts=2)
    assert host.begin() == runs


def test_a_commit_that_does_not_count_this_start_does_not_do() -> None:
    host = Host(CommitMetadata(starts=1))
    host.commit()
    runs = host.polled(0)
    assert host.begin(*runs) == []
    assert host.begin() == []
    host.commit()
    assert host.begin() == runs


def test_a_partition_that_comes_back_does_not_wait_again() -> None:
    host = Host()
    host.begin(*host.polled(0))
    host.commit()
    host.begin()
    host.assign(CommitMetadata(starts=1), epoch=2)
    runs = host.polled(0, epoch=2)
    assert host.begin(*runs) == runs


def test_partitions_wait_for_their_own_commit() -> None:
    host = Host()
    host.assign(partition=P1)
    zero, one = host.polled(0)[0], host.polled(0, partition=P1)[0]
    host.shared.begun.add(P1)
    assert host.begin(zero, one) == [one]


def test_without_a_limit_nothing_waits() -> None:
    host = Host(CommitMetadata(starts=5, crashes={0: 9}), most=None)
    runs = host.polled(0, 1)
    assert host.shared.begun == {P0}
    assert host.begin(*runs) == runs
    assert host.guard.suspect is None and not host.guard.held_up and not host.shared.serial_mode


# One at a time.


def test_after_two_starts_in_vain_jobs_run_one_at_a_time_each_after_a_commit() -> None:
    host = Host(CommitMetadata(starts=2))
    first, second = runs = host.polled(0, 1)
    assert host.begin(*runs) == []
    assert host.begin() == [] and host.guard.held_up == {P0}
    assert host.commit() == CommitMetadata(starts=3, suspect=0, hosts=("here",))
    assert host.begin() == [first] and host.guard.suspect is first
    assert host.begin() == [], "it has begun already"
    assert host.shared.begun == {P0}
    host.commit()
    assert host.begin() == [], "the other one waits for its turn"
    host.guard.left(second)
    assert host.guard.suspect is first, "it was another that has left"
    host.guard.left(first)
    assert host.guard.held_up == {P0}, "between two suspects no more of it begins either"
    assert host.begin() == [] and host.guard.suspect is second
    assert host.commit() == CommitMetadata(starts=3, suspect=1, hosts=("here",))
    assert host.begin() == [second]


def test_a_suspect_waits_until_the_commit_names_it() -> None:
    host = Host(CommitMetadata(starts=3))
    first, second = host.polled(0, 1)
    host.begin(first, second)
    host.commit()
    host.begin()
    host.end(first)
    assert host.begin() == [], "the last commit names the one before"
    host.commit()
    assert host.begin() == [second]


def test_a_commit_of_a_former_assignment_names_no_suspect() -> None:
    host = Host(CommitMetadata(starts=3))
    [run] = host.polled(0)
    host.begin(run)
    host.commit()
    run.epoch = 2
    assert host.begin() == []


def test_one_job_at_a_time_is_under_suspicion_in_the_whole_worker() -> None:
    host = Host(CommitMetadata(starts=3))
    host.assign(CommitMetadata(starts=3), partition=P1)
    zero, one = host.polled(0)[0], host.polled(0, partition=P1)[0]
    host.begin(zero, one)
    assert host.guard.held_up == {P0, P1}
    host.commit()
    assert host.begin() == [zero]
    host.commit()
    assert host.begin() == []
    host.end(zero)
    host.begin()
    host.commit()
    assert host.begin() == [one]


def test_jobs_of_other_partitions_run_beside_a_suspect() -> None:
    host = host_with_begun(CommitMetadata(starts=3))
    suspect, other = host.polled(0)[0], host.polled(0, partition=P1)[0]
    assert host.begin(suspect, other) == [other]
    assert host.guard.held_up == {P0}
    host.commit()
    further = host.polled(1, partition=P1)
    assert host.begin(*further) == [*further, suspect]
    assert host.shared.serial_mode, "the next suspect will need a commit at once"


def test_a_record_that_was_at_a_crash_is_suspicious_and_its_neighbours_are_not() -> None:
    host = host_with_begun(CommitMetadata(crashes={1: 1}))
    runs = host.polled(0, 1, 2)
    assert host.begin(*runs) == [runs[0], runs[2]]
    assert host.guard.suspect is runs[1]
    assert host.guard.held_up == set(), "more of its partition may begin"
    host.commit()
    [neighbour] = host.polled(3)
    assert host.begin(neighbour) == [runs[1]], "a commit names a suspect: no neighbour begins"
    host.end(runs[1])
    assert host.begin() == [], "the commit still names it"
    host.commit()
    assert host.begin() == [neighbour]
    assert not host.shared.serial_mode


def test_what_is_under_suspicion_waits_in_its_order() -> None:
    host = Host(CommitMetadata(starts=3))
    for run in host.polled(0, 1, 2):
        host.begin(run)
    begun = []
    for _ in range(3):
        host.commit()
        begun += host.begin()
        host.end(begun[-1])
        host.begin()
    assert places(begun) == [(0, 0), (0, 1), (0, 2)]


# When it is enough.


def test_care_ends_after_two_jobs_for_each_process_and_thirty_seconds(clock: Clock) -> None:
    host = Host(CommitMetadata(starts=2), processes=2)
    runs = host.polled(*range(6))
    host.begin(*runs)
    begun = []
    for seconds in (0.0, 29.0, 0.5, 0.4, 0.1):
        host.commit()
        assert host.ledger.notes_of(P0).starts == 3
        begun += host.begin()
        clock.now += seconds
        host.end(begun[-1])
        host.begin()
    assert begun == runs[:5]
    assert host.commit() == NOTHING
    assert host.begin() == runs[5:]
    assert not host.guard.held_up and not host.shared.serial_mode


def test_care_does_not_end_before_so_many_jobs_however_long_they_take(clock: Clock) -> None:
    host = Host(CommitMetadata(starts=2), processes=2)
    runs = host.polled(*range(5))
    host.begin(*runs)
    for number in range(4):
        host.commit()
        assert host.ledger.notes_of(P0).starts == 3, number
        [run] = host.begin()
        clock.now += 100.0
        host.end(run)
        host.begin()
    assert host.commit() == NOTHING


def test_care_that_ends_leaves_no_start_in_vain(clock: Clock) -> None:
    host = Host(CommitMetadata(starts=2))
    runs = host.polled(0, 1)
    host.begin(*runs)
    for run in runs:
        host.commit()
        assert host.begin() == [run]
        host.guard.left(run)
        host.begin()
        clock.now += 31.0
    assert host.ledger.notes_of(P0).starts == 0


def test_care_begins_anew_when_the_partition_does(clock: Clock) -> None:
    host = Host(CommitMetadata(starts=2))
    for epoch in (1, 2):
        runs = host.polled(0, 1, epoch=epoch)
        host.begin(*runs)
        host.commit()
        assert host.begin() == runs[:1]
        clock.now += 31.0
        host.guard.left(runs[0])
        assert host.ledger.notes_of(P0).starts == 3
        host.guard.drop({P0, P5})
        host.assign(CommitMetadata(starts=3), epoch=epoch + 1)


def test_a_suspect_that_leaves_before_it_has_begun_ends_no_care(clock: Clock) -> None:
    host = Host(CommitMetadata(starts=2))
    for offset in range(4):
        [run] = host.polled(offset)
        host.begin(run)
        assert host.guard.suspect is run
        clock.now += 100.0
        host.guard.left(run)
        assert host.guard.suspect is None
    assert host.ledger.notes_of(P0) == CommitMetadata(starts=3)


def test_a_suspect_without_serial_mode_that_does_no_harm_leaves_the_other_notes() -> None:
    host = host_with_begun(CommitMetadata(starts=1, crashes={0: 1, 5: 1}, hosts=("other",)))
    [run] = host.polled(0)
    host.begin(run)
    host.commit()
    host.begin()
    host.guard.left(run)
    assert host.ledger.notes_of(P0) == CommitMetadata(1, None, {0: 1, 5: 1}, {}, ("other",))
