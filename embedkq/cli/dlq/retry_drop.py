"""`kq dlq retry` and `kq dlq drop`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from embedkq.cli.common import Refused, checking_options
from embedkq.cli.connection import secrets_given
from embedkq.cli.dlq import render
from embedkq.cli.dlq.options import find_places, opened, place_options, selection_options
from embedkq.cli.options import json_option, option, tls_options, yes_option

if TYPE_CHECKING:
    from embedkq.dlq import DeadLetters, Letter, Selection
    from embedkq.dlq.resolve import Action

_KEPT_SHOWN = 20
_FILTERS = "--reason, --origin, --from-group, --function"
_RETRY_EPILOG = """\b
Examples:
  kq dlq retry 0:17 1b92c1e0 --dead-letter-topic=failed
  kq dlq retry --reason=timeout --dead-letter-topic=failed
  kq dlq retry --all --yes --dead-letter-topic=failed --secret-file=secret

\b
A letter counts as retried once its topic has acknowledged it. If you end the
command in between, the next one sends the letter again: a job may run twice,
none is lost. Status 1 means that a letter was kept; the output says why.
"""
_DROP_EPILOG = """\b
Examples:
  kq dlq drop 0:17 --dead-letter-topic=failed
  kq dlq drop --reason=malformed --dead-letter-topic=failed
  kq dlq drop --all --yes --dead-letter-topic=failed
"""


@click.command(epilog=_RETRY_EPILOG)
@click.argument("letters", nargs=-1)
@place_options
@selection_options
@option("all", "everything", is_flag=True, help="All open letters.")
@option(
    "every-group",
    is_flag=True,
    help="Retry in all consumer groups of the topic, not only where the job failed.",
)
@option("again", is_flag=True, help="Also retry named letters that were retried or dropped before.")
@yes_option
@option(
    "secret-file",
    "secret_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    show_default=False,
    help=(
        "Sign with the secret in this file. Repeat the option to accept further secrets."
        " EMBEDKQ_SECRET can hold the secret itself."
    ),
)
@tls_options
@json_option
def retry(
    letters: Sequence[str],
    hosts: str,
    dead_letter_topic: str | None,
    selection: Selection,
    everything: bool,
    again: bool,
    every_group: bool,
    yes: bool,
    secret_files: Sequence[str],
    as_json: bool,
    **tls: str | None,
) -> None:
    """Put letters back on their topics of origin, so that their jobs run again.

    A job runs only in the consumer group where it failed. Valid signatures are renewed.
    """
    chosen = _Chosen(letters, selection, everything, again, yes)
    from embedkq._formats.signing import Signer

    with checking_options():
        secrets = secrets_given(secret_files)
        signer = None if secrets is None else Signer(secrets)
    with opened(hosts, dead_letter_topic, tls) as (dead_letters, consumer, producer):
        from embedkq.dlq.retry import Retry

        with Retry(
            dead_letters.hosts,
            dead_letters.topic,
            signer,
            consumer,
            producer,
            every_group=every_group,
        ) as action:
            _resolve(dead_letters, chosen, action, "retried", as_json)


@click.command(epilog=_DROP_EPILOG)
@click.argument("letters", nargs=-1)
@place_options
@selection_options
@option("all", "everything", is_flag=True, help="All open letters.")
@yes_option
@tls_options
@json_option
def drop(
    letters: Sequence[str],
    hosts: str,
    dead_letter_topic: str | None,
    selection: Selection,
    everything: bool,
    yes: bool,
    as_json: bool,
    **tls: str | None,
) -> None:
    """Drop letters: `list` and `retry` no longer show or select them. They stay in their topic as
    long as Kafka keeps them."""
    chosen = _Chosen(letters, selection, everything, False, yes)
    with opened(hosts, dead_letter_topic, tls) as (dead_letters, _, _):
        from embedkq.dlq.resolve import drop as drop_letters

        _resolve(dead_letters, chosen, drop_letters, "dropped", as_json)


class _Chosen:
    """The letters that the user selects. Raises `Refused` if the selection is ambiguous."""

    def __init__(
        self,
        names: Sequence[str],
        selection: Selection,
        everything: bool,
        again: bool,
        yes: bool,
    ) -> None:
        self.names = names
        self.selection = selection
        self.again = again
        self.yes = yes
        filtered = any(selection)
        if not (names or filtered or everything):
            raise Refused(
                "no letters selected: name them (0:17, or the first characters of a job's id), or"
                f" use {_FILTERS} or --all"
            )
        if names and (filtered or everything):
            raise Refused(
                f"letters are named, so {_FILTERS} and --all cannot be used: leave one of them out"
            )


def _resolve(
    dead_letters: DeadLetters, chosen: _Chosen, action: Action, done: str, as_json: bool
) -> None:
    """Resolve the letters. Print each one as JSON, or the kept ones as lines. Exit with status 1 if
    any is kept."""
    from embedkq.dlq.resolve import resolve

    total, letters = (
        _named(dead_letters, chosen) if chosen.names else _matching(dead_letters, chosen, done)
    )
    if not total:
        render.message(f"Nothing to do: no open letter of {dead_letters.topic} matches.")
        return
    count = kept = 0
    with render.progress_bar() as progress:
        bar = progress.add_task(done.capitalize(), total=total)
        for resolution in resolve(dead_letters, letters, action):
            count += resolution.kept is None
            kept += resolution.kept is not None
            progress.advance(bar)
            if as_json:
                click.echo(render.json_line(resolution, done))
            elif resolution.kept is not None and kept <= _KEPT_SHOWN:
                render.message(f"Kept {resolution.letter.name}: {resolution.kept}")
    if kept > _KEPT_SHOWN and not as_json:
        render.message(f"... and {kept - _KEPT_SHOWN} more were kept; --json prints each one.")
    render.message(
        f"{done.capitalize()}: {count}"
        + (f", kept: {kept}" if kept else "")
        + f". Open in {dead_letters.topic}: {dead_letters.resolved.open_count()}."
    )
    if kept:
        sys.exit(1)


def _named(dead_letters: DeadLetters, chosen: _Chosen) -> tuple[int, Iterator[Letter]]:
    places = find_places(dead_letters, chosen.names)
    before = [
        f"{partition.number}:{offset}"
        for partition, offset in places
        if (partition, offset) in dead_letters.resolved
    ]
    if before and not chosen.again:
        raise click.ClickException(
            f"already retried or dropped: {', '.join(before)}. Leave them out, or use `kq dlq"
            " retry --again` to retry them again"
        )
    return len(places), dead_letters.named(places)


def _matching(
    dead_letters: DeadLetters, chosen: _Chosen, done: str
) -> tuple[int, Iterator[Letter]]:
    selection = chosen.selection
    if selection.is_everything:
        total = dead_letters.resolved.open_count()
    else:
        with render.progress_bar() as progress:
            bar = progress.add_task("Reading", total=dead_letters.resolved.open_count())
            total = sum(
                1 for _ in dead_letters.oldest(selection, lambda read: progress.advance(bar, read))
            )
    if total and not chosen.yes:
        if not sys.stdin.isatty():
            raise Refused(
                f"letters of {dead_letters.topic} to be {done}: {total}. There is no terminal to"
                " ask for confirmation: use --yes"
            )
        click.confirm(
            f"Letters of {dead_letters.topic} to be {done}: {total}. Continue?",
            abort=True,
            err=True,
        )
    return total, dead_letters.oldest(selection)
