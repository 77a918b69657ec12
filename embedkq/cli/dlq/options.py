"""Shared by the commands of `kq dlq`: options for the topic and the letters, and access to the
letters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from embedkq._formats.dead_letter import REASONS
from embedkq.cli.common import Refused, checking_options, errors_in_one_line, silence_clients
from embedkq.cli.connection import client_options
from embedkq.cli.dlq import render
from embedkq.cli.options import hosts_option, option

if TYPE_CHECKING:
    from embedkq.dlq import DeadLetters, Place

F = TypeVar("F", bound=Callable[..., Any])


def place_options(command: F) -> F:
    """`--hosts` and `--dead-letter-topic`, the same for all commands."""
    topic = option(
        "dead-letter-topic",
        default=None,
        metavar="TOPIC",
        show_default=False,
        help="The dead-letter topic. Required.",
    )
    return hosts_option(topic(command))


_FILTERS = (
    option(
        "function",
        default=None,
        metavar="PATTERN",
        show_default=False,
        help="Only letters whose function matches this pattern, such as 'shop.*'.",
    ),
    option(
        "from-group",
        default=None,
        metavar="GROUP",
        show_default=False,
        help="Only letters that workers of this consumer group wrote.",
    ),
    option(
        "origin",
        default=None,
        metavar="TOPIC",
        show_default=False,
        help="Only letters that come from this topic.",
    ),
    option(
        "reason",
        "reasons",
        multiple=True,
        type=click.Choice(REASONS),
        show_default=False,
        help="Only letters with this reason. Repeat the option for several reasons.",
    ),
)


def selection_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--reason --origin --from-group --function`: which letters. The command gets them as one
    `selection`."""

    @functools.wraps(command)
    def selecting(
        *,
        reasons: Sequence[str],
        origin: str | None,
        function: str | None,
        from_group: str | None,
        **others: Any,
    ) -> None:
        from embedkq.dlq import Selection

        command(selection=Selection(tuple(reasons), origin, function, from_group), **others)

    return functools.reduce(lambda decorated, add: add(decorated), _FILTERS, selecting)


def find_places(dead_letters: DeadLetters, names: Sequence[str]) -> list[Place]:
    """Find the letters with these names, with a progress bar. Raises as `DeadLetters.find`."""
    with render.progress_bar() as progress:
        bar = progress.add_task("Searching", total=None)
        return dead_letters.find(names, lambda read: progress.advance(bar, read))


@contextmanager
def opened(
    hosts: str, topic: str | None, tls: dict[str, str | None]
) -> Iterator[tuple[DeadLetters, dict[str, Any], dict[str, Any]]]:
    """The letters of a topic, and the options for a consumer and a producer. Errors of embedkq
    inside the block become one line."""
    silence_clients()
    from embedkq import _options
    from embedkq.dlq import DeadLetters

    if topic is None:
        raise Refused(
            "no topic: set --dead-letter-topic or EMBEDKQ_DEAD_LETTER_TOPIC to the workers'"
            " dead_letter_topic"
        )
    with checking_options():
        hosts, topic = _options.check_hosts(hosts), _options.check_topic(topic, "dead-letter-topic")
        consumer, producer = client_options(tls)
    with errors_in_one_line(), ExitStack() as stack:
        yield stack.enter_context(DeadLetters(hosts, topic, consumer)), consumer, producer
