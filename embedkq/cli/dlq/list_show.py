"""`kq dlq list` and `kq dlq show`."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

import click

from embedkq.cli.common import table_console
from embedkq.cli.dlq import render
from embedkq.cli.dlq.options import find_places, opened, place_options, selection_options
from embedkq.cli.options import json_option, option, tls_options

if TYPE_CHECKING:
    from embedkq.dlq import DeadLetters, Selection

_ROWS = 500
_LIST_EPILOG = """\b
Examples:
  kq dlq list --dead-letter-topic=failed
  kq dlq list --dead-letter-topic=failed --reason=timeout --origin=images
  kq dlq list --dead-letter-topic=failed --function='shop.*' --limit=0
  kq dlq list --dead-letter-topic=failed --all --json | jq .job    one line of JSON per letter
"""
_SHOW_EPILOG = """\b
Examples:
  kq dlq show 0:17 --dead-letter-topic=failed       partition 0, offset 17
  kq dlq show 1b92c1e0 --dead-letter-topic=failed   the letter of this job
"""


@click.command("list", epilog=_LIST_EPILOG)
@place_options
@selection_options
@option(
    "all", "include_resolved", is_flag=True, help="Include letters that were retried or dropped."
)
@option(
    "limit",
    type=click.IntRange(min=0),
    default=100,
    metavar="LETTERS",
    help="Maximum number of letters; 0 for all.",
)
@tls_options
@json_option
def list_(
    hosts: str,
    dead_letter_topic: str | None,
    selection: Selection,
    include_resolved: bool,
    limit: int,
    as_json: bool,
    **tls: str | None,
) -> None:
    """List dead letters, newest first. --json prints one line per letter."""
    with (
        opened(hosts, dead_letter_topic, tls) as (dead_letters, _, _),
        render.progress_bar() as progress,
    ):
        bar = progress.add_task(
            "Reading", total=sum(log.end - log.first for log in dead_letters.logs.values())
        )
        found = dead_letters.newest(
            selection,
            include_resolved=include_resolved,
            count=lambda read: progress.advance(bar, read),
        )
        shown = 0
        while page := list(islice(found, _ROWS if not limit else min(_ROWS, limit - shown))):
            shown += len(page)
            progress.stop()  # the bar would mix with the output
            if as_json:
                for letter in page:
                    click.echo(json.dumps(letter.as_dict()))
            else:
                table_console().print(render.table(page, with_state=include_resolved))
        more = limit and shown == limit and next(found, None) is not None
        if not as_json:
            render.message(_footer(dead_letters, shown, bool(more)))


def _footer(dead_letters: DeadLetters, shown: int, more: bool) -> str:
    if not shown:
        return (
            f"No matching letters in {dead_letters.topic}; {dead_letters.resolved.open_count()}"
            " are open."
        )
    rest = f"The newest {shown}; --limit=0 shows all. " if more else ""
    return f"{rest}Open in {dead_letters.topic}: {dead_letters.resolved.open_count()}."


@click.command(epilog=_SHOW_EPILOG)
@click.argument("letter")
@place_options
@tls_options
@json_option
def show(
    letter: str, hosts: str, dead_letter_topic: str | None, as_json: bool, **tls: str | None
) -> None:
    """Show everything about one letter: origin, headers, exception, traceback, function."""
    with opened(hosts, dead_letter_topic, tls) as (dead_letters, _, _):
        found = next(dead_letters.named(find_places(dead_letters, [letter])))
        if as_json:
            click.echo(json.dumps(found.as_full_dict(), indent=2))
        else:
            table_console().print(render.details(found))
