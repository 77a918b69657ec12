"""The floors: the same records through kafka-python alone, the same work in bare processes. Each
function runs alone."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from typing import Any

from kafka import KafkaConsumer, KafkaProducer

from benchmarks import work
from benchmarks.bed import LARGEST_RECORD, new_group

POLL_MILLISECONDS = 500


def make_consumer(
    hosts: str, topic: str, group: str | None = None, **options: Any
) -> KafkaConsumer:
    """A member of a group, subscribed, that begins with the oldest record."""
    consumer = KafkaConsumer(
        bootstrap_servers=hosts,
        group_id=group or new_group(),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        **options,
    )
    consumer.subscribe([topic])
    while not consumer.partitions_for_topic(
        topic
    ):  # a join before the topic is known gives an empty assignment
        time.sleep(0.01)
    return consumer


def poll(hosts: str, topic: str, count: int) -> dict[str, float]:
    """Read so many records: records and bytes of values a second, from the first to the last."""
    # At the end kafka-python would wait half a second for records of partitions that have none,
    # with one that has some left behind them.
    consumer = make_consumer(
        hosts, topic, max_partition_fetch_bytes=max(1_048_576, LARGEST_RECORD), fetch_max_wait_ms=10
    )
    seen = size = first = 0
    began = 0.0
    while seen < count:
        for records in consumer.poll(POLL_MILLISECONDS).values():
            seen += len(records)
            size += sum(len(record.value) for record in records)
        if seen and not first:
            first, size, began = seen, 0, time.perf_counter()
    seconds = time.perf_counter() - began
    consumer.close()
    return {"rate": (seen - first) / seconds, "megabytes": size / seconds / 1e6}


def bare_processes(processes: int, kind: str, seconds: Sequence[float]) -> dict[str, float]:
    """The same jobs by bare processes, which take them one by one from a shared list."""
    context = multiprocessing.get_context("fork")
    together, taken = context.Barrier(processes + 1), context.Value("i", 0)
    crew = [
        context.Process(target=_work_off, args=(kind, seconds, together, taken))
        for _ in range(processes)
    ]
    for process in crew:
        process.start()
    together.wait()
    began = time.perf_counter()
    for process in crew:
        process.join()
    return {"rate": len(seconds) / (time.perf_counter() - began)}


def _work_off(kind: str, seconds: Sequence[float], together: Any, taken: Any) -> None:
    function = getattr(work, kind)
    together.wait()
    while True:
        with taken.get_lock():
            number = taken.value
            taken.value += 1
        if number >= len(seconds):
            return
        function(seconds[number])


def make_producer(hosts: str, **options: Any) -> KafkaProducer:
    """As durable as embedkq's: idempotent, acknowledged by all replicas."""
    return KafkaProducer(bootstrap_servers=hosts, acks="all", enable_idempotence=True, **options)
