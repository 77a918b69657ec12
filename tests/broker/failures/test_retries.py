"""Retries: which attempts are followed by another, when, and that they are counted wherever the job
runs next."""

from __future__ import annotations

import base64
import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from hypothesis import assume, example, given
from hypothesis import strategies as st
from partitions import P0, P1
from support import (
    ROOT,
    Recorder,
    Sender,
    committed,
    fire_until,
    lag,
    lines,
    send_many,
    wait_until,
    with_field,
)

from embedkq import Queue, Worker, _options
from embedkq._child.job_call import failure, not_loaded
from embedkq._formats import commit_metadata, offset_map
from embedkq._formats.commit_metadata import NOTHING, CommitMetadata
from embedkq._formats.outcome import Outcome
from embedkq._partition import Partition
from embedkq.errors import DecodeError, JobCrashed, JobExited
from embedkq.worker.between_threads.messages import JobRun
from embedkq.worker.control_thread import retries
from embedkq.worker.control_thread.retries import Retries


class Polled:
    """A record, as far as a run needs one."""

    offset, key, value, headers, timestamp = 0, None, b"x", (), 0


def run_of(
    attempts: int = 1,
    own_retries: int | None = None,
    backoff: float | None = None,
    partition: Partition = P0,
) -> JobRun:
    run = JobRun(partition, 1, Polled())
    run.attempts, run.retries, run.backoff = attempts, own_retries, backoff
    return run


FAILURE = failure(FileNotFoundError("there"))


# Whether and when.


@given(
    attempts=st.integers(1, 10_000),
    backoff=st.floats(0.001, 1e6),
    own=st.none() | st.floats(0.001, 1e6),
)
@example(attempts=10_000, backoff=1.0, own=None)
def test_the_pause_doubles_up_to_a_cap_and_half_of_it_is_chance(
    attempts: int, backoff: float, own: float | None
) -> None:
    pause = Retries(10_000, backoff).pause_after(run_of(attempts, backoff=own), FAILURE)
    base = backoff if own is None else own
    whole = min(base * 2.0 ** min(attempts - 1, 60), max(base, retries.LONGEST_PAUSE_SECONDS))
    assert pause is not None and 0.5 * whole <= pause <= whole


def test_pauses_are_not_all_alike() -> None:
    assert len({Retries(1).pause_after(run_of(), FAILURE) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("of_worker", "own", "attempts", "again"),
    [
        (0, None, 1, False),
        (2, None, 2, True),
        (2, None, 3, False),
        (2, 0, 1, False),
        (0, 1, 1, True),
        (0, 1, 2, False),
    ],
)
def test_a_jobs_own_retries_take_the_place_of_the_workers(
    of_worker: int, own: int | None, attempts: int, again: bool
) -> None:
    assert (Retries(of_worker).pause_after(run_of(attempts, own), FAILURE) is not None) is again


TIMEOUT = Outcome("timeout", traceback="stuck")
CRASH = failure(JobCrashed(-9))
EXIT = failure(JobExited("SystemExit"), SystemExit(2))
MISSING = not_loaded(ModuleNotFoundError("no module"))._replace(status="failure")


@pytest.mark.parametrize(
    ("retry_on", "outcome", "again"),
    [
        ([FileNotFoundError], FAILURE, True),
        ([OSError], FAILURE, True),
        (["OSError"], FAILURE, True),
        ([Exception], FAILURE, True),
        (["builtins.OSError"], FAILURE, True),
        ([ValueError], FAILURE, False),
        (["shop.OSError"], FAILURE, False),
        ([KeyError, OSError], FAILURE, True),
        ([TimeoutError], TIMEOUT, True),
        ([Exception], TIMEOUT, True),
        ([OSError], TIMEOUT, False),
        ([JobCrashed], CRASH, True),
        (["embedkq.errors.JobError"], CRASH, True),
        ([OSError], CRASH, False),
        ([TimeoutError], CRASH, False),
        ([SystemExit], EXIT, True),
        ([JobExited], EXIT, True),
        ([KeyboardInterrupt], EXIT, False),
        (None, FAILURE, True),
        (None, TIMEOUT, True),
        (None, CRASH, True),
        (None, Outcome("success"), False),
        ([ImportError], MISSING, True),
        ([DecodeError], MISSING, True),
        ([KeyError], MISSING, False),
    ],
)
def test_retry_on_takes_classes_and_names_and_what_derives_from_them(
    retry_on: Any, outcome: Outcome, again: bool
) -> None:
    policy = Retries(3, retry_on=_options.check_retry_on(retry_on))
    assert (policy.pause_after(run_of(), outcome) is not None) is again


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        ({"retries": -1}, ValueError, "retries=-1"),
        ({"retries": 1.5}, TypeError, "retries must be a whole number, not 1.5"),
        ({"retries": None}, TypeError, "retries must be a whole number"),
        ({"backoff": 0}, ValueError, "backoff=0"),
        ({"backoff": "1"}, TypeError, "backoff must be a number of seconds"),
        ({"retry_on": []}, ValueError, "retry_on=\\[\\]"),
        ({"retry_on": OSError}, TypeError, "retry_on must be a list"),
        ({"retry_on": "OSError"}, TypeError, "retry_on must be a list"),
        ({"retry_on": [int]}, TypeError, "<class 'int'> is neither"),
        ({"retry_on": ["no name"]}, TypeError, "'no name' is neither"),
        ({"retry_on": [OSError("x")]}, TypeError, "is neither an exception class"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(
    wrong: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        Worker(**wrong)
    if "retry_on" not in wrong and wrong != {"retries": None}:
        with pytest.raises(error, match=told):
            Queue().using(**wrong)
        with pytest.raises(error, match=told):
            Queue(**wrong)


def test_what_is_held_comes_in_time_and_can_be_dropped() -> None:
    policy = Retries(1)
    late, soon, other = run_of(), run_of(), run_of(partition=P1)
    for run, seconds in ((late, 60.0), (soon, 0.0), (other, 1.0)):
        policy.hold(run, seconds)
    policy.wake(time.monotonic())
    assert policy.take_ready(9) == [soon] and policy.take_ready(9) == [] and len(policy) == 2
    assert policy.drop({P1}) == [other]
    assert (
        50 < policy.next_at - time.monotonic() <= 60
        and policy.drop({P0}) == [late]
        and len(policy) == 0
    )


# What travels in commit metadata.

offsets = st.integers(0, 2**40)
counts = st.dictionaries(st.integers(0, 5000), st.integers(0, 2**30), max_size=40)
runs_of = st.lists(st.integers(1, 50), max_size=40).map(
    lambda steps: [sum(steps[:n]) for n in range(1, len(steps) + 1)]
)


@st.composite
def noted(draw: Any) -> tuple[int, Any, CommitMetadata]:
    start, edges = draw(offsets), draw(runs_of)
    done = tuple(
        (start + first, start + last) for first, last in zip(edges[::2], edges[1::2], strict=False)
    )
    crashes = {start + place: count for place, count in draw(counts).items()}
    attempts = {start + place: count for place, count in draw(counts).items()}
    suspect = draw(st.none() | st.integers(start, start + 5000))
    names = st.text(
        st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=16
    )
    hosts = tuple(draw(st.lists(names, max_size=5)))
    return (
        start,
        done,
        CommitMetadata(
            draw(st.integers(0, 1000)), suspect, dict(sorted(crashes.items())[:16]), attempts, hosts
        ),
    )


@given(noted())
def test_notes_come_back_beside_the_map(told: tuple[int, Any, CommitMetadata]) -> None:
    start, done, known = told
    text = commit_metadata.encode(start, done, known)
    assert commit_metadata.decode(start, text) == (done, known) and len(text) <= offset_map.LIMIT
    if known == NOTHING:
        assert text == offset_map.encode(start, done).text


@given(noted())
def test_a_version_without_names_of_hosts_reads_all_else_and_carries_them_along(
    told: tuple[int, Any, CommitMetadata],
) -> None:
    start, done, known = told
    written = commit_metadata.encode(start, done, known).partition(" ")[2]
    assume(written)
    # As the versions before read it: numbers, then pairs of crashes, then pairs of attempts,
    # whatever their offsets.
    numbers = offset_map.read_varints(base64.b85decode(written)[offset_map.CHECKSUM :])
    pairs = list(zip(numbers[3::2], numbers[4::2], strict=True))
    places = list(itertools.accumulate(distance for distance, _ in pairs[numbers[2] :]))
    attempts = {
        start + place: count for place, (_, count) in zip(places, pairs[numbers[2] :], strict=True)
    }
    of_hosts = {offset: count for offset, count in attempts.items() if offset >= 2**61}
    assert {offset: count for offset, count in attempts.items() if offset < 2**61} == known.attempts
    assert (
        bool(of_hosts) == bool(known.hosts)
        and max(of_hosts, default=0) < 2**62
        and max(of_hosts.values(), default=0) < 2**63
    )
    carried = commit_metadata.encode(start, done, known._replace(hosts=()))
    assert commit_metadata.decode(start, carried)[1].hosts == ()


def test_names_of_hosts_are_cut_and_made_printable_and_only_the_last_five_are_kept() -> None:
    [name] = commit_metadata.decode(
        0, commit_metadata.encode(0, (), CommitMetadata(hosts=("h" * 300,)))
    )[1].hosts
    assert name == "h" * 64
    assert commit_metadata.decode(
        0, commit_metadata.encode(0, (), CommitMetadata(hosts=("a\x1b[2J\n",)))
    )[1].hosts == ("a?[2J?",)
    known = CommitMetadata()
    for number in range(9):
        known = known.suspecting(7, f"web-{number}").with_crash()
    assert known.hosts == tuple(f"web-{number}" for number in range(4, 9)) and known.crashes == {
        7: 9
    }
    assert known.without(7) == NOTHING


@given(noted(), st.integers(0, 400))
def test_what_does_not_fit_is_left_out_and_the_rest_holds(
    told: tuple[int, Any, CommitMetadata], limit: int
) -> None:
    start, done, known = told
    text = commit_metadata.encode(start, done, known, limit)
    assert len(text) <= limit
    kept, rest = commit_metadata.decode(start, text)
    assert kept == done[: len(kept)]
    assert rest.attempts.items() <= known.attempts.items() and (rest.starts, rest.crashes) in (
        (known.starts, known.crashes),
        (0, {}),
    )


def test_a_thousand_attempts_fit_beside_a_map_that_is_as_full_as_it_gets() -> None:
    done = tuple((number, number + 1) for number in range(1, 5000, 7))
    known = CommitMetadata(attempts={number: 1 + number % 3 for number in range(0, 5000, 7)})
    kept, rest = commit_metadata.decode(0, commit_metadata.encode(0, done, known))
    assert kept == done and len(rest.attempts) > 500


@given(noted(), st.data())
def test_damaged_notes_are_refused_or_mean_the_same(
    told: tuple[int, Any, CommitMetadata], data: Any
) -> None:
    start, done, known = told
    text = commit_metadata.encode(start, done, known._replace(starts=3))
    place = data.draw(st.integers(0, len(text) - 1))
    broken = (
        text[:place]
        + data.draw(st.characters(codec="ascii"))
        + text[place + data.draw(st.integers(0, 1)) :]
    )
    if broken != text:
        try:
            assert commit_metadata.decode(start, broken) == (done, NOTHING)
        except ValueError:
            pass
    with pytest.raises(ValueError):
        commit_metadata.decode(start + 1, text)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    for told in (text, f" {text}"):
        try:
            commit_metadata.decode(0, told)
        except ValueError:
            pass


# In a worker.


@pytest.fixture
def make_worker(hosts: str, topic: str, group: str) -> Callable[..., Worker]:
    def make(callback: Any = None, **settings: Any) -> Worker:
        settings = {"backoff": 0.05, **settings}
        return Worker(hosts=hosts, topic=topic, group=group, callback=callback, **settings)

    return make


@pytest.fixture
def queue(hosts: str, topic: str) -> Iterator[Queue]:
    with Queue(hosts=hosts, topic=topic) as queue:
        yield queue


@pytest.mark.parametrize("how", ["raise", "hang", "die"])
def test_a_job_that_fails_twice_and_then_works_has_one_callback(
    make_worker: Any, queue: Queue, how: str, tmp_path: Path, caplog: Any
) -> None:
    recorder = Recorder()
    caplog.set_level(logging.INFO, logger="embedkq")
    job = queue.using(timeout=0.3 if how == "hang" else None).enqueue(
        workerjobs.fail_times, str(tmp_path / "notes"), "x", 2, how
    )
    make_worker(recorder, retries=2).start(burst=True)
    [call] = recorder.calls
    assert (call.status, call.job.id, call.result) == ("success", job.id, 3)
    told = [record.message for record in caplog.records if "runs again in" in record.message]
    assert [line.partition("(")[2] for line in told] == ["retry 1 of 2).", "retry 2 of 2)."]


def test_the_last_attempt_is_told_and_only_that(
    make_worker: Any, queue: Queue, tmp_path: Path, caplog: Any
) -> None:
    recorder = Recorder()
    queue.enqueue(workerjobs.fail_times, str(tmp_path / "notes"), "x", 9)
    worker = make_worker(recorder, retries=2)
    with worker:
        worker.drain()
        assert worker.health().ended == {"success": 0, "failure": 1, "timeout": 0, "undecodable": 0}
    [call] = recorder.calls
    assert (call.status, str(call.exception)) == ("failure", "time 3") and len(
        lines(tmp_path / "notes")
    ) == 3
    assert [record.message for record in caplog.records][-1].endswith(
        "is not run again (attempts: 3)."
    )


def test_what_retry_on_does_not_name_is_final_at_once(
    make_worker: Any, queue: Queue, tmp_path: Path
) -> None:
    queue.enqueue(workerjobs.fail_times, str(tmp_path / "named"), "x", 9)
    queue.enqueue(workerjobs.note_and_fail, str(tmp_path / "other"), "luck")
    make_worker(retries=2, retry_on=[OSError]).start(burst=True)
    assert (len(lines(tmp_path / "named")), len(lines(tmp_path / "other"))) == (3, 1)


def test_a_job_brings_its_own_retries_signed(
    make_worker: Any, hosts: str, topic: str, tmp_path: Path
) -> None:
    secret, note = "sixteen bytes or more", str(tmp_path / "notes")
    with Queue(hosts=hosts, topic=topic, secret=secret, retries=1, backoff=0.05) as queue:
        queue.enqueue(workerjobs.fail_times, note, "queue", 9)
        queue.using(retries=2).enqueue(workerjobs.fail_times, note, "using", 9)
        queue.using(retries=None, backoff=None).enqueue(workerjobs.fail_times, note, "worker", 9)
        queue.job(retries=0)(workerjobs.fail_times).delay(note, "decorator", 9)
    make_worker(retries=3, secret=secret).start(burst=True)
    assert Counter(lines(note)) == {"queue": 2, "using": 3, "worker": 4, "decorator": 1}


def test_altered_retries_are_refused(
    make_worker: Any, hosts: str, topic: str, tmp_path: Path, monkeypatch: Any
) -> None:
    from embedkq._clients.producer import Message, Producer

    secret = "sixteen bytes or more"
    really = Producer.send

    def altered(producer: Producer, message: Message) -> Any:
        headers = with_field(message.headers, "retries", b"99")
        return really(producer, message._replace(headers=headers))

    monkeypatch.setattr(Producer, "send", altered)
    with Queue(hosts=hosts, topic=topic, secret=secret, retries=1) as queue:
        queue.enqueue(workerjobs.note, str(tmp_path / "notes"), "x")
    recorder = Recorder()
    make_worker(recorder, secret=secret).start(burst=True)
    assert not recorder.calls and not lines(tmp_path / "notes")


def test_a_job_that_waits_holds_up_its_own_key_and_nothing_else(
    make_worker: Any, queue: Queue, tmp_path: Path
) -> None:
    path = str(tmp_path / "notes")
    busy = queue.using(key="busy", retries=1, backoff=3)
    busy.enqueue(workerjobs.fail_times, path, "first", 1)
    busy.enqueue(workerjobs.note, path, "behind")
    with make_worker() as worker:
        wait_until(lambda: worker.health().waiting_retries == 1, "the first one waits")
        queue.enqueue_many([(workerjobs.note, (path, f"other {number}")) for number in range(50)])
        queue.using(key="free").enqueue(workerjobs.note, path, "free")
        wait_until(lambda: len(lines(path)) == 52, "all others ran meanwhile")
        assert (
            worker.health().waiting_retries == 1
            and worker.health().in_flight >= 2
            and worker.health().healthy
        )
        assert worker.drain()
    assert [line for line in lines(path) if line in ("first", "behind")] == [
        "first",
        "first",
        "behind",
    ]


def test_what_waits_is_bounded_and_the_other_partitions_go_on(
    make_worker: Any, hosts: str, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "MOST_HELD", 50)
    with Sender(hosts, topic) as sender:
        for number in range(400):
            sender.send(workerjobs.fail_with, number, partition=0)
        sender.flush()
    with make_worker(retries=1, backoff=60.0) as worker:
        wait_until(lambda: worker.health().waiting_retries >= 50, "so many wait")
        with Queue(hosts=hosts, topic=topic) as queue:
            queue.using(partition=1).enqueue(workerjobs.note, str(tmp_path / "notes"), "other")
        wait_until(lambda: lines(tmp_path / "notes") == ["other"], "the other partition goes on")
        assert worker.health().in_flight < 50 + 2 * 32
        began = time.monotonic()
        assert worker.stop() and time.monotonic() - began < 5  # it waits for nobody's back-off


def test_attempts_are_counted_over_a_stop(
    make_worker: Any, queue: Queue, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    recorder, path = Recorder(), str(tmp_path / "notes")
    queue.using(partition=0, key=None).enqueue(workerjobs.fail_times, path, "x", 9)
    queue.using(partition=0).enqueue(workerjobs.note, path, "good")
    with make_worker(recorder, retries=2, backoff=60) as worker:
        fire_until(
            worker,
            lambda: worker.health().waiting_retries == 1 and len(recorder) == 1,
            "it waits for its second attempt",
        )
    assert len(recorder) == 1 and lines(path).count("x") == 1
    offset, metadata = committed(hosts, group, topic)[0]
    assert offset == 0 and commit_metadata.decode(0, metadata) == (
        ((1, 2),),
        CommitMetadata(attempts={0: 1}),
    )
    make_worker(recorder, retries=2).start(burst=True)
    assert lines(path).count("x") == 3 and Counter(call.status for call in recorder.calls) == {
        "success": 1,
        "failure": 1,
    }
    offset, metadata = committed(hosts, group, topic)[0]
    assert (offset, commit_metadata.decode(offset, metadata)) == (2, ((), commit_metadata.NOTHING))


HOST = """
import sys
from embedkq import Worker
hosts, topic, group, told, backoff = sys.argv[1:]
import workerjobs
def callback(status, job, result, exception, traceback):
    workerjobs.note(told, f"{job.id} {status} {exception}")
Worker(hosts=hosts, topic=topic, group=group, callback=callback, retries=4, backoff=float(backoff),
       kafka={"session_timeout_ms": 6000, "heartbeat_interval_ms": 500}).start()
"""


def test_attempts_are_counted_over_a_host_that_is_killed(
    queue: Queue, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    script, path, told = tmp_path / "host.py", str(tmp_path / "notes"), tmp_path / "told"
    script.write_text(HOST)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    queue.using(partition=0).enqueue(workerjobs.fail_times, path, "x", 99)
    for backoff, attempts in ((60.0, 1), (0.05, 5)):
        arguments = [sys.executable, str(script), hosts, topic, group, str(told), str(backoff)]
        host = subprocess.Popen(arguments, env=environment)
        try:
            if backoff > 1:
                wait_until(
                    lambda: attempts_of(hosts, group, topic) == {0: 1}, "the attempt is committed"
                )
            else:
                wait_until(lambda: lag(hosts, group, topic) == 0, "all attempts were made")
            assert len(lines(path)) == attempts
        finally:
            host.send_signal(signal.SIGKILL)
            host.wait()
    [line] = lines(told)
    assert line.endswith("failure time 5")


def attempts_of(hosts: str, group: str, topic: str) -> Any:
    offset, metadata = committed(hosts, group, topic).get(0, (0, ""))
    return commit_metadata.decode(offset, metadata)[1].attempts


def test_a_limit_of_jobs_counts_last_attempts(
    make_worker: Any, hosts: str, topic: str, tmp_path: Path
) -> None:
    recorder = Recorder()
    send_many(
        hosts,
        topic,
        workerjobs.fail_times,
        [(str(tmp_path / str(number)), "x", 1) for number in range(4)],
    )
    make_worker(recorder, retries=1).start(max_jobs=3)
    assert [call.status for call in recorder.calls] == ["success"] * 3
