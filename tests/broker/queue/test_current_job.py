"""What a job knows of itself while it runs, and what its callback's `Job` knows of it later."""

from __future__ import annotations

import copy
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import knowingjobs
import pytest
import workerjobs
from kqrecords import FIELDS, as_kq
from support import Call, Recorder, Sender

import embedkq
from embedkq import Job, Queue, Worker, current_job
from embedkq._child.current_job import CurrentJob
from embedkq.errors import EnqueueFailed, JobTooLarge

FIRST_SECONDS = timedelta(seconds=10)
Run = Callable[..., dict[str, Call]]


@pytest.fixture
def run_until_done(hosts: str, topic: str, group: str) -> Run:
    """Runs a worker until the topic is done; what its callback was told, by the job's id."""

    def run(then: Any = None, **options: Any) -> dict[str, Call]:
        recorder = Recorder(then)
        where = {"hosts": hosts, "topic": topic, "group": group}
        with Worker(**where, callback=recorder, **options) as worker:
            assert worker.drain(60)
        return {call.job.id: call for call in recorder.calls}

    return run


@pytest.fixture
def queue(hosts: str, topic: str) -> Any:
    with Queue(hosts=hosts, topic=topic) as queue:
        yield queue


# Inside the job.


def test_a_job_knows_its_record(queue: Queue, topic: str, run_until_done: Run) -> None:
    jobs = queue.enqueue_many([(knowingjobs.me, (number,)) for number in range(20)])
    jobs.append(queue.using(key="").enqueue(knowingjobs.me))
    jobs.append(queue.using(key=b"\xff\0").enqueue(knowingjobs.me))
    jobs.append(queue.using(partition=3).enqueue(knowingjobs.me))
    calls = run_until_done(processes=2)
    assert len(calls) == len(jobs) == 23
    for job in jobs:
        *found, _ = calls[job.id].result
        expected = CurrentJob(job.id, 1, topic, job.partition, job.offset, job.key, None, {})  # type: ignore[arg-type]
        assert found == list(expected)
    assert len({(job.partition, job.offset) for job in jobs}) == 23
    assert [job.key for job in jobs[20:]] == [b"", b"\xff\0", None] and jobs[-1].partition == 3


@pytest.mark.parametrize(
    ("own", "workers", "counts"),
    [(None, None, None), (30, None, 30), (30, 20.5, 20.5), (None, 20, 20), (1e300, None, None)],
)
def test_a_job_knows_when_its_limit_ends_it(
    own: float | None,
    workers: float | None,
    counts: float | None,
    queue: Queue,
    run_until_done: Run,
) -> None:
    job = queue.using(timeout=own).enqueue(knowingjobs.me)
    call = run_until_done(timeout=workers)[job.id]
    deadline, asked = call.result[6], call.result[-1]
    if counts is None:
        assert deadline is None
        return
    assert deadline.tzinfo is timezone.utc
    rest = deadline - datetime.fromtimestamp(asked, timezone.utc)
    assert timedelta(0) < timedelta(seconds=counts) - rest < FIRST_SECONDS
    assert call.job.started is not None
    assert abs(deadline - call.job.started - timedelta(seconds=counts)) < timedelta(seconds=0.1)


def test_attempts_are_counted_in_the_job_and_in_the_callback(
    queue: Queue, run_until_done: Run, tmp_path: Path
) -> None:
    retried = queue.using(retries=5, backoff=0.01)
    third = retried.enqueue(knowingjobs.me_at_third, str(tmp_path / "a"))
    never = queue.using(retries=2, backoff=0.01).enqueue(workerjobs.fail_with, "no")
    hanging = queue.using(retries=1, backoff=0.01, timeout=0.2).enqueue(knowingjobs.sleep, 30)
    dying = queue.using(retries=1, backoff=0.01).enqueue(os._exit, 3)
    plain = queue.enqueue(workerjobs.echo)
    calls = run_until_done(processes=2)
    assert calls[third.id].result == [1, 2, 3]
    jobs = (third, never, hanging, dying, plain)
    assert [calls[job.id].job.attempts for job in jobs] == [3, 3, 2, 2, 1]
    assert [job.attempts for job in jobs] == [None] * 5


def test_whatever_a_job_starts_in_its_process_knows_it_too(
    queue: Queue, run_until_done: Run
) -> None:
    for function in (knowingjobs.me_in_threads, knowingjobs.me_in_a_loop):
        job = queue.enqueue(function)  # type: ignore[arg-type]
        found = run_until_done()[job.id].result
        assert len(found) >= 3 and set(found) == {job.id}
    job = queue.enqueue(knowingjobs.me_in_a_fork)
    assert run_until_done()[job.id].result == job.id


def test_a_thread_that_outlives_its_job_sees_none_or_the_next(
    queue: Queue, run_until_done: Run
) -> None:
    in_order = queue.using(key="k")
    leaving = in_order.enqueue(knowingjobs.leave_a_thread)
    slow = in_order.enqueue(knowingjobs.what_the_thread_saw)
    calls = run_until_done()
    seen = calls[slow.id].result
    assert seen[0] in (leaving.id, "RuntimeError", slow.id) and seen[-1] == slow.id
    assert set(seen) <= {leaving.id, slow.id, "RuntimeError"}


def test_a_job_of_the_main_script_knows_itself(
    hosts: str, topic: str, run_until_done: Run, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from embedkq import Queue, current_job\n"
        "def me():\n"
        "    return current_job().id\n"
        "with Queue(hosts=sys.argv[1], topic=sys.argv[2]) as queue:\n"
        "    print(queue.enqueue(me).id)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), hosts, topic],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(embedkq.__file__).parent.parent)},
    )
    job_id = done.stdout.strip()
    assert run_until_done()[job_id].result == job_id


@pytest.mark.parametrize("limit", [None, 25.0])
def test_a_job_of_kq_knows_itself(
    hosts: str, topic: str, run_until_done: Run, limit: float | None
) -> None:
    fields = {**FIELDS, "id": "of-kq", "func": knowingjobs.me, "args": [], "kwargs": {}}
    with Sender(hosts, topic) as sender:
        sender.send_record(as_kq(**{**fields, "timeout": 40}), [], partition=1, key=b"k")
        sender.flush()
    call = run_until_done(timeout=limit)["of-kq"]
    found = CurrentJob(*call.result[:-1])
    assert (found.id, found.attempt, found.topic, found.partition) == ("of-kq", 1, topic, 1)
    assert (found.offset, found.key, dict(found.headers)) == (0, b"k", {})
    assert found.deadline is not None
    rest = found.deadline.timestamp() - call.result[-1]
    assert 0 < (limit or 40) - rest < FIRST_SECONDS.total_seconds()
    assert (call.job.partition, call.job.offset, call.job.attempts) == (1, 0, 1)


# Outside of a job.


def test_outside_of_a_job_it_raises_and_says_what_to_use_instead(
    queue: Queue, run_until_done: Run
) -> None:
    with pytest.raises(RuntimeError, match=r"inside a job only.*callback has its argument `job`"):
        current_job()
    said: list[str] = []

    def ask(_: Call) -> None:
        try:
            current_job()
        except RuntimeError as error:
            said.append(str(error))

    job = queue.enqueue(knowingjobs.what_was_said_too_early)
    calls = run_until_done(ask, initializer=knowingjobs.ask_too_early)
    assert len(said) == 1 and calls[job.id].result == said


# The callback's job.


def test_a_callback_learns_when_and_where_its_job_ran(queue: Queue, run_until_done: Run) -> None:
    before = datetime.now(timezone.utc)
    job = queue.enqueue(knowingjobs.sleep, 0.3)
    found = run_until_done()[job.id].job
    after = datetime.now(timezone.utc)
    assert found == job and type(found) is Job
    assert (found.partition, found.offset) == (job.partition, job.offset)
    assert found.worker == f"{socket.gethostname()}:{os.getpid()}"
    assert found.enqueued == job.enqueued and found.attempts == 1
    assert found.enqueued is not None and found.started is not None and found.ended is not None
    assert {each.tzinfo for each in (found.enqueued, found.started, found.ended)} == {timezone.utc}
    # The first one has milliseconds only.
    assert before - timedelta(seconds=0.001) <= found.enqueued <= found.started
    assert found.started < found.ended <= after
    assert timedelta(seconds=0.3) <= found.ended - found.started < FIRST_SECONDS


def test_also_of_one_that_did_not_end_by_itself(queue: Queue, run_until_done: Run) -> None:
    hanging = queue.using(timeout=0.4).enqueue(knowingjobs.sleep, 30)
    dying = queue.enqueue(os._exit, 3)
    unloadable = queue.enqueue(workerjobs.echo, knowingjobs.Unloadable())
    calls = run_until_done()
    assert [calls[job.id].status for job in (hanging, dying, unloadable)] == [
        "timeout",
        "failure",
        "failure",
    ]
    job = calls[hanging.id].job
    assert job.started is not None and job.ended is not None
    assert timedelta(seconds=0.4) <= job.ended - job.started < FIRST_SECONDS
    job = calls[dying.id].job
    assert job.started is not None and job.ended is not None and job.started < job.ended
    job = calls[unloadable.id].job
    assert job.started is None and job.ended is not None and job.func is None
    assert job.attempts == 1 and (job.partition, job.offset) == (
        unloadable.partition,
        unloadable.offset,
    )


def test_what_enqueue_returns_knows_its_place_and_no_more(
    queue: Queue, topic: str, make_topic: Callable[[int], str], hosts: str
) -> None:
    jobs = [queue.enqueue(workerjobs.echo, number) for number in range(3)]
    jobs += queue.enqueue_many([(workerjobs.echo, (number,)) for number in range(200)])
    places = {(job.partition, job.offset) for job in jobs}
    assert len(places) == 203
    for partition in range(4):
        offsets = sorted(offset for number, offset in places if number == partition)  # type: ignore[type-var]
        assert offsets == list(range(len(offsets)))
    for job in jobs:
        assert (job.started, job.ended, job.attempts, job.worker) == (None,) * 4
        assert job.enqueued is not None and job.enqueued.timestamp() == job.timestamp / 1000


def test_a_job_that_was_not_acknowledged_has_no_place(hosts: str, topic: str) -> None:
    with (
        Queue(hosts=hosts, topic=topic, job_size=10_000_000) as queue,
        pytest.raises(EnqueueFailed) as caught,
    ):
        queue.enqueue_many([(workerjobs.echo, (1,)), (workerjobs.echo, (b"x" * 5_000_000,))])
    failed = caught.value.failed
    assert len(failed) >= 1 and isinstance(caught.value.__cause__, JobTooLarge)
    assert {(job.partition, job.offset) for job in failed} == {(None, None)}
    assert all(job.partition is not None for job in caught.value.acknowledged)


# A Job is the named tuple that it was.

KNOWN = Job("id", 1_700_000_000_123, "t", len, (1,), {}, 2.5, b"k")
PROPERTIES = (
    "enqueued",
    "started",
    "ended",
    "attempts",
    "partition",
    "offset",
    "worker",
    "headers",
)


def test_what_is_known_beside_the_fields_takes_no_part_in_what_it_is(
    queue: Queue, run_until_done: Run
) -> None:
    sent = queue.enqueue(workerjobs.echo, 1)
    got = run_until_done()[sent.id].job
    assert got == sent == Job(*sent) and len(got) == 8 and tuple(got) == tuple(sent)
    assert hash(got._replace(args=None, kwargs=None)) == hash(sent._replace(args=None, kwargs=None))
    assert repr(got) == repr(sent) and repr(sent).startswith("Job(id=")
    assert pickle.dumps(got) == pickle.dumps(Job(*got))
    copies = [pickle.loads(pickle.dumps(got, protocol)) for protocol in range(6)]
    copies += [copy.copy(got), copy.deepcopy(got), got._replace(), Job._make(got)]
    for each in copies:
        assert type(each) is Job and each == got
        assert (each.partition, each.started, each.worker) == (None, None, None)


def test_a_job_that_somebody_made_knows_nothing_beside_its_fields() -> None:
    assert [getattr(Job(), name) for name in PROPERTIES] == [None] * 7 + [{}]
    assert KNOWN.enqueued == datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=timezone.utc)
    assert set(PROPERTIES).isdisjoint(Job._fields)


@pytest.mark.parametrize("absurd", [10**18, -(10**18), 2**63])
def test_a_time_that_cannot_be_is_none(absurd: int) -> None:
    assert KNOWN._replace(timestamp=absurd).enqueued is None


@pytest.mark.parametrize("name", [*PROPERTIES, "id", "other"])
def test_it_cannot_be_changed(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        setattr(KNOWN, name, 1)
    with pytest.raises(AttributeError, match=name):
        delattr(KNOWN, name)


def test_it_takes_the_type_of_its_result_and_stays_what_it_is() -> None:
    assert isinstance(KNOWN, Job) and Job[int]("id") == Job("id") and type(Job[int]()) is Job


def test_the_clock_of_the_host_may_jump(
    queue: Queue, run_until_done: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a job took does not depend on what time it is."""
    real = time.time
    job = queue.enqueue(knowingjobs.sleep, 0.1)
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    found = run_until_done()[job.id].job
    assert found.started is not None and found.ended is not None
    assert timedelta(seconds=0.1) <= found.ended - found.started < FIRST_SECONDS
