"""DrainRequests: who waits for all that the partitions hold at a moment. Consumer thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from embedkq._clients.consumer import ConsumerClient
from embedkq.worker.between_threads.messages import DrainTarget
from embedkq.worker.consumer_thread.assignment import Assignment
from embedkq.worker.consumer_thread.log_watch import LogWatch


class DrainRequests:
    """Looks up where the partitions end, and sends that to the control thread as a `DrainTarget`.

    Args:
        tell: sends a message to the control thread.
    """

    def __init__(
        self, assignment: Assignment, logs: LogWatch, tell: Callable[[DrainTarget], None]
    ) -> None:
        self._assignment, self._logs, self._tell = assignment, logs, tell
        self._requests: deque[Any] = deque()
        self._awaited: list[Any] = []
        """Milestones whose targets were sent, and which may not be reached yet."""

    def add(self, milestone: Any) -> None:
        """Have `milestone.set()` called once all that the partitions hold then is done. Any
        thread."""
        self._requests.append(milestone)

    def answer(self, client: ConsumerClient) -> None:
        """Send targets for what was added, if all partitions are there and their ends are known."""
        self._awaited = [milestone for milestone in self._awaited if not milestone.reached]
        if self._assignment.lost:
            # what is waited for may never come: who waits gets new targets
            self._assignment.lost = False
            self._requests.extend(self._awaited)
            self._awaited = []
        if self._requests and self._assignment.joined.is_set() and not self._assignment.fresh:
            partitions = self._assignment.partitions
            targets = client.end_offsets(partitions)
            if not targets.keys() >= set(partitions) or not self._logs.see(client, targets):
                return  # first their leader has to be found, or they begin anew
            while self._requests:
                self._awaited.append(self._requests.popleft())
                self._tell(DrainTarget(self._awaited[-1], targets))
