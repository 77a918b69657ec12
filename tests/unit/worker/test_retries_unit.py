"""Which attempts are followed by another one, after how long, and how the jobs wait for it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from partitions import P0, P1, P2, P4, P5, P7, numbered
from unitjobs import places, repeatable, run_at

from embedkq._formats.outcome import Outcome
from embedkq._partition import Partition
from embedkq.worker.between_threads.messages import JobRun
from embedkq.worker.control_thread import retries as module
from embedkq.worker.control_thread.retries import Retries

FAILURE = Outcome("failure", type_name="FileNotFoundError", text="FileNotFoundError\nOSError")
TIMEOUT = Outcome("timeout")
PARTITION = st.sampled_from([P0, P1, P2])


class Clock:
    """The time, and the chance: the longest pause unless told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.chance = 1.0
        self.asked: list[tuple[float, float]] = []

    def monotonic(self) -> float:
        return self.now

    def uniform(self, low: float, high: float) -> float:
        self.asked.append((low, high))
        return self.chance


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=made.monotonic))
    monkeypatch.setattr(module, "random", SimpleNamespace(uniform=made.uniform))
    return made


def failed(attempts: int = 1, retries: int | None = None, backoff: float | None = None) -> JobRun:
    run = run_at(0)
    run.attempts, run.retries, run.backoff = attempts, retries, backoff
    return run


# Whether and when.


def test_a_job_is_not_run_again_unless_it_or_the_worker_says_so() -> None:
    assert Retries().pause_after(failed(), FAILURE) is None
    assert Retries().most(failed()) == 0


@pytest.mark.parametrize(
    ("of_worker", "of_job", "most"), [(2, None, 2), (2, 0, 0), (0, 1, 1), (1, 3, 3)]
)
def test_a_jobs_own_number_of_retries_replaces_the_workers(
    of_worker: int, of_job: int | None, most: int
) -> None:
    policy = Retries(of_worker)
    assert policy.most(failed(retries=of_job)) == most
    again = [policy.pause_after(failed(n, of_job), FAILURE) is not None for n in range(1, 6)]
    assert again == [True] * most + [False] * (5 - most)


def test_the_first_pause_is_the_backoff_and_each_further_one_is_twice_as_long() -> None:
    policy = Retries(10, backoff=3.0)
    assert [policy.pause_after(failed(n), FAILURE) for n in (1, 2, 3)] == [3.0, 6.0, 12.0]


def test_the_backoff_is_one_second_where_nobody_says_otherwise() -> None:
    assert Retries(1).pause_after(failed(), FAILURE) == 1.0


def test_a_jobs_own_backoff_replaces_the_workers() -> None:
    assert Retries(9, backoff=3.0).pause_after(failed(2, backoff=0.5), FAILURE) == 1.0


def test_half_of_a_pause_is_chance(clock: Clock) -> None:
    clock.chance = 0.6
    assert Retries(9, backoff=10.0).pause_after(failed(2), FAILURE) == 12.0
    assert clock.asked == [(0.5, 1.0)]


def test_no_pause_is_longer_than_five_minutes_unless_the_backoff_is() -> None:
    assert Retries(99, backoff=200.0).pause_after(failed(2), FAILURE) == 300.0
    assert Retries(99, backoff=400.0).pause_after(failed(2), FAILURE) == 400.0
    assert Retries(9999, backoff=1.0).pause_after(failed(9999), FAILURE) == 300.0


def test_a_timeout_is_followed_by_another_attempt_and_a_success_is_not() -> None:
    policy = Retries(1)
    assert policy.pause_after(failed(), TIMEOUT) == 1.0
    for status in ("success", "undecodable", "malformed"):
        assert policy.pause_after(failed(), Outcome(status)) is None


@pytest.mark.parametrize(
    ("retry_on", "outcome", "again"),
    [
        (["FileNotFoundError"], FAILURE, True),
        (["OSError"], FAILURE, True),
        (["KeyError", "OSError"], FAILURE, True),
        (["KeyError"], FAILURE, False),
        ([], FAILURE, False),
        (["shop.Closed"], Outcome("failure", type_name="shop.Closed"), True),
        (["TimeoutError"], TIMEOUT, True),
        (["Exception"], TIMEOUT, True),
        (["BaseException"], TIMEOUT, True),
        (["OSError"], TIMEOUT, False),
        (["TimeoutError"], FAILURE, False),
    ],
)
def test_with_retry_on_only_these_exceptions_and_what_derives_from_them_are_retried(
    retry_on: list[str], outcome: Outcome, again: bool
) -> None:
    policy = Retries(1, retry_on=retry_on)
    assert (policy.pause_after(failed(), outcome) is not None) is again


# The jobs that wait.


def test_nothing_waits_at_first() -> None:
    policy = Retries()
    assert len(policy) == 0
    assert policy.next_at == math.inf
    assert policy.take_ready(9) == []
    assert policy.full == set()


def test_a_held_job_is_ready_once_its_time_has_come_and_not_before(clock: Clock) -> None:
    policy, run = Retries(), run_at(0)
    policy.hold(run, 5.0)
    assert policy.next_at == 1005.0
    policy.wake(1004.9)
    assert policy.take_ready(9) == []
    policy.wake(1005.0)
    assert policy.next_at == math.inf
    assert policy.take_ready(9) == [run]
    assert policy.take_ready(9) == []


def test_jobs_become_ready_in_the_order_of_their_times_then_of_their_coming() -> None:
    policy = Retries()
    for offset, seconds in enumerate([3.0, 1.0, 1.0, 2.0]):
        policy.hold(run_at(offset), seconds)
    policy.wake(1002.5)
    policy.wake(1009.0)
    assert [run.offset for run in policy.take_ready(9)] == [1, 2, 3, 0]


def test_no_more_are_taken_than_asked_for_oldest_first() -> None:
    policy = Retries()
    for offset in range(3):
        policy.hold(run_at(offset), 0.0)
    policy.wake(1000.0)
    assert policy.take_ready(0) == []
    assert places(policy.take_ready(2)) == [(0, 0), (0, 1)]
    assert places(policy.take_ready(2)) == [(0, 2)]


def test_jobs_that_wait_and_jobs_that_are_ready_are_both_counted() -> None:
    policy = Retries()
    policy.hold(run_at(0), 0.0)
    policy.hold(run_at(1), 1.0)
    policy.hold(run_at(2), 2.0)
    policy.wake(1000.0)
    assert len(policy) == 3
    policy.take_ready(1)
    assert len(policy) == 2


@pytest.mark.parametrize(("enough", "size"), [(500, 0), (2, 8 * 1024 * 1024)])
def test_a_partition_of_which_much_waits_begins_nothing_until_less_does(
    enough: int, size: int
) -> None:
    policy = Retries()
    for offset in range(enough):
        assert policy.full == set()
        policy.hold(run_at(offset, P4, size=size), 0.0)
    assert policy.full == {P4}
    policy.wake(1000.0)
    assert policy.full == {P4}, "those that are ready are still here"
    policy.take_ready(1)
    assert policy.full == set()


def test_where_24_mib_of_all_partitions_wait_none_of_them_begins_anything() -> None:
    policy, eight = Retries(), 8 * 1024 * 1024
    for partition in (P0, P1, P2):
        assert policy.full == set()
        policy.hold(run_at(0, partition, size=eight), 0.0)
    assert policy.full == {P0, P1, P2}


def test_a_revoked_partition_hands_back_its_jobs_and_the_others_stay_in_order() -> None:
    policy = Retries()
    runs = [run_at(offset, numbered(offset % 2)) for offset in range(8)]
    for run, seconds in zip(runs, [0, 0, 0, 0, 4, 9, 3, 2], strict=True):
        policy.hold(run, float(seconds))
    policy.wake(1000.0)
    dropped = policy.drop({P0, P7})
    assert sorted(places(dropped)) == [(0, 0), (0, 2), (0, 4), (0, 6)]
    assert len(policy) == 4
    assert policy.next_at == 1002.0
    policy.wake(1009.0)
    assert [run.offset for run in policy.take_ready(9)] == [1, 3, 7, 5]


def test_a_revoked_partition_counts_no_longer_among_what_waits() -> None:
    policy, eight = Retries(), 8 * 1024 * 1024
    for offset in range(2):
        policy.hold(run_at(offset, P4, size=eight), 0.0)
    policy.hold(run_at(0, P5, size=eight), 0.0)
    assert policy.full == {P4, P5}
    policy.drop({P4})
    assert policy.full == set()
    policy.hold(run_at(2, P4, size=eight), 0.0)
    assert policy.full == set()


@repeatable
@given(
    st.lists(st.tuples(st.floats(0, 9), PARTITION), max_size=30),
    st.sets(PARTITION, max_size=2),
)
def test_whatever_is_dropped_the_rest_comes_by_time(
    held: list[tuple[float, Partition]], dropped: set[Partition]
) -> None:
    policy = Retries()
    for offset, (seconds, partition) in enumerate(held):
        policy.hold(run_at(offset, partition), seconds)
    gone = policy.drop(dropped)
    policy.wake(1009.0)
    left = policy.take_ready(len(held))
    assert {run.partition for run in gone} <= dropped
    assert {run.partition for run in left}.isdisjoint(dropped)
    expected = [n for n, (_, partition) in enumerate(held) if partition not in dropped]
    assert [run.offset for run in left] == sorted(expected, key=lambda n: (1000.0 + held[n][0], n))
    assert len(gone) + len(left) == len(held)
