"""Options of the commands, and their environment variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from embedkq._options import TLSFiles
from embedkq._options.command_line import parameter_of
from embedkq._options.option import WORKER
from embedkq._options.takers import options_of

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False)


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
        self.variables = variables

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        found = (os.environ.get(name) for name in self.variables)
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
json_option = option("json", "as_json", is_flag=True, help="Print JSON, for scripts.")
"""`--json`, for verbs that print a table or sentences without it."""
yes_option = option("yes", is_flag=True, help="Do not ask for confirmation.")
"""`--yes`, for verbs that ask."""
