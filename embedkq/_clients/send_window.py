"""Limits the bytes in flight to a broker, so that a slow connection can acknowledge each message in
time. Any thread."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

FEWEST_BYTES = 16 * 1024
"""A connection with 56 kbit/s needs two seconds for it."""
MOST_BYTES = 8 * 1024 * 1024
_MESSAGE_BYTES = 100
"""Overhead of a message beside key, value and headers."""
_QUICK_SECONDS, _SLOW_SECONDS = 1.0, 3.0
"""An acknowledgement before the first limit lets the window grow; one after the second limit halves
it."""
_LONG_LINGER_SECONDS = 0.1


class SendWindow:
    """The allowed bytes in flight. Starts small, and doubles with each window that is acknowledged
    quickly.

    Args:
        linger: seconds that the client waits before it sends messages.
    """

    def __init__(self, linger: float = 0.0) -> None:
        self.bytes = FEWEST_BYTES if linger < _LONG_LINGER_SECONDS else MOST_BYTES
        self._linger = linger
        self._quick = True
        self._halved_at = 0.0

    def grow(self, size: int) -> None:
        """Record bytes that were acknowledged while nobody waited for them."""
        if self._quick:
            self.bytes = min(MOST_BYTES, self.bytes + size)

    def acknowledged(self, size: int, sent_at: float) -> None:
        """Record that bytes sent at `sent_at` (`time.monotonic()`) were acknowledged now."""
        now = time.monotonic()
        seconds = now - sent_at - self._linger
        self._quick = seconds < _QUICK_SECONDS
        if seconds > _SLOW_SECONDS and sent_at > self._halved_at:
            self.bytes = max(FEWEST_BYTES, self.bytes // 2)
            self._halved_at = now
        self.grow(size)


class InFlight:
    """The unacknowledged messages of one call, oldest first. One thread.

    Args:
        window: the client's window.
        seconds: time without an acknowledgement after which the broker counts as unavailable.
    """

    def __init__(self, window: SendWindow, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        """`time.monotonic()` when the broker counts as unavailable, unless it acknowledges
        something before."""
        self.lost: Exception | None = None
        """Why the broker counts as unavailable, or None."""
        self._window = window
        self._seconds = seconds
        self._waiting: deque[tuple[int, Any, Any, int, float]] = deque()
        self.places: dict[int, tuple[int, int]] = {}
        """Partition and offset of the acknowledged messages, by index."""
        self._bytes = 0

    def __bool__(self) -> bool:
        """Whether any message is unacknowledged."""
        self._pass_acknowledged()
        return bool(self._waiting)

    def has_room(self, size: int) -> bool:
        """Whether a message of this size may be sent. A single message always may."""
        most = self._window.bytes - size - _MESSAGE_BYTES
        if self._bytes > most:
            self._pass_acknowledged()
        return self._bytes <= most or not self._waiting

    def _pass_acknowledged(self) -> None:
        waiting, before = self._waiting, self._bytes
        while waiting and waiting[0][2].is_done and waiting[0][2].exception is None:
            index, _, future, size, _ = waiting.popleft()
            self._bytes -= size
            self.places[index] = future.value.partition, future.value.offset
        if before > self._bytes:
            self._window.grow(before - self._bytes)
            if self.lost is None:
                self.deadline = time.monotonic() + self._seconds

    def add(self, index: int, kafka: Any, future: Any, size: int) -> None:
        """Add a message of this size that was passed to the client `kafka`, with its future."""
        size += _MESSAGE_BYTES
        self._waiting.append((index, kafka, future, size, time.monotonic()))
        self._bytes += size

    def next_end(self) -> tuple[int, Any, Exception | None]:
        """Wait for the oldest message. Returns its index, its client, and its error or None."""
        index, kafka, future, size, sent_at = self._waiting.popleft()
        self._bytes -= size
        try:
            future.get(timeout=max(0.0, self.deadline - time.monotonic()))
        except Exception as error:  # noqa: BLE001  (the caller explains it)
            return index, kafka, error
        self.places[index] = future.value.partition, future.value.offset
        self._window.acknowledged(size, sent_at)
        if self.lost is None:
            self.deadline = time.monotonic() + self._seconds
        return index, kafka, None

    def lose(self, error: Exception) -> None:
        """Mark the broker as unavailable. Existing acknowledgements count; nothing is waited for
        any more."""
        self.lost = self.lost or error
        self.deadline = min(self.deadline, time.monotonic())
