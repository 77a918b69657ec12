"""Which functions may run, told from a payload without unpickling or importing anything. Pure; any
thread."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from embedkq.errors import FunctionRefused

_STRINGS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_BY_VALUE = ("embedkq.codec.", "dill.")
_QUIET = ("PROTO", "FRAME", "MEMOIZE")


def check_patterns(allow: Any) -> tuple[str, ...]:
    """Patterns such as "my_app.jobs.*".

    Raises:
        TypeError, ValueError: they are none.
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
            f"allow={allow!r}: an empty list or pattern allows nothing; None allows everything"
        )
    return tuple(allow)


def check_function(payload: bytes | None, patterns: Sequence[str]) -> None:
    """Accept a call of a function that one of the patterns names.

    Raises:
        FunctionRefused: it is none of these, or not told by name: what travels by value (of
            `__main__`, lambdas) may be anything.
    """
    check_name(function_of(payload or b""), patterns)


def check_name(name: str | None, patterns: Sequence[str]) -> None:
    """Accept the dotted name of a function; None for one that is not told by name.

    Raises:
        FunctionRefused: see `check_function`.
    """
    if name is None:
        raise FunctionRefused(
            "its function travels by value, which `allow` does not take: put it into a module"
        )
    if not any(fnmatchcase(name, pattern) for pattern in patterns):
        raise FunctionRefused(f"{name} is not among the functions that are allowed here")


def function_of(payload: bytes) -> str | None:
    """Dotted name of the function that a call's payload begins with; None if it is not a plain
    name.

    A call is the tuple (function, args, kwargs), so its pickle begins with the name's two strings.
    Whoever can write any bytes could have other code run than these bytes begin with: only a secret
    keeps him out.
    """
    import pickletools  # here, since few workers have patterns, and it takes its time

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
    except Exception:  # noqa: BLE001  (whatever it is, it is no pickle)
        return None
    return None
