"""Recognizes and unpickles records that KQ 1.x and 2.x wrote, without KQ. Pure; any thread, host
and child.

Such a record has no headers. Its payload is a `kq.job.Job`, pickled by dill. In 1.x that was a
namedtuple of 8 fields with a timestamp in seconds, in 2.0 one of 9 fields, and in 2.1 and 2.2 a
dataclass.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from embedkq.errors import DecodeError
from embedkq.job import Job

_FIELDS = ("id", "timestamp", "topic", "func", "args", "kwargs", "timeout", "key", "partition")
_FIELDS_IN_SECONDS = 8
_CLASS = ("kq.job", "Job")
_DILL = ("dill._dill", "dill.dill")
_NAMEDTUPLE = "_create_namedtuple"
_LONGEST_ID = 200
_HEAD_VALUES = 40
_TOLD = struct.Struct("=dB")


# Inspection, without unpickling anything.


def is_job(payload: bytes) -> bool:
    """Whether the payload begins like a pickled job of KQ."""
    return _job_at(list(islice(_values(payload), _HEAD_VALUES))) is not None


def function_name(payload: bytes) -> str | None:
    """Dotted name of the function that a job of KQ calls; None if it does not travel by name. See
    `allowlist.function_name`."""
    values = list(islice(_values(payload), _HEAD_VALUES))
    start = _job_at(values)
    if start is None:
        return None
    fields = values[start:]
    place = 4 if fields[:1] == ["MARK"] else 11 if fields[10:11] == [_Text("func")] else len(fields)
    name = fields[place] if place < len(fields) else None
    return ".".join(name) if isinstance(name, _Name) and name.module not in _DILL else None


class _Text(str):
    """A string that the pickle pushes. A plain `str` is the name of an opcode."""


class _Name(NamedTuple):
    """A name that the pickle imports."""

    module: str
    name: str


def _job_at(values: list[Any]) -> int | None:
    """The index of the job's first field, behind the class; None if this is not a job of KQ."""
    first = values[0] if values else None
    if first == _Name(*_CLASS):
        return 1
    if (
        isinstance(first, _Name)
        and first.module in _DILL
        and first.name == _NAMEDTUPLE
        and "REDUCE" in values
    ):
        made = values.index("REDUCE")
        texts = [value for value in values[:made] if isinstance(value, _Text)]
        if texts[:1] == [_CLASS[1]] and _CLASS[0] in texts:
            return made + 1
    return None


def _values(payload: bytes) -> Iterator[Any]:
    """The values and opcodes of the pickle in order, with names and repeated strings resolved. Ends
    at the first invalid opcode."""
    import pickletools  # here, because only topics of KQ need it

    memo: dict[int, Any] = {}
    last: list[Any] = []
    try:
        for opcode, argument, _ in pickletools.genops(payload):
            if opcode.name in ("PROTO", "FRAME"):
                continue
            if opcode.name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                memo[len(memo) if argument is None else argument] = last[-1]
                continue
            last.append(_value_of(opcode.name, argument, memo, last))
            if len(last) > 2:
                yield last.pop(0)
    except Exception:  # noqa: BLE001  (anything that raises is not a pickle)
        pass
    yield from last


def _value_of(opcode: str, argument: Any, memo: Mapping[int, Any], last: list[Any]) -> Any:
    if opcode == "GLOBAL":
        return _Name(*argument.split(" ", 1))
    if opcode == "STACK_GLOBAL":
        name, module = last.pop(), last.pop()
        return (
            _Name(module, name) if isinstance(name, _Text) and isinstance(module, _Text) else opcode
        )
    if opcode in ("GET", "BINGET", "LONG_BINGET"):
        return memo[argument]
    return _Text(argument) if isinstance(argument, str) else opcode


# Unpickling.


def decode_job(payload: bytes | memoryview) -> Job:
    """Decode the job, with its timestamp in milliseconds, and no limit if KQ wrote 0. Runs code
    that the payload names.

    Raises:
        DecodeError: the payload cannot be unpickled, or is not a job of KQ; `__cause__` has the
            reason.
    """
    try:
        return _checked(_Unpickler(io.BytesIO(payload)).load())
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(
            f"the payload cannot be unpickled: {type(error).__name__}: {error}"
        ) from error


def _checked(found: Any) -> Job:
    if not isinstance(found, _KQJob):
        raise DecodeError(f"the payload is not a job of KQ but {type(found).__name__}")
    fields: list[Any] = [vars(found).get(name) for name in _FIELDS]
    job_id, timestamp, topic, func, args, kwargs, timeout, key, _ = fields
    args, kwargs = () if args is None else args, {} if kwargs is None else kwargs
    key = key.encode() if isinstance(key, str) else key
    fits = {
        "id": isinstance(job_id, str),
        "timestamp": isinstance(timestamp, int),
        "topic": isinstance(topic, str),
        "func": callable(func),
        "args": isinstance(args, (tuple, list)),
        "kwargs": isinstance(kwargs, dict),
        "key": key is None or isinstance(key, bytes),
        "timeout": (
            timeout is None
            or (isinstance(timeout, (int, float)) and timeout >= 0 and math.isfinite(timeout))
        ),
    }
    if not all(fits.values()):
        raise DecodeError(
            f"the job of KQ has an invalid {', '.join(name for name in fits if not fits[name])}"
        )
    if found.fields == _FIELDS_IN_SECONDS:
        timestamp *= 1000
    return Job(job_id, timestamp, topic, func, tuple(args), dict(kwargs), timeout or None, key)


class _KQJob:
    """Replaces `kq.job.Job` in all of its three forms. A namedtuple passes its fields in order, a
    dataclass as a dict."""

    def __new__(cls, *values: Any) -> _KQJob:
        made = super().__new__(cls)
        made.__dict__.update(zip(_FIELDS, values, strict=False))
        made.fields = len(values)
        return made

    fields: int


class _Unpickler(pickle.Unpickler):
    """Reads dill's pickles without dill where possible, and replaces KQ's class with `_KQJob`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _CLASS:
            return _KQJob
        if (module, name) == (
            "__builtin__",
            "__main__",
        ):  # dill's name for the globals of the main script
            return vars(sys.modules["__main__"])
        if (module, name) == ("__builtin__", "NoneType"):
            return type(None)
        if module in _DILL:
            module = _DILL[0]  # early versions of dill used the other name
        found = super().find_class(module, name)
        return (
            partial(_make_namedtuple, found) if (module, name) == (_DILL[0], _NAMEDTUPLE) else found
        )


def _make_namedtuple(make: Any, name: str, fields: Any, module: str, *more: Any) -> Any:
    return _KQJob if (module, name) == _CLASS else make(name, fields, module, *more)


# Messages from a child to its host about such a job.


def pack_told(job: Job) -> bytes:
    """Encode the job's time limit and id, without pickle."""
    job_id = (job.id or "").encode("ascii", "backslashreplace")[:_LONGEST_ID]
    return _TOLD.pack(job.timeout or 0.0, len(job_id)) + job_id


def unpack_told(content: bytes) -> tuple[float | None, str, bytes]:
    """Decode the limit in seconds and the id. The third value is the rest of the message.

    Raises:
        DecodeError: `pack_told` did not make these bytes.
    """
    try:
        limit, length = _TOLD.unpack_from(content)
    except struct.error as error:
        raise DecodeError(f"not the limit and id of a job of KQ: {error}") from error
    job_id, rest = content[_TOLD.size : _TOLD.size + length], content[_TOLD.size + length :]
    if len(job_id) != length or not job_id.isascii():
        raise DecodeError("not the limit and id of a job of KQ: the id is incomplete or not ASCII")
    return (limit if limit > 0 and math.isfinite(limit) else None), job_id.decode("ascii"), rest
