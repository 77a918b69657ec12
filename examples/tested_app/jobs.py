"""Jobs that go wrong in every way. The module imports no more than the jobs need, so that a new
child process is soon ready."""

from __future__ import annotations

import os
import signal
import time


def total(prices: list[int]) -> int:
    """A good job."""
    return sum(prices)


def never_ends(order: int) -> None:
    """A job that only a kill can end."""
    while True:
        order += 1


def sleeps(order: int) -> None:
    """A job that waits for somebody who does not answer."""
    time.sleep(3600 + order)


def crashes(order: int) -> None:
    """A job that takes its process with it."""
    os.kill(os.getpid(), signal.SIGKILL)


def fails(order: int) -> None:
    """A job that raises."""
    raise LookupError(f"no order {order}")
