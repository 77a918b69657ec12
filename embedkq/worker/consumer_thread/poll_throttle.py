"""Gathering: where jobs come one by one, lets some come together. Consumer's thread."""

from __future__ import annotations

import time

from embedkq.worker.between_threads.host_cpu import HostCpu

_SECONDS, _BUSY_SECONDS = 0.005, 0.1
"""For so long after a poll that brought few records the next one waits: in a host that is idle, and
in one that takes a whole core. A job that comes later than that is not held up."""
_FEW, _BUSY_FEW = 50, 500


class PollThrottle:
    """When to poll next: a poll costs the host about as much as thirty jobs, and in a busy host a
    request waits meanwhile."""

    def __init__(self, host_cpu: HostCpu) -> None:
        self._host_cpu = host_cpu
        self._few_came_at = 0.0

    def came(self, records: int, now: float) -> None:
        """A poll has brought so many, at `now` (`time.monotonic()`)."""
        few = 0 < records < self._host_cpu.scale(_FEW, _BUSY_FEW)
        self._few_came_at = now if few else 0.0

    def wait(self) -> None:
        """Until it is time to poll."""
        rest = self._few_came_at + self._host_cpu.scale(_SECONDS, _BUSY_SECONDS) - time.monotonic()
        if rest > 0:
            time.sleep(rest)
