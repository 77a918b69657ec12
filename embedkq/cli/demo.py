"""`kq demo`: 200 jobs, good and bad, through a real broker; every one of them has its callback."""
from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from embedkq.cli import demo_jobs
from embedkq.cli.common import Refused, connection_options, errors_in_one_line, option, silence_clients, tls_options

LIMIT_SECONDS = 0.5
PARTITIONS = 4
PROCESSES = 2
_LOOK_SECONDS = 0.1
_SILENCE_SECONDS = 30.0
_EPILOG = """\b
Examples:
  kq demo
  kq demo --jobs=1000
  kq demo --hosts=kafka1:9092      on a real cluster, with a topic of its own that it deletes again
"""


class Kind(NamedTuple):
    """One kind of job of the demo.

    Attributes:
        name: what the closing table calls it.
        function: the job.
        status: what its callback has to be told.
        outcome: what its callback has to be given, in words.
        is_right: whether result and exception of its callback are right, for the job's number.
    """

    name: str
    function: Callable[[int], Any]
    status: str
    outcome: str
    is_right: Callable[[int, Any, Any], bool]


GOOD = Kind(
    "do as they should", demo_jobs.square, "success", "the result",
    lambda number, result, error: result == number * number and error is None,
)
RAISING = Kind(
    "raise", demo_jobs.divide_by_zero, "failure", "ZeroDivisionError",
    lambda number, result, error: result is None and isinstance(error, ZeroDivisionError),
)
HANGING = Kind(
    f"hang past {LIMIT_SECONDS:g} s", demo_jobs.hang, "timeout", "-",
    lambda number, result, error: result is None and error is None,
)
DYING = Kind(
    "kill their process", demo_jobs.kill_own_process, "failure", "JobCrashed",
    lambda number, result, error: result is None and type(error).__name__ == "JobCrashed",
)
KINDS = (GOOD, RAISING, HANGING, DYING)
_BAD_ONES = {3: RAISING, 7: HANGING, 13: DYING, 19: RAISING}
_ROUND = 25


def kind_of(number: int) -> Kind:
    """Which kind job `number` is: of 25 in a row 21 do as they should, 2 raise, 1 hangs, 1 dies."""
    return _BAD_ONES.get(number % _ROUND, GOOD)


class Tally:
    """What came back. Its `callback` is the worker's; all of it belongs to the thread that makes it."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.numbers: dict[str, int] = {}
        self.callbacks: Counter[int] = Counter()
        self.statuses: Counter[str] = Counter()
        self.right: Counter[Kind] = Counter()
        self.last = time.monotonic()
        self.elsewhere = 0

    def callback(self, status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
        """Count one callback, and whether it is right."""
        self.last = time.monotonic()
        self.elsewhere += threading.current_thread() is not self.thread
        number = self.numbers[job.id]
        kind = kind_of(number)
        self.callbacks[number] += 1
        self.statuses[status] += 1
        self.right[kind] += status == kind.status and kind.is_right(number, result, exception)

    @property
    def missing(self) -> int:
        """Jobs without a callback."""
        return sum(1 for number in self.numbers.values() if not self.callbacks[number])

    @property
    def doubled(self) -> int:
        """Jobs with more than one callback."""
        return sum(1 for count in self.callbacks.values() if count > 1)

    def expected(self) -> Counter[Kind]:
        """How many jobs of each kind there are."""
        return Counter(map(kind_of, self.numbers.values()))

    @property
    def well(self) -> bool:
        """Whether each job had exactly one callback, the right one, on the right thread."""
        return not (self.missing or self.doubled or self.elsewhere) and self.right == self.expected()


@click.command(epilog=_EPILOG)
@option("hosts", envvar="EMBEDKQ_DEMO_HOSTS", default=None, metavar="HOST:PORT,...", show_default=False,
        help="Use this cluster instead of a broker of its own.")
@option("jobs", type=click.IntRange(min=1), default=200, help="How many jobs.")
@tls_options
def demo(hosts: str | None, jobs: int, **tls: str | None) -> None:
    """Run a broker, a worker and 200 jobs, some of which raise, hang or kill their own process.

    Callbacks fire on the main thread. Ends with status 1 if a job had no callback, or more than one, or a wrong one.
    """
    silence_clients()
    console = Console(highlight=False)
    tally = Tally()
    try:
        with errors_in_one_line(), _cluster(hosts, tls, console) as (address, topic, worker_options):
            seconds = _run(address, topic, jobs, tally, console, tls, worker_options)
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error
    _report(tally, seconds, console)
    if not tally.well:
        raise SystemExit(1)


@contextlib.contextmanager
def _cluster(
    hosts: str | None, tls: Mapping[str, Any], console: Console
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Hosts, a topic of the demo's own there, and what a worker should know of this cluster."""
    topic = f"embedkq-demo-{uuid.uuid4().hex[:8]}"
    if hosts is None:
        from embedkq.broker import EmbeddedBroker

        with EmbeddedBroker() as broker:
            console.print(f"Embedded broker at {broker.hosts}, memory only.")
            # It joins a group after half the session timeout, and answers a waiting fetch late (see embedkq/broker.py).
            yield broker.hosts, topic, {"session_timeout_ms": 6000, "heartbeat_interval_ms": 1500, "fetch_max_wait_ms": 50}
        return
    from embedkq import options
    from embedkq.errors import EmbedkqError
    from embedkq.info import Inspector

    hosts = options.check_hosts(hosts)
    with Inspector(hosts, **connection_options(tls)) as inspector:
        inspector.create_topic(topic, PARTITIONS)
        try:
            console.print(f"Cluster at {hosts}, topic {topic}.")
            yield hosts, topic, {}
        finally:
            try:
                inspector.delete_topic(topic)
            except EmbedkqError as error:
                console.print(f"Topic {topic} stays: {error}")


def _run(
    hosts: str, topic: str, jobs: int, tally: Tally, console: Console, tls: Mapping[str, Any], kafka: dict[str, Any]
) -> float:
    """Enqueue, run, and wait for all callbacks; how many seconds that took from the first callback on."""
    from embedkq import Queue, Worker

    worker = Worker(hosts=hosts, topic=topic, callback=tally.callback, processes=PROCESSES, kafka=kafka, **tls)
    queue = Queue(hosts=hosts, topic=topic, timeout=LIMIT_SECONDS, **tls)
    with worker, contextlib.closing(queue):
        console.print(f"{worker!r} on a background thread, {PROCESSES} processes; callbacks fire on the main thread.")
        sent = queue.enqueue_many([(kind_of(number).function, (number,), {}) for number in range(jobs)])
        tally.numbers.update((str(job.id), number) for number, job in enumerate(sent))
        return _fire_until_done(worker, tally, console, jobs)

def _fire_until_done(worker: Any, tally: Tally, console: Console, jobs: int) -> float:
    """Fire callbacks until each job had its own, or nothing came for long; seconds from the first callback to the last."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("Callbacks", total=jobs)
        began = tally.last = time.monotonic()
        while tally.missing and time.monotonic() - tally.last < _SILENCE_SECONDS:
            if not tally.callbacks:
                began = time.monotonic()
            worker.run_callbacks(_LOOK_SECONDS)
            progress.update(bar, completed=sum(tally.callbacks.values()))
    return tally.last - began


def _report(tally: Tally, seconds: float, console: Console) -> None:
    table = Table("jobs that", "enqueued", "callback's status", "with", "right", title="What the callbacks were told")
    for column in (1, 4):
        table.columns[column].justify = "right"
    for kind, count in tally.expected().items():
        table.add_row(kind.name, str(count), kind.status, kind.outcome, str(tally.right[kind]))
    console.print(table)
    fired = sum(tally.callbacks.values())
    rate = f", {fired / seconds:.0f} jobs/s" if seconds > 0 else ""
    console.print(f"{len(tally.numbers)} jobs, {fired} callbacks in {seconds:.1f} s{rate}.")
    if tally.well:
        console.print("Every job had exactly one callback, the right one, on the main thread.")
        return
    wrong = fired - sum(tally.right.values())
    console.print(
        f"Something is wrong: {tally.missing} jobs without a callback, {tally.doubled} with more than one, "
        f"{wrong} callbacks not as they should be, {tally.elsewhere} on another thread.", style="bold red",
    )
