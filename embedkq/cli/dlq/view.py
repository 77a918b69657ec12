"""How dead letters are shown. What they hold may come from anybody: nothing of it reaches the
terminal as a control sequence."""

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
    from embedkq.dlq.dealing import Resolution

_SHORT_ID = 8
_LONGEST_EXCEPTION = 100
_COLUMNS = (("Attempts", "attempts"), ("Rounds", "rounds"), ("Bytes", "size"))


def progress_bar() -> Progress:
    """A bar on stderr that goes away at its end; none where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def printable(value: object) -> str:
    """A value for the terminal: what could steer it is escaped."""
    return "-" if value is None or value == "" else escaped(str(value))


def table_of(letters: Iterable[Letter], with_state: bool) -> Table:
    """Letters as rows; `with_state`: whether each is open, too."""
    table = Table()
    for name in ("Letter", "Died", "Reason", "From", "Job", "Function", "Exception"):
        table.add_column(name, overflow="fold")
    for name, _ in _COLUMNS:
        table.add_column(name, justify="right")
    if with_state:
        table.add_column("State")
    for letter in letters:
        told = letter.as_dict()
        origin = f"{told['topic']} {told['partition']}:{told['offset']}" if letter.dead else None
        exception = told["exception"] if letter.dead else letter.problem
        cells = [
            letter.name,
            _clock(letter.time),
            told["reason"] or "no dead letter",
            origin,
            told["job"] and told["job"][:_SHORT_ID],
            told["function"],
            exception and _one_line(exception),
            *(told[key] for _, key in _COLUMNS),
        ]
        if with_state:
            cells.append(_state(letter))
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def view_of(letter: Letter) -> RenderableType:
    """Everything about one."""
    told = letter.as_full_dict()
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
                ("payload", "only where it is from: it was too large for the dead-letter topic")
            )
    rows += [(name.replace("_", " "), told[name]) for name in names.split()]
    rows += [
        ("header", f"{name}: {value if value is not None else ''}")
        for name, value in told["headers"]
    ]
    for name, value in rows:
        facts.add_row(Text(name), Text(printable(value)))
    if not told["traceback"]:
        return facts
    return Group(facts, Text(), Text(printable(told["traceback"]).rstrip()))


def line_of(dealing: Resolution, done: str) -> str:
    """What became of one letter, as a line of JSON."""
    outcome = done if dealing.kept is None else "kept"
    why = None if dealing.kept is None else str(dealing.kept)
    return json.dumps(
        {
            "letter": dealing.letter.name,
            "job": dealing.letter.job_id,
            "outcome": outcome,
            "why": why,
        }
    )


def tell(text: str) -> None:
    """A line for the reader, on stderr, where it is in no script's way."""
    click.echo(printable(text), err=True)


def _state(letter: Letter) -> str:
    return "dealt with" if letter.dealt else "open"


def _clock(milliseconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000))
    except (OverflowError, ValueError, OSError):  # a number that is no time
        return str(milliseconds)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_EXCEPTION else line[:_LONGEST_EXCEPTION] + " ..."
