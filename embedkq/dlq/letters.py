"""Letter: a record of a dead-letter topic, and what can be told of it without unpickling anything.
Pure; any thread."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from embedkq._formats import allowlist, dead_letter, headers, kq_record
from embedkq._formats.dead_letter import DeadLetter, Record
from embedkq.errors import DecodeError

_NAME_BYTES = 4096
"""The name of a call's function is at the beginning of its payload; more is not looked at, whatever
it holds."""


class Letter(NamedTuple):
    """One record of a dead-letter topic.

    Attributes:
        partition, offset: where it is there; by that it is named.
        written: Unix milliseconds, as Kafka tells.
        original: the record as it was before it died; all of this record where it is no dead
            letter.
        size: bytes of key, value and headers.
        function: dotted name of the function called; None where it is not told by name.
        dead: what its headers say; None where it is no dead letter.
        problem: why it is none; empty where it is one.
        dealt: whether it was retried or dropped before.
    """

    partition: int
    offset: int
    written: int
    original: Record
    size: int
    function: str | None
    dead: DeadLetter | None
    problem: str
    dealt: bool

    @property
    def name(self) -> str:
        """As users name it: "partition:offset"."""
        return f"{self.partition}:{self.offset}"

    @property
    def time(self) -> int:
        """When it died, in Unix milliseconds."""
        return self.dead.time if self.dead else self.written

    @property
    def job_id(self) -> str | None:
        """The job's id; None where the record's headers do not tell."""
        try:
            return headers.read_headers(self.original.headers).id
        except DecodeError:
            return None

    @property
    def rounds(self) -> int:
        """How often it was put back before."""
        return headers.rounds_of(self.original.headers)

    @property
    def is_signed(self) -> bool:
        """Whether the record was signed, be it well or not."""
        return headers.is_signed(self.original.headers)

    def brief(self) -> Letter:
        """The same without what is large: value and traceback."""
        dead = self.dead and self.dead._replace(traceback="")
        return self._replace(original=self.original._replace(value=None), dead=dead)

    def as_dict(self) -> dict[str, Any]:
        """What a list shows, in strings, numbers and dicts."""
        dead = self.dead
        return {
            "letter": self.name,
            "open": not self.dealt,
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
        """All that is known of it. Bytes that are no UTF-8 are shown as escapes."""
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
    """Which letters are meant; each of these that is given has to fit.

    Attributes:
        reasons: one of these; empty for any.
        topic: the topic that it is from; None for any.
        function: pattern such as "my_app.*" of the function's name; None for any.
        group: the consumer group whose worker has written it; None for any.
    """

    reasons: Sequence[str] = ()
    topic: str | None = None
    function: str | None = None
    group: str | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing is asked for, so that it takes also what is no dead letter."""
        return (
            not self.reasons and self.topic is None and self.function is None and self.group is None
        )

    def takes(self, letter: Letter) -> bool:
        """Whether a letter is meant."""
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


def letter_of(record: Any, dealt: bool) -> Letter:
    """What a record of a dead-letter topic is, as kafka-python gives it."""
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
    head = (record.value or b"")[:_NAME_BYTES]
    function = (
        kq_record.function_of(head) if kq_record.is_job(head) else allowlist.function_of(head)
    )
    return Letter(
        record.partition, record.offset, record.timestamp, own, size, function, dead, problem, dealt
    )


def as_text(value: bytes) -> str:
    """Bytes for a reader: UTF-8, and escapes where they are none."""
    return value.decode("utf-8", "backslashreplace")
