"""The tables of the guide's page on performance, from `results.json`: run `python -m
benchmarks.guide` after new results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import number

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "embedkq" / "guide" / "performance.rst"
RESULTS = Path(__file__).with_name("results.json")

_THROUGHPUT = (
    (
        "no-op jobs, limit and callback, 2 processes",
        "no-op jobs, with limit and callback, 2 processes",
    ),
    (
        "the same, beside the pool alone without Kafka",
        "the same, beside the pool alone without Kafka",
    ),
    ("signed no-op jobs, beside unsigned ones", "signed no-op jobs, beside unsigned ones"),
    ("jobs of 1 ms of waiting", "jobs that wait 1 ms"),
    ("jobs of 1 ms CPU", "jobs of 1 ms CPU"),
    ("jobs of 10 ms CPU", "jobs of 10 ms CPU"),
    ("jobs of 1 ms and 1 s mixed", "jobs of 1 ms and 1 s mixed"),
    (
        "wait of a 1 ms job while 1 s jobs run and a process is free, p99",
        "wait of a 1 ms job beside 1 s jobs, one process free, p99",
    ),
    ("payloads of 1 KiB", "payloads of 1 KiB"),
    ("results of 1 KiB", "results of 1 KiB"),
    ("payloads of 100 KiB", "payloads of 100 KiB"),
    ("results of 100 KiB", "results of 100 KiB"),
    ("payloads of 1 MiB", "payloads of 1 MiB"),
    ("results of 1 MiB", "results of 1 MiB"),
    ("memory of the host, payloads of 100 KiB", "memory of the host, payloads of 100 KiB"),
    ("enqueue, acknowledged one by one", "enqueue, acknowledged one by one"),
    ("enqueue_many", "enqueue_many"),
    ("enqueue to start, idle worker, p50", "enqueue to start, idle worker, p50"),
    ("enqueue to start, idle worker, p99", "enqueue to start, idle worker, p99"),
    (
        "limit of 1 s to process gone, at full load, p50",
        "limit of 1 s until the process is gone, at full load, p50",
    ),
    (
        "limit of 1 s to process gone, at full load, p99",
        "limit of 1 s until the process is gone, at full load, p99",
    ),
    ("process gone to full strength again, p50", "process gone until full strength again, p50"),
    ("process gone to full strength again, p99", "process gone until full strength again, p99"),
)
_GROWTH = (
    ("no-ops, 4 partitions against 1", "no-ops, 4 partitions, beside 1"),
    ("no-ops, 16 partitions against 1", "no-ops, 16 partitions, beside 1"),
    ("no-ops, 64 partitions against 1", "no-ops, 64 partitions, beside 1"),
    (
        "no-ops, all in one of 4 partitions, against 4",
        "no-ops, all in one of 4 partitions, beside 4",
    ),
    (
        "no-ops, the last tenth of 1,000,000 waiting",
        "no-ops, the last tenth of 1,000,000 that wait",
    ),
    (
        "memory of the host then, floor: in the second tenth",
        "memory of the host then, beside the second tenth",
    ),
    ("no-ops, 1 host of 1 process", "no-ops, 1 host with 1 process"),
    ("no-ops, 2 hosts of 1 process together", "no-ops, 2 hosts with 1 process each"),
    ("no-ops, 3 hosts of 1 process together", "no-ops, 3 hosts with 1 process each"),
    ("no-ops, 4 hosts of 1 process together", "no-ops, 4 hosts with 1 process each"),
    (
        "half of what it does while jobs are sent, for 30 min",
        "30 minutes at half of the maximum rate",
    ),
    (
        "enqueue to start in the last tenth, floor: the second, p50",
        "enqueue to start in their last tenth, beside the second, p50",
    ),
    (
        "enqueue to start in the last tenth, p99",
        "enqueue to start in their last tenth, beside the second, p99",
    ),
    (
        "memory in the last tenth, floor: the second, with children",
        "memory in their last tenth, beside the second, with children",
    ),
)
_COST = (
    ("import of embedkq, beyond kafka-python's", "import, beyond kafka-python's own"),
    ("processor, idle worker with 2 processes", "processor of an idle worker with 2 processes"),
    (
        "memory above the bare app, host alone",
        "memory of an idle worker above the bare application, host alone",
    ),
    ("memory above the bare app, with children", "the same, with child processes"),
    ("Flask under Gunicorn, worker idle", "Flask under Gunicorn, worker idle"),
    ("Flask, worker idle, p99", "the same, p99"),
    ("Flask under Gunicorn, 500 jobs/s of 1 ms", "Flask under Gunicorn, 500 jobs/s of 1 ms"),
    ("Flask, 500 jobs/s of 1 ms, p99", "the same, p99"),
    (
        "Flask, kafka-python alone takes these jobs",
        "Flask, where kafka-python alone polls these jobs",
    ),
    ("Flask, kafka-python alone, p99", "the same, p99"),
    (
        "start_background() to the first job, warm",
        "start_background() to the first job, group and topic warm",
    ),
    ("stop() of an idle worker, median", "stop() of an idle worker, median"),
    ("stop() of an idle worker, worst", "stop() of an idle worker, worst"),
)
TABLES = {"Speed": _THROUGHPUT, "Growth": _GROWTH, "Cost": _COST}
"""Of each table the figures' names in the results, and what the guide calls them."""
_HEADER = ("figure", "measured", "floor", "ratio", "goal")


def tables() -> dict[str, str]:
    """All tables as reStructuredText, by title."""
    results = json.loads(RESULTS.read_text())
    figures = {
        each["figure"]: each for section in results.values() for each in section["figures"]
    }  # later sections count more
    found = {
        title: _table(title, _HEADER, [_row(label, figures[name]) for name, label in rows])
        for title, rows in TABLES.items()
    }
    return {**found, "Beside other queues": _peers(results["peers"], figures)}


def _row(label: str, figure: Mapping[str, Any]) -> tuple[str, ...]:
    floor, goal = figure["floor"], figure["goal"]
    met = "" if figure["met"] is None else "" if figure["met"] else ", missed"
    return (
        label,
        f"{number(figure['median'])} {figure['unit']}{_spread(figure['runs'])}",
        f"{floor['of']}: {number(floor['median'])}" if floor else "",
        number(figure["ratio"]) if figure["ratio"] is not None else "",
        goal.replace("≥", "at least").replace("≤", "at most") + met if goal else "",
    )


def _spread(runs: list[float]) -> str:
    return "" if len(runs) < 2 else f" ({number(min(runs))} to {number(max(runs))})"


def _peers(peers: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    rows = []
    for name, version in peers["versions"].items():
        jobs = figures[f"no-ops: {name}" + (", 2 processes" if name == "embedkq" else "")]
        waits = [
            number(figures[f"enqueue to start: {name}, {part}"]["median"])
            for part in ("p50", "p99")
        ]
        measured = f"{number(jobs['median'])}{_spread(jobs['runs'])}"
        rows.append((name, version.split(" with ")[0], measured, f"{waits[0]} ms, {waits[1]} ms"))
    return _table(
        "Beside other queues",
        ("queue", "version", "no-op jobs/s", "enqueue to start, p50, p99"),
        rows,
    )


def _table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f".. list-table:: {title}", "   :header-rows: 1", ""]
    for row in (header, *rows):
        lines += [
            f"   {'*' if index == 0 else ' '} - {cell}".rstrip() for index, cell in enumerate(row)
        ]
    return "\n".join(lines) + "\n"


def updated(text: str) -> str:
    """The page's text with the tables of today's results."""
    for title, table in tables().items():
        before, _, rest = text.partition(f".. list-table:: {title}\n")
        after = rest[rest.index("\n\n", rest.index("\n\n") + 2) :]
        text = f"{before}{table.rstrip()}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text()))
