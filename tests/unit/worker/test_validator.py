"""What of a record is looked at before anything of it is unpickled."""

from __future__ import annotations

import pickle
import sys
import time
import uuid
from collections import namedtuple
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from partitions import P0, P1, P3, numbered
from unitjobs import Polled

from embedkq._child.runner import FROM_JSON, PLAIN, TELL_ARGS
from embedkq._formats import signing, user_headers
from embedkq._formats.headers import for_group, headers_of
from embedkq._formats.plain_record import Handling
from embedkq._formats.signing import Signer
from embedkq.errors import (
    DecodeError,
    FunctionRefused,
    OtherGroup,
    SecretUnknown,
    SignatureRefused,
)
from embedkq.worker.between_threads.messages import JobRun
from embedkq.worker.between_threads.other_runs import JSONJobRun, KQJobRun, PlainRun
from embedkq.worker.consumer_thread.validator import PlainRecordValidator, RecordValidator

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
SIGNER = Signer("a secret of enough bytes")
CALL = pickle.dumps((time.sleep, (0,), {}), protocol=4)


NOW = 1_000_000.0


def ago(seconds: float) -> int:
    return int((NOW - seconds) * 1000)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "time", SimpleNamespace(time=lambda: NOW))


def job(**own: Any) -> Polled:
    """A record as `Queue.enqueue` writes it."""
    told = {"timestamp": 17, "timeout": None, **own}
    return Polled(7, b"key", CALL, headers_of(ID, **told))


def signed(record: Polled, topic: str = "topic") -> Polled:
    record.headers = SIGNER.sign(topic, record.key, record.headers, record.value)
    return record


@pytest.fixture(scope="module")
def kq_payload() -> bytes:
    """What a Queue of KQ 2.0 writes."""
    fields = ("id", "timestamp", "topic", "func", "args", "kwargs", "timeout", "key", "partition")
    kq, kq_job = ModuleType("kq"), ModuleType("kq.job")
    kind: Any = namedtuple("Job", fields)
    kind.__module__, kq_job.Job = "kq.job", kind  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "kq", kq)
        patch.setitem(sys.modules, "kq.job", kq_job)
        return pickle.dumps(kind("id", 17, "topic", time.sleep, [], {}, 3, None, None), protocol=4)


def refusal(validator: RecordValidator, record: Polled, kind: type[Exception]) -> str:
    """Why the record may not run, which has to be of that very kind."""
    reason = validator.validate(P3, 2, record).refusal
    assert type(reason) is kind, reason
    return str(reason)


def accepted(validator: RecordValidator, record: Polled) -> JobRun:
    run = validator.validate(P3, 2, record)
    assert run.refusal is None
    return run


# What the header says.


def test_a_job_is_known_by_its_place_and_its_header() -> None:
    record = job(timestamp=1234, timeout=5.0, retries=4, backoff=0.5)
    run = accepted(RecordValidator(), record)
    assert type(run) is JobRun
    assert (run.partition, run.epoch, run.offset, run.key) == (P3, 2, 7, b"key")
    assert run.record is record and run.payload == CALL
    assert (run.job_id, run.timestamp) == (ID, 1234)
    assert (run.retries, run.backoff) == (4, 0.5)
    assert run.timeout == run.limit == 5.0


def test_what_the_header_does_not_say_is_left_to_the_worker() -> None:
    run = accepted(RecordValidator(), job())
    assert (run.timeout, run.limit, run.retries, run.backoff) == (None, None, None, None)


@pytest.mark.parametrize("own", [None, 5.0, 99.0])
def test_the_workers_limit_replaces_the_jobs_own(own: float | None) -> None:
    run = accepted(RecordValidator(timeout=9.0), job(timeout=own))
    assert run.limit == 9.0
    assert run.timeout == own


def test_a_record_that_could_not_be_read_whole_is_refused_with_the_reason() -> None:
    record = job()
    record.flaw = "its batch is damaged"
    assert refusal(RecordValidator(), record, DecodeError) == "its batch is damaged"


def test_a_record_without_header_is_no_job() -> None:
    why = refusal(RecordValidator(), Polled(7, None, b"anything"), DecodeError)
    assert why == "header 'embedkq' is missing"


def test_a_refused_record_keeps_its_place() -> None:
    run = RecordValidator().validate(P3, 2, Polled(7, None, None))
    assert isinstance(run.refusal, DecodeError)
    assert (run.partition, run.epoch, run.offset, run.job_id) == (P3, 2, 7, "")


# For whom it is.


@pytest.mark.parametrize("signer", [None, SIGNER])
def test_a_job_put_back_for_another_group_does_not_run(signer: Signer | None) -> None:
    record = signed(job()) if signer else job()
    record.headers = for_group(record.headers, "ours")
    accepted(RecordValidator(signer=signer, group="ours"), record)
    why = refusal(RecordValidator(signer=signer, group="theirs"), record, OtherGroup)
    assert why == "it was retried for group 'ours' only"
    refusal(RecordValidator(signer=signer), record, OtherGroup)


def test_a_job_for_no_group_in_particular_runs_in_all() -> None:
    record = job()
    record.headers = [*record.headers, ("trace", b"1"), ("span", b"2")]
    accepted(RecordValidator(group="ours"), record)


def test_a_worker_without_a_group_runs_what_is_for_none() -> None:
    record = job()
    record.headers = [*record.headers, ("embedkq.group", b"")]
    accepted(RecordValidator(), record)


def test_a_group_alone_makes_no_job() -> None:
    record = Polled(7, None, b"anything", for_group([], "ours"))
    refusal(RecordValidator(group="theirs"), record, DecodeError)


# Who sent it.


def test_with_a_secret_only_signed_jobs_run() -> None:
    validator = RecordValidator(signer=SIGNER)
    run = accepted(validator, signed(job(timestamp=5, timeout=2.0)))
    assert (run.job_id, run.timestamp, run.limit) == (ID, 5, 2.0)
    assert refusal(validator, job(), SignatureRefused) == "it is not signed"
    other = RecordValidator(signer=Signer("another secret, long enough"))
    refusal(other, signed(job()), SecretUnknown)


@pytest.mark.parametrize("changed", ["key", "value", "headers", "topic"])
def test_a_signature_covers_key_value_headers_and_topic(changed: str) -> None:
    record = signed(job(), "topic" if changed != "topic" else "other")
    if changed == "headers":
        record.headers = [(name, told.replace(b"=17", b"=18")) for name, told in record.headers]
    elif changed != "topic":
        setattr(record, changed, b"other")
    refusal(RecordValidator(signer=SIGNER), record, SignatureRefused)


def test_without_a_secret_a_signature_is_not_looked_at() -> None:
    accepted(RecordValidator(), signed(job(), "other"))


# How old it is, and what it calls.


def test_a_job_that_is_too_old_is_refused() -> None:
    validator = RecordValidator(max_age=60.0)
    accepted(validator, job(timestamp=ago(50)))
    why = refusal(validator, job(timestamp=ago(70)), SignatureRefused)
    assert why == "it was enqueued 70 s ago, and max_age is 60 s"
    accepted(RecordValidator(), job(timestamp=0))


def test_only_functions_that_are_allowed_run() -> None:
    accepted(RecordValidator(allow=["time.*"]), job())
    why = refusal(RecordValidator(allow=["shop.*"]), job(), FunctionRefused)
    assert "time.sleep" in why


# What KQ has written.


def test_a_job_of_kq_is_taken_with_a_limit_until_its_own_is_known(kq_payload: bytes) -> None:
    run = accepted(RecordValidator(), Polled(7, b"key", kq_payload, timestamp=99))
    assert isinstance(run, KQJobRun) and run.has_own_limit
    assert (run.partition, run.epoch, run.offset, run.key) == (P3, 2, 7, b"key")
    assert (run.job_id, run.timestamp, run.timeout, run.limit) == ("-", 99, 30.0, 30.0)


def test_the_workers_limit_replaces_that_of_a_job_of_kq(kq_payload: bytes) -> None:
    run = accepted(RecordValidator(timeout=9.0), Polled(7, None, kq_payload))
    assert isinstance(run, KQJobRun) and not run.has_own_limit
    assert run.limit == 9.0


def test_a_job_of_kq_that_is_too_old_is_refused(kq_payload: bytes) -> None:
    validator = RecordValidator(max_age=60.0)
    accepted(validator, Polled(7, None, kq_payload, timestamp=ago(50)))
    refusal(validator, Polled(7, None, kq_payload, timestamp=ago(70)), SignatureRefused)


def test_only_functions_that_are_allowed_run_of_kq_too(kq_payload: bytes) -> None:
    record = Polled(7, None, kq_payload)
    accepted(RecordValidator(allow=["time.*"]), record)
    why = refusal(RecordValidator(allow=["shop.*"]), record, FunctionRefused)
    assert "time.sleep" in why


def test_with_a_secret_no_job_of_kq_runs(kq_payload: bytes) -> None:
    validator = RecordValidator(signer=SIGNER)
    refusal(validator, Polled(7, None, kq_payload), SignatureRefused)


def test_a_job_of_kq_for_another_group_does_not_run(kq_payload: bytes) -> None:
    record = Polled(7, None, kq_payload, [("trace", b""), *for_group([], "ours")])
    accepted(RecordValidator(group="ours"), record)
    refusal(RecordValidator(group="theirs"), record, OtherGroup)


def test_a_damaged_header_is_not_made_good_by_a_payload_of_kq(kq_payload: bytes) -> None:
    record = Polled(7, None, kq_payload, [("embedkq", b"2;what=ever")])
    why = refusal(RecordValidator(), record, DecodeError)
    assert "begins with b'2'" in why


# The headers of the job.


def test_a_run_has_the_headers_of_its_job() -> None:
    record = job()
    record.headers = [*record.headers, *user_headers.encode({"tenant": "ä"}), ("trace", b"1")]
    assert accepted(RecordValidator(), record).headers == {"tenant": "ä"}
    record.headers = record.headers[:1]
    assert accepted(RecordValidator(), record).headers is None


def test_headers_that_are_not_as_they_were_sent_are_malformed_or_refused() -> None:
    record = job()
    record.headers = [*record.headers, *user_headers.encode({"tenant": "a"})]
    accepted(RecordValidator(signer=SIGNER), signed(record))
    record.headers[-1] = ("tenant", b"b")
    why = refusal(RecordValidator(signer=SIGNER), record, SignatureRefused)
    assert "signature is invalid" in why
    assert accepted(RecordValidator(), record).headers == {"tenant": "b"}
    del record.headers[-1]
    assert "'tenant', which is missing" in refusal(RecordValidator(), record, DecodeError)


def test_a_job_of_kq_has_no_headers(kq_payload: bytes) -> None:
    run = accepted(RecordValidator(), Polled(7, None, kq_payload, [("trace", b"1")]))
    assert run.headers is None


def test_a_json_job_has_the_headers_that_it_was_sent_with() -> None:
    record = json_record()
    record.headers = [*record.headers, *user_headers.encode({"tenant": "a"})]
    assert accepted(RecordValidator(allow=ALLOW), record).headers == {"tenant": "a"}


# JSON jobs.

JSON = b'{"func": "shop.jobs.resize", "args": ["a.png"]}'
ALLOW = ["shop.jobs.*"]


def json_record(header: bytes = b"json", value: bytes = JSON, timestamp: int = 23) -> Polled:
    record = Polled(7, b"key", value, [("embedkq", header)])
    record.timestamp = timestamp
    return record


def test_a_json_job_whose_function_is_allowed_runs_with_what_its_header_says() -> None:
    header = f"json;id={ID};timestamp=17;timeout=2.5;retries=3;backoff=4.0".encode()
    run = RecordValidator(allow=ALLOW).validate(P3, 5, json_record(header))
    assert (run.partition, run.epoch) == (P3, 5)
    assert isinstance(run, JSONJobRun) and run.form == FROM_JSON and run.refusal is None
    assert (run.job_id, run.timestamp, run.limit) == (ID, 17, 2.5)
    assert (run.retries, run.backoff, run.payload) == (3, 4.0, JSON)


def test_what_a_json_jobs_header_lacks_comes_from_its_record() -> None:
    validator = RecordValidator(allow=ALLOW)
    run = validator.validate(P0, 1, json_record())
    assert (run.timestamp, run.timeout, run.retries) == (23, None, None)
    assert validator.validate(P0, 2, json_record()).job_id == run.job_id != ""
    others = {
        validator.validate(P1, 1, json_record()).job_id,
        validator.validate(P0, 1, json_record(timestamp=24)).job_id,
        RecordValidator(allow=ALLOW).validate(numbered(0, "other"), 1, json_record()).job_id,
    }
    assert len(others) == 3 and run.job_id not in others


def test_without_allow_no_json_job_runs() -> None:
    said = refusal(RecordValidator(), json_record(), FunctionRefused)
    assert 'set for example allow=["shop.jobs.resize"]' in said


def test_allow_decides_by_the_name_in_the_json() -> None:
    validator = RecordValidator(allow=["shop.mail.*"])
    said = refusal(validator, json_record(), FunctionRefused)
    assert said == "`allow` does not include shop.jobs.resize"


@pytest.mark.parametrize(
    ("header", "value", "said"),
    [
        (b"json", b"{", "the value of a JSON job is not JSON"),
        (b"json", b"", "the value of a JSON job is not JSON: Expecting value: line 1 column 1"),
        (b"json", None, "the value of a JSON job is not JSON: Expecting value: line 1 column 1"),
        (b"json", CALL, "the value of a JSON job is not JSON"),
        (b"json", b'{"func": "resize"}', "is not a dotted name"),
        (b"json;id=17", JSON, "has an invalid id"),
        (b"json;user=a", JSON, "unknown to this version"),
        (b"json;timeout=1;id=" + ID.encode(), JSON, "fields in the order"),
    ],
)
def test_a_malformed_json_job_is_refused_in_words(header: bytes, value: bytes, said: str) -> None:
    validator = RecordValidator(allow=ALLOW)
    assert said in refusal(validator, json_record(header, value), DecodeError)


def test_with_a_secret_a_json_job_needs_a_signature() -> None:
    validator = RecordValidator(signer=SIGNER, allow=ALLOW)
    refusal(validator, json_record(), SignatureRefused)
    assert validator.validate(P0, 1, signed(json_record())).refusal is None
    changed = signed(json_record())
    changed.value = JSON.replace(b"a.png", b"b.png")
    refusal(validator, changed, SignatureRefused)
    pickled = signed(json_record())
    pickled.headers = [("embedkq", pickled.headers[0][1].replace(b"json", b"1", 1))]
    refusal(validator, pickled, SignatureRefused)


def test_the_age_of_a_json_job_is_that_of_its_record_unless_that_could_be_forged() -> None:
    old, new = json_record(timestamp=ago(11)), json_record(timestamp=ago(9))
    validator = RecordValidator(max_age=10, allow=ALLOW)
    refusal(validator, old, SignatureRefused)
    assert validator.validate(P0, 1, new).refusal is None
    strict = RecordValidator(signer=SIGNER, max_age=10, allow=ALLOW)
    assert refusal(strict, signed(new), SignatureRefused) == (
        "its header has no timestamp, and the record's own is not signed: max_age needs one in the"
        " header"
    )
    told = json_record(b"json;timestamp=%d" % ago(9))
    assert strict.validate(P0, 1, signed(told)).refusal is None


# Plain records, for a handler.

HANDLING = Handling(str, "bytes")


def test_any_record_is_accepted_for_a_handler() -> None:
    validator = PlainRecordValidator(HANDLING, False, timeout=2.5)
    for value in (b"", None, JSON, CALL):
        run = validator.validate(P3, 5, Polled(7, b"k", value, [("embedkq", b"nonsense")]))
        assert isinstance(run, PlainRun) and run.handling is HANDLING
        assert (run.partition, run.epoch, run.offset) == (P3, 5, 7)
        assert (run.refusal, run.form, run.limit, run.key) == (None, PLAIN, 2.5, b"k")
        assert run.headers == {"embedkq": "nonsense"}


def test_the_id_of_a_plain_record_is_the_uuid_of_its_place() -> None:
    validator = PlainRecordValidator(HANDLING, False)
    for offset in range(50):
        record = Polled(offset, None, b"", [])
        record.timestamp = 17 + offset
        namespace = uuid.uuid5(uuid.NAMESPACE_URL, "kafka")
        topic, number = P3
        expected = uuid.uuid5(namespace, f"{topic}/{number}/{offset}/{17 + offset}")
        assert validator.validate(P3, 1, record).job_id == str(expected)


def test_only_a_decoder_of_the_users_own_has_the_child_tell_arguments() -> None:
    own = Handling(str, str)
    for handling, tells, form in (
        (own, True, PLAIN | TELL_ARGS),
        (own, False, PLAIN),
        (HANDLING, True, PLAIN),
    ):
        run = PlainRecordValidator(handling, tells).validate(P0, 1, Polled(7, None, b"", []))
        assert run.form == form


def test_a_plain_record_is_refused_if_it_is_damaged_or_old_or_for_another_group() -> None:
    validator = PlainRecordValidator(HANDLING, False, max_age=10, group="ours")
    old, damaged = Polled(7, None, b"", []), Polled(8, None, b"", [])
    old.timestamp, damaged.timestamp, damaged.flaw = ago(11), ago(1), "crc"
    refusal(validator, old, SignatureRefused)
    assert refusal(validator, damaged, DecodeError) == "crc"
    others = Polled(9, None, b"", for_group([], "theirs"))
    others.timestamp = ago(1)
    refusal(validator, others, OtherGroup)
    others.headers = for_group([("a", b"1")], "ours")
    run = validator.validate(P0, 1, others)
    assert (run.refusal, run.headers) == (None, {"a": "1"})
    others.headers = [("embedkq.group", b"")]
    assert PlainRecordValidator(HANDLING, False).validate(P0, 1, others).refusal is None
