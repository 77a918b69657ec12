"""Checks that the worker's topic exists. Consumer thread; any thread may read `reason`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from embedkq._clients.broker_errors import Asked, hidden
from embedkq._clients.consumer import ConsumerClient
from embedkq._safe_logging import SafeLogger
from embedkq.errors import WorkerFailed

logger = SafeLogger("embedkq.worker")

_UNKNOWN_SECONDS = 15.0
_ASK_SECONDS, _ASK_AGAIN_SECONDS = 1.0, 5.0
_PAUSE_SECONDS = 0.01


class TopicWatch:
    """Waits up to 15 s for a missing topic, whether it was not created yet or deleted.

    Args:
        asked: describes reading the topic.
        options: options of kafka-python's KafkaConsumer.
    """

    def __init__(self, asked: Asked, options: Mapping[str, Any]) -> None:
        self.reason = ""
        """Why nothing can be read; empty while the topic exists."""
        self.asked = asked
        self._options = options
        self._was_there = False
        self._missing_since: float | None = None
        self._looked_at = 0.0

    def is_there(self, client: ConsumerClient) -> bool:
        """Whether the topic exists. If not, waits for a moment.

        Raises:
            WorkerFailed: the topic has been missing for 15 s.
            BrokerRefused: the user may not see the topic.
        """
        if client.topic_is_known():
            self._found()
            return True
        now = time.monotonic()
        self._missing_since = self._missing_since or now
        missing_for = now - self._missing_since
        if missing_for > _UNKNOWN_SECONDS:
            raise WorkerFailed(
                f"topic {self.asked.topic!r} does not exist at {self.asked.hosts} (any more), and"
                " the broker does not create topics: create the topic, then start the worker again"
            )
        self._refuse_hidden(now)
        if (
            self._looked_at > self._missing_since
        ):  # before that, the topic may not be known yet, or may be hidden from this user
            self._warn_missing()
        time.sleep(_PAUSE_SECONDS)
        return False

    def _found(self) -> None:
        if self.reason:
            logger.info("Topic %s exists.", self.asked.topic)
        self._was_there, self._missing_since, self.reason = True, None, ""

    def _warn_missing(self) -> None:
        if not self.reason:
            gone = " any more" if self._was_there else ""
            self.reason = (
                f"topic {self.asked.topic!r} does not exist at {self.asked.hosts}{gone}: create"
                f" the topic. Without it, the worker fails after {_UNKNOWN_SECONDS:g} s"
            )
            logger.warning("Cannot fetch jobs: %s.", self.reason)

    def _refuse_hidden(self, now: float) -> None:
        """Raise if the topic is hidden from this user. A hidden topic looks like a missing one, and
        kafka-python 3.0.12 does not report the difference."""
        since = self._missing_since or now
        if now > (
            self._looked_at + _ASK_AGAIN_SECONDS
            if self._looked_at > since
            else since + _ASK_SECONDS
        ):
            self._looked_at = now
            from embedkq._clients import admin  # here, because a healthy worker never needs it

            if admin.is_hidden(self.asked.hosts, str(self.asked.topic), self._options):
                raise hidden(self.asked)
