"""Mailbox: put from any thread, taken by the one thread that owns it."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from embedkq._ipc.channel import wait_readable
from embedkq.errors import Closed

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Items for one thread, and a descriptor by which it can wait for them among other things.

    The promise: `put` either raises `Closed`, or the item will be in what `take` or `close`
    returns.

    The descriptor is latched: it turns readable with the first item put into an empty box and stays
    so until `take`, so a wake-up cannot be lost between looking into the box and waiting for it,
    and a thousand items cost one write. The lock is reentrant and every step is sound when a signal
    handler puts in the middle of it: a handler may run on a thread that is inside here.
    """

    def __init__(self, notify: Callable[[], None] | None = None) -> None:
        """`notify` is called on the putting thread whenever the box stops being empty; it must
        neither block nor raise."""
        self._items: deque[T] = deque()
        self._lock = threading.RLock()
        self._closed = False
        self._notify = notify
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)

    def __del__(self) -> None:
        # Who waits for the descriptor may do so beyond the end, so it is closed with the last
        # reference.
        if hasattr(self, "_writer"):
            self.close()

    def fileno(self) -> int:
        """Descriptor that is readable while the box holds items. Not to be read from."""
        return self._reader

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Leave an item, on any thread.

        Raises:
            Closed: nobody will look any more.
        """
        self.put_all((item,))

    def put_all(self, items: Iterable[T]) -> None:
        """Leave several items, in their order, on any thread.

        Raises:
            Closed: nobody will look any more; none was left.
        """
        with self._lock:
            if self._closed:
                raise Closed("nobody looks into this mailbox any more: its owner has stopped")
            was_empty = not self._items
            self._items.extend(items)
            if was_empty:
                self._write()
        if was_empty and self._notify is not None:
            self._notify()

    def wake(self) -> None:
        """End a `wait` without an item, and notify; any thread. Does nothing once the box is
        closed."""
        if self.end_wait() and self._notify is not None:
            self._notify()

    def end_wait(self) -> bool:
        """End a `wait` without an item; any thread, also a signal handler. False, without doing
        anything, once the box is closed."""
        with self._lock:
            if not self._closed:
                self._write()
            return not self._closed

    def take(self, most: int | None = None) -> list[T]:
        """All items, or at most so many, oldest first. Owner's thread."""
        with self._lock:
            if self._closed:
                return []
            if most is None or most >= len(self._items):
                # Before the items: what a signal handler puts meanwhile is either among them or
                # writes again.
                self._empty_pipe()
                items, self._items = (
                    self._items,
                    deque(),
                )  # what a signal handler puts before this is done is among the old ones
                return list(items)
            return [self._items.popleft() for _ in range(most)]

    def put_back(self, items: Sequence[T]) -> None:
        """Leave what was taken and not dealt with, before all else. Owner's thread."""
        with self._lock:
            if items and not self._closed:
                self._items.extendleft(reversed(items))
                self._write()

    def wait(self, seconds: float | None) -> bool:
        """Until there is an item, or for so many seconds (None: for ever); whether there is one.
        Owner's thread."""
        if self._items:
            return True
        return wait_readable(self._reader, seconds)

    def close(self) -> list[T]:
        """From now on `put` raises; returns what was left. Owner's thread. Closing twice returns
        nothing."""
        with self._lock:
            if self._closed:
                return []
            self._closed = True
            items = list(self._items)
            os.close(self._reader)
            os.close(self._writer)
            return items

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the descriptors, without the lock,
        whose holder may not be here."""
        if not self._closed:
            self._closed = True
            os.close(self._reader)
            os.close(self._writer)

    def _write(self) -> None:
        try:
            os.write(self._writer, b"!")
        except BlockingIOError:  # full of wake-ups: readable it is
            pass

    def _empty_pipe(self) -> None:
        try:
            os.read(self._reader, 4096)
        except BlockingIOError:
            pass
