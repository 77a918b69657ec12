"""What the verbs share: errors in one line, and what goes to the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from embedkq._printable import one_line
from embedkq.errors import EmbedkqError

_PIPED_WIDTH = 200


class Refused(click.ClickException):
    """An option that cannot work: one line, exit status 2, no usage around it."""

    exit_code = 2


@contextmanager
def checking_options() -> Iterator[None]:
    """What the checks of options raise becomes one line and exit status 2."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error


def table_console() -> Console:
    """What tables are printed to: nothing is cut off in a file or pipe."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """What embedkq raises becomes one line and exit status 1."""
    try:
        yield
    except EmbedkqError as error:
        raise click.ClickException(one_line(str(error))) from error


def silence_clients() -> None:
    """Keep kafka-python's own log lines, which Python would print for want of a handler, off the
    terminal."""
    _silence("kafka")


def silence_worker() -> None:
    """Keep what a worker logs off the terminal: of jobs that are meant to fail, and of errors that
    are shown anyway."""
    _silence("embedkq.worker")


def _silence(name: str) -> None:
    logger = logging.getLogger(name)
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def show_broker_messages() -> None:
    """Print to stderr what the development broker's build is at, and what its last resort cannot
    do."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    broker = logging.getLogger("embedkq.broker")
    broker.addHandler(handler)
    broker.setLevel(logging.INFO)
    broker.propagate = False
