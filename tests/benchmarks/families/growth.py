"""Whether a job costs the same however many partitions, hosts and waiting jobs there are."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import partial

from support import wait_until

from benchmarks import hosting, idling, raw, work
from benchmarks.alone import Alone, alone, await_word
from benchmarks.bed import Bed, new_group
from benchmarks.figures import Benchmark, Figure, Goal, Options, Trial
from benchmarks.processes import resident
from embedkq import Worker
from embedkq._clients.admin import describe
from embedkq.errors import BrokerUnavailable

PARTITIONS = (1, 4, 16, 64)
MANY_PARTITIONS = (1, 10, 100, 1_000)
HOSTS = (1, 2, 3, 4)
FLAT = 0.8
"""What one run differs from the next by is not growth."""
MORE_MEMORY = 10.0
"""MiB."""
HALF = 0.5
"""A fetch, a commit and an assignment of a thousand partitions are that much larger."""
IDLE_SECONDS = 20.0
MORE_PROCESSOR = 2.0
"""Percent of a core."""
_MARK_EVERY = 100
_MARKS = 20
_AHEAD = 5_000
"""More than a host does while nobody fires its callbacks."""
_SHARED_PARTITIONS = 12
"""As many for each, with 1 to 4 hosts."""


def benchmarks(options: Options) -> list[Benchmark]:
    goal, runs = Goal(least_ratio=FLAT), min(3, options.runs)
    return [
        Benchmark("growth: partitions", partitions, (
            *(Figure(f"no-ops, {_counted(n, 'partition')}", "jobs/s", f"embedkq {n}", "rate", (f"raw poll {n}", "rate"))
              for n in PARTITIONS),
            *(Figure(f"no-ops, {n} partitions against 1", "jobs/s", f"embedkq {n}", "rate", ("embedkq 1", "rate"), goal)
              for n in PARTITIONS[1:]),
            Figure("no-ops, all in one of 4 partitions, against 4", "jobs/s", "skewed", "rate", ("embedkq 4", "rate"), goal),
        ), trials=2 * len(PARTITIONS) + 1, runs=runs),
        Benchmark("growth: many partitions", many_partitions, (
            *(Figure(f"no-ops, {_counted(n, 'partition')}", "jobs/s", f"embedkq {n}", "rate", (f"raw poll {n}", "rate"))
              for n in MANY_PARTITIONS),
            *(Figure(f"no-ops, {n:,} partitions against 1", "jobs/s", f"embedkq {n}", "rate", ("embedkq 1", "rate"), Goal(least_ratio=HALF))
              for n in MANY_PARTITIONS[1:]),
        ), trials=2 * len(MANY_PARTITIONS), runs=runs),
        Benchmark("growth: idle partitions", idle_partitions, tuple(
            Figure(f"processor of an idle worker, {_counted(n, 'partition')}", "%", f"embedkq {n}", "processor",
                   (f"kafka-python and pebble {n}", "processor"), Goal(most_beyond=MORE_PROCESSOR))
            for n in MANY_PARTITIONS
        ), trials=2 * len(MANY_PARTITIONS), runs=runs),
        Benchmark("growth: hosts", hosts, (
            Figure("no-ops, 1 host of 1 process", "jobs/s", "1 host", "rate"),
            *(Figure(f"no-ops, {n} hosts of 1 process together", "jobs/s", f"{n} hosts", "rate", ("1 host", "rate"), goal)
              for n in HOSTS[1:]),
        ), trials=len(HOSTS), runs=runs),
        Benchmark("growth: backlog", backlog, (
            Figure(f"no-ops, the last tenth of {options.scaled(options.backlog):,} waiting", "jobs/s", "embedkq", "late",
                   ("embedkq", "early"), goal),
            Figure("memory of the host then, floor: in the second tenth", "MiB", "embedkq", "memory late",
                   ("embedkq", "memory early"), Goal(most_beyond=MORE_MEMORY)),
        ), trials=1, runs=1),
    ]  # fmt: skip


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def partitions(bed: Bed) -> Mapping[str, Trial]:
    count = bed.options.scaled(50_000)
    trials: dict[str, Trial] = {}
    for number in PARTITIONS:
        topic = bed.filled(work.noop, 1, count=count, partitions=number)
        trials[f"raw poll {number}"] = partial(alone, raw.poll, bed.hosts, topic, count)
        trials[f"embedkq {number}"] = partial(alone, hosting.work_off, bed.hosts, topic, count)
    skewed = bed.topic(4)
    bed.fill(skewed, 1, count, work.noop, 1)
    trials["skewed"] = partial(alone, hosting.work_off, bed.hosts, skewed, count)
    return trials


def many_partitions(bed: Bed) -> Mapping[str, Trial]:
    count = bed.options.scaled(50_000)
    trials: dict[str, Trial] = {}
    for number in MANY_PARTITIONS:
        topic = bed.filled(work.noop, 1, count=count, partitions=number)
        trials[f"raw poll {number}"] = partial(alone, raw.poll, bed.hosts, topic, count)
        trials[f"embedkq {number}"] = partial(alone, hosting.work_off, bed.hosts, topic, count)
    return trials


def idle_partitions(bed: Bed) -> Mapping[str, Trial]:
    seconds = IDLE_SECONDS / (4 if bed.options.quick else 1)
    trials: dict[str, Trial] = {}
    for number in MANY_PARTITIONS:
        topic = bed.filled(work.noop, 1, count=1, partitions=number)
        trials[f"kafka-python and pebble {number}"] = partial(
            alone, idling.idle_floor, bed.hosts, topic, seconds
        )
        trials[f"embedkq {number}"] = partial(alone, idling.idle_worker, bed.hosts, topic, seconds)
    return trials


def hosts(bed: Bed) -> Mapping[str, Trial]:
    return {_counted(number, "host"): partial(together, bed, number) for number in HOSTS}


def together(bed: Bed, number: int) -> dict[str, float]:
    """Several hosts in one group: what they do a second, from when all are past what they did ahead
    until one has done its share."""
    topic, group, count = bed.topic(_SHARED_PARTITIONS), new_group(), bed.options.scaled(100_000)
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(Alone(share, bed.hosts, topic, group)) for _ in range(number)
        ]
        wait_until(
            lambda: _share_fairly(bed.hosts, topic, group, number),
            f"{number} hosts share the partitions",
        )
        bed.fill(topic, _SHARED_PARTITIONS, count, work.noop, 1)
        for each in running:
            each.go_on()
        marks: list[Sequence[float]] = [each.result() for each in running]
    begin, end = max(each[_AHEAD // _MARK_EVERY] for each in marks), min(each[-1] for each in marks)
    return {
        "rate": _MARK_EVERY
        * sum(begin < mark <= end for each in marks for mark in each)
        / (end - begin)
    }


def _share_fairly(hosts: str, topic: str, group: str, number: int) -> bool:
    try:
        found = describe(hosts, topic, group).groups
    except BrokerUnavailable:  # a broker that has just started makes the place for groups first
        return False
    return bool(found) and found[0].state == "Stable" and [len(each.partitions) for each in found[0].members] == [
        _SHARED_PARTITIONS // number
    ] * number  # fmt: skip


def share(hosts: str, topic: str, group: str) -> list[float]:
    """Do what one host gets of the topic, from the word on: `time.monotonic()` of every hundredth
    callback.

    Until then its owner does not look, so that all jobs can be put there before it has done more
    than a few.
    """
    marks: list[float] = []
    count = 0

    def callback(*told: object) -> None:
        nonlocal count
        count += 1
        if count % _MARK_EVERY == 0:
            marks.append(time.monotonic())

    with Worker(hosts, topic, callback=callback, group=group, processes=1) as worker:
        await_word()
        worker.drain()
    return marks


def backlog(bed: Bed) -> Mapping[str, Trial]:
    count = bed.options.scaled(bed.options.backlog)
    topic = bed.filled(work.noop, 1, count=count)
    return {"embedkq": partial(alone, through_backlog, bed.hosts, topic, count)}


def through_backlog(hosts: str, topic: str, count: int) -> dict[str, float]:
    """Rates of the second tenth and the last, and the host's memory then. Keeps nothing of the jobs
    itself."""
    step, done = count // _MARKS, 0
    marks: list[tuple[float, float]] = []

    def callback(*told: object) -> None:
        nonlocal done
        done += 1
        if done % step == 0:
            marks.append((time.perf_counter(), resident()))

    Worker(hosts, topic, callback=callback, group=new_group(), processes=hosting.PROCESSES).start(
        max_jobs=step * _MARKS
    )
    tenth = _MARKS // 10
    early, late = marks[tenth - 1 : 2 * tenth], marks[-tenth - 1 :]
    return {
        "early": step * tenth / (early[-1][0] - early[0][0]),
        "late": step * tenth / (late[-1][0] - late[0][0]),
        "memory early": early[-1][1],
        "memory late": late[-1][1],
    }
