"""Makes foreign text safe to show: escapes what could control a terminal or imitate a log line.
Pure; any thread.

Escapes control characters (C0, DEL and C1, so ESC, BEL and CSI), and characters that change the
text direction, which can make a text look like another one.
"""

from __future__ import annotations

import re

_CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_IN_LINES = re.compile(f"[{_CONTROL}]")
_IN_ONE_LINE = re.compile(f"[{_CONTROL}\n]")
_LINE_THAT_BEGINS = re.compile(r"\n(?=[^\s])")


def escaped(text: str) -> str:
    """Replace control characters with escapes such as `\\x1b`. Line feeds and tabs stay."""
    return text if text.isprintable() else _IN_LINES.sub(_escape, text)


def one_line(text: str) -> str:
    """Like `escaped`, but line feeds are escaped too."""
    return text if text.isprintable() else _IN_ONE_LINE.sub(_escape, text)


def in_one_record(text: str) -> str:
    """Escape several lines. All lines but the first are indented, so that none looks like another
    log record."""
    return _LINE_THAT_BEGINS.sub("\n  ", escaped(text))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
