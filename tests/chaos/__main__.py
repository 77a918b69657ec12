"""Runs the faults for a stated time, then prints what came of the jobs; exit status 1 if a promise
was broken."""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path

import brokers
from kafka import KafkaAdminClient
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from chaos.faults import Theatre
from chaos.lives import is_all_done
from chaos.load import Load
from chaos.report import Report, lines_of, make_report

PARTITIONS = 8
_PATIENCE_SECONDS = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        help="of faults and load; the same seed makes the same choices",
    )
    parser.add_argument("--duration", type=float, default=60, help="seconds of faults")
    parser.add_argument("--rate", type=float, default=100, help="jobs a second")
    options = parser.parse_args()
    console = Console()
    folder = Path(tempfile.mkdtemp(prefix="embedkq-chaos-"))
    report = run(options.seed, options.duration, options.rate, folder, console)
    show(report, options.seed, options.duration, console)
    if report.well:
        shutil.rmtree(folder)
        return 0
    console.print(f"Notes and logs of the hosts, and the faults, are in {folder}")
    return 1


def run(seed: int, duration: float, rate: float, folder: Path, console: Console) -> Report:
    """Faults for so many seconds, then peace until all is done."""
    kind = brokers.choose()
    kind = kind if {"kill", "pause"} <= kind.capabilities else brokers.KafkaJars
    topic, group, chance = "chaos", "chaos", random.Random(seed)
    with brokers.make(kind) as broker:
        console.print(
            f"{broker.description}, seed {seed}, {duration:g} s of faults, {rate:g} jobs/s"
        )
        admin = KafkaAdminClient(bootstrap_servers=broker.hosts)
        admin.create_topics({topic: {"num_partitions": PARTITIONS}})
        admin.close()
        load = Load(broker.hosts, topic, rate, seed)
        theatre = Theatre(broker, topic, group, folder, seed, PARTITIONS, load)
        try:
            for _ in range(3):
                theatre.start_host()
            with load, Progress(console=console) as progress:
                bar = progress.add_task("faults", total=duration)
                began = time.monotonic()
                while (now := time.monotonic()) < began + duration:
                    time.sleep(min(chance.uniform(1, 6), began + duration - now))
                    progress.update(
                        bar, completed=time.monotonic() - began, description=theatre.one_fault()
                    )
            with console.status("peace: until all is done"):
                if _await_all_done(broker.hosts, group, topic):
                    theatre.await_health()
                else:
                    theatre.failed.append(
                        f"after {_PATIENCE_SECONDS:g} s of peace not all is committed: the group has stopped"
                    )
                theatre.read_last_life()
            theatre.end()
            (folder / "faults").write_text(
                "".join(f"{e.begin:.3f} {e.end:.3f} {e.kind} {e.host}\n" for e in theatre.events)
            )
            return make_report(folder, load, theatre.events, theatre.lives, theatre.failed)
        finally:
            theatre.kill_all()


def _await_all_done(hosts: str, group: str, topic: str) -> bool:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (done := is_all_done(hosts, group, topic)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return done


def show(report: Report, seed: int, duration: float, console: Console) -> None:
    table = Table("", "", title=f"seed {seed}, {duration:g} s", show_header=False)
    for name, value in lines_of(report).items():
        table.add_row(name, value)
    console.print(table)
    for what, numbers in (
        ("never ran", report.lost),
        ("has no callback", report.callbacks_missing),
    ):
        for number in numbers[:20]:
            console.print(f"job {number} {what}", style="red")
    for text in (*report.wrong_status, *report.unexplained, *report.host_failures):
        console.print(text, style="red")
    for text in report.order_broken[:20]:
        console.print(text)
    console.print(
        "Every promise was kept." if report.well else "A promise was broken.",
        style="" if report.well else "bold red",
    )


if __name__ == "__main__":
    raise SystemExit(main())
