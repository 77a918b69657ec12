"""Runs callbacks on the owner's thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from embedkq import codec
from embedkq._safe_logging import SafeLogger, raise_signal
from embedkq.errors import (
    Closed,
    InsideCallback,
    WorkerError,
    WrongThread,
    type_name,
)
from embedkq.job import Job, this_worker
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import CallbacksDone, Finished, JobRun, Message
from embedkq.worker.owner_thread.callback_arguments import callback_arguments, job_of

logger = SafeLogger("embedkq.worker")

_OF_A_REQUEST = "process_request_thread"
"""In the name of threads of `socketserver.ThreadingMixIn`, which `flask run` uses."""

Callback = Callable[[str, Job, Any, Any, Any], Any]

_REPORT_SECONDS = 0.003
_MOST_AT_ONCE = 100
_MOST_CALLS = 3
"""How often an interrupted callback (cancelled, or exiting with SystemExit) is called. After that
it counts as failed."""
_PAUSE_SECONDS = 1.0
"""Pause between these calls on an asyncio loop, because a loop that is shutting down cancels
everything."""


class CallbackDispatcher:
    """Runs callbacks when the owner, a plain thread, calls one of the owner's methods."""

    def __init__(self, callback: Callback | None, inbox: Mailbox[Message]) -> None:
        self.thread = threading.current_thread()
        self.last_callback: float | None = None
        """`time.monotonic()` when a callback last returned."""
        self._callback = callback
        self._worker = this_worker()
        self._clock = 0.0
        self._inbox = inbox
        self._inside: JobRun | None = None
        self._calls: dict[JobRun, int] = {}
        """How often the callback of a run was interrupted."""
        self._held: Finished | None = None
        """The outcome whose callback is being awaited."""
        self._over = False
        self.mailbox: Mailbox[Finished] = Mailbox(self._notified)

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the owner."""
        return threading.current_thread() is self.thread

    def check(self, method: str) -> None:
        """Refuse a call of an owner's method on another thread or inside a callback.

        Raises:
            InsideCallback, WrongThread
        """
        if not self.is_here:
            name = threading.current_thread().name
            cure = (
                " This server serves each request on a thread of its own: have it use one thread"
                " (flask run --without-threads), or give the worker a thread of its own."
                if _OF_A_REQUEST in name
                else ""
            )
            raise WrongThread(
                f"{method}() must be called on the thread that owns the worker,"
                f" {self.thread.name!r}; this is {name!r}. On other threads call request_stop() and"
                f" wait().{cure}"
            )
        if self._is_inside():
            raise InsideCallback(
                f"{method}() was called inside a callback, where it would wait for itself. Call"
                " request_stop() instead."
            )

    def dispatch(self, most: int | None = None, deadline: float | None = None) -> int:
        """Call the callback for waiting outcomes. Returns the number of calls.

        Args:
            most: maximum number of calls; None for all outcomes that are waiting now.
            deadline: `time.monotonic()` after which no further call starts.
        """
        finished = self.mailbox.take(most)
        done = reported = 0
        reported_at = time.monotonic()
        self._clock = time.time() - reported_at
        try:
            while done < len(finished) and not self._over and self._held is None:
                self._inside = finished[done].run
                self._run_callback(finished[done])
                done += 1
                self._inside = None
                self.last_callback = now = time.monotonic()
                if now > reported_at + _REPORT_SECONDS:
                    self._report(finished[reported:done])
                    reported, reported_at = done, now
                if deadline is not None and now > deadline:
                    break
        except (
            BaseException
        ) as error:  # KeyboardInterrupt and similar ones are raised; the callback has not returned
            if (
                done < len(finished)
                and self._inside is finished[done].run
                and self._count_interruption(self._inside, error)
            ):
                done += 1
            raise
        finally:
            self._inside = None
            self._report(finished[reported:done])
            if done < len(finished) and not self._over:
                self.mailbox.put_back(finished[done:])
                self._notified()
        return done

    def end(self) -> None:
        """Stop calling callbacks, because the worker has ended. Waiting jobs are not done and will
        run again. Control thread."""
        self._over = True
        self.mailbox.take()

    @property
    def busy(self) -> bool:
        """Whether a callback is in progress that this thread cannot finish by running more
        callbacks."""
        return False

    def _notified(self) -> None:
        """Notify the owner that callbacks are waiting. Control thread or owner's thread."""
        try:
            self._notify()
        except WorkerError:
            raise
        except BaseException as error:
            raise_signal(error)
            logger.error(
                "Could not notify the owner that callbacks are waiting: %r. Retrying.",
                error,
                exc_info=error,
            )

    def _notify(self) -> None:
        """Make the owner run callbacks, if it does not check by itself."""

    def _is_inside(self) -> bool:
        return self._inside is not None

    def _run_callback(self, finished: Finished) -> None:
        run = finished.run
        arguments = callback_arguments(run, finished.outcome, self._worker, self._clock)
        logger.info("Executing callback ...")
        try:
            given = self._callback(*arguments)  # type: ignore[misc]
            if given is not None and inspect.isawaitable(given):
                self._await(finished, given)
        except Exception as error:  # noqa: BLE001  (the application's own code)
            self._log_failure(run, error)

    def _await(self, finished: Finished, given: Any) -> None:
        """Handle a callback that returned an awaitable."""
        if inspect.iscoroutine(given):
            given.close()
        raise TypeError(
            f"it returned {type_name(type(given))}, which nothing awaits on thread"
            f" {threading.current_thread().name!r}; to use an asynchronous callback, start the"
            " worker inside a running asyncio loop, without `handoff`"
        )

    def _count_interruption(self, run: JobRun, error: BaseException) -> bool:
        """Count an interruption of a callback, which raised SystemExit or was cancelled. Returns
        whether that was its last call."""
        calls = self._calls.pop(run, 0) + 1
        if calls >= _MOST_CALLS:
            text = (
                f"it was interrupted {calls} times, last by {type_name(type(error))}, and will not"
                " be called again"
            )
            self._log_failure(run, error, text)
            return True
        self._calls[run] = calls
        logger.warning(
            "The callback was interrupted by %s (%s). It will be called again (%d of %d).",
            type_name(type(error)),
            self._described(run),
            calls + 1,
            _MOST_CALLS,
        )
        return False

    def _log_failure(self, run: JobRun, error: BaseException, text: str = "") -> None:
        logger.error(
            "Callback failed: %s (%s)", text or error, self._described(run), exc_info=error
        )

    def _described(self, run: JobRun) -> str:
        try:
            function = "function unknown" if run.unread else codec.name_of(job_of(run).func)
        except BaseException as error:  # noqa: BLE001  (the payload's own code)
            raise_signal(error)
            function = "function unknown"
        return f"job {run.job_id[:8]}, {function}, topic {run.partition.topic}"

    def _report(self, called: Sequence[Finished]) -> None:
        if runs := [finished.run for finished in called if finished is not self._held]:
            self._send(CallbacksDone(runs))

    def _send(self, message: Message) -> None:
        try:
            self._inbox.put(message)
        except Closed:  # the worker has failed or was killed: these jobs will run again
            pass


class HandoffDispatcher(CallbackDispatcher):
    """Runs callbacks on the thread to which `handoff` passes a function."""

    def __init__(
        self,
        callback: Callback | None,
        inbox: Mailbox[Message],
        handoff: Callable[[Callable[[], None]], Any],
    ) -> None:
        self._handoff = handoff
        super().__init__(callback, inbox)
        # The thread that starts a worker need not be the one that runs the passed functions.
        self._notify()

    def _notify(self) -> None:
        self._handoff(self._run_callbacks)

    def _run_callbacks(self) -> None:
        self.thread = threading.current_thread()
        # The callback itself runs the owner's loop (a modal dialog, for example): the other
        # callbacks wait until it returns.
        if self._is_inside():
            return
        if self.dispatch(_MOST_AT_ONCE) and len(self.mailbox):
            self._notified()


class AsyncioDispatcher(CallbackDispatcher):
    """Runs callbacks on an asyncio loop by itself, and awaits what they return if possible, one at
    a time."""

    def __init__(
        self,
        callback: Callback | None,
        inbox: Mailbox[Message],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._loop = loop
        self._awaited: asyncio.Future[Any] | None = None
        self._pausing = False
        self._is_asynchronous = callback is not None and is_coroutine_function(callback)
        super().__init__(callback, inbox)

    @property
    def busy(self) -> bool:
        return self._held is not None or (self._is_asynchronous and len(self.mailbox) > 0)

    def _is_inside(self) -> bool:
        return super()._is_inside() or (
            self._held is not None and asyncio.current_task(self._loop) is self._awaited
        )

    def _notify(self) -> None:
        if self._loop.is_closed():
            raise WorkerError(
                "the asyncio loop that owns the worker was closed: stop the worker before you"
                " close the loop, or use `async with worker:`"
            )
        self._loop.call_soon_threadsafe(self._pump)

    def _pump(self) -> None:
        if self.dispatch(_MOST_AT_ONCE) and len(self.mailbox):
            self._loop.call_soon(self._pump)

    def dispatch(self, most: int | None = None, deadline: float | None = None) -> int:
        if self._held is not None or self._pausing or self._inside is not None:
            return 0
        return super().dispatch(1 if self._is_asynchronous else most, deadline)

    def _await(self, finished: Finished, given: Any) -> None:
        awaited = asyncio.ensure_future(given, loop=self._loop)
        self._is_asynchronous, self._awaited, self._held = True, awaited, finished
        awaited.add_done_callback(self._awaited_ended)

    def _awaited_ended(self, awaited: asyncio.Future[Any]) -> None:
        finished, self._held, self._awaited = self._held, None, None
        if finished is None or self._over:
            return
        self.last_callback = time.monotonic()
        error = asyncio.CancelledError() if awaited.cancelled() else awaited.exception()
        if isinstance(error, Exception):
            self._log_failure(finished.run, error)
        elif error is not None and not self._count_interruption(finished.run, error):
            self.mailbox.put_back([finished])
            self._pausing = True
            self._loop.call_later(_PAUSE_SECONDS, self._resume)
            return
        self._report([finished])
        self._pump()

    def _resume(self) -> None:
        self._pausing = False
        self._pump()


def is_coroutine_function(callback: Callable[..., Any]) -> bool:
    """Whether calling the callback returns a coroutine, as far as that is visible from outside."""
    call = getattr(callback, "__call__", None)  # noqa: B004  (for callable objects)
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(call)
