"""A worker on a thread of its own, and how its jobs ended."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime  # another one in Python 3.10
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from embedkq.errors import BrokerUnavailable, DecodeError, WorkerError
from embedkq.job import Job

if TYPE_CHECKING:
    from embedkq._clients.admin import Inspector

T = TypeVar("T")

_LOOK_SECONDS = 0.1
_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.05
_GROUPS_SECONDS = 5.0
_COUNTING_SECONDS = 1.0
"""How long `drain` compares counts before it asks the worker, which takes half a second."""


class Ended(NamedTuple):
    """How a job ended: the five arguments of the callback."""

    status: str
    job: Job
    result: Any
    exception: Any
    traceback: Any


class RunningWorker:
    """Runs a `Worker` on a thread of its own, with real child processes, and records how its jobs
    end. Any thread may use it, but in a callback nothing may be waited for.

    Args:
        callback: called after each job, as `Worker` calls it, on the worker's thread. What it
            raises, the next `wait_for` or `drain` raises. It may be `async def`.
        options: those of `Worker`, but `handoff`.
    """

    def __init__(self, callback: Callable[..., Any] | None = None, **options: Any) -> None:
        from embedkq.worker import Worker  # here, since `captured` works where no worker does

        self.callback = callback
        self.ended: list[Ended] = []
        self._to_do: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self.worker = Worker(**options, callback=self._record, handoff=self._to_do.put)
        self._changed = threading.Condition()
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._own, name="embedkq-owner", daemon=True)
        self._connected: Future[None] = Future()
        self._inspector: Inspector | None = None
        self._done_before: int | None = None

    def __repr__(self) -> str:
        return f"RunningWorker(topic={self.worker.topic})"

    def start(self) -> RunningWorker:
        """Start the worker; returns itself once the broker has answered.

        Raises:
            BrokerUnavailable: no broker answered within 10 s.
        """
        from embedkq._clients.admin import Inspector

        inspector = Inspector(self.worker.hosts, **self.worker.client_options)
        try:
            self._done_before = self._count_done(inspector)
            self._thread.start()
            self._connected.result()
        except BaseException:
            inspector.close()
            raise
        self._inspector = inspector
        return self

    def wait_for(self, job: Job, timeout: float = 30.0) -> Ended:
        """Wait until the job has ended, and its callback has returned.

        Raises:
            TimeoutError: it has not within `timeout` seconds.
            Exception: what a callback has raised, or what the worker has failed with.
        """

        def found() -> Ended | None:
            return next((ended for ended in self.ended if ended.job.id == job.id), None)

        return self._wait(found, timeout, f"job {job.id} to end")

    def drain(self, timeout: float = 30.0) -> list[Ended]:
        """Wait until all jobs of the topic are done; returns how those of this test ended.

        Raises:
            TimeoutError: they are not within `timeout` seconds.
            Exception: what a callback has raised, or what the worker has failed with.
        """
        began, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
        while not self._is_caught_up():
            self._raise_errors()
            waited = time.monotonic() - began
            if waited > min(timeout, _COUNTING_SECONDS):
                # Transactions leave offsets without a job: only the worker knows of these.
                self._drain_worker(timeout, timeout - waited)
                break
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        self._raise_errors()
        return self.ended

    def stop(self, timeout: float = 5.0) -> bool:
        """Kill what runs, without callback, and stop the worker; whether it has stopped within
        `timeout` seconds."""
        self.worker.request_stop(now=True)
        self._to_do.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if self._inspector is not None:
            self._inspector.close()
        return not self._thread.is_alive()

    def reset(self, callback: Callable[..., Any] | None) -> None:
        """Forget how jobs have ended, and call another callback from now on."""
        self.callback, self.ended = callback, []

    def is_clean(self) -> bool:
        """Whether nothing that was enqueued so far can matter to a later job: all is done, and the
        worker is healthy, or has not joined its group yet."""
        health = self.worker.health()
        return (
            self._thread.is_alive()
            and not self._errors
            and not any(isinstance(ended.exception, DecodeError) for ended in self.ended)
            and (health.healthy or health.state == "starting")
            and self._is_caught_up()
        )

    def __enter__(self) -> RunningWorker:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # On the worker's thread.

    def _own(self) -> None:
        try:
            self.worker.start_background()
        except BaseException as error:  # noqa: BLE001  (`start` raises it)
            self._connected.set_exception(error)
            return
        self._connected.set_result(None)
        try:
            while (do := self._to_do.get()) is not None:
                do()
        finally:
            self.worker.stop(0)

    def _record(self, *arguments: Any) -> None:
        try:
            given = None if self.callback is None else self.callback(*arguments)
            if inspect.iscoroutine(given):
                import asyncio

                asyncio.run(given)
        except BaseException as error:  # noqa: BLE001  (the next wait raises it)
            self._errors.append(error)
        with self._changed:
            self.ended.append(Ended(*arguments))
            self._changed.notify_all()

    # Waiting.

    def _wait(self, found: Callable[[], T | None], timeout: float, what: str) -> T:
        deadline = time.monotonic() + timeout
        with self._changed:
            while (value := found()) is None:
                self._raise_errors()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._too_late(timeout, what)
                self._changed.wait(min(left, _LOOK_SECONDS))
        self._raise_errors()
        return value

    def _drain_worker(self, timeout: float, left: float) -> None:
        done: Future[bool] = Future()

        def drain() -> None:
            try:
                done.set_result(self.worker.drain(max(left, 0.0)))
            except BaseException as error:  # noqa: BLE001  (the waiting thread raises it)
                done.set_exception(error)

        self._to_do.put(drain)
        try:
            is_done = done.result(max(left, 0.0) + 1.0)
        except NotInTime:
            is_done = False
        if not is_done:
            raise self._too_late(timeout, "all jobs to end")

    def _too_late(self, timeout: float, what: str) -> TimeoutError:
        health = self.worker.health()
        state = "; ".join(health.reasons) or f"{health.in_flight} jobs are not done"
        return TimeoutError(f"{self!r} waited {timeout:g} s for {what}: {state}")

    def _raise_errors(self) -> None:
        if self._errors:
            raise self._errors.pop(0)
        if self.worker.state.ended:
            raise self.worker.error or WorkerError(f"{self!r} is {self.worker.state}")

    # Counting, which is much quicker than `Worker.drain`.

    def _count_done(self, inspector: Inspector) -> int | None:
        """How many records the group has done by now; None: the broker does not say."""
        deadline = time.monotonic() + _GROUPS_SECONDS
        while True:
            try:
                return inspector.count_done(self.worker.topic, self.worker.group)
            except BrokerUnavailable:  # one that has only just started knows of no groups yet
                if time.monotonic() > deadline:
                    return None
            time.sleep(_LOOK_SECONDS)

    def _is_caught_up(self) -> bool:
        if self._inspector is None or self._done_before is None:
            return False
        records = self._inspector.count_records(self.worker.topic)
        health = self.worker.health()
        ended = sum((health.ended or {}).values())
        return health.in_flight == 0 and self._done_before + ended == records
