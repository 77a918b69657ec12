"""Tracks whether Kafka answers, and how long to pause if it does not. Consumer thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from embedkq._clients.probe import refused_for_good
from embedkq._safe_logging import SafeLogger
from embedkq.errors import BrokerRefused
from embedkq.worker.between_threads.shortage import cure_for, is_shortage

logger = SafeLogger("embedkq.worker")

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0
_ASK_WHY_SECONDS = 3.0


class BrokerWatch:
    """Logs once when Kafka stops answering and once when it answers again. Doubles the pause
    between attempts."""

    def __init__(self, hosts: str, options: Mapping[str, Any]) -> None:
        self.away_since: float | None = None
        """`time.monotonic()` since when Kafka has not answered; None if it answers. Any thread."""
        self._hosts, self._options = hosts, options
        self._pause = _SHORTEST_PAUSE_SECONDS
        self._asked_why = 0.0

    def is_away(self, error: BaseException) -> None:
        """Record that Kafka did not answer."""
        if self.away_since is None:
            self.away_since = time.monotonic()
            is_ours = isinstance(error, OSError) and is_shortage(error)
            logger.warning(
                "Kafka at %s does not answer (%s). Retrying. Running jobs continue; offsets of"
                " jobs done meanwhile are committed once it answers.",
                self._hosts,
                cure_for(error) if is_ours and isinstance(error, OSError) else repr(error),
            )

    def is_back(self) -> None:
        """Record that Kafka answered."""
        if self.away_since is not None:
            self.away_since = None
            logger.info("Kafka at %s answers again.", self._hosts)

    def pause(self, stopping: threading.Event) -> None:
        """Pause before the next attempt, twice as long as before the last one. A stop ends the
        pause."""
        stopping.wait(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    def turned(self) -> None:
        """Reset the pause after a successful turn."""
        self._pause = _SHORTEST_PAUSE_SECONDS

    def raise_if_refused(self) -> None:
        """Check every few seconds whether Kafka refuses this client.

        A certificate or password may have expired since the worker started. kafka-python would
        retry it forever.

        Raises:
            BrokerRefused: Kafka refuses the client.
        """
        if time.monotonic() > self._asked_why + _ASK_WHY_SECONDS:
            reason = refused_for_good(self._hosts, self._options)
            self._asked_why = time.monotonic()
            if reason:
                raise BrokerRefused(reason)
