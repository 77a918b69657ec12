"""BrokerWatch: whether Kafka answers, and how long to wait if not. The consumer thread."""

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
    """Logs once that Kafka is away and once that it is back; lengthens the pause between tries."""

    def __init__(self, hosts: str, options: Mapping[str, Any]) -> None:
        self.away_since: float | None = None
        """`time.monotonic()` since which Kafka does not answer; None if it does. Any thread."""
        self._hosts, self._options = hosts, options
        self._pause = _SHORTEST_PAUSE_SECONDS
        self._asked_why = 0.0

    def is_away(self, error: BaseException) -> None:
        """Kafka did not answer."""
        if self.away_since is None:
            self.away_since = time.monotonic()
            is_ours = isinstance(error, OSError) and is_shortage(error)
            logger.warning(
                "Kafka at %s does not answer (%s). It is tried again until it does; jobs that run"
                " go on, and what is done and not committed by then is committed then.",
                self._hosts,
                cure_for(error) if is_ours and isinstance(error, OSError) else repr(error),
            )

    def is_back(self) -> None:
        """Kafka has answered."""
        if self.away_since is not None:
            self.away_since = None
            logger.info("Kafka at %s answers again.", self._hosts)

    def pause(self, stopping: threading.Event) -> None:
        """Wait before the next try, twice as long as before the last one; not beyond a stop."""
        stopping.wait(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    def turned(self) -> None:
        """A whole turn has worked: the next pause is a short one."""
        self._pause = _SHORTEST_PAUSE_SECONDS

    def raise_if_refused(self) -> None:
        """Look whether Kafka refuses this client now, every few seconds.

        A certificate or password that was good when the worker started may have expired, and
        kafka-python would try it again for ever.

        Raises:
            BrokerRefused: it does.
        """
        if time.monotonic() > self._asked_why + _ASK_WHY_SECONDS:
            reason = refused_for_good(self._hosts, self._options)
            self._asked_why = time.monotonic()
            if reason:
                raise BrokerRefused(reason)
