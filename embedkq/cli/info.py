"""`kq info`: shows topics, offsets, lag and members of a cluster."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from embedkq._partition import Partition
from embedkq._printable import one_line
from embedkq.cli.common import checking_options, errors_in_one_line, silence_clients, table_console
from embedkq.cli.connection import connection_options
from embedkq.cli.options import hosts_option, json_option, option, tls_options
from embedkq.errors import BrokerUnavailable

if TYPE_CHECKING:
    from embedkq._clients.admin import Inspector
    from embedkq._clients.cluster_info import Info

_UUID_LENGTH = 36
_SHORT_UUID = 8
_EPILOG = """\b
Examples:
  kq info
  kq info --topic=images --watch
  kq info --json | jq .lag
  kq info --json --watch --interval=10     a line of JSON every ten seconds
"""


@click.command(epilog=_EPILOG)
@hosts_option
@option("topic", default=None, help="Only this topic.", show_default=False)
@option("group", default=None, help="Only this consumer group.", show_default=False)
@tls_options
@option("watch", is_flag=True, help="Refresh until you press Ctrl-C.")
@option(
    "interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    metavar="SECONDS",
    help="Refresh interval of --watch.",
)
@json_option
def info(
    hosts: str,
    topic: str | None,
    group: str | None,
    watch: bool,
    interval: float,
    as_json: bool,
    **tls: str | None,
) -> None:
    """Show topics, offsets, lag, and which worker owns which partition.

    Lag is the number of records that a consumer group has not done. A group without a committed
    offset has done none.
    """
    silence_clients()
    from embedkq import _options

    with checking_options():
        hosts, connection = _options.check_hosts(hosts), connection_options(tls)
    with errors_in_one_line():
        if watch:
            _watch(hosts, topic, group, connection, interval, as_json)
        else:
            _show_once(hosts, topic, group, connection, as_json)


def _show_once(
    hosts: str, topic: str | None, group: str | None, connection: dict[str, Any], as_json: bool
) -> None:
    from embedkq._clients.admin import describe, is_hidden
    from embedkq._clients.broker_errors import Asked, hidden, no_topic

    found = describe(hosts, topic, group, **connection)
    if topic is not None and not found.topics:
        asked = Asked(hosts, "DESCRIBE", topic)
        raise hidden(asked) if is_hidden(hosts, topic, connection) else no_topic(asked)
    show(found, as_json)


def show(found: Info, as_json: bool) -> None:
    """Print the result as tables or as JSON."""
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        table_console().print(_view(found))


def _watch(
    hosts: str,
    topic: str | None,
    group: str | None,
    connection: dict[str, Any],
    interval: float,
    as_json: bool,
) -> None:
    from embedkq._clients.admin import Inspector

    # A cluster that does not answer at first is an error. One that goes away later is not.
    with contextlib.suppress(KeyboardInterrupt), Inspector(hosts, **connection) as inspector:
        if as_json:
            _watch_as_json(inspector, topic, group, interval)
        console = table_console()
        if not console.is_terminal:
            while True:
                console.print(_view_now(inspector, topic, group))
                time.sleep(interval)
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                live.update(_view_now(inspector, topic, group), refresh=True)
                time.sleep(interval)


def _watch_as_json(
    inspector: Inspector, topic: str | None, group: str | None, interval: float
) -> NoReturn:
    while True:
        try:
            click.echo(json.dumps(inspector.describe(topic, group).as_dict()))
        except BrokerUnavailable as error:
            click.echo(str(error), err=True)
        time.sleep(interval)


def _view_now(inspector: Inspector, topic: str | None, group: str | None) -> RenderableType:
    try:
        return Group(
            Text(time.strftime("%X"), style="dim"), _view(inspector.describe(topic, group))
        )
    except BrokerUnavailable as error:
        return Group(Text(time.strftime("%X"), style="dim"), Text(str(error), style="red"))


def _view(found: Info) -> RenderableType:
    if not found.partitions and not found.groups:
        return Text(f"No topics at {found.hosts} yet: the first job creates one.")
    return Group(_partitions_table(found), Text(), _members_table(found))


def _partitions_table(found: Info) -> Table:
    table = Table(title=Text(f"Topics at {found.hosts}"), title_justify="left")
    for name in ("Topic", "Group"):
        table.add_column(name, overflow="fold")
    for name in ("Partition", "First", "Last", "Committed", "Lag"):
        table.add_column(name, justify="right")
    table.add_column("Owner", overflow="fold")
    for (topic, group), partitions in groupby(
        found.partitions, key=lambda row: (row.topic, row.group)
    ):
        rows = list(partitions)
        for index, row in enumerate(rows):
            names = (_shown(topic), _shown(group)) if index == 0 else ("", "")
            figures = (row.partition, row.first, row.last, row.committed, row.lag)
            table.add_row(*names, *map(_shown, figures), _shown(row.owner and _short(row.owner)))
        if group is not None and len(rows) > 1:
            table.add_row(
                "", "", *[""] * 4, f"[bold]{sum(row.lag or 0 for row in rows)}[/]", "[dim]total[/]"
            )
        table.add_section()
    return table


def _members_table(found: Info) -> Table:
    table = Table(title="Workers", title_justify="left")
    for name in ("Group", "State", "Member", "Client", "Host", "Owns"):
        table.add_column(name, overflow="fold")
    for group in found.groups:
        if not group.members:
            table.add_row(
                _shown(group.name), _shown(group.state), Text("nobody", style="dim"), "", "", ""
            )
        for index, member in enumerate(group.members):
            names = (_shown(group.name), _shown(group.state)) if index == 0 else ("", "")
            table.add_row(
                *names,
                _shown(_short(member.id)),
                _shown(member.client),
                _shown(member.host),
                _shown(_owned(member.partitions)),
            )
        table.add_section()
    return table


def _owned(partitions: Sequence[Partition]) -> str:
    topics = groupby(partitions, key=lambda partition: partition.topic)
    return (
        "; ".join(
            f"{topic}: {', '.join(str(each.number) for each in owned)}" for topic, owned in topics
        )
        or "-"
    )


def _shown(value: object) -> Text:
    """A table cell. Others may have written the value, so it is not parsed as markup and control
    characters are escaped."""
    return Text("-" if value is None or value == "" else one_line(str(value)))


def _short(member_id: str) -> str:
    """A member id without most of the UUID that it ends in."""
    is_long = len(member_id) > _UUID_LENGTH and member_id[-_UUID_LENGTH:].count("-") == 4
    return member_id[: -_UUID_LENGTH + _SHORT_UUID] if is_long else member_id
