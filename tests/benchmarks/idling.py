"""What a worker with nothing to do uses. Runs alone, and imports nothing up here that a bare app
would not have."""

from __future__ import annotations

import os
import time

from benchmarks.processes import family, memory, processor_seconds

_PROCESSES = 2
_SETTLE_SECONDS = 3.0


def idle_worker(hosts: str, topic: str, seconds: float) -> dict[str, float]:
    """An app with a worker that has done one job."""
    before = _memory_of_app()
    from embedkq import Worker

    worker = Worker(
        hosts, topic, callback=lambda *told: None, group=f"idle-{os.getpid()}", processes=_PROCESSES
    )
    worker.start_background()
    while not worker.run_callbacks(1):
        pass
    found = _use(before, seconds)
    worker.stop()
    return found


def idle_floor(hosts: str, topic: str, seconds: float) -> dict[str, float]:
    """The two packages underneath, each doing nothing in its own way."""
    before = _memory_of_app()
    import multiprocessing
    import threading

    import pebble

    from benchmarks import raw

    ended = threading.Event()
    consumer = raw.make_consumer(hosts, topic)

    def poll() -> None:
        while not ended.is_set():
            consumer.poll(raw.POLL_MILLISECONDS)
        consumer.close()

    thread = threading.Thread(target=poll)
    thread.start()
    with pebble.ProcessPool(_PROCESSES, context=multiprocessing.get_context("forkserver")) as pool:
        for future in [pool.schedule(time.sleep, args=[0.2]) for _ in range(_PROCESSES)]:
            future.result()
        found = _use(before, seconds)
    ended.set()
    thread.join()
    return found


def _memory_of_app() -> float:
    """Of this process as a Flask app that does nothing else."""
    import flask  # noqa: F401

    return memory(family())


def _use(before: float, seconds: float) -> dict[str, float]:
    """Percent of a core of this process and its children, and their MiB beyond what the app had."""
    time.sleep(_SETTLE_SECONDS)
    pids = family()
    used, began = processor_seconds(pids), time.perf_counter()
    time.sleep(seconds)
    share = 100 * (processor_seconds(pids) - used) / (time.perf_counter() - began)
    return {
        "processor": share,
        "host": memory({os.getpid()}) - before,
        "all": memory(pids) - before,
    }
