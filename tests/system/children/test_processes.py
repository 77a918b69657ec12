"""How children come and go: never by running the host's script again, always with their host, and
with nothing left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
from poolharness import Harness, descriptors, exists, is_alive, kept_fork_server, value_of
from support import HANG_SECONDS, ROOT, SOON_SECONDS, descendants, lines, wait_until

from embedkq._ipc.byte_lock import PipeLock
from embedkq.worker.pool.fork_server_client import server
from embedkq.worker.pool.mp_context import make_context

SCRIPT = """
import os, sys, threading
import jobs
from poolharness import Harness, value_of

print("body of", __name__, flush=True)

def double(number):
    return helper(number)

def helper(number):
    return 2 * number

with Harness() as pool:
    assert value_of(pool.run(double, 21)) == 42
    assert value_of(pool.run(jobs.echo, "hello")) == "hello"
    assert value_of(pool.run(jobs.own_pid)) != os.getpid()
    pids = pool.pids
print("done", flush=True)
"""

HOST = """
import sys
import jobs
from poolharness import Harness

notes, functions = sys.argv[1], sys.argv[2:]
pool = Harness()
for number, function in enumerate(functions):
    pool.submit(getattr(jobs, function), f"{notes}-{number}")
while True:
    pool.turn()
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def run_python(
    *arguments: str, given: str | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        env=environment(),
        cwd=cwd,
    )


# Scripts.


@pytest.mark.parametrize("way", ["script", "-c", "-m", "stdin", "folder", "runpy"])
def test_an_unguarded_script_with_a_pool_runs_its_body_once(way: str, tmp_path: Path) -> None:
    (tmp_path / "unguarded.py").write_text(SCRIPT)
    (tmp_path / "__main__.py").write_text(SCRIPT)
    if way == "script":
        done = run_python(str(tmp_path / "unguarded.py"))
    elif way == "-c":
        done = run_python("-c", SCRIPT)
    elif way == "-m":
        done = run_python("-m", "unguarded", cwd=tmp_path)
    elif way == "stdin":
        done = run_python("-", given=SCRIPT)
    elif way == "folder":
        done = run_python(str(tmp_path))
    else:
        done = run_python(
            "-c",
            f"import runpy; runpy.run_path({str(tmp_path / 'unguarded.py')!r}, run_name='__main__')",
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "body of __main__\ndone\n", "")


def test_a_host_keeps_its_choice_of_start_method() -> None:
    done = run_python(
        "-c",
        SCRIPT
        + """
import multiprocessing
multiprocessing.set_start_method("spawn")
assert not multiprocessing.active_children()
""",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_host_that_ends_without_closing_its_pool_ends_quickly_and_quietly() -> None:
    since = time.monotonic()
    done = run_python(
        "-c",
        """
import jobs
from poolharness import Harness
pool = Harness()
pool.run(jobs.echo)
print(*pool.pids)
""",
    )
    assert (done.returncode, done.stderr) == (0, "") and time.monotonic() - since < HANG_SECONDS
    wait_until(
        lambda: not any(map(is_alive, map(int, done.stdout.split()))),
        "the children are gone",
        SOON_SECONDS,
    )


# Children.


@contextlib.contextmanager
def modules_of_a_child() -> Iterator[set[str]]:
    with Harness(processes=1) as pool:
        yield set(value_of(pool.run(jobs.names_of_modules)))


def test_a_child_imports_neither_a_kafka_client_nor_the_worker() -> None:
    with modules_of_a_child() as names:
        assert {"embedkq", "embedkq._child.runner", "pebble"} <= names
        foreign = {
            name
            for name in names
            if name.split(".")[0] in ("kafka", "crc32c", "click", "rich", "dill")
        }
        assert not foreign and not {
            name for name in names if name.startswith(("embedkq.worker", "embedkq.queue"))
        }


def test_children_are_not_the_hosts_children_to_see() -> None:
    with Harness() as pool:
        pool.run(jobs.echo)
        assert not multiprocessing.active_children()
        for child in pool.pids:
            with pytest.raises(ChildProcessError):
                os.waitpid(child, os.WNOHANG)


def test_a_job_chooses_the_start_method_of_its_own_processes() -> None:
    with Harness(processes=1) as pool:
        assert (
            value_of(pool.run(jobs.start_method))
            == multiprocessing.get_context().get_start_method()
        )


def test_a_child_leads_a_group_of_its_own() -> None:
    """So that a signal from the terminal, which goes to the host's group, does not reach it."""
    with Harness() as pool:
        pool.fill()
        assert all(os.getpgid(pid) == pid for pid in pool.pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_child_at_work_does_not_heed_signals_that_are_for_the_host(
    number: int, tmp_path: Path
) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    with Harness() as pool:
        pool.fill()
        before = pool.pids
        task = pool.submit(jobs.wait_for, str(notes), str(gate))
        pool.run_until(lambda: lines(notes), "it runs")
        for pid in [*before, server._pid]:
            assert pid is not None
            os.kill(pid, number)
        gate.touch()
        assert pool.finish(task)[0].status == "success"
        assert value_of(pool.run(jobs.echo, "next")) == "next" and pool.pids == before


def test_programs_that_a_job_starts_are_not_deaf_to_signals() -> None:
    with Harness() as pool:
        assert value_of(pool.run(jobs.end_programs, limit=30)) == [-signal.SIGTERM, -signal.SIGINT]


# Ends.


def test_what_a_job_started_ends_with_it_at_its_limit(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with Harness() as pool:
        neighbour = pool.submit(jobs.wait_for, str(tmp_path / "neighbour"), str(tmp_path / "gate"))
        task = pool.submit(jobs.start_family, str(notes), limit=HANG_SECONDS)
        pool.run_until(lambda: lines(notes)[-1:] == ["complete"], "all of them run")
        pool.run_until(
            lambda: pool.tick(time.monotonic() + HANG_SECONDS) or task in pool.outcomes,
            "its limit has passed",
        )
        assert pool.outcomes[task].status == "timeout"
        *family, complete = lines(notes)
        assert complete == "complete" and len(family) == 4
        wait_until(
            lambda: not any(is_alive(int(pid)) for pid in family), "all are gone", SOON_SECONDS
        )
        (tmp_path / "gate").touch()
        assert pool.finish(neighbour)[0].status == "success"


def test_what_a_job_started_ends_with_it_when_it_crashes(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with Harness() as pool:
        assert pool.run(jobs.start_family_and_die, str(notes)).status == "failure"
        family = [int(line) for line in lines(notes)]
        assert len(family) == 3
        wait_until(lambda: not any(map(is_alive, family)), "all are gone", SOON_SECONDS)


def test_what_one_child_has_left_outlives_the_death_of_another() -> None:
    with Harness() as pool:
        pool.fill()
        daemon = value_of(pool.run(jobs.daemonize))
        (leaver,) = (pid for pid in pool.pids if daemon in children_of(pid))
        (other,) = pool.pids - {leaver}
        os.kill(other, signal.SIGKILL)
        pool.run_until(lambda: other not in pool.pids and pool.is_full(), "another child is there")
        assert is_alive(daemon)
        os.kill(leaver, signal.SIGKILL)
        wait_until(lambda: not is_alive(daemon), "it ends with its own", SOON_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_that_a_host_started_ends_with_it_when_it_is_killed(
    number: int, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(notes), "start_family", "ignore_all_signals"],
        env=environment(),
    )
    try:
        wait_until(
            lambda: lines(f"{notes}-0")[-1:] == ["complete"] and lines(f"{notes}-1"),
            "both jobs run",
        )
        family = descendants_of(host.pid) | {int(line) for line in lines(f"{notes}-0")[:-1]}
        assert (
            len(family) >= 6
        )  # the server, two children, three that a job started; one of them in no one's tree
    finally:
        host.send_signal(number)
        host.wait()
    since = time.monotonic()
    wait_until(lambda: not any(map(is_alive, family)), "all are gone")
    assert time.monotonic() - since < SOON_SECONDS


def test_all_that_a_host_started_ends_with_it_also_where_its_server_is_frozen(
    tmp_path: Path,
) -> None:
    notes = tmp_path / "notes"
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(notes), "sleep", "sleep"], env=environment()
    )
    try:
        wait_until(lambda: lines(f"{notes}-0") and lines(f"{notes}-1"), "both jobs run")
        family = descendants_of(host.pid)
        (fork_server,) = children_of(host.pid)
        os.kill(fork_server, signal.SIGSTOP)
    finally:
        host.kill()
        host.wait()
    os.kill(fork_server, signal.SIGCONT)
    wait_until(lambda: not any(map(is_alive, family)), "all are gone", SOON_SECONDS)


def test_children_end_when_their_server_is_killed_and_others_come(tmp_path: Path) -> None:
    with Harness() as pool:
        pool.fill()
        before = pool.pids
        running = pool.submit(jobs.sleep, str(tmp_path / "notes"))
        pool.run_until(lambda: lines(tmp_path / "notes"), "it runs")
        assert server._pid is not None
        os.kill(server._pid, signal.SIGKILL)
        assert pool.finish(running)[0].status == "failure"
        pool.run_until(lambda: not pool.pids & before and pool.is_full(), "others are there")
        assert not any(map(is_alive, before))
        assert value_of(pool.run(jobs.echo, "again")) == "again"


def test_children_outlive_the_thread_that_started_them(tmp_path: Path) -> None:
    """The kernel watches the thread that started the fork server, not its process."""
    made: list[Harness] = []

    def start() -> None:
        pool = Harness()
        pool.fill()
        made.append(pool)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (pool,) = made
    with pool:
        before = pool.pids
        assert (
            value_of(pool.run(jobs.pause, 0.2, "still here")) == "still here"
            and pool.pids == before
        )


def test_a_closed_pool_leaves_no_process_no_zombie_and_no_descriptor(tmp_path: Path) -> None:
    with Harness() as pool:
        pool.run(jobs.echo)
    open_before, alive_before = descriptors(), descendants()
    pool = Harness()
    pool.run(jobs.fork_grandchild, str(tmp_path / "notes"))
    pool.run(jobs.segfault)
    pool.run(jobs.sleep, str(tmp_path / "sleep"), limit=0.1)
    pool.fill()
    started = (descendants() - alive_before) | {int(lines(tmp_path / "notes")[0])}
    assert len(started) >= 3
    pool.close()
    assert descriptors() <= open_before  # what other tests have left may be collected meanwhile
    wait_until(lambda: not any(map(exists, started)), "not even a zombie is left")
    assert server._pid is None


def test_two_pools_share_a_server_that_ends_with_the_last() -> None:
    first, second = Harness(processes=1), Harness(processes=1)
    first.fill()
    second.fill()
    pid = server._pid
    assert pid is not None
    first.close()
    assert server._pid == pid and is_alive(pid)
    assert value_of(second.run(jobs.echo, 1)) == 1
    second.close()
    assert server._pid is None and not exists(pid)


def test_a_host_that_ignores_sigchld_or_reaps_all_children_loses_no_status() -> None:
    done = run_python(
        "-c",
        """
import os, signal, threading, time
import jobs
from poolharness import Harness, value_of

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def reap():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.01)
threading.Thread(target=reap, daemon=True).start()
with Harness() as pool:
    for status in range(5):
        assert value_of(pool.run(jobs.exit_with, status)).exitcode == status
print("done")
""",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("closed", ["0", "0 1 2"])
def test_a_host_without_standard_streams_can_have_a_pool(closed: str, tmp_path: Path) -> None:
    result = tmp_path / "result"
    script = f"""
import os
for stream in {closed.split()!r}:
    os.close(int(stream))
import jobs
from poolharness import Harness, value_of
with Harness() as pool:
    told = value_of(pool.run(jobs.echo, "hello")), pool.run(jobs.fill_stdout, 10).status
open({str(result)!r}, "w").write(repr(told))
"""
    run_python("-c", script)
    assert result.read_text() == "('hello', 'success')"


def test_a_host_with_more_than_a_thousand_descriptors_can_have_a_pool() -> None:
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        with Harness() as pool:
            assert value_of(pool.run(jobs.echo, 1)) == 1
            assert value_of(pool.run(jobs.exit_with, 3)).exitcode == 3
            assert pool.run(jobs.pause, 60, limit=0.1).status == "timeout"
    finally:
        for descriptor in held:
            os.close(descriptor)


def test_a_host_in_another_folder_than_at_first_can_have_a_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "found_here.py").write_text("def told():\n    return 'here'\n")
    with kept_fork_server():
        with Harness() as pool:
            pool.run(jobs.echo)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        import found_here

        with Harness() as pool:
            assert value_of(pool.run(found_here.told)) == "here"
            assert value_of(pool.run(jobs.describe_process))["directory"] == str(tmp_path)


# Forks of the host.


def test_a_forked_copy_of_a_host_can_have_a_pool_of_its_own_and_harms_the_first(
    tmp_path: Path,
) -> None:
    with Harness() as pool:
        pool.fill()
        before = pool.pids
        copy = os.fork()
        if copy == 0:
            os._exit(_work_in_copy(tmp_path))
        _, status = os.waitpid(copy, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert value_of(pool.run(jobs.echo, "first")) == "first" and pool.pids == before


def _work_in_copy(folder: Path) -> int:
    try:
        with Harness() as own:
            own.fill()
            assert value_of(own.run(jobs.echo, "copy")) == "copy"
            assert own.run(jobs.segfault).status == "failure"
        return 0
    except BaseException as error:  # the test that goes on in the parent must not go on here
        os.write(2, repr(error).encode())
        return 1


# Locks.


def test_a_lock_is_recursive_and_keeps_other_threads_out() -> None:
    lock = PipeLock()
    assert lock.acquire() and lock.acquire()
    others: list[bool] = []
    thread = threading.Thread(
        target=lambda: others.append(lock.acquire(timeout=0.02) or lock.acquire(block=False))
    )
    thread.start()
    thread.join()
    lock.release()
    again = threading.Thread(target=lambda: others.append(lock.acquire(block=False)))
    again.start()
    again.join()
    lock.release()
    last = threading.Thread(target=lambda: others.append(lock.acquire(timeout=5)))
    last.start()
    last.join()
    assert others == [False, False, True]


def test_an_exit_status_is_known_though_nobody_else_holds_on_to_the_process() -> None:
    context = make_context()
    try:
        child: Any = context.Process(target=os._exit, args=(6,))
        child.start()
        pid = child.pid
        del child
        assert context.exit_code(pid, 5) == 6 and context.exit_code(pid, 0) == 6
        context.forget(pid)
        assert context.exit_code(pid, 0) is None
    finally:
        context.close()


def children_of(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def descendants_of(pid: int) -> set[int]:
    found, more = set(), {pid}
    while more:
        more = {child for parent in more for child in children_of(parent)}
        found |= more
    return found
