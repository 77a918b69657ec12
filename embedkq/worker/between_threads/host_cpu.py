"""How busy the application around a worker is, so that the worker's threads know how much they may
get in its way."""

from __future__ import annotations

import threading
import time

_LOOK_SECONDS = 0.5
_HARDLY = 0.25
"""Of a core: callbacks that come one after another take as much, and should not come the later for
it."""


class HostCpu:
    """The processor time of this process, without that of the threads that have asked to be left
    out.

    Each of a worker's threads needs the GIL for its turn, which a thread of the application then
    waits for. Where nobody else wants it, this is of no account.
    """

    def __init__(self) -> None:
        self.share = 0.0
        """Of one core, from 0 to 1, over the last half second or so. Any thread."""
        self._clocks: dict[int, int] = {}
        self._looked = time.monotonic()
        self._taken = 0.0

    def scale(self, idle: float, busy: float) -> float:
        """`idle` where hardly anybody else wants the GIL, up to `busy` where the application takes
        a whole core. Any thread."""
        return idle + (busy - idle) * max(0.0, self.share - _HARDLY) / (1.0 - _HARDLY)

    def leave_out_this_thread(self) -> None:
        """The calling thread is the worker's own. Where the system has no clock for a thread
        (macOS), nothing is ever busy."""
        if hasattr(time, "pthread_getcpuclockid"):
            thread = threading.get_ident()
            self._clocks[thread] = time.pthread_getcpuclockid(thread)

    def sample(self, now: float) -> None:
        """Measure again, if it is time to. Consumer thread."""
        if now < self._looked + _LOOK_SECONDS:
            return
        taken = self._taken_by_others()
        if self._taken and taken:
            self.share = min(1.0, max(0.0, (taken - self._taken) / (now - self._looked)))
        self._looked, self._taken = now, taken

    def _taken_by_others(self) -> float:
        """Seconds so far; 0 if they cannot be measured now."""
        ours = 0.0
        for thread, clock in list(self._clocks.items()):
            try:
                ours += time.clock_gettime(clock)
            except OSError:  # it has ended, and takes what it took with it
                del self._clocks[thread]
                return 0.0
        return time.process_time() - ours if self._clocks else 0.0
