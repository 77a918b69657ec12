"""The host's view of one child process: its channel, its page, its process. Used by the worker's
thread only."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from embedkq._child.job_call import LARGEST_RESULT
from embedkq._child.output import STACK_SIGNAL
from embedkq._child.runner import END_HEADER, REPLY_HEADER
from embedkq._formats.outcome import Outcome
from embedkq._ipc import channel
from embedkq._ipc.progress_page import Phase, ProgressPage
from embedkq.worker.between_threads.task import Task
from embedkq.worker.pool.job_output import Output

T = TypeVar("T", bound=Task)

_STALL_SECONDS, _LONGEST_STALL_SECONDS = 0.005, 0.05
_STACK_BYTES = 16 * 1024
_LARGEST_REPLY = LARGEST_RESULT + 16 * 1024 * 1024
_BELOW_THE_CALL = re.compile(
    r'^  File "[^"\n]*child/job_call\.py", line \d+ in run_call\n(?:  .*\n)*', re.MULTILINE
)


def patience(average: float) -> float:
    """Seconds after which a task takes long, where tasks take so many on the average: what waits
    behind it is taken back.

    Not sooner than twice what others take: to be looked at costs the host as much as an end.
    """
    return min(max(2 * average, _STALL_SECONDS), _LONGEST_STALL_SECONDS)


class Child(Generic[T]):
    """One child that has registered: ready for jobs, at work, or dying."""

    def __init__(
        self, slot: int, pid: int, pidfd: int | None, output: Output, descriptors: list[int]
    ) -> None:
        end, claims_writer, claims, jobs, replies, page, self._stack = descriptors
        self._page = ProgressPage(page)  # first: it needs a descriptor more, and there may be none
        self.slot = slot
        self.pid = pid
        self.pidfd = pidfd
        self.watched = pidfd
        """Descriptor that is readable once the process has ended: its pidfd, or another where the
        kernel has none."""
        self.output = output
        self.tasks: deque[T] = deque()
        self.size = 0
        """Bytes of their payloads."""
        self.lifetime: int | None = None
        """How many tasks it may be given before it is replaced; None for any number."""
        self.given = 0
        """How many tasks it was given."""
        self.head_since = 0.0
        """`time.monotonic()` at which the first of its tasks became the first."""
        self.check_at = math.inf
        """`time.monotonic()` at which somebody should look at it."""
        self.stalled = False
        """Its first task takes long: nothing may wait behind it."""
        self.retiring = False
        self.killed = False
        self.at_limit = False
        """It is stopped because its first task took too long."""
        self.stack_until = 0.0
        """`time.monotonic()` until which it may write down where it is stuck."""
        self._stack_bytes = 0
        self.last_job_id = "-"
        """Of the task that it was at work on last, for what it prints."""
        self.end = _adopt(end)
        self._channel = channel.Channel(self.end, jobs, replies, _LARGEST_REPLY)
        """Carries jobs down and replies up."""
        self._unsent = b""
        self._claims_writer, self._claims = _adopt(claims_writer), _adopt(claims)
        os.close(page)

    def give(self, tasks: Sequence[T]) -> bool:
        """Give it these tasks after those that it has; False if it is gone."""
        try:
            channel.put_claims(
                self._claims_writer, [task.number for task in tasks]
            )  # first: see `Runner._may_begin`
        except OSError:
            return False
        if not self.tasks:
            self.head_since = time.monotonic()
        self.tasks.extend(tasks)
        self.size += sum([len(task.payload) for task in tasks])
        self.given += len(tasks)
        self._unsent = b"".join([part for task in tasks for part in task.parts()])
        self.push()
        return True

    def push(self) -> None:
        """Send what found no room in the channel so far."""
        if self._unsent:
            try:
                self._channel.send(self._unsent)
            except OSError:
                # What was taken back still fills the channel, until the child is done with its
                # first task; or this machine has no memory for a large message; or the child is
                # gone, which its pidfd shows. The claims are out: it is tried again.
                return
            self._unsent = b""

    @property
    def clogged(self) -> bool:
        """Whether it cannot be given more tasks yet."""
        return bool(self._unsent)

    def next_reply(self) -> tuple[int, int, bytes] | None:
        """Kind, number of the task, and a message with the content behind `REPLY_HEADER`; None if
        there is none now.

        Raises:
            DecodeError: what is there is no reply.
        """
        try:
            message = self._channel.receive()
        except OSError:
            return None
        if len(message) < REPLY_HEADER.size:  # end of file
            return None
        kind, number = REPLY_HEADER.unpack_from(message)
        return kind, number, message

    def answered(self, message: bytes) -> tuple[T, Outcome]:
        """Its first task, which has ended, and the outcome in the message.

        Raises:
            DecodeError: there is none in it.
        """
        outcome = Outcome.unpack(
            message, END_HEADER.size
        )  # which finds a message that is too short
        task = self.tasks.popleft()
        _, _, task.started, task.ended = END_HEADER.unpack_from(message)
        self.last_job_id = task.job_id
        self.size -= len(task.payload)
        return task, outcome

    def look_first(self, average: float) -> None:
        """Set `check_at` for its first task; `average` is the seconds that one takes."""
        if not self.tasks:
            self.check_at = math.inf
        elif self.clogged:
            self.check_at = self.head_since + _STALL_SECONDS
        else:
            self.check_at = self.head_since + min(
                patience(average), max(_STALL_SECONDS, self.tasks[0].limit or math.inf)
            )

    def take_back(self) -> list[T]:
        """The tasks that it has not begun, oldest first; it will pass over them."""
        numbers = channel.take_claims(self._claims)
        taken = [task for task in self.tasks if task.number in numbers]
        if taken:
            self.tasks = deque(task for task in self.tasks if task.number not in numbers)
            self.size -= sum(len(task.payload) for task in taken)
        return taken

    def progress(self) -> tuple[Phase | None, float]:
        """How far it is with its first task, and since when (`time.monotonic()`); None if it has
        not begun it."""
        number, phase, since = self._page.read()
        if self.tasks and number == self.tasks[0].number:
            return phase, since / 1e9
        return None, self.head_since

    def ended_at(self, now: float) -> float:
        """`time.monotonic()` at which it was last done with a task, as it says itself; not before
        `head_since`, nor after `now`."""
        return min(now, max(self.head_since, self._page.ended / 1e9))

    @property
    def job_id(self) -> str:
        """Of the task that it is at work on, or was last; "-" before the first."""
        return self.tasks[0].job_id if self.tasks else self.last_job_id

    def ask_for_stack(self) -> None:
        """Have it write down where it is stuck, within milliseconds."""
        if STACK_SIGNAL is not None:
            self._signal(STACK_SIGNAL)

    def stack_grows(self) -> bool:
        """Whether it has not begun to write its stack down, or has written more since the last
        call."""
        before, self._stack_bytes = self._stack_bytes, os.fstat(self._stack).st_size
        return not self._stack_bytes or self._stack_bytes != before

    def stack(self) -> str:
        """What it has written down since `ask_for_stack`, down to the job's call; empty if it could
        not."""
        size = min(os.fstat(self._stack).st_size, _STACK_BYTES)
        return _BELOW_THE_CALL.sub(
            "", os.pread(self._stack, size, 0).decode("utf-8", "replace")
        ).rstrip()

    def kill(self) -> None:
        """End the process at once, whatever it does (SIGKILL)."""
        self.killed = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            if self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass
        except OSError:  # a sandbox that allows one of the two system calls
            os.kill(self.pid, number)

    def hang_up(self) -> None:
        """Let the process end by itself once it has done what it has."""
        self.retiring = True
        try:
            self.end.shutdown(socket.SHUT_WR)
            self.end.send(b"")  # without SOCK_SEQPACKET the end of file does not show
        except OSError:
            pass

    def close(self) -> None:
        """Give all descriptors back, once the process is gone."""
        for end in (self._channel, self._claims_writer, self._claims):
            end.close()
        self._page.close()
        os.close(self._stack)
        self.output.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def _adopt(descriptor: int) -> socket.socket:
    end = channel.adopt(descriptor)
    end.setblocking(False)
    return end
