"""A steady load for minutes: whether memory stays flat and latency does not drift."""

from __future__ import annotations

import time
from collections.abc import Mapping

from benchmarks import hosting, work
from benchmarks.alone import LIMIT_SECONDS as LONGEST_SECONDS
from benchmarks.alone import Alone, alone, say_ready
from benchmarks.bed import LIMIT_SECONDS, Bed, new_group
from benchmarks.figures import Benchmark, Figure, Goal, Options, Trial, percentile
from benchmarks.processes import family, memory
from embedkq import Queue, Worker

SLICES = 10
MORE_MEMORY = 5.0
"""MiB."""
DRIFT = 1.5
_CALIBRATION_SECONDS = 10.0
_BATCH_SECONDS = 0.02
_FLOOD_BATCH = 500


def benchmarks(options: Options) -> list[Benchmark]:
    minutes = options.minutes / 10 if options.quick else options.minutes
    return [
        Benchmark("lasting", lambda bed: lasting(bed, minutes), (
            Figure(f"half of what it does while jobs are sent, for {minutes:g} min", "jobs/s", "embedkq", "rate"),
            Figure("enqueue to start in the last tenth, floor: the second, p50", "ms", "embedkq", "p50 late", ("embedkq", "p50 early"),
                   Goal(most_ratio=DRIFT)),
            Figure("enqueue to start in the last tenth, p99", "ms", "embedkq", "p99 late", ("embedkq", "p99 early")),
            Figure("memory in the last tenth, floor: the second, with children", "MiB", "embedkq", "memory late",
                   ("embedkq", "memory early"), Goal(most_beyond=MORE_MEMORY)),
        ), trials=1, runs=1),
    ]  # fmt: skip


def lasting(bed: Bed, minutes: float) -> Mapping[str, Trial]:
    def trial() -> Mapping[str, float]:
        full = alone(under_flood, bed.hosts, bed.topic(), min(_CALIBRATION_SECONDS, 30 * minutes))
        with Alone(under_load, bed.hosts, bed.topic(), full / 2, 60 * minutes) as loaded:
            return loaded.result(60 * minutes + LONGEST_SECONDS)  # type: ignore[no-any-return]

    return {"embedkq": trial}


def under_flood(hosts: str, topic: str, seconds: float) -> float:
    """Jobs a second while another process sends as many as it can."""
    done = 0

    def callback(*told: object) -> None:
        nonlocal done
        done += 1

    with Alone(send, hosts, topic, None) as sender, _make_worker(hosts, topic, callback) as worker:
        sender.await_ready()
        _fire_for(worker, seconds / 2)
        before, began = done, time.perf_counter()
        _fire_for(worker, seconds / 2)
        return (done - before) / (time.perf_counter() - began)


def under_load(hosts: str, topic: str, rate: float, seconds: float) -> dict[str, float]:
    """So many jobs a second for so long: latency in ms and memory in MiB, in the second tenth and
    in the last."""
    ages: list[float] = []
    done = 0

    def callback(status: str, job: object, result: float | None, *told: object) -> None:
        nonlocal done
        done += 1
        if result is not None:
            ages.append(1000 * result)

    found: list[tuple[float, float, float]] = []
    with Alone(send, hosts, topic, rate) as sender, _make_worker(hosts, topic, callback) as worker:
        sender.await_ready()
        began = time.perf_counter()
        for _ in range(SLICES):
            ages.clear()
            _fire_for(worker, seconds / SLICES)
            found.append(
                (
                    percentile(ages, 0.5),
                    percentile(ages, 0.99),
                    memory(family() - family(sender.pid)),
                )
            )
        rate = done / (time.perf_counter() - began)
    early, late = found[1], found[-1]
    return {
        "rate": rate, "p50 early": early[0], "p50 late": late[0], "p99 early": early[1], "p99 late": late[1],
        "memory early": early[2], "memory late": late[2],
    }  # fmt: skip


def _make_worker(hosts: str, topic: str, callback: hosting.Callback) -> Worker:
    return Worker(
        hosts,
        topic,
        callback=callback,
        group=new_group(),
        processes=hosting.PROCESSES,
        stop_timeout=1.0,
    )


def _fire_for(worker: Worker, seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    while (rest := deadline - time.perf_counter()) > 0:
        worker.run_callbacks(rest)


def send(hosts: str, topic: str, rate: float | None) -> None:
    """So many jobs a second, or as many as it can, until it is ended; the first of each batch tells
    its age."""
    with Queue(hosts, topic, timeout=LIMIT_SECONDS) as queue:
        queue.enqueue(work.noop, None)
        say_ready()
        due = time.monotonic()
        sent = 0.0
        while True:
            sent = sent % 1 + (_FLOOD_BATCH if rate is None else rate * _BATCH_SECONDS)
            queue.enqueue_many(
                [(work.age, (time.monotonic(),)), *[(work.noop, (None,))] * (int(sent) - 1)]
            )
            due += _BATCH_SECONDS
            if rate is not None:
                time.sleep(max(0.0, due - time.monotonic()))
