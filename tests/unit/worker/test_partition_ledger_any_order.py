"""In any order of assignments, releases, polls and ends nothing that has ended here runs again."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from partitions import P0
from unitjobs import run_at

from embedkq.worker.between_threads.messages import Assigned, JobRun, Released
from embedkq.worker.control_thread.partition_ledger import PartitionLedger

RECORDS = 10


class Worker:
    """What the control thread does with one partition, of which nothing is ever committed."""

    def __init__(self) -> None:
        self.ledger = PartitionLedger()
        self.running: dict[int, JobRun] = {}
        self.ended: set[int] = set()
        self.epoch = self.position = 0
        self.is_assigned = False

    def gain(self) -> None:
        if not self.is_assigned:
            self.epoch += 1
            self.ledger.assign(Assigned(P0, self.epoch, 0, ""))
            self.is_assigned, self.position = True, 0

    def lose(self) -> None:
        if self.is_assigned:
            self.ledger.release(Released(frozenset((P0,))))
            self.is_assigned = False

    def poll(self) -> None:
        if not self.is_assigned or self.position == RECORDS:
            return
        offset, self.position = self.position, self.position + 1
        if not self.ledger.tracker.admit(P0, offset):
            assert offset in self.ended
        elif offset in self.running:
            self.running[offset].epoch = self.epoch
        else:
            assert offset not in self.ended, f"{offset} runs once more"
            self.running[offset] = run_at(offset, epoch=self.epoch)

    def end(self, offset: int) -> None:
        run = self.running.pop(offset, None)
        if run is not None:
            self.ledger.finish(run)
            self.ended.add(offset)


@settings(max_examples=500)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(["gain", "lose", "poll", "poll", "poll"]), st.integers(0, RECORDS - 1)
        ),
        max_size=80,
    )
)
@example(["gain", "poll", "poll", "lose", "gain", 0, 1, "poll", "poll"])
@example(["gain", "poll", "poll", "poll", "lose", "gain", 1, "poll", 0, "poll", "poll", 2])
@example(["gain", "poll", "lose", 0, "gain", "poll"])
def test_a_job_that_has_ended_here_does_not_run_again_whenever_its_partition_comes_back(
    steps: list[str | int],
) -> None:
    worker = Worker()
    for step in steps:
        worker.end(step) if isinstance(step, int) else getattr(worker, step)()
    worker.gain()
    progress = worker.ledger.snapshot()[P0]
    known = {*range(progress.offset), *(n for run in progress.done for n in range(*run))}
    assert known == worker.ended
    for _ in range(RECORDS):
        worker.poll()
    for offset in range(RECORDS):
        worker.end(offset)
    assert worker.ended == set(range(RECORDS))
    assert worker.ledger.snapshot()[P0][:2] == (RECORDS, ())
