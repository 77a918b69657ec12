"""`kq broker`: the embedded development broker in the foreground."""

from __future__ import annotations

import signal
from types import FrameType

import click

from embedkq.cli.common import errors_in_one_line, show_broker_messages
from embedkq.cli.options import option

_LOOK_SECONDS = 0.2
_RUNS = "The development broker is running. {} Press Ctrl-C to stop it."
_GOES = (
    "Topics, offsets and dead letters are in memory and are lost when it stops; --data=DIR keeps"
    " them."
)
_STAYS = "Topics, offsets and dead letters are stored in {}."
_EPILOG = """\b
Examples:
  kq broker                      at localhost:9092, where `kq worker` looks by default
  kq broker --data=./kafka       stores topics, offsets and dead letters there
  kq broker --port=0             on a free port; the first line of output is the address
"""


@click.command(epilog=_EPILOG)
@option("port", type=click.IntRange(0, 65535), default=9092, help="TCP port; 0 for a free one.")
@option("host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 for all addresses.")
@option(
    "data",
    type=click.Path(file_okay=False),
    default=None,
    metavar="DIR",
    show_default=False,
    help=(
        "Store topics, offsets and dead letters in this folder.  [default: in memory, lost when the"
        " broker stops]"
    ),
)
def broker(port: int, host: str, data: str | None) -> None:
    """Run a Kafka-compatible broker for development, not for production. Ctrl-C stops it.

    The first start on a machine may build the broker, which takes about half a minute.
    """
    from embedkq.broker import EmbeddedBroker

    show_broker_messages()
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with errors_in_one_line(), EmbeddedBroker(port=port, host=host, data=data) as running:
            click.echo(running.hosts)
            click.echo(_RUNS.format(_GOES if data is None else _STAYS.format(data)), err=True)
            while not asked and not running.wait(_LOOK_SECONDS):
                pass
            if not asked:
                raise click.ClickException(
                    f"the broker ended by itself. Its last output:\n{running.tail()}"
                )
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
