"""The fork server: a small process for each host that forks the children. It ends with its host and
kills all children.

It has one thread, so forking is safe, and it imports in advance what children need. It is the
subreaper of its children, and each child is the subreaper of its own. So whatever a job started,
even with `setsid` or a double fork, becomes a child of this process when the job's process dies,
and is killed. It is not `multiprocessing.forkserver`, whose single server would be shared with the
application.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from embedkq._ipc.multiprocessing_private import close_stdin, run_child, write_status

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_MOST_DESCRIPTORS = 250
_ROUNDS = 200
_SIGNALS_IGNORED = (signal.SIGINT, signal.SIGTERM)


def main(requests: int, alive: int, host_pid: int, preload: Sequence[str]) -> NoReturn:
    """Serve until the host ends or closes the connection.

    Args:
        requests: descriptor of the socket on which the host requests children.
        alive: descriptor of a pipe that the host holds open.
        host_pid: the host's process id.
        preload: modules that children need.
    """
    for stream in (
        0,
        1,
        2,
    ):  # if the host has closed them, a child's next files would get these numbers
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    Server(socket.socket(fileno=requests), alive, host_pid).run(preload)


class Server:
    """Forks children on request, reports their exit statuses, and kills everything they leave
    behind."""

    def __init__(self, requests: socket.socket, alive: int, host_pid: int) -> None:
        requests.setblocking(True)
        self._requests = requests
        self._alive = alive
        self._host_pid = host_pid
        self._host_gone = False
        self._children: dict[int, int] = {}
        """By process id, the pipe on which the host waits for the exit status."""
        self._defaults: dict[int, Any] = {}
        self._wakeup_reader, self._wakeup_writer = os.pipe()
        self._descriptor_limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def run(self, preload: Sequence[str]) -> NoReturn:
        """Prepare, then serve until the host ends."""
        self._prepare()
        for module in preload:
            with contextlib.suppress(
                ImportError
            ):  # the child's own import reports the error better
                __import__(module)
        close_stdin()
        with selectors.DefaultSelector() as selector:
            for descriptor in (self._requests, self._alive, self._wakeup_reader):
                selector.register(descriptor, selectors.EVENT_READ)
            while self._turn(selector):
                pass
        self._kill_all()
        os._exit(0)

    def _turn(self, selector: selectors.BaseSelector) -> bool:
        ready = {key.fileobj for key, _ in selector.select()}
        if self._host_gone or self._alive in ready:
            return False
        if self._wakeup_reader in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup_reader, 65536)
            self._reap()
        if self._requests in ready:
            return self._answer(selector)
        return True

    def _prepare(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        signal.signal(signal.SIGHUP, self._on_parent_thread_end)
        for number in (
            _SIGNALS_IGNORED
        ):  # the host handles these signals and ends this process when it is done
            self._defaults[number] = signal.signal(number, signal.SIG_IGN)
        self._defaults[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        for end in (self._wakeup_reader, self._wakeup_writer):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        with contextlib.suppress(
            OSError, ValueError
        ):  # the server holds a pipe for each child, and the descriptors for a new one
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (self._descriptor_limits[1], self._descriptor_limits[1])
            )
        _prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        if os.getppid() != self._host_pid:  # the host ended before prctl
            os._exit(0)

    def _on_parent_thread_end(self, *_: Any) -> None:
        # The kernel signals the end of the *thread* that started this process (prctl(2)). The host
        # itself may still be running.
        self._host_gone = self._host_gone or os.getppid() != self._host_pid

    # Children.

    def _answer(self, selector: selectors.BaseSelector) -> bool:
        """Fork a child on request. Returns False if the host has ended."""
        try:
            message, descriptors, flags, _ = socket.recv_fds(self._requests, 1, _MOST_DESCRIPTORS)
        except OSError:
            return False
        if not message:
            return False
        if flags & socket.MSG_CTRUNC or len(descriptors) < 2:
            _refuse(descriptors, errno.EMFILE)
            return True
        preparation, status, *inherited = descriptors
        try:
            pid = os.fork()
        except OSError as error:
            _refuse(descriptors, error.errno or errno.EAGAIN)
            return True
        if pid == 0:
            self._become_child(selector, preparation, status, inherited)
        with contextlib.suppress(OSError):  # the child does the same; either may be first
            os.setpgid(pid, pid)
        self._children[pid] = status
        _write(status, pid)
        for descriptor in (preparation, *inherited):
            os.close(descriptor)
        return True

    def _become_child(
        self, selector: selectors.BaseSelector, preparation: int, status: int, inherited: list[int]
    ) -> NoReturn:
        code = 1
        try:
            server_pid = os.getppid()
            signal.set_wakeup_fd(-1)
            for number, handler in {**self._defaults, signal.SIGHUP: signal.SIG_DFL}.items():
                signal.signal(number, handler)
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, self._descriptor_limits)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
            if os.getppid() != server_pid:
                os._exit(1)
            os.setpgid(0, 0)
            selector.close()
            self._requests.close()
            for descriptor in (
                self._alive,
                status,
                self._wakeup_reader,
                self._wakeup_writer,
                *self._children.values(),
            ):
                os.close(descriptor)
            code = run_child(preparation, inherited)
        except BaseException:  # noqa: BLE001  (the child must never return into the server's loop)
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)

    def _reap(self) -> None:
        reaped = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            reaped = True
            pipe = self._children.pop(pid, None)
            if pipe is not None:
                _kill_group(pid)
                _write(pipe, os.waitstatus_to_exitcode(status))
                os.close(pipe)
        if reaped:
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        """Kill the processes that a dead child left. A living child's processes never come here,
        because each child is a subreaper."""
        for pid in _children_of_this_process():
            if pid not in self._children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _kill_all(self) -> None:
        for _ in range(_ROUNDS):  # when parents die, their children come here
            pids = _children_of_this_process() or list(self._children)
            if not pids:
                return
            for pid in pids:
                _kill_group(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in pids:
                self._children.pop(pid, None)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def _prctl(option: int, argument: int) -> None:
    ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _refuse(descriptors: list[int], number: int) -> None:
    """Report why no child was forked, if there is a pipe for that."""
    if len(descriptors) > 1:
        _write(descriptors[1], -number)
    for descriptor in descriptors:
        os.close(descriptor)


def _write(pipe: int, number: int) -> None:
    with contextlib.suppress(OSError):  # the host has closed the pipe
        write_status(pipe, number)


def _children_of_this_process() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return []
