"""Partitions of two topics may have the same number, and do not touch each other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from loopharness import Host, Letters
from partitions import P0, P1, numbered
from support import logged
from unitbacklog import PLENTY, backlog_of, busy_lane, poll, turns
from unitguard import Host as GuardedHost
from unitjobs import run_at
from unittracker import done_of

from embedkq._clients import partitions
from embedkq._formats import commit_metadata
from embedkq._formats.commit_metadata import NOTHING, UNKNOWN_TOPIC, CommitMetadata, TopicMark
from embedkq._formats.outcome import Outcome
from embedkq._formats.partition_progress import Committed, Log
from embedkq._partition import Partition
from embedkq.errors import SecretUnknown
from embedkq.worker.between_threads.messages import Assigned, Released, Revoked
from embedkq.worker.between_threads.partition_quota import PartitionQuota
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.consumer_thread.log_ends import LogEnds
from embedkq.worker.consumer_thread.partition_starts import PartitionStarts
from embedkq.worker.control_thread.circuit_breaker import MOST_IN_A_ROW, CircuitBreaker
from embedkq.worker.control_thread.offset_tracker import OffsetTracker
from embedkq.worker.control_thread.partition_ledger import PartitionLedger
from embedkq.worker.control_thread.retries import MOST_HELD, Retries

OTHER = numbered(0, "other")
"""Of another topic, with the number of P0."""


# What it is.


def test_topic_and_number_together_identify_a_partition() -> None:
    assert Partition("a", 1) == Partition("a", 1) and hash(Partition("a", 1)) == hash(("a", 1))
    assert len({Partition("a", 1), Partition("a", 2), Partition("b", 1)}) == 3
    assert sorted([Partition("b", 0), Partition("a", 10), Partition("a", 9)]) == [
        Partition("a", 9),
        Partition("a", 10),
        Partition("b", 0),
    ]


def test_a_partition_reads_as_log_lines_name_it() -> None:
    assert str(Partition("jobs", 3)) == f"{Partition('jobs', 3)}" == "partition 3 of topic jobs"


def test_a_client_speaks_of_a_partition_by_one_object() -> None:
    place = partitions.place_of(P0)
    assert (place.topic, place.partition) == P0
    assert partitions.partition_of(place) == P0
    assert partitions.partition_of(partitions.place_of(P0)) is partitions.partition_of(place)
    assert partitions.partitions_of(partitions.places_of([P0, OTHER])) == {P0, OTHER}


def test_a_client_reads_the_commits_that_it_writes() -> None:
    commits = {P0: Committed(4, "v"), OTHER: Committed(0, "")}
    assert partitions.commits_of(partitions.offsets_of(commits)) == commits
    none = partitions.offsets_of({P1: Committed(-1, "")})
    assert partitions.commits_of({**partitions.offsets_of(commits), **none}) == commits


# The backlog.


def test_each_gives_out_its_own_records() -> None:
    backlog = backlog_of(P0, OTHER)
    poll(backlog, P0, [3, 4])
    poll(backlog, OTHER, [3])
    assert turns(backlog) == [(P0, [3, 4], 5), (OTHER, [3], 4)]


def test_one_that_is_not_open_takes_nothing_of_the_others_assignment() -> None:
    backlog = backlog_of(P0)
    poll(backlog, OTHER, [0])
    assert backlog.is_open(P0) and not backlog.is_open(OTHER)
    assert backlog.next_queued(PLENTY) is None and len(backlog) == 0


def test_one_is_dropped_and_on_hold_without_the_other() -> None:
    backlog = backlog_of(P0, OTHER)
    poll(backlog, P0, [0])
    poll(backlog, OTHER, [0])
    backlog.hold({P0})
    assert turns(backlog) == [(OTHER, [0], 1)]
    poll(backlog, OTHER, [1])
    assert backlog.drop({P0}) == []
    assert not backlog.is_open(P0) and backlog.is_open(OTHER)
    assert turns(backlog) == [(OTHER, [1], 2)]


def test_jobs_that_wait_for_a_key_are_handed_back_with_their_own_partition() -> None:
    backlog = backlog_of(P0, OTHER)
    holder = busy_lane(backlog, partition=P1)
    mine, others = run_at(0, P0, key=b"k"), run_at(0, OTHER, key=b"k")
    assert not backlog.enter_lane(mine) and not backlog.enter_lane(others)
    assert backlog.drop({P0}) == [mine]
    backlog.leave_lane(holder)
    assert backlog.take_ready(PLENTY) == [others]


def test_each_is_full_by_itself() -> None:
    quota = PartitionQuota(2, 100, 1000)
    quota.add(P0, 1)
    quota.add(OTHER, 1)
    assert quota.full == set()
    quota.add(OTHER, 1)
    assert quota.full == {OTHER}
    quota.forget(P0)
    assert quota.full == {OTHER}
    quota.remove(OTHER, 1)
    assert quota.full == set()


# Offsets.


def test_each_has_its_own_offsets_and_epochs() -> None:
    tracker = OffsetTracker()
    tracker.assign(P0, 5, 10)
    tracker.assign(OTHER, 1, 10)
    assert tracker.admit(P0, 10) and tracker.admit(OTHER, 10)
    assert not tracker.finish(P0, 1, 10) and not tracker.finish(OTHER, 5, 10)
    assert tracker.finish(OTHER, 1, 10)
    assert tracker.snapshot() == {P0: Progress(10, (), 5), OTHER: Progress(11, (), 1)}
    tracker.advance(P0, 5, 20)
    tracker.finish_unseen(OTHER, 15)
    assert done_of(tracker) == (10, [(11, 20)])
    tracker.unassign([P0])
    assert tracker.snapshot() == {OTHER: Progress(11, ((15, 16),), 1)}


def assign(
    ledger: PartitionLedger, partition: Partition, epoch: int, notes: CommitMetadata = NOTHING
) -> None:
    metadata = commit_metadata.encode(0, (), notes)
    ledger.assign(Assigned(partition, epoch, 0, metadata))


def test_what_was_done_of_one_is_remembered_of_it_alone() -> None:
    ledger = PartitionLedger()
    for partition in (P0, OTHER):
        assign(ledger, partition, 1)
        assert ledger.tracker.admit(partition, 0)
    ledger.release(Released(frozenset({P0})))
    assert ledger.snapshot().keys() == {OTHER}
    ledger.finish(run_at(0, P0))
    assert ledger.snapshot() == {OTHER: Progress(0, (), 1)}
    assign(ledger, P0, 2)
    assert ledger.snapshot() == {P0: Progress(1, (), 2), OTHER: Progress(0, (), 1)}
    ledger.finish(run_at(0, OTHER))
    assert ledger.snapshot()[OTHER].offset == 1


def test_attempts_and_starts_in_vain_are_counted_by_partition() -> None:
    ledger = PartitionLedger()
    assign(ledger, P0, 1, CommitMetadata(starts=3))
    assign(ledger, OTHER, 1)
    run = run_at(0, OTHER)
    run.attempts = 2
    ledger.failed(run)
    assert ledger.notes_of(P0) == CommitMetadata(starts=3)
    assert ledger.notes_of(OTHER) == CommitMetadata(attempts={0: 2})


def test_the_log_of_one_restarts_without_that_of_the_other() -> None:
    ledger = PartitionLedger()
    assign(ledger, OTHER, 1)
    ledger.assign(Assigned(P0, 1, 0, "", UNKNOWN_TOPIC, life=1))
    assert (ledger.life(P0), ledger.life(OTHER)) == (1, 0)
    assert ledger.is_of_former_life(run_at(0, P0))
    assert not ledger.is_of_former_life(run_at(0, OTHER))


def test_metadata_that_cannot_be_read_is_told_of_its_own_topic(caplog: Any) -> None:
    ledger = PartitionLedger()
    ledger.assign(Assigned(OTHER, 1, 7, "what is this"))
    assert "The commit metadata of partition 0 of other at offset 7 " in logged(caplog)


def test_reading_one_says_nothing_of_where_the_other_begins() -> None:
    starts, log = PartitionStarts(latest=False), Log(0, 9, TopicMark(11, 1))
    starts.started(P0, starts.find(P0, Committed(5, ""), log))
    starts.reached(P0, 9)
    assert starts.is_before(P0, 7) and not starts.is_before(OTHER, 7)
    assert starts.of_another_topic([P0, OTHER], TopicMark(22, 1)) == {P0}
    assert starts.find(OTHER, None, Log(0, 3, TopicMark(22, 1))).warning is None
    restarted = starts.find(P0, None, Log(0, 3, TopicMark(11, 1)))
    assert restarted.warning is not None
    assert restarted.warning.startswith("Partition 0 of topic topic restarts at offset 0: ")


def test_each_has_its_own_lag() -> None:
    ends = LogEnds()
    ends.begin(P0, 10)
    ends.note(OTHER, 7)
    snapshot = {P0: Progress(4, (), 1), OTHER: Progress(4, (), 1)}
    assert ends.lag(snapshot) == {P0: 6, OTHER: 3}


# Jobs that wait, or are held.


def test_attempts_that_wait_are_bounded_and_dropped_by_partition() -> None:
    policy = Retries(1)
    for offset in range(MOST_HELD - 1):
        policy.hold(run_at(offset, P0), 60.0)
    policy.hold(run_at(0, OTHER), 60.0)
    assert policy.full == set()
    policy.hold(run_at(MOST_HELD, P0), 60.0)
    assert policy.full == {P0}
    assert len(policy.drop({OTHER})) == 1 and policy.full == {P0}
    assert len(policy.drop({P0})) == MOST_HELD and len(policy) == 0


def test_refused_records_that_wait_go_with_their_own_partition() -> None:
    breaker = CircuitBreaker("topic", verifies=True)
    runs = [run_at(offset, (P0, OTHER)[offset % 2]) for offset in range(MOST_IN_A_ROW + 3)]
    for run in runs:
        run.refusal = SecretUnknown("0123456789abcdef")
    held = [run for run in runs if breaker.holds_refused(run)]
    assert len(held) == 4
    assert breaker.drop({P0}) == [run for run in held if run.partition == P0]
    assert breaker.verified() == [run for run in held if run.partition == OTHER]


def test_one_is_under_suspicion_without_the_other() -> None:
    host = GuardedHost(CommitMetadata(starts=3))
    host.assign(partition=OTHER)
    host.shared.begun.add(OTHER)
    suspect, other = host.polled(0)[0], host.polled(0, partition=OTHER)[0]
    assert host.begin(suspect, other) == [other]
    assert host.guard.suspect is suspect and host.guard.held_up == {P0}
    assert host.guard.drop({OTHER}) == [] and host.guard.drop({P0}) == [suspect]


# All together.


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host(1, letters=Letters())
    made.shared.inbox.put(Assigned(OTHER, 1, 0, ""))
    made.turn()
    yield made
    made.close()


def test_records_of_the_same_place_in_two_topics_are_two_jobs(host: Host) -> None:
    for partition in (P0, OTHER):
        host.poll(partition, 3)
    host.turn()
    assert host.loop.in_flight == 6 and len(host.pool.tasks) == 6
    for run in list(host.pool.tasks):
        if run.partition == OTHER:
            host.pool.end(run, Outcome("success"))
    host.turn()
    assert {partition: known.offset for partition, known in host.shared.snapshot.items()} == {
        P0: 0,
        OTHER: 3,
    }


def test_one_that_is_revoked_takes_no_job_of_the_other_along(host: Host) -> None:
    host.pool.most = 2
    host.poll(P0, 4)
    host.poll(OTHER, 4)
    host.turn()
    host.shared.inbox.put(Revoked(frozenset({P0}), lost=True))
    host.turn()
    deadline = time.monotonic() + 10
    while host.loop.in_flight or len(host.shared.backlog):
        assert time.monotonic() < deadline
        host.pool.end_all(Outcome("success"))
        host.turn()
    assert {partition: known.offset for partition, known in host.shared.snapshot.items()} == {
        OTHER: 4
    }


def test_a_log_line_names_the_topic_of_its_record(host: Host, caplog: Any) -> None:
    host.poll(OTHER, 1)
    host.turn()
    [run] = host.pool.tasks
    run.retries = 0
    host.pool.end_all(Outcome("failure", b"", "ValueError", "no"))
    host.turn()
    assert "Record(topic=other, partition=0, offset=0) goes to the dead-letter topic dead" in (
        logged(caplog)
    )
