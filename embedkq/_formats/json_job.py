"""Jobs as JSON, which a program in any language can write. Pure, except that decoding imports the
function's module; host and child.

The value is `{"func": "shop.jobs.resize", "args": ["a.png"], "kwargs": {"width": 40}}`; `args` and
`kwargs` may be missing. Nothing is unpickled. `allow` decides by the function's name, before
anything is imported, so a name must be the one under which the function is defined: else
`shop.jobs.os.system` would pass a pattern such as `shop.jobs.*`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache, reduce
from typing import Any, NamedTuple, NoReturn

from embedkq.errors import DecodeError, EncodeError

_FIELDS = ("func", "args", "kwargs")
_PLAIN = (str, int, float, bool, type(None))
_CURE = (
    "JSON has text, numbers, true, false, null, lists, and objects whose keys are text. Pass these,"
    ' or use serializer="pickle"'
)


class JSONCall(NamedTuple):
    """A call as it is written: the function by its dotted name."""

    name: str
    args: list[Any]
    kwargs: dict[str, Any]


def read(payload: bytes | memoryview) -> JSONCall:
    """Read a job's value. Imports nothing.

    Raises:
        DecodeError: it is not JSON, or not a call; the message says what is wrong.
    """
    try:
        found = _DECODER.decode(str(payload, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the value of a JSON job is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise DecodeError(f"the value of a JSON job is not an object but {type(found).__name__}")
    for name in found:
        if name not in _FIELDS:
            raise DecodeError(f"a JSON job has no {name[:64]!r}: its fields are func, args, kwargs")
    name, args, kwargs = found.get("func"), found.get("args", []), found.get("kwargs", {})
    if not isinstance(name, str) or not _is_dotted(name):
        raise DecodeError(
            f"func={_short(name)} of a JSON job is not a dotted name such as 'shop.jobs.resize'"
        )
    if not isinstance(args, list):
        raise DecodeError(f"args of {name} is not a list but {type(args).__name__}")
    if not isinstance(kwargs, dict):
        raise DecodeError(f"kwargs of {name} is not an object but {type(kwargs).__name__}")
    return JSONCall(name, args, kwargs)


def name_in(payload: bytes | memoryview) -> str | None:
    """The function's dotted name; None if this is not a JSON job."""
    try:
        return read(payload).name
    except DecodeError:
        return None


def decode(
    payload: bytes | memoryview,
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Decode a call into the function, its arguments and its keyword arguments. Imports the
    function's module.

    Raises:
        DecodeError: with a cause, this process cannot import the function, and another one may.
            Without one, the value is not a call, or its arguments do not fit.
    """
    name, args, kwargs = read(payload)
    found, signature = _resolve(name)
    if (fault := _misfit(signature, tuple(args), kwargs)) is not None:
        raise DecodeError(f"the arguments do not fit {name}{signature}: {fault}")
    return found, tuple(args), kwargs


def encode(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """Encode a call. What this accepts, a child that has the same modules decodes; tuples become
    lists.

    Raises:
        EncodeError: the function has no name to import it by, its arguments do not fit, or JSON has
            no such value. The message names it.
    """
    name = _name_of(func)
    try:
        found, signature = _resolve(name)
    except DecodeError as error:
        raise EncodeError(f"job {name} cannot be written as JSON: {error}") from error
    if found is not func:
        raise EncodeError(f"job {name} cannot be written as JSON: {name} is another object")
    if (fault := _misfit(signature, args, kwargs)) is not None:
        raise EncodeError(f"the arguments do not fit {name}{signature}: {fault}")
    for place, value in [*enumerate(args, 1), *kwargs.items()]:
        described = f"argument {place if isinstance(place, int) else repr(place)} of job {name}"
        try:
            _check_plain(value)
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise EncodeError(f"{described} cannot be written as JSON: {error}. {_CURE}") from error
    call = {"func": name, "args": args, "kwargs": dict(kwargs)}
    return json.dumps(call, ensure_ascii=False, separators=(",", ":")).encode()


def _name_of(func: Callable[..., Any]) -> str:
    module, name = getattr(func, "__module__", None), getattr(func, "__qualname__", None)
    if module is None or name is None or not _is_dotted(f"{module}.{name}"):
        raise EncodeError(
            f"job {_short(func)} cannot be written as JSON: only a function that a module defines"
            " has a name to import it by"
        )
    if module == "__main__":
        raise EncodeError(
            f"job {module}.{name} cannot be written as JSON: workers do not import the main script."
            " Move the function into a module"
        )
    return f"{module}.{name}"


@lru_cache(maxsize=256)
def _resolve(name: str) -> tuple[Callable[..., Any], inspect.Signature | None]:
    """The function of a dotted name, and its signature if it has one.

    Raises:
        DecodeError: see `decode`.
    """
    found = _import(name)
    defined = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', None)}"
    if not callable(found):
        raise DecodeError(f"{name} is not a function but {type(found).__name__}")
    if defined != name:
        raise DecodeError(f"{name} is defined as {defined}: a JSON job gives that name")
    try:
        return found, inspect.signature(found)
    except (TypeError, ValueError):  # some builtins have none
        return found, None


def _import(name: str) -> Any:
    # `pkgutil.resolve_name` would hide why the import of a module has failed.
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:length])
        try:
            importlib.import_module(module)
        except Exception as error:
            if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
                continue
            reason = f"{type(error).__name__}: {error}"
            raise DecodeError(f"importing {module} of {name} failed: {reason}") from error
        try:
            return reduce(getattr, parts[length:], sys.modules[module])
        except AttributeError as error:
            raise DecodeError(f"{name} cannot be found: {error}") from error
    raise DecodeError(f"{name} cannot be found") from ModuleNotFoundError(
        f"No module named {parts[0]!r}", name=parts[0]
    )


def _misfit(
    signature: inspect.Signature | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> str | None:
    """Why these arguments cannot be passed; None if they can."""
    if signature is None:
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return None


def _check_plain(value: Any) -> None:
    """Accept what JSON gives back as it was, except that tuples become lists.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        for each in value:
            _check_plain(each)
    elif type(value) is dict:
        for key, each in value.items():
            if type(key) is not str:
                raise TypeError(f"the key {_short(key)} is not text but {type(key).__name__}")
            _check_plain(each)
    elif type(value) not in _PLAIN:
        raise TypeError(f"{_short(value)} is of type {type(value).__name__}")


def _is_dotted(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _short(value: Any) -> str:
    try:
        return repr(value)[:64]
    except Exception:  # noqa: BLE001  (the value's own code)
        return f"<{type(value).__name__} without repr>"
