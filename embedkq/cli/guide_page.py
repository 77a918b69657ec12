"""Renders a page of the guide for the terminal with rich. Supports the part of reStructuredText
that the guide uses. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

_ADORNMENT = re.compile(r"([=\-])\1{2,}")
_ITEM = re.compile(r"(?:-|\d+\.) +")
_DIRECTIVE = re.compile(r"\.\. ([a-z-]+):: ?(.*)")
_CELL = re.compile(r"(?:\*| ) - ?(.*)")
_INLINE = re.compile(r"``(.+?)``|\*\*(.+?)\*\*|`([^`<]+) <([^>]+)>`_")
_INDENT = 4


def rendered(text: str) -> Iterator[RenderableType]:
    """Render the blocks of a page, with the page's empty lines."""
    for block in _blocks(text.splitlines()):
        yield from _rendered(block)
        if not block[-1]:
            yield Text()


def inline(text: str) -> Text:
    """A paragraph with its markup as style. After a link to a page comes the command that shows the
    page."""
    shown, position = Text(), 0
    text = " ".join(text.split())
    for found in _INLINE.finditer(text):
        shown.append(text[position : found.start()])
        literal, strong, title, target = found.groups()
        if literal or strong:
            shown.append(literal or strong, "cyan" if literal else "bold")
        else:
            shown.append(f"{title} ({_place(target)})")
        position = found.end()
    return shown.append(text[position:])


def _place(target: str) -> str:
    page, dot, _ = target.partition(".rst")
    return f"kq guide {page}" if dot and "/" not in page else target


def _blocks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Split lines into blocks: a heading, a paragraph with its indented lines, a list item."""
    block: list[str] = []
    for number, line in enumerate(lines):
        is_text = bool(line) and not line.startswith(" ")
        begins = is_text and (
            number == 0
            or not lines[number - 1]
            or lines[number - 1].startswith(" ")
            or _ITEM.match(line)
        )
        if begins and block:
            yield block
            block = []
        block.append(line)
    yield block


def _rendered(block: list[str]) -> Iterator[RenderableType]:
    first, indented = block[0], textwrap.dedent("\n".join(block[1:])).strip("\n")
    directive = _DIRECTIVE.fullmatch(first)
    heading = [line for line in block if line and not _ADORNMENT.fullmatch(line)]
    item = _ITEM.match(first)
    if len(heading) == 1 and len(heading) < len([line for line in block if line]):
        yield Text(heading[0], "bold underline" if _ADORNMENT.fullmatch(first) else "bold")
    elif directive is not None and directive[1] == "list-table":
        yield _table(directive[2], indented.splitlines())
    elif directive is not None or first == "::":
        yield Text(textwrap.indent(indented, " " * _INDENT), no_wrap=True, overflow="ignore")
    elif item:
        row = Table.grid(padding=(0, 1))
        row.add_row(item[0].strip(), inline(" ".join([first[item.end() :], *block[1:]])))
        yield row
    elif len(block) > 1 and block[1].startswith(" "):  # a term and its definition
        yield inline(first)
        yield Padding(inline(indented), (0, 0, 0, _INDENT))
    else:
        yield inline(" ".join(block))


def _table(title: str, lines: Sequence[str]) -> Table:
    rows: list[list[str]] = []
    for line in lines:
        cell = _CELL.fullmatch(line)
        if cell and line.startswith("*"):
            rows.append([cell[1]])
        elif cell:
            rows[-1].append(cell[1])
        elif rows:
            rows[-1][-1] += f" {line.strip()}"
    table = Table(
        *(Column(inline(name)) for name in rows[0]),
        title=Text(title),
        title_justify="left",
        show_lines=True,
    )
    for row in rows[1:]:
        table.add_row(*map(inline, row))
    return table
