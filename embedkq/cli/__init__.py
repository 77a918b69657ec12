"""The command line `kq`: worker, info, dlq, demo, broker. click and rich are used nowhere else.

The verbs import what they need when they run, so that `kq --help` is there at once.
"""
from __future__ import annotations

import click

from embedkq.cli.broker import broker
from embedkq.cli.demo import demo
from embedkq.cli.dlq import dlq
from embedkq.cli.info import info
from embedkq.cli.worker import worker
from embedkq.version import __version__

_EPILOG = """\b
Examples:
  kq demo
  kq broker
  kq worker --verbose --callback=callback.py
  kq info --watch
  kq dlq list --dead-letter-topic=failed
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(__version__, "--version", "-V", prog_name="kq")
def kq() -> None:
    """A Kafka job queue whose worker lives inside your application.

    Every option can also be given in the environment, under the name that its help shows.
    """


for _verb in (worker, info, dlq, demo, broker):
    kq.add_command(_verb)

__all__ = ["kq"]
