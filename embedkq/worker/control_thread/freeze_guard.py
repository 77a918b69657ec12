"""FreezeGuard: after this process was frozen, no job begins before Kafka has confirmed that the
partitions are still ours. Control thread.

Meanwhile the group may have given them to another host, which runs their jobs by now.
"""

from __future__ import annotations

import math

from embedkq.worker.between_threads.shared_state import SharedState


class FreezeGuard:
    """Notices a freeze (SIGSTOP, a suspended machine, a debugger) by the clock, and stays closed
    until the next commit."""

    def __init__(self, shared: SharedState, longest_turn: float) -> None:
        """`longest_turn`: seconds that may well pass between two calls of `tick`."""
        self._shared = shared
        self._longest_turn = longest_turn
        self._passed_at = math.inf
        self._closed_at = 0.0

    def tick(self, now: float) -> None:
        """Once a turn."""
        if now > self._passed_at + self._longest_turn + self._shared.session_seconds / 2:
            self._closed_at = now
        self._passed_at = now

    @property
    def open(self) -> bool:
        """Whether a job may begin."""
        return self._shared.confirmed >= self._closed_at
