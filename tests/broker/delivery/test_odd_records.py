"""What a worker does with records and batches that its client cannot read, on a real broker:
nothing else waits for them."""

from __future__ import annotations

import importlib.util
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import kafka.codec
import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.consumer import fetcher
from kafka.record import MemoryRecords
from support import (
    Recorder,
    Sender,
    committed,
    end_offsets,
    fire_until,
    lag,
    wait_until,
    with_admin,
)

from embedkq import Queue, Worker, errors
from embedkq._clients import private
from embedkq.dlq import DeadLetters
from embedkq.dlq.letters import Selection

PROMPT_SECONDS = 5.0


class Name(str):
    """The name of a header that goes out as these bytes."""

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfe"


def send_mixed(hosts: str, topic: str) -> None:
    """Jobs 0 to 5 in one batch of partition 0, with a record amid them whose header's name is no
    UTF-8."""
    with Sender(hosts, topic) as sender:
        sender.producer.config["linger_ms"] = 200
        for number in range(3):
            sender.send(divmod, number, 10, partition=0)
        sender.send_record(b"odd", [("fine", b"1"), (Name("odd"), b"2")], key=b"k", partition=0)
        for number in range(3, 6):
            sender.send(divmod, number, 10, partition=0)
        sender.flush()


def warnings(caplog: Any) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# One record.


def test_a_header_whose_name_is_no_utf8_is_malformed_and_the_others_of_its_batch_run(
    hosts: str, make_topic: Any, caplog: Any
) -> None:
    topic = make_topic(2)
    send_mixed(hosts, topic)
    calls = Recorder()
    with (
        caplog.at_level(logging.WARNING, "embedkq"),
        Worker(hosts=hosts, topic=topic, callback=calls) as worker,
    ):
        assert worker.drain(30)
        assert worker.health().healthy
    assert sorted(calls.results) == [(0, number) for number in range(6)]
    assert warnings(caplog) == [
        f"Record(topic={topic}, partition=0, offset=3) malformed. Skipping ... (a header's name is not UTF-8: b'\\xff\\xfe')"
    ]
    assert lag(hosts, topic, topic) == 0 and committed(hosts, topic, topic)[0][0] == 7


def test_its_dead_letter_has_all_of_it_and_can_be_put_back(hosts: str, make_topic: Any) -> None:
    topic, graves = make_topic(1), make_topic(1)
    send_mixed(hosts, topic)
    with Worker(hosts=hosts, topic=topic, dead_letter_topic=graves) as worker:
        assert worker.drain(30)
    consumer = private.Consumer(
        bootstrap_servers=hosts.split(","), auto_offset_reset="earliest", group_id=None
    )
    try:
        consumer.subscribe([graves])
        wait_until(lambda: consumer.partitions_if_known(graves), "the topic")
        letter = wait_until(
            lambda: [each for some in consumer.poll(500).values() for each in some], "the letter"
        )[0]
    finally:
        consumer.close()
    assert (letter.key, letter.value) == (b"k", b"odd")
    assert [(name.encode(), value) for name, value in letter.headers[:2]] == [
        (b"fine", b"1"),
        (b"\xff\xfe", b"2"),
    ]
    with DeadLetters(hosts, graves, {}) as box:
        assert [each.dead and each.dead.reason for each in box.oldest(Selection())] == ["malformed"]


# A codec that is missing.


@contextmanager
def without(codec: str) -> Iterator[None]:
    """As long as it lasts this Python has no library for the codec."""
    patch = pytest.MonkeyPatch()
    patch.setattr(kafka.codec, f"has_{codec}", lambda: False)
    patch.setattr(importlib.util, "find_spec", lambda name: None)
    try:
        yield
    finally:
        patch.undo()


def compress(hosts: str, topic: str, codec: str) -> None:
    """Have the broker compress what comes into a topic from now on, whatever the sender did."""
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"compression.type": codec})
    with_admin(hosts, lambda admin: admin.alter_configs([resource]))

    def told() -> bool:
        found = with_admin(
            hosts,
            lambda admin: admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]),
        )
        return any(
            values.get(topic, {}).get("compression.type", {}).get("value") == codec
            for values in found.values()
        )

    wait_until(told, f"compression.type={codec}")


def is_held(worker: Worker) -> bool:
    worker.run_callbacks(0.05)
    return any("partition 0 is held" in reason for reason in worker.health().reasons)


PACKAGES = {"lz4": "lz4", "zstd": "zstandard", "snappy": "python-snappy"}


@pytest.mark.needs("compression")
@pytest.mark.parametrize("codec", sorted(PACKAGES))
def test_a_missing_codec_holds_its_partition_and_no_other(
    codec: str, hosts: str, make_topic: Any, caplog: Any
) -> None:
    topic = make_topic(2)
    calls = Recorder()
    queue = Queue(hosts=hosts, topic=topic)
    jobs = queue.using(partition=0)
    caplog.set_level(logging.WARNING, "embedkq")
    with queue, without(codec), Worker(hosts=hosts, topic=topic, callback=calls) as worker:
        jobs.enqueue(divmod, 1, 10)
        fire_until(worker, lambda: len(calls) == 1, "one that is not compressed")
        compress(hosts, topic, codec)

        # A broker that has told of the setting may need a moment more until it counts.
        wait_until(
            lambda: is_held(worker) or jobs.enqueue(divmod, 2, 10) is None, "the partition is held"
        )
        compress(hosts, topic, "uncompressed")
        before = len(calls)
        queue.using(partition=1).enqueue_many([(divmod, (number, 10), {}) for number in range(20)])
        fire_until(worker, lambda: len(calls) >= before + 20, "those of the other partition")
        health = worker.health()
        assert not health.healthy and worker.state == "running"
        reason = f"are compressed with {codec}, which needs a package that is missing here: pip install {PACKAGES[codec]}"
        assert [reason in each and "partition 0" in each for each in health.reasons] == [True]
        assert not worker.drain(0.5)
        began = time.monotonic()
        assert worker.stop()
        assert time.monotonic() - began < PROMPT_SECONDS
    told = [line for line in warnings(caplog) if "held" in line]
    assert len(told) == 1 and reason in told[0] and f"Partition 0 of topic {topic}" in told[0]
    assert not any("does not answer" in line or "malformed" in line for line in warnings(caplog))
    ends, done = end_offsets(hosts, topic), committed(hosts, topic, topic)
    assert done[0][0] < ends[0] and done[1][0] == ends[1]


@pytest.mark.needs("compression")
def test_a_held_partition_goes_on_once_its_codec_is_there(
    hosts: str, make_topic: Any, caplog: Any
) -> None:
    topic = make_topic(1)
    compress(hosts, topic, "gzip")  # which is always there, and so can come back
    calls = Recorder()
    caplog.set_level(logging.INFO, "embedkq")
    with (
        Queue(hosts=hosts, topic=topic) as queue,
        Worker(hosts=hosts, topic=topic, callback=calls) as worker,
    ):
        with without("gzip"):
            wait_until(
                lambda: is_held(worker) or queue.enqueue(divmod, 7, 10) is None, "it is held"
            )
            sent = end_offsets(hosts, topic)[0]
            before = len(calls)
        fire_until(worker, lambda: len(calls) >= sent, "all have run")
        wait_until(lambda: worker.health().healthy, "it is healthy again")
        assert before < sent and worker.drain(30)
    assert any(
        record.getMessage() == f"Partition 0 of topic {topic} continues."
        for record in caplog.records
    )
    assert lag(hosts, topic, topic) == 0


@pytest.mark.needs("compression")
def test_dead_letters_that_are_compressed_so_are_not_taken_for_a_broker_that_is_away(
    hosts: str, make_topic: Any
) -> None:
    topic, graves = make_topic(1), make_topic(1)
    compress(hosts, graves, "lz4")
    with Sender(hosts, topic) as sender:
        sender.send_record(b"no job", [], partition=0)
        sender.flush()
    with Worker(hosts=hosts, topic=topic, dead_letter_topic=graves) as worker:
        assert worker.drain(30)
    with (
        without("lz4"),
        pytest.raises(errors.EmbedkqError, match="pip install lz4"),
        DeadLetters(hosts, graves, {}) as box,
    ):
        list(box.oldest(Selection()))


# A batch that is broken.


@pytest.fixture
def corrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Has what a broker sends of batches with SPOIL in them be spoiled on its way, for so many
    fetches."""

    def spoil(times: int) -> list[int]:
        spoiled: list[int] = []

        def read(data: Any) -> MemoryRecords:
            if b"SPOIL" in bytes(data) and len(spoiled) < times:
                spoiled.append(len(data))
                data = bytes(data).replace(b"SPOIL", b"SPOIl")
            return MemoryRecords(data)

        monkeypatch.setattr(fetcher, "MemoryRecords", read)
        return spoiled

    return spoil


def send_batches(hosts: str, topic: str) -> None:
    """Three batches of one partition: jobs, one of which holds SPOIL, and jobs."""
    with Sender(hosts, topic) as sender:
        sender.producer.config["linger_ms"] = 100
        for first, text in ((0, "fine"), (2, "SPOIL"), (4, "fine")):
            for number in range(first, first + 2):
                sender.send(str.__add__, text, str(number), partition=0)
            sender.flush()


def test_a_batch_that_was_spoiled_on_its_way_is_fetched_again_and_runs(
    hosts: str, make_topic: Any, corrupted: Any, caplog: Any
) -> None:
    topic, calls = make_topic(1), Recorder()
    send_batches(hosts, topic)
    spoiled = corrupted(2)
    with (
        caplog.at_level(logging.WARNING, "embedkq"),
        Worker(hosts=hosts, topic=topic, callback=calls) as worker,
    ):
        fire_until(worker, lambda: len(calls) == 6, "all have run")
    assert (
        calls.results == ["fine0", "fine1", "SPOIL2", "SPOIL3", "fine4", "fine5"]
        and len(spoiled) == 2
    )
    assert not any("malformed" in line or "does not answer" in line for line in warnings(caplog))


def test_a_batch_that_stays_corrupt_is_told_of_record_by_record_and_the_others_run(
    hosts: str, make_topic: Any, corrupted: Any, caplog: Any
) -> None:
    topic, calls = make_topic(1), Recorder()
    send_batches(hosts, topic)
    corrupted(10**6)
    with (
        caplog.at_level(logging.WARNING, "embedkq"),
        Worker(hosts=hosts, topic=topic, callback=calls) as worker,
    ):
        assert worker.drain(60)
        assert worker.health().healthy
    assert calls.results == ["fine0", "fine1", "fine4", "fine5"]
    lost = [line for line in warnings(caplog) if "malformed" in line]
    assert lost == [
        f"Record(topic={topic}, partition=0, offset={offset}) malformed. Skipping ... (its batch is corrupt: the CRC is wrong)"
        for offset in (2, 3)
    ]
    assert (
        not any("does not answer" in line for line in warnings(caplog))
        and lag(hosts, topic, topic) == 0
    )


def test_an_error_that_a_broker_tells_of_one_partition_is_none_of_all(
    hosts: str, make_topic: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    topic, calls = make_topic(2), Recorder()
    parse, broken = fetcher.Fetcher._parse_fetched_data, [True]

    def fail(self: Any, completed: Any) -> Any:
        if completed.topic_partition.partition == 0 and broken:
            raise errors_of_kafka.UnknownError("Unexpected error while fetching data")
        return parse(self, completed)

    from kafka import errors as errors_of_kafka

    monkeypatch.setattr(fetcher.Fetcher, "_parse_fetched_data", fail)
    caplog.set_level(logging.WARNING, "embedkq")
    with (
        Queue(hosts=hosts, topic=topic) as queue,
        Worker(hosts=hosts, topic=topic, callback=calls) as worker,
    ):
        for partition in (0, 1):
            queue.using(partition=partition).enqueue_many([(divmod, (partition, 10), {})] * 10)
        fire_until(worker, lambda: len(calls) == 10, "those of the other partition")
        wait_until(
            lambda: any("partition 0 is held" in reason for reason in worker.health().reasons),
            "it is unhealthy",
        )
        broken.clear()
        fire_until(worker, lambda: len(calls) == 20, "those of the partition with the error")
    assert not any("does not answer" in line for line in warnings(caplog))
    assert any("are not returned by the broker: UnknownError" in line for line in warnings(caplog))


def test_a_kafka_consumer_of_the_application_is_left_as_it_is() -> None:
    assert (
        KafkaConsumer.poll.__module__ == "kafka.consumer.group"
        and KafkaProducer.__module__ == "kafka.producer.kafka"
    )
    assert fetcher.Fetcher.PartitionRecords.take.__module__ == "kafka.consumer.fetcher"
