"""A worker that a thread of its own owns, for the extensions for web frameworks."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from embedkq._child import process
from embedkq._safe_logging import SafeLogger
from embedkq.errors import EmbedkqError, WorkerError
from embedkq.worker.environment import check_environment

if TYPE_CHECKING:
    from embedkq.worker.worker import Worker


class OwnedWorker:
    """A worker, and the thread that owns it in a process that serves requests.

    Attributes:
        worker: not started yet.
    """

    def __init__(self, worker: Worker, of: str, logger: SafeLogger) -> None:
        self.worker = worker
        self._of = of
        self._logger = logger
        self._started_in: int | None = None
        self._starting = threading.Lock()

    def check(self) -> None:
        """Refuse a process in which no worker can run. A child process of a worker starts none.

        Raises:
            WorkerError: gevent has patched it, for example.
        """
        if process.in_child():
            return
        try:
            check_environment()
        except WorkerError as error:
            raise WorkerError(
                f"{error}. An app that only enqueues sets EMBEDKQ_WORKER to False"
            ) from None

    def start_once(self) -> None:
        """Start the worker, unless it runs in this process already or this is a child process of a
        worker. Any thread.

        Raises:
            WorkerError: as `check`.
        """
        if self._started_in == os.getpid() or process.in_child():
            return
        self.check()  # a server that forks may have changed the process since the app was made
        with self._starting:
            if self._started_in != os.getpid():
                threading.Thread(target=self._own, name="embedkq-owner", daemon=True).start()
                self._started_in = os.getpid()

    def stop(self, timeout: float | None) -> bool:
        """Let what runs finish, for at most `timeout` seconds; whether it has. Any thread."""
        self.worker.request_stop()
        return self.worker.wait(timeout)

    def _own(self) -> None:
        try:
            self.worker.start(wait=False)
        except EmbedkqError as error:  # also kept as worker.error, and shown by the health view
            self._logger.error("The worker of %s has ended: %s", self._of, error)
            self._started_in = None  # the next request tries again
