"""What a worker knows of its own jobs while partitions go and come back, and what of it is
committed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from partitions import P0, P1, P5, P7, numbered
from support import logged
from unitjobs import run_at

from embedkq._formats import commit_metadata, offset_map
from embedkq._formats.commit_metadata import NOTHING, UNKNOWN_TOPIC, CommitMetadata, TopicMark
from embedkq._formats.offset_map import LIMIT, OffsetRanges
from embedkq._partition import Partition
from embedkq.worker.between_threads.messages import Assigned, JobRun, Released
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.control_thread.partition_ledger import PartitionLedger


def assign(
    ledger: PartitionLedger,
    epoch: int = 1,
    start: int = 0,
    done: OffsetRanges = (),
    notes: CommitMetadata = NOTHING,
    life: int = 0,
    partition: Partition = P0,
    topic: TopicMark = UNKNOWN_TOPIC,
) -> None:
    """As the consumer's thread says it, with what was committed before."""
    metadata = commit_metadata.encode(start, done, notes)
    ledger.assign(Assigned(partition, epoch, start, metadata, topic, life))


def ledger_with(**assigned: Any) -> PartitionLedger:
    made = PartitionLedger()
    assign(made, **assigned)
    return made


def release(ledger: PartitionLedger, *partitions: Partition) -> None:
    ledger.release(Released(frozenset(partitions or (P0,))))


def admit(ledger: PartitionLedger, *offsets: int, epoch: int = 1, life: int = 0) -> list[JobRun]:
    """Runs of these offsets, which are admitted."""
    runs = []
    for offset in offsets:
        assert ledger.tracker.admit(P0, offset)
        run = run_at(offset, epoch=epoch)
        run.life = life
        runs.append(run)
    return runs


# What is committed.


def test_an_assignment_begins_where_it_was_committed_knowing_what_was_done_above() -> None:
    notes = CommitMetadata(attempts={5: 2})
    topic = TopicMark(9, 4)
    ledger = ledger_with(epoch=3, start=5, done=((7, 9),), notes=notes, topic=topic)
    assert ledger.snapshot() == {P0: Progress(5, ((7, 9),), 3, notes, topic)}
    assert ledger.notes_of(P0) == notes
    assert ledger.notes_of(P1) == NOTHING


def test_what_is_done_is_committed_and_what_was_known_of_it_is_not() -> None:
    ledger = ledger_with(notes=CommitMetadata(attempts={0: 2, 1: 1}))
    first, _ = admit(ledger, 0, 1)
    ledger.finish(first)
    assert ledger.snapshot()[P0] == Progress(1, (), 1, CommitMetadata(attempts={1: 1}))


def test_attempts_of_records_that_are_done_already_are_not_kept() -> None:
    notes = CommitMetadata(attempts={5: 1, 7: 1, 9: 3})
    ledger = ledger_with(start=5, done=((7, 8),), notes=notes)
    assert ledger.notes_of(P0).attempts == {5: 1, 9: 3}


def test_metadata_that_cannot_be_read_is_logged_and_taken_for_none(caplog: Any) -> None:
    ledger = PartitionLedger()
    ledger.assign(Assigned(numbered(2, "jobs"), 1, 40, "what is this"))
    assert ledger.snapshot() == {numbered(2, "jobs"): Progress(40, (), 1)}
    assert logged(caplog) == (
        "WARNING The commit metadata of partition 2 of jobs at offset 40 is not usable (it begins"
        " with 'wh', which this version of embedkq did not write): jobs that were done above that"
        " offset may run again, and attempt counts restart.\n"
    )


# Partitions that go and come back.


def test_an_end_while_the_partition_is_away_is_remembered_when_it_comes_back() -> None:
    ledger = ledger_with()
    runs = admit(ledger, 0, 1, 2)
    release(ledger)
    assert ledger.snapshot() == {}
    ledger.finish(runs[0])
    ledger.finish(runs[2])
    assign(ledger, epoch=2)
    assert ledger.snapshot()[P0] == Progress(1, ((2, 3),), 2)
    assert [ledger.tracker.admit(P0, offset) for offset in range(4)] == [False, True, False, True]


def test_what_was_done_before_the_partition_went_is_remembered_without_its_commit() -> None:
    ledger = ledger_with()
    runs = admit(ledger, 0, 1, 2)
    ledger.finish(runs[1])
    release(ledger)
    assign(ledger, epoch=2)
    assert ledger.snapshot()[P0] == Progress(0, ((1, 2),), 2)


def test_what_others_have_done_meanwhile_and_what_was_done_here_both_count() -> None:
    ledger = ledger_with()
    runs = admit(ledger, 0, 1, 2, 3)
    release(ledger)
    ledger.finish(runs[3])
    assign(ledger, epoch=2, start=1, done=((2, 3),))
    assert ledger.snapshot()[P0] == Progress(1, ((2, 4),), 2)


def test_attempts_counted_here_and_elsewhere_both_count_and_the_own_count_wins() -> None:
    ledger = ledger_with(notes=CommitMetadata(attempts={1: 1, 2: 1}))
    [run] = admit(ledger, 0)
    run.attempts = 4
    ledger.failed(run)
    release(ledger)
    assign(ledger, epoch=2, notes=CommitMetadata(attempts={0: 1, 3: 1}))
    assert ledger.notes_of(P0).attempts == {0: 4, 1: 1, 2: 1, 3: 1}


def test_what_was_remembered_of_a_partition_counts_once() -> None:
    ledger = ledger_with()
    runs = admit(ledger, 0, 1)
    release(ledger)
    ledger.finish(runs[0])
    assign(ledger, epoch=2)
    runs = admit(ledger, 1, epoch=2)
    ledger.finish(runs[0])
    assert ledger.snapshot()[P0] == Progress(2, (), 2)


def test_an_end_of_the_former_assignment_counts_before_its_record_is_polled_again() -> None:
    ledger = ledger_with()
    [run] = admit(ledger, 0)
    release(ledger)
    assign(ledger, epoch=2)
    ledger.finish(run)
    assert ledger.snapshot()[P0] == Progress(1, (), 2)
    assert not ledger.tracker.admit(P0, 0)


def test_notes_of_a_partition_that_is_gone_are_gone() -> None:
    ledger = ledger_with(notes=CommitMetadata(starts=3))
    assert ledger.suspicious
    release(ledger)
    assert ledger.notes_of(P0) == NOTHING
    assert not ledger.suspicious


def test_only_partitions_that_are_assigned_are_released() -> None:
    ledger = ledger_with()
    assign(ledger, partition=P1)
    release(ledger, P1, P5)
    assert list(ledger.snapshot()) == [P0]
    ledger.finish(run_at(0, partition=P5))
    assert list(ledger.snapshot()) == [P0]


# A partition's log that starts anew.


def test_of_a_log_that_is_gone_nothing_counts() -> None:
    ledger = ledger_with()
    runs = admit(ledger, 0, 1)
    ledger.finish(runs[0])
    release(ledger)
    assert ledger.life(P0) == 0
    assign(ledger, epoch=2, life=1)
    assert ledger.life(P0) == 1 and ledger.life(P1) == 0
    assert ledger.is_of_former_life(runs[1])
    before = ledger.snapshot()
    assert before == {P0: Progress(0, (), 2)}
    ledger.finish(runs[1])
    assert ledger.snapshot() is before
    [run] = admit(ledger, 0, epoch=2, life=1)
    assert not ledger.is_of_former_life(run)
    ledger.finish(run)
    assert ledger.snapshot()[P0] == Progress(1, (), 2)


def test_an_end_in_a_log_that_is_gone_is_not_remembered_while_the_partition_is_away() -> None:
    ledger = ledger_with()
    [run] = admit(ledger, 0)
    release(ledger)
    assign(ledger, epoch=2, life=1)
    release(ledger)
    ledger.finish(run)
    assign(ledger, epoch=3, life=1)
    assert ledger.snapshot()[P0] == Progress(0, (), 3)


def test_within_the_same_life_what_was_done_still_counts_after_the_log_began_anew() -> None:
    ledger = ledger_with(life=1)
    [run] = admit(ledger, 0, life=1)
    release(ledger)
    ledger.finish(run)
    assign(ledger, epoch=2, life=1)
    assert ledger.snapshot()[P0] == Progress(1, (), 2)


# What is known of records that are not done.


def test_attempts_of_a_job_that_is_not_done_are_committed() -> None:
    ledger = ledger_with()
    first, second = admit(ledger, 0, 1)
    first.attempts, second.attempts = 2, 1
    ledger.failed(first)
    ledger.failed(second)
    assert ledger.snapshot()[P0].notes == CommitMetadata(attempts={0: 2, 1: 1})


def test_attempts_of_a_job_whose_partition_is_gone_are_not_noted() -> None:
    ledger = ledger_with()
    [run] = admit(ledger, 0)
    release(ledger)
    ledger.failed(run)
    assert ledger.notes_of(P0) == NOTHING
    assert ledger.snapshot() == {}


def test_progress_ends_the_count_of_starts_in_vain() -> None:
    ledger = ledger_with(notes=CommitMetadata(starts=2))
    first, second = admit(ledger, 0, 1)
    ledger.finish(second)
    assert ledger.notes_of(P0).starts == 2, "the offset to commit has not moved"
    ledger.finish(first)
    assert ledger.snapshot()[P0] == Progress(2, (), 1)


def test_progress_counts_from_where_the_assignment_began() -> None:
    ledger = ledger_with(start=5, notes=CommitMetadata(starts=1))
    ledger.finish(run_at(5))
    assert ledger.notes_of(P0).starts == 0
    away = ledger_with()
    runs = admit(away, 0, 1)
    away.finish(runs[0])
    release(away)
    assign(away, epoch=2, notes=CommitMetadata(starts=1))
    away.finish(run_at(9, epoch=2))
    assert away.notes_of(P0).starts == 1, "it begins at 1, and nothing has come since"


def test_progress_does_not_end_a_partitions_serial_mode() -> None:
    ledger = ledger_with(notes=CommitMetadata(starts=3))
    [run] = admit(ledger, 0)
    ledger.finish(run)
    assert ledger.notes_of(P0) == CommitMetadata(starts=3)


@pytest.mark.parametrize(
    ("notes", "suspicious"),
    [
        (CommitMetadata(starts=3), True),
        (CommitMetadata(crashes={4: 1}), True),
        (CommitMetadata(starts=2, attempts={4: 1}), False),
    ],
)
def test_care_is_called_for_after_starts_in_vain_or_crashes(
    notes: CommitMetadata, suspicious: bool
) -> None:
    ledger = ledger_with()
    assert not ledger.suspicious
    ledger.note(P0, notes)
    assert ledger.suspicious is suspicious
    ledger.note(P1, CommitMetadata(starts=3))
    ledger.note(P0, NOTHING)
    assert ledger.suspicious
    ledger.note(P1, NOTHING)
    assert not ledger.suspicious


# Snapshots.


def test_the_snapshot_is_the_same_object_as_long_as_nothing_changes() -> None:
    for notes in (NOTHING, CommitMetadata(attempts={3: 1})):
        ledger = ledger_with(notes=notes)
        runs = admit(ledger, 0, 1)
        first = ledger.snapshot()
        assert ledger.snapshot() is first
        ledger.finish(runs[0])
        second = ledger.snapshot()
        assert second is not first and second[P0].offset == 1
        ledger.note(P0, CommitMetadata(attempts={1: 7}))
        assert ledger.snapshot()[P0].notes.attempts == {1: 7}
        assert first[P0] == Progress(0, (), 1, notes)


def test_only_what_changed_of_a_snapshot_is_made_anew() -> None:
    ledger = ledger_with(notes=CommitMetadata(attempts={3: 1}))
    assign(ledger, partition=P1, notes=CommitMetadata(attempts={4: 1}))
    first = ledger.snapshot()
    [run] = admit(ledger, 0)
    ledger.finish(run)
    second = ledger.snapshot()
    assert second[P0] is not first[P0]
    assert second[P1] is first[P1]
    ledger.note(P1, CommitMetadata(attempts={4: 2}))
    third = ledger.snapshot()
    assert third[P0] is second[P0]
    assert third[P1].notes.attempts == {4: 2}


def test_a_snapshot_with_notes_cannot_be_changed() -> None:
    snapshot: Any = ledger_with(notes=CommitMetadata(attempts={3: 1})).snapshot()
    with pytest.raises(TypeError):
        snapshot[P0] = None


def test_notes_of_a_partition_that_is_not_assigned_are_not_committed() -> None:
    ledger = ledger_with()
    ledger.note(P7, CommitMetadata(starts=1))
    assert list(ledger.snapshot()) == [P0]


# How full the metadata is.


def scattered(share: float) -> OffsetRanges:
    """As many ranges as take this share of what the metadata may have."""
    source, runs, end = random.Random(5), list[tuple[int, int]](), 0
    while len(runs) % 50 or offset_map.measure(0, runs) < share * LIMIT:
        first = end + source.randint(1, 3)
        end = first + source.randint(1, 3)
        runs.append((first, end))
    return runs


def test_a_partition_is_crowded_above_three_quarters_of_the_metadata() -> None:
    ledger = ledger_with(done=scattered(0.76))
    assert ledger.crowded() == {P0}
    for offset in range(10_000):
        if ledger.tracker.admit(P0, offset):
            ledger.finish(run_at(offset))
    assert ledger.crowded() == set()
    assert ledger_with(done=scattered(0.73)).crowded() == set()
