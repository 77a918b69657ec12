"""Endings: what becomes of a run that has ended: another attempt, or its callback, then its dead
letter, then it is done. Worker's thread.

In this order, so that a letter is written of what was told to be final, and only then. A host that
dies between the two has the record run, told and written once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from embedkq._child.runner import failure
from embedkq._formats.dead_letter import is_dead_letter
from embedkq._formats.outcome import NOT_LOADED, Outcome
from embedkq.errors import HostCrashed, OtherGroup, RecordRefused
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import Death, Finished, JobRun
from embedkq.worker.between_threads.stop_deadline import StopDeadline
from embedkq.worker.control_thread.job_log import JobLog
from embedkq.worker.control_thread.pending_callbacks import PendingCallbacks
from embedkq.worker.control_thread.retries import Retries

if TYPE_CHECKING:
    from embedkq.worker.dead_letter_thread.dead_letter_writer import DeadLetterWriter


class Completer:
    """The last steps of each run.

    Args:
        log: tells of them.
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
        self.done: list[JobRun] = []
        """Runs that are done: the caller empties it."""
        self.told = 0
        """How many were told to the owner, or would have been if there were a callback: the caller
        sets it back."""
        self._log = log
        self._retries = retries
        self._handover = None if callbacks is None else PendingCallbacks(callbacks)
        self._letters = letters
        self._due: list[Finished] = []

    @property
    def full(self) -> bool:
        """Whether so many callbacks wait that no more jobs should begin."""
        return self._handover is not None and self._handover.full

    @property
    def waiting_since(self) -> float | None:
        """`time.monotonic()` since which callbacks wait and the owner takes none; None if none
        waits. Any thread."""
        return None if self._handover is None else self._handover.since

    @property
    def letters_away_since(self) -> float | None:
        """`time.monotonic()` since which dead letters cannot be written; None if they can. Any
        thread."""
        return None if self._letters is None else self._letters.away_since

    def held_up(self, now: float) -> set[int]:
        """Partitions whose dead letters wait."""
        return set() if self._letters is None else self._letters.held_up(now)

    # Ends.

    def kept_out(self, run: JobRun, reason: Exception) -> None:
        """The record is no job, or may not run."""
        if isinstance(reason, OtherGroup):
            self._log.passed_over(run, reason)
            run.key = None
            self.done.append(run)
            return
        self._log.kept_out(run, reason)
        told = "refused" if isinstance(reason, RecordRefused) else "malformed"
        self.counts["undecodable"] += 1
        run.key = None  # it is in no key's lane
        run.death = Death(told, f"{type(reason).__name__}: {reason}", "", 0)
        self._bury(run)

    def settle(self, run: JobRun, outcome: Outcome) -> float | None:
        """The run has ended: seconds until its next attempt, or None if it does not run again.
        `hand_over` has to follow."""
        self._log.ended(run, outcome)
        reason = outcome.status
        run.unread = reason in NOT_LOADED
        if run.unread:
            outcome = outcome._replace(status="failure")
        if outcome.status != "success":
            run.attempts += 1
            pause = self._retries.pause_after(run, outcome)
            if pause is not None:
                return pause
            if run.attempts > 1 or self._retries.most(run):
                self._log.is_given_up(run)
            exception = f"{outcome.type_name}: {outcome.message}" if outcome.type_name else ""
            run.death = Death(reason, exception, outcome.traceback, run.attempts)
        self._end(run, outcome)
        return None

    def condemn(self, run: JobRun, error: HostCrashed, silently: bool) -> None:
        """It took so many hosts down that it is not run; `silently`: without callback, which may be
        what does it. Then `hand_over`."""
        self._log.is_condemned(run, error, None if self._letters is None else self._letters.topic)
        outcome = failure(error)
        run.attempts, run.unread = error.count, True
        run.death = Death("crashes", f"{outcome.type_name}: {outcome.message}", "", error.count)
        self._end(run, outcome, silently)

    def hand_over(self) -> None:
        """Give the owner what was settled since."""
        if self._due and self._handover is not None:
            self._handover.give(self._due)
            self._due = []

    def fired(self, runs: Sequence[JobRun]) -> None:
        """Their callbacks have returned."""
        self.taken(runs)
        self.told += len(runs)
        for run in runs:
            self._bury(run)

    def taken(self, runs: Sequence[JobRun]) -> None:
        """The owner has dealt with these."""
        if self._handover is not None:
            self._handover.taken(runs)

    def buried(self, runs: list[JobRun]) -> None:
        """Their letters are written."""
        if self._letters is not None:
            self._letters.written(runs)
        self.done += runs

    def warn_if_deaf(self, now: float) -> None:
        """Tell of callbacks that nobody fires, now and then."""
        if self._handover is not None:
            self._handover.warn_if_deaf(now)

    # The life of it.

    def close(self, stop: StopDeadline) -> None:
        """End the writing of dead letters, by the stop's deadline."""
        if self._letters is not None:
            self._letters.close(stop)

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the descriptors."""
        if self._letters is not None:
            self._letters.close_after_fork()

    def _end(self, run: JobRun, outcome: Outcome, silently: bool = False) -> None:
        self.counts[outcome.status] += 1
        if self._handover is None or silently:
            self.told += 1
            self._bury(run)
        else:
            run.size += len(outcome.payload)
            self._due.append(Finished(run, outcome))

    def _bury(self, run: JobRun) -> None:
        if run.death is None or self._letters is None:
            self.done.append(run)
        elif is_dead_letter(run.record.headers):
            self._log.is_dead_letter(run)
            self.done.append(run)
        else:
            self._log.buried(run, self._letters.topic)
            self._letters.write(run)
