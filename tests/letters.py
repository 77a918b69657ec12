"""Dead letters, as Kafka has them."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer, TopicPartition
from support import end_offsets

from embedkq._formats import dead_letter
from embedkq._formats.dead_letter import DeadLetter


def letters_in(hosts: str, topic: str) -> list[tuple[DeadLetter, Any]]:
    """All dead letters of a topic, each with its record."""
    ends = end_offsets(hosts, topic)
    consumer = KafkaConsumer(bootstrap_servers=hosts, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, partition) for partition in ends])
    found: list[Any] = []
    while len(found) < sum(ends.values()):
        found += [record for records in consumer.poll(500).values() for record in records]
    consumer.close()
    return [(dead_letter.read(record.headers), record) for record in found]
