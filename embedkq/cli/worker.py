"""`kq worker`: a worker in the foreground."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from embedkq._printable import in_one_record
from embedkq.cli.common import (
    Refused,
    errors_in_one_line,
    hosts_option,
    kafka_options,
    option,
    secrets_given,
    silence_clients,
    tls_options,
)
from embedkq.cli.signals import SignalStop

_EPILOG = """\b
Examples:
  kq worker --verbose --callback=callback.py
  kq worker --hosts=kafka1:9092,kafka2:9092 --topic=images --processes=4
  kq worker --callback=shop.notifications --timeout=60
  kq worker --retries=3 --retry-on=OSError --dead-letter-topic=failed
  kq worker --secret-file=secret --allow='shop.jobs.*'
  kq worker --burst                        run what is there, then end
  EMBEDKQ_HOSTS=kafka1:9092 kq worker      any option from the environment

\b
Signals: the first Ctrl-C (or SIGTERM) finishes what runs, commits and leaves with
status 0. What still runs after --stop-timeout is killed, and runs again later. A second
signal, a second later or more, kills what runs at once: status 130 (143).
"""


@click.command(epilog=_EPILOG)
@hosts_option
@option("topic", default="default", help="Topic to take jobs from.")
@option("group", default=None, help="Consumer group.  [default: the topic]", show_default=False)
@option(
    "timeout",
    type=float,
    default=None,
    metavar="SECONDS",
    help="Limit of every job, in place of its own.",
)
@option(
    "callback",
    default=None,
    metavar="FILE|MODULE",
    help="Python file or module with a function named `callback`.",
)
@option("job-size", type=int, default=1_000_000, metavar="BYTES", help="Largest record expected.")
@tls_options
@option(
    "proc-ttl",
    type=int,
    default=5000,
    metavar="JOBS",
    help="Jobs after which a child is replaced; 0 for never.",
)
@option(
    "offset",
    default="earliest",
    metavar="earliest|latest",
    help="Where a group without committed offset begins.",
)
@option("processes", type=int, default=1, help="How many jobs run at once.")
@option(
    "decode-timeout",
    type=float,
    default=300.0,
    metavar="SECONDS",
    help="Limit of unpickling a job, imports included; 0 for none.",
)
@option(
    "stop-timeout",
    type=float,
    default=25.0,
    metavar="SECONDS",
    help=(
        "After SIGTERM or Ctrl-C jobs that run longer are killed, and run again later; 0 for no"
        " limit."
    ),
)
@option(
    "initializer",
    default=None,
    metavar="MODULE:FUNCTION",
    show_default=False,
    help=(
        "Called in each child before its first job, such as django:setup. With --callback also"
        " here, which unpickles jobs for it."
    ),
)
@option(
    "dead-letter-topic",
    default=None,
    show_default=False,
    help="Where records go that cannot be run, and jobs that failed.",
)
@option(
    "retries",
    type=int,
    default=0,
    metavar="TIMES",
    help="How often a job runs again after it failed.",
)
@option(
    "backoff",
    type=float,
    default=1.0,
    metavar="SECONDS",
    help="Pause before the first time; it doubles.",
)
@option(
    "retry-on",
    "retry_on",
    multiple=True,
    metavar="EXCEPTION",
    show_default=False,
    help=(
        "Only after these: OSError, requests.Timeout. They are imported. May be given several"
        " times.  [default: after all]"
    ),
)
@option(
    "max-crashes",
    type=int,
    default=3,
    metavar="TIMES",
    help="Hosts that may go down over one job; 0 for no limit.",
)
@option("burst", is_flag=True, help="End once what the topic held at the start is done.")
@option("max-jobs", type=int, default=None, metavar="JOBS", help="End after so many jobs.")
@option(
    "secret-file",
    "secret_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    show_default=False,
    help=(
        "Take only jobs signed with the secret in this file, or in one of several. The secret"
        " itself: in EMBEDKQ_SECRET."
    ),
)
@option(
    "max-age",
    type=float,
    default=None,
    metavar="SECONDS",
    help="Refuse jobs that were enqueued longer ago.",
)
@option(
    "allow",
    multiple=True,
    metavar="PATTERN",
    show_default=False,
    help=(
        "Refuse other functions than these: 'shop.jobs.*'. May be given several times.  [default:"
        " all may run]"
    ),
)
@option(
    "keep-trying", is_flag=True, help="Wait for a Kafka that is away at the start, and do not end."
)
@option("verbose", is_flag=True, help="Log what is done, not only what goes wrong.")
def worker(
    callback: str | None,
    offset: str,
    secret_files: Sequence[str],
    retry_on: Sequence[str],
    allow: Sequence[str],
    max_crashes: int,
    burst: bool,
    max_jobs: int | None,
    keep_trying: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Take jobs from a topic and run each in a child process.

    A callback is called as callback(status, job, result, exception, traceback) after each job.
    """
    set_up_logging(verbose)
    _make_current_folder_importable()
    if (initializer := settings["initializer"]) is not None:
        settings["initializer"] = _load_initializer(initializer, is_called=callback is not None)
    settings["callback"] = None if callback is None else _load_callback(callback)
    from embedkq import Worker, _options
    from embedkq.cli.retry_on import exceptions_named

    no_limit = {name: None for name in ("decode_timeout", "stop_timeout") if not settings[name]}
    try:
        _options.check_count("max_jobs", 1 if max_jobs is None else max_jobs, 1)
        made = Worker(
            offset_policy=offset,
            secret=secrets_given(secret_files),
            allow=allow or None,
            retry_on=exceptions_named(retry_on),
            max_crashes=_options.check_count("max_crashes", max_crashes, 0) or None,
            kafka=kafka_options(settings.pop("kafka_file")),
            **settings | no_limit,
        )
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error
    _run(made, burst, max_jobs, keep_trying)


def _run(worker: Any, burst: bool, max_jobs: int | None, keep_trying: bool) -> None:
    with SignalStop(worker, worker.stop_timeout) as stopped, errors_in_one_line():
        try:
            worker.start(burst=burst, max_jobs=max_jobs, wait=not keep_trying)
        except Exception:
            if worker.error is None:
                raise
            sys.exit(1)  # the worker has logged it
    if stopped.killed_by is not None:
        sys.exit(128 + stopped.killed_by)


def _load_initializer(reference: str, is_called: bool) -> Any:
    from embedkq._importing import ImportFailed, function_named, import_by

    try:
        function = function_named(reference, "--initializer")
        if is_called:  # before the callback's module is imported, which may need it
            import_by(function, reference, "calling")
    except ImportFailed as error:
        raise Refused(f"--initializer: {error}") from error
    except ValueError as error:
        raise Refused(str(error)) from error
    return function


def _load_callback(where: str) -> Any:
    from embedkq.cli.callback_file import CallbackRefused, load

    try:
        return load(where)
    except CallbackRefused as error:
        raise Refused(f"--callback: {error}") from error


def _make_current_folder_importable() -> None:
    """Jobs are imported by their module's name, and `kq` is installed elsewhere; `python -m` does
    the same."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


class _Formatter(logging.Formatter):
    """Lets nothing that a job or a record says steer the terminal, or pass for a line of the
    log."""

    def format(self, record: logging.LogRecord) -> str:
        return in_one_record(super().format(record))


def set_up_logging(verbose: bool) -> None:
    """Have embedkq, the jobs and whoever else logs write to stderr, and what jobs print to stdout;
    INFO if verbose, else WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("[%(levelname)s] %(message)s"))
    logger = logging.getLogger("embedkq")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = (
        False  # a callback module that sets up the root logger would print each line twice
    )
    root = logging.getLogger()  # what jobs log arrives at loggers of their own
    root.addHandler(handler)
    root.setLevel(logger.level)
    printed = logging.StreamHandler(sys.stdout)
    printed.setFormatter(_Formatter("%(message)s"))
    jobs = logging.getLogger("embedkq.job")
    jobs.addHandler(printed)
    jobs.setLevel(logging.INFO)
    jobs.propagate = False
    silence_clients()
