"""The demo's jobs. They are in a separate module because child processes import jobs by name and
never import the host's `__main__`."""

from __future__ import annotations

import os
import signal
import time
from typing import NoReturn


def square(number: int) -> int:
    """A job that returns a result."""
    return number * number


def divide_by_zero(number: int) -> float:
    """A job that raises."""
    return number / 0


def hang(number: int) -> NoReturn:
    """A job that never ends: it sleeps, spins, or ignores SIGTERM."""
    if number % 3 == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        if number % 3 != 1:
            time.sleep(60)


def kill_own_process(number: int) -> None:
    """A job whose process dies: by SIGKILL (as when memory runs out), or because a library calls
    `exit()`."""
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)
