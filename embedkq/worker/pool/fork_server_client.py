"""The host's side of the fork server: started with the first child, ended with the last user, never
shared with the host's own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import threading
import time
from collections.abc import Sequence

from embedkq._ipc.fork_cleanup import register_fork_cleanup
from embedkq._ipc.multiprocessing_private import import_path, interpreter_flags, start_program
from embedkq.worker.pool.pebble_private import WORKER_MODULE
from embedkq.worker.pool.python_executable import find_python

_PRELOAD = (WORKER_MODULE, "embedkq._ipc.startup", "embedkq._child.runner")
_END_SECONDS, _END_POLL_SECONDS = 1.0, 0.002
_COMMAND = (
    "import sys; sys.path[:] = {path!r}; from embedkq._child.fork_server import main;"
    " main({requests}, {alive}, {pid}, {preload!r})"
)


class ForkServer:
    """The one fork server of this process. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._pid: int | None = None
        self._alive: int | None = None
        self._requests: socket.socket | None = None
        register_fork_cleanup(self)

    def begin_use(self) -> None:
        """One more user; each calls `end_use` once."""
        with self._lock:
            self._users += 1

    def end_use(self) -> None:
        """One user less; after the last one the server ends, within about a second, and whatever it
        has forked with it."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._end()

    def fork(self, descriptors: Sequence[int]) -> tuple[int, int, int]:
        """A new child, which inherits the descriptors.

        Returns:
            A pipe with its process id (or a negative errno, if there is no child) and later its
            exit status, one to prepare it by, and a duplicate of that.

        Raises:
            OSError: no server can be started.
        """
        with self._lock, contextlib.ExitStack() as ours, contextlib.ExitStack() as childs:
            status, child_status = _pipe(ours, childs)
            child_preparation, preparation = _pipe(childs, ours)
            lifeline = os.dup(preparation)
            ours.callback(os.close, lifeline)
            self._ask([child_preparation, child_status, *descriptors])
            ours.pop_all()
            return status, preparation, lifeline

    def close_after_fork(self) -> None:
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
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as servers:
            requests, server_requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.push(requests)
            servers.push(server_requests)
            server_alive, alive = _pipe(servers, ours)
            requests.setblocking(True)
            # Above the standard streams, whose numbers they may have in a host that has closed
            # those.
            inherited: list[int] = []
            for end in (server_requests.fileno(), server_alive):
                inherited.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3))
                servers.callback(os.close, inherited[-1])
            code = _COMMAND.format(
                path=import_path(),
                requests=inherited[0],
                alive=inherited[1],
                pid=os.getpid(),
                preload=_PRELOAD,
            )
            executable = find_python()
            arguments = [executable, *interpreter_flags(), "-c", code]
            self._pid = start_program(executable, arguments, inherited)
            ours.pop_all()
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
        self._close()  # at which it kills all and leaves
        deadline = time.monotonic() + _END_SECONDS
        with contextlib.suppress(ChildProcessError):  # the host reaped it
            while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                time.sleep(_END_POLL_SECONDS)

    def _close(self) -> None:
        if self._requests is not None:
            self._requests.close()
        if self._alive is not None:
            os.close(self._alive)
        self._requests = self._alive = None


def _pipe(readers: contextlib.ExitStack, writers: contextlib.ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe()
    readers.callback(os.close, reader)
    writers.callback(os.close, writer)
    return reader, writer


server = ForkServer()
"""This process's own; a forked copy of the process starts another."""
