"""Drives a ControlLoop by single turns, without Kafka, child processes or threads: a test says how
jobs end, when callbacks return and when dead letters are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from partitions import TOPIC, numbered

from embedkq._partition import Partition
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import Assigned, Batch, Finished, JobRun
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.control_thread.circuit_breaker import CircuitBreaker
from embedkq.worker.control_thread.completer import Completer
from embedkq.worker.control_thread.control_loop import ControlLoop
from embedkq.worker.control_thread.crash_guard import CrashGuard
from embedkq.worker.control_thread.job_log import JobLog
from embedkq.worker.control_thread.retries import Retries


class Polled(NamedTuple):
    """A record, as far as a run needs one."""

    offset: int
    key: bytes | None = None
    value: bytes | None = b"payload"
    headers: Iterable[tuple[str, bytes]] = ()
    timestamp: int = 0


class Pool:
    """In place of child processes: holds what it is given until a test says how it ends."""

    check_at = math.inf

    def __init__(self, room: int = 64) -> None:
        self.most = room
        self.tasks: list[JobRun] = []
        self.begun: set[JobRun] | None = None
        """Those that cannot be taken back; None for all."""
        self._ended: list[tuple[JobRun, Any]] = []

    def room(self) -> int:
        return max(0, self.most - len(self.tasks))

    @property
    def idle(self) -> bool:
        return not self.tasks

    def submit(self, task: JobRun) -> None:
        self.tasks.append(task)

    def end(self, task: JobRun, outcome: Any) -> None:
        self.tasks.remove(task)
        self._ended.append((task, outcome))

    def end_all(self, outcome: Any) -> None:
        self._ended += [(task, outcome) for task in self.tasks]
        self.tasks.clear()

    def take_back(self, tasks: set[JobRun]) -> set[JobRun]:
        back = set() if self.begun is None else tasks - self.begun
        self.tasks = [task for task in self.tasks if task not in back]
        return back

    def abandon(self) -> list[JobRun]:
        abandoned, self.tasks = self.tasks, []
        return abandoned

    def coalesce_delay(self, more_waits: bool) -> float:
        return 0.0

    def tick(self, now: float) -> tuple[list[Any], list[Any]]:
        """Nothing has a limit."""
        ended, self._ended = self._ended, []
        return [], ended

    feed = close = close_after_fork = lambda self, *how: None


class Letters:
    """In place of a producer: holds dead letters until a test says that they are written."""

    topic, away_since = "dead", None

    def __init__(self) -> None:
        self.waiting: list[JobRun] = []

    def write(self, run: JobRun) -> None:
        self.waiting.append(run)

    def written(self, runs: list[JobRun]) -> None:
        self.waiting = [run for run in self.waiting if run not in runs]

    def held_up(self, now: float) -> set[Partition]:
        return set()

    def close(self, stop: Any) -> None:
        """Nothing to end."""


class Host:
    """A worker's loop with so many partitions."""

    def __init__(
        self,
        partitions: int,
        room: int = 64,
        callbacks: Mailbox[Finished] | None = None,
        *,
        letters: Letters | None = None,
        verifies: bool = False,
        max_crashes: int | None = None,
        max_jobs: int | None = None,
        backoff: float = 600.0,
    ) -> None:
        self.shared = SharedState()
        self.pool = Pool(room)
        self.retries = Retries(retries=1, backoff=backoff)
        log = JobLog()
        self.loop = ControlLoop(
            self.shared,
            completer=Completer(log, self.retries, callbacks, letters),  # type: ignore[arg-type]
            retries=self.retries,
            log=log,
            breaker=CircuitBreaker(TOPIC, verifies),
            make_pool=lambda selector: self.pool,  # type: ignore[arg-type, return-value]
            make_crash_guard=lambda shared, ledger, is_idle: CrashGuard(
                shared, ledger, 2, max_crashes, is_idle
            ),
            max_jobs=max_jobs,
        )
        for number in range(partitions):
            self.shared.inbox.put(Assigned(numbered(number), 1, 0, ""))
        self.turn()

    def turn(self) -> bool:
        self.shared.inbox.wake()  # so that it does not wait
        return self.loop.turn()

    def poll(
        self, partition: Partition, records: int, first: int = 0, key: bytes | None = None
    ) -> None:
        runs = [JobRun(partition, 1, Polled(first + number, key)) for number in range(records)]
        self.pass_on(runs, first + records)

    def pass_on(self, runs: list[JobRun], position: int) -> None:
        """As the consumer's thread does with what it has polled of one partition."""
        size = sum(run.size for run in runs)
        self.shared.backlog.reserve(len(runs), size)
        self.shared.inbox.put(Batch(runs[0].partition, runs[0].epoch, runs, size, position))

    def commit(self) -> None:
        """As the consumer's thread does with what may be committed."""
        self.shared.confirm(self.shared.snapshot)

    def close(self) -> None:
        self.loop.close()
