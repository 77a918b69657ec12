"""Loads the function that `--callback` names: a file with any extension or none, or a dotted module
name."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from embedkq import _options
from embedkq._importing import ImportFailed, first_line, import_by

FUNCTION_NAME = "callback"
_MODULE_NAME = "embedkq_callback"


class CallbackRefused(Exception):
    """The callback cannot be loaded or used; the message has the reason in one line."""


def load(where: str) -> Callable[..., Any]:
    """The function named `callback` in a file or module.

    A file's folder is appended to `sys.path`, so that the file can import modules beside it.

    Args:
        where: path of a Python file (relative, absolute or with `~`; any extension or none), or a
            module's dotted name.

    Raises:
        CallbackRefused: the file does not exist, its import fails, it has no such function, or the
            function does not accept five arguments.
    """
    try:
        path = Path(where).expanduser()
    except (RuntimeError, ValueError) as error:  # an unknown or invalid user name
        raise CallbackRefused(f"no such file: {where!r} ({first_line(error)})") from error
    if path.is_file():
        module = _import(where, lambda: _module_of_file(path))
    elif path.is_dir():
        raise CallbackRefused(f"{where!r} is a folder, not a file")
    elif _is_path(where):
        raise CallbackRefused(f"no such file: {where!r}")
    else:
        module = _module_by_name(where)
    return _function_of(module, where)


def _is_path(where: str) -> bool:
    """Whether it can only be a path."""
    dotted = all(part.isidentifier() for part in where.split("."))
    return not dotted or where.startswith("~") or where.endswith(".py") or os.sep in where


def _module_of_file(path: Path) -> ModuleType:
    resolved = str(path.resolve())
    folder = os.path.dirname(resolved)
    if folder not in sys.path:
        sys.path.append(folder)
    loader = importlib.machinery.SourceFileLoader(_MODULE_NAME, resolved)
    spec = importlib.util.spec_from_loader(_MODULE_NAME, loader)
    if spec is None:
        raise ImportError("it has no module specification")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE_NAME] = module  # dataclasses, for example, look up their module there
    loader.exec_module(module)
    return module


def _module_by_name(name: str) -> ModuleType:
    try:
        if importlib.util.find_spec(name) is None:
            raise CallbackRefused(f"no such file or module: {name!r}")
    except ModuleNotFoundError as error:  # a parent package is missing
        raise CallbackRefused(f"no such file or module: {name!r} ({error})") from error
    except (ImportError, ValueError):
        pass  # the import below has a better message
    return _import(name, lambda: importlib.import_module(name))


def _import(where: str, load_module: Callable[[], ModuleType]) -> ModuleType:
    try:
        return import_by(load_module, where)
    except ImportFailed as error:
        raise CallbackRefused(str(error)) from error


def _function_of(module: ModuleType, where: str) -> Callable[..., Any]:
    try:
        function = getattr(module, FUNCTION_NAME)
    except AttributeError as error:
        raise CallbackRefused(f"{where!r} has no function named {FUNCTION_NAME!r}") from error
    if not callable(function):
        raise CallbackRefused(f"{FUNCTION_NAME!r} in {where!r} is not callable: {function!r}")
    if inspect.iscoroutinefunction(function):
        raise CallbackRefused(
            f"{FUNCTION_NAME!r} in {where!r} is `async def`, but `kq worker` runs no event loop:"
            " use a plain `def`"
        )
    try:
        return _options.check_callback(function)
    except TypeError as error:
        raise CallbackRefused(f"{FUNCTION_NAME!r} in {where!r}: {error}") from error
