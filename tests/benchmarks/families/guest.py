"""What it costs an application to host a worker: import, idling, memory, its requests, start and
stop."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks import hosting, idling, raw, requesting, work
from benchmarks.alone import alone
from benchmarks.bed import LIMIT_SECONDS, Bed, new_group
from benchmarks.figures import Benchmark, Figure, Goal, Options, Trial

_STOPS = 20
_IMPORTS = """
import time
begin = time.perf_counter()
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
middle = time.perf_counter()
from embedkq import Job, Queue, Worker
print(1000 * (middle - begin), 1000 * (time.perf_counter() - middle))
"""


def benchmarks(options: Options) -> list[Benchmark]:
    without, fastest = ("without", "rate"), ("without", "p99")
    return [
        Benchmark("guest: import", lambda bed: {"imports": partial(imports, 3 if options.quick else 10)}, (
            Figure("import of embedkq, beyond kafka-python's", "ms", "imports", "embedkq", ("imports", "kafka"), Goal(most=30.0)),
        ), trials=1),
        Benchmark("guest: idle", idle, (
            Figure("processor, idle worker with 2 processes", "% of a core", "embedkq", "processor", ("kafka and pebble", "processor"),
                   Goal(most=1.0)),
            Figure("memory above the bare app, host alone", "MiB", "embedkq", "host", ("kafka and pebble", "host"), Goal(most=25.0)),
            Figure("memory above the bare app, with children", "MiB", "embedkq", "all", ("kafka and pebble", "all"), Goal(most=60.0)),
        )),
        Benchmark("guest: Flask", flask, (
            Figure("Flask under Gunicorn, worker idle", "requests/s", "idle", "rate", without, Goal(least_ratio=0.98)),
            Figure("Flask, worker idle, p99", "ms", "idle", "p99", fastest, Goal(most_ratio=1.05)),
            Figure("Flask under Gunicorn, 500 jobs/s of 1 ms", "requests/s", "busy", "rate", without, Goal(least_ratio=0.85)),
            Figure("Flask, 500 jobs/s of 1 ms, p99", "ms", "busy", "p99", fastest, Goal(most_ratio=1.5)),
            Figure("jobs that flowed through it meanwhile", "jobs/s", "busy", "jobs"),
            Figure("Flask, only the sending of these jobs beside it", "requests/s", "sending", "rate", without),
            Figure("Flask, only the sending of these jobs, p99", "ms", "sending", "p99", fastest),
            Figure("Flask, kafka-python alone takes these jobs", "requests/s", "polling", "rate", without),
            Figure("Flask, kafka-python alone, p99", "ms", "polling", "p99", fastest),
        ), trials=len(requesting.MODES)),
        Benchmark("guest: start", start, (
            Figure("start_background() to the first job, warm", "s", "embedkq", "seconds", ("raw consumer", "seconds"),
                   Goal(most_beyond=1.0)),
        )),
        Benchmark("guest: stop", lambda bed: {"embedkq": partial(alone, stops, bed.hosts, bed.topic(), 4 if options.quick else _STOPS)}, (
            Figure("stop() of an idle worker, median", "s", "embedkq", "median", goal=Goal(most=0.5)),
            Figure("stop() of an idle worker, worst", "s", "embedkq", "worst", goal=Goal(most=0.8)),
        ), trials=1),
    ]  # fmt: skip


def imports(times: int) -> dict[str, float]:
    """The quickest of so many fresh processes: what comes on top is other people's."""
    found = []
    for _ in range(times):
        output = subprocess.run(
            [sys.executable, "-c", _IMPORTS], capture_output=True, text=True, check=True
        ).stdout
        found.append([float(each) for each in output.split()])
    return {
        "kafka": min(kafka for kafka, _ in found),
        "embedkq": min(embedkq for _, embedkq in found),
    }


# An idle worker.


def idle(bed: Bed) -> Mapping[str, Trial]:
    seconds = 2.0 if bed.options.quick else 20.0
    topic = bed.filled(work.noop, 1, count=1)
    return {
        "kafka and pebble": partial(alone, idling.idle_floor, bed.hosts, topic, seconds),
        "embedkq": partial(alone, idling.idle_worker, bed.hosts, topic, seconds),
    }


# Flask.


def flask(bed: Bed) -> Mapping[str, Trial]:
    seconds = 1.0 if bed.options.quick else 6.0
    return {mode: partial(requesting.measure, bed, mode, seconds) for mode in requesting.MODES}


# Start and stop.


def start(bed: Bed) -> Mapping[str, Trial]:
    topic, group, raw_group = bed.filled(work.now, count=4), new_group(), new_group()
    return {
        "raw consumer": partial(alone, raw_start, bed.hosts, topic, raw_group),
        "embedkq": partial(alone, start_background, bed.hosts, topic, group),
    }


def start_background(hosts: str, topic: str, group: str) -> dict[str, float]:
    """The second worker of the group in this process; it finds one new job."""
    from embedkq import Queue

    with hosting.make_idle_worker(hosts, topic, group) as worker:
        worker.drain()
    with Queue(hosts, topic, timeout=LIMIT_SECONDS) as queue:
        queue.enqueue(work.now)
    begun: list[float] = []
    worker = hosting.make_idle_worker(hosts, topic, group, lambda *told: begun.append(told[2]))
    began = time.monotonic()
    worker.start_background()
    while not begun:
        worker.run_callbacks(1)
    worker.stop()
    return {"seconds": begun[0] - began}


def raw_start(hosts: str, topic: str, group: str) -> dict[str, float]:
    """The join and the first record."""
    seconds = 0.0
    for _ in range(2):
        began = time.monotonic()
        consumer = raw.make_consumer(hosts, topic, group)
        while not consumer.poll(raw.POLL_MILLISECONDS):
            pass
        seconds = time.monotonic() - began
        consumer.close()
    return {"seconds": seconds}


def stops(hosts: str, topic: str, count: int) -> dict[str, float]:
    """At any moment between two polls."""
    seconds: list[float] = []
    for _ in range(count):
        worker: Any = hosting.make_idle_worker(hosts, topic, new_group()).start_background()
        worker.drain()
        time.sleep(random.uniform(0.1, 1.1))
        began = time.monotonic()
        worker.stop()
        seconds.append(time.monotonic() - began)
    return {"median": sorted(seconds)[len(seconds) // 2], "worst": max(seconds)}
