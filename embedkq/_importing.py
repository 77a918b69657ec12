"""Imports modules and functions that the user names. Errors are one line, and suggest the nearest
name for an unknown one."""

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
    """An import has raised; `__cause__` is the exception. The message says in one line what failed
    and where."""


def make_current_folder_importable() -> None:
    """Jobs are imported by their module's name, and `kq` is installed elsewhere; `python -m` does
    the same."""
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())


def import_by(load: Callable[[], T], where: str, doing: str = "importing") -> T:
    """Call a function that imports something, and return its result.

    Args:
        where: the name that the user gave, for the message.
        doing: the action, for the message.

    Raises:
        ImportFailed: the function raises, or calls `sys.exit()`.
    """
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise ImportFailed(
            f"{doing} {where!r} failed{_place_of(error)}: {first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    """The error's type and the first line of its message."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")


def _place_of(error: BaseException) -> str:
    """The place in the user's file where the error was raised. Frames of the import system are
    skipped."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_MACHINERY)
    ]
    return f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def function_named(reference: str, option: str) -> Callable[[], Any]:
    """Import the function that a text such as "shop.setup:connect" names. It will be called without
    arguments.

    Args:
        reference: MODULE:FUNCTION, both with dots if necessary.
        option: the option that the user set, for messages.

    Raises:
        ValueError: the module or function does not exist (the message names the nearest one), its
            import fails, or it cannot be called without arguments.
    """
    found = function_by_name(reference, option)
    return _check_callable(found, f"{option}={reference!r}")


def function_by_name(reference: str, option: str) -> Any:
    """Import what a text such as "shop.jobs:resize" names.

    Raises:
        ValueError: as `function_named`, except for how it can be called.
    """
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *name.split(".")]):
        raise ValueError(
            f"{option}={reference!r} does not have the form MODULE:FUNCTION, such as django:setup"
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
            f"{option}={reference!r}: no module {missing!r}{_hint(missing, _siblings(missing))}"
        ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            owner = getattr(found, "__name__", module_name)
            raise ValueError(
                f"{option}={reference!r}: {owner!r} has no {part!r}{_hint(part, dir(found))}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{option}={reference!r} is not a function but {found!r}")
    return found


def import_functions(options: dict[str, Any]) -> None:
    """Put the functions in place of what may name them.

    Raises:
        ValueError: there is no such function; the message names the nearest one.
    """
    for name in ("handler", "decode"):
        given = options.get(name)
        if isinstance(given, str) and (name == "handler" or ":" in given):
            options[name] = function_by_name(given, f"EMBEDKQ_{name.upper()}")


def initializer_of(given: Any) -> Callable[[], Any] | None:
    """The function that EMBEDKQ_INITIALIZER is or names.

    Raises:
        TypeError, ValueError: it cannot be one.
    """
    if isinstance(given, str):
        return function_named(given, "EMBEDKQ_INITIALIZER")
    if given is not None and not callable(given):
        raise TypeError(f"EMBEDKQ_INITIALIZER must be a function or MODULE:FUNCTION, not {given!r}")
    return given  # type: ignore[no-any-return]


def _check_callable(found: Any, described: str) -> Callable[[], Any]:
    if inspect.iscoroutinefunction(found):
        raise ValueError(
            f"{described} is `async def`, which nothing awaits here: use a plain `def`"
        )
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise ValueError(f"{described} must accept a call without arguments: {error}") from None
    except ValueError:  # some builtins have no signature
        pass
    return found  # type: ignore[no-any-return]


def _siblings(name: str) -> list[str]:
    """Names of the modules beside a missing one."""
    parent, dot, _ = name.rpartition(".")
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    return [f"{parent}{dot}{module.name}" for module in pkgutil.iter_modules(path)]


def _hint(name: str, known: Iterable[str]) -> str:
    close = nearest(name, known)
    return f"; did you mean {close!r}?" if close else ""
