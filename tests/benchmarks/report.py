"""The table and the JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Measured

PACKAGES = ("embedkq", "kafka-python", "crc32c", "pebble", "dill")


def describe_machine(broker: str) -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "broker": broker,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load before": round(os.getloadavg()[0], 2),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def show_machine(machine: Mapping[str, Any], console: Console) -> None:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    console.print(f"{machine['broker']}; Python {machine['python']}; {packages}", highlight=False)
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load before']}; {machine['system']}",
        highlight=False,
    )


def show(measured: Sequence[Measured], console: Console, title: str) -> None:
    """Medians, from the lowest to the highest run in brackets."""
    table = Table(
        title=title,
        caption="median \\[lowest to highest run]; the ratio is that of the runs side by side",
    )
    table.add_column("figure", ratio=3)
    for name in ("measured", "floor", "ratio", "goal"):
        table.add_column(name, justify="right")
    family = ""
    for each in measured:
        if (now := each.benchmark.partition(":")[0]) != family:
            family = now
            table.add_section()
        floor = _with_spread(each.floors, each.figure.unit) if each.floors else "-"
        ratio = _with_spread(each.ratios, "x") if each.ratios else "-"
        goal = "-" if each.figure.goal is None else f"{each.figure.goal} {'✓' if each.met else '✗'}"
        style = {None: "", True: "green", False: "red"}[each.met]
        table.add_row(
            each.figure.name,
            _with_spread(each.values, each.figure.unit),
            floor,
            ratio,
            f"[{style}]{goal}[/]" if style else goal,
        )
    console.print(table)


def _with_spread(values: Sequence[float], unit: str) -> str:
    text = f"{number(statistics.median(values))} {unit}"
    return (
        text
        if len(values) == 1
        else f"{text}\n[dim]\\[{number(min(values))} to {number(max(values))}][/]"
    )


def number(value: float) -> str:
    """Three digits say all that such a figure can."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def as_json(machine: Mapping[str, Any], measured: Iterable[Measured], **more: Any) -> str:
    figures = [
        {
            "benchmark": each.benchmark,
            "figure": each.figure.name,
            "unit": each.figure.unit,
            "median": _rounded(each.value),
            "runs": [_rounded(value) for value in each.values],
            "floor": None if each.figure.floor is None else {
                "of": each.figure.floor[0], "median": _rounded(each.floor), "runs": [_rounded(value) for value in each.floors]
            },
            "ratio": _rounded(each.ratio),
            "ratios": [_rounded(value) for value in each.ratios],
            "goal": None if each.figure.goal is None else str(each.figure.goal),
            "met": each.met,
        }
        for each in measured
    ]  # fmt: skip
    return (
        json.dumps(
            {
                "machine": {**machine, "load after": round(os.getloadavg()[0], 2)},
                **more,
                "figures": figures,
            },
            indent=2,
        )
        + "\n"
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
