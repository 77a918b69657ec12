"""Unknown names: every door refuses them with the nearest known one."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, TypeVar

C = TypeVar("C", bound=type)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` may have been meant for; None if none is close."""
    import difflib

    known = sorted(known)
    begun = [each for each in known if each.startswith(name)]
    return next(iter(begun or difflib.get_close_matches(name, known, 1)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message that refuses a name; empty if no known one is close."""
    close = nearest(name, known)
    return f"; did you mean {close!r}?" if close else ""


def known_options_only(taker: C) -> C:
    """Decorator of a class: `__init__` refuses an unknown option with the nearest known one, as
    Python 3.13 does. Signature and docstring stay."""
    init: Any = taker.__dict__["__init__"]
    code = init.__code__
    known = frozenset(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **options: Any) -> None:
        for name in options:
            if name not in known:
                raise TypeError(
                    f"{init.__qualname__}() got an unexpected keyword argument {name!r}"
                    + did_you_mean(name, known)
                )
        init(self, *args, **options)

    taker.__init__ = checked  # type: ignore[misc]
    return taker
