"""A job that takes its worker's host down does so a few times and not for ever, and no neighbour is
blamed for it."""

from __future__ import annotations

from typing import Any

import pytest
from partitions import P0, P1
from support import logged
from unitguard import MOST, Clock, Host, clock_of, host_with_begun
from unitjobs import places

from embedkq._formats.commit_metadata import CommitMetadata
from embedkq._partition import Partition
from embedkq.worker.between_threads.messages import JobRun, Released


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return clock_of(monkeypatch)


# A host that went down.


def test_a_host_that_went_down_over_a_suspect_counts_against_it(caplog: Any) -> None:
    host = Host(CommitMetadata(starts=3, suspect=4, crashes={4: 1}, hosts=("web-1", "web-2")))
    expected = CommitMetadata(starts=3, crashes={4: 2}, hosts=("web-1", "web-2"))
    assert host.ledger.notes_of(P0) == expected
    assert logged(caplog) == (
        "WARNING Host web-2 went down while the job at partition 0, offset 4 ran alone in it (so"
        " far 2 times).\n"
    )


def test_a_host_whose_name_is_not_known_is_called_a_host(caplog: Any) -> None:
    Host(CommitMetadata(starts=3, suspect=4))
    assert logged(caplog).startswith("WARNING A host went down while the job at partition 0")


def test_without_a_suspect_nobody_is_blamed(caplog: Any) -> None:
    host = Host(CommitMetadata(starts=3, crashes={4: 1}))
    assert host.ledger.notes_of(P0).crashes == {4: 1}
    assert not logged(caplog)


def test_a_host_that_comes_back_to_its_own_suspect_blames_nobody() -> None:
    host = Host(CommitMetadata(starts=2))
    [run] = host.polled(0)
    host.begin(run)
    notes = host.commit()
    host.begin()
    host.assign(notes, epoch=2)
    assert host.ledger.notes_of(P0).crashes == {}
    assert host.ledger.notes_of(P0).suspect == 0


@pytest.mark.parametrize(("partition", "offset"), [(P0, 1), (P1, 0)])
def test_the_suspect_of_another_host_is_blamed_while_an_own_one_runs(
    partition: Partition, offset: int
) -> None:
    host = Host(CommitMetadata(starts=3))
    host.begin(*host.polled(0))
    host.commit()
    host.begin()
    host.assign(CommitMetadata(starts=3, suspect=offset), partition, epoch=2)
    assert host.ledger.notes_of(partition).crashes == {offset: 1}


def test_a_suspect_that_has_not_begun_here_was_begun_elsewhere() -> None:
    host = Host(CommitMetadata(starts=3))
    host.begin(*host.polled(0))
    host.assign(CommitMetadata(starts=3, suspect=0), epoch=2)
    assert host.ledger.notes_of(P0).crashes == {0: 1}


# The end of it.


def test_a_job_that_took_three_hosts_down_does_not_run_again() -> None:
    notes, verdicts = CommitMetadata(starts=2), []
    for _ in range(MOST + 2):
        host = Host(notes)
        [run] = host.polled(0)
        host.begin(run)
        notes = host.commit()
        begun = host.begin()
        verdicts.append("runs" if begun else [(e.count, s) for _, e, s in host.quarantined])
        assert run.partition in host.shared.begun
    assert verdicts == ["runs"] * MOST + [[(MOST, False)], [(MOST + 1, True)]]


def test_the_hosts_that_a_job_took_down_are_named_once_each_without_this_one() -> None:
    crashed = CommitMetadata(starts=3, crashes={0: MOST}, hosts=("web-1", "web-1", "web-2"))
    host = Host(crashed)
    [run] = host.polled(0)
    host.begin(run)
    host.commit()
    assert host.begin() == []
    [(quarantined, error, silently)] = host.quarantined
    assert quarantined is run and not silently
    assert (error.count, error.hosts) == (MOST, ("web-1", "web-2"))


# The last chance.


def last_chance(crashes: int = MOST - 1) -> tuple[Host, JobRun, JobRun]:
    """A host with a suspect that waits for its turn, and a job of another partition."""
    host = host_with_begun(CommitMetadata(starts=3, crashes={0: crashes}))
    suspect, other = host.polled(0)[0], host.polled(0, partition=P1)[0]
    assert host.begin(suspect) == []
    return host, suspect, other


@pytest.mark.parametrize("crashes", [1, MOST, MOST + 1])
def test_only_the_last_chance_holds_others_up(crashes: int) -> None:
    host, _, other = last_chance(crashes)
    assert host.begin(other) == [other]
    assert host.guard.held_up == {P0}


def test_a_suspects_last_chance_waits_until_nothing_else_runs() -> None:
    host, suspect, other = last_chance()
    host.is_idle = False
    host.commit()
    assert host.begin(other) == []
    assert host.guard.held_up == {P0, P1}
    host.is_idle = True
    assert host.begin() == [suspect]
    assert host.begin() == []
    host.end(suspect)
    assert host.begin() == [other]
    assert host.guard.held_up == set()


def test_a_last_chance_waits_for_thirty_seconds_and_then_lasts_as_long_again(clock: Clock) -> None:
    host, suspect, other = last_chance()
    host.is_idle = False
    host.commit()
    clock.now += 29.9
    assert host.begin(other) == []
    clock.now += 0.1
    assert host.begin() == [other, suspect]


def test_nothing_else_begins_for_thirty_seconds_of_the_last_chance(clock: Clock) -> None:
    host, suspect, other = last_chance()
    host.commit()
    clock.now += 10.0
    assert host.begin() == [suspect]
    clock.now += 29.9
    assert host.begin(other) == []
    clock.now += 0.1
    assert host.begin() == [other]


def test_a_last_chance_goes_on_when_its_partition_has_gone() -> None:
    host, suspect, other = last_chance()
    host.commit()
    assert host.begin() == [suspect]
    assert host.guard.drop({P0}) == []
    host.ledger.release(Released(frozenset((P0,))))
    assert host.begin(other) == []
    host.guard.left(suspect)
    assert host.begin() == [other]


@pytest.mark.parametrize(("most", "is_last"), [(1, True), (2, False)])
def test_the_first_chance_is_the_last_where_one_crash_is_too_many(most: int, is_last: bool) -> None:
    host = host_with_begun(CommitMetadata(starts=3), most=most)
    suspect, other = host.polled(0)[0], host.polled(0, partition=P1)[0]
    host.begin(suspect)
    host.is_idle = False
    host.commit()
    assert host.begin(other) == ([] if is_last else [other, suspect])
    host.is_idle = True
    assert host.begin() == ([suspect] if is_last else [])
    assert not host.quarantined


def test_the_next_suspect_has_a_last_chance_only_if_it_is_at_that() -> None:
    host, suspect, other = last_chance()
    host.commit()
    host.begin()
    host.end(suspect)
    [following] = host.polled(1)
    assert host.begin(following, other) == [other]


def test_a_machine_that_has_just_started_gives_no_last_chance_too_many(clock: Clock) -> None:
    """Its clock is near zero."""
    clock.now = 0.5
    host, _, other = last_chance(1)
    assert host.begin(other) == [other]
    host, suspect, other = last_chance()
    host.commit()
    assert host.begin() == [suspect]
    host.end(suspect)
    [following] = host.polled(1)
    assert host.begin(following) == []
    assert host.begin(other) == [other]


# Partitions that go.


def test_what_waits_of_a_revoked_partition_is_handed_back() -> None:
    host = Host(CommitMetadata(starts=2))
    host.assign(CommitMetadata(starts=2), partition=P1)
    zero, one = host.polled(0, 1), host.polled(0, partition=P1)
    host.begin(*zero, *one)
    assert host.guard.suspect is zero[0]
    assert sorted(places(host.guard.drop({P0}))) == [(0, 0), (0, 1)]
    for run in zero:
        host.guard.left(run)
    assert host.guard.suspect is None
    assert host.commit().suspect is None
    host.begin()
    assert host.guard.suspect is one[0]


def test_a_suspect_that_runs_is_not_handed_back() -> None:
    host = Host(CommitMetadata(starts=3))
    first, second = host.polled(0, 1)
    host.begin(first, second)
    host.commit()
    host.begin()
    assert host.guard.drop({P0}) == [second]
    assert host.guard.suspect is first


def test_what_waits_of_other_partitions_stays() -> None:
    host = Host(CommitMetadata(starts=3))
    [run] = host.polled(0)
    host.begin(run)
    assert host.guard.drop({P1}) == []
    host.commit()
    assert host.begin() == [run]
