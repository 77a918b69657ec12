"""The thread that owns a worker, and how callbacks come to fire there."""
from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from embedkq import codec, kqformat
from embedkq.child.runner import FROM_KQ
from embedkq.errors import Closed, DecodeError, InsideCallback, JobFailed, ResultNotPicklable, WrongThread
from embedkq.job import Job
from embedkq.outcome import Outcome
from embedkq.safe_logging import SafeLogger, safe_repr
from embedkq.worker.mailbox import Mailbox
from embedkq.worker.messages import Abandoned, Finished, Fired, Message, Run

logger = SafeLogger("embedkq.worker")

Callback = Callable[[str, Job, Any, Any, Any], Any]

_REPORT_SECONDS = 0.003
_MOST_AT_ONCE = 100


class Owner:
    """A plain thread that fires callbacks whenever it calls one of the owner's methods."""

    def __init__(self, callback: Callback | None, topic: str, inbox: Mailbox[Message]) -> None:
        self.thread = threading.current_thread()
        self.last_callback: float | None = None
        """`time.monotonic()` at which a callback last returned."""
        self._callback = callback
        self._topic = topic
        self._inbox = inbox
        self._inside: Run | None = None
        self._over = False
        self.mailbox: Mailbox[Finished] = Mailbox(self._notified)

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the owner."""
        return threading.current_thread() is self.thread

    def check(self, method: str) -> None:
        """Refuse a call of an owner's method from anywhere else.

        Raises:
            InsideCallback, WrongThread
        """
        if not self.is_here:
            raise WrongThread(
                f"{method}() is for the thread that owns the worker, {self.thread.name!r}; this is "
                f"{threading.current_thread().name!r}. From other threads call request_stop() and wait()."
            )
        if self._is_inside():
            raise InsideCallback(f"{method}() was called from within a callback, where it would wait for itself: call request_stop().")

    def fire(self, most: int | None = None, deadline: float | None = None) -> int:
        """Call the callback for what waits; how many times.

        Args:
            most: how many at most; None for all that wait at the call.
            deadline: `time.monotonic()` after which no further one is begun.
        """
        finished = self.mailbox.take(most)
        done = told = rest = 0
        reported = time.monotonic()
        try:
            while done < len(finished) and not self._over:
                self._fire_one(*finished[done])
                done = rest = done + 1
                self._inside = None
                self.last_callback = now = time.monotonic()
                if now > reported + _REPORT_SECONDS:
                    self._report(finished[told:done])
                    told, reported = done, now
                if deadline is not None and now > deadline:
                    break
        except BaseException:  # KeyboardInterrupt and its like pass through, and leave this one job not done
            if done < len(finished) and self._inside is finished[done].run:
                self._tell(Abandoned(self._inside))
                rest = done + 1
            self._inside = None
            raise
        finally:
            self._report(finished[told:done])
            if rest < len(finished) and not self._over:
                self.mailbox.put_back(finished[rest:])
                self._notified()
        return done

    def wake(self) -> None:
        """End the owner's waiting without a callback; once the worker is over also where the owner's loop is closed. Any thread."""
        try:
            self.mailbox.wake()
        except Exception as error:  # noqa: BLE001  (the application's loop; nothing depends on it any more)
            logger.debug("The owner could not be woken: %r", error)

    def end(self) -> None:
        """The worker is over: what still waits is not done, comes again, and is not fired. Worker's thread."""
        self._over = True
        self.mailbox.take()

    @property
    def busy(self) -> bool:
        """Whether a callback is under way that this thread cannot finish by firing on."""
        return False

    def _notified(self) -> None:
        """Called when callbacks wait, on the worker's thread or the owner's."""

    def _is_inside(self) -> bool:
        return self._inside is not None

    def _fire_one(self, run: Run, outcome: Outcome) -> None:
        arguments = arguments_of(self._topic, run, outcome)
        logger.info("Executing callback ...")
        self._inside = run
        try:
            self._call(arguments)
        except Exception as error:
            logger.error("Callback failed: %s", error, exc_info=error)

    def _call(self, arguments: tuple[str, Job, Any, Any, Any]) -> None:
        self._callback(*arguments)  # type: ignore[misc]

    def _report(self, fired: Sequence[Finished]) -> None:
        if fired:
            self._tell(Fired([run for run, _ in fired]))

    def _tell(self, message: Message) -> None:
        try:
            self._inbox.put(message)
        except Closed:  # the worker has failed or was killed: these jobs come again
            pass


class HandoffOwner(Owner):
    """The thread on which a function given to `handoff` runs."""

    def __init__(
        self, callback: Callback | None, topic: str, inbox: Mailbox[Message], handoff: Callable[[Callable[[], None]], Any]
    ) -> None:
        self._handoff = handoff
        super().__init__(callback, topic, inbox)
        self._notified()  # the thread that starts a worker need not be the one that runs what is handed over

    def _notified(self) -> None:
        self._handoff(self._fire_some)

    def _fire_some(self) -> None:
        self.thread = threading.current_thread()
        if self._is_inside():  # a callback that runs the owner's loop itself (a modal dialogue): the rest waits for its end
            return
        if self.fire(_MOST_AT_ONCE) and len(self.mailbox):
            self._notified()


class LoopOwner(Owner):
    """The thread of an asyncio loop, which fires by itself; callbacks may be coroutine functions, one at a time."""

    def __init__(
        self, callback: Callback | None, topic: str, inbox: Mailbox[Message], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._asynchronous = callback is not None and is_coroutine_function(callback)
        super().__init__(callback, topic, inbox)

    @property
    def busy(self) -> bool:
        return self._task is not None or (self._asynchronous and len(self.mailbox) > 0)

    def _is_inside(self) -> bool:
        if self._task is None:
            return super()._is_inside()
        return asyncio.current_task(self._loop) is self._task

    def _notified(self) -> None:
        self._loop.call_soon_threadsafe(self._pump)

    def _pump(self) -> None:
        if self._asynchronous:
            self._next_task()
        elif self.fire(_MOST_AT_ONCE) and len(self.mailbox):
            self._loop.call_soon(self._pump)

    def fire(self, most: int | None = None, deadline: float | None = None) -> int:
        return 0 if self._asynchronous else super().fire(most, deadline)

    def _next_task(self) -> None:
        if self._over or self._task is not None or not (finished := self.mailbox.take(1)):
            return
        run, outcome = finished[0]
        arguments = arguments_of(self._topic, run, outcome)
        logger.info("Executing callback ...")
        self._task = self._loop.create_task(self._callback(*arguments))  # type: ignore[misc]
        self._task.add_done_callback(lambda task: self._task_ended(task, run))

    def _task_ended(self, task: asyncio.Task[Any], run: Run) -> None:
        self._task = None
        self.last_callback = time.monotonic()
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or not isinstance(error, Exception | None):
            self._tell(Abandoned(run))
        else:
            if error is not None:
                logger.error("Callback failed: %s", error, exc_info=error)
            self._tell(Fired([run]))
        self._next_task()


def is_coroutine_function(callback: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine, as far as one can see from outside."""
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(getattr(callback, "__call__", None))  # noqa: B004


def arguments_of(topic: str, run: Run, outcome: Outcome) -> tuple[str, Job, Any, Any, Any]:
    """What the callback gets; a child has unpickled all of it before, so here it is safe to."""
    if run.unread:
        unread = Job(run.job_id, run.timestamp, topic, None, None, None, run.timeout, run.key)
        return "failure", unread, None, _exception_of(outcome), outcome.traceback
    func, args, kwargs, unsound, kq_job = None, None, None, None, None
    try:
        if run.form == FROM_KQ:
            kq_job = kqformat.decode_job(run.payload)
        else:
            func, args, kwargs = codec.decode_call(run.payload)
    except DecodeError as error:
        unsound = error
    job = kq_job or Job(run.job_id, run.timestamp, topic, func, args, kwargs, run.timeout, run.key)
    if unsound is not None:
        return "failure", job, None, unsound, f"{type(unsound).__name__}: {unsound}\n"
    if outcome.status == "success":
        try:
            return "success", job, codec.decode_object(outcome.payload), None, None
        except Exception as error:  # noqa: BLE001  (the result's own code)
            told = ResultNotPicklable("its type", f"it cannot be rebuilt here: {safe_repr(error)}")
            return "failure", job, None, told, f"{type(told).__name__}: {told}\n"
    if outcome.status == "failure":
        return "failure", job, None, _exception_of(outcome), outcome.traceback
    return outcome.status, job, None, None, None


def _exception_of(outcome: Outcome) -> Exception:
    try:
        error = codec.decode_object(outcome.payload)
    except Exception:  # noqa: BLE001  (the exception's own code)
        error = None
    return error if isinstance(error, Exception) else JobFailed(outcome.type_name, outcome.message)
