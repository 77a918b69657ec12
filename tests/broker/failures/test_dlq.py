"""`kq dlq`: what is listed, put back and dropped is what was asked for; nothing is unpickled,
nothing forged is signed, nothing is lost."""

from __future__ import annotations

import json
import os
import pickle
import pty
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import workerjobs as jobs
from commandline import MODULE, Ended, Program, environment, run
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from partitions import P0, P1, numbered
from support import (
    HANG_SECONDS,
    Recorder,
    end_offsets,
    group_offsets,
    lag,
    lines,
    noted,
    put_back,
    recreate_topic,
    with_admin,
    with_field,
)

from embedkq import Queue, Worker, codec
from embedkq._formats import commit_metadata, headers, offset_map
from embedkq._formats.commit_metadata import TopicMark
from embedkq._formats.dead_letter import DeadLetter, Record, as_dead_letter
from embedkq._formats.partition_progress import (
    Committed,
    Log,
    PartitionProgress,
    make_commit,
    read_progress,
)
from embedkq._formats.signing import Signer
from embedkq._partition import Partition
from embedkq.dlq import DeadLetters, Selection, resolved
from embedkq.dlq.letters import read_letter
from embedkq.dlq.resolve import drop, resolve
from embedkq.dlq.resolved import ResolvedLetters
from embedkq.dlq.retry import Retry, restored
from embedkq.errors import EmbedkqError, LetterRefused, SignatureRefused

SECRET, OLD_SECRET, OTHER_SECRET = (
    "a secret of some length",
    "an old secret of some length",
    "another secret of some length",
)


class Graveyard:
    """A dead-letter topic of one partition, a topic that its letters are from, and the letters put
    there."""

    def __init__(self, hosts: str, topic: str, origin: str) -> None:
        self.hosts = hosts
        self.topic = topic
        self.origin = origin
        self.first = numbered(0, topic)
        self.group = f"{topic}-dlq"
        self.records: list[Record] = []
        self._producer = KafkaProducer(
            bootstrap_servers=hosts, max_request_size=8_000_000, linger_ms=2
        )

    def close(self) -> None:
        self._producer.close()

    def put(self, record: Record, **dead: Any) -> str:
        """Bury a record; the letter's name."""
        number = len(self.records)
        told = DeadLetter(
            **{
                "topic": self.origin,
                "partition": 0,
                "offset": number,
                "reason": "failure",
                "exception": "ValueError: no",
                "attempts": 1,
                "traceback": "Traceback (most recent call last):\nValueError: no\n",
                "host": "here",
                "time": 1_700_000_000_000 + number,
                **dead,
            }
        )
        self.records.append(record)
        self.send(as_dead_letter(record, told))
        return f"0:{number}"

    def send(self, record: Record, topic: str | None = None) -> int:
        """Any record, to any topic; its offset."""
        sent = self._producer.send(
            topic or self.topic, value=record.value, key=record.key, headers=list(record.headers)
        )
        return int(sent.get(HANG_SECONDS).offset)

    def bury_many(self, count: int, **dead: Any) -> None:
        for number in range(count):
            self._producer.send(
                self.topic,
                **as_dead_letter(
                    job(number), DeadLetter(self.origin, 0, number, "failure", **dead)
                )._asdict(),
            )
        self._producer.flush()

    def kq(self, verb: str, *arguments: str, env: dict[str, str] | None = None) -> Ended:
        return run(
            "dlq",
            verb,
            f"--hosts={self.hosts}",
            f"--dead-letter-topic={self.topic}",
            *arguments,
            env=env,
        )

    def listed(self, *arguments: str) -> list[str]:
        """Names of the letters that `kq dlq list` shows."""
        done = self.kq("list", "--json", *arguments)
        assert (done.status, done.err) == (0, ""), done
        return [json.loads(line)["letter"] for line in done.out.splitlines()]

    def put_back(self) -> list[Any]:
        return read_all(self.hosts, self.origin)


@pytest.fixture
def graveyard(hosts: str, make_topic: Callable[[int], str]) -> Iterator[Graveyard]:
    made = Graveyard(hosts, make_topic(1), make_topic(2))
    yield made
    made.close()


def job(
    *args: Any, func: Callable[..., Any] = jobs.echo, key: bytes | None = None, rounds: int = 0
) -> Record:
    """A job as a Queue sends it, put back so often, with a header of its sender's."""
    told = headers.headers_of(str(uuid.uuid4()), 1_600_000_000_000, None)
    record = Record(key, codec.encode_call(func, args, {}), [("mine", b"1"), *told])
    return with_rounds(record, rounds) if rounds else record


def with_rounds(record: Record, rounds: int) -> Record:
    return record._replace(headers=with_field(record.headers, "rounds", b"%d" % rounds))


def signed(record: Record, topic: str, secret: str = SECRET) -> Record:
    return record._replace(
        headers=Signer(secret).sign(topic, record.key, record.headers, record.value)
    )


def id_of(record: Record) -> str:
    return headers.read_headers(record.headers).id


def read_all(hosts: str, topic: str) -> list[Any]:
    """All records of a topic, in the order of its partitions."""
    consumer = KafkaConsumer(
        bootstrap_servers=hosts, auto_offset_reset="earliest", enable_auto_commit=False
    )
    try:
        found = []
        for partition, end in sorted(end_offsets(hosts, topic).items()):
            place = TopicPartition(topic, partition)
            consumer.assign([place])
            while consumer.position(place) < end:
                found += consumer.poll(500).get(place, [])
        return found
    finally:
        consumer.close()


def ok(done: Ended) -> Ended:
    assert done.status == 0 and "Traceback" not in done.err, done
    return done


def only_line(done: Ended, status: int = 1) -> str:
    assert done.status == status, done
    (line,) = done.err.splitlines()
    return line


# list and show.


def test_letters_are_listed_newest_first_with_their_content(graveyard: Graveyard) -> None:
    first = job(1)
    graveyard.put(first, reason="timeout", exception="", attempts=3, traceback="")
    second = job(2, func=jobs.note, key=b"k", rounds=2)
    graveyard.put(second, group="mail")
    graveyard.put(
        Record(None, b"rubbish", ()),
        reason="malformed",
        exception="DecodeError: no header",
        attempts=0,
    )
    graveyard.send(Record(None, b"x", [("embedkq-dead-topic", b"t")]))
    done = ok(graveyard.kq("list", "--json"))
    foreign, malformed, failed, late = (json.loads(line) for line in done.out.splitlines())
    assert failed == {
        "letter": "0:1",
        "open": True,
        "job": id_of(second),
        "function": "workerjobs.note",
        "topic": graveyard.origin,
        "partition": 0,
        "offset": 1,
        "reason": "failure",
        "exception": "ValueError: no",
        "attempts": 1,
        "rounds": 2,
        "host": "here",
        "group": "mail",
        "time": 1_700_000_000_001,
        "size": failed["size"],
        "signed": False,
        "pointer": False,
        "problem": None,
    }
    assert (late["job"], late["reason"], late["exception"], late["attempts"], late["rounds"]) == (
        id_of(first),
        "timeout",
        "",
        3,
        0,
    )
    assert (malformed["job"], malformed["function"], malformed["reason"]) == (
        None,
        None,
        "malformed",
    )
    assert (foreign["letter"], foreign["reason"]) == (
        "0:3",
        None,
    ) and "not a dead letter" in foreign["problem"]

    table = ok(graveyard.kq("list"))
    shown = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in table.out.splitlines()
        if line.startswith("│")
    ]
    assert [cells[0] for cells in shown if cells[0]] == ["0:3", "0:2", "0:1", "0:0"]
    assert next(cells for cells in shown if cells[0] == "0:1")[2:7] == [
        "failure",
        f"{graveyard.origin} 0:1",
        id_of(second)[:8],
        "workerjobs.note",
        "ValueError: no",
    ]
    assert table.err == f"Open in {graveyard.topic}: 4.\n"


def test_letters_of_several_partitions_are_listed_in_the_order_of_time(
    hosts: str, topic: str
) -> None:
    yard = Graveyard(hosts, topic, "origin")
    times = list(range(1_700_000_000_000, 1_700_000_000_040))
    for moment in times:  # by chance to any of the four partitions
        yard.put(job(moment), time=moment)
    yard.close()
    with DeadLetters(hosts, topic, {}) as box:
        found = list(box.newest(Selection()))
    assert [letter.time for letter in found] == times[::-1] and len(
        {letter.partition for letter in found}
    ) > 1
    assert all(
        letter.original.value is None and not letter.dead.traceback
        for letter in found
        if letter.dead
    )


def test_filters_and_limit(graveyard: Graveyard) -> None:
    graveyard.put(job(1), reason="timeout")
    graveyard.put(job(2, func=jobs.note), reason="failure")
    graveyard.put(job(3, func=jobs.note), reason="crashes", topic="elsewhere")
    graveyard.put(job(4, func=lambda: None))
    graveyard.send(Record(None, b"x", ()))
    with DeadLetters(graveyard.hosts, graveyard.topic, {}) as box:

        def found(*selection: Any) -> list[str]:
            oldest = [letter.name for letter in box.oldest(Selection(*selection))]
            assert [letter.name for letter in box.newest(Selection(*selection))] == oldest[::-1]
            return oldest

        assert found(("timeout", "crashes")) == ["0:0", "0:2"]
        assert found((), "elsewhere") == ["0:2"]
        assert found((), None, "workerjobs.n*") == ["0:1", "0:2"]
        assert found(("failure",), graveyard.origin, "workerjobs.n*") == ["0:1"]
        assert found() == [f"0:{number}" for number in range(5)]
    assert graveyard.listed(
        "--reason=timeout", "--reason=crashes", "--function=*.note", "--origin=elsewhere"
    ) == ["0:2"]
    assert graveyard.listed("--limit=0") == ["0:4", "0:3", "0:2", "0:1", "0:0"]
    done = ok(graveyard.kq("list", "--limit=2"))
    assert done.err == f"The newest 2; --limit=0 shows all. Open in {graveyard.topic}: 5.\n"
    assert (
        ok(graveyard.kq("list", "--origin=nowhere")).err
        == f"No matching letters in {graveyard.topic}; 5 are open.\n"
    )


def test_one_letter_is_shown_with_everything(graveyard: Graveyard) -> None:
    record = signed(job(1, key=b"k\xff"), graveyard.origin)
    name = graveyard.put(record)
    told = json.loads(ok(graveyard.kq("show", name, "--json")).out)
    assert told["job"] == id_of(record) and told["signed"] and told["key"] == r"k\xff"
    assert told["headers"] == [[key, (value or b"").decode()] for key, value in record.headers]
    assert told["traceback"].startswith("Traceback (most recent") and told["payload_size"] == len(
        record.value or b""
    )
    by_job = ok(graveyard.kq("show", id_of(record)[:8].upper())).out
    for part in (
        "0:0",
        "open",
        f"{graveyard.origin} 0:0",
        id_of(record),
        "workerjobs.echo",
        "ValueError: no",
        "here",
        ";signature=",
    ):
        assert part in by_job, part
    assert by_job.rstrip().endswith("Traceback (most recent call last):\nValueError: no")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0:7", "no letter 0:7: partition 0 of {topic!r} has offsets 0 to 1"),
        ("3:0", "no letter 3:0: {topic!r} has partitions 0 to 0"),
        ("0:", "'0:' does not name a dead letter: use partition:offset, such as 0:17"),
        (
            "zebra",
            (
                "'zebra' does not name a dead letter: use partition:offset, such as 0:17, or the first"
                " 4 or more characters of its job's id"
            ),
        ),
        (
            "00000000",
            (
                "{topic!r} has no letter of a job whose id begins with '00000000'; `kq dlq list --all`"
                " lists all letters"
            ),
        ),
        ("{id}", "'{id}' matches 2 letters in {topic!r}: choose one of 0:1, 0:0"),
    ],
)
def test_a_name_that_stands_for_no_letter_is_told(
    name: str, message: str, graveyard: Graveyard
) -> None:
    record = job(1)
    graveyard.put(record)
    graveyard.put(record)
    filled = {"id": id_of(record), "topic": graveyard.topic}
    told = only_line(graveyard.kq("show", name.format(id=filled["id"])))
    assert told == "Error: " + message.replace("{topic!r}", repr(graveyard.topic)).replace(
        "{id}", filled["id"]
    )


def test_of_several_letters_of_a_job_the_open_one_is_meant(graveyard: Graveyard) -> None:
    record = job(1)
    graveyard.put(record)
    graveyard.put(record)
    ok(graveyard.kq("drop", "0:0"))
    assert json.loads(ok(graveyard.kq("show", id_of(record), "--json")).out)["letter"] == "0:1"
    with DeadLetters(graveyard.hosts, graveyard.topic, {}) as box:
        box.resolved.add([(graveyard.first, 1)])
        with pytest.raises(EmbedkqError, match="matches 2 letters"):
            box.find([id_of(record)])


class Attack:
    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self._marker,)


def test_nothing_of_a_letter_is_unpickled_or_steers_the_terminal(
    graveyard: Graveyard, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    attack = pickle.dumps(Attack(marker))
    evil = "\x1b]0;owned\x07\x9b2J\u202e[red]"
    told = [("embedkq", b"1;id=" + attack), (f"h{evil}", attack), ("embedkq-dead-time", attack)]
    graveyard.put(
        Record(attack, attack, told), exception=f"E{evil}: {evil}", traceback=evil, host=evil
    )
    for done in (ok(graveyard.kq("list")), ok(graveyard.kq("show", "0:0"))):
        assert not set("\x1b\x07\x9b\u202e") & set(done.out) and "[red]" in done.out
    for verb in (
        ("list", "--json"),
        ("show", "0:0", "--json"),
        ("retry", "0:0", "--json"),
        ("drop", "0:0", "--json"),
    ):
        graveyard.kq(verb[0], *verb[1:])
    assert len(graveyard.put_back()) == 1 and not marker.exists()


# retry and drop.


def test_a_letter_is_put_back_as_it_was_with_a_round_more_and_stays_resolved(
    graveyard: Graveyard,
) -> None:
    records = [job(number, key=b"key" if number % 2 else None) for number in range(3)]
    for record in records:
        graveyard.put(record, partition=1)
    done = ok(graveyard.kq("retry", "0:1", id_of(records[2])[:13], "--json"))
    assert [json.loads(line) for line in done.out.splitlines()] == [
        {"letter": f"0:{number}", "job": id_of(records[number]), "outcome": "retried", "why": None}
        for number in (1, 2)
    ]
    assert done.err == f"Retried: 2. Open in {graveyard.topic}: 1.\n"
    found = {id_of(record): record for record in graveyard.put_back()}
    assert found.keys() == {id_of(records[1]), id_of(records[2])}
    for record in records[1:]:
        back = found[id_of(record)]
        assert (back.key, back.value, back.headers) == (
            record.key,
            record.value,
            with_rounds(record, 1).headers,
        )
    assert found[id_of(records[2])].partition == 1  # without a key it goes where it was
    assert noted(graveyard.hosts, graveyard.group, graveyard.topic) == {
        0: (0, ((1, 3),), commit_metadata.NOTHING)
    }

    assert graveyard.listed() == ["0:0"] and graveyard.listed("--all") == ["0:2", "0:1", "0:0"]
    assert "resolved" in ok(graveyard.kq("list", "--all")).out
    again = only_line(graveyard.kq("retry", "0:1", "0:0"))
    assert (
        again
        == "Error: already retried or dropped: 0:1. Leave them out, or use `kq dlq retry --again`"
        " to retry them again"
    )
    assert len(graveyard.put_back()) == 2
    ok(graveyard.kq("retry", "0:1", "--again"))
    assert len(graveyard.put_back()) == 3


def test_what_has_no_key_goes_where_it_was_if_that_is_still_there(graveyard: Graveyard) -> None:
    for number in range(9):
        graveyard.put(job(number), partition=1 if number else 7)
    with (
        DeadLetters(graveyard.hosts, graveyard.topic, {}) as box,
        Retry(graveyard.hosts, graveyard.topic, None, {}, {}) as action,
    ):
        assert all(became.kept is None for became in resolve(box, box.oldest(Selection()), action))
        assert not list(box.newest(Selection()))
    places = {id_of(back): back.partition for back in graveyard.put_back()}
    assert places.keys() == {id_of(record) for record in graveyard.records}
    assert [places[id_of(record)] for record in graveyard.records[1:]] == [1] * 8


def test_rounds_are_counted(graveyard: Graveyard) -> None:
    graveyard.put(job(1, rounds=9))
    ok(graveyard.kq("retry", "--all", "--yes"))
    (back,) = graveyard.put_back()
    assert back.headers == with_rounds(graveyard.records[0], 10).headers and id_of(back) == id_of(
        graveyard.records[0]
    )


def test_what_is_no_job_goes_back_unchanged_and_what_is_no_letter_not_at_all(
    graveyard: Graveyard,
) -> None:
    graveyard.put(Record(b"k", None, [("theirs", b"1"), ("nothing", b"")]), reason="malformed")
    graveyard.send(Record(None, b"x", ()))
    graveyard.put(job(1), topic="a b")
    graveyard.put(job(1), topic=graveyard.topic)
    done = graveyard.kq("retry", "--all", "--yes")
    assert (
        done.status == 1
        and done.err.splitlines()[-1] == f"Retried: 1, kept: 3. Open in {graveyard.topic}: 3."
    ), done
    assert (
        "Kept 0:1: this is not a dead letter" in done.err
        and "Kept 0:2: its topic of origin, 'a b', is not a valid topic name" in done.err
    )
    assert (
        f"Kept 0:3: its topic of origin is the dead-letter topic {graveyard.topic!r} itself"
        in done.err
    )
    (back,) = graveyard.put_back()
    assert (back.value, back.headers) == (None, [("theirs", b"1"), ("nothing", b"")])
    assert (
        ok(graveyard.kq("drop", "--all", "--yes")).err
        == f"Dropped: 3. Open in {graveyard.topic}: 0.\n"
    )
    assert (
        ok(graveyard.kq("retry", "--all", "--yes")).err
        == f"Nothing to do: no open letter of {graveyard.topic} matches.\n"
    )


def test_an_origin_that_is_gone_is_told_and_not_created(graveyard: Graveyard) -> None:
    missing = f"missing-{uuid.uuid4().hex[:8]}"
    graveyard.put(job(1), topic=missing)
    told = graveyard.kq("retry", "0:0").err.splitlines()[0]
    assert (
        told == f"Kept 0:0: its topic of origin, {missing!r}, does not exist (any more): create the"
        " topic, or drop the letter"
    )
    assert missing not in with_admin(
        graveyard.hosts, lambda admin: [known["name"] for known in admin.describe_topics()]
    )
    assert graveyard.listed() == ["0:0"]


def test_a_topic_that_is_not_there_is_told_and_not_created(hosts: str) -> None:
    name = f"missing-{uuid.uuid4().hex[:8]}"
    for verb in (["list"], ["show", "0:0"], ["retry", "--all"], ["drop", "--all"]):
        told = only_line(run("dlq", *verb, f"--hosts={hosts}", f"--dead-letter-topic={name}"))
        assert told.startswith(
            f"Error: there is no topic {name!r} at {hosts}: set --dead-letter-topic"
        ), told
    assert name not in with_admin(
        hosts, lambda admin: [known["name"] for known in admin.describe_topics()]
    )


def test_filters_choose_what_is_dropped_and_the_lag_of_the_group_is_what_is_open(
    graveyard: Graveyard,
) -> None:
    for number in range(6):
        graveyard.put(job(number), reason="timeout" if number < 3 else "failure")
    done = ok(graveyard.kq("drop", "--reason=timeout", "--yes"))
    assert done.err == f"Dropped: 3. Open in {graveyard.topic}: 3.\n" and graveyard.listed() == [
        "0:5",
        "0:4",
        "0:3",
    ]
    shown = run("info", f"--hosts={graveyard.hosts}", f"--topic={graveyard.topic}", "--json")
    (row,) = json.loads(shown.out)["partitions"]
    assert (row["group"], row["committed"], row["lag"]) == (graveyard.group, 3, 3)
    assert not graveyard.put_back()


def test_many_are_not_resolved_unasked(graveyard: Graveyard) -> None:
    graveyard.put(job(1))
    for verb, done in (("retry", "retried"), ("drop", "dropped")):
        told = only_line(graveyard.kq(verb, "--all"), 2)
        assert (
            told
            == f"Error: letters of {graveyard.topic} to be {done}: 1. There is no terminal to ask"
            " for confirmation: use --yes"
        )
    assert graveyard.listed() == ["0:0"] and not graveyard.put_back()


@pytest.mark.parametrize(("answer", "left"), [("n", ["0:0"]), ("y", [])])
def test_on_a_terminal_it_is_asked(answer: str, left: list[str], graveyard: Graveyard) -> None:
    graveyard.put(job(1), reason="timeout")
    master, slave = pty.openpty()
    os.write(master, f"{answer}\n".encode())
    command = [
        *MODULE,
        "dlq",
        "drop",
        f"--hosts={graveyard.hosts}",
        f"--dead-letter-topic={graveyard.topic}",
        "--reason=timeout",
    ]
    done = subprocess.run(
        command,
        env=environment(),
        stdin=slave,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    os.close(slave)
    os.close(master)
    assert (
        f"Letters of {graveyard.topic} to be dropped: 1. Continue?" in done.stderr
        and done.returncode == (1 if left else 0)
    ), done
    assert graveyard.listed() == left


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["list"],
            (
                "Error: no topic: set --dead-letter-topic or EMBEDKQ_DEAD_LETTER_TOPIC to the workers'"
                " dead_letter_topic"
            ),
        ),
        (["retry", "--dead-letter-topic=t"], "Error: no letters selected: name them"),
        (
            ["drop", "--dead-letter-topic=t", "0:1", "--all"],
            "Error: letters are named, so --reason, --origin, --from-group, --function and",
        ),
        (["list", "--dead-letter-topic=a b"], "Error: dead-letter-topic='a b': Kafka takes"),
        (["list", "--dead-letter-topic=t", "--hosts=host:port"], "Error: hosts='host:port'"),
        (
            ["retry", "--dead-letter-topic=t", "0:1", "--secret-file={short}"],
            "Error: a secret must have at least 16 bytes",
        ),
    ],
)
def test_an_option_that_cannot_work_is_told_in_one_line(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    short = tmp_path / "short"
    short.write_text("short")
    assert only_line(
        run("dlq", *[argument.format(short=short) for argument in arguments]), 2
    ).startswith(message)


def test_options_come_from_the_environment(graveyard: Graveyard) -> None:
    graveyard.put(job(1), reason="timeout")
    graveyard.put(job(1))
    env = {
        "EMBEDKQ_HOSTS": graveyard.hosts,
        "EMBEDKQ_DEAD_LETTER_TOPIC": graveyard.topic,
        "EMBEDKQ_REASON": "timeout crashes",
        "EMBEDKQ_JSON": "1",
        "EMBEDKQ_TOPIC": "of the workers",
    }
    assert json.loads(ok(run("dlq", "list", env=env)).out)["letter"] == "0:0"


# Signatures.


@pytest.mark.parametrize("reason", ["failure", "refused"])
def test_what_is_signed_is_signed_anew_only_with_a_secret_that_fits(reason: str) -> None:
    dead = DeadLetter("origin", 0, 0, reason)
    record = signed(job(1, key=b"k", rounds=1), "origin", OLD_SECRET)
    with pytest.raises(LetterRefused, match="set --secret-file or EMBEDKQ_SECRET"):
        restored(record, dead, None)
    with pytest.raises(SignatureRefused, match=r"not have.* It cannot be signed again"):
        restored(record, dead, Signer(SECRET))
    began = int(time.time() * 1000)
    told = restored(record, dead, Signer([SECRET, OLD_SECRET]))
    Signer(SECRET).check("origin", record.key, told, record.value)
    envelope = headers.read_headers(told)
    assert (
        envelope.id == id_of(record)
        and envelope.timestamp >= began
        and headers.read_rounds(told) == 2
    )
    with pytest.raises(SignatureRefused):
        Signer(OLD_SECRET).check("origin", record.key, told, record.value)


@pytest.mark.parametrize(
    "forged",
    [
        lambda record: record._replace(key=b"other"),
        lambda record: record._replace(value=record.value + b"x"),
        lambda record: record._replace(value=None),
        lambda record: with_rounds(record, 0),
        lambda record: record._replace(headers=with_field(record.headers, "timeout", b"1.0")),
        lambda record: record._replace(headers=[*record.headers, record.headers[-1]]),
        lambda record: record._replace(headers=with_field(record.headers, "signature", b"")),
        lambda record: record._replace(
            headers=[(name, (told or b"") + b";rounds=1") for name, told in record.headers]
        ),
    ],
)
def test_what_is_forged_is_never_signed(forged: Callable[[Record], Record]) -> None:
    record = signed(job(1, key=b"k"), "origin")
    restored(record, DeadLetter("origin", 0, 0, "failure"), Signer(SECRET))
    for altered, topic in ((forged(record), "origin"), (record, "another")):
        with pytest.raises(SignatureRefused):
            restored(altered, DeadLetter(topic, 0, 0, "failure"), Signer(SECRET))


def test_what_is_unsigned_stays_so_and_is_kept_where_it_was_refused() -> None:
    record = job(1)
    expected = with_rounds(record, 1).headers
    for signer in (None, Signer(SECRET)):
        assert restored(record, DeadLetter("origin", 0, 0, "failure"), signer) == expected
    assert restored(record, DeadLetter("origin", 0, 0, "refused"), None) == expected
    with pytest.raises(LetterRefused, match="refused because it is not signed"):
        restored(record, DeadLetter("origin", 0, 0, "refused"), Signer(SECRET))


def test_signed_letters_run_again_and_forged_ones_are_kept(
    graveyard: Graveyard, group: str, tmp_path: Path
) -> None:
    files = []
    for name, secret in (("new", SECRET), ("old", OLD_SECRET)):
        (tmp_path / name).write_text(f"{secret}\n")
        files.append(f"--secret-file={tmp_path / name}")
    good = signed(job(str(tmp_path / "noted"), 1, func=jobs.note), graveyard.origin, OLD_SECRET)
    graveyard.put(good)
    graveyard.put(signed(job(2), graveyard.origin, OTHER_SECRET), reason="refused")
    without = graveyard.kq("retry", "0:0")
    assert without.err.startswith(
        "Kept 0:0: it is signed and must be signed again: set --secret-file or EMBEDKQ_SECRET"
    )
    one = graveyard.kq("retry", "--all", "--yes", env={"EMBEDKQ_SECRET": SECRET})
    assert (
        one.status == 1 and "Retried: 0, kept: 2." in one.err and SECRET not in one.err + one.out
    ), one
    both = graveyard.kq("retry", "--all", "--yes", "--json", *files)
    assert both.status == 1 and [json.loads(line)["outcome"] for line in both.out.splitlines()] == [
        "retried",
        "kept",
    ], both
    recorder = Recorder()
    Worker(
        graveyard.hosts, graveyard.origin, group=group, secret=SECRET, max_age=60, callback=recorder
    ).start(burst=True)
    assert recorder.ids == {id_of(good): 1} and lines(tmp_path / "noted") == ["1"]
    doubled = graveyard.kq("retry", "0:1", files[0], env={"EMBEDKQ_SECRET": SECRET})
    assert (
        only_line(doubled, 2)
        == "Error: --secret-file and EMBEDKQ_SECRET are both given: leave one of them out"
    )


def test_a_job_that_fails_goes_round_until_it_succeeds(
    graveyard: Graveyard, group: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    awaited = tmp_path / "awaited"
    recorder = Recorder()
    worker = Worker(
        graveyard.hosts,
        graveyard.origin,
        group=group,
        callback=recorder,
        dead_letter_topic=graveyard.topic,
        secret=SECRET,
        max_age=60,
    )
    with Queue(graveyard.hosts, graveyard.origin, secret=SECRET) as queue:
        sent = queue.using(key="k").enqueue(os.path.getsize, str(awaited))
    for rounds in range(3):
        worker.start(burst=True)
        if rounds < 2:
            (letter,) = [
                json.loads(line) for line in ok(graveyard.kq("list", "--json")).out.splitlines()
            ]
            assert (letter["job"], letter["rounds"], letter["reason"], letter["signed"]) == (
                sent.id,
                rounds,
                "failure",
                True,
            )
            assert (
                letter["exception"].startswith("FileNotFoundError")
                and letter["function"] == "genericpath.getsize"
            )
            assert "Traceback" in ok(graveyard.kq("show", sent.id)).out
            if rounds == 1:
                awaited.write_text("12345")
            ok(graveyard.kq("retry", sent.id, f"--secret-file={tmp_path / 'secret'}"))
    assert [(call.status, call.result, call.job.id, call.job.key) for call in recorder.calls] == [
        ("failure", None, sent.id, b"k"),
        ("failure", None, sent.id, b"k"),
        ("success", 5, sent.id, b"k"),
    ]
    assert graveyard.listed() == []


@pytest.mark.parametrize("every_group", [False, True])
def test_a_retry_runs_in_the_group_where_the_job_failed_and_in_no_other(
    graveyard: Graveyard, group: str, tmp_path: Path, every_group: bool
) -> None:
    """Of two groups that read one topic, one has failed."""
    awaited = tmp_path / "awaited"
    with Queue(graveyard.hosts, graveyard.origin) as queue:
        sent = queue.enqueue(os.path.getsize, str(awaited))
    told: dict[str, list[str]] = {"mail": [], "audit": []}

    def run_group(name: str) -> None:
        Worker(
            graveyard.hosts,
            graveyard.origin,
            group=f"{name}-{group}",
            dead_letter_topic=graveyard.topic,
            callback=lambda status, *_: told[name].append(status),
        ).start(burst=True)

    run_group("mail")
    awaited.write_text("12345")
    run_group("audit")
    assert told == {"mail": ["failure"], "audit": ["success"]}
    assert (
        graveyard.listed(f"--from-group=mail-{group}") == ["0:0"]
        and graveyard.listed(f"--from-group=audit-{group}") == []
    )
    ok(graveyard.kq("retry", sent.id, *["--every-group"] * every_group))
    run_group("mail")
    run_group("audit")
    assert told == {"mail": ["failure", "success"], "audit": ["success"] * (1 + every_group)}
    assert all(lag(graveyard.hosts, f"{name}-{group}", graveyard.origin) == 0 for name in told)


def test_a_letter_of_a_version_without_groups_is_put_back_for_all(graveyard: Graveyard) -> None:
    first, second = graveyard.put(job(1)), graveyard.put(job(2), group="audit")
    ok(graveyard.kq("retry", first, second))
    assert [headers.target_group(record.headers) for record in graveyard.put_back()] == [
        None,
        "audit",
    ]


# Payloads that are only at their origin.


def test_a_letter_without_payload_is_put_back_from_its_origin(
    graveyard: Graveyard, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    large = signed(job("x" * 500_000), graveyard.origin)
    at = graveyard.send(large, graveyard.origin)
    where = {"partition": graveyard.put_back()[0].partition, "offset": at, "pointer": True}
    graveyard.put(large._replace(value=b""), **where)
    graveyard.put(Record(None, b"", ()), **where)  # not even its headers were taken
    graveyard.put(job(2)._replace(value=b""), **where)
    graveyard.put(large._replace(value=b""), **{**where, "offset": 77})
    assert "it was too large" in ok(graveyard.kq("show", "0:0")).out
    done = graveyard.kq("retry", "--all", "--yes", f"--secret-file={tmp_path / 'secret'}")
    assert (
        "Retried: 2, kept: 2." in done.err
        and "now holds another record: drop the letter" in done.err
    ), done
    assert (
        f"no longer keeps it at {graveyard.origin} {where['partition']}:77: drop the letter"
        in done.err
    )
    _, first, second = sorted(
        graveyard.put_back(), key=lambda record: headers.read_rounds(record.headers)
    )
    for back in (first, second):
        assert back.value == large.value and headers.read_rounds(back.headers) == 1
        Signer(SECRET).check(graveyard.origin, back.key, back.headers, back.value)

    with_admin(
        graveyard.hosts,
        lambda admin: admin.delete_records(
            {TopicPartition(graveyard.origin, where["partition"]): at + 1}
        ),
    )
    gone = graveyard.kq("retry", "0:0", "--again", f"--secret-file={tmp_path / 'secret'}")
    assert gone.status == 1 and "Kafka no longer keeps it at" in gone.err, gone


def test_one_that_is_too_large_keeps_no_other_from_going_back(graveyard: Graveyard) -> None:
    with_admin(
        graveyard.hosts,
        lambda admin: admin.alter_configs([topic_config(graveyard.topic, 4_000_000)]),
    )
    sizes = [10, 1_500_000, 10, 10]
    for size in sizes:
        graveyard.put(job("x" * size))
    done = graveyard.kq("retry", "--all", "--yes", "--json")
    told = [json.loads(line) for line in done.out.splitlines()]
    assert [each["outcome"] for each in told] == ["retried", "kept", "retried", "retried"], done
    assert "max.message.bytes" in told[1]["why"] and graveyard.listed() == ["0:1"]
    assert {id_of(record) for record in graveyard.records} - {id_of(graveyard.records[1])} == {
        id_of(back) for back in graveyard.put_back()
    }


def topic_config(topic: str, size: int) -> Any:
    from kafka.admin import ConfigResource, ConfigResourceType

    return ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(size)})


# What was resolved is remembered.


def test_two_at_once_remember_what_both_did(graveyard: Graveyard) -> None:
    for number in range(6):
        graveyard.put(job(number))
    with (
        DeadLetters(graveyard.hosts, graveyard.topic, {}) as one,
        DeadLetters(graveyard.hosts, graveyard.topic, {}) as other,
    ):
        for box, offset in ((one, 0), (other, 4), (one, 2)):
            list(resolve(box, box.named([(graveyard.first, offset)]), drop))
        other.resolved.confirm()
        assert [letter.name for letter in other.newest(Selection())] == ["0:5", "0:3", "0:1"]
    assert graveyard.listed() == ["0:5", "0:3", "0:1"]


def test_what_another_has_overwritten_is_committed_again(
    graveyard: Graveyard, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        graveyard.put(job(number))
    with (
        DeadLetters(graveyard.hosts, graveyard.topic, {}) as box,
        DeadLetters(graveyard.hosts, graveyard.topic, {}) as other,
    ):
        box.resolved.add([(graveyard.first, 1)])
        other._client.commit(
            {graveyard.first: Committed(0, offset_map.encode(0, [(3, 4)]).text)}
        )  # it has read before, and commits after
        box.resolved.confirm()
        assert graveyard.listed() == ["0:2", "0:0"]
        other._client.commit({graveyard.first: Committed(0, "1vdamaged")})
        box.resolved.confirm()
    assert graveyard.listed() == ["0:3", "0:2", "0:0"] and "show as open" in caplog.text


def test_two_processes_at_once_lose_nothing(graveyard: Graveyard, tmp_path: Path) -> None:
    for part, count in (("timeout", 700), ("failure", 700)):
        for number in range(count):
            told = DeadLetter(graveyard.origin, 0, number, part)
            graveyard._producer.send(graveyard.topic, **as_dead_letter(job(number), told)._asdict())
    graveyard._producer.flush()
    where = (f"--hosts={graveyard.hosts}", f"--dead-letter-topic={graveyard.topic}", "--yes")
    with (
        Program(tmp_path, "dlq", "retry", "--reason=timeout", *where) as one,
        Program(tmp_path, "dlq", "retry", "--reason=failure", *where) as other,
    ):
        assert (one.end().status, other.end().status) == (0, 0)
    with DeadLetters(graveyard.hosts, graveyard.topic, {}) as box:
        everything = {letter.job_id for letter in box.newest(Selection(), include_resolved=True)}
    back = [id_of(record) for record in graveyard.put_back()]
    assert len(everything) == 1400 == len(back) and set(back) == everything


def test_a_group_with_members_is_refused(graveyard: Graveyard) -> None:
    graveyard.put(job(1))
    member = KafkaConsumer(
        graveyard.topic,
        bootstrap_servers=graveyard.hosts,
        group_id=graveyard.group,
        enable_auto_commit=False,
    )
    try:
        while not member.assignment():
            member.poll(200)
        for verb in ("drop", "retry"):
            told = only_line(graveyard.kq(verb, "0:0"))
            assert (
                told.startswith(f"Error: group {graveyard.group!r} has members")
                and "`kq info --group=" in told
            )
    finally:
        member.close()
    assert graveyard.listed() == ["0:0"] and not graveyard.put_back()


def test_letters_that_retention_has_deleted_are_not_missed(graveyard: Graveyard) -> None:
    for number in range(5):
        graveyard.put(job(number))
    ok(graveyard.kq("drop", "0:3"))
    with_admin(
        graveyard.hosts, lambda admin: admin.delete_records({TopicPartition(graveyard.topic, 0): 2})
    )
    assert graveyard.listed() == ["0:4", "0:2"]
    assert "has offsets 2 to 4" in only_line(graveyard.kq("show", "0:1"))
    assert "Retried: 2. Open in" in ok(graveyard.kq("retry", "--all", "--yes")).err
    assert noted(graveyard.hosts, graveyard.group, graveyard.topic)[0] == (
        5,
        (),
        commit_metadata.NOTHING,
    )


def test_letters_of_a_topic_that_was_made_anew_are_all_open(graveyard: Graveyard) -> None:
    """Whatever was resolved in the old one: offsets alone (0 to 1), and in the map above them
    (3)."""
    for number in range(5):
        graveyard.put(job(number))
    ok(graveyard.kq("drop", "0:0", "0:1", "0:3"))
    kept = group_offsets(graveyard.hosts, graveyard.group)
    recreate_topic(graveyard.hosts, graveyard.topic, 1)
    put_back(graveyard.hosts, graveyard.group, kept)
    for number in range(6):
        graveyard.put(job(number))
    assert graveyard.listed() == ["0:5", "0:4", "0:3", "0:2", "0:1", "0:0"]
    assert ok(graveyard.kq("drop", "0:4")).err.endswith(f"Open in {graveyard.topic}: 5.\n")
    assert graveyard.listed() == ["0:5", "0:3", "0:2", "0:1", "0:0"]
    assert (
        f"Retried: 5. Open in {graveyard.topic}: 0.\n"
        in ok(graveyard.kq("retry", "--all", "--yes")).err
    )


def test_a_letter_that_came_and_was_resolved_after_another_command_began_stays_so(
    graveyard: Graveyard,
) -> None:
    graveyard.put(job(0))
    with DeadLetters(graveyard.hosts, graveyard.topic, {}) as box:
        graveyard.put(job(1))
        ok(graveyard.kq("drop", "--all", "--yes"))
        list(resolve(box, box.named([(graveyard.first, 0)]), drop))
    assert graveyard.listed() == []


def test_what_was_sent_before_a_kill_and_not_remembered_is_sent_again(graveyard: Graveyard) -> None:
    for number in range(1200):  # three batches
        graveyard._producer.send(
            graveyard.topic,
            **as_dead_letter(
                job(number), DeadLetter(graveyard.origin, 0, number, "failure")
            )._asdict(),
        )
    graveyard._producer.flush()
    code = (
        "import os, signal, sys\n"
        "from embedkq.dlq.resolved import ResolvedLetters\n"
        "add = ResolvedLetters.add\n"
        "def add_once(self, places):\n"
        "    if self._added:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    add(self, places)\n"
        "ResolvedLetters.add = add_once\n"
        "from embedkq.__main__ import main\n"
        "main()\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "dlq",
        "retry",
        f"--hosts={graveyard.hosts}",
        f"--dead-letter-topic={graveyard.topic}",
    ]
    killed = subprocess.run(
        [*command, "--all", "--yes"],
        env=environment(),
        capture_output=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(graveyard.put_back()) == 1000 and len(graveyard.listed("--limit=0")) == 700
    assert "Retried: 700." in ok(graveyard.kq("retry", "--all", "--yes")).err
    back = graveyard.put_back()
    assert len(back) == 1700 and len({id_of(record) for record in back}) == 1200


# Without Kafka.


MARK = TopicMark(2**62 + 7, 2)


class FakeClient:
    """Keeps a group's offsets as Kafka does."""

    group = "group"

    def __init__(self) -> None:
        self.offsets: dict[Partition, Committed] = {}

    def progress(self, logs: dict[Partition, Log]) -> dict[Partition, PartitionProgress]:
        told = {
            partition: read_progress(self.offsets[partition], log)
            for partition, log in logs.items()
            if partition in self.offsets
        }
        return {partition: progress for partition, progress in told.items() if progress is not None}

    def commit(self, offsets: dict[Partition, Committed]) -> None:
        assert all(len(text) <= offset_map.LIMIT for _, text in offsets.values())
        self.offsets |= offsets


def resolved_letters(client: Any, first: int = 0, last: int = 100_000) -> ResolvedLetters:
    return ResolvedLetters(client, {P0: Log(first, last, MARK), P1: Log(0, 0, MARK)})


@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 59), max_size=8)), max_size=12),
)
@settings(max_examples=200)
def test_what_is_added_in_any_order_is_resolved_and_nothing_else(
    first: int, turns: list[tuple[bool, set[int]]]
) -> None:
    client = FakeClient()
    two = [resolved_letters(client, first, 60), resolved_letters(client, first, 60)]
    expected: set[int] = set()
    for who, offsets in turns:
        meant = {offset for offset in offsets if offset >= first}
        two[who].add((P0, offset) for offset in meant)
        expected |= meant
    for each in (*two, resolved_letters(client, first, 60)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(resolved, "AGAIN_SECONDS", 0)
            each.confirm()
        assert {offset for offset in range(first, 60) if (P0, offset) in each} == expected
        assert each.open_count() == 60 - first - len(expected)
        assert all((P0, offset) in each for offset in range(first, each.starting_offset(P0)))


def test_what_cannot_be_noted_is_not_done() -> None:
    client = FakeClient()
    box = resolved_letters(client)
    source = random.Random(7)
    offsets = sorted(source.sample(range(100_000), 30_000))
    fits = box.room(P0, offsets)
    assert 0 < fits < len(offsets)
    box.add((P0, offset) for offset in offsets[:fits])
    box.confirm()
    assert box.room(P0, offsets[fits : fits + 50]) < 50
    assert (
        box.room(P0, range(offsets[fits - 1] + 1)) == offsets[fits - 1] + 1
    )  # the oldest ones make room
    box.add((P0, offset) for offset in range(offsets[fits - 1] + 1))
    assert client.offsets[P0] == make_commit(offsets[fits - 1] + 1, (), MARK)[0]


def test_a_broker_that_drops_metadata_is_told() -> None:
    client = FakeClient()
    client.commit = lambda offsets: client.offsets.update(
        {partition: Committed(at, "") for partition, (at, _) in offsets.items()}
    )  # type: ignore
    box = resolved_letters(client)
    box.add([(P0, 0)])
    box.confirm()
    box.add([(P0, 7)])
    with pytest.raises(
        EmbedkqError, match=r"group 'group' did not keep the record.*development broker"
    ):
        box.confirm()


@given(st.binary(max_size=60))
@settings(max_examples=300)
def test_any_record_is_a_letter_or_told_to_be_none(noise: bytes) -> None:
    class Found:
        partition, offset, timestamp, key, value = P0, 0, 0, noise, noise
        headers = [
            (noise.decode("latin-1"), noise),
            ("embedkq", noise),
            ("embedkq-dead-time", noise),
        ]

    letter = read_letter(Found, False)
    assert letter.dead is None and letter.problem
    json.dumps(letter.as_full_dict())


def test_the_action_of_retry_is_nothing_for_nobody(graveyard: Graveyard) -> None:
    with Retry(graveyard.hosts, graveyard.topic, None, {}, {}) as action:
        assert action([]) == []
