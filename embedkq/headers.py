"""What a record's headers say of its job, so that a worker need not read the payload. Pure."""
from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from embedkq.errors import DecodeError

_FORMAT = b"1"
_FORMAT_HEADER, _ID_HEADER, _TIMESTAMP_HEADER, _TIMEOUT_HEADER = (
    "embedkq-format", "embedkq-id", "embedkq-timestamp", "embedkq-timeout",
)
_SIGNATURE_HEADER, _ROUNDS_HEADER, _RETRIES_HEADER, _BACKOFF_HEADER = (
    "embedkq-signature", "embedkq-rounds", "embedkq-retries", "embedkq-backoff",
)
_PREFIX = "embedkq-"
_KNOWN_HEADERS = frozenset((
    _FORMAT_HEADER, _ID_HEADER, _TIMESTAMP_HEADER, _TIMEOUT_HEADER, _SIGNATURE_HEADER, _ROUNDS_HEADER, _RETRIES_HEADER, _BACKOFF_HEADER,
))
_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch
_DIGITS = re.compile(rb"[0-9]{1,19}").fullmatch
_DECIMAL = re.compile(rb"[-+.0-9a-zA-Z]{1,32}").fullmatch


class Envelope(NamedTuple):
    """What a record's headers say of its job.

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
    job_id: str, timestamp: int, timeout: float | None, retries: int | None = None, backoff: float | None = None
) -> list[tuple[str, bytes]]:
    """The record headers of a job: id, timestamp in milliseconds, and as far as it has its own: limit in seconds, retries, backoff."""
    headers = [
        (_FORMAT_HEADER, _FORMAT), (_ID_HEADER, job_id.encode("ascii")), (_TIMESTAMP_HEADER, b"%d" % timestamp),
    ]
    if timeout is not None:
        headers.append((_TIMEOUT_HEADER, repr(float(timeout)).encode("ascii")))
    if retries is not None:
        headers.append((_RETRIES_HEADER, b"%d" % retries))
    if backoff is not None:
        headers.append((_BACKOFF_HEADER, repr(float(backoff)).encode("ascii")))
    return headers


def read_headers(headers: Iterable[tuple[str, bytes | None]]) -> Envelope:
    """What the headers say; headers of others are passed over.

    Raises:
        DecodeError: a header is missing, doubled or wrong; the message names it.
    """
    pairs = list(headers)
    found: dict[str, Any] = dict(pairs)
    if len(found) != len(pairs) or not found.keys() <= _KNOWN_HEADERS:
        found = _own(pairs)
    try:
        if found[_FORMAT_HEADER] != _FORMAT:
            told = (found[_FORMAT_HEADER] or b"")[:64]
            raise DecodeError(f"header {_FORMAT_HEADER!r} is {told!r}: this version of embedkq reads {_FORMAT!r}")
        job_id, timestamp = found[_ID_HEADER] or b"", found[_TIMESTAMP_HEADER] or b""  # Kafka has headers without a value, too
    except KeyError as error:
        raise DecodeError(f"header {error.args[0]!r} is missing") from None
    if not _UUID(job_id):
        raise DecodeError(f"header {_ID_HEADER!r} is no UUID: {job_id[:64]!r}")
    if not _DIGITS(timestamp):
        raise DecodeError(f"header {_TIMESTAMP_HEADER!r} is no number: {timestamp[:64]!r}")
    timeout = _seconds(_TIMEOUT_HEADER, found[_TIMEOUT_HEADER]) if _TIMEOUT_HEADER in found else None
    retries = _count(_RETRIES_HEADER, found[_RETRIES_HEADER]) if _RETRIES_HEADER in found else None
    backoff = _seconds(_BACKOFF_HEADER, found[_BACKOFF_HEADER]) if _BACKOFF_HEADER in found else None
    return Envelope(job_id.decode("ascii"), int(timestamp), timeout, retries, backoff)


def rounds_of(headers: Iterable[tuple[str, bytes | None]]) -> int:
    """How often a job was put back after it had died; 0 where the header does not tell."""
    told = next((value for name, value in headers if name == _ROUNDS_HEADER), None)
    return int(told) if told and _DIGITS(told) else 0


def put_back(headers: Iterable[tuple[str, bytes | None]], timestamp: int | None = None) -> list[tuple[str, bytes]]:
    """The headers of a job that is put back: a round more, and with a timestamp (in milliseconds) without signature, to be signed anew.

    Headers without any of embedkq's stay as they are: a round would not make a job of them. kafka-python sends no header without a value:
    it becomes an empty one.
    """
    told = [(name, value or b"") for name, value in headers]
    if not has_ours(told):
        return told
    rounds = b"%d" % (rounds_of(told) + 1)
    replaced: dict[str, bytes] = {}
    if timestamp is not None:
        told = [(name, value) for name, value in told if name != _SIGNATURE_HEADER]
        replaced[_TIMESTAMP_HEADER] = b"%d" % timestamp
    kept = [(name, replaced.get(name, value)) for name, value in told if name != _ROUNDS_HEADER]
    return [*kept, (_ROUNDS_HEADER, rounds)]


def _own(pairs: Sequence[tuple[str, bytes | None]]) -> dict[str, bytes | None]:
    """Those of embedkq by name, where there are others too, or something is wrong with them."""
    found: dict[str, bytes | None] = {}
    for name, value in pairs:
        if name in found or (name not in _KNOWN_HEADERS and name.startswith(_PREFIX)):
            raise DecodeError(f"header {name!r} is {'doubled' if name in found else 'unknown to this version of embedkq'}")
        if name in _KNOWN_HEADERS:
            found[name] = value
    return found


def has_ours(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """Whether any of the headers is one of embedkq's, whatever it says."""
    return any(name.startswith(_PREFIX) for name, _ in headers)


@lru_cache(maxsize=256)
def _seconds(name: str, told: bytes | None) -> float:
    text = told or b""  # Kafka has headers without a value, too
    try:
        seconds = float(text) if _DECIMAL(text) else None
    except ValueError:
        seconds = None
    if seconds is None:
        raise DecodeError(f"header {name!r} is no number: {text[:64]!r}")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise DecodeError(f"header {name!r} is {text!r}: it must be a number of seconds above 0")
    return seconds


def _count(name: str, told: bytes | None) -> int:
    if not told or not _DIGITS(told):
        raise DecodeError(f"header {name!r} is no number: {(told or b'')[:64]!r}")
    return int(told)
