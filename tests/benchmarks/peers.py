"""The same jobs through other job queues, side by side in one run: `make bench-peers`.

Each is installed into a folder of its own below .cache/peers and set up as its documentation
advises for short jobs that must not be lost, with two processes. What cannot be had here is left
out, with a line that says why.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import brokers
from brokers.kafka_files import cache_folder
from brokers.layout import free_port
from rich.console import Console
from rich.progress import Progress

from benchmarks import report
from benchmarks.bed import Bed, new_group
from benchmarks.figures import Benchmark, Figure, Goal, Options, percentile, run_benchmark

APPS = Path(__file__).with_name("peerapps")
_PROCESSES = 2
_PAUSE_SECONDS = 0.02
_WARM = 20
_HANG_SECONDS = 120.0
OURS = "embedkq"
AT_LEAST = 3.0
"""Times as many no-ops a second as the best of the others."""


@dataclass(frozen=True)
class Peer:
    """One job queue on one kind of broker.

    Attributes:
        name: for the table.
        app: its program in peerapps, which sends; called with "work" where it brings no program for
            its workers.
        needs: what pip installs.
        worker: command in its folder that works; `{name}` and `{redis}` stand for themselves.
        jobs: how many no-ops it is given, so that all take about as long.
        workers: how often that command is started.
        broker: kafka or redis.
        python: its interpreter; None until it is installed.
    """

    name: str
    app: str
    needs: tuple[str, ...]
    worker: tuple[str, ...]
    jobs: int
    workers: int = 1
    broker: str = "redis"
    python: str | None = None

    @property
    def command(self) -> list[str]:
        folder = Path(self.python or "").parent
        return [self.python or "", str(APPS / f"{self.app}.py"), "work"] if not self.worker else [
            str(folder / self.worker[0]), *self.worker[1:]
        ]  # fmt: skip


_TASKIQ = ("taskiq", "worker", "-w", "2", "--log-level", "WARNING", "taskiqapp:broker")
PEERS = (
    Peer("KQ, 2 hosts", "kqapp", ("kq==2.2.1", "kafka-python<3"), (), 6_000, workers=_PROCESSES, broker="kafka"),
    Peer("taskiq on Kafka", "taskiqapp", ("taskiq", "taskiq-aio-kafka", "aiokafka", "kafka-python<3"), _TASKIQ, 30_000, broker="kafka"),
    Peer("taskiq on Redis", "taskiqapp", ("taskiq", "taskiq-redis"), _TASKIQ, 10_000),
    Peer("Huey (at most once)", "hueyapp", ("huey", "redis"), ("huey_consumer", "hueyapp.queue", "-w", "2", "-k", "process", "-q"), 10_000),
    Peer("Dramatiq", "dramatiqapp", ("dramatiq[redis]",), ("dramatiq", "-p", "2", "dramatiqapp"), 6_000),
    Peer("Celery (late acks)", "celeryapp", ("celery[redis]",), ("celery", "-A", "celeryapp", "worker", "-c", "2", "-l", "WARNING"), 4_000),
    Peer("RQ", "rqapp", ("rq",), ("rq", "worker", "-q", "-u", "{redis}", "{name}"), 400, workers=_PROCESSES),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="peers whose name has this in it"
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
    parser.add_argument("--runs", type=int, help="how often each runs, in turns (3)")
    chosen = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=130)
    options = Options(chosen.runs or (1 if chosen.quick else 3), chosen.quick)
    wanted = [
        peer for peer in PEERS if not chosen.only or any(name in peer.name for name in chosen.only)
    ]
    with redis(console) as url:
        peers = [
            Peer(OURS, "embedkqapp", (), (), 40_000, broker="kafka", python=sys.executable),
            *installed(wanted, url, console),
        ]
        versions = {peer.name: version_of(peer) for peer in peers}
        console.print(
            ", ".join(f"{name}: {version}" for name, version in versions.items()), highlight=False
        )
        machine, measured = run(peers, url, options, console)
    report.show(
        measured,
        console,
        "embedkq beside others" + (", quick: these figures mean little" if options.quick else ""),
    )
    if chosen.json:
        with chosen.json as file:
            file.write(report.as_json(machine, measured, quick=options.quick, versions=versions))
    return 0


def run(
    peers: Sequence[Peer], url: str, options: Options, console: Console
) -> tuple[dict[str, object], list[report.Measured]]:
    """On Apache Kafka and Redis of this machine, in turns."""
    kind = brokers.choose()
    kind = kind if kind is not brokers.Embedded else brokers.KafkaJars
    measured: list[report.Measured] = []
    with (
        brokers.make(kind) as broker,
        Progress(console=console, refresh_per_second=1, transient=True) as progress,
    ):
        machine = report.describe_machine(broker.description)
        report.show_machine(machine, console)
        bed = Bed(broker.hosts, options)
        planned = benchmarks([peer for peer in peers if works(bed, peer, url, console)], url)
        bar = progress.add_task("", total=options.runs * sum(each.trials for each in planned))
        for each in planned:

            def tell(step: str, ended: int, name: str = each.name) -> None:
                progress.update(bar, description=f"{name}, {step}", advance=ended)

            measured += run_benchmark(each, bed, options.runs, tell)
            bed.clear()
    return machine, measured


def works(bed: Bed, peer: Peer, url: str, console: Console) -> bool:
    """Whether it does one job at all."""
    try:
        with console.status(f"trying {peer.name}"), Place(bed, peer, url) as place:
            place.send(1, 0.0)
            with place.working():
                place.await_notes(1)
    except RuntimeError as error:
        console.print(f"{peer.name} is left out: {error}", markup=False)
        return False
    return True


def benchmarks(peers: Sequence[Peer], url: str) -> list[Benchmark]:
    goal, others = Goal(most_ratio=1 / AT_LEAST), peers[1:]
    return [
        Benchmark("peers: no-ops", lambda bed: {peer.name: partial(no_ops, bed, peer, url) for peer in peers}, (
            Figure("no-ops: embedkq, 2 processes", "jobs/s", OURS, "rate"),
            *(Figure(f"no-ops: {peer.name}", "jobs/s", peer.name, "rate", (OURS, "rate"), goal) for peer in others),
        ), trials=len(peers)),
        Benchmark("peers: latency", lambda bed: {peer.name: partial(latency, bed, peer, url) for peer in peers}, (
            Figure("enqueue to start: embedkq, p50", "ms", OURS, "p50"),
            Figure("enqueue to start: embedkq, p99", "ms", OURS, "p99"),
            *(Figure(f"enqueue to start: {peer.name}, {which}", "ms", peer.name, which, (OURS, which))
              for peer in others for which in ("p50", "p99")),
        ), trials=len(peers)),
    ]  # fmt: skip


def no_ops(bed: Bed, peer: Peer, url: str) -> dict[str, float]:
    """All jobs are there before the workers start: how many a second, from the first to the
    last."""
    count = bed.options.scaled(peer.jobs)
    with Place(bed, peer, url) as place:
        place.send(count, 0.0)
        with place.working():
            notes = place.await_notes(count)
    return {"rate": (count - 1) / (notes[-1][0] - notes[0][0])}


def latency(bed: Bed, peer: Peer, url: str) -> dict[str, float]:
    """One after another to workers that have nothing else to do, in ms."""
    count = bed.options.scaled(400) + _WARM
    with Place(bed, peer, url) as place, place.working():
        place.send(1, 0.0)
        place.await_notes(1)
        place.send(count, _PAUSE_SECONDS)
        found = [1000 * (began - sent) for began, sent in place.await_notes(count + 1)[1 + _WARM :]]
    return {"p50": percentile(found, 0.5), "p99": percentile(found, 0.99)}


class Place:
    """A folder, a name and the environment of one trial."""

    def __init__(self, bed: Bed, peer: Peer, url: str) -> None:
        self._peer = peer
        self._folder = Path(tempfile.mkdtemp(prefix="embedkq-peer-"))
        self._notes = self._folder / "notes"
        self._name = bed.topic() if peer.broker == "kafka" else new_group()
        self._url = url
        paths = [str(APPS), *([str(APPS.parents[2])] if peer.name == OURS else [])]
        self._environment = {
            **os.environ, "PEER_HOSTS": bed.hosts, "PEER_REDIS": url, "PEER_NAME": self._name, "PEER_NOTES": str(self._notes),
            "PEER_BROKER": peer.broker, "PYTHONPATH": os.pathsep.join(paths),
        }  # fmt: skip

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)

    def send(self, count: int, pause: float) -> None:
        command = [
            self._peer.python or "",
            str(APPS / f"{self._peer.app}.py"),
            "send",
            str(count),
            str(pause),
        ]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, cwd=APPS
        )
        if done.returncode:
            raise RuntimeError(f"{self._peer.name} does not send:\n{done.stderr[-2000:]}")

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Its workers, each in a session of its own, so that all of it ends."""
        command = [part.format(name=self._name, redis=self._url) for part in self._peer.command]
        with (self._folder / "log").open("wb") as log:
            workers = [
                subprocess.Popen(
                    command,
                    env=self._environment,
                    stdout=log,
                    stderr=log,
                    cwd=APPS,
                    start_new_session=True,
                )
                for _ in range(self._peer.workers)
            ]
        try:
            yield
        finally:
            for worker in workers:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()

    def await_notes(self, count: int) -> list[tuple[float, float]]:
        """Of so many jobs when they ran and when they were sent, in the order in which they ran."""
        last, deadline = 0, time.monotonic() + _HANG_SECONDS
        while (
            seen := self._notes.read_bytes().count(b"\n") if self._notes.exists() else 0
        ) < count:
            if seen > last:
                last, deadline = seen, time.monotonic() + _HANG_SECONDS
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"{self._peer.name} has run {seen} jobs of {count}:\n{(self._folder / 'log').read_text()[-2000:]}"
                )
            time.sleep(0.2)
        notes = sorted(
            tuple(map(float, line.split())) for line in self._notes.read_text().splitlines()
        )
        return notes[:count]  # type: ignore[return-value]


@contextlib.contextmanager
def redis(console: Console) -> Iterator[str]:
    """A Redis of our own that keeps nothing on disk, or an empty string where there is no
    redis-server."""
    program = shutil.which("redis-server")
    if program is None:
        console.print(
            "No redis-server on the PATH (Debian: apt install redis-server): peers on Redis are left out."
        )
        yield ""
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="embedkq-redis-") as folder:
        options = [
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            folder,
        ]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            while not brokers.is_open(f"127.0.0.1:{port}"):
                if server.poll() is not None:
                    raise RuntimeError(f"{program} ended with {server.returncode}")
                time.sleep(0.05)
            console.print(
                subprocess.run(
                    [program, "--version"], capture_output=True, text=True, check=True
                ).stdout.strip()
            )
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def installed(wanted: Sequence[Peer], url: str, console: Console) -> Iterator[Peer]:
    """Those that can be had here, each in a folder of its own."""
    for peer in wanted:
        if peer.broker == "redis" and not url:
            continue
        folder = (
            cache_folder()
            / "peers"
            / peer.name.split(",")[0].split("(")[0].strip().lower().replace(" ", "-")
        )
        with console.status(f"installing {peer.name}"):
            reason = install(folder, peer.needs)
        if reason:
            console.print(f"{peer.name} is left out, pip cannot install it: {reason}", markup=False)
        else:
            yield replace(peer, python=str(folder / "bin" / "python"))


def install(folder: Path, needs: Sequence[str]) -> str:
    """Why it cannot be; empty if it is."""
    done = folder / "installed"
    if done.exists() and done.read_text() == "\n".join(needs):
        return ""
    venv.create(folder, clear=True, with_pip=True)
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        *needs,
    ]
    found = subprocess.run(pip, capture_output=True, text=True)
    if found.returncode:
        return found.stderr.strip()[-500:]
    done.write_text("\n".join(needs))
    return ""


def version_of(peer: Peer) -> str:
    """Of its packages, as its own interpreter finds them."""
    names = [need.partition("=")[0].partition("<")[0].partition("[")[0] for need in peer.needs] or [
        OURS
    ]
    code = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {names!r}), sep=' with ')"
    return subprocess.run(
        [peer.python or "", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
