"""Send window: how many bytes may be on their way to a broker at once, so that a slow line
acknowledges each in time. Any thread."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

FEWEST_BYTES = 16 * 1024
"""A line of 56 kbit/s takes two seconds for it."""
MOST_BYTES = 8 * 1024 * 1024
_MESSAGE_BYTES = 100
"""What a message takes beside key, value and headers."""
_QUICK_SECONDS, _SLOW_SECONDS = 1.0, 3.0
"""An acknowledgement that comes sooner lets the window grow; one that comes later halves it."""
_LONG_LINGER_SECONDS = 0.1


class SendWindow:
    """Bytes that may be on their way. Begins small, and doubles with each window that is
    acknowledged quickly.

    Args:
        linger: seconds for which the client keeps messages before it sends them.
    """

    def __init__(self, linger: float = 0.0) -> None:
        self.bytes = FEWEST_BYTES if linger < _LONG_LINGER_SECONDS else MOST_BYTES
        self._linger = linger
        self._quick = True
        self._halved_at = 0.0

    def grow(self, size: int) -> None:
        """So many bytes were acknowledged some time ago, with the last that was waited for, or
        while nobody needed to wait."""
        if self._quick:
            self.bytes = min(MOST_BYTES, self.bytes + size)

    def acknowledged(self, size: int, sent_at: float) -> None:
        """So many bytes that were sent at `sent_at` (`time.monotonic()`) were acknowledged just
        now."""
        now = time.monotonic()
        seconds = now - sent_at - self._linger
        self._quick = seconds < _QUICK_SECONDS
        if seconds > _SLOW_SECONDS and sent_at > self._halved_at:
            self.bytes = max(FEWEST_BYTES, self.bytes // 2)
            self._halved_at = now
        self.grow(size)


class InFlight:
    """What one call has handed to a client and was not acknowledged yet, oldest first. One thread.

    Args:
        window: of the client.
        seconds: how long nothing may be acknowledged before the broker counts as away.
    """

    def __init__(self, window: SendWindow, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        """`time.monotonic()` at which the broker counts as away, if nothing is acknowledged
        before."""
        self.lost: Exception | None = None
        """Why the broker counts as away; None if it does not."""
        self._window = window
        self._seconds = seconds
        self._waiting: deque[tuple[int, Any, Any, int, float]] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        """Whether any message waits for its acknowledgement."""
        self._pass_acknowledged()
        return bool(self._waiting)

    def has_room(self, size: int) -> bool:
        """Whether a message of so many bytes may be sent; one always may."""
        most = self._window.bytes - size - _MESSAGE_BYTES
        if self._bytes > most:
            self._pass_acknowledged()
        return self._bytes <= most or not self._waiting

    def _pass_acknowledged(self) -> None:
        waiting, before = self._waiting, self._bytes
        while waiting and waiting[0][2].is_done and waiting[0][2].exception is None:
            self._bytes -= waiting.popleft()[3]
        if before > self._bytes:
            self._window.grow(before - self._bytes)
            if self.lost is None:
                self.deadline = time.monotonic() + self._seconds

    def add(self, index: int, kafka: Any, future: Any, size: int) -> None:
        """A message of so many bytes was handed to the client `kafka`, which has given this future
        for it."""
        size += _MESSAGE_BYTES
        self._waiting.append((index, kafka, future, size, time.monotonic()))
        self._bytes += size

    def next_end(self) -> tuple[int, Any, Exception | None]:
        """Wait for the oldest: its index, its client, and why it was not acknowledged, or None."""
        index, kafka, future, size, sent_at = self._waiting.popleft()
        self._bytes -= size
        try:
            future.get(timeout=max(0.0, self.deadline - time.monotonic()))
        except Exception as error:  # noqa: BLE001  (the caller explains it)
            return index, kafka, error
        self._window.acknowledged(size, sent_at)
        if self.lost is None:
            self.deadline = time.monotonic() + self._seconds
        return index, kafka, None

    def lose(self, error: Exception) -> None:
        """The broker is away: what is acknowledged by now counts, and nothing is waited for any
        more."""
        self.lost = self.lost or error
        self.deadline = min(self.deadline, time.monotonic())
