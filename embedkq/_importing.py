"""Imports what a user names. Whatever goes wrong is told in one line, with the nearest name where
there is none of that name."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from embedkq._options import nearest

T = TypeVar("T")

_MACHINERY = ("<frozen", os.path.dirname(__file__) + os.sep, importlib.__file__)


class ImportFailed(Exception):
    """An import has raised, which is the cause; the message says what and where, in one line."""


def import_by(load: Callable[[], T], where: str, doing: str = "importing") -> T:
    """What the function imports.

    Args:
        where: what the user has named, for the message.
        doing: what is done to it, for the message.

    Raises:
        ImportFailed: it raises, or wants to end the process.
    """
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise ImportFailed(
            f"{doing} {where!r} failed{_place_of(error)}: {text_of(error)}"
        ) from error


def text_of(error: BaseException) -> str:
    """Its type and the first line of its message."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")


def _place_of(error: BaseException) -> str:
    """Where in the user's file it happened; the machinery of the import is of no interest."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_MACHINERY)
    ]
    return f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def function_named(reference: str, option: str) -> Callable[[], Any]:
    """The function that a text such as "shop.setup:connect" names, to be called without arguments.
    Imports its module.

    Args:
        reference: MODULE:FUNCTION, both dotted where need be.
        option: what the user has set to it, for messages.

    Raises:
        ValueError: there is no such module or function (the message names the nearest one), its
            import fails, or it cannot be called so.
    """
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *name.split(".")]):
        raise ValueError(
            f"{option}={reference!r} is not of the form MODULE:FUNCTION, such as django:setup"
        )
    try:
        found: Any = import_by(partial(importlib.import_module, module_name), module_name)
    except ImportFailed as error:
        cause = error.__cause__
        if not (
            isinstance(cause, ModuleNotFoundError)
            and f"{module_name}.".startswith(f"{cause.name}.")
        ):
            raise ValueError(f"{option}={reference!r}: {error}") from error
        missing = cause.name or module_name
        raise ValueError(
            f"{option}={reference!r}: there is no module"
            f" {missing!r}{_hint(missing, _siblings(missing))}"
        ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            owner = getattr(found, "__name__", module_name)
            raise ValueError(
                f"{option}={reference!r}: {owner!r} has no {part!r}{_hint(part, dir(found))}"
            )
        found = getattr(found, part)
    return _check_callable(found, f"{option}={reference!r}")


def _check_callable(found: Any, told: str) -> Callable[[], Any]:
    if not callable(found):
        raise ValueError(f"{told} is no function, but {found!r}")
    if inspect.iscoroutinefunction(found):
        raise ValueError(f"{told} is `async def`, and would not be awaited: make it a plain `def`")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise ValueError(f"{told} is called without arguments: {error}") from None
    except ValueError:  # some builtins tell nothing
        pass
    return found  # type: ignore[no-any-return]


def _siblings(name: str) -> list[str]:
    """Names of the modules beside one that there is none of."""
    parent, dot, _ = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    return [f"{parent}{dot}{module.name}" for module in pkgutil.iter_modules(path)]


def _hint(name: str, known: Iterable[str]) -> str:
    close = nearest(name, known)
    return f"; did you mean {close!r}?" if close else ""
