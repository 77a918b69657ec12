"""The multiprocessing context that pebble is given.

Its children never import the host's `__main__`, are not among `multiprocessing.active_children()`,
use no named semaphore and no resource tracker, and die at once when they are killed, with all that
they started.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
import weakref
from typing import Any

from embedkq._ipc import multiprocessing_private
from embedkq._ipc.byte_lock import PipeLock
from embedkq._ipc.channel import wait_readable
from embedkq._ipc.fork_cleanup import register_fork_cleanup
from embedkq._ipc.multiprocessing_private import context, popen_of
from embedkq._ipc.startup import rebuild_process
from embedkq.worker.between_threads.shortage import RETRY_SECONDS, is_shortage
from embedkq.worker.pool.fork_server_client import server
from embedkq.worker.pool.python_executable import find_python

_MOST_DEAD = 100

HAS_FORK_SERVER = sys.platform.startswith("linux")


def make_context() -> Context:
    """A context whose processes come from this process's fork server, or where there is none
    (macOS) from `spawn`."""
    return Context() if HAS_FORK_SERVER else SpawnContext()


class Context(context.ForkServerContext):
    """For one pool; `close` it when the pool has ended."""

    def __init__(self) -> None:
        # Pebble drops a dead process when it sees it, which may be before anybody here could ask
        # how it ended.
        self._processes: dict[int, Any] = {}
        self.shortage: OSError | None = None
        """Why the start of a process waits; None if none does. Any thread."""
        self._thread = threading.get_ident()
        self._ended = threading.Event()
        self._closing = threading.Lock()
        self._connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._locks: weakref.WeakSet[PipeLock] = weakref.WeakSet()
        self._killed = self._closed = False
        register_fork_cleanup(self)
        self._begin()

    def Process(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """A process that is not started yet."""
        return self._process_class()(self, *args, **kwargs)

    def RLock(self) -> PipeLock:  # type: ignore[override]
        """A recursive lock between processes."""
        lock = PipeLock()
        self._locks.add(lock)
        return lock

    def Pipe(self, duplex: bool = True) -> Any:
        """Both ends of a connection, remembered for `close_after_fork`."""
        ends = super().Pipe(duplex)
        self._connections.update(ends)
        return ends

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the connections."""
        for connection in list(self._connections):
            if not connection.closed:
                connection.close()

    def close_leftovers(self) -> None:
        """Close all that a pool was given that could not start: pebble's objects refer to each
        other, and live until a collection."""
        self.close_after_fork()
        for lock in list(self._locks):
            lock.close_after_fork()

    def exit_code(self, pid: int, seconds: float) -> int | None:
        """Exit status of a child of this context, or minus the signal; waits at most so long. Until
        `forget`. Any thread."""
        child = self._processes.get(pid)
        if child is None:
            return None
        deadline = time.monotonic() + seconds
        while popen_of(child).poll() is None and time.monotonic() < deadline:
            popen_of(child).wait_status(deadline - time.monotonic())
        code: int | None = popen_of(child).returncode
        return code

    def sentinel_of(self, pid: int) -> int | None:
        """Descriptor that is readable once this child has ended, until `forget`; None while it is
        just being started. Any thread."""
        child = self._processes.get(pid)
        return None if child is None else int(child.sentinel)

    def retire(self, pid: int) -> None:
        """Let the pool take this child for ended, with status 0, so that another is started while
        it ends by itself. Any thread."""
        child = self._processes.get(pid)
        if child is not None:
            popen_of(child).retired = True

    def outwait(self, error: OSError) -> bool:
        """Wait for a moment because a process could not be started; False if nobody should wait.
        Any thread."""
        # An exception in pebble's own thread would end its pool, and with it all that runs there.
        # The thread that made this context starts the first processes, and has more to do than to
        # wait.
        if not is_shortage(error) or threading.get_ident() == self._thread:
            return False
        self.shortage = error
        return not self._ended.wait(RETRY_SECONDS)

    def end_waiting(self) -> None:
        """Stop waiting for processes that start. Any thread."""
        self._ended.set()

    def forget(self, pid: int) -> None:
        """Forget the exit status of this child. Any thread."""
        self._processes.pop(pid, None)

    def kill_all(self) -> None:
        """Kill every process at once, and each whose start is under way; no more are started. Any
        thread."""
        self._killed = True
        self._ended.set()
        for child in list(self._processes.values()):
            popen_of(child).kill_hard()

    @property
    def is_killed(self) -> bool:
        """Whether no further process is started. Any thread."""
        return self._killed

    def check_start(self) -> None:
        """Raise OSError if no further process is started. Any thread."""
        if self._killed:
            raise OSError(
                errno.ECANCELED, "the worker has stopped and starts no further child process"
            )

    def close(self) -> None:
        """No more processes are started; the server ends with its last context. Any thread; doing
        it twice does no harm."""
        self._killed = True
        with self._closing:
            if not self._closed:
                self._closed = True
                self._processes.clear()
                self._end()

    def _end(self) -> None:
        server.end_use()

    def _begin(self) -> None:
        server.begin_use()

    def _process_class(self) -> Any:
        return ForkServerProcess


class SpawnContext(Context):
    """Stand-in where there is no fork server."""

    def _end(self) -> None:
        pass

    def _begin(self) -> None:
        pass

    def _process_class(self) -> Any:
        return SpawnProcess


class _OwnProcess:
    """What both kinds of process share; first among the bases."""

    def __init__(self, own: Context, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own = own

    def start(self) -> None:
        """Start it; the host does not see it among its children, nor wait for it at exit."""
        self._own.check_start()
        super().start()  # type: ignore[misc]
        multiprocessing_private.hide(self)
        processes = self._own._processes
        dead = [
            pid for pid, child in list(processes.items()) if popen_of(child).returncode is not None
        ]
        for pid in dead[:-_MOST_DEAD]:  # they died before anybody here knew them
            processes.pop(pid, None)
        processes[self.pid] = self  # type: ignore[attr-defined]
        if self._own.is_killed:
            popen_of(self).kill_hard()

    def __reduce__(self) -> Any:
        # In the child a plain process: our own class lives beside the Kafka client, whose import
        # takes 0.2 s, and multiprocessing's subclasses would settle the start method there, which
        # is the job's to choose.
        return rebuild_process, (
            {key: value for key, value in vars(self).items() if key != "_own"},
        )


class ForkServerProcess(_OwnProcess, context.ForkServerProcess):
    """A child from the fork server."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return ForkServerPopen(process_obj)


class SpawnProcess(_OwnProcess, context.SpawnProcess):
    """A child from `spawn`."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        return SpawnPopen(process_obj)


class _Retiring:
    """What both kinds of running child share; first among the bases."""

    retired = False
    """Whether it passes for ended, with status 0, though it still runs."""

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code, once it has ended; None if it has not within that many seconds."""
        code: int | None = 0 if self.retired else super().wait(timeout)  # type: ignore[misc]
        return code

    def kill_hard(self) -> None:
        """End it and its process group at once, also if it passes for ended. Any thread."""
        if self.returncode is None and not wait_readable(self.sentinel, 0):  # type: ignore[attr-defined]
            with contextlib.suppress(ProcessLookupError, PermissionError):
                self.kill_process()  # type: ignore[attr-defined]


class ForkServerPopen(_Retiring, multiprocessing_private.ForkServerPopen):
    """A running child from the fork server. Its end may be asked for by several threads."""

    def __init__(self, process_obj: Any) -> None:
        self._owner = os.getpid()
        self._reading = threading.Lock()
        register_fork_cleanup(self)
        super().__init__(process_obj)

    def _launch(self, process_obj: Any) -> None:
        content = multiprocessing_private.prepared(self, process_obj)
        while True:
            try:
                self._fork(content)
                break
            except OSError as error:
                if not process_obj._own.outwait(error):
                    raise
        process_obj._own.shortage = None

    def _fork(self, content: memoryview) -> None:
        # The one end of the preparation is held open as long as this object lives: by its end a
        # child could see that of its parent.
        sentinel, preparation, lifeline = server.fork(multiprocessing_private.descriptors_of(self))
        try:
            with open(preparation, "wb") as file:
                file.write(content)
            pid = multiprocessing_private.read_status(sentinel)
            if pid < 0:
                raise OSError(-pid, os.strerror(-pid))
        except BaseException:
            os.close(sentinel)
            os.close(lifeline)
            raise
        self.pid, self.sentinel = pid, sentinel
        self._descriptors = (lifeline, sentinel)
        self.finalizer = multiprocessing_private.close_with(self, self._descriptors)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Its exit code; None while it runs."""
        if self.retired:
            return 0
        if os.getpid() != self._owner:
            return 255  # a forked copy: the pipe is the parent's to read
        if flag != os.WNOHANG:
            self.wait_status(None)
        with self._reading:
            code: int | None = super().poll(os.WNOHANG)
            return code

    def wait_status(self, seconds: float | None) -> None:
        """Wait until its exit status can be read, for at most this many seconds."""
        if self.returncode is None:
            wait_readable(self.sentinel, seconds)

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the pipes."""
        if self.returncode is None and hasattr(self, "_descriptors"):
            for descriptor in self._descriptors:
                os.close(descriptor)
            self.returncode = 255

    def _send_signal(self, sig: int) -> None:
        # terminate() too: pebble would wait 3 s for a job that ignores SIGTERM, one process after
        # another.
        if self.returncode is None and not self.retired and os.getpid() == self._owner:
            with contextlib.suppress(ProcessLookupError):
                self.kill_process()

    def kill_process(self) -> None:
        """SIGKILL to it and all that it has started. Raises OSError."""
        os.killpg(self.pid, signal.SIGKILL)


class SpawnPopen(_Retiring, multiprocessing_private.SpawnPopen):
    """A running child from `spawn`."""

    def __init__(self, process_obj: Any) -> None:
        self._reading = threading.Lock()
        super().__init__(process_obj)

    def _launch(self, process_obj: Any) -> None:
        tracker = multiprocessing_private.tracker_descriptor()
        multiprocessing_private.descriptors_of(self).append(tracker)
        content = multiprocessing_private.prepared(self, process_obj)
        self.sentinel, child_sentinel = os.pipe()
        child_preparation, preparation = os.pipe()
        command = multiprocessing_private.spawn_command(tracker, child_preparation)
        multiprocessing_private.descriptors_of(self).extend([child_preparation, child_sentinel])
        self.pid = multiprocessing_private.start_program(
            find_python(), command, multiprocessing_private.descriptors_of(self)
        )
        self.finalizer = multiprocessing_private.close_with(self, (self.sentinel,))
        os.close(child_preparation)
        os.close(child_sentinel)
        with open(preparation, "wb") as file:
            file.write(content)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Its exit code; None while it runs."""
        if self.retired:
            return 0
        if flag != os.WNOHANG:
            self.wait_status(None)
        with self._reading:
            code: int | None = super().poll(flag)
            return code

    def wait_status(self, seconds: float | None) -> None:
        """Wait until it has ended, for at most this many seconds."""
        if self.returncode is None:
            wait_readable(self.sentinel, seconds)

    def _send_signal(self, sig: int) -> None:
        if not self.retired:
            super()._send_signal(signal.SIGKILL)  # type: ignore[misc]

    def kill_process(self) -> None:
        """SIGKILL to it. Raises OSError."""
        os.kill(self.pid, signal.SIGKILL)
