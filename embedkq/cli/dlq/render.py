"""Renders dead letters for the terminal. Anybody may have written their content, so control
sequences are escaped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from embedkq._printable import escaped

if TYPE_CHECKING:
    from embedkq.dlq import Letter
    from embedkq.dlq.resolve import Resolution

_SHORT_ID = 8
_LONGEST_EXCEPTION = 100
_COLUMNS = (("Attempts", "attempts"), ("Rounds", "rounds"), ("Bytes", "size"))


def progress_bar() -> Progress:
    """A progress bar on stderr that disappears at the end; none if stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def printable(value: object) -> str:
    """A value for the terminal, with control characters escaped."""
    return "-" if value is None or value == "" else escaped(str(value))


def table(letters: Iterable[Letter], with_state: bool) -> Table:
    """Letters as rows of a table. `with_state` adds a column for open or resolved."""
    rows = Table()
    for name in ("Letter", "Died", "Reason", "From", "Job", "Function", "Exception"):
        rows.add_column(name, overflow="fold")
    for name, _ in _COLUMNS:
        rows.add_column(name, justify="right")
    if with_state:
        rows.add_column("State")
    for letter in letters:
        fields = letter.as_dict()
        origin = (
            f"{fields['topic']} {fields['partition']}:{fields['offset']}" if letter.dead else None
        )
        exception = fields["exception"] if letter.dead else letter.problem
        cells = [
            letter.name,
            _clock(letter.time),
            fields["reason"] or "not a dead letter",
            origin,
            fields["job"] and fields["job"][:_SHORT_ID],
            fields["function"],
            exception and _one_line(exception),
            *(fields[key] for _, key in _COLUMNS),
        ]
        if with_state:
            cells.append(_state(letter))
        rows.add_row(*(Text(printable(cell)) for cell in cells))
    return rows


def details(letter: Letter) -> RenderableType:
    """Everything about one letter."""
    fields = letter.as_full_dict()
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    names = "job function reason exception attempts rounds host group key size payload_size problem"
    rows: list[tuple[str, Any]] = [
        ("letter", letter.name),
        ("state", _state(letter)),
        ("died", _clock(letter.time)),
    ]
    if letter.dead:
        rows.append(("from", f"{letter.dead.topic} {letter.dead.partition}:{letter.dead.offset}"))
        if letter.dead.pointer:
            rows.append(
                ("payload", "only at its origin: it was too large for the dead-letter topic")
            )
    rows += [(name.replace("_", " "), fields[name]) for name in names.split()]
    rows += [
        ("header", f"{name}: {value if value is not None else ''}")
        for name, value in fields["headers"]
    ]
    for name, value in rows:
        facts.add_row(Text(name), Text(printable(value)))
    if not fields["traceback"]:
        return facts
    return Group(facts, Text(), Text(printable(fields["traceback"]).rstrip()))


def json_line(resolution: Resolution, done: str) -> str:
    """The result for one letter as a line of JSON."""
    outcome = done if resolution.kept is None else "kept"
    why = None if resolution.kept is None else str(resolution.kept)
    return json.dumps(
        {
            "letter": resolution.letter.name,
            "job": resolution.letter.job_id,
            "outcome": outcome,
            "why": why,
        }
    )


def message(text: str) -> None:
    """Print a line for the user to stderr, so that scripts can read stdout."""
    click.echo(printable(text), err=True)


def _state(letter: Letter) -> str:
    return "resolved" if letter.resolved else "open"


def _clock(milliseconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))
    except (OverflowError, ValueError, OSError):  # out of range
        return str(milliseconds)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_EXCEPTION else line[:_LONGEST_EXCEPTION] + " ..."
