"""Fuzzes for a stated number of inputs or seconds, then prints a table; exit status 1 if anything
failed."""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from . import endtoend
from .run import MOST_KEPT, Tally, feed_one, measure_kept, rounds
from .targets import targets

MOST_GROWTH_BYTES = 16 * 1024 * 1024
"""What the process may grow by between a tenth of the run and its end."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same inputs")
    parser.add_argument(
        "--count",
        type=int,
        default=None,
        help="inputs [default: 100,000, or as many as --duration allows]",
    )
    parser.add_argument("--duration", type=float, default=None, help="seconds")
    parser.add_argument(
        "--records",
        type=int,
        default=None,
        help="of these through a real worker [default: a hundredth; 0: no broker]",
    )
    parser.add_argument("--only", default="", help="targets whose names have this")
    parser.add_argument(
        "--input",
        type=int,
        default=None,
        help="make this one input of --only again, and show what it does",
    )
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, 120)
    logging.getLogger("embedkq").addHandler(logging.NullHandler())
    logging.getLogger("embedkq").propagate = False
    with tempfile.TemporaryDirectory(prefix="embedkq-fuzz-") as folder:
        if options.input is not None:
            return again(options.only, options.seed, options.input, Path(folder), console)
        return run(options, Path(folder), console)


def again(name: str, seed: int, number: int, folder: Path, console: Console) -> int:
    """One input that failed."""
    with targets(folder, folder / "mark") as listed:
        for target in listed:
            if name in target.name:
                console.print(
                    f"{target.name}: {'taken' if feed_one(target, seed, number) else 'refused'}"
                )
    return 0


def run(options: argparse.Namespace, folder: Path, console: Console) -> int:
    """All targets, then a worker; the table."""
    count = options.count or (math.inf if options.duration else 100_000)
    mark, began = folder / "mark", time.monotonic()
    deadline = began + (options.duration or math.inf)
    process, resident = psutil.Process(), 0
    with targets(folder, mark) as every:
        listed = [target for target in every if options.only in target.name]
        tallies = {target.name: Tally() for target in listed}
        with Progress(console=console, refresh_per_second=1, transient=True) as progress:
            bar = progress.add_task("in one process", total=options.count or None)
            for done in rounds(listed, options.seed, count, deadline, mark, tallies):
                progress.update(bar, completed=done)
                late = (
                    done > count / 10
                    if options.count
                    else time.monotonic() - began > (options.duration or 0) / 10
                )
                resident = resident or (process.memory_info().rss if late else 0)
        growth = process.memory_info().rss - (resident or process.memory_info().rss)
        for target in [target for target in listed if target.lasts]:
            measure_kept(target, options.seed, tallies[target.name], mark)
    records = (
        options.records
        if options.records is not None
        else 0
        if options.only
        else max(400, sum_of(tallies) // 100)
    )
    if records:
        tallies |= endtoend.run(options.seed, records, folder, console)
    return show(tallies, options.seed, growth, time.monotonic() - began, console)


def sum_of(tallies: dict[str, Tally]) -> int:
    return sum(tally.inputs for tally in tallies.values())


def show(
    tallies: dict[str, Tally], seed: int, growth: int, seconds: float, console: Console
) -> int:
    """The table, what failed, and the exit status."""
    table = Table("target", title=f"seed {seed}")
    for name in ("inputs", "taken", "failed", "inputs/s", "kept, bytes/input"):
        table.add_column(name, justify="right")
    for name, tally in tallies.items():
        kept = "-" if tally.kept is None else f"{tally.kept:.1f}"
        rate = f"{tally.inputs / (tally.seconds or 1):,.0f}"
        table.add_row(
            name,
            f"{tally.inputs:,}",
            f"{tally.taken:,}",
            str(tally.failed),
            rate,
            kept,
            style="" if tally.well else "red",
        )
    table.add_section()
    failed = sum(tally.failed for tally in tallies.values())
    table.add_row(
        "in all",
        f"{sum_of(tallies):,}",
        f"{sum(tally.taken for tally in tallies.values()):,}",
        str(failed),
        "",
        "",
    )
    console.print(table)
    console.print(
        f"{seconds:.0f} s; the process grew by {growth / 2**20:.1f} MiB after the first tenth."
    )
    for tally in tallies.values():
        for failure in tally.failures:
            console.print(failure, style="red", markup=False)
    well = all(tally.well for tally in tallies.values()) and growth <= MOST_GROWTH_BYTES
    told = (
        f"Something failed, kept more than {MOST_KEPT:g} bytes an input, or the process grew."
        if not well
        else "Nothing failed."
    )
    console.print(told, style="" if well else "bold red")
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
