"""The jobs. Children import this module, so it imports next to nothing."""

from __future__ import annotations

import ctypes
import json
import os
import socket
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


def tell(path: str, kind: str) -> None:
    """Leave word with whoever watches: what happened, in which process, when."""
    at = time.monotonic()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as outbox:
        outbox.sendto(json.dumps([kind, os.getpid(), at]).encode(), path)


def hang(path: str, number: int) -> None:
    """Tell that it begins, then never end: asleep, busy, or stuck in C where no signal handler gets
    a turn, as the number says."""
    tell(path, "hang")
    while True:
        if number % 3 == 0:
            time.sleep(60)
        elif number % 3 == 1:
            ctypes.PyDLL(None).sleep(60)
