"""What a dead letter looks like: a record that could not be run, with headers behind its own that
say why and where it is from. Pure.

The letter's headers are always the last ones and always in one order. So a record that brings
headers of such names with it (somebody put a dead letter back as it was) is read and stripped like
any other: what it brought belongs to the record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from embedkq.errors import DecodeError

REASONS = ("malformed", "refused", "undecodable", "failure", "timeout", "crashes")
"""Why a record is dead: no job of embedkq, one that may not run, one that cannot be unpickled; how
its last run ended; the hosts it took down."""

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
_GROUP = "dead-letter-group"
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
    """A record as it is written to the dead-letter topic.

    Attributes:
        key, value: as in the topic; None for none.
        headers: in their order.
    """

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]

    @property
    def size(self) -> int:
        """Bytes that it takes, never told too small."""
        told = sum(
            len(name.encode()) + len(value or b"") + _HEADER_OVERHEAD_BYTES
            for name, value in self.headers
        )
        return len(self.key or b"") + len(self.value or b"") + told


class DeadLetter(NamedTuple):
    """What the headers of a dead letter say.

    Attributes:
        topic, partition, offset: where the record is from.
        reason: one of `REASONS`.
        exception: "type: message"; empty where there is none, as for a timeout.
        traceback: formatted; empty where there is none, cut at its beginning where it was too long.
        attempts: how often the job was begun.
        host: name of the machine whose worker has written it.
        time: when, in Unix milliseconds.
        pointer: whether the letter was too large for its topic, so that the payload is only where
            the record is from.
        group: consumer group whose worker has written it; empty where an older version has.
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


def bury(record: Record, letter: DeadLetter) -> Record:
    """The record as a dead letter: key, value and headers as they were, and behind them what the
    letter says."""
    told: tuple[str | int, ...] = (
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
    headers = [(name, _encoded(text)) for name, text in zip(_NAMES, told, strict=True)]
    if letter.pointer:
        headers.append((_POINTER, b"1"))
    return Record(
        record.key, record.value, [*record.headers, (_GROUP, _encoded(letter.group)), *headers]
    )


def forms_of(record: Record, letter: DeadLetter) -> Iterator[Record]:
    """The dead letter in ever smaller forms, for a topic that does not take the whole.

    First whole; then with little of the traceback; then without value, as a pointer; at last with
    nothing of the record at all, which still says where it is.
    """
    yield bury(record, letter)
    letter = letter._replace(
        traceback=_cut_head(letter.traceback, _SHORT), exception=_cut(letter.exception, _SHORT)
    )
    yield bury(record, letter)
    letter = letter._replace(pointer=True)
    yield bury(record._replace(value=b""), letter)
    yield bury(Record(None, b"", ()), letter)


def read(headers: Sequence[tuple[str, bytes | None]]) -> DeadLetter:
    """What the headers of a dead letter say.

    Raises:
        DecodeError: these are not the headers of a dead letter; the message says what is wrong.
    """
    start = _start(headers)
    own = headers[start:]
    values = [value or b"" for _, value in own]
    for index in (1, 2, 6, 8):
        if not _DECIMAL(values[index]):
            raise DecodeError(f"header {_NAMES[index]!r} is no number: {values[index][:64]!r}")
    texts = [value.decode("utf-8", "replace") for value in values]
    topic, _, _, reason, exception, traceback, _, host, _ = texts[: len(_NAMES)]
    if reason not in REASONS:
        raise DecodeError(
            f"header {_NAMES[3]!r} is {reason[:64]!r}: it is one of {', '.join(REASONS)}"
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
    """The record's own headers, as they were before it died.

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
            f"this is no dead letter: its headers do not end with {_NAMES[0]} ... {_NAMES[-1]}"
        )
    return start


def _has_group(headers: Sequence[tuple[str, bytes | None]], start: int) -> bool:
    return start > 0 and headers[start - 1][0] == _GROUP


def _encoded(value: str | int) -> bytes:
    return str(value).encode("utf-8", "backslashreplace")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - len(_CUT)] + _CUT.rstrip()


def _cut_head(text: str, most: int) -> str:
    """The end of a traceback: there the error is."""
    return text if len(text) <= most else _CUT + text[len(_CUT) - most :]
