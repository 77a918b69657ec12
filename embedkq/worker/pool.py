"""JobPool: pebble owns the child processes, a channel to each of them carries the jobs. Used by the worker's thread only.

A child is one long task (`child.runner.serve`) of a `pebble.ProcessPool`. At a job's limit its child is stopped hard, by SIGKILL
through its pidfd, and the task's future is cancelled, so that pebble starts another process, for which `serve` is scheduled
anew. Nothing of a job passes through pebble's own pipe, lock and exceptions: an exception that cannot be rebuilt breaks a whole
pebble pool, and a result whose unpickling raises leaves its future unfinished for ever (both seen with pebble 5.2.3).
"""
from __future__ import annotations

import logging
import math
import os
import selectors
import socket
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Any

from pebble import ProcessPool

from embedkq import channel
from embedkq.child import process
from embedkq.child.page import Phase
from embedkq.child.runner import BEGUN, REPLY_HEADER, failure, serve
from embedkq.errors import ChildStartFailed, JobCrashed
from embedkq.outcome import Outcome
from embedkq.worker.children import Child, Task
from embedkq.worker.processes import make_context

logger = logging.getLogger("embedkq.worker")

DECODING_SECONDS = 30.0
"""Limit of unpickling a payload, which may import modules; a child that takes longer is stopped, the record is undecodable."""
DEEPEST = 32
"""How many tasks may wait in a child's channel while jobs are short."""
SHORT_SECONDS = 0.001
STALL_SECONDS = 0.005
"""A task that takes longer than this has what waits behind it taken back."""
START_SECONDS = 60.0
"""Limit of a child's start, user's initializer included, and of how long starts may fail before the pool gives up."""
_EXIT_CODE_SECONDS = 0.1
_SOON = 0.01
_HANG_UP_SECONDS = 0.3
_FIRST_STARTS = 3


class JobPool:
    """Runs tasks in child processes, each under its own hard limit.

    The selector is the caller's: the pool registers its descriptors with a callable as data, which the caller calls when one is
    ready. `tick` does what time demands, `check_at` says when it wants to be called again. What has ended is in `ended`, what has
    begun (of the tasks that asked for it) in `begun`: the caller empties both.
    """

    def __init__(
        self,
        processes: int,
        selector: selectors.BaseSelector,
        *,
        proc_ttl: int | None = None,
        initializer: bytes = b"",
        decoding_seconds: float = DECODING_SECONDS,
    ) -> None:
        self.ended: list[tuple[Task, Outcome]] = []
        self.begun: list[tuple[Task, str]] = []
        self.started = 0
        """Children that have started so far."""
        self._processes = processes
        self._selector = selector
        self._proc_ttl = proc_ttl
        self._decoding_seconds = decoding_seconds
        self._setup = process.Setup(os.getpid(), initializer)
        self._children: dict[int, Child] = {}
        self._starting: dict[int, tuple[int | None, float]] = {}
        self._start_errors: list[tuple[float, str]] = []
        self._waiting: deque[Task] = deque()
        self._futures: dict[int, Future[None]] = {}
        self._numbers = 0
        self._average = 1.0
        self._context = make_context()
        self._registration, self._children_end = channel.pair()
        self._registration.setblocking(False)
        selector.register(self._registration, selectors.EVENT_READ, self._register)
        self._look_again_at = 0.0
        self._pebble = self._start_pebble()

    # What the worker's loop asks for.

    def room(self) -> int:
        """How many tasks it can take now."""
        depth = self._depth()
        free = sum(depth - len(child.tasks) for child in self._children.values() if self._takes(child, depth))
        return max(0, free - len(self._waiting))

    def submit(self, task: Task) -> None:
        """Run the task as soon as a child is free."""
        self._numbers += 1
        task.number = self._numbers
        self._waiting.append(task)

    def feed(self) -> None:
        """Give what waits to the children that have least."""
        depth = self._depth()
        while self._waiting:
            free = [child for child in self._children.values() if self._takes(child, depth)]
            if not free:
                return
            child = min(free, key=_load)
            if not child.send(self._waiting[0]):
                return
            self._waiting.popleft()
            if len(child.tasks) == 1 or child.check_at > child.head_since + STALL_SECONDS:
                child.check_at = child.head_since + STALL_SECONDS
            if self._proc_ttl and child.begun >= self._proc_ttl:
                logger.info("Refreshing process pool ...")
                child.hang_up()

    @property
    def check_at(self) -> float:
        """`time.monotonic()` at which `tick` wants to be called."""
        return min((child.check_at for child in self._children.values()), default=math.inf)

    def tick(self, now: float) -> None:
        """Enforce limits, take back what waits behind a slow task, keep the pool at full strength.

        Raises:
            ChildStartFailed: children do not start.
        """
        for child in list(self._children.values()):
            if now >= child.check_at:
                self._inspect(child, now)
        if now >= self._look_again_at:
            self._look_again_at = now + 1.0
            self._look_after_starts(now)

    def take_back(self, tasks: set[Task]) -> set[Task]:
        """Those of the given tasks that had not begun: they will not run."""
        for child in self._children.values():
            if any(task in tasks for task in child.tasks):
                self._waiting.extendleft(reversed(child.take_back()))
        back = {task for task in self._waiting if task in tasks}
        self._waiting = deque(task for task in self._waiting if task not in back)
        return back

    def abandon(self) -> None:
        """End every child that has a task, at once; those tasks have no outcome."""
        self._waiting.clear()
        for child in self._children.values():
            if child.tasks:
                child.tasks.clear()
                child.kill()

    @property
    def alive(self) -> int:
        """How many children are ready or at work."""
        return len(self._children)

    def close(self) -> None:
        """End all children: what has nothing to do by itself, the rest at once. Takes up to about half a second."""
        self._pebble.stop()  # first, or pebble would replace the children that leave
        for child in self._children.values():
            if child.tasks:
                child.kill()
            else:
                child.hang_up()
        deadline = time.monotonic() + _HANG_UP_SECONDS
        for child in self._children.values():
            if child.pidfd is not None:
                _wait_readable(child.pidfd, deadline - time.monotonic())
        self._pebble.join()
        for child in list(self._children.values()):
            self._forget(child)
        for pidfd, _ in self._starting.values():
            if pidfd is not None:
                self._selector.unregister(pidfd)
                os.close(pidfd)
        self._selector.unregister(self._registration)
        self._registration.close()
        self._children_end.close()
        self._context.close()

    # How children come and go.

    def _start_pebble(self) -> ProcessPool:
        pool = ProcessPool(
            max_workers=self._processes,
            context=self._context,
            initializer=process.prepare,
            initargs=(self._children_end, self._setup),
        )
        self._look_again_at = time.monotonic() + 1.0
        for slot in range(self._processes):
            self._futures[slot] = pool.schedule(serve, args=(slot,))
        return pool

    def _register(self) -> None:
        while True:
            try:
                message, descriptors = channel.receive_descriptors(self._registration)
            except OSError:
                return
            kind, pid, detail = message.split(b" ", 2)
            if kind == process.STARTING:
                self._child_starts(int(pid), descriptors[0] if descriptors else None)
            elif kind == process.READY:
                self._child_is_ready(int(pid), int(detail), descriptors)
            else:
                self._start_failed(detail.decode("utf-8", "replace"))

    def _child_starts(self, pid: int, pidfd: int | None) -> None:
        self._starting[pid] = pidfd, time.monotonic() + START_SECONDS
        if pidfd is not None:
            self._selector.register(pidfd, selectors.EVENT_READ, partial(self._died_starting, pid))

    def _died_starting(self, pid: int) -> None:
        pidfd, _ = self._starting.pop(pid)
        if pidfd is not None:
            self._selector.unregister(pidfd)
            os.close(pidfd)
        self._start_failed(f"its process ended with {self._context.exit_code(pid, _EXIT_CODE_SECONDS)} before its first job")

    def _child_is_ready(self, pid: int, slot: int, descriptors: list[int]) -> None:
        pidfd, _ = self._starting.pop(pid, (None, 0.0))
        child = Child(slot, pid, pidfd, descriptors)
        self._children[pid] = child
        self._start_errors.clear()
        self.started += 1
        self._selector.register(child.replies, selectors.EVENT_READ, partial(self._read_replies, child))
        if pidfd is not None:
            self._selector.modify(pidfd, selectors.EVENT_READ, partial(self._bury, child))

    def _start_failed(self, reason: str) -> None:
        self._start_errors.append((time.monotonic(), reason))
        logger.warning("A child process cannot start: %s", reason.strip().rsplit("\n", 1)[-1])
        first, told = self._start_errors[0]
        enough = len(self._start_errors) >= _FIRST_STARTS if not self.started else time.monotonic() > first + START_SECONDS
        if enough:
            raise ChildStartFailed(f"child processes cannot start; the first failure:\n{told}")

    def _look_after_starts(self, now: float) -> None:
        for pid, (_, deadline) in list(self._starting.items()):
            if now > deadline:
                os.kill(pid, 9)
        if not self._pebble.active:
            self._replace_pebble()
        missing = set(self._futures) - {child.slot for child in self._children.values()}
        for slot in missing:
            if self._futures[slot].done():
                self._schedule(slot)

    def _schedule(self, slot: int) -> None:
        self._futures[slot].cancel()  # after an exit with status 0 pebble would wait for the task's end for ever
        try:
            self._futures[slot] = self._pebble.schedule(serve, args=(slot,))
        except RuntimeError:  # pebble has given up: a new pool is made at the next look
            self._look_again_at = 0.0

    def _replace_pebble(self) -> None:
        logger.warning("The process pool broke; a new one is started, and what had not begun runs there.")
        broken = self._pebble
        for child in list(self._children.values()):
            child.kill()
            if child.pidfd is not None:
                _wait_readable(child.pidfd, _HANG_UP_SECONDS)
            self._bury(child)
        broken.stop()
        broken.join()
        self._pebble = self._start_pebble()

    # How tasks end.

    def _depth(self) -> int:
        return DEEPEST if self._average < SHORT_SECONDS else 1

    def _takes(self, child: Child, depth: int) -> bool:
        return not (child.killed or child.retiring) and len(child.tasks) < (1 if child.stalled else depth)

    def _read_replies(self, child: Child) -> None:
        while reply := child.next_reply():
            kind, number, message = reply
            if not child.tasks or child.tasks[0].number != number:
                continue  # a process that a job forked spoke up late
            if kind == BEGUN:
                self.begun.append((child.tasks[0], message[REPLY_HEADER.size :].decode("utf-8", "replace")))
                continue
            self.ended.append((child.tasks.popleft(), Outcome.unpack(message, REPLY_HEADER.size)))
            now = time.monotonic()
            self._average += 0.05 * (now - child.head_since - self._average)
            child.head_since, child.stalled = now, False
            child.check_at = now + STALL_SECONDS if child.tasks else math.inf

    def _inspect(self, child: Child, now: float) -> None:
        self._read_replies(child)  # first: this process may have been frozen, and the child done in time
        if not child.tasks or child.killed or now < child.check_at:
            return
        if len(child.tasks) > 1 and now >= child.head_since + STALL_SECONDS:
            self._waiting.extendleft(reversed(child.take_back()))
            if not child.tasks:
                child.check_at = math.inf
                return
        child.stalled = True
        phase, since = child.progress()
        limit = {Phase.DECODING: self._decoding_seconds, Phase.RUNNING: child.tasks[0].limit}.get(phase, _SOON)  # type: ignore[arg-type]
        if limit is None:
            child.check_at = math.inf
        elif phase in (Phase.DECODING, Phase.RUNNING):
            child.check_at = min(since + limit, now + (_SOON if phase is Phase.DECODING else math.inf))
            if now >= since + limit:
                self._stop_at_limit(child)
        else:
            child.check_at = now + _SOON

    def _stop_at_limit(self, child: Child) -> None:
        self._waiting.extendleft(reversed(child.take_back()))
        child.check_at, child.at_limit = math.inf, True
        child.kill()
        self._futures[child.slot].cancel()

    def _bury(self, child: Child) -> None:
        """Settle what a dead child leaves, and have it replaced."""
        self._read_replies(child)
        self._waiting.extendleft(reversed(child.take_back()))
        for task in reversed(child.tasks):
            self._settle_of_the_dead(child, task)
        self._forget(child)
        self._schedule(child.slot)

    def _settle_of_the_dead(self, child: Child, task: Task) -> None:
        phase, _ = child.progress()
        if phase in (Phase.RUNNING, Phase.ANSWERED):
            if child.at_limit:
                outcome = Outcome("timeout")
            else:
                outcome = failure(JobCrashed(self._context.exit_code(child.pid, _EXIT_CODE_SECONDS)))
        elif child.at_limit:
            outcome = Outcome("undecodable", message=f"unpickling took longer than {self._decoding_seconds:g} s")
        elif task.restarted:
            outcome = Outcome("undecodable", message="two processes died over it before the call began")
        else:
            task.restarted = True  # nothing has run yet: another child may have it, once
            self._waiting.appendleft(task)
            return
        self.ended.append((task, outcome))

    def _forget(self, child: Child) -> None:
        del self._children[child.pid]
        self._selector.unregister(child.replies)
        if child.pidfd is not None:
            self._selector.unregister(child.pidfd)
        child.close()


def _load(child: Child) -> int:
    return len(child.tasks)


def _wait_readable(descriptor: int, seconds: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        selector.select(max(0.0, seconds))
