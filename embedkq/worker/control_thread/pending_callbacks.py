"""PendingCallbacks: the ends of jobs on their way to the owner, bounded in number and bytes.
Control thread."""

from __future__ import annotations

import time
from collections.abc import Sequence

from embedkq._safe_logging import SafeLogger
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import Finished, JobRun

logger = SafeLogger("embedkq.worker")

MOST_WAITING = 1_000
MOST_WAITING_BYTES = 64 * 1024 * 1024
DEAF_SECONDS = 10.0
"""After so long, waiting callbacks are logged: their owner may not know that it has to look."""


class PendingCallbacks:
    """What the owner has been given and has not called the callback for."""

    def __init__(self, mailbox: Mailbox[Finished]) -> None:
        self.since: float | None = None
        """`time.monotonic()` at which callbacks began to wait, or the owner last took one; None if
        none waits. Any thread."""
        self._mailbox = mailbox
        self._count = self._bytes = 0
        self._told = 0.0

    @property
    def full(self) -> bool:
        """Whether too much waits for further jobs to begin."""
        return self._count >= MOST_WAITING or self._bytes >= MOST_WAITING_BYTES

    def give(self, finished: Sequence[Finished]) -> None:
        """Their callbacks are due.

        Raises:
            Closed: the owner has stopped.
        """
        if not self._count:
            self.since = self._told = time.monotonic()
        self._count += len(finished)
        self._bytes += sum([run.size for run, _ in finished])
        self._mailbox.put_all(finished)

    def taken(self, runs: Sequence[JobRun]) -> None:
        """Their callbacks have returned, or never will."""
        self._count -= len(runs)
        self._bytes -= sum(run.size for run in runs)
        self.since = time.monotonic() if self._count else None

    def warn_if_deaf(self, now: float) -> None:
        """Log callbacks that nobody calls, now and then, and wake the owner once more."""
        if self.since is not None and now > max(self.since, self._told) + DEAF_SECONDS:
            self._told = now
            logger.warning(
                "%d callbacks have waited for %.0f s: the worker's owner must call run_callbacks(),"
                " drain() or stop(); the worker takes no further job once %d wait.",
                self._count,
                now - self.since,
                MOST_WAITING,
            )
            self._mailbox.wake()
