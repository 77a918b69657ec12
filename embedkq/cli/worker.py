"""`kq worker`: a worker in the foreground."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from embedkq._options.command_line import arguments_of
from embedkq._options.option import COMMAND, START, WORKER
from embedkq._options.takers import checked
from embedkq._printable import in_one_record
from embedkq.cli.common import (
    Refused,
    checking_options,
    errors_in_one_line,
    silence_clients,
)
from embedkq.cli.connection import kafka_options, secrets_given
from embedkq.cli.options import declared_options
from embedkq.cli.signals import SignalStop

_EPILOG = """\b
Examples:
  kq worker --verbose --callback=callback.py
  kq worker --hosts=kafka1:9092,kafka2:9092 --topic=images --processes=4
  kq worker --callback=shop.notifications --timeout=60
  kq worker --retries=3 --retry-on=OSError --dead-letter-topic=failed
  kq worker --secret-file=secret --allow='shop.jobs.*'
  kq worker --topic=orders --handler=shop.orders:book --decode=json --timeout=5
  kq worker --burst                        run what is there, then end
  EMBEDKQ_HOSTS=kafka1:9092 kq worker      any option from the environment

\b
Signals: the first Ctrl-C (or SIGTERM) finishes what runs, commits and leaves with
status 0. What still runs after --stop-timeout is killed, and runs again later. A second
signal, a second later or more, kills what runs at once: status 130 (143).
"""


@click.command(epilog=_EPILOG)
@declared_options(WORKER, START, COMMAND)
def worker(verbose: bool, **values: Any) -> None:
    """Take jobs from a topic and run each in a child process.

    A callback is called as callback(status, job, result, exception, traceback) after each job.
    """
    from embedkq._importing import make_current_folder_importable

    set_up_logging(verbose)
    make_current_folder_importable()
    given, start = arguments_given(values)
    from embedkq import Worker

    with checking_options():
        made = Worker(**given)
    run_in_foreground(made, start)


def arguments_given(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of `Worker` and of its `start` that the values of a command line mean.

    Raises:
        Refused: one of them cannot work.
    """
    with checking_options():
        start = checked(START, arguments_of(START, values))
        given = arguments_of(WORKER, values)
    if (initializer := given["initializer"]) is not None:
        imports = any(given[name] is not None for name in ("callback", "handler", "decode"))
        given["initializer"] = _load_initializer(initializer, is_called=imports)
    if given["callback"] is not None:
        given["callback"] = _load_callback(given["callback"])
    if given["handler"] is not None:
        given["handler"] = _load_function(given["handler"], "--handler")
    if ":" in (given["decode"] or ""):
        given["decode"] = _load_function(given["decode"], "--decode")
    from embedkq.cli.retry_on import exceptions_named

    with checking_options():
        given["secret"] = secrets_given(given["secret"] or ())
        given["retry_on"] = exceptions_named(given["retry_on"] or ())
        given["kafka"] = kafka_options(given["kafka"]) or None
    return given, start


def run_in_foreground(worker: Any, start: dict[str, Any]) -> None:
    """Run a worker until it ends or a signal ends it; exits if that is a bad end."""
    with SignalStop(worker, worker.stop_timeout) as stopped, errors_in_one_line():
        try:
            worker.start(**start)
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
        if is_called:  # before other modules are imported, which may need it
            import_by(function, reference, "calling")
    except ImportFailed as error:
        raise Refused(f"--initializer: {error}") from error
    except ValueError as error:
        raise Refused(str(error)) from error
    return function


def _load_function(reference: str, option: str) -> Any:
    from embedkq._importing import function_by_name

    try:
        return function_by_name(reference, option)
    except ValueError as error:
        raise Refused(str(error)) from error


def _load_callback(where: str) -> Any:
    from embedkq.cli.callback_file import CallbackRefused, load

    try:
        return load(where)
    except CallbackRefused as error:
        raise Refused(f"--callback: {error}") from error


class _Formatter(logging.Formatter):
    """Lets nothing that a job or a record says steer the terminal, or pass for a line of the
    log."""

    def format(self, record: logging.LogRecord) -> str:
        return in_one_record(super().format(record))


def set_up_logging(verbose: bool) -> None:
    """Have embedkq, the jobs and all other loggers write to stderr, and what jobs print to stdout;
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
