"""The host's side of the fork server: started with the first child, ended with the last user, never shared with the host's own."""
from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import sys
import threading
from collections.abc import Sequence
from multiprocessing import process, util

from embedkq.channel import wait_readable
from embedkq.forks import let_go_in_forks
from embedkq.worker.python_executable import find_python

_PRELOAD = ("pebble.pool.process", "embedkq.child.startup", "embedkq.child.runner")
_END_SECONDS = 1.0
_COMMAND = "import sys; sys.path[:] = {path!r}; from embedkq.child.server import main; main({requests}, {alive}, {pid}, {preload!r})"


def import_path() -> list[str]:
    """`sys.path` as a process in another directory must see it."""
    return [entry or process.ORIGINAL_DIR or os.getcwd() for entry in sys.path]  # type: ignore[attr-defined]


def interpreter_flags() -> list[str]:
    """The flags that this process's Python was started with, as a child of its must be: -O, -W, -X, -E, -I and their like."""
    flags: list[str] = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    for option, value in sys._xoptions.items():  # that function knows some of them only
        flag = option if value is True else f"{option}={value}"
        if flag not in flags and f"-X{flag}" not in flags:
            flags += ["-X", flag]
    return flags


class ForkServer:
    """The one fork server of this process. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._pid: int | None = None
        self._alive: int | None = None
        self._requests: socket.socket | None = None
        let_go_in_forks(self)

    def begin_use(self) -> None:
        """One more user; each calls `end_use` once."""
        with self._lock:
            self._users += 1

    def end_use(self) -> None:
        """One user less; after the last one the server ends, within about a second, and whatever it has forked with it."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._end()

    def fork(self, descriptors: Sequence[int]) -> tuple[int, int]:
        """A new child, which inherits the descriptors: a pipe with its process id and later its exit status, and one to prepare it by.

        Raises:
            OSError: no server can be started.
        """
        with self._lock:
            status, child_status = os.pipe()
            child_preparation, preparation = os.pipe()
            try:
                self._ask([child_preparation, child_status, *descriptors])
            except BaseException:
                os.close(status)
                os.close(preparation)
                raise
            finally:
                os.close(child_status)
                os.close(child_preparation)
            return status, preparation

    def disinherit(self) -> None:
        """In a forked copy of the process: the server is the parent's."""
        self._lock = threading.Lock()
        self._users = 0
        self._pid = None
        self._close()

    def _ask(self, descriptors: list[int]) -> None:
        for attempt in (1, 2):
            if self._pid is None or not self._is_alive():
                self._end()
                self._start()
            try:
                socket.send_fds(self._requests, [b"C"], descriptors)  # type: ignore[arg-type]
                return
            except OSError:
                if attempt == 2:
                    raise

    def _start(self) -> None:
        requests, server_requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server_alive, alive = os.pipe()
        inherited: list[int] = []
        try:
            requests.setblocking(True)
            # Above the standard streams, whose numbers they may have in a host that has closed those.
            inherited += (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in (server_requests.fileno(), server_alive))
            code = _COMMAND.format(
                path=import_path(), requests=inherited[0], alive=inherited[1], pid=os.getpid(), preload=_PRELOAD
            )
            executable = find_python()
            arguments = [executable, *interpreter_flags(), "-c", code]
            self._pid = util.spawnv_passfds(os.fsencode(executable), arguments, inherited)
        except BaseException:
            requests.close()
            os.close(alive)
            raise
        finally:
            server_requests.close()
            for descriptor in (server_alive, *inherited):
                os.close(descriptor)
        self._requests, self._alive = requests, alive

    def _is_alive(self) -> bool:
        # By the socket, not by waitpid: the host may reap all children, or ignore SIGCHLD.
        poll = select.poll()
        poll.register(self._requests, select.POLLHUP | select.POLLERR)  # type: ignore[arg-type]
        return not poll.poll(0)

    def _end(self) -> None:
        pid, self._pid = self._pid, None
        if pid is None:
            return
        watch = os.pidfd_open(pid) if hasattr(os, "pidfd_open") and _exists(pid) else None
        self._close()  # at which it kills all and leaves
        if watch is not None:
            wait_readable(watch, _END_SECONDS)
            os.close(watch)
        with contextlib.suppress(ChildProcessError):  # the host reaped it
            os.waitpid(pid, 0 if watch is None else os.WNOHANG)

    def _close(self) -> None:
        if self._requests is not None:
            self._requests.close()
        if self._alive is not None:
            os.close(self._alive)
        self._requests = self._alive = None


def _exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


server = ForkServer()
"""This process's own; a forked copy of the process starts another."""
