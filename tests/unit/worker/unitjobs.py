"""Records and runs as the worker's threads pass them on, without Kafka and without a process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from hypothesis import HealthCheck, Phase, settings
from partitions import P0

from embedkq._partition import Partition
from embedkq.worker.between_threads.messages import Batch, JobRun

repeatable = settings(
    derandomize=True,
    database=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no failure
    # Of a mutant nobody reads the smallest example.
    phases=[
        phase
        for phase in Phase
        if "MUTANT_UNDER_TEST" not in os.environ or phase in (Phase.explicit, Phase.generate)
    ],
)
"""Settings of hypothesis: the same examples in each run, so that a mutant is caught always or
never."""


class Polled:
    """A record, as far as the worker looks at one."""

    def __init__(
        self,
        offset: int = 0,
        key: bytes | None = None,
        value: bytes | None = b"",
        headers: Sequence[tuple[str, bytes]] = (),
        timestamp: int = 0,
        flaw: str | None = None,
    ) -> None:
        self.offset = offset
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp = timestamp
        self.flaw = flaw


def run_at(
    offset: int, partition: Partition = P0, epoch: int = 1, key: bytes | None = None, size: int = 0
) -> JobRun:
    """A run whose payload and key have so many bytes together, or as many as the key has."""
    return JobRun(partition, epoch, Polled(offset, key, b"x" * max(0, size - len(key or b""))))


def batch_of(runs: Iterable[JobRun], partition: Partition = P0, epoch: int = 1) -> Batch:
    """One poll of a partition; the position is behind the last run, or 0 without any."""
    listed = list(runs)
    position = listed[-1].offset + 1 if listed else 0
    return Batch(partition, epoch, listed, sum(run.size for run in listed), position)


def places(runs: Iterable[JobRun]) -> list[tuple[int, int]]:
    """Number of the partition, and offset, of each."""
    return [(run.partition.number, run.offset) for run in runs]
