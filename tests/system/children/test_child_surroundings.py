"""What one job does to its process does not reach the next: output, streams, logging, umask; and
how a child ends that ends by itself."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
from poolharness import Harness, descriptors, exists, is_alive, kept_fork_server, value_of
from support import SOON_SECONDS, lines, wait_until

from embedkq import codec
from embedkq._child.process import EXIT_SECONDS
from embedkq.worker.between_threads.stop_deadline import StopDeadline
from embedkq.worker.pool import prefetch

SPOKEN = {"print", "error", "write", "shell", "log"}


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    with kept_fork_server():
        yield


@pytest.fixture
def notes(tmp_path: Path) -> str:
    return str(tmp_path / "notes")


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[Any], list[str]]:
    """What was printed and logged by a task."""
    caplog.set_level(logging.INFO)

    def told(task: Any) -> list[str]:
        return [
            each.getMessage()
            for each in caplog.records
            if getattr(each, "job_id", None) == getattr(task, "job_id", task)
        ]

    return told


def has_spoken(told: Callable[[Any], list[str]], task: Any, text: str) -> None:
    assert sorted(told(task)) == sorted(f"{text} {way}" for way in SPOKEN)


# Output.


def test_output_ends_with_its_job_though_its_last_line_has_no_end(
    told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        prefetch, "AHEAD_SECONDS", 10.0 * prefetch.MOST_TASKS
    )  # many wait in the child
    with Harness(processes=1) as pool:
        tasks = [pool.submit(jobs.print_without_end, f"line {number}") for number in range(300)]
        silent = pool.submit(jobs.echo)
        pool.finish()
        assert [told(task) for task in tasks] == [[f"line {number}"] for number in range(300)]
        assert not told(silent)


def test_a_part_of_a_line_that_was_read_early_ends_with_its_job(
    told: Any, notes: str, tmp_path: Path
) -> None:
    with Harness(processes=1) as pool:
        first = pool.submit(jobs.print_in_parts, "part", notes, str(tmp_path / "gate"))
        second = pool.submit(jobs.print_without_end, "next")
        (child,) = pool.run_until(lambda: pool.pool._children, "it is there").values()
        pool.run_until(lambda: child.output.pending, "the first part was read")
        (tmp_path / "gate").touch()
        pool.finish()
        assert told(first) == ["partpart"] and told(second) == ["next"]


def test_much_output_without_an_end_of_line_belongs_to_its_job(told: Any) -> None:
    with Harness(processes=1) as pool:
        first, second = (
            pool.submit(jobs.print_without_end, "x" * 300_000),
            pool.submit(jobs.print_without_end, "y" * 10),
        )
        pool.finish()
        assert "".join(told(first)) == "x" * 300_000 and told(second) == ["y" * 10]


def test_what_an_initializer_prints_is_no_jobs(told: Any) -> None:
    with Harness(
        processes=1, initializer=codec.encode_call(jobs.print_without_end, ("initial",), {})
    ) as pool:
        task = pool.submit(jobs.print_without_end, "job")
        pool.finish()
        assert told("-") == ["initial"] and told(task) == ["job"]


def test_a_long_log_record_of_a_job_is_cut_and_not_lost(told: Any) -> None:
    with Harness(processes=1) as pool:
        for text in ("x" * 100_000, "\N{SNOWMAN}" * 100_000, "\udc80" * 50_000):
            task = pool.submit(jobs.log_text, text)
            pool.finish(task)
            (logged,) = told(task)
            assert len(logged) > 5_000 and logged.endswith("...")


# What is put back.


@pytest.mark.parametrize(
    "spoil",
    [
        jobs.close_streams,
        jobs.replace_streams,
        jobs.remove_streams,
        jobs.close_stream_descriptors,
        jobs.redirect_stream_descriptors,
        jobs.configure_logging_wholly,
        jobs.configure_one_logger,
        jobs.configure_logger_apart,
        jobs.configure_logging_by_force,
        jobs.disable_logging,
        jobs.end_logging,
        jobs.change_everything,
    ],
)
def test_a_job_does_not_silence_the_next(spoil: Callable[[], None], told: Any) -> None:
    with Harness(processes=1) as pool:
        pool.fill()
        pids = pool.pids
        for number in range(3):
            task = pool.submit(jobs.speak, f"job {number}")
            pool.finish(task)
            pool.turn()
            has_spoken(told, task, f"job {number}")
            assert pool.run(spoil).status == "success" and pool.pids == pids


def test_umask_and_directory_are_put_back() -> None:
    with Harness(processes=1) as pool:
        umask = value_of(pool.run(jobs.tell_umask))
        assert pool.run(jobs.change_umask_and_directory).status == "success"
        assert value_of(pool.run(jobs.tell_umask)) == umask != 0o777
        assert value_of(pool.run(jobs.describe_process))["directory"] == os.getcwd()


def test_what_an_initializer_sets_up_is_put_back_as_it_was(notes: str) -> None:
    with Harness(
        processes=1, initializer=codec.encode_call(jobs.configure_logging_to, (notes,), {})
    ) as pool:
        for spoil in (
            jobs.configure_logging_wholly,
            jobs.end_logging,
            jobs.configure_logging_by_force,
        ):
            assert pool.run(spoil).status == "success"
            pool.run(jobs.speak, spoil.__name__)
            assert lines(notes)[-1] == f"{spoil.__name__} log"


# Exit hooks.


def test_exit_hooks_run_when_a_child_is_replaced(notes: str) -> None:
    with Harness(processes=1, proc_ttl=2) as pool:
        pids = [value_of(pool.run(jobs.register_hooks, notes)) for _ in range(2)]
        pool.run_until(lambda: len(lines(notes)) == 6, "all hooks have run")
        assert (
            len(set(pids)) == 1
            and sorted(lines(notes)) == ["atexit"] * 2 + ["executor"] * 2 + ["finalizer"] * 2
        )
        assert value_of(pool.run(jobs.own_pid)) not in pids


def test_exit_hooks_run_when_a_pool_is_closed(notes: str, told: Any) -> None:
    pool = Harness()
    for _ in range(4):
        pool.run(jobs.register_hooks, notes)
    task = pool.submit(jobs.register_speaking_hook)
    pool.finish()
    pool.close()
    assert sorted(lines(notes)) == ["atexit"] * 4 + ["executor"] * 4 + ["finalizer"] * 4
    has_spoken(told, task, "at exit")


def test_a_slow_exit_hook_holds_up_no_replacement_and_is_ended(notes: str) -> None:
    with Harness(processes=1, proc_ttl=1) as pool:
        pool.fill()
        before = descriptors()
        pid = value_of(pool.run(jobs.register_slow_hook, notes, 60.0))
        pool.run_until(lambda: lines(notes), "the hook runs")
        other = value_of(pool.run(jobs.own_pid))
        assert is_alive(pid) and other != pid, "another child took its place at once"
        pool.run_until(lambda: not is_alive(pid), "it is ended", EXIT_SECONDS + SOON_SECONDS)
        assert lines(notes) == ["before"]
        pool.fill()
        wait_until(lambda: not exists(pid), "nothing is left of it")
        pool.run_until(lambda: len(descriptors()) <= len(before), "nor of its descriptors")


def test_children_that_take_long_to_leave_do_not_become_more_and_more(notes: str) -> None:
    with Harness(processes=1, proc_ttl=1) as pool:
        pids = {value_of(pool.run(jobs.register_slow_hook, notes, 0.3)) for _ in range(5)}
        assert len(pids) == 5 and sum(map(is_alive, pids)) <= 3
        pool.run_until(lambda: lines(notes).count("after") == 5, "all hooks have run")


@pytest.mark.parametrize("processes", [1, 3])
def test_slow_exit_hooks_hold_up_a_close_for_two_seconds_all_together(
    processes: int, notes: str
) -> None:
    pool = Harness(processes)
    pids = [value_of(pool.run(jobs.register_slow_hook, notes, 60.0)) for _ in range(processes)]
    since = time.monotonic()
    pool.close()
    assert time.monotonic() - since < EXIT_SECONDS + SOON_SECONDS
    assert set(lines(notes)) == {"before"} and not any(map(is_alive, pids))


def test_who_hurries_does_not_wait_for_exit_hooks(notes: str) -> None:
    pool = Harness(1)
    pid = value_of(pool.run(jobs.register_slow_hook, notes, 60.0))
    stop = StopDeadline()
    stop.kill_now()
    since = time.monotonic()
    pool.pool.close(stop)
    assert time.monotonic() - since < EXIT_SECONDS and not is_alive(pid)


def test_one_exit_hook_that_fails_keeps_no_other_from_running(notes: str) -> None:
    pool = Harness(1)
    pool.run(jobs.register_failing_hooks, notes)
    pool.close()
    assert lines(notes) == ["last", "first"]


def test_a_thread_that_does_not_end_keeps_no_exit_hook_from_running(notes: str) -> None:
    pool = Harness(1)
    pool.run(jobs.leave_a_thread, notes)
    pool.close()
    assert lines(notes) == ["hook"]
