"""The process pool by itself, without Kafka: limits, crashes, fairness, taking back, replacement,
starts that fail, sizes, order."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import jobs
import pytest
from poolharness import Harness, descriptors, is_alive, kept_fork_server, value_of
from support import SOON_SECONDS, lines, wait_until
from workerjobs import life_of

from embedkq import codec
from embedkq._child.job_call import LARGEST_RESULT
from embedkq._ipc import channel
from embedkq.errors import (
    ChildStartFailed,
    DecodeError,
    JobCrashed,
    JobFailed,
    ResultTooLarge,
    type_name,
)
from embedkq.worker.between_threads.task import Task
from embedkq.worker.pool import child_starts, prefetch
from embedkq.worker.pool.child_handle import Child

LIMIT = 1.0
"""Seconds, of jobs that only a limit ends."""
STUCK = (
    jobs.spin,
    jobs.sleep,
    jobs.block_in_c,
    jobs.block_in_c_holding_the_gil,
    jobs.ignore_sigterm,
    jobs.ignore_all_signals,
    jobs.stop_itself,
    jobs.catch_everything,
)


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    with kept_fork_server():
        yield


@pytest.fixture
def notes(tmp_path: Path) -> str:
    """A file in which jobs say what they did."""
    return str(tmp_path / "notes")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Jobs wait until it is a file; in the end it is."""
    path = tmp_path / "gate"
    yield path
    path.touch()


@pytest.fixture
def deep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs count as short however slow the machine is: many wait in one channel."""
    monkeypatch.setattr(prefetch, "AHEAD_SECONDS", 10.0 * prefetch.MOST_TASKS)


# Limits.


@pytest.mark.parametrize("func", STUCK)
def test_a_stuck_job_is_ended_at_its_limit_and_its_process_gone(
    func: Callable[[str], None], notes: str
) -> None:
    with Harness() as pool:
        pool.fill()
        task = pool.submit(func, notes, limit=LIMIT)
        (outcome,) = pool.finish(task)
        _, pid = lines(notes)[0].split()
        assert outcome.status == "timeout" and not outcome.payload
        assert LIMIT <= pool.ended_at[task] - pool.started_at[task] < LIMIT + SOON_SECONDS
        assert not is_alive(int(pid))
        assert value_of(pool.run(jobs.echo, "next")) == "next"
        pool.fill()
        assert time.monotonic() - pool.ended_at[task] < SOON_SECONDS


def test_stuck_jobs_that_come_all_at_once_are_each_ended_at_their_limit(tmp_path: Path) -> None:
    with Harness(processes=len(STUCK)) as pool:
        pool.fill()
        tasks = {
            pool.submit(func, str(tmp_path / func.__name__), limit=LIMIT): func for func in STUCK
        }
        after = pool.submit(jobs.echo, "next")
        pool.finish()
        for task, func in tasks.items():
            _, pid = lines(tmp_path / func.__name__)[0].split()
            assert pool.outcomes[task].status == "timeout", func.__name__
            assert LIMIT <= pool.ended_at[task] - pool.started_at[task] < LIMIT + SOON_SECONDS, (
                func.__name__
            )
            assert not is_alive(int(pid)), func.__name__
        assert value_of(pool.outcomes[after]) == "next"
        pool.fill()
        assert time.monotonic() - max(pool.ended_at.values()) < SOON_SECONDS


def test_a_limit_counts_from_when_the_job_begins_and_not_from_when_it_was_submitted() -> None:
    with Harness(processes=1) as pool:
        for _ in range(4):
            pool.submit(jobs.pause, 1.0, limit=3.5)
        assert [outcome.status for outcome in pool.finish()] == ["success"] * 4


def test_what_was_done_in_time_is_a_success_though_the_host_was_frozen_past_the_limit(
    notes: str, gate: Path
) -> None:
    with Harness(processes=1) as pool:
        pool.fill()
        (child,) = pool.pool._children.values()
        task = pool.submit(jobs.wait_for, notes, str(gate), limit=60.0)
        pool.run_until(lambda: child.stalled and task in pool.started_at, "it is watched")
        gate.touch()
        wait_until(lambda: child._page.ended, "it is done, and nobody looks")
        pool.tick(pool.started_at[task] + 61.0)  # the limit is looked at first
        assert pool.finish(task)[0].status == "success"


@pytest.mark.parametrize(
    ("limits", "unsent", "average", "after"),
    [
        ([None], b"", 0.001, 0.005),
        ([None], b"", 0.01, 0.02),
        ([None], b"", 1.0, 0.05),
        ([0.03], b"", 1.0, 0.03),
        ([0.001], b"", 1.0, 0.005),
        ([None, None], b"", 0.001, 0.005),
        ([None, None], b"", 1.0, 0.05),
        ([None], b"x", 1.0, 0.005),
        ([], b"", 1.0, math.inf),
    ],
)
def test_a_task_is_first_looked_at_when_somebody_waits_for_it(
    limits: list[float | None], unsent: bytes, average: float, after: float
) -> None:
    child: Child[Any] = Child.__new__(Child)
    child.head_since, child._unsent = 100.0, unsent
    child.tasks = deque(SimpleNamespace(limit=limit) for limit in limits)
    child.look_first(average)
    assert child.check_at == pytest.approx(100.0 + after)


def test_without_a_limit_nothing_is_ended() -> None:
    with Harness() as pool:
        assert value_of(pool.run(jobs.pause, 0.5, "slow")) == "slow"


def test_where_a_job_is_stuck_is_told(notes: str) -> None:
    with Harness() as pool:
        outcome = pool.run(jobs.sleep, notes, limit=0.2)
        assert (
            outcome.status == "timeout"
            and "in sleep" in outcome.traceback
            and "jobs.py" in outcome.traceback
        )
        assert (
            "embedkq/_child" not in outcome.traceback and "pebble" not in outcome.traceback
        )  # what called the job is nobody's concern


# Crashes.


@pytest.mark.parametrize(
    ("func", "args", "status"),
    [
        (jobs.segfault, (), -signal.SIGSEGV),
        (jobs.kill_itself, (int(signal.SIGKILL),), -signal.SIGKILL),
        (jobs.exit_with, (0,), 0),
        (jobs.exit_with, (3,), 3),
        (jobs.abort, (), -signal.SIGABRT),
    ],
)
def test_a_crash_is_known_at_once_with_its_status(
    func: Callable[..., Any], args: tuple[Any, ...], status: int
) -> None:
    with Harness() as pool:
        pool.fill()
        task = pool.submit(func, *args)
        (outcome,) = pool.finish(task)
        error = value_of(outcome)
        assert (
            outcome.status == "failure" and type(error) is JobCrashed and error.exitcode == status
        )
        assert outcome.traceback and str(error) in outcome.traceback
        assert pool.ended_at[task] - pool.submitted_at[task] < SOON_SECONDS
        pool.fill()
        assert time.monotonic() - pool.ended_at[task] < SOON_SECONDS


def test_a_grandchild_that_holds_the_channel_open_does_not_hide_a_crash(notes: str) -> None:
    with Harness() as pool:
        pool.fill()
        task = pool.submit(jobs.fork_grandchild_and_exit, notes)
        (outcome,) = pool.finish(task)
        assert value_of(outcome).exitcode == 3
        assert pool.ended_at[task] - pool.submitted_at[task] < SOON_SECONDS
        grandchild = int(lines(notes)[0])
        pool.run_until(lambda: not is_alive(grandchild), "the grandchild is gone")


def test_nothing_runs_twice_and_nothing_is_lost_beside_crashes_and_hangs(
    notes: str, deep: None
) -> None:
    with Harness() as pool:
        assert pool.pool._pace.depth > 1
        good = {pool.submit(jobs.tell_and_return, notes, number): number for number in range(500)}
        bad = []
        for number in range(500, 1_000):
            if number % 100 == 50:
                bad += [pool.submit(jobs.segfault), pool.submit(jobs.pause, 60, limit=0.1)]
            good[pool.submit(jobs.tell_and_return, notes, number)] = number
        pool.finish()
        assert Counter(pool.outcomes[task].status for task in bad) == {"failure": 5, "timeout": 5}
        assert [value_of(pool.outcomes[task]) for task in good] == list(good.values())
        assert Counter(lines(notes)) == Counter(map(str, good.values()))


def test_idle_children_killed_from_outside_three_at_once_are_replaced() -> None:
    with Harness(processes=3) as pool:
        pool.fill()
        killed = pool.pids
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        since = time.monotonic()
        pool.run_until(lambda: not pool.pids & killed and pool.is_full(), "three others are there")
        assert time.monotonic() - since < SOON_SECONDS
        for number in range(6):
            pool.submit(jobs.echo, number)
        assert [value_of(outcome) for outcome in pool.finish()] == list(range(6))


def test_a_job_that_a_child_had_not_begun_when_it_was_killed_runs_once_elsewhere(
    notes: str,
) -> None:
    with Harness(processes=1) as pool:
        pool.fill()
        (pid,) = pool.pids
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: life_of(pid) == "T", "it is stopped")
        task = pool.submit(jobs.tell_and_return, notes, "ran")
        pool.turn()
        os.kill(pid, signal.SIGKILL)
        assert value_of(pool.finish(task)[0]) == "ran" and lines(notes) == ["ran"]


def test_when_pebble_gives_up_what_had_not_begun_runs_in_a_new_pool(
    notes: str, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Harness() as pool:
        running = [pool.submit(jobs.wait_for, notes, str(gate)) for _ in range(2)]
        waiting = [pool.submit(jobs.echo, number) for number in range(5)]
        pool.run_until(lambda: len(lines(notes)) == 2, "two run")
        broken = pool.pool._supervisor._pebble
        broken._context.status = type(broken._context.status).ERROR
        assert [type(value_of(outcome)) for outcome in pool.finish(*running)] == [JobCrashed] * 2
        assert [value_of(outcome) for outcome in pool.finish(*waiting)] == list(range(5))
        assert "a new one is started" in caplog.text
        pool.fill()


# Fairness.


def test_two_thousand_short_jobs_beside_a_slow_one_are_not_held_up(
    notes: str, gate: Path, deep: None
) -> None:
    with Harness() as pool:
        pool.fill()
        before = [pool.submit(jobs.tell_and_return, notes, number) for number in range(1_000)]
        slow = pool.submit(jobs.wait_for, str(gate) + ".notes", str(gate))
        after = [pool.submit(jobs.tell_and_return, notes, number) for number in range(1_000, 2_000)]
        short = before + after
        outcomes = pool.finish(*short)
        assert slow not in pool.outcomes
        assert [value_of(outcome) for outcome in outcomes] == list(range(2_000))
        assert Counter(lines(notes)) == Counter(map(str, range(2_000)))
        gate.touch()
        assert pool.finish(slow)[0].status == "success"


def test_one_child_runs_jobs_in_their_order_also_where_some_are_slow_or_crash(deep: None) -> None:
    with Harness(processes=1) as pool:
        for number in range(400):
            if number % 100 == 99:
                pool.submit(jobs.segfault)
            elif number % 20 == 19:
                pool.submit(jobs.pause, 0.02)
            else:
                pool.submit(jobs.echo, number)
        pool.finish()
        assert [task.number for task in pool.outcomes] == list(range(1, 401))


def test_room_is_one_a_child_until_jobs_have_been_short_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ahead = prefetch.AHEAD_SECONDS
    with Harness() as pool:
        assert pool.pool.room() == 0
        pool.fill()
        assert pool.pool.room() == 2
        monkeypatch.setattr(
            prefetch, "AHEAD_SECONDS", 0.05 * prefetch.MOST_TASKS
        )  # short is what this machine calls short
        for number in range(200):
            pool.submit(jobs.echo, number)
        pool.finish()
        assert pool.pool.room() == 2 * prefetch.MOST_TASKS
        monkeypatch.setattr(prefetch, "AHEAD_SECONDS", ahead)
        pool.run(jobs.pause, 1.5)
        assert pool.pool.room() == 2


class ToldLate(Task):
    """As a job of KQ: its limit is known once it has begun."""

    def begun(self, content: bytes) -> str:
        self.limit = 60.0
        return super().begun(content)


def test_what_waits_behind_a_job_that_tells_its_limit_late_is_taken_back(
    deep: None, gate: Path, notes: str
) -> None:
    with Harness(1) as pool:
        pool.fill()
        pool.run(jobs.echo, 0)
        pool.pool._pace.average = 0.02  # so that it tells before it takes long
        (child,) = pool.pool._children.values()
        pool.pool.submit(
            ToldLate(
                "late",
                codec.encode_call(jobs.wait_for, (notes, str(gate)), {}),
                30.0,
                announce=True,
            )
        )
        for _ in range(3):
            pool.pool.submit(Task("behind", b""))
        pool.pool.feed()
        assert len(child.tasks) == 4
        pool.run_until(lambda: len(child.tasks) == 1, "the others are taken back", 5)
        assert child.tasks[0].limit == 60.0


def test_a_child_gets_more_once_half_of_what_it_may_have_is_done() -> None:
    with Harness(1) as pool:
        pool.fill()
        (child,) = pool.pool._children.values()
        for tasks, depth, takes in (
            (0, 1, True),
            (1, 1, False),
            (1, 2, True),
            (2, 2, False),
            (5, 10, True),
            (6, 10, False),
        ):
            child.tasks.extend([Task("x", b"")] * tasks)
            assert pool.pool._takes(child, depth) is takes
            child.tasks.clear()


def test_a_host_that_looks_late_does_not_take_jobs_for_long() -> None:
    with Harness(1) as pool:
        pool.fill()
        pool.run(jobs.echo, 0)
        pool.pool._pace.average = 0.001
        task = pool.submit(jobs.echo, 1)
        time.sleep(0.5)  # nobody looks meanwhile
        pool.finish(task)
        assert pool.pool._pace.average < 0.02


@pytest.mark.parametrize(
    ("told", "ended"),
    [(0, 100.0), (99_000_000_000, 100.0), (104_000_000_000, 104.0), (2**64 - 1, 105.0)],
)
def test_what_a_child_says_of_its_last_end_is_believed_as_far_as_it_can_be(
    told: int, ended: float
) -> None:
    child: Child[Any] = Child.__new__(Child)
    child.head_since, child._page = 100.0, SimpleNamespace(ended=told)  # type: ignore[assignment]
    assert child.ended_at(105.0) == ended


def test_a_child_is_not_given_more_bytes_than_it_may_have(deep: None) -> None:
    with Harness(1) as pool:
        pool.fill()
        pool.run(jobs.pause, 0.001)
        payload = b"x" * (prefetch.MOST_BYTES // 4)
        (child,) = pool.pool._children.values()
        most = 0
        for _ in range(40):
            pool.submit(jobs.echo, payload)
            most = max(most, child.size)
        pool.finish()
        assert (
            2 * len(payload) < most <= prefetch.MOST_BYTES + len(payload) + 200 and not child.size
        )


def test_what_cannot_be_sent_for_want_of_memory_is_sent_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send, refusals = (
        channel.Channel.send,
        [OSError(errno.ENOMEM, "no memory"), BlockingIOError(errno.EAGAIN, "full")],
    )

    def reluctant(self: channel.Channel, message: bytes) -> None:
        if refusals:
            raise refusals.pop()
        send(self, message)

    with Harness(1) as pool:
        pool.fill()
        monkeypatch.setattr(channel.Channel, "send", reluctant)
        assert value_of(pool.run(jobs.echo, b"x" * 100_000)) == b"x" * 100_000 and not refusals


def test_a_child_that_has_jobs_and_cannot_be_sent_more_is_looked_at_soon(
    monkeypatch: pytest.MonkeyPatch, deep: None
) -> None:
    def refuse(self: channel.Channel, message: bytes) -> None:
        raise BlockingIOError(errno.EAGAIN, "full")

    with Harness(processes=1) as pool:
        pool.fill()
        (pid,), (child,) = pool.pids, pool.pool._children.values()
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: life_of(pid) == "T", "it is stopped")
        pool.pool._pace.average = 0.02
        first = pool.submit(jobs.echo, 1)
        before = child.check_at
        with monkeypatch.context() as patch:
            patch.setattr(channel.Channel, "send", refuse)
            second = pool.submit(jobs.echo, 2)
        assert list(child.tasks) == [first, second] and child.clogged
        assert child.head_since < child.check_at < before
        os.kill(pid, signal.SIGCONT)
        assert [value_of(outcome) for outcome in pool.finish(first, second)] == [1, 2]


# Taking back and giving up.


def test_what_has_not_begun_can_be_taken_back_and_never_runs(notes: str, gate: Path) -> None:
    with Harness() as pool:
        running = {pool.submit(jobs.wait_for, notes, str(gate)) for _ in range(2)}
        waiting = {pool.submit(jobs.tell_and_return, notes, "late") for _ in range(10)}
        staying = pool.submit(jobs.echo, "stays")
        pool.run_until(lambda: len(lines(notes)) == 2, "two run")
        assert pool.pool.take_back(running | waiting) == waiting
        gate.touch()
        pool.finish(*running, staying)
        assert value_of(pool.run(jobs.echo, "after")) == "after"
        assert "late" not in lines(notes) and not waiting & set(pool.outcomes)


def test_what_waits_in_a_childs_channel_can_be_taken_back(notes: str, deep: None) -> None:
    with Harness(processes=1) as pool:
        pool.fill()
        (pid,) = pool.pids
        os.kill(pid, signal.SIGSTOP)  # so that it cannot begin what it is given
        wait_until(lambda: life_of(pid) == "T", "it is stopped")
        in_channel = [pool.submit(jobs.tell_and_return, notes, number) for number in range(10)]
        (child,) = pool.pool._children.values()
        assert list(child.tasks) == in_channel
        assert pool.pool.take_back(set(in_channel[::2])) == set(in_channel[::2])
        os.kill(pid, signal.SIGCONT)
        pool.finish(*in_channel[1::2])
        assert lines(notes) == ["1", "3", "5", "7", "9"]


def test_abandon_ends_what_runs_without_outcomes_and_the_pool_goes_on(
    notes: str, gate: Path
) -> None:
    with Harness() as pool:
        for _ in range(5):
            pool.submit(jobs.wait_for, notes, str(gate))
        pool.run_until(lambda: len(lines(notes)) == 2, "two run")
        pids = pool.pids
        pool.pool.abandon()
        assert pool.pool.oldest_running is None
        pool.run_until(lambda: pool.is_full() and not pids & pool.pids, "others are there")
        assert not any(map(is_alive, pids))
        assert value_of(pool.run(jobs.echo, "after")) == "after"
        assert len(pool.outcomes) == 1 and len(lines(notes)) == 2


def test_closing_ends_what_runs_at_once(notes: str, gate: Path) -> None:
    pool = Harness()
    pool.submit(jobs.wait_for, notes, str(gate))
    pool.run_until(lambda: lines(notes), "it runs")
    pids = pool.pids
    since = time.monotonic()
    pool.close()
    assert (
        time.monotonic() - since < SOON_SECONDS
        and not any(map(is_alive, pids))
        and not pool.outcomes
    )


# Replacement.


def test_a_child_is_replaced_after_so_many_jobs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "embedkq.worker")
    with Harness(processes=1, proc_ttl=5) as pool:
        tasks = [pool.submit(jobs.own_pid) for _ in range(12)]
        pids = [value_of(outcome) for outcome in pool.finish(*tasks)]
        assert [len(set(pids[start : start + 5])) for start in (0, 5, 10)] == [1, 1, 1] and len(
            set(pids)
        ) == 3
        assert pool.pool.started == 3
        assert caplog.text.count("Refreshing process pool ...") == 2


def test_children_are_not_all_replaced_at_once() -> None:
    with Harness(processes=4, proc_ttl=10) as pool:
        pool.fill()
        assert sorted(child.lifetime or 0 for child in pool.pool._children.values()) == [
            3,
            5,
            8,
            10,
        ]

        def all_replaced() -> bool:
            # which child gets how many of some jobs depends on when the machine runs it
            for _ in range(10):
                pool.submit(jobs.echo)
            pool.finish()
            pool.fill()
            return [child.lifetime for child in pool.pool._children.values()] == [10] * 4

        wait_until(all_replaced, "each first child replaced by one of full lifetime")


def test_no_job_is_lost_or_run_twice_while_children_are_replaced(notes: str) -> None:
    with Harness(proc_ttl=40) as pool:
        for number in range(400):
            pool.submit(jobs.tell_and_return, notes, number)
        assert [value_of(outcome) for outcome in pool.finish()] == list(range(400))
        assert Counter(lines(notes)) == Counter(map(str, range(400)))
        assert pool.pool.started >= 10


def test_replacing_children_takes_no_more_and_more_descriptors() -> None:
    with Harness(processes=1, proc_ttl=1) as pool:
        for _ in range(3):
            pool.run(jobs.echo)
        pool.fill()
        before = len(descriptors())
        for _ in range(20):
            pool.run(jobs.echo)
        pool.fill()
        # a child that was replaced has descriptors until it has left
        pool.run_until(lambda: len(descriptors()) < before + 10, "the replaced ones have left")


def test_without_a_number_of_jobs_a_child_is_never_replaced() -> None:
    with Harness(processes=1) as pool:
        for _ in range(100):
            pool.submit(jobs.own_pid)
        assert len({value_of(outcome) for outcome in pool.finish()}) == 1


# Starts.


def test_an_initializer_runs_once_in_each_child_before_its_first_job(notes: str) -> None:
    with Harness(initializer=codec.encode_call(jobs.tell_start, (notes,), {})) as pool:
        pool.fill()
        assert {int(line.split()[1]) for line in lines(notes)} == pool.pids and len(
            lines(notes)
        ) == 2


def test_an_initializer_that_raises_ends_the_pool_after_three_tries_with_its_traceback(
    notes: str,
) -> None:
    told = _start_in_vain(codec.encode_call(jobs.tell_and_fail, (notes,), {}))
    assert (
        "Traceback" in told
        and "in tell_and_fail" in told
        and told.rstrip().endswith("LookupError: no such database")
    )
    assert lines(notes) == ["tried"] * 3


def test_an_initializer_that_cannot_be_unpickled_says_so() -> None:
    assert "invalid literal for int()" in _start_in_vain(
        codec.encode_call(jobs.echo, (jobs.Unreadable(),), {})
    )


def test_an_initializer_that_exits_or_dies_says_so() -> None:
    assert "SystemExit: 4" in _start_in_vain(codec.encode_call(jobs.exit_politely, (4,), {}))
    assert "ended with status 9 before its first job" in _start_in_vain(jobs.die_at_the_beginning)


def test_an_initializer_that_never_ends_is_killed_and_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child_starts, "START_SECONDS", 0.3)
    assert "not ready after 0.3 s" in _start_in_vain(jobs.never_begin)


def test_an_initializer_that_leaves_too_few_descriptors_says_so() -> None:
    assert "Too many open files" in _start_in_vain(jobs.allow_few_descriptors)


def _start_in_vain(initializer: Any) -> str:
    """Start a pool whose children do not start; what it says, once it has given everything back."""
    before = descriptors()
    pool = Harness(processes=1, initializer=initializer)
    pool.submit(jobs.echo)
    with pytest.raises(ChildStartFailed) as caught:
        pool.fill()
    pool.close()
    assert not pool.outcomes and descriptors() == before
    return str(caught.value)


def test_after_a_first_success_failed_starts_are_tried_again(tmp_path: Path) -> None:
    obstacle = tmp_path / "obstacle"
    with Harness(initializer=codec.encode_call(jobs.fail_while, (str(obstacle),), {})) as pool:
        pool.fill()
        obstacle.touch()
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        pool.run_until(
            lambda: len(pool.pool._supervisor._failures._failures) >= 4,
            "it has failed more often than a first start may",
        )
        assert pool.pool.alive == 0 and pool.pool.weak_since is not None
        task = pool.submit(jobs.echo, "after all")
        obstacle.unlink()
        assert value_of(pool.finish(task)[0]) == "after all"
        pool.fill()
        assert pool.pool.weak_since is None


def test_after_a_first_success_failed_starts_end_the_pool_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_starts, "START_SECONDS", 1.0)
    obstacle = tmp_path / "obstacle"
    with Harness(initializer=codec.encode_call(jobs.fail_while, (str(obstacle),), {})) as pool:
        pool.fill()
        obstacle.touch()
        for pid in pool.pids:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ChildStartFailed, match="LookupError: there is an obstacle"):
            pool.run_until(lambda: False, "it gives up")


# Payloads.


@pytest.mark.parametrize(
    ("payload", "status", "kind"),
    [
        (b"", "malformed", EOFError),
        (b"\x80", "malformed", UnpicklingError),
        (b"no pickle", "malformed", UnpicklingError),
        (b"\x80\x05K\x03.", "malformed", None),
        (codec.encode_object((1, (), {})), "malformed", None),
        (codec.encode_object((print, [], {})), "malformed", None),
        (codec.encode_call(jobs.echo, (1,), {})[:-3], "malformed", UnpicklingError),
        (codec.encode_call(jobs.echo, (jobs.Unreadable(),), {}), "undecodable", ValueError),
        (codec.encode_call(jobs.echo, (jobs.ExitingPayload(),), {}), "undecodable", SystemExit),
        (
            codec.encode_call(jobs.echo, (), {}).replace(b"echo", b"gone"),
            "undecodable",
            AttributeError,
        ),
        (
            codec.encode_call(jobs.echo, (), {}).replace(b"jobs", b"sboj"),
            "undecodable",
            ModuleNotFoundError,
        ),
    ],
    ids=[
        "empty",
        "begun",
        "garbage",
        "number",
        "not callable",
        "no arguments",
        "cut",
        "raises",
        "exits",
        "no function",
        "no module",
    ],
)
def test_a_payload_that_cannot_be_decoded_harms_no_child_and_says_whether_it_is_damaged(
    payload: bytes, status: str, kind: type[BaseException] | None
) -> None:
    with Harness(processes=1) as pool:
        pool.fill()
        pids = pool.pids
        (outcome,) = pool.finish(pool.submit_payload(payload))
        assert outcome.status == status and outcome.traceback
        told = codec.decode_object(outcome.payload)
        assert type(told) is DecodeError and str(told) == outcome.message
        assert kind is None or (
            f"unpickled: {kind.__name__}" in outcome.message
            and type_name(kind) in outcome.text.splitlines()
        )
        assert value_of(pool.run(jobs.echo, "next")) == "next" and pool.pids == pids


def test_a_payload_that_kills_two_children_in_decoding_is_undecodable(notes: str) -> None:
    with Harness() as pool:
        neighbours = [pool.submit(jobs.pause, 0.01, number) for number in range(20)]
        outcome = pool.run(jobs.echo, jobs.DeadlyPayload(notes))
        assert outcome.status == "undecodable" and "two processes died" in outcome.message
        assert len(set(lines(notes))) == 2
        assert [value_of(other) for other in pool.finish(*neighbours)] == list(range(20))
        pool.fill()


def test_a_payload_that_kills_one_child_in_decoding_runs_in_another(notes: str) -> None:
    with Harness() as pool:
        assert value_of(pool.run(jobs.echo, jobs.DeadlyPayload(notes, 1))) == "read at last"
        assert len(lines(notes)) == 1


def test_a_payload_that_never_ends_in_decoding_is_undecodable_after_the_limit_of_decoding() -> None:
    with Harness(decode_timeout=2.0) as pool:
        pool.fill()
        task = pool.submit(jobs.echo, jobs.EndlessPayload(), limit=30)
        (outcome,) = pool.finish(task)
        assert outcome.status == "undecodable" and "within 2 s (decode_timeout)" in outcome.message
        assert 2.0 <= pool.ended_at[task] - pool.submitted_at[task] < 2.0 + SOON_SECONDS
        assert value_of(pool.run(jobs.echo, "next")) == "next"


def test_decoding_does_not_count_towards_a_jobs_limit() -> None:
    with Harness() as pool:
        assert value_of(pool.run(jobs.echo, jobs.SlowPayload(0.5), limit=0.2)) == 0.5


@pytest.mark.parametrize("size", [65_000, 65_536, 1_000_000, 30_000_000])
def test_payloads_of_any_size_arrive(size: int) -> None:
    with Harness(processes=1) as pool:
        assert value_of(pool.run(len, b"x" * size)) == size


# Results.


def test_a_result_of_fifty_megabytes_comes_back() -> None:
    with Harness() as pool:
        result = value_of(pool.run(jobs.return_bytes, 50_000_000, limit=30))
        assert len(result) == 50_000_000 and result.strip(b"x") == b""


def test_a_result_just_below_64_mib_comes_back_and_one_above_is_refused() -> None:
    with Harness() as pool:
        assert pool.run(jobs.return_bytes, LARGEST_RESULT - 100).status == "success"
        outcome = pool.run(jobs.return_bytes, LARGEST_RESULT)
        error = value_of(outcome)
        assert outcome.status == "failure" and type(error) is ResultTooLarge
        assert error.limit == LARGEST_RESULT == 64 * 2**20 < error.size and outcome.traceback


def test_an_exception_above_64_mib_is_told_by_name() -> None:
    with Harness() as pool:
        outcome = pool.run(jobs.raise_bytes, LARGEST_RESULT + 1)
        assert (
            outcome.status == "failure"
            and type(value_of(outcome)) is JobFailed
            and value_of(outcome).type_name == "LookupError"
        )
        assert len(outcome.message) < 20_000 and len(outcome.traceback) < 300_000


def test_a_job_that_is_announced_tells_its_call_once_it_has_begun(notes: str, gate: Path) -> None:
    with Harness() as pool:
        task = pool.submit(jobs.wait_for, notes, gate=str(gate), announce=True)
        quiet = pool.submit(jobs.echo, 1)
        pool.run_until(lambda: task in pool.begun, "it is told")
        assert (
            pool.begun[task] == f"jobs.wait_for({notes!r}, gate={str(gate)!r})"
            and task not in pool.outcomes
        )
        gate.touch()
        assert (
            pool.finish(task)[0].text and not pool.finish(quiet)[0].text and quiet not in pool.begun
        )
        long = pool.submit(jobs.echo, "x" * 5_000, announce=True)
        outcome = pool.finish(long)[0]
        assert len(pool.begun[long].encode()) <= 1024 and len(outcome.text.encode()) <= 1024


# What is left.


def test_nothing_is_left_of_a_pool_that_saw_everything(notes: str) -> None:
    with Harness() as pool:  # imports and a first fork server are not this pool's
        pool.run(jobs.echo)
    before = descriptors()
    pool = Harness(processes=3, proc_ttl=10)
    for number in range(60):
        pool.submit(jobs.echo, number)
        if number % 20 == 0:
            pool.submit(jobs.segfault)
            pool.submit(jobs.pause, 60, limit=0.1)
            pool.submit(jobs.return_bytes, 200_000)
            pool.submit(jobs.fork_grandchild, notes)
            pool.submit(jobs.close_descriptors)
    pool.finish()
    pids = pool.pids
    pool.close()
    assert descriptors() == before
    assert not any(map(is_alive, pids)) and not any(is_alive(int(line)) for line in lines(notes))


def test_a_pool_that_is_closed_before_its_children_are_there_leaves_nothing() -> None:
    with Harness() as pool:
        pool.run(jobs.echo)
    before = descriptors()
    Harness().close()
    assert descriptors() == before
