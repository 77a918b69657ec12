"""From enqueueing to the start of the job on an idle worker, against a bare producer and
consumer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from benchmarks import hosting, raw, work
from benchmarks.alone import Alone, alone, await_word, say_ready
from benchmarks.bed import LIMIT_SECONDS, Bed
from benchmarks.figures import Benchmark, Figure, Goal, Options, Trial, percentile
from embedkq import Queue

_WARM = 50
"""The first ones meet code that is not loaded yet, on both sides, and pile up behind it."""
_PAUSE_SECONDS = 0.02


def benchmarks(options: Options) -> list[Benchmark]:
    return [
        Benchmark("latency: idle worker", idle, (
            Figure("enqueue to start, idle worker, p50", "ms", "embedkq", "p50", ("raw send and poll", "p50"), Goal(most_ratio=1.1)),
            Figure("enqueue to start, idle worker, p99", "ms", "embedkq", "p99", ("raw send and poll", "p99"), Goal(most_ratio=1.5)),
        )),
    ]  # fmt: skip


def idle(bed: Bed) -> Mapping[str, Trial]:
    count = bed.options.scaled(1_000) + _WARM
    return {
        "raw send and poll": lambda: alone(raw_latency, bed.hosts, bed.topic(), count),
        "embedkq": lambda: alone(latency, bed.hosts, bed.topic(), count),
    }


def latency(hosts: str, topic: str, count: int) -> dict[str, float]:
    """The sender is a process of its own, as is the worker's host."""
    with Alone(send_jobs, hosts, topic, count) as sender:
        sender.await_ready()
        owner = hosting.CallbackDispatcher(hosts, topic, count, at_first=sender.go_on)
        owner.keep_results = True
        owner.work_off()
        sender.result()
    return summary(owner.results)


def send_jobs(hosts: str, topic: str, count: int) -> None:
    with Queue(hosts, topic, timeout=LIMIT_SECONDS) as queue:
        queue.enqueue(work.age, time.monotonic())
        say_ready()
        await_word()
        for _ in range(count - 1):
            queue.enqueue(work.age, time.monotonic())
            time.sleep(_PAUSE_SECONDS)


def raw_latency(hosts: str, topic: str, count: int) -> dict[str, float]:
    with Alone(raw_send, hosts, topic, count) as sender:
        sender.await_ready()
        consumer = raw.make_consumer(hosts, topic)
        found: list[float] = []
        while len(found) < count:
            for records in consumer.poll(raw.POLL_MILLISECONDS).values():
                found += [work.age(float(record.value)) for record in records]
                if len(found) == 1:
                    sender.go_on()
        consumer.close()
        sender.result()
    return summary(found)


def raw_send(hosts: str, topic: str, count: int) -> None:
    producer = raw.make_producer(hosts)
    producer.send(topic, repr(time.monotonic()).encode()).get()
    say_ready()
    await_word()
    for _ in range(count - 1):
        producer.send(topic, repr(time.monotonic()).encode()).get()
        time.sleep(_PAUSE_SECONDS)
    producer.close()


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """In the order in which they came, without the first."""
    found = [1000 * each for each in seconds[_WARM:]]
    return {"p50": percentile(found, 0.5), "p99": percentile(found, 0.99)}
