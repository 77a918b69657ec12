"""`kq enqueue`: put one job on a topic, from the shell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from embedkq._options.checks import SERIALIZERS
from embedkq._options.option import QUEUE
from embedkq.cli.common import (
    checking_options,
    errors_in_one_line,
    silence_clients,
)
from embedkq.cli.connection import kafka_options, secrets_given
from embedkq.cli.options import declared_options, json_option, option

_EPILOG = """\b
Examples:
  kq enqueue shop.jobs:resize a.png
  kq enqueue shop.jobs:resize a.png --kwarg width=40 --topic=images
  kq enqueue shop.jobs:notify '[1, 2, 3]' '"40"' --timeout=30 --key=user-42
  kq enqueue shop.jobs:resize a.png --serializer=json

\b
An argument that is JSON is passed as its value: 40 is a number, true is True,
'"40"' is text. Any other argument is text. The module is imported, also from
the current folder.
"""


@click.command(epilog=_EPILOG)
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("arguments", metavar="[ARGUMENT]...", nargs=-1)
@option("kwarg", "kwargs", multiple=True, metavar="NAME=VALUE", help="A keyword argument.")
@option("text", is_flag=True, help="Pass all arguments as text, also those that are JSON.")
@option(
    "timeout",
    type=float,
    metavar="SECONDS",
    help="Limit of the job.  [default: no limit]",
)
@option("key", default=None, help="Jobs with the same key run one after another.")
@option("partition", type=click.IntRange(min=0), metavar="NUMBER", help="Partition to send to.")
@option(
    "retries",
    type=int,
    metavar="TIMES",
    help="How often the job runs again after a failure.  [default: the worker decides]",
)
@option(
    "backoff",
    type=float,
    metavar="SECONDS",
    help="Delay before the first retry.  [default: the worker decides]",
)
@option(
    "serializer",
    type=click.Choice(SERIALIZERS),
    default=SERIALIZERS[0],
    help="How the call is written.",
)
@declared_options(QUEUE)
@json_option
def enqueue(
    function: str,
    arguments: Sequence[str],
    kwargs: Sequence[str],
    text: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Put a call of a function on a topic, and print the job's id once all replicas have it."""
    silence_clients()
    from embedkq import Queue
    from embedkq._importing import function_by_name, make_current_folder_importable

    make_current_folder_importable()

    own = {name: values.pop(name) for name in ("key", "partition")}
    with checking_options():
        called = function_by_name(function, "FUNCTION")
        positional = [_value(each, text) for each in arguments]
        named = dict(_named(each, text) for each in kwargs)
        secret, kafka = secrets_given(values.pop("secret_file")), values.pop("kafka_file")
        made = Queue(**values, secret=secret, kafka=kafka_options(kafka) or None)
        bound = made.using(**{name: value for name, value in own.items() if value is not None})
    with made, errors_in_one_line(), checking_options():
        job = bound.enqueue(called, *positional, **named)
    if as_json:
        click.echo(json.dumps({"id": job.id, "timestamp": job.timestamp, "topic": job.topic}))
    else:
        click.echo(f"Enqueued {function} on topic {job.topic}: job {job.id}")


def _value(argument: str, is_text: bool) -> Any:
    if is_text:
        return argument
    try:
        return json.loads(argument, parse_constant=str)
    except (ValueError, RecursionError):
        return argument


def _named(argument: str, is_text: bool) -> tuple[str, Any]:
    name, found, value = argument.partition("=")
    if not found or not name.isidentifier():
        raise ValueError(f"--kwarg={argument!r} does not have the form NAME=VALUE")
    return name, _value(value, is_text)
