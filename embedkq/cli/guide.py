"""`kq guide`: shows the documentation of the installed version in the terminal."""

from __future__ import annotations

import io
import re
from importlib import resources

import click
from rich.console import Console
from rich.text import Text

from embedkq.cli.common import Refused
from embedkq.cli.guide_page import rendered
from embedkq.cli.options import option

_WIDEST = 110
"""Columns: longer lines are hard to read."""
_START = "index"
_EPILOG = """\b
Examples:
  kq guide                       list all pages
  kq guide delivery              show one page
  kq guide --search=watermark    find a word
"""


@click.command(epilog=_EPILOG)
@click.argument("page", default=_START)
@option(
    "search",
    metavar="WORD",
    default=None,
    show_default=False,
    help="List the lines of all pages that contain this word.",
)
def guide(page: str, search: str | None) -> None:
    """Show a page of the guide, or list all pages. A terminal uses a pager."""
    pages = pages_by_name()
    if search is not None:
        found = _found(pages, search)
        if not found:
            raise Refused(f"no page of the guide contains {search!r}")
        click.echo_via_pager(found)
        return
    name = page.removesuffix(".rst")
    if name not in pages:
        from embedkq._options import nearest

        close = nearest(name, pages)
        hint = f": did you mean {close!r}?" if close else "."
        raise Refused(f"the guide has no page {page!r}{hint} `kq guide` lists all pages.")
    click.echo_via_pager(_shown(pages[name]))


def pages_by_name() -> dict[str, str]:
    """The text of each page."""
    folder = resources.files("embedkq") / "guide"
    return {
        file.name[: -len(".rst")]: file.read_text("utf-8")
        for file in sorted(folder.iterdir(), key=str)
        if file.name.endswith(".rst")
    }


def _shown(text: str) -> str:
    terminal = Console()
    page = io.StringIO()
    console = Console(
        file=page,
        width=min(terminal.width, _WIDEST),
        force_terminal=terminal.is_terminal,
        highlight=False,
    )
    for part in rendered(text):
        console.print(
            part, soft_wrap=isinstance(part, Text) and part.no_wrap is True
        )  # do not break lines of code, so that they can be copied
    return page.getvalue()


def _found(pages: dict[str, str], word: str) -> str:
    lines = []
    for name, text in pages.items():
        for line in text.splitlines():
            if word.lower() in line.lower():
                lines.append(f"{name}: {re.sub('``|`_|[*][*]', '', line.strip())}\n")
    return "".join(lines)
