"""Supervisor: keeps so many child processes alive. The only user of pebble, on the worker's thread.

A child is one long task (`child.runner.serve`) of a `pebble.ProcessPool`, in one of the pool's slots. When a child is dead its task's
future is cancelled, so that pebble reaps the process and starts another, for which `serve` is scheduled anew. Nothing of a job
passes through pebble's own pipe, lock and exceptions: an exception that cannot be rebuilt breaks a whole pebble pool, and a result
whose unpickling raises leaves its future unfinished for ever (both seen with pebble 5.2.3).
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
from typing import Any, NamedTuple

from embedkq import channel
from embedkq.child import process
from embedkq.child.output import mark_of
from embedkq.child.runner import serve
from embedkq.errors import ChildStartFailed
from embedkq.pebble_private import ProcessPool
from embedkq.safe_logging import SafeLogger, levels
from embedkq.worker.children import Child
from embedkq.worker.joboutput import Output
from embedkq.worker.leaving import LeavingChildren
from embedkq.worker.processes import make_context
from embedkq.worker.shortage import RETRY_SECONDS, cure_for, is_shortage
from embedkq.worker.stop_deadline import StopDeadline

logger = SafeLogger("embedkq.worker")

START_SECONDS = 60.0
"""Limit of a child's start, user's initializer included, and of how long starts may fail before the worker gives up."""
_FIRST_STARTS = 3
_EXIT_CODE_SECONDS = 0.5
_HANG_UP_SECONDS = 0.3
_LOOK_SECONDS, _TELL_AGAIN_SECONDS = 1.0, 60.0
_READY_DESCRIPTORS = 7


class _Starting(NamedTuple):
    """A child that has not registered yet; `pidfd` is None where the kernel has none."""

    pidfd: int | None
    output: Output
    deadline: float

    def close(self) -> None:
        self.output.close()
        if self.pidfd is not None:
            os.close(self.pidfd)


class Supervisor:
    """The children of one pool, from their start to their end.

    The selector is the caller's: descriptors are registered in it with a callable as data, which the caller calls when one is ready.

    Args:
        processes: how many children there shall be.
        selector: where to wait for their news.
        initializer: an encoded call for each child to make before its first job; empty for none.
        on_ready: called with a child that may be given jobs.
        on_reply: called with a child that has something to read.
        on_death: called with a child whose process is gone; it shall end with `replace`.
    """

    def __init__(
        self, processes: int, selector: selectors.BaseSelector, *, initializer: bytes,
        on_ready: Callable[[Child[Any]], None], on_reply: Callable[[Child[Any]], None], on_death: Callable[[Child[Any]], None],
    ) -> None:
        self.children: dict[int, Child[Any]] = {}
        """By process id those that are ready, at work, or dying."""
        self.started = 0
        """How many have started so far."""
        self.weak_since: float | None = time.monotonic()
        """`time.monotonic()` since which there are fewer than there should be; None if there are enough."""
        self._processes = processes
        self._selector = selector
        self._setup = process.Setup(os.getpid(), initializer, levels())
        self._on_ready, self._on_reply, self._on_death = on_ready, on_reply, on_death
        self._leaving = LeavingChildren(selector, on_reply, self._release)
        self._starting: dict[int, _Starting] = {}
        self._start_errors: list[tuple[float, str]] = []
        self._silent_looks = 0
        self._futures: dict[int, Future[None]] = {}
        self._registration, self._children_end = channel.pair()
        self._registration.setblocking(False)
        self.context = make_context()
        """What the processes are of."""
        self._told_shortage = -math.inf
        selector.register(self._registration, selectors.EVENT_READ, self._hear)
        self._deaf = False
        """Whether registrations wait until this process has descriptors for them."""
        self.look_at = 0.0
        """`time.monotonic()` at which `look` wants to be called."""
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
        self._silent_looks = self._silent_looks + 1 if self.weak_since is not None and not waits else 0
        if self._silent_looks * _LOOK_SECONDS > START_SECONDS:
            raise self._give_up(
                f"no child process has registered for {START_SECONDS:g} s: what it printed is on this process's stderr "
                "(was the package upgraded under the running process?)"
            )
        alive = {child.slot for child in self.children.values()}
        for slot, future in list(self._futures.items()):
            if slot not in alive and future.done():
                self._schedule(slot)

    def let_go(self, child: Child[Any]) -> None:
        """Have another started in the place of a child that is done and leaves by itself; its exit hooks may take a while."""
        if len(self._leaving) >= self._processes:
            return  # it is replaced when it has left: jobs must not fill the machine with processes that take long to end
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
        """End all children: what has nothing to do by itself, in up to `EXIT_SECONDS` and half a second, the rest at once."""
        self.context.end_waiting()
        if self._pebble is not None:
            self._pebble.stop()  # type: ignore[no-untyped-call]  # first, or pebble would replace the children that leave
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
        self._close_registration()
        self.context.close()

    def disinherit(self) -> None:
        """In a forked copy of the process: close its copies of the descriptors; the children are the parent's."""
        for child in self.children.values():
            child.close()
        self._leaving.disinherit()
        for starting in self._starting.values():
            starting.close()
        self._close_registration()

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
            # Not in a variable of its own, which would keep what the traceback refers to, descriptors too, until the next collection.
            self._start_refused(error.__cause__ if isinstance(error, BrokenProcessPool) else error)
        else:
            self._pebble = pool

    def _start_refused(self, error: BaseException | None) -> None:
        if isinstance(error, OSError) and is_shortage(error):
            self._tell_shortage(error)
        else:
            self._start_failed(f"the process that forks them ended: {error!r}. What it printed is on this process's stderr.")

    def _tell_shortage(self, error: OSError) -> None:
        now = time.monotonic()
        self.look_at = now + RETRY_SECONDS
        if now > self._told_shortage + _TELL_AGAIN_SECONDS:
            self._told_shortage = now
            logger.warning("Child processes wait to be started: %s. Jobs that run are not affected.", cure_for(error))

    def _hear(self) -> None:
        """Read what children register, as long as this process has descriptors for it: else it stays until there are some."""
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
                _close_all(descriptors)
                if not is_shortage(error):
                    raise
                self._selector.unregister(self._registration)
                self._deaf = True
                self._tell_shortage(error)
                return
            channel.drop(self._registration)
            if not understood:  # a job speaks up here, where it has nothing to say
                logger.warning("A child process sent what is no registration.")
                _close_all(descriptors)
            elif understood is not True:
                self._start_failed(understood)

    def _register(self, message: bytes, descriptors: list[int]) -> bool | str:
        """Whether the message is a child's; why the child does not start, if it says that. Raises OSError with nothing changed."""
        kind, pid, detail = process.parts_of(message)
        if kind == process.STARTING and len(descriptors) in (1, 2):
            self._child_starts(pid, detail, *descriptors)
            return True
        if kind == process.READY and pid in self._starting and len(descriptors) == _READY_DESCRIPTORS:
            self._child_is_ready(pid, int(detail), descriptors)
            return True
        if kind == process.FAILED and pid in self._starting and not descriptors:
            self._forget_starting(pid)
            return detail or "it does not say why"
        return False

    def _child_starts(self, pid: int, token: str, output: int, pidfd: int | None = None) -> None:
        self._starting[pid] = starting = _Starting(pidfd, Output(output, mark_of(token)), time.monotonic() + START_SECONDS)
        self._selector.register(output, selectors.EVENT_READ, partial(self._read_output, starting.output, None))
        self._watch_starting()

    def _watch_starting(self) -> None:
        """Be told when a child dies that has not registered yet."""
        for pid, starting in self._starting.items():
            watched = self._watched(pid, starting.pidfd)
            if watched is not None and watched not in self._selector.get_map():
                self._selector.register(watched, selectors.EVENT_READ, partial(self._died_starting, pid))

    def _watch(self, child: Child[Any]) -> None:
        """Be told when a child dies; where the kernel has no pidfd, its start may not have come far enough for that."""
        child.watched = self._watched(child.pid, child.pidfd)
        if child.watched is not None:
            self._selector.register(child.watched, selectors.EVENT_READ, partial(self._on_death, child))

    def _watched(self, pid: int, pidfd: int | None) -> int | None:
        """Descriptor that is readable once the process has ended; None if there is none yet."""
        return self.context.sentinel_of(pid) if pidfd is None else pidfd

    def _died_starting(self, pid: int) -> None:
        self._hear()  # it may have told why
        if pid in self._starting:
            late = time.monotonic() > self._starting[pid].deadline
            ended = f"its process ended with status {self.exit_code(pid)} before its first job"
            self._forget_starting(pid)
            self._start_failed(f"it was not ready after {START_SECONDS:g} s" if late else ended)

    def _child_is_ready(self, pid: int, slot: int, descriptors: list[int]) -> None:
        pidfd, output, _ = self._starting[pid]
        child: Child[Any] = Child(slot, pid, pidfd, output, descriptors)
        output.end("-")  # what its initializer has printed
        del self._starting[pid]
        self.children[pid] = child
        self._start_errors.clear()
        self.started += 1
        if len(self.children) >= self._processes:
            self.weak_since = None
        self._selector.register(child.end, selectors.EVENT_READ, partial(self._on_reply, child))
        self._watch_output(output, child)
        self._unwatch(self._watched(pid, pidfd))
        self._watch(child)
        self._on_ready(child)

    def _start_failed(self, reason: str) -> None:
        now = time.monotonic()
        self._start_errors.append((now, reason))
        logger.warning("A child process cannot start: %s", reason.strip().rsplit("\n", 1)[-1])
        first, _ = self._start_errors[0]
        if len(self._start_errors) >= _FIRST_STARTS if not self.started else now > first + START_SECONDS:
            raise self._give_up(reason)

    def _give_up(self, reason: str) -> ChildStartFailed:
        told = self._start_errors[0][1] if self._start_errors else reason
        return ChildStartFailed(f"child processes cannot start; the first failure:\n{told}")

    # How they go.

    def _schedule(self, slot: int) -> None:
        self._futures[slot].cancel()  # after an exit with status 0 pebble would wait for the task's end for ever
        if self._pebble is None:
            return
        try:
            self._futures[slot] = self._pebble.schedule(serve, args=(slot,))
        except RuntimeError:  # pebble has given up: a new pool is made at the next look
            self.look_at = 0.0

    def _replace_pebble(self) -> None:
        logger.warning("The process pool broke; a new one is started, and what had not begun runs there.")
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
        self._selector.register(output.descriptor, selectors.EVENT_READ, partial(self._read_output, output, child))

    def _read_output(self, output: Output, child: Child[Any] | None) -> None:
        if child is not None:
            self._on_reply(child)  # first: a job that has ended printed before those that run now
        if not output.read("-" if child is None else child.job_id):
            self._unwatch(output.descriptor)  # closed by a job, which is its right

    def _unwatch(self, descriptor: int | None) -> None:
        if descriptor is not None and descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def _close_registration(self) -> None:
        self._registration.close()
        self._children_end.close()


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
