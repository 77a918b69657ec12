"""What a worker costs with many partitions and with much that is held: it grows with what has
changed, or with what is held, not with both.

Steps are counted instead of seconds (bytecode instructions of one thread), so the machine's speed
does not matter.
"""

from __future__ import annotations

import math
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loopharness import Host, Polled
from partitions import P0, P1, P2, P3, numbered
from support import wait_until

from embedkq._child.job_call import failure
from embedkq._formats.outcome import Outcome
from embedkq.worker.between_threads import backlog as backlog_module
from embedkq.worker.between_threads.backlog import RUN_BYTES
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import (
    Batch,
    CallbacksDone,
    DrainTarget,
    JobRun,
    Revoked,
)
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.consumer_thread.consumer_thread import ConsumerThread
from embedkq.worker.consumer_thread.validator import RecordValidator
from embedkq.worker.control_thread import retries as retries_module

FAILED = failure(ValueError("no"))


def steps(call: Callable[[], Any]) -> int:
    """How many bytecode instructions of this thread a call takes."""
    return _monitored(call) if sys.version_info >= (3, 12) else _traced(call)


def _monitored(call: Callable[[], Any]) -> int:
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    here, count = threading.get_ident(), 0

    def took(*_: Any) -> None:
        nonlocal count
        count += threading.get_ident() == here

    monitoring.use_tool_id(monitoring.PROFILER_ID, "embedkq tests")
    monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION, took)
    monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.INSTRUCTION)
    try:
        call()
    finally:
        monitoring.set_events(monitoring.PROFILER_ID, 0)
        monitoring.free_tool_id(monitoring.PROFILER_ID)
    return count


def _traced(call: Callable[[], Any]) -> int:
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def hold_retries(host: Host, partitions: int, each: int) -> None:
    for number in range(partitions):
        host.poll(numbered(number), each)
    while len(host.retries) < partitions * each:
        host.turn()
        host.pool.end_all(FAILED)


@pytest.fixture
def make_host() -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def make(*args: Any, **how: Any) -> Host:
        made.append(Host(*args, **how))
        return made[-1]

    yield make
    for host in made:
        host.close()


def growth(few: int, many: int) -> float:
    """How many times as much it is."""
    return many / few


@pytest.mark.parametrize("given_up", ["at a stop", "at a rebalance"])
def test_what_is_given_up_is_gone_through_once_whatever_the_number_of_partitions(
    make_host: Any, given_up: str
) -> None:
    def give_up(partitions: int) -> int:
        host = make_host(partitions)
        hold_retries(host, partitions, 100)
        revoked = Revoked(frozenset(map(numbered, range(partitions))), lost=False)
        taken = steps(
            host.loop.stop if given_up == "at a stop" else lambda: host.loop._revoked(revoked)
        )
        assert host.loop.in_flight == 0 and len(host.retries) == 0
        return taken

    assert growth(give_up(4), give_up(32)) < 2 * 8


def test_a_turn_in_which_nothing_happens_costs_the_same_with_any_number_of_partitions(
    make_host: Any,
) -> None:
    few, many = make_host(4), make_host(400)
    for host in (few, many):
        host.turn()
    assert growth(steps(few.turn), steps(many.turn)) < 1.5


def test_a_job_costs_the_same_with_any_number_of_partitions(make_host: Any) -> None:
    def one_job(host: Host) -> None:
        host.turn()
        host.pool.end_all(FAILED)
        host.turn()

    taken = []
    for partitions in (4, 400):
        host = make_host(partitions)
        host.turn()
        host.poll(P3, 1)
        taken.append(steps(lambda host=host: one_job(host)))
        assert len(host.retries) == 1
    assert growth(*taken) < 1.5


def test_partitions_on_hold_cost_nothing_more_each_turn_and_go_on_in_the_end(
    make_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    for partitions in (4, 400):
        host = make_host(partitions)
        every = set(map(numbered, range(partitions)))
        for partition in sorted(every):
            host.poll(partition, 2)
        backlog = host.shared.backlog
        host.pool.most = 0
        host.turn()
        backlog.hold(every)
        assert backlog.next_queued(1) is None
        taken.append(steps(lambda backlog=backlog: backlog.next_queued(1)))
        backlog.hold({P1})
        given = [backlog.next_queued(1) for _ in range(partitions - 1)]
        assert {queued.partition for queued in given if queued} == every - {P1}
        assert not backlog.drop(every) and len(backlog) == 0 and backlog.next_queued(1) is None
    assert growth(*taken) < 1.5


def test_partitions_whose_keys_are_busy_are_set_aside_until_they_are_free(
    make_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host(2)
    monkeypatch.setattr(host.shared.backlog._waiting, "_most_records", 3)
    host.poll(P0, 60, key=b"busy")
    host.poll(P1, 3)
    while len(host.pool.tasks) < 4:
        host.turn()
    host.turn()
    assert {(run.partition, run.offset) for run in host.pool.tasks} == {
        (P0, 0),
        (P1, 0),
        (P1, 1),
        (P1, 2),
    }
    assert len(host.shared.backlog) > 30  # of partition 0, which has read ahead enough
    for number in range(1, 60):
        host.pool.end_all(failure(ValueError("final")))
        for run in host.loop._jobs:
            run.retries = 0
        host.turn()
        assert [run.offset for run in host.pool.tasks] == [number]


def test_who_waits_for_offsets_costs_nothing_for_those_that_are_reached(make_host: Any) -> None:
    class Request:
        reached = False

        def set(self) -> None:
            self.reached = True

    taken, requests = [], []
    for partitions in (4, 400):
        host, request = make_host(partitions), Request()
        host.shared.inbox.put(
            DrainTarget(
                request,
                {numbered(each): int(each == partitions - 1) for each in range(partitions)},
            )
        )
        host.turn()
        taken.append(steps(host.turn))
        assert not request.reached
        host.poll(numbered(partitions - 1), 1)
        host.turn()
        for run in host.pool.tasks:
            run.retries = 0
        host.pool.end_all(FAILED)
        host.turn()
        requests.append(request)
    assert growth(*taken) < 1.5 and all(request.reached for request in requests)


def test_a_turn_of_the_consumer_looks_at_each_partition_once(
    hosts: str, make_topic: Any, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_turn(partitions: int) -> int:
        topic, shared = make_topic(partitions), SharedState()
        consumer = ConsumerThread(
            shared,
            hosts=hosts,
            topic=topic,
            group=f"{group}-{partitions}",
            offset_policy="earliest",
            job_size=1_000,
            validator=RecordValidator(),
            revoke_timeout=1.0,
            options={},
        )
        client = consumer._connect()

        def has_begun() -> bool:
            consumer.turn(client)
            return (
                len(consumer.assignment.partitions) == partitions and not consumer.assignment.fresh
            )

        try:
            wait_until(has_begun, "all partitions have begun")
            shared.publish(
                {
                    partition: Progress(0, (), consumer.assignment.epoch(partition) or 0)
                    for partition in (numbered(each, topic) for each in range(partitions))
                }
            )
            monkeypatch.setattr(client.kafka, "poll", lambda milliseconds: {})
            consumer.turn(client)
            consumer._positions_at = 0.0
            consumer.committer.hurry()
            return steps(lambda: consumer.turn(client))
        finally:
            client.close()
            shared.inbox.close()

    assert growth(one_turn(8), one_turn(128)) < 1.5 * 16


# What is held.


def test_all_that_a_worker_holds_is_counted_until_it_is_gone(make_host: Any) -> None:
    host = make_host(6, room=8)
    backlog, chance = host.shared.backlog, random.Random(1)
    for number in range(6):
        host.poll(numbered(number), 40, key=b"key" if number == 0 else None)
    assert backlog.held_bytes == 6 * 40 * (len(b"payload") + RUN_BYTES) + 40 * len(b"key")
    for _ in range(30):
        host.turn()
        for run in host.pool.tasks:
            run.retries = chance.choice((0, 1))
        host.pool.end_all(FAILED)
    host.shared.inbox.put(Revoked(frozenset({P1, P2}), lost=False))
    host.shared.inbox.put(
        Batch(P1, 1, [JobRun(P1, 1, Polled(40))], 7, 41)
    )  # polled before, and too late
    backlog.reserve(1, 7)
    host.turn()
    assert backlog.held_bytes > 0
    host.loop.stop()
    host.pool.end_all(failure(ValueError("final")))
    host.turn()
    assert host.loop.in_flight == 0 and backlog.held_bytes == 0 and not backlog.full


def test_results_that_wait_for_their_callback_are_counted(make_host: Any) -> None:
    box: Mailbox[Any] = Mailbox()
    host = make_host(1, callbacks=box)
    host.poll(P0, 1)
    host.turn()
    host.pool.end_all(Outcome("success", b"x" * 1_000_000))
    host.turn()
    assert host.shared.backlog.held_bytes == len(b"payload") + RUN_BYTES + 1_000_000
    host.shared.inbox.put(CallbacksDone([finished.run for finished in box.take()]))
    host.turn()
    assert host.shared.backlog.held_bytes == 0


def test_a_job_larger_than_all_that_may_be_held_runs(
    make_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "MOST_BYTES", 5)
    monkeypatch.setattr(retries_module, "MOST_HELD_BYTES_IN_ALL", 5)
    host = make_host(2)
    host.poll(P0, 1)
    assert host.shared.backlog.full and not host.shared.backlog.wait_for_room(0.0)
    host.turn()
    host.pool.end_all(FAILED)
    host.turn()
    assert len(host.retries) == 1 and host.shared.backlog.full
    host.retries.wake(math.inf)
    host.turn()
    assert len(host.pool.tasks) == 1
    host.pool.end_all(failure(ValueError("final")))
    host.turn()
    assert host.loop.in_flight == 0 and host.shared.backlog.wait_for_room(0.0)


def test_retries_of_many_partitions_are_bounded_together_and_healthy_partitions_go_on(
    make_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries_module, "MOST_HELD_BYTES_IN_ALL", 100 * len(b"payload"))
    host = make_host(33, room=16)
    for number in range(32):
        host.poll(numbered(number), 50)
    for _ in range(200):
        host.turn()
        host.pool.end_all(FAILED)
    assert (
        100 <= len(host.retries) < 100 + 33 * 16
    )  # a partition of which none waits yet is given a turn
    host.poll(numbered(32), 50)
    for _ in range(20):
        host.turn()
        for run in host.pool.tasks:
            assert run.partition == numbered(32)
            run.retries = 0
        host.pool.end_all(FAILED)
    assert host.loop._ledger.tracker.watermark(numbered(32)) == 50
    host.retries.wake(math.inf)
    for _ in range(1_000):
        host.turn()
        for run in host.pool.tasks:
            run.retries = 0
        host.pool.end_all(FAILED)
    assert [host.loop._ledger.tracker.watermark(numbered(number)) for number in range(32)] == [
        50
    ] * 32


def test_what_waits_for_busy_keys_is_bounded_over_all_partitions(
    make_host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog_module, "READ_AHEAD_BYTES_IN_ALL", 200)
    host = make_host(8, room=1_000)
    for number in range(8):
        host.poll(numbered(number), 40, key=f"key {number}".encode())
    for _ in range(20):
        host.turn()
    assert host.shared.backlog._waiting.over and len(host.shared.backlog) > 100
    order = []
    for _ in range(1_000):
        for run in host.pool.tasks:
            run.retries = 0
            order.append((run.partition.number, run.offset))
        host.pool.end_all(FAILED)
        host.turn()
    assert sorted(order) == [(partition, offset) for partition in range(8) for offset in range(40)]
    assert all(
        offset == [n for p, n in order if p == partition].index(offset)
        for partition, offset in order
    )
