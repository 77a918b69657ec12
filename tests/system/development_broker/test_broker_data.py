"""What the development broker keeps in a folder: over an end in order, over SIGKILL in the middle
of everything, and by age."""

from __future__ import annotations

import json
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import workerjobs as jobs
from commandline import run
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata
from support import end_offsets, send_many, wait_until

from embedkq import Worker
from embedkq.broker import BrokerFailed, EmbeddedBroker

pytestmark = pytest.mark.usefixtures("embedded_broker_program")

KILLS = 20
RECORDS_BETWEEN = 40


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(data=tmp_path / "kafka") as made:
        yield made


def kill(broker: EmbeddedBroker) -> None:
    assert broker.pid is not None
    os.kill(broker.pid, signal.SIGKILL)
    assert broker.wait(30)


def kill_and_start(broker: EmbeddedBroker) -> None:
    kill(broker)
    broker.start()


def values(hosts: str, topic: str) -> list[bytes]:
    """All values of partition 0, from its beginning to its end."""
    partition = TopicPartition(topic, 0)
    consumer = KafkaConsumer(bootstrap_servers=hosts, auto_offset_reset="earliest")
    try:
        consumer.assign([partition])
        end = consumer.end_offsets([partition])[partition]
        consumer.seek_to_beginning(partition)
        found: list[bytes] = []
        deadline = time.monotonic() + 30
        while consumer.position(partition) < end:
            assert time.monotonic() < deadline, f"at {consumer.position(partition)} of {end}"
            found += [record.value for records in consumer.poll(200).values() for record in records]
        return found
    finally:
        consumer.close()


def commit(hosts: str, group: str, topic: str, offset: int, metadata: str = "") -> None:
    consumer = KafkaConsumer(bootstrap_servers=hosts, group_id=group, enable_auto_commit=False)
    try:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(offset, metadata, -1)})
    finally:
        consumer.close()


def committed(hosts: str, group: str, topic: str) -> tuple[int, str]:
    consumer = KafkaConsumer(bootstrap_servers=hosts, group_id=group, enable_auto_commit=False)
    try:
        found = consumer.committed(TopicPartition(topic, 0), metadata=True)
        return (found.offset, found.metadata) if found is not None else (-1, "")
    finally:
        consumer.close()


def create(hosts: str, topic: str, **configs: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=hosts)
    try:
        admin.create_topics(
            [NewTopic(topic, num_partitions=1, replication_factor=1, topic_configs=configs)]
        )
    finally:
        admin.close()


def send(hosts: str, topic: str, count: int) -> None:
    producer = KafkaProducer(bootstrap_servers=hosts)
    try:
        for future in [
            producer.send(topic, b"%d" % number, partition=0) for number in range(count)
        ]:
            future.get(30)
    finally:
        producer.close()


# SIGKILL.


class Load(threading.Thread):
    """Sends and commits without a pause, and notes what was acknowledged."""

    def __init__(self, hosts: str) -> None:
        super().__init__()
        self.hosts = hosts
        self.number = 0
        self.acknowledged: list[bytes] = []
        self.committed = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self._one_connection()
            except KafkaError:  # the broker is down just now
                time.sleep(0.02)

    def _one_connection(self) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self.hosts,
            bootstrap_timeout_ms=1000,
            request_timeout_ms=1000,
            delivery_timeout_ms=2000,
        )
        try:
            while not self.over.is_set():
                self.number += (
                    1  # never the same again: a later record would stand in for one that is lost
                )
                value = b"%d" % self.number
                producer.send("load", value, partition=0).get(5)
                self.acknowledged.append(value)
                if self.number % 5 == 0:
                    commit(self.hosts, "group", "load", self.number, f"at {self.number}")
                    self.committed = self.number
        finally:
            producer.close(0)


@pytest.mark.hang_guard(400)
def test_what_was_acknowledged_outlives_sigkill_under_load(broker: EmbeddedBroker) -> None:
    create(broker.hosts, "load")
    load = Load(broker.hosts)
    load.start()
    try:
        for _ in range(KILLS):
            so_far = len(load.acknowledged)
            wait_until(
                lambda so_far=so_far: len(load.acknowledged) >= so_far + RECORDS_BETWEEN,
                "some more are acknowledged",
            )
            kill(broker)
            known, at = list(load.acknowledged), load.committed
            broker.start()
            kept = values(broker.hosts, "load")
            assert set(known) <= set(kept)
            offset, metadata = committed(broker.hosts, "group", "load")
            assert offset >= at and metadata == (f"at {offset}" if offset > 0 else "")
    finally:
        load.over.set()
        load.join(60)


def test_a_worker_goes_on_after_sigkill(broker: EmbeddedBroker) -> None:
    told: list[str] = []
    ids = send_many(broker.hosts, "jobs", jobs.echo, [()] * 10)
    with Worker(
        hosts=broker.hosts, topic="jobs", callback=lambda status, job, *rest: told.append(job.id)
    ) as worker:
        assert worker.drain(30)
        kill_and_start(broker)
        more = send_many(broker.hosts, "jobs", jobs.echo, [()] * 10)
        wait_until(
            lambda: worker.run_callbacks(0.1) is not None and set(told) == {*ids, *more},
            "the later ones are done too",
        )
    assert set(told) == {*ids, *more}


def test_a_topic_that_was_made_on_first_use_outlives_sigkill(broker: EmbeddedBroker) -> None:
    send(broker.hosts, "first-use", 3)
    kill_and_start(broker)
    assert values(broker.hosts, "first-use") == [b"0", b"1", b"2"]


def test_a_commit_that_was_cut_in_the_middle_costs_no_later_one(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    create(broker.hosts, "topic")
    commit(broker.hosts, "group", "topic", 1)
    kill(broker)
    with (tmp_path / "kafka" / "groups.log").open("ab") as log:
        log.write(struct.pack("<I", 200) + b"cut")
    broker.start()
    commit(broker.hosts, "group", "topic", 2, "behind it")
    kill_and_start(broker)
    assert committed(broker.hosts, "group", "topic") == (2, "behind it")


def test_an_end_in_order_keeps_topics_offsets_and_records(broker: EmbeddedBroker) -> None:
    create(broker.hosts, "topic")
    send(broker.hosts, "topic", 5)
    commit(broker.hosts, "group", "topic", 3, "a map")
    broker.stop()
    broker.start()
    assert values(broker.hosts, "topic") == [b"%d" % number for number in range(5)]
    assert committed(broker.hosts, "group", "topic") == (3, "a map")


# By age.


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_records_go_by_age_and_offsets_go_on(end: str, broker: EmbeddedBroker) -> None:
    create(broker.hosts, "aging", **{"retention.ms": "100"})
    create(broker.hosts, "lasting")
    for topic in ("aging", "lasting"):
        send(broker.hosts, topic, 10)
    wait_until(lambda: not values(broker.hosts, "aging"), "what is old is gone")
    assert len(values(broker.hosts, "lasting")) == 10 and end_offsets(broker.hosts, "aging") == {
        0: 10
    }
    if end == "stop":
        broker.stop()
    else:
        folder = next(Path(broker._data or "").glob("partitions/aging-0"))
        wait_until(lambda: list(folder.glob("9.dat")), "the end is kept")
        kill(broker)
    broker.start()
    assert end_offsets(broker.hosts, "aging") == {0: 10}
    send(broker.hosts, "aging", 1)
    assert (
        end_offsets(broker.hosts, "aging") == {0: 11} and len(values(broker.hosts, "lasting")) == 10
    )


# Folders that will not do.


def refusal(folder: Path) -> str:
    """What `kq broker --data` says, in one line, as status 1."""
    done = run("broker", "--port=0", f"--data={folder}")
    assert (done.status, done.out) == (1, ""), done
    (line,) = done.err.splitlines()
    return line


def test_data_of_a_newer_broker_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"version": 99, "cluster_id": "later"}))
    assert refusal(tmp_path) == (
        f"Error: the embedded broker cannot use the folder {tmp_path}: a newer broker wrote it (version 99, this one knows 1); "
        "upgrade embedkq or choose another folder"
    )


def test_damaged_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text("{")
    assert (
        refusal(tmp_path)
        == f"Error: the embedded broker cannot use the folder {tmp_path}: its meta.json is damaged"
    )


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert refusal(tmp_path) == (
        f"Error: the embedded broker cannot use the folder {tmp_path}: it holds thesis.txt, which is not a broker's; "
        "choose an empty or new one"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_made_or_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = refusal(tmp_path / "file" / "below")
    assert (
        told
        == f"Error: the embedded broker cannot use the folder {tmp_path}/file/below: not a directory"
    )
    assert refusal(Path("/proc/embedkq")).startswith(
        "Error: the embedded broker cannot use the folder /proc/embedkq: "
    )
    locked = tmp_path / "locked"
    locked.mkdir(0o500)
    if os.geteuid():  # root may write anywhere
        assert (
            refusal(locked)
            == f"Error: the embedded broker cannot use the folder {locked}: permission denied"
        )


def test_a_folder_in_use_is_refused(broker: EmbeddedBroker, tmp_path: Path) -> None:
    with pytest.raises(
        BrokerFailed, match=rf"cannot use the folder {tmp_path}/kafka: another broker uses it$"
    ):
        EmbeddedBroker(data=tmp_path / "kafka").start()
    kill_and_start(broker)
