"""Imports what a user names: whatever goes wrong in there is told in one line."""
from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_MACHINERY = ("<frozen", os.path.dirname(__file__) + os.sep, importlib.__file__)


class ImportFailed(Exception):
    """An import has raised, which is the cause; the message says what and where, in one line."""


def import_by(load: Callable[[], T], where: str) -> T:
    """What the function imports.

    Args:
        where: what the user has named, for the message.

    Raises:
        ImportFailed: it raises, or wants to end the process.
    """
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise ImportFailed(f"importing {where!r} failed{_place_of(error)}: {text_of(error)}") from error


def text_of(error: BaseException) -> str:
    """Its type and the first line of its message."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")


def _place_of(error: BaseException) -> str:
    """Where in the user's file it happened; the machinery of the import is of no interest."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_MACHINERY)]
    return f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
