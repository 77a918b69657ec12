"""Where a job is, from its poll to its end: the table of moves says what happens, no more and no
less, and a job's state says who has it. No Kafka, no processes."""

from __future__ import annotations

import ast
import logging
from collections import Counter
from random import Random
from typing import Any

import pytest
from guidepages import table
from loopharness import Host, Letters, Polled
from partitions import P0, P1, numbered
from support import ROOT

from embedkq import codec
from embedkq._child.job_call import failure, not_loaded
from embedkq._formats import commit_metadata
from embedkq._formats.commit_metadata import NOTHING, CommitMetadata
from embedkq._formats.outcome import Outcome
from embedkq._partition import Partition
from embedkq.errors import OtherGroup, SecretUnknown, SignatureRefused
from embedkq.worker.between_threads.job_state import MOVES, JobState
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import (
    Assigned,
    CallbacksDone,
    DeadLettersWritten,
    Finished,
    JobRun,
    Released,
    Revoked,
)
from embedkq.worker.control_thread import (
    circuit_breaker,
    control_loop,
    crash_guard,
    pending_callbacks,
    retries,
)

PARTITIONS = (P0, P1, numbered(0, "other"))
ALL_MOVES = {(state, to) for state, following in MOVES.items() for to in following}
PAYLOAD = codec.encode_call(len, ("x",), {})
MISSING = not_loaded(ModuleNotFoundError("No module named 'shop'"))
OUTCOMES = (
    Outcome("success", b"a result"),
    Outcome("success"),
    Outcome("timeout"),
    failure(ValueError("no")),
    MISSING,
)
SEEDS, STEPS = 200, 60
AT_REST = (JobState.QUEUED, JobState.DONE, JobState.DROPPED)
NOT_BEGUN = (
    JobState.WAITING_FOR_KEY,
    JobState.WAITING_FOR_COMMIT,
    JobState.WAITING_FOR_RETRY,
    JobState.HELD,
)
TRIED = (*NOT_BEGUN, JobState.IN_POOL)


class Watched(JobRun):
    """A run that notes its moves."""

    __slots__ = ("moves",)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "state":
            if hasattr(self, "state"):
                self.moves.append((self.state, value))
            else:
                self.moves: list[tuple[JobState, JobState]] = []
        super().__setattr__(name, value)


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (circuit_breaker, control_loop, crash_guard, pending_callbacks, retries):
        monkeypatch.setattr(module, "time", clock)
    return clock


class World:
    """A host, and all around it: a log with odd records, children, an owner, a rebalancing group;
    everything that may happen happens, by chance."""

    def __init__(self, seed: int, clock: Clock) -> None:
        self.chance, self.clock = Random(seed), clock
        self.has_owner, has_letters = self.chance.random() < 0.7, self.chance.random() < 0.5
        self.max_jobs = self.chance.choice((None, None, 60))
        self.box: Mailbox[Finished] = Mailbox()
        self.letters = Letters() if has_letters else None
        self.host = Host(
            0,
            room=self.chance.choice((2, 8)),
            callbacks=self.box if self.has_owner else None,
            letters=self.letters,
            verifies=not has_letters and self.chance.random() < 0.5,
            max_crashes=self.chance.choice((None, 2)),
            max_jobs=self.max_jobs,
            backoff=20.0,
        )
        self.host.pool.begun = set()
        self.refused, self.can_load = self.chance.choice((0.1, 0.1, 0.8)), True
        self.runs: list[JobRun] = []
        self.with_owner: list[JobRun] = []
        self.forgotten: set[JobRun] = set()
        """Left in the backlog when their partition went away: nobody has looked at them."""
        self.epochs = Counter[Partition]()
        self.positions: dict[Partition, int] = {}
        self.committed: dict[Partition, tuple[int, str]] = {}
        self.revocations: list[tuple[Revoked, list[JobRun]]] = []
        for partition in PARTITIONS:
            self.gain(partition, self.notes())

    def notes(self) -> CommitMetadata:
        """What a host that went down left behind, now and then."""
        if self.chance.random() < 0.5:
            return NOTHING
        suspect = self.chance.randrange(6)
        crashes = {suspect: self.chance.randrange(1, 4)}
        return CommitMetadata(3, suspect, crashes, {suspect: 1}, ("other",))

    # What happens.

    def gain(self, partition: Partition, notes: CommitMetadata = NOTHING) -> None:
        if partition in self.positions:
            return
        self.epochs[partition] += 1
        offset, text = self.committed.get(partition, (0, commit_metadata.encode(0, (), notes)))
        self.positions[partition] = offset
        self.host.shared.inbox.put(Assigned(partition, self.epochs[partition], offset, text))

    def lose(self, partition: Partition) -> None:
        if self.positions.pop(partition, None) is None:
            return
        lost = self.chance.random() < 0.3
        revoked = Revoked(frozenset({partition}), lost)
        self.host.shared.inbox.put(revoked)
        self.host.turn()
        gone = [run for run in self.runs if run.partition == partition]
        assert not [run for run in gone if run.state in NOT_BEGUN], "all that has not begun is gone"
        self.revocations.append((revoked, [run for run in gone if run.state not in AT_REST]))
        self.forgotten.update(run for run in gone if run.state is JobState.QUEUED)
        if not lost:
            self.host.shared.inbox.put(Released(frozenset({partition})))

    def poll(self, partition: Partition) -> None:
        if partition not in self.positions:
            return
        first = self.positions[partition]
        self.positions[partition] += self.chance.randrange(1, 13)
        runs: list[JobRun] = []
        for offset in range(first, self.positions[partition]):
            nature = Random(f"{partition} {offset}")  # a record is what it is, however often polled
            key = nature.choice((None, None, b"a", b"b", f"{partition}".encode()))
            run = Watched(partition, self.epochs[partition], Polled(offset, key))
            if nature.random() < self.refused:
                run.refusal = nature.choice(
                    (
                        SecretUnknown("ab"),
                        SecretUnknown("ab"),
                        OtherGroup("b"),
                        SignatureRefused("no"),
                    )
                )
            runs.append(run)
        self.runs += runs
        self.host.pass_on(runs, self.positions[partition])

    def begin(self) -> None:
        self.host.pool.begun |= set(self.host.pool.tasks[: self.chance.randrange(9)])

    def end(self) -> None:
        if self.chance.random() < 0.1:
            self.can_load = not self.can_load
        outcomes = OUTCOMES if self.can_load else (MISSING,)
        for run in self.host.pool.tasks[: self.chance.randrange(9)]:
            self.host.pool.end(run, self.chance.choice(outcomes))

    def call_back(self) -> None:
        self.with_owner += [finished.run for finished in self.box.take()]
        returned = self.with_owner[: self.chance.randrange(9)]
        del self.with_owner[: len(returned)]
        if returned:
            self.host.shared.inbox.put(CallbacksDone(returned))

    def write_letters(self) -> None:
        if self.letters is not None and self.letters.waiting:
            self.host.shared.inbox.put(DeadLettersWritten(self.letters.waiting[:3]))

    def commit(self) -> None:
        self.host.commit()
        for partition, known in self.host.shared.snapshot.items():
            text = commit_metadata.encode(known.offset, known.done, known.notes)
            self.committed[partition] = known.offset, text

    def step(self) -> None:
        partition = self.chance.choice(PARTITIONS)
        happens, chances = zip(
            (lambda: self.poll(partition), 4),
            (self.begin, 2),
            (self.end, 6),
            (self.call_back, 4),
            (self.write_letters, 2),
            (self.commit, 4),
            (lambda: self.lose(partition), 1),
            (lambda: self.gain(partition), 3),
            (lambda: self.clock.sleep(self.chance.choice((1.0, 15.0))), 2),
            strict=True,
        )
        self.chance.choices(happens, chances)[0]()
        self.turn()

    def heal(self) -> None:
        """Nothing goes wrong any more: all jobs are done, or as many as may be."""
        for _ in range(300):
            for partition in PARTITIONS:
                self.gain(partition)
                if self.max_jobs is not None:
                    self.poll(partition)
            self.host.pool.end_all(OUTCOMES[0])
            self.call_back()
            self.write_letters()
            self.commit()
            self.clock.sleep(15.0)
            if not self.turn():
                done = [run for run in self.runs if run.state is JobState.DONE and not run.refusal]
                assert len(done) == self.max_jobs
                return
        assert self.max_jobs is None, "it stops by itself"
        assert not self.host.loop.in_flight and not len(self.host.shared.backlog)
        for partition, position in self.positions.items():
            assert self.host.shared.snapshot[partition].offset >= position

    def finish(self) -> None:
        """Stop, by chance in one of the three ways, and by chance in the middle of a rebalance."""
        loop = self.host.loop
        how = self.chance.choice((loop.stop, loop.kill_jobs, loop.abandon))
        if self.chance.random() < 0.5:
            self.lose(P0)
        how()
        assert not [run for run in self.runs if run.state in NOT_BEGUN]
        self.forgotten.update(run for run in self.runs if run.state is JobState.QUEUED)
        self.gain(P0)
        for _ in range(100):
            self.host.pool.end_all(self.chance.choice(OUTCOMES))
            self.call_back()
            self.write_letters()
            if not self.turn():
                break
        assert not loop.in_flight, "it ends, whatever has failed last"
        if self.max_jobs is None and how != loop.abandon:
            assert self.host.shared.backlog.held_bytes == 0

    # What must be so.

    def turn(self) -> bool:
        if not self.host.turn():
            return False
        by_state: dict[JobState, set[JobRun]] = {state: set() for state in JobState}
        for run in self.runs:
            by_state[run.state].add(run)
        self.check_holders(by_state)
        in_flight = [run for run in self.runs if run.state not in AT_REST]
        assert self.host.loop.in_flight == len(in_flight)
        assert len({run.place for run in in_flight}) == len(in_flight), "two runs of one job"
        keys = Counter(run.key for run in in_flight if run.state is not JobState.WAITING_FOR_KEY)
        assert all(count == 1 for key, count in keys.items() if key), "two jobs with one key"
        for revoked, runs in self.revocations:
            assert revoked.settled == all(run.state in AT_REST for run in runs)
        self.check_progress(by_state[JobState.DONE], in_flight)
        return True

    def check_holders(self, by_state: dict[JobState, set[JobRun]]) -> None:
        waiting = [finished.run for finished in list(self.box._items)]
        assert by_state[JobState.IN_POOL] == set(self.host.pool.tasks)
        assert by_state[JobState.AWAITING_CALLBACK] == {*waiting, *self.with_owner}
        letters = [] if self.letters is None else self.letters.waiting
        assert by_state[JobState.AWAITING_DEAD_LETTER] == set(letters)
        held = {run for run in by_state[JobState.HELD] if run.refusal is None}
        assert len(by_state[JobState.WAITING_FOR_RETRY] | held) == len(self.host.retries)
        if self.max_jobs is None:  # else it may have stopped by itself
            assert len(self.host.shared.backlog) == len(by_state[JobState.QUEUED] - self.forgotten)

    def check_progress(self, done: set[JobRun], in_flight: list[JobRun]) -> None:
        """What may be committed is what is done, and what is known of the rest."""
        for partition, progress in self.host.shared.snapshot.items():
            ranges = ((0, progress.offset), *progress.done)
            known = {offset for first, last in ranges for offset in range(first, last)}
            offsets = {run.offset for run in done if run.partition == partition}
            assert known <= offsets
            epoch = self.epochs[partition]
            of_now = {run for run in done if (run.partition, run.epoch) == (partition, epoch)}
            assert {run.offset for run in of_now} <= known
            attempts = progress.notes.attempts
            for run in in_flight:
                if (run.partition, run.epoch) == (partition, epoch) and run.state in TRIED:
                    assert run.refusal is not None or run.attempts == attempts.get(run.offset, 0)


def test_whatever_happens_a_job_is_where_its_state_says_and_moves_as_the_table_says(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each allowed move happens, too: none is in the table for nothing."""
    caplog.set_level(logging.CRITICAL, "embedkq")
    monkeypatch.setattr(crash_guard, "CAREFUL_SECONDS", 20.0)
    monkeypatch.setattr(circuit_breaker, "MOST_IN_A_ROW", 2)
    monkeypatch.setattr(retries, "random", Random(1))
    seen = Counter[tuple[JobState, JobState]]()
    for seed in range(SEEDS):
        world = World(seed, clock)
        for _ in range(STEPS):
            world.step()
        if seed % 2:
            world.heal()
        world.finish()
        for run in world.runs:
            assert run.state in AT_REST
            seen.update(run.moves)
        world.host.close()
    print(*(f"{count} {state} -> {to}" for (state, to), count in seen.most_common()), sep="\n")
    assert set(seen) == ALL_MOVES


def test_a_move_that_is_not_in_the_table_is_refused() -> None:
    host = Host(1)
    jobs = host.loop._jobs
    for state in JobState:
        for to in JobState:
            run = JobRun(P0, 1, Polled(7))
            run.state = state
            if to in MOVES[state]:
                jobs.move((run,), to)
                assert run.state is to
                continue
            with pytest.raises(RuntimeError, match=f"offset 7 is {state} and cannot become {to}$"):
                jobs.move((run,), to)
            assert run.state is state
    host.close()


def test_what_has_ended_stays_so_and_all_else_can_be_dropped() -> None:
    for state, following in MOVES.items():
        assert state.ended == (not following)
        assert state.ended or JobState.DROPPED in following
    assert set(MOVES) == set(JobState)


def test_nobody_but_the_owner_moves_a_job() -> None:
    movers = set()
    for path in (ROOT / "embedkq").rglob("*.py"):
        text = path.read_text()
        if "JobRun" in text:
            stored = [
                node
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Attribute)
                and node.attr == "state"
                and isinstance(node.ctx, ast.Store)
            ]
            movers |= {path.name} if stored else set()
    assert movers == {"messages.py", "jobs.py"}, "the first state, and all others"


def test_the_guide_has_each_state_and_each_move() -> None:
    rows = table("States of a job")
    assert [row[0] for row in rows] == [str(state) for state in JobState]
    for state, (_, holders, _, following) in zip(JobState, rows, strict=True):
        assert set(following.replace(",", " ").split()) - {"none"} == {
            str(to) for to in MOVES[state]
        }, state
        for holder in holders.split(", "):
            assert holder == "none" or (ROOT / "embedkq" / holder).is_file(), holder
