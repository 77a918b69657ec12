"""A mailbox: any thread puts items, and one thread takes them."""

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
    """Items for one thread, and a descriptor with which the thread can wait for them in a selector.

    `put` either raises `Closed`, or `take` or `close` returns the item.

    The descriptor is latched: it becomes readable with the first item in an empty mailbox and stays
    readable until `take`. So no wake-up is lost between a look at the items and the wait, and a
    thousand items cost one write. The lock is reentrant, and a signal handler may call `put` in the
    middle of any step, because it may interrupt a thread that is inside this class.
    """

    def __init__(self, notify: Callable[[], None] | None = None) -> None:
        """`notify` is called on the putting thread when the mailbox stops being empty. It must not
        block or raise."""
        self._items: deque[T] = deque()
        self._lock = threading.RLock()
        self._closed = False
        self._notify = notify
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)

    def __del__(self) -> None:
        # Somebody may still wait on the descriptor, so it is closed only with the last reference.
        if hasattr(self, "_writer"):
            self.close()

    def fileno(self) -> int:
        """A descriptor that is readable while there are items. Do not read from it."""
        return self._reader

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Put an item. Any thread.

        Raises:
            Closed: the mailbox is closed.
        """
        self.put_all((item,))

    def put_all(self, items: Iterable[T]) -> None:
        """Put several items, in order. Any thread.

        Raises:
            Closed: the mailbox is closed; no item was put.
        """
        with self._lock:
            if self._closed:
                raise Closed("this mailbox is closed: its owner has stopped")
            was_empty = not self._items
            self._items.extend(items)
            if was_empty:
                self._write()
        if was_empty and self._notify is not None:
            self._notify()

    def wake(self) -> None:
        """End a `wait` without an item, and notify. Does nothing once the mailbox is closed. Any
        thread."""
        if self.end_wait() and self._notify is not None:
            self._notify()

    def end_wait(self) -> bool:
        """End a `wait` without an item. Returns False once the mailbox is closed. Any thread, also
        in a signal handler."""
        with self._lock:
            if not self._closed:
                self._write()
            return not self._closed

    def take(self, most: int | None = None) -> list[T]:
        """Take all items, or at most `most`, oldest first. The mailbox's thread."""
        with self._lock:
            if self._closed:
                return []
            if most is None or most >= len(self._items):
                # Empty the pipe before the items are taken: an item that a signal handler puts
                # meanwhile is either among them, or writes again.
                self._empty_pipe()
                # A signal handler that puts before this assignment adds to the taken items.
                items, self._items = self._items, deque()
                return list(items)
            return [self._items.popleft() for _ in range(most)]

    def put_back(self, items: Sequence[T]) -> None:
        """Put unprocessed items back in front of the others. The mailbox's thread."""
        with self._lock:
            if items and not self._closed:
                self._items.extendleft(reversed(items))
                self._write()

    def wait(self, seconds: float | None) -> bool:
        """Wait up to `seconds` (None: forever) for an item. Returns whether there is one. The
        mailbox's thread."""
        if self._items:
            return True
        return wait_readable(self._reader, seconds)

    def close(self) -> list[T]:
        """Close the mailbox, so that `put` raises. Returns the remaining items; nothing the second
        time. The mailbox's thread."""
        with self._lock:
            if self._closed:
                return []
            self._closed = True
            items = list(self._items)
            os.close(self._reader)
            os.close(self._writer)
            return items

    def close_after_fork(self) -> None:
        """In a forked copy of the process, close the copies of the descriptors. Takes no lock,
        because its holder may not exist here."""
        if not self._closed:
            self._closed = True
            os.close(self._reader)
            os.close(self._writer)

    def _write(self) -> None:
        try:
            os.write(self._writer, b"!")
        except BlockingIOError:  # the pipe is full, so it is readable
            pass

    def _empty_pipe(self) -> None:
        try:
            os.read(self._reader, 4096)
        except BlockingIOError:
            pass
