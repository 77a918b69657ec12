"""Signed jobs: nothing that a holder of the secret has not sent is unpickled, here or in a
child."""

from __future__ import annotations

import hmac
import logging
import os
import pickle
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer
from support import Sender, with_field

from embedkq import Queue, Worker, codec
from embedkq._formats import allowlist, headers
from embedkq._formats.signing import Signer
from embedkq.errors import FunctionRefused, SignatureRefused

SECRET, OTHER = "a secret of the tests, long enough", "another secret of the tests"
SIGNER = Signer(SECRET)
HEADERS = headers.headers_of(str(uuid.UUID(int=7)), 1, 3.0)


# The signature.


def signed(
    topic: str = "t", key: bytes | None = None, record_headers: Any = HEADERS, payload: bytes = b"p"
) -> list[tuple[str, bytes]]:
    return SIGNER.sign(topic, key, record_headers, payload)


@given(
    topic=st.text(max_size=20),
    key=st.none() | st.binary(max_size=20),
    payload=st.binary(max_size=200),
)
def test_what_was_signed_is_accepted(topic: str, key: bytes | None, payload: bytes) -> None:
    SIGNER.check(topic, key, signed(topic, key, HEADERS, payload), payload)


@given(
    secret=st.binary(min_size=16, max_size=200),
    topic=st.text(max_size=20),
    key=st.none() | st.binary(max_size=9),
    payload=st.binary(max_size=200),
)
def test_it_is_the_hmac_of_lengths_and_parts(
    secret: bytes, topic: str, key: bytes | None, payload: bytes
) -> None:
    ((_, value),) = Signer(secret).sign(topic, key, HEADERS, payload)
    parts = [topic.encode(), key, HEADERS[0][1], payload]
    lengths = b"".join(
        (-1 if part is None else len(part)).to_bytes(8, "big", signed=True) for part in parts
    )
    expected = hmac.digest(
        secret, lengths + b"".join(part or b"" for part in parts), "sha256"
    ).hex()
    assert value.startswith(HEADERS[0][1] + b";signature=") and value.endswith(
        b":" + expected.encode()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"topic": "u"},
        {"key": b""},
        {"key": b"k"},
        {"payload": b"q"},
        {"payload": b""},
        {"payload": None},
        {"headers": []},
        {"headers": HEADERS},
        {"headers": [*signed(), *signed()]},
        {"headers": [*signed(), *HEADERS]},
        {"headers": with_field(signed(), "id", None)},
        {"headers": with_field(signed(), "timeout", b"9.0")},
        {"headers": with_field(signed(), "timeout", None)},
        {"headers": with_field(signed(), "rounds", b"1")},
        {"headers": [*signed(), ("embedkq-more", b"")]},
        {"headers": with_field(signed(), "signature", b"")},
        {"headers": [("embedkq", None)]},
        {"headers": Signer(OTHER).sign("t", None, HEADERS, b"p")},
        {"headers": [("embedkq", signed()[0][1][:-1] + b"x")]},
        {"headers": [("embedkq", signed()[0][1] + b";rounds=1")]},
        {
            "headers": [
                ("embedkq", signed()[0][1] + b";signature=" + signed()[0][1].rpartition(b"=")[2])
            ]
        },
    ],
)
def test_whatever_is_changed_is_refused(change: dict[str, Any]) -> None:
    record = {"topic": "t", "key": None, "headers": signed(), "payload": b"p", **change}
    with pytest.raises(SignatureRefused):
        SIGNER.check(**record)


def test_headers_of_others_may_come_and_go_and_order_does_not_matter() -> None:
    SIGNER.check("t", None, [("traceparent", b"1"), *reversed(signed())], b"p")


def test_a_boundary_cannot_be_moved() -> None:
    value = SIGNER.sign("t", b"k", [("embedkq", b"1;id=x")], b"p")[0][1]
    for topic, key, moved, payload in (
        ("tk", b"", value, b"p"),
        ("t", b"k1", value[1:], b"p"),
        ("t", b"kp", value, b""),
        ("t", b"k", value.replace(b"x;", b";"), b"xp"),
    ):
        with pytest.raises(SignatureRefused, match="signature is invalid"):
            SIGNER.check(topic, key, [("embedkq", moved)], payload)


def test_secrets_rotate_without_a_gap() -> None:
    both = Signer([OTHER, SECRET])
    both.check("t", None, signed(), b"p")
    both.check("t", None, both.sign("t", None, HEADERS, b"p"), b"p")
    with pytest.raises(SignatureRefused, match="does not have"):
        SIGNER.check("t", None, both.sign("t", None, HEADERS, b"p"), b"p")


def test_secrets_come_from_files_and_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    Signer(path).check("t", None, signed(), b"p")
    with pytest.raises(ValueError, match="No such file"):
        Signer(tmp_path / "nowhere")
    for wrong in ("short", b"", []):
        with pytest.raises(ValueError, match=r"at least"):
            Signer(wrong)
    with pytest.raises(TypeError, match="not a int"):
        Signer([3])  # type: ignore[list-item]


def test_secrets_are_in_no_repr_error_or_pickle() -> None:
    queue, worker = Queue(secret=SECRET), Worker(secret=[SECRET, OTHER])
    for thing in (queue, worker, SIGNER, worker._settings):
        assert SECRET not in repr(thing)
    assert SECRET.encode() not in pickle.dumps(queue)
    with pytest.raises(TypeError, match="secrets cannot be pickled"):
        pickle.dumps(SIGNER)
    with pytest.raises(ValueError) as caught:
        Signer("tooshort-secret")
    assert "tooshort-secret" not in str(caught.value)


# What may run.


def test_the_function_is_told_from_the_payload_without_importing() -> None:
    payload = codec.encode_call(workerjobs.echo, (1,), {"x": [2]})
    assert allowlist.function_name(payload) == "workerjobs.echo"
    assert allowlist.function_name(pickle.dumps((workerjobs.echo, (), {}), 4)) == "workerjobs.echo"
    assert allowlist.function_name(codec.encode_call(lambda: 1, (), {})) is None
    assert (
        allowlist.function_name(payload.replace(b"workerjobs", b"nowherejob")) == "nowherejob.echo"
    )


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise_or_import(data: bytes) -> None:
    allowlist.function_name(data)


def test_patterns() -> None:
    payload = codec.encode_call(workerjobs.echo, (), {})
    allowlist.check_function(payload, ["other.*", "workerjobs.e*"])
    for patterns, data in (
        (["other.*"], payload),
        (["*"], codec.encode_call(lambda: 1, (), {})),
        (["*"], b""),
        (["workerjobs"], payload),
    ):
        with pytest.raises(FunctionRefused):
            allowlist.check_function(data, patterns)
    for wrong in ("workerjobs.*", [3], []):
        with pytest.raises((TypeError, ValueError), match="allow"):
            Worker(allow=wrong)  # type: ignore[arg-type]


# On Kafka. Every way in is tried in test_redteam.py.


def test_the_secret_is_not_on_the_topic_and_rotated_workers_take_both(
    run_until_done: Any, hosts: str, topic: str
) -> None:
    sent = []
    for secret in (SECRET, OTHER):
        with Queue(hosts=hosts, topic=topic, secret=secret, timeout=9) as queue:
            sent.append(queue.using(key="k").enqueue(workerjobs.echo, 1).id)
    consumer = KafkaConsumer(
        topic, bootstrap_servers=hosts, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    )
    for record in (next(consumer), next(consumer)):
        everything = b"".join([record.value, record.key, *(value for _, value in record.headers)])
        assert SECRET.encode() not in everything and OTHER.encode() not in everything
    consumer.close()
    assert run_until_done(secret=[OTHER, SECRET]).ids == dict.fromkeys(sent, 1)


def test_old_jobs_and_other_functions_are_refused(
    run_until_done: Any, hosts: str, topic: str, caplog: Any
) -> None:
    with Queue(hosts=hosts, topic=topic, secret=SECRET) as queue:
        queue.using(partition=0).enqueue(os.getpid)
        good = queue.using(partition=0).enqueue(workerjobs.echo).id
    with Sender(hosts, topic) as sender:
        old = headers.headers_of(str(uuid.uuid4()), int((time.time() - 7200) * 1000), None)
        payload = codec.encode_call(workerjobs.echo, (), {})
        sender.send_record(payload, SIGNER.sign(topic, None, old, payload), partition=0)
        sender.flush()
    recorder = run_until_done(secret=SECRET, max_age=3600, allow=["workerjobs.*"])
    assert recorder.ids == {good: 1}
    refusals = [
        record.getMessage()
        for record in caplog.records
        if "refused. Skipping ..." in record.getMessage()
    ]
    assert (
        len(refusals) == 2
        and "`allow` does not include posix.getpid" in refusals[0]
        and "was enqueued 720" in refusals[1]
    )


def test_the_command_line_reads_the_secret_from_file_or_environment(
    hosts: str, topic: str, tmp_path: Path
) -> None:
    import subprocess
    import sys

    from support import ROOT

    (tmp_path / "secret").write_text(SECRET)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    for options, extra in (
        (["--secret-file", str(tmp_path / "secret")], {}),
        ([], {"EMBEDKQ_SECRET": SECRET}),
    ):
        with (
            Queue(hosts=hosts, topic=topic, secret=SECRET) as queue,
            Queue(hosts=hosts, topic=topic) as unsigned,
        ):
            unsigned.enqueue(workerjobs.echo, "unsigned")
            queue.enqueue(workerjobs.read_environment, "EMBEDKQ_SECRET")
        command = [
            sys.executable,
            "-m",
            "embedkq",
            "worker",
            f"--hosts={hosts}",
            f"--topic={topic}",
            "--burst",
            "--verbose",
            *options,
        ]
        done = subprocess.run(
            command,
            env={**environment, **extra},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert (
            "refused. Skipping" in done.stderr
            and "returned: None" in done.stderr
            and SECRET not in done.stdout + done.stderr
        )


def test_a_signed_job_is_taken_without_a_secret_too(
    run_until_done: Any, hosts: str, topic: str
) -> None:
    with Queue(hosts=hosts, topic=topic, secret=SECRET) as queue:
        sent = queue.enqueue(workerjobs.echo).id
    assert run_until_done().ids == {sent: 1}
    assert logging.getLogger("embedkq").level == logging.NOTSET
