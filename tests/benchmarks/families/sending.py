"""What enqueueing costs, against the same records sent by a bare producer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

from benchmarks import raw, work
from benchmarks.alone import alone
from benchmarks.bed import LIMIT_SECONDS, Bed, record_headers
from benchmarks.figures import Benchmark, Figure, Goal, Options, Trial, percentile
from embedkq import Queue, codec

_WARM = 20


def benchmarks(options: Options) -> list[Benchmark]:
    return [
        Benchmark("sending: one by one", one_by_one, (
            Figure("enqueue, acknowledged one by one", "jobs/s", "embedkq", "rate", ("raw producer", "rate"), Goal(least_ratio=0.9)),
            Figure("enqueue, acknowledged, p99 of one", "ms", "embedkq", "p99", ("raw producer", "p99")),
        )),
        Benchmark("sending: many", many, (
            Figure("enqueue_many", "jobs/s", "embedkq", "rate", ("raw producer", "rate"), Goal(least_ratio=0.8)),
        )),
    ]  # fmt: skip


def one_by_one(bed: Bed) -> Mapping[str, Trial]:
    topic, count = bed.topic(), bed.options.scaled(2_000)
    return {
        "raw producer": partial(alone, raw_one_by_one, bed.hosts, topic, count),
        "embedkq": partial(alone, enqueue_one_by_one, bed.hosts, topic, count),
    }


def many(bed: Bed) -> Mapping[str, Trial]:
    topic, count = bed.topic(), bed.options.scaled(50_000)
    return {
        "raw producer": partial(alone, raw_many, bed.hosts, topic, count),
        "embedkq": partial(alone, enqueue_many, bed.hosts, topic, count),
    }


def enqueue_one_by_one(hosts: str, topic: str, count: int) -> dict[str, float]:
    with Queue(hosts, topic, timeout=LIMIT_SECONDS) as queue:
        return _timed(lambda: queue.enqueue(work.noop, 1), count)


def raw_one_by_one(hosts: str, topic: str, count: int) -> dict[str, float]:
    producer, payload = raw.make_producer(hosts), codec.encode_call(work.noop, (1,), {})
    found = _timed(lambda: producer.send(topic, payload, headers=record_headers()).get(), count)
    producer.close()
    return found


def _timed(send: Callable[[], Any], count: int) -> dict[str, float]:
    for _ in range(_WARM):
        send()
    ends = [time.perf_counter()]
    for _ in range(count):
        send()
        ends.append(time.perf_counter())
    return {
        "rate": count / (ends[-1] - ends[0]),
        "p99": 1000 * percentile([end - begin for begin, end in pairwise(ends)], 0.99),
    }


def enqueue_many(hosts: str, topic: str, count: int) -> dict[str, float]:
    with Queue(hosts, topic, timeout=LIMIT_SECONDS) as queue:
        queue.enqueue_many([(work.noop, (1,))] * _WARM)
        calls = [(work.noop, (1,))] * count
        began = time.perf_counter()
        queue.enqueue_many(calls)
        return {"rate": count / (time.perf_counter() - began)}


def raw_many(hosts: str, topic: str, count: int) -> dict[str, float]:
    """The bare producer set as it is fastest, each acknowledgement looked at."""
    producer, payload = (
        raw.make_producer(hosts, linger_ms=5, batch_size=128 * 1024),
        codec.encode_call(work.noop, (1,), {}),
    )
    for _ in range(_WARM):
        producer.send(topic, payload, headers=record_headers())
    producer.flush()
    began = time.perf_counter()
    futures = [producer.send(topic, payload, headers=record_headers()) for _ in range(count)]
    producer.flush()
    for future in futures:
        future.get()
    rate = count / (time.perf_counter() - began)
    producer.close()
    return {"rate": rate}
