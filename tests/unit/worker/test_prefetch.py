"""How many jobs a child has at a time, and for how long nobody looks at the children."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from embedkq.worker.between_threads.host_cpu import HostCpu
from embedkq.worker.pool import prefetch as module
from embedkq.worker.pool.prefetch import Prefetch

IDLE, HALF_BUSY, BUSY = 0.0, 0.625, 1.0


def prefetch_of(average: float, share: float = IDLE) -> Prefetch:
    host_cpu = HostCpu()
    host_cpu.share = share
    made = Prefetch(host_cpu)
    made.average = average
    return made


def child(tasks: int, check_at: float = math.inf, stalled: bool = False) -> Any:
    return SimpleNamespace(tasks=range(tasks), check_at=check_at, stalled=stalled)


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 100.0))
    return 100.0


# What a job takes.


def test_a_job_is_taken_to_need_a_second_until_one_has_run() -> None:
    made = Prefetch(HostCpu())
    assert made.average == 1.0
    assert made.depth == 1


def test_each_job_changes_the_average_by_a_twentieth_of_the_difference() -> None:
    made = prefetch_of(1.0)
    made.note(1, 0.2)
    assert made.average == pytest.approx(0.96)
    made.note(2, 4.0)
    assert made.average == pytest.approx(0.96 + 0.1 * (2.0 - 0.96))


def test_twenty_jobs_or_more_replace_the_average() -> None:
    made = prefetch_of(1.0)
    made.note(20, 2.0)
    assert made.average == pytest.approx(0.1)
    made.note(40, 2.0)
    assert made.average == pytest.approx(0.05)


def test_jobs_that_take_no_time_count_as_a_microsecond() -> None:
    made = prefetch_of(1.0)
    made.note(100, 0.0)
    assert made.average == pytest.approx(1e-6)


# How many a child has.


@pytest.mark.parametrize(
    ("average", "share", "depth"),
    [
        (0.001, IDLE, 30),
        (0.001, HALF_BUSY, 45),
        (0.001, BUSY, 60),
        (0.02, IDLE, 1),
        (0.014, IDLE, 2),
        (0.1, BUSY, 1),
        (0.000_01, IDLE, 128),
    ],
)
def test_a_child_has_as_many_jobs_as_it_does_in_a_moment_more_of_them_in_a_busy_host(
    average: float, share: float, depth: int
) -> None:
    assert prefetch_of(average, share).depth == depth


# For how long nobody looks.


@pytest.mark.parametrize(
    ("ahead", "share", "seconds"),
    [
        ([], IDLE, 0.0),
        ([0], IDLE, 0.0),
        ([1], BUSY, 0.0),
        ([0, 1], BUSY, 0.0),
        ([2], IDLE, 0.002),
        ([1, 1], IDLE, 0.001),
        ([5, 2], IDLE, 0.005),
        ([15, 2], IDLE, 0.01),
        ([5, 19], BUSY, 0.019),
        ([90, 9], BUSY, 0.02),
        ([19, 19], HALF_BUSY, 0.015),
    ],
)
def test_the_last_jobs_are_awaited_together_for_as_long_as_they_take_and_not_too_long(
    ahead: list[int], share: float, seconds: float
) -> None:
    children = [child(tasks) for tasks in ahead]
    assert prefetch_of(0.001, share).coalesce_delay(children, False) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("ahead", "share", "seconds"),
    [
        ([], IDLE, 0.0),
        ([0, 9], IDLE, 0.0),
        ([1, 9], IDLE, 0.0),
        ([3, 9], IDLE, 0.001),
        ([9, 4], IDLE, 0.0015),
        ([90, 90], IDLE, 0.01),
        ([90, 90], BUSY, 0.02),
    ],
)
def test_where_more_waits_no_child_comes_near_its_last_job(
    ahead: list[int], share: float, seconds: float
) -> None:
    children = [child(tasks) for tasks in ahead]
    assert prefetch_of(0.001, share).coalesce_delay(children, True) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("average", "share", "seconds"),
    [
        (0.000_2, IDLE, 16 * 0.000_2),
        (0.000_2, HALF_BUSY, 62.5 * 0.000_2),
        (0.000_05, BUSY, 62.5 * 0.000_05),
        (0.000_04, IDLE, 0.0),
    ],
)
def test_an_idle_host_awaits_no_more_than_sixteen_ends(
    average: float, share: float, seconds: float
) -> None:
    made = prefetch_of(average, share)
    assert made.coalesce_delay([child(126)] * 2, True) == pytest.approx(seconds)


def test_a_busy_host_awaits_no_more_than_a_full_childs_ends() -> None:
    made = prefetch_of(0.000_1, BUSY)
    assert made.coalesce_delay([child(300)], False) == pytest.approx(0.0128)


def test_less_than_a_timers_tick_is_not_slept() -> None:
    assert prefetch_of(0.000_4).coalesce_delay([child(2)], False) == 0.0
    assert prefetch_of(0.000_41).coalesce_delay([child(2)], False) == pytest.approx(0.000_82)


def test_a_child_whose_job_takes_long_does_not_count() -> None:
    made, slow = prefetch_of(0.001), child(1, stalled=True)
    assert made.coalesce_delay([slow, child(1)], False) == 0.0
    assert made.coalesce_delay([child(9, stalled=True), child(4)], False) == pytest.approx(0.004)
    assert made.coalesce_delay([slow, child(5)], True) == pytest.approx(0.002)


def test_a_limit_that_is_near_is_not_slept_over(now: float) -> None:
    made = prefetch_of(0.001)
    later = child(1, now + 0.004, stalled=True)
    sooner = child(1, now + 0.002, stalled=True)
    assert made.coalesce_delay([child(9), later, sooner], False) == pytest.approx(0.002)
    passed = child(1, now - 1.0, stalled=True)
    assert made.coalesce_delay([child(9), passed], False) == 0.0
    not_slow = child(9, now + 0.001)
    assert made.coalesce_delay([not_slow], False) == pytest.approx(0.009)
