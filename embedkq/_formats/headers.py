"""The record header that describes a job, so that a worker need not read the payload. Pure.

It is a single header such as `1;id=...;timestamp=...;timeout=...`: the format, then the job's
`FIELDS` in that order. kafka-python takes as long to unpack four headers as for the rest of a
record, hence a single one.

The format says what the payload is: `1` a pickled call, `json` a JSON job (`json_job`). Programs in
other languages write JSON jobs, so there all fields may be missing, and `json` alone is enough.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from embedkq.errors import DecodeError

HEADER = "embedkq"
GROUP_HEADER = HEADER + ".group"
"""The consumer group that a retried dead letter is for. It is not part of `HEADER`, because older
versions must know all fields there."""
SIGNATURE = b";signature="
_PICKLE, _JSON = b"1", b"json"
UNKNOWN_TIME = -1
"""Timestamp of a JSON job whose header has none."""
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
"""The header's possible fields, in this order."""
_NEEDED = (b"id", b"timestamp")


def _pattern(version: bytes, needed: Sequence[bytes]) -> Callable[[bytes], re.Match[bytes] | None]:
    fields = (
        (b";%s=(%s)" if name in needed else b"(?:;%s=(%s))?") % (name, form)
        for name, (form, _) in _FORMS.items()
    )
    return re.compile(version + b"".join(fields)).fullmatch


_SOUND, _SOUND_JSON = _pattern(_PICKLE, _NEEDED), _pattern(_JSON, ())
_MOST_FIELDS = 20


class Envelope(NamedTuple):
    """The content of a record's header.

    Attributes:
        id: UUID as a string; empty if a JSON job has none.
        timestamp: when the job was enqueued, in Unix milliseconds; `UNKNOWN_TIME` if a JSON job
            does not say.
        timeout: the job's own time limit in seconds; None if it has none.
        retries: how often the job may be retried; None for the worker's setting.
        backoff: seconds before the first retry; None for the worker's setting.
        is_json: the payload is a JSON job, not a pickled call.
    """

    id: str
    timestamp: int
    timeout: float | None
    retries: int | None = None
    backoff: float | None = None
    is_json: bool = False


def headers_of(
    job_id: str,
    timestamp: int,
    timeout: float | None,
    retries: int | None = None,
    backoff: float | None = None,
    is_json: bool = False,
) -> list[tuple[str, bytes]]:
    """The record headers of a job, from its id, its timestamp in milliseconds, and its own time
    limit in seconds, retries and backoff, if any."""
    value = f"{'json' if is_json else '1'};id={job_id};timestamp={timestamp}"
    if timeout is not None:
        value += f";timeout={float(timeout)!r}"
    if retries is not None:
        value += f";retries={retries}"
    if backoff is not None:
        value += f";backoff={float(backoff)!r}"
    return [(HEADER, value.encode("ascii"))]


def read_headers(headers: Iterable[tuple[str, bytes | None]]) -> Envelope:
    """Read embedkq's header. Other headers are ignored.

    Raises:
        DecodeError: the header is missing, duplicated or invalid; the message says which.
    """
    return read_value(value_of(headers))


def read_value(value: bytes) -> Envelope:
    """Read the value of embedkq's header.

    Raises:
        DecodeError: the value is invalid; the message says why.
    """
    sound = _SOUND(value) or _SOUND_JSON(value)
    if sound is None:
        raise DecodeError(f"header {HEADER!r} {_fault_of(value)}")
    job_id, timestamp, timeout, retries, backoff, _, _ = sound.groups()
    return Envelope(
        (job_id or b"").decode("ascii"),
        UNKNOWN_TIME if timestamp is None else int(timestamp),
        None if timeout is None else _seconds("timeout", timeout),
        None if retries is None else int(retries),
        None if backoff is None else _seconds("backoff", backoff),
        sound.string.startswith(_JSON),
    )


def value_of(headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    """The value of embedkq's header, valid or not.

    Raises:
        DecodeError: the header is missing or duplicated, or a later version wrote it.
    """
    found: bytes | None = None
    for name, value in headers:
        if name == HEADER and found is None:
            found = value or b""  # Kafka allows headers without a value
        elif name == HEADER or name.startswith(_FURTHER):
            raise DecodeError(
                f"header {name!r} is"
                f" {'duplicated' if name == HEADER else 'unknown to this version of embedkq'}"
            )
    if found is None:
        raise DecodeError(f"header {HEADER!r} is missing")
    return found


def with_value(
    headers: Iterable[tuple[str, bytes | None]], value: bytes
) -> list[tuple[str, bytes]]:
    """The headers with another value for embedkq's. A header without a value becomes an empty one,
    because kafka-python cannot send it."""
    return [(name, value if name == HEADER else other or b"") for name, other in headers]


def read_rounds(headers: Iterable[tuple[str, bytes | None]]) -> int:
    """How often a job was retried as a dead letter; 0 if the header does not say."""
    value = _value_or_nothing(headers)
    sound = _SOUND(value) or _SOUND_JSON(value)
    return int(sound[6] or 0) if sound else 0


def is_json(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Whether the header says that the payload is a JSON job."""
    return _SOUND_JSON(_value_or_nothing(headers)) is not None


def is_signed(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Whether there is a signature, valid or not."""
    return any(name == HEADER and SIGNATURE in (value or b"") for name, value in headers)


def put_back(
    headers: Iterable[tuple[str, bytes | None]], timestamp: int | None = None
) -> list[tuple[str, bytes]]:
    """The headers of a dead letter that is retried: `rounds` is one higher, the timestamp is
    replaced if given (in milliseconds), and the signature, now invalid, is removed. Headers that
    are not a job's stay unchanged."""
    own = list(headers)
    value = _value_or_nothing(own)
    sound = _SOUND(value) or _SOUND_JSON(value)
    if sound is None:
        return [(name, each or b"") for name, each in own]
    fields = dict(zip(FIELDS, sound.groups(), strict=True))
    fields[b"rounds"] = b"%d" % (int(fields[b"rounds"] or 0) + 1)
    fields[b"signature"] = None
    if timestamp is not None:
        fields[b"timestamp"] = b"%d" % timestamp
    return with_value(
        own,
        b";".join(
            [
                value.partition(b";")[0],
                *(b"%s=%s" % field for field in fields.items() if field[1] is not None),
            ]
        ),
    )


def target_group(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """The only consumer group that the record is for; None for all groups."""
    for name, value in headers:
        if name == GROUP_HEADER:
            return (value or b"").decode("utf-8", "replace")
    return None


def for_group(headers: Iterable[tuple[str, bytes]], group: str) -> list[tuple[str, bytes]]:
    """The headers of a record for one consumer group only. An empty name means all groups."""
    others = [(name, value) for name, value in headers if name != GROUP_HEADER]
    return [*others, (GROUP_HEADER, group.encode())] if group else others


def has_ours(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Whether any header is embedkq's, whatever its value."""
    return any(name == HEADER or name.startswith(_FURTHER) for name, _ in headers)


def _value_or_nothing(headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    try:
        return value_of(headers)
    except DecodeError:
        return b""


def _fault_of(value: bytes) -> str:
    """Describe what is wrong with an invalid value."""
    version, *fields = value.split(b";", _MOST_FIELDS)
    if version not in (_PICKLE, _JSON):
        return (
            f"begins with {version[:64]!r}: this version of embedkq reads {_PICKLE!r} and {_JSON!r}"
        )
    found: dict[bytes, bytes] = {}
    for field in fields:
        name, _, text = field.partition(b"=")
        if name in found or name not in _FORMS:
            why = " twice" if name in found else ", which is unknown to this version of embedkq"
            return f"has {name[:64]!r}{why}"
        found[name] = text
    for name, (form, kind) in _FORMS.items():
        if name in _NEEDED and name not in found and version == _PICKLE:
            return f"has no {name.decode()}"
        if name in found and not re.fullmatch(form, found[name]):
            return f"has an invalid {name.decode()}, not a {kind}: {found[name][:64]!r}"
    return f"does not have its fields in the order {b', '.join(FIELDS).decode()}"


@lru_cache(maxsize=256)
def _seconds(name: str, text: bytes) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise DecodeError(
            f"header {HEADER!r} has an invalid {name}, not a number: {text!r}"
        ) from None
    if not (seconds > 0 and math.isfinite(seconds)):
        raise DecodeError(
            f"header {HEADER!r} has {name}={text.decode()}: it must be a number of seconds above 0"
        )
    return seconds
