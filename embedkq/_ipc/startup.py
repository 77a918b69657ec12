"""The objects from which a child is unpickled. This module imports little, so that children start
fast."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

from embedkq._ipc.channel import wait_readable
from embedkq._ipc.multiprocessing_private import context


class ByteLock:
    """A recursive lock between processes: a pipe with one byte. The reader of the byte holds the
    lock."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._holder: tuple[int, int] | None = None
        self._depth = 0

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire the lock, also if this thread already holds it. Returns whether that worked
        within `timeout` seconds."""
        me = os.getpid(), threading.get_ident()
        if self._holder == me:
            self._depth += 1
            return True
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with contextlib.suppress(BlockingIOError):
                if os.read(self._reader, 1):
                    self._holder, self._depth = me, 1
                    return True
            rest = None if deadline is None else deadline - time.monotonic()
            if not block or (rest is not None and rest <= 0):
                return False
            wait_readable(self._reader, rest)

    def release(self) -> None:
        """Release the lock. Call it as often as `acquire`."""
        self._depth -= 1
        if not self._depth:
            self._holder = None
            os.write(self._writer, b"x")

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            reader, writer = self._reader, self._writer
            del self._reader, self._writer
            os.close(reader)
            os.close(writer)


def rebuild_lock(reader: Any, writer: Any) -> ByteLock:
    """Rebuild the lock in the child from the inherited descriptors."""
    return ByteLock(reader.detach(), writer.detach())


def rebuild_process(state: dict[str, Any]) -> context.Process:
    """Rebuild the process object in the child with the attributes of the host's."""
    child = context.Process.__new__(context.Process)
    vars(child).update(state)
    return child
