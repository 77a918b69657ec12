"""TLS, passwords and rights on a real broker: who is let in, and that whoever is not is told what
to change, never the password."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import brokers
import pytest
import workerjobs as jobs
from brokers import Broker
from certificates import PASSPHRASE, Authority
from commandline import Program
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    NewTopic,
    ResourcePattern,
    ResourcePatternFilter,
    ResourceType,
    UserScramCredentialUpsertion,
)
from kafka.errors import KafkaError
from support import Recorder, Sender, end_offsets, fire_until, lag, wait_until

from embedkq import Queue, Worker, _options
from embedkq._clients.admin import Inspector, describe, member_ids
from embedkq._clients.producer import Message
from embedkq._formats.dead_letter import DeadLetter, Record, as_dead_letter
from embedkq._group_offsets import GroupOffsets
from embedkq.dlq import DeadLetters
from embedkq.dlq.retry import Retry
from embedkq.errors import (
    BrokerRefused,
    BrokerUnavailable,
    EmbedkqError,
    EnqueueFailed,
    JobTooLarge,
    WorkerFailed,
)

pytestmark = pytest.mark.needs("listeners", "properties")

WITHIN = 15.0
"""Seconds in which whoever is not let in is told so."""
MECHANISM = "SCRAM-SHA-256"
LISTENERS = {
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "REVOKED": "SSL",
    "LOCALHOST": "SSL",
    "SASL": "SASL_SSL",
    "SHORT": "SASL_SSL",
}
RIGHTS = {
    "full": [("ALL", "TOPIC"), ("ALL", "GROUP")],
    "nobody": [],
    "changing": [],
    "renamed": [("ALL", "TOPIC"), ("ALL", "GROUP")],
    "seer": [("DESCRIBE", "TOPIC"), ("ALL", "GROUP")],
    "groupless": [("ALL", "TOPIC")],
    "topicless": [("ALL", "GROUP")],
    "reader": [("READ", "TOPIC"), ("ALL", "GROUP")],
    "looker": [("READ", "TOPIC"), ("DESCRIBE", "GROUP")],
}
"""Users, and what each may do: an operation on all topics or groups."""


def password_of(user: str) -> str:
    return f"hush-hush-{user}-4711"


class Secured:
    """A broker with a listener for each kind of trouble, and what its clients need."""

    def __init__(self, kind: type[Broker], folder: Path) -> None:
        self.ours, self.theirs = (
            Authority(folder / "ours", "ours"),
            Authority(folder / "theirs", "theirs"),
        )
        servers = {
            name: self.ours.issue(
                name, *(["DNS:localhost"] if name == "LOCALHOST" else []), expired=name == "EXPIRED"
            )
            for name in LISTENERS
        }
        self.client, self.expired_client = (
            self.ours.issue("client"),
            self.ours.issue("former", expired=True),
        )
        self.strange_client = self.theirs.issue("stranger")
        self.empty_list, self.expired_list = (
            self.ours.revocation_list("empty"),
            self.ours.revocation_list("late", expired=True),
        )
        self.revocations = self.ours.revocation_list("revoked", [servers["REVOKED"]])
        self.their_list = self.theirs.revocation_list("theirs")
        files = {f"{name}.pem": server.keystore() for name, server in servers.items()}
        files["ca.pem"] = Path(self.ours.cafile).read_bytes()
        self.broker = brokers.make(kind, server_properties(), listeners=LISTENERS, files=files)
        self.secrets = [password_of(user) for user in RIGHTS] + [PASSPHRASE]

    @property
    def hosts(self) -> str:
        """Of the listener without any protection, for the tests' own needs."""
        return self.broker.hosts

    def give_rights(self) -> None:
        """Make all users."""
        admin = KafkaAdminClient(bootstrap_servers=self.hosts)
        admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion(user, MECHANISM, password_of(user)) for user in RIGHTS]
        )
        told = admin.create_acls(
            [rule(user, *right) for user, rights in RIGHTS.items() for right in rights]
        )
        assert not told["failed"]
        admin.close()

    def make_topic(self) -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        with_admin(
            self.hosts,
            lambda admin: admin.create_topics(
                [NewTopic(name, num_partitions=1, replication_factor=1)]
            ),
        )
        return name

    def login(self, user: str, password: str | None = None) -> dict[str, Any]:
        """Arguments of Queue and Worker."""
        kafka = {
            "sasl_mechanism": MECHANISM,
            "sasl_plain_username": user,
            "sasl_plain_password": password or password_of(user),
        }
        return {"cafile": self.ours.cafile, "kafka": kafka}


def server_properties() -> dict[str, str]:
    made = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:CN=client",
        "listener.name.mutual.ssl.client.auth": "required",
        # A session so short that a worker logs in again and again while a test runs.
        f"listener.name.short.{MECHANISM.lower()}.connections.max.reauth.ms": "2000",
    }
    for name, protocol in LISTENERS.items():
        prefix = f"listener.name.{name.lower()}"
        made |= {
            f"{prefix}.ssl.keystore.type": "PEM",
            f"{prefix}.ssl.keystore.location": f"{{folder}}/{name}.pem",
            f"{prefix}.ssl.truststore.type": "PEM",
            f"{prefix}.ssl.truststore.location": "{folder}/ca.pem",
        }
        if protocol == "SASL_SSL":
            made |= {
                f"{prefix}.sasl.enabled.mechanisms": MECHANISM,
                f"{prefix}.{MECHANISM.lower()}.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            }
    return made


def rule(user: str, operation: str, kind: str, name: str = "*") -> ACL:
    resource = ResourcePattern(ResourceType[kind], name)
    return ACL(f"User:{user}", "*", ACLOperation[operation], ACLPermissionType.ALLOW, resource)


def with_admin(hosts: str, ask: Callable[[KafkaAdminClient], Any]) -> Any:
    admin = KafkaAdminClient(bootstrap_servers=hosts)
    try:
        return ask(admin)
    finally:
        admin.close()


@pytest.fixture(scope="module")
def secured(
    broker_kind: type[Broker], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    """One broker for all: starting one takes seconds."""
    brokers.require(broker_kind, {"listeners", "properties"})
    made = Secured(broker_kind, tmp_path_factory.mktemp("security"))
    with made.broker:
        made.give_rights()
        yield made


@pytest.fixture
def topic(secured: Secured) -> str:
    return secured.make_topic()


@pytest.fixture(scope="module")
def untouched(secured: Secured) -> str:
    """A topic to which only those write who are not let in."""
    return secured.make_topic()


# How clients are told: by name, by kafka={...}, on the command line.


@dataclass
class Way:
    """Where to connect and with what; `words` are those that a refusal has, and `broker` tells
    which listener."""

    listener: str
    files: Mapping[str, str]
    kafka: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def named(self) -> dict[str, Any]:
        return {**self.files, "kafka": dict(self.kafka)}

    def as_options(self) -> dict[str, Any]:
        files = {f"ssl_{name}": path for name, path in self.files.items()}
        return {
            "kafka": {
                **files,
                **self.kafka,
                "security_protocol": "SASL_SSL" if "sasl_mechanism" in self.kafka else "SSL",
            }
        }

    def on_command_line(self, folder: Path) -> list[str]:
        given = [f"--{name}={path}" for name, path in self.files.items()]
        if self.kafka:
            file = folder / "kafka.json"
            file.write_text(json.dumps(self.kafka))
            given.append(f"--kafka-file={file}")
        return given


STYLES: dict[str, Callable[[Way], dict[str, Any]]] = {"named": Way.named, "kafka": Way.as_options}


def good_ways(secured: Secured) -> dict[str, Way]:
    ca = {"cafile": secured.ours.cafile}
    return {
        "TLS": Way("TLS", ca),
        "TLS with a revocation list": Way("TLS", {**ca, "crlfile": secured.revocations}),
        "mutual TLS": Way("MUTUAL", {**ca, **secured.client.files}),
        "an encrypted key": Way(
            "MUTUAL",
            {**ca, "certfile": secured.client.certfile, "keyfile": secured.client.encrypted_key()},
            {"ssl_password": PASSPHRASE},
        ),
        "a password": Way("SASL", ca, secured.login("full")["kafka"]),
    }


BAD = (
    "wrong authority",
    "other host name",
    "expired",
    "revoked",
    "list of another authority",
    "list out of date",
    "no certificate",
    "own certificate expired",
    "own certificate of another authority",
    "wrong password",
    "unknown user",
    "unknown mechanism",
    "no password",
    "password where none is asked for",
)


def bad_way(secured: Secured, fault: str) -> Way:
    ca, theirs = {"cafile": secured.ours.cafile}, secured.theirs.cafile
    former, strange = secured.expired_client, secured.strange_client
    login, wrong = (
        secured.login("full")["kafka"],
        secured.login("full", password_of("nobody"))["kafka"],
    )
    stranger = secured.login("unknown", password_of("full"))["kafka"]
    return {
        "wrong authority": Way(
            "TLS", {"cafile": theirs}, words=("certificate verify failed", "cafile", theirs)
        ),
        "other host name": Way(
            "LOCALHOST", ca, words=("certificate verify failed", "'127.0.0.1'", "hosts")
        ),
        "expired": Way("EXPIRED", ca, words=("has expired", "broker's certificate")),
        "revoked": Way(
            "REVOKED",
            {**ca, "crlfile": secured.revocations},
            words=("certificate revoked", "crlfile", secured.revocations),
        ),
        "list of another authority": Way(
            "TLS",
            {**ca, "crlfile": secured.their_list},
            words=("crlfile", secured.their_list, "no revocation list"),
        ),
        "list out of date": Way(
            "TLS",
            {**ca, "crlfile": secured.expired_list},
            words=("crlfile", secured.expired_list, "out of date"),
        ),
        "no certificate": Way(
            "MUTUAL", ca, words=("certfile", "keyfile", "requires a client certificate")
        ),
        "own certificate expired": Way(
            "MUTUAL", {**ca, **former.files}, words=("certfile", former.certfile)
        ),
        "own certificate of another authority": Way(
            "MUTUAL", {**ca, **strange.files}, words=("certfile", strange.certfile)
        ),
        "wrong password": Way(
            "SASL", ca, wrong, words=("sasl_plain_username", "sasl_plain_password")
        ),
        "unknown user": Way(
            "SASL", ca, stranger, words=("sasl_plain_username", "sasl_plain_password")
        ),
        "unknown mechanism": Way(
            "SASL",
            ca,
            {**login, "sasl_mechanism": "PLAIN"},
            words=("sasl_mechanism", "PLAIN", MECHANISM),
        ),
        "no password": Way(
            "SASL", ca, words=("sasl_mechanism", "sasl_plain_username", "sasl_plain_password")
        ),
        "password where none is asked for": Way(
            "TLS", ca, login, words=("sasl_mechanism", "SASL listener")
        ),
    }[fault]


def seconds_and_error(act: Callable[[], Any]) -> tuple[float, BaseException | None]:
    began = time.monotonic()
    try:
        act()
    except Exception as error:
        return time.monotonic() - began, error
    return time.monotonic() - began, None


def all_text(error: BaseException) -> str:
    """What anyone could print of an error, its causes included."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))


def check_told(
    way: Way, hosts: str, seconds: float, error: BaseException | None, secrets: list[str]
) -> None:
    assert isinstance(error, BrokerRefused), repr(error)
    assert seconds < WITHIN
    for word in (hosts, *way.words):
        assert word in str(error), str(error)
    assert not [
        secret
        for secret in secrets
        if secret in all_text(error) or secret.encode() in pickle.dumps(error)
    ]
    assert "\n" not in str(error)


# Who is let in.


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "way", ["TLS", "TLS with a revocation list", "mutual TLS", "an encrypted key", "a password"]
)
def test_who_has_the_right_files_and_password_is_let_in(
    secured: Secured, topic: str, group: str, way: str, style: str
) -> None:
    good = good_ways(secured)[way]
    hosts, given = secured.broker.address(good.listener), STYLES[style](good)
    recorder = Recorder()
    with (
        Queue(hosts, topic, **given) as queue,
        Worker(hosts, topic, callback=recorder, group=group, **given) as worker,
    ):
        job = queue.enqueue(jobs.echo, way)
        fire_until(worker, lambda: recorder.calls, "the callback")
        with Inspector(hosts, **connection(**given)) as inspector:
            assert inspector.members(group) and inspector.describe(topic).topics == (topic,)
    assert [(call.status, call.job.id) for call in recorder.calls] == [("success", job.id)]


def connection(kafka: Mapping[str, Any] | None = None, **files: str) -> dict[str, Any]:
    """What an admin client takes of these arguments of Queue and Worker."""
    paths = _options.TLSFiles(**files)
    return _options.client_config(paths, kafka, owned=(), known=set(kafka or ()), owner="test")


@pytest.mark.parametrize("way", ["mutual TLS", "a password"])
def test_the_command_line_is_let_in(secured: Secured, way: str, tmp_path: Path) -> None:
    good = good_ways(secured)[way]
    where = [f"--hosts={secured.broker.address(good.listener)}", *good.on_command_line(tmp_path)]
    topic = secured.make_topic()
    with Queue(secured.hosts, topic) as queue:
        queue.enqueue(jobs.echo, 1)
    dead = secured.make_topic()
    with Sender(secured.hosts, dead) as sender:
        letter = as_dead_letter(Record(None, b"x", ()), DeadLetter(topic, 0, 0, "malformed"))
        sender.send_record(letter.value, letter.headers)
        sender.flush()
    verbs = [
        ("worker", f"--topic={topic}", "--burst", "--verbose"),
        ("info", f"--topic={topic}", "--json"),
        ("demo", "--jobs=5"),
        ("dlq", "retry", "0:0", f"--dead-letter-topic={dead}"),
    ]
    programs = [Program(tmp_path, *verb, *where) for verb in verbs]
    worker, info, demo, retried = ended = [ended_of(program) for program in programs]
    assert [done.status for done in ended] == [0, 0, 0, 0], ended
    assert retried.err == f"Retried: 1. Open in {dead}: 0.\n"
    assert (
        worker.err.count(" returned: ") == 1
        and json.loads(info.out)["topics"] == [topic]
        and "exactly one correct callback" in demo.out
    )
    assert not [
        secret for secret in secured.secrets for done in ended if secret in done.out + done.err
    ]


@pytest.mark.parametrize("way", ["mutual TLS", "a password"])
def test_a_failed_job_dies_is_seen_and_comes_back_by_the_same_way(
    secured: Secured, topic: str, group: str, way: str, tmp_path: Path
) -> None:
    good, dead, notes = good_ways(secured)[way], secured.make_topic(), str(tmp_path / "notes")
    hosts = secured.broker.address(good.listener)
    where = [f"--hosts={hosts}", f"--dead-letter-topic={dead}", *good.on_command_line(tmp_path)]
    with Queue(hosts, topic, **good.named()) as queue:
        queue.enqueue(jobs.fail_times, notes, "x", 1)

    def run() -> list[str]:
        recorder = Recorder()
        Worker(
            hosts, topic, callback=recorder, group=group, dead_letter_topic=dead, **good.named()
        ).start(burst=True)
        return [call.status for call in recorder.calls]

    assert run() == ["failure"]
    listed = ended_of(Program(tmp_path, "dlq", "list", "--json", *where))
    assert (
        json.loads(listed.out)["exception"] == "FileNotFoundError: time 1" and not listed.status
    ), listed
    retried = ended_of(Program(tmp_path, "dlq", "retry", "0:0", *where))
    assert retried.err == f"Retried: 1. Open in {dead}: 0.\n", retried
    assert run() == ["success"]
    assert not [
        secret
        for secret in secured.secrets
        for done in (listed, retried)
        if secret in done.out + done.err
    ]


def ended_of(program: Program) -> Any:
    with program:
        return program.end()


def test_one_broker_that_lets_in_is_enough(secured: Secured, topic: str, group: str) -> None:
    hosts = ",".join(secured.broker.address(name) for name in ("EXPIRED", "TLS"))
    recorder = Recorder()
    with Queue(hosts, topic, cafile=secured.ours.cafile) as queue:
        queue.enqueue(jobs.echo, 1)
    with Worker(hosts, topic, callback=recorder, group=group, cafile=secured.ours.cafile) as worker:
        fire_until(worker, lambda: recorder.calls, "the callback")


# Who is not.


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("fault", BAD)
def test_who_is_not_let_in_is_told_what_to_change(
    secured: Secured, untouched: str, fault: str, style: str
) -> None:
    bad = bad_way(secured, fault)
    hosts, given = secured.broker.address(bad.listener), STYLES[style](bad)
    with Queue(hosts, untouched, **given) as queue:
        check_told(
            bad, hosts, *seconds_and_error(lambda: queue.enqueue(jobs.echo, 1)), secured.secrets
        )
    check_told(
        bad,
        hosts,
        *seconds_and_error(lambda: Inspector(hosts, **connection(**given))),
        secured.secrets,
    )
    worker = Worker(hosts, untouched, **given)
    check_told(
        bad,
        hosts,
        *seconds_and_error(worker.start if style == "kafka" else worker.start_background),
        secured.secrets,
    )
    assert worker.state == "failed" and isinstance(worker.error, BrokerRefused)


def test_nothing_came_from_who_was_not_let_in(secured: Secured, untouched: str) -> None:
    assert end_offsets(secured.hosts, untouched) == {0: 0}


@pytest.mark.parametrize(
    "fault",
    [
        "wrong authority",
        "other host name",
        "expired",
        "revoked",
        "no certificate",
        "wrong password",
    ],
)
def test_the_command_line_tells_it_in_one_line(
    secured: Secured, topic: str, fault: str, tmp_path: Path
) -> None:
    bad = bad_way(secured, fault)
    hosts = secured.broker.address(bad.listener)
    where = [f"--hosts={hosts}", *bad.on_command_line(tmp_path)]
    programs = [
        Program(tmp_path, *verb, *where)
        for verb in (("worker", f"--topic={topic}"), ("info",), ("demo",))
    ]
    for program in programs:
        check_one_line(ended_of(program), (hosts, *bad.words), secured.secrets)


def check_one_line(done: Any, words: tuple[str, ...], secrets: list[str]) -> None:
    assert done.status == 1 and done.seconds < WITHIN, done
    assert len(done.err.splitlines()) == 1 and all(word in done.err for word in words), done
    assert not [secret for secret in secrets if secret in done.out + done.err], done


# Rights.


@pytest.mark.parametrize("user", ["nobody", "seer", "topicless"])
def test_a_queue_without_the_right_to_write_tells_so(
    secured: Secured, topic: str, user: str
) -> None:
    hosts = secured.broker.address("SASL")
    with Queue(hosts, topic, **secured.login(user)) as queue:
        for _ in range(2):
            way = Way("SASL", {}, words=("may not write", f"WRITE on topic {topic!r}"))
            check_told(
                way, hosts, *seconds_and_error(lambda: queue.enqueue(jobs.echo, 1)), secured.secrets
            )
    assert sum(end_offsets(secured.hosts, topic).values()) == 0


@pytest.mark.parametrize(
    ("user", "lacking"),
    [("nobody", "topic"), ("seer", "topic"), ("topicless", "topic"), ("groupless", "group")],
)
def test_a_worker_without_the_right_to_read_ends_and_tells_so(
    secured: Secured, topic: str, group: str, user: str, lacking: str
) -> None:
    hosts = secured.broker.address("SASL")
    worker = Worker(hosts, topic, group=group, **secured.login(user))
    way = Way(
        "SASL",
        {},
        words=("may not read", f"READ on {lacking} {(topic if lacking == 'topic' else group)!r}"),
    )
    check_told(way, hosts, *seconds_and_error(worker.start), secured.secrets)
    assert worker.state == "failed" and isinstance(worker.error, BrokerRefused)


@pytest.mark.parametrize(
    ("user", "words"),
    [
        ("nobody", ("READ on topic", "DESCRIBE on that topic", "CREATE on topic")),
        ("groupless", ("READ on group", "DESCRIBE on group", "READ on group")),
    ],
)
def test_the_command_line_names_the_right_that_is_missing(
    secured: Secured, topic: str, group: str, user: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    hosts = secured.broker.address("SASL")
    login = secured.login(user)
    where = [
        f"--hosts={hosts}",
        *Way("SASL", {"cafile": login["cafile"]}, login["kafka"]).on_command_line(tmp_path),
    ]
    which = ("--group", group) if user == "groupless" else ("--topic", topic)
    verbs = [
        ("worker", f"--topic={topic}", f"--group={group}"),
        ("info", *which),
        ("demo", "--jobs=5"),
    ]
    programs = [Program(tmp_path, *verb, *where) for verb in verbs]
    for program, word in zip(programs, words, strict=True):
        check_one_line(ended_of(program), (hosts, word), secured.secrets)


@pytest.mark.parametrize(
    ("user", "verb", "word"),
    [
        ("nobody", "list", "DESCRIBE on that topic"),
        ("seer", "list", "READ on topic"),
        ("groupless", "list", "DESCRIBE on group"),
        ("looker", "drop", "READ on group"),
        ("looker", "retry", "READ on group"),
        ("reader", "retry", "WRITE on topic"),
    ],
)
def test_dead_letters_name_the_right_that_is_missing(
    secured: Secured, topic: str, user: str, verb: str, word: str, tmp_path: Path
) -> None:
    with Sender(secured.hosts, topic) as sender:
        letter = as_dead_letter(
            Record(None, b"x", ()), DeadLetter(secured.make_topic(), 0, 0, "malformed")
        )
        sender.send_record(letter.value, letter.headers)
        sender.flush()
    login = secured.login(user)
    way = Way("SASL", {"cafile": login["cafile"]}, login["kafka"])
    where = [f"--hosts={secured.broker.address('SASL')}", *way.on_command_line(tmp_path)]
    which = [] if verb == "list" else ["0:0"]
    done = ended_of(Program(tmp_path, "dlq", verb, *which, f"--dead-letter-topic={topic}", *where))
    assert done.status == 1 and word in done.err.splitlines()[0] and "Traceback" not in done.err, (
        done
    )


def test_dead_letters_wait_until_the_worker_may_write_them(
    secured: Secured, topic: str, group: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    dead, hosts, login = (
        secured.make_topic(),
        secured.broker.address("SASL"),
        secured.login("changing"),
    )
    grant(
        secured, rule("changing", "READ", "TOPIC", topic), rule("changing", "READ", "GROUP", group)
    )
    with Queue(secured.hosts, topic) as queue:
        job = queue.enqueue(os.path.getsize, str(tmp_path / "missing"))
    recorder = Recorder()
    with Worker(
        hosts, topic, callback=recorder, group=group, dead_letter_topic=dead, **login
    ) as worker:
        fire_until(
            worker,
            lambda: f"WRITE on topic {dead!r}" in caplog.text,
            "the right that is missing is told",
        )
        assert end_offsets(secured.hosts, dead) == {0: 0} and lag(secured.hosts, group, topic) == 1
        grant(secured, rule("changing", "WRITE", "TOPIC", dead))
        fire_until(
            worker,
            lambda: all_done(secured, group, topic),
            "the letter is written, and its record done",
        )
    where = [
        f"--hosts={hosts}",
        f"--dead-letter-topic={dead}",
        *good_ways(secured)["a password"].on_command_line(tmp_path),
    ]
    listed = json.loads(ended_of(Program(tmp_path, "dlq", "list", "--json", *where)).out)
    assert (listed["reason"], listed["job"]) == ("failure", job.id)
    assert [call.status for call in recorder.calls] == ["failure"]
    assert not [secret for secret in secured.secrets if secret in caplog.text]


def all_done(secured: Secured, group: str, topic: str) -> bool:
    try:
        return lag(secured.hosts, group, topic) == 0
    except KafkaError:  # a fresh broker, for its first seconds
        return False


def test_a_right_that_is_granted_later_counts_at_once(secured: Secured, topic: str) -> None:
    with Queue(secured.broker.address("SASL"), topic, **secured.login("changing")) as queue:
        with pytest.raises(BrokerRefused):
            queue.enqueue(jobs.echo, 1)
        grant(secured, rule("changing", "WRITE", "TOPIC", topic))
        wait_until(
            lambda: seconds_and_error(lambda: queue.enqueue(jobs.echo, 2))[1] is None,
            "a job is taken",
        )
    assert sum(end_offsets(secured.hosts, topic).values()) == 1


@pytest.mark.parametrize("lost", ["topic", "group"])
def test_a_worker_that_loses_a_right_while_it_runs_ends_and_tells_so(
    secured: Secured, topic: str, group: str, lost: str
) -> None:
    hosts = secured.broker.address("SASL")
    rules = {
        "topic": rule("changing", "READ", "TOPIC", topic),
        "group": rule("changing", "READ", "GROUP", group),
    }
    grant(secured, *rules.values())
    recorder = Recorder()
    worker = Worker(
        hosts, topic, callback=recorder, group=group, **secured.login("changing")
    ).start_background()
    with Queue(secured.hosts, topic) as queue:
        queue.enqueue(jobs.echo, 1)
    fire_until(worker, lambda: recorder.calls, "the callback")
    revoke(secured, rules[lost])
    way = Way("SASL", {}, words=(f"READ on {lost}",))
    check_told(
        way,
        hosts,
        *seconds_and_error(lambda: worker.wait(WITHIN) and worker.run_callbacks()),
        secured.secrets,
    )
    assert worker.state == "failed"


def test_a_worker_whose_password_is_changed_while_it_runs_ends_and_tells_so(
    secured: Secured, topic: str, group: str
) -> None:
    hosts = secured.broker.address("SHORT")
    recorder = Recorder()
    worker = Worker(
        hosts, topic, callback=recorder, group=group, **secured.login("renamed")
    ).start_background()
    with Queue(secured.hosts, topic) as queue:
        queue.enqueue(jobs.echo, 1)
    fire_until(worker, lambda: recorder.calls, "the callback")
    change = UserScramCredentialUpsertion("renamed", MECHANISM, "another password")
    with_admin(secured.hosts, lambda admin: admin.alter_user_scram_credentials([change]))
    wait_until(lambda: worker.state == "failed", "the worker has failed")
    way = Way("SHORT", {}, words=("sasl_plain_username", "sasl_plain_password"))
    check_told(way, hosts, *seconds_and_error(worker.run_callbacks), secured.secrets)


def test_a_broker_that_is_revoked_while_clients_run_is_left_and_named(
    secured: Secured, topic: str, group: str, tmp_path: Path
) -> None:
    hosts, crlfile = secured.broker.address("REVOKED"), tmp_path / "list.crl"
    shutil.copy(secured.empty_list, crlfile)
    given = {"cafile": secured.ours.cafile, "crlfile": str(crlfile)}
    recorder = Recorder()
    worker = Worker(hosts, topic, callback=recorder, group=group, **given).start_background()
    with Queue(hosts, topic, **given) as queue:
        queue.enqueue(jobs.echo, 1)
        fire_until(worker, lambda: recorder.calls, "the callback")
        shutil.copy(secured.revocations, crlfile)
        secured.broker.kill()
        secured.broker.start()
        seconds, error = seconds_and_error(lambda: queue.enqueue(jobs.echo, 2))
    assert (
        isinstance(error, BrokerUnavailable | BrokerRefused)
        and "revoked" in str(error)
        and "crlfile" in str(error)
    ), repr(error)
    assert seconds < WITHIN
    wait_until(lambda: worker.state == "failed", "the worker has failed")
    way = Way("REVOKED", given, words=("revoked", "crlfile", str(crlfile)))
    check_told(way, hosts, *seconds_and_error(worker.run_callbacks), secured.secrets)
    assert sum(end_offsets(secured.hosts, topic).values()) == 1


def grant(secured: Secured, *rules: ACL) -> None:
    with_admin(secured.hosts, lambda admin: admin.create_acls(list(rules)))


def revoke(secured: Secured, granted: ACL) -> None:
    named = granted.resource_pattern
    resource = ResourcePatternFilter(
        named.resource_type, named.resource_name, ACLResourcePatternType.LITERAL
    )
    given = ACLFilter(
        granted.principal, granted.host, granted.operation, granted.permission_type, resource
    )
    with_admin(secured.hosts, lambda admin: admin.delete_acls([given]))


# The same fault, whichever door it is met at.


def doors(
    hosts: str, topic: str, group: str, given: Mapping[str, Any]
) -> dict[str, Callable[[], Any]]:
    """All that connects, as an application or a `kq` command calls it."""
    known = connection(**given)

    def enqueue(call: Callable[[Queue], Any]) -> None:
        with Queue(hosts, topic, **given) as queue:
            call(queue)

    def enqueue_many(queue: Queue) -> None:
        with pytest.raises(EnqueueFailed) as caught:
            queue.enqueue_many([jobs.echo] * 2)
        assert caught.value.__cause__ is not None
        raise caught.value.__cause__

    def retry() -> None:
        with Retry(hosts, topic, None, known, known) as action:
            raise action._send({0: Message(topic, b"x", None, (), None)})[0]

    return {
        "enqueue": lambda: enqueue(lambda queue: queue.enqueue(jobs.echo)),
        "enqueue_many": lambda: enqueue(enqueue_many),
        "retry": retry,
        "worker": lambda: Worker(hosts, topic, group=group, **given).start(),
        "background worker": lambda: Worker(hosts, topic, group=group, **given).start_background(),
        "info": lambda: describe(hosts, topic, group, **known),
        "members": lambda: member_ids(hosts, group, known),
        "dead letters": lambda: DeadLetters(hosts, topic, known),
        "offsets": lambda: GroupOffsets(hosts, topic, group, (), known),
    }


def errors_at(which: Mapping[str, Callable[[], Any]]) -> dict[str, BaseException]:
    """What each of these raises; all at once, since each looks for a while."""
    with ThreadPoolExecutor(len(which)) as pool:
        ended = dict(zip(which, pool.map(seconds_and_error, which.values()), strict=True))
    assert not {door: seconds for door, (seconds, _) in ended.items() if seconds > WITHIN}
    assert not [door for door, (_, error) in ended.items() if error is None]
    return {door: error for door, (_, error) in ended.items() if error is not None}


@pytest.mark.parametrize(
    "fault", ["nobody there", "TLS and a plain client", "a plain port and TLS", *BAD]
)
def test_who_is_not_let_in_is_told_the_same_at_every_door(
    secured: Secured, untouched: str, group: str, fault: str
) -> None:
    if fault in BAD:
        bad = bad_way(secured, fault)
        hosts, given = secured.broker.address(bad.listener), bad.named()
    else:
        hosts = {
            "nobody there": "127.0.0.1:1",
            "TLS and a plain client": secured.broker.address("TLS"),
        }.get(fault, secured.hosts)
        given = {"cafile": secured.ours.cafile} if fault == "a plain port and TLS" else {}
    told = errors_at(doors(hosts, untouched, group, given))
    kind = BrokerRefused if fault in (*BAD, "TLS and a plain client") else BrokerUnavailable
    assert {type(error) for error in told.values()} == {kind}, told
    assert len({re.sub(r"within \d+ s", "in time", str(error)) for error in told.values()}) == 1, (
        told
    )


@pytest.mark.parametrize(
    ("user", "lacking", "which"),
    [
        (
            "nobody",
            "topic",
            ("enqueue", "enqueue_many", "retry", "worker", "dead letters", "offsets"),
        ),
        ("groupless", "group", ("worker", "info", "members", "offsets")),
    ],
)
def test_a_right_that_is_missing_is_told_the_same_at_every_door(
    secured: Secured, topic: str, group: str, user: str, lacking: str, which: tuple[str, ...]
) -> None:
    """But for the right itself: reading needs another one than writing."""
    hosts = secured.broker.address("SASL")
    opened = doors(hosts, topic, group, secured.login(user))
    name = topic if lacking == "topic" else group
    said = re.compile(
        rf"this user may not (read|write to|see) {lacking} {name!r} at {hosts}( \(\w+\))?: "
        rf"grant it (READ|WRITE|DESCRIBE) on ({lacking} {name!r}|that topic)"
    )
    for door, error in errors_at({door: opened[door] for door in which}).items():
        assert type(error) is BrokerRefused and said.fullmatch(str(error)), (door, error)


def test_a_topic_that_is_not_there_is_told_the_same_by_every_command(
    secured: Secured, group: str, tmp_path: Path
) -> None:
    missing = f"missing-{group}"
    opened = doors(secured.hosts, missing, group, {})
    told = errors_at({door: opened[door] for door in ("dead letters", "offsets")})
    shown = ended_of(Program(tmp_path, "info", f"--hosts={secured.hosts}", f"--topic={missing}"))
    for door, text in {
        **{door: str(error) for door, error in told.items()},
        "info": shown.err.removeprefix("Error: "),
    }.items():
        assert (
            text.strip().partition(": set")[0]
            == f"there is no topic {missing!r} at {secured.hosts}"
        ), door
    assert {type(error) for error in told.values()} == {BrokerRefused}


def test_what_is_too_large_is_told_the_same_by_queue_and_retry(
    secured: Secured, topic: str
) -> None:
    large = b"x" * 2_000_000
    with (
        Queue(secured.hosts, topic, job_size=3_000_000) as queue,
        pytest.raises(JobTooLarge) as by_queue,
    ):
        queue.enqueue(jobs.echo, large)
    with Retry(secured.hosts, topic, None, {}, {}) as retry:
        by_retry = retry._send({0: Message(topic, large, None, (), None)})[0]
    assert isinstance(by_retry, JobTooLarge) and by_retry.limit == by_queue.value.limit == 1_048_588
    assert re.sub(r"takes [\d,]+", "", str(by_retry)) == re.sub(
        r"takes [\d,]+", "", str(by_queue.value)
    )


# Never in the clear.


class Eavesdropper:
    """A port that lets everyone connect, answers nothing, and remembers what was sent."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.hosts = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.heard: list[bytes] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    self.heard.append(connection.recv(65_536))
                except OSError:
                    pass

    def close(self) -> None:
        self._server.close()


def test_nothing_goes_out_in_the_clear(secured: Secured, group: str) -> None:
    """Clients with TLS at a port without, and one without TLS at a port with it: all at once, since
    each looks for a while."""
    ear = Eavesdropper()
    login, certificate = (
        secured.login("full"),
        {"cafile": secured.ours.cafile, **secured.client.files},
    )
    tls = secured.broker.address("TLS")
    clients: dict[str, Callable[[], Any]] = {
        "queue": lambda: Queue(ear.hosts, "t", **login).enqueue(jobs.echo, 1),
        "queue with a certificate": lambda: Queue(ear.hosts, "t", **certificate).enqueue(
            jobs.echo, 1
        ),
        "worker": Worker(ear.hosts, "t", group=group, **login).start_background,
        "inspector": lambda: Inspector(ear.hosts, **connection(**login)),
        "plain queue": lambda: Queue(tls, "t").enqueue(jobs.echo, 1),
        "plain worker": Worker(tls, "t", group=group).start_background,
        "plain inspector": lambda: Inspector(tls),
    }
    with ThreadPoolExecutor(len(clients)) as pool:
        ended = dict(zip(clients, pool.map(seconds_and_error, clients.values()), strict=True))
    ear.close()
    for client, (seconds, error) in ended.items():
        assert isinstance(
            error, BrokerRefused if client.startswith("plain") else BrokerUnavailable
        ), (client, error)
        assert (
            "TLS" in str(error)
            and ("cafile" in str(error) or "port" in str(error))
            and seconds < WITHIN
        ), (client, error)
    assert len(ear.heard) > 4
    assert {heard[:2] for heard in ear.heard if heard} == {
        b"\x16\x03"
    }  # the first bytes of a TLS handshake
    assert not [
        secret for secret in secured.secrets for heard in ear.heard if secret.encode() in heard
    ]


@pytest.mark.parametrize(
    "kafka",
    [
        {"sasl_mechanism": MECHANISM},
        {"sasl_plain_username": "full", "sasl_plain_password": "hush-hush"},
        {"sasl_plain_password": "hush-hush", "security_protocol": "SASL_SSL"},
        {
            "sasl_mechanism": MECHANISM,
            "sasl_plain_password": "hush-hush",
            "security_protocol": "PLAINTEXT",
        },
        {
            "sasl_mechanism": MECHANISM,
            "sasl_plain_password": "hush-hush",
            "security_protocol": "SSL",
        },
    ],
)
@pytest.mark.parametrize("make", [Queue, Worker])
def test_a_password_that_would_not_be_used_or_not_be_safe_is_refused(
    make: Any, kafka: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="sasl_mechanism") as caught:
        make("localhost:9092", "t", kafka=kafka)
    assert "hush" not in all_text(caught.value).replace('"sasl_plain_password": "hush-hush"', "")


# What the files hold.


def test_files_that_hold_something_else_are_named(secured: Secured, topic: str) -> None:
    hosts, ca = secured.broker.address("MUTUAL"), secured.ours.cafile
    locked = secured.client.encrypted_key()
    for given, word in [
        ({"cafile": secured.client.keyfile}, secured.client.keyfile),
        (
            {
                "cafile": ca,
                "certfile": secured.client.certfile,
                "keyfile": secured.strange_client.keyfile,
            },
            secured.strange_client.keyfile,
        ),
        ({"cafile": ca, "certfile": secured.client.certfile, "keyfile": locked}, "ssl_password"),
        (
            {
                "cafile": ca,
                "certfile": secured.client.certfile,
                "keyfile": locked,
                "kafka": {"ssl_password": "wrong-hush"},
            },
            "ssl_password",
        ),
    ]:
        with Queue(hosts, topic, **given) as queue:
            ends = {
                ValueError: queue.enqueue,
                WorkerFailed: Worker(hosts, topic, **given).start,
                EmbedkqError: inspect_with(hosts, given),
            }
            for kind, act in ends.items():
                seconds, error = seconds_and_error(
                    lambda act=act: act(jobs.echo) if act == queue.enqueue else act()
                )
                assert isinstance(error, kind) and seconds < WITHIN and word in str(error), repr(
                    error
                )
                assert "hush" not in str(error) and PASSPHRASE not in all_text(error)


def inspect_with(hosts: str, given: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: Inspector(hosts, **connection(**given))


def test_a_renewed_revocation_list_counts_from_the_next_connection_on(
    secured: Secured, tmp_path: Path
) -> None:
    crlfile = tmp_path / "list.crl"
    shutil.copy(secured.empty_list, crlfile)
    hosts, given = (
        secured.broker.address("REVOKED"),
        connection(cafile=secured.ours.cafile, crlfile=str(crlfile)),
    )
    Inspector(hosts, **given).close()
    shutil.copy(secured.revocations, crlfile)
    with pytest.raises(BrokerRefused, match="revoked"):
        Inspector(hosts, **given)


# Nothing tells a password.


def test_no_log_no_repr_and_no_record_tells_a_password(
    secured: Secured, topic: str, group: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hosts, login = secured.broker.address("SASL"), secured.login("full")
    recorder = Recorder()
    with (
        Queue(hosts, topic, **login) as queue,
        Worker(hosts, topic, callback=recorder, group=group, **login) as worker,
    ):
        queue.enqueue(jobs.echo, queue, queue.using(key="k"))
        fire_until(worker, lambda: recorder.calls, "the callback")
        shown = [
            repr(queue),
            repr(queue.using(key="k")),
            repr(worker),
            repr(worker.health()),
            repr(recorder.calls),
        ]
        with pytest.raises(TypeError):
            pickle.dumps(worker)
    with (
        Queue(hosts, topic, **secured.login("full", password_of("nobody"))) as wrong,
        pytest.raises(BrokerRefused),
    ):
        wrong.enqueue(jobs.echo, 1)
    consumer = KafkaConsumer(topic, bootstrap_servers=secured.hosts, auto_offset_reset="earliest")
    records = wait_until(lambda: consumer.poll(1000), "the record is read")
    consumer.close()
    said = [*shown, *(record.getMessage() for record in caplog.records), repr(records)]
    assert len(caplog.records) > 20
    assert not [(secret, text) for secret in secured.secrets for text in said if secret in text]


@pytest.mark.parametrize("content", ['{"sasl_plain_password": "hush-hush"', '["hush-hush"]'])
def test_a_file_of_options_that_is_none_is_named_without_what_it_holds(
    content: str, tmp_path: Path
) -> None:
    file = tmp_path / "kafka.json"
    file.write_text(content)
    programs = [
        Program(tmp_path, verb, f"--kafka-file={file}", "--hosts=127.0.0.1:1")
        for verb in ("worker", "info", "demo")
    ]
    for done in map(ended_of, programs):
        assert (
            done.status == 2
            and len(done.err.splitlines()) == 1
            and str(file) in done.err
            and "hush" not in done.out + done.err
        ), done
