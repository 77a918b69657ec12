"""The circuit breaker: a worker that can load or verify none of its jobs holds them, and whoever
has no secret cannot make it do so."""

from __future__ import annotations

import importlib
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import workerjobs
from letters import letters_in
from partitions import P0, P1
from support import Recorder, Sender, committed, fire_until, lag, send_many, wait_until

from embedkq import Queue, Worker, codec
from embedkq._child.job_call import not_loaded
from embedkq._formats import headers
from embedkq._formats.outcome import Outcome
from embedkq._formats.signing import Signer
from embedkq.errors import DecodeError, SecretUnknown, SignatureRefused
from embedkq.worker.between_threads.messages import JobRun
from embedkq.worker.control_thread import circuit_breaker
from embedkq.worker.control_thread.circuit_breaker import (
    MOST_IN_A_ROW,
    MOST_REFUSED,
    CircuitBreaker,
)

RIGHT, WRONG = "the secret of the queue, long enough", "another secret, also long enough"
PAYLOAD = codec.encode_call(workerjobs.echo, (), {})
MISSING = not_loaded(ModuleNotFoundError("No module named 'shop'"))
DAMAGED = not_loaded(DecodeError("no call"), is_damaged=True)
TOO_SLOW = not_loaded(
    DecodeError("the payload was not unpickled within 300 s (decode_timeout), imports included")
)


class Polled:
    """A record, as far as a run needs one."""

    key, value, headers, timestamp = b"k", b"payload", (), 0

    def __init__(self, offset: int) -> None:
        self.offset = offset


def runs_of(count: int, refusal: Exception | None = None) -> list[JobRun]:
    runs = [JobRun(P0, 1, Polled(offset)) for offset in range(count)]
    for run in runs:
        run.refusal = refusal
    return runs


# By itself.


def test_the_tenth_job_in_a_row_that_cannot_be_loaded_is_held_and_those_that_follow() -> None:
    breaker = CircuitBreaker("topic", verifies=False)
    held = [breaker.holds(run, MISSING) for run in runs_of(MOST_IN_A_ROW + 3)]
    assert held == [False] * (MOST_IN_A_ROW - 1) + [True] * 4
    [reason] = breaker.reasons
    assert (
        "ModuleNotFoundError: No module named 'shop'" in reason
        and "PYTHONPATH" in reason
        and "topic" in reason
    )


@pytest.mark.parametrize("between", [Outcome("success"), Outcome("timeout"), Outcome("failure")])
def test_a_job_that_could_be_loaded_begins_the_count_anew_however_it_ended(
    between: Outcome,
) -> None:
    breaker = CircuitBreaker("topic", verifies=False)
    runs = runs_of(2 * MOST_IN_A_ROW)
    for run in runs[: MOST_IN_A_ROW - 1]:
        assert not breaker.holds(run, MISSING)
    assert not breaker.holds(runs[-1], between)
    for run in runs[MOST_IN_A_ROW - 1 : -2]:
        assert not breaker.holds(run, MISSING)
    assert not breaker.reasons


def test_a_damaged_payload_and_the_attempts_of_one_job_do_not_count() -> None:
    breaker = CircuitBreaker("topic", verifies=False)
    [again] = runs_of(1)
    for run in runs_of(3 * MOST_IN_A_ROW):
        assert not breaker.holds(run, DAMAGED) and not breaker.holds(again, MISSING)
    assert breaker.in_a_row == 1


def test_one_job_is_tried_at_a_time_by_turns_a_held_one_and_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(circuit_breaker, "PROBE_SECONDS", 0.0)
    breaker = CircuitBreaker("topic", verifies=False)
    assert breaker.room(7) == 7
    runs = runs_of(MOST_IN_A_ROW)
    for run in runs:
        breaker.holds(run, MISSING)
    turns = []
    for _ in range(4):
        assert breaker.room(7) == 1 and breaker.room(0) == 0
        turns.append(breaker.probes_new)
        breaker.probe([])
        breaker.probe(runs[:1])
        assert runs[0].announce and breaker.holds(runs[0], MISSING)
    assert turns == [False, True, False, True]
    monkeypatch.setattr(circuit_breaker, "PROBE_SECONDS", 1000.0)
    breaker.probe(runs[:1])
    assert breaker.room(7) == 0
    breaker.loaded()
    assert breaker.room(7) == 7 and not breaker.reasons and not breaker.probes_new
    assert not breaker.holds(runs[1], MISSING) and not breaker.in_a_row, (
        "what was held and still cannot be loaded is at fault itself"
    )


@pytest.mark.parametrize(
    ("outcome", "cure"),
    [
        (MISSING, "PYTHONPATH"),
        (not_loaded(AttributeError("no f")), "version of the code"),
        (TOO_SLOW, "Raise decode_timeout"),
        (not_loaded(RuntimeError("apps are not loaded yet")), "--initializer"),
    ],
)
def test_the_reason_names_the_cure(outcome: Outcome, cure: str) -> None:
    breaker = CircuitBreaker("topic", verifies=False)
    for run in runs_of(MOST_IN_A_ROW):
        breaker.holds(run, outcome)
    assert cure in breaker.reasons[0] and outcome.message in breaker.reasons[0]


def test_records_with_an_unknown_secret_are_held_from_the_tenth_on_until_one_is_verified() -> None:
    breaker = CircuitBreaker("topic", verifies=True)
    runs = runs_of(MOST_IN_A_ROW + 2, SecretUnknown("0123456789abcdef"))
    assert [breaker.holds_refused(run) for run in runs] == [False] * (MOST_IN_A_ROW - 1) + [
        True
    ] * 3
    assert "0123456789abcdef" in breaker.reasons[0] and "dead_letter_topic" in breaker.reasons[0]
    assert (
        not runs[-1].payload
        and runs[-1].record.value is None
        and runs[-1].offset == runs[-1].record.offset == MOST_IN_A_ROW + 1
    )
    assert breaker.drop({P1}) == [] and breaker.verified() == runs[-3:] and not breaker.reasons
    assert not any(breaker.holds_refused(run) for run in runs)


def test_nothing_else_that_is_refused_is_held_and_no_record_where_they_are_kept_elsewhere() -> None:
    breaker, keeping = (
        CircuitBreaker("topic", verifies=True),
        CircuitBreaker("topic", verifies=False),
    )
    for run in runs_of(3 * MOST_IN_A_ROW, SignatureRefused("it is not signed")):
        assert not breaker.holds_refused(run)
    for run in runs_of(3 * MOST_IN_A_ROW, SecretUnknown("0123456789abcdef")):
        assert not keeping.holds_refused(run)
    assert not breaker.reasons and not keeping.reasons


def test_what_is_held_unverified_is_bounded_and_goes_with_its_partition() -> None:
    breaker = CircuitBreaker("topic", verifies=True)
    runs = runs_of(MOST_REFUSED + MOST_IN_A_ROW, SecretUnknown("0123456789abcdef"))
    for run in runs[:-1]:
        assert not breaker.full
        breaker.holds_refused(run)
    assert breaker.full and len(breaker.drop({P0})) == MOST_REFUSED and not breaker.full


# In a worker.


@pytest.fixture(autouse=True)
def probe_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "PROBE_SECONDS", 0.3)


@pytest.fixture
def make_worker(hosts: str, topic: str, group: str) -> Callable[..., Worker]:
    def make(callback: Any = None, **options: Any) -> Worker:
        return Worker(hosts=hosts, topic=topic, group=group, callback=callback, **options)

    return make


def holds(worker: Worker) -> bool:
    return any(
        "are held" in reason or "ones are held" in reason for reason in worker.health().reasons
    )


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, Path]]:
    """A module that can be imported as long as a file is there."""
    name, ready = f"fragile_{uuid.uuid4().hex}", tmp_path / "ready"
    (tmp_path / f"{name}.py").write_text(
        f"import os\nif not os.path.exists({str(ready)!r}): raise ImportError('the plugin is missing')\ndef job(n): return n\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    ready.touch()
    yield importlib.import_module(name), ready
    del sys.modules[name]


@pytest.mark.parametrize("retries", [0, 1])
def test_jobs_that_this_host_cannot_import_wait_until_it_can(
    retries: int,
    make_worker: Any,
    hosts: str,
    topic: str,
    group: str,
    fragile: tuple[ModuleType, Path],
    caplog: Any,
) -> None:
    module, ready = fragile
    ids = send_many(hosts, topic, module.job, [(n,) for n in range(300)])
    ready.unlink()
    recorder = Recorder()
    with make_worker(recorder, processes=2, retries=retries, backoff=0.1) as worker:
        fire_until(worker, lambda: holds(worker), "it holds its jobs, and says so")
        [reason] = worker.health().reasons
        assert (
            not worker.health().healthy
            and "ImportError: the plugin is missing" in reason
            and "PYTHONPATH" in reason
        )
        assert "the plugin is missing" in caplog.text
        assert not worker.drain(2)
        assert len(recorder) < MOST_IN_A_ROW
        assert all(
            (call.status, type(call.exception)) == ("failure", DecodeError)
            for call in recorder.calls
        )
        assert lag(hosts, group, topic) >= 300 - len(recorder)
        failed = set(recorder.ids)
        ready.touch()
        assert worker.drain(60) and worker.health().healthy
    assert {call.job.id for call in recorder.calls if call.status == "success"} >= set(ids) - failed
    assert recorder.ids == dict.fromkeys(ids, 1) and lag(hosts, group, topic) == 0


def test_a_worker_that_stops_meanwhile_leaves_them_to_the_next_one(
    make_worker: Any, hosts: str, topic: str, group: str, fragile: tuple[ModuleType, Path]
) -> None:
    module, ready = fragile
    ids = send_many(hosts, topic, module.job, [(n,) for n in range(100)])
    ready.unlink()
    recorder = Recorder()
    with make_worker(recorder) as worker:
        fire_until(worker, lambda: holds(worker), "it holds its jobs, and says so")
        assert worker.stop(30)
    assert len(recorder) < MOST_IN_A_ROW and lag(hosts, group, topic) >= 100 - len(recorder)
    ready.touch()
    with make_worker(recorder) as worker:
        assert worker.drain(60)
    assert recorder.ids == dict.fromkeys(ids, 1)


def test_jobs_whose_function_is_gone_do_not_stop_those_behind_them(
    make_worker: Any, hosts: str, topic: str, group: str
) -> None:
    gone = PAYLOAD.replace(b"echo", b"gone")
    with Sender(hosts, topic) as sender:
        for _ in range(MOST_IN_A_ROW + 3):
            sender.send_record(gone, headers.headers_of(str(uuid.uuid4()), 1, None), partition=0)
        good = [sender.send(workerjobs.echo, n, partition=0) for n in range(50)]
        sender.flush()
    recorder = Recorder()
    with make_worker(recorder) as worker:
        assert worker.drain(60) and worker.health().healthy
    assert [call.job.id for call in recorder.calls if call.status == "success"] == good
    assert len(recorder) == MOST_IN_A_ROW + 3 + 50 and lag(hosts, group, topic) == 0


def test_jobs_signed_with_another_secret_wait_for_a_worker_that_has_it(
    make_worker: Any, hosts: str, topic: str, group: str, caplog: Any
) -> None:
    with Queue(hosts=hosts, topic=topic, secret=RIGHT) as queue:
        jobs = queue.enqueue_many([(workerjobs.echo, (n,)) for n in range(100)])
    recorder = Recorder()
    with make_worker(recorder, secret=WRONG) as worker:
        fire_until(worker, lambda: holds(worker), "it holds its jobs, and says so")
        name = Signer(RIGHT)._first.decode()
        assert (
            not worker.health().healthy
            and name in worker.health().reasons[0]
            and name in caplog.text
        )
        assert not worker.drain(1) and not recorder.calls
        assert lag(hosts, group, topic) >= 100 - (MOST_IN_A_ROW - 1)
    skipped = caplog.text.count("refused. Skipping")
    assert skipped == MOST_IN_A_ROW - 1
    with make_worker(recorder, secret=[WRONG, RIGHT]) as worker:
        assert worker.drain(60)
    assert (
        len(recorder) == 100 - skipped
        and set(recorder.ids) < {job.id for job in jobs}
        and lag(hosts, group, topic) == 0
    )


def forge(sender: Sender, count: int) -> None:
    signer = Signer(WRONG)
    for _ in range(count):
        told = signer.sign(
            sender.topic, None, headers.headers_of(str(uuid.uuid4()), 1, None), PAYLOAD
        )
        sender.send_record(PAYLOAD, told, partition=0)


def test_forged_records_in_front_do_not_stop_a_worker_with_the_right_secret(
    make_worker: Any, hosts: str, topic: str, group: str
) -> None:
    with Sender(hosts, topic) as sender, Queue(hosts=hosts, topic=topic, secret=RIGHT) as queue:
        forge(sender, 3_000)
        sender.flush()
        genuine = queue.using(partition=0).enqueue(workerjobs.echo, 1)
        forge(sender, 30)
        sender.flush()
        recorder = Recorder()
        with make_worker(recorder, secret=RIGHT) as worker:
            assert worker.drain(60) and worker.health().healthy
    assert recorder.ids == {genuine.id: 1} and committed(hosts, group, topic)[0][0] == 3_031


def test_with_a_dead_letter_topic_what_is_refused_goes_there_and_nothing_is_held(
    make_worker: Any, hosts: str, topic: str, group: str, make_topic: Any
) -> None:
    dead = make_topic(1)
    with Sender(hosts, topic) as sender:
        forge(sender, 50)
        sender.flush()
    with make_worker(Recorder(), secret=RIGHT, dead_letter_topic=dead) as worker:
        wait_until(lambda: lag(hosts, group, topic) == 0, "all are done")
        assert worker.health().healthy
    assert [letter.reason for letter, _ in letters_in(hosts, dead)] == ["refused"] * 50
