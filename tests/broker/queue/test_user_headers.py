"""The headers that users give their jobs: on the wire, under a signature, and all the way to the
callback, through retries, dead letters and `kq dlq retry`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commandline
import pytest
import workerjobs
from kafka import KafkaConsumer
from support import Recorder, Sender, fire_until

from embedkq import Job, Queue, Worker, codec, current_job
from embedkq._formats import headers, user_headers
from embedkq._formats.signing import Signer

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OWN = headers.headers_of(ID, 17, None)
SECRET = "a secret of the tests, long enough"
SIGNER = Signer(SECRET)
TENANT = {"tenant": "a", "trace": "ünï ☃;=\n"}


# All the way.


def headers_seen() -> dict[str, str]:
    return dict(current_job().headers)


def fail_until_third(path: str) -> dict[str, str]:
    workerjobs.fail_times(path, "again", 2)
    return headers_seen()


@pytest.mark.parametrize("secret", [None, SECRET], ids=["unsigned", "signed"])
def test_a_job_sees_them_in_each_attempt_and_so_does_the_callback(
    hosts: str, topic: str, run_until_done: Any, secret: str | None, tmp_path: Path
) -> None:
    with Queue(hosts=hosts, topic=topic, secret=secret) as queue:
        tenant = queue.using(headers=TENANT, retries=2, backoff=0.01)
        with_them = [tenant.enqueue(headers_seen), *tenant.enqueue_many([headers_seen] * 3)]
        with_them.append(tenant.enqueue(fail_until_third, str(tmp_path / "notes")))
        without = [queue.enqueue(headers_seen)]
    recorder = run_until_done(secret=secret)
    found = {call.job.id: (call.result, call.job.headers) for call in recorder.calls}
    assert found == {
        **{job.id: (TENANT, TENANT) for job in with_them},
        **{job.id: ({}, {}) for job in without},
    }
    assert all(job.headers == TENANT for job in with_them)


def test_a_record_whose_headers_were_changed_is_refused_and_others_run(
    hosts: str, topic: str, run_until_done: Any, caplog: pytest.LogCaptureFixture
) -> None:
    payload = codec.encode_call(headers_seen, (), {})
    own = SIGNER.sign(topic, None, [*OWN, *user_headers.encode({"tenant": "a"})], payload)
    with Sender(hosts, topic) as sender:
        sender.send_record(payload, [*own[:-1], ("tenant", b"b")], partition=0)
        sender.send_record(payload, own[:1], partition=0)
        sender.send_record(payload, [*own, ("tenant", b"a")], partition=0)
        sender.send_record(payload, [*own, ("traceparent", b"1")], partition=0)
        sender.flush()
    recorder = run_until_done(secret=SECRET)
    assert recorder.results == [{"tenant": "a"}]
    refused = [each.getMessage() for each in caplog.records if "refused." in each.getMessage()]
    assert len(refused) == 3


def test_a_record_that_lacks_a_header_is_malformed_without_a_secret_too(
    hosts: str, topic: str, run_until_done: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with Sender(hosts, topic) as sender:
        payload = codec.encode_call(headers_seen, (), {})
        sender.send_record(payload, [*OWN, *user_headers.encode({"tenant": "a"})][:-1], partition=0)
        sender.flush()
    assert not len(run_until_done())
    assert (
        "malformed. Skipping ... (header 'embedkq.headers' names 'tenant', which is missing)"
        in (caplog.text)
    )


@pytest.mark.parametrize("secret", [None, SECRET], ids=["unsigned", "signed"])
def test_they_survive_a_dead_letter_and_its_retry(
    hosts: str,
    topic: str,
    make_topic: Callable[[int], str],
    group: str,
    secret: str | None,
    tmp_path: Path,
) -> None:
    dead = make_topic(1)
    (tmp_path / "secret").write_text(SECRET)
    by_secret = [f"--secret-file={tmp_path / 'secret'}"] if secret else []
    where = [f"--hosts={hosts}", f"--dead-letter-topic={dead}"]
    gate = tmp_path / "gate"
    with Queue(hosts=hosts, topic=topic, secret=secret) as queue:
        job = queue.using(headers=TENANT).enqueue(fail_unless, str(gate))
    recorder = Recorder()
    options: dict[str, Any] = {"secret": secret, "dead_letter_topic": dead, "callback": recorder}
    with Worker(hosts=hosts, topic=topic, group=group, **options) as worker:
        assert worker.drain(60) and [call.status for call in recorder.calls] == ["failure"]
        shown = commandline.run("dlq", "show", job.id, *where)
        assert "tenant: a" in shown.out and "embedkq.headers: tenant;trace" in shown.out, shown.err
        found = json.loads(commandline.run("dlq", "show", job.id, *where, "--json").out)
        assert ["tenant", "a"] in found["headers"]
        gate.touch()
        retried = commandline.run("dlq", "retry", job.id, *where, *by_secret)
        assert retried.status == 0, retried.err
        fire_until(worker, lambda: len(recorder) == 2, "it has run again")
    assert recorder.calls[1].result == TENANT and recorder.calls[1].job.headers == TENANT


def fail_unless(gate: str) -> dict[str, str]:
    if not Path(gate).exists():
        raise LookupError(gate)
    return headers_seen()


def test_on_the_topic_they_are_headers_of_the_record(hosts: str, topic: str) -> None:
    with Queue(hosts=hosts, topic=topic) as queue:
        job: Job = queue.using(headers={"tenant": "ä"}, partition=2).enqueue(workerjobs.echo)
    consumer = KafkaConsumer(
        topic, bootstrap_servers=hosts, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    )
    record = next(consumer)
    consumer.close()
    assert record.headers[1:] == [("embedkq.headers", b"tenant"), ("tenant", "ä".encode())]
    assert (record.partition, record.offset) == (job.partition, job.offset) == (2, 0)
