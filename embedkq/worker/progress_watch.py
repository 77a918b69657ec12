"""Reports in the log that a worker makes no progress. Worker's and consumer's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from embedkq._safe_logging import SafeLogger

logger = SafeLogger("embedkq.worker")

NO_PROGRESS_SECONDS = 20.0
"""A thread that makes no turn for so long is stuck: its turns take seconds at most, however long a
job runs."""
_LOOK_SECONDS = 5.0


class ProgressWatch:
    """Logs when a worker stops making progress and when it makes progress again. Each of the
    worker's threads looks after the others.

    Args:
        standstill: returns why the worker makes no progress at a moment of `time.monotonic()`;
            empty if it does.
    """

    def __init__(self, standstill: Callable[[float], list[str]]) -> None:
        self._standstill = standstill
        self._looking = threading.Lock()
        self._look_at = 0.0
        self._told: tuple[str, ...] = ()

    def look(self, now: float) -> None:
        """Look, if it is time to. Worker's and consumer's thread."""
        if now < self._look_at or not self._looking.acquire(blocking=False):
            return
        try:
            self._look_at = now + min(_LOOK_SECONDS, NO_PROGRESS_SECONDS / 4)
            reasons = self._standstill(now)
            kinds = tuple(reason.rpartition(" for ")[0] for reason in reasons)
            if set(kinds) - set(self._told):
                logger.warning("The worker makes no progress: %s.", "; ".join(reasons))
            elif self._told and not kinds:
                logger.info("The worker makes progress again.")
            self._told = kinds
        finally:
            self._looking.release()
