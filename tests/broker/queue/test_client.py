"""What the consumer's client makes up for in kafka-python."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import LeaderNotAvailableError
from partitions import P0, P1, numbered
from support import Sender, wait_until

from embedkq._clients.consumer import ConsumerClient, all_options
from embedkq._formats.commit_metadata import UNKNOWN_TOPIC
from embedkq._formats.partition_progress import Log
from embedkq._partition import Partition
from embedkq.worker.between_threads.messages import DrainTarget
from embedkq.worker.consumer_thread.drain_requests import DrainRequests

PARTITIONS, RECORDS = 4, 3_000


class Nobody:
    """In place of an assignment: learns of rebalances and does nothing."""

    def add(self, partitions: frozenset[Partition]) -> None:
        pass

    async def give_up(self, kafka: Any, partitions: frozenset[Partition], lost: bool) -> None:
        pass


def fill(hosts: str, topic: str) -> None:
    """More on one partition than a fetch or a poll brings."""
    with Sender(hosts, topic) as sender:
        for _ in range(RECORDS):
            sender.send_record(bytes(1024), [], partition=0)
        sender.flush()


def test_a_backlog_does_not_wait_for_partitions_that_have_nothing(
    hosts: str, make_topic: Any, group: str
) -> None:
    """A broker that is asked for those alone answers after `fetch_max_wait_ms`, which here is
    longer than the test."""
    topic = make_topic(PARTITIONS)
    fill(hosts, topic)
    options = {"fetch_max_wait_ms": 60_000, "request_timeout_ms": 120_000}
    client = ConsumerClient(
        hosts,
        topic,
        Nobody(),
        all_options(hosts=hosts, group=group, job_size=1_000_000, options=options),
    )
    came: list[int] = []

    def poll() -> int:
        came.extend(record.offset for record in client.poll(500).get(numbered(0, topic), ()))
        return len(came)

    try:
        wait_until(client.topic_is_known, "the topic is known")
        wait_until(lambda: poll() == RECORDS, "all", 20)
        assert poll() == RECORDS  # from now on the broker may wait as long as it likes
        fill(hosts, topic)
        wait_until(lambda: poll() == 2 * RECORDS, "what came later", 20)
        assert came == list(range(2 * RECORDS))
    finally:
        client.close()


@pytest.mark.parametrize(
    ("positions", "ends", "wait"),
    [
        ({}, {}, 500),
        ({P0: 5}, {P0: 5}, 100),
        ({P0: 5, P1: 9}, {P0: 5, P1: 10}, 10),
        ({P0: None}, {P0: 5}, 100),
        ({P0: 5}, {P0: None}, 100),
    ],
)
def test_a_fetch_waits_the_less_the_more_there_is_to_do(
    positions: Any, ends: Any, wait: int
) -> None:
    bounds: list[int] = []
    client: Any = object.__new__(ConsumerClient)
    polled = {TopicPartition(*each): ["record"] for each in positions}
    client.kafka = SimpleNamespace(poll=lambda milliseconds: polled, bound_fetches=bounds.append)
    client.position, client.last_known_end, client._longest_wait = positions.get, ends.get, 500
    assert client.poll(500) == {each: ["record"] for each in positions}
    assert bounds == [wait]
    client._longest_wait = 7
    client.poll(500)
    assert bounds == [wait, 7], "never longer than its user wants"


def test_a_partition_paused_in_the_middle_of_what_was_fetched_is_polled_again(
    hosts: str, make_topic: Any, group: str
) -> None:
    topic = make_topic(2)
    with Sender(hosts, topic) as sender:
        for number in range(2 * 1500):
            sender.send_record(b"x", [], partition=number % 2)
        sender.flush()
    client = ConsumerClient(
        hosts,
        topic,
        Nobody(),
        all_options(hosts=hosts, group=group, job_size=1_000_000, options={}),
    )
    came = {0: 0, 1: 0}

    def poll(*unwanted: int) -> dict[int, int]:
        client.set_paused([numbered(number, topic) for number in unwanted])
        for partition, records in client.kafka.poll(500).items():
            came[partition.partition] += len(records)
        return came

    try:
        wait_until(client.topic_is_known, "the topic is known")
        wait_until(lambda: any(poll().values()), "the first records")
        paused = max(came, key=lambda partition: came[partition])
        before = came[paused]
        assert before < 1500, "a poll brings a part of what was fetched"
        wait_until(lambda: poll(paused)[1 - paused] == 1500, "all of the other one")
        assert came[paused] == before
        wait_until(lambda: poll()[paused] == 1500, "the rest of the one that was paused", 20)
    finally:
        client.close()


def test_a_partition_without_a_leader_is_left_out_and_the_others_are_told(
    hosts: str, make_topic: Any, group: str
) -> None:
    """As of one whose topic was created again with fewer partitions: nobody leads number 4 of a
    topic that has four."""
    topic = make_topic(PARTITIONS)
    with Sender(hosts, topic) as sender:
        sender.send_record(b"x", [], partition=0)
        sender.flush()
    client = ConsumerClient(
        hosts,
        topic,
        Nobody(),
        all_options(hosts=hosts, group=group, job_size=1_000_000, options={}),
    )
    try:
        wait_until(
            lambda: (
                client.topic_is_known()
                and len(client.end_offsets(numbered(n, topic) for n in range(PARTITIONS)))
                == PARTITIONS
            ),
            "all are led",
        )
        first, second, none = (numbered(number, topic) for number in (0, 1, PARTITIONS))
        assert client.end_offsets([first, none]) == {first: 1}
        assert client.logs([first, second, none], UNKNOWN_TOPIC) == {
            first: Log(0, 1, UNKNOWN_TOPIC),
            second: Log(0, 0, UNKNOWN_TOPIC),
        }
        assert client.logs([none], UNKNOWN_TOPIC) == client.end_offsets([none]) == {}
        # It may lose its leader between the look and the question: that is an answer to try again,
        # and no KeyError.
        with pytest.raises(LeaderNotAvailableError, match=r"partition=4\) has no leader"):
            client.kafka.end_offsets(
                [TopicPartition(topic, 0), TopicPartition(topic, PARTITIONS)], timeout_ms=5_000
            )
    finally:
        client.close()


def test_a_drain_waits_for_the_end_of_each_partition() -> None:
    """One whose leader is not known has no end yet, and may hold jobs."""
    told: list[Any] = []
    assignment: Any = SimpleNamespace(
        lost=False,
        joined=SimpleNamespace(is_set=lambda: True),
        fresh=(),
        partitions=frozenset({P0, P1}),
    )
    logs: Any = SimpleNamespace(see=lambda client, ends: True)
    drains = DrainRequests(assignment, logs, told.append)
    drains.add("milestone")
    client: Any = SimpleNamespace(end_offsets=lambda partitions: {P0: 7})
    drains.answer(client)
    assert not told
    client.end_offsets = lambda partitions: {P0: 7, P1: 3}
    drains.answer(client)
    assert told == [DrainTarget("milestone", {P0: 7, P1: 3})]
