"""A host, or a child, that has no file descriptors left for a while: nothing is lost, no status is
wrong, and it recovers by itself."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import jobs
import pytest
import workerjobs
from poolharness import Harness, descriptors, kept_fork_server, value_of
from support import Recorder, fire_until, lines, logged, no_descriptors, send_many

from embedkq import Worker
from embedkq._child.fork_server import Server
from embedkq.errors import JobCrashed, WorkerError

LEFT = [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 17, 20]
"""How many descriptors a host still has: a start of a child comes a little further with each."""


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    with kept_fork_server():
        yield


@pytest.fixture
def notes(tmp_path: Path) -> str:
    return str(tmp_path / "notes")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


# Messages.


@pytest.mark.parametrize("limit", [None, 60.0])
def test_a_large_result_arrives_while_the_host_has_no_descriptor(
    limit: float | None, notes: str, gate: Path
) -> None:
    with Harness(processes=1) as pool:
        pool.fill()
        task = pool.submit(jobs.wait_and_return, notes, str(gate), 100_000, limit=limit)
        pool.run_until(lambda: lines(notes), "it runs")
        with no_descriptors():
            gate.mkdir()  # which takes no descriptor
            pool.run_until(lambda: task in pool.outcomes, "it has ended")
        assert value_of(pool.outcomes[task]) == "x" * 100_000


def test_large_jobs_are_given_out_while_the_host_has_no_descriptor() -> None:
    with Harness() as pool:
        pool.fill()
        with no_descriptors():
            tasks = [pool.submit(len, b"x" * 300_000) for _ in range(20)]
            pool.run_until(lambda: len(pool.outcomes) == 20, "all have ended")
        assert [value_of(pool.outcomes[task]) for task in tasks] == [300_000] * 20


def test_a_limit_is_enforced_and_a_crash_told_while_the_host_has_no_descriptor(notes: str) -> None:
    with Harness() as pool:
        pool.fill()
        with no_descriptors():
            stuck, crash = pool.submit(jobs.sleep, notes, limit=0.5), pool.submit(jobs.exit_with, 3)
            pool.run_until(lambda: len(pool.outcomes) == 2, "both have ended")
        assert (
            pool.outcomes[stuck].status == "timeout"
            and "in sleep" in pool.outcomes[stuck].traceback
        )
        assert value_of(pool.outcomes[crash]).exitcode == 3


# Children that start.


@pytest.mark.parametrize("left", LEFT)
def test_a_child_that_cannot_be_replaced_for_want_of_descriptors_is_replaced_later(
    left: int, notes: str, gate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Harness() as pool:
        pool.fill()
        running = pool.submit(jobs.wait_for, notes, str(gate))
        pool.run_until(lambda: lines(notes), "one runs")
        with no_descriptors(but=left) as take_all:
            crash = pool.submit(jobs.exit_with, 3)
            pool.run_until(lambda: take_all() or crash in pool.outcomes, "the other has crashed")
            until = time.monotonic() + 1.0  # several tries
            pool.run_until(lambda: take_all() or time.monotonic() > until, "it has been tried")
        waiting = [pool.submit(jobs.echo, number) for number in range(4)]
        gate.touch()
        assert [value_of(outcome) for outcome in pool.finish(*waiting)] == list(range(4))
        assert pool.finish(running)[0].status == "success", "it was not harmed"
        pool.fill()
        assert "broke" not in logged(caplog) and "Traceback" not in logged(caplog)
        assert (
            logged(caplog).count("ulimit -n") == 1
            if left < 3
            else logged(caplog).count("ulimit -n") <= 1
        ), logged(caplog)


@pytest.mark.parametrize("left", [3, *LEFT[5:]])
def test_a_pool_that_is_started_without_descriptors_starts_later(
    left: int, caplog: pytest.LogCaptureFixture
) -> None:
    with Harness() as pool:
        pool.fill()  # the descriptors of the first pool's imports are none of this one's
    before = descriptors()
    with no_descriptors(but=left):
        pool = Harness()
        task = pool.submit(jobs.echo, "at last")
        until = time.monotonic() + 1.0
        pool.run_until(lambda: time.monotonic() > until, "it has been tried")
    assert value_of(pool.finish(task)[0]) == "at last"
    pool.fill()
    assert "broke" not in logged(caplog) and "Traceback" not in logged(caplog)
    pool.close()
    assert descriptors() == before


def test_a_pool_is_closed_while_a_start_waits_for_descriptors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Harness(processes=1) as pool:
        pool.fill()
    before = descriptors()
    pool = Harness(processes=1)
    pool.fill()
    with no_descriptors() as take_all:
        crash = pool.submit(jobs.exit_with, 3)
        pool.run_until(
            lambda: take_all() or (crash in pool.outcomes and "ulimit -n" in logged(caplog)),
            "a start waits",
        )
        since = time.monotonic()
        pool.close()
        assert time.monotonic() - since < 10
    assert descriptors() == before


def test_a_fork_server_that_may_not_fork_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    host, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with host, end:
        server: Any = Server.__new__(Server)
        server._requests, server._children = end, {}
        monkeypatch.setattr(os, "fork", refuse)
        reader, writer = os.pipe()
        socket.send_fds(host, [b"C"], [os.open(os.devnull, os.O_RDONLY), writer])
        os.close(writer)
        assert server._answer(None) and not server._children
        assert forkserver.read_signed(reader) == -errno.EAGAIN and os.read(reader, 1) == b""
        os.close(reader)


# Children that have none.


def test_a_job_that_opens_all_descriptors_returns_what_it_returns_and_harms_no_other() -> None:
    with Harness(processes=1) as pool:
        pool.fill()
        assert value_of(pool.run(jobs.open_all_descriptors, 100_000)) == "x" * 100_000
        assert value_of(pool.run(jobs.open_one_descriptor)) == "opened"
        assert value_of(pool.run(jobs.echo, "x" * 100_000)) == "x" * 100_000
        pool.fill()


def test_a_result_that_does_not_fit_is_a_failure_that_says_so() -> None:
    with Harness(processes=1) as pool:
        pool.fill()
        error = value_of(pool.run(jobs.return_more_than_files_may_hold, 300_000))
        assert type(error) is OSError and error.errno == errno.EFBIG
        assert type(error) is not JobCrashed and value_of(pool.run(jobs.echo, 1)) == 1


# Workers.


@pytest.mark.parametrize("left", [4, 6, 8, 10, 14, 30])
def test_a_worker_that_is_started_without_descriptors_runs_once_there_are_some(
    left: int, hosts: str, topic: str, group: str
) -> None:
    recorder = Recorder()
    send_many(hosts, topic, workerjobs.echo, [(1,)])
    worker = Worker(hosts=hosts, topic=topic, group=group, callback=recorder)
    with contextlib.ExitStack() as shortage:
        shortage.enter_context(no_descriptors(but=left))
        giving_back = threading.Timer(1.0, shortage.pop_all().close)
        giving_back.start()
        worker.start_background()
        giving_back.join()
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(worker.stop, 5)
        fire_until(worker, lambda: recorder.calls, "the job is done")
        assert recorder.calls[0].status == "success"


def test_a_worker_without_any_descriptor_says_so_at_once_and_can_be_started_later(
    hosts: str, topic: str, group: str
) -> None:
    with Worker(hosts=hosts, topic=topic, group=group) as worker:
        assert worker.stop()
    with (
        no_descriptors(),
        pytest.raises(WorkerError, match=r"no file descriptors left .*`ulimit -n`"),
    ):
        worker.start_background()
    with worker:
        assert worker.stop()
