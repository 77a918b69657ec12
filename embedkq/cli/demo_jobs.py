"""The demo's jobs. A module of their own: children import jobs by name, and never the `__main__` of
their host."""

from __future__ import annotations

import os
import signal
import time
from typing import NoReturn


def square(number: int) -> int:
    """A job that does as it should."""
    return number * number


def divide_by_zero(number: int) -> float:
    """A job that raises."""
    return number / 0


def hang(number: int) -> NoReturn:
    """A job that never ends, in one of three ways: asleep, spinning, and deaf to SIGTERM."""
    if number % 3 == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        if number % 3 != 1:
            time.sleep(60)


def kill_own_process(number: int) -> None:
    """A job whose process dies: killed (as when memory runs out), or ended by a library that calls
    `exit()`."""
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)
