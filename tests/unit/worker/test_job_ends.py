"""What the control loop does with the ends of jobs: who learns of them, when they count, and what
they take until then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loopharness import Host, Letters, Polled
from partitions import P0

from embedkq._formats import commit_metadata
from embedkq._formats.commit_metadata import CommitMetadata
from embedkq._formats.outcome import Outcome
from embedkq.errors import DecodeError
from embedkq.worker.between_threads.backlog import RUN_BYTES
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import (
    Assigned,
    CallbacksDone,
    DeadLettersWritten,
    Finished,
    JobRun,
)

SUCCESS = Outcome("success", b"result")
FAILURE = Outcome("failure", b"error", "ValueError", "no", "Traceback: no", "ValueError")
TIMEOUT = Outcome("timeout", traceback="it was here")
PAYLOAD = len(b"payload")
MOST = 3

Make = Callable[..., "World"]


class World:
    """A host with one partition, and its surroundings: an owner, and a dead-letter topic."""

    def __init__(self, callback: bool = True, letters: bool = True, **options: Any) -> None:
        self.owner: Mailbox[Finished] = Mailbox()
        self.letters = Letters()
        self.host = Host(
            options.pop("partitions", 1),
            callbacks=self.owner if callback else None,
            letters=self.letters if letters else None,
            **options,
        )

    def take_callbacks(self) -> list[JobRun]:
        """As the owner does: the jobs whose callbacks it is to call."""
        return [finished.run for finished in self.owner.take()]

    def return_callbacks(self, *runs: JobRun) -> None:
        self.host.shared.inbox.put(CallbacksDone(list(runs)))
        self.host.turn()

    def write_letters(self) -> None:
        self.host.shared.inbox.put(DeadLettersWritten(list(self.letters.waiting)))
        self.host.turn()

    def end_all(self, outcome: Outcome) -> list[JobRun]:
        runs = list(self.host.pool.tasks)
        self.host.pool.end_all(outcome)
        self.host.turn()
        return runs

    @property
    def has_stopped(self) -> bool:
        """Whether the loop has stopped by itself: it takes nothing more of any partition."""
        return not self.host.shared.backlog.is_open(P0)


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes worlds, and ends them after the test."""
    made: list[World] = []

    def make(**options: Any) -> World:
        made.append(World(**options))
        return made[-1]

    yield make
    for world in made:
        world.host.close()


# Callbacks.


def test_the_owner_gets_what_ends_in_one_turn_together_and_once(make: Make) -> None:
    world = make()
    world.host.poll(P0, 2)
    world.host.turn()
    assert world.take_callbacks() == []
    runs = world.end_all(SUCCESS)
    assert len(runs) == 2
    assert world.take_callbacks() == runs
    world.host.turn()
    assert world.take_callbacks() == []
    assert [run.state for run in runs] == ["awaiting_callback"] * 2
    world.return_callbacks(*runs)
    assert [run.state for run in runs] == ["done"] * 2


def test_no_callback_waits_where_no_job_has_ended(make: Make) -> None:
    world = make()
    world.host.turn()
    assert world.host.loop.completer.waiting_since is None
    world.host.poll(P0, 1)
    world.host.turn()
    assert world.host.loop.completer.waiting_since is None
    world.end_all(SUCCESS)
    assert world.host.loop.completer.waiting_since is not None


def test_a_job_that_is_run_again_has_no_callback_yet(make: Make) -> None:
    world = make()
    world.host.poll(P0, 1)
    world.host.turn()
    [run] = world.end_all(FAILURE)
    assert run.state == "waiting_for_retry"
    assert world.take_callbacks() == []
    assert world.host.loop.completer.waiting_since is None


@pytest.mark.parametrize("callback", [False, True])
def test_a_record_that_is_kept_out_has_no_callback(callback: bool, make: Make) -> None:
    world = make(callback=callback)
    run = JobRun(P0, 1, Polled(0))
    run.refusal = DecodeError("no header")
    world.host.pass_on([run], 1)
    world.host.turn()
    assert world.take_callbacks() == []
    assert run.state == "awaiting_dead_letter" and world.letters.waiting == [run]
    world.write_letters()
    assert run.state == "done"


@pytest.mark.parametrize("silently", [False, True])
@pytest.mark.parametrize("letters", [False, True])
def test_a_job_that_took_hosts_down_has_its_callback_unless_that_may_be_what_does_it(
    silently: bool, letters: bool, make: Make
) -> None:
    world = make(letters=letters, max_jobs=1, partitions=0, max_crashes=MOST)
    run = quarantined(world, MOST + silently)
    assert run.state == (
        "awaiting_callback" if not silently else "awaiting_dead_letter" if letters else "done"
    )
    if not silently:
        assert not world.letters.waiting and not world.has_stopped
        assert world.take_callbacks() == [run]
        world.return_callbacks(run)
    assert world.take_callbacks() == []
    assert world.letters.waiting == ([run] if letters else [])
    assert run.state == ("awaiting_dead_letter" if letters else "done")
    assert not world.host.pool.tasks
    assert world.has_stopped, "its end counts, with a callback or without"


def quarantined(world: World, crashes: int) -> JobRun:
    """A job that took so many hosts down, and does not begin."""
    notes = CommitMetadata(starts=3, crashes={0: crashes}, hosts=("web-1", "web-2"))
    world.host.shared.inbox.put(Assigned(P0, 1, 0, commit_metadata.encode(0, (), notes)))
    run = JobRun(P0, 1, Polled(0))
    world.host.pass_on([run], 1)
    world.host.turn()
    assert run.state == "waiting_for_commit"
    world.host.commit()
    world.host.turn()
    return run


# Bytes.


@pytest.mark.parametrize("callback", [False, True])
def test_a_result_counts_among_the_bytes_that_its_job_takes_until_its_callback(
    callback: bool, make: Make
) -> None:
    world = make(callback=callback)
    backlog = world.host.shared.backlog
    world.host.poll(P0, 1)
    world.host.turn()
    [run] = world.host.pool.tasks
    assert backlog.held_bytes == PAYLOAD + RUN_BYTES
    world.end_all(SUCCESS)
    if callback:
        assert run.size == PAYLOAD + len(SUCCESS.payload)
        assert backlog.held_bytes == PAYLOAD + len(SUCCESS.payload) + RUN_BYTES
        world.return_callbacks(run)
    else:
        assert run.size == PAYLOAD
    assert backlog.held_bytes == 0


# How many have ended.


@pytest.mark.parametrize("outcome", [SUCCESS, FAILURE, TIMEOUT])
def test_the_end_of_a_job_counts_once_its_callback_has_returned(
    outcome: Outcome, make: Make
) -> None:
    world = make(max_jobs=2)
    first, second = begin_last_attempts(world)
    world.end_all(outcome)
    assert not world.has_stopped
    world.return_callbacks()
    world.return_callbacks(first)
    assert not world.has_stopped
    world.return_callbacks(second)
    assert world.has_stopped


@pytest.mark.parametrize("outcome", [SUCCESS, FAILURE, TIMEOUT])
def test_without_a_callback_the_end_of_a_job_counts_at_once(outcome: Outcome, make: Make) -> None:
    world = make(callback=False, max_jobs=2)
    first, second = begin_last_attempts(world)
    world.host.pool.end(first, outcome)
    world.host.turn()
    assert not world.has_stopped
    world.return_callbacks()
    assert not world.has_stopped
    world.host.pool.end(second, outcome)
    world.host.turn()
    assert world.has_stopped
    assert world.letters.waiting == ([] if outcome is SUCCESS else [first, second])


def begin_last_attempts(world: World) -> list[JobRun]:
    """Jobs that run, and are not run again; a further one waits."""
    world.host.poll(P0, 3)
    world.host.turn()
    runs = list(world.host.pool.tasks)
    for run in runs:
        run.retries = 0
    assert len(runs) == 2
    return runs


def test_an_attempt_that_another_one_follows_and_a_record_that_is_kept_out_do_not_count(
    make: Make,
) -> None:
    world = make(callback=False, max_jobs=1)
    refused = JobRun(P0, 1, Polled(0))
    refused.refusal = DecodeError("no header")
    run = JobRun(P0, 1, Polled(1))
    world.host.pass_on([refused, run], 2)
    world.host.turn()
    assert world.letters.waiting == [refused] and not world.has_stopped
    world.write_letters()
    assert refused.state == "done" and not world.has_stopped
    assert world.end_all(FAILURE) == [run]
    assert run.state == "waiting_for_retry" and not world.has_stopped
    world.host.retries.wake(float("inf"))
    world.host.turn()
    assert world.end_all(SUCCESS) == [run]
    assert run.state == "done" and world.has_stopped
