"""Jobs for the worker's tests, importable by child processes. They tell what they did by lines in a
file."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def echo(*args: Any, **kwargs: Any) -> Any:
    """Returns what it was given."""
    return args, kwargs


def note(path: str, text: object) -> object:
    """Append one line to a file, in one write, so that lines of several processes do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)
    return text


def note_and_fail(path: str, text: object) -> None:
    note(path, text)
    raise LookupError(f"no {text}")


def fail_with(text: object) -> None:
    raise LookupError(text)


def fail_times(path: str, text: object, times: int, how: str = "raise") -> object:
    """Notes that it was begun; fails, hangs or dies so many times, then returns how often it was
    begun."""
    note(path, text)
    begun = read(path).count(str(text))
    if begun <= times:
        if how == "hang":
            time.sleep(60)
        if how == "die":
            os._exit(3)
        raise FileNotFoundError(f"time {begun}")
    return begun


def kill_host(path: str, pid_file: str) -> None:
    """Kills the worker's own process, which has written its number to a file."""
    note(path, "poison")
    os.kill(int(Path(pid_file).read_text()), signal.SIGKILL)
    time.sleep(60)


def fail_with_causes(count: int) -> None:
    """Fails with a long traceback."""
    error = None
    for number in range(count):
        try:
            raise LookupError(f"cause {number}") from error
        except LookupError as caught:
            error = caught
    raise LookupError("the last") from error


def note_and_wait(path: str, text: object, gate: str) -> object:
    """Note the start, then wait until the gate is a file."""
    note(path, text)
    while not Path(gate).exists():
        time.sleep(0.01)
    return text


def note_both_ends(path: str, text: object, seconds: float = 0.0) -> object:
    note(path, f"begin {text}")
    time.sleep(seconds)
    note(path, f"end {text}")
    return text


def fail_noting_both_ends(path: str, text: object) -> None:
    note(path, f"begin {text}")
    note(path, f"end {text}")
    raise LookupError(text)


def hang_noting_begin(path: str, text: object) -> None:
    note(path, f"begin {text} {os.getpid()}")
    while True:
        time.sleep(60)


def life_of(pid: int) -> str:
    """State letter of a process as /proc tells it, Z for one that is dead and not reaped, empty for
    one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def note_with_lives(path: str, text: object) -> object:
    """Note both ends, and between them which processes that hung in this file before are still
    alive."""
    hung = [
        line.split()
        for line in Path(path).read_text().splitlines()
        if line.startswith("begin") and len(line.split()) == 3
    ]
    alive = [pid for _, _, pid in hung if life_of(int(pid)) not in ("", "Z", "X")]
    note(path, f"begin {text}")
    note(path, f"end {text}")
    return alive


def spin(path: str) -> None:
    note(path, f"{time.monotonic()} {os.getpid()}")
    while True:
        pass


def sleep(path: str) -> None:
    note(path, f"{time.monotonic()} {os.getpid()}")
    time.sleep(60)


def stick_in_c(path: str) -> None:
    """Sleeps in C with the GIL held: no signal handler and no other thread of the child gets a
    turn."""
    note(path, f"{time.monotonic()} {os.getpid()}")
    ctypes.PyDLL(None).sleep(60)


def ignore_sigterm(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(path, f"{time.monotonic()} {os.getpid()}")
    while True:
        time.sleep(60)


def tell_worker_of(module: str) -> tuple[str, int, list[str]]:
    """State of the `worker` of a module that this process has imported, this process, and its
    embedkq threads."""
    worker = sys.modules[module].worker  # type: ignore[attr-defined]
    return (
        str(worker.state),
        os.getpid(),
        [thread.name for thread in threading.enumerate() if "embedkq" in thread.name],
    )


class Unreadable:
    """Pickles, and cannot be unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class DeadlyToRead:
    """Pickles, and kills the process that unpickles it, which it notes."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return note_and_die, (self.path,)


def note_and_die(path: str) -> None:
    note(path, os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def exit_process() -> None:
    os._exit(3)


def raise_system_exit() -> None:
    sys.exit(2)


def return_generator() -> Any:
    return (number for number in range(3))


async def answer_later() -> str:
    import asyncio

    await asyncio.sleep(0.01)
    return "later"


def note_slowly(path: str, text: object) -> None:
    time.sleep(0.005)
    note(path, text)


def pause_if(condition: object) -> None:
    if condition:
        time.sleep(0.02)


def read(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def log_some() -> None:
    shop = logging.getLogger("shop")
    shop.debug("not told")
    shop.info("sold %d %s", 3, "apples")
    logging.getLogger("shop.till").warning("no change")
    try:
        1 / 0
    except ZeroDivisionError:
        shop.exception("burnt")


def log_and_sleep(seconds: float) -> None:
    logging.getLogger("shop").info("begun")
    time.sleep(seconds)


def log_for_ever() -> None:
    while True:
        logging.getLogger("shop").info("again")


def print_some() -> None:
    print("to stdout", flush=True)
    print("to stderr", file=sys.stderr, flush=True)
    os.system("echo from a shell")
    os.write(1, b"without end")


def fill_stdout(lines: int) -> None:
    for _ in range(lines):
        print("x" * 200)


def read_environment(name: str) -> str | None:
    return os.environ.get(name)


def set_clock(jump: float) -> None:
    """As if somebody had set the clock, for all that this child does from now on."""
    really = time.time
    time.time = lambda: really() + jump


# For the red team: what a job could do that means harm to its host.


def _runner() -> Any:
    """The child's own end, found where no job has business."""
    frame = sys._getframe()
    while frame is not None and type(frame.f_locals.get("self")).__name__ != "Runner":
        frame = frame.f_back  # type: ignore[assignment]
    return frame.f_locals["self"]


def speak_to_host(content: bytes, seconds: float) -> None:
    """Send bytes as if they were the child's reply."""
    _runner()._end.send(content)
    time.sleep(seconds)


def scribble_on_page() -> None:
    """Write phases that there are not, and times to come."""
    words, number = _runner()._page._words, _runner()._number
    for state in range(8):
        words[1] = 2**64 - 1
        words[0] = number << 3 | state
        time.sleep(0.03)
    words[0], words[1] = number << 3 | 2, time.monotonic_ns()


def register_nonsense() -> None:
    """Say things where children register."""
    from embedkq._child import process

    for message in (
        b"x",
        b"ready 1 0",
        b"failed 1 nothing",
        b"ready x y",
        b"starting 99999999999 ",
        b"starting 1 ",
        b" " * 100,
    ):
        process._registration.send(message)  # type: ignore[union-attr]
        time.sleep(0.01)


def return_bytes(data: bytes) -> bytes:
    return data


def raise_bytes(data: bytes) -> None:
    raise LookupError(data)


def log_and_print_bytes(data: bytes) -> None:
    logging.getLogger("shop").warning("%s", data.decode("latin-1"))
    os.write(1, data)


def log_to_many(count: int) -> None:
    for number in range(count):
        logging.getLogger(f"made-up.{number}").warning("hello")


def enqueue_on(queue: Any, *args: Any) -> str:
    """Puts a further job on a queue that travelled as an argument."""
    job: str = queue.enqueue(echo, *args).id
    return job
