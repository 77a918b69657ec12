"""A host with a crash guard, for tests of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from partitions import P0, P1
from unitjobs import run_at

from embedkq._formats import commit_metadata
from embedkq._formats.commit_metadata import NOTHING, CommitMetadata
from embedkq._partition import Partition
from embedkq.worker.between_threads.messages import Assigned, JobRun
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.control_thread import crash_guard as module
from embedkq.worker.control_thread.crash_guard import CrashGuard, Quarantined
from embedkq.worker.control_thread.partition_ledger import PartitionLedger

MOST = 3


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def clock_of(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The crash guard's clock; its host is called "here"."""
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    monkeypatch.setattr(module, "socket", SimpleNamespace(gethostname=lambda: "here"))
    return made


class Host:
    """One host's guard, with the ledger and the commits that it works by."""

    def __init__(
        self, notes: CommitMetadata = NOTHING, processes: int = 1, most: int | None = MOST
    ) -> None:
        self.shared = SharedState()
        self.ledger = PartitionLedger()
        self.is_idle = True
        self.quarantined: list[Quarantined] = []
        """What is not to run any more."""
        self.guard = CrashGuard(self.shared, self.ledger, processes, most, lambda: self.is_idle)
        self.assign(notes)

    def assign(
        self, notes: CommitMetadata = NOTHING, partition: Partition = P0, epoch: int = 1
    ) -> None:
        metadata = commit_metadata.encode(0, (), notes)
        self.ledger.assign(Assigned(partition, epoch, 0, metadata))
        self.guard.assigned(partition)

    def polled(self, *offsets: int, partition: Partition = P0, epoch: int = 1) -> list[JobRun]:
        for offset in offsets:
            self.ledger.tracker.admit(partition, offset)
        return [run_at(offset, partition, epoch) for offset in offsets]

    def begin(self, *runs: JobRun) -> list[JobRun]:
        """Those that may begin now, of these and of what waits."""
        released = self.guard.release(list(runs))
        if released.quarantined is not None:
            self.quarantined.append(released.quarantined)
        return released.begin

    def commit(self) -> CommitMetadata:
        """As the consumer's thread does; what the next host finds of partition 0."""
        self.shared.confirm(self.ledger.snapshot())
        return self.shared.committed[P0].notes

    def end(self, run: JobRun) -> None:
        self.guard.left(run)
        self.ledger.finish(run)


def host_with_begun(notes: CommitMetadata = NOTHING, **options: Any) -> Host:
    """One of which it is committed that it has begun jobs of partitions 0 and 1."""
    host = Host(notes, **options)
    host.assign(partition=P1)
    host.shared.begun |= {P0, P1}
    return host
