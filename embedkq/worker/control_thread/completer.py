"""Completer: the steps of a job after its run: another attempt, or its callback, then its dead
letter, then it is done. Control thread.

In this order, so that a dead letter is written only of a job whose callback has returned. If the
host dies between two of these steps, the record runs once more, and the steps repeat.

Each method returns what follows from it; `ControlLoop` does that and moves the job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from embedkq._child.job_call import failure
from embedkq._formats.dead_letter import is_dead_letter
from embedkq._formats.outcome import NOT_LOADED, Outcome
from embedkq._partition import Partition
from embedkq.errors import HostCrashed, OtherGroup, RecordRefused
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import Death, Finished, JobRun
from embedkq.worker.between_threads.stop_deadline import StopDeadline
from embedkq.worker.control_thread.job_log import JobLog
from embedkq.worker.control_thread.pending_callbacks import PendingCallbacks
from embedkq.worker.control_thread.retries import Retries

if TYPE_CHECKING:
    from embedkq.worker.dead_letter_thread.dead_letter_writer import DeadLetterWriter


class Retry(NamedTuple):
    """Another attempt follows after this many seconds."""

    pause: float


class Completer:
    """The last steps of each run.

    Args:
        log: logs them.
        retries: which of them are not the last.
        callbacks: where the owner looks for what to call the callback for; None if there is no
            callback.
        letters: where the dead go; None for nowhere: they are logged.
    """

    def __init__(
        self,
        log: JobLog,
        retries: Retries,
        callbacks: Mailbox[Finished] | None,
        letters: DeadLetterWriter | None,
    ) -> None:
        self.counts = {"success": 0, "failure": 0, "timeout": 0, "undecodable": 0}
        self._log = log
        self._retries = retries
        self._callbacks = None if callbacks is None else PendingCallbacks(callbacks)
        self._letters = letters

    @property
    def has_callback(self) -> bool:
        """Whether there is a callback to call."""
        return self._callbacks is not None

    @property
    def full(self) -> bool:
        """Whether too many callbacks wait for further jobs to begin."""
        return self._callbacks is not None and self._callbacks.full

    @property
    def waiting_since(self) -> float | None:
        """`time.monotonic()` since which callbacks wait and the owner takes none; None if none
        waits. Any thread."""
        return None if self._callbacks is None else self._callbacks.since

    @property
    def letters_away_since(self) -> float | None:
        """`time.monotonic()` since which dead letters cannot be written; None if they can. Any
        thread."""
        return None if self._letters is None else self._letters.away_since

    def held_up(self, now: float) -> set[Partition]:
        """Partitions whose dead letters wait."""
        return set() if self._letters is None else self._letters.held_up(now)

    # The steps, in the order in which a job takes them.

    def keep_out(self, run: JobRun, reason: Exception) -> None:
        """The record is not a job, or may not run. It has no callback: `write_letter` follows."""
        run.key = None  # it is in no key's lane
        if isinstance(reason, OtherGroup):
            self._log.passed_over(run, reason)
            return
        self._log.kept_out(run, reason)
        kind = "refused" if isinstance(reason, RecordRefused) else "malformed"
        self.counts["undecodable"] += 1
        run.death = Death(kind, f"{type(reason).__name__}: {reason}", "", 0)

    def settle(self, run: JobRun, outcome: Outcome) -> Retry | Finished:
        """The run has ended. Returns its next attempt, or its end: `call_back` follows if there is
        a callback, else `write_letter`."""
        self._log.ended(run, outcome)
        reason = outcome.status
        run.unread = reason in NOT_LOADED
        if run.unread:
            outcome = outcome._replace(status="failure")
        if outcome.status != "success":
            run.attempts += 1
            is_hopeless = reason == "malformed"  # no host can load it, now or later
            pause = None if is_hopeless else self._retries.pause_after(run, outcome)
            if pause is not None:
                return Retry(pause)
            if run.attempts > 1 or (self._retries.most(run) and not is_hopeless):
                self._log.is_given_up(run)
            exception = f"{outcome.type_name}: {outcome.message}" if outcome.type_name else ""
            run.death = Death(reason, exception, outcome.traceback, run.attempts)
        return self._end(run, outcome)

    def quarantine(self, run: JobRun, error: HostCrashed) -> Finished:
        """The run crashed too many hosts to begin again: its end, as in `settle`."""
        self._log.is_quarantined(run, error, None if self._letters is None else self._letters.topic)
        outcome = failure(error)
        run.attempts, run.unread = error.count, True
        run.death = Death("crashes", f"{outcome.type_name}: {outcome.message}", "", error.count)
        return self._end(run, outcome)

    def call_back(self, ends: Sequence[Finished]) -> None:
        """Give these to the owner, whose `CallbacksDone` follows."""
        if self._callbacks is not None:
            self._callbacks.give(ends)

    def callbacks_done(self, runs: Sequence[JobRun]) -> None:
        """Their callbacks have returned: `write_letter` follows."""
        if self._callbacks is not None:
            self._callbacks.taken(runs)

    def write_letter(self, run: JobRun) -> bool:
        """Have the run's record written to the dead-letter topic if it goes there. Returns whether
        it does: then `DeadLettersWritten` follows, else the run is done."""
        if run.death is None or self._letters is None:
            return False
        if is_dead_letter(run.record.headers):
            self._log.is_dead_letter(run)
            return False
        self._log.goes_to_dead_letters(run, self._letters.topic)
        self._letters.write(run)
        return True

    def letters_written(self, runs: list[JobRun]) -> None:
        """Their dead letters are written: they are done."""
        if self._letters is not None:
            self._letters.written(runs)

    def warn_if_deaf(self, now: float) -> None:
        """Warn now and then that callbacks wait and the owner runs none."""
        if self._callbacks is not None:
            self._callbacks.warn_if_deaf(now)

    # The life of it.

    def close(self, stop: StopDeadline) -> None:
        """End the writing of dead letters, by the stop's deadline."""
        if self._letters is not None:
            self._letters.close(stop)

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the descriptors."""
        if self._letters is not None:
            self._letters.close_after_fork()

    def _end(self, run: JobRun, outcome: Outcome) -> Finished:
        self.counts[outcome.status] += 1
        return Finished(run, outcome)
