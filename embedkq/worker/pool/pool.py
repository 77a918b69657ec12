"""JobPool: gives tasks to child processes, each under its own hard limit, and settles how they end.
Control thread.

At a task's limit its child is stopped hard, by SIGKILL through its pidfd. A child is given several
tasks at once while tasks are short; what it has not begun is taken back as soon as the one at its
head takes long, or the child dies.
"""

from __future__ import annotations

import math
import selectors
import time
from collections import deque
from itertools import islice
from typing import Generic, TypeVar

from embedkq._child.job_call import failure, not_loaded
from embedkq._child.runner import BEGUN, ENDED_PRINTING, LOGGED, REPLY_HEADER
from embedkq._formats.outcome import Outcome
from embedkq._ipc.channel import INLINE_BYTES
from embedkq._ipc.progress_page import Phase
from embedkq._safe_logging import SafeLogger
from embedkq.errors import DecodeError, JobCrashed
from embedkq.worker.between_threads.host_cpu import HostCpu
from embedkq.worker.between_threads.stop_deadline import StopDeadline
from embedkq.worker.between_threads.task import Task
from embedkq.worker.pool.child_handle import Child, patience
from embedkq.worker.pool.job_output import relay
from embedkq.worker.pool.prefetch import MOST_BYTES, Prefetch
from embedkq.worker.pool.supervisor import Supervisor

logger = SafeLogger("embedkq.worker")

T = TypeVar("T", bound=Task)

_SOON = 0.01
_STACK_SECONDS, _LONGEST_STACK_SECONDS = 0.002, 0.05
"""How often a child is looked at, at its limit, while it writes down where it is stuck, and for how
long."""
_MOST_REPLIES = 500
"""Read of one child in one turn: one that logs without end must not hold up the others."""


class JobPool(Generic[T]):
    """Runs tasks in child processes.

    The selector is the caller's: the pool registers its descriptors with a callable as data, which
    the caller calls when one is ready. `tick` does what time demands and returns what has happened,
    `check_at` says when it wants to be called again.

    Args:
        processes: how many tasks run at once.
        proc_ttl: tasks after which a child is replaced; None for never.
        initializer: an encoded call for each child to make before its first task; empty for none.
        host_cpu: how busy the application around it is.
        decode_timeout: seconds that unpickling a payload, which may import modules, may take; None
            for no limit.
    """

    def __init__(
        self,
        processes: int,
        selector: selectors.BaseSelector,
        *,
        proc_ttl: int | None = None,
        initializer: bytes = b"",
        host_cpu: HostCpu | None = None,
        decode_timeout: float | None = None,
    ) -> None:
        self._ended: list[tuple[T, Outcome]] = []
        self._begun: list[tuple[T, str]] = []
        self._processes, self._proc_ttl = processes, proc_ttl
        self._decode_timeout = math.inf if decode_timeout is None else decode_timeout
        self._waiting: deque[T] = deque()
        self._numbers = 0
        self._pace = Prefetch(host_cpu or HostCpu())
        self._supervisor = Supervisor(
            processes,
            selector,
            initializer=initializer,
            on_ready=self._welcome,
            on_reply=self._read_replies,
            on_death=self._bury,
        )
        self._children: dict[int, Child[T]] = self._supervisor.children

    # What the worker's loop asks for.

    def room(self) -> int:
        """How many tasks it can take now."""
        depth = self._pace.depth
        free = sum(
            depth - len(child.tasks)
            for child in self._children.values()
            if self._takes(child, depth)
        )
        return max(0, free - len(self._waiting))

    def coalesce_delay(self, more_waits: bool) -> float:
        """As `Prefetch.coalesce_delay`; `more_waits`: whether there are tasks that the pool has
        not been given."""
        return self._pace.coalesce_delay(self._children.values(), more_waits or bool(self._waiting))

    def submit(self, task: T) -> None:
        """Run the task as soon as a child is free."""
        self._numbers += 1
        task.number = self._numbers
        task.restarted = False
        self._waiting.append(task)

    def feed(self) -> None:
        """Give what waits to the children that have least."""
        depth = self._pace.depth
        while self._waiting:
            free = [child for child in self._children.values() if self._takes(child, depth)]
            if not free:
                return
            child = min(free, key=lambda child: len(child.tasks))
            share = min(depth - len(child.tasks), -(-len(self._waiting) // len(free)))
            if not self._give(child, share):
                return

    def _give(self, child: Child[T], most: int) -> bool:
        """Give a child as many of the waiting tasks, or as few as are large; False if it is
        gone."""
        if child.lifetime:
            most = min(most, child.lifetime - child.given)
        tasks: list[T] = []
        size = 0
        for task in islice(self._waiting, most):
            tasks.append(task)
            size += len(task.payload)
            if size > INLINE_BYTES:
                break
        was_idle = not child.tasks
        if not child.give(tasks):
            return False
        for _ in tasks:
            self._waiting.popleft()
        if was_idle or child.clogged:
            child.look_first(self._pace.average)
        if child.lifetime and child.given >= child.lifetime:
            logger.info("Refreshing process pool ...")
            child.hang_up()
        return True

    @property
    def check_at(self) -> float:
        """`time.monotonic()` at which `tick` wants to be called."""
        return min((child.check_at for child in self._children.values()), default=math.inf)

    def tick(self, now: float) -> tuple[list[tuple[T, str]], list[tuple[T, Outcome]]]:
        """Enforce limits, take back what waits behind a slow task, keep the pool at full strength.

        Returns:
            Since the last call, the tasks that have begun, of those that announce it, with the text
            of their call; and those that have ended, with their outcomes.

        Raises:
            ChildStartFailed: children do not start.
        """
        for child in list(self._children.values()):
            if now >= child.check_at:
                self._inspect(child, now)
            if child.retiring and not child.tasks and not child.killed:
                self._supervisor.let_go(child)
        if now >= self._supervisor.look_at:
            self._supervisor.look(now)
        begun, self._begun = self._begun, []
        ended, self._ended = self._ended, []
        return begun, ended

    def take_back(self, tasks: set[T]) -> set[T]:
        """Those of the given tasks that had not begun: they will not run."""
        for child in self._children.values():
            if any(task in tasks for task in child.tasks):
                self._waiting.extendleft(reversed(child.take_back()))
        back = {task for task in self._waiting if task in tasks}
        self._waiting = deque(task for task in self._waiting if task not in back)
        return back

    def abandon(self) -> list[T]:
        """End every child that has a task, at once; those tasks, which have no outcome."""
        abandoned = list(self._waiting)
        self._waiting.clear()
        for child in self._children.values():
            if child.tasks:
                abandoned += child.tasks
                child.tasks.clear()
                child.kill()
        return abandoned

    def kill_all(self) -> None:
        """Kill every child at once, and start no other. Any thread."""
        self._supervisor.context.kill_all()

    def end_server(self) -> None:
        """End the process that forks the children, after `kill_all`. Any thread."""
        self._supervisor.context.close()

    @property
    def alive(self) -> int:
        """How many children are ready or at work. Any thread."""
        return len(self._children)

    @property
    def idle(self) -> bool:
        """Whether it has no task at all."""
        return not self._waiting and not any(child.tasks for child in self._children.values())

    @property
    def oldest_running(self) -> float | None:
        """`time.monotonic()` since which a child is at work on its task, of the one that is
        longest. Any thread."""
        return min(
            (child.head_since for child in list(self._children.values()) if child.tasks),
            default=None,
        )

    @property
    def weak_since(self) -> float | None:
        """`time.monotonic()` since which there are fewer children than there should be; None if
        there are enough. Any thread."""
        return self._supervisor.weak_since

    @property
    def started(self) -> int:
        """How many children have started so far. Any thread."""
        return self._supervisor.started

    def close(self, stop: StopDeadline | None = None) -> None:
        """End all children: what has nothing to do by itself, with its exit hooks; the rest at
        once. See `Supervisor.close`."""
        self._supervisor.close(stop or StopDeadline())

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the descriptors."""
        self._supervisor.close_after_fork()

    def _welcome(self, child: Child[T]) -> None:
        child.lifetime = self._proc_ttl
        if (
            self._proc_ttl and self._supervisor.started <= self._processes
        ):  # else all would be replaced at once, again and again
            child.lifetime = -(-self._proc_ttl * (child.slot + 1) // self._processes)

    # How tasks end.

    def _takes(self, child: Child[T], depth: int) -> bool:
        if child.killed or child.retiring or child.clogged or child.size >= MOST_BYTES:
            return False
        return not child.tasks if child.stalled or child.at_limit else 2 * len(child.tasks) <= depth

    def _read_replies(self, child: Child[T]) -> None:
        ended = 0
        for _ in range(_MOST_REPLIES):
            try:
                reply = child.next_reply()
            except DecodeError as error:
                self._distrust(child, error)
                return
            if reply is None:
                break
            kind, number, message = reply
            if kind == LOGGED:
                relay(message[REPLY_HEADER.size :], child.job_id)
                continue
            if not child.tasks or child.tasks[0].number != number:
                continue  # a process that a job forked spoke up late
            if child.at_limit:
                continue  # the signal that asks for the stack has cut short what the job waited for
            if kind == BEGUN:
                self._begin(child, child.tasks[0], message[REPLY_HEADER.size :])
                continue
            if kind == ENDED_PRINTING or child.output.pending:
                child.output.end_job(child.job_id, kind == ENDED_PRINTING)
            try:
                self._ended.append(child.answered(message))
            except DecodeError as error:
                self._distrust(child, error)
                return
            if child.output.pending:  # the next one has begun, and printed
                child.output.log_lines(child.job_id)
            ended += 1
        if ended:
            # Not when it is read: the loop may have slept since, and the average would grow by its
            # own sleep.
            since, child.head_since = child.head_since, child.ended_at(time.monotonic())
            self._pace.note(ended, child.head_since - since)
            child.stalled = False
            child.look_first(self._pace.average)

    def _distrust(self, child: Child[T], error: DecodeError) -> None:
        # A job writes to the channel itself: nothing that follows can be trusted.
        logger.warning(
            "The child process of Job %s sent an invalid reply (%s); replacing the child.",
            child.job_id,
            error,
        )
        self._supervisor.stop_hard(child)

    def _begin(self, child: Child[T], task: T, content: bytes) -> None:
        limit = task.limit
        self._begun.append((task, task.begun(content)))
        if task.limit != limit:
            child.check_at = -math.inf  # it is only known now, and counts from when the call began

    def _inspect(self, child: Child[T], now: float) -> None:
        self._read_replies(
            child
        )  # first: this process may have been frozen, and the child done in time
        if not child.tasks or child.killed or now < child.check_at:
            return
        child.push()
        if child.at_limit:
            if now < child.stack_until and child.stack_grows():
                child.check_at = now + _STACK_SECONDS
                return
            child.check_at = math.inf
            self._supervisor.stop_hard(child)
            return
        long_at = child.head_since + patience(self._pace.average)
        if len(child.tasks) > 1 and now >= long_at:
            self._waiting.extendleft(reversed(child.take_back()))
            if not child.tasks:
                child.check_at = math.inf
                return
        child.stalled = True
        phase, since = child.progress()
        if phase is Phase.RUNNING:
            limit = child.tasks[0].limit
            child.check_at = math.inf if limit is None else since + limit
        elif phase is Phase.DECODING:
            child.check_at = min(since + self._decode_timeout, now + _SOON)
        else:
            child.check_at = now + _SOON
        if len(child.tasks) > 1 and now < long_at:
            child.check_at = min(child.check_at, long_at)
        if phase in (Phase.RUNNING, Phase.DECODING) and now >= child.check_at:
            self._stop_at_limit(child, now)

    def _stop_at_limit(self, child: Child[T], now: float) -> None:
        self._waiting.extendleft(reversed(child.take_back()))
        child.check_at, child.at_limit = now + _STACK_SECONDS, True
        child.stack_until = now + _LONGEST_STACK_SECONDS
        child.ask_for_stack()

    def _bury(self, child: Child[T]) -> None:
        """Settle what a dead child leaves, and have it replaced."""
        self._read_replies(child)
        self._waiting.extendleft(reversed(child.take_back()))
        for task in reversed(child.tasks):
            self._settle_of_dead(child, task)
        self._supervisor.replace(child)

    def _settle_of_dead(self, child: Child[T], task: T) -> None:
        phase, since = child.progress()
        task.started = int(since * 1e9) if phase is Phase.RUNNING else 0
        task.ended = time.monotonic_ns()
        if phase is Phase.RUNNING:
            crashed = (
                None
                if child.at_limit
                else failure(JobCrashed(self._supervisor.exit_code(child.pid)))
            )
            outcome = crashed or Outcome("timeout", traceback=child.stack())
        elif child.at_limit:
            outcome = not_loaded(
                DecodeError(
                    f"the payload was not unpickled within {self._decode_timeout:g} s"
                    " (decode_timeout), imports included"
                )
            )
        elif task.restarted:
            outcome = not_loaded(
                DecodeError(
                    "two processes died while they unpickled the payload (the second one:"
                    f" {JobCrashed(self._supervisor.exit_code(child.pid))})"
                )
            )
        else:
            task.restarted = True  # nothing has run yet: another child may have it, once
            self._waiting.appendleft(task)
            return
        self._ended.append((task, outcome))
