"""The job that all queues run, and how they are told where everything is. Imports nothing that a
peer would have to install."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

HOSTS = os.environ["PEER_HOSTS"]
REDIS = os.environ["PEER_REDIS"]
NAME = os.environ["PEER_NAME"]
"""Of the topic, queue and group of this trial."""
LIMIT_SECONDS = 10

_notes = -1


def note(sent: float) -> None:
    """Note when it ran and when it was sent, in one short write."""
    global _notes
    if _notes < 0:
        _notes = os.open(os.environ["PEER_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_notes, f"{time.monotonic()} {sent}\n".encode())


def send_as_told(enqueue: Callable[[float], object]) -> None:
    """Enqueue `note` as often as the command line says, with so many seconds between."""
    count, pause = int(sys.argv[2]), float(sys.argv[3])
    for _ in range(count):
        enqueue(time.monotonic())
        if pause:
            time.sleep(pause)
