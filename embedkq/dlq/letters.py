"""Describes records of a dead-letter topic, without unpickling anything. Pure; any thread."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from embedkq._formats import allowlist, dead_letter, headers, json_job, kq_record
from embedkq._formats.dead_letter import DeadLetter, Record
from embedkq._partition import Partition
from embedkq.errors import DecodeError

_NAME_BYTES = 4096
"""Bytes at the beginning of a payload that are searched for the function's name."""


class Letter(NamedTuple):
    """One record of a dead-letter topic.

    Attributes:
        partition, offset: its place in that topic, which also names it.
        written: the record's timestamp in Kafka, in Unix milliseconds.
        original: the record without the headers that make it a dead letter; the whole record if it
            is not a dead letter.
        size: bytes of key, value and headers.
        function: dotted name of the called function; None if it does not travel by name.
        dead: the content of its headers; None if it is not a dead letter.
        problem: why it is not a dead letter; empty if it is one.
        resolved: whether it was retried or dropped.
    """

    partition: Partition
    offset: int
    written: int
    original: Record
    size: int
    function: str | None
    dead: DeadLetter | None
    problem: str
    resolved: bool

    @property
    def name(self) -> str:
        """The name for users: "partition:offset"."""
        return f"{self.partition.number}:{self.offset}"

    @property
    def time(self) -> int:
        """When the letter was written, in Unix milliseconds."""
        return self.dead.time if self.dead else self.written

    @property
    def job_id(self) -> str | None:
        """The job's id; None if the record's headers do not have it."""
        try:
            return headers.read_headers(self.original.headers).id or None
        except DecodeError:
            return None

    @property
    def rounds(self) -> int:
        """How often it was retried before."""
        return headers.read_rounds(self.original.headers)

    @property
    def is_signed(self) -> bool:
        """Whether the record has a signature, valid or not."""
        return headers.is_signed(self.original.headers)

    def brief(self) -> Letter:
        """The same letter without value and traceback."""
        dead = self.dead and self.dead._replace(traceback="")
        return self._replace(original=self.original._replace(value=None), dead=dead)

    def as_dict(self) -> dict[str, Any]:
        """The fields that a list shows, ready for JSON."""
        dead = self.dead
        return {
            "letter": self.name,
            "open": not self.resolved,
            "job": self.job_id,
            "function": self.function,
            "topic": dead and dead.topic,
            "partition": dead and dead.partition,
            "offset": dead and dead.offset,
            "reason": dead and dead.reason,
            "exception": dead and dead.exception,
            "attempts": dead and dead.attempts,
            "rounds": self.rounds,
            "host": dead and dead.host,
            "group": (dead and dead.group) or None,
            "time": self.time,
            "size": self.size,
            "signed": self.is_signed,
            "pointer": bool(dead and dead.pointer),
            "problem": self.problem or None,
        }

    def as_full_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON. Bytes that are not UTF-8 become escapes."""
        return {
            **self.as_dict(),
            "key": None if self.original.key is None else as_text(self.original.key),
            "headers": [
                [name, None if value is None else as_text(value)]
                for name, value in self.original.headers
            ],
            "payload_size": None if self.original.value is None else len(self.original.value),
            "traceback": self.dead and self.dead.traceback,
        }


class Selection(NamedTuple):
    """A filter for letters. All given conditions must match.

    Attributes:
        reasons: accepted reasons; empty for any.
        topic: the topic of origin; None for any.
        function: pattern for the function's name, such as "my_app.*"; None for any.
        group: consumer group of the worker that wrote the letter; None for any.
    """

    reasons: Sequence[str] = ()
    topic: str | None = None
    function: str | None = None
    group: str | None = None

    @property
    def is_everything(self) -> bool:
        """Whether there is no condition. Then records that are not dead letters match too."""
        return (
            not self.reasons and self.topic is None and self.function is None and self.group is None
        )

    def takes(self, letter: Letter) -> bool:
        """Whether a letter matches."""
        if self.is_everything:
            return True
        return (
            letter.dead is not None
            and (not self.reasons or letter.dead.reason in self.reasons)
            and (self.topic is None or letter.dead.topic == self.topic)
            and (self.group is None or letter.dead.group == self.group)
            and (
                self.function is None
                or (letter.function is not None and fnmatchcase(letter.function, self.function))
            )
        )


def read_letter(record: Any, resolved: bool) -> Letter:
    """The letter in a record of a dead-letter topic, as the client returns it."""
    whole = Record(record.key, record.value, record.headers)
    dead, problem, own = None, "", whole
    try:
        dead = dead_letter.read(record.headers)
        own = whole._replace(headers=dead_letter.strip(record.headers))
    except DecodeError as error:
        problem = str(error)
    size = (
        len(record.key or b"")
        + len(record.value or b"")
        + sum(len(name) + len(value or b"") for name, value in record.headers)
    )
    return Letter(
        record.partition,
        record.offset,
        record.timestamp,
        own,
        size,
        _function_name(own),
        dead,
        problem,
        resolved,
    )


def _function_name(record: Record) -> str | None:
    """Dotted name of the function that a record calls; None if it does not travel by name."""
    value = record.value or b""
    if headers.is_json(record.headers):
        return json_job.name_in(value)
    head = value[:_NAME_BYTES]
    return (
        kq_record.function_name(head) if kq_record.is_job(head) else allowlist.function_name(head)
    )


def as_text(value: bytes) -> str:
    """Bytes as text. Bytes that are not UTF-8 become escapes."""
    return value.decode("utf-8", "backslashreplace")
