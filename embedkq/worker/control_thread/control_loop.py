"""The control thread's loop: takes records in, gives them to the pool, settles what ends, says what
may be committed. `jobs.py` has the life of a job as a list of its methods.

One turn is one call. It has no thread of its own; it waits in its selector, and a moment before
where children have enough to do.
"""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from embedkq._partition import Partition
from embedkq.worker.between_threads.backlog import Queued
from embedkq.worker.between_threads.job_state import JobState
from embedkq.worker.between_threads.messages import (
    Assigned,
    Batch,
    CallbacksDone,
    ConsumerFailed,
    DeadLettersWritten,
    DrainTarget,
    Finished,
    JobRun,
    Released,
    Revoked,
)
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.control_thread import circuit_breaker
from embedkq.worker.control_thread.circuit_breaker import CircuitBreaker
from embedkq.worker.control_thread.completer import Completer, Retry
from embedkq.worker.control_thread.crash_guard import CrashGuard
from embedkq.worker.control_thread.freeze_guard import FreezeGuard
from embedkq.worker.control_thread.job_log import JobLog
from embedkq.worker.control_thread.jobs import Jobs
from embedkq.worker.control_thread.partition_ledger import PartitionLedger
from embedkq.worker.control_thread.retries import Retries
from embedkq.worker.control_thread.waiters import Waiters
from embedkq.worker.pool.pool import JobPool

_TURN_SECONDS = 1.0


class ControlLoop:
    """All that one worker has under way. Control thread, but for what says otherwise."""

    def __init__(
        self,
        shared: SharedState,
        *,
        completer: Completer,
        retries: Retries,
        breaker: CircuitBreaker,
        log: JobLog,
        make_pool: Callable[[selectors.BaseSelector], JobPool[JobRun]],
        make_crash_guard: Callable[[SharedState, PartitionLedger, Callable[[], bool]], CrashGuard],
        max_jobs: int | None = None,
    ) -> None:
        self.completer = completer
        self.retries = retries
        self.breaker = breaker
        self._shared = shared
        self._inbox = shared.inbox
        self._backlog = shared.backlog
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._inbox, selectors.EVENT_READ, _nothing)
        self.pool = make_pool(self._selector)
        self._ledger = PartitionLedger()
        self._tracker = self._ledger.tracker
        self._guard = make_crash_guard(shared, self._ledger, lambda: self.pool.idle)
        self._jobs = Jobs(shared.backlog, self._ledger, self._guard, max_jobs)
        self._ends_left = self._jobs.admissible
        """How many more jobs end before the loop stops by itself."""
        self._waiters = Waiters()
        self._freeze_guard = FreezeGuard(shared, _TURN_SECONDS)
        self._stopping = self._killed = False

    # The life of a loop.

    def turn(self) -> bool:
        """Wait for something to happen and deal with it; False once a stop is complete.

        Raises:
            WorkerError: children do not start, or the consumer cannot continue.
        """
        if self._stopping and not self._jobs:
            return False
        self._let_ends_gather()
        rest = min(
            min(self.pool.check_at, self.retries.next_at, self._kill_at) - time.monotonic(),
            _TURN_SECONDS,
        )
        ready = self._selector.select(max(0.0, rest))
        self._freeze_guard.tick(time.monotonic())
        for key, _ in ready:
            key.data()
        for message in self._inbox.take():
            self._handlers[type(message)](self, message)
        self.retries.wake(time.monotonic())
        self._settle()
        self._stop_after_last()
        self._backlog.hold(self._partitions_on_hold())
        if not self._stopping and self._freeze_guard.open:
            self._admit()
            self._stop_after_last()
        self._publish()
        return True

    def _partitions_on_hold(self) -> Set[Partition]:
        """Partitions of which nothing more begins, for one of five reasons. Refused records, jobs
        that wait for a retry, or dead letters would fill the memory: each takes 0.8 KB and its
        payload. Commit metadata is nearly full, so that what is done could not be committed. Or a
        job runs alone."""
        if self.breaker.full:
            return self._tracker.snapshot().keys()
        return (
            self._ledger.crowded()
            | self.retries.full
            | self._guard.held_up
            | self.completer.held_up(time.monotonic())
        )

    def _stop_after_last(self) -> None:
        if self._ends_left <= 0:
            self.stop()

    def _let_ends_gather(self) -> None:
        """To be woken for each short job costs the host more than the job: as long as no child runs
        out of work, let some of them end."""
        seconds = self.pool.coalesce_delay(len(self._backlog) > 0)
        if seconds > 0:
            time.sleep(seconds)

    @property
    def _kill_at(self) -> float:
        return math.inf if self._killed else self._shared.deadline.kill_at

    def stop(self) -> None:
        """Admit nothing further; drop what has not begun. `turn` says when the rest is done."""
        if self._stopping:
            return
        self._stopping = True
        self._drop(self._tracker.snapshot().keys())

    def kill_jobs(self) -> bool:
        """Stop, and kill what runs: it has no outcome. What waits for its callback or its dead
        letter continues. Whether anything ran."""
        self.stop()
        self._killed = True
        runs = self.pool.abandon()
        self._jobs.drop(runs)
        return bool(runs)

    def abandon(self) -> bool:
        """Stop now: what runs or waits is given up, without outcome, callback or commit. Whether
        there was anything."""
        ran = self.kill_jobs() or bool(self._jobs)
        self._jobs.abandon()
        return ran

    def close(self) -> None:
        """End the child processes and give everything back, by the stop's deadline."""
        self.pool.close(self._shared.deadline)
        self.completer.close(self._shared.deadline)
        self._inbox.close()
        self._selector.close()

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the descriptors."""
        self.pool.close_after_fork()
        self.completer.close_after_fork()
        self._selector.close()

    @property
    def in_flight(self) -> int:
        """Jobs that were admitted and are not done. Any thread."""
        return len(self._jobs)

    # Messages.

    def _take_batch(self, batch: Batch) -> None:
        self._backlog.add(batch)

    def _assigned(self, message: Assigned) -> None:
        self._ledger.assign(message)
        self._guard.assigned(message.partition)
        self._backlog.open(message.partition, message.epoch)

    def _revoked(self, message: Revoked) -> None:
        self._drop(message.partitions)
        if message.lost:
            self._release(Released(message.partitions))
            self._waiters.drop_targets()
        self._waiters.add_revocation(
            message, (run for run in self._jobs if run.partition in message.partitions)
        )

    def _release(self, message: Released) -> None:
        self._ledger.release(message)

    def _callbacks_done(self, message: CallbacksDone) -> None:
        self.completer.callbacks_done(message.runs)
        self._ends_left -= len(message.runs)
        self._complete(message.runs)

    def _letters_written(self, message: DeadLettersWritten) -> None:
        self.completer.letters_written(message.runs)
        self._jobs.finish(message.runs)

    def _drain(self, message: DrainTarget) -> None:
        self._waiters.add_targets(message)

    def _consumer_failed(self, message: ConsumerFailed) -> None:
        raise message.error

    _handlers: Mapping[type, Callable[[ControlLoop, Any], None]] = {
        Batch: _take_batch,
        Assigned: _assigned,
        Revoked: _revoked,
        Released: _release,
        CallbacksDone: _callbacks_done,
        DeadLettersWritten: _letters_written,
        DrainTarget: _drain,
        ConsumerFailed: _consumer_failed,
    }

    # From the backlog to the pool.

    def _admit(self) -> None:
        room = self.breaker.room(self.pool.room())
        runs = self._take_some(room) if room > 0 and not self.completer.full else []
        begin, quarantined = self._guard.release(runs)
        if begin is not runs:
            self._jobs.move(set(runs).difference(begin), JobState.WAITING_FOR_COMMIT)
        self._jobs.move(begin, JobState.IN_POOL)
        for run in begin:
            self.pool.submit(run)
        if quarantined is not None:
            end = self.completer.quarantine(quarantined.run, quarantined.error)
            self._end([end], quarantined.silently)
        self.pool.feed()

    def _take_some(self, room: int) -> list[JobRun]:
        """Up to this many that may begin: retries, runs that have got their key, new ones."""
        runs = [] if self.breaker.probes_new else self.retries.take_ready(room)
        runs += self._backlog.take_ready(room - len(runs))
        while (most := int(min(room - len(runs), self._jobs.admissible))) > 0 and (
            queued := self._backlog.next_queued(most)
        ):
            runs += self._admit_some(queued)
        if self.breaker.probes_new:
            runs += self.retries.take_ready(room - len(runs))
        self.breaker.probe(runs)
        return runs

    def _admit_some(self, queued: Queued) -> list[JobRun]:
        """Track records; those that may run now. Those that wait for their key, or need not run,
        are dealt with on the way."""
        partition, epoch, polled, position = queued
        tracker, jobs, announce = self._tracker, self._jobs, self._log.announces
        life = self._ledger.life(partition)
        attempts = self._ledger.notes_of(partition).attempts
        runs = []
        for run in polled:
            run.life = life
            if not tracker.admit(partition, run.offset):
                jobs.pass_over(run)
            elif jobs.admit(run):
                if run.refusal is not None:
                    self._refuse(run)
                    continue
                if self.breaker.verifies:
                    self._keep_out(self.breaker.verified())
                run.attempts = attempts.get(run.offset, 0)
                run.announce = announce
                if run.key is None or self._backlog.enter_lane(run):
                    runs.append(run)
                else:
                    jobs.move((run,), JobState.WAITING_FOR_KEY)
        if position is not None:
            tracker.advance(partition, epoch, position)
        return runs

    def _refuse(self, run: JobRun) -> None:
        size = run.size
        if self.breaker.holds_refused(run):
            self._backlog.grow(run.size - size)  # its payload was forgotten
            self._jobs.move((run,), JobState.HELD)
        else:
            self._keep_out([run])

    def _keep_out(self, runs: Sequence[JobRun]) -> None:
        for run in runs:
            if run.refusal is not None:
                self.completer.keep_out(run, run.refusal)
        self._complete(runs)

    def _drop(self, partitions: Set[Partition]) -> None:
        """What of these partitions has not begun will not run here. Goes through all that is held
        once, however many they are."""
        in_pool = {
            run
            for run in self._jobs
            if run.state is JobState.IN_POOL and run.partition in partitions
        }
        for holder in (self._backlog, self.breaker, self.retries, self._guard):
            self._jobs.drop(holder.drop(partitions))
        self._jobs.drop(self.pool.take_back(in_pool))

    # From the pool to the end.

    def _settle(self) -> None:
        """Deal with what has happened in the pool."""
        begun, ended = self.pool.tick(time.monotonic())
        for run, text in begun:
            self._log.began(run, text)
            if self.breaker.in_a_row:
                self.breaker.loaded()
        # This loop was left behind, and its children killed by another thread: no outcome of theirs
        # counts.
        if self._shared.deadline.passed:
            return
        ends: list[Finished] = []
        for run, outcome in ended:
            former = self._ledger.is_of_former_life(run)
            if (
                not former
                and (outcome.status == "undecodable" or self.breaker.in_a_row)
                and self.breaker.holds(run, outcome)
            ):
                self._hold(run, circuit_breaker.PROBE_SECONDS, JobState.HELD)
                continue
            if former:
                run.retries = 0  # its record is gone: this is the last that anybody hears of it
            follows = self.completer.settle(run, outcome)
            if isinstance(follows, Retry):
                self._run_again(run, follows.pause)
            else:
                ends.append(follows)
        if ends:
            self._end(ends)

    def _run_again(self, run: JobRun, pause: float) -> None:
        """Hold the run for another attempt."""
        self._ledger.failed(run)
        if self._hold(run, pause, JobState.WAITING_FOR_RETRY):
            self._log.runs_again(run, pause, self.retries.most(run))
        else:
            self._log.goes_elsewhere(run)

    def _hold(self, run: JobRun, pause: float, state: JobState) -> bool:
        """Begin the run again later; False if its partition is gone, or about to go: it is given up
        as if it had not begun."""
        if self._stopping or not self._backlog.is_open(run.partition):
            self._jobs.drop((run,))
            return False
        self._jobs.move((run,), state)
        self._guard.left(run)
        self.retries.hold(run, pause)
        return True

    def _end(self, ends: list[Finished], silently: bool = False) -> None:
        """The outcomes of these are final: their callbacks follow, if there is one to call."""
        if self.completer.has_callback and not silently:
            self._jobs.await_callbacks(ends)
            self.completer.call_back(ends)
        else:
            self._ends_left -= len(ends)
            self._complete([run for run, _ in ends])

    def _complete(self, runs: Sequence[JobRun]) -> None:
        """No callback is due: the dead wait for their dead letter, the others are done."""
        dead = [run for run in runs if run.death is not None and self.completer.write_letter(run)]
        if dead:
            self._jobs.move(dead, JobState.AWAITING_DEAD_LETTER)
            runs = [run for run in runs if run.state is not JobState.AWAITING_DEAD_LETTER]
        self._jobs.finish(runs)

    # What others wait for.

    def _publish(self) -> None:
        now = time.monotonic()
        snapshot = self._ledger.snapshot()
        self._shared.publish(snapshot)
        self._shared.hot = self._backlog.partitions_to_pause()
        self._waiters.notify(snapshot)
        self.completer.warn_if_deaf(now)


def _nothing() -> None:
    pass
