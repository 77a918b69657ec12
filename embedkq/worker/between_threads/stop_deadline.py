"""The deadlines of a stopping worker: when running jobs are killed, and when the worker must have
ended. Any thread; takes no lock.

Each step of a stop asks how many seconds are left and takes no longer. So all steps together end in
time.
"""

from __future__ import annotations

import math
import time

LEAVE_SECONDS = 0.6
"""Time for the children's end, the final commit and leaving the group together, after the limit for
running jobs."""
LATE_SECONDS = 0.1
"""Extra time for the threads before they are abandoned. `stop(t)` promises to return after t + 1 s;
the remaining 0.3 s are for a busy machine."""


class StopDeadline:
    """The deadlines of one start of a worker.

    Attributes:
        kill_at: `time.monotonic()` when running jobs are killed; infinity if there is no limit.
        over_at: `time.monotonic()` when the worker must have ended.
        killing: whether jobs that are running or waiting for their callbacks are being abandoned.
        passed: whether the worker was abandoned. Whatever its threads still do is ignored.
    """

    def __init__(self) -> None:
        self.kill_at = self.over_at = math.inf
        self.killing = self.passed = False

    def set(self, seconds: float | None) -> None:
        """Give running jobs this many seconds from now; None for no limit. The last call counts."""
        if not self.killing:
            self.kill_at = math.inf if seconds is None else time.monotonic() + seconds
            self.over_at = self.kill_at + LEAVE_SECONDS

    def kill_now(self) -> None:
        """Kill running jobs now. Only the first call counts. Also works if a slow callback made the
        worker miss its limit."""
        if not self.killing:
            now = time.monotonic()
            self.kill_at, self.over_at, self.killing = (
                min(self.kill_at, now),
                now + LEAVE_SECONDS,
                True,
            )

    def begin_leaving(self) -> None:
        """All jobs have ended. Give the remaining steps their full time, even if they begin
        late."""
        if not self.killing and self.over_at < math.inf:
            self.over_at = max(self.over_at, time.monotonic() + LEAVE_SECONDS)

    @property
    def hurries(self) -> bool:
        """Whether the time for running jobs is over."""
        return time.monotonic() >= self.kill_at

    def until_kill(self, least: float, most: float) -> float:
        """Seconds until running jobs are killed, within these bounds."""
        return min(most, max(least, self.kill_at - time.monotonic()))

    def left(self, most: float) -> float:
        """Seconds that a step may take, at most `most`."""
        return max(0.0, min(most, self.over_at - time.monotonic()))

    @property
    def patience(self) -> float | None:
        """Seconds until a waiting caller abandons the worker; None while no jobs are being
        killed."""
        return max(0.0, self.over_at + LATE_SECONDS - time.monotonic()) if self.killing else None
