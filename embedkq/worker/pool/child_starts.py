"""Children that start: what is known of one before it registers, and what a failed start means."""

from __future__ import annotations

import math
import os
import time
from typing import NamedTuple

from embedkq._safe_logging import SafeLogger
from embedkq.errors import ChildStartFailed
from embedkq.worker.between_threads.shortage import cure_for
from embedkq.worker.pool.job_output import Output

logger = SafeLogger("embedkq.worker")

START_SECONDS = 60.0
"""Limit of a child's start, user's initializer included, and of how long starts may fail before the
worker gives up."""
_FIRST_STARTS = 3
_TELL_AGAIN_SECONDS = 60.0


class StartingChild(NamedTuple):
    """A child that has not registered yet; `pidfd` is None where the kernel has none."""

    pidfd: int | None
    output: Output
    deadline: float

    def close(self) -> None:
        """Close its descriptors."""
        self.output.close()
        if self.pidfd is not None:
            os.close(self.pidfd)


class StartFailures:
    """The failed starts since a child was last ready: logged, and fatal when they are too many.

    Before the first success three of them end the worker, since then nothing suggests that the next
    start would work; later ones do after `START_SECONDS`.
    """

    def __init__(self) -> None:
        self._failures: list[tuple[float, str]] = []
        self._has_worked = False
        self._shortage_logged_at = -math.inf

    def is_over(self) -> None:
        """A child is ready: the count of failures restarts."""
        self._failures.clear()
        self._has_worked = True

    def add(self, reason: str) -> None:
        """A start has failed.

        Raises:
            ChildStartFailed: it was one too many.
        """
        now = time.monotonic()
        self._failures.append((now, reason))
        logger.warning("A child process cannot start: %s", reason.strip().rsplit("\n", 1)[-1])
        first, _ = self._failures[0]
        late = now > first + START_SECONDS
        if late if self._has_worked else len(self._failures) >= _FIRST_STARTS:
            raise self.giving_up(reason)

    def giving_up(self, reason: str) -> ChildStartFailed:
        """The error that ends the worker; it names the first failure, or else this reason."""
        first = self._failures[0][1] if self._failures else reason
        return ChildStartFailed(f"child processes cannot start; the first failure:\n{first}")

    def tell_shortage(self, error: OSError) -> None:
        """Log, at most once a minute, that starts wait until the system has what they need."""
        now = time.monotonic()
        if now > self._shortage_logged_at + _TELL_AGAIN_SECONDS:
            self._shortage_logged_at = now
            logger.warning(
                "Child processes wait to be started: %s. Jobs that run are not affected.",
                cure_for(error),
            )


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that came with a message and belong to nobody."""
    for descriptor in descriptors:
        os.close(descriptor)
