"""What trials find at the broker: topics of their own, filled with jobs."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic

from benchmarks.figures import Options
from embedkq import Queue, codec
from embedkq._formats import headers
from embedkq._formats.signing import Signer

LIMIT_SECONDS = 10.0
"""The limit of every job, unless it is there to break it."""
PARTITIONS = 4
LARGEST_RECORD = 2_000_000


class Bed:
    """One broker for all benchmarks. Driver's process."""

    def __init__(self, hosts: str, options: Options) -> None:
        self.hosts = hosts
        self.options = options
        self._topics: list[str] = []

    def topic(self, partitions: int = PARTITIONS) -> str:
        """A new topic that takes large records."""
        name = f"bench-{uuid.uuid4().hex[:12]}"
        admin = KafkaAdminClient(bootstrap_servers=self.hosts)
        try:
            settings = {"max.message.bytes": str(2 * LARGEST_RECORD)}
            admin.create_topics(
                [
                    NewTopic(
                        name,
                        num_partitions=partitions,
                        replication_factor=1,
                        topic_configs=settings,
                    )
                ]
            )
        finally:
            admin.close()
        self._topics.append(name)
        return name

    def filled(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        count: int,
        partitions: int = PARTITIONS,
        signer: Signer | None = None,
    ) -> str:
        """A new topic with so many jobs of the same call, spread evenly."""
        topic = self.topic(partitions)
        self.fill(topic, partitions, count, function, *arguments, signer=signer)
        return topic

    def fill(
        self,
        topic: str,
        partitions: int,
        count: int,
        function: Callable[..., Any],
        *arguments: Any,
        signer: Signer | None = None,
    ) -> None:
        """Put so many jobs of the same call on a topic, each with an id of its own; returns when
        all are there."""
        payload = codec.encode_call(function, arguments, {})

        def headers_of_one() -> list[tuple[str, bytes]]:
            own = record_headers()
            return own if signer is None else signer.sign(topic, None, own, payload)

        self._send(topic, partitions, count, payload, headers_of_one)

    def filled_with_json(self, value: Any, count: int) -> str:
        """A new topic with so many records of JSON that are no jobs."""
        topic = self.topic()
        self._send(topic, PARTITIONS, count, json.dumps(value).encode(), list)
        return topic

    def _send(
        self,
        topic: str,
        partitions: int,
        count: int,
        payload: bytes,
        make_headers: Callable[[], list[tuple[str, bytes]]],
    ) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self.hosts,
            linger_ms=5,
            batch_size=128 * 1024,
            max_request_size=2 * LARGEST_RECORD,
        )
        try:
            for number in range(count):
                producer.send(topic, payload, headers=make_headers(), partition=number % partitions)
            producer.flush()
        finally:
            producer.close()

    def filled_with(self, calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]]) -> str:
        """A new topic with these jobs, in this order on one partition."""
        topic = self.topic(1)
        with Queue(self.hosts, topic, timeout=LIMIT_SECONDS) as queue:
            queue.enqueue_many(calls)
        return topic

    def clear(self) -> None:
        """Delete the topics, which may hold gigabytes."""
        if self._topics:
            admin = KafkaAdminClient(bootstrap_servers=self.hosts)
            admin.delete_topics(self._topics)
            admin.close()
            self._topics.clear()


def record_headers() -> list[tuple[str, bytes]]:
    """Those of a job that was enqueued now."""
    return headers.headers_of(str(uuid.uuid4()), int(time.time() * 1000), LIMIT_SECONDS)


def new_group() -> str:
    return f"bench-{uuid.uuid4().hex[:12]}"
