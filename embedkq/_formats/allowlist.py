"""Checks which functions may run, without unpickling or importing anything. Pure; any thread."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from embedkq.errors import FunctionRefused

_STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_BY_VALUE = ("embedkq.codec.", "dill.")
_QUIET = ("PROTO", "FRAME", "MEMOIZE")


def check_patterns(allow: Any) -> tuple[str, ...]:
    """Check patterns such as "my_app.jobs.*".

    Raises:
        TypeError, ValueError: they are not patterns.
    """
    if (
        isinstance(allow, str)
        or not isinstance(allow, Sequence)
        or not all(isinstance(pattern, str) for pattern in allow)
    ):
        raise TypeError(
            f'allow must be a list of patterns such as ["my_app.jobs.*"], not {allow!r}'
        )
    if not allow or not all(allow):
        raise ValueError(
            f"allow={allow!r}: an empty list or pattern allows nothing; use None to allow"
            " everything"
        )
    return tuple(allow)


def check_function(payload: bytes | None, patterns: Sequence[str]) -> None:
    """Accept a call if one of the patterns matches its function.

    Raises:
        FunctionRefused: no pattern matches, or the function travels by value (from `__main__`, or a
            lambda) and so could be anything.
    """
    check_name(function_name(payload or b""), patterns)


def check_name(name: str | None, patterns: Sequence[str]) -> None:
    """Accept a function by its dotted name. None is a function that does not travel by name.

    Raises:
        FunctionRefused: as `check_function`.
    """
    if name is None:
        raise FunctionRefused(
            "its function travels by value, which `allow` does not accept: move it into a module"
        )
    if not any(fnmatchcase(name, pattern) for pattern in patterns):
        raise FunctionRefused(f"`allow` does not include {name}")


def function_name(payload: bytes) -> str | None:
    """Dotted name of the function at the beginning of a call's payload; None if it does not travel
    by name.

    A call is the tuple (function, args, kwargs), so its pickle begins with the name's two strings.
    This is no protection against crafted bytes: they can run other code than the function that they
    begin with. Only a secret prevents that.

    `kq_record` has a reader of its own, which resolves repeated strings and dill's classes. For
    every job, that would take 14 µs in place of 4.
    """
    import pickletools  # here, because the import is slow and few workers have patterns

    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(payload):
            if opcode.name in _STRINGS and len(strings) < 2:
                strings.append(str(argument))
            elif opcode.name == "STACK_GLOBAL" and len(strings) == 2:
                name = ".".join(strings)
                return None if name.startswith(_BY_VALUE) else name
            elif opcode.name not in _QUIET and not (opcode.name == "MARK" and not strings):
                return None
    except Exception:  # noqa: BLE001  (anything that raises is not a pickle)
        return None
    return None
