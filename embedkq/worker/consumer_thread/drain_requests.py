"""Handles requests to wait until everything that the partitions hold is done. Consumer thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from embedkq._clients.consumer import ConsumerClient
from embedkq.worker.between_threads.messages import DrainTarget
from embedkq.worker.consumer_thread.assignment import Assignment
from embedkq.worker.consumer_thread.log_watch import LogWatch


class DrainRequests:
    """Looks up the partitions' end offsets and sends them to the control thread as a `DrainTarget`.

    Args:
        send: sends a message to the control thread.
    """

    def __init__(
        self, assignment: Assignment, logs: LogWatch, send: Callable[[DrainTarget], None]
    ) -> None:
        self._assignment, self._logs, self._send = assignment, logs, send
        self._requests: deque[Any] = deque()
        self._awaited: list[Any] = []
        """Milestones whose targets were sent but may not be reached yet."""

    def add(self, milestone: Any) -> None:
        """Call `milestone.set()` once all records that the partitions hold now are done. Any
        thread."""
        self._requests.append(milestone)

    def answer(self, client: ConsumerClient) -> None:
        """Send targets for added milestones, if the assignment is complete and the end offsets are
        known."""
        self._awaited = [milestone for milestone in self._awaited if not milestone.reached]
        if self._assignment.lost:
            # lost records may never get done here, so send new targets
            self._assignment.lost = False
            self._requests.extend(self._awaited)
            self._awaited = []
        if self._requests and self._assignment.joined.is_set() and not self._assignment.fresh:
            partitions = self._assignment.partitions
            targets = client.end_offsets(partitions)
            if not targets.keys() >= set(partitions) or not self._logs.see(client, targets):
                return  # a partition has no leader yet, or its log has a new life
            while self._requests:
                self._awaited.append(self._requests.popleft())
                self._send(DrainTarget(self._awaited[-1], targets))
