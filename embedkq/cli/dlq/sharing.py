"""What the verbs of `kq dlq` share: the options that name topic and letters, and the way to the
letters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from embedkq._formats.dead_letter import REASONS
from embedkq.cli.common import (
    Refused,
    client_options,
    errors_in_one_line,
    hosts_option,
    option,
    silence_clients,
)
from embedkq.cli.dlq import view

if TYPE_CHECKING:
    from embedkq.dlq import DeadLetters, Selection

F = TypeVar("F", bound=Callable[..., Any])


def place_options(command: F) -> F:
    """`--hosts` and `--dead-letter-topic`, the same for all verbs."""
    topic = option(
        "dead-letter-topic",
        default=None,
        metavar="TOPIC",
        show_default=False,
        help="The dead-letter topic. Needed.",
    )
    return hosts_option(topic(command))


def filter_options(command: F) -> F:
    """`--reason --origin --from-group --function`: which letters are meant."""
    adding = (
        option(
            "function",
            default=None,
            metavar="PATTERN",
            show_default=False,
            help="Only calls of these functions, such as 'shop.*'.",
        ),
        option(
            "from-group",
            default=None,
            metavar="GROUP",
            show_default=False,
            help="Only letters of workers of this consumer group.",
        ),
        option(
            "origin",
            default=None,
            metavar="TOPIC",
            show_default=False,
            help="Only letters that are from this topic.",
        ),
        option(
            "reason",
            "reasons",
            multiple=True,
            type=click.Choice(REASONS),
            show_default=False,
            help="Only letters with this reason; may be given several times.",
        ),
    )
    return functools.reduce(lambda decorated, add: add(decorated), adding, command)


def json_option(command: F) -> F:
    """`--json`."""
    return option("json", "as_json", is_flag=True, help="JSON, for scripts.")(command)


def selection_of(
    reasons: Sequence[str], origin: str | None, function: str | None, group: str | None
) -> Selection:
    """What these options ask for."""
    from embedkq.dlq import Selection

    return Selection(tuple(reasons), origin, function, group)


def places_of(box: DeadLetters, names: Sequence[str]) -> list[tuple[int, int]]:
    """Where the letters of these names are, with a bar while they are looked for; raises as
    `DeadLetters.find`."""
    with view.progress_bar() as progress:
        bar = progress.add_task("Looking", total=None)
        return box.find(names, lambda read: progress.advance(bar, read))


@contextmanager
def opened(
    hosts: str, topic: str | None, tls: dict[str, str | None]
) -> Iterator[tuple[DeadLetters, dict[str, Any], dict[str, Any]]]:
    """The letters of a topic, and the options of a consumer and a producer; what embedkq raises
    meanwhile becomes one line."""
    silence_clients()
    from embedkq import _options
    from embedkq.dlq import DeadLetters

    if topic is None:
        raise Refused(
            "which topic? Give --dead-letter-topic, or the variable EMBEDKQ_DEAD_LETTER_TOPIC: the"
            " one of the workers"
        )
    try:
        hosts, topic = _options.check_hosts(hosts), _options.check_topic(topic, "dead-letter-topic")
        consumer, producer = client_options(tls)
    except (TypeError, ValueError) as error:
        raise Refused(str(error)) from error
    with errors_in_one_line(), ExitStack() as stack:
        yield stack.enter_context(DeadLetters(hosts, topic, consumer)), consumer, producer
