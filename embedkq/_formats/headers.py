"""What a record's header says of its job, so that a worker need not read the payload. Pure.

All of it is one header, which reads `1;id=...;timestamp=...;timeout=...`: the format, then what the
job has of `FIELDS`, in that order. One, since four of them take kafka-python as long to unpack as
all the rest of a record.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from embedkq.errors import DecodeError

HEADER = "embedkq"
GROUP_HEADER = HEADER + ".group"
"""The only consumer group that a record is for, of one that was put back. Not part of `HEADER`,
whose fields versions before must know."""
SIGNATURE = b";signature="
_FORMAT = b"1"
_FURTHER = HEADER + "-"
_UUID = rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_DIGITS = rb"[0-9]{1,19}"
_DECIMAL = rb"[-+.0-9a-zA-Z]{1,32}"
_FORMS = {
    b"id": (_UUID, "UUID"),
    b"timestamp": (_DIGITS, "number"),
    b"timeout": (_DECIMAL, "number"),
    b"retries": (_DIGITS, "number"),
    b"backoff": (_DECIMAL, "number"),
    b"rounds": (_DIGITS, "number"),
    b"signature": (rb"[^;]*", "signature"),
}
FIELDS = tuple(_FORMS)
"""What the header may tell, in this order."""
_NEEDED = (b"id", b"timestamp")
_SOUND = re.compile(
    _FORMAT
    + b"".join(
        (b";%s=(%s)" if name in _NEEDED else b"(?:;%s=(%s))?") % (name, form)
        for name, (form, _) in _FORMS.items()
    )
).fullmatch
_MOST_FIELDS = 20


class Envelope(NamedTuple):
    """What a record's header says of its job.

    Attributes:
        id: UUID as a string.
        timestamp: Unix time in milliseconds at which it was enqueued.
        timeout: its own limit in seconds; None for none.
        retries: how often it may run again after it failed; None: as often as the worker says.
        backoff: seconds before the first time; None: as the worker says.
    """

    id: str
    timestamp: int
    timeout: float | None
    retries: int | None = None
    backoff: float | None = None


def headers_of(
    job_id: str,
    timestamp: int,
    timeout: float | None,
    retries: int | None = None,
    backoff: float | None = None,
) -> list[tuple[str, bytes]]:
    """The record headers of a job: id, timestamp in milliseconds, and as far as it has its own:
    limit in seconds, retries, backoff."""
    told = f"1;id={job_id};timestamp={timestamp}"
    if timeout is not None:
        told += f";timeout={float(timeout)!r}"
    if retries is not None:
        told += f";retries={retries}"
    if backoff is not None:
        told += f";backoff={float(backoff)!r}"
    return [(HEADER, told.encode("ascii"))]


def read_headers(headers: Iterable[tuple[str, bytes | None]]) -> Envelope:
    """What the header says; headers of others are passed over.

    Raises:
        DecodeError: it is missing, doubled or wrong; the message names what is.
    """
    return read_value(value_of(headers))


def read_value(value: bytes) -> Envelope:
    """What the value of embedkq's header says.

    Raises:
        DecodeError: it is wrong; the message names what is.
    """
    sound = _SOUND(value)
    if sound is None:
        raise DecodeError(f"header {HEADER!r} {_fault_of(value)}")
    job_id, timestamp, timeout, retries, backoff, _, _ = sound.groups()
    return Envelope(
        job_id.decode("ascii"),
        int(timestamp),
        None if timeout is None else _seconds("timeout", timeout),
        None if retries is None else int(retries),
        None if backoff is None else _seconds("backoff", backoff),
    )


def value_of(headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    """What the one header of embedkq's holds, be it sound or not.

    Raises:
        DecodeError: there is none, several, or one that a later version must have written.
    """
    found: bytes | None = None
    for name, value in headers:
        if name == HEADER and found is None:
            found = value or b""  # Kafka has headers without a value, too
        elif name == HEADER or name.startswith(_FURTHER):
            raise DecodeError(
                f"header {name!r} is"
                f" {'doubled' if name == HEADER else 'unknown to this version of embedkq'}"
            )
    if found is None:
        raise DecodeError(f"header {HEADER!r} is missing")
    return found


def with_value(
    headers: Iterable[tuple[str, bytes | None]], value: bytes
) -> list[tuple[str, bytes]]:
    """The headers with another value of embedkq's. kafka-python sends no header without a value: it
    becomes an empty one."""
    return [(name, value if name == HEADER else told or b"") for name, told in headers]


def rounds_of(headers: Iterable[tuple[str, bytes | None]]) -> int:
    """How often a job was put back after it had died; 0 where the header does not tell."""
    sound = _SOUND(_value_or_nothing(headers))
    return int(sound[6] or 0) if sound else 0


def is_signed(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Whether there is a signature, be it good or not."""
    return any(name == HEADER and SIGNATURE in (value or b"") for name, value in headers)


def put_back(
    headers: Iterable[tuple[str, bytes | None]], timestamp: int | None = None
) -> list[tuple[str, bytes]]:
    """The headers of a job that is put back: a round more, perhaps another timestamp (in
    milliseconds), and without a signature, which would not fit any more. What is no job's goes back
    as it is: a round would not make a job of it.
    """
    told = list(headers)
    value = _value_or_nothing(told)
    sound = _SOUND(value)
    if sound is None:
        return [(name, each or b"") for name, each in told]
    fields = dict(zip(FIELDS, sound.groups(), strict=True))
    fields[b"rounds"] = b"%d" % (int(fields[b"rounds"] or 0) + 1)
    fields[b"signature"] = None
    if timestamp is not None:
        fields[b"timestamp"] = b"%d" % timestamp
    return with_value(
        told,
        b";".join(
            [_FORMAT, *(b"%s=%s" % field for field in fields.items() if field[1] is not None)]
        ),
    )


def group_of(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """The only consumer group that the record is for; None if it is for all."""
    for name, value in headers:
        if name == GROUP_HEADER:
            return (value or b"").decode("utf-8", "replace")
    return None


def for_group(headers: Iterable[tuple[str, bytes]], group: str) -> list[tuple[str, bytes]]:
    """The headers of a record that is for one consumer group only; an empty name: for all."""
    others = [(name, value) for name, value in headers if name != GROUP_HEADER]
    return [*others, (GROUP_HEADER, group.encode())] if group else others


def has_ours(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Whether any of the headers is one of embedkq's, whatever it says."""
    return any(name == HEADER or name.startswith(_FURTHER) for name, _ in headers)


def _value_or_nothing(headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    try:
        return value_of(headers)
    except DecodeError:
        return b""


def _fault_of(value: bytes) -> str:
    """What is wrong with a value that is not sound."""
    told, *fields = value.split(b";", _MOST_FIELDS)
    if told != _FORMAT:
        return f"begins with {told[:64]!r}: this version of embedkq reads {_FORMAT!r}"
    found: dict[bytes, bytes] = {}
    for field in fields:
        name, _, text = field.partition(b"=")
        if name in found or name not in _FORMS:
            why = " twice" if name in found else ", which is unknown to this version of embedkq"
            return f"has {name[:64]!r}{why}"
        found[name] = text
    for name, (form, kind) in _FORMS.items():
        if name in _NEEDED and name not in found:
            return f"has no {name.decode()}"
        if name in found and not re.fullmatch(form, found[name]):
            return f"has a wrong {name.decode()}, which is no {kind}: {found[name][:64]!r}"
    return f"has its fields in another order than {b', '.join(FIELDS).decode()}"


@lru_cache(maxsize=256)
def _seconds(name: str, text: bytes) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise DecodeError(
            f"header {HEADER!r} has a wrong {name}, which is no number: {text!r}"
        ) from None
    if not (seconds > 0 and math.isfinite(seconds)):
        raise DecodeError(
            f"header {HEADER!r} has {name}={text.decode()}: it must be a number of seconds above 0"
        )
    return seconds
