"""The host's view of one child process: its channel, its page, its process. Used by the worker's thread only."""
from __future__ import annotations

import math
import os
import signal
import socket
import time
from collections import deque
from typing import Generic, TypeVar

from embedkq import channel
from embedkq.child.output import STACK_SIGNAL
from embedkq.child.page import Phase, ProgressPage
from embedkq.child.runner import JOB_HEADER, REPLY_HEADER
from embedkq.worker.joboutput import Output

T = TypeVar("T", bound="Task")

_STACK_BYTES = 16 * 1024


class Task:
    """One run of a job's payload in some child.

    Attributes:
        job_id: marks what the child logs.
        payload: the encoded call; the host never reads it.
        limit: seconds that the call may take, from when it begins; None for no limit.
        announce: whether the child tells when it begins, with the call's text, for the log.
        number: given by the pool; a child's page and replies speak of it.
        restarted: it was taken once by a child that died before the call began.
    """

    __slots__ = ("announce", "job_id", "limit", "number", "payload", "restarted")

    def __init__(self, job_id: bytes, payload: bytes, limit: float | None = None, announce: bool = False) -> None:
        self.job_id = job_id
        self.payload = payload
        self.limit = limit
        self.announce = announce
        self.number = 0
        self.restarted = False

    def begun(self, content: bytes) -> str:
        """A child has begun the call, and told this; returns the call's text."""
        return content.decode("utf-8", "replace")

    def message(self) -> bytes:
        """What goes down the child's channel."""
        return JOB_HEADER.pack(self.number, self.announce, len(self.job_id)) + self.job_id + self.payload


class Child(Generic[T]):
    """One child that has registered: ready for jobs, at work, or dying."""

    def __init__(self, slot: int, pid: int, pidfd: int | None, output: Output, descriptors: list[int]) -> None:
        jobs, child_end, replies, page, self._stack = descriptors
        self.slot = slot
        self.pid = pid
        self.pidfd = pidfd
        self.output = output
        self.tasks: deque[T] = deque()
        self.begun = 0
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
        self._jobs = channel.adopt(jobs)
        self._jobs.setblocking(False)
        self._child_end = channel.adopt(child_end)  # shares its blocking mode with the child: only MSG_DONTWAIT here
        self.replies = channel.adopt(replies)
        self.replies.setblocking(False)
        self._page = ProgressPage(page)
        os.close(page)

    def send(self, task: T) -> bool:
        """Give it one more task; False if its channel is full or broken."""
        try:
            channel.send(self._jobs, task.message())
        except OSError:
            return False
        if not self.tasks:
            self.head_since = time.monotonic()
        self.tasks.append(task)
        self.begun += 1
        return True

    def next_reply(self) -> tuple[int, int, bytes] | None:
        """Kind, number of the task, and a message with the content behind `REPLY_HEADER`; None if there is none now."""
        try:
            message = channel.receive(self.replies)
        except OSError:
            return None
        if len(message) < REPLY_HEADER.size:  # end of file
            return None
        kind, number = REPLY_HEADER.unpack_from(message)
        return kind, number, message

    def take_back(self) -> list[T]:
        """The tasks that it has not read, oldest first; it keeps what it has begun."""
        unread = set()
        while True:
            try:
                message, descriptors = channel.receive_descriptors(self._child_end, socket.MSG_DONTWAIT)
            except OSError:
                break
            for descriptor in descriptors:
                os.close(descriptor)
            if len(message) < JOB_HEADER.size:  # end of file
                break
            unread.add(JOB_HEADER.unpack_from(message)[0])
        taken = [task for task in self.tasks if task.number in unread]
        if taken:
            self.tasks = deque(task for task in self.tasks if task.number not in unread)
        return taken

    def progress(self) -> tuple[Phase | None, float]:
        """How far it is with its first task, and since when (`time.monotonic()`); None if it has not taken it."""
        number, phase, since = self._page.read()
        if self.tasks and number == self.tasks[0].number:
            return phase, since / 1e9
        return None, self.head_since

    @property
    def job_id(self) -> str:
        """Of the task that it is at work on, or was last; "-" before the first."""
        if self.tasks:
            self.last_job_id = self.tasks[0].job_id.decode()
        return self.last_job_id

    def ask_for_stack(self) -> None:
        """Have it write down where it is stuck, within milliseconds."""
        if STACK_SIGNAL is not None and self.pidfd is not None:
            try:
                signal.pidfd_send_signal(self.pidfd, STACK_SIGNAL)
            except OSError:
                pass

    def stack_grows(self) -> bool:
        """Whether it has not begun to write its stack down, or has written more since the last call."""
        before, self._stack_bytes = self._stack_bytes, os.fstat(self._stack).st_size
        return not self._stack_bytes or self._stack_bytes != before

    def stack(self) -> str:
        """What it has written down since `ask_for_stack`; empty if it could not."""
        size = min(os.fstat(self._stack).st_size, _STACK_BYTES)
        return os.pread(self._stack, size, 0).decode("utf-8", "replace").rstrip()

    def kill(self) -> None:
        """End the process at once, whatever it does (SIGKILL)."""
        self.killed = True
        try:
            if self.pidfd is not None:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            else:
                os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def hang_up(self) -> None:
        """Let the process end by itself once it has done what it has."""
        self.retiring = True
        try:
            self._jobs.send(b"")  # where there is no SOCK_SEQPACKET, closing alone would not tell
        except OSError:
            pass
        self._jobs.close()

    def close(self) -> None:
        """Give all descriptors back, once the process is gone."""
        for end in (self._jobs, self._child_end, self.replies):
            end.close()
        self._page.close()
        os.close(self._stack)
        self.output.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
