"""Retries: whether a job that failed runs again, and the jobs that wait until it is time. Control
thread."""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections import deque
from collections.abc import Collection, Set

from embedkq._formats.outcome import Outcome
from embedkq._partition import Partition
from embedkq.errors import type_name
from embedkq.worker.between_threads.messages import JobRun
from embedkq.worker.between_threads.partition_quota import PartitionQuota

LONGEST_PAUSE_SECONDS = 300.0
"""However often a job has failed it does not wait longer than this, unless its backoff is longer by
itself."""
MOST_HELD = 500
MOST_HELD_BYTES = 16 * 1024 * 1024
MOST_HELD_BYTES_IN_ALL = 24 * 1024 * 1024
"""From so many jobs of one partition that wait for another attempt, or so many bytes, on, no more
of its records are begun; from so many bytes of all partitions on, no more of those that have
any."""
_MOST_DOUBLINGS = 60
_KINDS_OF_TIMEOUT = frozenset(type_name(kind) for kind in (TimeoutError, Exception, BaseException))


class Retries:
    """Which attempts are followed by another one, and when.

    Args:
        retries: how often a job is run again that does not say so itself.
        backoff: seconds before the first of them; twice as many before each further one.
        retry_on: names of exceptions after which there is another attempt; None for all.
    """

    def __init__(
        self, retries: int = 0, backoff: float = 1.0, retry_on: Collection[str] | None = None
    ) -> None:
        self._retries = retries
        self._backoff = backoff
        self._retry_on = None if retry_on is None else frozenset(retry_on)
        self._load = PartitionQuota(MOST_HELD, MOST_HELD_BYTES, MOST_HELD_BYTES_IN_ALL)
        self._held: list[tuple[float, int, JobRun]] = []
        self._numbers = itertools.count()
        self._ready: deque[JobRun] = deque()

    @property
    def full(self) -> set[Partition]:
        """Partitions to pause, because too many of their jobs wait."""
        return self._load.full

    @property
    def next_at(self) -> float:
        """`time.monotonic()` at which `wake` has something to do."""
        return self._held[0][0] if self._held else math.inf

    def __len__(self) -> int:
        return len(self._held) + len(self._ready)

    def most(self, run: JobRun) -> int:
        """How often the run may be run again."""
        return self._retries if run.retries is None else run.retries

    def pause_after(self, run: JobRun, outcome: Outcome) -> float | None:
        """Seconds until its next attempt; None if this was the last. `run.attempts` counts those
        that have ended."""
        if (
            outcome.status not in ("failure", "timeout")
            or run.attempts > self.most(run)
            or not self._is_wanted(outcome)
        ):
            return None
        backoff = self._backoff if run.backoff is None else run.backoff
        doubled = backoff * 2.0 ** min(run.attempts - 1, _MOST_DOUBLINGS)
        # Half of it by chance, so that what failed together does not come again together.
        return min(doubled, max(backoff, LONGEST_PAUSE_SECONDS)) * random.uniform(0.5, 1.0)

    def hold(self, run: JobRun, seconds: float) -> None:
        """Keep a run for so long."""
        self._load.add(run.partition, run.size)
        heapq.heappush(self._held, (time.monotonic() + seconds, next(self._numbers), run))

    def wake(self, now: float) -> None:
        """Make those ready whose time has come."""
        while self._held and self._held[0][0] <= now:
            self._ready.append(heapq.heappop(self._held)[2])

    def take_ready(self, most: int) -> list[JobRun]:
        """Up to this many runs that are ready, oldest first."""
        runs = [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
        for run in runs:
            self._load.remove(run.partition, run.size)
        return runs

    def drop(self, partitions: Set[Partition]) -> list[JobRun]:
        """Forget partitions; the runs of them that waited."""
        dropped = [run for _, _, run in self._held if run.partition in partitions]
        dropped += [run for run in self._ready if run.partition in partitions]
        self._held = [held for held in self._held if held[2].partition not in partitions]
        heapq.heapify(self._held)
        self._ready = deque(run for run in self._ready if run.partition not in partitions)
        for partition in partitions:
            self._load.forget(partition)
        return dropped

    def _is_wanted(self, outcome: Outcome) -> bool:
        if self._retry_on is None:
            return True
        kinds = (
            _KINDS_OF_TIMEOUT
            if outcome.status == "timeout"
            else {outcome.type_name, *outcome.text.splitlines()}
        )
        return not self._retry_on.isdisjoint(kinds)
