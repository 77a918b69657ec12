"""Starts a child process, and ends it with its host."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from embedkq._child import interpreter, output
from embedkq._ipc import channel

STARTING, READY, FAILED = b"starting", b"ready", b"failed"
SIGNALS_FOR_HOST = (signal.SIGINT, signal.SIGTERM)
_MESSAGE = re.compile(
    rb"(starting|failed|ready(?= [0-9]+ [0-9]{1,4}$)) ([0-9]{1,9}) (.*)", re.DOTALL
).fullmatch
EXIT_SECONDS = 2.0
"""Time limit for the exit hooks that jobs registered."""
_JOIN_SECONDS = 1.0
_HOST_CHECK_SECONDS = 0.5
_RETRY_SECONDS = 0.5

_registration: socket.socket | None = None
_at_fork = threading.local()


class Setup(NamedTuple):
    """Settings for all children of a pool.

    Attributes:
        host_pid: process id of the host, for platforms where a child must check that the host still
            runs.
        initializer: an encoded call to run before the first job; empty for none.
        levels: levels of the host's loggers, by name.
    """

    host_pid: int
    initializer: bytes
    levels: Mapping[str, int]


def in_child() -> bool:
    """Whether this is a child process of embedkq, or was forked from one. No worker starts
    there."""
    return _registration is not None


def prepare(registration: socket.socket, setup: Setup) -> None:
    """Prepare a child: set up output and signals, and run the initializer. If that fails, report it
    to the host and exit."""
    global _registration
    _registration = registration
    registration.setblocking(True)
    printed, token = output.redirect()
    tell_host(STARTING, [printed, *_own_descriptors()], token)
    os.close(printed)
    output.send_logs(setup.levels)
    # A signal to the whole process group or service is meant for the host, which lets running jobs
    # finish. Use a handler that does nothing instead of SIG_IGN: exec resets it, so that programs
    # that a job starts do not inherit an ignored signal. Forked processes do not inherit it either.
    for number in SIGNALS_FOR_HOST:
        signal.signal(number, _do_nothing)
    os.register_at_fork(
        before=_hold_signals, after_in_parent=_release_signals, after_in_child=_restore_signals
    )
    if not sys.platform.startswith("linux"):
        threading.Thread(
            target=_end_with_host, args=(setup.host_pid,), name="embedkq-host-watch", daemon=True
        ).start()
    if setup.initializer:
        _run_initializer(setup.initializer)


def tell_host(kind: bytes, descriptors: list[int], detail: str = "") -> None:
    """Send a message on the registration socket: kind, process id and detail."""
    if _registration is None:
        raise RuntimeError("only a child process of embedkq can register with a host")
    message = b"%s %d %s" % (
        kind,
        os.getpid(),
        detail.encode("utf-8", "backslashreplace")[-32_000:],
    )
    if descriptors:
        channel.send_descriptors(_registration, message, descriptors)
    else:
        _registration.send(message)


def parts_of(message: bytes) -> tuple[bytes, int, str]:
    """Parse a message of `tell_host`: kind, process id and detail. The kind is empty if the message
    is invalid. In the host."""
    found = _MESSAGE(message)
    return (found[1], int(found[2]), found[3].decode("utf-8", "replace")) if found else (b"", 0, "")


def _own_descriptors() -> list[int]:
    # The child sends its own pidfd, because the host could find a reused process id.
    if not hasattr(os, "pidfd_open"):
        return []
    try:
        return [os.pidfd_open(os.getpid())]
    except (
        OSError
    ) as error:  # Linux before 5.3, or an old seccomp profile: the host finds another way
        if error.errno not in channel.NOT_ALLOWED:
            raise
        return []


def _run_initializer(payload: bytes) -> None:
    from embedkq import codec

    try:
        function, args, kwargs = codec.decode_call(payload)
        function(*args, **kwargs)
    except BaseException:  # noqa: BLE001  (report any failure: this process is useless)
        give_up()


def give_up() -> NoReturn:
    """Report the current exception to the host as the reason that this process cannot start, and
    exit."""
    tell_host(FAILED, [], traceback.format_exc())
    time.sleep(_RETRY_SECONDS)  # pebble starts the next process as soon as this one ends
    leave(1)


def leave(status: int) -> NoReturn:
    """Flush the output and exit at once."""
    flush_output()
    os._exit(status)


def leave_in_order() -> NoReturn:
    """Run Python's exit hooks, for at most `EXIT_SECONDS`, and exit."""
    with contextlib.suppress(Exception):
        faulthandler.dump_traceback_later(
            EXIT_SECONDS, exit=True, file=os.open(os.devnull, os.O_WRONLY)
        )  # needs no GIL
    try:
        interpreter.run_exit_hooks(_JOIN_SECONDS)
    except BaseException:  # noqa: BLE001  (one hook raised; the others have run)
        traceback.print_exc()
    leave(0)


def flush_output() -> None:
    """Flush the output, because a process that is killed later cannot."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # a job closed it, or it never existed
            pass


def _do_nothing(*_: Any) -> None:
    pass


# Processes that a job forks handle signals normally again. Otherwise `multiprocessing.Pool` could
# not terminate its processes and would wait for them forever. Signals are blocked during the fork,
# because one that arrives right after it would still meet the handler that does nothing (seen: one
# in fifteen).
def _hold_signals() -> None:
    _at_fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_FOR_HOST)


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _at_fork.mask)


def _restore_signals() -> None:
    for number in SIGNALS_FOR_HOST:
        if signal.getsignal(number) is _do_nothing:
            signal.signal(number, signal.SIG_DFL)
    _release_signals()


def _end_with_host(host_pid: int) -> None:
    # On Linux, PR_SET_PDEATHSIG in the fork server ends children. Elsewhere a thread has to check.
    while _exists(host_pid):
        time.sleep(_HOST_CHECK_SECONDS)
    os._exit(1)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
