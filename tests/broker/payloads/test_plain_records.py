"""A worker with a handler: records that other programs write are handled in child processes, under
limits, in the order of their keys, with retries, dead letters and a callback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commandline
import handlers
import pytest
import workerjobs
from kafka import KafkaConsumer
from letters import letters_in
from support import Call, Recorder, Sender, committed, fire_until, lines, wait_until

from embedkq import Job, Queue, Record, Worker
from embedkq.errors import DecodeError, JobCrashed, JobExited

Handle = Callable[..., list[Call]]


@pytest.fixture
def handle(hosts: str, topic: str, group: str) -> Handle:
    """Has a worker handle what the topic holds; the calls of its callback, by offset."""

    def run(handler: Any, decode: Any = None, **options: Any) -> list[Call]:
        recorder = Recorder()
        where = {"hosts": hosts, "topic": topic, "group": group, "callback": recorder}
        with Worker(**where, handler=handler, decode=decode, **options) as worker:
            assert worker.drain(60)
        return sorted(recorder.calls, key=lambda call: (call.job.partition, call.job.offset))

    return run


@pytest.fixture
def send(hosts: str, topic: str) -> Callable[..., None]:
    """Writes records as another program does, all to partition 0 unless they have a key. What has
    no value needs one."""

    def run(*values: Any, key: bytes | None = None, headers: Any = ()) -> None:
        with Sender(hosts, topic) as sender:
            for value in values:
                encoded = value if value is None or isinstance(value, bytes) else json.dumps(value)
                encoded = encoded.encode() if isinstance(encoded, str) else encoded
                if key:
                    sender.send_record(encoded, headers, key=key)
                else:
                    deleted = b"deleted" if value is None else None
                    sender.send_record(encoded, headers, key=deleted, partition=0)
            sender.flush()

    return run


# What a handler receives, and its callback.

HEADERS = [("trace", b"\xff1"), ("tenant", "ä".encode()), ("tenant", b"b")]


def test_a_handler_receives_the_record(send: Any, handle: Handle, topic: str) -> None:
    send(b"one", headers=HEADERS)
    send(None)
    first, second = handle(handlers.give)
    record = Record(b"one", None, tuple(HEADERS), topic, 0, 0, first.job.timestamp)
    assert first.result == record and first.job.args == (record,)
    assert isinstance(first.result, Record) and first.job.timestamp > 1_600_000_000_000
    assert second.result == Record(None, b"deleted", (), topic, 0, 1, second.job.timestamp)
    assert dict(first.job.headers) == {"trace": "�1", "tenant": "b"}


@pytest.mark.parametrize(
    ("decode", "made"),
    [
        ("bytes", b'{"n": [1, null]}'),
        ("json", {"n": [1, None]}),
        (json.loads, {"n": [1, None]}),
        (handlers.words, ['{"n":', "[1,", "null]}"]),
        (lambda value: value[:4], b'{"n"'),
        (handlers.message, handlers.Message('{"n": [1, null]}')),
    ],
    ids=["bytes", "json", "loads", "function", "lambda", "class"],
)
def test_a_handler_receives_what_was_decoded(
    send: Any, handle: Handle, decode: Any, made: Any
) -> None:
    send({"n": [1, None]}, None)
    first, second = handle(handlers.give, decode)
    assert (first.status, first.result, first.job.args) == ("success", made, (made,))
    assert (second.status, second.result, second.job.args) == ("success", None, (None,))
    assert first.job.func is handlers.give and first.job.kwargs == {}


def test_the_callbacks_job_knows_its_record(send: Any, handle: Handle, topic: str) -> None:
    send(1, key=b"k")
    (call,) = handle(handlers.give_with_current_job, "json", timeout=30)
    value, seen = call.result
    job = call.job
    assert value == 1 and seen[:6] == (job.id, 1, topic, job.partition, 0, b"k")
    assert seen[6].timestamp() > job.timestamp / 1000 and seen[7] == {}
    assert (job.topic, job.key, job.offset, job.attempts) == (topic, b"k", 0, 1)
    assert job.enqueued <= job.started <= job.ended and job.worker


def test_an_async_handler_and_one_of_the_main_script_run(send: Any, handle: Handle) -> None:
    send(1)
    assert [call.result for call in handle(handlers.give_later, "json")] == [1]


def test_a_local_handler_travels_by_value(send: Any, handle: Handle) -> None:
    factor = 3

    def triple(number: int) -> int:
        return number * factor

    send(7)
    (call,) = handle(triple, "json")
    assert call.result == 21 and call.job.func is triple


def test_arguments_that_cannot_be_pickled_are_not_known_to_the_callback(
    send: Any, handle: Handle
) -> None:
    send(1)
    (call,) = handle(handlers.kind_of, handlers.unpicklable)
    assert (call.status, call.result, call.job.args) == ("success", "generator", None)
    assert call.job.func is handlers.kind_of


def test_without_a_callback_records_are_handled_and_committed(
    send: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    notes = str(tmp_path / "notes")
    send(*({"how": f"{number}", "notes": notes} for number in range(20)))
    Worker(hosts, topic, group=group, handler=handlers.misbehave, decode="json").start(burst=True)
    assert sorted(lines(notes), key=int) == [str(number) for number in range(20)]
    assert committed(hosts, group, topic)[0][0] == 20


def test_jobs_of_embedkq_are_records_like_others(hosts: str, topic: str, handle: Handle) -> None:
    with Queue(hosts=hosts, topic=topic) as queue:
        job: Job = queue.using(partition=0).enqueue(workerjobs.fail_with, "never run")
    (call,) = handle(handlers.of_record)
    assert call.result == "Record" and call.job.id != job.id
    assert [name for name, _ in call.job.args[0].headers] == ["embedkq"]


# Order, limits, retries.


def test_records_of_a_key_run_in_order_and_others_beside_them(
    send: Any, handle: Handle, tmp_path: Path
) -> None:
    notes = str(tmp_path / "notes")
    for number in range(8):
        for key in (b"a", b"b", b"c"):
            order = {"notes": notes, "key": key.decode(), "number": number, "seconds": 0.05}
            send(order, key=key)
    calls = handle(handlers.note, "json", processes=3)
    assert len(calls) == 24
    seen = [line.split() for line in lines(notes)]
    for key in "abc":
        own = [(int(number), what) for name, number, what in seen if name == key]
        assert own == [(n, what) for n in range(8) for what in ("begins", "ends")]
    running, most = 0, 0
    for _, _, what in seen:
        running += 1 if what == "begins" else -1
        most = max(most, running)
    assert most > 1, "none ran beside another"


def test_handler_and_decoder_are_killed_at_the_limit(send: Any, handle: Handle) -> None:
    send({"how": "hang"})
    (call,) = handle(handlers.misbehave, "json", timeout=0.5)
    assert (call.status, call.job.args) == ("timeout", ({"how": "hang"},))


def test_a_decoder_is_killed_at_the_limit(send: Any, handle: Handle) -> None:
    send(b"hang", b"go on")
    first, second = handle(handlers.give, handlers.words, timeout=0.5)
    assert (first.status, first.job.args, first.job.func) == ("timeout", None, handlers.give)
    assert second.result == ["go", "on"]


def test_decoder_and_handler_share_one_limit(send: Any, handle: Handle) -> None:
    send(b"0.7")
    (call,) = handle(handlers.sleep, handlers.sleep, timeout=1)
    assert call.status == "timeout"


def test_the_initializer_of_a_child_runs_before_its_handler(send: Any, handle: Handle) -> None:
    send(1)
    options = {"initializer": handlers.set_up, "initargs": ("ready",)}
    (call,) = handle(handlers.what_is_set_up, "json", **options)
    assert call.result == ["ready"]


def test_a_handler_that_crashes_or_exits_has_failed(send: Any, handle: Handle) -> None:
    send({"how": "crash"}, {"how": "exit"}, {"how": "raise"})
    calls = handle(handlers.misbehave, "json")
    kinds = [type(call.exception) for call in calls]
    assert kinds == [JobCrashed, JobExited, LookupError]
    assert [call.job.args for call in calls] == [
        ({"how": how},) for how in ("crash", "exit", "raise")
    ]


def test_a_record_that_failed_is_handled_again(send: Any, handle: Handle, tmp_path: Path) -> None:
    send({"how": "twice", "notes": str(tmp_path / "notes")})
    (call,) = handle(handlers.misbehave, "json", retries=2, backoff=0.01)
    assert (call.status, call.job.attempts) == ("success", 2)


def test_what_a_decoder_raises_is_a_failure_and_tried_again_but_for_a_decode_error(
    send: Any, handle: Handle, hosts: str, make_topic: Any
) -> None:
    dead = make_topic(1)
    send(b"registry away", b"exit", b"damaged", b"damaged with a cause", b"fine", b"\xff")
    calls = handle(handlers.give, handlers.words, retries=1, backoff=0.01, dead_letter_topic=dead)
    assert [call.status for call in calls] == ["failure"] * 4 + ["success", "failure"]
    errors = [call.exception for call in calls]
    assert isinstance(errors[0], ConnectionError) and isinstance(errors[1], JobExited)
    assert str(errors[2]) == str(errors[3]) == "these are no words"
    assert isinstance(errors[2], DecodeError) and isinstance(errors[5], UnicodeDecodeError)
    assert "in words" in calls[0].traceback and "embedkq/_child" not in calls[0].traceback
    letters = {letter.offset: letter for letter, _ in letters_in(hosts, dead)}
    assert {offset: (each.reason, each.attempts) for offset, each in letters.items()} == {
        0: ("failure", 2),
        1: ("failure", 2),
        2: ("malformed", 1),
        3: ("malformed", 1),
        5: ("failure", 2),
    }


def test_a_value_that_is_not_json_is_a_dead_letter_at_once_and_holds_nothing_up(
    send: Any, handle: Handle, hosts: str, make_topic: Any
) -> None:
    """Ten jobs in a row that a host cannot load would be held."""
    dead = make_topic(1)
    bad = [b"{", b"", b"\xff", b"[" * 100_000, *[b"nonsense"] * 20]
    send(*bad, {"how": "fine"})
    calls = handle(handlers.misbehave, "json", retries=3, dead_letter_topic=dead)
    assert [call.status for call in calls] == ["failure"] * len(bad) + ["success"]
    for call in calls[:-1]:
        assert isinstance(call.exception, DecodeError) and "not JSON" in str(call.exception)
        assert (call.job.func, call.job.args) == (handlers.misbehave, None)
    found = letters_in(hosts, dead)
    assert [letter.reason for letter, _ in found] == ["malformed"] * len(bad)


def test_a_dead_record_is_put_back_as_it_was(
    send: Any, hosts: str, topic: str, group: str, make_topic: Any, tmp_path: Path
) -> None:
    dead, notes, recorder = make_topic(1), str(tmp_path / "notes"), Recorder()
    send({"how": "twice", "notes": notes}, key=b"k", headers=HEADERS)
    common = {"hosts": hosts, "topic": topic, "callback": recorder, "dead_letter_topic": dead}
    with Worker(**common, group=group, handler=handlers.misbehave, decode="json") as worker:
        assert worker.drain(60)
        again = commandline.run(
            "dlq", "retry", "--all", "--yes", f"--hosts={hosts}", f"--dead-letter-topic={dead}"
        )
        assert again.status == 0, again
        fire_until(worker, lambda: len(recorder) == 2, "it is handled again")
    first, second = recorder.calls
    assert (first.status, second.status, second.result) == ("failure", "success", "twice")
    assert second.job.key == b"k" and second.job.args == first.job.args
    assert second.job.headers == first.job.headers
    others = Recorder()
    common["callback"] = others
    with Worker(**common, group=group + "-other", handler=handlers.of_record) as worker:
        assert worker.drain(60)
    assert len(others) == 1, (
        "another group has handled the record already, and is not given it twice"
    )
    consumer = KafkaConsumer(
        bootstrap_servers=hosts, auto_offset_reset="earliest", consumer_timeout_ms=5_000
    )
    consumer.subscribe([topic])
    records = [record for record in consumer if record.offset == 1]
    consumer.close()
    assert records[0].headers == [*HEADERS, ("embedkq.group", group.encode())]


def test_old_records_are_refused_where_that_was_asked_for(
    send: Any, hosts: str, topic: str, handle: Handle
) -> None:
    with Sender(hosts, topic) as sender:
        sender.producer.send(topic, b"1", partition=0, timestamp_ms=1_600_000_000_000)
        sender.flush()
    send(2)
    assert [call.result for call in handle(handlers.give, "json", max_age=3600)] == [2]


def test_a_handler_that_children_cannot_import_is_told(
    send: Any, hosts: str, topic: str, group: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """As an initializer that raises: nothing runs, nothing is committed."""
    (tmp_path / "here_only.py").write_text(
        "import embedkq._child.process as process\n"
        "if process.in_child():\n    raise RuntimeError('not in a child')\n"
        "def handle(value): return value\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import here_only  # type: ignore[import-not-found]

    send(1)
    worker = Worker(hosts, topic, group=group, handler=here_only.handle)
    worker.start_background()
    wait_until(lambda: not worker.health().healthy, "the worker says that it cannot work")
    worker.stop(0)
    assert {offset for offset, _ in committed(hosts, group, topic).values()} <= {0}


# The command line.


def test_the_command_line_handles_records(
    send: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    (tmp_path / "orders.py").write_text(
        "def book(order):\n    return order['item']\n"
        "def read(value):\n    return {'item': value.decode()}\n"
    )
    (tmp_path / "told.py").write_text(
        "def callback(status, job, result, exception, traceback):\n"
        "    print(status, job.args, result, flush=True)\n"
    )
    send({"item": "tea"})
    where = (f"--hosts={hosts}", f"--topic={topic}", "--burst", "--callback=told.py")
    by_name = commandline.run(
        "worker",
        *where,
        f"--group={group}-1",
        "--handler=orders:book",
        "--decode=json",
        cwd=tmp_path,
    )
    assert by_name.out == "success ({'item': 'tea'},) tea\n", by_name
    by_function = commandline.run(
        "worker",
        *where,
        f"--group={group}-2",
        "--verbose",
        "--decode=orders:read",
        cwd=tmp_path,
        env={"EMBEDKQ_HANDLER": "orders:book"},
    )
    made = {"item": '{"item": "tea"}'}
    assert by_function.out == f"success ({made!r},) {made['item']}\n", by_function
    assert f"orders.book({made!r})" in by_function.err
