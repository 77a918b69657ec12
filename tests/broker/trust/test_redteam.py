"""Every way in that is known, tried on a real worker with a secret: each attack would leave a mark
if any code of its own ran."""

from __future__ import annotations

import base64
import logging
import pickle
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import workerjobs
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from poolharness import Harness
from support import Recorder, Sender, committed, fire_until, lines, with_field

from embedkq import Queue, Worker, codec
from embedkq._child.runner import ENDED, LOGGED, REPLY_HEADER
from embedkq._formats import dead_letter, headers, offset_map
from embedkq._formats.outcome import Outcome
from embedkq._formats.signing import Signer

SECRET, RETIRED = "a secret of the red team's victim", "a secret that is known no more"
SIGNER = Signer(SECRET)
ID, TIME, LIMIT, RETRIES, BACKOFF = "id", "timestamp", "timeout", "retries", "backoff"

Headers = list[tuple[str, bytes | None]]


class Attack:
    """Leaves its name in a file when it is unpickled, wherever that is."""

    def __init__(self, marks: Path, name: str) -> None:
        self._marks, self._name = str(marks), name

    def __reduce__(self) -> Any:
        return workerjobs.note, (self._marks, self._name)


class Forged(NamedTuple):
    """A record of the red team's."""

    name: str
    value: bytes | None
    headers: Headers
    key: bytes | None = None


class Arsenal:
    """Makes attacks; each one's name is what its mark says."""

    def __init__(self, marks: Path, topic: str, replay: Any) -> None:
        self.marks, self._topic, self._replay = marks, topic, replay

    def pickle(self, name: str, protocol: int = 5) -> bytes:
        return pickle.dumps((Attack(self.marks, name), (), {}), protocol)

    def plain(self, limit: float | None = 9.0) -> Headers:
        return [*headers.headers_of(str(uuid.uuid4()), int(time.time() * 1000), limit, 1, 0.5)]

    def signed(
        self,
        value: bytes | None,
        key: bytes | None = None,
        signer: Signer = SIGNER,
        topic: str | None = None,
    ) -> Headers:
        """Headers of a job that the owner of the secret has sent, with another value perhaps."""
        made = self.plain()
        return [*signer.sign(topic or self._topic, key, made, value)]

    def forged(self) -> Iterator[Forged]:
        """Records that somebody without the secret may write, some made of records that he has
        read."""
        real, attack = (
            codec.encode_call(workerjobs.note, (str(self.marks), "a real payload"), {}),
            self.pickle,
        )
        read = self._replay
        yield Forged("no headers", attack("no headers"), [])
        yield Forged("unsigned", attack("unsigned"), self.plain())
        yield Forged("as KQ writes", self._as_kq("as KQ writes"), [])
        yield Forged("replayed from another topic", read.value, read.headers, read.key)
        yield Forged(
            "replayed without its signature",
            read.value,
            without(read.headers, "signature"),
            read.key,
        )
        yield Forged("stripped", real, without(self.signed(real), "signature"))
        yield Forged("payload swapped", attack("payload swapped"), self.signed(real))
        yield Forged("payload taken away", b"", self.signed(real))
        yield Forged("no payload", None, self.signed(real, b"k"), b"k")
        yield Forged("limit swapped", real, with_field(self.signed(real), LIMIT, b"0.001"))
        yield Forged("limit taken away", real, without(self.signed(real), LIMIT))
        yield Forged("time swapped", real, with_field(self.signed(real), TIME, b"99999999999999"))
        yield Forged(
            "id swapped", real, with_field(self.signed(real), ID, str(uuid.uuid4()).encode())
        )
        yield Forged("key added", real, self.signed(real), b"k")
        yield Forged("key emptied", real, self.signed(real, b"k"), b"")
        yield Forged("key empty for none", real, self.signed(real, None), b"")
        yield Forged("key none for empty", real, self.signed(real, b""), None)
        yield Forged("key an attack", real, self.signed(real), attack("key an attack"))
        yield Forged(
            "signature an attack",
            attack("signature 1"),
            with_field(self.plain(), "signature", attack("signature 2")),
        )
        yield Forged("signature empty", real, with_field(self.plain(), "signature", b""))
        yield Forged("header doubled", real, [*self.signed(real), *self.signed(real)])
        yield Forged("header an attack", real, [("embedkq", attack("header an attack"))])
        yield Forged(
            "header before its own an attack",
            real,
            [("embedkq", attack("header before")), *self.signed(real)],
        )
        yield Forged(
            "more behind the signature",
            real,
            [(name, told + b";rounds=0") for name, told in self.signed(real) if told],
        )
        yield Forged(
            "secret retired",
            attack("secret retired"),
            self.signed(attack("secret retired"), signer=Signer(RETIRED)),
        )
        yield Forged("signed for another topic", real, self.signed(real, topic=self._topic + "x"))
        yield Forged("retries swapped", real, with_field(self.signed(real), RETRIES, b"999"))
        yield Forged("backoff taken away", real, without(self.signed(real), BACKOFF))
        yield Forged("a round added", real, with_field(self.signed(real), "rounds", b"1"))
        for name in (ID, TIME, LIMIT, RETRIES, BACKOFF, "rounds", "more", "embedkq"):
            yield Forged(
                f"{name} an attack", real, with_field(self.signed(real), name, attack(name))
            )
            yield Forged(
                f"{name} doubled",
                real,
                [
                    (header, (told or b"") + f";{name}=1".encode())
                    for header, told in self.signed(real)
                ],
            )
        for further in ("embedkq-more", "embedkq-signature", "embedkq-dead-topic"):
            yield Forged(
                f"{further} an attack", real, [*self.signed(real), (further, attack(further))]
            )

    def _as_kq(self, name: str) -> bytes:
        payload = pickle.dumps(Attack(self.marks, name), 0)
        return b"ckq.job\nJob\n(" + payload[:-1] + b"tR."


def without(record_headers: Headers, field: str) -> Headers:
    return with_field(record_headers, field, None)


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    return tmp_path / "marks"


@pytest.fixture
def arsenal(marks: Path, hosts: str, topic: str, make_topic: Any) -> Arsenal:
    """With a signed record that was read from another topic of the same owner."""
    elsewhere = make_topic(1)
    with Queue(hosts=hosts, topic=elsewhere, secret=SECRET, timeout=9) as queue:
        queue.enqueue(workerjobs.note, str(marks), "replayed")
    return Arsenal(marks, topic, letters_in(hosts, elsewhere, 1)[0])


def test_no_record_of_somebody_without_the_secret_has_anything_run(
    arsenal: Arsenal,
    run_until_done: Any,
    hosts: str,
    topic: str,
    group: str,
    make_topic: Any,
    caplog: Any,
) -> None:
    caplog.set_level(logging.INFO)
    dead_letter_topic = make_topic(1)
    attacks = list(arsenal.forged())
    expected = {}
    with Sender(hosts, topic) as sender, Queue(hosts=hosts, topic=topic, secret=SECRET) as queue:
        for number, attack in enumerate(attacks):
            sender.send_record(attack.value, attack.headers, key=attack.key, partition=0)  # type: ignore[arg-type]
            sender.flush()
            if number % 8 == 7:  # what is good goes on between them
                expected[queue.using(partition=0).enqueue(workerjobs.echo, attack.name).id] = 1
    recorder = run_until_done(secret=SECRET, dead_letter_topic=dead_letter_topic)
    assert recorder.ids == expected and len(expected) >= 4
    assert not lines(arsenal.marks)
    told = [record.getMessage() for record in caplog.records]
    refused = {
        int(line.partition("offset=")[2].partition(")")[0])
        for line in told
        if "refused. Skipping ..." in line
    }
    places = [number + number // 8 for number in range(len(attacks))]
    assert refused == set(places), [
        attack.name for attack, place in zip(attacks, places, strict=True) if place not in refused
    ]
    assert sum("Running Job" in line for line in told) == len(expected), (
        "no child has been given any of them"
    )
    assert committed(hosts, group, topic)[0][0] == len(attacks) + len(expected)
    assert SECRET not in caplog.text
    letters = letters_in(hosts, dead_letter_topic, len(attacks))
    assert [dead_letter.read(letter.headers).offset for letter in letters] == places
    assert {dead_letter.read(letter.headers).reason for letter in letters} == {"refused"}
    for attack, letter in zip(attacks, letters, strict=True):
        assert (letter.key, letter.value, dead_letter.strip(letter.headers)) == (
            attack.key,
            attack.value,
            attack.headers,
        ), attack.name


def letters_in(hosts: str, topic: str, count: int) -> list[Any]:
    """The records of a topic of one partition."""
    consumer = KafkaConsumer(
        topic, bootstrap_servers=hosts, auto_offset_reset="earliest", consumer_timeout_ms=10_000
    )
    try:
        return [next(consumer) for _ in range(count)]
    finally:
        consumer.close()


def test_headers_and_key_of_a_good_job_are_never_unpickled(
    arsenal: Arsenal, run_until_done: Any, hosts: str, topic: str
) -> None:
    # Headers of others are not signed: anybody may add them, and nobody reads them. A key is
    # signed, and so is an attack by its owner.
    payload, key = codec.encode_call(workerjobs.echo, (1,), {}), arsenal.pickle("key")
    with Sender(hosts, topic) as sender:
        for record_headers in (
            arsenal.signed(payload, key),
            [*arsenal.signed(payload, key), ("traceparent", arsenal.pickle("header"))],
        ):
            sender.send_record(payload, record_headers, key=key, partition=0)  # type: ignore[arg-type]
        sender.flush()
    recorder = run_until_done(secret=SECRET)
    assert [(call.status, call.job.key) for call in recorder.calls] == [("success", key)] * 2
    assert not lines(arsenal.marks)


def test_without_a_secret_the_mark_appears(
    arsenal: Arsenal, run_until_done: Any, hosts: str, topic: str
) -> None:
    with Sender(hosts, topic) as sender:
        for attack in arsenal.forged():
            if attack.name in ("unsigned", "as KQ writes"):
                sender.send_record(attack.value, attack.headers, partition=0)  # type: ignore[arg-type]
        sender.flush()
    run_until_done()
    assert {"unsigned", "as KQ writes"} <= set(lines(arsenal.marks))


def test_commit_metadata_is_never_unpickled(
    arsenal: Arsenal, run_until_done: Any, hosts: str, make_topic: Any, group: str
) -> None:
    attack = arsenal.pickle("metadata", 0)
    deflated = zlib.compress(attack, wbits=-15)
    texts = [
        attack.decode("latin-1").encode("ascii", "replace").decode(),
        base64.b64encode(attack).decode(),
        base64.b85encode(attack).decode(),
        *(
            offset_map.VERSION
            + method
            + base64.b85encode(offset_map._checksum(0, method, content) + content).decode()
            for method, content in (
                ("v", attack),
                ("b", attack),
                ("V", deflated),
                ("B", deflated),
                ("v", b"\xff" * 90),
            )
        ),
        "1" * 4000,
    ]
    topic = make_topic(len(texts))
    consumer = KafkaConsumer(bootstrap_servers=hosts, group_id=group, enable_auto_commit=False)
    partitions = [TopicPartition(topic, number) for number in range(len(texts))]
    consumer.assign(partitions)
    consumer.commit(
        {
            partition: OffsetAndMetadata(0, text, -1)
            for partition, text in zip(partitions, texts, strict=True)
        }
    )
    consumer.close()
    with Queue(hosts=hosts, topic=topic, secret=SECRET) as queue:
        expected = {
            queue.using(partition=number).enqueue(workerjobs.echo, number).id: 1
            for number in range(len(texts))
            for _ in range(2)
        }
    recorder = Recorder()
    with Worker(hosts=hosts, topic=topic, group=group, callback=recorder, secret=SECRET) as worker:
        assert worker.drain(60)
    skipped = set(expected) - set(recorder.ids)
    # A text with the right checksum is believed, as whoever may commit for a group may also skip
    # what he likes: no more than that.
    assert set(recorder.ids) <= set(expected) and len(skipped) <= 4
    assert not lines(arsenal.marks)


# What comes from a child.


def test_texts_of_an_outcome_logs_and_prints_are_never_unpickled(
    arsenal: Arsenal, run_until_done: Any, hosts: str, topic: str
) -> None:
    attack = arsenal.pickle("text")
    with Queue(hosts=hosts, topic=topic, secret=SECRET) as queue:
        for function in (
            workerjobs.return_bytes,
            workerjobs.raise_bytes,
            workerjobs.log_and_print_bytes,
        ):
            queue.using(partition=0).enqueue(function, attack)
    recorder = run_until_done(secret=SECRET)
    assert [call.status for call in recorder.calls] == ["success", "failure", "success"]
    assert recorder.calls[0].result == attack and recorder.calls[1].exception.args == (attack,)
    assert not lines(arsenal.marks)


NONSENSE = {
    "nothing but a head": REPLY_HEADER.pack(ENDED, 1),
    "no outcome": REPLY_HEADER.pack(ENDED, 1) + b"\xff" * 100,
    "lengths that lie": REPLY_HEADER.pack(ENDED, 1) + Outcome("success", b"x" * 10).pack()[:-1],
    "another kind": REPLY_HEADER.pack(77, 1) + b"x",
}


@pytest.mark.parametrize("content", NONSENSE.values(), ids=NONSENSE)
def test_a_job_that_sends_nonsense_to_its_host_ends_its_child_only(content: bytes) -> None:
    with Harness(1) as harness:
        talking = harness.submit(workerjobs.speak_to_host, content, 60)
        assert harness.finish(talking)[0].type_name == "embedkq.errors.JobCrashed"
        assert harness.run(workerjobs.echo).status == "success"


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 30_000,
        b'{"name": 5}',
        b'{"levelno": "x"}',
        b'{"exc_info": [1, 2, 3], "levelno": 50, "name": "x"}',
        b"\xff",
        b"5",
    ],
)
def test_a_log_record_that_is_none_ends_nothing(content: bytes) -> None:
    with Harness(1) as harness:
        task = harness.submit(workerjobs.speak_to_host, REPLY_HEADER.pack(LOGGED, 1) + content, 0)
        assert harness.finish(task)[0].status == "success"
        assert harness.run(workerjobs.echo).status == "success"


def test_loggers_that_jobs_make_up_are_not_made_in_the_host(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    before = len(logging.Logger.manager.loggerDict)
    with Harness(1) as harness:
        harness.run(workerjobs.log_to_many, 300)
        assert sum(record.name.startswith("made-up.") for record in caplog.records) == 300
    assert len(logging.Logger.manager.loggerDict) <= before + 5


def test_what_a_job_scribbles_on_its_page_and_where_children_register_ends_nothing() -> None:
    with Harness(1) as harness:
        for function in (workerjobs.scribble_on_page, workerjobs.register_nonsense):
            outcome = harness.run(function, limit=20)
            assert outcome.status in ("success", "failure", "timeout"), outcome
        assert harness.run(workerjobs.echo).status == "success"
        harness.fill()


def test_each_attack_would_leave_its_mark(arsenal: Arsenal) -> None:
    pickle.loads(arsenal.pickle("sound"))
    assert lines(arsenal.marks) == ["sound"]


def test_a_worker_with_a_secret_serves_on_after_all_of_it(
    arsenal: Arsenal, hosts: str, topic: str, group: str
) -> None:
    recorder = Recorder()
    worker = Worker(hosts=hosts, topic=topic, group=group, callback=recorder, secret=SECRET)
    with (
        Sender(hosts, topic) as sender,
        Queue(hosts=hosts, topic=topic, secret=SECRET) as queue,
        worker,
    ):
        for _ in range(3):
            for attack in arsenal.forged():
                sender.send_record(attack.value, attack.headers, key=attack.key)  # type: ignore[arg-type]
            queue.enqueue(workerjobs.echo)
        sender.flush()
        fire_until(worker, lambda: len(recorder) == 3, "the three good ones")
        assert worker.health().healthy
    assert not lines(arsenal.marks)
