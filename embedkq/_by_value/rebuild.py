"""Functions that payloads by value call when they are unpickled. They create functions and classes
empty and fill them later.

Payloads, also of earlier versions, refer to these functions as `embedkq.codec.NAME`. So never
remove a name or change an argument.
"""

from __future__ import annotations

import builtins
import enum
import hashlib
import sys
import types
from collections.abc import Iterable
from typing import Any


def own_or_rebuilt(qualname: str, told: str, rebuilt: Any) -> Any:
    """Return this process's own `__main__` object with that name if it is the same. Otherwise
    return the object rebuilt from the payload."""
    own: Any = sys.modules.get("__main__")
    for part in qualname.split("."):
        own = getattr(own, part, None)
    return (
        own
        if own is not None and type(own) is type(rebuilt) and fingerprint(own) == told
        else rebuilt
    )


def _new_function(code: types.CodeType, name: str, closure: Any) -> types.FunctionType:
    # Used by payloads of version 0.1. Without __builtins__, functions that import from C code
    # (strptime, numpy's sum) raise KeyError.
    return types.FunctionType(
        code, {"__name__": "__main__", "__builtins__": builtins}, name, None, closure
    )


def _fill(part: Any, variables: dict[str, Any], attributes: dict[str, Any]) -> None:
    """Fill an empty part with its content: global variables of a function, or variables of an
    Enum's members; and attributes."""
    if isinstance(part, enum.EnumMeta):
        for name, own in variables.items():
            vars(vars(part)["_member_map_"][name]).update(own)
    elif variables:
        part.__globals__.update(variables)
    # Bypass the __setattr__ of a metaclass, which is meant for its users.
    assign = type.__setattr__ if isinstance(part, type) else setattr
    for name, value in attributes.items():
        assign(part, name, value)


def _new_enum(
    metaclass: Any,
    name: str,
    qualname: str,
    bases: tuple[type, ...],
    members: dict[str, Any],
    own: dict[str, Any],
) -> type:
    namespace = metaclass.__prepare__(name, bases)
    for key, value in {
        "__module__": "__main__",
        "__qualname__": qualname,
        **own,
        **members,
    }.items():
        namespace[key] = value
    kind: type = metaclass(name, bases, namespace)
    return kind


for _called in (own_or_rebuilt, _new_function, _fill, _new_enum):
    _called.__module__ = "embedkq.codec"


# Comparing objects.


def fingerprint(value: Any) -> str:
    """A digest of code and member names, to distinguish a function or class of `__main__` from
    another one with its name."""
    digest = hashlib.blake2b(digest_size=8)
    for part in _parts_of(value):
        digest.update(part)
        digest.update(b"\0")
    return digest.hexdigest()


def _parts_of(value: Any) -> Iterable[bytes]:
    if isinstance(value, types.FunctionType):
        yield from _parts_of_code(value.__code__)
    elif isinstance(value, type):
        for name in sorted(vars(value)):
            function = underlying_function(vars(value)[name])
            if function is not None and function.__module__ == "__main__":
                yield name.encode()
                yield from _parts_of_code(function.__code__)
            elif not name.startswith(
                "__"
                # Python adds these names, some (`__slotnames__`) only once an instance is pickled
            ):
                yield name.encode()
    elif hasattr(value, "__wrapped__"):  # made by functools.lru_cache
        yield from _parts_of(value.__wrapped__)


def _parts_of_code(code: types.CodeType) -> Iterable[bytes]:
    yield code.co_code
    yield repr(
        (code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_flags)
    ).encode()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _parts_of_code(constant)
        else:
            yield repr(
                sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
            ).encode()


def underlying_function(member: Any) -> types.FunctionType | None:
    """The function behind a method, class method, static method or property; None for other members
    of a class."""
    function = getattr(member, "__func__", getattr(member, "fget", member))
    return function if isinstance(function, types.FunctionType) else None
