"""Logs when a worker makes no progress. Control thread and consumer thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from embedkq._safe_logging import SafeLogger

logger = SafeLogger("embedkq.worker")

NO_PROGRESS_SECONDS = 20.0
"""A thread without a turn for this time is stuck. Turns take at most a few seconds, however long
jobs run."""
_CHECK_SECONDS = 5.0


class ProgressWatch:
    """Logs when a worker stops making progress and when it makes progress again. Each of the
    worker's threads checks the others.

    Args:
        standstill: returns why the worker makes no progress at a moment of `time.monotonic()`;
            empty if it does.
    """

    def __init__(self, standstill: Callable[[float], list[str]]) -> None:
        self._standstill = standstill
        self._checking = threading.Lock()
        self._check_at = 0.0
        self._logged: tuple[str, ...] = ()

    def look(self, now: float) -> None:
        """Check the progress, if a check is due. Control thread and consumer thread."""
        if now < self._check_at or not self._checking.acquire(blocking=False):
            return
        try:
            self._check_at = now + min(_CHECK_SECONDS, NO_PROGRESS_SECONDS / 4)
            reasons = self._standstill(now)
            kinds = tuple(reason.rpartition(" for ")[0] for reason in reasons)
            if set(kinds) - set(self._logged):
                logger.warning("The worker makes no progress: %s.", "; ".join(reasons))
            elif self._logged and not kinds:
                logger.info("The worker makes progress again.")
            self._logged = kinds
        finally:
            self._checking.release()
