"""The brokers that the other tests rely on: each kind really runs, and leaves nothing behind
however its owner ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import brokers
import pytest
from brokers import Broker, Cluster, ExistingHosts
from kafka import KafkaConsumer, KafkaProducer
from support import ROOT, wait_until

OWN_KINDS = [kind for kind in brokers.KINDS.values() if kind is not ExistingHosts]


@pytest.fixture(params=OWN_KINDS, ids=lambda kind: kind.kind)
def own(request: pytest.FixtureRequest) -> Iterator[Broker]:
    kind: type[Broker] = request.param
    try:
        kind.prepare()
    except brokers.Unavailable as error:
        if brokers.in_ci():
            raise
        pytest.skip(str(error))
    with brokers.make(kind) as broker:
        yield broker


def send(hosts: str, topic: str, value: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=hosts)
    try:
        producer.send(topic, value).get(20)
    finally:
        producer.close()


def read(hosts: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=hosts, auto_offset_reset="earliest", consumer_timeout_ms=20_000
    )
    try:
        return [next(consumer).value for _ in range(count)]
    finally:
        consumer.close()


def test_each_kind_takes_and_gives_records_and_comes_back_after_a_kill(own: Broker) -> None:
    topic = f"topic-{uuid.uuid4().hex[:8]}"
    send(own.hosts, topic, b"one")
    assert read(own.hosts, topic, 1) == [b"one"]
    own.kill()
    assert not brokers.is_open(own.hosts)
    own.start()
    send(own.hosts, topic, b"two")
    expected = [b"one", b"two"] if own.keeps_data else [b"two"]
    assert sorted(read(own.hosts, topic, len(expected))) == expected
    own.stop()
    assert not brokers.is_open(own.hosts)


def test_each_kind_can_be_frozen(own: Broker) -> None:
    own.pause()
    producer = None
    try:
        assert brokers.is_open(own.hosts)  # connections are taken, answers do not come
        with pytest.raises(Exception, match=r"(?i)timed? ?out|timeout|bootstrap"):
            producer = KafkaProducer(bootstrap_servers=own.hosts, bootstrap_timeout_ms=1500)
    finally:
        own.resume()
    assert producer is None
    own.wait_ready()
    send(own.hosts, "thawed", b"one")


def test_existing_hosts_are_used_and_never_ended(
    hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDKQ_TEST_HOSTS", hosts)
    monkeypatch.setenv("EMBEDKQ_TEST_BROKER", "hosts")
    assert brokers.choose() is ExistingHosts
    with brokers.make(ExistingHosts) as existing:
        topic = f"topic-{uuid.uuid4().hex[:8]}"
        send(existing.hosts, topic, b"one")
        assert read(existing.hosts, topic, 1) == [b"one"]
        with pytest.raises(brokers.Cannot):
            existing.kill()
    assert brokers.is_open(hosts.split(",")[0])


@pytest.mark.needs("cluster")
def test_a_cluster_outlives_its_first_node(broker: Broker) -> None:
    kind = type(broker)
    with Cluster(3, kind=kind) as cluster:  # type: ignore[arg-type]
        topic = f"topic-{uuid.uuid4().hex[:8]}"
        send(cluster.hosts, topic, b"one")
        cluster.nodes[0].kill()
        send(cluster.hosts, topic, b"two")
        assert sorted(read(cluster.hosts, topic, 2)) == [b"one", b"two"]


STARTS_AND_DIES = """
import sys
sys.path[:0] = {path!r}
import brokers
broker = brokers.make(brokers.KINDS[{kind!r}])
broker.start()
print(broker.hosts, flush=True)
sys.stdin.read()
"""


def test_a_broker_ends_with_its_killed_owner(own: Broker) -> None:
    code = STARTS_AND_DIES.format(path=[str(ROOT), str(ROOT / "tests")], kind=own.kind)
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ},
    )
    assert owner.stdin and owner.stdout
    hosts = owner.stdout.readline().decode().strip()
    assert brokers.is_open(hosts)
    owner.send_signal(signal.SIGKILL)
    owner.wait(30)
    wait_until(lambda: not brokers.is_open(hosts), "the broker has ended with its owner")
    owner.stdin.close()
    owner.stdout.close()


def test_no_broker_is_told_with_every_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EMBEDKQ_TEST_BROKER", "nonsense")
    with pytest.raises(
        ValueError, match="'nonsense': must be one of hosts, docker, jars, embedded"
    ):
        brokers.choose()
    monkeypatch.setenv("EMBEDKQ_TEST_BROKER", "hosts")
    monkeypatch.delenv("EMBEDKQ_TEST_HOSTS", raising=False)
    with pytest.raises(brokers.Unavailable, match="EMBEDKQ_TEST_HOSTS is not set"):
        brokers.choose()
