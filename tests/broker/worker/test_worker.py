"""The worker's main promises, each on a real broker: the callback's contract, its thread, ways to
start, ways to end."""

from __future__ import annotations

import asyncio
import logging
import select
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from support import (
    Recorder,
    Sender,
    committed,
    fire_until,
    lag,
    lines,
    noted,
    run_script,
    send_many,
    wait_until,
)

from embedkq import Job, Queue, Worker
from embedkq.errors import (
    BrokerUnavailable,
    ChildStartFailed,
    DecodeError,
    InsideCallback,
    JobCrashed,
    JobExited,
    ResultNotPicklable,
    WorkerError,
    WrongThread,
)

MANY = 1000


@pytest.fixture
def make_worker(hosts: str, topic: str, group: str) -> Callable[..., Worker]:
    def make(callback: Any = None, **options: Any) -> Worker:
        return Worker(hosts=hosts, topic=topic, group=group, callback=callback, **options)

    return make


@pytest.fixture
def queue(hosts: str, topic: str) -> Any:
    with Queue(hosts=hosts, topic=topic) as queue:
        yield queue


# The callback's contract.


def test_success_failure_and_timeout_are_told_as_promised(
    make_worker: Any, queue: Queue, topic: str, tmp_path: Path
) -> None:
    told: dict[str, str] = {}

    def callback(status: str, job: Job, result: Any, exception: Any, traceback: Any) -> None:
        assert status in ("success", "failure", "timeout")
        assert isinstance(job, Job) and job._fields == (
            "id",
            "timestamp",
            "topic",
            "func",
            "args",
            "kwargs",
            "timeout",
            "key",
        )
        assert str(uuid.UUID(job.id)) == job.id and abs(job.timestamp - time.time() * 1000) < 60_000
        assert (
            job.topic == topic
            and callable(job.func)
            and isinstance(job.args, tuple)
            and isinstance(job.kwargs, dict)
        )
        if status == "success":
            assert result == ((1, 2), {"baz": 3}) and exception is None and traceback is None
        elif status == "failure":
            assert (
                result is None
                and type(exception) is LookupError
                and str(exception) == "no business"
            )
            assert (
                isinstance(traceback, str)
                and "LookupError: no business" in traceback
                and "note_and_fail" in traceback
            )
        else:
            assert result is None and exception is None and traceback is None and job.timeout == 0.5
        told[job.id] = status

    sent = {
        queue.enqueue(workerjobs.echo, 1, 2, baz=3).id: "success",
        queue.enqueue(workerjobs.note_and_fail, str(tmp_path / "notes"), "business").id: "failure",
        queue.using(timeout=0.5, key="a key")
        .enqueue(workerjobs.spin, str(tmp_path / "spin"))
        .id: "timeout",
    }
    make_worker(callback).start(max_jobs=3)
    assert (
        told == sent
    )  # also says that no assertion in the callback failed: then the job would be missing


def test_the_job_that_the_callback_gets_is_the_one_that_enqueue_returned(
    make_worker: Any, queue: Queue
) -> None:
    sent = queue.using(timeout=30, key="a key").enqueue(workerjobs.echo, "x", y=[1])
    recorder = Recorder()
    make_worker(recorder).start(max_jobs=1)
    assert recorder.calls[0].job == sent


@pytest.mark.parametrize(
    ("func", "status", "kind"),
    [
        (workerjobs.exit_process, "failure", JobCrashed),
        (workerjobs.raise_system_exit, "failure", JobExited),
        (workerjobs.return_generator, "failure", ResultNotPicklable),
        (workerjobs.answer_later, "success", type(None)),
    ],
)
def test_every_end_is_told(
    make_worker: Any, queue: Queue, func: Any, status: str, kind: type
) -> None:
    recorder = Recorder()
    queue.enqueue(func)
    queue.enqueue(workerjobs.echo)
    make_worker(recorder).start(max_jobs=2)
    call = next(call for call in recorder.calls if call.job.func is func)
    assert call.status == status and isinstance(call.exception, kind)
    if status == "failure":
        assert isinstance(call.traceback, str) and call.traceback
    assert len(recorder) == 2


def test_the_workers_own_timeout_overrides_the_jobs(
    make_worker: Any, queue: Queue, tmp_path: Path
) -> None:
    recorder = Recorder()
    queue.using(timeout=50).enqueue(workerjobs.sleep, str(tmp_path / "notes"))
    make_worker(recorder, timeout=0.3).start(max_jobs=1)
    assert recorder.calls[0].status == "timeout" and recorder.calls[0].job.timeout == 50


def test_a_callback_that_raises_is_logged_and_its_job_stays_done(
    make_worker: Any, queue: Queue, hosts: str, topic: str, group: str, caplog: Any
) -> None:
    def callback(*_: Any) -> None:
        raise ValueError("not in the mood")

    sent = queue.enqueue_many([workerjobs.echo] * 5)
    with caplog.at_level(logging.ERROR, "embedkq"):
        make_worker(callback).start(burst=True)
    failed = [record for record in caplog.records if record.message.startswith("Callback failed: ")]
    assert {record.message for record in failed} == {
        f"Callback failed: not in the mood (job {job.id[:8]}, workerjobs.echo, topic {topic})"
        for job in sent
    }
    assert len(failed) == 5 and all(record.exc_info for record in failed)
    assert lag(hosts, group, topic) == 0


def test_a_job_is_done_only_after_its_callback_has_returned(
    make_worker: Any, queue: Queue, hosts: str, topic: str, group: str
) -> None:
    calls: list[str] = []

    def callback(status: str, *_: Any) -> None:
        calls.append(status)
        if len(calls) == 1:
            raise KeyboardInterrupt

    queue.enqueue(workerjobs.echo)
    worker = make_worker(callback)
    with pytest.raises(KeyboardInterrupt):
        worker.start()
    assert worker.state == "stopped" and lag(hosts, group, topic) == 1
    worker.start(max_jobs=1)
    assert calls == ["success", "success"] and lag(hosts, group, topic) == 0


# The owning thread.


def check_all(recorder: Recorder, ids: list[str], owner: threading.Thread) -> None:
    assert recorder.ids == dict.fromkeys(ids, 1)
    assert recorder.threads == {owner}


def test_start_fires_a_thousand_callbacks_on_its_thread(
    make_worker: Any, hosts: str, topic: str
) -> None:
    ids = send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(MANY)])
    recorder = Recorder()
    owner = threading.Thread(target=lambda: make_worker(recorder, processes=2).start(burst=True))
    owner.start()
    owner.join()
    check_all(recorder, ids, owner)


def test_start_background_fires_when_the_owner_looks(
    make_worker: Any, hosts: str, topic: str
) -> None:
    ids = send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(MANY)])
    recorder = Recorder()
    worker = make_worker(recorder, processes=2).start_background()
    assert worker.state in ("starting", "running") and not recorder.calls
    fire_until(worker, lambda: len(recorder) == MANY, "all callbacks fired")
    assert worker.stop() is True and worker.state == "stopped"
    check_all(recorder, ids, threading.current_thread())


def test_the_with_block_drains_and_stops(
    make_worker: Any, hosts: str, topic: str, group: str
) -> None:
    ids = send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(MANY)])
    recorder = Recorder()
    with make_worker(recorder, processes=2) as worker:
        assert worker.drain(60) is True
    check_all(recorder, ids, threading.current_thread())
    assert worker.state == "stopped" and lag(hosts, group, topic) == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_asyncio_owner_needs_no_call(
    make_worker: Any, hosts: str, topic: str, asynchronous: bool
) -> None:
    ids = send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(MANY)])
    recorder, ticks = Recorder(), 0

    async def async_callback(*arguments: Any) -> None:
        await asyncio.sleep(0)
        recorder(*arguments)

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        async with make_worker(async_callback if asynchronous else recorder, processes=2) as worker:
            assert await worker.adrain(60) is True
        ticking.cancel()

    asyncio.run(main())
    check_all(recorder, ids, threading.current_thread())
    assert ticks > 20  # the loop went on meanwhile


def test_handoff_has_another_loop_fire(make_worker: Any, hosts: str, topic: str) -> None:
    ids = send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(MANY)])
    recorder = Recorder()
    due: Any = __import__("queue").SimpleQueue()
    worker = make_worker(recorder, processes=2, handoff=due.put).start_background()

    def run_loop() -> None:
        while len(recorder) < MANY:
            due.get(timeout=60)()

    loop = threading.Thread(target=run_loop)
    loop.start()
    loop.join()
    check_all(recorder, ids, loop)
    worker.request_stop()
    assert worker.wait(30)


def test_fileno_is_readable_while_callbacks_wait(make_worker: Any, queue: Queue) -> None:
    recorder = Recorder()
    with make_worker(recorder) as worker:
        queue.enqueue(workerjobs.echo)
        assert select.select([worker.fileno()], [], [], 60)[0]
        fire_until(worker, lambda: recorder.calls, "the callback fired")
        assert not select.select([worker.fileno()], [], [], 0)[0]


def test_other_threads_and_callbacks_are_told_what_to_call(make_worker: Any, queue: Queue) -> None:
    errors: list[BaseException] = []

    def try_all(methods: tuple[str, ...]) -> None:
        for method in methods:
            try:
                getattr(worker, method)()
            except WorkerError as error:
                errors.append(error)

    def callback(*_: Any) -> None:
        try_all(("run_callbacks", "drain", "stop", "wait"))
        worker.request_stop()

    queue.enqueue(workerjobs.echo)
    worker = make_worker(callback)
    worker.start_background()
    other = threading.Thread(target=try_all, args=(("run_callbacks", "drain", "stop"),))
    other.start()
    other.join()
    assert [type(error) for error in errors] == [WrongThread] * 3
    assert threading.current_thread().name in str(errors[0]) and "request_stop()" in str(errors[0])
    errors.clear()
    assert worker.wait(60)
    assert [type(error) for error in errors] == [InsideCallback] * 4 and "request_stop()" in str(
        errors[0]
    )


def test_an_owner_that_never_looks_stops_the_fetching(
    make_worker: Any, hosts: str, topic: str, monkeypatch: Any, caplog: Any
) -> None:
    from embedkq.worker.control_thread import pending_callbacks

    monkeypatch.setattr(pending_callbacks, "MOST_WAITING", 50)
    monkeypatch.setattr(pending_callbacks, "DEAF_SECONDS", 0.3)
    ids = send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(MANY)])
    recorder = Recorder()
    with make_worker(recorder, processes=2) as worker:
        wait_until(lambda: "must call run_callbacks()" in caplog.text, "the warning")
        assert (
            len(worker._runtime.dispatcher.mailbox) <= 50 + 2 * 32
        )  # what had been given to children already
        assert worker.drain(60)
    assert recorder.ids == dict.fromkeys(ids, 1)


# Offsets and order.


def test_jobs_with_one_key_run_one_after_another_and_others_beside_them(
    make_worker: Any, queue: Queue, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    for number in range(6):
        queue.using(key="same").enqueue(
            workerjobs.note_both_ends, str(notes), f"same-{number}", 0.05
        )
        queue.enqueue(workerjobs.note_both_ends, str(notes), f"other-{number}", 0.05)
    with make_worker(Recorder(), processes=4) as worker:
        assert worker.drain(60)
    noted = lines(notes)
    assert [line for line in noted if "same" in line] == [
        f"{end} same-{n}" for n in range(6) for end in ("begin", "end")
    ]
    running = most = 0
    for line in noted:
        running += 1 if line.startswith("begin") else -1
        most = max(most, running)
    assert most > 1


def test_a_slow_job_holds_up_its_offset_and_nothing_else(
    make_worker: Any, queue: Queue, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    gate, recorder = tmp_path / "gate", Recorder()
    to_one = queue.using(partition=0)
    to_one.enqueue(workerjobs.note_and_wait, str(tmp_path / "notes"), "slow", str(gate))
    for _ in range(50):
        to_one.enqueue(workerjobs.echo)
    with make_worker(recorder, processes=2) as worker:
        fire_until(worker, lambda: len(recorder) == 50, "the quick ones are done")
        wait_until(
            lambda: noted(hosts, group, topic).get(0, ())[:2] == (0, ((1, 51),)),
            "what is done above it is committed",
        )
        gate.touch()
        assert worker.drain(60)
    assert committed(hosts, group, topic)[0][0] == 51 and len(recorder) == 51


def test_thousands_of_jobs_that_wait_for_their_key_hold_up_no_other_key(
    make_worker: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    gate, recorder = tmp_path / "gate", Recorder()
    with Sender(hosts, topic) as sender:
        sender.send(
            workerjobs.note_and_wait,
            str(tmp_path / "notes"),
            "slow",
            str(gate),
            key=b"busy",
            partition=0,
        )
        for number in range(5_000):
            sender.send(abs, number, key=b"busy", partition=0)
        others = {sender.send(abs, -1, key=key, partition=0) for key in (b"other", None)}
        sender.flush()
    with make_worker(recorder, processes=2) as worker:
        fire_until(worker, lambda: others <= set(recorder.ids), "the other keys are done")
        assert len(recorder) == 2
        gate.touch()
        assert worker.drain(100)
    assert recorder.results[3:] == list(range(5_000)) and lag(hosts, group, topic) == 0


def test_a_record_that_is_no_job_is_skipped_and_one_that_cannot_be_loaded_has_its_callback(
    make_worker: Any, hosts: str, topic: str, group: str, tmp_path: Path, caplog: Any
) -> None:
    recorder = Recorder()
    from embedkq import codec
    from embedkq._formats import headers

    with Sender(hosts, topic) as sender:
        deadly = workerjobs.DeadlyToRead(str(tmp_path / "deaths"))
        gone = codec.encode_call(workerjobs.echo, (), {}).replace(b"echo", b"gone")
        unsound = [
            b"garbage",
            None,
            codec.encode_object((workerjobs.Unreadable(),)),
            codec.encode_object((deadly, (), {})),
            gone,
        ]
        ids = [str(uuid.uuid4()) for _ in unsound]
        sender.send_record(b"garbage", [], partition=0)
        for job_id, payload in zip(ids, unsound, strict=True):
            sender.send_record(
                payload, headers.headers_of(job_id, 1, None, 0), key=job_id.encode(), partition=0
            )
        expected = sender.send(workerjobs.echo, "good", partition=0)
        sender.flush()
    with make_worker(recorder) as worker:
        assert worker.drain(60)
        assert worker.health().ended == {"success": 1, "failure": 5, "timeout": 0, "undecodable": 1}
    assert recorder.ids == dict.fromkeys([*ids, expected], 1)
    assert committed(hosts, group, topic)[0][0] == 7
    for call in recorder.calls:
        if call.job.id != expected:
            assert (call.status, call.job, call.result) == (
                "failure",
                (call.job.id, 1, topic, None, None, None, None, call.job.key),
                None,
            )
            assert (
                type(call.exception) is DecodeError
                and call.traceback
                and call.job.key == call.job.id.encode()
            )
    [gone_call] = [call for call in recorder.calls if call.job.id == ids[-1]]
    assert "AttributeError" in str(gone_call.exception) and "gone" in gone_call.traceback
    told = [record.getMessage() for record in caplog.records if "Record(" in record.getMessage()]
    where = f"Record(topic={topic}, partition=0, offset="
    assert sorted(text.split(". ")[0] for text in told) == [f"{where}0) malformed"] + [
        f"{where}{n}) unloadable" for n in range(1, 6)
    ]
    assert len(lines(tmp_path / "deaths")) == 2  # tried once more on another child


# Ends.


def test_burst_ends_when_what_was_there_is_done(
    make_worker: Any, hosts: str, topic: str, group: str
) -> None:
    ids = send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(20)])
    recorder = Recorder()
    make_worker(recorder).start(burst=True)
    assert recorder.ids == dict.fromkeys(ids, 1) and lag(hosts, group, topic) == 0


def test_max_jobs_is_exact(make_worker: Any, hosts: str, topic: str, group: str) -> None:
    send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(20)])
    recorder = Recorder()
    make_worker(recorder, processes=2).start(max_jobs=7)
    assert len(recorder) == 7 and lag(hosts, group, topic) == 13


def test_stop_finishes_what_runs_and_takes_no_more(
    make_worker: Any, queue: Queue, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    notes, gate, recorder = tmp_path / "notes", tmp_path / "gate", Recorder()
    for number in range(5):
        queue.enqueue(workerjobs.note_and_wait, str(notes), number, str(gate))
    worker = make_worker(recorder).start_background()
    wait_until(lambda: lines(notes), "the first job runs")
    worker.request_stop()
    loop = worker._runtime.loop
    wait_until(lambda: loop._stopping and loop.in_flight == 1, "the others were taken back")
    gate.touch()
    assert worker.stop() is True
    assert len(recorder) == 1 and len(lines(notes)) == 1 and lag(hosts, group, topic) == 4


def test_stop_kills_what_does_not_end_in_time_and_commits_nothing_of_it(
    make_worker: Any, queue: Queue, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    recorder, began = Recorder(), time.monotonic()
    queue.enqueue(workerjobs.sleep, str(tmp_path / "notes"))
    worker = make_worker(recorder).start_background()
    wait_until(lambda: lines(tmp_path / "notes"), "the job runs")
    assert worker.stop(0.2) is False
    assert time.monotonic() - began < 30 and worker.state == "stopped" and not recorder.calls
    assert lag(hosts, group, topic) == 1
    pid = int(lines(tmp_path / "notes")[0].split()[1])
    assert workerjobs.life_of(pid) in ("", "Z", "X")


def test_a_worker_can_be_started_again(make_worker: Any, queue: Queue) -> None:
    recorder = Recorder()
    worker = make_worker(recorder)
    for round_ in (1, 2):
        queue.enqueue(workerjobs.echo)
        worker.start(max_jobs=1)
        assert worker.state == "stopped" and len(recorder) == round_


def test_starting_twice_is_refused(make_worker: Any) -> None:
    with (
        make_worker() as worker,
        pytest.raises(WorkerError, match="stop it before starting it again"),
    ):
        worker.start_background()


def test_hosts_that_do_not_answer_are_named_within_ten_seconds() -> None:
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1\b"):
        Worker(hosts="127.0.0.1:1", topic="t").start_background()
    assert time.monotonic() - began < 10.5


def test_an_initializer_that_raises_fails_the_worker_with_its_traceback(make_worker: Any) -> None:
    worker = make_worker(initializer=workerjobs.note_and_fail, initargs=("/dev/null", "luck"))
    with pytest.raises(ChildStartFailed, match="LookupError: no luck"):
        worker.start()
    assert worker.state == "failed" and isinstance(worker.error, ChildStartFailed)


def test_without_a_callback_results_are_not_rebuilt_and_jobs_are_done(
    make_worker: Any, queue: Queue, hosts: str, topic: str, group: str
) -> None:
    queue.enqueue_many([workerjobs.echo] * 10)
    make_worker().start(burst=True)
    assert lag(hosts, group, topic) == 0


def test_a_job_of_forty_seconds_keeps_its_place_in_the_group(
    make_worker: Any, queue: Queue, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    from embedkq._clients.admin import describe

    notes, recorder = tmp_path / "notes", Recorder()
    queue.enqueue(workerjobs.note_both_ends, str(notes), "long", 40)
    with make_worker(
        recorder, kafka={"max_poll_interval_ms": 10_000, "session_timeout_ms": 6_000}
    ) as worker:
        members = set()
        while not recorder.calls:
            worker.run_callbacks(2)
            members |= {
                member.id
                for found in describe(hosts, topic, group).groups
                for member in found.members
            }
    assert lines(notes) == ["begin long", "end long"] and len(members) == 1
    assert recorder.calls[0].result == "long"


# Processes of its own.

UNGUARDED = """
import sys, workerjobs
from embedkq import Queue, Worker
hosts, topic = sys.argv[1:]
print("body", flush=True)
def double(number):
    return 2 * number
class Point:
    def __init__(self, x): self.x = x
def make_point(x):
    return Point(double(x))
def callback(status, job, result, exception, traceback):
    print(status, job.func is make_point, isinstance(result, Point), result and result.x, flush=True)
Queue(hosts=hosts, topic=topic).enqueue(make_point, 21)
Worker(hosts=hosts, topic=topic, callback=callback).start(max_jobs=1)
"""


def test_an_unguarded_script_runs_its_body_once_and_gets_its_own_objects_back(
    hosts: str, topic: str, tmp_path: Path
) -> None:
    script = tmp_path / "app.py"
    script.write_text(UNGUARDED)
    done = run_script(script, hosts, topic)
    assert done.stdout.splitlines() == ["body", "success True True 42"], done.stderr


MODULE = """
import os
from embedkq import Worker
told = []
def callback(status, job, result, exception, traceback):
    told.append((status, result))
worker = Worker(hosts=os.environ["HOSTS"], topic=os.environ["TOPIC"], callback=callback).start_background()
def look():
    import workerjobs
    return workerjobs.tell_worker_of("shop")
"""
RUNS_MODULE = """
import os, sys
os.environ["HOSTS"], os.environ["TOPIC"] = sys.argv[1:]
import shop
from embedkq import Queue
Queue(hosts=sys.argv[1], topic=sys.argv[2]).enqueue(shop.look)
while not shop.told:
    shop.worker.run_callbacks(1)
(status, (state, pid, threads)), = shop.told
print(status, state, pid != os.getpid(), threads)
shop.worker.stop()
"""


def test_a_worker_started_by_the_jobs_own_module_is_inert_in_children(
    hosts: str, topic: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(MODULE)
    (tmp_path / "run.py").write_text(RUNS_MODULE)
    done = run_script(tmp_path / "run.py", hosts, topic, cwd=tmp_path)
    assert done.stdout.splitlines() == ["success inert True []"], done.stderr
