"""Dead letters: what they look like, and that every record that cannot be run becomes one before it
counts as done."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from letters import letters_in
from partitions import numbered
from support import (
    ROOT,
    Recorder,
    Sender,
    committed,
    embedkq_threads,
    end_offsets,
    fire_until,
    lag,
    lines,
    noted,
    send_many,
    wait_until,
    with_admin,
)

from embedkq import Queue, Worker, codec
from embedkq._clients.producer import Producer
from embedkq._formats import dead_letter, headers
from embedkq._formats.commit_metadata import NOTHING
from embedkq._formats.dead_letter import DeadLetter, Record
from embedkq._partition import Partition
from embedkq.errors import BrokerUnavailable, DecodeError
from embedkq.worker import progress_watch
from embedkq.worker.control_thread.control_loop import ControlLoop
from embedkq.worker.dead_letter_thread import dead_letter_writer
from embedkq.worker.pool import pool, prefetch

LETTER = DeadLetter(
    "orders",
    3,
    17,
    "failure",
    "ValueError: no",
    "Traceback ...\nValueError: no\n",
    4,
    "here",
    1_700_000_000_000,
    group="mail",
)
RECORD = Record(b"key", b"value", [("embedkq", b"1;id=1"), ("theirs", b"2"), ("theirs", None)])

texts = st.text(st.characters(codec="utf-8"), max_size=50)
numbers = st.integers(0, 10**18)
letters = st.builds(
    DeadLetter,
    texts,
    numbers,
    numbers,
    st.sampled_from(dead_letter.REASONS),
    texts,
    texts,
    numbers,
    texts,
    numbers,
    st.booleans(),
    texts,
)
names = (
    st.sampled_from([*dead_letter._NAMES, dead_letter._POINTER, dead_letter.GROUP, "embedkq"])
    | texts
)
records = st.builds(
    Record,
    st.none() | st.binary(),
    st.none() | st.binary(),
    st.lists(st.tuples(names, st.none() | st.binary()), max_size=25),
)


# The format.


@given(record=records, letter=letters)
def test_a_record_and_what_is_said_of_it_come_back_whatever_headers_it_had(
    record: Record, letter: DeadLetter
) -> None:
    buried = dead_letter.as_dead_letter(record, letter)
    assert (buried.key, buried.value) == (record.key, record.value)
    assert dead_letter.strip(buried.headers) == record.headers
    assert dead_letter.read(buried.headers) == letter


def test_it_is_this_on_the_wire() -> None:
    assert dead_letter.as_dead_letter(RECORD, LETTER).headers == [
        *RECORD.headers,
        ("dead-letter-group", b"mail"),
        ("embedkq-dead-topic", b"orders"),
        ("embedkq-dead-partition", b"3"),
        ("embedkq-dead-offset", b"17"),
        ("embedkq-dead-reason", b"failure"),
        ("embedkq-dead-exception", b"ValueError: no"),
        ("embedkq-dead-traceback", b"Traceback ...\nValueError: no\n"),
        ("embedkq-dead-attempts", b"4"),
        ("embedkq-dead-host", b"here"),
        ("embedkq-dead-time", b"1700000000000"),
    ]
    assert dead_letter.as_dead_letter(RECORD, LETTER._replace(pointer=True)).headers[-1] == (
        "embedkq-dead-pointer",
        b"1",
    )


def test_a_dead_letter_that_was_put_back_as_it_is_dies_again_with_all_that_it_brought() -> None:
    once = dead_letter.as_dead_letter(RECORD, LETTER._replace(pointer=True))
    again = dead_letter.as_dead_letter(once, LETTER._replace(offset=18, reason="malformed"))
    assert dead_letter.read(again.headers).offset == 18
    assert dead_letter.strip(again.headers) == once.headers
    assert dead_letter.read(once.headers) == LETTER._replace(pointer=True)


def test_a_dead_letter_is_no_job() -> None:
    sound = headers.headers_of("0f8fad5b-d9cb-469f-a165-70867728950e", 17, None)
    with pytest.raises(DecodeError, match="embedkq-dead-topic"):
        headers.read_headers(dead_letter.as_dead_letter(Record(None, b"", sound), LETTER).headers)


@given(told=st.lists(st.tuples(names, st.none() | st.binary()), max_size=12))
def test_what_is_no_dead_letter_is_refused(told: list[tuple[str, bytes | None]]) -> None:
    with pytest.raises(DecodeError):
        dead_letter.read(told)


@pytest.mark.parametrize(
    ("index", "value"),
    [(1, b""), (2, b"-1"), (6, b"1e3"), (8, "\u0664".encode()), (3, b"bored"), (2, b"9" * 20)],
)
def test_what_a_header_cannot_say_is_refused_by_name(index: int, value: bytes) -> None:
    told = dead_letter.as_dead_letter(Record(None, b"", ()), LETTER).headers
    told[index + 1] = (told[index + 1][0], value)
    with pytest.raises(DecodeError, match=told[index + 1][0]):
        dead_letter.read(told)


def test_a_letter_of_a_version_without_groups_is_read_and_tells_none() -> None:
    of_before = [
        header
        for header in dead_letter.as_dead_letter(RECORD, LETTER).headers
        if header[0] != "dead-letter-group"
    ]
    assert dead_letter.read(of_before) == LETTER._replace(group="")
    assert dead_letter.strip(of_before) == RECORD.headers


def test_texts_that_are_no_text_are_told_all_the_same() -> None:
    buried = dead_letter.as_dead_letter(RECORD, LETTER._replace(exception="\udcff", host="\ud800"))
    told = dead_letter.read(buried.headers)
    assert (told.exception, told.host) == ("\\udcff", "\\ud800")


@given(record=records, letter=letters, length=st.sampled_from([0, 1_000, 70_000, 200_000]))
def test_each_form_is_smaller_and_keeps_what_it_can(
    record: Record, letter: DeadLetter, length: int
) -> None:
    letter = letter._replace(pointer=False, traceback="x" * length + "the end")
    forms = list(dead_letter.shrinking_forms(record, letter))
    told = [dead_letter.read(form.headers) for form in forms]
    assert {
        (each.topic, each.partition, each.offset, each.reason, each.attempts) for each in told
    } == {(letter.topic, letter.partition, letter.offset, letter.reason, letter.attempts)}
    assert [each.pointer for each in told] == [False, False, True, True]
    assert [form.value for form in forms] == [record.value, record.value, b"", b""]
    assert all(dead_letter.strip(form.headers) == record.headers for form in forms[:3])
    assert all(each.traceback.endswith("the end") for each in told)
    assert (forms[3].key, dead_letter.strip(forms[3].headers)) == (None, [])
    assert forms[1].size <= forms[0].size and forms[3].size < 15_000


# Written by a worker.


@pytest.fixture
def make_dead_topic(hosts: str) -> Callable[..., str]:
    """Creates a topic for dead letters, with settings."""

    def make(**config: str) -> str:
        name = f"dead-{uuid.uuid4().hex[:12]}"
        settings = {name.replace("_", "."): value for name, value in config.items()}
        with_admin(
            hosts, lambda admin: admin.create_topics([NewTopic(name, 2, 1, topic_configs=settings)])
        )
        return name

    return make


@pytest.fixture
def dead_topic(make_dead_topic: Callable[..., str]) -> str:
    return make_dead_topic()


@pytest.fixture
def make_worker(hosts: str, topic: str, group: str, dead_topic: str) -> Callable[..., Worker]:
    def make(callback: Any = None, **options: Any) -> Worker:
        options = {"dead_letter_topic": dead_topic, **options}
        return Worker(hosts=hosts, topic=topic, group=group, callback=callback, **options)

    return make


def test_whatever_cannot_be_run_and_whatever_failed_is_in_the_topic_unchanged(
    make_worker: Any,
    hosts: str,
    topic: str,
    group: str,
    dead_topic: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        pool, "_LONGEST_STACK_SECONDS", 30.0
    )  # however busy this machine is, the stack is waited for
    notes = str(tmp_path / "notes")
    job = headers.headers_of("0f8fad5b-d9cb-469f-a165-70867728950e", 17, None)
    unreadable = codec.encode_object(workerjobs.Unreadable())
    with Sender(hosts, topic) as sender:
        sender.send_record(b"no job", [("theirs", b"1"), ("theirs", b"2")], key=b"a", partition=0)
        sender.send_record(None, [], key=b"a", partition=0)
        sender.send_record(unreadable, [*job, ("theirs", b"3")], key=b"a", partition=0)
        good = sender.send(workerjobs.echo, 1, partition=0)
        failed = sender.send(workerjobs.note_and_fail, notes, "luck", key=b"a", partition=0)
        late = sender.send(workerjobs.spin, notes, timeout=0.2, partition=0)
        crashed = sender.send(workerjobs.exit_process, key=b"b", partition=0)
        sender.flush()
    recorder = Recorder()
    make_worker(recorder).start(burst=True)
    assert recorder.ids == {
        "0f8fad5b-d9cb-469f-a165-70867728950e": 1,
        good: 1,
        failed: 1,
        late: 1,
        crashed: 1,
    }
    found = {letter.offset: (letter, record) for letter, record in letters_in(hosts, dead_topic)}
    told = {
        offset: (letter.reason, letter.exception, letter.attempts)
        for offset, (letter, _) in found.items()
    }
    assert (
        told[0] == ("malformed", "DecodeError: header 'embedkq' is missing", 0)
        and told[1][0] == "malformed"
    )
    why = "ValueError: invalid literal for int() with base 10: 'no number'"
    assert told[2] == (
        "undecodable",
        f"embedkq.errors.DecodeError: the payload cannot be unpickled: {why}",
        1,
    )
    assert told[4] == ("failure", "LookupError: no luck", 1)
    assert told[5] == ("timeout", "", 1)
    assert (
        told[6][:1] + told[6][2:] == ("failure", 1)
        and "JobCrashed: the job's process exited with status 3" in told[6][1]
    )
    assert sorted(told) == [0, 1, 2, 4, 5, 6]
    assert "note_and_fail" in found[4][0].traceback and "spin" in found[5][0].traceback
    for letter, record in found.values():
        assert (letter.topic, letter.partition, letter.host) == (topic, 0, socket.gethostname())
        assert abs(letter.time - time.time() * 1000) < 60_000 and not letter.pointer
        assert (record.key, record.value, dead_letter.strip(record.headers)) == of_record(
            hosts, topic, letter.offset
        )
    assert noted(hosts, group, topic)[0] == (7, (), NOTHING)


def of_record(hosts: str, topic: str, offset: int) -> tuple[Any, Any, list[tuple[str, bytes]]]:
    """Key, value and headers of a record of partition 0."""
    consumer = KafkaConsumer(bootstrap_servers=hosts)
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek(TopicPartition(topic, 0), offset)
    record = wait_until(lambda: next(iter(consumer.poll(500).values()), None), "a record")[0]
    consumer.close()
    return record.key, record.value, list(record.headers)


def test_a_record_that_is_refused_is_kept_and_its_partition_goes_on(
    make_worker: Any, hosts: str, topic: str, dead_topic: str, tmp_path: Path
) -> None:
    secret = "not known to the sender"
    with (
        Queue(hosts=hosts, topic=topic, secret=secret) as signing,
        Queue(hosts=hosts, topic=topic) as other,
    ):
        forged = other.using(partition=0).enqueue(
            workerjobs.note, str(tmp_path / "notes"), "forged"
        )
        signing.using(partition=0).enqueue(workerjobs.note, str(tmp_path / "notes"), "signed")
    make_worker(secret=secret).start(burst=True)
    assert lines(tmp_path / "notes") == ["signed"]
    [(letter, record)] = letters_in(hosts, dead_topic)
    assert (letter.reason, letter.exception) == ("refused", "SignatureRefused: it is not signed")
    assert headers.read_headers(dead_letter.strip(record.headers)).id == forged.id


def test_a_dead_letter_topic_that_is_the_topic_is_refused() -> None:
    with pytest.raises(ValueError, match="dead_letter_topic='jobs' is the worker's own topic"):
        Worker(topic="jobs", dead_letter_topic="jobs")
    with pytest.raises(ValueError, match="dead_letter_topic='a b'"):
        Worker(dead_letter_topic="a b")


def test_what_is_too_large_is_cut_and_at_last_points_to_its_origin(
    make_worker: Any, make_dead_topic: Any, hosts: str, topic: str, tmp_path: Path
) -> None:
    narrow = make_dead_topic(max_message_bytes="6000")
    with Sender(hosts, topic) as sender:
        sender.send(workerjobs.fail_with_causes, 200, key=b"a", partition=0)
        sender.send(
            workerjobs.note_and_fail, str(tmp_path / "notes"), "x" * 10_000, key=b"a", partition=0
        )
        sender.send_record(b"x", [("large", b"x" * 10_000)], key=b"a", partition=0)
        sender.flush()
    make_worker(dead_letter_topic=narrow).start(burst=True)
    found = {letter.offset: (letter, record) for letter, record in letters_in(hosts, narrow)}
    assert sorted(found) == [0, 1, 2]
    assert (
        not found[0][0].pointer
        and found[0][0].traceback.startswith("[...]")
        and "the last" in found[0][0].traceback
    )
    assert found[0][1].value == of_record(hosts, topic, 0)[1]
    assert found[1][0].pointer and found[1][1].value == b"" and found[1][1].key == b"a"
    assert dead_letter.strip(found[1][1].headers) == of_record(hosts, topic, 1)[2]
    assert found[2][0].pointer and not dead_letter.strip(found[2][1].headers)


class RecordValidator:
    """Stands in for a topic that takes nothing until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> None:
        """`seconds`: how long it takes to say no."""
        self.open = threading.Event()
        self.tries = 0
        really = Producer.send_all

        def send_all(producer: Producer, messages: Any) -> Any:
            if self.open.is_set() or not messages[0].topic.startswith("dead-"):
                return really(producer, messages)
            self.tries += 1
            self.open.wait(seconds)
            return dict.fromkeys(range(len(messages)), BrokerUnavailable("nowhere", "it is away"))

        monkeypatch.setattr(Producer, "send_all", send_all)
        monkeypatch.setattr(progress_watch, "NO_PROGRESS_SECONDS", 3.0)


def test_while_the_topic_is_away_nothing_is_done_and_only_its_partition_waits(
    make_worker: Any,
    hosts: str,
    topic: str,
    group: str,
    dead_topic: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: Any,
    tmp_path: Path,
) -> None:
    gate, notes = RecordValidator(monkeypatch), str(tmp_path / "notes")
    recorder = Recorder()
    with Queue(hosts=hosts, topic=topic) as queue, make_worker(recorder) as worker:
        queue.using(partition=0).enqueue(workerjobs.note_and_fail, notes, "first")
        fire_until(worker, lambda: gate.tries > 1, "the letter was tried twice")
        held = queue.using(partition=0).enqueue(workerjobs.note, notes, "behind")
        queue.using(partition=1).enqueue_many(
            [(workerjobs.note, (notes, number)) for number in range(100)]
        )
        fire_until(worker, lambda: len(recorder) == 101, "the other partition goes on")
        fire_until(
            worker,
            lambda: committed(hosts, group, topic).get(1, (0,))[0] == 100,
            "and is committed",
        )
        fire_until(
            worker, lambda: not worker.health().healthy, "the worker says that something is wrong"
        )
        assert [reason.partition(" for ")[0] for reason in worker.health().reasons] == [
            "dead letters could not be written"
        ]
        assert committed(hosts, group, topic).get(0, (0,))[0] == 0 and held.id not in recorder.ids
        gate.open.set()
        worker.drain()
        assert worker.health().healthy and recorder.ids[held.id] == 1
    assert [letter.offset for letter, _ in letters_in(hosts, dead_topic)] == [0]
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1
    assert committed(hosts, group, topic)[0][0] == 2


def test_what_waits_for_the_topic_is_bounded(
    make_worker: Any, hosts: str, topic: str, dead_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = RecordValidator(monkeypatch, seconds=60)
    monkeypatch.setattr(dead_letter_writer, "_HELD_UP_SECONDS", 60)
    admit, begun_in_spite_of_it = ControlLoop._admit, list[Partition]()

    def watched(loop: ControlLoop) -> None:
        begun_in_spite_of_it.extend(
            loop.completer.held_up(time.monotonic()) - loop._backlog._on_hold
        )
        admit(loop)

    monkeypatch.setattr(ControlLoop, "_admit", watched)
    count = 5 * dead_letter_writer.MOST_WAITING
    with Sender(hosts, topic) as sender:
        for number in range(count):
            sender.send(workerjobs.fail_with, number, partition=0)
        sender.flush()
    with make_worker(processes=2) as worker:
        wait_until(
            lambda: worker.health().in_flight >= dead_letter_writer.MOST_WAITING, "so many wait"
        )
        wait_until(
            lambda: worker._runtime.loop._backlog._on_hold == {numbered(0, topic)}, "no more begin"
        )
        wait_until(lambda: worker.health().oldest_running_seconds is None, "nothing runs any more")
        assert (
            gate.tries == 1
            and worker.health().in_flight
            < dead_letter_writer.MOST_WAITING + 2 * prefetch.MOST_TASKS
        )
        assert not begun_in_spite_of_it
        gate.open.set()
        worker.drain()
    assert sorted(letter.offset for letter, _ in letters_in(hosts, dead_topic)) == list(
        range(count)
    )


def test_stop_waits_for_letters_and_what_is_not_written_in_time_comes_again(
    make_worker: Any, hosts: str, topic: str, dead_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = RecordValidator(monkeypatch)
    with Sender(hosts, topic) as sender:
        sender.send(workerjobs.fail_with, "luck")
        sender.flush()
    recorder = Recorder()
    worker = make_worker(recorder).start_background()
    fire_until(worker, lambda: gate.tries > 1, "the letter was tried twice")
    assert f"embedkq-deadletters-{dead_topic}" in embedkq_threads()
    assert not worker.stop(0.2)
    wait_until(lambda: not embedkq_threads(), "no thread is left")
    worker.start_background()
    fire_until(worker, lambda: len(recorder) == 2, "the job has run again")
    threading.Timer(0.5, gate.open.set).start()
    assert worker.stop()
    wait_until(lambda: not embedkq_threads(), "no thread is left")
    assert len(recorder) == 2
    assert [letter.offset for letter, _ in letters_in(hosts, dead_topic)] == [0]


def test_two_workers_that_are_each_others_dead_letter_topic_play_no_ping_pong(
    make_topic: Callable[[int], str], hosts: str, caplog: Any
) -> None:
    one, other = make_topic(1), make_topic(1)
    with Queue(hosts, one) as queue:
        failing = queue.enqueue(os.path.getsize, "missing")
    recorder = Recorder()
    Worker(hosts, one, callback=recorder, dead_letter_topic=other).start(burst=True)
    Worker(hosts, other, callback=recorder, dead_letter_topic=one).start(burst=True)
    assert recorder.ids == {failing.id: 1}
    assert (end_offsets(hosts, one), end_offsets(hosts, other)) == ({0: 1}, {0: 1})
    assert lag(hosts, other, other) == 0
    told = [text for text in caplog.messages if "is a dead letter already" in text]
    assert len(told) == 1 and f"topic={other}, partition=0, offset=0" in told[0]


def test_without_a_dead_record_there_is_no_writer(make_worker: Any, hosts: str, topic: str) -> None:
    with make_worker() as worker:
        send_many(hosts, topic, workerjobs.echo, [(1,)])
        worker.drain()
        assert not [name for name in embedkq_threads() if "deadletters" in name]
        send_many(hosts, topic, workerjobs.fail_with, [(1,)])
        worker.drain()
        assert [name for name in embedkq_threads() if "deadletters" in name]
        began = time.monotonic()
        worker.stop()
        assert time.monotonic() - began < 2.0
    wait_until(lambda: not embedkq_threads(), "no thread is left")


def test_a_letter_that_no_client_takes_does_not_hold_up_its_partition(
    make_worker: Any,
    hosts: str,
    topic: str,
    group: str,
    dead_topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    really = Producer.send_all

    def send_all(producer: Producer, messages: Any) -> Any:
        odd = [
            index
            for index, message in enumerate(messages)
            if message.topic == dead_topic and message.value
        ]
        return {
            **dict.fromkeys(odd, TypeError("no client can write this")),
            **really(producer, [m for m in messages if not m.value]),
        }

    with Sender(hosts, topic) as sender:
        sender.send_record(b"no job", [], key=b"a", partition=0)
        sender.flush()
    monkeypatch.setattr(Producer, "send_all", send_all)
    make_worker().start(burst=True)
    [(letter, record)] = letters_in(hosts, dead_topic)
    assert letter.pointer and (record.key, record.value) == (b"a", b"")
    assert committed(hosts, group, topic)[0][0] == 1


@pytest.mark.needs("properties")
def test_a_topic_that_is_created_too_late_gets_what_waited_for_it(
    make_broker: Any, caplog: Any
) -> None:
    hosts = make_broker({"auto.create.topics.enable": "false"}).hosts
    with_admin(hosts, lambda admin: admin.create_topics([NewTopic("jobs", 1, 1)]))
    send_many(hosts, "jobs", workerjobs.fail_with, [(1,), (2,)])
    with Worker(hosts=hosts, topic="jobs", dead_letter_topic="jobs-dead") as worker:
        wait_until(
            lambda: "cannot be written" in caplog.text, "it is told that the topic is not there"
        )
        assert "does it exist?" in caplog.text
        with_admin(hosts, lambda admin: admin.create_topics([NewTopic("jobs-dead", 1, 1)]))
        assert worker.drain(60)
    assert sorted(letter.offset for letter, _ in letters_in(hosts, "jobs-dead")) == [0, 1]


def test_the_command_line_and_flask_take_the_topic_too(
    hosts: str, topic: str, dead_topic: str, tmp_path: Path
) -> None:
    from flask import Flask
    from programs import KQ

    from embedkq.flask import EmbedKQ

    send_many(hosts, topic, workerjobs.fail_times, [(str(tmp_path / "notes"), "x", 9)])
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "tests"),
        "EMBEDKQ_DEAD_LETTER_TOPIC": dead_topic,
    }
    command = [
        KQ,
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        "--retries=1",
        "--backoff=0.05",
        "--burst",
    ]
    subprocess.run(command, env=environment, check=True, timeout=60, stderr=subprocess.DEVNULL)
    assert [(letter.reason, letter.attempts) for letter, _ in letters_in(hosts, dead_topic)] == [
        ("failure", 2)
    ]

    app = Flask("shop")
    app.config.update(
        EMBEDKQ_DEAD_LETTER_TOPIC="died",
        EMBEDKQ_RETRIES=2,
        EMBEDKQ_BACKOFF=5,
        EMBEDKQ_MAX_CRASHES=1,
    )
    kq = EmbedKQ(app)
    with app.app_context():
        given = kq.worker._settings
        assert (given.dead_letter_topic, given.retries, given.backoff, given.max_crashes) == (
            "died",
            2,
            5,
            1,
        )
