"""Imports the exceptions that `--retry-on` names."""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Sequence
from typing import Any

from embedkq._importing import ImportFailed, import_by

_CURE = "Use the dotted name of an exception class, such as OSError or requests.exceptions.Timeout"
_ALIKE = 0.8


def exceptions_named(names: Sequence[str]) -> list[type[BaseException]] | None:
    """The classes with these dotted names; None without names, which means all exceptions to
    `Worker`.

    The classes are imported. So an unknown name is reported before the worker starts, and an alias
    such as `requests.ConnectionError` works like the class's own name.

    Raises:
        ValueError: a name is invalid, its import fails, or it is not an exception class.
    """
    return [_exception(name) for name in names] or None


def _exception(name: str) -> type[BaseException]:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"--retry-on={name!r} is not a dotted name. {_CURE}")
    found = _find(name)
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise ValueError(f"--retry-on={name!r} is not an exception class but {found!r}. {_CURE}")
    return found


def _find(name: str) -> Any:
    parts = name.split(".") if "." in name else ["builtins", name]
    found = None
    for count, part in enumerate(parts, 1):
        dotted = ".".join(parts[:count])
        try:
            found = import_by(functools.partial(_step, found, part, dotted), dotted)
        except ImportFailed as error:
            cause = error.__cause__
            if isinstance(cause, ModuleNotFoundError) and f"{dotted}.".startswith(f"{cause.name}."):
                raise ValueError(
                    f"--retry-on={name!r}: {_missing(found, parts[:count])} {_CURE}"
                ) from None
            raise ValueError(f"--retry-on={name!r}: {error}") from None
    return found


def _step(found: Any, part: str, dotted: str) -> Any:
    return getattr(found, part) if hasattr(found, part) else importlib.import_module(dotted)


def _missing(found: Any, parts: list[str]) -> str:
    if found is None:
        return f"no module {parts[0]!r}."
    close = difflib.get_close_matches(parts[-1], dir(found), 1, _ALIKE)
    return f"{'.'.join(parts[:-1])!r} has no {parts[-1]!r}" + (
        f"; did you mean {close[0]!r}?" if close else "."
    )
