"""Jobs that look at themselves, importable by child processes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import workerjobs

from embedkq import current_job


def me(*_: Any) -> tuple[Any, ...]:
    """All that a job knows, and when it was asked."""
    found = current_job()
    assert current_job() is found
    return (*found, time.time())


def me_at_third(path: str) -> list[int]:
    workerjobs.note(path, current_job().attempt)
    workerjobs.fail_times(path + "-times", "again", 2)
    return [int(line) for line in workerjobs.read(path)]


async def me_in_a_loop() -> list[str]:
    others = [await asyncio.to_thread(lambda: current_job().id)]
    return [current_job().id, await asyncio.create_task(_id()), *others]


async def _id() -> str:
    return current_job().id


def me_in_threads() -> list[str]:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(current_job().id))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(2) as pool:
        found += pool.map(lambda _: current_job().id, range(4))
    return found


def me_in_a_fork() -> str:
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, current_job().id.encode())
        os._exit(0)
    os.wait()
    return os.read(reading, 100).decode()


_outlived: list[str] = []


def leave_a_thread() -> None:
    def look() -> None:
        while len(_outlived) < 3:
            try:
                _outlived.append(current_job().id)
            except RuntimeError as error:
                _outlived.append(type(error).__name__)
            time.sleep(0.3)

    threading.Thread(target=look, daemon=True).start()


def what_the_thread_saw() -> list[str]:
    while len(_outlived) < 3:
        time.sleep(0.01)
    return _outlived


_at_start: list[str] = []


def ask_too_early() -> None:
    """An initializer."""
    try:
        current_job()
    except RuntimeError as error:
        _at_start.append(str(error))


def what_was_said_too_early() -> list[str]:
    return _at_start


def sleep(seconds: float) -> None:
    time.sleep(seconds)


class Unloadable:
    """Can be pickled anywhere, and unpickled nowhere."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("it cannot be loaded")
