"""The command line `kq`: worker, enqueue, info, dlq, rewind, purge, demo, broker, guide. Only this
package uses click and rich.

Commands import their modules when they run, so that `kq --help` answers at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import click

from embedkq import _configuration
from embedkq.cli.broker import broker
from embedkq.cli.common import checking_options
from embedkq.cli.demo import demo
from embedkq.cli.dlq import dlq
from embedkq.cli.enqueue import enqueue
from embedkq.cli.guide import guide
from embedkq.cli.info import info
from embedkq.cli.moving import purge, rewind
from embedkq.cli.worker import worker
from embedkq.version import __version__

_EPILOG = """\b
Examples:
  kq demo
  kq broker
  kq worker --verbose --callback=callback.py
  kq enqueue shop.jobs:resize a.png --kwarg width=40
  kq info --watch
  kq dlq list --dead-letter-topic=failed
  kq rewind --topic=images --to-time=2h
  kq guide
"""


_HELP = ("-h", "--help")


class _Kq(click.Group):
    """The commands. Refuses unknown EMBEDKQ_ variables before a command runs. `--help` works with
    any environment."""

    def invoke(self, ctx: click.Context) -> Any:
        self.check_environment(ctx)
        return super().invoke(ctx)

    def check_environment(self, ctx: click.Context) -> None:
        """Refuse unknown variables, but for help."""
        if not set(_HELP) & set(ctx.args):
            check_environment()


@click.group(cls=_Kq, context_settings={"help_option_names": list(_HELP)}, epilog=_EPILOG)
@click.version_option(__version__, "--version", "-V", prog_name="kq")
def kq() -> None:
    """A Kafka job queue whose worker lives inside your application.

    Every option has an environment variable; the option's help shows its name.
    """


def check_environment() -> None:
    """Refuse unknown EMBEDKQ_ variables. A typo in EMBEDKQ_SECRET would let unsigned jobs run.

    Raises:
        Refused: there is one; the message names the nearest known one.
    """
    with checking_options():
        _configuration.check_environment(os.environ, _variables_of(kq))


def _variables_of(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        variables = parameter.envvar or ()
        yield from (variables,) if isinstance(variables, str) else variables
    for verb in command.commands.values() if isinstance(command, click.Group) else ():
        yield from _variables_of(verb)


for _verb in (worker, enqueue, info, dlq, rewind, purge, demo, broker, guide):
    kq.add_command(_verb)

__all__ = ["check_environment", "kq"]
