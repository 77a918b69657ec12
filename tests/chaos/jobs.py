"""The load's jobs. Each run leaves lines in a file of its host's, which outlive whatever happens to
it."""

from __future__ import annotations

import os
import signal
import time

_place: tuple[str, str] = ("", "")


def set_place(folder: str, host: str) -> None:
    """Initializer of each child: where to note, and for whom."""
    global _place
    _place = (folder, host)


def note(folder: str, host: str, *words: object) -> None:
    """One line in one write, so that lines of several processes do not mix and none is half
    there."""
    line = " ".join(map(str, (f"{time.monotonic():.6f}", *words))) + "\n"
    descriptor = os.open(
        os.path.join(folder, f"{host}.log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600
    )
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def work(number: int, key: str, kind: str, seconds: float) -> int:
    """One job: notes its beginning and end, and is good or bad in between."""
    note(*_place, "begin", number, key)
    time.sleep(seconds)
    if kind == "die":
        note(*_place, "end", number, key)
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        note(*_place, "end", number, key)
        while True:
            time.sleep(60)
    note(*_place, "end", number, key)
    if kind == "raise":
        raise ValueError(number)
    return number
