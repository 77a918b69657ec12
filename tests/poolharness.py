"""Drives a JobPool as the worker's loop does, without Kafka: one selector, one turn after another,
every ending remembered."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from support import HANG_SECONDS

from embedkq import codec
from embedkq._formats.outcome import Outcome
from embedkq._ipc.progress_page import Phase
from embedkq.worker.between_threads.task import Task
from embedkq.worker.pool.mp_context import make_context
from embedkq.worker.pool.pool import JobPool

_TURN_SECONDS = 0.5


class Harness:
    """A pool and the outcomes of what was submitted to it; a second outcome of the same task fails
    at once."""

    def __init__(
        self,
        processes: int = 2,
        *,
        initializer: Callable[[], Any] | bytes | None = None,
        **options: Any,
    ) -> None:
        self.processes = processes
        self.outcomes: dict[Task, Outcome] = {}
        """By task, in the order in which they ended."""
        self.ended_at: dict[Task, float] = {}
        self.submitted_at: dict[Task, float] = {}
        self.started_at: dict[Task, float] = {}
        """`time.monotonic()` at which its call began, as its child's page said."""
        self.begun: dict[Task, str] = {}
        self.lowest_strength = processes
        self._selector = selectors.DefaultSelector()
        encoded = (
            codec.encode_call(initializer, (), {}) if callable(initializer) else initializer or b""
        )
        self.pool: JobPool[Task] = JobPool(
            processes, self._selector, initializer=encoded, **options
        )

    def __enter__(self) -> Harness:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.pool.close()
        assert not self._selector.get_map(), "descriptors are left in the selector"
        self._selector.close()

    def submit(
        self,
        func: Callable[..., Any],
        *args: Any,
        limit: float | None = None,
        announce: bool = False,
        **kwargs: Any,
    ) -> Task:
        return self.submit_payload(codec.encode_call(func, args, kwargs), limit, announce)

    def submit_payload(
        self, payload: bytes, limit: float | None = None, announce: bool = False
    ) -> Task:
        task = Task(str(uuid.uuid4()), payload, limit, announce)
        self.submitted_at[task] = time.monotonic()
        self.pool.submit(task)
        self.pool.feed()
        return task

    def turn(self, seconds: float = _TURN_SECONDS) -> None:
        """What the loop does in one turn; waits for something to happen, at most so long."""
        rest = min(self.pool.check_at - time.monotonic(), seconds)
        for key, _ in self._selector.select(max(0.0, rest)):
            key.data()
        for child in self.pool._children.values():
            phase, since = child.progress()
            if phase is Phase.RUNNING:
                self.started_at[child.tasks[0]] = since
        self.tick(time.monotonic())
        self.lowest_strength = min(self.lowest_strength, self.strength)
        self.pool.feed()

    def tick(self, at: float) -> None:
        """Have the pool do what time demands, as if it were so late; and note what has happened."""
        begun, ended = self.pool.tick(at)
        now = time.monotonic()
        for task, outcome in ended:
            assert task not in self.outcomes, f"two outcomes: {self.outcomes[task]} and {outcome}"
            self.outcomes[task] = outcome
            self.ended_at[task] = now
        self.begun.update(begun)

    def run_until(
        self, reached: Callable[[], Any], what: str, seconds: float = HANG_SECONDS
    ) -> Any:
        """Turn until something is so; fails with `what` if it does not come about at all."""
        deadline = time.monotonic() + seconds
        while not (value := reached()):
            assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
            self.turn(0.02)
        return value

    def finish(self, *tasks: Task) -> list[Outcome]:
        """Turn until these have ended (all that were submitted, where none is named); their
        outcomes."""
        wanted = tasks or tuple(self.submitted_at)
        self.run_until(lambda: all(task in self.outcomes for task in wanted), "all have ended")
        return [self.outcomes[task] for task in wanted]

    def run(
        self, func: Callable[..., Any], *args: Any, limit: float | None = None, **kwargs: Any
    ) -> Outcome:
        """Submit one call and wait for its end."""
        return self.finish(self.submit(func, *args, limit=limit, **kwargs))[0]

    def fill(self) -> None:
        """Until all children are there."""
        self.run_until(self.is_full, "full strength")

    def is_full(self) -> bool:
        return self.strength == self.processes and self.pool.weak_since is None

    @property
    def strength(self) -> int:
        """How many children may be given work."""
        return sum(not (child.killed or child.retiring) for child in self.pool._children.values())

    @property
    def pids(self) -> set[int]:
        """Process ids of the children."""
        return set(self.pool._children)


@contextlib.contextmanager
def kept_fork_server() -> Iterator[None]:
    """One fork server for all pools meanwhile: most of a pool's start is that of its server."""
    context = make_context()
    try:
        yield
    finally:
        context.close()


def value_of(outcome: Outcome) -> Any:
    """The result or the exception that an outcome carries."""
    assert outcome.status in ("success", "failure"), outcome
    return codec.decode_object(outcome.payload)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def exists(pid: int) -> bool:
    """Whether the process table still has it, dead or alive."""
    return os.path.exists(f"/proc/{pid}")


def descriptors() -> set[tuple[int, str]]:
    """Open descriptors of this process, with what they stand for."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:  # the one by which the directory was read
            continue
    return found
