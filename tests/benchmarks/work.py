"""The jobs. Children import this module, so it imports next to nothing."""
from __future__ import annotations

import time


def noop(value: object) -> object:
    return value


def wait(seconds: float) -> None:
    """Takes so long and needs no processor."""
    time.sleep(seconds)


def burn(seconds: float) -> None:
    """Takes so much of a processor, however many others want it."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def take(blob: bytes) -> int:
    return len(blob)


def give(size: int) -> bytes:
    return bytes(size)


def age(sent: float) -> float:
    """Seconds since `time.monotonic()` was so much; the clock is the same for all processes."""
    return time.monotonic() - sent


def age_after_wait(sent: float, seconds: float) -> float:
    """`age` at the start, then takes so long."""
    found = age(sent)
    time.sleep(seconds)
    return found


def now() -> float:
    return time.monotonic()
