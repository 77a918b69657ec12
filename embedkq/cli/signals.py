"""Stops a foreground worker on SIGINT and SIGTERM. The first signal lets running jobs finish; a
second signal or a time limit kills them."""

from __future__ import annotations

import math
import os
import select
import signal
import threading
import time
from types import FrameType
from typing import Any, Protocol

from embedkq._safe_logging import SafeLogger

logger = SafeLogger("embedkq.cli")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 1.0
"""A signal that follows the first one within this time does not count: make and docker forward a
Ctrl-C a second time."""
_TICK_SECONDS = 0.1
_CALLBACK_SECONDS = 4.0
"""How long a running callback may continue after jobs are killed. Together with the default
stop_timeout of 25 s this stays below the 30 s after which Kubernetes and systemd kill the
process."""


class Stoppable(Protocol):
    """The part of a `Worker` that this module uses."""

    def request_stop(self, now: bool = ...) -> None:
        """Stop after running jobs finish, or kill them and stop (`now`)."""


class SignalStop:
    """Inside the block, signals stop the worker. The previous handlers are restored at the end.
    Main thread.

    The signal handlers do nothing. Python writes the signal's number to the wakeup descriptor, and
    a thread reads it and acts. So a signal takes effect even while a callback is stuck in C code,
    and logging is safe: a handler could interrupt a log call.

    Args:
        worker: the worker to stop.
        stop_timeout: seconds after the first signal until running jobs are killed; None for never.

    Attributes:
        killed_by: number of the second signal, which killed running jobs; None if there was none.
    """

    def __init__(self, worker: Stoppable, stop_timeout: float | None = None) -> None:
        self.killed_by: int | None = None
        self._worker = worker
        self._stop_timeout = math.inf if stop_timeout is None else stop_timeout
        self._first: float | None = None
        self._has_warned = False
        self._killed_at: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="embedkq-signals", daemon=True)

    def __enter__(self) -> SignalStop:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._old_descriptor = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old_handlers: dict[int, Any] = {
            number: signal.signal(number, _ignore) for number in SIGNALS
        }
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_descriptor)
        os.close(self._reader)
        os.close(self._writer)

    def _watch(self) -> None:
        while not self._ended.is_set():
            select.select([self._reader], [], [], _TICK_SECONDS)
            try:
                numbers = os.read(self._reader, 64)
            except BlockingIOError:
                numbers = b""
            for number in numbers:
                if number in SIGNALS:
                    self._on_signal(number)
            self._follow_up()

    def _on_signal(self, number: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._worker.request_stop()
        elif self.killed_by is not None:
            os._exit(128 + number)  # a third signal: exit without waiting
        elif now - self._first >= ECHO_SECONDS:
            self.killed_by = number
            self._kill(now, "Killing running jobs: they are not done and will run again.")

    def _kill(self, now: float, message: str, *args: object) -> None:
        self._killed_at = now
        logger.warning(message, *args)
        self._worker.request_stop(now=True)

    def _follow_up(self) -> None:
        """Enforce the time limits. Request the stop again, in case the worker had not started at
        the first signal."""
        if self._first is None:
            return
        now = time.monotonic()
        self._worker.request_stop(now=self._killed_at is not None)
        if self._killed_at is not None:
            if now - self._killed_at >= _CALLBACK_SECONDS:
                logger.error("A callback does not return: exiting without it.")
                os._exit(1 if self.killed_by is None else 128 + self.killed_by)
        elif now - self._first >= self._stop_timeout:
            message = (
                "Killing jobs that still run %g s after the signal (stop_timeout): they are not"
                " done and will run again."
            )
            self._kill(now, message, self._stop_timeout)
        elif not self._has_warned and now - self._first >= ECHO_SECONDS:
            self._has_warned = True
            logger.warning(
                "Waiting for running jobs to finish. Press Ctrl-C again (or send SIGTERM) to kill"
                " them."
            )


def _ignore(number: int, frame: FrameType | None) -> None:
    """Without a handler, Python does not write to the wakeup descriptor."""
