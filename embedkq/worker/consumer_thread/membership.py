"""Membership: tells a consumer that its group has forgotten from one that merely waits for a slow
member. Consumer's thread.

kafka-python 3.0.12 can be left for dead by a rejoin that a poll cut short: it returns records of an
assignment that is another's by now, sends no heartbeats, and has every commit refused. In a
rebalance that waits for a slow or dead member commits are refused too, for as long as the session
timeout; only the broker can say which it is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from embedkq._clients.consumer import ConsumerClient
from embedkq._safe_logging import SafeLogger
from embedkq.errors import BrokerRefused, EmbedkqError
from embedkq.worker.consumer_thread.committer import Committer

logger = SafeLogger("embedkq.worker")

_ASK_SECONDS = 2.0


class Membership:
    """Whether the broker still lists one member of one group."""

    def __init__(
        self, hosts: str, group: str, session_seconds: float, options: Mapping[str, Any]
    ) -> None:
        self._hosts = hosts
        self._group = group
        self._session_seconds = session_seconds
        self._options = options
        self._asked = time.monotonic()

    def is_lost(self, client: ConsumerClient, committer: Committer) -> bool:
        """Whether the client is no member any more and does not know; asks the broker where there
        is reason to doubt."""
        now = time.monotonic()
        if committer.refused_since is not None:
            doubtful = (
                now > committer.refused_since + self._session_seconds
                and now > self._asked + _ASK_SECONDS
            )
        else:  # without a partition nothing is committed, and so nothing is refused
            doubtful = now > max(committer.last or 0.0, self._asked) + 2 * self._session_seconds
        if not doubtful:
            return False
        self._asked = now
        from embedkq._clients import admin  # here, since a worker that is well never needs it

        member_id = client.member_id
        try:
            listed = admin.member_ids(self._hosts, self._group, self._options)
        except BrokerRefused:
            raise
        except EmbedkqError as error:  # the broker is away: that is another matter
            logger.debug("The members of %s could not be asked for: %s", self._group, error)
            return False
        return (
            member_id not in listed
        )  # one that has been told so, and does not join again, has no id any more
