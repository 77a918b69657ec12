"""How a child process starts, and how it ends with its host."""

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
_TOLD = re.compile(
    rb"(starting|failed|ready(?= [0-9]+ [0-9]{1,4}$)) ([0-9]{1,9}) (.*)", re.DOTALL
).fullmatch
EXIT_SECONDS = 2.0
"""Limit of the exit hooks that jobs have registered."""
_JOIN_SECONDS = 1.0
_HOST_CHECK_SECONDS = 0.5
_RETRY_SECONDS = 0.5

_registration: socket.socket | None = None
_at_fork = threading.local()


class Setup(NamedTuple):
    """What every child of one pool gets on its way.

    Attributes:
        host_pid: process id of the host, for platforms where a child must look whether it is still
            there.
        initializer: an encoded call to make before the first job; empty for none.
        levels: of the host's loggers, by name.
    """

    host_pid: int
    initializer: bytes
    levels: Mapping[str, int]


def in_child() -> bool:
    """True in a child process of embedkq (and in what a job forked there): no worker starts
    there."""
    return _registration is not None


def prepare(registration: socket.socket, setup: Setup) -> None:
    """First call in a child: settle signals, run the user's initializer; a failure is told to the
    host before the process ends."""
    global _registration
    _registration = registration
    registration.setblocking(True)
    printed, token = output.redirect()
    tell_host(STARTING, [printed, *_own_descriptors()], token)
    os.close(printed)
    output.send_logs(setup.levels)
    # A signal to the whole process group or service is for the host, which finishes what runs. A
    # handler that does nothing, rather than SIG_IGN: exec resets it, so that what a job starts does
    # not inherit deafness; nor does what it forks.
    for number in SIGNALS_FOR_HOST:
        signal.signal(number, _do_nothing)
    os.register_at_fork(
        before=_hold_signals, after_in_parent=_release_signals, after_in_child=_hear_signals_again
    )
    if not sys.platform.startswith("linux"):
        threading.Thread(
            target=_end_with_host, args=(setup.host_pid,), name="embedkq-host-watch", daemon=True
        ).start()
    if setup.initializer:
        _run_initializer(setup.initializer)


def tell_host(kind: bytes, descriptors: list[int], detail: str = "") -> None:
    """One message on the registration socket: kind, process id and detail."""
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
    """Kind, process id and detail of what `tell_host` sent; an empty kind for what it cannot have
    sent. In the host."""
    found = _TOLD(message)
    return (found[1], int(found[2]), found[3].decode("utf-8", "replace")) if found else (b"", 0, "")


def _own_descriptors() -> list[int]:
    # The host gets the pidfd from the child itself: the number of a process that is gone may
    # already be another's.
    if not hasattr(os, "pidfd_open"):
        return []
    try:
        return [os.pidfd_open(os.getpid())]
    except (
        OSError
    ) as error:  # Linux before 5.3, and old profiles of seccomp: the host finds another way
        if error.errno not in channel.NOT_ALLOWED:
            raise
        return []


def _run_initializer(payload: bytes) -> None:
    from embedkq import codec

    try:
        function, args, kwargs = codec.decode_call(payload)
        function(*args, **kwargs)
    except BaseException:  # noqa: BLE001  (whatever ends it, the host is told and this process is of no use)
        give_up()


def give_up() -> NoReturn:
    """While an exception is handled: tell the host that it keeps this process from starting, and
    end."""
    tell_host(FAILED, [], traceback.format_exc())
    time.sleep(_RETRY_SECONDS)  # pebble starts the next one as soon as this one is gone
    leave(1)


def leave(status: int) -> NoReturn:
    """End this process at once; what it printed is written out first."""
    flush_output()
    os._exit(status)


def leave_in_order() -> NoReturn:
    """End this process as Python ends: its exit hooks run, for at most `EXIT_SECONDS`."""
    with contextlib.suppress(Exception):
        faulthandler.dump_traceback_later(
            EXIT_SECONDS, exit=True, file=os.open(os.devnull, os.O_WRONLY)
        )  # needs no GIL
    try:
        interpreter.run_exit_hooks(_JOIN_SECONDS)
    except BaseException:  # noqa: BLE001  (one hook's own; the others have run)
        traceback.print_exc()
    leave(0)


def flush_output() -> None:
    """Write out what was printed: a process that is killed later could not."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed by a job, or never there
            pass


def _do_nothing(*_: Any) -> None:
    pass


# What a job forks hears signals again: else `multiprocessing.Pool` would terminate its processes in
# vain and wait for them for ever. Around the fork they are blocked, for one that comes in its first
# moments would still meet the deaf handler (seen: one in fifteen).
def _hold_signals() -> None:
    _at_fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS_FOR_HOST)


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _at_fork.mask)


def _hear_signals_again() -> None:
    for number in SIGNALS_FOR_HOST:
        if signal.getsignal(number) is _do_nothing:
            signal.signal(number, signal.SIG_DFL)
    _release_signals()


def _end_with_host(host_pid: int) -> None:
    # Linux ends children by PR_SET_PDEATHSIG in the fork server; elsewhere somebody has to look.
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
