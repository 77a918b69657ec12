"""Polls, ends, assignments and revocations in any order: each record of a partition that stays is
begun once, and the others are handed back."""

from __future__ import annotations

from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st
from partitions import P0, P1, P2
from unitjobs import batch_of, places, repeatable, run_at

from embedkq._partition import Partition
from embedkq.worker.between_threads.backlog import Backlog
from embedkq.worker.between_threads.messages import JobRun


class Worker:
    """What the control thread does with a backlog, and what came of each record."""

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.epochs = Counter[Partition]()
        self.ends = Counter[Partition]()
        self.running: deque[JobRun] = deque()
        self.waiting: set[JobRun] = set()
        self.polled: list[JobRun] = []
        self.begun: list[JobRun] = []
        self.done: list[JobRun] = []

    def open(self, partition: Partition) -> None:
        if not self.backlog.is_open(partition):
            self.epochs[partition] += 1
            self.backlog.open(partition, self.epochs[partition])

    def poll(self, partition: Partition, count: int, key: bytes | None, epochs_ago: int) -> None:
        epoch = self.epochs[partition] - epochs_ago
        first = self.ends[partition]
        self.ends[partition] += count
        runs = [run_at(first + n, partition, epoch, key, 10) for n in range(count)]
        batch = batch_of(runs, partition, epoch)
        self.backlog.reserve(count, batch.size)
        if self.backlog.is_open(partition) and not epochs_ago:
            self.polled += runs
        self.backlog.add(batch)

    def take(self, most: int) -> None:
        ready = self.backlog.take_ready(most)
        assert self.waiting.issuperset(ready)
        self.waiting.difference_update(ready)
        self.begin(ready)
        queued = self.backlog.next_queued(most)
        if queued is None:
            return
        assert len(queued.runs) <= min(most, 16)
        assert queued.epoch == self.epochs[queued.partition]
        for run in queued.runs:
            if self.backlog.enter_lane(run):
                self.begin([run])
            else:
                self.waiting.add(run)

    def begin(self, runs: list[JobRun]) -> None:
        for run in runs:
            keys = {other.key for other in self.running} - {None}
            assert run.key not in keys, "two jobs of one key at a time"
            self.begun.append(run)
            self.running.append(run)

    def end(self) -> None:
        if self.running:
            run = self.running.popleft()
            self.backlog.leave_lane(run)
            self.backlog.leave(run)
            self.done.append(run)

    def drop(self, partition: Partition) -> None:
        handed_back = self.backlog.drop({partition})
        waited = {run for run in self.waiting if run.partition == partition}
        assert len(handed_back) == len(waited) and set(handed_back) == waited
        self.waiting -= waited
        for run in handed_back:
            self.backlog.leave(run)
        self.polled = [
            run for run in self.polled if run.partition != partition or run in set(self.begun)
        ]


PARTITION = st.sampled_from([P0, P1, P2])
POLL = st.tuples(
    st.just("poll"), PARTITION, st.integers(0, 40), st.sampled_from([None, b"a", b"b"]), st.just(0)
)
LATE_POLL = st.tuples(st.just("poll"), PARTITION, st.just(3), st.just(b"a"), st.just(1))
TAKE = st.tuples(st.just("take"), st.integers(1, 20))
END = st.just(("end",))
OPEN = st.tuples(st.just("open"), PARTITION)
DROP = st.tuples(st.just("drop"), PARTITION)
STEPS = st.lists(
    st.one_of(POLL, POLL, TAKE, TAKE, TAKE, END, END, OPEN, DROP, LATE_POLL),
    min_size=10,
    max_size=60,
)


@repeatable
@given(STEPS)
def test_each_record_is_begun_once_in_order_of_its_key_or_handed_back(steps: list[tuple]) -> None:
    worker = Worker()
    for partition in (P0, P1, P2):
        worker.open(partition)
    for name, *arguments in steps:
        getattr(worker, name)(*arguments)
    for _ in range(3_000):
        worker.take(50)
        worker.end()
    assert not (len(worker.backlog) or worker.running or worker.waiting), "some never begin"
    assert sorted(places(worker.begun)) == sorted(places(worker.polled))
    for partition in (P0, P1, P2):
        for key in (None, b"a", b"b"):
            offsets = [
                run.offset for run in worker.begun if (run.partition, run.key) == (partition, key)
            ]
            assert offsets == sorted(set(offsets))
    assert worker.backlog.held_bytes == 0
    assert not worker.backlog.full
