"""How much a worker gets in its host's way: how long it lets things gather, by how busy the
application is."""

from __future__ import annotations

import math
import statistics
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
import workerjobs
from support import Recorder, fire_until, wait_until

from embedkq import Queue, Worker
from embedkq.worker.between_threads import host_cpu
from embedkq.worker.between_threads.host_cpu import HostCpu
from embedkq.worker.consumer_thread import poll_throttle
from embedkq.worker.consumer_thread.poll_throttle import PollThrottle
from embedkq.worker.pool import prefetch
from embedkq.worker.pool.prefetch import Prefetch


def load_of(share: float) -> HostCpu:
    load = HostCpu()
    load.share = share
    return load


def child(tasks: int, check_at: float = math.inf, stalled: bool = False) -> Any:
    return SimpleNamespace(tasks=range(tasks), check_at=check_at, stalled=stalled)


# How busy the host is.


class Spinning:
    """A thread that takes all the processor time it can get."""

    def __init__(self, load: HostCpu, left_out: bool) -> None:
        self._load, self._left_out, self._over = load, left_out, False
        self._thread = threading.Thread(target=self._spin)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()

    def _spin(self) -> None:
        if self._left_out:
            self._load.leave_out_this_thread()
        while not self._over:
            pass


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_cpu, "_LOOK_SECONDS", 0.1)


def shares(load: HostCpu, looks: int) -> list[float]:
    """What each of so many looks finds."""
    found = []
    while len(found) < looks:
        looked = load._looked
        load.sample(time.monotonic())
        if load._looked != looked:
            found.append(load.share)
    return found


def test_a_host_that_does_nothing_has_no_load() -> None:
    load = HostCpu()
    load.leave_out_this_thread()
    assert statistics.median(shares(load, 5)) < 0.5


def test_what_other_threads_take_is_the_load() -> None:
    load = HostCpu()
    load.leave_out_this_thread()
    load.sample(time.monotonic())
    with Spinning(load, left_out=False):
        wait_until(lambda: load.sample(time.monotonic()) or load.share > 0.3, "the load is seen")


def test_what_the_worker_takes_is_not() -> None:
    load = HostCpu()
    load.leave_out_this_thread()
    with Spinning(load, left_out=True):
        wait_until(lambda: len(load._clocks) == 2, "the thread is known")
        spent, found = time.process_time(), shares(load, 1)
        while time.process_time() < spent + 0.5:
            found += shares(load, 1)
        assert statistics.median(found) < 0.2


def test_a_thread_that_has_ended_is_forgotten() -> None:
    load = HostCpu()
    load.leave_out_this_thread()
    with Spinning(load, left_out=True):
        wait_until(lambda: len(load._clocks) == 2, "the thread is known")
        shares(load, 3)
    assert statistics.median(shares(load, 5)) < 0.5 and len(load._clocks) == 1


def test_where_threads_have_no_clock_no_host_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "pthread_getcpuclockid")
    load = HostCpu()
    load.leave_out_this_thread()
    with Spinning(load, left_out=False):
        assert shares(load, 5) == [0.0] * 5


def test_a_worker_sees_how_busy_its_app_is_and_all_jobs_are_done(
    hosts: str, topic: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, waits = Recorder(), list[PollThrottle]()
    monkeypatch.setattr(PollThrottle, "wait", lambda gathering: waits.append(gathering))
    worker = Worker(hosts=hosts, topic=topic, group=group, callback=recorder)
    with worker, Queue(hosts=hosts, topic=topic) as queue:
        assert worker._runtime is not None
        load = worker._runtime.consumer._shared.host_cpu
        wait_until(lambda: worker._runtime.loop, "the loop is made")
        assert worker._runtime.loop.pool._pace._host_cpu is load
        fire_until(
            worker,
            lambda: len(load._clocks) == 3,
            "worker's, consumer's and kafka-python's thread are known",
        )
        with Spinning(load, left_out=False):
            wait_until(lambda: load.share > 0.3, "the app is busy")
            for number in range(30):
                queue.enqueue(workerjobs.echo, number)
            fire_until(worker, lambda: len(recorder) == 30, "all are done")
            assert {waiting._host_cpu for waiting in waits} == {load}
        wait_until(lambda: load.share < 0.3, "it is so no more")


@pytest.mark.parametrize(
    ("share", "seconds"), [(0.0, 0.005), (0.25, 0.005), (0.625, 0.0525), (1.0, 0.1)]
)
def test_the_busier_the_host_the_longer(share: float, seconds: float) -> None:
    assert load_of(share).scale(0.005, 0.1) == pytest.approx(seconds)


# How long records gather before a poll.


@pytest.mark.parametrize(
    ("share", "came", "since", "waits"),
    [
        (0.0, 0, 0.0, 0.0),
        (0.0, 1, 0.0, 0.005),
        (0.0, 1, 0.002, 0.003),
        (0.0, 1, 0.006, 0.0),
        (0.0, 49, 0.0, 0.005),
        (0.0, 50, 0.0, 0.0),
        (1.0, 0, 0.0, 0.0),
        (1.0, 1, 0.0, 0.1),
        (1.0, 499, 0.02, 0.08),
        (1.0, 500, 0.0, 0.0),
        (0.625, 274, 0.0, 0.0525),
        (0.625, 275, 0.0, 0.0),
    ],
)
def test_after_few_records_the_next_poll_waits(
    share: float, came: int, since: float, waits: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(
        poll_throttle, "time", SimpleNamespace(monotonic=lambda: 100.0 + since, sleep=slept.append)
    )
    waiting = PollThrottle(load_of(share))
    waiting.wait()
    waiting.came(came, 100.0)
    waiting.wait()
    assert slept == ([pytest.approx(waits)] if waits else [])


# How long ends gather.


@pytest.mark.parametrize(
    ("ahead", "more_waits", "share", "seconds"),
    [
        ([], False, 0.0, 0.0),
        ([0, 0], False, 0.0, 0.0),
        ([1, 0], False, 0.0, 0.0),
        ([0, 1], False, 1.0, 0.0),
        ([1, 1], False, 0.0, 0.001),
        ([2, 0], False, 0.0, 0.002),
        ([15, 2], False, 0.0, 0.01),
        ([5, 19], False, 1.0, 0.019),
        ([90, 9], False, 1.0, 0.02),
        ([19, 19], False, 0.625, 0.015),
        ([], True, 0.0, 0.0),
        ([1, 9], True, 0.0, 0.0),
        ([3, 9], True, 0.0, 0.001),
        ([90, 90], True, 0.0, 0.01),
        ([90, 90], True, 1.0, 0.02),
    ],
)
def test_nobody_looks_while_children_have_enough_to_do(
    ahead: list[int], more_waits: bool, share: float, seconds: float
) -> None:
    measured = Prefetch(load_of(share))
    measured.average = 0.001
    assert measured.coalesce_delay([child(tasks) for tasks in ahead], more_waits) == pytest.approx(
        seconds
    )


@pytest.mark.parametrize(
    ("average", "share", "seconds"),
    [
        (0.0002, 0.0, 0.0032),
        (0.0002, 1.0, 0.0125),
        (0.00004, 0.0, 0.0),
        (0.00004, 1.0, 0.0025),
    ],
)
def test_an_idle_host_waits_for_no_more_ends_than_help_it(
    average: float, share: float, seconds: float
) -> None:
    measured = Prefetch(load_of(share))
    measured.average = average
    assert measured.coalesce_delay([child(126)] * 2, True) == pytest.approx(seconds)


def test_a_job_that_takes_long_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Prefetch(load_of(1.0))
    measured.average = 0.001
    slow = child(1, stalled=True)
    assert measured.coalesce_delay([slow, child(1)], False) == 0.0
    assert measured.coalesce_delay([slow, child(4)], False) == pytest.approx(0.004)
    assert measured.coalesce_delay([slow, child(5)], True) == pytest.approx(0.002)


def test_a_limit_is_not_slept_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "time", SimpleNamespace(monotonic=lambda: 100.0))
    measured = Prefetch(load_of(1.0))
    measured.average = 0.001
    at_work = [child(9), child(1, check_at=100.002, stalled=True)]
    assert measured.coalesce_delay(at_work, False) == pytest.approx(0.002)
    at_work[1].check_at = 99.0
    assert measured.coalesce_delay(at_work, False) == 0.0


# How many jobs a child has.


@pytest.mark.parametrize(
    ("average", "share", "depth"),
    [
        (1.0, 0.0, 1),
        (0.001, 0.0, 30),
        (0.001, 1.0, 60),
        (0.001, 0.625, 45),
        (0.00001, 0.0, 128),
        (0.1, 1.0, 1),
    ],
)
def test_a_child_of_a_busy_host_gets_more_at_once(average: float, share: float, depth: int) -> None:
    measured = Prefetch(load_of(share))
    measured.average = average
    assert measured.depth == depth


def test_children_that_take_no_time_are_no_trouble() -> None:
    measured = Prefetch(load_of(0.0))
    for _ in range(100):
        measured.note(500, 0.0)
    assert measured.average > 0 and measured.depth == prefetch.MOST_TASKS
