"""`kq demo`: runs 200 jobs, good and bad, on a real broker, and checks the callback of each."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from embedkq.cli.common import (
    checking_options,
    errors_in_one_line,
    show_broker_messages,
    silence_clients,
    silence_worker,
)
from embedkq.cli.connection import connection_options, kafka_options
from embedkq.cli.demo_tally import HANGING, LIMIT_SECONDS, Tally, kind_of
from embedkq.cli.options import option, tls_options
from embedkq.errors import EmbedkqError

if TYPE_CHECKING:
    from embedkq._clients.admin import Inspector

PARTITIONS = 4
PROCESSES = 2
_LOOK_SECONDS = 0.1
_LATE_SECONDS = 1.0
_SILENCE_SECONDS = 30.0
_NEXT = "Next: run `kq broker` in one terminal and `kq worker --verbose` in another."
_EPILOG = """\b
Examples:
  kq demo
  kq demo --jobs=1000
  kq demo --hosts=kafka1:9092      on your cluster, with a temporary topic
  kq demo --json | jq .rate
"""


@click.command(epilog=_EPILOG)
@option(
    "hosts",
    envvar="EMBEDKQ_DEMO_HOSTS",
    default=None,
    metavar="HOST:PORT,...",
    show_default=False,
    help="Use this cluster instead of an embedded broker.",
)
@option("jobs", type=click.IntRange(min=1), default=200, metavar="JOBS", help="Number of jobs.")
@tls_options
@option("json", "as_json", is_flag=True, help="Print the final table as JSON, for scripts.")
def demo(hosts: str | None, jobs: int, as_json: bool, **tls: str | None) -> None:
    """Run a broker, a worker and 200 jobs, some of which raise, hang or kill their own process.

    Callbacks run on the main thread. Exits with status 1 if a job had no callback, more than one,
    or a wrong one.
    """
    silence_clients()
    silence_worker()
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # SIGTERM deletes the demo's topic, like Ctrl-C
    console = Console(highlight=False, stderr=as_json)
    tally = Tally()
    with (
        checking_options(),
        errors_in_one_line(),
        _cluster(hosts, tls, console) as (address, topic),
    ):
        _run(address, topic, jobs, tally, console, tls)
    if as_json:
        click.echo(json.dumps(tally.as_dict(), indent=2))
    else:
        _report(tally, console)
        if tally.well and hosts is None:
            console.print(_NEXT)
    if not tally.well:
        raise SystemExit(1)


@contextlib.contextmanager
def _cluster(
    hosts: str | None, tls: Mapping[str, Any], console: Console
) -> Iterator[tuple[str, str]]:
    """Yield the hosts of a cluster and the name of a temporary topic."""
    topic = f"embedkq-demo-{uuid.uuid4().hex[:8]}"
    if hosts is None:
        from embedkq.broker import EmbeddedBroker

        show_broker_messages()
        with EmbeddedBroker() as broker:
            console.print(f"Embedded broker at {broker.hosts} (in memory, stops with the demo).")
            yield broker.hosts, topic
        return
    from embedkq import _options
    from embedkq._clients.admin import Inspector

    hosts = _options.check_hosts(hosts)
    with Inspector(hosts, **connection_options(tls)) as inspector:
        inspector.create_topic(topic, PARTITIONS)
        try:
            console.print(f"Cluster at {hosts}, temporary topic {topic}.")
            yield hosts, topic
        finally:
            try:
                inspector.delete_topic(topic)
                if sys.exc_info()[0] is not None:
                    _delete_again(inspector, topic)
            except EmbedkqError as error:
                console.print(f"Could not delete topic {topic}: {error}")


def _delete_again(inspector: Inspector, topic: str) -> None:
    """Delete the topic again if it comes back. After clients were interrupted, the broker may
    answer their last metadata request late and create the topic once more.

    The clients cannot prevent this: kafka-python 3.0.12 ignores `allow_auto_create_topics`.
    """
    deadline = time.monotonic() + _LATE_SECONDS
    while time.monotonic() < deadline:
        if inspector.describe(topic).topics:
            with contextlib.suppress(EmbedkqError):  # the first deletion is still in progress
                inspector.delete_topic(topic)
        time.sleep(_LOOK_SECONDS)


def _run(
    hosts: str, topic: str, jobs: int, tally: Tally, console: Console, tls: Mapping[str, Any]
) -> None:
    """Enqueue jobs, run them, and wait for all callbacks."""
    from embedkq import Queue, Worker
    from embedkq._clients import consumer_options, producer

    tls = dict(tls)
    file = tls.pop("kafka_file")
    of_worker, of_queue = (
        kafka_options(file, consumer_options.KNOWN_OPTIONS),
        kafka_options(file, producer.KNOWN_OPTIONS),
    )
    worker = Worker(
        hosts=hosts,
        topic=topic,
        callback=tally.callback,
        processes=PROCESSES,
        kafka=of_worker,
        **tls,
    )
    queue = Queue(hosts=hosts, topic=topic, timeout=LIMIT_SECONDS, kafka=of_queue, **tls)
    with worker, contextlib.closing(queue):
        console.print(
            f"Worker with {PROCESSES} processes on a background thread; callbacks on the main"
            " thread."
        )
        tally.expect(
            queue.enqueue_many(
                [(kind_of(number).function, (number,), {}) for number in range(jobs)]
            )
        )
        console.print(f"Enqueued {jobs} jobs, each with a limit of {LIMIT_SECONDS:g} s.")
        _run_callbacks_until_done(worker, tally, console)


def _run_callbacks_until_done(worker: Any, tally: Tally, console: Console) -> None:
    """Run callbacks until every job had one, or until none has come for 30 s."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("Joining the consumer group", total=tally.jobs)
        tally.last = time.monotonic()
        while tally.missing and time.monotonic() - tally.last < _SILENCE_SECONDS:
            worker.run_callbacks(_LOOK_SECONDS)
            progress.update(
                bar, completed=tally.fired, description="Callbacks" if tally.fired else None
            )


def _report(tally: Tally, console: Console) -> None:
    table = Table(
        "Jobs that",
        "Enqueued",
        "Status",
        "With",
        "Times",
        title="What the callbacks received",
        title_justify="left",
    )
    table.columns[1].justify = table.columns[4].justify = "right"
    for kind, enqueued, right in tally.kinds():
        table.add_row(
            kind.name,
            str(enqueued),
            kind.status,
            kind.outcome,
            str(right),
            style=None if enqueued == right else "bold red",
        )
    table.add_section()
    table.add_row("total", str(tally.jobs), "", "", str(tally.fired - tally.wrong))
    console.print("", table)
    if tally.rate is not None:
        hung = sum(enqueued for kind, enqueued, _ in tally.kinds() if kind is HANGING)
        waited = f", although {hung} of them hung for {LIMIT_SECONDS:g} s" if hung else ""
        console.print(
            f"{tally.fired} callbacks in {tally.seconds:.1f} s: {tally.rate:.0f} jobs/s{waited}."
        )
    if tally.well:
        console.print(
            "Every job had exactly one correct callback, on the main thread.",
            style="green",
        )
    else:
        _report_failure(tally, console)


def _report_failure(tally: Tally, console: Console) -> None:
    console.print(
        f"The demo failed. Jobs without a callback: {tally.missing}; with several:"
        f" {tally.doubled}. Callbacks with a wrong status or value: {tally.wrong}; on another"
        f" thread: {tally.elsewhere}; for other jobs: {tally.strange}.",
        style="bold red",
    )
