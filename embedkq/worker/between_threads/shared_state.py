"""Everything that the control thread and the consumer thread share."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping

from embedkq._partition import Partition
from embedkq.worker.between_threads.backlog import Backlog
from embedkq.worker.between_threads.host_cpu import HostCpu
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import Message
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.between_threads.stop_deadline import StopDeadline


class SharedState:
    """The state shared by the two threads.

    Attributes:
        inbox: messages for the control thread, from any thread.
        backlog: the records between the two threads.
        snapshot: what may be committed, by partition. The control thread replaces it as a whole;
            any thread reads it.
        confirmed: `time.monotonic()` when a commit last proved that the partitions are still
            assigned. Written by the consumer thread.
        committed: the last commits, by partition. The consumer thread replaces it; any thread reads
            it.
        serial_mode: whether jobs wait for a commit before they start. `asked` requests that commit.
            The control thread writes it; the consumer thread reads it.
        begun: partitions whose first jobs no longer wait for a commit. Written and read likewise.
        session_seconds: how long the partitions stay assigned without a heartbeat. Written by the
            consumer thread before it starts.
        host_cpu: how busy the application is. Both threads adapt their load to it.
        hot: partitions that should not be polled for a while. The control thread replaces it; the
            consumer thread reads it.
        deadline: the deadlines of a stop. Any thread.
    """

    def __init__(self) -> None:
        self.inbox: Mailbox[Message] = Mailbox()
        self.backlog = Backlog()
        self.snapshot: Mapping[Partition, Progress] = {}
        self.confirmed = 0.0
        self.committed: Mapping[Partition, Progress] = {}
        self.serial_mode = False
        self.begun: set[Partition] = set()
        self.asked = threading.Event()
        self.session_seconds = math.inf
        self.host_cpu = HostCpu()
        self.hot: frozenset[Partition] = frozenset()
        self.deadline = StopDeadline()

    def confirm(self, committed: Mapping[Partition, Progress]) -> None:
        """Record a successful commit. Consumer thread."""
        self.confirmed, self.committed = time.monotonic(), committed
        if self.serial_mode:
            self.inbox.wake()

    def hurry(self) -> None:
        """End serial mode: no job waits for a commit. Control thread."""
        self.serial_mode = False
        self.asked.set()

    def publish(self, snapshot: Mapping[Partition, Progress]) -> None:
        """Publish what may be committed. Control thread."""
        if self.serial_mode and snapshot is not self.snapshot:
            self.snapshot = snapshot
            self.asked.set()
        self.snapshot = snapshot
