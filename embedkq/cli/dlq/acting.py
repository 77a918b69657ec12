"""`kq dlq retry` and `kq dlq drop`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from embedkq.cli.common import Refused, option, secrets_given, tls_options
from embedkq.cli.dlq import view
from embedkq.cli.dlq.sharing import (
    filter_options,
    json_option,
    opened,
    place_options,
    places_of,
    selection_of,
)

if TYPE_CHECKING:
    from embedkq.dlq import DeadLetters, Letter
    from embedkq.dlq.dealing import Action

_KEPT_SHOWN = 20
_FILTERS = "--reason, --origin, --from-group, --function"
_RETRY_EPILOG = """\b
Examples:
  kq dlq retry 0:17 1b92c1e0 --dead-letter-topic=failed
  kq dlq retry --reason=timeout --dead-letter-topic=failed
  kq dlq retry --all --yes --dead-letter-topic=failed --secret-file=secret

\b
A letter counts as retried once its topic has it. If this is ended in between, it
is put back once more the next time: no job is lost, one may run twice.
Status 1 if a letter was kept: then it is told why.
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
@filter_options
@option("all", "everything", is_flag=True, help="All that are open.")
@option(
    "every-group",
    is_flag=True,
    help="For all consumer groups of their topic, not only the one whose job failed.",
)
@option("again", is_flag=True, help="Also letters named here that were retried or dropped before.")
@option("yes", is_flag=True, help="Do not ask.")
@option(
    "secret-file",
    "secret_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    show_default=False,
    help=(
        "Sign with the secret in this file; may be given several times: further ones are accepted. "
        "The secret itself: in EMBEDKQ_SECRET."
    ),
)
@tls_options
@json_option
def retry(
    letters: Sequence[str],
    hosts: str,
    dead_letter_topic: str | None,
    reasons: Sequence[str],
    origin: str | None,
    function: str | None,
    from_group: str | None,
    everything: bool,
    again: bool,
    every_group: bool,
    yes: bool,
    secret_files: Sequence[str],
    as_json: bool,
    **tls: str | None,
) -> None:
    """Put letters back on the topics that they are from: the same jobs, with a round more.

    A job runs again in the consumer group where it failed, and in no other. A signed job is signed
    anew, if its signature is good.
    """
    chosen = _Chosen(letters, reasons, origin, function, from_group, everything, again, yes)
    from embedkq._formats.signing import Signer

    try:
        secrets = secrets_given(secret_files)
        signer = None if secrets is None else Signer(secrets)
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error
    with opened(hosts, dead_letter_topic, tls) as (box, consumer, producer):
        from embedkq.dlq.retry import Retry

        with Retry(
            box.hosts, box.topic, signer, consumer, producer, every_group=every_group
        ) as action:
            _deal(box, chosen, action, "retried", as_json)


@click.command(epilog=_DROP_EPILOG)
@click.argument("letters", nargs=-1)
@place_options
@filter_options
@option("all", "everything", is_flag=True, help="All that are open.")
@option("yes", is_flag=True, help="Do not ask.")
@tls_options
@json_option
def drop(
    letters: Sequence[str],
    hosts: str,
    dead_letter_topic: str | None,
    reasons: Sequence[str],
    origin: str | None,
    function: str | None,
    from_group: str | None,
    everything: bool,
    yes: bool,
    as_json: bool,
    **tls: str | None,
) -> None:
    """Forget letters: they are not listed and retried any more. They stay in their topic as long as
    Kafka keeps them."""
    chosen = _Chosen(letters, reasons, origin, function, from_group, everything, False, yes)
    with opened(hosts, dead_letter_topic, tls) as (box, _, _):
        from embedkq.dlq import dealing

        _deal(box, chosen, dealing.drop, "dropped", as_json)


class _Chosen:
    """Which letters a user means; raises `Refused` where that is not clear."""

    def __init__(
        self,
        names: Sequence[str],
        reasons: Sequence[str],
        origin: str | None,
        function: str | None,
        group: str | None,
        everything: bool,
        again: bool,
        yes: bool,
    ) -> None:
        self.names = names
        self.filters = reasons, origin, function, group
        self.again = again
        self.yes = yes
        filtered = any(self.filters)
        if not (names or filtered or everything):
            raise Refused(
                f"which letters? Name them (0:17, or the beginning of a job's id), or {_FILTERS},"
                " --all"
            )
        if names and (filtered or everything):
            raise Refused(
                f"letters are named, and {_FILTERS} or --all would choose others: leave one of"
                " them out"
            )


def _deal(box: DeadLetters, chosen: _Chosen, action: Action, done: str, as_json: bool) -> None:
    """Do it, tell of each letter as JSON or of those that were kept as lines, and end with status 1
    if there are any of these."""
    from embedkq.dlq import dealing

    total, letters = _named(box, chosen) if chosen.names else _matching(box, chosen, done)
    if not total:
        view.tell(f"Nothing to do: no open letter of {box.topic} is meant.")
        return
    count = kept = 0
    with view.progress_bar() as progress:
        bar = progress.add_task(done.capitalize(), total=total)
        for became in dealing.deal(box, letters, action):
            count += became.kept is None
            kept += became.kept is not None
            progress.advance(bar)
            if as_json:
                click.echo(view.line_of(became, done))
            elif became.kept is not None and kept <= _KEPT_SHOWN:
                view.tell(f"Kept {became.letter.name}: {became.kept}")
    if kept > _KEPT_SHOWN and not as_json:
        view.tell(f"... and {kept - _KEPT_SHOWN} more were kept; --json tells of each.")
    view.tell(
        f"{done.capitalize()}: {count}"
        + (f", kept: {kept}" if kept else "")
        + f". Open in {box.topic}: {box.dealt.open_count()}."
    )
    if kept:
        sys.exit(1)


def _named(box: DeadLetters, chosen: _Chosen) -> tuple[int, Iterator[Letter]]:
    places = places_of(box, chosen.names)
    before = [
        f"{partition}:{offset}" for partition, offset in places if (partition, offset) in box.dealt
    ]
    if before and not chosen.again:
        raise click.ClickException(
            f"retried or dropped before: {', '.join(before)}. Leave that out; `kq dlq retry"
            " --again` puts it back once more"
        )
    return len(places), box.named(places)


def _matching(box: DeadLetters, chosen: _Chosen, done: str) -> tuple[int, Iterator[Letter]]:
    selection = selection_of(*chosen.filters)
    if selection.is_everything:
        total = box.dealt.open_count()
    else:
        with view.progress_bar() as progress:
            bar = progress.add_task("Reading", total=box.dealt.open_count())
            total = sum(1 for _ in box.oldest(selection, lambda read: progress.advance(bar, read)))
    if total and not chosen.yes:
        if not sys.stdin.isatty():
            raise Refused(
                f"letters of {box.topic} to be {done}: {total}, and nobody is there to ask. Give"
                " --yes"
            )
        click.confirm(f"Letters of {box.topic} to be {done}: {total}. Go on?", abort=True, err=True)
    return total, box.oldest(selection)
