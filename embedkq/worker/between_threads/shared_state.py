"""What the worker's thread and the consumer's thread share, and nothing else."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping

from embedkq.worker.between_threads.backlog import Backlog
from embedkq.worker.between_threads.host_cpu import HostCpu
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import Message
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.between_threads.stop_deadline import StopDeadline


class SharedState:
    """The meeting place of the two threads.

    Attributes:
        inbox: messages for the worker's thread, from any thread.
        backlog: the records between the two.
        snapshot: what may be committed, by partition. The worker's thread replaces it as a whole,
            any thread reads it.
        confirmed: `time.monotonic()` at which a commit last proved that the partitions are still
            ours. Consumer's thread.
        committed: what was committed last, by partition. Replaced by the consumer's thread, any
            thread reads it.
        careful: jobs wait for a commit before they begin, which is asked for by `asked`. Worker's
            thread; the consumer's reads it.
        begun: partitions whose first jobs need not wait for a commit any more. Likewise.
        session_seconds: for how long they are ours without a word. Consumer's thread, before it
            starts.
        host_cpu: how busy the application is, by which both tell how much they may get in its way.
        hot: partitions that should not be polled for a while. Replaced and read likewise.
        deadline: by when a stop is over. Any thread.
    """

    def __init__(self) -> None:
        self.inbox: Mailbox[Message] = Mailbox()
        self.backlog = Backlog()
        self.snapshot: Mapping[int, Progress] = {}
        self.confirmed = 0.0
        self.committed: Mapping[int, Progress] = {}
        self.serial_mode = False
        self.begun: set[int] = set()
        self.asked = threading.Event()
        self.session_seconds = math.inf
        self.host_cpu = HostCpu()
        self.hot: frozenset[int] = frozenset()
        self.deadline = StopDeadline()

    def confirm(self, committed: Mapping[int, Progress]) -> None:
        """This was committed just now. Consumer's thread."""
        self.confirmed, self.committed = time.monotonic(), committed
        if self.serial_mode:
            self.inbox.wake()

    def hurry(self) -> None:
        """No job waits for a commit any more. Worker's thread."""
        self.serial_mode = False
        self.asked.set()

    def publish(self, snapshot: Mapping[int, Progress]) -> None:
        """This may be committed. Worker's thread."""
        if self.serial_mode and snapshot is not self.snapshot:
            self.snapshot = snapshot
            self.asked.set()
        self.snapshot = snapshot
