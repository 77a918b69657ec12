"""`kq broker`: the embedded development broker in the foreground."""
from __future__ import annotations

import signal
from types import FrameType

import click

from embedkq.cli.common import errors_in_one_line, option

_LOOK_SECONDS = 0.2
_EPILOG = """\b
Examples:
  kq broker                      at localhost:9092, where `kq worker` looks by default
  kq broker --port=0             on a free port; its address is the first line of the output
"""


@click.command(epilog=_EPILOG)
@option("port", type=click.IntRange(0, 65535), default=9092, help="TCP port; 0 for a free one.")
@option("host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 for all.")
def broker(port: int, host: str) -> None:
    """Run a Kafka-compatible broker for development.

    Topics live in memory and are gone when it ends. It is no production broker. Ctrl-C ends it.
    """
    from embedkq.broker import EmbeddedBroker

    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with errors_in_one_line(), EmbeddedBroker(port=port, host=host) as running:
            click.echo(running.hosts)
            click.echo("The development broker runs: memory only, gone when it ends. Ctrl-C ends it.", err=True)
            while not asked and not running.wait(_LOOK_SECONDS):
                pass
            if not asked:
                raise click.ClickException(f"the broker has ended by itself. It printed last:\n{running.tail()}")
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
