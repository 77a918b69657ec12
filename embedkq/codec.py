"""Function calls, results and exceptions to bytes and back. The only user of dill.

What can be found by name elsewhere is pickled by name, with the C pickler. Functions and classes of the host's `__main__` travel by
value instead, since a child does not import `__main__`; where the bytes come back to a process whose own `__main__` has the same
thing under that name, they give that very object, so that `job.func is f` and `isinstance(result, Point)` hold in the host.
"""
from __future__ import annotations

import enum
import hashlib
import io
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from embedkq.errors import DecodeError, EncodeError

_PROTOCOL = 5
_MAIN = b"__main__"
_MOST_LOOKED_AT = 1024 * 1024
_PythonPickler: Any = pickle._Pickler  # the one that dill builds on; the checker knows little of it


# Calls.


def encode_call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """The call as bytes.

    Raises:
        EncodeError: the function or an argument cannot be pickled; the message names which.
    """
    try:
        return encode_object((func, args, kwargs))
    except Exception as error:
        raise _blame(func, args, kwargs, error) from error


def decode_call(payload: bytes | memoryview) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The function, its arguments and keyword arguments. Runs code that the payload names.

    Raises:
        DecodeError: the payload cannot be unpickled, or is no call; `__cause__` tells why.
    """
    try:
        call = decode_object(payload)
    except Exception as error:
        raise DecodeError(f"the payload cannot be unpickled: {type(error).__name__}: {error}") from error
    if type(call) is not tuple or len(call) != 3:
        raise DecodeError(f"the payload is no function call but {type(call).__name__}")
    func, args, kwargs = call
    if not (callable(func) and isinstance(args, tuple) and isinstance(kwargs, dict)):
        raise DecodeError(f"the payload is no function call but {type(func).__name__}, {type(args).__name__}, {type(kwargs).__name__}")
    return func, args, kwargs


def is_pickle(payload: bytes | memoryview) -> bool:
    """Whether the payload is a whole pickle, whether or not what it names can be found here. Runs none of its code.

    Of a payload above 1 MiB only the end is checked.
    """
    if payload[-1:] != pickle.STOP:
        return False
    if len(payload) > _MOST_LOOKED_AT:
        return True
    import pickletools  # here, since hardly any process needs it

    try:
        *_, (last, _, place) = pickletools.genops(bytes(payload))
    except Exception:  # noqa: BLE001  (whatever it is, it is no pickle)
        return False
    return last.name == "STOP" and place == len(payload) - 1


def _blame(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception) -> EncodeError:
    name = name_of(func)
    parts = [(f"job {name}", func)]
    parts += [(f"argument {number} of job {name}", value) for number, value in enumerate(args, 1)]
    parts += [(f"argument {key!r} of job {name}", value) for key, value in kwargs.items()]
    for described, value in parts:
        try:
            encode_object(value)
        except Exception as reason:  # noqa: BLE001  (pickling runs the value's own code)
            return EncodeError(f"{described} (a {type(value).__name__!r}) cannot be pickled: {reason}")
    return EncodeError(f"the call of {name} cannot be pickled: {error}")


def name_of(func: Any) -> str:
    """A callable's qualified name, for messages."""
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    module = getattr(func, "__module__", None)
    return f"{module}.{name}" if module else name


# Objects.


def encode_object(value: Any) -> bytes:
    """Any object as bytes; raises whatever pickling it raises."""
    try:
        data = pickle.dumps(value, _PROTOCOL)
    except Exception:  # noqa: BLE001  (dill takes much that pickle does not; what it refuses too, it says)
        return _dump_by_value(value)
    # A name in __main__ means nothing to a child. (A string that merely says so takes the longer way unharmed.)
    return _dump_by_value(value) if _MAIN in data else data


def decode_object(payload: bytes | memoryview) -> Any:
    """The object; raises whatever unpickling it raises, and runs code that the payload names."""
    return pickle.loads(payload)


def _dump_by_value(value: Any) -> bytes:
    global _pickler_class
    if _pickler_class is None:
        _pickler_class = _make_pickler_class()
    buffer = io.BytesIO()
    # recurse: without it a function of __main__ loses the helpers that it calls (dill 0.4.1).
    _pickler_class(buffer, protocol=_PROTOCOL, byref=False, recurse=True).dump(value)
    return buffer.getvalue()


_pickler_class: Callable[..., Any] | None = None


def _make_pickler_class() -> Callable[..., Any]:
    import dill  # here, since most processes never need it

    class ByValuePickler(_ByValue, dill.Pickler):  # type: ignore[misc]
        dispatch = type(dill.Pickler.dispatch)(dill.Pickler.dispatch)  # it knows metaclasses, a plain dict does not

    ByValuePickler.dispatch[_Passing] = _ByValue._save_passing
    return ByValuePickler


class _ByValue(_PythonPickler):  # type: ignore[misc]
    """In front of dill's, for what belongs to `__main__`: that is wrapped, so that `own_or_rebuilt` decides when it is unpickled.

    Functions are saved in two steps, all that they refer to (globals, defaults, cells) after the function itself: dill 0.4.1 never
    ends on two functions that call each other. While a class is being saved the second step waits, for its methods may refer to it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._passing: Any = None
        self._open_classes = 0
        self._unfilled: list[types.FunctionType | types.CellType | enum.EnumMeta] = []

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        passing, self._passing = self._passing, None
        if not _is_of_main(value):
            super().save(value, save_persistent_id)
        elif value is not passing and _has_name(value):
            self.save_reduce(own_or_rebuilt, (value.__qualname__, fingerprint(value), _Passing(value)))
        elif id(value) in self.memo:
            self.write(self.get(self.memo[id(value)][0]))
        elif isinstance(value, types.FunctionType):
            self._save_function(value)
        else:
            self._save_class(value, save_persistent_id)

    def _save_passing(self, passing: _Passing) -> None:
        self._passing = passing.value
        self.save(passing.value)

    def _save_function(self, function: types.FunctionType) -> None:
        for cell in function.__closure__ or ():
            if id(cell) not in self.memo:
                self.save_reduce(types.CellType, (), obj=cell)
                self.write(pickle.POP)
                self._unfilled.append(cell)
        self.save_reduce(_new_function, (function.__code__, function.__name__, function.__closure__), obj=function)
        self._unfilled.append(function)
        self._fill()

    def _save_class(self, value: type, save_persistent_id: bool) -> None:
        self._open_classes += 1
        try:
            if isinstance(value, enum.EnumMeta):
                self.save_reduce(_new_enum, _parts_of_enum(value), obj=value)
                self._unfilled.insert(0, value)
            else:
                super().save(value, save_persistent_id)
        finally:
            self._open_classes -= 1
        self._fill()

    def _fill(self) -> None:
        while self._unfilled and not self._open_classes:
            part = self._unfilled.pop()
            target = _Passing(part) if _is_of_main(part) and _has_name(part) else part
            self.save_reduce(_fill, (target, *_state_of(part)))
            self.write(pickle.POP)


class _Passing:
    """Marks the one place where the pickler saves a thing of `__main__` itself and not its wrapping."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _new_function(code: types.CodeType, name: str, closure: Any) -> types.FunctionType:
    return types.FunctionType(code, {"__name__": "__main__"}, name, None, closure)


_ATTRIBUTES = ("__module__", "__qualname__", "__doc__", "__defaults__", "__kwdefaults__")
_MAKE_MEMBERS = ("__init__", "__new__", "_new_member_", "__new_member__")
_OF_EVERY_MEMBER = ("_value_", "_name_", "__objclass__", "_sort_order_")


def _state_of(part: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a part that was made empty is filled with: variables by name (globals, an Enum's members), and attributes."""
    if isinstance(part, types.CellType):
        try:
            return {}, {"cell_contents": part.cell_contents}
        except ValueError:  # nothing was assigned to that variable
            return {}, {}
    if isinstance(part, enum.EnumMeta):
        members: dict[str, Any] = {name: vars(member) for name, member in vars(part)["_member_map_"].items()}
        own = {name: {key: own[key] for key in own if key not in _OF_EVERY_MEMBER} for name, own in members.items()}
        return own, {name: value for name, value in _own_functions(part).items() if name in _MAKE_MEMBERS}
    names = _names_in(part.__code__)
    used = {name: value for name, value in part.__globals__.items() if name in names}
    return used, {**{name: getattr(part, name) for name in _ATTRIBUTES}, **vars(part)}


def _fill(part: Any, variables: dict[str, Any], attributes: dict[str, Any]) -> None:
    if isinstance(part, enum.EnumMeta):
        for name, own in variables.items():
            vars(vars(part)["_member_map_"][name]).update(own)
    elif variables:
        part.__globals__.update(variables)
    for name, value in attributes.items():
        setattr(part, name, value)


def _own_functions(kind: type) -> dict[str, Any]:
    return {name: value for name, value in vars(kind).items() if getattr(_function_of(value), "__module__", None) == "__main__"}


def _parts_of_enum(kind: enum.EnumMeta) -> tuple[Any, ...]:
    # dill 0.4.1 rebuilds an Enum from a plain dict, which EnumMeta refuses. What makes members is left out: it ran at home, some of
    # what it uses may not be there yet, and the members' attributes are set later (`_state_of`).
    members: dict[str, Any] = {name: member.value for name, member in vars(kind)["_member_map_"].items()}
    own = {name: value for name, value in _own_functions(kind).items() if name not in _MAKE_MEMBERS}
    return type(kind), kind.__name__, kind.__qualname__, kind.__bases__, members, own


def _new_enum(
    metaclass: Any, name: str, qualname: str, bases: tuple[type, ...], members: dict[str, Any], own: dict[str, Any]
) -> type:
    namespace = metaclass.__prepare__(name, bases)
    for key, value in {"__module__": "__main__", "__qualname__": qualname, **own, **members}.items():
        namespace[key] = value
    kind: type = metaclass(name, bases, namespace)
    return kind


def _function_of(member: Any) -> types.FunctionType | None:
    """The function behind a method, class method, static method or property; None for any other member of a class."""
    function = getattr(member, "__func__", getattr(member, "fget", member))
    return function if isinstance(function, types.FunctionType) else None


def _names_in(code: types.CodeType) -> set[str]:
    nested = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names_in, nested))


def own_or_rebuilt(qualname: str, told: str, rebuilt: Any) -> Any:
    """This process's own `__main__` object of that name if it is the same; else the one rebuilt from the bytes."""
    own: Any = sys.modules.get("__main__")
    for part in qualname.split("."):
        own = getattr(own, part, None)
    return own if own is not None and type(own) is type(rebuilt) and fingerprint(own) == told else rebuilt


def _is_of_main(value: Any) -> bool:
    return isinstance(value, (types.FunctionType, type)) and getattr(value, "__module__", None) == "__main__"


def _has_name(value: Any) -> bool:
    return "<" not in value.__qualname__  # <lambda> and <locals> cannot be found by name


def fingerprint(value: Any) -> str:
    """Tells a function or class of `__main__` from another of its name, as a digest of code and member names."""
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
            function = _function_of(vars(value)[name])
            if function is not None and function.__module__ == "__main__":
                yield name.encode()
                yield from _parts_of_code(function.__code__)
            elif not name.startswith("__"):  # what Python itself adds, some of it (`__slotnames__`) only once an instance is pickled
                yield name.encode()


def _parts_of_code(code: types.CodeType) -> Iterable[bytes]:
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_flags)).encode()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _parts_of_code(constant)
        else:
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant).encode()
