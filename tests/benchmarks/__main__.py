"""Measures embedkq against its floors, and shows both side by side. Status 0 whatever the figures
are: they are for people."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

import brokers
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from benchmarks import report
from benchmarks.bed import Bed
from benchmarks.figures import Benchmark, Measured, Options, run_benchmark

FAMILIES = ("throughput", "sending", "latency", "limits", "guest", "growth", "lasting")

_WIDTH = 130
"""Of what is written to a file."""


def main() -> int:
    options, chosen = _read_command_line()
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    families = {name: importlib.import_module(f"benchmarks.families.{name}") for name in FAMILIES}
    planned = [
        each
        for module in families.values()
        for each in module.benchmarks(options)
        if _is_chosen(each, chosen.only)
    ]
    if not planned:
        console.print(
            f"Nothing is called {', '.join(chosen.only)}. Families: {', '.join(FAMILIES)}"
        )
        return 2
    measured, failed, machine = run(planned, options, console)
    report.show(
        measured,
        console,
        "embedkq against its floors"
        + (", quick: these figures mean little" if options.quick else ""),
    )
    for name, reason in failed.items():
        console.print(f"{name}: {reason}", style="red", markup=False)
    if chosen.json:
        with chosen.json as file:
            file.write(report.as_json(machine, measured, quick=options.quick, failed=failed))
    return 1 if failed else 0


def _read_command_line() -> tuple[Options, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"of {', '.join(FAMILIES)}, or part of a benchmark's name",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one run of a tenth of the work, to see whether it works",
    )
    parser.add_argument(
        "--json",
        type=argparse.FileType("w"),
        metavar="FILE",
        help="also write all runs of all figures to this file",
    )
    parser.add_argument("--runs", type=int, help="how often each trial runs, in turns (5)")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="how long the lasting load lasts (1)"
    )
    parser.add_argument(
        "--hangs", type=int, default=60, help="how many jobs hang past their limit (60)"
    )
    parser.add_argument(
        "--backlog",
        type=int,
        default=1_000_000,
        help="how many jobs wait in the deep backlog (1,000,000)",
    )
    chosen = parser.parse_args()
    runs = chosen.runs or (1 if chosen.quick else 5)
    return Options(runs, chosen.quick, chosen.minutes, chosen.hangs, chosen.backlog), chosen


def _is_chosen(benchmark: Benchmark, only: Sequence[str]) -> bool:
    return not only or any(name in benchmark.name for name in only)


def run(
    planned: Sequence[Benchmark], options: Options, console: Console
) -> tuple[list[Measured], dict[str, str], dict[str, object]]:
    """What was measured, why what could not be, and on what."""
    kind = brokers.choose()
    kind = kind if kind is not brokers.Embedded else brokers.KafkaJars
    measured: list[Measured] = []
    failed: dict[str, str] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        brokers.make(kind) as broker,
        Progress(*columns, console=console, refresh_per_second=1, transient=True) as progress,
    ):
        machine = report.describe_machine(broker.description)
        report.show_machine(machine, console)
        bed = Bed(broker.hosts, options)
        steps = sum((each.runs or options.runs) * each.trials for each in planned)
        bar = progress.add_task("", total=steps)
        for each in planned:
            try:
                measured += run_benchmark(
                    each, bed, each.runs or options.runs, _teller(progress, bar, each)
                )
            except Exception as error:  # the others are still worth having
                failed[each.name] = f"{type(error).__name__}: {error}"
            bed.clear()
        progress.update(bar, completed=steps)
    return measured, failed, machine


def _teller(progress: Progress, bar: TaskID, benchmark: Benchmark) -> Callable[[str, int], None]:
    return lambda step, ended: progress.update(
        bar, description=f"{benchmark.name}, {step}", advance=ended
    )


if __name__ == "__main__":
    sys.exit(main())
