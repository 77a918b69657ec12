"""Distinguishes a consumer that its group has expelled from one that waits for a slow member.
Consumer thread.

If a poll interrupts a rejoin, kafka-python 3.0.12 can end up in a dead state: it returns records of
partitions that another member owns, sends no heartbeats, and all its commits are refused. Commits
are also refused in a rebalance that waits for a slow or dead member, for up to the session timeout.
Only the broker knows which case it is.
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
    """Checks whether the broker still lists a member of a group."""

    def __init__(
        self, hosts: str, group: str, session_seconds: float, options: Mapping[str, Any]
    ) -> None:
        self._hosts = hosts
        self._group = group
        self._session_seconds = session_seconds
        self._options = options
        self._asked = time.monotonic()

    def is_lost(self, client: ConsumerClient, committer: Committer) -> bool:
        """Whether the client is no longer a member and has not noticed. Asks the broker only if
        there is reason for doubt."""
        now = time.monotonic()
        if committer.refused_since is not None:
            doubtful = (
                now > committer.refused_since + self._session_seconds
                and now > self._asked + _ASK_SECONDS
            )
        else:  # without partitions there are no commits, so none can be refused
            doubtful = now > max(committer.last or 0.0, self._asked) + 2 * self._session_seconds
        if not doubtful:
            return False
        self._asked = now
        from embedkq._clients import admin  # here, because a healthy worker never needs it

        member_id = client.member_id
        try:
            listed = admin.member_ids(self._hosts, self._group, self._options)
        except BrokerRefused:
            raise
        except EmbedkqError as error:  # the broker does not answer, which other code handles
            logger.debug("Could not get the members of group %s: %s", self._group, error)
            return False
        return member_id not in listed  # a member that was expelled and has not rejoined has no id
