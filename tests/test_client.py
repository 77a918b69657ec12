"""What the consumer's client makes up for in kafka-python."""
from __future__ import annotations

from typing import Any

from support import Sender, wait_until

from embedkq.worker.client import Client, options_of


def test_a_partition_paused_in_the_middle_of_what_was_fetched_is_polled_again(
    hosts: str, make_topic: Any, group: str, kafka_options: dict[str, Any]
) -> None:
    topic = make_topic(2)
    with Sender(hosts, topic) as sender:
        for number in range(2 * 1500):
            sender.send_record(b"x", [], partition=number % 2)
        sender.flush()
    client = Client(
        hosts, topic, lambda kafka: None,
        options_of(hosts=hosts, group=group, offset_policy="earliest", job_size=1_000_000, options=kafka_options),
    )
    came = {0: 0, 1: 0}

    def poll(*unwanted: int) -> dict[int, int]:
        client.steer(unwanted)
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
