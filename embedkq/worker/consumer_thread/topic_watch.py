"""TopicWatch: whether the worker's topic is there. Consumer's thread; `reason` is for any."""

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
    """Waits for a topic that is not there, be it not created yet or deleted, for 15 s.

    Args:
        asked: reading the topic.
        options: of kafka-python's KafkaConsumer.
    """

    def __init__(self, asked: Asked, options: Mapping[str, Any]) -> None:
        self.reason = ""
        """Why nothing can be read; empty while the topic is there."""
        self.asked = asked
        self._options = options
        self._was_there = False
        self._missing_since: float | None = None
        self._looked_at = 0.0

    def is_there(self, client: ConsumerClient) -> bool:
        """Whether the topic is there; if not, waits for a moment.

        Raises:
            WorkerFailed: it has not been there for 15 s.
            BrokerRefused: this user may not see it.
        """
        if client.topic_is_known():
            self._found()
            return True
        now = time.monotonic()
        self._missing_since = self._missing_since or now
        missing_for = now - self._missing_since
        if missing_for > _UNKNOWN_SECONDS:
            raise WorkerFailed(
                f"topic {self.asked.topic!r} does not exist at {self.asked.hosts} (any more) and"
                " the broker does not create it: create it, then start the worker again"
            )
        self._refuse_hidden(now)
        if (
            self._looked_at > self._missing_since
        ):  # before that it may only not be known yet, or not be shown to this user
            self._tell_missing()
        time.sleep(_PAUSE_SECONDS)
        return False

    def _found(self) -> None:
        if self.reason:
            logger.info("Topic %s is there.", self.asked.topic)
        self._was_there, self._missing_since, self.reason = True, None, ""

    def _tell_missing(self) -> None:
        if not self.reason:
            gone = " any more" if self._was_there else ""
            self.reason = (
                f"topic {self.asked.topic!r} does not exist at {self.asked.hosts}{gone}: create it;"
                f" without it the worker ends after {_UNKNOWN_SECONDS:g} s"
            )
            logger.warning("Nothing can be taken: %s.", self.reason)

    def _refuse_hidden(self, now: float) -> None:
        """A topic that a user may not see looks like one that is not there; kafka-python 3.0.12
        says nothing of it."""
        since = self._missing_since or now
        if now > (
            self._looked_at + _ASK_AGAIN_SECONDS
            if self._looked_at > since
            else since + _ASK_SECONDS
        ):
            self._looked_at = now
            from embedkq._clients import admin  # here, since a worker that is well never needs it

            if admin.is_hidden(self.asked.hosts, str(self.asked.topic), self._options):
                raise hidden(self.asked)
