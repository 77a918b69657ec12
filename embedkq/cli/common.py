"""What the verbs share: options with their environment variables, and errors in one line."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from embedkq._options import TLSFiles
from embedkq._options.command_line import parameter_of
from embedkq._options.declared import options_of
from embedkq._options.option import WORKER
from embedkq._printable import one_line
from embedkq.errors import EmbedkqError

F = TypeVar("F", bound=Callable[..., Any])

_PIPED_WIDTH = 200
_FILE = click.Path(exists=True, dir_okay=False)


class Refused(click.ClickException):
    """An option that cannot work: one line, exit status 2, no usage around it."""

    exit_code = 2


def option(
    name: str, *parameter: str, envvar: str | None = None, **settings: Any
) -> Callable[[F], F]:
    """An option `--name` that is also read from EMBEDKQ_NAME (or `envvar`); `parameter` is its name
    in the function."""
    variable = envvar or "EMBEDKQ_" + name.replace("-", "_").upper()
    settings.setdefault("show_default", not settings.get("is_flag", False))
    return click.option(f"--{name}", *parameter, envvar=variable, show_envvar=True, **settings)


class _DeclaredOption(click.Option):
    """An option that several variables set; the help shows its own.

    Args:
        variables: all of them, the one that wins first.
    """

    def __init__(self, *args: Any, variables: Sequence[str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._variables = variables

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        found = (os.environ.get(name) for name in self._variables)
        return next(filter(None, found), None)


def declared_options(*takers: str, names: Iterable[str] | None = None) -> Callable[[F], F]:
    """The options that these take, as they are declared, in that order; only `names` of them where
    they are given."""
    chosen = [
        option
        for option in options_of(*takers)
        if option.spelling is not None and (names is None or option.name in names)
    ]

    def decorate(command: F) -> F:
        for option in reversed(chosen):
            settings = parameter_of(option, _FILE)
            if not option.is_secret:
                settings |= {"cls": _DeclaredOption, "variables": option.value_variables}
            command = click.option(option.spelling, **settings)(command)
        return command

    return decorate


hosts_option = declared_options(WORKER, names=["hosts"])
"""`--hosts`, the same for all verbs that need a cluster."""
tls_options = declared_options(WORKER, names=[*TLSFiles._fields, "kafka"])
"""`--cafile --certfile --keyfile --crlfile`: giving any of them means TLS; and `--kafka-file` for
passwords."""


def connection_options(tls: Mapping[str, str | None]) -> dict[str, Any]:
    """Options of a kafka-python admin client for these files; raises as `options.client_config`
    does."""
    from embedkq import _options
    from embedkq._clients import admin
    from embedkq._clients.consumer_options import KNOWN_OPTIONS as OF_CONSUMERS
    from embedkq._clients.producer import KNOWN_OPTIONS as OF_PRODUCERS

    files = _options.TLSFiles(tls["cafile"], tls["certfile"], tls["keyfile"], tls["crlfile"])
    known = OF_PRODUCERS | OF_CONSUMERS
    return admin.admin_options(
        _options.client_config(
            files,
            kafka=kafka_options(tls["kafka_file"]),
            owned=("bootstrap_servers",),
            known=known,
            owner="kq",
        )
    )


def client_options(tls: Mapping[str, str | None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a kafka-python consumer and of a producer for these files; raises as
    `options.client_config` does."""
    from embedkq import _options
    from embedkq._clients import consumer_options, producer

    connection_options(tls)  # which names what neither of them knows
    files = _options.TLSFiles(tls["cafile"], tls["certfile"], tls["keyfile"], tls["crlfile"])

    def of(owned: Iterable[str], known: Iterable[str]) -> dict[str, Any]:
        return _options.client_config(
            files,
            kafka=kafka_options(tls["kafka_file"], known),
            owned=owned,
            known=known,
            owner="kq",
        )

    return of(consumer_options.OWNED_OPTIONS, consumer_options.KNOWN_OPTIONS), of(
        producer.OWNED_OPTIONS, producer.KNOWN_OPTIONS
    )


def secrets_given(files: Sequence[str]) -> list[str | Path] | None:
    """The secrets that `--secret-file`, EMBEDKQ_SECRET or EMBEDKQ_WORKER_SECRET name; None without
    any. Removes the variables: the processes of jobs need not have them.

    Raises:
        ValueError: a file and a variable are given.
    """
    (option,) = [each for each in options_of(WORKER) if each.name == "secret"]
    given = {name: os.environ.pop(name, None) for name in option.value_variables}
    for name, secret in given.items():
        if secret is None:
            continue
        if files:
            raise ValueError(f"--secret-file and {name} are both given: leave one of them out")
        return [secret]
    return [Path(file) for file in files] or None


def kafka_options(file: str | None, known: Iterable[str] | None = None) -> dict[str, Any]:
    """The options in the file that `--kafka-file` names, or those of them that are `known`; none
    without a file.

    Raises:
        ValueError: it is no JSON object; the message has nothing of what the file holds, which may
            be a password. Or the environment holds the options themselves.
    """
    (option,) = [each for each in options_of(WORKER) if each.name == "kafka"]
    for name in option.value_variables:
        if name in os.environ:
            raise ValueError(
                f"the environment has {name}: `kq` reads options of kafka-python from a JSON file."
                f" Give its path as {option.variable}"
            )
    if file is None:
        return {}
    try:
        options = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--kafka-file={file}: no JSON ({type(error).__name__})") from None
    if not isinstance(options, dict):
        raise ValueError(
            f'--kafka-file={file}: no JSON object such as {{"sasl_mechanism": "SCRAM-SHA-256"}}'
        )
    return {name: value for name, value in options.items() if known is None or name in known}


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


def make_current_folder_importable() -> None:
    """Jobs are imported by their module's name, and `kq` is installed elsewhere; `python -m` does
    the same."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


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
