"""The worker's loop: takes records in, gives them to the pool, settles what ends, says what may be
committed.

One turn is one call. It has no thread of its own; it waits in its selector, and a moment before
where children have enough to do.
"""

from __future__ import annotations

import math
import selectors
import time
from collections.abc import Callable, Mapping, Set
from typing import Any

from embedkq.worker.between_threads.backlog import Queued
from embedkq.worker.between_threads.messages import (
    Assigned,
    Batch,
    CallbacksDone,
    ConsumerFailed,
    DeadLettersWritten,
    DrainTarget,
    JobRun,
    Released,
    Revoked,
)
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.control_thread import circuit_breaker
from embedkq.worker.control_thread.circuit_breaker import CircuitBreaker
from embedkq.worker.control_thread.completer import Completer
from embedkq.worker.control_thread.crash_guard import CrashGuard
from embedkq.worker.control_thread.freeze_guard import FreezeGuard
from embedkq.worker.control_thread.job_log import JobLog
from embedkq.worker.control_thread.partition_ledger import PartitionLedger
from embedkq.worker.control_thread.retries import Retries
from embedkq.worker.control_thread.waiters import Waiters
from embedkq.worker.pool.pool import JobPool

_TURN_SECONDS = 1.0


class ControlLoop:
    """All that one worker has under way. Worker's thread, but for what says otherwise."""

    def __init__(
        self,
        shared: SharedState,
        *,
        topic: str,
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
        self._ledger = PartitionLedger(topic)
        self._tracker = self._ledger.tracker
        self._guard = make_crash_guard(shared, self._ledger, lambda: self.pool.idle)
        self._runs: dict[tuple[int, int, int], JobRun] = {}
        """All that was admitted and is not done, by its `place`."""
        self._admissible = math.inf if max_jobs is None else max_jobs
        self._to_fire = self._admissible
        self._waiters = Waiters()
        self._fence = FreezeGuard(shared, _TURN_SECONDS)
        self._stopping = self._killed = False

    # The life of a loop.

    def turn(self) -> bool:
        """Wait for something to happen and deal with it; False once a stop is complete.

        Raises:
            WorkerError: children do not start, or the consumer cannot go on: the worker has failed.
        """
        if self._stopping and not self._runs:
            return False
        self._let_ends_gather()
        rest = min(
            min(self.pool.check_at, self.retries.next_at, self._kill_at) - time.monotonic(),
            _TURN_SECONDS,
        )
        ready = self._selector.select(max(0.0, rest))
        self._fence.tick(time.monotonic())
        for key, _ in ready:
            key.data()
        for message in self._inbox.take():
            self._handlers[type(message)](self, message)
        self.pool.tick(time.monotonic())
        self.retries.wake(time.monotonic())
        self._tell_begun()
        self._settle()
        self._backlog.hold(
            self._ledger.crowded()
            | self.retries.full
            | self._guard.held_up
            | self.completer.held_up(time.monotonic())
        )
        if self.breaker.full:
            self._backlog.hold(self._tracker.snapshot().keys())
        if not self._stopping and self._fence.open:
            self._admit()
            self._finish()
        self._publish()
        return True

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
        """Admit no more; what has not begun will not run. `turn` says when the rest is done."""
        if self._stopping:
            return
        self._stopping = True
        self._drop(self._tracker.snapshot().keys())

    def kill_jobs(self) -> bool:
        """Stop, and kill what runs: it has no outcome. What waits for its callback or its dead
        letter goes on. Whether anything ran."""
        self.stop()
        self._killed = True
        runs = [run for run in self.pool.abandon() if self._runs.get(run.place) is run]
        for run in runs:
            self._discard(run)
            self._backlog.leave_lane(run)
        return bool(runs)

    def abandon(self) -> bool:
        """Stop now: what runs or waits is given up, without outcome, callback or commit. Whether
        there was anything."""
        ran = self.kill_jobs() or bool(self._runs)
        self._runs.clear()
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
        return len(self._runs)

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
            message, (run for run in self._runs.values() if run.partition in message.partitions)
        )

    def _release(self, message: Released) -> None:
        self._ledger.release(message)

    def _fired(self, message: CallbacksDone) -> None:
        self.completer.fired(message.runs)

    def _buried(self, message: DeadLettersWritten) -> None:
        self.completer.buried(message.runs)

    def _aim(self, message: DrainTarget) -> None:
        self._waiters.add_targets(message)

    def _consumer_failed(self, message: ConsumerFailed) -> None:
        raise message.error

    _handlers: Mapping[type, Callable[[ControlLoop, Any], None]] = {
        Batch: _take_batch,
        Assigned: _assigned,
        Revoked: _revoked,
        Released: _release,
        CallbacksDone: _fired,
        DeadLettersWritten: _buried,
        DrainTarget: _aim,
        ConsumerFailed: _consumer_failed,
    }

    # Admission.

    def _admit(self) -> None:
        room = self.breaker.room(self.pool.room())
        runs = self._take_some(room) if room > 0 and not self.completer.full else []
        for run in self._guard.release(runs):
            self.pool.submit(run)
        for quarantined in self._guard.quarantined:
            size = quarantined[0].size
            self.completer.condemn(*quarantined)
            self._backlog.grow(quarantined[0].size - size)
        self._guard.quarantined.clear()
        self.completer.hand_over()
        self.pool.feed()

    def _take_some(self, room: int) -> list[JobRun]:
        """At most so many that may begin: what is to run again, what has its key, what is new."""
        runs = [] if self.breaker.probes_new else self.retries.take_ready(room)
        runs += self._backlog.take_ready(room - len(runs))
        while (most := int(min(room - len(runs), self._admissible))) > 0 and (
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
        announce = self._log.announces
        life = self._ledger.life(partition)
        runs = []
        for run in polled:
            run.life = life
            if not self._tracker.admit(partition, run.offset):
                self._backlog.leave(run)
            elif self._is_new(run):
                run.announce = announce
                if run.key is None or self._backlog.enter_lane(run):
                    runs.append(run)
        if position is not None:
            self._tracker.advance(partition, epoch, position)
        return runs

    def _is_new(self, run: JobRun) -> bool:
        """Whether it may run, and does not run here already since an earlier assignment."""
        place = run.place
        under_way = self._runs.get(place)
        if under_way is not None:
            under_way.epoch = run.epoch  # one run, one callback; its end finishes this admission
            self._backlog.leave(run)
            return False
        self._runs[place] = run
        run.attempts = self._ledger.notes_of(run.partition).attempts.get(run.offset, 0)
        if run.refusal is not None:
            size = run.size
            if not self.breaker.holds_refused(run):
                self.completer.kept_out(run, run.refusal)
            self._backlog.grow(run.size - size)
            return False
        if self.breaker.verifies:
            for refused in self.breaker.verified():
                if refused.refusal is not None:
                    self.completer.kept_out(refused, refused.refusal)
        self._admissible -= 1
        return True

    def _drop(self, partitions: Set[int]) -> None:
        """What of these partitions has not begun will not run here. Goes through all that is held
        once, however many they are."""
        for run in self._backlog.drop(partitions):
            self._discard(run)
        for run in self.breaker.drop(partitions):
            del self._runs[run.place]
            self._backlog.leave(run)
        waiting = {run for run in self._runs.values() if run.partition in partitions}
        for run in [
            *self.retries.drop(partitions),
            *self._guard.drop(partitions),
            *self.pool.take_back(waiting),
        ]:
            self._discard(run)
            self._backlog.leave_lane(run)

    def _discard(self, run: JobRun) -> None:
        self._guard.left(run)
        del self._runs[run.place]
        self._backlog.leave(run)
        self._admissible += 1  # another may run in its place, where only so many may

    # Settling.

    def _tell_begun(self) -> None:
        for run, text in self.pool.begun:
            self._log.began(run, text)
            if self.breaker.in_a_row:
                self.breaker.loaded()
        self.pool.begun.clear()

    def _settle(self) -> None:
        completer = self.completer
        # it was left behind, and the children killed by another thread: no outcome of theirs counts
        if self._shared.deadline.passed:
            self.pool.ended.clear()
        for run, outcome in self.pool.ended:
            if self._runs.get(run.place) is not run:
                continue  # abandoned
            former = self._ledger.is_of_former_life(run)
            if (
                not former
                and (outcome.status == "undecodable" or self.breaker.in_a_row)
                and self.breaker.holds(run, outcome)
            ):
                self._hold(run, circuit_breaker.PROBE_SECONDS)
                continue
            if former:
                run.retries = 0  # its record is gone: this is the last that anybody hears of it
            size = run.size
            pause = completer.settle(run, outcome)
            self._backlog.grow(run.size - size)
            if pause is not None:
                self._run_again(run, pause)
        self.pool.ended.clear()
        completer.hand_over()
        self._finish()

    def _run_again(self, run: JobRun, pause: float) -> None:
        """Hold the run for another attempt."""
        self._ledger.failed(run)
        if self._hold(run, pause):
            self._log.runs_again(run, pause, self.retries.most(run))
        else:
            self._log.goes_elsewhere(run)

    def _hold(self, run: JobRun, pause: float) -> bool:
        """Begin the run again later; False if its partition is gone, or about to go: it is given up
        as if it had not begun."""
        if self._stopping or not self._backlog.is_open(run.partition):
            self._discard(run)
            self._backlog.leave_lane(run)
            return False
        self._guard.left(run)
        self.retries.hold(run, pause)
        return True

    def _finish(self) -> None:
        """What is done: its offset counts, its key is free."""
        for run in self.completer.done:
            if self._runs.pop(run.place, None) is not None:
                if run.key is not None:
                    self._backlog.leave_lane(run)
                self._guard.left(run)
                self._backlog.leave(run)
                self._ledger.finish(run)
        self.completer.done.clear()
        self._to_fire -= self.completer.told
        self.completer.told = 0
        if self._to_fire <= 0:
            self.stop()

    # What others wait for.

    def _publish(self) -> None:
        now = time.monotonic()
        snapshot = self._ledger.snapshot()
        self._shared.publish(snapshot)
        self._shared.hot = self._backlog.partitions_to_pause()
        self._waiters.tell(snapshot, self._runs)
        self.completer.warn_if_deaf(now)


def _nothing() -> None:
    pass
