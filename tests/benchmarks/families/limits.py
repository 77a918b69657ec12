"""How late a job that hangs is stopped at full load, and how soon all processes are at work
again."""

from __future__ import annotations

import json
import multiprocessing
import os
import selectors
import signal
import socket
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import hosting, work
from benchmarks.alone import Alone, alone, await_word, say_ready
from benchmarks.bed import Bed
from benchmarks.figures import Benchmark, Figure, Goal, Options, Trial, percentile
from embedkq import Queue, Worker

LIMIT_SECONDS = 1.0
_MOST_BARE_HANGS = 100
"""The floor has no more: they come one after another."""
_JOBS_BETWEEN = 40
_JOB_SECONDS = 0.005


def benchmarks(options: Options) -> list[Benchmark]:
    late, floor = "limit of 1 s to process gone, at full load", "bare processes"
    return [
        Benchmark("limits", hangs, (
            Figure(f"{late}, p50", "ms late", "embedkq", "p50", (floor, "p50"), Goal(most=10.0)),
            Figure(f"{late}, p99", "ms late", "embedkq", "p99", (floor, "p99"), Goal(most=50.0)),
            Figure("process gone to full strength again, p50", "ms", "embedkq", "again p50"),
            Figure("process gone to full strength again, p99", "ms", "embedkq", "again p99", goal=Goal(most=250.0)),
        ), runs=1 if options.quick else min(3, options.runs)),
    ]  # fmt: skip


def hangs(bed: Bed) -> Mapping[str, Trial]:
    count = 10 if bed.options.quick else bed.options.hangs
    return {
        "bare processes": partial(alone, bare, min(count, _MOST_BARE_HANGS)),
        "embedkq": lambda: alone(full_load, bed.hosts, bed.topic(1), count),
    }


def full_load(hosts: str, topic: str, count: int) -> dict[str, float]:
    """Both processes always have something to do: jobs of 5 ms CPU, and after every 40 of them one
    that hangs."""
    with (
        tempfile.TemporaryDirectory(prefix="embedkq-bench-") as folder,
        Alone(watch, f"{folder}/watch") as watcher,
    ):
        watcher.await_ready()
        calls: list[tuple[Any, ...]] = []
        for number in range(count):
            calls += [(work.burn, (_JOB_SECONDS,))] * _JOBS_BETWEEN
            calls.append((work.hang, (f"{folder}/watch", number)))
        with Queue(hosts, topic, timeout=LIMIT_SECONDS) as queue:
            queue.enqueue_many(calls)
        seen = {"success": 0, "timeout": 0}

        def callback(status: str, *told: Any) -> None:
            seen[status] = seen.get(status, 0) + 1

        Worker(
            hosts, topic, callback=callback, group=topic, processes=hosting.PROCESSES,
            initializer=work.tell, initargs=(f"{folder}/watch", "up"),
        ).start(max_jobs=len(calls))  # fmt: skip
        if seen != {"success": count * _JOBS_BETWEEN, "timeout": count}:
            raise RuntimeError(f"{count} jobs of {len(calls)} should have timed out: {seen}")
        watcher.go_on()
        return summary(**watcher.result())


def bare(count: int) -> dict[str, float]:
    """A parent that sleeps until the limit and kills, while another process works."""
    context = multiprocessing.get_context("fork")
    with (
        tempfile.TemporaryDirectory(prefix="embedkq-bench-") as folder,
        Alone(watch, f"{folder}/watch") as watcher,
    ):
        watcher.await_ready()
        neighbour = context.Process(target=work.burn, args=(2 * count * LIMIT_SECONDS,))
        neighbour.start()
        for number in range(count):
            told, telling = context.Pipe(duplex=False)
            child = context.Process(target=_hang, args=(f"{folder}/watch", number, telling))
            child.start()
            time.sleep(max(0.0, told.recv() + LIMIT_SECONDS - time.monotonic()))
            os.kill(child.pid or 0, signal.SIGKILL)
            child.join()
        neighbour.kill()
        neighbour.join()
        watcher.go_on()
        return summary(**watcher.result())


def _hang(path: str, number: int, telling: Any) -> None:
    telling.send(time.monotonic())
    work.hang(path, number)


def summary(began: list[float], gone: list[float], up: list[float]) -> dict[str, float]:
    """In ms. The replacement of the process that went first came up first."""
    late = [1000 * (end - begin - LIMIT_SECONDS) for begin, end in zip(began, gone, strict=True)]
    found = {"p50": percentile(late, 0.5), "p99": percentile(late, 0.99)}
    if up:
        again = [
            1000 * (back - end)
            for end, back in zip(sorted(gone), up[hosting.PROCESSES :], strict=False)
        ]
        found |= {"again p50": percentile(again, 0.5), "again p99": percentile(again, 0.99)}
    return found


def watch(path: str) -> dict[str, list[float]]:
    """Notes when each process that hangs began and was gone, and when children came up, until told
    to end."""
    selector, running = selectors.DefaultSelector(), True
    inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    inbox.bind(path)
    began: dict[int, float] = {}
    gone: dict[int, float] = {}
    up: list[float] = []
    selector.register(inbox, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    say_ready()
    while running or len(gone) < len(began):
        for key, _ in selector.select():
            if key.data is not None:
                gone[key.data] = time.monotonic()
                selector.unregister(key.fd)
                os.close(key.fd)
            elif key.fd == 0:
                await_word()
                selector.unregister(0)
                running = False
            else:
                kind, pid, at = json.loads(inbox.recv(256))
                if kind == "up":
                    up.append(at)
                else:
                    began[pid] = at
                    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
    Path(path).unlink()
    return {"began": [began[pid] for pid in gone], "gone": list(gone.values()), "up": sorted(up)}
