"""`kq rewind` and `kq purge`: run jobs again after a bad deploy, or skip jobs that should not
run."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.table import Table

from embedkq.cli.common import (
    Refused,
    checking_options,
    errors_in_one_line,
    silence_clients,
    table_console,
)
from embedkq.cli.connection import client_options
from embedkq.cli.options import hosts_option, json_option, option, tls_options, yes_option

if TYPE_CHECKING:
    from embedkq._group_offsets import GroupOffsets, Move

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])").fullmatch
_REWIND_EPILOG = """\b
Examples:
  kq rewind --topic=images --to-time=2h                  run the last two hours again
  kq rewind --topic=images --to-time=2026-11-26T08:00    since eight, in local time
  kq rewind --topic=images --to-offset=1200 --partition=3
  kq rewind --topic=images --to-start --group=mail --yes

\b
Stop the group's workers first. Jobs that were done since then run again, and
so do their callbacks. A partition that is already at or before the target stays.
"""
_PURGE_EPILOG = """\b
Examples:
  kq purge --topic=images                   skip all waiting jobs
  kq purge --topic=images --before=1d       skip jobs older than a day
  kq purge --topic=images --dry-run --json

\b
Stop the group's workers first. The records stay in Kafka as long as it keeps
them: `kq rewind` brings the jobs back, and other groups still run them.
"""


class _Moment(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A time such as "2026-11-26T08:00" (local, unless it has a zone), or an age such as "90s" or
    "2h"; converted to Unix milliseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if (ago := _AGO(value)) is not None:
            return int((time.time() - float(ago[1]) * _UNITS[ago[2]]) * 1000)
        try:
            return int(datetime.fromisoformat(re.sub("Z$", "+00:00", value)).timestamp() * 1000)
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is neither a time such as 2026-11-26T08:00 nor an age such as 90s, 30m,"
                " 2h or 1d",
                param,
                ctx,
            )


_MOMENT = _Moment()


def _shared_options(command: F) -> F:
    adding = (
        json_option,
        yes_option,
        option("dry-run", is_flag=True, help="Only show what would change."),
        tls_options,
        option(
            "partition",
            "partitions",
            multiple=True,
            type=click.IntRange(min=0),
            metavar="NUMBER",
            show_default=False,
            help="Only this partition. Repeat the option for several partitions.",
        ),
        option(
            "group", default=None, help="Consumer group.  [default: the topic]", show_default=False
        ),
        option("topic", default="default", help="Topic of the jobs."),
        hosts_option,
    )
    for add in adding:
        command = add(command)
    return command


@click.command(epilog=_REWIND_EPILOG)
@_shared_options
@option("to-start", is_flag=True, help="Move to the oldest record that Kafka keeps.")
@option(
    "to-offset",
    type=click.IntRange(min=0),
    default=None,
    metavar="OFFSET",
    show_default=False,
    help="Move to this offset.",
)
@option(
    "to-time",
    type=_MOMENT,
    default=None,
    metavar="TIME|AGE",
    show_default=False,
    help="Move to the first job enqueued at this time or later.",
)
def rewind(to_start: bool, to_offset: int | None, to_time: int | None, **how: Any) -> None:
    """Run jobs again: move a consumer group back to a time, an offset or the start.

    Shows the changes and asks for confirmation. Refused while the group has members.
    """
    if (to_start, to_offset is not None, to_time is not None).count(True) != 1:
        raise Refused("no target: use one of --to-time, --to-offset and --to-start")
    _move(lambda offsets: offsets.rewind(offset=to_offset, time=to_time), "run again", **how)


@click.command(epilog=_PURGE_EPILOG)
@_shared_options
@option(
    "before",
    type=_MOMENT,
    default=None,
    metavar="TIME|AGE",
    show_default=False,
    help="Only jobs enqueued before this time.",
)
def purge(before: int | None, **how: Any) -> None:
    """Skip waiting jobs: a consumer group will not run them.

    Shows the changes and asks for confirmation. Refused while the group has members.
    """
    _move(lambda offsets: offsets.purge(before=before), "not be run", **how)


def _move(
    plan: Callable[[GroupOffsets], list[Move]],
    effect: str,
    *,
    hosts: str,
    topic: str,
    group: str | None,
    partitions: Sequence[int],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **tls: str | None,
) -> None:
    with _opened(hosts, topic, group, partitions, tls) as offsets:
        moves = plan(offsets)
        records = sum(move.records for move in moves)
        summary = f"Records of {topic} that will {effect} by group {offsets.group}: {records}."
        if not as_json:
            _show(moves, summary)
        if moves and not dry_run:
            _ask(summary, yes)
            offsets.commit(moves)
        done = bool(moves) and not dry_run
        if as_json:
            each = [{**move._asdict(), "partition": move.partition.number} for move in moves]
            click.echo(
                json.dumps(
                    {
                        "topic": topic,
                        "group": offsets.group,
                        "records": records,
                        "done": done,
                        "partitions": each,
                    },
                    indent=2,
                )
            )
        elif done:
            click.echo("Done.", err=True)


@contextmanager
def _opened(
    hosts: str, topic: str, group: str | None, partitions: Sequence[int], tls: dict[str, str | None]
) -> Iterator[GroupOffsets]:
    silence_clients()
    from embedkq import _options
    from embedkq._group_offsets import GroupOffsets

    with checking_options():
        hosts, topic = _options.check_hosts(hosts), _options.check_topic(topic)
        group = topic if group is None else _options.check_group(group)
        consumer, _ = client_options(tls)
    with errors_in_one_line(), GroupOffsets(hosts, topic, group, partitions, consumer) as offsets:
        yield offsets


def _show(moves: Sequence[Move], summary: str) -> None:
    if moves:
        table = Table()
        for name in ("Partition", "Committed", "Will be", "Records"):
            table.add_column(name, justify="right")
        for move in moves:
            table.add_row(
                str(move.partition.number),
                "-" if move.committed is None else str(move.committed),
                str(move.target),
                str(move.records),
            )
        table_console().print(table)
    click.echo(summary if moves else "Nothing to do.", err=True)


def _ask(summary: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(f"{summary} There is no terminal to ask for confirmation: use --yes")
    click.confirm("Continue?", abort=True, err=True)
