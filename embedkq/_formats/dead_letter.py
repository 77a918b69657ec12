"""The format of a dead letter: the record that failed, followed by headers with the reason and its
origin. Pure.

The letter's headers are always the last ones, and always in the same order. So a record that
already has such headers (somebody copied a dead letter back) is read and stripped like any other:
its earlier headers belong to the record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from embedkq._partition import Partition
from embedkq.errors import DecodeError

REASONS = ("malformed", "refused", "undecodable", "failure", "timeout", "crashes")
"""Why a record is dead: it is not a job, it was refused, it cannot be unpickled; how its last run
ended; it crashed hosts."""

_PREFIX = "embedkq-dead-"
_NAMES = tuple(
    _PREFIX + name
    for name in (
        "topic",
        "partition",
        "offset",
        "reason",
        "exception",
        "traceback",
        "attempts",
        "host",
        "time",
    )
)
_POINTER = _PREFIX + "pointer"
GROUP = "dead-letter-group"
"""It precedes the other headers and does not begin with "embedkq-": an earlier version takes it for
one of the record's own, and refuses a record with a header of embedkq that it does not know."""
_LONGEST_TRACEBACK = 64 * 1024
_LONGEST_EXCEPTION = 4 * 1024
_SHORT = 1024
_CUT = "[...]\n"
_HEADER_OVERHEAD_BYTES = 10
_DECIMAL = re.compile(rb"[0-9]{1,19}").fullmatch

Headers = list[tuple[str, bytes]]


class Record(NamedTuple):
    """A record of the dead-letter topic.

    Attributes:
        key, value: as in the topic, or None.
        headers: in order.
    """

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]

    @property
    def size(self) -> int:
        """An upper bound of the record's size in bytes."""
        header_bytes = sum(
            len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD_BYTES
            for name, value in self.headers
        )
        return len(self.key or b"") + len(self.value or b"") + header_bytes


class DeadLetter(NamedTuple):
    """The content of a dead letter's headers.

    Attributes:
        topic, partition, offset: the record's origin.
        reason: one of `REASONS`.
        exception: "type: message"; empty without an exception, for example after a timeout.
        traceback: formatted traceback, or empty. A long one is cut at its beginning.
        attempts: how often the job was started.
        host: name of the machine that wrote the letter.
        time: when it was written, in Unix milliseconds.
        pointer: whether the letter was too large for its topic, so that the payload is only at the
            origin.
        group: consumer group of the worker that wrote it; empty if an older version wrote it.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    exception: str = ""
    traceback: str = ""
    attempts: int = 0
    host: str = ""
    time: int = 0
    pointer: bool = False
    group: str = ""

    @property
    def origin(self) -> Partition:
        """The record's partition."""
        return Partition(self.topic, self.partition)


def as_dead_letter(record: Record, letter: DeadLetter) -> Record:
    """Make a dead letter: the record's key, value and headers, followed by the letter's headers."""
    values: tuple[str | int, ...] = (
        letter.topic,
        letter.partition,
        letter.offset,
        letter.reason,
        _cut(letter.exception, _LONGEST_EXCEPTION),
        _cut_head(letter.traceback, _LONGEST_TRACEBACK),
        letter.attempts,
        letter.host,
        letter.time,
    )
    headers = [(name, _encoded(text)) for name, text in zip(_NAMES, values, strict=True)]
    if letter.pointer:
        headers.append((_POINTER, b"1"))
    return Record(
        record.key, record.value, [*record.headers, (GROUP, _encoded(letter.group)), *headers]
    )


def shrinking_forms(record: Record, letter: DeadLetter) -> Iterator[Record]:
    """Yield the dead letter in ever smaller forms, for a topic that does not accept the whole
    letter.

    The forms are: the whole letter; with a short traceback; a pointer without value; and a pointer
    without anything of the record.
    """
    yield as_dead_letter(record, letter)
    letter = letter._replace(
        traceback=_cut_head(letter.traceback, _SHORT), exception=_cut(letter.exception, _SHORT)
    )
    yield as_dead_letter(record, letter)
    letter = letter._replace(pointer=True)
    yield as_dead_letter(record._replace(value=b""), letter)
    yield as_dead_letter(Record(None, b"", ()), letter)


def read(headers: Sequence[tuple[str, bytes | None]]) -> DeadLetter:
    """Read the headers of a dead letter.

    Raises:
        DecodeError: these are not the headers of a dead letter; the message says why.
    """
    start = _start(headers)
    own = headers[start:]
    values = [value or b"" for _, value in own]
    for index in (1, 2, 6, 8):
        if not _DECIMAL(values[index]):
            raise DecodeError(f"header {_NAMES[index]!r} is not a number: {values[index][:64]!r}")
    texts = [value.decode("utf-8", "replace") for value in values]
    topic, _, _, reason, exception, traceback, _, host, _ = texts[: len(_NAMES)]
    if reason not in REASONS:
        raise DecodeError(
            f"header {_NAMES[3]!r} is {reason[:64]!r}, not one of {', '.join(REASONS)}"
        )
    partition, offset, attempts, time = (int(values[index]) for index in (1, 2, 6, 8))
    group = (
        (headers[start - 1][1] or b"").decode("utf-8", "replace")
        if _has_group(headers, start)
        else ""
    )
    return DeadLetter(
        topic,
        partition,
        offset,
        reason,
        exception,
        traceback,
        attempts,
        host,
        time,
        len(own) > len(_NAMES),
        group,
    )


def is_dead_letter(headers: Sequence[tuple[str, bytes | None]]) -> bool:
    """Whether a record with these headers is a dead letter."""
    try:
        _start(headers)
    except DecodeError:
        return False
    return True


def strip(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """The record's own headers, without those of the dead letter.

    Raises:
        DecodeError: these are not the headers of a dead letter.
    """
    start = _start(headers)
    return list(headers[: start - _has_group(headers, start)])


def _start(headers: Sequence[tuple[str, bytes | None]]) -> int:
    """Index of the letter's first header."""
    end = len(headers)
    if end and headers[-1][0] == _POINTER:
        end -= 1
    start = end - len(_NAMES)
    if start < 0 or tuple(name for name, _ in headers[start:end]) != _NAMES:
        raise DecodeError(
            f"this is not a dead letter: its headers do not end with {_NAMES[0]} ... {_NAMES[-1]}"
        )
    return start


def _has_group(headers: Sequence[tuple[str, bytes | None]], start: int) -> bool:
    return start > 0 and headers[start - 1][0] == GROUP


def _encoded(value: str | int) -> bytes:
    return str(value).encode("utf-8", "backslashreplace")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - len(_CUT)] + _CUT.rstrip()


def _cut_head(text: str, most: int) -> str:
    """The end of a traceback, which has the error."""
    return text if len(text) <= most else _CUT + text[len(_CUT) - most :]
