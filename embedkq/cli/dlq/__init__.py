"""`kq dlq`: what has died, and what becomes of it. Nothing of a letter is unpickled."""

from __future__ import annotations

import click

from embedkq.cli.dlq.acting import drop, retry
from embedkq.cli.dlq.looking import list_, show

_EPILOG = """\b
Examples:
  kq dlq list --dead-letter-topic=failed
  kq dlq show 0:17 --dead-letter-topic=failed
  kq dlq retry 0:17 --dead-letter-topic=failed
  EMBEDKQ_DEAD_LETTER_TOPIC=failed kq dlq drop --reason=malformed
"""


@click.group(epilog=_EPILOG)
def dlq() -> None:
    """List, show, retry and drop dead letters.

    A letter is named by partition:offset in the dead-letter topic, or by the first characters of
    its job's id. Which letters were retried or dropped is kept in the consumer group TOPIC-dlq; its
    lag, in `kq info`, is what is still to be dealt with.
    """


for _verb in (list_, show, retry, drop):
    dlq.add_command(_verb)

__all__ = ["dlq"]
