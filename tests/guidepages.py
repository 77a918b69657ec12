"""README and the pages of the guide, as documents: their snippets, commands, tables and links."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docutils.core
from docutils import nodes
from support import ROOT

README = ROOT / "README.rst"
FOLDER = ROOT / "embedkq" / "guide"
PATHS = [README, *sorted(FOLDER.glob("*.rst"))]


def parsed(path: Path, report_level: int = 5) -> nodes.document:
    settings = {"report_level": report_level, "halt_level": 5, "syntax_highlight": "short"}
    return docutils.core.publish_doctree(
        path.read_text(), source_path=str(path), settings_overrides=settings
    )


PAGES = {path: parsed(path) for path in PATHS}


def nodes_of(kind: type[nodes.Node]) -> Iterator[nodes.Node]:
    """All nodes of a kind, of README and the guide."""
    for page in PAGES.values():
        yield from page.findall(kind)


def blocks(language: str) -> list[str]:
    """All code blocks in a language."""
    return [node.astext() for node in nodes_of(nodes.literal_block) if language in node["classes"]]


SNIPPETS = {block.partition("\n")[0].removeprefix("# "): block for block in blocks("python")}
COMMANDS = [
    line.removeprefix("$ ").partition("  #")[0].strip()
    for block in blocks("console")
    for line in block.splitlines()
    if line.startswith("$ ")
]
OF_KQ = [
    command.removeprefix("python manage.py ")
    for command in COMMANDS
    if "kq " in command and not command.startswith(("flask", "pip"))
]


def table(title: str) -> list[list[str]]:
    """The cells of a table's body, as text, by row."""
    found = [
        node
        for node in nodes_of(nodes.table)
        if (caption := node.next_node(nodes.title)) and caption.astext() == title
    ]
    assert len(found) == 1, title
    rows = next(iter(found[0].findall(nodes.tbody))).findall(nodes.row)
    return [[cell.astext() for cell in row.children] for row in rows]


def literals() -> set[str]:
    """All that is marked as code within text."""
    return {node.astext() for node in nodes_of(nodes.literal)}


def prose(path: Path) -> str:
    """The text of a page, without code."""
    page = parsed(path)
    for kind in (nodes.literal, nodes.literal_block):
        for node in list(page.findall(kind)):
            node.parent.remove(node)
    return page.astext()


def anchors(page: nodes.document) -> set[str]:
    """The sections that a link can lead to."""
    return {name for section in page.findall(nodes.section) for name in section["ids"]}
