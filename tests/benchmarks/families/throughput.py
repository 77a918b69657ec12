"""How many jobs a second: no-ops against raw poll, real work against bare processes, large payloads
and results."""

from __future__ import annotations

import random
import selectors
import time
import uuid
from collections.abc import Mapping
from functools import partial

from benchmarks import hosting, raw, work
from benchmarks.alone import Alone, alone, await_word, say_ready
from benchmarks.bed import LIMIT_SECONDS, Bed
from benchmarks.figures import Benchmark, Figure, Goal, Options, Trial, percentile
from embedkq import Queue, codec
from embedkq._formats.signing import Signer

PROCESSES = hosting.PROCESSES
SECRET = "a secret that is worth nothing"
LONG_SECONDS, SHORT_SECONDS = 1.0, 0.001
SIZES = {"1 KiB": (1024, 30_000), "100 KiB": (100 * 1024, 3_000), "1 MiB": (1024 * 1024, 400)}
"""By name the bytes, and how many jobs have them."""
MEMORY_BOUND = 256.0
"""MiB: three bounds of 64 MiB (polled, running, waiting for callbacks) and what the client has
fetched ahead."""


def benchmarks(options: Options) -> list[Benchmark]:
    return [
        Benchmark("throughput: no-ops", no_ops, (
            Figure("no-op jobs, limit and callback, 2 processes", "jobs/s", "embedkq", "rate", ("raw poll", "rate"),
                   Goal(least=30_000, least_ratio=0.33)),
            Figure("the same, beside the pool alone without Kafka", "jobs/s", "embedkq", "rate", ("pool", "rate")),
            Figure("signed no-op jobs, beside unsigned ones", "jobs/s", "signed", "rate", ("embedkq", "rate"), Goal(least_ratio=0.95)),
            Figure("JSON records for a no-op handler, beside no-op jobs", "records/s", "plain", "rate", ("embedkq", "rate"), Goal(least_ratio=0.9)),
        ), trials=5),
        real_work("wait", 0.001, 6_000, 0.95),
        real_work("burn", 0.001, 6_000, 0.95),
        real_work("burn", 0.010, 1_000, 0.97),
        Benchmark("throughput: mix", mix, (
            Figure("jobs of 1 ms and 1 s mixed", "jobs/s", "embedkq", "rate", ("bare processes", "rate"), Goal(least_ratio=0.95)),
        )),
        Benchmark("throughput: waiting in the mix", waits, (
            Figure("wait of a 1 ms job while 1 s jobs run and a process is free, p50", "ms", "embedkq", "p50"),
            Figure("wait of a 1 ms job while 1 s jobs run and a process is free, p99", "ms", "embedkq", "p99", goal=Goal(most=20.0)),
        ), trials=1),
        *(large(name, *SIZES[name]) for name in SIZES),
    ]  # fmt: skip


def no_ops(bed: Bed) -> Mapping[str, Trial]:
    count = bed.options.scaled(100_000)
    topic = bed.filled(work.noop, 1, count=count)
    signed = bed.filled(work.noop, 1, count=count, signer=Signer(SECRET))
    plain = bed.filled_with_json(1, count=count)
    return {
        "raw poll": partial(alone, raw.poll, bed.hosts, topic, count),
        "embedkq": partial(alone, hosting.work_off, bed.hosts, topic, count),
        "signed": partial(
            alone, hosting.work_off, bed.hosts, signed, count, hosting.PROCESSES, SECRET
        ),
        "plain": partial(alone, hosting.handle, bed.hosts, plain, count),
        "pool": partial(alone, pool_alone, count),
    }


def real_work(kind: str, seconds: float, count: int, ratio: float) -> Benchmark:
    """Jobs that take time, against bare processes that do the same."""

    def prepare(bed: Bed) -> Mapping[str, Trial]:
        jobs = bed.options.scaled(count)
        topic = bed.filled(getattr(work, kind), seconds, count=jobs)
        return {
            "bare processes": partial(alone, raw.bare_processes, PROCESSES, kind, [seconds] * jobs),
            "embedkq": partial(alone, hosting.work_off, bed.hosts, topic, jobs),
        }

    text = f"jobs of {seconds * 1000:g} ms {'of waiting' if kind == 'wait' else 'CPU'}"
    figure = Figure(
        text, "jobs/s", "embedkq", "rate", ("bare processes", "rate"), Goal(least_ratio=ratio)
    )
    return Benchmark(f"throughput: {text}", prepare, (figure,))


def mix(bed: Bed) -> Mapping[str, Trial]:
    """Long jobs come early enough that none runs alone at the end."""
    many, few = bed.options.scaled(8_000), max(2, bed.options.scaled(10))
    seconds = [SHORT_SECONDS] * many
    for _ in range(few):
        seconds.insert(random.Random(few).randrange(many // 2), LONG_SECONDS)
    topic = bed.filled_with([(work.wait, (each,)) for each in seconds])
    return {
        "bare processes": partial(alone, raw.bare_processes, PROCESSES, "wait", seconds),
        "embedkq": partial(alone, hosting.work_off, bed.hosts, topic, len(seconds)),
    }


def waits(bed: Bed) -> Mapping[str, Trial]:
    return {
        "embedkq": lambda: alone(wait_in_mix, bed.hosts, bed.topic(), bed.options.scaled(3_000))
    }


def wait_in_mix(hosts: str, topic: str, count: int) -> dict[str, float]:
    """From before the enqueueing to the start of each short job, in ms: one process has a long job,
    the other is free."""
    with Alone(send_mix, hosts, topic, count) as sender:
        sender.await_ready()
        owner = hosting.CallbackDispatcher(hosts, topic, count, at_first=sender.go_on)
        owner.keep_results = True
        owner.work_off()
        sender.result()
    found = [1000 * result for result in owner.results if result is not None]
    return {"p50": percentile(found, 0.5), "p99": percentile(found, 0.99)}


def send_mix(hosts: str, topic: str, count: int) -> None:
    """200 short jobs a second, and every 1.2 s a long one: never two of these at once."""
    with Queue(hosts, topic, timeout=LIMIT_SECONDS) as queue:
        queue.enqueue(work.noop, None)
        say_ready()
        await_word()
        for number in range(count - 1):
            if number % 240 == 0:
                queue.enqueue(work.wait, LONG_SECONDS)
            else:
                queue.enqueue(work.age_after_wait, time.monotonic(), SHORT_SECONDS)
            time.sleep(0.004)


def large(name: str, size: int, count: int) -> Benchmark:
    """Payloads and results of one size, each against raw poll of records of that size."""

    def prepare(bed: Bed) -> Mapping[str, Trial]:
        jobs = bed.options.scaled(count)
        taken = bed.filled(work.take, random.Random(size).randbytes(size), count=jobs)
        given = bed.filled(work.give, size, count=jobs)
        return {
            "raw poll": partial(alone, raw.poll, bed.hosts, taken, jobs),
            "payloads": partial(alone, hosting.work_off_large, bed.hosts, taken, jobs, size),
            "results": partial(alone, hosting.work_off_large, bed.hosts, given, jobs, size),
        }

    floor, goal, memory = ("raw poll", "megabytes"), Goal(least_ratio=0.7), Goal(most=MEMORY_BOUND)
    return Benchmark(f"throughput: {name}", prepare, (
        Figure(f"payloads of {name}", "MB/s", "payloads", "megabytes", floor, goal),
        Figure(f"results of {name}", "MB/s", "results", "megabytes", floor, goal),
        Figure(f"memory of the host, payloads of {name}", "MiB", "payloads", "memory", goal=memory),
        Figure(f"memory of the host, results of {name}", "MiB", "results", "memory", goal=memory),
    ), trials=3)  # fmt: skip


def pool_alone(count: int) -> dict[str, float]:
    """No-ops through embedkq's pool, driven as the worker's loop does, without Kafka, decoding and
    callbacks."""
    from embedkq.worker.between_threads.task import Task
    from embedkq.worker.pool.pool import JobPool

    selector, payload = selectors.DefaultSelector(), codec.encode_call(work.noop, (1,), {})
    pool: JobPool[Task] = JobPool(PROCESSES, selector)
    job_ids = [str(uuid.uuid4()) for _ in range(count)]
    done, began, first = 0, 0.0, 0
    while done < count:
        for _ in range(min(pool.room(), len(job_ids))):
            pool.submit(Task(job_ids.pop(), payload, LIMIT_SECONDS))
        pool.feed()
        for key, _ in selector.select(max(0.0, min(pool.check_at - time.monotonic(), 0.5))):
            key.data()
        _, ended = pool.tick(time.monotonic())
        done += len(ended)
        if done and not began:
            began, first = time.perf_counter(), done
    rate = (done - first) / (time.perf_counter() - began)
    pool.close()
    selector.close()
    return {"rate": rate}
