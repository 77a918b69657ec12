"""Coming from KQ: records that its published versions have written run as they are."""

from __future__ import annotations

import logging
import pickle
import struct
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import brokers
import kqpackages
import pytest
import workerjobs
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer
from kqrecords import FIELDS, as_kq
from partitions import P0
from poolharness import Harness
from support import Call, Recorder, Sender, committed, lines

from embedkq import Job, Queue, Worker, codec
from embedkq._child import current_job, runner
from embedkq._formats import dead_letter, headers, kq_record
from embedkq._formats.signing import Signer
from embedkq.dlq import letters as dlq_letters
from embedkq.errors import DecodeError, FunctionRefused, SignatureRefused
from embedkq.worker.between_threads.other_runs import KQJobRun
from embedkq.worker.consumer_thread.validator import RecordValidator

VERSIONS = list(kqpackages.PINNED)


@pytest.fixture(scope="session", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """A published KQ that this machine has, or can install."""
    try:
        kqpackages.python_of(request.param)
    except brokers.Unavailable as error:
        (pytest.fail if brokers.in_ci() else pytest.skip)(str(error))
    return request.param


@pytest.fixture
def run_until_done(hosts: str, topic: str, group: str) -> Callable[..., dict[str, Call]]:
    """Runs a worker until the topic is done; what its callback was told, by the job's id."""

    def run(**options: Any) -> dict[str, Call]:
        recorder = Recorder()
        with Worker(
            hosts=hosts, topic=topic, callback=recorder, **{"group": group, **options}
        ) as worker:
            assert worker.drain(60)
        assert set(recorder.ids.values()) <= {1}
        return {call.job.id or "": call for call in recorder.calls}

    return run


# What KQ has enqueued.


def test_jobs_of_kq_run_as_they_are(
    version: str, run_until_done: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    notes = str(tmp_path / "notes")
    began = time.time()
    told = kqpackages.enqueue(
        version,
        hosts,
        topic,
        [
            {"func": "workerjobs.echo", "args": [1, "two"], "kwargs": {"three": 3}},
            {"func": "workerjobs.note_and_fail", "args": [notes, "x"], "timeout": 7.5, "key": "k"},
            {"func": "workerjobs.hang_noting_begin", "args": [notes, "y"], "timeout": 1},
            {"func": "__main__.shout", "args": ["loud"], "key": "k"},
            {"func": "workerjobs.note", "args": [notes, "z"], "again": True},
        ],
    )
    with Queue(hosts=hosts, topic=topic, kafka={}) as queue:
        ours = queue.enqueue(workerjobs.echo, "ours")
    calls = run_until_done(processes=2)
    assert set(calls) == {one["id"] for one in told} | {ours.id}
    plain, failing, hanging, by_value, again = (calls[one["id"]] for one in told)
    assert (plain.status, plain.result) == ("success", ((1, "two"), {"three": 3}))
    assert (
        failing.status == "failure"
        and isinstance(failing.exception, LookupError)
        and "no x" in failing.traceback
    )
    assert (hanging.status, by_value.status, by_value.result, again.result) == (
        "timeout",
        "success",
        "LOUD",
        "z",
    )
    for one, call in zip(told, [plain, failing, hanging, by_value, again], strict=True):
        job = call.job
        assert type(job) is Job and callable(job.func)
        assert (job.id, job.topic, list(job.args or ()), job.kwargs) == (
            one["id"],
            topic,
            one["args"],
            one["kwargs"],
        )
        assert (job.timeout, job.key) == (
            one["timeout"] or None,
            one["key"] and one["key"].encode(),
        )
        assert began - 1 <= (job.timestamp or 0) / 1000 <= time.time(), (
            "milliseconds, whichever version wrote it"
        )
    assert sorted(line.split()[0] for line in lines(notes)) == ["begin", "x", "z"]
    assert sum(offset for offset, _ in committed(hosts, group, topic).values()) == 6


def test_its_own_limit_holds_from_when_it_begins_and_gives_way_to_the_workers(
    version: str, run_until_done: Any, hosts: str, topic: str, tmp_path: Path, caplog: Any
) -> None:
    hang = {"func": "workerjobs.hang_noting_begin", "args": [str(tmp_path / "notes"), "y"]}
    (own,) = kqpackages.enqueue(version, hosts, topic, [{**hang, "timeout": 1}])
    assert {key: call.status for key, call in run_until_done().items()} == {own["id"]: "timeout"}
    assert f"Job {own['id'][:8]} timed out after 1 seconds." in caplog.text
    (short,) = kqpackages.enqueue(version, hosts, topic, [{**hang, "timeout": 0}])
    assert {key: call.status for key, call in run_until_done(timeout=0.7).items()} == {
        short["id"]: "timeout"
    }
    assert f"Job {short['id'][:8]} timed out after 0.7 seconds." in caplog.text


def test_with_a_secret_it_is_refused_and_with_allow_its_function_counts(
    version: str, run_until_done: Any, hosts: str, topic: str, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    notes = str(tmp_path / "notes")
    told = kqpackages.enqueue(
        version,
        hosts,
        topic,
        [
            {"func": "workerjobs.note", "args": [notes, "z"]},
            {"func": "os.getpid"},
            {"func": "__main__.shout", "args": ["a"]},
        ],
    )
    (listed,) = [
        call.job
        for call in run_until_done(group="allowing-" + topic, allow=["workerjobs.*"]).values()
    ]
    assert listed.id == told[0]["id"] and lines(notes) == ["z"]
    assert (
        "`allow` does not include posix.getpid" in caplog.text and "travels by value" in caplog.text
    )
    assert (
        f"Running Job {listed.id[:8]}: workerjobs.note(" in caplog.text
        and f"Job {listed.id[:8]} returned: 'z'" in caplog.text
    )
    assert not run_until_done(group="secret-" + topic, secret="a secret of the tests, long enough")
    assert (
        lines(notes) == ["z"]
        and caplog.text.count(
            "refused. Skipping ... (it is not signed: header 'embedkq' is missing)"
        )
        == 3
    )


def test_it_is_run_again_and_becomes_a_dead_letter_like_any_other(
    run_until_done: Any, hosts: str, topic: str, make_topic: Any, tmp_path: Path
) -> None:
    notes, dead = str(tmp_path / "notes"), make_topic(1)
    failing = as_kq(
        **{**FIELDS, "func": workerjobs.note_and_fail, "args": [notes, "x"], "kwargs": {}}
    )
    unsound = as_kq(**{**FIELDS, "func": None})
    with Sender(hosts, topic) as sender:
        for payload in (failing, unsound):
            sender.send_record(payload, [("traceparent", b"1")], key=b"k", partition=0)
        sender.flush()
    calls = run_until_done(retries=1, backoff=0.1, dead_letter_topic=dead)
    told = [(call.status, call.job.id, type(call.exception)) for call in calls.values()]
    assert sorted(told, key=str) == [
        ("failure", "-", DecodeError),
        ("failure", "an id", LookupError),
    ] and lines(notes) == ["x", "x"]
    consumer = KafkaConsumer(
        dead, bootstrap_servers=hosts, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    )
    letters = [next(consumer), next(consumer)]
    consumer.close()
    told = {dead_letter.read(letter.headers).reason: letter for letter in letters}
    assert (
        set(told) == {"failure", "malformed"}
        and dead_letter.read(told["failure"].headers).attempts == 2
    )
    for reason, payload in (("failure", failing), ("malformed", unsound)):
        assert (told[reason].value, told[reason].key) == (payload, b"k")
        back = headers.put_back(dead_letter.strip(told[reason].headers), 5)
        assert back == [("traceparent", b"1")], "put back as it was, it is a job of KQ again"
    assert (
        dlq_letters.read_letter(told["failure"], resolved=False).function
        == "workerjobs.note_and_fail"
    )


# Records that are made here, in the three forms that KQ has had.


EXPECTED = Job("an id", 5_000, "t", workerjobs.echo, (1,), {"x": 2}, None, None)


def test_all_three_forms_are_read() -> None:
    assert kq_record.decode_job(as_kq(**FIELDS)) == EXPECTED
    assert kq_record.decode_job(as_kq(*FIELDS.values())) == EXPECTED
    values = [*FIELDS.values()][:-1]
    values[1] = 5
    assert kq_record.decode_job(as_kq(*values)) == EXPECTED, "1.x has seconds"
    for payload in (as_kq(**FIELDS), as_kq(*values)):
        assert kq_record.is_job(payload) and kq_record.function_name(payload) == "workerjobs.echo"


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": None},
        {"id": 5},
        {"timestamp": None},
        {"topic": None},
        {"func": "workerjobs.echo"},
        {"func": None},
        {"args": 5},
        {"args": {"a": 1}},
        {"kwargs": [1]},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "5"},
        {"key": 5},
    ],
)
def test_a_job_that_is_unsound_is_undecodable(wrong: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match=f"has an invalid {next(iter(wrong))}"):
        kq_record.decode_job(as_kq(**{**FIELDS, **wrong}))


def test_what_is_left_out_is_none() -> None:
    job = kq_record.decode_job(
        as_kq(**{**FIELDS, "args": None, "kwargs": None, "key": "words", "timeout": 2.5})
    )
    assert (job.args, job.kwargs, job.key, job.timeout) == ((), {}, b"words", 2.5)


def test_no_other_payload_is_taken_for_one() -> None:
    call = codec.encode_call(workerjobs.echo, (1,), {})
    for payload in (
        b"",
        b"{}",
        call,
        pickle.dumps("kq.job"),
        pickle.dumps({"kq.job": "Job"}),
        as_kq(**FIELDS)[:20],
    ):
        assert not kq_record.is_job(payload) and kq_record.function_name(payload) is None
    with pytest.raises(DecodeError, match="not a job of KQ but tuple"):
        kq_record.decode_job(call)


mutated = st.builds(
    lambda data, changes: bytes(dict(changes).get(place, byte) for place, byte in enumerate(data)),
    st.sampled_from([as_kq(**FIELDS), as_kq(*FIELDS.values())]),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
)


@given(st.binary(max_size=300) | mutated)
def test_no_bytes_make_it_raise_or_import(data: bytes) -> None:
    kq_record.is_job(data)
    kq_record.function_name(data)


@given(
    st.binary(max_size=300)
    | st.builds(
        lambda start, rest: struct.pack("=d", start) + rest, st.floats(), st.binary(max_size=300)
    )
)
def test_what_a_child_tells_is_read_or_refused(content: bytes) -> None:
    try:
        limit, job_id, _ = kq_record.unpack_told(content)
    except DecodeError:
        return
    assert (limit is None or limit > 0) and job_id.isascii()


@given(st.text(min_size=1), st.none() | st.floats(min_value=0.001, max_value=1e9), st.binary())
def test_what_a_child_tells_arrives(job_id: str, timeout: float | None, text: bytes) -> None:
    job = EXPECTED._replace(id=job_id, timeout=timeout)
    limit, told, rest = kq_record.unpack_told(kq_record.pack_told(job) + text)
    assert (limit, rest) == (timeout, text) and told.encode() == job_id.encode(
        "ascii", "backslashreplace"
    )[:200]


# The gate.


def record_of(payload: bytes | None, record_headers: Any = (), timestamp: int | None = None) -> Any:
    now = int(time.time() * 1000)
    when = now if timestamp is None else timestamp
    return SimpleNamespace(
        offset=0, key=None, value=payload, headers=record_headers, timestamp=when, flaw=None
    )


def refusal_of(gate: RecordValidator, record: Any) -> Exception | None:
    return gate.validate(P0, 1, record).refusal


def test_the_gate_takes_it_only_without_headers_of_ours_and_without_a_secret() -> None:
    good = as_kq(**FIELDS)
    run = RecordValidator().validate(P0, 1, record_of(good, [("traceparent", b"1")]))
    assert run.refusal is None and (run.timeout, run.limit, run.form) == (
        30.0,
        30.0,
        runner.FROM_KQ,
    )
    for record in (
        record_of(good, headers.headers_of("x", 1, None)),
        record_of(None),
        record_of(b"{}"),
    ):
        assert isinstance(refusal_of(RecordValidator(), record), DecodeError)
    assert "enqueued" in str(refusal_of(RecordValidator(max_age=60), record_of(good, timestamp=0)))
    refused = refusal_of(RecordValidator(allow=["other.*"]), record_of(good))
    assert isinstance(
        refused, FunctionRefused
    ) and "`allow` does not include workerjobs.echo" in str(refused)
    by_value = as_kq(**{**FIELDS, "func": codec.own_or_rebuilt})
    assert isinstance(
        refusal_of(RecordValidator(allow=["workerjobs.*"]), record_of(by_value)),
        FunctionRefused,
    )
    assert isinstance(
        refusal_of(RecordValidator(signer=Signer("a secret of 16 bytes")), record_of(good)),
        SignatureRefused,
    )


# In the pool.


def run_of(payload: bytes, limit: float | None = None) -> KQJobRun:
    run = KQJobRun(P0, 0, record_of(payload), has_own_limit=limit is None)
    run.limit = 30.0 if limit is None else limit
    return run


def test_the_limit_is_known_once_a_child_has_unpickled_it() -> None:
    with Harness(1) as harness:
        hang = {**FIELDS, "func": time.sleep, "args": [60], "kwargs": {}}
        own, workers = run_of(as_kq(**{**hang, "timeout": 0.3})), run_of(as_kq(**hang), limit=0.3)
        for run in (own, workers):
            harness.submitted_at[run] = time.monotonic()
            harness.pool.submit(run)
            harness.pool.feed()
        outcomes = harness.finish()
    assert [outcome.status for outcome in outcomes] == ["timeout", "timeout"]
    assert (own.job_id, own.timeout, own.limit, workers.timeout, workers.limit) == (
        "an id",
        0.3,
        0.3,
        None,
        0.3,
    )
    assert harness.ended_at[own] - harness.submitted_at[own] < 10


def test_a_job_that_forges_what_its_child_tells_changes_nothing() -> None:
    run = run_of(as_kq(**FIELDS))
    assert run.begun(b"") == "" and run.begun(struct.pack("=dB", 1.0, 9) + b"short") == ""
    assert (run.limit, run.job_id) == (30.0, "")
    assert run.begun(kq_record.pack_told(EXPECTED) + b"text") == "text" and run.limit is None


@pytest.mark.parametrize(
    "payload", [as_kq(**{**FIELDS, "func": None}), b"\x8c\x06kq.job\x94\x8c\x03Job\x94\x93.", b""]
)
def test_what_cannot_be_unpickled_is_undecodable(payload: bytes) -> None:
    header, content = run_of(payload).parts()
    assert content == payload and current_job.JOB_HEADER.unpack_from(header)[:3] == (
        runner.JOB | runner.FROM_KQ,
        0,
        len(payload),
    )
    with pytest.raises(DecodeError):
        kq_record.decode_job(payload)


def test_kq_itself_is_not_needed_and_not_imported(
    hosts: str, topic: str, run_until_done: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    # A module of that name that must not be touched, for host and children alike.
    (tmp_path / "kq").mkdir()
    (tmp_path / "kq" / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    job_id = str(uuid.uuid4())
    with Sender(hosts, topic) as sender:
        sender.send_record(as_kq(**{**FIELDS, "id": job_id}), [])
        sender.send_record(as_kq(**{**FIELDS, "id": job_id})[:-1], [])
        sender.send_record(b"{}", [])
        sender.flush()
    told = {call.job.id: (call.status, call.result) for call in run_until_done().values()}
    assert told == {job_id: ("success", ((1,), {"x": 2})), "-": ("failure", None)}
    assert not (tmp_path / "imported").exists()


def test_a_limit_that_is_told_after_the_child_was_looked_at_is_applied_at_once() -> None:
    run, child = run_of(as_kq(**FIELDS)), SimpleNamespace(check_at=time.monotonic() + 30)
    with Harness(0) as harness:
        harness.pool._begin(child, run, kq_record.pack_told(EXPECTED._replace(timeout=0.3)))  # type: ignore[arg-type]
        assert run.limit == 0.3 and child.check_at <= time.monotonic()
        child.check_at = later = time.monotonic() + 30
        harness.pool._begin(child, run, kq_record.pack_told(EXPECTED._replace(timeout=0.3)))  # type: ignore[arg-type]
        assert child.check_at == later
