"""Every vice of tests/jobs.py ends in exactly one outcome of the right status; a neighbour and the
pool are unharmed.

With EMBEDKQ_VICES set to a path, the table of what was seen is written there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jobs
import pytest
from poolharness import Harness, is_alive, kept_fork_server, value_of
from support import SOON_SECONDS, lines

from embedkq import codec
from embedkq._child.runner import LOST_CHANNEL_STATUS
from embedkq.errors import DecodeError, JobCrashed, JobExited, JobFailed, ResultNotPicklable

LIMIT = 0.3
"""Seconds, of those that only a limit ends."""
NEVER = 60.0
"""Seconds, of those that end by themselves: enough to be none."""
DECODING_LIMIT = 2.0
"""Seconds, of unpickling: enough for the import of `jobs` in a child that has just come."""
_MEBIBYTE = 2**20


class Vice(NamedTuple):
    """One vice, and how it must end; `check` gets the exception or result."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    status: str
    check: Callable[[Any], bool] = lambda _: True
    initializer: Callable[[], None] | None = None
    kills: bool = False
    """Whether its process is gone afterwards, another way than by the limit."""
    notes: bool = False
    """Whether it wants the path of a file for its notes before its other arguments."""

    @property
    def limit(self) -> float:
        return LIMIT if self.status == "timeout" else NEVER

    @property
    def name(self) -> str:
        return "-".join([self.func.__name__, *(str(arg) for arg in self.args)])


def crashed(status: int) -> Callable[[Any], bool]:
    return lambda error: type(error) is JobCrashed and error.exitcode == status


def crashed_or(status: int, kind: type[Exception]) -> Callable[[Any], bool]:
    return lambda error: crashed(status)(error) or type(error) is kind


def exited(type_name: str, *args: Any) -> Callable[[Any], bool]:
    return lambda error: (
        type(error) is JobExited and (error.type_name, error.exit_args) == (type_name, args)
    )


def failed(type_name: str, message: str) -> Callable[[Any], bool]:
    return lambda error: (
        type(error) is JobFailed and error.type_name == type_name and message in error.message
    )


def unsendable(type_name: str) -> Callable[[Any], bool]:
    return lambda error: (
        type(error) is ResultNotPicklable and error.type_name == type_name and bool(error.message)
    )


def raised(kind: type[Exception], text: str = "") -> Callable[[Any], bool]:
    return lambda error: type(error) is kind and text in str(error)


def returned(value: Any) -> Callable[[Any], bool]:
    return lambda result: result == value


VICES = [
    Vice(jobs.segfault, (), "failure", crashed(-signal.SIGSEGV), kills=True),
    Vice(jobs.abort, (), "failure", crashed(-signal.SIGABRT), kills=True),
    Vice(jobs.exit_with, (0,), "failure", crashed(0), kills=True),
    Vice(jobs.exit_with, (3,), "failure", crashed(3), kills=True),
    Vice(jobs.become_another_program, (), "failure", crashed(7), kills=True),
    Vice(jobs.exit_politely, (2,), "failure", exited("SystemExit", 2)),
    Vice(jobs.kill_itself, (int(signal.SIGKILL),), "failure", crashed(-signal.SIGKILL), kills=True),
    Vice(
        jobs.eat_memory, (_MEBIBYTE,), "failure", raised(MemoryError), initializer=jobs.limit_memory
    ),
    Vice(jobs.eat_memory, (64,), "failure", raised(MemoryError), initializer=jobs.limit_memory),
    Vice(jobs.raise_two_arguments, (), "failure", failed("jobs.TwoArguments", "one and two")),
    Vice(jobs.raise_unreadable, (), "failure", failed("jobs.UnreadableError", "cannot be read")),
    Vice(jobs.raise_endless, (), "timeout"),
    Vice(jobs.raise_mute, (), "failure", failed("jobs.MuteError", "its str() raises")),
    Vice(jobs.raise_with_lock, (), "failure", failed("LookupError", "holds")),
    Vice(jobs.raise_timeout_error, (), "failure", raised(TimeoutError, "the job's own")),
    Vice(jobs.raise_keyboard_interrupt, (), "failure", exited("KeyboardInterrupt")),
    Vice(jobs.raise_generator_exit, (), "failure", exited("GeneratorExit", "over")),
    Vice(jobs.raise_unprintable_exit, (), "failure", exited("jobs.UnprintableExit")),
    Vice(jobs.return_lambda, (), "success", lambda result: result(1) == 2),
    Vice(jobs.return_generator, (), "failure", unsendable("generator")),
    Vice(jobs.return_socket, (), "failure", unsendable("socket.socket")),
    Vice(jobs.return_unreadable, (), "failure", unsendable("list")),
    Vice(jobs.return_endless, (), "timeout"),
    Vice(jobs.return_endless_to_pickle, (), "timeout"),
    Vice(jobs.return_deadly_to_pickle, (), "failure", crashed(5), kills=True),
    Vice(jobs.return_bytes, (50_000_000,), "success", lambda result: len(result) == 50_000_000),
    Vice(jobs.spin, (), "timeout", notes=True),
    Vice(jobs.sleep, (), "timeout", notes=True),
    Vice(jobs.block_in_c, (), "timeout", notes=True),
    Vice(jobs.block_in_c_holding_the_gil, (), "timeout", notes=True),
    Vice(jobs.ignore_sigterm, (), "timeout", notes=True),
    Vice(jobs.ignore_all_signals, (), "timeout", notes=True),
    Vice(jobs.catch_everything, (), "timeout", notes=True),
    Vice(jobs.stop_itself, (), "timeout", notes=True),
    Vice(jobs.fork_grandchild, (), "success", notes=True),
    Vice(jobs.daemonize, (), "success"),
    Vice(jobs.fork_and_return_twice, (), "success", returned("parent"), notes=True),
    Vice(jobs.fork_and_return_twice_at_once, (), "success", returned("parent"), notes=True),
    *(
        Vice(
            jobs.start_processes_of_its_own, (method,), "success", returned([[0, 1, 4, 9], "hello"])
        )
        for method in ("fork", "spawn", "forkserver")
    ),
    Vice(jobs.start_family, (), "timeout", notes=True),
    Vice(jobs.close_descriptors, (), "failure", crashed(LOST_CHANNEL_STATUS), kills=True),
    Vice(jobs.swap_descriptors, (), "failure", crashed(LOST_CHANNEL_STATUS), kills=True),
    Vice(
        jobs.swap_descriptors_for_sockets, (), "failure", crashed(LOST_CHANNEL_STATUS), kills=True
    ),
    Vice(jobs.fill_stdout, (20_000,), "success", returned(20_000)),
    Vice(jobs.change_everything, (), "success"),
    Vice(jobs.recurse, (), "failure", raised(RecursionError)),
    Vice(jobs.recurse_in_c, (), "failure", crashed_or(-signal.SIGSEGV, RecursionError)),
    Vice(jobs.leave_an_alarm, (0.05,), "success", returned("done")),
]


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    with kept_fork_server():
        yield


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = []
    yield rows
    if path := os.environ.get("EMBEDKQ_VICES"):
        Path(path).write_text(table_of(rows))


def table_of(rows: list[tuple[str, ...]]) -> str:
    everything = [
        ("vice", "status", "exception", "after s", "neighbour", "full strength after s"),
        *rows,
    ]
    widths = [max(map(len, column)) for column in zip(*everything, strict=True)]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in everything
    )


class Neighbour:
    """A job on the other child, which runs from before a vice until after it."""

    def __init__(self, pool: Harness, folder: Path) -> None:
        self._pool = pool
        self._notes, self._validator = folder / "neighbour", folder / "gate"
        self._task = pool.submit(jobs.wait_for, str(self._notes), str(self._validator))
        pool.run_until(lambda: lines(self._notes), "the neighbour runs")

    def finish(self) -> int:
        """Let it end; asserts that it ran once, in one process, whose id it gives."""
        assert self._task not in self._pool.outcomes, "it has ended before its time"
        self._validator.touch()
        (outcome,) = self._pool.finish(self._task)
        pid = int(value_of(outcome))
        assert outcome.status == "success" and lines(self._notes) == [f"begin {pid}", f"end {pid}"]
        assert pid in self._pool.pids
        return pid


@pytest.mark.parametrize("vice", VICES, ids=lambda vice: vice.name)
def test_a_vice_has_one_outcome_and_harms_nobody(
    vice: Vice, tmp_path: Path, table: list[tuple[str, ...]]
) -> None:
    with Harness(initializer=vice.initializer) as pool:
        pool.fill()
        before = pool.pids
        neighbour = Neighbour(pool, tmp_path)
        args = (str(tmp_path / "notes"), *vice.args) if vice.notes else vice.args
        task = pool.submit(vice.func, *args, limit=vice.limit)
        (outcome,) = pool.finish(task)
        value = value_of(outcome) if outcome.payload else None
        assert outcome.status == vice.status, outcome
        assert vice.check(value), value
        assert bool(outcome.traceback) or outcome.status != "failure"

        pool.fill()
        healed = time.monotonic() - pool.ended_at[task]
        assert healed < SOON_SECONDS
        if vice.kills or vice.status == "timeout":
            assert len(pool.pids & before) == 1
        _assert_good_manners(pool)
        calm = neighbour.finish()
        assert calm in before
        seconds = pool.ended_at[task] - pool.submitted_at[task]
        name = type(value).__name__ if vice.status == "failure" else "-"
        table.append(
            (vice.name, outcome.status, name, f"{seconds:.3f}", "unharmed", f"{healed:.3f}")
        )


def _assert_good_manners(pool: Harness) -> None:
    """The child that is not the neighbour's runs the next jobs, each once, as if nothing had
    been."""
    told = value_of(pool.run(jobs.describe_process))
    assert told["pid"] in pool.pids and told["directory"] == os.getcwd() and told["deaf"]
    assert [
        value_of(pool.run(jobs.pause, 0.02, number, limit=NEVER)) for number in range(5)
    ] == list(range(5))


DECODING = [
    ("undecodable", jobs.Unreadable, False),
    ("undecodable", jobs.ExitingPayload, False),
    ("undecodable", jobs.EndlessPayload, False),
    ("undecodable", jobs.DeadlyPayload, True),
]


@pytest.mark.parametrize(("status", "kind", "notes"), DECODING)
def test_a_vice_in_a_payload_is_no_job_and_harms_nobody(
    status: str, kind: Any, notes: bool, tmp_path: Path, table: list[tuple[str, ...]]
) -> None:
    with Harness(decode_timeout=DECODING_LIMIT) as pool:
        pool.fill()
        neighbour = Neighbour(pool, tmp_path)
        task = pool.submit(
            jobs.echo, kind(str(tmp_path / "notes")) if notes else kind(), limit=NEVER
        )
        (outcome,) = pool.finish(task)
        assert (
            outcome.status == status and type(codec.decode_object(outcome.payload)) is DecodeError
        )
        pool.fill()
        healed = time.monotonic() - pool.ended_at[task]
        assert healed < SOON_SECONDS
        _assert_good_manners(pool)
        neighbour.finish()
        seconds = pool.ended_at[task] - pool.submitted_at[task]
        table.append(
            (
                f"payload: {kind.__name__}",
                status,
                "DecodeError",
                f"{seconds:.3f}",
                "unharmed",
                f"{healed:.3f}",
            )
        )


def test_a_job_that_the_kernel_kills_for_its_memory_is_told_of_as_killed(
    tmp_path: Path, table: list[tuple[str, ...]]
) -> None:
    with little_memory(64 * _MEBIBYTE) as cgroup, Harness() as pool:
        pool.fill()
        neighbour = Neighbour(pool, tmp_path)
        task = pool.submit(jobs.eat_memory_in, cgroup, limit=NEVER)
        (outcome,) = pool.finish(task)
        assert crashed(-signal.SIGKILL)(value_of(outcome)) and "out of memory?" in outcome.message
        pool.fill()
        healed = time.monotonic() - pool.ended_at[task]
        assert healed < SOON_SECONDS
        _assert_good_manners(pool)
        neighbour.finish()
        seconds = pool.ended_at[task] - pool.submitted_at[task]
        table.append(
            (
                "eat_memory in a cgroup",
                "failure",
                "JobCrashed",
                f"{seconds:.3f}",
                "unharmed",
                f"{healed:.3f}",
            )
        )


@contextlib.contextmanager
def little_memory(limit: int) -> Iterator[str]:
    """A control group of its own with so many bytes of memory, of version 1 or 2; skips where none
    can be made."""
    root = Path("/sys/fs/cgroup")
    first = (root / "memory").is_dir()
    path = (root / "memory" if first else root) / f"embedkq-test-{os.getpid()}"
    settings = (
        [("memory.limit_in_bytes", limit), ("memory.swappiness", 0)]
        if first
        else [("memory.max", limit), ("memory.swap.max", 0)]
    )
    try:
        path.mkdir()
        for name, value in settings:
            (path / name).write_text(str(value))
    except OSError as error:
        with contextlib.suppress(OSError):
            path.rmdir()
        pytest.skip(f"no control group can be made: {error}")
    try:
        yield str(path)
    finally:
        path.rmdir()


def test_three_idle_children_killed_at_once_leave_a_running_neighbour_unharmed(
    tmp_path: Path, table: list[tuple[str, ...]]
) -> None:
    with Harness(processes=4) as pool:
        pool.fill()
        neighbour = Neighbour(pool, tmp_path)
        busy = next(child.pid for child in pool.pool._children.values() if child.tasks)
        idle = pool.pids - {busy}
        for pid in idle:
            os.kill(pid, signal.SIGKILL)
        since = time.monotonic()
        pool.run_until(lambda: not pool.pids & idle and pool.is_full(), "three others are there")
        healed = time.monotonic() - since
        assert healed < SOON_SECONDS and not pool.outcomes
        _assert_good_manners(pool)
        assert neighbour.finish() == busy
        table.append(("three idle children killed", "-", "-", "-", "unharmed", f"{healed:.3f}"))


def test_what_a_job_left_behind_cannot_raise_in_the_next(tmp_path: Path) -> None:
    with Harness(processes=1) as pool:
        assert value_of(pool.run(jobs.leave_an_alarm, 0.2)) == "done"
        assert value_of(pool.run(jobs.pause, 0.5, "in peace")) == "in peace"


def test_a_child_in_which_something_raises_between_jobs_is_replaced() -> None:
    with Harness(processes=1) as pool:
        pool.fill()
        (pid,) = pool.pids
        assert pool.run(jobs.leave_a_thread_that_interrupts, 0.1).status == "success"
        pool.run_until(lambda: value_of(pool.run(jobs.own_pid)) != pid, "another child runs jobs")
        assert not is_alive(pid)


def test_a_working_directory_that_is_gone_harms_no_later_job(tmp_path: Path) -> None:
    with Harness(processes=1) as pool:
        assert pool.run(jobs.remove_its_directory, str(tmp_path / "gone")).status == "success"
        assert value_of(pool.run(jobs.describe_process))["directory"] == os.getcwd()


def test_what_a_finished_job_left_running_lives_until_its_child_ends(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with Harness(processes=1, proc_ttl=2) as pool:
        value_of(pool.run(jobs.fork_grandchild, str(notes)))
        daemon = value_of(pool.run(jobs.daemonize))
        grandchild = int(lines(notes)[0])
        pool.run_until(
            lambda: not (is_alive(grandchild) or is_alive(daemon)),
            "both ended with the child that was replaced",
        )
        pool.fill()


def test_what_a_job_forks_hears_signals(tmp_path: Path) -> None:
    with Harness(processes=1) as pool:
        assert value_of(pool.run(jobs.end_forked_processes, limit=NEVER)) == [-signal.SIGTERM] * 50
        assert value_of(pool.run(jobs.describe_process))["deaf"]


def test_each_vice_is_importable_by_name() -> None:
    for vice in VICES:
        func, _, _ = codec.decode_call(codec.encode_call(vice.func, (), {}))
        assert func is vice.func
