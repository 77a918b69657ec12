"""The host's side of a lock between processes. It uses no semaphore, so it needs no resource
tracker."""

from __future__ import annotations

import os
from typing import Any

from embedkq._ipc.fork_cleanup import register_fork_cleanup
from embedkq._ipc.multiprocessing_private import DupFd, context
from embedkq._ipc.startup import ByteLock, rebuild_lock


class PipeLock(ByteLock):
    """A `ByteLock` that the host creates. In a child it is a plain `ByteLock`."""

    def __init__(self) -> None:
        super().__init__(*os.pipe())
        os.set_blocking(self._reader, False)
        os.write(self._writer, b"x")
        register_fork_cleanup(self)

    def close_after_fork(self) -> None:
        """In a forked copy of the process, close the copies of the pipe."""
        self._close()

    def __reduce__(self) -> Any:
        context.assert_spawning(self)
        return rebuild_lock, (DupFd(self._reader), DupFd(self._writer))
