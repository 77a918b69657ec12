"""What payloads by value call when they are unpickled: functions and classes are made empty first,
and filled afterwards.

Payloads know these functions as `embedkq.codec.NAME`, those of earlier versions too: no name goes
away, and no argument changes.
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
    """This process's own `__main__` object of that name if it is the same; else the one rebuilt
    from the bytes."""
    own: Any = sys.modules.get("__main__")
    for part in qualname.split("."):
        own = getattr(own, part, None)
    return (
        own
        if own is not None and type(own) is type(rebuilt) and fingerprint(own) == told
        else rebuilt
    )


def _new_function(code: types.CodeType, name: str, closure: Any) -> types.FunctionType:
    # Of payloads of version 0.1. Without __builtins__ whatever imports from within C (strptime,
    # numpy's sum) raises KeyError.
    return types.FunctionType(
        code, {"__name__": "__main__", "__builtins__": builtins}, name, None, closure
    )


def _fill(part: Any, variables: dict[str, Any], attributes: dict[str, Any]) -> None:
    """Give a part that was made empty its content: global variables of a function, own ones of an
    Enum's members; attributes."""
    if isinstance(part, enum.EnumMeta):
        for name, own in variables.items():
            vars(vars(part)["_member_map_"][name]).update(own)
    elif variables:
        part.__globals__.update(variables)
    # A metaclass may have a __setattr__ of its own, which is for its user and not for us.
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


# Whether two things are the same.


def fingerprint(value: Any) -> str:
    """Tells a function or class of `__main__` from another of its name, as a digest of code and
    member names."""
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
            function = function_of(vars(value)[name])
            if function is not None and function.__module__ == "__main__":
                yield name.encode()
                yield from _parts_of_code(function.__code__)
            elif not name.startswith(
                "__"
                # what Python itself adds, some of it (`__slotnames__`) only once an instance is
                # pickled
            ):
                yield name.encode()
    elif hasattr(value, "__wrapped__"):  # what functools.lru_cache makes
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


def function_of(member: Any) -> types.FunctionType | None:
    """The function behind a method, class method, static method or property; None for any other
    member of a class."""
    function = getattr(member, "__func__", getattr(member, "fget", member))
    return function if isinstance(function, types.FunctionType) else None
