"""Prefetch: how many tasks a child gets ahead, from how fast it has been. Control thread."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from typing import Any

from embedkq.worker.between_threads.host_cpu import HostCpu
from embedkq.worker.pool.child_handle import Child

MOST_TASKS = 128
"""That a child has, and ..."""
MOST_BYTES = 2 * 1024 * 1024
"""... the bytes of payload from which it gets no more."""
AHEAD_SECONDS, BUSY_AHEAD_SECONDS = 0.03, 0.06
"""A child is given tasks for so long, as tasks take now: for longer in a host that takes a whole
core. It gets more when half of them are done, so that they travel together and it does not wait for
them. What it has is lost to the others if they are idle meanwhile."""
_ENOUGH_TASKS = 16
"""More ends of a child than these at once save an idle host nothing: it would only wait while its
children run dry."""
_SHORTEST_SLEEP_SECONDS = 0.0008
_LONGEST_SLEEP_SECONDS, _BUSY_SLEEP_SECONDS = 0.01, 0.02
_WEIGHT = 0.05
_QUICKEST_SECONDS = 1e-6


class Prefetch:
    """What a task takes on the average, over the last twenty or so."""

    def __init__(self, host_cpu: HostCpu) -> None:
        self.average = 1.0
        """Seconds of one task."""
        self._host_cpu = host_cpu

    def note(self, tasks: int, seconds: float) -> None:
        """A child finished this many tasks, one after another, in this time."""
        self.average += min(1.0, _WEIGHT * tasks) * (
            max(seconds / tasks, _QUICKEST_SECONDS) - self.average
        )

    @property
    def depth(self) -> int:
        """How many tasks a child may have."""
        return min(
            MOST_TASKS,
            int(self._host_cpu.scale(AHEAD_SECONDS, BUSY_AHEAD_SECONDS) / self.average) or 1,
        )

    def coalesce_delay(self, children: Collection[Child[Any]], more_waits: bool) -> float:
        """Seconds for which nobody need look at the children, so that several ends can be dealt
        with at once.

        Args:
            more_waits: there is more for them to do, so none may come near its last task.
        """
        ahead = [len(child.tasks) for child in children if not child.stalled]
        tasks = max(ahead) if sum(ahead) > 1 else 0.0
        if more_waits:
            tasks = (min(ahead, default=0) - 1) / 2
        seconds = min(tasks, self._host_cpu.scale(_ENOUGH_TASKS, MOST_TASKS)) * self.average
        if seconds <= _SHORTEST_SLEEP_SECONDS:
            return 0.0
        limit_at = min((child.check_at for child in children if child.stalled), default=math.inf)
        return max(
            0.0,
            min(
                seconds,
                self._host_cpu.scale(_LONGEST_SLEEP_SECONDS, _BUSY_SLEEP_SECONDS),
                limit_at - time.monotonic(),
            ),
        )
