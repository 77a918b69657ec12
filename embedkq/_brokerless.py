"""Where a job goes that does not go to its queue's topic: it runs at once in the process that
enqueues it (`Queue(eager=True)`), is only recorded (`embedkq.testing.captured`), or goes to the
topic of a test (`embedkq.testing.redirected`). Any thread.

`Queue` asks here with each job, so what this module imports costs every program.
"""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from embedkq._safe_logging import SafeLogger
from embedkq.errors import JobExited, ResultNotPicklable, type_name
from embedkq.job import Job, know, this_worker

logger = SafeLogger("embedkq.queue")

Callback = Callable[[str, Job, Any, Any, Any], Any]


Place = tuple[int | None, int | None]
"""Partition and offset of a job's record."""
NOWHERE: Place = (None, None)


class Taker(Protocol):
    """What takes jobs in place of a queue's producer."""

    def take(self, job: Job, message: Any) -> Place:
        """Take one job, and the message that would have been sent. Returns where it went."""


class InPlaceOfProducer(NamedTuple):
    """Has a producer's methods, and gives the jobs of these messages to a taker.

    Attributes:
        taker: what takes them.
        jobs: one for each message that is sent.
    """

    taker: Taker
    jobs: Sequence[Job]

    def send(self, message: Any) -> Place:
        """As `Producer.send`; raises what the taker raises."""
        return self.taker.take(self.jobs[0], message)

    def send_and_locate(
        self, messages: Sequence[Any]
    ) -> tuple[dict[int, Exception], Sequence[Place]]:
        """As `Producer.send_and_locate`; the first exception of the taker ends it."""
        pairs = zip(self.jobs, messages, strict=True)
        return {}, [self.taker.take(job, message) for job, message in pairs]


class Recorder:
    """Records jobs, and runs none."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def take(self, job: Job, message: Any) -> Place:
        """Record the job."""
        self.jobs.append(job)
        return NOWHERE


class Redirect:
    """Sends jobs to the topic of another queue."""

    def __init__(self, queue: TakesJobs) -> None:
        self._queue = queue

    def take(self, job: Job, message: Any) -> Place:
        """Send the job. Raises as `Producer.send`."""
        place: Place = self._queue._connection.send(message._replace(topic=self._queue.topic))
        return place


_takers: list[Taker] = []
"""What takes the jobs of all queues of this process: the last one."""


@contextlib.contextmanager
def taking(taker: Taker) -> Iterator[None]:
    """Meanwhile `taker` takes the jobs of all queues of this process. Of several the innermost
    takes them."""
    _takers.append(taker)
    try:
        yield
    finally:
        _takers.remove(taker)


class EagerRuns:
    """Runs each job at once, on the thread that enqueues it.

    The call is decoded, and the result encoded, as in a child process, so that a job receives
    copies of its arguments, and what no child could load or return fails here too.
    """

    def __init__(self) -> None:
        self._callback: Callback | None = None
        self._context: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext

    def surround(
        self, callback: Callback, context: Callable[[], AbstractContextManager[Any]] | None
    ) -> None:
        """Call this after each job, and run each job inside a new context."""
        self._callback = callback
        self._context = context or contextlib.nullcontext

    def take(self, job: Job, message: Any) -> Place:
        """Run the job. Raises what it raises, once the callback has returned."""
        started = time.monotonic_ns()
        try:
            with _seen_as_current(job):
                result = self._run(message)
        except Exception as error:
            if self._callback is not None:
                text = "".join(traceback.format_exception(error))
                self._callback("failure", _after_its_run(job, started), None, error, text)
            raise
        if self._callback is not None:
            self._callback("success", _after_its_run(job, started), result, None, None)
        return NOWHERE

    def _run(self, message: Any) -> Any:
        from embedkq import codec
        from embedkq._formats import headers, json_job

        decode = json_job.decode if headers.is_json(message.headers) else codec.decode_call
        function, args, kwargs = decode(message.value)
        try:
            with self._context():
                result = function(*args, **kwargs)
                if inspect.iscoroutine(result):
                    result = _awaited(result)
        except SystemExit as error:
            raise JobExited("SystemExit", error.args) from error
        try:
            return codec.decode_object(codec.encode_object(result))
        except Exception as error:
            raise ResultNotPicklable(type_name(type(result)), str(error)) from error


class TakesJobs:
    """The part of `Queue` that knows where its jobs go."""

    _connection: Any
    _eager: EagerRuns | None = None
    topic: Any

    @property
    def eager(self) -> bool:
        """Whether jobs run at once in this process, without Kafka."""
        return self._eager is not None

    def _set_eager(self, eager: bool) -> None:
        self._eager = EagerRuns() if eager else None
        if eager:
            logger.info(
                "%r is eager: jobs run at once in this process, without limits and retries", self
            )

    def _taker(self) -> Taker | None:
        """What takes jobs in place of the producer; None: they are sent."""
        return _takers[-1] if _takers else self._eager


def surround(
    queue: TakesJobs,
    callback: Callback,
    context: Callable[[], AbstractContextManager[Any]] | None,
) -> None:
    """If the queue is eager, call this after each job, and run each job inside a new context."""
    if queue._eager is not None:
        queue._eager.surround(callback, context)


@contextlib.contextmanager
def _seen_as_current(job: Job) -> Iterator[None]:
    """Meanwhile `current_job()` is this job, to this thread and what it awaits."""
    from embedkq._child.current_job import CurrentJob, here

    token = here.set(CurrentJob(job.id, 1, job.topic, -1, -1, job.key, None, job.headers))
    try:
        yield
    finally:
        here.reset(token)


def _after_its_run(job: Job, started: int) -> Job:
    """A copy of the job that knows of its run."""
    ended, clock = time.monotonic_ns(), time.time() - time.monotonic()
    run = (None, None, job.headers, 1, started, ended, clock, this_worker())
    return know(job._replace(), run)


def _awaited(coroutine: Any) -> Any:
    """Run a coroutine to its end on a loop of its own, as a child process does; on a thread of its
    own where this one runs a loop already."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, "embedkq-eager") as thread:
        return thread.submit(contextvars.copy_context().run, asyncio.run, coroutine).result()
