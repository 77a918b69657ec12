"""stop(t) is back within t + 1 s, whatever the worker waits for, and says no more than is so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from brokers import Broker
from support import HANG_SECONDS, Recorder, descendants, fire_until, lines, send_many, wait_until

from embedkq import Worker
from embedkq.errors import BrokerRefused
from embedkq.worker.consumer_thread.consumer_thread import ConsumerThread

pytestmark = [pytest.mark.needs("pause", "kill", "keeps_data"), pytest.mark.hang_guard(180)]

TIMES = pytest.mark.parametrize("seconds", [0, 1, 3])


def freeze(broker: Broker) -> None:
    broker.pause()


def kill(broker: Broker) -> None:
    broker.kill()


def leave_alone(broker: Broker) -> None:
    """A broker that is well."""


FAULTS = pytest.mark.parametrize("fault", [freeze, kill])


@pytest.fixture
def processes(broker: Broker) -> Iterator[Callable[[], set[int]]]:
    """Which processes the test has started that still live; at the end the broker goes on."""
    before = descendants()
    yield lambda: {pid for pid in descendants() - before if "embedkq" in command_of(pid)}
    broker.heal()


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def stop_in_time(
    worker: Worker, seconds: float, processes: Callable[[], set[int]], most: int = 0
) -> bool:
    """Stop it, and check that it is back in time and has left no process behind (at most so many);
    what `stop` says."""
    began = time.monotonic()
    finished = worker.stop(seconds)
    took = time.monotonic() - began
    assert took < seconds + 1
    assert worker.state == "stopped" and len(processes()) <= most
    return finished


def joined(worker: Worker) -> bool:
    """Whether it has its partitions and has committed where they begin."""
    return bool(worker.health().lag) and worker.health().seconds_since_commit is not None


def running(path: Path, count: int = 1) -> Callable[[], bool]:
    return lambda: len(lines(path)) >= count


# The broker does not answer.


@TIMES
@FAULTS
def test_while_it_starts(
    broker: Broker,
    hosts: str,
    topic: str,
    seconds: float,
    fault: Callable[[Broker], None],
    processes: Callable[[], set[int]],
) -> None:
    fault(broker)
    worker = Worker(hosts, topic).start_background(wait=False)
    assert worker.state == "starting"
    assert stop_in_time(worker, seconds, processes, most=1), "nothing was under way"
    wait_until(
        lambda: not processes(),
        "the process that forks children, which may have been starting itself, is gone",
    )


@TIMES
@FAULTS
def test_while_it_has_nothing_to_do(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    seconds: float,
    fault: Callable[[Broker], None],
    processes: Callable[[], set[int]],
) -> None:
    worker = Worker(hosts, topic, group=group).start_background()
    wait_until(lambda: joined(worker), "it has joined")
    fault(broker)
    stop_in_time(worker, seconds, processes)


@TIMES
def test_after_the_broker_has_not_answered_for_long(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    seconds: float,
    processes: Callable[[], set[int]],
) -> None:
    worker = Worker(hosts, topic, group=group).start_background()
    wait_until(lambda: joined(worker), "it has joined")
    broker.pause()
    wait_until(lambda: worker._runtime.consumer.broker.away_since, "it has noticed")
    stop_in_time(worker, seconds, processes)


@TIMES
@pytest.mark.parametrize("fault", [leave_alone, freeze, kill])
def test_with_a_job_that_does_not_end(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    seconds: float,
    fault: Callable[[Broker], None],
    processes: Callable[[], set[int]],
) -> None:
    send_many(hosts, topic, workerjobs.sleep, [(str(tmp_path / "begun"),)])
    recorder = Recorder()
    worker = Worker(hosts, topic, group=group, callback=recorder).start_background()
    wait_until(running(tmp_path / "begun"), "it runs")
    fault(broker)
    assert not stop_in_time(worker, seconds, processes)
    assert not recorder.calls


@TIMES
@FAULTS
def test_nothing_that_is_not_committed_is_said_to_be(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    seconds: float,
    fault: Callable[[Broker], None],
    processes: Callable[[], set[int]],
    caplog: Any,
) -> None:
    notes, gate, recorder = tmp_path / "notes", tmp_path / "gate", Recorder()
    send_many(hosts, topic, workerjobs.note_and_wait, [(str(notes), "x", str(gate))])
    worker = Worker(hosts, topic, group=group, callback=recorder).start_background()
    wait_until(running(notes), "it runs")
    fault(broker)
    gate.touch()
    fire_until(worker, lambda: recorder.calls, "it is done")
    caplog.clear()
    assert not stop_in_time(worker, seconds, processes), "it is done, and not committed"
    warnings = [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("embedkq")
    ]
    told = [record.message for record in warnings if "does not answer" not in record.message]
    assert len(told) == 1 and "since the last commit runs again" in told[0], told
    broker.heal()
    again = Recorder()
    with Worker(hosts, topic, group=group, callback=again) as worker:
        if fault is kill:  # one that was frozen may find the commit among what it has not read
            fire_until(worker, lambda: again.calls, "it runs again")
        assert worker.drain(HANG_SECONDS)
    assert set(again.ids) <= set(recorder.ids)


@TIMES
def test_with_dead_letters_that_cannot_be_written(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    seconds: float,
    processes: Callable[[], set[int]],
) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    send_many(hosts, topic, workerjobs.note_and_wait, [(str(notes), "x", str(gate))], timeout=2)
    recorder = Recorder()
    worker = Worker(
        hosts, topic, group=group, callback=recorder, dead_letter_topic=f"{topic}-dead"
    ).start_background()
    wait_until(running(notes), "it runs")
    broker.pause()
    fire_until(worker, lambda: recorder.calls, "it has timed out")
    assert not stop_in_time(worker, seconds, processes)


@TIMES
@FAULTS
def test_after_a_drain_that_came_to_no_end(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    seconds: float,
    fault: Callable[[Broker], None],
    processes: Callable[[], set[int]],
) -> None:
    worker = Worker(hosts, topic, group=group).start_background()
    wait_until(lambda: joined(worker), "it has joined")
    fault(broker)
    assert not worker.drain(0.7)
    stop_in_time(worker, seconds, processes)


@TIMES
@pytest.mark.parametrize("fault", [leave_alone, freeze])
def test_while_partitions_move(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    seconds: float,
    fault: Callable[[Broker], None],
    processes: Callable[[], set[int]],
) -> None:
    """They wait for jobs that do not end, for up to `revoke_timeout`."""
    for partition in range(4):
        send_many(hosts, topic, workerjobs.sleep, [(str(tmp_path / "begun"),)], partition=partition)
    worker = Worker(hosts, topic, group=group, processes=4, revoke_timeout=60).start_background()
    wait_until(running(tmp_path / "begun", 4), "all run")
    with Worker(hosts, topic, group=group, stop_timeout=0.1):
        wait_until(
            lambda: worker._runtime.consumer.assignment.settles, "partitions are to go to the other"
        )
        fault(broker)
        assert not stop_in_time(worker, seconds, lambda: set())


def test_the_limit_of_a_stop_without_one(
    broker: Broker, hosts: str, topic: str, group: str, processes: Callable[[], set[int]]
) -> None:
    worker = Worker(hosts, topic, group=group, stop_timeout=1).start_background()
    wait_until(lambda: joined(worker), "it has joined")
    broker.pause()
    began = time.monotonic()
    worker.stop()
    assert time.monotonic() < began + 2 and not processes()


@FAULTS
def test_the_end_of_a_with_block(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    fault: Callable[[Broker], None],
    processes: Callable[[], set[int]],
) -> None:
    send_many(hosts, topic, workerjobs.sleep, [(str(tmp_path / "begun"),)])
    for error, seconds in ((None, 1), (KeyboardInterrupt, 0.001)):
        with (
            contextlib.suppress(KeyboardInterrupt),
            Worker(hosts, topic, group=group, stop_timeout=1),
        ):
            wait_until(running(tmp_path / "begun"), "it runs")
            fault(broker)
            began = time.monotonic()
            if error is not None:
                raise error
        assert time.monotonic() < began + seconds + 1 and not processes()
        broker.heal()
        (tmp_path / "begun").unlink()


@TIMES
def test_a_worker_that_was_left_behind_starts_again(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    seconds: float,
    processes: Callable[[], set[int]],
) -> None:
    recorder = Recorder()
    worker = Worker(hosts, topic, group=group, callback=recorder).start_background()
    wait_until(lambda: joined(worker), "it has joined")
    broker.pause()
    stop_in_time(worker, seconds, processes)
    broker.resume()
    ids = send_many(hosts, topic, workerjobs.echo, [()] * 5)
    worker.start_background()
    fire_until(worker, lambda: len(recorder) == 5, "all are done")
    assert worker.stop(HANG_SECONDS) and recorder.ids == dict.fromkeys(ids, 1)


# Something of the application does not come to an end.


@TIMES
@pytest.mark.parametrize("fault", [leave_alone, freeze])
def test_with_children_that_do_not_start(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    seconds: float,
    fault: Callable[[Broker], None],
    processes: Callable[[], set[int]],
) -> None:
    worker = Worker(
        hosts,
        topic,
        group=group,
        processes=2,
        initializer=workerjobs.sleep,
        initargs=(str(tmp_path / "begun"),),
    ).start_background()
    wait_until(running(tmp_path / "begun", 2), "the initializers run")
    fault(broker)
    stop_in_time(worker, seconds, processes)


@TIMES
def test_with_a_handoff_that_runs_nothing(
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    seconds: float,
    processes: Callable[[], set[int]],
) -> None:
    send_many(hosts, topic, workerjobs.echo, [()])
    send_many(hosts, topic, workerjobs.sleep, [(str(tmp_path / "begun"),)])
    worker = Worker(
        hosts, topic, group=group, callback=Recorder(), processes=2, handoff=lambda function: None
    ).start_background()
    wait_until(running(tmp_path / "begun"), "it runs")
    wait_until(lambda: worker.health().waiting_callbacks, "a callback waits")
    assert not stop_in_time(worker, seconds, processes)


@TIMES
def test_with_a_handoff_that_blocks(
    hosts: str, topic: str, group: str, seconds: float, processes: Callable[[], set[int]]
) -> None:
    asked, end = threading.Event(), threading.Event()

    def handoff(function: Callable[[], None]) -> None:
        if started:
            asked.set()
            end.wait()

    started: list[bool] = []
    worker = Worker(
        hosts, topic, group=group, callback=Recorder(), handoff=handoff
    ).start_background()
    started.append(True)
    send_many(hosts, topic, workerjobs.echo, [()])
    wait_until(asked.is_set, "a callback is handed over")
    try:
        stop_in_time(worker, seconds, processes)
    finally:
        end.set()


@TIMES
@pytest.mark.parametrize("fault", [leave_alone, freeze])
def test_with_a_coroutine_that_sleeps_for_long(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    seconds: float,
    fault: Callable[[Broker], None],
    processes: Callable[[], set[int]],
) -> None:
    send_many(hosts, topic, workerjobs.echo, [()])
    send_many(hosts, topic, workerjobs.sleep, [(str(tmp_path / "begun"),)])

    async def work() -> tuple[bool, float]:
        inside = asyncio.Event()

        async def callback(*ended: Any) -> None:
            inside.set()
            await asyncio.sleep(60)

        worker = Worker(
            hosts, topic, group=group, callback=callback, processes=2
        ).start_background()
        await inside.wait()
        await asyncio.to_thread(wait_until, running(tmp_path / "begun"), "it runs")
        await asyncio.to_thread(fault, broker)
        began = time.monotonic()
        finished = await worker.astop(seconds)
        return finished, time.monotonic() - began

    finished, took = asyncio.run(work())
    assert took < seconds + 1 and not finished and not processes()


def test_an_owner_inside_its_callback_keeps_no_job_alive_and_gets_its_callback_committed(
    hosts: str, topic: str, group: str, tmp_path: Path, processes: Callable[[], set[int]]
) -> None:
    """stop() cannot return while a callback that it has called runs. It returns soon after, and the
    job of that callback is done."""
    ids = send_many(hosts, topic, workerjobs.echo, [()])
    killed = send_many(hosts, topic, workerjobs.spin, [(str(tmp_path / "begun"),)])
    ended: list[float] = []

    def callback(status: str, job: Any, *others: Any) -> None:
        wait_until(lambda: worker._runtime.deadline.hurries, "the limit has passed")
        wait_until(lambda: not busy(), "the job was killed at the limit, though the owner is here")
        ended.append(time.monotonic())

    def busy() -> int:
        loop = worker._runtime.loop
        return sum(len(child.tasks) for child in list(loop.pool._children.values()))

    worker = Worker(hosts, topic, group=group, callback=callback, processes=2).start_background()
    wait_until(running(tmp_path / "begun"), "it runs")
    wait_until(lambda: worker.health().waiting_callbacks, "a callback waits")
    assert not worker.stop(1)
    assert time.monotonic() < ended[0] + 1 and not processes()
    again = Recorder()
    with Worker(hosts, topic, group=group, callback=again, processes=2, timeout=0.5) as worker:
        fire_until(worker, lambda: again.calls, "the job that was killed runs again")
    assert set(again.ids) == set(killed) and not set(again.ids) & set(ids)


class Blocking(logging.Handler):
    """Blocks the worker's thread, as a handler does whose log server hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.end, self.blocked = threading.Event(), threading.Event()
        self.active = False
        self.passed: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if self.active and threading.current_thread() is not threading.main_thread():
            self.blocked.set()
            self.end.wait()
        self.passed.append(record.getMessage())

    def passed_one(self, text: str) -> bool:
        """Whether a line that begins with this text was let through."""
        return any(line.startswith(text) for line in list(self.passed))


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    handler, logger = Blocking(), logging.getLogger("embedkq")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    handler.end.set()
    logger.removeHandler(handler)
    logger.setLevel(level)


@TIMES
@pytest.mark.parametrize("callback", [None, Recorder()])
def test_with_a_log_handler_that_blocks(
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    seconds: float,
    blocking: Blocking,
    callback: Any,
    processes: Callable[[], set[int]],
) -> None:
    worker = Worker(hosts, topic, group=group, processes=2, callback=callback).start_background()
    ids = send_many(hosts, topic, workerjobs.sleep, [(str(tmp_path / "begun"),)])
    wait_until(running(tmp_path / "begun"), "it runs")
    wait_until(lambda: blocking.passed_one("Running Job"), "the worker has logged it")
    blocking.active = True
    ids += send_many(hosts, topic, workerjobs.sleep, [(str(tmp_path / "begun"),)])
    wait_until(blocking.blocked.is_set, "the worker's thread is blocked")
    wait_until(running(tmp_path / "begun", 2), "both run")
    assert not stop_in_time(worker, seconds, processes, most=1), (
        "the one that forks them ends a moment later"
    )
    wait_until(lambda: not processes(), "the last process has ended")
    blocking.active = False
    blocking.end.set()
    again = Recorder()
    with Worker(hosts, topic, group=group, callback=again, processes=2, timeout=0.5) as worker:
        fire_until(worker, lambda: len(again) == 2, "both run again: what was killed is not done")
    assert set(again.ids) == set(ids)


def test_a_worker_that_the_broker_refuses_has_failed_also_if_its_thread_is_blocked(
    hosts: str, topic: str, blocking: Blocking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(consumer: ConsumerThread) -> None:
        raise BrokerRefused("not you")

    monkeypatch.setattr(ConsumerThread, "_connect", refuse)
    blocking.active = True
    worker = Worker(hosts, topic)
    with pytest.raises(BrokerRefused, match="not you"):
        worker.start_background()
    assert blocking.blocked.is_set()
    assert worker.state == "failed" and isinstance(worker.error, BrokerRefused)


# The foreground, and the command line.


def test_a_worker_in_the_foreground_that_is_told_to_stop_now(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    processes: Callable[[], set[int]],
) -> None:
    send_many(hosts, topic, workerjobs.sleep, [(str(tmp_path / "begun"),)])
    worker = Worker(hosts, topic, group=group)
    thread = threading.Thread(target=worker.start)
    thread.start()
    wait_until(running(tmp_path / "begun"), "it runs")
    broker.pause()
    began = time.monotonic()
    worker.request_stop(now=True)
    thread.join(HANG_SECONDS)
    assert time.monotonic() < began + 1 and not processes()


@pytest.mark.parametrize("signals", [1, 2])
def test_kq_worker_ends_after_its_limit_or_a_second_signal(
    broker: Broker,
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    signals: int,
    processes: Callable[[], set[int]],
) -> None:
    send_many(hosts, topic, workerjobs.sleep, [(str(tmp_path / "begun"),)])
    limit = 1 if signals == 1 else 60
    options = {"--hosts": hosts, "--topic": topic, "--group": group, "--stop-timeout": str(limit)}
    command = [
        sys.executable,
        "-m",
        "embedkq",
        "worker",
        *(part for option in options.items() for part in option),
    ]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(workerjobs.__file__)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    try:
        wait_until(running(tmp_path / "begun"), "it runs")
        broker.pause()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        if signals == 2:
            time.sleep(1.1)  # what follows sooner is an echo of the first
            process.send_signal(signal.SIGTERM)
        process.wait(HANG_SECONDS)
        took = time.monotonic() - began
        assert took < 1.1 + 1 + 1 and not processes()  # the interpreter's own end included
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
