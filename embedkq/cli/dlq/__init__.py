"""`kq dlq`: lists and resolves dead letters. Nothing in a letter is unpickled."""

from __future__ import annotations

import click

from embedkq.cli.dlq.list_show import list_, show
from embedkq.cli.dlq.retry_drop import drop, retry

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

    Name a letter by partition:offset in the dead-letter topic, or by the first characters of its
    job's id. The consumer group TOPIC-dlq records which letters were retried or dropped; its lag in
    `kq info` is the number of open letters.
    """


for _verb in (list_, show, retry, drop):
    dlq.add_command(_verb)

__all__ = ["dlq"]
