"""Stops a foreground worker on SIGINT and SIGTERM: the first one finishes what runs, a second one
or a time limit kills it."""

from __future__ import annotations

import math
import os
import select
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Protocol

from embedkq._safe_logging import SafeLogger

logger = SafeLogger("embedkq.cli")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 1.0
"""A signal so soon after the first is an echo of it (make and docker pass a Ctrl-C on a second
time) and does not count."""
_TICK_SECONDS = 0.1
_CALLBACK_SECONDS = 4.0
"""How long a callback that runs may go on once jobs were killed. With the 25 s that these get at
first it ends before the 30 s after which Kubernetes and systemd lose patience."""


class Stoppable(Protocol):
    """What a `Worker` is to this module."""

    def request_stop(self, now: bool = ...) -> None:
        """Finish what runs and stop, or with `now` kill it and stop."""


class SignalStop:
    """While entered, signals stop the worker; the handlers that were there before come back at the
    end. Main thread.

    Python's handlers do nothing but exist: the signal's number arrives through the wakeup
    descriptor at a thread that acts on it. So a signal is heeded also while a callback is stuck in
    C code, and logs without the danger that a handler which interrupts a log call brings.

    Args:
        worker: to be stopped.
        stop_timeout: seconds after the first signal when jobs that still run are killed; None for
            never.

    Attributes:
        killed_by: number of the second signal, which killed what ran; None if there was none.
    """

    def __init__(self, worker: Stoppable, stop_timeout: float | None = None) -> None:
        self.killed_by: int | None = None
        self._worker = worker
        self._stop_timeout = math.inf if stop_timeout is None else stop_timeout
        self._first: float | None = None
        self._told = False
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
                    self._heed(number)
            self._insist()

    def _heed(self, number: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._worker.request_stop()
        elif self.killed_by is not None:
            os._exit(128 + number)  # a third one: somebody is not willing to wait for anything
        elif now - self._first >= ECHO_SECONDS:
            self.killed_by = number
            self._kill(now, "Killing what runs: it is not done and will run again.")

    def _kill(self, now: float, told: str, *args: object) -> None:
        self._killed_at = now
        logger.warning(told, *args)
        self._worker.request_stop(now=True)

    def _insist(self) -> None:
        """What time brings about; asking again also reaches a worker that was not started yet at
        the first signal."""
        if self._first is None:
            return
        now = time.monotonic()
        self._worker.request_stop(now=self._killed_at is not None)
        if self._killed_at is not None:
            if now - self._killed_at >= _CALLBACK_SECONDS:
                logger.error("A callback does not end: leaving without it.")
                os._exit(1 if self.killed_by is None else 128 + self.killed_by)
        elif now - self._first >= self._stop_timeout:
            told = (
                "Killing what still runs %g s after the signal (stop_timeout): it is not done and"
                " will run again."
            )
            self._kill(now, told, self._stop_timeout)
        elif not self._told and now - self._first >= ECHO_SECONDS:
            self._told = True
            logger.warning(
                "Waiting for what runs to finish. Press Ctrl-C again (or send SIGTERM) to kill it."
            )


def _ignore(number: int, frame: FrameType | None) -> None:
    """A handler has to be there for the wakeup descriptor to be written to."""
