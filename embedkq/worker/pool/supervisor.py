"""Supervisor: keeps a number of child processes alive. The only user of pebble. Control thread.

A child is one long task (`child.runner.serve`) of a `pebble.ProcessPool`, in one of the pool's
slots. When a child is dead its task's future is cancelled, so that pebble reaps the process and
starts another, for which `serve` is scheduled again. Nothing of a job passes through pebble's own
pipe, lock and exceptions: an exception that cannot be rebuilt breaks a whole pebble pool, and a
result whose unpickling raises leaves its future unfinished for ever (both seen with pebble 5.2.3).
"""

from __future__ import annotations

import errno
import math
import os
import selectors
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from embedkq._child import process
from embedkq._child.output import mark_of
from embedkq._child.runner import serve
from embedkq._ipc import channel
from embedkq._safe_logging import SafeLogger, levels
from embedkq.worker.between_threads.shortage import RETRY_SECONDS, is_shortage
from embedkq.worker.between_threads.stop_deadline import StopDeadline
from embedkq.worker.pool import child_starts
from embedkq.worker.pool.child_handle import Child
from embedkq.worker.pool.child_starts import StartFailures, StartingChild, close_all
from embedkq.worker.pool.job_output import Output
from embedkq.worker.pool.leaving import LeavingChildren
from embedkq.worker.pool.mp_context import make_context
from embedkq.worker.pool.pebble_private import ProcessPool

logger = SafeLogger("embedkq.worker")

_EXIT_CODE_SECONDS = 0.5
_HANG_UP_SECONDS = 0.3
_LOOK_SECONDS = 1.0
_READY_DESCRIPTORS = 7


class Supervisor:
    """The children of one pool, from their start to their end.

    The selector is the caller's: descriptors are registered in it with a callable as data, which
    the caller calls when one is ready.

    Args:
        processes: number of children to keep.
        selector: where to wait for their news.
        initializer: an encoded call for each child to make before its first job; empty for none.
        on_ready: called with a child that may be given jobs.
        on_reply: called with a child that has something to read.
        on_death: called with a child whose process is gone; it must end with `replace`.
    """

    started = 0
    """How many have started so far."""
    look_at = 0.0
    """`time.monotonic()` at which `look` wants to be called."""
    _silent_looks = 0
    _deaf = False
    """Whether registrations wait until this process has descriptors for them."""

    def __init__(
        self,
        processes: int,
        selector: selectors.BaseSelector,
        *,
        initializer: bytes,
        on_ready: Callable[[Child[Any]], None],
        on_reply: Callable[[Child[Any]], None],
        on_death: Callable[[Child[Any]], None],
    ) -> None:
        self.children: dict[int, Child[Any]] = {}
        """By process id those that are ready, at work, or dying."""
        self.weak_since: float | None = time.monotonic()
        """`time.monotonic()` since which there are fewer than there should be; None if there are
        enough."""
        self._processes = processes
        self._selector = selector
        self._setup = process.Setup(os.getpid(), initializer, levels())
        self._on_ready, self._on_reply, self._on_death = on_ready, on_reply, on_death
        self._leaving = LeavingChildren(selector, on_reply, self._release)
        self._starting: dict[int, StartingChild] = {}
        self._failures = StartFailures()
        self._futures: dict[int, Future[None]] = {}
        self._registration, self._children_end = channel.pair()
        self._registration.setblocking(False)
        self.context = make_context()
        """What the processes are of."""
        selector.register(self._registration, selectors.EVENT_READ, self._hear)
        self._pebble: ProcessPool | None = None
        self._start_pebble()

    def look(self, now: float) -> None:
        """Bring the children to full strength, where no event would."""
        self.look_at = now + _LOOK_SECONDS
        for pid, starting in list(self._starting.items()):
            if now > starting.deadline:
                os.kill(pid, signal.SIGKILL)
        self._leaving.kill_late(now)
        if self._pebble is None:
            self._start_pebble()
        elif not self._pebble.active:
            self._replace_pebble()
        if self._deaf:
            self._selector.register(self._registration, selectors.EVENT_READ, self._hear)
            self._deaf = False
            self._hear()
        self._watch_starting()
        for child in [child for child in self.children.values() if child.watched is None]:
            self._watch(child)
        if (shortage := self.context.shortage) is not None:
            self._tell_shortage(shortage)
        waits = self._starting or self._deaf or self._pebble is None or shortage is not None
        # In looks and not in seconds: this process may have been frozen meanwhile.
        is_silent = self.weak_since is not None and not waits
        self._silent_looks = self._silent_looks + 1 if is_silent else 0
        if self._silent_looks * _LOOK_SECONDS > child_starts.START_SECONDS:
            raise self._failures.giving_up(
                f"no child process has registered for {child_starts.START_SECONDS:g} s: what it"
                " printed is on this process's stderr (was the package upgraded under the running"
                " process?)"
            )
        alive = {child.slot for child in self.children.values()}
        for slot, future in list(self._futures.items()):
            if slot not in alive and future.done():
                self._schedule(slot)

    def let_go(self, child: Child[Any]) -> None:
        """Have another started in the place of a child that is done and leaves by itself; its exit
        hooks may take a while."""
        if len(self._leaving) >= self._processes:
            # it is replaced when it has left: jobs must not fill the machine with processes that
            # take long to end
            return
        child.check_at = math.inf
        del self.children[child.pid]
        self.weak_since = self.weak_since or time.monotonic()
        self._unwatch(child.watched)
        self._leaving.add(child)
        self.context.retire(child.pid)
        self._schedule(child.slot)

    def replace(self, child: Child[Any]) -> None:
        """Give back what a dead child had, and have another started in its place."""
        self._forget(child)
        self._schedule(child.slot)

    def stop_hard(self, child: Child[Any]) -> None:
        """End a child's process at once, whatever it does."""
        child.kill()
        self._futures[child.slot].cancel()

    def exit_code(self, pid: int) -> int | None:
        """Exit status of a dead child, or minus the signal; None if it does not come in time."""
        return self.context.exit_code(pid, _EXIT_CODE_SECONDS)

    def close(self, stop: StopDeadline) -> None:
        """End all children: what has nothing to do by itself, in up to `EXIT_SECONDS` and half a
        second, the rest at once."""
        self.context.end_waiting()
        if self._pebble is not None:
            # first, or pebble would replace the children that leave
            self._pebble.stop()  # type: ignore[no-untyped-call]
        for child in self.children.values():
            if child.tasks:
                child.kill()
            else:
                child.hang_up()
        self._leaving.await_ends(list(self.children.values()), stop)
        if self._pebble is not None:
            self._pebble.join()
        for child in list(self.children.values()):
            self._on_reply(child)  # what exit hooks have logged
            self._forget(child)
        self._leaving.release_all()
        for pid in list(self._starting):
            self._forget_starting(pid)
        self._unwatch(self._registration.fileno())
        self._registration.close()
        self._children_end.close()
        self.context.close()

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the descriptors; the children are
        the parent's."""
        for child in self.children.values():
            child.close()
        self._leaving.close_after_fork()
        for starting in self._starting.values():
            starting.close()
        self._registration.close()
        self._children_end.close()

    # How children come.

    def _start_pebble(self) -> None:
        pool = ProcessPool(
            max_workers=self._processes,
            context=self.context,  # type: ignore[arg-type]  # its lock is a lock in all but type
            initializer=process.prepare,
            initargs=[self._children_end, self._setup],
        )
        self.look_at = time.monotonic() + _LOOK_SECONDS
        try:
            for slot in range(self._processes):
                self._futures[slot] = pool.schedule(serve, args=(slot,))
        except (OSError, EOFError, BrokenProcessPool) as error:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()
            self.context.close_leftovers()
            # Not in a variable of its own, which would keep what the traceback refers to,
            # descriptors too, until the next collection.
            self._start_refused(error.__cause__ if isinstance(error, BrokenProcessPool) else error)
        else:
            self._pebble = pool

    def _start_refused(self, error: BaseException | None) -> None:
        if isinstance(error, OSError) and is_shortage(error):
            self._tell_shortage(error)
        else:
            self._failures.add(
                f"the process that forks them ended: {error!r}. What it printed is on this"
                " process's stderr."
            )

    def _tell_shortage(self, error: OSError) -> None:
        self.look_at = time.monotonic() + RETRY_SECONDS
        self._failures.tell_shortage(error)

    def _hear(self) -> None:
        """Read what children register, as long as this process has descriptors for it: else it
        stays until there are some."""
        while True:
            try:
                message, descriptors, complete = channel.peek(self._registration)
            except OSError:
                return
            self._silent_looks = 0
            try:
                if not complete:
                    raise OSError(errno.EMFILE, "too many open files")
                understood = self._register(message, descriptors)
            except OSError as error:
                close_all(descriptors)
                if not is_shortage(error):
                    raise
                self._selector.unregister(self._registration)
                self._deaf = True
                self._tell_shortage(error)
                return
            channel.drop(self._registration)
            if not understood:  # a job speaks up here, where it has nothing to say
                logger.warning("A child process sent what is no registration.")
                close_all(descriptors)
            elif understood is not True:
                self._failures.add(understood)

    def _register(self, message: bytes, descriptors: list[int]) -> bool | str:
        """Whether it is a child's message, or why that child does not start. May raise OSError."""
        kind, pid, detail = process.parts_of(message)
        if kind == process.STARTING and len(descriptors) in (1, 2):
            self._child_starts(pid, detail, *descriptors)
            return True
        is_known = pid in self._starting
        if kind == process.READY and is_known and len(descriptors) == _READY_DESCRIPTORS:
            self._child_is_ready(pid, int(detail), descriptors)
            return True
        if kind == process.FAILED and is_known and not descriptors:
            self._forget_starting(pid)
            return detail or "it does not say why"
        return False

    def _child_starts(self, pid: int, token: str, output: int, pidfd: int | None = None) -> None:
        self._starting[pid] = starting = StartingChild(
            pidfd, Output(output, mark_of(token)), time.monotonic() + child_starts.START_SECONDS
        )
        self._selector.register(
            output, selectors.EVENT_READ, partial(self._read_output, starting.output, None)
        )
        self._watch_starting()

    def _watch_starting(self) -> None:
        """Watch for the death of children that have not registered yet."""
        for pid, starting in self._starting.items():
            watched = self._watched(pid, starting.pidfd)
            if watched is not None and watched not in self._selector.get_map():
                died = partial(self._died_starting, pid)
                self._selector.register(watched, selectors.EVENT_READ, died)

    def _watch(self, child: Child[Any]) -> None:
        """Be told when a child dies; where the kernel has no pidfd, its start may not have come far
        enough for that."""
        child.watched = self._watched(child.pid, child.pidfd)
        if child.watched is not None:
            died = partial(self._on_death, child)
            self._selector.register(child.watched, selectors.EVENT_READ, died)

    def _watched(self, pid: int, pidfd: int | None) -> int | None:
        """Descriptor that is readable once the process has ended; None if there is none yet."""
        return self.context.sentinel_of(pid) if pidfd is None else pidfd

    def _died_starting(self, pid: int) -> None:
        self._hear()  # it may have said why
        if pid in self._starting:
            late = time.monotonic() > self._starting[pid].deadline
            ended = f"its process ended with status {self.exit_code(pid)} before its first job"
            self._forget_starting(pid)
            self._failures.add(
                f"it was not ready after {child_starts.START_SECONDS:g} s" if late else ended
            )

    def _child_is_ready(self, pid: int, slot: int, descriptors: list[int]) -> None:
        pidfd, output, _ = self._starting[pid]
        child: Child[Any] = Child(slot, pid, pidfd, output, descriptors)
        output.end("-")  # what its initializer has printed
        del self._starting[pid]
        self.children[pid] = child
        self._failures.is_over()
        self.started += 1
        if len(self.children) >= self._processes:
            self.weak_since = None
        self._selector.register(child.end, selectors.EVENT_READ, partial(self._on_reply, child))
        self._watch_output(output, child)
        self._unwatch(self._watched(pid, pidfd))
        self._watch(child)
        self._on_ready(child)

    # How they go.

    def _schedule(self, slot: int) -> None:
        # after an exit with status 0 pebble would wait for the task's end for ever
        self._futures[slot].cancel()
        if self._pebble is None:
            return
        try:
            self._futures[slot] = self._pebble.schedule(serve, args=(slot,))
        except RuntimeError:  # pebble has given up: a new pool is made at the next look
            self.look_at = 0.0

    def _replace_pebble(self) -> None:
        logger.warning(
            "The process pool broke; a new one is started, and what had not begun runs there."
        )
        broken, self._pebble = self._pebble, None
        for child in list(self.children.values()):
            child.kill()
            if child.watched is not None:
                channel.wait_readable(child.watched, _HANG_UP_SECONDS)
            self._on_death(child)
        if broken is not None:
            broken.stop()  # type: ignore[no-untyped-call]
            broken.join()
        self._start_pebble()

    def _forget(self, child: Child[Any]) -> None:
        del self.children[child.pid]
        self.weak_since = self.weak_since or time.monotonic()
        self._release(child)

    def _release(self, child: Child[Any]) -> None:
        """Read what is left of a child that is gone, and give everything back."""
        child.output.end(child.job_id)
        self._selector.unregister(child.end)
        self._unwatch(child.output.descriptor)
        self._unwatch(child.watched)
        self.context.forget(child.pid)
        child.close()

    def _forget_starting(self, pid: int) -> None:
        starting = self._starting.pop(pid, None)
        if starting is not None:
            starting.output.end("-")
            self._unwatch(starting.output.descriptor)
            self._unwatch(self._watched(pid, starting.pidfd))
            starting.close()
        self.context.forget(pid)

    def _watch_output(self, output: Output, child: Child[Any]) -> None:
        self._unwatch(output.descriptor)
        self._selector.register(
            output.descriptor, selectors.EVENT_READ, partial(self._read_output, output, child)
        )

    def _read_output(self, output: Output, child: Child[Any] | None) -> None:
        if child is not None:
            self._on_reply(child)  # first: a job that has ended printed before those that run now
        if not output.read("-" if child is None else child.job_id):
            self._unwatch(output.descriptor)  # closed by a job, which is its right

    def _unwatch(self, descriptor: int | None) -> None:
        if descriptor is not None and descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)
