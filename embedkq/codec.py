"""Encodes function calls, results and exceptions as bytes, and decodes them. Any thread; host and
child.

Objects that another process can import are pickled by name, with the C pickler. Functions and
classes of the host's `__main__` travel by value (`_by_value`), because a child does not import
`__main__`. If such bytes return to a process whose `__main__` has the same object under that name,
they decode to that object, so that `job.func is f` and `isinstance(result, Point)` hold in the
host.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any

from embedkq._by_value.importable import can_be_imported
from embedkq._by_value.rebuild import _fill, _new_enum, _new_function, fingerprint, own_or_rebuilt
from embedkq.errors import DecodeError, EncodeError

# Payloads refer to the functions of `rebuild` by this module's name.
__all__ = [
    "_fill",
    "_new_enum",
    "_new_function",
    "decode_call",
    "decode_object",
    "encode_call",
    "encode_object",
    "fingerprint",
    "is_pickle",
    "name_of",
    "own_or_rebuilt",
]

_PROTOCOL = 5
_MAIN = b"__main__"
_MOST_LOOKED_AT = 1024 * 1024
_CURE_OF_FUNCTION = (
    "Create it inside the function, or move the function into a module that child processes can"
    " import"
)
_CURE_OF_ARGUMENT = "Pass the values that it is made from, and create it in the job"


# Calls.


def encode_call(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bytes:
    """Encode a call. Payloads by value are unpickled once, as a child would, so that no job is
    accepted that no child can load.

    Raises:
        EncodeError: the function or an argument cannot be pickled, or cannot be rebuilt in a child.
            The message names it.
    """
    try:
        return _encode_checked(
            (func, args, kwargs),
            by_value=not can_be_imported(getattr(func, "__module__", None) or ""),
        )
    except Exception as error:
        raise _blame(func, args, kwargs, error) from error


def decode_call(
    payload: bytes | memoryview,
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Decode a call into the function, its arguments and its keyword arguments. Runs code that the
    payload names.

    Raises:
        DecodeError: the payload cannot be unpickled, or is not a call; `__cause__` has the reason.
    """
    try:
        call = decode_object(payload)
    except Exception as error:
        raise DecodeError(
            f"the payload cannot be unpickled: {type(error).__name__}: {error}"
        ) from error
    if type(call) is not tuple or len(call) != 3:
        raise DecodeError(f"the payload is not a function call but {type(call).__name__}")
    func, args, kwargs = call
    if not (callable(func) and isinstance(args, tuple) and isinstance(kwargs, dict)):
        raise DecodeError(
            f"the payload is not a function call but {type(func).__name__}, {type(args).__name__},"
            f" {type(kwargs).__name__}"
        )
    return func, args, kwargs


def is_pickle(payload: bytes | memoryview) -> bool:
    """Whether the payload is a complete pickle, even if this process lacks what it names. Runs none
    of its code.

    For payloads above 1 MiB only the end is checked.
    """
    if payload[-1:] != pickle.STOP:
        return False
    if len(payload) > _MOST_LOOKED_AT:
        return True
    import pickletools  # here, because hardly any process needs it

    try:
        *_, (last, _, place) = pickletools.genops(bytes(payload))
    except Exception:  # noqa: BLE001  (anything that raises is not a pickle)
        return False
    return last.name == "STOP" and place == len(payload) - 1


def _encode_checked(value: Any, by_value: bool = False) -> bytes:
    data = None if by_value else _encode_by_name(value)
    if data is not None:
        return data
    try:
        return _encode_by_value(value, with_notes=True)
    except Exception:  # noqa: BLE001  (a function works without annotations; the second attempt raises any other error)
        return _encode_by_value(value, with_notes=False)


def _encode_by_value(value: Any, with_notes: bool) -> bytes:
    from embedkq._by_value import pickler  # here, because most processes need neither it nor dill

    data = pickler.dumps(value, with_notes)
    try:
        pickler.check_loads(data)
    except Exception as error:
        raise pickle.PicklingError(
            f"a child process could not rebuild it: {type(error).__name__}: {error}"
        ) from error
    return data


def _blame(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], error: Exception
) -> EncodeError:
    name = name_of(func)
    parts = [(f"job {name}", func)]
    parts += [(f"argument {number} of job {name}", value) for number, value in enumerate(args, 1)]
    parts += [(f"argument {key!r} of job {name}", value) for key, value in kwargs.items()]
    for described, value in parts:
        cure = _CURE_OF_FUNCTION if value is func else _CURE_OF_ARGUMENT
        try:
            _encode_checked(value)
        except Exception as reason:  # noqa: BLE001  (pickling runs the value's own code)
            return EncodeError(
                f"{described} (a {type(value).__name__!r}) cannot be pickled: {reason}. {cure}"
            )
    return EncodeError(f"the call of {name} cannot be pickled: {error}")


def name_of(func: Any) -> str:
    """A callable's qualified name, for messages."""
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    module = getattr(func, "__module__", None)
    return f"{module}.{name}" if module else name


# Objects.


def encode_object(value: Any) -> bytes:
    """Encode any object. Raises whatever pickling raises."""
    data = _encode_by_name(value)
    if data is not None:
        return data
    from embedkq._by_value import pickler

    return pickler.dumps(value)


def _encode_by_name(value: Any) -> bytes | None:
    try:
        data = pickle.dumps(value, _PROTOCOL)
    except Exception:  # noqa: BLE001  (pickling by value raises if that fails too)
        return None
    # A child does not know names in __main__. (A string that only contains "__main__" takes the
    # slower path and is encoded correctly.)
    return None if _MAIN in data else data


def decode_object(payload: bytes | memoryview) -> Any:
    """Decode an object. Raises whatever unpickling raises, and runs code that the payload names."""
    return pickle.loads(payload)
