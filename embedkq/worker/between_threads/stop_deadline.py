"""StopDeadline: by when a worker that was asked to stop kills what runs, and by when it is over.
Any thread; takes no lock.

Each step of a stop asks how many seconds are left, and takes no longer. So the steps together end
in time, however many there are and whatever they wait for.
"""

from __future__ import annotations

import math
import time

LEAVE_SECONDS = 0.6
"""What the end of the children, the last commit and leaving the group get together, once what runs
has had its time."""
LATE_SECONDS = 0.1
"""What the threads get beyond that before they are left behind. `stop(t)` promises to return after
t + 1 s; the rest is for a machine that is busy."""


class StopDeadline:
    """One for each start of a worker.

    Attributes:
        kill_at: `time.monotonic()` from which on no job may run; infinity before somebody sets a
            limit.
        over_at: `time.monotonic()` until which all has to be over.
        killing: whether what runs, or waits for its callback, is given up now.
        passed: whether the worker was left behind: what its threads still learn is of no weight.
    """

    def __init__(self) -> None:
        self.kill_at = self.over_at = math.inf
        self.killing = self.passed = False

    def set(self, seconds: float | None) -> None:
        """What runs gets so many seconds from now, None for no limit. The last call counts."""
        if not self.killing:
            self.kill_at = math.inf if seconds is None else time.monotonic() + seconds
            self.over_at = self.kill_at + LEAVE_SECONDS

    def kill_now(self) -> None:
        """What runs is killed now. Only the first call counts; also after a limit was missed
        because a callback took long."""
        if not self.killing:
            now = time.monotonic()
            self.kill_at, self.over_at, self.killing = (
                min(self.kill_at, now),
                now + LEAVE_SECONDS,
                True,
            )

    def begin_leaving(self) -> None:
        """All that ran has ended: what follows gets its time, also if it begins late."""
        if not self.killing and self.over_at < math.inf:
            self.over_at = max(self.over_at, time.monotonic() + LEAVE_SECONDS)

    @property
    def hurries(self) -> bool:
        """Whether what runs has had its time."""
        return time.monotonic() >= self.kill_at

    def until_kill(self, least: float, most: float) -> float:
        """Seconds until what runs has had its time, within these bounds."""
        return min(most, max(least, self.kill_at - time.monotonic()))

    def left(self, most: float) -> float:
        """Seconds that a step may take, at most so many."""
        return max(0.0, min(most, self.over_at - time.monotonic()))

    @property
    def patience(self) -> float | None:
        """Seconds after which who waits for the end leaves the worker behind; None as long as
        nothing is killed."""
        return max(0.0, self.over_at + LATE_SECONDS - time.monotonic()) if self.killing else None
