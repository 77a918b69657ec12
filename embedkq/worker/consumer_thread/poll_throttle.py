"""Delays polls when jobs arrive one by one, so that a poll returns several. Consumer thread."""

from __future__ import annotations

import time

from embedkq.worker.between_threads.host_cpu import HostCpu

_SECONDS, _BUSY_SECONDS = 0.005, 0.1
"""Delay after a poll that returned few records: in an idle host, and in a host that uses a whole
core. Jobs that arrive later are not delayed."""
_FEW, _BUSY_FEW = 50, 500


class PollThrottle:
    """Decides when to poll next. A poll costs the host about as much as thirty jobs, and in a busy
    host it delays a request."""

    def __init__(self, host_cpu: HostCpu) -> None:
        self._host_cpu = host_cpu
        self._few_came_at = 0.0

    def came(self, records: int, now: float) -> None:
        """Record the number of records that a poll returned at `now` (`time.monotonic()`)."""
        few = 0 < records < self._host_cpu.scale(_FEW, _BUSY_FEW)
        self._few_came_at = now if few else 0.0

    def wait(self) -> None:
        """Wait until it is time to poll."""
        rest = self._few_came_at + self._host_cpu.scale(_SECONDS, _BUSY_SECONDS) - time.monotonic()
        if rest > 0:
            time.sleep(rest)
