"""Text of others, made safe to show: what could steer a terminal, or pass for a line of a log, is
escaped. Pure; any thread.

Escaped are control characters (C0, DEL and C1, so ESC, BEL and CSI), and those that turn the
direction of writing, which can make a text look like another one.
"""

from __future__ import annotations

import re

_STEERING = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_IN_LINES = re.compile(f"[{_STEERING}]")
_IN_ONE_LINE = re.compile(f"[{_STEERING}\n]")
_LINE_THAT_BEGINS = re.compile(r"\n(?=[^\s])")


def escaped(text: str) -> str:
    """The text with escapes such as `\\x1b` in place of what steers; line feeds and tabs stay."""
    return text if text.isprintable() else _IN_LINES.sub(_escape, text)


def one_line(text: str) -> str:
    """The same, with line feeds escaped too."""
    return text if text.isprintable() else _IN_ONE_LINE.sub(_escape, text)


def in_one_record(text: str) -> str:
    """Several lines, escaped; those from the second on are indented, so that none passes for
    another record of the log."""
    return _LINE_THAT_BEGINS.sub("\n  ", escaped(text))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
