"""Children that are done and end by themselves: their exit hooks may take a while, and nobody waits
for that. Control thread."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from embedkq._child.process import EXIT_SECONDS
from embedkq._ipc import channel
from embedkq.worker.between_threads.stop_deadline import StopDeadline
from embedkq.worker.pool.child_handle import Child

_LATE_SECONDS, _KILL_SECONDS, _LOOK_SECONDS = 1.0, 0.3, 0.02


class LeavingChildren:
    """Those in whose place others are started already.

    Args:
        selector: where to wait for their ends.
        on_reply: called with a child that may have something to read.
        release: called with a child whose process is gone.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        on_reply: Callable[[Child[Any]], None],
        release: Callable[[Child[Any]], None],
    ) -> None:
        self._selector, self._on_reply, self._release = selector, on_reply, release
        self._deadlines: dict[Child[Any], float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, child: Child[Any]) -> None:
        """This child leaves; from now on only this object watches it."""
        self._deadlines[child] = time.monotonic() + EXIT_SECONDS + _LATE_SECONDS
        if child.watched is not None:
            self._selector.register(child.watched, selectors.EVENT_READ, partial(self._gone, child))

    def kill_late(self, now: float) -> None:
        """End those that should be gone by now."""
        for child in [child for child, deadline in self._deadlines.items() if now > deadline]:
            child.kill()
            if child.watched is None:  # nothing shows when it is gone
                self._gone(child)

    def await_ends(self, others: list[Child[Any]], stop: StopDeadline) -> None:
        """Wait until these and the others are gone, and kill those that take too long: once the
        stop hurries, in a moment."""
        leaving = [*others, *self._deadlines]
        deadline = time.monotonic() + EXIT_SECONDS + _KILL_SECONDS
        hurries = False
        while leaving and time.monotonic() < deadline:
            if not hurries and stop.hurries:
                hurries, deadline = True, min(deadline, time.monotonic() + stop.left(_KILL_SECONDS))
            if leaving[0].watched is None or channel.wait_readable(
                leaving[0].watched, _LOOK_SECONDS
            ):
                leaving.pop(0)
            for child in leaving:  # an exit hook must not wait until somebody reads what it prints
                self._on_reply(child)
                child.output.read(child.job_id)
        for child in leaving:
            child.kill()
        deadline = time.monotonic() + _KILL_SECONDS
        for child in leaving:
            if child.watched is not None:
                channel.wait_readable(child.watched, deadline - time.monotonic())

    def release_all(self) -> None:
        """All of them are gone."""
        for child in list(self._deadlines):
            self._gone(child)

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the descriptors."""
        for child in self._deadlines:
            child.close()

    def _gone(self, child: Child[Any]) -> None:
        del self._deadlines[child]
        self._on_reply(child)
        self._release(child)
